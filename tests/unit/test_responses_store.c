/* Responses that are kept: whose they are, how many, how large, how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "api/responses_store.h"

enum { LONG_US = 1000000000 };

static void put(struct responses_store *s, int owner, const char *id, const char *body,
                const char *input, const char *said)
{
    struct responses_kept k;
    buf_init(&k.body, 1 << 16);
    buf_init(&k.items, 1 << 16);
    buf_adds(&k.body, body);
    buf_adds(&k.items, input);
    k.n_input = k.items.len;
    buf_adds(&k.items, said);
    responses_store_put(s, owner, id, &k);
    buf_free(&k.body);
    buf_free(&k.items);
}

static bool has(struct responses_store *s, int owner, const char *id, enum responses_part part,
                const char *text)
{
    struct buf out;
    buf_init(&out, 1 << 16);
    const bool found = responses_store_get(s, owner, id, part, &out);
    if (found)
        assert_string_equal(buf_str(&out), text);
    buf_free(&out);
    return found;
}

static void store_gives_each_part_to_its_owner_alone(void **state)
{
    (void)state;
    struct responses_store *s = responses_store_open(4, 1000, LONG_US);
    put(s, 1, "a", "{}", "1,2", ",3");
    assert_true(has(s, 1, "a", RESPONSES_BODY, "{}"));
    assert_true(has(s, 1, "a", RESPONSES_ITEMS, "1,2,3"));
    assert_true(has(s, 1, "a", RESPONSES_INPUT, "1,2"));
    assert_false(has(s, 2, "a", RESPONSES_BODY, ""));
    assert_false(has(s, 1, "b", RESPONSES_BODY, ""));
    assert_false(responses_store_delete(s, 2, "a"));
    assert_true(responses_store_delete(s, 1, "a"));
    assert_false(responses_store_delete(s, 1, "a"));
    assert_false(has(s, 1, "a", RESPONSES_BODY, ""));
    responses_store_close(s);
}

static void store_forgets_the_oldest_beyond_its_number(void **state)
{
    (void)state;
    struct responses_store *s = responses_store_open(2, 1000, LONG_US);
    put(s, 1, "a", "A", "", "");
    put(s, 2, "b", "B", "", "");
    put(s, 1, "c", "C", "", "");
    assert_false(has(s, 1, "a", RESPONSES_BODY, ""));
    assert_true(has(s, 2, "b", RESPONSES_BODY, "B"));
    assert_true(has(s, 1, "c", RESPONSES_BODY, "C"));
    responses_store_close(s);
}

static void store_forgets_as_many_as_make_room(void **state)
{
    (void)state;
    struct responses_store *s = responses_store_open(10, 10, LONG_US);
    put(s, 1, "a", "1234", "", "");
    put(s, 1, "b", "1234", "", "");
    put(s, 1, "c", "12345678", "", ""); /* both go */
    assert_false(has(s, 1, "a", RESPONSES_BODY, ""));
    assert_false(has(s, 1, "b", RESPONSES_BODY, ""));
    assert_true(has(s, 1, "c", RESPONSES_BODY, "12345678"));
    put(s, 1, "d", "12", "", ""); /* there is room */
    assert_true(has(s, 1, "c", RESPONSES_BODY, "12345678"));
    put(s, 1, "e", "12345", "123", "456"); /* larger than all: not kept, and nothing goes */
    assert_false(has(s, 1, "e", RESPONSES_BODY, ""));
    assert_true(has(s, 1, "d", RESPONSES_BODY, "12"));
    responses_store_close(s);
}

static void store_forgets_what_is_too_old(void **state)
{
    (void)state;
    struct responses_store *s = responses_store_open(4, 1000, 1000);
    put(s, 1, "a", "A", "", "");
    usleep(2000);
    assert_false(has(s, 1, "a", RESPONSES_BODY, ""));
    put(s, 1, "b", "B", "", "");
    usleep(2000);
    responses_store_expire(s);
    assert_false(responses_store_delete(s, 1, "b"));
    responses_store_close(s);
}

static void store_of_none_keeps_none(void **state)
{
    (void)state;
    struct responses_store *s = responses_store_open(0, 1000, LONG_US);
    assert_false(responses_store_keeps(s));
    put(s, 1, "a", "A", "", "");
    assert_false(has(s, 1, "a", RESPONSES_BODY, ""));
    responses_store_close(s);
    responses_store_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(store_gives_each_part_to_its_owner_alone),
        cmocka_unit_test(store_forgets_the_oldest_beyond_its_number),
        cmocka_unit_test(store_forgets_as_many_as_make_room),
        cmocka_unit_test(store_forgets_what_is_too_old),
        cmocka_unit_test(store_of_none_keeps_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
