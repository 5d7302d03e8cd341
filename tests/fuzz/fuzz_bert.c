/* BERT's configurations of any bytes beside the weights of a tiny model: config.json, a NUL byte,
 * 1_Pooling/config.json, a NUL byte, modules.json.  What opens must run. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/models/bert.h"
#define TEMP_DIR_PARENT "/dev/shm"
#include "tests/temp_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 16, TEXTS = 2 };

static struct backend *be;
static const char *const names[] = {"config.json", "1_Pooling/config.json", "modules.json",
                                    "model.safetensors"};

static void open_dir(void)
{
    char weights[256], cwd[128];
    struct err e;
    temp_dir_open();
    if (backend_open(&be, "cpu", 1, &e) != 0 || mkdir(temp_dir_path("1_Pooling"), 0700) != 0 ||
        getcwd(cwd, sizeof cwd) == NULL)
        abort();
    snprintf(weights, sizeof weights, "%s/tests/fixtures/bert_tiny/model.safetensors", cwd);
    if (symlink(weights, temp_dir_path(names[3])) != 0)
        abort();
}

static void run(struct bert *m)
{
    struct err e;
    const struct bert_info *info = bert_info(m);
    const int32_t ids[2 * TEXTS] = {0, info->n_vocab - 1, info->n_vocab / 2, 0};
    const int32_t n = info->n_positions < 2 ? 1 : 2, n_ids[TEXTS] = {n, n};
    float *vectors = calloc(TEXTS * (size_t)info->dim, sizeof *vectors);
    const struct bert_batch b = {.n_texts = TEXTS, .n_ids = n_ids, .ids = ids, .vectors = vectors};
    if (vectors == NULL || bert_run(m, &b, &e) != 0)
        abort();
    free(vectors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (be == NULL)
        open_dir();
    for (int i = 0; i < 3; i++) {
        const uint8_t *end = size > 0 ? memchr(data, 0, size) : NULL;
        const size_t n = end != NULL ? (size_t)(end - data) : size;
        temp_dir_put(names[i], data, n);
        data += n + (end != NULL);
        size -= n + (end != NULL);
    }
    struct err e;
    struct checkpoint *c;
    struct bert *m;
    if (!bert_is(temp_dir) || checkpoint_open(&c, temp_dir, NULL, &e) != 0)
        return 0;
    if (bert_open(&m, c, be, &(const struct bert_options){.max_rows = ROWS}, &e) == 0) {
        run(m);
        bert_close(m);
    }
    checkpoint_close(c);
    return 0;
}
