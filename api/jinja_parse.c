/* Statements of a Jinja template: tokens to nodes.  Also what a parsed template is made of: its
 * arena, its names, the limits on its nodes. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/jinja_int.h"
#include "base/utf8.h"

const struct jinja_limits jinja_limits_default = {
    .max_template_bytes = 256 << 10,
    .max_nodes = 40000,
    .max_depth = 64,
    .max_steps = 4000000,
    .max_output_bytes = 16 << 20,
    .max_memory_bytes = 64 << 20,
};

/* ---- what the parser is made of ---- */

int jinja_parse_fail(struct jparser *p, int code, const char *fmt, ...)
{
    if (p->failed) /* the first error is the one to tell */
        return code;
    char msg[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    p->failed = true;
    return err_set(p->e, code, "chat template line %d: %.*s", p->cur.line,
                   (int)utf8_whole(msg, strlen(msg)), msg);
}

struct jnode *jinja_parse_node(struct jparser *p, enum jnode_type type, int line)
{
    struct jnode *n = NULL;
    if (++p->n_nodes <= p->lim->max_nodes)
        n = arena_alloc(&p->t->a, sizeof *n);
    if (!n) {
        jinja_parse_fail(p, ERR_TOOBIG, "the template is too long");
        return NULL;
    }
    n->type = (uint8_t)type;
    n->line = line;
    return n;
}

bool jinja_parse_next(struct jparser *p)
{
    if (p->failed)
        return false;
    p->cur = p->look;
    if (p->cur.type != T_EOF && jinja_lex_next(&p->lex, &p->look) != 0)
        p->failed = true;
    return !p->failed;
}

bool jinja_parse_enter(struct jparser *p)
{
    if (++p->depth > 2 * p->lim->max_depth) /* an expression in parentheses counts twice */
        jinja_parse_fail(p, ERR_TOOBIG, "the template nests too deeply");
    return !p->failed;
}

bool jinja_parse_height(struct jparser *p, struct jnode *n)
{
    struct jnode *const kids[] = {n->a, n->b, n->c, n->d};
    bool list = n->type == JN_LIST || n->type == JN_TUPLE || n->type == JN_DICT ||
                n->type == JN_CALL || n->type == JN_FILTER || n->type == JN_TEST;
    for (int i = 0; i < 4; i++) {
        for (const struct jnode *k = kids[i]; k; k = list ? k->next : NULL) {
            if (k->height >= n->height)
                n->height = (uint16_t)(k->height + 1);
        }
    }
    if (n->height > JINJA_HEIGHT)
        jinja_parse_fail(p, ERR_TOOBIG, "an expression of the template is too long");
    return !p->failed;
}

bool jinja_tok_is(const struct jtok *t, const char *name)
{
    return t->type == T_NAME && t->n == strlen(name) && memcmp(t->p, name, t->n) == 0;
}

bool jinja_parse_is(const struct jparser *p, const char *name)
{
    return jinja_tok_is(&p->cur, name);
}

bool jinja_parse_skip(struct jparser *p, const char *name)
{
    return jinja_parse_is(p, name) && jinja_parse_next(p);
}

bool jinja_parse_expect(struct jparser *p, enum jtok_type type, const char *what)
{
    if (p->cur.type != type) {
        jinja_parse_fail(p, ERR_INVALID, "%s is expected here", what);
        return false;
    }
    return jinja_parse_next(p);
}

struct jsym *jinja_sym(struct jinja *t, const char *s, size_t n, bool add)
{
    unsigned h = 5381;
    for (size_t i = 0; i < n; i++)
        h = h * 33 + (unsigned char)s[i];
    struct jsym **bucket = &t->syms[h % JSYM_BUCKETS];
    for (struct jsym *y = *bucket; y; y = y->next) {
        if (y->n == n && memcmp(y->p, s, n) == 0)
            return y;
    }
    struct jsym *y = add ? arena_alloc(&t->a, sizeof *y) : NULL;
    if (!y)
        return NULL;
    *y = (struct jsym){.p = s, .n = n, .next = *bucket, .func = jinja_func_id(s, n)};
    *bucket = y;
    return y;
}

static const struct jsym *parse_sym(struct jparser *p, const char *s, size_t n)
{
    const struct jsym *y = jinja_sym(p->t, s, n, true);
    if (!y)
        jinja_parse_fail(p, ERR_TOOBIG, "the template needs too much memory");
    return y;
}

static struct jnode *parse_stmt(struct jparser *p);

/* ---- statements ---- */

static struct jnode *parse_text(struct jparser *p)
{
    struct jnode *n = jinja_parse_node(p, JN_TEXT, p->cur.line);
    if (n)
        n->value = jinja_strn(p->cur.p, p->cur.n);
    jinja_parse_next(p);
    return n;
}

static struct jnode *parse_output(struct jparser *p)
{
    struct jnode *n = jinja_parse_node(p, JN_OUTPUT, p->cur.line);
    if (n && jinja_parse_next(p))
        n->a = jinja_expr_tuple(p, JEXPR_COND, NULL);
    if (!p->failed)
        jinja_parse_expect(p, T_VAR_END, "'}}'");
    return n;
}

static bool parse_at_one_of(const struct jparser *p, const char *const *names)
{
    while (names && *names && !jinja_parse_is(p, *names))
        names++;
    return names && *names;
}

/* A body up to one of the names in ends (NULL-terminated), which stays the current token. */
static bool parse_until(struct jparser *p, const char *const *ends, struct jnode **body)
{
    struct jnode **tail = body;
    while (!p->failed) {
        struct jnode *n = NULL;
        if (p->cur.type == T_EOF) {
            if (ends)
                jinja_parse_fail(p, ERR_INVALID, "the template ends where '%s' is expected",
                                 ends[0]);
            return !p->failed;
        } else if (p->cur.type == T_TEXT) {
            n = parse_text(p);
        } else if (p->cur.type == T_VAR_BEGIN) {
            n = parse_output(p);
        } else {
            if (!jinja_parse_next(p))
                return false;
            if (parse_at_one_of(p, ends))
                return true;
            n = parse_stmt(p);
            if (n)
                jinja_parse_expect(p, T_BLOCK_END, "'%}'");
        }
        if (!n || p->failed)
            return false;
        *tail = n;
        while (*tail) /* print and generation give several */
            tail = &(*tail)->next;
    }
    return false;
}

/* "%}", a body, and with drop the name that ends it. */
static bool parse_body(struct jparser *p, const char *const *ends, bool drop, struct jnode **body)
{
    if (p->cur.type == T_COLON && !jinja_parse_next(p))
        return false;
    if (!jinja_parse_expect(p, T_BLOCK_END, "'%}'") || !jinja_parse_enter(p))
        return false;
    bool ok = parse_until(p, ends, body) && (!drop || jinja_parse_next(p));
    p->depth--;
    return ok;
}

static const char *const end_if[] = {"endif", "elif", "else", NULL};
static const char *const end_else[] = {"endif", NULL};

static struct jnode *parse_if(struct jparser *p)
{
    struct jnode *n = jinja_parse_node(p, JN_IF, p->cur.line);
    struct jnode **tail = n ? &n->a : NULL;
    while (n && jinja_parse_next(p)) { /* over if, elif */
        struct jnode *b = jinja_parse_node(p, JN_BRANCH, p->cur.line);
        if (!b)
            return NULL;
        b->a = jinja_expr_tuple(p, 0, NULL);
        if (!b->a || !parse_body(p, end_if, false, &b->b))
            return NULL;
        *tail = b;
        tail = &b->next;
        if (jinja_parse_is(p, "elif"))
            continue;
        if (jinja_parse_skip(p, "else"))
            return parse_body(p, end_else, true, &n->b) ? n : NULL;
        return jinja_parse_next(p) ? n : NULL;
    }
    return NULL;
}

/* One name, name.attribute, or (a, b). */
static struct jnode *parse_target_one(struct jparser *p, bool with_ns)
{
    struct jnode *n = jinja_parse_node(p, JN_NAME, p->cur.line);
    if (!n)
        return NULL;
    static const char *const reserved[] = {"true", "false", "none", "True", "False", "None"};
    bool bad = p->cur.type != T_NAME;
    for (int i = 0; !bad && i < 6; i++)
        bad = jinja_parse_is(p, reserved[i]);
    if (bad) {
        jinja_parse_fail(p, ERR_INVALID, "this cannot be assigned to");
        return NULL;
    }
    n->sym = parse_sym(p, p->cur.p, p->cur.n);
    if (!n->sym || !jinja_parse_next(p))
        return NULL;
    if (!with_ns || p->cur.type != T_DOT)
        return n;
    if (!jinja_parse_next(p))
        return NULL;
    n->type = JN_NSREF;
    n->value = jinja_strn(p->cur.p, p->cur.n);
    return jinja_parse_expect(p, T_NAME, "a name") ? n : NULL;
}

/* a, b, (c, d): a JN_TUPLE of targets when there is a comma. */
static struct jnode *parse_target(struct jparser *p, bool with_ns)
{
    struct jnode *first = NULL, **tail = &first;
    int line = p->cur.line;
    bool is_tuple = false;
    if (!jinja_parse_enter(p))
        return NULL;
    while (!jinja_parse_is(p, "in") && p->cur.type != T_ASSIGN && p->cur.type != T_RPAREN &&
           p->cur.type != T_BLOCK_END) {
        struct jnode *v;
        if (p->cur.type == T_LPAREN) {
            v = jinja_parse_next(p) ? parse_target(p, with_ns) : NULL;
            if (!v || !jinja_parse_expect(p, T_RPAREN, "')'"))
                return NULL;
        } else {
            v = parse_target_one(p, with_ns);
        }
        if (!v)
            return NULL;
        *tail = v;
        tail = &v->next;
        if (p->cur.type != T_COMMA)
            break;
        is_tuple = true;
        if (!jinja_parse_next(p))
            return NULL;
    }
    p->depth--;
    if (!first) {
        jinja_parse_fail(p, ERR_INVALID, "a name to assign to is expected");
        return NULL;
    }
    if (!is_tuple)
        return first;
    struct jnode *n = jinja_parse_node(p, JN_TUPLE, line);
    if (n)
        n->a = first;
    return n;
}

static struct jnode *parse_for(struct jparser *p)
{
    static const char *const end_for[] = {"endfor", "else", NULL};
    static const char *const end_for_else[] = {"endfor", NULL};
    struct jnode *n = jinja_parse_node(p, JN_FOR, p->cur.line);
    if (!n || !jinja_parse_next(p))
        return NULL;
    n->a = parse_target(p, false);
    if (!n->a)
        return NULL;
    if (!jinja_parse_skip(p, "in")) {
        jinja_parse_fail(p, ERR_INVALID, "'in' is expected here");
        return NULL;
    }
    n->b = jinja_expr_tuple(p, 0, "recursive");
    if (!n->b)
        return NULL;
    if (jinja_parse_skip(p, "if")) {
        n->c = jinja_expr(p, true);
        if (!n->c)
            return NULL;
    }
    if (jinja_parse_is(p, "recursive")) {
        jinja_parse_fail(p, ERR_UNSUPPORTED, "recursive loops are not supported");
        return NULL;
    }
    p->loops++;
    bool ok = parse_body(p, end_for, false, &n->d);
    p->loops--;
    if (!ok)
        return NULL;
    if (jinja_parse_skip(p, "else"))
        return parse_body(p, end_for_else, true, &n->e) ? n : NULL;
    return jinja_parse_next(p) ? n : NULL;
}

/* After the first word: target = value, or target filters %} body. */
static struct jnode *parse_set(struct jparser *p)
{
    static const char *const ends[] = {"endset", NULL};
    struct jnode *n = jinja_parse_node(p, JN_SET, p->cur.line);
    if (!n || !jinja_parse_next(p))
        return NULL;
    n->a = parse_target(p, true);
    if (!n->a)
        return NULL;
    if (p->cur.type == T_ASSIGN) {
        if (!jinja_parse_next(p))
            return NULL;
        n->b = jinja_expr_tuple(p, JEXPR_COND, NULL);
        return n->b ? n : NULL;
    }
    n->type = JN_SETBLOCK;
    n->c = jinja_expr_filters(p, NULL, false);
    return !p->failed && parse_body(p, ends, true, &n->b) ? n : NULL;
}

/* "(" ... ")" of macro and call: JN_PARAM list. */
static bool parse_params(struct jparser *p, struct jnode **params)
{
    struct jnode **tail = params;
    bool defaults = false;
    if (!jinja_parse_expect(p, T_LPAREN, "'('"))
        return false;
    while (p->cur.type != T_RPAREN) {
        if (*params && !jinja_parse_expect(p, T_COMMA, "','"))
            return false;
        struct jnode *n = parse_target_one(p, false);
        if (!n)
            return false;
        n->type = JN_PARAM;
        if (p->cur.type == T_ASSIGN) {
            defaults = true;
            n->a = jinja_parse_next(p) ? jinja_expr(p, true) : NULL;
            if (!n->a)
                return false;
        } else if (defaults) {
            return jinja_parse_fail(p, ERR_INVALID, "a parameter without default after one") == 0;
        }
        *tail = n;
        tail = &n->next;
    }
    return jinja_parse_next(p);
}

static bool parse_macro_body(struct jparser *p, const char *const *ends, struct jnode *n)
{
    int loops = p->loops, uses = p->macro_uses;
    p->loops = p->macro_uses = 0;
    bool ok = parse_body(p, ends, true, &n->b);
    n->op = (uint8_t)p->macro_uses;
    p->loops = loops;
    p->macro_uses |= uses;
    return ok;
}

static struct jnode *parse_macro(struct jparser *p)
{
    static const char *const ends[] = {"endmacro", NULL};
    struct jnode *n = jinja_parse_node(p, JN_MACRO, p->cur.line);
    if (!n || !jinja_parse_next(p))
        return NULL;
    struct jnode *name = parse_target_one(p, false);
    if (!name)
        return NULL;
    n->sym = name->sym;
    return parse_params(p, &n->a) && parse_macro_body(p, ends, n) ? n : NULL;
}

static struct jnode *parse_call(struct jparser *p)
{
    static const char *const ends[] = {"endcall", NULL};
    struct jnode *n = jinja_parse_node(p, JN_CALLBLOCK, p->cur.line);
    struct jnode *m = jinja_parse_node(p, JN_MACRO, p->cur.line);
    if (!n || !m || !jinja_parse_next(p))
        return NULL;
    n->b = m;
    m->sym = parse_sym(p, "caller", 6);
    if (!m->sym || (p->cur.type == T_LPAREN && !parse_params(p, &m->a)))
        return NULL;
    n->a = jinja_expr(p, true);
    if (!n->a)
        return NULL;
    if (n->a->type != JN_CALL) {
        jinja_parse_fail(p, ERR_INVALID, "a call is expected here");
        return NULL;
    }
    return parse_macro_body(p, ends, m) ? n : NULL;
}

static struct jnode *parse_filter_block(struct jparser *p)
{
    static const char *const ends[] = {"endfilter", NULL};
    struct jnode *n = jinja_parse_node(p, JN_FILTERBLOCK, p->cur.line);
    if (!n || !jinja_parse_next(p))
        return NULL;
    n->a = jinja_expr_filters(p, NULL, true);
    return n->a && parse_body(p, ends, true, &n->b) ? n : NULL;
}

static struct jnode *parse_with(struct jparser *p)
{
    static const char *const ends[] = {"endwith", NULL};
    struct jnode *n = jinja_parse_node(p, JN_WITH, p->cur.line);
    struct jnode **tail = n ? &n->a : NULL;
    if (!n || !jinja_parse_next(p))
        return NULL;
    while (p->cur.type != T_BLOCK_END) {
        if (n->a && !jinja_parse_expect(p, T_COMMA, "','"))
            return NULL;
        struct jnode *s = jinja_parse_node(p, JN_SET, p->cur.line);
        if (!s)
            return NULL;
        s->a = parse_target_one(p, false);
        if (!s->a || !jinja_parse_expect(p, T_ASSIGN, "'='"))
            return NULL;
        s->b = jinja_expr(p, true);
        if (!s->b)
            return NULL;
        *tail = s;
        tail = &s->next;
    }
    return parse_body(p, ends, true, &n->b) ? n : NULL;
}

/* {% generation %}: marks what the assistant wrote, for training.  Its body is a scope. */
static struct jnode *parse_generation(struct jparser *p)
{
    static const char *const ends[] = {"endgeneration", NULL};
    struct jnode *n = jinja_parse_node(p, JN_WITH, p->cur.line);
    return n && jinja_parse_next(p) && parse_body(p, ends, true, &n->b) ? n : NULL;
}

static struct jnode *parse_print(struct jparser *p)
{
    struct jnode *n = jinja_parse_node(p, JN_OUTPUT, p->cur.line), *first = NULL;
    if (!n || !jinja_parse_next(p))
        return NULL;
    first = n;
    while (p->cur.type != T_BLOCK_END) {
        if (first->a) {
            n->next = jinja_parse_node(p, JN_OUTPUT, p->cur.line);
            n = n->next;
            if (!n || !jinja_parse_expect(p, T_COMMA, "','"))
                return NULL;
        }
        n->a = jinja_expr(p, true);
        if (!n->a)
            return NULL;
    }
    return first;
}

static struct jnode *parse_jump(struct jparser *p)
{
    bool is_break = jinja_parse_is(p, "break");
    struct jnode *n = jinja_parse_node(p, is_break ? JN_BREAK : JN_CONTINUE, p->cur.line);
    if (n && p->loops == 0)
        jinja_parse_fail(p, ERR_INVALID, "'%s' outside of a loop", is_break ? "break" : "continue");
    return n && jinja_parse_next(p) ? n : NULL;
}

static const struct {
    const char *name;
    struct jnode *(*parse)(struct jparser *p); /* NULL: Jinja that is not supported here */
} statements[] = {
    {"if", parse_if},         {"for", parse_for},
    {"set", parse_set},       {"macro", parse_macro},
    {"call", parse_call},     {"filter", parse_filter_block},
    {"with", parse_with},     {"generation", parse_generation},
    {"print", parse_print},   {"break", parse_jump},
    {"continue", parse_jump}, {"extends", NULL},
    {"block", NULL},          {"include", NULL},
    {"import", NULL},         {"from", NULL},
    {"autoescape", NULL},
};

static struct jnode *parse_stmt(struct jparser *p)
{
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!jinja_parse_is(p, statements[i].name))
            continue;
        if (statements[i].parse)
            return statements[i].parse(p);
        jinja_parse_fail(p, ERR_UNSUPPORTED, "'%s' is not supported in chat templates",
                         statements[i].name);
        return NULL;
    }
    jinja_parse_fail(p, ERR_INVALID, "unknown statement '%.*s'",
                     p->cur.type == T_NAME ? (int)(p->cur.n < 40 ? p->cur.n : 40) : 0, p->cur.p);
    return NULL;
}

/* ---- the template ---- */

/* \r\n and \r become \n; one newline at the end goes. */
static size_t parse_newlines(char *dst, const char *src, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (src[i] == '\r') {
            dst[n++] = '\n';
            i += i + 1 < len && src[i + 1] == '\n';
        } else {
            dst[n++] = src[i];
        }
    }
    return n > 0 && dst[n - 1] == '\n' ? n - 1 : n;
}

int jinja_parse(struct jinja **out, const char *src, size_t len, const struct jinja_limits *limits,
                struct err *e)
{
    const struct jinja_limits *lim = limits ? limits : &jinja_limits_default;
    if (len > lim->max_template_bytes)
        return err_set(e, ERR_TOOBIG, "the chat template has %zu bytes, the limit is %zu", len,
                       lim->max_template_bytes);
    if (!utf8_valid(src, len))
        return err_set(e, ERR_INVALID, "the chat template is not valid UTF-8");
    struct err own = {0};
    struct jinja *t = xcalloc(1, sizeof *t);
    arena_init(&t->a, lim->max_memory_bytes);
    struct jparser p = {.t = t, .lim = lim, .e = e ? e : &own};
    char *copy = arena_alloc(&t->a, len + 1);
    if (!copy) {
        jinja_free(t);
        return err_set(e, ERR_TOOBIG, "the chat template needs too much memory");
    }
    jinja_lex_init(&p.lex, copy, parse_newlines(copy, src, len), &t->a, p.e);
    p.cur.type = p.look.type = T_TEXT;   /* anything but the end, for the first two steps */
    bool started = jinja_parse_next(&p); /* twice: cur and look */
    started = started && jinja_parse_next(&p);
    if (!started || !parse_until(&p, NULL, &t->body)) {
        jinja_free(t);
        return p.e->code ? p.e->code : err_set(e, ERR_INVALID, "the chat template is not valid");
    }
    *out = t;
    return 0;
}

void jinja_free(struct jinja *t)
{
    if (!t)
        return;
    arena_free(&t->a);
    free(t);
}
