/* A safetensors file of any bytes: safetensors_open and every tensor's first and last byte; then the
 * same bytes behind a length that fits, so that mutations reach the header. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fd = -1;
static char path[64];
static volatile char sink; /* takes reads that must happen */

static void try_file(size_t size)
{
    struct safetensors *s = NULL;
    struct err e;
    if (ftruncate(fd, (off_t)size) != 0)
        abort();
    if (safetensors_open(&s, path, &e) != 0)
        return;
    size_t total = 0;
    for (int i = 0; i < safetensors_n_tensors(s); i++) {
        const struct safetensors_tensor *t = safetensors_tensor_at(s, i);
        const char *p = t->data;
        if (t->bytes > 0)
            sink = (char)(p[0] + p[t->bytes - 1]);
        total += t->bytes;
        if (safetensors_find(s, t->name) != t)
            abort();
    }
    if (total > size)
        abort();
    const char *format = safetensors_metadata(s, "format");
    if (format != NULL)
        sink = (char)strlen(format);
    safetensors_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (fd < 0)
            abort();
    }
    if (pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    try_file(size);
    if (size < 2)
        return 0;
    /* One byte says how much of the rest is data. */
    uint64_t header = size - 1 - (data[0] < size - 1 ? data[0] : size - 1);
    if (pwrite(fd, &header, sizeof header, 0) != sizeof header ||
        pwrite(fd, data + 1, size - 1, sizeof header) != (ssize_t)(size - 1))
        abort();
    try_file(sizeof header + size - 1);
    return 0;
}
