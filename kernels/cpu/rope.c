/* Rotary embedding.  The cosines and sines of a row are computed once for all its heads, and kept:
 * queries and keys of every layer of a step ask for the same ones.  Angles are computed in double,
 * since p * freq in float is off by 1e-3 at position 10^5.
 *
 * The cache never grows: a batch with more rows than it holds goes through it in blocks. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/cpu/cpu_backend.h"

#define ROPE_ROWS   4096               /* rows the cache holds at most */
#define ROPE_FLOATS ((int64_t)1 << 18) /* and floats of cosines and sines */

struct rope_job {
    const struct cpu_ops *ops;
    const struct op_rope *p;
    const struct cpu_rope_cache *cache;
    float *x; /* [rows of the block, n_heads * head_dim] */
    int n_heads;
};

void cpu_rope_init(struct cpu_rope_cache *c)
{
    c->pos = xcalloc(ROPE_ROWS, sizeof(c->pos[0]));
    c->cs = xcalloc(ROPE_FLOATS, sizeof(c->cs[0]));
}

/* The layouts that rope_tmpl.h reads. */
static void rope_angles(void *arg, int64_t begin, int64_t end)
{
    const struct cpu_rope_cache *c = arg;
    int n = c->n_rot;
    for (int64_t r = begin; r < end; r++) {
        float *cs = c->cs + r * 2 * n;
        for (int i = 0; i < n / 2; i++) {
            double angle = (double)c->pos[r] * (double)c->freq[i];
            float cosine = (float)(cos(angle) * (double)c->mscale);
            float sine = (float)(sin(angle) * (double)c->mscale);
            if (c->interleaved) {
                cs[2 * i] = cs[2 * i + 1] = cosine;
                cs[n + 2 * i] = -sine;
                cs[n + 2 * i + 1] = sine;
            } else {
                cs[i] = cosine;
                cs[n + i] = sine;
            }
        }
    }
}

static bool rope_cached(const struct cpu_rope_cache *c, const struct op_rope *p, const int32_t *pos,
                        int rows)
{
    return c->rows >= rows && c->n_rot == p->n_rot && c->interleaved == p->interleaved &&
           c->mscale == p->mscale &&
           memcmp(c->freq, p->freq, sizeof(float) * (size_t)(p->n_rot / 2)) == 0 &&
           memcmp(c->pos, pos, sizeof(pos[0]) * (size_t)rows) == 0;
}

static void rope_fill(struct cpu_backend *cb, const struct op_rope *p, const int32_t *pos, int rows)
{
    struct cpu_rope_cache *c = &cb->rope;
    if (rope_cached(c, p, pos, rows))
        return;
    c->rows = rows;
    c->n_rot = p->n_rot;
    c->mscale = p->mscale;
    c->interleaved = p->interleaved;
    memcpy(c->freq, p->freq, sizeof(float) * (size_t)(p->n_rot / 2));
    memcpy(c->pos, pos, sizeof(pos[0]) * (size_t)rows);
    /* a cosine and a sine take about as long as 16 floats touched */
    cpu_split(cb, rows, (int64_t)rows * p->n_rot * 16, rope_angles, c);
}

static void rope_rows(void *arg, int64_t begin, int64_t end)
{
    const struct rope_job *j = arg;
    const struct op_rope *p = j->p;
    int64_t width = (int64_t)j->n_heads * p->head_dim;
    for (int64_t r = begin; r < end; r++) {
        const float *cs = j->cache->cs + r * 2 * p->n_rot;
        if (p->interleaved)
            j->ops->rope_pair_row(j->x + r * width, cs, j->n_heads, p->head_dim, p->n_rot);
        else
            j->ops->rope_half_row(j->x + r * width, cs, j->n_heads, p->head_dim, p->n_rot);
    }
}

void cpu_rope(struct backend *be, const struct op_rope *p)
{
    struct cpu_backend *cb = cpu_of(be);
    int64_t rows = p->x->dims[0], width = p->x->dims[1];
    assert(p->x->ndim == 2 && width % p->head_dim == 0 && p->head_dim <= CPU_MAX_HEAD_DIM);
    assert(p->n_rot > 0 && p->n_rot % 2 == 0 && p->n_rot <= p->head_dim);
    int64_t block = ROPE_FLOATS / (2 * p->n_rot);
    if (block > ROPE_ROWS)
        block = ROPE_ROWS;
    for (int64_t r = 0; r < rows; r += block) {
        int n = (int)(rows - r < block ? rows - r : block);
        rope_fill(cb, p, p->pos + r, n);
        struct rope_job j = {
            .ops = &cb->ops,
            .p = p,
            .cache = &cb->rope,
            .x = (float *)p->x->data + r * width,
            .n_heads = (int)(width / p->head_dim),
        };
        cpu_split(cb, n, n * width, rope_rows, &j);
    }
}
