/* Super-resolution networks against torch (tools/make_upscaler_golden.py): every naming, every factor; and tiles
 * against the whole picture. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "engine/models/upscaler.h"
#include "tests/golden/device.h"

#define DIR "tests/fixtures/"

enum { W = 21, H = 18 };

static struct backend *be;

static int setup(void **state)
{
    (void)state;
    struct err e;
    log_init(LOG_ERROR, false);
    return backend_open(&be, golden_device(), 2, &e);
}

static int teardown(void **state)
{
    (void)state;
    be->close(be);
    return 0;
}

static struct upscaler *open_upscaler(const char *name, size_t tile_bytes)
{
    char path[128];
    struct checkpoint *c;
    struct upscaler *m;
    struct err e = {0};
    snprintf(path, sizeof path, DIR "upscale_%s.safetensors", name);
    assert_true(checkpoint_is_upscaler(path));
    if (checkpoint_open(&c, path, NULL, &e) != 0 ||
        upscaler_open(&m, c, be, tile_bytes, NULL, &e) != 0)
        fail_msg("%s: %s", name, e.msg);
    checkpoint_close(c);
    return m;
}

/* picture() of the script, of any size. */
static uint8_t *picture(int width, int height)
{
    uint8_t *rgb = calloc((size_t)width * (size_t)height, 3);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            uint8_t *to = rgb + ((size_t)y * (size_t)width + (size_t)x) * 3;
            to[0] = (uint8_t)((x * 11 + y) % 256);
            to[1] = (uint8_t)((y * 13) % 256);
            to[2] = (uint8_t)((x * y * 3) % 256);
        }
    }
    return rgb;
}

/* Op by op. */
static uint8_t *run(struct upscaler *m, const uint8_t *rgb, int width, int height)
{
    struct upscaler_pass *p;
    struct err e = {0};
    const size_t scale = (size_t)upscaler_info(m)->scale;
    const size_t bytes = upscaler_pass_bytes(m, width, height, &e);
    assert_int_equal(upscaler_pass_open(&p, m, width, height, &e), 0);
    assert_int_equal(p->unit.bytes, bytes);
    p->rgb = rgb;
    p->out = calloc((size_t)width * (size_t)height, 3 * scale * scale);
    while (image_run(&p->unit, 0, &e) == 1)
        ;
    uint8_t *out = p->out;
    image_close(&p->unit);
    return out;
}

static double psnr(const uint8_t *a, const uint8_t *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sum > 0 ? 10 * log10(255.0 * 255.0 * (double)n / sum) : 99;
}

static void upscaler_makes_the_pictures_of_torch(void **state)
{
    (void)state;
    static const struct {
        const char *name, *family;
        int scale;
    } cases[] = {{"first", "esrgan", 4}, {"second", "esrgan", 4}, {"fold2", "esrgan", 2},
                 {"fold4", "esrgan", 1}, {"one", "esrgan", 1},    {"compact", "srvgg", 4}};
    struct file f;
    struct err e;
    assert_int_equal(file_open(&f, DIR "upscale.bin", &e), 0);
    const uint8_t *want = (const uint8_t *)f.data;
    uint8_t *rgb = picture(W, H);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct upscaler *m = open_upscaler(cases[i].name, 0);
        const size_t n = (size_t)(W * H * 3 * cases[i].scale * cases[i].scale);
        assert_string_equal(upscaler_info(m)->family, cases[i].family);
        assert_int_equal(upscaler_info(m)->scale, cases[i].scale);
        uint8_t *out = run(m, rgb, W, H);
        print_message("%-8s %.1f dB\n", cases[i].name, psnr(out, want, n));
        assert_true(psnr(out, want, n) >= 50);
        want += n;
        free(out);
        upscaler_close(m);
    }
    assert_ptr_equal(want, f.data + f.size);
    free(rgb);
    file_close(&f);
}

/* These networks see 16 pixels to each side at most, so tiles that overlap by 32 change nothing. */
static void upscaler_gives_the_same_picture_in_tiles(void **state)
{
    (void)state;
    static const char *const names[] = {"fold2", "second", "compact"};
    enum { WIDE = 190, TALL = 150 };
    const size_t n_names = golden_short() ? 1 : sizeof names / sizeof *names;
    uint8_t *rgb = picture(WIDE, TALL);
    for (size_t i = 0; i < n_names; i++) {
        struct err e;
        struct upscaler *whole = open_upscaler(names[i], (size_t)1 << 30);
        const size_t bytes = upscaler_pass_bytes(whole, WIDE, TALL, &e);
        struct upscaler *tiles = open_upscaler(names[i], bytes * 3 / 4);
        const size_t n = (size_t)(WIDE * TALL * 3) * (size_t)upscaler_info(whole)->scale *
                         (size_t)upscaler_info(whole)->scale;
        assert_true(upscaler_pass_bytes(tiles, WIDE, TALL, &e) <= bytes * 3 / 4);
        uint8_t *a = run(whole, rgb, WIDE, TALL), *b = run(tiles, rgb, WIDE, TALL);
        print_message("%-8s %.1f dB\n", names[i], psnr(a, b, n));
        assert_true(psnr(a, b, n) >= 60);
        free(a);
        free(b);
        upscaler_close(whole);
        upscaler_close(tiles);
    }
    free(rgb);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(upscaler_makes_the_pictures_of_torch),
        cmocka_unit_test(upscaler_gives_the_same_picture_in_tiles),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
