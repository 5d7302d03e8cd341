/* DPM fast, as k-diffusion has it: DPM-Solver in the form that spends exactly as many calls as there are steps, three
 * a step but for the last, evenly in log sigma down to the least of training.  Lu, Zhou, Bao, Chen, Li, Zhu 2022, in
 * sigmas. */
#include <math.h>

#include "engine/noise_plan.h"

/* D at the sigma exp(-t) of a call; t is -log sigma here. */
static struct noise_expr slope_at(struct plan *p, double t, int call)
{
    const double sigma = exp(-t);
    noise_plan_call(p, noise_table_sigma_to_t(p, sigma), call);
    return noise_sigma_slope(p, sigma);
}

/* The latent at t + h, from that at t in REG_S with the slope d there: exact for a constant one. */
static struct noise_expr go(double t, double h, const struct noise_expr *d)
{
    struct noise_expr x = noise_plan_reg(REG_S, 1);
    noise_plan_add(&x, -exp(-t - h) * expm1(h), d);
    return x;
}

/* A step of up to three calls from t to t + h; the k-th is made where the one before went, a third or a half on. */
static void fast_step(struct plan *p, double t, double h, int order, int call)
{
    const struct noise_expr latent = noise_plan_reg(REG_X, 1), kept = noise_plan_reg(REG_H0, 1);
    for (int k = 0; k < order; k++) {
        const double at = h * k / order, to = h * (k + 1) / order;
        const struct noise_expr d = slope_at(p, t + at, call + k);
        if (k == 0) {
            noise_plan_emit(p, REG_S, &latent);
            noise_plan_emit(p, REG_H0, &d);
        }
        struct noise_expr x = go(t, to, &kept), change = d;
        noise_plan_add(&change, -1, &kept);
        if (order == 2 && k == 1)
            noise_plan_add(&x, -exp(-t - to) * expm1(to), &change);
        else if (k > 0)
            noise_plan_add(&x, -exp(-t - to) * to / at * (expm1(to) / to - 1), &change);
        noise_plan_emit(p, REG_X, &x);
    }
}

int noise_fast(struct plan *p, struct err *e)
{
    p->c.spacing = NOISE_LINSPACE;
    int rc = noise_sigma_schedule(p, false, e);
    if (rc == 0)
        rc = noise_plan_start(p, p->n, e);
    if (rc != 0)
        return rc;
    const float most = p->abar[p->n_train - 1], least = p->abar[0];
    const int n = p->n - p->begin, n_steps = n / 3 + 1;
    const double low = sqrt((1 - (double)least) / (double)least);
    const double high =
        p->begin > 0 ? (double)p->sigma[p->begin] : sqrt((1 - (double)most) / (double)most);
    const double start = -log(high), width = (-log(low) - start) / n_steps;
    p->out->init_sigma = (float)high;
    for (int i = 0, call = 0; i < n_steps; i++) {
        int order = n - call < 3 ? n - call : 3;
        if (n % 3 == 0 && i >= n_steps - 2) /* the last three: two and one */
            order = n_steps - i;
        fast_step(p, start + i * width, width, order, call);
        call += order;
    }
    return 0;
}
