/* Schedules: cumulative alphas from betas, timesteps by spacing, sigmas by Karras et al. 2022, in equal
 * ratios, by a beta distribution (Lee et al. 2024), by Align Your Steps (Sabour et al. 2024) or evenly by arc
 * tangent, and back from a sigma to a timestep.  The arithmetic is numpy's and torch's, operation by operation,
 * where its rounding shows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "engine/noise_plan.h"

#define PI 3.14159265358979323846

/* torch.linspace(from, to, n) of float32: from both ends to the middle, multiplied and added with one
 * rounding. */
static void linspace32(float *out, int n, double from, double to)
{
    float a = (float)from, b = (float)to;
    float step = n > 1 ? (b - a) / (float)(n - 1) : 0;
    for (int i = 0; i < n; i++)
        out[i] =
            i < n / 2 ? (float)(a + (double)step * i) : (float)(b - (double)step * (n - 1 - i));
}

static double cosine_alpha_bar(double t)
{
    double c = cos((t + 0.008) / 1.008 * PI / 2);
    return c * c;
}

static void fill_betas(const struct plan *p, float *beta)
{
    int n = p->n_train;
    const struct noise_config *c = &p->c;
    if (c->beta_schedule == NOISE_LINEAR) {
        linspace32(beta, n, c->beta_start, c->beta_end);
    } else if (c->beta_schedule == NOISE_SCALED_LINEAR) {
        linspace32(beta, n, sqrt(c->beta_start), sqrt(c->beta_end));
        for (int i = 0; i < n; i++)
            beta[i] *= beta[i];
    } else {
        for (int i = 0; i < n; i++) {
            double b = 1 - cosine_alpha_bar((i + 1.0) / n) / cosine_alpha_bar((double)i / n);
            beta[i] = (float)(b < 0.999 ? b : 0.999);
        }
    }
}

/* out[i] = product of (1 - beta[0 ... i]), summed up in double as torch.cumprod does. */
static void cumulate(float *out, const float *beta, int n)
{
    double product = 1;
    for (int i = 0; i < n; i++) {
        float alpha = 1 - beta[i];
        product *= (double)alpha;
        out[i] = (float)product;
    }
}

/* Lin et al. 2023, algorithm 1: shifts and scales sqrt(alpha bar) so that the last one is 0. */
static void rescale_to_zero_snr(float *beta, float *abar, int n)
{
    cumulate(abar, beta, n);
    float first = sqrtf(abar[0]), last = sqrtf(abar[n - 1]);
    float scale = first / (first - last);
    for (int i = 0; i < n; i++) {
        float root = (sqrtf(abar[i]) - last) * scale;
        abar[i] = root * root;
    }
    beta[0] = 1 - abar[0];
    for (int i = 1; i < n; i++)
        beta[i] = 1 - abar[i] / abar[i - 1];
}

int noise_table_alphas(struct plan *p, struct err *e)
{
    size_t n = (size_t)p->n_train;
    p->abar = mem_try(n, sizeof *p->abar);
    float *beta = mem_try(n, sizeof *beta);
    if (p->abar == NULL || beta == NULL) {
        free(beta);
        return err_set(e, ERR_NOMEM, "no memory for a schedule of %d timesteps", p->n_train);
    }
    fill_betas(p, beta);
    bool zero_snr = p->k->has_zero_snr && p->c.zero_snr == NOISE_YES;
    if (zero_snr)
        rescale_to_zero_snr(beta, p->abar, p->n_train);
    cumulate(p->abar, beta, p->n_train);
    /* Where sigma = sqrt((1 - abar) / abar) is needed, it must be finite. */
    if (zero_snr && p->k->compile != noise_alpha_ddim && p->k->compile != noise_alpha_ddpm &&
        p->k->compile != noise_alpha_lcm && p->k->compile != noise_alpha_tcd)
        p->abar[n - 1] = 0x1p-24f;
    free(beta);
    return 0;
}

/* --- timesteps --- */

/* numpy.linspace(from, to, n)[i] */
static double linspace_at(double from, double to, int n, int i)
{
    if (n > 1 && i == n - 1)
        return to;
    return n > 1 ? i * ((to - from) / (n - 1)) + from : from;
}

/* How many timesteps lie above lambda_min_clipped: n_train where it is not set. */
static int n_unclipped(const struct plan *p)
{
    int clipped = 0;
    if (p->c.lambda_min_clipped != 0)
        for (int i = p->n_train - 1; i >= 0; i--) {
            float lambda = logf(sqrtf(p->abar[i])) - logf(sqrtf(1 - p->abar[i]));
            clipped += lambda < (float)p->c.lambda_min_clipped;
        }
    return p->n_train - clipped;
}

int noise_table_timesteps(struct plan *p, int n_points, bool whole, struct err *e)
{
    int n = p->n, range = p->n_train;
    if (n_points != n)
        range = n_unclipped(p);
    p->t = mem_try((size_t)n, sizeof *p->t);
    if (p->t == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a schedule of %d steps", n);
    if (p->args->timesteps != NULL) {
        for (int i = 0; i < n; i++)
            p->t[i] = p->args->timesteps[i];
    } else if (p->c.spacing == NOISE_LINSPACE) {
        for (int i = 0; i < n; i++) {
            double t = linspace_at(0, range - 1, n_points, n_points - 1 - i);
            p->t[i] = whole ? rint(t) : (double)(float)t;
        }
    } else if (p->c.spacing == NOISE_LEADING) {
        int width = range / n_points;
        for (int i = 0; i < n; i++)
            p->t[i] = (n_points - 1 - i) * width + p->c.steps_offset;
    } else {
        /* numpy.arange(range, 0, -ratio): its step is the difference of its first two. */
        double ratio = (double)p->n_train / n, step = (range - ratio) - range;
        for (int i = 0; i < n; i++)
            p->t[i] = rint(range + i * step) - 1;
    }
    return 0;
}

/* --- sigmas --- */

static float sigma_of(const struct plan *p, int t)
{
    return sqrtf((1 - p->abar[t]) / p->abar[t]);
}

/* numpy.interp over 0 ... n_train - 1 */
static double interpolate(const struct plan *p, double t)
{
    if (t <= 0)
        return (double)sigma_of(p, 0);
    if (t >= p->n_train - 1)
        return (double)sigma_of(p, p->n_train - 1);
    int i = (int)t;
    double low = (double)sigma_of(p, i), high = (double)sigma_of(p, i + 1);
    return (high - low) * (t - i) + low;
}

double noise_table_sigma_to_t(const struct plan *p, double sigma)
{
    double want = log(sigma > 1e-10 ? sigma : 1e-10);
    int low = 0, high = p->n_train; /* the last one that is not above */
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if ((double)logf(sigma_of(p, middle)) <= want)
            low = middle;
        else
            high = middle;
    }
    if (low > p->n_train - 2)
        low = p->n_train - 2;
    double a = (double)logf(sigma_of(p, low)), b = (double)logf(sigma_of(p, low + 1));
    double w = (a - want) / (a - b);
    w = w < 0 ? 0 : w > 1 ? 1 : w;
    return (1 - w) * low + w * (low + 1);
}

/* Sigma i of n by Align Your Steps: the published ones, and between them in equal ratios. */
static double align(bool xl, int n, int i)
{
    enum { N = 11 };
    static const double table[2][N] = {
        {14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029},
        {14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029}};
    double at = linspace_at(0, N - 1, n, i);
    int k = at < N - 1 ? (int)at : N - 2;
    double a = log(table[xl][k]), b = log(table[xl][k + 1]);
    return exp(a + (at - k) * (b - a));
}

double noise_table_spread(const struct plan *p, enum noise_sigmas how, const double ends[2], int n,
                          int i)
{
    const double rho = 7, high = ends[0], low = ends[1];
    switch (how) {
    case NOISE_SIGMAS_EXPONENTIAL:
        return exp(linspace_at(log(high), log(low), n, i));
    case NOISE_SIGMAS_BETA:
        return low + noise_beta_quantile(0.6, 1 - linspace_at(0, 1, n, i)) * (high - low);
    case NOISE_SIGMAS_AYS:
        return align(p->args->xl, n, i);
    case NOISE_SIGMAS_KL: /* of n + 1 */
        return tan(linspace_at(atan(high), atan(low), n + 1, i));
    default: {
        double a = pow(high, 1 / rho), b = pow(low, 1 / rho);
        return pow(a + linspace_at(0, 1, n, i) * (b - a), rho);
    }
    }
}

/* Those of the caller, and the timesteps that they stand for. */
static void take_sigmas(struct plan *p)
{
    memcpy(p->sigma, p->args->sigmas, ((size_t)p->n + 1) * sizeof *p->sigma);
    for (int i = 0; i < p->n; i++)
        p->t[i] = noise_table_sigma_to_t(p, (double)p->sigma[i]);
}

int noise_table_sigmas(struct plan *p, bool whole_range, bool rounded, struct err *e)
{
    int n = p->n;
    p->sigma = mem_try((size_t)n + 1, sizeof *p->sigma);
    if (p->sigma == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a schedule of %d steps", n);
    if (p->args->sigmas != NULL) {
        take_sigmas(p);
        return 0;
    }
    double high = interpolate(p, whole_range ? p->n_train - 1 : p->t[0]);
    double low = interpolate(p, whole_range ? 0 : p->t[n - 1]);
    if (p->c.sigma_max != 0)
        high = p->c.sigma_max;
    if (p->c.sigma_min != 0)
        low = p->c.sigma_min;
    bool spread_out =
        p->k->has_sigmas && p->c.sigmas > NOISE_SIGMAS_PLAIN && p->args->timesteps == NULL;
    const double ends[2] = {high, low};
    double last = 0;
    for (int i = 0; i < n; i++) {
        double s =
            spread_out ? noise_table_spread(p, p->c.sigmas, ends, n, i) : interpolate(p, p->t[i]);
        if (spread_out) {
            p->t[i] = noise_table_sigma_to_t(p, s);
            if (rounded && p->c.sigmas == NOISE_SIGMAS_KARRAS)
                p->t[i] = rint(p->t[i]);
        }
        p->sigma[i] = (float)s;
        last = s;
    }
    p->sigma[n] = 0;
    if (p->c.final_sigma_min == NOISE_YES && spread_out && p->c.sigmas == NOISE_SIGMAS_KL)
        p->sigma[n] = (float)low;
    else if (p->c.final_sigma_min == NOISE_YES)
        p->sigma[n] = p->k->compile == noise_dpm_unipc && spread_out ? (float)last : sigma_of(p, 0);
    return 0;
}
