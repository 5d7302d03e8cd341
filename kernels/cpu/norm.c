/* RMS norm and layer norm over rows, group norm over images, cosines.
 *
 * Group norm goes over an image twice: sums of each channel over chunks of pixels at fixed places,
 * then every element by one scale and offset of its channel.  The sums are of the distance to the
 * image's first pixel, so that nothing cancels when the mean is large; they are joined in doubles, chunks
 * and channels in ascending order. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_backend.h"

struct norm_job {
    const struct cpu_ops *ops;
    float *out;         /* [rows, dim] */
    const float *x, *w; /* [rows, dim], [dim] */
    int dim;
    float eps;
};

static void norm_rows(void *arg, int64_t begin, int64_t end)
{
    const struct norm_job *j = arg;
    for (int64_t r = begin; r < end; r++)
        j->ops->rmsnorm_row(j->out + r * j->dim, j->x + r * j->dim, j->w, j->dim, j->eps);
}

void cpu_rmsnorm(struct backend *be, const struct op_rmsnorm *p)
{
    struct cpu_backend *cb = cpu_of(be);
    int64_t rows = p->x->dims[0], dim = p->x->dims[1];
    assert(p->x->ndim == 2 && p->out->dims[0] == rows && p->out->dims[1] == dim);
    assert(p->w->ndim == 1 && p->w->dims[0] == dim);
    struct norm_job j = {
        .ops = &cb->ops,
        .out = p->out->data,
        .x = p->x->data,
        .w = p->w->data,
        .dim = (int)dim,
        .eps = p->eps,
    };
    cpu_split(cb, rows, rows * dim, norm_rows, &j);
}

static int64_t leading(const struct tensor *t, int from)
{
    int64_t n = 1;
    for (int i = from; i < t->ndim - 1; i++)
        n *= t->dims[i];
    return n;
}

struct layernorm_job {
    const struct cpu_ops *ops;
    const struct op_layernorm *p;
    int dim;
};

static void layernorm_rows(void *arg, int64_t begin, int64_t end)
{
    const struct layernorm_job *j = arg;
    const struct op_layernorm *p = j->p;
    for (int64_t r = begin; r < end; r++)
        j->ops->layernorm_row((float *)p->out->data + r * j->dim,
                              (const float *)p->x->data + r * j->dim, p->w->data,
                              p->bias ? p->bias->data : NULL, j->dim, p->eps);
}

void cpu_layernorm(struct backend *be, const struct op_layernorm *p)
{
    struct cpu_backend *cb = cpu_of(be);
    int64_t rows = leading(p->x, 0), dim = p->x->dims[p->x->ndim - 1];
    assert(leading(p->out, 0) == rows && p->out->dims[p->out->ndim - 1] == dim);
    assert(p->w->dims[0] == dim && (!p->bias || p->bias->dims[0] == dim));
    struct layernorm_job j = {.ops = &cb->ops, .p = p, .dim = (int)dim};
    cpu_split(cb, rows, rows * dim, layernorm_rows, &j);
}

/* A few rows of a few hundred numbers: doubles, one after the other. */
void cpu_cosine(struct backend *be, const struct op_cosine *p)
{
    (void)be;
    const int64_t rows = p->x->dims[0], dim = p->x->dims[1], n = p->w->dims[0];
    assert(p->w->dims[1] == dim && p->out->dims[0] == rows && p->out->dims[1] == n);
    for (int64_t r = 0; r < rows; r++) {
        const float *x = (const float *)p->x->data + r * dim;
        float *out = (float *)p->out->data + r * n;
        double length = 0;
        for (int64_t i = 0; i < dim; i++)
            length += (double)x[i] * (double)x[i];
        for (int64_t k = 0; k < n; k++) {
            const float *w = (const float *)p->w->data + k * dim;
            double sum = 0;
            for (int64_t i = 0; i < dim; i++)
                sum += (double)x[i] * (double)w[i];
            out[k] = length > 0 && length <= (double)FLT_MAX ? (float)(sum / sqrt(length)) : NAN;
        }
    }
}

#define GROUP_CHUNKS 64 /* pieces of an image whose sums are taken apart, at most */
#define GROUP_PIXELS 64 /* in a piece at least */

struct group_job {
    const struct cpu_ops *ops;
    const struct op_groupnorm *p;
    const float *x;
    float *out;
    int64_t pixels, chunk; /* of an image; of a piece */
    int64_t n_chunks;      /* of an image */
    int c;
    float *sums;   /* [n, n_chunks, 2, c] */
    float *scales; /* [n, 2, c]: scale, offset */
};

static void group_chunks(void *arg, int64_t begin, int64_t end)
{
    const struct group_job *j = arg;
    for (int64_t i = begin; i < end; i++) {
        int64_t image = i / j->n_chunks, from = i % j->n_chunks * j->chunk;
        int64_t n = j->pixels - from < j->chunk ? j->pixels - from : j->chunk;
        const float *x = j->x + image * j->pixels * j->c;
        float *sums = j->sums + i * 2 * j->c;
        memset(sums, 0, (size_t)(2 * j->c) * sizeof(float));
        j->ops->group_sums(sums, x + from * j->c, x, n, j->c);
    }
}

/* Channels [first, first + width) of an image. */
static void group_join(const struct group_job *j, int64_t image, int first, int width)
{
    const struct op_groupnorm *p = j->p;
    const float *shift = j->x + image * j->pixels * j->c;
    const float *w = p->w->data, *bias = p->bias->data;
    double count = (double)j->pixels * width, mean = 0, var = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = first; i < first + width; i++) {
            double s = 0, q = 0;
            for (int64_t k = 0; k < j->n_chunks; k++) {
                const float *sums = j->sums + (image * j->n_chunks + k) * 2 * j->c;
                s += (double)sums[i];
                q += (double)sums[j->c + i];
            }
            double far = (double)shift[i] - mean;
            if (pass == 0)
                mean += ((double)shift[i] * (double)j->pixels + s) / count;
            else
                var += (q + 2 * far * s + far * far * (double)j->pixels) / count;
        }
    }
    double r = 1.0 / sqrt((var > 0 ? var : 0) + (double)p->eps);
    if (isnan(var))
        r = var;
    float *scale = j->scales + image * 2 * j->c, *offset = scale + j->c;
    for (int i = first; i < first + width; i++) {
        scale[i] = (float)(r * (double)w[i]);
        offset[i] = (float)((double)bias[i] - mean * r * (double)w[i]);
    }
}

static void group_pixels(void *arg, int64_t begin, int64_t end)
{
    const struct group_job *j = arg;
    while (begin < end) {
        int64_t image = begin / j->pixels, left = (image + 1) * j->pixels - begin;
        int64_t n = end - begin < left ? end - begin : left;
        const float *scale = j->scales + image * 2 * j->c;
        j->ops->group_scale(j->out + begin * j->c, j->x + begin * j->c, scale, scale + j->c, n,
                            j->c, j->p->act);
        begin += n;
    }
}

void cpu_groupnorm(struct backend *be, const struct op_groupnorm *p)
{
    struct cpu_backend *cb = cpu_of(be);
    int64_t n = p->x->dims[0], c = p->x->dims[p->x->ndim - 1];
    struct group_job j = {.ops = &cb->ops, .p = p, .x = p->x->data, .out = p->out->data};
    j.c = (int)c;
    j.pixels = leading(p->x, 1);
    assert(p->n_groups > 0 && c % p->n_groups == 0 && p->x->ndim >= 2);
    assert(p->w->dims[0] == c && p->bias->dims[0] == c);
    if (n * j.pixels == 0)
        return;
    j.chunk = (j.pixels + GROUP_CHUNKS - 1) / GROUP_CHUNKS;
    j.chunk = j.chunk < GROUP_PIXELS ? GROUP_PIXELS : j.chunk;
    j.n_chunks = (j.pixels + j.chunk - 1) / j.chunk;
    j.scales = cpu_scratch(cb, (size_t)(n * 2 * c * (1 + j.n_chunks)) * sizeof(float));
    j.sums = j.scales + n * 2 * c;
    cpu_split(cb, n * j.n_chunks, n * j.pixels * c, group_chunks, &j);
    for (int64_t i = 0; i < n; i++)
        for (int g = 0; g < p->n_groups; g++)
            group_join(&j, i, g * (int)(c / p->n_groups), (int)(c / p->n_groups));
    cpu_split(cb, n * j.pixels, n * j.pixels * c, group_pixels, &j);
}
