/* BLIP models against transformers (tools/make_blip_golden.py computed the values), tiny and random, one of
 * each kind: pixels, what the vision transformer sees, logits, scores, greedy tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/file.h"
#include "engine/checkpoint.h"
#include "engine/models/blip.h"
#include "engine/safetensors.h"
#include "engine/text/vocab.h"
#include "engine/text/wordpiece.h"
#include "tests/golden/device.h"

#define DIR   "tests/fixtures/blip_"
#define BOUND 1e-3

enum { MAX_ROWS = 64, MAX_PAGES = 4 };

static struct backend *be;

static void must(int rc, const struct err *e)
{
    if (rc != 0)
        fail_msg("%d: %s", rc, e->msg);
}

static int open_backend(void **state)
{
    (void)state;
    struct err e = {0};
    return backend_open(&be, golden_device(), 2, &e);
}

static int close_backend(void **state)
{
    (void)state;
    be->close(be);
    return 0;
}

struct golden {
    struct blip *m;
    struct safetensors *st;
    struct image rgb;
    struct blip_look look;
    char *pool;
};

static void golden_open(struct golden *g, const char *kind)
{
    char path[256];
    struct err e = {0};
    struct checkpoint *c;
    struct file f;
    struct image full, rgb;
    memset(g, 0, sizeof *g);
    snprintf(path, sizeof path, DIR "%s", kind);
    assert_true(blip_is(path));
    must(checkpoint_open(&c, path, NULL, &e), &e);
    const struct blip_options o = {.max_rows = MAX_ROWS, .max_logits = MAX_ROWS};
    must(blip_open(&g->m, c, be, &o, &e), &e);
    checkpoint_close(c);
    snprintf(path, sizeof path, DIR "%s/golden.safetensors", kind);
    must(safetensors_open(&g->st, path, &e), &e);
    snprintf(path, sizeof path, DIR "%s/picture.png", kind);
    must(file_open(&f, path, &e), &e);
    must(codec_decode(&full, f.data, f.size, &(struct codec_limits){1 << 20, 1 << 20}, &e), &e);
    file_close(&f);
    must(image_convert(&rgb, &full, 3, &e), &e);
    const struct blip_info *info = blip_info(g->m);
    must(image_resize(&g->rgb, &rgb, info->image_size, info->image_size, info->filter, &e), &e);
    image_free(&full);
    image_free(&rgb);
    g->pool = be->alloc(be, blip_text(g->m)->page_bytes * MAX_PAGES, &e);
}

static void golden_close(struct golden *g)
{
    be->free(be, g->pool);
    blip_view_free(g->m, g->look.kv);
    image_free(&g->rgb);
    safetensors_close(g->st);
    blip_text(g->m)->close(blip_text(g->m));
}

static const struct safetensors_tensor *want(const struct golden *g, const char *name)
{
    const struct safetensors_tensor *t = safetensors_find(g->st, name);
    if (t == NULL)
        fail_msg("no %s", name);
    return t;
}

/* Relative root mean square error of n floats. */
static void same(const struct golden *g, const char *name, const float *have, size_t n)
{
    const struct safetensors_tensor *t = want(g, name);
    assert_int_equal(t->type, DTYPE_F32);
    assert_int_equal(t->bytes, n * sizeof(float));
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        float w;
        memcpy(&w, (const char *)t->data + i * sizeof w, sizeof w);
        diff += ((double)have[i] - (double)w) * ((double)have[i] - (double)w);
        norm += (double)w * (double)w;
    }
    double error = sqrt(diff / norm);
    print_message("%s: %.2g\n", name, error);
    assert_true(error <= BOUND);
}

static int ids_of(const struct golden *g, const char *name, int32_t ids[MAX_ROWS])
{
    const struct safetensors_tensor *t = want(g, name);
    assert_int_equal(t->type, DTYPE_I32);
    assert_true(t->bytes <= MAX_ROWS * sizeof *ids);
    memcpy(ids, t->data, t->bytes);
    return (int)(t->bytes / sizeof *ids);
}

/* In pieces as small as they come. */
static void look(struct golden *g, const int32_t *question, int n_question)
{
    struct err e = {0};
    const size_t bytes = blip_view_bytes(g->m, n_question);
    g->look =
        (struct blip_look){.rgb = g->rgb.data, .question = question, .n_question = n_question};
    if (bytes > 0)
        g->look.kv = blip_view_memory(g->m, n_question, &e);
    blip_look_begin(g->m, &g->look);
    int rc, n = 0;
    while ((rc = blip_look_run(g->m, &g->look, 0, &e)) > 0)
        n++;
    must(rc, &e);
    assert_true(n > 10);
}

/* Rows [from, from + n) of ids; logits of each. */
static void step(struct golden *g, const int32_t *ids, int from, int n, float *logits)
{
    static const int32_t pages[MAX_PAGES] = {2, 0, 3, 1};
    const struct text_view *views[MAX_ROWS];
    struct kv_row rows[MAX_ROWS];
    int32_t pos[MAX_ROWS], wanted[MAX_ROWS];
    for (int i = 0; i < n; i++) {
        views[i] = &g->look.view;
        pos[i] = from + i;
        rows[i] = (struct kv_row){.pages = pages, .pos = pos[i]};
        wanted[i] = i;
    }
    const struct text_batch b = {.n_rows = n,
                                 .ids = ids + from,
                                 .pos = pos,
                                 .rows = rows,
                                 .views = views,
                                 .n_logits = n,
                                 .logit_rows = wanted,
                                 .logits = logits};
    struct err e = {0};
    must(blip_text(g->m)->forward(blip_text(g->m), g->pool, &b, &e), &e);
}

/* All of ids + greedy at once, and again token by token: the same bits, and each the best. */
static void decode(struct golden *g, const int32_t *ids, int n_ids, const char *prefix)
{
    char name[64];
    int32_t all[MAX_ROWS];
    const int n_vocab = blip_text(g->m)->n_vocab;
    memcpy(all, ids, (size_t)n_ids * sizeof *ids);
    snprintf(name, sizeof name, "%sgreedy", prefix);
    int n = n_ids + ids_of(g, name, all + n_ids);
    size_t size = (size_t)n * (size_t)n_vocab;
    float *once = malloc(size * sizeof *once), *each = malloc(size * sizeof *each);
    step(g, all, 0, n, once);
    snprintf(name, sizeof name, "%slogits", prefix);
    same(g, name, once, size);
    for (int i = 0; i < n; i++)
        step(g, all, i, 1, each + (size_t)i * (size_t)n_vocab);
    assert_memory_equal(once, each, size * sizeof *once);
    for (int i = n_ids - 1; i + 1 < n; i++) {
        const float *row = once + (size_t)i * (size_t)n_vocab;
        int best = 0;
        for (int k = 1; k < n_vocab; k++)
            best = row[k] > row[best] ? k : best;
        assert_int_equal(best, all[i + 1]);
    }
    free(once);
    free(each);
}

static void check_pixels(const struct golden *g)
{
    const struct safetensors_tensor *t = want(g, "pixel_values");
    const size_t n = image_bytes(&g->rgb);
    assert_int_equal(t->bytes, n * sizeof(float));
    const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
    const float std[3] = {0.26862954f, 0.26130258f, 0.27577711f};
    for (size_t i = 0; i < n; i++) {
        float w;
        memcpy(&w, (const char *)t->data + i * sizeof w, sizeof w);
        assert_int_equal(lrintf((w * std[i % 3] + mean[i % 3]) * 255), g->rgb.data[i]);
    }
}

static void check_seen(const struct golden *g)
{
    const struct tensor *seen = blip_seen(g->m);
    const size_t n = (size_t)(seen->dims[0] * seen->dims[1]);
    float *host = malloc(n * sizeof *host);
    struct err e = {0};
    must(blip_seen_copy(g->m, host, &e), &e);
    same(g, "seen", host, n);
    free(host);
}

static void blip_captions_as_transformers(void **state)
{
    (void)state;
    struct golden g;
    int32_t ids[MAX_ROWS];
    golden_open(&g, "caption");
    check_pixels(&g);
    look(&g, NULL, 0);
    check_seen(&g);
    int n = ids_of(&g, "ids", ids);
    decode(&g, ids, n, "");
    n = ids_of(&g, "prompt_ids", ids);
    decode(&g, ids, n, "prompt_");
    golden_close(&g);
}

static void blip_answers_questions_as_transformers(void **state)
{
    (void)state;
    struct golden g;
    int32_t ids[MAX_ROWS];
    golden_open(&g, "vqa");
    int n = ids_of(&g, "ids", ids);
    look(&g, ids, n);
    check_seen(&g);
    decode(&g, &blip_info(g.m)->bos, 1, "");
    golden_close(&g);
}

static void blip_matches_texts_as_transformers(void **state)
{
    (void)state;
    struct golden g;
    int32_t ids[MAX_ROWS];
    golden_open(&g, "match");
    int n = ids_of(&g, "ids", ids);
    look(&g, ids, n);
    check_seen(&g);
    const float scores[2] = {g.look.match, g.look.cosine};
    same(&g, "scores", scores, 2);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blip_captions_as_transformers),
        cmocka_unit_test(blip_answers_questions_as_transformers),
        cmocka_unit_test(blip_matches_texts_as_transformers),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
