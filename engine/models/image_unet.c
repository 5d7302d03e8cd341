/* The UNet's call for rows of a batch as a unit. */
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
    bool steered;
    int n_residuals; /* rows whose residuals were read in this run */
};

static void record_unet(struct program *p, void *arg)
{
    struct unet_unit *u = arg;
    const int64_t size[3] = {u->pub.n, u->pub.h, u->pub.w};
    if (u->m->adapters)
        nn_lora_begin(&u->sites, p, u->pub.n);
    if (u->steered)
        unet_pass_record_steered(u->m->unet, p, size, &u->pass);
    else
        unet_pass_record(u->m->unet, p, size, &u->pass);
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

static int run_unet(struct image_unit *unit, int64_t until_us, struct err *e)
{
    struct unet_unit *u = (struct unet_unit *)unit;
    int rc = 0;
    for (int i = 0; i < u->pub.n && rc == 0 && program_position(u->p) == 0; i++)
        rc = set_row(u, i, e);
    while (rc == 0 && u->steered && u->n_residuals < u->pub.n) {
        unet_pass_set_residuals(&u->pass, u->n_residuals, u->pub.rows[u->n_residuals].residuals);
        u->n_residuals++;
        if (clock_us() >= until_us)
            return 1;
    }
    rc = rc == 0 ? program_run(u->p, until_us, e) : rc;
    if (rc != 1)
        u->n_residuals = 0;
    return rc;
}

void image_unet_leave(struct image_unet *unit, int row, int with)
{
    struct unet_unit *u = (struct unet_unit *)unit;
    struct image_row *r = &u->pub.rows[row];
    *r = u->pub.rows[with];
    r->adapters = NULL;
    r->residuals = NULL;
    unet_pass_set_kv(&u->pass, row, r->kv, r->n_tokens);
    if (u->m->adapters)
        image_adapter_set(&u->sites, row, NULL, false);
}

static void restart_unet(struct image_unit *unit)
{
    struct unet_unit *u = (struct unet_unit *)unit;
    u->n_residuals = 0;
    program_restart(u->p);
}

static void close_unet(struct image_unit *unit)
{
    struct unet_unit *u = (struct unet_unit *)unit;
    program_close(u->p);
    free(u->pub.rows);
    free(u);
}

static int check_size(const struct image_model *m, int n, int h, int w, struct err *e)
{
    const int multiple = m->info.multiple / m->info.scale;
    if (n < 1 || n > 4096 || h < 1 || w < 1 || h > 4096 || w > 4096)
        return err_set(e, ERR_TOOBIG, "a batch of %d latents of %d x %d", n, w, h);
    if (h % multiple != 0 || w % multiple != 0)
        return err_set(e, ERR_INVALID, "width and height must be multiples of %d",
                       m->info.multiple);
    return 0;
}

/* pub has the sizes. */
static int open_unet(struct image_unet **out, struct image_model *m, struct image_unet pub,
                     bool steered, struct err *e)
{
    int rc = check_size(m, pub.n, pub.h, pub.w, e);
    if (rc != 0)
        return rc;
    struct unet_unit *u = xcalloc(1, sizeof *u);
    u->m = m;
    u->pub = pub;
    u->steered = steered;
    u->pub.rows = xcalloc((size_t)pub.n, sizeof *u->pub.rows);
    rc = program_open(&u->p, m->be, record_unet, u, e);
    if (rc != 0) {
        close_unet(&u->pub.unit);
        return rc;
    }
    u->pub.unit = (struct image_unit){.bytes = program_memory(u->p),
                                      .run = run_unet,
                                      .restart = restart_unet,
                                      .close = close_unet};
    u->pub.x = program_host(u->p, &u->pass.x, PROGRAM_IN);
    u->pub.out = program_host(u->p, &u->pass.out, PROGRAM_OUT);
    *out = &u->pub;
    return u->pub.x != NULL && u->pub.out != NULL ? 0 : image_no_host_memory(&u->pub.unit, e);
}

int image_unet_open(struct image_unet **out, struct image_model *m, int n, int h, int w,
                    struct err *e)
{
    return open_unet(out, m, (struct image_unet){.n = n, .h = h, .w = w}, false, e);
}

int image_unet_open_steered(struct image_unet **out, struct image_model *m, int n, int h, int w,
                            struct err *e)
{
    return open_unet(out, m, (struct image_unet){.n = n, .h = h, .w = w}, true, e);
}

size_t image_unet_bytes(struct image_model *m, int n, int h, int w, struct err *e)
{
    struct unet_unit u = {.m = m, .pub = {.n = n, .h = h, .w = w}};
    return check_size(m, n, h, w, e) == 0 ? program_bytes(m->be, record_unet, &u, e) : 0;
}

size_t image_unet_bytes_steered(struct image_model *m, int n, int h, int w, struct err *e)
{
    struct unet_unit u = {.m = m, .pub = {.n = n, .h = h, .w = w}, .steered = true};
    return check_size(m, n, h, w, e) == 0 ? program_bytes(m->be, record_unet, &u, e) : 0;
}

int image_unet_window(struct image_model *m, int h, int w, bool wanted)
{
    const int own = m->info.default_width / m->info.scale, step = m->info.multiple / m->info.scale;
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
