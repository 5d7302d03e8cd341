/* Elementwise kernels: add, glu, act, prelu, concat.  Four elements a thread where the pointers allow it; an element's
 * bits do not depend on its place. */
#include "kernels/cuda/cuda_array.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/cuda_math.cuh"

#define ELEM_THREADS 256
#define ELEM_BLOCKS  65535

enum elem_op { ELEM_ADD, ELEM_GLU, ELEM_ACT };

/* out[i] = op(a[i], b[i]), n elements; b: no data for ELEM_ACT */
struct elem {
    struct cuda_array out, a, b;
    int64_t n;
    enum act act;
};

template <int op> __device__ static inline float elem_one(const struct elem &e, float a, float b)
{
    if (op == ELEM_ADD)
        return a + b;
    if (op == ELEM_GLU)
        return cuda_act(e.act, a) * b;
    return cuda_act(e.act, a);
}

template <int op, bool wide>
__global__ void __launch_bounds__(ELEM_THREADS) elem_kernel(struct elem e)
{
    const int64_t stride = (int64_t)gridDim.x * ELEM_THREADS;
    const int64_t first = (int64_t)blockIdx.x * ELEM_THREADS + threadIdx.x;
    int64_t done = 0;
    if (wide) {
        done = e.n / 4 * 4;
        for (int64_t i = first; i < e.n / 4; i += stride) {
            const float4 a = cuda_get4(e.a, i), b = op == ELEM_ACT ? a : cuda_get4(e.b, i);
            float4 o;
            o.x = elem_one<op>(e, a.x, b.x);
            o.y = elem_one<op>(e, a.y, b.y);
            o.z = elem_one<op>(e, a.z, b.z);
            o.w = elem_one<op>(e, a.w, b.w);
            cuda_set4(e.out, i, o);
        }
    }
    for (int64_t i = done + first; i < e.n; i += stride)
        cuda_set(e.out, i,
                 elem_one<op>(e, cuda_get(e.a, i), op == ELEM_ACT ? 0 : cuda_get(e.b, i)));
}

template <int op> static void elem_launch(const struct elem &e, cudaStream_t stream)
{
    if (e.n <= 0)
        return;
    const bool wide =
        cuda_array_wide(e.out) && cuda_array_wide(e.a) && cuda_array_wide(e.b) && e.n >= 4;
    int64_t blocks = (e.n / (wide ? 4 : 1) + ELEM_THREADS - 1) / ELEM_THREADS;
    blocks = blocks < 1 ? 1 : blocks < ELEM_BLOCKS ? blocks : ELEM_BLOCKS;
    if (wide)
        LAUNCH((elem_kernel<op, true>), (unsigned)blocks, ELEM_THREADS, 0, stream, e);
    else
        LAUNCH((elem_kernel<op, false>), (unsigned)blocks, ELEM_THREADS, 0, stream, e);
}

void cuda_add_launch(struct cuda_array out, struct cuda_array a, struct cuda_array b, int64_t n,
                     cudaStream_t stream)
{
    struct elem e = {};
    e.out = out, e.a = a, e.b = b, e.n = n;
    elem_launch<ELEM_ADD>(e, stream);
}

void cuda_glu_launch(struct cuda_array out, struct cuda_array gate, struct cuda_array up, int64_t n,
                     enum act act, cudaStream_t stream)
{
    struct elem e = {};
    e.out = out, e.a = gate, e.b = up, e.n = n, e.act = act;
    elem_launch<ELEM_GLU>(e, stream);
}

void cuda_act_launch(struct cuda_array out, struct cuda_array x, int64_t n, enum act act,
                     cudaStream_t stream)
{
    struct elem e = {};
    e.out = out, e.a = x, e.n = n, e.act = act;
    elem_launch<ELEM_ACT>(e, stream);
}

/* out, x [rows, c]   slope [c] */
__global__ void __launch_bounds__(ELEM_THREADS)
    prelu_kernel(struct cuda_array out, struct cuda_array x, const float *slope, int64_t rows,
                 int c)
{
    for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        for (int i = threadIdx.x; i < c; i += ELEM_THREADS) {
            const float v = cuda_get(x, r * c + i);
            cuda_set(out, r * c + i, fmaxf(v, 0.0f) + slope[i] * fminf(v, 0.0f));
        }
    }
}

void cuda_prelu_launch(struct cuda_array out, struct cuda_array x, const float *slope, int64_t rows,
                       int c, cudaStream_t stream)
{
    if (rows > 0)
        LAUNCH(prelu_kernel, (unsigned)(rows < ELEM_BLOCKS ? rows : ELEM_BLOCKS), ELEM_THREADS, 0,
               stream, out, x, slope, rows, c);
}

template <bool wide>
__device__ static inline void concat_one(const struct cuda_array &out, int64_t to,
                                         const struct cuda_array &from, int64_t at)
{
    if (wide)
        cuda_set4(out, to, cuda_get4(from, at));
    else
        cuda_set(out, to, cuda_get(from, at));
}

/* out [rows, ca + cb]; wide: ca and cb are counted in fours */
template <bool wide>
__global__ void __launch_bounds__(ELEM_THREADS)
    concat_kernel(struct cuda_array out, struct cuda_array a, struct cuda_array b, int64_t rows,
                  int ca, int cb)
{
    const int64_t n = rows * (ca + cb), stride = (int64_t)gridDim.x * ELEM_THREADS;
    for (int64_t i = (int64_t)blockIdx.x * ELEM_THREADS + threadIdx.x; i < n; i += stride) {
        const int64_t r = i / (ca + cb);
        const int c = (int)(i % (ca + cb));
        if (c < ca)
            concat_one<wide>(out, i, a, r * ca + c);
        else
            concat_one<wide>(out, i, b, r * cb + c - ca);
    }
}

void cuda_concat_launch(struct cuda_array out, struct cuda_array a, struct cuda_array b,
                        int64_t rows, int ca, int cb, cudaStream_t stream)
{
    const bool wide = ca % 4 == 0 && cb % 4 == 0 && cuda_array_wide(out) && cuda_array_wide(a) &&
                      cuda_array_wide(b);
    const int each = wide ? 4 : 1;
    const int64_t n = rows * (ca + cb) / each, blocks = (n + ELEM_THREADS - 1) / ELEM_THREADS;
    const unsigned grid = (unsigned)(blocks < ELEM_BLOCKS ? blocks : ELEM_BLOCKS);
    if (rows <= 0)
        return;
    if (wide)
        LAUNCH(concat_kernel<true>, grid, ELEM_THREADS, 0, stream, out, a, b, rows, ca / 4, cb / 4);
    else
        LAUNCH(concat_kernel<false>, grid, ELEM_THREADS, 0, stream, out, a, b, rows, ca, cb);
}
