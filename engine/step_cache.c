/* Step caches of pictures; step_cache.h has the rules. */
#include "engine/step_cache.h"

#include <math.h>

#include "engine/models/image_model.h"
#include "engine/picture.h"

enum { FIRST_BRANCH = 1 };

/* Floats of a row's blocks. */
struct sizes {
    size_t deep, head, skip, change;
};

static struct sizes sizes_of(const struct image_task *it)
{
    const struct image_model *m = it->d->model;
    const int b = step_cache_branch(it), h = it->win_y.tile, w = it->win_x.tile;
    struct sizes s = {.deep = image_unet_deep_floats(m, b, h, w)};
    if (it->spec.step_cache.kind == STEP_CACHE_FIRST_BLOCK) {
        s.head = image_unet_head_floats(m, b, h, w);
        s.skip = image_unet_head_floats(m, 0, h, w);
        s.change = s.head - s.skip;
    }
    return s;
}

static int branch_of(const struct step_cache_spec *s)
{
    switch (s->kind) {
    case STEP_CACHE_DEEPCACHE:
        return s->branch;
    case STEP_CACHE_FIRST_BLOCK:
        return FIRST_BRANCH;
    default:
        return -1;
    }
}

int step_cache_branch(const struct image_task *it)
{
    return branch_of(&it->spec.step_cache);
}

void step_cache_card(const struct image_model *m, struct image_card *to)
{
    to->n_branches = image_unet_n_skips(m);
    to->first_block =
        to->n_branches > FIRST_BRANCH &&
        image_unet_head_floats(m, FIRST_BRANCH, 8, 8) == 2 * image_unet_head_floats(m, 0, 8, 8);
}

bool step_cache_fits(const struct image_card *card, const struct step_cache_spec *s)
{
    return branch_of(s) < card->n_branches &&
           (s->kind != STEP_CACHE_FIRST_BLOCK || card->first_block);
}

int step_cache_check(struct image_task *it, struct err *e)
{
    const struct image_card *card = &it->d->card;
    struct step_cache_spec *s = &it->spec.step_cache;
    if (step_cache_fits(card, s))
        return 0;
    if (s->optional) {
        *s = (struct step_cache_spec){.kind = STEP_CACHE_NONE};
        return 0;
    }
    if (s->kind == STEP_CACHE_FIRST_BLOCK)
        err_set(e, ERR_UNSUPPORTED, "this model's UNet has no first block");
    else
        err_set(e, ERR_INVALID, "branch %d, but this model's UNet has branches 0 to %d",
                branch_of(s), card->n_branches - 1);
    return err_param(e, "step_cache");
}

size_t step_cache_floats(const struct image_task *it)
{
    if (it->spec.step_cache.kind == STEP_CACHE_NONE)
        return 0;
    const struct sizes s = sizes_of(it);
    const size_t rows = (size_t)picture_n_rows(it);
    return rows * (s.deep + s.head + s.change) + (rows + sizeof(float) - 1) / sizeof(float);
}

void step_cache_open(struct picture *p, float *memory)
{
    const struct sizes s = sizes_of(p->task);
    const size_t rows = (size_t)picture_n_rows(p->task);
    p->cache = (struct step_cache){.deep = memory};
    p->cache.head = p->cache.deep + rows * s.deep;
    p->cache.change = p->cache.head + rows * s.head;
    p->cache.reuse = (uint8_t *)(p->cache.change + rows * s.change);
}

/* The head and the tail of a branch have so much of a UNet, nearly. */
double step_cache_cost(const struct image_task *it)
{
    if (it->spec.step_cache.kind != STEP_CACHE_DEEPCACHE)
        return 1;
    const double part = (step_cache_branch(it) + 1.0) / image_unet_n_skips(it->d->model);
    return (1 + (it->spec.step_cache.interval - 1) * part) / it->spec.step_cache.interval;
}

unsigned step_cache_parts(const struct picture *p, int row)
{
    const struct image_task *it = p->task;
    const int n_sides = picture_n_sides(it);
    switch (it->spec.step_cache.kind) {
    case STEP_CACHE_DEEPCACHE:
        return p->call % it->spec.step_cache.interval == 0 ? IMAGE_WHOLE : IMAGE_HEAD | IMAGE_TAIL;
    case STEP_CACHE_FIRST_BLOCK:
        if (p->cache.n_heads < (row / n_sides + 1) * n_sides)
            return IMAGE_HEAD;
        return p->cache.reuse[row / n_sides] ? IMAGE_TAIL : IMAGE_DEEP | IMAGE_TAIL;
    default:
        return IMAGE_WHOLE;
    }
}

int step_cache_at(const struct picture *p, unsigned parts)
{
    return parts == IMAGE_HEAD ? p->cache.n_heads : p->rows_out;
}

void step_cache_fill(const struct picture *p, int row, struct image_row *to)
{
    if (p->task->spec.step_cache.kind == STEP_CACHE_NONE)
        return;
    const struct sizes s = sizes_of(p->task);
    to->deep = p->cache.deep + (size_t)row * s.deep;
    if (s.head > 0)
        to->head = p->cache.head + (size_t)row * s.head;
}

/* Did the first layer change the row about as much as in the last whole call? */
static bool is_near(const struct picture *p, const struct sizes *s, int row)
{
    const float *skip0 = p->cache.head + (size_t)row * s->head, *skip1 = skip0 + s->skip;
    const float *before = p->cache.change + (size_t)row * s->change;
    double change = 0, all = 0;
    for (size_t i = 0; i < s->change; i++) {
        change += (double)fabsf(skip1[i] - skip0[i] - before[i]);
        all += (double)fabsf(before[i]);
    }
    return change <= (double)p->task->spec.step_cache.threshold * all; /* NaN: false */
}

static void keep_change(struct picture *p, const struct sizes *s, int row)
{
    const float *skip0 = p->cache.head + (size_t)row * s->head, *skip1 = skip0 + s->skip;
    float *to = p->cache.change + (size_t)row * s->change;
    for (size_t i = 0; i < s->change; i++)
        to[i] = skip1[i] - skip0[i];
}

/* Guidance is a difference of a window's rows: they are of one step, both or none reused. */
void step_cache_add_head(struct picture *p)
{
    const int sides = picture_n_sides(p->task), end = ++p->cache.n_heads;
    const struct sizes s = sizes_of(p->task);
    if (end % sides != 0)
        return;
    bool near = p->call > 0;
    for (int i = end - sides; i < end && near; i++)
        near = is_near(p, &s, i);
    for (int i = end - sides; i < end && !near; i++)
        keep_change(p, &s, i);
    p->cache.reuse[end / sides - 1] = near;
}

void step_cache_end(struct picture *p)
{
    p->cache.n_heads = 0;
}
