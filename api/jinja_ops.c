/* Operators of Jinja expressions with Python's rules: which types go together, integers that stay
 * integers, floor division and modulo with the divisor's sign, comparison of nested values.
 * Integers have 64 bits; what Python would compute with more is an error here. */
#include <math.h>

#include "api/jinja_int.h"

static int op_type_error(struct jinja_ctx *c, const char *op, struct jv a, struct jv b)
{
    if (a.type == JV_UNDEF)
        return jinja_undefined(c, a);
    if (b.type == JV_UNDEF)
        return jinja_undefined(c, b);
    return jinja_fail(c, ERR_INVALID, "'%s' does not work on '%s' and '%s'", op, jinja_type_name(a),
                      jinja_type_name(b));
}

static int op_overflow(struct jinja_ctx *c)
{
    return jinja_fail(c, ERR_INVALID, "a number is too large");
}

static int op_zero(struct jinja_ctx *c)
{
    return jinja_fail(c, ERR_INVALID, "division by zero");
}

/* ---- equality and order ---- */

static int equal_dicts(struct jinja_ctx *c, struct jv a, struct jv b, int depth, bool *out)
{
    *out = a.dict->n == b.dict->n;
    for (size_t i = 0; i < a.dict->n && *out; i++) {
        struct jpair *p;
        int rc = jinja_dict_find(c, b, a.dict->items[i].key, &p);
        if (rc != 0)
            return rc;
        *out = p != NULL;
        rc = p ? jinja_equal(c, a.dict->items[i].value, p->value, depth + 1, out) : 0;
        if (rc != 0)
            return rc;
    }
    return 0;
}

int jinja_equal(struct jinja_ctx *c, struct jv a, struct jv b, int depth, bool *out)
{
    int rc = jinja_nested(c, depth, 0);
    *out = false;
    if (rc != 0)
        return rc;
    if (jinja_is_num(a) && jinja_is_num(b)) {
        *out = a.type == JV_FLOAT || b.type == JV_FLOAT ? jinja_as_float(a) == jinja_as_float(b)
                                                        : jinja_as_int(a) == jinja_as_int(b);
        return 0;
    }
    if (a.type != b.type)
        return 0;
    switch (a.type) {
    case JV_UNDEF:
    case JV_NONE:
        *out = true;
        return 0;
    case JV_STR:
        *out = a.n == b.n && memcmp(a.s, b.s, a.n) == 0;
        return jinja_charge(c, *out ? a.n : 0);
    case JV_LIST:
    case JV_TUPLE:
    case JV_RANGE:
        *out = a.list->n == b.list->n;
        for (size_t i = 0; i < a.list->n && *out && rc == 0; i++)
            rc = jinja_equal(c, a.list->items[i], b.list->items[i], depth + 1, out);
        return rc;
    case JV_DICT:
        return equal_dicts(c, a, b, depth, out);
    default:
        *out = a.list == b.list || (a.type == JV_FUNC && a.i == b.i);
        return 0;
    }
}

static int order_nums(struct jv a, struct jv b)
{
    if (a.type != JV_FLOAT && b.type != JV_FLOAT) {
        int64_t x = jinja_as_int(a), y = jinja_as_int(b);
        return x < y ? -1 : x > y;
    }
    double x = jinja_as_float(a), y = jinja_as_float(b);
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
}

/* UTF-8 orders as its code points do. */
static int order_strs(struct jv a, struct jv b)
{
    int d = memcmp(a.s, b.s, a.n < b.n ? a.n : b.n);
    if (d != 0)
        return d < 0 ? -1 : 1;
    return a.n < b.n ? -1 : a.n > b.n;
}

int jinja_order(struct jinja_ctx *c, struct jv a, struct jv b, int depth, int *out)
{
    bool strs = a.type == JV_STR && b.type == JV_STR;
    int rc = jinja_nested(c, depth, strs ? a.n < b.n ? a.n : b.n : 0);
    if (rc != 0)
        return rc;
    if (jinja_is_num(a) && jinja_is_num(b)) {
        *out = order_nums(a, b);
        return 0;
    }
    if (strs) {
        *out = order_strs(a, b);
        return 0;
    }
    if (a.type != b.type || (a.type != JV_LIST && a.type != JV_TUPLE))
        return op_type_error(c, "<", a, b);
    size_t n = a.list->n < b.list->n ? a.list->n : b.list->n;
    for (size_t i = 0; i < n; i++) {
        bool same;
        rc = jinja_equal(c, a.list->items[i], b.list->items[i], depth + 1, &same);
        if (rc != 0)
            return rc;
        if (!same)
            return jinja_order(c, a.list->items[i], b.list->items[i], depth + 1, out);
    }
    *out = a.list->n < b.list->n ? -1 : a.list->n > b.list->n;
    return 0;
}

int jinja_in(struct jinja_ctx *c, struct jv a, struct jv b, bool *out)
{
    *out = false;
    if (b.type == JV_STR) {
        if (a.type != JV_STR)
            return op_type_error(c, "in", a, b);
        *out = jinja_find(b.s, b.n, a) != NULL;
        return jinja_charge(c, jinja_find_cost(b.n, a));
    }
    if (b.type == JV_DICT) {
        struct jpair *p;
        int rc = jinja_dict_find(c, b, a, &p);
        *out = p != NULL;
        return rc;
    }
    struct jv items;
    int rc = jinja_iterate(c, b, &items);
    for (size_t i = 0; rc == 0 && i < items.list->n && !*out; i++)
        rc = jinja_equal(c, items.list->items[i], a, 0, out);
    return rc;
}

int jinja_compare(struct jinja_ctx *c, int op, struct jv a, struct jv b, bool *out)
{
    int order = 0, rc;
    if (op == T_EQ || op == T_NE) {
        rc = jinja_equal(c, a, b, 0, out);
        *out = *out == (op == T_EQ);
        return rc;
    }
    if (op == JOP_IN || op == JOP_NOTIN) {
        rc = jinja_in(c, a, b, out);
        *out = *out == (op == JOP_IN);
        return rc;
    }
    rc = jinja_order(c, a, b, 0, &order);
    *out = order != 2 && (op == T_LT   ? order < 0
                          : op == T_LE ? order <= 0
                          : op == T_GT ? order > 0
                                       : order >= 0);
    return rc;
}

/* ---- arithmetic ---- */

static int concat_lists(struct jinja_ctx *c, struct jv a, struct jv b, struct jv *out)
{
    size_t n = a.list->n + b.list->n;
    int rc = jinja_charge(c, n * 16);
    if (rc == 0)
        rc = jinja_list(c, a.type, n, out);
    if (rc != 0)
        return rc;
    if (a.list->n)
        memcpy(out->list->items, a.list->items, a.list->n * sizeof(struct jv));
    if (b.list->n)
        memcpy(out->list->items + a.list->n, b.list->items, b.list->n * sizeof(struct jv));
    out->list->n = n;
    return 0;
}

static int concat_strs(struct jinja_ctx *c, struct jv a, struct jv b, struct jv *out)
{
    size_t n = (size_t)a.n + b.n;
    if (n > c->lim.max_output_bytes)
        return jinja_fail(c, ERR_TOOBIG, "a string is too long");
    if (a.n == 0 || b.n == 0) {
        *out = a.n ? a : b;
        return 0;
    }
    char *s = arena_alloc(&c->a, n);
    if (!s)
        return jinja_nomem(c);
    memcpy(s, a.s, a.n);
    memcpy(s + a.n, b.s, b.n);
    *out = jinja_strn(s, n);
    return jinja_charge(c, n);
}

/* Text that is safe stays so: what it is added to is escaped, on either side (MarkupSafe). */
static int op_add(struct jinja_ctx *c, struct jv a, struct jv b, struct jv *out)
{
    if (a.type == JV_STR && b.type == JV_STR) {
        const bool safe = a.safe || b.safe;
        int rc = safe ? jinja_escape(c, a, &a) : 0;
        if (rc == 0 && safe)
            rc = jinja_escape(c, b, &b);
        if (rc == 0)
            rc = concat_strs(c, a, b, out);
        out->safe = rc == 0 && safe;
        return rc;
    }
    if (a.type == b.type && (a.type == JV_LIST || a.type == JV_TUPLE))
        return concat_lists(c, a, b, out);
    return op_type_error(c, "+", a, b);
}

static int op_repeat(struct jinja_ctx *c, struct jv a, int64_t times, struct jv *out)
{
    size_t size = a.type == JV_STR ? a.n : a.list->n * sizeof(struct jv);
    if (times < 0 || size == 0)
        times = 0;
    if (times > 0 && (size_t)times > c->lim.max_output_bytes / size)
        return jinja_fail(c, ERR_TOOBIG, "a repeated value is too long");
    int rc = jinja_charge(c, size * (size_t)times);
    if (rc != 0)
        return rc;
    if (a.type == JV_STR) {
        char *s = arena_alloc(&c->a, a.n * (size_t)times + 1);
        if (!s)
            return jinja_nomem(c);
        for (int64_t i = 0; i < times; i++)
            memcpy(s + (size_t)i * a.n, a.s, a.n);
        *out = jinja_strn(s, a.n * (size_t)times);
        out->safe = a.safe;
        return 0;
    }
    rc = jinja_list(c, a.type, a.list->n * (size_t)times, out);
    for (int64_t i = 0; i < times && rc == 0; i++) {
        for (size_t k = 0; k < a.list->n && rc == 0; k++)
            rc = jinja_push(c, *out, a.list->items[k]);
    }
    return rc;
}

static bool is_repeatable(struct jv v)
{
    return v.type == JV_STR || v.type == JV_LIST || v.type == JV_TUPLE;
}

static bool is_whole(struct jv v)
{
    return v.type == JV_INT || v.type == JV_BOOL;
}

/* Rounds down; true: it overflows, as in all of these. */
static bool int_divide(int op, int64_t x, int64_t y, int64_t *r)
{
    if (y == -1) { /* the smallest integer divided by -1 would trap */
        *r = 0;
        return op == T_FLOORDIV && __builtin_sub_overflow(0, x, r);
    }
    *r = op == T_FLOORDIV ? x / y : x % y;
    if (x % y != 0 && (x < 0) != (y < 0))
        *r += op == T_FLOORDIV ? -1 : y;
    return false;
}

static bool int_power(int64_t x, uint64_t k, int64_t *r)
{
    *r = 1;
    for (; k > 0; k >>= 1) {
        if ((k & 1) && __builtin_mul_overflow(*r, x, r))
            return true;
        if (k > 1 && __builtin_mul_overflow(x, x, &x))
            return true;
    }
    return false;
}

static int op_int(struct jinja_ctx *c, int op, int64_t x, int64_t y, struct jv *out)
{
    int64_t r = 0;
    bool over = false;
    switch (op) {
    case T_ADD:
        over = __builtin_add_overflow(x, y, &r);
        break;
    case T_SUB:
        over = __builtin_sub_overflow(x, y, &r);
        break;
    case T_MUL:
        over = __builtin_mul_overflow(x, y, &r);
        break;
    case T_FLOORDIV:
    case T_MOD:
        if (y == 0)
            return op_zero(c);
        over = int_divide(op, x, y, &r);
        break;
    case T_POW:
        over = int_power(x, (uint64_t)y, &r);
        break;
    default:
        break;
    }
    if (over)
        return op_overflow(c);
    *out = jinja_int(r);
    return 0;
}

static int op_float(struct jinja_ctx *c, int op, double x, double y, struct jv *out)
{
    double r = 0;
    if ((op == T_DIV || op == T_FLOORDIV || op == T_MOD) && y == 0)
        return op_zero(c);
    switch (op) {
    case T_ADD:
        r = x + y;
        break;
    case T_SUB:
        r = x - y;
        break;
    case T_MUL:
        r = x * y;
        break;
    case T_DIV:
        r = x / y;
        break;
    case T_FLOORDIV:
    case T_MOD: {
        double mod = fmod(x, y);
        if (mod != 0 && (mod < 0) != (y < 0))
            mod += y;
        else if (mod == 0)
            mod = copysign(0, y);
        r = op == T_MOD ? mod : round((x - mod) / y);
        break;
    }
    case T_POW:
        r = pow(x, y);
        if (x == 0 && y < 0)
            return op_zero(c);
        if ((isnan(r) && !isnan(x) && !isnan(y)) || (isinf(r) && isfinite(x) && isfinite(y)))
            return jinja_fail(c, ERR_INVALID, "this power is not a real number");
        break;
    default:
        break;
    }
    *out = jinja_float(r);
    return 0;
}

static const char *op_text(int op)
{
    switch (op) {
    case T_ADD:
        return "+";
    case T_SUB:
        return "-";
    case T_MUL:
        return "*";
    case T_DIV:
        return "/";
    case T_FLOORDIV:
        return "//";
    case T_MOD:
        return "%";
    default:
        return "**";
    }
}

int jinja_binary(struct jinja_ctx *c, int op, struct jv a, struct jv b, struct jv *out)
{
    if (jinja_is_num(a) && jinja_is_num(b)) {
        bool whole = is_whole(a) && is_whole(b) && op != T_DIV;
        if (whole && !(op == T_POW && jinja_as_int(b) < 0))
            return op_int(c, op, jinja_as_int(a), jinja_as_int(b), out);
        return op_float(c, op, jinja_as_float(a), jinja_as_float(b), out);
    }
    if (op == T_MOD && a.type == JV_STR)
        return jinja_format(c, a, b, out);
    if (a.type == JV_UNDEF || b.type == JV_UNDEF)
        return op_type_error(c, "", a, b);
    if (op == T_ADD)
        return op_add(c, a, b, out);
    if (op == T_MUL && is_repeatable(a) && is_whole(b))
        return op_repeat(c, a, jinja_as_int(b), out);
    if (op == T_MUL && is_repeatable(b) && is_whole(a))
        return op_repeat(c, b, jinja_as_int(a), out);
    return op_type_error(c, op_text(op), a, b);
}

int jinja_neg(struct jinja_ctx *c, struct jv a, struct jv *out)
{
    if (a.type == JV_FLOAT) {
        *out = jinja_float(-a.f);
        return 0;
    }
    if (!is_whole(a))
        return op_type_error(c, "-", a, a);
    return op_int(c, T_SUB, 0, jinja_as_int(a), out);
}
