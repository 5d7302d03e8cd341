/* The inner loops of linear as one would write them on a whiteboard: the scalar level.
 * Included only by isa_scalar.c. */
#include <math.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/panel.h"

#define LAW_ROWS 8 /* rows of x that share the unpacking of a block */

static void linear_quant(struct linear_x *to, const float *x, int64_t n, int parts)
{
    float largest = parts == 2 ? 127.0f * 256 : 127.0f;
    for (int64_t b = 0; b < n / 32; b++, to += parts, x += 32) {
        uint32_t top = 0; /* of the magnitudes' bits: orders like the floats, NaN above all */
        for (int k = 0; k < 32; k++) {
            uint32_t u;
            memcpy(&u, x + k, sizeof(u));
            top = (u & 0x7fffffff) > top ? u & 0x7fffffff : top;
        }
        float amax;
        memcpy(&amax, &top, sizeof(amax));
        memset(to, 0, (size_t)parts * sizeof(*to));
        if (top >= 0x7f800000) {
            to->d = to->m = to->m16[0] = to->m16[1] = NAN;
        } else if (amax >= 1e-30f) { /* below, largest / amax might overflow: taken for zero */
            float inverse = largest / amax;
            for (int k = 0; k < 32; k++) {
                int q = (int)lrintf(x[k] * inverse);
                int upper = parts == 2 ? (q + 128) >> 8 : q;
                to[0].q[k] = (int8_t)upper;
                if (parts == 2)
                    to[1].q[k] = (int8_t)(q - 256 * upper);
                to->s16[k / 16] += q;
            }
            to->s = to->s16[0] + to->s16[1];
            to->d = amax / largest;
            to->m = to->d * (float)to->s;
            to->m16[0] = to->d * (float)to->s16[0];
            to->m16[1] = to->d * (float)to->s16[1];
        }
    }
}

/* A block of 32 elements of the 16 rows of a panel. */
struct law_block {
    uint8_t q[8][PANEL_PLANE];
    float d[2][PANEL_ROWS], m[2][PANEL_ROWS];
};

static void law_block(struct law_block *b, const struct quant_format *f, const uint8_t *unit,
                      int sub)
{
    struct panel_geometry geo = panel_geometry(*f);
    const uint8_t *q = unit + geo.head_bytes + sub * geo.sub_bytes;
    for (int j = 0; j < 8; j++) {
        for (int p = 0; p < PANEL_PLANE; p++) {
            uint8_t code = panel_code(f->bits, q, j, p);
            b->q[j][p] = f->table ? f->table[code] : code;
        }
    }
    for (int g = 0; g < geo.groups; g++)
        for (int r = 0; r < PANEL_ROWS; r++)
            panel_scales(f, unit, sub, g, r, &b->d[g][r], &b->m[g][r]);
}

static void law_block_expanded(struct law_block *b, const struct quant_format *f,
                               const uint8_t *from)
{
    struct panel_geometry geo = panel_geometry(*f);
    size_t plane = sizeof(b->d[0]), scales = (size_t)geo.groups * plane;
    memcpy(b->q, from, sizeof(b->q));
    memcpy(b->d, from + sizeof(b->q), scales);
    if (geo.affine)
        memcpy(b->m, from + sizeof(b->q) + scales, scales);
}

static int law_x(const struct linear_x *x, int parts, int k)
{
    return parts == 2 ? 256 * x[0].q[k] + x[1].q[k] : x[0].q[k];
}

static void law_dot(float acc[PANEL_ROWS], const struct quant_format *f, const struct law_block *b,
                    const struct linear_x *x, int parts)
{
    struct panel_geometry geo = panel_geometry(*f);
    for (int r = 0; r < PANEL_ROWS; r++) {
        for (int g = 0; g < geo.groups; g++) {
            int sum = 0;
            for (int k = g * f->group; k < (g + 1) * f->group; k++)
                sum += b->q[k / 4][4 * r + k % 4] * law_x(x, parts, k);
            sum -= f->zero * (geo.groups == 1 ? x->s : x->s16[g]);
            acc[r] = fmaf(b->d[g][r] * x->d, (float)sum, acc[r]);
            if (geo.affine)
                acc[r] = fmaf(b->m[g][r], geo.groups == 1 ? x->m : x->m16[g], acc[r]);
        }
    }
}

static void law_store(const struct linear_tile *t, int64_t row, int64_t panel, const float *acc)
{
    int64_t at = row * t->out_stride;
    for (int64_t o = panel * PANEL_ROWS, i = 0; o < t->n_out && i < PANEL_ROWS; o++, i++) {
        float v = t->bias ? acc[i] + t->bias[o] : acc[i];
        t->out[at + o] = t->add ? v + t->add[at + o] : v;
    }
}

static void law_panels(const struct linear_tile *t, bool expanded)
{
    const struct quant_format *f = quant_format(t->type);
    struct panel_geometry geo = panel_geometry(*f);
    int64_t n_blocks = t->n_in / 32;
    for (int64_t p = 0; p < t->n_panels; p++) {
        const uint8_t *panel = (const uint8_t *)t->panels + (size_t)p * t->panel_bytes;
        for (int64_t r0 = 0; r0 < t->n_rows; r0 += LAW_ROWS) {
            int64_t n = t->n_rows - r0 < LAW_ROWS ? t->n_rows - r0 : LAW_ROWS;
            float acc[LAW_ROWS][PANEL_ROWS] = {{0}};
            for (int64_t b = 0; b < n_blocks; b++) {
                struct law_block block;
                if (expanded)
                    law_block_expanded(&block, f, panel + b * geo.expanded_bytes);
                else
                    law_block(&block, f, panel + b / geo.subs * geo.unit_bytes,
                              (int)(b % geo.subs));
                for (int64_t r = 0; r < n; r++)
                    law_dot(acc[r], f, &block, t->x + ((r0 + r) * n_blocks + b) * t->parts,
                            t->parts);
            }
            for (int64_t r = 0; r < n; r++)
                law_store(t, r0 + r, p, acc[r]);
        }
    }
}

static void linear_dot(const struct linear_tile *t)
{
    law_panels(t, false);
}

static int64_t linear_gemm(const struct linear_tile *t)
{
    law_panels(t, true);
    return t->n_rows;
}

static int64_t linear_expand_rows(void)
{
    return 12;
}

static void linear_expand(char *to, enum dtype type, const char *panel, int64_t n_in)
{
    const struct quant_format *f = quant_format(type);
    struct panel_geometry geo = panel_geometry(*f);
    for (int64_t b = 0; b < n_in / 32; b++, to += geo.expanded_bytes) {
        struct law_block block;
        size_t scales = (size_t)geo.groups * sizeof(block.d[0]);
        law_block(&block, f, (const uint8_t *)panel + b / geo.subs * geo.unit_bytes,
                  (int)(b % geo.subs));
        memcpy(to, block.q, sizeof(block.q));
        memcpy(to + sizeof(block.q), block.d, scales);
        if (geo.affine)
            memcpy(to + sizeof(block.q) + scales, block.m, scales);
    }
}

static void linear_plain(const struct linear_tile *t)
{
    size_t size = (size_t)dtype_block_bytes(t->type);
    for (int64_t p = 0; p < t->n_panels; p++) {
        for (int64_t row = 0; row < t->n_rows; row++) {
            const char *w = t->panels + (size_t)p * t->panel_bytes;
            const float *x = t->x_plain + row * t->n_in;
            float acc[PANEL_ROWS] = {0};
            for (int64_t k = 0; k < t->n_in; k++, w += PANEL_ROWS * size) {
                float wk[PANEL_ROWS];
                quant_unpack(t->type, wk, w, PANEL_ROWS);
                for (int i = 0; i < PANEL_ROWS; i++)
                    acc[i] = fmaf(wk[i], x[k], acc[i]);
            }
            law_store(t, row, p, acc);
        }
    }
}

static int64_t peak_f32(int64_t rounds)
{
    volatile float sum = 0;
    for (int64_t r = 0; r < rounds; r++)
        sum = fmaf(1.0f, 1e-9f, sum);
    return 2 * rounds;
}

static int64_t peak_int8(int64_t rounds)
{
    volatile int sum = 0;
    for (int64_t r = 0; r < rounds; r++)
        sum = sum + (int8_t)r * 3;
    return 2 * rounds;
}
