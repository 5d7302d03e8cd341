/* Pictures of 8 bits: gray, RGB or RGBA, rows from the top, no gaps.  Resizing gives the bytes that PIL
 * gives (Pillow's fixed-point path), because that is what reference pipelines feed their models.
 * Thread: any. */
#ifndef BASE_IMAGE_H
#define BASE_IMAGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define IMAGE_SIDE_MAX 32768 /* pixels */

struct image {
    int width, height, channels; /* channels: 1 gray, 3 RGB, 4 RGBA (not premultiplied) */
    uint8_t *data;               /* [height, width, channels] */
};

enum image_filter { IMAGE_BILINEAR, IMAGE_BICUBIC, IMAGE_LANCZOS };

/* Zeroed.  ERR_INVALID for sides over IMAGE_SIDE_MAX, ERR_NOMEM. */
int image_init(struct image *im, int width, int height, int channels, struct err *e);
void image_free(struct image *im);
size_t image_bytes(const struct image *im);

/* out is made new in all of these; in stays as it is.  On an error out is empty. */
/* As Image.resize(size, resample) does; RGBA is weighed by its alpha. */
int image_resize(struct image *out, const struct image *in, int width, int height,
                 enum image_filter filter, struct err *e);
/* The same in pieces, for RGB: image_resizer_run until it says false.  from, to: width and height. */
struct image_resizer;
int image_resizer_open(struct image_resizer **out, const int from[2], const int to[2],
                       enum image_filter filter, struct err *e);
size_t image_resizer_bytes(const int from[2], const int to[2], enum image_filter filter);
void image_resizer_restart(struct image_resizer *r);
/* Some rows further; true: there is more to do.  in and out are of the sizes of open. */
bool image_resizer_run(struct image_resizer *r, const uint8_t *in, uint8_t *out);
void image_resizer_close(struct image_resizer *r); /* NULL is nothing */
/* The rectangle at (x, y), which may reach beyond the picture: what lies outside has the value fill
 * in every channel.  So it crops and it pads. */
int image_crop(struct image *out, const struct image *in, int x, int y, int width, int height,
               uint8_t fill, struct err *e);
/* The same, but what lies outside has the nearest pixel's value: rows and columns of the border go on. */
int image_extend(struct image *out, const struct image *in, int x, int y, int width, int height,
                 struct err *e);
/* As Image.convert: gray weighs 299, 587, 114; alpha is dropped, or made opaque. */
int image_convert(struct image *out, const struct image *in, int channels, struct err *e);
/* One channel as a gray picture. */
int image_channel(struct image *out, const struct image *in, int channel, struct err *e);
/* Blurs the picture so that its colours are left and nothing can be recognised; black where there is no memory. */
void image_obscure(struct image *im);
/* Turns the picture as the EXIF orientation 1 ... 8 says (others: as it is), in place of in. */
int image_orient(struct image *im, int orientation, struct err *e);
#endif
