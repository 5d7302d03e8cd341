/* The one array type.  Dims in PyTorch order, the last one fastest, always contiguous.
 * Thread: any. */
#ifndef KERNELS_TENSOR_H
#define KERNELS_TENSOR_H
#include <stddef.h>
#include <stdint.h>

/* Element types; the numbers are GGUF's (ggml docs/gguf.md), so a file's type is cast after
 * dtype_known().  F32, F16, BF16 and I32 are plain; the others are blocks (kernels/quant.h). */
enum dtype {
    DTYPE_F32 = 0,
    DTYPE_F16 = 1,
    DTYPE_Q4_0 = 2,
    DTYPE_Q4_1 = 3,
    DTYPE_Q5_0 = 6,
    DTYPE_Q5_1 = 7,
    DTYPE_Q8_0 = 8,
    DTYPE_Q2_K = 10,
    DTYPE_Q3_K = 11,
    DTYPE_Q4_K = 12,
    DTYPE_Q5_K = 13,
    DTYPE_Q6_K = 14,
    DTYPE_IQ4_NL = 20,
    DTYPE_I32 = 26,
    DTYPE_BF16 = 30,
    DTYPE_MXFP4 = 39,
    DTYPE_N = 40
};

/* Images are NHWC, so a feature map [n, h, w, c] is at the same time the token matrix
 * [n*h*w, c]. */
struct tensor {
    void *data; /* in the backend's memory; not owned */
    enum dtype type;
    int ndim;
    int64_t dims[4];
};

/* Where element i of a plain tensor stands. */
static inline void *tensor_at(const struct tensor *t, int64_t i)
{
    return (char *)t->data + i * (t->type == DTYPE_F16 || t->type == DTYPE_BF16 ? 2 : 4);
}
#endif
