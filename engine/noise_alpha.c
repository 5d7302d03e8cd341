/* Schedulers that walk along alpha bar at whole timesteps: DDIM, DDPM, PNDM, and the consistency
 * samplers LCM and TCD.  latent = a * image + s * noise with a = sqrt(abar), s = sqrt(1 - abar).
 *
 * DDIM: Song, Meng, Ermon 2021.  DDPM: Ho, Jain, Abbeel 2020.  PNDM: Liu, Ren, Lin, Zhao 2022.
 * LCM: Luo et al. 2023.  TCD: Zheng et al. 2024. */
#include <math.h>
#include <stdlib.h>

#include "base/arena.h"
#include "engine/noise_plan.h"

/* abar behind the last step: 1, or that of the first timestep. */
static double abar_at(const struct plan *p, int t)
{
    if (t >= 0)
        return (double)p->abar[t];
    return p->c.set_alpha_to_one == NOISE_YES ? 1 : (double)p->abar[0];
}

/* Timesteps index a table here; leading ones with an offset may leave it. */
static int check_table(const struct plan *p, struct err *e)
{
    for (int i = 0; i < p->n; i++)
        if (p->t[i] < 0 || p->t[i] >= p->n_train)
            return err_set(e, ERR_INVALID, "%d steps reach timestep %g, training ended at %d", p->n,
                           p->t[i], p->n_train - 1);
    return 0;
}

/* The clean latent, its noise and the sides' a and s at timestep t. */
struct point {
    double abar, a, s;
};

static struct point point_at(const struct plan *p, int t)
{
    double abar = abar_at(p, t);
    return (struct point){abar, sqrt(abar), sqrt(1 - abar)};
}

static struct point begin_call(struct plan *p, int t, int step)
{
    noise_plan_call(p, t, step);
    struct point at = point_at(p, t);
    noise_plan_entry(p, at.a, at.s);
    return at;
}

static int start(struct plan *p, struct err *e)
{
    int rc = noise_table_timesteps(p, p->n, true, e);
    if (rc == 0)
        rc = check_table(p, e);
    return rc;
}

int noise_alpha_ddim(struct plan *p, struct err *e)
{
    int rc = start(p, e);
    if (rc == 0)
        rc = noise_plan_start(p, p->n, e);
    if (rc != 0)
        return rc;
    double eta = p->args->eta;
    for (int i = p->begin; i < p->n; i++) {
        int t = (int)p->t[i];
        struct point at = begin_call(p, t, i - p->begin);
        struct point to = point_at(p, t - p->n_train / p->n);
        double variance = (1 - to.abar) / (1 - at.abar) * (1 - at.abar / to.abar);
        double dev = eta * sqrt(variance);
        struct noise_expr x0 = noise_plan_clean(p, at.a, at.s), x = {{0}};
        struct noise_expr eps = noise_plan_eps(p, at.a, at.s);
        noise_plan_add(&x, to.a, &x0);
        noise_plan_add(&x, sqrt(1 - to.abar - dev * dev), &eps);
        if (eta > 0) {
            p->call->draw = DRAW_NORMAL;
            x.c[REG_N] = dev;
        }
        noise_plan_emit(p, REG_X, &x);
    }
    return 0;
}

int noise_alpha_ddpm(struct plan *p, struct err *e)
{
    int rc = start(p, e);
    if (rc == 0)
        rc = noise_plan_start(p, p->n, e);
    if (rc != 0)
        return rc;
    p->c.set_alpha_to_one = NOISE_YES;
    for (int i = p->begin; i < p->n; i++) {
        int t = (int)p->t[i];
        struct point at = begin_call(p, t, i - p->begin);
        struct point to = point_at(p, i + 1 < p->n ? (int)p->t[i + 1] : -1);
        double alpha = at.abar / to.abar, beta = 1 - alpha;
        struct noise_expr x0 = noise_plan_clean(p, at.a, at.s), x = {{0}};
        noise_plan_add(&x, to.a * beta / (1 - at.abar), &x0);
        x.c[REG_X] += sqrt(alpha) * (1 - to.abar) / (1 - at.abar);
        if (t > 0) {
            double variance = (1 - to.abar) / (1 - at.abar) * beta;
            p->call->draw = DRAW_NORMAL;
            x.c[REG_N] = sqrt(variance > 1e-20 ? variance : 1e-20);
        }
        noise_plan_emit(p, REG_X, &x);
    }
    return 0;
}

/* --- PNDM --- */

/* Formula (9) of the paper: from timestep t to `to` along the noise eps. */
static void transfer(struct plan *p, struct noise_expr eps, int from_reg, int t, int to_t)
{
    struct point at = point_at(p, t), to = point_at(p, to_t);
    if (p->c.prediction == NOISE_V) {
        for (int r = 0; r < N_REGS; r++)
            eps.c[r] *= at.a;
        eps.c[from_reg] += at.s;
    }
    double denominator = at.abar * to.s + sqrt(at.abar * (1 - at.abar) * to.abar);
    struct noise_expr x = noise_plan_reg(from_reg, sqrt(to.abar / at.abar));
    noise_plan_add(&x, -(to.abar - at.abar) / denominator, &eps);
    noise_plan_emit(p, REG_X, &x);
}

/* Adams-Bashforth over the newest histories. */
static struct noise_expr multistep(const struct plan *p, int n)
{
    static const double weights[4][4] = {{1},
                                         {3 / 2.0, -1 / 2.0},
                                         {23 / 12.0, -16 / 12.0, 5 / 12.0},
                                         {55 / 24.0, -59 / 24.0, 37 / 24.0, -9 / 24.0}};
    struct noise_expr x = {{0}};
    for (int i = 0; i < n; i++)
        x.c[noise_plan_history(p, i)] = weights[n - 1][i];
    return x;
}

/* One of the first twelve calls: Runge-Kutta of fourth order, four calls a step. */
static void runge_kutta(struct plan *p, int counter, int t, int first_t)
{
    static const double weights[4] = {1 / 6.0, 1 / 3.0, 1 / 3.0, 1 / 6.0};
    int half = p->n_train / p->n / 2, stage = counter % 4;
    const struct noise_expr output = noise_plan_reg(REG_M, 1), latent = noise_plan_reg(REG_X, 1);
    struct noise_expr sum = noise_plan_reg(REG_M, weights[stage]);
    if (stage == 0) {
        noise_plan_push(p, &output);
        noise_plan_emit(p, REG_S, &latent);
    } else {
        sum.c[REG_A] = 1;
    }
    noise_plan_emit(p, REG_A, &sum);
    transfer(p, stage == 3 ? noise_plan_reg(REG_A, 1) : output, REG_S, first_t,
             t - (counter % 2 == 0 ? half : 0));
}

/* A linear multistep call; the second one of a run without Runge-Kutta repeats the first's step. */
static void linear_multistep(struct plan *p, int counter, int t)
{
    const struct noise_expr output = noise_plan_reg(REG_M, 1), latent = noise_plan_reg(REG_X, 1);
    int width = p->n_train / p->n;
    if (counter == 1) {
        struct noise_expr mean = noise_plan_reg(REG_M, 0.5);
        mean.c[noise_plan_history(p, 0)] = 0.5;
        transfer(p, mean, REG_S, t + width, t);
        return;
    }
    noise_plan_push(p, &output);
    if (counter == 0)
        noise_plan_emit(p, REG_S, &latent);
    int n = p->n_pushed < 4 ? p->n_pushed : 4;
    transfer(p, multistep(p, n), REG_X, t, t - width);
}

/* The whole list of timesteps; n_kutta of them are Runge-Kutta's.  Returns how many. */
static int pndm_timesteps(const struct plan *p, int *list, int *n_kutta)
{
    int n = 0, half = p->n_train / p->n / 2;
    if (p->c.skip_prk_steps == NOISE_YES) {
        for (int i = 0; i < p->n; i++) {
            list[n++] = (int)p->t[i];
            if (i == 1)
                list[n++] = (int)p->t[i];
        }
        *n_kutta = 0;
        return n;
    }
    /* Steps 0, 1, 2 of four calls each: t, t - half twice, the next t, which is also the next's. */
    for (int i = 0; i < 3; i++) {
        int t = (int)p->t[i], next = (int)p->t[i + 1];
        list[n++] = t;
        list[n++] = next + half;
        list[n++] = next + half;
        list[n++] = next;
    }
    *n_kutta = n;
    for (int i = 3; i < p->n; i++)
        list[n++] = (int)p->t[i];
    return n;
}

int noise_alpha_pndm(struct plan *p, struct err *e)
{
    int rc = start(p, e);
    if (rc != 0)
        return rc;
    bool skip = p->c.skip_prk_steps == NOISE_YES;
    if (!skip && p->n < 4)
        return err_set(e, ERR_INVALID, "PNDM with Runge-Kutta steps needs 4 steps, not %d", p->n);
    int *list = mem_try((size_t)p->n + 12, sizeof *list);
    if (list == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a schedule of %d steps", p->n);
    int n_kutta, n_all = pndm_timesteps(p, list, &n_kutta);
    rc = noise_plan_start(p, n_all, e);
    for (int i = p->begin; rc == 0 && i < n_all; i++) {
        int counter = i - p->begin, t = list[i];
        int step = skip && counter > 0 ? counter - 1 : counter;
        struct point at = begin_call(p, t, step);
        noise_plan_clean(p, at.a, at.s);
        if (counter < n_kutta)
            runge_kutta(p, counter, t, list[counter / 4 * 4]);
        else
            linear_multistep(p, counter, t);
    }
    free(list);
    return rc;
}

/* --- consistency samplers --- */

/* Both take n of the original_steps timesteps at which the distilled model was trained, or of the
 * lower ones that a strength leaves. */
static int consistency_timesteps(struct plan *p, struct err *e)
{
    int original = p->c.original_steps, n_left = original;
    if (p->args->strength_in_range && p->strength > 0)
        n_left = (int)(original * p->strength);
    p->t = mem_try((size_t)p->n, sizeof *p->t);
    if (p->t == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a schedule of %d steps", p->n);
    if (p->args->timesteps == NULL && (p->n > n_left || original > p->n_train))
        return err_set(e, ERR_INVALID, "%s makes at most %d steps here, not %d", p->k->name, n_left,
                       p->n);
    int width = p->n_train / original;
    for (int i = 0; i < p->n; i++) {
        int skipped = (int)floor(i * ((double)n_left / p->n));
        p->t[i] = (n_left - skipped) * width - 1;
        if (p->args->timesteps != NULL)
            p->t[i] = p->args->timesteps[i];
    }
    int rc = check_table(p, e);
    return rc != 0 ? rc : noise_plan_start(p, p->n, e);
}

int noise_alpha_lcm(struct plan *p, struct err *e)
{
    int rc = consistency_timesteps(p, e);
    if (rc != 0)
        return rc;
    const double data = 0.5; /* sigma_data */
    for (int i = p->begin; i < p->n; i++) {
        int t = (int)p->t[i];
        struct point at = begin_call(p, t, i - p->begin);
        double scaled = t * p->c.timestep_scaling, norm = scaled * scaled + data * data;
        struct noise_expr x0 = noise_plan_clean(p, at.a, at.s);
        struct noise_expr x = noise_plan_reg(REG_X, data * data / norm);
        noise_plan_add(&x, scaled / sqrt(norm), &x0);
        if (i + 1 < p->n) {
            struct point to = point_at(p, (int)p->t[i + 1]);
            for (int r = 0; r < N_REGS; r++)
                x.c[r] *= to.a;
            x.c[REG_N] = to.s;
            p->call->draw = DRAW_NORMAL;
        }
        noise_plan_emit(p, REG_X, &x);
    }
    return 0;
}

int noise_alpha_tcd(struct plan *p, struct err *e)
{
    int rc = consistency_timesteps(p, e);
    if (rc != 0)
        return rc;
    double gamma = p->args->eta;
    for (int i = p->begin; i < p->n; i++) {
        struct point at = begin_call(p, (int)p->t[i], i - p->begin);
        int next = i + 1 < p->n ? (int)p->t[i + 1] : 0;
        struct point to = point_at(p, next);
        struct point mid = point_at(p, (int)floorf((float)(1 - gamma) * (float)next));
        struct noise_expr x0 = noise_plan_clean(p, at.a, at.s);
        struct noise_expr eps = noise_plan_eps(p, at.a, at.s), x = {{0}};
        bool noised = gamma > 0 && i + 1 < p->n;
        double keep = noised ? sqrt(to.abar / mid.abar) : 1;
        noise_plan_add(&x, keep * mid.a, &x0);
        noise_plan_add(&x, keep * mid.s, &eps);
        if (noised) {
            x.c[REG_N] = sqrt(1 - to.abar / mid.abar);
            p->call->draw = DRAW_NORMAL;
        }
        noise_plan_emit(p, REG_X, &x);
    }
    return 0;
}
