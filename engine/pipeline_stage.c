/* Image tasks as stages of a job. */
#include "engine/pipeline_unet.h"
#include "engine/turns.h"

bool pipeline_stage_decodes(const struct image_task *it)
{
    return !it->stage.next || !it->stage.next->wants_latent;
}

void pipeline_stage_give(struct pipeline *p, struct picture *pic, const float *pixels)
{
    struct image_task *it = pic->task;
    struct stage_gift g = {.pixels = pixels,
                           .safety = pic->looked ? &pic->said : NULL,
                           .h = it->shape.h,
                           .w = it->shape.w};
    if (pixels) {
        g.h = it->spec.height;
        g.w = it->spec.width;
    } else {
        g.latent = pic->latent;
    }
    turns_remove(&p->head, pic);
    it->n_done++;
    it->stage.next->ops->give(it->stage.next, pic->index, &g);
}

static int need(struct stage *s, const struct stage *beside, struct stage_need *n, struct err *e)
{
    return pipeline_need_parts(s->owner, (struct image_task *)s, beside != NULL, n, e);
}

static int place(struct stage *s, struct err *e)
{
    struct image_task *it = (struct image_task *)s;
    int rc = pipeline_place(s->owner, it);
    if (it->refused.code)
        *e = it->refused;
    return rc;
}

static void leave(struct stage *s)
{
    pipeline_leave(s->owner, (struct image_task *)s);
}

static void give(struct stage *s, int index, const struct stage_gift *g)
{
    struct picture *pic = &((struct image_task *)s)->pictures[index];
    picture_give(pic, g);
    pipeline_join(s->owner, pic);
}

void pipeline_stage(struct pipeline *p, struct image_task *it)
{
    static const struct stage_ops ops = {
        .need = need, .place = place, .leave = leave, .give = give, .free = picture_stage_free};
    it->stage.ops = &ops;
    it->stage.owner = p;
}
