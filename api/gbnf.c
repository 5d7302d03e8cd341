/* A recursive descent, each rule becoming one of the grammar's. */
#include "api/gbnf.h"

#include <stdlib.h>
#include <string.h>

#include "api/charset.h"
#include "base/utf8.h"

enum {
    MAX_NAMES = 1024,
    NAME_MAX = 64,
    MAX_DEPTH = 64,
    MAX_PARTS = 4096,
    MAX_TIMES = 100000,
    LITERAL_MAX = 1 << 16
};

struct name {
    const char *s;
    int len;
    bool written;
    grammar_sym rule;
};

struct reader {
    struct grammar *g;
    struct arena *arena;
    const char *start, *at;
    struct name *names; /* [n_names] */
    int n_names, depth;
    const char *param;
    struct err *e;
};

static int line_of(const struct reader *r)
{
    int line = 1;
    for (const char *p = r->start; p < r->at; p++)
        line += *p == '\n';
    return line;
}

static int refuse(struct reader *r, int code, const char *what, const char *name, int len)
{
    err_set(r->e, code, "%s: %s%s%.*s, in line %d of the grammar", r->param, what,
            len > 0 ? " " : "", len < NAME_MAX ? len : NAME_MAX, name, line_of(r));
    return err_param(r->e, "%s", r->param);
}
static int bad(struct reader *r, const char *what)
{
    const int len = (int)strcspn(r->at, " \t\r\n");
    return refuse(r, ERR_INVALID, what, len > 0 ? r->at : "the end of a line",
                  len > 0 ? (len < 20 ? len : 20) : NAME_MAX);
}
static int too_big(struct reader *r, const char *what)
{
    return refuse(r, ERR_TOOBIG, what, "", 0);
}

/* Spaces and remarks; and, with lines, ends of lines. */
static void skip(struct reader *r, bool lines)
{
    for (;; r->at++) {
        if (*r->at == '#')
            r->at += strcspn(r->at, "\n");
        if (*r->at != ' ' && *r->at != '\t' && !(lines && (*r->at == '\n' || *r->at == '\r')))
            return;
    }
}

static int name_length(const char *s)
{
    int n = 0;
    while ((s[n] >= 'a' && s[n] <= 'z') || (s[n] >= 'A' && s[n] <= 'Z') ||
           (s[n] >= '0' && s[n] <= '9') || s[n] == '-' || s[n] == '_')
        n++;
    return n;
}

/* The rule of the name that stands here; NULL with *rc set when there is none. */
static struct name *read_name(struct reader *r, int *rc)
{
    const int len = name_length(r->at);
    *rc = len == 0         ? bad(r, "a rule's name is needed, not")
          : len > NAME_MAX ? refuse(r, ERR_INVALID, "a name is too long:", r->at, len)
                           : 0;
    if (*rc != 0)
        return NULL;
    const char *s = r->at;
    r->at += len;
    for (int i = 0; i < r->n_names; i++)
        if (r->names[i].len == len && memcmp(r->names[i].s, s, (size_t)len) == 0)
            return &r->names[i];
    if (r->n_names == MAX_NAMES) {
        *rc = too_big(r, "there are too many rules");
        return NULL;
    }
    r->names[r->n_names] = (struct name){s, len, false, grammar_rule(r->g)};
    return &r->names[r->n_names++];
}

/* ---- characters ---- */

static int read_char(struct reader *r, uint32_t *cp)
{
    static const char escapes[] = "t\tr\rn\n\\\\\"\"[[]]--^^";
    if (*r->at != '\\') {
        r->at += utf8_decode(r->at, strlen(r->at) < 4 ? strlen(r->at) : 4, cp);
        return 0;
    }
    const char c = r->at[1];
    const int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0) {
        if (!utf8_hex(r->at + 2, digits, cp) || *cp > CHARSET_LAST)
            return bad(r, "hexadecimal digits of a character are needed in");
        r->at += 2 + digits;
        return 0;
    }
    for (const char *p = escapes; *p != '\0'; p += 2)
        if (*p == c) {
            *cp = (unsigned char)p[1];
            r->at += 2;
            return 0;
        }
    return bad(r, "there is no such escape:");
}

/* Behind the ". */
static int read_literal(struct reader *r, grammar_sym *out)
{
    const size_t longest = strcspn(r->at, "\n");
    char *text = longest <= LITERAL_MAX ? arena_alloc(r->arena, 2 * longest + 4) : NULL;
    size_t n = 0;
    if (text == NULL)
        return too_big(r, "a text is too long");
    while (*r->at != '"') {
        uint32_t cp = 0;
        if (*r->at == '\0' || *r->at == '\n')
            return bad(r, "a \" is missing before");
        int rc = read_char(r, &cp);
        if (rc == 0 && cp >= 0xD800 && cp <= 0xDFFF)
            rc = bad(r, "half of a surrogate pair is no character, before");
        if (rc != 0)
            return rc;
        n += (size_t)utf8_encode(text + n, cp);
    }
    r->at++;
    *out = grammar_text(r->g, text, n);
    return 0;
}

/* Behind the [. */
static int read_set(struct reader *r, grammar_sym *out)
{
    struct charset set = {0};
    const bool invert = *r->at == '^';
    r->at += invert;
    while (*r->at != ']') {
        uint32_t lo = 0, hi;
        if (*r->at == '\0' || *r->at == '\n')
            return bad(r, "a ] is missing before");
        int rc = read_char(r, &lo);
        hi = lo;
        if (rc == 0 && r->at[0] == '-' && r->at[1] != ']' && r->at[1] != '\0') {
            r->at++;
            rc = read_char(r, &hi);
        }
        if (rc != 0)
            return rc;
        if (hi < lo)
            return bad(r, "this is no range of characters, before");
        charset_add(&set, lo, hi);
    }
    r->at++;
    if (invert)
        charset_invert(&set);
    if (set.full)
        return too_big(r, "a set has too many ranges");
    *out = charset_symbol(&set, r->g, false);
    return 0;
}

/* ---- sequences ---- */

static int read_alternatives(struct reader *r, grammar_sym rule);

static int read_symbol(struct reader *r, grammar_sym *out)
{
    const char c = *r->at;
    int rc = 0;
    if (c == '"' || c == '[') {
        r->at++;
        return c == '"' ? read_literal(r, out) : read_set(r, out);
    }
    if (c == '.') {
        r->at++;
        *out = grammar_chars(r->g, 0, CHARSET_LAST);
        return 0;
    }
    if (c == '<' || c == '!')
        return refuse(r, ERR_UNSUPPORTED, "tokens as symbols are not known:", r->at,
                      (int)strcspn(r->at, " \t\r\n"));
    if (c != '(') {
        const struct name *n = read_name(r, &rc);
        *out = n != NULL ? n->rule : 0;
        return rc;
    }
    if (r->depth == MAX_DEPTH)
        return too_big(r, "groups are nested too deeply");
    r->depth++;
    r->at++;
    skip(r, true);
    *out = grammar_rule(r->g);
    rc = read_alternatives(r, *out);
    r->depth--;
    if (rc == 0 && *r->at != ')')
        return bad(r, "a ) is missing before");
    r->at += rc == 0;
    return rc;
}

/* Behind the {: n}, n,} or n,m}. */
static int read_times(struct reader *r, int *min, int *max)
{
    char *end;
    skip(r, true);
    if (*r->at < '0' || *r->at > '9')
        return bad(r, "a number is needed, not");
    long low = strtol(r->at, &end, 10), high = low;
    r->at = end;
    skip(r, true);
    if (*r->at == ',') {
        r->at++;
        skip(r, true);
        high = -1;
        if (*r->at >= '0' && *r->at <= '9') {
            high = strtol(r->at, &end, 10);
            r->at = end;
        }
        skip(r, true);
    }
    if (*r->at != '}')
        return bad(r, "a } is missing before");
    r->at++;
    if (low > MAX_TIMES || high > MAX_TIMES || (high >= 0 && high < low))
        return bad(r, "these are no numbers of times, before");
    *min = (int)low;
    *max = (int)high;
    return 0;
}

static int read_repeat(struct reader *r, grammar_sym *sym)
{
    const char c = *r->at;
    int min = c == '+', max = c == '?' ? 1 : -1, rc = 0;
    if (c != '*' && c != '+' && c != '?' && c != '{')
        return 0;
    r->at++;
    if (c == '{')
        rc = read_times(r, &min, &max);
    if (rc == 0)
        *sym = grammar_repeat(r->g, *sym, min, max);
    return rc;
}

/* Where a sequence ends: and an end of a line ends those of a rule, unless a | follows. */
static bool at_end(struct reader *r)
{
    skip(r, r->depth > 0);
    if (*r->at == '\r' || *r->at == '\n') {
        const char *here = r->at;
        skip(r, true);
        if (*r->at != '|')
            r->at = here;
    }
    return *r->at == '\0' || strchr("|)\r\n", *r->at) != NULL;
}

static int read_sequence(struct reader *r, grammar_sym rule)
{
    grammar_sym *parts = NULL;
    int n = 0;
    while (!at_end(r)) {
        grammar_sym x;
        int rc = read_symbol(r, &x);
        skip(r, r->depth > 0);
        while (rc == 0 && *r->at != '\0' && strchr("*+?{", *r->at) != NULL) {
            rc = read_repeat(r, &x);
            skip(r, r->depth > 0);
        }
        if (rc != 0)
            return rc;
        if ((n & (n - 1)) == 0) { /* full: as large again */
            grammar_sym *more = arena_array(r->arena, n > 0 ? 2 * (size_t)n : 1, sizeof *more);
            if (more == NULL || n == MAX_PARTS)
                return too_big(r, "a rule is too long");
            if (n > 0)
                memcpy(more, parts, (size_t)n * sizeof *parts);
            parts = more;
        }
        parts[n++] = x;
    }
    grammar_add(r->g, rule, n, parts);
    return 0;
}

static int read_alternatives(struct reader *r, grammar_sym rule)
{
    for (;;) {
        int rc = read_sequence(r, rule);
        if (rc != 0 || *r->at != '|')
            return rc;
        r->at++;
        skip(r, true);
    }
}

static int read_rule(struct reader *r)
{
    int rc;
    struct name *n = read_name(r, &rc);
    if (n == NULL)
        return rc;
    if (n->written)
        return refuse(r, ERR_INVALID, "a rule is written twice:", n->s, n->len);
    n->written = true;
    skip(r, false);
    if (strncmp(r->at, "::=", 3) != 0)
        return bad(r, "::= is needed, not");
    r->at += 3;
    skip(r, true);
    if ((rc = read_alternatives(r, n->rule)) != 0)
        return rc;
    if (*r->at == ')')
        return bad(r, "a ( is missing before");
    skip(r, true);
    return 0;
}

static int check_rules(struct reader *r, grammar_sym *root)
{
    grammar_sym rules[MAX_NAMES];
    *root = 0;
    for (int i = 0; i < r->n_names; i++) {
        const struct name *n = &r->names[i];
        rules[i] = n->rule;
        if (!n->written)
            return refuse(r, ERR_INVALID, "there is no rule", n->s, n->len);
        if (n->len == 4 && memcmp(n->s, "root", 4) == 0)
            *root = n->rule;
    }
    if (*root == 0)
        return refuse(r, ERR_INVALID, "there is no rule", "root", 4);
    const int i = grammar_left_recursive(r->g, rules, r->n_names);
    if (i < 0)
        return 0;
    return refuse(r, ERR_INVALID, "this rule begins with itself (left recursion):", r->names[i].s,
                  r->names[i].len);
}

int gbnf_compile(grammar_sym *out, struct grammar *g, struct arena *a, const char *text,
                 const char *param, struct err *e)
{
    struct reader r = {.g = g,
                       .arena = a,
                       .start = text,
                       .at = text,
                       .names = arena_array(a, MAX_NAMES, sizeof(struct name)),
                       .param = param,
                       .e = e};
    if (r.names == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    skip(&r, true);
    while (*r.at != '\0') {
        int rc = read_rule(&r);
        if (rc != 0)
            return rc;
    }
    return check_rules(&r, out);
}
