/* Repack of a file's matrix into panels of 16 rows (panel.h), in parallel over panels, and the way
 * back for one row.  The file's bytes are read once, panel by panel. */
#include "kernels/cpu/weight.h"

#include <assert.h>
#include <stdlib.h>

#include "base/arena.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/panel.h"

enum { REPACK_BYTES = 4 << 20 }; /* between two pauses */

struct repack {
    struct cpu_weight *w;
    const uint8_t *raw;
    size_t row_bytes;   /* of raw */
    int64_t first, end; /* panels */
};

/* codes [8 quads][64]: the inverse of panel_code. */
static void store_planes(int bits, uint8_t *q, uint8_t codes[8][PANEL_PLANE])
{
    int low = bits >= 4 && bits < 8 ? 4 : bits == 8 ? 8 : 2;
    memset(q, 0, (size_t)bits * PANEL_PLANE);
    for (int j = 0; j < 8; j++) {
        uint8_t *to = q + (low == 4 ? j % 4 : low == 8 ? j : j / 4) * PANEL_PLANE;
        int shift = low == 4 ? j / 4 * 4 : low == 8 ? 0 : j % 4 * 2;
        for (int p = 0; p < PANEL_PLANE; p++)
            to[p] |= (uint8_t)((codes[j][p] & ((1 << low) - 1)) << shift);
        if (low == bits)
            continue;
        to = q + (low + (bits == 6 ? j / 4 : 0)) * PANEL_PLANE;
        shift = bits == 6 ? j % 4 * 2 : j;
        for (int p = 0; p < PANEL_PLANE; p++)
            to[p] |= (uint8_t)(codes[j][p] >> low << shift);
    }
}

static void repack_quant(const struct repack *r, int64_t panel)
{
    const struct cpu_weight *w = r->w;
    const struct quant_format *f = quant_format(w->w.type);
    struct panel_geometry geo = panel_geometry(*f);
    int64_t row0 = panel * PANEL_ROWS, n_units = w->w.n_in / (geo.subs * 32);
    int n_rows = (int)(w->w.n_out - row0 < PANEL_ROWS ? w->w.n_out - row0 : PANEL_ROWS);
    uint8_t *unit = (uint8_t *)w->data + (size_t)panel * w->panel_bytes;
    struct quant_block b[PANEL_ROWS];
    memset(b, 0, sizeof(b));
    for (int64_t u = 0; u < n_units; u++, unit += geo.unit_bytes) {
        for (int i = 0; i < n_rows; i++) {
            const uint8_t *src = r->raw + (size_t)(row0 + i) * r->row_bytes;
            quant_block_split(&b[i], w->w.type,
                              src + (size_t)u * (size_t)dtype_block_bytes(w->w.type));
        }
        for (int i = 0; i < PANEL_ROWS; i++) {
            memcpy(unit + 2 * i, &b[i].d, 2);
            if (geo.affine)
                memcpy(unit + 32 + 2 * i, &b[i].m, 2);
        }
        for (int s = 0; s < geo.subs; s++) {
            uint8_t codes[8][PANEL_PLANE], *sub = unit + geo.head_bytes + s * geo.sub_bytes;
            for (int i = 0; i < PANEL_ROWS; i++)
                for (int j = 0; j < 8; j++)
                    memcpy(&codes[j][4 * i], &b[i].q[s * 32 + 4 * j], 4);
            store_planes(f->bits, sub, codes);
            uint8_t *sc = sub + geo.q_bytes, *mn = sc + geo.groups * PANEL_ROWS;
            for (int k = 0; geo.subs > 1 && k < geo.groups * PANEL_ROWS; k++) {
                const struct quant_block *from = &b[k % PANEL_ROWS];
                int group = s * geo.groups + k / PANEL_ROWS;
                sc[k] = from->sc[group];
                if (geo.affine)
                    mn[k] = from->mn[group];
            }
        }
    }
}

/* [n_in][16] of 2 or 4 bytes; the padding rows stay zero, as alloc left them.
 */
static void repack_plain(const struct repack *r, int64_t panel)
{
    const struct cpu_weight *w = r->w;
    size_t size = (size_t)dtype_block_bytes(w->w.type);
    char *to = w->data + (size_t)panel * w->panel_bytes;
    for (int64_t i = 0; i < PANEL_ROWS && panel * PANEL_ROWS + i < w->w.n_out; i++) {
        const uint8_t *src = r->raw + (size_t)(panel * PANEL_ROWS + i) * r->row_bytes;
        for (int64_t k = 0; k < w->w.n_in; k++)
            memcpy(to + (size_t)(k * PANEL_ROWS + i) * size, src + (size_t)k * size, size);
    }
}

static void repack_slice(void *arg, int worker, int n_workers)
{
    const struct repack *r = arg;
    int64_t n = r->end - r->first;
    for (int64_t p = r->first + n * worker / n_workers; p < r->first + n * (worker + 1) / n_workers;
         p++) {
        if (quant_format(r->w->w.type))
            repack_quant(r, p);
        else
            repack_plain(r, p);
    }
}

/* Bytes of one panel; *n_panels of them make the weight. */
static size_t panel_bytes_of(enum dtype type, int64_t n_in)
{
    const struct quant_format *f = quant_format(type);
    size_t unit =
        f ? (size_t)panel_geometry(*f).unit_bytes : PANEL_ROWS * (size_t)dtype_block_bytes(type);
    size_t bytes;
    return __builtin_mul_overflow((size_t)(n_in / dtype_block(type)), unit, &bytes) ? 0 : bytes;
}

static int64_t panels_of(int64_t n_out)
{
    return n_out / PANEL_ROWS + (n_out % PANEL_ROWS != 0);
}

size_t cpu_weight_bytes(enum dtype type, int64_t n_out, int64_t n_in, struct err *e)
{
    if (!quant_format(type) && type != DTYPE_F32 && type != DTYPE_F16 && type != DTYPE_BF16) {
        err_set(e, ERR_UNSUPPORTED, "weights of type %s cannot be multiplied", dtype_name(type));
        return 0;
    }
    if (n_out < 1 || n_in < 1 || n_in % dtype_block(type) != 0) {
        err_set(e, ERR_INVALID, "a %s matrix cannot be %lld x %lld", dtype_name(type),
                (long long)n_out, (long long)n_in);
        return 0;
    }
    size_t panel = panel_bytes_of(type, n_in), bytes;
    if (panel > 0 && !__builtin_mul_overflow(panel, (size_t)panels_of(n_out), &bytes) &&
        bytes <= PTRDIFF_MAX)
        return bytes;
    err_set(e, ERR_NOMEM, "a %s matrix of %lld x %lld does not fit the address space",
            dtype_name(type), (long long)n_out, (long long)n_in);
    return 0;
}

int cpu_weight_open(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                    int64_t n_in, const void *raw, struct err *e)
{
    struct err why = {0};
    size_t bytes = cpu_weight_bytes(type, n_out, n_in, &why);
    if (bytes == 0) {
        if (e)
            *e = why;
        return why.code;
    }
    struct cpu_weight *w = xcalloc(1, sizeof(*w));
    w->data = slab_alloc(&cpu_of(be)->weights, bytes, e);
    if (!w->data) {
        free(w);
        return ERR_NOMEM;
    }
    w->w = (struct weight){.type = type, .n_out = n_out, .n_in = n_in, .bytes = bytes};
    w->panel_bytes = panel_bytes_of(type, n_in);
    w->n_panels = panels_of(n_out);
    struct repack r = {.w = w, .raw = raw, .row_bytes = dtype_bytes(type, n_in)};
    int64_t at_once = (int64_t)(REPACK_BYTES / w->panel_bytes) + 1;
    while (r.first < w->n_panels) {
        r.end = r.first + at_once < w->n_panels ? r.first + at_once : w->n_panels;
        pool_run(cpu_of(be)->pool, repack_slice, &r);
        r.first = r.end;
        if (be->pause)
            be->pause(be);
    }
    *out = &w->w;
    return 0;
}

void cpu_weight_close(struct backend *be, struct weight *weight)
{
    if (!weight)
        return;
    struct cpu_weight *w = (struct cpu_weight *)weight;
    slab_free(&cpu_of(be)->weights, w->data);
    free(w);
}

static void row_quant(const struct cpu_weight *w, const struct quant_format *f, int64_t row,
                      float *dst)
{
    struct panel_geometry geo = panel_geometry(*f);
    int r = (int)(row % PANEL_ROWS);
    const uint8_t *unit = (const uint8_t *)w->data + (size_t)(row / PANEL_ROWS) * w->panel_bytes;
    for (int64_t b = 0; b < w->w.n_in / 32; b++) {
        int s = (int)(b % geo.subs);
        const uint8_t *q = unit + geo.head_bytes + s * geo.sub_bytes;
        float d = 0, m = 0; /* of the group at hand */
        for (int k = 0; k < 32; k++) {
            if (k % f->group == 0)
                panel_scales(f, unit, s, k / f->group, r, &d, &m);
            int code = panel_code(f->bits, q, k / 4, 4 * r + k % 4);
            code = f->table ? f->table[code] : code;
            dst[b * 32 + k] = geo.affine ? d * (float)code + m : d * (float)(code - f->zero);
        }
        if (s == geo.subs - 1)
            unit += geo.unit_bytes;
    }
}

void cpu_weight_row(struct backend *be, const struct weight *weight, int64_t row, float *dst)
{
    (void)be;
    const struct cpu_weight *w = cpu_weight_of(weight);
    const struct quant_format *f = quant_format(weight->type);
    assert(row >= 0 && row < weight->n_out);
    if (f) {
        row_quant(w, f, row, dst);
        return;
    }
    size_t size = (size_t)dtype_block_bytes(weight->type);
    const char *from = w->data + (size_t)(row / PANEL_ROWS) * w->panel_bytes;
    for (int64_t k = 0; k < weight->n_in; k++)
        quant_unpack(weight->type, dst + k,
                     from + (size_t)(k * PANEL_ROWS + row % PANEL_ROWS) * size, 1);
}
