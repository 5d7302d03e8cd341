/* Prompt and decode speed of a model, without scheduler, sampling or HTTP. */
#include "engine/bench.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/json.h"
#include "engine/bench_image.h"
#include "engine/bench_ops.h"
#include "engine/cache.h"
#include "engine/checkpoint.h"
#include "engine/model.h"
#include "kernels/quant.h"
#include "kernels/team.h"

const struct bench_options bench_defaults = {
    .device = "cpu",
    .n_prompt = 512,
    .n_generate = 128,
    .n_batches = 1,
    .batches = {1},
    .repeats = 5,
    .kv_type = DTYPE_F16,
    .max_batch_rows = 512,
    .size = 256,
};

/* Sequences side by side, each with pages of its own. */
struct bench {
    const struct bench_options *o;
    struct backend *be;
    struct model *model;
    char *kv;
    int n_pages; /* of one sequence */
    int32_t *pages, *ids, *pos, *logit_rows;
    struct kv_row *rows;
    float *logits;
    uint32_t random;
};

static int32_t random_token(struct bench *b)
{
    b->random = b->random * 1664525u + 1013904223u;
    return (int32_t)((b->random >> 8) % (uint32_t)model_card(b->model)->n_vocab);
}

static void set_row(struct bench *b, int row, int sequence, int pos)
{
    b->ids[row] = random_token(b);
    b->pos[row] = pos;
    b->rows[row] =
        (struct kv_row){.pages = b->pages + (size_t)sequence * (size_t)b->n_pages, .pos = pos};
}

static int forward(struct bench *b, int n_rows, int n_logits, struct err *e)
{
    struct text_batch batch = {
        .n_rows = n_rows,
        .ids = b->ids,
        .pos = b->pos,
        .rows = b->rows,
        .n_logits = n_logits,
        .logit_rows = b->logit_rows,
        .logits = b->logits,
    };
    return model_forward(b->model, b->kv, &batch, e);
}

/* Every sequence reads positions from ... end - 1; logits of the last token only, as a server wants
 * them. */
static int read_tokens(struct bench *b, int batch, int from, int end, struct err *e)
{
    for (int s = 0; s < batch; s++) {
        for (int at = from; at < end;) {
            int n = end - at;
            if (n > b->o->max_batch_rows)
                n = b->o->max_batch_rows;
            for (int i = 0; i < n; i++)
                set_row(b, i, s, at + i);
            at += n;
            b->logit_rows[0] = n - 1;
            int rc = forward(b, n, at == end, e);
            if (rc)
                return rc;
        }
    }
    return 0;
}

static int prompt(struct bench *b, int batch, struct err *e)
{
    return read_tokens(b, batch, b->o->depth, b->o->depth + b->o->n_prompt, e);
}

static int generate(struct bench *b, int batch, struct err *e)
{
    for (int at = 0; at < b->o->n_generate; at++) {
        for (int s = 0; s < batch; s++) {
            set_row(b, s, s, b->o->depth + at);
            b->logit_rows[s] = s;
        }
        int rc = forward(b, batch, batch, e);
        if (rc)
            return rc;
    }
    return 0;
}

struct result {
    const char *kind;
    int tokens, batch;
    double mean, stddev; /* tokens per second */
};

static int measure(struct bench *b, const char *kind, int tokens, int batch,
                   int (*test)(struct bench *, int, struct err *), struct result *r, struct err *e)
{
    double sum = 0, squares = 0;
    int rc = test(b, batch, e); /* warm */
    for (int i = 0; i < b->o->repeats && !rc; i++) {
        int64_t start_us = clock_us();
        rc = test(b, batch, e);
        double rate = (double)tokens * batch * 1e6 / (double)(clock_us() - start_us);
        sum += rate;
        squares += rate * rate;
    }
    int n = b->o->repeats;
    double mean = sum / n, variance = n > 1 ? (squares - sum * mean) / (n - 1) : 0;
    *r = (struct result){kind, tokens, batch, mean, variance > 0 ? sqrt(variance) : 0};
    return rc;
}

/* "pp512", "tg128@d4096" */
struct test_name {
    char text[40];
};
static struct test_name test_name(const struct bench *b, const struct result *r)
{
    struct test_name t;
    int n = snprintf(t.text, sizeof t.text, "%s%d", r->kind, r->tokens);
    if (b->o->depth > 0)
        snprintf(t.text + n, sizeof t.text - (size_t)n, "@d%d", b->o->depth);
    return t;
}

static void write_json(const struct bench *b, const struct result *r, int n, struct buf *out)
{
    struct json_writer w;
    json_begin(&w, out);
    json_open(&w, NULL, '[');
    for (int i = 0; i < n; i++) {
        struct test_name test = test_name(b, &r[i]);
        json_open(&w, NULL, '{');
        json_put_str(&w, "test", test.text);
        json_put_int(&w, "batch", r[i].batch);
        json_put_int(&w, "threads", b->be->n_threads);
        json_put_str(&w, "kv", dtype_name(b->o->kv_type));
        json_put_str(&w, "isa", b->be->name);
        json_put_str(&w, "model", model_card(b->model)->id);
        json_put_str(&w, "quant", model_card(b->model)->quant);
        json_put_num(&w, "tokens_per_s", r[i].mean);
        json_put_num(&w, "stddev", r[i].stddev);
        json_close(&w, '}');
    }
    json_close(&w, ']');
    buf_addc(out, '\n');
}

static void write_table(const struct bench *b, const struct result *r, int n, struct buf *out)
{
    const struct model_card *card = model_card(b->model);
    buf_printf(out, "%s %s, %.0fM parameters, %s, %d threads, kv %s\n", card->id, card->quant,
               (double)card->n_params / 1e6, b->be->name, b->be->n_threads,
               dtype_name(b->o->kv_type));
    buf_printf(out, "%-14s %6s %12s %10s\n", "test", "batch", "tokens/s", "+-");
    for (int i = 0; i < n; i++) {
        struct test_name test = test_name(b, &r[i]);
        buf_printf(out, "%-14s %6d %12.1f %10.1f\n", test.text, r[i].batch, r[i].mean, r[i].stddev);
    }
}

/* One more run of each test, op by op: a prompt as a whole, generating a step. */
static int run_ops(struct bench *b, struct buf *out, struct err *e)
{
    struct backend_limits l;
    int rc = b->be->limits(b->be, model_card(b->model)->weight_bytes, &l, e);
    if (rc)
        return rc;
    buf_printf(out, "\nlimits: %.1f GB/s read, %.0f Gop/s int8, %.0f Gop/s f32\n",
               l.read_bytes_per_s / 1e9, l.int8_ops_per_s / 1e9, l.f32_ops_per_s / 1e9);
    for (int i = 0; i < b->o->n_batches && !rc; i++) {
        int batch = b->o->batches[i];
        if (b->o->n_prompt) {
            buf_printf(out, "\nprompt of %d, %d sequences\n", b->o->n_prompt, batch);
            bench_ops_begin(b->be);
            rc = prompt(b, batch, e);
            bench_ops_end(b->be, &l, 1, out);
        }
        if (b->o->n_generate && !rc) {
            buf_printf(out, "\none of %d decode steps, %d sequences\n", b->o->n_generate, batch);
            bench_ops_begin(b->be);
            rc = generate(b, batch, e);
            bench_ops_end(b->be, &l, b->o->n_generate, out);
        }
    }
    return rc;
}

static int run_tests(struct bench *b, struct buf *out, struct err *e)
{
    struct result results[2 * BENCH_BATCHES_MAX];
    int n = 0, rc = 0;
    for (int i = 0; i < b->o->n_batches && !rc; i++) {
        int batch = b->o->batches[i];
        rc = read_tokens(b, batch, 0, b->o->depth, e);
        if (b->o->n_prompt && !rc)
            rc = measure(b, "pp", b->o->n_prompt, batch, prompt, &results[n++], e);
        if (b->o->n_generate && !rc)
            rc = measure(b, "tg", b->o->n_generate, batch, generate, &results[n++], e);
    }
    if (rc)
        return rc;
    if (b->o->json)
        write_json(b, results, n, out);
    else
        write_table(b, results, n, out);
    return b->o->ops && !b->o->json ? run_ops(b, out, e) : 0;
}

/* Room for max_batch sequences of the longer test. */
static int allocate(struct bench *b, int max_batch, struct err *e)
{
    const struct bench_options *o = b->o;
    int longest = o->depth + (o->n_prompt > o->n_generate ? o->n_prompt : o->n_generate);
    int max_rows = o->max_batch_rows > max_batch ? o->max_batch_rows : max_batch;
    b->n_pages = cache_pages_for(longest);
    size_t n_pages = (size_t)b->n_pages * (size_t)max_batch;
    b->kv = team_alloc(b->be, n_pages * model_page_bytes(b->model), e);
    b->pages = mem_try(n_pages, sizeof(*b->pages));
    b->ids = mem_try((size_t)max_rows, sizeof(*b->ids));
    b->pos = mem_try((size_t)max_rows, sizeof(*b->pos));
    b->rows = mem_try((size_t)max_rows, sizeof(*b->rows));
    b->logit_rows = mem_try((size_t)max_rows, sizeof(*b->logit_rows));
    b->logits =
        mem_try((size_t)max_batch * (size_t)model_card(b->model)->n_vocab, sizeof(*b->logits));
    if (!b->kv || !b->pages || !b->ids || !b->pos || !b->rows || !b->logit_rows || !b->logits)
        return err_set(e, ERR_NOMEM, "no memory for %d sequences of %d tokens", max_batch, longest);
    for (size_t i = 0; i < n_pages; i++)
        b->pages[i] = (int32_t)i;
    return 0;
}

int bench_run(const struct bench_options *o, struct buf *out, struct err *e)
{
    struct bench b = {.o = o, .random = 1};
    int max_batch = 1;
    for (int i = 0; i < o->n_batches; i++)
        if (o->batches[i] > max_batch)
            max_batch = o->batches[i];
    const char *name = strrchr(o->path, '/');
    struct model_options mo = {
        .max_rows = o->max_batch_rows > max_batch ? o->max_batch_rows : max_batch,
        .max_logits = max_batch,
        .kv_type = o->kv_type,
    };
    int rc = backend_open(&b.be, o->device, o->n_threads, e);
    if (!rc) {
        team_graphs(b.be, true);
        team_activations(b.be, o->activations);
        if (o->blas_rows > 0)
            rc = team_blas(b.be, o->blas_rows, e);
    }
    if (!rc && checkpoint_is_image(o->path)) {
        rc = bench_image(o, b.be, out, e);
        b.be->close(b.be);
        return rc;
    }
    if (!rc)
        rc = model_open(&b.model, name ? name + 1 : o->path, o->path, b.be, &mo, e);
    if (!rc && model_card(b.model)->kind != MODEL_TEXT)
        rc = err_set(e, ERR_UNSUPPORTED, "only language models and image models are measured");
    if (!rc && (o->n_prompt > model_card(b.model)->n_ctx - o->depth ||
                o->n_generate > model_card(b.model)->n_ctx - o->depth))
        rc = err_set(e, ERR_INVALID, "the model's context has %d positions",
                     model_card(b.model)->n_ctx);
    if (!rc)
        rc = allocate(&b, max_batch, e);
    if (!rc)
        rc = run_tests(&b, out, e);
    if (b.kv)
        b.be->free(b.be, b.kv);
    free(b.pages);
    free(b.ids);
    free(b.pos);
    free(b.rows);
    free(b.logit_rows);
    free(b.logits);
    if (b.model)
        model_close(b.model);
    if (b.be)
        b.be->close(b.be);
    return rc;
}
