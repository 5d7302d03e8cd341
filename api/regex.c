/* A recursive descent over the expression: each part becomes a symbol, and how many characters it has.
 *
 * ^ and $ are known at the two ends of an alternative of the whole expression.  Without them (REGEX_SEARCH)
 * any characters may stand before and behind it. */
#include "api/regex.h"

#include <stdlib.h>
#include <string.h>

#include "api/charset.h"
#include "base/utf8.h"

enum { MAX_DEPTH = 64, MAX_PARTS = 4096, MAX_TIMES = 100000, MAX_LENGTH = 1 << 24 };

struct reader {
    const struct regex *x;
    struct grammar *g;
    const char *start, *at, *end;
    int depth;
    struct err *e;
};

static int refuse(struct reader *r, int code, const char *what)
{
    err_set(r->e, code, "%s: %s, at character %d of the expression", r->x->param, what,
            (int)(r->at - r->start) + 1);
    return err_param(r->e, "%s", r->x->param);
}
static int bad(struct reader *r, const char *what)
{
    return refuse(r, ERR_INVALID, what);
}
static int unknown(struct reader *r, const char *what)
{
    return refuse(r, ERR_UNSUPPORTED, what);
}

static char peek(const struct reader *r)
{
    return r->at < r->end ? *r->at : '\0';
}
static bool take(struct reader *r, char c)
{
    if (r->at == r->end || *r->at != c)
        return false;
    r->at++;
    return true;
}

/* A symbol and how many characters it has. */
struct part {
    grammar_sym sym;
    int min, max;
    grammar_sym unit; /* one character, which is repeated; 0: it is something else */
};

static int add_lengths(int a, int b)
{
    return a < 0 || b < 0 ? -1 : a + b < MAX_LENGTH ? a + b : MAX_LENGTH;
}
static int times(int length, int n)
{
    if (length == 0 || n == 0)
        return 0;
    if (length < 0 || n < 0)
        return -1;
    return length < MAX_LENGTH / n ? length * n : MAX_LENGTH;
}

static struct part one_of(const struct reader *r, const struct charset *c)
{
    return (struct part){charset_symbol(c, r->g, r->x->flags & REGEX_QUOTED), 1, 1, 0};
}

/* ---- characters ---- */

/* Behind \x, \u and \U; \u{...} has any number of digits. */
static int read_hex(struct reader *r, char letter, uint32_t *cp)
{
    int n = letter == 'x' ? 2 : letter == 'u' ? 4 : 8;
    bool braces = letter == 'u' && take(r, '{');
    for (n = braces ? 0 : n; braces && r->at + n < r->end && r->at[n] != '}' && n < 7;)
        n++;
    if (r->end - r->at < n + braces || n == 0 || !utf8_hex(r->at, n, cp) || *cp > CHARSET_LAST)
        return bad(r, "hexadecimal digits of a character are needed");
    r->at += n + braces;
    return 0;
}

/* Behind a backslash: a class into *set (*cp stays), or one character. */
static int read_escape(struct reader *r, struct charset *set, uint32_t *cp, bool *is_class)
{
    static const char names[] = "n\nt\tr\rf\fv\va\a";
    *is_class = false;
    if (r->at == r->end)
        return bad(r, "nothing follows the backslash");
    const char c = *r->at++;
    if (charset_class(set, c)) {
        *is_class = true;
        return 0;
    }
    if (c == 'x' || c == 'u' || c == 'U')
        return read_hex(r, c, cp);
    for (const char *p = names; *p != '\0'; p += 2)
        if (*p == c) {
            *cp = (unsigned char)p[1];
            return 0;
        }
    if (c == '0' && !(peek(r) >= '0' && peek(r) <= '9')) {
        *cp = 0;
        return 0;
    }
    if (c >= '0' && c <= '9')
        return unknown(r, "references back are not regular");
    if (c == 'b' || c == 'B' || c == 'A' || c == 'Z' || c == 'z')
        return unknown(r, "borders are not known; ^ and $ at the ends are");
    if (c == 'p' || c == 'P')
        return unknown(r, "properties of characters (\\p) are not known");
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return unknown(r, "this escape is not known");
    r->at--;
    r->at += utf8_decode(r->at, (size_t)(r->end - r->at), cp);
    return 0;
}

static int read_member(struct reader *r, struct charset *set, uint32_t *cp, bool *is_class)
{
    *is_class = false;
    if (take(r, '\\')) {
        if (take(r, 'b')) {
            *cp = '\b';
            return 0;
        }
        return read_escape(r, set, cp, is_class);
    }
    r->at += utf8_decode(r->at, (size_t)(r->end - r->at), cp);
    return 0;
}

/* Behind the [. */
static int read_class(struct reader *r, struct part *out)
{
    struct charset set = {0};
    const bool invert = take(r, '^');
    for (bool first = true; first || peek(r) != ']'; first = false) {
        uint32_t lo = 0, hi;
        bool is_class;
        if (r->at == r->end)
            return bad(r, "a ] is missing");
        if (first && peek(r) == ']')
            break; /* ECMA-262: an empty set */
        if (r->end - r->at > 1 && r->at[0] == '[' && r->at[1] == ':')
            return unknown(r, "named classes are not known");
        int rc = read_member(r, &set, &lo, &is_class);
        if (rc != 0 || is_class) {
            if (rc != 0)
                return rc;
            continue;
        }
        hi = lo;
        if (r->end - r->at > 1 && r->at[0] == '-' && r->at[1] != ']') {
            r->at++;
            if ((rc = read_member(r, &set, &hi, &is_class)) != 0)
                return rc;
            if (is_class || hi < lo)
                return bad(r, "this is no range of characters");
        }
        charset_add(&set, lo, hi);
    }
    r->at++;
    if (invert)
        charset_invert(&set);
    if (set.full)
        return unknown(r, "a set has too many ranges");
    *out = one_of(r, &set);
    return 0;
}

/* ---- groups and repetition ---- */

static int read_any(struct reader *r, struct part *out);

/* Behind the (. */
static int read_group(struct reader *r, struct part *out)
{
    if (take(r, '?')) {
        bool python = take(r, 'P');
        if (!python && take(r, ':')) {
            /* a group without a number */
        } else if (peek(r) == '<' && r->end - r->at > 1 && r->at[1] != '=' && r->at[1] != '!') {
            while (r->at < r->end && *r->at != '>')
                r->at++;
            r->at += r->at < r->end;
        } else {
            return unknown(r, "looking around, references back and flags are not known");
        }
    }
    if (r->depth == MAX_DEPTH)
        return unknown(r, "groups are nested too deeply");
    r->depth++;
    int rc = read_any(r, out);
    r->depth--;
    if (rc == 0 && !take(r, ')'))
        return bad(r, "a ) is missing");
    return rc;
}

static int read_atom(struct reader *r, struct part *out)
{
    struct charset set = {0};
    uint32_t cp = 0;
    bool is_class = false;
    const char c = *r->at;
    int rc = 0;
    if (c == '^' || c == '$')
        return unknown(r, "^ and $ are known only at the ends of the whole expression");
    if (c == '*' || c == '+' || c == '?')
        return bad(r, "there is nothing to repeat");
    if (take(r, '('))
        return read_group(r, out);
    if (take(r, '['))
        return read_class(r, out);
    if (take(r, '.')) {
        charset_add(&set, '\n', '\n');
        charset_invert(&set);
        is_class = true;
    } else if (take(r, '\\')) {
        rc = read_escape(r, &set, &cp, &is_class);
    } else {
        r->at += utf8_decode(r->at, (size_t)(r->end - r->at), &cp);
    }
    if (rc == 0 && !is_class)
        charset_add(&set, cp, cp);
    if (rc == 0)
        *out = one_of(r, &set);
    return rc;
}

/* {n}, {n,} or {n,m}; anything else is text, as ECMA-262 and Python have it. */
static int read_times(struct reader *r, int *min, int *max, bool *there)
{
    const char *at = r->at + 1;
    long low = 0, high = -1;
    char *end;
    *there = false;
    if (at >= r->end || ((*at < '0' || *at > '9') && *at != ','))
        return 0;
    if (*at != ',') {
        low = strtol(at, &end, 10);
        at = end;
    }
    const bool comma = at < r->end && *at == ',';
    if (comma && ++at < r->end && *at >= '0' && *at <= '9') {
        high = strtol(at, &end, 10);
        at = end;
    } else if (!comma) {
        high = low;
    }
    if (at >= r->end || *at != '}' || (at == r->at + 2 && comma))
        return 0;
    if (low > MAX_TIMES || high > MAX_TIMES)
        return unknown(r, "something is repeated too often");
    if (high >= 0 && high < low)
        return bad(r, "something is repeated at least more often than at most");
    *min = (int)low;
    *max = (int)high;
    r->at = at + 1;
    *there = true;
    return 0;
}

static int read_repeat(struct reader *r, struct part *x)
{
    const char c = peek(r);
    int min = c == '+', max = c == '?' ? 1 : -1;
    bool there = c == '*' || c == '+' || c == '?';
    if (there)
        r->at++;
    int rc = c == '{' ? read_times(r, &min, &max, &there) : 0;
    if (rc != 0 || !there)
        return rc;
    if (peek(r) == '+' || peek(r) == '*' || (c != '{' && peek(r) == '{'))
        return unknown(r, "repetitions of repetitions need a group");
    take(r, '?'); /* lazy: the same texts */
    *x = (struct part){grammar_repeat(r->g, x->sym, min, max), times(x->min, min),
                       times(x->max, max), x->min == 1 && x->max == 1 ? x->sym : 0};
    return 0;
}

/* Parts that stand behind each other. */
struct sequence {
    grammar_sym *syms; /* [n], room for a power of two */
    int n, loose;      /* the one whose length is not fixed; -1: none, -2: several */
    struct part of;    /* its parts, and the loose one's */
    int loose_min, loose_max;
};

static int add_part(struct reader *r, struct sequence *q, const struct part *x)
{
    if ((q->n & (q->n - 1)) == 0) {
        grammar_sym *more =
            q->n < MAX_PARTS
                ? arena_array(r->x->arena, q->n > 0 ? 2 * (size_t)q->n : 1, sizeof *more)
                : NULL;
        if (more == NULL)
            return refuse(r, ERR_TOOBIG, "the expression is too long");
        if (q->n > 0)
            memcpy(more, q->syms, (size_t)q->n * sizeof *more);
        q->syms = more;
    }
    if (x->min != x->max) {
        q->loose = q->loose == -1 && x->unit != 0 ? q->n : -2;
        q->of.unit = x->unit;
        q->loose_min = x->min;
        q->loose_max = x->max;
    }
    q->syms[q->n++] = x->sym;
    q->of.min = add_lengths(q->of.min, x->min);
    q->of.max = add_lengths(q->of.max, x->max);
    return 0;
}

/* Where all lengths but one are fixed, that one makes the whole as long as is wanted. */
static void fit_length(const struct reader *r, struct sequence *q)
{
    const int least = r->x->least, most = r->x->most;
    if (q->loose < 0 ||
        (q->of.min >= least && (most == 0 || (q->of.max >= 0 && q->of.max <= most))))
        return;
    const int fixed = q->of.min - q->loose_min;
    const int min = least - fixed > q->loose_min ? least - fixed : q->loose_min;
    int max = q->loose_max;
    if (most > 0 && (max < 0 || most - fixed < max))
        max = most - fixed;
    if (max >= 0 && max < min)
        return;
    q->syms[q->loose] = grammar_repeat(r->g, q->of.unit, min, max);
    q->of.min = fixed + min;
    q->of.max = max < 0 ? -1 : fixed + max;
}

/* One alternative, up to | or ). */
static int read_parts(struct reader *r, bool alone, struct part *out)
{
    struct sequence q = {.loose = -1};
    while (r->at < r->end && *r->at != '|' && *r->at != ')') {
        struct part x;
        if (r->depth == 0 && *r->at == '$' && (r->at + 1 == r->end || r->at[1] == '|'))
            break;
        int rc = read_atom(r, &x);
        if (rc == 0)
            rc = read_repeat(r, &x);
        if (rc == 0)
            rc = add_part(r, &q, &x);
        if (rc != 0)
            return rc;
    }
    if (alone && (r->at == r->end || *r->at != ')'))
        fit_length(r, &q);
    *out = (struct part){grammar_seq(r->g, q.n, q.syms), q.of.min, q.of.max, 0};
    return 0;
}

/* An alternative of the whole expression, with what may stand around it. */
static int read_top(struct reader *r, struct part *out)
{
    const bool search = r->x->flags & REGEX_SEARCH;
    const bool left = take(r, '^') || !search;
    int rc = read_parts(r, left, out);
    const bool right = take(r, '$') || !search;
    if (rc != 0 || (left && right))
        return rc;
    const struct charset all = {.n = 1, .of = {{0, CHARSET_LAST}}};
    grammar_sym any = grammar_repeat(r->g, one_of(r, &all).sym, 0, -1);
    grammar_sym none = grammar_seq(r->g, 0, NULL);
    out->sym =
        grammar_seq(r->g, 3, (grammar_sym[]){left ? none : any, out->sym, right ? none : any});
    out->max = -1;
    return 0;
}

static int read_any(struct reader *r, struct part *out)
{
    bool first = true;
    grammar_sym rule = grammar_rule(r->g);
    *out = (struct part){.sym = rule};
    do {
        struct part x;
        int rc = r->depth == 0 ? read_top(r, &x) : read_parts(r, false, &x);
        if (rc != 0)
            return rc;
        grammar_add(r->g, rule, 1, &x.sym);
        out->min = first || x.min < out->min ? x.min : out->min;
        out->max = first || (x.max > out->max && out->max >= 0) || x.max < 0 ? x.max : out->max;
        first = false;
    } while (take(r, '|'));
    return 0;
}

int regex_compile(struct regex *x, const char *text, struct err *e)
{
    struct part whole = {0};
    struct reader r = {
        .x = x, .g = x->g, .start = text, .at = text, .end = text + strlen(text), .e = e};
    int rc = read_any(&r, &whole);
    if (rc == 0 && r.at < r.end)
        rc = bad(&r, "a ( is missing");
    x->sym = whole.sym;
    x->min = whole.min;
    x->max = whole.max;
    return rc;
}
