/* The inner loops of linear as one would write them on a whiteboard: the scalar level.
 * Included only by isa_scalar.c. */
#include <math.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/panel.h"

#define LAW_ROWS 8 /* rows of x that share the unpacking of a block */

/* The largest magnitude's bits: they order like the floats, NaN above all. */
static uint32_t law_top(const float *x)
{
    uint32_t top = 0;
    for (int k = 0; k < 32; k++) {
        uint32_t u;
        memcpy(&u, x + k, sizeof(u));
        top = (u & 0x7fffffff) > top ? u & 0x7fffffff : top;
    }
    return top;
}

static float law_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static void law_start(struct linear_x *x, const int32_t sum16[2])
{
    x->start = -LINEAR_ZERO * (sum16[0] + sum16[1]);
    x->start16[0] = -LINEAR_ZERO16 * sum16[0];
    x->start16[1] = -LINEAR_ZERO16 * sum16[1];
}

/* The block's first part and, if its largest magnitude is above limit, its second. */
static bool law_quant_block(struct linear_x *to, struct linear_x *second, const float *x,
                            float limit)
{
    uint32_t top = law_top(x);
    float amax = law_float(top);
    if (top >= 0x7f800000) {
        to->d = to->m = to->m16[0] = to->m16[1] = NAN;
        return false;
    }
    if (amax < 1e-30f) /* 127 / amax might overflow: taken for zero */
        return false;
    const bool two = second && amax > limit;
    const float inverse = (two ? 32512.0f : 127.0f) / amax;
    int32_t sum16[2] = {0}, upper16[2] = {0}, lower16[2] = {0};
    for (int k = 0; k < 32; k++) {
        int q = (int)lrintf(x[k] * inverse), upper = two ? (q + 128) >> 8 : q;
        to->q[k] = (int8_t)upper;
        upper16[k / 16] += upper;
        sum16[k / 16] += two ? q : 256 * q;
        if (two) {
            second->q[k] = (int8_t)(q - 256 * upper);
            lower16[k / 16] += q - 256 * upper;
        }
    }
    law_start(to, upper16);
    to->d = amax / 127.0f;
    const float d = to->d * 0x1p-8f;
    to->m = d * (float)(sum16[0] + sum16[1]);
    to->m16[0] = d * (float)sum16[0];
    to->m16[1] = d * (float)sum16[1];
    if (two) {
        law_start(second, lower16);
        second->d = d;
    }
    return two;
}

static void linear_quant(struct linear_x *to, const float *x, int64_t n_rows, int64_t n_in,
                         int parts, float limit)
{
    const int64_t n_blocks = n_in / 32;
    for (int64_t r = 0; r < n_rows; r++, to += parts * n_blocks, x += n_in) {
        float sum = 0;
        for (int64_t b = 0; b < n_blocks; b++)
            sum += law_float(law_top(x + b * 32));
        memset(to, 0, (size_t)(parts * n_blocks) * sizeof(*to));
        for (int64_t b = 0; b < n_blocks; b++)
            if (law_quant_block(to + b, parts == 2 ? to + n_blocks + b : NULL, x + b * 32,
                                limit * (sum / (float)n_blocks)))
                to[b / 32].second |= 1u << b % 32;
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

/* The sum of group g of the row: (q - zero) times x.q. */
static int law_sum(const struct quant_format *f, const struct law_block *b,
                   const struct linear_x *x, int row, int g)
{
    int sum = 0;
    for (int k = g * f->group; k < (g + 1) * f->group; k++)
        sum += (b->q[k / 4][4 * row + k % 4] - f->zero) * x->q[k];
    return sum;
}

static void law_dot(float acc[PANEL_ROWS], const struct quant_format *f, const struct law_block *b,
                    const struct linear_x *x, bool affine)
{
    struct panel_geometry geo = panel_geometry(*f);
    for (int r = 0; r < PANEL_ROWS; r++) {
        float s[2];
        for (int g = 0; g < geo.groups; g++)
            s[g] = (float)law_sum(f, b, x, r, g);
        if (geo.pairs) {
            acc[r] = fmaf(x->d, fmaf(b->d[1][r], s[1], b->d[0][r] * s[0]), acc[r]);
            continue;
        }
        for (int g = 0; g < geo.groups; g++) {
            acc[r] = fmaf(b->d[g][r] * x->d, s[g], acc[r]);
            if (affine)
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
            for (int64_t i = 0; i < t->parts * n_blocks; i++) {
                struct law_block block;
                int64_t run = i / (t->parts * LINEAR_RUN) * LINEAR_RUN;
                int64_t n_run = n_blocks - run < LINEAR_RUN ? n_blocks - run : LINEAR_RUN;
                int64_t at = i - t->parts * run, b = run + at % n_run;
                bool second = at >= n_run;
                if (expanded)
                    law_block_expanded(&block, f, panel + b * geo.expanded_bytes);
                else
                    law_block(&block, f, panel + b / geo.subs * geo.unit_bytes,
                              (int)(b % geo.subs));
                for (int64_t r = 0; r < n; r++) {
                    const struct linear_x *x = t->x + (r0 + r) * t->parts * n_blocks;
                    if (!second || x[b / 32].second >> b % 32 & 1)
                        law_dot(acc[r], f, &block, x + (second ? n_blocks : 0) + b,
                                geo.affine && !second);
                }
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
