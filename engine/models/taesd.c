/* AutoencoderTiny: 3x3 convolutions and relu, no norms.  In a file the layers of each half are numbered
 * through: a convolution, blocks, ... with what has no weights (relu, upsampling) counted too. */
#include "engine/models/taesd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"

enum { MAX_STAGES = 8, MAX_BLOCKS = 16, MAX_CHANNELS = 4096 };

struct block {
    struct nn_conv conv[3]; /* relu(conv2(relu(conv1(relu(conv0(x))))) + x) */
};

struct stage {
    struct nn_conv conv; /* encoder: before the blocks; decoder: after them */
    struct block *blocks;
    int n_blocks, channels;
};

struct half {
    struct nn_conv edge; /* encoder: the last; decoder: the first */
    struct stage stages[MAX_STAGES];
    int n_stages;
};

struct taesd {
    struct vae_info info;
    struct half encoder, decoder;
};

/* ---- configuration ---- */

static int read_half(struct half *h, const struct cJSON *config, const char *const keys[2],
                     const int standard[4], struct err *e)
{
    const struct cJSON *channels = json_get(config, keys[0]), *blocks = json_get(config, keys[1]);
    const bool given = json_type(channels) == JSON_ARRAY;
    h->n_stages = given ? json_size(channels) : 4;
    if (h->n_stages < 1 || h->n_stages > MAX_STAGES ||
        (json_type(blocks) == JSON_ARRAY ? json_size(blocks) : 4) != h->n_stages)
        return err_set(e, ERR_CORRUPT, "vae: %s and %s do not fit together", keys[0], keys[1]);
    const struct cJSON *c = json_first(channels), *b = json_first(blocks);
    for (int i = 0; i < h->n_stages; i++) {
        const double n_channels = c != NULL ? json_num(c) : 64;
        const double n_blocks = b != NULL ? json_num(b) : standard[i % 4];
        if (!(n_channels >= 1 && n_channels <= MAX_CHANNELS && n_blocks >= 0 &&
              n_blocks <= MAX_BLOCKS))
            return err_set(e, ERR_CORRUPT, "vae: %s or %s is out of range", keys[0], keys[1]);
        h->stages[i].channels = (int)n_channels;
        h->stages[i].n_blocks = (int)n_blocks;
        if (i > 0 && h->stages[i].channels != h->stages[i - 1].channels)
            return err_set(e, ERR_UNSUPPORTED, "vae: stages of several widths are not built in");
        h->stages[i].blocks = xcalloc(MAX_BLOCKS, sizeof *h->stages[i].blocks);
        c = json_next(c);
        b = json_next(b);
    }
    return 0;
}

static int read_config(struct taesd *m, const struct cJSON *config, struct err *e)
{
    static const char *const encoder[2] = {"encoder_block_out_channels", "num_encoder_blocks"};
    static const char *const decoder[2] = {"decoder_block_out_channels", "num_decoder_blocks"};
    static const int encoder_blocks[4] = {1, 3, 3, 3}, decoder_blocks[4] = {3, 3, 3, 1};
    const char *act = "relu", *upsample = "nearest";
    int64_t latent = 4, up = 2, three = 3;
    m->info.scaling = 1;
    int rc = json_get_int(config, "latent_channels", &latent, 1, 64, e);
    if (rc == 0)
        rc = json_get_int(config, "upsampling_scaling_factor", &up, 2, 2, e);
    if (rc == 0)
        rc = json_get_int(config, "in_channels", &three, 3, 3, e);
    if (rc == 0)
        rc = json_get_int(config, "out_channels", &three, 3, 3, e);
    if (rc == 0)
        rc = json_get_float(config, "scaling_factor", &m->info.scaling, 1e-6, 1e6, e);
    if (rc == 0)
        rc = json_get_str(config, "act_fn", &act, e);
    if (rc == 0)
        rc = json_get_str(config, "upsample_fn", &upsample, e);
    if (rc == 0 && (strcmp(act, "relu") != 0 || strcmp(upsample, "nearest") != 0))
        rc = err_set(e, ERR_UNSUPPORTED, "vae: a tiny decoder with %.20s and %.20s upsampling", act,
                     upsample);
    if (rc == 0)
        rc = read_half(&m->encoder, config, encoder, encoder_blocks, e);
    if (rc == 0)
        rc = read_half(&m->decoder, config, decoder, decoder_blocks, e);
    m->info.latent_channels = (int)latent;
    m->info.scale = 1 << (m->decoder.n_stages > 0 ? m->decoder.n_stages - 1 : 0);
    return rc;
}

/* ---- weights ---- */

static struct nn_conv conv3(int c_in, int c_out)
{
    return (struct nn_conv){.kernel = 3, .c_in = c_in, .c_out = c_out};
}

static void walk_conv(struct nn_loader *l, struct nn_conv *to, int number, enum nn_bias bias)
{
    char name[32];
    snprintf(name, sizeof name, "layers.%d", number);
    nn_load_conv(l, to, name, bias);
}

static int walk_blocks(struct nn_loader *l, struct stage *s, int number)
{
    static const char *const names[3] = {"conv.0", "conv.2", "conv.4"};
    for (int i = 0; i < s->n_blocks; i++, number++) {
        const size_t path = nn_push(l, "layers.%d", number);
        for (int k = 0; k < 3; k++) {
            s->blocks[i].conv[k] = conv3(s->channels, s->channels);
            nn_load_conv(l, &s->blocks[i].conv[k], names[k], NN_BIAS);
        }
        nn_pop(l, path);
    }
    return number;
}

static void walk_encoder(struct nn_loader *l, struct taesd *m)
{
    struct half *h = &m->encoder;
    const size_t path = nn_push(l, "encoder");
    int number = 0;
    for (int i = 0; i < h->n_stages; i++) {
        struct stage *s = &h->stages[i];
        s->conv = conv3(i == 0 ? 3 : s->channels, s->channels);
        walk_conv(l, &s->conv, number++, i == 0 ? NN_BIAS : NN_NO_BIAS);
        number = walk_blocks(l, s, number);
    }
    h->edge = conv3(h->stages[0].channels, m->info.latent_channels);
    walk_conv(l, &h->edge, number, NN_BIAS);
    nn_pop(l, path);
}

static void walk_decoder(struct nn_loader *l, struct taesd *m)
{
    struct half *h = &m->decoder;
    const size_t path = nn_push(l, "decoder");
    h->edge = conv3(m->info.latent_channels, h->stages[0].channels);
    walk_conv(l, &h->edge, 0, NN_BIAS);
    int number = 2;
    for (int i = 0; i < h->n_stages; i++) {
        struct stage *s = &h->stages[i];
        const bool last = i == h->n_stages - 1;
        number = walk_blocks(l, s, number);
        s->conv = conv3(s->channels, last ? 3 : s->channels);
        number += last ? 0 : 1;
        walk_conv(l, &s->conv, number++, last ? NN_BIAS : NN_NO_BIAS);
    }
    nn_pop(l, path);
}

static void walk(struct nn_loader *l, void *model)
{
    struct taesd *m = model;
    m->info.has_encoder =
        m->encoder.n_stages == m->decoder.n_stages && nn_has(l, "encoder.layers.0.weight");
    if (m->info.has_encoder)
        walk_encoder(l, m);
    walk_decoder(l, m);
}

int taesd_open(struct taesd **out, struct nn_loader *l, struct err *e)
{
    struct taesd *m = xcalloc(1, sizeof *m);
    int rc = read_config(m, checkpoint_config(l->c, l->part), e);
    if (rc == 0)
        rc = nn_load(l, walk, m);
    if (rc != 0) {
        taesd_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void taesd_close(struct taesd *m)
{
    if (m == NULL)
        return;
    for (int i = 0; i < MAX_STAGES; i++) {
        free(m->encoder.stages[i].blocks);
        free(m->decoder.stages[i].blocks);
    }
    free(m);
}

const struct vae_info *taesd_info(const struct taesd *m)
{
    return &m->info;
}

/* ---- the passes ---- */

static struct tensor blocks(const struct stage *s, struct program *p, struct tensor x)
{
    for (int i = 0; i < s->n_blocks; i++) {
        const struct nn_conv *conv = s->blocks[i].conv;
        struct tensor h = nn_conv(p, &conv[0], &x, &(struct nn_conv_with){.act = ACT_RELU});
        h = nn_conv(p, &conv[1], &h, &(struct nn_conv_with){.act = ACT_RELU});
        x = nn_conv(p, &conv[2], &h, &(struct nn_conv_with){.add = &x, .act = ACT_RELU});
    }
    return x;
}

/* The last convolution, into a pinned tensor. */
static struct tensor finish(const struct nn_conv *conv, struct program *p, const struct tensor *x)
{
    struct tensor out = PROGRAM_PINNED(p, x->dims[0], x->dims[1], x->dims[2], conv->c_out);
    nn_emit_conv(p, &(struct op_conv2d){.out = &out,
                                        .x = x,
                                        .w = conv->w,
                                        .bias = &conv->bias,
                                        .kernel = 3,
                                        .stride = 1,
                                        .pad_before = 1,
                                        .pad_after = 1});
    return out;
}

struct tensor taesd_decode(const struct taesd *m, struct program *p, const struct tensor *from)
{
    const struct half *h = &m->decoder;
    struct tensor x = nn_conv(p, &h->edge, from, &(struct nn_conv_with){.act = ACT_RELU});
    for (int i = 0; i < h->n_stages; i++) {
        x = blocks(&h->stages[i], p, x);
        if (i < h->n_stages - 1)
            x = nn_conv(p, &h->stages[i].conv, &x, &(struct nn_conv_with){.upsample = true});
    }
    return finish(&h->stages[h->n_stages - 1].conv, p, &x);
}

struct tensor taesd_encode(const struct taesd *m, struct program *p, const struct tensor *picture)
{
    const struct half *h = &m->encoder;
    struct tensor x = *picture;
    for (int i = 0; i < h->n_stages; i++) {
        x = nn_conv(p, &h->stages[i].conv, &x, &(struct nn_conv_with){.stride = i > 0 ? 2 : 1});
        x = blocks(&h->stages[i], p, x);
    }
    return finish(&h->edge, p, &x);
}
