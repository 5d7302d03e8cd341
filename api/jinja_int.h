/* What the files of the Jinja renderer share: tokens, nodes, values, the state of one render.
 * Thread: any.
 *
 * source -> jinja_lex (tokens, whitespace control) -> jinja_parse, jinja_expr (nodes)
 *        -> jinja_exec (statements) -> jinja_eval (expressions) -> jinja_value, jinja_ops,
 *           jinja_text, jinja_methods, jinja_filters, jinja_seq, jinja_tests (values)
 * Values are immutable except namespaces and generators, so there are no cycles but through a
 * namespace; every walk over nested values counts its depth.  Nothing is freed before the render's
 * arena is. */
#ifndef API_JINJA_INT_H
#define API_JINJA_INT_H
#include <string.h>

#include "api/jinja.h"
#include "base/arena.h"

/* ---- tokens ---- */

enum jtok_type {
    T_EOF,
    T_TEXT,
    T_VAR_BEGIN,
    T_VAR_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STR,
    T_INT,
    T_FLOAT,
    T_ADD,
    T_SUB,
    T_MUL,
    T_DIV,
    T_FLOORDIV,
    T_MOD,
    T_POW,
    T_TILDE,
    T_LBRACKET,
    T_RBRACKET,
    T_LPAREN,
    T_RPAREN,
    T_LBRACE,
    T_RBRACE,
    T_EQ,
    T_NE,
    T_GT,
    T_GE,
    T_LT,
    T_LE,
    T_ASSIGN,
    T_DOT,
    T_COLON,
    T_PIPE,
    T_COMMA,
    T_SEMICOLON,
};

struct jtok {
    enum jtok_type type;
    int line;
    const char *p; /* text, name, decoded string */
    size_t n;
    int64_t i;
    double f;
};

enum { JLEX_STACK = 256 };
struct jlex {
    const char *s; /* newlines normalised, the last one dropped */
    size_t n, pos;
    int line;
    enum { LEX_ROOT, LEX_VAR, LEX_BLOCK } mode;
    bool begin;         /* the tag at pos was announced: give its token next */
    bool line_starting; /* the last match ended with a newline */
    int depth;          /* open brackets inside the tag */
    char stack[JLEX_STACK];
    struct arena *a;
    struct err *e;
};
void jinja_lex_init(struct jlex *x, const char *s, size_t n, struct arena *a, struct err *e);
int jinja_lex_next(struct jlex *x, struct jtok *t);

/* ---- values ---- */

enum jv_type {
    JV_UNSET, /* an argument that was not given */
    JV_UNDEF,
    JV_NONE,
    JV_BOOL,
    JV_INT,
    JV_FLOAT,
    JV_STR,
    JV_LIST,
    JV_TUPLE,
    JV_RANGE,
    JV_VIEW, /* dict.keys(), .values(), .items() */
    JV_GEN,  /* what Python gives as an iterator: read once */
    JV_DICT,
    JV_NS,
    JV_LOOP,
    JV_MACRO,
    JV_FUNC,
    JV_METHOD,
};

struct jlist;
struct jdict;
struct jloop;
struct jmacro;
struct jmethod;
struct jv {
    uint8_t type;
    bool safe;  /* of JV_STR: went through safe or escape */
    uint32_t n; /* bytes of JV_STR and of the name in JV_UNDEF */
    union {
        bool b;
        int64_t i;
        double f;
        const char *s; /* valid UTF-8 */
        struct jlist *list;
        struct jdict *dict;
        struct jloop *loop;
        const struct jmacro *macro;
        struct jmethod *method;
    };
};

enum jlist_kind { JLIST_PLAIN, JLIST_KEYS, JLIST_VALUES, JLIST_ITEMS, JLIST_GROUP };
struct jlist {
    struct jv *items;
    size_t n, cap;
    size_t pos; /* of JV_GEN: already read */
    enum jlist_kind kind;
    int64_t start, stop, step; /* of JV_RANGE, for its repr */
};
struct jpair {
    struct jv key, value;
};
struct jdict {
    struct jpair *items;
    size_t n, cap;
};
struct jloop {
    const struct jlist *items;
    size_t i;
    int depth;
    struct jv last_changed; /* JV_UNSET before the first loop.changed() */
};
struct jmethod {
    struct jv self;
    int id;
};

/* ---- nodes ---- */

/* A name that the template uses. */
struct jsym {
    const char *p;
    size_t n;
    struct jsym *next;
    int func; /* enum jfunc when a global has this name */
};

enum jnode_type {
    /* expressions */
    JN_CONST,
    JN_NAME,
    JN_LIST,  /* a: elements */
    JN_TUPLE, /* a: elements */
    JN_DICT,  /* a: JN_PAIR list */
    JN_PAIR,
    JN_COND, /* a if b else c */
    JN_OR,
    JN_AND,
    JN_NOT,
    JN_COMPARE, /* a, b: JN_OPERAND list */
    JN_OPERAND,
    JN_BINARY,
    JN_CONCAT, /* a: operands */
    JN_NEG,
    JN_POS,
    JN_ATTR,   /* a.value */
    JN_ITEM,   /* a[b] */
    JN_SLICE,  /* a[b:c:d] */
    JN_CALL,   /* a(b: arguments) */
    JN_KWARG,  /* value=a */
    JN_STAR,   /* *a in a call */
    JN_STARS,  /* **a in a call */
    JN_FILTER, /* a|value(b) ; a NULL: of a block */
    JN_TEST,   /* a is value(b) */
    JN_NSREF,  /* target: sym.value */
    /* statements */
    JN_TEXT,
    JN_OUTPUT, /* a */
    JN_IF,     /* a: JN_BRANCH list, b: else body */
    JN_BRANCH, /* a: test, b: body */
    JN_FOR,    /* a target, b iterable, c filter, d body, e else body */
    JN_SET,    /* a target, b value */
    JN_SETBLOCK,
    JN_MACRO,       /* sym, a: JN_PARAM list, b body, op: JUSES_ bits */
    JN_PARAM,       /* sym, a: default */
    JN_CALLBLOCK,   /* a: JN_CALL, b: JN_MACRO for caller */
    JN_FILTERBLOCK, /* a: filters, b body */
    JN_WITH,        /* a: JN_SET list, b body */
    JN_BREAK,
    JN_CONTINUE,
};
enum { JUSES_VARARGS = 1, JUSES_KWARGS = 2, JUSES_CALLER = 4 };
/* Operands of JN_COMPARE that are no token of their own. */
enum { JOP_IN = 100, JOP_NOTIN };

struct jnode {
    uint8_t type;
    uint8_t op;      /* enum jtok_type, or as told above */
    uint16_t height; /* of the expression below, bounded */
    int line;
    struct jv value; /* constant, text, or a name as a string */
    const struct jsym *sym;
    struct jnode *a, *b, *c, *d, *e;
    struct jnode *next; /* in the list that this node is an element of */
};

enum { JSYM_BUCKETS = 256 };
struct jinja {
    struct arena a;
    struct jnode *body;
    struct jsym *syms[JSYM_BUCKETS];
};

/* ---- parser ---- */

struct jparser {
    struct jlex lex;
    struct jtok cur, look;
    struct jinja *t;
    const struct jinja_limits *lim;
    int n_nodes, depth, loops;
    int macro_uses; /* JUSES_ bits of the macro being parsed */
    bool failed;
    struct err *e;
};
/* All return NULL (and set failed) on error. */
int jinja_parse_fail(struct jparser *p, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
struct jnode *jinja_parse_node(struct jparser *p, enum jnode_type type, int line);
bool jinja_parse_next(struct jparser *p);
bool jinja_parse_enter(struct jparser *p); /* one level deeper; ends with p->depth-- */
bool jinja_parse_height(struct jparser *p, struct jnode *n);
bool jinja_parse_is(const struct jparser *p, const char *name);
bool jinja_parse_skip(struct jparser *p, const char *name);
bool jinja_parse_expect(struct jparser *p, enum jtok_type type, const char *what);
struct jsym *jinja_sym(struct jinja *t, const char *s, size_t n, bool add);
bool jinja_tok_is(const struct jtok *t, const char *name);

enum { JEXPR_COND = 1, JEXPR_PARENS = 2 };
struct jnode *jinja_expr(struct jparser *p, bool with_cond);
/* What may stand without parentheses: a, b, c.  end_name: a name that ends it, or NULL. */
struct jnode *jinja_expr_tuple(struct jparser *p, int flags, const char *end_name);
struct jnode *jinja_expr_primary(struct jparser *p);
struct jnode *jinja_expr_postfix(struct jparser *p, struct jnode *n);
/* |a|b after n; n NULL for blocks; inline_first: the pipe before the first is not there. */
struct jnode *jinja_expr_filters(struct jparser *p, struct jnode *n, bool inline_first);
struct jnode *jinja_expr_unary(struct jparser *p, bool with_filter);

/* ---- one render ---- */

struct jslot {
    const struct jsym *sym;
    struct jv v;
};
struct jscope {
    struct jscope *parent;
    struct jslot *slots;
    int n, cap;
};
struct jmacro {
    const struct jnode *node; /* JN_MACRO */
    struct jscope *scope;     /* where it was defined */
};
struct jarg {
    const char *name; /* NULL: positional; those come first */
    uint32_t len;
    struct jv v;
};
struct jargs {
    struct jarg *items;
    int n, n_pos, cap;
};

enum jflow { FLOW_NORMAL, FLOW_BREAK, FLOW_CONTINUE };
struct jinja_ctx {
    const struct jinja *t;
    struct jinja_limits lim;
    struct arena a;
    struct buf *out;
    struct jscope *scope;
    int64_t steps_left;
    int depth, macro_depth, loop_depth;
    int line;
    enum jflow flow;
    struct err *e;
};
enum {
    JINJA_EVAL_DEPTH = 1200,  /* nested evaluations, macros included */
    JINJA_VALUE_DEPTH = 100,  /* lists in lists */
    JINJA_HEIGHT = 240,       /* of one expression */
    JINJA_RANGE_MAX = 100000, /* as the sandbox has it */
};

int jinja_fail(struct jinja_ctx *c, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
int jinja_charge(struct jinja_ctx *c, size_t bytes);            /* work done on so many bytes */
int jinja_nested(struct jinja_ctx *c, int depth, size_t bytes); /* that, at a depth of a value */
int jinja_nomem(struct jinja_ctx *c);
int jinja_undefined(struct jinja_ctx *c, struct jv v); /* the error that using v is */

/* jinja_value.c */
struct jv jinja_undef(const char *name, size_t n);
struct jv jinja_none(void);
struct jv jinja_bool(bool b);
struct jv jinja_int(int64_t i);
struct jv jinja_float(double f);
struct jv jinja_strn(const char *s, size_t n); /* borrows */
struct jv jinja_cstr(const char *s);           /* borrows */
int jinja_list(struct jinja_ctx *c, enum jv_type type, size_t cap, struct jv *out);
int jinja_push(struct jinja_ctx *c, struct jv list, struct jv v);
int jinja_dict(struct jinja_ctx *c, enum jv_type type, size_t cap, struct jv *out);
int jinja_dict_set(struct jinja_ctx *c, struct jv dict, struct jv key, struct jv v);
/* *found stays NULL when there is none; fails on keys that Python cannot hash. */
int jinja_dict_find(struct jinja_ctx *c, struct jv dict, struct jv key, struct jpair **found);
struct jpair *jinja_dict_str(struct jv dict, const char *key, size_t n);
int jinja_from_json(struct jinja_ctx *c, const struct cJSON *node, int depth, struct jv *out);
const char *jinja_type_name(struct jv v);
bool jinja_is_str(struct jv v, const char *s);
bool jinja_is_num(struct jv v);     /* bool, int, float */
bool jinja_is_seq(struct jv v);     /* has a jlist and can be indexed */
bool jinja_has_list(struct jv v);   /* has a jlist */
int64_t jinja_as_int(struct jv v);  /* of bool, int */
double jinja_as_float(struct jv v); /* of bool, int, float */
bool jinja_truth(struct jv v);
/* Everything that can be iterated, as a JV_LIST (shared, not copied, where it is one). */
int jinja_iterate(struct jinja_ctx *c, struct jv v, struct jv *out);
int jinja_length(struct jinja_ctx *c, struct jv v, int64_t *n);
int jinja_attr(struct jinja_ctx *c, struct jv obj, const char *name, size_t n, struct jv *out);
int jinja_item(struct jinja_ctx *c, struct jv obj, struct jv key, struct jv *out);
int jinja_slice(struct jinja_ctx *c, struct jv obj, const struct jv part[3], struct jv *out);

/* jinja_ops.c */
int jinja_equal(struct jinja_ctx *c, struct jv a, struct jv b, int depth, bool *out);
/* *out: -1, 0 or 1 as a is below, equal to or above b; 2 where one of them is NaN. */
int jinja_order(struct jinja_ctx *c, struct jv a, struct jv b, int depth, int *out);
int jinja_in(struct jinja_ctx *c, struct jv a, struct jv b, bool *out);
int jinja_binary(struct jinja_ctx *c, int op, struct jv a, struct jv b, struct jv *out);
int jinja_compare(struct jinja_ctx *c, int op, struct jv a, struct jv b, bool *out);
int jinja_neg(struct jinja_ctx *c, struct jv a, struct jv *out);

/* jinja_text.c */
int jinja_take(struct jinja_ctx *c, struct buf *b, struct jv *out); /* into the arena; frees b */
void jinja_buf(struct jinja_ctx *c, struct buf *b);
int jinja_print(struct jinja_ctx *c, struct jv v, struct buf *b); /* as str() */
int jinja_repr(struct jinja_ctx *c, struct jv v, int depth, struct buf *b);
int jinja_str(struct jinja_ctx *c, struct jv v, struct jv *out); /* as a JV_STR */
/* A string for HTML; what is safe already stays as it is. */
int jinja_escape(struct jinja_ctx *c, struct jv s, struct jv *out);
void jinja_float_repr(double f, char out[40]);
struct jtojson {
    bool ascii, sort, pretty;
    struct jv indent, item_sep, key_sep; /* strings */
};
int jinja_tojson(struct jinja_ctx *c, struct jv v, const struct jtojson *o, int depth,
                 struct buf *b);
int jinja_format(struct jinja_ctx *c, struct jv fmt, struct jv args, struct jv *out); /* % */

/* jinja_strings.c: strings as Python sees them, in characters */
size_t jinja_chars(const char *s, size_t n);                 /* how many characters */
size_t jinja_char_at(const char *s, size_t n, size_t index); /* byte offset of a character */
size_t jinja_find_cost(size_t n, struct jv what);            /* bytes to charge for a jinja_find */
const char *jinja_find(const char *s, size_t n, struct jv what); /* NULL: not there */
struct jv jinja_strip(struct jv s, const struct jv *chars, bool left, bool right);
/* As strip() does it: chars may be absent; sides: 1 left, 2 right, 3 both. */
int jinja_strip_chars(struct jinja_ctx *c, struct jv s, struct jv chars, int sides, struct jv *out);
int jinja_case(struct jinja_ctx *c, struct jv s, int mode, struct jv *out);
enum { CASE_UPPER, CASE_LOWER, CASE_CAPITAL, CASE_TITLE, CASE_JINJA_TITLE, CASE_SWAP };
/* max < 0: all. */
int jinja_replace(struct jinja_ctx *c, struct jv s, struct jv old, struct jv with, int64_t max,
                  struct jv *out);
int jinja_splitlines(struct jinja_ctx *c, struct jv s, bool keep, struct jv *out);
int jinja_join(struct jinja_ctx *c, struct jv sep, struct jv list, bool strict, struct jv *out);

/* jinja_methods.c */
int jinja_method_id(struct jv self, const char *name, size_t n); /* -1 when there is none */
int jinja_method_call(struct jinja_ctx *c, const struct jmethod *m, const struct jargs *args,
                      struct jv *out);

/* jinja_filters.c, jinja_seq.c, jinja_tests.c */
typedef int (*jfilter_fn)(struct jinja_ctx *c, struct jv in, const struct jv *arg, struct jv *out);
enum { JARG_MAX = 4 };
struct jfilter {
    const char *name;
    jfilter_fn fn;
    const char *params[JARG_MAX];
};
extern const struct jfilter jinja_seq_filters[];
extern const int jinja_n_seq_filters;
int jinja_bind(struct jinja_ctx *c, const char *what, const struct jargs *args,
               const char *const *params, int n_params, struct jv *out);
int jinja_filter(struct jinja_ctx *c, struct jv name, struct jv in, const struct jargs *args,
                 struct jv *out);
int jinja_seq_select(struct jinja_ctx *c, const char *name, struct jv in, const struct jargs *args,
                     struct jv *out);
int jinja_seq_map(struct jinja_ctx *c, struct jv in, const struct jargs *args, struct jv *out);
int jinja_test(struct jinja_ctx *c, struct jv name, struct jv in, const struct jargs *args,
               bool *out);

/* jinja_eval.c */
enum jfunc { JFUNC_NOT, JFUNC_RANGE, JFUNC_NAMESPACE, JFUNC_DICT, JFUNC_RAISE, JFUNC_STRFTIME };
int jinja_eval(struct jinja_ctx *c, const struct jnode *n, struct jv *out);
int jinja_args(struct jinja_ctx *c, const struct jnode *list, struct jargs *args);
int jinja_call(struct jinja_ctx *c, struct jv f, const struct jargs *args, struct jv *out);
int jinja_func_id(const char *s, size_t n);

/* jinja_exec.c */
int jinja_macro_call(struct jinja_ctx *c, const struct jmacro *m, const struct jargs *args,
                     struct jv *out);
bool jinja_lookup(struct jinja_ctx *c, const struct jsym *sym, struct jv *out);
#endif
