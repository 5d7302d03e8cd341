/* linear and embed: who multiplies what.
 *
 * pre(x) is made where x is rounded, row by row; before all else where F32, F16 or BF16 weights read it as it is, and
 * where the workers share an activation's work better by elements than by rows.
 *
 * Block weights: the rows of x are rounded to 8 bits once a call, then every worker takes a
 * contiguous range of the panels of all matrices of the call (the same range in every call, so its
 * weights stay in its caches and on its NUMA node).  Few rows: packed panels are multiplied as they
 * are.  Many rows: a group of panels that fits the L2 cache is expanded to one byte a code, and all
 * rows of x go by.
 *
 * With so many rows that reading the weights once a worker costs little, a worker takes rows instead and
 * all panels: what it reads it wrote itself in the op before, and nothing is handed from one core's cache
 * to another's, which costs more than multiplying where the cores share none.
 *
 * Precise calls round x to 16 bits where 8 would lose most, which are two parts of 8 bits: in those blocks
 * twice the integer products for the same reading, unpacking and scaling.
 *
 * Scratch:   [ pre(x), where it is made before all else ]
 *            [ rounded rows of x: n_rows * parts * n_in / 32 ]
 *            [ expanded panels of worker 0 ] [ of worker 1 ] ...
 *            [ a row of pre(x) of worker 0 ] [ of worker 1 ] ...
 * For few rows there is one set of rounded rows a worker: rounding them n times is cheaper than
 * meeting the other workers once more. */
#include <assert.h>
#include <string.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/weight.h"

#define FEW_ROWS 4  /* rounded by every worker for itself */
#define ROW_UNIT 4  /* by rows: a worker's are a multiple of it */
#define ROW_MANY 32 /* from so many each on */
#define BY_ROWS(n_workers) \
    (2 * (int64_t)(n_workers) * (n_workers)) /* and at least so many in all */
#define L2_BYTES ((size_t)192 << 10)         /* of a worker's L2 for a group of panels */

struct linear_job {
    struct cpu_backend *cb;
    const struct op_linear *p;
    int64_t n_rows, n_in;
    int64_t n_panels; /* of all matrices */
    bool quant;       /* some matrix has block weights */
    bool few, by_rows;
    int parts;          /* of x: 2 if precise or short */
    float limit;        /* of what has a second part: LINEAR_PRECISE, 0: all */
    struct linear_x *x; /* [n_rows, parts, n_in / 32]; few: that for every worker */
    char *expanded;     /* expanded_bytes a worker */
    size_t expanded_bytes;
    char *row; /* row_bytes a worker */
    size_t row_bytes;
};

/* What one worker multiplies. */
struct linear_share {
    int64_t row0, n_rows;
    const struct linear_x *x; /* [n_rows, parts, n_in / 32] */
    char *expanded;
};

static size_t expanded_panel_bytes(const struct weight *w)
{
    struct panel_geometry geo = panel_geometry(*quant_format(w->type));
    return (size_t)(w->n_in / 32) * (size_t)geo.expanded_bytes;
}

/* Panels that are multiplied together: a multiple of what a tile may have side by side. */
static int64_t group_panels(size_t panel_bytes)
{
    int64_t n = (int64_t)(L2_BYTES / panel_bytes);
    return n < 3 ? 3 : n - n % 3;
}

/* t's panels lie packed at t->panels and, for many rows, expanded at `expanded`. */
static void linear_multiply(const struct cpu_ops *ops, const struct linear_tile *t,
                            const char *expanded, size_t packed_bytes)
{
    struct linear_tile packed = *t;
    int64_t done = 0;
    packed.panel_bytes = packed_bytes;
    if (expanded) {
        struct linear_tile whole = *t;
        whole.panels = expanded;
        done = ops->linear_gemm(&whole);
        if (done == t->n_rows)
            return;
    }
    packed.n_rows -= done;
    packed.x += done * (t->n_in / 32) * t->parts;
    packed.out += done * t->out_stride;
    packed.add = t->add ? t->add + done * t->out_stride : NULL;
    ops->linear_dot(&packed);
}

/* Panels [begin, end) of matrix i. */
static void linear_panels(const struct linear_job *j, int i, int64_t begin, int64_t end,
                          const struct linear_share *share)
{
    const struct op_linear *p = j->p;
    const struct cpu_weight *w = cpu_weight_of(p->w[i]);
    const struct cpu_ops *ops = &j->cb->ops;
    bool quant = quant_format(w->w.type) != NULL;
    bool expand = quant && share->n_rows >= ops->linear_expand_rows();
    size_t panel_bytes = expand ? expanded_panel_bytes(&w->w) : w->panel_bytes;
    bool whole = quant && !expand; /* every panel is needed just once */
    int64_t group = whole ? end - begin : group_panels(panel_bytes);
    for (int64_t first = begin, n; first < end; first += n) {
        n = end - first < group ? end - first : group;
        int64_t o = first * PANEL_ROWS, at = share->row0 * w->w.n_out + o;
        int64_t n_next = end - first - n < group ? end - first - n : group;
        const char *panels = w->data + (size_t)first * w->panel_bytes;
        struct linear_tile t = {
            .type = w->w.type,
            .n_in = j->n_in,
            .panels = panels,
            .panel_bytes = panel_bytes,
            .n_panels = n,
            .next = panels + (size_t)n * w->panel_bytes,
            .next_bytes = (size_t)n_next * w->panel_bytes,
            .n_rows = share->n_rows,
            .x = share->x,
            .parts = j->parts,
            .x_plain = (const float *)p->x->data + share->row0 * j->n_in,
            .out = (float *)p->out[i]->data + at,
            .add = i == 0 && p->add ? (const float *)p->add->data + at : NULL,
            .bias = p->bias[i] ? (const float *)p->bias[i]->data + o : NULL,
            .out_stride = w->w.n_out,
            .n_out = w->w.n_out - o < n * PANEL_ROWS ? w->w.n_out - o : n * PANEL_ROWS,
        };
        if (!quant) {
            ops->linear_plain(&t);
            continue;
        }
        for (int64_t k = 0; expand && k < n; k++)
            ops->linear_expand(share->expanded + (size_t)k * panel_bytes, w->w.type,
                               panels + (size_t)k * w->panel_bytes, j->n_in);
        linear_multiply(ops, &t, expand ? share->expanded : NULL, w->panel_bytes);
    }
}

static struct linear_x *linear_x_of(const struct linear_job *j, int64_t row)
{
    return j->x + row * j->parts * (j->n_in / 32);
}

/* Row r of pre(x) to `to` [n_in]. */
static void linear_make(const struct linear_job *j, int64_t r, float *to)
{
    const struct cpu_ops *ops = &j->cb->ops;
    const struct linear_pre *pre = &j->p->pre;
    const float *x = (const float *)j->p->x->data + r * j->n_in;
    if (pre->kind == LINEAR_RMSNORM)
        ops->rmsnorm_row(to, x, pre->w->data, (int)j->n_in, pre->eps);
    else if (pre->kind == LINEAR_LAYERNORM)
        ops->layernorm_row(to, x, pre->w->data, pre->bias ? pre->bias->data : NULL, (int)j->n_in,
                           pre->eps);
    else
        ops->glu(to, x, (const float *)pre->up->data + r * j->n_in, j->n_in, pre->act);
}

/* Rows [begin, end) of x to `to`. */
static void linear_round(const struct linear_job *j, int worker, struct linear_x *to, int64_t begin,
                         int64_t end)
{
    const struct cpu_ops *ops = &j->cb->ops;
    if (j->p->pre.kind == LINEAR_AS_IS) {
        ops->linear_quant(to, (const float *)j->p->x->data + begin * j->n_in, end - begin, j->n_in,
                          j->parts, j->limit);
        return;
    }
    float *row = (float *)(void *)(j->row + (size_t)worker * j->row_bytes);
    for (int64_t r = begin; r < end; r++, to += j->parts * (j->n_in / 32)) {
        linear_make(j, r, row);
        ops->linear_quant(to, row, 1, j->n_in, j->parts, j->limit);
    }
}

static void linear_quant_slice(void *arg, int worker, int n_workers)
{
    const struct linear_job *j = arg;
    int64_t begin = j->n_rows * worker / n_workers, end = j->n_rows * (worker + 1) / n_workers;
    linear_round(j, worker, linear_x_of(j, begin), begin, end);
}

/* By rows: the first of a worker's.  Few in even shares; many in whole tiles. */
static int64_t linear_cut(int64_t n_rows, int worker, int n_workers)
{
    const int64_t unit = n_rows < ROW_MANY * n_workers ? 1 : ROW_UNIT;
    int64_t units = (n_rows + unit - 1) / unit, row = units * worker / n_workers * unit;
    return row < n_rows ? row : n_rows;
}

static void linear_slice(void *arg, int worker, int n_workers)
{
    const struct linear_job *j = arg;
    int64_t begin = j->n_panels * worker / n_workers, end = j->n_panels * (worker + 1) / n_workers;
    struct linear_share share = {.n_rows = j->n_rows, .x = j->x};
    if (j->by_rows) {
        begin = 0;
        end = j->n_panels;
        share.row0 = linear_cut(j->n_rows, worker, n_workers);
        share.n_rows = linear_cut(j->n_rows, worker + 1, n_workers) - share.row0;
        share.x = linear_x_of(j, share.row0);
        linear_round(j, worker, linear_x_of(j, share.row0), share.row0, share.row0 + share.n_rows);
    } else if (j->quant && j->few && begin < end) {
        share.x = linear_x_of(j, worker * j->n_rows);
        linear_round(j, worker, linear_x_of(j, worker * j->n_rows), 0, j->n_rows);
    }
    if (begin == end || share.n_rows == 0)
        return;
    share.expanded = j->expanded ? j->expanded + (size_t)worker * j->expanded_bytes : NULL;
    int64_t first = 0; /* panel of matrix i, counted over all */
    for (int i = 0; i < LINEAR_MAX && j->p->w[i]; i++) {
        int64_t n = cpu_weight_of(j->p->w[i])->n_panels;
        int64_t from = begin > first ? begin - first : 0, to = end - first < n ? end - first : n;
        if (from < to)
            linear_panels(j, i, from, to, &share);
        first += n;
    }
}

/* Is pre(x) made before all else? */
static bool linear_apart(const struct op_linear *p, int n_workers)
{
    const int64_t rows = p->x->dims[0], work = rows * p->x->dims[1];
    if (p->pre.kind == LINEAR_AS_IS)
        return false;
    for (int i = 0; i < LINEAR_MAX && p->w[i]; i++)
        if (!quant_format(p->w[i]->type))
            return true;
    return p->pre.kind == LINEAR_GLU && n_workers > 1 && work >= CPU_SPLIT_WORK &&
           (rows <= FEW_ROWS || rows < 2 * (int64_t)n_workers);
}

static void linear_make_all(struct backend *be, const struct op_linear *p, struct tensor *out)
{
    const struct linear_pre *pre = &p->pre;
    if (pre->kind == LINEAR_RMSNORM)
        OP(be, rmsnorm, .out = out, .x = p->x, .w = pre->w, .eps = pre->eps);
    else if (pre->kind == LINEAR_LAYERNORM)
        OP(be, layernorm, .out = out, .x = p->x, .w = pre->w, .bias = pre->bias, .eps = pre->eps);
    else
        OP(be, glu, .out = out, .gate = p->x, .up = pre->up, .act = pre->act);
}

static size_t linear_aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* What the product takes of the scratch, behind `before` bytes; returns where those are. */
static char *linear_memory(struct linear_job *j, size_t before)
{
    const struct cpu_ops *ops = &j->cb->ops;
    const size_t n = (size_t)pool_n(j->cb->pool);
    size_t x_bytes = (size_t)(j->n_rows * (j->n_in / 32) * j->parts) * sizeof(struct linear_x);
    x_bytes *= j->few ? n : 1;
    if (!j->quant)
        x_bytes = j->expanded_bytes = 0;
    if (j->n_rows < ops->linear_expand_rows())
        j->expanded_bytes = 0;
    j->expanded_bytes = linear_aligned(j->expanded_bytes);
    if (j->p->pre.kind != LINEAR_AS_IS && before == 0)
        j->row_bytes = linear_aligned((size_t)j->n_in * sizeof(float));
    char *at = cpu_scratch(j->cb, before + x_bytes + n * (j->expanded_bytes + j->row_bytes));
    j->x = (struct linear_x *)(void *)(at + before);
    j->expanded = at + before + x_bytes;
    j->row = j->expanded + n * j->expanded_bytes;
    return at;
}

void cpu_linear(struct backend *be, const struct op_linear *p)
{
    struct cpu_backend *cb = cpu_of(be);
    const int n_workers = pool_n(cb->pool);
    struct linear_job j = {.cb = cb, .p = p, .n_rows = p->x->dims[0], .n_in = p->x->dims[1]};
    j.limit = j.n_in <= LINEAR_SHORT ? 0 : LINEAR_PRECISE;
    j.parts = p->precise || j.limit == 0 ? 2 : 1;
    j.few = j.n_rows <= FEW_ROWS;
    for (int i = 0; i < LINEAR_MAX && p->w[i]; i++) {
        const struct weight *w = p->w[i];
        assert(w->n_in == j.n_in && p->x->type == DTYPE_F32 && p->out[i]->type == DTYPE_F32);
        assert(p->out[i]->dims[0] == j.n_rows && p->out[i]->dims[1] == w->n_out);
        j.n_panels += cpu_weight_of(w)->n_panels;
        if (quant_format(w->type)) {
            j.quant = true;
            size_t one = expanded_panel_bytes(w), all = one * (size_t)group_panels(one);
            j.expanded_bytes = all > j.expanded_bytes ? all : j.expanded_bytes;
        }
    }
    if (j.n_rows == 0)
        return;
    j.by_rows = j.quant && n_workers > 1 && j.n_rows >= BY_ROWS(n_workers);
    const bool apart = linear_apart(p, n_workers);
    const size_t made_bytes = apart ? (size_t)(j.n_rows * j.n_in) * sizeof(float) : 0;
    struct tensor made = {.type = DTYPE_F32, .ndim = 2, .dims = {j.n_rows, j.n_in}};
    struct op_linear over = *p; /* what was made */
    made.data = linear_memory(&j, linear_aligned(made_bytes));
    if (apart) {
        linear_make_all(be, p, &made);
        over.x = &made;
        over.pre.kind = LINEAR_AS_IS;
        j.p = &over;
    }
    if (j.quant && !j.few && !j.by_rows)
        pool_run(cb->pool, linear_quant_slice, &j);
    pool_run(cb->pool, linear_slice, &j);
}

struct embed_job {
    struct backend *be;
    const struct op_embed *p;
};

static void embed_range(void *arg, int64_t begin, int64_t end)
{
    const struct embed_job *j = arg;
    const int64_t dim = j->p->w->n_in;
    for (int64_t r = begin; r < end; r++) {
        float *to = (float *)j->p->out->data + r * dim;
        if (j->p->own && j->p->own[r])
            memcpy(to, j->p->own[r], (size_t)dim * sizeof(float));
        else
            cpu_weight_row(j->be, j->p->w, j->p->ids[r], to);
    }
}

void cpu_embed(struct backend *be, const struct op_embed *p)
{
    int64_t n_rows = p->out->dims[0];
    assert(p->out->dims[1] == p->w->n_in && p->out->type == DTYPE_F32);
    struct embed_job j = {.be = be, .p = p};
    cpu_split(cpu_of(be), n_rows, n_rows * p->w->n_in, embed_range, &j);
}
