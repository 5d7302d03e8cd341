/* Files of super-resolution networks of any bytes: safetensors whose names and shapes decide what the network is.
 * What opens must run. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/models/upscaler.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIDE = 5, OPS = 2000 };

static char path[] = "/dev/shm/fuzz_upscaler.XXXXXX";
static struct backend *be;

static void remove_file(void)
{
    unlink(path);
}

static void run(struct upscaler *m)
{
    static const uint8_t rgb[SIDE * SIDE * 3];
    const size_t scale = (size_t)upscaler_info(m)->scale;
    struct upscaler_pass *p;
    struct err e;
    if (upscaler_pass_open(&p, m, SIDE, SIDE, &e) != 0)
        return;
    p->rgb = rgb;
    p->out = calloc(SIDE * SIDE * 3, scale * scale);
    if (p->out == NULL)
        abort();
    for (int i = 0; i < OPS && image_run(&p->unit, 0, &e) == 1; i++)
        ;
    free(p->out);
    image_close(&p->unit);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct checkpoint *c;
    struct upscaler *m;
    struct err e;
    if (be == NULL) {
        int fd = mkstemp(path);
        if (fd < 0 || close(fd) != 0 || backend_open(&be, "cpu", 1, &e) != 0)
            abort();
        atexit(remove_file);
    }
    FILE *f = fopen(path, "w");
    if (f == NULL || fwrite(data, 1, size, f) != size || fclose(f) != 0)
        abort();
    if (!checkpoint_is_upscaler(path) || checkpoint_open(&c, path, NULL, &e) != 0)
        return 0;
    if (upscaler_open(&m, c, be, 0, NULL, &e) == 0) {
        run(m);
        upscaler_close(m);
    }
    checkpoint_close(c);
    return 0;
}
