/* Configurations of image models of any bytes, beside the weights of a tiny one.  The first byte chooses the
 * model (its highest bit) and the part whose config.json (or preprocessor_config.json) the rest is.  What opens
 * must also run. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/image.h"
#include "engine/job.h"
#include "engine/models/image_model.h"
#define TEMP_DIR_PARENT "/dev/shm"
#include "tests/temp_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The tiny SD 1.5 and the upscaler of the fixtures; run from the repository's root. */
static const char *const models[] = {"sd_safety", "sd_upscaler"};
enum { N_MODELS = sizeof models / sizeof *models };
static int model; /* this input's */
static struct backend *be;

static const char *const parts[] = {
    "unet", "vae", "text_encoder", "scheduler", "safety_checker", "feature_extractor"};
static const char *const files[] = {"model_index.json",
                                    "unet/config.json",
                                    "vae/config.json",
                                    "text_encoder/config.json",
                                    "scheduler/scheduler_config.json",
                                    "safety_checker/config.json",
                                    "feature_extractor/preprocessor_config.json",
                                    "unet/diffusion_pytorch_model.safetensors",
                                    "vae/diffusion_pytorch_model.safetensors",
                                    "text_encoder/model.safetensors",
                                    "safety_checker/model.safetensors"};
enum {
    N_PARTS = 6,
    N_FUZZED = 6, /* files[1] ... */
    N_FILES = sizeof files / sizeof *files
};

/* Of this input's model. */
static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", models[model], name);
    return path;
}

/* Nothing where the fixture has no such file. */
static void put_fixture(const char *name)
{
    char from[256];
    static char data[1 << 20];
    snprintf(from, sizeof from, "tests/fixtures/%s", path_of(name));
    FILE *f = fopen(from, "r");
    if (f == NULL) {
        remove(temp_dir_path(path_of(name)));
        return;
    }
    temp_dir_put(path_of(name), data, fread(data, 1, sizeof data, f));
    fclose(f);
}

static void prepare(void)
{
    if (backend_open(&be, "cpu/scalar", 1, NULL) != 0)
        abort();
    temp_dir_open();
    for (model = 0; model < N_MODELS; model++) {
        mkdir(temp_dir_path(models[model]), 0700);
        for (int i = 0; i < N_PARTS && (model == 0 || i < N_PARTS - 2);
             i++) /* the first has a checker */
            mkdir(temp_dir_path(path_of(parts[i])), 0700);
        for (int i = 0; i < N_FILES; i++)
            put_fixture(files[i]);
    }
}

static void run(struct image_unit *u)
{
    struct err e;
    if (image_run(u, INT64_MAX, &e) != 0)
        abort();
    image_close(u);
}

static void look(struct image_model *m)
{
    static uint8_t rgb[24 * 40 * 3];
    struct err e;
    struct image_safety *s;
    struct safety_result said;
    if (image_safety_open(&s, m, &e) != 0)
        return;
    if (image_safety_look(s, &(const struct image){24, 40, 3, rgb}, &e) != 0) {
        image_close(&s->unit);
        return;
    }
    if (image_run(&s->unit, INT64_MAX, &e) != 0)
        abort();
    image_safety_judge(s, &said);
    image_close(&s->unit);
}

static void use(struct image_model *m)
{
    struct err e;
    const struct image_info *info = image_model_info(m);
    const int side = info->multiple / info->scale;
    struct image_text *t;
    struct image_kv *kv;
    struct image_unet *u;
    struct image_vae *v;
    if (image_text_open(&t, m, 0, &e) != 0 || image_kv_open(&kv, m, 3, &e) != 0)
        abort();
    run(&t->unit);
    kv->kv = malloc(3 * info->kv_row_bytes + 1);
    float *memory = kv->kv;
    run(&kv->unit);
    if (side <= 16) {
        if (image_unet_open(&u, m, 1, side, side, &e) != 0)
            abort();
        float pooled[1 << 10] = {0};
        u->rows[0] = (struct image_row){.kv = memory, .n_tokens = 3, .pooled = pooled};
        if (info->pooled_dim <= (1 << 10))
            run(&u->unit);
        else
            image_close(&u->unit);
    }
    if (image_vae_open(&v, m, IMAGE_DECODE, 2, 2, &e) == 0)
        run(&v->unit);
    free(memory);
    look(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    if (be == NULL)
        prepare();
    model = data[0] >> 7;
    const char *name = files[1 + (data[0] & 127) % (model == 0 ? N_FUZZED : N_FUZZED - 2)];
    temp_dir_put(path_of(name), data + 1, size - 1);
    struct err e = {0};
    struct checkpoint *c;
    struct image_model *m;
    if (checkpoint_open(&c, temp_dir_path(models[model]), NULL, &e) == 0) {
        if (image_model_open(&m, c, be, &(struct image_model_options){0}, &e) == 0) {
            use(m);
            image_model_close(m);
        } else if (e.code == 0 || e.msg[0] == 0) {
            abort(); /* a failure says why */
        }
        checkpoint_close(c);
    }
    put_fixture(name);
    return 0;
}
