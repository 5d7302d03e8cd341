/* The few words in which our kernels differ from plain CUDA, so that nvcc builds them for the device and
 * the host's compiler builds the same source for tests, with headers of the same names found first.
 * Included only by kernels/cuda; launchers run on the thread of the backend.
 *
 *     LAUNCH((gemv<4>), grid, block, shared_bytes, stream, out, x, n);
 *     LAUNCH_EARLY(rows, ...)               the same of a kernel with a cuda_grid_wait (cuda_ptx.cuh), early if
 *                                           the rows are few
 *     SHARED(float, tile, [32][33]);        in a kernel: shared memory of fixed size
 *     SHARED_DYN(float, rows);              in a kernel: float *rows, the launch's shared_bytes
 *
 * Built with -fmad=false: write fmaf() where one rounding is wanted, so that every build gives the
 * same bits.  All threads of a block reach every __syncthreads; no block waits for another one. */
#ifndef KERNELS_CUDA_CUDA_DIALECT_CUH
#define KERNELS_CUDA_CUDA_DIALECT_CUH
#include <cuda_runtime.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/cuda/cuda_queue.h"

#define CUDA_WARP 32
#define CUDA_ALL  0xffffffffu /* every lane of a warp */
/* What so few rows take is not arithmetic but waiting: for memory, and for one kernel after another. */
#define CUDA_FEW_ROWS 64

/* clang-format off */
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    cuda_launch(#kernel, false, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define LAUNCH_EARLY(rows, kernel, grid, block, shared_bytes, stream, ...) \
    cuda_launch(#kernel, (rows) <= CUDA_FEW_ROWS, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

#ifdef __CUDACC__
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define SHARED_DYN(type, name)                                   \
    extern __shared__ __align__(16) unsigned char cuda_dynamic[]; \
    type *name = reinterpret_cast<type *>(cuda_dynamic)
#else
#define SHARED(type, name, dims)                          \
    typedef type name##_type dims;                        \
    static const int name##_site = cuemu_shared_site();   \
    name##_type &name = *static_cast<name##_type *>(      \
        cuemu_shared(name##_site, sizeof(name##_type), 16))
#define SHARED_DYN(type, name) type *name = static_cast<type *>(cuemu_shared_dynamic())
#endif
/* clang-format on */

/* A launch, at once or held back (cuda_queue.h).  Its error stays with the runtime until the backend's next
 * sync asks. */
template <class... P>
static inline void cuda_launch_typed(bool early, void (*kernel)(P...), dim3 grid, dim3 block,
                                     size_t shared_bytes, cudaStream_t stream, P... args)
{
    void *list[] = {(void *)&args...};
    const size_t bytes[] = {sizeof(P)...};
    const struct cuda_queue_kernel k = {reinterpret_cast<const void *>(kernel),
                                        {grid.x, grid.y, grid.z},
                                        {block.x, block.y, block.z},
                                        shared_bytes,
                                        list,
                                        bytes,
                                        (int)sizeof...(P),
                                        early};
    cuda_queue_launch(&k, stream);
}

template <class... P, class... A>
static inline void cuda_launch(const char *name, bool early, void (*kernel)(P...), dim3 grid,
                               dim3 block, size_t shared_bytes, cudaStream_t stream, A... args)
{
    static_assert(sizeof...(P) == sizeof...(A), "number of arguments");
#ifdef __CUDACC__
    (void)name;
#else
    cuemu_know(name, kernel);
#endif
    cuda_launch_typed<P...>(early, kernel, grid, block, shared_bytes, stream,
                            static_cast<P>(args)...);
}

/* v = F::of(v, the v of the lane whose number differs by x) for x = first, then half or twice of that until
 * last. So groups of lanes get the same result, in an order that depends on nothing. */
template <class F, int first, int last, class T> __device__ static inline T cuda_exchange(T v)
{
#ifdef __CUDACC__
    v = F::of(v, __shfl_xor_sync(CUDA_ALL, v, first));
    constexpr int next = first < last ? 2 * first : first / 2;
    if constexpr (first != last)
        v = cuda_exchange<F, next, last>(v);
    return v;
#else
    return cuemu_exchange<F>(v, first, last, __FILE__, __LINE__);
#endif
}

struct cuda_add {
    template <class T> __device__ static inline T of(T a, T b) { return a + b; }
};
struct cuda_larger { /* NaN: below all floats, above all of their bits */
    __device__ static inline float of(float a, float b) { return fmaxf(a, b); }
    __device__ static inline unsigned of(unsigned a, unsigned b) { return a > b ? a : b; }
};
/* Or b where that is NaN; a NaN a goes.  Softmax would do with fmaxf, since the weight of a NaN score is NaN whatever is
 * subtracted from it, but nvcc then takes more registers (dense_kernel<48, 64, f16>: 186 for 168 on sm_100). */
struct cuda_larger_or_nan {
    __device__ static inline float of(float a, float b) { return !(b <= a) ? b : a; }
};

/* Over all lanes of a warp. */
__device__ static inline float cuda_warp_sum(float v)
{
    return cuda_exchange<cuda_add, CUDA_WARP / 2, 1>(v);
}

__device__ static inline float cuda_warp_max(float v)
{
    return cuda_exchange<cuda_larger, CUDA_WARP / 2, 1>(v);
}

/* Over a block of whole warps (at most 1024 threads); partial: shared memory of 32 floats. */
__device__ static inline float cuda_block_sum(float v, float *partial)
{
    const int lane = threadIdx.x % CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    const int n_warps = (blockDim.x + CUDA_WARP - 1) / CUDA_WARP;
    v = cuda_warp_sum(v);
    __syncthreads(); /* partial may still be read */
    if (lane == 0)
        partial[warp] = v;
    __syncthreads();
    v = cuda_warp_sum(lane < n_warps ? partial[lane] : 0.0f);
    return v;
}
#endif
