/* A JSON Schema, a zero byte, and a text: whatever the grammar lets come to an end is JSON. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/schema.h"
#include "tests/grammar_follow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ended(const char *text, size_t n)
{
    struct err e = {0};
    if (json_scan(text, n, NULL, &e) == ERR_INVALID && strstr(e.msg, "duplicate") == NULL &&
        strstr(e.msg, "deep") == NULL && strstr(e.msg, "u0000") == NULL &&
        strstr(e.msg, "many") == NULL)
        abort();
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
    struct grammar_run *r = NULL;
    if (json_parse(&doc, text, n, NULL, &e) != 0)
        return 0;
    arena_init(&arena, 4 << 20);
    if (schema_open(&s, &arena, "x", &e) == 0 && schema_value(&s, doc, &top, &e) == 0 &&
        schema_close(&s, top, &g, &e) == 0 && n < size && grammar_run_open(&r, g, &e) == 0)
        grammar_follow(r, text + n + 1, size - n - 1, check_ended);
    json_free(doc);
    arena_free(&arena);
    return 0;
}
