/* Files mapped read-only.  If a mapped file shrinks while we read it the missing pages read as zeros
 * and file_damaged() says so: no SIGBUS kills the process.  Thread: any. */
#ifndef BASE_FILE_H
#define BASE_FILE_H
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

struct file {
    const char *data; /* NULL for an empty file */
    size_t size;
    int slot; /* in the table of mapped ranges that the SIGBUS handler knows */
};
int file_open(struct file *f, const char *path, struct err *e);
void file_close(struct file *f);
bool file_damaged(const struct file *f);
/* Gives the memory of a byte range back to the page cache (after repacking it). */
void file_forget(struct file *f, size_t offset, size_t len);
/* The end of a path, short enough to leave room in an error for what is wrong. */
const char *file_tail(const char *path);
/* The whole file into b (b->max bounds it: ERR_TOOBIG). */
int file_read(struct buf *b, const char *path, struct err *e);
#endif
