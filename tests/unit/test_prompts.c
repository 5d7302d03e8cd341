/* Weights of a prompt on the states of SDXL's two text encoders: each has its own, and keeps its own mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "engine/prompts.h"

static struct backend *be;
static struct diffusion *sdxl;

static int setup(void **state)
{
    (void)state;
    struct err e;
    const struct diffusion_options o = {0};
    log_init(LOG_ERROR, false);
    assert_int_equal(backend_open(&be, "cpu", 1, &e), 0);
    if (diffusion_open(&sdxl, "tests/fixtures/sd_sdxl", be, &o, &e) != 0)
        fail_msg("%s", e.msg);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    diffusion_close(sdxl);
    be->close(be);
    return 0;
}

/* x [IMAGE_TOKENS, dim] in rows of `stride`: each row times its weight, and the sum as before. */
static void expect_weighted(const float *got, const float *x, size_t stride, size_t dim,
                            const float *weights)
{
    double before = 0, after = 0;
    for (size_t t = 0; t < IMAGE_TOKENS; t++) {
        for (size_t i = 0; i < dim; i++) {
            before += (double)x[t * stride + i];
            after += (double)(weights ? x[t * stride + i] * weights[t] : x[t * stride + i]);
        }
    }
    for (size_t t = 0; t < IMAGE_TOKENS; t++) {
        for (size_t i = 0; i < dim; i++) {
            double w = weights ? (double)weights[t] * before / after : 1;
            assert_true(fabs((double)got[t * stride + i] - (double)x[t * stride + i] * w) < 1e-5);
        }
    }
}

static void prompts_weigh_every_encoder_by_its_own_weights(void **state)
{
    (void)state;
    const struct image_info *info = sdxl->info;
    static int32_t ids[2][IMAGE_TOKENS];
    static float weights[2][IMAGE_TOKENS], hidden[IMAGE_TOKENS * 512], pooled[512];
    const size_t dim = (size_t)info->context_dim, first = (size_t)info->text_dim[0];
    assert_int_equal(info->n_encoders, 2);
    assert_int_equal(info->text_dim[0] + info->text_dim[1], info->context_dim);
    assert_true(dim <= 512 && info->pooled_dim <= 512);
    for (size_t i = 0; i < IMAGE_TOKENS * dim; i++)
        hidden[i] = (float)(i * 37 % 101) / 100;
    for (int i = 0; i < IMAGE_TOKENS; i++) {
        weights[0][i] = i == 3 ? 1.5f : 1;
        weights[1][i] = i == 7 ? 0.5f : 1;
    }
    for (int which = 0; which < 4; which++) { /* bit i: encoder i has weights */
        struct diffusion_prompt q = {.n_chunks = 1};
        struct cache *cache;
        struct prompts p;
        for (int i = 0; i < 2; i++) {
            q.ids[i] = ids[i];
            q.weights[i] = which & 1 << i ? weights[i] : NULL;
        }
        assert_int_equal(cache_open(&cache, (size_t)1 << 26, NULL), 0);
        prompts_init(&p, cache, sdxl);
        assert_true(cache_hold(cache, prompts_bytes(&p, &q)));
        struct prompts_entry *en = prompts_use(&p, &q);
        assert_non_null(en);
        prompts_add(en, hidden, pooled);
        expect_weighted(en->context, hidden, dim, first, q.weights[0]);
        expect_weighted(en->context + first, hidden + first, dim, dim - first, q.weights[1]);
        assert_ptr_equal(prompts_find(&p, &q), en);
        q.weights[0] = q.weights[0] ? NULL : weights[0];
        assert_null(prompts_find(&p, &q)); /* it is another prompt */
        prompts_leave(en);
        prompts_fini(&p);
        cache_close(cache);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_weigh_every_encoder_by_its_own_weights),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
