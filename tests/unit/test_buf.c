/* Growing buffers: the limit, and what failing leaves behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/buf.h"

static void buf_is_empty_and_safe_before_anything_was_added(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 10);
    assert_string_equal(buf_str(&b), "");
    buf_drop(&b, 3);
    buf_clear(&b);
    assert_int_equal(buf_add(&b, NULL, 0), 0);
    assert_string_equal(b.data, "");
    buf_free(&b);
}

static void buf_appends_in_every_form(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    assert_int_equal(buf_adds(&b, "ab"), 0);
    assert_int_equal(buf_addc(&b, 'c'), 0);
    assert_int_equal(buf_add(&b, "\0d", 2), 0);
    assert_int_equal(buf_printf(&b, "%d-%s", 42, "x"), 0);
    assert_int_equal(b.len, 9);
    assert_memory_equal(b.data, "abc\0d42-x", 10);
    buf_free(&b);
    assert_null(b.data);
}

static void buf_takes_exactly_its_maximum(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(buf_addc(&b, 'x'), 0);
    assert_int_equal(b.len, 100);
    assert_int_equal(strlen(b.data), 100);
    assert_int_equal(buf_addc(&b, 'y'), ERR_TOOBIG);
    assert_true(b.failed);
    assert_int_equal(b.len, 100);
    buf_free(&b);
}

static void buf_stays_as_it_was_once_failed(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 8);
    buf_adds(&b, "abc");
    assert_int_equal(buf_adds(&b, "123456"), ERR_TOOBIG);
    assert_int_equal(buf_addc(&b, 'd'), ERR_TOOBIG); /* would fit, but leave a hole */
    assert_int_equal(buf_printf(&b, "%d", 1), ERR_TOOBIG);
    assert_string_equal(buf_str(&b), "abc");
    buf_clear(&b);
    assert_int_equal(buf_printf(&b, "%08d", 1), 0);
    assert_string_equal(buf_str(&b), "00000001");
    buf_free(&b);
}

static void buf_with_maximum_zero_takes_nothing(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 0);
    assert_int_equal(buf_add(&b, "", 0), 0);
    assert_int_equal(buf_addc(&b, 'x'), ERR_TOOBIG);
    buf_free(&b);
}

static void buf_refuses_sizes_that_overflow(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, SIZE_MAX);
    buf_adds(&b, "abc");
    size_t huge = SIZE_MAX - 1;
    assert_int_equal(buf_add(&b, "x", huge), ERR_TOOBIG);
    assert_string_equal(buf_str(&b), "abc");
    buf_free(&b);
}

static void buf_drop_removes_from_the_front(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    buf_adds(&b, "hello world");
    buf_drop(&b, 0);
    buf_drop(&b, 6);
    assert_string_equal(buf_str(&b), "world");
    buf_drop(&b, 99);
    assert_int_equal(b.len, 0);
    assert_string_equal(buf_str(&b), "");
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buf_is_empty_and_safe_before_anything_was_added),
        cmocka_unit_test(buf_appends_in_every_form),
        cmocka_unit_test(buf_takes_exactly_its_maximum),
        cmocka_unit_test(buf_stays_as_it_was_once_failed),
        cmocka_unit_test(buf_with_maximum_zero_takes_nothing),
        cmocka_unit_test(buf_refuses_sizes_that_overflow),
        cmocka_unit_test(buf_drop_removes_from_the_front),
    };
    return cmocka_run_group_tests_name("base/buf", tests, NULL, NULL);
}
