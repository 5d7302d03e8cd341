/* sgemm against scalar; conv2d against doubles; the same bits for every cut of the rows, number of threads and batch. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/cpu/conv.h"
#include "kernels/cpu/conv_win.h"
#include "kernels/cpu/sgemm.h"
#include "kernels/quant.h"
#include "tests/kcheck/kcheck.h"

struct conv_case {
    enum dtype type;
    int n, h, w, c_in, c_out, kernel, stride, before, after;
    bool upsample, bias, image, add;
    enum act act;
    int cut; /* of upsample's rows and columns */
};

struct conv_data {
    struct conv_case c;
    int ho, wo;
    int64_t n_x, n_out; /* floats of an image of x, of out */
    float *x, *bias, *image, *add, *plain;
    void *raw;
};

static struct conv_data conv_new(struct kcheck *kc, struct conv_case c)
{
    struct conv_data d = {.c = c};
    const int up = c.upsample ? 2 : 1, pads = c.before + c.after - c.kernel;
    int64_t n_w = (int64_t)c.c_out * c.kernel * c.kernel * c.c_in;
    d.ho = (c.h * up - c.cut + pads) / c.stride + 1;
    d.wo = (c.w * up - c.cut + pads) / c.stride + 1;
    d.n_x = (int64_t)c.h * c.w * c.c_in;
    d.n_out = (int64_t)d.ho * d.wo * c.c_out;
    d.x = kcheck_in(kc, c.n * d.n_x);
    d.bias = kcheck_in(kc, c.c_out);
    d.image = kcheck_in(kc, (int64_t)c.n * c.c_out);
    d.add = kcheck_in(kc, c.n * d.n_out);
    d.raw = kcheck_in_bytes(kc, dtype_bytes(c.type, n_w), 1);
    d.plain = xmalloc((size_t)n_w * sizeof(float));
    kcheck_fill(kc, d.x, c.n * d.n_x, 1.0f);
    kcheck_fill(kc, d.bias, c.c_out, 1.0f);
    kcheck_fill(kc, d.image, (int64_t)c.n * c.c_out, 1.0f);
    kcheck_fill(kc, d.add, c.n * d.n_out, 1.0f);
    kcheck_fill(kc, d.plain, n_w, 1.0f);
    quant_pack(c.type, d.raw, d.plain, n_w);
    quant_unpack(c.type, d.plain, d.raw, n_w);
    return d;
}

static double conv_sum(const struct conv_data *d, int image, int y, int x, int o, double *size)
{
    const struct conv_case *c = &d->c;
    int up = c->upsample ? 2 : 1;
    double sum = 0;
    for (int t = 0; t < c->kernel * c->kernel; t++) {
        int iy = y * c->stride + t / c->kernel - c->before;
        int ix = x * c->stride + t % c->kernel - c->before;
        if (iy < 0 || ix < 0 || iy >= c->h * up - c->cut || ix >= c->w * up - c->cut)
            continue;
        const float *in = d->x + image * d->n_x + ((int64_t)(iy / up) * c->w + ix / up) * c->c_in;
        const float *w = d->plain + ((int64_t)o * c->kernel * c->kernel + t) * c->c_in;
        for (int k = 0; k < c->c_in; k++) {
            sum += (double)in[k] * (double)w[k];
            *size += fabs((double)in[k] * (double)w[k]);
        }
    }
    return sum;
}

static void check_exact(struct kcheck *kc, const struct conv_data *d, const float *got)
{
    const struct conv_case *c = &d->c;
    /* a device may take x as two bf16 */
    double worst = 0, bound = kc->device && c->type == DTYPE_BF16 ? 6e-6 : 3e-6;
    for (int64_t i = 0; i < c->n * d->n_out; i++) {
        int o = (int)(i % c->c_out), image = (int)(i / d->n_out);
        int x = (int)(i / c->c_out % d->wo), y = (int)(i / c->c_out / d->wo % d->ho);
        double size = 2, sum = conv_sum(d, image, y, x, o, &size);
        sum += c->bias ? (double)d->bias[o] : 0;
        sum += c->image ? (double)d->image[image * c->c_out + o] : 0;
        sum += c->add ? (double)d->add[i] : 0;
        sum = c->act == ACT_SILU ? sum / (1 + exp(-sum)) : c->act == ACT_RELU ? fmax(sum, 0) : sum;
        worst = fmax(worst, fabs(sum - (double)got[i]) / (bound * size + kcheck_slack(kc, sum)));
    }
    kcheck_that(kc, worst <= 1.0, "against doubles");
}

static struct tensor map(const float *data, int n, int h, int w, int c)
{
    return (struct tensor){
        .data = (void *)(uintptr_t)data, .type = DTYPE_F32, .ndim = 4, .dims = {n, h, w, c}};
}

/* Images [first, first + n), rows [y_begin, y_end) of them; out is that of the first image. */
static void conv_run(struct backend *be, const struct conv_data *d, const struct weight *w,
                     int first, int n, int y_begin, int y_end, float *out)
{
    const struct conv_case *c = &d->c;
    struct tensor x = map(d->x + first * d->n_x, n, c->h, c->w, c->c_in);
    struct tensor to = map(out, n, d->ho, d->wo, c->c_out);
    struct tensor bias = kcheck_tensor(d->bias, c->c_out, 0);
    struct tensor image = kcheck_tensor(d->image + (int64_t)first * c->c_out, n, c->c_out);
    OP(be, conv2d, .out = &to, .x = &x, .w = w, .bias = c->bias ? &bias : NULL,
       .add_image = c->image ? &image : NULL, .add = c->add ? &to : NULL, .kernel = c->kernel,
       .stride = c->stride, .pad_before = c->before, .pad_after = c->after, .upsample = c->upsample,
       .y_begin = y_begin, .y_end = y_end, .act = c->act);
}

/* The whole result of the scalar level. */
static void conv_law(struct kcheck *kc, const struct conv_data *d, float *out)
{
    const struct conv_case *c = &d->c;
    struct backend *law = NULL;
    struct weight *w = NULL;
    kcheck_that(kc, backend_open(&law, "cpu/scalar", 2, NULL) == 0, "scalar backend");
    kcheck_that(kc,
                law->weight_open(law, &w, c->type, c->c_out,
                                 (int64_t)c->kernel * c->kernel * c->c_in, d->raw, NULL) == 0,
                "weight_open");
    memcpy(out, d->add, sizeof(float) * (size_t)(c->n * d->n_out));
    conv_run(law, d, w, 0, c->n, 0, 0, out);
    law->weight_close(law, w);
    law->close(law);
}

static void check_case(struct kcheck *kc, struct conv_case c)
{
    struct conv_data d = conv_new(kc, c);
    size_t one = sizeof(float) * (size_t)d.n_out, all = one * (size_t)c.n;
    float *want = kcheck_out(kc, c.n * d.n_out);
    for (int threads = 1; threads <= (kc->device ? 1 : 3); threads++) {
        struct backend *be = kcheck_backend(kc, threads);
        struct weight *w = NULL;
        kcheck_that(kc,
                    be->weight_open(be, &w, c.type, c.c_out, (int64_t)c.kernel * c.kernel * c.c_in,
                                    d.raw, NULL) == 0,
                    "weight_open");
        float *out = kcheck_out(kc, c.n * d.n_out);
        memcpy(out, d.add, all);
        conv_run(be, &d, w, 0, c.n, 0, 0, out);
        if (threads == 1) {
            check_exact(kc, &d, out);
            memcpy(want, out, all);
            conv_law(kc, &d, out);
            /* exp is not the same on all levels, and a device sums in an order of its own */
            if (c.act != ACT_SILU && !kc->device)
                kcheck_same(kc, want, out, all, "another level");
            memcpy(out, want, all);
        }
        kcheck_same(kc, want, out, all, "another number of threads");
        memcpy(out, d.add, all);
        for (int y = 0, n; y < d.ho; y += n) {
            n = 1 + (int)(kcheck_random(kc) % (uint32_t)(d.ho - y));
            conv_run(be, &d, w, 0, c.n, y, y + n, out);
        }
        kcheck_same(kc, want, out, all, "cut at rows");
        memcpy(out, d.add + (c.n - 1) * d.n_out, one);
        conv_run(be, &d, w, c.n - 1, 1, 0, 0, out);
        kcheck_same(kc, want + (c.n - 1) * d.n_out, out, one, "an image alone");
        be->weight_close(be, w);
        be->close(be);
    }
    free(d.plain);
    kcheck_done(kc);
}

static void check_op(struct kcheck *kc)
{
    static const struct conv_case cases[] = {
        {DTYPE_F16, 2, 7, 9, 20, 40, 3, 1, 1, 1, .bias = true, .image = true},
        {DTYPE_F32, 1, 8, 8, 4, 33, 3, 1, 1, 1, .bias = true, .act = ACT_SILU},
        {DTYPE_F16, 2, 9, 6, 17, 3, 3, 1, 1, 1, .bias = true, .add = true, .act = ACT_RELU},
        {DTYPE_BF16, 1, 8, 10, 33, 16, 3, 2, 1, 1, .bias = true},
        {DTYPE_F16, 1, 9, 9, 16, 48, 3, 2, 0, 1, .upsample = false},
        {DTYPE_F16, 2, 5, 4, 24, 17, 3, 1, 1, 1, .upsample = true, .bias = true, .add = true},
        {DTYPE_F16, 3, 1, 1, 70, 32, 3, 1, 1, 1, .image = true},
        {DTYPE_F32, 1, 12, 5, 6, 15, 5, 1, 2, 2, .bias = true},
        {DTYPE_F32, 1, 16, 16, 3, 20, 4, 4, 0, 0, .upsample = false},
        {DTYPE_F16, 1, 3, 5, 130, 65, 1, 1, 0, 0, .bias = true},
        {DTYPE_F16, 1, 20, 11, 211, 40, 3, 1, 1, 1, .bias = true, .add = true},
        {DTYPE_BF16, 2, 6, 7, 101, 50, 3, 1, 1, 1, .upsample = true, .image = true},
        {DTYPE_F16, 1, 19, 33, 48, 80, 3, 1, 1, 1, .bias = true, .add = true},
        {DTYPE_F16, 2, 5, 4, 24, 17, 3, 1, 1, 1, .upsample = true, .bias = true, .cut = 1},
        {DTYPE_F32, 1, 1, 7, 9, 20, 3, 1, 1, 1, .upsample = true, .add = true, .cut = 1},
        {DTYPE_F16, 1, 14, 15, 40, 20, 3, 1, 1, 1, .bias = true},
        {DTYPE_BF16, 2, 11, 13, 24, 150, 3, 1, 1, 1, .upsample = true, .bias = true, .add = true},
        {DTYPE_F16, 1, 14, 15, 8, 33, 5, 1, 2, 2, .image = true},
        /* seven tiles: blocks of a device with four multiprocessors end one and begin the next */
        {DTYPE_F16, 1, 28, 29, 8, 20, 3, 1, 1, 1, .bias = true, .add = true},
        {DTYPE_BF16, 2, 5, 5, 48, 880, 1, 1, 0, 0, .bias = true, .image = true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_case(kc, cases[i]);
}

struct conv_bench {
    struct backend *be;
    struct weight *w;
    struct conv_data d;
    float *out;
};

static void conv_bench_run(void *arg)
{
    struct conv_bench *b = arg;
    conv_run(b->be, &b->d, b->w, 0, b->d.c.n, 0, 0, b->out);
}

/* Layers of SD 1.5 at 256 x 256: UNet with guidance (two images), VAE decoder. */
static void bench(struct kcheck *kc)
{
    static const struct conv_case cases[] = {
        {DTYPE_F16, 2, 32, 32, 320, 320, 3, 1, 1, 1, .bias = true},
        {DTYPE_F16, 2, 16, 16, 640, 640, 3, 1, 1, 1, .bias = true},
        {DTYPE_F16, 2, 8, 8, 1280, 1280, 3, 1, 1, 1, .bias = true},
        {DTYPE_F16, 2, 4, 4, 2560, 1280, 3, 1, 1, 1, .bias = true},
        {DTYPE_F16, 2, 32, 32, 960, 320, 3, 1, 1, 1, .bias = true},
        {DTYPE_F16, 2, 32, 32, 320, 4, 3, 1, 1, 1, .bias = true},
        {DTYPE_F16, 1, 64, 64, 512, 512, 3, 1, 1, 1, .bias = true},
        {DTYPE_F16, 1, 128, 128, 256, 256, 3, 1, 1, 1, .upsample = true, .bias = true},
        {DTYPE_F16, 1, 256, 256, 128, 128, 3, 1, 1, 1, .bias = true},
        {DTYPE_F16, 1, 256, 256, 128, 3, 3, 1, 1, 1, .bias = true},
    };
    struct backend_limits l = {0};
    struct backend *be = kcheck_backend(kc, 2);
    be->limits(be, 1 << 20, &l, NULL);
    printf("       f32 peak of 2 threads: %.1f GFLOP/s\n", l.f32_ops_per_s * 1e-9);
    be->close(be);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct conv_case *c = &cases[i];
        struct conv_bench b = {.be = kcheck_backend(kc, 2), .d = conv_new(kc, *c)};
        int64_t n_in = (int64_t)c->kernel * c->kernel * c->c_in;
        b.out = kcheck_out(kc, c->n * b.d.n_out);
        kcheck_that(kc, b.be->weight_open(b.be, &b.w, c->type, c->c_out, n_in, b.d.raw, NULL) == 0,
                    "weight_open");
        char what[80];
        snprintf(what, sizeof(what), "conv %dx%dx%d %d > %d%s", c->n, b.d.ho, b.d.wo, c->c_in,
                 c->c_out, c->upsample ? " upsample" : "");
        kcheck_bench(kc, what, 2.0 * c->n * (double)b.d.n_out * (double)n_in, "GFLOP/s",
                     conv_bench_run, &b);
        b.be->weight_close(b.be, b.w);
        b.be->close(b.be);
        free(b.d.plain);
        kcheck_done(kc);
    }
}

/* The same bits as the scalar level, for every number of rows and however k is cut. */
static void check_sgemm(struct kcheck *kc, bool cols)
{
    enum { K = 70, PANELS = 3, STRIDE = 29 };
    for (int rows = 1; rows <= 25; rows++) {
        int64_t n_x = cols ? K * STRIDE : (int64_t)(rows - 1) * SGEMM_STRIDE + K;
        int64_t n_w = (int64_t)PANELS * K * SGEMM_PANEL,
                n_sum = (int64_t)rows * PANELS * SGEMM_PANEL;
        float *x = kcheck_in(kc, n_x), *w = kcheck_in(kc, n_w);
        float *a = kcheck_out(kc, n_sum), *b = kcheck_out(kc, n_sum);
        kcheck_fill(kc, x, n_x, 1.0f);
        kcheck_fill(kc, w, n_w, 1.0f);
        struct sgemm t = {.x = x,
                          .x_stride = STRIDE,
                          .w = w,
                          .w_panel = K * SGEMM_PANEL,
                          .sum = a,
                          .sum_panel = (int64_t)(rows % 2 ? rows : 1) * SGEMM_PANEL,
                          .sum_row = (int64_t)(rows % 2 ? 1 : PANELS) * SGEMM_PANEL,
                          .n_rows = rows,
                          .n_panels = 1 + rows % PANELS,
                          .n_k = K,
                          .first = true};
        memset(a, 0, sizeof(float) * (size_t)n_sum);
        memset(b, 0, sizeof(float) * (size_t)n_sum);
        (cols ? kc->ref->sgemm_cols : kc->ref->sgemm_rows)(&t);
        t.sum = b;
        for (int k = 0; k < K; k += t.n_k) {
            t.n_k = 1 + (int)(kcheck_random(kc) % (uint32_t)(K - k));
            t.x = x + k * (cols ? STRIDE : 1);
            t.w = w + (int64_t)k * SGEMM_PANEL;
            t.first = k == 0;
            (cols ? kc->var->sgemm_cols : kc->var->sgemm_rows)(&t);
        }
        kcheck_same(kc, a, b, sizeof(float) * (size_t)n_sum, "sums");
        kcheck_done(kc);
    }
}

static void check_expand(struct kcheck *kc)
{
    enum { N = 16 * 7 };
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (int i = 0; i < 3; i++) {
        float *x = kcheck_in(kc, N), *a = kcheck_out(kc, N), *b = kcheck_out(kc, N);
        void *raw = kcheck_in_bytes(kc, dtype_bytes(types[i], N), 2);
        kcheck_fill(kc, x, N, 3.0f);
        quant_pack(types[i], raw, x, N);
        kc->ref->sgemm_expand(a, types[i], raw, N);
        kc->var->sgemm_expand(b, types[i], raw, N);
        kcheck_same(kc, a, b, sizeof(float) * N, dtype_name(types[i]));
        kcheck_done(kc);
    }
}

/* The transforms of tiles, the same bits on all levels. */
static void check_win_input(struct kcheck *kc)
{
    for (int n = 1; n <= 50; n += n < 18 ? 1 : 7) {
        for (int size = 3; size <= 4; size++) {
            const float *x[16];
            float *a = kcheck_out(kc, size * size * n), *b = kcheck_out(kc, size * size * n);
            for (int i = 0; i < size * size; i++) {
                float *pixel = kcheck_in(kc, n);
                kcheck_fill(kc, pixel, n, 1.0f);
                x[i] = pixel;
            }
            kc->ref->conv_win_input(size, a, (int64_t)size * n, n, x, n);
            kc->var->conv_win_input(size, b, (int64_t)size * n, n, x, n);
            kcheck_same(kc, a, b, sizeof(float) * (size_t)(size * size * n), "inputs");
            kcheck_done(kc);
        }
    }
}

/* The tasks cover all tiles and panels, however many there are. */
static void check_win_cut(struct kcheck *kc)
{
    static const int64_t n_tiles[] = {1, 13, 1000, 957349, 1 << 20, (int64_t)1 << 31};
    const struct op_conv2d op = {.kernel = 3};
    for (size_t i = 0; i < sizeof n_tiles / sizeof *n_tiles; i++) {
        for (int panels = 1; panels <= 81; panels += 16) {
            const struct cpu_weight w = {.n_panels = panels};
            struct conv_job j = {.p = &op, .w = &w, .c_in = 64};
            conv_win_cut(&j, n_tiles[i], 3);
            const bool cut = j.k_block > 0 && j.n_row_tasks > 0;
            kcheck_that(kc, cut && j.task_rows * j.n_row_tasks >= n_tiles[i],
                        "a cut has all tiles");
            kcheck_that(kc, cut && j.task_panels * (j.n_tasks / j.n_row_tasks) >= panels,
                        "a cut has all panels");
        }
    }
}

static void check_win_weights(struct kcheck *kc)
{
    enum { N = 5, TAP = N * 16 };
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (int i = 0; i < 3; i++) {
        for (int size = 3; size <= 4; size++) {
            float *x = kcheck_in(kc, 9 * TAP), *a = kcheck_out(kc, 16 * TAP);
            float *b = kcheck_out(kc, 16 * TAP);
            char *raw = kcheck_in_bytes(kc, dtype_bytes(types[i], 9 * TAP), 2);
            kcheck_fill(kc, x, 9 * TAP, 1.0f);
            quant_pack(types[i], raw, x, 9 * TAP);
            struct conv_win_weights t = {.type = types[i],
                                         .size = size,
                                         .panel = raw,
                                         .tap_bytes = (int64_t)dtype_bytes(types[i], TAP),
                                         .to = a,
                                         .to_stride = TAP,
                                         .n = N};
            kc->ref->conv_win_weights(&t);
            t.to = b;
            kc->var->conv_win_weights(&t);
            kcheck_same(kc, a, b, sizeof(float) * TAP * (size_t)(size * size), "weights");
            kcheck_done(kc);
        }
    }
}

static void check_win_output(struct kcheck *kc)
{
    enum { N = 48, STRIDE = 3 * N };
    for (int size = 3; size <= 4; size++) {
        float *m = kcheck_in(kc, 15 * STRIDE + N), *a = kcheck_out(kc, 4 * N);
        float *b = kcheck_out(kc, 4 * N);
        kcheck_fill(kc, m, 15 * STRIDE + N, 1.0f);
        kc->ref->conv_win_output(size, a, m, STRIDE, N);
        kc->var->conv_win_output(size, b, m, STRIDE, N);
        kcheck_same(kc, a, b, sizeof(float) * 4 * N, "outputs");
        kcheck_done(kc);
    }
}

void kcheck_conv(struct kcheck *kc)
{
    if (KCHECK(kc, conv_win_input))
        check_win_input(kc);
    if (KCHECK(kc, conv_win_weights))
        check_win_weights(kc);
    if (KCHECK(kc, conv_win_output))
        check_win_output(kc);
    if (KCHECK(kc, sgemm_rows))
        check_sgemm(kc, false);
    if (KCHECK(kc, sgemm_cols))
        check_sgemm(kc, true);
    if (KCHECK(kc, sgemm_expand))
        check_expand(kc);
    if (!KCHECK_OP(kc, conv2d, sgemm_rows))
        return;
    check_win_cut(kc);
    check_op(kc);
    if (kc->bench && kc->isa != CPU_SCALAR)
        bench(kc);
}
