/* Pre-tokenisers: every name opens, words join to the text, long and hostile texts finish. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "engine/text/pretok.h"

struct words {
    const char *next; /* where the next word must begin */
    size_t n;
    char joined[512]; /* words with | between, of short texts */
};

static int put(void *arg, const char *word, size_t len)
{
    struct words *x = arg;
    assert_ptr_equal(word, x->next);
    assert_true(len > 0);
    x->next = word + len;
    x->n++;
    size_t at = strlen(x->joined);
    if (at + len + 2 < sizeof x->joined)
        snprintf(x->joined + at, sizeof x->joined - at, "%s%.*s", at ? "|" : "", (int)len, word);
    return 0;
}

static size_t split(const char *pre, const char *text, size_t len, char *joined)
{
    struct pretok *p;
    assert_int_equal(pretok_open(&p, pre, strlen(pre), NULL), 0);
    struct pretok_work *w = pretok_work_new(p);
    assert_non_null(w);
    struct words x = {.next = text};
    int64_t t0 = clock_us();
    assert_int_equal(pretok_split(p, w, text, len, put, &x), 0);
    double ms = (double)(clock_us() - t0) / 1000;
    assert_ptr_equal(x.next, text + len);
    if (len > 60000 && ms > 300)
        print_message("           %s: %zu words of %zu bytes took %.0f ms\n", pre, x.n, len, ms);
    if (joined)
        memcpy(joined, x.joined, sizeof x.joined);
    pretok_work_free(w);
    pretok_close(p);
    return x.n;
}

static void expect(const char *pre, const char *text, const char *want)
{
    char got[512];
    split(pre, text, strlen(text), got);
    assert_string_equal(got, want);
}

static void words_are_as_the_models_have_them(void **state)
{
    (void)state;
    expect("gpt-2", "I'm here  now 123\n", "I|'m| here| | now| 123|\n");
    expect("smollm", "a 123", "a| |1|2|3");
    expect("llama-bpe", "I'M here, 12345!\n\nx", "I|'M| here|,| |123|45|!\n\n|x");
    expect("qwen2", "x 123", "x| |1|2|3");
    expect("gpt-4o", "camelCase HTTPServer's", "camel|Case| HTTPServer's");
    expect("tekken", "camelCase 12", "camel|Case| |1|2");
    expect("deepseek-llm", "ab 12\n  ", "ab| |1|2|\n|  ");
    expect("falcon", "a 12345?!", "a| |123|45|?!");
    expect("", "ok", "ok");
}

static void names_that_are_unknown_are_refused(void **state)
{
    (void)state;
    struct pretok *p;
    struct err e = {0};
    assert_int_equal(pretok_open(&p, "gpt-9", 5, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "gpt-9"));
    assert_int_equal(pretok_open(&p, "gpt-", 4, &e), ERR_UNSUPPORTED);
    assert_int_equal(pretok_open(&p, "gpt-2\0", 6, &e), ERR_UNSUPPORTED);
}

static int stop_at_two(void *arg, const char *word, size_t len)
{
    (void)word;
    (void)len;
    return ++*(int *)arg == 2 ? -42 : 0;
}

static void an_error_of_the_caller_stops(void **state)
{
    (void)state;
    struct pretok *p;
    assert_int_equal(pretok_open(&p, "gpt-2", 5, NULL), 0);
    struct pretok_work *w = pretok_work_new(p);
    int n = 0;
    assert_int_equal(pretok_split(p, w, "a b c d", 7, stop_at_two, &n), -42);
    assert_int_equal(n, 2);
    pretok_work_free(w);
    pretok_close(p);
}

static void hostile_texts_finish(void **state)
{
    (void)state;
    static const char *const units[] = {
        " ",        "a",
        "A",        "1",
        "\n",       "\t",
        "!",        "'",
        " a",       " \n",
        "\r\n ",    "aA",
        "A ",       "1 ",
        "\xCC\x81", "\xE4\xB8\xAD",
        "\xC2\xA0", "\x01",
        "\xC3\x89", "a'",
        "?/",       "\xE0\xA4\xA8\xE0\xA5\x8D",
    };
    const size_t n = 1 << 16;
    char *s = malloc(n + 16);
    for (size_t i = 0; pretok_name_at(i); i++) {
        for (size_t k = 0; k < sizeof units / sizeof *units; k++) {
            size_t len = 0, step = strlen(units[k]);
            while (len + step <= n) {
                memcpy(s + len, units[k], step);
                len += step;
            }
            split(pretok_name_at(i), s, len, NULL);
            s[len++] = 'x';
            split(pretok_name_at(i), s, len, NULL);
        }
    }
    free(s);
}

/* Kimi's expression needs memory for every letter of a word: more than there is for this one. */
static void a_match_over_the_limits_goes_on_in_blocks(void **state)
{
    (void)state;
    const size_t n = 4 << 20;
    char *s = malloc(n);
    memset(s, 'A', n);
    size_t n_words = split("kimi-k2", s, n, NULL);
    assert_true(n_words > 1 && n_words <= n / 4096 + 1);
    for (size_t i = 0; i + 2 <= n; i += 2)
        memcpy(s + i, "\xC3\x89", 2);
    s[0] = ' ';
    s[1] = 'x'; /* block borders must not cut the letters */
    n_words = split("kimi-k2", s, n, NULL);
    assert_true(n_words > 1 && n_words <= n / 4095 + 2);
    free(s);
}

static void random_texts_join_again(void **state)
{
    (void)state;
    enum { LEN = 4000 };
    char *s = malloc(LEN + 4);
    uint32_t x = 99;
    for (size_t i = 0; pretok_name_at(i); i++) {
        size_t len = 0;
        while (len < LEN) {
            x = x * 1664525 + 1013904223;
            uint32_t cp = x >> 12;
            cp = x & 0x100 ? cp % 0x80 : x & 0x200 ? cp % 0x3200 : cp % 0x110000;
            len += (size_t)utf8_encode(s + len, cp);
        }
        split(pretok_name_at(i), s, len, NULL);
    }
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_as_the_models_have_them),
        cmocka_unit_test(names_that_are_unknown_are_refused),
        cmocka_unit_test(an_error_of_the_caller_stops),
        cmocka_unit_test(random_texts_join_again),
        cmocka_unit_test(a_match_over_the_limits_goes_on_in_blocks),
        cmocka_unit_test(hostile_texts_finish),
    };
    return cmocka_run_group_tests_name("pretok", tests, NULL, NULL);
}
