/* Rounding by the book: the value scaled so that its last place is 1, then made whole. */
#include "tests/ptxvm/num.h"

#include <fenv.h>
#include <math.h>

#include "kernels/quant.h"

float num_f16_table[65536];

void num_init(void)
{
    for (uint32_t n = num_f16_table[0x3c00] == 1 ? 65536 : 0; n < 65536; n++)
        num_f16_table[n] = f16_to_f32((uint16_t)n);
}

static int fe_mode(enum vm_round mode)
{
    static const int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
    return modes[mode];
}

long double num_whole(long double v, enum vm_round mode)
{
    switch (mode) {
    case RND_Z:
        return truncl(v);
    case RND_M:
        return floorl(v);
    case RND_P:
        return ceill(v);
    default:
        return rintl(v); /* the machine's mode is to nearest even */
    }
}

/* Sign, `exp_bits` of exponent, `bits` of fraction. */
static uint16_t to_small(long double v, enum vm_round mode, int exp_bits, int bits)
{
    uint16_t sign = signbit(v) ? 0x8000 : 0;
    int bias = (1 << (exp_bits - 1)) - 1, exp;
    uint16_t inf = (uint16_t)(((1 << exp_bits) - 1) << bits);
    if (v != v)
        return 0x7fff;
    if (isinf(v))
        return sign | inf;
    frexpl(v, &exp);
    int lowest = 1 - bias - bits; /* of the last place */
    int place = exp - 1 - bits > lowest ? exp - 1 - bits : lowest;
    long double q = fabsl(num_whole(ldexpl(v, -place), mode));
    if (q >= ldexpl(1, bits + 1)) { /* rounded up to the next power of two */
        q /= 2;
        place++;
    }
    if (q == 0)
        return sign;
    uint32_t whole = (uint32_t)q, stored = whole < 1u << bits ? 0 : (uint32_t)(place - lowest + 1);
    if (stored >= (1u << exp_bits) - 1) {
        bool to_inf = mode == RND_N || (mode == RND_P && !sign) || (mode == RND_M && sign);
        return to_inf ? sign | inf : (uint16_t)(sign | (inf - 1));
    }
    return (uint16_t)(sign | stored << bits | (whole & ((1u << bits) - 1)));
}

uint16_t num_to_f16(long double v, enum vm_round mode)
{
    return to_small(v, mode, 5, 10);
}

uint16_t num_to_bf16(long double v, enum vm_round mode)
{
    return to_small(v, mode, 8, 7);
}

float num_to_f32(long double v, enum vm_round mode)
{
    if (mode == RND_N)
        return (float)v;
    volatile long double in = v;
    fesetround(fe_mode(mode));
    volatile float out = (float)in;
    fesetround(FE_TONEAREST);
    return out;
}

double num_to_f64(long double v, enum vm_round mode)
{
    if (mode == RND_N)
        return (double)v;
    volatile long double in = v;
    fesetround(fe_mode(mode));
    volatile double out = (double)in;
    fesetround(FE_TONEAREST);
    return out;
}

double num_fma_odd(double a, double b, double c)
{
    double p = a * b; /* exact: 24 bits each */
    double sum = p + c, back = sum - p;
    double lost = (p - (sum - back)) + (c - back); /* exact: Knuth's two-sum */
    if (lost == 0 || !isfinite(sum))
        return sum;
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if ((bits & 1) == 0) /* the odd neighbour on the side of what was lost */
        bits = (lost > 0) == (sum > 0) ? bits + 1 : bits - 1;
    memcpy(&sum, &bits, sizeof sum);
    return sum;
}
