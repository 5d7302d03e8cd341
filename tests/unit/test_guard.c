/* The guard: framing, targets, keys, origins, request ids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "server/guard.h"

/* Headers of an ordinary POST. */
static struct guard_headers ordinary(void)
{
    return (struct guard_headers){
        .n = 2, .n_host = 1, .host = "localhost", .n_content_length = 1, .content_length = 12};
}

static void guard_lets_ordinary_framing_pass(void **state)
{
    (void)state;
    struct err e = {0};
    struct guard_headers g = ordinary();
    assert_int_equal(guard_framing(&g, &e), 0);
    g.n_content_length = 0;
    g.content_length = -1;
    assert_int_equal(guard_framing(&g, &e), 0);
    g.n_transfer_encoding = 1;
    assert_int_equal(guard_framing(&g, &e), 0);
    g = (struct guard_headers){.content_length = -1}; /* HTTP/1.0 has no Host */
    assert_int_equal(guard_framing(&g, &e), 0);
    assert_int_equal(e.code, 0);
}

static void refused(const struct guard_headers *g, const char *part)
{
    struct err e = {0};
    assert_int_equal(guard_framing(g, &e), ERR_INVALID);
    if (strstr(e.msg, part) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", part, e.msg);
    assert_int_equal(guard_framing(g, NULL), ERR_INVALID);
}

static void guard_refuses_what_could_be_smuggled(void **state)
{
    (void)state;
    struct guard_headers g = ordinary();
    g.n_host = 2;
    refused(&g, "more than one Host");
    g = ordinary();
    g.n_content_length = 2;
    refused(&g, "more than once");
    g = ordinary();
    g.n_transfer_encoding = 1; /* Content-Length as well */
    refused(&g, "more than once");
    g = ordinary();
    g.n_content_length = 0;
    g.n_transfer_encoding = 2;
    refused(&g, "more than once");
    g.n_transfer_encoding = 1;
    g.bad_transfer_encoding = true; /* "gzip, chunked", "xchunked" */
    refused(&g, "only be chunked");
    g = ordinary();
    g.bad_name = true; /* "Content-Length : 5" */
    refused(&g, "header name");
    g = ordinary();
    g.bad_value = true;
    refused(&g, "header value");
}

static void guard_checks_the_raw_target(void **state)
{
    (void)state;
    static const char *const good[] = {
        "/", "/v1/models", "/v1/models/a%20b", "/x?y=%2f", "*", "/caf\xc3\xa9", "/a%0", "/a%"};
    static const char *const bad[] = {"/a b",   "/a\tb",  "/a\rb", "/a\nb",
                                      "/a\x7f", "/a%00b", "/%00"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(guard_target(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(guard_target(bad[i]));
}

static int bearer(const char *authorization, const char *const *keys, int n)
{
    struct guard_headers g = {.authorization = authorization};
    return guard_key(&g, keys, n);
}

static void guard_takes_any_of_the_keys(void **state)
{
    (void)state;
    static const char *const keys[] = {"alpha", "beta-key", "gamma"};
    assert_int_equal(bearer("Bearer alpha", keys, 3), 0);
    assert_int_equal(bearer("Bearer gamma", keys, 3), 2);
    assert_int_equal(bearer("bearer beta-key", keys, 3), 1);
    struct guard_headers g = {.api_key = "beta-key"};
    assert_int_equal(guard_key(&g, keys, 3), 1);
    assert_int_equal(guard_key(&g, keys, 1), -1);
    g.api_key = "wrong";
    g.authorization = "Bearer alpha"; /* the official way wins */
    assert_int_equal(guard_key(&g, keys, 3), 0);
    assert_int_equal(bearer("Bearer alpha", keys, 0), -1);
}

static void guard_takes_nothing_like_a_key(void **state)
{
    (void)state;
    static const char *const keys[] = {"alpha", "aa"};
    static const char *const wrong[] = {
        "Bearer ",       "Bearer al",    "Bearer alphaa", "Bearer Alpha",  "Bearer  alpha",
        "Bearer alpha ", "alpha",        "Basic alpha",   "Bearer",        "",
        "Bearer a",      "Bearer aaaa",  "Bearer aaa",    "Bearer\talpha", "Bearer alphaalpha",
        "Bearer aa,a",   "Bearer alpha,"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (bearer(wrong[i], keys, 2) >= 0)
            fail_msg("\"%s\" was taken for a key", wrong[i]);
    struct guard_headers none = {0};
    assert_int_equal(guard_key(&none, keys, 2), -1);
    none.api_key = "";
    assert_int_equal(guard_key(&none, keys, 2), -1);
}

static void guard_compares_origins_whole(void **state)
{
    (void)state;
    static const char list[] = "https://a.example, http://localhost:3000,null";
    assert_true(guard_origin("https://a.example", list));
    assert_true(guard_origin("http://localhost:3000", list));
    assert_true(guard_origin("null", list));
    assert_false(guard_origin("http://a.example", list));
    assert_false(guard_origin("https://a.example.evil", list));
    assert_false(guard_origin("https://a.exampl", list));
    assert_false(guard_origin("http://localhost:300", list));
    assert_false(guard_origin("a.example", list));
    assert_false(guard_origin("", list));
    assert_false(guard_origin("https://a.example", ""));
    assert_false(guard_origin("", ""));
    assert_true(guard_origin("https://anything.example", "*"));
    assert_true(guard_origin("https://anything.example", "https://a.example, *"));
    assert_false(guard_origin("https://b.example", "https://*"));
}

static void guard_keeps_a_sane_request_id(void **state)
{
    (void)state;
    char out[GUARD_ID_BYTES], longest[GUARD_ID_BYTES];
    struct guard_headers g = {.request_id = "chat-42_a.b:c"};
    guard_request_id(&g, out);
    assert_string_equal(out, "chat-42_a.b:c");
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    g.request_id = longest;
    guard_request_id(&g, out);
    assert_string_equal(out, longest);
}

static void guard_makes_a_request_id_of_its_own(void **state)
{
    (void)state;
    char out[GUARD_ID_BYTES], before[GUARD_ID_BYTES] = "", too_long[GUARD_ID_BYTES + 1];
    memset(too_long, 'x', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = '\0';
    const char *const bad[] = {NULL, "", "a b", "a\r\nset-cookie: x", "a\"b", "\xc3\xa9", too_long};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct guard_headers g = {.request_id = bad[i]};
        guard_request_id(&g, out);
        assert_int_equal(strlen(out), 4 + 32);
        assert_memory_equal(out, "req-", 4);
        assert_int_equal(strspn(out + 4, "0123456789abcdef"), 32);
        assert_string_not_equal(out, before);
        memcpy(before, out, sizeof before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guard_lets_ordinary_framing_pass),
        cmocka_unit_test(guard_refuses_what_could_be_smuggled),
        cmocka_unit_test(guard_checks_the_raw_target),
        cmocka_unit_test(guard_takes_any_of_the_keys),
        cmocka_unit_test(guard_takes_nothing_like_a_key),
        cmocka_unit_test(guard_compares_origins_whole),
        cmocka_unit_test(guard_keeps_a_sane_request_id),
        cmocka_unit_test(guard_makes_a_request_id_of_its_own),
    };
    return cmocka_run_group_tests_name("server/guard", tests, NULL, NULL);
}
