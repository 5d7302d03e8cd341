/* JSON reading: a strict scan that decides what is allowed, then cJSON, which only builds the tree,
 * then typed getters.  Writing is in the second half. */
#include "base/json.h"

#include <cjson/cJSON.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/utf8.h"

enum {
    DEPTH_MAX = 1000, /* what cJSON parses, and what recursion over a tree may cost */
    NUMBER_MAX = 63,  /* characters: cJSON reads no more of a number */
    OBJECT_ID = 4,    /* bytes in front of each key in the pool */
};

#define INT_MAX_EXACT ((int64_t)1 << 53)

const struct json_limits json_limits_default = {
    .max_bytes = 1 << 20,
    .max_depth = 64,
    .max_nodes = 20000,
};

/* ---- The scan ---- */

/* All keys so far, as (number of the object, unescaped key), are in one hash table, so that the
 * work is linear however the document is shaped. */
struct scan {
    const char *s;
    size_t n, i;
    struct err *e;
    int depth, max_depth;
    int nodes, max_nodes;
    bool infinity, says_more; /* says_more: some number does */
    char *plain;      /* NULL, or s again: infinities become numbers there that cJSON reads */
    uint32_t objects; /* opened so far */
    uint32_t open[DEPTH_MAX]; /* the open containers: number of the object, 0 for an array */
    struct map keys;
    char *pool; /* where the table's keys are */
    size_t pool_len;
};

static int fail(const struct scan *sc, size_t at, const char *what)
{
    return err_set(sc->e, ERR_INVALID, "invalid JSON: %s at byte %zu", what, at);
}

static int peek(const struct scan *sc)
{
    return sc->i < sc->n ? (unsigned char)sc->s[sc->i] : -1;
}

static int skip_space(struct scan *sc)
{
    int c = peek(sc);
    while (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
        sc->i++;
        c = peek(sc);
    }
    return c;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool skip_digits(struct scan *sc)
{
    if (!is_digit(peek(sc)))
        return false;
    while (is_digit(peek(sc)))
        sc->i++;
    return true;
}

static int scan_word(struct scan *sc, const char *word)
{
    size_t len = strlen(word);
    if (sc->n - sc->i < len || memcmp(sc->s + sc->i, word, len) != 0)
        return fail(sc, sc->i, "unexpected character");
    sc->i += len;
    return 0;
}

static int scan_infinity(struct scan *sc)
{
    int rc = scan_word(sc, "Infinity");
    if (rc == 0 && sc->plain != NULL)
        memcpy(sc->plain + sc->i - 8, "1e999   ", 8);
    return rc;
}

/* 1.0 is no integer in Python, and 2^53 + 1 no double: the text says more than the number. */
static bool says_more(const char *text, double v)
{
    const bool whole = strpbrk(text, ".eE") == NULL;
    return whole ? fabs(v) >= (double)INT_MAX_EXACT : v == trunc(v);
}

static int scan_number(struct scan *sc)
{
    size_t start = sc->i;
    bool ok = true, whole = true;
    if (peek(sc) == '-')
        sc->i++;
    if (sc->infinity && peek(sc) == 'I')
        return scan_infinity(sc);
    if (peek(sc) == '0')
        sc->i++;
    else
        ok = skip_digits(sc);
    if (ok && peek(sc) == '.') {
        whole = false;
        sc->i++;
        ok = skip_digits(sc);
    }
    if (ok && (peek(sc) == 'e' || peek(sc) == 'E')) {
        whole = false;
        sc->i++;
        if (peek(sc) == '+' || peek(sc) == '-')
            sc->i++;
        ok = skip_digits(sc);
    }
    if (!ok || is_digit(peek(sc)))
        return fail(sc, start, "malformed number");
    size_t len = sc->i - start;
    if (len > NUMBER_MAX)
        return fail(sc, start, "number with too many digits");
    if (whole && len <= DBL_DIG) /* a double says as much */
        return 0;
    char text[NUMBER_MAX + 1] = {0};
    memcpy(text, sc->s + start, len);
    const double v = strtod(text, NULL);
    if (isinf(v))
        return fail(sc, start, "number out of range");
    sc->says_more |= says_more(text, v);
    return 0;
}

static bool scan_hex4(struct scan *sc, uint32_t *v)
{
    *v = 0;
    for (int k = 0; k < 4; k++, sc->i++) {
        int c = peek(sc);
        int lower = c | 0x20;
        if (is_digit(c))
            *v = *v << 4 | (uint32_t)(c - '0');
        else if (c > 0 && lower >= 'a' && lower <= 'f')
            *v = *v << 4 | (uint32_t)(lower - 'a' + 10);
        else
            return false;
    }
    return true;
}

static int scan_escape(struct scan *sc, uint32_t *cp)
{
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    size_t start = sc->i++;
    int c = peek(sc);
    sc->i++;
    const char *name = c > 0 ? strchr(names, c) : NULL;
    if (name != NULL) {
        *cp = (unsigned char)values[name - names];
        return 0;
    }
    if (c != 'u' || !scan_hex4(sc, cp))
        return fail(sc, start, "malformed escape");
    if (*cp == 0)
        return fail(sc, start, "\\u0000 in a string");
    if (*cp < 0xD800 || *cp > 0xDFFF)
        return 0;
    uint32_t low = 0;
    bool pair = *cp <= 0xDBFF && sc->n - sc->i >= 6 && memcmp(sc->s + sc->i, "\\u", 2) == 0;
    if (pair) {
        sc->i += 2;
        pair = scan_hex4(sc, &low) && low >= 0xDC00 && low <= 0xDFFF;
    }
    if (!pair)
        return fail(sc, start, "lone surrogate");
    *cp = 0x10000 + ((*cp - 0xD800) << 10) + (low - 0xDC00);
    return 0;
}

/* At an opening quote.  Writes the unescaped bytes to out unless NULL; they are never more than the
 * bytes between the quotes. */
static int scan_string(struct scan *sc, char *out, size_t *out_len)
{
    size_t start = sc->i++, w = 0;
    for (;;) {
        int c = peek(sc);
        uint32_t cp = (uint32_t)c;
        if (c < 0)
            return fail(sc, start, "unterminated string");
        if (c == '"')
            break;
        if (c < 0x20)
            return fail(sc, sc->i, "control character in a string");
        if (c == '\\') {
            int rc = scan_escape(sc, &cp);
            if (rc != 0)
                return rc;
        } else if (c < 0x80) {
            sc->i++;
        } else {
            int len = utf8_decode(sc->s + sc->i, sc->n - sc->i, &cp);
            if (len == 1)
                return fail(sc, sc->i, "invalid UTF-8");
            sc->i += (size_t)len;
        }
        if (out != NULL)
            w += (size_t)utf8_encode(out + w, cp);
    }
    sc->i++;
    *out_len = w;
    return 0;
}

/* A key and its colon, in the innermost open object. */
static int scan_key(struct scan *sc)
{
    size_t start = sc->i, len = 0;
    if (peek(sc) != '"')
        return fail(sc, start, "expected a key");
    char *entry = sc->pool + sc->pool_len;
    memcpy(entry, &sc->open[sc->depth - 1], OBJECT_ID);
    int rc = scan_string(sc, entry + OBJECT_ID, &len);
    if (rc != 0)
        return rc;
    sc->pool_len += OBJECT_ID + len;
    rc = map_put(&sc->keys, entry, OBJECT_ID + len, 0);
    if (rc == ERR_NOMEM)
        return err_set(sc->e, rc, "out of memory");
    if (rc != 0)
        return fail(sc, start, "duplicate key");
    if (skip_space(sc) != ':')
        return fail(sc, sc->i, "expected ':'");
    sc->i++;
    return 0;
}

/* At '{' or '['.  *inside: a value is due inside it (it is not empty). */
static int scan_open(struct scan *sc, bool *inside)
{
    bool object = peek(sc) == '{';
    if (sc->depth == sc->max_depth)
        return fail(sc, sc->i, "nested too deeply");
    sc->i++;
    sc->open[sc->depth++] = object ? ++sc->objects : 0;
    int c = skip_space(sc);
    *inside = c != (object ? '}' : ']');
    if (!*inside) {
        sc->i++;
        sc->depth--;
        return 0;
    }
    return object ? scan_key(sc) : 0;
}

/* A scalar, or the beginning of a container. */
static int scan_value(struct scan *sc, bool *inside)
{
    *inside = false;
    int c = skip_space(sc);
    if (c >= 0 && sc->nodes++ >= sc->max_nodes)
        return fail(sc, sc->i, "too many values");
    size_t unused;
    switch (c) {
    case -1:
        return fail(sc, sc->i, "unexpected end");
    case '{':
    case '[':
        return scan_open(sc, inside);
    case '"':
        return scan_string(sc, NULL, &unused);
    case 't':
        return scan_word(sc, "true");
    case 'f':
        return scan_word(sc, "false");
    case 'n':
        return scan_word(sc, "null");
    default:
        if (c != '-' && !is_digit(c) && !(sc->infinity && c == 'I'))
            return fail(sc, sc->i, "unexpected character");
        return scan_number(sc);
    }
}

/* After a value: closes what ends here.  *more: another value is due. */
static int scan_after(struct scan *sc, bool *more)
{
    *more = false;
    for (;;) {
        int c = skip_space(sc);
        if (sc->depth == 0)
            return c < 0 ? 0 : fail(sc, sc->i, "text after the value");
        bool object = sc->open[sc->depth - 1] != 0;
        if (c == (object ? '}' : ']')) {
            sc->i++;
            sc->depth--;
            continue;
        }
        if (c != ',')
            return fail(sc, sc->i, object ? "expected ',' or '}'" : "expected ',' or ']'");
        sc->i++;
        *more = true;
        skip_space(sc);
        return object ? scan_key(sc) : 0;
    }
}

static int scan_document(struct scan *sc)
{
    bool more = true;
    while (more) {
        int rc = scan_value(sc, &more);
        if (rc == 0 && !more)
            rc = scan_after(sc, &more);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int scan_text(const char *text, size_t len, const struct json_limits *limits, char *plain,
                     bool *says_more, struct err *e)
{
    if (len > limits->max_bytes)
        return err_set(e, ERR_TOOBIG, "JSON of %zu bytes is over the limit of %zu", len,
                       limits->max_bytes);
    struct scan sc = {.s = text,
                      .n = len,
                      .e = e,
                      .max_nodes = limits->max_nodes,
                      .infinity = limits->infinity,
                      .plain = plain};
    sc.max_depth = limits->max_depth < DEPTH_MAX ? limits->max_depth : DEPTH_MAX;
    /* A key of k bytes takes k + 4 in the pool and at least k + 4 in the text ("":0); only the last
     * one may lack what follows its quotes. */
    sc.pool = malloc(len + OBJECT_ID);
    int rc = ERR_NOMEM;
    if (sc.pool == NULL || map_init(&sc.keys, 0) != 0)
        err_set(e, rc, "out of memory");
    else
        rc = scan_document(&sc);
    map_free(&sc.keys);
    free(sc.pool);
    *says_more = sc.says_more;
    return rc;
}

int json_scan(const char *text, size_t len, const struct json_limits *limits, struct err *e)
{
    bool says_more;
    return scan_text(text, len, limits != NULL ? limits : &json_limits_default, NULL, &says_more,
                     e);
}

/* ---- Reading ---- */

/* Over text that the scan has accepted, from number to number. */
struct numbers {
    const char *at, *end;
};

/* The next number; what is in strings is passed over. */
static size_t next_number(struct numbers *n, const char **text)
{
    bool quoted = false;
    while (quoted || (*n->at != '-' && !is_digit(*n->at))) {
        if (*n->at == '"')
            quoted = !quoted;
        n->at += quoted && *n->at == '\\' ? 2 : 1;
    }
    *text = n->at;
    while (n->at < n->end && *n->at != '\0' && strchr("+-.eE0123456789", *n->at) != NULL)
        n->at++;
    return (size_t)(n->at - *text);
}

/* Numbers whose text says more keep it as their string.  The tree is in the text's order; recursion
 * is bounded by the depth that the scan accepted. */
static int keep_texts(struct cJSON *v, struct numbers *n)
{
    for (; v != NULL; v = v->next) {
        if (keep_texts(v->child, n) != 0)
            return ERR_NOMEM;
        if (json_type(v) != JSON_NUMBER)
            continue;
        const char *from;
        char text[NUMBER_MAX + 1] = {0};
        const size_t len = next_number(n, &from);
        memcpy(text, from, len);
        if (!says_more(text, v->valuedouble))
            continue;
        v->valuestring = cJSON_malloc(len + 1);
        if (v->valuestring == NULL)
            return ERR_NOMEM;
        memcpy(v->valuestring, text, len + 1);
    }
    return 0;
}

int json_parse(struct cJSON **doc, const char *text, size_t len, const struct json_limits *limits,
               struct err *e)
{
    *doc = NULL;
    if (limits == NULL)
        limits = &json_limits_default;
    char *plain = NULL;
    if (limits->infinity && len <= limits->max_bytes) {
        plain = malloc(len + 1);
        if (plain == NULL)
            return err_set(e, ERR_NOMEM, "out of memory");
        memcpy(plain, text, len);
    }
    bool more;
    int rc = scan_text(text, len, limits, plain, &more, e);
    const char *end = NULL, *from = plain != NULL ? plain : text;
    /* The scan has seen that nothing but space follows; text need not end in NUL. */
    if (rc == 0)
        *doc = cJSON_ParseWithLengthOpts(from, len, &end, 0);
    if (*doc != NULL && more && keep_texts(*doc, &(struct numbers){from, from + len}) != 0) {
        json_free(*doc);
        *doc = NULL;
    }
    free(plain);
    if (rc != 0)
        return rc;
    return *doc != NULL ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

void json_free(struct cJSON *doc)
{
    cJSON_Delete(doc);
}

enum json_type json_type(const struct cJSON *v)
{
    switch (v != NULL ? v->type & 0xFF : cJSON_NULL) {
    case cJSON_False:
    case cJSON_True:
        return JSON_BOOL;
    case cJSON_Number:
        return JSON_NUMBER;
    case cJSON_String:
        return JSON_STRING;
    case cJSON_Array:
        return JSON_ARRAY;
    case cJSON_Object:
        return JSON_OBJECT;
    default:
        return JSON_NULL;
    }
}

const char *json_type_name(enum json_type t)
{
    static const char *const names[] = {
        [JSON_NULL] = "null",       [JSON_BOOL] = "a boolean", [JSON_NUMBER] = "a number",
        [JSON_STRING] = "a string", [JSON_ARRAY] = "an array", [JSON_OBJECT] = "an object",
    };
    return names[t];
}

const struct cJSON *json_get(const struct cJSON *obj, const char *key)
{
    if (json_type(obj) != JSON_OBJECT)
        return NULL;
    for (const struct cJSON *v = obj->child; v != NULL; v = v->next) {
        if (strcmp(v->string, key) == 0)
            return v;
    }
    return NULL;
}

const struct cJSON *json_first(const struct cJSON *v)
{
    return v != NULL ? v->child : NULL;
}

const struct cJSON *json_next(const struct cJSON *v)
{
    return v != NULL ? v->next : NULL;
}

const char *json_key(const struct cJSON *v)
{
    return v != NULL && v->string != NULL ? v->string : "";
}

int json_size(const struct cJSON *v)
{
    int n = 0;
    for (const struct cJSON *c = json_first(v); c != NULL; c = c->next)
        n++;
    return n;
}

const char *json_str(const struct cJSON *v)
{
    return json_type(v) == JSON_STRING ? v->valuestring : NULL;
}

double json_num(const struct cJSON *v)
{
    return json_type(v) == JSON_NUMBER ? v->valuedouble : 0;
}

const char *json_num_text(const struct cJSON *v)
{
    return json_type(v) == JSON_NUMBER ? v->valuestring : NULL;
}

bool json_is_int(const struct cJSON *v)
{
    return json_type(v) == JSON_NUMBER && fabs(v->valuedouble) <= (double)INT_MAX_EXACT &&
           v->valuedouble == trunc(v->valuedouble);
}

bool json_bool(const struct cJSON *v)
{
    return v != NULL && (v->type & 0xFF) == cJSON_True;
}

bool json_is_off(const struct cJSON *v)
{
    return json_type(v) == JSON_NULL || (json_type(v) == JSON_BOOL && !json_bool(v));
}

/* The member, or NULL when there is nothing to read. */
static const struct cJSON *present(const struct cJSON *obj, const char *key)
{
    const struct cJSON *v = json_get(obj, key);
    return json_type(v) != JSON_NULL ? v : NULL;
}

/* "<key> must be <wanted>, not <what it is>" */
static int refuse(const struct cJSON *v, const char *key, const char *wanted, struct err *e)
{
    if (json_type(v) == JSON_NUMBER)
        err_set(e, ERR_INVALID, "'%s' must be %s, not %.15g", key, wanted, v->valuedouble);
    else
        err_set(e, ERR_INVALID, "'%s' must be %s, not %s", key, wanted,
                json_type_name(json_type(v)));
    err_param(e, "%s", key);
    return ERR_INVALID;
}

int json_get_int(const struct cJSON *obj, const char *key, int64_t *out, int64_t min, int64_t max,
                 struct err *e)
{
    const struct cJSON *v = present(obj, key);
    if (v == NULL)
        return 0;
    if (json_is_int(v) && (int64_t)v->valuedouble >= min && (int64_t)v->valuedouble <= max) {
        *out = (int64_t)v->valuedouble;
        return 0;
    }
    char wanted[96];
    min = min > -INT_MAX_EXACT ? min : -INT_MAX_EXACT;
    max = max < INT_MAX_EXACT ? max : INT_MAX_EXACT;
    snprintf(wanted, sizeof wanted, "an integer from %lld to %lld", (long long)min, (long long)max);
    return refuse(v, key, wanted, e);
}

int json_get_float(const struct cJSON *obj, const char *key, float *out, double min, double max,
                   struct err *e)
{
    const struct cJSON *v = present(obj, key);
    if (v == NULL)
        return 0;
    min = fmax(min, -FLT_MAX);
    max = fmin(max, FLT_MAX);
    if (json_type(v) == JSON_NUMBER && v->valuedouble >= min && v->valuedouble <= max) {
        *out = (float)v->valuedouble;
        return 0;
    }
    char wanted[96];
    snprintf(wanted, sizeof wanted, "a number from %.9g to %.9g", min, max);
    return refuse(v, key, wanted, e);
}

int json_get_bool(const struct cJSON *obj, const char *key, bool *out, struct err *e)
{
    const struct cJSON *v = present(obj, key);
    if (v == NULL)
        return 0;
    if (json_type(v) != JSON_BOOL)
        return refuse(v, key, json_type_name(JSON_BOOL), e);
    *out = json_bool(v);
    return 0;
}

int json_get_str(const struct cJSON *obj, const char *key, const char **out, struct err *e)
{
    const struct cJSON *v = present(obj, key);
    if (v == NULL)
        return 0;
    if (json_type(v) != JSON_STRING)
        return refuse(v, key, json_type_name(JSON_STRING), e);
    *out = v->valuestring;
    return 0;
}

/* ---- Writing ---- */

void json_begin(struct json_writer *w, struct buf *out)
{
    *w = (struct json_writer){.out = out};
}

static void add_special(struct buf *out, unsigned char c)
{
    static const char names[] = "\"\\bfnrt";
    static const char values[] = "\"\\\b\f\n\r\t";
    const char *known = c != 0 ? strchr(values, c) : NULL;
    if (known != NULL)
        buf_printf(out, "\\%c", names[known - values]);
    else if (c < 0x20)
        buf_printf(out, "\\u%04x", c);
    else
        buf_adds(out, "\xEF\xBF\xBD");
}

static void add_string(struct buf *out, const char *s, size_t n)
{
    buf_addc(out, '"');
    size_t from = 0; /* what can be copied as it is starts here */
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        uint32_t cp;
        int len = c < 0x80 ? 1 : utf8_decode(s + i, n - i, &cp);
        bool plain = c < 0x80 ? c >= 0x20 && c != '"' && c != '\\' : len > 1;
        if (!plain && c >= 0x80)
            len = utf8_broken(s + i, n - i);
        if (!plain) {
            buf_add(out, s + from, i - from);
            add_special(out, c);
            from = i + (size_t)len;
        }
        i += (size_t)len;
    }
    buf_add(out, s + from, n - from);
    buf_addc(out, '"');
}

/* Comma and key; the value follows. */
static void start(struct json_writer *w, const char *key)
{
    if (w->comma)
        buf_addc(w->out, ',');
    w->comma = true;
    if (key != NULL) {
        add_string(w->out, key, strlen(key));
        buf_addc(w->out, ':');
    }
}

void json_open(struct json_writer *w, const char *key, char bracket)
{
    start(w, key);
    buf_addc(w->out, bracket);
    w->comma = false;
}

void json_close(struct json_writer *w, char bracket)
{
    buf_addc(w->out, bracket);
    w->comma = true;
}

void json_put_strn(struct json_writer *w, const char *key, const char *s, size_t n)
{
    start(w, key);
    add_string(w->out, s, n);
}

void json_put_str(struct json_writer *w, const char *key, const char *s)
{
    if (s != NULL)
        json_put_strn(w, key, s, strlen(s));
    else
        json_put_null(w, key);
}

void json_put_int(struct json_writer *w, const char *key, int64_t v)
{
    char text[24];
    size_t at = sizeof text;
    uint64_t rest = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do
        text[--at] = (char)('0' + rest % 10);
    while ((rest /= 10) != 0);
    if (v < 0)
        text[--at] = '-';
    start(w, key);
    buf_add(w->out, text + at, sizeof text - at);
}

void json_put_num(struct json_writer *w, const char *key, double v)
{
    if (!isfinite(v)) {
        json_put_null(w, key);
        return;
    }
    static const int digits[] = {9, 15, 16, 17}; /* 17 always reads back the same */
    char text[32];
    for (size_t i = 0; i < sizeof digits / sizeof *digits; i++) {
        snprintf(text, sizeof text, "%.*g", digits[i], v);
        if (strtod(text, NULL) == v)
            break;
    }
    start(w, key);
    buf_adds(w->out, text);
}

void json_put_bool(struct json_writer *w, const char *key, bool v)
{
    start(w, key);
    buf_adds(w->out, v ? "true" : "false");
}

void json_put_null(struct json_writer *w, const char *key)
{
    start(w, key);
    buf_adds(w->out, "null");
}

/* Recursion is bounded by the depth that the parser accepted. */
void json_put_node(struct json_writer *w, const char *key, const struct cJSON *v)
{
    enum json_type t = json_type(v);
    switch (t) {
    case JSON_NULL:
        json_put_null(w, key);
        return;
    case JSON_BOOL:
        json_put_bool(w, key, json_bool(v));
        return;
    case JSON_NUMBER:
        if (v->valuestring != NULL)
            json_put_raw(w, key, v->valuestring, strlen(v->valuestring));
        else
            json_put_num(w, key, v->valuedouble);
        return;
    case JSON_STRING:
        json_put_str(w, key, v->valuestring);
        return;
    case JSON_ARRAY:
    case JSON_OBJECT:
        json_open(w, key, t == JSON_ARRAY ? '[' : '{');
        for (const struct cJSON *c = v->child; c != NULL; c = c->next)
            json_put_node(w, c->string, c);
        json_close(w, t == JSON_ARRAY ? ']' : '}');
        return;
    }
}

void json_put_raw(struct json_writer *w, const char *key, const char *text, size_t n)
{
    start(w, key);
    buf_add(w->out, text, n);
}
