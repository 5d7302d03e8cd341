/* attn: attention between two whole matrices, every head and query for itself, the keys in chunks at
 * fixed places. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_backend.h"

#define DENSE_CHUNK 256 /* keys */

struct dense_job {
    const struct cpu_ops *ops;
    const struct op_attn *p;
};

static float dense_dot(const float *a, const float *b, int n)
{
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum = fmaf(a[i], b[i], sum);
    return sum;
}

static void dense_query(const struct dense_job *j, const struct attn_item *t, int query, int head)
{
    const struct op_attn *p = j->p;
    int d = p->head_dim, at = head * d, n_k = p->causal ? query + 1 + t->n_k - t->n_q : t->n_k;
    float q[ATTN_MAX_HEAD_DIM], acc[ATTN_MAX_HEAD_DIM] = {0}, score[DENSE_CHUNK];
    float m = -INFINITY, l = 0;
    for (int i = 0; i < d; i++)
        q[i] = t->q[(int64_t)query * t->q_stride + at + i] * p->scale;
    for (int first = 0; first < n_k; first += DENSE_CHUNK) {
        int n = n_k - first < DENSE_CHUNK ? n_k - first : DENSE_CHUNK;
        float top = m;
        for (int i = 0; i < n; i++) {
            score[i] = dense_dot(q, t->k + (int64_t)(first + i) * t->kv_stride + at, d);
            top = score[i] > top ? score[i] : top;
        }
        float keep = m;
        for (int i = 0; i < n; i++)
            score[i] -= top;
        keep -= top;
        j->ops->exp_all(score, score, n);
        j->ops->exp_all(&keep, &keep, 1);
        l *= keep;
        for (int i = 0; i < d; i++)
            acc[i] *= keep;
        for (int k = 0; k < n; k++) {
            const float *v = t->v + (int64_t)(first + k) * t->kv_stride + at;
            l += score[k];
            for (int i = 0; i < d; i++)
                acc[i] = fmaf(score[k], v[i], acc[i]);
        }
        m = top;
    }
    for (int i = 0; i < d; i++)
        t->out[(int64_t)query * t->out_stride + at + i] = acc[i] / l;
}

static void dense_range(void *arg, int64_t begin, int64_t end)
{
    const struct dense_job *j = arg;
    const struct attn_item *t = j->p->items;
    for (int64_t r = begin, first = 0; r < end; r++) {
        while (r - first >= (int64_t)t->n_q * j->p->n_heads)
            first += (int64_t)t++->n_q * j->p->n_heads;
        dense_query(j, t, (int)((r - first) / j->p->n_heads), (int)((r - first) % j->p->n_heads));
    }
}

void cpu_attn(struct backend *be, const struct op_attn *p)
{
    struct dense_job j = {.ops = &cpu_of(be)->ops, .p = p};
    int64_t n = 0, work = 0;
    assert(p->head_dim > 0 && p->head_dim <= ATTN_MAX_HEAD_DIM);
    for (int i = 0; i < p->n_items; i++) {
        assert(p->items[i].n_k > 0 && (!p->causal || p->items[i].n_k >= p->items[i].n_q));
        n += (int64_t)p->items[i].n_q * p->n_heads;
        work += (int64_t)p->items[i].n_q * p->items[i].n_k * p->n_heads * p->head_dim;
    }
    cpu_split(cpu_of(be), n, work, dense_range, &j);
}
