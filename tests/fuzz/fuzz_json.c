/* Whatever the scan accepts, the parser accepts too, and writing the tree gives a document that
 * reads back as the same text. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void write_node(struct buf *out, const struct cJSON *doc)
{
    struct json_writer w;
    buf_init(out, 1 << 24);
    json_begin(&w, out);
    json_put_node(&w, NULL, doc);
    check(!out->failed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct err e = {0};
    struct cJSON *doc;
    struct json_limits python = json_limits_default;
    python.infinity = true;
    int lenient = json_scan(text, size, &python, &e);
    check(lenient == json_parse(&doc, text, size, &python, &e));
    json_free(doc);
    int scanned = json_scan(text, size, NULL, &e);
    int parsed = json_parse(&doc, text, size, NULL, &e);
    check(lenient == 0 || scanned != 0);
    check(scanned == parsed && (parsed == 0) == (doc != NULL));
    if (parsed != 0) {
        check(e.code == parsed && e.msg[0] != '\0');
        return 0;
    }
    struct buf first, second;
    struct cJSON *again;
    write_node(&first, doc);
    check(json_parse(&again, first.data, first.len, NULL, &e) == 0);
    write_node(&second, again);
    check(first.len == second.len && memcmp(first.data, second.data, first.len) == 0);
    json_free(again);
    json_free(doc);
    buf_free(&first);
    buf_free(&second);
    return 0;
}
