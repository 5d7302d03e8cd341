/* Weights on their way to the device beside the ops of its owner.  A stream of its own and two pieces of pinned
 * memory: while one is copied the next is packed.  The first copy waits until the compute stream has come to where
 * the weight's memory was taken (an earlier user of it may still run, and it is cleared there); nothing in the
 * compute stream waits for a copy, for nobody knows the weight before weight_fill has returned. */
#include "kernels/cuda/cuda_upload.h"

#include <stdlib.h>

#include "base/arena.h"

enum { PIECES = 2 };

struct cuda_upload {
    cudaStream_t stream;
    cudaEvent_t placed, copied[PIECES];
    char *pinned; /* PIECES of CUDA_PIECE_BYTES */
    int next;     /* piece */
};

int cuda_upload_open(struct cuda_upload **out, struct err *e)
{
    struct cuda_upload *u = xcalloc(1, sizeof *u);
    *out = u;
    cudaError_t rc = cudaStreamCreateWithFlags(&u->stream, cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaEventCreateWithFlags(&u->placed, cudaEventDisableTiming);
    for (int i = 0; i < PIECES && rc == cudaSuccess; i++)
        rc = cudaEventCreateWithFlags(&u->copied[i], cudaEventDisableTiming);
    if (rc == cudaSuccess)
        rc = cudaMallocHost((void **)&u->pinned, PIECES * CUDA_PIECE_BYTES);
    if (rc == cudaSuccess)
        return 0;
    cudaGetLastError();
    return err_set(e, rc == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_DEVICE,
                   "memory for uploads: %s", cudaGetErrorString(rc));
}

void cuda_upload_close(struct cuda_upload *u)
{
    if (!u)
        return;
    cudaFreeHost(u->pinned);
    if (u->placed)
        cudaEventDestroy(u->placed);
    for (int i = 0; i < PIECES; i++)
        if (u->copied[i])
            cudaEventDestroy(u->copied[i]);
    if (u->stream)
        cudaStreamDestroy(u->stream);
    free(u);
}

cudaError_t cuda_upload_placed(struct cuda_upload *u, cudaStream_t compute)
{
    return cudaEventRecord(u->placed, compute);
}

cudaError_t cuda_upload_begin(struct cuda_upload *u)
{
    return cudaStreamWaitEvent(u->stream, u->placed, 0);
}

cudaError_t cuda_upload_take(struct cuda_upload *u, char **piece)
{
    cudaError_t rc = cudaEventSynchronize(u->copied[u->next]); /* of what was in it before */
    *piece = rc == cudaSuccess ? u->pinned + (size_t)u->next * CUDA_PIECE_BYTES : NULL;
    return rc;
}

cudaError_t cuda_upload_send(struct cuda_upload *u, void *to, size_t bytes)
{
    const char *piece = u->pinned + (size_t)u->next * CUDA_PIECE_BYTES;
    cudaError_t rc = cudaMemcpyAsync(to, piece, bytes, cudaMemcpyHostToDevice, u->stream);
    if (rc == cudaSuccess)
        rc = cudaEventRecord(u->copied[u->next], u->stream);
    u->next = (u->next + 1) % PIECES;
    return rc;
}

cudaError_t cuda_upload_end(struct cuda_upload *u)
{
    return cudaStreamSynchronize(u->stream);
}
