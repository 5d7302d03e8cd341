/* A pool of the CPU backend's kind: a piece of a weight is cut into as many runs of units as there are threads.
 * The owner of a device and the loader of its next model may both have weights to pack: the second to come does
 * not wait for the threads. */
#include "kernels/cuda/cuda_pack.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/arena.h"
#include "kernels/cpu/pool.h"
#include "kernels/cuda/cuda_weight.h"

enum { MAX_THREADS = 16 }; /* they pack faster than PCI Express carries */

struct cuda_pack {
    struct pool *pool;
    atomic_flag busy;
};

struct piece {
    char *to;
    const struct weight *w;
    const void *raw;
    int64_t begin, end;
};

int cuda_pack_open(struct cuda_pack **out, struct err *e)
{
    const int cpus = pool_cpus();
    struct cuda_pack *p = xcalloc(1, sizeof *p);
    atomic_flag_clear(&p->busy);
    *out = p;
    return pool_open(&p->pool, cpus < MAX_THREADS ? cpus : MAX_THREADS, e);
}

void cuda_pack_close(struct cuda_pack *p)
{
    if (p)
        pool_close(p->pool);
    free(p);
}

static void pack_share(void *arg, int worker, int n_workers)
{
    const struct piece *p = arg;
    const int64_t n = p->end - p->begin, begin = n * worker / n_workers;
    cuda_weight_pack(p->to + (size_t)begin * cuda_weight_unit_bytes(p->w->type), p->w, p->raw,
                     p->begin + begin, p->begin + n * (worker + 1) / n_workers);
}

void cuda_pack_units(struct cuda_pack *p, void *to, const struct weight *w, const void *raw,
                     int64_t begin, int64_t end)
{
    struct piece piece = {to, w, raw, begin, end};
    if (atomic_flag_test_and_set(&p->busy)) {
        pack_share(&piece, 0, 1);
        return;
    }
    pool_run(p->pool, pack_share, &piece);
    atomic_flag_clear(&p->busy);
}
