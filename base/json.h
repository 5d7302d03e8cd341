/* JSON in and out.  Reading: a strict pre-scan bounds what the parser (cJSON) gets to see, then
 * typed getters that name the field in the error.  Writing: straight into a buf.
 * A document is immutable after json_parse; nodes are `const struct cJSON *`, opaque here.
 * Thread: one at a time per document. */
#ifndef BASE_JSON_H
#define BASE_JSON_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct cJSON;

struct json_limits {
    size_t max_bytes;
    int max_depth; /* nested arrays and objects */
    int max_nodes; /* values, keys not counted */
    bool infinity; /* Infinity and -Infinity, which Python writes into its files, are numbers */
};
extern const struct json_limits json_limits_default; /* 1 MiB, depth 64, 20000 nodes */

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* Refuses with ERR_INVALID (ERR_TOOBIG for max_bytes) whatever RFC 8259 and limits do not allow, and also:
 * invalid UTF-8, lone surrogates, \u0000 in strings, duplicate keys of one object, numbers that
 * overflow a double or are longer than 63 characters, text after the value, and what exceeds the
 * limits.  The message gives the byte offset.  Free with json_free. */
int json_parse(struct cJSON **doc, const char *text, size_t len, const struct json_limits *limits,
               struct err *e);
/* The pre-scan alone (fuzzed on its own). */
int json_scan(const char *text, size_t len, const struct json_limits *limits, struct err *e);
void json_free(struct cJSON *doc);

enum json_type json_type(const struct cJSON *v); /* JSON_NULL for v == NULL */
const char *json_type_name(enum json_type t);    /* "a number", "an object" ... for messages */
/* Case-sensitive; NULL when absent or obj is not an object. */
const struct cJSON *json_get(const struct cJSON *obj, const char *key);
const struct cJSON *json_first(const struct cJSON *v); /* of an array or object; NULL when empty */
const struct cJSON *json_next(const struct cJSON *v);
const char *json_key(const struct cJSON *v); /* the member's name, "" outside objects */
int json_size(const struct cJSON *v);        /* members or elements */
const char *json_str(const struct cJSON *v); /* NULL unless a string */
double json_num(const struct cJSON *v);      /* 0 unless a number */
/* What the document says where the double says less (1.0, 2e3, integers beyond 2^53); else NULL. */
const char *json_num_text(const struct cJSON *v);
bool json_is_int(const struct cJSON *v); /* a number without fraction, |v| <= 2^53 */
bool json_bool(const struct cJSON *v);   /* false unless true */
bool json_is_off(const struct cJSON *v); /* absent, null or false */

/* Typed members.  Absent or null leaves *out alone and returns 0; another type or a value outside
 * [min, max] gives ERR_INVALID with param = key and a message that names both. */
int json_get_int(const struct cJSON *obj, const char *key, int64_t *out, int64_t min, int64_t max,
                 struct err *e);
int json_get_float(const struct cJSON *obj, const char *key, float *out, double min, double max,
                   struct err *e);
int json_get_bool(const struct cJSON *obj, const char *key, bool *out, struct err *e);
int json_get_str(const struct cJSON *obj, const char *key, const char **out, struct err *e);

/* The writer puts commas itself.  key is NULL inside arrays and for the outermost value.  Strings
 * are written as valid UTF-8: bytes that are not become U+FFFD.  Errors stick in out->failed. */
struct json_writer {
    struct buf *out;
    bool comma; /* the next value needs a comma before it */
};
void json_begin(struct json_writer *w, struct buf *out);
void json_open(struct json_writer *w, const char *key, char bracket);     /* '{' or '[' */
void json_close(struct json_writer *w, char bracket);                     /* '}' or ']' */
void json_put_str(struct json_writer *w, const char *key, const char *s); /* NULL writes null */
void json_put_strn(struct json_writer *w, const char *key, const char *s, size_t n);
void json_put_int(struct json_writer *w, const char *key, int64_t v);
void json_put_num(struct json_writer *w, const char *key, double v); /* not finite: null */
void json_put_bool(struct json_writer *w, const char *key, bool v);
void json_put_null(struct json_writer *w, const char *key);
/* Copies a node of a parsed document. */
void json_put_node(struct json_writer *w, const char *key, const struct cJSON *v);
/* text is already JSON. */
void json_put_raw(struct json_writer *w, const char *key, const char *text, size_t n);
#endif
