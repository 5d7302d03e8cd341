/* Error messages: what ends up in them and what does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/err.h"
#include "base/utf8.h"

static void err_set_fills_everything_and_returns_the_code(void **state)
{
    (void)state;
    struct err e;
    memset(&e, 'x', sizeof e);
    assert_int_equal(err_set(&e, ERR_TOOBIG, "limit is %d", 7), ERR_TOOBIG);
    assert_int_equal(e.code, ERR_TOOBIG);
    assert_string_equal(e.msg, "limit is 7");
    assert_string_equal(e.param, "");
    assert_string_equal(e.reason, "");
}

static void err_functions_accept_null_and_still_fail(void **state)
{
    (void)state;
    assert_int_equal(err_set(NULL, ERR_IO, "x"), ERR_IO);
    assert_int_not_equal(err_wrap(NULL, "x"), 0);
    assert_int_not_equal(err_param(NULL, "x"), 0);
    assert_int_not_equal(err_reason(NULL, "x"), 0);
}

static void err_wrap_puts_context_in_front_and_keeps_the_rest(void **state)
{
    (void)state;
    struct err e = {0};
    err_set(&e, ERR_CORRUPT, "truncated file");
    err_param(&e, "messages[%d].content", 2);
    err_reason(&e, "bad_file");
    assert_int_equal(err_wrap(&e, "loading %s", "unet"), ERR_CORRUPT);
    assert_string_equal(e.msg, "loading unet: truncated file");
    assert_string_equal(e.param, "messages[2].content");
    assert_string_equal(e.reason, "bad_file");
}

static void err_set_may_quote_the_message_it_replaces(void **state)
{
    (void)state;
    struct err e = {0};
    err_set(&e, ERR_IO, "inner");
    err_set(&e, ERR_IO, "outer (%s)", e.msg);
    assert_string_equal(e.msg, "outer (inner)");
}

static void err_messages_stay_on_one_line(void **state)
{
    (void)state;
    struct err e = {0};
    err_set(&e, ERR_INVALID, "a\nb\tc\x7f");
    assert_string_equal(e.msg, "a b c ");
}

static void err_cuts_long_text_at_a_character_border(void **state)
{
    (void)state;
    struct err e = {0};
    char text[1024];
    for (size_t shift = 0; shift < 3; shift++) {
        memset(text, 'a', shift);
        for (size_t i = shift; i + 3 < sizeof text; i += 3)
            memcpy(text + i, "\xE2\x82\xAC", 4);
        err_set(&e, ERR_INVALID, "%s", text);
        assert_true(strlen(e.msg) >= sizeof e.msg - 4);
        assert_true(utf8_valid(e.msg, strlen(e.msg)));
        err_wrap(&e, "%s", text);
        assert_true(strlen(e.msg) >= sizeof e.msg - 4);
        assert_true(utf8_valid(e.msg, strlen(e.msg)));
        err_param(&e, "%s", text);
        assert_true(utf8_valid(e.param, strlen(e.param)));
        err_reason(&e, text);
        assert_true(strlen(e.reason) < sizeof e.reason);
    }
}

static void err_shown_is_printable_and_bounded(void **state)
{
    (void)state;
    char name[ERR_SHOWN + 2];
    memset(name, 'x', sizeof name);
    assert_string_equal(err_shown("a\n\xffz?", 4).text, "a??z");
    assert_string_equal(err_shown(name, 0).text, "");
    name[ERR_SHOWN + 1] = '\0';
    assert_int_equal(strlen(err_shown(name, ERR_SHOWN).text), ERR_SHOWN);
    assert_string_equal(err_shown_str(name).text + ERR_SHOWN - 1, "x...");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_set_fills_everything_and_returns_the_code),
        cmocka_unit_test(err_functions_accept_null_and_still_fail),
        cmocka_unit_test(err_wrap_puts_context_in_front_and_keeps_the_rest),
        cmocka_unit_test(err_set_may_quote_the_message_it_replaces),
        cmocka_unit_test(err_messages_stay_on_one_line),
        cmocka_unit_test(err_cuts_long_text_at_a_character_border),
        cmocka_unit_test(err_shown_is_printable_and_bounded),
    };
    return cmocka_run_group_tests_name("base/err", tests, NULL, NULL);
}
