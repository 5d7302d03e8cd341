/* The fields of the images routes: one table, as params.c has one for text.  A form's text fields become
 * a JSON object first, so that both kinds of body are read by the same code.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_IMAGE_PARAMS_H
#define API_IMAGE_PARAMS_H
#include "api/multipart.h"
#include "api/params.h"
#include "base/buf.h"
#include "base/codec.h"
#include "engine/job.h"

extern const struct param image_params_table[];
extern const int image_params_n;

enum image_answer { IMAGE_B64, IMAGE_URL };
enum image_mask_mode { IMAGE_MASK_ALPHA, IMAGE_MASK_WHITE };
enum image_quality { IMAGE_AUTO, IMAGE_LOW, IMAGE_MEDIUM, IMAGE_HIGH, IMAGE_STANDARD, IMAGE_HD };

struct image_params {
    const char *prompt, *negative_prompt, *scheduler; /* borrowed from the body; or NULL */
    bool stream, job;                                 /* job: answer 202 and work on */
    bool keep_unmasked, tiled;
    int64_t n, compression, partials, steps, clip_skip, seed, noise_level; /* -1: not given */
    float guidance_scale, guidance_rescale, strength, eta;                 /* NaN: not given */
    float denoising_start, denoising_end;                                  /* 0: all steps */
    float aesthetic_score, negative_aesthetic_score;
    float scale;        /* NaN: not given */
    int answer;         /* enum image_answer */
    int format;         /* enum codec_format - 1 */
    int quality;        /* enum image_quality */
    int rng;            /* enum image_rng */
    int outpaint;       /* enum outpaint_anchor */
    int mask_mode;      /* enum image_mask_mode */
    int spacing;        /* enum noise_spacing; 0: auto */
    int sigma_schedule; /* enum noise_sigmas; 0: auto */
    int n_timesteps, n_sigmas;
    int timesteps[JOB_TIMESTEPS_MAX];
    float sigmas[JOB_TIMESTEPS_MAX + 1];
    int moderation, style, fidelity; /* checked, without effect */
    int width, height;               /* 0: auto */
};

struct image_limits {
    int max_images; /* of n */
    bool strict;
};

/* where: PARAM_GENERATE, PARAM_EDIT, PARAM_VARY, PARAM_UPSCALE or PARAM_ENLARGE. */
int image_params_parse(const struct cJSON *body, unsigned where, const struct image_limits *lim,
                       struct image_params *p, struct err *e);
/* The text fields of a form as a JSON object: "5" becomes a number where the table has one.  Fields that
 * hold pictures (image, image[], mask, control_image) are left out. */
int image_params_form(struct buf *out, const struct multipart *m, struct err *e);
/* "auto", "low" ... as the answer has it. */
const char *image_params_quality(int quality);
#endif
