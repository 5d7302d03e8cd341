/* Elementwise loops.  Included once per level, after vec_*.h and math_tmpl.h.
 *
 * The last elements go through the same vector arithmetic as the others (partial loads), so that an
 * element's bits do not depend on where a range was cut. */

/* x / (1 + exp(-x)) */
VEC_INLINE vf elem_silu(vf x)
{
    vf one = vf_set1(1.0f);
    return vf_div(x, vf_add(one, vf_exp(vf_sub(vf_set1(0.0f), x))));
}

/* 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)),  u = sqrt(2/pi) (x + 0.044715 x^3)
 * (Hendrycks & Gimpel 2016) */
VEC_INLINE vf elem_gelu(vf x)
{
    vf x2 = vf_mul(x, x);
    vf u = vf_fma(x2, vf_set1(-0.0713548162726f), vf_set1(-1.5957691216f));
    return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_mul(u, x))));
}

/* clang-format off */
/* out[i] = expression of a = x[i], b = y[i] */
#define ELEM_LOOP(name, x, y, expression) \
    static void name(float *out, const float *x, const float *y, int64_t n) \
    { \
        int64_t i = 0; \
        for (; i + VLEN <= n; i += VLEN) { \
            vf a = vf_load(x + i), b = vf_load(y + i); \
            vf_store(out + i, expression); \
        } \
        if (i < n) { \
            int rest = (int)(n - i); \
            vf a = vf_load_n(x + i, rest), b = vf_load_n(y + i, rest); \
            vf_store_n(out + i, expression, rest); \
        } \
    }

ELEM_LOOP(add, x, y, vf_add(a, b))
ELEM_LOOP(glu_silu, gate, up, vf_mul(elem_silu(a), b))
ELEM_LOOP(glu_gelu, gate, up, vf_mul(elem_gelu(a), b))
#undef ELEM_LOOP
/* clang-format on */

static void f16_pack(uint16_t *dst, const float *src, int64_t n)
{
    int64_t i = 0;
    for (; i + VLEN <= n; i += VLEN)
        vf_store_h(dst + i, vf_load(src + i));
    if (i < n)
        vf_store_hn(dst + i, vf_load_n(src + i, (int)(n - i)), (int)(n - i));
}

static void f16_unpack(float *dst, const uint16_t *src, int64_t n)
{
    int64_t i = 0;
    for (; i + VLEN <= n; i += VLEN)
        vf_store(dst + i, vf_load_h(src + i));
    if (i < n)
        vf_store_n(dst + i, vf_load_hn(src + i, (int)(n - i)), (int)(n - i));
}
