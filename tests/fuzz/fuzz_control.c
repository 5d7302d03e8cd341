/* Configurations of ControlNets and T2I-Adapters of any bytes, beside the weights of tiny ones.  The first byte
 * chooses whose config.json the rest is; or that the rest is a whole .safetensors file.  What opens must
 * also run. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/models/control.h"
#define TEMP_DIR_PARENT "/dev/shm"
#include "tests/temp_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct backend *be;

static const char *const names[] = {"control_b", "control_sdxl", "control_full", "control_light",
                                    "control_xl"};
static const char weights[] = "diffusion_pytorch_model.safetensors";
enum { N_NAMES = sizeof names / sizeof *names };

/* A file of one of them; within the directory that they are in. */
static const char *file_of(const char *name, const char *file)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", name, file);
    return path;
}

/* Run from the repository's root. */
static void prepare(void)
{
    static char bytes[1 << 20];
    if (backend_open(&be, "cpu/scalar", 1, NULL) != 0)
        abort();
    temp_dir_open();
    for (int i = 0; i < N_NAMES; i++) {
        char from[256];
        mkdir(temp_dir_path(names[i]), 0700);
        snprintf(from, sizeof from, "tests/fixtures/%s", file_of(names[i], weights));
        FILE *f = fopen(from, "r");
        if (f == NULL)
            abort();
        temp_dir_put(file_of(names[i], weights), bytes, fread(bytes, 1, sizeof bytes, f));
        fclose(f);
    }
}

static void run(struct image_unit *u)
{
    struct err e;
    if (image_run(u, INT64_MAX, &e) != 0)
        abort();
    image_close(u);
}

static void use(struct control *c)
{
    struct err e;
    struct control_hint *hint;
    const int side = control_multiple(c);
    if (side > 64 || control_hint_open(&hint, c, side, side, &e) != 0)
        return;
    uint8_t *rgb = calloc((size_t)side * (size_t)side, 3);
    float *made = hint->hint = calloc(control_hint_floats(c, side, side) + 1, sizeof(float));
    control_hint_look(hint, rgb, rgb);
    run(&hint->unit);
    struct control_net *u;
    static float context[3 << 17], pooled[1 << 17];
    const int n = side / control_info(c)->scale;
    if (!control_info(c)->adapter &&
        control_net_open(&u, c, (struct control_size){1, n, n, 3, 0}, &e) == 0) {
        u->rows[0] = (struct control_row){.context = context, .pooled = pooled, .hint = made};
        run(&u->unit);
    }
    free(made);
    free(rgb);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    if (be == NULL)
        prepare();
    const int which = data[0] % (N_NAMES + 1);
    const char *path = temp_dir_path(which < N_NAMES ? names[which] : "alone.safetensors");
    temp_dir_put(which < N_NAMES ? file_of(names[which], "config.json") : "alone.safetensors",
                 data + 1, size - 1);
    struct err e = {0};
    struct checkpoint *c;
    struct control *control;
    if (!checkpoint_is_control(path) || checkpoint_open(&c, path, NULL, &e) != 0)
        return 0;
    if (control_open(&control, c, be, NULL, &e) == 0) {
        use(control);
        control_close(control);
    } else if (e.code == 0 || e.msg[0] == 0) {
        abort(); /* a failure says why */
    }
    checkpoint_close(c);
    return 0;
}
