/* Inner loops of the CPU backend: one thread, plain pointers, chosen by instruction set.
 * Thread: any; the functions have no state.
 *
 * The levels are ordered and each includes the one below.  Every kernels/cpu/isa_*.c exports one
 * table and nothing else; a NULL entry inherits the level below.  The scalar table is complete and
 * is the law that tests/kcheck compares the others with. */
#ifndef KERNELS_CPU_CPU_OPS_H
#define KERNELS_CPU_CPU_OPS_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"
#include "kernels/tensor.h"

struct linear_x;
struct linear_tile;
struct sgemm;
struct attn_dense;
struct conv_win_weights;

/* KV positions that one attention tile covers: 16 pages. */
#define ATTN_CHUNK 256

#define ATTN_PLAIN 4 /* pages that are converted from half together */

/* Queries of one kv head (rows of one sequence times the heads that share it) against one chunk of
 * its keys and values.  The result is a partial softmax, to be merged with the other chunks'. */
struct cpu_attn_tile {
    const char *const *k; /* [n_pages] keys of the kv head; the layout is in attn.h */
    const char *const *v; /* [n_pages] its values */
    int n_pages, n_q, head_dim;
    enum dtype type;          /* of k and v */
    const float *q;           /* [n_q, head_dim], scaled; attn_tile's */
    const struct linear_x *x; /* [n_q, 2, ceil(head_dim / 32)], scaled; attn_tile_q8's */
    const int *lo, *hi; /* [n_q] the query sees tokens lo <= t < hi of the chunk; lo >= hi: none */
    float *score;       /* [n_q, ATTN_CHUNK] workspace */
    float *plain;       /* [ATTN_PLAIN, KV_PAGE_TOKENS, head_dim] workspace of f16 */
    float *m, *l;       /* [n_q] out: largest score, sum of exp(score - m); l = 0 for none */
    float *acc;         /* [n_q, head_dim] out: sum of exp(score - m) * v */
};

/* clang-format off */
/* Each line is X(return type, name, (parameters)). */
#define CPU_OPS(X) \
    X(void, rmsnorm_row, (float *out, const float *x, const float *w, int n, float eps)) \
    /* cs: n_rot / 2 cosines, then as many sines */ \
    X(void, rope_pair_row, (float *x, const float *cs, int n_heads, int head_dim, int n_rot)) \
    X(void, rope_half_row, (float *x, const float *cs, int n_heads, int head_dim, int n_rot)) \
    X(void, add, (float *out, const float *a, const float *b, int64_t n)) \
    X(void, glu, (float *out, const float *gate, const float *up, int64_t n, enum act act)) \
    X(void, act, (float *out, const float *x, int64_t n, enum act act)) \
    /* out = max(x, 0) + slope[i] * min(x, 0) */ \
    X(void, prelu, (float *out, const float *x, const float *slope, int64_t n_rows, int c)) \
    X(void, layernorm_row, (float *out, const float *x, const float *w, const float *bias, int n, float eps)) \
    /* sums[i] += sum of x - shift[i], sums[c + i] of its square, over rows of c */ \
    X(void, group_sums, (float *sums, const float *x, const float *shift, int64_t n_rows, int c)) \
    /* out = act(x * scale[i] + offset[i]) */ \
    X(void, group_scale, (float *out, const float *x, const float *scale, const float *offset, int64_t n_rows, int c, enum act act)) \
    X(void, f16_pack, (uint16_t *dst, const float *src, int64_t n)) \
    X(void, f16_unpack, (float *dst, const uint16_t *src, int64_t n)) \
    X(void, exp_all, (float *out, const float *x, int64_t n)) \
    X(void, attn_tile, (const struct cpu_attn_tile *t)) /* f16, f32 */ \
    X(void, attn_tile_q8, (const struct cpu_attn_tile *t)) /* q8_0 */ \
    /* one query: (m, l, acc) absorbs (m1, l1, acc1); n = head_dim */ \
    X(void, attn_merge, (float *m, float *l, float *acc, float m1, float l1, const float *acc1, int n)) \
    /* linear: what the arguments mean is in linear.h */ \
    X(void, linear_quant, (struct linear_x *to, const float *x, int64_t n_rows, int64_t n_in, int parts, \
                           float limit)) /* parts 2: in blocks above limit times the mean */ \
    X(void, linear_dot, (const struct linear_tile *t)) \
    X(int64_t, linear_gemm, (const struct linear_tile *t)) /* rows done */ \
    X(int64_t, linear_expand_rows, (void)) /* from that many rows on expanding pays */ \
    X(void, linear_expand, (char *to, enum dtype type, const char *panel, int64_t n_in)) \
    X(void, linear_plain, (const struct linear_tile *t)) \
    /* a block of a product of f32 matrices: sgemm.h */ \
    X(void, sgemm_rows, (const struct sgemm *t)) \
    X(void, sgemm_cols, (const struct sgemm *t)) \
    X(void, sgemm_expand, (float *to, enum dtype type, const void *panel, int64_t n)) \
    /* conv_win.h */ \
    X(void, conv_win_input, (int size, float *to, int64_t to_row, int64_t to_col, const float *const *x, int64_t n)) \
    X(void, conv_win_weights, (const struct conv_win_weights *t)) \
    X(void, conv_win_output, (int size, float *out, const float *m, int64_t m_stride, int64_t n)) \
    X(void, attn_dense_chunk, (const struct attn_dense *t)) \
    /* as many operations as fit in the time; returns how many: for rooflines */ \
    X(int64_t, peak_int8, (int64_t rounds)) \
    X(int64_t, peak_f32, (int64_t rounds))

struct cpu_ops {
#define X(ret, name, params) ret(*name) params;
    CPU_OPS(X)
#undef X
};
/* clang-format on */

enum cpu_isa {
    CPU_SCALAR,
    CPU_AVX2,       /* avx2, fma, f16c */
    CPU_AVX512,     /* f, bw, vl, dq */
    CPU_AVX512VNNI, /* and vnni */
    CPU_ISA_N
};

extern const struct cpu_ops cpu_ops_scalar, cpu_ops_avx2, cpu_ops_avx512, cpu_ops_avx512vnni;

enum cpu_isa cpu_isa_detect(void);                        /* the best level of this machine */
const char *cpu_isa_name(enum cpu_isa isa);               /* "avx2" */
void cpu_ops_init(struct cpu_ops *ops, enum cpu_isa isa); /* the table of that level */
#endif
