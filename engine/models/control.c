/* ControlNets and T2I-Adapters from outside: opening, whether they belong to a model, and the units that look
 * at a picture.  The networks are in control_net.c and control_adapter.c. */
#include "engine/models/control.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"
#include "engine/models/control_int.h"
#include "engine/models/image_model_int.h"

/* ---- opening ---- */

static const char *family_of(const struct unet_config *u)
{
    return u->pooled_dim > 0        ? "sdxl"
           : u->context_dim == 768  ? "sd15"
           : u->context_dim == 1024 ? "sd21"
                                    : "sd";
}

int control_open(struct control **out, struct checkpoint *checkpoint, struct backend *be,
                 atomic_int *progress, struct err *e)
{
    const struct cJSON *config = checkpoint_config(checkpoint, CHECKPOINT_CONTROL);
    const char *class = json_str(json_get(config, "_class_name"));
    struct control *c = xcalloc(1, sizeof *c);
    c->be = c->store.be = be;
    struct nn_loader l = {.c = checkpoint,
                          .part = CHECKPOINT_CONTROL,
                          .store = &c->store,
                          .progress = progress,
                          .to = 1000,
                          .e = e};
    c->info.adapter = class != NULL && strcmp(class, "T2IAdapter") == 0;
    nn_count(checkpoint, CHECKPOINT_CONTROL, &c->info.n_params, &c->info.type);
    int rc = c->info.adapter ? control_adapter_load(c, &l, e) : control_net_load(c, &l, e);
    if (rc != 0) {
        control_close(c);
        return rc;
    }
    c->info.family = c->net != NULL ? family_of(&c->net->c) : c->shrink > 8 ? "sdxl" : "sd15";
    c->info.scale = c->shrink;
    c->info.weight_bytes = c->store.bytes;
    *out = c;
    return 0;
}

void control_close(struct control *c)
{
    if (c == NULL)
        return;
    unet_close(c->net);
    nn_store_free(&c->store);
    free(c);
}

const struct control_info *control_info(const struct control *c)
{
    return &c->info;
}

/* ---- does it fit ---- */

static int other_model(struct err *e)
{
    return err_set(e, ERR_INVALID, "it was made for another family of models: widths differ");
}

static int net_fits(const struct control *c, const struct image_model *m, struct err *e)
{
    const struct unet_config *a = &c->net->c, *b = &m->unet->c;
    struct unet_places places;
    unet_places(b, &places);
    bool same = c->places.n_skips == places.n_skips && a->pooled_dim == b->pooled_dim &&
                a->in_channels == m->info.latent_channels && c->shrink == m->info.scale &&
                (c->net->kv_floats == 0 || a->context_dim == b->context_dim);
    for (int i = 0; same && i <= places.n_skips; i++)
        same = places.at[i].c == c->places.at[i].c && places.at[i].shrink == c->places.at[i].shrink;
    return same ? 0 : other_model(e);
}

/* Where a level's features go in the model; -1: nowhere, as with diffusers. */
static int place_of(const struct control *c, const struct image_model *m,
                    const struct unet_places *places, int stage)
{
    const int n = m->unet->c.n_stages;
    const int place = stage < n ? places->n_skips + 1 + stage : places->n_skips;
    const bool same = c->stages[stage].c_out == places->at[place].c &&
                      control_adapter_shrink(c, stage) == m->info.scale * places->at[place].shrink;
    return stage <= n && same ? place : -1;
}

static int adapter_fits(const struct control *c, const struct image_model *m, struct err *e)
{
    struct unet_places places;
    unet_places(&m->unet->c, &places);
    for (int i = 0; i < m->unet->c.n_stages && i < c->n_stages; i++) {
        if (place_of(c, m, &places, i) < 0)
            return other_model(e);
    }
    return 0;
}

int control_fits(const struct control *c, const struct image_model *m, struct err *e)
{
    return c->net != NULL ? net_fits(c, m, e) : adapter_fits(c, m, e);
}

/* ---- looking at a picture ---- */

struct hint_unit {
    struct control_hint pub; /* first */
    struct control *c;
    struct program *p;
    struct control_hint_pass pass;
};

static void record_hint(struct program *p, void *arg)
{
    struct hint_unit *u = arg;
    if (u->c->net != NULL)
        control_net_record_hint(u->c, p, u->pub.height, u->pub.width, &u->pass);
    else
        control_adapter_record(u->c, p, u->pub.height, u->pub.width, &u->pass);
}

/* A pixel's value as the network has it; gray as PIL makes it. */
static float seen(const struct control *c, const uint8_t *rgb, int channel)
{
    if (c->channels == 1)
        return (float)((rgb[0] * 19595U + rgb[1] * 38470U + rgb[2] * 7471U + 0x8000) >> 16) / 255;
    return (float)rgb[c->bgr ? 2 - channel : channel] / 255;
}

/* An adapter has the pixels of shrink x shrink as channels: those of red, by rows, then green ... */
void control_hint_look(struct control_hint *hint, const uint8_t *rgb, const uint8_t *hidden)
{
    struct hint_unit *u = (struct hint_unit *)hint;
    const int f = u->c->net != NULL ? 1 : u->c->shrink, width = hint->width;
    const int h = hint->height / f, w = width / f;
    float *to = program_host(u->p, &u->pass.picture, PROGRAM_IN);
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) {
            for (int k = 0; k < u->c->channels * f * f; k++) {
                const int c = k / (f * f), i = k % (f * f);
                const size_t at = (size_t)(y * f + i / f) * (size_t)width + (size_t)(x * f + i % f);
                *to++ = hidden != NULL && hidden[at] != 0 ? -1 : seen(u->c, rgb + 3 * at, c);
            }
        }
    }
}

static size_t floats_of(const struct tensor *t)
{
    return (size_t)(t->dims[1] * t->dims[2] * t->dims[3]);
}

static int run_hint(struct image_unit *unit, int64_t until_us, struct err *e)
{
    struct hint_unit *u = (struct hint_unit *)unit;
    int rc = program_run(u->p, until_us, e);
    float *to = u->pub.hint;
    for (int i = 0; rc == 0 && i < u->pass.n_out; i++) {
        const size_t n = floats_of(&u->pass.out[i]);
        memcpy(to, program_host(u->p, &u->pass.out[i], PROGRAM_OUT), n * sizeof *to);
        to += n;
    }
    return rc;
}

static void restart_hint(struct image_unit *unit)
{
    program_restart(((struct hint_unit *)unit)->p);
}

static void close_hint(struct image_unit *unit)
{
    program_close(((struct hint_unit *)unit)->p);
    free(unit);
}

int control_multiple(const struct control *c)
{
    return c->net != NULL ? c->shrink * unet_multiple(&c->net->c) : c->shrink;
}

static int check_size(const struct control *c, int height, int width, struct err *e)
{
    const int multiple = control_multiple(c);
    if (height < 1 || width < 1 || height > 1 << 15 || width > 1 << 15)
        return err_set(e, ERR_TOOBIG, "a picture of %d x %d", width, height);
    if (height % multiple != 0 || width % multiple != 0)
        return err_set(e, ERR_INVALID, "it takes pictures whose sides are multiples of %d",
                       multiple);
    return 0;
}

int control_hint_open(struct control_hint **out, struct control *c, int height, int width,
                      struct err *e)
{
    int rc = check_size(c, height, width, e);
    if (rc != 0)
        return rc;
    struct hint_unit *u = xcalloc(1, sizeof *u);
    u->c = c;
    u->pub.height = height;
    u->pub.width = width;
    rc = program_open(&u->p, c->be, record_hint, u, e);
    if (rc != 0) {
        free(u);
        return rc;
    }
    u->pub.unit = (struct image_unit){.bytes = program_memory(u->p),
                                      .run = run_hint,
                                      .restart = restart_hint,
                                      .close = close_hint};
    bool ok = program_host(u->p, &u->pass.picture, PROGRAM_IN) != NULL;
    for (int i = 0; i < u->pass.n_out; i++)
        ok = program_host(u->p, &u->pass.out[i], PROGRAM_OUT) != NULL && ok;
    if (!ok)
        return image_no_host_memory(&u->pub.unit, e);
    *out = &u->pub;
    return 0;
}

size_t control_hint_bytes(struct control *c, int height, int width, struct err *e)
{
    struct hint_unit u = {.c = c, .pub = {.height = height, .width = width}};
    return check_size(c, height, width, e) == 0 ? program_bytes(c->be, record_hint, &u, e) : 0;
}

static size_t stage_floats(const struct control *c, int stage, int height, int width)
{
    const int shrink = control_adapter_shrink(c, stage);
    return (size_t)(unet_place_side(height, shrink) * unet_place_side(width, shrink) *
                    c->stages[stage].c_out);
}

size_t control_hint_floats(const struct control *c, int height, int width)
{
    size_t n = 0;
    if (c->net != NULL)
        return (size_t)(height / c->shrink) * (size_t)(width / c->shrink) *
               (size_t)c->net->c.channels[0];
    for (int i = 0; i < c->n_stages; i++)
        n += stage_floats(c, i, height, width);
    return n;
}

void control_add_features(const struct control *c, const struct image_model *m,
                          const struct control_features *f, float *residuals)
{
    const int h = f->height / m->info.scale, w = f->width / m->info.scale;
    const float *from = f->hint;
    struct unet_places places;
    unet_places(&m->unet->c, &places);
    for (int i = 0; i < c->n_stages; i++) {
        const size_t n = stage_floats(c, i, f->height, f->width);
        const int place = place_of(c, m, &places, i);
        float *to = residuals + (place < 0 ? 0 : unet_places_floats(&places, place, h, w));
        for (size_t k = 0; k < n && place >= 0; k++)
            to[k] += f->scale * from[k];
        from += n;
    }
}
