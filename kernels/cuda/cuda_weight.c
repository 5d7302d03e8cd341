/* Packs a file's blocks into fragments.  Every block is taken apart by kernels/quant_block.c, as for the
 * CPU, so no format is decoded twice.  What cuda_layout_at says of one element is done for the eight that a lane has of
 * a fragment at once: four neighbours of a row, and of the row eight further. */
#include "kernels/cuda/cuda_weight.h"

#include <string.h>

#include "kernels/quant.h"
#include "kernels/quant_block.h"

static const struct cuda_layout layouts[DTYPE_N] = {
#define X(type, low, high, group, step_k, steps, head, scale, affine, zero) \
    [type] = {low, high, group, step_k, steps, head, scale, affine},
    CUDA_LAYOUTS(X)
#undef X
};

const struct cuda_layout *cuda_weight_layout(enum dtype type)
{
    return (unsigned)type < DTYPE_N && layouts[type].step_k ? &layouts[type] : NULL;
}

static size_t step_bytes(const struct cuda_layout *l)
{
    return (size_t)(l->scale_bytes + CUDA_PLANE_BYTES(l->low + l->high, l->step_k));
}

int64_t cuda_weight_panels(enum dtype type, int64_t n_out)
{
    return type == DTYPE_F32 ? n_out : n_out / CUDA_PANEL + (n_out % CUDA_PANEL != 0);
}

/* Elements of a row in a unit. */
static int unit_k(enum dtype type)
{
    const struct cuda_layout *l = cuda_weight_layout(type);
    return l ? l->step_k * l->steps : 4;
}

size_t cuda_weight_unit_bytes(enum dtype type)
{
    const struct cuda_layout *l = cuda_weight_layout(type);
    return l ? l->head_bytes + l->steps * step_bytes(l) : 16;
}

/* Of a panel. */
static int64_t row_units(enum dtype type, int64_t n_in)
{
    return (n_in + unit_k(type) - 1) / unit_k(type);
}

int64_t cuda_weight_units(const struct weight *w)
{
    return cuda_weight_panels(w->type, w->n_out) * row_units(w->type, w->n_in);
}

size_t cuda_weight_panel_bytes(enum dtype type, int64_t n_in)
{
    if (n_in < 1 || n_in > INT32_MAX || (type != DTYPE_F32 && !cuda_weight_layout(type)))
        return 0;
    return (size_t)row_units(type, n_in) * cuda_weight_unit_bytes(type);
}

/* A unit that is packed: its codes, and what the blocks' scales are. */
struct pack {
    const struct cuda_layout *l;
    enum dtype type;
    uint8_t *unit;
    uint8_t q[CUDA_PANEL][256];
    struct quant_block b[CUDA_PANEL]; /* the last one that was taken apart */
};

/* `bits` of each byte from bit `from` on: four codes. */
static uint32_t four_codes(const uint8_t *q, int from, int bits)
{
    uint32_t v;
    memcpy(&v, q, sizeof v);
    return v >> from & ((1u << bits) - 1) * 0x01010101u;
}

/* Of bytes 0, 1, 2, 3: registers r (halves 0 and 1) and r + 2, each of `bits`. */
static uint32_t spread(uint32_t v, int bits)
{
    return (v & 0xff) | (v >> 8 & 0xff) << 16 | (v >> 16 & 0xff) << 2 * bits |
           v >> 24 << (16 + 2 * bits);
}

/* A plane of up to 4 bits of step `step`; its words are zeros so far. */
static inline void pack_plane(const struct pack *p, uint32_t *words, int step, int from, int bits)
{
    const int step_k = p->l->step_k, n = step_k * bits / 64, piece = n < 4 ? n : 4;
    const int per_word = 4 / bits;
    for (int f = 0; f < step_k / 16; f++) {
        const int own = f / per_word, shift = 4 * bits * (f % per_word);
        uint32_t *to = words + own / piece * piece * CUDA_LANES + own % piece;
        for (int lane = 0; lane < CUDA_LANES; lane++) {
            const int k = step * step_k + 16 * f + lane % 4 * 4;
            const uint32_t low = four_codes(&p->q[lane / 4][k], from, bits);
            const uint32_t high = four_codes(&p->q[lane / 4 + 8][k], from, bits);
            to[lane * piece] |= (spread(low, bits) | spread(high, bits) << bits) << shift;
        }
    }
}

/* The same of 8 bits. */
static void pack_bytes(const struct pack *p, uint32_t *words, int step)
{
    const int step_k = p->l->step_k;
    for (int f = 0; f < step_k / 16; f++) {
        uint32_t *to = words + f / 2 * 4 * CUDA_LANES + f % 2 * 2;
        for (int lane = 0; lane < CUDA_LANES; lane++) {
            const int k = step * step_k + 16 * f + lane % 4 * 4;
            const uint8_t *low = &p->q[lane / 4][k], *high = &p->q[lane / 4 + 8][k];
            const uint8_t mixed[8] = {low[0], high[0], low[1], high[1],
                                      low[2], high[2], low[3], high[3]};
            memcpy(to + 4 * lane, mixed, sizeof mixed);
        }
    }
}

static void pack_codes(const struct pack *p, uint8_t *plane, int step)
{
    const struct cuda_layout *l = p->l;
    uint32_t *words = (uint32_t *)(void *)plane;
    uint32_t *upper = words + CUDA_PLANE_BYTES(l->low, l->step_k) / 4;
    if (l->low == 8) {
        pack_bytes(p, words, step);
    } else if (l->low == 4) {
        pack_plane(p, words, step, 0, 4);
        if (l->high == 1)
            pack_plane(p, upper, step, 4, 1);
        else if (l->high == 2)
            pack_plane(p, upper, step, 4, 2);
    } else {
        pack_plane(p, words, step, 0, 2);
        if (l->high)
            pack_plane(p, upper, step, 2, 1);
    }
}

/* Scales of block 0 or 1 of a step with two blocks of 32. */
static void pack_scales_32(const struct pack *p, int group)
{
    for (int row = 0; row < CUDA_PANEL; row++) {
        int n = p->l->affine ? 16 : 8, at = row % 8 * n + group * 4 + row / 8 * 2;
        memcpy(p->unit + at, &p->b[row].d, 2);
        if (p->l->affine)
            memcpy(p->unit + at + 8, &p->b[row].m, 2);
    }
}

static void pack_scales_k(const struct pack *p)
{
    const struct cuda_layout *l = p->l;
    const int n = l->step_k / l->group; /* groups of a step */
    for (int row = 0; row < CUDA_PANEL; row++) {
        const struct quant_block *b = &p->b[row];
        int r = row % 8, upper = row / 8;
        memcpy(p->unit + r * (l->affine ? 8 : 4) + upper * 2, &b->d, 2);
        if (l->affine)
            memcpy(p->unit + r * 8 + 4 + upper * 2, &b->m, 2);
        for (int g = 0; g < 256 / l->group; g++) {
            uint8_t *to = p->unit + l->head_bytes + (size_t)(g / n) * step_bytes(l);
            if (p->type == DTYPE_Q4_K || p->type == DTYPE_Q5_K) {
                to[r * 8 + upper * 2 + g % n] = b->sc[g];
                to[r * 8 + 4 + upper * 2 + g % n] = b->mn[g];
            } else {
                bool both = p->type == DTYPE_Q2_K;
                to[(r * 2 + upper) * n + g % n] =
                    both ? (uint8_t)(b->sc[g] | b->mn[g] << 4) : b->sc[g];
            }
        }
    }
}

/* A unit of halves: those of a lane's fragment are 4 bytes of a row, of the row eight further, and again of both. */
static void pack_plain(const struct cuda_layout *l, uint8_t *unit, const uint8_t *raw,
                       size_t row_bytes, int n_rows, int n)
{
    uint16_t v[CUDA_PANEL][64] = {{0}};
    for (int row = 0; row < n_rows; row++)
        memcpy(v[row], raw + (size_t)row * row_bytes, (size_t)n * 2);
    for (int f = 0; f < l->step_k / 16; f++) {
        for (int lane = 0; lane < CUDA_LANES; lane++) {
            const uint16_t *low = &v[lane / 4][16 * f + lane % 4 * 4];
            const uint16_t *high = &v[lane / 4 + 8][16 * f + lane % 4 * 4];
            uint8_t *to = unit + (f * CUDA_LANES + lane) * 16;
            memcpy(to, low, 4);
            memcpy(to + 4, high, 4);
            memcpy(to + 8, low + 2, 4);
            memcpy(to + 12, high + 2, 4);
        }
    }
}

/* A unit of blocks; raw: where its first row's begin. */
static void pack_blocks(struct pack *p, const uint8_t *raw, size_t row_bytes, int n_rows, int n)
{
    const struct cuda_layout *l = p->l;
    const int block = dtype_block(p->type), bytes = dtype_block_bytes(p->type);
    if (n < l->step_k * l->steps || n_rows < CUDA_PANEL) {
        memset(p->q, 0, sizeof p->q);
        memset(p->b, 0, sizeof p->b);
    }
    for (int i = 0; i < n / block; i++) {
        for (int row = 0; row < n_rows; row++) {
            quant_block_split(&p->b[row], p->type, raw + (size_t)row * row_bytes + i * bytes);
            memcpy(&p->q[row][i * block], p->b[row].q, (size_t)block);
        }
        if (block == 32)
            pack_scales_32(p, i);
        else
            pack_scales_k(p);
    }
    for (int s = 0; s < l->steps; s++)
        pack_codes(p, p->unit + l->head_bytes + s * step_bytes(l) + l->scale_bytes, s);
}

/* F32: fours of a row are units. */
static void pack_f32(uint8_t *to, const struct weight *w, const uint8_t *raw, int64_t begin,
                     int64_t end)
{
    const int64_t fours = row_units(DTYPE_F32, w->n_in);
    for (int64_t u = begin, n; u < end; u += n, to += (size_t)n * 16) {
        const int64_t row = u / fours, k = u % fours * 4;
        n = fours - u % fours < end - u ? fours - u % fours : end - u;
        const int64_t floats = w->n_in - k < 4 * n ? w->n_in - k : 4 * n;
        memcpy(to, raw + (size_t)(row * w->n_in + k) * 4, (size_t)floats * 4);
        memset(to + (size_t)floats * 4, 0, (size_t)(4 * n - floats) * 4);
    }
}

void cuda_weight_pack(void *to, const struct weight *w, const void *raw, int64_t begin, int64_t end)
{
    if (w->type == DTYPE_F32) {
        pack_f32(to, w, raw, begin, end);
        return;
    }
    const size_t row_bytes = dtype_bytes(w->type, w->n_in), bytes = cuda_weight_unit_bytes(w->type);
    const int64_t a_row = row_units(w->type, w->n_in);
    struct pack p = {.l = cuda_weight_layout(w->type), .type = w->type, .unit = to};
    memset(to, 0, (size_t)(end - begin) * bytes);
    for (int64_t u = begin; u < end; u++, p.unit += bytes) {
        const int64_t row = u / a_row * CUDA_PANEL, k = u % a_row * unit_k(w->type);
        const int n_rows = (int)(w->n_out - row < CUDA_PANEL ? w->n_out - row : CUDA_PANEL);
        const int n = (int)(w->n_in - k < unit_k(w->type) ? w->n_in - k : unit_k(w->type));
        const uint8_t *from =
            (const uint8_t *)raw + (size_t)row * row_bytes + dtype_bytes(w->type, k);
        if (dtype_block(w->type) == 1)
            pack_plain(p.l, p.unit, from, row_bytes, n_rows, n);
        else
            pack_blocks(&p, from, row_bytes, n_rows, n);
    }
}
