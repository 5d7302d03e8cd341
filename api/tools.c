/* Reads what a request says of tools, and builds the grammar of calls:
 *
 *   required   call
 *   auto       text without the marker, and then perhaps calls
 *
 * Text without a marker is the automaton that looks for the marker, a rule for each state: the byte that
 * completes it leads on to the calls. */
#include "api/tools.h"

#include <stdio.h>
#include <string.h>

#include "engine/text/tokenizer.h"

#define SEQ(g, ...)                                                                 \
    grammar_seq(g, (int)(sizeof(grammar_sym[]){__VA_ARGS__} / sizeof(grammar_sym)), \
                (grammar_sym[]){__VA_ARGS__})

enum { MARKER_MAX = 32 };

/* ---- the request ---- */

static bool name_ok(const char *name)
{
    const size_t n = strlen(name);
    return n > 0 && n <= TOOL_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/") == n;
}

static const char *name_of(const struct cJSON *tool)
{
    return json_str(json_get(json_get(tool, "function"), "name"));
}

static int read_tool(const struct cJSON *tool, int i, struct err *e)
{
    const char *type = json_str(json_get(tool, "type")), *name = name_of(tool);
    if (type != NULL && strcmp(type, "function") != 0) {
        err_set(e, ERR_UNSUPPORTED, "a tool must have the type function, not %.40s", type);
        return err_param(e, "tools[%d].type", i);
    }
    if (name == NULL) {
        err_set(e, ERR_INVALID, "a tool must have the type function and a function with a name");
        return err_param(e, "tools[%d].function.name", i);
    }
    if (!name_ok(name)) {
        err_set(e, ERR_INVALID,
                "a function's name has 1 to %d letters, digits and _ - . : /, not \"%.40s\"",
                TOOL_NAME_MAX, name);
        return err_param(e, "tools[%d].function.name", i);
    }
    const struct cJSON *parameters = json_get(json_get(tool, "function"), "parameters");
    const char *kind = json_str(json_get(parameters, "type"));
    if ((json_type(parameters) != JSON_NULL && json_type(parameters) != JSON_OBJECT) ||
        (kind != NULL && strcmp(kind, "object") != 0)) {
        err_set(e, ERR_INVALID, "the parameters of a function must be a schema of the type object");
        return err_param(e, "tools[%d].function.parameters", i);
    }
    return 0;
}

/* Only this function may be called. */
static int allow(const struct cJSON *choice, struct tools *t, struct err *e)
{
    const char *name = name_of(choice);
    int i = 0;
    bool found = false;
    if (name == NULL) {
        err_set(e, ERR_INVALID, "tool_choice must name a function");
        return err_param(e, "tool_choice");
    }
    for (const struct cJSON *v = json_first(t->list); v != NULL; v = json_next(v), i++)
        if (strcmp(name_of(v), name) == 0)
            t->allowed[i] = found = true;
    if (found)
        return 0;
    err_set(e, ERR_INVALID, "tool_choice names %.60s, which is not among the tools", name);
    return err_param(e, "tool_choice");
}

static int read_word(const char *word, struct tools *t, struct err *e)
{
    if (strcmp(word, "none") == 0) {
        t->choice = TOOLS_NONE;
    } else if (strcmp(word, "auto") == 0) {
        t->choice = TOOLS_AUTO;
    } else if (strcmp(word, "required") == 0) {
        t->choice = TOOLS_REQUIRED;
    } else {
        err_set(e, ERR_INVALID,
                "tool_choice must be none, auto, required or a function, not \"%.40s\"", word);
        return err_param(e, "tool_choice");
    }
    return 0;
}

/* {"type": "function", "function": {"name"}}, or {"type": "allowed_tools", "allowed_tools": {"mode", "tools"}}. */
static int read_choice(const struct cJSON *choice, struct tools *t, struct err *e)
{
    const char *type = json_str(json_get(choice, "type"));
    const struct cJSON *some = json_get(choice, "allowed_tools");
    if (type == NULL || (strcmp(type, "function") != 0 && strcmp(type, "allowed_tools") != 0)) {
        err_set(e, ERR_INVALID,
                "tool_choice must be none, auto, required, or an object of the type function or "
                "allowed_tools");
        return err_param(e, "tool_choice");
    }
    memset(t->allowed, 0, sizeof t->allowed);
    if (strcmp(type, "function") == 0) {
        t->choice = TOOLS_REQUIRED;
        t->parallel = false;
        return allow(choice, t, e);
    }
    const char *mode = json_str(json_get(some, "mode"));
    int rc = read_word(mode != NULL ? mode : "auto", t, e);
    if (rc == 0 && json_size(json_get(some, "tools")) == 0) {
        err_set(e, ERR_INVALID, "tool_choice.allowed_tools must have tools");
        rc = err_param(e, "tool_choice");
    }
    for (const struct cJSON *v = json_first(json_get(some, "tools")); v != NULL && rc == 0;
         v = json_next(v))
        rc = allow(v, t, e);
    return rc;
}

int tools_read(const struct cJSON *body, struct tools *t, struct err *e)
{
    *t = (struct tools){.choice = TOOLS_AUTO, .parallel = true};
    const struct cJSON *list = json_get(body, "tools"), *choice = json_get(body, "tool_choice");
    if (json_type(list) != JSON_NULL && json_type(list) != JSON_ARRAY) {
        err_set(e, ERR_INVALID, "tools must be a list of tools, not %s",
                json_type_name(json_type(list)));
        return err_param(e, "tools");
    }
    if (json_size(list) > TOOLS_MAX) {
        err_set(e, ERR_INVALID, "there may be at most %d tools, not %d", TOOLS_MAX,
                json_size(list));
        return err_param(e, "tools");
    }
    int rc = json_get_bool(body, "parallel_tool_calls", &t->parallel, e);
    for (const struct cJSON *v = json_first(list); v != NULL && rc == 0; v = json_next(v)) {
        rc = read_tool(v, t->n, e);
        t->allowed[t->n++] = true;
    }
    t->list = t->n > 0 ? list : NULL;
    if (rc == 0 && json_type(choice) == JSON_STRING)
        rc = read_word(json_str(choice), t, e);
    else if (rc == 0 && json_type(choice) != JSON_NULL)
        rc = read_choice(choice, t, e);
    if (rc == 0 && t->choice == TOOLS_REQUIRED && t->n == 0) {
        err_set(e, ERR_INVALID, "tool_choice asks for a call, but there are no tools");
        return err_param(e, "tool_choice");
    }
    if (t->n == 0 || t->choice == TOOLS_NONE) {
        t->choice = TOOLS_NONE;
        t->list = NULL;
    }
    return rc;
}

/* ---- calls ---- */

/* What the function takes.  A schema that is not strict and has words that nobody here understands is held to
 * without them, or is any object. */
static int arguments(struct schema *s, const struct cJSON *tool, int i, grammar_sym *out,
                     struct err *e)
{
    const struct cJSON *fn = json_get(tool, "function"), *schema = json_get(fn, "parameters");
    const bool strict = json_bool(json_get(fn, "strict"));
    char param[64];
    struct err own = {0};
    *out = s->object;
    if (json_size(schema) == 0)
        return 0;
    snprintf(param, sizeof param, "tools[%d].function.parameters", i);
    s->param = param;
    s->lenient = !strict;
    int rc = schema_value(s, schema, out, &own);
    s->lenient = false;
    s->param = "tools";
    if (rc == ERR_UNSUPPORTED && !strict) {
        *out = s->object;
        return 0;
    }
    if (rc != 0 && e != NULL)
        *e = own;
    return rc;
}

/* One call of one function, without what stands around it. */
static int one_call(const struct tool_format *f, struct schema *s, const struct cJSON *tool, int i,
                    grammar_sym *out, struct err *e)
{
    struct grammar *g = s->g;
    grammar_sym value, sp = s->space, key;
    char text[TOOL_NAME_MAX + 32];
    int rc = arguments(s, tool, i, &value, e);
    if (rc != 0)
        return rc;
    if (f->shape == TOOL_NAMED) {
        snprintf(text, sizeof text, "%s[ARGS]", name_of(tool));
        *out = SEQ(g, grammar_str(g, text), sp, value);
        return 0;
    }
    snprintf(text, sizeof text, "\"%s\"", f->arguments);
    key = grammar_str(g, text);
    snprintf(text, sizeof text, "\"%s\"", name_of(tool));
    *out = SEQ(g, grammar_str(g, text), sp, grammar_str(g, ","), sp, key, sp, grammar_str(g, ":"),
               sp, value, sp, grammar_str(g, "}"));
    return 0;
}

/* What follows the marker: of a bare call, what follows {"name". */
static int after_marker(const struct tools *t, struct schema *s, grammar_sym *out, struct err *e)
{
    const struct tool_format *f = t->format;
    struct grammar *g = s->g;
    grammar_sym sp = s->space, any = grammar_rule(g), more;
    int i = 0;
    for (const struct cJSON *v = json_first(t->list); v != NULL; v = json_next(v), i++) {
        grammar_sym one;
        int rc = t->allowed[i] ? one_call(f, s, v, i, &one, e) : 0;
        if (rc != 0)
            return rc;
        if (t->allowed[i])
            grammar_add(g, any, 1, &one);
    }
    const int most = t->parallel && !f->one ? TOOL_CALLS_MAX - 1 : 0;
    grammar_sym marker = grammar_str(g, f->marker), colon = SEQ(g, sp, grammar_str(g, ":"), sp);
    grammar_sym open = SEQ(g, grammar_str(g, "{"), sp, grammar_str(g, "\"name\""));
    if (f->shape == TOOL_BARE) {
        *out = SEQ(g, colon, any);
        return 0;
    }
    if (f->shape == TOOL_NAMED) {
        *out = SEQ(g, any, grammar_repeat(g, SEQ(g, sp, marker, any), 0, most));
        return 0;
    }
    grammar_sym call = SEQ(g, open, colon, any);
    if (f->shape == TOOL_LIST) {
        more = grammar_repeat(g, SEQ(g, grammar_str(g, ","), sp, call, sp), 0, most);
        *out = SEQ(g, sp, grammar_str(g, "["), sp, call, sp, more, grammar_str(g, "]"));
        return 0;
    }
    call = SEQ(g, sp, call, sp, grammar_str(g, f->close));
    *out = SEQ(g, call, grammar_repeat(g, SEQ(g, sp, marker, call), 0, most));
    return 0;
}

/* ---- text without calls ---- */

static void set_byte(struct grammar_set *set, unsigned char b)
{
    set->bits[b / 32] |= 1U << b % 32;
}

/* Every byte but those of the text. */
static grammar_sym none_of(struct grammar *g, const char *text)
{
    struct grammar_set set;
    memset(&set, 0xff, sizeof set);
    for (; *text != '\0'; text++)
        set.bits[(unsigned char)*text / 32] &= ~(1U << (unsigned char)*text % 32);
    return grammar_one_of(g, &set);
}

/* How much of the marker the text ends with, which ended with k bytes of it before the byte b. */
static int marker_next(const char *marker, int k, unsigned char b)
{
    char text[MARKER_MAX + 1];
    memcpy(text, marker, (size_t)k);
    text[k] = (char)b;
    for (int n = k + 1; n > 0; n--)
        if (memcmp(text + k + 1 - n, marker, (size_t)n) == 0)
            return n;
    return 0;
}

static grammar_sym until_marker(struct grammar *g, const char *marker, grammar_sym after)
{
    const int m = (int)strlen(marker);
    grammar_sym states[MARKER_MAX + 1];
    for (int k = 0; k < m; k++)
        states[k] = grammar_rule(g);
    states[m] = after;
    for (int k = 0; k < m; k++) {
        grammar_add(g, states[k], 0, NULL);
        for (int to = 0; to <= k + 1; to++) {
            struct grammar_set set = {{0}};
            int n = 0;
            for (int b = 0; b < 256; b++)
                if (marker_next(marker, k, (unsigned char)b) == to) {
                    set_byte(&set, (unsigned char)b);
                    n++;
                }
            if (n > 0)
                grammar_add(g, states[k], 2, (grammar_sym[]){grammar_one_of(g, &set), states[to]});
        }
    }
    return states[0];
}

/* Texts that do not begin with this one, which may be followed by any. */
static grammar_sym not_beginning(struct grammar *g, const char *text, grammar_sym any)
{
    grammar_sym rest = grammar_rule(g); /* without an alternative: nothing */
    for (int i = (int)strlen(text) - 1; i >= 0; i--) {
        const char c[2] = {text[i], '\0'};
        grammar_sym rule = grammar_rule(g);
        grammar_add(g, rule, 0, NULL);
        grammar_add(g, rule, 2, (grammar_sym[]){none_of(g, c), any});
        grammar_add(g, rule, 2, (grammar_sym[]){grammar_str(g, c), rest});
        rest = rule;
    }
    return rest;
}

/* Texts that do not begin as a bare call does: white space, {, white space, "name"; or the marker. */
static grammar_sym not_bare(struct grammar *g, const char *marker)
{
    struct grammar_set all, space = {{0}};
    memset(&all, 0xff, sizeof all);
    for (const char *p = " \t\r\n"; *p != '\0'; p++)
        set_byte(&space, (unsigned char)*p);
    grammar_sym any = grammar_repeat(g, grammar_one_of(g, &all), 0, -1);
    grammar_sym blank = grammar_one_of(g, &space);
    grammar_sym first = grammar_rule(g), inner = grammar_rule(g);
    const char heads[] = {' ', '\t', '\r', '\n', '{', marker[0], '\0'};
    grammar_add(g, first, 0, NULL);
    grammar_add(g, first, 2, (grammar_sym[]){blank, first});
    grammar_add(g, first, 2, (grammar_sym[]){none_of(g, heads), any});
    grammar_add(g, first, 2, (grammar_sym[]){grammar_str(g, "{"), inner});
    grammar_add(
        g, first, 2,
        (grammar_sym[]){grammar_range(g, (unsigned char)marker[0], (unsigned char)marker[0]),
                        not_beginning(g, marker + 1, any)});
    grammar_add(g, inner, 0, NULL);
    grammar_add(g, inner, 2, (grammar_sym[]){blank, inner});
    grammar_add(g, inner, 2, (grammar_sym[]){none_of(g, " \t\r\n\""), any});
    grammar_add(g, inner, 2,
                (grammar_sym[]){grammar_str(g, "\""), not_beginning(g, "name\"", any)});
    return first;
}

int tools_symbol(const struct tools *t, grammar_sym form, struct schema *s, grammar_sym *out,
                 struct err *e)
{
    const struct tool_format *f = t->format;
    grammar_sym after;
    int rc = s->g == NULL ? schema_open(s, s->arena, "tools", e) : 0;
    s->param = "tools";
    if (rc == 0)
        rc = after_marker(t, s, &after, e);
    if (rc != 0)
        return rc;
    struct grammar *g = s->g;
    grammar_sym marker = grammar_str(g, f->marker), sp = s->space;
    grammar_sym forced = SEQ(g, sp, marker, after);
    if (f->shape == TOOL_BARE)
        forced = SEQ(g, sp, grammar_repeat(g, SEQ(g, marker, sp), 0, 1), grammar_str(g, "{"), sp,
                     grammar_str(g, "\"name\""), after);
    *out = forced;
    if (t->choice == TOOLS_REQUIRED)
        return 0;
    if (form == 0 && f->shape != TOOL_BARE) {
        *out = until_marker(g, f->marker, after);
        return 0;
    }
    *out = grammar_rule(g);
    form = form != 0 ? form : not_bare(g, f->marker);
    grammar_add(g, *out, 1, &forced);
    grammar_add(g, *out, 1, &form);
    return 0;
}

void tools_show(const struct tool_format *f, const struct tokenizer *t, struct grammar *g)
{
    const char *const texts[] = {f->marker, f->close, f->shape == TOOL_NAMED ? "[ARGS]" : NULL};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const int32_t id = texts[i] != NULL ? tokenizer_find(t, texts[i], strlen(texts[i])) : -1;
        if (id >= 0 && tokenizer_is_control(t, id))
            grammar_show(g, id);
    }
}
