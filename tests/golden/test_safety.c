/* The safety checker against diffusers (tools/make_safety_golden.py made the model and the values): what it is
 * shown, what it sees, its scores and decisions; whole and in pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/image.h"
#include "engine/job.h"
#include "engine/models/image_model.h"
#include "engine/models/nn.h"
#include "engine/models/safety.h"
#include "engine/safetensors.h"
#include "tests/golden/device.h"

#define MODEL "tests/fixtures/sd_safety"

static struct backend *be;
static struct checkpoint *checkpoint;
static struct image_model *model;
static struct safetensors *values;

static void must(int rc, const struct err *e)
{
    if (rc != 0)
        fail_msg("%d: %s", rc, e->msg);
}

static int open_all(void **state)
{
    (void)state;
    struct err e = {0};
    nn_slice_flops = 1e4; /* many pieces of a small pass */
    int rc = backend_open(&be, golden_device(), 0, &e);
    if (rc == 0)
        rc = checkpoint_open(&checkpoint, MODEL, NULL, &e);
    if (rc == 0)
        rc = image_model_open(&model, checkpoint, be, &(const struct image_model_options){0}, &e);
    if (rc == 0)
        rc = safetensors_open(&values, MODEL ".safetensors", &e);
    if (rc != 0)
        print_error("%s\n", e.msg);
    return rc;
}

static int close_all(void **state)
{
    (void)state;
    safetensors_close(values);
    image_model_close(model);
    checkpoint_close(checkpoint);
    be->close(be);
    return 0;
}

/* NULL when there is none of that number. */
static const struct safetensors_tensor *value(const char *name, int i)
{
    char full[32];
    snprintf(full, sizeof full, i < 0 ? "%s" : "%s%d", name, i);
    return safetensors_find(values, full);
}

static struct image picture(int i)
{
    const struct safetensors_tensor *t = value("picture", i);
    struct image im = {0};
    if (t == NULL)
        return im;
    struct err e = {0};
    must(image_init(&im, (int)t->dims[1], (int)t->dims[0], 3, &e), &e);
    memcpy(im.data, t->data, image_bytes(&im));
    return im;
}

static void same(const char *what, int i, const float *have, const float *want, size_t n,
                 double bound)
{
    for (size_t k = 0; k < n; k++)
        if (!(fabs((double)have[k] - (double)want[k]) <= bound))
            fail_msg("%s of picture %d: number %zu is %g, diffusers has %g", what, i, k,
                     (double)have[k], (double)want[k]);
}

static void pictures_are_shown_as_transformers_shows_them(void **state)
{
    (void)state;
    struct safety *s = NULL;
    struct nn_store store = {.be = be};
    struct err e = {0};
    struct nn_loader l = {.c = checkpoint, .part = CHECKPOINT_SAFETY, .store = &store, .e = &e};
    must(safety_open(&s, &l, &e), &e);
    size_t n = (size_t)safety_size(s) * (size_t)safety_size(s) * 3;
    float *pixels = malloc(n * sizeof *pixels);
    struct image im;
    int i = 0;
    for (; (im = picture(i)).data != NULL; i++) {
        must(safety_look(s, &im, pixels, &e), &e);
        const struct safetensors_tensor *t = value("pixels", i);
        assert_int_equal(t->bytes, n * sizeof(float));
        float *want = malloc(t->bytes);
        memcpy(want, t->data, t->bytes);
        same("pixels", i, pixels, want, n, 1e-5);
        free(want);
        image_free(&im);
    }
    assert_true(i >= 8);
    free(pixels);
    safety_close(s);
    nn_store_free(&store);
}

static void scores_and_decisions_are_those_of_diffusers(void **state)
{
    (void)state;
    struct image_safety *u = NULL;
    struct err e = {0};
    int n = (int)value("scores", -1)->dims[0], n_flagged = 0, n_pieces = 0;
    float want[20], seen[16];
    int32_t flagged;
    assert_true(image_model_info(model)->has_safety);
    assert_true(image_safety_bytes(model, &e) > 0);
    must(image_safety_open(&u, model, &e), &e);
    for (int i = 0; i < n; i++) {
        struct image im = picture(i);
        struct safety_result have = {0};
        must(image_safety_look(u, &im, &e), &e);
        if (i == 1) { /* one that was dropped in between leaves nothing behind */
            image_run(&u->unit, 0, &e);
            image_restart(&u->unit);
        }
        int rc;
        while ((rc = image_run(&u->unit, 0, &e)) > 0)
            n_pieces++;
        must(rc, &e);
        image_safety_judge(u, &have);
        memcpy(seen, (const char *)value("seen", -1)->data + (size_t)i * sizeof seen, sizeof seen);
        memcpy(want, (const char *)value("scores", -1)->data + (size_t)i * sizeof want,
               sizeof want);
        memcpy(&flagged, (const char *)value("flagged", -1)->data + (size_t)i * 4, 4);
        same("seen", i, u->seen, seen, 16, 1e-4);
        assert_int_equal(have.n_special, 3);
        assert_int_equal(have.n_concepts, 17);
        same("special scores", i, have.special, want, 3, 1e-3);
        same("concept scores", i, have.concepts, want + 3, 17, 1e-3);
        assert_int_equal(have.flagged, flagged);
        n_flagged += flagged;
        image_free(&im);
    }
    assert_in_range(n_flagged, 1, n - 1);
    assert_true(n_pieces > 10 * n);
    image_close(&u->unit);
}

static void checker_is_left_out_only_when_told_to(void **state)
{
    (void)state;
    struct checkpoint *c;
    struct err e = {0};
    assert_true(checkpoint_has(checkpoint, CHECKPOINT_SAFETY));
    must(checkpoint_open(&c, MODEL, &(const struct checkpoint_options){.no_safety = true}, &e), &e);
    assert_false(checkpoint_has(c, CHECKPOINT_SAFETY));
    checkpoint_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_are_shown_as_transformers_shows_them),
        cmocka_unit_test(scores_and_decisions_are_those_of_diffusers),
        cmocka_unit_test(checker_is_left_out_only_when_told_to),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
