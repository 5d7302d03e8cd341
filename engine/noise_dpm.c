/* Exponential integrators in half log SNR: lambda = log(a / s) for latent = a * image + s * noise, all
 * on the clean latent (data prediction).
 *
 * DPM-Solver++ multistep (2M), singlestep (2S) and SDE: Lu, Zhou, Bao, Chen, Li, Zhu 2023.
 * UniPC, predictor and corrector: Zhao, Bai, Rao, Zhou, Lu 2023. */
#include <math.h>

#include "engine/noise_plan.h"

enum { MAX_ORDER = 3 };

/* A place on the way. */
struct point {
    double a, s, lambda;
};

/* Point i of the schedule.  In float32 like diffusers, where a tiny sigma's a is 1. */
static struct point point_at(const struct plan *p, int i)
{
    float sigma = p->sigma[i], a = 1 / sqrtf(sigma * sigma + 1), s = sigma * a;
    return (struct point){(double)a, (double)s, (double)logf(a) - (double)logf(s)};
}

static int start(struct plan *p, bool rounded, struct err *e)
{
    int n_points = p->c.spacing == NOISE_TRAILING || p->args->timesteps != NULL ? p->n : p->n + 1;
    int rc = noise_table_timesteps(p, n_points, true, e);
    if (rc == 0)
        rc = noise_table_sigmas(p, true, rounded, e);
    for (int i = 0; rc == 0 && i < p->n; i++)
        p->t[i] = trunc(p->t[i]); /* they are whole numbers to diffusers */
    if (rc == 0 && (p->c.solver_order < 1 || p->c.solver_order > MAX_ORDER))
        return err_set(e, ERR_UNSUPPORTED, "%s of order %d is not built in", p->k->name,
                       p->c.solver_order);
    return rc != 0 ? rc : noise_plan_start(p, p->n, e);
}

static struct noise_expr begin_call(struct plan *p, int i)
{
    noise_plan_call(p, p->t[i], i - p->begin);
    struct point at = point_at(p, i);
    noise_plan_entry(p, at.a, at.s);
    return noise_plan_clean(p, at.a, at.s);
}

/* (history[age_a] - history[age_b]) * c */
static struct noise_expr difference(const struct plan *p, int age_a, int age_b, double c)
{
    struct noise_expr x = {{0}};
    x.c[noise_plan_history(p, age_a)] = c;
    x.c[noise_plan_history(p, age_b)] = -c;
    return x;
}

/* The terms of the expansion, for a step of h: what multiplies the clean latent and its first and
 * second derivative; in the SDE, h counts twice and noise comes in. */
struct terms {
    double latent, d0, d1, d2, noise;
};

static struct terms terms_of(const struct plan *p, struct point from, struct point to, double h)
{
    bool heun = p->c.solver_heun == NOISE_YES;
    if (p->c.algorithm == NOISE_DPMSOLVERPP) {
        double phi = exp(-h) - 1;
        return (struct terms){.latent = to.s / from.s,
                              .d0 = -to.a * phi,
                              .d1 = heun ? to.a * (phi / h + 1) : -0.5 * to.a * phi,
                              .d2 = -to.a * ((phi + h) / (h * h) - 0.5)};
    }
    double phi = 1 - exp(-2 * h);
    return (struct terms){.latent = to.s / from.s * exp(-h),
                          .d0 = to.a * phi,
                          .d1 = heun ? to.a * (phi / (-2 * h) + 1) : 0.5 * to.a * phi,
                          .d2 = to.a * ((phi - 2 * h) / (4 * h * h) - 0.5),
                          .noise = to.s * sqrt(phi)};
}

static void finish(struct plan *p, struct noise_expr x, const struct terms *k)
{
    if (p->c.algorithm == NOISE_SDE_DPMSOLVERPP) {
        p->call->draw = DRAW_NORMAL;
        x.c[REG_N] = k->noise;
    }
    noise_plan_emit(p, REG_X, &x);
}

/* --- multistep --- */

static void multi_step(struct plan *p, int i, int order)
{
    struct point to = point_at(p, i + 1), from = point_at(p, i);
    double h = to.lambda - from.lambda;
    if (order == 3) /* the third order has Heun's terms only */
        p->c.solver_heun = NOISE_YES;
    struct terms k = terms_of(p, from, to, h);
    struct noise_expr x = noise_plan_reg(REG_X, k.latent);
    x.c[noise_plan_history(p, 0)] = k.d0;
    if (order >= 2) {
        double r0 = (from.lambda - point_at(p, i - 1).lambda) / h;
        struct noise_expr d = difference(p, 0, 1, 1 / r0);
        noise_plan_add(&x, k.d1, &d);
        if (order == 3) {
            double r1 = (point_at(p, i - 1).lambda - point_at(p, i - 2).lambda) / h;
            struct noise_expr older = difference(p, 1, 2, 1 / r1);
            noise_plan_add(&d, -1, &older);
            noise_plan_add(&x, k.d1 * r0 / (r0 + r1) + k.d2 / (r0 + r1), &d);
        }
    }
    finish(p, x, &k);
}

int noise_dpm_multi(struct plan *p, struct err *e)
{
    int rc = start(p, p->c.beta_schedule != NOISE_SQUAREDCOS, e);
    if (rc != 0)
        return rc;
    enum noise_flag heun = p->c.solver_heun;
    bool lower = p->c.lower_order_final != NOISE_NO && p->n < 15;
    for (int i = p->begin; i < p->n; i++) {
        struct noise_expr clean = begin_call(p, i);
        noise_plan_push(p, &clean);
        int order = p->c.solver_order, left = p->n - i;
        if (left == 1 &&
            (p->c.euler_at_final == NOISE_YES || lower || p->c.final_sigma_min != NOISE_YES))
            order = 1;
        if (left == 2 && lower && order > 2)
            order = 2;
        if (order > p->n_pushed)
            order = p->n_pushed;
        p->c.solver_heun = heun;
        multi_step(p, i, order);
    }
    return 0;
}

/* --- singlestep --- */

/* The order of step i of n: blocks 1, 2 (or 1, 2, 3), the rest in lower orders. */
static int single_order(const struct plan *p, int i)
{
    int n = p->n, order = p->c.solver_order;
    if (i == n - 1 && p->c.final_sigma_min != NOISE_YES)
        return 1;
    bool lower =
        p->c.lower_order_final == NOISE_YES || n % order != 0 || p->c.final_sigma_min != NOISE_YES;
    if (lower && n % order == 0 && order > 1 && i >= n - order) {
        static const int last[2][3] = {{1, 1}, {1, 2, 1}};
        return last[order - 2][i - (n - order)];
    }
    return i % order + 1;
}

static void single_step(struct plan *p, int i, int order)
{
    struct point to = point_at(p, i + 1), from = point_at(p, i - (order - 1));
    double h = to.lambda - from.lambda;
    enum noise_flag heun = p->c.solver_heun;
    if (order == 3)
        p->c.solver_heun = NOISE_YES;
    struct terms k = terms_of(p, from, to, h);
    p->c.solver_heun = heun;
    struct noise_expr x = noise_plan_reg(order == 1 ? REG_X : REG_S, k.latent);
    x.c[noise_plan_history(p, order - 1)] = k.d0;
    if (order == 2) {
        double r0 = (point_at(p, i).lambda - from.lambda) / h;
        struct noise_expr d = difference(p, 0, 1, 1 / r0);
        noise_plan_add(&x, k.d1, &d);
    } else if (order == 3) {
        double r0 = (point_at(p, i).lambda - from.lambda) / h;
        double r1 = (point_at(p, i - 1).lambda - from.lambda) / h;
        struct noise_expr near = difference(p, 1, 2, 1 / r1), far = difference(p, 0, 2, 1 / r0);
        if (heun == NOISE_YES) {
            noise_plan_add(&x, (k.d1 * r0 - 2 * k.d2) / (r0 - r1), &near);
            noise_plan_add(&x, (2 * k.d2 - k.d1 * r1) / (r0 - r1), &far);
        } else {
            noise_plan_add(&x, k.d1, &far);
        }
    }
    finish(p, x, &k);
}

int noise_dpm_single(struct plan *p, struct err *e)
{
    p->c.spacing = NOISE_LINSPACE; /* the only one it has */
    int rc = start(p, true, e);
    if (rc != 0)
        return rc;
    for (int i = p->begin; i < p->n; i++) {
        struct noise_expr clean = begin_call(p, i);
        noise_plan_push(p, &clean);
        int order = single_order(p, i);
        if (order > p->n_pushed)
            order = p->n_pushed;
        if (order == 1) {
            const struct noise_expr latent = noise_plan_reg(REG_X, 1);
            noise_plan_emit(p, REG_S, &latent);
        }
        single_step(p, i, order);
    }
    return 0;
}

/* --- UniPC --- */

/* Solves r x = b for n <= MAX_ORDER unknowns, in place; r is a Vandermonde matrix, regular. */
static void solve(double r[MAX_ORDER][MAX_ORDER], double *b, int n)
{
    for (int i = 0; i < n; i++) {
        int pivot = i;
        for (int j = i + 1; j < n; j++)
            if (fabs(r[j][i]) > fabs(r[pivot][i]))
                pivot = j;
        for (int k = 0; k < n; k++) {
            double t = r[i][k];
            r[i][k] = r[pivot][k];
            r[pivot][k] = t;
        }
        double t = b[i];
        b[i] = b[pivot];
        b[pivot] = t;
        for (int j = 0; j < n; j++) {
            double f = j == i ? 0 : r[j][i] / r[i][i];
            for (int k = i; k < n; k++)
                r[j][k] -= f * r[i][k];
            b[j] -= f * b[i];
        }
    }
    for (int i = 0; i < n; i++)
        b[i] /= r[i][i];
}

/* The latent at point i + 1 from that at point i, in from_reg: the exact first order, and
 * sum of rho[k] * (clean[k] - clean[i]) / r[k] over older points, and with the corrector the point
 * i + 1 itself.  newest: the age of the clean latent at point i. */
static struct noise_expr unipc(const struct plan *p, int i, int order, int newest, int from_reg)
{
    bool corrects = newest == 1;
    struct point to = point_at(p, i + 1), from = point_at(p, i);
    double h = -(to.lambda - from.lambda), phi = expm1(h);
    double b_h = p->c.solver_bh1 == NOISE_YES ? h : phi;
    struct noise_expr x = noise_plan_reg(from_reg, to.s / from.s);
    x.c[noise_plan_history(p, newest)] = -to.a * phi;
    double r[MAX_ORDER] = {0}, matrix[MAX_ORDER][MAX_ORDER] = {{0}}, rho[MAX_ORDER] = {0};
    for (int k = 1; k < order; k++)
        r[k - 1] = -(point_at(p, i - k).lambda - from.lambda) / h;
    r[order - 1] = 1;
    double phi_k = phi / h - 1, factorial = 1;
    for (int k = 0; k < order; k++) {
        for (int j = 0; j < order; j++)
            matrix[k][j] = pow(r[j], k);
        rho[k] = phi_k * factorial / b_h;
        factorial *= k + 2;
        phi_k = phi_k / h - 1 / factorial;
    }
    int n = corrects ? order : order - 1;
    if (n == 1 && (!corrects || order == 1))
        rho[0] = 0.5;
    else
        solve(matrix, rho, n);
    for (int k = 0; k < order - 1; k++) {
        struct noise_expr d = difference(p, newest + k + 1, newest, 1 / r[k]);
        noise_plan_add(&x, -to.a * b_h * rho[k], &d);
    }
    if (corrects) {
        struct noise_expr d = difference(p, 0, newest, 1);
        noise_plan_add(&x, -to.a * b_h * rho[order - 1], &d);
    }
    return x;
}

int noise_dpm_unipc(struct plan *p, struct err *e)
{
    int rc = start(p, true, e), order = 0;
    if (rc != 0)
        return rc;
    for (int i = p->begin; i < p->n; i++) {
        struct noise_expr clean = begin_call(p, i);
        noise_plan_push(p, &clean);
        struct noise_expr latent = noise_plan_reg(REG_X, 1);
        if (i > p->begin)
            latent = unipc(p, i - 1, order, 1, REG_S);
        noise_plan_emit(p, REG_S, &latent);
        /* A last step to sigma 0 must be of the first order, or nothing finite comes out. */
        order = p->c.solver_order;
        if (order > p->n - i &&
            (p->c.lower_order_final != NOISE_NO || p->c.final_sigma_min != NOISE_YES))
            order = p->n - i;
        if (order > p->n_pushed)
            order = p->n_pushed;
        struct noise_expr x = unipc(p, i, order, 0, REG_S);
        noise_plan_emit(p, REG_X, &x);
    }
    return 0;
}
