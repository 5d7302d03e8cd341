/* A backend for the checks that takes ops over host memory and has another device run them: everything an
 * op mentions is copied to the device between guards, and back.  So each check of an op is also one of a
 * CUDA backend.
 *
 * Addresses keep their remainder by 64, so unaligned starts stay unaligned; overlapping pieces of host
 * memory stay overlapping.  Activations may be halves on the device (kc->type), of ops that take such; on the
 * host they are floats. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/quant.h"
#include "kernels/team.h"
#include "tests/kcheck/kcheck.h"

#define GUARD       256
#define MAX_RANGES  256
#define MAX_TENSORS 16

struct range {
    char *host, *device; /* device: of the first byte of host */
    char *memory;        /* of the device, with guards */
    size_t bytes;        /* of the host */
    enum dtype type;     /* on the device */
    bool out;
};

struct proxy {
    struct backend be; /* first */
    struct kcheck *kc;
    struct backend *real;
    struct range ranges[MAX_RANGES];
    int n;
    struct tensor tensors[MAX_TENSORS]; /* of one op, as the device gets them */
    int n_tensors;
};

static struct proxy *proxy_of(struct backend *be)
{
    return (struct proxy *)be;
}

static size_t device_bytes(const struct range *r)
{
    return r->type == DTYPE_F32 ? r->bytes : r->bytes / 2;
}

/* Bytes by which the range begins behind a multiple of 64. */
static size_t shift_of(const struct range *r)
{
    return (uintptr_t)r->host % 64 / (r->type == DTYPE_F32 ? 1 : 2);
}

/* Will be needed by the op; ranges that overlap become one. */
static void want(struct proxy *x, const void *p, size_t bytes, enum dtype type, bool out)
{
    struct range r = {.host = (char *)(uintptr_t)p, .bytes = bytes, .type = type, .out = out};
    if (!p || !bytes)
        return;
    for (int i = 0; i < x->n; i++) {
        struct range *o = &x->ranges[i];
        if (o->host >= r.host + r.bytes || r.host >= o->host + o->bytes)
            continue;
        char *begin = o->host < r.host ? o->host : r.host;
        char *end = o->host + o->bytes > r.host + r.bytes ? o->host + o->bytes : r.host + r.bytes;
        r = (struct range){
            .host = begin, .bytes = (size_t)(end - begin), .type = type, .out = o->out || r.out};
        *o = x->ranges[--x->n];
        i = -1;
    }
    if (x->n == MAX_RANGES) {
        fprintf(stderr, "kcheck: an op with more than %d pieces of memory\n", MAX_RANGES);
        exit(1);
    }
    x->ranges[x->n++] = r;
}

static size_t tensor_bytes(const struct tensor *t)
{
    size_t bytes = sizeof(float);
    for (int i = 0; i < t->ndim; i++)
        bytes *= (size_t)t->dims[i];
    return bytes;
}

/* The op's tensor for the device; its place there is known when send has been. */
static struct tensor *tensor_of(struct proxy *x, const struct tensor *t, enum dtype type, bool out)
{
    if (!t)
        return NULL;
    want(x, t->data, tensor_bytes(t), type, out);
    x->tensors[x->n_tensors] = *t;
    return &x->tensors[x->n_tensors++];
}

/* Tensors that an op reads, and those that it writes: floats, or activations of any type. */
static struct tensor *in(struct proxy *x, const struct tensor *t)
{
    return tensor_of(x, t, DTYPE_F32, false);
}

static struct tensor *out(struct proxy *x, const struct tensor *t)
{
    return tensor_of(x, t, DTYPE_F32, true);
}

static struct tensor *any_in(struct proxy *x, const struct tensor *t)
{
    return tensor_of(x, t, x->kc->type, false);
}

static struct tensor *any_out(struct proxy *x, const struct tensor *t)
{
    return tensor_of(x, t, x->kc->type, true);
}

static void die(const char *what, const struct err *e)
{
    fprintf(stderr, "kcheck: %s: %s\n", what, e->msg);
    exit(1);
}

/* NaN around inputs, a pattern around outputs. */
static uint32_t guard_word(const struct range *r)
{
    return r->out ? 0xdeadbeefu : 0x7fff7fffu;
}

/* As the device has it. */
static void image_of(char *to, const struct range *r)
{
    if (r->type == DTYPE_F32)
        memcpy(to, r->host, r->bytes);
    else
        quant_pack(r->type, to, (const float *)(const void *)r->host,
                   (int64_t)(r->bytes / sizeof(float)));
}

/* The range that has p. */
static const struct range *range_of(const struct proxy *x, const void *p)
{
    for (int i = 0; p && i < x->n; i++)
        if ((const char *)p >= x->ranges[i].host &&
            (const char *)p < x->ranges[i].host + x->ranges[i].bytes)
            return &x->ranges[i];
    return NULL;
}

static void *there(struct proxy *x, const void *p)
{
    const struct range *r = range_of(x, p);
    if (!r)
        return NULL;
    const ptrdiff_t at = (const char *)p - r->host;
    return r->device + (r->type == DTYPE_F32 ? at : at / 2);
}

static void send(struct proxy *x)
{
    struct err e = {0};
    for (int i = 0; i < x->n; i++) {
        struct range *r = &x->ranges[i];
        size_t shift = shift_of(r), all = device_bytes(r) + shift + 2 * GUARD;
        uint32_t word = guard_word(r);
        char *image = xmalloc(all + 4);
        for (size_t k = 0; k < all; k++)
            image[k] = (char)(word >> 8 * ((k + 64 - GUARD % 64) % 4));
        image_of(image + GUARD + shift, r);
        r->memory = x->real->alloc(x->real, all, &e);
        if (!r->memory)
            die("device memory", &e);
        r->device = r->memory + GUARD + shift;
        x->real->upload(x->real, r->memory, image, all);
        free(image);
    }
    for (int i = 0; i < x->n_tensors; i++) {
        struct tensor *t = &x->tensors[i];
        t->type = range_of(x, t->data)->type;
        t->data = there(x, t->data);
    }
}

/* What came back: guards are whole, inputs as they were, results go home. */
static void check_range(struct kcheck *kc, const struct range *r, const char *image)
{
    const size_t shift = shift_of(r), bytes = device_bytes(r), all = bytes + shift + 2 * GUARD;
    const char *at = image + GUARD + shift;
    bool whole = true;
    for (size_t k = 0; k < all; k++)
        if (k < GUARD + shift || k >= GUARD + shift + bytes)
            whole &= image[k] == (char)(guard_word(r) >> 8 * ((k + 64 - GUARD % 64) % 4));
    kcheck_that(kc, whole, "wrote outside of a tensor");
    if (!r->out) {
        char *sent = xmalloc(bytes + 1);
        image_of(sent, r);
        kcheck_that(kc, memcmp(sent, at, bytes) == 0, "wrote to an input");
        free(sent);
    } else if (r->type == DTYPE_F32) {
        memcpy(r->host, at, bytes);
    } else {
        quant_unpack(r->type, (float *)(void *)r->host, at, (int64_t)(bytes / 2));
    }
}

static void fetch(struct proxy *x)
{
    struct err e = {0};
    char *images[MAX_RANGES];
    for (int i = 0; i < x->n; i++) {
        struct range *r = &x->ranges[i];
        size_t all = device_bytes(r) + shift_of(r) + 2 * GUARD;
        images[i] = xmalloc(all);
        x->real->download(x->real, images[i], r->memory, all);
        if (i % 16 == 15 && x->real->sync(x->real, &e))
            die("an op", &e);
    }
    if (x->real->sync(x->real, &e))
        die("an op", &e);
    for (int i = 0; i < x->n; i++) {
        check_range(x->kc, &x->ranges[i], images[i]);
        free(images[i]);
        x->real->free(x->real, x->ranges[i].memory);
    }
    x->n = x->n_tensors = 0;
}

#define RUN(op, q)                       \
    do {                                 \
        x->real->ops->op(x->real, &(q)); \
        fetch(x);                        \
    } while (0)

static void proxy_embed(struct backend *be, const struct op_embed *p)
{
    struct proxy *x = proxy_of(be);
    struct op_embed q = *p;
    q.out = out(x, p->out);
    send(x);
    RUN(embed, q);
}

static void proxy_linear(struct backend *be, const struct op_linear *p)
{
    struct proxy *x = proxy_of(be);
    struct op_linear q = *p;
    q.x = any_in(x, p->x);
    q.add = any_in(x, p->add);
    q.pre.w = in(x, p->pre.w);
    q.pre.bias = in(x, p->pre.bias);
    q.pre.up = any_in(x, p->pre.up);
    for (int i = 0; i < LINEAR_MAX; i++) {
        q.out[i] = any_out(x, p->out[i]);
        q.bias[i] = in(x, p->bias[i]);
    }
    send(x);
    RUN(linear, q);
}

static void proxy_rmsnorm(struct backend *be, const struct op_rmsnorm *p)
{
    struct proxy *x = proxy_of(be);
    struct op_rmsnorm q = *p;
    q.x = any_in(x, p->x);
    q.w = in(x, p->w);
    q.out = any_out(x, p->out);
    send(x);
    RUN(rmsnorm, q);
}

static void proxy_rope(struct backend *be, const struct op_rope *p)
{
    struct proxy *x = proxy_of(be);
    struct op_rope q = *p;
    q.x = out(x, p->x);
    send(x);
    RUN(rope, q);
}

/* The pages that the rows mention. */
static void want_kv(struct proxy *x, const struct kv_view *kv, const struct kv_row *rows, int64_t n,
                    bool out)
{
    int32_t last = 0;
    for (int64_t r = 0; r < n; r++)
        for (int32_t p = 0; p <= rows[r].pos / KV_PAGE_TOKENS; p++)
            last = rows[r].pages[p] > last ? rows[r].pages[p] : last;
    want(x, kv->base, (size_t)(last + 1) * kv->page_bytes, DTYPE_F32, out);
}

static void proxy_kv_store(struct backend *be, const struct op_kv_store *p)
{
    struct proxy *x = proxy_of(be);
    struct op_kv_store q = *p;
    q.k = in(x, p->k);
    q.v = in(x, p->v);
    want_kv(x, &p->kv, p->rows, p->k->dims[0], true);
    send(x);
    q.kv.base = there(x, p->kv.base);
    RUN(kv_store, q);
}

static void proxy_rope_store(struct backend *be, const struct op_rope_store *p)
{
    struct proxy *x = proxy_of(be);
    struct op_rope_store q = *p;
    q.q = out(x, p->q);
    q.k = out(x, p->k);
    q.v = in(x, p->v);
    want_kv(x, &p->kv, p->rows, p->k->dims[0], true);
    send(x);
    q.kv.base = there(x, p->kv.base);
    RUN(rope_store, q);
}

static void proxy_attn_paged(struct backend *be, const struct op_attn_paged *p)
{
    struct proxy *x = proxy_of(be);
    struct op_attn_paged q = *p;
    q.q = in(x, p->q);
    q.out = out(x, p->out);
    want_kv(x, &p->kv, p->rows, p->q->dims[0], false);
    send(x);
    q.kv.base = there(x, p->kv.base);
    RUN(attn_paged, q);
}

static void proxy_glu(struct backend *be, const struct op_glu *p)
{
    struct proxy *x = proxy_of(be);
    struct op_glu q = *p;
    q.gate = any_in(x, p->gate);
    q.up = any_in(x, p->up);
    q.out = any_out(x, p->out);
    send(x);
    RUN(glu, q);
}

static void proxy_act(struct backend *be, const struct op_act *p)
{
    struct proxy *x = proxy_of(be);
    struct op_act q = *p;
    q.x = any_in(x, p->x);
    q.slope = in(x, p->slope);
    q.out = any_out(x, p->out);
    send(x);
    RUN(act, q);
}

static void proxy_add(struct backend *be, const struct op_add *p)
{
    struct proxy *x = proxy_of(be);
    struct op_add q = *p;
    q.a = any_in(x, p->a);
    q.b = any_in(x, p->b);
    q.out = any_out(x, p->out);
    send(x);
    RUN(add, q);
}

static void proxy_concat(struct backend *be, const struct op_concat *p)
{
    struct proxy *x = proxy_of(be);
    struct op_concat q = *p;
    q.a = any_in(x, p->a);
    q.b = any_in(x, p->b);
    q.out = any_out(x, p->out);
    send(x);
    RUN(concat, q);
}

static void proxy_cosine(struct backend *be, const struct op_cosine *p)
{
    struct proxy *x = proxy_of(be);
    struct op_cosine q = *p;
    q.x = in(x, p->x);
    q.w = in(x, p->w);
    q.out = out(x, p->out);
    send(x);
    RUN(cosine, q);
}

static void proxy_layernorm(struct backend *be, const struct op_layernorm *p)
{
    struct proxy *x = proxy_of(be);
    struct op_layernorm q = *p;
    q.x = any_in(x, p->x);
    q.w = in(x, p->w);
    q.bias = in(x, p->bias);
    q.out = any_out(x, p->out);
    send(x);
    RUN(layernorm, q);
}

static void proxy_groupnorm(struct backend *be, const struct op_groupnorm *p)
{
    struct proxy *x = proxy_of(be);
    struct op_groupnorm q = *p;
    q.x = any_in(x, p->x);
    q.w = in(x, p->w);
    q.bias = in(x, p->bias);
    q.out = any_out(x, p->out);
    send(x);
    RUN(groupnorm, q);
}

static void proxy_conv2d(struct backend *be, const struct op_conv2d *p)
{
    struct proxy *x = proxy_of(be);
    struct op_conv2d q = *p;
    q.x = any_in(x, p->x);
    q.bias = in(x, p->bias);
    q.add_image = any_in(x, p->add_image);
    q.add = any_in(x, p->add);
    q.out = any_out(x, p->out);
    send(x);
    RUN(conv2d, q);
}

static void proxy_lowrank(struct backend *be, const struct op_lowrank *p)
{
    struct proxy *x = proxy_of(be);
    struct op_lowrank q = *p;
    q.x = any_in(x, p->x);
    q.out = any_out(x, p->out);
    send(x);
    RUN(lowrank, q);
}

static size_t rows_bytes(int n, int stride, int width)
{
    return n > 0 ? ((size_t)(n - 1) * (size_t)stride + (size_t)width) * sizeof(float) : 0;
}

static void proxy_attn(struct backend *be, const struct op_attn *p)
{
    struct proxy *x = proxy_of(be);
    struct op_attn q = *p;
    const int width = p->n_heads * p->head_dim;
    struct attn_item *items = xcalloc((size_t)p->n_items, sizeof *items);
    for (int i = 0; i < p->n_items; i++) {
        const struct attn_item *a = &p->items[i];
        want(x, a->q, rows_bytes(a->n_q, a->q_stride, width), x->kc->type, false);
        want(x, a->k, rows_bytes(a->n_k, a->kv_stride, width), x->kc->type, false);
        want(x, a->v, rows_bytes(a->n_k, a->kv_stride, width), x->kc->type, false);
        want(x, a->out, rows_bytes(a->n_q, a->out_stride, width), x->kc->type, true);
    }
    send(x);
    for (int i = 0; i < p->n_items; i++) {
        items[i] = p->items[i];
        items[i].q = there(x, p->items[i].q);
        items[i].k = there(x, p->items[i].k);
        items[i].v = there(x, p->items[i].v);
        items[i].out = there(x, p->items[i].out);
    }
    q.items = items;
    q.type = q.kv_type = x->kc->type;
    RUN(attn, q);
    free(items);
}

/* clang-format off */
static const struct backend_ops proxy_table = {
#define X(op) .op = proxy_##op,
    BACKEND_OPS(X)
#undef X
};
/* clang-format on */

static int proxy_weight_open(struct backend *be, struct weight **out, enum dtype type,
                             int64_t n_out, int64_t n_in, const void *raw, struct err *e)
{
    struct backend *real = proxy_of(be)->real;
    return real->weight_open(real, out, type, n_out, n_in, raw, e);
}

static void proxy_weight_close(struct backend *be, struct weight *w)
{
    proxy_of(be)->real->weight_close(proxy_of(be)->real, w);
}

static void proxy_weight_row(struct backend *be, const struct weight *w, int64_t row, float *dst)
{
    proxy_of(be)->real->weight_row(proxy_of(be)->real, w, row, dst);
}

static int proxy_sync(struct backend *be, struct err *e)
{
    return proxy_of(be)->real->sync(proxy_of(be)->real, e);
}

/* The device stays open for the next check. */
static void proxy_close(struct backend *be)
{
    free(be);
}

struct backend *kcheck_device(struct kcheck *kc, const char *name)
{
    static struct backend *real;
    struct err e = {0};
    if (!real && (backend_open(&real, name, 0, &e) ||
                  (kc->blas_rows > 0 && team_blas(real, kc->blas_rows, &e))))
        die(name, &e);
    struct proxy *x = xcalloc(1, sizeof *x);
    x->kc = kc;
    x->real = real;
    x->be = (struct backend){
        .ops = &proxy_table,
        .name = real->name,
        .n_threads = 1,
        .host_memory = true,
        .sync = proxy_sync,
        .close = proxy_close,
        .kv_bytes = real->kv_bytes,
        .weight_open = proxy_weight_open,
        .weight_close = proxy_weight_close,
        .weight_row = proxy_weight_row,
    };
    return &x->be;
}
