/* Base64 (RFC 4648, with padding).  Thread: any. */
#ifndef BASE_BASE64_H
#define BASE_BASE64_H
#include <stddef.h>

#include "base/buf.h"

int base64_encode(struct buf *out, const void *p, size_t n); /* 0 or ERR_TOOBIG */
/* Strict: padding required, no whitespace.  0, ERR_INVALID or ERR_TOOBIG. */
int base64_decode(struct buf *out, const char *s, size_t n);
#endif
