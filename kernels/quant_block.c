/* Where each block format keeps its bits.
 *
 *   32 elements, low nibbles are elements 0-15, high nibbles 16-31; qh holds bit 4 of element i in
 *   bit i; d, m are f16, e is a power of two (E8M0):
 *     Q4_0 d qs[16]     Q4_1 d m qs[16]     Q5_0 d qh[4] qs[16]     Q5_1 d m qh[4] qs[16]
 *     Q8_0 d q[32]      IQ4_NL d qs[16]     MXFP4 e qs[16]
 *   256 elements:
 *     Q2_K scales[16] qs[64] d dmin         Q3_K hmask[32] qs[64] scales[12] d
 *     Q4_K d dmin scales[12] qs[128]        Q5_K d dmin scales[12] qh[32] qs[128]
 *     Q6_K ql[128] qh[64] scales[16] d
 *   In all K formats a byte of qs holds elements that are 32 (or 64) apart: runs of 32 elements are
 *   contiguous bytes, the run number selects the shift. */
#include "kernels/quant_block.h"

#include <stddef.h>
#include <string.h>

#include "kernels/quant.h"

/* IQ4_NL's 16 levels + 128. */
static const uint8_t table_iq4_nl[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                         129, 141, 153, 166, 181, 197, 217, 241};
/* FP4 (E2M1) in halves + 16. */
static const uint8_t table_mxfp4[16] = {16, 17, 18, 19, 20, 22, 24, 28,
                                        16, 15, 14, 13, 12, 10, 8,  4};

static const struct quant_format formats[DTYPE_N] = {
    [DTYPE_Q4_0] = {4, 32, QUANT_SCALE_F16, 8, NULL},
    [DTYPE_Q4_1] = {4, 32, QUANT_SCALE_F16_M, 0, NULL},
    [DTYPE_Q5_0] = {5, 32, QUANT_SCALE_F16, 16, NULL},
    [DTYPE_Q5_1] = {5, 32, QUANT_SCALE_F16_M, 0, NULL},
    [DTYPE_Q8_0] = {8, 32, QUANT_SCALE_F16, 128, NULL},
    [DTYPE_Q2_K] = {2, 16, QUANT_SCALE_U8_M, 0, NULL},
    [DTYPE_Q3_K] = {3, 16, QUANT_SCALE_S8, 4, NULL},
    [DTYPE_Q4_K] = {4, 32, QUANT_SCALE_U8_M, 0, NULL},
    [DTYPE_Q5_K] = {5, 32, QUANT_SCALE_U8_M, 0, NULL},
    [DTYPE_Q6_K] = {6, 16, QUANT_SCALE_S8, 32, NULL},
    [DTYPE_IQ4_NL] = {4, 32, QUANT_SCALE_F16, 128, table_iq4_nl},
    [DTYPE_MXFP4] = {4, 32, QUANT_SCALE_BF16, 16, table_mxfp4},
};

const struct quant_format *quant_format(enum dtype type)
{
    return (unsigned)type < DTYPE_N && formats[type].bits ? &formats[type] : NULL;
}

static uint16_t load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static void split_nibbles32(uint8_t *q, const uint8_t *qs)
{
    for (int i = 0; i < 16; i++) {
        q[i] = qs[i] & 15;
        q[i + 16] = qs[i] >> 4;
    }
}

static void split_bit4(uint8_t *q, const uint8_t *qh)
{
    for (int i = 0; i < 32; i++)
        q[i] |= (uint8_t)(((qh[i / 8] >> (i % 8)) & 1) << 4);
}

/* E8M0 e, halved because the table counts in halves: 2^(e-128).  Exact in bf16, also the two
 * subnormal ones. */
static uint16_t e8m0_half_bf16(uint8_t e)
{
    return e < 2 ? (uint16_t)(0x20u << e) : (uint16_t)((e - 1u) << 7);
}

/* A run of 32 codes: bits of 32 bytes, from bit `shift` on. */
static void split_run(uint8_t *q, const uint8_t *bytes, int shift, int mask)
{
    for (int i = 0; i < 32; i++)
        q[i] = (uint8_t)(bytes[i] >> shift & mask);
}

/* More bits of theirs, which go to bit `to`. */
static void split_more(uint8_t *q, const uint8_t *bytes, int shift, int mask, int to)
{
    for (int i = 0; i < 32; i++)
        q[i] |= (uint8_t)((bytes[i] >> shift & mask) << to);
}

static void split_q2_k(struct quant_block *b, const uint8_t *p)
{
    const uint8_t *qs = p + 16;
    for (int run = 0; run < 8; run++)
        split_run(b->q + run * 32, qs + run / 4 * 32, run % 4 * 2, 3);
    for (int g = 0; g < 16; g++) {
        b->sc[g] = p[g] & 15;
        b->mn[g] = p[g] >> 4;
    }
    b->d = load16(p + 80);
    b->m = load16(p + 82) ^ 0x8000;
}

static void split_q3_k(struct quant_block *b, const uint8_t *p)
{
    const uint8_t *hmask = p, *qs = p + 32, *scales = p + 96;
    for (int run = 0; run < 8; run++) {
        split_run(b->q + run * 32, qs + run / 4 * 32, run % 4 * 2, 3);
        split_more(b->q + run * 32, hmask, run, 1, 2);
    }
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
        int high = (scales[8 + g % 4] >> (g / 4 * 2)) & 3;
        b->sc[g] = (uint8_t)((low | high << 4) - 32);
    }
    b->d = load16(p + 108);
}

/* The 6-bit scales and mins of Q4_K and Q5_K. */
static void split_scales_k(struct quant_block *b, const uint8_t *s)
{
    for (int g = 0; g < 4; g++) {
        b->sc[g] = s[g] & 63;
        b->mn[g] = s[g + 4] & 63;
        b->sc[g + 4] = (uint8_t)((s[g + 8] & 15) | (s[g] >> 6) << 4);
        b->mn[g + 4] = (uint8_t)((s[g + 8] >> 4) | (s[g + 4] >> 6) << 4);
    }
}

static void split_q45_k(struct quant_block *b, const uint8_t *p, bool five)
{
    const uint8_t *qh = p + 16, *qs = five ? p + 48 : p + 16;
    for (int run = 0; run < 8; run++) {
        split_run(b->q + run * 32, qs + run / 2 * 32, run % 2 * 4, 15);
        if (five)
            split_more(b->q + run * 32, qh, run, 1, 4);
    }
    split_scales_k(b, p + 4);
    b->d = load16(p);
    b->m = load16(p + 2) ^ 0x8000;
}

static void split_q6_k(struct quant_block *b, const uint8_t *p)
{
    const uint8_t *ql = p, *qh = p + 128;
    for (int run = 0; run < 8; run++) {
        split_run(b->q + run * 32, ql + run / 4 * 64 + run % 2 * 32, run / 2 % 2 * 4, 15);
        split_more(b->q + run * 32, qh + run / 4 * 32, run % 4 * 2, 3, 4);
    }
    memcpy(b->sc, p + 192, 16);
    b->d = load16(p + 208);
}

void quant_block_split(struct quant_block *b, enum dtype type, const void *src)
{
    const uint8_t *p = src;
    b->m = 0;
    switch (type) {
    case DTYPE_Q4_0:
    case DTYPE_IQ4_NL:
        b->d = load16(p);
        split_nibbles32(b->q, p + 2);
        break;
    case DTYPE_Q4_1:
        b->d = load16(p);
        b->m = load16(p + 2);
        split_nibbles32(b->q, p + 4);
        break;
    case DTYPE_Q5_0:
        b->d = load16(p);
        split_nibbles32(b->q, p + 6);
        split_bit4(b->q, p + 2);
        break;
    case DTYPE_Q5_1:
        b->d = load16(p);
        b->m = load16(p + 2);
        split_nibbles32(b->q, p + 8);
        split_bit4(b->q, p + 4);
        break;
    case DTYPE_Q8_0:
        b->d = load16(p);
        for (int i = 0; i < 32; i++)
            b->q[i] = p[2 + i] ^ 0x80;
        break;
    case DTYPE_MXFP4:
        b->d = e8m0_half_bf16(p[0]);
        split_nibbles32(b->q, p + 1);
        break;
    case DTYPE_Q2_K:
        split_q2_k(b, p);
        break;
    case DTYPE_Q3_K:
        split_q3_k(b, p);
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        split_q45_k(b, p, type == DTYPE_Q5_K);
        break;
    case DTYPE_Q6_K:
        split_q6_k(b, p);
        break;
    default:
        break;
    }
}

float quant_block_d(const struct quant_format *f, const struct quant_block *b, int g)
{
    switch ((enum quant_scale)f->scale) {
    case QUANT_SCALE_BF16:
        return bf16_to_f32(b->d);
    case QUANT_SCALE_S8:
        return f16_to_f32(b->d) * (float)(int8_t)b->sc[g];
    case QUANT_SCALE_U8_M:
        return f16_to_f32(b->d) * (float)b->sc[g];
    default:
        return f16_to_f32(b->d);
    }
}

float quant_block_m(const struct quant_format *f, const struct quant_block *b, int g)
{
    switch ((enum quant_scale)f->scale) {
    case QUANT_SCALE_F16_M:
        return f16_to_f32(b->m);
    case QUANT_SCALE_U8_M:
        return f16_to_f32(b->m) * (float)b->mn[g];
    default:
        return 0.0f;
    }
}
