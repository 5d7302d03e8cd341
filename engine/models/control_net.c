/* A ControlNet: a small network that brings the picture to the latent's size, a copy of the UNet's way down and
 * middle, and 1x1 convolutions of all their results, which are the residuals (docs/MODELS.md). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/json.h"
#include "engine/models/control_int.h"
#include "engine/models/image_model_int.h"

/* ---- configuration and weights ---- */

static int bad_embedding(struct err *e)
{
    return err_set(e, ERR_CORRUPT, "conditioning_embedding_out_channels is not what it must be");
}

/* conv_in, two convolutions for each halving, conv_out. */
static int read_embedding(struct control *c, const struct cJSON *config, struct err *e)
{
    static const int usual[] = {16, 32, 96, 256};
    const struct cJSON *list = json_get(config, "conditioning_embedding_out_channels");
    int n = 4, channels[CONTROL_EMBED_MAX / 2];
    memcpy(channels, usual, sizeof usual);
    if (json_type(list) != JSON_NULL) {
        const struct cJSON *v = json_first(list);
        n = json_size(list);
        if (json_type(list) != JSON_ARRAY || n < 1 || n > CONTROL_EMBED_MAX / 2 - 1)
            return bad_embedding(e);
        for (int i = 0; i < n; i++, v = json_next(v)) {
            if (!json_is_int(v) || json_num(v) < 1 || json_num(v) > 4096)
                return bad_embedding(e);
            channels[i] = (int)json_num(v);
        }
    }
    c->shrink = 1 << (n - 1);
    c->embed[0] = (struct nn_conv){.kernel = 3, .c_in = 3, .c_out = channels[0]};
    for (int i = 0; i < n - 1; i++) {
        c->embed[1 + 2 * i] =
            (struct nn_conv){.kernel = 3, .c_in = channels[i], .c_out = channels[i]};
        c->embed[2 + 2 * i] =
            (struct nn_conv){.kernel = 3, .c_in = channels[i], .c_out = channels[i + 1]};
    }
    c->n_embed = 2 * n;
    c->embed[c->n_embed - 1] =
        (struct nn_conv){.kernel = 3, .c_in = channels[n - 1], .c_out = c->net->c.channels[0]};
    return 0;
}

static int read_config(struct control *c, const struct cJSON *config, struct err *e)
{
    int64_t channels = 3;
    const char *order = "rgb";
    int rc = json_get_int(config, "conditioning_channels", &channels, 1, 64, e);
    if (rc == 0)
        rc = json_get_str(config, "controlnet_conditioning_channel_order", &order, e);
    if (rc == 0)
        rc = json_get_bool(config, "global_pool_conditions", &c->info.pooled, e);
    if (rc != 0)
        return rc;
    if (channels != 3)
        return err_set(e, ERR_UNSUPPORTED, "a ControlNet of %d channels is not built in",
                       (int)channels);
    c->channels = 3;
    c->bgr = strcmp(order, "bgr") == 0;
    if (!c->bgr && strcmp(order, "rgb") != 0)
        return err_set(e, ERR_CORRUPT, "controlnet_conditioning_channel_order %.20s", order);
    rc = unet_half_new(&c->net, config, e);
    return rc == 0 ? read_embedding(c, config, e) : rc;
}

static void walk(struct nn_loader *l, void *model)
{
    struct control *c = model;
    size_t path = nn_push(l, "controlnet_cond_embedding");
    nn_load_conv(l, &c->embed[0], "conv_in", NN_BIAS);
    for (int i = 1; i < c->n_embed - 1; i++) {
        size_t block = nn_push(l, "blocks");
        const char digits[] = {(char)('0' + (i - 1) / 10), (char)('0' + (i - 1) % 10), 0};
        nn_load_conv(l, &c->embed[i], i <= 10 ? digits + 1 : digits, NN_BIAS);
        nn_pop(l, block);
    }
    nn_load_conv(l, &c->embed[c->n_embed - 1], "conv_out", NN_BIAS);
    nn_pop(l, path);
    unet_half_walk(l, c->net);
    for (int i = 0; i <= c->places.n_skips; i++) {
        const int ch = c->places.at[i].c;
        char name[40] = "controlnet_mid_block";
        if (i < c->places.n_skips)
            snprintf(name, sizeof name, "controlnet_down_blocks.%d", i);
        nn_load_linear(l, i < c->places.n_skips ? &c->zero[i] : &c->zero_mid, name, ch, ch,
                       NN_BIAS);
    }
}

int control_net_load(struct control *c, struct nn_loader *l, struct err *e)
{
    int rc = read_config(c, checkpoint_config(l->c, l->part), e);
    if (rc != 0)
        return rc;
    unet_places(&c->net->c, &c->places);
    return nn_load(l, walk, c);
}

/* ---- the picture ---- */

void control_net_record_hint(const struct control *c, struct program *p, int height, int width,
                             struct control_hint_pass *pass)
{
    pass->picture = PROGRAM_PINNED(p, 1, height, width, 3);
    struct tensor x = pass->picture;
    for (int i = 0; i < c->n_embed - 1; i++) {
        const struct nn_conv_with with = {.stride = i > 0 && i % 2 == 0 ? 2 : 1, .act = ACT_SILU};
        x = nn_conv(p, &c->embed[i], &x, &with);
    }
    const struct nn_conv *last = &c->embed[c->n_embed - 1];
    pass->n_out = 1;
    pass->out[0] = PROGRAM_PINNED(p, 1, x.dims[1], x.dims[2], last->c_out);
    nn_emit_conv(p, &(struct op_conv2d){.out = &pass->out[0],
                                        .x = &x,
                                        .w = last->w,
                                        .bias = &last->bias,
                                        .kernel = 3,
                                        .stride = 1,
                                        .pad_before = 1,
                                        .pad_after = 1});
}

/* ---- a step ---- */

struct net_unit {
    struct control_net pub; /* first */
    struct control *c;
    struct program *p;
    struct unet_pass pass;
    struct tensor hint, context, kv; /* [n, h, w, c], [n, n_tokens, context_dim], [n, kv floats] */
    struct tensor out[UNET_MAX_SKIPS + 1];
    int n_out;
    int added; /* rows whose residuals were added; -1: the program has not ended */
};

static struct tensor row_of(const struct tensor *t, int row)
{
    struct tensor r = *t;
    r.ndim = 2;
    r.dims[0] = t->dims[1];
    r.dims[1] = t->dims[2];
    r.data = (float *)t->data + (size_t)row * (size_t)(t->dims[1] * t->dims[2]);
    return r;
}

/* Keys and values of its own cross attention are made anew in each step: a hundredth of the work. */
static void record_context(struct net_unit *u, struct program *p)
{
    const struct unet *m = u->c->net;
    const struct control_size *s = &u->pub.size;
    if (m->kv_floats == 0)
        return;
    u->context = PROGRAM_PINNED(p, s->n, s->n_tokens, m->c.context_dim);
    u->kv = PROGRAM_PINNED(p, s->n, s->n_tokens, (int64_t)m->kv_floats);
    for (int i = 0; i < s->n; i++) {
        const struct tensor context = row_of(&u->context, i), kv = row_of(&u->kv, i);
        unet_pass_record_kv(m, p, &context, kv.data);
    }
}

static void record(struct program *p, void *arg)
{
    struct net_unit *u = arg;
    const struct control_size *s = &u->pub.size;
    struct unet_half half;
    record_context(u, p);
    u->hint = PROGRAM_PINNED(p, s->n, s->h, s->w, u->c->net->c.channels[0]);
    unet_pass_record_half(u->c->net, p, &u->hint, s->n_skips, &u->pass, &half);
    u->n_out = half.n_skips + (s->n_skips == 0);
    for (int i = 0; i < u->n_out; i++) {
        const struct nn_linear *l = i < half.n_skips ? &u->c->zero[i] : &u->c->zero_mid;
        const struct tensor *x = i < half.n_skips ? &half.skips[i] : &half.mid;
        u->out[i] = program_pinned(p, 4, x->dims);
        nn_emit_linear(
            p, &(struct op_linear){.out = {&u->out[i]}, .w = {l->w}, .bias = {&l->bias}, .x = x});
    }
}

static int set_row(struct net_unit *u, int i, struct err *e)
{
    const struct control_row *r = &u->pub.rows[i];
    const struct unet *m = u->c->net;
    const size_t n_hint = (size_t)(u->hint.dims[1] * u->hint.dims[2] * u->hint.dims[3]);
    if (r->hint == NULL || r->context == NULL || (m->c.pooled_dim > 0 && r->pooled == NULL))
        return err_set(e, ERR_INVALID, "row %d has no picture or no prompt", i);
    struct unet_row row = {.n_tokens = u->pub.size.n_tokens,
                           .timestep = r->timestep,
                           .pooled = r->pooled,
                           .time_ids = r->time_ids};
    if (m->kv_floats > 0) {
        const struct tensor context = row_of(&u->context, i), kv = row_of(&u->kv, i);
        const size_t n = (size_t)(context.dims[0] * context.dims[1]);
        memcpy(program_host(u->p, &u->context, PROGRAM_IN) + (size_t)i * n, r->context,
               n * sizeof(float));
        row.kv = kv.data;
    }
    unet_pass_set(m, &u->pass, i, &row);
    memcpy(program_host(u->p, &u->hint, PROGRAM_IN) + (size_t)i * n_hint, r->hint,
           n_hint * sizeof(float));
    return 0;
}

/* n values of one place: to += scale * from, or scale * the mean of each of c channels. */
static void add_place(float *to, const float *from, size_t n, size_t c, float scale, bool pooled)
{
    for (size_t i = 0; i < n && !pooled; i++)
        to[i] += scale * from[i];
    for (size_t k = 0; k < c && pooled; k++) {
        double sum = 0;
        for (size_t i = k; i < n; i += c)
            sum += (double)from[i];
        const float mean = scale * (float)(sum / (double)(n / c));
        for (size_t i = k; i < n; i += c)
            to[i] += mean;
    }
}

/* In guess mode the upper levels count less: from a tenth to all of it, evenly by logarithm. */
static void add_row(const struct net_unit *u, int row)
{
    const struct control_row *r = &u->pub.rows[row];
    const int n_skips = u->c->places.n_skips;
    const bool pooled = u->c->info.pooled;
    float *to = r->residuals;
    /* -0: what is added to it is what it becomes, and where nothing is added, it changes nothing itself. */
    for (size_t i = 0; to != NULL && r->fresh && i < r->n_residuals; i++)
        to[i] = -0.0f;
    for (int i = 0; i < u->n_out && to != NULL; i++) {
        const struct tensor *t = &u->out[i];
        const size_t n = (size_t)(t->dims[1] * t->dims[2] * t->dims[3]);
        const float part = r->guess && !pooled ? powf(10, (float)i / (float)n_skips - 1) : 1;
        add_place(to, program_host(u->p, t, PROGRAM_OUT) + (size_t)row * n, n, (size_t)t->dims[3],
                  part * r->scale, pooled);
        to += n;
    }
}

static int run_net(struct image_unit *unit, int64_t until_us, struct err *e)
{
    struct net_unit *u = (struct net_unit *)unit;
    int rc = 0;
    for (int i = 0; i < u->pub.size.n && rc == 0 && u->added < 0 && program_position(u->p) == 0;
         i++)
        rc = set_row(u, i, e);
    if (rc == 0 && u->added < 0 && (rc = program_run(u->p, until_us, e)) == 0)
        u->added = 0;
    while (rc == 0 && u->added < u->pub.size.n) {
        add_row(u, u->added++);
        if (u->added < u->pub.size.n && clock_us() >= until_us)
            return 1;
    }
    if (rc == 0)
        u->added = -1;
    return rc;
}

static void restart_net(struct image_unit *unit)
{
    struct net_unit *u = (struct net_unit *)unit;
    u->added = -1;
    program_restart(u->p);
}

static void close_net(struct image_unit *unit)
{
    struct net_unit *u = (struct net_unit *)unit;
    program_close(u->p);
    free(u->pub.rows);
    free(u);
}

static int check_size(const struct control *c, const struct control_size *s, struct err *e)
{
    const int multiple = control_multiple(c) / c->shrink;
    if (s->n < 1 || s->n > 4096 || s->h < 1 || s->w < 1 || s->h > 4096 || s->w > 4096 ||
        s->n_tokens < 1 || s->n_tokens > IMAGE_MAX_CONTEXT)
        return err_set(e, ERR_TOOBIG, "a batch of %d latents of %d x %d and %d tokens", s->n, s->w,
                       s->h, s->n_tokens);
    if (s->n_skips < 0 || s->n_skips > c->places.n_skips)
        return err_set(e, ERR_INVALID, "%d skips of a ControlNet with %d", s->n_skips,
                       c->places.n_skips);
    if (s->h % multiple != 0 || s->w % multiple != 0)
        return err_set(e, ERR_INVALID, "sides must be multiples of %d", control_multiple(c));
    return 0;
}

int control_net_open(struct control_net **out, struct control *c, struct control_size size,
                     struct err *e)
{
    int rc = check_size(c, &size, e);
    if (rc != 0)
        return rc;
    struct net_unit *u = xcalloc(1, sizeof *u);
    u->c = c;
    u->added = -1;
    u->pub.size = size;
    u->pub.rows = xcalloc((size_t)size.n, sizeof *u->pub.rows);
    rc = program_open(&u->p, c->be, record, u, e);
    if (rc != 0) {
        close_net(&u->pub.unit);
        return rc;
    }
    u->pub.unit = (struct image_unit){
        .bytes = program_memory(u->p), .run = run_net, .restart = restart_net, .close = close_net};
    u->pub.x = program_host(u->p, &u->pass.x, PROGRAM_IN);
    bool ok = u->pub.x != NULL && program_host(u->p, &u->hint, PROGRAM_IN) != NULL;
    if (c->net->kv_floats > 0)
        ok = program_host(u->p, &u->context, PROGRAM_IN) != NULL && ok;
    for (int i = 0; i < u->n_out; i++)
        ok = program_host(u->p, &u->out[i], PROGRAM_OUT) != NULL && ok;
    if (!ok)
        return image_no_host_memory(&u->pub.unit, e);
    *out = &u->pub;
    return 0;
}

size_t control_net_bytes(struct control *c, struct control_size size, struct err *e)
{
    struct net_unit u = {.c = c, .pub.size = size};
    return check_size(c, &size, e) == 0 ? program_bytes(c->be, record, &u, e) : 0;
}
