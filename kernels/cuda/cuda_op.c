/* The ops of the CUDA device: arguments to device pointers, then the launchers of cuda_kernels.h. */
#include "kernels/cuda/cuda_op.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/quant.h"

#define CUDA_MAX_HEAD_DIM 256

int cuda_op_open(struct cuda_backend *cb, struct err *e)
{
    (void)cb;
    (void)e;
    return 0;
}

void cuda_op_close(struct cuda_backend *cb)
{
    (void)cb;
}

size_t cuda_op_kv_bytes(enum dtype type, int n_kv_heads, int head_dim)
{
    if (head_dim < 8 || head_dim % 8 || head_dim > CUDA_MAX_HEAD_DIM)
        return 0;
    return (size_t)n_kv_heads * cuda_kv_head_bytes(type, head_dim);
}

#define PACK_BYTES ((size_t)4 << 20) /* of packed panels on the host at a time */

/* Packs and uploads, some panels at a time. */
static int weight_fill(struct backend *be, struct cuda_matrix *m, const void *raw, struct err *e)
{
    const enum dtype type = m->w.type;
    const int64_t panels = cuda_weight_panels(type, m->w.n_out);
    const size_t bytes = cuda_weight_panel_bytes(type, m->w.n_in);
    int64_t some = (int64_t)(PACK_BYTES / bytes);
    some = some < 1 ? 1 : some < panels ? some : panels;
    char *packed = mem_try((size_t)some, bytes);
    if (!packed)
        return err_set(e, ERR_NOMEM, "no memory for %zu bytes of weights", bytes);
    for (int64_t at = 0; at < panels; at += some) {
        int64_t end = at + some < panels ? at + some : panels;
        cuda_weight_pack(packed, type, m->w.n_out, m->w.n_in, raw, at, end);
        cuda_mem_upload(be, (char *)m->data + (size_t)at * bytes, packed,
                        (size_t)(end - at) * bytes);
    }
    free(packed);
    return 0;
}

int cuda_op_weight_open(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                        int64_t n_in, const void *raw, struct err *e)
{
    if (type != DTYPE_F32 && !cuda_weight_layout(type))
        return err_set(e, ERR_UNSUPPORTED, "weights of type %s cannot be multiplied",
                       dtype_name(type));
    if (n_out < 1 || n_in < 1 || n_in % dtype_block(type) != 0)
        return err_set(e, ERR_INVALID, "a %s matrix cannot be %lld x %lld", dtype_name(type),
                       (long long)n_out, (long long)n_in);
    const size_t panel_bytes = cuda_weight_panel_bytes(type, n_in);
    size_t bytes = 0;
    if (n_out > INT32_MAX || !panel_bytes ||
        __builtin_mul_overflow((size_t)cuda_weight_panels(type, n_out), panel_bytes, &bytes) ||
        bytes > PTRDIFF_MAX)
        return err_set(e, ERR_NOMEM, "a matrix of %lld x %lld is too large", (long long)n_out,
                       (long long)n_in);
    struct cuda_matrix *m = xcalloc(1, sizeof(*m));
    m->w = (struct weight){type, n_out, n_in, bytes};
    m->data = cuda_mem_alloc(be, bytes, e);
    int rc = m->data ? weight_fill(be, m, raw, e) : ERR_NOMEM;
    if (rc) {
        cuda_op_weight_close(be, &m->w);
        return rc;
    }
    *out = &m->w;
    return 0;
}

void cuda_op_weight_close(struct backend *be, struct weight *w)
{
    if (!w)
        return;
    cuda_mem_free(be, cuda_matrix(w)->data);
    free(w);
}

void cuda_op_weight_row(struct backend *be, const struct weight *w, int64_t row, float *dst)
{
    struct cuda_backend *cb = cuda_of(be);
    const size_t bytes = (size_t)w->n_in * sizeof(float);
    const int32_t id = (int32_t)row;
    float *to = cuda_scratch(cb, bytes);
    const int32_t *ids = cuda_param(cb, &id, sizeof(id));
    memset(dst, 0, bytes);
    if (!to || !ids)
        return;
    cuda_embed_launch(to, cuda_matrix(w)->data, w->type, (int)w->n_in, ids, 1, cuda_stream(cb));
    cuda_mem_download(be, dst, to, bytes);
    struct err e = {0};
    be->sync(be, &e); /* a failure is kept for the next one */
}

int cuda_op_limits(struct backend *be, size_t bytes, struct backend_limits *l, struct err *e)
{
    (void)bytes, (void)l;
    return err_set(e, ERR_UNSUPPORTED, "%s cannot be measured yet", be->name);
}

/* ---- ops ---- */

static int rows_of(const struct tensor *t)
{
    int64_t rows = 1;
    for (int i = 0; i < t->ndim - 1; i++)
        rows *= t->dims[i];
    return (int)rows;
}

static int cols_of(const struct tensor *t)
{
    return (int)t->dims[t->ndim - 1];
}

void cuda_rmsnorm(struct backend *be, const struct op_rmsnorm *p)
{
    struct cuda_backend *cb = cuda_of(be);
    assert(p->w->dims[0] == cols_of(p->x));
    if (!cb->dead)
        cuda_rmsnorm_launch(p->out->data, p->x->data, p->w->data, rows_of(p->x), cols_of(p->x),
                            p->eps, cuda_stream(cb));
}

static int64_t count_of(const struct tensor *t)
{
    return (int64_t)rows_of(t) * cols_of(t);
}

/* ids on the device; the rows that are the caller's own are copied over what was looked up. */
void cuda_embed(struct backend *be, const struct op_embed *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const int rows = rows_of(p->out), dim = cols_of(p->out);
    assert(dim == p->w->n_in);
    const int32_t *ids = cuda_param(cb, p->ids, (size_t)rows * sizeof(int32_t));
    if (!ids || cb->dead)
        return;
    cuda_embed_launch(p->out->data, cuda_matrix(p->w)->data, p->w->type, dim, ids, rows,
                      cuda_stream(cb));
    for (int r = 0; p->own && r < rows; r++)
        if (p->own[r])
            cuda_mem_upload(be, (float *)p->out->data + (size_t)r * (size_t)dim, p->own[r],
                            (size_t)dim * sizeof(float));
}

void cuda_linear(struct backend *be, const struct op_linear *p)
{
    struct cuda_backend *cb = cuda_of(be);
    struct cuda_linear_call l = {.rows = rows_of(p->x), .n_in = cols_of(p->x), .x = p->x->data};
    int widest = 0;
    for (; l.n_matrices < LINEAR_MAX && p->w[l.n_matrices]; l.n_matrices++) {
        const int i = l.n_matrices;
        const struct weight *w = p->w[i];
        assert(w->n_in == l.n_in && rows_of(p->out[i]) == l.rows && cols_of(p->out[i]) == w->n_out);
        l.m[i] =
            (struct cuda_linear_matrix){cuda_matrix(w)->data, p->bias[i] ? p->bias[i]->data : NULL,
                                        p->out[i]->data, w->type, (int)w->n_out};
        widest = l.m[i].n_out > widest ? l.m[i].n_out : widest;
    }
    l.add = p->add ? p->add->data : NULL;
    l.parts = p->precise ? 2 : 1;
    l.work = cuda_scratch(cb, cuda_linear_work_bytes(l.rows, l.n_in, widest));
    if (l.work && !cb->dead)
        cuda_linear_launch(&l, cuda_stream(cb));
}

void cuda_rope(struct backend *be, const struct op_rope *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const int rows = rows_of(p->x);
    assert(p->n_rot > 0 && p->n_rot % 2 == 0 && p->n_rot <= p->head_dim && p->n_rot <= 512);
    const int32_t *pos = cuda_param(cb, p->pos, (size_t)rows * sizeof(int32_t));
    const float *freq = cuda_param(cb, p->freq, (size_t)(p->n_rot / 2) * sizeof(float));
    if (pos && freq && !cb->dead)
        cuda_rope_launch(p->x->data, pos, freq, rows, cols_of(p->x) / p->head_dim, p->head_dim,
                         p->n_rot, p->mscale, p->interleaved, cuda_stream(cb));
}

void cuda_glu(struct backend *be, const struct op_glu *p)
{
    struct cuda_backend *cb = cuda_of(be);
    if (!cb->dead)
        cuda_glu_launch(p->out->data, p->gate->data, p->up->data, count_of(p->out), p->act,
                        cuda_stream(cb));
}

void cuda_act(struct backend *be, const struct op_act *p)
{
    struct cuda_backend *cb = cuda_of(be);
    if (!cb->dead)
        cuda_act_launch(p->out->data, p->x->data, count_of(p->out), p->act, cuda_stream(cb));
}

void cuda_add(struct backend *be, const struct op_add *p)
{
    struct cuda_backend *cb = cuda_of(be);
    if (!cb->dead)
        cuda_add_launch(p->out->data, p->a->data, p->b->data, count_of(p->out), cuda_stream(cb));
}

void cuda_concat(struct backend *be, const struct op_concat *p)
{
    struct cuda_backend *cb = cuda_of(be);
    if (!cb->dead)
        cuda_concat_launch(p->out->data, p->a->data, p->b->data, rows_of(p->out), cols_of(p->a),
                           cols_of(p->b), cuda_stream(cb));
}

void cuda_layernorm(struct backend *be, const struct op_layernorm *p)
{
    struct cuda_backend *cb = cuda_of(be);
    if (!cb->dead)
        cuda_layernorm_launch(p->out->data, p->x->data, p->w->data, p->bias ? p->bias->data : NULL,
                              rows_of(p->x), cols_of(p->x), p->eps, cuda_stream(cb));
}

void cuda_groupnorm(struct backend *be, const struct op_groupnorm *p)
{
    struct cuda_backend *cb = cuda_of(be);
    struct cuda_groups g = {.n = (int)p->x->dims[0],
                            .c = cols_of(p->x),
                            .n_groups = p->n_groups,
                            .eps = p->eps,
                            .act = p->act};
    assert(g.c % g.n_groups == 0);
    g.pixels = g.n ? rows_of(p->x) / g.n : 0;
    void *work = cuda_scratch(cb, cuda_groupnorm_work_bytes(g.n, g.pixels, g.c));
    if (work && !cb->dead)
        cuda_groupnorm_launch(p->out->data, p->x->data, p->w->data, p->bias->data, &g, work,
                              cuda_stream(cb));
}

/* ---- attention over pages ---- */

/* Pages of the sequence of rows r ... that share them; *n: how many rows do. */
static int run_pages(const struct kv_row *rows, int n_rows, int r, int *n)
{
    int last = rows[r].pos, end = r;
    for (; end < n_rows && rows[end].pages == rows[r].pages; end++)
        last = rows[end].pos > last ? rows[end].pos : last;
    *n = end - r;
    return last / KV_PAGE_TOKENS + 1;
}

/* Rows and their sequences' pages, as the kernels want them: [rows] then the pages.  false when dead. */
static bool send_rows(struct cuda_backend *cb, const struct kv_view *view,
                      const struct kv_row *rows, int n_rows, struct cuda_kv *kv)
{
    size_t n_pages = 0;
    for (int r = 0, n; r < n_rows; r += n)
        n_pages += (size_t)run_pages(rows, n_rows, r, &n);
    const size_t bytes = (size_t)n_rows * sizeof(struct cuda_kv_row) + n_pages * sizeof(int32_t);
    struct cuda_kv_row *to = cuda_param_new(cb, bytes);
    if (!to)
        return false;
    int32_t *pages = (int32_t *)(void *)(to + n_rows), first = 0;
    for (int r = 0, n; r < n_rows; r += n) {
        const int count = run_pages(rows, n_rows, r, &n);
        memcpy(pages + first, rows[r].pages, (size_t)count * sizeof(int32_t));
        for (int i = r; i < r + n; i++)
            to[i] = (struct cuda_kv_row){first, rows[i].pos};
        first += count;
    }
    kv->view = *view;
    kv->rows = cuda_param_send(cb, to, bytes);
    kv->pages = (const int32_t *)(const void *)(kv->rows + n_rows);
    return kv->rows && !cb->dead;
}

void cuda_kv_store(struct backend *be, const struct op_kv_store *p)
{
    struct cuda_backend *cb = cuda_of(be);
    struct cuda_kv kv;
    const int rows = rows_of(p->k);
    assert(cols_of(p->k) == p->kv.n_kv_heads * p->kv.head_dim);
    if (rows && send_rows(cb, &p->kv, p->rows, rows, &kv))
        cuda_kv_store_launch(&kv, p->k->data, p->v->data, rows, cuda_stream(cb));
}

void cuda_attn_paged(struct backend *be, const struct op_attn_paged *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const int rows = rows_of(p->q), most = cuda_attn_task_rows(p->n_heads, p->kv.n_kv_heads);
    struct cuda_attn_call a = {.out = p->out->data,
                               .q = p->q->data,
                               .n_heads = p->n_heads,
                               .window = p->window,
                               .scale = p->scale};
    assert(cols_of(p->q) == p->n_heads * p->kv.head_dim);
    if (!rows || !send_rows(cb, &p->kv, p->rows, rows, &a.kv))
        return;
    struct cuda_attn_task *tasks = cuda_param_new(cb, (size_t)rows * sizeof(*tasks));
    if (!tasks)
        return;
    for (int r = 0, n; r < rows; r += n) {
        for (n = 1; n < most && r + n < rows && p->rows[r + n].pages == p->rows[r].pages &&
                    p->rows[r + n].pos == p->rows[r].pos + n;)
            n++;
        tasks[a.n_tasks++] = (struct cuda_attn_task){r, n};
        a.max_pos = p->rows[r + n - 1].pos > a.max_pos ? p->rows[r + n - 1].pos : a.max_pos;
    }
    a.tasks = cuda_param_send(cb, tasks, (size_t)rows * sizeof(*tasks));
    a.work_bytes =
        cuda_attn_work_bytes(a.n_tasks, p->n_heads, p->kv.n_kv_heads, p->kv.head_dim, a.max_pos);
    a.work = a.work_bytes ? cuda_scratch(cb, a.work_bytes) : NULL;
    if (a.tasks && !cb->dead)
        cuda_attn_paged_launch(&a, cuda_stream(cb));
}
