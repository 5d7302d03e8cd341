/* CLIP's text encoder (Radford et al. 2021; OpenCLIP's are the same network): token ids to one vector a
 * token, and to one for the whole text.
 * Thread: engine. */
#ifndef ENGINE_MODELS_CLIP_H
#define ENGINE_MODELS_CLIP_H
#include "engine/models/nn.h"

struct clip;

/* part: CHECKPOINT_TEXT_ENCODER or _2. */
int clip_open(struct clip **out, struct nn_loader *l, struct err *e);
void clip_close(struct clip *m); /* its weights are the store's */

int clip_n_vocab(const struct clip *m);
int clip_dim(const struct clip *m);        /* of a token */
int clip_pooled_dim(const struct clip *m); /* 0: this encoder has no text projection */
int clip_n_layers(const struct clip *m);

struct clip_want {
    int n_tokens;    /* at most 77 */
    int n_layers;    /* layers whose output `hidden` is: 1 ... clip_n_layers */
    bool final_norm; /* of hidden */
    bool pooled; /* also the projected text of every token (clip_pooled_row says which counts) */
    bool own;    /* some tokens may bring their own embedding */
};
struct clip_pass {
    int32_t *ids; /* [n_tokens], to be filled before a run */
    /* [n_tokens]: the token's embedding [dim], or NULL: that of its id; NULL itself: none has one */
    const float **own;
    struct tensor hidden; /* [n_tokens, dim], pinned */
    struct tensor pooled; /* [n_tokens, pooled_dim], pinned */
};
struct clip_pass clip_record(const struct clip *m, struct program *p, struct clip_want want);
/* The row of the token whose projection stands for the text: that of the first end of text. */
int clip_pooled_row(const struct clip *m, const int32_t *ids, int n_tokens);
#endif
