/* CLIP's text encoder, from the configuration to the pass (docs/MODELS.md has the formulas).
 *
 *     x = token[ids] + position
 *     x += o(attention(q, k, v of norm1(x)))     causal
 *     x += fc2(act(fc1(norm2(x))))               for each layer
 *     hidden = final_norm(x) or x,  pooled = projection(final_norm(x)) */
#include "engine/models/clip.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"

enum {
    POSITIONS = 77, /* of one chunk of a prompt */
    MAX_LAYERS = 128,
    MAX_WIDTH = 1 << 14,
    LEGACY_EOS = 2 /* in old configurations: the end is the highest id of the text */
};

struct layer {
    struct nn_norm norm1, norm2;
    struct nn_linear q, k, v, o; /* [dim, dim] */
    struct nn_linear fc1, fc2;   /* [n_ff, dim], [dim, n_ff] */
};

struct clip {
    int n_layers, dim, n_ff, n_heads, projection_dim;
    int64_t n_vocab, eos;
    float eps;
    enum act act;
    bool projects;
    struct weight *token;   /* [n_vocab, dim] */
    struct tensor position; /* [POSITIONS, dim] */
    struct layer *layers;
    struct nn_norm final_norm;
    struct nn_linear projection; /* [projection_dim, dim], no bias */
};

static int read_act(struct clip *m, const struct cJSON *config, struct err *e)
{
    const char *name = "quick_gelu";
    int rc = json_get_str(config, "hidden_act", &name, e);
    if (rc != 0)
        return rc;
    if (strcmp(name, "quick_gelu") == 0)
        m->act = ACT_QUICK_GELU;
    else if (strcmp(name, "gelu") == 0)
        m->act = ACT_GELU;
    else if (strcmp(name, "gelu_new") == 0 || strcmp(name, "gelu_pytorch_tanh") == 0)
        m->act = ACT_GELU_TANH;
    else
        return err_set(e, ERR_UNSUPPORTED, "a text encoder with the activation '%.40s'", name);
    return 0;
}

static int read_config(struct clip *m, const struct cJSON *config, struct err *e)
{
    const struct {
        const char *key;
        int *to;
        int64_t standard, max;
    } ints[] = {
        {"num_hidden_layers", &m->n_layers, 12, MAX_LAYERS},
        {"hidden_size", &m->dim, 512, MAX_WIDTH},
        {"intermediate_size", &m->n_ff, 2048, 8 * MAX_WIDTH},
        {"num_attention_heads", &m->n_heads, 8, 1024},
        {"projection_dim", &m->projection_dim, 512, MAX_WIDTH},
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof ints / sizeof *ints && rc == 0; i++) {
        int64_t wide = ints[i].standard;
        rc = json_get_int(config, ints[i].key, &wide, 1, ints[i].max, e);
        *ints[i].to = (int)wide;
    }
    int64_t positions = POSITIONS;
    m->eos = 49407;
    m->eps = 1e-5f;
    if (rc == 0)
        rc = json_get_int(config, "max_position_embeddings", &positions, POSITIONS, 1 << 16, e);
    if (rc == 0)
        rc = json_get_int(config, "eos_token_id", &m->eos, 0, INT32_MAX, e);
    if (rc == 0)
        rc = json_get_float(config, "layer_norm_eps", &m->eps, 0, 1, e);
    if (rc == 0)
        rc = read_act(m, config, e);
    if (rc == 0 && (m->dim % m->n_heads != 0 || m->dim / m->n_heads > ATTN_MAX_HEAD_DIM))
        rc = err_set(e, ERR_CORRUPT, "a text encoder of width %d does not divide into %d heads",
                     m->dim, m->n_heads);
    return rc;
}

static void walk_layer(struct nn_loader *l, struct clip *m, int i)
{
    struct layer *to = &m->layers[i];
    const size_t path = nn_push(l, "encoder.layers.%d", i);
    nn_load_norm(l, &to->norm1, "layer_norm1", m->dim);
    nn_load_linear(l, &to->q, "self_attn.q_proj", m->dim, m->dim, NN_BIAS);
    nn_load_linear(l, &to->k, "self_attn.k_proj", m->dim, m->dim, NN_BIAS);
    nn_load_linear(l, &to->v, "self_attn.v_proj", m->dim, m->dim, NN_BIAS);
    nn_load_linear(l, &to->o, "self_attn.out_proj", m->dim, m->dim, NN_BIAS);
    nn_load_norm(l, &to->norm2, "layer_norm2", m->dim);
    nn_load_linear(l, &to->fc1, "mlp.fc1", m->n_ff, m->dim, NN_BIAS);
    nn_load_linear(l, &to->fc2, "mlp.fc2", m->dim, m->n_ff, NN_BIAS);
    nn_pop(l, path);
}

static void walk(struct nn_loader *l, void *model)
{
    struct clip *m = model;
    const size_t path = nn_push(l, "text_model");
    nn_load_embedding(l, &m->token, "embeddings.token_embedding.weight", &m->n_vocab, m->dim);
    nn_load_table(l, &m->position, "embeddings.position_embedding.weight", POSITIONS, m->dim);
    for (int i = 0; i < m->n_layers; i++)
        walk_layer(l, m, i);
    nn_load_norm(l, &m->final_norm, "final_layer_norm", m->dim);
    nn_pop(l, path);
    m->projects = nn_has(l, "text_projection.weight");
    if (m->projects)
        nn_load_linear(l, &m->projection, "text_projection", m->projection_dim, m->dim, NN_NO_BIAS);
    nn_ignore(l, "logit_scale");
}

int clip_open(struct clip **out, struct nn_loader *l, struct err *e)
{
    struct clip *m = xcalloc(1, sizeof *m);
    int rc = read_config(m, checkpoint_config(l->c, l->part), e);
    if (rc == 0) {
        m->layers = xcalloc((size_t)m->n_layers, sizeof *m->layers);
        rc = nn_load(l, walk, m);
    }
    if (rc != 0) {
        clip_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void clip_close(struct clip *m)
{
    if (m == NULL)
        return;
    free(m->layers);
    free(m);
}

int clip_n_vocab(const struct clip *m)
{
    return (int)m->n_vocab;
}

int clip_dim(const struct clip *m)
{
    return m->dim;
}

int clip_pooled_dim(const struct clip *m)
{
    return m->projects ? m->projection_dim : 0;
}

int clip_n_layers(const struct clip *m)
{
    return m->n_layers;
}

/* ---- the pass ---- */

/* y: its own tensor. */
static void record_layer(const struct clip *m, struct program *p, int i, const struct tensor *x,
                         struct tensor *y)
{
    const struct layer *l = &m->layers[i];
    struct backend *be = program_backend(p);
    struct tensor h = nn_layernorm(p, &l->norm1, x, m->eps);
    struct tensor q = nn_like(p, x), k = nn_like(p, x), v = nn_like(p, x), att = nn_like(p, x);
    nn_emit_linear(p, &(struct op_linear){.out = {&q, &k, &v},
                                          .w = {l->q.w, l->k.w, l->v.w},
                                          .bias = {&l->q.bias, &l->k.bias, &l->v.bias},
                                          .x = &h});
    nn_attn(p,
            &(struct nn_attn){.q = q.data,
                              .k = k.data,
                              .v = v.data,
                              .out = att.data,
                              .n = 1,
                              .n_q = (int)x->dims[0],
                              .n_k = (int)x->dims[0],
                              .n_heads = m->n_heads,
                              .head_dim = m->dim / m->n_heads,
                              .causal = true},
            NULL);
    struct tensor mid = nn_linear(p, &l->o, &att, x);
    h = nn_layernorm(p, &l->norm2, &mid, m->eps);
    h = nn_linear(p, &l->fc1, &h, NULL);
    OP(be, act, .out = &h, .x = &h, .act = m->act);
    nn_emit_linear(p,
                   &(struct op_linear){
                       .out = {y}, .w = {l->fc2.w}, .bias = {&l->fc2.bias}, .x = &h, .add = &mid});
}

struct clip_pass clip_record(const struct clip *m, struct program *p, struct clip_want want)
{
    struct backend *be = program_backend(p);
    struct clip_pass pass = {0};
    struct tensor x = PROGRAM_TENSOR(p, want.n_tokens, m->dim), position = m->position;
    position.dims[0] = want.n_tokens;
    pass.ids = program_array(p, (size_t)want.n_tokens, sizeof *pass.ids);
    OP(be, embed, .out = &x, .w = m->token, .ids = pass.ids);
    OP(be, add, .out = &x, .a = &x, .b = &position);
    const int last = want.pooled ? m->n_layers : want.n_layers;
    for (int i = 0; i < last; i++) {
        const bool wanted = i + 1 == want.n_layers;
        struct tensor y = wanted ? PROGRAM_PINNED(p, want.n_tokens, m->dim) : nn_like(p, &x);
        record_layer(m, p, i, &x, &y);
        x = y;
        if (!wanted)
            continue;
        pass.hidden = want.final_norm ? PROGRAM_PINNED(p, want.n_tokens, m->dim) : y;
        if (want.final_norm)
            OP(be, layernorm, .out = &pass.hidden, .x = &y, .w = &m->final_norm.w,
               .bias = &m->final_norm.bias, .eps = m->eps);
    }
    if (want.pooled) {
        struct tensor h = nn_layernorm(p, &m->final_norm, &x, m->eps);
        pass.pooled = PROGRAM_PINNED(p, want.n_tokens, m->projection_dim);
        nn_emit_linear(p,
                       &(struct op_linear){.out = {&pass.pooled}, .w = {m->projection.w}, .x = &h});
    }
    return pass;
}

int clip_pooled_row(const struct clip *m, const int32_t *ids, int n_tokens)
{
    int at = 0;
    for (int i = 1; i < n_tokens && m->eos == LEGACY_EOS; i++)
        if (ids[i] > ids[at])
            at = i;
    if (m->eos == LEGACY_EOS)
        return at;
    for (int i = 0; i < n_tokens; i++)
        if (ids[i] == m->eos)
            return i;
    return 0;
}
