/* The two networks, and pictures in tiles.
 *
 * RRDBNet is a chain of blocks of densely connected convolutions, each weighed by 0.2 before it is added, then
 * nearest-neighbour enlargements by two with a convolution each.  A model of less than the four times that
 * it enlarges folds blocks of pixels into channels first (pixel unshuffle).  SRVGGNetCompact is a chain of
 * convolutions with a PReLU each; its channels unfold to pixels that are added to the picture, enlarged.
 *
 * Tiles overlap by MARGIN pixels a side (less than the networks could see, more than shows), and each pixel
 * is taken from the tile in whose middle it lies. */
#include "engine/models/upscaler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"
#include "engine/finite.h"
#include "engine/models/nn.h"
#include "engine/models/tiles.h"

#define DEFAULT_BYTES ((size_t)256 << 20)
#define LEAK          0.2f /* slope of RRDBNet's leaky ReLU */
#define RESIDUAL      0.2f

enum { BLOCKS_MAX = 256, MARGIN = 32, TILE_MAX = 512, UPS_MAX = 3, CHANNELS_MAX = 1024 };

struct rdb {
    struct nn_conv conv[5];
};

struct upscaler {
    struct upscaler_info info;
    struct nn_store store;
    size_t tile_bytes;
    bool compact;
    int c, growth; /* channels, and what a dense convolution adds */
    int unshuffle; /* pixels of a side that become channels first */
    int n_blocks, n_ups;
    struct nn_conv first, body, up[UPS_MAX], hr, last;
    struct rdb *blocks;    /* [3 * n_blocks] RRDBNet */
    struct nn_conv *convs; /* [n_blocks] compact */
    struct tensor *slopes; /* [n_blocks] of [c] */
    struct tensor leak;    /* [c] */
    struct nn_linear residual;
};

/* ---- shapes and weights ---- */

static int64_t dim_of(const struct nn_loader *l, const char *name, int d)
{
    const struct checkpoint_tensor *t = checkpoint_find(l->c, l->part, name);
    return t != NULL && d < t->ndim ? t->dims[d] : 0;
}

static int count(const struct nn_loader *l, const char *fmt, int most)
{
    char name[64];
    int n = 0;
    for (; n <= most; n++) {
        snprintf(name, sizeof name, fmt, n); /* NOLINT(clang-diagnostic-format-nonliteral) */
        if (checkpoint_find(l->c, l->part, name) == NULL)
            break;
    }
    return n;
}

static int refuse(const struct upscaler *m, struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "%s: its tensors' shapes are those of no known variant",
                   m->compact ? "SRVGGNetCompact" : "RRDBNet");
}

static int read_rrdb(struct upscaler *m, const struct nn_loader *l, struct err *e)
{
    const int64_t c = dim_of(l, "conv_first.weight", 0), in = dim_of(l, "conv_first.weight", 1);
    const int64_t growth = dim_of(l, "body.0.rdb1.conv1.weight", 0);
    m->n_blocks = count(l, "body.%d.rdb1.conv1.weight", BLOCKS_MAX);
    while (m->n_ups < UPS_MAX) {
        char name[32];
        snprintf(name, sizeof name, "conv_up%d.weight", m->n_ups + 1);
        if (checkpoint_find(l->c, l->part, name) == NULL)
            break;
        m->n_ups++;
    }
    m->unshuffle = in == 3 ? 1 : in == 12 ? 2 : in == 48 ? 4 : 0;
    if (c < 1 || c > CHANNELS_MAX || growth < 1 || growth > CHANNELS_MAX || m->n_blocks < 1 ||
        m->n_blocks > BLOCKS_MAX || m->unshuffle == 0 || (1 << m->n_ups) < m->unshuffle ||
        dim_of(l, "conv_last.weight", 0) != 3)
        return refuse(m, e);
    m->c = (int)c;
    m->growth = (int)growth;
    m->info.scale = (1 << m->n_ups) / m->unshuffle;
    m->blocks = xcalloc(3 * (size_t)m->n_blocks, sizeof *m->blocks);
    return 0;
}

/* body.0 conv, body.1 slopes, body.2 conv ...; the last one has no slopes. */
static int read_compact(struct upscaler *m, const struct nn_loader *l, struct err *e)
{
    char name[32];
    const int64_t c = dim_of(l, "body.0.weight", 0);
    const int n = count(l, "body.%d.weight", 2 * BLOCKS_MAX);
    snprintf(name, sizeof name, "body.%d.weight", n - 1);
    const int64_t out = dim_of(l, name, 0), scale = llround(sqrt((double)out / 3));
    if (c < 1 || c > CHANNELS_MAX || n < 3 || n > 2 * BLOCKS_MAX || n % 2 == 0 ||
        out != 3 * scale * scale || scale < 1 || scale > 8 || dim_of(l, "body.0.weight", 1) != 3)
        return err_set(
            e, ERR_UNSUPPORTED,
            "SRVGGNetCompact: its tensors are no chain of convolutions with a PReLU each");
    m->c = (int)c;
    m->unshuffle = 1;
    m->n_blocks = n / 2;
    m->info.scale = (int)scale;
    m->convs = xcalloc((size_t)m->n_blocks, sizeof *m->convs);
    m->slopes = xcalloc((size_t)m->n_blocks, sizeof *m->slopes);
    return 0;
}

static void load_conv(struct nn_loader *l, struct nn_conv *to, const char *name, int c_in,
                      int c_out)
{
    *to = (struct nn_conv){.kernel = 3, .c_in = c_in, .c_out = c_out};
    nn_load_conv(l, to, name, NN_BIAS);
}

static void walk_compact(struct nn_loader *l, struct upscaler *m)
{
    char name[32];
    for (int i = 0; i <= m->n_blocks; i++) {
        snprintf(name, sizeof name, "body.%d", 2 * i);
        const bool last = i == m->n_blocks;
        load_conv(l, last ? &m->last : &m->convs[i], name, i == 0 ? 3 : m->c,
                  last ? 3 * m->info.scale * m->info.scale : m->c);
        snprintf(name, sizeof name, "body.%d.weight", 2 * i + 1);
        if (!last)
            nn_load_vector(l, &m->slopes[i], name, m->c);
    }
}

static void walk(struct nn_loader *l, void *model)
{
    struct upscaler *m = model;
    char name[24];
    if (m->compact) {
        walk_compact(l, m);
        return;
    }
    const int wide = m->c > m->growth ? m->c : m->growth;
    load_conv(l, &m->first, "conv_first", 3 * m->unshuffle * m->unshuffle, m->c);
    for (int i = 0; i < 3 * m->n_blocks; i++) {
        const size_t path = nn_push(l, "body.%d.rdb%d", i / 3, i % 3 + 1);
        for (int k = 0; k < 5; k++) {
            snprintf(name, sizeof name, "conv%d", k + 1);
            load_conv(l, &m->blocks[i].conv[k], name, m->c + k * m->growth,
                      k < 4 ? m->growth : m->c);
        }
        nn_pop(l, path);
    }
    load_conv(l, &m->body, "conv_body", m->c, m->c);
    for (int i = 0; i < m->n_ups; i++) {
        snprintf(name, sizeof name, "conv_up%d", i + 1);
        load_conv(l, &m->up[i], name, m->c, m->c);
    }
    load_conv(l, &m->hr, "conv_hr", m->c, m->c);
    load_conv(l, &m->last, "conv_last", m->c, 3);
    nn_make_vector(l, &m->leak, wide, LEAK);
    nn_make_scale(l, &m->residual, m->c, RESIDUAL);
}

int upscaler_open(struct upscaler **out, struct checkpoint *c, struct backend *be,
                  size_t tile_bytes, atomic_int *progress, struct err *e)
{
    struct upscaler *m = xcalloc(1, sizeof *m);
    struct nn_loader l = {.c = c,
                          .part = CHECKPOINT_MODEL,
                          .store = &m->store,
                          .progress = progress,
                          .to = 1000,
                          .e = e};
    const char *class = json_str(json_get(checkpoint_config(c, l.part), "_class_name"));
    m->store.be = be;
    m->tile_bytes = tile_bytes > 0 ? tile_bytes : DEFAULT_BYTES;
    m->compact = class != NULL && strcmp(class, "SRVGGNetCompact") == 0;
    m->info.family = m->compact ? "srvgg" : "esrgan";
    int rc = m->compact ? read_compact(m, &l, e) : read_rrdb(m, &l, e);
    if (rc == 0)
        rc = nn_load(&l, walk, m);
    if (rc == 0 && !m->compact && (m->leak.data == NULL || m->residual.w == NULL))
        rc = err_set(e, ERR_NOMEM, "no memory for the upscaler");
    if (rc != 0) {
        upscaler_close(m);
        return rc;
    }
    nn_count(c, l.part, &m->info.n_params, &m->info.type);
    m->info.weight_bytes = m->store.bytes;
    *out = m;
    return 0;
}

void upscaler_close(struct upscaler *m)
{
    if (m == NULL)
        return;
    nn_store_free(&m->store);
    free(m->blocks);
    free(m->convs);
    free(m->slopes);
    free(m);
}

const struct upscaler_info *upscaler_info(const struct upscaler *m)
{
    return &m->info;
}

/* ---- the networks: x [1, h, w, c] ---- */

static void leaky(const struct upscaler *m, struct program *p, struct tensor *x)
{
    struct tensor slope = m->leak;
    slope.dims[0] = x->dims[3];
    OP(program_backend(p), act, .out = x, .x = x, .slope = &slope);
}

/* x + 0.2 y */
static struct tensor residual(const struct upscaler *m, struct program *p, const struct tensor *x,
                              const struct tensor *y)
{
    return nn_conv1x1(p, &m->residual, y, x);
}

/* Each convolution sees what all before it made. */
static struct tensor dense(const struct upscaler *m, struct program *p, const struct rdb *b,
                           const struct tensor *x)
{
    struct tensor seen = *x, y;
    for (int k = 0; k < 4; k++) {
        y = nn_conv(p, &b->conv[k], &seen, NULL);
        leaky(m, p, &y);
        struct tensor both =
            PROGRAM_TENSOR(p, x->dims[0], x->dims[1], x->dims[2], seen.dims[3] + y.dims[3]);
        OP(program_backend(p), concat, .out = &both, .a = &seen, .b = &y);
        seen = both;
    }
    y = nn_conv(p, &b->conv[4], &seen, NULL);
    return residual(m, p, x, &y);
}

static struct tensor record_rrdb(const struct upscaler *m, struct program *p, struct tensor x)
{
    const struct tensor first = x = nn_conv(p, &m->first, &x, NULL);
    for (int i = 0; i < m->n_blocks; i++) {
        struct tensor y = x;
        for (int k = 0; k < 3; k++)
            y = dense(m, p, &m->blocks[3 * i + k], &y);
        x = residual(m, p, &x, &y);
    }
    x = nn_conv(p, &m->body, &x, &(struct nn_conv_with){.add = &first});
    for (int i = 0; i < m->n_ups; i++) {
        x = nn_conv(p, &m->up[i], &x, &(struct nn_conv_with){.upsample = true});
        leaky(m, p, &x);
    }
    x = nn_conv(p, &m->hr, &x, NULL);
    leaky(m, p, &x);
    return x;
}

static struct tensor record_compact(const struct upscaler *m, struct program *p, struct tensor x)
{
    for (int i = 0; i < m->n_blocks; i++) {
        x = nn_conv(p, &m->convs[i], &x, NULL);
        OP(program_backend(p), act, .out = &x, .x = &x, .slope = &m->slopes[i]);
    }
    return x;
}

/* ---- a picture in tiles ---- */

struct pass {
    struct upscaler_pass pub; /* first */
    struct upscaler *m;
    struct program *p;
    struct tiles_axis y, x; /* in blocks of unshuffle x unshuffle pixels */
    int at;                 /* tile of this run, in rows */
    struct tensor in, out;
    float *host_in, *host_out; /* where the host fills and reads them */
};

static void record(struct program *p, void *arg)
{
    struct pass *u = arg;
    const struct upscaler *m = u->m;
    u->in = PROGRAM_PINNED(p, 1, u->y.tile, u->x.tile, 3 * m->unshuffle * m->unshuffle);
    struct tensor x = m->compact ? record_compact(m, p, u->in) : record_rrdb(m, p, u->in);
    u->out = PROGRAM_PINNED(p, 1, x.dims[1], x.dims[2], m->last.c_out);
    nn_emit_conv(p, &(struct op_conv2d){.out = &u->out,
                                        .x = &x,
                                        .w = m->last.w,
                                        .bias = &m->last.bias,
                                        .kernel = 3,
                                        .stride = 1,
                                        .pad_before = 1,
                                        .pad_after = 1});
}

/* A side that is no whole number of blocks is mirrored at its end. */
static int mirror(int at, int n)
{
    at = at < n ? at : 2 * n - 2 - at;
    return at > 0 ? at : 0;
}

static float pixel(const struct pass *u, int y, int x, int k)
{
    const int row = mirror(y, u->pub.height), column = mirror(x, u->pub.width);
    return (float)
               u->pub.rgb[((size_t)row * (size_t)u->pub.width + (size_t)column) * 3 + (size_t)k] /
           255.0f;
}

static void fill_tile(struct pass *u)
{
    const int f = u->m->unshuffle;
    const int y0 = tiles_begin(&u->y, u->at / u->x.n), x0 = tiles_begin(&u->x, u->at % u->x.n);
    float *in = u->host_in;
    for (int y = 0; y < u->y.tile; y++)
        for (int x = 0; x < u->x.tile; x++)
            for (int k = 0; k < 3; k++)
                for (int i = 0; i < f * f; i++)
                    *in++ = pixel(u, (y0 + y) * f + i / f, (x0 + x) * f + i % f, k);
}

static uint8_t to_byte(float v)
{
    v = v < 1 ? v : 1;
    v = v > 0 ? v : 0; /* NaN too */
    return (uint8_t)rintf(v * 255.0f);
}

/* The tile's own pixels; (y, x) of the result. */
static void take_pixel(const struct pass *u, int y, int x)
{
    const struct upscaler *m = u->m;
    const int s = m->info.scale, step = m->compact ? s : 1, f = m->unshuffle;
    const int y0 = tiles_begin(&u->y, u->at / u->x.n) * f * s;
    const int x0 = tiles_begin(&u->x, u->at % u->x.n) * f * s;
    const float *from =
        u->host_out +
        (size_t)((y - y0) / step * (int)u->out.dims[2] + (x - x0) / step) * (size_t)u->out.dims[3];
    uint8_t *to = u->pub.out + ((size_t)y * (size_t)(u->pub.width * s) + (size_t)x) * 3;
    for (int k = 0; k < 3; k++) {
        const float v =
            m->compact ? from[(k * s + y % s) * s + x % s] + pixel(u, y / s, x / s, k) : from[k];
        to[k] = to_byte(v);
    }
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

static void take_tile(const struct pass *u)
{
    const int iy = u->at / u->x.n, ix = u->at % u->x.n, s = u->m->info.scale;
    const int cell = u->m->unshuffle * s;
    const int y_end = least(tiles_border(&u->y, iy + 1) * cell, u->pub.height * s);
    const int x_end = least(tiles_border(&u->x, ix + 1) * cell, u->pub.width * s);
    for (int y = tiles_border(&u->y, iy) * cell; y < y_end; y++)
        for (int x = tiles_border(&u->x, ix) * cell; x < x_end; x++)
            take_pixel(u, y, x);
}

static size_t out_floats(const struct pass *u)
{
    return (size_t)(u->out.dims[1] * u->out.dims[2] * u->out.dims[3]);
}

static int run_pass(struct image_unit *unit, int64_t until_us, struct err *e)
{
    struct pass *u = (struct pass *)unit;
    if (program_position(u->p) == 0)
        fill_tile(u);
    int rc = program_run(u->p, until_us, e);
    if (rc != 0)
        return rc;
    u->pub.broken |= !finite_all(u->host_out, out_floats(u));
    take_tile(u);
    u->at = (u->at + 1) % (u->y.n * u->x.n);
    return u->at > 0;
}

static void restart_pass(struct image_unit *unit)
{
    struct pass *u = (struct pass *)unit;
    program_restart(u->p);
    u->at = 0;
}

static void close_pass(struct image_unit *unit)
{
    struct pass *u = (struct pass *)unit;
    program_close(u->p);
    free(u);
}

static int blocks_of(const struct upscaler *m, int pixels)
{
    return (pixels + m->unshuffle - 1) / m->unshuffle;
}

/* So many tiles as one of this size needs, but not larger than that number wants. */
static struct tiles_axis axis_of(int size, int tile, int margin)
{
    const int n = tiles_axis(size, tile, tile - 2 * margin).n;
    const int enough = (size + (n - 1) * 2 * margin + n - 1) / n;
    return tiles_axis(size, enough, enough - 2 * margin);
}

static void set_tiles(struct pass *u, int tile)
{
    const int margin = MARGIN / u->m->unshuffle < tile / 4 ? MARGIN / u->m->unshuffle : tile / 4;
    u->y = axis_of(blocks_of(u->m, u->pub.height), tile, margin);
    u->x = axis_of(blocks_of(u->m, u->pub.width), tile, margin);
}

/* The largest tiles that fit. */
static size_t plan(struct pass *u, struct err *e)
{
    static const int tiles[] = {384, 256, 192, 128, 96, 64, 48, 32, 16};
    const int s = u->m->info.scale, w = u->pub.width, h = u->pub.height;
    if (w < 1 || h < 1 || w > UPSCALER_SIDE_MAX / s || h > UPSCALER_SIDE_MAX / s) {
        err_set(e, ERR_TOOBIG, "a picture of %dx%d, made %d times as large: sides end at %d", w, h,
                s, UPSCALER_SIDE_MAX);
        return 0;
    }
    const int side = least(blocks_of(u->m, h > w ? h : w), TILE_MAX);
    set_tiles(u, side);
    size_t bytes = program_bytes(u->m->store.be, record, u, e);
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles && bytes > u->m->tile_bytes; i++) {
        if (tiles[i] >= side)
            continue;
        set_tiles(u, tiles[i]);
        bytes = program_bytes(u->m->store.be, record, u, e);
    }
    return bytes;
}

size_t upscaler_pass_bytes(struct upscaler *m, int width, int height, struct err *e)
{
    struct pass u = {.m = m, .pub = {.width = width, .height = height}};
    return plan(&u, e);
}

int upscaler_pass_open(struct upscaler_pass **out, struct upscaler *m, int width, int height,
                       struct err *e)
{
    struct err why = {0};
    struct pass *u = xcalloc(1, sizeof *u);
    u->m = m;
    u->pub.width = width;
    u->pub.height = height;
    int rc = plan(u, &why) > 0 ? 0 : why.code;
    if (rc != 0)
        err_set(e, rc, "%s", why.msg);
    else
        rc = program_open(&u->p, m->store.be, record, u, e);
    if (rc == 0) {
        u->host_in = program_host(u->p, &u->in, PROGRAM_IN);
        u->host_out = program_host(u->p, &u->out, PROGRAM_OUT);
        if (u->host_in == NULL || u->host_out == NULL)
            rc = err_set(e, ERR_NOMEM, "no memory for what goes to the device");
    }
    if (rc != 0) {
        close_pass(&u->pub.unit);
        return rc;
    }
    u->pub.unit = (struct image_unit){.bytes = program_memory(u->p),
                                      .run = run_pass,
                                      .restart = restart_pass,
                                      .close = close_pass};
    *out = &u->pub;
    return 0;
}
