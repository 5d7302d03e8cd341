/* The whole engine with a tiny model: the same bits under any load, no page left behind, every job
 * ends with exactly one EV_DONE or EV_ERROR. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "tests/engine_ready.h"

static const char model_path[] = "tests/fixtures/tiny-llama.gguf";
/* 262144 positions: a job that fills them takes minutes on any machine. */
static const char endless_path[] = "tests/fixtures/endless-llama.gguf";

enum { CHOICES = 8, PAGE = KV_PAGE_TOKENS };

/* --- waiting for the engine --- */

static pthread_mutex_t woken_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static uint64_t n_wakes;

static void on_wake(void *ctx)
{
    (void)ctx;
    pthread_mutex_lock(&woken_mutex);
    n_wakes++;
    pthread_cond_broadcast(&woken);
    pthread_mutex_unlock(&woken_mutex);
}

static void wait_after(uint64_t seen)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 20000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&woken_mutex);
    if (n_wakes == seen)
        pthread_cond_timedwait(&woken, &woken_mutex, &until);
    pthread_mutex_unlock(&woken_mutex);
}

static uint64_t wakes(void)
{
    pthread_mutex_lock(&woken_mutex);
    uint64_t n = n_wakes;
    pthread_mutex_unlock(&woken_mutex);
    return n;
}

static struct engine *open_model(const char *path, int max_sequences, size_t cache_bytes,
                                 bool sharing)
{
    const struct engine_model model = {.id = "tiny", .path = path};
    const struct engine_options o = {
        .device = "cpu",
        .n_threads = 2,
        .n_models = 1,
        .models = &model,
        .kv_type = DTYPE_F16,
        .cache_bytes = cache_bytes,
        .max_sequences = max_sequences,
        .max_queued_jobs = 100,
        .max_queued_tokens = 100000,
        .prefill_chunk = 16,
        .max_batch_rows = 64,
        .prefix_sharing = sharing,
        .draft_tokens = sharing ? 8 : 0,
        .wake = on_wake,
    };
    return engine_ready(&o);
}

static struct engine *open_engine(int max_sequences, size_t cache_bytes, bool sharing)
{
    return open_model(model_path, max_sequences, cache_bytes, sharing);
}

static struct engine *open_endless(int max_sequences)
{
    return open_model(endless_path, max_sequences, (size_t)1 << 30, true);
}

static struct engine_stats stats_of(struct engine *g)
{
    struct engine_stats s;
    engine_stats(g, &s);
    return s;
}

/* The counters are written once a turn, after the events of that turn. */
static bool settles(struct engine *g, int64_t pages_used, int running)
{
    for (int i = 0; i < 12000; i++) { /* two minutes, for busy machines */
        struct engine_stats s = stats_of(g);
        if (s.pages_used == pages_used && s.sequences_running == running)
            return true;
        struct timespec t = {.tv_nsec = 10000000};
        nanosleep(&t, NULL);
    }
    return false;
}

/* --- jobs and what came of them --- */

struct result {
    struct job *job;
    int n_choices;
    struct buf text[CHOICES]; /* text, and a line for each logprob */
    struct buf logs[CHOICES];
    int n_tokens[CHOICES], n_prompts[CHOICES];
    int32_t ids[CHOICES][512];
    float logprobs[CHOICES][512], prompt_logprobs[CHOICES][512];
    enum finish finish[CHOICES];
    const char *stop[CHOICES];
    struct job_usage usage[CHOICES], total;
    int n_finished;
    bool ended;
    int err_code;
};

static void take_event(struct result *r, struct event *ev)
{
    assert_false(r->ended);
    int i = ev->index;
    assert_in_range(i, 0, CHOICES - 1);
    switch (ev->kind) {
    case EV_PROMPT:
        assert_int_equal(ev->n_tokens, 1);
        r->prompt_logprobs[i][r->n_prompts[i]++] = ev->tokens[0].logprob;
        break;
    case EV_TEXT:
        assert_int_equal(r->finish[i], FINISH_NONE);
        buf_add(&r->text[i], ev->text, ev->len);
        for (int k = 0; k < ev->n_tokens; k++) {
            r->ids[i][r->n_tokens[i]] = ev->tokens[k].id;
            r->logprobs[i][r->n_tokens[i]++] = ev->tokens[k].logprob;
            buf_add(&r->logs[i], &ev->tokens[k].logprob, sizeof(float));
            for (int t = 0; t < ev->tokens[k].n_top; t++)
                buf_add(&r->logs[i], &ev->tokens[k].top[t], sizeof ev->tokens[k].top[t]);
        }
        break;
    case EV_FINISH:
        assert_int_equal(r->finish[i], FINISH_NONE);
        r->finish[i] = ev->finish;
        r->stop[i] = ev->stop;
        r->usage[i] = ev->usage;
        r->n_finished++;
        break;
    case EV_DONE:
        assert_int_equal(r->n_finished, r->n_choices);
        r->total = ev->usage;
        r->ended = true;
        break;
    case EV_ERROR:
        r->err_code = ev->err.code;
        r->ended = true;
        break;
    default:
        fail_msg("an event of kind %d", (int)ev->kind);
    }
    job_event_free(ev);
}

static struct result *result_new(struct job *j)
{
    struct result *r = calloc(1, sizeof *r);
    r->job = j;
    r->n_choices = j->text.n * j->text.n_prompts;
    for (int i = 0; i < CHOICES; i++) {
        buf_init(&r->text[i], 1 << 20);
        buf_init(&r->logs[i], 1 << 20);
    }
    return r;
}

static void result_free(struct result *r)
{
    for (int i = 0; i < CHOICES; i++) {
        buf_free(&r->text[i]);
        buf_free(&r->logs[i]);
    }
    job_unref(r->job);
    free(r);
}

static void poll_all(struct result *r)
{
    struct event *ev;
    while ((ev = job_poll(r->job)) != NULL)
        take_event(r, ev);
}

static void wait_for(struct result *r)
{
    int64_t end = clock_us() + 120000000;
    while (!r->ended) {
        uint64_t seen = wakes();
        poll_all(r);
        if (!r->ended)
            wait_after(seen);
        assert_true(clock_us() < end);
    }
}

static void same(const struct result *a, const struct result *b)
{
    assert_int_equal(a->n_choices, b->n_choices);
    assert_int_equal(a->err_code, b->err_code);
    for (int i = 0; i < a->n_choices; i++) {
        assert_int_equal(a->finish[i], b->finish[i]);
        assert_int_equal(a->usage[i].completion_tokens, b->usage[i].completion_tokens);
        assert_string_equal(buf_str(&a->text[i]), buf_str(&b->text[i]));
        assert_int_equal(a->logs[i].len, b->logs[i].len);
        if (a->logs[i].len > 0)
            assert_memory_equal(a->logs[i].data, b->logs[i].data, a->logs[i].len);
    }
}

/* A job of n_prompt tokens that seed chooses; the first `common` are the same for all seeds. */
static struct job *make_job(const struct engine *g, int n_prompt, int common, unsigned seed,
                            int max_tokens)
{
    struct job *j = job_new(1 << 20);
    int n_vocab = engine_card(g, MODEL_TEXT, NULL, NULL)->n_vocab;
    int32_t *ids = arena_array(&j->arena, (size_t)n_prompt, sizeof *ids);
    int32_t *len = arena_alloc(&j->arena, sizeof *len);
    const int32_t **list = arena_alloc(&j->arena, sizeof(int32_t *));
    unsigned x = seed * 2654435761u + 12345;
    for (int i = 0; i < n_prompt; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = i < common ? 10 + i % 50 : (int32_t)((x >> 8) % (unsigned)n_vocab);
    }
    *list = ids;
    *len = n_prompt;
    j->text.prompts = list;
    j->text.n_prompt = len;
    j->text.n_prompts = 1;
    j->text.max_tokens = max_tokens;
    j->text.sample.seed = seed;
    return j;
}

static void submit(struct engine *g, struct job *j)
{
    struct err e = {0};
    int rc = engine_submit(g, j, &e);
    if (rc)
        fail_msg("submit: %s", e.msg);
}

static struct result *run_job(struct engine *g, struct job *j)
{
    struct result *r = result_new(j);
    submit(g, j);
    wait_for(r);
    return r;
}

/* Any mixture of what a request may ask for, from the number alone. */
static struct job *random_job(const struct engine *g, unsigned k)
{
    static const char *const stops[] = {"e", "ab", "\n", "the"};
    static const struct logit_bias bias[] = {{5, 3.0f}, {6, -100.0f}};
    srand(k * 7 + 1);
    struct job *j = make_job(g, rand() % 70 + 1, rand() % 60, k, rand() % 40 + 1);
    struct text_spec *s = &j->text;
    s->sample.temperature = k % 2 ? 0 : 0.5f + (float)(rand() % 10) / 10;
    s->sample.top_k = rand() % 3 ? 0 : 20;
    s->sample.top_p = rand() % 3 ? 1 : 0.9f;
    s->sample.repetition_penalty = rand() % 3 ? 1 : 1.2f;
    s->sample.presence_penalty = rand() % 4 ? 0 : 0.5f;
    s->n = rand() % 4 ? 1 : 3;
    s->logprobs = rand() % 3 == 0;
    s->top_logprobs = s->logprobs ? rand() % 5 : 0;
    s->echo_logprobs = rand() % 8 == 0;
    s->ignore_eos = rand() % 2;
    s->no_cache = rand() % 6 == 0;
    s->special = rand() % 6 == 0;
    s->include_stop = rand() % 2;
    s->stop = stops;
    s->n_stop = rand() % 3 ? 0 : 4;
    s->bias = bias;
    s->n_bias = rand() % 5 ? 0 : 2;
    return j;
}

/* --- tests --- */

static void engine_gives_the_same_bits_alone_and_under_load(void **state)
{
    (void)state;
    enum { N = 32 };
    struct result *alone[N], *together[N];
    struct engine *g = open_engine(1, 0, false);
    for (unsigned k = 0; k < N; k++)
        alone[k] = run_job(g, random_job(g, k));
    engine_close(g);
    for (int round = 0; round < 3; round++) {
        g = open_engine(16, 0, round > 0);
        struct job *noise[N];
        for (unsigned k = 0; k < N; k++) {
            /* Others that come and go in between. */
            noise[k] = random_job(g, 1000 + k);
            submit(g, noise[k]);
            unsigned at = (k * 13 + (unsigned)round * 5) % N; /* another order each round */
            together[at] = result_new(random_job(g, at));
            submit(g, together[at]->job);
            struct timespec t = {.tv_nsec = (long)(k % 4) * 300000};
            nanosleep(&t, NULL);
            if (k > 3)
                job_cancel(noise[k - 3]);
        }
        for (int k = 0; k < N; k++) {
            wait_for(together[k]);
            same(alone[k], together[k]);
            result_free(together[k]);
            job_cancel(noise[k]);
            job_unref(noise[k]);
        }
        assert_true(settles(g, 0, 0));
        engine_close(g);
    }
    for (int k = 0; k < N; k++)
        result_free(alone[k]);
}

static void engine_gives_every_choice_its_own_stream(void **state)
{
    (void)state;
    struct engine *g = open_engine(4, 0, true);
    struct job *j = make_job(g, 40, 0, 3, 30);
    j->text.n = 4;
    j->text.ignore_eos = true;
    struct result *r = run_job(g, j);
    assert_int_equal(r->err_code, 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(r->usage[i].completion_tokens, 30);
        assert_int_equal(r->usage[i].cached_tokens, i == 0 ? 0 : 2 * PAGE);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(buf_str(&r->text[i]), buf_str(&r->text[k]));
    }
    assert_int_equal(r->total.prompt_tokens, 40);
    assert_int_equal(r->total.cached_tokens, 0);
    assert_int_equal(r->total.completion_tokens, 120);
    result_free(r);
    engine_close(g);
}

static void engine_finishes_more_jobs_than_slots(void **state)
{
    (void)state;
    enum { N = 64 };
    struct engine *g = open_engine(16, 0, true);
    struct result *r[N];
    for (unsigned k = 0; k < N; k++) {
        r[k] = result_new(make_job(g, 5 + (int)k, 0, k, 20));
        r[k]->job->text.ignore_eos = true;
        submit(g, r[k]->job);
    }
    for (unsigned k = 0; k < N; k++) {
        wait_for(r[k]);
        assert_int_equal(r[k]->err_code, 0);
        assert_int_equal(r[k]->finish[0], FINISH_LENGTH);
        assert_int_equal(r[k]->total.completion_tokens, 20);
        result_free(r[k]);
    }
    assert_int_equal(stats_of(g).jobs_waiting, 0);
    engine_close(g);
}

/* A job that runs until it is cancelled, if the engine is endless. */
static struct job *long_job(struct engine *g, unsigned seed)
{
    struct job *j = make_job(g, 20, 0, seed, 1 << 20);
    j->text.ignore_eos = true;
    return j;
}

static void engine_cancel_frees_pages_at_once(void **state)
{
    (void)state;
    struct engine *g = open_endless(2);
    struct result *r[4];
    for (unsigned k = 0; k < 4; k++) {
        r[k] = result_new(long_job(g, k));
        submit(g, r[k]->job);
    }
    for (int k = 3; k >= 0; k--) { /* waiting ones too */
        job_cancel(r[k]->job);
        wait_for(r[k]);
        assert_int_equal(r[k]->err_code, ERR_CANCELLED);
    }
    assert_true(settles(g, 0, 0));
    assert_int_equal(stats_of(g).jobs_waiting, 0);
    for (int k = 0; k < 4; k++)
        result_free(r[k]);
    engine_close(g);
}

static void engine_refuses_when_the_queue_is_full(void **state)
{
    (void)state;
    struct engine *g = open_endless(1);
    enum { N = 130 };
    struct result *r[N];
    int n = 0, rc = 0;
    struct err e = {0};
    while (n < N && rc == 0) {
        r[n] = result_new(long_job(g, (unsigned)n));
        rc = engine_submit(g, r[n]->job, &e);
        if (rc == 0)
            n++;
        else
            result_free(r[n]);
    }
    assert_int_equal(rc, ERR_BUSY);
    assert_true(n >= 100);
    for (int k = 0; k < n; k++)
        job_cancel(r[k]->job);
    for (int k = 0; k < n; k++) {
        wait_for(r[k]);
        result_free(r[k]);
    }
    assert_true(settles(g, 0, 0));
    assert_int_equal(stats_of(g).jobs_waiting, 0);
    struct result *after = run_job(g, make_job(g, 5, 0, 1, 3));
    assert_int_equal(after->err_code, 0);
    result_free(after);
    engine_close(g);
}

static void engine_shares_prefixes_without_a_trace_in_the_text(void **state)
{
    (void)state;
    struct engine *plain = open_engine(4, 0, false), *sharing = open_engine(4, 0, true);
    static const struct {
        int n_prompt, common, cached;
    } cases[] = {
        {70, 64, 0},        /* the first one */
        {70, 64, 4 * PAGE}, /* 64 in common */
        {63, 63, 3 * PAGE}, /* not a full page more */
        {64, 64, 3 * PAGE}, /* the page of the last token is computed */
        {65, 65, 4 * PAGE}, {10, 10, 0}, {80, 20, PAGE},
    };
    int64_t asked = 0, found = 0;
    for (unsigned k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct result *r[2];
        for (int i = 0; i < 2; i++) {
            struct engine *g = i ? sharing : plain;
            struct job *j = make_job(g, cases[k].n_prompt, cases[k].common, k, 20);
            j->text.logprobs = true;
            r[i] = run_job(g, j);
        }
        same(r[0], r[1]);
        assert_int_equal(r[0]->total.cached_tokens, 0);
        assert_int_equal(r[1]->total.cached_tokens, cases[k].cached);
        asked += cases[k].n_prompt;
        found += cases[k].cached;
        result_free(r[0]);
        result_free(r[1]);
    }
    struct engine_stats s = stats_of(sharing);
    assert_int_equal(s.prefix_queries, asked);
    assert_int_equal(s.prefix_hits, found);
    assert_int_equal(s.cached_tokens, found);
    assert_int_equal(s.prompt_tokens, asked);
    engine_close(plain);
    engine_close(sharing);
}

/* A second turn of a chat: the answer's full pages are shared as well. */
static void engine_shares_the_pages_of_an_answer(void **state)
{
    (void)state;
    struct engine *g = open_engine(2, 0, true);
    struct job *j = make_job(g, 20, 0, 1, 40);
    j->text.ignore_eos = true;
    j->text.logprobs = true;
    struct result *r = run_job(g, j);
    struct job *next = make_job(g, 61, 0, 2, 1);
    int32_t *ids = (int32_t *)(uintptr_t)next->text.prompts[0];
    memcpy(ids, j->text.prompts[0], 20 * sizeof *ids);
    memcpy(ids + 20, r->ids[0], 40 * sizeof *ids);
    struct result *second = run_job(g, next);
    /* 59 positions were computed: three full pages. */
    assert_int_equal(second->total.cached_tokens, 3 * PAGE);
    result_free(r);
    result_free(second);
    engine_close(g);
}

static void engine_tells_prompt_logprobs_as_it_told_them_when_it_wrote_them(void **state)
{
    (void)state;
    struct engine *g = open_engine(2, 0, true);
    struct job *j = make_job(g, 20, 0, 1, 30);
    j->text.ignore_eos = true;
    j->text.logprobs = true;
    struct result *r = run_job(g, j);
    assert_int_equal(r->n_tokens[0], 30);
    struct job *echo = make_job(g, 50, 0, 2, 0);
    int32_t *ids = (int32_t *)(uintptr_t)echo->text.prompts[0];
    memcpy(ids, j->text.prompts[0], 20 * sizeof *ids);
    memcpy(ids + 20, r->ids[0], 30 * sizeof *ids);
    echo->text.echo_logprobs = true;
    struct result *e = run_job(g, echo);
    assert_int_equal(e->n_prompts[0], 50);
    assert_true(isnan(e->prompt_logprobs[0][0]));
    assert_memory_equal(e->prompt_logprobs[0] + 20, r->logprobs[0], 30 * sizeof(float));
    assert_int_equal(e->finish[0], FINISH_LENGTH);
    assert_int_equal(e->total.completion_tokens, 0);
    result_free(r);
    result_free(e);
    engine_close(g);
}

static void engine_tells_every_token_once(void **state)
{
    (void)state;
    struct engine *g = open_engine(8, 0, true);
    static const char *const stops[] = {"eeeeeeeeee", "aaaaaaa", "th"};
    for (unsigned k = 0; k < 60; k++) {
        struct job *j = make_job(g, 10, 0, k, 50);
        j->text.logprobs = true;
        j->text.special = k % 2;
        j->text.stop = stops;
        j->text.n_stop = k % 3 ? 3 : 0;
        struct result *r = run_job(g, j);
        assert_int_equal(r->n_tokens[0], r->total.completion_tokens);
        if (r->stop[0]) {
            assert_int_equal(r->finish[0], FINISH_STOP);
            assert_null(strstr(buf_str(&r->text[0]), r->stop[0]));
        }
        result_free(r);
    }
    engine_close(g);
}

static void engine_stops_at_a_stop_string_wherever_tokens_cut_it(void **state)
{
    (void)state;
    struct engine *g = open_engine(2, 0, true);
    int n_hits = 0;
    for (unsigned k = 0; k < 20; k++) {
        struct job *j = make_job(g, 10, 0, k, 40);
        struct result *r = run_job(g, j);
        const char *text = buf_str(&r->text[0]);
        size_t len = r->text[0].len;
        if (len >= 12) {
            /* Some bytes in the middle of plain text. */
            char stop[5] = {0};
            memcpy(stop, text + len / 2, 4);
            bool plain = true;
            for (int i = 0; i < 4; i++)
                plain = plain && (unsigned char)stop[i] < 0x80 && stop[i];
            const char *list[] = {stop};
            size_t want = (size_t)(strstr(text, stop) - text);
            for (int include = 0; plain && include < 2; include++) {
                struct job *j2 = make_job(g, 10, 0, k, 40);
                j2->text.stop = list;
                j2->text.n_stop = 1;
                j2->text.include_stop = include;
                struct result *r2 = run_job(g, j2);
                assert_int_equal(r2->finish[0], FINISH_STOP);
                assert_ptr_equal(r2->stop[0], stop);
                assert_int_equal(r2->text[0].len, want + (include ? 4 : 0));
                assert_memory_equal(buf_str(&r2->text[0]), text, r2->text[0].len);
                result_free(r2);
                n_hits++;
            }
        }
        result_free(r);
    }
    assert_true(n_hits > 0);
    engine_close(g);
}

static void engine_max_tokens_zero_finishes_at_once(void **state)
{
    (void)state;
    struct engine *g = open_engine(2, 0, true);
    struct job *j = make_job(g, 10, 0, 1, 0);
    j->text.n = 3;
    struct result *r = run_job(g, j);
    assert_int_equal(r->n_finished, 3);
    assert_int_equal(r->finish[2], FINISH_LENGTH);
    assert_int_equal(r->total.prompt_tokens, 10);
    assert_int_equal(r->total.completion_tokens, 0);
    assert_int_equal(stats_of(g).steps, 0);
    result_free(r);
    engine_close(g);
}

static int try_submit(struct engine *g, struct job *j, struct err *e)
{
    memset(e, 0, sizeof *e);
    int rc = engine_submit(g, j, e);
    job_unref(j);
    return rc;
}

static void engine_submit_refuses_what_cannot_run(void **state)
{
    (void)state;
    struct engine *g = open_engine(2, 0, true);
    struct err e;
    int n_ctx = engine_card(g, MODEL_TEXT, NULL, NULL)->n_ctx;
    struct job *j = make_job(g, 5, 0, 1, 5);
    j->text.model = "nobody";
    assert_int_equal(try_submit(g, j, &e), ERR_NOTFOUND);
    assert_int_equal(try_submit(g, make_job(g, n_ctx, 0, 1, 1), &e), ERR_TOOBIG);
    assert_string_equal(e.reason, "context_length_exceeded");
    j = make_job(g, 5, 0, 1, 5);
    ((int32_t *)(uintptr_t)j->text.prompts[0])[2] = engine_card(g, MODEL_TEXT, NULL, NULL)->n_vocab;
    assert_int_equal(try_submit(g, j, &e), ERR_INVALID);
    j = make_job(g, 5, 0, 1, 5);
    j->text.sample.temperature = NAN;
    assert_int_equal(try_submit(g, j, &e), ERR_INVALID);
    j = make_job(g, 5, 0, 1, 5);
    const struct logit_bias bias = {-1, 1};
    j->text.bias = &bias;
    j->text.n_bias = 1;
    assert_int_equal(try_submit(g, j, &e), ERR_INVALID);
    j = make_job(g, 5, 0, 1, 5);
    j->text.n = 1 << 20;
    assert_int_equal(try_submit(g, j, &e), ERR_TOOBIG);
    /* The longest prompt that there can be, and a context that gets full. */
    struct result *r = run_job(g, make_job(g, n_ctx - 1, 0, 1, 5));
    assert_int_equal(r->total.completion_tokens, 1);
    result_free(r);
    engine_close(g);
}

static void engine_bias_that_bans_all_is_an_error_of_that_job_alone(void **state)
{
    (void)state;
    struct engine *g = open_engine(2, 0, true);
    struct result *other = result_new(make_job(g, 10, 0, 1, 60));
    other->job->text.ignore_eos = true;
    submit(g, other->job);
    int n = engine_card(g, MODEL_TEXT, NULL, NULL)->n_vocab;
    struct job *j = make_job(g, 10, 0, 2, 5);
    struct logit_bias *all = arena_array(&j->arena, (size_t)n, sizeof *all);
    for (int i = 0; i < n; i++)
        all[i] = (struct logit_bias){i, -100};
    j->text.bias = all;
    j->text.n_bias = n;
    struct result *r = run_job(g, j);
    assert_int_equal(r->err_code, ERR_INVALID);
    wait_for(other);
    assert_int_equal(other->total.completion_tokens, 60);
    result_free(r);
    result_free(other);
    engine_close(g);
}

static void engine_close_ends_every_job(void **state)
{
    (void)state;
    struct engine *g = open_endless(2);
    struct result *r[6];
    for (unsigned k = 0; k < 6; k++) {
        r[k] = result_new(long_job(g, k));
        r[k]->job->text.n = 4;
        r[k]->n_choices = 4;
        submit(g, r[k]->job);
    }
    engine_close(g);
    for (int k = 0; k < 6; k++) {
        poll_all(r[k]);
        assert_true(r[k]->ended);
        assert_int_equal(r[k]->err_code, ERR_CANCELLED);
        result_free(r[k]);
    }
}

static void engine_tells_why_it_could_not_load(void **state)
{
    (void)state;
    static const struct engine_model model = {.id = "none", .path = "tests/there-is-none.gguf"};
    const struct engine_options o = {
        .device = "cpu", .n_models = 1, .models = &model, .max_sequences = 1};
    struct engine *g;
    assert_int_equal(engine_open(&g, &o, NULL), 0);
    while (engine_state(g) == ENGINE_LOADING)
        wait_after(wakes());
    assert_int_equal(engine_state(g), ENGINE_FAILED);
    struct err e = {0};
    engine_failure(g, &e);
    assert_true(e.code != 0 && e.msg[0]);
    assert_null(engine_card(g, MODEL_TEXT, NULL, NULL));
    assert_string_equal(engine_device(g), "");
    engine_close(g);
}

static void engine_small_cache_holds_jobs_back_and_leaks_no_page(void **state)
{
    (void)state;
    enum { N = 2000, AHEAD = 60 };
    struct engine *g = open_engine(16, 0, true);
    struct engine_stats s = stats_of(g);
    size_t page_bytes = (size_t)(s.cache_bytes / s.pages_total);
    engine_close(g);
    g = open_engine(16, page_bytes * 40, true); /* 640 tokens for 16 slots */
    struct result *r[AHEAD] = {NULL};
    for (unsigned k = 0; k < N + AHEAD; k++) {
        struct result **at = &r[k % AHEAD];
        if (*at) {
            if (k % 7 == 0)
                job_cancel((*at)->job);
            wait_for(*at);
            result_free(*at);
            *at = NULL;
        }
        if (k >= N)
            continue;
        *at = result_new(random_job(g, k));
        submit(g, (*at)->job);
        if (k % 11 == 0)
            job_cancel((*at)->job);
        s = stats_of(g);
        assert_true(s.pages_used <= 40);
        assert_true(s.pages_used + s.pages_cached <= 2 * 40); /* two atomics, read apart */
    }
    assert_true(settles(g, 0, 0));
    s = stats_of(g);
    assert_int_equal(s.jobs_waiting, 0);
    assert_int_equal(s.preemptions, 0);
    assert_true(s.pages_cached <= 40);
    print_message("%d jobs: %lld steps, %.1f rows a step, %lld of %lld prompt tokens cached\n", N,
                  (long long)s.steps, (double)s.step_rows / (double)s.steps,
                  (long long)s.cached_tokens, (long long)s.prompt_tokens);
    engine_close(g);
}

static void engine_sleeps_when_idle_and_shows_that_it_lives(void **state)
{
    (void)state;
    struct engine *g = open_engine(2, 0, true);
    bool quiet = false; /* sooner or later: a busy machine lets threads finish their loading late */
    for (int i = 0; i < 100 && !quiet; i++) {
        struct timespec t = {.tv_sec = 1, .tv_nsec = 300000000}, before, after;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
        nanosleep(&t, NULL);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
        quiet = (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000 <
                300000;
    }
    assert_true(quiet); /* spinning takes all it gets, on a busy machine as well */
    for (int beats = 0; beats < 2; beats++) {
        int64_t last = stats_of(g).heartbeat_us;
        for (int i = 0; i < 12000 && stats_of(g).heartbeat_us == last; i++)
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        assert_true(stats_of(g).heartbeat_us > last);
    }
    engine_close(g);
}

int main(void)
{
    log_init(LOG_OFF, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine_gives_the_same_bits_alone_and_under_load),
        cmocka_unit_test(engine_gives_every_choice_its_own_stream),
        cmocka_unit_test(engine_finishes_more_jobs_than_slots),
        cmocka_unit_test(engine_cancel_frees_pages_at_once),
        cmocka_unit_test(engine_refuses_when_the_queue_is_full),
        cmocka_unit_test(engine_shares_prefixes_without_a_trace_in_the_text),
        cmocka_unit_test(engine_shares_the_pages_of_an_answer),
        cmocka_unit_test(engine_tells_prompt_logprobs_as_it_told_them_when_it_wrote_them),
        cmocka_unit_test(engine_tells_every_token_once),
        cmocka_unit_test(engine_stops_at_a_stop_string_wherever_tokens_cut_it),
        cmocka_unit_test(engine_max_tokens_zero_finishes_at_once),
        cmocka_unit_test(engine_submit_refuses_what_cannot_run),
        cmocka_unit_test(engine_bias_that_bans_all_is_an_error_of_that_job_alone),
        cmocka_unit_test(engine_close_ends_every_job),
        cmocka_unit_test(engine_tells_why_it_could_not_load),
        cmocka_unit_test(engine_small_cache_holds_jobs_back_and_leaks_no_page),
        cmocka_unit_test(engine_sleeps_when_idle_and_shows_that_it_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
