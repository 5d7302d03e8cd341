/* Weights of the device, and the ops that read them: linear, embed. */
#include <assert.h>
#include <stdlib.h>

#include "base/arena.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/cuda_pack.h"
#include "kernels/cuda/cuda_upload.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/quant.h"

size_t cuda_op_weight_bytes(enum dtype type, int64_t n_out, int64_t n_in, struct err *e)
{
    size_t all = 0;
    if (type != DTYPE_F32 && !cuda_weight_layout(type)) {
        err_set(e, ERR_UNSUPPORTED, "no weights of type %s on this device", dtype_name(type));
        return 0;
    }
    if (n_out < 1 || n_in < 1 || n_in % dtype_block(type) != 0) {
        err_set(e, ERR_INVALID, "a %s matrix cannot be %lld x %lld", dtype_name(type),
                (long long)n_out, (long long)n_in);
        return 0;
    }
    size_t panel = cuda_weight_panel_bytes(type, n_in);
    if (!panel || n_out > INT32_MAX ||
        __builtin_mul_overflow(panel, (size_t)cuda_weight_panels(type, n_out), &all) ||
        all > PTRDIFF_MAX) {
        err_set(e, ERR_NOMEM, "no memory for a matrix of %lld x %lld", (long long)n_out,
                (long long)n_in);
        return 0;
    }
    return all;
}

/* Units after units, each piece packed where the device copies it from: in the order of ops, or beside them. */
static int send_units(struct cuda_backend *cb, const struct cuda_matrix *m, const void *raw,
                      bool beside, struct err *e)
{
    const size_t bytes = cuda_weight_unit_bytes(m->w.type);
    const int64_t n = cuda_weight_units(&m->w), most = (int64_t)(CUDA_PIECE_BYTES / bytes);
    cudaError_t rc = cudaSuccess;
    for (int64_t at = 0; at < n && rc == cudaSuccess; at += most) {
        const int64_t end = at + most < n ? at + most : n;
        const size_t piece_bytes = (size_t)(end - at) * bytes;
        char *to = (char *)m->data + (size_t)at * bytes, *piece = NULL;
        if (beside)
            rc = cuda_upload_take(cb->upload, &piece);
        else
            piece = cuda_mem_stage(cb, piece_bytes);
        if (!piece)
            break; /* dead: the next sync says it */
        cuda_pack_units(cb->pack, piece, &m->w, raw, at, end);
        if (beside)
            rc = cuda_upload_send(cb->upload, to, piece_bytes);
        else
            cuda_copy(cb, to, piece, piece_bytes, cudaMemcpyHostToDevice, "an upload");
    }
    return rc == cudaSuccess
               ? 0
               : err_set(e, ERR_DEVICE, "%s: an upload: %s", cb->name, cudaGetErrorString(rc));
}

static int new_matrix(struct backend *be, struct cuda_matrix **out, const struct weight *like,
                      struct err *e)
{
    struct err why = {0};
    size_t bytes = cuda_op_weight_bytes(like->type, like->n_out, like->n_in, &why);
    if (!bytes)
        return err_set(e, why.code, "%s: %s", be->name, why.msg);
    void *data = cuda_mem_alloc(be, bytes, e);
    if (!data)
        return ERR_NOMEM;
    *out = xcalloc(1, sizeof **out);
    **out = (struct cuda_matrix){.w = *like, .data = data};
    (*out)->w.bytes = bytes;
    return 0;
}

int cuda_op_weight_open(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                        int64_t n_in, const void *raw, struct err *e)
{
    const struct weight like = {.type = type, .n_out = n_out, .n_in = n_in};
    struct cuda_matrix *m = NULL;
    int rc = new_matrix(be, &m, &like, e);
    if (rc)
        return rc;
    rc = send_units(cuda_of(be), m, raw, false, e);
    if (rc) {
        cuda_op_weight_close(be, &m->w);
        return rc;
    }
    *out = &m->w;
    return 0;
}

int cuda_op_weight_place(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                         int64_t n_in, struct err *e)
{
    struct cuda_backend *cb = cuda_of(be);
    const struct weight like = {.type = type, .n_out = n_out, .n_in = n_in};
    struct cuda_matrix *m = NULL;
    int rc = new_matrix(be, &m, &like, e);
    if (rc)
        return rc;
    cuda_flush(cb);
    if (!cb->dead)
        cuda_check(cb, cuda_upload_placed(cb->upload, cb->compute), "recording an event");
    *out = &m->w;
    return 0;
}

int cuda_op_weight_fill(struct backend *be, struct weight *w, const void *raw, struct err *e)
{
    struct cuda_backend *cb = cuda_of(be);
    cuda_enter(cb);
    cudaError_t begun = cuda_upload_begin(cb->upload);
    int rc = begun == cudaSuccess ? send_units(cb, cuda_matrix(w), raw, true, e) : 0;
    cudaError_t ended = cuda_upload_end(cb->upload);
    if (rc == 0 && (begun != cudaSuccess || ended != cudaSuccess))
        rc = err_set(e, ERR_DEVICE, "%s: an upload: %s", cb->name,
                     cudaGetErrorString(begun != cudaSuccess ? begun : ended));
    return rc;
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
    const int32_t id = (int32_t)row;
    const size_t bytes = (size_t)w->n_in * sizeof *dst;
    float *out = cuda_scratch(cb, bytes);
    const int32_t *ids = cuda_param_begin(cb, sizeof id) ? cuda_param(cb, &id, sizeof id) : NULL;
    if (!cb->dead)
        cuda_embed_launch(out, cuda_matrix(w)->data, w->type, (int)w->n_in, ids, 1,
                          cuda_stream(cb));
    cuda_mem_download(be, dst, out, bytes);
    be->sync(be, NULL);
}

void cuda_embed(struct backend *be, const struct op_embed *p)
{
    struct cuda_backend *cb = cuda_of(be);
    const int rows = cuda_op_rows(p->out), dim = cuda_op_cols(p->out);
    assert(dim == p->w->n_in);
    const size_t bytes = (size_t)rows * sizeof *p->ids;
    const int32_t *ids = p->there;
    if (!ids && cuda_param_begin(cb, bytes))
        ids = cuda_param(cb, p->ids, bytes);
    if (!cb->dead)
        cuda_embed_launch(p->out->data, cuda_matrix(p->w)->data, p->w->type, dim, ids, rows,
                          cuda_stream(cb));
    for (int r = 0; p->own && r < rows; r++)
        if (p->own[r])
            cuda_mem_copy(be, (float *)p->out->data + (int64_t)r * dim, p->own[r],
                          (size_t)dim * sizeof(float));
}

void cuda_linear(struct backend *be, const struct op_linear *p)
{
    struct cuda_backend *cb = cuda_of(be);
    struct cuda_linear_call call = {.rows = cuda_op_rows(p->x),
                                    .n_in = cuda_op_cols(p->x),
                                    .x = cuda_op_array(p->x),
                                    .add = cuda_op_array(p->add),
                                    .x_type = p->x_type,
                                    .kind = p->pre.kind,
                                    .pre = {.w = cuda_op_data(p->pre.w),
                                            .bias = cuda_op_data(p->pre.bias),
                                            .up = cuda_op_array(p->pre.up),
                                            .eps = p->pre.eps,
                                            .act = p->pre.act},
                                    .multiprocessors = cb->multiprocessors,
                                    .finished = cb->finished};
    for (int i = 0; i < LINEAR_MAX && p->w[i]; i++) {
        const struct weight *w = p->w[i];
        assert(w->n_in == call.n_in);
        call.m[call.n_matrices++] = (struct cuda_linear_matrix){.w = cuda_matrix(w)->data,
                                                                .bias = cuda_op_data(p->bias[i]),
                                                                .out = cuda_op_array(p->out[i]),
                                                                .type = w->type,
                                                                .n_out = (int)w->n_out};
    }
    if (cuda_op_blas(cb, &call))
        return;
    call.work = cuda_scratch(cb, cuda_linear_work_bytes(&call));
    if (!cb->dead)
        cuda_linear_launch(&call, cuda_stream(cb));
}
