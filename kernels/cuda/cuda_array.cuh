/* Reading and writing activations in kernels: f32 in registers, whatever they are in memory.  The type is
 * the same for all threads, so the branches cost no divergence.
 * Thread: any. */
#ifndef KERNELS_CUDA_CUDA_ARRAY_CUH
#define KERNELS_CUDA_CUDA_ARRAY_CUH
#include "kernels/cuda/cuda_array.h"
#include "kernels/cuda/cuda_dialect.cuh"

__device__ static inline float cuda_array_float(uint16_t bits, int64_t type)
{
    return type == DTYPE_F16 ? __half2float(__ushort_as_half(bits))
                             : __uint_as_float((uint32_t)bits << 16);
}

__device__ static inline uint16_t cuda_array_bits(float v, int64_t type)
{
    return type == DTYPE_F16 ? __half_as_ushort(__float2half_rn(v))
                             : __bfloat16_as_ushort(__float2bfloat16(v));
}

/* As an array of the type would keep it. */
__device__ static inline float cuda_rounded(float v, int64_t type)
{
    return type == DTYPE_F32 ? v : cuda_array_float(cuda_array_bits(v, type), type);
}

__device__ static inline float cuda_get(const struct cuda_array &a, int64_t i)
{
    if (a.type == DTYPE_F32)
        return static_cast<const float *>(a.data)[i];
    return cuda_array_float(static_cast<const uint16_t *>(a.data)[i], a.type);
}

__device__ static inline void cuda_set(const struct cuda_array &a, int64_t i, float v)
{
    if (a.type == DTYPE_F32)
        static_cast<float *>(a.data)[i] = v;
    else
        static_cast<uint16_t *>(a.data)[i] = cuda_array_bits(v, a.type);
}

/* Elements 4 i ... 4 i + 3 of an array that is cuda_array_wide. */
__device__ static inline float4 cuda_get4(const struct cuda_array &a, int64_t i)
{
    if (a.type == DTYPE_F32)
        return static_cast<const float4 *>(a.data)[i];
    const uint2 b = static_cast<const uint2 *>(a.data)[i];
    return make_float4(
        cuda_array_float((uint16_t)b.x, a.type), cuda_array_float((uint16_t)(b.x >> 16), a.type),
        cuda_array_float((uint16_t)b.y, a.type), cuda_array_float((uint16_t)(b.y >> 16), a.type));
}

__device__ static inline void cuda_set4(const struct cuda_array &a, int64_t i, float4 v)
{
    if (a.type == DTYPE_F32) {
        static_cast<float4 *>(a.data)[i] = v;
        return;
    }
    uint2 b;
    b.x = cuda_array_bits(v.x, a.type) | (uint32_t)cuda_array_bits(v.y, a.type) << 16;
    b.y = cuda_array_bits(v.z, a.type) | (uint32_t)cuda_array_bits(v.w, a.type) << 16;
    static_cast<uint2 *>(a.data)[i] = b;
}

/* ---- four elements of which the last may not be there: read as 0, not written ---- */

__device__ static inline float4 cuda_quad_add(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

__device__ static inline float4 cuda_quad_get(const float *p, int n)
{
    if (n >= 4 && (uintptr_t)p % 16 == 0)
        return *reinterpret_cast<const float4 *>(p);
    return make_float4(p[0], n > 1 ? p[1] : 0.0f, n > 2 ? p[2] : 0.0f, n > 3 ? p[3] : 0.0f);
}

__device__ static inline void cuda_quad_put(float *p, int n, float4 v)
{
    if (n >= 4 && (uintptr_t)p % 16 == 0) {
        *reinterpret_cast<float4 *>(p) = v;
        return;
    }
    p[0] = v.x;
    if (n > 1)
        p[1] = v.y;
    if (n > 2)
        p[2] = v.z;
    if (n > 3)
        p[3] = v.w;
}

/* From element i of an array on. */
__device__ static inline float4 cuda_get_quad(const struct cuda_array &a, int64_t i, int n)
{
    const struct cuda_array from = cuda_array_at(a, i);
    if (a.type == DTYPE_F32)
        return cuda_quad_get(static_cast<const float *>(from.data), n);
    if (n >= 4 && (uintptr_t)from.data % 8 == 0)
        return cuda_get4(from, 0);
    return make_float4(cuda_get(from, 0), n > 1 ? cuda_get(from, 1) : 0.0f,
                       n > 2 ? cuda_get(from, 2) : 0.0f, n > 3 ? cuda_get(from, 3) : 0.0f);
}

__device__ static inline void cuda_set_quad(const struct cuda_array &a, int64_t i, int n, float4 v)
{
    const struct cuda_array to = cuda_array_at(a, i);
    if (a.type == DTYPE_F32) {
        cuda_quad_put(static_cast<float *>(to.data), n, v);
        return;
    }
    if (n >= 4 && (uintptr_t)to.data % 8 == 0) {
        cuda_set4(to, 0, v);
        return;
    }
    const float each[4] = {v.x, v.y, v.z, v.w};
    for (int e = 0; e < 4 && e < n; e++)
        cuda_set(to, e, each[e]);
}
#endif
