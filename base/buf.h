/* Growing bytes with a required maximum.  After an append that does not fit the buffer is marked
 * failed and stays as it was; callers may append many times and check once.
 * Thread: one at a time. */
#ifndef BASE_BUF_H
#define BASE_BUF_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct buf {
    char *data; /* always NUL-terminated once anything was added; NULL while empty */
    size_t len, cap;
    size_t max; /* len never exceeds it */
    bool failed;
};

void buf_init(struct buf *b, size_t max);
void buf_free(struct buf *b);
void buf_clear(struct buf *b); /* len = 0, keeps the memory, clears failed */
/* 0, or ERR_TOOBIG (b->failed is set). */
int buf_add(struct buf *b, const void *p, size_t n);
int buf_adds(struct buf *b, const char *s);
int buf_addc(struct buf *b, char c);
int buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_drop(struct buf *b, size_t n);   /* removes the first n bytes */
const char *buf_str(const struct buf *b); /* "" when empty */
#endif
