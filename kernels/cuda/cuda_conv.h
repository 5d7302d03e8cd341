/* conv2d and lowrank on the device, for C.
 * Thread: the backend's.
 *
 * F16 and BF16 weights are multiplied on tensor cores as a product of matrices that are never built
 * (cuda_conv.cu).  An image of f32 becomes halves once, scaled by a power of two of its own, with what they
 * lost in second halves; an image of the weights' type is read as it stands.  F32 weights are multiplied in f32.  An image's bits do not depend on its
 * neighbours, nor on y_begin and y_end. */
#ifndef KERNELS_CUDA_CUDA_CONV_H
#define KERNELS_CUDA_CUDA_CONV_H
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>

#include "kernels/cuda/cuda_array.h"
#include "kernels/ops.h"

/* The windows of a convolution: pixels of x [n, h, w, c_in] around those of out [n, ho, wo]. */
struct cuda_window {
    struct cuda_array x;
    int n, h, w, c_in, ho, wo;
    int kernel, stride, pad_before, up; /* up: 2 if every pixel stands there 2 x 2, else 1 */
};

struct cuda_conv_call {
    struct cuda_window x;
    const void *w; /* in the layout of cuda_layout.h */
    enum dtype type;
    int c_out, y_begin, n_y;
    struct cuda_array out, add_image, add; /* the last two may be none, as in op_conv2d */
    const float *bias;                     /* or NULL */
    enum act act;
    int multiprocessors; /* of the device */
    int *finished;       /* as many zeros on the device, which are zeros again afterwards */
    void *work;          /* cuda_conv_work_bytes */
};

/* One term of one image: rows [first, first + rows) of out, numbered through all images. */
struct cuda_lowrank_call {
    struct cuda_window x;  /* kernel 1, stride 1, up 1: x is the rows [rows, c_in] themselves */
    struct cuda_array out; /* [rows, c_out] */
    const void *down, *up;
    enum dtype down_type, up_type;
    int64_t first, rows;
    int rank, c_out;
    float scale;
    float *hidden; /* [rows, rank] */
};

#ifdef __cplusplus
extern "C" {
#endif
size_t cuda_conv_work_bytes(const struct cuda_conv_call *c);
void cuda_conv_launch(const struct cuda_conv_call *c, cudaStream_t stream);
void cuda_lowrank_launch(const struct cuda_lowrank_call *c, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
