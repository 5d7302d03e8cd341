/* Philox against the published vectors (Random123, kat_vectors), and what is built on it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "base/rng.h"

static void rng_philox_matches_the_published_vectors(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed, stream, index;
        uint32_t want[4];
    } cases[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        /* Digits of pi: counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0. */
        {0x299f31d0a4093822u,
         0x0370734413198a2eu,
         0x85a308d3243f6a88u,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        rng_philox(cases[i].seed, cases[i].stream, cases[i].index, out);
        assert_memory_equal(out, cases[i].want, sizeof out);
    }
}

static void rng_uniform_stays_in_range_with_the_right_moments(void **state)
{
    (void)state;
    enum { N = 200000 };
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = rng_uniform(42, 7, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    assert_true(fabs(sum / N - 0.5) < 0.005);
    assert_true(fabs(squares / N - 1.0 / 3) < 0.005);
}

static void rng_uniform_depends_on_seed_stream_and_index_alone(void **state)
{
    (void)state;
    double u = rng_uniform(1, 2, 3);
    assert_true(rng_uniform(2, 2, 3) != u);
    assert_true(rng_uniform(1, 3, 3) != u);
    assert_true(rng_uniform(1, 2, 4) != u);
    assert_true(rng_uniform(1, 2, 3) == u);
}

static void rng_seed_random_differs_between_calls(void **state)
{
    (void)state;
    assert_true(rng_seed_random() != rng_seed_random());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rng_philox_matches_the_published_vectors),
        cmocka_unit_test(rng_uniform_stays_in_range_with_the_right_moments),
        cmocka_unit_test(rng_uniform_depends_on_seed_stream_and_index_alone),
        cmocka_unit_test(rng_seed_random_differs_between_calls),
    };
    return cmocka_run_group_tests_name("base/rng", tests, NULL, NULL);
}
