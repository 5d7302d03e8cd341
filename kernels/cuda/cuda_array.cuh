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
#endif
