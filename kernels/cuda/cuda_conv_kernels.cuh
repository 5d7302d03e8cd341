/* Where the elements of a convolution's windows lie and where its results go:
 * shared by its kernels. Thread: any. */
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
    const int tap = k / x.c_in, half = x.up - 1;
    const int y = p.y * x.stride + tap / x.kernel - x.pad_before;
    const int col = p.x * x.stride + tap % x.kernel - x.pad_before;
    /* what is read twice is as large as out */
    if (y < 0 || col < 0 || y >= (x.up > 1 ? x.ho : x.h) || col >= (x.up > 1 ? x.wo : x.w))
        return -1;
    return (((int64_t)p.image * x.h + (y >> half)) * x.w + (col >> half)) * x.c_in + k % x.c_in;
}

#define CONV_TAPS 30 /* of a window, at most, that conv_view knows */

/* The window of a pixel: element 0 of its first tap, which may lie outside, and which taps lie within the image, bit
 * by bit.  Where pixels stand 2 x 2: whether it begins at an odd row (1) and column (2) of them. */
struct alignas(16) conv_view {
    int64_t first;
    uint32_t taps, odd;
};

__device__ static inline struct conv_view conv_view(const struct cuda_window &x,
                                                    const struct conv_at &p)
{
    const int y = p.y * x.stride - x.pad_before, col = p.x * x.stride - x.pad_before;
    const int half = x.up - 1;
    struct conv_view v;
    v.first = (((int64_t)p.image * x.h + (y >> half)) * x.w + (col >> half)) * x.c_in;
    v.taps = 0;
    v.odd = (uint32_t)((y & half) | (col & half) << 1);
    for (int t = 0; t < x.kernel * x.kernel; t++)
        if (conv_element(x, p, t * x.c_in) >= 0)
            v.taps |= 1u << t;
    return v;
}

/* Element k of all windows, as its tap's row and column and channel: divided once, then walked. */
struct conv_walk {
    int k, y, x, c;
};

__device__ static inline struct conv_walk conv_walk_from(const struct cuda_window &x, int k)
{
    const int tap = k / x.c_in;
    struct conv_walk w;
    w.k = k;
    w.y = tap / x.kernel;
    w.x = tap - w.y * x.kernel;
    w.c = k - tap * x.c_in;
    return w;
}

__device__ static inline void conv_walk_on(struct conv_walk *w, const struct cuda_window &x, int n)
{
    w->k += n;
    for (w->c += n; w->c >= x.c_in; w->c -= x.c_in)
        if (++w->x == x.kernel)
            w->x = 0, w->y++;
}

/* Its tap, how far it is from a window's first element, and what is to be added for windows that begin at an odd
 * row or column. */
struct conv_step {
    uint32_t tap;
    int away, odd_down, odd_right;
};

__device__ static inline struct conv_step conv_step(const struct cuda_window &x,
                                                    const struct conv_walk &w, int n_k)
{
    const int half = x.up - 1;
    struct conv_step s;
    s.tap = w.k < n_k ? 1u << (w.y * x.kernel + w.x) : 0; /* none behind the last one */
    s.away = ((w.y >> half) * x.w + (w.x >> half)) * x.c_in + w.c;
    s.odd_down = w.y & half ? x.w * x.c_in : 0;
    s.odd_right = w.x & half ? x.c_in : 0;
    return s;
}

/* Where it stands in x, if v.taps & s.tap. */
__device__ static inline int64_t conv_step_element(const struct conv_view &v,
                                                   const struct conv_step &s)
{
    return v.first + (s.away + (v.odd & 1 ? s.odd_down : 0) + (v.odd & 2 ? s.odd_right : 0));
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

/* Four outputs from o on of a pixel: sums times scale. */
__device__ static inline void conv_store_quad(const struct cuda_conv_call &c,
                                              const struct conv_at &p, int o, float4 sum,
                                              float scale)
{
    const int64_t at = (((int64_t)p.image * c.x.ho + p.y) * c.x.wo + p.x) * c.c_out + o;
    const int left = c.c_out - o;
    float4 v = make_float4(sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale);
    if (c.bias)
        v = cuda_quad_add(v, cuda_quad_get(c.bias + o, left));
    if (c.add_image.data)
        v = cuda_quad_add(v, cuda_get_quad(c.add_image, (int64_t)p.image * c.c_out + o, left));
    if (c.add.data)
        v = cuda_quad_add(v, cuda_get_quad(c.add, at, left));
    v = make_float4(cuda_act(c.act, v.x), cuda_act(c.act, v.y), cuda_act(c.act, v.z),
                    cuda_act(c.act, v.w));
    cuda_set_quad(c.out, at, left, v);
}

void conv_f32_launch(const struct cuda_conv_call *c, cudaStream_t stream);
#endif
