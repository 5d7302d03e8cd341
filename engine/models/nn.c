/* Recording the layers of image models: each call makes the tensor of its result and one or more ops. */
#include "engine/models/nn.h"

#include <math.h>

#include "engine/models/nn_lora.h"

double nn_slice_flops = NN_SLICE_FLOPS;

struct tensor nn_rows(const struct tensor *t)
{
    struct tensor r = {.data = t->data, .type = t->type, .ndim = 2, .dims = {1, 1}};
    for (int i = 0; i < t->ndim - 1; i++)
        r.dims[0] *= t->dims[i];
    r.dims[1] = t->dims[t->ndim - 1];
    return r;
}

struct tensor nn_like(struct program *p, const struct tensor *t)
{
    return program_tensor(p, t->ndim, t->dims);
}

struct tensor nn_pin(struct program *p, const struct tensor *x)
{
    if (x->type == DTYPE_F32) {
        program_pin(p, x);
        return *x;
    }
    struct tensor copy = program_pinned(p, x->ndim, x->dims);
    OP(program_backend(p), act, .out = &copy, .x = x, .act = ACT_NONE);
    return copy;
}

static const struct tensor *bias_of(const struct tensor *bias)
{
    return bias->data != NULL ? bias : NULL;
}

double nn_slice(struct program *p)
{
    enum { DEVICE_TIMES = 50 }; /* 2e11 flops: 10 ms at 20 Tflop/s */
    return nn_slice_flops * (program_backend(p)->host_memory ? 1 : DEVICE_TIMES);
}

/* Units of work that make one slice, at least `step` and a multiple of it. */
static int64_t slice_of(struct program *p, double flops_per_unit, int64_t n, int64_t step)
{
    double fit = nn_slice(p) / flops_per_unit;
    if (fit >= (double)n)
        return n;
    int64_t units = (int64_t)fit / step * step;
    return units < step ? step : units;
}

/* ---- matrix products ---- */

struct tensor nn_some_rows(const struct tensor *t, int64_t begin, int64_t n)
{
    struct tensor r = nn_rows(t);
    r.data = tensor_at(&r, begin * r.dims[1]);
    r.dims[0] = n;
    return r;
}

void nn_emit_linear_part(struct program *p, const struct op_linear *op, int64_t first,
                         int64_t total)
{
    struct op_linear o = *op;
    o.precise = true; /* with block weights: errors add up over the steps of a picture */
    struct backend *rec = program_backend(p);
    rec->ops->linear(rec, &o);
    for (int i = 0; i < LINEAR_MAX && op->w[i] != NULL; i++)
        nn_lora_linear(p, op->w[i], op->x, op->out[i], (struct nn_lora_rows){first, total});
}

void nn_emit_linear(struct program *p, const struct op_linear *op)
{
    const int64_t n = nn_rows(op->x).dims[0];
    double flops = 0;
    for (int i = 0; i < LINEAR_MAX && op->w[i] != NULL; i++)
        flops += 2.0 * (double)op->w[i]->n_out * (double)op->w[i]->n_in;
    const int64_t step = slice_of(p, flops, n, 32);
    for (int64_t begin = 0; begin < n; begin += step) {
        const int64_t rows = n - begin < step ? n - begin : step;
        struct op_linear o = *op;
        struct tensor out[LINEAR_MAX], add, x = nn_some_rows(op->x, begin, rows);
        o.x = &x;
        for (int i = 0; i < LINEAR_MAX && op->w[i] != NULL; i++) {
            out[i] = nn_some_rows(op->out[i], begin, rows);
            o.out[i] = &out[i];
        }
        if (op->add != NULL) {
            add = nn_some_rows(op->add, begin, rows);
            o.add = &add;
        }
        nn_emit_linear_part(p, &o, begin, n);
    }
}

struct tensor nn_linear(struct program *p, const struct nn_linear *l, const struct tensor *x,
                        const struct tensor *add)
{
    struct tensor out = PROGRAM_TENSOR(p, nn_rows(x).dims[0], l->w->n_out);
    nn_emit_linear(
        p, &(struct op_linear){
               .out = {&out}, .w = {l->w}, .bias = {bias_of(&l->bias)}, .x = x, .add = add});
    return out;
}

struct tensor nn_conv1x1(struct program *p, const struct nn_linear *l, const struct tensor *x,
                         const struct tensor *add)
{
    struct tensor out = PROGRAM_TENSOR(p, x->dims[0], x->dims[1], x->dims[2], l->w->n_out);
    nn_emit_linear(
        p, &(struct op_linear){
               .out = {&out}, .w = {l->w}, .bias = {bias_of(&l->bias)}, .x = x, .add = add});
    return out;
}

/* ---- convolutions ---- */

void nn_emit_conv(struct program *p, const struct op_conv2d *op)
{
    struct op_conv2d o = *op;
    const int64_t *out = op->out->dims;
    double row = 2.0 * (double)(out[0] * out[2]) * (double)op->w->n_out * (double)op->w->n_in;
    if (op->kernel == 3 && op->stride == 1)
        row *= op->upsample ? 0.25 : 0.5;             /* fewer products (kernels/cpu/conv_win.h) */
    const int64_t step = slice_of(p, row, out[1], 4); /* whole tiles, where a backend has such */
    for (int64_t y = 0; y < out[1]; y += step) {
        o.y_begin = (int)y;
        o.y_end = (int)(out[1] - y < step ? out[1] : y + step);
        struct backend *rec = program_backend(p);
        rec->ops->conv2d(rec, &o);
    }
    nn_lora_conv(p, op);
}

struct tensor nn_conv(struct program *p, const struct nn_conv *l, const struct tensor *x,
                      const struct nn_conv_with *with)
{
    static const struct nn_conv_with plainly;
    with = with != NULL ? with : &plainly;
    const int stride = with->stride > 0 ? with->stride : 1;
    const int before = with->pad_after_only ? 0 : (l->kernel - 1) / 2;
    const int after = with->pad_after_only ? 1 : (l->kernel - 1) / 2;
    int64_t h = x->dims[1], w = x->dims[2];
    if (with->upsample) {
        h = with->like != NULL ? with->like->dims[1] : 2 * h;
        w = with->like != NULL ? with->like->dims[2] : 2 * w;
    }
    h = (h + before + after - l->kernel) / stride + 1;
    w = (w + before + after - l->kernel) / stride + 1;
    struct tensor out = PROGRAM_TENSOR(p, x->dims[0], h, w, l->c_out);
    nn_emit_conv(p, &(struct op_conv2d){.out = &out,
                                        .x = x,
                                        .w = l->w,
                                        .bias = bias_of(&l->bias),
                                        .add_image = with->add_image,
                                        .add = with->add,
                                        .kernel = l->kernel,
                                        .stride = stride,
                                        .pad_before = before,
                                        .pad_after = after,
                                        .upsample = with->upsample,
                                        .act = with->act});
    return out;
}

/* ---- norms ---- */

struct tensor nn_layernorm(struct program *p, const struct nn_norm *l, const struct tensor *x,
                           float eps)
{
    struct tensor out = nn_like(p, x);
    OP(program_backend(p), layernorm, .out = &out, .x = x, .w = &l->w, .bias = &l->bias,
       .eps = eps);
    return out;
}

struct tensor nn_groupnorm(struct program *p, const struct nn_norm *l, const struct tensor *x,
                           struct nn_group g, enum act act)
{
    struct tensor out = nn_like(p, x);
    OP(program_backend(p), groupnorm, .out = &out, .x = x, .w = &l->w, .bias = &l->bias,
       .n_groups = g.n_groups, .eps = g.eps, .act = act);
    return out;
}

/* ---- attention ---- */

struct attn_item *nn_attn(struct program *p, const struct nn_attn *a, int *per_sequence)
{
    const int64_t dim = (int64_t)a->n_heads * a->head_dim;
    const double flops = 4.0 * (double)a->n_k * (double)dim; /* of a query */
    /* a causal item's last query sees all keys: not to be cut */
    const int step = a->causal ? a->n_q : (int)slice_of(p, flops, a->n_q, 64);
    const int slices = (a->n_q + step - 1) / step, n_items = a->n * slices;
    struct attn_item *items = program_array(p, (size_t)n_items, sizeof *items);
    double work = 0;
    for (int i = 0, first = 0; i < n_items; i++) {
        const int sequence = i / slices, begin = i % slices * step;
        const int64_t q = ((int64_t)sequence * a->n_q + begin) * dim;
        const int64_t k = (int64_t)sequence * a->n_k * dim;
        items[i] = (struct attn_item){
            .q = tensor_at(a->q, q),
            .k = a->k != NULL ? tensor_at(a->k, k) : NULL,
            .v = a->v != NULL ? tensor_at(a->v, k) : NULL,
            .out = tensor_at(a->out, q),
            .n_q = a->n_q - begin < step ? a->n_q - begin : step,
            .n_k = a->n_k,
            .q_stride = (int)dim,
            .kv_stride = (int)dim,
            .out_stride = (int)dim,
        };
        work += flops * items[i].n_q;
        if (i + 1 < n_items && work + flops * step <= nn_slice(p))
            continue;
        OP(program_backend(p), attn, .items = items + first, .n_items = i + 1 - first,
           .n_heads = a->n_heads, .head_dim = a->head_dim, .scale = 1 / sqrtf((float)a->head_dim),
           .type = a->q->type, .kv_type = a->k != NULL ? a->k->type : DTYPE_F32,
           .causal = a->causal);
        first = i + 1;
        work = 0;
    }
    if (per_sequence != NULL)
        *per_sequence = slices;
    return items;
}

/* ---- residual blocks ---- */

/* shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time(t)))) */
struct tensor nn_resnet(struct program *p, const struct nn_resnet *r, const struct tensor *x,
                        const struct tensor *time, struct nn_group g)
{
    struct tensor t, shortcut = *x;
    struct nn_conv_with with = {0};
    if (time != NULL) {
        t = nn_linear(p, &r->time, time, NULL);
        with.add_image = &t;
    }
    struct tensor h = nn_groupnorm(p, &r->norm1, x, g, ACT_SILU);
    h = nn_conv(p, &r->conv1, &h, &with);
    if (r->shortcut.w != NULL)
        shortcut = nn_conv1x1(p, &r->shortcut, x, NULL);
    struct tensor h2 = nn_groupnorm(p, &r->norm2, &h, g, ACT_SILU);
    return nn_conv(p, &r->conv2, &h2, &(struct nn_conv_with){.add = &shortcut});
}
