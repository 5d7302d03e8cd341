/* A letter for the format, and a text as a model writes it: parsed in pieces it is the same as parsed at once, and
 * what the grammar of calls lets come to an end has arguments that are JSON. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/tools.h"
#include "tests/grammar_follow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DS_BEGIN                    \
    "<\xef\xbd\x9ctool\xe2\x96\x81" \
    "calls\xe2\x96\x81"             \
    "begin\xef\xbd\x9c>"

/* of tool_grammar_json */
static const char json_params[] = "f\0n\0";
static const char tools_text[] = "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\","
                                 "\"parameters\":{\"type\":\"object\","
                                 "\"properties\":{\"a\":{}},\"additionalProperties\":true}}},{"
                                 "\"type\":\"function\",\"function\":{\"name\":"
                                 "\"g\"}}]}";

static struct tool_parse *parse(const struct tool_format *f, const char *s, size_t n, size_t step,
                                struct buf *said)
{
    struct tool_parse *p = tool_parse_open(f, json_params, 1 << 20);
    for (size_t i = 0; p != NULL && i < n; i += step)
        tool_parse_push(p, s + i, step < n - i ? step : n - i, said);
    if (p != NULL)
        tool_parse_end(p, said);
    return p;
}

static bool can_end(const struct tool_format *f, const char *s, size_t n)
{
    struct arena arena;
    struct tools t;
    struct cJSON *body = NULL;
    struct grammar_run *r = NULL;
    const struct grammar *g = NULL;
    grammar_sym top;
    bool ok = false;
    arena_init(&arena, 4 << 20);
    struct schema schema = {.arena = &arena};
    if (json_parse(&body, tools_text, sizeof tools_text - 1, NULL, NULL) == 0 &&
        tools_read(body, &t, NULL) == 0) {
        t.format = f;
        if (tool_grammar_symbol(&t, 0, &schema, &top, NULL) == 0 &&
            schema_close(&schema, top, &g, NULL) == 0 && grammar_run_open(&r, g, NULL) == 0)
            ok = grammar_follow(r, s, n, NULL);
    }
    json_free(body);
    arena_free(&arena);
    return ok;
}

static void check_calls(const struct tool_parse *p)
{
    struct buf out;
    struct json_writer w;
    struct cJSON *doc = NULL, *arguments = NULL;
    struct err e = {0};
    buf_init(&out, 1 << 24);
    json_begin(&w, &out);
    json_open(&w, NULL, '{');
    tool_parse_put(p, &w);
    json_close(&w, '}');
    if (json_parse(&doc, buf_str(&out), out.len, NULL, NULL) == 0)
        for (const struct cJSON *c = json_first(json_get(doc, "tool_calls")); c; c = json_next(c)) {
            const char *text = json_str(json_get(json_get(c, "function"), "arguments"));
            if (json_parse(&arguments, text, strlen(text), NULL, &e) == ERR_INVALID &&
                strstr(e.msg, "duplicate") == NULL && strstr(e.msg, "deep") == NULL &&
                strstr(e.msg, "u0000") == NULL && strstr(e.msg, "many") == NULL)
                abort();
            json_free(arguments);
            arguments = NULL;
        }
    json_free(doc);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const hints[] = {
        "<tool_call>",   "[TOOL_CALLS]", "[TOOL_CALLS][ARGS]",
        "<|tool_call|>", "<parameter=",  "{\"name\": function name, \"parameters\":",
        "<arg_key>",     DS_BEGIN,       DS_BEGIN "```json"};
    if (size < 2)
        return 0;
    const struct tool_format *f = tool_format_find(hints[data[0] % (sizeof hints / sizeof *hints)]);
    const char *s = (const char *)data + 1;
    struct buf whole, pieces;
    buf_init(&whole, 1 << 20);
    buf_init(&pieces, 1 << 20);
    struct tool_parse *a = parse(f, s, size - 1, size, &whole);
    struct tool_parse *b = parse(f, s, size - 1, 1, &pieces);
    if (a == NULL || b == NULL || tool_parse_calls(a) != tool_parse_calls(b) ||
        whole.len != pieces.len ||
        (whole.len > 0 && memcmp(whole.data, pieces.data, whole.len) != 0))
        abort();
    if (tool_parse_calls(a) > 0 && size < 4096 && can_end(f, s, size - 1))
        check_calls(a);
    tool_parse_close(a);
    tool_parse_close(b);
    buf_free(&whole);
    buf_free(&pieces);
    return 0;
}
