/* What a latent diffusion model (SD 1.5, SD 2.1, SDXL and their kin) gives to the pipeline: what it is, and
 * its computations as units that stop and go on.
 * Thread: engine; image_info never changes after image_model_open and may be read by any.
 *
 * A unit is opened for a shape, takes all its memory then, and is used for as many runs as wanted: fill its
 * inputs, image_run until it says 0, read its outputs.  Units of one model may be open side by side and
 * run in turns.  What a unit computes for a row depends bit for bit on that row's inputs alone.
 * All numbers are f32 in the host's memory; images are [height, width, channels], latents
 * [height / 8, width / 8, 4] (torch has channels first: whoever makes noise in its order transposes). */
#ifndef ENGINE_MODELS_IMAGE_MODEL_H
#define ENGINE_MODELS_IMAGE_MODEL_H
#include <stdatomic.h>

#include "engine/checkpoint.h"
#include "kernels/backend.h"

#define IMAGE_MAX_ENCODERS 2
#define IMAGE_TOKENS       77 /* of one chunk of a prompt: begin, text, end, padding */
#define IMAGE_MAX_CONTEXT  (16 * IMAGE_TOKENS)
#define IMAGE_MAX_ADAPTERS 8 /* of a request */
#define IMAGE_TIME_IDS     6 /* SDXL: original height, width, crop top, left, target height, width */

struct image_info {
    const char *family; /* "sd15", "sd21", "sdxl", or "sd" for what is like none of them */
    int in_channels;    /* of the UNet: latent_channels; and what inpaint or enlarges says */
    bool inpaint;       /* and a mask, and the latent of the masked picture */
    bool enlarges; /* and a picture of the latent's size: its results are `scale` times as large */
    int max_level; /* of the noise that is added to that picture; noise_level is one of 0 ... this */
    int latent_channels;
    int scale;              /* pixels of a latent's side: 8; of an upscaler 4 */
    int multiple;           /* width and height must be multiples of it, in pixels */
    float latent_scale;     /* a latent of the UNet = VAE's * scale */
    const char *prediction; /* "epsilon", "v_prediction" or "sample" */
    int default_width, default_height;
    /* By the kind of the model, or "num_inference_steps" and "guidance_scale" of the directory's
     * generation_config.json. */
    int default_steps;
    float default_guidance;
    int n_encoders;                   /* of text */
    int n_vocab[IMAGE_MAX_ENCODERS];  /* ids are below it */
    int text_dim[IMAGE_MAX_ENCODERS]; /* together context_dim */
    int pad_id[IMAGE_MAX_ENCODERS];   /* after the end of a chunk */
    int context_dim;                  /* of a token of the prompt as the UNet sees it */
    int pooled_dim;                   /* 0: the UNet wants no pooled text and no time ids */
    bool guidance_embedded;           /* LCM: the guidance scale is an input of the UNet */
    bool aesthetic;                   /* SDXL's refiner: the last time id is an aesthetic score */
    bool zero_negative;               /* SDXL: an empty negative prompt is zeros, not "" encoded */
    bool has_encoder;                 /* VAE encoder, for image to image and inpainting */
    bool encoder_exact; /* it gives a latent, not a distribution to sample: AutoencoderTiny's */
    bool has_preview;   /* a TAESD decoder */
    bool has_pairs;     /* of rows that begin alike (struct image_unet_want) */
    bool has_safety;    /* a safety checker */
    size_t weight_bytes;
    size_t kv_row_bytes; /* of image_kv's result, for one token of the prompt */
};

struct image_model;
struct image_model_options {
    size_t vae_bytes;     /* a decoder or encoder that needs more works in tiles; 0: 1 GiB */
    const char *preview;  /* path of a TAESD checkpoint, or NULL */
    atomic_int *progress; /* per mille of loading done, or NULL */
    bool adapters;        /* passes take LoRAs (image_adapter.h) */
};
/* The checkpoint may be closed afterwards. */
int image_model_open(struct image_model **out, struct checkpoint *c, struct backend *be,
                     const struct image_model_options *o, struct err *e);
void image_model_close(struct image_model *m); /* after its units */
const struct image_info *image_model_info(const struct image_model *m);

/* ---- units ---- */

struct image_unit {
    size_t bytes; /* memory it took */
    int (*run)(struct image_unit *u, int64_t until_us, struct err *e);
    void (*restart)(struct image_unit *u);
    void (*close)(struct image_unit *u);
};

/* Until clock_us() >= until_us, at least one op.  1: there is more; 0: done, the next call begins
 * again (with new inputs). */
int image_run(struct image_unit *u, int64_t until_us, struct err *e);
void image_restart(struct image_unit *u); /* forgets what was done of a run */
void image_close(struct image_unit *u);   /* NULL is nothing */

/* The LoRAs of a request.  Inputs of runs, all may be NULL: none. */
struct image_adapter;
struct image_adapters {
    int n;
    struct {
        const struct image_adapter *adapter;
        uint64_t id;      /* of this opening of it: prompts are known again by it */
        float unet, text; /* scales */
    } of[IMAGE_MAX_ADAPTERS];
};

/* One chunk of a prompt through every text encoder. */
struct image_text {
    struct image_unit unit;
    int32_t *ids[IMAGE_MAX_ENCODERS]; /* [IMAGE_TOKENS] in, for each encoder */
    /* [IMAGE_TOKENS] in: vectors of tokens that the vocabulary lacks, NULL for the others; NULL itself where
     * the model takes no adapters */
    const float **own[IMAGE_MAX_ENCODERS];
    /* in: their ids, beyond the vocabulary; else 0 */
    int32_t own_ids[IMAGE_MAX_ENCODERS][IMAGE_TOKENS];
    const struct image_adapters *adapters; /* in */
    float *hidden;                         /* [IMAGE_TOKENS, context_dim] out */
    float *pooled;                         /* [pooled_dim] out, NULL where there is none */
};
/* clip_skip as in diffusers: that many more of the encoder's last layers left out; 0 or less for the model's
 * default. */
int image_text_open(struct image_text **out, struct image_model *m, int clip_skip, struct err *e);
size_t image_text_bytes(struct image_model *m, int clip_skip, struct err *e);

/* Keys and values of a prompt for all cross-attention layers, computed once a prompt. */
struct image_kv {
    struct image_unit unit;
    int n_tokens;
    float *context;                        /* [n_tokens, context_dim] in */
    const struct image_adapters *adapters; /* in */
    float *kv;                             /* out: of image_kv_memory, set before image_run */
};
/* The device's memory for the keys and values of a prompt; NULL: there is none. */
float *image_kv_memory(const struct image_model *m, int n_tokens, struct err *e);
void image_kv_free(const struct image_model *m, float *kv); /* NULL is nothing */
int image_kv_open(struct image_kv **out, struct image_model *m, int n_tokens, struct err *e);
size_t image_kv_bytes(struct image_model *m, int n_tokens, struct err *e);

/* What is different for each row of a UNet's batch. */
struct image_row {
    const float *kv; /* of image_kv, alive during the run */
    int n_tokens;    /* of that prompt */
    float timestep;
    float guidance;      /* where guidance_embedded: the scale w of LCM - 1 is done here */
    int level;           /* where it enlarges: of the small picture's noise */
    const float *pooled; /* [pooled_dim], or NULL where there is none */
    float time_ids[IMAGE_TIME_IDS]; /* where there is pooled text */
    const struct image_adapters *adapters;
    /* of a steered pass: a block of image_residual_floats that control.h filled; NULL: nothing is added */
    const float *residuals;
    /* Of a pass in parts: blocks of image_unet_head_floats and image_unet_deep_floats, read when a run begins or
     * filled when it ends; NULL: nobody has or wants them. */
    float *head, *deep;
};

/* The UNet's parts (models/unet.h, enum unet_part). */
enum { IMAGE_HEAD = 1, IMAGE_DEEP = 2, IMAGE_TAIL = 4, IMAGE_WHOLE = 7 };
struct image_unet_want {
    int n, h, w;
    /* Residuals are added.  Those of the rows are read in the first pieces of a run; a row without any has the bits
     * that it has in a pass that is not steered. */
    bool steered;
    unsigned parts; /* IMAGE_WHOLE, the head alone, or the tail with or without the others */
    int branch;     /* of the parts; -1, of a whole pass: rows keep nothing of it */
    /* Rows 2 i and 2 i + 1 of the caller's differ in their texts only, and stand at image_unet_row: where the model
     * has_pairs, a whole pass computes once what lies before the first text. */
    bool pairs;
};

/* One forward pass of n rows of one size (latent height h, width w).  Guidance by a negative prompt
 * makes two rows of an image. */
struct image_unet {
    struct image_unit unit;
    int n, h, w;
    struct image_row *rows; /* [n] in */
    float *x;               /* [n, h, w, in_channels] in, scaled as the scheduler wants */
    float *out;             /* [n, h, w, latent_channels] out: the model's prediction */
};
int image_unet_open(struct image_unet **out, struct image_model *m, int n, int h, int w,
                    struct err *e);
/* Row `row` of a run that has begun is for nobody any more: from now on it reads the prompt of row `with`, so
 * that its own prompt, adapters and residuals may be freed.  What it computes means nothing. */
void image_unet_leave(struct image_unet *u, int row, int with);
size_t image_unet_bytes(struct image_model *m, int n, int h, int w, struct err *e);
/* The side of the windows that a latent of this size is denoised in, overlapping, each as if it were a picture of
 * its own (Bar-Tal et al. 2023, MultiDiffusion): the model's own size or less.  0: it is done whole, for a
 * row's pass needs no more than vae_bytes.  wanted: windows even so, where it is larger than the model's own. */
int image_unet_window(struct image_model *m, int h, int w, bool wanted);
/* Any pass.  `x` is NULL without the head, `out` without the tail. */
int image_unet_open_want(struct image_unet **out, struct image_model *m,
                         const struct image_unet_want *want, struct err *e);
/* Where the caller's row i has its place in rows, x and out. */
int image_unet_row(const struct image_unet *u, int i);
size_t image_unet_bytes_want(struct image_model *m, const struct image_unet_want *want,
                             struct err *e);
int image_unet_n_skips(const struct image_model *m); /* branches are below it */
/* Floats of a row's blocks: skips 0 ... branch; what the deep part makes. */
size_t image_unet_head_floats(const struct image_model *m, int branch, int h, int w);
size_t image_unet_deep_floats(const struct image_model *m, int branch, int h, int w);
size_t image_residual_floats(const struct image_model *m, int h, int w); /* of a row's block */

/* Between pictures and latents of height h, width w (of the latent); one image a run. */
enum image_vae_kind {
    IMAGE_DECODE,  /* latent (as the UNet has it) to picture */
    IMAGE_ENCODE,  /* picture to mean and log variance of a latent as the VAE has it */
    IMAGE_PREVIEW, /* latent to picture by TAESD */
};
struct image_vae {
    struct image_unit unit;
    int h, w;
    float *latent;  /* [h, w, latent_channels]; decode, preview: in */
    float *picture; /* [8 h, 8 w, 3], -1 ... 1 (not clipped); in or out */
    /* encode, out: [h, w, 2 * latent_channels], means, then log variances clipped to -30 ... 20; a latent is
     * mean + exp(logvar / 2) * noise, then scaled */
    float *moments;
};
int image_vae_open(struct image_vae **out, struct image_model *m, enum image_vae_kind kind, int h,
                   int w, struct err *e);
size_t image_vae_bytes(struct image_model *m, enum image_vae_kind kind, int h, int w,
                       struct err *e);

/* The safety checker's look at one picture; where has_safety. */
struct image_safety {
    struct image_unit unit;
    float *cosines; /* out, for image_safety_judge */
    float *seen;    /* out, what they are of */
};
int image_safety_open(struct image_safety **out, struct image_model *m, struct err *e);
size_t image_safety_bytes(struct image_model *m, struct err *e);
/* The input of a run: rgb [height, width, 3]. */
struct image;
int image_safety_look(struct image_safety *u, const struct image *rgb, struct err *e);
struct safety_result;
void image_safety_judge(const struct image_safety *u, struct safety_result *out);
#endif
