/* Packs a file's blocks into fragments.  Every block is taken apart by kernels/quant_block.c, as for the
 * CPU, so no format is decoded twice. */
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

size_t cuda_weight_panel_bytes(enum dtype type, int64_t n_in)
{
    const struct cuda_layout *l = cuda_weight_layout(type);
    if (n_in < 1 || n_in > INT32_MAX)
        return 0;
    if (type == DTYPE_F32)
        return (size_t)(n_in + 3) / 4 * 16;
    if (!l)
        return 0;
    size_t unit_k = (size_t)l->step_k * l->steps;
    return ((size_t)n_in + unit_k - 1) / unit_k * (l->head_bytes + l->steps * step_bytes(l));
}

/* A block of 32 or 256 elements of the 16 rows, at element k of the unit's `steps`. */
struct pack {
    const struct cuda_layout *l;
    enum dtype type;
    uint8_t *unit;
    const struct quant_block *b; /* [16] */
};

static void pack_code(const struct cuda_layout *l, uint8_t *step, int row, int k, int code)
{
    uint8_t *plane = step + l->scale_bytes;
    uint32_t *words = (uint32_t *)(void *)plane;
    int word, shift;
    cuda_layout_at(l->low, l->step_k, row, k, &word, &shift);
    words[word] |= (uint32_t)(code & ((1 << l->low) - 1)) << shift;
    if (!l->high)
        return;
    words += CUDA_PLANE_BYTES(l->low, l->step_k) / 4;
    cuda_layout_at(l->high, l->step_k, row, k, &word, &shift);
    words[word] |= (uint32_t)(code >> l->low) << shift;
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

static void pack_plain(const struct cuda_layout *l, uint8_t *unit, const uint8_t *raw,
                       size_t row_bytes, int n_rows, int64_t k0, int64_t n_in)
{
    for (int row = 0; row < n_rows; row++) {
        for (int k = 0; k < l->step_k && k0 + k < n_in; k++) {
            uint16_t v;
            memcpy(&v, raw + (size_t)row * row_bytes + (size_t)(k0 + k) * 2, 2);
            pack_code(l, unit, row, k, v);
        }
    }
}

static void pack_panel(uint8_t *to, enum dtype type, const uint8_t *raw, size_t row_bytes,
                       int n_rows, int64_t n_in)
{
    const struct cuda_layout *l = cuda_weight_layout(type);
    const int block = dtype_block(type), unit_k = l->step_k * l->steps;
    const size_t unit_bytes = l->head_bytes + l->steps * step_bytes(l);
    struct quant_block b[CUDA_PANEL];
    memset(b, 0, sizeof(b));
    for (int64_t k0 = 0; k0 < n_in; k0 += unit_k, to += unit_bytes) {
        if (block == 1) {
            pack_plain(l, to, raw, row_bytes, n_rows, k0, n_in);
            continue;
        }
        struct pack p = {l, type, to, b};
        for (int64_t k = k0; k < k0 + unit_k && k < n_in; k += block) {
            for (int row = 0; row < n_rows; row++)
                quant_block_split(&b[row], type,
                                  raw + (size_t)row * row_bytes +
                                      (size_t)(k / block) * (size_t)dtype_block_bytes(type));
            for (int row = 0; row < n_rows; row++) {
                for (int i = 0; i < block; i++) {
                    int at = (int)(k - k0) + i;
                    uint8_t *step = to + l->head_bytes + (size_t)(at / l->step_k) * step_bytes(l);
                    pack_code(l, step, row, at % l->step_k, b[row].q[i]);
                }
            }
            if (block == 32)
                pack_scales_32(&p, (int)(k - k0) / 32);
            else
                pack_scales_k(&p);
        }
    }
}

void cuda_weight_pack(void *to, enum dtype type, int64_t n_out, int64_t n_in, const void *raw,
                      int64_t begin, int64_t end)
{
    const size_t row_bytes = dtype_bytes(type, n_in), bytes = cuda_weight_panel_bytes(type, n_in);
    const int64_t rows = type == DTYPE_F32 ? 1 : CUDA_PANEL;
    memset(to, 0, (size_t)(end - begin) * bytes);
    for (int64_t p = begin; p < end; p++) {
        uint8_t *panel = (uint8_t *)to + (size_t)(p - begin) * bytes;
        const uint8_t *from = (const uint8_t *)raw + (size_t)(p * rows) * row_bytes;
        int64_t n = n_out - p * rows < rows ? n_out - p * rows : rows;
        if (type == DTYPE_F32)
            memcpy(panel, from, row_bytes);
        else
            pack_panel(panel, type, from, row_bytes, (int)n, n_in);
    }
}
