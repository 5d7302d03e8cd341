/* attn against doubles; the same bits for a query alone, among others, and with other threads. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/kcheck/kcheck.h"

struct dense_case {
    int n_q, n_k, heads, dim;
    bool causal, aligned; /* aligned: rows begin at multiples of 16 bytes */
};

/* One query of one head in doubles. */
static void dense_exact(const struct dense_case *c, double *out, const float *q, const float *k,
                        const float *v, int stride, int query, float scale)
{
    int n_k = c->causal ? query + 1 + c->n_k - c->n_q : c->n_k;
    double m = -INFINITY, l = 0, score[5000];
    for (int i = 0; i < n_k; i++) {
        score[i] = 0;
        for (int d = 0; d < c->dim; d++)
            score[i] += (double)q[d] * (double)k[(int64_t)i * stride + d] * (double)scale;
        m = fmax(m, score[i]);
    }
    memset(out, 0, sizeof(double) * (size_t)c->dim);
    for (int i = 0; i < n_k; i++) {
        double p = exp(score[i] - m);
        l += p;
        for (int d = 0; d < c->dim; d++)
            out[d] += p * (double)v[(int64_t)i * stride + d];
    }
    for (int d = 0; d < c->dim; d++)
        out[d] /= l;
}

static void check_exact(struct kcheck *kc, const struct dense_case *c, const struct attn_item *t,
                        float scale, const float *out)
{
    /* A score's rounding grows with the root of the head's dims, and goes into the result as it is: 5.2e-6 at most over 22
     * seeds with 512 dims, 2.3e-6 below 256.  A device multiplies halves as they stand, and weights as one half. */
    const double f32_bound = 5e-6 * fmax(1, sqrt(c->dim / 256.0));
    double worst = 0, bound = kc->type == DTYPE_F32 ? f32_bound : 5e-4, want[ATTN_MAX_HEAD_DIM];
    const float *q = t->q, *k = t->k, *v = t->v;
    for (int i = 0; i < c->n_q; i += 1 + i / 7) {
        for (int h = 0; h < c->heads; h++) {
            int at = h * c->dim;
            dense_exact(c, want, q + (int64_t)i * t->q_stride + at, k + at, v + at, t->kv_stride, i,
                        scale);
            for (int d = 0; d < c->dim; d++)
                worst =
                    fmax(worst, fabs(want[d] - (double)out[(int64_t)i * t->out_stride + at + d]) -
                                    kcheck_slack(kc, want[d]));
        }
    }
    kcheck_that(kc, worst <= bound, "against doubles");
}

/* Two items of one call; the first one alone and a query of it alone must give the same bits. */
static void check_case(struct kcheck *kc, struct dense_case c)
{
    int wide = c.heads * c.dim, q_stride = wide + 3, kv_stride = wide + (c.aligned ? 8 : 5);
    size_t align = c.aligned ? 16 : sizeof(float);
    int64_t n_q = (int64_t)c.n_q * q_stride, n_k = (int64_t)c.n_k * kv_stride;
    int64_t n_out = (int64_t)c.n_q * wide;
    float *q = kcheck_in(kc, 2 * n_q);
    float *k = kcheck_in_bytes(kc, 2 * (size_t)n_k * sizeof *k, align);
    float *v = kcheck_in_bytes(kc, 2 * (size_t)n_k * sizeof *v, align);
    float *want = kcheck_out(kc, 2 * n_out), scale = 1.0f / sqrtf((float)c.dim);
    kcheck_fill(kc, q, 2 * n_q, 4.0f);
    kcheck_fill(kc, k, 2 * n_k, 2.0f);
    kcheck_fill(kc, v, 2 * n_k, 1.0f);
    for (int threads = 1; threads <= (kc->device ? 1 : 3); threads++) {
        struct backend *be = kcheck_backend(kc, threads);
        float *out = kcheck_out(kc, 2 * n_out), *one = kcheck_out(kc, n_out);
        struct attn_item items[2];
        for (int i = 0; i < 2; i++)
            items[i] = (struct attn_item){q + i * n_q,     k + i * n_k, v + i * n_k,
                                          out + i * n_out, c.n_q,       c.n_k,
                                          q_stride,        kv_stride,   wide};
        OP(be, attn, .items = items, .n_items = 2, .n_heads = c.heads, .head_dim = c.dim,
           .scale = scale, .causal = c.causal);
        for (int i = 0; i < 2 && threads == 1; i++)
            check_exact(kc, &c, &items[i], scale, out + i * n_out);
        if (threads == 1)
            memcpy(want, out, sizeof(float) * 2 * (size_t)n_out);
        kcheck_same(kc, want, out, sizeof(float) * 2 * (size_t)n_out, "threads");
        items[1].out = one;
        OP(be, attn, .items = &items[1], .n_items = 1, .n_heads = c.heads, .head_dim = c.dim,
           .scale = scale, .causal = c.causal);
        kcheck_same(kc, want + n_out, one, sizeof(float) * (size_t)n_out, "an item alone");
        int query = c.n_q - 1 - (int)(kcheck_random(kc) % 2) * (c.n_q / 3);
        items[1].q = q + n_q + (int64_t)query * q_stride;
        items[1].n_k -= c.causal ? c.n_q - 1 - query : 0;
        items[1].n_q = 1;
        OP(be, attn, .items = &items[1], .n_items = 1, .n_heads = c.heads, .head_dim = c.dim,
           .scale = scale, .causal = c.causal);
        kcheck_same(kc, want + n_out + (int64_t)query * wide, one, sizeof(float) * (size_t)wide,
                    "a query alone");
        be->close(be);
    }
    kcheck_done(kc);
}

/* Causal, on a device: a value that is no number shows in the queries that see its key, and in no bit of the
 * others.  (The CPU multiplies values of unseen keys by 0, which a NaN survives.) */
static void check_hidden(struct kcheck *kc, int n, int dim, int key, float odd)
{
    float *x = kcheck_in(kc, (int64_t)n * dim), *out[2];
    struct backend *be = kcheck_backend(kc, 1);
    kcheck_fill(kc, x, (int64_t)n * dim, 1.0f);
    float *v = kcheck_in(kc, (int64_t)n * dim);
    kcheck_fill(kc, v, (int64_t)n * dim, 1.0f);
    for (int i = 0; i < 2; i++) {
        out[i] = kcheck_out(kc, (int64_t)n * dim);
        struct attn_item item = {x, x, v, out[i], n, n, dim, dim, dim};
        OP(be, attn, .items = &item, .n_items = 1, .n_heads = 1, .head_dim = dim, .scale = 0.3f,
           .causal = true);
        v[key * dim + dim - 1] = odd;
    }
    bool same = true, shown = true;
    for (int r = 0; r < n; r++)
        for (int d = 0; d < dim; d++)
            if (r >= key && d == dim - 1)
                shown &= !isfinite(out[1][r * dim + d]);
            else
                same &= memcmp(out[0] + r * dim + d, out[1] + r * dim + d, sizeof(float)) == 0;
    kcheck_that(kc, same, "a NaN that is not seen changes nothing");
    kcheck_that(kc, shown, "a NaN that is seen shows");
    be->close(be);
    kcheck_done(kc);
}

static void check_op(struct kcheck *kc)
{
    static const struct dense_case cases[] = {
        {1, 1, 1, 1, false, false},      {5, 77, 2, 40, false, false},
        {77, 77, 3, 64, true, false},    {100, 300, 1, 80, true, true},
        {33, 600, 2, 160, false, false}, {40, 513, 1, 512, false, true},
        {64, 256, 2, 40, false, true},   {17, 257, 2, 7, true, false},
        {1, 77, 2, 256, false, true},    {17, 100, 2, 200, true, true},
        {77, 77, 1, 512, true, false},   {100, 17, 1, 161, false, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_case(kc, cases[i]);
    static const int dims[] = {40, 64, 80, 160, 256, 512};
    for (size_t i = 0; kc->device && i < sizeof(dims) / sizeof(dims[0]); i++) {
        check_hidden(kc, 77, dims[i], 70, NAN);
        check_hidden(kc, 90, dims[i], 20, INFINITY);
    }
}

struct dense_bench {
    struct backend *be;
    struct attn_item items[2];
    struct dense_case c;
};

static void dense_bench_run(void *arg)
{
    struct dense_bench *b = arg;
    OP(b->be, attn, .items = b->items, .n_items = 2, .n_heads = b->c.heads, .head_dim = b->c.dim,
       .scale = 0.125f, .causal = b->c.causal);
}

/* Of SD 1.5 at 256 x 256 with guidance, self and cross; SDXL at 512 x 512; VAE; CLIP. */
static void bench(struct kcheck *kc)
{
    static const struct dense_case cases[] = {
        {1024, 1024, 8, 40, false, true},  {1024, 77, 8, 40, false, true},
        {256, 256, 8, 80, false, true},    {256, 77, 8, 80, false, true},
        {64, 64, 8, 160, false, true},     {1024, 1024, 10, 64, false, true},
        {1024, 1024, 1, 512, false, true}, {77, 77, 12, 64, true, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct dense_bench b = {.be = kcheck_backend(kc, 2), .c = cases[i]};
        int wide = b.c.heads * b.c.dim;
        for (int t = 0; t < 2; t++) {
            int64_t n_q = (int64_t)b.c.n_q * wide, n_k = (int64_t)b.c.n_k * wide;
            float *q = kcheck_in(kc, n_q), *k = kcheck_in(kc, n_k), *v = kcheck_in(kc, n_k);
            kcheck_fill(kc, q, n_q, 1.0f);
            kcheck_fill(kc, k, n_k, 1.0f);
            kcheck_fill(kc, v, n_k, 1.0f);
            b.items[t] = (struct attn_item){q,    k,    v,   kcheck_out(kc, n_q), b.c.n_q, b.c.n_k,
                                            wide, wide, wide};
        }
        char what[80];
        snprintf(what, sizeof(what), "attn 2x%dx%d %d heads of %d", b.c.n_q, b.c.n_k, b.c.heads,
                 b.c.dim);
        kcheck_bench(kc, what, 8.0 * wide * b.c.n_q * b.c.n_k, "GFLOP/s", dense_bench_run, &b);
        b.be->close(b.be);
        kcheck_done(kc);
    }
}

void kcheck_dense(struct kcheck *kc)
{
    if (!KCHECK_OP(kc, attn, attn_dense_chunk))
        return;
    check_op(kc);
    if (kc->bench && kc->isa != CPU_SCALAR)
        bench(kc);
}
