/* Whether what an image model computed is what the reference has: f32 by the largest error over the largest
 * value, activations of halves by the signal over the noise. */
#ifndef TESTS_GOLDEN_NEAR_H
#define TESTS_GOLDEN_NEAR_H
#include <math.h>
#include <stddef.h>

#include "kernels/tensor.h"

/* The least that f16 and bf16 have, in dB; measured 48 and 30. */
#define NEAR_F16_DB  46
#define NEAR_BF16_DB 28

/* The least that a picture of several steps has. */
static inline double golden_picture_db(enum dtype type)
{
    return type == DTYPE_F32 ? 50 : type == DTYPE_F16 ? 40 : 22;
}

/* Some pictures of these tiny models hang on roundings, so that a half's error grows a thousandfold over DDIM's
 * steps: with f16 and bf16 so many of n may be further off. */
static inline int golden_may_be_off(enum dtype type, int n)
{
    return type == DTYPE_F32 ? 0 : n / 16;
}

/* bound: of f32; least_db: of halves */
static inline void golden_near_db(enum dtype type, const char *what, const float *ours,
                                  const float *ref, size_t n, double bound, double least_db)
{
    double most = 0, size = 0, noise = 0, signal = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)ours[i] - (double)ref[i];
        assert_true(isfinite(ours[i]));
        most = fmax(most, fabs(d));
        size = fmax(size, fabs((double)ref[i]));
        noise += d * d;
        signal += (double)ref[i] * (double)ref[i];
    }
    if (type != DTYPE_F32) {
        const double db = 10 * log10(signal / (noise + 1e-12 * signal));
        print_message("    %-24s %.1f dB\n", what, db);
        if (!(db >= least_db))
            fail_msg("%s: %.1f dB", what, db);
        return;
    }
    print_message("    %-24s %.1e of %.2f\n", what, most / size, size);
    if (!(most <= bound * size))
        fail_msg("%s differs by %g of %g", what, most, size);
}

/* bound: of f32; type: the activations' */
static inline void golden_near(enum dtype type, const char *what, const float *ours,
                               const float *ref, size_t n, double bound)
{
    golden_near_db(type, what, ours, ref, n, bound, type == DTYPE_F16 ? NEAR_F16_DB : NEAR_BF16_DB);
}
#endif
