/* Elementwise loops: against scalar, against libm in doubles, and the same bits for every cut. */
#include <math.h>
#include <string.h>

#include "kernels/quant.h"
#include "tests/kcheck/kcheck.h"

typedef void elem_fn(float *out, const float *x, const float *y, int64_t n);

struct elem_bench {
    elem_fn *fn;
    float *out, *x, *y;
    int n;
};

static void elem_bench_run(void *arg)
{
    struct elem_bench *b = arg;
    b->fn(b->out, b->x, b->y, b->n);
}

static void check_two(struct kcheck *kc, elem_fn *ref, elem_fn *var, const char *name)
{
    for (int s = 0; s < KCHECK_SIZES; s++) {
        int n = kcheck_sizes[s];
        float *x = kcheck_in(kc, n), *y = kcheck_in(kc, n);
        float *a = kcheck_out(kc, n), *b = kcheck_out(kc, n), *c = kcheck_out(kc, n);
        kcheck_fill(kc, x, n, 9.0f);
        kcheck_fill(kc, y, n, 2.0f);
        ref(a, x, y, n);
        var(b, x, y, n);
        kcheck_near(kc, a, b, n, 1e-6f, 4, "out");
        int cut = (int)(kcheck_random(kc) % (uint32_t)n);
        if (cut > 0)
            var(c, x, y, cut);
        var(c + cut, x + cut, y + cut, n - cut);
        kcheck_same(kc, b, c, sizeof(float) * (size_t)n, "cut in two");
        if (n == 4096) {
            struct elem_bench bench = {var, b, x, y, n};
            kcheck_bench(kc, name, n * 12.0, "GB/s", elem_bench_run, &bench);
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

static double silu(double x)
{
    return x / (1.0 + exp(-x));
}

static double gelu(double x)
{
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

/* The whole op against doubles, in place, at several thread counts. */
static void check_glu(struct kcheck *kc, enum act act)
{
    enum { ROWS = 61, DIM = 700, N = ROWS * DIM };
    float *gate = kcheck_in(kc, N), *up = kcheck_in(kc, N);
    float *want = kcheck_out(kc, N), *first = kcheck_out(kc, N);
    kcheck_fill(kc, gate, N, 12.0f);
    kcheck_fill(kc, up, N, 3.0f);
    gate[0] = 200.0f; /* exp overflows on either side */
    gate[1] = -200.0f;
    for (int i = 0; i < N; i++)
        want[i] = (float)((act == ACT_SILU ? silu(gate[i]) : gelu(gate[i])) * up[i]);
    for (int threads = 1; threads <= 4; threads++) {
        struct backend *be = kcheck_backend(kc, threads);
        float *out = kcheck_out(kc, N);
        memcpy(out, gate, sizeof(float) * N);
        struct tensor to = kcheck_tensor(out, ROWS, DIM), tu = kcheck_tensor(up, ROWS, DIM);
        OP(be, glu, .out = &to, .gate = &to, .up = &tu, .act = act);
        kcheck_near(kc, want, out, N, 3e-6f, 8, "against doubles");
        if (threads == 1)
            memcpy(first, out, sizeof(float) * N);
        kcheck_same(kc, first, out, sizeof(float) * N, "another number of threads");
        be->close(be);
    }
    kcheck_done(kc);
}

static void check_add(struct kcheck *kc)
{
    enum { ROWS = 3, DIM = 20001, N = ROWS * DIM };
    float *a = kcheck_in(kc, N), *b = kcheck_in(kc, N);
    float *want = kcheck_out(kc, N), *out = kcheck_out(kc, N);
    kcheck_fill(kc, a, N, 12.0f);
    kcheck_fill(kc, b, N, 3.0f);
    for (int i = 0; i < N; i++)
        want[i] = a[i] + b[i];
    struct backend *be = kcheck_backend(kc, 3);
    struct tensor to = kcheck_tensor(out, ROWS, DIM);
    struct tensor ta = kcheck_tensor(a, ROWS, DIM), tb = kcheck_tensor(b, ROWS, DIM);
    OP(be, add, .out = &to, .a = &ta, .b = &tb);
    kcheck_same(kc, want, out, sizeof(float) * N, "sum");
    be->close(be);
    kcheck_done(kc);
}

void kcheck_elem(struct kcheck *kc)
{
    if (KCHECK(kc, add))
        check_two(kc, kc->ref->add, kc->var->add, "add 4096");
    if (KCHECK(kc, glu_silu))
        check_two(kc, kc->ref->glu_silu, kc->var->glu_silu, "glu_silu 4096");
    if (KCHECK(kc, glu_gelu))
        check_two(kc, kc->ref->glu_gelu, kc->var->glu_gelu, "glu_gelu 4096");
    if (KCHECK_OP(kc, exp_all, exp_all))
        check_exp(kc);
    if (KCHECK(kc, f16_pack))
        check_f16(kc);
    if (KCHECK_OP(kc, glu, glu_silu)) {
        check_glu(kc, ACT_SILU);
        check_glu(kc, ACT_GELU);
        check_add(kc);
    }
}
