/* The layout of a weight matrix on the device: the order in which the lanes of a warp want their part of
 * an A fragment of mma.m16n8k16, so that it is read by 16-byte loads and never shuffled.  For C (packing)
 * and for kernels (reading).
 * Thread: any.
 *
 * A matrix [n_out, n_in] is cut into panels of 16 rows, padded with zeros.  A panel is a row of units, a
 * unit has steps of step_k (64 or 128) elements of each of the 16 rows, padded with zero scales:
 *
 *     unit    [ head ] [ step ] x steps           head: d (and m) of a K block of 256; else none
 *     step    [ scales ] [ low plane ] [ high plane ]
 *
 * Element (row, k) of a step belongs to lane 4 * (row % 8) + k / 4 % 4, to its fragment k / 16 and there to
 * half k % 2 of register row / 8 + 2 * (k / 2 % 2): of 16 consecutive k a lane has four neighbours, and x
 * is read as it lies.  A code of b bits stands in plane words as
 *
 *     word of the lane    b * fragment / 4  (8 bits: 2 * fragment + register / 2; 16: 4 * f + register)
 *     bit                 b * (4 * (fragment % (4 / b)) + register) + 16 * half
 *                         (8 bits: 8 * (register % 2) + 16 * half; 16: 16 * half)
 *
 * so that one shift and one mask give both halves of a register.  Codes of 5, 6 and 3 bits have their
 * upper bits in the high plane.  A lane's words lie in pieces of 16 bytes (or all of them, if fewer), the
 * 32 lanes side by side.
 *
 * Scales, for r = 0 ... 7, of rows r and r + 8:
 *     head 64   r: d, d', m, m' f16          head 32   r: d, d' f16
 *     blocks of 32       scaled   r: d, d' of group 0, then of group 1 (f16; MXFP4: bf16)
 *                        affine   the same, then m likewise
 *     Q4_K, Q5_K         r: sc[2], sc'[2], mn[2], mn'[2]
 *     Q2_K               r: (sc | mn << 4)[8], then of r + 8
 *     Q3_K, Q6_K         r: sc[step_k / 16] s8, then of r + 8
 *
 * F32 matrices stay rows, each padded to a multiple of 4 elements. */
#ifndef KERNELS_CUDA_CUDA_LAYOUT_H
#define KERNELS_CUDA_CUDA_LAYOUT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"

#define CUDA_PANEL 16
#define CUDA_LANES 32

/* clang-format off */
/* X(type, bits low, high, group, step_k, steps, head bytes, scale bytes, affine, zero) */
#define CUDA_LAYOUTS(X) \
    X(DTYPE_F16,    16, 0,  0,  64, 1,  0,   0, false,   0) \
    X(DTYPE_BF16,   16, 0,  0,  64, 1,  0,   0, false,   0) \
    X(DTYPE_Q4_0,    4, 0, 32,  64, 1,  0,  64, false,   8) \
    X(DTYPE_Q4_1,    4, 0, 32,  64, 1,  0, 128, true,    0) \
    X(DTYPE_Q5_0,    4, 1, 32,  64, 1,  0,  64, false,  16) \
    X(DTYPE_Q5_1,    4, 1, 32,  64, 1,  0, 128, true,    0) \
    X(DTYPE_Q8_0,    8, 0, 32,  64, 1,  0,  64, false, 128) \
    X(DTYPE_IQ4_NL,  4, 0, 32,  64, 1,  0,  64, false, 128) \
    X(DTYPE_MXFP4,   4, 0, 32,  64, 1,  0,  64, false,   0) \
    X(DTYPE_Q2_K,    2, 0, 16, 128, 2, 64, 128, true,    0) \
    X(DTYPE_Q3_K,    2, 1, 16, 128, 2, 32, 128, false,   4) \
    X(DTYPE_Q4_K,    4, 0, 32,  64, 4, 64,  64, true,    0) \
    X(DTYPE_Q5_K,    4, 1, 32,  64, 4, 64,  64, true,    0) \
    X(DTYPE_Q6_K,    4, 2, 16,  64, 4, 32,  64, false,  32)
/* clang-format on */

struct cuda_layout {
    uint8_t low, high; /* bits of a code in either plane */
    uint8_t group;     /* elements that share scales; 0: there are none */
    uint8_t step_k, steps;
    uint16_t head_bytes, scale_bytes;
    bool affine;
};

/* Bytes of a plane of b bits. */
#define CUDA_PLANE_BYTES(b, step_k) (2 * (b) * (step_k))

#ifdef __CUDACC__
#define CUDA_BOTH __host__ __device__
#else
#define CUDA_BOTH
#endif

/* Where element (row, k of the step) stands in a plane of `bits`: 32-bit word and lowest bit. */
CUDA_BOTH static inline void cuda_layout_at(int bits, int step_k, int row, int k, int *word,
                                            int *shift)
{
    const int lane = row % 8 * 4 + k / 4 % 4, fragment = k / 16, half = k % 2;
    const int reg = row / 8 + k / 2 % 2 * 2;
    int own; /* word among the lane's */
    if (bits == 16) {
        own = 4 * fragment + reg;
        *shift = 16 * half;
    } else if (bits == 8) {
        own = 2 * fragment + reg / 2;
        *shift = 8 * (reg % 2) + 16 * half;
    } else {
        own = bits * fragment / 4;
        *shift = bits * (4 * (fragment % (4 / bits)) + reg) + 16 * half;
    }
    const int n = step_k * bits / 64, piece = n < 4 ? n : 4; /* words of a lane; together */
    *word = own / piece * piece * CUDA_LANES + lane * piece + own % piece;
}
#endif
