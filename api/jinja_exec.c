/* Runs the statements of a template.  Scopes follow jinja2: loops, macros, with and the blocks of
 * set, filter and call have their own, if has none.  A loop clears and reuses one scope; a macro
 * sees the scope it was defined in, as it is when the macro is called. */
#include "api/jinja_int.h"

static int exec_body(struct jinja_ctx *c, const struct jnode *n);

/* ---- scopes ---- */

bool jinja_lookup(struct jinja_ctx *c, const struct jsym *sym, struct jv *out)
{
    for (const struct jscope *s = c->scope; s; s = s->parent) {
        c->steps_left -= s->n / 32; /* the next jinja_charge notices when they are used up */
        for (int i = 0; i < s->n; i++) {
            if (s->slots[i].sym == sym) {
                *out = s->slots[i].v;
                return true;
            }
        }
    }
    if (sym->func == JFUNC_NOT)
        return false;
    *out = (struct jv){.type = JV_FUNC, .i = sym->func};
    return true;
}

static int scope_set(struct jinja_ctx *c, struct jscope *s, const struct jsym *sym, struct jv v)
{
    c->steps_left -= s->n / 32;
    for (int i = 0; i < s->n; i++) {
        if (s->slots[i].sym == sym) {
            s->slots[i].v = v;
            return 0;
        }
    }
    if (s->n == s->cap) {
        int cap = s->cap ? s->cap * 2 : 4;
        struct jslot *slots = arena_array(&c->a, (size_t)cap, sizeof *slots);
        if (!slots)
            return jinja_nomem(c);
        if (s->n)
            memcpy(slots, s->slots, (size_t)s->n * sizeof *slots);
        s->slots = slots;
        s->cap = cap;
    }
    s->slots[s->n++] = (struct jslot){sym, v};
    return 0;
}

/* In the arena, since macros keep it. */
static struct jscope *scope_new(struct jinja_ctx *c, struct jscope *parent)
{
    struct jscope *s = arena_alloc(&c->a, sizeof *s);
    if (s)
        s->parent = parent;
    else
        jinja_nomem(c);
    return s;
}

static int exec_scoped(struct jinja_ctx *c, const struct jnode *body)
{
    struct jscope *s = scope_new(c, c->scope);
    if (!s)
        return ERR_TOOBIG;
    c->scope = s;
    int rc = exec_body(c, body);
    c->scope = s->parent;
    return rc;
}

/* A body in a scope of its own, its output as a string. */
static int exec_capture(struct jinja_ctx *c, const struct jnode *body, struct jv *out)
{
    struct buf b, *outer = c->out;
    jinja_buf(c, &b);
    c->out = &b;
    int rc = exec_scoped(c, body);
    c->out = outer;
    if (rc == 0)
        return jinja_take(c, &b, out);
    buf_free(&b);
    return rc;
}

/* ---- assignment ---- */

static int assign(struct jinja_ctx *c, const struct jnode *target, struct jv v)
{
    if (target->type == JN_NAME)
        return scope_set(c, c->scope, target->sym, v);
    if (target->type == JN_NSREF) {
        struct jv ns;
        if (!jinja_lookup(c, target->sym, &ns) || ns.type != JV_NS)
            return jinja_fail(c, ERR_INVALID, "cannot assign attribute on non-namespace object");
        return jinja_dict_set(c, ns, target->value, v);
    }
    struct jv list;
    size_t i = 0, n = 0;
    int rc = jinja_iterate(c, v, &list);
    for (const struct jnode *k = target->a; k; k = k->next)
        n++;
    if (rc == 0 && list.list->n != n)
        return jinja_fail(c, ERR_INVALID, "%zu values to unpack, %zu are expected", list.list->n,
                          n);
    for (const struct jnode *k = target->a; k && rc == 0; k = k->next)
        rc = assign(c, k, list.list->items[i++]);
    return rc;
}

static int exec_set(struct jinja_ctx *c, const struct jnode *n)
{
    struct jv v;
    int rc = jinja_eval(c, n->b, &v);
    return rc == 0 ? assign(c, n->a, v) : rc;
}

/* The chain of filters of a block, applied to v. */
static int apply_filters(struct jinja_ctx *c, const struct jnode *f, struct jv v, struct jv *out)
{
    int rc = 0;
    struct jargs args;
    if (f->a)
        rc = apply_filters(c, f->a, v, &v);
    if (rc == 0)
        rc = jinja_args(c, f->b, &args);
    return rc == 0 ? jinja_filter(c, f->value, v, &args, out) : rc;
}

static int exec_set_block(struct jinja_ctx *c, const struct jnode *n)
{
    struct jv v;
    int rc = exec_capture(c, n->b, &v);
    if (rc == 0 && n->c)
        rc = apply_filters(c, n->c, v, &v);
    return rc == 0 ? assign(c, n->a, v) : rc;
}

static int exec_filter_block(struct jinja_ctx *c, const struct jnode *n)
{
    struct jv v;
    int rc = exec_capture(c, n->b, &v);
    if (rc == 0)
        rc = apply_filters(c, n->a, v, &v);
    return rc == 0 ? jinja_print(c, v, c->out) : rc;
}

static int exec_with(struct jinja_ctx *c, const struct jnode *n)
{
    struct jscope *outer = c->scope, *s = scope_new(c, outer);
    if (!s)
        return ERR_TOOBIG;
    int rc = 0;
    for (const struct jnode *k = n->a; k && rc == 0; k = k->next) {
        struct jv v;
        rc = jinja_eval(c, k->b, &v);
        if (rc == 0)
            rc = scope_set(c, s, k->a->sym, v);
    }
    c->scope = s;
    if (rc == 0)
        rc = exec_body(c, n->b);
    c->scope = outer;
    return rc;
}

/* ---- loops ---- */

static int filter_items(struct jinja_ctx *c, const struct jnode *n, struct jv *items)
{
    struct jv kept, hit;
    int rc = jinja_list(c, JV_LIST, 0, &kept);
    for (size_t i = 0; i < items->list->n && rc == 0; i++) {
        c->scope->n = 0;
        rc = assign(c, n->a, items->list->items[i]);
        if (rc == 0)
            rc = jinja_eval(c, n->c, &hit);
        if (rc == 0 && jinja_truth(hit))
            rc = jinja_push(c, kept, items->list->items[i]);
    }
    *items = kept;
    return rc;
}

/* *whole: some iteration came to the end of the body; jinja2's else runs when none did. */
static int run_loop(struct jinja_ctx *c, const struct jnode *n, struct jv items, bool *whole)
{
    const struct jsym *name = jinja_sym((struct jinja *)c->t, "loop", 4, false);
    struct jloop *loop = arena_alloc(&c->a, sizeof *loop);
    struct jlist *copy = arena_alloc(&c->a, sizeof *copy);
    if (!loop || !copy)
        return jinja_nomem(c);
    *copy = *items.list;
    loop->items = copy;
    int rc = 0;
    for (; loop->i < copy->n && rc == 0; loop->i++) {
        c->scope->n = 0;
        rc = jinja_charge(c, 0);
        if (rc == 0 && name)
            rc = scope_set(c, c->scope, name, (struct jv){.type = JV_LOOP, .loop = loop});
        if (rc == 0)
            rc = assign(c, n->a, copy->items[loop->i]);
        if (rc == 0)
            rc = exec_body(c, n->d);
        bool stop = c->flow == FLOW_BREAK;
        *whole = *whole || c->flow == FLOW_NORMAL;
        c->flow = FLOW_NORMAL;
        if (stop)
            break;
    }
    return rc;
}

static int exec_for(struct jinja_ctx *c, const struct jnode *n)
{
    struct jv v, items;
    struct jscope *outer = c->scope;
    int rc = jinja_eval(c, n->b, &v);
    if (rc == 0)
        rc = jinja_iterate(c, v, &items);
    if (rc != 0)
        return rc;
    struct jscope *s = scope_new(c, outer);
    if (!s)
        return ERR_TOOBIG;
    c->scope = s;
    if (n->c)
        rc = filter_items(c, n, &items);
    bool whole = false;
    if (rc == 0 && items.list->n > 0)
        rc = run_loop(c, n, items, &whole);
    c->scope = outer;
    if (rc == 0 && !whole && n->e)
        rc = exec_scoped(c, n->e);
    return rc;
}

/* ---- macros ---- */

static int macro_extra(struct jinja_ctx *c, const struct jmacro *m, const struct jargs *args,
                       const bool *used, int n_params)
{
    struct jv varargs, kwargs, caller = {0};
    const struct jnode *n = m->node;
    int rc = jinja_list(c, JV_TUPLE, 0, &varargs);
    if (rc == 0)
        rc = jinja_dict(c, JV_DICT, 0, &kwargs);
    for (int i = 0; i < args->n && rc == 0; i++) {
        const struct jarg *a = &args->items[i];
        struct jv name = jinja_strn(a->name ? a->name : "", a->len);
        if (used[i])
            continue;
        if (i < args->n_pos && (n->op & JUSES_VARARGS))
            rc = jinja_push(c, varargs, a->v);
        else if (i >= args->n_pos && (n->op & JUSES_CALLER) && jinja_is_str(name, "caller"))
            caller = a->v;
        else if (i >= args->n_pos && (n->op & JUSES_KWARGS))
            rc = jinja_dict_set(c, kwargs, name, a->v);
        else if (i < args->n_pos)
            rc = jinja_fail(c, ERR_INVALID, "macro '%.*s' takes not more than %d argument(s)",
                            (int)n->sym->n, n->sym->p, n_params);
        else
            rc = jinja_fail(c, ERR_INVALID, "macro '%.*s' takes no keyword argument '%.*s'",
                            (int)n->sym->n, n->sym->p, (int)name.n, name.s);
    }
    struct jinja *t = (struct jinja *)c->t; /* only read: add is false */
    if (rc == 0 && (n->op & JUSES_VARARGS))
        rc = scope_set(c, c->scope, jinja_sym(t, "varargs", 7, false), varargs);
    if (rc == 0 && (n->op & JUSES_KWARGS))
        rc = scope_set(c, c->scope, jinja_sym(t, "kwargs", 6, false), kwargs);
    if (rc == 0 && (n->op & JUSES_CALLER))
        rc = scope_set(c, c->scope, jinja_sym(t, "caller", 6, false),
                       caller.type == JV_UNSET ? jinja_undef("caller", 6) : caller);
    return rc;
}

/* Parameters into the scope of the call, which is the current one. */
static int macro_bind(struct jinja_ctx *c, const struct jmacro *m, const struct jargs *args)
{
    int k = 0, rc = 0;
    bool *used = arena_array(&c->a, (size_t)args->n + 1, sizeof *used);
    if (!used)
        return jinja_nomem(c);
    for (const struct jnode *p = m->node->a; p && rc == 0; p = p->next, k++) {
        int i = k < args->n_pos ? k : -1;
        for (int j = args->n_pos; j < args->n; j++) {
            const struct jarg *a = &args->items[j];
            if (a->len != p->sym->n || memcmp(a->name, p->sym->p, a->len) != 0)
                continue;
            if (i >= 0)
                return jinja_fail(c, ERR_INVALID, "got multiple values for argument '%.*s'",
                                  (int)a->len, a->name);
            i = j;
        }
        struct jv v = jinja_undef(p->sym->p, p->sym->n);
        if (i >= 0) {
            used[i] = true;
            v = args->items[i].v;
        } else if (p->a) {
            rc = jinja_eval(c, p->a, &v);
        }
        if (rc == 0)
            rc = scope_set(c, c->scope, p->sym, v);
    }
    return rc == 0 ? macro_extra(c, m, args, used, k) : rc;
}

int jinja_macro_call(struct jinja_ctx *c, const struct jmacro *m, const struct jargs *args,
                     struct jv *out)
{
    if (c->macro_depth >= c->lim.max_depth)
        return jinja_fail(c, ERR_TOOBIG, "macros call each other too deeply");
    struct jscope *caller = c->scope, *s = scope_new(c, m->scope);
    struct buf b, *outer = c->out;
    if (!s)
        return ERR_TOOBIG;
    jinja_buf(c, &b);
    c->macro_depth++;
    c->scope = s;
    c->out = &b;
    int rc = macro_bind(c, m, args);
    if (rc == 0)
        rc = exec_body(c, m->node->b);
    c->out = outer;
    c->scope = caller;
    c->macro_depth--;
    if (rc == 0)
        return jinja_take(c, &b, out);
    buf_free(&b);
    return rc;
}

static int macro_value(struct jinja_ctx *c, const struct jnode *n, struct jv *out)
{
    struct jmacro *m = arena_alloc(&c->a, sizeof *m);
    if (!m)
        return jinja_nomem(c);
    *m = (struct jmacro){.node = n, .scope = c->scope};
    *out = (struct jv){.type = JV_MACRO, .macro = m};
    return 0;
}

static int exec_macro(struct jinja_ctx *c, const struct jnode *n)
{
    struct jv v;
    int rc = macro_value(c, n, &v);
    return rc == 0 ? scope_set(c, c->scope, n->sym, v) : rc;
}

static int exec_call_block(struct jinja_ctx *c, const struct jnode *n)
{
    struct jv f, v, caller;
    struct jargs args, more;
    int rc = jinja_eval(c, n->a->a, &f);
    if (rc == 0)
        rc = jinja_args(c, n->a->b, &args);
    if (rc == 0)
        rc = macro_value(c, n->b, &caller);
    if (rc != 0)
        return rc;
    more = (struct jargs){.n = args.n + 1, .n_pos = args.n_pos};
    more.items = arena_array(&c->a, (size_t)more.n, sizeof *more.items);
    if (!more.items)
        return jinja_nomem(c);
    if (args.n)
        memcpy(more.items, args.items, (size_t)args.n * sizeof *args.items);
    more.items[args.n] = (struct jarg){.name = "caller", .len = 6, .v = caller};
    rc = jinja_call(c, f, &more, &v);
    return rc == 0 ? jinja_print(c, v, c->out) : rc;
}

/* ---- statements ---- */

static int exec_if(struct jinja_ctx *c, const struct jnode *n)
{
    for (const struct jnode *b = n->a; b; b = b->next) {
        struct jv v;
        int rc = jinja_eval(c, b->a, &v);
        if (rc != 0)
            return rc;
        if (jinja_truth(v))
            return exec_body(c, b->b);
    }
    return exec_body(c, n->b);
}

static int exec_output(struct jinja_ctx *c, const struct jnode *n)
{
    struct jv v;
    if (!n->a) /* {% print %} of nothing */
        return 0;
    int rc = jinja_eval(c, n->a, &v);
    return rc == 0 ? jinja_print(c, v, c->out) : rc;
}

static int exec_node(struct jinja_ctx *c, const struct jnode *n)
{
    switch (n->type) {
    case JN_TEXT:
        return jinja_print(c, n->value, c->out);
    case JN_OUTPUT:
        return exec_output(c, n);
    case JN_IF:
        return exec_if(c, n);
    case JN_FOR:
        return exec_for(c, n);
    case JN_SET:
        return exec_set(c, n);
    case JN_SETBLOCK:
        return exec_set_block(c, n);
    case JN_MACRO:
        return exec_macro(c, n);
    case JN_CALLBLOCK:
        return exec_call_block(c, n);
    case JN_FILTERBLOCK:
        return exec_filter_block(c, n);
    case JN_WITH:
        return exec_with(c, n);
    default:
        c->flow = n->type == JN_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
        return 0;
    }
}

static int exec_body(struct jinja_ctx *c, const struct jnode *n)
{
    if (c->depth >= JINJA_EVAL_DEPTH)
        return jinja_fail(c, ERR_TOOBIG, "the template recurses too deeply");
    c->depth++;
    int rc = 0;
    for (; n && rc == 0 && c->flow == FLOW_NORMAL; n = n->next) {
        c->line = n->line;
        rc = jinja_charge(c, 0);
        if (rc == 0)
            rc = exec_node(c, n);
        if (rc == 0 && c->out->failed)
            rc = jinja_fail(c, ERR_TOOBIG, "the output is too long");
    }
    c->depth--;
    return rc;
}

/* ---- a render ---- */

static int render_vars(struct jinja_ctx *c, const struct jinja_var *vars, int n_vars)
{
    int rc = 0;
    for (int i = 0; i < n_vars && rc == 0; i++) {
        const struct jinja_var *v = &vars[i];
        const struct jsym *sym = jinja_sym((struct jinja *)c->t, v->name, strlen(v->name), false);
        struct jv value = jinja_none();
        if (!sym) /* the template does not use it */
            continue;
        if (v->type == JINJA_VAR_BOOL)
            value = jinja_bool(v->flag);
        else if (v->type == JINJA_VAR_INT)
            value = jinja_int(v->num);
        else if (v->type == JINJA_VAR_STR)
            value = jinja_cstr(v->str ? v->str : "");
        else if (v->type == JINJA_VAR_JSON)
            rc = jinja_from_json(c, v->json, 0, &value);
        if (rc == 0)
            rc = scope_set(c, c->scope, sym, value);
    }
    return rc;
}

int jinja_render(const struct jinja *t, const struct jinja_var *vars, int n_vars,
                 const struct jinja_limits *limits, struct buf *out, struct err *e)
{
    struct buf text;
    struct err own = {0};
    struct jinja_ctx c = {.t = t, .out = &text, .line = 1, .e = e ? e : &own};
    c.lim = limits ? *limits : jinja_limits_default;
    c.steps_left = c.lim.max_steps;
    arena_init(&c.a, c.lim.max_memory_bytes);
    jinja_buf(&c, &text);
    c.scope = scope_new(&c, NULL);
    int rc = c.scope ? render_vars(&c, vars, n_vars) : ERR_TOOBIG;
    if (rc == 0)
        rc = exec_body(&c, t->body);
    if (rc == 0 && text.len > 0 && buf_add(out, text.data, text.len) != 0)
        rc = jinja_fail(&c, ERR_TOOBIG, "the output is too long");
    buf_free(&text);
    arena_free(&c.a);
    return rc;
}
