/* Filters for ControlNets: edges are OpenCV's (tools/make_control_golden.py), and what blur and coarseness must
 * keep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/file.h"
#include "base/image_filter.h"

static void canny_is_that_of_opencv(void **state)
{
    static const int thresholds[3][2] = {{100, 200}, {50, 400}, {0, 30}};
    struct file f;
    struct err e;
    (void)state;
    assert_int_equal(file_open(&f, "tests/fixtures/canny.bin", &e), 0);
    const uint8_t *at = (const uint8_t *)f.data, *end = at + f.size;
    for (int picture = 0; picture < 2; picture++) {
        int32_t size[2];
        memcpy(size, at, sizeof size);
        at += sizeof size;
        const size_t n = (size_t)size[0] * (size_t)size[1];
        const struct image in = {size[0], size[1], 3, (uint8_t *)(uintptr_t)at};
        at += 3 * n;
        for (int i = 0; i < 3; i++, at += n) {
            struct image out;
            assert_int_equal(
                image_filter_canny(&out, &in, thresholds[i][i % 2], thresholds[i][1 - i % 2], &e),
                0);
            for (size_t k = 0; k < n; k++)
                assert_int_equal(out.data[3 * k], at[k]);
            image_free(&out);
        }
    }
    assert_true(at == end);
    file_close(&f);
}

static void canny_takes_the_smallest_pictures(void **state)
{
    uint8_t pixel[3] = {255, 0, 9};
    const struct image in = {1, 1, 3, pixel};
    struct image out;
    (void)state;
    assert_int_equal(image_filter_canny(&out, &in, 0, 0, NULL), 0);
    assert_int_equal(out.data[0], 0);
    image_free(&out);
}

static void blur_keeps_what_is_even_and_spreads_a_point(void **state)
{
    uint8_t even[9 * 7 * 3], point[31 * 31] = {0};
    const struct image a = {9, 7, 3, even}, b = {31, 31, 1, point};
    struct image out;
    (void)state;
    memset(even, 137, sizeof even);
    assert_int_equal(image_filter_blur(&out, &a, 20, NULL), 0);
    assert_memory_equal(out.data, even, sizeof even);
    image_free(&out);
    point[15 * 31 + 15] = 255;
    assert_int_equal(image_filter_blur(&out, &b, 1, NULL), 0);
    assert_int_equal(out.data[15 * 31 + 15], 41); /* 255 / (2 pi), and so has OpenCV */
    assert_int_equal(out.data[15 * 31 + 14], out.data[14 * 31 + 15]);
    assert_int_equal(out.data[15 * 31 + 14], 25);
    assert_int_equal(out.data[0], 0);
    image_free(&out);
}

static void coarse_has_the_size_of_the_picture(void **state)
{
    uint8_t pixels[16 * 8 * 3];
    const struct image in = {16, 8, 3, pixels};
    struct image out;
    (void)state;
    memset(pixels, 90, sizeof pixels);
    for (int factor = 1; factor < 32; factor *= 2) {
        assert_int_equal(image_filter_coarse(&out, &in, factor, NULL), 0);
        assert_int_equal(out.width, 16);
        assert_int_equal(out.height, 8);
        assert_memory_equal(out.data, pixels, sizeof pixels);
        image_free(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(canny_is_that_of_opencv),
        cmocka_unit_test(canny_takes_the_smallest_pictures),
        cmocka_unit_test(blur_keeps_what_is_even_and_spreads_a_point),
        cmocka_unit_test(coarse_has_the_size_of_the_picture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
