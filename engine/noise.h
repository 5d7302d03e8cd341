/* Diffusion schedulers, with the names and the numbers of diffusers: which timesteps a run of N steps
 * visits, what each call of the model is given, and how the latent goes on from its answer.
 * Thread: engine.  A struct noise is constant after noise_open and may serve many images; one struct
 * noise_state belongs to one image.
 *
 * A run of one image, text to image:
 *     noise_open(&n, &config, &args, e);
 *     noise_state_open(&st, n, &shape, memory);     memory: noise_state_bytes(n, &shape)
 *     rng_torch_seed(&rng, kind, seed);
 *     noise_begin(n, &st, NULL, latent, &rng);      latent [h, w, c], pure noise of the right size
 *     for (int i = 0; i < noise_n_calls(n); i++) {
 *         input = latent * noise_input_scale(n, i)
 *         output = model(input, noise_timestep(n, i))      guidance and its rescale applied
 *         noise_step(n, i, &st, output, latent, &rng);
 *     }
 * Image to image gives noise_begin the encoded picture, and noise_open a strength.
 *
 * Every step is a few sums of products, element by element, in a fixed order: the result does not
 * depend on what else runs.  docs/MODELS.md has the formulas and the papers. */
#ifndef ENGINE_NOISE_H
#define ENGINE_NOISE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/rng_torch.h"

struct cJSON;

enum noise_scheduler {
    NOISE_DEFAULT,           /* what the model's scheduler_config.json names */
    NOISE_DDIM,              /* DDIMScheduler */
    NOISE_DDPM,              /* DDPMScheduler */
    NOISE_PNDM,              /* PNDMScheduler */
    NOISE_LMS,               /* LMSDiscreteScheduler */
    NOISE_EULER,             /* EulerDiscreteScheduler */
    NOISE_EULER_A,           /* EulerAncestralDiscreteScheduler */
    NOISE_HEUN,              /* HeunDiscreteScheduler: two calls a step but for the last */
    NOISE_DPM2,              /* KDPM2DiscreteScheduler: likewise */
    NOISE_DPM2_A,            /* KDPM2AncestralDiscreteScheduler: likewise */
    NOISE_DPMPP_2M,          /* DPMSolverMultistepScheduler */
    NOISE_DPMPP_2M_SDE,      /* the same with algorithm_type sde-dpmsolver++ */
    NOISE_DPMPP_2M_SDE_HEUN, /* and solver_type heun */
    NOISE_DPMPP_3M_SDE,      /* and solver_order 3 */
    NOISE_DPMPP_2S,          /* DPMSolverSinglestepScheduler */
    NOISE_DPMPP_2S_A, /* k-diffusion's dpmpp_2s_ancestral: two calls a step but for the last */
    NOISE_DPMPP_SDE,  /* DPMSolverSDEScheduler: likewise */
    NOISE_UNIPC,      /* UniPCMultistepScheduler */
    NOISE_LCM,        /* LCMScheduler */
    NOISE_TCD,        /* TCDScheduler */
    NOISE_DPM_FAST, /* k-diffusion's dpm_fast: steps of up to three calls, as many calls as steps */
    NOISE_RESTART,  /* stable-diffusion-webui's restart_sampler: Heun's steps, some of them twice */
    NOISE_N_SCHEDULERS
};

/* In all of these, and in every number of struct noise_config, 0 means that nobody said: the default
 * of diffusers' class applies. */
enum noise_sigmas {
    NOISE_SIGMAS_UNSET,
    NOISE_SIGMAS_PLAIN,
    NOISE_SIGMAS_KARRAS,
    NOISE_SIGMAS_EXPONENTIAL,
    NOISE_SIGMAS_BETA,
    NOISE_SIGMAS_AYS, /* Align Your Steps */
    NOISE_SIGMAS_KL /* KL optimal: ends at the least sigma of training, not at 0, where the class can */
};
enum noise_spacing { NOISE_SPACING_UNSET, NOISE_LEADING, NOISE_LINSPACE, NOISE_TRAILING };
enum noise_prediction { NOISE_PREDICTION_UNSET, NOISE_EPSILON, NOISE_V, NOISE_SAMPLE };
enum noise_betas { NOISE_BETAS_UNSET, NOISE_LINEAR, NOISE_SCALED_LINEAR, NOISE_SQUAREDCOS };
enum noise_algorithm { NOISE_ALGORITHM_UNSET, NOISE_DPMSOLVERPP, NOISE_SDE_DPMSOLVERPP };
enum noise_flag { NOISE_FLAG_UNSET, NOISE_NO, NOISE_YES };

/* What a scheduler_config.json may say; all zero is a config that says nothing. */
struct noise_config {
    enum noise_scheduler scheduler; /* _class_name (and algorithm_type) */
    enum noise_prediction prediction;
    enum noise_betas beta_schedule;
    enum noise_spacing spacing;
    enum noise_sigmas sigmas; /* use_karras_sigmas and kin */
    enum noise_algorithm algorithm;
    double beta_start, beta_end;
    int n_train; /* num_train_timesteps */
    int steps_offset;
    bool has_steps_offset;   /* the config names it, if only as 0 */
    int solver_order;        /* DPM++, UniPC */
    int original_steps;      /* original_inference_steps: LCM, TCD */
    double timestep_scaling; /* LCM */
    double sigma_min, sigma_max;
    double lambda_min_clipped;
    double clip_range;
    enum noise_flag set_alpha_to_one, clip_sample, zero_snr /* rescale_betas_zero_snr */;
    enum noise_flag skip_prk_steps, lower_order_final, euler_at_final, final_sigma_min;
    enum noise_flag solver_heun /* DPM++ solver_type */, solver_bh1 /* UniPC solver_type */;
};
/* Reads the keys above from a scheduler_config.json; what is not there stays unset, unknown keys are
 * passed over.  ERR_UNSUPPORTED for settings that change the result and are not built in (dynamic
 * thresholding, trained betas, flow matching), ERR_INVALID for values that mean nothing. */
int noise_config_read(struct noise_config *out, const struct cJSON *obj, struct err *e);

/* What a request chooses, by a name; spacing and sigmas are unset where the name does not tell. */
struct noise_choice {
    enum noise_scheduler scheduler;
    enum noise_sigmas sigmas;
    enum noise_spacing spacing;
};
enum { NOISE_NAME_MAX = 48, NOISE_NAME_SIGMAS = 1, NOISE_NAME_SPACINGS = 2 };
struct noise_name {
    const char *name;       /* ours: "dpmpp_2m" */
    const char *label;      /* stable-diffusion-webui's: "DPM++ 2M" */
    const char *class_name; /* diffusers' class; NULL: it has none */
    enum noise_scheduler scheduler;
    unsigned endings; /* NOISE_NAME_SIGMAS, ..._SPACINGS: "_karras", "_trailing" may follow */
};
const struct noise_name *noise_name_list(int *n);
/* By name, label or class with an ending or without, whatever the case: "dpmpp_2m_karras", "DPM++ 2M Karras".
 * false: there is no such scheduler. */
bool noise_name_find(const char *name, struct noise_choice *out);
/* The label of what comes nearest; "" for NOISE_DEFAULT. */
void noise_name_label(const struct noise_choice *choice, char out[NOISE_NAME_MAX]);

enum { NOISE_MAX_STEPS = 1000 };

/* Whose pictures a run's are: diffusers' pipelines for SD 1 and 2 correct old scheduler configs, which say
 * nothing of, or otherwise than now, steps_offset, clip_sample and skip_prk_steps. */
enum noise_pipeline {
    NOISE_AS_IT_SAYS, /* SDXL, LCM */
    NOISE_SD,         /* StableDiffusionPipeline and its image to image */
    NOISE_SD_INPAINT
};

struct noise_args {
    struct noise_choice choice; /* over the config's */
    int steps;                  /* 1 ..., as diffusers' num_inference_steps; checked */
    double strength;            /* of image to image, 0 < s <= 1; 0: text to image */
    /* LCM and TCD only: all steps are made, over the part of the range that strength leaves, as
     * diffusers' LatentConsistencyModelImg2ImgPipeline does; else the first steps are left out. */
    bool strength_in_range;
    /* Parts of a run by the share of training's timesteps, as diffusers' denoising_start and denoising_end: from
     * start on (then nothing is left out for strength), and up to end.  0: from the first, to the last one. */
    double start, end;
    enum noise_pipeline pipeline;
    bool xl;    /* the model is an SDXL: Align Your Steps has other sigmas for these */
    double eta; /* DDIM's, and TCD's gamma: 0 draws nothing, 1 the most */
    /* Custom timesteps, falling (Turbo, Lightning), instead of steps; NULL: none. */
    const int *timesteps;
    int n_timesteps;
    /* Or the noise levels at which each step begins and the last one ends, falling: Euler only, as in diffusers. */
    const float *sigmas;
    int n_sigmas;
};

struct noise;
/* ERR_INVALID where diffusers refuses too: more steps than the scheduler can make, a kind of
 * prediction that it does not know, a strength that leaves nothing to do. */
int noise_open(struct noise **out, const struct noise_config *config, const struct noise_args *args,
               struct err *e);
void noise_close(struct noise *n);

/* How a picture looks after `level` of the training's steps (add_noise): parts[0] * picture + parts[1] * noise.
 * config: a DDPMScheduler's, whatever class it names.  ERR_INVALID for a level that it has not. */
int noise_level_parts(const struct noise_config *config, int level, float parts[2], struct err *e);

enum noise_scheduler noise_kind(const struct noise *n); /* never NOISE_DEFAULT */
int noise_n_calls(const struct noise *n);               /* of the model */
int noise_n_planned(const struct noise *n);             /* the same before args.end left some out */
int noise_n_steps(const struct noise *n);               /* what a person calls steps */
int noise_step_of(const struct noise *n, int call);     /* 0 ... n_steps - 1 */
float noise_timestep(const struct noise *n, int call);  /* not always whole */
float noise_input_scale(const struct noise *n, int call);
float noise_init_sigma(const struct noise *n);
bool noise_is_random(const struct noise *n); /* draws numbers while it runs */

/* --- one image --- */

struct noise_shape {
    int h, w, c; /* of the latent, in memory [h, w, c]; random numbers come in order [c, h, w] */
};
enum { NOISE_MAX_BUFFERS = 9 };
struct noise_state {
    struct noise_shape shape;
    size_t n; /* h * w * c */
    float *buffers[NOISE_MAX_BUFFERS];
};
size_t noise_state_bytes(const struct noise *n, const struct noise_shape *shape);
/* memory: noise_state_bytes bytes, aligned for floats, the caller's. */
void noise_state_open(struct noise_state *st, const struct noise *n,
                      const struct noise_shape *shape, void *memory);
/* Draws the first noise.  image NULL: latent = noise * init sigma; else latent = the image, noised for
 * the first call.  The noise itself goes to noise_out when it is not NULL (inpainting keeps it). */
void noise_begin(const struct noise *n, const struct noise_state *st, const float *image,
                 float *latent, float *noise_out, struct rng_torch *rng);
/* The latent after call i of noise_n_calls, in order, each exactly once. */
void noise_step(const struct noise *n, int call, const struct noise_state *st, const float *output,
                float *latent, struct rng_torch *rng);
/* What the model thinks the clean latent is at this call, before noise_step: for previews. */
void noise_preview(const struct noise *n, int call, const struct noise_state *st,
                   const float *output, const float *latent, float *clean);
/* out = image as it looks at the entry of a call (add_noise); call = noise_n_calls: the image. */
void noise_renoise(const struct noise *n, int call, const float *image, const float *noise,
                   float *out, size_t n_floats);

/* --- guidance --- */

/* out = uncond + scale * (cond - uncond); out may be either.  With rescale > 0 (Lin et al. 2023) its
 * standard deviation is brought to cond's, and mixed in by that much. */
void noise_guide(float *out, const float *uncond, const float *cond, size_t n_floats, float scale,
                 float rescale);
/* Inpainting with a UNet of 4 channels, after noise_step of `call`: where mask [h, w] is 0 the latent
 * becomes the image, noised for the next call. */
void noise_inpaint(const struct noise *n, int call, const struct noise_state *st,
                   const float *image, const float *noise, const float *mask, float *latent);
#endif
