/* Numbers or not; finite.h says why. */
#include "engine/finite.h"

#include <math.h>

/* 0 * x is 0 for numbers and NaN for all else, and NaN stays in a sum. */
bool finite_all(const float *v, size_t n)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += 0.0f * v[i];
    return isfinite(sum);
}

int finite_error(const char *what, struct err *e)
{
    err_set(e, ERR_CORRUPT,
            "the model made %s that is not of finite numbers: its weights are damaged, or they "
            "overflow",
            what);
    return err_reason(e, "not_finite");
}
