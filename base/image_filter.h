/* Filters that make pictures for ControlNets to look at: edges, blur, fewer details.
 * Thread: any.  out is made new, in stays as it is, on an error out is empty. */
#ifndef BASE_IMAGE_FILTER_H
#define BASE_IMAGE_FILTER_H
#include "base/image.h"

/* Edges after Canny (1986), white on black, 3 channels: to the bit those of OpenCV's Canny(in, low, high) with
 * its defaults (Sobel of 3 x 3, |dx| + |dy|), which takes of RGB the channel that changes most at each
 * pixel.  low and high may come in either order. */
int image_filter_canny(struct image *out, const struct image *in, int low, int high, struct err *e);
/* A Gaussian of this standard deviation in pixels (0.1 ... 64), borders mirrored; within one level of
 * OpenCV's GaussianBlur. */
int image_filter_blur(struct image *out, const struct image *in, float sigma, struct err *e);
/* What is left when the picture is shrunk by the factor and enlarged again. */
int image_filter_coarse(struct image *out, const struct image *in, int factor, struct err *e);
#endif
