/* JSON Schema -> grammar: the symbols of plain JSON, references, alternatives and numbers.
 * Objects and arrays are in schema_object.c, strings in schema_string.c, bounds of numbers in schema_number.c.
 *
 * White space: between tokens one space, or a line break and an indentation, or nothing.  Numbers
 * have at most 16 digits before and behind the point: a model that finds no end must find one. */
#include "api/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_DEPTH = 200,
    MAX_REFS = 1024,
    MAX_COUNT = 100000,
    MAX_INDENT = 32,
    MAX_DIGITS = 16,
    MAX_TEXT = 1 << 26 /* as JSON, before anybody says that it is too long */
};

#define SEQ(g, ...)                                                                 \
    grammar_seq(g, (int)(sizeof(grammar_sym[]){__VA_ARGS__} / sizeof(grammar_sym)), \
                (grammar_sym[]){__VA_ARGS__})
#define ANY(g, ...)                                                                 \
    grammar_any(g, (int)(sizeof(grammar_sym[]){__VA_ARGS__} / sizeof(grammar_sym)), \
                (grammar_sym[]){__VA_ARGS__})

/* ---- plain JSON ---- */

static grammar_sym one_of(struct grammar *g, const char *bytes)
{
    struct grammar_set set = {{0}};
    for (; *bytes != '\0'; bytes++)
        set.bits[(unsigned char)*bytes / 32] |= 1U << (unsigned char)*bytes % 32;
    return grammar_one_of(g, &set);
}

/* \u and four digits; a surrogate only with its other half. */
static grammar_sym unicode_escape(struct grammar *g)
{
    grammar_sym hex = one_of(g, "0123456789abcdefABCDEF"), d = one_of(g, "dD");
    grammar_sym plain = SEQ(g, one_of(g, "0123456789abcefABCEF"), hex, hex, hex);
    grammar_sym below = SEQ(g, d, grammar_range(g, '0', '7'), hex, hex);
    grammar_sym pair = SEQ(g, d, one_of(g, "89abAB"), hex, hex, grammar_str(g, "\\u"), d,
                           one_of(g, "cdefCDEF"), hex, hex);
    return SEQ(g, grammar_str(g, "u"), ANY(g, plain, below, pair));
}

static void define_strings(struct schema *s)
{
    struct grammar *g = s->g;
    struct grammar_set plain = {{0, 0xffffffff, 0xffffffff, 0xffffffff}};
    plain.bits['"' / 32] &= ~(1U << '"' % 32);
    plain.bits['\\' / 32] &= ~(1U << '\\' % 32);
    grammar_sym escape =
        SEQ(g, grammar_str(g, "\\"), ANY(g, one_of(g, "\"\\/bfnrt"), unicode_escape(g)));
    s->character = ANY(g, grammar_one_of(g, &plain), grammar_chars(g, 0x80, 0x10ffff), escape);
    s->string =
        SEQ(g, grammar_str(g, "\""), grammar_repeat(g, s->character, 0, -1), grammar_str(g, "\""));
}

static void define_numbers(struct schema *s)
{
    struct grammar *g = s->g;
    s->digit = grammar_range(g, '0', '9');
    s->digits = grammar_repeat(g, s->digit, 1, MAX_DIGITS);
    grammar_sym minus = grammar_repeat(g, grammar_str(g, "-"), 0, 1);
    grammar_sym whole =
        ANY(g, grammar_str(g, "0"),
            SEQ(g, grammar_range(g, '1', '9'), grammar_repeat(g, s->digit, 0, MAX_DIGITS - 1)));
    grammar_sym fraction = SEQ(g, grammar_str(g, "."), s->digits);
    grammar_sym exponent = SEQ(g, one_of(g, "eE"), grammar_repeat(g, one_of(g, "+-"), 0, 1),
                               grammar_repeat(g, s->digit, 1, 2));
    s->integer = SEQ(g, minus, whole);
    s->number =
        SEQ(g, minus, whole, grammar_repeat(g, fraction, 0, 1), grammar_repeat(g, exponent, 0, 1));
}

/* open (item (, item)*)? close */
static grammar_sym list(struct schema *s, const char *open, grammar_sym item, const char *close)
{
    struct grammar *g = s->g;
    grammar_sym more = SEQ(g, grammar_str(g, ","), s->space, item, s->space);
    grammar_sym items = SEQ(g, item, s->space, grammar_repeat(g, more, 0, -1));
    return SEQ(g, grammar_str(g, open), s->space, grammar_repeat(g, items, 0, 1),
               grammar_str(g, close));
}

int schema_open(struct schema *s, struct arena *a, const char *param, struct err *e)
{
    *s = (struct schema){.g = grammar_new(a), .arena = a, .param = param};
    struct grammar *g = s->g;
    s->refs = arena_array(a, MAX_REFS, sizeof *s->refs);
    if (g == NULL || s->refs == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    grammar_sym indent = grammar_repeat(g, one_of(g, " \t"), 0, MAX_INDENT);
    s->space =
        grammar_repeat(g, ANY(g, grammar_str(g, " "), SEQ(g, grammar_str(g, "\n"), indent)), 0, 1);
    define_strings(s);
    define_numbers(s);
    s->value = grammar_rule(g);
    grammar_sym member = SEQ(g, s->string, s->space, grammar_str(g, ":"), s->space, s->value);
    s->object = list(s, "{", member, "}");
    s->array = list(s, "[", s->value, "]");
    const grammar_sym kinds[] = {s->string,
                                 s->number,
                                 s->object,
                                 s->array,
                                 grammar_str(g, "true"),
                                 grammar_str(g, "false"),
                                 grammar_str(g, "null")};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        grammar_add(g, s->value, 1, &kinds[i]);
    return 0;
}

int schema_close(struct schema *s, grammar_sym top, const struct grammar **out, struct err *e)
{
    grammar_start(s->g, top);
    if (grammar_failed(s->g)) {
        err_set(e, ERR_TOOBIG, "the form that %s asks for is too large", s->param);
        return err_param(e, "%s", s->param);
    }
    if (grammar_empty(s->g)) {
        err_set(e, ERR_INVALID, "no answer can have the form that %s asks for", s->param);
        return err_param(e, "%s", s->param);
    }
    *out = s->g;
    return 0;
}

/* ---- helpers ---- */

static int say(const struct schema *s, int code, const char *what, const char *name, struct err *e)
{
    err_set(e, code, "%s: %s%s%.60s", s->param, what, name[0] != '\0' ? " " : "", name);
    return err_param(e, "%s", s->param);
}

int schema_refuse(const struct schema *s, struct err *e, const char *what, const char *name)
{
    return say(s, ERR_UNSUPPORTED, what, name, e);
}

static int bad(const struct schema *s, struct err *e, const char *what, const char *name)
{
    return say(s, ERR_INVALID, what, name, e);
}

int schema_count(const struct schema *s, const struct cJSON *v, const char *key, int *out,
                 struct err *e)
{
    const struct cJSON *n = json_get(v, key);
    if (json_type(n) == JSON_NULL)
        return 0;
    if (!json_is_int(n) || json_num(n) < 0)
        return bad(s, e, "a number that is not negative is needed for", key);
    if (json_num(n) > MAX_COUNT)
        return schema_refuse(s, e, "too large a number for", key);
    *out = (int)json_num(n);
    return 0;
}

int schema_check_text(const struct schema *s, const char *what, const char *text, size_t n,
                      struct err *e)
{
    if (n <= GRAMMAR_TEXT_MAX)
        return 0;
    err_set(e, ERR_TOOBIG, "%s: %s is longer than %d bytes: %.40s", s->param, what,
            GRAMMAR_TEXT_MAX, text);
    return err_param(e, "%s", s->param);
}

int schema_take_text(struct schema *s, const char *what, struct buf *text, struct grammar_word *out,
                     struct err *e)
{
    const size_t n = text->failed ? GRAMMAR_TEXT_MAX + 1 : text->len;
    int rc = schema_check_text(s, what, buf_str(text), n, e);
    out->len = n;
    out->s = rc == 0 ? arena_strndup(s->arena, buf_str(text), n) : NULL;
    if (rc == 0 && out->s == NULL)
        rc = err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    buf_free(text);
    return rc;
}

int schema_name(struct schema *s, const char *name, grammar_sym *out, struct err *e)
{
    struct buf text;
    struct json_writer w;
    struct grammar_word word;
    buf_init(&text, MAX_TEXT);
    json_begin(&w, &text);
    json_put_str(&w, NULL, name);
    int rc = schema_take_text(s, "a name", &text, &word, e);
    if (rc == 0)
        *out = grammar_text(s->g, word.s, word.len);
    return rc;
}

/* ---- references ---- */

/* One step of a JSON pointer, "~1" being "/" and "~0" "~". */
static const struct cJSON *member(const struct cJSON *v, const char *name, size_t len)
{
    char key[256];
    size_t n = 0;
    if (len >= sizeof key)
        return NULL;
    for (size_t i = 0; i < len; i++) {
        bool escape = name[i] == '~' && i + 1 < len && (name[i + 1] == '0' || name[i + 1] == '1');
        key[n++] = !escape ? name[i] : name[i + 1] == '0' ? '~' : '/';
        i += escape;
    }
    key[n] = '\0';
    if (json_type(v) != JSON_ARRAY)
        return json_get(v, key);
    char *end;
    unsigned long at = strtoul(key, &end, 10);
    const struct cJSON *x = json_first(v);
    while (x != NULL && at-- > 0)
        x = json_next(x);
    return *end == '\0' && n > 0 ? x : NULL;
}

const struct cJSON *schema_follow(const struct schema *s, const char *ref)
{
    if (ref[0] != '#' || (ref[1] != '\0' && ref[1] != '/'))
        return NULL;
    const struct cJSON *v = s->root;
    for (const char *p = ref + 1; *p == '/' && v != NULL;) {
        size_t len = strcspn(++p, "/");
        v = member(v, p, len);
        p += len;
    }
    return v;
}

static int compile_ref(struct schema *s, const char *ref, grammar_sym *out, struct err *e)
{
    const struct cJSON *v = ref != NULL ? schema_follow(s, ref) : NULL;
    if (v == NULL)
        return bad(s, e, "there is nothing in the schema at $ref", ref != NULL ? ref : "");
    for (int i = 0; i < s->n_refs; i++)
        if (s->refs[i].at == v) {
            *out = s->refs[i].rule;
            return 0;
        }
    if (s->n_refs == MAX_REFS)
        return schema_refuse(s, e, "too many", "$ref");
    *out = grammar_rule(s->g);
    s->refs[s->n_refs++] = (struct schema_ref){v, *out};
    grammar_sym inner;
    int rc = schema_node(s, v, &inner, e);
    if (rc == 0)
        grammar_add(s->g, *out, 1, &inner);
    return rc;
}

/* ---- alternatives ---- */

/* Each of the list, which stands for itself: what is beside it would have to hold as well. */
static int compile_any(struct schema *s, const struct cJSON *v, const char *key, grammar_sym *out,
                       struct err *e)
{
    const struct cJSON *of = json_get(v, key);
    if (json_type(of) != JSON_ARRAY || json_size(of) == 0)
        return bad(s, e, "a list of schemas is needed for", key);
    *out = grammar_rule(s->g);
    for (const struct cJSON *x = json_first(of); x != NULL; x = json_next(x)) {
        grammar_sym one;
        int rc = schema_node(s, x, &one, e);
        if (rc != 0)
            return rc;
        grammar_add(s->g, *out, 1, &one);
    }
    return 0;
}

/* ---- kinds of values ---- */

int schema_read_bound(const struct schema *s, const struct cJSON *v, const char *key,
                      const char *strict, struct schema_bound *b, struct err *e)
{
    const struct cJSON *at = json_get(v, key), *beyond = json_get(v, strict);
    *b = (struct schema_bound){0};
    /* draft 4 has a boolean beside the bound */
    bool old = json_type(beyond) == JSON_BOOL;
    if (json_type(at) == JSON_NUMBER)
        *b = (struct schema_bound){true, old && json_bool(beyond), json_num(at)};
    else if (json_type(at) != JSON_NULL)
        return bad(s, e, "a number is needed for", key);
    if (json_type(beyond) == JSON_NUMBER) {
        double x = json_num(beyond);
        bool tighter = !b->set || (key[1] == 'i' ? x >= b->at : x <= b->at);
        if (tighter)
            *b = (struct schema_bound){true, true, x};
    } else if (json_type(beyond) != JSON_NULL && !old) {
        return bad(s, e, "a number is needed for", strict);
    }
    bool far = b->set && (b->at >= 1e16 || b->at <= -1e16);
    if (far && (b->at > 0) == (key[1] == 'i'))
        return schema_refuse(s, e, "numbers have at most 16 digits, which is not enough for", key);
    b->set = b->set && !far; /* no number of 16 digits comes so far */
    return 0;
}

static int compile_number(struct schema *s, const struct cJSON *v, bool integer, grammar_sym *out,
                          struct err *e)
{
    struct schema_bound low, high;
    int rc = schema_read_bound(s, v, "minimum", "exclusiveMinimum", &low, e);
    if (rc == 0)
        rc = schema_read_bound(s, v, "maximum", "exclusiveMaximum", &high, e);
    if (rc != 0)
        return rc;
    *out = low.set || high.set ? schema_numbers(s, &low, &high, integer)
           : integer           ? s->integer
                               : s->number;
    return 0;
}

static int compile_type(struct schema *s, const struct cJSON *v, const char *type, grammar_sym *out,
                        struct err *e)
{
    *out = 0;
    if (type == NULL)
        return bad(s, e, "a name, or a list of names, is needed for", "type");
    if (strcmp(type, "object") == 0)
        return schema_object(s, v, out, e);
    if (strcmp(type, "array") == 0)
        return schema_array(s, v, out, e);
    if (strcmp(type, "string") == 0)
        return schema_string(s, v, out, e);
    if (strcmp(type, "integer") == 0 || strcmp(type, "number") == 0)
        return compile_number(s, v, type[0] == 'i', out, e);
    if (strcmp(type, "null") == 0)
        *out = grammar_str(s->g, "null");
    else if (strcmp(type, "boolean") == 0)
        *out = ANY(s->g, grammar_str(s->g, "true"), grammar_str(s->g, "false"));
    else
        return bad(s, e, "there is no type", type);
    return 0;
}

static int compile_types(struct schema *s, const struct cJSON *v, const struct cJSON *types,
                         grammar_sym *out, struct err *e)
{
    if (json_type(types) != JSON_ARRAY)
        return compile_type(s, v, json_str(types), out, e);
    *out = grammar_rule(s->g);
    for (const struct cJSON *t = json_first(types); t != NULL; t = json_next(t)) {
        grammar_sym one;
        int rc = compile_type(s, v, json_str(t), &one, e);
        if (rc != 0)
            return rc;
        grammar_add(s->g, *out, 1, &one);
    }
    return 0;
}

/* ---- a schema ---- */

/* What would change the set of values, and is not understood. */
static const char *const foreign[] = {"not",
                                      "if",
                                      "then",
                                      "else",
                                      "dependentSchemas",
                                      "uniqueItems",
                                      "contains",
                                      "multipleOf",
                                      "patternProperties",
                                      "propertyNames",
                                      "$dynamicRef",
                                      "minProperties",
                                      "maxProperties",
                                      "dependentRequired",
                                      "dependencies",
                                      "minContains",
                                      "maxContains",
                                      "unevaluatedProperties",
                                      "unevaluatedItems",
                                      "$recursiveRef"};

static int check_keywords(const struct schema *s, const struct cJSON *v, struct err *e)
{
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign && !s->lenient; i++)
        if (!json_is_off(json_get(v, foreign[i])))
            return schema_refuse(s, e, "this server does not know the keyword", foreign[i]);
    return 0;
}

/* The kind of value that a schema without a type speaks of; NULL: any. */
static const char *implied_type(const struct cJSON *v)
{
    static const char *const words[][2] = {{"properties", "object"},
                                           {"required", "object"},
                                           {"additionalProperties", "object"},
                                           {"items", "array"},
                                           {"prefixItems", "array"},
                                           {"minItems", "array"},
                                           {"maxItems", "array"},
                                           {"minLength", "string"},
                                           {"maxLength", "string"},
                                           {"pattern", "string"},
                                           {"minimum", "number"},
                                           {"maximum", "number"},
                                           {"exclusiveMinimum", "number"},
                                           {"exclusiveMaximum", "number"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (json_get(v, words[i][0]) != NULL)
            return words[i][1];
    return NULL;
}

/* One of these stands for the whole schema; beside it only what says nothing about values may be. */
static int check_alone(const struct schema *s, const struct cJSON *v, const char *key,
                       struct err *e)
{
    static const char *const rivals[] = {"anyOf", "oneOf", "allOf", "$ref", "type"};
    bool alone = implied_type(v) == NULL;
    for (size_t i = 0; i < sizeof rivals / sizeof *rivals; i++)
        alone = alone && (strcmp(rivals[i], key) == 0 || json_get(v, rivals[i]) == NULL);
    return alone ? 0 : schema_refuse(s, e, "other keywords cannot stand beside", key);
}

static int compile_node(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e)
{
    const struct cJSON *type = json_get(v, "type"), *all = json_get(v, "allOf");
    int rc = check_keywords(s, v, e);
    if (rc != 0)
        return rc;
    if (json_get(v, "const") != NULL || json_get(v, "enum") != NULL)
        return schema_const(s, v, out, e);
    static const char *const whole[] = {"$ref", "anyOf", "oneOf"};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        if (json_get(v, whole[i]) == NULL)
            continue;
        if ((rc = check_alone(s, v, whole[i], e)) != 0)
            return rc;
        return i == 0 ? compile_ref(s, json_str(json_get(v, "$ref")), out, e)
                      : compile_any(s, v, whole[i], out, e);
    }
    if (all != NULL && json_size(all) == 1 && implied_type(v) == NULL)
        return schema_node(s, json_first(all), out, e);
    if (all != NULL)
        return schema_object(s, v, out, e);
    if (type != NULL)
        return compile_types(s, v, type, out, e);
    const char *implied = implied_type(v);
    *out = s->value;
    return implied != NULL ? compile_type(s, v, implied, out, e) : 0;
}

int schema_node(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e)
{
    *out = s->value;
    if (json_type(v) == JSON_BOOL && json_bool(v))
        return 0;
    if (json_type(v) != JSON_OBJECT)
        return bad(s, e, "a schema must be an object or true, not", json_type_name(json_type(v)));
    if (s->depth == MAX_DEPTH)
        return schema_refuse(s, e, "the schema is nested too deeply", "");
    s->depth++;
    int rc = compile_node(s, v, out, e);
    s->depth--;
    return rc;
}

int schema_value(struct schema *s, const struct cJSON *root, grammar_sym *out, struct err *e)
{
    s->root = root;
    s->n_refs = 0;
    if (root == NULL) {
        *out = s->value;
        return 0;
    }
    return schema_node(s, root, out, e);
}
