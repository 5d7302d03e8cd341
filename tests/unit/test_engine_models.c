/* Models that come and go in a running engine: jobs of models that do not fit together are all done, what cannot be
 * loaded fails alone, and an engine may be closed while it loads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/log.h"
#include "engine/engine.h"
#include "tests/engine_ready.h"

enum { N_MODELS = 4, ROUNDS = 6 };

static const struct engine_model models[N_MODELS] = {
    {.id = "tiny", .path = "tests/fixtures/tiny-llama.gguf"},
    {.id = "sd15", .path = "tests/fixtures/sd_sd15"},
    {.id = "sdxl", .path = "tests/fixtures/sd_sdxl"},
    {.id = "bert", .path = "tests/fixtures/bert_tiny"},
};

/* weight_bytes 0: all fit. */
static struct engine *open_engine(enum engine_preload preload, size_t weight_bytes)
{
    const struct engine_options o = {.device = "cpu",
                                     .n_threads = 2,
                                     .n_models = N_MODELS,
                                     .models = models,
                                     .kv_type = DTYPE_F16,
                                     .cache_bytes = (size_t)1 << 26,
                                     .preload = preload,
                                     .weight_bytes = weight_bytes};
    return engine_ready(&o);
}

/* A short job for model i. */
static struct job *job_of(int i)
{
    static const int32_t ids[] = {1, 20, 30, 4}, n_ids[] = {4};
    static const int32_t *const lists[] = {ids};
    struct job *j = job_new(1 << 16);
    if (i == 0) {
        j->text.model = models[i].id;
        j->text.n_prompts = 1;
        j->text.prompts = lists;
        j->text.n_prompt = n_ids;
        j->text.max_tokens = 4;
        j->text.ignore_eos = true;
        j->text.sample.temperature = 0;
    } else if (i == 3) {
        j->kind = JOB_EMBED;
        j->embed.model = models[i].id;
        j->embed.n_texts = 1;
        j->embed.ids = lists;
        j->embed.n_ids = n_ids;
    } else {
        j->kind = JOB_IMAGE;
        j->image.model = models[i].id;
        j->image.prompt = "a cat";
        j->image.width = j->image.height = i == 2 ? 64 : 32;
        j->image.steps = 2;
    }
    return j;
}

/* Its error, or 0; waits for the end. */
static int result_of(struct job *j)
{
    for (;;) {
        struct event *ev = job_poll(j);
        if (!ev) {
            pause_ms(1);
            continue;
        }
        enum event_kind kind = ev->kind;
        int code = kind == EV_ERROR ? ev->err.code : 0;
        job_event_free(ev);
        if (kind == EV_ERROR || kind == EV_DONE)
            return code;
    }
}

static size_t bytes_of(struct engine *g, int i)
{
    return engine_card_at(g, i)->weight_bytes;
}

/* The two largest fit one at a time. */
static size_t small_budget(void)
{
    struct engine *g = open_engine(PRELOAD_NONE, 0);
    size_t first = 0, second = 0;
    for (int i = 0; i < N_MODELS; i++) {
        size_t bytes = bytes_of(g, i);
        assert_int_equal(engine_model_state(g, i), ENGINE_MODEL_UNLOADED);
        second = bytes > first ? first : bytes > second ? bytes : second;
        first = bytes > first ? bytes : first;
    }
    engine_close(g);
    return first + second - 1;
}

static void engine_does_jobs_of_models_that_do_not_fit_together(void **state)
{
    (void)state;
    struct engine *g = open_engine(PRELOAD_NONE, small_budget());
    struct job *jobs[ROUNDS * N_MODELS];
    struct err e = {0};
    struct engine_stats s;
    for (int k = 0; k < ROUNDS * N_MODELS; k++) {
        jobs[k] = job_of((k * 3 + k / N_MODELS) % N_MODELS);
        if (engine_submit(g, jobs[k], &e))
            fail_msg("%s", e.msg);
    }
    for (int k = 0; k < ROUNDS * N_MODELS; k++) {
        assert_int_equal(result_of(jobs[k]), 0);
        job_unref(jobs[k]);
        engine_stats(g, &s);
        assert_true(s.weight_bytes <= s.weight_budget_bytes);
    }
    PAUSE_UNTIL((engine_stats(g, &s), s.jobs_waiting == 0)); /* counted after the events */
    assert_int_equal(s.jobs_waiting, 0);
    for (int i = 0; i < N_MODELS; i++)
        assert_true(engine_model_loads(g, i) >= 1);
    engine_close(g);
}

static void engine_loads_a_model_once_when_all_fit(void **state)
{
    (void)state;
    struct engine *g = open_engine(PRELOAD_CHAT, 0);
    struct err e = {0};
    assert_int_equal(engine_model_state(g, 0), ENGINE_MODEL_LOADED);
    for (int k = 0; k < 2 * N_MODELS; k++) {
        struct job *j = job_of(k % N_MODELS);
        assert_int_equal(engine_submit(g, j, &e), 0);
        assert_int_equal(result_of(j), 0);
        job_unref(j);
        assert_int_equal(engine_model_state(g, k % N_MODELS), ENGINE_MODEL_LOADED);
    }
    for (int i = 0; i < N_MODELS; i++)
        assert_int_equal(engine_model_loads(g, i), 1);
    engine_close(g);
}

static void engine_refuses_a_model_larger_than_the_budget(void **state)
{
    (void)state;
    struct engine *g = open_engine(PRELOAD_NONE, small_budget());
    size_t sdxl = bytes_of(g, 2);
    engine_close(g);
    g = open_engine(PRELOAD_ALL, sdxl - 1);
    struct err e = {0};
    struct job *j = job_of(2), *other = job_of(0);
    assert_int_equal(engine_submit(g, j, &e), ERR_INVALID);
    assert_string_equal(e.reason, "memory_exceeded");
    assert_int_equal(engine_submit(g, other, &e), 0);
    assert_int_equal(result_of(other), 0);
    job_unref(j);
    job_unref(other);
    engine_close(g);
}

/* Wherever the load is. */
static void engine_closes_while_it_loads(void **state)
{
    (void)state;
    for (int ms = 0; ms < 8; ms++) {
        struct engine *g = open_engine(PRELOAD_NONE, 0);
        struct err e = {0};
        struct job *j = job_of(2);
        assert_int_equal(engine_submit(g, j, &e), 0);
        pause_ms(ms);
        engine_close(g);
        int code = result_of(j);
        assert_true(code == ERR_CANCELLED || code == 0);
        job_unref(j);
    }
}

static void engine_forgets_jobs_that_are_cancelled_before_their_model_is_there(void **state)
{
    (void)state;
    struct engine *g = open_engine(PRELOAD_NONE, 0);
    struct err e = {0};
    struct job *j = job_of(2), *next = job_of(2);
    assert_int_equal(engine_submit(g, j, &e), 0);
    job_cancel(j);
    int code = result_of(j);
    assert_true(code == ERR_CANCELLED || code == 0);
    assert_int_equal(engine_submit(g, next, &e), 0);
    assert_int_equal(result_of(next), 0);
    job_unref(j);
    job_unref(next);
    engine_close(g);
}

static int quiet(void **state)
{
    (void)state;
    log_init(LOG_ERROR, false);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine_does_jobs_of_models_that_do_not_fit_together),
        cmocka_unit_test(engine_loads_a_model_once_when_all_fit),
        cmocka_unit_test(engine_refuses_a_model_larger_than_the_budget),
        cmocka_unit_test(engine_closes_while_it_loads),
        cmocka_unit_test(engine_forgets_jobs_that_are_cancelled_before_their_model_is_there),
    };
    return cmocka_run_group_tests(tests, quiet, NULL);
}
