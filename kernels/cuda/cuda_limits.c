/* What this device can do at most, measured: rooflines compare with it.  Memory by a copy within it, which reads
 * and writes; arithmetic by products of the shape that the kernels are best at, larger and larger until
 * one takes long enough to be measured: an emulated device ends with a small one. */
#include <stdlib.h>

#include "base/arena.h"
#include "base/clock.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/quant.h"

enum { REPEATS = 3, SMALLEST = 128, LARGEST = 4096, LONG_ENOUGH_US = 5000 };

static int measure_copy(struct backend *be, size_t bytes, double *bytes_per_s, struct err *e)
{
    const size_t half = bytes / 2;
    char *data = be->alloc(be, bytes, e);
    int rc = data ? be->sync(be, e) : ERR_NOMEM;
    for (int i = 0; i < REPEATS && rc == 0; i++) {
        const int64_t start_us = clock_us();
        be->copy(be, data, data + bytes - half, half);
        rc = be->sync(be, e);
        const double rate = 2e6 * (double)half / (double)(clock_us() - start_us + 1);
        *bytes_per_s = rate > *bytes_per_s ? rate : *bytes_per_s;
    }
    be->free(be, data);
    return rc;
}

/* The best time of n / 2 rows times a matrix of n x n. */
static int time_product(struct backend *be, const struct weight *w, struct tensor *x,
                        struct tensor *out, int64_t *best_us, struct err *e)
{
    int rc = 0;
    for (int i = 0; i <= REPEATS && rc == 0; i++) {
        const int64_t start_us = clock_us();
        OP(be, linear, .out = {out}, .w = {w}, .x = x);
        rc = be->sync(be, e);
        const int64_t us = clock_us() - start_us + 1;
        if (i == 1 || (i > 1 && us < *best_us)) /* the first one makes its memory */
            *best_us = us;
    }
    return rc;
}

static int measure_product(struct backend *be, enum dtype type, int64_t n, int64_t *best_us,
                           struct err *e)
{
    const size_t side = (size_t)n, floats = side / 2 * side;
    struct tensor x = {.type = DTYPE_F32, .ndim = 2, .dims = {n / 2, n}}, out = x;
    struct weight *w = NULL;
    void *zeros = mem_try(side, dtype_bytes(type, n));
    int rc =
        zeros ? be->weight_open(be, &w, type, n, n, zeros, e) : err_set(e, ERR_NOMEM, "no memory");
    free(zeros);
    if (rc)
        return rc;
    x.data = be->alloc(be, floats * sizeof(float), e);
    out.data = be->alloc(be, floats * sizeof(float), e);
    rc = x.data && out.data ? time_product(be, w, &x, &out, best_us, e) : ERR_NOMEM;
    be->free(be, out.data);
    be->free(be, x.data);
    be->weight_close(be, w);
    return rc;
}

static int measure_products(struct backend *be, enum dtype type, double *ops_per_s, struct err *e)
{
    int64_t us = 0;
    int rc = 0;
    for (int64_t n = SMALLEST; n <= LARGEST && us < LONG_ENOUGH_US && rc == 0; n *= 2) {
        rc = measure_product(be, type, n, &us, e);
        const double ops = (double)n * (double)n * (double)n, rate = ops * 1e6 / (double)us;
        if (rc == 0 && rate > *ops_per_s)
            *ops_per_s = rate;
    }
    return rc;
}

int cuda_op_limits(struct backend *be, size_t bytes, struct backend_limits *l, struct err *e)
{
    struct backend_limits found = {0};
    int rc = measure_copy(be, bytes, &found.read_bytes_per_s, e);
    if (rc == 0) /* its tensor cores multiply codes as halves */
        rc = measure_products(be, DTYPE_Q8_0, &found.int8_ops_per_s, e);
    if (rc == 0)
        rc = measure_products(be, DTYPE_F32, &found.f32_ops_per_s, e);
    if (rc == 0)
        *l = found;
    return rc;
}
