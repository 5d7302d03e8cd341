/* torch.randn: what PyTorch's documents and users print for well known seeds.  tests/golden has many
 * sizes and seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "base/rng_torch.h"

static void check(const float *got, const float *want, int n)
{
    for (int i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= 1e-6f))
            fail_msg("[%d] is %.9g, should be %.9g", i, (double)got[i], (double)want[i]);
}

static void rng_torch_is_the_reference_twister(void **state)
{
    (void)state;
    /* mt19937ar.out is for another way of seeding; std::mt19937 states its 10000th word. */
    struct rng_torch r;
    rng_torch_seed(&r, RNG_CPU, 5489);
    for (int i = 1; i < 10000; i++)
        rng_torch_u32(&r);
    assert_int_equal(rng_torch_u32(&r), 4123659995u);
}

static void rng_torch_normal_gives_the_numbers_of_a_cuda_generator(void **state)
{
    (void)state;
    /* torch.randn(3, 4, device="cuda") for seed 0, as stable-diffusion-webui documents it. */
    static const float want[12] = {-0.92466259f, -0.42534415f, -2.6438457f,  0.14518388f,
                                   -0.12086647f, -0.57972564f, -0.62285122f, -0.32838709f,
                                   -1.07454231f, -0.36314407f, -1.67105067f, 2.26550497f};
    static const float seed42[8] = {0.1940f,  2.1614f, -0.1721f, 0.8491f,
                                    -1.9244f, 0.6530f, -0.6494f, -0.8175f};
    struct rng_torch r;
    float out[12];
    rng_torch_seed(&r, RNG_CUDA, 0);
    rng_torch_normal(&r, out, 12);
    check(out, want, 12);
    rng_torch_normal(&r, out, 12);
    assert_true(fabsf(out[0] - want[0]) > 1e-3f);
    rng_torch_seed(&r, RNG_CUDA, 42);
    rng_torch_normal(&r, out, 8);
    for (int i = 0; i < 8; i++)
        assert_true(fabsf(out[i] - seed42[i]) < 5.1e-5f);
}

static void rng_torch_normal_nhwc_is_nchw_transposed(void **state)
{
    (void)state;
    enum { H = 3, W = 5, C = 4, N = H * W * C };
    for (int kind = RNG_CPU; kind <= RNG_CUDA; kind++) {
        struct rng_torch r;
        float nchw[N], nhwc[N];
        rng_torch_seed(&r, (enum rng_kind)kind, 7);
        rng_torch_normal(&r, nchw, N);
        rng_torch_seed(&r, (enum rng_kind)kind, 7);
        rng_torch_normal_nhwc(&r, nhwc, H, W, C);
        for (int i = 0; i < N; i++)
            assert_true(nhwc[i % (H * W) * C + i / (H * W)] == nchw[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rng_torch_is_the_reference_twister),
        cmocka_unit_test(rng_torch_normal_gives_the_numbers_of_a_cuda_generator),
        cmocka_unit_test(rng_torch_normal_nhwc_is_nchw_transposed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
