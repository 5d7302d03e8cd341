/* What the arithmetic units can do at most: products of registers, nothing loaded.  For rooflines. */
#define PEAK_CHAINS 12 /* independent sums, against the latency of one */

static int64_t peak_f32(int64_t rounds)
{
    vf sum[PEAK_CHAINS];
    const vf one = vf_set1(1.0f), little = vf_set1(1e-9f);
#pragma GCC unroll 16
    for (int i = 0; i < PEAK_CHAINS; i++)
        sum[i] = vf_set1((float)i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < PEAK_CHAINS; i++) {
            sum[i] = vf_fma(one, little, sum[i]);
            vi_keep(sum[i]);
        }
    }
    return rounds * PEAK_CHAINS * VLEN * 2;
}

static int64_t peak_int8(int64_t rounds)
{
    vi sum[PEAK_CHAINS];
    const vi codes = vi_set8(1), x = vi_set8(2);
#pragma GCC unroll 16
    for (int i = 0; i < PEAK_CHAINS; i++)
        sum[i] = vi_set8(0);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < PEAK_CHAINS; i++) {
#if QUANT_VNNI
            sum[i] = vi_dot8(sum[i], codes, x);
#else
            sum[i] = vi_add16(sum[i], vi_mul8(codes, x));
#endif
            vi_keep(sum[i]);
        }
    }
    return rounds * PEAK_CHAINS * VLEN * 4 * 2;
}
