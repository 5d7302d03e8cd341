/* Image models' files of any bytes.  The first byte chooses: a single file; the same with its
 * safetensors header described by one byte more (how much is data); or a directory, whose files the
 * input has one after the other with a NUL byte between: model_index.json, the index of shards, a
 * config.json for every part, the weights of every part. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "engine/checkpoint.h"
#define TEMP_DIR_PARENT "/dev/shm"
#include "tests/temp_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile char sink; /* takes reads that must happen */

static const char *const names[] = {"single.safetensors",
                                    "model_index.json",
                                    "unet/diffusion_pytorch_model.safetensors.index.json",
                                    "unet/config.json",
                                    "vae/config.json",
                                    "text_encoder/config.json",
                                    "scheduler/scheduler_config.json",
                                    "unet/a.safetensors",
                                    "vae/diffusion_pytorch_model.safetensors",
                                    "text_encoder/model.safetensors"};
static const char *const folders[] = {"unet", "vae", "text_encoder", "scheduler"};
enum { N_NAMES = sizeof names / sizeof *names, N_FOLDERS = sizeof folders / sizeof *folders };

static void put(const char *name, uint64_t header, const void *data, size_t n)
{
    FILE *f = fopen(temp_dir_path(name), "w");
    if (f == NULL || (header > 0 && fwrite(&header, sizeof header, 1, f) != 1) ||
        fwrite(data, 1, n, f) != n || fclose(f) != 0)
        abort();
}

static void try_path(const char *path)
{
    struct checkpoint *c = NULL;
    struct err e;
    const struct checkpoint_options o = {.prediction = "v_prediction"};
    sink = checkpoint_is_image(path);
    if (checkpoint_open(&c, path, &o, &e) != 0)
        return;
    for (int p = 0; p < CHECKPOINT_N_PARTS; p++) {
        enum checkpoint_part part = (enum checkpoint_part)p;
        for (int i = 0; i < checkpoint_n_tensors(c, part); i++) {
            const struct checkpoint_tensor *t = checkpoint_tensor_at(c, part, i);
            const char *bytes = t->data;
            sink = (char)(bytes[0] + bytes[t->bytes - 1]);
            if (t->ndim < 1 || t->ndim > 4 || checkpoint_find(c, part, t->name) != t)
                abort();
        }
        if (checkpoint_n_tensors(c, part) > 0 && !checkpoint_has(c, part))
            abort();
    }
    if (checkpoint_family(c) != CHECKPOINT_ALONE &&
        json_str(json_get(checkpoint_scheduler(c), "prediction_type")) == NULL)
        abort();
    checkpoint_close(c);
}

static void try_dir(const char *s, size_t n)
{
    size_t at = 0;
    for (int i = 1; i < N_NAMES; i++) {
        const char *end = at < n ? memchr(s + at, 0, n - at) : NULL;
        size_t len = end != NULL ? (size_t)(end - s) - at : n - at;
        const char *close = memchr(s + at, '\n', len); /* of a header; the data is behind it */
        put(names[i], i > 6 && close != NULL ? (uint64_t)(close - s) - at : 0, s + at, len);
        at += len + (end != NULL);
    }
    try_path(temp_dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool ready;
    if (!ready) {
        temp_dir_open();
        for (int i = 0; i < N_FOLDERS; i++)
            if (mkdir(temp_dir_path(folders[i]), 0700) != 0)
                abort();
        ready = true;
    }
    if (size < 4)
        return 0;
    if (data[0] % 4 == 3) {
        try_dir((const char *)data + 1, size - 1);
    } else if (data[0] % 4 == 2) {
        put(names[0], size - 3 - data[1] % (size - 3), data + 2, size - 2);
        try_path(temp_dir_path(names[0]));
    } else {
        put(names[0], 0, data + 1, size - 1);
        try_path(temp_dir_path(names[0]));
    }
    return 0;
}
