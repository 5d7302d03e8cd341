/* The quantiles of a symmetric beta distribution, for steps that are dense where a picture is laid out and where it
 * is finished (Lee et al. 2024, "Beta Sampling is All You Need"): the distribution by its continued fraction
 * (Abramowitz and Stegun 26.5.8), inverted by halving. */
#include <math.h>

#include "engine/noise_plan.h"

enum { MAX_TERMS = 200, MAX_HALVINGS = 64 };

/* The distribution at x <= 1/2, by Lentz' method. */
static double lower_half(double a, double x)
{
    const double tiny = 1e-300;
    double c = 1, d = 0, f = 1;
    for (int i = 1; i < MAX_TERMS; i++) {
        const int m = i / 2;
        const double even = m * (a - m) / ((a + 2 * m - 1) * (a + 2 * m));
        const double odd = -(a + m) * (2 * a + m) / ((a + 2 * m) * (a + 2 * m + 1));
        const double term = i % 2 == 0 ? even * x : odd * x;
        d = 1 + term * d;
        d = 1 / (fabs(d) < tiny ? tiny : d);
        c = 1 + term / (fabs(c) < tiny ? tiny : c);
        f *= c * d;
        if (fabs(c * d - 1) < 1e-16)
            break;
    }
    const double log_front = a * log(x) + a * log1p(-x) - 2 * lgamma(a) + lgamma(2 * a);
    return exp(log_front) / (a * f);
}

double noise_beta_quantile(double a, double p)
{
    if (p <= 0 || p >= 1)
        return p <= 0 ? 0 : 1;
    if (p > 0.5)
        return 1 - noise_beta_quantile(a, 1 - p);
    double low = 0, high = 0.5;
    for (int i = 0; i < MAX_HALVINGS; i++) {
        const double middle = (low + high) / 2;
        if (lower_half(a, middle) < p)
            low = middle;
        else
            high = middle;
    }
    return high;
}
