/* Canny's edges, a Gaussian blur, and a picture without its details. */
#include "base/image_filter.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

/* ---- edges ---- */

enum { EDGE_NO, EDGE_MAYBE, EDGE_YES };

/* Tangents of 22.5 and 67.5 degrees are 2^-15 times this, and this + 2. */
#define TAN_22      13573
#define TAN_SHIFT   15
#define BLUR_RADIUS 192 /* three times the largest sigma */

/* Planes of the picture with a border of one: magnitudes there are 0. */
struct edges {
    int width, height, stride;
    int *magnitude;   /* |dx| + |dy| */
    int16_t *dx, *dy; /* of the channel that changes most */
    uint8_t *kind;    /* EDGE_NO ... */
    int *stack;       /* of pixels that are edges and whose neighbours were not looked at */
    int n_stack;
};

static int clamp(int v, int n)
{
    return v < 0 ? 0 : v < n ? v : n - 1;
}

/* Sobel's derivatives at (x, y) of a channel; the border repeats. */
static void derive(const struct image *im, int x, int y, int channel, int *dx, int *dy)
{
    int v[3][3];
    for (int i = 0; i < 3; i++) {
        const size_t row = (size_t)clamp(y + i - 1, im->height) * (size_t)im->width;
        for (int k = 0; k < 3; k++)
            v[i][k] = im->data[(row + (size_t)clamp(x + k - 1, im->width)) * (size_t)im->channels +
                               (size_t)channel];
    }
    *dx = v[0][2] - v[0][0] + 2 * (v[1][2] - v[1][0]) + v[2][2] - v[2][0];
    *dy = v[2][0] - v[0][0] + 2 * (v[2][1] - v[0][1]) + v[2][2] - v[0][2];
}

static void measure(struct edges *g, const struct image *im)
{
    const int channels = im->channels < 3 ? 1 : 3;
    for (int y = 0; y < g->height; y++) {
        for (int x = 0; x < g->width; x++) {
            const int at = (y + 1) * g->stride + x + 1;
            int most = -1;
            for (int c = 0; c < channels; c++) {
                int dx, dy;
                derive(im, x, y, c, &dx, &dy);
                if (abs(dx) + abs(dy) <= most)
                    continue;
                most = abs(dx) + abs(dy);
                g->dx[at] = (int16_t)dx;
                g->dy[at] = (int16_t)dy;
            }
            g->magnitude[at] = most;
        }
    }
}

/* Is the pixel a crest across its gradient?  Of equal neighbours the first one counts. */
static bool is_crest(const struct edges *g, int at)
{
    const int *m = g->magnitude + at;
    const int dx = g->dx[at], dy = g->dy[at], up = g->stride;
    const int64_t y = (int64_t)abs(dy) << TAN_SHIFT, tan_22 = (int64_t)abs(dx) * TAN_22;
    if (y < tan_22)
        return m[0] > m[-1] && m[0] >= m[1];
    if (y > tan_22 + ((int64_t)abs(dx) << (TAN_SHIFT + 1)))
        return m[0] > m[-up] && m[0] >= m[up];
    const int side = (dx ^ dy) < 0 ? -1 : 1;
    return m[0] > m[-up - side] && m[0] > m[up + side];
}

static void push(struct edges *g, int at)
{
    g->kind[at] = EDGE_YES;
    g->stack[g->n_stack++] = at;
}

/* Crests above high are edges, and so are those above low that hang together with one. */
static void trace(struct edges *g, int low, int high)
{
    for (int y = 0; y < g->height; y++) {
        for (int x = 0; x < g->width; x++) {
            const int at = (y + 1) * g->stride + x + 1;
            if (g->magnitude[at] <= low || !is_crest(g, at))
                continue;
            if (g->magnitude[at] > high)
                push(g, at);
            else
                g->kind[at] = EDGE_MAYBE;
        }
    }
    while (g->n_stack > 0) {
        const int at = g->stack[--g->n_stack];
        for (int i = 0; i < 9; i++) {
            const int near = at + (i / 3 - 1) * g->stride + i % 3 - 1;
            if (g->kind[near] == EDGE_MAYBE)
                push(g, near);
        }
    }
}

static bool edges_open(struct edges *g, const struct image *im)
{
    const size_t n = (size_t)(im->width + 2) * (size_t)(im->height + 2);
    *g = (struct edges){.width = im->width, .height = im->height, .stride = im->width + 2};
    g->magnitude = mem_try(n, sizeof *g->magnitude);
    g->dx = mem_try(n, sizeof *g->dx);
    g->dy = mem_try(n, sizeof *g->dy);
    g->kind = mem_try(n, sizeof *g->kind);
    g->stack = mem_try(n, sizeof *g->stack);
    return g->magnitude && g->dx && g->dy && g->kind && g->stack;
}

static void edges_close(struct edges *g)
{
    free(g->magnitude);
    free(g->dx);
    free(g->dy);
    free(g->kind);
    free(g->stack);
}

int image_filter_canny(struct image *out, const struct image *in, int low, int high, struct err *e)
{
    struct edges g;
    int rc = image_init(out, in->width, in->height, 3, e);
    if (rc != 0)
        return rc;
    if (!edges_open(&g, in)) {
        edges_close(&g);
        image_free(out);
        return err_set(e, ERR_NOMEM, "not enough memory for the edges of a picture");
    }
    measure(&g, in);
    trace(&g, low < high ? low : high, low < high ? high : low);
    uint8_t *to = out->data;
    for (int y = 0; y < in->height; y++) {
        for (int x = 0; x < in->width; x++, to += 3)
            memset(to, g.kind[(y + 1) * g.stride + x + 1] == EDGE_YES ? 255 : 0, 3);
    }
    edges_close(&g);
    return 0;
}

/* ---- blur ---- */

/* Positions beyond the border are those mirrored at the outermost pixel. */
static int mirror(int v, int n)
{
    while (n > 1 && (v < 0 || v >= n))
        v = v < 0 ? -v : 2 * (n - 1) - v;
    return n > 1 ? v : 0;
}

/* Lines of n pixels, `step` values apart, along one axis. */
static void blur_line(float *to, const float *from, int n, size_t step, const float *w, int radius)
{
    for (int i = 0; i < n; i++) {
        float sum = w[0] * from[(size_t)i * step];
        for (int k = 1; k <= radius; k++)
            sum += w[k] *
                   (from[(size_t)mirror(i - k, n) * step] + from[(size_t)mirror(i + k, n) * step]);
        to[(size_t)i * step] = sum;
    }
}

int image_filter_blur(struct image *out, const struct image *in, float sigma, struct err *e)
{
    float w[BLUR_RADIUS + 1], sum = 0;
    const int wide = (int)lroundf(6 * sigma + 1) / 2;
    const int radius = wide < BLUR_RADIUS ? wide : BLUR_RADIUS;
    const size_t width = (size_t)in->width, channels = (size_t)in->channels, n = image_bytes(in);
    int rc = image_init(out, in->width, in->height, in->channels, e);
    if (rc != 0)
        return rc;
    float *a = mem_try(n, sizeof *a), *b = mem_try(n, sizeof *b);
    if (a == NULL || b == NULL) {
        free(a);
        free(b);
        image_free(out);
        return err_set(e, ERR_NOMEM, "not enough memory to blur a picture");
    }
    for (int k = 0; k <= radius; k++) {
        w[k] = expf(-(float)(k * k) / (2 * sigma * sigma));
        sum += k > 0 ? 2 * w[k] : w[k];
    }
    for (int k = 0; k <= radius; k++)
        w[k] /= sum;
    for (size_t i = 0; i < n; i++)
        a[i] = (float)in->data[i];
    for (size_t i = 0; i < (size_t)in->height * channels; i++) {
        const size_t at = i / channels * width * channels + i % channels;
        blur_line(b + at, a + at, in->width, channels, w, radius);
    }
    for (size_t i = 0; i < width * channels; i++)
        blur_line(a + i, b + i, in->height, width * channels, w, radius);
    for (size_t i = 0; i < n; i++)
        out->data[i] = (uint8_t)lroundf(a[i] < 255 ? a[i] : 255);
    free(a);
    free(b);
    return 0;
}

/* ---- details ---- */

int image_filter_coarse(struct image *out, const struct image *in, int factor, struct err *e)
{
    struct image small;
    const int width = in->width / factor, height = in->height / factor;
    int rc =
        image_resize(&small, in, width > 0 ? width : 1, height > 0 ? height : 1, IMAGE_BILINEAR, e);
    if (rc != 0) {
        *out = (struct image){0};
        return rc;
    }
    rc = image_resize(out, &small, in->width, in->height, IMAGE_LANCZOS, e);
    image_free(&small);
    return rc;
}
