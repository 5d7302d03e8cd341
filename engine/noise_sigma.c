/* Schedulers that follow Karras et al. 2022: latent = image + sigma * noise, the model sees it divided
 * by sqrt(sigma^2 + 1), and the sampler solves d latent / d sigma = (latent - clean) / sigma.
 *
 * Euler, Heun, and the ancestral steps: Karras et al. 2022, Song et al. 2021 (as in k-diffusion).
 * LMS: linear multistep on sigmas, Crowson 2022.  DPM2: DPM-Solver-2, Lu et al. 2022, in sigmas.
 * DPM++ SDE: Lu et al. 2023 in its two-stage form, its noise the increments of a Brownian path; 2S ancestral: the
 * same with fresh noise, as in k-diffusion. */
#include <math.h>

#include "engine/noise_plan.h"

/* The same for all: sigmas and timesteps, and the deviation of the first latent. */
int noise_sigma_schedule(struct plan *p, bool rounded, struct err *e)
{
    int rc = noise_table_timesteps(p, p->n, false, e);
    if (rc == 0)
        rc = noise_table_sigmas(p, false, rounded, e);
    if (rc != 0)
        return rc;
    float max = p->sigma[0];
    for (int i = 1; i < p->n; i++)
        max = p->sigma[i] > max ? p->sigma[i] : max;
    p->out->init_sigma = p->c.spacing == NOISE_LEADING ? sqrtf(max * max + 1) : max;
    return 0;
}

static int start(struct plan *p, bool rounded, struct err *e)
{
    int rc = noise_sigma_schedule(p, rounded, e);
    return rc != 0 ? rc : noise_plan_start(p, p->k->two_calls ? 2 * p->n - 1 : p->n, e);
}

/* latent + slope * (to - from), the slope that of the line from it to the clean one at `sigma`. */
static struct noise_expr step_to(int from_reg, const struct noise_expr *clean, double sigma,
                                 double change)
{
    struct noise_expr x = noise_plan_reg(from_reg, 1);
    x.c[REG_X] += change / sigma;
    noise_plan_add(&x, -change / sigma, clean);
    return x;
}

/* A step from sigma to `to` that ends lower, at *down, and adds noise of deviation *up.  The difference
 * cancels: float32 as in diffusers. */
static void ancestral(double sigma, double to, double *down, double *up)
{
    float s = (float)sigma, t = (float)to;
    float u = sqrtf(t * t * (s * s - t * t) / (s * s));
    *up = (double)u;
    *down = (double)sqrtf(t * t - u * u);
}

int noise_sigma_euler(struct plan *p, struct err *e)
{
    bool random = p->out->kind == NOISE_EULER_A;
    int rc = start(p, false, e);
    if (rc != 0)
        return rc;
    for (int i = p->begin; i < p->n; i++) {
        double sigma = (double)p->sigma[i], to = (double)p->sigma[i + 1], down = to, up = 0;
        noise_plan_call(p, p->t[i], i - p->begin);
        noise_plan_entry_sigma(p, sigma);
        struct noise_expr clean = noise_plan_clean_sigma(p, sigma);
        if (random) {
            ancestral(sigma, to, &down, &up);
            p->call->draw = DRAW_NORMAL;
        }
        struct noise_expr x = step_to(REG_X, &clean, sigma, down - sigma);
        x.c[REG_N] = up;
        noise_plan_emit(p, REG_X, &x);
    }
    return 0;
}

/* --- LMS --- */

/* Lagrange's basis polynomial j of the points sigma[i], sigma[i - 1] ... (n of them), at x. */
static double basis(const struct plan *p, int i, int n, int j, double x)
{
    double product = 1;
    for (int k = 0; k < n; k++)
        if (k != j)
            product *=
                (x - (double)p->sigma[i - k]) / ((double)p->sigma[i - j] - (double)p->sigma[i - k]);
    return product;
}

/* Its integral from sigma[i] to sigma[i + 1]: Gauss with two points is exact to degree 3. */
static double integral(const struct plan *p, int i, int n, int j)
{
    double a = (double)p->sigma[i], b = (double)p->sigma[i + 1];
    double middle = (a + b) / 2, half = (b - a) / 2, at = half / sqrt(3);
    return half * (basis(p, i, n, j, middle - at) + basis(p, i, n, j, middle + at));
}

int noise_sigma_lms(struct plan *p, struct err *e)
{
    int rc = start(p, false, e);
    if (rc != 0)
        return rc;
    for (int i = p->begin; i < p->n; i++) {
        double sigma = (double)p->sigma[i];
        noise_plan_call(p, p->t[i], i - p->begin);
        noise_plan_entry_sigma(p, sigma);
        struct noise_expr clean = noise_plan_clean_sigma(p, sigma);
        struct noise_expr slope = noise_plan_reg(REG_X, 1 / sigma);
        noise_plan_add(&slope, -1 / sigma, &clean);
        noise_plan_push(p, &slope);
        /* A run that starts in the middle has fewer slopes than its order wants; diffusers then drops
         * the terms of those it has not. */
        int order = i + 1 < MAX_HISTORY ? i + 1 : MAX_HISTORY;
        struct noise_expr x = noise_plan_reg(REG_X, 1);
        for (int j = 0; j < order && j < p->n_pushed; j++)
            x.c[noise_plan_history(p, j)] = integral(p, i, order, j);
        noise_plan_emit(p, REG_X, &x);
    }
    return 0;
}

/* --- two calls a step --- */

struct noise_expr noise_sigma_slope(struct plan *p, double sigma)
{
    noise_plan_entry_sigma(p, sigma);
    const struct noise_expr clean = noise_plan_clean_sigma(p, sigma);
    struct noise_expr slope = noise_plan_reg(REG_X, 1 / sigma);
    noise_plan_add(&slope, -1 / sigma, &clean);
    return slope;
}

struct noise_expr noise_sigma_heun_call(struct plan *p, double from, double to,
                                        enum noise_half half)
{
    const struct noise_expr slope = noise_sigma_slope(p, half == NOISE_SECOND ? to : from);
    const struct noise_expr latent = noise_plan_reg(REG_X, 1);
    struct noise_expr x = half == NOISE_SECOND ? noise_plan_reg(REG_S, 1) : latent;
    if (half == NOISE_FIRST) {
        noise_plan_emit(p, REG_S, &latent);
        noise_plan_emit(p, REG_H0, &slope);
    }
    if (half == NOISE_SECOND)
        x.c[REG_H0] = (to - from) / 2;
    noise_plan_add(&x, half == NOISE_SECOND ? (to - from) / 2 : to - from, &slope);
    return x;
}

int noise_sigma_heun(struct plan *p, struct err *e)
{
    int rc = start(p, false, e);
    if (rc != 0)
        return rc;
    for (int i = p->begin; i < 2 * p->n - 1; i++) {
        const int step = i / 2; /* of the whole schedule */
        const enum noise_half half = i % 2 == 1        ? NOISE_SECOND
                                     : step + 1 < p->n ? NOISE_FIRST
                                                       : NOISE_ONLY;
        noise_plan_call(p, p->t[(i + 1) / 2], step - p->begin / 2);
        const struct noise_expr x =
            noise_sigma_heun_call(p, (double)p->sigma[step], (double)p->sigma[step + 1], half);
        noise_plan_emit(p, REG_X, &x);
    }
    return 0;
}

/* One call of DPM2: to the middle of log sigma, and from there the whole step. */
static void dpm2_call(struct plan *p, int step, bool second)
{
    bool random = p->out->kind == NOISE_DPM2_A;
    double from = (double)p->sigma[step], to = (double)p->sigma[step + 1], down = to, up = 0;
    if (random)
        ancestral(from, to, &down, &up);
    double middle = step + 1 < p->n ? sqrt(from * down) : 0, sigma = second ? middle : from;
    double t = second ? noise_table_sigma_to_t(p, middle) : p->t[step];
    noise_plan_call(p, t, step - p->begin / 2);
    noise_plan_entry_sigma(p, second ? to : from);
    struct noise_expr clean = noise_plan_clean_sigma(p, sigma);
    if (!second && step + 1 < p->n) {
        const struct noise_expr latent = noise_plan_reg(REG_X, 1);
        noise_plan_emit(p, REG_S, &latent);
    }
    struct noise_expr x = {{0}};
    if (second) {
        /* The slope is taken at X, the step starts from S. */
        double change = down - from;
        x.c[REG_S] = 1;
        x.c[REG_X] = change / sigma;
        noise_plan_add(&x, -change / sigma, &clean);
        x.c[REG_N] = up;
        p->call->draw = random ? DRAW_NORMAL : DRAW_NONE;
    } else {
        x = step_to(REG_X, &clean, sigma, middle - from);
    }
    noise_plan_emit(p, REG_X, &x);
}

int noise_sigma_dpm2(struct plan *p, struct err *e)
{
    int rc = start(p, true, e);
    for (int i = p->begin; rc == 0 && i < 2 * p->n - 1; i++)
        dpm2_call(p, i / 2, i % 2 == 1);
    return rc;
}

/* To the middle of log sigma on the way down, and from where the step began with the x0 there. */
static void ancestral_2s_call(struct plan *p, int step, bool second)
{
    const double from = (double)p->sigma[step];
    double down, up;
    ancestral(from, (double)p->sigma[step + 1], &down, &up);
    const bool only = step + 1 == p->n;
    const double middle = sqrt(from * down), sigma = second ? middle : from;
    const double to = second || only ? down : middle;
    noise_plan_call(p, second ? noise_table_sigma_to_t(p, middle) : p->t[step],
                    step - p->begin / 2);
    noise_plan_entry_sigma(p, sigma);
    const struct noise_expr clean = noise_plan_clean_sigma(p, sigma);
    if (!second && !only) {
        const struct noise_expr latent = noise_plan_reg(REG_X, 1);
        noise_plan_emit(p, REG_S, &latent);
    }
    struct noise_expr x = noise_plan_reg(second ? REG_S : REG_X, to / from);
    noise_plan_add(&x, 1 - to / from, &clean);
    if (second) {
        p->call->draw = DRAW_NORMAL;
        x.c[REG_N] = up;
    }
    noise_plan_emit(p, REG_X, &x);
}

int noise_sigma_2s_ancestral(struct plan *p, struct err *e)
{
    int rc = start(p, false, e);
    for (int i = p->begin; rc == 0 && i < 2 * p->n - 1; i++)
        ancestral_2s_call(p, i / 2, i % 2 == 1);
    return rc;
}

/* float32 there and back, as diffusers goes: a place of the Brownian path counts to 1e-6. */
static double there_and_back(double log_sigma)
{
    return (double)(float)exp(log_sigma);
}

static void dpm_sde_call(struct plan *p, int step, bool second)
{
    double from = (double)p->sigma[step], next = (double)p->sigma[step + 1], middle = 0;
    if (step + 1 < p->n) {
        float a = (float)log(from), b = (float)log(next), half = (b - a) * 0.5f;
        from = there_and_back((double)a);
        next = there_and_back((double)b);
        middle = there_and_back((double)(a + half));
    }
    double sigma = second ? middle : (double)p->sigma[step];
    double t = second ? noise_table_sigma_to_t(p, middle) : p->t[step];
    noise_plan_call(p, t, step - p->begin / 2);
    noise_plan_entry_sigma(p, (double)p->sigma[second ? step + 1 : step]);
    struct noise_expr clean = noise_plan_clean_sigma(p, sigma);
    if (step + 1 == p->n) { /* to sigma 0, whatever it is on paper */
        struct noise_expr x = step_to(REG_X, &clean, sigma, next - sigma);
        noise_plan_emit(p, REG_X, &x);
        return;
    }
    if (!second) {
        const struct noise_expr latent = noise_plan_reg(REG_X, 1);
        noise_plan_emit(p, REG_S, &latent);
    }
    double to = second ? next : middle, down, up;
    ancestral(from, to, &down, &up);
    struct noise_expr x = noise_plan_reg(REG_S, down / from);
    noise_plan_add(&x, 1 - down / from, &clean);
    x.c[REG_N] = up;
    p->call->draw = DRAW_BROWNIAN;
    p->call->from = from;
    p->call->to = to;
    noise_plan_emit(p, REG_X, &x);
}

int noise_sigma_dpm_sde(struct plan *p, struct err *e)
{
    int rc = start(p, false, e);
    if (rc != 0)
        return rc;
    p->out->sigma_low = p->out->sigma_high = (double)p->sigma[0];
    for (int i = 0; i < p->n; i++) {
        p->out->sigma_low = fmin(p->out->sigma_low, (double)p->sigma[i]);
        p->out->sigma_high = fmax(p->out->sigma_high, (double)p->sigma[i]);
    }
    for (int i = p->begin; i < 2 * p->n - 1; i++)
        dpm_sde_call(p, i / 2, i % 2 == 1);
    return 0;
}
