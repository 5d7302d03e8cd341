/* A list for the text filter, a zero byte, and a text that is looked at whole and in pieces. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In pieces; what comes out is the text, or its beginning. */
static void push(const struct filter *f, const char *s, size_t n, bool blocks)
{
    struct filter_run *r = NULL;
    struct buf out;
    bool on = true;
    buf_init(&out, 1 << 20);
    if (filter_run_open(&r, f, blocks, NULL) != 0)
        return;
    for (size_t at = 0, step = 1; at < n && on; at += step, step = 1 + at % 7)
        on = filter_run_push(r, s + at, step < n - at ? step : n - at, false, &out);
    on = on && filter_run_push(r, "", 0, true, &out);
    if (out.len > n || (out.len > 0 && memcmp(buf_str(&out), s, out.len) != 0) ||
        (on && out.len != n) || (!on && (!blocks || filter_run_found(r) == 0)))
        abort();
    filter_run_close(r);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *s = (const char *)data, *text = size > 0 ? memchr(s, '\0', size) : NULL;
    const size_t n = text != NULL ? (size_t)(text - s) : size;
    const size_t n_text = text != NULL ? size - n - 1 : 0;
    struct filter *f = NULL;
    uint64_t found = 0;
    if (size > 4096 || filter_open(&f, s, n, "list", NULL) != 0)
        return 0;
    if (text != NULL && filter_run_scan(f, text + 1, n_text, &found, NULL) == 0) {
        push(f, text + 1, n_text, true);
        push(f, text + 1, n_text, false);
    }
    filter_close(f);
    return 0;
}
