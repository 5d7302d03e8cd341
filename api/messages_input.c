/* A message of Anthropic's has blocks.  A user's may be results of calls, which are messages of their own in a chat;
 * an assistant's calls stand beside its text.  A last message of the assistant's is gone on with. */
#include "api/messages_input.h"

#include <stdio.h>
#include <string.h>

#include "api/params.h"
#include "base/json.h"

struct input {
    struct json_writer w;
    int *origin;
    int n;                       /* messages so far */
    int i;                       /* the body's message that is read */
    const struct cJSON *message; /* it */
};

static bool is(const struct cJSON *v, const char *key, const char *word)
{
    const char *s = json_str(json_get(v, key));
    return s != NULL && strcmp(s, word) == 0;
}

static void open_message(struct input *in, const char *role, int origin)
{
    json_open(&in->w, NULL, '{');
    json_put_str(&in->w, "role", role);
    in->origin[in->n++] = origin;
}

static int blame(const struct input *in, int k, struct err *e)
{
    return err_param(e, "messages[%d].content[%d]", in->i, k);
}

/* ---- blocks ---- */

static void put_text(struct json_writer *w, const struct cJSON *text)
{
    json_open(w, NULL, '{');
    json_put_str(w, "type", "text");
    json_put_node(w, "text", text);
    json_close(w, '}');
}

/* {"type": "base64", "media_type", "data"} or {"type": "url", "url"} */
static int put_picture(struct input *in, const struct cJSON *source, int k, struct err *e)
{
    const char *type = json_str(json_get(source, "media_type"));
    const char *data = json_str(json_get(source, "data")), *url = json_str(json_get(source, "url"));
    struct json_writer *w = &in->w;
    if (!(is(source, "type", "base64") && type != NULL && data != NULL) &&
        !(is(source, "type", "url") && url != NULL)) {
        err_set(e, ERR_INVALID,
                "an image must have a source of the type base64, with media_type and data, or url");
        return blame(in, k, e);
    }
    json_open(w, NULL, '{');
    json_put_str(w, "type", "image_url");
    json_open(w, "image_url", '{');
    if (is(source, "type", "url")) {
        json_put_str(w, "url", url);
    } else {
        struct buf text;
        buf_init(&text, strlen(type) + strlen(data) + 32);
        buf_adds(&text, "data:");
        buf_adds(&text, type);
        buf_adds(&text, ";base64,");
        buf_adds(&text, data);
        json_put_strn(w, "url", buf_str(&text), text.len);
        buf_free(&text);
    }
    json_close(w, '}');
    json_close(w, '}');
    return 0;
}

/* Texts and pictures of a message, or of a result, as a chat's parts; calls, results and thoughts are left out. */
static int put_parts(struct input *in, const struct cJSON *blocks, struct err *e)
{
    static const char *const elsewhere[] = {"tool_use", "tool_result", "thinking",
                                            "redacted_thinking"};
    int k = 0, err = 0;
    json_open(&in->w, "content", '[');
    for (const struct cJSON *b = json_first(blocks); b != NULL && err == 0; b = json_next(b), k++) {
        const char *type = json_str(json_get(b, "type"));
        bool skip = false;
        for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere && type != NULL; i++)
            skip = skip || strcmp(type, elsewhere[i]) == 0;
        if (skip)
            continue;
        if (is(b, "type", "text") && json_str(json_get(b, "text")) != NULL) {
            put_text(&in->w, json_get(b, "text"));
        } else if (is(b, "type", "image")) {
            err = put_picture(in, json_get(b, "source"), k, e);
        } else {
            err_set(e, type != NULL ? ERR_UNSUPPORTED : ERR_INVALID,
                    "a content block must be text, image, tool_use, tool_result or thinking, not "
                    "%.40s",
                    type != NULL ? type : "without a type");
            err = blame(in, k, e);
        }
    }
    json_close(&in->w, ']');
    return err;
}

static int put_content(struct input *in, const struct cJSON *content, struct err *e)
{
    const struct cJSON *first = json_first(content);
    if (json_type(content) == JSON_STRING)
        json_put_node(&in->w, "content", content);
    else if (json_size(content) == 1 && is(first, "type", "text") &&
             json_str(json_get(first, "text")) != NULL) /* for templates that want no more */
        json_put_node(&in->w, "content", json_get(first, "text"));
    else
        return put_parts(in, content, e);
    return 0;
}

static int n_blocks(const struct cJSON *content, const char *type)
{
    int n = 0;
    for (const struct cJSON *b = json_first(content); b != NULL; b = json_next(b))
        n += is(b, "type", type);
    return n;
}

/* ---- messages ---- */

static int put_results(struct input *in, const struct cJSON *content, struct err *e)
{
    int k = 0;
    for (const struct cJSON *b = json_first(content); b != NULL; b = json_next(b), k++) {
        const struct cJSON *id = json_get(b, "tool_use_id"), *said = json_get(b, "content");
        if (!is(b, "type", "tool_result"))
            continue;
        if (json_type(id) != JSON_STRING) {
            err_set(e, ERR_INVALID, "a tool_result must have a tool_use_id that is a string");
            return blame(in, k, e);
        }
        open_message(in, "tool", in->i);
        json_put_node(&in->w, "tool_call_id", id);
        int err = 0;
        if (json_type(said) == JSON_NULL)
            json_put_str(&in->w, "content", "");
        else
            err = put_content(in, said, e);
        if (err != 0)
            return err;
        json_close(&in->w, '}');
    }
    return 0;
}

static int put_calls(struct input *in, const struct cJSON *content, struct err *e)
{
    int k = 0;
    json_open(&in->w, "tool_calls", '[');
    for (const struct cJSON *b = json_first(content); b != NULL; b = json_next(b), k++) {
        const struct cJSON *input = json_get(b, "input");
        struct buf text;
        struct json_writer w;
        if (!is(b, "type", "tool_use"))
            continue;
        if (json_str(json_get(b, "id")) == NULL || json_str(json_get(b, "name")) == NULL ||
            json_type(input) != JSON_OBJECT) {
            err_set(e, ERR_INVALID, "a tool_use must have an id, a name and an input");
            return blame(in, k, e);
        }
        json_open(&in->w, NULL, '{');
        json_put_node(&in->w, "id", json_get(b, "id"));
        json_put_str(&in->w, "type", "function");
        json_open(&in->w, "function", '{');
        json_put_node(&in->w, "name", json_get(b, "name"));
        buf_init(&text, in->w.out->max);
        json_begin(&w, &text);
        json_put_node(&w, NULL, input);
        json_put_strn(&in->w, "arguments", buf_str(&text), text.len);
        buf_free(&text);
        json_close(&in->w, '}');
        json_close(&in->w, '}');
    }
    json_close(&in->w, ']');
    return 0;
}

static int put_message(struct input *in, struct err *e)
{
    const struct cJSON *content = json_get(in->message, "content");
    const char *role = json_str(json_get(in->message, "role"));
    const bool said = is(in->message, "role", "assistant");
    if (!said && !is(in->message, "role", "user") && !is(in->message, "role", "system")) {
        err_set(e, ERR_INVALID, "role must be user or assistant");
        return err_param(e, "messages[%d].role", in->i);
    }
    if (json_type(content) != JSON_STRING && json_type(content) != JSON_ARRAY) {
        err_set(e, ERR_INVALID, "content must be a string or a list of blocks, not %s",
                json_type_name(json_type(content)));
        return err_param(e, "messages[%d].content", in->i);
    }
    const int n_results = said ? 0 : n_blocks(content, "tool_result");
    int err = n_results > 0 ? put_results(in, content, e) : 0;
    if (err != 0 || (n_results > 0 && n_results == json_size(content)))
        return err;
    open_message(in, role, in->i);
    err = put_content(in, content, e);
    if (err == 0 && said && n_blocks(content, "tool_use") > 0)
        err = put_calls(in, content, e);
    json_close(&in->w, '}');
    return err;
}

int messages_input_max(const struct cJSON *body)
{
    int n = 1;
    for (const struct cJSON *m = json_first(json_get(body, "messages")); m != NULL;
         m = json_next(m))
        n += 1 + json_size(json_get(m, "content"));
    return n;
}

static int put_messages(struct input *in, const struct cJSON *body, struct err *e)
{
    const struct cJSON *system = json_get(body, "system"), *list = json_get(body, "messages");
    struct json_writer *w = &in->w;
    int err = 0;
    if (json_type(list) != JSON_ARRAY || json_size(list) == 0) {
        err_set(e, ERR_INVALID, "messages must be a list of messages, and not empty");
        return err_param(e, "messages");
    }
    json_open(w, "messages", '[');
    if (json_type(system) == JSON_STRING || json_size(system) > 0) {
        open_message(in, "system", -1);
        if (put_content(in, system, e) != 0)
            return err_param(e, "system");
        json_close(w, '}');
    } else if (json_type(system) != JSON_NULL && json_type(system) != JSON_ARRAY) {
        err_set(e, ERR_INVALID, "system must be a string or a list of text blocks, not %s",
                json_type_name(json_type(system)));
        return err_param(e, "system");
    }
    const struct cJSON *last = NULL;
    for (const struct cJSON *m = json_first(list); m != NULL && err == 0; m = json_next(m)) {
        in->message = last = m;
        err = put_message(in, e);
        in->i++;
    }
    json_close(w, ']');
    if (is(last, "role", "assistant") && n_blocks(json_get(last, "content"), "tool_use") == 0) {
        json_put_bool(w, "continue_final_message", true);
        json_put_bool(w, "add_generation_prompt", false);
    }
    return err;
}

/* ---- the other fields ---- */

static int put_tools(struct json_writer *w, const struct cJSON *tools, struct err *e)
{
    int i = 0;
    if (json_type(tools) != JSON_ARRAY) { /* tools_read says what is wrong with others */
        if (tools != NULL)
            json_put_node(w, "tools", tools);
        return 0;
    }
    json_open(w, "tools", '[');
    for (const struct cJSON *t = json_first(tools); t != NULL; t = json_next(t), i++) {
        static const char *const keys[][2] = {{"name", "name"},
                                              {"description", "description"},
                                              {"input_schema", "parameters"},
                                              {"strict", "strict"}};
        const char *type = json_str(json_get(t, "type"));
        if (type != NULL && strcmp(type, "custom") != 0) {
            err_set(e, ERR_UNSUPPORTED, "a tool must have the type custom, not %.40s", type);
            return err_param(e, "tools[%d].type", i);
        }
        json_open(w, NULL, '{');
        json_put_str(w, "type", "function");
        json_open(w, "function", '{');
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            if (json_get(t, keys[k][0]) != NULL)
                json_put_node(w, keys[k][1], json_get(t, keys[k][0]));
        json_close(w, '}');
        json_close(w, '}');
    }
    json_close(w, ']');
    return 0;
}

static int put_choice(struct json_writer *w, const struct cJSON *choice, struct err *e)
{
    if (json_type(choice) == JSON_NULL)
        return 0;
    if (is(choice, "type", "tool")) {
        json_open(w, "tool_choice", '{');
        json_put_str(w, "type", "function");
        json_open(w, "function", '{');
        if (json_get(choice, "name") != NULL)
            json_put_node(w, "name", json_get(choice, "name"));
        json_close(w, '}');
        json_close(w, '}');
    } else if (is(choice, "type", "any")) {
        json_put_str(w, "tool_choice", "required");
    } else if (is(choice, "type", "auto") || is(choice, "type", "none")) {
        json_put_node(w, "tool_choice", json_get(choice, "type"));
    } else {
        err_set(e, ERR_INVALID,
                "tool_choice must be an object of the type auto, any, tool or none");
        return err_param(e, "tool_choice");
    }
    if (json_bool(json_get(choice, "disable_parallel_tool_use")))
        json_put_bool(w, "parallel_tool_calls", false);
    return 0;
}

/* output_config.format, or output_format: {"type": "json_schema", "schema"}. */
static int put_format(struct json_writer *w, const struct cJSON *body, struct err *e)
{
    const struct cJSON *format = json_get(json_get(body, "output_config"), "format");
    const char *param = format != NULL ? "output_config.format" : "output_format";
    format = format != NULL ? format : json_get(body, "output_format");
    if (json_type(format) == JSON_NULL)
        return 0;
    if (!is(format, "type", "json_schema") ||
        json_type(json_get(format, "schema")) != JSON_OBJECT) {
        err_set(e, ERR_INVALID, "%s must have the type json_schema and a schema", param);
        return err_param(e, "%s", param);
    }
    json_open(w, "response_format", '{');
    json_put_str(w, "type", "json_schema");
    json_put_node(w, "json_schema", format);
    json_close(w, '}');
    return 0;
}

/* Thoughts are blocks of the answer only where they are asked for, as from Anthropic's servers. */
static int put_thinking(struct json_writer *w, const struct cJSON *body, struct err *e)
{
    const struct cJSON *thinking = json_get(body, "thinking");
    const bool off = is(thinking, "type", "disabled");
    const bool on = is(thinking, "type", "enabled") || is(thinking, "type", "adaptive");
    if (json_type(thinking) != JSON_NULL && !on && !off) {
        err_set(e, ERR_INVALID,
                "thinking must be an object of the type enabled, adaptive or disabled");
        return err_param(e, "thinking");
    }
    json_put_bool(w, "include_reasoning", on && !is(thinking, "display", "omitted"));
    if (off && json_get(body, "chat_template_kwargs") == NULL) {
        json_open(w, "chat_template_kwargs", '{');
        json_put_bool(w, "enable_thinking", false);
        json_close(w, '}');
    }
    return 0;
}

int messages_input_chat(const struct cJSON *body, int *origin, struct buf *out, struct err *e)
{
    const unsigned both = PARAM_CHAT | PARAM_MESSAGES;
    const struct cJSON *stop = json_get(body, "stop_sequences");
    struct input in = {.origin = origin};
    json_begin(&in.w, out);
    json_open(&in.w, NULL, '{');
    for (int i = 0; i < params_n; i++) {
        const struct param *p = &params_table[i];
        const struct cJSON *v = json_get(body, p->name);
        if ((p->where & both) == both && p->kind != PARAM_IGNORED && v != NULL &&
            (stop == NULL || strcmp(p->name, "stop") != 0))
            json_put_node(&in.w, p->name, v);
    }
    if (json_get(body, "max_tokens") != NULL)
        json_put_node(&in.w, "max_completion_tokens", json_get(body, "max_tokens"));
    if (stop != NULL)
        json_put_node(&in.w, "stop", stop);
    int err = put_tools(&in.w, json_get(body, "tools"), e);
    if (err != 0 || (err = put_choice(&in.w, json_get(body, "tool_choice"), e)) != 0 ||
        (err = put_format(&in.w, body, e)) != 0 || (err = put_thinking(&in.w, body, e)) != 0 ||
        (err = put_messages(&in, body, e)) != 0)
        return err;
    json_close(&in.w, '}');
    return out->failed ? err_set(e, ERR_TOOBIG, "the messages are larger than allowed") : 0;
}

void messages_input_blame(const int *origin, int n, struct err *e)
{
    int i = 0, end = 0;
    char rest[sizeof e->param];
    snprintf(rest, sizeof rest, "%s", e->param);
    if (sscanf(rest, "messages[%d]%n", &i, &end) == 1 && end > 0 && i >= 0 && i < n) {
        if (origin[i] < 0)
            err_param(e, "system");
        else
            err_param(e, "messages[%d]%.40s", origin[i], rest + end);
    } else if (sscanf(rest, "tools[%d].function.%n", &i, &end) == 1 && end > 0) {
        const bool schema = strcmp(rest + end, "parameters") == 0;
        err_param(e, "tools[%d].%.40s", i, schema ? "input_schema" : rest + end);
    } else if (strncmp(rest, "stop", 4) == 0) {
        err_param(e, "stop_sequences%.40s", rest + 4);
    } else if (strcmp(rest, "response_format") == 0) {
        err_param(e, "output_config.format");
    } else if (strcmp(rest, "max_completion_tokens") == 0) {
        err_param(e, "max_tokens");
    }
}
