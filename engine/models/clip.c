/* CLIP's text encoder, from the configuration to the pass (docs/MODELS.md has the formulas).
 *
 *     x = token[ids] + position
 *     the layers of clip_layers.h, causal
 *     hidden = final_norm(x) or x,  pooled = projection(final_norm(x)) */
#include "engine/models/clip.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/json.h"
#include "engine/models/clip_layers.h"

enum {
    POSITIONS = 77, /* of one chunk of a prompt */
    LEGACY_EOS = 2  /* in old configurations: the end is the highest id of the text */
};

struct clip {
    struct clip_layers layers;
    int dim, projection_dim;
    int64_t n_vocab, eos;
    bool projects;
    struct weight *token;   /* [n_vocab, dim] */
    struct tensor position; /* [POSITIONS, dim] */
    struct nn_norm final_norm;
    struct nn_linear projection; /* [projection_dim, dim], no bias */
};

static int read_config(struct clip *m, const struct cJSON *config, struct err *e)
{
    int64_t positions = POSITIONS, projection = 512;
    m->layers = (struct clip_layers){
        .n_layers = 12, .dim = 512, .n_ff = 2048, .n_heads = 8, .causal = true};
    m->eos = 49407;
    int rc = clip_layers_read(&m->layers, config, e);
    if (rc == 0)
        rc = json_get_int(config, "projection_dim", &projection, 1, CLIP_MAX_WIDTH, e);
    if (rc == 0)
        rc = json_get_int(config, "max_position_embeddings", &positions, POSITIONS, 1 << 16, e);
    if (rc == 0)
        rc = json_get_int(config, "eos_token_id", &m->eos, 0, INT32_MAX, e);
    m->dim = m->layers.dim;
    m->projection_dim = (int)projection;
    return rc;
}

static void walk(struct nn_loader *l, void *model)
{
    struct clip *m = model;
    const size_t path = nn_push(l, "text_model");
    nn_load_embedding(l, &m->token, "embeddings.token_embedding.weight", &m->n_vocab, m->dim);
    nn_load_table(l, &m->position, "embeddings.position_embedding.weight", POSITIONS, m->dim);
    clip_layers_walk(l, &m->layers);
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
    if (rc == 0)
        rc = nn_load(l, walk, m);
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
    clip_layers_free(&m->layers);
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
    return m->layers.n_layers;
}

/* ---- the pass ---- */

struct clip_pass clip_record(const struct clip *m, struct program *p, struct clip_want want)
{
    struct backend *be = program_backend(p);
    struct clip_pass pass = {0};
    struct tensor x = PROGRAM_TENSOR(p, want.n_tokens, m->dim), position = m->position;
    position.dims[0] = want.n_tokens;
    pass.ids = program_array(p, (size_t)want.n_tokens, sizeof *pass.ids);
    if (want.own)
        pass.own = program_array(p, (size_t)want.n_tokens, sizeof *pass.own);
    OP(be, embed, .out = &x, .w = m->token, .ids = pass.ids, .own = pass.own);
    OP(be, add, .out = &x, .a = &x, .b = &position);
    const int last = want.pooled ? m->layers.n_layers : want.n_layers;
    for (int i = 0; i < last; i++) {
        const bool wanted = i + 1 == want.n_layers;
        struct tensor y = wanted ? PROGRAM_PINNED(p, want.n_tokens, m->dim) : nn_like(p, &x);
        clip_layers_record(&m->layers, p, i, &x, &y);
        x = y;
        if (!wanted)
            continue;
        pass.hidden = want.final_norm ? PROGRAM_PINNED(p, want.n_tokens, m->dim) : y;
        if (want.final_norm)
            OP(be, layernorm, .out = &pass.hidden, .x = &y, .w = &m->final_norm.w,
               .bias = &m->final_norm.bias, .eps = m->layers.eps);
    }
    if (want.pooled) {
        struct tensor h = nn_layernorm(p, &m->final_norm, &x, m->layers.eps);
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
