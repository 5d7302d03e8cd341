/* Objects and arrays of a JSON Schema.
 *
 * Members come in the order of the schema, those that are not required may be left out: two chains
 * of rules, one for "nothing was written yet" and one that writes a comma first, so that the grammar
 * grows with the number of members and not with that of their subsets.  An object has only the
 * members that it names, unless additionalProperties says more; an array of prefixItems only these,
 * unless items says more. */
#include <stdlib.h>
#include <string.h>

#include "api/schema.h"

enum { MAX_MEMBERS = 1024, MAX_SOURCES = 64, MAX_COMMON = 256 };

struct members {
    struct {
        const char *name;
        const struct cJSON *schema; /* NULL: any value */
        bool required;
    } * of; /* [n] */
    int n;
    const struct cJSON *extra; /* additionalProperties that allow something, or NULL */
    bool closed;               /* additionalProperties that allow nothing */
    int n_sources;
};

static int bad(const struct schema *s, struct err *e, const char *what)
{
    err_set(e, ERR_INVALID, "%s: %s", s->param, what);
    return err_param(e, "%s", s->param);
}

/* ---- which members there are ---- */

static int find_member(const struct members *m, const char *name)
{
    for (int i = 0; i < m->n; i++)
        if (strcmp(m->of[i].name, name) == 0)
            return i;
    return -1;
}

static int add_member(const struct schema *s, struct members *m, const char *name,
                      const struct cJSON *schema, struct err *e)
{
    if (m->n == MAX_MEMBERS)
        return schema_refuse(s, e, "an object has too many", "properties");
    m->of[m->n].name = name;
    m->of[m->n].schema = schema;
    m->of[m->n++].required = false;
    return 0;
}

static int add_properties(const struct schema *s, struct members *m, const struct cJSON *v,
                          struct err *e)
{
    const struct cJSON *props = json_get(v, "properties");
    if (json_type(props) != JSON_NULL && json_type(props) != JSON_OBJECT)
        return bad(s, e, "properties must be an object");
    for (const struct cJSON *p = json_first(props); p != NULL; p = json_next(p)) {
        int rc = find_member(m, json_key(p)) >= 0
                     ? schema_refuse(s, e, "several schemas of an allOf speak of", json_key(p))
                     : add_member(s, m, json_key(p), p, e);
        if (rc != 0)
            return rc;
    }
    const struct cJSON *extra = json_get(v, "additionalProperties");
    m->closed |= json_type(extra) == JSON_BOOL && !json_bool(extra) && !s->lenient;
    if (json_type(extra) != JSON_NULL && (json_type(extra) != JSON_BOOL || json_bool(extra))) {
        if (m->extra != NULL)
            return schema_refuse(s, e, "several schemas of an allOf have", "additionalProperties");
        m->extra = extra;
    }
    return 0;
}

static int add_required(const struct schema *s, struct members *m, const struct cJSON *v,
                        struct err *e)
{
    const struct cJSON *list = json_get(v, "required");
    if (json_type(list) != JSON_ARRAY) /* draft 3 had a boolean in the property */
        return json_type(list) == JSON_NULL ? 0 : bad(s, e, "required must be a list of names");
    for (const struct cJSON *r = json_first(list); r != NULL; r = json_next(r)) {
        const char *name = json_str(r);
        if (name == NULL)
            return bad(s, e, "required must be a list of names");
        int i = find_member(m, name);
        if (i < 0) {
            const struct cJSON *any = json_type(m->extra) == JSON_OBJECT ? m->extra : NULL;
            int rc = add_member(s, m, name, any, e);
            if (rc != 0)
                return rc;
            i = m->n - 1;
        }
        m->of[i].required = true;
    }
    return 0;
}

/* The schema's own members and those of its allOf, whose parts must be objects. */
static int collect(struct schema *s, struct members *m, const struct cJSON *v,
                   int (*add)(const struct schema *, struct members *, const struct cJSON *,
                              struct err *),
                   struct err *e)
{
    const char *ref = json_str(json_get(v, "$ref"));
    for (int i = 0; ref != NULL && i < MAX_SOURCES; i++) {
        v = schema_follow(s, ref);
        ref = json_str(json_get(v, "$ref"));
    }
    const char *type = json_str(json_get(v, "type"));
    if (json_type(v) != JSON_OBJECT || (type != NULL && strcmp(type, "object") != 0) ||
        json_get(v, "anyOf") != NULL || json_get(v, "oneOf") != NULL ||
        ++m->n_sources > MAX_SOURCES)
        return schema_refuse(s, e, "only objects with properties may be the parts of", "allOf");
    int rc = add(s, m, v, e);
    for (const struct cJSON *x = json_first(json_get(v, "allOf")); x != NULL && rc == 0;
         x = json_next(x))
        rc = collect(s, m, x, add, e);
    return rc;
}

/* ---- objects ---- */

/* name: value */
static grammar_sym pair(struct schema *s, grammar_sym name, grammar_sym value)
{
    return grammar_seq(s->g, 5,
                       (grammar_sym[]){name, s->space, grammar_str(s->g, ":"), s->space, value});
}

/* Names that are none of the members'.  They differ from all of these by a character that stands there as it is, at
 * most MAX_COMMON bytes behind the quote; where a member's name has a character beyond ASCII, by one of ASCII. */
struct others {
    struct schema *s;
    grammar_sym beyond, tail; /* a character beyond ASCII; any characters and the last quote */
};

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* What may follow `at` bytes that all of these n sorted names begin with. */
static grammar_sym differ(const struct others *o, const char **names, int n, size_t at)
{
    struct grammar *g = o->s->g;
    struct grammar_set plain = {{0, 0xffffffff, 0xffffffff, 0xffffffff}};
    const grammar_sym rule = grammar_rule(g);
    bool ends = true, beyond = true;
    plain.bits['"' / 32] &= ~(1U << '"' % 32);
    plain.bits['\\' / 32] &= ~(1U << '\\' % 32);
    if (at == MAX_COMMON)
        return rule;
    for (int i = 0, next; i < n; i = next) {
        const unsigned char c = (unsigned char)names[i][at];
        for (next = i + 1; next < n && (unsigned char)names[next][at] == c;)
            next++;
        ends = ends && c != '\0';
        beyond = beyond && c < 0x80;
        if (c == '\0' || c >= 0x80 || (plain.bits[c / 32] >> c % 32 & 1) == 0)
            continue;
        plain.bits[c / 32] &= ~(1U << c % 32);
        grammar_add(
            g, rule, 2,
            (grammar_sym[]){grammar_range(g, c, c), differ(o, names + i, next - i, at + 1)});
    }
    grammar_add(g, rule, 2, (grammar_sym[]){grammar_one_of(g, &plain), o->tail});
    if (beyond)
        grammar_add(g, rule, 2, (grammar_sym[]){o->beyond, o->tail});
    if (ends)
        grammar_add(g, rule, 1, (grammar_sym[]){grammar_str(g, "\"")});
    return rule;
}

static int other_name(struct schema *s, const struct members *m, grammar_sym *out, struct err *e)
{
    struct grammar *g = s->g;
    const char **names = arena_array(s->arena, (size_t)m->n + 1, sizeof *names);
    *out = s->string;
    if (names == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    for (int i = 0; i < m->n; i++)
        names[i] = m->of[i].name;
    if (m->n == 0)
        return 0;
    qsort(names, (size_t)m->n, sizeof *names, by_text);
    const grammar_sym quote = grammar_str(g, "\"");
    const struct others o = {
        s, grammar_chars(g, 0x80, 0x10ffff),
        grammar_seq(g, 2, (grammar_sym[]){grammar_repeat(g, s->character, 0, -1), quote})};
    *out = grammar_seq(g, 2, (grammar_sym[]){quote, differ(&o, names, m->n, 0)});
    return 0;
}

/* rest, perhaps; with a comma in front when something stands there already. */
static grammar_sym link_pair(struct schema *s, grammar_sym pair, grammar_sym after,
                             grammar_sym skipped, bool comma)
{
    grammar_sym rule = grammar_rule(s->g);
    if (comma)
        grammar_add(s->g, rule, 5,
                    (grammar_sym[]){grammar_str(s->g, ","), s->space, pair, s->space, after});
    else
        grammar_add(s->g, rule, 3, (grammar_sym[]){pair, s->space, after});
    if (skipped != 0)
        grammar_add(s->g, rule, 1, &skipped);
    return rule;
}

static int compile_members(struct schema *s, const struct members *m, grammar_sym *out,
                           struct err *e)
{
    grammar_sym none = grammar_seq(s->g, 0, NULL), first = none, later = none, value;
    if (m->extra != NULL) {
        grammar_sym name;
        int rc = schema_node(s, m->extra, &value, e);
        if (rc == 0)
            rc = other_name(s, m, &name, e);
        if (rc != 0)
            return rc;
        grammar_sym any = pair(s, name, value);
        later = grammar_rule(s->g);
        grammar_add(s->g, later, 0, NULL);
        grammar_add(s->g, later, 5,
                    (grammar_sym[]){grammar_str(s->g, ","), s->space, any, s->space, later});
        first = link_pair(s, any, later, none, false);
    }
    for (int i = m->n - 1; i >= 0; i--) {
        grammar_sym name;
        /* Without a schema it is only required: where no others are allowed it can have no value. */
        value = m->closed && m->extra == NULL ? grammar_rule(s->g) : s->value;
        int rc = m->of[i].schema != NULL ? schema_node(s, m->of[i].schema, &value, e) : 0;
        if (rc == 0)
            rc = schema_name(s, m->of[i].name, &name, e);
        if (rc != 0)
            return rc;
        grammar_sym p = pair(s, name, value), after = later;
        bool optional = !m->of[i].required;
        later = link_pair(s, p, after, optional ? after : 0, true);
        first = link_pair(s, p, after, optional ? first : 0, false);
    }
    *out = grammar_seq(
        s->g, 4, (grammar_sym[]){grammar_str(s->g, "{"), s->space, first, grammar_str(s->g, "}")});
    return 0;
}

int schema_object(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e)
{
    struct members m = {.of = arena_array(s->arena, MAX_MEMBERS, sizeof *m.of)};
    *out = s->object;
    if (m.of == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    int rc = collect(s, &m, v, add_properties, e);
    m.n_sources = 0;
    if (rc == 0)
        rc = collect(s, &m, v, add_required, e);
    if (rc != 0)
        return rc;
    const struct cJSON *extra = json_get(v, "additionalProperties");
    bool closed = json_type(extra) == JSON_BOOL && !json_bool(extra);
    if (m.n == 0 && m.extra == NULL && !closed && json_get(v, "properties") == NULL)
        return 0; /* any object */
    return compile_members(s, &m, out, e);
}

/* ---- arrays ---- */

/* What an array has in front, and then again and again. */
struct elements {
    grammar_sym *front; /* [n_front] */
    int n_front, min, max;
    grammar_sym rest; /* 0: nothing more */
};

static int read_elements(struct schema *s, const struct cJSON *v, struct elements *el,
                         struct err *e)
{
    const struct cJSON *front = json_get(v, "prefixItems"), *rest = json_get(v, "items");
    *el = (struct elements){.max = -1};
    if (json_type(rest) == JSON_ARRAY) { /* as older drafts have it */
        front = rest;
        rest = json_get(v, "additionalItems");
    }
    int rc = schema_count(s, v, "minItems", &el->min, e), n = json_size(front);
    if (rc == 0)
        rc = schema_count(s, v, "maxItems", &el->max, e);
    el->front = arena_array(s->arena, (size_t)n + 1, sizeof *el->front);
    if (rc == 0 && el->front == NULL)
        rc = err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    for (const struct cJSON *x = json_first(front); x != NULL && rc == 0; x = json_next(x))
        rc = schema_node(s, x, &el->front[el->n_front++], e);
    bool closed = (json_type(rest) == JSON_BOOL && !json_bool(rest)) || (rest == NULL && n > 0);
    if (rc == 0 && !closed) {
        el->rest = s->value;
        rc = rest != NULL ? schema_node(s, rest, &el->rest, e) : 0;
    } else if (el->max < 0 || el->max > n) {
        el->max = n;
    }
    if (rc == 0 && el->max >= 0 && el->min > el->max)
        rc = bad(s, e, "an array must have more elements than it may");
    return rc;
}

static grammar_sym element(const struct elements *el, int i)
{
    return i < el->n_front ? el->front[i] : el->rest;
}

int schema_array(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e)
{
    struct elements el;
    int rc = read_elements(s, v, &el, e);
    if (rc != 0)
        return rc;
    /* From behind: after element i nothing, if it may end there, or a comma and the others. */
    grammar_sym none = grammar_seq(s->g, 0, NULL), after = none;
    int n = el.max >= 0 ? el.max : el.min > el.n_front ? el.min : el.n_front;
    if (el.max < 0) {
        n = n > 0 ? n : 1;
        after = grammar_rule(s->g);
        grammar_add(s->g, after, 0, NULL);
        grammar_add(s->g, after, 5,
                    (grammar_sym[]){grammar_str(s->g, ","), s->space, el.rest, s->space, after});
    }
    for (int i = n - 1; i >= 0; i--)
        after = link_pair(s, element(&el, i), after, i >= el.min ? none : 0, i > 0);
    *out = grammar_seq(
        s->g, 4, (grammar_sym[]){grammar_str(s->g, "["), s->space, after, grammar_str(s->g, "]")});
    return 0;
}
