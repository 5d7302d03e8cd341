/* Ops of image models on the CUDA device: conv2d, lowrank, attention between whole matrices. */
#include <assert.h>

#include "kernels/cuda/cuda_attn.h"
#include "kernels/cuda/cuda_conv.h"
#include "kernels/cuda/cuda_op.h"

void cuda_conv2d(struct backend *be, const struct op_conv2d *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const int64_t *in = p->x->dims, *out = p->out->dims;
    struct cuda_conv_call c = {
        .x = {.x = cuda_op_array(p->x),
              .n = (int)in[0],
              .h = (int)in[1],
              .w = (int)in[2],
              .c_in = (int)in[3],
              .ho = (int)out[1],
              .wo = (int)out[2],
              .kernel = p->kernel,
              .stride = p->stride,
              .pad_before = p->pad_before,
              .up = p->upsample ? 2 : 1},
        .w = cuda_matrix(p->w)->data,
        .type = p->w->type,
        .c_out = (int)out[3],
        .y_begin = p->y_begin,
        .n_y = (p->y_end ? p->y_end : (int)out[1]) - p->y_begin,
        .out = cuda_op_array(p->out),
        .bias = cuda_op_data(p->bias),
        .add_image = cuda_op_array(p->add_image),
        .add = cuda_op_array(p->add),
        .act = p->act,
        .multiprocessors = cb->multiprocessors,
        .finished = cb->finished,
    };
    assert(p->w->n_out == out[3] && p->w->n_in == p->kernel * p->kernel * in[3]);
    assert(in[0] == out[0] && p->stride > 0 && p->y_begin >= 0 && p->y_end <= out[1]);
    const size_t bytes = cuda_conv_work_bytes(&c);
    c.work = bytes ? cuda_scratch(cb, bytes) : NULL;
    if (!cb->dead)
        cuda_conv_launch(&c, cuda_stream(cb));
}

void cuda_lowrank(struct backend *be, const struct op_lowrank *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const struct tensor *x = p->x;
    const int64_t rows = p->out->dims[0], c_out = p->out->dims[1], c_in = x->dims[x->ndim - 1];
    const bool window = p->kernel > 1 || p->stride > 1 || p->upsample;
    for (int64_t r = 0, n; r < rows; r += n) {
        const int64_t at = r + p->first, image = at / p->image_rows;
        const int64_t left = (image + 1) * p->image_rows - at;
        n = left < rows - r ? left : rows - r;
        for (int i = 0; i < p->images[image].n; i++) {
            const struct lowrank_term *t = &p->images[image].terms[i];
            struct cuda_lowrank_call c = {
                .x = {.x = cuda_array_at(cuda_op_array(x), window ? 0 : r * c_in),
                      .n = 1,
                      .h = 1,
                      .w = 1,
                      .c_in = (int)c_in,
                      .ho = 1,
                      .wo = 1,
                      .kernel = p->kernel,
                      .stride = p->stride,
                      .pad_before = p->pad_before,
                      .up = p->upsample ? 2 : 1},
                .out = cuda_array_at(cuda_op_array(p->out), r * c_out),
                .down = cuda_matrix(t->down)->data,
                .up = cuda_matrix(t->up)->data,
                .down_type = t->down->type,
                .up_type = t->up->type,
                .first = at,
                .rows = n,
                .rank = (int)t->down->n_out,
                .c_out = (int)c_out,
                .scale = t->scale,
            };
            if (window) {
                c.x.n = (int)x->dims[0];
                c.x.h = (int)x->dims[1];
                c.x.w = (int)x->dims[2];
                c.x.wo = (int)p->out_w;
                c.x.ho = (int)(p->image_rows / p->out_w);
            }
            c.hidden = cuda_scratch(cb, (size_t)n * (size_t)c.rank * sizeof(float));
            if (c.hidden && !cb->dead)
                cuda_lowrank_launch(&c, cuda_stream(cb));
        }
    }
}

void cuda_attn(struct backend *be, const struct op_attn *p)
{
    struct cuda_backend *cb = cuda_of(be);
    struct cuda_attn_dense_call a = {.n_items = p->n_items,
                                     .n_heads = p->n_heads,
                                     .head_dim = p->head_dim,
                                     .type = (int)p->type,
                                     .kv_type = (int)p->kv_type,
                                     .scale = p->scale,
                                     .causal = p->causal};
    assert(p->head_dim > 0 && p->head_dim <= ATTN_MAX_HEAD_DIM);
    for (int i = 0; i < p->n_items; i++) {
        assert(p->items[i].n_k > 0 && (!p->causal || p->items[i].n_k >= p->items[i].n_q));
        a.max_q = p->items[i].n_q > a.max_q ? p->items[i].n_q : a.max_q;
    }
    const size_t bytes = (size_t)p->n_items * sizeof *p->items;
    if (!a.max_q || !cuda_param_begin(cb, bytes))
        return;
    a.items = cuda_param(cb, p->items, bytes);
    if (!cb->dead)
        cuda_attn_launch(&a, cuda_stream(cb));
}
