/* lowrank: what adapters add to the rows of a batch, each image its own terms (LoRA).
 *
 * The rows are cut into tasks that the workers take one after the other.  A task goes through its images, and
 * for each term first computes h, its rows times the matrix down, then adds h times up to the rows of out where they
 * stand.  Ranks go in groups.  Every sum is one chain of fma (sgemm.h), so no cut changes a bit, and an
 * image's rows do not depend on its neighbours.
 *
 * Windows of stride 1: each pixel of the input is multiplied once with all taps of down, side by side in panels, and
 * h is the sum of what its window's pixels have for their taps.  So no window is packed, and ranks of 8 and 4 fill
 * panels of 16.  Others, and matrices, go tap by tap.
 *
 * Scratch of a worker:   [ packed rows of x ] [ h ] [ 12 rows of a last panel ] [ expanded panels ] [ taps ] */
#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/sgemm.h"
#include "kernels/cpu/weight.h"

#define LOWRANK_ROWS     96                          /* of a task at most */
#define LOWRANK_EXPANDED (16 * SGEMM_K * PANEL_ROWS) /* floats */
#define LOWRANK_TASKS    3                           /* wanted for every worker */
#define LOWRANK_LINES    8 /* of a map in a task, above which edges count little */

struct lowrank_job {
    const struct cpu_ops *ops;
    const struct op_lowrank *p;
    int64_t n_rows, c_in, c_out, task_rows;
    int64_t h, wide;        /* of x, where it is a map */
    int64_t read_h, read_w; /* of what windows see: x, or what upsample makes of it */
    bool window, by_taps;
    float *scratch;
    int64_t scratch_floats; /* of a worker */
    _Atomic int64_t next;   /* row */
};

/* A worker's part: rows of one image and what it computes with. */
struct lowrank_part {
    float *packed, *hidden, *last, *expanded, *taps;
    int64_t row; /* of out */
    int n_rows;
    const struct lowrank_term *term;
    int64_t rank0, n_rank; /* the group of ranks */
};

/* The x of row `row` at a tap, c_in floats; NULL: outside of the picture. */
static const float *lowrank_at(const struct lowrank_job *j, int64_t row, int64_t tap)
{
    const struct op_lowrank *p = j->p;
    const float *x = p->x->data;
    if (!j->window)
        return x + row * j->c_in;
    const int64_t at = row + p->first, image = at / p->image_rows, pixel = at % p->image_rows;
    const int64_t yy = pixel / p->out_w * p->stride - p->pad_before + tap / p->kernel;
    const int64_t xx = pixel % p->out_w * p->stride - p->pad_before + tap % p->kernel;
    const int up = p->upsample ? 1 : 0;
    if (yy < 0 || xx < 0 || yy >= j->read_h || xx >= j->read_w)
        return NULL;
    return x + ((image * j->h + (yy >> up)) * j->wide + (xx >> up)) * j->c_in;
}

/* Rows [k, k + n) of n_panels panels of w as floats. */
static void lowrank_expand(const struct lowrank_job *j, float *to, const struct weight *w,
                           int64_t panel, int64_t n_panels, int64_t k, int64_t n)
{
    const struct cpu_weight *cw = cpu_weight_of(w);
    const size_t size = (size_t)dtype_block_bytes(w->type);
    for (int64_t i = 0; i < n_panels; i++)
        j->ops->sgemm_expand(to + i * n * PANEL_ROWS, w->type,
                             cw->data + (size_t)(panel + i) * cw->panel_bytes +
                                 (size_t)(k * PANEL_ROWS) * size,
                             n * PANEL_ROWS);
}

/* ---- down: hidden [n_rows, SGEMM_STRIDE] = scale * (x down^T), of a group of ranks ---- */

/* The rows at a tap: to, panels of 16 ranks side by side, to_row floats from row to row. */
static void lowrank_tap(const struct lowrank_job *j, const struct lowrank_part *s, int64_t tap,
                        float *to, int64_t to_row)
{
    const int64_t n_panels = (s->n_rank + PANEL_ROWS - 1) / PANEL_ROWS;
    int64_t block = LOWRANK_EXPANDED / (n_panels * PANEL_ROWS);
    block = block < SGEMM_K ? block : SGEMM_K;
    for (int64_t k = 0, n; k < j->c_in; k += n) {
        n = j->c_in - k < block ? j->c_in - k : block;
        lowrank_expand(j, s->expanded, s->term->down, s->rank0 / PANEL_ROWS, n_panels,
                       tap * j->c_in + k, n);
        struct sgemm t = {.x = s->packed,
                          .w = s->expanded,
                          .w_panel = n * PANEL_ROWS,
                          .sum_panel = PANEL_ROWS,
                          .sum_row = to_row,
                          .n_panels = (int)n_panels,
                          .n_k = (int)n,
                          .first = k == 0};
        for (int r = 0; r < s->n_rows; r += t.n_rows) {
            t.n_rows = s->n_rows - r < SGEMM_ROWS ? s->n_rows - r : SGEMM_ROWS;
            for (int i = 0; i < t.n_rows; i++) {
                const float *x = lowrank_at(j, s->row + r + i, tap);
                if (x != NULL)
                    memcpy(s->packed + i * SGEMM_STRIDE, x + k, (size_t)n * sizeof *x);
                else
                    memset(s->packed + i * SGEMM_STRIDE, 0, (size_t)n * sizeof *x);
            }
            t.sum = to + r * to_row;
            j->ops->sgemm_rows(&t);
        }
    }
}

static void lowrank_down(const struct lowrank_job *j, const struct lowrank_part *s)
{
    const int n_taps = j->p->kernel * j->p->kernel;
    lowrank_tap(j, s, 0, s->hidden, SGEMM_STRIDE);
    for (int tap = 1; tap < n_taps; tap++) {
        lowrank_tap(j, s, tap, s->taps, PANEL_ROWS);
        for (int r = 0; r < s->n_rows; r++)
            for (int64_t i = 0; i < s->n_rank; i++)
                s->hidden[r * SGEMM_STRIDE + i] += s->taps[r * PANEL_ROWS + i];
    }
    for (int r = 0; r < s->n_rows; r++)
        for (int64_t i = 0; i < s->n_rank; i++)
            s->hidden[r * SGEMM_STRIDE + i] *= s->term->scale;
}

/* How the taps of a group of ranks lie side by side in panels. */
struct lowrank_lanes {
    int64_t width; /* of a tap: 4, 8 or 16 */
    int64_t row;   /* floats of a pixel: all taps, in whole panels */
};

static struct lowrank_lanes lowrank_lanes(const struct lowrank_job *j, int64_t n_rank)
{
    const int64_t n_taps = j->p->kernel * j->p->kernel;
    struct lowrank_lanes l = {.width = n_rank <= 4 ? 4 : n_rank <= 8 ? 8 : PANEL_ROWS};
    l.row = (n_taps * l.width + PANEL_ROWS - 1) / PANEL_ROWS * PANEL_ROWS;
    return l;
}

/* Rows [k, k + n) of all taps of down, as panels. */
static void lowrank_expand_taps(const struct lowrank_job *j, const struct lowrank_part *s,
                                const struct lowrank_lanes *l, int64_t k, int64_t n)
{
    const int64_t n_taps = j->p->kernel * j->p->kernel;
    float *tap_rows = s->packed; /* not in use yet */
    for (int64_t tap = 0; tap < n_taps; tap++) {
        const int64_t lane = tap * l->width;
        float *to = s->expanded + lane / PANEL_ROWS * n * PANEL_ROWS;
        const int64_t from = tap * j->c_in + k;
        if (l->width == PANEL_ROWS) {
            lowrank_expand(j, to, s->term->down, s->rank0 / PANEL_ROWS, 1, from, n);
            continue;
        }
        for (int64_t i = 0, m; i < n; i += m) {
            m = n - i < SGEMM_ROWS * SGEMM_STRIDE / PANEL_ROWS
                    ? n - i
                    : SGEMM_ROWS * SGEMM_STRIDE / PANEL_ROWS;
            lowrank_expand(j, tap_rows, s->term->down, s->rank0 / PANEL_ROWS, 1, from + i, m);
            float *at = to + i * PANEL_ROWS + lane % PANEL_ROWS;
            for (int64_t q = 0; q < m; q++, at += PANEL_ROWS) {
                memcpy(at, tap_rows + q * PANEL_ROWS, 4 * sizeof *at);
                if (l->width > 4)
                    memcpy(at + 4, tap_rows + q * PANEL_ROWS + 4, 4 * sizeof *at);
            }
        }
    }
}

/* taps [n, l->row] of n pixels of x that follow each other. */
static void lowrank_pixels(const struct lowrank_job *j, const struct lowrank_part *s,
                           const struct lowrank_lanes *l, const float *x, int64_t n_pixels)
{
    int64_t block = LOWRANK_EXPANDED / l->row;
    block = block < SGEMM_K ? block : SGEMM_K;
    for (int64_t k = 0, n; k < j->c_in; k += n) {
        n = j->c_in - k < block ? j->c_in - k : block;
        lowrank_expand_taps(j, s, l, k, n);
        struct sgemm t = {.x = s->packed,
                          .w = s->expanded,
                          .w_panel = n * PANEL_ROWS,
                          .sum_panel = PANEL_ROWS,
                          .sum_row = l->row,
                          .n_panels = (int)(l->row / PANEL_ROWS),
                          .n_k = (int)n,
                          .first = k == 0};
        for (int64_t r = 0; r < n_pixels; r += t.n_rows) {
            t.n_rows = (int)(n_pixels - r < SGEMM_ROWS ? n_pixels - r : SGEMM_ROWS);
            for (int i = 0; i < t.n_rows; i++)
                memcpy(s->packed + i * SGEMM_STRIDE, x + (r + i) * j->c_in + k,
                       (size_t)n * sizeof *x);
            t.sum = s->taps + r * l->row;
            j->ops->sgemm_rows(&t);
        }
    }
}

/* h [PANEL_ROWS] += a tap's lanes, of which the first n_rank mean something. */
static void lowrank_sum(float *h, const float *tap, int64_t width)
{
    for (int64_t i = 0; i < width; i += 4)
        for (int64_t k = 0; k < 4; k++)
            h[i + k] += tap[i + k];
}

static void lowrank_down_taps(const struct lowrank_job *j, const struct lowrank_part *s)
{
    const struct op_lowrank *p = j->p;
    const struct lowrank_lanes l = lowrank_lanes(j, s->n_rank);
    const int up = p->upsample ? 1 : 0;
    const int64_t at = s->row + p->first, image = at / p->image_rows, pixel = at % p->image_rows;
    int64_t y0 = pixel / p->out_w - p->pad_before;
    int64_t y1 = (pixel + s->n_rows - 1) / p->out_w - p->pad_before + p->kernel - 1;
    y0 = (y0 > 0 ? y0 : 0) >> up;
    y1 = (y1 < j->read_h - 1 ? y1 : j->read_h - 1) >> up;
    const float *x = (const float *)p->x->data + (image * j->h + y0) * j->wide * j->c_in;
    lowrank_pixels(j, s, &l, x, (y1 - y0 + 1) * j->wide);
    for (int r = 0; r < s->n_rows; r++) {
        const int64_t top = (pixel + r) / p->out_w - p->pad_before;
        const int64_t left = (pixel + r) % p->out_w - p->pad_before;
        float h[PANEL_ROWS] = {0}, *to = s->hidden + r * SGEMM_STRIDE;
        for (int ky = 0; ky < p->kernel; ky++) {
            const int64_t yy = top + ky;
            if (yy < 0 || yy >= j->read_h)
                continue;
            const float *line =
                s->taps + ((yy >> up) - y0) * j->wide * l.row + (int64_t)ky * p->kernel * l.width;
            for (int kx = 0; kx < p->kernel; kx++) {
                const int64_t xx = left + kx;
                if (xx >= 0 && xx < j->read_w)
                    lowrank_sum(h, line + (xx >> up) * l.row + kx * l.width, l.width);
            }
        }
        for (int64_t i = 0; i < s->n_rank; i++)
            to[i] = h[i] * s->term->scale;
    }
}

/* ---- up ---- */

/* out += hidden up^T; whole panels where they stand, the rest of the last one beside. */
static void lowrank_up(const struct lowrank_job *j, const struct lowrank_part *s)
{
    const struct weight *up = s->term->up;
    float *out = (float *)j->p->out->data + s->row * j->c_out;
    const int64_t whole = j->c_out / PANEL_ROWS, n_panels = cpu_weight_of(up)->n_panels;
    const int64_t group = LOWRANK_EXPANDED / (s->n_rank * PANEL_ROWS);
    const size_t rest = (size_t)(j->c_out % PANEL_ROWS) * sizeof(float);
    for (int64_t panel = 0, n; panel < n_panels; panel += n) {
        n = panel < whole ? whole - panel : 1;
        n = n < group ? n : group;
        lowrank_expand(j, s->expanded, up, panel, n, s->rank0, s->n_rank);
        const bool apart = panel >= whole;
        struct sgemm t = {.w = s->expanded,
                          .w_panel = s->n_rank * PANEL_ROWS,
                          .sum_panel = PANEL_ROWS,
                          .sum_row = apart ? PANEL_ROWS : j->c_out,
                          .n_panels = (int)n,
                          .n_k = (int)s->n_rank};
        for (int r = 0; r < s->n_rows; r += t.n_rows) {
            float *to = out + r * j->c_out + panel * PANEL_ROWS;
            t.n_rows = s->n_rows - r < SGEMM_ROWS ? s->n_rows - r : SGEMM_ROWS;
            t.x = s->hidden + r * SGEMM_STRIDE;
            t.sum = apart ? s->last : to;
            for (int i = 0; i < t.n_rows && apart; i++)
                memcpy(s->last + i * PANEL_ROWS, to + i * j->c_out, rest);
            j->ops->sgemm_rows(&t);
            for (int i = 0; i < t.n_rows && apart; i++)
                memcpy(to + i * j->c_out, s->last + i * PANEL_ROWS, rest);
        }
    }
}

static void lowrank_task(const struct lowrank_job *j, float *scratch, int64_t begin, int64_t end)
{
    const struct op_lowrank *p = j->p;
    const int64_t group = p->kernel > 1 ? PANEL_ROWS : SGEMM_K; /* of ranks */
    struct lowrank_part s = {.packed = scratch};
    s.hidden = s.packed + SGEMM_ROWS * SGEMM_STRIDE;
    s.last = s.hidden + j->task_rows * SGEMM_STRIDE;
    s.expanded = s.last + SGEMM_ROWS * PANEL_ROWS;
    s.taps = s.expanded + LOWRANK_EXPANDED;
    memset(s.last, 0, SGEMM_ROWS * PANEL_ROWS * sizeof(float));
    for (s.row = begin; s.row < end; s.row += s.n_rows) {
        const int64_t at = s.row + p->first, image = at / p->image_rows;
        const int64_t left = (image + 1) * p->image_rows - at, n = end - s.row;
        s.n_rows = (int)(left < n ? left : n);
        for (int i = 0; i < p->images[image].n; i++) {
            s.term = &p->images[image].terms[i];
            const int64_t rank = s.term->down->n_out;
            for (s.rank0 = 0; s.rank0 < rank; s.rank0 += s.n_rank) {
                s.n_rank = rank - s.rank0 < group ? rank - s.rank0 : group;
                if (j->by_taps)
                    lowrank_down_taps(j, &s);
                else
                    lowrank_down(j, &s);
                lowrank_up(j, &s);
            }
        }
    }
}

static void lowrank_worker(void *arg, int worker, int n_workers)
{
    struct lowrank_job *j = arg;
    (void)n_workers;
    float *scratch = j->scratch + worker * j->scratch_floats;
    for (int64_t row; (row = atomic_fetch_add(&j->next, j->task_rows)) < j->n_rows;) {
        const int64_t end = row + j->task_rows;
        lowrank_task(j, scratch, row, end < j->n_rows ? end : j->n_rows);
    }
}

/* Does any of the rows' images have a term? */
static bool lowrank_any(const struct lowrank_job *j)
{
    const struct op_lowrank *p = j->p;
    bool any = false;
    for (int64_t i = p->first / p->image_rows; i * p->image_rows < p->first + j->n_rows; i++) {
        for (int k = 0; k < p->images[i].n; k++) {
            const struct lowrank_term *t = &p->images[i].terms[k];
            assert(t->up->n_out == j->c_out && t->up->n_in == t->down->n_out);
            assert(t->down->n_in == p->kernel * p->kernel * j->c_in);
            assert(!quant_format(t->up->type) && !quant_format(t->down->type));
            (void)t;
        }
        any = any || p->images[i].n > 0;
    }
    return any;
}

void cpu_lowrank(struct backend *be, const struct op_lowrank *p)
{
    struct cpu_backend *cb = cpu_of(be);
    const int n_workers = pool_n(cb->pool);
    struct lowrank_job j = {.ops = &cb->ops, .p = p, .n_rows = p->out->dims[0]};
    j.c_in = p->x->dims[p->x->ndim - 1];
    j.c_out = p->out->dims[1];
    j.window = p->kernel > 1 || p->stride > 1 || p->upsample;
    assert(p->out->ndim == 2 && p->image_rows > 0 && p->first >= 0);
    assert(!j.window || p->x->ndim == 4);
    if (j.window) {
        j.h = p->x->dims[1];
        j.wide = p->x->dims[2];
        j.read_h = p->upsample ? p->image_rows / p->out_w : j.h;
        j.read_w = p->upsample ? p->out_w : j.wide;
    }
    j.by_taps = p->kernel > 1 && p->stride == 1;
    if (j.n_rows == 0 || !lowrank_any(&j))
        return;
    j.task_rows = LOWRANK_ROWS;
    int64_t taps = j.task_rows * PANEL_ROWS, step = SGEMM_ROWS;
    if (j.by_taps) {
        step = p->out_w;
        j.task_rows = (LOWRANK_ROWS / step + LOWRANK_LINES) * step;
    }
    while (j.task_rows > (j.by_taps ? LOWRANK_LINES * step / 2 : step) && n_workers > 1 &&
           j.n_rows < j.task_rows * n_workers * LOWRANK_TASKS)
        j.task_rows -= step;
    if (j.by_taps) /* lines that a task touches: one more where it begins inside of one */
        taps = (j.task_rows / step + p->kernel + 1) * j.wide * lowrank_lanes(&j, PANEL_ROWS).row;
    j.scratch_floats = SGEMM_ROWS * (SGEMM_STRIDE + PANEL_ROWS) + j.task_rows * SGEMM_STRIDE +
                       LOWRANK_EXPANDED + taps;
    j.scratch = cpu_scratch(cb, (size_t)(n_workers * j.scratch_floats) * sizeof(float));
    pool_run(cb->pool, lowrank_worker, &j);
}
