/* Any bytes as a chat template, rendered with a conversation: an error or text, never a crash, and
 * the same both times.  A prompt must stay within its limits. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/jinja.h"
#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "[{\"role\":\"system\",\"content\":\"Be \\u00e9\"},{\"role\":\"user\",\"content\":\" a, "
    "b\\n\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"call12345\",\"function\":"
    "{\"name\":\"f\",\"arguments\":{\"x\":1.5,\"y\":[true,null]}}}]}]";

static void check(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct cJSON *messages;
    struct jinja_limits lim = jinja_limits_default;
    lim.max_steps = 100000;
    lim.max_memory_bytes = 8 << 20;
    lim.max_output_bytes = 1 << 20;
    lim.now_unix_s = 1721999109;
    if (!messages)
        check(json_parse(&messages, conversation, strlen(conversation), NULL, NULL) == 0);
    struct jinja *t = NULL;
    struct err e = {0};
    int rc = jinja_parse(&t, (const char *)data, size, &lim, &e);
    check(rc == e.code && (rc == 0) == (e.msg[0] == 0) && (rc == 0) == (t != NULL));
    if (rc != 0)
        return 0;
    const struct jinja_var vars[] = {
        {.name = "messages", .type = JINJA_VAR_JSON, .json = messages},
        {.name = "tools", .type = JINJA_VAR_NONE},
        {.name = "add_generation_prompt", .type = JINJA_VAR_BOOL, .flag = true},
        {.name = "bos_token", .type = JINJA_VAR_STR, .str = "<s>"},
        {.name = "n", .type = JINJA_VAR_INT, .num = -3},
    };
    struct buf out[2];
    int rcs[2];
    for (int i = 0; i < 2; i++) {
        buf_init(&out[i], 1 << 20);
        rcs[i] = jinja_render(t, vars, 5, &lim, &out[i], &e);
        check(rcs[i] == e.code && (rcs[i] == 0 || out[i].len == 0));
    }
    check(rcs[0] == rcs[1] && strcmp(buf_str(&out[0]), buf_str(&out[1])) == 0);
    buf_free(&out[0]);
    buf_free(&out[1]);
    jinja_free(t);
    return 0;
}
