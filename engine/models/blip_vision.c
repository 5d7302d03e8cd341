/* BLIP's vision transformer (Dosovitskiy et al. 2021), as a recorded pass for one picture.
 *
 *     x = [class, conv(pixels)] + position        vit.h
 *     x += o(attention(q, k, v of norm1(x)))
 *     x += fc2(gelu(fc1(norm2(x))))              for each layer
 *     seen = norm(x) */
#include "engine/models/blip_int.h"

/* ---- weights ---- */

static void walk_layer(struct nn_loader *l, struct blip_vision *v, int i)
{
    struct blip_vision_layer *to = &v->layers[i];
    const size_t path = nn_push(l, "encoder.layers.%d", i);
    nn_load_norm(l, &to->norm1, "layer_norm1", v->dim);
    nn_load_split(l, to->qkv, "self_attn.qkv",
                  &(struct nn_split){.n = 3, .n_out = v->dim, .n_in = v->dim, .bias = NN_BIAS});
    nn_load_linear(l, &to->o, "self_attn.projection", v->dim, v->dim, NN_BIAS);
    nn_load_norm(l, &to->norm2, "layer_norm2", v->dim);
    nn_load_linear(l, &to->fc1, "mlp.fc1", v->n_ff, v->dim, NN_BIAS);
    nn_load_linear(l, &to->fc2, "mlp.fc2", v->dim, v->n_ff, NN_BIAS);
    nn_pop(l, path);
}

void blip_vision_walk(struct nn_loader *l, struct blip_vision *v)
{
    const size_t path = nn_push(l, "vision_model");
    nn_load_rows(l, &v->in.class, "embeddings.class_embedding", 1, v->dim);
    nn_load_rows(l, &v->in.position, "embeddings.position_embedding", v->in.n_tokens, v->dim);
    nn_load_conv(l, &v->in.conv, "embeddings.patch_embedding", NN_BIAS);
    for (int i = 0; i < v->n_layers; i++)
        walk_layer(l, v, i);
    nn_load_norm(l, &v->norm, "post_layernorm", v->dim);
    nn_pop(l, path);
}

/* ---- the pass ---- */

static struct tensor record_layer(const struct blip_vision *v, struct program *p, int i,
                                  const struct tensor *x)
{
    const struct blip_vision_layer *l = &v->layers[i];
    struct tensor h = nn_layernorm(p, &l->norm1, x, v->eps);
    struct tensor q = nn_like(p, x), k = nn_like(p, x), val = nn_like(p, x), att = nn_like(p, x);
    nn_emit_linear(p,
                   &(struct op_linear){.out = {&q, &k, &val},
                                       .w = {l->qkv[0].w, l->qkv[1].w, l->qkv[2].w},
                                       .bias = {&l->qkv[0].bias, &l->qkv[1].bias, &l->qkv[2].bias},
                                       .x = &h});
    nn_attn(p,
            &(struct nn_attn){.q = &q,
                              .k = &k,
                              .v = &val,
                              .out = &att,
                              .n = 1,
                              .n_q = v->in.n_tokens,
                              .n_k = v->in.n_tokens,
                              .n_heads = v->n_heads,
                              .head_dim = v->dim / v->n_heads},
            NULL);
    struct tensor mid = nn_linear(p, &l->o, &att, x);
    h = nn_layernorm(p, &l->norm2, &mid, v->eps);
    h = nn_linear(p, &l->fc1, &h, NULL);
    OP(program_backend(p), act, .out = &h, .x = &h, .act = v->act);
    return nn_linear(p, &l->fc2, &h, &mid);
}

static void record(struct program *p, void *arg)
{
    struct blip *m = arg;
    struct blip_vision *v = &m->vision;
    v->pixels = PROGRAM_PINNED(p, 1, v->in.size, v->in.size, 3);
    v->seen = PROGRAM_PINNED(p, v->in.n_tokens, v->dim);
    struct tensor x = vit_patches_record(&v->in, p, &v->pixels);
    for (int i = 0; i < v->n_layers; i++)
        x = record_layer(v, p, i, &x);
    OP(program_backend(p), layernorm, .out = &v->seen, .x = &x, .w = &v->norm.w,
       .bias = &v->norm.bias, .eps = v->eps);
}

int blip_vision_open(struct blip *m, struct err *e)
{
    int rc = program_open(&m->vision.pass, m->be, record, m, e);
    if (rc != 0)
        return rc;
    m->vision.host_pixels = program_host(m->vision.pass, &m->vision.pixels, PROGRAM_IN);
    if (m->vision.host_pixels == NULL)
        rc = err_set(e, ERR_NOMEM, "no memory for pixels");
    else
        m->base.weight_bytes += program_memory(m->vision.pass);
    return rc;
}

void blip_vision_pixels(struct blip *m, const uint8_t *rgb)
{
    const struct blip_vision *v = &m->vision;
    const size_t n = (size_t)v->in.size * (size_t)v->in.size;
    vit_pixels_fill(&v->colours, rgb, n, v->host_pixels);
}
