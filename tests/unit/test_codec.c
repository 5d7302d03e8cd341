/* Picture files that we write can be read again; limits hold before memory is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"

static const struct codec_limits limits = {8 << 20, 1 << 24};

static struct image picture(int width, int height, int channels)
{
    struct image im;
    struct err e = {0};
    assert_int_equal(image_init(&im, width, height, channels, &e), 0);
    for (size_t i = 0, n = image_bytes(&im); i < n; i++)
        im.data[i] = (uint8_t)(i / (size_t)channels * 3 + i % (size_t)channels * 40);
    return im;
}

static int encode(struct buf *out, const struct image *im, enum codec_format f, int quality)
{
    const struct codec_options o = {.format = f, .quality = quality};
    struct err e = {0};
    return codec_encode(out, im, &o, &e);
}

static void what_is_written_can_be_read(void **state)
{
    (void)state;
    for (int f = CODEC_PNG; f <= CODEC_WEBP; f++) {
        for (int channels = 1; channels <= 4; channels += channels == 1 ? 2 : 1) {
            struct image im = picture(33, 21, channels), back;
            struct buf b;
            struct err e = {0};
            buf_init(&b, 1 << 20);
            assert_int_equal(encode(&b, &im, (enum codec_format)f, 90), 0);
            assert_int_equal(codec_sniff(b.data, b.len), f);
            assert_int_equal(codec_decode(&back, b.data, b.len, &limits, &e), 0);
            assert_int_equal(back.width, 33);
            assert_int_equal(back.height, 21);
            if (f == CODEC_PNG && channels != 1)
                assert_memory_equal(back.data, im.data, image_bytes(&im));
            image_free(&back);
            image_free(&im);
            buf_free(&b);
        }
    }
}

static void the_smallest_and_the_widest_picture_go_both_ways(void **state)
{
    (void)state;
    static const int sizes[][2] = {{1, 1}, {20000, 1}, {1, 20000}, {3, 1000}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int f = CODEC_PNG; f <= CODEC_WEBP; f++) {
            struct image im = picture(sizes[i][0], sizes[i][1], 3), back;
            struct buf b;
            struct err e = {0};
            buf_init(&b, 1 << 20);
            int rc = encode(&b, &im, (enum codec_format)f, 50);
            if (f == CODEC_WEBP && (im.width > 16383 || im.height > 16383)) {
                assert_int_equal(rc, ERR_UNSUPPORTED);
            } else {
                assert_int_equal(rc, 0);
                assert_int_equal(codec_decode(&back, b.data, b.len, &limits, &e), 0);
                assert_int_equal(back.width, im.width);
                image_free(&back);
            }
            image_free(&im);
            buf_free(&b);
        }
    }
}

static void a_png_carries_its_texts(void **state)
{
    (void)state;
    const struct codec_text texts[] = {{"parameters", "a cat, seed 5"}, {"prompt", "чёрный кот"}};
    const struct codec_options o = {.format = CODEC_PNG, .n_texts = 2, .texts = texts};
    struct image im = picture(8, 8, 3);
    struct buf b;
    struct err e = {0};
    buf_init(&b, 1 << 16);
    assert_int_equal(codec_encode(&b, &im, &o, &e), 0);
    assert_non_null(memmem(b.data, b.len, "tEXtparameters\0a cat, seed 5", 28));
    assert_non_null(memmem(b.data, b.len, "iTXtprompt\0", 11));
    assert_non_null(memmem(b.data, b.len, "чёрный кот", strlen("чёрный кот")));
    image_free(&im);
    buf_free(&b);
}

static void quality_makes_files_smaller(void **state)
{
    (void)state;
    struct image im = picture(200, 200, 3);
    for (int f = CODEC_JPEG; f <= CODEC_WEBP; f++) {
        struct buf low, high;
        buf_init(&low, 1 << 20);
        buf_init(&high, 1 << 20);
        assert_int_equal(encode(&low, &im, (enum codec_format)f, 10), 0);
        assert_int_equal(encode(&high, &im, (enum codec_format)f, 95), 0);
        assert_true(low.len < high.len);
        buf_free(&low);
        buf_free(&high);
    }
    image_free(&im);
}

static void a_buffer_that_is_too_small_is_an_error(void **state)
{
    (void)state;
    struct image im = picture(200, 200, 3);
    for (int f = CODEC_PNG; f <= CODEC_WEBP; f++) {
        struct buf b;
        buf_init(&b, 300);
        assert_int_equal(encode(&b, &im, (enum codec_format)f, 95), ERR_TOOBIG);
        buf_free(&b);
    }
    image_free(&im);
}

static void a_file_over_a_limit_is_refused_before_it_is_read(void **state)
{
    (void)state;
    struct image im = picture(100, 50, 3), back;
    for (int f = CODEC_PNG; f <= CODEC_WEBP; f++) {
        struct buf b;
        struct err e = {0};
        buf_init(&b, 1 << 20);
        assert_int_equal(encode(&b, &im, (enum codec_format)f, 90), 0);
        const struct codec_limits few_bytes = {b.len - 1, 1 << 20}, few_pixels = {1 << 20, 4999},
                                  enough = {b.len, 5000};
        assert_int_equal(codec_decode(&back, b.data, b.len, &few_bytes, &e), ERR_TOOBIG);
        assert_int_equal(codec_decode(&back, b.data, b.len, &few_pixels, &e), ERR_INVALID);
        assert_non_null(strstr(e.msg, "100 x 50"));
        assert_int_equal(codec_decode(&back, b.data, b.len, &enough, &e), 0);
        image_free(&back);
        buf_free(&b);
    }
    image_free(&im);
}

static void names_lead_to_formats(void **state)
{
    (void)state;
    assert_int_equal(codec_by_name("png"), CODEC_PNG);
    assert_int_equal(codec_by_name("jpeg"), CODEC_JPEG);
    assert_int_equal(codec_by_name("jpg"), CODEC_JPEG);
    assert_int_equal(codec_by_name("webp"), CODEC_WEBP);
    assert_int_equal(codec_by_name("gif"), CODEC_NONE);
    assert_int_equal(codec_by_name(""), CODEC_NONE);
}

/* ---- image.c, beyond what the golden values say ---- */

static void cropping_pads_what_lies_outside(void **state)
{
    (void)state;
    struct image im = picture(4, 3, 1), out;
    struct err e = {0};
    assert_int_equal(image_crop(&out, &im, -1, 1, 6, 4, 9, &e), 0);
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 6; x++) {
            bool inside = x >= 1 && x < 5 && y < 2;
            assert_int_equal(out.data[y * 6 + x], inside ? im.data[(y + 1) * 4 + x - 1] : 9);
        }
    image_free(&out);
    assert_int_equal(image_crop(&out, &im, 100, -100, 2, 2, 7, &e), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(out.data[i], 7);
    image_free(&out);
    image_free(&im);
}

static void extending_draws_out_the_border(void **state)
{
    (void)state;
    struct image im = picture(4, 3, 3), out;
    struct err e = {0};
    assert_int_equal(image_extend(&out, &im, -2, -1, 7, 6, &e), 0);
    for (int y = 0; y < 6; y++)
        for (int x = 0; x < 7; x++) {
            const int fx = x < 2 ? 0 : x < 6 ? x - 2 : 3, fy = y < 1 ? 0 : y < 4 ? y - 1 : 2;
            assert_memory_equal(out.data + (y * 7 + x) * 3, im.data + (fy * 4 + fx) * 3, 3);
        }
    image_free(&out);
    image_free(&im);
}

static void channels_convert_as_in_pil(void **state)
{
    (void)state;
    uint8_t px[] = {255, 0, 0, 7, 10, 20, 30, 255};
    struct image im = {2, 1, 4, px}, out, wide;
    struct err e = {0};
    assert_int_equal(image_convert(&out, &im, 1, &e), 0);
    assert_int_equal(out.data[0], 76);
    assert_int_equal(out.data[1], 18);
    assert_int_equal(image_convert(&wide, &out, 4, &e), 0);
    assert_memory_equal(wide.data, ((uint8_t[]){76, 76, 76, 255, 18, 18, 18, 255}), 8);
    image_free(&wide);
    image_free(&out);
    assert_int_equal(image_channel(&out, &im, 3, &e), 0);
    assert_memory_equal(out.data, ((uint8_t[]){7, 255}), 2);
    image_free(&out);
}

static void sizes_that_no_picture_has_are_errors(void **state)
{
    (void)state;
    struct image im;
    struct err e = {0};
    assert_int_equal(image_init(&im, 0, 5, 3, &e), ERR_INVALID);
    assert_int_equal(image_init(&im, 5, -1, 3, &e), ERR_INVALID);
    assert_int_equal(image_init(&im, IMAGE_SIDE_MAX + 1, 1, 3, &e), ERR_INVALID);
    assert_null(im.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_can_be_read),
        cmocka_unit_test(the_smallest_and_the_widest_picture_go_both_ways),
        cmocka_unit_test(a_png_carries_its_texts),
        cmocka_unit_test(quality_makes_files_smaller),
        cmocka_unit_test(a_buffer_that_is_too_small_is_an_error),
        cmocka_unit_test(a_file_over_a_limit_is_refused_before_it_is_read),
        cmocka_unit_test(names_lead_to_formats),
        cmocka_unit_test(cropping_pads_what_lies_outside),
        cmocka_unit_test(extending_draws_out_the_border),
        cmocka_unit_test(channels_convert_as_in_pil),
        cmocka_unit_test(sizes_that_no_picture_has_are_errors),
    };
    return cmocka_run_group_tests_name("base/codec", tests, NULL, NULL);
}
