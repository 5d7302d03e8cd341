/* What a warp does with matrices (cuda_ptx.cuh): ldmatrix, and products of tensor cores (mma.m16n8k16).  Those are
 * held back: a lane notes its fragments (cuemu_mma) and goes on, and what a warp has noted is computed when its
 * lanes meet. So a kernel that issues many products pays for one meeting of 32 fibers instead of one for each.
 * Products are summed in ascending order of k, each step rounded.
 * Built without sanitizers: fragments are registers, which race with nobody. */
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "tests/cuemu/cuda_bf16.h"
#include "tests/cuemu/cuda_fp16.h"
#include "tests/cuemu/cuemu_int.h"

namespace
{

enum { LANES = 32, WARPS = 32 };
typedef float eight __attribute__((vector_size(32)));
typedef double two __attribute__((vector_size(16)));
typedef uint32_t four __attribute__((vector_size(16)));
typedef uint16_t halves __attribute__((vector_size(16)));

cuemu_products held[WARPS][LANES];

/* 8 halves or bf16. */
inline eight widen(halves from, bool bf16)
{
    if (bf16) {
        typedef uint32_t bits __attribute__((vector_size(32)));
        return (eight)(__builtin_convertvector(from, bits) << 16);
    }
#ifdef __F16C__
    return (eight)_mm256_cvtph_ps((__m128i)from);
#else
    eight to;
    for (int i = 0; i < 8; i++)
        to[i] = cuemu_f16_float(from[i]);
    return to;
#endif
}

/* Twice 8 bytes, through registers only. */
inline two pair(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, 8);
    memcpy(&y, b, 8);
    return two{x, y};
}

/* The lower (upper) halves of two vectors, one of each in turn. */
template <class V> inline V low(V a, V b)
{
    if constexpr (sizeof(a[0]) == 4)
        return __builtin_shuffle(a, b, four{0, 4, 1, 5});
    else
        return __builtin_shuffle(a, b, halves{0, 8, 1, 9, 2, 10, 3, 11});
}
template <class V> inline V high(V a, V b)
{
    if constexpr (sizeof(a[0]) == 4)
        return __builtin_shuffle(a, b, four{2, 6, 3, 7});
    else
        return __builtin_shuffle(a, b, halves{4, 12, 5, 13, 6, 14, 7, 15});
}

/* to[i] = (r[0][i], ..., r[7][i]) */
inline void transpose(halves to[8], const halves r[8])
{
    halves p[8], q[8];
    for (int i = 0; i < 4; i++) {
        p[2 * i] = low(r[i], r[i + 4]);
        p[2 * i + 1] = high(r[i], r[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        q[2 * i] = low(p[i], p[i + 4]);
        q[2 * i + 1] = high(p[i], p[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        to[2 * i] = low(q[i], q[i + 4]);
        to[2 * i + 1] = high(q[i], q[i + 4]);
    }
}

/* The matrices of a warp's fragments, rows of a and rows of b. */
void gather(float a[16][16], eight b[16], const cuemu_products *lanes, int n, bool bf16)
{
    halves left[8], right[8], rows[8]; /* columns of b, k below 8 and from there */
    for (int g = 0; g < 8; g++) {
        four l[4];
        for (int t = 0; t < 4; t++)
            memcpy(&l[t], lanes[4 * g + t].of[n].a, sizeof l[t]);
        const four p = low(l[0], l[2]), q = low(l[1], l[3]);
        const four r = high(l[0], l[2]), s = high(l[1], l[3]);
        const eight at[4] = {widen((halves)low(p, q), bf16), widen((halves)low(r, s), bf16),
                             widen((halves)high(p, q), bf16), widen((halves)high(r, s), bf16)};
        memcpy(&a[g][0], &at[0], sizeof at[0]);
        memcpy(&a[g][8], &at[1], sizeof at[0]);
        memcpy(&a[g + 8][0], &at[2], sizeof at[0]);
        memcpy(&a[g + 8][8], &at[3], sizeof at[0]);
        const four u = (four)pair(lanes[4 * g].of[n].b, lanes[4 * g + 1].of[n].b);
        const four v = (four)pair(lanes[4 * g + 2].of[n].b, lanes[4 * g + 3].of[n].b);
        left[g] = (halves)__builtin_shuffle(u, v, four{0, 2, 4, 6});
        right[g] = (halves)__builtin_shuffle(u, v, four{1, 3, 5, 7});
    }
    transpose(rows, left);
    for (int k = 0; k < 8; k++)
        b[k] = widen(rows[k], bf16);
    transpose(rows, right);
    for (int k = 0; k < 8; k++)
        b[8 + k] = widen(rows[k], bf16);
}

/* 8 rows of a times b; sums in registers. */
inline void multiply(eight sum[8], const float a[8][16], const eight b[16])
{
    eight s0 = {}, s1 = {}, s2 = {}, s3 = {}, s4 = {}, s5 = {}, s6 = {}, s7 = {};
    for (int k = 0; k < 16; k++) {
        s0 += a[0][k] * b[k];
        s1 += a[1][k] * b[k];
        s2 += a[2][k] * b[k];
        s3 += a[3][k] * b[k];
        s4 += a[4][k] * b[k];
        s5 += a[5][k] * b[k];
        s6 += a[6][k] * b[k];
        s7 += a[7][k] * b[k];
    }
    const eight all[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
    memcpy(sum, all, sizeof all);
}

/* Product n of a warp. */
void compute(const cuemu_products *lanes, int n)
{
    float a[16][16];
    eight b[16], sum[16];
    gather(a, b, lanes, n, lanes->bf16[n]);
    multiply(sum, a, b);
    multiply(sum + 8, a + 8, b);
    for (int lane = 0; lane < LANES; lane++) {
        const int g = lane / 4, t = lane % 4;
        typedef float quad __attribute__((vector_size(16), aligned(4)));
        *(quad *)lanes[lane].of[n].c +=
            (quad)pair((const float *)&sum[g] + 2 * t, (const float *)&sum[g + 8] + 2 * t);
    }
}

/* What lanes give is a pointer to their cuemu_thread.  They must have come by the same products. */
void compute_held(void **lanes, unsigned)
{
    const cuemu_thread *first = static_cast<const cuemu_thread *>(lanes[0]);
    for (int lane = 1; lane < LANES; lane++) {
        const cuemu_thread *t = static_cast<const cuemu_thread *>(lanes[lane]);
        const int n = t->n_products;
        if (n != first->n_products)
            cuemu_trap(cudaErrorLaunchFailure, "lane %d has %d products to wait for, lane 0 %d",
                       lane, n, first->n_products);
        for (int i = 0; i < n; i++)
            if (t->products->line[i] != first->products->line[i])
                cuemu_trap(cudaErrorLaunchFailure,
                           "divergent mma.sync: lane %d at line %d, lane 0 at %d", lane,
                           t->products->line[i], first->products->line[i]);
    }
    for (int i = 0; i < first->n_products; i++)
        compute(held[first->warp], i);
    cuemu_count_mma(first->n_products);
}

struct ldmatrix_lane {
    uint32_t *r;
    const void *row;
};

/* Lane 4 g + t gets the halves 2 t and 2 t + 1 of row g of each matrix. */
template <bool transposed> void load_matrices(void **lanes, unsigned)
{
    halves m[4][8];
    for (int lane = 0; lane < LANES; lane++) {
        const void *row = static_cast<const ldmatrix_lane *>(lanes[lane])->row;
        if (reinterpret_cast<uintptr_t>(row) % 16)
            cuemu_trap(cudaErrorMisalignedAddress, "ldmatrix from %p", row);
        memcpy(&m[lane / 8][lane % 8], row, sizeof(halves));
    }
    if (transposed)
        for (int i = 0; i < 4; i++)
            transpose(m[i], m[i]);
    for (int g = 0; g < 8; g++) {
        const four p = low((four)m[0][g], (four)m[2][g]), q = low((four)m[1][g], (four)m[3][g]);
        const four r = high((four)m[0][g], (four)m[2][g]), s = high((four)m[1][g], (four)m[3][g]);
        const four to[4] = {low(p, q), high(p, q), low(r, s), high(r, s)};
        for (int t = 0; t < 4; t++)
            memcpy(static_cast<const ldmatrix_lane *>(lanes[4 * g + t])->r, &to[t], sizeof to[t]);
    }
}

} // namespace

cuemu_products *cuemu_products_of(int warp, int lane)
{
    return &held[warp][lane];
}

void cuemu_mma_wait(const char *file, int line)
{
    cuemu_warp(CUEMU_MMA, 0xffffffffu, compute_held, cuemu_self, file, line);
    cuemu_self->n_products = 0;
}

void cuemu_ldmatrix(uint32_t r[4], const void *row, bool transposed, const char *file, int line)
{
    ldmatrix_lane l = {r, row};
    cuemu_warp(CUEMU_LDMATRIX, 0xffffffffu, transposed ? load_matrices<true> : load_matrices<false>,
               &l, file, line);
}
