/* A table of ops in front of the backend's own that takes the time of each call.  Linear calls are told
 * apart by their shape: that names the place in the model.  A device that only queues ops is waited for
 * after each one, so its times hold a launch as well. */
#include "engine/bench_ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/quant.h"

#define BENCH_OPS_MAX 64

struct op_line {
    char name[64];
    int64_t calls;
    double seconds, bytes, ops;
    bool int8; /* which arithmetic limit counts */
};

static struct {
    const struct backend_ops *real;
    struct op_line lines[BENCH_OPS_MAX];
    int n;
    double inner; /* seconds of ops that the one under way has called, which have their own lines */
} timed;

static struct op_line *line_of(const char *name)
{
    for (int i = 0; i < timed.n; i++)
        if (!strcmp(timed.lines[i].name, name))
            return &timed.lines[i];
    struct op_line *line = &timed.lines[timed.n < BENCH_OPS_MAX - 1 ? timed.n++ : timed.n];
    snprintf(line->name, sizeof(line->name), "%s", name);
    return line;
}

static double elements(const struct tensor *t)
{
    double n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= (double)t->dims[i];
    return n;
}

static struct op_line *count_embed(const struct op_embed *p)
{
    struct op_line *line = line_of("embed");
    line->bytes += 2 * 4 * elements(p->out);
    return line;
}

static struct op_line *count_linear(const struct op_linear *p)
{
    int64_t n_out = 0;
    double bytes = 4 * elements(p->x) * (p->pre.kind == LINEAR_GLU ? 2 : 1);
    int i = 0;
    do { /* there is at least one */
        n_out += p->w[i]->n_out;
        bytes += (double)p->w[i]->bytes + 4 * elements(p->out[i]);
    } while (++i < LINEAR_MAX && p->w[i]);
    char name[64];
    enum dtype type = p->w[0]->type;
    const bool block = dtype_block(type) > 1;
    snprintf(name, sizeof(name), "linear %s %lld > %lld%s", dtype_name(type),
             (long long)p->w[0]->n_in, (long long)n_out, block && p->precise ? " precise" : "");
    struct op_line *line = line_of(name);
    line->bytes += bytes;
    /* what more bits of x in its largest blocks cost depends on x: not counted, so it is seen in the fraction */
    line->ops += 2.0 * elements(p->x) * (double)n_out;
    line->int8 = block;
    return line;
}

static struct op_line *count_rmsnorm(const struct op_rmsnorm *p)
{
    struct op_line *line = line_of("rmsnorm");
    line->bytes += 2 * 4 * elements(p->x);
    line->ops += 4 * elements(p->x);
    return line;
}

static struct op_line *count_rope(const struct op_rope *p)
{
    struct op_line *line = line_of("rope");
    line->bytes += 2 * 4 * elements(p->x);
    line->ops += 3 * elements(p->x);
    return line;
}

static struct op_line *count_kv_store(const struct op_kv_store *p)
{
    struct op_line *line = line_of("kv_store");
    line->bytes += (4 + 2) * 2 * elements(p->k);
    return line;
}

static struct op_line *count_rope_store(const struct op_rope_store *p)
{
    struct op_line *line = line_of("rope_store");
    line->bytes += 2 * 4 * (elements(p->q) + elements(p->k)) + (4 + 2) * 2 * elements(p->k);
    line->ops += 3 * (elements(p->q) + elements(p->k));
    return line;
}

/* Rows of one sequence that come together need its pages once. */
static struct op_line *count_attn_paged(const struct op_attn_paged *p)
{
    struct op_line *line = line_of("attn_paged");
    double one = 2.0 * p->kv.n_kv_heads * p->kv.head_dim * (double)dtype_block_bytes(p->kv.type) /
                 (double)dtype_block(p->kv.type);
    for (int64_t r = 0; r < p->q->dims[0]; r++) {
        int n = p->rows[r].pos + 1;
        n = p->window > 0 && n > p->window ? p->window : n;
        bool last = r + 1 == p->q->dims[0] || p->rows[r + 1].pages != p->rows[r].pages;
        line->bytes += last ? n * one : 0;
        line->ops += 4.0 * n * p->n_heads * p->kv.head_dim;
    }
    line->bytes += 2 * 4 * elements(p->q);
    return line;
}

static struct op_line *count_glu(const struct op_glu *p)
{
    struct op_line *line = line_of("glu");
    line->bytes += 3 * 4 * elements(p->out);
    line->ops += 20 * elements(p->out);
    return line;
}

static struct op_line *count_add(const struct op_add *p)
{
    struct op_line *line = line_of("add");
    line->bytes += 3 * 4 * elements(p->out);
    line->ops += elements(p->out);
    return line;
}

static struct op_line *count_act(const struct op_act *p)
{
    struct op_line *line = line_of("act");
    line->bytes += 2 * 4 * elements(p->out);
    line->ops += 20 * elements(p->out);
    return line;
}

static struct op_line *count_concat(const struct op_concat *p)
{
    struct op_line *line = line_of("concat");
    line->bytes += 2 * 4 * elements(p->out);
    return line;
}

static struct op_line *count_layernorm(const struct op_layernorm *p)
{
    struct op_line *line = line_of("layernorm");
    line->bytes += 2 * 4 * elements(p->x);
    line->ops += 7 * elements(p->x);
    return line;
}

static struct op_line *count_cosine(const struct op_cosine *p)
{
    struct op_line *line = line_of("cosine");
    line->bytes += 4 * (elements(p->x) + elements(p->w) + elements(p->out));
    line->ops += 4.0 * elements(p->x) * (double)p->w->dims[0];
    return line;
}

static struct op_line *count_groupnorm(const struct op_groupnorm *p)
{
    struct op_line *line = line_of(p->act == ACT_NONE ? "groupnorm" : "groupnorm act");
    line->bytes += 3 * 4 * elements(p->x);
    line->ops += (p->act == ACT_NONE ? 5 : 25) * elements(p->x);
    return line;
}

static struct op_line *count_conv2d(const struct op_conv2d *p)
{
    char name[64];
    double rows = elements(p->out) / (double)p->w->n_out;
    if (p->y_end > 0)
        rows *= (double)(p->y_end - p->y_begin) / (double)p->out->dims[1];
    snprintf(name, sizeof(name), "conv2d %s %dx%d%s%s %lld > %lld", dtype_name(p->w->type),
             p->kernel, p->kernel, p->stride > 1 ? " strided" : "", p->upsample ? " upsample" : "",
             (long long)p->x->dims[3], (long long)p->w->n_out);
    struct op_line *line = line_of(name);
    line->bytes += (double)p->w->bytes + 4 * elements(p->x) + 4 * rows * (double)p->w->n_out;
    line->ops += 2.0 * rows * (double)p->w->n_out * (double)p->w->n_in;
    return line;
}

static struct op_line *count_lowrank(const struct op_lowrank *p)
{
    struct op_line *line = line_of("lowrank");
    for (int64_t r = 0; r < p->out->dims[0]; r++) {
        const struct lowrank_image *im = &p->images[(p->first + r) / p->image_rows];
        for (int i = 0; i < im->n; i++) {
            const struct weight *down = im->terms[i].down, *up = im->terms[i].up;
            line->ops += 2.0 * (double)down->n_out * (double)(down->n_in + up->n_out);
        }
        line->bytes += im->n > 0 ? 12.0 * (double)p->out->dims[1] : 0;
    }
    return line;
}

static struct op_line *count_attn(const struct op_attn *p)
{
    char name[64];
    snprintf(name, sizeof(name), "attn %d heads of %d", p->n_heads, p->head_dim);
    struct op_line *line = line_of(name);
    double dim = (double)p->n_heads * p->head_dim;
    for (int i = 0; i < p->n_items; i++) {
        const struct attn_item *t = &p->items[i];
        line->bytes += 8 * dim * ((double)t->n_q + t->n_k);
        line->ops += 4.0 * dim * t->n_q * t->n_k;
    }
    return line;
}

/* clang-format off */
#define X(op) \
    static void timed_##op(struct backend *be, const struct op_##op *p) \
    { \
        const double outer = timed.inner; \
        timed.inner = 0; \
        int64_t start_ns = clock_ns(); \
        timed.real->op(be, p); \
        if (!be->host_memory) \
            (void)be->sync(be, NULL); /* a failure is told again by the step's own */ \
        double seconds = (double)(clock_ns() - start_ns) * 1e-9; \
        struct op_line *line = count_##op(p); \
        line->seconds += seconds - timed.inner; \
        line->calls++; \
        timed.inner = outer + seconds; \
    }
BACKEND_OPS(X)
#undef X

static const struct backend_ops timed_table = {
#define X(op) .op = timed_##op,
    BACKEND_OPS(X)
#undef X
};
/* clang-format on */

void bench_ops_begin(struct backend *be)
{
    memset(&timed, 0, sizeof(timed));
    timed.real = be->ops;
    be->ops = &timed_table;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const struct op_line *)a)->seconds, y = ((const struct op_line *)b)->seconds;
    return (x < y) - (x > y);
}

void bench_ops_end(struct backend *be, const struct backend_limits *l, int passes, struct buf *out)
{
    double all = 0;
    be->ops = timed.real;
    for (int i = 0; i < timed.n; i++)
        all += timed.lines[i].seconds;
    qsort(timed.lines, (size_t)timed.n, sizeof(timed.lines[0]), by_time);
    buf_printf(out, "%-40s %6s %9s %6s %9s %9s %6s %6s\n", "op", "calls", "us", "time", "MB", "Mop",
               "read", "compute");
    for (int i = 0; i < timed.n; i++) {
        const struct op_line *line = &timed.lines[i];
        double peak = line->int8 ? l->int8_ops_per_s : l->f32_ops_per_s;
        buf_printf(out, "%-40s %6.0f %9.1f %5.1f%% %9.2f %9.1f %5.0f%% %6.0f%%\n", line->name,
                   (double)line->calls / passes, line->seconds / passes * 1e6,
                   100 * line->seconds / all, line->bytes / passes / 1e6, line->ops / passes / 1e6,
                   100 * line->bytes / line->seconds / l->read_bytes_per_s,
                   100 * line->ops / line->seconds / peak);
    }
    buf_printf(out, "%-40s %6s %9.1f\n", "all", "", all / passes * 1e6);
}
