/* rope: rows against scalar, the op against the formula in doubles, and its cache of angles. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "tests/kcheck/kcheck.h"

static void check_rows(struct kcheck *kc, bool pair)
{
    static const int shapes[][2] = {{8, 8}, {40, 40}, {64, 64}, {80, 32}, {128, 128}, {96, 2}};
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        int hd = shapes[s][0], n_rot = shapes[s][1], n = 3 * hd;
        float *cs = kcheck_in(kc, 2 * n_rot), *a = kcheck_out(kc, n), *b = kcheck_out(kc, n);
        kcheck_fill(kc, cs, 2 * n_rot, 1.0f);
        kcheck_fill(kc, a, n, 2.0f);
        memcpy(b, a, sizeof(float) * (size_t)n);
        if (pair) {
            kc->ref->rope_pair_row(a, cs, 3, hd, n_rot);
            kc->var->rope_pair_row(b, cs, 3, hd, n_rot);
        } else {
            kc->ref->rope_half_row(a, cs, 3, hd, n_rot);
            kc->var->rope_half_row(b, cs, 3, hd, n_rot);
        }
        kcheck_near(kc, a, b, n, 1e-6f, 2, "x");
        kcheck_done(kc);
    }
}

static void rotate(float *x, int rows, int n_heads, const struct op_rope *p)
{
    for (int r = 0; r < rows; r++) {
        for (int h = 0; h < n_heads; h++) {
            float *v = x + ((int64_t)r * n_heads + h) * p->head_dim;
            for (int i = 0; i < p->n_rot / 2; i++) {
                int i0 = p->interleaved ? 2 * i : i;
                int i1 = p->interleaved ? 2 * i + 1 : i + p->n_rot / 2;
                double angle = (double)p->pos[r] * (double)p->freq[i];
                double a = v[i0], b = v[i1], c = cos(angle), s = sin(angle);
                v[i0] = (float)((a * c - b * s) * p->mscale);
                v[i1] = (float)((a * s + b * c) * p->mscale);
            }
        }
    }
}

static void check_case(struct kcheck *kc, struct backend *be, int rows, int n_heads, int first,
                       double base, struct op_rope p)
{
    int64_t n = (int64_t)rows * n_heads * p.head_dim;
    float *want = kcheck_out(kc, n), *out = kcheck_out(kc, n), *again = kcheck_out(kc, n);
    float *freq = kcheck_in(kc, p.n_rot / 2);
    int32_t *pos = kcheck_in_bytes(kc, sizeof(int32_t) * (size_t)rows, 4);
    for (int i = 0; i < p.n_rot / 2; i++)
        freq[i] = (float)pow(base, -2.0 * i / p.n_rot);
    for (int r = 0; r < rows; r++)
        pos[r] = first + r * 3;
    p.freq = freq;
    p.pos = pos;
    kcheck_fill(kc, want, n, 2.0f);
    memcpy(out, want, sizeof(float) * (size_t)n);
    memcpy(again, want, sizeof(float) * (size_t)n);
    rotate(want, rows, n_heads, &p);
    struct tensor x = kcheck_tensor(out, rows, (int64_t)n_heads * p.head_dim);
    p.x = &x;
    be->ops->rope(be, &p);
    kcheck_near(kc, want, out, n, 2e-6f, 4, "against doubles");
    x.data = again; /* now from the cache */
    be->ops->rope(be, &p);
    kcheck_same(kc, out, again, sizeof(float) * (size_t)n, "the second time");
    kcheck_done(kc);
}

static void check_op(struct kcheck *kc)
{
    for (int threads = 1; threads <= 3; threads += 2) {
        struct backend *be = kcheck_backend(kc, threads);
        for (int i = 0; i < 2; i++) {
            struct op_rope p = {.head_dim = 64, .n_rot = 64, .mscale = 1.0f, .interleaved = i == 1};
            check_case(kc, be, 1, 9, 0, 1e4, p);
            check_case(kc, be, 1, 9, 100000, 1e4, p);
            check_case(kc, be, 300, 3, 17, 1e4, p);
            check_case(kc, be, 200, 3, 17, 1e4, p); /* the first rows of the ones before */
            check_case(kc, be, 200, 3, 17, 5e5, p);
            p.mscale = 1.25f;
            check_case(kc, be, 200, 3, 17, 1e4, p);
            p.n_rot = 20;
            check_case(kc, be, 200, 3, 17, 1e4, p);
            p.head_dim = p.n_rot = 256;
            check_case(kc, be, 1100, 1, 0, 1e4, p); /* more rows than the cache holds */
        }
        be->close(be);
    }
}

void kcheck_rope(struct kcheck *kc)
{
    if (KCHECK(kc, rope_pair_row))
        check_rows(kc, true);
    if (KCHECK(kc, rope_half_row))
        check_rows(kc, false);
    if (KCHECK_OP(kc, rope, rope_half_row))
        check_op(kc);
}
