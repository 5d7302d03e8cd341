/* Models come and go.  At start every model is opened dry: its card, its tokenizer and its shapes are known from then
 * on, and jobs are checked against them whether it is loaded or not.  The weights come when a job waits for
 * them and go when those of another model are wanted and the budget has no room for both.
 *
 * The first job in the queue whose model is missing decides what is loaded next.  To make room the models
 * that run nothing go, the longest unused first of those that are large enough; one that has jobs further up in
 * the queue stays.  When those that run do not end by themselves, one of them is closed to new jobs after a
 * while, so that two busy models that do not fit together take turns.
 *
 * Keys and values of a text model's prompts stay in the cache while it is away: its file is the same when it comes
 * back. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine_int.h"
#include "engine/text/grammar.h"

enum { CLOSE_AFTER_US = 2000000 }; /* that a job has waited for a model in use */

static struct model_options options_of(struct engine *g, int model)
{
    return (struct model_options){
        .n_ctx = g->o.n_ctx,
        .max_rows = g->o.max_batch_rows,
        .max_logits = g->o.max_sequences + SCHED_MORE_LOGITS,
        .kv_type = g->o.kv_type,
        .vae_bytes = g->o.vae_bytes,
        .safety = g->o.safety,
        .preview = g->preview,
        .tokenizer = g->models[model].tokenizer,
        .prediction = g->models[model].prediction,
        .adapters = g->adapters.dir != NULL,
    };
}

int engine_models_describe(struct engine *g, struct err *e)
{
    g->dry = backend_dry(g->backend);
    size_t free_bytes = engine_free_bytes(g);
    g->weight_budget = g->o.weight_bytes ? g->o.weight_bytes : free_bytes / 8 * 7;
    STAT_SET(g, weight_budget_bytes, (int64_t)g->weight_budget);
    for (int i = 0; i < g->o.n_models; i++) {
        struct loaded *m = &g->models[i];
        struct model_options o = options_of(g, i);
        o.no_warmup = true;
        STAT_SET(g, heartbeat_us, clock_us());
        if (model_open(&m->facts, m->id, m->path, g->dry, &o, e)) {
            m->facts = NULL;
            return err_wrap(e, "model %s", m->id);
        }
        g->sched_models[i].closed = true;
        if (engine_facts(g, i)->weight_bytes > g->weight_budget)
            log_msg(LOG_WARN, "model.large", "%s: its weights need %zu MiB, the budget is %zu MiB",
                    m->id, engine_facts(g, i)->weight_bytes >> 20, g->weight_budget >> 20);
    }
    return 0;
}

/* ---- in and out ---- */

static void set_state(struct engine *g, int model, enum engine_model_state state)
{
    int64_t n = 0;
    atomic_store(&g->models[model].state, (int)state);
    for (int i = 0; i < g->o.n_models; i++)
        n += engine_model_state(g, i) == ENGINE_MODEL_LOADED;
    STAT_SET(g, models_loaded, n);
    STAT_SET(g, weight_bytes, (int64_t)g->weight_bytes);
}

/* What its jobs need besides the weights. */
static int open_work(struct engine *g, int model, struct err *e)
{
    struct loaded *m = &g->models[model];
    const struct model_card *card = engine_facts(g, model);
    if (card->kind == MODEL_EMBEDDING)
        return engine_embed_open(g, model, e);
    if (card->image)
        engine_image_open(g, model);
    if (card->kind == MODEL_UPSCALER)
        engine_upscale_open(g, model);
    int rc = engine_has_pages(card) && !m->sample ? sample_open(&m->sample, card->n_vocab, e) : 0;
    if (rc == 0 && card->kind == MODEL_TEXT && !m->vocab)
        rc = grammar_vocab_open(&m->vocab, card->tokenizer, g->o.grammar_bytes, e);
    return rc;
}

static void close_work(struct engine *g, int model)
{
    struct loaded *m = &g->models[model];
    engine_control_forget(g, model);
    if (m->embed.bert)
        embed_fini(&m->embed);
    else if (g->sched_models[model].other && !m->upscale.m)
        pipeline_fini(&m->pipeline);
    m->pipeline = (struct pipeline){0};
    m->upscale = (struct upscale){0};
    g->sched_models[model].other = NULL;
}

static void begin_load(struct engine *g, int model)
{
    g->loading = model;
    g->weight_bytes += engine_facts(g, model)->weight_bytes;
    atomic_store(&g->models[model].progress, 0);
    set_state(g, model, ENGINE_MODEL_LOADING);
}

/* The weights are not there, or no longer. */
static void gone(struct engine *g, int model)
{
    g->weight_bytes -= engine_facts(g, model)->weight_bytes;
    g->sched_models[model].closed = true;
    set_state(g, model, ENGINE_MODEL_UNLOADED);
}

/* A load has ended with rc. */
static int end_load(struct engine *g, int rc, int64_t start_us, struct err *e)
{
    int model = g->loading;
    struct loaded *m = &g->models[model];
    g->loading = -1;
    if (rc == 0 && !model_is_like(m->model, m->facts))
        rc = err_set(e, ERR_CORRUPT,
                     "its file is another one than when the server was started: start it anew");
    if (rc == 0)
        rc = open_work(g, model, e);
    if (rc) {
        if (m->model)
            model_close(m->model);
        m->model = NULL;
        gone(g, model);
        return err_wrap(e, "model %s", m->id);
    }
    m->used_us = clock_us();
    g->sched_models[model].closed = false;
    atomic_fetch_add(&m->n_loads, 1);
    set_state(g, model, ENGINE_MODEL_LOADED);
    struct log_line l;
    log_begin(&l, LOG_INFO, "model.loaded");
    log_str(&l, "name", m->id);
    log_int(&l, "weight_bytes", (int64_t)engine_facts(g, model)->weight_bytes);
    if (engine_has_pages(engine_facts(g, model)))
        log_int(&l, "n_ctx", engine_facts(g, model)->n_ctx);
    log_int(&l, "ms", (clock_us() - start_us) / 1000);
    log_end(&l);
    return 0;
}

static void unload(struct engine *g, int model)
{
    struct loaded *m = &g->models[model];
    engine_adapter_away(g, model);
    close_work(g, model);
    model_close(m->model);
    m->model = NULL;
    gone(g, model);
    struct log_line l;
    log_begin(&l, LOG_INFO, "model.unloaded");
    log_str(&l, "name", m->id);
    log_end(&l);
}

/* ---- before the engine is ready ---- */

static bool fits(const struct engine *g, int model)
{
    size_t need = engine_facts(g, model)->weight_bytes;
    return need <= g->weight_budget && g->weight_bytes <= g->weight_budget - need;
}

static int load_now(struct engine *g, int model, struct err *e)
{
    struct loaded *m = &g->models[model];
    int64_t start = clock_us();
    struct model_options o = options_of(g, model);
    o.bare = true;
    o.progress = &m->progress;
    begin_load(g, model);
    atomic_store(&g->preloading, model);
    STAT_SET(g, heartbeat_us, start);
    int rc = model_open(&m->model, m->id, m->path, g->backend, &o, e);
    if (rc)
        m->model = NULL;
    return end_load(g, rc, start, e);
}

/* The text model that requests get which name none, else the first of all. */
static int default_model(const struct engine *g)
{
    for (int i = 0; i < g->o.n_models; i++) {
        if (engine_facts(g, i)->kind == MODEL_TEXT)
            return i;
    }
    return 0;
}

int engine_models_preload(struct engine *g, struct err *e)
{
    int only = g->o.preload == PRELOAD_CHAT ? default_model(g) : -1, rc = 0;
    if (g->o.preload == PRELOAD_NONE)
        return 0;
    for (int i = 0; i < g->o.n_models && rc == 0; i++) {
        if ((only < 0 || i == only) && fits(g, i))
            rc = load_now(g, i, e);
        else if (i == only)
            rc = err_set(e, ERR_NOMEM,
                         "model %s: its weights need %zu MiB, the budget is %zu MiB (weights_mib)",
                         g->models[i].id, engine_facts(g, i)->weight_bytes >> 20,
                         g->weight_budget >> 20);
    }
    return rc;
}

/* ---- while others run ---- */

/* Does a job need the model, for itself, for one of its stages or for its controls? */
static bool needs(const struct task *t, int model)
{
    bool found = t->model == model;
    for (const struct stage *s = t->stages; s; s = s->next)
        found = found || s->model == model;
    for (int i = 0; i < t->n_also; i++)
        found = found || t->also[i] == model;
    return found;
}

static bool runs(const struct engine *g, int model)
{
    for (int i = 0; i < g->sched.n_running; i++) {
        if (g->sched.order[i]->task->model == model)
            return true;
    }
    for (int i = 0; i < g->o.n_models; i++) {
        for (const struct image_task *it = g->models[i].pipeline.tasks; it; it = it->next) {
            if (needs(it->task, model))
                return true;
        }
    }
    return g->models[model].pipeline.tasks || g->models[model].embed.tasks ||
           g->models[model].upscale.tasks;
}

/* The model of the job that must be loaded next; -1: none. */
static int missing_of(const struct engine *g, const struct task *t)
{
    if (engine_model_state(g, t->model) == ENGINE_MODEL_UNLOADED)
        return t->model;
    for (const struct stage *s = t->stages; s; s = s->next) {
        if (engine_model_state(g, s->model) == ENGINE_MODEL_UNLOADED)
            return s->model;
    }
    for (int i = 0; i < t->n_also; i++) {
        if (engine_model_state(g, t->also[i]) == ENGINE_MODEL_UNLOADED)
            return t->also[i];
    }
    return -1;
}

/* Does a job that needs the model wait before t, or is it t? */
static bool waits_before(const struct engine *g, int model, const struct task *t)
{
    for (const struct task *o = g->sched.head; o && o != t; o = o->next) {
        if (needs(o, model))
            return true;
    }
    return needs(t, model);
}

/* May it go for t?  idle: only if it runs nothing. */
static bool may_go(const struct engine *g, int model, const struct task *t, bool idle)
{
    return engine_model_state(g, model) == ENGINE_MODEL_LOADED && !waits_before(g, model, t) &&
           !(idle && runs(g, model));
}

/* The loaded model that was not used for longest, of those that are large enough alone if there are any.  -1:
 * none may go. */
static int to_go(const struct engine *g, const struct task *t, int wanted, bool idle)
{
    const size_t missing =
        g->weight_bytes + engine_facts(g, wanted)->weight_bytes - g->weight_budget;
    int found = -1;
    bool enough = false;
    for (int i = 0; i < g->o.n_models; i++) {
        if (!may_go(g, i, t, idle))
            continue;
        bool alone = engine_facts(g, i)->weight_bytes >= missing;
        if (found >= 0 &&
            (alone != enough ? enough : g->models[i].used_us >= g->models[found].used_us))
            continue;
        found = i;
        enough = alone;
    }
    return found;
}

/* All loaded models let jobs in again. */
static void open_all(struct engine *g)
{
    for (int i = 0; i < g->o.n_models; i++)
        g->sched_models[i].closed = engine_model_state(g, i) != ENGINE_MODEL_LOADED;
}

/* true: the model that t wants fits now. */
static bool make_room(struct engine *g, const struct task *t, int wanted)
{
    int model;
    while (!fits(g, wanted) && (model = to_go(g, t, wanted, true)) >= 0)
        unload(g, model);
    if (fits(g, wanted))
        return true;
    bool long_enough = clock_us() - t->job->submit_us > CLOSE_AFTER_US;
    if (long_enough && (model = to_go(g, t, wanted, false)) >= 0)
        g->sched_models[model].closed = true;
    return false;
}

static void fail_waiting(struct engine *g, int model, const struct err *e)
{
    for (struct task *t = g->sched.head, *next; t; t = next) {
        next = t->next;
        if (needs(t, model))
            engine_fail_task(g, t, e);
    }
}

/* What cannot be loaded ends its jobs; the next one tries again. */
static void cannot_load(struct engine *g, int model, const struct err *why)
{
    struct err e = {0};
    log_msg(LOG_ERROR, "model.failed", "%s", why->msg);
    err_set(&e, ERR_UNAVAILABLE, "the model could not be loaded: %.300s", why->msg);
    err_reason(&e, "model_load_failed");
    fail_waiting(g, model, &e);
}

/* Begins to load what the queue waits for. */
static void look_at_queue(struct engine *g)
{
    struct task *t = g->sched.head;
    while (t && missing_of(g, t) < 0)
        t = t->next;
    open_all(g);
    int wanted = t ? missing_of(g, t) : -1;
    if (!t || !make_room(g, t, wanted))
        return;
    struct loaded *m = &g->models[wanted];
    struct model_options o = options_of(g, wanted);
    o.bare = o.no_warmup = true;
    o.progress = &m->progress;
    struct err e = {0};
    begin_load(g, wanted);
    g->load_us = clock_us();
    if (loader_start(&g->loader, m->id, m->path, &o, &e) == 0)
        return;
    int model = g->loading;
    if (end_load(g, e.code, g->load_us, &e))
        cannot_load(g, model, &e);
}

int engine_models_turn(struct engine *g, int64_t until_us, struct err *e)
{
    if (g->loading < 0) {
        look_at_queue(g);
        return 0;
    }
    bool lent = loader_turn(&g->loader, until_us);
    if (!loader_join(&g->loader))
        return lent;
    int model = g->loading;
    struct err why = g->loader.err;
    g->models[model].model = g->loader.rc ? NULL : g->loader.model;
    if (end_load(g, g->loader.rc, g->load_us, &why) == 0)
        return 1;
    cannot_load(g, model, &why);
    return why.code == ERR_DEVICE && g->backend->sync(g->backend, e) ? ERR_DEVICE : 1;
}

void engine_models_close(struct engine *g)
{
    loader_fini(&g->loader);
    for (int i = g->o.n_models - 1; i >= 0; i--) {
        struct loaded *m = &g->models[i];
        close_work(g, i);
        sample_close(m->sample);
        grammar_vocab_close(m->vocab);
        if (m->model)
            model_close(m->model);
        if (m->facts)
            model_close(m->facts);
    }
    if (g->dry)
        g->dry->close(g->dry);
}
