/* Single files with the names of latent-diffusion (Rombach et al. 2022), as Stability's, the web UIs'
 * and stable-diffusion.cpp's files have them, to the names of diffusers.
 *
 * LDM numbers its blocks in a row, diffusers by level and layer; so a first pass over the names finds
 * which input blocks are resnets and which are downsamplers.  OpenCLIP keeps q, k and v in one matrix
 * and its projection the other way round: the first becomes three tensors of the same bytes, the
 * second is copied. */
#include <stdio.h>
#include <string.h>

#include "engine/checkpoint_impl.h"
#include "kernels/quant.h"

enum {
    BLOCKS_MAX = 64,
    NAME_ROOM = CHECKPOINT_MAX_NAME + 64,
    PROJECTION_MAX = 8192, /* of text */
    OPENCLIP_H_LAYERS = 24 /* of which SD 2.x uses all but the last */
};

enum block { BLOCK_NONE, BLOCK_RESNET, BLOCK_DOWN };

struct ldm {
    struct checkpoint *c;
    enum block in[BLOCKS_MAX];
    int level[BLOCKS_MAX], layer[BLOCKS_MAX]; /* of input blocks */
    int n_layers;                             /* resnets of a level on the way down */
    int n_up;       /* levels of the VAE's decoder; of a ControlNet: last of the hint's places */
    int drop_layer; /* of the text encoder, -1: none */
    bool refiner;   /* SDXL's: its one text encoder is the second one's kind */
    struct err *e;
};

/* ---- parsing names ---- */

static bool take(const char **s, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(*s, word, n) != 0)
        return false;
    *s += n;
    return true;
}

/* "12." */
static bool take_int(const char **s, int *v)
{
    const char *p = *s;
    int n = 0;
    for (; *p >= '0' && *p <= '9' && p - *s < 4; p++)
        n = n * 10 + (*p - '0');
    if (p == *s || *p != '.')
        return false;
    *v = n;
    *s = p + 1;
    return true;
}

struct pair {
    const char *from, *to;
};

/* The rest of s with its beginning replaced, behind what out has already; false: no such pair. */
static bool put(char *out, size_t at, const char *s, const struct pair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (take(&s, pairs[i].from)) {
            snprintf(out + at, NAME_ROOM - at, "%s%s", pairs[i].to, s);
            return true;
        }
    }
    return false;
}
#define PUT(out, at, s, pairs) put(out, at, s, pairs, sizeof(pairs) / sizeof *(pairs))

/* What snprintf wrote, never more than there is room for. */
static size_t wrote(int n)
{
    return n < 0 ? 0 : n < NAME_ROOM ? (size_t)n : NAME_ROOM - 1;
}

/* ---- UNet ---- */

static bool put_resnet(char *out, size_t at, const char *s)
{
    static const struct pair pairs[] = {
        {"in_layers.0.", "norm1."},          {"in_layers.2.", "conv1."},
        {"emb_layers.1.", "time_emb_proj."}, {"out_layers.0.", "norm2."},
        {"out_layers.3.", "conv2."},         {"skip_connection.", "conv_shortcut."},
    };
    return PUT(out, at, s, pairs);
}

static bool put_attention(char *out, size_t at, const char *s)
{
    static const struct pair pairs[] = {
        {"norm.", "norm."},
        {"proj_in.", "proj_in."},
        {"proj_out.", "proj_out."},
        {"transformer_blocks.", "transformer_blocks."},
    };
    return PUT(out, at, s, pairs);
}

static bool map_input(const struct ldm *l, const char *s, char *out)
{
    int i, part;
    if (!take_int(&s, &i) || !take_int(&s, &part) || i < 1 || i >= BLOCKS_MAX || part > 1)
        return false;
    size_t at = wrote(snprintf(out, NAME_ROOM, "down_blocks.%d.", l->level[i]));
    if (l->in[i] == BLOCK_DOWN) {
        static const struct pair down[] = {{"op.", "downsamplers.0.conv."}};
        return part == 0 && PUT(out, at, s, down);
    }
    at += wrote(snprintf(out + at, NAME_ROOM - at, "%s.%d.", part == 0 ? "resnets" : "attentions",
                         l->layer[i]));
    return part == 0 ? put_resnet(out, at, s) : put_attention(out, at, s);
}

static bool map_output(const struct ldm *l, const char *s, char *out)
{
    static const struct pair up[] = {{"conv.", "upsamplers.0.conv."}};
    int i, part;
    if (!take_int(&s, &i) || !take_int(&s, &part) || i >= BLOCKS_MAX || part > 2)
        return false;
    int n = l->n_layers + 1;
    size_t at = wrote(snprintf(out, NAME_ROOM, "up_blocks.%d.", i / n));
    if (part > 0 && PUT(out, at, s, up))
        return true;
    at += wrote(
        snprintf(out + at, NAME_ROOM - at, "%s.%d.", part == 0 ? "resnets" : "attentions", i % n));
    return part == 0 ? put_resnet(out, at, s) : part == 1 && put_attention(out, at, s);
}

static bool map_unet(const struct ldm *l, const char *s, char *out)
{
    static const struct pair whole[] = {
        {"time_embed.0.", "time_embedding.linear_1."},
        {"time_embed.2.", "time_embedding.linear_2."},
        {"time_embed.cond_proj.", "time_embedding.cond_proj."},
        {"time_embedding.cond_proj.", "time_embedding.cond_proj."},
        {"label_emb.0.0.", "add_embedding.linear_1."},
        {"label_emb.0.2.", "add_embedding.linear_2."},
        {"input_blocks.0.0.", "conv_in."},
        {"out.0.", "conv_norm_out."},
        {"out.2.", "conv_out."},
    };
    if (PUT(out, 0, s, whole))
        return true;
    if (take(&s, "input_blocks."))
        return map_input(l, s, out);
    if (take(&s, "output_blocks."))
        return map_output(l, s, out);
    int part;
    if (!take(&s, "middle_block.") || !take_int(&s, &part) || part > 2)
        return false;
    size_t at = wrote(snprintf(out, NAME_ROOM, "mid_block.%s.%d.",
                               part == 1 ? "attentions" : "resnets", part / 2));
    return part == 1 ? put_attention(out, at, s) : put_resnet(out, at, s);
}

/* ---- VAE ---- */

static bool put_vae_resnet(char *out, size_t at, const char *s)
{
    static const struct pair pairs[] = {
        {"norm1.", "norm1."},
        {"conv1.", "conv1."},
        {"norm2.", "norm2."},
        {"conv2.", "conv2."},
        {"nin_shortcut.", "conv_shortcut."},
    };
    return PUT(out, at, s, pairs);
}

static bool map_vae_mid(const char *s, char *out, size_t at)
{
    static const struct pair attention[] = {
        {"norm.", "group_norm."},   {"q.", "to_q."},    {"k.", "to_k."},    {"v.", "to_v."},
        {"proj_out.", "to_out.0."}, {"to_q.", "to_q."}, {"to_k.", "to_k."}, {"to_v.", "to_v."},
        {"to_out.0.", "to_out.0."},
    };
    int i = take(&s, "attn_1.") ? 0 : take(&s, "block_1.") ? 1 : take(&s, "block_2.") ? 2 : -1;
    if (i < 0)
        return false;
    at += wrote(snprintf(out + at, NAME_ROOM - at, "mid_block.%s.%d.",
                         i == 0 ? "attentions" : "resnets", i == 2));
    return i == 0 ? PUT(out, at, s, attention) : put_vae_resnet(out, at, s);
}

static bool map_vae(const struct ldm *l, const char *s, char *out)
{
    static const struct pair whole[] = {
        {"quant_conv.", "quant_conv."},
        {"post_quant_conv.", "post_quant_conv."},
        {"encoder.conv_in.", "encoder.conv_in."},
        {"encoder.norm_out.", "encoder.conv_norm_out."},
        {"encoder.conv_out.", "encoder.conv_out."},
        {"decoder.conv_in.", "decoder.conv_in."},
        {"decoder.norm_out.", "decoder.conv_norm_out."},
        {"decoder.conv_out.", "decoder.conv_out."},
    };
    static const struct pair down[] = {{"downsample.conv.", "downsamplers.0.conv."}};
    static const struct pair up[] = {{"upsample.conv.", "upsamplers.0.conv."}};
    if (PUT(out, 0, s, whole))
        return true;
    bool encoder = take(&s, "encoder.");
    if (!encoder && !take(&s, "decoder."))
        return false;
    size_t at = wrote(snprintf(out, NAME_ROOM, encoder ? "encoder." : "decoder."));
    if (take(&s, "mid."))
        return map_vae_mid(s, out, at);
    int level, block;
    if (!take(&s, encoder ? "down." : "up.") || !take_int(&s, &level) || level >= BLOCKS_MAX)
        return false;
    if (!encoder)
        level =
            l->n_up - 1 - level; /* the decoder counts from the finest, diffusers from the first */
    at +=
        wrote(snprintf(out + at, NAME_ROOM - at, "%s_blocks.%d.", encoder ? "down" : "up", level));
    if (encoder ? PUT(out, at, s, down) : PUT(out, at, s, up))
        return true;
    if (!take(&s, "block.") || !take_int(&s, &block))
        return false;
    at += wrote(snprintf(out + at, NAME_ROOM - at, "resnets.%d.", block));
    return put_vae_resnet(out, at, s);
}

/* ---- text encoders ---- */

/* OpenCLIP's names; HF's are passed through. */
static bool map_text(const char *s, bool open_clip, char *out, int *layer)
{
    static const struct pair whole[] = {
        {"token_embedding.", "text_model.embeddings.token_embedding."},
        {"positional_embedding", "text_model.embeddings.position_embedding.weight"},
        {"ln_final.", "text_model.final_layer_norm."},
        {"text_projection.weight", "text_projection.weight"},
        {"text_projection", "text_projection"},
    };
    static const struct pair tails[] = {
        {"ln_1.", "layer_norm1."},
        {"ln_2.", "layer_norm2."},
        {"mlp.c_fc.", "mlp.fc1."},
        {"mlp.c_proj.", "mlp.fc2."},
        {"attn.out_proj.", "self_attn.out_proj."},
        {"attn.in_proj_weight", "self_attn.in_proj.weight"},
        {"attn.in_proj_bias", "self_attn.in_proj.bias"},
    };
    if (open_clip) {
        if (PUT(out, 0, s, whole))
            return true;
        if (!take(&s, "transformer.resblocks.") || !take_int(&s, layer))
            return false;
        size_t at = wrote(snprintf(out, NAME_ROOM, "text_model.encoder.layers.%d.", *layer));
        return PUT(out, at, s, tails);
    }
    take(&s, "text_model.");
    if (strncmp(s, "text_projection", strlen("text_projection")) == 0) {
        snprintf(out, NAME_ROOM, "%s", s);
        return true;
    }
    snprintf(out, NAME_ROOM, "text_model.%s", s);
    if (take(&s, "encoder.layers."))
        take_int(&s, layer);
    return true;
}

/* Rows of q, of k and of v become three tensors of the same bytes. */
static int add_fused(struct ldm *l, enum checkpoint_part part, const char *name, const char *tail,
                     const struct checkpoint_raw *t)
{
    static const char *const parts[] = {"q_proj", "k_proj", "v_proj"};
    char split[NAME_ROOM];
    int n_stem = (int)(tail - name);
    if (t->ndim < 1 || t->dims[0] % 3 != 0)
        return err_set(l->e, ERR_CORRUPT, "tensor \"%s\" is not q, k and v",
                       err_shown_str(t->name).text);
    struct checkpoint_raw third = *t;
    third.dims[0] /= 3;
    third.bytes /= 3;
    int rc = 0;
    for (int i = 0; i < 3 && rc == 0; i++) {
        snprintf(split, sizeof split, "%.*s%s%s", n_stem, name, parts[i], tail + strlen("in_proj"));
        third.data = (const char *)t->data + (size_t)i * third.bytes;
        rc = checkpoint_add(l->c, part, split, &third, l->e);
    }
    return rc;
}

/* [width, n_out] to [n_out, width], as F32. */
static int add_projection(struct ldm *l, enum checkpoint_part part, const struct checkpoint_raw *t)
{
    if (t->type == DTYPE_N || t->type == DTYPE_I32)
        return checkpoint_add(l->c, part, "text_projection.weight", t, l->e); /* says why not */
    if (t->ndim != 2 || t->dims[0] > PROJECTION_MAX || t->dims[1] > PROJECTION_MAX)
        return err_set(l->e, ERR_CORRUPT, "tensor \"%s\" is not a matrix of allowed size",
                       err_shown_str(t->name).text);
    int64_t rows = t->dims[0], cols = t->dims[1];
    float *out = arena_array(&l->c->arena, (size_t)(rows * cols), sizeof *out);
    float *row = arena_array(&l->c->arena, (size_t)cols, sizeof *row);
    if (out == NULL || row == NULL)
        return checkpoint_no_memory(l->e);
    size_t row_bytes = rows > 0 ? t->bytes / (size_t)rows : 0;
    for (int64_t r = 0; r < rows && cols > 0; r++) {
        quant_unpack(t->type, row, (const char *)t->data + (size_t)r * row_bytes, cols);
        for (int64_t k = 0; k < cols; k++)
            out[k * rows + r] = row[k];
    }
    struct checkpoint_raw turned = {.name = t->name,
                                    .type_name = "F32",
                                    .type = DTYPE_F32,
                                    .ndim = 2,
                                    .dims = {cols, rows},
                                    .data = out,
                                    .bytes = (size_t)(rows * cols) * sizeof *out};
    return checkpoint_add(l->c, part, "text_projection.weight", &turned, l->e);
}

static bool text_ignored(const char *s)
{
    static const char *const words[] = {"logit_scale", "position_ids", "attn_mask", "visual.",
                                        "vision_model."};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strstr(s, words[i]) != NULL)
            return true;
    return false;
}

/* ---- one tensor ---- */

static const struct {
    const char *prefix;
    enum checkpoint_part part;
    bool open_clip;
} prefixes[] = {
    {"model.diffusion_model.", CHECKPOINT_UNET, false},
    {"first_stage_model.", CHECKPOINT_VAE, false},
    {"cond_stage_model.transformer.", CHECKPOINT_TEXT_ENCODER, false},
    {"cond_stage_model.model.", CHECKPOINT_TEXT_ENCODER, true},
    {"cond_stage_model.1.transformer.", CHECKPOINT_TEXT_ENCODER_2, false},
    {"cond_stage_model.1.model.", CHECKPOINT_TEXT_ENCODER_2, true},
    {"conditioner.embedders.0.transformer.", CHECKPOINT_TEXT_ENCODER, false},
    {"conditioner.embedders.0.model.", CHECKPOINT_TEXT_ENCODER, true},
    {"conditioner.embedders.1.transformer.", CHECKPOINT_TEXT_ENCODER_2, false},
    {"conditioner.embedders.1.model.", CHECKPOINT_TEXT_ENCODER_2, true},
};
enum { N_PREFIXES = sizeof prefixes / sizeof *prefixes };

static int add_text(struct ldm *l, enum checkpoint_part part, const char *name, int layer,
                    const struct checkpoint_raw *t)
{
    if (part == CHECKPOINT_TEXT_ENCODER && layer >= 0 && layer == l->drop_layer)
        return 0;
    if (part == CHECKPOINT_TEXT_ENCODER && strncmp(name, "text_projection", 15) == 0)
        return 0; /* its pooled state is not used */
    const char *fused = strstr(name, ".in_proj.");
    if (fused != NULL && part == CHECKPOINT_TEXT_ENCODER)
        l->c->open_clip = true;
    if (fused != NULL)
        return add_fused(l, part, name, fused + 1, t);
    if (strcmp(name, "text_projection") == 0)
        return add_projection(l, part, t);
    return checkpoint_add(l->c, part, name, t, l->e);
}

static int add(struct ldm *l, const struct checkpoint_raw *t)
{
    char name[NAME_ROOM];
    for (size_t i = 0; i < N_PREFIXES; i++) {
        const char *s = t->name;
        if (!take(&s, prefixes[i].prefix))
            continue;
        enum checkpoint_part part = prefixes[i].part;
        if (part == CHECKPOINT_TEXT_ENCODER && l->refiner)
            part = CHECKPOINT_TEXT_ENCODER_2;
        bool text = part == CHECKPOINT_TEXT_ENCODER || part == CHECKPOINT_TEXT_ENCODER_2;
        int layer = -1;
        if (text ? text_ignored(s)
                 : strncmp(s, "loss.", 5) == 0 || strncmp(s, "model_ema.", 10) == 0)
            return 0;
        bool known = text                      ? map_text(s, prefixes[i].open_clip, name, &layer)
                     : part == CHECKPOINT_UNET ? map_unet(l, s, name)
                                               : map_vae(l, s, name);
        if (!known)
            return err_set(l->e, ERR_UNSUPPORTED, "tensor \"%s\" has no place in Stable Diffusion",
                           err_shown_str(t->name).text);
        return text ? add_text(l, part, name, layer, t) : checkpoint_add(l->c, part, name, t, l->e);
    }
    return 0; /* betas, ema weights: not needed */
}

/* ---- the first pass ---- */

static void look_at_input(struct ldm *l, const char *s)
{
    int i;
    if (!take_int(&s, &i) || i >= BLOCKS_MAX)
        return;
    if (strcmp(s, "0.op.weight") == 0)
        l->in[i] = BLOCK_DOWN;
    else if (strcmp(s, "0.in_layers.0.weight") == 0)
        l->in[i] = BLOCK_RESNET;
}

static void look_at(struct ldm *l, const char *s, int *n_text_layers)
{
    int i;
    if (take(&s, "model.diffusion_model.input_blocks.")) {
        look_at_input(l, s);
    } else if (take(&s, "first_stage_model.decoder.up.")) {
        if (take_int(&s, &i) && i < BLOCKS_MAX && i >= l->n_up)
            l->n_up = i + 1;
    } else if (take(&s, "cond_stage_model.model.transformer.resblocks.") ||
               take(&s, "cond_stage_model.transformer.text_model.encoder.layers.")) {
        if (take_int(&s, &i) && i >= *n_text_layers)
            *n_text_layers = i + 1;
    }
}

/* SDXL's base has another encoder beside OpenCLIP's, which is its second one. */
static bool is_refiner(const struct checkpoint_file *f)
{
    bool xl = false, first = false, second = false;
    for (int i = 0; i < checkpoint_n_raw(f); i++) {
        const char *name = checkpoint_raw_at(f, i).name;
        xl = xl || strncmp(name, "model.diffusion_model.label_emb.0.", 34) == 0;
        first = first || strncmp(name, "conditioner.embedders.0.model.", 30) == 0;
        second = second || strncmp(name, "conditioner.embedders.1.", 24) == 0;
    }
    return xl && first && !second;
}

static int number_blocks(struct ldm *l)
{
    int level = 0, layer = 0;
    for (int i = 1; i < BLOCKS_MAX && l->in[i] != BLOCK_NONE; i++) {
        l->level[i] = level;
        l->layer[i] = layer;
        if (l->in[i] == BLOCK_RESNET) {
            layer++;
            continue;
        }
        if (level > 0 && layer != l->n_layers)
            break;
        l->n_layers = layer;
        level++;
        layer = 0;
    }
    if (level == 0)
        l->n_layers = layer;
    if (layer == 0 || layer != l->n_layers)
        return err_set(l->e, ERR_UNSUPPORTED,
                       "the levels of the UNet have not the same number of resnets");
    return 0;
}

bool checkpoint_ldm_is(const struct checkpoint_file *f)
{
    struct checkpoint_raw t;
    return checkpoint_raw_find(f, "model.diffusion_model.input_blocks.0.0.weight", &t);
}

static int refuse(const struct checkpoint_file *f, struct err *e)
{
    if (f->gguf != NULL && gguf_has(f->gguf, "general.architecture"))
        return err_set(e, ERR_UNSUPPORTED,
                       "this GGUF has no Stable Diffusion in it (no tensor "
                       "model.diffusion_model.input_blocks.0.0.weight)");
    return err_set(
        e, ERR_UNSUPPORTED,
        "no checkpoint with LDM names (model.diffusion_model.input_blocks...): the files "
        "of a diffusers model are opened by its directory");
}

int checkpoint_ldm_open(struct checkpoint *c, struct err *e)
{
    const struct checkpoint_file *f = &c->files[0];
    struct ldm l = {.c = c, .drop_layer = -1, .e = e};
    int n_text_layers = 0;
    if (!checkpoint_ldm_is(f))
        return refuse(f, e);
    l.refiner = is_refiner(f);
    for (int i = 0; i < checkpoint_n_raw(f); i++)
        look_at(&l, checkpoint_raw_at(f, i).name, &n_text_layers);
    if (n_text_layers == OPENCLIP_H_LAYERS)
        l.drop_layer = OPENCLIP_H_LAYERS - 1;
    int rc = number_blocks(&l);
    for (int i = 0; rc == 0 && i < checkpoint_n_raw(f); i++) {
        struct checkpoint_raw t = checkpoint_raw_at(f, i);
        rc = add(&l, &t);
    }
    return rc;
}

/* ---- ControlNets ---- */

/* Beside the names of a UNet: the small network's convolutions have every second place, activations the
 * others; blocks.0 is the second of them. */
static bool map_control(const struct ldm *l, const char *s, char *out)
{
    static const struct pair middle[] = {{"middle_block_out.0.", "controlnet_mid_block."},
                                         {"mid_block_out.0.", "controlnet_mid_block."}};
    int i;
    if (PUT(out, 0, s, middle))
        return true;
    if (take(&s, "zero_convs."))
        return take_int(&s, &i) && take(&s, "0.") &&
               snprintf(out, NAME_ROOM, "controlnet_down_blocks.%d.%s", i, s) > 0;
    if (!take(&s, "input_hint_block."))
        return map_unet(l, s, out);
    if (!take_int(&s, &i) || i % 2 != 0)
        return false;
    if (i == 0 || i == l->n_up) /* the last one, here */
        snprintf(out, NAME_ROOM, "controlnet_cond_embedding.%s.%s", i == 0 ? "conv_in" : "conv_out",
                 s);
    else
        snprintf(out, NAME_ROOM, "controlnet_cond_embedding.blocks.%d.%s", i / 2 - 1, s);
    return true;
}

int checkpoint_ldm_control(struct checkpoint *c, const char *prefix, struct err *e)
{
    const struct checkpoint_file *f = &c->files[0];
    struct ldm l = {.c = c, .drop_layer = -1, .e = e};
    for (int i = 0; i < checkpoint_n_raw(f); i++) {
        const char *s = checkpoint_raw_at(f, i).name;
        int k;
        if (!take(&s, prefix))
            continue;
        if (take(&s, "input_blocks."))
            look_at_input(&l, s);
        else if (take(&s, "input_hint_block.") && take_int(&s, &k) && k > l.n_up)
            l.n_up = k;
    }
    int rc = number_blocks(&l);
    for (int i = 0; rc == 0 && i < checkpoint_n_raw(f); i++) {
        const struct checkpoint_raw t = checkpoint_raw_at(f, i);
        const char *s = t.name;
        char name[NAME_ROOM];
        if (!take(&s, prefix))
            continue;
        rc = map_control(&l, s, name)
                 ? checkpoint_add(c, CHECKPOINT_CONTROL, name, &t, e)
                 : err_set(e, ERR_UNSUPPORTED, "tensor \"%s\" has no place in a ControlNet",
                           err_shown_str(t.name).text);
    }
    return rc;
}
