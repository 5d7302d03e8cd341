/* Attention over KV pages, and the storing into them: rows and page lists for the device, tasks of rows that
 * follow each other. */
#include <assert.h>
#include <string.h>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/cuda_op.h"

#define CUDA_MAX_HEAD_DIM 256
#define LIST_PAGES \
    16 /* a list grows by so many: as long as it does not, a step is as the one before */

size_t cuda_op_kv_bytes(enum dtype type, int n_kv_heads, int head_dim)
{
    if (head_dim < 8 || head_dim % 8 || head_dim > CUDA_MAX_HEAD_DIM)
        return 0;
    return (size_t)n_kv_heads * cuda_kv_head_bytes(type, head_dim);
}

/* Is row r of the same sequence as the one before it? */
static bool follows(const struct kv_row *rows, int r)
{
    return r > 0 && rows[r].pages == rows[r - 1].pages;
}

static int n_pages(const struct kv_row *rows, int n, int begin)
{
    int32_t pos = rows[begin].pos;
    for (int r = begin + 1; r < n && follows(rows, r); r++)
        pos = rows[r].pos > pos ? rows[r].pos : pos;
    return pos / KV_PAGE_TOKENS + 1;
}

static int list_pages(const struct kv_row *rows, int n, int begin)
{
    return (n_pages(rows, n, begin) + LIST_PAGES - 1) / LIST_PAGES * LIST_PAGES;
}

/* The rows with their page lists, one list a run of rows of a sequence: [n] rows, then the pages.  Leaves
 * room for as many tasks, and for `more` bytes. */
static bool send_rows(struct cuda_backend *cb, struct cuda_kv *kv, const struct kv_view *view,
                      const struct kv_row *rows, int n, size_t more)
{
    size_t pages = 0, row_bytes = (size_t)n * sizeof(struct cuda_kv_row);
    for (int r = 0; r < n; r++)
        pages += follows(rows, r) ? 0 : (size_t)list_pages(rows, n, r);
    size_t bytes = row_bytes + pages * sizeof(int32_t);
    if (!cuda_param_begin(cb, bytes + more + (size_t)n * sizeof(struct cuda_attn_paged_task)))
        return false;
    struct cuda_kv_row *to = cuda_param_new(cb, bytes);
    int32_t *list = (int32_t *)(void *)((char *)to + row_bytes), first = 0, next = 0;
    for (int r = 0; r < n; r++) {
        if (!follows(rows, r)) {
            const int count = n_pages(rows, n, r), all = list_pages(rows, n, r);
            memcpy(list + next, rows[r].pages, (size_t)count * sizeof *list);
            memset(list + next + count, 0, (size_t)(all - count) * sizeof *list);
            first = next;
            next += all;
        }
        to[r] = (struct cuda_kv_row){.first = first, .pos = rows[r].pos};
    }
    const char *there = cuda_param_send(cb, to, bytes);
    *kv = (struct cuda_kv){.view = *view,
                           .rows = (const struct cuda_kv_row *)(const void *)there,
                           .pages = (const int32_t *)(const void *)(there + row_bytes)};
    return there != NULL;
}

void cuda_kv_store(struct backend *be, const struct op_kv_store *p)
{
    struct cuda_backend *cb = cuda_of(be);
    struct cuda_kv kv;
    const int n = cuda_op_rows(p->k);
    assert(cuda_op_cols(p->k) == p->kv.n_kv_heads * p->kv.head_dim);
    if (send_rows(cb, &kv, &p->kv, p->rows, n, 0) && !cb->dead)
        cuda_kv_store_launch(&kv, p->k->data, p->v->data, n, cuda_stream(cb));
}

void cuda_rope_store(struct backend *be, const struct op_rope_store *p)
{
    struct cuda_backend *cb = cuda_of(be);
    struct cuda_kv kv;
    const int n = cuda_op_rows(p->k);
    const size_t pos_bytes = (size_t)n * sizeof *p->pos;
    const size_t freq_bytes = (size_t)(p->n_rot / 2) * sizeof *p->freq;
    assert(cuda_op_cols(p->k) == p->kv.n_kv_heads * p->kv.head_dim);
    if (!send_rows(cb, &kv, &p->kv, p->rows, n, pos_bytes + freq_bytes))
        return;
    const struct cuda_turn t = {.pos = cuda_param(cb, p->pos, pos_bytes),
                                .freq = cuda_param(cb, p->freq, freq_bytes),
                                .n_heads = cuda_op_cols(p->q) / p->kv.head_dim,
                                .n_rot = p->n_rot,
                                .mscale = p->mscale,
                                .interleaved = p->interleaved};
    if (!cb->dead)
        cuda_rope_store_launch(&kv, &t, p->q->data, p->k->data, p->v->data, n, cuda_stream(cb));
}

/* Runs of one sequence at positions that follow each other, at most `most` rows each. */
static int make_tasks(struct cuda_attn_paged_task *to, const struct kv_row *rows, int n, int most)
{
    int n_tasks = 0;
    for (int r = 0, run; r < n; r += run) {
        for (run = 1; r + run < n && run < most && follows(rows, r + run) &&
                      rows[r + run].pos == rows[r].pos + run;)
            run++;
        to[n_tasks++] = (struct cuda_attn_paged_task){.row0 = r, .n_rows = run};
    }
    return n_tasks;
}

void cuda_attn_paged(struct backend *be, const struct op_attn_paged *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const int n = cuda_op_rows(p->q), n_kv = p->kv.n_kv_heads;
    struct cuda_attn_paged_call call = {.out = p->out->data,
                                        .q = p->q->data,
                                        .n_heads = p->n_heads,
                                        .window = p->window,
                                        .scale = p->scale};
    for (int r = 0; r < n; r++)
        call.max_pos = p->rows[r].pos > call.max_pos ? p->rows[r].pos : call.max_pos;
    call.max_pos |= LIST_PAGES * KV_PAGE_TOKENS - 1; /* no more work: the same chunks */
    if (!send_rows(cb, &call.kv, &p->kv, p->rows, n, 0))
        return;
    struct cuda_attn_paged_task *tasks = cuda_param_new(cb, (size_t)n * sizeof *tasks);
    call.n_tasks = make_tasks(tasks, p->rows, n, cuda_attn_paged_task_rows(p->n_heads, n_kv));
    call.tasks = cuda_param_send(cb, tasks, (size_t)call.n_tasks * sizeof *tasks);
    call.work_bytes =
        cuda_attn_paged_work_bytes(call.n_tasks, p->n_heads, n_kv, p->kv.head_dim, call.max_pos);
    call.work = cuda_scratch(cb, call.work_bytes);
    if (!cb->dead)
        cuda_attn_paged_launch(&call, cuda_stream(cb));
}
