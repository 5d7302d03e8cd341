/* Elementwise ops: glu, act, add and concat.  A tensor is cut anywhere, since an element's bits do not depend on
 * its place in a vector (elem_tmpl.h). */
#include <assert.h>
#include <string.h>

#include "kernels/cpu/cpu_backend.h"

struct elem_job {
    const struct cpu_ops *ops;
    float *out;
    const float *x, *y;
    enum act act;
    int64_t cx, cy; /* channels of x and y */
};

static int64_t elem_count(const struct tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->dims[i];
    return n;
}

static void elem_run(struct backend *be, cpu_range_fn *fn, const struct elem_job *job,
                     const struct tensor *out)
{
    struct elem_job j = *job;
    int64_t n = elem_count(out);
    j.ops = &cpu_of(be)->ops;
    j.out = out->data;
    cpu_split(cpu_of(be), n, n, fn, &j);
}

static void glu_range(void *arg, int64_t begin, int64_t end)
{
    const struct elem_job *j = arg;
    j->ops->glu(j->out + begin, j->x + begin, j->y + begin, end - begin, j->act);
}

void cpu_glu(struct backend *be, const struct op_glu *p)
{
    int64_t n = elem_count(p->out);
    assert(n == elem_count(p->gate) && n == elem_count(p->up) && p->out->type == DTYPE_F32);
    assert(p->gate->type == DTYPE_F32 && p->up->type == DTYPE_F32);
    (void)n;
    struct elem_job j = {.x = p->gate->data, .y = p->up->data, .act = p->act};
    elem_run(be, glu_range, &j, p->out);
}

static void act_range(void *arg, int64_t begin, int64_t end)
{
    const struct elem_job *j = arg;
    j->ops->act(j->out + begin, j->x + begin, end - begin, j->act);
}

static void prelu_range(void *arg, int64_t begin, int64_t end)
{
    const struct elem_job *j = arg;
    j->ops->prelu(j->out + begin * j->cx, j->x + begin * j->cx, j->y, end - begin, (int)j->cx);
}

void cpu_act(struct backend *be, const struct op_act *p)
{
    int64_t n = elem_count(p->out);
    assert(n == elem_count(p->x));
    assert(p->out->type == DTYPE_F32 && p->x->type == DTYPE_F32);
    if (p->slope != NULL) {
        int64_t c = p->x->dims[p->x->ndim - 1];
        assert(elem_count(p->slope) == c && p->slope->type == DTYPE_F32);
        struct elem_job rows = {.ops = &cpu_of(be)->ops,
                                .out = p->out->data,
                                .x = p->x->data,
                                .y = p->slope->data,
                                .cx = c};
        cpu_split(cpu_of(be), n / c, n, prelu_range, &rows);
        return;
    }
    struct elem_job j = {.x = p->x->data, .act = p->act};
    elem_run(be, act_range, &j, p->out);
}

static void add_range(void *arg, int64_t begin, int64_t end)
{
    const struct elem_job *j = arg;
    j->ops->add(j->out + begin, j->x + begin, j->y + begin, end - begin);
}

void cpu_add(struct backend *be, const struct op_add *p)
{
    int64_t n = elem_count(p->out);
    assert(n == elem_count(p->a) && n == elem_count(p->b) && p->out->type == DTYPE_F32);
    assert(p->a->type == DTYPE_F32 && p->b->type == DTYPE_F32);
    (void)n;
    struct elem_job j = {.x = p->a->data, .y = p->b->data};
    elem_run(be, add_range, &j, p->out);
}

static void concat_range(void *arg, int64_t begin, int64_t end)
{
    const struct elem_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        float *to = j->out + r * (j->cx + j->cy);
        memcpy(to, j->x + r * j->cx, (size_t)j->cx * sizeof(float));
        memcpy(to + j->cx, j->y + r * j->cy, (size_t)j->cy * sizeof(float));
    }
}

void cpu_concat(struct backend *be, const struct op_concat *p)
{
    int64_t ca = p->a->dims[p->a->ndim - 1], cb = p->b->dims[p->b->ndim - 1];
    int64_t n = elem_count(p->out), rows = n / (ca + cb);
    assert(p->out->dims[p->out->ndim - 1] == ca + cb && p->out->type == DTYPE_F32);
    assert(elem_count(p->a) == rows * ca && elem_count(p->b) == rows * cb);
    struct elem_job j = {.out = p->out->data, .x = p->a->data, .y = p->b->data, .cx = ca, .cy = cb};
    cpu_split(cpu_of(be), rows, n, concat_range, &j);
}
