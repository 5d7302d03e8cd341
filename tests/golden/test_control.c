/* ControlNets and T2I-Adapters against diffusers (tools/make_control_golden.py made the models and the values):
 * residuals at their places, guess mode, pooled ones, a file under LDM's names; and that a row has the
 * same bits alone and in a batch, at once or in pieces, steered beside or not.
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

#include "engine/models/control.h"
#include "engine/safetensors.h"
#include "kernels/team.h"
#include "tests/golden/device.h"
#include "tests/golden/near.h"

#define DIR "tests/fixtures/"

/* Largest error over the largest value; f32 sums in another order. */
#define BOUND 5e-5

enum { H = 4, W = 8, TOKENS = 9 };
static const float scale = 0.75f;

static struct backend *be;
static struct safetensors *values;

static void must(int rc, const struct err *e)
{
    if (rc != 0)
        fail_msg("%d: %s", rc, e->msg);
}

static int setup(void **state)
{
    (void)state;
    struct err e;
    if (backend_open(&be, golden_device(), 0, NULL) != 0)
        return -1;
    team_activations(be, golden_activations());
    return safetensors_open(&values, DIR "control.safetensors", &e);
}

static int teardown(void **state)
{
    (void)state;
    safetensors_close(values);
    be->close(be);
    return 0;
}

static float *get(const char *name, const char *what, size_t *n)
{
    char full[64];
    snprintf(full, sizeof full, "%s.%s", name, what);
    const struct safetensors_tensor *t = safetensors_find(values, full);
    *n = 0;
    if (t == NULL)
        return NULL;
    float *to = malloc(t->bytes);
    memcpy(to, t->data, t->bytes);
    *n = t->bytes / sizeof(float);
    return to;
}

static struct control *open_control(const char *path)
{
    struct checkpoint *c;
    struct control *out = NULL;
    struct err e = {0};
    assert_true(checkpoint_is_control(path));
    must(checkpoint_open(&c, path, NULL, &e), &e);
    must(control_open(&out, c, be, NULL, &e), &e);
    checkpoint_close(c);
    return out;
}

static struct image_model *open_model(const char *path)
{
    struct checkpoint *c;
    struct image_model *out = NULL;
    struct err e = {0};
    must(checkpoint_open(&c, path, NULL, &e), &e);
    must(image_model_open(&out, c, be, &(const struct image_model_options){0}, &e), &e);
    checkpoint_close(c);
    return out;
}

/* hint_image of the script. */
static void paint(uint8_t *rgb, int width, int height, int kind)
{
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            const int planes[3] = {x * 9 + y * 3, x * y * 3, y * 11 + 40};
            for (int c = 0; c < 3; c++)
                *rgb++ = (uint8_t)planes[(kind + c) % 3];
        }
    }
}

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

static float *look(struct control *c, int width, int height, int kind)
{
    struct control_hint *u;
    struct err e = {0};
    uint8_t *rgb = malloc((size_t)width * (size_t)height * 3);
    paint(rgb, width, height, kind);
    must(control_hint_open(&u, c, height, width, &e), &e);
    assert_int_equal(u->unit.bytes, control_hint_bytes(c, height, width, &e));
    control_hint_look(u, rgb, NULL);
    u->hint = calloc(control_hint_floats(c, height, width), sizeof(float));
    float *hint = u->hint;
    run(&u->unit, kind > 0);
    image_close(&u->unit);
    free(rgb);
    return hint;
}

static void near(const char *name, const float *ours, const float *ref, size_t n)
{
    golden_near(be->activations, name, ours, ref, n, BOUND);
}

/* ---- ControlNets ---- */

struct rows {
    float *x, *context, *pooled, *time_ids, *hint[2];
    size_t n_x, n_context, n_pooled; /* of a row */
};

static void rows_open(struct rows *r, struct control *c, const char *name)
{
    size_t n;
    memset(r, 0, sizeof *r);
    r->x = get(name, "x", &r->n_x);
    r->context = get(name, "context", &r->n_context);
    r->pooled = get(name, "pooled", &r->n_pooled);
    r->time_ids = get(name, "time_ids", &n);
    r->n_x /= 2;
    r->n_context /= 2;
    r->n_pooled /= 2;
    for (int i = 0; i < 2; i++)
        r->hint[i] = look(c, 2 * W, 2 * H, i);
}

static void rows_close(struct rows *r)
{
    free(r->x);
    free(r->context);
    free(r->pooled);
    free(r->time_ids);
    free(r->hint[0]);
    free(r->hint[1]);
}

/* Rows `which` as a batch; each one's block, of n_floats, to out. */
static void forward(struct control *c, const struct rows *r, const int *which, int n,
                    struct control_row like, float *out, size_t n_floats)
{
    static const float timesteps[] = {981.0f, 249.5f};
    struct control_net *u;
    struct err e = {0};
    const struct control_size size = {n, H, W, TOKENS, 0};
    must(control_net_open(&u, c, size, &e), &e);
    assert_int_equal(u->unit.bytes, control_net_bytes(c, size, &e));
    memset(out, 0xff, (size_t)n * n_floats * sizeof(float)); /* NaN */
    for (int i = 0; i < n; i++) {
        const size_t k = (size_t)which[i];
        struct control_row *row = &u->rows[i];
        *row = like;
        row->timestep = timesteps[k];
        row->hint = r->hint[k];
        row->context = r->context + k * r->n_context;
        row->residuals = out + (size_t)i * n_floats;
        row->n_residuals = n_floats;
        row->fresh = true;
        if (r->pooled != NULL) {
            row->pooled = r->pooled + k * r->n_pooled;
            memcpy(row->time_ids, r->time_ids + k * IMAGE_TIME_IDS, sizeof row->time_ids);
        }
        memcpy(u->x + (size_t)i * r->n_x, r->x + k * r->n_x, r->n_x * sizeof(float));
    }
    run(&u->unit, n == 1);
    image_close(&u->unit);
}

static const char *model_of(const char *name)
{
    return strcmp(name, "sdxl") == 0 || strcmp(name, "xl") == 0 ? DIR "sd_sdxl"
           : strcmp(name, "sd21") == 0                          ? DIR "sd_sd21"
                                                                : DIR "sd_sd15";
}

static void control_net_matches_diffusers(void **state)
{
    static const char *const what[] = {"out", "guess"};
    const char *name = *state;
    char path[64];
    struct rows r;
    struct err e = {0};
    snprintf(path, sizeof path, DIR "control_%s", name);
    struct control *c = open_control(path);
    struct image_model *m = open_model(model_of(name));
    assert_false(control_info(c)->adapter);
    must(control_fits(c, m, &e), &e);
    rows_open(&r, c, name);
    for (int guess = 0; guess < 2; guess++) {
        size_t n;
        float *ref = get(name, what[guess], &n), *out = malloc(n * sizeof(float));
        assert_in_range(n / 2, image_residual_floats(m, H, W) / 2, image_residual_floats(m, H, W));
        const struct control_row like = {.scale = scale, .guess = guess > 0};
        forward(c, &r, (const int[]){0, 1}, 2, like, out, n / 2);
        near(name, out, ref, n);
        free(ref);
        free(out);
    }
    rows_close(&r);
    image_model_close(m);
    control_close(c);
}

static void control_net_bits_do_not_depend_on_the_batch(void **state)
{
    static const int which[5] = {1, 0, 0, 1, 0};
    struct control *c = open_control(DIR "control_sdxl");
    const struct control_row like = {.scale = scale};
    struct rows r;
    size_t n;
    (void)state;
    rows_open(&r, c, "sdxl");
    float *ref = get("sdxl", "out", &n);
    n /= 2;
    float *alone = malloc(2 * n * sizeof(float)), *batch = malloc(5 * n * sizeof(float));
    forward(c, &r, (const int[]){0}, 1, like, alone, n);
    forward(c, &r, (const int[]){1}, 1, like, alone + n, n);
    forward(c, &r, which, 5, like, batch, n);
    for (size_t i = 0; i < 5; i++)
        assert_memory_equal(batch + i * n, alone + (size_t)which[i] * n, n * sizeof(float));
    free(ref);
    free(alone);
    free(batch);
    rows_close(&r);
    control_close(c);
}

static void control_reads_single_files(void **state)
{
    struct checkpoint *dir, *file;
    struct err e = {0};
    (void)state;
    assert_true(checkpoint_is_control(DIR "control_ldm.safetensors"));
    assert_false(checkpoint_is_control(DIR "control.safetensors"));
    must(checkpoint_open(&dir, DIR "control_a", NULL, &e), &e);
    must(checkpoint_open(&file, DIR "control_ldm.safetensors", NULL, &e), &e);
    const enum checkpoint_part part = CHECKPOINT_CONTROL;
    assert_int_equal(checkpoint_n_tensors(file, part), checkpoint_n_tensors(dir, part));
    for (int i = 0; i < checkpoint_n_tensors(dir, part); i++) {
        const struct checkpoint_tensor *a = checkpoint_tensor_at(dir, part, i);
        const struct checkpoint_tensor *b = checkpoint_find(file, part, a->name);
        if (b == NULL)
            fail_msg("%s is missing", a->name);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    checkpoint_close(dir);
    checkpoint_close(file);
}

/* ---- adapters ---- */

static void adapter_matches_diffusers(void **state)
{
    const char *name = *state;
    char path[64];
    size_t n;
    struct err e = {0};
    snprintf(path, sizeof path, DIR "control_%s", name);
    struct control *c = open_control(path);
    struct image_model *m = open_model(model_of(name));
    assert_true(control_info(c)->adapter);
    must(control_fits(c, m, &e), &e);
    float *ref = get(name, "out", &n);
    assert_int_equal(n, control_hint_floats(c, 8, 16));
    float *hint = look(c, 16, 8, 0);
    near(name, hint, ref, n);
    free(ref);
    free(hint);
    image_model_close(m);
    control_close(c);
}

/* ---- fitting ---- */

static void control_of_another_family_does_not_fit(void **state)
{
    static const char *const names[] = {"sdxl", "sd21", "xl"};
    struct image_model *m = open_model(DIR "sd_sd15");
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        struct err e = {0};
        snprintf(path, sizeof path, DIR "control_%s", names[i]);
        struct control *c = open_control(path);
        assert_int_equal(control_fits(c, m, &e), ERR_INVALID);
        control_close(c);
    }
    image_model_close(m);
}

/* ---- a steered pass ---- */

/* With no residuals: to the bit what a pass that is not steered gives. */
static void steered_pass_without_residuals_has_the_same_bits(void **state)
{
    struct image_model *m = open_model(DIR "sd_sd15");
    const struct image_info *info = image_model_info(m);
    const size_t n = (size_t)H * W * (size_t)info->latent_channels;
    float *kv = image_kv_memory(m, TOKENS, NULL), *plain = malloc(n * sizeof(float));
    struct err e = {0};
    (void)state;
    for (int steered = 0; steered < 2; steered++) {
        struct image_unet *u;
        const struct image_unet_want two = {2, H, W, true, IMAGE_WHOLE, -1, false};
        must(steered ? image_unet_open_want(&u, m, &two, &e) : image_unet_open(&u, m, 1, H, W, &e),
             &e);
        for (int i = 0; i <= steered; i++) {
            u->rows[i] = (struct image_row){.kv = kv, .n_tokens = TOKENS, .timestep = 500};
            for (size_t k = 0; k < n; k++)
                u->x[(size_t)i * n + k] = sinf((float)k);
        }
        run(&u->unit, steered);
        if (steered)
            assert_memory_equal(u->out, plain, n * sizeof(float));
        else
            memcpy(plain, u->out, n * sizeof(float));
        image_close(&u->unit);
    }
    image_kv_free(m, kv);
    free(plain);
    image_model_close(m);
}

#define NET(name)                                                                              \
    {                                                                                          \
        "control_net_matches_diffusers " name, control_net_matches_diffusers, NULL, NULL, name \
    }
#define ADAPTER(name)                                                                  \
    {                                                                                  \
        "adapter_matches_diffusers " name, adapter_matches_diffusers, NULL, NULL, name \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        NET("a"),
        NET("b"),
        NET("pool"),
        NET("sd21"),
        NET("sdxl"),
        ADAPTER("full"),
        ADAPTER("light"),
        ADAPTER("xl"),
        cmocka_unit_test(control_net_bits_do_not_depend_on_the_batch),
        cmocka_unit_test(control_reads_single_files),
        cmocka_unit_test(control_of_another_family_does_not_fit),
        cmocka_unit_test(steered_pass_without_residuals_has_the_same_bits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
