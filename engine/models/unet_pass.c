/* The UNet's forward pass (docs/MODELS.md has the formulas).
 *
 * Down: each layer's result is kept for the way up; the program's plan of memory sees that they live until
 * there.  Text is attended to through keys and values that were computed once for the prompt, and
 * each row of a batch has its own: their addresses are put into the attention's items before a run. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine/models/nn_lora.h"
#include "engine/models/unet.h"

#define TRANSFORMER_EPS 1e-6f /* of the group norm before, */
#define BLOCK_EPS       1e-5f /* and the layer norms inside */

enum {
    MAX_CROSS = 2 * UNET_MAX_STAGES * UNET_MAX_LAYERS * UNET_MAX_DEPTH,
    TOKENS = 4 * 77 /* of a prompt, for the sizes of slices */
};

struct pass {
    const struct unet *m;
    struct program *p;
    struct backend *be;
    struct unet_pass *out;
    struct tensor time; /* [n, time_dim], silu of the time embedding */
    struct tensor skips[UNET_MAX_SKIPS];
    int n_skips;
    int first_stage; /* the place in the first stage */
    unsigned parts;  /* enum unet_part */
    int branch;
    bool once; /* so far: rows are those of the first half, computed for both (unet_want's pairs) */
};

static struct nn_group group(const struct unet *m)
{
    return (struct nn_group){.n_groups = m->c.n_groups, .eps = m->c.eps};
}

/* ---- pairs of rows ---- */

bool unet_pass_pairs(const struct unet *m)
{
    const struct unet_transformer *first = &m->down[0].attn[0];
    return m->c.pooled_dim == 0 && first->n_blocks > 0 &&
           (first->blocks[0].attn[0].text || first->blocks[0].attn[1].text);
}

/* The first half of the rows, where they lie. */
static struct tensor first_half(const struct tensor *t)
{
    struct tensor half = *t;
    half.dims[0] /= 2;
    return half;
}

/* x, and behind it x again for the second half. */
static struct tensor twice(struct pass *s, const struct tensor *x)
{
    const struct tensor from = nn_rows(x);
    struct tensor y = PROGRAM_TENSOR(s->p, 2 * x->dims[0], x->dims[1], x->dims[2], x->dims[3]);
    for (int i = 0; i < 2; i++) {
        struct tensor to = nn_some_rows(&y, i * from.dims[0], from.dims[0]);
        OP(s->be, act, .out = &to, .x = &from, .act = ACT_NONE);
    }
    return y;
}

/* ---- time ---- */

/* linear2(silu(linear1(x))) */
static struct tensor embed(struct pass *s, const struct nn_linear *l1, const struct nn_linear *l2,
                           const struct tensor *x)
{
    struct tensor h = nn_linear(s->p, l1, x, NULL);
    OP(s->be, act, .out = &h, .x = &h, .act = ACT_SILU);
    return nn_linear(s->p, l2, &h, NULL);
}

static void record_time(struct pass *s)
{
    const struct unet *m = s->m;
    const struct unet_config *c = &m->c;
    const int64_t n = s->out->n;
    struct tensor x = s->out->time = PROGRAM_PINNED(s->p, n, c->channels[0]);
    if (c->guidance_dim > 0) {
        s->out->guidance = PROGRAM_PINNED(s->p, n, c->guidance_dim);
        x = nn_linear(s->p, &m->guidance, &s->out->guidance, &x);
    }
    s->time = embed(s, &m->time1, &m->time2, &x);
    if (m->classes != NULL) {
        struct tensor class = PROGRAM_TENSOR(s->p, n, c->time_dim);
        s->out->classes = program_array(s->p, (size_t)n, sizeof *s->out->classes);
        OP(s->be, embed, .out = &class, .w = m->classes, .ids = s->out->classes);
        OP(s->be, add, .out = &s->time, .a = &s->time, .b = &class);
    }
    if (c->pooled_dim > 0) {
        s->out->added = PROGRAM_PINNED(s->p, n, c->pooled_dim + c->n_time_ids * c->added_dim);
        struct tensor added = embed(s, &m->added1, &m->added2, &s->out->added);
        OP(s->be, add, .out = &s->time, .a = &s->time, .b = &added);
    }
    OP(s->be, act, .out = &s->time, .x = &s->time, .act = ACT_SILU);
}

/* ---- transformers: x [n, h, w, c] ---- */

/* x += o(attention of norm(x)) */
static void attention(struct pass *s, const struct unet_transformer *t, const struct unet_block *b,
                      int which, struct tensor *x)
{
    const struct nn_norm *norm = which == 0 ? &b->norm1 : &b->norm2;
    const bool text = b->attn[which].text;
    struct tensor h = nn_layernorm(s->p, norm, x, BLOCK_EPS);
    struct tensor q = nn_like(s->p, x), k, v;
    struct nn_attn a = {.q = &q,
                        .out = &q,
                        .n = (int)x->dims[0],
                        .n_q = (int)(x->dims[1] * x->dims[2]),
                        .n_k = TOKENS,
                        .n_heads = t->n_heads,
                        .head_dim = t->c / t->n_heads};
    struct op_linear op = {.out = {&q}, .w = {b->attn[which].q.w}, .x = &h};
    if (!text) {
        k = nn_like(s->p, x);
        v = nn_like(s->p, x);
        op.out[1] = &k;
        op.out[2] = &v;
        op.w[1] = b->attn[which].k.w;
        op.w[2] = b->attn[which].v.w;
        a.k = &k;
        a.v = &v;
        a.n_k = a.n_q;
    }
    nn_emit_linear(s->p, &op);
    int per_row;
    struct attn_item *items = nn_attn(s->p, &a, &per_row);
    if (text)
        s->out->cross[s->out->n_cross++] = (struct unet_cross){
            .items = items, .per_row = per_row, .dim = t->c, .kv_at = b->attn[which].kv_at};
    const struct nn_linear *o = &b->attn[which].o;
    nn_emit_linear(
        s->p, &(struct op_linear){.out = {x}, .w = {o->w}, .bias = {&o->bias}, .x = &q, .add = x});
}

/* x += down(value * gelu(gate)), some rows at a time: what lies between is eight times as wide. */
static void feed_forward(struct pass *s, const struct unet_block *b, const struct tensor *x)
{
    struct tensor h = nn_layernorm(s->p, &b->norm3, x, BLOCK_EPS), rows = nn_rows(x);
    const int64_t n = rows.dims[0], c = rows.dims[1];
    const double fit = nn_slice(s->p) / (16.0 * (double)(c * c));
    const int64_t most = s->be->host_memory ? 1024 : 8192; /* rows, for memory's sake */
    const int64_t step = fit < 32 ? 32 : fit > (double)most ? most : (int64_t)fit / 32 * 32;
    for (int64_t begin = 0; begin < n; begin += step) {
        const int64_t count = n - begin < step ? n - begin : step;
        struct tensor from = nn_some_rows(&h, begin, count), to = nn_some_rows(x, begin, count);
        struct tensor value = PROGRAM_TENSOR(s->p, count, 4 * c);
        struct tensor gate = PROGRAM_TENSOR(s->p, count, 4 * c);
        nn_emit_linear_part(s->p,
                            &(struct op_linear){.out = {&value, &gate},
                                                .w = {b->ff[0].w, b->ff[1].w},
                                                .bias = {&b->ff[0].bias, &b->ff[1].bias},
                                                .x = &from},
                            begin, n);
        OP(s->be, glu, .out = &gate, .gate = &gate, .up = &value, .act = ACT_GELU);
        nn_emit_linear_part(
            s->p,
            &(struct op_linear){
                .out = {&to}, .w = {b->down.w}, .bias = {&b->down.bias}, .x = &gate, .add = &to},
            begin, n);
    }
}

static struct tensor transformer(struct pass *s, const struct unet_transformer *t,
                                 const struct tensor *x)
{
    const struct nn_group g = {.n_groups = s->m->c.n_groups, .eps = TRANSFORMER_EPS};
    struct tensor h = nn_groupnorm(s->p, &t->norm, x, g, ACT_NONE);
    h = nn_conv1x1(s->p, &t->in, &h, NULL);
    struct tensor before = *x;
    for (int i = 0; i < t->n_blocks; i++) {
        for (int which = 0; which < 2; which++) {
            if (s->once && t->blocks[i].attn[which].text) {
                h = twice(s, &h);
                before = twice(s, x);
                s->once = false;
                nn_lora_images(s->p, s->out->n);
            }
            attention(s, t, &t->blocks[i], which, &h);
        }
        feed_forward(s, &t->blocks[i], &h);
    }
    return nn_conv1x1(s->p, &t->out, &h, &before);
}

/* ---- the three parts ---- */

static struct tensor layer(struct pass *s, const struct unet_stage *stage, int i,
                           const struct tensor *x)
{
    const struct tensor time = s->once ? first_half(&s->time) : s->time;
    struct tensor y = nn_resnet(s->p, &stage->resnets[i], x, &time, group(s->m));
    return stage->attn[i].n_blocks > 0 ? transformer(s, &stage->attn[i], &y) : y;
}

/* x + what is added at the place, a tensor of its own: x may be read again. */
static struct tensor steered(struct pass *s, const struct tensor *x, int place)
{
    if (s->out->residuals == NULL)
        return *x;
    struct tensor *r = &s->out->residuals[place], y = nn_like(s->p, x);
    *r = program_pinned(s->p, r->ndim, r->dims);
    OP(s->be, add, .out = &y, .a = x, .b = r);
    return y;
}

/* Is the next skip given?  Else it is made, or (ends) nobody wants it here. */
static bool is_given(const struct pass *s)
{
    return s->n_skips <= s->branch && !(s->parts & UNET_HEAD);
}

static bool ends(const struct pass *s)
{
    return s->n_skips > s->branch && !(s->parts & UNET_DEEP);
}

static struct tensor record_down(struct pass *s, struct tensor x)
{
    const struct unet_config *c = &s->m->c;
    const struct nn_conv_with half = {.stride = 2, .pad_after_only = c->pad_after_only};
    s->skips[s->n_skips++] = s->once ? twice(s, &x) : x;
    for (int i = 0; i < c->n_stages; i++) {
        const struct unet_stage *stage = &s->m->down[i];
        const bool down = stage->sampler.w != NULL, before = c->down_attn[i] || !down;
        for (int k = 0; k < stage->n_layers; k++) {
            if (ends(s))
                return x;
            if (is_given(s)) {
                x = s->skips[s->n_skips++];
                continue;
            }
            x = layer(s, stage, k, &x);
            if (before && k == stage->n_layers - 1)
                x = steered(s, &x, s->first_stage + i);
            s->skips[s->n_skips++] = x;
        }
        if (!down || ends(s))
            continue;
        if (is_given(s)) {
            x = s->skips[s->n_skips++];
            continue;
        }
        x = nn_conv(s->p, &stage->sampler, &x, &half);
        if (!before)
            x = steered(s, &x, s->first_stage + i);
        s->skips[s->n_skips++] = x;
    }
    return x;
}

/* What the layer that reads skip `branch` reads besides it. */
static void record_deep(struct pass *s, struct tensor *x)
{
    const struct tensor *skip = &s->skips[s->branch];
    if (s->parts & UNET_DEEP)
        s->out->deep = nn_pin(s->p, x);
    else
        s->out->deep = *x = PROGRAM_PINNED(s->p, skip->dims[0], skip->dims[1], skip->dims[2],
                                           unet_deep_channels(s->m, s->branch));
    program_host(s->p, &s->out->deep, s->parts & UNET_DEEP ? PROGRAM_OUT : PROGRAM_IN);
}

static struct tensor record_up(struct pass *s, struct tensor x, int n_skips)
{
    for (int i = 0; i < s->m->c.n_stages; i++) {
        const struct unet_stage *stage = &s->m->up[i];
        for (int k = 0; k < stage->n_layers; k++) {
            n_skips--;
            if (n_skips > s->branch && !(s->parts & UNET_DEEP))
                continue;
            if (n_skips == s->branch)
                record_deep(s, &x);
            const struct tensor skip = steered(s, &s->skips[n_skips], n_skips);
            struct tensor both =
                PROGRAM_TENSOR(s->p, x.dims[0], x.dims[1], x.dims[2], x.dims[3] + skip.dims[3]);
            OP(s->be, concat, .out = &both, .a = &x, .b = &skip);
            x = layer(s, stage, k, &both);
        }
        if (stage->sampler.w != NULL && (n_skips <= s->branch || s->parts & UNET_DEEP))
            x = nn_conv(s->p, &stage->sampler, &x,
                        &(struct nn_conv_with){.upsample = true, .like = &s->skips[n_skips - 1]});
    }
    return x;
}

static int count_cross(const struct unet_stage *s)
{
    int n = 0;
    for (int i = 0; i < s->n_layers; i++)
        n += 2 * s->attn[i].n_blocks;
    return n;
}

static void record_mid(struct pass *s, struct tensor *x)
{
    for (int i = 0; i < s->m->mid.n_layers; i++)
        *x = layer(s, &s->m->mid, i, x);
}

/* Inputs, and the way down; the skips are in s. */
static struct tensor record_half(struct pass *s, const int64_t size[3], const struct tensor *hint)
{
    const struct unet_config *c = &s->m->c;
    int n_cross = count_cross(&s->m->mid);
    for (int i = 0; i < c->n_stages; i++)
        n_cross += count_cross(&s->m->down[i]) + count_cross(&s->m->up[i]);
    s->out->cross = program_array(s->p, (size_t)n_cross, sizeof *s->out->cross);
    record_time(s); /* of f32: it is small */
    program_use(s->p, s->be->activations);
    if (!(s->parts & UNET_HEAD))
        return record_down(s, s->skips[0]);
    s->out->x = PROGRAM_PINNED(s->p, size[0], size[1], size[2], c->in_channels);
    const struct tensor in = s->once ? first_half(&s->out->x) : s->out->x;
    if (s->once)
        nn_lora_images(s->p, s->out->n / 2);
    struct tensor x = nn_conv(s->p, &s->m->conv_in, &in, &(struct nn_conv_with){.add = hint});
    return record_down(s, x);
}

/* Shapes of residuals; those that are read become tensors where they are. */
static void record_residuals(struct pass *s, const struct unet_places *places,
                             const int64_t size[3])
{
    s->first_stage = places->n_skips + 1;
    s->out->n_places = places->n;
    s->out->residuals = program_array(s->p, (size_t)places->n, sizeof *s->out->residuals);
    for (int i = 0; i < places->n; i++)
        s->out->residuals[i] = (struct tensor){
            .ndim = 4,
            .dims = {size[0], unet_place_side(size[1], places->at[i].shrink),
                     unet_place_side(size[2], places->at[i].shrink), places->at[i].c}};
}

/* The head's skips as inputs. */
static void record_head(struct pass *s, const struct unet_places *places, const int64_t size[3])
{
    s->out->n_head = s->branch + 1;
    s->out->head = program_array(s->p, (size_t)s->out->n_head, sizeof *s->out->head);
    for (int i = 0; i <= s->branch; i++) {
        s->skips[i] = s->out->head[i] =
            PROGRAM_PINNED(s->p, size[0], unet_place_side(size[1], places->at[i].shrink),
                           unet_place_side(size[2], places->at[i].shrink), places->at[i].c);
        program_host(s->p, &s->skips[i], PROGRAM_IN);
    }
}

/* And as results. */
static void keep_head(struct pass *s)
{
    s->out->n_head = s->n_skips;
    s->out->head = program_array(s->p, (size_t)s->n_skips, sizeof *s->out->head);
    for (int i = 0; i < s->n_skips; i++) {
        s->out->head[i] = nn_pin(s->p, &s->skips[i]);
        program_host(s->p, &s->out->head[i], PROGRAM_OUT);
    }
}

static void record_out(struct pass *s, const struct tensor *x, const int64_t size[3])
{
    const struct unet *m = s->m;
    const struct tensor y = nn_groupnorm(s->p, &m->norm_out, x, group(m), ACT_SILU);
    s->out->out = PROGRAM_PINNED(s->p, size[0], size[1], size[2], m->c.out_channels);
    nn_emit_conv(s->p, &(struct op_conv2d){.out = &s->out->out,
                                           .x = &y,
                                           .w = m->conv_out.w,
                                           .bias = &m->conv_out.bias,
                                           .kernel = m->conv_out.kernel,
                                           .stride = 1,
                                           .pad_before = m->conv_out.kernel / 2,
                                           .pad_after = m->conv_out.kernel / 2});
}

void unet_pass_record(const struct unet *m, struct program *p, const struct unet_want *want,
                      struct unet_pass *pass)
{
    struct pass s = {.m = m,
                     .p = p,
                     .be = program_backend(p),
                     .out = pass,
                     .parts = want->parts,
                     .branch = want->branch,
                     .once = want->pairs};
    struct unet_places places;
    unet_places(&m->c, &places);
    *pass = (struct unet_pass){.p = p, .n = (int)want->size[0]};
    if (want->steered)
        record_residuals(&s, &places, want->size);
    if (!(s.parts & UNET_HEAD))
        record_head(&s, &places, want->size);
    struct tensor x = record_half(&s, want->size, NULL);
    if (!(s.parts & UNET_TAIL)) {
        keep_head(&s);
        return;
    }
    if (s.parts & UNET_DEEP) {
        record_mid(&s, &x);
        x = steered(&s, &x, places.n_skips);
    }
    x = record_up(&s, x, places.n_skips);
    record_out(&s, &x, want->size);
}

void unet_pass_record_half(const struct unet *m, struct program *p, const struct tensor *hint,
                           int n_skips, struct unet_pass *pass, struct unet_half *out)
{
    struct pass s = {.m = m,
                     .p = p,
                     .be = program_backend(p),
                     .out = pass,
                     .parts = n_skips > 0 ? UNET_HEAD : UNET_WHOLE,
                     .branch = n_skips - 1};
    *pass = (struct unet_pass){.p = p, .n = (int)hint->dims[0]};
    out->mid = record_half(&s, hint->dims, hint);
    if (n_skips == 0)
        record_mid(&s, &out->mid);
    out->n_skips = s.n_skips;
    for (int i = 0; i < s.n_skips; i++)
        out->skips[i] = s.skips[i];
}

/* ---- before a run ---- */

/* Sinusoids of t (Vaswani et al. 2017), half sines and half cosines: frequency i is
 * 10000^(-i / (half - shift)). */
static void sinusoids(float *to, int dim, float t, bool cosines_first, float shift)
{
    const int half = dim / 2;
    for (int i = 0; i < half; i++) {
        const float f = expf(-logf(10000) * (float)i / ((float)half - shift));
        to[cosines_first ? half + i : i] = sinf(t * f);
        to[cosines_first ? i : half + i] = cosf(t * f);
    }
}

/* NULL where there is no memory; the run says so. */
static float *input_row(const struct unet_pass *pass, const struct tensor *t, int row)
{
    float *host = program_host(pass->p, t, PROGRAM_IN);
    int64_t n = 1;
    for (int i = 1; i < t->ndim; i++)
        n *= t->dims[i];
    return host != NULL ? host + row * n : NULL;
}

void unet_pass_set_kv(struct unet_pass *pass, int row, const float *kv, int n_tokens)
{
    for (int i = 0; i < pass->n_cross; i++) {
        const struct unet_cross *cross = &pass->cross[i];
        const float *k = kv + cross->kv_at * (size_t)n_tokens;
        for (int j = 0; j < cross->per_row; j++) {
            struct attn_item *item = &cross->items[row * cross->per_row + j];
            item->k = k;
            item->v = k + (size_t)cross->dim * (size_t)n_tokens;
            item->n_k = n_tokens;
        }
    }
}

void unet_pass_set(const struct unet *m, struct unet_pass *pass, int row, const struct unet_row *r)
{
    const struct unet_config *c = &m->c;
    float *time = input_row(pass, &pass->time, row);
    if (time != NULL)
        sinusoids(time, c->channels[0], r->timestep, c->flip_sin_to_cos, c->freq_shift);
    float *guidance = c->guidance_dim > 0 ? input_row(pass, &pass->guidance, row) : NULL;
    if (guidance != NULL)
        sinusoids(guidance, c->guidance_dim, (r->guidance - 1) * 1000, false, 1);
    float *added = c->pooled_dim > 0 ? input_row(pass, &pass->added, row) : NULL;
    if (added != NULL) {
        for (int i = 0; i < c->pooled_dim; i++)
            added[i] = r->pooled[i];
        for (int i = 0; i < c->n_time_ids; i++)
            sinusoids(added + c->pooled_dim + i * c->added_dim, c->added_dim, r->time_ids[i],
                      c->flip_sin_to_cos, c->freq_shift);
    }
    if (pass->classes != NULL)
        pass->classes[row] = r->class;
    unet_pass_set_kv(pass, row, r->kv, r->n_tokens);
}

/* -0 and not 0: x + -0 is x for every x, -0 too. */
void unet_pass_set_residuals(struct unet_pass *pass, int row, const float *block)
{
    for (int i = 0; i < pass->n_places; i++) {
        const struct tensor *t = &pass->residuals[i];
        const size_t n = (size_t)(t->dims[1] * t->dims[2] * t->dims[3]);
        const float *from = block;
        block = block != NULL ? block + n : NULL;
        if (t->data == NULL)
            continue; /* of a part that is not here */
        float *to = input_row(pass, t, row);
        if (to == NULL)
            return;
        if (from != NULL) {
            memcpy(to, from, n * sizeof *to);
            continue;
        }
        for (size_t k = 0; k < n; k++)
            to[k] = -0.0f;
    }
}

/* Copies row `row` of the tensor to or from the host. */
static float *copy_row(struct unet_pass *pass, const struct tensor *t, int row, float *block,
                       enum program_way way)
{
    const size_t n = (size_t)(t->dims[1] * t->dims[2] * t->dims[3]);
    float *host = program_host(pass->p, t, way);
    if (host == NULL)
        return block;
    if (way == PROGRAM_IN)
        memcpy(host + (size_t)row * n, block, n * sizeof *block);
    else
        memcpy(block, host + (size_t)row * n, n * sizeof *block);
    return block + n;
}

void unet_pass_copy_head(struct unet_pass *pass, int row, float *block, enum program_way way)
{
    for (int i = 0; i < pass->n_head; i++)
        block = copy_row(pass, &pass->head[i], row, block, way);
}

void unet_pass_copy_deep(struct unet_pass *pass, int row, float *block, enum program_way way)
{
    copy_row(pass, &pass->deep, row, block, way);
}

/* ---- keys and values of a prompt ---- */

static void record_stage_kv(const struct unet_stage *s, struct program *p,
                            const struct tensor *context, float *kv)
{
    const int64_t n = context->dims[0];
    for (int i = 0; i < s->n_layers; i++) {
        const struct unet_transformer *t = &s->attn[i];
        for (int j = 0; j < 2 * t->n_blocks; j++) {
            const struct unet_block *b = &t->blocks[j / 2];
            if (!b->attn[j % 2].text)
                continue;
            float *to = kv + b->attn[j % 2].kv_at * (size_t)n;
            struct tensor k = {.data = to, .type = DTYPE_F32, .ndim = 2, .dims = {n, t->c}};
            struct tensor v = k;
            v.data = to + n * t->c;
            nn_emit_linear(p, &(struct op_linear){.out = {&k, &v},
                                                  .w = {b->attn[j % 2].k.w, b->attn[j % 2].v.w},
                                                  .x = context});
        }
    }
}

void unet_pass_record_kv(const struct unet *m, struct program *p, const struct tensor *context,
                         float *kv)
{
    for (int i = 0; i < m->c.n_stages; i++) {
        record_stage_kv(&m->down[i], p, context, kv);
        record_stage_kv(&m->up[i], p, context, kv);
    }
    record_stage_kv(&m->mid, p, context, kv);
}
