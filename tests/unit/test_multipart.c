/* Forms: what clients send, and what only an attacker does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/multipart.h"

#define TYPE "multipart/form-data; boundary=XX"

static const struct multipart_limits limits = {100, 1000};
static struct multipart form;
static struct err e;

/* From memory of exactly that size, so that a sanitizer sees a read beyond it. */
static int parse_n(const char *type, const char *body, size_t n)
{
    char *copy = malloc(n + (n == 0));
    memcpy(copy, body, n);
    memset(&e, 0, sizeof e);
    int rc = multipart_parse(&form, type, copy, n, &limits, &e);
    for (int i = 0; rc == 0 && i < form.n; i++) {
        assert_true(form.parts[i].data >= copy &&
                    form.parts[i].data + form.parts[i].len <= copy + n);
        form.parts[i].data = body + (form.parts[i].data - copy);
    }
    free(copy);
    return rc;
}

static int parse(const char *body)
{
    return parse_n(TYPE, body, strlen(body));
}

static void part_is(int i, const char *name, bool is_file, const char *data)
{
    assert_string_equal(form.parts[i].name, name);
    assert_int_equal(form.parts[i].is_file, is_file);
    assert_int_equal(form.parts[i].len, strlen(data));
    assert_memory_equal(form.parts[i].data, data, strlen(data));
}

static void fields_and_files_are_found(void **state)
{
    (void)state;
    assert_int_equal(
        parse("--XX\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na cat\r\n"
              "--XX\r\ncontent-type: image/png\r\nCONTENT-DISPOSITION:form-data; "
              "name=\"image[]\"; filename=\"c:\\new.png\"\r\n\r\nPNG\r\n--X\r\n\r\n"
              "--XX\r\nContent-Disposition: form-data; name=n\r\n\r\n\r\n--XX--\r\n"),
        0);
    assert_int_equal(form.n, 3);
    part_is(0, "prompt", false, "a cat");
    part_is(1, "image[]", true, "PNG\r\n--X\r\n");
    part_is(2, "n", false, "");
}

static void a_preamble_and_an_epilogue_are_passed_over(void **state)
{
    (void)state;
    assert_int_equal(parse("hello\r\n--XX \t\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1"
                           "\r\n--XX-- and more\r\n--XX\r\n"),
                     0);
    assert_int_equal(form.n, 1);
    assert_int_equal(parse("--XX--"), 0);
    assert_int_equal(form.n, 0);
}

static void an_empty_part_may_share_its_line_end(void **state)
{
    (void)state;
    assert_int_equal(parse("--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n--XX--"), 0);
    part_is(0, "a", false, "");
}

static void names_are_unquoted(void **state)
{
    (void)state;
    assert_int_equal(parse("--XX\r\nContent-Disposition: form-data; x; name=\"a\\\"b;c\\\\\" ; "
                           "filename*=UTF-8''x\r\n\r\n1\r\n--XX--"),
                     0);
    part_is(0, "a\"b;c\\", true, "1");
    assert_int_equal(parse_n("Multipart/Form-Data; charset=x; boundary=\"a b\"", "--a b--", 7),
                     ERR_INVALID);
    assert_int_equal(parse_n("multipart/form-data; charset=x; boundary=\"a:b\"", "--a:b--", 7), 0);
}

static void what_is_no_form_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "--XX",
        "--XX\r\n",
        "--XXX\r\n",
        "--XX\r\n\r\nno disposition\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1",
        "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--XX",
        "--XX\r\nContent-Disposition: form-data; name=\"a\r\n\r\n1\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data; name=\"\"\r\n\r\n1\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data; name=\"\xc3\xa4\"\r\n\r\n1\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data; name=\"a\"; name=\"b\"\r\n\r\n1\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data; name=\"a\"b\r\n\r\n1\r\n--XX--",
        "--XX\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\n1\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data\r\n\r\n1\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; "
        "name=\"b\"\r\n\r\n1\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\n1\r\n--XX--",
        "--XX\nContent-Disposition: form-data; name=\"a\"\n\n1\n--XX--",
        "--XX\r\nno header\r\n\r\n1\r\n--XX--",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (parse(bad[i]) != ERR_INVALID)
            fail_msg("accepted: %s", bad[i]);
        assert_true(strlen(e.msg) > 10);
    }
    static const char *const types[] = {"",
                                        "multipart/form-data",
                                        "multipart/form-data; boundary=",
                                        "application/json; boundary=XX",
                                        "multipart/form-data; boundary=a; boundary=b",
                                        "multipart/form-dataX; boundary=XX"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        assert_int_equal(parse_n(types[i], "--XX--", 6), ERR_INVALID);
    assert_int_equal(multipart_parse(&form, NULL, "", 0, &limits, &e), ERR_INVALID);
}

static void limits_hold(void **state)
{
    (void)state;
    static char body[200000];
    const char *file = "; filename=\"x\"";
    for (int i = 0; i < 4; i++) {
        int n = (i < 2 ? 100 : 1000) + i % 2;
        snprintf(body, sizeof body,
                 "--XX\r\nContent-Disposition: form-data; name=\"abc\"%s\r\n\r\n%0*d\r\n--XX--",
                 i < 2 ? "" : file, n, 0);
        assert_int_equal(parse(body), i % 2 ? ERR_TOOBIG : 0);
        if (i % 2)
            assert_string_equal(e.param, "abc");
    }
    snprintf(body, sizeof body, "--XX\r\nX: %05000d\r\n\r\n\r\n--XX--", 0);
    assert_int_equal(parse(body), ERR_TOOBIG);
    size_t n = 0;
    for (int i = 0; i <= MULTIPART_PARTS_MAX; i++)
        n += (size_t)snprintf(body + n, sizeof body - n,
                              "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n");
    snprintf(body + n, sizeof body - n, "--XX--");
    assert_int_equal(parse(body), ERR_TOOBIG);
    assert_int_equal(parse(strchr(body + 1, '-') != NULL ? strstr(body + 4, "--XX") : body), 0);
    assert_int_equal(form.n, MULTIPART_PARTS_MAX);
}

static void a_form_that_is_cut_off_anywhere_is_refused(void **state)
{
    (void)state;
    static const char body[] = "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n"
                               "--XX\r\nContent-Disposition: form-data; name=\"b\"; "
                               "filename=\"c\"\r\nContent-Type: image/png\r\n\r\n2\r\n--XX--";
    for (size_t n = 0; n < sizeof body - 1; n++)
        assert_int_equal(parse_n(TYPE, body, n), ERR_INVALID);
    assert_int_equal(parse_n(TYPE, body, sizeof body - 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_and_files_are_found),
        cmocka_unit_test(a_preamble_and_an_epilogue_are_passed_over),
        cmocka_unit_test(an_empty_part_may_share_its_line_end),
        cmocka_unit_test(names_are_unquoted),
        cmocka_unit_test(what_is_no_form_is_refused),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(a_form_that_is_cut_off_anywhere_is_refused),
    };
    return cmocka_run_group_tests_name("api/multipart", tests, NULL, NULL);
}
