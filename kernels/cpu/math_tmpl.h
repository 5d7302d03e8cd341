/* exp for one vector.  Included once per level, after vec_*.h.
 *
 * exp(x) = 2^n * exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2; ln 2 is subtracted in two
 * parts, so that r keeps all bits.  exp(r) = 1 + r + r^2 q(r), q of degree 4 through the Chebyshev
 * nodes (relative error 1e-8 before rounding).  Below -87.33 (the smallest normal float) it is 0,
 * above 88.37 it stays at exp(88.37); NaN stays NaN. */
VEC_INLINE vf vf_exp(vf x)
{
    const vf round = vf_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vf c = vf_min(vf_set1(88.37f), vf_max(vf_set1(-87.33f), x));
    vf z = vf_fma(c, vf_set1(1.44269504f), round);
    vf n = vf_sub(z, round);
    vf r = vf_fnma(n, vf_set1(0.693359375f), c);
    r = vf_fnma(n, vf_set1(-2.121944417e-4f), r);
    vf q = vf_set1(1.392632606e-3f);
    q = vf_fma(q, r, vf_set1(8.363292553e-3f));
    q = vf_fma(q, r, vf_set1(4.166655242e-2f));
    q = vf_fma(q, r, vf_set1(1.666657627e-1f));
    q = vf_fma(q, r, vf_set1(0.5f));
    q = vf_fma(q, vf_mul(r, r), r);
    q = vf_add(q, vf_set1(1.0f));
    return vf_zero_below(vf_mul(q, vf_pow2(z)), x, vf_set1(-87.33f));
}

static void exp_all(float *out, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + VLEN <= n; i += VLEN)
        vf_store(out + i, vf_exp(vf_load(x + i)));
    if (i < n)
        vf_store_n(out + i, vf_exp(vf_load_n(x + i, (int)(n - i))), (int)(n - i));
}
