/* Jobs of super-resolution networks alone, and these networks in the schedule. */
#include <stdlib.h>

#include "base/clock.h"
#include "engine/engine_int.h"

enum { MEDIUM = 512 }; /* pixels of a side */

int engine_upscale_submit(struct engine *g, struct job *j, struct err *e)
{
    const struct upscale_spec *s = &j->upscale;
    const struct upscale_task like = {.n = 1, .width = s->width, .height = s->height};
    struct upscale_task *it = NULL;
    int model = engine_find(g, MODEL_UPSCALER, s->model, e);
    if (model < 0)
        return model;
    struct task *t = xcalloc(1, sizeof *t);
    t->job = j;
    t->model = model;
    t->n_choices = 1;
    const struct upscaler_info *info = upscaler_info(model_upscaler(g->models[model].facts));
    int rc = upscale_task_new(&it, t, info, &like, s->rgb, e);
    if (rc == 0) {
        engine_stages_own(g, &it->stage, model);
        upscale_stage(&g->models[model].upscale, it);
        stage_number(t);
        rc = engine_enqueue(g, t, 0, e);
    }
    if (rc) {
        stage_free(t);
        free(t);
    }
    return rc;
}

static int place(void *ctx, struct task *t)
{
    return stage_place(t, ((struct upscale *)ctx)->cache);
}

static bool has_work(void *ctx)
{
    return upscale_has_work(ctx);
}

void engine_upscale_open(struct engine *g, int model)
{
    struct loaded *m = &g->models[model];
    m->upscale = (struct upscale){.m = model_upscaler(m->model), .cache = g->cache};
    m->other = (struct sched_other){.ctx = &m->upscale, .place = place, .has_work = has_work};
    g->sched_models[model].other = &m->other;
    g->sched_models[model].weight = g->o.image_weight;
}

size_t engine_upscale_need(const struct engine *g, int model)
{
    struct upscaler *m = model_upscaler(g->models[model].facts);
    const size_t side = MEDIUM, scale = (size_t)upscaler_info(m)->scale;
    return upscaler_pass_bytes(m, MEDIUM, MEDIUM, NULL) + side * side * 3 * (1 + scale * scale);
}

int engine_upscale_run(struct engine *g, const struct sched_plan *plan, struct err *e)
{
    struct upscale *u = &g->models[plan->model].upscale;
    int64_t start = clock_us(), images = u->n_images;
    struct upscale_task *ended = NULL;
    int ms = plan->alone ? UNIT_ALONE_MS : UNIT_SHARED_MS;
    int rc = upscale_run(u, start + (int64_t)ms * 1000, &ended, e);
    if (rc < 0)
        return rc;
    sched_done(&g->sched, plan, (double)(clock_us() - start));
    if (u->n_images != images || ended)
        g->dirty = true;
    if (ended)
        engine_image_ended(g, ended->task, &ended->refused);
    return 0;
}
