/* The UNet of latent diffusion models (Rombach et al. 2022; diffusers' UNet2DConditionModel): configuration
 * and weights (unet.c), and the forward pass (unet_pass.c).
 * Thread: engine. */
#ifndef ENGINE_MODELS_UNET_H
#define ENGINE_MODELS_UNET_H
#include "engine/models/nn.h"

enum {
    UNET_MAX_STAGES = 8,
    UNET_MAX_LAYERS = 16, /* of a stage */
    UNET_MAX_DEPTH = 64,  /* transformer blocks of an attention */
    UNET_MAX_SKIPS = UNET_MAX_STAGES * (UNET_MAX_LAYERS + 1) + 1,
    UNET_MAX_PLACES = UNET_MAX_SKIPS + UNET_MAX_STAGES + 1
};

/* One transformer block: x += self(norm1(x)); x += cross(norm2(x), text); x += ff(norm3(x)) */
struct unet_block {
    struct nn_norm norm1, norm2, norm3;
    struct {
        struct nn_linear q, o; /* [c, c] */
        struct nn_linear k, v; /* [c, c], or [c, context_dim] where text is attended to */
        bool text;
        size_t kv_at; /* text: floats of a token before this layer's in the prompt's block */
    } attn[2];
    struct nn_linear ff[2]; /* value and gate, [4 c, c] */
    struct nn_linear down;  /* [c, 4 c] */
};

struct unet_transformer {
    struct nn_norm norm;
    struct nn_linear in, out; /* [c, c] */
    struct unet_block *blocks;
    int n_blocks, n_heads, c; /* n_blocks 0: there is none */
};

/* Some layers at one resolution; down, up, or the middle (which has no sampler). */
struct unet_stage {
    int n_layers;
    struct nn_resnet resnets[UNET_MAX_LAYERS];
    struct unet_transformer attn[UNET_MAX_LAYERS]; /* after the resnet of that number */
    struct nn_conv sampler;                        /* w NULL: none */
};

struct unet_config {
    int in_channels, out_channels, n_stages;
    int channels[UNET_MAX_STAGES];
    int n_layers[UNET_MAX_STAGES], n_heads[UNET_MAX_STAGES];
    bool down_attn[UNET_MAX_STAGES], up_attn[UNET_MAX_STAGES]; /* up: in the order of the up path */
    int depth[UNET_MAX_STAGES][UNET_MAX_LAYERS]; /* down path; [..][0] also for the middle */
    int up_depth[UNET_MAX_STAGES][UNET_MAX_LAYERS];
    int mid_depth;
    bool only_text[UNET_MAX_STAGES]; /* self attention looks at the text as well */
    bool mid, mid_attn;
    int context_dim, time_dim, sample_size;
    int guidance_dim;          /* of the guidance embedding (LCM), 0: none */
    int pooled_dim, added_dim; /* SDXL: of pooled text, of each time id's embedding; 0: none */
    int n_time_ids;            /* 6, of a refiner 5 (one is the aesthetic score) */
    int n_classes;             /* of the class embedding: an upscaler's levels of noise; 0: none */
    int n_groups, conv_in_kernel, conv_out_kernel;
    bool pad_after_only; /* of the downsamplers */
    bool linear_projection;
    bool flip_sin_to_cos;
    bool half; /* a ControlNet's: there is no way up */
    float freq_shift, eps;
};

struct unet {
    struct unet_config c;
    struct nn_conv conv_in, conv_out;
    struct nn_linear time1, time2; /* [time_dim, channels[0]], [time_dim, time_dim] */
    struct nn_linear guidance;     /* [channels[0], guidance_dim] */
    /* [time_dim, pooled_dim + 6 added_dim], [time_dim, time_dim] */
    struct nn_linear added1, added2;
    struct weight *classes; /* [n_classes, time_dim]; NULL: none */
    int64_t n_class_rows;   /* that the file has */
    struct unet_stage *down, *up, mid;
    struct nn_norm norm_out;
    size_t kv_floats; /* of a prompt's block, for one token */
};

int unet_open(struct unet **out, struct nn_loader *l, struct err *e);
void unet_close(struct unet *m); /* its weights are the store's */

/* The half that a ControlNet copies: time embedding, conv_in, down path and middle.  Its weights are loaded
 * by the ControlNet's own walk, which calls unet_half_walk. */
int unet_half_new(struct unet **out, const struct cJSON *config, struct err *e);
void unet_half_walk(struct nn_loader *l, struct unet *m);

/* Cells that a latent's sides are multiples of. */
int unet_multiple(const struct unet_config *c);

/* ---- where residuals are added ---- */

/* To feature maps of [h / shrink, w / shrink, c], rounded up, in this order: the skips, that is what the way up reads
 * of the way down; the middle's result; then inside each stage of the way down, where T2I-Adapters add.
 * A row's residuals are a block with all places behind each other. */
struct unet_places {
    int n, n_skips; /* n = n_skips + 1 + stages */
    struct {
        int c, shrink;
    } at[UNET_MAX_PLACES];
};
void unet_places(const struct unet_config *c, struct unet_places *to);
/* Cells of a latent's side at a place, as convolutions of stride 2 leave them. */
static inline int64_t unet_place_side(int64_t side, int shrink)
{
    return (side + shrink - 1) / shrink;
}
/* Floats of places [0, n) at latent size h, w. */
size_t unet_places_floats(const struct unet_places *p, int n, int h, int w);

/* ---- the pass ---- */

/* Where one cross attention of a recorded pass finds its keys and values. */
struct unet_cross {
    struct attn_item *items; /* [n * per_row] */
    int per_row, dim;
    size_t kv_at;
};
#define UNET_TIME_IDS 6
struct unet_pass {
    struct program *p;
    int n;
    struct tensor x;          /* [n, h, w, in_channels], pinned */
    struct tensor time;       /* [n, channels[0]], pinned: the sinusoids of the timestep */
    struct tensor guidance;   /* [n, guidance_dim], pinned; data NULL: none */
    struct tensor added;      /* [n, pooled_dim + 6 added_dim], pinned; data NULL: none */
    int32_t *classes;         /* [n], of the program; NULL: none */
    struct tensor out;        /* [n, h, w, out_channels], pinned */
    struct unet_cross *cross; /* [n_cross], of the program */
    int n_cross;
    struct tensor *residuals; /* [n_places] of [n, h, w, c], pinned; NULL: none are added */
    int n_places;
    struct tensor *head; /* [n_head] skips of [n, h, w, c], pinned: results of the head alone, */
    int n_head;          /* or inputs of what has no head */
    struct tensor deep;  /* [n, h, w, c], pinned: of a pass with a branch and a tail */
};

/* A pass in parts, for step caches (Ma et al. 2023, DeepCache).  With a branch b the head makes skips 0 ... b;
 * the tail begins with the layer of the way up that reads skip b; all between is deep, and its result
 * is what that layer reads besides the skip.  A part that is left out gives its results as inputs. */
enum unet_part { UNET_HEAD = 1, UNET_DEEP = 2, UNET_TAIL = 4, UNET_WHOLE = 7 };
struct unet_want {
    int64_t size[3]; /* n, h, w */
    bool steered;    /* with residuals (unet_places) added */
    unsigned parts;  /* the head alone, or with the tail any */
    int branch;      /* below unet_places' n_skips; -1, of a whole pass: nothing is handed over */
    /* Rows i and n / 2 + i differ in their texts only: what lies before the first text is computed once for both.
     * Of a whole pass of a UNet with unet_pass_pairs. */
    bool pairs;
};
bool unet_pass_pairs(const struct unet *m);
void unet_pass_record(const struct unet *m, struct program *p, const struct unet_want *want,
                      struct unet_pass *pass);
int unet_deep_channels(const struct unet *m, int branch);
/* Between a row of the pass and blocks of the caller: into inputs before a run, from results after it. */
void unet_pass_copy_head(struct unet_pass *pass, int row, float *block, enum program_way way);
void unet_pass_copy_deep(struct unet_pass *pass, int row, float *block, enum program_way way);
/* A row's block of residuals; NULL: none, which leaves the row's bits as they are without. */
void unet_pass_set_residuals(struct unet_pass *pass, int row, const float *block);

/* A ControlNet's half, or only its first n_skips skips (0: all, and the middle): hint [n, h, w, channels[0]] is added
 * after conv_in.  pass->out is not set. */
struct unet_half {
    struct tensor skips[UNET_MAX_SKIPS], mid;
    int n_skips;
};
void unet_pass_record_half(const struct unet *m, struct program *p, const struct tensor *hint,
                           int n_skips, struct unet_pass *pass, struct unet_half *out);

/* What a row of the batch is for, before a run.  kv: the block that unet_pass_record_kv made of the
 * row's prompt, [kv_floats * n_tokens]. */
struct unet_row {
    const float *kv;
    int n_tokens;
    float timestep, guidance;
    int class;             /* below n_classes */
    const float *pooled;   /* [pooled_dim] */
    const float *time_ids; /* [UNET_TIME_IDS] */
};
void unet_pass_set(const struct unet *m, struct unet_pass *pass, int row, const struct unet_row *r);
/* Only the keys and values of a row; at any time. */
void unet_pass_set_kv(struct unet_pass *pass, int row, const float *kv, int n_tokens);

/* Keys and values of all cross attentions: context [n_tokens, context_dim] to kv, a block where the layer
 * with kv_at has keys [n_tokens, dim] at kv_at * n_tokens and values after them. */
void unet_pass_record_kv(const struct unet *m, struct program *p, const struct tensor *context,
                         float *kv);
#endif
