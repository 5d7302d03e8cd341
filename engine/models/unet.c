/* The UNet's configuration (config.json as diffusers writes it) and its weights.  What this network could
 * also be but is not built in is refused by the value of the key that says so. */
#include "engine/models/unet.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"

enum { MAX_CHANNELS = 1 << 14, MAX_HEADS = 1024, MAX_GROUPS = 1 << 12, MAX_CLASSES = 1 << 16 };

/* ---- configuration ---- */

/* Keys whose only supported value is the default. */
static int refuse_foreign(const struct cJSON *config, struct err *e)
{
    static const struct {
        const char *key, *only; /* NULL: null; else this string */
    } keys[] = {
        {"encoder_hid_dim_type", NULL},
        {"encoder_hid_dim", NULL},
        {"class_embed_type", NULL},
        {"time_embedding_act_fn", NULL},
        {"timestep_post_act", NULL},
        {"cross_attention_norm", NULL},
        {"act_fn", "silu"},
        {"resnet_time_scale_shift", "default"},
        {"time_embedding_type", "positional"},
        {"attention_type", "default"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const struct cJSON *v = json_get(config, keys[i].key);
        if (json_type(v) == JSON_NULL)
            continue;
        const char *s = json_str(v);
        if (keys[i].only == NULL || s == NULL || strcmp(s, keys[i].only) != 0)
            return err_set(e, ERR_UNSUPPORTED, "unet: %s %.60s is not built in", keys[i].key,
                           s != NULL ? s : "with a value");
    }
    static const char *const flags[] = {"center_input_sample", "dual_cross_attention",
                                        "resnet_skip_time_act", "class_embeddings_concat"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool on = false;
        int rc = json_get_bool(config, flags[i], &on, e);
        if (rc != 0)
            return rc;
        if (on)
            return err_set(e, ERR_UNSUPPORTED, "unet: %s is not built in", flags[i]);
    }
    static const char *const ones[] = {"mid_block_scale_factor", "resnet_out_scale_factor"};
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++) {
        const struct cJSON *v = json_get(config, ones[i]);
        if (json_type(v) != JSON_NULL && json_num(v) != 1)
            return err_set(e, ERR_UNSUPPORTED, "unet: %s other than 1 is not built in", ones[i]);
    }
    return 0;
}

static int read_int(const struct cJSON *config, const char *key, int *to, int64_t min, int64_t max,
                    struct err *e)
{
    int64_t wide = *to;
    int rc = json_get_int(config, key, &wide, min, max, e);
    *to = (int)wide;
    return rc;
}

static int bad_list(const char *key, struct err *e)
{
    return err_set(e, ERR_CORRUPT, "unet: %s is not what the number of blocks wants", key);
}

/* A list of n integers, or one that stands for all; absent or null: *to stays. */
static int read_list(const struct cJSON *v, const char *key, int n, int max, int *to, struct err *e)
{
    if (json_type(v) == JSON_NULL)
        return 0;
    bool list = json_type(v) == JSON_ARRAY;
    if (list && json_size(v) != n)
        return bad_list(key, e);
    const struct cJSON *item = list ? json_first(v) : v;
    for (int i = 0; i < n; i++) {
        if (!json_is_int(item) || json_num(item) < 0 || json_num(item) > max)
            return bad_list(key, e);
        to[i] = (int)json_num(item);
        item = list ? json_next(item) : item;
    }
    return 0;
}

static int read_types(struct unet_config *c, const struct cJSON *config, const char *key, bool *to,
                      struct err *e)
{
    const struct cJSON *v = json_get(config, key), *item = json_first(v);
    if (json_type(v) != JSON_ARRAY || json_size(v) != c->n_stages)
        return bad_list(key, e);
    for (int i = 0; i < c->n_stages; i++, item = json_next(item)) {
        const char *s = json_str(item) != NULL ? json_str(item) : "";
        to[i] = strcmp(s, "CrossAttnDownBlock2D") == 0 || strcmp(s, "CrossAttnUpBlock2D") == 0;
        if (!to[i] && strcmp(s, "DownBlock2D") != 0 && strcmp(s, "UpBlock2D") != 0)
            return err_set(e, ERR_UNSUPPORTED, "unet: blocks of type %.40s are not built in", s);
    }
    return 0;
}

static int read_mid(struct unet_config *c, const struct cJSON *config, struct err *e)
{
    const struct cJSON *v = json_get(config, "mid_block_type");
    const char *s = json_str(v);
    c->mid = c->mid_attn = true;
    if (v != NULL && s == NULL)
        c->mid = c->mid_attn = false;
    else if (s != NULL && strcmp(s, "UNetMidBlock2D") == 0)
        c->mid_attn = false;
    else if (s != NULL && strcmp(s, "UNetMidBlock2DCrossAttn") != 0)
        return err_set(e, ERR_UNSUPPORTED, "unet: a middle of type %.40s is not built in", s);
    return 0;
}

/* Transformer blocks of each attention: a number, one a stage, or a list for each stage. */
static int read_depths(struct unet_config *c, const struct cJSON *config, struct err *e)
{
    const char *key = "transformer_layers_per_block";
    const struct cJSON *v = json_get(config, key);
    const struct cJSON *back = json_get(config, "reverse_transformer_layers_per_block");
    const bool list = json_type(v) == JSON_ARRAY, has_back = json_type(back) == JSON_ARRAY;
    if ((list && json_size(v) != c->n_stages) || (has_back && json_size(back) != c->n_stages))
        return bad_list(key, e);
    const struct cJSON *item = list ? json_first(v) : v, *up = json_first(back);
    for (int i = 0; i < c->n_stages; i++) {
        const int mirror = c->n_stages - 1 - i;
        for (int k = 0; k < UNET_MAX_LAYERS; k++)
            c->depth[i][k] = 1;
        int rc = read_list(item, key, c->n_layers[i], UNET_MAX_DEPTH, c->depth[i], e);
        for (int k = 0; k < UNET_MAX_LAYERS; k++)
            c->up_depth[mirror][k] = c->depth[i][0];
        if (rc == 0 && json_type(item) == JSON_ARRAY && !has_back)
            return bad_list(key, e);
        if (rc != 0)
            return rc;
        item = list ? json_next(item) : item;
    }
    for (int i = 0; i < c->n_stages && has_back; i++, up = json_next(up)) {
        int rc = read_list(up, key, c->n_layers[c->n_stages - 1 - i] + 1, UNET_MAX_DEPTH,
                           c->up_depth[i], e);
        if (rc != 0)
            return rc;
    }
    const int last = c->n_stages - 1;
    c->mid_depth = c->depth[last][0];
    return 0;
}

static int read_only_text(struct unet_config *c, const struct cJSON *config, struct err *e)
{
    const char *key = "only_cross_attention";
    const struct cJSON *v = json_get(config, key), *item = json_first(v);
    if (json_type(v) == JSON_ARRAY && json_size(v) != c->n_stages)
        return bad_list(key, e);
    for (int i = 0; i < c->n_stages; i++) {
        c->only_text[i] = json_bool(json_type(v) == JSON_ARRAY ? item : v);
        item = json_next(item);
    }
    return 0; /* mid_block_only_cross_attention is of a kind of middle that is refused */
}

/* A network without a place for the prompt is of a pipeline that is not served. */
static int check_text(const struct unet_config *c, struct err *e)
{
    bool looks = c->half || c->mid_attn;
    for (int i = 0; i < c->n_stages; i++)
        looks = looks || c->down_attn[i] || c->up_attn[i];
    return looks ? 0 : err_set(e, ERR_UNSUPPORTED, "unet: no block of it looks at the text");
}

static int read_stages(struct unet_config *c, const struct cJSON *config, struct err *e)
{
    const struct cJSON *v = json_get(config, "block_out_channels");
    c->n_stages = json_size(v);
    if (json_type(v) != JSON_ARRAY || c->n_stages < 1 || c->n_stages > UNET_MAX_STAGES)
        return err_set(e, ERR_CORRUPT, "unet: block_out_channels is missing or has too many");
    const int n = c->n_stages;
    int rc = read_list(v, "block_out_channels", n, MAX_CHANNELS, c->channels, e);
    for (int i = 0; i < n; i++) {
        c->n_layers[i] = 2;
        c->n_heads[i] = 8;
    }
    if (rc == 0)
        rc = read_types(c, config, "down_block_types", c->down_attn, e);
    if (rc == 0 && !c->half)
        rc = read_types(c, config, "up_block_types", c->up_attn, e);
    if (rc == 0)
        rc = read_list(json_get(config, "layers_per_block"), "layers_per_block", n,
                       UNET_MAX_LAYERS - 1, c->n_layers, e);
    /* What the key calls the dimension of a head is the number of heads. */
    if (rc == 0)
        rc = read_list(json_get(config, "attention_head_dim"), "attention_head_dim", n, MAX_HEADS,
                       c->n_heads, e);
    if (rc == 0)
        rc = read_list(json_get(config, "num_attention_heads"), "num_attention_heads", n, MAX_HEADS,
                       c->n_heads, e);
    if (rc == 0)
        rc = read_depths(c, config, e);
    if (rc == 0)
        rc = read_only_text(c, config, e);
    if (rc == 0)
        rc = read_mid(c, config, e);
    return rc == 0 ? check_text(c, e) : rc;
}

static int read_added(struct unet_config *c, const struct cJSON *config, struct err *e)
{
    const char *type = NULL;
    int wide = 0;
    int rc = json_get_str(config, "addition_embed_type", &type, e);
    if (rc != 0 || type == NULL)
        return rc;
    if (strcmp(type, "text_time") != 0)
        return err_set(e, ERR_UNSUPPORTED, "unet: addition_embed_type %.40s is not built in", type);
    rc = read_int(config, "addition_time_embed_dim", &c->added_dim, 2, MAX_CHANNELS, e);
    if (rc == 0)
        rc = read_int(config, "projection_class_embeddings_input_dim", &wide, 1, NN_MAX_DIM, e);
    if (rc != 0)
        return rc;
    c->pooled_dim = wide - c->n_time_ids * c->added_dim;
    if (c->added_dim < 2 || c->added_dim % 2 != 0 || c->pooled_dim < 1)
        return err_set(e, ERR_CORRUPT, "unet: an added embedding of %d with time ids of %d", wide,
                       c->added_dim);
    return 0;
}

/* Every size that the kernels will divide by. */
static int check_sizes(const struct unet_config *c, struct err *e)
{
    for (int i = 0; i < c->n_stages; i++) {
        const int ch = c->channels[i];
        if (ch < 1 || c->n_layers[i] < 1 || ch % c->n_groups != 0)
            return err_set(e, ERR_CORRUPT, "unet: block %d with %d channels in %d groups", i, ch,
                           c->n_groups);
        if (c->n_heads[i] < 1 || ch % c->n_heads[i] != 0 || ch / c->n_heads[i] > ATTN_MAX_HEAD_DIM)
            return err_set(e, ERR_CORRUPT, "unet: block %d with %d channels in %d heads", i, ch,
                           c->n_heads[i]);
    }
    if (c->channels[0] % 2 != 0 || c->guidance_dim % 2 != 0)
        return err_set(e, ERR_CORRUPT, "unet: an odd width of the time embedding");
    return 0;
}

static int read_config(struct unet_config *c, const struct cJSON *config, bool half, struct err *e)
{
    *c = (struct unet_config){.half = half,
                              .n_time_ids = c->n_time_ids,
                              .in_channels = 4,
                              .out_channels = 4,
                              .context_dim = 1280,
                              .sample_size = 64,
                              .n_groups = 32,
                              .conv_in_kernel = 3,
                              .conv_out_kernel = 3,
                              .flip_sin_to_cos = true,
                              .eps = 1e-5f};
    int padding = 1;
    int rc = refuse_foreign(config, e);
    if (rc == 0)
        rc = read_stages(c, config, e);
    if (rc != 0)
        return rc;
    c->time_dim = 4 * c->channels[0];
    const struct {
        const char *key;
        int *to, min, max;
    } ints[] = {
        {"in_channels", &c->in_channels, 1, 64},
        {"out_channels", &c->out_channels, 1, 64},
        {"norm_num_groups", &c->n_groups, 1, MAX_GROUPS},
        {"conv_in_kernel", &c->conv_in_kernel, 1, 7},
        {"conv_out_kernel", &c->conv_out_kernel, 1, 7},
        {"downsample_padding", &padding, 0, 1},
        {"time_embedding_dim", &c->time_dim, 2, MAX_CHANNELS},
        {"time_cond_proj_dim", &c->guidance_dim, 1, MAX_CHANNELS},
        {"num_class_embeds", &c->n_classes, 1, MAX_CLASSES},
    };
    for (size_t i = 0; i < sizeof ints / sizeof *ints && rc == 0; i++)
        rc = read_int(config, ints[i].key, ints[i].to, ints[i].min, ints[i].max, e);
    const struct cJSON *context = json_get(config, "cross_attention_dim");
    int dims[UNET_MAX_STAGES];
    for (int i = 0; i < c->n_stages; i++)
        dims[i] = c->context_dim;
    if (rc == 0)
        rc = read_list(context, "cross_attention_dim", c->n_stages, NN_MAX_DIM, dims, e);
    c->context_dim = dims[0];
    for (int i = 0; i < c->n_stages && rc == 0; i++)
        if (dims[i] != dims[0] || dims[i] < 1)
            rc = err_set(e, ERR_UNSUPPORTED, "unet: several widths of text are not built in");
    const struct cJSON *size = json_get(config, "sample_size"); /* a number, or [h, w] */
    if (json_is_int(size) && json_num(size) >= 8 && json_num(size) <= 512)
        c->sample_size = (int)json_num(size);
    if (rc == 0)
        rc = json_get_bool(config, "use_linear_projection", &c->linear_projection, e);
    if (rc == 0)
        rc = json_get_bool(config, "flip_sin_to_cos", &c->flip_sin_to_cos, e);
    if (rc == 0)
        rc = json_get_float(config, "freq_shift", &c->freq_shift, -16, 16, e);
    if (rc == 0)
        rc = json_get_float(config, "norm_eps", &c->eps, 0, 1, e);
    c->pad_after_only = padding == 0;
    if (rc == 0)
        rc = read_added(c, config, e);
    if (rc == 0 && (c->conv_in_kernel % 2 == 0 || c->conv_out_kernel % 2 == 0))
        rc = err_set(e, ERR_UNSUPPORTED, "unet: kernels of even size are not built in");
    if (rc == 0 && half && c->n_classes > 0)
        rc = err_set(e, ERR_UNSUPPORTED, "unet: num_class_embeds of a ControlNet is not built in");
    return rc == 0 ? check_sizes(c, e) : rc;
}

/* ---- weights ---- */

struct shape {
    int c, n_heads, depth;
    bool only_text;
};

static void walk_block(struct nn_loader *l, struct unet *m, struct unet_block *b, struct shape s)
{
    static const char *const norms[] = {"norm1", "norm2", "norm3"};
    struct nn_norm *const to[] = {&b->norm1, &b->norm2, &b->norm3};
    for (int i = 0; i < 3; i++)
        nn_load_norm(l, to[i], norms[i], s.c);
    for (int i = 0; i < 2; i++) {
        const size_t path = nn_push(l, "attn%d", i + 1);
        b->attn[i].text = i == 1 || s.only_text;
        const int from = b->attn[i].text ? m->c.context_dim : s.c;
        nn_load_linear(l, &b->attn[i].q, "to_q", s.c, s.c, NN_NO_BIAS);
        nn_load_linear(l, &b->attn[i].k, "to_k", s.c, from, NN_NO_BIAS);
        nn_load_linear(l, &b->attn[i].v, "to_v", s.c, from, NN_NO_BIAS);
        nn_load_linear(l, &b->attn[i].o, "to_out.0", s.c, s.c, NN_BIAS);
        if (b->attn[i].text) {
            b->attn[i].kv_at = m->kv_floats;
            m->kv_floats += 2 * (size_t)s.c;
        }
        nn_pop(l, path);
    }
    nn_load_split(
        l, b->ff, "ff.net.0.proj",
        &(struct nn_split){.n = 2, .n_out = 4 * (int64_t)s.c, .n_in = s.c, .bias = NN_BIAS});
    nn_load_linear(l, &b->down, "ff.net.2", s.c, 4 * (int64_t)s.c, NN_BIAS);
}

static void walk_transformer(struct nn_loader *l, struct unet *m, struct unet_transformer *t,
                             struct shape s)
{
    t->c = s.c;
    t->n_heads = s.n_heads;
    t->n_blocks = s.depth;
    if (t->blocks == NULL)
        t->blocks = xcalloc((size_t)s.depth + 1, sizeof *t->blocks);
    nn_load_norm(l, &t->norm, "norm", s.c);
    nn_load_linear(l, &t->in, "proj_in", s.c, s.c, NN_BIAS);
    for (int i = 0; i < s.depth; i++) {
        const size_t path = nn_push(l, "transformer_blocks.%d", i);
        walk_block(l, m, &t->blocks[i], s);
        nn_pop(l, path);
    }
    nn_load_linear(l, &t->out, "proj_out", s.c, s.c, NN_BIAS);
}

/* One resnet, and the attention after it where s has one (depth > 0). */
static void walk_layer(struct nn_loader *l, struct unet *m, struct unet_stage *stage, int c_in,
                       struct shape s)
{
    const int i = stage->n_layers++;
    size_t path = nn_push(l, "resnets.%d", i);
    nn_load_resnet(l, &stage->resnets[i], c_in, s.c, m->c.time_dim);
    nn_pop(l, path);
    if (s.depth == 0)
        return;
    path = nn_push(l, "attentions.%d", i);
    walk_transformer(l, m, &stage->attn[i], s);
    nn_pop(l, path);
}

static void walk_down(struct nn_loader *l, struct unet *m)
{
    const struct unet_config *c = &m->c;
    int c_in = c->channels[0];
    for (int i = 0; i < c->n_stages; i++) {
        struct unet_stage *to = &m->down[i];
        const int ch = c->channels[i];
        const size_t path = nn_push(l, "down_blocks.%d", i);
        to->n_layers = 0;
        for (int k = 0; k < c->n_layers[i]; k++) {
            const struct shape s = {.c = ch,
                                    .n_heads = c->n_heads[i],
                                    .depth = c->down_attn[i] ? c->depth[i][k] : 0,
                                    .only_text = c->only_text[i]};
            walk_layer(l, m, to, c_in, s);
            c_in = ch;
        }
        to->sampler = (struct nn_conv){.kernel = 3, .c_in = ch, .c_out = ch};
        if (i < c->n_stages - 1)
            nn_load_conv(l, &to->sampler, "downsamplers.0.conv", NN_BIAS);
        nn_pop(l, path);
    }
}

/* The middle: a resnet, an attention, a resnet. */
static void walk_mid(struct nn_loader *l, struct unet *m)
{
    const struct unet_config *c = &m->c;
    const int last = c->n_stages - 1, ch = c->channels[last];
    struct shape s = {
        .c = ch, .n_heads = c->n_heads[last], .depth = c->mid_attn ? c->mid_depth : 0};
    const size_t path = nn_push(l, "mid_block");
    m->mid.n_layers = 0;
    walk_layer(l, m, &m->mid, ch, s);
    s.depth = 0;
    if (c->mid_attn)
        walk_layer(l, m, &m->mid, ch, s);
    nn_pop(l, path);
}

/* Each resnet also takes what the down path left, in reverse order. */
static void walk_up(struct nn_loader *l, struct unet *m)
{
    const struct unet_config *c = &m->c;
    int c_in = c->channels[c->n_stages - 1];
    for (int i = 0; i < c->n_stages; i++) {
        struct unet_stage *to = &m->up[i];
        const int mirror = c->n_stages - 1 - i, ch = c->channels[mirror];
        const int below = c->channels[mirror > 0 ? mirror - 1 : 0];
        const size_t path = nn_push(l, "up_blocks.%d", i);
        to->n_layers = 0;
        for (int k = 0; k <= c->n_layers[mirror]; k++) {
            const int skip = k == c->n_layers[mirror] ? below : ch;
            const struct shape s = {.c = ch,
                                    .n_heads = c->n_heads[mirror],
                                    .depth = c->up_attn[i] ? c->up_depth[i][k] : 0,
                                    .only_text = c->only_text[mirror]};
            walk_layer(l, m, to, c_in + skip, s);
            c_in = ch;
        }
        to->sampler = (struct nn_conv){.kernel = 3, .c_in = ch, .c_out = ch};
        if (i < c->n_stages - 1)
            nn_load_conv(l, &to->sampler, "upsamplers.0.conv", NN_BIAS);
        nn_pop(l, path);
    }
}

void unet_half_walk(struct nn_loader *l, struct unet *m)
{
    const struct unet_config *c = &m->c;
    const int ch = c->channels[0], time = c->time_dim;
    m->kv_floats = 0;
    m->conv_in = (struct nn_conv){.kernel = c->conv_in_kernel, .c_in = c->in_channels, .c_out = ch};
    nn_load_conv(l, &m->conv_in, "conv_in", NN_BIAS);
    nn_load_linear(l, &m->time1, "time_embedding.linear_1", time, ch, NN_BIAS);
    nn_load_linear(l, &m->time2, "time_embedding.linear_2", time, time, NN_BIAS);
    if (c->guidance_dim > 0)
        nn_load_linear(l, &m->guidance, "time_embedding.cond_proj", ch, c->guidance_dim,
                       NN_NO_BIAS);
    if (c->pooled_dim > 0) {
        const int wide = c->pooled_dim + c->n_time_ids * c->added_dim;
        nn_load_linear(l, &m->added1, "add_embedding.linear_1", time, wide, NN_BIAS);
        nn_load_linear(l, &m->added2, "add_embedding.linear_2", time, time, NN_BIAS);
    }
    if (c->n_classes > 0)
        nn_load_embedding(l, &m->classes, "class_embedding.weight", &m->n_class_rows, time);
    walk_down(l, m);
    if (c->mid)
        walk_mid(l, m);
}

static void walk(struct nn_loader *l, void *model)
{
    struct unet *m = model;
    const struct unet_config *c = &m->c;
    const int ch = c->channels[0];
    unet_half_walk(l, m);
    walk_up(l, m);
    m->conv_out =
        (struct nn_conv){.kernel = c->conv_out_kernel, .c_in = ch, .c_out = c->out_channels};
    nn_load_norm(l, &m->norm_out, "conv_norm_out", ch);
    nn_load_conv(l, &m->conv_out, "conv_out", NN_BIAS);
}

static int unet_new(struct unet **out, const struct cJSON *config, bool half, int n_time_ids,
                    struct err *e)
{
    struct unet *m = xcalloc(1, sizeof *m);
    m->c.n_time_ids = n_time_ids;
    int rc = read_config(&m->c, config, half, e);
    if (rc != 0) {
        free(m);
        return rc;
    }
    m->down = xcalloc(UNET_MAX_STAGES, sizeof *m->down);
    m->up = xcalloc(UNET_MAX_STAGES, sizeof *m->up);
    *out = m;
    return 0;
}

int unet_half_new(struct unet **out, const struct cJSON *config, struct err *e)
{
    return unet_new(out, config, true, UNET_TIME_IDS, e);
}

int unet_open(struct unet **out, struct nn_loader *l, struct err *e)
{
    struct unet *m;
    const bool score = json_bool(json_get(checkpoint_index(l->c), "requires_aesthetics_score"));
    int rc = unet_new(&m, checkpoint_config(l->c, l->part), false,
                      score ? UNET_TIME_IDS - 1 : UNET_TIME_IDS, e);
    if (rc != 0)
        return rc;
    rc = nn_load(l, walk, m);
    if (rc == 0 && m->n_class_rows != m->c.n_classes)
        rc = err_set(e, ERR_CORRUPT, "unet: %lld classes, where its config.json says %d",
                     (long long)m->n_class_rows, m->c.n_classes);
    if (rc != 0) {
        unet_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

static void free_stage(struct unet_stage *s)
{
    for (int i = 0; i < UNET_MAX_LAYERS; i++)
        free(s->attn[i].blocks);
}

void unet_close(struct unet *m)
{
    if (m == NULL)
        return;
    for (int i = 0; i < UNET_MAX_STAGES && m->down != NULL && m->up != NULL; i++) {
        free_stage(&m->down[i]);
        free_stage(&m->up[i]);
    }
    free_stage(&m->mid);
    free(m->down);
    free(m->up);
    free(m);
}

/* ---- sides ---- */

/* On the way up a map takes the size of the skip that it meets, and a side that was rounded up is one cell short
 * of twice its half.  Without padding before it is rounded down. */
int unet_multiple(const struct unet_config *c)
{
    return c->pad_after_only ? 1 << (c->n_stages - 1) : 1;
}

/* ---- where residuals are added ---- */

static void add_place(struct unet_places *to, int c, int shrink)
{
    to->at[to->n].c = c;
    to->at[to->n++].shrink = shrink;
}

void unet_places(const struct unet_config *c, struct unet_places *to)
{
    const int last = c->n_stages - 1;
    to->n = 0;
    add_place(to, c->channels[0], 1);
    for (int i = 0; i <= last; i++) {
        for (int k = 0; k < c->n_layers[i]; k++)
            add_place(to, c->channels[i], 1 << i);
        if (i < last)
            add_place(to, c->channels[i], 2 << i);
    }
    to->n_skips = to->n;
    add_place(to, c->channels[last], 1 << last);
    for (int i = 0; i <= last; i++) /* before the downsampler where there is text, else behind it */
        add_place(to, c->channels[i], c->down_attn[i] || i == last ? 1 << i : 2 << i);
}

size_t unet_places_floats(const struct unet_places *p, int n, int h, int w)
{
    size_t floats = 0;
    for (int i = 0; i < n; i++)
        floats += (size_t)(unet_place_side(h, p->at[i].shrink) *
                           unet_place_side(w, p->at[i].shrink) * p->at[i].c);
    return floats;
}

int unet_deep_channels(const struct unet *m, int branch)
{
    struct unet_places places;
    unet_places(&m->c, &places);
    int n_skips = places.n_skips;
    for (int i = 0; i < m->c.n_stages; i++) {
        for (int k = 0; k < m->up[i].n_layers; k++) {
            if (--n_skips == branch)
                return m->up[i].resnets[k].conv1.c_in - places.at[branch].c;
        }
    }
    return 0;
}
