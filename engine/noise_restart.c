/* Restart, as stable-diffusion-webui has it: Heun's method, and once it is low (sigma 0.1) it goes up to 2 again by
 * fresh noise and comes down once or twice more; from 20 steps on.  Xu, Deng, Cheng, Tian, Liu, Jaakkola 2023. */
#include <math.h>
#include <stdlib.h>

#include "base/arena.h"
#include "engine/noise_plan.h"

enum { RESTART_FROM = 20, TWICE_FROM = 36, RESTART_STEPS = 9 };

#define RESTART_LOW  0.1
#define RESTART_HIGH 2.0

struct leg {
    double from, to;
};

static int nearest(const double *sigma, int n, double to)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (fabs(sigma[i] - to) < fabs(sigma[best] - to))
            best = i;
    return best;
}

/* Karras' sigmas between two, n of them; in float32 as there. */
static void karras(const struct plan *p, double high, double low, int n, double *out)
{
    const double ends[2] = {high, low};
    for (int i = 0; i < n; i++)
        out[i] = (double)(float)noise_table_spread(p, NOISE_SIGMAS_KARRAS, ends, n, i);
}

/* The legs of a run over n steps from p->sigma[first] on; sigma and again are scratch of n + 2.  Returns how many. */
static int find_legs(const struct plan *p, int first, int n, double *const scratch[2],
                     struct leg *legs)
{
    double *sigma = scratch[0], *again = scratch[1];
    int per = 0, times = 0, n_legs = 0;
    if (n >= RESTART_FROM) {
        times = n >= TWICE_FROM ? 2 : 1;
        per = n >= TWICE_FROM ? n / 4 : RESTART_STEPS;
    }
    const int n_down = n - per * times;
    for (int i = 0; i <= n; i++)
        sigma[i] = (double)p->sigma[first + i];
    if (times > 0)
        karras(p, sigma[0], sigma[n - 1], n_down, sigma);
    sigma[n_down] = (double)p->sigma[p->n];
    const int low = nearest(sigma, n_down + 1, RESTART_LOW);
    const int high = nearest(sigma, n_down + 1, RESTART_HIGH);
    for (int i = 0; i < n_down; i++) {
        legs[n_legs++] = (struct leg){sigma[i], sigma[i + 1]};
        if (i + 1 != low || high >= low)
            continue;
        karras(p, sigma[high], sigma[low], per + 1, again);
        for (int k = 0; k < per * times; k++)
            legs[n_legs++] = (struct leg){again[k % per], again[k % per + 1]};
    }
    return n_legs;
}

static void restart_legs(struct plan *p, const struct leg *legs, int n)
{
    for (int i = 0; i < 2 * n - 1; i++) {
        const struct leg *leg = &legs[i / 2];
        const enum noise_half half = i % 2 == 1      ? NOISE_SECOND
                                     : i / 2 + 1 < n ? NOISE_FIRST
                                                     : NOISE_ONLY;
        const double sigma = half == NOISE_SECOND ? leg->to : leg->from;
        noise_plan_call(p, noise_table_sigma_to_t(p, sigma), i / 2);
        struct noise_expr x = noise_sigma_heun_call(p, leg->from, leg->to, half);
        if (half == NOISE_SECOND && leg[1].from > leg->to) {
            x.c[REG_N] = sqrt(leg[1].from * leg[1].from - leg->to * leg->to);
            p->call->draw = DRAW_NORMAL;
        }
        noise_plan_emit(p, REG_X, &x);
    }
}

int noise_restart(struct plan *p, struct err *e)
{
    int rc = noise_sigma_schedule(p, false, e);
    if (rc != 0)
        return rc;
    const int first = p->begin / 2, n = p->n - first;
    struct leg *legs = mem_try((size_t)n + 1, sizeof *legs);
    double *memory = mem_try(2 * ((size_t)n + 2), sizeof *memory);
    double *const scratch[2] = {memory, memory != NULL ? memory + n + 2 : NULL};
    if (legs == NULL || memory == NULL)
        rc = err_set(e, ERR_NOMEM, "no memory for a schedule of %d steps", n);
    const int n_legs = rc == 0 ? find_legs(p, first, n, scratch, legs) : 0;
    if (rc == 0)
        rc = noise_plan_start(p, p->begin + 2 * n_legs - 1, e);
    if (rc == 0)
        restart_legs(p, legs, n_legs);
    free(legs);
    free(memory);
    return rc;
}
