/* __half and __nv_bfloat16 on the host: storage of 16 bits, arithmetic in float rounded after each step
 * (which is what the device does for one operation). */
#ifndef TESTS_CUEMU_CUDA_FP16_H
#define TESTS_CUEMU_CUDA_FP16_H
#include <stdint.h>

#include <cmath>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "tests/cuemu/cuda_types.h"

static inline float cuemu_f16_float(uint16_t h)
{
#ifdef __F16C__
    return _cvtsh_ss(h);
#else
    uint32_t sign = (uint32_t)(h >> 15) << 31, exp = h >> 10 & 31, frac = h & 1023, bits;
    if (exp == 31)
        bits = sign | 0x7f800000u | frac << 13;
    else if (exp)
        bits = sign | (exp + 112) << 23 | frac << 13;
    else
        return (sign ? -1.0f : 1.0f) * (float)frac * 0x1p-24f;
    float f;
    __builtin_memcpy(&f, &bits, 4);
    return f;
#endif
}

static inline uint16_t cuemu_float_f16(float f)
{
#ifdef __F16C__
    return _cvtss_sh(f, 0);
#else
    uint32_t bits;
    __builtin_memcpy(&bits, &f, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    float a = fabsf(f);
    if (!(a == a))
        return sign | 0x7e00;
    if (a >= 65520.0f)
        return sign | 0x7c00;
    if (a < 0x1p-14f)
        return sign | (uint16_t)rintf(a * 0x1p24f);
    bits &= 0x7fffffffu;
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | ((bits >> 13) - (112u << 10)));
#endif
}

static inline float cuemu_bf16_float(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    __builtin_memcpy(&f, &bits, 4);
    return f;
}

static inline uint16_t cuemu_float_bf16(float f)
{
    uint32_t bits;
    __builtin_memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define CUEMU_HALF(type, pair, to_float, from_float)                                  \
    struct type {                                                                     \
        uint16_t bits;                                                                \
        type() = default;                                                             \
        type(float f) : bits(from_float(f)) {}                                        \
        operator float() const { return to_float(bits); }                             \
    };                                                                                \
    struct alignas(4) pair {                                                          \
        type x, y;                                                                    \
        pair() = default;                                                             \
        pair(type a, type b) : x(a), y(b) {}                                          \
    };                                                                                \
    static inline type __hadd(type a, type b)                                         \
    {                                                                                 \
        return type((float)a + (float)b);                                             \
    }                                                                                 \
    static inline type __hsub(type a, type b)                                         \
    {                                                                                 \
        return type((float)a - (float)b);                                             \
    }                                                                                 \
    static inline type __hmul(type a, type b)                                         \
    {                                                                                 \
        return type((float)a * (float)b);                                             \
    }                                                                                 \
    static inline type __hfma(type a, type b, type c)                                 \
    {                                                                                 \
        return type((float)((double)(float)a * (double)(float)b + (double)(float)c)); \
    }                                                                                 \
    static inline type __hmax(type a, type b)                                         \
    {                                                                                 \
        return (float)a > (float)b ? a : b;                                           \
    }                                                                                 \
    static inline pair __hadd2(pair a, pair b)                                        \
    {                                                                                 \
        return {__hadd(a.x, b.x), __hadd(a.y, b.y)};                                  \
    }                                                                                 \
    static inline pair __hsub2(pair a, pair b)                                        \
    {                                                                                 \
        return {__hsub(a.x, b.x), __hsub(a.y, b.y)};                                  \
    }                                                                                 \
    static inline pair __hmul2(pair a, pair b)                                        \
    {                                                                                 \
        return {__hmul(a.x, b.x), __hmul(a.y, b.y)};                                  \
    }                                                                                 \
    static inline pair __hfma2(pair a, pair b, pair c)                                \
    {                                                                                 \
        return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};                        \
    }

CUEMU_HALF(__half, __half2, cuemu_f16_float, cuemu_float_f16)
CUEMU_HALF(__nv_bfloat16, __nv_bfloat162, cuemu_bf16_float, cuemu_float_bf16)
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline __half __float2half(float f)
{
    return __half(f);
}
static inline __half __float2half_rn(float f)
{
    return __half(f);
}
static inline float __half2float(__half h)
{
    return h;
}
static inline __half2 __floats2half2_rn(float a, float b)
{
    return {__half(a), __half(b)};
}
static inline __half2 __float2half2_rn(float a)
{
    return {__half(a), __half(a)};
}
static inline __half2 __halves2half2(__half a, __half b)
{
    return {a, b};
}
static inline __half2 __half2half2(__half a)
{
    return {a, a};
}
static inline float2 __half22float2(__half2 h)
{
    return {h.x, h.y};
}
static inline float __low2float(__half2 h)
{
    return h.x;
}
static inline float __high2float(__half2 h)
{
    return h.y;
}
static inline __half __ushort_as_half(unsigned short v)
{
    __half h;
    h.bits = v;
    return h;
}
static inline unsigned short __half_as_ushort(__half h)
{
    return h.bits;
}
static inline __nv_bfloat16 __float2bfloat16(float f)
{
    return __nv_bfloat16(f);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    return __nv_bfloat16(f);
}
static inline float __bfloat162float(__nv_bfloat16 h)
{
    return h;
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b)
{
    return {__nv_bfloat16(a), __nv_bfloat16(b)};
}
static inline float2 __bfloat1622float2(__nv_bfloat162 h)
{
    return {h.x, h.y};
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v)
{
    __nv_bfloat16 h;
    h.bits = v;
    return h;
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h)
{
    return h.bits;
}
#undef CUEMU_HALF
#endif
