/* Image jobs in the engine: what is checked before one is queued, pipelines in the schedule, and the end of a
 * job.  The work itself is in pipeline.c and picture.c. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/emit.h"
#include "engine/engine_int.h"
#include "engine/turns.h"
#include "engine/unsent.h"

int engine_image_submit(struct engine *g, struct job *j, struct err *e)
{
    const enum model_kind kind = j->image.small ? MODEL_ENLARGER : MODEL_IMAGE;
    int model = engine_find(g, kind, j->image.model, e);
    if (model < 0)
        return model;
    struct task *t = xcalloc(1, sizeof *t);
    t->job = j;
    t->model = model;
    t->n_choices = 1;
    int rc = engine_control_find(g, t, e);
    if (rc == 0)
        rc = engine_adapter_use(g, t, e);
    if (rc == 0)
        rc = picture_task_new(t, model_diffusion(g->models[model].facts), e);
    if (rc == 0)
        rc = engine_stages_add(g, t, e);
    if (rc == 0) {
        engine_adapter_trim(g, t);
        rc = engine_enqueue(g, t, 0, e);
    }
    if (rc) {
        picture_task_free(t);
        engine_adapter_leave(g, t);
        free(t);
        return rc;
    }
    return 0;
}

/* --- a pipeline in the schedule --- */

static int place(void *ctx, struct task *t)
{
    struct loaded *m = ctx;
    engine_control_ready(m->engine, t);
    engine_adapter_ready(m->engine, t);
    return t->refused.code ? 1 : stage_place(t, m->pipeline.cache);
}

static bool has_work(void *ctx)
{
    return pipeline_has_work(&((struct loaded *)ctx)->pipeline);
}

void engine_image_open(struct engine *g, int model)
{
    struct loaded *m = &g->models[model];
    const struct pipeline_options o = {.max_rows = g->o.image_rows,
                                       .max_pictures = g->o.max_images};
    pipeline_init(&m->pipeline, model_diffusion(m->model), g->cache, &o);
    m->other = (struct sched_other){.ctx = m, .place = place, .has_work = has_work};
    g->sched_models[model].other = &m->other;
    g->sched_models[model].weight = g->o.image_weight;
}

size_t engine_image_need(struct engine *g, int model)
{
    struct job *j = job_new(1 << 10);
    struct task t = {.job = j};
    struct pipeline p;
    size_t need = 0;
    j->kind = JOB_IMAGE;
    const struct diffusion *d = model_diffusion(g->models[model].facts);
    static const uint8_t none;
    if (d->card.inpaint) /* only their being there counts */
        j->image.init = j->image.mask = &none;
    if (d->info->enlarges)
        j->image.small = &none;
    pipeline_init(&p, d, NULL, &(const struct pipeline_options){.max_rows = 1});
    if (picture_task_new(&t, d, NULL) == 0)
        need = pipeline_need(&p, t.image, NULL);
    picture_task_free(&t);
    job_unref(j);
    return need;
}

int64_t engine_image_due(const struct engine *g, const struct task *t)
{
    return turns_due(t->image, t->job->submit_us, g->models[t->model].pipeline.us_per_work);
}

/* --- from admission to the end --- */

static void show_running(struct engine *g)
{
    int64_t n = 0;
    for (int i = 0; i < g->o.n_models; i++) {
        if (g->sched_models[i].other)
            n += g->models[i].pipeline.n_pictures;
    }
    STAT_SET(g, images_running, n);
}

static void free_task(struct engine *g, struct task *t)
{
    picture_task_free(t);
    engine_adapter_leave(g, t);
    job_unref(t->job);
    free(t);
}

/* Before its last event: who has that may ask for the place that it had. */
static void leave(struct engine *g, struct task *t)
{
    stage_leave(t);
    engine_adapter_leave(g, t);
    unsent_add(&g->unsent, g->cache, t->job);
}

void engine_image_fail(struct engine *g, struct task *t, const struct err *e)
{
    if (t->queued) {
        sched_remove(&g->sched, t);
        engine_count_waiting(g, -1, 0);
    }
    leave(g, t);
    show_running(g);
    emit_error(t, e);
    free_task(g, t);
    g->dirty = true;
}

void engine_image_begin(struct engine *g, struct task *t)
{
    engine_count_waiting(g, -1, 0);
    t->admitted_us = clock_us();
    if (t->refused.code) {
        const struct err e = t->refused;
        engine_image_fail(g, t, &e);
        return;
    }
    show_running(g);
}

static void finish(struct engine *g, struct task *t)
{
    leave(g, t);
    show_running(g);
    struct event *ev = job_event_new(EV_DONE, 0, "", 0, NULL, 0);
    ev->usage.queue_us = t->admitted_us - t->job->submit_us;
    ev->usage.decode_us = clock_us() - t->admitted_us;
    ev->usage.prompt_tokens = t->image ? t->image->prompts[0].n_tokens : 0;
    t->dead = true;
    job_emit(t->job, ev);
    free_task(g, t);
}

void engine_image_ended(struct engine *g, struct task *t, const struct err *why)
{
    g->dirty = true;
    if (why->code) {
        const struct err e = *why;
        engine_image_fail(g, t, &e);
    } else {
        finish(g, t);
    }
}

/* Now that it is known what work takes: those that wait again, by when they are due. */
static void queue_again(struct engine *g, int model)
{
    struct task *list = NULL, **end = &list;
    for (struct task *t = g->sched.head, *next; t; t = next) {
        next = t->next;
        if (t->model != model)
            continue;
        sched_remove(&g->sched, t);
        *end = t;
        end = &t->next;
    }
    for (struct task *t = list, *next; t; t = next) {
        next = t->next;
        t->due_us = engine_image_due(g, t);
        sched_add(&g->sched, t);
    }
}

int engine_image_run(struct engine *g, const struct sched_plan *plan, struct err *e)
{
    struct pipeline *p = &g->models[plan->model].pipeline;
    int64_t start = clock_us(), steps = p->n_steps, images = p->n_images, flagged = p->n_flagged;
    const bool measured = p->us_per_work > 0;
    struct image_task *ended = NULL;
    int ms = plan->alone ? UNIT_ALONE_MS : UNIT_SHARED_MS;
    int rc = pipeline_run(p, start + (int64_t)ms * 1000, &ended, e);
    if (rc < 0)
        return rc;
    if (!measured && p->us_per_work > 0)
        queue_again(g, plan->model);
    sched_done(&g->sched, plan, (double)(clock_us() - start));
    STAT_ADD(g, image_steps, p->n_steps - steps);
    STAT_ADD(g, images, p->n_images - images);
    STAT_ADD(g, images_flagged, p->n_flagged - flagged);
    if (p->n_steps != steps || p->n_images != images)
        g->dirty = true;
    if (ended)
        engine_image_ended(g, ended->task, &ended->refused);
    return 0;
}

struct task *engine_image_first(const struct engine *g, bool cancelled)
{
    for (int i = 0; i < g->o.n_models; i++) {
        if (!g->sched_models[i].other)
            continue;
        for (struct image_task *it = g->models[i].pipeline.tasks; it; it = it->next) {
            if (!cancelled || job_cancelled(it->task->job))
                return it->task;
        }
        for (struct upscale_task *it = g->models[i].upscale.tasks; it; it = it->next) {
            if (!cancelled || job_cancelled(it->task->job))
                return it->task;
        }
    }
    return NULL;
}
