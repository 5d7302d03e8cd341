/* attn: attention between two whole matrices (image and text encoders).  A task is some panels of queries
 * of one head of one item; it goes over the keys in chunks of DENSE_CHUNK at fixed places, with a running
 * softmax (Milakov & Gimelshein 2018).  The workers take the tasks one after the other.
 *
 * Scratch of a worker: what struct attn_dense points to. */
#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu/attn_dense.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/sgemm.h"

#define DENSE_PANELS 8    /* of queries in a task, at most */
#define DENSE_FLOATS 2048 /* head_dim times panels, at most (or one pair) */
#define DENSE_TASKS  3    /* wanted for every worker */

struct dense_job {
    const struct cpu_ops *ops;
    const struct op_attn *p;
    int panels; /* of a task */
    int64_t n_tasks;
    float *scratch;
    int64_t scratch_floats; /* of a worker */
    _Atomic int64_t next;
};

static int64_t dense_blocks(const struct attn_item *t, int panels)
{
    return (t->n_q + panels * SGEMM_PANEL - 1) / (panels * SGEMM_PANEL);
}

static int64_t dense_count(const struct op_attn *p, int panels)
{
    int64_t n = 0;
    for (int i = 0; i < p->n_items; i++)
        n += dense_blocks(&p->items[i], panels) * p->n_heads;
    return n;
}

/* The n queries from `first` on, scaled, as panels; lanes without a query are 0. */
static void dense_load(float *to, const struct attn_item *t, const struct op_attn *p, int head,
                       int first, int n, int n_panels)
{
    int dim = p->head_dim;
    for (int i = 0; i < n_panels * SGEMM_PANEL; i++) {
        float *lane = to + i / SGEMM_PANEL * dim * SGEMM_PANEL + i % SGEMM_PANEL;
        const float *q =
            i < n ? (const float *)t->q + (int64_t)(first + i) * t->q_stride + head * dim : NULL;
        for (int d = 0; d < dim; d++)
            lane[d * SGEMM_PANEL] = q ? q[d] * p->scale : 0.0f;
    }
}

static void dense_store(const float *acc, const float *l, const struct attn_item *t, int dim,
                        int head, int first, int n)
{
    for (int i = 0; i < n; i++) {
        const float *lane = acc + i / SGEMM_PANEL * dim * SGEMM_PANEL + i % SGEMM_PANEL;
        float *out = (float *)t->out + (int64_t)(first + i) * t->out_stride + head * dim;
        float scale = 1.0f / l[i];
        for (int d = 0; d < dim; d++)
            out[d] = lane[d * SGEMM_PANEL] * scale;
    }
}

static void dense_task(const struct dense_job *j, float *scratch, const struct attn_item *t,
                       int head, int first)
{
    const struct op_attn *p = j->p;
    int dim = p->head_dim, most = j->panels * SGEMM_PANEL, limit[DENSE_PANELS * SGEMM_PANEL];
    int n = t->n_q - first < most ? t->n_q - first : most;
    int n_panels = (n + SGEMM_PANEL - 1) / SGEMM_PANEL, wide = n_panels * SGEMM_PANEL;
    int n_k = p->causal ? first + n + t->n_k - t->n_q : t->n_k;
    float *q = scratch, *acc = q + most * dim, *score = acc + most * dim;
    struct attn_dense c = {
        .q = q,
        .score = score,
        .acc = acc,
        .kv_stride = t->kv_stride,
        .n_panels = n_panels,
        .head_dim = dim,
    };
    c.packed = score + (int64_t)most * DENSE_CHUNK;
    c.m = c.packed + SGEMM_ROWS * SGEMM_STRIDE;
    c.l = c.m + most;
    dense_load(q, t, p, head, first, n, n_panels);
    memset(acc, 0, (size_t)(wide * dim) * sizeof(float));
    memset(c.l, 0, (size_t)wide * sizeof(float));
    for (int i = 0; i < wide; i++)
        c.m[i] = -INFINITY;
    for (int k = 0; k < n_k; k += DENSE_CHUNK) {
        c.n_k = n_k - k < DENSE_CHUNK ? n_k - k : DENSE_CHUNK;
        c.k = (const float *)t->k + (int64_t)k * t->kv_stride + head * dim;
        c.v = (const float *)t->v + (int64_t)k * t->kv_stride + head * dim;
        for (int i = 0; p->causal && i < wide; i++)
            limit[i] = first + i + 1 + t->n_k - t->n_q - k;
        c.limit = p->causal ? limit : NULL;
        j->ops->attn_dense_chunk(&c);
    }
    dense_store(acc, c.l, t, dim, head, first, n);
}

static void dense_worker(void *arg, int worker, int n_workers)
{
    struct dense_job *j = arg;
    (void)n_workers;
    float *scratch = j->scratch + worker * j->scratch_floats;
    for (int64_t i; (i = atomic_fetch_add(&j->next, 1)) < j->n_tasks;) {
        const struct attn_item *t = j->p->items;
        for (int64_t n; i >= (n = dense_blocks(t, j->panels) * j->p->n_heads); t++)
            i -= n;
        int64_t blocks = dense_blocks(t, j->panels);
        dense_task(j, scratch, t, (int)(i / blocks), (int)(i % blocks) * j->panels * SGEMM_PANEL);
    }
}

void cpu_attn(struct backend *be, const struct op_attn *p)
{
    struct cpu_backend *cb = cpu_of(be);
    struct dense_job j = {.ops = &cb->ops, .p = p, .panels = DENSE_PANELS};
    int n_workers = pool_n(cb->pool);
    assert(p->head_dim > 0 && p->head_dim <= ATTN_MAX_HEAD_DIM);
    for (int i = 0; i < p->n_items; i++)
        assert(p->items[i].n_k > 0 && (!p->causal || p->items[i].n_k >= p->items[i].n_q));
    while (j.panels > 2 &&
           (j.panels * p->head_dim > DENSE_FLOATS ||
            (n_workers > 1 && dense_count(p, j.panels) < (int64_t)n_workers * DENSE_TASKS)))
        j.panels /= 2;
    j.n_tasks = dense_count(p, j.panels);
    if (j.n_tasks == 0)
        return;
    int64_t lanes = j.panels * SGEMM_PANEL;
    j.scratch_floats = lanes * (2 * p->head_dim + DENSE_CHUNK + 2) + SGEMM_ROWS * SGEMM_STRIDE;
    j.scratch_floats = (j.scratch_floats + 15) / 16 * 16;
    j.scratch = cpu_scratch(cb, (size_t)(n_workers * j.scratch_floats) * sizeof(float));
    pool_run(cb->pool, dense_worker, &j);
}
