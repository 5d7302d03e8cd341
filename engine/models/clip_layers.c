/* CLIP's transformer layers. */
#include "engine/models/clip_layers.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"

static int read_act(struct clip_layers *m, const struct cJSON *config, struct err *e)
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
        return err_set(e, ERR_UNSUPPORTED, "a CLIP encoder with the activation '%.40s'", name);
    return 0;
}

int clip_layers_read(struct clip_layers *m, const struct cJSON *config, struct err *e)
{
    const struct {
        const char *key;
        int *to;
        int64_t max;
    } ints[] = {
        {"num_hidden_layers", &m->n_layers, CLIP_MAX_LAYERS},
        {"hidden_size", &m->dim, CLIP_MAX_WIDTH},
        {"intermediate_size", &m->n_ff, 8 * CLIP_MAX_WIDTH},
        {"num_attention_heads", &m->n_heads, 1024},
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof ints / sizeof *ints && rc == 0; i++) {
        int64_t wide = *ints[i].to;
        rc = json_get_int(config, ints[i].key, &wide, 1, ints[i].max, e);
        *ints[i].to = (int)wide;
    }
    m->eps = 1e-5f;
    if (rc == 0)
        rc = json_get_float(config, "layer_norm_eps", &m->eps, 0, 1, e);
    if (rc == 0)
        rc = read_act(m, config, e);
    if (rc == 0 && (m->dim % m->n_heads != 0 || m->dim / m->n_heads > ATTN_MAX_HEAD_DIM))
        rc = err_set(e, ERR_CORRUPT, "a CLIP encoder of width %d does not divide into %d heads",
                     m->dim, m->n_heads);
    if (rc == 0)
        m->layers = xcalloc((size_t)m->n_layers, sizeof *m->layers);
    return rc;
}

void clip_layers_free(struct clip_layers *m)
{
    free(m->layers);
    m->layers = NULL;
}

static void walk_layer(struct nn_loader *l, struct clip_layers *m, int i)
{
    struct clip_layer *to = &m->layers[i];
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

void clip_layers_walk(struct nn_loader *l, struct clip_layers *m)
{
    for (int i = 0; i < m->n_layers; i++)
        walk_layer(l, m, i);
}

void clip_layers_record(const struct clip_layers *m, struct program *p, int i,
                        const struct tensor *x, struct tensor *y)
{
    const struct clip_layer *l = &m->layers[i];
    struct backend *be = program_backend(p);
    struct tensor h = nn_layernorm(p, &l->norm1, x, m->eps);
    struct tensor q = nn_like(p, x), k = nn_like(p, x), v = nn_like(p, x), att = nn_like(p, x);
    nn_emit_linear(p, &(struct op_linear){.out = {&q, &k, &v},
                                          .w = {l->q.w, l->k.w, l->v.w},
                                          .bias = {&l->q.bias, &l->k.bias, &l->v.bias},
                                          .x = &h});
    nn_attn(p,
            &(struct nn_attn){.q = &q,
                              .k = &k,
                              .v = &v,
                              .out = &att,
                              .n = 1,
                              .n_q = (int)x->dims[0],
                              .n_k = (int)x->dims[0],
                              .n_heads = m->n_heads,
                              .head_dim = m->dim / m->n_heads,
                              .causal = m->causal},
            NULL);
    struct tensor mid = nn_linear(p, &l->o, &att, x);
    h = nn_layernorm(p, &l->norm2, &mid, m->eps);
    h = nn_linear(p, &l->fc1, &h, NULL);
    OP(be, act, .out = &h, .x = &h, .act = m->act);
    nn_emit_linear(p,
                   &(struct op_linear){
                       .out = {y}, .w = {l->fc2.w}, .bias = {&l->fc2.bias}, .x = &h, .add = &mid});
}
