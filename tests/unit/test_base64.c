/* Base64: the RFC's vectors, and refusing everything that encoding would not write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/base64.h"

static const char *const vectors[][2] = {
    {"", ""},
    {"f", "Zg=="},
    {"fo", "Zm8="},
    {"foo", "Zm9v"},
    {"foob", "Zm9vYg=="},
    {"fooba", "Zm9vYmE="},
    {"foobar", "Zm9vYmFy"},
    {"\xFB\xFF\xBF", "+/+/"},
};

static void base64_matches_rfc_4648_both_ways(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        struct buf b;
        buf_init(&b, 100);
        assert_int_equal(base64_encode(&b, vectors[i][0], strlen(vectors[i][0])), 0);
        assert_string_equal(buf_str(&b), vectors[i][1]);
        buf_clear(&b);
        assert_int_equal(base64_decode(&b, vectors[i][1], strlen(vectors[i][1])), 0);
        assert_string_equal(buf_str(&b), vectors[i][0]);
        buf_free(&b);
    }
}

static void base64_round_trips_every_length_and_byte(void **state)
{
    (void)state;
    unsigned char in[2000];
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (unsigned char)(i * 131 + i / 256);
    struct buf text, back;
    buf_init(&text, 1 << 16);
    buf_init(&back, 1 << 16);
    for (size_t n = 0; n <= sizeof in; n++) {
        buf_clear(&text);
        buf_clear(&back);
        assert_int_equal(base64_encode(&text, in, n), 0);
        assert_int_equal(text.len, (n + 2) / 3 * 4);
        assert_int_equal(base64_decode(&back, buf_str(&text), text.len), 0);
        assert_int_equal(back.len, n);
        assert_memory_equal(buf_str(&back), in, n);
    }
    buf_free(&text);
    buf_free(&back);
}

static void base64_decode_refuses_all_but_the_canonical_form(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "Z",        "Zg",   "Zg=",     "Zm9",      "=",    "====",   "Z===",
        "Zg==Zg==", "Zg=v", "Zm9v=",   "Zm9v====", "Zm 9", "Zm9v\n", " Zm9",
        "Zm9-",     "Zm_v", "Zm9\x80", "Zh==",     "Zm9=", "Z=9v",   "=m9v",
    };
    struct buf b;
    buf_init(&b, 100);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        buf_clear(&b);
        buf_adds(&b, "kept");
        assert_int_equal(base64_decode(&b, bad[i], strlen(bad[i])), ERR_INVALID);
        assert_string_equal(buf_str(&b), "kept");
    }
    assert_int_equal(base64_decode(&b, "Zm\0v", 4), ERR_INVALID);
    buf_free(&b);
}

static void base64_leaves_a_buffer_that_is_too_small_as_it_was(void **state)
{
    (void)state;
    static char in[4000];
    static char text[4000];
    memset(text, 'A', sizeof text);
    struct buf b;
    buf_init(&b, 2500);
    buf_adds(&b, "kept");
    assert_int_equal(base64_encode(&b, in, sizeof in), ERR_TOOBIG);
    assert_true(b.failed);
    assert_string_equal(buf_str(&b), "kept");
    buf_clear(&b);
    buf_adds(&b, "kept");
    assert_int_equal(base64_decode(&b, text, sizeof text), ERR_TOOBIG);
    assert_true(b.failed);
    assert_string_equal(buf_str(&b), "kept");
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(base64_matches_rfc_4648_both_ways),
        cmocka_unit_test(base64_round_trips_every_length_and_byte),
        cmocka_unit_test(base64_decode_refuses_all_but_the_canonical_form),
        cmocka_unit_test(base64_leaves_a_buffer_that_is_too_small_as_it_was),
    };
    return cmocka_run_group_tests_name("base/base64", tests, NULL, NULL);
}
