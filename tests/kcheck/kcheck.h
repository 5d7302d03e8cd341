/* kcheck: every CPU kernel against the scalar one (and the scalar one against plain formulas).
 * Thread: one.
 *
 *     kcheck [--bench] [--seed N] [--device cuda:0 [--activations f16] [--blas_rows N]] [NAME]
 *
 * runs the checks whose name contains NAME at every level that this machine has.  An inner loop
 * (a slot of struct cpu_ops) is compared where its level has a version of its own; a whole op goes
 * through a backend of that level.  With --device only whole ops are checked, on that device
 * (kcheck_device.c); with --activations they have f16 or bf16 tensors there: inputs are such numbers,
 * and results may be off by half of their last place.  --blas_rows: struct backend's blas, where its library is found.
 *
 * All memory that a kernel sees comes from kcheck_in and kcheck_out: it starts at odd addresses and
 * stands between guards.  Inputs end in NaN, so reading past the end poisons the result; outputs end
 * in a fixed pattern, so writing past the end is noticed. */
#ifndef TESTS_KCHECK_KCHECK_H
#define TESTS_KCHECK_KCHECK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_ops.h"

struct kcheck {
    /* the scalar table, the one that is tested, and the one of the level below (at scalar: itself) */
    const struct cpu_ops *ref, *var, *below;
    enum cpu_isa isa;
    const char *level;  /* isa's name, or the device's */
    const char *device; /* NULL: the CPU */
    enum dtype type;    /* of activations on the device */
    int blas_rows;      /* of its library for products; 0: none */
    bool bench;
    const char *only; /* the filter, or NULL */
    uint64_t seed;    /* every check begins with it, whatever was checked before */
    uint64_t state;   /* of kcheck_random */
    /* of the check that runs now */
    char name[64];
    int cases, bad;
    int passed, failed; /* checks */
};

/* To be asked first: `if (KCHECK(kc, rmsnorm_row)) { ... }`: does this level have its own version of
 * the inner loop, and does the filter want it? */
#define KCHECK(kc, slot) ((kc)->var->slot != (kc)->below->slot && kcheck_begin((kc), #slot))
/* The same for a whole op, which is checked at scalar as well: it rests on `slot`. */
#define KCHECK_OP(kc, op, slot) \
    (((kc)->isa == CPU_SCALAR || (kc)->var->slot != (kc)->below->slot) && kcheck_begin((kc), #op))
bool kcheck_begin(struct kcheck *kc, const char *name);

/* Lengths on both sides of the lane counts. */
#define KCHECK_SIZES 10
extern const int kcheck_sizes[KCHECK_SIZES];

/* Memory of `bytes` with guards, at an address that is a multiple of `align` (1, 2, 4 ...) and not
 * of much more.  Freed by kcheck_done. */
void *kcheck_in_bytes(struct kcheck *kc, size_t bytes, size_t align);
void *kcheck_out_bytes(struct kcheck *kc, size_t bytes, size_t align);
float *kcheck_in(struct kcheck *kc, int64_t n);  /* n floats */
float *kcheck_out(struct kcheck *kc, int64_t n); /* n floats */
void kcheck_done(struct kcheck *kc);             /* checks all guards and frees */

uint32_t kcheck_random(struct kcheck *kc);
void kcheck_fill(struct kcheck *kc, float *p, int64_t n, float range); /* uniform in +-range */
/* To numbers of kc->type, as kcheck_fill's are; and half of the last place of such a number. */
void kcheck_round(const struct kcheck *kc, float *p, int64_t n);
double kcheck_slack(const struct kcheck *kc, double v);

/* A case passes where |a - b| <= eps or at most max_ulp floats lie between a and b; both, and kcheck_slack, with
 * other activations than f32. */
void kcheck_near(struct kcheck *kc, const float *ref, const float *got, int64_t n, float eps,
                 int max_ulp, const char *what);
void kcheck_same(struct kcheck *kc, const void *a, const void *b, size_t bytes, const char *what);
void kcheck_that(struct kcheck *kc, bool ok, const char *what);

/* A backend of the level that is tested; the caller closes it. */
struct backend *kcheck_backend(struct kcheck *kc, int n_threads);
/* One that moves everything to a device and back; what kcheck_backend gives with --device. */
struct backend *kcheck_device(struct kcheck *kc, const char *name);
struct tensor kcheck_tensor(const void *data, int64_t rows, int64_t cols);

/* With --bench: how often a second fn runs, times amount, as "12.3 GB/s". */
void kcheck_bench(struct kcheck *kc, const char *what, double amount, const char *unit,
                  void (*fn)(void *arg), void *arg);

/* The check functions, one a file: called once for each level. */
void kcheck_norm(struct kcheck *kc);
void kcheck_elem(struct kcheck *kc);
void kcheck_rope(struct kcheck *kc);
void kcheck_attn(struct kcheck *kc);
void kcheck_linear(struct kcheck *kc);
void kcheck_conv(struct kcheck *kc);
void kcheck_lowrank(struct kcheck *kc);
void kcheck_dense(struct kcheck *kc);
#endif
