/* response_format, as OpenAI has it; json_schema and grammar, as llama-server has them; guided_json,
 * guided_choice, guided_regex, guided_grammar and structured_outputs, as vLLM has them.  All become symbols of
 * one grammar. */
#include "api/format.h"

#include <string.h>

#include "api/gbnf.h"
#include "api/regex.h"

struct form {
    struct schema *s;
    grammar_sym *out;
    size_t max_bytes;
    const char *param; /* that asked for it; NULL: nobody yet */
};

static int claim(struct form *f, const char *param, struct err *e)
{
    if (f->param != NULL) {
        err_set(e, ERR_INVALID, "%s and %s cannot both say what the answer must be", f->param,
                param);
        return err_param(e, "%s", param);
    }
    f->param = param;
    f->s->param = param;
    return f->s->g == NULL ? schema_open(f->s, f->s->arena, param, e) : 0;
}

static int bad(const char *param, const char *what, struct err *e)
{
    err_set(e, ERR_INVALID, "%s", what);
    return err_param(e, "%s", param);
}

/* JSON that the schema allows; NULL: any object. */
static int set_json(struct form *f, const char *param, const struct cJSON *schema, struct err *e)
{
    int rc = claim(f, param, e);
    if (rc != 0)
        return rc;
    *f->out = f->s->object;
    return schema != NULL ? schema_value(f->s, schema, f->out, e) : 0;
}

/* The schema may be written as a text. */
static int set_schema(struct form *f, const char *param, const struct cJSON *v, struct err *e)
{
    const char *text = json_str(v);
    struct cJSON *doc = NULL;
    if (text == NULL)
        return set_json(f, param, v, e);
    int rc = json_parse(&doc, text, strlen(text), NULL, e);
    if (rc != 0)
        return err_param(e, "%s", param);
    rc = set_json(f, param, doc, e);
    json_free(doc);
    return rc;
}

static int set_choice(struct form *f, const char *param, const struct cJSON *list, struct err *e)
{
    int rc = claim(f, param, e), n = json_size(list), i = 0;
    if (rc != 0)
        return rc;
    if (json_type(list) != JSON_ARRAY || n == 0)
        return bad(param, "choices must be a list of texts", e);
    struct grammar_word *words = arena_array(f->s->arena, (size_t)n, sizeof *words);
    if (words == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    for (const struct cJSON *v = json_first(list); v != NULL; v = json_next(v), i++) {
        const char *text = json_str(v);
        if (text == NULL || text[0] == '\0')
            return bad(param, "choices must be a list of texts, none of them empty", e);
        words[i] = (struct grammar_word){text, strlen(text)};
        if ((rc = schema_check_text(f->s, "a choice", text, words[i].len, e)) != 0)
            return rc;
    }
    *f->out = grammar_words(f->s->g, words, n);
    return 0;
}

/* The text of a regular expression or a grammar; *text NULL when it is empty, which asks for nothing. */
static int get_text(const struct form *f, const char *param, const struct cJSON *v,
                    const char **text, struct err *e)
{
    *text = json_str(v);
    if (*text == NULL) {
        err_set(e, ERR_INVALID, "%s must be a string, not %s", param, json_type_name(json_type(v)));
        return err_param(e, "%s", param);
    }
    const size_t n = strlen(*text);
    if (n > f->max_bytes) {
        err_set(e, ERR_TOOBIG, "%s has %zu bytes; this server allows %zu", param, n, f->max_bytes);
        return err_param(e, "%s", param);
    }
    *text = n > 0 ? *text : NULL;
    return 0;
}

static int set_regex(struct form *f, const char *param, const struct cJSON *v, struct err *e)
{
    const char *text;
    int rc = get_text(f, param, v, &text, e);
    if (rc != 0 || text == NULL || (rc = claim(f, param, e)) != 0)
        return rc;
    struct regex x = {.g = f->s->g, .arena = f->s->arena, .param = param};
    rc = regex_compile(&x, text, e);
    *f->out = x.sym;
    return rc;
}

static int set_grammar(struct form *f, const char *param, const struct cJSON *v, struct err *e)
{
    const char *text;
    int rc = get_text(f, param, v, &text, e);
    if (rc != 0 || text == NULL || (rc = claim(f, param, e)) != 0)
        return rc;
    return gbnf_compile(f->out, f->s->g, f->s->arena, text, param, e);
}

/* {"type": "json_schema", "json_schema": {"name", "schema"}}; llama-server also has "schema" itself. */
static int response_format(struct form *f, const struct cJSON *v, struct err *e)
{
    const char *param = "response_format", *type = json_str(json_get(v, "type"));
    if (type == NULL)
        return bad(param, "response_format must be an object with a type", e);
    if (strcmp(type, "text") == 0)
        return 0;
    const struct cJSON *own = json_get(v, "schema"), *outer = json_get(v, "json_schema");
    if (strcmp(type, "json_object") == 0)
        return set_json(f, param, json_type(own) != JSON_NULL ? own : NULL, e);
    if (strcmp(type, "json_schema") == 0) {
        const struct cJSON *schema = json_get(outer, "schema");
        schema = schema != NULL ? schema : own;
        if (json_type(schema) != JSON_OBJECT)
            return bad(param, "response_format.json_schema must have a schema", e);
        return set_json(f, param, schema, e);
    }
    err_set(e, ERR_INVALID,
            "response_format.type must be text, json_object or json_schema, not "
            "%.40s",
            type);
    return err_param(e, "%s", param);
}

static int structured_outputs(struct form *f, const struct cJSON *v, struct err *e)
{
    const char *param = "structured_outputs";
    if (json_type(v) != JSON_OBJECT)
        return bad(param, "structured_outputs must be an object", e);
    for (const struct cJSON *x = json_first(v); x != NULL; x = json_next(x)) {
        const char *key = json_key(x);
        int rc = 0;
        if (json_is_off(x))
            continue;
        if (strcmp(key, "json") == 0)
            rc = set_schema(f, param, x, e);
        else if (strcmp(key, "json_object") == 0)
            rc = set_json(f, param, NULL, e);
        else if (strcmp(key, "choice") == 0)
            rc = set_choice(f, param, x, e);
        else if (strcmp(key, "regex") == 0)
            rc = set_regex(f, param, x, e);
        else if (strcmp(key, "grammar") == 0)
            rc = set_grammar(f, param, x, e);
        else if (strncmp(key, "disable_", 8) != 0 && strcmp(key, "whitespace_pattern") != 0) {
            err_set(e, ERR_UNSUPPORTED, "structured_outputs.%.40s is not supported", key);
            rc = err_param(e, "%s", param);
        }
        if (rc != 0)
            return rc;
    }
    return 0;
}

int format_symbol(const struct cJSON *body, size_t max_bytes, struct schema *s, grammar_sym *out,
                  struct err *e)
{
    static const struct {
        const char *param;
        int (*set)(struct form *, const char *, const struct cJSON *, struct err *);
    } lists[] = {{"json_schema", set_schema},     {"guided_json", set_schema},
                 {"guided_choice", set_choice},   {"guided_regex", set_regex},
                 {"guided_grammar", set_grammar}, {"grammar", set_grammar}};
    struct form f = {.s = s, .out = out, .max_bytes = max_bytes};
    const struct cJSON *v = json_get(body, "response_format");
    *out = 0;
    int rc = json_type(v) != JSON_NULL ? response_format(&f, v, e) : 0;
    v = json_get(body, "structured_outputs");
    if (rc == 0 && json_type(v) != JSON_NULL)
        rc = structured_outputs(&f, v, e);
    for (size_t i = 0; i < sizeof lists / sizeof *lists && rc == 0; i++) {
        v = json_get(body, lists[i].param);
        if (json_type(v) != JSON_NULL)
            rc = lists[i].set(&f, lists[i].param, v, e);
    }
    return rc;
}

int format_parse(const struct cJSON *body, size_t max_bytes, struct arena *arena,
                 const struct grammar **out, struct err *e)
{
    struct schema s = {.arena = arena};
    grammar_sym top = 0;
    int rc = format_symbol(body, max_bytes, &s, &top, e);
    return rc == 0 && s.g != NULL ? schema_close(&s, top, out, e) : rc;
}
