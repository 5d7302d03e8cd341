/* The only thing that crosses between the loop thread and the engine thread.
 *
 *   loop thread                          engine thread
 *   job_new, fill job->text or ->image
 *   engine_submit ------- queue ------>  reads the spec, never writes it
 *   job_cancel -------- atomic flag -->  drops the job's sequences at the next step
 *   job_poll <------ list + wake() ----  job_emit
 *   job_unref                            job_unref           the last one frees all
 *
 * Events of one job arrive in order.  Their number is bounded by the tokens, or the steps and images,
 * that the job may make. */
#ifndef ENGINE_JOB_H
#define ENGINE_JOB_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

#define JOB_STOP_MAX      16  /* stop strings of a request */
#define JOB_TOP_LOGPROBS  20  /* alternatives a position may report */
#define JOB_IMAGES_MAX    16  /* pictures of a request */
#define JOB_TIMESTEPS_MAX 128 /* of a picture, chosen by hand; sigmas are one more */
#define JOB_PARTIALS_MAX  8   /* previews of a picture */
#define JOB_BEAMS_MAX     8   /* beams of a beam search */
#define JOB_LORAS_MAX     8   /* LoRAs of a request */
#define JOB_CONTROLS_MAX  8   /* ControlNets and T2I-Adapters of a picture */

struct logit_bias {
    int32_t id;
    float bias; /* added to the logit; -100 or less bans the token */
};

/* How the next token is chosen.  Order: bias, penalties, temperature, top_k, typical_p, top_p, min_p.
 * temperature 0 is greedy: the highest logit, the lower id on a tie. */
struct sample_params {
    float temperature, top_p, min_p, typical_p;                    /* off: 1, 1, 0, 1 */
    float presence_penalty, frequency_penalty, repetition_penalty; /* off: 0, 0, 1 */
    int top_k;                                                     /* off: 0 */
    int repeat_last_n; /* tokens the penalties look back on; -1: all, prompt included for
                          repetition_penalty only */
    uint64_t seed;
};
extern const struct sample_params sample_params_default; /* temperature 1, all else off */

enum job_kind { JOB_TEXT, JOB_IMAGE, JOB_EMBED, JOB_UPSCALE, JOB_ADAPTER };

struct grammar; /* engine/text/grammar.h */
struct filter;  /* engine/text/filter.h */

struct text_spec {
    const char *model; /* card id */
    int n_prompts;
    const int32_t *const *prompts; /* [n_prompts] token ids, each at least 1 */
    const int32_t *n_prompt;       /* [n_prompts] */
    int n;                         /* choices a prompt; choice index = prompt * n + i, each with its
                                    own random stream */
    int max_tokens;                /* per choice, >= 0; the context window bounds it as well */
    struct sample_params sample;
    int n_bias;
    const struct logit_bias *bias;
    int n_stop;
    const char *const *stop; /* non-empty strings; not part of the text given out */
    bool include_stop;       /* give the stop string out too */
    bool ignore_eos;
    bool logprobs;                 /* events carry the chosen token's logprob */
    int top_logprobs;              /* 0 ... JOB_TOP_LOGPROBS alternatives as well */
    bool echo_logprobs;            /* EV_PROMPT events with the prompt tokens' logprobs */
    bool no_cache;                 /* neither use nor leave shared prefix pages */
    bool special;                  /* give control tokens out as text */
    const struct grammar *grammar; /* of the arena: what the answers may be; NULL: anything */
    const struct filter *filter;   /* what the answers should not say; NULL: nothing */
    bool filter_blocks;            /* which ends them; else it is only told */
    int n_prediction;
    const int32_t *prediction; /* [n_prediction] what the answers will be like: drafts (draft.h) */
    /* A caption model's: what the text is about, of the size and the kind that its card says. */
    const uint8_t *picture; /* [size, size, 3], or NULL for text models */
    int n_beams;            /* of a beam search; 0: none.  Needs n 1 */
    float length_penalty;   /* of it: above 0 favours long texts */
    int n_question;         /* tokens that it reads before it answers; 0: captions */
    const int32_t *question;
};

/* Texts whose vectors are wanted. */
struct embed_spec {
    const char *model; /* card id */
    int n_texts;
    const int32_t *const *ids; /* [n_texts] tokens, those of the model's frame ([CLS], [SEP]) too */
    const int32_t *n_ids;      /* [n_texts] each at least 1 */
};

/* An adapter that is to be loaded (engine/adapters.h). */
struct adapter_spec {
    const char *model, *name;
};

/* A LoRA of a request, by its name. */
struct lora_ref {
    const char *name;
    float scale, text_scale; /* of what it does to the UNet, and to the text encoders */
};
struct prompt_words; /* engine/text/prompt.h */

/* Which random numbers a seed stands for: torch.Generator("cpu")'s or torch.Generator("cuda")'s. */
enum image_rng { IMAGE_RNG_CPU, IMAGE_RNG_CUDA };

/* What becomes of a picture that the model's safety checker flags, and of its previews, which come before
 * anybody knows: replaced by black, and blurred; blurred, and blurred; given out as they are. */
enum safety_action { SAFETY_BLOCK, SAFETY_BLUR, SAFETY_FLAG };

/* What the checker says of a picture: how far above its threshold each concept is. */
#define SAFETY_SCORES_MAX 64
struct safety_result {
    bool flagged; /* one of concepts is above 0 */
    int n_special, n_concepts;
    float special[SAFETY_SCORES_MAX], concepts[SAFETY_SCORES_MAX];
};

/* How a picture becomes larger before it is made again: its latent (as torch's interpolate does), its pixels
 * (Lanczos), or by a super-resolution network and then its pixels. */
enum image_enlarge {
    IMAGE_LATENT_NEAREST,
    IMAGE_LATENT_BILINEAR,
    IMAGE_LATENT_BICUBIC,
    IMAGE_PIXELS,
    IMAGE_NETWORK
};

/* What is done to pictures after they were made, in this order. */
struct image_passes {
    struct { /* denoised to the end by another model of the same latents (SDXL's refiner) */
        const char *model; /* card id; NULL: no */
        float switch_at; /* share of the steps that come before: denoising_end of the first model */
    } refiner;
    struct {               /* made again at this size, from what they are, enlarged */
        int width, height; /* 0: no */
        int steps;         /* 0: as many */
        float strength;    /* NaN: 0.7 */
        enum image_enlarge how;
        const char *model; /* IMAGE_NETWORK: card id */
    } hires;
    struct {               /* enlarged by a super-resolution network, or by a diffusion model: */
        const char *model; /* card id; NULL: no */
        int noise_level, steps; /* -1, 0: the model's */
        float guidance_scale;   /* NaN: the model's */
    } upscale;
};

/* What steps of a picture leave for the next ones (engine/step_cache.h). */
enum step_cache_kind { STEP_CACHE_NONE, STEP_CACHE_DEEPCACHE, STEP_CACHE_FIRST_BLOCK };
struct step_cache_spec {
    enum step_cache_kind kind;
    int interval, branch; /* deepcache: 2 or more, 0 or more */
    float threshold;      /* first_block: above 0 */
    bool optional;        /* nobody asked for it: off with a model that it does not fit */
};
struct image_card;
bool step_cache_fits(const struct image_card *card, const struct step_cache_spec *s);

/* A ControlNet or T2I-Adapter, and the picture by which it steers.  In step i of n calls it works when
 * start <= i / n and (i + 1) / n <= end. */
struct control_spec {
    const char *model;      /* card id */
    int width, height;      /* of its picture, enlarged or shrunk to that of the answer */
    const uint8_t *picture; /* [height, width, 3] */
    const uint8_t *hidden; /* [height, width], not 0 where the network is to see nothing, or NULL */
    float scale;
    double start, end;
    bool guess; /* a ControlNet for the prompt's side alone, less by its upper levels */
};

/* What stands in the latent where the mask covers it, before the noise of the first step. */
enum image_hole { IMAGE_HOLE_INIT, IMAGE_HOLE_NOISE, IMAGE_HOLE_ZERO };

/* Pictures of a latent diffusion model.  Image i of n has the noise of seed + i, and is the same
 * picture whatever n is.  A field that image_spec_default leaves says: as the model's card has it.
 * With init alone the picture is made from init (img2img), with mask too only what the mask says is
 * made anew (inpainting); init and mask are of the size of the picture. */
struct image_spec {
    const char *model;                    /* card id */
    const char *prompt, *negative_prompt; /* NULL: "" */
    int n;                                /* pictures, >= 1 */
    int width, height;                    /* pixels; 0: the model's */
    int steps;                            /* 0: the model's */
    float guidance_scale;                 /* <= 1: no guidance; NaN: the model's */
    float guidance_rescale;               /* 0 ... 1; NaN: the model's */
    float strength;          /* of the change to init, 0 < strength <= 1; NaN: 0.8, 1 with mask */
    float eta;               /* of ddim and its kin */
    int scheduler;           /* enum noise_scheduler (engine/noise.h); 0: the model's */
    int sigmas, spacing;     /* enum noise_sigmas, noise_spacing; 0: the scheduler's */
    int n_timesteps;         /* instead of steps; 0: none */
    const int *timesteps;    /* [n_timesteps] falling */
    int n_sigma_list;        /* instead of steps, one more than these; 0: none */
    const float *sigma_list; /* [n_sigma_list] falling */
    enum image_rng rng;
    uint64_t seed;
    int clip_skip;           /* layers of the text encoder to leave out; -1: the model's */
    bool clip_skip_negative; /* of the negative prompt too; diffusers does not */
    int partial_images;      /* previews on the way, 0 ... JOB_PARTIALS_MAX */
    const uint8_t *init;     /* [height, width, 3] or NULL */
    const uint8_t *mask;     /* [height, width], 255: make anew, 0: keep; or NULL */
    enum image_hole hole;
    enum safety_action safety;
    struct image_passes passes;
    int n_loras; /* at most JOB_LORAS_MAX */
    const struct lora_ref *loras;
    const struct prompt_words *words;     /* the engine's own, of a task */
    float denoising_start, denoising_end; /* only a part of the steps; 0: all of them */
    float aesthetic[2]; /* scores that a refiner is told, of the prompt and the negative one */
    /* What a model that enlarges begins with: [height / its scale, width / its scale, 3]. */
    const uint8_t *small;
    int noise_level; /* of small; -1: the model's */
    bool tiled;      /* beyond the model's own size in windows, even where memory is enough */
    int n_controls;  /* at most JOB_CONTROLS_MAX */
    const struct control_spec *controls;
    struct step_cache_spec step_cache;
};
extern const struct image_spec image_spec_default;

/* A picture to be enlarged by a super-resolution network, by the factor that it has. */
struct upscale_spec {
    const char *model;  /* card id */
    const uint8_t *rgb; /* [height, width, 3] */
    int width, height;
};

/* Logprobs are of the model's own distribution, before temperature and filters (as OpenAI's). */
struct token_info {
    int32_t id;
    float logprob;
    int n_top;
    struct {
        int32_t id;
        float logprob;
    } top[JOB_TOP_LOGPROBS]; /* best first */
};

enum finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_FILTER };
enum event_kind {
    EV_PROMPT, /* token: the next prompt token with its logprob (echo_logprobs), NaN for the first */
    EV_TEXT,   /* text and, with logprobs, the tokens it is made of */
    EV_FINISH,   /* choice `index` is complete: finish, counts */
    EV_MATCH,    /* match, cosine: of a picture and a text */
    EV_PROGRESS, /* picture `index` has done `step` of `n_steps` */
    EV_IMAGE,    /* picture `index`: pixels; partial >= 0 is a preview, -1 the picture itself */
    EV_VECTOR,   /* text `index`: its vector */
    EV_DONE,     /* the whole job is complete: totals; nothing comes after */
    EV_ERROR,    /* the job failed: err; nothing comes after */
};

/* What a choice, or in EV_DONE the job, has cost. */
struct job_usage {
    int prompt_tokens, cached_tokens, completion_tokens;
    int predicted_tokens, missed_tokens;     /* of the prediction: in the answer, and not */
    int64_t queue_us, prefill_us, decode_us; /* waiting; prompt; from first token to last */
};

struct event {
    struct event *next;
    enum event_kind kind;
    int index;        /* which choice */
    const char *text; /* whole UTF-8 characters, len bytes, NUL-terminated */
    size_t len;
    int n_made; /* EV_TEXT: tokens of the choice so far, whose text may be held back */
    int n_tokens;
    const struct token_info *tokens; /* EV_TEXT with logprobs; EV_PROMPT: one */
    enum finish finish;
    const char *stop; /* the stop string that ended it, or NULL */
    uint64_t found;   /* EV_FINISH: categories of the text filter, a bit each */
    struct job_usage usage;
    struct err err;
    float match, cosine; /* EV_MATCH: probability that they belong together; of the two alone */
    /* EV_PROGRESS, EV_IMAGE */
    int step, n_steps;  /* denoise steps done, and in all */
    const uint8_t *rgb; /* [height, width, 3] */
    int width, height;
    int partial;                        /* number of the preview, from 0; or -1 */
    uint64_t seed;                      /* of this picture */
    const struct safety_result *safety; /* of a whole picture; NULL: nobody has looked at it */
    /* EV_VECTOR */
    const float *vector; /* [n_vector] */
    int n_vector;
};

struct job {
    uint64_t id; /* for logs */
    enum job_kind kind;
    struct arena arena; /* loop side's: spec and what it points to */
    struct text_spec text;
    struct image_spec image;     /* JOB_IMAGE */
    struct embed_spec embed;     /* JOB_EMBED */
    struct upscale_spec upscale; /* JOB_UPSCALE */
    struct adapter_spec adapter; /* JOB_ADAPTER */
    void *user;                  /* the loop side's own */
    int64_t submit_us;           /* set by engine_submit */
    struct job_private *priv;    /* engine/job.c */
};

/* One reference, the caller's. */
struct job *job_new(size_t arena_max_bytes);
void job_ref(struct job *j);
void job_unref(struct job *j);
/* Any thread; cheap, idempotent. */
void job_cancel(struct job *j);
bool job_cancelled(const struct job *j);
/* Loop: the next event or NULL; job_event_free when done with it. */
struct event *job_poll(struct job *j);
void job_event_free(struct event *ev);

/* Pixels of the job's events that were emitted and not freed; any thread.  It may outlive the job. */
struct job_pixels;
struct job_pixels *job_pixels_ref(const struct job *j);
void job_pixels_unref(struct job_pixels *p);
size_t job_pixels_bytes(const struct job_pixels *p);
/* Engine: takes ev (from job_event_new); its payload is copied behind it in one allocation. */
struct event *job_event_new(enum event_kind kind, int index, const char *text, size_t len,
                            const struct token_info *tokens, int n_tokens);
/* The same with a picture [height, width, 3] behind it, not filled in yet; NULL without memory. */
struct event *job_event_image(enum event_kind kind, int index, int width, int height,
                              uint8_t **rgb);
/* A copy of what the checker said, for an event of job_event_image. */
void job_event_set_safety(struct event *ev, const struct safety_result *said);
/* EV_VECTOR, with a copy of v [n] behind it. */
struct event *job_event_vector(int index, const float *v, int n);
void job_emit(struct job *j, struct event *ev);
#endif
