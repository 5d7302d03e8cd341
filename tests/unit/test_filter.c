/* The text filter: lists and what is wrong with them; what is found, and that this does not depend on how a text is
 * cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "engine/text/filter.h"

static const char list[] = "\xef\xbb\xbf# words\r\n"
                           "[weapons]\r\n"
                           "  blow   up\t\n"
                           "pipe bomb\n"
                           "C4 (plastic)\n"
                           "[slurs/mild flag]\n"
                           "/\\bd[a@]rn\\b/i\n"
                           "dörf\n"
                           "\n"
                           "[codes block]\n"
                           "/(?<!\\d)\\d{4}-\\d{4}(?!\\d)/\n"
                           "/BEGIN (?:[A-Z]+ )?KEY/\n";
enum { WEAPONS = 1, SLURS = 2, CODES = 4 };

static struct filter *open_list(const char *text)
{
    struct filter *f = NULL;
    struct err e = {0};
    assert_int_equal(filter_open(&f, text, strlen(text), "list", &e), 0);
    return f;
}

static void categories_have_names_and_actions(void **state)
{
    (void)state;
    struct filter *f = open_list(list);
    assert_int_equal(filter_categories(f), 3);
    assert_string_equal(filter_name(f, 0), "weapons");
    assert_string_equal(filter_name(f, 1), "slurs/mild");
    assert_true(filter_blocks(f, 0) && !filter_blocks(f, 1) && filter_blocks(f, 2));
    filter_close(f);
}

static const struct {
    const char *text;
    uint64_t found;
    const char *given; /* of an answer, when finds end it */
} texts[] = {
    {"How to blow up a balloon", WEAPONS, "How to "},
    {"BLOW\n\tUP!", WEAPONS, ""},
    {"blow upwards, blowup, ablow up", 0, NULL},
    {"a pipe bombing", 0, NULL},
    {"c4 (PLASTIC)", WEAPONS, ""},
    {"Darn it, d@rn", SLURS, NULL},
    {"darned dörfer", 0, NULL},
    {"im DÖRF.", SLURS, NULL},
    {"call 1234-5678 now", CODES, "call "},
    {"call 1234-56789 or 01234-5678 now", 0, NULL},
    {"--BEGIN RSA KEY--", CODES, "--"},
    {"BEGIN, BEGIN RSA, BEGIN rsa KEY", 0, NULL},
    {"darn 1234-5678 and blow up", SLURS | CODES | WEAPONS, "darn "},
    {"", 0, NULL},
    {"blow", 0, NULL},
    {"1234-567", 0, NULL},
};

static void what_is_listed_is_found(void **state)
{
    (void)state;
    struct filter *f = open_list(list);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        uint64_t found = 99;
        assert_int_equal(filter_run_scan(f, texts[i].text, strlen(texts[i].text), &found, NULL), 0);
        assert_int_equal(found, texts[i].found);
    }
    filter_close(f);
}

/* Pieces of `step` bytes and what completes a character, or one; then the end.  Returns what was found. */
static uint64_t push_all(const struct filter *f, const char *s, size_t n, size_t step, bool blocks,
                         struct buf *out)
{
    struct filter_run *r = NULL;
    assert_int_equal(filter_run_open(&r, f, blocks, NULL), 0);
    bool on = true;
    for (size_t at = 0, len; at < n && on; at += len) {
        len = n - at < step ? n - at : step;
        while (at + len < n && ((unsigned char)s[at + len] & 0xc0) == 0x80)
            len++;
        on = filter_run_push(r, s + at, len, false, out);
    }
    if (on)
        on = filter_run_push(r, "", 0, true, out);
    if (!on)
        assert_false(filter_run_push(r, "more", 4, true, out));
    const uint64_t found = filter_run_found(r);
    filter_run_close(r);
    return found;
}

static void an_answer_is_cut_where_it_is_however_it_comes(void **state)
{
    (void)state;
    struct filter *f = open_list(list);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *s = texts[i].text;
        for (size_t step = 1; step <= strlen(s) + 1; step++) {
            struct buf out;
            buf_init(&out, 4096);
            const uint64_t found = push_all(f, s, strlen(s), step, true, &out);
            assert_string_equal(buf_str(&out), texts[i].given != NULL ? texts[i].given : s);
            assert_int_equal(found != 0, texts[i].found != 0);
            buf_clear(&out);
            assert_int_equal(push_all(f, s, strlen(s), step, false, &out), texts[i].found);
            assert_string_equal(buf_str(&out), s);
            buf_free(&out);
        }
    }
    filter_close(f);
}

static void only_what_may_be_a_beginning_is_held_back(void **state)
{
    (void)state;
    struct filter *f = open_list(list);
    struct filter_run *r = NULL;
    struct buf out;
    buf_init(&out, 4096);
    for (int blocks = 0; blocks < 2; blocks++) {
        assert_int_equal(filter_run_open(&r, f, blocks, NULL), 0);
        assert_true(filter_run_push(r, "Hello blow", 10, false, &out));
        assert_string_equal(buf_str(&out), blocks ? "Hello " : "Hello blow");
        assert_true(filter_run_push(r, "n ", 2, false, &out));
        assert_string_equal(buf_str(&out), "Hello blown ");
        assert_true(filter_run_push(r, "darn", 4, false, &out)); /* that is never awaited */
        assert_string_equal(buf_str(&out), "Hello blown darn");
        assert_true(filter_run_push(r, "", 0, true, &out));
        assert_int_equal(filter_run_found(r), SLURS);
        filter_run_close(r);
        buf_clear(&out);
    }
    buf_free(&out);
    filter_close(f);
}

static void a_window_is_held_back_at_most(void **state)
{
    (void)state;
    struct filter *f = open_list("[long]\n/a+b/\n");
    struct filter_run *r = NULL;
    struct buf out;
    size_t given = 0;
    buf_init(&out, 1 << 16);
    assert_int_equal(filter_run_open(&r, f, true, NULL), 0);
    for (int i = 0; i < 20000; i++) {
        assert_true(filter_run_push(r, "a", 1, false, &out));
        given = out.len;
        assert_true((size_t)i < given + 2 * FILTER_WINDOW);
    }
    assert_false(
        filter_run_push(r, "b", 1, false, &out)); /* what is left of it is held back still */
    assert_true(given >= 18000 && out.len <= 20000);
    filter_run_close(r);
    buf_free(&out);
    filter_close(f);
}

static void what_takes_too_long_counts_as_found(void **state)
{
    (void)state;
    struct filter *f = open_list("[slow]\n/(a+)+[bc]/\n");
    uint64_t found = 0;
    char text[4096];
    memset(text, 'a', sizeof text);
    assert_int_equal(filter_run_scan(f, text, sizeof text, &found, NULL), 0);
    assert_int_equal(found, 1);
    filter_close(f);
}

static void thousands_of_words_are_a_few_patterns(void **state)
{
    (void)state;
    struct buf text;
    uint64_t found = 0;
    buf_init(&text, FILTER_FILE_MAX);
    buf_adds(&text, "[many]\n");
    for (int i = 0; i < 20000; i++)
        buf_printf(&text, "w%dx y$%d\n", i * 7919, i);
    struct filter *f = open_list(buf_str(&text));
    assert_int_equal(filter_run_scan(f, "so W158372081X\ny$19999.", 24, &found, NULL), 0);
    assert_int_equal(found, 1);
    assert_int_equal(filter_run_scan(f, "so w158372081x y$1999", 22, &found, NULL), 0);
    assert_int_equal(found, 0);
    filter_close(f);
    buf_free(&text);
}

static void what_is_wrong_is_told_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *told;
    } cases[] = {
        {"bomb\n", "list, line 1: a category has to come first"},
        {"[a]\nx\n\n[a b]\n", "list, line 4: a category is a name"},
        {"[]\n", "line 1: a category is a name"},
        {"[a", "line 1: a category is a name"},
        {"[aflag]x\n", "line 1: a category is a name"},
        {"[a flags]\n", "line 1: a category is a name"},
        {"[a]\nx\n[a]\n", "line 3: this category was there before"},
        {"[a]\n/(/\n", "list, line 2: missing closing parenthesis at character 2"},
        {"[a]\n/x\n", "line 2: a regular expression stands between slashes"},
        {"[a]\n//\n", "line 2: a regular expression stands between slashes"},
        {"[a]\n/x*/\n", "line 2: this regular expression finds the empty text"},
        {"[a]\n\xff\n", "line 2: this line is no text in UTF-8"},
        {"# nothing\n[a]\n", "list: there is nothing to look for"},
        {"", "list: there is nothing to look for"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct filter *f = NULL;
        struct err e = {0};
        assert_int_equal(filter_open(&f, cases[i].text, strlen(cases[i].text), "list", &e),
                         ERR_INVALID);
        if (strstr(e.msg, cases[i].told) == NULL)
            fail_msg("%s, not %s", e.msg, cases[i].told);
        assert_null(f);
    }
}

static void lists_have_limits(void **state)
{
    (void)state;
    struct buf text;
    struct filter *f = NULL;
    struct err e = {0};
    buf_init(&text, FILTER_FILE_MAX);
    for (int i = 0; i <= FILTER_CATEGORIES_MAX; i++)
        buf_printf(&text, "[c%d]\nx\n", i);
    assert_int_equal(filter_open(&f, buf_str(&text), text.len, "list", &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "line 129: there are too many categories"));
    buf_clear(&text);
    buf_adds(&text, "[a]\n");
    for (int i = 0; i <= FILTER_PATTERNS_MAX; i++)
        buf_printf(&text, "/x%d/\n", i);
    assert_int_equal(filter_open(&f, buf_str(&text), text.len, "list", &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "line 1026: there are too many patterns"));
    buf_clear(&text);
    buf_adds(&text, "[a]\n");
    for (int i = 0; i <= FILTER_LINE_MAX; i++)
        buf_addc(&text, 'x');
    assert_int_equal(filter_open(&f, buf_str(&text), text.len, "list", &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "line 2: this line is too long"));
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(categories_have_names_and_actions),
        cmocka_unit_test(what_is_listed_is_found),
        cmocka_unit_test(an_answer_is_cut_where_it_is_however_it_comes),
        cmocka_unit_test(only_what_may_be_a_beginning_is_held_back),
        cmocka_unit_test(a_window_is_held_back_at_most),
        cmocka_unit_test(what_takes_too_long_counts_as_found),
        cmocka_unit_test(thousands_of_words_are_a_few_patterns),
        cmocka_unit_test(what_is_wrong_is_told_with_its_line),
        cmocka_unit_test(lists_have_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
