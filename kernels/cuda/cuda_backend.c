/* Opening and closing a CUDA device, its streams, its errors, and the table of ops. */
#include "kernels/cuda/cuda_backend.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/cuda_pack.h"
#include "kernels/cuda/cuda_upload.h"

#define PARAM_BYTES ((size_t)4 << 20) /* of each half, at first */
#define PARAM_ALIGN 64
/* Of up to 8 arrays; and the queue sends whole rounds. */
#define PARAM_SLACK ((size_t)8 * PARAM_ALIGN + CUDA_QUEUE_ROUND)

void cuda_enter(const struct cuda_backend *cb)
{
    static _Thread_local int now = -1; /* nobody else calls cudaSetDevice */
    if (now != cb->device && cudaSetDevice(cb->device) == cudaSuccess)
        now = cb->device;
}

bool cuda_check(struct cuda_backend *cb, cudaError_t rc, const char *what)
{
    if (rc == cudaSuccess)
        return !cb->dead;
    if (!cb->dead)
        snprintf(cb->why, sizeof cb->why, "%s: %s", what, cudaGetErrorString(rc));
    cb->dead = true;
    return false;
}

cudaStream_t cuda_stream(struct cuda_backend *cb)
{
    cuda_enter(cb);
    if (cb->landing && !cb->dead) {
        cuda_check(cb, cudaEventRecord(cb->landed, cb->copy), "recording an event");
        cuda_check(cb, cudaStreamWaitEvent(cb->compute, cb->landed, 0), "waiting for an event");
        cb->landing = false;
    }
    cuda_queue_use(cb->be.graphs ? cb->queue : NULL);
    return cb->compute;
}

void cuda_flush(struct cuda_backend *cb)
{
    const char *what = "";
    if (cb->dead) {
        cuda_queue_forget(cb->queue);
        return;
    }
    cuda_enter(cb);
    cudaError_t rc = cuda_queue_flush(cb->queue, &what);
    cuda_check(cb, rc, what);
}

bool cuda_wait(struct cuda_backend *cb)
{
    cuda_flush(cb);
    if (cb->idle)
        cb->idle(cb);
    else if (!cb->dead)
        cuda_check(cb, cudaStreamSynchronize(cb->compute), "synchronizing");
    return !cb->dead;
}

cudaStream_t cuda_copy_stream(struct cuda_backend *cb)
{
    cuda_flush(cb);
    if (!cb->dead) {
        cuda_check(cb, cudaEventRecord(cb->queued, cb->compute), "recording an event");
        cuda_check(cb, cudaStreamWaitEvent(cb->copy, cb->queued, 0), "waiting for an event");
    }
    return cb->copy;
}

void cuda_copy(struct cuda_backend *cb, void *to, const void *from, size_t bytes,
               enum cudaMemcpyKind kind, const char *what)
{
    cudaStream_t stream = cuda_stream(cb);
    if (cb->be.graphs)
        cuda_queue_copy(cb->queue, to, from, bytes, kind);
    else
        cuda_check(cb, cudaMemcpyAsync(to, from, bytes, kind, stream), what);
}

/* ---- what ops point to ---- */

/* Starts the half over, when everything that read it is done. */
static void restart_params(struct cuda_backend *cb)
{
    struct cuda_params *p = &cb->params;
    p->used = p->half ? p->half_bytes : 0;
    p->end = p->used + p->half_bytes;
    p->n_recent = 0;
}

/* A ring whose halves are so large, in place of one that nothing reads any more. */
static cudaError_t make_params(struct cuda_backend *cb, size_t half_bytes)
{
    struct cuda_params *p = &cb->params;
    cudaFreeHost(p->host);
    cudaFree(p->device);
    p->host = p->device = NULL;
    cudaError_t rc = cudaMallocHost((void **)&p->host, 2 * half_bytes);
    if (rc == cudaSuccess)
        rc = cudaMalloc((void **)&p->device, 2 * half_bytes);
    p->half_bytes = half_bytes;
    restart_params(cb);
    return rc;
}

void cuda_param_turn(struct cuda_backend *cb)
{
    cb->params.half = !cb->params.half;
    restart_params(cb);
}

bool cuda_param_begin(struct cuda_backend *cb, size_t bytes)
{
    struct cuda_params *p = &cb->params;
    size_t half_bytes = p->half_bytes;
    if (cb->dead || bytes + PARAM_SLACK <= p->end - p->used)
        return !cb->dead;
    if (!cuda_wait(cb))
        return false;
    while (half_bytes < bytes + PARAM_SLACK)
        half_bytes *= 2;
    if (half_bytes > p->half_bytes)
        return cuda_check(cb, make_params(cb, half_bytes), "memory for an op's arguments");
    restart_params(cb);
    return true;
}

void *cuda_param_new(struct cuda_backend *cb, size_t bytes)
{
    struct cuda_params *p = &cb->params;
    size_t room = (bytes + PARAM_ALIGN - 1) / PARAM_ALIGN * PARAM_ALIGN;
    assert(cb->dead || room <= p->end - p->used);
    if (cb->dead)
        return NULL;
    void *at = p->host + p->used;
    p->used += room;
    return at;
}

/* The same array that is there already, or NULL. */
static const void *sent_before(const struct cuda_params *p, const void *host, size_t bytes)
{
    const int n = (int)(sizeof p->recent / sizeof *p->recent);
    for (int i = 0; i < n && i < p->n_recent; i++)
        if (p->recent[i].bytes == bytes && memcmp(p->host + p->recent[i].at, host, bytes) == 0)
            return p->device + p->recent[i].at;
    return NULL;
}

const void *cuda_param_send(struct cuda_backend *cb, void *filled, size_t bytes)
{
    struct cuda_params *p = &cb->params;
    size_t at = (size_t)((char *)filled - p->host);
    const void *there = cb->dead ? NULL : sent_before(p, filled, bytes);
    if (there) {
        p->used = at;
        return there;
    }
    cudaStream_t stream = cuda_stream(cb);
    if (cb->be.graphs && !cb->dead)
        cuda_queue_send(cb->queue, p->device + at, filled, bytes);
    else if (!cuda_check(
                 cb, cudaMemcpyAsync(p->device + at, filled, bytes, cudaMemcpyHostToDevice, stream),
                 "sending arguments"))
        return NULL;
    if (cb->dead)
        return NULL;
    const int n = (int)(sizeof p->recent / sizeof *p->recent);
    p->recent[p->n_recent++ % n].at = at;
    p->recent[(p->n_recent - 1) % n].bytes = bytes;
    return p->device + at;
}

const void *cuda_param(struct cuda_backend *cb, const void *host, size_t bytes)
{
    const void *there = cb->dead ? NULL : sent_before(&cb->params, host, bytes);
    void *to = there ? NULL : cuda_param_new(cb, bytes);
    if (!to)
        return there;
    memcpy(to, host, bytes);
    return cuda_param_send(cb, to, bytes);
}

void *cuda_scratch(struct cuda_backend *cb, size_t bytes)
{
    if (bytes <= cb->scratch_bytes)
        return cb->scratch;
    struct err e = {0};
    void *p = cuda_mem_alloc(&cb->be, bytes, &e);
    if (!p) {
        cuda_check(cb, cudaErrorMemoryAllocation, "scratch");
        return NULL;
    }
    cuda_mem_free(&cb->be, cb->scratch);
    cb->scratch = p;
    cb->scratch_bytes = bytes;
    return p;
}

/* ---- the interface ---- */

static int sync_device(struct backend *be, struct err *e)
{
    struct cuda_backend *cb = cuda_of(be);
    cuda_enter(cb);
    cuda_flush(cb);
    cuda_check(cb, cudaGetLastError(), "a kernel was not launched");
    if (!cb->dead)
        cuda_check(cb, cudaStreamSynchronize(cb->compute), "a kernel failed");
    if (!cb->dead && (cb->landing || cb->n_landings > 0))
        cuda_check(cb, cudaStreamSynchronize(cb->copy), "a copy failed");
    cb->landing = false;
    restart_params(cb);
    if (cb->dead)
        return err_set(e, ERR_DEVICE, "%s: %s", cb->name, cb->why);
    cuda_mem_land(cb);
    return 0;
}

static void close_device(struct backend *be)
{
    struct cuda_backend *cb = cuda_of(be);
    cuda_enter(cb);
    cuda_mem_free(be, cb->scratch);
    cudaFreeHost(cb->params.host);
    cudaFree(cb->params.device);
    cudaFree(cb->finished);
    cuda_mem_close(cb);
    cuda_upload_close(cb->upload);
    cuda_pack_close(cb->pack);
    cuda_queue_close(cb->queue);
    cuda_op_blas_close(cb); /* whose code graphs may have */
    if (cb->queued)
        cudaEventDestroy(cb->queued);
    if (cb->landed)
        cudaEventDestroy(cb->landed);
    for (int i = 0; i < CHOOSE_SLOTS; i++)
        if (cb->chosen[i])
            cudaEventDestroy(cb->chosen[i]);
    if (cb->copy)
        cudaStreamDestroy(cb->copy);
    if (cb->compute)
        cudaStreamDestroy(cb->compute);
    free(cb);
}

int cuda_backend_count(void)
{
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

static int open_device(struct cuda_backend *cb, struct err *e)
{
    struct cudaDeviceProp properties;
    cuda_enter(cb);
    cudaError_t rc = cudaGetDeviceProperties(&properties, cb->device);
    if (rc == cudaSuccess) {
        cb->multiprocessors = properties.multiProcessorCount;
        rc = cudaStreamCreateWithFlags(&cb->compute, cudaStreamNonBlocking);
    }
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithFlags(&cb->copy, cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaEventCreateWithFlags(&cb->queued, cudaEventDisableTiming);
    if (rc == cudaSuccess)
        rc = cudaEventCreateWithFlags(&cb->landed, cudaEventDisableTiming);
    for (int i = 0; i < CHOOSE_SLOTS && rc == cudaSuccess; i++)
        rc = cudaEventCreateWithFlags(&cb->chosen[i], cudaEventDisableTiming);
    if (rc == cudaSuccess)
        rc = make_params(cb, PARAM_BYTES);
    const size_t finished_bytes = (size_t)cb->multiprocessors * sizeof *cb->finished;
    if (rc == cudaSuccess)
        rc = cudaMalloc((void **)&cb->finished, finished_bytes);
    if (rc == cudaSuccess)
        rc = cudaMemsetAsync(cb->finished, 0, finished_bytes, cb->compute);
    if (rc == cudaSuccess)
        return 0;
    cudaGetLastError(); /* told to the caller, not to the next sync */
    return err_set(e, rc == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_DEVICE, "%s: %s", cb->name,
                   cudaGetErrorString(rc));
}

/* clang-format off */
static const struct backend_ops cuda_table = {
#define X(op) .op = cuda_##op,
    BACKEND_OPS(X)
#undef X
};
/* clang-format on */

int cuda_backend_open(struct backend **out, int device, struct err *e)
{
    const int n = cuda_backend_count();
    if (device < 0 || device >= n)
        return err_set(e, ERR_UNSUPPORTED, "cuda:%d: there are %d CUDA devices", device, n);
    struct cuda_backend *cb = xcalloc(1, sizeof *cb);
    cb->device = device;
    snprintf(cb->name, sizeof cb->name, "cuda:%d", device);
    cb->be = (struct backend){
        .ops = &cuda_table,
        .name = cb->name,
        .n_threads = 1,
        .halves = true,
        .alloc = cuda_mem_alloc,
        .free = cuda_mem_free,
        .host_alloc = cuda_mem_host,
        .host_free = cuda_mem_host_free,
        .upload = cuda_mem_upload,
        .download = cuda_mem_download,
        .copy = cuda_mem_copy,
        .range_open = cuda_range_open,
        .range_close = cuda_range_close,
        .range_fill = cuda_range_fill,
        .range_drop = cuda_range_drop,
        .choose = cuda_op_choose,
        .chosen = cuda_op_chosen,
        .free_bytes = cuda_mem_free_bytes,
        .sync = sync_device,
        .close = close_device,
        .kv_bytes = cuda_op_kv_bytes,
        .weight_open = cuda_op_weight_open,
        .weight_place = cuda_op_weight_place,
        .weight_fill = cuda_op_weight_fill,
        .weight_close = cuda_op_weight_close,
        .weight_bytes = cuda_op_weight_bytes,
        .weight_row = cuda_op_weight_row,
        .limits = cuda_op_limits,
        .blas = cuda_op_blas_open,
    };
    int rc = open_device(cb, e);
    if (rc == 0)
        cuda_queue_open(&cb->queue, cb->compute);
    if (rc == 0)
        rc = cuda_mem_open(cb, e);
    if (rc == 0 && (rc = cuda_upload_open(&cb->upload, e)) != 0)
        err_wrap(e, "%s", cb->name);
    if (rc == 0)
        rc = cuda_pack_open(&cb->pack, e);
    if (rc) {
        close_device(&cb->be);
        return rc;
    }
    *out = &cb->be;
    return 0;
}
