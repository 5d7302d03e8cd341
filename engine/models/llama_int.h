/* LLaMA's configuration, weights and scratch, for the files that make it up: llama.c (a model on one device, or
 * one device's share of it) and llama_team.c (the shares together).
 * Thread: engine. */
#ifndef ENGINE_MODELS_LLAMA_INT_H
#define ENGINE_MODELS_LLAMA_INT_H
#include "engine/models/llama.h"
#include "engine/models/rope_freq.h"

struct llama_config {
    int n_vocab, n_layers, n_embd, n_ff;
    int n_heads, n_kv_heads, head_dim;
    int window; /* sliding window of attention, 0: none */
    float eps, scale;
    struct rope_freq rope;
};

struct llama_layer {
    struct tensor attn_norm, ffn_norm; /* [n_embd] */
    struct weight *q, *k, *v, *o;      /* see walk_layer for shapes */
    struct weight *gate, *up, *down;
    struct tensor q_bias, k_bias, v_bias, o_bias; /* data NULL: none */
    struct tensor gate_bias, up_bias, down_bias;
};

/* Which part of the model this is: some heads of attention with their keys and values, some columns of the
 * feed-forward; norms whole; embeddings, output and the biases behind sums only in the first. */
struct llama_share {
    int rank, n;     /* n 1: all of it; each has as many heads */
    int n_ff, ff_at; /* of all shares together; the first column */
};

struct llama {
    struct text_model base; /* first */
    struct backend *be;
    struct llama_share share;
    struct llama_config c;     /* of the share: heads, n_ff */
    struct weight *embd;       /* [n_vocab, n_embd] */
    struct weight *output;     /* [n_vocab, n_embd]; embd itself when tied */
    struct tensor output_norm; /* [n_embd] */
    struct llama_layer *layers;
    enum dtype kv_type;
    int max_rows, max_logits;
    /* One step: x [max_rows, n_embd], q, att [max_rows, n_heads * head_dim], k, v [max_rows,
     * n_kv_heads * head_dim], gate, up [max_rows, n_ff], last [max_logits, n_embd], logits [max_logits,
     * n_vocab] where the caller's are not in the device's memory (else NULL) */
    float *x, *q, *att, *k, *v, *gate, *up, *last, *logits;
    /* [share.n, max_rows, n_embd] what each share adds to x; NULL: there is but one. */
    float *parts;
};

/* Rows [at, at + n) of a step. */
struct llama_rows {
    int64_t at, n;
};

int llama_open_share(struct llama **out, struct gguf *g, struct backend *be,
                     const struct model_options *o, struct llama_share share, struct err *e);
void llama_close(struct text_model *base);
int llama_check_batch(const struct llama *m, const struct text_batch *b, struct err *e);
struct tensor llama_tensor(float *data, int64_t rows, int64_t dim);
/* Where what share `rank` adds to these rows lies: [rows.n, n_embd].  Rows that begin at 0 and those that begin
 * where they end do not touch each other's. */
struct tensor llama_part(const struct llama *m, int rank, struct llama_rows rows);
/* Attention and feed-forward of layer i: x += f(x), or with several shares part = f(x), to which the first one's
 * adds x.  llama_attention ends after the keys and values where nobody wants more: false. */
bool llama_attention(struct llama *m, int i, char *kv_base, const struct text_batch *b,
                     struct llama_rows rows);
void llama_feed_forward(struct llama *m, int i, struct llama_rows rows);
void llama_logits(struct llama *m, const struct text_batch *b);

/* llama_team.c: the model on be->team. */
int llama_team_open(struct text_model **out, struct gguf *g, struct backend *be,
                    const struct model_options *o, struct err *e);
#endif
