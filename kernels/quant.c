/* The table of types, half floats, and the scalar unpack and pack of every block format.
 * Unpack is built on quant_block.h; pack is simple rounding (min and max, or the largest
 * magnitude, set the scale): good enough to make models for tests and benchmarks, no search for
 * the scale with the smallest error. */
#include "kernels/quant.h"

#include <math.h>
#include <string.h>

#include "kernels/quant_block.h"

static const struct {
    const char *name;
    uint16_t block, bytes;
} types[DTYPE_N] = {
    [DTYPE_F32] = {"f32", 1, 4},         [DTYPE_F16] = {"f16", 1, 2},
    [DTYPE_Q4_0] = {"q4_0", 32, 18},     [DTYPE_Q4_1] = {"q4_1", 32, 20},
    [DTYPE_Q5_0] = {"q5_0", 32, 22},     [DTYPE_Q5_1] = {"q5_1", 32, 24},
    [DTYPE_Q8_0] = {"q8_0", 32, 34},     [DTYPE_Q2_K] = {"q2_k", 256, 84},
    [DTYPE_Q3_K] = {"q3_k", 256, 110},   [DTYPE_Q4_K] = {"q4_k", 256, 144},
    [DTYPE_Q5_K] = {"q5_k", 256, 176},   [DTYPE_Q6_K] = {"q6_k", 256, 210},
    [DTYPE_IQ4_NL] = {"iq4_nl", 32, 18}, [DTYPE_I32] = {"i32", 1, 4},
    [DTYPE_BF16] = {"bf16", 1, 2},       [DTYPE_MXFP4] = {"mxfp4", 32, 17},
};

bool dtype_known(uint32_t type)
{
    return type < DTYPE_N && types[type].name;
}

const char *dtype_name(enum dtype type)
{
    return dtype_known((uint32_t)type) ? types[type].name : "unknown";
}

int dtype_block(enum dtype type)
{
    return dtype_known((uint32_t)type) ? types[type].block : 1;
}

int dtype_block_bytes(enum dtype type)
{
    return dtype_known((uint32_t)type) ? types[type].bytes : 0;
}

size_t dtype_bytes(enum dtype type, int64_t n)
{
    return (size_t)(n / dtype_block(type)) * (size_t)dtype_block_bytes(type);
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) /* infinity; NaN keeps its payload and becomes quiet, as the CPU does it */
        return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00) << 22);
    if (rest < 0x400) /* zero and subnormals: rest * 2^-24, exact */
        return float_of(sign | bits_of((float)rest * 0x1p-24f));
    return float_of(sign | ((rest << 13) + ((127 - 15) << 23)));
}

uint16_t f32_to_f16(float f)
{
    uint32_t u = bits_of(f), sign = (u >> 16) & 0x8000, rest = u & 0x7fffffff;
    if (rest > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | ((rest >> 13) & 0x3ff));
    if (rest >= 0x477ff000) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) { /* below 2^-14: adding 0.5 leaves the subnormal in the low bits */
        float shifted = float_of(rest) + 0.5f;
        return (uint16_t)(sign | (bits_of(shifted) - 0x3f000000));
    }
    uint32_t odd = (rest >> 13) & 1;
    return (uint16_t)(sign | ((rest - ((127 - 15) << 23) + 0xfff + odd) >> 13));
}

float bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t f32_to_bf16(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

static void unpack_plain(enum dtype type, float *dst, const uint8_t *src, int64_t n)
{
    if (type == DTYPE_F32) {
        memcpy(dst, src, (size_t)n * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = 0;
        memcpy(&u, src + i * types[type].bytes, types[type].bytes);
        if (type == DTYPE_I32)
            dst[i] = (float)(int32_t)u;
        else
            dst[i] = type == DTYPE_F16 ? f16_to_f32((uint16_t)u) : bf16_to_f32((uint16_t)u);
    }
}

void quant_unpack(enum dtype type, float *dst, const void *src, int64_t n)
{
    const struct quant_format *f = quant_format(type);
    const uint8_t *p = src;
    if (!f) {
        unpack_plain(type, dst, p, n);
        return;
    }
    int block = types[type].block;
    bool affine = f->scale == QUANT_SCALE_F16_M || f->scale == QUANT_SCALE_U8_M;
    for (int64_t start = 0; start < n; start += block, p += types[type].bytes) {
        struct quant_block b;
        quant_block_split(&b, type, p);
        for (int i = 0; i < block; i++) {
            int code = f->table ? f->table[b.q[i]] : b.q[i];
            float d = quant_block_d(f, &b, i / f->group);
            dst[start + i] = affine ? d * (float)code + quant_block_m(f, &b, i / f->group)
                                    : d * (float)(code - f->zero);
        }
    }
}

static void store16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, sizeof(v));
}

static int clamp(float v, int low, int high)
{
    return !(v > (float)low) ? low : v > (float)high ? high : (int)lrintf(v);
}

/* The value of largest magnitude, with its sign. */
static float extreme(const float *x, int n)
{
    float best = 0;
    for (int i = 0; i < n; i++)
        best = fabsf(x[i]) > fabsf(best) ? x[i] : best;
    return best;
}

static void range(const float *x, int n, float *low, float *high)
{
    *low = *high = x[0];
    for (int i = 1; i < n; i++) {
        *low = fminf(*low, x[i]);
        *high = fmaxf(*high, x[i]);
    }
}

static float inverse(float d)
{
    return d != 0 ? 1 / d : 0;
}

/* Q4_0, Q4_1, Q5_0, Q5_1: head (d or d and m), bit 4 of the 5-bit ones, nibbles. */
static void pack_32(uint8_t *p, const float *x, int bits, bool affine)
{
    int half = 1 << (bits - 1), top = 2 * half - 1;
    float d, offset;
    if (affine) {
        float low, high;
        range(x, 32, &low, &high);
        d = (high - low) / (float)top;
        offset = low;
        store16(p + 2, f32_to_f16(low));
    } else {
        d = extreme(x, 32) / (float)-half;
        offset = d * (float)-half;
    }
    store16(p, f32_to_f16(d));
    p += affine ? 4 : 2;
    uint32_t high_bits = 0;
    uint8_t q[32];
    for (int i = 0; i < 32; i++) {
        q[i] = (uint8_t)clamp((x[i] - offset) * inverse(d), 0, top);
        high_bits |= (uint32_t)(q[i] >> 4) << i;
    }
    if (bits == 5) {
        memcpy(p, &high_bits, 4);
        p += 4;
    }
    for (int i = 0; i < 16; i++)
        p[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

static void pack_q8_0(uint8_t *p, const float *x)
{
    float d = fabsf(extreme(x, 32)) / 127;
    store16(p, f32_to_f16(d));
    for (int i = 0; i < 32; i++)
        p[2 + i] = (uint8_t)clamp(x[i] * inverse(d), -127, 127);
}

static void pack_q4_k(uint8_t *p, const float *x)
{
    float scale[8], min[8];
    for (int g = 0; g < 8; g++) {
        float low, high;
        range(x + g * 32, 32, &low, &high);
        min[g] = fmaxf(-low, 0); /* the format subtracts a min that is not negative */
        scale[g] = (high + min[g]) / 15;
    }
    uint16_t d16 = f32_to_f16(extreme(scale, 8) / 63), m16 = f32_to_f16(extreme(min, 8) / 63);
    float d = f16_to_f32(d16), dmin = f16_to_f32(m16);
    store16(p, d16);
    store16(p + 2, m16);
    memset(p + 4, 0, 12 + 128);
    for (int g = 0; g < 8; g++) {
        int sc = clamp(scale[g] * inverse(d), 0, 63), mn = clamp(min[g] * inverse(dmin), 0, 63);
        uint8_t *s = p + 4;
        if (g < 4) {
            s[g] |= (uint8_t)sc;
            s[g + 4] |= (uint8_t)mn;
        } else {
            s[g + 4] = (uint8_t)((sc & 15) | (mn & 15) << 4);
            s[g - 4] |= (uint8_t)(sc >> 4 << 6);
            s[g] |= (uint8_t)(mn >> 4 << 6);
        }
        float step = inverse(d * (float)sc), offset = dmin * (float)mn;
        for (int i = 0; i < 32; i++) {
            int q = clamp((x[g * 32 + i] + offset) * step, 0, 15);
            p[16 + g / 2 * 32 + i] |= (uint8_t)(q << (g % 2 * 4));
        }
    }
}

static void pack_q6_k(uint8_t *p, const float *x)
{
    float scale[16];
    for (int g = 0; g < 16; g++)
        scale[g] = extreme(x + g * 16, 16) / -32;
    uint16_t d16 = f32_to_f16(extreme(scale, 16) / -128);
    float d = f16_to_f32(d16);
    memset(p, 0, 192);
    store16(p + 208, d16);
    for (int g = 0; g < 16; g++) {
        int sc = clamp(scale[g] * inverse(d), -128, 127);
        p[192 + g] = (uint8_t)sc;
        float step = inverse(d * (float)sc);
        for (int i = g * 16; i < g * 16 + 16; i++) {
            int q = clamp(x[i] * step, -32, 31) + 32, half = i / 128, run = i / 32 % 4;
            p[half * 64 + run % 2 * 32 + i % 32] |= (uint8_t)((q & 15) << (run / 2 * 4));
            p[128 + half * 32 + i % 32] |= (uint8_t)(q >> 4 << (run * 2));
        }
    }
}

static void pack_plain(enum dtype type, uint8_t *dst, const float *src, int64_t n)
{
    if (type == DTYPE_F32) {
        memcpy(dst, src, (size_t)n * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < n; i++)
        store16(dst + 2 * i, type == DTYPE_F16 ? f32_to_f16(src[i]) : f32_to_bf16(src[i]));
}

bool quant_pack(enum dtype type, void *dst, const float *src, int64_t n)
{
    uint8_t *p = dst;
    if (type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16) {
        pack_plain(type, p, src, n);
        return true;
    }
    for (int64_t i = 0; i < n; i += dtype_block(type), p += dtype_block_bytes(type)) {
        switch (type) {
        case DTYPE_Q4_0:
        case DTYPE_Q4_1:
            pack_32(p, src + i, 4, type == DTYPE_Q4_1);
            break;
        case DTYPE_Q5_0:
        case DTYPE_Q5_1:
            pack_32(p, src + i, 5, type == DTYPE_Q5_1);
            break;
        case DTYPE_Q8_0:
            pack_q8_0(p, src + i);
            break;
        case DTYPE_Q4_K:
            pack_q4_k(p, src + i);
            break;
        case DTYPE_Q6_K:
            pack_q6_k(p, src + i);
            break;
        default:
            return false;
        }
    }
    return true;
}
