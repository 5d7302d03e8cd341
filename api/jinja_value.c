/* Values of a render: making them, reading them, and jinja2's rules for attributes and items: a
 * missing attribute or item is an undefined value, and anything but printing, testing or iterating
 * an undefined value is an error. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/jinja_int.h"
#include "base/json.h"
#include "base/utf8.h"

/* ---- errors and limits ---- */

int jinja_fail(struct jinja_ctx *c, int code, const char *fmt, ...)
{
    char msg[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    for (char *p = msg; *p; p++) {
        if ((unsigned char)*p < 32 || *p == 127)
            *p = ' ';
    }
    return err_set(c->e, code, "chat template line %d: %.*s", c->line,
                   (int)utf8_whole(msg, strlen(msg)), msg);
}

int jinja_charge(struct jinja_ctx *c, size_t bytes)
{
    c->steps_left -= 1 + (int64_t)(bytes / 256);
    if (c->steps_left < 0)
        return jinja_fail(c, ERR_TOOBIG, "the template takes too many steps");
    return 0;
}

int jinja_nested(struct jinja_ctx *c, int depth, size_t bytes)
{
    if (depth > JINJA_VALUE_DEPTH)
        return jinja_fail(c, ERR_TOOBIG, "a value nests too deeply");
    return jinja_charge(c, bytes);
}

int jinja_nomem(struct jinja_ctx *c)
{
    jinja_fail(c, ERR_TOOBIG, "the template needs too much memory");
    return ERR_TOOBIG;
}

int jinja_undefined(struct jinja_ctx *c, struct jv v)
{
    return jinja_fail(c, ERR_INVALID, "'%.*s' is undefined", (int)(v.n < 80 ? v.n : 80),
                      v.n ? v.s : "");
}

/* ---- making values ---- */

struct jv jinja_undef(const char *name, size_t n)
{
    return (struct jv){.type = JV_UNDEF, .s = name, .n = (uint32_t)n};
}

struct jv jinja_none(void)
{
    return (struct jv){.type = JV_NONE};
}

struct jv jinja_bool(bool b)
{
    return (struct jv){.type = JV_BOOL, .b = b};
}

struct jv jinja_int(int64_t i)
{
    return (struct jv){.type = JV_INT, .i = i};
}

struct jv jinja_float(double f)
{
    return (struct jv){.type = JV_FLOAT, .f = f};
}

struct jv jinja_strn(const char *s, size_t n)
{
    return (struct jv){.type = JV_STR, .s = s, .n = (uint32_t)n};
}

struct jv jinja_cstr(const char *s)
{
    return jinja_strn(s, strlen(s));
}

int jinja_list(struct jinja_ctx *c, enum jv_type type, size_t cap, struct jv *out)
{
    struct jlist *l = arena_alloc(&c->a, sizeof *l);
    if (l && cap > 0)
        l->items = arena_array(&c->a, cap, sizeof *l->items);
    if (!l || (cap > 0 && !l->items))
        return jinja_nomem(c);
    l->cap = cap;
    *out = (struct jv){.type = (uint8_t)type, .list = l};
    return 0;
}

int jinja_push(struct jinja_ctx *c, struct jv list, struct jv v)
{
    struct jlist *l = list.list;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        struct jv *items = arena_array(&c->a, cap, sizeof *items);
        if (!items)
            return jinja_nomem(c);
        if (l->n)
            memcpy(items, l->items, l->n * sizeof *items);
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = v;
    return 0;
}

int jinja_dict(struct jinja_ctx *c, enum jv_type type, size_t cap, struct jv *out)
{
    struct jdict *d = arena_alloc(&c->a, sizeof *d);
    if (d && cap > 0)
        d->items = arena_array(&c->a, cap, sizeof *d->items);
    if (!d || (cap > 0 && !d->items))
        return jinja_nomem(c);
    d->cap = cap;
    *out = (struct jv){.type = (uint8_t)type, .dict = d};
    return 0;
}

static int dict_add(struct jinja_ctx *c, struct jdict *d, struct jv key, struct jv v)
{
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 8;
        struct jpair *items = arena_array(&c->a, cap, sizeof *items);
        if (!items)
            return jinja_nomem(c);
        if (d->n)
            memcpy(items, d->items, d->n * sizeof *items);
        d->items = items;
        d->cap = cap;
    }
    d->items[d->n++] = (struct jpair){key, v};
    return 0;
}

struct jpair *jinja_dict_str(struct jv dict, const char *key, size_t n)
{
    for (size_t i = 0; i < dict.dict->n; i++) {
        struct jpair *p = &dict.dict->items[i];
        if (p->key.type == JV_STR && p->key.n == n && memcmp(p->key.s, key, n) == 0)
            return p;
    }
    return NULL;
}

int jinja_dict_find(struct jinja_ctx *c, struct jv dict, struct jv key, struct jpair **found)
{
    *found = NULL;
    int rc = jinja_charge(c, dict.dict->n * 8);
    if (rc != 0)
        return rc;
    if (key.type == JV_STR) {
        *found = jinja_dict_str(dict, key.s, key.n);
        return 0;
    }
    if (key.type == JV_LIST || key.type == JV_DICT)
        return jinja_fail(c, ERR_INVALID, "unhashable type: '%s'", jinja_type_name(key));
    for (size_t i = 0; i < dict.dict->n; i++) {
        bool same;
        rc = jinja_equal(c, dict.dict->items[i].key, key, 0, &same);
        if (rc != 0)
            return rc;
        if (same) {
            *found = &dict.dict->items[i];
            return 0;
        }
    }
    return 0;
}

int jinja_dict_set(struct jinja_ctx *c, struct jv dict, struct jv key, struct jv v)
{
    struct jpair *p;
    int rc = jinja_dict_find(c, dict, key, &p);
    if (rc != 0)
        return rc;
    if (!p)
        return dict_add(c, dict.dict, key, v);
    p->value = v;
    return 0;
}

/* As json.loads has it: what is written with a point or an exponent is a float.  Integers of more
 * than 64 bits become floats as well. */
static struct jv number_from_json(const struct cJSON *node)
{
    const char *text = json_num_text(node);
    if (text == NULL)
        return json_is_int(node) ? jinja_int((int64_t)json_num(node)) : jinja_float(json_num(node));
    errno = 0;
    const long long i = strtoll(text, NULL, 10);
    return strpbrk(text, ".eE") == NULL && errno == 0 ? jinja_int(i) : jinja_float(json_num(node));
}

int jinja_from_json(struct jinja_ctx *c, const struct cJSON *node, int depth, struct jv *out)
{
    int rc = 0;
    if (depth > JINJA_VALUE_DEPTH)
        return jinja_fail(c, ERR_TOOBIG, "the data nests too deeply");
    switch (json_type(node)) {
    case JSON_NULL:
        *out = jinja_none();
        return 0;
    case JSON_BOOL:
        *out = jinja_bool(json_bool(node));
        return 0;
    case JSON_NUMBER:
        *out = number_from_json(node);
        return 0;
    case JSON_STRING:
        *out = jinja_cstr(json_str(node));
        return 0;
    case JSON_ARRAY:
        rc = jinja_list(c, JV_LIST, (size_t)json_size(node), out);
        break;
    case JSON_OBJECT:
        rc = jinja_dict(c, JV_DICT, (size_t)json_size(node), out);
        break;
    }
    for (const struct cJSON *k = json_first(node); k && rc == 0; k = json_next(k)) {
        struct jv v;
        rc = jinja_from_json(c, k, depth + 1, &v);
        if (rc == 0 && out->type == JV_LIST)
            rc = jinja_push(c, *out, v);
        else if (rc == 0) /* json_parse has refused double keys */
            rc = dict_add(c, out->dict, jinja_cstr(json_key(k)), v);
    }
    return rc;
}

/* ---- reading values ---- */

const char *jinja_type_name(struct jv v)
{
    static const char *const names[] = {"Undefined", "Undefined", "NoneType", "bool",      "int",
                                        "float",     "str",       "list",     "tuple",     "range",
                                        "dict_view", "generator", "dict",     "Namespace", "loop",
                                        "Macro",     "function",  "method"};
    return names[v.type];
}

bool jinja_is_str(struct jv v, const char *s)
{
    return v.type == JV_STR && v.n == strlen(s) && memcmp(v.s, s, v.n) == 0;
}

bool jinja_is_num(struct jv v)
{
    return v.type == JV_BOOL || v.type == JV_INT || v.type == JV_FLOAT;
}

bool jinja_is_seq(struct jv v)
{
    return v.type == JV_LIST || v.type == JV_TUPLE || v.type == JV_RANGE;
}

bool jinja_has_list(struct jv v)
{
    return jinja_is_seq(v) || v.type == JV_VIEW || v.type == JV_GEN;
}

int64_t jinja_as_int(struct jv v)
{
    return v.type == JV_BOOL ? v.b : v.i;
}

double jinja_as_float(struct jv v)
{
    return v.type == JV_FLOAT ? v.f : (double)jinja_as_int(v);
}

bool jinja_truth(struct jv v)
{
    switch (v.type) {
    case JV_UNSET:
    case JV_UNDEF:
    case JV_NONE:
        return false;
    case JV_BOOL:
        return v.b;
    case JV_INT:
        return v.i != 0;
    case JV_FLOAT:
        return v.f != 0;
    case JV_STR:
        return v.n > 0;
    case JV_DICT:
        return v.dict->n > 0;
    case JV_LIST:
    case JV_TUPLE:
    case JV_RANGE:
    case JV_VIEW:
        return v.list->n > 0;
    default:
        return true;
    }
}

static int iterate_str(struct jinja_ctx *c, struct jv v, struct jv *out)
{
    int rc = jinja_charge(c, v.n);
    if (rc == 0)
        rc = jinja_list(c, JV_LIST, jinja_chars(v.s, v.n), out);
    for (uint32_t i = 0; i < v.n && rc == 0;) {
        uint32_t cp;
        int k = utf8_decode(v.s + i, v.n - i, &cp);
        rc = jinja_push(c, *out, jinja_strn(v.s + i, (size_t)k));
        i += (uint32_t)k;
    }
    return rc;
}

int jinja_iterate(struct jinja_ctx *c, struct jv v, struct jv *out)
{
    int rc;
    switch (v.type) {
    case JV_UNDEF:
        return jinja_list(c, JV_LIST, 0, out);
    case JV_LIST:
        *out = v;
        return 0;
    case JV_TUPLE:
    case JV_RANGE:
    case JV_VIEW:
        *out = v;
        out->type = JV_LIST;
        return 0;
    case JV_GEN:
        rc = jinja_list(c, JV_LIST, 0, out);
        if (rc == 0) { /* a window on what is left */
            out->list->items = v.list->items ? v.list->items + v.list->pos : NULL;
            out->list->n = out->list->cap = v.list->n - v.list->pos;
            v.list->pos = v.list->n;
        }
        return rc;
    case JV_DICT:
        rc = jinja_list(c, JV_LIST, v.dict->n, out);
        for (size_t i = 0; i < v.dict->n && rc == 0; i++)
            rc = jinja_push(c, *out, v.dict->items[i].key);
        return rc;
    case JV_STR:
        return iterate_str(c, v, out);
    default:
        return jinja_fail(c, ERR_INVALID, "'%s' object is not iterable", jinja_type_name(v));
    }
}

int jinja_length(struct jinja_ctx *c, struct jv v, int64_t *n)
{
    switch (v.type) {
    case JV_UNDEF:
        *n = 0;
        return 0;
    case JV_STR:
        *n = (int64_t)jinja_chars(v.s, v.n);
        return jinja_charge(c, v.n);
    case JV_DICT:
        *n = (int64_t)v.dict->n;
        return 0;
    case JV_LIST:
    case JV_TUPLE:
    case JV_RANGE:
    case JV_VIEW:
        *n = (int64_t)v.list->n;
        return 0;
    case JV_LOOP:
        *n = (int64_t)v.loop->items->n;
        return 0;
    default:
        return jinja_fail(c, ERR_INVALID, "object of type '%s' has no len()", jinja_type_name(v));
    }
}

/* ---- attributes and items ---- */

static bool loop_attr(const struct jloop *l, struct jv name, struct jv *out)
{
    int64_t i = (int64_t)l->i, n = (int64_t)l->items->n;
    struct jv none = jinja_undef(name.s, name.n);
    if (jinja_is_str(name, "index"))
        *out = jinja_int(i + 1);
    else if (jinja_is_str(name, "index0"))
        *out = jinja_int(i);
    else if (jinja_is_str(name, "revindex"))
        *out = jinja_int(n - i);
    else if (jinja_is_str(name, "revindex0"))
        *out = jinja_int(n - i - 1);
    else if (jinja_is_str(name, "first"))
        *out = jinja_bool(i == 0);
    else if (jinja_is_str(name, "last"))
        *out = jinja_bool(i == n - 1);
    else if (jinja_is_str(name, "length"))
        *out = jinja_int(n);
    else if (jinja_is_str(name, "previtem"))
        *out = i > 0 ? l->items->items[i - 1] : none;
    else if (jinja_is_str(name, "nextitem"))
        *out = i < n - 1 ? l->items->items[i + 1] : none;
    else if (jinja_is_str(name, "depth"))
        *out = jinja_int(1);
    else if (jinja_is_str(name, "depth0"))
        *out = jinja_int(0);
    else
        return false;
    return true;
}

/* What Python's getattr finds; the items of a dict are not attributes. */
static int own_attr(struct jinja_ctx *c, struct jv obj, struct jv name, bool *found, struct jv *out)
{
    *found = true;
    if (obj.type == JV_LOOP && loop_attr(obj.loop, name, out))
        return 0;
    if (obj.type == JV_NS) {
        struct jpair *p = jinja_dict_str(obj, name.s, name.n);
        *found = p != NULL;
        if (p)
            *out = p->value;
        return jinja_charge(c, obj.dict->n * 8);
    }
    if (obj.type == JV_MACRO && jinja_is_str(name, "name")) {
        const struct jsym *y = obj.macro->node->sym;
        *out = jinja_strn(y->p, y->n);
        return 0;
    }
    if (obj.type == JV_TUPLE && obj.list->kind == JLIST_GROUP) {
        *out = obj.list->items[jinja_is_str(name, "list")];
        if (jinja_is_str(name, "list") || jinja_is_str(name, "grouper"))
            return 0;
    }
    int id = jinja_method_id(obj, name.s, name.n);
    *found = id >= 0;
    if (id < 0)
        return 0;
    struct jmethod *m = arena_alloc(&c->a, sizeof *m);
    if (!m)
        return jinja_nomem(c);
    *m = (struct jmethod){.self = obj, .id = id};
    *out = (struct jv){.type = JV_METHOD, .method = m};
    return 0;
}

int jinja_attr(struct jinja_ctx *c, struct jv obj, const char *name, size_t n, struct jv *out)
{
    if (obj.type == JV_UNDEF)
        return jinja_undefined(c, obj);
    bool found;
    struct jv v = {0};
    int rc = own_attr(c, obj, jinja_strn(name, n), &found, &v);
    if (rc != 0)
        return rc;
    if (!found && obj.type == JV_DICT) {
        struct jpair *p = jinja_dict_str(obj, name, n);
        found = p != NULL;
        if (p)
            v = p->value;
        rc = jinja_charge(c, obj.dict->n * 8);
    }
    *out = found ? v : jinja_undef(name, n);
    return rc;
}

int jinja_item(struct jinja_ctx *c, struct jv obj, struct jv key, struct jv *out)
{
    if (obj.type == JV_UNDEF)
        return jinja_undefined(c, obj);
    bool is_index = key.type == JV_INT || key.type == JV_BOOL;
    if (obj.type == JV_DICT) {
        struct jpair *p = NULL;
        bool hashable = key.type != JV_LIST && key.type != JV_DICT;
        int rc = hashable ? jinja_dict_find(c, obj, key, &p) : 0;
        if (rc != 0)
            return rc;
        if (p) {
            *out = p->value;
            return 0;
        }
    } else if (is_index && (jinja_is_seq(obj) || obj.type == JV_STR)) {
        int64_t n, i = jinja_as_int(key);
        int rc = jinja_length(c, obj, &n);
        if (rc != 0)
            return rc;
        if (i < 0)
            i += n;
        if (i >= 0 && i < n && obj.type != JV_STR) {
            *out = obj.list->items[i];
            return 0;
        }
        if (i >= 0 && i < n) {
            size_t from = jinja_char_at(obj.s, obj.n, (size_t)i);
            uint32_t cp;
            *out = jinja_strn(obj.s + from, (size_t)utf8_decode(obj.s + from, obj.n - from, &cp));
            return 0;
        }
    }
    if (key.type == JV_STR) {
        bool found;
        int rc = own_attr(c, obj, key, &found, out);
        if (rc != 0 || found)
            return rc;
        *out = jinja_undef(key.s, key.n);
        return 0;
    }
    *out = jinja_undef("item", 4);
    return 0;
}

/* ---- slices ---- */

static int64_t clamp(int64_t v, int64_t lo, int64_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* Python's rules: absent parts depend on the sign of step; negative ones count from the end. */
static int slice_bounds(struct jinja_ctx *c, const struct jv part[3], int64_t n, int64_t b[3])
{
    for (int i = 0; i < 3; i++) {
        if (part[i].type == JV_UNDEF)
            return jinja_undefined(c, part[i]);
        if (part[i].type > JV_INT)
            return jinja_fail(c, ERR_INVALID, "slice indices must be integers or None");
    }
    bool given[3];
    for (int i = 0; i < 3; i++)
        given[i] = part[i].type == JV_INT || part[i].type == JV_BOOL;
    int64_t step = given[2] ? jinja_as_int(part[2]) : 1;
    if (step == 0)
        return jinja_fail(c, ERR_INVALID, "slice step cannot be zero");
    step = clamp(step, -((int64_t)1 << 40), (int64_t)1 << 40);
    int64_t lo = step > 0 ? 0 : -1, hi = step > 0 ? n : n - 1;
    for (int i = 0; i < 2; i++) {
        bool low = (i == 0) == (step > 0);
        int64_t v = low ? lo : hi;
        if (given[i]) {
            v = clamp(jinja_as_int(part[i]), -n - 1, n);
            v = clamp(v < 0 ? v + n : v, lo, hi);
        }
        b[i] = v;
    }
    b[2] = step;
    return 0;
}

static int slice_str(struct jinja_ctx *c, struct jv obj, const int64_t b[3], struct jv *out)
{
    if (b[2] == 1) {
        size_t from = jinja_char_at(obj.s, obj.n, (size_t)b[0]);
        size_t to = b[1] > b[0] ? jinja_char_at(obj.s, obj.n, (size_t)b[1]) : from;
        *out = jinja_strn(obj.s + from, to - from);
        return 0;
    }
    struct jv chars;
    struct buf r;
    int rc = iterate_str(c, obj, &chars);
    if (rc != 0)
        return rc;
    jinja_buf(c, &r);
    for (int64_t i = b[0]; b[2] > 0 ? i < b[1] : i > b[1]; i += b[2])
        buf_add(&r, chars.list->items[i].s, chars.list->items[i].n);
    return jinja_take(c, &r, out);
}

int jinja_slice(struct jinja_ctx *c, struct jv obj, const struct jv part[3], struct jv *out)
{
    int64_t n, b[3] = {0, 0, 1};
    if (obj.type == JV_UNDEF)
        return jinja_undefined(c, obj);
    if (!jinja_is_seq(obj) && obj.type != JV_STR)
        return jinja_fail(c, ERR_INVALID, "'%s' object is not subscriptable", jinja_type_name(obj));
    int rc = jinja_length(c, obj, &n);
    if (rc == 0)
        rc = slice_bounds(c, part, n, b);
    if (rc != 0)
        return rc;
    if (obj.type == JV_STR)
        return slice_str(c, obj, b, out);
    rc = jinja_list(c, obj.type, 0, out);
    if (rc == 0 && obj.type == JV_RANGE) {
        const struct jlist *r = obj.list;
        uint64_t start = (uint64_t)r->start, step = (uint64_t)r->step; /* may wrap */
        out->list->start = (int64_t)(start + (uint64_t)b[0] * step);
        out->list->stop = (int64_t)(start + (uint64_t)b[1] * step);
        out->list->step = (int64_t)(step * (uint64_t)b[2]);
    }
    for (int64_t i = b[0]; rc == 0 && (b[2] > 0 ? i < b[1] : i > b[1]); i += b[2])
        rc = jinja_push(c, *out, obj.list->items[i]);
    return rc == 0 ? jinja_charge(c, out->list->n * 16) : rc;
}
