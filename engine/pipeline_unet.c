/* Calls of the UNet: rows of several pictures in one pass. */
#include "engine/pipeline_unet.h"

#include "engine/pipeline_steer.h"
#include "engine/turns.h"

bool pipeline_unet_same(const struct image_task *a, const struct image_task *b)
{
    return a->win_y.tile == b->win_y.tile && a->win_x.tile == b->win_x.tile;
}

/* Is it waiting for a call of the UNet? */
static bool wants_unet(const struct picture *pic)
{
    return pic->begun && !pic->preview_due && !picture_is_denoised(pic);
}

/* What rows of a pass have in common. */
struct group {
    unsigned parts;
    int branch;   /* -1: none of them has a cache */
    bool steered; /* one of them may be */
};

static struct pass_key key_of(const struct group *g, bool steered, int n,
                              const struct image_task *it)
{
    return (struct pass_key){steered ? PASS_STEERED : PASS_UNET,
                             pass_unet_rows(n, g->parts, g->branch), it->win_y.tile,
                             it->win_x.tile};
}

/* Rows that hold_bytes is enough for. */
static int rows_that_fit(struct pipeline *p, const struct group *g, const struct image_task *it,
                         int wanted)
{
    int n = wanted < p->o.max_rows ? wanted : p->o.max_rows;
    struct err e;
    while (n > 1) {
        size_t bytes = pass_bytes(p, key_of(g, g->steered, n, it), &e);
        if (bytes > 0 && bytes <= p->hold_bytes)
            break;
        n--;
    }
    return n;
}

/* A row without a cache goes with any branch. */
static bool joins(struct group *g, const struct picture *pic, int row)
{
    const int branch = step_cache_branch(pic->task);
    if (step_cache_parts(pic, row) != g->parts ||
        (branch >= 0 && g->branch >= 0 && branch != g->branch))
        return false;
    g->branch = branch >= 0 ? branch : g->branch;
    g->steered |= pic->task->spec.n_controls > 0;
    return true;
}

/* The first rows of p->run.rows, which are a group. */
static struct group group_of(const struct pipeline *p, unsigned parts, int n)
{
    struct group g = {parts, -1, false};
    for (int i = 0; i < n; i++)
        joins(&g, p->run.rows[i].picture, p->run.rows[i].row);
    return g;
}

/* Rows of this call that a pass may have; those of a steered picture are of one window, whose residuals it has. */
static int rows_end(const struct picture *pic)
{
    return pic->task->spec.n_controls > 0 ? (picture_window(pic) + 1) * picture_n_sides(pic->task)
                                          : picture_n_rows(pic->task);
}

/* Into p->run.rows: the picture's rows and, while there is room, those of others of its size behind it which compute
 * the same parts.  Rows of a picture come in order, so those of other parts end it. */
static struct group gather(struct pipeline *p, struct picture *first)
{
    const struct image_task *it = first->task;
    struct group g = {step_cache_parts(first, first->rows_out), -1, false};
    int n = 0;
    for (struct picture *pic = first; pic && n < PIPELINE_ROWS_MAX; pic = pic->next) {
        if (!pipeline_unet_same(pic->task, it) || !wants_unet(pic))
            continue;
        /* those before were in passes that had no more room */
        const int end = rows_end(pic);
        for (int row = step_cache_at(pic, g.parts);
             row < end && n < PIPELINE_ROWS_MAX && joins(&g, pic, row); row++) {
            p->run.rows[n].picture = pic;
            p->run.rows[n++].row = row;
        }
    }
    if (turns_holds_up(p->head, first) && n > picture_n_sides(it))
        n = picture_n_sides(it);
    p->run.n_rows = rows_that_fit(p, &g, it, n);
    return group_of(p, g.parts, p->run.n_rows);
}

/* Are the rows all of guided pictures, with and without the prompt side by side? */
static bool in_pairs(const struct pipeline *p, const struct group *g)
{
    if (g->parts != IMAGE_WHOLE || !p->d->info->has_pairs || p->run.n_rows % 2 != 0)
        return false;
    for (int i = 0; i < p->run.n_rows; i += 2) {
        const struct picture *pic = p->run.rows[i].picture;
        if (pic != p->run.rows[i + 1].picture || picture_n_sides(pic->task) != 2 ||
            picture_row_side(pic->task, p->run.rows[i].row) != 0)
            return false;
    }
    return true;
}

/* The pass for the rows of p->run. */
static struct pass_key choose_pass(struct pipeline *p, const struct group *g, bool steered,
                                   const struct image_task *it)
{
    const struct pass_key key = key_of(g, steered, p->run.n_rows, it);
    struct pass_key pairs = key;
    struct err e;
    pairs.a = pass_unet_pairs(p->run.n_rows, g->branch);
    if (!in_pairs(p, g))
        return key;
    const size_t bytes = pass_bytes(p, pairs, &e);
    return bytes > 0 && bytes <= p->hold_bytes ? pairs : key;
}

int pipeline_unet_keys(const struct image_task *it, int rows, struct pass_key *keys)
{
    static const unsigned parts[][3] = {
        [STEP_CACHE_NONE] = {IMAGE_WHOLE},
        [STEP_CACHE_DEEPCACHE] = {IMAGE_WHOLE, IMAGE_HEAD | IMAGE_TAIL},
        [STEP_CACHE_FIRST_BLOCK] = {IMAGE_HEAD, IMAGE_DEEP | IMAGE_TAIL, IMAGE_TAIL}};
    const unsigned *own = parts[it->spec.step_cache.kind];
    int n = 0;
    for (int i = 0; i < 3 && own[i] != 0; i++) {
        const struct group g = {own[i], step_cache_branch(it), false};
        keys[n++] = key_of(&g, false, rows, it);
        if (it->spec.n_controls > 0)
            keys[n++] = key_of(&g, true, rows, it);
    }
    return n;
}

static void fill_row(struct image_row *row, const struct picture *pic, int side)
{
    const struct image_task *it = pic->task;
    const struct prompts_entry *en = it->entries[side];
    *row = (struct image_row){
        .kv = en->kv,
        .n_tokens = en->n_tokens,
        .timestep = noise_timestep(it->noise, pic->call),
        .guidance = it->spec.guidance_scale,
        .level = it->spec.noise_level,
        .pooled = en->pooled,
        .adapters = &it->adapters,
        .residuals = steer_residuals(pic, side),
    };
    picture_time_ids(it, side, row->time_ids);
}

int pipeline_unet_begin(struct pipeline *p, struct picture *first, struct err *e)
{
    const struct image_task *it = first->task;
    const struct group g = gather(p, first);
    enum pass_kind kind = PASS_UNET;
    const int n_skips = g.parts & IMAGE_DEEP ? 0 : g.branch + 1;
    int rc = 0;
    if (g.parts == IMAGE_HEAD)
        kind = pipeline_steer_head(p);
    else
        rc = pipeline_steer_begin(p, n_skips, &kind, e);
    if (rc)
        return rc < 0 ? rc : 0;
    const int n = p->run.n_rows;
    rc = pass_make_current(p, choose_pass(p, &g, kind == PASS_STEERED, it), e);
    if (rc)
        return rc;
    struct image_unet *u = (struct image_unet *)p->current->unit;
    size_t n_in = (size_t)u->h * (size_t)u->w * (size_t)p->d->info->in_channels;
    for (int i = 0; i < n; i++) {
        struct picture *pic = p->run.rows[i].picture;
        const int row = p->run.rows[i].row, side = picture_row_side(pic->task, row);
        const int place = image_unet_row(u, i);
        fill_row(&u->rows[place], pic, side);
        step_cache_fill(pic, row, &u->rows[place]);
        if (g.parts == IMAGE_HEAD)
            u->rows[place].residuals = steer_features(pic, side);
        if (u->x)
            picture_unet_input(pic, row, u->x + (size_t)place * n_in);
    }
    p->run.parts = g.parts;
    return 0;
}

/* What a unit of work takes: of this pass, and of those before it. */
static void measure_work(struct pipeline *p)
{
    double us = (double)p->run.us / ((double)p->current->key.b * p->current->key.c * p->run.n_rows);
    p->us_per_work = p->us_per_work > 0 ? 0.75 * p->us_per_work + 0.25 * us : us;
}

void pipeline_unet_end(struct pipeline *p)
{
    struct image_unet *u = (struct image_unet *)p->current->unit;
    if (p->run.parts == IMAGE_HEAD) {
        for (int i = 0; i < p->run.n_rows; i++) {
            if (p->run.rows[i].picture)
                step_cache_add_head(p->run.rows[i].picture);
        }
        return;
    }
    if (p->run.parts == IMAGE_WHOLE)
        measure_work(p);
    for (int i = 0; i < p->run.n_rows; i++) {
        struct picture *pic = p->run.rows[i].picture;
        if (!pic)
            continue;
        const struct image_task *it = pic->task;
        const size_t n_out = (size_t)(it->win_y.tile * it->win_x.tile) * (size_t)it->shape.c;
        picture_unet_output(pic, u->out + (size_t)image_unet_row(u, i) * n_out);
        if (pic->rows_out < picture_n_rows(it)) {
            if (it->spec.n_controls > 0 && pic->rows_out % picture_n_sides(it) == 0)
                steer_end(pic);
            continue;
        }
        picture_step(pic);
        p->n_steps++;
        if (pic->preview_due && !p->d->info->has_preview) {
            picture_emit_rough(pic); /* without memory the preview is left out */
            pic->preview_due = false;
        }
        if (picture_is_denoised(pic) && !pipeline_stage_decodes(pic->task))
            pipeline_stage_give(p, pic, NULL);
        else
            turns_charge(&p->head, pic);
    }
}
