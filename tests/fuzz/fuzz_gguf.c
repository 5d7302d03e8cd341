/* A GGUF file of any bytes: gguf_open, every getter on every kind of key, then model_open and one
 * step when it opens.  Start from the small fixtures:
 *     build/tests/fuzz/fuzz_gguf CORPUS tests/fixtures */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/gguf.h"
#include "engine/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct backend *be;
static int fd = -1;
static char path[64];
static volatile int64_t sink; /* takes reads that must happen */

static void try_getters(struct gguf *g)
{
    static const char *const keys[] = {"general.architecture",        "llama.block_count",
                                       "llama.rope.freq_base",        "tokenizer.ggml.tokens",
                                       "tokenizer.ggml.scores",       "tokenizer.ggml.token_type",
                                       "tokenizer.ggml.add_bos_token"};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        struct err e;
        struct gguf_arr a;
        struct gguf_str s = {0};
        int64_t i = 0;
        float f = 0;
        bool b = false;
        gguf_get_int(g, keys[k], &i, INT64_MIN, INT64_MAX, &e);
        gguf_get_float(g, keys[k], &f, &e);
        gguf_get_bool(g, keys[k], &b, &e);
        if (gguf_get_str(g, keys[k], &s, &e) == 0 && s.len > 0)
            sink = s.data[s.len - 1];
        if (gguf_get_ints(g, keys[k], &a, &e) == 0 && a.n > 0)
            sink = gguf_arr_int(&a, a.n - 1);
        if (gguf_get_floats(g, keys[k], &a, &e) == 0 && a.n > 0)
            sink = gguf_arr_float(&a, a.n - 1) > 0;
        if (gguf_get_strs(g, keys[k], &a, &e) == 0 && a.n > 0 && a.strs[a.n - 1].len > 0)
            sink = a.strs[a.n - 1].data[0];
    }
    for (int t = 0; t < gguf_n_tensors(g); t++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(g, t);
        const char *p = tensor->data;
        sink = p[0] + p[tensor->bytes - 1];
        if (gguf_tensor_find(g, tensor->name) != tensor)
            abort();
    }
}

static void try_step(struct model *m)
{
    struct err e;
    const int n_vocab = model_card(m)->n_vocab;
    if (model_page_bytes(m) > 16 << 20)
        return;
    char *pool = be->alloc(be, model_page_bytes(m), &e);
    float *logits = calloc((size_t)n_vocab, sizeof *logits);
    const int32_t ids[2] = {0, n_vocab - 1}, pos[2] = {0, 1}, page = 0, last = 1;
    const struct kv_row rows[2] = {{&page, 0}, {&page, 1}};
    const struct text_batch b = {2, ids, pos, rows, 1, &last, logits};
    if (pool != NULL && logits != NULL)
        model_forward(m, pool, &b, &e);
    free(logits);
    be->free(be, pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    if (be == NULL) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (fd < 0 || backend_open(&be, "cpu/scalar", 1, &e) != 0)
            abort();
    }
    if (ftruncate(fd, (off_t)size) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    struct gguf *g = NULL;
    if (gguf_open(&g, path, &e) == 0) {
        try_getters(g);
        gguf_close(g);
    }
    struct model *m = NULL;
    const struct model_options o = {.max_rows = 2, .max_logits = 1, .kv_type = DTYPE_F16};
    if (model_open(&m, "fuzz", path, be, &o, &e) == 0) {
        try_step(m);
        model_close(m);
    }
    return 0;
}
