/* The engine thread.
 *
 *   submit queue -> sched_add            engine_submit has checked all that a request can get wrong
 *   turn: cancelled jobs leave, waiting ones are admitted, one unit runs, its rows are sampled,
 *         events go out, wake() is called once before and once after the unit if there were any
 *   idle: sleeps on a condition variable; once a second it shows its heartbeat
 *
 * The submit queue and its counts are under submit_mutex, which is never held together with
 * another lock.  Everything that others may read at any time is an atomic. */
#include "engine/engine.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/emit.h"
#include "engine/sample.h"
#include "engine/sched.h"

enum { MODELS_MAX = 64, CHOICES_MAX = 65536, TRIM_AFTER_S = 30 };

/* clang-format off */
#define STATS(X) \
    X(heartbeat_us) X(jobs_waiting) X(sequences_running) X(sequences_max) X(prompt_tokens) \
    X(cached_tokens) X(generated_tokens) X(steps) X(step_rows) X(pages_total) X(pages_used) \
    X(pages_cached) X(cache_bytes) X(prefix_queries) X(prefix_hits) X(preemptions) X(cancelled)
/* clang-format on */

struct loaded {
    char *id, *path;
    struct model *model;
    struct cache_pool *pool;
    struct sample *sample;
};

struct engine {
    struct engine_options o; /* with defaults filled in; strings are ours */
    char *device;
    pthread_t thread;

    pthread_mutex_t submit_mutex; /* inbox, closing, waiting counts */
    pthread_cond_t submit_cond;
    struct task *inbox, **inbox_tail;
    bool closing;             /* nothing is accepted any more */
    int n_waiting;            /* jobs of which no choice was admitted */
    int64_t n_waiting_tokens; /* of prompts of which no choice was admitted */

    atomic_int state;
    atomic_int progress, models_done;
    struct err failure; /* written before state becomes ENGINE_FAILED */
    struct {
#define X(name) _Atomic int64_t name;
        STATS(X)
#undef X
    } stats;

    /* The engine thread's own. */
    struct backend *backend;
    struct loaded models[MODELS_MAX];
    struct sched_model sched_models[MODELS_MAX];
    struct cache *cache;
    struct sched sched;
    float *logits; /* [max logits, largest n_vocab] */
    bool dirty;    /* events went out since the last wake */
};

#define STAT_ADD(g, name, v) atomic_fetch_add_explicit(&(g)->stats.name, (v), memory_order_relaxed)
#define STAT_SET(g, name, v) atomic_store_explicit(&(g)->stats.name, (v), memory_order_relaxed)
#define STAT_GET(g, name)    atomic_load_explicit(&(g)->stats.name, memory_order_relaxed)

static void wake_now(struct engine *g)
{
    g->dirty = false;
    if (g->o.wake)
        g->o.wake(g->o.wake_ctx);
}

/* --- submit --- */

static int64_t waiting_tokens(const struct task *t)
{
    const struct text_spec *s = &t->job->text;
    int64_t sum = 0;
    for (int i = (t->next_choice + s->n - 1) / s->n; i < s->n_prompts; i++)
        sum += s->n_prompt[i];
    return sum;
}

static int check_sampling(const struct text_spec *s, int n_vocab, struct err *e)
{
    const struct sample_params *p = &s->sample;
    const float values[] = {p->temperature,
                            p->top_p,
                            p->min_p,
                            p->typical_p,
                            p->presence_penalty,
                            p->frequency_penalty,
                            p->repetition_penalty};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (!isfinite(values[i]))
            return err_set(e, ERR_INVALID, "sampling parameters must be finite");
    }
    if (p->temperature < 0 || p->repetition_penalty <= 0)
        return err_set(e, ERR_INVALID,
                       "temperature must not be negative, repetition_penalty must be positive");
    if (s->top_logprobs < 0 || s->top_logprobs > JOB_TOP_LOGPROBS)
        return err_set(e, ERR_INVALID, "top_logprobs must be 0 to %d", JOB_TOP_LOGPROBS);
    for (int i = 0; i < s->n_bias; i++) {
        if (s->bias[i].id < 0 || s->bias[i].id >= n_vocab || !isfinite(s->bias[i].bias)) {
            err_set(e, ERR_INVALID, "logit_bias names token %d, the vocabulary has %d",
                    (int)s->bias[i].id, n_vocab);
            return err_param(e, "logit_bias");
        }
    }
    return 0;
}

static int check_prompts(const struct text_spec *s, const struct model_card *card, int n_ctx,
                         struct err *e)
{
    if (s->n_prompts < 1 || s->n < 1 || s->max_tokens < 0)
        return err_set(e, ERR_INVALID, "a job needs a prompt, a choice and max_tokens >= 0");
    if ((int64_t)s->n_prompts * s->n > CHOICES_MAX)
        return err_set(e, ERR_TOOBIG, "at most %d choices in all", CHOICES_MAX);
    for (int i = 0; i < s->n_prompts; i++) {
        if (s->n_prompt[i] < 1)
            return err_set(e, ERR_INVALID, "prompt %d has no tokens", i);
        if (sched_length(n_ctx, s->n_prompt[i], s->max_tokens) == 0) {
            err_set(e, ERR_TOOBIG,
                    "the prompt has %d tokens and the context window %d, which must also hold the "
                    "answer",
                    (int)s->n_prompt[i], n_ctx);
            return err_reason(e, "context_length_exceeded");
        }
        for (int k = 0; k < s->n_prompt[i]; k++) {
            if (s->prompts[i][k] < 0 || s->prompts[i][k] >= card->n_vocab)
                return err_set(e, ERR_INVALID, "token %d is not in the vocabulary of %d",
                               (int)s->prompts[i][k], card->n_vocab);
        }
    }
    return 0;
}

static int find_model(const struct engine *g, const char *id)
{
    if (!id || !*id)
        return g->o.n_models > 0 ? 0 : -1;
    for (int i = 0; i < g->o.n_models; i++) {
        if (strcmp(model_card(g->models[i].model)->id, id) == 0)
            return i;
    }
    return -1;
}

/* Under the mutex.  Jobs that can start at once do not count as waiting, and a job is never refused
 * for its own size alone: it would be refused for ever. */
static int enqueue(struct engine *g, struct task *t, struct err *e)
{
    if (g->closing)
        return err_set(e, ERR_UNAVAILABLE, "the engine is stopping");
    int n_free = (int)(STAT_GET(g, sequences_max) - STAT_GET(g, sequences_running));
    int64_t n_tokens = waiting_tokens(t);
    if (g->n_waiting >= g->o.max_queued_jobs + n_free)
        return err_set(e, ERR_BUSY, "%d requests are waiting already", g->n_waiting);
    if (g->n_waiting_tokens > 0 && g->n_waiting_tokens + n_tokens > g->o.max_queued_tokens)
        return err_set(e, ERR_BUSY, "%lld prompt tokens are waiting already",
                       (long long)g->n_waiting_tokens);
    g->n_waiting++;
    g->n_waiting_tokens += n_tokens;
    STAT_SET(g, jobs_waiting, g->n_waiting);
    *g->inbox_tail = t;
    g->inbox_tail = &t->next;
    pthread_cond_signal(&g->submit_cond);
    return 0;
}

int engine_submit(struct engine *g, struct job *j, struct err *e)
{
    switch (engine_state(g)) {
    case ENGINE_READY:
        break;
    case ENGINE_LOADING:
        return err_set(e, ERR_UNAVAILABLE, "the models are still loading");
    default:
        return err_set(e, ERR_UNAVAILABLE, "the engine has stopped");
    }
    const struct text_spec *s = &j->text;
    int model = find_model(g, s->model);
    if (model < 0)
        return err_set(e, ERR_NOTFOUND, "there is no model \"%.80s\" here", s->model);
    const struct model_card *card = model_card(g->models[model].model);
    int rc = check_prompts(s, card, g->sched_models[model].n_ctx, e);
    if (rc == 0)
        rc = check_sampling(s, card->n_vocab, e);
    if (rc)
        return rc;
    struct task *t = xcalloc(1, sizeof *t);
    rc = stop_set_init(&t->stops, s->stop, s->n_stop, e);
    if (rc) {
        free(t);
        return rc;
    }
    t->job = j;
    t->model = model;
    t->n_choices = s->n_prompts * s->n;
    j->submit_us = clock_us();
    job_ref(j);
    pthread_mutex_lock(&g->submit_mutex);
    rc = enqueue(g, t, e);
    pthread_mutex_unlock(&g->submit_mutex);
    if (rc) {
        job_unref(j);
        stop_set_fini(&t->stops);
        free(t);
    }
    return rc;
}

/* The counts of what waits changed by these. */
static void count_waiting(struct engine *g, int jobs, int64_t tokens)
{
    pthread_mutex_lock(&g->submit_mutex);
    g->n_waiting += jobs;
    g->n_waiting_tokens += tokens;
    STAT_SET(g, jobs_waiting, g->n_waiting);
    pthread_mutex_unlock(&g->submit_mutex);
}

/* --- tasks --- */

static void free_task(struct task *t)
{
    stop_set_fini(&t->stops);
    job_unref(t->job);
    free(t);
}

static void leave(struct engine *g, struct seq *q)
{
    emit_end(q);
    sched_leave(&g->sched, q);
    STAT_SET(g, sequences_running, g->sched.n_running);
}

/* The task ends with an error: its sequences and their pages are free at once. */
static void fail_task(struct engine *g, struct task *t, const struct err *e)
{
    for (int i = 0; i < g->sched.o.max_sequences; i++) {
        if (g->sched.slots[i].task == t)
            leave(g, &g->sched.slots[i]);
    }
    if (t->queued)
        sched_remove(&g->sched, t);
    if (t->next_choice < t->n_choices)
        count_waiting(g, t->next_choice == 0 ? -1 : 0, -waiting_tokens(t));
    emit_error(t, e);
    free_task(t);
    g->dirty = true;
}

static void fail_all(struct engine *g, const struct err *e)
{
    while (g->sched.n_running > 0)
        fail_task(g, g->sched.order[0]->task, e); /* NOLINT(clang-analyzer-unix.Malloc) */
    while (g->sched.head)
        fail_task(g, g->sched.head, e); /* NOLINT(clang-analyzer-unix.Malloc): it left the list */
}

static void finish(struct engine *g, struct seq *q, enum finish how, const char *stop)
{
    struct task *t = q->task;
    bool done = emit_finish(q, how, stop);
    g->dirty = true;
    leave(g, q);
    if (done)
        free_task(t);
}

static struct task *find_cancelled(struct engine *g)
{
    for (int i = 0; i < g->sched.n_running; i++) {
        if (job_cancelled(g->sched.order[i]->task->job))
            return g->sched.order[i]->task;
    }
    for (struct task *t = g->sched.head; t; t = t->next) {
        if (job_cancelled(t->job))
            return t;
    }
    return NULL;
}

static void sweep_cancelled(struct engine *g)
{
    struct err e = {0};
    err_set(&e, ERR_CANCELLED, "the request was cancelled");
    struct task *t;
    while ((t = find_cancelled(g)) != NULL) {
        STAT_ADD(g, cancelled, 1);
        fail_task(g, t, &e);
    }
}

static void admit(struct engine *g)
{
    struct seq *q;
    while ((q = sched_admit(&g->sched)) != NULL) {
        struct task *t = q->task;
        const struct text_spec *s = &t->job->text;
        bool first_of_prompt = q->choice % s->n == 0;
        if (first_of_prompt)
            count_waiting(g, q->choice == 0 ? -1 : 0, -(int64_t)q->n_prompt);
        STAT_SET(g, sequences_running, g->sched.n_running);
        emit_begin(q, model_card(g->models[t->model].model)->tokenizer);
        if (q->n_end == q->n_prompt && !s->echo_logprobs)
            finish(g, q, FINISH_LENGTH, NULL); /* max_tokens 0: nothing to compute */
    }
}

/* --- one unit --- */

/* The prompt is all computed. */
static void count_prompt(struct engine *g, const struct seq *q)
{
    STAT_ADD(g, prompt_tokens, q->n_prompt);
    STAT_ADD(g, cached_tokens, q->n_cached);
    if (q->kv.share && !q->task->job->text.echo_logprobs) {
        STAT_ADD(g, prefix_queries, q->n_prompt);
        STAT_ADD(g, prefix_hits, q->n_cached);
    }
}

/* A row whose successor is a prompt token. */
static int score_row(struct engine *g, struct seq *q, float *logits, int at, struct err *e)
{
    struct token_info info = {0};
    int rc = sample_score(g->models[q->task->model].sample, logits, q->ids[at + 1],
                          q->task->job->text.top_logprobs, &info, e);
    if (rc == 0)
        emit_prompt(q, &info);
    return rc;
}

/* The row that chooses the next token.  The sequence may be gone afterwards. */
static int choose_row(struct engine *g, struct seq *q, float *logits, struct err *e)
{
    const struct loaded *m = &g->models[q->task->model];
    const struct text_spec *s = &q->task->job->text;
    const struct sample_args args = {
        .params = &s->sample,
        .bias = s->bias,
        .n_bias = s->n_bias,
        .ids = q->ids,
        .n_ids = q->n_ids,
        .n_prompt = q->n_prompt,
        .stream = (uint64_t)q->choice,
        .logprobs = s->logprobs,
        .n_top = s->top_logprobs,
    };
    struct token_info info;
    int rc = sample_next(m->sample, logits, &args, &info, e);
    if (rc)
        return rc;
    if (q->first_token_us == 0)
        q->first_token_us = clock_us();
    if (q->task->first_token_us == 0)
        q->task->first_token_us = q->first_token_us;
    q->ids[q->n_ids++] = info.id;
    STAT_ADD(g, generated_tokens, 1);
    enum finish how;
    const char *stop;
    rc = emit_token(q, model_card(m->model)->tokenizer, &info, &how, &stop, e);
    if (rc == 0 && how != FINISH_NONE)
        finish(g, q, how, stop);
    return rc;
}

/* Samples and emits for one part of a step that was computed. */
static void finish_part(struct engine *g, const struct sched_plan *p, const struct sched_part *part)
{
    struct seq *q = part->seq;
    if (!q->task)
        return; /* another choice of its job failed in this step */
    struct err e = {0};
    int rc = 0;
    size_t n_vocab = (size_t)model_card(g->models[p->model].model)->n_vocab;
    bool echo = q->task->job->text.echo_logprobs;
    int start = q->n_done - part->n_rows;
    if (echo && start == 0) {
        const struct token_info first = {.id = q->ids[0], .logprob = NAN};
        emit_prompt(q, &first);
    }
    if (start < q->n_prompt && q->n_done >= q->n_prompt)
        count_prompt(g, q);
    g->dirty = true;
    for (int i = 0; i < part->n_logits && rc == 0; i++) {
        int k = part->first_logit + i, at = p->batch.pos[p->batch.logit_rows[k]];
        float *logits = p->batch.logits + (size_t)k * n_vocab;
        rc = at + 1 < q->n_prompt ? score_row(g, q, logits, at, &e) : choose_row(g, q, logits, &e);
        if (rc == 0 && !q->task)
            return;
    }
    if (rc)
        fail_task(g, q->task, &e);
    else if (q->n_done == q->n_end) /* an echo without tokens after it */
        finish(g, q, FINISH_LENGTH, NULL);
}

/* Runs the next unit.  1: done, 0: there is nothing to run, else the device failed. */
static int run_unit(struct engine *g, struct err *e)
{
    const struct sched_plan *p = sched_next(&g->sched);
    if (!p)
        return 0;
    struct text_batch batch = p->batch;
    batch.logits = g->logits;
    struct sched_plan step = *p;
    step.batch = batch;
    int64_t start = clock_us();
    int rc = model_forward(g->models[p->model].model, cache_pool_base(g->models[p->model].pool),
                           &batch, e);
    if (rc)
        return rc;
    sched_done(&g->sched, &step, (double)(clock_us() - start));
    STAT_ADD(g, steps, 1);
    STAT_ADD(g, step_rows, batch.n_rows);
    for (int i = 0; i < step.n_parts; i++)
        finish_part(g, &step, &step.parts[i]);
    return 1;
}

/* --- the thread --- */

static void show_stats(struct engine *g)
{
    struct cache_stats c;
    cache_stats(g->cache, &c);
    size_t page = model_page_bytes(g->models[0].model); /* several models: in pages of the first */
    STAT_SET(g, pages_used, (int64_t)(c.used_bytes / page));
    STAT_SET(g, pages_cached, (int64_t)(c.cold_bytes / page));
    STAT_SET(g, heartbeat_us, clock_us());
}

static void take_inbox(struct engine *g)
{
    pthread_mutex_lock(&g->submit_mutex);
    struct task *t = g->inbox;
    g->inbox = NULL;
    g->inbox_tail = &g->inbox;
    pthread_mutex_unlock(&g->submit_mutex);
    while (t) {
        struct task *next = t->next;
        sched_add(&g->sched, t);
        t = next;
    }
}

/* Sleeps until something is submitted, at most a second.  false when it is time to stop. */
static bool rest(struct engine *g, bool idle)
{
    pthread_mutex_lock(&g->submit_mutex);
    if (idle && !g->inbox && !g->closing) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec++;
        pthread_cond_timedwait(&g->submit_cond, &g->submit_mutex, &until);
    }
    bool go_on = !g->closing;
    pthread_mutex_unlock(&g->submit_mutex);
    return go_on;
}

static void fail_engine(struct engine *g, const struct err *e)
{
    g->failure = *e;
    atomic_store_explicit(&g->state, ENGINE_FAILED, memory_order_release);
    log_msg(LOG_ERROR, "engine.failed", "%s", e->msg);
    wake_now(g);
}

static void serve(struct engine *g)
{
    struct err e = {0};
    int idle_turns = 0;
    bool failed = false, idle = false;
    while (rest(g, idle)) {
        take_inbox(g);
        if (failed) { /* what slipped in before the state was seen */
            fail_all(g, &e);
            STAT_SET(g, heartbeat_us, clock_us());
        } else {
            sweep_cancelled(g);
            admit(g);
            show_stats(g);
            if (g->dirty)
                wake_now(g);
            int rc = run_unit(g, &e);
            if (rc < 0) {
                failed = true;
                fail_engine(g, &e);
                fail_all(g, &e);
            }
            idle = rc <= 0;
            show_stats(g);
        }
        if (g->dirty)
            wake_now(g);
        idle_turns = idle ? idle_turns + 1 : 0;
        if (idle_turns == TRIM_AFTER_S)
            cache_trim(g->cache);
    }
    take_inbox(g);
    struct err stopping = {0};
    err_set(&stopping, ERR_CANCELLED, "the server is shutting down");
    fail_all(g, &stopping);
    atomic_store_explicit(&g->state, ENGINE_STOPPED, memory_order_release);
    wake_now(g);
}

/* --- loading --- */

static int pages_of(int n_ctx)
{
    return (n_ctx + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

static size_t default_cache_bytes(const struct engine *g)
{
    size_t one = 0, all = 0;
    for (int i = 0; i < g->o.n_models; i++) {
        const struct model *m = g->models[i].model;
        size_t bytes = (size_t)pages_of(model_card(m)->n_ctx) * model_page_bytes(m);
        one = bytes > one ? bytes : one;
        all += bytes * (size_t)g->o.max_sequences;
    }
    size_t quarter = cache_default_bytes(), bytes = quarter;
    if (bytes < one) /* one full context, but never nearly all of the memory */
        bytes = one < 3 * quarter ? one : 3 * quarter;
    return bytes < all ? bytes : all;
}

static int load_models(struct engine *g, struct err *e)
{
    const struct model_options o = {
        .n_ctx = g->o.n_ctx,
        .max_rows = g->o.max_batch_rows,
        .max_logits = g->o.max_sequences + SCHED_ECHO_ROWS,
        .kv_type = g->o.kv_type,
        .progress = &g->progress,
    };
    for (int i = 0; i < g->o.n_models; i++) {
        struct loaded *m = &g->models[i];
        int64_t start = clock_us();
        STAT_SET(g, heartbeat_us, start);
        int rc = model_open(&m->model, m->id, m->path, g->backend, &o, e);
        if (rc) {
            m->model = NULL;
            return err_wrap(e, "model %s", m->id);
        }
        rc = sample_open(&m->sample, model_card(m->model)->n_vocab, e);
        if (rc)
            return rc;
        atomic_store(&g->progress, 0);
        atomic_store(&g->models_done, i + 1);
        struct log_line l;
        log_begin(&l, LOG_INFO, "model.loaded");
        log_str(&l, "name", m->id);
        log_int(&l, "weight_bytes", (int64_t)model_card(m->model)->weight_bytes);
        log_int(&l, "n_ctx", model_card(m->model)->n_ctx);
        log_int(&l, "ms", (clock_us() - start) / 1000);
        log_end(&l);
    }
    return 0;
}

static int make_cache(struct engine *g, struct err *e)
{
    size_t budget = g->o.cache_bytes ? g->o.cache_bytes : default_cache_bytes(g);
    int rc = cache_open(&g->cache, budget, e);
    for (int i = 0; i < g->o.n_models && rc == 0; i++) {
        struct loaded *m = &g->models[i];
        const struct model_card *card = model_card(m->model);
        rc = cache_pool_add(g->cache, &m->pool, model_page_bytes(m->model), e);
        if (rc)
            return err_wrap(e, "cache of %s", m->id);
        int64_t fits = (int64_t)cache_pool_pages(m->pool) * KV_PAGE_TOKENS;
        g->sched_models[i].pool = m->pool;
        g->sched_models[i].n_ctx = fits < card->n_ctx ? (int)fits : card->n_ctx;
        if (fits < card->n_ctx)
            log_msg(LOG_WARN, "cache.small", "%s: the cache holds %lld of %d tokens of a context",
                    m->id, (long long)fits, card->n_ctx);
    }
    if (rc)
        return rc;
    STAT_SET(g, cache_bytes, (int64_t)budget);
    STAT_SET(g, pages_total, cache_pool_pages(g->models[0].pool));
    return 0;
}

static int load(struct engine *g, struct err *e)
{
    int rc = backend_open(&g->backend, g->device, g->o.n_threads, e);
    if (rc)
        return rc;
    rc = load_models(g, e);
    if (rc == 0)
        rc = make_cache(g, e);
    if (rc)
        return rc;
    size_t n_vocab = 1;
    for (int i = 0; i < g->o.n_models; i++) {
        size_t n = (size_t)model_card(g->models[i].model)->n_vocab;
        n_vocab = n > n_vocab ? n : n_vocab;
    }
    const struct sched_options o = {
        .max_sequences = g->o.max_sequences,
        .prefill_chunk = g->o.prefill_chunk,
        .max_rows = g->o.max_batch_rows,
        .share = g->o.prefix_sharing,
    };
    g->logits = mem_try((size_t)sched_max_logits(&o) * n_vocab, sizeof *g->logits);
    if (!g->logits)
        return err_set(e, ERR_NOMEM, "no memory for logits");
    return sched_init(&g->sched, g->cache, &o, g->sched_models, g->o.n_models, e);
}

static void unload(struct engine *g)
{
    sched_fini(&g->sched);
    cache_close(g->cache);
    free(g->logits);
    for (int i = g->o.n_models - 1; i >= 0; i--) {
        sample_close(g->models[i].sample);
        if (g->models[i].model)
            model_close(g->models[i].model);
    }
    if (g->backend)
        g->backend->close(g->backend);
}

static void *engine_thread(void *arg)
{
    struct engine *g = arg;
    struct err e = {0};
    STAT_SET(g, heartbeat_us, clock_us());
    if (load(g, &e)) {
        fail_engine(g, &e);
        while (rest(g, true))
            STAT_SET(g, heartbeat_us, clock_us());
    } else {
        atomic_store_explicit(&g->state, ENGINE_READY, memory_order_release);
        wake_now(g);
        serve(g);
    }
    unload(g);
    return NULL;
}

/* --- open, close, questions --- */

static void free_engine(struct engine *g)
{
    for (int i = 0; i < g->o.n_models; i++) {
        free(g->models[i].id);
        free(g->models[i].path);
    }
    free(g->device);
    pthread_cond_destroy(&g->submit_cond);
    pthread_mutex_destroy(&g->submit_mutex);
    free(g);
}

static void set_defaults(struct engine_options *o)
{
    o->max_sequences = o->max_sequences > 0 ? o->max_sequences : 16;
    o->max_queued_jobs = o->max_queued_jobs > 0 ? o->max_queued_jobs : 256;
    o->max_queued_tokens = o->max_queued_tokens > 0 ? o->max_queued_tokens : 1 << 20;
    o->prefill_chunk = o->prefill_chunk > 0 ? o->prefill_chunk : 128;
    o->max_batch_rows = o->max_batch_rows > 0 ? o->max_batch_rows : 512;
    /* Room for every sequence's row and some of a prompt. */
    if (o->max_batch_rows < o->max_sequences + KV_PAGE_TOKENS)
        o->max_batch_rows = o->max_sequences + KV_PAGE_TOKENS;
}

int engine_open(struct engine **out, const struct engine_options *o, struct err *e)
{
    if (o->n_models < 1 || o->n_models > MODELS_MAX)
        return err_set(e, ERR_INVALID, "1 to %d models, got %d", MODELS_MAX, o->n_models);
    struct engine *g = xcalloc(1, sizeof *g);
    g->o = *o;
    set_defaults(&g->o);
    g->o.models = NULL;
    g->device = xstrdup(o->device ? o->device : "cpu");
    g->o.device = g->device;
    for (int i = 0; i < o->n_models; i++) {
        g->models[i].id = xstrdup(o->models[i].id);
        g->models[i].path = xstrdup(o->models[i].path);
    }
    g->inbox_tail = &g->inbox;
    STAT_SET(g, sequences_max, g->o.max_sequences);
    STAT_SET(g, heartbeat_us, clock_us());
    atomic_store(&g->state, ENGINE_LOADING);
    pthread_mutex_init(&g->submit_mutex, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->submit_cond, &attr);
    pthread_condattr_destroy(&attr);
    errno = pthread_create(&g->thread, NULL, engine_thread, g);
    if (errno) {
        err_set(e, ERR_IO, "cannot start the engine thread: %m");
        free_engine(g);
        return ERR_IO;
    }
    *out = g;
    return 0;
}

void engine_close(struct engine *g)
{
    if (!g)
        return;
    pthread_mutex_lock(&g->submit_mutex);
    g->closing = true;
    pthread_cond_signal(&g->submit_cond);
    pthread_mutex_unlock(&g->submit_mutex);
    pthread_join(g->thread, NULL);
    free_engine(g);
}

enum engine_state engine_state(const struct engine *g)
{
    return (enum engine_state)atomic_load_explicit(&g->state, memory_order_acquire);
}

void engine_failure(const struct engine *g, struct err *e)
{
    if (engine_state(g) == ENGINE_FAILED)
        *e = g->failure;
}

int engine_progress(const struct engine *g)
{
    if (engine_state(g) == ENGINE_READY)
        return 1000;
    int done = atomic_load(&g->models_done), part = atomic_load(&g->progress);
    int all = (done * 1000 + (part < 1000 ? part : 1000)) / g->o.n_models;
    return all < 1000 ? all : 999;
}

/* Loading is over and what it made stays until engine_close. */
static bool is_loaded(const struct engine *g)
{
    return engine_state(g) == ENGINE_READY;
}

const char *engine_device(const struct engine *g)
{
    return is_loaded(g) ? g->backend->name : "";
}

int engine_n_models(const struct engine *g)
{
    return is_loaded(g) ? g->o.n_models : 0;
}

const struct model_card *engine_card_at(const struct engine *g, int i)
{
    return is_loaded(g) && i >= 0 && i < g->o.n_models ? model_card(g->models[i].model) : NULL;
}

const struct model_card *engine_card(const struct engine *g, const char *id)
{
    return is_loaded(g) ? engine_card_at(g, find_model(g, id)) : NULL;
}

void engine_stats(const struct engine *g, struct engine_stats *s)
{
    memset(s, 0, sizeof *s);
#define X(name) s->name = (__typeof__(s->name))STAT_GET(g, name);
    STATS(X)
#undef X
}
