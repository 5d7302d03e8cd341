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
VEC_INLINE vf elem_gelu_tanh(vf x)
{
    vf x2 = vf_mul(x, x);
    vf u = vf_fma(x2, vf_set1(-0.0713548162726f), vf_set1(-1.5957691216f));
    return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_mul(u, x))));
}

/* x / (1 + exp(-1.702 x)) */
VEC_INLINE vf elem_quick_gelu(vf x)
{
    return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_mul(vf_set1(-1.702f), x))));
}

/* x Phi(x) = max(x, 0) - |x| Phi(-|x|), where with z = |x| / sqrt(2), t = 1 / (1 + 0.3275911 z)
 *     Phi(-|x|) = erfc(z) / 2 = exp(-z^2) (a1 t + ... + a5 t^5) / 2
 * (Abramowitz & Stegun 7.1.26, error 7.5e-8).  From 20 on Phi(-|x|) is 0, also where |x| is infinite. */
VEC_INLINE vf elem_gelu(vf x)
{
    vf a = vf_min(vf_set1(20.0f), vf_max(vf_sub(vf_set1(0.0f), x), x));
    vf one = vf_set1(1.0f), t = vf_div(one, vf_fma(a, vf_set1(0.231641888f), one));
    vf p = vf_fma(t, vf_set1(0.5307027145f), vf_set1(-0.7265760135f));
    p = vf_fma(p, t, vf_set1(0.7107068705f));
    p = vf_fma(p, t, vf_set1(-0.142248368f));
    p = vf_fma(p, t, vf_set1(0.127414796f));
    vf e = vf_exp(vf_mul(vf_mul(a, a), vf_set1(-0.5f)));
    return vf_fnma(vf_mul(a, e), vf_mul(p, t), vf_max(vf_set1(0.0f), x));
}

VEC_INLINE vf elem_act(const enum act act, vf x)
{
    switch (act) {
    case ACT_SILU:
        return elem_silu(x);
    case ACT_GELU:
        return elem_gelu(x);
    case ACT_GELU_TANH:
        return elem_gelu_tanh(x);
    case ACT_QUICK_GELU:
        return elem_quick_gelu(x);
    case ACT_RELU:
        return vf_max(vf_set1(0.0f), x);
    default:
        return x;
    }
}

/* clang-format off */
/* Runs body with `kind` a constant of the compiler. */
#define ELEM_KIND(name, ...) case name: { const enum act kind = name; __VA_ARGS__ } break;
#define ELEM_ACT(act, ...) \
    switch (act) { \
        ELEM_KIND(ACT_SILU, __VA_ARGS__) ELEM_KIND(ACT_GELU, __VA_ARGS__) \
        ELEM_KIND(ACT_GELU_TANH, __VA_ARGS__) ELEM_KIND(ACT_QUICK_GELU, __VA_ARGS__) \
        ELEM_KIND(ACT_RELU, __VA_ARGS__) ELEM_KIND(ACT_NONE, __VA_ARGS__) \
    }

/* out[i] = expression of a = x[i], b = y[i] */
#define ELEM_LOOP(x, y, expression) \
    int64_t i = 0; \
    for (; i + VLEN <= n; i += VLEN) { \
        vf a = vf_load(x + i), b = vf_load(y + i); \
        vf_store(out + i, expression); \
    } \
    if (i < n) { \
        int rest = (int)(n - i); \
        vf a = vf_load_n(x + i, rest), b = vf_load_n(y + i, rest); \
        vf_store_n(out + i, expression, rest); \
    }
/* clang-format on */

static void add(float *out, const float *x, const float *y, int64_t n)
{
    ELEM_LOOP(x, y, vf_add(a, b))
}

static void glu(float *out, const float *gate, const float *up, int64_t n, enum act act)
{
    ELEM_ACT(act, ELEM_LOOP(gate, up, vf_mul(elem_act(kind, a), b)));
}

static void act_all(float *out, const float *x, int64_t n, enum act act)
{
    ELEM_ACT(act, ELEM_LOOP(x, x, ((void)b, elem_act(kind, a))));
}

static void prelu(float *out, const float *x, const float *slope, int64_t n_rows, int c)
{
    const vf zero = vf_set1(0.0f);
    for (int64_t r = 0; r < n_rows; r++, out += c, x += c) {
        int i = 0;
        for (; i + VLEN <= c; i += VLEN) {
            vf a = vf_load(x + i);
            vf_store(out + i, vf_fma(vf_min(zero, a), vf_load(slope + i), vf_max(zero, a)));
        }
        if (i < c) {
            vf a = vf_load_n(x + i, c - i), b = vf_load_n(slope + i, c - i);
            vf_store_n(out + i, vf_fma(vf_min(zero, a), b, vf_max(zero, a)), c - i);
        }
    }
}

VEC_INLINE void group_scale_act(const enum act act, float *out, const float *x, const float *scale,
                                const float *offset, int64_t n_rows, int c)
{
    for (int64_t r = 0; r < n_rows; r++, out += c, x += c) {
        int i = 0;
        for (; i + VLEN <= c; i += VLEN) {
            vf a = vf_fma(vf_load(x + i), vf_load(scale + i), vf_load(offset + i));
            vf_store(out + i, elem_act(act, a));
        }
        if (i < c) {
            vf a = vf_load_n(x + i, c - i), b = vf_load_n(scale + i, c - i);
            a = vf_fma(a, b, vf_load_n(offset + i, c - i));
            vf_store_n(out + i, elem_act(act, a), c - i);
        }
    }
}

static void group_scale(float *out, const float *x, const float *scale, const float *offset,
                        int64_t n_rows, int c, enum act act)
{
    ELEM_ACT(act, group_scale_act(kind, out, x, scale, offset, n_rows, c);)
}

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
