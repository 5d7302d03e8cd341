/* Thoughts in front of an answer, told apart however the text is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "api/think.h"
#include "base/arena.h"
#include "tests/grammar_follow.h"

struct text {
    enum think_start start;
    const char *text, *thought, *said;
};

static const struct text texts[] = {
    {THINK_MAYBE, "<think>\nLet me see.\n</think>\n\nYes.\n", "Let me see.", "Yes.\n"},
    {THINK_MAYBE, "\n <think>a\n\nb</think>c", "a\n\nb", "c"},
    {THINK_MAYBE, "<think>\n\n</think>\n\nYes", "", "Yes"},
    {THINK_MAYBE, "Yes, I <think> so.</think>", "", "Yes, I <think> so.</think>"},
    {THINK_MAYBE, " \n<thinner", "", " \n<thinner"},
    {THINK_MAYBE, "<thi", "", "<thi"},
    {THINK_MAYBE, "\n", "", "\n"},
    {THINK_MAYBE, "<think>a </thin </think> <think>b", "a </thin", "<think>b"},
    {THINK_OPEN, "\nIf a < b\n then </think>\n{\"a\": 1}", "If a < b\n then", "{\"a\": 1}"},
    {THINK_OPEN, "no end </thi", "no end </thi", ""},
    {THINK_OPEN, "cut off \n ", "cut off", ""},
    {THINK_OPEN, "</think>", "", ""},
    {THINK_NOT, "<think>a</think> b", "", "<think>a</think> b"},
};

static void thoughts_are_told_apart_however_they_are_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const size_t len = strlen(texts[i].text);
        for (size_t n = 1; n <= len; n++) {
            struct think t;
            struct buf thought, said;
            buf_init(&thought, 1 << 12);
            buf_init(&said, 1 << 12);
            think_init(&t, texts[i].start);
            for (size_t at = 0; at < len; at += n)
                think_push(&t, texts[i].text + at, n < len - at ? n : len - at, &thought, &said);
            think_end(&t, &thought, &said);
            assert_string_equal(buf_str(&thought), texts[i].thought);
            assert_string_equal(buf_str(&said), texts[i].said);
            think_free(&t);
            buf_free(&thought);
            buf_free(&said);
        }
    }
}

static void tokens_of_thoughts_are_counted_with_their_tags(void **state)
{
    (void)state;
    static const struct {
        enum think_start start;
        const char *pieces[6]; /* a token each */
        int n;
    } cases[] = {
        {THINK_OPEN, {"so", " so", "</think>", "\n\n", "Yes", NULL}, 3},
        {THINK_OPEN, {"so", " so", "</", "think>Yes", ".", NULL}, 4},
        {THINK_MAYBE, {"<think>", "so", "</think>", "Yes", ".", NULL}, 3},
        {THINK_MAYBE, {"<thi", "nk>", "so", "so", NULL}, 4},
        {THINK_MAYBE, {"Yes", ".", NULL}, 0},
        {THINK_NOT, {"<think>", "so", "</think>", "Yes", NULL}, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct think t;
        struct buf thought, said;
        int n = 0;
        buf_init(&thought, 1 << 12);
        buf_init(&said, 1 << 12);
        think_init(&t, cases[i].start);
        for (; cases[i].pieces[n] != NULL; n++) {
            think_push(&t, cases[i].pieces[n], strlen(cases[i].pieces[n]), &thought, &said);
            think_count(&t, n + 1);
        }
        think_count(&t, n + 1); /* the token that ended the answer */
        const bool open = t.state == THINK_WITHIN;
        think_end(&t, &thought, &said);
        assert_int_equal(t.n_tokens, cases[i].n + open);
        think_free(&t);
        buf_free(&thought);
        buf_free(&said);
    }
}

static void white_space_without_end_is_not_held_without_end(void **state)
{
    (void)state;
    static const enum think_start starts[] = {THINK_MAYBE, THINK_OPEN};
    for (int i = 0; i < 2; i++) {
        struct think t;
        struct buf thought, said;
        buf_init(&thought, 1 << 20);
        buf_init(&said, 1 << 20);
        think_init(&t, starts[i]);
        think_push(&t, "x", i, &thought, &said);
        for (int k = 0; k < 100000; k++)
            think_push(&t, "\n", 1, &thought, &said);
        assert_true(t.held.len <= 1 << 12 && !t.held.failed);
        assert_true(thought.len + said.len > 90000);
        think_free(&t);
        buf_free(&thought);
        buf_free(&said);
    }
}

static void the_prompt_says_how_an_answer_begins(void **state)
{
    (void)state;
    static const struct {
        const char *prompt;
        enum think_start start;
    } prompts[] = {
        {"<|im_start|>assistant\n", THINK_MAYBE},
        {"<|im_start|>assistant\n<think>\n", THINK_OPEN},
        {"<think>", THINK_OPEN},
        {"<|im_start|>assistant\n<think>\n\n</think>\n\n", THINK_NOT},
        {"What does <think> mean?", THINK_MAYBE},
        {"", THINK_MAYBE},
    };
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++)
        assert_int_equal(think_start(prompts[i].prompt, strlen(prompts[i].prompt)),
                         prompts[i].start);
}

static bool fits(enum think_start start, const char *text)
{
    struct arena arena;
    struct grammar_run *r;
    arena_init(&arena, 1 << 20);
    struct grammar *g = grammar_new(&arena);
    grammar_start(g, think_grammar(g, start, grammar_str(g, "{}")));
    assert_false(grammar_failed(g));
    assert_int_equal(grammar_run_open(&r, g, NULL), 0);
    const bool ok = grammar_follow(r, text, strlen(text), NULL);
    arena_free(&arena);
    return ok;
}

static void an_answer_has_its_form_behind_the_thoughts(void **state)
{
    (void)state;
    assert_true(fits(THINK_MAYBE, "{}"));
    assert_true(fits(THINK_MAYBE, "<think>\nany < </thing {\n</think>\n\n{}"));
    assert_false(fits(THINK_MAYBE, "<think>\nany </think>\n\nNo."));
    assert_false(fits(THINK_MAYBE, "any"));
    assert_false(fits(THINK_MAYBE, "<think>{}"));
    assert_true(fits(THINK_OPEN, "so </think>{}"));
    assert_false(fits(THINK_OPEN, "{}"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thoughts_are_told_apart_however_they_are_cut),
        cmocka_unit_test(tokens_of_thoughts_are_counted_with_their_tags),
        cmocka_unit_test(white_space_without_end_is_not_held_without_end),
        cmocka_unit_test(the_prompt_says_how_an_answer_begins),
        cmocka_unit_test(an_answer_has_its_form_behind_the_thoughts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
