/* What this machine can do at most, measured: rooflines compare with it. */
#include <stdatomic.h>

#include "base/clock.h"
#include "kernels/cpu/cpu_backend.h"

#define LIMITS_ROUNDS  200000
#define LIMITS_REPEATS 3
#define LIMITS_LANES   8

struct limits_job {
    const struct cpu_backend *cb;
    const uint64_t *data;
    int64_t n; /* of data */
    _Atomic int64_t done;
    int64_t (*peak)(int64_t rounds);
};

static void limits_read(void *arg, int worker, int n_workers)
{
    struct limits_job *j = arg;
    int64_t begin = j->n / LIMITS_LANES * worker / n_workers * LIMITS_LANES;
    int64_t end = j->n / LIMITS_LANES * (worker + 1) / n_workers * LIMITS_LANES;
    uint64_t sum[LIMITS_LANES] = {0}, all = 0;
    for (int64_t i = begin; i < end; i += LIMITS_LANES)
        for (int k = 0; k < LIMITS_LANES; k++)
            sum[k] += j->data[i + k];
    for (int k = 0; k < LIMITS_LANES; k++)
        all += sum[k];
    atomic_fetch_add(&j->done, all == 1 ? 1 : 0); /* the sum is used */
}

static void limits_peak(void *arg, int worker, int n_workers)
{
    struct limits_job *j = arg;
    (void)worker, (void)n_workers;
    atomic_fetch_add(&j->done, j->peak(LIMITS_ROUNDS));
}

/* The best of some runs of fn, in amounts a second; 0: what the job counted. */
static double limits_best(struct limits_job *j, void (*fn)(void *, int, int), double amount)
{
    double best = 0;
    for (int i = 0; i < LIMITS_REPEATS; i++) {
        atomic_store(&j->done, 0);
        int64_t start_us = clock_us();
        pool_run(j->cb->pool, fn, j);
        double us = (double)(clock_us() - start_us + 1);
        double rate = (amount > 0 ? amount : (double)atomic_load(&j->done)) * 1e6 / us;
        best = rate > best ? rate : best;
    }
    return best;
}

int cpu_limits(struct backend *be, size_t bytes, struct backend_limits *l, struct err *e)
{
    const struct cpu_backend *cb = cpu_of(be);
    char *data = be->alloc(be, bytes, e);
    if (!data)
        return ERR_NOMEM;
    for (size_t i = 0; i < bytes; i += 4096)
        data[i] = 2; /* the pages exist */
    struct limits_job j = {.cb = cb, .data = (uint64_t *)(void *)data, .n = (int64_t)(bytes / 8)};
    l->read_bytes_per_s = limits_best(&j, limits_read, (double)bytes);
    j.peak = cb->ops.peak_int8;
    l->int8_ops_per_s = limits_best(&j, limits_peak, 0);
    j.peak = cb->ops.peak_f32;
    l->f32_ops_per_s = limits_best(&j, limits_peak, 0);
    be->free(be, data);
    return 0;
}
