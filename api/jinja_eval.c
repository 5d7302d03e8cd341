/* Evaluates the expressions of a template.  Every node costs a step and a level of depth. */
#include <stdio.h>
#include <time.h>

#include "api/jinja_int.h"
#include "base/clock.h"
#include "base/utf8.h"

/* ---- globals ---- */

static const char *const funcs[] = {
    [JFUNC_RANGE] = "range",           [JFUNC_NAMESPACE] = "namespace",   [JFUNC_DICT] = "dict",
    [JFUNC_RAISE] = "raise_exception", [JFUNC_STRFTIME] = "strftime_now",
};

int jinja_func_id(const char *s, size_t n)
{
    for (int i = 1; i < (int)(sizeof funcs / sizeof *funcs); i++) {
        if (strlen(funcs[i]) == n && memcmp(funcs[i], s, n) == 0)
            return i;
    }
    return JFUNC_NOT;
}

static int call_range(struct jinja_ctx *c, const struct jargs *args, struct jv *out)
{
    int64_t v[3] = {0, 0, 1};
    if (args->n != args->n_pos || args->n < 1 || args->n > 3)
        return jinja_fail(c, ERR_INVALID, "range takes one to three integers");
    for (int i = 0; i < args->n; i++) {
        struct jv a = args->items[i].v;
        if (a.type == JV_UNDEF)
            return jinja_undefined(c, a);
        if (a.type != JV_INT && a.type != JV_BOOL)
            return jinja_fail(c, ERR_INVALID, "range: '%s' is not an integer", jinja_type_name(a));
        v[args->n == 1 ? 1 : i] = jinja_as_int(a);
    }
    if (v[2] == 0)
        return jinja_fail(c, ERR_INVALID, "range: step must not be zero");
    /* in unsigned arithmetic the distance and the step cannot overflow */
    bool some = v[2] > 0 ? v[0] < v[1] : v[0] > v[1];
    uint64_t dist = v[2] > 0 ? (uint64_t)v[1] - (uint64_t)v[0] : (uint64_t)v[0] - (uint64_t)v[1];
    uint64_t step = v[2] > 0 ? (uint64_t)v[2] : -(uint64_t)v[2];
    uint64_t n = some ? (dist - 1) / step + 1 : 0;
    if (n > JINJA_RANGE_MAX)
        return jinja_fail(c, ERR_TOOBIG, "range has more than %d elements", JINJA_RANGE_MAX);
    int rc = jinja_charge(c, n * 16);
    if (rc == 0)
        rc = jinja_list(c, JV_RANGE, n, out);
    for (uint64_t i = 0; i < n && rc == 0; i++)
        rc = jinja_push(c, *out, jinja_int((int64_t)((uint64_t)v[0] + i * (uint64_t)v[2])));
    if (rc == 0) {
        out->list->start = v[0];
        out->list->stop = v[1];
        out->list->step = v[2];
    }
    return rc;
}

/* dict and namespace: from a mapping or pairs, then named arguments. */
static int call_dict(struct jinja_ctx *c, enum jv_type type, const struct jargs *args,
                     struct jv *out)
{
    int rc = jinja_dict(c, type, (size_t)args->n, out);
    if (rc == 0 && args->n_pos > 1)
        rc = jinja_fail(c, ERR_INVALID, "dict takes one positional argument at most");
    if (rc == 0 && args->n_pos == 1) {
        struct jv from = args->items[0].v, list;
        rc = jinja_iterate(c, from, &list);
        for (size_t i = 0; rc == 0 && i < list.list->n; i++) {
            struct jv pair = list.list->items[i], two;
            if (from.type == JV_DICT) {
                rc = jinja_dict_set(c, *out, pair, from.dict->items[i].value);
                continue;
            }
            rc = jinja_iterate(c, pair, &two);
            if (rc == 0 && two.list->n != 2)
                rc = jinja_fail(c, ERR_INVALID, "dict: element %zu is not a pair", i);
            if (rc == 0)
                rc = jinja_dict_set(c, *out, two.list->items[0], two.list->items[1]);
        }
    }
    for (int i = args->n_pos; i < args->n && rc == 0; i++) {
        const struct jarg *a = &args->items[i];
        rc = jinja_dict_set(c, *out, jinja_strn(a->name, a->len), a->v);
    }
    return rc;
}

static int call_raise(struct jinja_ctx *c, const struct jargs *args)
{
    struct jv s;
    if (args->n != 1)
        return jinja_fail(c, ERR_INVALID, "raise_exception takes one message");
    int rc = jinja_str(c, args->items[0].v, &s);
    if (rc != 0)
        return rc;
    char msg[240];
    size_t n = s.n < sizeof msg - 1 ? utf8_whole(s.s, s.n) : utf8_whole(s.s, sizeof msg - 1);
    for (size_t i = 0; i < n; i++)
        msg[i] = (unsigned char)s.s[i] < 32 || s.s[i] == 127 ? ' ' : s.s[i];
    err_set(c->e, ERR_INVALID, "%.*s", (int)n, msg);
    err_reason(c->e, "template_rejected");
    return ERR_INVALID;
}

static int call_strftime(struct jinja_ctx *c, const struct jargs *args, struct jv *out)
{
    struct buf b;
    char fmt[256], text[1024];
    if (args->n != 1 || args->items[0].v.type != JV_STR || args->items[0].v.n >= sizeof fmt)
        return jinja_fail(c, ERR_INVALID, "strftime_now takes one format, shorter than 256 bytes");
    struct jv f = args->items[0].v;
    memcpy(fmt, f.s, f.n);
    fmt[f.n] = 0;
    time_t now = (time_t)(c->lim.now_unix_s ? c->lim.now_unix_s : clock_unix_s());
    struct tm tm;
    if (!localtime_r(&now, &tm))
        return jinja_fail(c, ERR_INVALID, "strftime_now: the time is out of range");
    jinja_buf(c, &b);
    buf_add(&b, text, strftime(text, sizeof text, fmt, &tm));
    return jinja_take(c, &b, out);
}

int jinja_call(struct jinja_ctx *c, struct jv f, const struct jargs *args, struct jv *out)
{
    *out = jinja_none();
    if (f.type == JV_UNDEF)
        return jinja_undefined(c, f);
    if (f.type == JV_METHOD)
        return jinja_method_call(c, f.method, args, out);
    if (f.type == JV_MACRO)
        return jinja_macro_call(c, f.macro, args, out);
    if (f.type != JV_FUNC)
        return jinja_fail(c, f.type == JV_LOOP ? ERR_UNSUPPORTED : ERR_INVALID,
                          "'%s' object is not callable", jinja_type_name(f));
    switch ((enum jfunc)f.i) {
    case JFUNC_RANGE:
        return call_range(c, args, out);
    case JFUNC_NAMESPACE:
        return call_dict(c, JV_NS, args, out);
    case JFUNC_DICT:
        return call_dict(c, JV_DICT, args, out);
    case JFUNC_RAISE:
        return call_raise(c, args);
    default:
        return call_strftime(c, args, out);
    }
}

/* ---- expressions ---- */

static int args_add(struct jinja_ctx *c, struct jargs *args, struct jarg a)
{
    if (args->n == args->cap) {
        int cap = args->cap ? args->cap * 2 : 4;
        struct jarg *items = arena_array(&c->a, (size_t)cap, sizeof *items);
        if (!items || cap > 1 << 20)
            return jinja_nomem(c);
        if (args->n)
            memcpy(items, args->items, (size_t)args->n * sizeof *items);
        args->items = items;
        args->cap = cap;
    }
    args->items[args->n++] = a;
    args->n_pos += a.name == NULL;
    return 0;
}

/* *list or **dict */
static int args_spread(struct jinja_ctx *c, struct jargs *args, bool named, struct jv v)
{
    struct jv list;
    if (named && v.type != JV_DICT)
        return v.type == JV_UNDEF ? jinja_undefined(c, v)
                                  : jinja_fail(c, ERR_INVALID, "a mapping is expected after **");
    int rc = jinja_iterate(c, v, &list);
    for (size_t i = 0; rc == 0 && i < list.list->n; i++) {
        struct jv item = list.list->items[i];
        if (named && item.type != JV_STR)
            rc = jinja_fail(c, ERR_INVALID, "names of arguments must be strings");
        else if (named)
            rc = args_add(c, args, (struct jarg){item.s, item.n, v.dict->items[i].value});
        else
            rc = args_add(c, args, (struct jarg){.v = item});
    }
    return rc;
}

static int args_eval(struct jinja_ctx *c, struct jargs *args, const struct jnode *k)
{
    struct jarg a = {0};
    bool named = k->type == JN_KWARG, spread = k->type == JN_STAR || k->type == JN_STARS;
    int rc = jinja_eval(c, named || spread ? k->a : k, &a.v);
    if (rc != 0)
        return rc;
    if (spread)
        return args_spread(c, args, k->type == JN_STARS, a.v);
    if (named) {
        a.name = k->value.s;
        a.len = k->value.n;
    }
    return args_add(c, args, a);
}

/* Positional arguments first, wherever *list stands. */
int jinja_args(struct jinja_ctx *c, const struct jnode *list, struct jargs *args)
{
    int rc = 0;
    *args = (struct jargs){0};
    for (int named = 0; named < 2; named++) {
        for (const struct jnode *k = list; k && rc == 0; k = k->next) {
            if ((k->type == JN_KWARG || k->type == JN_STARS) == named)
                rc = args_eval(c, args, k);
        }
    }
    return rc;
}

static int eval_list(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct jv list, v;
    int rc = jinja_list(c, n->type == JN_LIST ? JV_LIST : JV_TUPLE, 0, &list);
    for (const struct jnode *k = n->a; k && rc == 0; k = k->next) {
        rc = jinja_eval(c, k, &v);
        if (rc == 0)
            rc = jinja_push(c, list, v);
    }
    *out = list;
    return rc;
}

static int eval_dict(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct jv dict, key, v;
    int rc = jinja_dict(c, JV_DICT, 0, &dict);
    for (const struct jnode *k = n->a; k && rc == 0; k = k->next) {
        rc = jinja_eval(c, k->a, &key);
        if (rc == 0)
            rc = jinja_eval(c, k->b, &v);
        if (rc == 0)
            rc = jinja_dict_set(c, dict, key, v);
    }
    *out = dict;
    return rc;
}

static int eval_logic(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    int rc = jinja_eval(c, n->a, out);
    if (rc != 0)
        return rc;
    if (n->type == JN_NOT) {
        *out = jinja_bool(!jinja_truth(*out));
        return 0;
    }
    return jinja_truth(*out) == (n->type == JN_AND) ? jinja_eval(c, n->b, out) : 0;
}

static int eval_cond(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    int rc = jinja_eval(c, n->b, out);
    if (rc != 0)
        return rc;
    if (jinja_truth(*out))
        return jinja_eval(c, n->a, out);
    if (n->c)
        return jinja_eval(c, n->c, out);
    *out = jinja_undef("inline if", 9);
    return 0;
}

static int eval_compare(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct jv left, right;
    bool hit = true;
    int rc = jinja_eval(c, n->a, &left);
    for (const struct jnode *o = n->b; o && rc == 0 && hit; o = o->next) {
        rc = jinja_eval(c, o->a, &right);
        if (rc == 0)
            rc = jinja_compare(c, o->op, left, right, &hit);
        left = right;
    }
    *out = jinja_bool(hit);
    return rc;
}

static int eval_concat(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct buf b;
    int rc = 0;
    jinja_buf(c, &b);
    for (const struct jnode *k = n->a; k && rc == 0; k = k->next) {
        struct jv v;
        rc = jinja_eval(c, k, &v);
        if (rc == 0)
            rc = jinja_print(c, v, &b);
        if (k == n->e)
            break;
    }
    if (rc == 0)
        return jinja_take(c, &b, out);
    buf_free(&b);
    return rc;
}

static int eval_binary(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct jv a, b;
    int rc = jinja_eval(c, n->a, &a);
    if (rc == 0)
        rc = jinja_eval(c, n->b, &b);
    return rc == 0 ? jinja_binary(c, n->op, a, b, out) : rc;
}

static int eval_sign(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct jv v;
    int rc = jinja_eval(c, n->a, &v);
    if (rc != 0)
        return rc;
    if (n->type == JN_NEG)
        return jinja_neg(c, v, out);
    return jinja_binary(c, T_ADD, jinja_int(0), v, out);
}

static int eval_item(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct jv obj, key;
    int rc = jinja_eval(c, n->a, &obj);
    if (rc == 0 && n->type == JN_ATTR)
        return jinja_attr(c, obj, n->value.s, n->value.n, out);
    if (rc == 0)
        rc = jinja_eval(c, n->b, &key);
    return rc == 0 ? jinja_item(c, obj, key, out) : rc;
}

static int eval_slice(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct jv obj, part[3] = {{0}};
    const struct jnode *const nodes[] = {n->b, n->c, n->d};
    int rc = jinja_eval(c, n->a, &obj);
    for (int i = 0; i < 3 && rc == 0; i++)
        rc = nodes[i] ? jinja_eval(c, nodes[i], &part[i]) : 0;
    return rc == 0 ? jinja_slice(c, obj, part, out) : rc;
}

static int eval_call(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct jv f = {0};
    struct jargs args = {0};
    int rc = n->a ? jinja_eval(c, n->a, &f) : 0;
    if (rc == 0)
        rc = jinja_args(c, n->b, &args);
    if (rc != 0)
        return rc;
    c->line = n->line;
    if (n->type == JN_CALL)
        return jinja_call(c, f, &args, out);
    if (n->type == JN_FILTER)
        return jinja_filter(c, n->value, f, &args, out);
    bool hit;
    rc = jinja_test(c, n->value, f, &args, &hit);
    *out = jinja_bool(hit);
    return rc;
}

static int eval_node(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    switch (n->type) {
    case JN_CONST:
        *out = n->value;
        return 0;
    case JN_NAME:
        if (!jinja_lookup(c, n->sym, out))
            *out = jinja_undef(n->sym->p, n->sym->n);
        return 0;
    case JN_LIST:
    case JN_TUPLE:
        return eval_list(c, n, out);
    case JN_DICT:
        return eval_dict(c, n, out);
    case JN_COND:
        return eval_cond(c, n, out);
    case JN_OR:
    case JN_AND:
    case JN_NOT:
        return eval_logic(c, n, out);
    case JN_COMPARE:
        return eval_compare(c, n, out);
    case JN_BINARY:
        return eval_binary(c, n, out);
    case JN_CONCAT:
        return eval_concat(c, n, out);
    case JN_NEG:
    case JN_POS:
        return eval_sign(c, n, out);
    case JN_ATTR:
    case JN_ITEM:
        return eval_item(c, n, out);
    case JN_SLICE:
        return eval_slice(c, n, out);
    case JN_CALL:
    case JN_FILTER:
    case JN_TEST:
        return eval_call(c, n, out);
    default:
        return jinja_fail(c, ERR_INVALID, "this is not an expression");
    }
}

int jinja_eval(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct jv v = {0};
    c->line = n->line;
    int rc = c->depth < JINJA_EVAL_DEPTH
                 ? jinja_charge(c, 0)
                 : jinja_fail(c, ERR_TOOBIG, "the template recurses too deeply");
    if (rc == 0) {
        c->depth++;
        rc = eval_node(c, n, &v);
        c->depth--;
    }
    *out = v;
    return rc;
}
