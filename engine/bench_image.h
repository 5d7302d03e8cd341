/* `duetto bench` of an image model: seconds of a step with guidance, of decoding, of the text encoders.
 * Thread: main. */
#ifndef ENGINE_BENCH_IMAGE_H
#define ENGINE_BENCH_IMAGE_H
#include "engine/bench.h"
#include "kernels/backend.h"

/* Appends the table, or the JSON array, to out. */
int bench_image(const struct bench_options *o, struct backend *be, struct buf *out, struct err *e);
#endif
