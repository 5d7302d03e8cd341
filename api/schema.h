/* JSON Schema as a grammar of the JSON texts that it allows, for answers that must have a form.
 * What is understood stands in docs/API.md, "Structured output"; what is not is refused, never passed over.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_SCHEMA_H
#define API_SCHEMA_H
#include "base/json.h"
#include "engine/text/grammar.h"

struct schema {
    struct grammar *g;
    struct arena *arena;
    const struct cJSON *root; /* what $ref begins at */
    const char *param;        /* of errors */
    grammar_sym space, digit, digits, character, string, integer, number, value, object, array;
    struct schema_ref {
        const struct cJSON *at;
        grammar_sym rule;
    } * refs; /* [n_refs] what was referred to so far */
    int n_refs, depth;
    bool lenient; /* words that are not understood are passed over */
};

/* param: the request's field, for errors.  The symbols of plain JSON are there then. */
int schema_open(struct schema *s, struct arena *a, const char *param, struct err *e);
/* The values that a schema allows, `true` and {} being all; a $ref in it begins at root. */
int schema_value(struct schema *s, const struct cJSON *root, grammar_sym *out, struct err *e);
/* A name of a member in its quotes. */
int schema_name(struct schema *s, const char *name, grammar_sym *out, struct err *e);
/* ERR_TOOBIG that names a text of n bytes which is too long for a grammar. */
int schema_check_text(const struct schema *s, const char *what, const char *text, size_t n,
                      struct err *e);
/* JSON that was written into a buf of its own (which is freed), now in the arena. */
int schema_take_text(struct schema *s, const char *what, struct buf *text, struct grammar_word *out,
                     struct err *e);
/* The grammar whose texts are top; ERR_TOOBIG when it is too large. */
int schema_close(struct schema *s, grammar_sym top, const struct grammar **out, struct err *e);

/* schema_number.c: numbers between two bounds. */
struct schema_bound {
    bool set, strict; /* strict: the bound itself is not allowed */
    double at;
};
grammar_sym schema_numbers(struct schema *s, const struct schema_bound *low,
                           const struct schema_bound *high, bool integer);
/* "minimum" and "exclusiveMinimum", or both of the maximum, into *b. */
int schema_read_bound(const struct schema *s, const struct cJSON *v, const char *key,
                      const char *strict, struct schema_bound *b, struct err *e);
/* schema_const.c: const and enum, of which the keywords beside them take some out. */
int schema_const(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e);
/* schema_string.c: minLength, maxLength, pattern and format. */
int schema_string(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e);
/* schema_object.c, schema.c: parts of one recursion. */
int schema_node(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e);
int schema_object(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e);
int schema_array(struct schema *s, const struct cJSON *v, grammar_sym *out, struct err *e);
int schema_refuse(const struct schema *s, struct err *e, const char *what, const char *name);
const struct cJSON *schema_follow(const struct schema *s, const char *ref);
/* A keyword that counts something: 0 ... 100000, or what *out held. */
int schema_count(const struct schema *s, const struct cJSON *v, const char *key, int *out,
                 struct err *e);
#endif
