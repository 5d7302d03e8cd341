/* What an image job does besides its first pictures, as stages. */
#include <math.h>

#include "engine/engine_int.h"

#define HIRES_STRENGTH 0.7f

static struct stage *last_stage(const struct task *t)
{
    struct stage *s = t->stages;
    while (s->next)
        s = s->next;
    return s;
}

void engine_stages_own(struct engine *g, struct stage *s, int model)
{
    s->model = model;
    s->closed = &g->sched_models[model].closed;
}

/* Another model of the job; < 0: there is none of that name. */
static int find_other(const struct engine *g, enum model_kind kind, const char *id,
                      const char *param, struct err *e)
{
    int model = engine_find(g, kind, id, e);
    if (model < 0)
        err_param(e, "%s", param);
    return model;
}

/* A stage in which a diffusion model enlarges pictures of size (width, height), which becomes that of its results.
 * Its prompt is that of the pictures. */
static int add_enlarger(struct engine *g, struct task *t, int model, int size[2], struct err *e)
{
    const struct diffusion *d = model_diffusion(g->models[model].facts);
    const int scale = d->info->scale, step = d->info->multiple / scale;
    const struct image_spec *first = &t->image->spec;
    struct image_spec s = image_spec_default;
    s.model = engine_facts(g, model)->id;
    s.prompt = first->prompt;
    s.negative_prompt = first->negative_prompt;
    s.n = first->n;
    s.rng = first->rng;
    s.seed = first->seed;
    s.safety = first->safety;
    s.tiled = first->tiled;
    s.steps = first->passes.upscale.steps;
    s.noise_level = first->passes.upscale.noise_level;
    s.guidance_scale = first->passes.upscale.guidance_scale;
    s.width = size[0] * scale;
    s.height = size[1] * scale;
    int rc = size[0] % step || size[1] % step
                 ? err_set(e, ERR_INVALID, "pictures of %dx%d: it takes multiples of %d", size[0],
                           size[1], step)
                 : picture_stage_new(t, d, &s, size, e);
    if (rc) {
        err_wrap(e, "upscale");
        return err_param(e, "upscale");
    }
    struct image_task *it = (struct image_task *)last_stage(t);
    engine_stages_own(g, &it->stage, model);
    pipeline_stage(&g->models[model].pipeline, it);
    size[0] = s.width;
    size[1] = s.height;
    return 0;
}

/* The same by the model of that id: a diffusion model, or a super-resolution network. */
static int add_upscale(struct engine *g, struct task *t, const char *id, int size[2], struct err *e)
{
    const int enlarger = engine_find(g, MODEL_ENLARGER, id, NULL);
    if (enlarger >= 0)
        return add_enlarger(g, t, enlarger, size, e);
    struct upscale_task like = {
        .n = t->job->image.n, .width = size[0], .height = size[1], .seed = t->job->image.seed};
    struct upscale_task *it = NULL;
    int model = find_other(g, MODEL_UPSCALER, id, "upscale", e);
    if (model < 0)
        return model;
    const struct upscaler_info *info = upscaler_info(model_upscaler(g->models[model].facts));
    int rc = upscale_task_new(&it, t, info, &like, NULL, e);
    if (rc)
        return rc;
    engine_stages_own(g, &it->stage, model);
    upscale_stage(&g->models[model].upscale, it);
    size[0] *= info->scale;
    size[1] *= info->scale;
    return 0;
}

/* The rest of the steps by another model. */
static int add_refiner(struct engine *g, struct task *t, struct err *e)
{
    struct image_spec s = t->image->spec;
    int model = find_other(g, MODEL_IMAGE, s.passes.refiner.model, "refiner", e);
    if (model < 0)
        return model;
    const struct diffusion *d = model_diffusion(g->models[model].facts), *first = t->image->d;
    if (d->info->latent_channels != first->info->latent_channels ||
        d->info->scale != first->info->scale ||
        d->info->latent_scale != first->info->latent_scale) {
        err_set(e, ERR_INVALID, "the latents of \"%.60s\" are not those of this model",
                s.passes.refiner.model);
        return err_param(e, "refiner");
    }
    if (first->info->has_safety && !d->info->has_safety) { /* whose checker would look at it? */
        err_set(e, ERR_INVALID, "\"%.60s\" has no safety checker, and the model has one",
                s.passes.refiner.model);
        return err_param(e, "refiner");
    }
    s.denoising_start = s.passes.refiner.switch_at;
    s.denoising_end = 0;
    s.n_controls = 0; /* they are of the first model's family */
    s.init = s.mask = NULL;
    s.partial_images = 0;
    s.passes.hires.how = IMAGE_LATENT_NEAREST; /* the size stays */
    int rc = picture_stage_new(t, d, &s, NULL, e);
    if (rc) {
        err_wrap(e, "refiner");
        return err_param(e, "refiner");
    }
    struct image_task *it = (struct image_task *)last_stage(t);
    engine_stages_own(g, &it->stage, model);
    pipeline_stage(&g->models[model].pipeline, it);
    return 0;
}

/* The pictures again, larger: of size (width, height) before and after. */
static int add_hires(struct engine *g, struct task *t, int size[2], struct err *e)
{
    struct image_spec s = t->image->spec;
    const int how = (int)s.passes.hires.how;
    int rc = how == IMAGE_NETWORK ? add_upscale(g, t, s.passes.hires.model, size, e) : 0;
    if (rc)
        return rc;
    s.width = s.passes.hires.width;
    s.height = s.passes.hires.height;
    s.steps = s.passes.hires.steps > 0 ? s.passes.hires.steps : s.steps;
    s.strength = isnan(s.passes.hires.strength) ? HIRES_STRENGTH : s.passes.hires.strength;
    s.denoising_start = s.denoising_end = 0;
    s.init = s.mask = NULL;
    s.partial_images = 0;
    const bool pixels = how == IMAGE_PIXELS || how == IMAGE_NETWORK;
    rc = picture_stage_new(t, t->image->d, &s, pixels ? size : NULL, e);
    if (rc) {
        err_wrap(e, "hires");
        return err_param(e, "hires");
    }
    struct image_task *it = (struct image_task *)last_stage(t);
    engine_stages_own(g, &it->stage, t->model);
    pipeline_stage(&g->models[t->model].pipeline, it);
    size[0] = s.width;
    size[1] = s.height;
    return 0;
}

int engine_stages_add(struct engine *g, struct task *t, struct err *e)
{
    const struct image_spec *s = &t->image->spec;
    int size[2] = {s->width, s->height};
    engine_stages_own(g, &t->image->stage, t->model);
    pipeline_stage(&g->models[t->model].pipeline, t->image);
    int rc = s->passes.refiner.model ? add_refiner(g, t, e) : 0;
    if (rc == 0 && s->passes.hires.width > 0)
        rc = add_hires(g, t, size, e);
    if (rc == 0 && s->passes.upscale.model)
        rc = add_upscale(g, t, s->passes.upscale.model, size, e);
    stage_number(t);
    return rc;
}
