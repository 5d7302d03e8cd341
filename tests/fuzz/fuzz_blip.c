/* BLIP's configurations of any bytes beside the weights of a tiny model: config.json, a NUL byte,
 * preprocessor_config.json.  The first byte chooses the kind of the weights.  What opens must run. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/models/blip.h"
#define TEMP_DIR_PARENT "/dev/shm"
#include "tests/temp_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 8, QUESTION = 4 };

static struct backend *be;
static const char *const kinds[] = {"caption", "vqa", "match"};
static const char *const names[] = {"config.json", "preprocessor_config.json", "model.safetensors"};

/* A picture, a question, and two tokens of the decoder. */
static void run(struct blip *m)
{
    struct err e;
    const struct blip_info *info = blip_info(m);
    struct text_model *text = blip_text(m);
    const size_t n = (size_t)info->image_size * (size_t)info->image_size * 3;
    const int32_t question[QUESTION] = {0, text->n_vocab - 1, 0, 0}, pages[1] = {0};
    struct blip_look l = {.question = question, .rgb = calloc(n, 1)};
    l.n_question = info->n_question < QUESTION ? info->n_question : QUESTION;
    l.kv = calloc(blip_view_bytes(m, l.n_question) + 1, 1);
    float *logits = calloc((size_t)text->n_vocab, sizeof *logits);
    char *pool = be->alloc(be, text->page_bytes, &e);
    if (l.rgb == NULL || l.kv == NULL || logits == NULL || pool == NULL)
        abort();
    blip_look_begin(m, &l);
    while (blip_look_run(m, &l, 0, &e) > 0) {
    }
    for (int32_t pos = 0; info->kind != CAPTION_MATCH && pos < 2 && pos < text->n_ctx; pos++) {
        const struct kv_row row = {.pages = pages, .pos = pos};
        const struct text_view *view = &l.view;
        const int32_t wanted = 0;
        const struct text_batch b = {.n_rows = 1,
                                     .ids = &info->bos,
                                     .pos = &pos,
                                     .rows = &row,
                                     .views = &view,
                                     .n_logits = 1,
                                     .logit_rows = &wanted,
                                     .logits = logits};
        if (text->forward(text, pool, &b, &e) != 0)
            abort();
    }
    be->free(be, pool);
    free(logits);
    free(l.kv);
    free((void *)(uintptr_t)l.rgb);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e;
    if (be == NULL) {
        if (backend_open(&be, "cpu", 1, &e) != 0)
            abort();
        temp_dir_open();
    }
    if (size < 1)
        return 0;
    char weights[256], cwd[128];
    unlink(temp_dir_path(names[2]));
    if (getcwd(cwd, sizeof cwd) == NULL)
        abort();
    snprintf(weights, sizeof weights, "%s/tests/fixtures/blip_%s/model.safetensors", cwd,
             kinds[data[0] % 3]);
    if (symlink(weights, temp_dir_path(names[2])) != 0)
        abort();
    const uint8_t *end = memchr(data + 1, 0, size - 1);
    const size_t n = end != NULL ? (size_t)(end - data) - 1 : size - 1;
    temp_dir_put(names[0], data + 1, n);
    temp_dir_put(names[1], end != NULL ? end + 1 : data, end != NULL ? size - n - 2 : 0);
    struct checkpoint *c;
    struct blip *m;
    if (!blip_is(temp_dir) || checkpoint_open(&c, temp_dir, NULL, &e) != 0)
        return 0;
    const struct blip_options o = {.max_rows = ROWS, .max_logits = ROWS};
    if (blip_open(&m, c, be, &o, &e) == 0) {
        run(m);
        blip_text(m)->close(blip_text(m));
    }
    checkpoint_close(c);
    return 0;
}
