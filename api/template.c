/* Chat templates on top of the Jinja renderer: the variables that transformers gives them, and
 * messages brought into the form that the template reads. */
#include <stdlib.h>
#include <string.h>

#include "api/jinja.h"
#include "api/template.h"
#include "api/tool_format.h"
#include "base/arena.h"
#include "base/json.h"

struct template
{
    struct jinja *jinja;
    struct jinja_limits limits;      /* of a render */
    char *bos, *eos;                 /* NULL: not defined in the template */
    bool parts;                      /* reads content as [{"type": "text", "text": ...}] only */
    bool text_arguments;             /* reads the arguments of a tool call as a string */
    bool system;                     /* shows what the system says */
    const struct tool_format *tools; /* NULL: shows no calls, or in an unknown way */
    bool shows_tools, thinks;
    bool no_null[2]; /* cannot show an assistant's null content; [1]: one that calls tools */
};

/* A trial is two messages; the longest template of tests/fixtures takes fewer than 300 steps for it. */
enum { MAX_KWARGS = 32, MAX_VARS = MAX_KWARGS + 8, TRIAL_STEPS = 20000 };

static const char chatml[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/* Messages after rewriting: larger than any body a server takes. */
static const struct json_limits rewritten_limits = {
    .max_bytes = 32 << 20,
    .max_depth = 96,
    .max_nodes = 1000000,
};

/* ---- messages in the form the template wants ---- */

static bool is_text_parts(const struct cJSON *content)
{
    for (const struct cJSON *p = json_first(content); p; p = json_next(p)) {
        if (!json_str(json_get(p, "text")))
            return false;
    }
    return json_type(content) == JSON_ARRAY;
}

/* An assistant's null is the template's none, as transformers has it, where the template can show
 * that; everybody else's null is "". */
static bool null_is_empty(const struct template *t, const struct cJSON *message)
{
    const char *role = json_str(json_get(message, "role"));
    bool assistant = role && strcmp(role, "assistant") == 0;
    return !assistant || t->no_null[json_size(json_get(message, "tool_calls")) > 0];
}

static void put_content(struct json_writer *w, const struct template *t,
                        const struct cJSON *message, const struct cJSON *content)
{
    const char *s = json_str(content);
    if (json_type(content) == JSON_NULL && null_is_empty(t, message))
        s = "";
    if (s && t->parts) {
        json_open(w, "content", '[');
        json_open(w, NULL, '{');
        json_put_str(w, "type", "text");
        json_put_str(w, "text", s);
        json_close(w, '}');
        json_close(w, ']');
    } else if (s) {
        json_put_str(w, "content", s);
    } else if (!t->parts && is_text_parts(content)) {
        struct buf text;
        buf_init(&text, rewritten_limits.max_bytes);
        for (const struct cJSON *p = json_first(content); p; p = json_next(p)) {
            if (p != json_first(content))
                buf_addc(&text, '\n');
            buf_adds(&text, json_str(json_get(p, "text")));
        }
        json_put_strn(w, "content", buf_str(&text), text.len);
        buf_free(&text);
    } else {
        json_put_node(w, "content", content);
    }
}

static void put_arguments(struct json_writer *w, const struct template *t, const struct cJSON *v)
{
    const char *s = json_str(v);
    struct cJSON *doc = NULL;
    if (t->text_arguments && json_type(v) == JSON_OBJECT) {
        struct buf text;
        struct json_writer inner;
        buf_init(&text, rewritten_limits.max_bytes);
        json_begin(&inner, &text);
        json_put_node(&inner, NULL, v);
        json_put_strn(w, "arguments", buf_str(&text), text.len);
        buf_free(&text);
    } else if (!t->text_arguments && s &&
               json_parse(&doc, s, strlen(s), &rewritten_limits, NULL) == 0 &&
               json_type(doc) == JSON_OBJECT) {
        json_put_node(w, "arguments", doc);
    } else {
        json_put_node(w, "arguments", v);
    }
    json_free(doc);
}

static void put_tool_call(struct json_writer *w, const struct template *t, const struct cJSON *call)
{
    if (json_type(call) != JSON_OBJECT) {
        json_put_node(w, NULL, call);
        return;
    }
    json_open(w, NULL, '{');
    for (const struct cJSON *v = json_first(call); v; v = json_next(v)) {
        if (strcmp(json_key(v), "function") != 0 || json_type(v) != JSON_OBJECT) {
            json_put_node(w, json_key(v), v);
            continue;
        }
        json_open(w, "function", '{');
        for (const struct cJSON *f = json_first(v); f; f = json_next(f)) {
            if (strcmp(json_key(f), "arguments") == 0)
                put_arguments(w, t, f);
            else
                json_put_node(w, json_key(f), f);
        }
        json_close(w, '}');
    }
    json_close(w, '}');
}

static void put_message(struct json_writer *w, const struct template *t, const struct cJSON *m)
{
    if (json_type(m) != JSON_OBJECT) {
        json_put_node(w, NULL, m);
        return;
    }
    json_open(w, NULL, '{');
    for (const struct cJSON *v = json_first(m); v; v = json_next(v)) {
        if (strcmp(json_key(v), "content") == 0) {
            put_content(w, t, m, v);
        } else if (strcmp(json_key(v), "tool_calls") == 0 && json_type(v) == JSON_ARRAY) {
            json_open(w, "tool_calls", '[');
            for (const struct cJSON *call = json_first(v); call; call = json_next(call))
                put_tool_call(w, t, call);
            json_close(w, ']');
        } else {
            json_put_node(w, json_key(v), v);
        }
    }
    json_close(w, '}');
}

static bool message_differs(const struct template *t, const struct cJSON *m)
{
    const struct cJSON *content = json_get(m, "content");
    enum json_type type = json_type(content);
    if (json_size(json_get(m, "tool_calls")) > 0)
        return true;
    return (content && type == JSON_NULL) || (type == JSON_STRING && t->parts) ||
           (type == JSON_ARRAY && !t->parts);
}

/* *doc stays NULL when the messages can be used as they are. */
static int rewrite(const struct template *t, const struct cJSON *messages, struct cJSON **doc,
                   struct err *e)
{
    bool differs = false;
    for (const struct cJSON *m = json_first(messages); m && !differs; m = json_next(m))
        differs = message_differs(t, m);
    if (!differs)
        return 0;
    struct buf text;
    struct json_writer w;
    buf_init(&text, rewritten_limits.max_bytes);
    json_begin(&w, &text);
    json_open(&w, NULL, '[');
    for (const struct cJSON *m = json_first(messages); m && !text.failed; m = json_next(m))
        put_message(&w, t, m);
    json_close(&w, ']');
    int rc = text.failed ? err_set(e, ERR_TOOBIG, "the messages are too long")
                         : json_parse(doc, text.data, text.len, &rewritten_limits, e);
    buf_free(&text);
    return rc;
}

/* ---- variables ---- */

static bool is_reserved(const char *name)
{
    static const char *const names[] = {"messages",  "tools",           "bos_token",
                                        "eos_token", "raise_exception", "add_generation_prompt",
                                        "range",     "namespace",       "dict",
                                        "loop",      "strftime_now"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

static int add_kwargs(struct jinja_var *vars, int *n, const struct cJSON *kwargs, struct err *e)
{
    if (json_type(kwargs) != JSON_NULL && json_type(kwargs) != JSON_OBJECT)
        return err_set(e, ERR_INVALID, "chat_template_kwargs must be an object");
    if (json_size(kwargs) > MAX_KWARGS)
        return err_set(e, ERR_TOOBIG, "chat_template_kwargs has more than %d members", MAX_KWARGS);
    for (const struct cJSON *v = json_first(kwargs); v; v = json_next(v)) {
        if (is_reserved(json_key(v))) {
            err_set(e, ERR_INVALID, "chat_template_kwargs cannot set %.64s", json_key(v));
            return err_param(e, "chat_template_kwargs");
        }
        vars[(*n)++] = (struct jinja_var){.name = json_key(v), .type = JINJA_VAR_JSON, .json = v};
    }
    return 0;
}

static struct jinja_var var_str(const char *name, const char *s)
{
    return (struct jinja_var){.name = name, .type = JINJA_VAR_STR, .str = s};
}

int template_render(const struct template *t, const struct cJSON *messages,
                    const struct cJSON *tools, const struct cJSON *extra_kwargs,
                    bool add_generation_prompt, struct buf *out, struct err *e)
{
    struct jinja_var vars[MAX_VARS];
    int n = 0;
    struct cJSON *doc = NULL;
    int rc = rewrite(t, messages, &doc, e);
    if (rc != 0)
        return rc;
    bool has_tools = json_type(tools) == JSON_ARRAY;
    vars[n++] = (struct jinja_var){
        .name = "messages", .type = JINJA_VAR_JSON, .json = doc ? doc : messages};
    vars[n++] = (struct jinja_var){
        .name = "tools", .type = has_tools ? JINJA_VAR_JSON : JINJA_VAR_NONE, .json = tools};
    vars[n++] = (struct jinja_var){.name = "documents", .type = JINJA_VAR_NONE};
    vars[n++] = (struct jinja_var){
        .name = "add_generation_prompt", .type = JINJA_VAR_BOOL, .flag = add_generation_prompt};
    if (t->bos)
        vars[n++] = var_str("bos_token", t->bos);
    if (t->eos)
        vars[n++] = var_str("eos_token", t->eos);
    rc = add_kwargs(vars, &n, extra_kwargs, e);
    if (rc == 0)
        rc = jinja_render(t->jinja, vars, n, &t->limits, out, e);
    json_free(doc);
    return rc;
}

/* ---- what the template reads ---- */

#define NEEDLE "duetto-needle"

/* The prompt of a trial conversation into out; false when the template refuses it. */
static bool trial(const struct template *t, const char *messages, const char *tools,
                  struct buf *out)
{
    struct cJSON *doc = NULL, *list = NULL;
    struct jinja_var vars[MAX_VARS];
    int n = 0;
    buf_init(out, 1 << 20);
    if (json_parse(&doc, messages, strlen(messages), NULL, NULL) != 0)
        return false;
    if (tools && json_parse(&list, tools, strlen(tools), NULL, NULL) != 0) {
        json_free(doc);
        return false;
    }
    vars[n++] = (struct jinja_var){.name = "messages", .type = JINJA_VAR_JSON, .json = doc};
    vars[n++] = (struct jinja_var){
        .name = "tools", .type = list ? JINJA_VAR_JSON : JINJA_VAR_NONE, .json = list};
    vars[n++] = (struct jinja_var){.name = "documents", .type = JINJA_VAR_NONE};
    vars[n++] = (struct jinja_var){.name = "add_generation_prompt", .type = JINJA_VAR_BOOL};
    vars[n++] = var_str("bos_token", t->bos ? t->bos : "");
    vars[n++] = var_str("eos_token", t->eos ? t->eos : "");
    struct jinja_limits few = jinja_limits_default;
    few.max_steps = TRIAL_STEPS;
    int rc = jinja_render(t->jinja, vars, n, &few, out, NULL);
    json_free(doc);
    json_free(list);
    return rc == 0;
}

/* Whether the text of a message, or an argument, shows in the prompt. */
static bool trial_shows(const struct template *t, const char *messages)
{
    struct buf out;
    bool shows = trial(t, messages, NULL, &out) && strstr(buf_str(&out), NEEDLE) != NULL;
    buf_free(&out);
    return shows;
}

/* Whether it becomes a prompt without the word that Jinja prints for none. */
static bool trial_is_clean(const struct template *t, const char *messages)
{
    struct buf out;
    bool clean = trial(t, messages, NULL, &out) && strstr(buf_str(&out), "None") == NULL;
    buf_free(&out);
    return clean;
}

/* A conversation with one tool call; its id has the nine characters that Mistral wants. */
#define TOOL_TRIAL(content, arguments)                                                          \
    "[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":" content ","   \
    "\"tool_calls\":[{\"id\":\"call12345\",\"type\":\"function\",\"function\":{\"name\":\"f\"," \
    "\"arguments\":" arguments "}}]}]"
#define AS_OBJECT "{\"a\":\"" NEEDLE "\"}"
#define AS_TEXT   "\"{\\\"a\\\":\\\"" NEEDLE "\\\"}\""

#define SYSTEM_TRIAL(content)                         \
    "[{\"role\":\"system\",\"content\":" content "}," \
    "{\"role\":\"user\",\"content\":\"x\"}]"

#define NULL_TRIAL(content)                   \
    "[{\"role\":\"user\",\"content\":\"x\"}," \
    "{\"role\":\"assistant\",\"content\":" content "}]"

/* A function by the name that is looked for. */
#define TOOLS_TRIAL                                                                        \
    "[{\"type\":\"function\",\"function\":{\"name\":\"" NEEDLE "\",\"description\":\"d\"," \
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\","      \
    "\"description\":\"d\"}},\"required\":[\"a\"]}}}]"

static bool trial_shows_tools(const struct template *t)
{
    struct buf out;
    bool shows = trial(t, "[{\"role\":\"user\",\"content\":\"x\"}]", TOOLS_TRIAL, &out) &&
                 strstr(buf_str(&out), NEEDLE) != NULL;
    buf_free(&out);
    return shows;
}

static void find_wishes(struct template *t)
{
    t->parts =
        !trial_shows(t, "[{\"role\":\"user\",\"content\":\"" NEEDLE "\"}]") &&
        trial_shows(t, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"" NEEDLE
                       "\"}]}]");
    t->system =
        trial_shows(t, t->parts ? SYSTEM_TRIAL("[{\"type\":\"text\",\"text\":\"" NEEDLE "\"}]")
                                : SYSTEM_TRIAL("\"" NEEDLE "\""));
    t->text_arguments = !trial_shows(t, TOOL_TRIAL("\"\"", AS_OBJECT)) &&
                        trial_shows(t, TOOL_TRIAL("\"\"", AS_TEXT));
    t->no_null[0] = !trial_is_clean(t, NULL_TRIAL("null")) && trial_is_clean(t, NULL_TRIAL("\"\""));
    t->no_null[1] = t->text_arguments ? !trial_is_clean(t, TOOL_TRIAL("null", AS_TEXT)) &&
                                            trial_is_clean(t, TOOL_TRIAL("\"\"", AS_TEXT))
                                      : !trial_is_clean(t, TOOL_TRIAL("null", AS_OBJECT)) &&
                                            trial_is_clean(t, TOOL_TRIAL("\"\"", AS_OBJECT));
    t->shows_tools = t->tools && trial_shows_tools(t);
    /* what only shows calls is of use where these are written in a way that words can tell */
    if (!t->shows_tools && t->tools &&
        (t->tools->shape != TOOL_NAMED || !trial_shows(t, TOOL_TRIAL("null", AS_TEXT))))
        t->tools = NULL;
}

const struct tool_format *template_tools(const struct template *t)
{
    return t->tools;
}

bool template_shows_tools(const struct template *t)
{
    return t->shows_tools;
}

bool template_thinks(const struct template *t)
{
    return t->thinks;
}

bool template_takes_system(const struct template *t)
{
    return t->system;
}

bool template_wants_parts(const struct template *t)
{
    return t->parts;
}

bool template_wants_text_arguments(const struct template *t)
{
    return t->text_arguments;
}

bool template_takes_null(const struct template *t, bool calls_tools)
{
    return !t->no_null[calls_tools];
}

int template_open(struct template **out, const char *src, size_t len, const char *bos,
                  const char *eos, struct err *e)
{
    struct jinja *jinja;
    int rc = jinja_parse(&jinja, src ? src : chatml, src ? len : sizeof chatml - 1, NULL, e);
    if (rc != 0)
        return rc;
    struct template *t = xcalloc(1, sizeof *t);
    t->jinja = jinja;
    t->limits = jinja_limits_default;
    t->tools = src ? tool_format_find(src) : NULL;
    t->thinks = src && (strstr(src, "<think>") || strstr(src, "</think>"));
    t->bos = bos ? xstrdup(bos) : NULL;
    t->eos = eos ? xstrdup(eos) : NULL;
    find_wishes(t);
    *out = t;
    return 0;
}

void template_limit(struct template *t, int64_t max_steps)
{
    t->limits.max_steps = max_steps;
}

void template_close(struct template *t)
{
    if (!t)
        return;
    jinja_free(t->jinja);
    free(t->bos);
    free(t->eos);
    free(t);
}
