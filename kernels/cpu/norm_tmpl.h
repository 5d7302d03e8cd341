/* RMS norm and layer norm of one row, sums for group norm.  Included once per level, after vec_*.h.
 * Four sums run side by side, to hide the latency of an addition; their order depends on n alone. */
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

static void layernorm_row(float *out, const float *x, const float *w, const float *bias, int n,
                          float eps)
{
    vf s0 = vf_set1(0.0f), s1 = s0, s2 = s0, s3 = s0;
    int i = 0;
    for (; i + 4 * VLEN <= n; i += 4 * VLEN) {
        s0 = vf_add(s0, vf_load(x + i));
        s1 = vf_add(s1, vf_load(x + i + VLEN));
        s2 = vf_add(s2, vf_load(x + i + 2 * VLEN));
        s3 = vf_add(s3, vf_load(x + i + 3 * VLEN));
    }
    for (; i < n; i += VLEN)
        s0 = vf_add(s0, i + VLEN <= n ? vf_load(x + i) : vf_load_n(x + i, n - i));
    float mean = vf_sum(vf_add(vf_add(s0, s1), vf_add(s2, s3))) / (float)n;
    vf m = vf_set1(mean);
    s0 = s1 = s2 = s3 = vf_set1(0.0f);
    for (i = 0; i + 4 * VLEN <= n; i += 4 * VLEN) {
        vf a = vf_sub(vf_load(x + i), m), b = vf_sub(vf_load(x + i + VLEN), m);
        vf c = vf_sub(vf_load(x + i + 2 * VLEN), m), d = vf_sub(vf_load(x + i + 3 * VLEN), m);
        s0 = vf_fma(a, a, s0);
        s1 = vf_fma(b, b, s1);
        s2 = vf_fma(c, c, s2);
        s3 = vf_fma(d, d, s3);
    }
    for (; i + VLEN <= n; i += VLEN) {
        vf a = vf_sub(vf_load(x + i), m);
        s0 = vf_fma(a, a, s0);
    }
    float rest = 0; /* the last lanes one by one: a partial load is 0 there, not the mean */
    for (; i < n; i++)
        rest = fmaf(x[i] - mean, x[i] - mean, rest);
    float var = (vf_sum(vf_add(vf_add(s0, s1), vf_add(s2, s3))) + rest) / (float)n;
    vf r = vf_set1(1.0f / sqrtf(var + eps));
    for (i = 0; i < n; i += VLEN) {
        int left = n - i;
        bool whole = left >= VLEN;
        vf a = whole ? vf_load(x + i) : vf_load_n(x + i, left);
        vf b = whole ? vf_load(w + i) : vf_load_n(w + i, left);
        vf c = vf_set1(0.0f);
        if (bias)
            c = whole ? vf_load(bias + i) : vf_load_n(bias + i, left);
        a = vf_fma(vf_mul(vf_sub(a, m), r), b, c);
        if (whole)
            vf_store(out + i, a);
        else
            vf_store_n(out + i, a, left);
    }
}

/* Each channel for itself, in the order of the rows. */
static void group_sums(float *sums, const float *x, const float *shift, int64_t n_rows, int c)
{
    for (int i = 0; i < c; i += VLEN) {
        int left = c - i;
        bool whole = left >= VLEN;
        vf s = whole ? vf_load(sums + i) : vf_load_n(sums + i, left);
        vf q = whole ? vf_load(sums + c + i) : vf_load_n(sums + c + i, left);
        vf k = whole ? vf_load(shift + i) : vf_load_n(shift + i, left);
        for (int64_t r = 0; r < n_rows; r++) {
            const float *at = x + r * c + i;
            vf a = vf_sub(whole ? vf_load(at) : vf_load_n(at, left), k);
            s = vf_add(s, a);
            q = vf_fma(a, a, q);
        }
        if (whole) {
            vf_store(sums + i, s);
            vf_store(sums + c + i, q);
        } else {
            vf_store_n(sums + i, s, left);
            vf_store_n(sums + c + i, q, left);
        }
    }
}
