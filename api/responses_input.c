/* Items of the Responses API have a type each: messages, calls of functions, their outputs.  A chat has the calls
 * within the assistant's message, so items that the assistant made side by side become one message again. */
#include "api/responses_input.h"

#include <stdio.h>
#include <string.h>

#include "api/answer.h"
#include "api/params.h"
#include "base/json.h"

static bool is(const struct cJSON *v, const char *key, const char *word)
{
    const char *s = json_str(json_get(v, key));
    return s != NULL && strcmp(s, word) == 0;
}

static int blame(struct err *e, int i, const char *field)
{
    return err_param(e, "input[%d]%s", i, field);
}

/* ---- items in one form ---- */

static int bad_part(const char *type, int i, int k, struct err *e)
{
    if (strcmp(type, "input_file") == 0 || strcmp(type, "input_audio") == 0)
        err_set(e, ERR_UNSUPPORTED, "this server does not take %s, only text and pictures",
                strcmp(type, "input_file") == 0 ? "files" : "audio");
    else
        err_set(e, ERR_INVALID,
                "the type of a content part must be input_text, output_text, refusal or "
                "input_image, not \"%.40s\"",
                type);
    return err_param(e, "input[%d].content[%d].type", i, k);
}

static int put_text(struct json_writer *w, const char *type, const struct cJSON *text, int i, int k,
                    struct err *e)
{
    if (json_type(text) != JSON_STRING) {
        err_set(e, ERR_INVALID, "a part of the type %s must have a text that is a string", type);
        return err_param(e, "input[%d].content[%d]", i, k);
    }
    json_open(w, NULL, '{');
    json_put_str(w, "type", type);
    json_put_node(w, strcmp(type, "refusal") == 0 ? "refusal" : "text", text);
    if (strcmp(type, "output_text") == 0) {
        json_open(w, "annotations", '[');
        json_close(w, ']');
    }
    json_close(w, '}');
    return 0;
}

static int put_picture(struct json_writer *w, const struct cJSON *part, int i, int k, struct err *e)
{
    const struct cJSON *url = json_get(part, "image_url");
    if (json_type(url) == JSON_OBJECT) /* as chats have it */
        url = json_get(url, "url");
    if (json_type(url) != JSON_STRING) {
        if (json_is_off(json_get(part, "file_id")))
            err_set(e, ERR_INVALID, "an input_image must have an image_url that is a string");
        else
            err_set(e, ERR_UNSUPPORTED, "this server keeps no files: give image_url, not file_id");
        return err_param(e, "input[%d].content[%d].image_url", i, k);
    }
    json_open(w, NULL, '{');
    json_put_str(w, "type", "input_image");
    json_put_str(w, "detail", "auto");
    json_put_node(w, "image_url", url);
    json_close(w, '}');
    return 0;
}

/* The parts of a message, or of a function's output, as a list. */
static int put_parts(struct json_writer *w, const char *key, const struct cJSON *content,
                     const char *type, int i, struct err *e)
{
    int k = 0, err = 0;
    json_open(w, key, '[');
    if (json_type(content) == JSON_STRING)
        err = put_text(w, type, content, i, 0, e);
    for (const struct cJSON *p = json_first(content); p != NULL && err == 0; p = json_next(p)) {
        const char *kind = json_str(json_get(p, "type"));
        kind = kind != NULL ? kind : "";
        if (strcmp(kind, "input_image") == 0 || strcmp(kind, "image_url") == 0)
            err = put_picture(w, p, i, k, e);
        else if (strcmp(kind, "refusal") == 0)
            err = put_text(w, "refusal", json_get(p, "refusal"), i, k, e);
        else if (strcmp(kind, "input_text") == 0 || strcmp(kind, "output_text") == 0 ||
                 strcmp(kind, "text") == 0)
            err = put_text(w, type, json_get(p, "text"), i, k, e);
        else
            err = bad_part(kind, i, k, e);
        k++;
    }
    json_close(w, ']');
    return err;
}

static void open_item(struct json_writer *w, const struct cJSON *item, const char *type,
                      const char *prefix)
{
    const char *id = json_str(json_get(item, "id"));
    char fresh[ANSWER_ID_MAX];
    json_open(w, NULL, '{');
    json_put_str(w, "id", id != NULL ? id : answer_id(fresh, prefix));
    json_put_str(w, "type", type);
    json_put_str(w, "status", "completed");
}

static int put_message(struct json_writer *w, const struct cJSON *item, int i, struct err *e)
{
    static const char *const roles[] = {"user", "assistant", "system", "developer"};
    const char *role = json_str(json_get(item, "role"));
    const struct cJSON *content = json_get(item, "content");
    bool known = false;
    for (size_t k = 0; k < sizeof roles / sizeof *roles && role != NULL; k++)
        known = known || strcmp(role, roles[k]) == 0;
    if (!known) {
        err_set(e, ERR_INVALID, "role must be user, assistant, system or developer");
        return blame(e, i, ".role");
    }
    if (json_type(content) != JSON_STRING && json_type(content) != JSON_ARRAY) {
        err_set(e, ERR_INVALID, "content must be a string or a list of parts, not %s",
                json_type_name(json_type(content)));
        return blame(e, i, ".content");
    }
    const bool said = strcmp(role, "assistant") == 0;
    open_item(w, item, "message", "msg");
    json_put_str(w, "role", role);
    int err = put_parts(w, "content", content, said ? "output_text" : "input_text", i, e);
    json_close(w, '}');
    return err;
}

static int put_call(struct json_writer *w, const struct cJSON *item, int i, struct err *e)
{
    static const char *const keys[] = {"call_id", "name", "arguments"};
    open_item(w, item, "function_call", "fc");
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        const struct cJSON *v = json_get(item, keys[k]);
        if (json_type(v) != JSON_STRING) {
            err_set(e, ERR_INVALID, "a function_call must have a %s that is a string", keys[k]);
            return err_param(e, "input[%d].%s", i, keys[k]);
        }
        json_put_node(w, keys[k], v);
    }
    json_close(w, '}');
    return 0;
}

static int put_output(struct json_writer *w, const struct cJSON *item, int i, struct err *e)
{
    const struct cJSON *id = json_get(item, "call_id"), *output = json_get(item, "output");
    if (json_type(id) != JSON_STRING) {
        err_set(e, ERR_INVALID, "a function_call_output must have a call_id that is a string");
        return blame(e, i, ".call_id");
    }
    if (json_type(output) != JSON_STRING && json_type(output) != JSON_ARRAY) {
        err_set(e, ERR_INVALID, "output must be a string or a list of parts, not %s",
                json_type_name(json_type(output)));
        return blame(e, i, ".output");
    }
    open_item(w, item, "function_call_output", "fco");
    json_put_node(w, "call_id", id);
    int err = 0;
    if (json_type(output) == JSON_STRING)
        json_put_node(w, "output", output);
    else
        err = put_parts(w, "output", output, "input_text", i, e);
    json_close(w, '}');
    return err;
}

static int put_item(struct json_writer *w, const struct cJSON *item, int i, struct err *e)
{
    const char *type = json_str(json_get(item, "type"));
    if (json_type(item) != JSON_OBJECT) {
        err_set(e, ERR_INVALID, "an item of input must be an object, not %s",
                json_type_name(json_type(item)));
        return blame(e, i, "");
    }
    if (type == NULL || strcmp(type, "message") == 0)
        return put_message(w, item, i, e);
    if (strcmp(type, "function_call") == 0)
        return put_call(w, item, i, e);
    if (strcmp(type, "function_call_output") == 0)
        return put_output(w, item, i, e);
    if (strcmp(type, "reasoning") == 0) { /* of another model: this one is not shown it */
        open_item(w, item, "reasoning", "rs");
        json_open(w, "summary", '[');
        json_close(w, ']');
        json_close(w, '}');
        return 0;
    }
    err_set(e, ERR_UNSUPPORTED,
            "items of the type %.40s are not supported: message, function_call, "
            "function_call_output and reasoning are",
            type);
    return blame(e, i, ".type");
}

int responses_input_items(const struct cJSON *body, int max_items, struct buf *out, struct err *e)
{
    const struct cJSON *input = json_get(body, "input");
    struct json_writer w = {.out = out, .comma = out->len > 0};
    int i = 0, err = 0;
    if (json_type(input) == JSON_STRING) {
        open_item(&w, NULL, "message", "msg");
        json_put_str(&w, "role", "user");
        err = put_parts(&w, "content", input, "input_text", 0, e);
        json_close(&w, '}');
    } else if (json_type(input) != JSON_ARRAY || json_size(input) > max_items ||
               (json_size(input) == 0 && out->len == 0)) {
        err_set(e, ERR_INVALID, "input must be a string or a list of 1 to %d items", max_items);
        return err_param(e, "input");
    }
    for (const struct cJSON *v = json_first(input); v != NULL && err == 0; v = json_next(v))
        err = put_item(&w, v, i++, e);
    if (err == 0 && out->failed) {
        err = err_set(e, ERR_TOOBIG, "the conversation is larger than allowed");
        err_param(e, "input");
    }
    return err;
}

int responses_input_cut(const struct cJSON *items, int n)
{
    int i = 0, last = 0;
    for (const struct cJSON *v = json_first(items); v != NULL; v = json_next(v), i++)
        if (is(v, "role", "user")) {
            last = i;
            if (i >= n)
                break;
        }
    return last;
}

/* ---- items as messages ---- */

static void put_chat_parts(struct json_writer *w, const struct cJSON *parts)
{
    if (json_type(parts) == JSON_STRING) {
        json_put_node(w, "content", parts);
        return;
    }
    json_open(w, "content", '[');
    for (const struct cJSON *p = json_first(parts); p != NULL; p = json_next(p)) {
        json_open(w, NULL, '{');
        if (is(p, "type", "input_image")) {
            json_put_str(w, "type", "image_url");
            json_open(w, "image_url", '{');
            json_put_node(w, "url", json_get(p, "image_url"));
            json_close(w, '}');
        } else {
            const char *key = is(p, "type", "refusal") ? "refusal" : "text";
            json_put_str(w, "type", key);
            json_put_node(w, key, json_get(p, key));
        }
        json_close(w, '}');
    }
    json_close(w, ']');
}

/* A list with one text is that text, for templates that want no more. */
static void put_chat_content(struct json_writer *w, const struct cJSON *parts)
{
    const struct cJSON *first = json_first(parts), *text = json_get(first, "text");
    if (json_size(parts) == 1 && text != NULL)
        json_put_node(w, "content", text);
    else
        put_chat_parts(w, parts);
}

static void put_chat_call(struct json_writer *w, const struct cJSON *item)
{
    json_open(w, NULL, '{');
    json_put_node(w, "id", json_get(item, "call_id"));
    json_put_str(w, "type", "function");
    json_open(w, "function", '{');
    json_put_node(w, "name", json_get(item, "name"));
    json_put_node(w, "arguments", json_get(item, "arguments"));
    json_close(w, '}');
    json_close(w, '}');
}

/* This item, or the first after it that a chat shows. */
static const struct cJSON *shown(const struct cJSON *item, int *i)
{
    for (; is(item, "type", "reasoning"); item = json_next(item))
        ++*i;
    return item;
}

/* The assistant's message that begins with this item; the item after it. */
static const struct cJSON *put_assistant(struct json_writer *w, const struct cJSON *item, int *i)
{
    json_put_str(w, "role", "assistant");
    if (is(item, "type", "message")) {
        put_chat_content(w, json_get(item, "content"));
        ++*i;
        item = shown(json_next(item), i);
    } else {
        json_put_null(w, "content");
    }
    if (!is(item, "type", "function_call"))
        return item;
    json_open(w, "tool_calls", '[');
    while (is(item, "type", "function_call")) {
        put_chat_call(w, item);
        ++*i;
        item = shown(json_next(item), i);
    }
    json_close(w, ']');
    return item;
}

static void put_messages(struct json_writer *w, const struct cJSON *body, const struct cJSON *items,
                         int skip, int *item_of)
{
    const char *instructions = json_str(json_get(body, "instructions"));
    const struct cJSON *v = json_first(items);
    int i = 0, n = 0;
    json_open(w, "messages", '[');
    if (instructions != NULL && instructions[0] != '\0') {
        json_open(w, NULL, '{');
        json_put_str(w, "role", "system");
        json_put_str(w, "content", instructions);
        json_close(w, '}');
        item_of[n++] = -1;
    }
    for (; v != NULL && i < skip; v = json_next(v))
        i++;
    while ((v = shown(v, &i)) != NULL) {
        item_of[n++] = i;
        json_open(w, NULL, '{');
        if (is(v, "type", "function_call") || is(v, "role", "assistant")) {
            v = put_assistant(w, v, &i);
        } else {
            if (is(v, "type", "function_call_output")) {
                json_put_str(w, "role", "tool");
                json_put_node(w, "tool_call_id", json_get(v, "call_id"));
                put_chat_parts(w, json_get(v, "output"));
            } else {
                json_put_node(w, "role", json_get(v, "role"));
                put_chat_content(w, json_get(v, "content"));
            }
            v = json_next(v);
            i++;
        }
        json_close(w, '}');
    }
    json_close(w, ']');
}

/* ---- the other fields ---- */

/* {"type": "function", "name", ...} -> {"type": "function", "function": {"name", ...}} */
static void put_function(struct json_writer *w, const char *key, const struct cJSON *tool)
{
    json_open(w, key, '{');
    json_put_str(w, "type", "function");
    json_open(w, "function", '{');
    for (const struct cJSON *v = json_first(tool); v != NULL; v = json_next(v))
        if (strcmp(json_key(v), "type") != 0)
            json_put_node(w, json_key(v), v);
    json_close(w, '}');
    json_close(w, '}');
}

static int put_tools(struct json_writer *w, const struct cJSON *tools, struct err *e)
{
    int i = 0;
    if (json_type(tools) != JSON_ARRAY) { /* tools_read says what is wrong with others */
        if (tools != NULL)
            json_put_node(w, "tools", tools);
        return 0;
    }
    json_open(w, "tools", '[');
    for (const struct cJSON *v = json_first(tools); v != NULL; v = json_next(v), i++) {
        const char *type = json_str(json_get(v, "type"));
        if (type == NULL || strcmp(type, "function") != 0) {
            err_set(e, type == NULL ? ERR_INVALID : ERR_UNSUPPORTED,
                    "a tool must have the type function, not %.40s", type != NULL ? type : "none");
            return err_param(e, "tools[%d].type", i);
        }
        put_function(w, NULL, v);
    }
    json_close(w, ']');
    return 0;
}

static int put_choice(struct json_writer *w, const struct cJSON *choice, struct err *e)
{
    const char *type = json_str(json_get(choice, "type"));
    if (json_type(choice) == JSON_NULL)
        return 0;
    if (json_type(choice) == JSON_STRING) {
        json_put_node(w, "tool_choice", choice);
        return 0;
    }
    if (type != NULL && strcmp(type, "function") == 0) {
        put_function(w, "tool_choice", choice);
        return 0;
    }
    if (type == NULL || strcmp(type, "allowed_tools") != 0) {
        err_set(e, ERR_UNSUPPORTED,
                "tool_choice must be none, auto, required, or an object of the type function or "
                "allowed_tools");
        return err_param(e, "tool_choice");
    }
    json_open(w, "tool_choice", '{');
    json_put_str(w, "type", type);
    json_open(w, type, '{');
    if (json_get(choice, "mode") != NULL)
        json_put_node(w, "mode", json_get(choice, "mode"));
    json_open(w, "tools", '[');
    for (const struct cJSON *v = json_first(json_get(choice, "tools")); v != NULL; v = json_next(v))
        put_function(w, NULL, v);
    json_close(w, ']');
    json_close(w, '}');
    json_close(w, '}');
    return 0;
}

/* text.format -> response_format */
static int put_format(struct json_writer *w, const struct cJSON *text, struct err *e)
{
    const struct cJSON *format = json_get(text, "format");
    const char *type = json_str(json_get(format, "type"));
    if (json_type(text) != JSON_NULL && json_type(text) != JSON_OBJECT) {
        err_set(e, ERR_INVALID, "text must be an object, not %s", json_type_name(json_type(text)));
        return err_param(e, "text");
    }
    if (json_type(format) == JSON_NULL || (type != NULL && strcmp(type, "text") == 0))
        return 0;
    const bool schema = type != NULL && strcmp(type, "json_schema") == 0;
    if (!schema && (type == NULL || strcmp(type, "json_object") != 0)) {
        err_set(e, ERR_INVALID,
                "text.format must be an object of the type text, json_object or json_schema");
        return err_param(e, "text.format");
    }
    if (schema && json_type(json_get(format, "schema")) != JSON_OBJECT) {
        err_set(e, ERR_INVALID, "a text.format of the type json_schema must have a schema");
        return err_param(e, "text.format.schema");
    }
    json_open(w, "response_format", '{');
    json_put_str(w, "type", type);
    if (schema)
        json_put_node(w, "json_schema", format);
    json_close(w, '}');
    return 0;
}

static int put_logprobs(struct json_writer *w, const struct cJSON *body, struct err *e)
{
    static const char *const nothing[] = {"reasoning.encrypted_content",
                                          "message.input_image.image_url"};
    const struct cJSON *include = json_get(body, "include"), *top = json_get(body, "top_logprobs");
    bool wanted = json_num(top) > 0;
    if (json_type(include) != JSON_NULL && json_type(include) != JSON_ARRAY) {
        err_set(e, ERR_INVALID, "include must be a list, not %s",
                json_type_name(json_type(include)));
        return err_param(e, "include");
    }
    for (const struct cJSON *v = json_first(include); v != NULL; v = json_next(v)) {
        const char *word = json_str(v);
        bool known = false;
        for (size_t i = 0; i < sizeof nothing / sizeof *nothing && word != NULL; i++)
            known = known || strcmp(word, nothing[i]) == 0;
        if (word != NULL && strcmp(word, "message.output_text.logprobs") == 0)
            known = wanted = true;
        if (!known) {
            err_set(e, ERR_UNSUPPORTED, "include cannot have %.60s",
                    word != NULL ? word : json_type_name(json_type(v)));
            return err_param(e, "include");
        }
    }
    if (wanted)
        json_put_bool(w, "logprobs", true);
    if (json_num(top) > 0)
        json_put_node(w, "top_logprobs", top);
    return 0;
}

int responses_input_chat(const struct cJSON *body, const struct cJSON *items, int skip,
                         int *item_of, struct buf *out, struct err *e)
{
    const unsigned both = PARAM_CHAT | PARAM_RESPONSES;
    const struct cJSON *max = json_get(body, "max_output_tokens");
    struct json_writer w;
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    for (int i = 0; i < params_n; i++) {
        const struct param *p = &params_table[i];
        const struct cJSON *v = json_get(body, p->name);
        if ((p->where & both) == both && p->kind != PARAM_IGNORED && v != NULL)
            json_put_node(&w, p->name, v);
    }
    if (max != NULL)
        json_put_node(&w, "max_completion_tokens", max);
    int err = put_tools(&w, json_get(body, "tools"), e);
    if (err != 0 || (err = put_choice(&w, json_get(body, "tool_choice"), e)) != 0 ||
        (err = put_format(&w, json_get(body, "text"), e)) != 0 ||
        (err = put_logprobs(&w, body, e)) != 0)
        return err;
    put_messages(&w, body, items, skip, item_of);
    json_close(&w, '}');
    return out->failed ? err_set(e, ERR_TOOBIG, "the conversation is larger than allowed") : 0;
}

/* ---- errors ---- */

/* The first `from` in text becomes `to`, as far as there is room. */
static void rename_field(char *text, size_t size, const char *from, const char *to)
{
    char *at = strstr(text, from);
    if (at == NULL)
        return;
    char rest[sizeof((struct err *)0)->msg];
    snprintf(rest, sizeof rest, "%s", at + strlen(from));
    snprintf(at, size - (size_t)(at - text), "%s%s", to, rest);
}

void responses_input_blame(const int *item_of, int n_messages, int n_before, struct err *e)
{
    static const char *const names[][2] = {{"response_format", "text.format"},
                                           {"].function.", "]."},
                                           {"max_completion_tokens", "max_output_tokens"}};
    int i = 0, end = 0;
    if (sscanf(e->param, "messages[%d]%n", &i, &end) == 1 && end > 0 && i >= 0 && i < n_messages) {
        char rest[sizeof e->param];
        snprintf(rest, sizeof rest, "%s", e->param + end);
        if (item_of[i] < 0)
            err_param(e, "instructions");
        else if (item_of[i] < n_before)
            err_param(e, "previous_response_id");
        else
            err_param(e, "input[%d]%.40s", item_of[i] - n_before, rest);
    } else if (strncmp(e->param, "messages", 8) == 0) {
        err_param(e, "input");
    }
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        rename_field(e->param, sizeof e->param, names[k][0], names[k][1]);
        rename_field(e->msg, sizeof e->msg, names[k][0], names[k][1]);
    }
}
