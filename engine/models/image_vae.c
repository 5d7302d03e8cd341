/* Decoding and encoding of pictures, whole or in tiles.
 *
 * A picture whose pass would need more than vae_bytes is made of overlapping tiles of one size, spread evenly;
 * between two neighbours the result goes over from one to the other on a straight line, in the middle of
 * their overlap.  The size of the tiles depends on the picture's size and on vae_bytes, never on what
 * else is in memory, so a picture has the same bits at any time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "engine/models/image_model_int.h"
#include "engine/models/tiles.h"

#define LOGVAR_MIN (-30.0f)
#define LOGVAR_MAX 20.0f

enum { MAX_SIDE = 4096 }; /* of a latent */

struct vae_unit {
    struct image_vae pub; /* first */
    struct image_model *m;
    enum image_vae_kind kind;
    const struct taesd *tiny; /* NULL: the model's vae */
    struct program *p;
    struct tiles_axis y, x;               /* in latents */
    int at;                               /* tile of this run, in rows */
    struct tensor in, out;                /* of the program: one tile */
    float *host_in, *host_out;            /* where the host fills and reads them */
    int scale_in, scale_out, c_in, c_out; /* cells of a latent's side; channels */
    float *from, *to;
    float *buffer; /* latent, picture, moments */
};

/* ---- before and after the network ---- */

static float prepare(const struct vae_unit *u, float v)
{
    const struct image_info *info = &u->m->info;
    if (u->kind == IMAGE_ENCODE)
        return u->tiny != NULL ? (v + 1) / 2 : v;
    if (u->kind == IMAGE_DECODE)
        v = v / info->latent_scale;
    else
        v /= taesd_info(u->tiny)->scaling;
    return u->tiny != NULL ? tanhf(v / 3) * 3 : v;
}

/* One cell's channels of the result. */
static void finish(const struct vae_unit *u, float *to, const float *from)
{
    const int n = (int)u->out.dims[3];
    for (int i = 0; i < n; i++) {
        float v = from[i];
        if (u->kind != IMAGE_ENCODE)
            v = u->tiny != NULL ? v * 2 - 1 : v;
        else if (u->tiny == NULL && i >= n / 2)
            v = v < LOGVAR_MIN ? LOGVAR_MIN : v > LOGVAR_MAX ? LOGVAR_MAX : v;
        to[i] = v;
    }
    for (int i = n; i < u->c_out; i++)
        to[i] = LOGVAR_MIN; /* a tiny encoder has no variance */
}

static void fill_tile(struct vae_unit *u)
{
    const int y0 = tiles_begin(&u->y, u->at / u->x.n), x0 = tiles_begin(&u->x, u->at % u->x.n);
    const int s = u->scale_in, c = u->c_in;
    const int h = u->y.tile * s, w = u->x.tile * s;
    float *in = u->host_in;
    for (int y = 0; y < h; y++) {
        const float *row =
            u->from +
            ((size_t)(y0 * s + y) * (size_t)(u->x.size * s) + (size_t)(x0 * s)) * (size_t)c;
        for (int i = 0; i < w * c; i++)
            *in++ = prepare(u, row[i]);
    }
}

static void take_tile(struct vae_unit *u)
{
    const int iy = u->at / u->x.n, ix = u->at % u->x.n;
    const int y0 = tiles_begin(&u->y, iy), x0 = tiles_begin(&u->x, ix), s = u->scale_out;
    const int h = u->y.tile * s, w = u->x.tile * s;
    const float *out = u->host_out;
    float cell[256];
    for (int y = 0; y < h; y++) {
        const float share_y = tiles_share(&u->y, iy, y0 * s + y, s);
        float *row = u->to + ((size_t)(y0 * s + y) * (size_t)(u->x.size * s) + (size_t)(x0 * s)) *
                                 (size_t)u->c_out;
        for (int x = 0; x < w; x++, row += u->c_out, out += u->out.dims[3]) {
            const float part = share_y * tiles_share(&u->x, ix, x0 * s + x, s);
            finish(u, cell, out);
            for (int i = 0; i < u->c_out && part > 0; i++)
                row[i] += part * cell[i];
        }
    }
}

/* ---- the unit ---- */

/* SDXL's and the upscaler's leave the range of f16, so theirs has f32 instead, unless the config says that it was
 * mended (force_upcast false, as in sdxl-vae-fp16-fix). */
static enum dtype type_of(const struct image_model *m)
{
    const enum dtype type = m->be->activations;
    const bool far = m->info.enlarges || m->info.pooled_dim > 0;
    return type == DTYPE_F16 && far && vae_info(m->vae)->force_upcast ? DTYPE_F32 : type;
}

static void record_vae(struct program *p, void *arg)
{
    struct vae_unit *u = arg;
    if (u->tiny == NULL)
        program_use(p, type_of(u->m));
    u->in = PROGRAM_PINNED(p, 1, (int64_t)u->y.tile * u->scale_in, (int64_t)u->x.tile * u->scale_in,
                           u->c_in);
    if (u->kind == IMAGE_ENCODE)
        u->out =
            u->tiny != NULL ? taesd_encode(u->tiny, p, &u->in) : vae_encode(u->m->vae, p, &u->in);
    else
        u->out =
            u->tiny != NULL ? taesd_decode(u->tiny, p, &u->in) : vae_decode(u->m->vae, p, &u->in);
}

static int run_vae(struct image_unit *unit, int64_t until_us, struct err *e)
{
    struct vae_unit *u = (struct vae_unit *)unit;
    const size_t cells = (size_t)(u->y.size * u->scale_out) * (size_t)(u->x.size * u->scale_out);
    if (program_position(u->p) == 0) {
        if (u->at == 0)
            memset(u->to, 0, cells * (size_t)u->c_out * sizeof(float));
        fill_tile(u);
    }
    int rc = program_run(u->p, until_us, e);
    if (rc != 0)
        return rc;
    take_tile(u);
    u->at = (u->at + 1) % (u->y.n * u->x.n);
    return u->at > 0;
}

static void restart_vae(struct image_unit *unit)
{
    struct vae_unit *u = (struct vae_unit *)unit;
    program_restart(u->p);
    u->at = 0;
}

static void close_vae(struct image_unit *unit)
{
    struct vae_unit *u = (struct vae_unit *)unit;
    program_close(u->p);
    free(u->buffer);
    free(u);
}

/* Everything but the memory: what the unit is, and the largest tiles that fit. */
static size_t plan_vae(struct vae_unit *u, struct image_model *m, const int size[2], struct err *e)
{
    static const int tiles[] = {128, 96, 64, 48, 32, 24, 16};
    const int latent = m->info.latent_channels, scale = m->info.scale;
    u->m = m;
    u->tiny = u->kind == IMAGE_PREVIEW ? m->preview : m->tiny;
    if ((u->kind == IMAGE_PREVIEW && m->preview == NULL) ||
        (u->kind == IMAGE_ENCODE && !m->info.has_encoder)) {
        err_set(e, ERR_UNSUPPORTED, "this model has no %s",
                u->kind == IMAGE_ENCODE ? "encoder" : "previews");
        return 0;
    }
    if (size[0] < 1 || size[1] < 1 || size[0] > MAX_SIDE || size[1] > MAX_SIDE) {
        err_set(e, ERR_TOOBIG, "a latent of %d x %d", size[1], size[0]);
        return 0;
    }
    const bool encode = u->kind == IMAGE_ENCODE;
    u->scale_in = encode ? scale : 1;
    u->scale_out = encode ? 1 : scale;
    u->c_in = encode ? 3 : latent;
    u->c_out = encode ? 2 * latent : 3;
    u->y = tiles_axis(size[0], size[0], 1);
    u->x = tiles_axis(size[1], size[1], 1);
    size_t bytes = program_bytes(m->be, record_vae, u, e);
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles && bytes > m->vae_bytes; i++) {
        if (tiles[i] >= size[0] && tiles[i] >= size[1])
            continue;
        u->y = tiles_axis(size[0], tiles[i], tiles[i] * 3 / 4);
        u->x = tiles_axis(size[1], tiles[i], tiles[i] * 3 / 4);
        bytes = program_bytes(m->be, record_vae, u, e);
    }
    return bytes;
}

static size_t buffer_floats(const struct vae_unit *u)
{
    const size_t scale = (size_t)u->m->info.scale, latent = (size_t)u->m->info.latent_channels;
    return (size_t)u->y.size * (size_t)u->x.size *
           ((u->kind == IMAGE_ENCODE ? 2 * latent : latent) + scale * scale * 3);
}

int image_vae_open(struct image_vae **out, struct image_model *m, enum image_vae_kind kind, int h,
                   int w, struct err *e)
{
    struct vae_unit *u = xcalloc(1, sizeof *u);
    struct err why = {0};
    u->kind = kind;
    int rc = plan_vae(u, m, (const int[2]){h, w}, &why) > 0 ? 0 : why.code;
    if (rc != 0) {
        err_set(e, rc, "%s", why.msg);
    } else {
        rc = program_open(&u->p, m->be, record_vae, u, e);
        u->buffer = rc == 0 ? mem_try(buffer_floats(u), sizeof(float)) : NULL;
        u->host_in = rc == 0 ? program_host(u->p, &u->in, PROGRAM_IN) : NULL;
        u->host_out = rc == 0 ? program_host(u->p, &u->out, PROGRAM_OUT) : NULL;
        if (rc == 0 && (u->buffer == NULL || u->host_in == NULL || u->host_out == NULL))
            rc = err_set(e, ERR_NOMEM, "no memory for a picture");
    }
    if (rc != 0) {
        close_vae(&u->pub.unit);
        return rc;
    }
    const size_t cells = (size_t)h * (size_t)w * (size_t)m->info.latent_channels;
    float *small = u->buffer, *large = small + (kind == IMAGE_ENCODE ? 2 : 1) * cells;
    u->from = kind == IMAGE_ENCODE ? large : small;
    u->to = kind == IMAGE_ENCODE ? small : large;
    u->pub.unit =
        (struct image_unit){.bytes = program_memory(u->p) + buffer_floats(u) * sizeof(float),
                            .run = run_vae,
                            .restart = restart_vae,
                            .close = close_vae};
    u->pub.h = h;
    u->pub.w = w;
    u->pub.latent = kind == IMAGE_ENCODE ? NULL : small;
    u->pub.moments = kind == IMAGE_ENCODE ? small : NULL;
    u->pub.picture = large;
    *out = &u->pub;
    return 0;
}

size_t image_vae_bytes(struct image_model *m, enum image_vae_kind kind, int h, int w, struct err *e)
{
    struct vae_unit u = {.kind = kind};
    const size_t bytes = plan_vae(&u, m, (const int[2]){h, w}, e);
    return bytes > 0 ? bytes + buffer_floats(&u) * sizeof(float) : 0;
}
