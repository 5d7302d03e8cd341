/* Values that a JSON Schema names: const and enum.  Keywords beside them take out those that they do not allow; where
 * this is not simply seen the schema is refused.  A lenient schema (of a tool) is taken by the values alone. */
#include <string.h>

#include "api/schema.h"

enum { MAX_TEXT = 1 << 26 /* as JSON, before anybody says that it is too long */ };

static int bad(const struct schema *s, struct err *e, const char *what)
{
    err_set(e, ERR_INVALID, "%s: %s", s->param, what);
    return err_param(e, "%s", s->param);
}

/* ---- what stands beside ---- */

/* Whether x is of one of the types, a name or a list of names. */
static bool has_type(const struct cJSON *types, const struct cJSON *x)
{
    static const char *const names[] = {
        [JSON_NULL] = "null",     [JSON_BOOL] = "boolean", [JSON_NUMBER] = "number",
        [JSON_STRING] = "string", [JSON_ARRAY] = "array",  [JSON_OBJECT] = "object"};
    if (json_type(types) == JSON_NULL)
        return true;
    const bool list = json_type(types) == JSON_ARRAY;
    for (const struct cJSON *t = list ? json_first(types) : types; t != NULL;
         t = list ? json_next(t) : NULL) {
        const char *name = json_str(t);
        if (name != NULL && (strcmp(name, names[json_type(x)]) == 0 ||
                             (strcmp(name, "integer") == 0 && json_is_int(x))))
            return true;
    }
    return false;
}

static int number_fits(const struct schema *s, const struct cJSON *v, double x, bool *fits,
                       struct err *e)
{
    struct schema_bound low, high;
    int rc = schema_read_bound(s, v, "minimum", "exclusiveMinimum", &low, e);
    if (rc == 0)
        rc = schema_read_bound(s, v, "maximum", "exclusiveMaximum", &high, e);
    if (rc == 0)
        *fits = (!low.set || x > low.at || (!low.strict && x == low.at)) &&
                (!high.set || x < high.at || (!high.strict && x == high.at));
    return rc;
}

static int count_fits(const struct schema *s, const struct cJSON *v, const char *const keys[2],
                      int n, bool *fits, struct err *e)
{
    int least = 0, most = n;
    int rc = schema_count(s, v, keys[0], &least, e);
    if (rc == 0)
        rc = schema_count(s, v, keys[1], &most, e);
    *fits = n >= least && n <= most;
    return rc;
}

static int count_chars(const char *text)
{
    int n = 0;
    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

/* What of the keywords beside is about values of x's type, and not simply seen. */
static const char *hard_keyword(const struct cJSON *v, const struct cJSON *x)
{
    static const struct {
        const char *word;
        enum json_type of; /* JSON_NULL: of all */
    } words[] = {{"pattern", JSON_STRING},    {"items", JSON_ARRAY},
                 {"prefixItems", JSON_ARRAY}, {"properties", JSON_OBJECT},
                 {"required", JSON_OBJECT},   {"additionalProperties", JSON_OBJECT},
                 {"anyOf", JSON_NULL},        {"oneOf", JSON_NULL},
                 {"allOf", JSON_NULL},        {"$ref", JSON_NULL}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (json_get(v, words[i].word) != NULL &&
            (words[i].of == JSON_NULL || words[i].of == json_type(x)))
            return words[i].word;
    return NULL;
}

static int fits_beside(const struct schema *s, const struct cJSON *v, const struct cJSON *x,
                       bool *fits, struct err *e)
{
    static const char *const lengths[] = {"minLength", "maxLength"};
    static const char *const sizes[] = {"minItems", "maxItems"};
    *fits = true;
    if (s->lenient)
        return 0;
    *fits = has_type(json_get(v, "type"), x);
    const char *hard = *fits ? hard_keyword(v, x) : NULL;
    if (hard != NULL)
        return schema_refuse(s, e, "const and enum cannot stand beside the keyword", hard);
    if (!*fits)
        return 0;
    return json_type(x) == JSON_NUMBER ? number_fits(s, v, json_num(x), fits, e)
           : json_type(x) == JSON_STRING
               ? count_fits(s, v, lengths, count_chars(json_str(x)), fits, e)
           : json_type(x) == JSON_ARRAY ? count_fits(s, v, sizes, json_size(x), fits, e)
                                        : 0;
}

/* ---- the values ---- */

static int constant(struct schema *s, const struct cJSON *v, struct grammar_word *out,
                    struct err *e)
{
    struct buf text;
    struct json_writer w;
    buf_init(&text, MAX_TEXT);
    json_begin(&w, &text);
    json_put_node(&w, NULL, v);
    return schema_take_text(s, "a constant", &text, out, e);
}

/* x, unless something beside it is against it. */
static int add_value(struct schema *s, const struct cJSON *v, const struct cJSON *x,
                     struct grammar_word *words, int *n, struct err *e)
{
    const struct cJSON *one = json_get(v, "const");
    struct grammar_word same;
    bool fits = false;
    int rc = fits_beside(s, v, x, &fits, e);
    if (rc != 0 || !fits)
        return rc;
    rc = constant(s, x, &words[*n], e);
    if (rc == 0 && one != NULL && one != x && (rc = constant(s, one, &same, e)) == 0)
        fits = same.len == words[*n].len && memcmp(same.s, words[*n].s, same.len) == 0;
    *n += rc == 0 && fits;
    return rc;
}

int schema_const(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e)
{
    const struct cJSON *one = json_get(v, "const"), *values = json_get(v, "enum");
    int n = 0, rc = 0;
    if (values != NULL && (json_type(values) != JSON_ARRAY || json_size(values) == 0))
        return bad(s, e, "a list with at least one value is needed for enum");
    struct grammar_word *words =
        arena_array(s->arena, (size_t)json_size(values) + 1, sizeof *words);
    if (words == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    if (values == NULL)
        rc = add_value(s, v, one, words, &n, e);
    for (const struct cJSON *x = json_first(values); x != NULL && rc == 0; x = json_next(x))
        rc = add_value(s, v, x, words, &n, e);
    if (rc == 0)
        *out = n > 0 ? grammar_words(s->g, words, n) : grammar_rule(s->g); /* which has no text */
    return rc;
}
