/* Values as text, character for character as Python writes them: str(), repr(), json.dumps and
 * the % operator. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/jinja_int.h"
#include "base/utf8.h"

void jinja_buf(struct jinja_ctx *c, struct buf *b)
{
    buf_init(b, c->lim.max_output_bytes);
}

int jinja_take(struct jinja_ctx *c, struct buf *b, struct jv *out)
{
    int rc = b->failed ? jinja_fail(c, ERR_TOOBIG, "a string is too long") : 0;
    if (rc == 0)
        rc = jinja_charge(c, b->len);
    char *s = NULL;
    if (rc == 0 && b->len > 0) {
        s = arena_alloc(&c->a, b->len);
        if (s)
            memcpy(s, b->data, b->len);
        else
            rc = jinja_nomem(c);
    }
    if (rc == 0)
        *out = jinja_strn(s ? s : "", b->len);
    buf_free(b);
    return rc;
}

/* The shortest decimal that reads back as f, in repr's layout: 1.0, 0.0001, 1e-05, 1e+16, inf. */
void jinja_float_repr(double f, char out[40])
{
    if (!isfinite(f)) {
        snprintf(out, 40, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char text[40];
    int digits = 0;
    do {
        snprintf(text, sizeof text, "%.*e", digits, f);
    } while (strtod(text, NULL) != f && ++digits < 17);
    int exp = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    if (exp < -4 || exp >= 16) {
        snprintf(out, 40, "%s", text);
        return;
    }
    int decimals = digits - exp;
    snprintf(out, 40, "%.*f", decimals > 1 ? decimals : 1, f);
}

/* ---- repr and str ---- */

static void repr_str(struct jv v, struct buf *b)
{
    char quote = memchr(v.s, '\'', v.n) && !memchr(v.s, '"', v.n) ? '"' : '\'';
    buf_addc(b, quote);
    for (uint32_t i = 0; i < v.n && !b->failed;) {
        uint32_t cp;
        int k = utf8_decode(v.s + i, v.n - i, &cp);
        if (cp == (uint32_t)quote || cp == '\\')
            buf_printf(b, "\\%c", (int)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t')
            buf_adds(b, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        else if (utf8_is_printable(cp))
            buf_add(b, v.s + i, (size_t)k);
        else
            buf_printf(b, cp < 256 ? "\\x%02x" : cp < 65536 ? "\\u%04x" : "\\U%08x", cp);
        i += (uint32_t)k;
    }
    buf_addc(b, quote);
}

static int repr_items(struct jinja_ctx *c, struct jv v, int depth, struct buf *b)
{
    int rc = 0;
    for (size_t i = 0; i < v.list->n && rc == 0 && !b->failed; i++) {
        if (i > 0)
            buf_adds(b, ", ");
        rc = jinja_repr(c, v.list->items[i], depth + 1, b);
    }
    return rc;
}

static int repr_dict(struct jinja_ctx *c, struct jv v, int depth, struct buf *b)
{
    int rc = 0;
    buf_addc(b, '{');
    for (size_t i = 0; i < v.dict->n && rc == 0 && !b->failed; i++) {
        if (i > 0)
            buf_adds(b, ", ");
        rc = jinja_repr(c, v.dict->items[i].key, depth + 1, b);
        buf_adds(b, ": ");
        if (rc == 0)
            rc = jinja_repr(c, v.dict->items[i].value, depth + 1, b);
    }
    buf_addc(b, '}');
    return rc;
}

int jinja_repr(struct jinja_ctx *c, struct jv v, int depth, struct buf *b)
{
    static const char *const view[] = {"", "dict_keys", "dict_values", "dict_items", ""};
    int rc = jinja_nested(c, depth, v.type == JV_STR ? (size_t)v.n * 4 : 0);
    if (rc != 0)
        return rc;
    switch (v.type) {
    case JV_STR:
        repr_str(v, b);
        return 0;
    case JV_LIST:
        buf_addc(b, '[');
        rc = repr_items(c, v, depth, b);
        buf_addc(b, ']');
        return rc;
    case JV_TUPLE:
        buf_addc(b, '(');
        rc = repr_items(c, v, depth, b);
        buf_adds(b, v.list->n == 1 ? ",)" : ")");
        return rc;
    case JV_VIEW:
        buf_printf(b, "%s([", view[v.list->kind]);
        rc = repr_items(c, v, depth, b);
        buf_adds(b, "])");
        return rc;
    case JV_DICT:
        return repr_dict(c, v, depth, b);
    case JV_NS:
        buf_adds(b, "<Namespace ");
        rc = repr_dict(c, v, depth, b);
        buf_addc(b, '>');
        return rc;
    case JV_UNDEF:
        buf_adds(b, "Undefined");
        return 0;
    default:
        return jinja_print(c, v, b);
    }
}

int jinja_print(struct jinja_ctx *c, struct jv v, struct buf *b)
{
    char text[40];
    switch (v.type) {
    case JV_UNSET:
    case JV_UNDEF:
        return 0;
    case JV_NONE:
        buf_adds(b, "None");
        return 0;
    case JV_BOOL:
        buf_adds(b, v.b ? "True" : "False");
        return 0;
    case JV_INT:
        buf_printf(b, "%lld", (long long)v.i);
        return 0;
    case JV_FLOAT:
        jinja_float_repr(v.f, text);
        buf_adds(b, text);
        return 0;
    case JV_STR:
        buf_add(b, v.s, v.n);
        return jinja_charge(c, v.n);
    case JV_RANGE:
        buf_printf(b, "range(%lld, %lld", (long long)v.list->start, (long long)v.list->stop);
        if (v.list->step != 1)
            buf_printf(b, ", %lld", (long long)v.list->step);
        buf_addc(b, ')');
        return 0;
    case JV_LIST:
    case JV_TUPLE:
    case JV_VIEW:
    case JV_DICT:
    case JV_NS:
        return jinja_repr(c, v, 0, b);
    case JV_MACRO: {
        const struct jsym *y = v.macro->node->sym;
        buf_printf(b, "<Macro '%.*s'>", (int)y->n, y->p);
        return 0;
    }
    default:
        buf_printf(b, "<%s object>", jinja_type_name(v));
        return 0;
    }
}

int jinja_str(struct jinja_ctx *c, struct jv v, struct jv *out)
{
    if (v.type == JV_STR) {
        *out = v;
        return 0;
    }
    struct buf b;
    jinja_buf(c, &b);
    int rc = jinja_print(c, v, &b);
    if (rc == 0)
        return jinja_take(c, &b, out);
    buf_free(&b);
    return rc;
}

/* ---- tojson ---- */

static void json_str_out(struct jv v, bool ascii, struct buf *b)
{
    buf_addc(b, '"');
    for (uint32_t i = 0; i < v.n && !b->failed;) {
        uint32_t cp;
        int k = utf8_decode(v.s + i, v.n - i, &cp);
        const char *at = cp < 128 && cp > 0 ? strchr("\"\\\b\f\n\r\t", (int)cp) : NULL;
        if (at)
            buf_printf(b, "\\%c", "\"\\bfnrt"[at - strchr("\"\\\b\f\n\r\t", '"')]);
        else if (cp < 32 || (ascii && cp == 127) || (ascii && cp > 127 && cp < 65536))
            buf_printf(b, cp == 127 ? "%c" : "\\u%04x", cp);
        else if (ascii && cp >= 65536)
            buf_printf(b, "\\u%04x\\u%04x", 0xD7C0 + (cp >> 10), 0xDC00 + (cp & 0x3FF));
        else
            buf_add(b, v.s + i, (size_t)k);
        i += (uint32_t)k;
    }
    buf_addc(b, '"');
}

static void json_break(const struct jtojson *o, int depth, struct buf *b)
{
    if (!o->pretty)
        return;
    buf_addc(b, '\n');
    for (int i = 0; i < depth && !b->failed; i++)
        buf_add(b, o->indent.s, o->indent.n);
}

static int json_key_out(struct jinja_ctx *c, struct jv key, bool ascii, struct buf *b)
{
    struct jv text = key;
    int rc = 0;
    if (key.type == JV_NONE)
        text = jinja_cstr("null");
    else if (key.type == JV_BOOL)
        text = jinja_cstr(key.b ? "true" : "false");
    else if (key.type == JV_INT || key.type == JV_FLOAT)
        rc = jinja_str(c, key, &text);
    else if (key.type != JV_STR)
        return jinja_fail(c, ERR_INVALID, "tojson: keys must be str, int, float, bool or None");
    if (rc == 0)
        json_str_out(text, ascii, b);
    return rc;
}

static int json_sorted(struct jinja_ctx *c, struct jv v, struct jv *out)
{
    int rc = jinja_dict(c, JV_DICT, v.dict->n, out);
    for (size_t i = 0; i < v.dict->n && rc == 0; i++) {
        struct jpair p = v.dict->items[i];
        size_t k = out->dict->n++;
        for (; k > 0; k--) {
            int order;
            rc = jinja_order(c, out->dict->items[k - 1].key, p.key, 0, &order);
            if (rc != 0 || order != 1)
                break;
            out->dict->items[k] = out->dict->items[k - 1];
        }
        out->dict->items[k] = p;
    }
    return rc;
}

static int json_members(struct jinja_ctx *c, struct jv v, const struct jtojson *o, int depth,
                        struct buf *b)
{
    bool is_dict = v.type == JV_DICT;
    int rc = is_dict && o->sort ? json_sorted(c, v, &v) : 0;
    size_t n = is_dict ? v.dict->n : v.list->n;
    buf_addc(b, is_dict ? '{' : '[');
    for (size_t i = 0; i < n && rc == 0 && !b->failed; i++) {
        if (i > 0)
            buf_add(b, o->item_sep.s, o->item_sep.n);
        json_break(o, depth + 1, b);
        if (is_dict) {
            rc = json_key_out(c, v.dict->items[i].key, o->ascii, b);
            buf_add(b, o->key_sep.s, o->key_sep.n);
        }
        if (rc == 0)
            rc = jinja_tojson(c, is_dict ? v.dict->items[i].value : v.list->items[i], o, depth + 1,
                              b);
    }
    if (n > 0)
        json_break(o, depth, b);
    buf_addc(b, is_dict ? '}' : ']');
    return rc;
}

int jinja_tojson(struct jinja_ctx *c, struct jv v, const struct jtojson *o, int depth,
                 struct buf *b)
{
    int rc = jinja_nested(c, depth, v.type == JV_STR ? (size_t)v.n * 4 : 0);
    if (rc != 0)
        return rc;
    switch (v.type) {
    case JV_NONE:
        buf_adds(b, "null");
        return 0;
    case JV_BOOL:
        buf_adds(b, v.b ? "true" : "false");
        return 0;
    case JV_INT:
        return jinja_print(c, v, b);
    case JV_FLOAT:
        if (isfinite(v.f))
            return jinja_print(c, v, b);
        buf_adds(b, isnan(v.f) ? "NaN" : v.f < 0 ? "-Infinity" : "Infinity");
        return 0;
    case JV_STR:
        json_str_out(v, o->ascii, b);
        return 0;
    case JV_LIST:
    case JV_TUPLE:
    case JV_DICT:
        return json_members(c, v, o, depth, b);
    default:
        return jinja_fail(c, ERR_INVALID, "tojson: an object of type %s is not JSON serializable",
                          jinja_type_name(v));
    }
}

/* ---- HTML ---- */

int jinja_escape(struct jinja_ctx *c, struct jv s, struct jv *out)
{
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    struct buf b;
    *out = s;
    int rc = s.safe ? 0 : jinja_charge(c, (size_t)s.n * 4);
    if (rc != 0 || s.safe)
        return rc;
    jinja_buf(c, &b);
    for (uint32_t i = 0; i < s.n; i++) {
        const char *at = memchr(from, s.s[i], 5);
        if (at)
            buf_adds(&b, to[at - from]);
        else
            buf_addc(&b, s.s[i]);
    }
    rc = jinja_take(c, &b, out);
    out->safe = rc == 0;
    return rc;
}

/* ---- the % operator ---- */

struct spec {
    char flags[6];
    int width, precision; /* -1: none */
    char type;
};

/* After "%": reads flags, width, precision, type; 0 when it is not one. */
static size_t spec_read(const char *s, size_t n, struct spec *p)
{
    size_t i = 0, f = 0;
    *p = (struct spec){.width = 0, .precision = -1};
    while (i < n && f < 5 && s[i] && strchr("-+ 0#", s[i]))
        p->flags[f++] = s[i++];
    for (; i < n && s[i] >= '0' && s[i] <= '9' && p->width < 1000; i++)
        p->width = p->width * 10 + (s[i] - '0');
    if (i < n && s[i] == '.') {
        p->precision = 0;
        for (i++; i < n && s[i] >= '0' && s[i] <= '9' && p->precision < 100; i++)
            p->precision = p->precision * 10 + (s[i] - '0');
    }
    if (i >= n || p->width >= 1000 || p->precision >= 100)
        return 0;
    p->type = s[i];
    return i + 1;
}

static int format_num(struct jinja_ctx *c, const struct spec *p, struct jv v, struct buf *b)
{
    bool is_int = strchr("diuxXo", p->type) != NULL;
    if (v.type == JV_UNDEF)
        return jinja_undefined(c, v);
    if (!jinja_is_num(v) || (v.type == JV_FLOAT && (p->type == 'x' || p->type == 'X' ||
                                                    p->type == 'o' || !(fabs(v.f) < 9e18))))
        return jinja_fail(c, ERR_INVALID, "%%%c format: a number is required, not %s", p->type,
                          jinja_type_name(v));
    char fmt[24], text[1500];
    int n;
    if (is_int) {
        snprintf(fmt, sizeof fmt, "%%%s*.*ll%c", p->flags, p->type == 'u' ? 'd' : p->type);
        long long i = v.type == JV_FLOAT ? (long long)v.f : (long long)jinja_as_int(v);
        if (i < 0 && strchr("xXo", p->type))
            return jinja_fail(c, ERR_UNSUPPORTED, "%%%c of a negative number", p->type);
        n = snprintf(text, sizeof text, fmt, p->width, p->precision, i);
    } else {
        snprintf(fmt, sizeof fmt, "%%%s*.*%c", p->flags, p->type);
        n = snprintf(text, sizeof text, fmt, p->width, p->precision, jinja_as_float(v));
    }
    buf_add(b, text, n > 0 && n < (int)sizeof text ? (size_t)n : 0);
    return 0;
}

static int format_text(struct jinja_ctx *c, const struct spec *p, struct jv v, struct buf *b)
{
    struct buf one;
    struct jv s;
    jinja_buf(c, &one);
    int rc = p->type == 's' ? jinja_print(c, v, &one) : jinja_repr(c, v, 0, &one);
    if (rc != 0) {
        buf_free(&one);
        return rc;
    }
    rc = jinja_take(c, &one, &s);
    if (rc != 0)
        return rc;
    size_t n = s.n;
    if (p->precision >= 0)
        n = jinja_char_at(s.s, s.n, (size_t)p->precision);
    int pad = p->width - (int)jinja_chars(s.s, n < 4096 ? n : 4096);
    for (int i = 0; i < pad && !strchr(p->flags, '-'); i++)
        buf_addc(b, ' ');
    buf_add(b, s.s, n);
    for (int i = 0; i < pad && strchr(p->flags, '-'); i++)
        buf_addc(b, ' ');
    return 0;
}

static int format_one(struct jinja_ctx *c, const struct spec *p, struct jv v, struct buf *b)
{
    if (p->type == 's' || p->type == 'r')
        return format_text(c, p, v, b);
    if (p->type && strchr("diuxXofFeEgG", p->type))
        return format_num(c, p, v, b);
    return jinja_fail(c, ERR_INVALID, "unsupported format character");
}

/* What the conversion at the '%' at *at is for; moves over "(name)". */
static int format_arg(struct jinja_ctx *c, struct jv fmt, size_t *at, struct jv args, size_t *used,
                      struct jv *out)
{
    size_t n_args = args.type == JV_TUPLE ? args.list->n : 1;
    if (args.type == JV_DICT && fmt.n - *at > 1 && fmt.s[*at + 1] == '(') {
        const char *name = fmt.s + *at + 2, *close = memchr(name, ')', fmt.n - *at - 2);
        struct jpair *pair = close ? jinja_dict_str(args, name, (size_t)(close - name)) : NULL;
        if (!pair)
            return jinja_fail(c, ERR_INVALID, "format: no such key");
        *out = pair->value;
        *at = (size_t)(close - fmt.s);
        *used = n_args;
        return 0;
    }
    if (*used >= n_args)
        return jinja_fail(c, ERR_INVALID, "not enough arguments for format string");
    *out = args.type == JV_TUPLE ? args.list->items[*used] : args;
    ++*used;
    return 0;
}

int jinja_format(struct jinja_ctx *c, struct jv fmt, struct jv args, struct jv *out)
{
    struct buf b;
    size_t used = 0, n_args = args.type == JV_TUPLE ? args.list->n : 1;
    int rc = 0;
    jinja_buf(c, &b);
    for (size_t i = 0; i < fmt.n && rc == 0 && !b.failed;) {
        const char *at = memchr(fmt.s + i, '%', fmt.n - i);
        size_t end = at ? (size_t)(at - fmt.s) : fmt.n;
        buf_add(&b, fmt.s + i, end - i);
        i = end;
        if (!at)
            break;
        struct jv v = {0};
        struct spec p;
        if (fmt.n - i > 1 && fmt.s[i + 1] == '%') {
            buf_addc(&b, '%');
            i += 2;
            continue;
        }
        rc = format_arg(c, fmt, &i, args, &used, &v);
        if (rc != 0)
            break;
        size_t k = spec_read(fmt.s + i + 1, fmt.n - i - 1, &p);
        rc = k ? format_one(c, &p, v, &b) : jinja_fail(c, ERR_INVALID, "incomplete format");
        i += k + 1;
    }
    if (rc == 0 && used < n_args && args.type != JV_DICT && args.type != JV_LIST &&
        args.type != JV_RANGE)
        rc = jinja_fail(c, ERR_INVALID, "not all arguments converted during string formatting");
    if (rc == 0)
        return jinja_take(c, &b, out);
    buf_free(&b);
    return rc;
}
