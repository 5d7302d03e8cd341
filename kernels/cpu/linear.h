/* What linear.c hands to the inner loops, and the arithmetic that all of them keep to.
 * Thread: any; the inner loops have no state.
 *
 * With block weights an output is, over the groups g of its row in ascending order,
 *
 *     acc = fma(D(g) * x.d, (float)(sum of (q[k] - zero) * x.q[k] over the group), acc)
 *     acc = fma(M(g), x.m, acc)                                           (affine formats)
 *
 * with the integer sum exact.  Where a block has two groups and no M, their sums s and t take one line together:
 *
 *     acc = fma(x.d, fma(D(g + 1), t, D(g) * s), acc)
 *
 * After each LINEAR_RUN blocks of 32, and after the last ones, the line of D is done again for the blocks among
 * them whose x has a second part, with that part, in ascending order.
 * At the end it is acc + bias + add.  With plain weights it is acc = fma(w[k], x[k], acc), k ascending.
 *
 * One accumulator an output, always in this order: so the bits of a row do not depend on how many rows, panels
 * or threads there are, nor on the instruction set (lanes are outputs, never parts of one sum). */
#ifndef KERNELS_CPU_LINEAR_H
#define KERNELS_CPU_LINEAR_H
#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"

/* The zeros of Q4_0 and Q6_K; those of the other formats are multiples or parts of them. */
#define LINEAR_ZERO   8
#define LINEAR_ZERO16 32

/* 32 activations of one row, rounded to integers: x = d * q, one cache line.  A block with an infinity or
 * a NaN has d = NaN.
 *
 * Where more is wanted than 8 bits a row may have second parts: n_in / 32 first parts are followed by as
 * many second ones, and x = d * q + d' * q' with d' = d / 256. */
struct linear_x {
    int8_t q[32];       /* -127 ... 127; of a second part -128 ... 127 */
    float d;            /* largest magnitude / 127 */
    float m;            /* d * (s + s' / 256), the sums of q; of a second part unused, as m16 */
    float m16[2];       /* of either half */
    int32_t start;      /* -s * LINEAR_ZERO: the sums of products begin there */
    int32_t start16[2]; /* of either half, times LINEAR_ZERO16 */
    /* In block w of the first parts: bit i tells that block 32 w + i has a second part. */
    uint32_t second;
};

/* A precise row has second parts in the blocks whose largest magnitude is above this many times the mean
 * of the row's blocks: a few large values would cost all others their precision there, and what a block
 * adds to the error of a product grows with its largest magnitude. */
#define LINEAR_PRECISE 1.5f

/* Rows of at most so many numbers have second parts in all blocks, asked or not: their sums are over too few
 * numbers for errors to cancel, and they cost little. */
#define LINEAR_SHORT 512

/* Blocks whose second parts follow their first ones: of three expanded panels they are still in the L1 cache
 * then.  A divisor of 32, so that their bits are in one word, and a multiple of a unit's 8. */
#define LINEAR_RUN 16

/* Panels of one matrix times rows. */
struct linear_tile {
    enum dtype type;
    int64_t n_in;
    const char *panels; /* [n_panels] in the layout of panel.h, packed or expanded */
    size_t panel_bytes;
    int64_t n_panels;
    const char *next; /* packed panels that are expanded after these: fetched meanwhile */
    size_t next_bytes;
    int64_t n_rows;
    const struct linear_x *x; /* block weights: [n_rows, parts, n_in / 32] */
    int parts;                /* of x: 1 or 2 */
    const float *x_plain;     /* plain weights: [n_rows, n_in] */
    float *out;               /* [n_rows, out_stride], of which n_out are written */
    const float *add;         /* like out, may be out; or NULL */
    const float *bias;        /* [n_out] or NULL */
    int64_t out_stride;
    int64_t n_out; /* at most 16 * n_panels, more than 16 * (n_panels - 1) */
};
#endif
