/* Drafts: what is found in a text, when it is worth its rows, and that answers are the same with drafts and
 * without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "engine/draft.h"
#include "tests/engine_ready.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static void draft_goes_on_as_the_longest_match_did(void **state)
{
    (void)state;
    struct draft d;
    draft_begin(&d);
    /* 2 3 stands twice; with the 1 before it only once, further up. */
    static const int32_t ids[] = {1, 2, 3, 40, 41, 9, 2, 3, 50, 51, 1, 2, 3};
    draft_find(&d, ids, COUNT(ids), 2);
    assert_int_equal(d.n, 2);
    assert_int_equal(d.ids[0], 40);
    assert_int_equal(d.ids[1], 41);
    /* The latest one of two that are as long. */
    static const int32_t twice[] = {2, 3, 40, 2, 3, 50, 2, 3};
    draft_find(&d, twice, COUNT(twice), 1);
    assert_int_equal(d.n, 1);
    assert_int_equal(d.ids[0], 50);
}

static void draft_of_a_period_repeats_it(void **state)
{
    (void)state;
    struct draft d;
    static const int32_t ids[] = {8, 1, 2, 3, 1, 2, 3, 1, 2};
    draft_find(&d, ids, COUNT(ids), DRAFT_MAX + 100);
    assert_int_equal(d.n, DRAFT_MAX);
    static const int32_t period[] = {3, 1, 2};
    for (int i = 0; i < d.n; i++)
        assert_int_equal(d.ids[i], period[i % 3]);
}

static void draft_is_empty_where_nothing_repeats(void **state)
{
    (void)state;
    struct draft d;
    static const int32_t ids[] = {1, 2, 3, 4, 9, 4}; /* one token alike is not enough */
    for (int n = 1; n <= COUNT(ids); n++) {
        draft_find(&d, ids, n, 8);
        assert_int_equal(d.n, 0);
    }
    static const int32_t pair[] = {5, 6, 5, 6};
    draft_find(&d, pair, COUNT(pair), 0);
    assert_int_equal(d.n, 0);
    draft_find(&d, pair, COUNT(pair), -1);
    assert_int_equal(d.n, 0);
}

/* The answer [n] under a guide; *d is the draft after it. */
static struct draft_guide followed(const int32_t *guide, int n_guide, const int32_t *answer, int n,
                                   struct draft *d)
{
    struct draft_guide g;
    int32_t ids[32] = {7, 7}; /* the prompt */
    memcpy(ids + 2, answer, (size_t)n * sizeof *ids);
    draft_guide_begin(&g, guide, n_guide, 2);
    for (int i = 2; i <= n + 2; i++) /* token by token, and what was seen is not seen again */
        draft_guide_follow(&g, ids, i);
    draft_begin(d);
    if (!draft_guide_find(d, &g, 3))
        d->n = -1;
    return g;
}

static void a_guide_is_the_draft_where_the_answer_follows_it(void **state)
{
    (void)state;
    static const int32_t guide[] = {1, 2, 3, 4, 5, 6, 3, 4, 8, 9};
    struct draft d;
    struct draft_guide g = followed(guide, COUNT(guide), guide, 0, &d);
    assert_int_equal(d.n, 3); /* from the first token on */
    assert_memory_equal(d.ids, guide, 3 * sizeof *guide);
    static const int32_t same[] = {1, 2, 3, 4, 5, 6, 3, 4};
    g = followed(guide, COUNT(guide), same, COUNT(same), &d);
    assert_int_equal(g.n_right, 8);
    assert_int_equal(d.n, 2);
    assert_int_equal(d.ids[0], 8);
    static const int32_t other[] = {1, 2, 3, 4, 50};
    g = followed(guide, COUNT(guide), other, COUNT(other), &d);
    assert_int_equal(g.n_right, 4);
    assert_int_equal(d.n, -1);
    /* One token is another: the next two say where it goes on. */
    static const int32_t changed[] = {1, 2, 3, 4, 50, 6, 3};
    g = followed(guide, COUNT(guide), changed, COUNT(changed), &d);
    assert_int_equal(g.n_right, 6);
    assert_int_equal(d.ids[0], 4);
    /* 3 4 stands twice: the place that is nearest to where the answer left the text. */
    static const int32_t more[] = {1, 2, 50, 3, 4};
    g = followed(guide, COUNT(guide), more, COUNT(more), &d);
    assert_int_equal(d.ids[0], 5);
    static const int32_t fewer[] = {1, 2, 3, 4, 5, 9, 3, 4};
    g = followed(guide, COUNT(guide), fewer, COUNT(fewer), &d);
    assert_int_equal(d.ids[0], 8);
    g = followed(guide, COUNT(guide), guide, COUNT(guide), &d); /* at its end there is none */
    assert_int_equal(g.n_right, COUNT(guide));
    assert_int_equal(d.n, -1);
    g = followed(guide, 0, same, COUNT(same), &d);
    assert_int_equal(g.n_right, 0);
    assert_int_equal(d.n, -1);
}

static void draft_gets_rows_while_it_is_right(void **state)
{
    (void)state;
    struct draft_costs costs = {.row = 0};
    struct draft d = {.ids = {0}}, *one[] = {&d};
    int n;
    draft_begin(&d);
    d.n = 8;
    draft_share(one, 1, &costs, 16, &n);
    assert_in_range(n, 1, 7);
    for (int i = 0; i < 60; i++)
        assert_true(draft_check(&d, 0, 0));
    draft_share(one, 1, &costs, 16, &n);
    assert_int_equal(n, 8);
    draft_share(one, 1, &costs, 5, &n);
    assert_int_equal(n, 5);
    for (int i = 0; i < 60; i++)
        assert_false(draft_check(&d, 0, 1));
    draft_share(one, 1, &costs, 16, &n);
    assert_int_equal(n, 0);
}

static void draft_shares_rows_by_who_is_right(void **state)
{
    (void)state;
    struct draft_costs costs = {.row = 0};
    struct draft good = {.n = 4, .right = 0.95F}, bad = {.n = 4, .right = 0.1F};
    struct draft none = {.n = 0, .right = 1}, *all[] = {&bad, &good, &none};
    int n[3];
    draft_share(all, 3, &costs, 16, n);
    assert_int_equal(n[0], 0);
    assert_int_equal(n[1], 2); /* more would make the others wait longer than it gains */
    assert_int_equal(n[2], 0);
    draft_share(all + 1, 1, &costs, 16, n);
    assert_int_equal(n[0], 4);
}

/* A machine on which rows come by the four. */
static void draft_learns_what_steps_cost(void **state)
{
    (void)state;
    struct draft_costs costs = {.row = 0};
    struct draft d = {.n = 8, .right = 0.8F}, *one[] = {&d};
    int n;
    for (int i = 0; i < 2000; i++) {
        const int n_rows = 1 + i % 12;
        draft_measured(&costs, n_rows, 1000.0 * ((n_rows + 3) / 4));
    }
    draft_share(one, 1, &costs, 16, &n);
    assert_int_equal(n, 3);
    /* A slow first step says nothing of the others. */
    costs = (struct draft_costs){.row = 0};
    draft_measured(&costs, 1, 20000);
    for (int i = 0; i < 30; i++)
        draft_measured(&costs, 1, 1000);
    draft_share(one, 1, &costs, 16, &n);
    assert_true(n > 0);
    /* One on which a row costs as much as any other, and one on which none costs anything. */
    for (int i = 0; i < 2000; i++)
        draft_measured(&costs, 1 + i % 12, 1000.0 * (1 + i % 12));
    draft_share(one, 1, &costs, 16, &n);
    assert_int_equal(n, 0);
    for (int i = 0; i < 2000; i++)
        draft_measured(&costs, 1 + i % 12, 1000);
    draft_share(one, 1, &costs, 16, &n);
    assert_int_equal(n, 8);
    draft_measured(&costs, 0, 1000);
    draft_measured(&costs, DRAFT_ROWS + 1, 1000);
    draft_measured(&costs, 4, 0);
}

/* --- in the engine --- */

static struct engine *open_engine(int draft_tokens, enum dtype kv_type)
{
    static const struct engine_model model = {.id = "tiny",
                                              .path = "tests/fixtures/tiny-llama.gguf"};
    const struct engine_options o = {.device = "cpu",
                                     .n_threads = 2,
                                     .n_models = 1,
                                     .models = &model,
                                     .kv_type = kv_type,
                                     .cache_bytes = (size_t)1 << 26,
                                     .prefix_sharing = true,
                                     .draft_tokens = draft_tokens};
    return engine_ready(&o);
}

/* A text that repeats itself, asked for in one of several ways. */
static struct job *make_job(int kind)
{
    static const struct logit_bias bias[] = {{21, 5}};
    static const char *const stop[] = {"zz", "the"};
    struct job *j = job_new(1 << 20);
    struct text_spec *s = &j->text;
    const int n = 90;
    int32_t *ids = arena_array(&j->arena, (size_t)n, sizeof *ids);
    int32_t *len = arena_alloc(&j->arena, sizeof *len);
    const int32_t **list = arena_alloc(&j->arena, sizeof(int32_t *));
    for (int i = 0; i < n; i++)
        ids[i] = 20 + (i * i) % (7 + kind);
    *list = ids;
    *len = n;
    s->prompts = list;
    s->n_prompt = len;
    s->n_prompts = 1;
    s->n = kind % 3 ? 1 : 2;
    s->max_tokens = 100 + kind;
    s->ignore_eos = true;
    s->sample.seed = (uint64_t)kind;
    s->sample.temperature = kind % 2 ? 0.4F : 0;
    s->sample.repetition_penalty = kind % 4 == 3 ? 1.1F : 1;
    s->logprobs = kind == 4;
    s->top_logprobs = kind == 4 ? 2 : 0;
    s->echo_logprobs = kind == 5;
    s->bias = bias;
    s->n_bias = kind == 6;
    s->stop = stop;
    s->n_stop = kind == 7 ? COUNT(stop) : 0;
    s->prediction = ids; /* anything: no answer may be another for it */
    s->n_prediction = kind % 4 == 2 ? n : 0;
    return j;
}

/* All that the job gave out, choice after choice. */
static void run(struct engine *g, struct job *j, struct buf *out)
{
    struct buf part[2];
    struct err e = {0};
    for (int i = 0; i < COUNT(part); i++)
        buf_init(&part[i], 1 << 20);
    assert_int_equal(engine_submit(g, j, &e), 0);
    for (bool done = false; !done;) {
        struct event *ev = job_poll(j);
        if (!ev) {
            pause_ms(1);
            continue;
        }
        struct buf *to = &part[ev->index];
        buf_add(to, ev->text, ev->len);
        for (int i = 0; i < ev->n_tokens; i++)
            buf_add(to, &ev->tokens[i].logprob, sizeof(float));
        if (ev->kind == EV_FINISH)
            buf_printf(to, "(%d %s %d)", ev->finish, ev->stop ? ev->stop : "",
                       ev->usage.completion_tokens);
        assert_int_not_equal(ev->kind, EV_ERROR);
        done = ev->kind == EV_DONE;
        job_event_free(ev);
    }
    for (int i = 0; i < COUNT(part); i++) {
        buf_add(out, part[i].data, part[i].len);
        buf_free(&part[i]);
    }
    job_unref(j);
}

static void answers_are_the_same_with_drafts(void **state)
{
    (void)state;
    enum { KINDS = 8 };
    static const enum dtype kv_types[] = {DTYPE_F16, DTYPE_Q8_0};
    for (int t = 0; t < COUNT(kv_types); t++) {
        struct engine *plain = open_engine(0, kv_types[t]);
        struct engine *drafting = open_engine(8, kv_types[t]);
        for (int kind = 0; kind < KINDS; kind++) {
            struct buf a, b;
            buf_init(&a, 1 << 20);
            buf_init(&b, 1 << 20);
            run(plain, make_job(kind), &a);
            run(drafting, make_job(kind), &b);
            assert_true(a.len > 0);
            assert_int_equal(a.len, b.len);
            assert_memory_equal(a.data, b.data, a.len);
            buf_free(&a);
            buf_free(&b);
        }
        struct engine_stats without, with;
        engine_stats(plain, &without);
        engine_stats(drafting, &with);
        assert_int_equal(without.draft_tokens, 0);
        assert_int_equal(with.generated_tokens, without.generated_tokens);
        assert_true(with.draft_accepted > 0);
        assert_true(with.draft_accepted <= with.draft_tokens);
        assert_true(with.steps < without.steps);
        assert_int_equal(with.pages_used, 0);
        engine_close(plain);
        engine_close(drafting);
    }
}

int main(void)
{
    log_init(LOG_ERROR, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draft_goes_on_as_the_longest_match_did),
        cmocka_unit_test(draft_of_a_period_repeats_it),
        cmocka_unit_test(draft_is_empty_where_nothing_repeats),
        cmocka_unit_test(a_guide_is_the_draft_where_the_answer_follows_it),
        cmocka_unit_test(draft_gets_rows_while_it_is_right),
        cmocka_unit_test(draft_shares_rows_by_who_is_right),
        cmocka_unit_test(draft_learns_what_steps_cost),
        cmocka_unit_test(answers_are_the_same_with_drafts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
