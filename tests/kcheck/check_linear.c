/* linear: every weight type and level against the scalar level (same bits), the scalar level against
 * doubles, rows alone against rows together, any number of threads; weight_row against quant_unpack;
 * embed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/cpu/linear.h"
#include "kernels/quant.h"
#include "tests/kcheck/kcheck.h"

static const enum dtype types[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q4_0,   DTYPE_Q4_1,
                                   DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q8_0, DTYPE_Q2_K,   DTYPE_Q3_K,
                                   DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_MXFP4};
#define N_TYPES ((int)(sizeof(types) / sizeof(types[0])))

/* A device's error, of the sum of magnitudes. */
#define DEVICE_BLOCKS 4e-4 /* x has 11 bits; or the weights of a library's product */
#define DEVICE_PLAIN  2e-5

struct matrix {
    enum dtype type;
    int64_t n_out, n_in;
    void *raw;    /* packed rows */
    float *plain; /* [n_out, n_in] what they mean */
    float *parts; /* [n_out, n_in] |D q| + |M| where that is D q + M, else |plain| */
};

/* Of what a sum over parts that cancel is off, D and M being applied apart: a few roundings of f32. */
#define PARTS_BOUND 5e-7

static const struct {
    enum dtype type;
    int at[2]; /* of the f16 scales D and M in a block; -1 for none */
} scales_of[] = {{DTYPE_Q4_0, {0, -1}},   {DTYPE_Q4_1, {0, 2}},   {DTYPE_Q5_0, {0, -1}},
                 {DTYPE_Q5_1, {0, 2}},    {DTYPE_Q8_0, {0, -1}},  {DTYPE_Q2_K, {80, 82}},
                 {DTYPE_Q3_K, {108, -1}}, {DTYPE_Q4_K, {0, 2}},   {DTYPE_Q5_K, {0, 2}},
                 {DTYPE_Q6_K, {208, -1}}, {DTYPE_IQ4_NL, {0, -1}}};
#define N_SCALES (sizeof(scales_of) / sizeof(scales_of[0]))

static int min_at(enum dtype type)
{
    for (size_t h = 0; h < N_SCALES; h++)
        if (scales_of[h].type == type)
            return scales_of[h].at[1];
    return -1;
}

/* D q is what the weights would mean if M were 0. */
static void fill_parts(const struct matrix *m)
{
    const int at = min_at(m->type);
    const int64_t n = m->n_out * m->n_in;
    memcpy(m->parts, m->plain, (size_t)n * sizeof(float));
    if (at >= 0) {
        const size_t bytes = dtype_bytes(m->type, n), size = (size_t)dtype_block_bytes(m->type);
        uint8_t *without = xmalloc(bytes);
        memcpy(without, m->raw, bytes);
        for (size_t b = 0; b < bytes; b += size)
            memset(without + b + at, 0, 2);
        quant_unpack(m->type, m->parts, without, n);
        free(without);
    }
    for (int64_t i = 0; i < n; i++)
        m->parts[i] = fabsf(m->parts[i]) + fabsf(m->plain[i] - m->parts[i]);
}

/* Random bits as codes, so that extremes occur; scales of about 1/16, also negative. */
static struct matrix matrix_new(struct kcheck *kc, enum dtype type, int64_t n_out, int64_t n_in)
{
    size_t bytes = dtype_bytes(type, n_out * n_in), size = (size_t)dtype_block_bytes(type);
    struct matrix m = {type, n_out, n_in, kcheck_in_bytes(kc, bytes, 1), NULL, NULL};
    m.plain = xmalloc(2 * (size_t)(n_out * n_in) * sizeof(float));
    m.parts = m.plain + n_out * n_in; /* freed with it */
    uint8_t *p = m.raw;
    if (dtype_block(type) == 1) {
        kcheck_fill(kc, m.plain, n_out * n_in, 1.0f);
        quant_pack(type, p, m.plain, n_out * n_in);
    } else {
        for (size_t i = 0; i < bytes; i++)
            p[i] = (uint8_t)(kcheck_random(kc) >> 7);
        /* the first row: the largest codes, against overflow of partial sums */
        memset(p, type == DTYPE_Q8_0 ? 0x7f : 0xff, dtype_bytes(type, n_in));
        for (size_t b = 0; b < bytes; b += size) {
            if (type == DTYPE_MXFP4)
                p[b] = (uint8_t)(120 + p[b] % 6);
            for (size_t h = 0; h < N_SCALES; h++) {
                for (int i = 0; i < 2 && scales_of[h].type == type && scales_of[h].at[i] >= 0;
                     i++) {
                    float scale;
                    kcheck_fill(kc, &scale, 1, 0.125f);
                    uint16_t half = f32_to_f16(scale);
                    memcpy(p + b + scales_of[h].at[i], &half, 2);
                }
            }
        }
    }
    quant_unpack(type, m.plain, p, n_out * n_in);
    fill_parts(&m);
    return m;
}

/* A backend's op over one matrix. */
static void run(struct backend *be, const struct weight *w, bool precise, const float *x,
                int64_t rows, const float *bias, const float *add, float *out)
{
    struct tensor tx = kcheck_tensor(x, rows, w->n_in), to = kcheck_tensor(out, rows, w->n_out);
    struct tensor tb = kcheck_tensor(bias, w->n_out, 0), ta = kcheck_tensor(add, rows, w->n_out);
    OP(be, linear, .out = {&to}, .x = &tx, .w = {w}, .bias = {bias ? &tb : NULL},
       .add = add ? &ta : NULL, .precise = precise);
}

/* The mean over a row's blocks of 32 of their largest magnitudes. */
static double mean_top(const float *x, int64_t n_in)
{
    double sum = 0;
    for (int64_t b = 0; b + 32 <= n_in; b += 32) {
        double top = 0;
        for (int64_t k = b; k < b + 32; k++)
            top = fmax(top, fabs((double)x[k]));
        sum += top;
    }
    return sum / (double)(n_in / 32);
}

/* |got - exact| may be what rounding x to 8 bits in blocks of 32 (to 16 in all of short rows, precise: in
 * large ones) and fp32
 * sums allow. */
static void check_exact(struct kcheck *kc, const struct matrix *m, bool precise, const float *x,
                        int64_t rows, const float *bias, const float *add, const float *got)
{
    bool quant = dtype_block(m->type) > 1;
    const bool all = !kc->device && m->n_in <= LINEAR_SHORT;
    double worst = 0;
    for (int64_t r = 0; r < rows; r++) {
        double limit = 1.001 * (double)LINEAR_PRECISE * mean_top(x + r * m->n_in, m->n_in);
        for (int64_t o = 0; o < m->n_out; o++) {
            double sum = (double)bias[o] + (double)add[r * m->n_out + o];
            double rounding = 0, size = fabs(sum), parts = 0;
            for (int64_t b = 0; b < m->n_in; b += 32) {
                double top = 0, squares = 0;
                for (int64_t k = b; k < b + 32 && k < m->n_in; k++) {
                    double w = (double)m->plain[o * m->n_in + k], v = (double)x[r * m->n_in + k];
                    sum += w * v;
                    size += fabs(w * v);
                    parts += (double)m->parts[o * m->n_in + k] * fabs(v);
                    squares += w * w;
                    top = fmax(top, fabs(v));
                }
                const bool fine = all || (precise && top > limit);
                double step = fine ? 1.0 / 127 / 254 : 1.0 / 127;
                rounding += squares * (top * step) * (top * step) / 12;
            }
            /* a device may take x as two bf16 */
            double plain = kc->device && m->type == DTYPE_BF16 ? 6e-6 : 3e-6;
            double bound = (quant ? 7 * sqrt(rounding) + PARTS_BOUND * parts : 0) + plain * size;
            worst = fmax(worst, fabs(sum - (double)got[r * m->n_out + o]) / bound);
        }
    }
    char what[48];
    snprintf(what, sizeof(what), "%s against doubles", dtype_name(m->type));
    kcheck_that(kc, worst <= 1.0, what);
}

/* A device has x of f32 as one or two halves and sums fragments in fp32: within that of doubles. */
static void check_device(struct kcheck *kc, const struct matrix *m, const float *x, int64_t rows,
                         const float *bias, const float *add, const float *got)
{
    double worst = 0;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t o = 0; o < m->n_out; o++) {
            double sum = (double)bias[o] + (double)add[r * m->n_out + o], size = fabs(sum);
            double parts = 0;
            for (int64_t k = 0; k < m->n_in; k++) {
                double one = (double)m->plain[o * m->n_in + k] * (double)x[r * m->n_in + k];
                sum += one;
                size += fabs(one);
                parts += (double)m->parts[o * m->n_in + k] * fabs((double)x[r * m->n_in + k]);
            }
            const bool rounded =
                dtype_block(m->type) > 1 && (kc->type == DTYPE_F32 || kc->blas_rows > 0);
            double bound = (rounded ? DEVICE_BLOCKS : DEVICE_PLAIN) * size + PARTS_BOUND * parts +
                           kcheck_slack(kc, sum);
            worst = fmax(worst, fabs(sum - (double)got[r * m->n_out + o]) / bound);
        }
    }
    if (worst > 1)
        printf("    %s: %.2f of the bound\n", dtype_name(m->type), worst);
    kcheck_that(kc, worst <= 1.0, "against doubles");
}

/* On a device: fewer sizes, and rows alone as rows together. */
static void check_matrix_device(struct kcheck *kc, enum dtype type, int64_t n_out, int64_t n_in,
                                int64_t n_rows)
{
    static const int rows_of[] = {1, 3, 8, 17, 40, 70};
    const bool precise = n_out % 2 == 0;
    struct matrix m = matrix_new(kc, type, n_out, n_in);
    float *x = kcheck_in(kc, n_rows * n_in), *bias = kcheck_in(kc, n_out);
    float *add = kcheck_in(kc, n_rows * n_out), *all = kcheck_out(kc, n_rows * n_out);
    float *out = kcheck_out(kc, n_rows * n_out), *row = kcheck_out(kc, n_in);
    struct weight *w = NULL;
    struct backend *be = kcheck_backend(kc, 1);
    kcheck_fill(kc, x, n_rows * n_in, 2.0f);
    kcheck_fill(kc, bias, n_out, 1.0f);
    kcheck_fill(kc, add, n_rows * n_out, 1.0f);
    kcheck_that(kc, be->weight_open(be, &w, type, n_out, n_in, m.raw, NULL) == 0, "weight_open");
    run(be, w, precise, x, n_rows, bias, add, all);
    check_device(kc, &m, x, n_rows, bias, add, all);
    for (size_t i = 0; i < sizeof(rows_of) / sizeof(rows_of[0]) && rows_of[i] + 2 < n_rows; i++) {
        run(be, w, precise, x + 2 * n_in, rows_of[i], bias, add + 2 * n_out, out);
        kcheck_same(kc, all + 2 * n_out, out, (size_t)(rows_of[i] * n_out) * sizeof(float),
                    "fewer rows");
    }
    for (int64_t o = 0; o < n_out; o += 13) {
        be->weight_row(be, w, o, row);
        kcheck_same(kc, m.plain + o * n_in, row, (size_t)n_in * sizeof(float), "weight_row");
    }
    be->weight_close(be, w);
    be->close(be);
    free(m.plain);
    kcheck_done(kc);
}

static void check_matrix(struct kcheck *kc, enum dtype type, int64_t n_out, int64_t n_in,
                         bool precise)
{
    enum { MAX_ROWS = 127 }; /* more than LINEAR_TOGETHER twice */
    static const int rows_of[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 17, 33, 62, 127};
    struct matrix m = matrix_new(kc, type, n_out, n_in);
    float *x = kcheck_in(kc, MAX_ROWS * n_in), *bias = kcheck_in(kc, n_out);
    float *add = kcheck_in(kc, MAX_ROWS * n_out), *want = kcheck_out(kc, MAX_ROWS * n_out);
    kcheck_fill(kc, x, MAX_ROWS * n_in, 2.0f);
    memset(x + n_in, 0, 32 * sizeof(float)); /* a block of zeros */
    for (int64_t k = 0; k < n_in; k++) {     /* largest values of one sign */
        x[2 * n_in + k] = 2.0f;
        x[3 * n_in + k] = -2.0f;
    }
    kcheck_fill(kc, bias, n_out, 1.0f);
    kcheck_fill(kc, add, MAX_ROWS * n_out, 1.0f);

    struct backend *law = NULL;
    struct weight *w = NULL;
    int n_want = kc->isa == CPU_SCALAR && !kc->device ? 6 : MAX_ROWS;
    if (kc->device) /* its own arithmetic: its rows together are what its rows alone must be */
        law = kcheck_backend(kc, 1);
    else
        kcheck_that(kc, backend_open(&law, "cpu/scalar", 1, NULL) == 0, "scalar backend");
    kcheck_that(kc, law->weight_open(law, &w, type, n_out, n_in, m.raw, NULL) == 0, "weight_open");
    run(law, w, precise, x, n_want, bias, add, want);
    check_exact(kc, &m, precise, x, n_want, bias, add, want);
    float *row = kcheck_out(kc, n_in);
    for (int64_t o = 0; o < n_out; o += o < 17 ? 1 : 13) {
        law->weight_row(law, w, o, row);
        kcheck_same(kc, m.plain + o * n_in, row, (size_t)n_in * sizeof(float), "weight_row");
    }
    law->weight_close(law, w);

    for (int threads = 1; threads <= (kc->device ? 1 : 3); threads += 2) {
        struct backend *be = kcheck_backend(kc, threads);
        kcheck_that(kc, be->weight_open(be, &w, type, n_out, n_in, m.raw, NULL) == 0, "open");
        for (size_t i = 0; i < sizeof(rows_of) / sizeof(rows_of[0]); i++) {
            int rows = rows_of[i], from = (MAX_ROWS - rows) / 2;
            if (from + rows > n_want)
                from = 0;
            rows = rows > n_want ? n_want : rows;
            float *out = kcheck_out(kc, rows * n_out);
            run(be, w, precise, x + from * n_in, rows, bias, add + from * n_out, out);
            kcheck_same(kc, want + from * n_out, out, (size_t)(rows * n_out) * sizeof(float),
                        dtype_name(type));
        }
        be->weight_close(be, w);
        be->close(be);
    }
    law->close(law);
    free(m.plain);
    kcheck_done(kc);
}

/* Three matrices of different types over one x, out used as add, rows that are not numbers. */
static void check_shared(struct kcheck *kc)
{
    enum { ROWS = 14, IN = 256 };
    static const int64_t n_out[3] = {40, 16, 7};
    static const enum dtype kinds[3] = {DTYPE_Q4_1, DTYPE_Q6_K, DTYPE_F16};
    struct backend *be = kcheck_backend(kc, 2);
    struct weight *w[3];
    struct matrix m[3];
    float *x = kcheck_in(kc, ROWS * IN), *want[3], *got[3];
    kcheck_fill(kc, x, ROWS * IN, 1.0f);
    x[3 * IN + 7] = NAN;
    x[4 * IN + 250] = INFINITY;
    struct tensor tx = kcheck_tensor(x, ROWS, IN), to[3];
    for (int i = 0; i < 3; i++) {
        m[i] = matrix_new(kc, kinds[i], n_out[i], IN);
        kcheck_that(kc, be->weight_open(be, &w[i], kinds[i], n_out[i], IN, m[i].raw, NULL) == 0,
                    "weight_open");
        want[i] = kcheck_out(kc, ROWS * n_out[i]);
        got[i] = kcheck_out(kc, ROWS * n_out[i]);
        kcheck_fill(kc, want[i], ROWS * n_out[i], 1.0f);
        memcpy(got[i], want[i], (size_t)(ROWS * n_out[i]) * sizeof(float));
        to[i] = kcheck_tensor(got[i], ROWS, n_out[i]);
        run(be, w[i], false, x, ROWS, NULL, i == 0 ? want[i] : NULL, want[i]);
    }
    OP(be, linear, .out = {&to[0], &to[1], &to[2]}, .x = &tx, .w = {w[0], w[1], w[2]},
       .add = &to[0]);
    for (int i = 0; i < 3; i++) {
        for (int64_t k = 0; k < ROWS * n_out[i]; k++) {
            int64_t r = k / n_out[i];
            if (r == 3 || r == 4)
                kcheck_that(kc, !isfinite(got[i][k]), "not a number stays one");
            else
                kcheck_same(kc, &want[i][k], &got[i][k], sizeof(float), "three matrices");
        }
        be->weight_close(be, w[i]);
        free(m[i].plain);
    }
    be->close(be);
    kcheck_done(kc);
}

/* What an op of its own would make of x, to h. */
static void make_pre(struct backend *be, const struct linear_pre *pre, const struct tensor *x,
                     struct tensor *h)
{
    if (pre->kind == LINEAR_RMSNORM)
        OP(be, rmsnorm, .out = h, .x = x, .w = pre->w, .eps = pre->eps);
    else if (pre->kind == LINEAR_LAYERNORM)
        OP(be, layernorm, .out = h, .x = x, .w = pre->w, .bias = pre->bias, .eps = pre->eps);
    else
        OP(be, glu, .out = h, .gate = x, .up = pre->up, .act = pre->act);
}

/* pre has the bits of the op before a linear without it: every kind, two matrices, one of them of `type`. */
static void check_pre(struct kcheck *kc, enum dtype type, int rows, int64_t n_in, int threads)
{
    enum { OUT = 33, OTHER = 17 };
    static const int64_t n_out[2] = {OUT, OTHER};
    struct backend *be = kcheck_backend(kc, threads);
    struct matrix m[2];
    struct weight *w[2];
    float *x = kcheck_in(kc, rows * n_in), *up = kcheck_in(kc, rows * n_in);
    float *gain = kcheck_in(kc, n_in), *bias = kcheck_in(kc, n_in),
          *h = kcheck_out(kc, rows * n_in);
    float *add = kcheck_in(kc, rows * OUT), *want[2], *got[2];
    struct tensor tx = kcheck_tensor(x, rows, n_in), tu = kcheck_tensor(up, rows, n_in);
    struct tensor th = kcheck_tensor(h, rows, n_in), ta = kcheck_tensor(add, rows, OUT);
    struct tensor tg = kcheck_tensor(gain, n_in, 0), tb = kcheck_tensor(bias, n_in, 0);
    struct tensor out[2], by_op[2];
    const struct linear_pre kinds[] = {
        {.kind = LINEAR_RMSNORM, .w = &tg, .eps = 1e-5f},
        {.kind = LINEAR_LAYERNORM, .w = &tg, .bias = &tb, .eps = 1e-5f},
        {.kind = LINEAR_LAYERNORM, .w = &tg, .eps = 1e-5f},
        {.kind = LINEAR_GLU, .up = &tu, .act = ACT_SILU},
        {.kind = LINEAR_GLU, .up = &tu, .act = ACT_GELU},
    };
    kcheck_fill(kc, x, rows * n_in, 2.0f);
    kcheck_fill(kc, up, rows * n_in, 2.0f);
    kcheck_fill(kc, gain, n_in, 1.0f);
    kcheck_fill(kc, bias, n_in, 1.0f);
    kcheck_fill(kc, add, rows * OUT, 1.0f);
    for (int i = 0; i < 2; i++) {
        m[i] = matrix_new(kc, i == 0 ? type : DTYPE_Q8_0, n_out[i], n_in);
        kcheck_that(kc, be->weight_open(be, &w[i], m[i].type, n_out[i], n_in, m[i].raw, NULL) == 0,
                    "weight_open");
        want[i] = kcheck_out(kc, rows * n_out[i]);
        got[i] = kcheck_out(kc, rows * n_out[i]);
        by_op[i] = kcheck_tensor(want[i], rows, n_out[i]);
        out[i] = kcheck_tensor(got[i], rows, n_out[i]);
    }
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        make_pre(be, &kinds[k], &tx, &th);
        OP(be, linear, .out = {&by_op[0], &by_op[1]}, .w = {w[0], w[1]}, .x = &th, .add = &ta,
           .precise = (k + (size_t)rows) % 2 == 0);
        OP(be, linear, .out = {&out[0], &out[1]}, .w = {w[0], w[1]}, .x = &tx, .add = &ta,
           .pre = kinds[k], .precise = (k + (size_t)rows) % 2 == 0);
        for (int i = 0; i < 2; i++)
            kcheck_same(kc, want[i], got[i], (size_t)(rows * n_out[i]) * sizeof(float),
                        "as by an op");
    }
    for (int i = 0; i < 2; i++) {
        be->weight_close(be, w[i]);
        free(m[i].plain);
    }
    be->close(be);
    kcheck_done(kc);
}

static void check_pres(struct kcheck *kc)
{
    static const int rows_of[] = {1, 4, 6, 21, 66};
    for (int i = 0; i < 5; i++) {
        for (int threads = 1; threads <= (kc->device ? 1 : 3); threads += 2) {
            check_pre(kc, DTYPE_Q4_K, rows_of[i], 256, threads);
            check_pre(kc, DTYPE_F16, rows_of[i], 96, threads);
        }
    }
    check_pre(kc, DTYPE_Q4_0, 4, 2080, 3); /* elements shared by the workers */
    check_pre(kc, DTYPE_BF16, 2, 160, 1);
    check_pre(kc, DTYPE_F32, 2, 160, 1);
    if (kc->device)
        check_pre(kc, DTYPE_Q8_0, 1, 40 * 1024 + 32, 1); /* more than a block's shared memory */
}

/* x_type: one half of x is enough where x is such numbers already, and rows alone are rows together. */
static void check_x_type(struct kcheck *kc, enum dtype type)
{
    enum { ROWS = 21, IN = 172, OUT = 37 };
    struct matrix m = matrix_new(kc, type, OUT, IN);
    float *x = kcheck_in(kc, ROWS * IN), *zero = kcheck_in(kc, ROWS * OUT);
    float *out = kcheck_out(kc, ROWS * OUT), *few = kcheck_out(kc, 3 * OUT);
    struct tensor tx = kcheck_tensor(x, ROWS, IN), to = kcheck_tensor(out, ROWS, OUT);
    struct tensor fx = kcheck_tensor(x, 3, IN), fo = kcheck_tensor(few, 3, OUT);
    struct backend *be = kcheck_backend(kc, 1);
    struct weight *w = NULL;
    uint16_t halves[IN];
    kcheck_that(kc, be->weight_open(be, &w, type, OUT, IN, m.raw, NULL) == 0, "weight_open");
    kcheck_fill(kc, x, ROWS * IN, 2.0f);
    for (int64_t r = 0; r < ROWS; r++) {
        quant_pack(type, halves, x + r * IN, IN);
        quant_unpack(type, x + r * IN, halves, IN);
    }
    memset(zero, 0, ROWS * OUT * sizeof(float));
    OP(be, linear, .out = {&to}, .w = {w}, .x = &tx, .x_type = type);
    check_device(kc, &m, x, ROWS, zero, zero, out);
    OP(be, linear, .out = {&fo}, .w = {w}, .x = &fx, .x_type = type);
    kcheck_same(kc, out, few, 3 * OUT * sizeof(float), "fewer rows");
    be->weight_close(be, w);
    be->close(be);
    free(m.plain);
    kcheck_done(kc);
}

/* A library's product has blocks as their values in f16: which rows of an identity give back, rounded once more. */
static void check_library(struct kcheck *kc, enum dtype type, int64_t n_out, int64_t n_in)
{
    struct matrix m = matrix_new(kc, type, n_out, n_in);
    float *x = kcheck_in(kc, n_in * n_in), *want = kcheck_out(kc, n_in * n_out);
    float *out = kcheck_out(kc, n_in * n_out);
    struct tensor tx = kcheck_tensor(x, n_in, n_in), to = kcheck_tensor(out, n_in, n_out);
    struct backend *be = kcheck_backend(kc, 1);
    struct weight *w = NULL;
    memset(x, 0, (size_t)(n_in * n_in) * sizeof *x);
    for (int64_t k = 0; k < n_in; k++) {
        x[k * n_in + k] = 1.0f;
        for (int64_t o = 0; o < n_out; o++) {
            const float v = m.plain[o * n_in + k];
            want[k * n_out + o] = 0.0f + (dtype_block(type) > 1 ? f16_to_f32(f32_to_f16(v)) : v);
        }
    }
    kcheck_round(kc, want, n_in * n_out);
    kcheck_that(kc, be->weight_open(be, &w, type, n_out, n_in, m.raw, NULL) == 0, "weight_open");
    OP(be, linear, .out = {&to}, .w = {w}, .x = &tx);
    for (int64_t i = 0; i < n_in * n_out; i++)
        out[i] += 0.0f; /* zeros have no sign */
    kcheck_same(kc, want, out, (size_t)(n_in * n_out) * sizeof *out, "a library's weights");
    be->weight_close(be, w);
    be->close(be);
    free(m.plain);
    kcheck_done(kc);
}

static void check_quant(struct kcheck *kc)
{
    enum { N = 32 * 64, IN = 512 };
    float *x = kcheck_in(kc, N);
    struct linear_x *a = kcheck_out_bytes(kc, N * 4, 64), *b = kcheck_out_bytes(kc, N * 4, 64);
    for (int i = 0; i < N; i += 32)
        kcheck_fill(kc, x + i, 32, ldexpf(1.0f, (int)(kcheck_random(kc) % 250) - 125));
    x[5] = NAN;
    x[40] = -INFINITY;
    memset(x + 64, 0, 32 * sizeof(float));
    for (int i = 96; i < 128; i++)
        x[i] = (float)(i - 96) - 15.5f + (i == 96 ? -111.5f : 0.0f); /* halves, top -127 */
    for (int parts = 1; parts <= 2; parts++) {
        kc->ref->linear_quant(a, x, N / IN, IN, parts, 1.5f);
        kc->var->linear_quant(b, x, N / IN, IN, parts, 1.5f);
        for (int i = 0; i < N / 32 * parts; i++) {
            if (parts == 2 && i / (IN / 32) % 2) {
                kcheck_same(kc, a[i].q, b[i].q, sizeof(a[i].q), "second part");
                kcheck_same(kc, &a[i].start, &b[i].start, 3 * sizeof(a[i].start), "its sums");
                continue;
            }
            if (isnan(a[i].d))
                kcheck_that(kc, isnan(b[i].d) && isnan(b[i].m), "NaN");
            else
                kcheck_same(kc, &a[i], &b[i], sizeof(a[i]), "rounded");
        }
    }
    kcheck_done(kc);
}

static void check_embed(struct kcheck *kc)
{
    static const int32_t ids[] = {0, 16, 5, 40, 40};
    struct matrix m = matrix_new(kc, DTYPE_Q5_1, 41, 64);
    struct backend *be = kcheck_backend(kc, 2);
    struct weight *w = NULL;
    float *out = kcheck_out(kc, 5 * 64);
    struct tensor to = kcheck_tensor(out, 5, 64);
    kcheck_that(kc, be->weight_open(be, &w, DTYPE_Q5_1, 41, 64, m.raw, NULL) == 0, "weight_open");
    OP(be, embed, .out = &to, .w = w, .ids = ids);
    for (int i = 0; i < 5; i++)
        kcheck_same(kc, m.plain + ids[i] * 64, out + i * 64, 64 * sizeof(float), "row");
    struct err e = {0};
    struct weight *none = NULL;
    kcheck_that(kc, be->weight_open(be, &none, DTYPE_I32, 4, 4, m.raw, &e) == ERR_UNSUPPORTED,
                "i32");
    kcheck_that(kc, be->weight_open(be, &none, DTYPE_Q4_K, 4, 64, m.raw, &e) == ERR_INVALID, "64");
    kcheck_that(
        kc, be->weight_open(be, &none, DTYPE_F32, INT64_MAX / 2, 1 << 20, m.raw, &e) == ERR_NOMEM,
        "overflow");
    be->weight_close(be, w);
    be->close(be);
    free(m.plain);
    kcheck_done(kc);
}

struct linear_bench {
    struct backend *be;
    struct weight *w[24]; /* copies, so that decode reads memory and not a cache */
    int n, at;
    struct tensor x, out;
};

static void linear_bench_run(void *arg)
{
    struct linear_bench *b = arg;
    OP(b->be, linear, .out = {&b->out}, .x = &b->x, .w = {b->w[b->at++ % b->n]});
}

/* The amounts: bytes of weights read for one row, operations for many. */
static void bench(struct kcheck *kc, enum dtype type, int n_threads)
{
    enum { OUT = 1536, IN = 1536, ROWS = 256 };
    static const int rows_of[] = {1, 4, 8, ROWS};
    struct matrix m = matrix_new(kc, type, OUT, IN);
    struct linear_bench b = {.be = kcheck_backend(kc, n_threads), .n = 24};
    float *x = kcheck_in(kc, ROWS * IN), *out = kcheck_out(kc, ROWS * OUT);
    kcheck_fill(kc, x, ROWS * IN, 1.0f);
    for (int i = 0; i < b.n; i++)
        kcheck_that(kc, b.be->weight_open(b.be, &b.w[i], type, OUT, IN, m.raw, NULL) == 0, "open");
    for (size_t i = 0; i < sizeof(rows_of) / sizeof(rows_of[0]); i++) {
        char what[64];
        int rows = rows_of[i];
        b.x = kcheck_tensor(x, rows, IN);
        b.out = kcheck_tensor(out, rows, OUT);
        snprintf(what, sizeof(what), "linear %s %d rows, %d threads", dtype_name(type), rows,
                 n_threads);
        if (rows == 1)
            kcheck_bench(kc, what, (double)b.w[0]->bytes, "GB/s", linear_bench_run, &b);
        else
            kcheck_bench(kc, what, 2.0 * OUT * IN * rows, "GOP/s", linear_bench_run, &b);
    }
    for (int i = 0; i < b.n; i++)
        b.be->weight_close(b.be, b.w[i]);
    b.be->close(b.be);
    free(m.plain);
    kcheck_done(kc);
}

void kcheck_linear(struct kcheck *kc)
{
    if (KCHECK(kc, linear_quant))
        check_quant(kc);
    if (KCHECK(kc, peak_int8))
        kcheck_that(kc, kc->var->peak_int8(10) == 10 * kc->var->peak_int8(1), "counts");
    if (KCHECK(kc, peak_f32))
        kcheck_that(kc, kc->var->peak_f32(10) == 10 * kc->var->peak_f32(1), "counts");
    if (KCHECK(kc, linear_expand_rows))
        kcheck_that(kc, kc->var->linear_expand_rows() > 0, "some rows");
    if (!KCHECK_OP(kc, linear, linear_dot))
        return;
    for (int t = 0; t < N_TYPES; t++) {
        static const int64_t n_out[] = {1, 15, 16, 17, 48, 150};
        static const int64_t n_in[] = {1, 2, 18};
        int64_t block = dtype_block(types[t]);
        if (kc->device) {
            check_matrix_device(kc, types[t], 1, block == 1 ? 40 : block, 20);
            check_matrix_device(kc, types[t], 17, block == 1 ? 43 : block * 2, 20);
            check_matrix_device(kc, types[t], 70, block == 256 ? 768 : 576, 20);
            /* tiles enough for the emulated device's few multiprocessors; for a real one's */
            check_matrix_device(kc, types[t], 890, block == 256 ? 512 : 320, 150);
            if (types[t] == DTYPE_F16 || types[t] == DTYPE_Q4_K)
                check_matrix_device(kc, types[t], 7250, block == 256 ? 256 : 64, 130);
            continue;
        }
        for (int i = 0; i < 6; i++)
            check_matrix(kc, types[t], n_out[i], block == 1 ? 40 + i : block * n_in[i % 2],
                         i % 2 == 1);
        check_matrix(kc, types[t], 33, block == 256 ? 1536 : 576, true);
        if (kc->isa != CPU_SCALAR)
            check_matrix(kc, types[t], 16, 4096, false);
    }
    for (int t = 1; t < N_TYPES && kc->blas_rows > 0 && kc->type != DTYPE_F32; t++) {
        const int64_t block = dtype_block(types[t]);
        check_library(kc, types[t], 33, block == 1 ? 43 : block);
        check_library(kc, types[t], 48, block == 256 ? 512 : 96);
    }
    check_x_type(kc, DTYPE_F16);
    check_x_type(kc, DTYPE_BF16);
    check_shared(kc);
    check_pres(kc);
    check_embed(kc);
    for (int t = 0; t < N_TYPES && kc->bench && kc->isa != CPU_SCALAR; t++) {
        bench(kc, types[t], 1);
        bench(kc, types[t], 2);
    }
}
