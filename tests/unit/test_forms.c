/* Regular expressions and GBNF as grammars: which texts they let through, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "api/gbnf.h"
#include "api/regex.h"
#include "tests/grammar_follow.h"

static struct arena arena;

enum kind { REGEX, QUOTED, GBNF };

static int compile(enum kind kind, const char *text, struct grammar **out, struct err *e)
{
    memset(e, 0, sizeof *e);
    arena_free(&arena);
    arena_init(&arena, 8 << 20);
    struct grammar *g = *out = grammar_new(&arena);
    grammar_sym top = 0;
    struct regex x = {.g = g,
                      .arena = &arena,
                      .param = "x",
                      .flags = kind == QUOTED ? REGEX_QUOTED | REGEX_SEARCH : 0};
    int rc =
        kind == GBNF ? gbnf_compile(&top, g, &arena, text, "x", e) : regex_compile(&x, text, e);
    if (rc == 0)
        grammar_start(g, kind == GBNF ? top : x.sym);
    if (rc == 0 && grammar_failed(g))
        return ERR_TOOBIG;
    return rc;
}

static bool fits(enum kind kind, const char *form, const char *text)
{
    struct err e;
    struct grammar *g;
    struct grammar_run *r = NULL;
    if (compile(kind, form, &g, &e) != 0)
        fail_msg("%s: %s", form, e.msg);
    assert_int_equal(grammar_run_open(&r, g, &e), 0);
    return grammar_follow(r, text, strlen(text), NULL);
}

/* texts with ~ between them */
static void check(enum kind kind, const char *form, const char *list, bool want)
{
    char text[512];
    snprintf(text, sizeof text, "%s", list);
    for (char *t = text, *end;; t = end) {
        end = t + strcspn(t, "~");
        const bool last = *end == '\0';
        *end++ = '\0';
        if (fits(kind, form, t) != want)
            fail_msg("%s: %s should %sfit", form, t, want ? "" : "not ");
        if (last)
            return;
    }
}

static void refused(enum kind kind, const char *form, const char *word)
{
    struct err e;
    struct grammar *g;
    if (compile(kind, form, &g, &e) == 0)
        fail_msg("%s should be refused", form);
    if (strstr(e.msg, word) == NULL)
        fail_msg("%s: \"%s\" should have %s", form, e.msg, word);
}

struct pair {
    const char *form, *yes, *no;
};

static void check_all(enum kind kind, const struct pair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        check(kind, pairs[i].form, pairs[i].yes, true);
        check(kind, pairs[i].form, pairs[i].no, false);
    }
}

#define CHECK(kind, pairs) check_all(kind, pairs, sizeof(pairs) / sizeof *(pairs))

static void regex_matches_the_whole_text(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"abc", "abc", "ab~abcd~~xabc"},
        {"^abc$", "abc", "ab~abcd"},
        {"a|bc|", "a~bc~", "abc~b"},
        {"(a|b)*c", "c~ac~abac", "ab~d"},
        {"a{2,3}", "aa~aaa", "a~aaaa"},
        {"a{2,}?b", "aab~aaaaab", "ab"},
        {"a{2}", "aa", "a~aaa"},
        {"a{,2}", "~a~aa", "aaa"},
        {"x{a}", "x{a}", "x"},
        {"[a-c_-]+", "abc~a-b~_", "d~"},
        {"[^a-c]", "d~\xc3\xa9~\xf0\x9f\x98\x80", "a~dd~\xc3"},
        {"\\d{3}-\\w+\\s\\S", "123-a_9 x", "12a-a x~123-a  "},
        {"[\\d.]+\\D", "1.5x", "1.5"},
        {".", "a~\xe2\x82\xac", "\n~ab~"},
        {"\\u00e9\\x41\\u{1F600}",
         "\xc3\xa9"
         "A\xf0\x9f\x98\x80",
         "e"},
        {"(?:ab)+(?<n>c)?", "ab~abab~ababc", "c"},
        {"(a*)*b", "b~aaab", "a"},
        {"a\\.b\\/\\[", "a.b/[", "axb/["},
        {"[\\]\\\\]", "]~\\", "["},
    };
    CHECK(REGEX, pairs);
}

static void regex_of_a_pattern_is_found_anywhere_and_is_quoted(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"abc", "abc~xxabcyy~abcabc", "ab~"}, {"^abc", "abc~abcyy", "xabc"},
        {"abc$", "abc~xxabc", "abcx"},        {"^a$|^b", "a~b~bx", "ax~xb"},
        {"^[\"\\\\]$", "\\\"~\\\\", "\"~\\"}, {"^[\\n\\t]$", "\\n~\\t", "\n~n"},
        {"^\\x01$", "\\u0001", "\x01"},       {"^[^x]*$", "\\\"a\\n\xc3\xa9~", "x~\""},
    };
    CHECK(QUOTED, pairs);
}

static void regex_refuses_what_is_not_regular(void **state)
{
    (void)state;
    static const char *const list[][2] = {
        {"(?=a)", "looking around"},   {"(?<!a)b", "looking around"},
        {"(a)\\1", "references back"}, {"\\bword", "borders"},
        {"\\p{L}", "properties"},      {"(?i)a", "flags"},
        {"a(b", ") is missing"},       {"a)b", "( is missing"},
        {"[a", "] is missing"},        {"*a", "nothing to repeat"},
        {"a**", "need a group"},       {"a{3,2}", "at least more often"},
        {"[z-a]", "no range"},         {"a\\", "backslash"},
        {"(^a)", "ends of the whole"}, {"a{999999}", "too often"},
        {"\\xg1", "hexadecimal"},      {"\\q", "escape"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        refused(REGEX, list[i][0], list[i][1]);
}

static void regex_lengths_are_put_into_the_loose_part(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int least, most, min, max;
    } list[] = {
        {"^[a-z]+$", 0, 5, 1, 5},  {"^A[a-z]*\\d$", 4, 8, 4, 8}, {"^a{2,9}$", 3, 0, 3, 9},
        {"^(ab|c)$", 1, 2, 1, 2},  {"^a+b+$", 0, 5, 2, -1},      {"a", 0, 5, 1, -1},
        {"^a+$|^b+$", 0, 3, 1, 3},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct err e = {0};
        arena_free(&arena);
        arena_init(&arena, 8 << 20);
        struct regex x = {.g = grammar_new(&arena),
                          .arena = &arena,
                          .param = "x",
                          .flags = REGEX_SEARCH,
                          .least = list[i].least,
                          .most = list[i].most};
        assert_int_equal(regex_compile(&x, list[i].text, &e), 0);
        if (x.min != list[i].min || x.max != list[i].max)
            fail_msg("%s: %d to %d characters", list[i].text, x.min, x.max);
    }
}

static void gbnf_makes_what_root_says(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"root ::= \"a\" \"b\"", "ab", "a~b"},
        {"root ::= a | b\na ::= \"x\"\nb ::= \"y\"+", "x~y~yyy", "xy~"},
        {"root ::= \"a\"\n  | \"b\" # or\n\n# a remark\n", "a~b", "ab"},
        {"root ::= ( \"a\"\n | [0-9] )* \"\\n\"", "a1\n~\n", "a"},
        {"root ::= \"a\"{2,3} [^b]? \"\\x41\"", "aaA~aaacA", "aA~aabA"},
        {"root ::= [a-zA-Z_] [a-zA-Z0-9_]*", "a~_9", "9"},
        {"root ::= .{2}",
         "ab~\xc3\xa9"
         "b",
         "a~abc"},
        {"root ::= \"(\" root \")\" | \"\"", "~()~(())", "(~)("},
        {"root ::= \"\xe4\xbd\xa0\" [\xc3\xa0-\xc3\xbf]", "\xe4\xbd\xa0\xc3\xa9", "\xe4\xbd\xa0"},
        {"root ::= item (\",\" item)*\nitem ::= [0-9]+ | \"\\\"\" [^\"]* \"\\\"\"", "1,22,\"x\"",
         "1,~\""},
        {"root ::=\n  \"a\"\r\n", "a", "b"},
    };
    CHECK(GBNF, pairs);
}

static void gbnf_refuses_by_name_and_line(void **state)
{
    (void)state;
    static const char *const list[][2] = {
        {"root ::= foo", "there is no rule foo"},
        {"start ::= \"a\"", "there is no rule root"},
        {"", "there is no rule root"},
        {"root ::= \"a\"\nroot ::= \"b\"", "written twice: root, in line 2"},
        {"root ::= root \"a\" | \"b\"", "left recursion): root"},
        {"root ::= a \"x\"\na ::= b \"y\" | \"z\"\nb ::= [0-9]? root", "left recursion): root"},
        {"root ::= (root \"a\")?", "left recursion): root"},
        {"root ::= \"a", "\" is missing"},
        {"root ::= [a", "] is missing"},
        {"root ::= (\"a\"", ") is missing"},
        {"root ::= \"a\")", "( is missing"},
        {"root = \"a\"", "::= is needed"},
        {"root ::= <think> \"a\"", "tokens"},
        {"root ::= \"\\q\"", "escape"},
        {"root ::= \"\\uD800\"", "surrogate"},
        {"root ::= \"a\"{3,1}", "numbers of times"},
        {"root ::= *", "name is needed"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        refused(GBNF, list[i][0], list[i][1]);
}

static void gbnf_allows_recursion_that_waits_for_nothing(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"root ::= a | \"x\"\na ::= root", "x", "xx"},
        {"root ::= \"a\"? root2\nroot2 ::= root | \"b\"", "b~ab~aab", "a"},
    };
    CHECK(GBNF, pairs);
}

int main(void)
{
    arena_init(&arena, 1 << 20);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regex_matches_the_whole_text),
        cmocka_unit_test(regex_of_a_pattern_is_found_anywhere_and_is_quoted),
        cmocka_unit_test(regex_refuses_what_is_not_regular),
        cmocka_unit_test(regex_lengths_are_put_into_the_loose_part),
        cmocka_unit_test(gbnf_makes_what_root_says),
        cmocka_unit_test(gbnf_refuses_by_name_and_line),
        cmocka_unit_test(gbnf_allows_recursion_that_waits_for_nothing),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_free(&arena);
    return failed;
}
