/* conv2d.  3 x 3 of stride 1 goes to conv_win.c; the others are computed here, as a product of matrices that are
 * never built: row r is an output pixel, column k an element of its window.
 *
 * The output is cut into tasks, some rows times some panels, that the workers take one after the other.
 * A task goes over k in blocks.  Of each block it expands its panels to f32, which then stay in the L2
 * cache, and lets its rows go by, SGEMM_ROWS at a time: their windows' elements of the block are copied side
 * by side into the L1 cache (zeros where the window leaves the image) and multiplied with all panels.  The
 * sums wait in the worker's memory for the next block; after the last one bias and the rest are added.
 * None of the cuts changes a bit: each sum is one chain over k (sgemm.h).
 *
 * Scratch of a worker:   [ packed rows ] [ sums of a task ] [ expanded panels ] */
#include "kernels/cpu/conv.h"

#include <assert.h>
#include <string.h>

#include "kernels/cpu/panel.h"
#include "kernels/cpu/sgemm.h"

#define CONV_PANELS_BYTES ((size_t)480 << 10) /* of expanded panels of a block */
#define CONV_TASK_ROWS    384                 /* at most */
#define CONV_TASK_PANELS  32
#define CONV_TASKS        3 /* wanted for every worker */

static struct conv_at conv_at(const struct conv_job *j, int64_t row)
{
    int64_t line = row / j->wo;
    return (struct conv_at){line / j->n_y, line % j->n_y + j->y_begin, row % j->wo};
}

/* The c_in floats at tap t of the window of an output pixel, or NULL outside of x. */
static const float *conv_pixel(const struct conv_job *j, const struct conv_at *at, int64_t t)
{
    const struct op_conv2d *p = j->p;
    int64_t y = at->y * p->stride + t / p->kernel - p->pad_before;
    int64_t x = at->x * p->stride + t % p->kernel - p->pad_before;
    int up = p->upsample ? 1 : 0;
    if (y < 0 || x < 0 || y >= j->read_h || x >= j->read_w)
        return NULL;
    return (const float *)p->x->data +
           ((at->image * j->h + (y >> up)) * j->wide + (x >> up)) * j->c_in;
}

/* Columns [k, k + n) of the window of one output pixel. */
static void conv_pack(const struct conv_job *j, float *to, int64_t row, int64_t k, int64_t n)
{
    struct conv_at at = conv_at(j, row);
    int64_t tap = k / j->c_in, c = k % j->c_in;
    while (n > 0) {
        const float *x = conv_pixel(j, &at, tap++);
        int64_t m = j->c_in - c < n ? j->c_in - c : n;
        if (x)
            memcpy(to, x + c, (size_t)m * sizeof(float));
        else
            memset(to, 0, (size_t)m * sizeof(float));
        to += m;
        n -= m;
        c = 0;
    }
}

void conv_finish(const struct conv_job *j, float *sum, const struct conv_at *at, int64_t o,
                 int64_t c)
{
    const struct op_conv2d *p = j->p;
    int64_t to = ((at->image * j->ho + at->y) * j->wo + at->x) * j->c_out + o;
    float *out = (float *)p->out->data + to;
    if (p->bias)
        j->ops->add(sum, sum, (const float *)p->bias->data + o, c);
    if (p->add_image)
        j->ops->add(sum, sum, (const float *)p->add_image->data + at->image * j->c_out + o, c);
    if (p->add)
        j->ops->add(sum, sum, (const float *)p->add->data + to, c);
    if (p->act == ACT_NONE)
        memcpy(out, sum, (size_t)c * sizeof(float));
    else
        j->ops->act(out, sum, c, p->act);
}

/* Rows [row, row + n_rows) times panels [panel, panel + n_panels). */
static void conv_task(const struct conv_job *j, float *scratch, int64_t row, int64_t n_rows,
                      int64_t panel, int64_t n_panels)
{
    float *packed = scratch, *sums = packed + SGEMM_ROWS * SGEMM_STRIDE;
    float *expanded = sums + j->task_rows * j->task_panels * PANEL_ROWS;
    const struct cpu_weight *w = j->w;
    size_t size = (size_t)dtype_block_bytes(w->w.type);
    int64_t wide = n_panels * PANEL_ROWS, o = panel * PANEL_ROWS;
    int64_t c = j->c_out - o < wide ? j->c_out - o : wide;
    for (int64_t k = 0, n; k < w->w.n_in; k += n) {
        n = w->w.n_in - k < j->k_block ? w->w.n_in - k : j->k_block;
        struct sgemm t = {.x = packed,
                          .w = expanded,
                          .w_panel = n * PANEL_ROWS,
                          .sum_panel = PANEL_ROWS,
                          .sum_row = wide,
                          .n_panels = (int)n_panels,
                          .n_k = (int)n,
                          .first = k == 0};
        for (int64_t i = 0; i < n_panels; i++)
            j->ops->sgemm_expand(expanded + i * t.w_panel, w->w.type,
                                 w->data + (size_t)(panel + i) * w->panel_bytes +
                                     (size_t)(k * PANEL_ROWS) * size,
                                 t.w_panel);
        for (int64_t r = 0; r < n_rows; r += t.n_rows) {
            t.n_rows = (int)(n_rows - r < SGEMM_ROWS ? n_rows - r : SGEMM_ROWS);
            for (int i = 0; i < t.n_rows; i++)
                conv_pack(j, packed + i * SGEMM_STRIDE, row + r + i, k, n);
            t.sum = sums + r * wide;
            j->ops->sgemm_rows(&t);
            for (int i = 0; i < t.n_rows && k + n == w->w.n_in; i++) {
                struct conv_at at = conv_at(j, row + r + i);
                conv_finish(j, t.sum + i * wide, &at, o, c);
            }
        }
    }
}

static void conv_worker(void *arg, int worker, int n_workers)
{
    struct conv_job *j = arg;
    (void)n_workers;
    float *scratch = j->scratch + worker * j->scratch_floats;
    for (int64_t i; (i = atomic_fetch_add(&j->next, 1)) < j->n_tasks;) {
        int64_t row = i % j->n_row_tasks * j->task_rows,
                panel = i / j->n_row_tasks * j->task_panels;
        int64_t rows = j->n_rows - row, panels = j->w->n_panels - panel;
        conv_task(j, scratch, row, rows < j->task_rows ? rows : j->task_rows, panel,
                  panels < j->task_panels ? panels : j->task_panels);
    }
}

int64_t conv_even(int64_t n, int64_t most, int64_t unit)
{
    int64_t parts = (n + most - 1) / most;
    return ((n + parts - 1) / parts + unit - 1) / unit * unit;
}

/* Decides about blocks and tasks: large enough to be worth packing, enough for all workers. */
static void conv_cut(struct conv_job *j, int n_workers)
{
    int64_t n_panels = j->w->n_panels, rows = CONV_TASK_ROWS, panels = CONV_TASK_PANELS;
    int64_t wanted = (int64_t)n_workers * CONV_TASKS;
    j->k_block = conv_even(j->w->w.n_in, SGEMM_K, 1);
    while ((size_t)(panels * j->k_block * PANEL_ROWS) * sizeof(float) > CONV_PANELS_BYTES)
        panels--;
    for (;;) {
        j->task_rows = conv_even(j->n_rows, rows, SGEMM_ROWS);
        j->task_panels = conv_even(n_panels, panels, 2);
        j->n_row_tasks = (j->n_rows + j->task_rows - 1) / j->task_rows;
        j->n_tasks = j->n_row_tasks * ((n_panels + j->task_panels - 1) / j->task_panels);
        if (n_workers == 1 || j->n_tasks >= wanted)
            break;
        if (rows > 8 * SGEMM_ROWS && j->n_rows > rows / 2)
            rows /= 2;
        else if (panels > 4)
            panels = panels / 2;
        else if (rows > SGEMM_ROWS && j->n_rows > rows / 2)
            rows /= 2;
        else
            break;
    }
}

void cpu_conv2d(struct backend *be, const struct op_conv2d *p)
{
    struct cpu_backend *cb = cpu_of(be);
    const int64_t *in = p->x->dims, *out = p->out->dims;
    struct conv_job j = {.ops = &cb->ops, .p = p, .w = cpu_weight_of(p->w)};
    j.h = in[1], j.wide = in[2], j.c_in = in[3];
    j.ho = out[1], j.wo = out[2], j.c_out = out[3];
    j.read_h = p->upsample ? j.ho : j.h;
    j.read_w = p->upsample ? j.wo : j.wide;
    const int64_t pads = p->pad_before + p->pad_after - p->kernel;
    assert(p->x->ndim == 4 && p->out->ndim == 4 && in[0] == out[0] && p->stride > 0);
    assert((j.read_h + pads) / p->stride + 1 == j.ho);
    assert((j.read_w + pads) / p->stride + 1 == j.wo);
    assert(!p->upsample || (p->stride == 1 && (j.ho + 1) / 2 == j.h && (j.wo + 1) / 2 == j.wide));
    assert(p->w->n_out == j.c_out && p->w->n_in == p->kernel * p->kernel * j.c_in);
    assert(!quant_format(p->w->type) && p->y_begin >= 0 && p->y_end <= j.ho);
    (void)pads;
    j.y_begin = p->y_begin;
    j.n_y = (p->y_end ? p->y_end : j.ho) - p->y_begin;
    j.n_rows = in[0] * j.n_y * j.wo;
    if (j.n_rows <= 0)
        return;
    if (conv_win_fits(p)) {
        conv_win_run(cb, &j);
        return;
    }
    int n_workers = pool_n(cb->pool);
    conv_cut(&j, n_workers);
    j.scratch_floats = SGEMM_ROWS * SGEMM_STRIDE + j.task_rows * j.task_panels * PANEL_ROWS +
                       j.task_panels * j.k_block * PANEL_ROWS;
    j.scratch = cpu_scratch(cb, (size_t)(n_workers * j.scratch_floats) * sizeof(float));
    pool_run(cb->pool, conv_worker, &j);
}
