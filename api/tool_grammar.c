/* The grammar of answers that call functions:
 *
 *   required   call
 *   auto       text without the marker, and then perhaps calls
 *
 * Text without a marker is the automaton that looks for the marker, a rule for each state: the byte that
 * completes it leads on to the calls. */
#include <stdio.h>
#include <string.h>

#include "api/tools.h"
#include "engine/text/tokenizer.h"

#define SEQ(g, ...)                                                                 \
    grammar_seq(g, (int)(sizeof(grammar_sym[]){__VA_ARGS__} / sizeof(grammar_sym)), \
                (grammar_sym[]){__VA_ARGS__})

enum {
    MARKER_MAX = 40,
    LOOKS_MAX = 256,         /* schemas that are looked at for one parameter */
    JSON_NAMES_MAX = 1 << 20 /* bytes */
};

/* What calls are made of. */
struct calls {
    const struct tool_format *f;
    struct schema *s;
    grammar_sym text; /* TOOL_PARAMS: a value that is a text, and what ends it */
};

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

grammar_sym tool_grammar_until(struct grammar *g, const char *marker, grammar_sym after,
                               bool may_stop)
{
    const int m = (int)strlen(marker);
    grammar_sym states[MARKER_MAX + 1];
    for (int k = 0; k < m; k++)
        states[k] = grammar_rule(g);
    states[m] = after;
    for (int k = 0; k < m; k++) {
        int next[256]; /* of each byte */
        for (int b = 0; b < 256; b++)
            next[b] =
                b != 0 && strchr(marker, b) != NULL ? marker_next(marker, k, (unsigned char)b) : 0;
        if (may_stop)
            grammar_add(g, states[k], 0, NULL);
        for (int to = 0; to <= k + 1; to++) {
            struct grammar_set set = {{0}};
            int n = 0;
            for (int b = 0; b < 256; b++)
                if (next[b] == to) {
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

/* ---- parameters that stand by themselves ---- */

/* Their schemas; NULL when the function takes what is not simply named. */
static const struct cJSON *properties(const struct cJSON *schema)
{
    static const char *const more[] = {"allOf", "anyOf", "oneOf", "$ref"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        if (json_get(schema, more[i]) != NULL)
            return NULL;
    const struct cJSON *props = json_get(schema, "properties");
    return json_type(props) == JSON_OBJECT ? props : NULL;
}

static bool is_string(const struct cJSON *v)
{
    return json_str(v) != NULL && strcmp(json_str(v), "string") == 0;
}

/* May the value be a text?  Where nothing is said, or more than *left schemas would have to be looked at (they may
 * refer to each other in circles), it may. */
static bool may_be_text(const struct schema *s, const struct cJSON *v, int *left)
{
    const char *ref = json_str(json_get(v, "$ref"));
    if ((*left)-- <= 0)
        return true;
    if (ref != NULL)
        return may_be_text(s, schema_follow(s, ref), left);
    const struct cJSON *type = json_get(v, "type"), *list = json_get(v, "enum"), *x;
    if (json_type(type) == JSON_STRING)
        return is_string(type);
    if (list == NULL && json_get(v, "const") != NULL)
        return json_str(json_get(v, "const")) != NULL;
    bool any = json_size(type) == 0 && list == NULL;
    for (x = json_first(type); x != NULL; x = json_next(x))
        any = any || is_string(x);
    for (x = json_first(list); x != NULL; x = json_next(x))
        any = any || json_str(x) != NULL;
    static const char *const words[] = {"anyOf", "oneOf"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (json_size(json_get(v, words[i])) > 0) {
            any = false;
            for (x = json_first(json_get(v, words[i])); x != NULL; x = json_next(x))
                any = any || may_be_text(s, x, left);
        }
    return any;
}

/* A parameter whose value may be a text is written as it is; all others are JSON. */
static bool is_text(const struct schema *s, const struct cJSON *v)
{
    int left = LOOKS_MAX;
    return may_be_text(s, v, &left);
}

/* The texts of an enum or const, where all are texts that could not be taken for the end; 0: there are none. */
static grammar_sym choices(const struct schema *s, const struct cJSON *v)
{
    const struct cJSON *list = json_get(v, "enum"), *one = json_get(v, "const");
    grammar_sym any = grammar_rule(s->g);
    if (json_str(one) != NULL && json_str(one)[0] != '\0' && strchr(json_str(one), '<') == NULL)
        return grammar_str(s->g, json_str(one));
    for (const struct cJSON *x = json_first(list); x != NULL; x = json_next(x)) {
        if (json_str(x) == NULL || json_str(x)[0] == '\0' || strchr(json_str(x), '<') != NULL)
            return 0;
        grammar_sym text = grammar_str(s->g, json_str(x));
        grammar_add(s->g, any, 1, &text);
    }
    return json_size(list) > 0 ? any : 0;
}

/* A parameter from its name on. */
static int one_param(const struct calls *c, const struct cJSON *v, grammar_sym *out, struct err *e)
{
    const struct tool_format *f = c->f;
    struct schema *s = c->s;
    struct grammar *g = s->g;
    const grammar_sym end = grammar_str(g, f->param_end);
    const bool text = is_text(s, v);
    grammar_sym value = text ? choices(s, v) : 0;
    int rc = 0;
    if (value == 0 && text) {
        value = c->text;
    } else {
        if (value == 0)
            rc = schema_node(s, v, &value, e);
        value = SEQ(g, value, end);
    }
    *out = SEQ(g, grammar_str(g, f->param), grammar_str(g, json_key(v)), grammar_str(g, f->value),
               value);
    return rc;
}

/* Parameters of any names, each a text. */
static grammar_sym free_params(const struct calls *c)
{
    struct grammar *g = c->s->g;
    const struct tool_format *f = c->f;
    grammar_sym name = none_of(g, "<>\"\\\n\r\t");
    grammar_sym one = SEQ(g, grammar_str(g, f->param), grammar_repeat(g, name, 1, TOOL_NAME_MAX),
                          grammar_str(g, f->value), c->text);
    return grammar_repeat(g, one, 0, -1);
}

static bool is_required(const struct cJSON *schema, const char *name)
{
    for (const struct cJSON *x = json_first(json_get(schema, "required")); x != NULL;
         x = json_next(x))
        if (json_str(x) != NULL && strcmp(json_str(x), name) == 0)
            return true;
    return false;
}

/* All parameters of a function, in the order of its schema. */
static int parameters(const struct calls *c, const struct cJSON *schema, grammar_sym *out,
                      struct err *e)
{
    struct schema *s = c->s;
    struct grammar *g = s->g;
    const struct cJSON *props = properties(schema),
                       *extra = json_get(schema, "additionalProperties");
    int rc = 0;
    s->root = schema;
    s->n_refs = 0;
    *out = grammar_seq(g, 0, NULL);
    for (const struct cJSON *v = json_first(props); v != NULL && rc == 0; v = json_next(v)) {
        grammar_sym one = 0;
        rc = schema_check_text(s, "a name", json_key(v), strlen(json_key(v)), e);
        if (rc == 0)
            rc = one_param(c, v, &one, e);
        if (rc == 0)
            *out =
                SEQ(g, *out, is_required(schema, json_key(v)) ? one : grammar_repeat(g, one, 0, 1));
    }
    if (props == NULL || json_type(extra) == JSON_OBJECT || json_bool(extra))
        *out = SEQ(g, *out, free_params(c));
    return rc;
}

int tool_grammar_json(const struct tools *t, struct arena *arena, const char **out, struct err *e)
{
    struct schema s = {.arena = arena};
    struct buf b;
    *out = NULL;
    if (t->format->shape != TOOL_PARAMS)
        return 0;
    buf_init(&b, JSON_NAMES_MAX);
    for (const struct cJSON *tool = json_first(t->list); tool != NULL; tool = json_next(tool)) {
        s.root = json_get(json_get(tool, "function"), "parameters");
        for (const struct cJSON *v = json_first(properties(s.root)); v != NULL; v = json_next(v))
            if (!is_text(&s, v)) {
                buf_add(&b, tools_name(tool), strlen(tools_name(tool)) + 1);
                buf_add(&b, json_key(v), strlen(json_key(v)) + 1);
            }
    }
    buf_addc(&b, '\0');
    char *names = b.failed ? NULL : arena_alloc(arena, b.len);
    if (names != NULL)
        memcpy(names, b.data, b.len);
    buf_free(&b);
    *out = names;
    return names != NULL ? 0 : err_set(e, ERR_TOOBIG, "the tools are larger than allowed");
}

/* ---- calls ---- */

/* What the function takes.  A schema that is not strict and has words that nobody here understands is held to
 * without them, or is any object. */
static int arguments(const struct calls *c, const struct cJSON *tool, int i, grammar_sym *out,
                     struct err *e)
{
    const struct tool_format *f = c->f;
    struct schema *s = c->s;
    const struct cJSON *fn = json_get(tool, "function"), *schema = json_get(fn, "parameters");
    const bool strict = json_bool(json_get(fn, "strict"));
    char param[64];
    struct err own = {0};
    const bool named = f->shape == TOOL_PARAMS;
    *out = named ? free_params(c) : s->object;
    if (json_size(schema) == 0)
        return 0;
    snprintf(param, sizeof param, "tools[%d].function.parameters", i);
    s->param = param;
    s->lenient = !strict;
    int rc = named ? parameters(c, schema, out, &own) : schema_value(s, schema, out, &own);
    s->lenient = false;
    s->param = "tools";
    if (rc == ERR_UNSUPPORTED && !strict) {
        *out = named ? free_params(c) : s->object;
        return 0;
    }
    if (rc != 0 && e != NULL)
        *e = own;
    return rc;
}

/* One call of one function, without what stands around it. */
static int one_call(const struct calls *c, const struct cJSON *tool, int i, grammar_sym *out,
                    struct err *e)
{
    const struct tool_format *f = c->f;
    struct schema *s = c->s;
    struct grammar *g = s->g;
    grammar_sym value, sp = s->space, key;
    char text[TOOL_NAME_MAX + 32];
    int rc = arguments(c, tool, i, &value, e);
    if (rc != 0)
        return rc;
    if (f->shape == TOOL_NAMED || f->shape == TOOL_PARAMS) {
        grammar_sym name = grammar_str(g, tools_name(tool)), after = grammar_str(g, f->after);
        *out = SEQ(g, name, after, value, grammar_str(g, f->close != NULL ? f->close : ""));
        return 0;
    }
    snprintf(text, sizeof text, "\"%s\"", f->arguments);
    key = grammar_str(g, text);
    snprintf(text, sizeof text, "\"%s\"", tools_name(tool));
    *out = SEQ(g, grammar_str(g, text), sp, grammar_str(g, ","), sp, key, sp, grammar_str(g, ":"),
               sp, value, sp, grammar_str(g, "}"));
    return 0;
}

/* What follows the marker, of calls that say the function's name before its arguments. */
static grammar_sym named_calls(const struct calls *c, grammar_sym any, int most)
{
    const struct tool_format *f = c->f;
    struct schema *s = c->s;
    struct grammar *g = s->g;
    const bool each = f->open == NULL || f->shape == TOOL_PARAMS; /* the marker begins every call */
    const grammar_sym none = grammar_seq(g, 0, NULL), sp = s->space;
    const grammar_sym open = f->open != NULL ? grammar_str(g, f->open) : none;
    const grammar_sym again = each ? SEQ(g, grammar_str(g, f->marker), open) : open;
    return SEQ(g, open, any, grammar_repeat(g, SEQ(g, sp, again, any), 0, most),
               f->end != NULL ? grammar_str(g, f->end) : none);
}

/* What follows the marker: of a bare call, what follows {"name". */
static int after_marker(const struct tools *t, struct schema *s, grammar_sym *out, struct err *e)
{
    const struct tool_format *f = t->format;
    struct grammar *g = s->g;
    grammar_sym sp = s->space, any = grammar_rule(g), more;
    struct calls c = {.f = f, .s = s};
    if (f->shape == TOOL_PARAMS)
        c.text = tool_grammar_until(g, f->param_end, grammar_seq(g, 0, NULL), false);
    int i = 0;
    for (const struct cJSON *v = json_first(t->list); v != NULL; v = json_next(v), i++) {
        grammar_sym one;
        int rc = t->allowed[i] ? one_call(&c, v, i, &one, e) : 0;
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
    if (f->shape == TOOL_NAMED || f->shape == TOOL_PARAMS) {
        *out = named_calls(&c, any, most);
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

int tool_grammar_symbol(const struct tools *t, grammar_sym form, struct schema *s, grammar_sym *out,
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
        *out = tool_grammar_until(g, f->marker, after, true);
        return 0;
    }
    *out = grammar_rule(g);
    form = form != 0 ? form : not_bare(g, f->marker);
    grammar_add(g, *out, 1, &forced);
    grammar_add(g, *out, 1, &form);
    return 0;
}

void tool_grammar_show(const struct tool_format *f, const struct tokenizer *t, struct grammar *g)
{
    for (size_t i = 0; i < TOOL_TOKENS_MAX && f->tokens[i] != NULL; i++) {
        const int32_t id = tokenizer_find(t, f->tokens[i], strlen(f->tokens[i]));
        if (id >= 0 && tokenizer_is_control(t, id))
            grammar_show(g, id);
    }
}
