/* Numbers of 16 bits, and rounding to them in every mode.  Private to tests/ptxvm/. */
#ifndef TESTS_PTXVM_NUM_H
#define TESTS_PTXVM_NUM_H
#include <stdint.h>
#include <string.h>

#include "tests/ptxvm/vm.h"

extern float num_f16_table[65536];
void num_init(void); /* fills the table */

/* The nearest (mode RND_N: ties to even) f16 or bf16; NaN is 0x7fff. */
uint16_t num_to_f16(long double v, enum vm_round mode);
uint16_t num_to_bf16(long double v, enum vm_round mode);
float num_to_f32(long double v, enum vm_round mode);
double num_to_f64(long double v, enum vm_round mode);
/* v as a whole number. */
long double num_whole(long double v, enum vm_round mode);
/* a * b + c rounded to odd at 53 bits: rounding it again to 24 bits or fewer is rounding once. */
double num_fma_odd(double a, double b, double c);

static inline float num_bits_f32(uint32_t b)
{
    float f;
    memcpy(&f, &b, sizeof f);
    return f;
}

static inline uint32_t num_f32_bits(float f)
{
    uint32_t b;
    memcpy(&b, &f, sizeof b);
    return b;
}

static inline float num_f16(uint32_t h)
{
    return num_f16_table[h & 0xffff];
}

static inline float num_bf16(uint32_t h)
{
    return num_bits_f32(h << 16);
}

/* .ftz: a subnormal becomes a zero of its sign. */
static inline float num_flush(float f)
{
    uint32_t b = num_f32_bits(f);
    return (b & 0x7f800000) == 0 ? num_bits_f32(b & 0x80000000) : f;
}

/* The canonical NaN of PTX. */
static inline float num_nan(float f)
{
    return f != f ? num_bits_f32(0x7fffffff) : f;
}
#endif
