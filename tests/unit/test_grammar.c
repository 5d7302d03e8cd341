/* Which tokens a grammar lets through: what is remembered of it is what would be worked out again, whoever shares
 * it and however often it is forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/gbnf.h"
#include "base/arena.h"
#include "base/rng.h"
#include "engine/text/grammar_int.h"
#include "tests/unit/tokenizer_gguf.h"

enum { N_BYTES = 256, N = 400, END = N - 1, SHOWN = N - 2, WORDS = (N + 31) / 32 };

static struct tg file;

static const char json[] = "root ::= v\n"
                           "v ::= o | a | s | \"true\" | \"tram\" | [0-9]+\n"
                           "o ::= \"{\" (s \":\" v (\",\" s \":\" v)*)? \"}\"\n"
                           "a ::= \"[\" (v (\",\" v)*)? \"]\"\n"
                           "s ::= \"\\\"\" [^\"\\x00-\\x1f]{0,9} \"\\\"\"\n";
/* a text is at many places at once: each bracket may be one of several */
static const char many[] = "root ::= a* b*\n"
                           "a ::= \"(\" a \"x\" | \"(\" a \"y\" | \"(\" a | \"z\"\n"
                           "b ::= \"(\" b \"xy\" | [a-z]{1,40} | [a-m]{2,30} \"!\"\n";

/* Every byte, words of those that the grammars want, and two control tokens. */
static struct tokenizer *open_vocab(void)
{
    static const char letters[] = "{}[]():,\"truexyzabm0129!";
    static char names[N][16];
    const char *tokens[N];
    int32_t types[N];
    float scores[N] = {0};
    for (int i = 0; i < N; i++) {
        tokens[i] = names[i];
        types[i] = i < N_BYTES ? 6 : i < SHOWN ? 1 : 3;
        if (i < N_BYTES)
            snprintf(names[i], sizeof names[i], "<0x%02X>", (unsigned)i);
        for (int k = 0; i >= N_BYTES && k < 2 + i % 5; k++)
            names[i][k] =
                letters[(size_t)(rng_uniform(7, (uint64_t)i, (uint64_t)k) * (sizeof letters - 1))];
    }
    snprintf(names[SHOWN], sizeof names[0], "tram");
    snprintf(names[END], sizeof names[0], "</s>");
    tg_begin(&file);
    tg_str(&file, "model", "llama");
    tg_strs(&file, "tokens", tokens, N);
    tg_ints(&file, "token_type", types, N);
    tg_floats(&file, "scores", scores, N);
    tg_key(&file, "eos_token_id", GT_U32);
    tg_u32(&file, END);
    struct tokenizer *t;
    struct err e = {0};
    if (tg_open(&file, &t, &e))
        fail_msg("%s", e.msg);
    return t;
}

static const struct grammar *build(struct arena *a, const char *text, bool show)
{
    struct err e = {0};
    struct grammar *g = grammar_new(a);
    grammar_sym top;
    if (gbnf_compile(&top, g, a, text, "grammar", &e))
        fail_msg("%s", e.msg);
    if (show)
        grammar_show(g, SHOWN);
    grammar_start(g, top);
    assert_false(grammar_failed(g));
    return g;
}

/* A token among those that are allowed, or -1. */
static int32_t pick(const uint32_t *allowed, uint64_t seed, int step)
{
    int32_t ids[N], n = 0;
    for (int32_t i = 0; i < N; i++)
        if (allowed[i / 32] >> i % 32 & 1)
            ids[n++] = i;
    return n > 0 ? ids[(int)(rng_uniform(seed, 0, (uint64_t)step) * n)] : -1;
}

/* Every token is marked just when it is allowed; the run goes on by one of them.  false: the text is over. */
static bool step(const struct grammar_vocab *w, struct grammar_run *r, uint64_t seed, int i,
                 int32_t *id)
{
    uint32_t allowed[WORDS], again[WORDS];
    assert_int_equal(grammar_vocab_mark(w, r, true, allowed, NULL), 0);
    for (int32_t k = 0; k < N; k++)
        assert_int_equal(allowed[k / 32] >> k % 32 & 1, grammar_vocab_allow(w, r, k, true));
    assert_int_equal(grammar_vocab_mark(w, r, true, again, NULL), 0);
    assert_memory_equal(allowed, again, sizeof allowed);
    *id = pick(allowed, seed, i);
    assert_true(*id >= 0);
    if (*id == END)
        return false;
    grammar_vocab_push(w, r, *id);
    return !grammar_run_ended(r);
}

static void each_text(const char *source)
{
    struct tokenizer *t = open_vocab();
    struct grammar_vocab *w;
    struct arena arena;
    arena_init(&arena, 8 << 20);
    assert_int_equal(grammar_vocab_open(&w, t, 1 << 20, NULL), 0);
    for (uint64_t seed = 0; seed < 12; seed++) {
        const struct grammar *g = build(&arena, source, seed % 3 == 0);
        struct grammar_run *alone, *shared, *other, *poor;
        struct grammar_auto *a;
        assert_int_equal(grammar_run_open(&alone, g, NULL), 0);
        assert_int_equal(grammar_vocab_run(w, &shared, g, NULL), 0);
        assert_int_equal(grammar_vocab_run(w, &other, g, NULL), 0);
        assert_int_equal(grammar_auto_open(&a, g->code, 0, NULL), 0); /* forgets at every turn */
        assert_int_equal(grammar_auto_run(&poor, a, NULL), 0);
        grammar_auto_release(a);
        bool more = true;
        for (int i = 0; i < 40 && more; i++) {
            int32_t id[4];
            more = step(w, alone, seed, i, &id[0]);
            assert_int_equal(step(w, shared, seed, i, &id[1]), more);
            assert_int_equal(step(w, poor, seed, i, &id[2]), more);
            if (i < 20 && !step(w, other, seed + 100, i, &id[3]))
                i = 20;
            assert_int_equal(id[0], id[1]);
            assert_int_equal(id[0], id[2]);
        }
        grammar_run_close(alone);
        grammar_run_close(shared);
        grammar_run_close(other);
        grammar_run_close(poor);
    }
    grammar_vocab_close(w);
    tokenizer_close(t);
    arena_free(&arena);
}

static void marks_are_what_is_allowed_one_by_one(void **state)
{
    (void)state;
    each_text(json);
}

static void a_text_may_be_at_many_places(void **state)
{
    (void)state;
    each_text(many);
}

static void equal_grammars_share_what_is_known(void **state)
{
    (void)state;
    struct tokenizer *t = open_vocab();
    struct grammar_vocab *w;
    struct grammar_run *a, *b, *c, *d;
    struct arena arenas[2];
    assert_int_equal(grammar_vocab_open(&w, t, 1 << 20, NULL), 0);
    for (int i = 0; i < 2; i++)
        arena_init(&arenas[i], 8 << 20);
    assert_int_equal(grammar_vocab_run(w, &a, build(&arenas[0], json, false), NULL), 0);
    assert_int_equal(grammar_vocab_run(w, &b, build(&arenas[1], json, false), NULL), 0);
    assert_int_equal(grammar_vocab_run(w, &c, build(&arenas[1], many, false), NULL), 0);
    assert_int_equal(grammar_vocab_run(w, &d, build(&arenas[1], json, true), NULL), 0);
    assert_ptr_equal(a->a, b->a);
    assert_ptr_not_equal(a->a, c->a);
    assert_ptr_not_equal(a->a, d->a); /* it shows a control token */
    arena_free(&arenas[0]);           /* the grammars are not needed any more */
    arena_free(&arenas[1]);
    assert_true(grammar_run_push(a, "[{\"", 3));
    assert_true(grammar_run_push(b, "tr", 2));
    assert_false(grammar_run_push(b, "]", 1));
    assert_true(grammar_run_push(b, "ue", 2));
    assert_true(grammar_run_ended(b));
    grammar_run_close(a);
    grammar_run_close(b);
    grammar_run_close(c);
    grammar_run_close(d);
    grammar_vocab_close(w);
    tokenizer_close(t);
}

static void what_nobody_uses_makes_room(void **state)
{
    (void)state;
    struct tokenizer *t = open_vocab();
    struct grammar_vocab *w;
    struct grammar_run *first, *r;
    struct arena arena;
    arena_init(&arena, 64 << 20);
    assert_int_equal(grammar_vocab_open(&w, t, 200 << 10, NULL), 0);
    assert_int_equal(grammar_vocab_run(w, &first, build(&arena, json, false), NULL), 0);
    for (int i = 0; i < 200; i++) {
        char text[64];
        uint32_t allowed[WORDS];
        snprintf(text, sizeof text, "root ::= \"%d\" [a-z]{0,200} \"%d\"", i, i);
        assert_int_equal(grammar_vocab_run(w, &r, build(&arena, text, false), NULL), 0);
        snprintf(text, sizeof text, "%daaaaaaaaaaaaaa", i);
        assert_true(grammar_run_push(r, text, strlen(text)));
        assert_int_equal(grammar_vocab_mark(w, r, true, allowed, NULL), 0);
        assert_true(allowed['b' / 32] >> 'b' % 32 & 1);
        grammar_run_close(r);
        assert_true(grammar_vocab_bytes(w) < 300 << 10);
    }
    assert_true(grammar_run_push(first, "[true]", 6)); /* it is in use, and stays */
    assert_true(grammar_run_ended(first));
    grammar_run_close(first);
    grammar_vocab_close(w);
    tokenizer_close(t);
    arena_free(&arena);
}

/* Each of n alternatives may begin anywhere: that many places after every byte. */
static void be_wide(char *out, size_t size, int n)
{
    size_t at = (size_t)snprintf(out, size, "root ::= \"never\"");
    for (int i = 0; i < n; i++)
        at += (size_t)snprintf(out + at, size - at, " | [ -~]* \"%c\" [ -~]{%d} \"!\"",
                               'a' + i % 26, 20 + i % 7);
}

static void a_form_of_too_many_places_is_refused(void **state)
{
    (void)state;
    struct tokenizer *t = open_vocab();
    struct grammar_vocab *w;
    struct arena arena;
    arena_init(&arena, 64 << 20);
    assert_int_equal(grammar_vocab_open(&w, t, 1 << 20, NULL), 0);
    for (int n = 4; n <= 400; n *= 10) {
        static char text[1 << 16];
        uint32_t allowed[WORDS];
        struct grammar_run *r;
        struct err e = {0};
        be_wide(text, sizeof text, n);
        assert_int_equal(grammar_vocab_run(w, &r, build(&arena, text, false), NULL), 0);
        int rc = grammar_vocab_mark(w, r, true, allowed, &e);
        assert_int_equal(rc, n < 400 ? 0 : ERR_TOOBIG);
        assert_true(grammar_vocab_allow(w, r, 'b', true)); /* it can still be asked about one */
        assert_false(grammar_vocab_allow(w, r, '\n', true));
        grammar_run_close(r);
    }
    grammar_vocab_close(w);
    tokenizer_close(t);
    arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks_are_what_is_allowed_one_by_one),
        cmocka_unit_test(a_text_may_be_at_many_places),
        cmocka_unit_test(equal_grammars_share_what_is_known),
        cmocka_unit_test(what_nobody_uses_makes_room),
        cmocka_unit_test(a_form_of_too_many_places_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
