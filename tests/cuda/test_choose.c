/* Tokens chosen by the (emulated) device: those of the CPU's sampler for the same seed, the same alone and in
 * company, and with steps that are launched ahead of them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "engine/sample.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/cuda/answer.h"
#include "tests/cuemu/cuemu.h"
#include "tests/engine_ready.h"

/* ---- against the CPU's sampler ---- */

enum { VOCAB = 1000, ROWS = 8, ROUNDS = 12, HISTORY = 40 };

static const struct sample_params params[ROWS] = {
    {.temperature = 0, .top_p = 1, .typical_p = 1, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1},
    {.temperature = 0.7f, .top_p = 0.9f, .typical_p = 1, .repetition_penalty = 1},
    {.temperature = 1.3f, .top_p = 1, .top_k = 40, .typical_p = 1, .repetition_penalty = 1},
    {.temperature = 0.9f, .top_p = 0.8f, .top_k = 10, .typical_p = 1, .repetition_penalty = 1},
    {.temperature = 0, .top_p = 1, .typical_p = 1, .repetition_penalty = 1.3f, .repeat_last_n = -1},
    {.temperature = 1,
     .top_p = 0.95f,
     .typical_p = 1,
     .repetition_penalty = 1.1f,
     .presence_penalty = 0.5f,
     .frequency_penalty = 0.2f,
     .repeat_last_n = 16},
    {.temperature = 0.5f,
     .top_p = 1,
     .typical_p = 1,
     .repetition_penalty = 1,
     .presence_penalty = -0.5f,
     .frequency_penalty = 1.5f,
     .repeat_last_n = -1},
};

static float gauss(uint64_t stream, uint64_t i)
{
    return (float)(sqrt(-2 * log(rng_uniform(9, stream, 2 * i) + 1e-12)) *
                   cos(6.283185307179586 * rng_uniform(9, stream, 2 * i + 1)));
}

static struct choose_row row_of(const struct sample_params *p, int r, int round)
{
    const int window = p->repeat_last_n > 0 ? p->repeat_last_n : HISTORY;
    const bool edits = p->repetition_penalty != 1 || p->presence_penalty != 0;
    return (struct choose_row){
        .temperature = p->temperature,
        .top_p = p->top_p,
        .top_k = p->top_k,
        .repetition = p->repetition_penalty,
        .presence = p->presence_penalty,
        .frequency = p->frequency_penalty,
        .u = (float)rng_uniform((uint64_t)round, (uint64_t)r, HISTORY),
        .first = r * HISTORY + HISTORY - window,
        .n_ids = edits ? window : 0,
        .n_prompt = HISTORY / 2 > HISTORY - window ? HISTORY / 2 - (HISTORY - window) : 0};
}

static void the_cpus_tokens(void **state)
{
    (void)state;
    static float logits[ROWS * VOCAB];
    static int32_t ids[ROWS * HISTORY];
    struct err e = {0};
    struct backend *be;
    struct sample *cpu;
    cuemu_reset();
    assert_int_equal(cuda_backend_open(&be, 0, &e), 0);
    assert_int_equal(sample_open(&cpu, VOCAB, &e), 0);
    be->graphs = true;
    float *device = be->alloc(be, sizeof logits, &e);
    int32_t *there = be->alloc(be, ROWS * sizeof *there, &e);
    int32_t *here = be->host_alloc(be, CHOOSE_SLOTS * ROWS * sizeof *here, &e);
    for (int round = 0; round < ROUNDS; round++) {
        struct choose_row rows[ROWS];
        for (int i = 0; i < ROWS * VOCAB; i++)
            logits[i] = 3 * gauss((uint64_t)round, (uint64_t)i);
        for (int i = 0; i < ROWS * HISTORY; i++)
            ids[i] = (int32_t)(rng_uniform(7, (uint64_t)round, (uint64_t)i) * VOCAB / 20);
        for (int r = 0; r < ROWS; r++)
            rows[r] = row_of(&params[r], r, round);
        struct tensor t = {.type = DTYPE_F32, .ndim = 2, .dims = {ROWS, VOCAB}, .data = device};
        be->upload(be, device, logits, sizeof logits);
        int32_t *got = here + round % 2 * ROWS;
        be->choose(be, &(struct op_choose){.logits = &t,
                                           .rows = rows,
                                           .ids = ids,
                                           .n_ids = ROWS * HISTORY,
                                           .there = there,
                                           .here = got,
                                           .slot = round % 2});
        assert_int_equal(be->chosen(be, round % 2, &e), 0);
        for (int r = 0; r < ROWS; r++) {
            struct sample_params p = params[r];
            p.seed = (uint64_t)round;
            struct token_info info;
            const struct sample_args a = {.params = &p,
                                          .ids = ids + r * HISTORY,
                                          .n_ids = HISTORY,
                                          .n_prompt = HISTORY / 2,
                                          .stream = (uint64_t)r};
            assert_int_equal(sample_next(cpu, logits + r * VOCAB, &a, &info, &e), 0);
            if (got[r] != info.id)
                fail_msg("round %d, row %d: %d, the CPU takes %d", round, r, got[r], info.id);
        }
    }
    sample_close(cpu);
    be->host_free(be, here);
    be->free(be, there);
    be->free(be, device);
    be->close(be);
}

static void no_finite_logits(void **state)
{
    (void)state;
    float logits[64];
    struct err e = {0};
    struct backend *be;
    assert_int_equal(cuda_backend_open(&be, 0, &e), 0);
    for (int i = 0; i < 64; i++)
        logits[i] = NAN;
    float *device = be->alloc(be, sizeof logits, &e);
    int32_t *there = be->alloc(be, sizeof *there, &e);
    int32_t *here = be->host_alloc(be, sizeof *here, &e);
    struct tensor t = {.type = DTYPE_F32, .ndim = 2, .dims = {1, 64}, .data = device};
    const struct choose_row row = {.temperature = 1, .top_p = 1, .repetition = 1, .u = 0.5f};
    be->upload(be, device, logits, sizeof logits);
    be->choose(be, &(struct op_choose){.logits = &t, .rows = &row, .there = there, .here = here});
    assert_int_equal(be->chosen(be, 0, &e), 0);
    assert_int_equal(here[0], -1);
    be->host_free(be, here);
    be->free(be, there);
    be->free(be, device);
    be->close(be);
}

/* ---- in the engine ---- */

enum { JOBS = 6, TOKENS = 24 };

static struct engine *start_drafting(int max_sequences, int draft_tokens)
{
    static const struct engine_model model = {.id = "tiny",
                                              .path = "tests/fixtures/tiny-llama.gguf"};
    const struct engine_options o = {.device = "cuda:0",
                                     .n_models = 1,
                                     .models = &model,
                                     .n_ctx = 128,
                                     .kv_type = DTYPE_F16,
                                     .graphs = true,
                                     .cache_bytes = (size_t)8 << 20,
                                     .weight_bytes = (size_t)64 << 20,
                                     .max_sequences = max_sequences,
                                     .max_batch_rows = 32,
                                     .draft_tokens = draft_tokens,
                                     .prefix_sharing = true};
    cuemu_reset();
    return engine_ready(&o);
}

static struct engine *start(int max_sequences)
{
    return start_drafting(max_sequences, 0);
}

/* Greedy, sampled, sampled with filters, with penalties, with logprobs, with a stop string. */
static struct job *job_of(int kind, int max_tokens)
{
    static const int32_t ids[] = {1, 20, 30, 40}, n_prompt[] = {4};
    static const int32_t *const prompts[] = {ids};
    static const char *const stop[] = {"e"};
    struct job *j = job_new(1 << 16);
    struct text_spec *s = &j->text;
    s->n_prompts = 1;
    s->prompts = prompts;
    s->n_prompt = n_prompt;
    s->max_tokens = max_tokens;
    s->ignore_eos = true;
    s->sample.seed = 40 + (uint64_t)kind;
    s->sample.temperature = kind == 0 ? 0 : 0.9f;
    if (kind == 2) {
        s->sample.top_p = 0.9f;
        s->sample.top_k = 50;
    } else if (kind == 3) {
        s->sample.frequency_penalty = 0.8f;
    } else if (kind == 4) {
        s->logprobs = true;
    } else if (kind == 5) {
        s->stop = stop;
        s->n_stop = 1;
    }
    return j;
}

static void finish(struct answer *a, int n)
{
    for (int i = 0; i < n; i++) {
        for (; !a[i].ended; pause_ms(1))
            answer_poll(&a[i]);
        job_unref(a[i].job);
    }
}

static void ask(struct engine *g, struct answer *a, struct job *j)
{
    struct err e = {0};
    *a = (struct answer){.job = j};
    if (engine_submit(g, j, &e) != 0)
        fail_msg("%s", e.msg);
}

static struct engine_stats stats_of(struct engine *g)
{
    struct engine_stats s;
    engine_stats(g, &s);
    return s;
}

/* Each job alone, then all at once; what is ahead of the host, and what never is. */
static void alone_and_together(void **state)
{
    (void)state;
    static struct answer alone[JOBS], together[JOBS];
    struct engine *g = start(JOBS);
    for (int k = 0; k < JOBS; k++) {
        const int64_t before = stats_of(g).steps_ahead;
        ask(g, &alone[k], job_of(k, TOKENS));
        finish(&alone[k], 1);
        assert_int_equal(alone[k].err.code, 0);
        const int64_t ahead = stats_of(g).steps_ahead - before;
        if (k == 4)
            assert_int_equal(ahead, 0);
        else if (k < 4)
            assert_true(ahead >= TOKENS - 4);
    }
    for (int k = 0; k < JOBS; k++)
        ask(g, &together[k], job_of(k, TOKENS));
    finish(together, JOBS);
    for (int k = 0; k < JOBS; k++)
        assert_string_equal(together[k].text, alone[k].text);
    engine_close(g);
}

/* Penalties on the device, with steps ahead, are the host's, which sees every token before the next step. */
static void penalties_see_the_token_under_way(void **state)
{
    (void)state;
    static const int windows[] = {-1, 0, 1, 5, 64};
    struct engine *g = start(2);
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        static struct answer a[2];
        const int64_t before = stats_of(g).steps_ahead;
        for (int host = 1; host >= 0; host--) {
            struct job *j = job_of(0, 90);
            j->text.sample.repetition_penalty = 1.3f;
            j->text.sample.presence_penalty = 0.4f;
            j->text.sample.frequency_penalty = 0.6f;
            j->text.sample.repeat_last_n = windows[i];
            j->text.logprobs = host;
            ask(g, &a[host], j);
            finish(&a[host], 1);
        }
        assert_string_equal(a[0].text, a[1].text);
        assert_true(stats_of(g).steps_ahead - before >= 86);
    }
    engine_close(g);
}

/* With drafts, alone and together: the tokens are the same, in fewer steps, penalties included. */
static void drafts_change_nothing(void **state)
{
    (void)state;
    static struct answer plain[JOBS], drafted[JOBS];
    struct engine *g = start(JOBS);
    for (int k = 0; k < JOBS; k++)
        ask(g, &plain[k], job_of(k, 100));
    finish(plain, JOBS);
    engine_close(g);
    g = start_drafting(JOBS, 8);
    for (int round = 0; round < 2; round++) {
        for (int k = 0; k < JOBS; k++) {
            ask(g, &drafted[k], job_of(k, 100));
            if (round == 0)
                finish(&drafted[k], 1);
        }
        if (round == 1)
            finish(drafted, JOBS);
        for (int k = 0; k < JOBS; k++)
            assert_string_equal(drafted[k].text, plain[k].text);
    }
    const struct engine_stats s = stats_of(g);
    assert_true(s.draft_tokens > 0);
    assert_true(s.steps_ahead > 0);
    engine_close(g);
}

/* Jobs come, are cancelled and end while a step is under way: those that stay say what they say alone, and all
 * pages come back. */
static void coming_and_going(void **state)
{
    (void)state;
    static struct answer alone, a[JOBS], gone;
    struct engine *g = start(JOBS);
    ask(g, &alone, job_of(1, 100));
    finish(&alone, 1);
    for (int round = 0; round < 6; round++) {
        ask(g, &a[0], job_of(1, 100));
        pause_ms(round);
        ask(g, &gone, job_of(2, 100));
        ask(g, &a[1], job_of(5, 5 + round));
        pause_ms(3 * round);
        job_cancel(gone.job);
        ask(g, &a[2], job_of(0, 3));
        finish(a, 3);
        finish(&gone, 1);
        assert_string_equal(a[0].text, alone.text);
    }
    for (int i = 0; i < 3000 && stats_of(g).pages_used > 0; i++)
        pause_ms(1);
    assert_int_equal(stats_of(g).pages_used, 0);
    engine_close(g);
}

int main(void)
{
    log_init(LOG_OFF, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cpus_tokens),
        cmocka_unit_test(no_finite_logits),
        cmocka_unit_test(alone_and_together),
        cmocka_unit_test(penalties_see_the_token_under_way),
        cmocka_unit_test(drafts_change_nothing),
        cmocka_unit_test(coming_and_going),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
