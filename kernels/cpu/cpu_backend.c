/* The CPU backend: the table of ops, memory, and the splitting of an op's rows over the threads. */
#include "kernels/cpu/cpu_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/arena.h"
#include "kernels/cpu/weight.h"

#define CPU_ALIGN     64
#define CPU_MAP_BYTES ((size_t)1 << 20) /* from here on memory is mapped, so zeroed when touched */

/* Stands before every allocation; CPU_ALIGN bytes are kept for it. */
struct cpu_alloc {
    size_t bytes; /* with the header */
    bool mapped;
};

static void *cpu_alloc(struct backend *be, size_t bytes, struct err *e)
{
    (void)be;
    struct cpu_alloc *a = NULL;
    if (bytes <= SIZE_MAX - 2 * CPU_ALIGN) {
        size_t all = (bytes + 2 * CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
        bool mapped = all >= CPU_MAP_BYTES;
        if (mapped) {
            a = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (a == MAP_FAILED)
                a = NULL;
            else
                madvise(a, all, MADV_HUGEPAGE); /* a hint: without it only slower */
        } else {
            a = aligned_alloc(CPU_ALIGN, all);
            if (a)
                memset(a, 0, all);
        }
        if (a)
            *a = (struct cpu_alloc){.bytes = all, .mapped = mapped};
    }
    if (!a) {
        err_set(e, ERR_NOMEM, "no memory for %zu MiB", bytes >> 20);
        return NULL;
    }
    return (char *)a + CPU_ALIGN;
}

static void cpu_free(struct backend *be, void *p)
{
    (void)be;
    if (!p)
        return;
    struct cpu_alloc *a = (struct cpu_alloc *)((char *)p - CPU_ALIGN);
    if (a->mapped)
        munmap(a, a->bytes);
    else
        free(a);
}

static void cpu_move(struct backend *be, void *to, const void *from, size_t bytes)
{
    (void)be;
    memmove(to, from, bytes);
}

static int cpu_sync(struct backend *be, struct err *e)
{
    (void)be; /* ops are done when they return */
    (void)e;
    return 0;
}

static void cpu_close(struct backend *be)
{
    struct cpu_backend *cb = cpu_of(be);
    pool_close(cb->pool);
    free(cb->scratch_memory);
    free(cb->rope.pos);
    free(cb->rope.cs);
    free(cb);
}

/* Takes memory of all bytes as the scratch. */
static void cpu_scratch_set(struct cpu_backend *cb, char *memory, size_t bytes)
{
    free(cb->scratch_memory);
    cb->scratch_memory = memory;
    cb->scratch = memory + (-(uintptr_t)memory & (CPU_ALIGN - 1));
    cb->scratch_bytes = bytes;
}

int cpu_reserve(struct cpu_backend *cb, size_t bytes, struct err *e)
{
    if (bytes <= cb->scratch_bytes)
        return 0;
    char *memory = bytes <= SIZE_MAX - CPU_ALIGN ? mem_try(bytes + CPU_ALIGN, 1) : NULL;
    if (!memory)
        return err_set(e, ERR_NOMEM, "no memory for %zu MiB of scratch", bytes >> 20);
    cpu_scratch_set(cb, memory, bytes);
    return 0;
}

void *cpu_scratch(struct cpu_backend *cb, size_t bytes)
{
    if (bytes > cb->scratch_bytes)
        cpu_scratch_set(cb, xmalloc(bytes + CPU_ALIGN), bytes); /* an op cannot report failure */
    return cb->scratch;
}

struct cpu_split_job {
    cpu_range_fn *fn;
    void *arg;
    int64_t n;
};

static void cpu_split_worker(void *arg, int worker, int n_workers)
{
    const struct cpu_split_job *j = arg;
    int64_t begin = j->n * worker / n_workers, end = j->n * (worker + 1) / n_workers;
    if (begin < end)
        j->fn(j->arg, begin, end);
}

void cpu_split(struct cpu_backend *cb, int64_t n, int64_t work, cpu_range_fn *fn, void *arg)
{
    if (n < 2 || work < CPU_SPLIT_WORK || pool_n(cb->pool) == 1) {
        if (n > 0)
            fn(arg, 0, n);
        return;
    }
    struct cpu_split_job j = {.fn = fn, .arg = arg, .n = n};
    pool_run(cb->pool, cpu_split_worker, &j);
}

/* clang-format off */
static const struct backend_ops cpu_table = {
#define X(op) .op = cpu_##op,
    BACKEND_OPS(X)
#undef X
};
/* clang-format on */

int cpu_backend_open(struct backend **out, enum cpu_isa isa, int n_threads, struct err *e)
{
    struct cpu_backend *cb = xcalloc(1, sizeof(*cb));
    cpu_ops_init(&cb->ops, isa);
    cb->isa = isa;
    int rc = pool_open(&cb->pool, n_threads, e);
    if (rc) {
        free(cb);
        return rc;
    }
    snprintf(cb->name, sizeof(cb->name), "cpu/%s", cpu_isa_name(isa));
    cb->be = (struct backend){
        .ops = &cpu_table,
        .name = cb->name,
        .n_threads = pool_n(cb->pool),
        .host_memory = true,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .host_alloc = cpu_alloc,
        .host_free = cpu_free,
        .upload = cpu_move,
        .download = cpu_move,
        .copy = cpu_move,
        .sync = cpu_sync,
        .close = cpu_close,
        .kv_bytes = cpu_kv_bytes,
        .weight_open = cpu_weight_open,
        .weight_close = cpu_weight_close,
        .weight_row = cpu_weight_row,
        .weight_bytes = cpu_weight_bytes,
        .limits = cpu_limits,
    };
    cpu_rope_init(&cb->rope);
    rc = cpu_reserve(cb, cpu_attn_scratch_bytes(cb), e);
    if (rc) {
        cpu_close(&cb->be);
        return rc;
    }
    *out = &cb->be;
    return 0;
}
