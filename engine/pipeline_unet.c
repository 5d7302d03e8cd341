/* Calls of the UNet: rows of several pictures in one pass. */
#include "engine/pipeline_unet.h"

#include <string.h>

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

/* Rows of one size that hold_bytes is enough for. */
static int rows_that_fit(struct pipeline *p, enum pass_kind kind, int h, int w, int wanted)
{
    int n = wanted < p->o.max_rows ? wanted : p->o.max_rows;
    n = n < PIPELINE_ROWS_MAX ? n : PIPELINE_ROWS_MAX;
    struct err e;
    while (n > 1) {
        size_t bytes = pass_bytes(p, (struct pass_key){kind, n, h, w}, &e);
        if (bytes > 0 && bytes <= p->hold_bytes)
            break;
        n--;
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
    const int scale = it->d->info->scale;
    float h = (float)(it->win_y.tile * scale), w = (float)(it->win_x.tile * scale);
    float ids[IMAGE_TIME_IDS] = {h, w, 0, 0, h, w}; /* original, crop, target */
    if (it->d->info->aesthetic)
        ids[4] = it->spec.aesthetic[side];
    memcpy(row->time_ids, ids, sizeof ids);
}

int pipeline_unet_begin(struct pipeline *p, struct picture *first, struct err *e)
{
    const struct image_task *it = first->task;
    int h = it->win_y.tile, w = it->win_x.tile, n = 0, n_wanted = 0;
    enum pass_kind kind = PASS_UNET;
    for (const struct picture *pic = first; pic; pic = pic->next) {
        if (!pipeline_unet_same(pic->task, it) || !wants_unet(pic))
            continue;
        n_wanted += picture_n_rows(pic->task) - pic->rows_out;
        if (pic->task->spec.n_controls > 0)
            kind = PASS_STEERED;
    }
    if (turns_holds_up(p->head, first))
        n_wanted = it->guided ? 2 : 1;
    int n_rows = rows_that_fit(p, kind, h, w, n_wanted);
    for (struct picture *pic = first; pic && n < n_rows; pic = pic->next) {
        if (!pipeline_unet_same(pic->task, it) || !wants_unet(pic))
            continue;
        /* those before were in passes that had no more room */
        for (int row = pic->rows_out; row < picture_n_rows(pic->task) && n < n_rows; row++) {
            p->run.rows[n].picture = pic;
            p->run.rows[n++].row = row;
        }
    }
    p->run.n_rows = n;
    int rc = pipeline_steer_begin(p, &kind, e);
    if (rc)
        return rc < 0 ? rc : 0;
    rc = pass_make_current(p, (struct pass_key){kind, n, h, w}, e);
    if (rc)
        return rc;
    struct image_unet *u = (struct image_unet *)p->current->unit;
    size_t n_in = (size_t)h * (size_t)w * (size_t)p->d->info->in_channels;
    for (int i = 0; i < n; i++) {
        const struct picture *pic = p->run.rows[i].picture;
        fill_row(&u->rows[i], pic, picture_row_side(pic->task, p->run.rows[i].row));
        picture_unet_input(pic, p->run.rows[i].row, u->x + (size_t)i * n_in);
    }
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
    measure_work(p);
    for (int i = 0; i < p->run.n_rows; i++) {
        struct picture *pic = p->run.rows[i].picture;
        if (!pic)
            continue;
        const struct image_task *it = pic->task;
        picture_unet_output(pic, u->out + (size_t)i * (size_t)(it->win_y.tile * it->win_x.tile) *
                                              (size_t)it->shape.c);
        if (pic->rows_out < picture_n_rows(it))
            continue;
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
