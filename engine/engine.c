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
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/emit.h"
#include "engine/engine_int.h"
#include "engine/unsent.h"

static void wake_now(struct engine *g)
{
    g->dirty = false;
    if (g->o.wake)
        g->o.wake(g->o.wake_ctx);
}

/* --- submit --- */

static const char *kind_name(enum model_kind kind)
{
    static const char *const names[] = {
        [MODEL_TEXT] = "text",
        [MODEL_IMAGE] = "images",
        [MODEL_EMBEDDING] = "embeddings",
        [MODEL_CAPTION] = "captions",
        [MODEL_UPSCALER] = "larger pictures",
        [MODEL_ENLARGER] = "larger pictures",
        [MODEL_CONTROL] = "controls",
    };
    return names[kind];
}

int engine_find(const struct engine *g, enum model_kind kind, const char *id, struct err *e)
{
    bool named = id && *id;
    for (int i = 0; i < g->o.n_models; i++) {
        const struct model_card *card = engine_facts(g, i);
        if (named ? strcmp(card->id, id) != 0 : card->kind != kind)
            continue;
        if (card->kind == kind)
            return i;
        err_set(e, ERR_INVALID, "the model \"%.80s\" makes %s, not %s", id, kind_name(card->kind),
                kind_name(kind));
        return err_param(e, "model");
    }
    if (named)
        return err_set(e, ERR_NOTFOUND, "there is no model \"%.80s\" here", id);
    return err_set(e, ERR_NOTFOUND, "there is no model here that makes %s", kind_name(kind));
}

/* Under the mutex.  Jobs that can start at once do not count as waiting, and a job is never refused
 * for its own size alone: it would be refused for ever. */
static int enqueue(struct engine *g, struct task *t, int64_t n_tokens, struct err *e)
{
    if (g->closing)
        return err_set(e, ERR_UNAVAILABLE, "the engine is stopping");
    int n_free = (int)(STAT_GET(g, sequences_max) - STAT_GET(g, sequences_running));
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

/* Could the model ever be loaded? */
static int check_weights(const struct engine *g, const struct task *t, struct err *e)
{
    int model = t->model;
    size_t need = engine_facts(g, model)->weight_bytes;
    for (const struct stage *s = t->stages; s; s = s->next) {
        bool counted = s->model == model;
        for (const struct stage *o = t->stages; o != s; o = o->next)
            counted = counted || o->model == s->model;
        need += counted ? 0 : engine_facts(g, s->model)->weight_bytes;
    }
    for (int i = 0; i < t->n_also; i++)
        need += engine_facts(g, t->also[i])->weight_bytes;
    if (need <= g->weight_budget)
        return 0;
    err_set(e, ERR_INVALID,
            "the model \"%.80s\" needs %zu MiB for its weights, this server has %zu MiB for them",
            engine_facts(g, model)->id, need >> 20, g->weight_budget >> 20);
    err_reason(e, "memory_exceeded");
    return err_param(e, "model");
}

int engine_enqueue(struct engine *g, struct task *t, int64_t n_tokens, struct err *e)
{
    int rc = check_weights(g, t, e);
    if (rc)
        return rc;
    t->job->submit_us = clock_us();
    job_ref(t->job);
    pthread_mutex_lock(&g->submit_mutex);
    rc = enqueue(g, t, n_tokens, e);
    pthread_mutex_unlock(&g->submit_mutex);
    if (rc)
        job_unref(t->job);
    return rc;
}

void engine_count_waiting(struct engine *g, int jobs, int64_t tokens)
{
    pthread_mutex_lock(&g->submit_mutex);
    g->n_waiting += jobs;
    g->n_waiting_tokens += tokens;
    STAT_SET(g, jobs_waiting, g->n_waiting);
    pthread_mutex_unlock(&g->submit_mutex);
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
    switch (j->kind) {
    case JOB_TEXT:
        return engine_text_submit(g, j, e);
    case JOB_IMAGE:
        return engine_image_submit(g, j, e);
    case JOB_EMBED:
        return engine_embed_submit(g, j, e);
    case JOB_UPSCALE:
        return engine_upscale_submit(g, j, e);
    case JOB_ADAPTER:
        return engine_adapter_submit(g, j, e);
    }
    return err_set(e, ERR_INVALID, "a job of no kind");
}

/* --- jobs that end before their time --- */

void engine_fail_task(struct engine *g, struct task *t, const struct err *e)
{
    if (t->job->kind == JOB_IMAGE || t->job->kind == JOB_UPSCALE)
        engine_image_fail(g, t, e);
    else if (t->job->kind == JOB_EMBED)
        engine_embed_fail(g, t, e);
    else
        engine_text_fail(g, t, e);
}

/* Each task that fails leaves the list that it is the first of; the analyzer does not see that. */
static void fail_all(struct engine *g, const struct err *e)
{
    while (g->sched.n_running > 0)
        engine_fail_task(g, g->sched.order[0]->task, e); /* NOLINT(clang-analyzer-unix.Malloc) */
    engine_adapter_fail(g, e);
    struct task *t;
    while ((t = engine_image_first(g, false)) != NULL || (t = engine_embed_first(g, false)) != NULL)
        engine_fail_task(g, t, e); /* NOLINT(clang-analyzer-unix.Malloc) */
    while (g->sched.head)
        engine_fail_task(g, g->sched.head, e); /* NOLINT(clang-analyzer-unix.Malloc) */
}

/* The device failed before it began t's job: another engine may have it. */
static void give_away(struct engine *g, struct task *t, const struct err *why)
{
    struct job *j = t->job;
    struct err e = {0};
    job_ref(j);
    t->dead = true; /* nothing is told from here */
    engine_fail_task(g, t, why);
    if (!g->o.peers || !g->o.peers->rescue(g->o.peers, j)) {
        err_set(&e, ERR_UNAVAILABLE, "the device failed before the request began: %.200s",
                why->msg);
        emit_end_of_job(j, &e);
    }
    job_unref(j);
}

/* After the device has failed.  What had begun ends; nobody else gets it, for it may be what the device failed of. */
static void leave_device(struct engine *g, const struct err *e)
{
    for (struct task *t = g->sched.head, *next; t; t = next) {
        next = t->next;
        if (t->admitted_us == 0)
            give_away(g, t, e);
    }
    fail_all(g, e);
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
    struct task *t = engine_image_first(g, true);
    return t ? t : engine_embed_first(g, true);
}

static void sweep_cancelled(struct engine *g)
{
    struct err e = {0};
    err_set(&e, ERR_CANCELLED, "the request was cancelled");
    struct task *t;
    while ((t = find_cancelled(g)) != NULL) {
        STAT_ADD(g, cancelled, 1);
        engine_fail_task(g, t, &e);
    }
}

static void admit(struct engine *g)
{
    struct seq *q;
    struct task *other;
    while ((q = sched_admit(&g->sched, &other)) != NULL || other) {
        if (q)
            engine_text_begin(g, q);
        else if (other->embed)
            engine_embed_begin(g, other);
        else
            engine_image_begin(g, other);
    }
}

/* --- the thread --- */

static void show_stats(struct engine *g)
{
    struct cache_stats c;
    cache_stats(g->cache, &c);
    STAT_SET(g, pages_used, (int64_t)(c.used_bytes / g->page_bytes));
    STAT_SET(g, pages_cached, (int64_t)(c.cold_bytes / g->page_bytes));
    STAT_SET(g, held_bytes, (int64_t)c.held_bytes);
    STAT_SET(g, kept_bytes, (int64_t)c.kept_bytes);
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
        if (t->image)
            t->due_us = engine_image_due(g, t);
        sched_add(&g->sched, t);
        t = next;
    }
}

/* Until when the loader may have the device, now that a unit has run or not. */
static int64_t lend_until(bool busy)
{
    return clock_us() + (busy ? UNIT_SHARED_MS : UNIT_ALONE_MS) * (int64_t)1000;
}

/* Runs the next unit.  1: done, 0: there is nothing to run, else the device failed. */
static int run_unit(struct engine *g, struct err *e)
{
    if (g->choose.n_ahead > 0) {
        int rc = engine_choose_turn(g, e);
        return rc < 0 ? rc : 1;
    }
    const struct sched_plan *p = sched_next(&g->sched);
    if (!p)
        return 0;
    g->models[p->model].used_us = clock_us();
    int rc = g->models[p->model].embed.bert    ? engine_embed_run(g, p, e)
             : g->models[p->model].upscale.m   ? engine_upscale_run(g, p, e)
             : g->sched_models[p->model].other ? engine_image_run(g, p, e)
             : p->look                         ? engine_caption_run(g, p, e)
                                               : engine_text_run(g, p, e);
    return rc < 0 ? rc : 1;
}

/* Where there is nothing to do, sleeps until something is submitted: for a second at most, or UNSENT_MS while pixels
 * of ended jobs hold memory.  false when it is time to stop. */
static bool rest(struct engine *g, bool idle)
{
    pthread_mutex_lock(&g->submit_mutex);
    if (idle && !g->inbox && !g->closing && !g->adapters_due && !loader_calls(&g->loader)) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += g->unsent ? UNSENT_MS * 1000000L : 1000000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
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
            leave_device(g, &e);
            STAT_SET(g, heartbeat_us, clock_us());
        } else {
            sweep_cancelled(g);
            unsent_turn(&g->unsent, g->cache);
            engine_adapter_turn(g);
            admit(g);
            show_stats(g);
            if (g->dirty)
                wake_now(g);
            int rc = run_unit(g, &e);
            const int more = rc < 0 ? rc : engine_models_turn(g, lend_until(rc > 0), &e);
            failed = more < 0;
            idle = rc <= 0 && more <= 0;
            if (failed) {
                fail_engine(g, &e);
                leave_device(g, &e);
            }
            show_stats(g);
        }
        if (g->dirty)
            wake_now(g);
        idle_turns = idle && !g->unsent ? idle_turns + 1 : 0;
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

static void *engine_thread(void *arg)
{
    struct engine *g = arg;
    struct err e = {0};
    STAT_SET(g, heartbeat_us, clock_us());
    if (engine_load(g, &e)) {
        fail_engine(g, &e);
        while (rest(g, true))
            STAT_SET(g, heartbeat_us, clock_us());
    } else {
        atomic_store_explicit(&g->state, ENGINE_READY, memory_order_release);
        wake_now(g);
        serve(g);
    }
    engine_load_undo(g);
    return NULL;
}

/* --- open, close, questions --- */

static void free_engine(struct engine *g)
{
    for (int i = 0; i < g->o.n_models; i++) {
        free(g->models[i].id);
        free(g->models[i].path);
        free(g->models[i].tokenizer);
        free(g->models[i].prediction);
    }
    free(g->device);
    free(g->preview);
    engine_adapter_fini(g);
    pthread_cond_destroy(&g->submit_cond);
    pthread_mutex_destroy(&g->submit_mutex);
    free(g);
}

static void set_defaults(struct engine_options *o)
{
    o->max_sequences = o->max_sequences > 0 ? o->max_sequences : 16;
    o->max_queued_jobs = o->max_queued_jobs > 0 ? o->max_queued_jobs : 256;
    o->max_queued_tokens = o->max_queued_tokens > 0 ? o->max_queued_tokens : 1 << 20;
    o->max_images = o->max_images > 0 ? o->max_images : 4;
    o->image_rows = o->image_rows > 0 ? o->image_rows : 8;
    o->max_loras = o->max_loras > 0 ? o->max_loras : 64;
    o->grammar_bytes = o->grammar_bytes > 0 ? o->grammar_bytes : (size_t)64 << 20;
    o->image_weight = o->image_weight > 0 ? o->image_weight : 1;
    o->max_batch_rows = o->max_batch_rows > 0 ? o->max_batch_rows : 512;
    /* Room for every sequence's row and some of a prompt. */
    if (o->max_batch_rows < o->max_sequences + KV_PAGE_TOKENS)
        o->max_batch_rows = o->max_sequences + KV_PAGE_TOKENS;
}

static char *copy_of(const char *s)
{
    return s ? xstrdup(s) : NULL;
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
    g->preview = copy_of(o->preview);
    g->o.preview = g->preview;
    g->o.device = g->device;
    g->o.lora_dir = NULL; /* engine_adapter.c has a copy */
    engine_adapter_init(g, o->lora_dir);
    for (int i = 0; i < o->n_models; i++) {
        g->models[i].id = xstrdup(o->models[i].id);
        g->models[i].path = xstrdup(o->models[i].path);
        g->models[i].tokenizer = copy_of(o->models[i].tokenizer);
        g->models[i].prediction = copy_of(o->models[i].prediction);
        g->models[i].engine = g;
    }
    g->inbox_tail = &g->inbox;
    STAT_SET(g, sequences_max, g->o.max_sequences);
    STAT_SET(g, heartbeat_us, clock_us());
    atomic_store(&g->state, ENGINE_LOADING);
    atomic_store(&g->preloading, -1);
    g->loading = -1;
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
    int model = atomic_load(&g->preloading);
    if (model < 0)
        return 0;
    int done = g->o.preload == PRELOAD_ALL ? model : 0,
        all = g->o.preload == PRELOAD_ALL ? g->o.n_models : 1;
    int part = atomic_load(&g->models[model].progress);
    int sum = (done * 1000 + (part < 1000 ? part : 1000)) / all;
    return sum < 1000 ? sum : 999;
}

/* What the models are is known and stays so until engine_close. */
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
    return is_loaded(g) && i >= 0 && i < g->o.n_models ? engine_facts(g, i) : NULL;
}

enum engine_model_state engine_model_state(const struct engine *g, int i)
{
    return (enum engine_model_state)atomic_load(&g->models[i].state);
}

int64_t engine_model_loads(const struct engine *g, int i)
{
    return atomic_load(&g->models[i].n_loads);
}

const struct model_card *engine_card(const struct engine *g, enum model_kind kind, const char *id,
                                     struct err *e)
{
    if (!is_loaded(g)) {
        err_set(e, ERR_UNAVAILABLE, "the models are still loading");
        return NULL;
    }
    return engine_card_at(g, engine_find(g, kind, id, e));
}

void engine_stats(const struct engine *g, struct engine_stats *s)
{
    memset(s, 0, sizeof *s);
#define X(name) s->name = (__typeof__(s->name))STAT_GET(g, name);
    STATS(X)
#undef X
}
