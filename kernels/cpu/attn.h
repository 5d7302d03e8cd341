/* How a KV page is laid out, for attn.c that fills it and the inner loops that read it.
 * Thread: any.
 *
 * A page holds, for one layer, KV_PAGE_TOKENS = 16 tokens of each kv head:
 *
 *     f32, f16    keys    [head_dim][16]        one vector load is one dimension of 16 tokens, so
 *                                               q k^T needs no sums across lanes
 *                 values  [16][head_dim]
 *     q8_0        keys    [head_dim / 4][16][4] u8   codes + 128: 64 bytes are the operand of one
 *                                                    u8 x s8 dot instruction with 16 tokens
 *                         [ceil(head_dim / 32)][16] f16   scales, one for 32 dimensions of a token
 *                 values  [4][head_dim][4] s8        4 tokens side by side: the same instruction
 *                                                    sums over tokens
 *                         [16] f32                   scales, one for a token
 *
 * and zeros up to a multiple of 64 bytes.  Keys have dimensions of very different size (rotary
 * positions keep the large ones large), hence the finer scales; values have not. */
#ifndef KERNELS_CPU_ATTN_H
#define KERNELS_CPU_ATTN_H
#include <stddef.h>

#include "kernels/ops.h"

#define ATTN_BLOCK 32 /* dimensions of a key that share a scale, and of a rounded query */

static inline int attn_blocks(int head_dim)
{
    return (head_dim + ATTN_BLOCK - 1) / ATTN_BLOCK;
}

/* Keys or values of one kv head in a page. */
static inline size_t attn_head_bytes(enum dtype type, int head_dim)
{
    size_t n = (size_t)KV_PAGE_TOKENS * (size_t)head_dim;
    if (type == DTYPE_F32)
        return 4 * n;
    if (type == DTYPE_F16)
        return 2 * n;
    size_t scales = (size_t)KV_PAGE_TOKENS * 2 * (size_t)attn_blocks(head_dim);
    return (n + (scales > 64 ? scales : 64) + 63) / 64 * 64;
}

/* The pages of a chunk that any of n queries sees: *first ... *end - 1. */
static inline void attn_pages(const int *lo, const int *hi, int n, int *first, int *end)
{
    *first = 1 << 30;
    *end = 0;
    for (int i = 0; i < n; i++) {
        if (lo[i] >= hi[i])
            continue;
        int a = lo[i] / KV_PAGE_TOKENS, b = (hi[i] - 1) / KV_PAGE_TOKENS + 1;
        *first = a < *first ? a : *first;
        *end = b > *end ? b : *end;
    }
}
#endif
