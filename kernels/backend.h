/* One compute device: its ops, its memory, its weights.
 * Thread: the one that opened it (the engine thread); the backend has its own workers.
 *
 * Ops are queued in order and cannot fail by themselves; what went wrong in the device is told by
 * the next sync (ERR_DEVICE), and the backend is then dead. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "kernels/choose.h"
#include "kernels/ops.h"

/* What a device can do at most, all workers together. */
struct backend_limits {
    double read_bytes_per_s; /* of memory of the size asked for */
    double int8_ops_per_s, f32_ops_per_s;
};

struct backend {
    const struct backend_ops *ops;
    const char *name; /* "cpu/avx512", "cuda:0" */
    int n_threads;    /* workers of a CPU backend, the caller included */
    /* What alloc gives is the device's memory: tensors, KV pages.  Only where host_memory is true may
     * anybody but an op touch it; else its contents are moved by the three calls below, which are
     * queued among the ops. */
    bool host_memory;
    void *(*alloc)(struct backend *be, size_t bytes, struct err *e); /* 64-byte aligned, zeroed */
    void (*free)(struct backend *be, void *p);
    /* Host memory, zeroed, that moves fast. */
    void *(*host_alloc)(struct backend *be, size_t bytes, struct err *e);
    void (*host_free)(struct backend *be, void *p);
    /* Keeps nothing. */
    void (*upload)(struct backend *be, void *to, const void *from, size_t bytes);
    void (*download)(struct backend *be, void *to, const void *from, size_t bytes); /* till sync */
    void (*copy)(struct backend *be, void *to, const void *from, size_t bytes);
    /* Addresses alone, and memory for them piece by piece, zeroed when it comes; NULL: there is alloc only. */
    void *(*range_open)(struct backend *be, size_t bytes, size_t *piece_bytes, struct err *e);
    void (*range_close)(struct backend *be, void *base);
    int (*range_fill)(struct backend *be, void *base, size_t piece, struct err *e);
    void (*range_drop)(struct backend *be, void *base, size_t piece); /* its contents are lost */
    /* NULL: the host chooses.  Queued like an op; chosen waits for it, and for nothing that came later. */
    void (*choose)(struct backend *be, const struct op_choose *p);
    int (*chosen)(struct backend *be, int slot, struct err *e);
    size_t (*free_bytes)(struct backend *be); /* of a device; NULL: ask the system */
    int (*sync)(struct backend *be, struct err *e);
    void (*close)(struct backend *be);
    /* Bytes that one layer's keys take in a KV page, and its values again; 0 for a type that the
     * backend cannot store. */
    size_t (*kv_bytes)(enum dtype type, int n_kv_heads, int head_dim);
    /* Repacks a matrix raw [n_out, n_in] of a file's type into the layout that linear computes with;
     * raw may be forgotten afterwards.  n_in must be a multiple of dtype_block(type).  raw is NOT
     * assumed aligned.  Uses all workers. */
    int (*weight_open)(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                       int64_t n_in, const void *raw, struct err *e);
    /* The two halves of it, for a thread beside the one that owns the device; NULL: that thread must own it meanwhile.
     * weight_place is as an op is; weight_fill may run beside ops, one call at a time, and when it returns the
     * weight is ready for them.  What place has made goes by weight_close, whatever fill says. */
    int (*weight_place)(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                        int64_t n_in, struct err *e);
    int (*weight_fill)(struct backend *be, struct weight *w, const void *raw, struct err *e);
    void (*weight_close)(struct backend *be, struct weight *w);
    /* Bytes that such a weight takes, or 0 with the reason why there is none.  NULL: about those of the file. */
    size_t (*weight_bytes)(enum dtype type, int64_t n_out, int64_t n_in, struct err *e);
    /* Row `row` of the matrix as floats, exactly quant_unpack's values. */
    void (*weight_row)(struct backend *be, const struct weight *w, int64_t row, float *dst);
    /* Measures the device, within a second or two; takes `bytes` of memory meanwhile. */
    int (*limits)(struct backend *be, size_t bytes, struct backend_limits *l, struct err *e);
    /* linear of `rows` rows of halves and more goes to the vendor's library, if that keeps what docs/CUDA.md asks of
     * it; before the first model.  rows 0: to own kernels again.  NULL: there is none. */
    int (*blas)(struct backend *be, int rows, struct err *e);
    /* If set, weight_open calls it now and then: another thread may use the device meanwhile. */
    void (*pause)(struct backend *be);
    void *owner; /* of who set it */
    /* Of its own and others' (kernels/team.h); NULL: it computes alone. */
    struct backend_team *team;
    bool dry;    /* backend_dry */
    bool graphs; /* a device that can, launches what recurs as one; may be set after a sync */
    bool halves; /* its ops take f16 and bf16 tensors (kernels/ops.h) */
    /* What programs hold their tensors in, and products of text models round x to, where the model can; F32,
     * unless team_activations came before the first model. */
    enum dtype activations;
};

/* What a weight is, whatever the layout behind it.  First member of every backend's struct. */
struct weight {
    enum dtype type;
    int64_t n_out, n_in;
    size_t bytes; /* memory it takes */
};

/* The call sites read as sentences:
 *   OP(be, rmsnorm, .out = &h, .x = &x, .w = &l->norm, .eps = 1e-5f); */
#define OP(be, op, ...) ((be)->ops->op((be), &(const struct op_##op){__VA_ARGS__}))

/* New memory with n floats of a plain file type (not assumed aligned), or NULL. */
void *backend_floats(struct backend *be, enum dtype type, const void *raw, int64_t n,
                     struct err *e);

/* Memory that the host and the device use by turns; where the device is the host they are the same. */
struct backend_mirror {
    struct backend *be;
    void *host, *device;
};
int backend_mirror_open(struct backend_mirror *m, struct backend *be, size_t bytes, struct err *e);
void backend_mirror_close(struct backend_mirror *m);
/* Bytes [at, at + bytes) to the device before the next op, or to the host by the next sync. */
void backend_mirror_push(const struct backend_mirror *m, size_t at, size_t bytes);
void backend_mirror_pull(const struct backend_mirror *m, size_t at, size_t bytes);

/* name: "cuda:0+cuda:1" for a team, "cpu" (the best level this machine has) or "cpu/scalar", "cpu/avx2", "cpu/avx512".
 * n_threads 0: one for each core this process may use.  ERR_UNSUPPORTED for a level or device
 * that this machine or build lacks, naming what there is. */
int backend_open(struct backend **out, const char *name, int n_threads, struct err *e);

/* A backend of the same kind for finding out what a model is and takes: it opens weights without reading
 * them, and computes nothing.  `of` must live as long. */
struct backend *backend_dry(const struct backend *of);
#endif
