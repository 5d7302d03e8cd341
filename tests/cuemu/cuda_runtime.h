/* The CUDA language on the host, for the kernels of kernels/cuda: found before the real header by -I.
 *
 * A thread of a block is a fiber (fiber.cpp); it goes on until it meets a barrier or a warp operation.
 * Words of the language become macros, intrinsics become functions over cuemu_warp. */
#ifndef TESTS_CUEMU_CUDA_RUNTIME_H
#define TESTS_CUEMU_CUDA_RUNTIME_H
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tests/cuemu/cuda_runtime_api.h"
#include "tests/cuemu/cuda_types.h"

#define __global__ static
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__

/* ---- who am I */

/* What a thread keeps of products of tensor cores (mma.cpp) until its warp waits for them. */
enum { CUEMU_PRODUCTS = 32 };
struct cuemu_product {
    uint32_t a[4], b[2];
    float *c;
};
struct alignas(64) cuemu_products { /* so neighbours' begin at different lines of the cache */
    cuemu_product of[CUEMU_PRODUCTS];
    bool bf16[CUEMU_PRODUCTS];
    int line[CUEMU_PRODUCTS]; /* of the source: that of all lanes */
};

struct cuemu_thread {
    uint3 thread;
    unsigned lane, warp;
    int n_products;
    cuemu_products *products;
};
struct cuemu_block {
    uint3 block;
    dim3 block_dim, grid_dim;
};
extern struct cuemu_thread *cuemu_self;
extern struct cuemu_block cuemu_here;

#define threadIdx (cuemu_self->thread)
#define blockIdx  (cuemu_here.block)
#define blockDim  (cuemu_here.block_dim)
#define gridDim   (cuemu_here.grid_dim)
static const int warpSize = 32;

/* ---- meeting others */

enum cuemu_op {
    CUEMU_SYNCWARP,
    CUEMU_SHFL,
    CUEMU_VOTE,
    CUEMU_MATCH,
    CUEMU_REDUCE,
    CUEMU_LDMATRIX,
    CUEMU_MMA,
    CUEMU_OTHER
};

/* Waits for all lanes of mask with the same op; the last one calls fn with what every lane gave as
 * `mine` (NULL for lanes outside of the mask), which fn may read and write; then all go on. */
#if defined(__SANITIZE_THREAD__)
#define CUEMU_UNSEEN \
    __attribute__((no_sanitize("thread"))) /* it orders nothing and races with nobody */
#else
#define CUEMU_UNSEEN
#endif
typedef void cuemu_warp_fn(void **lanes, unsigned mask);
void cuemu_warp(enum cuemu_op op, unsigned mask, cuemu_warp_fn *fn, void *mine, const char *file,
                int line);
void cuemu_sync_threads(const char *file, int line);
/* Waits like cuemu_sync_threads; the sum over the block of value. */
int cuemu_sync_sum(int value, const char *file, int line);
/* Computes the products that all lanes have noted. */
void cuemu_mma_wait(const char *file, int line);
/* Every thread of an early kernel, once. */
void cuemu_grid_wait(const char *file, int line);
/* ldmatrix.x4 as in cuda_ptx.cuh: row is where the lane's row of a matrix begins. */
void cuemu_ldmatrix(uint32_t r[4], const void *row, bool transposed, const char *file, int line);
/* Stops the kernel; the device is dead with the error. */
[[noreturn]] void cuemu_trap(cudaError_t error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* mma.m16n8k16, fragments as in cuda_ptx.cuh: c is written at the next wait, which all lanes reach. */
CUEMU_UNSEEN static inline void cuemu_mma(float c[4], const uint32_t a[4], const uint32_t b[2],
                                          bool bf16, const char *file, int line)
{
    if (cuemu_self->n_products == CUEMU_PRODUCTS)
        cuemu_mma_wait(file, line);
    cuemu_products *mine = cuemu_self->products;
    const int n = cuemu_self->n_products++;
    memcpy(mine->of[n].a, a, sizeof mine->of[n].a);
    memcpy(mine->of[n].b, b, sizeof mine->of[n].b);
    mine->of[n].c = c;
    mine->bf16[n] = bf16;
    mine->line[n] = line;
}

#define __syncthreads()        cuemu_sync_threads(__FILE__, __LINE__)
#define __syncthreads_or(p)    (cuemu_sync_sum((p) != 0, __FILE__, __LINE__) != 0)
#define __syncthreads_and(p)   (cuemu_sync_sum((p) == 0, __FILE__, __LINE__) == 0)
#define __syncthreads_count(p) cuemu_sync_sum((p) != 0, __FILE__, __LINE__)
#define CUEMU_SYNCWARP_(mask, ...) \
    cuemu_warp(CUEMU_SYNCWARP, mask, NULL, cuemu_self, __FILE__, __LINE__)
#define __syncwarp(...) CUEMU_SYNCWARP_(__VA_ARGS__ __VA_OPT__(, ) 0xffffffffu)

/* ---- memory */

/* The block's memory of a SHARED, the same for all its threads; NaN when the block starts. */
void *cuemu_shared(int site, size_t bytes, size_t align);
int cuemu_shared_site(void);
void *cuemu_shared_dynamic(void);

/* cp.async: the destination is poisoned now and written at the wait. */
void cuemu_cp_async(void *dst, const void *src, int bytes, int src_bytes);
void cuemu_cp_async_commit(void);
void cuemu_cp_async_wait(int groups_left);

static inline void __threadfence() {}
static inline void __threadfence_block() {}
template <class T> static inline T __ldg(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcs(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcg(const T *p)
{
    return *p;
}
template <class T> static inline void __stcs(T *p, T v)
{
    *p = v;
}

template <class T, class F> static inline T cuemu_atomic(T *p, F next)
{
    T old, now;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do {
        now = next(old);
    } while (!__atomic_compare_exchange(p, &old, &now, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    return old;
}
template <class T> static inline T atomicAdd(T *p, std::common_type_t<T> v)
{
    return cuemu_atomic(p, [=](T old) { return (T)(old + v); });
}
template <class T> static inline T atomicMax(T *p, std::common_type_t<T> v)
{
    return cuemu_atomic(p, [=](T old) { return old > v ? old : v; });
}
template <class T> static inline T atomicMin(T *p, std::common_type_t<T> v)
{
    return cuemu_atomic(p, [=](T old) { return old < v ? old : v; });
}
template <class T> static inline T atomicOr(T *p, std::common_type_t<T> v)
{
    return cuemu_atomic(p, [=](T old) { return (T)(old | v); });
}
template <class T> static inline T atomicExch(T *p, std::common_type_t<T> v)
{
    return cuemu_atomic(p, [=](T) { return v; });
}
template <class T>
static inline T atomicCAS(T *p, std::common_type_t<T> expected, std::common_type_t<T> v)
{
    return cuemu_atomic(p, [=](T old) { return old == expected ? v : old; });
}
static inline unsigned atomicInc(unsigned *p, unsigned last)
{
    return cuemu_atomic(p, [=](unsigned old) { return old >= last ? 0 : old + 1; });
}

/* ---- warp operations */

template <class T> struct cuemu_shfl_lane {
    T value, result;
    int source;
};
template <class T> CUEMU_UNSEEN static void cuemu_shfl_fn(void **lanes, unsigned mask)
{
    for (unsigned m = mask; m; m &= m - 1) {
        auto *l = (cuemu_shfl_lane<T> *)lanes[__builtin_ctz(m)];
        auto *from = (cuemu_shfl_lane<T> *)lanes[l->source & 31];
        if (from)
            l->result = from->value;
        else
            memset((void *)&l->result, 0xff, sizeof(T)); /* CUDA: undefined */
    }
}
template <class T>
static inline T cuemu_shfl(unsigned mask, T value, int source, const char *file, int line)
{
    cuemu_shfl_lane<T> l = {value, value, source};
    cuemu_warp(CUEMU_SHFL, mask, cuemu_shfl_fn<T>, &l, file, line);
    return l.result;
}
/* The lane read by each kind of shuffle; a lane outside of its group of `width` reads its own. */
static inline int cuemu_idx(int lane, int width = 32)
{
    int self = (int)cuemu_self->lane;
    return (self & ~(width - 1)) | (lane & (width - 1));
}
static inline int cuemu_near(int lane, int width = 32)
{
    int self = (int)cuemu_self->lane;
    return (lane & ~(width - 1)) == (self & ~(width - 1)) ? lane : self;
}
static inline int cuemu_lane(int delta)
{
    return (int)cuemu_self->lane + delta;
}
#define __shfl_sync(m, v, l, ...) \
    cuemu_shfl(m, v, cuemu_idx(l __VA_OPT__(, ) __VA_ARGS__), __FILE__, __LINE__)
#define __shfl_xor_sync(m, v, x, ...)                                                          \
    cuemu_shfl(m, v, cuemu_near(cuemu_lane(0) ^ (int)(x)__VA_OPT__(, ) __VA_ARGS__), __FILE__, \
               __LINE__)
#define __shfl_down_sync(m, v, d, ...)                                                      \
    cuemu_shfl(m, v, cuemu_near(cuemu_lane((int)(d)) __VA_OPT__(, ) __VA_ARGS__), __FILE__, \
               __LINE__)
#define __shfl_up_sync(m, v, d, ...)                                                         \
    cuemu_shfl(m, v, cuemu_near(cuemu_lane(-(int)(d)) __VA_OPT__(, ) __VA_ARGS__), __FILE__, \
               __LINE__)

/* Shuffles one after the other over all lanes, v = F::of(v, the other's), as one operation (cuda_exchange). */
template <class T> struct cuemu_exchange_lane {
    T value;
    int first, last;
};
template <class F, class T> CUEMU_UNSEEN static void cuemu_exchange_fn(void **lanes, unsigned)
{
    T v[32], next[32];
    const auto *one = (const cuemu_exchange_lane<T> *)lanes[0];
    for (int l = 0; l < 32; l++)
        v[l] = ((const cuemu_exchange_lane<T> *)lanes[l])->value;
    for (int x = one->first;; x = one->first < one->last ? 2 * x : x / 2) {
        for (int l = 0; l < 32; l++)
            next[l] = F::of(v[l], v[l ^ x]);
        memcpy(v, next, sizeof v);
        if (x == one->last)
            break;
    }
    for (int l = 0; l < 32; l++)
        ((cuemu_exchange_lane<T> *)lanes[l])->value = v[l];
}
template <class F, class T>
static inline T cuemu_exchange(T value, int first, int last, const char *file, int line)
{
    cuemu_exchange_lane<T> l = {value, first, last};
    cuemu_warp(CUEMU_SHFL, 0xffffffffu, cuemu_exchange_fn<F, T>, &l, file, line);
    return l.value;
}

CUEMU_UNSEEN static inline void cuemu_ballot_fn(void **lanes, unsigned mask)
{
    unsigned votes = 0;
    for (unsigned m = mask; m; m &= m - 1)
        votes |= *(unsigned *)lanes[__builtin_ctz(m)] ? m & -m : 0;
    for (unsigned m = mask; m; m &= m - 1)
        *(unsigned *)lanes[__builtin_ctz(m)] = votes;
}
static inline unsigned cuemu_ballot(unsigned mask, bool vote, const char *file, int line)
{
    unsigned v = vote;
    cuemu_warp(CUEMU_VOTE, mask, cuemu_ballot_fn, &v, file, line);
    return v;
}
#define __ballot_sync(m, p) cuemu_ballot(m, (p) != 0, __FILE__, __LINE__)
#define __any_sync(m, p)    (cuemu_ballot(m, (p) != 0, __FILE__, __LINE__) != 0)
#define __all_sync(m, p)    (cuemu_ballot(m, (p) == 0, __FILE__, __LINE__) == 0)

template <class T, class F>
static inline T cuemu_reduce(unsigned mask, T v, F f, const char *file, int line)
{
    for (int x = 1; x < 32; x *= 2) {
        T other = cuemu_shfl(mask, v, (int)cuemu_self->lane ^ x, file, line);
        if (mask >> (cuemu_self->lane ^ (unsigned)x) & 1)
            v = f(v, other);
    }
    return v;
}
#define __reduce_add_sync(m, v) \
    cuemu_reduce(               \
        m, v, [](auto a, auto b) { return a + b; }, __FILE__, __LINE__)
#define __reduce_max_sync(m, v) \
    cuemu_reduce(               \
        m, v, [](auto a, auto b) { return a > b ? a : b; }, __FILE__, __LINE__)
#define __reduce_min_sync(m, v) \
    cuemu_reduce(               \
        m, v, [](auto a, auto b) { return a < b ? a : b; }, __FILE__, __LINE__)

/* ---- arithmetic */

template <class A, class B> static inline std::common_type_t<A, B> max(A a, B b)
{
    return a > b ? a : b;
}
template <class A, class B> static inline std::common_type_t<A, B> min(A a, B b)
{
    return a < b ? a : b;
}
/* The other one where one is no number; inline, which the host's are not. */
static inline float cuemu_fmaxf(float a, float b)
{
    return a >= b || b != b ? (a == b && std::signbit(a) ? b : a) : b;
}
static inline float cuemu_fminf(float a, float b)
{
    return a <= b || b != b ? (a == b && !std::signbit(a) ? b : a) : b;
}
#define fmaxf cuemu_fmaxf
#define fminf cuemu_fminf
template <class To, class From> static inline To cuemu_bits(From v)
{
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    memcpy(&to, &v, sizeof to);
    return to;
}
#define __expf expf
#define __logf logf
static inline unsigned __float_as_uint(float v)
{
    return cuemu_bits<unsigned>(v);
}
static inline int __float_as_int(float v)
{
    return cuemu_bits<int>(v);
}
static inline float __uint_as_float(unsigned v)
{
    return cuemu_bits<float>(v);
}
static inline float __int_as_float(int v)
{
    return cuemu_bits<float>(v);
}
static inline float rsqrtf(float v)
{
    return 1.0f / sqrtf(v);
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline int __float2int_rn(float v)
{
    return (int)rintf(v);
}
static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
static inline int __clz(int v)
{
    return v ? __builtin_clz((unsigned)v) : 32;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    uint64_t all = (uint64_t)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned n = s >> (4 * i) & 15, byte = (unsigned)(all >> (8 * (n & 7))) & 255;
        out |= (n & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
    }
    return out;
}
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c += (signed char)(a >> (8 * i)) * (signed char)(b >> (8 * i));
    return c;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c)
{
    for (int i = 0; i < 4; i++)
        c += (a >> (8 * i) & 255) * (b >> (8 * i) & 255);
    return c;
}

/* ---- launching */

/* A kernel and its arguments, to be run when its stream gets there. */
struct cuemu_kernel {
    virtual void run() = 0;
    /* For whoever runs it otherwise: the function, and one pointer to each argument (at most 32). */
    virtual const void *function() = 0;
    virtual void arguments(void **list) = 0;
    virtual ~cuemu_kernel() {}
};
template <class... P> struct cuemu_kernel_of : cuemu_kernel {
    void (*fn)(P...);
    std::tuple<P...> args;
    cuemu_kernel_of(void (*f)(P...), P... a) : fn(f), args(a...) {}
    void run() override { std::apply(fn, args); }
    const void *function() override { return reinterpret_cast<const void *>(fn); }
    void arguments(void **list) override
    {
        static_assert(sizeof...(P) <= 32, "too many arguments");
        std::apply([&](P &...p) { ((*list++ = (void *)&p), ...); }, args);
    }
};
/* From a function's address to such an object: a launch has addresses alone. */
typedef std::shared_ptr<cuemu_kernel> cuemu_make_fn(const void *function, void **args);
void cuemu_known(const char *name, const void *function, cuemu_make_fn *make);

template <class... P, size_t... I>
std::shared_ptr<cuemu_kernel> cuemu_make_from(const void *function, void **args,
                                              std::index_sequence<I...>)
{
    return std::make_shared<cuemu_kernel_of<P...>>(
        reinterpret_cast<void (*)(P...)>(const_cast<void *>(function)),
        *static_cast<P *>(args[I])...);
}
template <class... P> std::shared_ptr<cuemu_kernel> cuemu_make(const void *function, void **args)
{
    return cuemu_make_from<P...>(function, args, std::index_sequence_for<P...>());
}
template <class... P> void cuemu_know(const char *name, void (*kernel)(P...))
{
    cuemu_known(name, reinterpret_cast<const void *>(kernel), cuemu_make<P...>);
}
#endif
