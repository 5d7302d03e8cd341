/* Memory of one request or one loaded file: many small pieces, freed together.
 * Thread: one at a time (handed over, never shared). */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H
#include <stddef.h>

#include "base/err.h"

struct arena_chunk;
struct arena {
    struct arena_chunk *head;
    size_t used_bytes; /* what callers asked for, padding included */
    size_t max_bytes;  /* arena_alloc returns NULL beyond this */
};

/* max_bytes bounds everything that will ever be taken from it. */
void arena_init(struct arena *a, size_t max_bytes);
/* 16-byte aligned, zeroed.  NULL when the limit is reached or n overflows. */
void *arena_alloc(struct arena *a, size_t n);
/* count * size with overflow check. */
void *arena_array(struct arena *a, size_t count, size_t size);
char *arena_strndup(struct arena *a, const char *s, size_t n);
char *arena_strdup(struct arena *a, const char *s);
char *arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
void arena_free(struct arena *a); /* frees all; the arena can be used again */

/* Small memory that cannot sensibly fail: prints a line and exits with code 71 when the system is
 * out of memory.  Never for sizes that a client or a file decides: those use mem_try. */
void *xmalloc(size_t n);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s);
/* calloc with overflow check that may return NULL: for sizes that come from outside. */
void *mem_try(size_t count, size_t size);
#endif
