/* Adapter files of any bytes against a tiny model: the first byte chooses between names of tensors, a line each,
 * and a whole file.  What opens must also run. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/lora_name.h"
#include "engine/models/image_adapter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[] = "/tmp/fuzz_adapter.XXXXXX";
static struct backend *be;
static struct image_model *model;
static struct image_text *text;

static void clean(void)
{
    unlink(path);
}

/* The tiny SD 1.5 of the fixtures; run from the repository's root. */
static void prepare(void)
{
    struct checkpoint *c;
    struct err e;
    const int fd = mkstemp(path);
    if (fd < 0 || close(fd) != 0 || backend_open(&be, "cpu/scalar", 1, &e) != 0 ||
        checkpoint_open(&c, "tests/fixtures/sd_sd15", NULL, &e) != 0 ||
        image_model_open(&model, c, be, &(const struct image_model_options){.adapters = true},
                         &e) != 0 ||
        image_text_open(&text, model, 0, &e) != 0)
        abort();
    checkpoint_close(c);
    atexit(clean);
}

static void read_names(const char *s, size_t n)
{
    char name[600];
    while (n > 0) {
        const char *end = memchr(s, '\n', n);
        const size_t len = end != NULL ? (size_t)(end - s) : n;
        struct lora_name out;
        struct err e;
        snprintf(name, sizeof name, "%.*s", (int)(len < 599 ? len : 599), s);
        if (lora_name_read(&out, name, &e) == 0 &&
            (!lora_name_is(name) || strlen(out.layer) >= LORA_NAME_MAX))
            abort();
        char ldm[LORA_NAME_MAX];
        if (lora_name_ldm(ldm, sizeof ldm, name, 2, true) && strlen(ldm) >= sizeof ldm)
            abort();
        s += len + (end != NULL);
        n -= len + (end != NULL);
    }
}

static void read_file(const void *data, size_t n)
{
    struct err e;
    struct image_adapter *a;
    FILE *f = fopen(path, "w");
    if (f == NULL || (n > 0 && fwrite(data, 1, n, f) != n) || fclose(f) != 0)
        abort();
    if (image_adapter_open(&a, model, path, &e) != 0)
        return;
    const struct image_adapter_info *info = image_adapter_info(a);
    const struct image_adapters with = {1, {{a, 1, 1, 1}}};
    text->adapters = info->kind == IMAGE_LORA ? &with : NULL;
    if (info->kind == IMAGE_EMBEDDING)
        text->own[0][1] = image_adapter_vector(a, 0, info->n_vectors - 1);
    if (image_run(&text->unit, INT64_MAX, &e) != 0)
        abort();
    text->own[0][1] = NULL;
    text->adapters = NULL;
    image_adapter_close(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (model == NULL)
        prepare();
    if (size < 1)
        return 0;
    if (data[0] % 4 == 0)
        read_names((const char *)data + 1, size - 1);
    else
        read_file(data + 1, size - 1);
    return 0;
}
