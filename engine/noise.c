/* Opening a run (the config resolved by the class that makes it, then compiled), and doing it: the only place
 * that touches the floats of a latent. */
#include "engine/noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "engine/noise_plan.h"

enum { MAX_TRAIN = 100000, BLOCK = 256, N_DEFAULT_ORIGINAL = 50 };

#define SIGMA_LIMIT 1e5 /* zero-terminal SNR begins at 4096 */

#define LINEAR        0.0001, 0.02, NOISE_LINEAR
#define LINEAR_KARRAS 0.00085, 0.012, NOISE_LINEAR
#define SCALED        0.00085, 0.012, NOISE_SCALED_LINEAR

/* Columns: name, betas, spacing, set_alpha_to_one, clip_sample; then what it knows: clip_sample at all,
 * zero SNR, sigmas other than plain, models that predict the sample, custom timesteps, a last sigma other
 * than 0; two calls. */
static const struct noise_class classes[NOISE_N_SCHEDULERS] = {
    [NOISE_DDIM] = {"DDIM", LINEAR, NOISE_LEADING, 1, 1, 1, 1, 0, 1, 0, 0, 0, noise_alpha_ddim},
    [NOISE_DDPM] = {"DDPM", LINEAR, NOISE_LEADING, 1, 1, 1, 1, 0, 1, 1, 0, 0, noise_alpha_ddpm},
    [NOISE_PNDM] = {"PNDM", LINEAR, NOISE_LEADING, 0, 0, 0, 0, 0, 0, 0, 0, 0, noise_alpha_pndm},
    [NOISE_LMS] = {"LMS", LINEAR, NOISE_LINSPACE, 0, 0, 0, 0, 1, 1, 0, 0, 0, noise_sigma_lms},
    [NOISE_EULER] = {"Euler", LINEAR, NOISE_LINSPACE, 0, 0, 0, 1, 1, 1, 1, 1, 0, noise_sigma_euler},
    [NOISE_EULER_A] = {"Euler ancestral", LINEAR, NOISE_LINSPACE, 0, 0, 0, 1, 1, 0, 0, 0, 0,
                       noise_sigma_euler},
    [NOISE_HEUN] = {"Heun", LINEAR_KARRAS, NOISE_LINSPACE, 0, 0, 1, 0, 1, 1, 1, 0, 1,
                    noise_sigma_heun},
    [NOISE_DPM2] = {"DPM2", LINEAR_KARRAS, NOISE_LINSPACE, 0, 0, 0, 0, 1, 0, 0, 0, 1,
                    noise_sigma_dpm2},
    [NOISE_DPM2_A] = {"DPM2 ancestral", LINEAR_KARRAS, NOISE_LINSPACE, 0, 0, 0, 0, 1, 0, 0, 0, 1,
                      noise_sigma_dpm2},
    [NOISE_DPMPP_2M] = {"DPM++ 2M", LINEAR, NOISE_LINSPACE, 0, 0, 0, 1, 1, 1, 1, 1, 0,
                        noise_dpm_multi},
    [NOISE_DPMPP_2M_SDE] = {"DPM++ 2M SDE", LINEAR, NOISE_LINSPACE, 0, 0, 0, 1, 1, 1, 1, 1, 0,
                            noise_dpm_multi},
    [NOISE_DPMPP_2M_SDE_HEUN] = {"DPM++ 2M SDE Heun", LINEAR, NOISE_LINSPACE, 0, 0, 0, 1, 1, 1, 1,
                                 1, 0, noise_dpm_multi},
    [NOISE_DPMPP_3M_SDE] = {"DPM++ 3M SDE", LINEAR, NOISE_LINSPACE, 0, 0, 0, 1, 1, 1, 1, 1, 0,
                            noise_dpm_multi},
    [NOISE_DPMPP_2S] = {"DPM++ 2S", LINEAR, NOISE_LINSPACE, 0, 0, 0, 0, 1, 1, 1, 1, 0,
                        noise_dpm_single},
    [NOISE_DPMPP_2S_A] = {"DPM++ 2S ancestral", LINEAR, NOISE_LINSPACE, 0, 0, 0, 1, 1, 1, 0, 0, 1,
                          noise_sigma_2s_ancestral},
    [NOISE_DPMPP_SDE] = {"DPM++ SDE", LINEAR_KARRAS, NOISE_LINSPACE, 0, 0, 0, 0, 1, 0, 0, 0, 1,
                         noise_sigma_dpm_sde},
    [NOISE_UNIPC] = {"UniPC", LINEAR, NOISE_LINSPACE, 0, 0, 0, 1, 1, 1, 0, 1, 0, noise_dpm_unipc},
    [NOISE_LCM] = {"LCM", SCALED, NOISE_LEADING, 1, 0, 1, 1, 0, 1, 1, 0, 0, noise_alpha_lcm},
    [NOISE_TCD] = {"TCD", SCALED, NOISE_LEADING, 1, 0, 0, 1, 0, 1, 1, 0, 0, noise_alpha_tcd},
    [NOISE_DPM_FAST] = {"DPM fast", LINEAR, NOISE_LINSPACE, 0, 0, 0, 1, 0, 1, 0, 0, 0, noise_fast},
    [NOISE_RESTART] = {"Restart", LINEAR, NOISE_LINSPACE, 0, 0, 0, 1, 1, 1, 0, 0, 1, noise_restart},
};

/* --- opening --- */

/* As the pipelines of SD do before a run.  What the config does not name they set for the model's own class; a
 * class that a request chooses takes its own default then. */
static void correct(struct plan *p)
{
    struct noise_config *c = &p->c;
    const enum noise_pipeline pipeline = p->args->pipeline;
    const bool own = p->out->kind == c->scheduler;
    if (pipeline == NOISE_AS_IT_SAYS)
        return;
    if (own || c->has_steps_offset)
        c->steps_offset = 1;
    if (pipeline == NOISE_SD && p->k->has_clip &&
        (c->clip_sample == NOISE_YES || (own && c->clip_sample == NOISE_FLAG_UNSET)))
        c->clip_sample = NOISE_NO;
    if (pipeline == NOISE_SD_INPAINT &&
        (c->skip_prk_steps == NOISE_NO || (own && c->skip_prk_steps == NOISE_FLAG_UNSET)))
        c->skip_prk_steps = NOISE_YES;
}

static void resolve(struct plan *p)
{
    struct noise_config *c = &p->c;
    const struct noise_class *k = p->k;
    const struct noise_choice *choice = &p->args->choice;
    if (choice->sigmas != NOISE_SIGMAS_UNSET || p->out->kind == NOISE_EULER_A)
        c->sigmas = choice->sigmas; /* diffusers' class of the ancestral one does not read it */
    if (choice->spacing != NOISE_SPACING_UNSET)
        c->spacing = choice->spacing;
    if (c->spacing == NOISE_SPACING_UNSET)
        c->spacing = k->spacing;
    if (c->prediction == NOISE_PREDICTION_UNSET)
        c->prediction = NOISE_EPSILON;
    if (c->beta_schedule == NOISE_BETAS_UNSET)
        c->beta_schedule = k->betas;
    if (c->beta_start == 0)
        c->beta_start = k->beta_start;
    if (c->beta_end == 0)
        c->beta_end = k->beta_end;
    if (c->set_alpha_to_one == NOISE_FLAG_UNSET)
        c->set_alpha_to_one = k->alpha_to_one ? NOISE_YES : NOISE_NO;
    if (c->clip_sample == NOISE_FLAG_UNSET)
        c->clip_sample = k->clip ? NOISE_YES : NOISE_NO;
    if (!k->has_clip)
        c->clip_sample = NOISE_NO;
    if (!k->has_final)
        c->final_sigma_min = NOISE_NO;
    if (c->clip_range == 0)
        c->clip_range = 1;
    if (c->n_train == 0)
        c->n_train = 1000;
    if (c->solver_order == 0)
        c->solver_order = 2;
    if (c->original_steps == 0)
        c->original_steps = N_DEFAULT_ORIGINAL;
    if (c->timestep_scaling == 0)
        c->timestep_scaling = 10;
    if (p->out->kind == NOISE_DPMPP_2M_SDE_HEUN)
        c->solver_heun = NOISE_YES;
    if (p->out->kind == NOISE_DPMPP_3M_SDE)
        c->solver_order = 3;
    if (k->has_final && k->has_sigmas && c->sigmas == NOISE_SIGMAS_KL)
        c->final_sigma_min = NOISE_YES;
    if (p->out->kind >= NOISE_DPMPP_2M_SDE && p->out->kind <= NOISE_DPMPP_3M_SDE)
        c->algorithm = NOISE_SDE_DPMSOLVERPP;
    else if (p->out->kind != NOISE_DPMPP_2S || c->algorithm == NOISE_ALGORITHM_UNSET)
        c->algorithm = NOISE_DPMSOLVERPP;
    if (k->compile == noise_dpm_unipc)
        c->lambda_min_clipped = 0; /* not its own */
}

static int check_timesteps(const struct plan *p, struct err *e)
{
    const int *t = p->args->timesteps;
    if (!p->k->has_custom)
        return err_set(e, ERR_INVALID, "%s does not take timesteps of the caller's", p->k->name);
    for (int i = 0; i < p->n; i++)
        if (t[i] < 0 || t[i] >= p->c.n_train || (i > 0 && t[i] >= t[i - 1]))
            return err_set(e, ERR_INVALID, "timesteps must fall, from %d on", p->c.n_train - 1);
    return 0;
}

static int check_sigmas(const struct plan *p, struct err *e)
{
    const float *s = p->args->sigmas;
    if (p->out->kind != NOISE_EULER)
        return err_set(e, ERR_INVALID, "%s does not take sigmas of the caller's, only Euler does",
                       p->k->name);
    if (p->args->timesteps != NULL)
        return err_set(e, ERR_INVALID, "either timesteps or sigmas");
    for (int i = 0; i <= p->n; i++)
        if (!(s[i] >= 0 && s[i] < SIGMA_LIMIT) || (i > 0 && s[i] >= s[i - 1]))
            return err_set(e, ERR_INVALID, "sigmas must fall, from below %g to 0 or above",
                           SIGMA_LIMIT);
    return 0;
}

/* What the caller chose by hand. */
static int check_custom(const struct plan *p, struct err *e)
{
    const struct noise_args *a = p->args;
    if (a->timesteps == NULL && a->sigmas == NULL)
        return 0;
    const char *name = a->sigmas != NULL ? "sigmas" : "timesteps";
    int rc = a->sigmas != NULL ? check_sigmas(p, e) : check_timesteps(p, e);
    if (rc == 0 && a->choice.sigmas > NOISE_SIGMAS_PLAIN)
        rc = err_set(e, ERR_INVALID, "%s say themselves how the noise falls: leave the other out",
                     name);
    return rc != 0 ? err_param(e, "%s", name) : 0;
}

static int check(const struct plan *p, struct err *e)
{
    const struct noise_config *c = &p->c;
    const struct noise_args *a = p->args;
    if (a->choice.sigmas > NOISE_SIGMAS_PLAIN && !p->k->has_sigmas) {
        err_set(e, ERR_INVALID, "%s has no schedule of sigmas but its own", p->k->name);
        return err_param(e, "sigma_schedule");
    }
    if (c->n_train < 2 || c->n_train > MAX_TRAIN || c->original_steps < 1 || c->steps_offset < 0 ||
        c->steps_offset > c->n_train)
        return err_set(e, ERR_INVALID, "a schedule of %d timesteps with offset %d", c->n_train,
                       c->steps_offset);
    if (!(c->beta_start > 0 && c->beta_start < 1 && c->beta_end > 0 && c->beta_end < 1))
        return err_set(e, ERR_INVALID, "betas from %g to %g", c->beta_start, c->beta_end);
    int n = p->n, limit = c->n_train < NOISE_MAX_STEPS ? c->n_train : NOISE_MAX_STEPS;
    if (n < 1 || n > limit)
        return err_set(e, ERR_INVALID, "%d steps; 1 to %d are possible", n, limit);
    if (check_custom(p, e) != 0)
        return ERR_INVALID;
    if (c->prediction == NOISE_SAMPLE && !p->k->has_sample)
        return err_set(e, ERR_INVALID, "%s does not take models that predict the sample",
                       p->k->name);
    if (!(a->eta >= 0 && a->eta <= 1))
        return err_set(e, ERR_INVALID, "eta is %g; 0 to 1 are possible", a->eta);
    if (!(a->start >= 0 && a->start < 1) || !(a->end >= 0 && a->end <= 1))
        return err_set(e, ERR_INVALID, "denoising from %g to %g; 0 to 1 are possible", a->start,
                       a->end);
    if ((a->start > 0 || a->end > 0) &&
        (p->k->compile == noise_restart || p->k->compile == noise_fast))
        return err_set(e, ERR_INVALID, "a run of %s is not cut in parts", p->k->name);
    if (!(a->strength >= 0 && a->strength <= 1))
        return err_set(e, ERR_INVALID, "strength is %g; 0 to 1 are possible", a->strength);
    return 0;
}

static int check_finite(const struct plan *p, struct err *e)
{
    bool ok = isfinite(p->out->init_sigma);
    for (int i = 0; i < p->out->n_calls; i++) {
        const struct noise_call *call = &p->out->calls[i];
        ok = ok && isfinite(call->timestep) && isfinite(call->clean_x) && isfinite(call->clean_m);
        for (int j = 0; j < call->n_ops; j++)
            for (int k = 0; k < call->ops[j].n_in; k++)
                ok = ok && isfinite(call->ops[j].c[k]);
    }
    if (!ok)
        return err_set(e, ERR_INVALID, "%s has no finite steps with these settings", p->k->name);
    return 0;
}

/* Image to image leaves out the first steps, as diffusers' get_timesteps. */
static void set_begin(struct plan *p)
{
    double strength = p->strength;
    bool consistency = p->k->compile == noise_alpha_lcm || p->k->compile == noise_alpha_tcd;
    if (strength == 0 || (consistency && p->args->strength_in_range))
        return;
    int left = (int)(p->n * strength);
    p->begin = (p->n - (left < p->n ? left : p->n)) * (p->k->two_calls ? 2 : 1);
}

/* The timestep at a share of the run; below it lies what is left. */
static double cutoff(const struct plan *p, double share)
{
    return rint((double)p->n_train - share * (double)p->n_train);
}

/* The call at which a run begins that is entered in its middle: found in the whole one. */
static int find_start(struct plan *p, const struct noise_config *config, struct err *e)
{
    struct noise_args args = *p->args;
    struct noise *whole;
    args.start = args.end = args.strength = 0;
    int rc = noise_open(&whole, config, &args, e), left = 0;
    if (rc != 0)
        return rc;
    for (int i = 0; i < whole->n_calls; i++)
        left += (double)whole->calls[i].timestep < cutoff(p, p->args->start);
    if (p->k->two_calls && left % 2 == 0) /* a step is not entered in its middle */
        left++;
    p->begin = whole->n_calls > left ? whole->n_calls - left : 0;
    noise_close(whole);
    return 0;
}

static int cut_end(const struct plan *p, struct err *e)
{
    int n = 0;
    for (int i = 0; i < p->out->n_calls; i++)
        n += (double)p->out->calls[i].timestep >= cutoff(p, p->args->end);
    if (n == 0)
        return err_set(e, ERR_INVALID, "denoising that starts at %g and ends at %g has no steps",
                       p->args->start, p->args->end);
    p->out->n_calls = n;
    return 0;
}

int noise_open(struct noise **out, const struct noise_config *config, const struct noise_args *args,
               struct err *e)
{
    enum noise_scheduler kind = args->choice.scheduler;
    if (kind == NOISE_DEFAULT)
        kind = config->scheduler;
    if (kind == NOISE_DEFAULT)
        kind = NOISE_EULER;
    if (kind < 0 || kind >= NOISE_N_SCHEDULERS)
        return err_set(e, ERR_INVALID, "there is no scheduler number %d", (int)kind);
    struct noise *n = xcalloc(1, sizeof *n);
    n->kind = kind;
    n->init_sigma = 1;
    n->regs = 1u << REG_X | 1u << REG_M;
    struct plan p = {.c = *config, .k = &classes[kind], .args = args, .out = n};
    /* 0.7 that went through a float is 0.69999999, and 10 steps would lose one. */
    p.strength = rint(args->strength * 1e7) / 1e7;
    correct(&p);
    resolve(&p);
    n->clip_range = (float)p.c.clip_range;
    p.n_train = p.c.n_train;
    p.n = args->sigmas != NULL      ? args->n_sigmas - 1
          : args->timesteps != NULL ? args->n_timesteps
                                    : args->steps;
    int rc = check(&p, e);
    if (rc == 0 && args->start > 0)
        rc = find_start(&p, config, e);
    else if (rc == 0)
        set_begin(&p);
    if (rc == 0)
        rc = noise_table_alphas(&p, e);
    if (rc == 0)
        rc = p.k->compile(&p, e);
    if (rc == 0)
        rc = check_finite(&p, e);
    n->n_planned = n->n_calls;
    if (rc == 0 && args->end > 0)
        rc = cut_end(&p, e);
    free(p.abar);
    free(p.t);
    free(p.sigma);
    if (rc != 0) {
        noise_close(n);
        return rc;
    }
    n->n_steps = n->calls[n->n_calls - 1].step + 1;
    *out = n;
    return 0;
}

int noise_level_parts(const struct noise_config *config, int level, float parts[2], struct err *e)
{
    const struct noise_args args = {.steps = 1};
    struct noise out = {.kind = NOISE_DDPM};
    struct plan p = {.c = *config, .k = &classes[NOISE_DDPM], .args = &args, .n = 1, .out = &out};
    resolve(&p);
    p.n_train = p.c.n_train;
    int rc = check(&p, e);
    if (rc == 0 && (level < 0 || level >= p.n_train))
        rc = err_set(e, ERR_INVALID, "noise level %d of %d", level, p.n_train);
    if (rc == 0)
        rc = noise_table_alphas(&p, e);
    if (rc == 0) {
        parts[0] = sqrtf(p.abar[level]);
        parts[1] = sqrtf(1 - p.abar[level]);
    }
    free(p.abar);
    return rc;
}

void noise_close(struct noise *n)
{
    if (n == NULL)
        return;
    free(n->calls);
    free(n);
}

enum noise_scheduler noise_kind(const struct noise *n)
{
    return n->kind;
}

int noise_n_calls(const struct noise *n)
{
    return n->n_calls;
}

int noise_n_planned(const struct noise *n)
{
    return n->n_planned;
}

int noise_n_steps(const struct noise *n)
{
    return n->n_steps;
}

int noise_step_of(const struct noise *n, int call)
{
    return n->calls[call].step;
}

float noise_timestep(const struct noise *n, int call)
{
    return n->calls[call].timestep;
}

float noise_input_scale(const struct noise *n, int call)
{
    return n->calls[call].input_scale;
}

float noise_init_sigma(const struct noise *n)
{
    return n->init_sigma;
}

bool noise_is_random(const struct noise *n)
{
    for (int i = 0; i < n->n_calls; i++)
        if (n->calls[i].draw != DRAW_NONE)
            return true;
    return false;
}

/* --- one image --- */

/* Registers that need memory of the image's own; the Brownian path takes two more. */
static bool has_buffer(const struct noise *n, int reg)
{
    if (n->kind == NOISE_DPMPP_SDE && reg >= REG_H0 && reg < REG_H0 + 2)
        return true;
    return reg != REG_X && reg != REG_M && (n->regs >> reg & 1) != 0;
}

static size_t n_floats(const struct noise_shape *shape)
{
    return (size_t)shape->h * (size_t)shape->w * (size_t)shape->c;
}

size_t noise_state_bytes(const struct noise *n, const struct noise_shape *shape)
{
    size_t count = 0;
    for (int r = 0; r < N_REGS; r++)
        count += has_buffer(n, r);
    return count * n_floats(shape) * sizeof(float);
}

void noise_state_open(struct noise_state *st, const struct noise *n,
                      const struct noise_shape *shape, void *memory)
{
    *st = (struct noise_state){.shape = *shape, .n = n_floats(shape)};
    float *at = memory;
    for (int r = 0; r < N_REGS; r++) {
        if (!has_buffer(n, r))
            continue;
        st->buffers[r] = at;
        at += st->n;
    }
}

void noise_begin(const struct noise *n, const struct noise_state *st, const float *image,
                 float *latent, float *noise_out, struct rng_torch *rng)
{
    const struct noise_shape *s = &st->shape;
    float *noise = noise_out;
    if (noise == NULL)
        noise = latent;
    rng_torch_normal_nhwc(rng, noise, s->h, s->w, s->c);
    float a = image != NULL ? n->calls[0].image_c : 0;
    float b = image != NULL ? n->calls[0].noise_c : n->init_sigma;
    for (size_t i = 0; i < st->n; i++)
        latent[i] = (image != NULL ? a * image[i] : 0) + b * noise[i];
}

static void run_op(const struct noise_op *op, const float *const in[N_REGS], float *out, size_t n,
                   float clip)
{
    float sum[BLOCK];
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t m = n - at < BLOCK ? n - at : BLOCK;
        memset(sum, 0, sizeof sum);
        for (int k = 0; k < op->n_in; k++) {
            const float *x = in[op->in[k]] + at;
            float c = op->c[k];
            for (size_t i = 0; i < m; i++)
                sum[i] += c * x[i];
        }
        for (size_t i = 0; op->clip && i < m; i++)
            sum[i] = sum[i] < -clip ? -clip : sum[i] > clip ? clip : sum[i];
        memcpy(out + at, sum, m * sizeof *sum);
    }
}

void noise_step(const struct noise *n, int call, const struct noise_state *st, const float *output,
                float *latent, struct rng_torch *rng)
{
    const struct noise_call *k = &n->calls[call];
    const struct noise_shape *s = &st->shape;
    float *regs[N_REGS];
    const float *in[N_REGS];
    memcpy(regs, st->buffers, sizeof regs);
    regs[REG_X] = latent;
    for (int r = 0; r < N_REGS; r++)
        in[r] = r == REG_M ? output : regs[r];
    if (k->draw == DRAW_NORMAL && regs[REG_N] != NULL)
        rng_torch_normal_nhwc(rng, regs[REG_N], s->h, s->w, s->c);
    if (k->draw == DRAW_BROWNIAN) {
        const struct noise_path path = {n->sigma_low, n->sigma_high, k->from, k->to};
        float *scratch[2] = {regs[REG_H0], regs[REG_H0 + 1]};
        noise_brownian(&path, s, rng, regs[REG_N], scratch);
    }
    for (int i = 0; i < k->n_ops; i++)
        run_op(&k->ops[i], in, regs[k->ops[i].dst], st->n, n->clip_range);
}

void noise_preview(const struct noise *n, int call, const struct noise_state *st,
                   const float *output, const float *latent, float *clean)
{
    const struct noise_call *k = &n->calls[call];
    for (size_t i = 0; i < st->n; i++)
        clean[i] = k->clean_x * latent[i] + k->clean_m * output[i];
}

void noise_renoise(const struct noise *n, int call, const float *image, const float *noise,
                   float *out, size_t n_elements)
{
    float a = call < n->n_calls ? n->calls[call].image_c : 1;
    float b = call < n->n_calls ? n->calls[call].noise_c : 0;
    for (size_t i = 0; i < n_elements; i++)
        out[i] = a * image[i] + b * noise[i];
}

void noise_inpaint(const struct noise *n, int call, const struct noise_state *st,
                   const float *image, const float *noise, const float *mask, float *latent)
{
    size_t n_pixels = (size_t)st->shape.h * (size_t)st->shape.w, c = (size_t)st->shape.c;
    for (size_t i = 0; i < n_pixels; i++) {
        float known[16];
        for (size_t j = 0; j < c; j += sizeof known / sizeof *known) {
            size_t m = c - j < 16 ? c - j : 16, at = i * c + j;
            noise_renoise(n, call + 1, image + at, noise + at, known, m);
            for (size_t k = 0; k < m; k++)
                latent[at + k] = (1 - mask[i]) * known[k] + mask[i] * latent[at + k];
        }
    }
}
