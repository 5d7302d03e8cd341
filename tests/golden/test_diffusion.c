/* Image models against diffusers (tools/make_image_golden.py made the models and the values): text, UNet,
 * encoding, decoding, previews; and the promise that a row has the same bits alone and in a batch,
 * at once or in pieces.
 *     BACKEND=NAME     instead of cpu
 *     ACTIVATIONS=f16  or bf16, on a device that has them: see near.h */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/models/image_model.h"
#include "engine/models/nn.h"
#include "engine/safetensors.h"
#include "kernels/team.h"
#include "tests/golden/device.h"
#include "tests/golden/near.h"
#include "tests/golden/seeded.h"

/* Largest error over the largest value.  f32 sums in another order: measured 1e-6; 1e-5 where the sine of a
 * guidance scale times 1000 is taken (LCM). */
#define BOUND 5e-5

static struct backend *be;

static int open_backend(void **state)
{
    (void)state;
    int rc = backend_open(&be, golden_device(), 0, NULL);
    if (rc == 0)
        team_activations(be, golden_activations());
    if (rc == 0 && golden_blas_rows() > 0)
        rc = team_blas(be, golden_blas_rows(), NULL);
    return rc;
}

static int close_backend(void **state)
{
    (void)state;
    be->close(be);
    return 0;
}

static void must(int rc, const struct err *e)
{
    if (rc != 0)
        fail_msg("%d: %s", rc, e->msg);
}

/* ---- a model and its values ---- */

struct golden {
    const char *name;
    struct image_model *m;
    const struct image_info *info;
    struct safetensors *values;
};

/* A directory of the fixtures, or a single file that a formula makes. */
static void golden_open(struct golden *g, const char *name, size_t vae_bytes)
{
    const bool single = strncmp(name, "single_", 7) == 0;
    struct seeded file;
    char path[256];
    struct err e = {0};
    struct checkpoint *c;
    atomic_int progress = 0;
    g->name = name;
    snprintf(path, sizeof path, "tests/fixtures/%s%s.safetensors", single ? "" : "sd_", name);
    must(safetensors_open(&g->values, path, &e), &e);
    snprintf(path, sizeof path, "tests/fixtures/%s%s", single ? "" : "sd_", name);
    if (single) {
        snprintf(path, sizeof path, "tests/fixtures/%s.txt", name);
        seeded_open(&file, path);
        snprintf(path, sizeof path, "%s", file.path);
    }
    must(checkpoint_open(&c, path, NULL, &e), &e);
    const struct image_model_options o = {
        .vae_bytes = vae_bytes, .preview = "tests/fixtures/sd_taesd", .progress = &progress};
    must(image_model_open(&g->m, c, be, &o, &e), &e);
    assert_int_equal(progress, 1000);
    checkpoint_close(c);
    if (single)
        seeded_close(&file);
    g->info = image_model_info(g->m);
}

static void golden_close(struct golden *g)
{
    image_model_close(g->m);
    safetensors_close(g->values);
}

static const void *value(const struct golden *g, const char *name, size_t *bytes)
{
    const struct safetensors_tensor *t = safetensors_find(g->values, name);
    if (t == NULL)
        fail_msg("%s has no values %s", g->name, name);
    *bytes = t->bytes;
    return t->data;
}

/* n values of 4 bytes. */
static void get(const struct golden *g, const char *name, void *to, size_t n)
{
    size_t bytes;
    const void *from = value(g, name, &bytes);
    assert_int_equal(bytes, 4 * n);
    memcpy(to, from, bytes);
}

static float *get_floats(const struct golden *g, const char *name)
{
    size_t bytes;
    const void *from = value(g, name, &bytes);
    float *to = malloc(bytes);
    memcpy(to, from, bytes);
    return to;
}

static void near(const struct golden *g, const char *name, const float *ours)
{
    size_t bytes;
    value(g, name, &bytes);
    float *ref = get_floats(g, name);
    char what[64];
    snprintf(what, sizeof what, "%s %s", g->name, name);
    golden_near(be->activations, what, ours, ref, bytes / sizeof(float), BOUND);
    free(ref);
}

/* Runs to the end; in_pieces: one op at a time. */
static void run(struct image_unit *u, bool in_pieces)
{
    struct err e = {0};
    int rc, pieces = 0;
    do {
        rc = image_run(u, in_pieces ? 0 : INT64_MAX, &e);
        pieces++;
    } while (rc == 1);
    must(rc, &e);
    assert_true(!in_pieces || pieces > 1);
}

/* ---- units ---- */

static void text_matches_diffusers(void **state)
{
    struct golden g;
    struct err e = {0};
    golden_open(&g, *state, 0);
    for (int skip = 0; skip <= 1; skip++) {
        struct image_text *t;
        must(image_text_open(&t, g.m, skip, &e), &e);
        assert_int_equal(t->unit.bytes, image_text_bytes(g.m, skip, &e));
        for (int i = 0; i < g.info->n_encoders; i++)
            get(&g, i == 0 ? "ids0" : "ids1", t->ids[i], IMAGE_TOKENS);
        run(&t->unit, skip > 0);
        near(&g, skip > 0 ? "hidden_skip1" : "hidden", t->hidden);
        if (g.info->pooled_dim > 0)
            near(&g, "pooled", t->pooled);
        t->ids[0][3] = g.info->n_vocab[0];
        assert_int_equal(image_run(&t->unit, INT64_MAX, &e), ERR_INVALID);
        image_close(&t->unit);
    }
    golden_close(&g);
}

struct rows {
    float *kv[2], *pooled[2], *x;
    struct image_row row[2];
};

static void rows_open(struct rows *r, const struct golden *g)
{
    static const char *const contexts[] = {"context0", "context1"};
    static const char *const pooled[] = {"pooled_row0", "pooled_row1"};
    static const char *const ids[] = {"time_ids0", "time_ids1"};
    float timesteps[2];
    int32_t levels[2];
    struct err e = {0};
    if (g->info->enlarges)
        get(g, "levels", levels, 2);
    memset(r, 0, sizeof *r);
    get(g, "timesteps", timesteps, 2);
    r->x = get_floats(g, "x");
    for (int i = 0; i < 2; i++) {
        struct image_kv *kv;
        const int tokens = IMAGE_TOKENS * (i + 1);
        must(image_kv_open(&kv, g->m, tokens, &e), &e);
        assert_int_equal(kv->unit.bytes, image_kv_bytes(g->m, tokens, &e));
        r->kv[i] = kv->kv = image_kv_memory(g->m, tokens, &e);
        get(g, contexts[i], kv->context, (size_t)tokens * (size_t)g->info->context_dim);
        run(&kv->unit, i == 1);
        image_close(&kv->unit);
        r->row[i] = (struct image_row){.kv = r->kv[i],
                                       .n_tokens = tokens,
                                       .timestep = timesteps[i],
                                       .guidance = i == 0 ? 7.5f : 3.0f};
        if (g->info->pooled_dim > 0) {
            r->row[i].pooled = r->pooled[i] = get_floats(g, pooled[i]);
            get(g, ids[i], r->row[i].time_ids, IMAGE_TIME_IDS);
        }
        if (g->info->enlarges)
            r->row[i].level = levels[i];
    }
}

static void rows_close(struct rows *r, const struct golden *g)
{
    for (int i = 0; i < 2; i++) {
        image_kv_free(g->m, r->kv[i]);
        free(r->pooled[i]);
    }
    free(r->x);
}

enum { H = 8, W = 12 };

/* Rows `which` of the values as a batch; the result of batch row i goes to out + i * floats. */
static void forward(const struct golden *g, const struct rows *r, const int *which, int n,
                    float *out)
{
    struct image_unet *u;
    struct err e = {0};
    const size_t in = (size_t)H * W * (size_t)g->info->in_channels;
    must(image_unet_open(&u, g->m, n, H, W, &e), &e);
    assert_int_equal(u->unit.bytes, image_unet_bytes(g->m, n, H, W, &e));
    for (int i = 0; i < n; i++) {
        u->rows[i] = r->row[which[i]];
        memcpy(u->x + (size_t)i * in, r->x + (size_t)which[i] * in, in * sizeof(float));
    }
    run(&u->unit, n == 1);
    memcpy(out, u->out, (size_t)n * H * W * (size_t)g->info->latent_channels * sizeof(float));
    image_close(&u->unit);
}

static void unet_matches_diffusers(void **state)
{
    struct golden g;
    struct rows r;
    golden_open(&g, *state, 0);
    rows_open(&r, &g);
    float *out = malloc((size_t)2 * H * W * (size_t)g.info->latent_channels * sizeof(float));
    forward(&g, &r, (const int[]){0, 1}, 2, out);
    near(&g, "out", out);
    free(out);
    rows_close(&r, &g);
    golden_close(&g);
}

static void unet_bits_do_not_depend_on_the_batch(void **state)
{
    struct golden g;
    struct rows r;
    golden_open(&g, *state, 0);
    rows_open(&r, &g);
    const size_t floats = (size_t)H * W * (size_t)g.info->latent_channels;
    float *alone = malloc(2 * floats * sizeof(float)), *batch = malloc(5 * floats * sizeof(float));
    forward(&g, &r, (const int[]){0}, 1, alone);
    forward(&g, &r, (const int[]){1}, 1, alone + floats);
    static const int which[5] = {1, 0, 0, 1, 0};
    for (int n = 2; n <= 5; n++) {
        forward(&g, &r, which, n, batch);
        for (int i = 0; i < n; i++)
            assert_memory_equal(batch + (size_t)i * floats, alone + (size_t)which[i] * floats,
                                floats * sizeof(float));
    }
    free(alone);
    free(batch);
    rows_close(&r, &g);
    golden_close(&g);
}

/* Both latents, each with both texts: the results in that order. */
static void forward_guided(const struct golden *g, const struct rows *r, bool pairs, float *out)
{
    struct image_unet *u;
    struct err e = {0};
    const size_t cells = (size_t)H * W, in = cells * (size_t)g->info->in_channels;
    const size_t floats = cells * (size_t)g->info->latent_channels;
    const struct image_unet_want want = {4, H, W, false, IMAGE_WHOLE, -1, pairs};
    must(image_unet_open_want(&u, g->m, &want, &e), &e);
    for (int i = 0; i < 4; i++) {
        const int place = image_unet_row(u, i), latent = i / 2, text = i % 2;
        u->rows[place] = r->row[latent];
        u->rows[place].kv = r->row[text].kv;
        u->rows[place].n_tokens = r->row[text].n_tokens;
        memcpy(u->x + (size_t)place * in, r->x + (size_t)latent * in, in * sizeof(float));
    }
    run(&u->unit, true);
    for (int i = 0; i < 4; i++)
        memcpy(out + (size_t)i * floats, u->out + (size_t)image_unet_row(u, i) * floats,
               floats * sizeof(float));
    image_close(&u->unit);
}

static void unet_bits_of_pairs_are_those_of_their_rows(void **state)
{
    struct golden g;
    struct rows r;
    golden_open(&g, *state, 0);
    rows_open(&r, &g);
    const size_t n = 4 * (size_t)H * W * (size_t)g.info->latent_channels;
    float *each = malloc(n * sizeof(float)), *pairs = malloc(n * sizeof(float));
    forward_guided(&g, &r, false, each);
    forward_guided(&g, &r, true, pairs);
    assert_memory_equal(pairs, each, n * sizeof(float));
    assert_memory_not_equal(pairs, pairs + n / 4, n / 4 * sizeof(float));
    struct image_unet *u;
    struct err e = {0};
    const struct image_unet_want odd = {3, H, W, false, IMAGE_WHOLE, -1, true};
    assert_int_equal(image_unet_open_want(&u, g.m, &odd, &e), ERR_INVALID);
    free(each);
    free(pairs);
    rows_close(&r, &g);
    golden_close(&g);
}

static float *vae_run(const struct golden *g, enum image_vae_kind kind, const char *input, int h,
                      int w)
{
    struct image_vae *v;
    struct err e = {0};
    must(image_vae_open(&v, g->m, kind, h, w, &e), &e);
    assert_int_equal(v->unit.bytes, image_vae_bytes(g->m, kind, h, w, &e));
    const size_t scale = (size_t)g->info->scale, cells = (size_t)h * (size_t)w;
    const size_t latents = cells * (size_t)g->info->latent_channels;
    if (input != NULL) {
        if (kind == IMAGE_ENCODE)
            get(g, input, v->picture, cells * scale * scale * 3);
        else
            get(g, input, v->latent, latents);
    } else {
        for (size_t i = 0; i < latents; i++)
            v->latent[i] = sinf((float)(i * i % 1000)) * 2;
    }
    run(&v->unit, false);
    const size_t n = kind == IMAGE_ENCODE ? 2 * latents : cells * scale * scale * 3;
    float *first = malloc(n * sizeof(float));
    memcpy(first, kind == IMAGE_ENCODE ? v->moments : v->picture, n * sizeof(float));
    run(&v->unit, true); /* again, in pieces */
    assert_memory_equal(first, kind == IMAGE_ENCODE ? v->moments : v->picture, n * sizeof(float));
    image_close(&v->unit);
    return first;
}

static void bits_do_not_depend_on_the_slices(void **state)
{
    struct golden g;
    struct rows r;
    golden_open(&g, *state, 0);
    rows_open(&r, &g);
    const size_t floats = (size_t)2 * H * W * (size_t)g.info->latent_channels;
    float *whole = malloc(floats * sizeof(float)), *cut = malloc(floats * sizeof(float));
    forward(&g, &r, (const int[]){0, 1}, 2, whole);
    float *picture = vae_run(&g, IMAGE_DECODE, "latent", H, W), *picture2;
    const double slices[] = {1, 2e4, 3e5};
    for (int i = 0; i < 3; i++) {
        nn_slice_flops = slices[i];
        forward(&g, &r, (const int[]){0, 1}, 2, cut);
        picture2 = vae_run(&g, IMAGE_DECODE, "latent", H, W);
        nn_slice_flops = NN_SLICE_FLOPS;
        assert_memory_equal(cut, whole, floats * sizeof(float));
        assert_memory_equal(picture2, picture,
                            (size_t)(H * W * 3) * sizeof(float) *
                                (size_t)(g.info->scale * g.info->scale));
        free(picture2);
    }
    free(picture);
    free(whole);
    free(cut);
    rows_close(&r, &g);
    golden_close(&g);
}

static void unet_refuses_wrong_sizes(void **state)
{
    struct golden g;
    struct err e = {0};
    struct image_unet *u;
    golden_open(&g, *state, 0);
    assert_int_equal(image_unet_open(&u, g.m, 1, 0, 8, &e), ERR_TOOBIG);
    assert_int_equal(image_unet_open(&u, g.m, 0, 8, 8, &e), ERR_TOOBIG);
    assert_int_equal(image_unet_open(&u, g.m, 1, 1 << 20, 8, &e), ERR_TOOBIG);
    assert_int_equal(image_unet_bytes(g.m, 1, 8, 0, &e), 0);
    must(image_unet_open(&u, g.m, 1, 8, 8, &e), &e);
    assert_int_equal(image_run(&u->unit, INT64_MAX, &e), ERR_TOOBIG); /* no tokens */
    u->rows[0].n_tokens = IMAGE_TOKENS;
    assert_int_equal(image_run(&u->unit, INT64_MAX, &e), ERR_INVALID); /* no prompt */
    image_close(&u->unit);
    golden_close(&g);
}

static void vae_matches_diffusers(void **state)
{
    struct golden g;
    golden_open(&g, *state, 0);
    float *picture = vae_run(&g, IMAGE_DECODE, "latent", H, W);
    near(&g, "decoded", picture);
    free(picture);
    if (!g.info->enlarges) { /* whose encoder nobody uses */
        float *moments = vae_run(&g, IMAGE_ENCODE, "picture", H, W);
        near(&g, "moments", moments);
        free(moments);
    }
    golden_close(&g);
}

static void preview_matches_diffusers(void **state)
{
    (void)state;
    struct golden g;
    struct err e = {0};
    golden_open(&g, "sd15", 0);
    safetensors_close(g.values);
    must(safetensors_open(&g.values, "tests/fixtures/sd_taesd.safetensors", &e), &e);
    g.name = "taesd";
    float *picture = vae_run(&g, IMAGE_PREVIEW, "latent", H, W);
    near(&g, "decoded", picture);
    free(picture);
    golden_close(&g);
}

/* A decoder that looks further than the overlap of its tiles makes another picture, but a similar one, and
 * every pixel is written. */
static void tiles_make_the_same_picture(void **state)
{
    (void)state;
    struct golden whole, tiled;
    enum { SIDE_H = 40, SIDE_W = 56 };
    golden_open(&whole, "sd15", 0);
    golden_open(&tiled, "sd15", (size_t)600 << 10);
    struct err e = {0};
    const enum image_vae_kind kinds[] = {IMAGE_PREVIEW, IMAGE_DECODE};
    const double bounds[] = {0.06, 0.6}; /* measured 0.03, 0.3 */
    for (int k = 0; k < 2; k++) {
        assert_true(image_vae_bytes(tiled.m, kinds[k], SIDE_H, SIDE_W, &e) <
                    image_vae_bytes(whole.m, kinds[k], SIDE_H, SIDE_W, &e));
        float *a = vae_run(&whole, kinds[k], NULL, SIDE_H, SIDE_W);
        float *b = vae_run(&tiled, kinds[k], NULL, SIDE_H, SIDE_W);
        const size_t n = (size_t)SIDE_H * SIDE_W * 4 * 3;
        double error = 0, size = 0;
        for (size_t i = 0; i < n; i++) {
            assert_true(isfinite(b[i]));
            error += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
            size += (double)a[i] * (double)a[i];
        }
        print_message("    tiles: %.1e\n", sqrt(error / size));
        assert_true(sqrt(error / size) < bounds[k]);
        free(a);
        free(b);
    }
    golden_close(&whole);
    golden_close(&tiled);
}

static void info_says_what_the_model_is(void **state)
{
    (void)state;
    static const struct {
        const char *name, *family, *prediction;
        int in, encoders, pooled;
        bool guidance;
    } want[] = {
        {"sd15", "sd15", "epsilon", 4, 1, 0, false},
        {"sd21", "sd21", "v_prediction", 4, 1, 0, false},
        {"sdxl", "sdxl", "epsilon", 4, 2, 28, false},
        {"inpaint", "sd15", "epsilon", 9, 1, 0, false},
        {"lcm", "sd15", "epsilon", 4, 1, 0, true},
        {"upscaler", "sd21", "v_prediction", 7, 1, 0, false},
        {"single_refiner", "sdxl", "epsilon", 4, 1, 32, false},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct golden g;
        golden_open(&g, want[i].name, 0);
        const struct image_info *info = g.info;
        if (strcmp(want[i].name, "sd21") != 0) /* tiny widths do not tell SD 2 from SD 1 */
            assert_string_equal(info->family, want[i].family);
        assert_string_equal(info->prediction, want[i].prediction);
        assert_int_equal(info->in_channels, want[i].in);
        assert_int_equal(info->n_encoders, want[i].encoders);
        assert_int_equal(info->pooled_dim, want[i].pooled);
        assert_int_equal(info->guidance_embedded, want[i].guidance);
        assert_int_equal(info->aesthetic, strcmp(want[i].name, "single_refiner") == 0);
        assert_int_equal(info->enlarges, want[i].in == 7);
        assert_int_equal(info->max_level, info->enlarges ? 10 : 0);
        assert_int_equal(info->default_steps, strcmp(want[i].name, "lcm") == 0 ? 4
                                              : info->enlarges                 ? 75
                                                                               : 30);
        assert_true(info->has_encoder && info->weight_bytes > 10000);
        assert_int_equal(info->has_preview, !info->enlarges); /* the TAESD has another scale */
        golden_close(&g);
    }
}

/* The small models that stand in the repository say how they want to be asked. */
static void models_say_their_defaults(void **state)
{
    static const struct {
        const char *path;
        int steps;
        float guidance;
    } want[] = {{"models/emoji-sd", 20, 3}, {"models/emoji-sd-lcm", 4, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct image_model *m;
        struct checkpoint *c;
        struct err e = {0};
        const struct image_model_options o = {0};
        must(checkpoint_open(&c, want[i].path, NULL, &e), &e);
        must(image_model_open(&m, c, be, &o, &e), &e);
        assert_int_equal(image_model_info(m)->default_steps, want[i].steps);
        assert_true(image_model_info(m)->default_guidance == want[i].guidance);
        image_model_close(m);
        checkpoint_close(c);
    }
}

#define EACH(test)                                                                        \
    {#test " sd15", test, NULL, NULL, "sd15"}, {#test " sd21", test, NULL, NULL, "sd21"}, \
        {#test " sdxl", test, NULL, NULL, "sdxl"},                                        \
        {#test " inpaint", test, NULL, NULL, "inpaint"},                                  \
    {                                                                                     \
#test " lcm", test, NULL, NULL, "lcm"                                             \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(text_matches_diffusers),
        EACH(unet_matches_diffusers),
        EACH(vae_matches_diffusers),
        EACH(unet_bits_do_not_depend_on_the_batch),
        EACH(bits_do_not_depend_on_the_slices),
        {"text_matches_diffusers refiner", text_matches_diffusers, NULL, NULL, "single_refiner"},
        {"unet_matches_diffusers refiner", unet_matches_diffusers, NULL, NULL, "single_refiner"},
        {"vae_matches_diffusers refiner", vae_matches_diffusers, NULL, NULL, "single_refiner"},
        {"unet_matches_diffusers upscaler", unet_matches_diffusers, NULL, NULL, "upscaler"},
        {"vae_matches_diffusers upscaler", vae_matches_diffusers, NULL, NULL, "upscaler"},
        {"unet_bits_of_pairs sd15", unet_bits_of_pairs_are_those_of_their_rows, NULL, NULL, "sd15"},
        {"unet_bits_of_pairs sd21", unet_bits_of_pairs_are_those_of_their_rows, NULL, NULL, "sd21"},
        {"unet_bits upscaler", unet_bits_do_not_depend_on_the_batch, NULL, NULL, "upscaler"},
        {"unet_refuses_wrong_sizes", unet_refuses_wrong_sizes, NULL, NULL, "sd15"},
        cmocka_unit_test(preview_matches_diffusers),
        cmocka_unit_test(tiles_make_the_same_picture),
        cmocka_unit_test(info_says_what_the_model_is),
        cmocka_unit_test(models_say_their_defaults),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
