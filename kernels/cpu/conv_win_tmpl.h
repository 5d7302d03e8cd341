/* The transforms of conv_win.h.  Included once per level, after vec_*.h; the order of the sums is the
 * same on all levels, so that they agree in every bit. */
#include "kernels/cpu/conv_win.h"

/* In place: down a column (or along a row) of `step`. */
VEC_INLINE void win_inputs(const int size, vf *d, const int step)
{
    vf d0 = d[0], d1 = d[step], d2 = d[2 * step];
    if (size == 3) {
        d[0] = vf_sub(d0, d1);
        d[2 * step] = vf_sub(d2, d1);
        return;
    }
    d[0] = vf_sub(d0, d2);
    d[step] = vf_add(d1, d2);
    d[2 * step] = vf_sub(d2, d1);
    d[3 * step] = vf_sub(d1, d[3 * step]);
}

VEC_INLINE void win_weights(const int size, vf *to, const int step, vf g0, vf g1, vf g2)
{
    vf ends = vf_add(g0, g2);
    to[0] = g0;
    if (size == 3) {
        to[step] = vf_add(ends, g1);
        to[2 * step] = g2;
        return;
    }
    to[step] = vf_mul(vf_add(ends, g1), vf_set1(0.5f));
    to[2 * step] = vf_mul(vf_sub(ends, g1), vf_set1(0.5f));
    to[3 * step] = g2;
}

VEC_INLINE void win_outputs(const int size, vf *y0, vf *y1, const vf *m, const int step)
{
    *y0 = vf_add(m[0], m[step]);
    if (size == 3) {
        *y1 = vf_add(m[step], m[2 * step]);
        return;
    }
    *y0 = vf_add(*y0, m[2 * step]);
    *y1 = vf_sub(vf_sub(m[step], m[2 * step]), m[3 * step]);
}

VEC_INLINE void win_input_tile(const int size, float *to, int64_t to_row, int64_t to_col,
                               const float *const *x, int64_t n)
{
    for (int64_t c = 0; c < n; c += VLEN) {
        int left = n - c < VLEN ? (int)(n - c) : VLEN;
        vf d[16];
#pragma GCC unroll 16
        for (int i = 0; i < size * size; i++)
            d[i] = left == VLEN ? vf_load(x[i] + c) : vf_load_n(x[i] + c, left);
#pragma GCC unroll 4
        for (int b = 0; b < size; b++)
            win_inputs(size, d + b, size);
#pragma GCC unroll 4
        for (int a = 0; a < size; a++)
            win_inputs(size, d + a * size, 1);
#pragma GCC unroll 16
        for (int i = 0; i < size * size; i++) {
            float *at = to + i / size * to_row + i % size * to_col + c;
            if (left == VLEN)
                vf_store(at, d[i]);
            else
                vf_store_n(at, d[i], left);
        }
    }
}

/* Pixels x[a * size + b] of a tile, n channels of each: product (a, b) at to[a * to_row + b * to_col]. */
static void conv_win_input(int size, float *to, int64_t to_row, int64_t to_col,
                           const float *const *x, int64_t n)
{
    if (size == 4)
        win_input_tile(4, to, to_row, to_col, x, n);
    else
        win_input_tile(3, to, to_row, to_col, x, n);
}

VEC_INLINE vf win_load(const enum dtype type, const char *p)
{
#if VLEN == 1
    float v;
    quant_unpack(type, &v, p, 1);
    return v;
#else
    const void *at = p;
    return type == DTYPE_F32 ? vf_load(at) : type == DTYPE_F16 ? vf_load_h(at) : vf_load_b(at);
#endif
}

VEC_INLINE void win_weights_tile(const int size, const enum dtype type,
                                 const struct conv_win_weights *t)
{
    const int64_t bytes = type == DTYPE_F32 ? 4 : 2;
    for (int64_t i = 0; i < t->n * 16; i += VLEN) {
        const char *at = t->panel + i * bytes;
        vf down[12], to[16];
#pragma GCC unroll 3
        for (int b = 0; b < 3; b++) {
            vf g0 = win_load(type, at + b * t->tap_bytes);
            vf g1 = win_load(type, at + (3 + b) * t->tap_bytes);
            vf g2 = win_load(type, at + (6 + b) * t->tap_bytes);
            win_weights(size, down + b, 3, g0, g1, g2);
        }
#pragma GCC unroll 4
        for (int a = 0; a < size; a++)
            win_weights(size, to + a * size, 1, down[3 * a], down[3 * a + 1], down[3 * a + 2]);
#pragma GCC unroll 16
        for (int k = 0; k < size * size; k++)
            vf_store(t->to + k * t->to_stride + i, to[k]);
    }
}

static void conv_win_weights(const struct conv_win_weights *t)
{
    bool four = t->size == 4;
    switch (t->type) {
    case DTYPE_F16:
        if (four)
            win_weights_tile(4, DTYPE_F16, t);
        else
            win_weights_tile(3, DTYPE_F16, t);
        break;
    case DTYPE_BF16:
        if (four)
            win_weights_tile(4, DTYPE_BF16, t);
        else
            win_weights_tile(3, DTYPE_BF16, t);
        break;
    default:
        if (four)
            win_weights_tile(4, DTYPE_F32, t);
        else
            win_weights_tile(3, DTYPE_F32, t);
        break;
    }
}

VEC_INLINE void win_output_tile(const int size, float *out, const float *m, int64_t m_stride,
                                int64_t n)
{
    for (int64_t c = 0; c < n; c += VLEN) {
        vf v[16], y[8];
#pragma GCC unroll 16
        for (int i = 0; i < size * size; i++)
            v[i] = vf_load(m + i * m_stride + c);
#pragma GCC unroll 4
        for (int b = 0; b < size; b++)
            win_outputs(size, &y[b], &y[4 + b], v + b, size);
#pragma GCC unroll 2
        for (int a = 0; a < 2; a++) {
            vf y0, y1;
            win_outputs(size, &y0, &y1, y + 4 * a, 1);
            vf_store(out + (2 * a) * n + c, y0);
            vf_store(out + (2 * a + 1) * n + c, y1);
        }
    }
}

/* Product i of a tile at m[i * m_stride], n outputs (a multiple of 16): out [2, 2, n]. */
static void conv_win_output(int size, float *out, const float *m, int64_t m_stride, int64_t n)
{
    if (size == 4)
        win_output_tile(4, out, m, m_stride, n);
    else
        win_output_tile(3, out, m, m_stride, n);
}
