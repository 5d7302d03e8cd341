/* Pictures.  The resampling is Pillow's for 8 bits: a filter stretched by the scale (so that it is an
 * antialias filter when it shrinks), its weights normalised in double, then as integers of 22 bits, first
 * along rows, then along columns, each rounded to 8 bits.  A golden test holds it to the byte. */
#include "base/image.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

enum { WEIGHT_BITS = 32 - 8 - 2 }; /* 8 bits of pixel, 2 of overshoot of negative lobes */

int image_init(struct image *im, int width, int height, int channels, struct err *e)
{
    *im = (struct image){0};
    if (width < 1 || height < 1 || width > IMAGE_SIDE_MAX || height > IMAGE_SIDE_MAX)
        return err_set(e, ERR_INVALID, "a picture of %d x %d pixels; sides may have 1 to %d", width,
                       height, IMAGE_SIDE_MAX);
    uint8_t *data = mem_try((size_t)width * (size_t)height, (size_t)channels);
    if (data == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for a picture of %d x %d", width, height);
    *im = (struct image){.width = width, .height = height, .channels = channels, .data = data};
    return 0;
}

void image_free(struct image *im)
{
    free(im->data);
    *im = (struct image){0};
}

size_t image_bytes(const struct image *im)
{
    return (size_t)im->width * (size_t)im->height * (size_t)im->channels;
}

static uint8_t *at(const struct image *im, int x, int y)
{
    return im->data + ((size_t)y * (size_t)im->width + (size_t)x) * (size_t)im->channels;
}

/* ---- Resampling ---- */

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

/* Keys' kernel with a = -1/2. */
static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static double sinc(double x)
{
    if (x == 0)
        return 1;
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos(double x)
{
    return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

static const struct {
    double (*f)(double x);
    double support; /* f is 0 outside [-support, support] */
} filters[] = {
    [IMAGE_BILINEAR] = {bilinear, 1},
    [IMAGE_BICUBIC] = {bicubic, 2},
    [IMAGE_LANCZOS] = {lanczos, 3},
};

/* Which pixels make a pixel of the result, and how much of each. */
struct taps {
    int max;         /* of one pixel */
    int *first, *n;  /* [n_out] */
    int32_t *weight; /* [n_out, max] */
};

static void taps_free(struct taps *t)
{
    free(t->first);
    free(t->n);
    free(t->weight);
}

static int taps_make(struct taps *t, int n_in, int n_out, enum image_filter filter)
{
    double scale = (double)n_in / n_out, stretch = scale < 1 ? 1 : scale;
    double support = filters[filter].support * stretch;
    t->max = (int)ceil(support) * 2 + 1;
    t->first = mem_try((size_t)n_out, sizeof *t->first);
    t->n = mem_try((size_t)n_out, sizeof *t->n);
    t->weight = mem_try((size_t)n_out * (size_t)t->max, sizeof *t->weight);
    double *w = mem_try((size_t)t->max, sizeof *w);
    if (t->first == NULL || t->n == NULL || t->weight == NULL || w == NULL) {
        free(w);
        return ERR_NOMEM;
    }
    for (int i = 0; i < n_out; i++) {
        double center = (i + 0.5) * scale, sum = 0, step = 1 / stretch;
        int first = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
        first = first < 0 ? 0 : first;
        end = end > n_in ? n_in : end;
        for (int k = 0; k < end - first; k++) {
            w[k] = filters[filter].f((k + first - center + 0.5) * step);
            sum += w[k];
        }
        int32_t *out = t->weight + (size_t)i * (size_t)t->max;
        for (int k = 0; k < end - first; k++) {
            double v = (sum != 0 ? w[k] / sum : w[k]) * (1 << WEIGHT_BITS);
            out[k] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
        }
        t->first[i] = first;
        t->n[i] = end - first;
    }
    free(w);
    return 0;
}

static uint8_t to_byte(int32_t sum)
{
    int32_t v = sum >> WEIGHT_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Along rows, of rows begin ... end - 1: out has the height of in. */
static void resample_rows(struct image *out, const struct image *in, const struct taps *t,
                          int begin, int end)
{
    int c = in->channels;
    for (int y = begin; y < end; y++) {
        for (int x = 0; x < out->width; x++) {
            const int32_t *w = t->weight + (size_t)x * (size_t)t->max;
            const uint8_t *p = at(in, t->first[x], y);
            int32_t sum[4] = {1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1),
                              1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1)};
            for (int k = 0; k < t->n[x]; k++, p += c)
                for (int j = 0; j < c; j++)
                    sum[j] += p[j] * w[k];
            for (int j = 0; j < c; j++)
                at(out, x, y)[j] = to_byte(sum[j]);
        }
    }
}

/* Along columns, rows begin ... end - 1 of out, which has the width of in. */
static void resample_columns(struct image *out, const struct image *in, const struct taps *t,
                             int begin, int end)
{
    size_t stride = (size_t)in->width * (size_t)in->channels;
    for (int y = begin; y < end; y++) {
        const int32_t *w = t->weight + (size_t)y * (size_t)t->max;
        const uint8_t *p = at(in, 0, t->first[y]);
        for (size_t i = 0; i < stride; i++) {
            int32_t sum = 1 << (WEIGHT_BITS - 1);
            for (int k = 0; k < t->n[y]; k++)
                sum += p[(size_t)k * stride + i] * w[k];
            at(out, 0, y)[i] = to_byte(sum);
        }
    }
}

static int resample(struct image *out, const struct image *in, bool rows, int n,
                    enum image_filter filter, struct err *e)
{
    struct taps t = {0};
    int err = image_init(out, rows ? n : in->width, rows ? in->height : n, in->channels, e);
    if (err == 0 && taps_make(&t, rows ? in->width : in->height, n, filter) != 0)
        err = err_set(e, ERR_NOMEM, "not enough memory to resize a picture");
    if (err == 0 && rows)
        resample_rows(out, in, &t, 0, out->height);
    else if (err == 0)
        resample_columns(out, in, &t, 0, out->height);
    taps_free(&t);
    if (err != 0)
        image_free(out);
    return err;
}

static int clone(struct image *out, const struct image *in, struct err *e)
{
    int err = image_init(out, in->width, in->height, in->channels, e);
    if (out->data != NULL)
        memcpy(out->data, in->data, image_bytes(in));
    return err;
}

/* x * alpha / 255, rounded. */
static uint8_t times_alpha(uint8_t x, uint8_t alpha)
{
    unsigned v = (unsigned)x * alpha + 128;
    return (uint8_t)((v + (v >> 8)) >> 8);
}

static void premultiply(struct image *im)
{
    uint8_t *p = im->data, *end = p + image_bytes(im);
    for (; p < end; p += 4)
        for (int j = 0; j < 3; j++)
            p[j] = times_alpha(p[j], p[3]);
}

static void unpremultiply(struct image *im)
{
    uint8_t *p = im->data, *end = p + image_bytes(im);
    for (; p < end; p += 4) {
        for (int j = 0; j < 3 && p[3] != 0 && p[3] != 255; j++) {
            int v = 255 * p[j] / p[3];
            p[j] = (uint8_t)(v > 255 ? 255 : v);
        }
    }
}

/* Pillow 13's order: columns first where the height loses more than twice what the width does. */
static bool rows_first(const int from[2], const int to[2])
{
    return to[1] >= from[1] || from[1] - to[1] <= 2 * (from[0] - to[0]);
}

int image_resize(struct image *out, const struct image *in, int width, int height,
                 enum image_filter filter, struct err *e)
{
    struct image flat = {0}, half = {0};
    const struct image *from = in;
    *out = (struct image){0};
    if (width == in->width && height == in->height)
        return clone(out, in, e);
    int err = 0;
    if (in->channels == 4) {
        if ((err = clone(&flat, in, e)) != 0)
            return err;
        premultiply(&flat);
        from = &flat;
    }
    if (width == in->width) {
        err = resample(out, from, false, height, filter, e);
    } else if (height == in->height) {
        err = resample(out, from, true, width, filter, e);
    } else {
        bool rows = rows_first((int[]){in->width, in->height}, (int[]){width, height});
        err = resample(&half, from, rows, rows ? width : height, filter, e);
        if (err == 0)
            err = resample(out, &half, !rows, rows ? height : width, filter, e);
        image_free(&half);
    }
    image_free(&flat);
    if (err == 0 && out->channels == 4)
        unpremultiply(out);
    return err;
}

/* ---- Resizing in pieces ---- */

enum { PIECE_PIXELS = 1 << 16 };

/* One of the two ways that a picture goes: along rows, then columns, or the other way round.  A side that stays
 * has taps of one pixel, which change nothing. */
struct image_resizer {
    int from[2], to[2];
    bool rows_first;
    struct taps rows, columns;
    uint8_t *half; /* after the first way */
    int at;        /* rows done of the first way, then of the second */
};

static size_t half_bytes(const int from[2], const int to[2])
{
    return rows_first(from, to) ? (size_t)to[0] * (size_t)from[1] * 3
                                : (size_t)from[0] * (size_t)to[1] * 3;
}

static size_t taps_bytes(int n_in, int n_out, enum image_filter filter)
{
    double scale = (double)n_in / n_out, stretch = scale < 1 ? 1 : scale;
    size_t max = (size_t)ceil(filters[filter].support * stretch) * 2 + 1;
    return (size_t)n_out * (2 * sizeof(int) + max * sizeof(int32_t));
}

size_t image_resizer_bytes(const int from[2], const int to[2], enum image_filter filter)
{
    return sizeof(struct image_resizer) + half_bytes(from, to) +
           taps_bytes(from[0], to[0], filter) + taps_bytes(from[1], to[1], filter);
}

int image_resizer_open(struct image_resizer **out, const int from[2], const int to[2],
                       enum image_filter filter, struct err *e)
{
    struct image_resizer *r = mem_try(1, sizeof *r);
    if (r == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory to resize a picture");
    memcpy(r->from, from, sizeof r->from);
    memcpy(r->to, to, sizeof r->to);
    r->rows_first = rows_first(from, to);
    r->half = mem_try(half_bytes(from, to), 1);
    if (r->half == NULL || taps_make(&r->rows, from[0], to[0], filter) != 0 ||
        taps_make(&r->columns, from[1], to[1], filter) != 0) {
        image_resizer_close(r);
        return err_set(e, ERR_NOMEM, "not enough memory to resize a picture");
    }
    *out = r;
    return 0;
}

void image_resizer_close(struct image_resizer *r)
{
    if (r == NULL)
        return;
    taps_free(&r->rows);
    taps_free(&r->columns);
    free(r->half);
    free(r);
}

void image_resizer_restart(struct image_resizer *r)
{
    r->at = 0;
}

bool image_resizer_run(struct image_resizer *r, const uint8_t *in, uint8_t *out)
{
    struct image from = {r->from[0], r->from[1], 3, (uint8_t *)(uintptr_t)in};
    struct image half = {r->rows_first ? r->to[0] : r->from[0],
                         r->rows_first ? r->from[1] : r->to[1], 3, r->half};
    struct image to = {r->to[0], r->to[1], 3, out};
    const bool second = r->at >= half.height;
    const struct image *a = second ? &half : &from;
    struct image *b = second ? &to : &half;
    const int begin = second ? r->at - half.height : r->at, piece = PIECE_PIXELS / b->width + 1;
    const int end = begin + piece < b->height ? begin + piece : b->height;
    if (r->rows_first != second)
        resample_rows(b, a, &r->rows, begin, end);
    else
        resample_columns(b, a, &r->columns, begin, end);
    r->at += end - begin;
    if (r->at < half.height + to.height)
        return true;
    r->at = 0;
    return false;
}

/* ---- Cutting and converting ---- */

int image_crop(struct image *out, const struct image *in, int x, int y, int width, int height,
               uint8_t fill, struct err *e)
{
    int err = image_init(out, width, height, in->channels, e);
    if (err != 0)
        return err;
    memset(out->data, fill, image_bytes(out));
    int64_t x0 = x < 0 ? 0 : x, x1 = (int64_t)x + width;
    x1 = x1 > in->width ? in->width : x1;
    for (int i = 0; i < height && x0 < x1; i++) {
        int64_t from = (int64_t)y + i;
        if (from >= 0 && from < in->height)
            memcpy(at(out, (int)(x0 - x), i), at(in, (int)x0, (int)from),
                   (size_t)(x1 - x0) * (size_t)in->channels);
    }
    return 0;
}

static int clamp(int v, int n)
{
    return v < 0 ? 0 : v >= n ? n - 1 : v;
}

int image_extend(struct image *out, const struct image *in, int x, int y, int width, int height,
                 struct err *e)
{
    int err = image_init(out, width, height, in->channels, e);
    if (err != 0)
        return err;
    uint8_t *to = out->data;
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++, to += in->channels)
            memcpy(to, at(in, clamp(x + j, in->width), clamp(y + i, in->height)),
                   (size_t)in->channels);
    return 0;
}

static uint8_t gray_of(const uint8_t *p)
{
    return (uint8_t)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000u) >> 16);
}

int image_convert(struct image *out, const struct image *in, int channels, struct err *e)
{
    int err = image_init(out, in->width, in->height, channels, e);
    if (err != 0)
        return err;
    size_t n = (size_t)in->width * (size_t)in->height;
    const uint8_t *p = in->data;
    uint8_t *q = out->data;
    for (size_t i = 0; i < n; i++, p += in->channels, q += channels) {
        if (channels == 1) {
            q[0] = in->channels == 1 ? p[0] : gray_of(p);
            continue;
        }
        for (int j = 0; j < 3; j++)
            q[j] = p[in->channels == 1 ? 0 : j];
        if (channels == 4)
            q[3] = in->channels == 4 ? p[3] : 255;
    }
    return 0;
}

int image_channel(struct image *out, const struct image *in, int channel, struct err *e)
{
    int err = image_init(out, in->width, in->height, 1, e);
    size_t n = err == 0 ? (size_t)in->width * (size_t)in->height : 0;
    for (size_t i = 0; i < n; i++)
        out->data[i] = in->data[i * (size_t)in->channels + (size_t)channel];
    return err;
}

int image_orient(struct image *im, int orientation, struct err *e)
{
    if (orientation < 2 || orientation > 8)
        return 0;
    bool turned = orientation >= 5; /* the sides change places */
    /* Where the picture's left and upper edge are in what is stored. */
    bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    struct image out;
    int err = image_init(&out, turned ? im->height : im->width, turned ? im->width : im->height,
                         im->channels, e);
    if (err != 0)
        return err;
    for (int y = 0; y < out.height; y++) {
        for (int x = 0; x < out.width; x++) {
            int from_x = turned ? y : x, from_y = turned ? x : y;
            from_x = flip_x ? im->width - 1 - from_x : from_x;
            from_y = flip_y ? im->height - 1 - from_y : from_y;
            memcpy(at(&out, x, y), at(im, from_x, from_y), (size_t)im->channels);
        }
    }
    image_free(im);
    *im = out;
    return 0;
}

/* ---- Obscuring ---- */

enum { OBSCURE_SIDE = 8 }; /* cells of the longer side that are left */

void image_obscure(struct image *im)
{
    int longest = im->width > im->height ? im->width : im->height;
    int w = (im->width * OBSCURE_SIDE + longest - 1) / longest;
    int h = (im->height * OBSCURE_SIDE + longest - 1) / longest;
    struct image cells = {0}, smooth = {0};
    if (image_resize(&cells, im, w, h, IMAGE_BILINEAR, NULL) == 0 &&
        image_resize(&smooth, &cells, im->width, im->height, IMAGE_BICUBIC, NULL) == 0)
        memcpy(im->data, smooth.data, image_bytes(im));
    else
        memset(im->data, 0, image_bytes(im));
    image_free(&cells);
    image_free(&smooth);
}
