/* lowrank against its formula as it stands in kernels/ops.h, bit for bit: ranks, types, windows, several terms an
 * image and none; the same bits for other cuts of the rows and numbers of threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/quant.h"
#include "tests/kcheck/kcheck.h"

enum { TERMS = 3, IMAGES = 3 };

struct lowrank_case {
    enum dtype type;
    int h, w, c_in, c_out, kernel, stride;
    bool upsample;
    int rank[TERMS];
    int cut; /* of upsample's rows and columns */
};

struct lowrank_data {
    struct lowrank_case c;
    int ho, wo;
    int64_t n_x, n_out; /* floats in all */
    float *x, *out;
    float *down[TERMS], *up[TERMS]; /* as floats */
    struct weight *w_down[TERMS], *w_up[TERMS];
    struct lowrank_term terms[TERMS];
    struct lowrank_image images[IMAGES];
};

static float *matrix(struct kcheck *kc, struct backend *be, struct weight **w, enum dtype type,
                     int64_t n_out, int64_t n_in)
{
    const int64_t n = n_out * n_in;
    float *plain = xmalloc((size_t)n * sizeof *plain);
    void *raw = xmalloc(dtype_bytes(type, n));
    struct err e;
    kcheck_fill(kc, plain, n, 0.5f);
    quant_pack(type, raw, plain, n);
    quant_unpack(type, plain, raw, n);
    kcheck_that(kc, be->weight_open(be, w, type, n_out, n_in, raw, &e) == 0, "weight");
    free(raw);
    return plain;
}

static void open_case(struct kcheck *kc, struct lowrank_data *d, struct backend *be)
{
    const struct lowrank_case *c = &d->c;
    const int up = c->upsample ? 2 : 1, pads = 2 * (c->kernel / 2) - c->kernel;
    d->ho = (c->h * up - c->cut + pads) / c->stride + 1;
    d->wo = (c->w * up - c->cut + pads) / c->stride + 1;
    d->n_x = (int64_t)IMAGES * c->h * c->w * c->c_in;
    d->n_out = (int64_t)IMAGES * d->ho * d->wo * c->c_out;
    d->x = kcheck_in(kc, d->n_x);
    d->out = kcheck_in(kc, d->n_out);
    kcheck_fill(kc, d->x, d->n_x, 1.0f);
    kcheck_fill(kc, d->out, d->n_out, 1.0f);
    for (int i = 0; i < TERMS; i++) {
        d->down[i] = matrix(kc, be, &d->w_down[i], c->type, c->rank[i],
                            (int64_t)c->kernel * c->kernel * c->c_in);
        d->up[i] = matrix(kc, be, &d->w_up[i], c->type, c->c_out, c->rank[i]);
        d->terms[i] = (struct lowrank_term){d->w_down[i], d->w_up[i], 0.75f - (float)i};
    }
    d->images[0] = (struct lowrank_image){d->terms + 1, 1};
    d->images[1] = (struct lowrank_image){NULL, 0};
    d->images[2] = (struct lowrank_image){d->terms, TERMS};
}

static float element(const struct lowrank_data *d, int image, int y, int x, int64_t k)
{
    const struct lowrank_case *c = &d->c;
    const int tap = (int)(k / c->c_in), up = c->upsample ? 2 : 1;
    const int iy = y * c->stride + tap / c->kernel - c->kernel / 2;
    const int ix = x * c->stride + tap % c->kernel - c->kernel / 2;
    if (iy < 0 || ix < 0 || iy >= c->h * up - c->cut || ix >= c->w * up - c->cut)
        return 0;
    return d->x[((image * c->h + iy / up) * c->w + ix / up) * c->c_in + k % c->c_in];
}

/* The formula; each term's result is rounded to the type of out. */
static void law(const struct kcheck *kc, const struct lowrank_data *d, float *want)
{
    const struct lowrank_case *c = &d->c;
    const int64_t n_in = (int64_t)c->kernel * c->kernel * c->c_in;
    float *h = xmalloc(512 * sizeof *h);
    memcpy(want, d->out, (size_t)d->n_out * sizeof *want);
    for (int r = 0; r < IMAGES * d->ho * d->wo; r++) {
        const int image = r / (d->ho * d->wo), y = r / d->wo % d->ho, x = r % d->wo;
        const struct lowrank_image *im = &d->images[image];
        for (int t = 0; t < im->n; t++) {
            const int64_t i = &im->terms[t] - d->terms;
            for (int j = 0; j < c->rank[i]; j++) {
                float sum = 0;
                for (int64_t tap = 0; tap < n_in; tap += c->c_in) {
                    float of_tap = 0;
                    for (int64_t k = tap; k < tap + c->c_in; k++)
                        of_tap = fmaf(d->down[i][j * n_in + k], element(d, image, y, x, k), of_tap);
                    sum += of_tap;
                }
                h[j] = sum * im->terms[t].scale;
            }
            for (int o = 0; o < c->c_out; o++) {
                float *to = &want[(int64_t)r * c->c_out + o];
                for (int j = 0; j < c->rank[i]; j++)
                    *to = fmaf(d->up[i][(int64_t)o * c->rank[i] + j], h[j], *to);
                kcheck_round(kc, to, 1);
            }
        }
    }
    free(h);
}

static void run(struct backend *be, const struct lowrank_data *d, float *out, int64_t begin,
                int64_t end)
{
    const struct lowrank_case *c = &d->c;
    const bool window = c->kernel > 1 || c->stride > 1 || c->upsample;
    struct tensor x = {.data = d->x, .type = DTYPE_F32, .ndim = 4};
    const int64_t dims[4] = {IMAGES, c->h, c->w, c->c_in};
    memcpy(x.dims, dims, sizeof dims);
    if (!window)
        x = kcheck_tensor(d->x + begin * c->c_in, end - begin, c->c_in);
    struct tensor to = kcheck_tensor(out + begin * c->c_out, end - begin, c->c_out);
    OP(be, lowrank, .out = &to, .x = &x, .images = d->images, .image_rows = (int64_t)d->ho * d->wo,
       .first = begin, .out_w = d->wo, .kernel = c->kernel, .stride = c->stride,
       .pad_before = c->kernel / 2, .upsample = c->upsample);
}

static void check_case(struct kcheck *kc, const struct lowrank_case *c)
{
    float *want = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        struct backend *be = kcheck_backend(kc, threads);
        struct lowrank_data d = {.c = *c};
        open_case(kc, &d, be);
        const int64_t rows = (int64_t)IMAGES * d.ho * d.wo;
        const size_t bytes = (size_t)d.n_out * sizeof(float);
        float *out = kcheck_out(kc, d.n_out);
        want = xmalloc(bytes);
        law(kc, &d, want);
        memcpy(out, d.out, bytes);
        run(be, &d, out, 0, rows);
        kcheck_same(kc, want, out, bytes, "against the formula");
        memcpy(out, d.out, bytes);
        const int64_t cut = 1 + kcheck_random(kc) % (uint32_t)(rows - 1);
        run(be, &d, out, 0, cut);
        run(be, &d, out, cut, rows);
        kcheck_same(kc, want, out, bytes, "cut in two");
        free(want);
        for (int i = 0; i < TERMS; i++) {
            be->weight_close(be, d.w_down[i]);
            be->weight_close(be, d.w_up[i]);
            free(d.down[i]);
            free(d.up[i]);
        }
        be->close(be);
        kcheck_done(kc);
    }
}

struct lowrank_bench {
    struct backend *be;
    struct lowrank_data *d;
};

static void bench_run(void *arg)
{
    struct lowrank_bench *b = arg;
    run(b->be, b->d, b->d->out, 0, (int64_t)IMAGES * b->d->ho * b->d->wo);
}

static void bench(struct kcheck *kc, const struct lowrank_case *c, const char *what)
{
    struct backend *be = kcheck_backend(kc, 1);
    struct lowrank_data d = {.c = *c};
    if (!kc->bench) {
        be->close(be);
        return;
    }
    open_case(kc, &d, be);
    struct lowrank_bench b = {be, &d};
    double macs = 0;
    for (int i = 0; i < IMAGES; i++)
        for (int t = 0; t < d.images[i].n; t++)
            macs += (double)d.ho * d.wo * (double)d.images[i].terms[t].down->n_out *
                    (double)(c->kernel * c->kernel * c->c_in + c->c_out);
    kcheck_bench(kc, what, 2 * macs, "GFLOP/s", bench_run, &b);
    for (int i = 0; i < TERMS; i++) {
        be->weight_close(be, d.w_down[i]);
        be->weight_close(be, d.w_up[i]);
        free(d.down[i]);
        free(d.up[i]);
    }
    be->close(be);
    kcheck_done(kc);
}

void kcheck_lowrank(struct kcheck *kc)
{
    if (!KCHECK_OP(kc, lowrank, sgemm_rows))
        return;
    static const struct lowrank_case cases[] = {
        {DTYPE_F32, 5, 7, 24, 40, 1, 1, false, .rank = {4, 16, 3}},
        {DTYPE_F16, 9, 11, 33, 17, 1, 1, false, .rank = {1, 40, 8}},
        {DTYPE_F32, 1, 1, 64, 130, 1, 1, false, .rank = {400, 2, 390}},
        {DTYPE_F16, 6, 6, 12, 20, 3, 1, false, .rank = {5, 8, 16}},
        {DTYPE_BF16, 6, 8, 50, 32, 3, 2, false, .rank = {4, 4, 20}},
        {DTYPE_F32, 3, 4, 8, 16, 3, 1, true, .rank = {2, 4, 3}},
        {DTYPE_F16, 3, 4, 24, 16, 3, 1, true, .rank = {8, 20, 3}, .cut = 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_case(kc, &cases[i]);
    bench(kc,
          &(struct lowrank_case){DTYPE_F16, 32, 32, 640, 640, 1, 1, false, .rank = {16, 16, 16}},
          "linear 640, rank 16");
    bench(kc,
          &(struct lowrank_case){DTYPE_F16, 32, 32, 640, 640, 3, 1, false, .rank = {16, 16, 16}},
          "conv 640, rank 16");
}
