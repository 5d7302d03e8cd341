/* The string table: growing, duplicates, keys that are not strings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/map.h"

static void map_finds_what_was_put_after_growing(void **state)
{
    (void)state;
    enum { N = 50000 };
    static char keys[N][12];
    struct map m;
    assert_int_equal(map_init(&m, 0), 0);
    for (int i = 0; i < N; i++) {
        int len = snprintf(keys[i], sizeof keys[i], "key%d", i);
        assert_int_equal(map_put(&m, keys[i], (size_t)len, i), 0);
    }
    assert_int_equal(m.n, N);
    for (int i = 0; i < N; i++) {
        char copy[12];
        int64_t v = -1;
        int len = snprintf(copy, sizeof copy, "key%d", i);
        assert_true(map_get(&m, copy, (size_t)len, &v));
        assert_int_equal(v, i);
    }
    int64_t v = 77;
    assert_false(map_get(&m, "key", 3, &v));
    assert_false(map_get(&m, "key50000", 8, &v));
    assert_int_equal(v, 77);
    map_free(&m);
    assert_false(map_get(&m, "key1", 4, &v));
}

static void map_put_refuses_a_key_that_is_there(void **state)
{
    (void)state;
    struct map m;
    int64_t v = 0;
    map_init(&m, 4);
    assert_int_equal(map_put(&m, "a", 1, 1), 0);
    assert_int_equal(map_put(&m, "a", 1, 2), ERR_INVALID);
    assert_int_equal(m.n, 1);
    assert_true(map_get(&m, "a", 1, &v));
    assert_int_equal(v, 1);
    map_free(&m);
}

static void map_keys_may_be_empty_or_contain_nul(void **state)
{
    (void)state;
    struct map m;
    int64_t v = 0;
    map_init(&m, 0);
    assert_int_equal(map_put(&m, NULL, 0, 1), 0);
    assert_int_equal(map_put(&m, "", 0, 2), ERR_INVALID);
    assert_int_equal(map_put(&m, "\0", 1, 3), 0);
    assert_int_equal(map_put(&m, "a\0b", 3, 4), 0);
    assert_int_equal(map_put(&m, "a\0c", 3, 5), 0);
    assert_true(map_get(&m, "", 0, &v) && v == 1);
    assert_true(map_get(&m, "\0", 1, &v) && v == 3);
    assert_true(map_get(&m, "a\0c", 3, &v) && v == 5);
    assert_false(map_get(&m, "a", 1, &v));
    map_free(&m);
}

static void map_does_not_grow_below_what_was_expected(void **state)
{
    (void)state;
    static char keys[1000][8];
    struct map m;
    map_init(&m, 1000);
    size_t cap = m.cap;
    for (int i = 0; i < 1000; i++) {
        int len = snprintf(keys[i], sizeof keys[i], "%d", i);
        assert_int_equal(map_put(&m, keys[i], (size_t)len, i), 0);
    }
    assert_int_equal(m.cap, cap);
    map_free(&m);
}

static void map_tells_keys_apart_by_every_byte(void **state)
{
    (void)state;
    struct map m;
    static char keys[64 * 8][64];
    map_init(&m, 0);
    for (int i = 0; i < 64 * 8; i++) { /* each differs from all zeros in one bit */
        keys[i][i / 8] = (char)(1 << i % 8);
        assert_int_equal(map_put(&m, keys[i], 64, i), 0);
    }
    static const char zeros[64];
    for (size_t len = 0; len < 64; len++)
        assert_int_equal(map_put(&m, zeros, len, 0), 0);
    map_free(&m);
}

static void map_init_refuses_absurd_sizes(void **state)
{
    (void)state;
    struct map m;
    assert_int_equal(map_init(&m, SIZE_MAX), ERR_NOMEM);
    assert_int_equal(map_init(&m, SIZE_MAX / 4), ERR_NOMEM);
    map_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_finds_what_was_put_after_growing),
        cmocka_unit_test(map_put_refuses_a_key_that_is_there),
        cmocka_unit_test(map_keys_may_be_empty_or_contain_nul),
        cmocka_unit_test(map_does_not_grow_below_what_was_expected),
        cmocka_unit_test(map_tells_keys_apart_by_every_byte),
        cmocka_unit_test(map_init_refuses_absurd_sizes),
    };
    return cmocka_run_group_tests_name("base/map", tests, NULL, NULL);
}
