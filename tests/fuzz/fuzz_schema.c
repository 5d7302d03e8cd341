/* A JSON Schema, a zero byte, and a text: whatever the grammar lets come to an end is JSON. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/schema.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void follow(const struct grammar *g, const char *text, size_t n)
{
    struct grammar_run *r = NULL;
    struct err e = {0};
    size_t i = 0;
    if (grammar_run_open(&r, g, &e) != 0)
        return;
    while (i < n && grammar_run_push(r, text + i, 1)) {
        i++;
        if (grammar_run_may_end(r) && json_scan(text, i, NULL, &e) == ERR_INVALID &&
            strstr(e.msg, "duplicate") == NULL && strstr(e.msg, "deep") == NULL &&
            strstr(e.msg, "u0000") == NULL && strstr(e.msg, "many") == NULL)
            abort();
    }
    grammar_run_close(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    size_t n = size > 0 && memchr(text, 0, size) != NULL ? strlen(text) : size;
    struct err e = {0};
    struct cJSON *doc = NULL;
    struct arena arena;
    struct schema s;
    grammar_sym top;
    const struct grammar *g = NULL;
    if (json_parse(&doc, text, n, NULL, &e) != 0)
        return 0;
    arena_init(&arena, 4 << 20);
    if (schema_open(&s, &arena, "x", &e) == 0 && schema_value(&s, doc, &top, &e) == 0 &&
        schema_close(&s, top, &g, &e) == 0 && n < size)
        follow(g, text + n + 1, size - n - 1);
    json_free(doc);
    arena_free(&arena);
    return 0;
}
