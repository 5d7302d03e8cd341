/* Strings as Python sees them: lengths and positions in characters, Unicode whitespace, case,
 * splitting and joining.  A result is a slice of the input where it can be. */
#include "api/jinja_int.h"
#include "base/utf8.h"

size_t jinja_chars(const char *s, size_t n)
{
    size_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xC0) != 0x80;
    return chars;
}

size_t jinja_char_at(const char *s, size_t n, size_t index)
{
    size_t i = 0;
    for (; i < n; i++) {
        if (((unsigned char)s[i] & 0xC0) != 0x80 && index-- == 0)
            break;
    }
    return i;
}

/* Short needles without memmem: its checked version reads the whole string at every call. */
const char *jinja_find(const char *s, size_t n, struct jv what)
{
    if (what.n == 0 || what.n > n)
        return what.n == 0 ? s : NULL;
    if (what.n > 16)
        return memmem(s, n, what.s, what.n);
    const char *last = s + (n - what.n);
    while (s <= last) {
        s = memchr(s, what.s[0], (size_t)(last - s) + 1);
        if (!s || memcmp(s, what.s, what.n) == 0)
            return s;
        s++;
    }
    return NULL;
}

size_t jinja_find_cost(size_t n, struct jv what)
{
    return what.n > 16 ? 8 * n : n;
}

/* ---- strip ---- */

static bool strips(const struct jv *chars, const char *s, size_t n)
{
    if (chars)
        return jinja_find(chars->s, chars->n, jinja_strn(s, n)) != NULL;
    uint32_t cp;
    utf8_decode(s, n, &cp);
    return utf8_is_space(cp);
}

/* chars NULL: whitespace. */
struct jv jinja_strip(struct jv v, const struct jv *chars, bool left, bool right)
{
    const char *s = v.s;
    size_t n = v.n;
    while (left && n > 0) {
        uint32_t cp;
        size_t k = (size_t)utf8_decode(s, n, &cp);
        if (!strips(chars, s, k))
            break;
        s += k;
        n -= k;
    }
    while (right && n > 0) {
        size_t k = 1;
        while (k < n && k < 4 && ((unsigned char)s[n - k] & 0xC0) == 0x80)
            k++;
        if (!strips(chars, s + n - k, k))
            break;
        n -= k;
    }
    return jinja_strn(s, n);
}

/* ---- case ---- */

/* jinja2's title filter starts a word only after one of these. */
static bool starts_word(uint32_t before)
{
    return before == '-' || before == '(' || before == '{' || before == '[' || before == '<' ||
           utf8_is_space(before);
}

static uint32_t map_case(uint32_t cp, int mode, uint32_t before, bool first)
{
    bool big = mode == CASE_UPPER;
    switch (mode) {
    case CASE_SWAP:
        big = utf8_lower(cp) == cp;
        break;
    case CASE_CAPITAL:
        big = first;
        break;
    case CASE_TITLE:
        big = first || !utf8_is_cased(before);
        break;
    case CASE_JINJA_TITLE:
        big = first || starts_word(before);
        break;
    default:
        break;
    }
    if (!big)
        return utf8_lower(cp);
    return mode == CASE_CAPITAL || mode == CASE_TITLE ? utf8_title(cp) : utf8_upper(cp);
}

int jinja_case(struct jinja_ctx *c, struct jv s, int mode, struct jv *out)
{
    struct buf b;
    int rc = jinja_charge(c, (size_t)s.n * 8);
    if (rc != 0)
        return rc;
    jinja_buf(c, &b);
    uint32_t before = 0, cp;
    for (uint32_t i = 0; i < s.n && !b.failed; before = cp) {
        bool first = i == 0;
        i += (uint32_t)utf8_decode(s.s + i, s.n - i, &cp);
        uint32_t to = map_case(cp, mode, before, first);
        char text[4];
        if (cp == 0xDF && to != 0xDF) /* sharp s becomes two letters */
            buf_adds(&b, mode == CASE_UPPER || mode == CASE_SWAP ? "SS" : "Ss");
        else if (cp == 0xDF && (mode == CASE_UPPER || mode == CASE_SWAP))
            buf_adds(&b, "SS");
        else
            buf_add(&b, text, (size_t)utf8_encode(text, to));
    }
    return jinja_take(c, &b, out);
}

/* ---- replace, lines, join ---- */

/* max < 0: all. */
int jinja_replace(struct jinja_ctx *c, struct jv s, struct jv old, struct jv with, int64_t max,
                  struct jv *out)
{
    struct buf b;
    size_t at = 0, hits = 0;
    int rc = jinja_charge(c, jinja_find_cost(s.n, old));
    if (rc != 0)
        return rc;
    jinja_buf(c, &b);
    while (max != 0 && !b.failed && rc == 0) {
        const char *hit = jinja_find(s.s + at, s.n - at, old);
        if (!hit)
            break;
        buf_add(&b, s.s + at, (size_t)(hit - s.s) - at);
        buf_add(&b, with.s, with.n);
        at = (size_t)(hit - s.s) + old.n;
        max -= max > 0;
        rc = (++hits & 7) == 0 ? jinja_charge(c, 0) : 0;
        if (old.n == 0) { /* between all characters, and at both ends */
            if (at >= s.n)
                break;
            uint32_t cp;
            size_t k = (size_t)utf8_decode(s.s + at, s.n - at, &cp);
            buf_add(&b, s.s + at, k);
            at += k;
        }
    }
    if (rc != 0) {
        buf_free(&b);
        return rc;
    }
    if (at < s.n)
        buf_add(&b, s.s + at, s.n - at);
    return jinja_take(c, &b, out);
}

static bool is_line_end(uint32_t cp)
{
    return (cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

int jinja_splitlines(struct jinja_ctx *c, struct jv s, bool keep, struct jv *out)
{
    size_t from = 0;
    int rc = jinja_charge(c, (size_t)s.n * 4);
    if (rc == 0)
        rc = jinja_list(c, JV_LIST, 0, out);
    for (size_t i = 0; i < s.n && rc == 0;) {
        uint32_t cp;
        size_t end = i;
        i += (size_t)utf8_decode(s.s + i, s.n - i, &cp);
        if (!is_line_end(cp))
            continue;
        if (cp == '\r' && i < s.n && s.s[i] == '\n')
            i++;
        rc = jinja_push(c, *out, jinja_strn(s.s + from, (keep ? i : end) - from));
        from = i;
    }
    if (rc == 0 && from < s.n)
        rc = jinja_push(c, *out, jinja_strn(s.s + from, s.n - from));
    return rc;
}

/* strict: as str.join, only strings; otherwise everything is printed as jinja2's join does. */
int jinja_join(struct jinja_ctx *c, struct jv sep, struct jv list, bool strict, struct jv *out)
{
    struct buf b;
    int rc = 0;
    jinja_buf(c, &b);
    for (size_t i = 0; i < list.list->n && rc == 0 && !b.failed; i++) {
        struct jv v = list.list->items[i];
        if (i > 0)
            buf_add(&b, sep.s, sep.n);
        if (strict && v.type != JV_STR)
            rc = jinja_fail(c, ERR_INVALID, "join: item %zu is '%s', not a string", i,
                            jinja_type_name(v));
        else
            rc = jinja_print(c, v, &b);
        if (rc == 0)
            rc = jinja_charge(c, sep.n);
    }
    if (rc != 0) {
        buf_free(&b);
        return rc;
    }
    return jinja_take(c, &b, out);
}
