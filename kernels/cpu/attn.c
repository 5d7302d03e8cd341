/* Attention over KV pages, and the storing of keys and values into them.
 *
 * The layout of a page is in attn.h.  What is stored of a token depends on that token alone, so
 * sequences may share pages.
 *
 * A task is a run of query rows of one sequence (they share pages) times the query heads of one kv
 * head: what a page's keys and values are loaded for.  The tokens are visited in chunks of
 * ATTN_CHUNK at fixed places (0, 256, 512 ...).  Each chunk gives a partial softmax (m, l, acc) and
 * the partials are merged in ascending order, so a row's bits do not depend on how rows were put
 * together, nor on who computed which chunk:
 *     many tasks      each worker takes whole tasks
 *     fewer tasks     (a long chat alone) workers take single chunks, whose partials meet in shared
 *                     memory; bounded, so a very long context goes in rounds. */
#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu/attn.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/linear.h"
#include "kernels/quant.h"

#define ATTN_RANGES      16 /* of tasks: workers begin in different ones */
#define ATTN_QUERIES     32 /* queries of a task at most: rows * heads */
#define ATTN_PAGES_CHUNK (ATTN_CHUNK / KV_PAGE_TOKENS)
#define ATTN_SHARED      ((size_t)1 << 20) /* bytes for partials of split tasks */
#define ATTN_SPLIT_FLOPS 400000            /* below, waking the workers costs more */

/* Partial softmax of a task's queries. */
struct attn_part {
    float *m, *l; /* [n_q] */
    float *acc;   /* [n_q, head_dim] */
};

/* One worker's memory. */
struct attn_work {
    struct linear_x *x; /* [ATTN_QUERIES, blocks of head_dim, 2]: rounded queries */
    float *q, *score;   /* [ATTN_QUERIES, head_dim], [ATTN_QUERIES, ATTN_CHUNK] */
    float *plain;       /* [ATTN_PLAIN, KV_PAGE_TOKENS, head_dim] */
    int *lo, *hi;       /* [ATTN_QUERIES] */
    struct attn_part part, sum;
};

/* Rows r0 ... r0 + n_rows - 1: one sequence, consecutive positions. */
struct attn_block {
    int32_t r0, n_rows;
};

struct attn_task {
    int r0, n_rows, head0, n_heads, kv_head, n_q;
    int chunk0, chunk1; /* the chunks that any of the queries sees */
};

struct attn_job {
    const struct op_attn_paged *p;
    const struct cpu_ops *ops;
    int n_parts;    /* of the heads of a kv head, ATTN_QUERIES at most in each */
    int part_heads; /* heads in a part */
    const struct attn_block *blocks;
    int64_t n_tasks;
    char *work; /* [n_workers] of work_bytes */
    size_t work_bytes;
    _Atomic int64_t next;                   /* chunk */
    _Atomic int64_t next_task[ATTN_RANGES]; /* done of each range of the tasks */
    int n_ranges;
    /* for split tasks */
    char *shared; /* [n_tasks] of (1 + round) parts: the sum, then the chunks' */
    size_t part_bytes;
    int max_q;     /* queries of a task at most */
    int round;     /* chunks of a task in one round */
    int chunk_off; /* this round starts at the task's chunk0 + chunk_off */
};

static size_t attn_part_bytes(int n_q, int head_dim)
{
    return (sizeof(float) * (size_t)n_q * ((size_t)head_dim + 2) + 63) / 64 * 64;
}

static struct attn_part attn_part_at(char *at, int n_q)
{
    float *f = (float *)at;
    return (struct attn_part){.m = f, .l = f + n_q, .acc = f + 2 * n_q};
}

/* Rounded queries. */
static size_t attn_x_count(int head_dim)
{
    return (size_t)ATTN_QUERIES * (size_t)attn_blocks(head_dim) * 2;
}

static size_t attn_work_bytes(int head_dim)
{
    return sizeof(struct linear_x) * attn_x_count(head_dim) +
           sizeof(float) * ATTN_QUERIES * ((size_t)head_dim + ATTN_CHUNK) +
           sizeof(float) * ATTN_PLAIN * KV_PAGE_TOKENS * (size_t)head_dim +
           sizeof(int) * 2 * ATTN_QUERIES + 2 * attn_part_bytes(ATTN_QUERIES, head_dim);
}

static struct attn_work attn_work_at(char *at, int head_dim)
{
    struct attn_work w;
    w.x = (struct linear_x *)at;
    w.q = (float *)(w.x + attn_x_count(head_dim));
    w.score = w.q + ATTN_QUERIES * head_dim;
    w.plain = w.score + ATTN_QUERIES * ATTN_CHUNK;
    w.lo = (int *)(w.plain + ATTN_PLAIN * KV_PAGE_TOKENS * head_dim);
    w.hi = w.lo + ATTN_QUERIES;
    char *parts = (char *)(w.hi + ATTN_QUERIES);
    w.part = attn_part_at(parts, ATTN_QUERIES);
    w.sum = attn_part_at(parts + attn_part_bytes(ATTN_QUERIES, head_dim), ATTN_QUERIES);
    return w;
}

size_t cpu_attn_scratch_bytes(const struct cpu_backend *cb)
{
    return (size_t)pool_n(cb->pool) * attn_work_bytes(CPU_MAX_HEAD_DIM) + ATTN_SHARED +
           sizeof(struct attn_block) * 4096;
}

/* First position that a row sees. */
static int attn_first(const struct op_attn_paged *p, int pos)
{
    return p->window > 0 && pos >= p->window ? pos - p->window + 1 : 0;
}

static struct attn_task attn_task_of(const struct attn_job *j, int64_t i)
{
    const struct op_attn_paged *p = j->p;
    int group = p->n_heads / p->kv.n_kv_heads;
    int64_t per_block = (int64_t)p->kv.n_kv_heads * j->n_parts;
    const struct attn_block *b = &j->blocks[i / per_block];
    int rest = (int)(i % per_block);
    struct attn_task t = {.r0 = b->r0, .n_rows = b->n_rows, .kv_head = rest / j->n_parts};
    int part = rest % j->n_parts * j->part_heads;
    t.head0 = t.kv_head * group + part;
    t.n_heads = group - part < j->part_heads ? group - part : j->part_heads;
    t.n_q = t.n_rows * t.n_heads;
    t.chunk0 = attn_first(p, p->rows[t.r0].pos) / ATTN_CHUNK;
    t.chunk1 = p->rows[t.r0 + t.n_rows - 1].pos / ATTN_CHUNK + 1;
    return t;
}

/* The queries of a task, scaled, row by row: query = row * n_heads + head.  For keys of 8 bits they
 * are rounded to 16, dimensions that are missing in the last block as zeros. */
static void attn_load_queries(const struct attn_job *j, const struct attn_task *t,
                              const struct attn_work *w)
{
    const struct op_attn_paged *p = j->p;
    int hd = p->kv.head_dim, n_blocks = attn_blocks(hd);
    for (int i = 0; i < t->n_q; i++) {
        int64_t row = t->r0 + i / t->n_heads, head = t->head0 + i % t->n_heads;
        const float *x = (const float *)p->q->data + (row * p->n_heads + head) * hd;
        float *q = w->q + (int64_t)i * hd, padded[CPU_MAX_HEAD_DIM];
        for (int d = 0; d < hd; d++)
            q[d] = x[d] * p->scale;
        if (p->kv.type != DTYPE_Q8_0)
            continue;
        memcpy(padded, q, sizeof(float) * (size_t)hd);
        memset(padded + hd, 0, sizeof(float) * (size_t)(n_blocks * ATTN_BLOCK - hd));
        j->ops->linear_quant(w->x + (int64_t)i * n_blocks * 2, padded, 1, n_blocks * ATTN_BLOCK, 2,
                             0);
    }
}

/* The partial softmax of one chunk; w->q is loaded. */
static void attn_run_chunk(const struct attn_job *j, const struct attn_task *t, int chunk,
                           const struct attn_work *w, const struct attn_part *out)
{
    const struct op_attn_paged *p = j->p;
    const struct kv_view *kv = &p->kv;
    const char *k[ATTN_PAGES_CHUNK], *v[ATTN_PAGES_CHUNK];
    int start = chunk * ATTN_CHUNK, last = p->rows[t->r0 + t->n_rows - 1].pos;
    int first = attn_first(p, p->rows[t->r0].pos);
    size_t head_bytes = attn_head_bytes(kv->type, kv->head_dim);
    int n_pages = 0;
    for (; n_pages < ATTN_PAGES_CHUNK && start + n_pages * KV_PAGE_TOKENS <= last; n_pages++) {
        k[n_pages] = v[n_pages] = NULL;
        int index = chunk * ATTN_PAGES_CHUNK + n_pages;
        if ((index + 1) * KV_PAGE_TOKENS <= first) /* out of every window, maybe given back */
            continue;
        const char *page = kv->base + (size_t)p->rows[t->r0].pages[index] * kv->page_bytes;
        k[n_pages] = page + kv->k_offset + (size_t)t->kv_head * head_bytes;
        v[n_pages] = page + kv->v_offset + (size_t)t->kv_head * head_bytes;
    }
    for (int r = 0; r < t->n_rows; r++) {
        int pos = p->rows[t->r0 + r].pos, lo = attn_first(p, pos) - start, hi = pos + 1 - start;
        lo = lo > 0 ? lo : 0;
        hi = hi < ATTN_CHUNK ? hi : ATTN_CHUNK;
        for (int h = 0; h < t->n_heads; h++) {
            w->lo[r * t->n_heads + h] = lo;
            w->hi[r * t->n_heads + h] = hi;
        }
    }
    struct cpu_attn_tile tile = {
        .k = k,
        .v = v,
        .n_pages = n_pages,
        .n_q = t->n_q,
        .head_dim = kv->head_dim,
        .type = kv->type,
        .q = w->q,
        .x = w->x,
        .lo = w->lo,
        .hi = w->hi,
        .score = w->score,
        .plain = w->plain,
        .m = out->m,
        .l = out->l,
        .acc = out->acc,
    };
    if (kv->type == DTYPE_Q8_0)
        j->ops->attn_tile_q8(&tile);
    else
        j->ops->attn_tile(&tile);
}

static void attn_part_clear(const struct attn_part *s, int n_q, int head_dim)
{
    memset(s->acc, 0, sizeof(float) * (size_t)n_q * (size_t)head_dim);
    for (int q = 0; q < n_q; q++) {
        s->m[q] = -INFINITY;
        s->l[q] = 0.0f;
    }
}

static void attn_part_merge(const struct attn_job *j, const struct attn_part *s,
                            const struct attn_part *x, int n_q)
{
    int hd = j->p->kv.head_dim;
    for (int q = 0; q < n_q; q++)
        j->ops->attn_merge(&s->m[q], &s->l[q], s->acc + (int64_t)q * hd, x->m[q], x->l[q],
                           x->acc + (int64_t)q * hd, hd);
}

static void attn_write_out(const struct attn_job *j, const struct attn_task *t,
                           const struct attn_part *s)
{
    const struct op_attn_paged *p = j->p;
    int hd = p->kv.head_dim;
    for (int q = 0; q < t->n_q; q++) {
        int64_t row = t->r0 + q / t->n_heads, head = t->head0 + q % t->n_heads;
        float *out = (float *)p->out->data + (row * p->n_heads + head) * hd;
        const float *acc = s->acc + (int64_t)q * hd, inverse = 1.0f / s->l[q];
        for (int i = 0; i < hd; i++)
            out[i] = acc[i] * inverse;
    }
}

/* The next task that nobody took of a range, -1 for none: the last first, of a prompt its last rows have
 * most to read. */
static int64_t attn_take(struct attn_job *j, int range)
{
    int64_t begin = j->n_tasks * range / j->n_ranges, end = j->n_tasks * (range + 1) / j->n_ranges;
    int64_t i = atomic_fetch_add_explicit(&j->next_task[range], 1, memory_order_relaxed);
    return i < end - begin ? end - 1 - i : -1;
}

/* Whole tasks: first those of the rows that the worker has in other ops too (they are in its cache), then
 * what is left of the others'. */
static void attn_worker_tasks(void *arg, int worker, int n_workers)
{
    struct attn_job *j = arg;
    struct attn_work w = attn_work_at(j->work + (size_t)worker * j->work_bytes, j->p->kv.head_dim);
    for (int k = 0; k < j->n_ranges; k++) {
        int range = (worker * j->n_ranges / n_workers + k) % j->n_ranges;
        for (int64_t i; (i = attn_take(j, range)) >= 0;) {
            struct attn_task t = attn_task_of(j, i);
            attn_load_queries(j, &t, &w);
            attn_part_clear(&w.sum, t.n_q, j->p->kv.head_dim);
            for (int c = t.chunk0; c < t.chunk1; c++) {
                attn_run_chunk(j, &t, c, &w, &w.part);
                attn_part_merge(j, &w.sum, &w.part, t.n_q);
            }
            attn_write_out(j, &t, &w.sum);
        }
    }
}

static struct attn_part attn_shared_part(const struct attn_job *j, int64_t task, int index)
{
    size_t at = (size_t)task * (size_t)(j->round + 1) + (size_t)index;
    return attn_part_at(j->shared + at * j->part_bytes, j->max_q);
}

/* Single chunks of this round into the shared parts. */
static void attn_worker_chunks(void *arg, int worker, int n_workers)
{
    (void)n_workers;
    struct attn_job *j = arg;
    struct attn_work w = attn_work_at(j->work + (size_t)worker * j->work_bytes, j->p->kv.head_dim);
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
        if (i >= j->n_tasks * j->round)
            return;
        struct attn_task t = attn_task_of(j, i / j->round);
        int c = (int)(i % j->round), chunk = t.chunk0 + j->chunk_off + c;
        if (chunk >= t.chunk1)
            continue;
        struct attn_part part = attn_shared_part(j, i / j->round, 1 + c);
        attn_load_queries(j, &t, &w);
        attn_run_chunk(j, &t, chunk, &w, &part);
    }
}

/* Merges this round's chunks into each task's sum; writes out what is complete. */
static void attn_merge_tasks(void *arg, int64_t begin, int64_t end)
{
    struct attn_job *j = arg;
    for (int64_t i = begin; i < end; i++) {
        struct attn_task t = attn_task_of(j, i);
        struct attn_part sum = attn_shared_part(j, i, 0);
        if (j->chunk_off == 0)
            attn_part_clear(&sum, t.n_q, j->p->kv.head_dim);
        int left = t.chunk1 - t.chunk0 - j->chunk_off;
        for (int c = 0; c < j->round && c < left; c++) {
            struct attn_part part = attn_shared_part(j, i, 1 + c);
            attn_part_merge(j, &sum, &part, t.n_q);
        }
        if (left > 0 && left <= j->round)
            attn_write_out(j, &t, &sum);
    }
}

/* Rows that share pages and follow each other, up to max_rows in a block. */
static int64_t attn_find_blocks(const struct op_attn_paged *p, struct attn_block *blocks,
                                int64_t rows, int max_rows)
{
    int64_t n = 0;
    for (int32_t r = 0; r < rows; r++) {
        struct attn_block *b = n > 0 ? &blocks[n - 1] : NULL;
        if (b && b->n_rows < max_rows && p->rows[r].pages == p->rows[r - 1].pages &&
            p->rows[r].pos == p->rows[r - 1].pos + 1)
            b->n_rows++;
        else
            blocks[n++] = (struct attn_block){.r0 = r, .n_rows = 1};
    }
    return n;
}

static void attn_split_chunks(struct cpu_backend *cb, struct attn_job *j, int max_chunks)
{
    for (j->chunk_off = 0; j->chunk_off < max_chunks; j->chunk_off += j->round) {
        atomic_store(&j->next, 0);
        pool_run(cb->pool, attn_worker_chunks, j);
        int64_t floats = j->n_tasks * j->round * (int64_t)(j->part_bytes / sizeof(float));
        cpu_split(cb, j->n_tasks, floats, attn_merge_tasks, j);
    }
}

/* Whole tasks are cheaper, if none of them is so long that the others wait for it. */
static void attn_run(struct cpu_backend *cb, struct attn_job *j)
{
    const struct op_attn_paged *p = j->p;
    int n = pool_n(cb->pool);
    j->n_ranges = n < ATTN_RANGES ? n : ATTN_RANGES;
    int64_t tokens = 0, all_chunks = 0;
    int max_chunks = 0;
    for (int64_t r = 0; r < p->q->dims[0]; r++)
        tokens += p->rows[r].pos + 1 - attn_first(p, p->rows[r].pos);
    if (n == 1 || tokens * 4 * p->n_heads * p->kv.head_dim < ATTN_SPLIT_FLOPS) {
        attn_worker_tasks(j, 0, 1);
        return;
    }
    for (int64_t i = 0; i < j->n_tasks; i++) {
        struct attn_task t = attn_task_of(j, i);
        int chunks = t.chunk1 - t.chunk0;
        max_chunks = chunks > max_chunks ? chunks : max_chunks;
        all_chunks += chunks;
    }
    int64_t fit = (int64_t)(ATTN_SHARED / j->part_bytes) / j->n_tasks - 1;
    if (max_chunks > 1 && fit > 1 && (int64_t)max_chunks * n * 2 > all_chunks) {
        j->round = (int)(fit < max_chunks ? fit : max_chunks);
        attn_split_chunks(cb, j, max_chunks);
    } else {
        pool_run(cb->pool, attn_worker_tasks, j);
    }
}

void cpu_attn_paged(struct backend *be, const struct op_attn_paged *p)
{
    struct cpu_backend *cb = cpu_of(be);
    int64_t rows = p->q->dims[0];
    int hd = p->kv.head_dim, group = p->n_heads / p->kv.n_kv_heads;
    assert(p->n_heads % p->kv.n_kv_heads == 0 && hd % 4 == 0 && hd <= CPU_MAX_HEAD_DIM);
    assert(p->q->ndim == 2 && p->q->dims[1] == (int64_t)p->n_heads * hd);
    assert(cpu_kv_bytes(p->kv.type, p->kv.n_kv_heads, hd) > 0);
    if (rows == 0)
        return;
    struct attn_job j = {.p = p, .ops = &cb->ops, .work_bytes = attn_work_bytes(hd)};
    j.n_parts = (group + ATTN_QUERIES - 1) / ATTN_QUERIES;
    j.part_heads = (group + j.n_parts - 1) / j.n_parts;
    int max_rows = ATTN_QUERIES / j.part_heads;
    j.max_q = j.part_heads * (rows < max_rows ? (int)rows : max_rows);
    j.part_bytes = attn_part_bytes(j.max_q, hd);
    size_t work_bytes = (size_t)pool_n(cb->pool) * j.work_bytes;
    j.work = cpu_scratch(cb, work_bytes + ATTN_SHARED + sizeof(struct attn_block) * (size_t)rows);
    j.shared = j.work + work_bytes;
    struct attn_block *blocks = (struct attn_block *)(j.shared + ATTN_SHARED);
    j.blocks = blocks;
    j.n_tasks = attn_find_blocks(p, blocks, rows, max_rows) * p->kv.n_kv_heads * j.n_parts;
    attn_run(cb, &j);
}

struct attn_store_job {
    const struct op_kv_store *p;
    const struct cpu_ops *ops;
};

size_t cpu_kv_bytes(enum dtype type, int n_kv_heads, int head_dim)
{
    if (type != DTYPE_F16 && type != DTYPE_F32 && type != DTYPE_Q8_0)
        return 0;
    return (size_t)n_kv_heads * attn_head_bytes(type, head_dim);
}

/* Largest magnitude; infinity or NaN if one of them is. */
static float attn_largest(const float *x, int n)
{
    uint32_t top = 0; /* bits order like the floats, NaN above all */
    for (int i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, sizeof(u));
        u &= 0x7fffffff;
        top = u > top ? u : top;
    }
    float largest;
    memcpy(&largest, &top, sizeof(largest));
    return largest;
}

/* q[i] = x[i] / d to nearest even, -127 ... 127 */
static void attn_round(int8_t *q, const float *x, int n, float d)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float inverse = d >= 1e-30f && d <= 1e30f ? 1.0f / d : 0.0f;
    for (int i = 0; i < n; i++) {
        float z = x[i] * inverse;
        z = z < 127.0f ? z : 127.0f;
        z = z > -127.0f ? z : -127.0f;
        z += round;
        uint32_t u;
        memcpy(&u, &z, sizeof(u));
        q[i] = (int8_t)(u & 0xff);
    }
}

/* One token of one kv head into its page. */
static void attn_store_q8(char *kp, char *vp, int slot, const float *k, const float *v, int hd)
{
    int8_t q[CPU_MAX_HEAD_DIM] = {0};
    uint16_t *kd = (uint16_t *)(kp + KV_PAGE_TOKENS * hd);
    for (int b = 0; b < attn_blocks(hd); b++) {
        int n = hd - b * ATTN_BLOCK < ATTN_BLOCK ? hd - b * ATTN_BLOCK : ATTN_BLOCK;
        uint16_t d = f32_to_f16(attn_largest(k + b * ATTN_BLOCK, n) / 127.0f);
        kd[b * KV_PAGE_TOKENS + slot] = d;
        attn_round(q + b * ATTN_BLOCK, k + b * ATTN_BLOCK, n, f16_to_f32(d));
    }
    for (int d = 0; d < hd; d += 4) {
        uint8_t quad[4] = {(uint8_t)(q[d] + 128), (uint8_t)(q[d + 1] + 128),
                           (uint8_t)(q[d + 2] + 128), (uint8_t)(q[d + 3] + 128)};
        memcpy(kp + d * KV_PAGE_TOKENS + slot * 4, quad, sizeof(quad));
    }
    float d = attn_largest(v, hd) / 127.0f;
    memcpy(vp + KV_PAGE_TOKENS * hd + slot * 4, &d, sizeof(d));
    attn_round(q, v, hd, d);
    vp += slot / 4 * 4 * hd + slot % 4;
    for (int i = 0; i < hd; i++)
        vp[4 * i] = q[i];
}

static void attn_store_f16(const struct cpu_ops *ops, char *kp, char *vp, int slot, const float *k,
                           const float *v, int hd)
{
    uint16_t row[CPU_MAX_HEAD_DIM];
    ops->f16_pack(row, k, hd);
    for (int d = 0; d < hd; d++)
        ((uint16_t *)kp)[d * KV_PAGE_TOKENS + slot] = row[d];
    ops->f16_pack((uint16_t *)vp + (size_t)slot * (size_t)hd, v, hd);
}

static void attn_store_f32(char *kp, char *vp, int slot, const float *k, const float *v, int hd)
{
    for (int d = 0; d < hd; d++)
        ((float *)kp)[d * KV_PAGE_TOKENS + slot] = k[d];
    memcpy((float *)vp + (size_t)slot * (size_t)hd, v, sizeof(float) * (size_t)hd);
}

static void attn_store_rows(void *arg, int64_t begin, int64_t end)
{
    const struct attn_store_job *j = arg;
    const struct op_kv_store *p = j->p;
    const struct kv_view *kv = &p->kv;
    int hd = kv->head_dim;
    size_t head_bytes = attn_head_bytes(kv->type, hd);
    for (int64_t r = begin; r < end; r++) {
        int pos = p->rows[r].pos, slot = pos % KV_PAGE_TOKENS;
        char *page = kv->base + (size_t)p->rows[r].pages[pos / KV_PAGE_TOKENS] * kv->page_bytes;
        for (int h = 0; h < kv->n_kv_heads; h++) {
            const float *k = (const float *)p->k->data + (r * kv->n_kv_heads + h) * hd;
            const float *v = (const float *)p->v->data + (r * kv->n_kv_heads + h) * hd;
            char *kp = page + kv->k_offset + (size_t)h * head_bytes;
            char *vp = page + kv->v_offset + (size_t)h * head_bytes;
            if (kv->type == DTYPE_Q8_0)
                attn_store_q8(kp, vp, slot, k, v, hd);
            else if (kv->type == DTYPE_F16)
                attn_store_f16(j->ops, kp, vp, slot, k, v, hd);
            else
                attn_store_f32(kp, vp, slot, k, v, hd);
        }
    }
}

void cpu_kv_store(struct backend *be, const struct op_kv_store *p)
{
    struct cpu_backend *cb = cpu_of(be);
    int64_t rows = p->k->dims[0], width = (int64_t)p->kv.n_kv_heads * p->kv.head_dim;
    assert(p->k->dims[1] == width && p->v->dims[0] == rows && p->v->dims[1] == width);
    assert(cpu_kv_bytes(p->kv.type, p->kv.n_kv_heads, p->kv.head_dim) > 0);
    assert(p->kv.head_dim <= CPU_MAX_HEAD_DIM && p->kv.head_dim % 4 == 0);
    struct attn_store_job j = {.p = p, .ops = &cb->ops};
    cpu_split(cb, rows, rows * width * 4, attn_store_rows, &j);
}

void cpu_rope_store(struct backend *be, const struct op_rope_store *p)
{
    struct op_rope turn = {.x = p->q,
                           .pos = p->pos,
                           .freq = p->freq,
                           .head_dim = p->kv.head_dim,
                           .n_rot = p->n_rot,
                           .mscale = p->mscale,
                           .interleaved = p->interleaved};
    cpu_rope(be, &turn);
    turn.x = p->k;
    cpu_rope(be, &turn);
    cpu_kv_store(be, &(struct op_kv_store){.kv = p->kv, .k = p->k, .v = p->v, .rows = p->rows});
}
