/* What stands between the model's answer and the scheduler: classifier-free guidance (Ho and Salimans
 * 2022) and its rescale (Lin et al. 2023, section 3.4). */
#include <math.h>

#include "engine/noise.h"

/* The sample standard deviation, two passes in a fixed order. */
static double deviation(const float *x, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    return n > 1 ? sqrt(squares / (double)(n - 1)) : 0;
}

void noise_guide(float *out, const float *uncond, const float *cond, size_t n_floats, float scale,
                 float rescale)
{
    double wanted = rescale > 0 ? deviation(cond, n_floats) : 0;
    for (size_t i = 0; i < n_floats; i++)
        out[i] = uncond[i] + scale * (cond[i] - uncond[i]);
    double is = rescale > 0 ? deviation(out, n_floats) : 0;
    if (!(is > 0))
        return;
    float factor = rescale * (float)(wanted / is) + (1 - rescale);
    for (size_t i = 0; i < n_floats; i++)
        out[i] *= factor;
}
