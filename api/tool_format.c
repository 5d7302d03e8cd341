/* The table of formats. */
#include "api/tool_format.h"

#include <stddef.h>
#include <string.h>

#define HERMES                                                              \
    .shape = TOOL_TAGGED, .marker = "<tool_call>", .close = "</tool_call>", \
    .arguments = "arguments", .tokens = {"<tool_call>", "</tool_call>"}

/* DeepSeek's words are written with the full-width bar and a low block for the space. */
#define DS(words) "<\xef\xbd\x9c" words "\xef\xbd\x9c>"
#define SP        "\xe2\x96\x81"
#define DS_CALLS  DS("tool" SP "calls" SP "begin")
#define DS_ENDS   DS("tool" SP "calls" SP "end")
#define DS_CALL   DS("tool" SP "call" SP "begin")
#define DS_END    DS("tool" SP "call" SP "end")
#define DS_SEP    DS("tool" SP "sep")

const struct tool_format tool_format_generic = {.name = "generic", HERMES};

/* The first whose hint is there: those that have another's hint besides their own stand before it. */
static const struct tool_format formats[] = {
    {.name = "qwen-coder",
     .hint = "<parameter=",
     .shape = TOOL_PARAMS,
     .marker = "<tool_call>",
     .open = "\n<function=",
     .after = ">\n",
     .param = "<parameter=",
     .value = ">\n",
     .param_end = "\n</parameter>\n",
     .close = "</function>\n</tool_call>",
     .tokens = {"<tool_call>", "</tool_call>"}},
    {.name = "glm",
     .hint = "<arg_key>",
     .shape = TOOL_PARAMS,
     .marker = "<tool_call>",
     .after = "\n",
     .param = "<arg_key>",
     .value = "</arg_key>\n<arg_value>",
     .param_end = "</arg_value>\n",
     .close = "</tool_call>",
     .tokens = {"<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>"}},
    {.name = "hermes", .hint = "<tool_call>", HERMES}, /* and Qwen */
    {.name = "mistral-args",                           /* since version 11 of its tokenizer */
     .hint = "[ARGS]",
     .shape = TOOL_NAMED,
     .marker = "[TOOL_CALLS]",
     .after = "[ARGS]",
     .tokens = {"[TOOL_CALLS]", "[ARGS]"},
     .id_chars = 9},
    {.name = "mistral",
     .hint = "[TOOL_CALLS]",
     .shape = TOOL_LIST,
     .marker = "[TOOL_CALLS]",
     .arguments = "arguments",
     .tokens = {"[TOOL_CALLS]"},
     .id_chars = 9},
    {.name = "granite",
     .hint = "<|tool_call|>",
     .shape = TOOL_LIST,
     .marker = "<|tool_call|>",
     .arguments = "arguments",
     .tokens = {"<|tool_call|>"}},
    {.name = "deepseek-v3.1",
     .hint = DS_CALLS,
     .unless = "```json",
     .shape = TOOL_NAMED,
     .marker = DS_CALLS,
     .open = DS_CALL,
     .after = DS_SEP,
     .close = DS_END,
     .end = DS_ENDS,
     .tokens = {DS_CALLS, DS_CALL, DS_SEP, DS_END, DS_ENDS}},
    {.name = "deepseek", /* V3, R1 */
     .hint = DS_CALLS,
     .shape = TOOL_NAMED,
     .marker = DS_CALLS,
     .open = DS_CALL "function" DS_SEP,
     .after = "\n```json\n",
     .close = "\n```" DS_END,
     .end = DS_ENDS,
     .tokens = {DS_CALLS, DS_CALL, DS_SEP, DS_END, DS_ENDS}},
    {.name = "llama",
     .hint = "{\"name\": function name, \"parameters\":",
     .shape = TOOL_BARE,
     .marker = "<|python_tag|>",
     .arguments = "parameters",
     .tokens = {"<|python_tag|>"},
     .one = true},
};

const struct tool_format *tool_format_find(const char *chat_template)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strstr(chat_template, formats[i].hint) != NULL &&
            (formats[i].unless == NULL || strstr(chat_template, formats[i].unless) == NULL))
            return &formats[i];
    return NULL;
}
