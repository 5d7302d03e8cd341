/* What codec.c and the files of the three formats share.  Included only by base/codec*.c. */
#ifndef BASE_CODEC_INT_H
#define BASE_CODEC_INT_H
#include "base/codec.h"

/* ERR_INVALID unless a picture of this size may be decoded. */
int codec_check_size(uint32_t width, uint32_t height, const struct codec_limits *lim,
                     struct err *e);

int codec_png_decode(struct image *out, const uint8_t *data, size_t n,
                     const struct codec_limits *lim, struct err *e);
int codec_png_encode(struct buf *out, const struct image *im, const struct codec_options *o,
                     struct err *e);
int codec_jpeg_decode(struct image *out, const uint8_t *data, size_t n,
                      const struct codec_limits *lim, struct err *e);
int codec_jpeg_encode(struct buf *out, const struct image *im, const struct codec_options *o,
                      struct err *e);
int codec_webp_decode(struct image *out, const uint8_t *data, size_t n,
                      const struct codec_limits *lim, struct err *e);
int codec_webp_encode(struct buf *out, const struct image *im, const struct codec_options *o,
                      struct err *e);
#endif
