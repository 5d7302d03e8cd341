/* Image tasks as stages of a job. */
#include "engine/pipeline.h"

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
