/* Interpolation of latents, and resizing of pixels in pieces. */
#include "engine/enlarge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/image.h"

/* ---- latents ---- */

enum { TAPS = 4 };

/* The places of one axis that make a place of the result, and how much of each. */
struct taps {
    int at[TAPS];
    float weight[TAPS];
};

/* Keys' cubic convolution with a = -0.75, at distance t of the second of four places. */
static void cubic(float weight[TAPS], float t)
{
    const float a = -0.75f;
    for (int i = 0; i < TAPS; i++) {
        const float x = fabsf(t - (float)(i - 1));
        weight[i] = x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1
                           : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    }
}

static int clamp(int v, int n)
{
    return v < 0 ? 0 : v >= n ? n - 1 : v;
}

static struct taps taps_of(int at, int n_to, int n_from, enum image_enlarge how)
{
    const float scale = (float)n_from / (float)n_to;
    struct taps t = {.weight = {1}};
    if (how == IMAGE_LATENT_NEAREST) {
        t.at[0] = clamp((int)floorf((float)at * scale), n_from);
        return t;
    }
    float f = ((float)at + 0.5f) * scale - 0.5f;
    if (how != IMAGE_LATENT_BICUBIC && f < 0)
        f = 0;
    const int first = (int)floorf(f);
    const float part = f - (float)first;
    if (how == IMAGE_LATENT_BICUBIC) {
        for (int i = 0; i < TAPS; i++)
            t.at[i] = clamp(first - 1 + i, n_from);
        cubic(t.weight, part);
    } else {
        t.at[0] = clamp(first, n_from);
        t.at[1] = clamp(first + 1, n_from);
        t.weight[0] = 1 - part;
        t.weight[1] = part;
    }
    return t;
}

void enlarge_latent(float *out, const struct stage_gift *g, const struct noise_shape *to,
                    enum image_enlarge how)
{
    for (int y = 0; y < to->h; y++) {
        const struct taps ty = taps_of(y, to->h, g->h, how);
        for (int x = 0; x < to->w; x++) {
            const struct taps tx = taps_of(x, to->w, g->w, how);
            for (int k = 0; k < to->c; k++) {
                float sum = 0;
                for (int i = 0; i < TAPS; i++) {
                    float row = 0;
                    for (int j = 0; j < TAPS && ty.weight[i] != 0; j++)
                        row += tx.weight[j] * g->latent[(ty.at[i] * g->w + tx.at[j]) * to->c + k];
                    sum += ty.weight[i] * row;
                }
                *out++ = sum;
            }
        }
    }
}

/* ---- pixels ---- */

struct unit {
    struct enlarge_unit pub; /* first */
    struct image_resizer *r;
};

static int run(struct image_unit *unit, int64_t until_us, struct err *e)
{
    struct unit *u = (struct unit *)unit;
    (void)e;
    do {
        if (!image_resizer_run(u->r, u->pub.in, u->pub.out))
            return 0;
    } while (clock_us() < until_us);
    return 1;
}

static void restart(struct image_unit *unit)
{
    image_resizer_restart(((struct unit *)unit)->r);
}

static void close_unit(struct image_unit *unit)
{
    image_resizer_close(((struct unit *)unit)->r);
    free(unit);
}

size_t enlarge_bytes(const int from[2], const int to[2])
{
    return image_resizer_bytes(from, to, IMAGE_LANCZOS);
}

int enlarge_open(struct enlarge_unit **out, const int from[2], const int to[2], struct err *e)
{
    struct unit *u = xcalloc(1, sizeof *u);
    int rc = image_resizer_open(&u->r, from, to, IMAGE_LANCZOS, e);
    if (rc) {
        free(u);
        return rc;
    }
    u->pub.unit = (struct image_unit){
        .bytes = enlarge_bytes(from, to), .run = run, .restart = restart, .close = close_unit};
    *out = &u->pub;
    return 0;
}
