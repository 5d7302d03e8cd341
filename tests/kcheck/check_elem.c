/* Elementwise loops: against scalar, against libm in doubles, and the same bits for every cut. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/quant.h"
#include "tests/kcheck/kcheck.h"

static const enum act acts[] = {ACT_NONE,      ACT_SILU,       ACT_GELU,
                                ACT_GELU_TANH, ACT_QUICK_GELU, ACT_RELU};
static const char *const act_names[] = {"none", "silu", "gelu", "gelu_tanh", "quick_gelu", "relu"};
#define N_ACTS ((int)(sizeof(acts) / sizeof(acts[0])))

/* One of the loops over n elements of x and y. */
enum elem_loop { ELEM_ADD, ELEM_GLU, ELEM_ACT_ALL };

struct elem_bench {
    const struct cpu_ops *ops;
    enum elem_loop loop;
    enum act act;
    float *out, *x, *y;
    int n;
};

static void elem_run(const struct cpu_ops *ops, enum elem_loop loop, enum act act, float *out,
                     const float *x, const float *y, int n)
{
    if (loop == ELEM_ADD)
        ops->add(out, x, y, n);
    else if (loop == ELEM_GLU)
        ops->glu(out, x, y, n, act);
    else
        ops->act(out, x, n, act);
}

static void elem_bench_run(void *arg)
{
    struct elem_bench *b = arg;
    elem_run(b->ops, b->loop, b->act, b->out, b->x, b->y, b->n);
}

static void check_loop(struct kcheck *kc, enum elem_loop loop, enum act act, const char *name)
{
    for (int s = 0; s < KCHECK_SIZES; s++) {
        int n = kcheck_sizes[s];
        float *x = kcheck_in(kc, n), *y = kcheck_in(kc, n);
        float *a = kcheck_out(kc, n), *b = kcheck_out(kc, n), *c = kcheck_out(kc, n);
        kcheck_fill(kc, x, n, 9.0f);
        kcheck_fill(kc, y, n, 2.0f);
        elem_run(kc->ref, loop, act, a, x, y, n);
        elem_run(kc->var, loop, act, b, x, y, n);
        kcheck_near(kc, a, b, n, 1e-6f, 4, "out");
        int cut = (int)(kcheck_random(kc) % (uint32_t)n);
        if (cut > 0)
            elem_run(kc->var, loop, act, c, x, y, cut);
        elem_run(kc->var, loop, act, c + cut, x + cut, y + cut, n - cut);
        kcheck_same(kc, b, c, sizeof(float) * (size_t)n, "cut in two");
        if (n == 4096) {
            char what[64];
            struct elem_bench bench = {kc->var, loop, act, b, x, y, n};
            snprintf(what, sizeof(what), "%s %s 4096", name, act_names[act]);
            kcheck_bench(kc, what, n * (loop == ELEM_ACT_ALL ? 8.0 : 12.0), "GB/s", elem_bench_run,
                         &bench);
        }
        kcheck_done(kc);
    }
}

/* exp over its whole range, and where it ends. */
static void check_exp(struct kcheck *kc)
{
    enum { N = 20001 };
    float *x = kcheck_in(kc, N), *out = kcheck_out(kc, N), *want = kcheck_out(kc, N);
    for (int i = 0; i < N; i++) {
        x[i] = -87.3f + 175.6f * (float)i / (N - 1);
        want[i] = (float)exp((double)x[i]);
    }
    kc->var->exp_all(out, x, N);
    kcheck_near(kc, want, out, N, 0.0f, 2, "against libm");
    const float edge[8] = {-INFINITY, -1000.0f, -88.0f, 0.0f, -0.0f, 1000.0f, INFINITY, NAN};
    float got[8];
    kc->var->exp_all(got, edge, 8);
    kcheck_that(kc, got[0] == 0.0f && got[1] == 0.0f && got[2] == 0.0f, "far below is 0");
    kcheck_that(kc, got[3] == 1.0f && got[4] == 1.0f, "exp(0) is 1");
    kcheck_that(kc, got[5] > 1e38f && got[6] > 1e38f, "far above is huge");
    kcheck_that(kc, isnan(got[7]), "NaN stays NaN");
    kcheck_done(kc);
}

static void check_f16(struct kcheck *kc)
{
    for (int s = 0; s < KCHECK_SIZES; s++) {
        int n = kcheck_sizes[s];
        size_t bytes = sizeof(uint16_t) * (size_t)n;
        float *x = kcheck_in(kc, n), *back = kcheck_out(kc, n), *want = kcheck_out(kc, n);
        uint16_t *a = kcheck_out_bytes(kc, bytes, 2), *b = kcheck_out_bytes(kc, bytes, 2);
        uint16_t *in = kcheck_in_bytes(kc, bytes, 2);
        kcheck_fill(kc, x, n, s % 2 ? 1e-5f : 300.0f); /* subnormal halves too */
        x[0] = 70000.0f;                               /* overflows to infinity */
        kc->ref->f16_pack(a, x, n);
        kc->var->f16_pack(b, x, n);
        kcheck_same(kc, a, b, bytes, "packed");
        memcpy(in, a, bytes);
        kc->ref->f16_unpack(want, in, n);
        kc->var->f16_unpack(back, in, n);
        kcheck_same(kc, want, back, sizeof(float) * (size_t)n, "unpacked");
        kcheck_done(kc);
    }
}

static double act_exact(enum act act, double x)
{
    double u = sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
    switch (act) {
    case ACT_SILU:
        return x / (1.0 + exp(-x));
    case ACT_GELU:
        return 0.5 * x * erfc(-x / sqrt(2.0));
    case ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(u));
    case ACT_QUICK_GELU:
        return x / (1.0 + exp(-1.702 * x));
    case ACT_RELU:
        return x > 0 ? x : 0;
    default:
        return x;
    }
}

/* The whole ops against doubles, in place, at several thread counts.  align: as check_concat has it. */
static void check_glu(struct kcheck *kc, enum act act, size_t align)
{
    enum { ROWS = 61, DIM = 700, N = ROWS * DIM };
    float *gate = kcheck_in(kc, N), *up = kcheck_in_bytes(kc, sizeof(float) * N, align);
    float *want = kcheck_out(kc, N), *want_act = kcheck_out(kc, N), *first = kcheck_out(kc, N);
    kcheck_fill(kc, gate, N, 12.0f);
    kcheck_fill(kc, up, N, 3.0f);
    gate[0] = 200.0f; /* exp overflows on either side */
    gate[1] = -200.0f;
    gate[2] = INFINITY;
    gate[3] = 0.0f;
    up[2] = 1.0f;
    for (int i = 0; i < N; i++) {
        want_act[i] = (float)act_exact(act, gate[i]);
        want[i] = (float)(act_exact(act, gate[i]) * up[i]);
    }
    want_act[2] = want[2] = INFINITY;
    for (int threads = 1; threads <= 4; threads++) {
        struct backend *be = kcheck_backend(kc, threads);
        float *out = kcheck_out_bytes(kc, sizeof(float) * N, align);
        memcpy(out, gate, sizeof(float) * N);
        struct tensor to = kcheck_tensor(out, ROWS, DIM), tu = kcheck_tensor(up, ROWS, DIM);
        OP(be, glu, .out = &to, .gate = &to, .up = &tu, .act = act);
        kcheck_near(kc, want, out, N, 3e-6f, 8, "against doubles");
        if (threads == 1)
            memcpy(first, out, sizeof(float) * N);
        kcheck_same(kc, first, out, sizeof(float) * N, "another number of threads");
        memcpy(out, gate, sizeof(float) * N);
        OP(be, act, .out = &to, .x = &to, .act = act);
        kcheck_near(kc, want_act, out, N, 1e-6f, 8, "act against doubles");
        out[5] = NAN;
        OP(be, act, .out = &to, .x = &to, .act = act);
        kcheck_that(kc, isnan(out[5]), "NaN stays NaN");
        be->close(be);
    }
    kcheck_done(kc);
}

/* align: of all tensors; by 16 bytes a device may take fours. */
static void check_concat(struct kcheck *kc, int n_a, int n_b, size_t align)
{
    enum { ROWS = 77 };
    const int width = n_a + n_b;
    float *a = kcheck_in_bytes(kc, sizeof(float) * (size_t)(ROWS * n_a), align);
    float *b = kcheck_in_bytes(kc, sizeof(float) * (size_t)(ROWS * n_b), align);
    float *out = kcheck_out_bytes(kc, sizeof(float) * (size_t)(ROWS * width), align);
    kcheck_fill(kc, a, ROWS * n_a, 1.0f);
    kcheck_fill(kc, b, ROWS * n_b, 1.0f);
    struct backend *be = kcheck_backend(kc, 3);
    struct tensor ta = kcheck_tensor(a, ROWS, n_a), tb = kcheck_tensor(b, ROWS, n_b);
    struct tensor to = kcheck_tensor(out, ROWS, width);
    OP(be, concat, .out = &to, .a = &ta, .b = &tb);
    for (int r = 0; r < ROWS; r++) {
        kcheck_same(kc, a + r * n_a, out + r * width, sizeof(float) * (size_t)n_a, "a");
        kcheck_same(kc, b + r * n_b, out + r * width + n_a, sizeof(float) * (size_t)n_b, "b");
    }
    be->close(be);
    kcheck_done(kc);
}

static void check_add(struct kcheck *kc, size_t align)
{
    enum { ROWS = 3, DIM = 20001, N = ROWS * DIM };
    const size_t bytes = sizeof(float) * N;
    float *a = kcheck_in_bytes(kc, bytes, align), *b = kcheck_in_bytes(kc, bytes, align);
    float *want = kcheck_out(kc, N), *out = kcheck_out_bytes(kc, bytes, align);
    kcheck_fill(kc, a, N, 12.0f);
    kcheck_fill(kc, b, N, 3.0f);
    for (int i = 0; i < N; i++)
        want[i] = a[i] + b[i];
    kcheck_round(kc, want, N);
    struct backend *be = kcheck_backend(kc, 3);
    struct tensor to = kcheck_tensor(out, ROWS, DIM);
    struct tensor ta = kcheck_tensor(a, ROWS, DIM), tb = kcheck_tensor(b, ROWS, DIM);
    OP(be, add, .out = &to, .a = &ta, .b = &tb);
    kcheck_same(kc, want, out, sizeof(float) * N, "sum");
    be->close(be);
    kcheck_done(kc);
}

/* The loop against scalar, and the op against the formula at several thread counts. */
static void check_prelu(struct kcheck *kc)
{
    for (int s = 0; s < KCHECK_SIZES; s++) {
        int c = kcheck_sizes[s] < 300 ? kcheck_sizes[s] : 64, rows = 37, n = rows * c;
        float *x = kcheck_in(kc, n), *slope = kcheck_in(kc, c);
        float *a = kcheck_out(kc, n), *b = kcheck_out(kc, n), *want = kcheck_out(kc, n);
        kcheck_fill(kc, x, n, 9.0f);
        kcheck_fill(kc, slope, c, 1.0f);
        for (int i = 0; i < n; i++)
            want[i] = x[i] > 0 ? x[i] : slope[i % c] * x[i];
        kc->ref->prelu(a, x, slope, rows, c);
        kc->var->prelu(b, x, slope, rows, c);
        kcheck_same(kc, a, b, sizeof(float) * (size_t)n, "every level");
        kcheck_near(kc, want, b, n, 0.0f, 1, "formula");
        struct backend *be = kcheck_backend(kc, 3);
        struct tensor to = kcheck_tensor(b, rows, c), from = kcheck_tensor(x, rows, c);
        struct tensor slopes = kcheck_tensor(slope, 1, c);
        OP(be, act, .out = &to, .x = &from, .slope = &slopes);
        kcheck_round(kc, a, n);
        kcheck_same(kc, a, b, sizeof(float) * (size_t)n, "op");
        be->close(be);
        kcheck_done(kc);
    }
}

void kcheck_elem(struct kcheck *kc)
{
    if (KCHECK_OP(kc, prelu, prelu))
        check_prelu(kc);
    if (KCHECK(kc, add))
        check_loop(kc, ELEM_ADD, ACT_NONE, "add");
    if (KCHECK(kc, glu))
        for (int i = 0; i < N_ACTS; i++)
            check_loop(kc, ELEM_GLU, acts[i], "glu");
    if (KCHECK(kc, act))
        for (int i = 0; i < N_ACTS; i++)
            check_loop(kc, ELEM_ACT_ALL, acts[i], "act");
    if (KCHECK_OP(kc, exp_all, exp_all))
        check_exp(kc);
    if (KCHECK(kc, f16_pack))
        check_f16(kc);
    if (KCHECK_OP(kc, glu_act_add_concat, glu)) {
        for (int i = 0; i < 2 * N_ACTS; i++)
            check_glu(kc, acts[i / 2], i % 2 ? 16 : sizeof(float));
        check_add(kc, sizeof(float));
        check_add(kc, 16);
        check_concat(kc, 321, 640, sizeof(float));
        check_concat(kc, 68, 40, 16);
    }
}
