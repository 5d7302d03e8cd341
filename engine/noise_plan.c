/* Writing the calls of a run: a new call with its timestep, then sums that become operations.  What
 * happens to a sum depends on the family; what is common stands here: the conversions between the
 * three things that a model may predict, and the ring of histories. */
#include "engine/noise_plan.h"

#include <math.h>

#include "base/arena.h"

#define TINY 1e-30

int noise_plan_start(struct plan *p, int n_all, struct err *e)
{
    struct noise *out = p->out;
    if (n_all <= p->begin)
        return err_set(e, ERR_INVALID, "a strength of %g leaves none of %d steps",
                       p->args->strength, p->n);
    out->n_calls = n_all - p->begin;
    out->calls = mem_try((size_t)out->n_calls, sizeof *out->calls);
    if (out->calls == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a run of %d steps", p->n);
    p->next = 0;
    return 0;
}

int noise_plan_index(const struct plan *p)
{
    return p->begin + p->next - 1;
}

void noise_plan_call(struct plan *p, double timestep, int step)
{
    p->call = &p->out->calls[p->next++];
    *p->call = (struct noise_call){.timestep = (float)timestep, .input_scale = 1, .step = step};
}

struct noise_expr noise_plan_reg(int reg, double c)
{
    struct noise_expr x = {{0}};
    x.c[reg] = c;
    return x;
}

void noise_plan_add(struct noise_expr *x, double c, const struct noise_expr *y)
{
    for (int r = 0; r < N_REGS; r++)
        if (y->c[r] != 0)
            x->c[r] += c * y->c[r];
}

void noise_plan_emit(struct plan *p, int dst, const struct noise_expr *x)
{
    struct noise_op *op = &p->call->ops[p->call->n_ops++];
    *op = (struct noise_op){.dst = (uint8_t)dst};
    p->out->regs |= 1u << dst;
    for (int r = 0; r < N_REGS; r++) {
        if (x->c[r] == 0)
            continue;
        op->in[op->n_in] = (uint8_t)r;
        op->c[op->n_in++] = (float)x->c[r];
        p->out->regs |= 1u << r;
    }
}

/* Every call has one: previews use it, too. */
static struct noise_expr clean(struct plan *p, double x, double m)
{
    const bool told = fabs(x) < 1 / TINY; /* else the latent says nothing of the picture */
    p->call->clean_x = told ? (float)x : 0;
    p->call->clean_m = told ? (float)m : 0;
    struct noise_expr y = {{[REG_X] = x, [REG_M] = m}};
    if (p->c.clip_sample != NOISE_YES)
        return y;
    noise_plan_emit(p, REG_A, &y);
    p->call->ops[p->call->n_ops - 1].clip = true;
    return noise_plan_reg(REG_A, 1);
}

void noise_plan_entry(struct plan *p, double a, double s)
{
    p->call->image_c = (float)a;
    p->call->noise_c = (float)s;
}

struct noise_expr noise_plan_clean(struct plan *p, double a, double s)
{
    /* Without any of the picture in the latent (zero SNR), what is clipped is its sign, as inf is in diffusers. */
    if (a == 0 && p->c.clip_sample == NOISE_YES)
        a = TINY;
    if (p->c.prediction == NOISE_EPSILON)
        return clean(p, 1 / a, -s / a);
    if (p->c.prediction == NOISE_V)
        return clean(p, a, -s);
    return clean(p, 0, 1);
}

struct noise_expr noise_plan_eps(const struct plan *p, double a, double s)
{
    if (p->c.prediction == NOISE_EPSILON)
        return noise_plan_reg(REG_M, 1);
    struct noise_expr x = {{0}};
    x.c[REG_X] = p->c.prediction == NOISE_V ? s : 1 / s;
    x.c[REG_M] = p->c.prediction == NOISE_V ? a : -a / s;
    return x;
}

void noise_plan_entry_sigma(struct plan *p, double sigma)
{
    noise_plan_entry(p, 1, sigma);
}

struct noise_expr noise_plan_clean_sigma(struct plan *p, double sigma)
{
    double norm = sigma * sigma + 1;
    p->call->input_scale = (float)(1 / sqrt(norm));
    if (p->c.prediction == NOISE_EPSILON)
        return clean(p, 1, -sigma);
    if (p->c.prediction == NOISE_V)
        return clean(p, 1 / norm, -sigma / sqrt(norm));
    return clean(p, 0, 1);
}

void noise_plan_push(struct plan *p, const struct noise_expr *x)
{
    noise_plan_emit(p, REG_H0 + p->n_pushed % MAX_HISTORY, x);
    p->n_pushed++;
}

int noise_plan_history(const struct plan *p, int age)
{
    return REG_H0 + (p->n_pushed - 1 - age) % MAX_HISTORY;
}
