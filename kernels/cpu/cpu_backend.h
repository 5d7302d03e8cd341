/* The CPU device: instruction table, threads and scratch behind struct backend.
 * Thread: the one that opened it. */
#ifndef KERNELS_CPU_CPU_BACKEND_H
#define KERNELS_CPU_CPU_BACKEND_H
#include "kernels/backend.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/slab.h"

#define CPU_MAX_HEAD_DIM 256
#define CPU_SPLIT_WORK   8192 /* floats touched below which an op stays on the caller */

/* Cosines and sines of the last rope call: the queries and keys of all layers of a step have the
 * same positions, so they are computed once a step (kernels/cpu/rope.c). */
struct cpu_rope_cache {
    int32_t *pos;                     /* [rows] */
    float *cs;                        /* [rows, 2 * n_rot] */
    float freq[CPU_MAX_HEAD_DIM / 2]; /* [n_rot / 2] */
    int rows, n_rot;
    float mscale;
    bool interleaved;
};

struct cpu_backend {
    struct backend be; /* first: the ops get a struct backend * */
    struct cpu_ops ops;
    struct pool *pool;
    enum cpu_isa isa;
    char name[24];
    char *scratch, *scratch_memory; /* aligned; as allocated */
    size_t scratch_bytes;
    struct slab *weights; /* where they lie */
    struct cpu_rope_cache rope;
};

static inline struct cpu_backend *cpu_of(struct backend *be)
{
    return (struct cpu_backend *)be;
}

int cpu_backend_open(struct backend **out, enum cpu_isa isa, int n_threads, struct err *e);

/* Workspace of the op that runs now, 64-byte aligned, contents undefined; the next call may hand out
 * the same bytes.  Grows when needed (and dies when the system has no memory), so reserve when a
 * model is opened: steps then never allocate. */
void *cpu_scratch(struct cpu_backend *cb, size_t bytes);
int cpu_reserve(struct cpu_backend *cb, size_t bytes, struct err *e); /* 0 or ERR_NOMEM */

/* fn over [0, n), cut into one range a worker; all on the caller when work (about the number of
 * floats touched) is not worth waking the others.  fn's results must not depend on the cuts. */
typedef void cpu_range_fn(void *arg, int64_t begin, int64_t end);
void cpu_split(struct cpu_backend *cb, int64_t n, int64_t work, cpu_range_fn *fn, void *arg);

int cpu_limits(struct backend *be, size_t bytes, struct backend_limits *l, struct err *e);
void cpu_rope_init(struct cpu_rope_cache *c);
size_t cpu_kv_bytes(enum dtype type, int n_kv_heads, int head_dim);
size_t cpu_attn_scratch_bytes(const struct cpu_backend *cb);

/* clang-format off */
/* The ops: cpu_linear, cpu_attn_paged ... */
#define X(op) void cpu_##op(struct backend *be, const struct op_##op *p);
BACKEND_OPS(X)
#undef X
/* clang-format on */
#endif
