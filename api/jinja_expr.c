/* Expressions of a Jinja template: tokens to nodes, with jinja2's precedence (from weak to strong:
 * if-else, or, and, not, comparisons, + and -, ~, * / // %, **, sign, then filters and tests).
 * Nesting and the height of every expression are bounded, so that walking it cannot exhaust the
 * stack. */
#include "api/jinja_int.h"

/* Appends to a list whose end is *tail. */
static void list_add(struct jnode ***tail, struct jnode *n)
{
    **tail = n;
    *tail = &n->next;
}

static void list_height(struct jnode *n, const struct jnode *element)
{
    if (element->height >= n->height)
        n->height = (uint16_t)(element->height + 1);
}

static struct jnode *expr_name_value(struct jparser *p, enum jnode_type type, int line)
{
    struct jnode *n = jinja_parse_node(p, type, line);
    if (n)
        n->value = jinja_strn(p->cur.p, p->cur.n);
    return n && jinja_parse_next(p) ? n : NULL;
}

static struct jnode *expr_const(struct jparser *p, struct jv v)
{
    struct jnode *n = jinja_parse_node(p, JN_CONST, p->cur.line);
    if (n)
        n->value = v;
    return n && jinja_parse_next(p) ? n : NULL;
}

/* Elements up to the closing token, into n->a. */
static struct jnode *expr_elements(struct jparser *p, struct jnode *n, enum jtok_type close)
{
    struct jnode **tail = &n->a;
    while (p->cur.type != close) {
        if (n->a && !jinja_parse_expect(p, T_COMMA, "','"))
            return NULL;
        if (p->cur.type == close)
            break;
        struct jnode *v = jinja_expr(p, true);
        if (v && n->type == JN_DICT) {
            struct jnode *pair = jinja_parse_node(p, JN_PAIR, v->line);
            if (!pair || !jinja_parse_expect(p, T_COLON, "':'"))
                return NULL;
            pair->a = v;
            pair->b = jinja_expr(p, true);
            if (!pair->b || !jinja_parse_height(p, pair))
                return NULL;
            v = pair;
        }
        if (!v)
            return NULL;
        list_add(&tail, v);
    }
    return jinja_parse_height(p, n) && jinja_parse_next(p) ? n : NULL;
}

/* Adjacent string literals are one. */
static struct jnode *expr_strings(struct jparser *p)
{
    struct jnode *n = expr_const(p, jinja_strn(p->cur.p, p->cur.n));
    if (!n || p->cur.type != T_STR)
        return n;
    struct buf b;
    buf_init(&b, p->lim->max_template_bytes);
    buf_add(&b, n->value.s, n->value.n);
    while (!p->failed && p->cur.type == T_STR) {
        buf_add(&b, p->cur.p, p->cur.n);
        jinja_parse_next(p);
    }
    char *s = p->failed ? NULL : arena_strndup(&p->t->a, buf_str(&b), b.len);
    if (s)
        n->value = jinja_strn(s, b.len);
    else if (!p->failed)
        jinja_parse_fail(p, ERR_TOOBIG, "the template needs too much memory");
    buf_free(&b);
    return s ? n : NULL;
}

static struct jnode *expr_name(struct jparser *p)
{
    const struct jtok *t = &p->cur;
    if (jinja_tok_is(t, "true") || jinja_tok_is(t, "True"))
        return expr_const(p, jinja_bool(true));
    if (jinja_tok_is(t, "false") || jinja_tok_is(t, "False"))
        return expr_const(p, jinja_bool(false));
    if (jinja_tok_is(t, "none") || jinja_tok_is(t, "None"))
        return expr_const(p, jinja_none());
    if (jinja_tok_is(t, "varargs"))
        p->macro_uses |= JUSES_VARARGS;
    if (jinja_tok_is(t, "kwargs"))
        p->macro_uses |= JUSES_KWARGS;
    if (jinja_tok_is(t, "caller"))
        p->macro_uses |= JUSES_CALLER;
    struct jnode *n = jinja_parse_node(p, JN_NAME, t->line);
    if (!n)
        return NULL;
    n->sym = jinja_sym(p->t, t->p, t->n, true);
    if (!n->sym) {
        jinja_parse_fail(p, ERR_TOOBIG, "the template needs too much memory");
        return NULL;
    }
    return jinja_parse_next(p) ? n : NULL;
}

struct jnode *jinja_expr_primary(struct jparser *p)
{
    struct jnode *n;
    switch (p->cur.type) {
    case T_NAME:
        return expr_name(p);
    case T_STR:
        return expr_strings(p);
    case T_INT:
        return expr_const(p, jinja_int(p->cur.i));
    case T_FLOAT:
        return expr_const(p, jinja_float(p->cur.f));
    case T_LPAREN:
        if (!jinja_parse_next(p))
            return NULL;
        n = jinja_expr_tuple(p, JEXPR_COND | JEXPR_PARENS, NULL);
        return n && jinja_parse_expect(p, T_RPAREN, "')'") ? n : NULL;
    case T_LBRACKET:
    case T_LBRACE: {
        bool list = p->cur.type == T_LBRACKET;
        n = jinja_parse_node(p, list ? JN_LIST : JN_DICT, p->cur.line);
        if (!n || !jinja_parse_next(p))
            return NULL;
        return expr_elements(p, n, list ? T_RBRACKET : T_RBRACE);
    }
    case T_EOF:
        jinja_parse_fail(p, ERR_INVALID, "unexpected end of template");
        return NULL;
    default:
        jinja_parse_fail(p, ERR_INVALID, "an expression is missing here");
        return NULL;
    }
}

static bool tuple_ends(const struct jparser *p, const char *end_name)
{
    enum jtok_type t = p->cur.type;
    return t == T_VAR_END || t == T_BLOCK_END || t == T_RPAREN ||
           (end_name && jinja_parse_is(p, end_name));
}

struct jnode *jinja_expr_tuple(struct jparser *p, int flags, const char *end_name)
{
    struct jnode *first = NULL, **tail = &first;
    bool is_tuple = false;
    int line = p->cur.line;
    while (!tuple_ends(p, end_name)) {
        struct jnode *v = jinja_expr(p, flags & JEXPR_COND);
        if (!v)
            return NULL;
        list_add(&tail, v);
        if (p->cur.type != T_COMMA)
            break;
        is_tuple = true;
        if (!jinja_parse_next(p))
            return NULL;
    }
    if (first && !is_tuple)
        return first;
    if (!first && !(flags & JEXPR_PARENS)) {
        jinja_parse_fail(p, ERR_INVALID, "an expression is missing here");
        return NULL;
    }
    struct jnode *n = jinja_parse_node(p, JN_TUPLE, line);
    if (!n)
        return NULL;
    n->a = first;
    return jinja_parse_height(p, n) ? n : NULL;
}

/* ---- what follows a primary: .name [item] (call) |filter is test ---- */

static struct jnode *expr_wrap(struct jparser *p, enum jnode_type type, struct jnode *a)
{
    struct jnode *n = jinja_parse_node(p, type, p->cur.line);
    if (n)
        n->a = a;
    return n;
}

/* One argument of a call; *seen is the highest kind so far: 0 positional, 1 *a, 2 name=a, 3 **a. */
static struct jnode *expr_call_arg(struct jparser *p, int *seen)
{
    struct jnode *arg;
    int kind = p->cur.type == T_MUL                                ? 1
               : p->cur.type == T_POW                              ? 3
               : p->cur.type == T_NAME && p->look.type == T_ASSIGN ? 2
                                                                   : 0;
    if (*seen == 3 || (kind == 0 && *seen > 0) || (kind == 1 && *seen == 1)) {
        jinja_parse_fail(p, ERR_INVALID, "the arguments of a call are out of order");
        return NULL;
    }
    *seen = kind > *seen ? kind : *seen;
    if (kind == 0)
        return jinja_expr(p, true);
    if (kind == 2) {
        arg = expr_name_value(p, JN_KWARG, p->cur.line);
    } else {
        arg = jinja_parse_node(p, kind == 1 ? JN_STAR : JN_STARS, p->cur.line);
    }
    if (!arg || !jinja_parse_next(p))
        return NULL;
    arg->a = jinja_expr(p, true);
    return arg->a && jinja_parse_height(p, arg) ? arg : NULL;
}

/* "(" is the current token. */
static bool expr_call_args(struct jparser *p, struct jnode **args)
{
    struct jnode **tail = args;
    int seen = 0;
    if (!jinja_parse_next(p))
        return false;
    while (p->cur.type != T_RPAREN) {
        if (*args && !jinja_parse_expect(p, T_COMMA, "','"))
            return false;
        if (p->cur.type == T_RPAREN)
            break;
        struct jnode *arg = expr_call_arg(p, &seen);
        if (!arg)
            return false;
        list_add(&tail, arg);
    }
    return jinja_parse_next(p);
}

static bool expr_subscript_part(struct jparser *p, struct jnode **part)
{
    if (p->cur.type == T_COLON || p->cur.type == T_RBRACKET)
        return true;
    *part = jinja_expr(p, true);
    return *part != NULL;
}

/* After "[". */
static struct jnode *expr_subscript(struct jparser *p, struct jnode *obj)
{
    struct jnode *n = expr_wrap(p, JN_ITEM, obj);
    if (!n)
        return NULL;
    if (p->cur.type == T_RBRACKET) {
        jinja_parse_fail(p, ERR_INVALID, "an expression is missing here");
        return NULL;
    }
    if (!expr_subscript_part(p, &n->b))
        return NULL;
    struct jnode **parts[] = {&n->c, &n->d};
    for (int i = 0; i < 2 && p->cur.type == T_COLON; i++) {
        n->type = JN_SLICE;
        if (!jinja_parse_next(p) || !expr_subscript_part(p, parts[i]))
            return NULL;
    }
    return jinja_parse_expect(p, T_RBRACKET, "']'") && jinja_parse_height(p, n) ? n : NULL;
}

static struct jnode *expr_dot(struct jparser *p, struct jnode *obj)
{
    struct jnode *n;
    if (p->cur.type == T_NAME) {
        n = expr_name_value(p, JN_ATTR, p->cur.line);
        if (n)
            n->a = obj;
    } else if (p->cur.type == T_INT) {
        n = expr_wrap(p, JN_ITEM, obj);
        if (n)
            n->b = expr_const(p, jinja_int(p->cur.i));
        if (n && !n->b)
            return NULL;
    } else {
        jinja_parse_fail(p, ERR_INVALID, "a name is expected after '.'");
        return NULL;
    }
    return n && jinja_parse_height(p, n) ? n : NULL;
}

static struct jnode *expr_call(struct jparser *p, struct jnode *f)
{
    struct jnode *n = expr_wrap(p, JN_CALL, f);
    return n && expr_call_args(p, &n->b) && jinja_parse_height(p, n) ? n : NULL;
}

struct jnode *jinja_expr_postfix(struct jparser *p, struct jnode *n)
{
    while (n && !p->failed) {
        if (p->cur.type == T_DOT)
            n = jinja_parse_next(p) ? expr_dot(p, n) : NULL;
        else if (p->cur.type == T_LBRACKET)
            n = jinja_parse_next(p) ? expr_subscript(p, n) : NULL;
        else if (p->cur.type == T_LPAREN)
            n = expr_call(p, n);
        else
            return n;
    }
    return NULL;
}

/* At the name of a filter. */
static struct jnode *expr_filter(struct jparser *p, struct jnode *in)
{
    if (p->cur.type != T_NAME) {
        jinja_parse_fail(p, ERR_INVALID, "a filter's name is expected");
        return NULL;
    }
    struct jnode *n = expr_name_value(p, JN_FILTER, p->cur.line);
    if (!n)
        return NULL;
    n->a = in;
    if (p->cur.type == T_LPAREN && !expr_call_args(p, &n->b))
        return NULL;
    return jinja_parse_height(p, n) ? n : NULL;
}

static bool test_arg_starts(const struct jparser *p)
{
    switch (p->cur.type) {
    case T_NAME:
        return !jinja_parse_is(p, "else") && !jinja_parse_is(p, "or") && !jinja_parse_is(p, "and");
    case T_STR:
    case T_INT:
    case T_FLOAT:
    case T_LBRACKET:
    case T_LBRACE:
        return true;
    default:
        return false;
    }
}

/* After "is". */
static struct jnode *expr_test(struct jparser *p, struct jnode *in)
{
    bool negated = jinja_parse_skip(p, "not");
    if (p->failed || p->cur.type != T_NAME) {
        jinja_parse_fail(p, ERR_INVALID, "a test's name is expected after 'is'");
        return NULL;
    }
    struct jnode *n = expr_name_value(p, JN_TEST, p->cur.line);
    if (!n)
        return NULL;
    n->a = in;
    if (p->cur.type == T_LPAREN) {
        if (!expr_call_args(p, &n->b))
            return NULL;
    } else if (test_arg_starts(p)) {
        if (jinja_parse_is(p, "is")) {
            jinja_parse_fail(p, ERR_INVALID, "tests with 'is' cannot be chained");
            return NULL;
        }
        n->b = jinja_expr_primary(p);
        n->b = n->b ? jinja_expr_postfix(p, n->b) : NULL;
        if (!n->b)
            return NULL;
    }
    if (!jinja_parse_height(p, n))
        return NULL;
    if (!negated)
        return n;
    struct jnode *not = expr_wrap(p, JN_NOT, n);
    return not &&jinja_parse_height(p, not ) ? not : NULL;
}

struct jnode *jinja_expr_filters(struct jparser *p, struct jnode *n, bool inline_first)
{
    bool block = n == NULL;
    if (inline_first) {
        n = expr_filter(p, n);
        if (!n)
            return NULL;
    }
    while (!p->failed) {
        if (p->cur.type == T_PIPE)
            n = jinja_parse_next(p) ? expr_filter(p, n) : NULL;
        else if (!block && jinja_parse_is(p, "is"))
            n = jinja_parse_next(p) ? expr_test(p, n) : NULL;
        else if (!block && p->cur.type == T_LPAREN)
            n = expr_call(p, n);
        else
            return n;
        if (!n)
            return NULL;
    }
    return NULL;
}

/* ---- operators ---- */

struct jnode *jinja_expr_unary(struct jparser *p, bool with_filter)
{
    struct jnode *n;
    if (!jinja_parse_enter(p))
        return NULL;
    if (p->cur.type == T_SUB || p->cur.type == T_ADD) {
        n = expr_wrap(p, p->cur.type == T_SUB ? JN_NEG : JN_POS, NULL);
        if (!n || !jinja_parse_next(p))
            return NULL;
        n->a = jinja_expr_unary(p, false);
        if (!n->a || !jinja_parse_height(p, n))
            return NULL;
    } else {
        n = jinja_expr_primary(p);
    }
    n = n ? jinja_expr_postfix(p, n) : NULL;
    if (n && with_filter)
        n = jinja_expr_filters(p, n, false);
    p->depth--;
    return n;
}

/* Left-associative operators of one level of precedence. */
struct level {
    enum jtok_type ops[4];
    int n_ops;
};
static const struct level levels[] = {
    {{T_ADD, T_SUB}, 2},
    {{T_TILDE}, 1},
    {{T_MUL, T_DIV, T_FLOORDIV, T_MOD}, 4},
    {{T_POW}, 1},
};
enum { N_LEVELS = sizeof levels / sizeof *levels };

static bool level_has(const struct level *l, enum jtok_type t)
{
    for (int i = 0; i < l->n_ops; i++) {
        if (l->ops[i] == t)
            return true;
    }
    return false;
}

static struct jnode *expr_level(struct jparser *p, int i)
{
    if (i == N_LEVELS)
        return jinja_expr_unary(p, true);
    struct jnode *left = expr_level(p, i + 1);
    while (left && level_has(&levels[i], p->cur.type)) {
        enum jtok_type op = p->cur.type;
        if (!jinja_parse_next(p))
            return NULL;
        struct jnode *right = expr_level(p, i + 1);
        if (!right)
            return NULL;
        if (op == T_TILDE && left->type == JN_CONCAT && left->op == 0) {
            struct jnode *last = left->e; /* the last operand */
            last->next = right;
            left->e = right;
        } else {
            struct jnode *n = expr_wrap(p, op == T_TILDE ? JN_CONCAT : JN_BINARY, left);
            if (!n)
                return NULL;
            if (op == T_TILDE) {
                left->next = right;
                n->e = right;
            } else {
                n->op = (uint8_t)op;
                n->b = right;
            }
            left = n;
        }
        list_height(left, right); /* its later operands hang on next */
        if (!jinja_parse_height(p, left))
            return NULL;
    }
    /* closes the chain: (a ~ b) in parentheses is an operand like any other */
    if (left && left->type == JN_CONCAT && levels[i].ops[0] == T_TILDE)
        left->op = 1;
    return left;
}

static int compare_op(const struct jparser *p)
{
    enum jtok_type t = p->cur.type;
    if (t >= T_EQ && t <= T_LE)
        return (int)t;
    if (jinja_parse_is(p, "in"))
        return JOP_IN;
    if (jinja_parse_is(p, "not") && jinja_tok_is(&p->look, "in"))
        return JOP_NOTIN;
    return 0;
}

static struct jnode *expr_compare(struct jparser *p)
{
    struct jnode *left = expr_level(p, 0), *n = NULL, **tail = NULL;
    int op;
    while (left && (op = compare_op(p)) != 0) {
        if (!n) {
            n = expr_wrap(p, JN_COMPARE, left);
            if (!n)
                return NULL;
            tail = &n->b;
        }
        struct jnode *o = jinja_parse_node(p, JN_OPERAND, p->cur.line);
        if (!o || !jinja_parse_next(p) || (op == JOP_NOTIN && !jinja_parse_next(p)))
            return NULL;
        o->op = (uint8_t)op;
        o->a = expr_level(p, 0);
        if (!o->a || !jinja_parse_height(p, o))
            return NULL;
        list_add(&tail, o);
        list_height(n, o);
        if (!jinja_parse_height(p, n))
            return NULL;
    }
    return n ? n : left;
}

static struct jnode *expr_not(struct jparser *p)
{
    if (!jinja_parse_is(p, "not"))
        return expr_compare(p);
    struct jnode *n = expr_wrap(p, JN_NOT, NULL);
    if (!n || !jinja_parse_enter(p) || !jinja_parse_next(p))
        return NULL;
    n->a = expr_not(p);
    p->depth--;
    return n->a && jinja_parse_height(p, n) ? n : NULL;
}

/* and (strong), or (weak) */
static struct jnode *expr_logic(struct jparser *p, bool weak)
{
    struct jnode *left = weak ? expr_logic(p, false) : expr_not(p);
    while (left && jinja_parse_is(p, weak ? "or" : "and")) {
        struct jnode *n = expr_wrap(p, weak ? JN_OR : JN_AND, left);
        if (!n || !jinja_parse_next(p))
            return NULL;
        n->b = weak ? expr_logic(p, false) : expr_not(p);
        if (!n->b || !jinja_parse_height(p, n))
            return NULL;
        left = n;
    }
    return left;
}

struct jnode *jinja_expr(struct jparser *p, bool with_cond)
{
    if (!jinja_parse_enter(p))
        return NULL;
    struct jnode *n = expr_logic(p, true);
    while (n && with_cond && jinja_parse_is(p, "if")) {
        struct jnode *cond = expr_wrap(p, JN_COND, n);
        if (!cond || !jinja_parse_next(p))
            return NULL;
        cond->b = expr_logic(p, true);
        if (!cond->b)
            return NULL;
        if (jinja_parse_is(p, "else")) {
            if (!jinja_parse_next(p))
                return NULL;
            cond->c = jinja_expr(p, true);
            if (!cond->c)
                return NULL;
        }
        if (!jinja_parse_height(p, cond))
            return NULL;
        n = cond;
    }
    p->depth--;
    return p->failed ? NULL : n;
}
