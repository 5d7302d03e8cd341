/* Stop strings: what comes out may not depend on how the text was cut into pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/stop.h"

/* The law: byte by byte, look back for every string. */
static int reference(const char *text, size_t len, const char *const *strings, int n, bool include,
                     size_t *out_len)
{
    for (size_t end = 1; end <= len; end++) {
        int hit = -1;
        for (int i = 0; i < n; i++) {
            size_t k = strlen(strings[i]);
            if (k <= end && memcmp(text + end - k, strings[i], k) == 0 &&
                (hit < 0 || k > strlen(strings[hit])))
                hit = i;
        }
        if (hit >= 0) {
            *out_len = include ? end : end - strlen(strings[hit]);
            return hit;
        }
    }
    *out_len = len;
    return -1;
}

/* Cuts before byte i + 1 where bit i of cuts is set. */
static int run(const struct stop_set *set, const char *text, size_t len, uint32_t cuts,
               bool include, struct buf *out)
{
    struct stop s;
    stop_init(&s, set);
    int hit = -1;
    size_t from = 0;
    for (size_t i = 0; i < len && hit < 0; i++) {
        if (i + 1 < len && !(cuts >> (i % 32) & 1))
            continue;
        size_t before = out->len;
        hit = stop_push(&s, text + from, i + 1 - from, include, out);
        /* Nothing is held back without reason: what is held begins some string. */
        if (hit < 0) {
            size_t held = i + 1 - out->len;
            bool reason = held == 0;
            for (int k = 0; k < set->n; k++)
                reason = reason || ((size_t)set->lens[k] > held &&
                                    memcmp(set->strings[k], text + out->len, held) == 0);
            assert_true(reason);
        }
        assert_true(out->len >= before);
        from = i + 1;
    }
    if (hit < 0)
        stop_flush(&s, out);
    stop_fini(&s);
    return hit;
}

static void check(const char *text, size_t len, const char *const *strings, int n, uint32_t cuts,
                  bool include)
{
    struct stop_set set;
    struct err e;
    assert_int_equal(stop_set_init(&set, strings, n, &e), 0);
    struct buf out;
    buf_init(&out, 1 << 16);
    size_t want_len;
    int want = reference(text, len, strings, n, include, &want_len);
    int hit = run(&set, text, len, cuts, include, &out);
    assert_int_equal(hit, want);
    assert_int_equal(out.len, want_len);
    if (want_len > 0)
        assert_memory_equal(out.data, text, want_len);
    buf_free(&out);
    stop_set_fini(&set);
}

static void stop_gives_the_same_for_every_cut(void **state)
{
    (void)state;
    static const char *const texts[] = {"aabaabaaab", "ababababc", "hello\n\nw", "xENDxEN", "aaaa"};
    static const char *const strings[] = {"aabaaab", "ababc", "\n\n", "END", "aaaaa", "abaaa"};
    for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) {
        size_t len = strlen(texts[t]);
        for (uint32_t cuts = 0; cuts < 1u << (len - 1); cuts++) {
            check(texts[t], len, strings, 6, cuts, false);
            check(texts[t], len, strings, 6, cuts, true);
        }
    }
}

static void stop_agrees_with_looking_back_on_random_text(void **state)
{
    (void)state;
    srand(1);
    for (int round = 0; round < 20000; round++) {
        char text[64], strings[4][8];
        const char *list[4];
        size_t len = (size_t)(rand() % 60 + 1);
        for (size_t i = 0; i < len; i++)
            text[i] = (char)('a' + rand() % 2);
        int n = rand() % 5;
        for (int i = 0; i < n; i++) {
            int k = rand() % 6 + 1;
            for (int c = 0; c < k; c++)
                strings[i][c] = (char)('a' + rand() % 2);
            strings[i][k] = '\0';
            list[i] = strings[i];
        }
        uint32_t cuts = (uint32_t)rand() ^ (uint32_t)rand() << 16;
        check(text, len, list, n, cuts, round % 2);
    }
}

static void stop_refuses_empty_and_too_many_strings(void **state)
{
    (void)state;
    struct stop_set set;
    struct err e;
    const char *list[JOB_STOP_MAX + 1];
    for (int i = 0; i <= JOB_STOP_MAX; i++)
        list[i] = "x";
    assert_int_equal(stop_set_init(&set, list, JOB_STOP_MAX + 1, &e), ERR_INVALID);
    list[1] = "";
    assert_int_equal(stop_set_init(&set, list, 2, &e), ERR_INVALID);
    stop_set_fini(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_gives_the_same_for_every_cut),
        cmocka_unit_test(stop_agrees_with_looking_back_on_random_text),
        cmocka_unit_test(stop_refuses_empty_and_too_many_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
