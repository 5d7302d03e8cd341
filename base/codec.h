/* Picture files: PNG, JPEG and WebP in and out, through libpng, libjpeg-turbo and libwebp.
 * Limits on bytes and pixels hold before memory is taken for pixels.  No error of a library leaves
 * these files by longjmp, and none leaks.  Thread: any (decoding takes long: use a worker). */
#ifndef BASE_CODEC_H
#define BASE_CODEC_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/image.h"

enum codec_format { CODEC_NONE, CODEC_PNG, CODEC_JPEG, CODEC_WEBP };

struct codec_limits {
    size_t max_bytes;   /* of the file */
    int64_t max_pixels; /* width * height */
};

/* By the first bytes; what a name or a Content-Type says does not matter. */
enum codec_format codec_sniff(const void *data, size_t n);
const char *codec_name(enum codec_format f); /* "png", "jpeg", "webp", "" */
enum codec_format codec_by_name(const char *name);

/* 3 channels, or 4 when the file has transparency.  16 bits become 8 (the upper ones, as in PIL),
 * gray and palettes become RGB, CMYK becomes RGB, a JPEG's EXIF orientation is applied, embedded colour
 * profiles are not.  ERR_UNSUPPORTED for other formats and moving WebP, ERR_TOOBIG over max_bytes,
 * ERR_INVALID over max_pixels and for a file that is broken or ends early. */
int codec_decode(struct image *out, const void *data, size_t n, const struct codec_limits *lim,
                 struct err *e);

struct codec_text {
    const char *key, *value; /* UTF-8; key of 1 to 79 Latin letters */
};
struct codec_options {
    enum codec_format format;
    int quality; /* JPEG, WebP: 0 ... 100; PNG: ignored */
    bool hasty;  /* PNG: in a third of the time, a fifth larger */
    int n_texts; /* PNG: tEXt, or iTXt where the value is not ASCII; others: ignored */
    const struct codec_text *texts;
};
/* The text of that key within a PNG file, as UTF-8, is appended to out; false: it has none that is not compressed. */
bool codec_text_find(const void *data, size_t n, const char *key, struct buf *out);
/* Appends the file to out.  JPEG drops alpha.  ERR_TOOBIG when out is full. */
int codec_encode(struct buf *out, const struct image *im, const struct codec_options *o,
                 struct err *e);
#endif
