/* Where the elements of a convolution's windows lie and where its results go: shared by its kernels.
 * Thread: any. */
#ifndef KERNELS_CUDA_CUDA_CONV_KERNELS_CUH
#define KERNELS_CUDA_CUDA_CONV_KERNELS_CUH
#include "kernels/cuda/cuda_array.cuh"
#include "kernels/cuda/cuda_conv.h"
#include "kernels/cuda/cuda_math.cuh"

/* An output pixel. */
struct conv_at {
    int image, y, x;
};

/* Pixel i of rows [y_begin, y_begin + n_y) of all images. */
__device__ static inline struct conv_at conv_at(const struct cuda_window &x, int64_t i, int y_begin,
                                                int n_y)
{
    const int64_t line = i / x.wo;
    struct conv_at p;
    p.image = (int)(line / n_y);
    p.y = (int)(line % n_y) + y_begin;
    p.x = (int)(i % x.wo);
    return p;
}

/* Where element k of a pixel's window stands in x, -1 outside of the image. */
__device__ static inline int64_t conv_element(const struct cuda_window &x, const struct conv_at &p,
                                              int k)
{
    const int tap = k / x.c_in;
    const int y = p.y * x.stride + tap / x.kernel - x.pad_before;
    const int col = p.x * x.stride + tap % x.kernel - x.pad_before;
    /* what is read twice is as large as out */
    if (y < 0 || col < 0 || y >= (x.up > 1 ? x.ho : x.h) || col >= (x.up > 1 ? x.wo : x.w))
        return -1;
    return (((int64_t)p.image * x.h + y / x.up) * x.w + col / x.up) * x.c_in + k % x.c_in;
}

__device__ static inline void conv_store(const struct cuda_conv_call &c, const struct conv_at &p,
                                         int o, float v)
{
    const int64_t at = (((int64_t)p.image * c.x.ho + p.y) * c.x.wo + p.x) * c.c_out + o;
    if (c.bias)
        v += c.bias[o];
    if (c.add_image.data)
        v += cuda_get(c.add_image, (int64_t)p.image * c.c_out + o);
    if (c.add.data)
        v += cuda_get(c.add, at);
    cuda_set(c.out, at, cuda_act(c.act, v));
}

void conv_f32_launch(const struct cuda_conv_call *c, cudaStream_t stream);
#endif
