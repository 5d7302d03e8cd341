/* Convolution 3 x 3 of stride 1 in fewer products (Winograd 1980; Lavin & Gray 2016), for a tile of 2 x 2
 * outputs; in one dimension, d the inputs, g the weights, y the outputs:
 *
 *     size 4    inputs   d0 - d2, d1 + d2, d2 - d1, d1 - d3
 *               weights  g0, (g0 + g2 + g1) / 2, (g0 + g2 - g1) / 2, g2
 *               outputs  m0 + m1 + m2, m1 - m2 - m3
 *     size 3    the inputs stand there twice (upsample to even sides):
 *               y0 = g0 d0 + (g1 + g2) d1, y1 = (g0 + g1) d1 + g2 d2
 *               inputs   d0 - d1, d1, d2 - d1
 *               weights  g0, g0 + g2 + g1, g2
 *               outputs  m0 + m1, m1 + m2
 *
 * where m are the products, one after the other.  In two dimensions first down, then across: 16 products
 * for 36, or 9.
 * Thread: any; no state. */
#ifndef KERNELS_CPU_CONV_WIN_H
#define KERNELS_CPU_CONV_WIN_H
#include <stdint.h>

#include "kernels/tensor.h"

#define WIN_K 96 /* channels at a time, at most */

/* Transforms n channels of the 16 outputs of a panel. */
struct conv_win_weights {
    enum dtype type;
    int size;          /* 4 or 3 */
    const char *panel; /* the channels of the first tap */
    int64_t tap_bytes; /* from tap to tap */
    float *to;         /* product a * size + b at to[(a * size + b) * to_stride], [n, 16] */
    int64_t to_stride;
    int64_t n;
};
#endif
