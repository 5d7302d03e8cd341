/* Arena of zeroed chunks that grow with use, and the allocation helpers for the rest. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ALIGN = 16, CHUNK_MIN = 4096, CHUNK_MAX = 1 << 20, EXIT_NO_MEMORY = 71 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, cap;
    _Alignas(ALIGN) char data[];
};

void arena_init(struct arena *a, size_t max_bytes)
{
    *a = (struct arena){.max_bytes = max_bytes};
}

static struct arena_chunk *add_chunk(struct arena *a, size_t need)
{
    struct arena_chunk *head = a->head;
    size_t cap = CHUNK_MIN;
    if (head != NULL)
        cap = head->cap < CHUNK_MAX / 2 ? head->cap * 2 : CHUNK_MAX;
    bool oversized = need > cap;
    if (oversized)
        cap = need;
    struct arena_chunk *c = calloc(1, sizeof *c + cap);
    if (c == NULL)
        return NULL;
    c->cap = cap;
    if (oversized && head != NULL) { /* it is full at once: keep filling the head */
        c->next = head->next;
        head->next = c;
    } else {
        c->next = head;
        a->head = c;
    }
    return c;
}

void *arena_alloc(struct arena *a, size_t n)
{
    if (n > SIZE_MAX / 2)
        return NULL;
    n = n == 0 ? ALIGN : (n + ALIGN - 1) / ALIGN * ALIGN;
    if (n > a->max_bytes - a->used_bytes)
        return NULL;
    struct arena_chunk *c = a->head;
    if (c == NULL || n > c->cap - c->used) {
        c = add_chunk(a, n);
        if (c == NULL)
            return NULL;
    }
    void *p = c->data + c->used;
    c->used += n;
    a->used_bytes += n;
    return p;
}

void *arena_array(struct arena *a, size_t count, size_t size)
{
    size_t n;
    if (__builtin_mul_overflow(count, size, &n))
        return NULL;
    return arena_alloc(a, n);
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    if (n == SIZE_MAX)
        return NULL;
    char *p = arena_alloc(a, n + 1);
    if (p != NULL && n > 0)
        memcpy(p, s, n);
    return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_strndup(a, s, strlen(s));
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (p == NULL)
        return NULL;
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

void arena_free(struct arena *a)
{
    while (a->head != NULL) {
        struct arena_chunk *c = a->head;
        a->head = c->next;
        free(c);
    }
    a->used_bytes = 0;
}

static void *must(void *p)
{
    if (p == NULL) {
        static const char line[] = "out of memory\n";
        ssize_t ignored = write(STDERR_FILENO, line, sizeof line - 1);
        (void)ignored;
        _exit(EXIT_NO_MEMORY); /* no atexit handlers: they may allocate */
    }
    return p;
}

void *xmalloc(size_t n)
{
    return must(malloc(n > 0 ? n : 1));
}

void *xcalloc(size_t count, size_t size)
{
    return must(mem_try(count, size));
}

void *xrealloc(void *p, size_t n)
{
    return must(realloc(p, n > 0 ? n : 1));
}

char *xstrdup(const char *s)
{
    return must(strdup(s));
}

void *mem_try(size_t count, size_t size)
{
    size_t n;
    if (__builtin_mul_overflow(count, size, &n))
        return NULL;
    return calloc(n > 0 ? n : 1, 1);
}
