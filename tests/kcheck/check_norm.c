/* rmsnorm, layernorm, groupnorm, cosine: rows against the scalar loop, the op against doubles and at several thread counts. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "tests/kcheck/kcheck.h"

struct norm_bench {
    struct kcheck *kc;
    float *out, *x, *w;
};

static void norm_bench_run(void *arg)
{
    struct norm_bench *b = arg;
    b->kc->var->rmsnorm_row(b->out, b->x, b->w, 4096, 1e-5f);
}

static void check_row(struct kcheck *kc)
{
    for (int s = 0; s < KCHECK_SIZES; s++) {
        int n = kcheck_sizes[s];
        float *x = kcheck_in(kc, n), *w = kcheck_in(kc, n);
        float *a = kcheck_out(kc, n), *b = kcheck_out(kc, n);
        kcheck_fill(kc, x, n, 4.0f);
        kcheck_fill(kc, w, n, 1.0f);
        kc->ref->rmsnorm_row(a, x, w, n, 1e-5f);
        kc->var->rmsnorm_row(b, x, w, n, 1e-5f);
        kcheck_near(kc, a, b, n, 1e-7f, 64, "out");
        if (n == 4096) {
            struct norm_bench bench = {kc, b, x, w};
            kcheck_bench(kc, "rmsnorm_row 4096", 4096 * 12, "GB/s", norm_bench_run, &bench);
        }
        kcheck_done(kc);
    }
}

/* x^2 is summed in float by definition: huge rows give infinity, a zero row zeros. */
static void check_op(struct kcheck *kc)
{
    enum { ROWS = 37, DIM = 1000 };
    float *x = kcheck_in(kc, ROWS * DIM), *w = kcheck_in(kc, DIM);
    float *want = kcheck_out(kc, ROWS * DIM), *first = kcheck_out(kc, ROWS * DIM);
    kcheck_fill(kc, x, ROWS * DIM, 3.0f);
    kcheck_fill(kc, w, DIM, 1.0f);
    memset(x, 0, DIM * sizeof(float));
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int i = 0; i < DIM; i++)
            sum += (double)x[r * DIM + i] * (double)x[r * DIM + i];
        double scale = 1.0 / sqrt(sum / DIM + 1e-6);
        for (int i = 0; i < DIM; i++)
            want[r * DIM + i] = (float)(x[r * DIM + i] * scale * w[i]);
    }
    for (int threads = 1; threads <= 4; threads++) {
        struct backend *be = kcheck_backend(kc, threads);
        float *out = kcheck_out(kc, ROWS * DIM);
        struct tensor tx = kcheck_tensor(x, ROWS, DIM), tw = kcheck_tensor(w, DIM, 0);
        struct tensor to = kcheck_tensor(out, ROWS, DIM);
        OP(be, rmsnorm, .out = &to, .x = &tx, .w = &tw, .eps = 1e-6f);
        kcheck_near(kc, want, out, ROWS * DIM, 1e-7f, 100, "against doubles");
        if (threads == 1)
            memcpy(first, out, sizeof(float) * ROWS * DIM);
        kcheck_same(kc, first, out, sizeof(float) * ROWS * DIM, "another number of threads");
        /* a row alone */
        tx = kcheck_tensor(x + 5 * DIM, 1, DIM);
        to = kcheck_tensor(out, 1, DIM);
        OP(be, rmsnorm, .out = &to, .x = &tx, .w = &tw, .eps = 1e-6f);
        kcheck_same(kc, first + 5 * DIM, out, sizeof(float) * DIM, "a row alone");
        be->close(be);
    }
    kcheck_done(kc);
}

static void layer_bench_run(void *arg)
{
    struct norm_bench *b = arg;
    b->kc->var->layernorm_row(b->out, b->x, b->w, b->w, 4096, 1e-5f);
}

static void check_layer_row(struct kcheck *kc)
{
    for (int s = 0; s < KCHECK_SIZES; s++) {
        int n = kcheck_sizes[s];
        float *x = kcheck_in(kc, n), *w = kcheck_in(kc, n), *bias = kcheck_in(kc, n);
        float *a = kcheck_out(kc, n), *b = kcheck_out(kc, n);
        kcheck_fill(kc, x, n, 4.0f);
        kcheck_fill(kc, w, n, 1.0f);
        kcheck_fill(kc, bias, n, 1.0f);
        for (int i = 0; i < n; i++)
            x[i] += 30.0f;
        for (int i = 0; i < 2; i++) {
            kc->ref->layernorm_row(a, x, w, i ? bias : NULL, n, 1e-5f);
            kc->var->layernorm_row(b, x, w, i ? bias : NULL, n, 1e-5f);
            kcheck_near(kc, a, b, n, 1e-4f, 64, "out"); /* float sums of 4096 times 30 */
        }
        if (n == 4096) {
            struct norm_bench bench = {kc, b, x, w};
            kcheck_bench(kc, "layernorm_row 4096", 4096 * 12, "GB/s", layer_bench_run, &bench);
        }
        kcheck_done(kc);
    }
}

static void check_layer_op(struct kcheck *kc)
{
    enum { ROWS = 37, DIM = 1001 };
    float *x = kcheck_in(kc, ROWS * DIM), *w = kcheck_in(kc, DIM), *bias = kcheck_in(kc, DIM);
    float *want = kcheck_out(kc, ROWS * DIM), *first = kcheck_out(kc, ROWS * DIM);
    kcheck_fill(kc, x, ROWS * DIM, 3.0f);
    kcheck_fill(kc, w, DIM, 1.0f);
    kcheck_fill(kc, bias, DIM, 1.0f);
    for (int i = 0; i < DIM; i++)
        x[i] = 2.5f; /* no variance: bias alone */
    for (int r = 0; r < ROWS; r++) {
        double mean = 0, var = 0;
        for (int i = 0; i < DIM; i++)
            mean += (double)x[r * DIM + i] / DIM;
        for (int i = 0; i < DIM; i++)
            var += (x[r * DIM + i] - mean) * (x[r * DIM + i] - mean) / DIM;
        for (int i = 0; i < DIM; i++)
            want[r * DIM + i] =
                (float)((x[r * DIM + i] - mean) / sqrt(var + 1e-5) * w[i] + (double)bias[i]);
    }
    for (int threads = 1; threads <= 4; threads++) {
        struct backend *be = kcheck_backend(kc, threads);
        float *out = kcheck_out(kc, ROWS * DIM);
        struct tensor tw = kcheck_tensor(w, DIM, 0), tb = kcheck_tensor(bias, DIM, 0);
        struct tensor to = kcheck_tensor(out, ROWS, DIM);
        memcpy(out, x, sizeof(float) * ROWS * DIM);
        OP(be, layernorm, .out = &to, .x = &to, .w = &tw, .bias = &tb, .eps = 1e-5f);
        kcheck_near(kc, want, out, ROWS * DIM, 2e-5f, 100, "against doubles");
        if (threads == 1)
            memcpy(first, out, sizeof(float) * ROWS * DIM);
        kcheck_same(kc, first, out, sizeof(float) * ROWS * DIM, "another number of threads");
        struct tensor tx = kcheck_tensor(x + 5 * DIM, 1, DIM);
        to = kcheck_tensor(out, 1, DIM);
        OP(be, layernorm, .out = &to, .x = &tx, .w = &tw, .bias = &tb, .eps = 1e-5f);
        kcheck_same(kc, first + 5 * DIM, out, sizeof(float) * DIM, "a row alone");
        be->close(be);
    }
    kcheck_done(kc);
}

struct group_case {
    int n, h, w, c, groups;
    enum act act;
    float mean;
};

/* What groupnorm means, in doubles.  The result: the largest 1 / deviation. */
static double group_exact(const struct group_case *g, float *out, const float *x, const float *w,
                          const float *bias)
{
    int pixels = g->h * g->w, width = g->c / g->groups;
    double most = 0;
    for (int i = 0; i < g->n * g->groups; i++) {
        int first = i % g->groups * width;
        const float *at = x + (int64_t)(i / g->groups) * pixels * g->c;
        float *to = out + (at - x);
        double mean = 0, var = 0, count = (double)pixels * width;
        for (int64_t k = 0; k < (int64_t)pixels * width; k++)
            mean += (double)at[k / width * g->c + first + k % width] / count;
        for (int64_t k = 0; k < (int64_t)pixels * width; k++)
            var += pow((double)at[k / width * g->c + first + k % width] - mean, 2) / count;
        most = fmax(most, 1 / sqrt(var + 1e-5));
        for (int64_t k = 0; k < (int64_t)pixels * width; k++) {
            int64_t o = k / width * g->c + first + k % width;
            int c = first + (int)(k % width);
            double v = ((double)at[o] - mean) / sqrt(var + 1e-5) * w[c] + (double)bias[c];
            to[o] = (float)(g->act == ACT_SILU ? v / (1 + exp(-v)) : v);
        }
    }
    return most;
}

static struct tensor group_map(const struct group_case *g, float *data, int n)
{
    return (struct tensor){
        .data = data, .type = DTYPE_F32, .ndim = 4, .dims = {n, g->h, g->w, g->c}};
}

static void check_group(struct kcheck *kc, struct group_case g)
{
    int64_t one = (int64_t)g.h * g.w * g.c, n = g.n * one;
    float *x = kcheck_in(kc, n), *w = kcheck_in(kc, g.c), *bias = kcheck_in(kc, g.c);
    float *want = kcheck_out(kc, n), *first = kcheck_out(kc, n);
    kcheck_fill(kc, x, n, 2.0f);
    kcheck_fill(kc, w, g.c, 1.0f);
    kcheck_fill(kc, bias, g.c, 1.0f);
    for (int64_t i = 0; i < n; i++)
        x[i] += g.mean;
    kcheck_round(kc, x, n);
    /* x scale + offset, each rounded to f32: together (|x| + |mean|) / deviation 2^-24, however near they come to
     * cancelling, as in a group of two values that are almost the same */
    const float most = (float)group_exact(&g, want, x, w, bias);
    const float bound = 1e-5f + most * (4.0f + 2 * fabsf(g.mean)) * 0x1p-24f;
    for (int threads = 1; threads <= 3; threads++) {
        struct backend *be = kcheck_backend(kc, threads);
        float *out = kcheck_out(kc, n), *in = x;
        struct tensor tx = group_map(&g, in, g.n), to = group_map(&g, out, g.n);
        struct tensor tw = kcheck_tensor(w, g.c, 0), tb = kcheck_tensor(bias, g.c, 0);
        OP(be, groupnorm, .out = &to, .x = &tx, .w = &tw, .bias = &tb, .n_groups = g.groups,
           .eps = 1e-5f, .act = g.act);
        kcheck_near(kc, want, out, n, bound, 32, "against doubles");
        if (threads == 1)
            memcpy(first, out, sizeof(float) * (size_t)n);
        kcheck_same(kc, first, out, sizeof(float) * (size_t)n, "another number of threads");
        /* the last image alone, in place */
        memcpy(out, x + (g.n - 1) * one, sizeof(float) * (size_t)one);
        to = group_map(&g, out, 1);
        OP(be, groupnorm, .out = &to, .x = &to, .w = &tw, .bias = &tb, .n_groups = g.groups,
           .eps = 1e-5f, .act = g.act);
        kcheck_same(kc, first + (g.n - 1) * one, out, sizeof(float) * (size_t)one, "alone");
        be->close(be);
    }
    kcheck_done(kc);
}

static void check_group_loops(struct kcheck *kc)
{
    for (int s = 0; s < KCHECK_SIZES - 1; s++) {
        int c = kcheck_sizes[s], rows = 5;
        float *x = kcheck_in(kc, rows * c), *shift = kcheck_in(kc, c), *scale = kcheck_in(kc, c);
        float *a = kcheck_out(kc, 2 * c), *b = kcheck_out(kc, 2 * c);
        float *out_a = kcheck_out(kc, rows * c), *out_b = kcheck_out(kc, rows * c);
        kcheck_fill(kc, x, rows * c, 3.0f);
        kcheck_fill(kc, shift, c, 1.0f);
        kcheck_fill(kc, scale, c, 1.0f);
        memset(a, 0, sizeof(float) * 2 * (size_t)c);
        memset(b, 0, sizeof(float) * 2 * (size_t)c);
        kc->ref->group_sums(a, x, shift, rows, c);
        kc->var->group_sums(b, x, shift, rows, c);
        kcheck_near(kc, a, b, 2 * c, 1e-5f, 4, "sums");
        kc->ref->group_scale(out_a, x, scale, shift, rows, c, ACT_SILU);
        kc->var->group_scale(out_b, x, scale, shift, rows, c, ACT_SILU);
        kcheck_near(kc, out_a, out_b, rows * c, 1e-6f, 4, "scaled");
        kcheck_done(kc);
    }
}

struct group_bench {
    struct backend *be;
    struct tensor x, out, w;
};

static void group_bench_run(void *arg)
{
    struct group_bench *b = arg;
    OP(b->be, groupnorm, .out = &b->out, .x = &b->x, .w = &b->w, .bias = &b->w, .n_groups = 32,
       .eps = 1e-5f, .act = ACT_SILU);
}

/* Of SD 1.5 at 256 x 256: UNet (two images), VAE. */
static void bench_group(struct kcheck *kc)
{
    static const struct group_case cases[] = {{2, 32, 32, 320, 32, ACT_SILU, 0},
                                              {2, 16, 16, 1920, 32, ACT_SILU, 0},
                                              {2, 4, 4, 2560, 32, ACT_SILU, 0},
                                              {1, 256, 256, 128, 32, ACT_SILU, 0}};
    for (size_t i = 0; kc->bench && i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct group_case *g = &cases[i];
        int64_t n = (int64_t)g->n * g->h * g->w * g->c;
        float *x = kcheck_in(kc, n), *w = kcheck_in(kc, g->c), *out = kcheck_out(kc, n);
        kcheck_fill(kc, x, n, 1.0f);
        kcheck_fill(kc, w, g->c, 1.0f);
        struct group_bench b = {kcheck_backend(kc, 2), group_map(g, x, g->n),
                                group_map(g, out, g->n), kcheck_tensor(w, g->c, 0)};
        char what[64];
        snprintf(what, sizeof(what), "groupnorm silu %dx%dx%dx%d, 2 threads", g->n, g->h, g->w,
                 g->c);
        kcheck_bench(kc, what, (double)n * 12, "GB/s", group_bench_run, &b);
        b.be->close(b.be);
        kcheck_done(kc);
    }
}

static void check_group_op(struct kcheck *kc)
{
    check_group(kc, (struct group_case){2, 9, 15, 96, 32, ACT_SILU, 0});
    check_group(kc, (struct group_case){1, 1, 1, 64, 32, ACT_NONE, 0});
    check_group(kc, (struct group_case){3, 5, 3, 21, 3, ACT_NONE, 0});
    check_group(kc, (struct group_case){2, 40, 30, 40, 4, ACT_SILU, 100});
    check_group(kc, (struct group_case){1, 70, 64, 32, 32, ACT_NONE, -7});
    bench_group(kc);
}

/* Odd sizes, a row alone and among others, and rows of which no length can be told. */
static void check_cosine(struct kcheck *kc)
{
    enum { ROWS = 3, MAX_DIM = 769, MAX_N = 21 };
    static const int dims[] = {1, 7, 31, 32, 33, 100, 768, 769},
                     ns[] = {1, 3, 8, 17, 20, 21, 20, 9};
    struct backend *be = kcheck_backend(kc, 2);
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        const int dim = dims[i], n = ns[i];
        float *x = kcheck_in(kc, ROWS * dim), *w = kcheck_in(kc, n * dim);
        float *out = kcheck_out(kc, ROWS * n), *one = kcheck_out(kc, n), want[ROWS * MAX_N];
        kcheck_fill(kc, x, ROWS * dim, 3.0f);
        kcheck_fill(kc, w, n * dim, 1.0f / sqrtf((float)dim));
        for (int r = 0; r < ROWS; r++)
            for (int k = 0; k < n; k++) {
                double sum = 0, length = 0;
                for (int d = 0; d < dim; d++) {
                    sum += (double)x[r * dim + d] * (double)w[k * dim + d];
                    length += (double)x[r * dim + d] * (double)x[r * dim + d];
                }
                want[r * n + k] = (float)(sum / sqrt(length));
            }
        struct tensor tx = kcheck_tensor(x, ROWS, dim), tw = kcheck_tensor(w, n, dim);
        struct tensor to = kcheck_tensor(out, ROWS, n), row = kcheck_tensor(x + dim, 1, dim);
        struct tensor tone = kcheck_tensor(one, 1, n);
        OP(be, cosine, .out = &to, .x = &tx, .w = &tw);
        kcheck_near(kc, want, out, ROWS * n, 1e-6f, 8, "cosine against doubles");
        OP(be, cosine, .out = &tone, .x = &row, .w = &tw);
        kcheck_same(kc, out + n, one, sizeof(float) * (size_t)n, "a row alone");
        for (int r = 0; r < ROWS; r++)
            x[r * dim] = r == 0 ? NAN : r == 1 ? INFINITY : 2e19f;
        OP(be, cosine, .out = &to, .x = &tx, .w = &tw);
        for (int k = 0; k < ROWS * n; k++)
            kcheck_that(kc, isnan(out[k]), "no length, no cosine");
    }
    be->close(be);
    kcheck_done(kc);
}

void kcheck_norm(struct kcheck *kc)
{
    if (KCHECK(kc, rmsnorm_row))
        check_row(kc);
    if (KCHECK_OP(kc, rmsnorm, rmsnorm_row))
        check_op(kc);
    if (KCHECK(kc, layernorm_row))
        check_layer_row(kc);
    if (KCHECK_OP(kc, layernorm, layernorm_row))
        check_layer_op(kc);
    if (KCHECK(kc, group_sums))
        check_group_loops(kc);
    if (KCHECK(kc, group_scale))
        check_group_loops(kc);
    if (KCHECK_OP(kc, groupnorm, group_sums))
        check_group_op(kc);
    if (KCHECK_OP(kc, cosine, rmsnorm_row))
        check_cosine(kc);
}
