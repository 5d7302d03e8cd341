/* Elementwise kernels: act, glu, add, concat, and what a step of an image's noise schedule needs.  Four
 * elements a thread where the pointers allow it; an element's bits do not depend on its place. */
#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/cuda_math.cuh"

#define ELEM_THREADS 256
#define ELEM_BLOCKS  65535

enum elem_op { ELEM_ADD, ELEM_GLU, ELEM_ACT, ELEM_MIX };

/* out[i] = op(a[i], b[i]) */
struct elem {
    float *out;
    const float *a, *b;
    int64_t n;
    float ca, cb; /* of mix */
    enum act act;
};

template <int op> __device__ static inline float elem_one(const struct elem &e, float a, float b)
{
    if (op == ELEM_ADD)
        return a + b;
    if (op == ELEM_GLU)
        return cuda_act(e.act, a) * b;
    if (op == ELEM_MIX)
        return fmaf(e.ca, a, e.cb * b);
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
            const float4 a = reinterpret_cast<const float4 *>(e.a)[i];
            const float4 b = op == ELEM_ACT ? a : reinterpret_cast<const float4 *>(e.b)[i];
            float4 o;
            o.x = elem_one<op>(e, a.x, b.x);
            o.y = elem_one<op>(e, a.y, b.y);
            o.z = elem_one<op>(e, a.z, b.z);
            o.w = elem_one<op>(e, a.w, b.w);
            reinterpret_cast<float4 *>(e.out)[i] = o;
        }
    }
    for (int64_t i = done + first; i < e.n; i += stride)
        e.out[i] = elem_one<op>(e, e.a[i], op == ELEM_ACT ? 0.0f : e.b[i]);
}

template <int op> static void elem_launch(const struct elem &e, cudaStream_t stream)
{
    if (e.n <= 0)
        return;
    const uintptr_t all = (uintptr_t)e.out | (uintptr_t)e.a | (uintptr_t)(e.b ? e.b : e.a);
    const bool wide = all % 16 == 0 && e.n >= 4;
    int64_t blocks = (e.n / (wide ? 4 : 1) + ELEM_THREADS - 1) / ELEM_THREADS;
    blocks = blocks < 1 ? 1 : blocks < ELEM_BLOCKS ? blocks : ELEM_BLOCKS;
    if (wide)
        LAUNCH((elem_kernel<op, true>), (unsigned)blocks, ELEM_THREADS, 0, stream, e);
    else
        LAUNCH((elem_kernel<op, false>), (unsigned)blocks, ELEM_THREADS, 0, stream, e);
}

void cuda_add_launch(float *out, const float *a, const float *b, int64_t n, cudaStream_t stream)
{
    struct elem e = {};
    e.out = out, e.a = a, e.b = b, e.n = n;
    elem_launch<ELEM_ADD>(e, stream);
}

void cuda_mix_launch(float *out, const float *a, float ca, const float *b, float cb, int64_t n,
                     cudaStream_t stream)
{
    struct elem e = {};
    e.out = out, e.a = a, e.b = b, e.n = n, e.ca = ca, e.cb = cb;
    elem_launch<ELEM_MIX>(e, stream);
}

void cuda_glu_launch(float *out, const float *gate, const float *up, int64_t n, enum act act,
                     cudaStream_t stream)
{
    struct elem e = {};
    e.out = out, e.a = gate, e.b = up, e.n = n, e.act = act;
    elem_launch<ELEM_GLU>(e, stream);
}

void cuda_act_launch(float *out, const float *x, int64_t n, enum act act, cudaStream_t stream)
{
    struct elem e = {};
    e.out = out, e.a = x, e.n = n, e.act = act;
    elem_launch<ELEM_ACT>(e, stream);
}

/* out, x [rows, c]   slope [c] */
__global__ void __launch_bounds__(ELEM_THREADS)
    prelu_kernel(float *out, const float *x, const float *slope, int64_t rows, int c)
{
    for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        for (int i = threadIdx.x; i < c; i += ELEM_THREADS) {
            const float v = x[r * c + i];
            out[r * c + i] = fmaxf(v, 0.0f) + slope[i] * fminf(v, 0.0f);
        }
    }
}

void cuda_prelu_launch(float *out, const float *x, const float *slope, int64_t rows, int c,
                       cudaStream_t stream)
{
    if (rows > 0)
        LAUNCH(prelu_kernel, (unsigned)(rows < ELEM_BLOCKS ? rows : ELEM_BLOCKS), ELEM_THREADS, 0,
               stream, out, x, slope, rows, c);
}

/* out [rows, ca + cb] */
__global__ void __launch_bounds__(ELEM_THREADS)
    concat_kernel(float *out, const float *a, const float *b, int64_t rows, int ca, int cb)
{
    for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        float *to = out + r * (ca + cb);
        for (int i = threadIdx.x; i < ca; i += ELEM_THREADS)
            to[i] = a[r * ca + i];
        for (int i = threadIdx.x; i < cb; i += ELEM_THREADS)
            to[ca + i] = b[r * cb + i];
    }
}

void cuda_concat_launch(float *out, const float *a, const float *b, int64_t rows, int ca, int cb,
                        cudaStream_t stream)
{
    if (rows > 0)
        LAUNCH(concat_kernel, (unsigned)(rows < ELEM_BLOCKS ? rows : ELEM_BLOCKS), ELEM_THREADS, 0,
               stream, out, a, b, rows, ca, cb);
}
