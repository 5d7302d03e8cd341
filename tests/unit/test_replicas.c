/* Two engines as one: who gets a job, what is told of them together.  Both on the CPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/log.h"
#include "engine/replicas.h"
#include "tests/pause.h"

enum { TOKENS = 4, LONG = 8 * KV_PAGE_TOKENS };

static int open_list(struct replicas **out, const char *devices, struct err *e)
{
    const struct engine_model model = {.id = "tiny", .path = "tests/fixtures/tiny-llama.gguf"};
    const struct engine_options o = {
        .device = devices,
        .n_threads = 1,
        .n_models = 1,
        .models = &model,
        .kv_type = DTYPE_F16,
        .cache_bytes = 1 << 22,
        .max_sequences = 4,
        .prefix_sharing = true,
    };
    return replicas_open(out, &o, e);
}

static struct replicas *open_two(void)
{
    struct replicas *r = NULL;
    struct err e = {0};
    assert_int_equal(open_list(&r, "cpu,cpu/scalar", &e), 0);
    PAUSE_UNTIL(replicas_state(r) != ENGINE_LOADING);
    assert_int_equal(replicas_state(r), ENGINE_READY);
    return r;
}

/* A prompt of n tokens that begins with `first`; to its end.  Returns how many were cached. */
static int answer(struct replicas *r, int32_t first, int n)
{
    int32_t ids[LONG];
    for (int i = 0; i < n; i++)
        ids[i] = (first + i) % 60 + 3;
    const int32_t *prompts[] = {ids}, n_prompt[] = {n};
    struct job *j = job_new(1 << 12);
    j->text.prompts = prompts;
    j->text.n_prompt = n_prompt;
    j->text.n_prompts = 1;
    j->text.max_tokens = TOKENS;
    j->text.ignore_eos = true;
    struct err e = {0};
    assert_int_equal(replicas_submit(r, j, &e), 0);
    int cached = -1;
    while (cached < 0) {
        struct event *ev;
        PAUSE_UNTIL((ev = job_poll(j)) != NULL);
        assert_non_null(ev);
        assert_int_not_equal(ev->kind, EV_ERROR);
        if (ev->kind == EV_DONE)
            cached = ev->usage.cached_tokens;
        job_event_free(ev);
    }
    job_unref(j);
    struct engine_stats s; /* counted after the events: the next job shall meet idle engines */
    PAUSE_UNTIL((replicas_stats(r, &s), s.sequences_running + s.jobs_waiting == 0));
    return cached;
}

static int64_t generated(const struct replicas *r, int i)
{
    struct engine_stats s;
    engine_stats(replicas_at(r, i), &s);
    return s.generated_tokens;
}

static void lists_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    static const char *const lists[] = {"cpu,", ",cpu", "cpu,,cpu/scalar", "cpu,cpu"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        struct replicas *r = NULL;
        struct err e = {0};
        assert_int_equal(open_list(&r, lists[i], &e), ERR_INVALID);
        assert_null(r);
    }
}

static void one_that_does_not_come_up_fails_the_start(void **state)
{
    (void)state;
    struct replicas *r = NULL;
    struct err e = {0};
    assert_int_equal(open_list(&r, "cpu,cpu/none", &e), 0);
    PAUSE_UNTIL(replicas_state(r) != ENGINE_LOADING);
    assert_int_equal(replicas_state(r), ENGINE_FAILED);
    replicas_failure(r, &e);
    assert_non_null(strstr(e.msg, "none"));
    replicas_close(r);
}

static void jobs_go_by_turns_to_idle_engines(void **state)
{
    (void)state;
    struct replicas *r = open_two();
    for (int i = 0; i < 6; i++)
        answer(r, 7 * i, 5);
    assert_int_equal(generated(r, 0), 3 * TOKENS);
    assert_int_equal(generated(r, 1), 3 * TOKENS);
    struct engine_stats s;
    replicas_stats(r, &s);
    assert_int_equal(s.generated_tokens, 6 * TOKENS);
    assert_int_equal(s.sequences_max, 8);
    assert_int_equal(replicas_n_live(r), 2);
    assert_string_equal(replicas_device(r), "cpu,cpu/scalar");
    replicas_close(r);
}

static void a_prompt_goes_where_its_beginning_is(void **state)
{
    (void)state;
    struct replicas *r = open_two();
    for (int i = 0; i < 4; i++)
        assert_int_equal(answer(r, i, LONG), 0);
    assert_int_equal(generated(r, 0), 2 * TOKENS);
    for (int i = 0; i < 4; i++)
        assert_true(answer(r, i, LONG) > 0);
    answer(r, 1, LONG);
    answer(r, 1, LONG - KV_PAGE_TOKENS);
    assert_int_equal(generated(r, 0) + generated(r, 1), 10 * TOKENS);
    assert_int_equal(generated(r, 0), 4 * TOKENS); /* the last two went where prompt 1 is */
    replicas_close(r);
}

int main(void)
{
    log_init(LOG_OFF, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_that_make_no_sense_are_refused),
        cmocka_unit_test(one_that_does_not_come_up_fails_the_start),
        cmocka_unit_test(jobs_go_by_turns_to_idle_engines),
        cmocka_unit_test(a_prompt_goes_where_its_beginning_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
