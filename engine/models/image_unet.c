/* The UNet's call for rows of a batch as a unit, whole or in parts.
 *
 * What rows bring along besides their latents (residuals, what a step cache has of them) is copied in before the
 * first op and out after the last one, row by row, so that a run can stop between two rows. */
#include <stdlib.h>

#include "base/arena.h"
#include "base/clock.h"
#include "engine/models/image_model_int.h"

struct unet_unit {
    struct image_unet pub; /* first */
    struct image_model *m;
    struct program *p;
    struct unet_pass pass;
    struct nn_lora_sites sites;
    struct image_unet_want want;
    int n_in, n_out; /* rows whose blocks were copied in, out in this run */
};

static void record_unet(struct program *p, void *arg)
{
    struct unet_unit *u = arg;
    const struct image_unet_want *w = &u->want;
    if (u->m->adapters)
        nn_lora_begin(&u->sites, p, w->n);
    unet_pass_record(u->m->unet, p,
                     &(struct unet_want){.size = {w->n, w->h, w->w},
                                         .steered = w->steered,
                                         .parts = w->parts,
                                         .branch = w->branch,
                                         .pairs = w->pairs},
                     &u->pass);
}

static int set_row(struct unet_unit *u, int i, struct err *e)
{
    const struct image_row *r = &u->pub.rows[i];
    int rc = image_check_tokens(r->n_tokens, e);
    if (rc != 0)
        return rc;
    if (u->m->info.enlarges && (r->level < 0 || r->level > u->m->info.max_level))
        return err_set(e, ERR_INVALID, "noise level %d; 0 to %d are possible", r->level,
                       u->m->info.max_level);
    if (r->kv == NULL || (u->m->info.pooled_dim > 0 && r->pooled == NULL))
        return err_set(e, ERR_INVALID, "row %d has no prompt", i);
    unet_pass_set(u->m->unet, &u->pass, i,
                  &(struct unet_row){.kv = r->kv,
                                     .n_tokens = r->n_tokens,
                                     .timestep = r->timestep,
                                     .guidance = r->guidance,
                                     .class = r->level,
                                     .pooled = r->pooled,
                                     .time_ids = r->time_ids});
    if (u->m->adapters)
        image_adapter_set(&u->sites, i, r->adapters, false);
    return 0;
}

/* What row i brings along, into the pass. */
static void copy_in(struct unet_unit *u, int i)
{
    const struct image_row *r = &u->pub.rows[i];
    if (u->want.steered)
        unet_pass_set_residuals(&u->pass, i, r->residuals);
    if (!(u->want.parts & IMAGE_HEAD) && r->head != NULL)
        unet_pass_copy_head(&u->pass, i, r->head, PROGRAM_IN);
    if ((u->want.parts & (IMAGE_DEEP | IMAGE_TAIL)) == IMAGE_TAIL && r->deep != NULL)
        unet_pass_copy_deep(&u->pass, i, r->deep, PROGRAM_IN);
}

/* What it is given. */
static void copy_out(struct unet_unit *u, int i)
{
    const struct image_row *r = &u->pub.rows[i];
    if (!(u->want.parts & IMAGE_TAIL) && r->head != NULL)
        unet_pass_copy_head(&u->pass, i, r->head, PROGRAM_OUT);
    if (u->want.parts & IMAGE_DEEP && u->want.branch >= 0 && r->deep != NULL)
        unet_pass_copy_deep(&u->pass, i, r->deep, PROGRAM_OUT);
}

static int run_unet(struct image_unit *unit, int64_t until_us, struct err *e)
{
    struct unet_unit *u = (struct unet_unit *)unit;
    int rc = 0;
    for (int i = 0; i < u->pub.n && rc == 0 && u->n_in == 0; i++)
        rc = set_row(u, i, e);
    while (rc == 0 && u->n_in < u->pub.n) {
        copy_in(u, u->n_in++);
        if (clock_us() >= until_us)
            return 1;
    }
    if (rc == 0 && u->n_out == 0)
        rc = program_run(u->p, until_us, e);
    if (rc == 1)
        return 1;
    while (rc == 0 && u->n_out < u->pub.n) {
        copy_out(u, u->n_out++);
        if (u->n_out < u->pub.n && clock_us() >= until_us)
            return 1;
    }
    u->n_in = u->n_out = 0;
    return rc;
}

void image_unet_leave(struct image_unet *unit, int row, int with)
{
    struct unet_unit *u = (struct unet_unit *)unit;
    struct image_row *r = &u->pub.rows[row];
    *r = u->pub.rows[with];
    r->adapters = NULL;
    r->residuals = NULL;
    r->head = r->deep = NULL;
    unet_pass_set_kv(&u->pass, row, r->kv, r->n_tokens);
    if (u->m->adapters)
        image_adapter_set(&u->sites, row, NULL, false);
}

static void restart_unet(struct image_unit *unit)
{
    struct unet_unit *u = (struct unet_unit *)unit;
    u->n_in = u->n_out = 0;
    program_restart(u->p);
}

static void close_unet(struct image_unit *unit)
{
    struct unet_unit *u = (struct unet_unit *)unit;
    program_close(u->p);
    free(u->pub.rows);
    free(u);
}

static int check_want(const struct image_model *m, const struct image_unet_want *w, struct err *e)
{
    const int multiple = m->info.multiple / m->info.scale;
    if (w->n < 1 || w->n > 4096 || w->h < 1 || w->w < 1 || w->h > 4096 || w->w > 4096)
        return err_set(e, ERR_TOOBIG, "a batch of %d latents of %d x %d", w->n, w->w, w->h);
    if (w->h % multiple != 0 || w->w % multiple != 0)
        return err_set(e, ERR_INVALID, "width and height must be multiples of %d",
                       m->info.multiple);
    if (w->branch >= image_unet_n_skips(m) || (w->parts != IMAGE_WHOLE && w->branch < 0))
        return err_set(e, ERR_INVALID, "branch %d of a UNet with %d", w->branch,
                       image_unet_n_skips(m));
    if (w->pairs && (w->n % 2 != 0 || w->parts != IMAGE_WHOLE || !m->info.has_pairs))
        return err_set(e, ERR_INVALID, "no pass of %d rows in pairs", w->n);
    return 0;
}

int image_unet_row(const struct image_unet *u, int i)
{
    return ((const struct unet_unit *)u)->want.pairs ? i % 2 * (u->n / 2) + i / 2 : i;
}

int image_unet_open_want(struct image_unet **out, struct image_model *m,
                         const struct image_unet_want *want, struct err *e)
{
    int rc = check_want(m, want, e);
    if (rc != 0)
        return rc;
    struct unet_unit *u = xcalloc(1, sizeof *u);
    u->m = m;
    u->want = *want;
    u->pub = (struct image_unet){.n = want->n, .h = want->h, .w = want->w};
    u->pub.rows = xcalloc((size_t)want->n, sizeof *u->pub.rows);
    rc = program_open(&u->p, m->be, record_unet, u, e);
    if (rc != 0) {
        close_unet(&u->pub.unit);
        return rc;
    }
    u->pub.unit = (struct image_unit){.bytes = program_memory(u->p),
                                      .run = run_unet,
                                      .restart = restart_unet,
                                      .close = close_unet};
    const bool head = want->parts & IMAGE_HEAD, tail = want->parts & IMAGE_TAIL;
    u->pub.x = head ? program_host(u->p, &u->pass.x, PROGRAM_IN) : NULL;
    u->pub.out = tail ? program_host(u->p, &u->pass.out, PROGRAM_OUT) : NULL;
    *out = &u->pub;
    return (u->pub.x != NULL || !head) && (u->pub.out != NULL || !tail)
               ? 0
               : image_no_host_memory(&u->pub.unit, e);
}

int image_unet_open(struct image_unet **out, struct image_model *m, int n, int h, int w,
                    struct err *e)
{
    const struct image_unet_want want = {n, h, w, false, IMAGE_WHOLE, -1, false};
    return image_unet_open_want(out, m, &want, e);
}

size_t image_unet_bytes_want(struct image_model *m, const struct image_unet_want *want,
                             struct err *e)
{
    struct unet_unit u = {.m = m, .want = *want};
    return check_want(m, want, e) == 0 ? program_bytes(m->be, record_unet, &u, e) : 0;
}

size_t image_unet_bytes(struct image_model *m, int n, int h, int w, struct err *e)
{
    const struct image_unet_want want = {n, h, w, false, IMAGE_WHOLE, -1, false};
    return image_unet_bytes_want(m, &want, e);
}

int image_unet_n_skips(const struct image_model *m)
{
    struct unet_places places;
    unet_places(&m->unet->c, &places);
    return places.n_skips;
}

size_t image_unet_head_floats(const struct image_model *m, int branch, int h, int w)
{
    struct unet_places places;
    unet_places(&m->unet->c, &places);
    return unet_places_floats(&places, branch + 1, h, w);
}

size_t image_unet_deep_floats(const struct image_model *m, int branch, int h, int w)
{
    struct unet_places places;
    unet_places(&m->unet->c, &places);
    const int shrink = places.at[branch].shrink;
    return (size_t)(unet_place_side(h, shrink) * unet_place_side(w, shrink) *
                    unet_deep_channels(m->unet, branch));
}

int image_unet_window(struct image_model *m, int h, int w, bool wanted)
{
    const int own = m->info.default_width / m->info.scale;
    const int step = 1 << (m->unet->c.n_stages - 1); /* whole cells at every depth */
    int side = own / step * step;
    if (h <= own && w <= own)
        return 0;
    size_t bytes = image_unet_bytes(m, 1, h, w, NULL);
    if (bytes == 0 || (!wanted && bytes <= m->vae_bytes))
        return 0;
    while (side > step && (bytes = image_unet_bytes(m, 1, side, side, NULL)) > m->vae_bytes)
        side = side / 2 / step * step;
    return side < step ? step : side;
}
