/* Methods of str, list, dict and loop that a template may call.  What changes a list or a dict
 * (append, update, pop ...) is not here: the immutable sandbox hides it from templates. */
#include "api/jinja_int.h"
#include "base/utf8.h"

enum { METHOD_ARGS = 3 };
typedef int (*method_fn)(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out);

static int want_str(struct jinja_ctx *c, struct jv v)
{
    if (v.type == JV_STR)
        return 0;
    if (v.type == JV_UNDEF)
        return jinja_undefined(c, v);
    return jinja_fail(c, ERR_INVALID, "a string is expected, not '%s'", jinja_type_name(v));
}

static int want_int(struct jinja_ctx *c, struct jv v, int64_t absent, int64_t *out)
{
    *out = absent;
    if (v.type == JV_UNSET)
        return 0;
    if (v.type != JV_INT && v.type != JV_BOOL)
        return jinja_fail(c, ERR_INVALID, "an integer is expected, not '%s'", jinja_type_name(v));
    *out = jinja_as_int(v);
    return 0;
}

/* ---- str ---- */

int jinja_strip_chars(struct jinja_ctx *c, struct jv self, struct jv chars, int sides,
                      struct jv *out)
{
    bool given = chars.type != JV_UNSET && chars.type != JV_NONE;
    int rc = given ? want_str(c, chars) : 0;
    if (rc == 0)
        rc = jinja_charge(c, self.n + (given ? (size_t)chars.n * self.n / 16 : 0));
    if (rc == 0)
        *out = jinja_strip(self, given ? &chars : NULL, sides & 1, sides & 2);
    return rc;
}

static int m_strip(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return jinja_strip_chars(c, self, arg[0], 3, out);
}

static int m_lstrip(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return jinja_strip_chars(c, self, arg[0], 1, out);
}

static int m_rstrip(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return jinja_strip_chars(c, self, arg[0], 2, out);
}

static int m_upper(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return jinja_case(c, self, CASE_UPPER, out);
}

static int m_lower(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return jinja_case(c, self, CASE_LOWER, out);
}

static int m_title(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return jinja_case(c, self, CASE_TITLE, out);
}

static int m_capitalize(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return jinja_case(c, self, CASE_CAPITAL, out);
}

static int m_swapcase(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return jinja_case(c, self, CASE_SWAP, out);
}

/* Where the first word of s ends, and where the last one begins. */
static size_t first_word_end(struct jv s)
{
    size_t at = 0;
    uint32_t cp;
    while (at < s.n) {
        size_t k = (size_t)utf8_decode(s.s + at, s.n - at, &cp);
        if (utf8_is_space(cp))
            break;
        at += k;
    }
    return at;
}

static size_t last_word_begin(struct jv s)
{
    size_t at = s.n;
    uint32_t cp;
    while (at > 0) {
        size_t k = 1;
        while (k < at && ((unsigned char)s.s[at - k] & 0xC0) == 0x80)
            k++;
        utf8_decode(s.s + at - k, k, &cp);
        if (utf8_is_space(cp))
            break;
        at -= k;
    }
    return at;
}

static int split_spaces(struct jinja_ctx *c, struct jv self, int64_t max, bool right,
                        struct jv *out)
{
    struct jv rest = jinja_strip(self, NULL, !right, right);
    int rc = jinja_list(c, JV_LIST, 0, out);
    while (rest.n > 0 && rc == 0) {
        struct jv part = rest;
        if (max == 0) { /* the last piece keeps its blanks on the far side */
            rest.n = 0;
        } else if (right) {
            size_t at = last_word_begin(rest);
            part = jinja_strn(rest.s + at, rest.n - at);
            rest = jinja_strip(jinja_strn(rest.s, at), NULL, false, true);
        } else {
            size_t at = first_word_end(rest);
            part = jinja_strn(rest.s, at);
            rest = jinja_strip(jinja_strn(rest.s + at, rest.n - at), NULL, true, false);
        }
        max -= max > 0;
        rc = jinja_push(c, *out, part);
    }
    return rc;
}

static const char *find_last(const char *s, size_t n, struct jv what)
{
    if (n < what.n)
        return NULL;
    for (const char *p = s + (n - what.n);; p--) {
        if (memcmp(p, what.s, what.n) == 0)
            return p;
        if (p == s)
            return NULL;
    }
}

static int split_at(struct jinja_ctx *c, struct jv rest, struct jv sep, int64_t max, bool right,
                    struct jv *out)
{
    int rc = jinja_list(c, JV_LIST, 0, out);
    while (rc == 0) {
        const char *hit = NULL;
        if (max != 0)
            hit = right ? find_last(rest.s, rest.n, sep) : jinja_find(rest.s, rest.n, sep);
        if (!hit)
            return jinja_push(c, *out, rest);
        size_t before = (size_t)(hit - rest.s), after = before + sep.n;
        struct jv tail = jinja_strn(rest.s + after, rest.n - after);
        rc = jinja_push(c, *out, right ? tail : jinja_strn(rest.s, before));
        rest = right ? jinja_strn(rest.s, before) : tail;
        max -= max > 0;
    }
    return rc;
}

static int split_any(struct jinja_ctx *c, struct jv self, const struct jv *arg, bool right,
                     struct jv *out)
{
    int64_t max;
    bool spaces = arg[0].type == JV_UNSET || arg[0].type == JV_NONE;
    int rc = want_int(c, arg[1], -1, &max);
    if (rc == 0 && !spaces)
        rc = want_str(c, arg[0]);
    if (rc == 0 && !spaces && arg[0].n == 0)
        rc = jinja_fail(c, ERR_INVALID, "empty separator");
    if (rc == 0) /* looking backwards compares at every byte */
        rc = jinja_charge(c, (size_t)self.n * (spaces || !right ? 8 : 8 + arg[0].n / 4));
    if (rc == 0)
        rc = spaces ? split_spaces(c, self, max, right, out)
                    : split_at(c, self, arg[0], max, right, out);
    if (rc != 0 || !right)
        return rc;
    struct jlist *l = out->list;
    for (size_t i = 0; i < l->n / 2; i++) {
        struct jv t = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = t;
    }
    return 0;
}

static int m_split(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return split_any(c, self, arg, false, out);
}

static int m_rsplit(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return split_any(c, self, arg, true, out);
}

static int m_splitlines(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return jinja_splitlines(c, self, jinja_truth(arg[0]), out);
}

static bool has_affix(struct jv s, struct jv affix, bool end)
{
    return s.n >= affix.n && memcmp(s.s + (end ? s.n - affix.n : 0), affix.s, affix.n) == 0;
}

/* The slice [start:end] of self that startswith, find, count look at; *shift: characters before. */
static int window(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out,
                  int64_t *shift)
{
    *out = self;
    *shift = 0;
    if (arg[1].type == JV_UNSET && arg[2].type == JV_UNSET)
        return 0;
    struct jv part[3] = {arg[1], arg[2], {0}};
    int rc = jinja_slice(c, self, part, out);
    if (rc == 0 && out->s >= self.s)
        *shift = (int64_t)jinja_chars(self.s, (size_t)(out->s - self.s));
    return rc;
}

static int affix_any(struct jinja_ctx *c, struct jv self, const struct jv *arg, bool end,
                     struct jv *out)
{
    struct jv s;
    int64_t shift;
    int rc = window(c, self, arg, &s, &shift);
    bool hit = false;
    if (rc == 0 && arg[0].type == JV_TUPLE) {
        for (size_t i = 0; i < arg[0].list->n && rc == 0; i++) {
            rc = want_str(c, arg[0].list->items[i]);
            hit = hit || (rc == 0 && has_affix(s, arg[0].list->items[i], end));
        }
    } else if (rc == 0) {
        rc = want_str(c, arg[0]);
        hit = rc == 0 && has_affix(s, arg[0], end);
    }
    *out = jinja_bool(hit);
    return rc;
}

static int m_startswith(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return affix_any(c, self, arg, false, out);
}

static int m_endswith(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return affix_any(c, self, arg, true, out);
}

static int remove_affix(struct jinja_ctx *c, struct jv self, struct jv affix, bool end,
                        struct jv *out)
{
    int rc = want_str(c, affix);
    *out = self;
    if (rc == 0 && has_affix(self, affix, end))
        *out = jinja_strn(self.s + (end ? 0 : affix.n), self.n - affix.n);
    return rc;
}

static int m_removeprefix(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return remove_affix(c, self, arg[0], false, out);
}

static int m_removesuffix(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return remove_affix(c, self, arg[0], true, out);
}

static int m_replace(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    int64_t max;
    int rc = want_str(c, arg[0]);
    if (rc == 0)
        rc = want_str(c, arg[1]);
    if (rc == 0)
        rc = want_int(c, arg[2], -1, &max);
    return rc == 0 ? jinja_replace(c, self, arg[0], arg[1], max, out) : rc;
}

static int m_join(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    struct jv list;
    int rc = jinja_iterate(c, arg[0], &list);
    return rc == 0 ? jinja_join(c, self, list, true, out) : rc;
}

static int find_any(struct jinja_ctx *c, struct jv self, const struct jv *arg, bool right,
                    struct jv *out)
{
    struct jv s;
    int64_t shift;
    int rc = want_str(c, arg[0]);
    if (rc == 0)
        rc = window(c, self, arg, &s, &shift);
    if (rc == 0)
        rc = jinja_charge(c,
                          right ? (size_t)s.n * (1 + arg[0].n / 4) : jinja_find_cost(s.n, arg[0]));
    if (rc != 0)
        return rc;
    const char *hit = right ? find_last(s.s, s.n, arg[0]) : jinja_find(s.s, s.n, arg[0]);
    *out = jinja_int(hit ? shift + (int64_t)jinja_chars(s.s, (size_t)(hit - s.s)) : -1);
    return 0;
}

static int m_find(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return find_any(c, self, arg, false, out);
}

static int m_rfind(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    return find_any(c, self, arg, true, out);
}

static int m_index(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    int rc = find_any(c, self, arg, false, out);
    if (rc == 0 && out->i < 0)
        return jinja_fail(c, ERR_INVALID, "substring not found");
    return rc;
}

static int m_count(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    struct jv s;
    int64_t shift, n = 0;
    int rc = want_str(c, arg[0]);
    if (rc == 0)
        rc = window(c, self, arg, &s, &shift);
    if (rc == 0)
        rc = jinja_charge(c, (size_t)s.n * 8);
    if (rc != 0)
        return rc;
    if (arg[0].n == 0)
        n = (int64_t)jinja_chars(s.s, s.n) + 1;
    for (size_t at = 0; arg[0].n > 0;) {
        const char *hit = jinja_find(s.s + at, s.n - at, arg[0]);
        if (!hit)
            break;
        at = (size_t)(hit - s.s) + arg[0].n;
        n++;
    }
    *out = jinja_int(n);
    return 0;
}

/* isalpha, isdigit ...: the class is in which; all characters must have it. */
static int all_are(struct jinja_ctx *c, struct jv self, char which, struct jv *out)
{
    bool all = self.n > 0, cased = false;
    for (uint32_t i = 0; i < self.n && all;) {
        uint32_t cp;
        i += (uint32_t)utf8_decode(self.s + i, self.n - i, &cp);
        cased = cased || utf8_is_cased(cp);
        if (which == 'a')
            all = utf8_is_letter(cp);
        else if (which == 'd')
            all = utf8_is_digit(cp);
        else if (which == 'n')
            all = utf8_is_letter(cp) || utf8_is_digit(cp);
        else if (which == 's')
            all = utf8_is_space(cp);
        else
            all = !utf8_is_cased(cp) || cp == (which == 'u' ? utf8_upper(cp) : utf8_lower(cp));
    }
    *out = jinja_bool(all && (cased || (which != 'u' && which != 'l')));
    return jinja_charge(c, (size_t)self.n * 4);
}

static int m_isalpha(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return all_are(c, self, 'a', out);
}

static int m_isdigit(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return all_are(c, self, 'd', out);
}

static int m_isalnum(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return all_are(c, self, 'n', out);
}

static int m_isspace(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return all_are(c, self, 's', out);
}

static int m_isupper(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return all_are(c, self, 'u', out);
}

static int m_islower(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return all_are(c, self, 'l', out);
}

/* ---- str.format: {} {0} {name}, without format specs ---- */

static int format_field(struct jinja_ctx *c, struct jv name, const struct jargs *args, int *next,
                        struct jv *out)
{
    int index = 0;
    bool digits = true;
    for (uint32_t i = 0; i < name.n; i++) {
        digits = digits && name.s[i] >= '0' && name.s[i] <= '9' && index < 10000;
        index = digits ? index * 10 + (name.s[i] - '0') : 0;
    }
    if (digits) {
        index = name.n ? index : (*next)++;
        if (index >= args->n_pos)
            return jinja_fail(c, ERR_INVALID, "format: too few arguments");
        *out = args->items[index].v;
        return 0;
    }
    for (int i = args->n_pos; i < args->n; i++) {
        const struct jarg *a = &args->items[i];
        if (a->len == name.n && memcmp(a->name, name.s, name.n) == 0) {
            *out = a->v;
            return 0;
        }
    }
    return jinja_fail(c, ERR_INVALID, "format: the field '%.*s' is not there or not supported",
                      (int)(name.n < 40 ? name.n : 40), name.s);
}

static int str_format(struct jinja_ctx *c, struct jv self, const struct jargs *args, struct jv *out)
{
    struct buf b;
    int rc = 0, next = 0;
    jinja_buf(c, &b);
    for (uint32_t i = 0; i < self.n && rc == 0 && !b.failed; i++) {
        char ch = self.s[i];
        bool twice = i + 1 < self.n && self.s[i + 1] == ch;
        if (ch != '{' && ch != '}') {
            buf_addc(&b, ch);
        } else if (twice) {
            buf_addc(&b, ch);
            i++;
        } else {
            const char *close = ch == '{' ? memchr(self.s + i, '}', self.n - i) : NULL;
            struct jv v = {0};
            if (!close) {
                rc = jinja_fail(c, ERR_INVALID, "format: a brace stands alone");
                break;
            }
            struct jv name = jinja_strn(self.s + i + 1, (size_t)(close - self.s) - i - 1);
            rc = format_field(c, name, args, &next, &v);
            if (rc == 0)
                rc = jinja_print(c, v, &b);
            i += name.n + 1;
        }
    }
    if (rc == 0)
        return jinja_take(c, &b, out);
    buf_free(&b);
    return rc;
}

/* ---- dict, list, loop ---- */

static int m_get(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    struct jpair *p;
    int rc = jinja_dict_find(c, self, arg[0], &p);
    *out = p ? p->value : arg[1].type == JV_UNSET ? jinja_none() : arg[1];
    return rc;
}

static int dict_view(struct jinja_ctx *c, struct jv self, enum jlist_kind kind, struct jv *out)
{
    int rc = jinja_list(c, JV_VIEW, self.dict->n, out);
    if (rc == 0)
        rc = jinja_charge(c, self.dict->n * 16);
    for (size_t i = 0; i < self.dict->n && rc == 0; i++) {
        struct jv v = kind == JLIST_KEYS ? self.dict->items[i].key : self.dict->items[i].value;
        if (kind == JLIST_ITEMS) {
            rc = jinja_list(c, JV_TUPLE, 2, &v);
            if (rc == 0)
                rc = jinja_push(c, v, self.dict->items[i].key);
            if (rc == 0)
                rc = jinja_push(c, v, self.dict->items[i].value);
        }
        if (rc == 0)
            rc = jinja_push(c, *out, v);
    }
    if (rc == 0)
        out->list->kind = kind;
    return rc;
}

static int m_keys(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return dict_view(c, self, JLIST_KEYS, out);
}

static int m_values(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return dict_view(c, self, JLIST_VALUES, out);
}

static int m_items(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)arg;
    return dict_view(c, self, JLIST_ITEMS, out);
}

/* Values do not change, so a copy is the value. */
static int m_copy(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    (void)c, (void)arg;
    *out = self;
    return 0;
}

static int m_list_count(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    int64_t n = 0;
    int rc = 0;
    for (size_t i = 0; i < self.list->n && rc == 0; i++) {
        bool same;
        rc = jinja_equal(c, self.list->items[i], arg[0], 0, &same);
        n += same;
    }
    *out = jinja_int(n);
    return rc;
}

static int m_list_index(struct jinja_ctx *c, struct jv self, const struct jv *arg, struct jv *out)
{
    for (size_t i = 0; i < self.list->n; i++) {
        bool same;
        int rc = jinja_equal(c, self.list->items[i], arg[0], 0, &same);
        *out = jinja_int((int64_t)i);
        if (rc != 0 || same)
            return rc;
    }
    return jinja_fail(c, ERR_INVALID, "the value is not in the list");
}

static int loop_cycle(struct jinja_ctx *c, struct jv self, const struct jargs *args, struct jv *out)
{
    if (args->n_pos == 0)
        return jinja_fail(c, ERR_INVALID, "no items for cycling given");
    *out = args->items[self.loop->i % (size_t)args->n_pos].v;
    return 0;
}

static int loop_changed(struct jinja_ctx *c, struct jv self, const struct jargs *args,
                        struct jv *out)
{
    struct jv now;
    bool same = false;
    int rc = jinja_list(c, JV_TUPLE, (size_t)args->n_pos, &now);
    for (int i = 0; i < args->n_pos && rc == 0; i++)
        rc = jinja_push(c, now, args->items[i].v);
    if (rc == 0 && self.loop->last_changed.type != JV_UNSET)
        rc = jinja_equal(c, self.loop->last_changed, now, 0, &same);
    self.loop->last_changed = now;
    *out = jinja_bool(!same);
    return rc;
}

/* ---- the table ---- */

enum owner { OF_STR, OF_DICT, OF_LIST, OF_LOOP };
static const struct {
    const char *name;
    enum owner owner;
    method_fn fn;                    /* NULL: takes any number of arguments */
    const char *params[METHOD_ARGS]; /* "" : only by position */
    int n_required;
} methods[] = {
    {"strip", OF_STR, m_strip, {""}, 0},
    {"lstrip", OF_STR, m_lstrip, {""}, 0},
    {"rstrip", OF_STR, m_rstrip, {""}, 0},
    {"upper", OF_STR, m_upper, {NULL}, 0},
    {"lower", OF_STR, m_lower, {NULL}, 0},
    {"casefold", OF_STR, m_lower, {NULL}, 0},
    {"title", OF_STR, m_title, {NULL}, 0},
    {"capitalize", OF_STR, m_capitalize, {NULL}, 0},
    {"swapcase", OF_STR, m_swapcase, {NULL}, 0},
    {"split", OF_STR, m_split, {"sep", "maxsplit"}, 0},
    {"rsplit", OF_STR, m_rsplit, {"sep", "maxsplit"}, 0},
    {"splitlines", OF_STR, m_splitlines, {"keepends"}, 0},
    {"startswith", OF_STR, m_startswith, {"", "", ""}, 1},
    {"endswith", OF_STR, m_endswith, {"", "", ""}, 1},
    {"removeprefix", OF_STR, m_removeprefix, {""}, 1},
    {"removesuffix", OF_STR, m_removesuffix, {""}, 1},
    {"replace", OF_STR, m_replace, {"", "", "count"}, 2},
    {"join", OF_STR, m_join, {""}, 1},
    {"find", OF_STR, m_find, {"", "", ""}, 1},
    {"rfind", OF_STR, m_rfind, {"", "", ""}, 1},
    {"index", OF_STR, m_index, {"", "", ""}, 1},
    {"count", OF_STR, m_count, {"", "", ""}, 1},
    {"isalpha", OF_STR, m_isalpha, {NULL}, 0},
    {"isdigit", OF_STR, m_isdigit, {NULL}, 0},
    {"isalnum", OF_STR, m_isalnum, {NULL}, 0},
    {"isspace", OF_STR, m_isspace, {NULL}, 0},
    {"isupper", OF_STR, m_isupper, {NULL}, 0},
    {"islower", OF_STR, m_islower, {NULL}, 0},
    {"format", OF_STR, NULL, {NULL}, 0},
    {"get", OF_DICT, m_get, {"", ""}, 1},
    {"keys", OF_DICT, m_keys, {NULL}, 0},
    {"values", OF_DICT, m_values, {NULL}, 0},
    {"items", OF_DICT, m_items, {NULL}, 0},
    {"copy", OF_DICT, m_copy, {NULL}, 0},
    {"count", OF_LIST, m_list_count, {""}, 1},
    {"index", OF_LIST, m_list_index, {""}, 1},
    {"cycle", OF_LOOP, NULL, {NULL}, 0},
    {"changed", OF_LOOP, NULL, {NULL}, 0},
};

int jinja_method_id(struct jv self, const char *name, size_t n)
{
    enum owner owner;
    if (self.type == JV_STR)
        owner = OF_STR;
    else if (self.type == JV_DICT)
        owner = OF_DICT;
    else if (jinja_is_seq(self))
        owner = OF_LIST;
    else if (self.type == JV_LOOP)
        owner = OF_LOOP;
    else
        return -1;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (methods[i].owner == owner && strlen(methods[i].name) == n &&
            memcmp(methods[i].name, name, n) == 0)
            return (int)i;
    }
    return -1;
}

int jinja_method_call(struct jinja_ctx *c, const struct jmethod *m, const struct jargs *args,
                      struct jv *out)
{
    const char *name = methods[m->id].name;
    int n_params = 0;
    if (!methods[m->id].fn) {
        if (m->self.type == JV_STR)
            return str_format(c, m->self, args, out);
        return strcmp(name, "cycle") == 0 ? loop_cycle(c, m->self, args, out)
                                          : loop_changed(c, m->self, args, out);
    }
    while (n_params < METHOD_ARGS && methods[m->id].params[n_params])
        n_params++;
    struct jv arg[METHOD_ARGS] = {{0}};
    int rc = jinja_bind(c, name, args, methods[m->id].params, n_params, arg);
    for (int i = 0; i < methods[m->id].n_required && rc == 0; i++) {
        if (arg[i].type == JV_UNSET)
            rc = jinja_fail(c, ERR_INVALID, "%s() lacks an argument", name);
    }
    return rc == 0 ? methods[m->id].fn(c, m->self, arg, out) : rc;
}
