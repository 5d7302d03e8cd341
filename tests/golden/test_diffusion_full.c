/* An image model of full size against diffusers: one step with guidance and a decoding at 256 x 256, with the
 * seconds and the memory they take.  Skipped without
 *     DIFFUSION_MODEL=DIR   a model and DIR.safetensors by tools/make_full_sd.py */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "engine/models/image_model.h"
#include "engine/safetensors.h"

#define BOUND 2e-3 /* largest error over the largest value */

enum { SIDE = 32, ROWS = 2 };

static void must(int rc, const struct err *e)
{
    if (rc != 0)
        fail_msg("%d: %s", rc, e->msg);
}

static double peak_gib(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)r.ru_maxrss / (1 << 20);
}

static const struct safetensors_tensor *value(const struct safetensors *s, const char *name)
{
    const struct safetensors_tensor *t = safetensors_find(s, name);
    if (t == NULL)
        fail_msg("there are no values %s", name);
    return t;
}

static void near(const struct safetensors *s, const char *name, const float *ours)
{
    const struct safetensors_tensor *t = value(s, name);
    double most = 0, size = 0;
    for (size_t i = 0; i < t->bytes / sizeof(float); i++) {
        float ref;
        memcpy(&ref, (const char *)t->data + i * sizeof ref, sizeof ref);
        assert_true(isfinite(ours[i]));
        most = fmax(most, fabs((double)ours[i] - (double)ref));
        size = fmax(size, fabs((double)ref));
    }
    print_message("    %s: error %.1e of %.2f\n", name, most / size, size);
    assert_true(most <= BOUND * size);
}

/* Twice: the second time memory is warm. */
static void run(struct image_unit *u, const char *what)
{
    struct err e = {0};
    for (int i = 0; i < 2; i++) {
        int64_t begin = clock_us(), longest = 0, last = begin;
        int rc;
        while ((rc = image_run(u, 0, &e)) == 1) {
            int64_t now = clock_us();
            longest = now - last > longest ? now - last : longest;
            last = now;
        }
        must(rc, &e);
        print_message("    %s: %.2f s, longest op %.0f ms, unit %.2f GiB, peak %.2f GiB\n", what,
                      (double)(clock_us() - begin) * 1e-6, (double)longest * 1e-3,
                      (double)u->bytes / (1 << 30), peak_gib());
    }
}

static void step(struct image_model *m, const struct safetensors *s)
{
    struct err e = {0};
    struct image_unet *u;
    const struct image_info *info = image_model_info(m);
    const struct safetensors_tensor *context = value(s, "context"), *x = value(s, "x");
    float *kv[ROWS],
        *pooled = malloc(sizeof(float) * (size_t)ROWS * (size_t)(info->pooled_dim + 1));
    must(image_unet_open(&u, m, ROWS, SIDE, SIDE, &e), &e);
    if (info->pooled_dim > 0)
        memcpy(pooled, value(s, "pooled")->data, value(s, "pooled")->bytes);
    for (int i = 0; i < ROWS; i++) {
        struct image_kv *k;
        must(image_kv_open(&k, m, IMAGE_TOKENS, &e), &e);
        kv[i] = k->kv = image_kv_memory(m, IMAGE_TOKENS, &e);
        memcpy(k->context, (const char *)context->data + (size_t)i * (context->bytes / ROWS),
               context->bytes / ROWS);
        must(image_run(&k->unit, INT64_MAX, &e), &e);
        image_close(&k->unit);
        u->rows[i] = (struct image_row){.kv = kv[i],
                                        .n_tokens = IMAGE_TOKENS,
                                        .timestep = 801,
                                        .pooled = pooled + (size_t)i * (size_t)info->pooled_dim,
                                        .time_ids = {256, 256, 0, 0, 256, 256}};
        memcpy(u->x + (size_t)i * (x->bytes / sizeof(float)), x->data, x->bytes);
    }
    run(&u->unit, "unet");
    near(s, "out", u->out);
    image_close(&u->unit);
    free(pooled);
    for (int i = 0; i < ROWS; i++)
        image_kv_free(m, kv[i]);
}

static void full_size_matches_diffusers(void **state)
{
    (void)state;
    const char *dir = getenv("DIFFUSION_MODEL");
    if (dir == NULL)
        skip();
    char path[512];
    struct err e = {0};
    struct backend *be;
    struct checkpoint *c;
    struct safetensors *s;
    struct image_model *m;
    snprintf(path, sizeof path, "%s.safetensors", dir);
    must(safetensors_open(&s, path, &e), &e);
    must(backend_open(&be, "cpu", 0, &e), &e);
    int64_t begin = clock_us();
    must(checkpoint_open(&c, dir, NULL, &e), &e);
    must(image_model_open(&m, c, be, &(struct image_model_options){0}, &e), &e);
    checkpoint_close(c);
    print_message("    %s: loaded in %.1f s, weights %.2f GiB, peak %.2f GiB\n",
                  image_model_info(m)->family, (double)(clock_us() - begin) * 1e-6,
                  (double)image_model_info(m)->weight_bytes / (1 << 30), peak_gib());
    step(m, s);
    struct image_vae *v;
    must(image_vae_open(&v, m, IMAGE_DECODE, SIDE, SIDE, &e), &e);
    memcpy(v->latent, value(s, "latent")->data, value(s, "latent")->bytes);
    run(&v->unit, "decode");
    near(s, "picture", v->picture);
    image_close(&v->unit);
    image_model_close(m);
    safetensors_close(s);
    be->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(full_size_matches_diffusers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
