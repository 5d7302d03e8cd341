/* Private to engine/noise*.c: a run of a scheduler as a list of model calls, each with what happens to
 * the latent afterwards, written as sums of products over a handful of registers.
 *
 * No scheduler looks at the values of a latent, so that every coefficient is known when a run is
 * opened.  A family (noise_alpha.c, noise_sigma.c ...) is therefore a compiler: it fills calls, and
 * noise.c is the one place that touches pixels.  Tables are float32 as in diffusers, because a
 * difference like 1 - alpha near 1 loses most of its digits and the same ones must be lost;
 * coefficients are made of them in double precision.
 * Thread: engine. */
#ifndef ENGINE_NOISE_PLAN_H
#define ENGINE_NOISE_PLAN_H
#include "engine/noise.h"

struct plan;

enum { MAX_HISTORY = 4 };
enum noise_reg {
    REG_X,  /* the latent */
    REG_M,  /* the model's answer, read only */
    REG_N,  /* random numbers */
    REG_S,  /* a latent that is kept */
    REG_A,  /* the clean latent of this call, where it is clipped; a sum over calls */
    REG_H0, /* history, a ring of MAX_HISTORY */
    N_REGS = REG_H0 + MAX_HISTORY
};

/* A sum over registers. */
struct noise_expr {
    double c[N_REGS];
};

enum { MAX_OPS = 4 };

struct noise_op {
    uint8_t dst, n_in;
    bool clip; /* to +- clip_range */
    uint8_t in[N_REGS];
    float c[N_REGS];
};

enum noise_draw { DRAW_NONE, DRAW_NORMAL, DRAW_BROWNIAN };

struct noise_call {
    float timestep, input_scale;
    float clean_x, clean_m; /* the clean latent = clean_x * latent + clean_m * output */
    float image_c, noise_c; /* the latent at entry = image_c * image + noise_c * noise */
    enum noise_draw draw;   /* before the ops */
    double from, to;        /* DRAW_BROWNIAN: sigmas, from > to */
    int step;
    int n_ops;
    struct noise_op ops[MAX_OPS];
};

struct noise {
    enum noise_scheduler kind;
    int n_calls, n_steps, n_planned; /* n_planned: calls before args.end left some out */
    float init_sigma, clip_range;
    double sigma_low, sigma_high; /* the ends of the Brownian path */
    unsigned regs;                /* bit r: register r is used */
    struct noise_call *calls;     /* [n_calls] */
};

/* What a class of diffusers takes when the config does not say, and what it can do. */
struct noise_class {
    const char *name;
    double beta_start, beta_end;
    enum noise_betas betas;
    enum noise_spacing spacing;
    bool alpha_to_one, clip;
    bool has_clip, has_zero_snr, has_sigmas /* karras and kin */, has_sample, has_custom;
    bool has_final; /* final_sigmas_type */
    bool two_calls; /* a step, but for the last */
    int (*compile)(struct plan *p, struct err *e);
};

/* A run that is being compiled. */
struct plan {
    struct noise_config c; /* resolved: what the class knows is not unset */
    const struct noise_class *k;
    const struct noise_args *args;
    double strength; /* the argument's, to 7 decimals */
    int n_train;
    float *abar;  /* [n_train] cumulative products of alpha */
    int n;        /* steps of the whole schedule */
    int begin;    /* the call at which the run starts (image to image) */
    int next;     /* the call that noise_plan_call makes next, counted from begin */
    double *t;    /* [n] */
    float *sigma; /* [n + 1] */
    struct noise *out;
    struct noise_call *call; /* the one that is written */
    int n_pushed;            /* histories so far */
};

/* --- noise_table.c: the schedule --- */

int noise_table_alphas(struct plan *p, struct err *e);
/* t, falling.  n_points - n of them are made and fall away at the end: DPM++ and UniPC divide the
 * range into n + 1 unless the spacing is trailing. */
int noise_table_timesteps(struct plan *p, int n_points, bool whole, struct err *e);
/* sigma from t, or Karras' or exponential ones and t from them.  whole_range: these span all of
 * training, else t's; rounded: t is made whole after Karras, and cut after exponential. */
int noise_table_sigmas(struct plan *p, bool whole_range, bool rounded, struct err *e);
/* Sigma i of n from high to low, as the schedule has it. */
double noise_table_spread(const struct plan *p, enum noise_sigmas how, const double ends[2], int n,
                          int i);
double noise_table_sigma_to_t(const struct plan *p, double sigma);

/* --- noise_plan.c: writing calls --- */

/* n_all: calls of the whole schedule. */
int noise_plan_start(struct plan *p, int n_all, struct err *e);
/* The number of the call that is written, counted from the beginning of the schedule. */
int noise_plan_index(const struct plan *p);
void noise_plan_call(struct plan *p, double timestep, int step);
/* alpha bar families: latent = a * image + s * noise. */
void noise_plan_entry(struct plan *p, double a, double s);
struct noise_expr noise_plan_clean(struct plan *p, double a, double s);
struct noise_expr noise_plan_eps(const struct plan *p, double a, double s);
/* sigma families: latent = image + sigma * noise, and the model sees it scaled. */
void noise_plan_entry_sigma(struct plan *p, double sigma);
struct noise_expr noise_plan_clean_sigma(struct plan *p, double sigma);
struct noise_expr noise_plan_reg(int reg, double c);
void noise_plan_add(struct noise_expr *x, double c, const struct noise_expr *y);
void noise_plan_emit(struct plan *p, int dst, const struct noise_expr *x);
/* Keeps x as the newest history; noise_plan_history(p, 0) is the newest. */
void noise_plan_push(struct plan *p, const struct noise_expr *x);
int noise_plan_history(const struct plan *p, int age);

/* --- the families --- */

int noise_alpha_ddim(struct plan *p, struct err *e);
int noise_alpha_ddpm(struct plan *p, struct err *e);
int noise_alpha_pndm(struct plan *p, struct err *e);
int noise_alpha_lcm(struct plan *p, struct err *e);
int noise_alpha_tcd(struct plan *p, struct err *e);
int noise_sigma_euler(struct plan *p, struct err *e); /* and ancestral */
/* What its samplers share: sigmas, timesteps and init_sigma; D = (x - x0) / sigma at the entry of a call; the
 * latent after a call of Heun's method, which keeps x in REG_S and D in REG_H0. */
enum noise_half { NOISE_FIRST, NOISE_SECOND, NOISE_ONLY };
int noise_sigma_schedule(struct plan *p, bool rounded, struct err *e);
struct noise_expr noise_sigma_slope(struct plan *p, double sigma);
struct noise_expr noise_sigma_heun_call(struct plan *p, double from, double to,
                                        enum noise_half half);
int noise_sigma_lms(struct plan *p, struct err *e);
int noise_sigma_heun(struct plan *p, struct err *e);
int noise_sigma_dpm2(struct plan *p, struct err *e); /* and ancestral */
int noise_sigma_dpm_sde(struct plan *p, struct err *e);
int noise_sigma_2s_ancestral(struct plan *p, struct err *e);
int noise_restart(struct plan *p, struct err *e);
int noise_fast(struct plan *p, struct err *e);
int noise_dpm_multi(struct plan *p, struct err *e);
int noise_dpm_single(struct plan *p, struct err *e);
int noise_dpm_unipc(struct plan *p, struct err *e);

/* --- noise_beta.c, noise_brownian.c --- */

/* The quantile of the symmetric beta distribution with parameter a at p, 0 ... 1. */
double noise_beta_quantile(double a, double p);

/* out = (B(to) - B(from)) / sqrt(from - to) for the path of this seed on [low, high]. */
struct noise_path {
    double low, high, from, to;
};
void noise_brownian(const struct noise_path *path, const struct noise_shape *shape,
                    const struct rng_torch *rng, float *out, float *scratch[2]);
#endif
