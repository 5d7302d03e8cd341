/* The layout R16 that every weight is repacked into, and the law of reading it.
 * Thread: any.
 *
 * A matrix [n_out, n_in] is cut into panels of 16 output rows (the last one padded with zeros), one
 * after the other.  In a panel the 16 rows are interleaved so that one 64-byte load is the operand
 * of one dot instruction: 16 rows x 4 consecutive k, "quad" j of a block of 32 being k = 4j ... 4j+3:
 *
 *     byte      0  1  2  3   4  5  6  7         60 61 62 63
 *     row       0  0  0  0   1  1  1  1   ...   15 15 15 15
 *     k - 4j    0  1  2  3   0  1  2  3         0  1  2  3
 *
 * Such 64 bytes are a plane.  The codes of a block, 8 quads, take these planes (b: bits of a code):
 *
 *     b = 8   8 planes, quad j in plane j
 *     b = 4   4 planes, quad j in the low nibbles of plane j, quad j + 4 in its high nibbles
 *     b = 2   2 planes, quad j in bits 2(j%4), 2(j%4)+1 of plane j/4
 *     b = 5   as 4, then 1 plane whose bit j is bit 4 of quad j
 *     b = 3   as 2, then 1 plane whose bit j is bit 2 of quad j
 *     b = 6   as 4, then as 2 with the upper two bits
 *
 * A panel is a row of units, one a block of the file (32 or 256 elements of each of the 16 rows).
 * The head is padded to 64 bytes in the K formats; sc and mn are there only in these:
 *
 *     unit   [ d[16] f16 | m[16] f16 if affine ] [ sub-block ] x 1 or 8
 *     sub    [ planes of 32 elements ] [ sc[groups][16] ] [ mn[groups][16] if affine ]
 *
 * The scales are the file's own bits, so a value read back is exactly quant_unpack's.
 *
 * For large batches a panel is first expanded into one byte a code, table applied:
 *
 *     block  [ 8 planes ] [ D[groups][16] f32 ] [ M[groups][16] f32 if affine ]
 *
 * F32, F16 and BF16 matrices: element k of the 16 rows side by side, [n_in][16]. */
#ifndef KERNELS_CPU_PANEL_H
#define KERNELS_CPU_PANEL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/quant.h"
#include "kernels/quant_block.h"

#define PANEL_ROWS  16
#define PANEL_PLANE 64 /* bytes */

struct panel_geometry {
    int subs;       /* blocks of 32 in a unit: 1 or 8 */
    int groups;     /* with their own scales in a block of 32: 1 or 2 */
    bool affine;    /* has M */
    bool pairs;     /* two groups without M: multiplied by x.d together (linear.h) */
    int head_bytes; /* of a unit */
    int q_bytes;    /* of the planes of a block of 32 */
    int sub_bytes;  /* planes and scales */
    int unit_bytes;
    int expanded_bytes; /* of a block of 32 after expansion */
};

static inline __attribute__((always_inline, unused)) struct panel_geometry
panel_geometry(struct quant_format f)
{
    struct panel_geometry g = {0};
    bool k = f.scale == QUANT_SCALE_S8 || f.scale == QUANT_SCALE_U8_M;
    g.subs = k ? 8 : 1;
    g.groups = 32 / f.group;
    g.affine = f.scale == QUANT_SCALE_F16_M || f.scale == QUANT_SCALE_U8_M;
    g.pairs = g.groups == 2 && !g.affine;
    g.head_bytes = k || g.affine ? 64 : 32;
    g.q_bytes = f.bits * PANEL_PLANE;
    g.sub_bytes = g.q_bytes + (k ? PANEL_ROWS * g.groups * (g.affine ? 2 : 1) : 0);
    g.unit_bytes = g.head_bytes + g.subs * g.sub_bytes;
    g.expanded_bytes = 8 * PANEL_PLANE + g.groups * (g.affine ? 2 : 1) * PANEL_ROWS * 4;
    return g;
}

/* Code of quad j at byte p of the planes q. */
static inline __attribute__((unused)) uint8_t panel_code(int bits, const uint8_t *q, int j, int p)
{
    if (bits == 8)
        return q[j * PANEL_PLANE + p];
    if (bits < 4) {
        int low = q[j / 4 * PANEL_PLANE + p] >> (j % 4 * 2) & 3;
        return (uint8_t)(bits == 2 ? low : low | (q[2 * PANEL_PLANE + p] >> j & 1) << 2);
    }
    int low = q[j % 4 * PANEL_PLANE + p] >> (j / 4 * 4) & 15;
    if (bits == 5)
        low |= (q[4 * PANEL_PLANE + p] >> j & 1) << 4;
    else if (bits == 6)
        low |= (q[(4 + j / 4) * PANEL_PLANE + p] >> (j % 4 * 2) & 3) << 4;
    return (uint8_t)low;
}

/* D and M of one row: unit is where its unit starts, sub and g the block of 32
 * in it and the group in that. */
static inline __attribute__((unused)) void panel_scales(const struct quant_format *f,
                                                        const uint8_t *unit, int sub, int g,
                                                        int row, float *d, float *m)
{
    struct panel_geometry geo = panel_geometry(*f);
    struct quant_block b;
    memcpy(&b.d, unit + 2 * row, 2);
    memcpy(&b.m, unit + (geo.affine ? 32 : 0) + 2 * row, 2);
    const uint8_t *sc = unit + geo.head_bytes + sub * geo.sub_bytes + geo.q_bytes;
    if (geo.subs > 1) {
        b.sc[0] = sc[g * PANEL_ROWS + row];
        b.mn[0] = geo.affine ? sc[(geo.groups + g) * PANEL_ROWS + row] : 0;
    }
    *d = quant_block_d(f, &b, 0);
    *m = quant_block_m(f, &b, 0);
}
#endif
