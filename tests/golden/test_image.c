/* Picture files and resizing against PIL, on tests/fixtures/images.bin (tools/make_image_fixtures.py made
 * it): what is lossless to the byte, JPEG and lossy WebP within 2 of 255, since versions of their
 * libraries round differently. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/file.h"

static struct file fixture;
static const struct codec_limits limits = {1 << 20, 1 << 24};

struct record {
    char what[32];
    int32_t a, b, c, d, e, n;
};

static int open_fixture(void **state)
{
    (void)state;
    struct err e = {0};
    return file_open(&fixture, "tests/fixtures/images.bin", &e);
}

static int close_fixture(void **state)
{
    (void)state;
    file_close(&fixture);
    return 0;
}

/* Calls f for each record whose name begins with kind; how many there were. */
static int each(const char *kind, void (*f)(const struct record *r, const uint8_t *data))
{
    int n_found = 0;
    for (size_t at = 0; at < fixture.size;) {
        struct record r;
        memcpy(&r, fixture.data + at, sizeof r);
        const uint8_t *data = (const uint8_t *)fixture.data + at + sizeof r;
        if (strncmp(r.what, kind, strlen(kind)) == 0) {
            n_found++;
            f(&r, data);
        }
        bool resize = r.d > 0;
        at += sizeof r + (size_t)r.n + (size_t)(resize ? r.d * r.e : r.a * r.b) * (size_t)r.c;
    }
    return n_found;
}

static void same_pixels(const struct record *r, const uint8_t *have, const uint8_t *want, size_t n,
                        int tolerance)
{
    for (size_t i = 0; i < n; i++)
        if (abs(have[i] - want[i]) > tolerance)
            fail_msg("%s %dx%dx%d: byte %zu is %d, PIL has %d", r->what, r->d, r->e, r->c, i,
                     have[i], want[i]);
}

static void check_file(const struct record *r, const uint8_t *data)
{
    struct image im;
    struct err e = {0};
    if (codec_decode(&im, data, (size_t)r->n, &limits, &e) != 0)
        fail_msg("%s: %s", r->what, e.msg);
    assert_int_equal(im.width, r->a);
    assert_int_equal(im.height, r->b);
    assert_int_equal(im.channels, r->c);
    bool lossy = strstr(r->what, "jpeg") || strstr(r->what, "lossy");
    same_pixels(r, im.data, data + r->n, image_bytes(&im), lossy ? 2 : 0);
    image_free(&im);
}

static void files_of_every_kind_have_the_pixels_that_pil_reads(void **state)
{
    (void)state;
    assert_true(each("file ", check_file) >= 25);
}

static void check_bad(const struct record *r, const uint8_t *data)
{
    struct image im;
    struct err e = {0};
    if (codec_decode(&im, data, (size_t)r->n, &limits, &e) == 0)
        fail_msg("%s is accepted", r->what);
    assert_null(im.data);
    assert_true(strlen(e.msg) > 10);
    bool other = strstr(r->what, "gif") || strstr(r->what, "bmp") || strstr(r->what, "animated") ||
                 strstr(r->what, "text");
    if (e.code != (other ? ERR_UNSUPPORTED : ERR_INVALID) && e.code != ERR_TOOBIG)
        fail_msg("%s: code %d, %s", r->what, e.code, e.msg);
}

static void bombs_and_other_formats_are_refused_in_words(void **state)
{
    (void)state;
    assert_true(each("bad ", check_bad) >= 10);
}

/* From memory of exactly that size, so that a sanitizer sees a read beyond it. */
static void check_truncated(const struct record *r, const uint8_t *data)
{
    for (int n = 0; n<r->n; n += r->n> 2000 ? 37 : 1) {
        uint8_t *part = malloc((size_t)n + 1);
        memcpy(part, data, (size_t)n);
        struct image im;
        struct err e = {0};
        if (codec_decode(&im, part, (size_t)n, &limits, &e) == 0) {
            /* the last bytes of a file may be nothing that pixels need */
            if (n < r->n - 12)
                fail_msg("%s is accepted with %d of %d bytes", r->what, n, r->n);
            image_free(&im);
        } else {
            assert_null(im.data);
        }
        free(part);
    }
}

static void a_file_that_is_cut_off_anywhere_is_refused(void **state)
{
    (void)state;
    each("file ", check_truncated);
}

static void check_flipped(const struct record *r, const uint8_t *data)
{
    uint8_t *copy = malloc((size_t)r->n);
    for (int i = 0; i < 400; i++) {
        struct image im;
        struct err e = {0};
        memcpy(copy, data, (size_t)r->n);
        for (int k = 0; k < 1 + i % 3; k++)
            copy[(unsigned)(i * 7919 + k * 104729) % (unsigned)r->n] ^= (uint8_t)(1 << (i + k) % 8);
        if (codec_decode(&im, copy, (size_t)r->n, &limits, &e) == 0)
            image_free(&im);
    }
    free(copy);
}

static void flipped_bits_never_crash(void **state)
{
    (void)state;
    each("file ", check_flipped);
}

static void check_resize(const struct record *r, const uint8_t *data)
{
    struct image in = {r->a, r->b, r->c, (uint8_t *)(uintptr_t)data}, out;
    struct err e = {0};
    enum image_filter f = strstr(r->what, "bilinear")  ? IMAGE_BILINEAR
                          : strstr(r->what, "bicubic") ? IMAGE_BICUBIC
                                                       : IMAGE_LANCZOS;
    assert_int_equal(image_resize(&out, &in, r->d, r->e, f, &e), 0);
    same_pixels(r, out.data, data + r->n, image_bytes(&out), 0);
    if (r->c == 3) { /* and in pieces */
        struct image_resizer *z;
        assert_int_equal(image_resizer_open(&z, (int[]){r->a, r->b}, (int[]){r->d, r->e}, f, &e),
                         0);
        memset(out.data, 0, image_bytes(&out));
        while (image_resizer_run(z, in.data, out.data))
            ;
        same_pixels(r, out.data, data + r->n, image_bytes(&out), 0);
        image_resizer_close(z);
    }
    image_free(&out);
}

static void resizing_gives_the_bytes_of_pil(void **state)
{
    (void)state;
    assert_true(each("resize ", check_resize) >= 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_of_every_kind_have_the_pixels_that_pil_reads),
        cmocka_unit_test(bombs_and_other_formats_are_refused_in_words),
        cmocka_unit_test(a_file_that_is_cut_off_anywhere_is_refused),
        cmocka_unit_test(flipped_bits_never_crash),
        cmocka_unit_test(resizing_gives_the_bytes_of_pil),
    };
    return cmocka_run_group_tests_name("golden/image", tests, open_fixture, close_fixture);
}
