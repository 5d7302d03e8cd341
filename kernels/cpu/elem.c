/* Elementwise ops: glu and add.  A tensor is cut anywhere, since an element's bits do not depend on
 * its place in a vector (elem_tmpl.h). */
#include <assert.h>

#include "kernels/cpu/cpu_backend.h"

typedef void elem_fn(float *out, const float *x, const float *y, int64_t n);

struct elem_job {
    elem_fn *fn;
    float *out;
    const float *x, *y;
};

static int64_t elem_count(const struct tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->dims[i];
    return n;
}

static void elem_range(void *arg, int64_t begin, int64_t end)
{
    const struct elem_job *j = arg;
    j->fn(j->out + begin, j->x + begin, j->y + begin, end - begin);
}

static void elem_run(struct backend *be, elem_fn *fn, struct tensor *out, const struct tensor *x,
                     const struct tensor *y)
{
    int64_t n = elem_count(out);
    assert(n == elem_count(x) && n == elem_count(y));
    assert(out->type == DTYPE_F32 && x->type == DTYPE_F32 && y->type == DTYPE_F32);
    struct elem_job j = {.fn = fn, .out = out->data, .x = x->data, .y = y->data};
    cpu_split(cpu_of(be), n, n, elem_range, &j);
}

void cpu_glu(struct backend *be, const struct op_glu *p)
{
    const struct cpu_ops *ops = &cpu_of(be)->ops;
    elem_run(be, p->act == ACT_SILU ? ops->glu_silu : ops->glu_gelu, p->out, p->gate, p->up);
}

void cpu_add(struct backend *be, const struct op_add *p)
{
    elem_run(be, cpu_of(be)->ops.add, p->out, p->a, p->b);
}
