/* Each unit of an image model on random inputs: a step of b pictures is a pass of 2 b rows, with and without
 * the prompt. */
#include "engine/bench_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/json.h"
#include "engine/bench_ops.h"
#include "engine/models/image_model.h"

enum { MAX_RESULTS = BENCH_BATCHES_MAX + 8 };

struct result {
    const char *test;
    int batch;
    double mean, stddev; /* seconds */
    int64_t longest_us;  /* of one op */
    size_t bytes;
};

struct bench {
    const struct bench_options *o;
    struct backend *be;
    struct image_model *m;
    const struct image_info *info;
    const struct backend_limits *limits; /* with --ops */
    float *kv, *pooled;
    uint32_t random;
    struct result results[MAX_RESULTS];
    int n_results;
    struct buf *out, ops; /* ops: the tables that follow */
};

static void fill(struct bench *b, float *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        b->random = b->random * 1664525u + 1013904223u;
        to[i] = (float)(b->random >> 8) / (1 << 23) - 1;
    }
}

/* One op at a time, to know the longest. */
static int run_once(struct image_unit *u, struct result *r, struct err *e)
{
    int rc;
    int64_t last = clock_us();
    do {
        rc = image_run(u, 0, e);
        const int64_t now = clock_us();
        r->longest_us = now - last > r->longest_us ? now - last : r->longest_us;
        last = now;
    } while (rc == 1);
    return rc;
}

static int run_whole(struct image_unit *u, struct err *e)
{
    int rc;
    do
        rc = image_run(u, INT64_MAX, e); /* a tile of a large picture */
    while (rc == 1);
    return rc;
}

static int measure(struct bench *b, const char *test, int batch, struct image_unit *u,
                   struct err *e)
{
    struct result *r = &b->results[b->n_results];
    double sum = 0, squares = 0;
    int rc = run_whole(u, e); /* warm */
    *r = (struct result){.test = test, .batch = batch, .bytes = u->bytes};
    for (int i = 0; i < b->o->repeats && rc == 0; i++) {
        const int64_t start_us = clock_us();
        rc = run_once(u, r, e);
        const double seconds = (double)(clock_us() - start_us) * 1e-6;
        sum += seconds;
        squares += seconds * seconds;
    }
    const int n = b->o->repeats;
    const double variance = n > 1 ? (squares - sum * sum / n) / (n - 1) : 0;
    r->mean = sum / n;
    r->stddev = variance > 0 ? sqrt(variance) : 0;
    b->n_results++;
    if (rc == 0 && b->limits != NULL) {
        buf_printf(&b->ops, "\n%s, batch %d\n", test, batch);
        bench_ops_begin(b->be);
        rc = run_whole(u, e);
        bench_ops_end(b->be, b->limits, 1, &b->ops);
    }
    return rc;
}

static int text(struct bench *b, struct err *e)
{
    struct image_text *t;
    int rc = image_text_open(&t, b->m, 0, e);
    if (rc != 0)
        return rc;
    for (int i = 0; i < b->info->n_encoders; i++)
        for (int k = 0; k < IMAGE_TOKENS; k++)
            t->ids[i][k] = (k * 37 + 11) % b->info->n_vocab[i];
    rc = measure(b, "text", 1, &t->unit, e);
    image_close(&t->unit);
    struct image_kv *kv;
    if (rc == 0)
        rc = image_kv_open(&kv, b->m, IMAGE_TOKENS, e);
    if (rc != 0)
        return rc;
    fill(b, kv->context, (size_t)IMAGE_TOKENS * (size_t)b->info->context_dim);
    kv->kv = b->kv;
    rc = measure(b, "kv", 1, &kv->unit, e);
    image_close(&kv->unit);
    return rc;
}

static int step(struct bench *b, int batch, struct err *e)
{
    struct image_unet *u;
    const int side = b->o->size / b->info->scale;
    const struct image_unet_want want = {2 * batch,         side, side, false, IMAGE_WHOLE, -1,
                                         b->info->has_pairs};
    int rc = image_unet_open_want(&u, b->m, &want, e);
    if (rc != 0)
        return rc;
    for (int i = 0; i < 2 * batch; i++)
        u->rows[i] = (struct image_row){.kv = b->kv,
                                        .n_tokens = IMAGE_TOKENS,
                                        .timestep = 801,
                                        .guidance = 7.5f,
                                        .pooled = b->pooled};
    fill(b, u->x, (size_t)(2 * batch) * (size_t)(side * side) * (size_t)b->info->in_channels);
    rc = measure(b, "step", batch, &u->unit, e);
    image_close(&u->unit);
    return rc;
}

static int vae(struct bench *b, const char *test, enum image_vae_kind kind, struct err *e)
{
    struct image_vae *v;
    const int side = b->o->size / b->info->scale;
    int rc = image_vae_open(&v, b->m, kind, side, side, e);
    if (rc != 0)
        return rc;
    const size_t pixels = (size_t)(b->o->size) * (size_t)b->o->size;
    if (kind == IMAGE_ENCODE)
        fill(b, v->picture, pixels * 3);
    else
        fill(b, v->latent, (size_t)(side * side) * (size_t)b->info->latent_channels);
    rc = measure(b, test, 1, &v->unit, e);
    image_close(&v->unit);
    return rc;
}

static int run_tests(struct bench *b, struct err *e)
{
    int rc = text(b, e);
    for (int i = 0; i < b->o->n_batches && rc == 0; i++)
        rc = step(b, b->o->batches[i], e);
    if (rc == 0)
        rc = vae(b, "decode", IMAGE_DECODE, e);
    if (rc == 0 && b->info->has_encoder)
        rc = vae(b, "encode", IMAGE_ENCODE, e);
    if (rc == 0 && b->info->has_preview)
        rc = vae(b, "preview", IMAGE_PREVIEW, e);
    return rc;
}

static void write_json(const struct bench *b)
{
    struct json_writer w;
    json_begin(&w, b->out);
    json_open(&w, NULL, '[');
    for (int i = 0; i < b->n_results; i++) {
        const struct result *r = &b->results[i];
        json_open(&w, NULL, '{');
        json_put_str(&w, "test", r->test);
        json_put_int(&w, "batch", r->batch);
        json_put_int(&w, "size", b->o->size);
        json_put_int(&w, "threads", b->be->n_threads);
        json_put_str(&w, "isa", b->be->name);
        json_put_str(&w, "family", b->info->family);
        json_put_num(&w, "seconds", r->mean);
        json_put_num(&w, "stddev", r->stddev);
        json_put_int(&w, "longest_op_us", r->longest_us);
        json_put_int(&w, "bytes", (int64_t)r->bytes);
        json_close(&w, '}');
    }
    json_close(&w, ']');
    buf_addc(b->out, '\n');
}

static void write_table(const struct bench *b)
{
    buf_printf(b->out, "%s at %d x %d, weights %.2f GiB, %s, %d threads\n", b->info->family,
               b->o->size, b->o->size, (double)b->info->weight_bytes / (1 << 30), b->be->name,
               b->be->n_threads);
    buf_printf(b->out, "%-10s %6s %10s %10s %14s %10s\n", "test", "batch", "seconds", "+-",
               "longest op ms", "MiB");
    for (int i = 0; i < b->n_results; i++) {
        const struct result *r = &b->results[i];
        buf_printf(b->out, "%-10s %6d %10.3f %10.3f %14.1f %10.0f\n", r->test, r->batch, r->mean,
                   r->stddev, (double)r->longest_us / 1000, (double)r->bytes / (1 << 20));
    }
}

static int open_model(struct bench *b, struct err *e)
{
    struct checkpoint *c;
    int rc = checkpoint_open(&c, b->o->path, NULL, e);
    if (rc != 0)
        return rc;
    rc = image_model_open(&b->m, c, b->be, &(struct image_model_options){0}, e);
    checkpoint_close(c);
    if (rc != 0)
        return rc;
    b->info = image_model_info(b->m);
    if (b->o->size % b->info->multiple != 0)
        return err_set(e, ERR_INVALID, "the size must be a multiple of %d", b->info->multiple);
    b->kv = image_kv_memory(b->m, IMAGE_TOKENS, NULL);
    b->pooled = mem_try((size_t)b->info->pooled_dim + 1, sizeof(float));
    if (b->kv == NULL || b->pooled == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a prompt");
    return 0;
}

int bench_image(const struct bench_options *o, struct backend *be, struct buf *out, struct err *e)
{
    struct bench b = {.o = o, .be = be, .random = 1, .out = out};
    struct backend_limits limits;
    buf_init(&b.ops, 64 * 1024);
    int rc = open_model(&b, e);
    if (rc == 0 && o->ops && !o->json) {
        rc = be->limits(be, (size_t)256 << 20, &limits, e);
        b.limits = &limits;
        if (rc == 0)
            buf_printf(&b.ops, "\nlimits: %.1f GB/s read, %.0f Gop/s f32\n",
                       limits.read_bytes_per_s / 1e9, limits.f32_ops_per_s / 1e9);
    }
    if (rc == 0)
        rc = run_tests(&b, e);
    if (rc == 0 && o->json)
        write_json(&b);
    else if (rc == 0)
        write_table(&b);
    if (rc == 0)
        buf_add(out, buf_str(&b.ops), strlen(buf_str(&b.ops)));
    buf_free(&b.ops);
    if (b.m != NULL)
        image_kv_free(b.m, b.kv);
    image_model_close(b.m);
    free(b.pooled);
    return rc;
}
