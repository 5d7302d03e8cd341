/* Bytes survive encoding, and what decodes is exactly what encoding writes. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void check_same(const struct buf *b, const uint8_t *data, size_t size)
{
    check(b->len == size && (size == 0 || memcmp(b->data, data, size) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf text, bytes;
    buf_init(&text, 1 << 24);
    buf_init(&bytes, 1 << 24);
    check(base64_encode(&text, data, size) == 0);
    check(base64_decode(&bytes, buf_str(&text), text.len) == 0);
    check_same(&bytes, data, size);

    buf_clear(&text);
    buf_clear(&bytes);
    if (base64_decode(&bytes, (const char *)data, size) == 0) {
        check(base64_encode(&text, buf_str(&bytes), bytes.len) == 0);
        check_same(&text, data, size);
    } else {
        check(bytes.len == 0);
    }
    buf_free(&text);
    buf_free(&bytes);
    return 0;
}
