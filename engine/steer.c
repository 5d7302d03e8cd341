/* Which controls work when, as diffusers' pipelines have it, and the sums of what they give. */
#include "engine/steer.h"

#include "engine/models/control.h"
#include "engine/picture.h"

static int window_height(const struct image_task *it)
{
    return it->win_y.tile * it->d->info->scale;
}

static int window_width(const struct image_task *it)
{
    return it->win_x.tile * it->d->info->scale;
}

static const struct control *control_at(const struct image_task *it, int i)
{
    return it->task->controls[i];
}

int steer_check(const struct image_task *it, struct err *e)
{
    for (int i = 0; i < it->spec.n_controls; i++) {
        const struct control_spec *s = &it->spec.controls[i];
        const struct control *c = control_at(it, i);
        const int multiple = control_multiple(c);
        int rc = control_fits(c, it->d->model, e);
        if (rc == 0 && s->guess && control_info(c)->adapter)
            rc = err_set(e, ERR_INVALID, "a T2I-Adapter has no guess mode");
        if (rc == 0 && (window_width(it) % multiple || window_height(it) % multiple))
            rc = err_set(e, ERR_INVALID, "it steers %s whose sides are multiples of %d",
                         picture_n_windows(it) > 1 ? "windows" : "pictures", multiple);
        if (rc) {
            err_wrap(e, "control %.80s", s->model);
            return err_param(e, "control");
        }
    }
    return 0;
}

size_t steer_hint_floats(const struct image_task *it, int control)
{
    return control_hint_floats(control_at(it, control), window_height(it), window_width(it));
}

const float *steer_hint(const struct picture *p, int control)
{
    const struct image_task *it = p->task;
    return it->steer.hints[control] + (size_t)picture_window(p) * steer_hint_floats(it, control);
}

size_t steer_seen_bytes(const struct image_task *it, int control)
{
    const struct control_spec *s = &it->spec.controls[control];
    if (s->width == it->spec.width && s->height == it->spec.height)
        return 0;
    return (size_t)it->spec.width * (size_t)it->spec.height * (s->hidden ? 4 : 3);
}

size_t steer_residual_floats(const struct image_task *it)
{
    return image_residual_floats(it->d->model, it->win_y.tile, it->win_x.tile);
}

/* A pooled ControlNet and one in guess mode leave the negative prompt alone. */
static bool is_on_side(const struct image_task *it, int i, int side)
{
    return side == 0 ||
           (it->guided && !it->spec.controls[i].guess && !control_info(control_at(it, i))->pooled);
}

bool steer_has(const struct image_task *it, int side)
{
    for (int i = 0; i < it->spec.n_controls; i++) {
        if (is_on_side(it, i, side))
            return true;
    }
    return false;
}

double steer_cost(const struct image_task *it)
{
    double cost = 1;
    for (int i = 0; i < it->spec.n_controls; i++) /* the way down and the middle of a UNet */
        cost += control_info(control_at(it, i))->adapter ? 0 : 0.4;
    return cost;
}

bool steer_works(const struct picture *p, int control, int side)
{
    const struct control_spec *s = &p->task->spec.controls[control];
    const double n = noise_n_planned(p->task->noise);
    return s->scale != 0 && is_on_side(p->task, control, side) && p->call / n >= s->start &&
           (p->call + 1) / n <= s->end;
}

int steer_missing(const struct picture *p, int side)
{
    for (int i = 0; i < p->task->spec.n_controls; i++) {
        if (!(p->steer.shares[side] & (1U << i)) && steer_works(p, i, side) &&
            !control_info(control_at(p->task, i))->adapter)
            return i;
    }
    return -1;
}

/* Bits of the adapters that work in the next call. */
static unsigned adapters_at_work(const struct picture *p, int side)
{
    unsigned bits = 0;
    for (int i = 0; i < p->task->spec.n_controls; i++) {
        if (control_info(control_at(p->task, i))->adapter && steer_works(p, i, side))
            bits |= 1U << i;
    }
    return bits;
}

bool steer_begin(struct picture *p, int side)
{
    const struct image_task *it = p->task;
    const unsigned bits = adapters_at_work(p, side);
    const size_t n = steer_residual_floats(it);
    float *to = p->steer.residuals[side];
    const bool begun = p->steer.begun[side];
    p->steer.begun[side] = true;
    if (begun || bits == 0 || bits == p->steer.clean[side])
        return !begun && bits == 0;
    for (size_t k = 0; k < n; k++)
        to[k] = -0.0f; /* adding it changes nothing at all */
    for (int i = 0; i < it->spec.n_controls; i++) {
        const struct control_features f = {.hint = steer_hint(p, i),
                                           .height = window_height(it),
                                           .width = window_width(it),
                                           .scale = it->spec.controls[i].scale};
        if (bits & (1U << i))
            control_add_features(control_at(it, i), it->d->model, &f, to);
    }
    p->steer.clean[side] = bits;
    return false;
}

const float *steer_features(struct picture *p, int side)
{
    if (adapters_at_work(p, side) == 0)
        return NULL;
    steer_begin(p, side);
    return p->steer.residuals[side];
}

void steer_add(struct picture *p, int side)
{
    p->steer.clean[side] = 0;
}

void steer_end(struct picture *p)
{
    for (int side = 0; side < 2; side++) {
        p->steer.begun[side] = false;
        p->steer.shares[side] = 0;
        if (picture_n_windows(p->task) > 1)
            p->steer.clean[side] = 0; /* the next window has others */
    }
}

const float *steer_residuals(const struct picture *p, int side)
{
    for (int i = 0; i < p->task->spec.n_controls; i++) {
        if (steer_works(p, i, side))
            return p->steer.residuals[side];
    }
    return NULL;
}
