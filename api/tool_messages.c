/* Conversations about tools for templates that know nothing of them: the functions are told in the system's
 * message, calls and results stand in plain messages, unless the template shows these.  And ids as Mistral's
 * templates want them. */
#include <string.h>

#include "api/tools.h"

enum { TEXT_MAX = 64 << 20 };

static const struct json_limits limits = {
    .max_bytes = TEXT_MAX, .max_depth = 96, .max_nodes = 1000000};

static const char *role_of(const struct cJSON *m)
{
    const char *role = json_str(json_get(m, "role"));
    return role != NULL ? role : "";
}

static bool is_role(const struct cJSON *m, const char *role)
{
    return strcmp(role_of(m), role) == 0;
}

static void add_json(struct buf *b, const struct cJSON *v)
{
    struct json_writer w;
    json_begin(&w, b);
    json_put_node(&w, NULL, v);
}

/* ---- told in words ---- */

static void add_tools(struct buf *b, const struct cJSON *tools, const struct tool_format *f)
{
    buf_adds(b, "You can call functions. These are described as JSON, one a line:\n");
    for (const struct cJSON *t = json_first(tools); t != NULL; t = json_next(t)) {
        add_json(b, json_get(t, "function"));
        buf_addc(b, '\n');
    }
    if (f->shape == TOOL_NAMED) {
        buf_printf(b,
                   "To call one, write its name and its arguments as a JSON object like this, and "
                   "nothing behind it:\n%s%sthe function%s{\"an argument\": \"its value\"}%s%s",
                   f->marker, f->open != NULL ? f->open : "", f->after,
                   f->close != NULL ? f->close : "", f->end != NULL ? f->end : "");
        return;
    }
    buf_printf(b,
               "To call one, write its name and arguments as a JSON object like this, and nothing "
               "behind it:\n%s\n{\"name\": \"the function\", \"%s\": {\"an argument\": \"its "
               "value\"}}\n%s",
               f->marker, f->arguments, f->close);
}

static void add_calls(struct buf *b, const struct cJSON *calls, const struct tool_format *f)
{
    for (const struct cJSON *c = json_first(calls); c != NULL; c = json_next(c)) {
        const struct cJSON *fn = json_get(c, "function"), *arguments = json_get(fn, "arguments");
        const char *text = json_str(arguments);
        buf_printf(b, "%s%s\n{\"name\": ", b->len > 0 ? "\n" : "", f->marker);
        add_json(b, json_get(fn, "name"));
        buf_printf(b, ", \"%s\": ", f->arguments);
        if (text != NULL)
            buf_adds(b, text[0] != '\0' ? text : "{}");
        else
            add_json(b, arguments);
        buf_printf(b, "}\n%s", f->close);
    }
}

static void put_message(struct json_writer *w, const char *role, const struct buf *text)
{
    json_open(w, NULL, '{');
    json_put_str(w, "role", role);
    json_put_strn(w, "content", buf_str(text), text->len);
    json_close(w, '}');
}

static void add_text(struct buf *b, const char *text, const char *between)
{
    if (text == NULL || text[0] == '\0')
        return;
    if (b->len > 0)
        buf_adds(b, between);
    buf_adds(b, text);
}

static void flush(struct json_writer *w, struct buf *user)
{
    if (user->len > 0)
        put_message(w, "user", user);
    buf_clear(user);
}

/* Results are the user's words, and so is what the user says after them: many templates want turns.  The
 * functions are told by the system, or where there is none by the user. */
static void put_plain(struct json_writer *w, const struct cJSON *messages,
                      const struct tool_format *f, struct buf *told, bool system_ok)
{
    struct buf text, user;
    buf_init(&text, TEXT_MAX);
    buf_init(&user, TEXT_MAX);
    const struct cJSON *m = json_first(messages);
    const bool own = is_role(m, "system") || is_role(m, "developer");
    if (told->len > 0 && system_ok) {
        if (own)
            add_text(&text, json_str(json_get(m, "content")), "");
        add_text(&text, buf_str(told), "\n\n");
        put_message(w, own ? role_of(m) : "system", &text);
        m = own ? json_next(m) : m;
    } else {
        add_text(&user, buf_str(told), "");
    }
    for (; m != NULL; m = json_next(m)) {
        const char *content = json_str(json_get(m, "content"));
        if (is_role(m, "tool")) {
            buf_printf(&user, "%s<tool_response>\n", user.len > 0 ? "\n" : "");
            buf_adds(&user, content != NULL ? content : "");
            buf_adds(&user, "\n</tool_response>");
        } else if (is_role(m, "user")) {
            add_text(&user, content, "\n\n");
            flush(w, &user);
        } else if (is_role(m, "assistant")) {
            flush(w, &user);
            buf_clear(&text);
            add_text(&text, content, "");
            add_calls(&text, json_get(m, "tool_calls"), f);
            put_message(w, "assistant", &text);
        } else {
            json_put_node(w, NULL, m);
        }
    }
    flush(w, &user);
    told->failed = told->failed || text.failed || user.failed;
    buf_free(&text);
    buf_free(&user);
}

/* The messages as they are, but the first that may tell of the functions does. */
static void put_told(struct json_writer *w, const struct cJSON *messages, struct buf *told,
                     bool by_system)
{
    struct buf text;
    buf_init(&text, TEXT_MAX);
    const struct cJSON *m = json_first(messages);
    if (by_system && !is_role(m, "system") && !is_role(m, "developer")) {
        put_message(w, "system", told);
        buf_clear(told);
    }
    for (; m != NULL; m = json_next(m)) {
        const char *content = json_str(json_get(m, "content"));
        if (told->len == 0 || content == NULL || (!by_system && !is_role(m, "user"))) {
            json_put_node(w, NULL, m);
            continue;
        }
        add_text(&text, by_system ? content : buf_str(told), "");
        add_text(&text, by_system ? buf_str(told) : content, "\n\n");
        put_message(w, role_of(m), &text);
        buf_clear(told);
    }
    told->failed = told->failed || text.failed;
    buf_free(&text);
}

/* ---- ids ---- */

/* The last letters and digits of an id, with zeros in front where there are too few: equal ids stay equal. */
static void put_id(struct json_writer *w, const char *key, const char *id, int n)
{
    char text[33];
    int at = n;
    memset(text, '0', sizeof text);
    for (const char *p = id + strlen(id); p > id && at > 0; p--)
        if ((p[-1] >= '0' && p[-1] <= '9') || (p[-1] >= 'a' && p[-1] <= 'z') ||
            (p[-1] >= 'A' && p[-1] <= 'Z'))
            text[--at] = p[-1];
    json_put_strn(w, key, text, (size_t)n);
}

/* A member of a message or of a call, its id made to fit. */
static void put_member(struct json_writer *w, const struct cJSON *v, int id_chars)
{
    const char *key = json_key(v), *text = json_str(v);
    if (text != NULL && (strcmp(key, "id") == 0 || strcmp(key, "tool_call_id") == 0)) {
        put_id(w, key, text, id_chars);
        return;
    }
    if (strcmp(key, "tool_calls") != 0 || json_type(v) != JSON_ARRAY) {
        json_put_node(w, key, v);
        return;
    }
    json_open(w, key, '[');
    for (const struct cJSON *call = json_first(v); call != NULL; call = json_next(call)) {
        json_open(w, NULL, '{');
        for (const struct cJSON *x = json_first(call); x != NULL; x = json_next(x))
            put_member(w, x, id_chars);
        json_close(w, '}');
    }
    json_close(w, ']');
}

static void put_ids(struct json_writer *w, const struct cJSON *messages, int id_chars)
{
    for (const struct cJSON *m = json_first(messages); m != NULL; m = json_next(m)) {
        json_open(w, NULL, '{');
        for (const struct cJSON *v = json_first(m); v != NULL; v = json_next(v))
            put_member(w, v, id_chars);
        json_close(w, '}');
    }
}

static void put_function(struct json_writer *w, const struct cJSON *fn)
{
    json_open(w, "function", '{');
    for (const struct cJSON *v = json_first(fn); v != NULL; v = json_next(v))
        if (json_type(v) != JSON_NULL)
            json_put_node(w, json_key(v), v);
    if (json_type(json_get(fn, "description")) == JSON_NULL)
        json_put_str(w, "description", "");
    if (json_type(json_get(fn, "parameters")) == JSON_NULL) {
        json_open(w, "parameters", '{');
        json_put_str(w, "type", "object");
        json_open(w, "properties", '{');
        json_close(w, '}');
        json_close(w, '}');
    }
    json_close(w, '}');
}

int tool_messages_complete(const struct cJSON *tools, struct cJSON **doc, struct err *e)
{
    struct buf text;
    struct json_writer w;
    buf_init(&text, TEXT_MAX);
    json_begin(&w, &text);
    json_open(&w, NULL, '[');
    for (const struct cJSON *t = json_first(tools); t != NULL; t = json_next(t)) {
        json_open(&w, NULL, '{');
        json_put_str(&w, "type", "function");
        put_function(&w, json_get(t, "function"));
        json_close(&w, '}');
    }
    json_close(&w, ']');
    int rc = text.failed ? err_set(e, ERR_TOOBIG, "the tools are larger than allowed")
                         : json_parse(doc, text.data, text.len, &limits, e);
    buf_free(&text);
    return rc;
}

static bool speaks_of_tools(const struct cJSON *messages)
{
    for (const struct cJSON *m = json_first(messages); m != NULL; m = json_next(m))
        if (is_role(m, "tool") || json_size(json_get(m, "tool_calls")) > 0)
            return true;
    return false;
}

int tool_messages_rewrite(const struct cJSON *messages, const struct cJSON *tools,
                          const struct tool_format *f, enum tools_told told_by, struct cJSON **doc,
                          struct err *e)
{
    const bool plain = f == &tool_format_generic, tell = told_by != TOOLS_SHOWN && tools != NULL;
    if (plain ? tools == NULL : !tell && (f->id_chars == 0 || !speaks_of_tools(messages)))
        return 0;
    struct buf text, told;
    struct json_writer w;
    buf_init(&text, TEXT_MAX);
    buf_init(&told, TEXT_MAX);
    json_begin(&w, &text);
    json_open(&w, NULL, '[');
    if (tell)
        add_tools(&told, tools, f);
    if (plain)
        put_plain(&w, messages, f, &told, told_by == TOOLS_BY_SYSTEM);
    else if (tell)
        put_told(&w, messages, &told, told_by == TOOLS_BY_SYSTEM);
    else
        put_ids(&w, messages, f->id_chars);
    json_close(&w, ']');
    int rc = text.failed || told.failed
                 ? err_set(e, ERR_TOOBIG, "the messages are larger than allowed")
                 : json_parse(doc, text.data, text.len, &limits, e);
    buf_free(&text);
    buf_free(&told);
    return rc;
}
