/* One packed block taken apart: the codes, and its scales exactly as the file has them.  Shared by
 * the scalar unpack (quant.c) and by the repack into a backend's own layout, so that no format is
 * decoded twice.
 * Thread: any.
 *
 * Every block format is one of two sentences, with g the group of element k:
 *     scaled   w[k] = D(g) * (q[k] - zero)
 *     affine   w[k] = D(g) * q[k] + M(g)
 * where q is an unsigned code (through a table of 16 values for IQ4_NL and MXFP4). */
#ifndef KERNELS_QUANT_BLOCK_H
#define KERNELS_QUANT_BLOCK_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/tensor.h"

/* What D and M of a group are. */
enum quant_scale {
    QUANT_SCALE_F16,   /* D = f16 d of the block */
    QUANT_SCALE_BF16,  /* D = bf16 d of the block */
    QUANT_SCALE_F16_M, /* D = f16 d, M = f16 m of the block */
    QUANT_SCALE_S8,    /* D = f16 d * (int8) sc[g] */
    QUANT_SCALE_U8_M,  /* D = f16 d * sc[g], M = f16 m * mn[g]; m is minus the file's dmin */
};

struct quant_format {
    uint8_t bits;         /* of a code: 2, 3, 4, 5, 6 or 8 */
    uint8_t group;        /* elements that share D and M: 16 or 32 */
    uint8_t scale;        /* enum quant_scale */
    int16_t zero;         /* subtracted from the code (after the table); 0 for affine formats */
    const uint8_t *table; /* code -> value + zero, or NULL */
};

/* The elements of one block (dtype_block of them are used). */
struct quant_block {
    uint8_t q[256];
    uint16_t d, m;          /* bits of f16, of bf16 for QUANT_SCALE_BF16 */
    uint8_t sc[16], mn[16]; /* one a group */
};

/* NULL for the types that are not blocks (F32, F16, BF16, I32). */
const struct quant_format *quant_format(enum dtype type);
void quant_block_split(struct quant_block *b, enum dtype type, const void *src);
/* D and M of group g; M is 0 for scaled formats. */
float quant_block_d(const struct quant_format *f, const struct quant_block *b, int g);
float quant_block_m(const struct quant_format *f, const struct quant_block *b, int g);
#endif
