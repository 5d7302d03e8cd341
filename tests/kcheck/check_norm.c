/* rmsnorm: rows against the scalar loop, the op against doubles and at several thread counts. */
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

void kcheck_norm(struct kcheck *kc)
{
    if (KCHECK(kc, rmsnorm_row))
        check_row(kc);
    if (KCHECK_OP(kc, rmsnorm, rmsnorm_row))
        check_op(kc);
}
