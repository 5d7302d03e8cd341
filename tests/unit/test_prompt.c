/* Prompts: weights, escapes, BREAK, chunks of 75 tokens and their limits, with the small CLIP vocabulary
 * of tests/fixtures/clip_tokenizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/prompt.h"

static struct clip_bpe *bpe;
static struct arena arena;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 4 << 20);
    return clip_bpe_open(&bpe, "tests/fixtures/clip_tokenizer", "!", NULL);
}

static int teardown(void **state)
{
    (void)state;
    clip_bpe_close(bpe);
    arena_free(&arena);
    return 0;
}

/* With work of its own. */
static int encode(const struct clip_bpe *t, const char *s, size_t len, struct token_list *out,
                  struct err *e)
{
    struct clip_bpe_work *w = clip_bpe_work_new(t);
    assert_non_null(w);
    int rc = clip_bpe_encode(t, w, s, len, out, e);
    clip_bpe_work_free(w);
    return rc;
}

static struct prompt parsed(const char *text, int flags)
{
    struct prompt p;
    struct err e;
    if (prompt_parse(&p, bpe, text, strlen(text), flags, &arena, &e) != 0)
        fail_msg("%s", e.msg);
    return p;
}

static int refused(const char *text, size_t len, const char *words)
{
    struct prompt p;
    struct err e = {0};
    int rc = prompt_parse(&p, bpe, text, len, 0, &arena, &e);
    if (strstr(e.msg, words) == NULL)
        fail_msg("no \"%s\" in \"%s\"", words, e.msg);
    return rc;
}

struct piece {
    const char *text;
    double weight;
};

/* One chunk of these pieces, tokenised one by one. */
static void one_chunk(const char *text, const struct piece *pieces)
{
    const struct clip_bpe_info *info = clip_bpe_info(bpe);
    struct prompt p = parsed(text, 0);
    bool weighted = false;
    int at = 1;
    assert_int_equal(p.n_chunks, 1);
    assert_int_equal(p.ids[0], info->bos);
    for (; pieces->text != NULL; pieces++) {
        struct token_list l = {.max = 100};
        assert_int_equal(encode(bpe, pieces->text, strlen(pieces->text), &l, NULL), 0);
        for (size_t i = 0; i < l.n; i++, at++) {
            assert_int_equal(p.ids[at], l.ids[i]);
            if (fabs(p.weights[at] - pieces->weight) > 1e-5)
                fail_msg("%s: \"%s\" weighs %g", text, pieces->text, (double)p.weights[at]);
            weighted = weighted || p.weights[at] != 1;
        }
        free(l.ids);
    }
    assert_int_equal(p.weighted, weighted);
    assert_int_equal(p.ids[at], info->eos);
    for (at++; at < PROMPT_CHUNK; at++) {
        assert_int_equal(p.ids[at], info->pad);
        assert_true(p.weights[at] == 1);
    }
}
#define ONE_CHUNK(text, ...) one_chunk(text, (const struct piece[]){__VA_ARGS__, {NULL, 0}})

static void prompt_weighs_what_stands_in_brackets(void **state)
{
    (void)state;
    ONE_CHUNK("", {"", 1});
    ONE_CHUNK("normal text", {"normal text", 1});
    ONE_CHUNK("an (important) word", {"an", 1}, {"important", 1.1}, {"word", 1});
    ONE_CHUNK("an [odd] word", {"an", 1}, {"odd", 1 / 1.1}, {"word", 1});
    ONE_CHUNK("a (cat:1.3)", {"a", 1}, {"cat", 1.3});
    ONE_CHUNK("a (cat: +0.5 ) dog", {"a", 1}, {"cat", 0.5}, {"dog", 1});
    ONE_CHUNK("a (cat:-1)", {"a", 1}, {"cat", -1});
    ONE_CHUNK("((cat)) [[dog]]", {"cat", 1.21}, {" ", 1}, {"dog", 1 / 1.21});
    ONE_CHUNK("(unnecessary)(parens)", {"unnecessaryparens", 1.1});
    ONE_CHUNK("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).", {"a", 1}, {"house", 1.573},
              {"on", 1}, {" a ", 1.1}, {"hill", 0.55}, {", sun, ", 1.1}, {"sky", 1.4641},
              {".", 1.1});
}

static void prompt_without_a_partner_bracket_goes_on(void **state)
{
    (void)state;
    ONE_CHUNK("(unbalanced", {"unbalanced", 1.1});
    ONE_CHUNK("a [b (c", {"a", 1}, {"b", 1 / 1.1}, {"c", 1});
    ONE_CHUNK("a) b] c", {"a) b] c", 1});
    ONE_CHUNK("time: 12:30 :1.5) x", {"time: 12:30 :1.5) x", 1});
    ONE_CHUNK("(a:b:1.5)", {"a:b", 1.5});
    ONE_CHUNK("(a:1.2.3)", {"a:1.2.3", 1.1});
    ONE_CHUNK("(a:)", {"a:", 1.1});
    ONE_CHUNK("[a:2]", {"a:2", 1 / 1.1});
}

static void prompt_escapes_are_the_character(void **state)
{
    (void)state;
    ONE_CHUNK("\\(literal\\]", {"(literal]", 1});
    ONE_CHUNK("a \\(b\\) (c\\):1.2)", {"a (b) ", 1}, {"c)", 1.2});
    ONE_CHUNK("a\\\\b", {"a\\b", 1});
    ONE_CHUNK("a\\b\\", {"ab", 1}); /* one that escapes nothing goes, as in the reference */
    struct prompt p = parsed("(a:1.2) BREAK \\(", PROMPT_PLAIN);
    struct token_list l = {.max = 100};
    static const char text[] = "(a:1.2) BREAK \\(";
    assert_int_equal(encode(bpe, text, sizeof text - 1, &l, NULL), 0);
    assert_int_equal(p.n_chunks, 1);
    assert_false(p.weighted);
    assert_memory_equal(p.ids + 1, l.ids, l.n * sizeof *l.ids);
    free(l.ids);
}

/* Tokens of chunk k between bos and eos. */
static int body(const struct prompt *p, int k)
{
    const struct clip_bpe_info *info = clip_bpe_info(bpe);
    const int32_t *ids = p->ids + k * PROMPT_CHUNK;
    assert_int_equal(ids[0], info->bos);
    for (int i = 1; i < PROMPT_CHUNK; i++)
        if (ids[i] == info->eos)
            return i - 1;
    fail_msg("chunk %d has no end", k);
    return 0;
}

static void prompt_breaks_where_it_is_told(void **state)
{
    (void)state;
    struct prompt p = parsed("a cat BREAK\n a dog", 0);
    assert_int_equal(p.n_chunks, 2);
    assert_int_equal(body(&p, 0), body(&p, 1));
    p = parsed("a cat BREAKfast, aBREAK, BREAK_, \xC3\xA9"
               "BREAK",
               0);
    assert_int_equal(p.n_chunks, 1);
    p = parsed("a \xF0\x9F\x94\xA5"
               "BREAK\xF0\x9F\x94\xA5 b",
               0); /* an emoji is no letter */
    assert_int_equal(p.n_chunks, 2);
    p = parsed("BREAK a BREAK BREAK b BREAK", 0);
    assert_int_equal(p.n_chunks, 4);
    assert_int_equal(body(&p, 0), 0);
    assert_int_equal(body(&p, 2), 0);
    p = parsed("(a BREAK b:1.5)", 0); /* also within brackets */
    assert_int_equal(p.n_chunks, 2);
    assert_true(p.weights[1] == 1.5f && p.weights[PROMPT_CHUNK + 1] == 1.5f);
}

static char *repeated(const char *word, int n)
{
    size_t len = strlen(word);
    char *s = arena_alloc(&arena, len * (size_t)n + 1);
    for (int i = 0; i < n; i++)
        memcpy(s + (size_t)i * len, word, len);
    return s;
}

static void prompt_of_more_tokens_has_more_chunks(void **state)
{
    (void)state;
    struct prompt p = parsed(repeated("1 ", 75), 0);
    assert_int_equal(p.n_chunks, 1);
    assert_int_equal(body(&p, 0), 75);
    p = parsed(repeated("1 ", 76), 0);
    assert_int_equal(p.n_chunks, 2);
    assert_int_equal(body(&p, 1), 1);
    p = parsed(repeated("1 ", 75 * PROMPT_MAX_CHUNKS), 0);
    assert_int_equal(p.n_chunks, PROMPT_MAX_CHUNKS);
    assert_int_equal(body(&p, PROMPT_MAX_CHUNKS - 1), 75);
    const char *text = repeated("1 ", 75 * PROMPT_MAX_CHUNKS + 1);
    assert_int_equal(refused(text, strlen(text), "tokens"), ERR_TOOBIG);
    text = repeated("1 BREAK ", PROMPT_MAX_CHUNKS - 1);
    assert_int_equal(parsed(text, 0).n_chunks, PROMPT_MAX_CHUNKS - 1);
    text = repeated("1 BREAK ", PROMPT_MAX_CHUNKS + 1);
    assert_int_equal(refused(text, strlen(text), "chunks"), ERR_TOOBIG);
}

static void prompt_prefers_to_part_at_a_comma(void **state)
{
    (void)state;
    char *text = arena_printf(&arena, "%s, %s", repeated("1 ", 60), repeated("2 ", 20));
    struct prompt p = parsed(text, 0); /* 60, the comma, 14 more: those go to the next chunk */
    assert_int_equal(p.n_chunks, 2);
    assert_int_equal(body(&p, 0), 61);
    assert_int_equal(body(&p, 1), 20);
    assert_int_equal(p.ids[PROMPT_CHUNK + 1], p.ids[PROMPT_CHUNK + 20]);
    text = arena_printf(&arena, "%s, %s", repeated("1 ", 50), repeated("2 ", 30));
    p = parsed(text, 0); /* the comma is too far away */
    assert_int_equal(body(&p, 0), 75);
    assert_int_equal(body(&p, 1), 6);
    text = arena_printf(&arena, "%s,,,", repeated("1 ", 74));
    p = parsed(text, 0);
    assert_int_equal(p.n_chunks, 2);
}

static void prompt_can_be_extended_to_another(void **state)
{
    (void)state;
    struct prompt p = parsed("a (cat)", 0);
    struct err e;
    assert_int_equal(prompt_extend(&p, bpe, 3, &arena, &e), 0);
    assert_int_equal(p.n_chunks, 3);
    assert_true(p.weighted);
    assert_int_equal(body(&p, 2), 0);
    assert_int_equal(p.ids[2 * PROMPT_CHUNK + 2], clip_bpe_info(bpe)->pad);
    assert_true(p.weights[3 * PROMPT_CHUNK - 1] == 1);
    assert_int_equal(prompt_extend(&p, bpe, 2, &arena, &e), 0);
    assert_int_equal(p.n_chunks, 3);
    assert_int_equal(prompt_extend(&p, bpe, PROMPT_MAX_CHUNKS + 1, &arena, &e), ERR_TOOBIG);
}

static void prompt_has_limits(void **state)
{
    (void)state;
    const char *text = repeated("(", PROMPT_MAX_DEPTH);
    assert_int_equal(parsed(text, 0).n_chunks, 1);
    text = repeated("(", PROMPT_MAX_DEPTH + 1);
    assert_int_equal(refused(text, strlen(text), "nested"), ERR_INVALID);
    text = repeated("[", PROMPT_MAX_DEPTH + 1);
    assert_int_equal(refused(text, strlen(text), "nested"), ERR_INVALID);
    text = repeated(" ", PROMPT_MAX_BYTES + 1);
    assert_int_equal(refused(text, PROMPT_MAX_BYTES + 1, "bytes"), ERR_TOOBIG);
    assert_int_equal(parsed(repeated("()", PROMPT_MAX_BYTES / 2), 0).n_chunks, 1);
    struct prompt p = parsed("(a:99999999999) (b:-1000)", 0);
    assert_true(p.weights[1] == 100);
    bool low = false;
    for (int i = 0; i < PROMPT_CHUNK; i++)
        low = low || p.weights[i] == -100;
    assert_true(low);
    assert_int_equal(prompt_parse(&p, bpe, "a\0b(\xff\xfe)", 7, 0, &arena, NULL), 0);
    struct arena tiny;
    struct err e;
    arena_init(&tiny, 64);
    assert_int_equal(prompt_parse(&p, bpe, "a", 1, 0, &tiny, &e), ERR_NOMEM);
    arena_free(&tiny);
}

/* Ids of the text of the first chunk, with learned words. */
static void with_words(const char *text, const char *same, int at, int n)
{
    static const struct prompt_word list[] = {{"glow", 1 << 24, 2}, {"<thing>", (1 << 24) + 2, 1}};
    const struct prompt_words words = {list, 2};
    const struct prompt_source src = {.bpe = bpe, .words = &words};
    struct prompt p, plain = parsed(same, 0);
    struct err e;
    if (prompt_parse_with(&p, &src, text, strlen(text), &arena, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(p.n_tokens, plain.n_tokens + n);
    for (int i = 0, k = 0; i < p.n_tokens; i++) {
        if (i >= at && i < at + n)
            assert_true(p.ids[1 + i] >= 1 << 24);
        else
            assert_int_equal(p.ids[1 + i], plain.ids[1 + k++]);
    }
}

static void prompt_learned_words_are_tokens_of_their_own(void **state)
{
    (void)state;
    with_words("glow cat", "cat", 0, 2);
    with_words("GLOW cat", "cat", 0, 2);
    with_words("glows cat", "glows cat", 0, 0);
    with_words("aglow", "aglow", 0, 0);
    with_words("(glow:1.5)", "", 0, 2);
    with_words("<thing>", "", 0, 1);
    with_words("<Thing>cat", "cat", 0, 1);
    with_words("<thing", "<thing", 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompt_weighs_what_stands_in_brackets),
        cmocka_unit_test(prompt_without_a_partner_bracket_goes_on),
        cmocka_unit_test(prompt_escapes_are_the_character),
        cmocka_unit_test(prompt_breaks_where_it_is_told),
        cmocka_unit_test(prompt_of_more_tokens_has_more_chunks),
        cmocka_unit_test(prompt_prefers_to_part_at_a_comma),
        cmocka_unit_test(prompt_can_be_extended_to_another),
        cmocka_unit_test(prompt_has_limits),
        cmocka_unit_test(prompt_learned_words_are_tokens_of_their_own),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
