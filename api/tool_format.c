/* The table of formats. */
#include "api/tool_format.h"

#include <stddef.h>
#include <string.h>

const struct tool_format tool_format_generic = {.name = "generic",
                                                .shape = TOOL_TAGGED,
                                                .marker = "<tool_call>",
                                                .close = "</tool_call>",
                                                .arguments = "arguments"};

static const struct tool_format formats[] = {
    {.name = "hermes", /* and Qwen */
     .hint = "<tool_call>",
     .unless = "<function=", /* Qwen3-Coder's XML */
     .shape = TOOL_TAGGED,
     .marker = "<tool_call>",
     .close = "</tool_call>",
     .arguments = "arguments"},
    {.name = "mistral",
     .hint = "[TOOL_CALLS]",
     .unless = "[ARGS]",
     .shape = TOOL_LIST,
     .marker = "[TOOL_CALLS]",
     .arguments = "arguments",
     .id_chars = 9},
    {.name = "mistral-args", /* since version 11 of its tokenizer */
     .hint = "[TOOL_CALLS]",
     .shape = TOOL_NAMED,
     .marker = "[TOOL_CALLS]",
     .id_chars = 9},
    {.name = "granite",
     .hint = "<|tool_call|>",
     .shape = TOOL_LIST,
     .marker = "<|tool_call|>",
     .arguments = "arguments"},
    {.name = "llama",
     .hint = "{\"name\": function name, \"parameters\":",
     .shape = TOOL_BARE,
     .marker = "<|python_tag|>",
     .arguments = "parameters",
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
