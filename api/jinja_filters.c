/* Filters on text and numbers, and how a filter is called.  The filters on lists are in jinja_seq.c.
 * Each does what jinja2's filter of that name does; tojson does what transformers' does. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/jinja_int.h"
#include "base/utf8.h"

/* ---- calling ---- */

/* Puts arguments into the slots of named parameters; a parameter "" has no name. */
int jinja_bind(struct jinja_ctx *c, const char *what, const struct jargs *args,
               const char *const *params, int n_params, struct jv *out)
{
    if (args->n_pos > n_params)
        return jinja_fail(c, ERR_INVALID, "%s takes at most %d arguments", what, n_params);
    for (int i = 0; i < args->n; i++) {
        const struct jarg *a = &args->items[i];
        int k = i < args->n_pos ? i : 0;
        if (i >= args->n_pos) {
            while (k < n_params &&
                   !(strlen(params[k]) == a->len && memcmp(params[k], a->name, a->len) == 0))
                k++;
        }
        if (k == n_params || out[k].type != JV_UNSET)
            return jinja_fail(c, ERR_INVALID, "%s does not take the argument '%.*s'", what,
                              (int)(a->len < 40 ? a->len : 40), a->name);
        out[k] = a->v;
    }
    return 0;
}

static int want_int(struct jinja_ctx *c, struct jv v, int64_t absent, int64_t *out)
{
    *out = absent;
    if (v.type == JV_UNSET || v.type == JV_NONE)
        return 0;
    if (v.type != JV_INT && v.type != JV_BOOL)
        return jinja_fail(c, ERR_INVALID, "an integer is expected, not '%s'", jinja_type_name(v));
    *out = jinja_as_int(v);
    return 0;
}

/* ---- text ---- */

static int text_case(struct jinja_ctx *c, struct jv in, int mode, struct jv *out)
{
    struct jv s;
    int rc = jinja_str(c, in, &s);
    return rc == 0 ? jinja_case(c, s, mode, out) : rc;
}

static int f_upper(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return text_case(c, in, CASE_UPPER, out);
}

static int f_lower(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return text_case(c, in, CASE_LOWER, out);
}

static int f_title(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return text_case(c, in, CASE_JINJA_TITLE, out);
}

static int f_capitalize(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return text_case(c, in, CASE_CAPITAL, out);
}

static int f_string(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return jinja_str(c, in, out);
}

static int f_safe(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    int rc = jinja_str(c, in, out);
    out->safe = rc == 0;
    return rc;
}

static int f_escape(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    struct jv s;
    int rc = jinja_str(c, in, &s);
    return rc == 0 ? jinja_escape(c, s, out) : rc;
}

static int f_trim(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    struct jv s;
    int rc = jinja_str(c, in, &s);
    return rc == 0 ? jinja_strip_chars(c, s, arg[0], 3, out) : rc;
}

static int f_replace(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    struct jv s, old, with;
    int64_t max;
    if (arg[1].type == JV_UNSET)
        return jinja_fail(c, ERR_INVALID, "replace takes two arguments");
    int rc = jinja_str(c, in, &s);
    if (rc == 0)
        rc = jinja_str(c, arg[0], &old);
    if (rc == 0)
        rc = jinja_str(c, arg[1], &with);
    if (rc == 0)
        rc = want_int(c, arg[2], -1, &max);
    return rc == 0 ? jinja_replace(c, s, old, with, max, out) : rc;
}

static int f_indent(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    struct jv s = in, lines, pad = arg[0], one = jinja_cstr(" ");
    struct buf b;
    int rc = 0;
    if (in.type != JV_STR)
        rc = in.type == JV_UNDEF ? jinja_undefined(c, in)
                                 : jinja_fail(c, ERR_INVALID, "indent: a string is expected");
    if (rc == 0 && pad.type != JV_STR)
        rc = jinja_binary(c, T_MUL, one, pad.type == JV_UNSET ? jinja_int(4) : pad, &pad);
    if (rc == 0) /* jinja2 adds a newline first, so that an empty last line counts */
        rc = jinja_binary(c, T_ADD, s, jinja_cstr("\n"), &s);
    if (rc == 0)
        rc = jinja_splitlines(c, s, false, &lines);
    if (rc != 0)
        return rc;
    jinja_buf(c, &b);
    for (size_t i = 0; i < lines.list->n && !b.failed; i++) {
        struct jv line = lines.list->items[i];
        if (i > 0)
            buf_addc(&b, '\n');
        if (i == 0 ? jinja_truth(arg[1]) : line.n > 0 || jinja_truth(arg[2]))
            buf_add(&b, pad.s, pad.n);
        buf_add(&b, line.s, line.n);
    }
    return jinja_take(c, &b, out);
}

static int f_format(struct jinja_ctx *c, struct jv in, const struct jargs *args, struct jv *out)
{
    struct jv s, v;
    int rc = jinja_str(c, in, &s);
    if (rc != 0)
        return rc;
    if (args->n_pos > 0 && args->n > args->n_pos)
        return jinja_fail(c, ERR_INVALID, "format takes positional or named arguments, not both");
    bool named = args->n > args->n_pos;
    rc = named ? jinja_dict(c, JV_DICT, (size_t)args->n, &v)
               : jinja_list(c, JV_TUPLE, (size_t)args->n, &v);
    for (int i = 0; i < args->n && rc == 0; i++) {
        const struct jarg *a = &args->items[i];
        rc = named ? jinja_dict_set(c, v, jinja_strn(a->name, a->len), a->v)
                   : jinja_push(c, v, a->v);
    }
    return rc == 0 ? jinja_format(c, s, v, out) : rc;
}

static int f_wordcount(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    struct jv s;
    int64_t n = 0;
    bool word = false;
    int rc = jinja_str(c, in, &s);
    for (uint32_t i = 0; rc == 0 && i < s.n;) {
        uint32_t cp;
        i += (uint32_t)utf8_decode(s.s + i, s.n - i, &cp);
        bool part = cp == '_' || utf8_is_letter(cp) || utf8_is_digit(cp);
        n += part && !word;
        word = part;
    }
    *out = jinja_int(n);
    return rc == 0 ? jinja_charge(c, (size_t)s.n * 4) : rc;
}

/* ---- numbers ---- */

/* A number written as Python's int() or float() take it: blanks around, single underscores. */
static bool read_number(struct jv s, char *text, size_t size)
{
    size_t k = 0;
    s = jinja_strip(s, NULL, true, true);
    if (s.n == 0 || s.n >= size)
        return false;
    for (uint32_t i = 0; i < s.n; i++) {
        if (s.s[i] != '_') {
            text[k++] = s.s[i];
            continue;
        }
        bool inside = i > 0 && i + 1 < s.n && s.s[i - 1] >= '0' && s.s[i - 1] <= '9' &&
                      s.s[i + 1] >= '0' && s.s[i + 1] <= '9';
        if (!inside)
            return false;
    }
    text[k] = 0;
    /* strtod also takes 0x1p3 and nan(...), Python does not */
    return strlen(text) == k && !strpbrk(text, "xXpP()") && text[0] != ' ';
}

static bool read_float(struct jv s, double *f)
{
    char text[400], *end;
    if (!read_number(s, text, sizeof text))
        return false;
    *f = strtod(text, &end);
    return *end == 0;
}

/* The integer that all of a text stands for. */
static bool read_int(struct jv s, int base, int64_t *i)
{
    char text[80], *end;
    const char *digits = text;
    if (base == 10) {
        if (!read_number(s, text, sizeof text))
            return false;
    } else {
        if (s.n >= sizeof text)
            return false;
        memcpy(text, s.s, s.n);
        text[s.n] = 0;
        if (text[0] == '0' && s.n > 2 && strchr("xXoObB", text[1]))
            digits += 2;
    }
    errno = 0;
    *i = strtoll(digits, &end, base);
    return end != digits && *end == 0 && errno == 0;
}

static int f_int(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    int64_t base, i;
    double f = 0;
    struct jv absent = arg[0].type == JV_UNSET ? jinja_int(0) : arg[0];
    int rc = want_int(c, arg[1], 10, &base);
    if (rc != 0)
        return rc;
    *out = absent;
    if (in.type == JV_UNDEF)
        return jinja_undefined(c, in);
    if (in.type == JV_INT || in.type == JV_BOOL)
        *out = jinja_int(jinja_as_int(in));
    if (in.type == JV_STR && (base == 10 || base == 16 || base == 8 || base == 2)) {
        if (read_int(in, (int)base, &i)) {
            *out = jinja_int(i);
            return 0;
        }
        if (base != 10 || !read_float(in, &f)) /* int("1.5") goes through float */
            return 0;
        in = jinja_float(f);
    }
    if (in.type == JV_FLOAT && isinf(in.f))
        *out = absent;
    else if (in.type == JV_FLOAT && fabs(in.f) < 9.2e18)
        *out = jinja_int((int64_t)in.f);
    else if (in.type == JV_FLOAT && !isnan(in.f))
        return jinja_fail(c, ERR_INVALID, "a number is too large");
    return 0;
}

static int f_float(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    double f;
    *out = arg[0].type == JV_UNSET ? jinja_float(0) : arg[0];
    if (in.type == JV_UNDEF)
        return jinja_undefined(c, in);
    if (jinja_is_num(in))
        *out = jinja_float(jinja_as_float(in));
    else if (in.type == JV_STR && read_float(in, &f))
        *out = jinja_float(f);
    return 0;
}

static int f_abs(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)arg;
    if (in.type == JV_UNDEF)
        return jinja_undefined(c, in);
    if (!jinja_is_num(in))
        return jinja_fail(c, ERR_INVALID, "abs: a number is expected");
    bool negative = in.type == JV_FLOAT ? signbit(in.f) != 0 : jinja_as_int(in) < 0;
    if (negative)
        return jinja_neg(c, in, out);
    *out = in.type == JV_BOOL ? jinja_int(in.b) : in;
    return 0;
}

static int f_round(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    int64_t digits;
    int rc = want_int(c, arg[0], 0, &digits);
    if (rc != 0)
        return rc;
    if (in.type == JV_UNDEF)
        return jinja_undefined(c, in);
    if (!jinja_is_num(in) || digits > 300 || digits < -300)
        return jinja_fail(c, ERR_INVALID, "round: a number is expected");
    bool common = arg[1].type == JV_UNSET || jinja_is_str(arg[1], "common");
    bool up = jinja_is_str(arg[1], "ceil");
    if (!common && !up && !jinja_is_str(arg[1], "floor"))
        return jinja_fail(c, ERR_INVALID, "round: method must be common, ceil or floor");
    double f = jinja_as_float(in), scale = pow(10, (double)digits);
    if (common && in.type != JV_FLOAT && digits >= 0) {
        *out = jinja_int(jinja_as_int(in));
    } else if (common && digits >= 0 && isfinite(f)) {
        char text[700]; /* printf rounds the exact decimal value half to even, as Python does */
        snprintf(text, sizeof text, "%.*f", (int)digits, f);
        *out = jinja_float(strtod(text, NULL));
    } else if (common) {
        double r = nearbyint(f * scale) / scale;
        *out = in.type == JV_FLOAT || fabs(r) > 9e15 ? jinja_float(r) : jinja_int((int64_t)r);
    } else {
        *out = jinja_float((up ? ceil(f * scale) : floor(f * scale)) / scale);
    }
    return 0;
}

/* ---- any value ---- */

static int f_default(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    (void)c;
    bool absent = in.type == JV_UNDEF || (jinja_truth(arg[1]) && !jinja_truth(in));
    *out = !absent ? in : arg[0].type == JV_UNSET ? jinja_cstr("") : arg[0];
    return 0;
}

static int f_attr(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out)
{
    if (arg[0].type != JV_STR)
        return jinja_fail(c, ERR_INVALID, "attr: a name is expected");
    if (in.type == JV_DICT && jinja_method_id(in, arg[0].s, arg[0].n) < 0) {
        *out = jinja_undef(arg[0].s, arg[0].n); /* members of a dict are not attributes */
        return 0;
    }
    return jinja_attr(c, in, arg[0].s, arg[0].n, out);
}

/* json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False) */
static int f_tojson(struct jinja_ctx *c, struct jv in, const struct jargs *args, struct jv *out)
{
    static const char *const params[] = {"ensure_ascii", "indent", "separators", "sort_keys"};
    struct jv arg[4] = {{0}};
    int rc = jinja_bind(c, "tojson", args, params, 4, arg);
    if (rc != 0)
        return rc;
    struct jtojson o = {.ascii = jinja_truth(arg[0]), .sort = jinja_truth(arg[3])};
    o.pretty = arg[1].type != JV_UNSET && arg[1].type != JV_NONE;
    o.indent = arg[1];
    if (o.pretty && o.indent.type != JV_STR)
        rc = jinja_binary(c, T_MUL, jinja_cstr(" "), arg[1], &o.indent);
    o.item_sep = jinja_cstr(o.pretty ? "," : ", ");
    o.key_sep = jinja_cstr(": ");
    if (rc == 0 && arg[2].type != JV_UNSET && arg[2].type != JV_NONE) {
        struct jv s;
        rc = jinja_iterate(c, arg[2], &s);
        if (rc == 0 &&
            (s.list->n != 2 || s.list->items[0].type != JV_STR || s.list->items[1].type != JV_STR))
            rc = jinja_fail(c, ERR_INVALID, "tojson: separators must be two strings");
        if (rc == 0) {
            o.item_sep = s.list->items[0];
            o.key_sep = s.list->items[1];
        }
    }
    if (rc != 0)
        return rc;
    struct buf b;
    jinja_buf(c, &b);
    rc = jinja_tojson(c, in, &o, 0, &b);
    if (rc == 0)
        return jinja_take(c, &b, out);
    buf_free(&b);
    return rc;
}

/* ---- the table ---- */

static const struct jfilter filters[] = {
    {"upper", f_upper, {NULL}},
    {"lower", f_lower, {NULL}},
    {"title", f_title, {NULL}},
    {"capitalize", f_capitalize, {NULL}},
    {"string", f_string, {NULL}},
    {"safe", f_safe, {NULL}},
    {"escape", f_escape, {NULL}},
    {"e", f_escape, {NULL}},
    {"trim", f_trim, {"chars"}},
    {"replace", f_replace, {"old", "new", "count"}},
    {"indent", f_indent, {"width", "first", "blank"}},
    {"wordcount", f_wordcount, {NULL}},
    {"int", f_int, {"default", "base"}},
    {"float", f_float, {"default"}},
    {"abs", f_abs, {NULL}},
    {"round", f_round, {"precision", "method"}},
    {"default", f_default, {"default_value", "boolean"}},
    {"d", f_default, {"default_value", "boolean"}},
    {"attr", f_attr, {"name"}},
};

static const struct jfilter *find_filter(struct jv name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        if (jinja_is_str(name, filters[i].name))
            return &filters[i];
    }
    for (int i = 0; i < jinja_n_seq_filters; i++) {
        if (jinja_is_str(name, jinja_seq_filters[i].name))
            return &jinja_seq_filters[i];
    }
    return NULL;
}

int jinja_filter(struct jinja_ctx *c, struct jv name, struct jv in, const struct jargs *args,
                 struct jv *out)
{
    static const char *const selects[] = {"select", "reject", "selectattr", "rejectattr"};
    int rc = jinja_charge(c, 0);
    if (rc != 0)
        return rc;
    const struct jfilter *f = find_filter(name);
    if (f) {
        struct jv arg[JARG_MAX] = {{0}};
        int n_params = 0;
        while (n_params < JARG_MAX && f->params[n_params])
            n_params++;
        rc = jinja_bind(c, f->name, args, f->params, n_params, arg);
        return rc == 0 ? f->fn(c, in, arg, out) : rc;
    }
    if (jinja_is_str(name, "tojson"))
        return f_tojson(c, in, args, out);
    if (jinja_is_str(name, "format"))
        return f_format(c, in, args, out);
    if (jinja_is_str(name, "map"))
        return jinja_seq_map(c, in, args, out);
    for (int i = 0; i < 4; i++) {
        if (jinja_is_str(name, selects[i]))
            return jinja_seq_select(c, selects[i], in, args, out);
    }
    return jinja_fail(c, ERR_UNSUPPORTED, "there is no filter '%.*s'",
                      (int)(name.n < 40 ? name.n : 40), name.s);
}
