/* The inner loops of linear in the words of quant_*.h; once for each instruction set.
 *
 * A tile is one or several panels times 1 to 8 rows of x: the codes are unpacked once and multiplied
 * with every row of x, in vectors of VLEN rows of a panel (half of it on AVX2, all on AVX-512).  All tiles
 * are one text, quant_tile, that is inlined with constant arguments: the format, where its codes
 * come from, and the number of rows.  The arithmetic is the one of linear.h, so every tile gives
 * the same bits.
 *
 * Without VNNI the products of two neighbours are summed into 16 bits, and those sums among each
 * other only as often as they cannot overflow:   2 * largest code * 127 * times <= 32767
 *     15: 8 times      31: 4 times      63: 2 times      255: as two nibbles of at most 15
 * (with 128 in place of 127, for the second part of x, as well) */
#include "kernels/cpu/linear.h"
#include "kernels/cpu/panel.h"

#define TILE_MAX 16 /* largest number of rows of x times columns */

#define DOT_ROWS 4 /* rows of x that share the unpacking of a packed panel, */
#ifndef DOT_WIDE
#define DOT_WIDE      1 /* of several panels side by side */
#define DOT_WIDE_ROWS 1
#endif
#define DOT_LARGE 8192 /* bytes of a packed panel */

#ifndef TILE_AHEAD
#define TILE_AHEAD 2048 /* bytes that packed panels are prefetched ahead */
#endif

struct tile_kind {
    struct quant_format f;
    int max;       /* largest code (after the table) */
    bool lookup;   /* the codes go through f.table */
    bool expanded; /* the panel has one byte a code and f32 scales */
};

/* Codes of quad j; q points at the tile's rows in the first plane. */
VEC_INLINE vi tile_quad(const int bits, const uint8_t *q, const int j)
{
    const uint8_t *nibbles = q + j % 4 * PANEL_PLANE, *pairs = q + j / 4 * PANEL_PLANE;
    const int at2 = j % 4 * 2; /* bits of pairs */
    switch (bits) {
    case 8:
        return vi_load(q + j * PANEL_PLANE);
    case 2:
        return vi_and(vi_right(vi_load(pairs), at2), vi_set8(3));
    case 3: {
        vi low = vi_and(vi_right(vi_load(pairs), at2), vi_set8(3)), top = vi_load(q + 128);
        top = j < 2 ? vi_left(top, j < 2 ? 2 - j : 0) : vi_right(top, j < 2 ? 0 : j - 2);
        return vi_or(low, vi_and(top, vi_set8(4)));
    }
    default: {
        vi low = vi_and(vi_right(vi_load(nibbles), j < 4 ? 0 : 4), vi_set8(15));
        if (bits == 4)
            return low;
        vi top = vi_load(q + (bits == 5 ? 256 : 256 + j / 4 * PANEL_PLANE));
        const int from = bits == 5 ? j : at2; /* to bit 4 */
        top = from < 4 ? vi_left(top, from < 4 ? 4 - from : 0)
                       : vi_right(top, from < 4 ? 0 : from - 4);
        return vi_or(low, vi_and(top, vi_set8(bits == 5 ? 16 : 48)));
    }
    }
}

VEC_INLINE vi tile_codes(const struct tile_kind k, const uint8_t *q, const int j)
{
    vi codes = tile_quad(k.expanded ? 8 : k.f.bits, q, j);
    return k.lookup ? vi_lookup(k.f.table, codes) : codes;
}

/* The sums start here, so that what the format's zero adds is gone at the end. */
VEC_INLINE vi tile_start(const struct tile_kind k, const struct linear_x *x, const int g)
{
    const int32_t *start = k.f.group == 32 ? &x->start : &x->start16[g];
    const int zero = k.f.group == 32 ? LINEAR_ZERO : LINEAR_ZERO16;
    if (!k.f.zero)
        return vi_zero();
    if (k.f.zero < zero)
        return vi_set32(*start >> __builtin_ctz((unsigned)(zero / k.f.zero)));
    const vi v =
        vi_load4((const int8_t *)start); /* a load fills all lanes, a number takes two steps */
    return k.f.zero == zero ? v : vi_left32(v, __builtin_ctz((unsigned)(k.f.zero / zero)));
}

/* sum[h * n + i] = (codes of group g, column h, - zero) times x[i], as i32.  A column is VLEN rows of a
 * panel; the n_cols columns lie stride bytes apart and share the loads of x. */
#if QUANT_VNNI
VEC_INLINE void tile_dot(vi *sum, const struct tile_kind k, const int n, const int n_cols,
                         const uint8_t *q, const size_t stride, const struct linear_x *const *x,
                         const int g)
{
    const int first = g * k.f.group / 4, n_quads = k.f.group / 4;
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) {
        vi start = tile_start(k, x[i], g);
#pragma GCC unroll 4
        for (int h = 0; h < n_cols; h++)
            sum[h * n + i] = start;
    }
#pragma GCC unroll 16
    for (int c = 0; c < n_quads; c++) {
        /* nibbles come in the order that uses a loaded plane twice */
        const bool twice = !k.expanded && n_quads == 8 && k.f.bits >= 4 && k.f.bits < 8;
        const int j = first + (twice ? c % 2 * 4 + c / 2 : c);
        vi codes[GEMM_WIDE];
#pragma GCC unroll 4
        for (int h = 0; h < n_cols; h++)
            codes[h] = tile_codes(k, q + (size_t)h * stride, j);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            vi xs = vi_load4(x[i]->q + 4 * j);
#pragma GCC unroll 4
            for (int h = 0; h < n_cols; h++) {
                sum[h * n + i] = vi_dot8(sum[h * n + i], codes[h], xs);
                if (n_cols > 1)
                    vi_keep(sum[h * n + i]);
            }
        }
    }
}
#else
VEC_INLINE void tile_dot(vi *sum, const struct tile_kind k, const int n, const int n_cols,
                         const uint8_t *q, const size_t stride, const struct linear_x *const *x,
                         const int g)
{
    const int first = g * k.f.group / 4, n_quads = k.f.group / 4;
    const bool twice = !k.expanded && n_quads == 8 && k.f.bits >= 4 && k.f.bits < 8;
    const int times = k.max <= 15 || k.max > 63 ? 8 : k.max <= 31 ? 4 : 2;
    const bool split = k.max > 63;
    vi low[TILE_MAX], high[TILE_MAX], codes[2], upper[2];
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) {
        vi start = tile_start(k, x[i], g);
#pragma GCC unroll 16
        for (int h = 0; h < n_cols; h++)
            sum[h * n + i] = start;
    }
#pragma GCC unroll 16
    for (int c = 0; c < n_quads; c++) {
        const int j = first + (twice ? c % 2 * 4 + c / 2 : c);
#pragma GCC unroll 16
        for (int h = 0; h < n_cols; h++) {
            codes[h] = tile_codes(k, q + (size_t)h * stride, j);
            if (split) {
                upper[h] = vi_and(vi_right(codes[h], 4), vi_set8(15));
                codes[h] = vi_and(codes[h], vi_set8(15));
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            vi xs = vi_load4(x[i]->q + 4 * j);
#pragma GCC unroll 16
            for (int h = 0; h < n_cols; h++) {
                const int to = h * n + i;
                vi product = vi_mul8(codes[h], xs);
                low[to] = c % times == 0 ? product : vi_add16(low[to], product);
                vi_keep(low[to]);
                if (split) {
                    product = vi_mul8(upper[h], xs);
                    high[to] = c == 0 ? product : vi_add16(high[to], product);
                    vi_keep(high[to]);
                }
            }
        }
        if (c % times == times - 1 || c == n_quads - 1) {
#pragma GCC unroll 16
            for (int to = 0; to < n * n_cols; to++) {
                sum[to] = vi_add32(sum[to], vi_widen(low[to]));
                vi_keep(sum[to]);
            }
        }
    }
    if (split) {
#pragma GCC unroll 16
        for (int to = 0; to < n * n_cols; to++)
            sum[to] = vi_add32(sum[to], vi_left32(vi_widen(high[to]), 4));
    }
}
#endif

/* D and M of group g for the tile's rows row0 ...; at: the unit and its
 * sub-block's scales, or (for an expanded block) the block and its scales. */
VEC_INLINE vf tile_scale(const struct tile_kind k, const uint8_t *unit, const uint8_t *scales,
                         const int g, const int row0, const bool m)
{
    const struct panel_geometry geo = panel_geometry(k.f);
    const int plane = (m ? geo.groups + g : g) * PANEL_ROWS + row0;
    if (k.expanded)
        return vf_load((const float *)(const void *)scales + plane);
    const uint16_t *head = (const uint16_t *)(const void *)(unit + (m ? 32 : 0)) + row0;
    switch (k.f.scale) {
    case QUANT_SCALE_BF16:
        return vf_load_b(head);
    case QUANT_SCALE_S8:
        return vf_mul(vf_load_h(head), vf_load_s8(scales + plane));
    case QUANT_SCALE_U8_M:
        return vf_mul(vf_load_h(head), vf_load_u8(scales + plane));
    default:
        return vf_load_h(head);
    }
}

/* out = acc + bias + add for the outputs first ... of a row, first counted from
 * t->out; the last panel may have fewer than VLEN left. */
static __attribute__((noinline)) void tile_store_part(const struct linear_tile *t, const float *acc,
                                                      int64_t row, int64_t first)
{
    int64_t at = row * t->out_stride;
    for (int64_t o = first; o < t->n_out; o++) {
        float v = t->bias ? acc[o - first] + t->bias[o] : acc[o - first];
        t->out[at + o] = t->add ? v + t->add[at + o] : v;
    }
}

VEC_INLINE void tile_store(const struct linear_tile *t, const vf acc, const int64_t row,
                           const int64_t first)
{
    if (t->n_out - first >= VLEN) {
        int64_t at = row * t->out_stride + first;
        vf v = t->bias ? vf_add(acc, vf_load(t->bias + first)) : acc;
        vf_store(t->out + at, t->add ? vf_add(v, vf_load(t->add + at)) : v);
    } else {
        float v[VLEN];
        vf_store(v, acc);
        tile_store_part(t, v, row, first);
    }
}

/* acc[i] = fma(d * x.d, sum, acc[i]); of two groups without M the first leaves d * sum in part[i], and with
 * the second acc[i] = fma(x.d, fma(d, sum, part[i]), acc[i]): a product less */
VEC_INLINE void tile_add_d(const struct tile_kind k, const int n, vf *acc, vf *part, const vf d,
                           const vi *sum, const struct linear_x *const *x, const int g)
{
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) {
        vf s = vf_of_i32(sum[i]);
        if (!panel_geometry(k.f).pairs)
            acc[i] = vf_fma(vf_mul(d, vf_set1(x[i]->d)), s, acc[i]);
        else if (g == 0)
            part[i] = vf_mul(d, s);
        else
            acc[i] = vf_fma(vf_set1(x[i]->d), vf_fma(d, s, part[i]), acc[i]);
    }
}

/* acc[i] = fma(m, x.m, acc[i]) */
VEC_INLINE void tile_add_m(const struct tile_kind k, const int n, vf *acc, const vf m,
                           const struct linear_x *const *x, const int g)
{
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
        acc[i] = vf_fma(m, vf_set1(k.f.group == 32 ? x[i]->m : x[i]->m16[g]), acc[i]);
}

/* A block of 32 of a tile's panels: where its first panel's unit, codes and scales are. */
struct tile_block {
    const uint8_t *unit, *q, *scales;
};

VEC_INLINE struct tile_block tile_block_at(const struct tile_kind k, const uint8_t *panel,
                                           const int64_t b)
{
    const struct panel_geometry geo = panel_geometry(k.f);
    struct tile_block at;
    if (k.expanded) {
        at.unit = at.q = panel + b * geo.expanded_bytes;
        at.scales = at.q + 8 * PANEL_PLANE;
    } else {
        at.unit = panel + b / geo.subs * geo.unit_bytes;
        at.q = at.unit + geo.head_bytes + b % geo.subs * geo.sub_bytes;
        at.scales = at.q + geo.q_bytes;
    }
    return at;
}

/* The block of all `wide` panels, panel_bytes apart, times the same block of the rows x.  With m the
 * affine formats' second term as well. */
VEC_INLINE void tile_block(const struct tile_kind k, const int n, const int wide, vf *acc,
                           const struct tile_block at, const size_t panel_bytes,
                           const struct linear_x *const *x, const bool m)
{
    const struct panel_geometry geo = panel_geometry(k.f);
    const int halves = PANEL_ROWS / VLEN, n_cols = wide * halves;
    /* columns at once, if the registers suffice */
    const int together = k.max <= 63 || halves == 1 ? n_cols : 1;
    const size_t stride = halves == 1 ? panel_bytes : 4 * VLEN;
#pragma GCC unroll 16
    for (int h0 = 0; h0 < n_cols; h0 += together) {
        vf part[TILE_MAX];
#pragma GCC unroll 16
        for (int g = 0; g < geo.groups; g++) {
            vi sum[TILE_MAX];
            tile_dot(sum, k, n, together, at.q + (size_t)h0 * stride, stride, x, g);
#pragma GCC unroll 16
            for (int h = h0; h < h0 + together; h++) {
                const size_t panel = (size_t)(h / halves) * panel_bytes;
                const int row = h % halves * VLEN;
                const uint8_t *unit = at.unit + panel, *scales = at.scales + panel;
                vf d = tile_scale(k, unit, scales, g, row, false);
                const int at_h = (h - h0) * n;
                tile_add_d(k, n, acc + h * n, part + at_h, d, sum + at_h, x, g);
                if (m && geo.affine)
                    tile_add_m(k, n, acc + h * n, tile_scale(k, unit, scales, g, row, true), x, g);
            }
            vi_fence();
        }
    }
}

/* The second parts of row i of a tile, in those of LINEAR_RUN blocks from b0 on that have one; acc[h * n] is
 * column h's. */
VEC_INLINE void tile_seconds(const struct tile_kind k, const int n, const int wide, vf *acc,
                             const struct linear_tile *t, const uint8_t *panel,
                             const struct linear_x *x, const int64_t b0)
{
    const int n_cols = wide * (PANEL_ROWS / VLEN);
    uint32_t bits = x[b0 / 32].second >> b0 % 32 & ((1u << LINEAR_RUN) - 1);
    vf a[TILE_MAX];
#pragma GCC unroll 16
    for (int h = 0; h < n_cols; h++)
        a[h] = acc[h * n];
    for (; bits; bits &= bits - 1) {
        const int64_t b = b0 + __builtin_ctz(bits);
        const struct linear_x *second = x + t->n_in / 32 + b;
        tile_block(k, 1, wide, a, tile_block_at(k, panel, b), t->panel_bytes, &second, false);
    }
#pragma GCC unroll 16
    for (int h = 0; h < n_cols; h++)
        acc[h * n] = a[h];
}

/* Packed panels come from memory.  The first rows fetch them into L1 a little ahead; where others follow,
 * or several panels go together, each tile of rows besides fetches its share of the next panels into L2, so
 * that memory is read all the time; so do tiles of expanded panels, of the packed ones that are expanded next.
 * Those shares are so many bytes a block. */
struct tile_ahead {
    const char *at;
    int bytes;
};

VEC_INLINE struct tile_ahead tile_ahead(const struct tile_kind k, const struct linear_tile *t,
                                        const int n, const int wide, const int64_t p,
                                        const int64_t row0)
{
    const struct panel_geometry geo = panel_geometry(k.f);
    const char *panel = t->panels + (size_t)p * t->panel_bytes;
    if (k.expanded) {
        const size_t all = (size_t)(t->n_rows * t->n_panels);
        const size_t before = (size_t)(row0 * t->n_panels + p * n), blocks = (size_t)t->n_in / 32;
        return (struct tile_ahead){t->next + t->next_bytes * before / all,
                                   (int)(t->next_bytes * (size_t)(n * wide) / (all * blocks))};
    }
    if (wide == 1 && t->n_rows <= n)
        return (struct tile_ahead){panel, 0};
    const size_t bytes = (size_t)wide * t->panel_bytes;
    return (struct tile_ahead){panel + bytes + bytes * (size_t)row0 / (size_t)t->n_rows,
                               (int)(wide * (geo.sub_bytes + 4) * n / t->n_rows)};
}

VEC_INLINE void tile_fetch(const struct tile_kind k, const struct linear_tile *t, const int wide,
                           const uint8_t *q)
{
    const struct panel_geometry geo = panel_geometry(k.f);
    for (int h = 0; h < wide; h++)
        for (int line = 0; line < geo.sub_bytes; line += 64)
            __builtin_prefetch(q + (size_t)h * t->panel_bytes + TILE_AHEAD + line);
}

/* `wide` panels from p on times n rows of x from row0 on. */
VEC_INLINE void quant_tile(const struct tile_kind k, const int n, const int wide,
                           const struct linear_tile *t, const int64_t p, const int64_t row0)
{
    const struct panel_geometry geo = panel_geometry(k.f);
    const int n_cols = wide * (PANEL_ROWS / VLEN);
    const int subs = k.expanded ? 1 : geo.subs;
    const int64_t n_blocks = t->n_in / 32;
    const uint8_t *panel = (const uint8_t *)t->panels + (size_t)p * t->panel_bytes;
    struct tile_ahead ahead = tile_ahead(k, t, n, wide, p, row0);
    const struct linear_x *x[TILE_MAX], *xb[TILE_MAX];
    vf acc[2 * TILE_MAX]; /* [n_cols][n] */
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
        x[i] = t->x + (row0 + i) * n_blocks * t->parts;
#pragma GCC unroll 16
    for (int at = 0; at < n_cols * n; at++)
        acc[at] = vf_set1(0.0f);
    for (int64_t run = 0, end; run < n_blocks; run = end) {
        end = t->parts == 2 && n_blocks - run > LINEAR_RUN ? run + LINEAR_RUN : n_blocks;
        for (int64_t b0 = run; b0 < end; b0 += subs) {
            for (int sub = 0; sub < subs; sub++) {
                const struct tile_block at = tile_block_at(k, panel, b0 + sub);
                for (int line = 0; line < ahead.bytes; line += 64)
                    __builtin_prefetch(ahead.at + line, 0, 2);
                ahead.at += ahead.bytes;
                if (!k.expanded && row0 == 0)
                    tile_fetch(k, t, wide, at.q);
#pragma GCC unroll 16
                for (int i = 0; i < n; i++)
                    xb[i] = x[i] + b0 + sub;
                tile_block(k, n, wide, acc, at, t->panel_bytes, xb, true);
            }
        }
        if (t->parts == 2) {
#pragma GCC unroll 16
            for (int i = 0; i < n; i++)
                tile_seconds(k, n, wide, acc + i, t, panel, x[i], run);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
#pragma GCC unroll 16
        for (int h = 0; h < n_cols; h++)
            tile_store(t, acc[h * n + i], row0 + i, p * PANEL_ROWS + h * VLEN);
}

VEC_INLINE void expand_panel(const struct tile_kind k, char *to, const char *panel, int64_t n_in)
{
    const struct panel_geometry geo = panel_geometry(k.f);
    const uint8_t *unit = (const uint8_t *)panel;
    for (int64_t b = 0; b < n_in / 32; unit += geo.unit_bytes) {
        for (int s = 0; s < geo.subs; s++, b++, to += geo.expanded_bytes) {
            const uint8_t *q = unit + geo.head_bytes + s * geo.sub_bytes;
            const uint8_t *scales = q + geo.q_bytes;
            float *out = (float *)(void *)(to + 8 * PANEL_PLANE);
#pragma GCC unroll 16
            for (int h = 0; h < PANEL_ROWS / VLEN; h++) {
#pragma GCC unroll 16
                for (int j = 0; j < 8; j++)
                    vi_store(to + j * PANEL_PLANE + h * 4 * VLEN,
                             tile_codes(k, q + h * 4 * VLEN, j));
                for (int i = 0; i < geo.groups * (geo.affine ? 2 : 1); i++)
                    vf_store(
                        out + i * PANEL_ROWS + h * VLEN,
                        tile_scale(k, unit, scales, i % geo.groups, h * VLEN, i >= geo.groups));
            }
        }
    }
}

/* The formats again, as constants: X(dtype, bits, group, scale, zero, largest
 * code, lookup). */
/* clang-format off */
#define TILE_KINDS(X) \
    X(Q4_0, 4, 32, F16, 8, 15, false, gemm_4) \
    X(Q4_1, 4, 32, F16_M, 0, 15, false, gemm_4_m) \
    X(Q5_0, 5, 32, F16, 16, 31, false, gemm_5) \
    X(Q5_1, 5, 32, F16_M, 0, 31, false, gemm_5_m) \
    X(Q8_0, 8, 32, F16, 128, 255, false, gemm_8) \
    X(Q2_K, 2, 16, U8_M, 0, 3, false, gemm_2_k) \
    X(Q3_K, 3, 16, S8, 4, 7, false, gemm_3_k) \
    X(Q4_K, 4, 32, U8_M, 0, 15, false, gemm_4_m) \
    X(Q5_K, 5, 32, U8_M, 0, 31, false, gemm_5_m) \
    X(Q6_K, 6, 16, S8, 32, 63, false, gemm_6_k) \
    X(IQ4_NL, 4, 32, F16, 128, 241, true, gemm_8) \
    X(MXFP4, 4, 32, BF16, 16, 28, true, gemm_5)

typedef void tile_fn(const struct linear_tile *t, int64_t p, int64_t row0);

/* The instances: functions of their own, because the compiler takes minutes for one that has
 * several of them inlined.  Expanded panels of several types are alike. */
#define TILE(name, n, wide, ...) \
    static __attribute__((noinline)) void name(const struct linear_tile *t, int64_t p, int64_t row0) \
    { \
        const struct tile_kind k = __VA_ARGS__; \
        quant_tile(k, n, wide, t, p, row0); \
    }
/* One panel, and several, with so many rows. */
#define TILE_SHAPES(name, ...) \
    TILE(name##_1, 1, 1, __VA_ARGS__) \
    TILE(name##_2, 2, 1, __VA_ARGS__) \
    TILE(name##_4, 4, 1, __VA_ARGS__)
#define TILE_ONE(name) name##_1, name##_2, NULL, name##_4

#if DOT_WIDE == 1
#define DOT_WIDER(name, ...)
#define DOT_WIDE_SHAPES(name) NULL
#elif DOT_WIDE_ROWS == 4
#define DOT_WIDER(name, ...) \
    TILE(name##_wide_3, 3, DOT_WIDE, __VA_ARGS__) \
    TILE(name##_wide_4, 4, DOT_WIDE, __VA_ARGS__)
#define DOT_WIDE_SHAPES(name) NULL, NULL, name##_wide_3, name##_wide_4
#else
#define DOT_WIDER(name, ...) \
    TILE(name##_wide_3, 3, DOT_WIDE, __VA_ARGS__) \
    TILE(name##_wide_4, 4, DOT_WIDE, __VA_ARGS__) \
    TILE(name##_wide_5, 5, DOT_WIDE, __VA_ARGS__) \
    TILE(name##_wide_6, 6, DOT_WIDE, __VA_ARGS__)
#define DOT_WIDE_SHAPES(name) \
    NULL, NULL, name##_wide_3, name##_wide_4, name##_wide_5, name##_wide_6
#endif

#define GEMM(name, group, scale, zero, max) \
    GEMM_OF(name, {{8, group, QUANT_SCALE_##scale, zero, NULL}, max, false, true})
#define GEMM_OF(name, ...) \
    TILE(name, GEMM_ROWS, 1, __VA_ARGS__) \
    TILE(name##_wide, GEMM_ROWS, GEMM_WIDE, __VA_ARGS__)
GEMM(gemm_4_m, 32, F16_M, 0, 15)
GEMM(gemm_5_m, 32, F16_M, 0, 31)
GEMM(gemm_4, 32, F16, 8, 15)
GEMM(gemm_5, 32, F16, 16, 31)
GEMM(gemm_8, 32, F16, 128, 255)
GEMM(gemm_2_k, 16, U8_M, 0, 3)
GEMM(gemm_3_k, 16, S8, 4, 7)
GEMM(gemm_6_k, 16, S8, 32, 63)

#define TILE_PACKED(type, bits, group, scale, zero, max, lookup) \
    {{bits, group, QUANT_SCALE_##scale, zero, \
      lookup ? quant_format(DTYPE_##type)->table : NULL}, max, lookup, false}
#define DOT(name, ...) TILE_SHAPES(name, __VA_ARGS__) DOT_WIDER(name, __VA_ARGS__)
#define X(type, bits, group, scale, zero, max, lookup, gemm) \
    DOT(dot_##type, TILE_PACKED(type, bits, group, scale, zero, max, lookup)) \
    static void expand_##type(char *to, const char *panel, int64_t n_in) \
    { \
        const struct tile_kind k = TILE_PACKED(type, bits, group, scale, zero, max, lookup); \
        expand_panel(k, to, panel, n_in); \
    }
TILE_KINDS(X)
#undef X

/* Tiles of n rows of x and one panel, or DOT_WIDE, at [n - 1]; NULL: there is none. */
static const struct tile_set {
    tile_fn *dot[DOT_ROWS], *dot_wide[DOT_WIDE_ROWS], *gemm, *gemm_wide;
    void (*expand)(char *to, const char *panel, int64_t n_in);
} tiles[DTYPE_N] = {
#define X(type, bits, group, scale, zero, max, lookup, gemm) \
    [DTYPE_##type] = {{TILE_ONE(dot_##type)}, {DOT_WIDE_SHAPES(dot_##type)}, gemm, gemm##_wide, \
                      expand_##type},
    TILE_KINDS(X)
#undef X
};
/* clang-format on */

/* Panels side by side share the loads of x, which is worth more streams of weights where other tiles would be of one
 * or two rows, where several tiles of rows read them, or where a panel and the rows do not stay in L1 together. */
static int dot_wide(const struct linear_tile *t)
{
    const bool wide = t->n_rows >= 3 && (t->n_rows != DOT_ROWS || t->panel_bytes > DOT_LARGE);
    return wide ? DOT_WIDE : 1;
}

/* Rows of the next tile of `left`: those of the last two are shared out evenly. */
static int64_t dot_rows(tile_fn *const *of, int64_t most, int64_t left)
{
    int64_t n = left >= 2 * most ? most : left > most ? (left + 1) / 2 : left;
    while (n > 0 && !of[n - 1])
        n--;
    return n;
}

/* Packed panels, each unpacked once for all rows of a tile. */
static void linear_dot(const struct linear_tile *t)
{
    const struct tile_set *set = &tiles[t->type];
    const int wide = dot_wide(t);
    for (int64_t p = 0, n; p < t->n_panels; p += n) {
        n = p + wide <= t->n_panels ? wide : 1;
        for (int64_t r = 0, rows; r < t->n_rows; r += rows) {
            rows = n > 1 ? dot_rows(set->dot_wide, DOT_WIDE_ROWS, t->n_rows - r) : 0;
            if (rows > 0) {
                set->dot_wide[rows - 1](t, p, r);
                continue;
            }
            rows = dot_rows(set->dot, DOT_ROWS, t->n_rows - r);
            for (int64_t q = p; q < p + n; q++)
                set->dot[rows - 1](t, q, r);
        }
    }
}

/* Expanded panels, which stay in the L2 cache while the rows of x go by, a tile of them in L1. */
static int64_t linear_gemm(const struct linear_tile *t)
{
    const struct tile_set *set = &tiles[t->type];
    int64_t r = 0;
    for (; r + GEMM_ROWS <= t->n_rows; r += GEMM_ROWS) {
        int64_t p = 0;
        for (; p + GEMM_WIDE <= t->n_panels; p += GEMM_WIDE)
            set->gemm_wide(t, p, r);
        for (; p < t->n_panels; p++)
            set->gemm(t, p, r);
    }
    return r;
}

static int64_t linear_expand_rows(void)
{
    return EXPAND_ROWS;
}

static void linear_expand(char *to, enum dtype type, const char *panel, int64_t n_in)
{
    tiles[type].expand(to, panel, n_in);
}

#if !QUANT_VNNI /* else inherited */
/* Plain weights: n rows of x times wide panels from p on, fp32 throughout. */
VEC_INLINE void plain_tile(const enum dtype type, const int n, const int wide,
                           const struct linear_tile *t, const int64_t p, const int64_t row0)
{
    const int halves = PANEL_ROWS / VLEN, n_vecs = wide * halves;
    const size_t size = type == DTYPE_F32 ? 4 : 2;
    const char *w = t->panels + (size_t)p * t->panel_bytes;
    const float *x[PLAIN_ROWS];
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
        x[i] = t->x_plain + (row0 + i) * t->n_in;
    vf acc[PLAIN_ROWS][PLAIN_ONE * 2];
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
#pragma GCC unroll 16
        for (int v = 0; v < n_vecs; v++)
            acc[i][v] = vf_set1(0.0f);
    for (int64_t k = 0; k < t->n_in; k++, w += PANEL_ROWS * size) {
        vf wk[PLAIN_ONE * 2];
#pragma GCC unroll 16
        for (int v = 0; v < n_vecs; v++) {
            const void *at =
                w + (size_t)(v / halves) * t->panel_bytes + (size_t)(v % halves * VLEN) * size;
            wk[v] = type == DTYPE_F32   ? vf_load(at)
                    : type == DTYPE_F16 ? vf_load_h(at)
                                        : vf_load_b(at);
        }
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            vf xk = vf_set1(x[i][k]);
#pragma GCC unroll 16
            for (int v = 0; v < n_vecs; v++) {
                acc[i][v] = vf_fma(wk[v], xk, acc[i][v]);
                if (n > 2)
                    vi_keep(acc[i][v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
#pragma GCC unroll 16
        for (int v = 0; v < n_vecs; v++) {
            int64_t first = p * PANEL_ROWS + v * VLEN;
            if (first < t->n_out)
                tile_store(t, acc[i][v], row0 + i, first);
        }
}

/* clang-format off */
#define PLAIN(name, type, n, wide) \
    static __attribute__((noinline)) void name(const struct linear_tile *t, int64_t p, int64_t row0) \
    { \
        plain_tile(type, n, wide, t, p, row0); \
    }
#define PLAIN_SET(type) \
    PLAIN(plain_many_##type, DTYPE_##type, PLAIN_ROWS, PLAIN_WIDE) \
    PLAIN(plain_many1_##type, DTYPE_##type, PLAIN_ROWS, 1) \
    PLAIN(plain_two_##type, DTYPE_##type, 2, PLAIN_ONE / 2) \
    PLAIN(plain_two1_##type, DTYPE_##type, 2, 1) \
    PLAIN(plain_one_##type, DTYPE_##type, 1, PLAIN_ONE) \
    PLAIN(plain_one1_##type, DTYPE_##type, 1, 1)
PLAIN_SET(F32)
PLAIN_SET(F16)
PLAIN_SET(BF16)

/* [0] many rows, [1] two, [2] one; several panels at once, and one for the rest */
static const struct plain_set { tile_fn *wide[3], *narrow[3]; } plain_sets[DTYPE_N] = {
#define X(type) \
    [DTYPE_##type] = {{plain_many_##type, plain_two_##type, plain_one_##type}, \
                      {plain_many1_##type, plain_two1_##type, plain_one1_##type}},
    X(F32) X(F16) X(BF16)
#undef X
};
/* clang-format on */

static void linear_plain(const struct linear_tile *t)
{
    static const int rows[3] = {PLAIN_ROWS, 2, 1}, wide[3] = {PLAIN_WIDE, PLAIN_ONE / 2, PLAIN_ONE};
    const struct plain_set *set = &plain_sets[t->type];
    for (int64_t r = 0; r < t->n_rows;) {
        int64_t left = t->n_rows - r, p = 0;
        int i = left >= PLAIN_ROWS ? 0 : left >= 2 ? 1 : 2;
        for (; p + wide[i] <= t->n_panels; p += wide[i])
            set->wide[i](t, p, r);
        for (; p < t->n_panels; p++)
            set->narrow[i](t, p, r);
        r += rows[i];
    }
}
#endif
