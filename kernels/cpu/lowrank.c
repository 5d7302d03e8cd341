/* lowrank: what adapters add to the rows of a batch, each image its own terms (LoRA).
 *
 * The rows are cut into tasks that the workers take one after the other.  A task goes through its images, and
 * for each term first computes h, its rows times the matrix down, in blocks of k as conv2d does it, then
 * adds h times up to the rows of out where they stand.  Ranks above SGEMM_K go in groups.  Every sum is one
 * chain of fma (sgemm.h), so no cut changes a bit, and an image's rows do not depend on its neighbours.
 *
 * Scratch of a worker:   [ packed rows of x ] [ h ] [ 12 rows of a last panel ] [ expanded panels ] */
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

struct lowrank_job {
    const struct cpu_ops *ops;
    const struct op_lowrank *p;
    int64_t n_rows, c_in, c_out, task_rows;
    int64_t h, wide; /* of x, where it is a map */
    bool window;
    float *scratch;
    int64_t scratch_floats; /* of a worker */
    _Atomic int64_t next;   /* row */
};

/* A worker's part: rows of one image and what it computes with. */
struct lowrank_part {
    float *packed, *hidden, *last, *expanded;
    int64_t row; /* of out */
    int n_rows;
    const struct lowrank_term *term;
    int64_t rank0, n_rank; /* the group of ranks */
};

/* Columns [k, k + n) of row `row` of x: of a matrix, or of the window around a pixel. */
static void lowrank_pack(const struct lowrank_job *j, float *to, int64_t row, int64_t k, int64_t n)
{
    const struct op_lowrank *p = j->p;
    const float *x = p->x->data;
    if (!j->window) {
        memcpy(to, x + row * j->c_in + k, (size_t)n * sizeof(float));
        return;
    }
    int64_t at = row + p->first, image = at / p->image_rows, pixel = at % p->image_rows;
    int64_t y0 = pixel / p->out_w * p->stride - p->pad_before;
    int64_t x0 = pixel % p->out_w * p->stride - p->pad_before;
    int up = p->upsample ? 1 : 0;
    for (int64_t tap = k / j->c_in, c = k % j->c_in, m; n > 0; tap++, c = 0, to += m, n -= m) {
        int64_t yy = y0 + tap / p->kernel, xx = x0 + tap % p->kernel;
        m = j->c_in - c < n ? j->c_in - c : n;
        if (yy < 0 || xx < 0 || yy >= j->h << up || xx >= j->wide << up)
            memset(to, 0, (size_t)m * sizeof(float));
        else
            memcpy(to, x + ((image * j->h + (yy >> up)) * j->wide + (xx >> up)) * j->c_in + c,
                   (size_t)m * sizeof(float));
    }
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

/* hidden [n_rows, SGEMM_STRIDE] = scale * (x down^T), of a group of ranks. */
static void lowrank_down(const struct lowrank_job *j, const struct lowrank_part *s)
{
    const struct weight *down = s->term->down;
    const int64_t n_panels = (s->n_rank + PANEL_ROWS - 1) / PANEL_ROWS;
    int64_t block = LOWRANK_EXPANDED / (n_panels * PANEL_ROWS);
    block = block < SGEMM_K ? block : SGEMM_K;
    for (int64_t k = 0, n; k < down->n_in; k += n) {
        n = down->n_in - k < block ? down->n_in - k : block;
        lowrank_expand(j, s->expanded, down, s->rank0 / PANEL_ROWS, n_panels, k, n);
        struct sgemm t = {.x = s->packed,
                          .w = s->expanded,
                          .w_panel = n * PANEL_ROWS,
                          .sum_panel = PANEL_ROWS,
                          .sum_row = SGEMM_STRIDE,
                          .n_panels = (int)n_panels,
                          .n_k = (int)n,
                          .first = k == 0};
        for (int r = 0; r < s->n_rows; r += t.n_rows) {
            t.n_rows = s->n_rows - r < SGEMM_ROWS ? s->n_rows - r : SGEMM_ROWS;
            for (int i = 0; i < t.n_rows; i++)
                lowrank_pack(j, s->packed + i * SGEMM_STRIDE, s->row + r + i, k, n);
            t.sum = s->hidden + r * SGEMM_STRIDE;
            j->ops->sgemm_rows(&t);
        }
    }
    for (int r = 0; r < s->n_rows; r++)
        for (int64_t i = 0; i < s->n_rank; i++)
            s->hidden[r * SGEMM_STRIDE + i] *= s->term->scale;
}

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
    struct lowrank_part s = {.packed = scratch};
    s.hidden = s.packed + SGEMM_ROWS * SGEMM_STRIDE;
    s.last = s.hidden + j->task_rows * SGEMM_STRIDE;
    s.expanded = s.last + SGEMM_ROWS * PANEL_ROWS;
    memset(s.last, 0, SGEMM_ROWS * PANEL_ROWS * sizeof(float));
    for (s.row = begin; s.row < end; s.row += s.n_rows) {
        const int64_t at = s.row + p->first, image = at / p->image_rows;
        const int64_t left = (image + 1) * p->image_rows - at, n = end - s.row;
        s.n_rows = (int)(left < n ? left : n);
        for (int i = 0; i < p->images[image].n; i++) {
            s.term = &p->images[image].terms[i];
            const int64_t rank = s.term->down->n_out;
            for (s.rank0 = 0; s.rank0 < rank; s.rank0 += s.n_rank) {
                s.n_rank = rank - s.rank0 < SGEMM_K ? rank - s.rank0 : SGEMM_K;
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
    }
    if (j.n_rows == 0 || !lowrank_any(&j))
        return;
    j.task_rows = LOWRANK_ROWS;
    while (j.task_rows > SGEMM_ROWS && n_workers > 1 &&
           j.n_rows < j.task_rows * n_workers * LOWRANK_TASKS)
        j.task_rows -= SGEMM_ROWS;
    j.scratch_floats =
        SGEMM_ROWS * (SGEMM_STRIDE + PANEL_ROWS) + j.task_rows * SGEMM_STRIDE + LOWRANK_EXPANDED;
    j.scratch = cpu_scratch(cb, (size_t)(n_workers * j.scratch_floats) * sizeof(float));
    pool_run(cb->pool, lowrank_worker, &j);
}
