/* Passes of ControlNets and T2I-Adapters; steer.h says what comes out of them.
 *
 * Keys.  A pass of a control is told from those of others by the control's number in p->controls: PASS_HINT has
 * number, height, width in pixels; PASS_CONTROL has rows + number * 256 + chunks of the prompt * 65536
 * + skips of the call * 16777216, and h and w of the latent; all sizes are of a window. */
#include "engine/pipeline_steer.h"

#include <limits.h>
#include <string.h>

#include "base/image.h"
#include "engine/models/control.h"

/* The control's number; -1: there are too many. */
static int number_of(struct pipeline *p, struct control *c)
{
    int free_at = -1;
    for (int i = 0; i < p->n_controls; i++) {
        if (p->controls[i] == c)
            return i;
        if (!p->controls[i])
            free_at = i;
    }
    if (free_at < 0 && p->n_controls < PIPELINE_CONTROLS_MAX)
        free_at = p->n_controls++;
    if (free_at >= 0)
        p->controls[free_at] = c;
    return free_at;
}

static int too_many(struct err *e)
{
    return err_set(e, ERR_TOOBIG, "more than %d controls are in use", PIPELINE_CONTROLS_MAX);
}

static struct pass_key hint_key(int number, const struct image_task *it)
{
    const int scale = it->d->info->scale;
    return (struct pass_key){PASS_HINT, number, it->win_y.tile * scale, it->win_x.tile * scale};
}

static struct pass_key net_key(int number, const struct image_task *it, int n_skips, int rows)
{
    const int skips = n_skips < 128 ? n_skips : 0;
    return (struct pass_key){PASS_CONTROL,
                             rows | number << 8 | it->prompts[0].n_chunks << 16 | skips << 24,
                             it->win_y.tile, it->win_x.tile};
}

static struct control *control_of(const struct pipeline *p, const struct pass_key *k)
{
    return p->controls[k->kind == PASS_HINT ? k->a : k->a >> 8 & 255];
}

static struct control_size net_size(const struct pass_key *k)
{
    return (struct control_size){k->a & 255, k->b, k->c, (k->a >> 16 & 255) * IMAGE_TOKENS,
                                 k->a >> 24};
}

size_t pipeline_steer_bytes(const struct pipeline *p, const struct pass_key *k, struct err *e)
{
    struct control *c = control_of(p, k);
    return k->kind == PASS_HINT ? control_hint_bytes(c, k->b, k->c, e)
                                : control_net_bytes(c, net_size(k), e);
}

int pipeline_steer_open(const struct pipeline *p, const struct pass_key *k, struct image_unit **out,
                        struct err *e)
{
    struct control_hint *hint;
    struct control_net *net;
    int rc;
    if (k->kind == PASS_HINT) {
        if ((rc = control_hint_open(&hint, control_of(p, k), k->b, k->c, e)) == 0)
            *out = &hint->unit;
    } else {
        if ((rc = control_net_open(&net, control_of(p, k), net_size(k), e)) == 0)
            *out = &net->unit;
    }
    return rc;
}

size_t pipeline_steer_largest(struct pipeline *p, const struct image_task *it, int rows,
                              size_t most, struct err *e)
{
    size_t bytes = most;
    for (int i = 0; bytes > 0 && i < it->spec.n_controls; i++) {
        struct control *c = it->task->controls[i];
        const int number = number_of(p, c);
        most = bytes > most ? bytes : most;
        if (number < 0) {
            too_many(e);
            return 0;
        }
        bytes = pass_bytes(p, hint_key(number, it), e);
        if (bytes > 0 && !control_info(c)->adapter) {
            most = bytes > most ? bytes : most;
            bytes = pass_bytes(p, net_key(number, it, 0, rows), e);
        }
    }
    return bytes == 0 ? 0 : bytes > most ? bytes : most;
}

/* ---- looking ---- */

/* The control's picture in the task's size, and what is hidden of it, [height, width]. */
static int fit(struct image_task *it, int i, struct err *e)
{
    const struct control_spec *s = &it->spec.controls[i];
    const struct image from = {s->width, s->height, 3, (uint8_t *)(uintptr_t)s->picture};
    const struct image mask = {s->width, s->height, 1, (uint8_t *)(uintptr_t)s->hidden};
    struct image rgb = {0}, hidden = {0};
    int rc = image_resize(&rgb, &from, it->spec.width, it->spec.height, IMAGE_LANCZOS, e);
    if (rc == 0 && s->hidden)
        rc = image_resize(&hidden, &mask, it->spec.width, it->spec.height, IMAGE_BILINEAR, e);
    if (rc == 0)
        memcpy(it->steer.seen[i], rgb.data, image_bytes(&rgb));
    if (rc == 0 && s->hidden)
        memcpy(it->steer.seen[i] + image_bytes(&rgb), hidden.data, image_bytes(&hidden));
    it->steer.fitted[i] = rc == 0;
    image_free(&rgb);
    image_free(&hidden);
    return rc;
}

/* What the window has of it, into the pass. */
static int show(struct control_hint *u, const struct image_task *it, int i, struct err *e)
{
    const struct control_spec *s = &it->spec.controls[i];
    const int window = it->steer.n_looked[i], scale = it->d->info->scale;
    const int width = it->spec.width, height = it->spec.height;
    const int y = tiles_begin(&it->win_y, window / it->win_x.n) * scale;
    const int x = tiles_begin(&it->win_x, window % it->win_x.n) * scale;
    const uint8_t *seen = it->steer.seen[i];
    const struct image rgb = {width, height, 3, (uint8_t *)(uintptr_t)(seen ? seen : s->picture)};
    const struct image hidden = {
        width, height, 1, (uint8_t *)(uintptr_t)(seen ? seen + image_bytes(&rgb) : s->hidden)};
    if (picture_n_windows(it) == 1) {
        control_hint_look(u, rgb.data, s->hidden ? hidden.data : NULL);
        return 0;
    }
    struct image part = {0}, part_hidden = {0};
    int rc = image_crop(&part, &rgb, x, y, u->width, u->height, 0, e);
    if (rc == 0 && s->hidden)
        rc = image_crop(&part_hidden, &hidden, x, y, u->width, u->height, 0, e);
    if (rc == 0)
        control_hint_look(u, part.data, part_hidden.data);
    image_free(&part);
    image_free(&part_hidden);
    return rc;
}

int pipeline_steer_look(struct pipeline *p, struct image_task *it, struct err *e)
{
    for (int i = 0; i < it->spec.n_controls; i++) {
        if (it->steer.n_looked[i] == picture_n_windows(it))
            continue;
        const int number = number_of(p, it->task->controls[i]);
        int rc = number < 0 ? too_many(e) : pass_make_current(p, hint_key(number, it), e);
        if (rc == 0 && it->steer.seen[i] && !it->steer.fitted[i])
            rc = fit(it, i, e);
        if (rc)
            return rc;
        struct control_hint *u = (struct control_hint *)p->current->unit;
        u->hint = it->steer.hints[i] + (size_t)it->steer.n_looked[i] * steer_hint_floats(it, i);
        p->run.task = it;
        p->run.which = i;
        return (rc = show(u, it, i, e)) ? rc : 1;
    }
    return 0;
}

/* ---- shares ---- */

static int side_of(const struct pipeline *p, int i)
{
    return picture_row_side(p->run.rows[i].picture->task, p->run.rows[i].row);
}

/* A share that is missing before a call of the UNet. */
struct share {
    struct picture *picture;
    int side, control;
};

static bool go_together(const struct share *a, const struct share *b)
{
    const struct image_task *x = a->picture->task, *y = b->picture->task;
    return x->task->controls[a->control] == y->task->controls[b->control] &&
           x->prompts[0].n_chunks == y->prompts[0].n_chunks;
}

/* Missing shares of one control, of rows whose first ones they are, so that each row's sum has its order. */
static int find_shares(const struct pipeline *p, struct share out[PIPELINE_ROWS_MAX])
{
    int n = 0;
    for (int i = 0; i < p->run.n_rows; i++) {
        struct share s = {p->run.rows[i].picture, side_of(p, i), 0};
        const unsigned before = s.picture->steer.shares[s.side];
        while (n < PIPELINE_ROWS_MAX && (s.control = steer_missing(s.picture, s.side)) >= 0 &&
               (n == 0 || go_together(&s, &out[0]))) {
            out[n++] = s;
            s.picture->steer.shares[s.side] |= 1U << s.control; /* to find the next one */
        }
        s.picture->steer.shares[s.side] = before;
    }
    return n;
}

static void fill_row(struct control_row *row, const struct share *s)
{
    const struct picture *pic = s->picture;
    const struct image_task *it = pic->task;
    const struct prompts_entry *en = it->entries[s->side];
    const struct control_spec *spec = &it->spec.controls[s->control];
    *row = (struct control_row){.context = en->context,
                                .timestep = noise_timestep(it->noise, pic->call),
                                .pooled = en->pooled,
                                .hint = steer_hint(pic, s->control),
                                .scale = spec->scale,
                                .guess = spec->guess,
                                .residuals = pic->steer.residuals[s->side],
                                .n_residuals = steer_residual_floats(it),
                                .fresh = steer_begin(s->picture, s->side)};
    steer_add(s->picture, s->side);
    picture_time_ids(it, s->side, row->time_ids);
}

static int begin_shares(struct pipeline *p, const struct share *shares, int n, int n_skips,
                        struct err *e)
{
    const struct image_task *it = shares[0].picture->task;
    const int number = number_of(p, it->task->controls[shares[0].control]);
    if (number < 0)
        return too_many(e);
    while (n > 1) { /* as many as there is room for */
        size_t bytes = pass_bytes(p, net_key(number, it, n_skips, n), e);
        if (bytes > 0 && bytes <= p->hold_bytes)
            break;
        n--;
    }
    int rc = pass_make_current(p, net_key(number, it, n_skips, n), e);
    if (rc)
        return rc;
    struct control_net *u = (struct control_net *)p->current->unit;
    const size_t n_in = (size_t)it->win_y.tile * (size_t)it->win_x.tile * (size_t)it->shape.c;
    p->run.n_rows = n;
    for (int i = 0; i < n; i++) {
        struct picture *pic = shares[i].picture;
        fill_row(&u->rows[i], &shares[i]);
        picture_control_input(pic, u->x + (size_t)i * n_in);
        p->run.rows[i].picture = pic;
        p->run.rows[i].row = shares[i].side; /* of the picture's window */
        p->run.rows[i].control = shares[i].control;
    }
    return 1;
}

int pipeline_steer_begin(struct pipeline *p, int n_skips, enum pass_kind *kind, struct err *e)
{
    struct share shares[PIPELINE_ROWS_MAX];
    const int n = find_shares(p, shares);
    if (n > 0)
        return begin_shares(p, shares, n, n_skips, e);
    *kind = PASS_UNET;
    for (int i = 0; i < p->run.n_rows; i++) {
        struct picture *pic = p->run.rows[i].picture;
        if (!steer_residuals(pic, side_of(p, i)))
            continue;
        steer_begin(pic, side_of(p, i));
        *kind = PASS_STEERED;
    }
    return 0;
}

enum pass_kind pipeline_steer_head(struct pipeline *p)
{
    enum pass_kind kind = PASS_UNET;
    for (int i = 0; i < p->run.n_rows; i++) {
        if (steer_features(p->run.rows[i].picture, side_of(p, i)))
            kind = PASS_STEERED;
    }
    return kind;
}

void pipeline_steer_end(struct pipeline *p)
{
    if (p->current->key.kind == PASS_HINT) {
        p->run.task->steer.n_looked[p->run.which]++;
        return;
    }
    for (int i = 0; i < p->run.n_rows; i++) {
        struct picture *pic = p->run.rows[i].picture;
        if (pic)
            pic->steer.shares[side_of(p, i)] |= 1U << p->run.rows[i].control;
    }
}

void pipeline_steer_forget(struct pipeline *p, const struct control *c)
{
    for (int i = 0; i < p->n_controls; i++) {
        if (p->controls[i] != c)
            continue;
        pass_forget(p, PASS_HINT, i, INT_MAX);
        pass_forget(p, PASS_CONTROL, i << 8, 255 << 8);
        p->controls[i] = NULL;
    }
}

void pipeline_steer_drop(struct pipeline *p, int i)
{
    if (p->current->key.kind == PASS_CONTROL)
        ((struct control_net *)p->current->unit)->rows[i].residuals = NULL;
    else if (p->current->key.kind == PASS_STEERED)
        ((struct image_unet *)p->current->unit)->rows[i].residuals = NULL;
}
