/* A T2I-Adapter: the picture's pixels side by side as channels, then levels of residual blocks, the result of
 * each of which is a residual (docs/MODELS.md).  Three layouts: full_adapter halves before every level but
 * the first, full_adapter_xl before the third alone, light_adapter works in a quarter of the width. */
#include <string.h>

#include "base/json.h"
#include "engine/models/control_int.h"

/* ---- configuration ---- */

static int read_channels(const struct cJSON *config, int channels[CONTROL_STAGES_MAX], int *n,
                         struct err *e)
{
    const struct cJSON *list = json_get(config, "channels"), *v = json_first(list);
    *n = json_size(list);
    if (json_type(list) != JSON_ARRAY || *n < 1 || *n >= CONTROL_STAGES_MAX)
        return err_set(e, ERR_CORRUPT, "channels of the adapter are missing or too many");
    for (int i = 0; i < *n; i++, v = json_next(v)) {
        if (!json_is_int(v) || json_num(v) < 4 || json_num(v) > 1 << 14)
            return err_set(e, ERR_CORRUPT, "channels of the adapter are out of their range");
        channels[i] = (int)json_num(v);
    }
    return 0;
}

/* n levels of widths channels; n_in: channels of the picture's pixels side by side. */
static void lay_out(struct control *c, const int *channels, int n, int n_in, bool xl)
{
    c->n_stages = c->light ? n + 1 : n;
    for (int i = 0; i < c->n_stages; i++) {
        struct control_stage *s = &c->stages[i];
        const int own = channels[i < n ? i : n - 1];
        int before = channels[i > 0 ? i - 1 : 0];
        s->down = xl ? i == 2 : i > 0;
        if (xl && i != 1 && i != 2) /* there diffusers' levels have no change of width */
            before = own;
        s->c_in = c->light && i == 0 ? n_in : before;
        s->c_out = own;
        s->c_mid = c->light ? own / 4 : own;
        s->has_in = c->light || s->c_in != own;
        s->has_out = c->light;
        for (int k = 0; k < c->n_resnets; k++) {
            s->resnets[k].block1 =
                (struct nn_conv){.kernel = 3, .c_in = s->c_mid, .c_out = s->c_mid};
            s->resnets[k].block2 = s->resnets[k].block1;
        }
    }
    c->conv_in = (struct nn_conv){.kernel = 3, .c_in = n_in, .c_out = channels[0]};
}

static int read_config(struct control *c, const struct cJSON *config, struct err *e)
{
    const char *type = "full_adapter";
    int64_t channels = 3, n_resnets = 2, factor = 8;
    int widths[CONTROL_STAGES_MAX], n = 0;
    int rc = json_get_str(config, "adapter_type", &type, e);
    if (rc == 0)
        rc = json_get_int(config, "in_channels", &channels, 1, 3, e);
    if (rc == 0)
        rc = json_get_int(config, "num_res_blocks", &n_resnets, 1, CONTROL_RESNETS_MAX, e);
    if (rc == 0)
        rc = json_get_int(config, "downscale_factor", &factor, 1, 64, e);
    if (rc == 0)
        rc = read_channels(config, widths, &n, e);
    if (rc != 0)
        return rc;
    const bool xl = strcmp(type, "full_adapter_xl") == 0;
    c->light = strcmp(type, "light_adapter") == 0;
    if ((!xl && !c->light && strcmp(type, "full_adapter") != 0) || channels == 2)
        return err_set(e, ERR_UNSUPPORTED, "an adapter of type %.40s and %d channels", type,
                       (int)channels);
    c->channels = (int)channels;
    c->n_resnets = (int)n_resnets;
    c->shrink = (int)factor;
    lay_out(c, widths, n, (int)(channels * factor * factor), xl);
    return 0;
}

int control_adapter_shrink(const struct control *c, int stage)
{
    int shrink = c->shrink;
    for (int i = 0; i <= stage; i++)
        shrink *= c->stages[i].down ? 2 : 1;
    return shrink;
}

/* ---- weights ---- */

static void walk(struct nn_loader *l, void *model)
{
    struct control *c = model;
    const size_t top = nn_push(l, "adapter");
    if (!c->light)
        nn_load_conv(l, &c->conv_in, "conv_in", NN_BIAS);
    for (int i = 0; i < c->n_stages; i++) {
        struct control_stage *s = &c->stages[i];
        const size_t path = nn_push(l, "body.%d", i);
        if (s->down) {
            s->down_in = (struct nn_conv){.kernel = 2, .c_in = s->c_in, .c_out = s->c_mid};
            nn_load_halving(l, &s->down_in, s->has_in ? "in_conv" : NULL);
        } else if (s->has_in) {
            nn_load_linear(l, &s->in, "in_conv", s->c_mid, s->c_in, NN_BIAS);
        }
        for (int k = 0; k < c->n_resnets; k++) {
            const size_t block = nn_push(l, "resnets.%d", k);
            nn_load_conv(l, &s->resnets[k].block1, "block1", NN_BIAS);
            if (c->light)
                nn_load_conv(l, &s->resnets[k].block2, "block2", NN_BIAS);
            else
                nn_load_linear(l, &s->resnets[k].point, "block2", s->c_mid, s->c_mid, NN_BIAS);
            nn_pop(l, block);
        }
        if (s->has_out)
            nn_load_linear(l, &s->out, "out_conv", s->c_out, s->c_mid, NN_BIAS);
        nn_pop(l, path);
    }
    nn_pop(l, top);
}

int control_adapter_load(struct control *c, struct nn_loader *l, struct err *e)
{
    int rc = read_config(c, checkpoint_config(l->c, l->part), e);
    return rc == 0 ? nn_load(l, walk, c) : rc;
}

/* ---- the pass ---- */

static void copy(struct program *p, const struct tensor *to, int64_t at, const struct tensor *from,
                 int64_t from_at, int64_t n)
{
    struct tensor out = {.type = DTYPE_F32, .ndim = 2, .dims = {1, n}}, x = out;
    out.data = (float *)to->data + at;
    x.data = (float *)from->data + from_at;
    OP(program_backend(p), act, .out = &out, .x = &x, .act = ACT_NONE);
}

/* x [1, h, w, c] of even sides: the last row and column stand there twice, so that the mean of two of four pixels
 * is that of the two which there are (AvgPool2d with ceil_mode). */
static struct tensor evened(struct program *p, const struct tensor *x)
{
    const int64_t h = x->dims[1], w = x->dims[2], c = x->dims[3];
    const int64_t high = h + h % 2, wide = w + w % 2;
    if (high == h && wide == w)
        return *x;
    const struct tensor y = PROGRAM_TENSOR(p, 1, high, wide, c);
    for (int64_t i = 0; i < high; i++) {
        const int64_t from = (i < h ? i : h - 1) * w * c;
        copy(p, &y, i * wide * c, x, from, w * c);
        if (wide > w)
            copy(p, &y, (i * wide + w) * c, x, from + (w - 1) * c, c);
    }
    return y;
}

static struct tensor level(const struct control *c, const struct control_stage *s,
                           struct program *p, struct tensor x)
{
    if (s->down) {
        x = evened(p, &x);
        x = nn_conv(p, &s->down_in, &x, &(struct nn_conv_with){.stride = 2});
    } else if (s->has_in) {
        x = nn_conv1x1(p, &s->in, &x, NULL);
    }
    for (int k = 0; k < c->n_resnets; k++) {
        struct tensor h =
            nn_conv(p, &s->resnets[k].block1, &x, &(struct nn_conv_with){.act = ACT_RELU});
        x = c->light ? nn_conv(p, &s->resnets[k].block2, &h, &(struct nn_conv_with){.add = &x})
                     : nn_conv1x1(p, &s->resnets[k].point, &h, &x);
    }
    return s->has_out ? nn_conv1x1(p, &s->out, &x, NULL) : x;
}

void control_adapter_record(const struct control *c, struct program *p, int height, int width,
                            struct control_hint_pass *pass)
{
    const int f = c->shrink;
    pass->picture = PROGRAM_PINNED(p, 1, height / f, width / f, c->channels * f * f);
    struct tensor x = pass->picture;
    if (!c->light)
        x = nn_conv(p, &c->conv_in, &x, NULL);
    pass->n_out = c->n_stages;
    for (int i = 0; i < c->n_stages; i++) {
        x = level(c, &c->stages[i], p, x);
        /* a copy, since the result must be there when all is done */
        pass->out[i] = program_pinned(p, 4, x.dims);
        OP(program_backend(p), act, .out = &pass->out[i], .x = &x, .act = ACT_NONE);
    }
}
