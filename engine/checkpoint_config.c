/* What a single file does not say: its configurations, as diffusers would have written them, from the
 * shapes of its tensors.
 *
 * Shapes do not tell the number of heads (SD 1.x has 8 at every level, the later ones heads of 64),
 * the groups of a norm (32 in all), scaling factors, and what the UNet predicts.  For the last NAME.yaml
 * is asked, then the file's metadata and marker tensors (modelspec.prediction_type, v_pred, ztsnr).  An SD 2.x
 * file without them is told by how far one bias of the last attention is spread, with ComfyUI's
 * threshold: a rule of thumb, nothing in the file proves it.  checkpoint_options overrules all. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "engine/checkpoint_impl.h"
#include "kernels/quant.h"

enum {
    LEVELS_MAX = 8,
    COUNT_MAX = 100,
    TEXT_MAX = 1 << 16,
    HEAD_DIM = 64,
    TIME_IDS = 6,
    TIME_IDS_REFINER = 5, /* a score instead of a size */
    YAML_MAX = 1 << 20
};
#define V_SPREAD 0.09 /* standard deviation; above it the model predicts v */

/* ---- asking ---- */

static const struct checkpoint_tensor *get(const struct checkpoint *c, enum checkpoint_part part,
                                           const char *fmt, ...) PRINTF_LIKE(3, 4);
static const struct checkpoint_tensor *get(const struct checkpoint *c, enum checkpoint_part part,
                                           const char *fmt, ...)
{
    char name[CHECKPOINT_MAX_NAME + 1];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return checkpoint_find(c, part, name);
}

static int64_t dim(const struct checkpoint_tensor *t, int d)
{
    return t != NULL && d < t->ndim ? t->dims[d] : 0;
}

/* How many of PREFIX.0SUFFIX, PREFIX.1SUFFIX ... there are. */
static int count(const struct checkpoint *c, enum checkpoint_part part, const char *prefix,
                 const char *suffix)
{
    int n = 0;
    while (n < COUNT_MAX && get(c, part, "%s.%d%s", prefix, n, suffix) != NULL)
        n++;
    return n;
}

/* ---- writing ---- */

struct out {
    struct buf text;
    struct json_writer w;
};

static void begin(struct out *o)
{
    buf_init(&o->text, TEXT_MAX);
    json_begin(&o->w, &o->text);
    json_open(&o->w, NULL, '{');
}

static int end(struct out *o, struct cJSON **doc, struct err *e)
{
    json_close(&o->w, '}');
    int rc = checkpoint_json_text(doc, &o->text, e);
    buf_free(&o->text);
    return rc;
}

static void put_ints(struct out *o, const char *key, const int64_t *v, int n)
{
    json_open(&o->w, key, '[');
    for (int i = 0; i < n; i++)
        json_put_int(&o->w, NULL, v[i]);
    json_close(&o->w, ']');
}

static void put_same(struct out *o, const char *key, const char *s, int n)
{
    json_open(&o->w, key, '[');
    for (int i = 0; i < n; i++)
        json_put_str(&o->w, NULL, s);
    json_close(&o->w, ']');
}

/* ---- the UNet ---- */

struct unet {
    int n_levels;
    int64_t channels[LEVELS_MAX], heads[LEVELS_MAX];
    int64_t transformers[LEVELS_MAX]; /* blocks of an attention, 0: the level has none */
    int64_t cross_dim, middle;        /* middle: blocks of its attention */
    int layers;
};

static int look(const struct checkpoint *c, enum checkpoint_part p, struct unet *u, struct err *e)
{
    const struct checkpoint_tensor *t;
    while ((t = get(c, p, "down_blocks.%d.resnets.0.conv1.weight", u->n_levels)) != NULL) {
        char prefix[80];
        if (u->n_levels == LEVELS_MAX)
            return err_set(e, ERR_UNSUPPORTED, "a UNet of more than %d levels", LEVELS_MAX);
        snprintf(prefix, sizeof prefix, "down_blocks.%d.attentions.0.transformer_blocks",
                 u->n_levels);
        int i = u->n_levels++;
        u->channels[i] = t->dims[0];
        u->transformers[i] = count(c, p, prefix, ".norm1.weight");
        u->heads[i] = t->dims[0] > HEAD_DIM ? t->dims[0] / HEAD_DIM : 1;
        if (u->cross_dim == 0)
            u->cross_dim = dim(get(c, p, "%s.0.attn2.to_k.weight", prefix), 1);
    }
    u->layers = count(c, p, "down_blocks.0.resnets", ".conv1.weight");
    u->middle = count(c, p, "mid_block.attentions.0.transformer_blocks", ".norm1.weight");
    if (u->n_levels < 1 || (u->cross_dim == 0 && p == CHECKPOINT_UNET))
        return err_set(e, ERR_UNSUPPORTED, "a UNet without cross-attention is not served");
    return 0;
}

static void put_down_blocks(struct out *o, const struct unet *u)
{
    json_open(&o->w, "down_block_types", '[');
    for (int i = 0; i < u->n_levels; i++)
        json_put_str(&o->w, NULL, u->transformers[i] > 0 ? "CrossAttnDownBlock2D" : "DownBlock2D");
    json_close(&o->w, ']');
}

/* Heads, and blocks of each attention. */
static void put_attentions(struct out *o, const struct checkpoint *c, const struct unet *u)
{
    int64_t levels_of[LEVELS_MAX];
    for (int i = 0; i < u->n_levels; i++)
        levels_of[i] = u->transformers[i] > 0 ? u->transformers[i] : 1;
    if (u->n_levels > 0 && u->transformers[u->n_levels - 1] == 0 && u->middle > 0)
        levels_of[u->n_levels - 1] = u->middle; /* the middle's, by the last level's number */
    if (c->family == CHECKPOINT_SD1)            /* diffusers calls heads by this name */
        json_put_int(&o->w, "attention_head_dim", 8);
    else
        put_ints(o, "attention_head_dim", u->heads, u->n_levels);
    put_ints(o, "transformer_layers_per_block", levels_of, u->n_levels);
    json_put_bool(&o->w, "use_linear_projection", c->family != CHECKPOINT_SD1);
}

static void put_unet_blocks(struct out *o, const struct checkpoint *c, const struct unet *u)
{
    put_down_blocks(o, u);
    json_open(&o->w, "up_block_types", '[');
    for (int i = u->n_levels - 1; i >= 0; i--)
        json_put_str(&o->w, NULL, u->transformers[i] > 0 ? "CrossAttnUpBlock2D" : "UpBlock2D");
    json_close(&o->w, ']');
    if (get(c, CHECKPOINT_UNET, "mid_block.resnets.0.conv1.weight") != NULL)
        json_put_str(&o->w, "mid_block_type", "UNetMidBlock2DCrossAttn");
    else
        json_put_null(&o->w, "mid_block_type");
}

static bool is_refiner(const struct checkpoint *c)
{
    return c->family == CHECKPOINT_SDXL && checkpoint_n_tensors(c, CHECKPOINT_TEXT_ENCODER) == 0;
}

static int put_added(struct out *o, const struct checkpoint *c, struct err *e)
{
    const int64_t n_ids = is_refiner(c) ? TIME_IDS_REFINER : TIME_IDS;
    int64_t n_in = dim(get(c, CHECKPOINT_UNET, "add_embedding.linear_1.weight"), 1);
    int64_t pooled = dim(get(c, CHECKPOINT_TEXT_ENCODER_2, "text_projection.weight"), 0);
    if (n_in <= pooled || (n_in - pooled) % n_ids != 0)
        return err_set(e, ERR_CORRUPT,
                       "the added embedding of %lld is not a pooled text of %lld and %lld numbers",
                       (long long)n_in, (long long)pooled, (long long)n_ids);
    json_put_str(&o->w, "addition_embed_type", "text_time");
    json_put_int(&o->w, "addition_time_embed_dim", (n_in - pooled) / n_ids);
    json_put_int(&o->w, "projection_class_embeddings_input_dim", n_in);
    return 0;
}

static int make_unet(struct checkpoint *c, struct err *e)
{
    const enum checkpoint_part p = CHECKPOINT_UNET;
    struct unet u = {.n_levels = 0};
    struct out o;
    int rc = look(c, p, &u, e);
    if (rc != 0)
        return rc;
    begin(&o);
    json_put_str(&o.w, "_class_name", "UNet2DConditionModel");
    json_put_int(&o.w, "in_channels", dim(get(c, p, "conv_in.weight"), 1));
    json_put_int(&o.w, "out_channels", dim(get(c, p, "conv_out.weight"), 0));
    json_put_int(&o.w, "sample_size",
                 c->family == CHECKPOINT_SD1   ? 64
                 : c->family == CHECKPOINT_SD2 ? 96
                                               : 128);
    put_ints(&o, "block_out_channels", u.channels, u.n_levels);
    put_unet_blocks(&o, c, &u);
    json_put_int(&o.w, "layers_per_block", u.layers);
    json_put_int(&o.w, "cross_attention_dim", u.cross_dim);
    put_attentions(&o, c, &u);
    json_put_bool(&o.w, "flip_sin_to_cos", true);
    json_put_int(&o.w, "freq_shift", 0);
    json_put_bool(&o.w, "center_input_sample", false);
    json_put_int(&o.w, "downsample_padding", 1);
    json_put_num(&o.w, "mid_block_scale_factor", 1);
    json_put_str(&o.w, "act_fn", "silu");
    json_put_int(&o.w, "norm_num_groups", 32);
    json_put_num(&o.w, "norm_eps", 1e-5);
    if (get(c, p, "time_embedding.cond_proj.weight") != NULL)
        json_put_int(&o.w, "time_cond_proj_dim",
                     dim(get(c, p, "time_embedding.cond_proj.weight"), 1));
    rc = c->family == CHECKPOINT_SDXL ? put_added(&o, c, e) : 0;
    if (rc != 0) {
        buf_free(&o.text);
        return rc;
    }
    return end(&o, &c->parts[p].config, e);
}

/* ---- VAE and text encoders ---- */

static int make_vae(struct checkpoint *c, struct err *e)
{
    const enum checkpoint_part p = CHECKPOINT_VAE;
    const struct checkpoint_tensor *t;
    int64_t channels[LEVELS_MAX];
    int n = 0;
    struct out o;
    /* The decoder's, backwards: some files have no encoder. */
    int n_up = count(c, p, "decoder.up_blocks", ".resnets.0.conv1.weight");
    while (n < LEVELS_MAX && n < n_up &&
           (t = get(c, p, "decoder.up_blocks.%d.resnets.0.conv1.weight", n_up - 1 - n)) != NULL)
        channels[n++] = t->dims[0];
    if (n == 0 || n != n_up)
        return err_set(e, ERR_UNSUPPORTED, "the file has no VAE that is known here (%d levels)",
                       n_up);
    begin(&o);
    json_put_str(&o.w, "_class_name", "AutoencoderKL");
    json_put_int(&o.w, "in_channels", 3);
    json_put_int(&o.w, "out_channels", dim(get(c, p, "decoder.conv_out.weight"), 0));
    json_put_int(&o.w, "latent_channels", dim(get(c, p, "decoder.conv_in.weight"), 1));
    put_ints(&o, "block_out_channels", channels, n);
    put_same(&o, "down_block_types", "DownEncoderBlock2D", n);
    put_same(&o, "up_block_types", "UpDecoderBlock2D", n);
    json_put_int(&o.w, "layers_per_block",
                 count(c, p, "decoder.up_blocks.0.resnets", ".conv1.weight") - 1);
    json_put_str(&o.w, "act_fn", "silu");
    json_put_int(&o.w, "norm_num_groups", 32);
    json_put_int(&o.w, "sample_size",
                 c->family == CHECKPOINT_SD1   ? 512
                 : c->family == CHECKPOINT_SD2 ? 768
                                               : 1024);
    json_put_num(&o.w, "scaling_factor", c->family == CHECKPOINT_SDXL ? 0.13025 : 0.18215);
    json_put_bool(&o.w, "force_upcast", c->family == CHECKPOINT_SDXL);
    return end(&o, &c->parts[p].config, e);
}

static int make_text(struct checkpoint *c, enum checkpoint_part p, const char *act, struct err *e)
{
    const struct checkpoint_tensor *tokens =
        get(c, p, "text_model.embeddings.token_embedding.weight");
    const struct checkpoint_tensor *projection = get(c, p, "text_projection.weight");
    int64_t hidden = dim(tokens, 1), vocab = dim(tokens, 0);
    struct out o;
    if (hidden == 0 || vocab < 2)
        return err_set(e, ERR_UNSUPPORTED,
                       "the file has no %s: give a checkpoint with UNet, VAE and text encoders",
                       checkpoint_part_name(p));
    begin(&o);
    json_open(&o.w, "architectures", '[');
    json_put_str(&o.w, NULL, projection != NULL ? "CLIPTextModelWithProjection" : "CLIPTextModel");
    json_close(&o.w, ']');
    json_put_str(&o.w, "model_type", "clip_text_model");
    json_put_int(&o.w, "hidden_size", hidden);
    json_put_int(&o.w, "intermediate_size",
                 dim(get(c, p, "text_model.encoder.layers.0.mlp.fc1.weight"), 0));
    json_put_int(&o.w, "num_hidden_layers",
                 count(c, p, "text_model.encoder.layers", ".mlp.fc1.weight"));
    json_put_int(&o.w, "num_attention_heads", hidden > HEAD_DIM ? hidden / HEAD_DIM : 1);
    json_put_int(&o.w, "max_position_embeddings",
                 dim(get(c, p, "text_model.embeddings.position_embedding.weight"), 0));
    json_put_int(&o.w, "vocab_size", vocab);
    json_put_int(&o.w, "projection_dim", projection != NULL ? projection->dims[0] : hidden);
    json_put_str(&o.w, "hidden_act", act);
    json_put_num(&o.w, "layer_norm_eps", 1e-5);
    json_put_int(&o.w, "bos_token_id", vocab - 2);
    json_put_int(&o.w, "eos_token_id", vocab - 1);
    return end(&o, &c->parts[p].config, e);
}

/* ---- what it predicts ---- */

static double spread(const struct checkpoint_tensor *t)
{
    double sum = 0, squares = 0;
    const size_t size = (size_t)dtype_block_bytes(t->type);
    for (int64_t i = 0; i < t->dims[0]; i++) {
        float v;
        quant_unpack(t->type, &v, (const char *)t->data + (size_t)i * size, 1);
        sum += v;
        squares += (double)v * v;
    }
    double mean = sum / (double)t->dims[0];
    return sqrt(fmax(squares / (double)t->dims[0] - mean * mean, 0));
}

static bool marked(const struct checkpoint *c, const char *name)
{
    struct checkpoint_raw t;
    return checkpoint_raw_find(&c->files[0], name, &t);
}

/* "parameterization: "v"" in the NAME.yaml that web UIs keep beside a file; NULL: nothing is said. */
static const char *yaml_prediction(const struct checkpoint *c)
{
    static const char key[] = "parameterization:";
    struct file f;
    const char *said = NULL;
    if (c->yaml == NULL || file_open(&f, c->yaml, NULL) != 0)
        return NULL;
    size_t n = f.size < YAML_MAX ? f.size : 0;
    const char *at = n > 0 ? memmem(f.data, n, key, sizeof key - 1) : NULL;
    if (at != NULL) {
        const char *stop = f.data + n;
        for (at += sizeof key - 1; at < stop && (*at == ' ' || *at == '"' || *at == '\'');)
            at++;
        size_t left = (size_t)(stop - at);
        if (left >= 1 && *at == 'v')
            said = "v_prediction";
        else if (left >= 3 && memcmp(at, "eps", 3) == 0)
            said = "epsilon";
        else if (left >= 2 && memcmp(at, "x0", 2) == 0)
            said = "sample";
    }
    file_close(&f);
    return said;
}

static const char *prediction(const struct checkpoint *c)
{
    const struct safetensors *s = c->files[0].st;
    const char *yaml = yaml_prediction(c);
    if (yaml != NULL)
        return yaml;
    const char *said = s != NULL ? safetensors_metadata(s, "modelspec.prediction_type") : NULL;
    if (said != NULL && said[0] == 'v')
        return "v_prediction";
    if (said != NULL && strcmp(said, "epsilon") == 0)
        return "epsilon";
    if (marked(c, "v_pred"))
        return "v_prediction";
    const struct checkpoint_tensor *bias =
        get(c, CHECKPOINT_UNET, "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias");
    bool plain = dim(get(c, CHECKPOINT_UNET, "conv_in.weight"), 1) == 4;
    if (c->family == CHECKPOINT_SD2 && plain && bias != NULL && bias->ndim == 1 &&
        dtype_block(bias->type) == 1 && spread(bias) > V_SPREAD)
        return "v_prediction";
    return "epsilon";
}

static int make_scheduler(struct checkpoint *c, struct err *e)
{
    static const char *const classes[] = {"PNDMScheduler", "DDIMScheduler",
                                          "EulerDiscreteScheduler"};
    struct out o;
    if (marked(c, "edm_mean") || marked(c, "edm_vpred.sigma_max"))
        return err_set(e, ERR_UNSUPPORTED,
                       "a model of EDM's noise levels (Playground 2.5, CosXL) is "
                       "not served");
    begin(&o);
    json_put_str(&o.w, "_class_name", classes[c->family]);
    json_put_int(&o.w, "num_train_timesteps", 1000);
    json_put_num(&o.w, "beta_start", 0.00085);
    json_put_num(&o.w, "beta_end", 0.012);
    json_put_str(&o.w, "beta_schedule", "scaled_linear");
    json_put_bool(&o.w, "clip_sample", false);
    json_put_bool(&o.w, "set_alpha_to_one", false);
    json_put_bool(&o.w, "skip_prk_steps", true);
    json_put_int(&o.w, "steps_offset", 1);
    json_put_str(&o.w, "timestep_spacing", "leading");
    json_put_str(&o.w, "prediction_type", prediction(c));
    if (marked(c, "ztsnr"))
        json_put_bool(&o.w, "rescale_betas_zero_snr", true);
    return end(&o, &c->scheduler, e);
}

static int make_index(struct checkpoint *c, struct err *e)
{
    bool inpaint = dim(get(c, CHECKPOINT_UNET, "conv_in.weight"), 1) == 9;
    const bool xl = c->family == CHECKPOINT_SDXL, refiner = is_refiner(c);
    struct out o;
    begin(&o);
    json_put_str(&o.w, "_class_name",
                 refiner ? "StableDiffusionXLImg2ImgPipeline"
                 : xl ? inpaint ? "StableDiffusionXLInpaintPipeline" : "StableDiffusionXLPipeline"
                 : inpaint ? "StableDiffusionInpaintPipeline"
                           : "StableDiffusionPipeline");
    if (xl)
        json_put_bool(&o.w, "force_zeros_for_empty_prompt", !refiner);
    if (refiner)
        json_put_bool(&o.w, "requires_aesthetics_score", true);
    return end(&o, &c->index, e);
}

static enum checkpoint_family family_of(const struct checkpoint *c)
{
    if (get(c, CHECKPOINT_UNET, "add_embedding.linear_1.weight") != NULL)
        return CHECKPOINT_SDXL;
    int64_t width =
        dim(get(c, CHECKPOINT_TEXT_ENCODER, "text_model.embeddings.token_embedding.weight"), 1);
    return c->open_clip || width == 1024 ? CHECKPOINT_SD2 : CHECKPOINT_SD1;
}

int checkpoint_config_make(struct checkpoint *c, struct err *e)
{
    static const char eos[] = "<|endoftext|>", zero[] = "!";
    c->family = family_of(c);
    bool xl = c->family == CHECKPOINT_SDXL;
    if (xl && checkpoint_n_tensors(c, CHECKPOINT_TEXT_ENCODER_2) == 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "a file without the second text encoder of SDXL: give the model's "
                       "diffusers directory");
    if (!xl && checkpoint_n_tensors(c, CHECKPOINT_TEXT_ENCODER_2) > 0)
        return err_set(e, ERR_UNSUPPORTED, "a second text encoder, but not the UNet of SDXL");
    c->pad[0] = c->family == CHECKPOINT_SD2 ? zero : eos;
    c->pad[1] = zero;
    int rc = is_refiner(c) ? 0
                           : make_text(c, CHECKPOINT_TEXT_ENCODER,
                                       c->family == CHECKPOINT_SD2 ? "gelu" : "quick_gelu", e);
    if (rc == 0 && xl)
        rc = make_text(c, CHECKPOINT_TEXT_ENCODER_2, "gelu", e);
    if (rc == 0)
        rc = make_unet(c, e);
    if (rc == 0)
        rc = make_vae(c, e);
    if (rc == 0)
        rc = make_scheduler(c, e);
    return rc != 0 ? rc : make_index(c, e);
}

/* ---- ControlNets and T2I-Adapters ---- */

enum { XL_TIME_DIM = 256, UNSHUFFLE_XL = 16 };

static void put_embedding(struct out *o, const struct checkpoint *c)
{
    const enum checkpoint_part p = CHECKPOINT_CONTROL;
    const int n = count(c, p, "controlnet_cond_embedding.blocks", ".weight");
    json_open(&o->w, "conditioning_embedding_out_channels", '[');
    json_put_int(&o->w, NULL, dim(get(c, p, "controlnet_cond_embedding.conv_in.weight"), 0));
    for (int i = 1; i < n; i += 2)
        json_put_int(&o->w, NULL,
                     dim(get(c, p, "controlnet_cond_embedding.blocks.%d.weight", i), 0));
    json_close(&o->w, ']');
}

static int make_control_net(struct checkpoint *c, struct err *e)
{
    const enum checkpoint_part p = CHECKPOINT_CONTROL;
    struct unet u = {.n_levels = 0};
    struct out o;
    int rc = look(c, p, &u, e);
    if (rc != 0)
        return rc;
    const bool xl = get(c, p, "add_embedding.linear_1.weight") != NULL;
    c->family = xl ? CHECKPOINT_SDXL : u.cross_dim == 1024 ? CHECKPOINT_SD2 : CHECKPOINT_SD1;
    begin(&o);
    json_put_str(&o.w, "_class_name", "ControlNetModel");
    json_put_int(&o.w, "in_channels", dim(get(c, p, "conv_in.weight"), 1));
    put_ints(&o, "block_out_channels", u.channels, u.n_levels);
    put_down_blocks(&o, &u);
    if (get(c, p, "mid_block.resnets.0.conv1.weight") != NULL)
        json_put_str(&o.w, "mid_block_type",
                     get(c, p, "mid_block.attentions.0.norm.weight") != NULL
                         ? "UNetMidBlock2DCrossAttn"
                         : "UNetMidBlock2D");
    else
        json_put_null(&o.w, "mid_block_type");
    json_put_int(&o.w, "layers_per_block", u.layers);
    json_put_int(&o.w, "cross_attention_dim", u.cross_dim > 0 ? u.cross_dim : 1);
    put_attentions(&o, c, &u);
    put_embedding(&o, c);
    if (xl) {
        json_put_str(&o.w, "addition_embed_type", "text_time");
        json_put_int(&o.w, "addition_time_embed_dim", XL_TIME_DIM);
        json_put_int(&o.w, "projection_class_embeddings_input_dim",
                     dim(get(c, p, "add_embedding.linear_1.weight"), 1));
    }
    c->family = CHECKPOINT_ALONE;
    return end(&o, &c->parts[p].config, e);
}

/* The picture's channels and how many pixels of a side stand side by side: 3 x 8 x 8, 1 x 16 x 16 ... */
static int64_t unshuffle(int64_t n_in, int64_t *channels)
{
    for (*channels = 3; *channels > 0; *channels -= 2) {
        for (int64_t f = 1; f <= 64 && n_in % *channels == 0; f++)
            if (f * f == n_in / *channels)
                return f;
    }
    return 0;
}

static int make_adapter(struct checkpoint *c, struct err *e)
{
    const enum checkpoint_part p = CHECKPOINT_CONTROL;
    const bool light = get(c, p, "adapter.body.0.out_conv.weight") != NULL;
    const struct checkpoint_tensor *first =
        get(c, p, light ? "adapter.body.0.in_conv.weight" : "adapter.conv_in.weight");
    int64_t widths[LEVELS_MAX], channels;
    const int64_t factor = unshuffle(dim(first, 1), &channels);
    int n = 0;
    while (n < LEVELS_MAX && (widths[n] = dim(get(c, p,
                                                  light ? "adapter.body.%d.out_conv.weight"
                                                        : "adapter.body.%d.resnets.0."
                                                          "block1.weight",
                                                  n),
                                              0)) > 0)
        n++;
    if (factor == 0 || n < 1)
        return err_set(e, ERR_UNSUPPORTED, "a T2I-Adapter of an unknown layout");
    struct out o;
    begin(&o);
    json_put_str(&o.w, "_class_name", "T2IAdapter");
    json_put_str(&o.w, "adapter_type",
                 light                    ? "light_adapter"
                 : factor == UNSHUFFLE_XL ? "full_adapter_xl"
                                          : "full_adapter");
    json_put_int(&o.w, "in_channels", channels);
    json_put_int(&o.w, "downscale_factor", factor);
    json_put_int(&o.w, "num_res_blocks", count(c, p, "adapter.body.0.resnets", ".block1.weight"));
    put_ints(&o, "channels", widths, light && n > 1 ? n - 1 : n);
    c->family = CHECKPOINT_ALONE;
    return end(&o, &c->parts[p].config, e);
}

int checkpoint_config_control(struct checkpoint *c, struct err *e)
{
    return get(c, CHECKPOINT_CONTROL, "conv_in.weight") != NULL ? make_control_net(c, e)
                                                                : make_adapter(c, e);
}
