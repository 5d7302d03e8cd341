/* Any bytes as a picture file: an error or a picture of the allowed size, and what was read can be written
 * and resized. */
#include <stdint.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct codec_limits limits = {1 << 20, 1 << 18};
    struct image im, small;
    struct err e = {0};
    struct buf text;
    buf_init(&text, 1 << 16);
    codec_text_find(data, size, "parameters", &text);
    check(text.len == 0 || utf8_valid(buf_str(&text), text.len));
    buf_free(&text);
    if (codec_decode(&im, data, size, &limits, &e) != 0) {
        check(im.data == NULL && e.code != 0 && e.msg[0] != '\0');
        return 0;
    }
    check((int64_t)im.width * im.height <= limits.max_pixels);
    check(im.channels == 3 || im.channels == 4);
    check(image_resize(&small, &im, 1 + (int)(size % 40), 1 + (int)(size % 7),
                       (enum image_filter)(size % 3), &e) == 0);
    struct buf out;
    buf_init(&out, 1 << 16);
    const struct codec_options o = {.format = (enum codec_format)(1 + size % 3), .quality = 80};
    check(codec_encode(&out, &small, &o, &e) == 0);
    buf_free(&out);
    image_free(&small);
    image_free(&im);
    return 0;
}
