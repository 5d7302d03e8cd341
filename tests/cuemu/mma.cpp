/* Products of tensor cores (mma.m16n8k16, cuda_ptx.cuh), held back: a lane notes its fragments and goes on, and
 * what a warp has noted is computed when its lanes meet. So a kernel that issues many products pays for one
 * meeting of 32 fibers instead of one for each. Products are summed in ascending order of k, each step rounded.
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

enum { LANES = 32, WARPS = 32, HELD = 32 };
typedef float eight __attribute__((vector_size(32)));

struct product {
    uint16_t a[16][16], b[16][8];
    float *c[LANES];
    bool bf16;
};
product held[WARPS][HELD];

/* n, a multiple of 8, halves or bf16. */
void widen(float *to, const uint16_t *from, int n, bool bf16)
{
    if (bf16) {
        for (int i = 0; i < n; i++)
            to[i] = cuemu_bf16_float(from[i]);
        return;
    }
#ifdef __F16C__
    for (int i = 0; i < n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#else
    for (int i = 0; i < n; i++)
        to[i] = cuemu_f16_float(from[i]);
#endif
}

void compute(const product *p)
{
    float a[16][16];
    eight b[16], sum[16] = {};
    widen(a[0], p->a[0], 16 * 16, p->bf16);
    widen((float *)b, p->b[0], 16 * 8, p->bf16);
    for (int k = 0; k < 16; k++)
        for (int row = 0; row < 16; row++)
            sum[row] += a[row][k] * b[k];
    for (int lane = 0; lane < LANES; lane++) {
        const int g = lane / 4, t = lane % 4;
        float *c = p->c[lane];
        for (int i = 0; i < 4; i++)
            c[i] += sum[g + i / 2 * 8][2 * t + i % 2];
    }
}

/* What lanes give is a pointer to their cuemu_thread. */
void compute_held(void **lanes, unsigned)
{
    const cuemu_thread *first = static_cast<const cuemu_thread *>(lanes[0]);
    for (int lane = 1; lane < LANES; lane++)
        if (static_cast<const cuemu_thread *>(lanes[lane])->products != first->products)
            cuemu_trap(cudaErrorLaunchFailure, "lane %d has %d products to wait for, lane 0 %d",
                       lane, static_cast<const cuemu_thread *>(lanes[lane])->products,
                       first->products);
    for (int i = 0; i < first->products; i++)
        compute(&held[first->warp][i]);
    cuemu_count_mma(first->products);
}

} // namespace

void cuemu_mma_wait(const char *file, int line)
{
    cuemu_warp(CUEMU_MMA, 0xffffffffu, compute_held, cuemu_self, file, line);
    cuemu_self->products = 0;
}

void cuemu_mma(float c[4], const uint32_t a[4], const uint32_t b[2], bool bf16, const char *file,
               int line)
{
    if (cuemu_self->products == HELD)
        cuemu_mma_wait(file, line);
    const unsigned g = cuemu_self->lane / 4, t = cuemu_self->lane % 4;
    product *p = &held[cuemu_self->warp][cuemu_self->products++];
    for (unsigned i = 0; i < 4; i++)
        memcpy(&p->a[g + i % 2 * 8][2 * t + i / 2 * 8], &a[i], 4);
    for (unsigned i = 0; i < 2; i++) {
        p->b[2 * t + i * 8][g] = (uint16_t)b[i];
        p->b[2 * t + i * 8 + 1][g] = (uint16_t)(b[i] >> 16);
    }
    p->c[cuemu_self->lane] = c;
    p->bf16 = bf16;
}
