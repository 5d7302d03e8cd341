/* A loaded model: what it is (card) and what one step of it computes.
 * Thread: engine, except the card, which never changes after model_open and may be read by any.
 *
 * A text model advances rows: each row is one token of some sequence at some position.  Which
 * sequences, how many rows of each, and where their KV pages lie is the scheduler's business. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H
#include <stdatomic.h>

#include "base/image.h"
#include "engine/text/tokenizer.h"
#include "kernels/backend.h"

enum model_kind {
    MODEL_TEXT,
    MODEL_IMAGE,
    MODEL_EMBEDDING,
    MODEL_CAPTION,
    MODEL_UPSCALER, /* a network */
    MODEL_ENLARGER, /* the same by a prompt: an image model that makes pictures larger */
    MODEL_CONTROL
};

/* What goes in and comes out, for /v1/models: bits. */
enum modality { MODALITY_TEXT = 1, MODALITY_IMAGE = 2, MODALITY_EMBEDDING = 4 };

/* Defaults and limits of an image model. */
struct image_card {
    int width, height; /* the size it was trained for */
    int size_step;     /* sides are multiples of it */
    int size_min, size_max, pixels_max;
    int steps, steps_max;
    float guidance_scale, guidance_rescale;
    int scheduler, sigmas; /* engine/noise.h */
    int clip_skip;
    int noise_level, noise_level_max; /* of MODEL_ENLARGER */
    bool inpaint;                     /* a UNet made for inpainting: it needs an image and a mask */
    bool edit;                        /* has a VAE encoder: takes images at all */
    bool safety;                      /* a safety checker looks at every picture */
    int n_branches;                   /* that a step cache may have (engine/step_cache.h) */
    bool first_block;                 /* and whether there is a first block to watch */
};

/* What is done about the safety checkers of image models: loaded where there is one; a model without one is
 * refused; none is loaded. */
enum safety_load { SAFETY_IF_THERE, SAFETY_REQUIRED, SAFETY_NEVER };

/* What a caption model does with a picture: goes on after a prompt, answers a question, or says whether a
 * text belongs to it. */
enum caption_mode { CAPTION_TEXT, CAPTION_VQA, CAPTION_MATCH };
struct caption_card {
    enum caption_mode mode;
    int size; /* it takes pictures of size x size pixels, resized with the filter */
    enum image_filter filter;
    int n_question; /* tokens of a question or text at most; 0: CAPTION_TEXT */
    int32_t bos;    /* what its own text begins with */
    int32_t cls, sep;
};

/* Immutable description, shared with the loop thread. */
struct model_card {
    char *id;           /* the name that requests use */
    const char *arch;   /* "llama" */
    const char *source; /* "gguf", "diffusers", "safetensors", "transformers" */
    enum model_kind kind;
    char *quant; /* dominating weight type, "q4_1" */
    int64_t n_params;
    size_t weight_bytes; /* memory of the repacked weights */
    int n_vocab;         /* this and what follows: 0 or NULL where it has no meaning */
    int n_ctx_train;     /* positions the model was trained for (after rope scaling) */
    int n_ctx;           /* positions one sequence may have here */
    int n_ctx_wanted;    /* and would have if the cache held so many; 0: the same */
    int n_embd;          /* numbers of a vector: MODEL_EMBEDDING */
    int64_t created;     /* unix seconds of the file */
    uint64_t digest;     /* gguf_digest; 0: another kind of file */
    struct tokenizer *tokenizer;
    char *chat_template;                /* Jinja source, NULL when the file has none */
    unsigned input, output;             /* enum modality */
    const struct image_card *image;     /* MODEL_IMAGE, MODEL_ENLARGER, else NULL */
    const struct caption_card *caption; /* MODEL_CAPTION, else NULL */
    int scale; /* MODEL_UPSCALER, MODEL_ENLARGER: sides of a result per side, else 0 */
};

/* What a sequence looks at besides its own tokens, for cross attention: layer l's keys are at
 * kv + 2 * l * n_keys * dim, its values n_keys * dim further on. */
struct text_view {
    float *kv; /* [n_layers, 2, n_keys, dim] */
    int n_keys;
};

/* Tokens that the device chooses (kernels/choose.h). */
struct text_choose {
    struct op_choose op; /* of n_logits rows, but for the logits */
    const bool *host;    /* [n_logits] true: the logits go to the host instead */
};

/* One forward pass over rows of any mixture of sequences. */
struct text_batch {
    int n_rows;
    const int32_t *ids;                   /* [n_rows] */
    const int32_t *ids_there;             /* [n_rows] of the device, instead; or NULL */
    const int32_t *pos;                   /* [n_rows] */
    const struct kv_row *rows;            /* [n_rows] where each row's KV lies */
    const struct text_view *const *views; /* [n_rows], of caption models; else NULL */
    int n_logits;
    const int32_t *logit_rows; /* [n_logits] rows whose logits are wanted */
    float *logits;             /* [n_logits, n_vocab] out */
    /* NULL, or for a model that chooses: the pass is only queued, and logits are there after a sync. */
    const struct text_choose *choose;
};

struct model;
struct model_options {
    int n_ctx;            /* 0: what the model was trained for */
    int max_rows;         /* rows of the largest batch; scratch is allocated for it once */
    int max_logits;       /* logit rows of the largest batch */
    enum dtype kv_type;   /* DTYPE_F16, DTYPE_F32 or DTYPE_Q8_0 */
    atomic_int *progress; /* per mille of loading done, or NULL */
    size_t vae_bytes;     /* image models: of a pass of the decoder; 0: 1 GiB */
    const char *preview;  /* TAESD checkpoint for an image model's previews, or NULL */
    const char *tokenizer, *prediction; /* image models: engine/checkpoint.h; or NULL */
    bool bare;      /* without tokenizer and template: another one of this file has them */
    bool no_warmup; /* a first step may be a little slower */
    enum safety_load safety;
    bool adapters; /* image models: LoRAs and embeddings may be added */
};

/* Whether a directory holds one model in several files: a pipeline of diffusers, a BLIP. */
bool model_is_directory(const char *path);
/* The kind of file is read from its contents.  id is copied. */
int model_open(struct model **out, const char *id, const char *path, struct backend *be,
               const struct model_options *o, struct err *e);
void model_close(struct model *m);
const struct model_card *model_card(const struct model *m);
/* Whether jobs that were checked against one of them may run on the other: the file was not changed in between. */
bool model_is_like(const struct model *a, const struct model *b);
/* The cache holds no more positions of a sequence than these; before anybody else sees the card. */
void model_limit_context(struct model *m, int n_ctx);

/* Of an image model, else NULL: engine/diffusion.h. */
struct diffusion;
struct diffusion *model_diffusion(const struct model *m);

/* Of a ControlNet or T2I-Adapter, else NULL: engine/models/control.h. */
struct control;
struct control *model_control(const struct model *m);
/* Of a caption model, else NULL: engine/models/blip.h. */
struct blip;
struct blip *model_blip(const struct model *m);
/* Of a super-resolution network, else NULL: engine/models/upscaler.h. */
struct upscaler;
struct upscaler *model_upscaler(const struct model *m);
/* Of an embedding model, else NULL: engine/models/bert.h. */
struct bert;
struct bert *model_bert(const struct model *m);

/* Text and caption models: bytes of one KV page of this model (KV_PAGE_TOKENS tokens, all layers, K and V). */
size_t model_page_bytes(const struct model *m);
bool model_chooses(const struct model *m); /* takes batch.choose */
/* kv_base: where page 0 of this model's pool lies. ERR_DEVICE when the backend died. */
int model_forward(struct model *m, char *kv_base, const struct text_batch *b, struct err *e);
#endif
