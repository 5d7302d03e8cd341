/* Which format a picture file is, and what holds for all of them. */
#include "base/codec.h"

#include <string.h>

#include "base/codec_int.h"

static const char *const names[] = {
    [CODEC_NONE] = "", [CODEC_PNG] = "png", [CODEC_JPEG] = "jpeg", [CODEC_WEBP] = "webp"};

static bool begins(const uint8_t *data, size_t n, const char *magic, size_t n_magic)
{
    return n >= n_magic && memcmp(data, magic, n_magic) == 0;
}

enum codec_format codec_sniff(const void *data, size_t n)
{
    const uint8_t *p = data;
    if (begins(p, n, "\x89PNG\r\n\x1a\n", 8))
        return CODEC_PNG;
    if (begins(p, n, "\xff\xd8\xff", 3))
        return CODEC_JPEG;
    if (begins(p, n, "RIFF", 4) && n >= 12 && memcmp(p + 8, "WEBP", 4) == 0)
        return CODEC_WEBP;
    return CODEC_NONE;
}

const char *codec_name(enum codec_format f)
{
    return names[f];
}

enum codec_format codec_by_name(const char *name)
{
    for (int i = CODEC_PNG; i <= CODEC_WEBP; i++)
        if (strcmp(names[i], name) == 0)
            return (enum codec_format)i;
    return strcmp(name, "jpg") == 0 ? CODEC_JPEG : CODEC_NONE;
}

/* What people send that is none of ours. */
static const char *guess(const uint8_t *p, size_t n)
{
    if (begins(p, n, "GIF8", 4))
        return "a GIF";
    if (begins(p, n, "BM", 2))
        return "a BMP";
    if (begins(p, n, "II*\0", 4) || begins(p, n, "MM\0*", 4))
        return "a TIFF";
    if (begins(p, n, "%PDF", 4))
        return "a PDF";
    if (n >= 12 && memcmp(p + 4, "ftyp", 4) == 0)
        return "an AVIF, HEIF or MP4";
    return "no picture that this server knows";
}

int codec_check_size(uint32_t width, uint32_t height, const struct codec_limits *lim, struct err *e)
{
    if ((int64_t)width * height > lim->max_pixels)
        return err_set(e, ERR_INVALID, "the picture has %u x %u pixels, at most %lld are allowed",
                       width, height, (long long)lim->max_pixels);
    if (width > IMAGE_SIDE_MAX || height > IMAGE_SIDE_MAX)
        return err_set(e, ERR_INVALID, "the picture has %u x %u pixels, sides may have %d", width,
                       height, IMAGE_SIDE_MAX);
    return 0;
}

int codec_decode(struct image *out, const void *data, size_t n, const struct codec_limits *lim,
                 struct err *e)
{
    *out = (struct image){0};
    if (n > lim->max_bytes)
        return err_set(e, ERR_TOOBIG, "the picture has %zu bytes, at most %zu are allowed", n,
                       lim->max_bytes);
    switch (codec_sniff(data, n)) {
    case CODEC_PNG:
        return codec_png_decode(out, data, n, lim, e);
    case CODEC_JPEG:
        return codec_jpeg_decode(out, data, n, lim, e);
    case CODEC_WEBP:
        return codec_webp_decode(out, data, n, lim, e);
    case CODEC_NONE:
        break;
    }
    return err_set(e, ERR_UNSUPPORTED, "the file is %s; send PNG, JPEG or WebP",
                   n == 0 ? "empty" : guess(data, n));
}

int codec_encode(struct buf *out, const struct image *im, const struct codec_options *o,
                 struct err *e)
{
    switch (o->format) {
    case CODEC_PNG:
        return codec_png_encode(out, im, o, e);
    case CODEC_JPEG:
        return codec_jpeg_encode(out, im, o, e);
    case CODEC_WEBP:
        return codec_webp_encode(out, im, o, e);
    case CODEC_NONE:
        break;
    }
    return err_set(e, ERR_UNSUPPORTED, "no such picture format");
}
