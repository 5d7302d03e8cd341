/* `duetto bench`: tokens per second of one model on this machine, as llama-bench counts them: a prompt of
 * p tokens read at once ("pp512"), and n tokens generated one by one ("tg128"), by b sequences
 * together; after d tokens that stand in the cache already ("tg128@d4096").  Of an image model
 * (bench_image.h) it is seconds of its parts.  Thread: main. */
#ifndef ENGINE_BENCH_H
#define ENGINE_BENCH_H
#include <stdbool.h>

#include "base/buf.h"
#include "kernels/tensor.h"

#define BENCH_BATCHES_MAX 16

struct bench_options {
    const char *path, *device;
    int n_prompt, n_generate; /* 0: leave that test out */
    int depth;                /* tokens that stand in the cache before either test begins */
    int n_batches, batches[BENCH_BATCHES_MAX];
    int n_threads, repeats;
    int size;                        /* of pictures, in pixels a side */
    enum dtype kv_type, activations; /* the latter on devices that can */
    int blas_rows;                   /* struct engine_options */
    int max_batch_rows;
    bool json, ops; /* ops: also where the time goes */
};
extern const struct bench_options bench_defaults;

/* Appends the table, or the JSON array, to out. */
int bench_run(const struct bench_options *o, struct buf *out, struct err *e);
#endif
