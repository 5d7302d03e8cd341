/* A backend that opens models without their weights: what a model is and how much memory it takes is known
 * before any of it is read.  There are no ops: who computes with it has made a mistake. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/backend.h"
#include "kernels/quant.h"

static void *dry_alloc(struct backend *be, size_t bytes, struct err *e)
{
    (void)be;
    void *p = mem_try(bytes, 1); /* large ones take no memory until they are touched */
    if (!p)
        err_set(e, ERR_NOMEM, "no memory for %zu MiB", bytes >> 20);
    return p;
}

static void dry_free(struct backend *be, void *p)
{
    (void)be;
    free(p);
}

static void dry_move(struct backend *be, void *to, const void *from, size_t bytes)
{
    (void)be;
    if (bytes > 0)
        memcpy(to, from, bytes);
}

static int dry_sync(struct backend *be, struct err *e)
{
    (void)be;
    (void)e;
    return 0;
}

static size_t file_bytes(enum dtype type, int64_t n_out, int64_t n_in, struct err *e)
{
    if (n_out > 0 && n_in > 0 && n_in % dtype_block(type) == 0 && n_out <= PTRDIFF_MAX / n_in / 8)
        return (size_t)n_out * dtype_bytes(type, n_in);
    err_set(e, ERR_INVALID, "a %s matrix cannot be %lld x %lld", dtype_name(type), (long long)n_out,
            (long long)n_in);
    return 0;
}

static int dry_weight_open(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                           int64_t n_in, const void *raw, struct err *e)
{
    (void)raw;
    struct err why = {0};
    size_t bytes = be->weight_bytes(type, n_out, n_in, &why);
    if (bytes == 0) {
        if (e)
            *e = why;
        return why.code;
    }
    struct weight *w = xcalloc(1, sizeof *w);
    *w = (struct weight){.type = type, .n_out = n_out, .n_in = n_in, .bytes = bytes};
    *out = w;
    return 0;
}

static void dry_weight_close(struct backend *be, struct weight *w)
{
    (void)be;
    free(w);
}

static void dry_close(struct backend *be)
{
    free(be);
}

struct backend *backend_dry(const struct backend *of)
{
    struct backend *be = xcalloc(1, sizeof *be);
    *be = (struct backend){
        .name = of->name,
        .n_threads = of->n_threads,
        .host_memory = true,
        .alloc = dry_alloc,
        .free = dry_free,
        .host_alloc = dry_alloc,
        .host_free = dry_free,
        .upload = dry_move,
        .download = dry_move,
        .copy = dry_move,
        .sync = dry_sync,
        .close = dry_close,
        .kv_bytes = of->kv_bytes,
        .weight_open = dry_weight_open,
        .weight_close = dry_weight_close,
        .weight_bytes = of->weight_bytes ? of->weight_bytes : file_bytes,
        .dry = true,
        .halves = of->halves,
        .activations = of->activations,
        .team = of->team, /* how many share a model */
    };
    return be;
}
