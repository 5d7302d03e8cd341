/* RMS norm of one row.  Included once per level, after vec_*.h.  Four sums run side by side (the
 * add's latency); their order depends on n alone. */
#include <math.h>

static void rmsnorm_row(float *out, const float *x, const float *w, int n, float eps)
{
    vf s0 = vf_set1(0.0f), s1 = s0, s2 = s0, s3 = s0;
    int i = 0;
    for (; i + 4 * VLEN <= n; i += 4 * VLEN) {
        vf a = vf_load(x + i), b = vf_load(x + i + VLEN);
        vf c = vf_load(x + i + 2 * VLEN), d = vf_load(x + i + 3 * VLEN);
        s0 = vf_fma(a, a, s0);
        s1 = vf_fma(b, b, s1);
        s2 = vf_fma(c, c, s2);
        s3 = vf_fma(d, d, s3);
    }
    for (; i < n; i += VLEN) {
        vf a = i + VLEN <= n ? vf_load(x + i) : vf_load_n(x + i, n - i);
        s0 = vf_fma(a, a, s0);
    }
    float sum = vf_sum(vf_add(vf_add(s0, s1), vf_add(s2, s3)));
    vf r = vf_set1(1.0f / sqrtf(sum / (float)n + eps));
    for (i = 0; i + VLEN <= n; i += VLEN)
        vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), r), vf_load(w + i)));
    if (i < n) {
        vf a = vf_load_n(x + i, n - i), b = vf_load_n(w + i, n - i);
        vf_store_n(out + i, vf_mul(vf_mul(a, r), b), n - i);
    }
}
