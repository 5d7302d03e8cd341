/* Passes of ControlNets and T2I-Adapters; steer.h says what comes out of them.
 *
 * Keys.  A pass of a control is told from those of others by the control's number in p->controls: PASS_HINT has
 * number, height, width in pixels; PASS_CONTROL has rows + number * 256 + chunks of the prompt * 65536,
 * and h and w of the latent. */
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
    return (struct pass_key){PASS_HINT, number, it->spec.height, it->spec.width};
}

static struct pass_key net_key(int number, const struct image_task *it, int rows)
{
    return (struct pass_key){PASS_CONTROL, rows | number << 8 | it->prompts[0].n_chunks << 16,
                             it->shape.h, it->shape.w};
}

static struct control *control_of(const struct pipeline *p, const struct pass_key *k)
{
    return p->controls[k->kind == PASS_HINT ? k->a : k->a >> 8 & 255];
}

static struct control_size net_size(const struct pass_key *k)
{
    return (struct control_size){k->a & 255, k->b, k->c, (k->a >> 16) * IMAGE_TOKENS};
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
            bytes = pass_bytes(p, net_key(number, it, rows), e);
        }
    }
    return bytes == 0 ? 0 : bytes > most ? bytes : most;
}

/* ---- looking ---- */

/* The control's picture in the task's size, into the pass. */
static int show(struct control_hint *u, const struct control_spec *s, struct err *e)
{
    struct image rgb = {0}, hidden = {0};
    const struct image from = {s->width, s->height, 3, (uint8_t *)(uintptr_t)s->picture};
    const struct image mask = {s->width, s->height, 1, (uint8_t *)(uintptr_t)s->hidden};
    if (s->width == u->width && s->height == u->height) {
        control_hint_look(u, s->picture, s->hidden);
        return 0;
    }
    int rc = image_resize(&rgb, &from, u->width, u->height, IMAGE_LANCZOS, e);
    if (rc == 0 && s->hidden)
        rc = image_resize(&hidden, &mask, u->width, u->height, IMAGE_BILINEAR, e);
    if (rc == 0)
        control_hint_look(u, rgb.data, hidden.data);
    image_free(&rgb);
    image_free(&hidden);
    return rc;
}

int pipeline_steer_look(struct pipeline *p, struct image_task *it, struct err *e)
{
    for (int i = 0; i < it->spec.n_controls; i++) {
        if (it->steer.looked[i])
            continue;
        const int number = number_of(p, it->task->controls[i]);
        int rc = number < 0 ? too_many(e) : pass_make_current(p, hint_key(number, it), e);
        if (rc)
            return rc;
        struct control_hint *u = (struct control_hint *)p->current->unit;
        u->hint = it->steer.hints[i];
        p->run.task = it;
        p->run.which = i;
        return (rc = show(u, &it->spec.controls[i], e)) ? rc : 1;
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
                                .hint = it->steer.hints[s->control],
                                .scale = spec->scale,
                                .guess = spec->guess,
                                .residuals = pic->steer.residuals[s->side],
                                .n_residuals = steer_residual_floats(it),
                                .fresh = steer_begin(s->picture, s->side)};
    steer_add(s->picture, s->side);
    const float h = (float)it->spec.height, w = (float)it->spec.width;
    const float ids[IMAGE_TIME_IDS] = {h, w, 0, 0, h, w}; /* original, crop, target */
    memcpy(row->time_ids, ids, sizeof ids);
}

static int begin_shares(struct pipeline *p, const struct share *shares, int n, struct err *e)
{
    const struct image_task *it = shares[0].picture->task;
    const int number = number_of(p, it->task->controls[shares[0].control]);
    if (number < 0)
        return too_many(e);
    while (n > 1) { /* as many as there is room for */
        size_t bytes = pass_bytes(p, net_key(number, it, n), e);
        if (bytes > 0 && bytes <= p->hold_bytes)
            break;
        n--;
    }
    int rc = pass_make_current(p, net_key(number, it, n), e);
    if (rc)
        return rc;
    struct control_net *u = (struct control_net *)p->current->unit;
    const size_t n_in = (size_t)it->shape.h * (size_t)it->shape.w * (size_t)it->shape.c;
    p->run.n_rows = n;
    for (int i = 0; i < n; i++) {
        struct picture *pic = shares[i].picture;
        fill_row(&u->rows[i], &shares[i]);
        picture_control_input(pic, u->x + (size_t)i * n_in);
        p->run.rows[i].picture = pic;
        p->run.rows[i].row = shares[i].side; /* a steered picture has one window */
        p->run.rows[i].control = shares[i].control;
    }
    return 1;
}

int pipeline_steer_begin(struct pipeline *p, enum pass_kind *kind, struct err *e)
{
    struct share shares[PIPELINE_ROWS_MAX];
    const int n = find_shares(p, shares);
    if (n > 0)
        return begin_shares(p, shares, n, e);
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

int pipeline_steer_head(struct pipeline *p, enum pass_kind *kind)
{
    *kind = PASS_UNET;
    for (int i = 0; i < p->run.n_rows; i++) {
        if (steer_features(p->run.rows[i].picture, side_of(p, i)))
            *kind = PASS_STEERED;
    }
    return 0;
}

void pipeline_steer_end(struct pipeline *p)
{
    if (p->current->key.kind == PASS_HINT) {
        p->run.task->steer.looked[p->run.which] = true;
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
