/* AutoencoderKL: residual blocks at several resolutions, one attention over all pixels at the lowest. */
#include "engine/models/vae.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"

#define EPS 1e-6f

enum { MAX_STAGES = 8, MAX_LAYERS = 8, MAX_CHANNELS = 4096 };

struct stage {
    int n_layers;
    struct nn_resnet resnets[MAX_LAYERS + 1];
    struct nn_conv sampler; /* w NULL: none */
};

struct middle {
    struct nn_resnet resnets[2];
    struct nn_norm norm;
    struct nn_linear q, k, v, o; /* [c, c], one head */
};

struct half {
    struct nn_conv in, out;
    struct stage stages[MAX_STAGES];
    struct middle mid;
    struct nn_norm norm_out;
    struct nn_linear quant; /* 1x1, between the halves; w NULL: none */
};

struct vae {
    struct vae_info info;
    int n_stages, n_layers, n_groups;
    int channels[MAX_STAGES];
    bool attention, quant, post_quant;
    struct half encoder, decoder;
};

/* ---- configuration ---- */

static int check_types(const struct cJSON *config, const char *key, const char *only, struct err *e)
{
    const struct cJSON *v = json_get(config, key);
    for (const struct cJSON *item = json_first(v); item != NULL; item = json_next(item))
        if (json_str(item) == NULL || strcmp(json_str(item), only) != 0)
            return err_set(e, ERR_UNSUPPORTED, "vae: blocks of type %.40s are not built in",
                           json_str(item) != NULL ? json_str(item) : "?");
    return 0;
}

static int read_channels(struct vae *m, const struct cJSON *config, struct err *e)
{
    const struct cJSON *v = json_get(config, "block_out_channels"), *item = json_first(v);
    m->n_stages = json_size(v);
    if (json_type(v) != JSON_ARRAY || m->n_stages < 1 || m->n_stages > MAX_STAGES)
        return err_set(e, ERR_CORRUPT, "vae: block_out_channels is missing or has too many");
    for (int i = 0; i < m->n_stages; i++, item = json_next(item)) {
        if (!json_is_int(item) || json_num(item) < 1 || json_num(item) > MAX_CHANNELS ||
            (int)json_num(item) % m->n_groups != 0)
            return err_set(e, ERR_CORRUPT, "vae: block %d does not divide into %d groups", i,
                           m->n_groups);
        m->channels[i] = (int)json_num(item);
    }
    if (m->channels[m->n_stages - 1] > ATTN_MAX_HEAD_DIM)
        return err_set(e, ERR_UNSUPPORTED, "vae: attention with heads of %d is not built in",
                       m->channels[m->n_stages - 1]);
    m->info.scale = 1 << (m->n_stages - 1);
    return 0;
}

static int read_config(struct vae *m, const struct cJSON *config, struct err *e)
{
    int64_t layers = 1, latent = 4, groups = 32, in = 3, out = 3;
    m->info.scaling = 0.18215f;
    m->attention = m->quant = m->post_quant = m->info.force_upcast = true;
    const struct cJSON *mean = json_get(config, "latents_mean");
    if (json_type(mean) == JSON_ARRAY)
        return err_set(e, ERR_UNSUPPORTED, "vae: latents_mean is not built in");
    const char *act = NULL;
    int rc = json_get_str(config, "act_fn", &act, e);
    if (rc == 0 && act != NULL && strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return err_set(e, ERR_UNSUPPORTED, "vae: act_fn %.40s is not built in", act);
    if (rc == 0)
        rc = json_get_int(config, "layers_per_block", &layers, 1, MAX_LAYERS, e);
    if (rc == 0)
        rc = json_get_int(config, "latent_channels", &latent, 1, 64, e);
    if (rc == 0)
        rc = json_get_int(config, "norm_num_groups", &groups, 1, 4096, e);
    if (rc == 0)
        rc = json_get_int(config, "in_channels", &in, 3, 3, e);
    if (rc == 0)
        rc = json_get_int(config, "out_channels", &out, 3, 3, e);
    if (rc == 0)
        rc = json_get_float(config, "scaling_factor", &m->info.scaling, 1e-6, 1e6, e);
    if (rc == 0)
        rc = json_get_bool(config, "mid_block_add_attention", &m->attention, e);
    if (rc == 0)
        rc = json_get_bool(config, "force_upcast", &m->info.force_upcast, e);
    if (rc == 0)
        rc = json_get_bool(config, "use_quant_conv", &m->quant, e);
    if (rc == 0)
        rc = json_get_bool(config, "use_post_quant_conv", &m->post_quant, e);
    if (rc == 0)
        rc = check_types(config, "down_block_types", "DownEncoderBlock2D", e);
    if (rc == 0)
        rc = check_types(config, "up_block_types", "UpDecoderBlock2D", e);
    m->n_layers = (int)layers;
    m->n_groups = (int)groups;
    m->info.latent_channels = (int)latent;
    return rc == 0 ? read_channels(m, config, e) : rc;
}

/* ---- weights ---- */

static void walk_middle(struct nn_loader *l, const struct vae *m, struct middle *to, int c)
{
    size_t path = nn_push(l, "mid_block");
    for (int i = 0; i < 2; i++) {
        const size_t inner = nn_push(l, "resnets.%d", i);
        nn_load_resnet(l, &to->resnets[i], c, c, 0);
        nn_pop(l, inner);
    }
    if (m->attention) {
        const size_t inner = nn_push(l, "attentions.0");
        const bool old = nn_has(l, "query.weight"); /* files of 2022 */
        nn_load_norm(l, &to->norm, "group_norm", c);
        nn_load_linear(l, &to->q, old ? "query" : "to_q", c, c, NN_BIAS);
        nn_load_linear(l, &to->k, old ? "key" : "to_k", c, c, NN_BIAS);
        nn_load_linear(l, &to->v, old ? "value" : "to_v", c, c, NN_BIAS);
        nn_load_linear(l, &to->o, old ? "proj_attn" : "to_out.0", c, c, NN_BIAS);
        nn_pop(l, inner);
    }
    nn_pop(l, path);
}

/* n_layers residual blocks from c_in to c_out channels. */
static void walk_stage(struct nn_loader *l, struct stage *to, int n_layers, int c_in, int c_out)
{
    to->n_layers = n_layers;
    for (int i = 0; i < n_layers; i++) {
        const size_t path = nn_push(l, "resnets.%d", i);
        nn_load_resnet(l, &to->resnets[i], i == 0 ? c_in : c_out, c_out, 0);
        nn_pop(l, path);
    }
    to->sampler = (struct nn_conv){.kernel = 3, .c_in = c_out, .c_out = c_out};
}

static void walk_encoder(struct nn_loader *l, struct vae *m)
{
    struct half *to = &m->encoder;
    const int last = m->n_stages - 1, moments = 2 * m->info.latent_channels;
    const size_t path = nn_push(l, "encoder");
    to->in = (struct nn_conv){.kernel = 3, .c_in = 3, .c_out = m->channels[0]};
    to->out = (struct nn_conv){.kernel = 3, .c_in = m->channels[last], .c_out = moments};
    nn_load_conv(l, &to->in, "conv_in", NN_BIAS);
    for (int i = 0; i <= last; i++) {
        const size_t inner = nn_push(l, "down_blocks.%d", i);
        walk_stage(l, &to->stages[i], m->n_layers, m->channels[i > 0 ? i - 1 : 0], m->channels[i]);
        if (i < last)
            nn_load_conv(l, &to->stages[i].sampler, "downsamplers.0.conv", NN_BIAS);
        nn_pop(l, inner);
    }
    walk_middle(l, m, &to->mid, m->channels[last]);
    nn_load_norm(l, &to->norm_out, "conv_norm_out", m->channels[last]);
    nn_load_conv(l, &to->out, "conv_out", NN_BIAS);
    nn_pop(l, path);
    if (m->quant)
        nn_load_linear(l, &to->quant, "quant_conv", moments, moments, NN_BIAS);
}

static void walk_decoder(struct nn_loader *l, struct vae *m)
{
    struct half *to = &m->decoder;
    const int last = m->n_stages - 1, latent = m->info.latent_channels;
    if (m->post_quant)
        nn_load_linear(l, &to->quant, "post_quant_conv", latent, latent, NN_BIAS);
    const size_t path = nn_push(l, "decoder");
    to->in = (struct nn_conv){.kernel = 3, .c_in = latent, .c_out = m->channels[last]};
    to->out = (struct nn_conv){.kernel = 3, .c_in = m->channels[0], .c_out = 3};
    nn_load_conv(l, &to->in, "conv_in", NN_BIAS);
    walk_middle(l, m, &to->mid, m->channels[last]);
    for (int i = 0; i <= last; i++) {
        const size_t inner = nn_push(l, "up_blocks.%d", i);
        const int c_in = m->channels[i > 0 ? last - i + 1 : last];
        walk_stage(l, &to->stages[i], m->n_layers + 1, c_in, m->channels[last - i]);
        if (i < last)
            nn_load_conv(l, &to->stages[i].sampler, "upsamplers.0.conv", NN_BIAS);
        nn_pop(l, inner);
    }
    nn_load_norm(l, &to->norm_out, "conv_norm_out", m->channels[0]);
    nn_load_conv(l, &to->out, "conv_out", NN_BIAS);
    nn_pop(l, path);
}

static void walk(struct nn_loader *l, void *model)
{
    struct vae *m = model;
    m->info.has_encoder = nn_has(l, "encoder.conv_in.weight");
    if (m->info.has_encoder)
        walk_encoder(l, m);
    walk_decoder(l, m);
}

int vae_open(struct vae **out, struct nn_loader *l, struct err *e)
{
    struct vae *m = xcalloc(1, sizeof *m);
    int rc = read_config(m, checkpoint_config(l->c, l->part), e);
    if (rc == 0)
        rc = nn_load(l, walk, m);
    if (rc != 0) {
        vae_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void vae_close(struct vae *m)
{
    free(m);
}

const struct vae_info *vae_info(const struct vae *m)
{
    return &m->info;
}

/* ---- the passes ---- */

static struct nn_group group(const struct vae *m)
{
    return (struct nn_group){.n_groups = m->n_groups, .eps = EPS};
}

/* x + o(attention of group_norm(x)) over all pixels */
static struct tensor attention(const struct vae *m, const struct middle *mid, struct program *p,
                               const struct tensor *x)
{
    struct tensor h = nn_groupnorm(p, &mid->norm, x, group(m), ACT_NONE);
    struct tensor q = nn_like(p, x), k = nn_like(p, x), v = nn_like(p, x);
    const int pixels = (int)(x->dims[1] * x->dims[2]);
    nn_emit_linear(p, &(struct op_linear){.out = {&q, &k, &v},
                                          .w = {mid->q.w, mid->k.w, mid->v.w},
                                          .bias = {&mid->q.bias, &mid->k.bias, &mid->v.bias},
                                          .x = &h});
    nn_attn(p,
            &(struct nn_attn){.q = &q,
                              .k = &k,
                              .v = &v,
                              .out = &q,
                              .n = (int)x->dims[0],
                              .n_q = pixels,
                              .n_k = pixels,
                              .n_heads = 1,
                              .head_dim = (int)x->dims[3]},
            NULL);
    return nn_conv1x1(p, &mid->o, &q, x);
}

static struct tensor middle(const struct vae *m, const struct middle *mid, struct program *p,
                            struct tensor x)
{
    x = nn_resnet(p, &mid->resnets[0], &x, NULL, group(m));
    if (m->attention)
        x = attention(m, mid, p, &x);
    return nn_resnet(p, &mid->resnets[1], &x, NULL, group(m));
}

static struct tensor stages(const struct vae *m, const struct half *half, struct program *p,
                            struct tensor x, const struct nn_conv_with *sampler)
{
    for (int i = 0; i < m->n_stages; i++) {
        const struct stage *s = &half->stages[i];
        for (int k = 0; k < s->n_layers; k++)
            x = nn_resnet(p, &s->resnets[k], &x, NULL, group(m));
        if (s->sampler.w != NULL)
            x = nn_conv(p, &s->sampler, &x, sampler);
    }
    return x;
}

/* conv(silu(norm(x))), and the 1x1 after it where there is one; the result is pinned. */
static struct tensor finish(const struct vae *m, const struct half *half, struct program *p,
                            const struct tensor *x, const struct nn_linear *quant)
{
    struct tensor h = nn_groupnorm(p, &half->norm_out, x, group(m), ACT_SILU);
    struct tensor out = PROGRAM_PINNED(p, x->dims[0], x->dims[1], x->dims[2], half->out.c_out);
    struct tensor before = quant != NULL ? nn_like(p, &out) : out;
    nn_emit_conv(p, &(struct op_conv2d){.out = &before,
                                        .x = &h,
                                        .w = half->out.w,
                                        .bias = &half->out.bias,
                                        .kernel = 3,
                                        .stride = 1,
                                        .pad_before = 1,
                                        .pad_after = 1});
    if (quant != NULL)
        nn_emit_linear(p,
                       &(struct op_linear){
                           .out = {&out}, .w = {quant->w}, .bias = {&quant->bias}, .x = &before});
    return out;
}

struct tensor vae_decode(const struct vae *m, struct program *p, const struct tensor *latent)
{
    const struct half *d = &m->decoder;
    struct tensor x = *latent;
    if (m->post_quant)
        x = nn_conv1x1(p, &d->quant, &x, NULL);
    x = nn_conv(p, &d->in, &x, NULL);
    x = middle(m, &d->mid, p, x);
    x = stages(m, d, p, x, &(struct nn_conv_with){.upsample = true});
    return finish(m, d, p, &x, NULL);
}

struct tensor vae_encode(const struct vae *m, struct program *p, const struct tensor *picture)
{
    const struct half *en = &m->encoder;
    struct tensor x = nn_conv(p, &en->in, picture, NULL);
    x = stages(m, en, p, x, &(struct nn_conv_with){.stride = 2, .pad_after_only = true});
    x = middle(m, &en->mid, p, x);
    return finish(m, en, p, &x, m->quant ? &en->quant : NULL);
}
