/* The dialect of stable-diffusion-webui (AUTOMATIC1111), /sdapi/v1: its words become a request of /v1/images, which
 * then goes the way of all of them, and the answer gets its shape.
 *
 *   sdapi.c        txt2img and img2img: fields, and the request that they become
 *   sdapi_lora.c   LoRAs within prompts
 *   sdapi_control.c  ControlNet units
 *   sdapi_mask.c   inpainting: where, what is put there first, and how the result is pasted back
 *   sdapi_names.c  samplers and schedulers by their names there; what else can be listed
 *   sdapi_state.c  options of a key, progress, interrupt
 *   sdapi_settings.c  settings that there are
 *   sdapi_info.c   the answer; texts about pictures, written and read
 *   sdapi_extra.c  extra-single-image
 *
 * Thread: loop, or one worker during api_begin, unless said otherwise. */
#ifndef API_SDAPI_H
#define API_SDAPI_H
#include "api/call.h"
#include "base/image.h"

extern const struct param sdapi_table[]; /* PARAM_GENERATE: txt2img, PARAM_EDIT: img2img */
extern const int sdapi_n;
extern const struct param sdapi_extra_table[]; /* PARAM_EDIT */
extern const int sdapi_extra_n;

struct sdapi_params {
    const char *prompt, *negative_prompt, *sampler, *sampler_index, *scheduler, *script, *mask;
    int64_t seed, subseed, batch_size, n_iter, steps, width, height; /* -1: not given; sizes 0 */
    int64_t resize_mode, mask_blur, mask_blur_x, mask_blur_y, fill, padding, invert;
    float cfg_scale, denoising_strength, eta, subseed_strength; /* NaN: not given */
    float s_churn, noise_multiplier;
    bool full_res, send_images, include_init;
    bool hires; /* enable_hr, with: */
    const char *hr_upscaler, *hr_sampler, *hr_scheduler, *hr_prompt, *hr_negative, *hr_model;
    int64_t hr_steps, hr_width, hr_height;
    float hr_scale;
    const char *refiner;
    float refiner_at;
    const char *model;                               /* of override_settings */
    int64_t clip_skip, seed_resize_w, seed_resize_h; /* clip_skip as there: 1 leaves out none; -1 */
    const char *format;                              /* samples_format, as ours; or NULL */
    bool cuda;                                       /* randn_source GPU */
};

/* Where a picture that was made belongs within the one that came. */
struct sdapi_paste {
    struct image base;  /* RGB; data NULL: nothing is pasted */
    struct image alpha; /* gray, of base's size: how much of the new one shows */
    int x, y, width, height;
};

/* What a call of the dialect has besides others: c->priv->sd. */
struct sdapi_call {
    struct sdapi_params p;
    char *parameters; /* JSON: what the request said */
    struct sdapi_paste paste;
    bool extra;                /* extra-single-image */
    int cut_width, cut_height; /* its result is cut to this; 0: not */
    bool interrupted;
    bool listed; /* is in the list of running ones, by: */
    struct api_call *next;
};
void sdapi_state_running(struct api_call *c); /* loop: from now on it is one of the running ones */
void sdapi_state_close(struct api_call *c);   /* loop: api_end's part */

/* ---- for /v1/images, once c->priv->sd is set ---- */

enum { SDAPI_PREVIEWS = 4 };
/* Worker: im is the picture that was made; when another one is to be given out, it is made new in out. */
int sdapi_mask_paste(const struct api_call *c, const struct image *im, struct image *out,
                     struct err *e);
enum image_hole sdapi_mask_hole(const struct api_call *c);          /* of inpainting_fill */
void sdapi_as_said(const struct api_call *c, struct image_spec *s); /* its strengths and steps */
void sdapi_info_answer(const struct api_call *c, const struct images_out *o, struct buf *out);

/* ---- between the files ---- */

/* The name here of a sampler and a schedule there. */
int sdapi_names_scheduler(const char *sampler, const char *schedule, char out[NOISE_NAME_MAX],
                          struct err *e);
/* Does it count in timesteps there, not in sigmas? */
bool sdapi_names_by_timesteps(const char *sampler);
/* "id" or "id [hash]"; NULL: there is no such image model. */
const struct model_card *sdapi_names_model(const struct api *a, const char *title);
/* The image model that requests of this key get which name none; NULL: there is none. */
const struct model_card *sdapi_state_model(const struct api *a, int owner);
int64_t sdapi_state_clip(const struct api *a, int owner); /* as there: 1 or more */

/* The picture and the mask of img2img as base64 for /v1/images; *p gets its size. */
int sdapi_mask_prepare(struct api_call *c, const struct cJSON *body, struct buf *image,
                       struct buf *mask, struct err *e);
int sdapi_decode(struct api_call *c, const char *text, const char *param, struct image *out,
                 struct err *e);
int sdapi_encode(const struct image *im, struct buf *base64, struct err *e);

/* override_settings into *p. */
int sdapi_settings_read(const struct cJSON *body, struct sdapi_params *p, struct err *e);
/* One that is none of ours: taken and forgotten, or refused.  within: before its name in errors. */
int sdapi_settings_check(const struct cJSON *v, const char *within, struct err *e);

/* The text of a PNG, taken apart: members of the object that is open. */
void sdapi_info_read(struct json_writer *w, const char *text);

/* The prompt without its LoRAs, which become elements of the list that is open: how many, or an error. */
int sdapi_lora_take(const char *prompt, struct buf *text, struct json_writer *list, struct err *e);
void sdapi_lora_put(const struct image_spec *s, struct buf *out); /* the other way round */
void sdapi_lora_list(struct api_call *c, bool embeddings);

/* ControlNet's script, and its units as the member "control" of the object that is open. */
bool sdapi_control_is(const char *script);
int sdapi_control_put(const struct cJSON *body, struct json_writer *w, struct err *e);

/* ---- routes ---- */

int sdapi_begin(struct api_call *c, const struct cJSON *body, unsigned where, struct err *e);
int sdapi_info_png(struct api_call *c, const struct cJSON *body, struct err *e);
int sdapi_extra(struct api_call *c, const struct cJSON *body, struct err *e);
int sdapi_state_set(struct api_call *c, const struct cJSON *body, struct err *e);
/* Those that need no body; false: id is none of them. */
bool sdapi_state_get(struct api_call *c, enum api_handler_id id);
/* Of these, those that list things. */
bool sdapi_names_list(struct api_call *c, enum api_handler_id id);
#endif
