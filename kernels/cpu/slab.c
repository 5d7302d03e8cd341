/* Chunks are filled from the front and never reused in part: what is fresh from the system is zeroed, and
 * a model's weights come and go together.  Pages of a chunk that nobody touched take no memory. */
#include "kernels/cpu/slab.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/arena.h"

#define SLAB_HUGE  ((size_t)2 << 20)
#define SLAB_CHUNK ((size_t)64 << 20)
#define SLAB_ALIGN ((size_t)64)

struct slab {
    struct slab *next;
    char *base;
    size_t bytes, used;
    size_t live; /* allocations */
};

/* bytes is a multiple of SLAB_HUGE; aligned to it. */
static char *slab_map(size_t bytes)
{
    char *p =
        mmap(NULL, bytes + SLAB_HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    size_t before = -(uintptr_t)p & (SLAB_HUGE - 1), after = SLAB_HUGE - before;
    if (before)
        munmap(p, before);
    if (after)
        munmap(p + before + bytes, after);
    madvise(p + before, bytes, MADV_HUGEPAGE); /* a hint: without it only slower */
    return p + before;
}

void *slab_alloc(struct slab **chunks, size_t bytes, struct err *e)
{
    struct slab *s = *chunks;
    if (bytes > SIZE_MAX / 2)
        goto none;
    bytes = (bytes + SLAB_ALIGN - 1) / SLAB_ALIGN * SLAB_ALIGN;
    if (!s || s->bytes - s->used < bytes) {
        size_t all = bytes > SLAB_CHUNK ? bytes : SLAB_CHUNK;
        all = (all + SLAB_HUGE - 1) / SLAB_HUGE * SLAB_HUGE;
        char *base = slab_map(all);
        if (!base)
            goto none;
        s = xcalloc(1, sizeof(*s));
        *s = (struct slab){.next = *chunks, .base = base, .bytes = all};
        *chunks = s;
    }
    void *p = s->base + s->used;
    s->used += bytes;
    s->live++;
    return p;
none:
    err_set(e, ERR_NOMEM, "no memory for %zu MiB", bytes >> 20);
    return NULL;
}

void slab_free(struct slab **chunks, void *p)
{
    for (struct slab **at = chunks; p && *at; at = &(*at)->next) {
        struct slab *s = *at;
        if ((char *)p < s->base || (char *)p >= s->base + s->bytes)
            continue;
        if (--s->live == 0) {
            *at = s->next;
            munmap(s->base, s->bytes);
            free(s);
        }
        return;
    }
}
