/* Device memory in large chunks, cut by first fit, and the ways in and out of it. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/cuda/cuda_backend.h"

#define CHUNK_BYTES \
    ((size_t)32 << 20) /* from half of this on, an allocation has a chunk of its own */
#define POOL_ALIGN ((size_t)256)

/* A piece of a chunk, in order of addresses. */
struct piece {
    struct piece *next;
    char *at;
    size_t bytes;
    bool taken;
};

struct chunk {
    struct chunk *next;
    char *base;
    size_t bytes;
    struct piece *pieces;
};

struct cuda_pool {
    struct chunk *chunks;
};

static void chunk_free(struct chunk *c)
{
    for (struct piece *p = c->pieces, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    cudaFree(c->base);
    free(c);
}

static struct chunk *chunk_new(struct cuda_pool *pool, size_t bytes)
{
    void *base = NULL;
    if (cudaMalloc(&base, bytes) != cudaSuccess) {
        cudaGetLastError(); /* told to the caller, not to the next sync */
        return NULL;
    }
    struct chunk *c = xcalloc(1, sizeof *c);
    c->base = base;
    c->bytes = bytes;
    c->pieces = xcalloc(1, sizeof *c->pieces);
    *c->pieces = (struct piece){.at = base, .bytes = bytes};
    c->next = pool->chunks;
    pool->chunks = c;
    return c;
}

static void *chunk_take(struct chunk *c, size_t bytes)
{
    struct piece *p = c->pieces;
    while (p && (p->taken || p->bytes < bytes))
        p = p->next;
    if (!p)
        return NULL;
    if (p->bytes > bytes) {
        struct piece *rest = xcalloc(1, sizeof *rest);
        *rest = (struct piece){.next = p->next, .at = p->at + bytes, .bytes = p->bytes - bytes};
        p->next = rest;
        p->bytes = bytes;
    }
    p->taken = true;
    return p->at;
}

static void join(struct piece *p)
{
    struct piece *next = p->next;
    if (!next || p->taken || next->taken)
        return;
    p->bytes += next->bytes;
    p->next = next->next;
    free(next);
}

static void chunk_give(struct chunk *c, const char *at)
{
    struct piece *before = NULL, *p = c->pieces;
    for (; p && p->at != at; p = p->next)
        before = p;
    if (!p)
        return;
    p->taken = false;
    join(p);
    if (before)
        join(before);
}

int cuda_mem_open(struct cuda_backend *cb, struct err *e)
{
    cb->pool = xcalloc(1, sizeof *cb->pool);
    void *staging = NULL;
    if (cudaMallocHost(&staging, CUDA_STAGING_BYTES) != cudaSuccess) {
        cudaGetLastError();
        return err_set(e, ERR_NOMEM, "%s: no pinned memory", cb->name);
    }
    cb->staging = staging;
    return 0;
}

void cuda_mem_close(struct cuda_backend *cb)
{
    for (struct chunk *c = cb->pool ? cb->pool->chunks : NULL, *next; c; c = next) {
        next = c->next;
        chunk_free(c);
    }
    free(cb->pool);
    cudaFreeHost(cb->staging);
}

void *cuda_mem_alloc(struct backend *be, size_t bytes, struct err *e)
{
    struct cuda_backend *cb = cuda_of(be);
    void *p = NULL;
    cuda_enter(cb);
    if (bytes < SIZE_MAX - POOL_ALIGN && !cb->dead) {
        size_t all = (bytes + (bytes == 0) + POOL_ALIGN - 1) / POOL_ALIGN * POOL_ALIGN;
        bool own = all >= CHUNK_BYTES / 2;
        for (struct chunk *c = cb->pool->chunks; c && !p && !own; c = c->next)
            p = chunk_take(c, all);
        struct chunk *c = p ? NULL : chunk_new(cb->pool, own ? all : CHUNK_BYTES);
        if (c)
            p = chunk_take(c, all);
        if (p)
            cuda_queue_clear(p, all, cuda_stream(cb));
    }
    if (!p)
        err_set(e, ERR_NOMEM, "%s: no memory for %zu MiB", cb->name, bytes >> 20);
    return p;
}

void cuda_mem_free(struct backend *be, void *p)
{
    struct cuda_backend *cb = cuda_of(be);
    struct chunk **link = &cb->pool->chunks;
    if (!p)
        return;
    while (*link && !((char *)p >= (*link)->base && (char *)p < (*link)->base + (*link)->bytes))
        link = &(*link)->next;
    struct chunk *c = *link;
    if (!c)
        return;
    chunk_give(c, p);
    if (!c->pieces->next && !c->pieces->taken) {
        *link = c->next;
        cuda_flush(cb); /* what is held back may still mean this memory */
        chunk_free(c);  /* waits for what still runs */
    }
}

void *cuda_mem_host(struct backend *be, size_t bytes, struct err *e)
{
    void *p = NULL;
    cuda_enter(cuda_of(be));
    if (cudaMallocHost(&p, bytes + (bytes == 0)) == cudaSuccess) {
        memset(p, 0, bytes);
        return p;
    }
    cudaGetLastError();
    err_set(e, ERR_NOMEM, "%s: no pinned memory for %zu bytes", be->name, bytes);
    return NULL;
}

void cuda_mem_host_free(struct backend *be, void *p)
{
    (void)be;
    cudaFreeHost(p);
}

size_t cuda_mem_free_bytes(struct backend *be)
{
    size_t left = 0, total = 0;
    cuda_enter(cuda_of(be));
    return cudaMemGetInfo(&left, &total) == cudaSuccess ? left : 0;
}

/* Everything that used it before is done when there was none left. */
char *cuda_mem_stage(struct cuda_backend *cb, size_t bytes)
{
    if (cb->dead)
        return NULL;
    if (cb->staging_used + bytes > CUDA_STAGING_BYTES ||
        cb->n_landings == (int)(sizeof cb->landings / sizeof *cb->landings)) {
        if (!cuda_wait(cb) || !cuda_check(cb, cudaStreamSynchronize(cb->copy), "synchronizing"))
            return NULL;
        cuda_mem_land(cb);
    }
    char *at = cb->staging + cb->staging_used;
    cb->staging_used += (bytes + 63) / 64 * 64;
    return at;
}

void cuda_mem_land(struct cuda_backend *cb)
{
    for (int i = 0; i < cb->n_landings; i++)
        memcpy(cb->landings[i].to, cb->landings[i].from, cb->landings[i].bytes);
    cb->n_landings = 0;
    cb->staging_used = 0;
}

void cuda_mem_upload(struct backend *be, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *cb = cuda_of(be);
    for (size_t at = 0, n; at < bytes && !cb->dead; at += n) {
        n = bytes - at < CUDA_STAGING_BYTES / 4 ? bytes - at : CUDA_STAGING_BYTES / 4;
        char *pinned = cuda_mem_stage(cb, n);
        if (!pinned)
            return;
        memcpy(pinned, (const char *)from + at, n);
        cuda_copy(cb, (char *)to + at, pinned, n, cudaMemcpyHostToDevice, "an upload");
    }
}

void cuda_mem_download(struct backend *be, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *cb = cuda_of(be);
    for (size_t at = 0, n; at < bytes && !cb->dead; at += n) {
        n = bytes - at < CUDA_STAGING_BYTES / 4 ? bytes - at : CUDA_STAGING_BYTES / 4;
        char *pinned = cuda_mem_stage(cb, n);
        if (!pinned)
            return;
        if (at == 0)
            cuda_copy_stream(cb);
        cuda_check(
            cb,
            cudaMemcpyAsync(pinned, (const char *)from + at, n, cudaMemcpyDeviceToHost, cb->copy),
            "a download");
        cb->landing = true;
        cb->landings[cb->n_landings++] = (struct cuda_landing){(char *)to + at, pinned, n};
    }
}

void cuda_mem_copy(struct backend *be, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *cb = cuda_of(be);
    if (bytes && !cb->dead)
        cuda_copy(cb, to, from, bytes, cudaMemcpyDeviceToDevice, "a copy");
}
