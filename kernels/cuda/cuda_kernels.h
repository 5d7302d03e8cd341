/* The launchers of the CUDA kernels, for the C side.  All pointers are device memory; every launch is
 * queued in the stream; errors are told by the next synchronisation.
 * Thread: the backend's. */
#ifndef KERNELS_CUDA_CUDA_KERNELS_H
#define KERNELS_CUDA_CUDA_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out, x [rows, dim]   w [dim] */
void cuda_rmsnorm_launch(float *out, const float *x, const float *w, int rows, int dim, float eps,
                         cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
