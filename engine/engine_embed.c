/* Embedding jobs in the engine: what is checked before one is queued, and the end of a job.  The batches
 * are embed.c's. */
#include <stdlib.h>

#include "base/clock.h"
#include "engine/emit.h"
#include "engine/engine_int.h"
#include "engine/finite.h"

static int check_texts(const struct embed_spec *s, const struct model_card *card, struct err *e)
{
    if (s->n_texts < 1)
        return err_set(e, ERR_INVALID, "a job needs a text");
    for (int i = 0; i < s->n_texts; i++) {
        if (s->n_ids[i] < 1)
            return err_set(e, ERR_INVALID, "text %d has no tokens", i);
        if (s->n_ids[i] > card->n_ctx) {
            err_set(e, ERR_TOOBIG, "text %d has %d tokens, the model takes %d", i, (int)s->n_ids[i],
                    card->n_ctx);
            return err_reason(e, "context_length_exceeded");
        }
        for (int k = 0; k < s->n_ids[i]; k++) {
            if (s->ids[i][k] < 0 || s->ids[i][k] >= card->n_vocab)
                return err_set(e, ERR_INVALID, "token %d is not in the vocabulary of %d",
                               (int)s->ids[i][k], card->n_vocab);
        }
    }
    return 0;
}

static int64_t n_tokens(const struct task *t)
{
    const struct embed_spec *s = &t->job->embed;
    int64_t sum = 0;
    for (int i = 0; i < s->n_texts; i++)
        sum += s->n_ids[i];
    return sum;
}

int engine_embed_submit(struct engine *g, struct job *j, struct err *e)
{
    int model = engine_find(g, MODEL_EMBEDDING, j->embed.model, e);
    if (model < 0)
        return model;
    int rc = check_texts(&j->embed, engine_facts(g, model), e);
    if (rc)
        return rc;
    struct task *t = xcalloc(1, sizeof *t);
    t->job = j;
    t->model = model;
    t->n_choices = 1;
    t->embed = xcalloc(1, sizeof *t->embed);
    t->embed->task = t;
    rc = engine_enqueue(g, t, n_tokens(t), e);
    if (rc) {
        free(t->embed);
        free(t);
    }
    return rc;
}

static int place(void *ctx, struct task *t)
{
    return embed_place(ctx, t->embed);
}

static bool has_work(void *ctx)
{
    return embed_has_work(ctx);
}

int engine_embed_open(struct engine *g, int model, struct err *e)
{
    struct loaded *m = &g->models[model];
    int rc = embed_init(&m->embed, model_bert(m->model), e);
    if (rc)
        return rc;
    m->other = (struct sched_other){.ctx = &m->embed, .place = place, .has_work = has_work};
    g->sched_models[model].other = &m->other;
    return 0;
}

static void free_task(struct task *t)
{
    job_unref(t->job);
    free(t->embed);
    free(t);
}

void engine_embed_begin(struct engine *g, struct task *t)
{
    engine_count_waiting(g, -1, -n_tokens(t));
    t->admitted_us = clock_us();
}

void engine_embed_fail(struct engine *g, struct task *t, const struct err *e)
{
    if (t->queued) {
        sched_remove(&g->sched, t);
        engine_count_waiting(g, -1, -n_tokens(t));
    }
    embed_leave(&g->models[t->model].embed, t->embed);
    emit_error(t, e);
    free_task(t);
    g->dirty = true;
}

static void finish(struct engine *g, struct task *t)
{
    struct err e = {0};
    if (t->embed->broken) {
        finite_error("a vector", &e);
        engine_embed_fail(g, t, &e);
        return;
    }
    embed_leave(&g->models[t->model].embed, t->embed);
    struct event *ev = job_event_new(EV_DONE, 0, "", 0, NULL, 0);
    ev->usage.queue_us = t->admitted_us - t->job->submit_us;
    ev->usage.prefill_us = clock_us() - t->admitted_us;
    ev->usage.prompt_tokens = (int)n_tokens(t);
    t->dead = true;
    STAT_ADD(g, prompt_tokens, n_tokens(t));
    job_emit(t->job, ev);
    free_task(t);
}

int engine_embed_run(struct engine *g, const struct sched_plan *plan, struct err *e)
{
    struct embed *m = &g->models[plan->model].embed;
    int64_t start = clock_us(), rows = m->n_rows;
    int rc = embed_run(m, e);
    if (rc < 0)
        return rc;
    sched_done(&g->sched, plan, (double)(clock_us() - start));
    STAT_ADD(g, steps, 1);
    STAT_ADD(g, step_rows, m->n_rows - rows);
    struct embed_task *ended;
    while ((ended = embed_ended(m)) != NULL)
        finish(g, ended->task);
    g->dirty = true;
    return 0;
}

struct task *engine_embed_first(const struct engine *g, bool cancelled)
{
    for (int i = 0; i < g->o.n_models; i++) {
        for (struct embed_task *it = g->models[i].embed.tasks; it; it = it->next) {
            if (!cancelled || job_cancelled(it->task->job))
                return it->task;
        }
    }
    return NULL;
}
