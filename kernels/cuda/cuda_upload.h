/* The way of weights to the device beside its owner's ops; cuda_upload.c has the design.
 * Thread: one at a time, any but for cuda_upload_placed, which is the owner's as open and close are.  Errors are
 * the caller's to tell: nothing of struct cuda_backend is touched here. */
#ifndef KERNELS_CUDA_CUDA_UPLOAD_H
#define KERNELS_CUDA_CUDA_UPLOAD_H
#include <cuda_runtime_api.h>
#include <stddef.h>

#include "base/err.h"

#define CUDA_PIECE_BYTES ((size_t)2 << 20)

struct cuda_upload;

/* *out is set in any case. */
int cuda_upload_open(struct cuda_upload **out, struct err *e);
void cuda_upload_close(struct cuda_upload *u); /* NULL is nothing */
/* What is sent from the next cuda_upload_begin on comes after what is in the compute stream now. */
cudaError_t cuda_upload_placed(struct cuda_upload *u, cudaStream_t compute);
cudaError_t cuda_upload_begin(struct cuda_upload *u);
/* Pinned memory of CUDA_PIECE_BYTES to be filled; once what was in it before is on the device. */
cudaError_t cuda_upload_take(struct cuda_upload *u, char **piece);
/* The first bytes of what was taken last. */
cudaError_t cuda_upload_send(struct cuda_upload *u, void *to, size_t bytes);
/* Until all that was sent is there; also after a failure, before the memory is anybody else's. */
cudaError_t cuda_upload_end(struct cuda_upload *u);
#endif
