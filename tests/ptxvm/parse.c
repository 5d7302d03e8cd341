/* PTX text -> tree.  Names of variables are resolved here, labels and functions by decode.c, which also
 * says what an instruction means.  The text is not trusted: every count has a limit. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ptxvm/lex.h"
#include "tests/ptxvm/ptx.h"

enum {
    MAX_TEXT = 64 << 20,
    MAX_ARGS = 24,
    MAX_DEPTH = 16,
    MAX_STMTS = 1 << 20,
    MAX_VARS = 1 << 13,
    MAX_FAMILY = 1 << 16,
    MAX_VAR_BYTES = 1 << 24,
    MAX_PARAMS = 256,
};

struct parser {
    struct lex x;
    struct ptx_module *m;
    struct ptx_func *f; /* the one whose body is read */
    int scope;
    int cap_stmts;
    int src_file, src_line;
    struct err *e;
};

static const struct {
    const char *name;
    int bytes;
} types[T_N] = {
    [T_NONE] = {"", 0},       [T_PRED] = {"pred", 0},     [T_B8] = {"b8", 1},
    [T_U8] = {"u8", 1},       [T_S8] = {"s8", 1},         [T_B16] = {"b16", 2},
    [T_U16] = {"u16", 2},     [T_S16] = {"s16", 2},       [T_F16] = {"f16", 2},
    [T_BF16] = {"bf16", 2},   [T_B32] = {"b32", 4},       [T_U32] = {"u32", 4},
    [T_S32] = {"s32", 4},     [T_F32] = {"f32", 4},       [T_TF32] = {"tf32", 4},
    [T_F16X2] = {"f16x2", 4}, [T_BF16X2] = {"bf16x2", 4}, [T_B64] = {"b64", 8},
    [T_U64] = {"u64", 8},     [T_S64] = {"s64", 8},       [T_F64] = {"f64", 8},
};

enum ptx_type parse_type(const char *word)
{
    if (*word == '.')
        word++;
    for (int t = T_PRED; t < T_N; t++)
        if (strcmp(types[t].name, word) == 0)
            return (enum ptx_type)t;
    return T_NONE;
}

int parse_type_bytes(enum ptx_type t)
{
    return types[t].bytes;
}

static int fail(struct parser *p, const char *what)
{
    int n = p->x.t.len > 40 ? 40 : (int)p->x.t.len;
    return err_set(p->e, ERR_CORRUPT, "%.60s:%d: %s at '%.*s'", p->m->name, p->x.t.line, what, n,
                   n > 0 ? p->x.t.at : "");
}

static int no_memory(struct parser *p)
{
    return err_set(p->e, ERR_TOOBIG, "%.60s:%d: the module is too large", p->m->name, p->x.t.line);
}

static bool is_mark(const struct parser *p, char c)
{
    return p->x.t.kind == LEX_MARK && *p->x.t.at == c;
}

static bool is_word(const struct parser *p, const char *w)
{
    return p->x.t.kind == LEX_WORD && p->x.t.len == strlen(w) &&
           memcmp(p->x.t.at, w, p->x.t.len) == 0;
}

static bool skip_mark(struct parser *p, char c)
{
    bool is = is_mark(p, c);
    if (is)
        lex_next(&p->x);
    return is;
}

static bool skip_word(struct parser *p, const char *w)
{
    bool is = is_word(p, w);
    if (is)
        lex_next(&p->x);
    return is;
}

static int expect(struct parser *p, char c)
{
    if (skip_mark(p, c))
        return 0;
    char what[] = "expected ' '";
    what[10] = c;
    return fail(p, what);
}

/* The word that stands here, kept in the arena; NULL with *rc set. */
static char *take_word(struct parser *p, int *rc)
{
    if (p->x.t.kind != LEX_WORD) {
        *rc = fail(p, "expected a word");
        return NULL;
    }
    char *s = arena_strndup(&p->m->arena, p->x.t.at, p->x.t.len);
    if (s == NULL)
        *rc = no_memory(p);
    lex_next(&p->x);
    return s;
}

static int take_int(struct parser *p, uint64_t max, uint64_t *v)
{
    if (p->x.t.kind != LEX_INT || p->x.t.bits > max)
        return fail(p, "expected a number within its limit");
    *v = p->x.t.bits;
    lex_next(&p->x);
    return 0;
}

/* ---- Names ---- */

/* Does name mean v, or the index-th of v's family? */
static bool var_matches(const struct ptx_var *v, const char *name, uint32_t *index)
{
    size_t n = strlen(v->name);
    *index = 0;
    if (strncmp(name, v->name, n) != 0)
        return false;
    name += n;
    if (v->n == 0)
        return *name == '\0';
    if (*name == '\0' || (*name == '0' && name[1] != '\0') || strlen(name) > 6)
        return false;
    for (; *name; name++) {
        if (*name < '0' || *name > '9')
            return false;
        *index = *index * 10 + (uint32_t)(*name - '0');
    }
    return *index < v->n;
}

const struct ptx_var *parse_find(const struct ptx_module *m, const struct ptx_func *f, int scope,
                                 const char *name, uint32_t *index)
{
    for (; f != NULL && scope >= 0; scope = f->scope_parent[scope]) {
        for (const struct ptx_var *v = f->vars; v; v = v->next)
            if (v->scope == scope && var_matches(v, name, index))
                return v;
    }
    for (const struct ptx_var *v = m->vars; v; v = v->next)
        if (var_matches(v, name, index))
            return v;
    return NULL;
}

static int add_var(struct parser *p, struct ptx_var v, struct ptx_var **out)
{
    struct ptx_func *f = p->f;
    uint32_t index;
    v.scope = p->scope;
    for (const struct ptx_var *o = f ? f->vars : p->m->vars; o; o = o->next)
        if (o->scope == v.scope && o->n == v.n && strcmp(o->name, v.name) == 0) {
            /* The same shared array may be declared extern by several functions. */
            if (f == NULL && o->is_extern && v.is_extern && var_matches(o, v.name, &index))
                return 0;
            return fail(p, "a name is declared twice");
        }
    if (f != NULL && f->n_vars >= MAX_VARS)
        return fail(p, "too many variables");
    struct ptx_var *n = arena_alloc(&p->m->arena, sizeof *n);
    if (n == NULL)
        return no_memory(p);
    *n = v;
    if (f != NULL) {
        n->id = f->n_vars++;
        n->next = f->vars;
        f->vars = n;
    } else {
        n->next = p->m->vars;
        p->m->vars = n;
    }
    if (out)
        *out = n;
    return 0;
}

/* ---- Variables ---- */

static int initial_value(struct parser *p, struct ptx_var *v, uint64_t at)
{
    int size = parse_type_bytes(v->type);
    bool minus = skip_mark(p, '-');
    enum lex_kind k = p->x.t.kind;
    uint64_t bits = p->x.t.bits;
    if (k == LEX_WORD)
        return fail(p, "addresses as initial values are not supported");
    if (k != LEX_INT && !(k == LEX_F32 && size == 4) && !(k == LEX_F64 && size == 8))
        return fail(p, "expected an initial value");
    if (minus)
        bits = k == LEX_INT ? 0 - bits : bits ^ (k == LEX_F32 ? 1ull << 31 : 1ull << 63);
    if (at + (uint64_t)size > v->bytes)
        return fail(p, "more initial values than the variable has");
    memcpy(v->init + at, &bits, (size_t)size);
    lex_next(&p->x);
    return 0;
}

/* = 5   = {1, 2, {3, 4}}: nested braces only group. */
static int initializer(struct parser *p, struct ptx_var *v)
{
    v->init = arena_alloc(&p->m->arena, v->bytes ? v->bytes : 1);
    if (v->init == NULL)
        return no_memory(p);
    uint64_t at = 0;
    int depth = 0;
    do {
        int rc;
        while (skip_mark(p, '{'))
            if (++depth > MAX_DEPTH)
                return fail(p, "braces are nested too deeply");
        if ((rc = initial_value(p, v, at)) != 0)
            return rc;
        at += (uint64_t)parse_type_bytes(v->type);
        while (depth > 0 && skip_mark(p, '}'))
            depth--;
    } while (skip_mark(p, ',') || (depth > 0 && is_mark(p, '{')));
    return depth == 0 ? 0 : fail(p, "expected '}'");
}

/* .align 16 .v4 .b8 name[4][8] = {...}   the space has been read. */
static int memory_var(struct parser *p, struct ptx_var v, struct ptx_var **out)
{
    uint64_t n = 0, vec = 1;
    int rc = 0;
    while (p->x.t.kind == LEX_WORD && *p->x.t.at == '.') {
        if (skip_word(p, ".align")) {
            if ((rc = take_int(p, 4096, &n)) != 0)
                return rc;
            if (n == 0 || (n & (n - 1)) != 0)
                return fail(p, "an alignment is a power of two");
            v.align = (uint32_t)n;
        } else if (skip_word(p, ".v2")) {
            vec = 2;
        } else if (skip_word(p, ".v4")) {
            vec = 4;
        } else if (skip_word(p, ".ptr") || skip_word(p, ".global") || skip_word(p, ".shared") ||
                   skip_word(p, ".const") || skip_word(p, ".local")) {
            continue; /* .param .u64 .ptr .global .align 16 name: what a pointer points to */
        } else {
            char *w = take_word(p, &rc);
            if (w == NULL)
                return rc;
            if (v.type != T_NONE || (v.type = parse_type(w)) == T_NONE)
                return fail(p, "unknown type of a variable before");
        }
    }
    if (v.type == T_NONE || v.type == T_PRED)
        return fail(p, "a variable in memory needs a type with a size");
    if ((v.name = take_word(p, &rc)) == NULL)
        return rc;
    v.bytes = (uint64_t)parse_type_bytes(v.type) * vec;
    if (v.align == 0)
        v.align = (uint32_t)v.bytes;
    while (skip_mark(p, '[')) {
        n = 0;
        if (!is_mark(p, ']') && (rc = take_int(p, MAX_VAR_BYTES, &n)) != 0)
            return rc;
        v.bytes *= n;
        if (v.bytes > MAX_VAR_BYTES)
            return fail(p, "a variable is too large");
        if ((rc = expect(p, ']')) != 0)
            return rc;
    }
    if (skip_mark(p, '=') && (rc = initializer(p, &v)) != 0)
        return rc;
    return add_var(p, v, out);
}

/* .reg .f32 %f<5>, %x; */
static int reg_vars(struct parser *p)
{
    int rc = 0;
    char *w = take_word(p, &rc);
    if (w == NULL)
        return rc;
    struct ptx_var v = {.space = SP_REG, .type = parse_type(w)};
    if (v.type == T_NONE)
        return fail(p, "unknown type of a register before");
    do {
        uint64_t n = 0;
        if ((v.name = take_word(p, &rc)) == NULL)
            return rc;
        if (skip_mark(p, '<')) {
            if ((rc = take_int(p, MAX_FAMILY, &n)) != 0 || (rc = expect(p, '>')) != 0)
                return rc;
            if (n == 0)
                continue;
        }
        v.n = (uint32_t)n;
        if ((rc = add_var(p, v, NULL)) != 0)
            return rc;
    } while (skip_mark(p, ','));
    return expect(p, ';');
}

static bool space_word(struct parser *p, enum ptx_space *s)
{
    static const struct {
        const char *w;
        enum ptx_space s;
    } spaces[] = {{".global", SP_GLOBAL},
                  {".const", SP_CONST},
                  {".shared", SP_SHARED},
                  {".local", SP_LOCAL},
                  {".param", SP_PARAM}};
    for (size_t i = 0; i < sizeof spaces / sizeof spaces[0]; i++)
        if (skip_word(p, spaces[i].w)) {
            *s = spaces[i].s;
            return true;
        }
    return false;
}

/* ---- Operands ---- */

static int operand(struct parser *p, struct ptx_operand *o, int depth);

static int operand_list(struct parser *p, struct ptx_operand *o, char end, int depth)
{
    struct ptx_operand list[MAX_ARGS];
    int n = 0, rc;
    if (!is_mark(p, end)) {
        do {
            if (n == MAX_ARGS)
                return fail(p, "too many operands");
            if ((rc = operand(p, &list[n++], depth + 1)) != 0)
                return rc;
        } while (skip_mark(p, ','));
    }
    if ((rc = expect(p, end)) != 0)
        return rc;
    o->items = arena_array(&p->m->arena, (size_t)n + 1, sizeof *o);
    if (o->items == NULL)
        return no_memory(p);
    memcpy(o->items, list, (size_t)n * sizeof *o);
    o->n_items = n;
    return 0;
}

static int named_operand(struct parser *p, struct ptx_operand *o)
{
    int rc = 0;
    char *w = take_word(p, &rc);
    if (w == NULL)
        return rc;
    if (strcmp(w, "_") == 0) {
        o->kind = OPD_SINK;
        return 0;
    }
    o->var = parse_find(p->m, p->f, p->scope, w, &o->index);
    o->name = w;
    if (o->var == NULL)
        o->kind = OPD_NAME;
    else
        o->kind = o->var->space == SP_REG ? OPD_REG : OPD_SYMBOL;
    return 0;
}

/* + 4   + -4   - 4 */
static int offset(struct parser *p, struct ptx_operand *o)
{
    while (is_mark(p, '+') || is_mark(p, '-')) {
        bool minus = is_mark(p, '-');
        lex_next(&p->x);
        if (skip_mark(p, '-'))
            minus = !minus;
        uint64_t v = 0;
        int rc = take_int(p, INT64_MAX / 4, &v);
        if (rc != 0)
            return rc;
        int64_t sum;
        if (__builtin_add_overflow(o->imm, minus ? -(int64_t)v : (int64_t)v, &sum))
            return fail(p, "an offset is too large");
        o->imm = sum;
    }
    return 0;
}

static int operand(struct parser *p, struct ptx_operand *o, int depth)
{
    int rc = 0;
    *o = (struct ptx_operand){0};
    if (depth > 3)
        return fail(p, "operands are nested too deeply");
    if (skip_mark(p, '{')) {
        o->kind = OPD_VECTOR;
        return operand_list(p, o, '}', depth);
    }
    if (skip_mark(p, '(')) { /* of a call */
        o->kind = OPD_VECTOR;
        return operand_list(p, o, ')', depth);
    }
    if (skip_mark(p, '[')) {
        o->kind = OPD_ADDRESS;
        if ((rc = operand_list(p, o, ']', depth)) != 0)
            return rc;
        if (o->n_items != 1)
            return fail(p, "an address has one part before");
        o->imm = o->items[0].imm;
        o->items[0].imm = 0;
        return 0;
    }
    o->negated = skip_mark(p, '!');
    bool minus = skip_mark(p, '-');
    o->bits = p->x.t.bits;
    switch (p->x.t.kind) {
    case LEX_INT:
        o->kind = OPD_INT;
        o->bits = minus ? 0 - o->bits : o->bits;
        lex_next(&p->x);
        return 0;
    case LEX_F32:
        o->kind = OPD_F32;
        o->bits ^= minus ? 1ull << 31 : 0;
        lex_next(&p->x);
        return 0;
    case LEX_F64:
        o->kind = OPD_F64;
        o->bits ^= minus ? 1ull << 63 : 0;
        lex_next(&p->x);
        return 0;
    case LEX_WORD:
        break;
    default:
        return fail(p, "expected an operand");
    }
    if (minus)
        return fail(p, "a name has no sign");
    if ((rc = named_operand(p, o)) != 0 || (rc = offset(p, o)) != 0)
        return rc;
    if (skip_mark(p, '|')) {
        o->second = arena_alloc(&p->m->arena, sizeof *o->second);
        if (o->second == NULL)
            return no_memory(p);
        return operand(p, o->second, depth + 1);
    }
    return 0;
}

/* ---- Bodies ---- */

static int add_stmt(struct parser *p, const struct ptx_stmt *s)
{
    struct ptx_func *f = p->f;
    if (f->n_stmts >= MAX_STMTS)
        return fail(p, "too many instructions");
    if (f->n_stmts == p->cap_stmts) {
        int cap = p->cap_stmts ? 2 * p->cap_stmts : 64;
        struct ptx_stmt *grown = arena_array(&p->m->arena, (size_t)cap, sizeof *grown);
        if (grown == NULL)
            return no_memory(p);
        if (f->n_stmts > 0)
            memcpy(grown, f->stmts, (size_t)f->n_stmts * sizeof *grown);
        f->stmts = grown;
        p->cap_stmts = cap;
    }
    f->stmts[f->n_stmts++] = *s;
    return 0;
}

static int add_label(struct parser *p, const char *name)
{
    struct ptx_func *f = p->f;
    for (const struct ptx_label *l = f->labels; l; l = l->next)
        if (l->scope == p->scope && strcmp(l->name, name) == 0)
            return fail(p, "a label stands twice before");
    struct ptx_label *l = arena_alloc(&p->m->arena, sizeof *l);
    if (l == NULL)
        return no_memory(p);
    *l = (struct ptx_label){.name = name, .scope = p->scope, .at = f->n_stmts, .next = f->labels};
    f->labels = l;
    return 0;
}

static void skip_line(struct parser *p)
{
    int line = p->x.t.line;
    while (p->x.t.kind != LEX_END && p->x.t.line == line)
        lex_next(&p->x);
}

/* .loc file line column, function_name NAME, inlined_at file line column */
static int loc(struct parser *p)
{
    int line = p->x.t.line, rc;
    uint64_t file = 0, at = 0;
    if ((rc = take_int(p, INT_MAX, &file)) != 0 || (rc = take_int(p, INT_MAX, &at)) != 0)
        return rc;
    p->src_file = (int)file;
    p->src_line = (int)at;
    while (p->x.t.kind != LEX_END && p->x.t.line == line)
        lex_next(&p->x);
    return 0;
}

/* An instruction or a label; the first word has been read. */
static int instruction(struct parser *p, struct ptx_stmt *s)
{
    int rc = 0;
    s->line = p->x.t.line;
    s->scope = p->scope;
    s->src_file = p->src_file;
    s->src_line = p->src_line;
    if (skip_mark(p, '@')) {
        s->guarded = true;
        s->guard_negated = skip_mark(p, '!');
        if ((rc = named_operand(p, &s->guard)) != 0)
            return rc;
    }
    char *w = take_word(p, &rc);
    if (w == NULL)
        return rc;
    if (!s->guarded && skip_mark(p, ':'))
        return add_label(p, w);
    s->op = w;
    if (!is_mark(p, ';')) {
        struct ptx_operand all;
        if ((rc = operand_list(p, &all, ';', 0)) != 0)
            return rc;
        s->args = all.items;
        s->n_args = all.n_items;
    } else {
        lex_next(&p->x);
    }
    return add_stmt(p, s);
}

static int directive(struct parser *p)
{
    enum ptx_space space;
    if (skip_word(p, ".reg"))
        return reg_vars(p);
    if (skip_word(p, ".loc"))
        return loc(p);
    if (space_word(p, &space)) {
        int rc;
        do {
            if ((rc = memory_var(p, (struct ptx_var){.space = space}, NULL)) != 0)
                return rc;
        } while (skip_mark(p, ','));
        return expect(p, ';');
    }
    if (is_word(p, ".pragma") || is_word(p, ".file")) {
        skip_line(p);
        return 0;
    }
    return fail(p, "unknown directive");
}

static int open_scope(struct parser *p)
{
    struct ptx_func *f = p->f;
    if (f->n_scopes >= PTX_MAX_SCOPES)
        return fail(p, "too many blocks");
    if ((f->n_scopes & (f->n_scopes - 1)) == 0) { /* a power of two: grow */
        int *grown = arena_array(&p->m->arena, 2 * (size_t)f->n_scopes + 1, sizeof *grown);
        if (grown == NULL)
            return no_memory(p);
        if (f->n_scopes > 0)
            memcpy(grown, f->scope_parent, (size_t)f->n_scopes * sizeof *grown);
        f->scope_parent = grown;
    }
    f->scope_parent[f->n_scopes] = p->scope;
    p->scope = f->n_scopes++;
    return 0;
}

static int body(struct parser *p)
{
    int rc = 0, depth = 0;
    p->cap_stmts = 0;
    while (rc == 0) {
        if (p->x.t.kind == LEX_END)
            return fail(p, "the text ends in a function");
        if (skip_mark(p, '{')) {
            depth++;
            rc = open_scope(p);
        } else if (skip_mark(p, '}')) {
            if (depth-- == 0)
                return 0;
            p->scope = p->f->scope_parent[p->scope];
        } else if (p->x.t.kind == LEX_WORD && *p->x.t.at == '.' && !is_word(p, ".branchtargets")) {
            rc = directive(p);
        } else if (!skip_mark(p, ';')) {
            rc = instruction(p, &(struct ptx_stmt){0});
        }
    }
    return rc;
}

/* (.param .b32 a, .param .b64 b) */
static int formals(struct parser *p, struct ptx_var ***list, int *n)
{
    int rc;
    *n = 0;
    if (!skip_mark(p, '('))
        return 0;
    *list = arena_array(&p->m->arena, MAX_PARAMS, sizeof **list);
    if (*list == NULL)
        return no_memory(p);
    while (!is_mark(p, ')')) {
        if (*n == MAX_PARAMS)
            return fail(p, "too many parameters");
        if (!skip_word(p, ".param"))
            return fail(p, "expected .param");
        rc = memory_var(p, (struct ptx_var){.space = SP_PARAM, .is_formal = true}, &(*list)[*n]);
        if (rc != 0)
            return rc;
        ++*n;
        if (!skip_mark(p, ','))
            break;
    }
    return expect(p, ')');
}

static int attributes(struct parser *p, struct ptx_func *f)
{
    int rc;
    while (p->x.t.kind == LEX_WORD && *p->x.t.at == '.') {
        bool threads = is_word(p, ".maxntid") || is_word(p, ".reqntid");
        uint64_t n = 0, product = 1;
        lex_next(&p->x);
        while (p->x.t.kind == LEX_INT) {
            if ((rc = take_int(p, 1 << 20, &n)) != 0)
                return rc;
            product = n * product > UINT32_MAX ? UINT32_MAX : n * product;
            skip_mark(p, ',');
        }
        if (threads)
            f->max_threads = (uint32_t)product;
    }
    return 0;
}

static int function(struct parser *p, bool is_entry)
{
    int rc = 0;
    struct ptx_func *f = arena_alloc(&p->m->arena, sizeof *f);
    if (f == NULL)
        return no_memory(p);
    f->is_entry = is_entry;
    f->line = p->x.t.line;
    p->f = f;
    p->scope = -1;
    p->src_file = p->src_line = 0;
    if ((rc = open_scope(p)) != 0 || (rc = formals(p, &f->returns, &f->n_returns)) != 0)
        return rc;
    if ((f->name = take_word(p, &rc)) == NULL)
        return rc;
    if ((rc = formals(p, &f->params, &f->n_params)) != 0 || (rc = attributes(p, f)) != 0)
        return rc;
    if (skip_mark(p, '{')) {
        f->has_body = true;
        rc = body(p);
    } else {
        rc = expect(p, ';');
    }
    p->f = NULL;
    p->scope = 0;
    if (rc != 0)
        return rc;
    f->next = p->m->funcs;
    p->m->funcs = f;
    return 0;
}

/* ---- Modules ---- */

static int file_line(struct parser *p)
{
    uint64_t n = 0;
    int rc = take_int(p, INT_MAX, &n);
    if (rc != 0)
        return rc;
    if (p->x.t.kind != LEX_STRING)
        return fail(p, "expected the name of a file");
    struct ptx_file *f = arena_alloc(&p->m->arena, sizeof *f);
    char *name = arena_strndup(&p->m->arena, p->x.t.at, p->x.t.len);
    if (f == NULL || name == NULL)
        return no_memory(p);
    const char *slash = strrchr(name, '/');
    *f = (struct ptx_file){.number = (int)n, .name = slash ? slash + 1 : name, .next = p->m->files};
    p->m->files = f;
    skip_line(p);
    return 0;
}

static int skip_section(struct parser *p)
{
    while (p->x.t.kind != LEX_END && !is_mark(p, '{'))
        lex_next(&p->x);
    while (p->x.t.kind != LEX_END && !is_mark(p, '}'))
        lex_next(&p->x);
    return expect(p, '}');
}

static int target(struct parser *p)
{
    int rc = 0;
    char *w = take_word(p, &rc);
    if (w == NULL)
        return rc;
    if (strncmp(w, "sm_", 3) != 0)
        return fail(p, "unknown target before");
    p->m->sm = (int)strtol(w + 3, NULL, 10);
    while (skip_mark(p, ','))
        if ((w = take_word(p, &rc)) == NULL)
            return rc;
    return 0;
}

static int module_item(struct parser *p)
{
    bool is_extern = false;
    enum ptx_space space;
    int rc;
    for (;;) {
        if (skip_word(p, ".extern"))
            is_extern = true;
        else if (!skip_word(p, ".visible") && !skip_word(p, ".weak") && !skip_word(p, ".common"))
            break;
    }
    if (skip_word(p, ".entry"))
        return function(p, true);
    if (skip_word(p, ".func"))
        return function(p, false);
    if (space_word(p, &space)) {
        do {
            struct ptx_var v = {.space = space, .is_extern = is_extern};
            if ((rc = memory_var(p, v, NULL)) != 0)
                return rc;
        } while (skip_mark(p, ','));
        return expect(p, ';');
    }
    if (skip_word(p, ".file"))
        return file_line(p);
    if (skip_word(p, ".section"))
        return skip_section(p);
    if (skip_word(p, ".target"))
        return target(p);
    if (is_word(p, ".version") || is_word(p, ".address_size") || is_word(p, ".pragma")) {
        skip_line(p);
        return 0;
    }
    return fail(p, "expected a function or a variable");
}

int parse_module(struct ptx_module *m, const char *name, const char *text, size_t len,
                 struct err *e)
{
    *m = (struct ptx_module){0};
    if (len > MAX_TEXT)
        return err_set(e, ERR_TOOBIG, "%.60s: PTX of more than %d bytes", name, MAX_TEXT);
    arena_init(&m->arena, (size_t)1 << 29);
    m->name = arena_strdup(&m->arena, name);
    struct parser p = {.m = m, .e = e};
    int rc = m->name ? 0 : ERR_NOMEM;
    lex_start(&p.x, text, len);
    while (rc == 0 && p.x.t.kind != LEX_END)
        rc = module_item(&p);
    if (rc != 0)
        parse_free(m);
    return rc;
}

void parse_free(struct ptx_module *m)
{
    arena_free(&m->arena);
    *m = (struct ptx_module){0};
}
