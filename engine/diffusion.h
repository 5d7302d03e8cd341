/* A latent diffusion model as the engine serves it: the network (models/image_model.h) with its tokenizers,
 * its scheduler's settings and its card; and what a request becomes by them.
 * Thread: engine, except diffusion_resolve and diffusion_prompts, which any may call once it is open. */
#ifndef ENGINE_DIFFUSION_H
#define ENGINE_DIFFUSION_H
#include "base/arena.h"
#include "engine/job.h"
#include "engine/model.h"
#include "engine/models/image_model.h"
#include "engine/noise.h"

struct clip_bpe;

/* Vectors that are loaded for tokens which the vocabulary lacks (textual inversion): their ids are first_id,
 * first_id + 1 ..., from DIFFUSION_OWN_IDS on. */
#define DIFFUSION_OWN_IDS (1 << 24)
struct diffusion_learned {
    struct diffusion_learned *next;
    int32_t first_id;
    const struct image_adapter *adapter;
};

struct diffusion {
    struct image_model *model;
    const struct image_info *info;
    struct clip_bpe *bpe[IMAGE_MAX_ENCODERS];
    struct noise_config noise;
    struct noise_config small_noise; /* of a model that enlarges: its low_res_scheduler */
    struct image_card card;
    int64_t n_params;
    enum dtype type;                   /* of most weights' bytes */
    struct diffusion_learned *learned; /* the engine thread's */
};

struct diffusion_options {
    const char *preview;  /* TAESD file or NULL */
    size_t vae_bytes;     /* a VAE pass that needs more works in tiles; 0: image_model's default */
    atomic_int *progress; /* per mille, or NULL */
    const char *tokenizer, *prediction; /* engine/checkpoint.h; or NULL */
    bool bare;                          /* without tokenizers: for computing only */
    enum safety_load safety;
    bool adapters; /* LoRAs and embeddings may be added */
};
/* Does the path mean an image model? */
bool diffusion_is(const char *path);
int diffusion_open(struct diffusion **out, const char *path, struct backend *be,
                   const struct diffusion_options *o, struct err *e);
void diffusion_close(struct diffusion *d);

/* Fills in what the request left to the model, and refuses what this model cannot do. */
int diffusion_resolve(const struct diffusion *d, struct image_spec *s, struct err *e);

/* A prompt as the text encoders take it. */
struct diffusion_prompt {
    int n_chunks;                       /* of IMAGE_TOKENS */
    int n_tokens;                       /* of the text */
    int32_t *ids[IMAGE_MAX_ENCODERS];   /* [n_chunks * IMAGE_TOKENS] */
    float *weights[IMAGE_MAX_ENCODERS]; /* the same, or NULL: all are 1 */
    int clip_skip;
    bool zeros; /* no text at all: zeros instead of what an encoder says (SDXL's negative) */
    struct image_adapters adapters;
};
/* The request's prompt and, when guided, its negative one, equally long.  s is resolved. */
int diffusion_prompts(const struct diffusion *d, const struct image_spec *s,
                      struct diffusion_prompt *prompt, struct diffusion_prompt *negative,
                      struct arena *a, struct err *e);
/* The vector of a token from DIFFUSION_OWN_IDS on; engine thread.  NULL: it is gone. */
const float *diffusion_vector(const struct diffusion *d, int encoder, int32_t id);
/* Does the request need the negative side too? */
bool diffusion_guided(const struct diffusion *d, const struct image_spec *s);
#endif
