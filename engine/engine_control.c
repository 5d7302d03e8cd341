/* ControlNets and T2I-Adapters of image jobs: models of their own in the engine's list, loaded and unloaded as the
 * others are, without jobs of their own. */
#include "engine/engine_int.h"
#include "engine/models/control.h"
#include "engine/pipeline_steer.h"

int engine_control_find(struct engine *g, struct task *t, struct err *e)
{
    const struct image_spec *s = &t->job->image;
    for (int i = 0; i < s->n_controls; i++) {
        const int model = engine_find(g, MODEL_CONTROL, s->controls[i].model, e);
        bool known = false;
        if (model < 0)
            return err_param(e, "control");
        t->controls[i] = model_control(g->models[model].facts);
        for (int k = 0; k < t->n_also; k++)
            known = known || t->also[k] == model;
        if (!known)
            t->also[t->n_also++] = model;
    }
    return 0;
}

void engine_control_ready(struct engine *g, struct task *t)
{
    const struct image_spec *s = &t->job->image;
    for (int i = 0; i < s->n_controls; i++) {
        struct loaded *m = &g->models[engine_find(g, MODEL_CONTROL, s->controls[i].model, NULL)];
        t->controls[i] = model_control(m->model);
        m->used_us = g->models[t->model].used_us;
    }
}

void engine_control_forget(struct engine *g, int model)
{
    const struct model *m = g->models[model].model;
    for (int i = 0; i < g->o.n_models && m && model_control(m); i++) {
        if (g->sched_models[i].other && !g->models[i].embed.bert)
            pipeline_steer_forget(&g->models[i].pipeline, model_control(m));
    }
}
