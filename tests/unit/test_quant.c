/* quant.c: unpack against the reference reader's floats (tests/fixtures/quant_blocks.bin, written
 * by tools/make_quant_fixture.py), half floats over all 65536 values, pack and unpack round trip. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quant.h"

static void unpack_equals_the_reference(void **state)
{
    (void)state;
    FILE *f = fopen("tests/fixtures/quant_blocks.bin", "rb");
    assert_non_null(f);
    static uint8_t raw[4096];
    static float want[4096], got[4096];
    uint32_t head[3]; /* type, n_elements, n_bytes */
    int n_types = 0;
    while (fread(head, sizeof(head), 1, f) == 1) {
        assert_true(dtype_known(head[0]));
        enum dtype type = (enum dtype)head[0];
        assert_true(head[1] <= 4096 && head[2] <= sizeof(raw));
        assert_int_equal(head[2], dtype_bytes(type, head[1]));
        assert_int_equal(fread(raw, 1, head[2], f), head[2]);
        assert_int_equal(fread(want, sizeof(float), head[1], f), head[1]);
        quant_unpack(type, got, raw, head[1]);
        for (uint32_t i = 0; i < head[1]; i++) {
            if (got[i] != want[i])
                fail_msg("%s element %u: want %.9g got %.9g", dtype_name(type), i, (double)want[i],
                         (double)got[i]);
        }
        n_types++;
    }
    fclose(f);
    assert_int_equal(n_types, 14);
}

static void half_floats_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h), b = bf16_to_f32((uint16_t)h);
        if (!isnan(f))
            assert_int_equal(f32_to_f16(f), h);
        if (!isnan(b))
            assert_int_equal(f32_to_bf16(b), h);
    }
    assert_true(isnan(f16_to_f32(f32_to_f16(NAN))));
    assert_true(isnan(bf16_to_f32(f32_to_bf16(NAN))));
}

static void half_floats_round_to_even(void **state)
{
    (void)state;
    assert_int_equal(f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    assert_int_equal(f32_to_f16(1.0f + 0x3p-11f), 0x3c02);
    assert_int_equal(f32_to_f16(0x1p-25f), 0);
    assert_int_equal(f32_to_f16(0x1.002p-25f), 1);
    assert_int_equal(f32_to_f16(0x3p-25f), 2);
    assert_int_equal(f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
    assert_int_equal(f32_to_bf16(1.0f + 0x3p-8f), 0x3f82);
    assert_int_equal(f32_to_bf16(3.4e38f), 0x7f80);
}

/* The error of one element is at most about one step of its group. */
static void pack_is_near(void **state)
{
    (void)state;
    static const struct {
        enum dtype type;
        float step; /* relative to the largest magnitude */
    } cases[] = {{DTYPE_F32, 0},          {DTYPE_F16, 1e-3f},       {DTYPE_BF16, 8e-3f},
                 {DTYPE_Q4_0, 1 / 7.9f},  {DTYPE_Q4_1, 1 / 14.0f},  {DTYPE_Q5_0, 1 / 15.9f},
                 {DTYPE_Q5_1, 1 / 30.0f}, {DTYPE_Q8_0, 1 / 200.0f}, {DTYPE_Q4_K, 1 / 10.0f},
                 {DTYPE_Q6_K, 1 / 28.0f}};
    static float x[512], y[512];
    static uint8_t packed[4096];
    srand(7);
    for (int i = 0; i < 512; i++)
        x[i] = ((float)rand() / (float)RAND_MAX - 0.5f) * 2;
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        assert_true(quant_pack(cases[c].type, packed, x, 512));
        quant_unpack(cases[c].type, y, packed, 512);
        for (int i = 0; i < 512; i++) {
            if (fabsf(x[i] - y[i]) > cases[c].step)
                fail_msg("%s element %d: %g became %g", dtype_name(cases[c].type), i, (double)x[i],
                         (double)y[i]);
        }
    }
}

static void pack_of_zeros_is_zero(void **state)
{
    (void)state;
    static const enum dtype types[] = {DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1,
                                       DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q6_K};
    float x[256] = {0}, y[256];
    uint8_t packed[512];
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        assert_true(quant_pack(types[t], packed, x, 256));
        quant_unpack(types[t], y, packed, 256);
        for (int i = 0; i < 256; i++)
            assert_true(y[i] == 0.0f);
    }
    assert_false(quant_pack(DTYPE_MXFP4, packed, x, 256));
}

static void the_table_of_types_is_whole(void **state)
{
    (void)state;
    int n = 0;
    for (uint32_t t = 0; t < 100; t++)
        n += dtype_known(t);
    assert_int_equal(n, 16);
    assert_false(dtype_known(UINT32_MAX));
    assert_string_equal(dtype_name(DTYPE_Q4_1), "q4_1");
    assert_string_equal(dtype_name((enum dtype)4), "unknown");
    assert_int_equal(dtype_bytes(DTYPE_Q6_K, 512), 420);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unpack_equals_the_reference),
        cmocka_unit_test(half_floats_round_trip),
        cmocka_unit_test(half_floats_round_to_even),
        cmocka_unit_test(pack_is_near),
        cmocka_unit_test(pack_of_zeros_is_zero),
        cmocka_unit_test(the_table_of_types_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
