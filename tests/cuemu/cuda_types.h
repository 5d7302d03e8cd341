/* CUDA's vector types for the host: layouts and alignments are CUDA's. */
#ifndef TESTS_CUEMU_CUDA_TYPES_H
#define TESTS_CUEMU_CUDA_TYPES_H
#include <stdint.h>

#define CUEMU_VEC2(type, base, bytes)              \
    struct alignas(bytes) type {                   \
        base x, y;                                 \
    };                                             \
    static inline type make_##type(base x, base y) \
    {                                              \
        return {x, y};                             \
    }
#define CUEMU_VEC4(type, base, bytes)                              \
    struct alignas(bytes) type {                                   \
        base x, y, z, w;                                           \
    };                                                             \
    static inline type make_##type(base x, base y, base z, base w) \
    {                                                              \
        return {x, y, z, w};                                       \
    }

CUEMU_VEC2(char2, signed char, 2)
CUEMU_VEC2(uchar2, unsigned char, 2)
CUEMU_VEC2(short2, short, 4)
CUEMU_VEC2(ushort2, unsigned short, 4)
CUEMU_VEC2(int2, int, 8)
CUEMU_VEC2(uint2, unsigned, 8)
CUEMU_VEC2(float2, float, 8)
CUEMU_VEC2(double2, double, 16)
CUEMU_VEC2(longlong2, long long, 16)
CUEMU_VEC4(char4, signed char, 4)
CUEMU_VEC4(uchar4, unsigned char, 4)
CUEMU_VEC4(short4, short, 8)
CUEMU_VEC4(ushort4, unsigned short, 8)
CUEMU_VEC4(int4, int, 16)
CUEMU_VEC4(uint4, unsigned, 16)
CUEMU_VEC4(float4, float, 16)

struct float3 {
    float x, y, z;
};
static inline float3 make_float3(float x, float y, float z)
{
    return {x, y, z};
}
struct int3 {
    int x, y, z;
};
struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#undef CUEMU_VEC2
#undef CUEMU_VEC4
#endif
