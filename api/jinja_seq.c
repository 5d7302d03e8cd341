/* Filters on lists: picking, ordering, grouping.  What gives an iterator in Python gives a JV_GEN,
 * computed at once and read once. */
#include "api/jinja_int.h"

static bool given(struct jv v)
{
    return v.type != JV_UNSET;
}

static int as_gen(struct jv *out)
{
    out->type = JV_GEN;
    return 0;
}

/* The attribute path "a.b.0" of v; path may also be an integer or JV_UNSET (v itself).  absent,
 * unless unset, stands in for what is undefined at any step. */
static int attr_path_or(struct jinja_ctx *c, struct jv v, struct jv path, struct jv absent,
                        struct jv *out)
{
    *out = v;
    if (!given(path) || path.type == JV_NONE)
        return 0;
    if (path.type == JV_INT) {
        int rc = jinja_item(c, v, path, out);
        if (out->type == JV_UNDEF && given(absent))
            *out = absent;
        return rc;
    }
    if (path.type != JV_STR)
        return jinja_fail(c, ERR_INVALID, "an attribute's name is expected");
    for (uint32_t i = 0; i <= path.n;) {
        const char *dot = memchr(path.s + i, '.', path.n - i);
        struct jv part = jinja_strn(path.s + i, dot ? (size_t)(dot - path.s) - i : path.n - i);
        int64_t index = 0;
        bool digits = part.n > 0 && part.n < 10;
        for (uint32_t k = 0; digits && k < part.n; k++) {
            digits = part.s[k] >= '0' && part.s[k] <= '9';
            index = index * 10 + (part.s[k] - '0');
        }
        int rc = jinja_item(c, *out, digits ? jinja_int(index) : part, out);
        if (rc != 0)
            return rc;
        if (out->type == JV_UNDEF && given(absent))
            *out = absent;
        i += part.n + 1;
    }
    return 0;
}

static int attr_path(struct jinja_ctx *c, struct jv v, struct jv path, struct jv *out)
{
    return attr_path_or(c, v, path, (struct jv){0}, out);
}

/* What sort, min, unique and groupby compare: lower case unless case_sensitive. */
static int fold(struct jinja_ctx *c, struct jv v, bool case_sensitive, struct jv *out)
{
    *out = v;
    return v.type == JV_STR && !case_sensitive ? jinja_case(c, v, CASE_LOWER, out) : 0;
}

static int key_of(struct jinja_ctx *c, struct jv v, struct jv path, bool case_sensitive,
                  struct jv *out)
{
    int rc = attr_path(c, v, path, out);
    return rc == 0 ? fold(c, *out, case_sensitive, out) : rc;
}

/* What sort compares: a list of the values of the attributes "a,b", also for one or none. */
static int sort_key(struct jinja_ctx *c, struct jv v, struct jv path, bool case_sensitive,
                    struct jv *out)
{
    struct jv one;
    int rc = jinja_list(c, JV_LIST, 1, out);
    if (rc == 0 && path.type != JV_STR) {
        rc = key_of(c, v, path, case_sensitive, &one);
        return rc == 0 ? jinja_push(c, *out, one) : rc;
    }
    for (uint32_t i = 0; i <= path.n && rc == 0;) {
        const char *comma = memchr(path.s + i, ',', path.n - i);
        size_t n = comma ? (size_t)(comma - path.s) - i : path.n - i;
        struct jv key;
        rc = key_of(c, v, jinja_strn(path.s + i, n), case_sensitive, &key);
        if (rc == 0)
            rc = jinja_push(c, *out, key);
        i += (uint32_t)n + 1;
    }
    return rc;
}

/* ---- order ---- */

struct keyed {
    struct jv key, value;
};

/* Merges two sorted runs of from into to; stable, also in reverse. */
static int merge_runs(struct jinja_ctx *c, const struct keyed *from, struct keyed *to,
                      const size_t bound[3], bool reverse)
{
    size_t i = bound[0], j = bound[1], k = bound[0];
    while (i < bound[1] || j < bound[2]) {
        bool second = i >= bound[1];
        if (i < bound[1] && j < bound[2]) {
            int order;
            int rc = reverse ? jinja_order(c, from[i].key, from[j].key, 0, &order)
                             : jinja_order(c, from[j].key, from[i].key, 0, &order);
            if (rc != 0)
                return rc;
            second = order == -1;
        }
        to[k++] = second ? from[j++] : from[i++];
    }
    return 0;
}

static int merge_sort(struct jinja_ctx *c, struct keyed *a, size_t n, bool reverse,
                      struct keyed **sorted)
{
    struct keyed *b = arena_array(&c->a, n, sizeof *b);
    if (!b)
        return jinja_nomem(c);
    for (size_t run = 1; run < n; run *= 2) {
        for (size_t i = 0; i < n; i += 2 * run) {
            size_t mid = i + run < n ? i + run : n, end = mid + run < n ? mid + run : n;
            int rc = merge_runs(c, a, b, (size_t[3]){i, mid, end}, reverse);
            if (rc != 0)
                return rc;
        }
        struct keyed *t = a;
        a = b;
        b = t;
    }
    *sorted = a;
    return 0;
}

typedef int (*key_fn)(struct jinja_ctx *c, struct jv v, struct jv path, bool case_sensitive,
                      struct jv *out);

static int sorted_list(struct jinja_ctx *c, struct jv list, key_fn key, const struct jv *arg,
                       struct jv *out)
{
    bool reverse = jinja_truth(arg[0]), case_sensitive = jinja_truth(arg[1]);
    size_t n = list.list->n;
    int rc = jinja_list(c, JV_LIST, n, out);
    if (rc != 0 || n == 0)
        return rc;
    struct keyed *a = arena_array(&c->a, n, sizeof *a);
    if (!a)
        return jinja_nomem(c);
    for (size_t i = 0; i < n && rc == 0; i++) {
        a[i].value = list.list->items[i];
        rc = key(c, a[i].value, arg[2], case_sensitive, &a[i].key);
    }
    if (rc == 0)
        rc = merge_sort(c, a, n, reverse, &a);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = jinja_push(c, *out, a[i].value);
    return rc;
}

static int f_sort(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    struct jv list;
    int rc = jinja_iterate(c, in, &list);
    return rc == 0 ? sorted_list(c, list, sort_key, arg, out) : rc;
}

static int f_dictsort(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    struct jv items;
    bool by_value = jinja_is_str(arg[1], "value");
    if (in.type == JV_UNDEF)
        return jinja_undefined(c, in);
    if (in.type != JV_DICT)
        return jinja_fail(c, ERR_INVALID, "dictsort: a dict is expected");
    if (given(arg[1]) && !by_value && !jinja_is_str(arg[1], "key"))
        return jinja_fail(c, ERR_INVALID, "dictsort: by must be 'key' or 'value'");
    struct jmethod m = {.self = in, .id = jinja_method_id(in, "items", 5)};
    int rc = jinja_method_call(c, &m, &(struct jargs){0}, &items);
    struct jv how[] = {arg[2], arg[0], jinja_int(by_value)};
    return rc == 0 ? sorted_list(c, items, key_of, how, out) : rc;
}

static int extreme(struct jinja_ctx *c, struct jv in, const struct jv *arg, int sign,
                   struct jv *out)
{
    struct jv list, best = {0}, key;
    int rc = jinja_iterate(c, in, &list);
    *out = jinja_undef("No aggregated item, sequence was empty", 38);
    for (size_t i = 0; rc == 0 && i < list.list->n; i++) {
        int order = sign;
        rc = key_of(c, list.list->items[i], arg[1], jinja_truth(arg[0]), &key);
        if (rc == 0 && i > 0)
            rc = jinja_order(c, key, best, 0, &order);
        if (rc == 0 && order == sign) {
            best = key;
            *out = list.list->items[i];
        }
    }
    return rc;
}

static int f_min(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    return extreme(c, in, arg, -1, out);
}

static int f_max(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    return extreme(c, in, arg, 1, out);
}

/* ---- shape ---- */

static int f_length(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    int64_t n = 0;
    int rc = jinja_length(c, in, &n);
    *out = jinja_int(n);
    return rc;
}

static int f_first(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    struct jv list;
    if (in.type == JV_GEN && in.list->pos < in.list->n) {
        *out = in.list->items[in.list->pos++];
        return 0;
    }
    int rc = jinja_iterate(c, in, &list);
    if (rc == 0)
        *out = list.list->n ? list.list->items[0] : jinja_undef("first", 5);
    return rc;
}

static int f_last(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    struct jv list;
    if (in.type == JV_GEN)
        return jinja_fail(c, ERR_INVALID, "'generator' object is not reversible");
    int rc = jinja_iterate(c, in, &list);
    if (rc == 0)
        *out = list.list->n ? list.list->items[list.list->n - 1] : jinja_undef("last", 4);
    return rc;
}

static int f_list(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return jinja_iterate(c, in, out);
}

static int f_reverse(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    struct jv list, part[3] = {{0}, {0}, jinja_int(-1)};
    if (in.type == JV_STR)
        return jinja_slice(c, in, part, out);
    bool iterator = in.type != JV_GEN && in.type != JV_UNDEF;
    int rc = jinja_iterate(c, in, &list);
    if (rc == 0)
        rc = jinja_slice(c, list, part, out);
    return rc == 0 && iterator ? as_gen(out) : rc;
}

static int f_join(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    struct jv list, sep = jinja_cstr("");
    int rc = jinja_iterate(c, in, &list);
    if (rc == 0 && given(arg[0]))
        rc = jinja_str(c, arg[0], &sep);
    if (rc == 0 && given(arg[1])) {
        struct jv picked;
        rc = jinja_list(c, JV_LIST, list.list->n, &picked);
        for (size_t i = 0; i < list.list->n && rc == 0; i++) {
            struct jv v;
            rc = attr_path(c, list.list->items[i], arg[1], &v);
            if (rc == 0)
                rc = jinja_push(c, picked, v);
        }
        list = picked;
    }
    return rc == 0 ? jinja_join(c, sep, list, false, out) : rc;
}

static int f_sum(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    struct jv list;
    int rc = jinja_iterate(c, in, &list);
    *out = given(arg[1]) ? arg[1] : jinja_int(0);
    if (rc == 0 && out->type == JV_STR)
        rc = jinja_fail(c, ERR_INVALID, "sum cannot add strings");
    for (size_t i = 0; rc == 0 && i < list.list->n; i++) {
        struct jv v;
        rc = attr_path(c, list.list->items[i], arg[0], &v);
        if (rc == 0)
            rc = jinja_binary(c, T_ADD, *out, v, out);
    }
    return rc;
}

static int f_unique(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    struct jv list, seen;
    int rc = jinja_iterate(c, in, &list);
    if (rc == 0)
        rc = jinja_dict(c, JV_DICT, 0, &seen);
    if (rc == 0)
        rc = jinja_list(c, JV_LIST, 0, out);
    for (size_t i = 0; rc == 0 && i < list.list->n; i++) {
        struct jv key;
        struct jpair *p;
        rc = key_of(c, list.list->items[i], arg[1], jinja_truth(arg[0]), &key);
        if (rc == 0)
            rc = jinja_dict_find(c, seen, key, &p);
        if (rc != 0 || p)
            continue;
        rc = jinja_dict_set(c, seen, key, jinja_none());
        if (rc == 0)
            rc = jinja_push(c, *out, list.list->items[i]);
    }
    return rc == 0 ? as_gen(out) : rc;
}

static int f_items(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    if (in.type == JV_UNDEF) {
        int rc = jinja_list(c, JV_LIST, 0, out);
        return rc == 0 ? as_gen(out) : rc;
    }
    if (in.type != JV_DICT)
        return jinja_fail(c, ERR_INVALID, "items: a mapping is expected");
    struct jmethod m = {.self = in, .id = jinja_method_id(in, "items", 5)};
    int rc = jinja_method_call(c, &m, &(struct jargs){0}, out);
    return rc == 0 ? as_gen(out) : rc;
}

static int f_batch(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    struct jv list, row = {0};
    if (arg[0].type != JV_INT || arg[0].i < 1 || arg[0].i > 1000000)
        return jinja_fail(c, ERR_INVALID, "batch: a positive integer is expected");
    size_t width = (size_t)arg[0].i;
    int rc = jinja_iterate(c, in, &list);
    if (rc == 0)
        rc = jinja_list(c, JV_LIST, 0, out);
    for (size_t i = 0; rc == 0 && i < list.list->n; i++) {
        if (i % width == 0) {
            rc = jinja_list(c, JV_LIST, 0, &row);
            if (rc == 0)
                rc = jinja_push(c, *out, row);
        }
        if (rc == 0)
            rc = jinja_push(c, row, list.list->items[i]);
    }
    while (rc == 0 && row.list && given(arg[1]) && arg[1].type != JV_NONE && row.list->n < width)
        rc = jinja_push(c, row, arg[1]);
    return rc == 0 ? as_gen(out) : rc;
}

/* A pair of a name and an empty list, the next of the groups. */
static int group_add(struct jinja_ctx *c, struct jv groups, struct jv name, struct jv *members)
{
    struct jv tuple;
    int rc = jinja_list(c, JV_LIST, 0, members);
    if (rc == 0)
        rc = jinja_list(c, JV_TUPLE, 2, &tuple);
    if (rc != 0)
        return rc;
    tuple.list->kind = JLIST_GROUP;
    rc = jinja_push(c, tuple, name);
    if (rc == 0)
        rc = jinja_push(c, tuple, *members);
    return rc == 0 ? jinja_push(c, groups, tuple) : rc;
}

static int f_groupby(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    struct jv list, sorted, group = {0}, key, last = {0};
    struct jv how[] = {{0}, arg[2], arg[0]};
    int rc = jinja_iterate(c, in, &list);
    if (rc == 0)
        rc = sorted_list(c, list, key_of, how, &sorted);
    if (rc == 0)
        rc = jinja_list(c, JV_LIST, 0, out);
    for (size_t i = 0; rc == 0 && i < sorted.list->n; i++) {
        struct jv v = sorted.list->items[i], plain;
        bool same = false;
        rc = key_of(c, v, arg[0], jinja_truth(arg[2]), &key);
        if (rc == 0 && i > 0)
            rc = jinja_equal(c, key, last, 0, &same);
        if (rc == 0 && !same) {
            /* the group's name keeps the case of its first member */
            rc = attr_path(c, v, arg[0], &plain);
            if (rc == 0)
                rc = group_add(c, *out, plain, &group);
        }
        last = key;
        if (rc == 0)
            rc = jinja_push(c, group, v);
    }
    return rc;
}

/* ---- map, select ---- */

/* What is false is empty for map and select, also what cannot be iterated. */
static int falsy_gen(struct jinja_ctx *c, struct jv *out)
{
    return jinja_list(c, JV_GEN, 0, out);
}

/* The arguments from the i-th on. */
static struct jargs args_from(const struct jargs *args, int i)
{
    return (struct jargs){.items = args->items + i, .n = args->n - i, .n_pos = args->n_pos - i};
}

int jinja_seq_map(struct jinja_ctx *c, struct jv in, const struct jargs *args, struct jv *out)
{
    struct jv list, arg[2] = {{0}};
    static const char *const params[] = {"attribute", "default"};
    bool by_attr = args->n_pos == 0;
    if (!jinja_truth(in))
        return falsy_gen(c, out);
    if (by_attr && args->n == 0)
        return jinja_fail(c, ERR_INVALID, "map requires a filter argument");
    int rc = by_attr ? jinja_bind(c, "map", args, params, 2, arg) : 0;
    if (rc == 0 && !by_attr && args->items[0].v.type != JV_STR)
        rc = jinja_fail(c, ERR_INVALID, "map: a filter's name is expected");
    if (rc == 0)
        rc = jinja_iterate(c, in, &list);
    if (rc == 0)
        rc = jinja_list(c, JV_LIST, list.list->n, out);
    for (size_t i = 0; rc == 0 && i < list.list->n; i++) {
        struct jv v = list.list->items[i];
        if (by_attr) {
            rc = attr_path_or(c, v, arg[0], arg[1], &v);
        } else {
            struct jargs rest = args_from(args, 1);
            rc = jinja_filter(c, args->items[0].v, v, &rest, &v);
        }
        if (rc == 0)
            rc = jinja_push(c, *out, v);
    }
    return rc == 0 ? as_gen(out) : rc;
}

/* select, reject, selectattr, rejectattr */
int jinja_seq_select(struct jinja_ctx *c, const char *name, struct jv in, const struct jargs *args,
                     struct jv *out)
{
    struct jv list;
    bool by_attr = strlen(name) > 6, keep = name[0] == 's';
    int first = by_attr ? 1 : 0; /* where the test's name is */
    if (!jinja_truth(in))
        return falsy_gen(c, out);
    if (by_attr && args->n_pos == 0)
        return jinja_fail(c, ERR_INVALID, "%s: an attribute's name is expected", name);
    if (args->n_pos > first && args->items[first].v.type != JV_STR)
        return jinja_fail(c, ERR_INVALID, "%s: a test's name is expected", name);
    int rc = jinja_iterate(c, in, &list);
    if (rc == 0)
        rc = jinja_list(c, JV_LIST, 0, out);
    for (size_t i = 0; rc == 0 && i < list.list->n; i++) {
        struct jv item = list.list->items[i], v = item;
        if (by_attr)
            rc = attr_path(c, item, args->items[0].v, &v);
        bool hit = rc == 0 && jinja_truth(v);
        if (rc == 0 && args->n_pos > first) {
            struct jargs rest = args_from(args, first + 1);
            rc = jinja_test(c, args->items[first].v, v, &rest, &hit);
        } else if (rc == 0) {
            rc = jinja_charge(c, 0);
        }
        if (rc == 0 && hit == keep)
            rc = jinja_push(c, *out, item);
    }
    return rc == 0 ? as_gen(out) : rc;
}

const struct jfilter jinja_seq_filters[] = {
    {"length", f_length, {NULL}},
    {"count", f_length, {NULL}},
    {"first", f_first, {NULL}},
    {"last", f_last, {NULL}},
    {"list", f_list, {NULL}},
    {"reverse", f_reverse, {NULL}},
    {"join", f_join, {"d", "attribute"}},
    {"sum", f_sum, {"attribute", "start"}},
    {"unique", f_unique, {"case_sensitive", "attribute"}},
    {"sort", f_sort, {"reverse", "case_sensitive", "attribute"}},
    {"dictsort", f_dictsort, {"case_sensitive", "by", "reverse"}},
    {"min", f_min, {"case_sensitive", "attribute"}},
    {"max", f_max, {"case_sensitive", "attribute"}},
    {"items", f_items, {NULL}},
    {"batch", f_batch, {"linecount", "fill_with"}},
    {"groupby", f_groupby, {"attribute", "default", "case_sensitive"}},
};
const int jinja_n_seq_filters = sizeof jinja_seq_filters / sizeof *jinja_seq_filters;
