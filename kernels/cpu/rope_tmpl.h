/* Rotation of all heads of one row.  Included once per level, after vec_*.h.  cs has 2 * n_rot
 * floats, made by kernels/cpu/rope.c; both forms take n_rot and head_dim in floats. */

/* Pairs (i, i + n_rot/2).  cs: n_rot/2 cosines at 0, n_rot/2 sines at n_rot. */
static void rope_half_row(float *x, const float *cs, int n_heads, int head_dim, int n_rot)
{
    int half = n_rot / 2;
    for (int h = 0; h < n_heads; h++) {
        float *p = x + (int64_t)h * head_dim, *q = p + half;
        int i = 0;
        for (; i + VLEN <= half; i += VLEN) {
            vf a = vf_load(p + i), b = vf_load(q + i);
            vf c = vf_load(cs + i), s = vf_load(cs + n_rot + i);
            vf_store(p + i, vf_fnma(b, s, vf_mul(a, c)));
            vf_store(q + i, vf_fma(a, s, vf_mul(b, c)));
        }
        if (i < half) {
            int n = half - i;
            vf a = vf_load_n(p + i, n), b = vf_load_n(q + i, n);
            vf c = vf_load_n(cs + i, n), s = vf_load_n(cs + n_rot + i, n);
            vf_store_n(p + i, vf_fnma(b, s, vf_mul(a, c)), n);
            vf_store_n(q + i, vf_fma(a, s, vf_mul(b, c)), n);
        }
    }
}

/* Pairs (2i, 2i + 1).  cs: (cos, cos) of each pair at 0, (-sin, sin) of each pair at n_rot. */
#if VLEN == 1
static void rope_pair_row(float *x, const float *cs, int n_heads, int head_dim, int n_rot)
{
    for (int h = 0; h < n_heads; h++) {
        float *p = x + (int64_t)h * head_dim;
        for (int i = 0; i < n_rot; i += 2) {
            float a = p[i], b = p[i + 1];
            p[i] = a * cs[i] + b * cs[n_rot + i];
            p[i + 1] = b * cs[i + 1] + a * cs[n_rot + i + 1];
        }
    }
}
#else
static void rope_pair_row(float *x, const float *cs, int n_heads, int head_dim, int n_rot)
{
    for (int h = 0; h < n_heads; h++) {
        float *p = x + (int64_t)h * head_dim;
        int i = 0;
        for (; i + VLEN <= n_rot; i += VLEN) {
            vf a = vf_load(p + i), c = vf_load(cs + i), s = vf_load(cs + n_rot + i);
            vf_store(p + i, vf_fma(vf_swap(a), s, vf_mul(a, c)));
        }
        if (i < n_rot) {
            int n = n_rot - i;
            vf a = vf_load_n(p + i, n);
            vf c = vf_load_n(cs + i, n), s = vf_load_n(cs + n_rot + i, n);
            vf_store_n(p + i, vf_fma(vf_swap(a), s, vf_mul(a, c)), n);
        }
    }
}
#endif
