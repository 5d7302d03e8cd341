/* Statements -> instructions: registers become slots, names become addresses, calls are inlined.  Each
 * function that is called gets registers and memory of its own, so recursion is refused and `ret` is a
 * jump. */
#include "tests/ptxvm/decode.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_CODE = 1 << 20, MAX_SLOTS = 1 << 22 };

static const char *const special_names[SR_N] = {
    [SR_TID_X] = "%tid.x",
    [SR_TID_Y] = "%tid.y",
    [SR_TID_Z] = "%tid.z",
    [SR_NTID_X] = "%ntid.x",
    [SR_NTID_Y] = "%ntid.y",
    [SR_NTID_Z] = "%ntid.z",
    [SR_CTAID_X] = "%ctaid.x",
    [SR_CTAID_Y] = "%ctaid.y",
    [SR_CTAID_Z] = "%ctaid.z",
    [SR_NCTAID_X] = "%nctaid.x",
    [SR_NCTAID_Y] = "%nctaid.y",
    [SR_NCTAID_Z] = "%nctaid.z",
    [SR_LANEID] = "%laneid",
    [SR_WARPID] = "%warpid",
    [SR_NWARPID] = "%nwarpid",
    [SR_SMID] = "%smid",
    [SR_NSMID] = "%nsmid",
    [SR_GRIDID] = "%gridid",
    [SR_LANEMASK_EQ] = "%lanemask_eq",
    [SR_LANEMASK_LE] = "%lanemask_le",
    [SR_LANEMASK_LT] = "%lanemask_lt",
    [SR_LANEMASK_GE] = "%lanemask_ge",
    [SR_LANEMASK_GT] = "%lanemask_gt",
    [SR_CLOCK] = "%clock",
    [SR_CLOCK64] = "%clock64",
    [SR_GLOBALTIMER] = "%globaltimer",
    [SR_DYNAMIC_SMEM] = "%dynamic_smem_size",
    [SR_TOTAL_SMEM] = "%total_smem_size",
    [SR_ZERO] = "%cluster_ctarank",
    [SR_ONE] = "%cluster_nctarank",
};

void dec_fail(struct dec *d, const char *fmt, ...)
{
    if (d->rc != 0)
        return;
    char what[120];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    d->rc = err_set(d->e, ERR_UNSUPPORTED, "%.60s:%d: %.60s: %s", d->m->name, d->s ? d->s->line : 0,
                    d->s ? d->s->op : "", what);
}

static void *take(struct dec *d, size_t n, size_t size)
{
    void *p = arena_array(&d->k->arena, n, size);
    if (p == NULL && d->rc == 0)
        d->rc = err_set(d->e, ERR_TOOBIG, "%.100s is too large to translate", d->k->name);
    return p;
}

/* Room for one more of an array that doubles. */
static void *grown(struct dec *d, void *old, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap)
        return old;
    uint32_t more = *cap ? 2 * *cap : 64;
    void *p = take(d, more, size);
    if (p == NULL)
        return NULL;
    if (n > 0)
        memcpy(p, old, n * size);
    *cap = more;
    return p;
}

/* ---- Types and qualifiers ---- */

bool dec_is_float(enum ptx_type t)
{
    return t == T_F16 || t == T_BF16 || t == T_F32 || t == T_TF32 || t == T_F16X2 ||
           t == T_BF16X2 || t == T_F64;
}

bool dec_is_signed(enum ptx_type t)
{
    return t == T_S8 || t == T_S16 || t == T_S32 || t == T_S64;
}

bool dec_is_wide(enum ptx_type t)
{
    return parse_type_bytes(t) == 8;
}

bool dec_has(struct dec *d, const char *word)
{
    for (int n = 1; n < d->n_words; n++)
        if (!d->used[n] && strcmp(d->word[n], word) == 0)
            return d->used[n] = true;
    return false;
}

int dec_one_of(struct dec *d, const char *const *names)
{
    for (int n = 0; names[n]; n++)
        if (dec_has(d, names[n]))
            return n;
    return -1;
}

enum ptx_type dec_type(struct dec *d)
{
    for (int n = 1; n < d->n_words; n++) {
        enum ptx_type t = d->used[n] ? T_NONE : parse_type(d->word[n]);
        if (t != T_NONE) {
            d->used[n] = true;
            return t;
        }
    }
    dec_fail(d, "it has no type");
    return T_U32;
}

void dec_rounding(struct dec *d)
{
    static const char *const names[] = {"rn", "rz", "rm", "rp", NULL};
    int r = dec_one_of(d, names);
    d->i->round = (uint8_t)(r < 0 ? RND_N : r);
    d->i->ftz = dec_has(d, "ftz");
    d->i->sat = dec_has(d, "sat");
}

void dec_args(struct dec *d, int min, int max)
{
    if (d->s->n_args < min || d->s->n_args > max)
        dec_fail(d, "it has %d operands, not %d", d->s->n_args, min);
}

/* ---- Slots ---- */

static uint32_t new_slot(struct dec *d, uint32_t words)
{
    struct kernel *k = d->k;
    uint32_t at = k->n_slots;
    if (at > MAX_SLOTS - words) {
        dec_fail(d, "the kernel has too many registers");
        return 0;
    }
    k->n_slots += words;
    return at;
}

static uint32_t slot_words(enum ptx_type t)
{
    return dec_is_wide(t) ? 64 : 32; /* a predicate takes one word of its 32 */
}

uint32_t dec_scratch(struct dec *d, bool wide)
{
    return new_slot(d, wide ? 64 : 32);
}

uint32_t dec_const(struct dec *d, uint64_t bits, bool wide)
{
    struct kernel *k = d->k;
    for (uint32_t n = k->n_consts; n-- > 0;)
        if (k->consts[n].bits == bits && k->consts[n].wide == wide)
            return k->consts[n].slot;
    struct vm_const *more = grown(d, k->consts, k->n_consts, &k->cap_consts, sizeof *more);
    if (more == NULL)
        return 0;
    k->consts = more;
    uint32_t slot = dec_scratch(d, wide);
    k->consts[k->n_consts++] = (struct vm_const){.slot = slot, .wide = wide, .bits = bits};
    return slot;
}

static uint32_t reg_slot(struct dec *d, const struct ptx_operand *o)
{
    struct dec_frame *f = d->frame;
    uint32_t **list = &f->slots[o->var->id], n = o->var->n ? o->var->n : 1;
    if (*list == NULL) {
        if ((*list = take(d, n, sizeof **list)) == NULL)
            return 0;
        memset(*list, 0xff, n * sizeof **list);
    }
    if ((*list)[o->index] == VM_NONE)
        (*list)[o->index] = new_slot(d, slot_words(o->var->type));
    return (*list)[o->index];
}

static uint32_t special_slot(struct dec *d, const char *name, bool *wide)
{
    int sr = -1;
    for (int n = 0; n < SR_N; n++)
        if (strcmp(special_names[n], name) == 0)
            sr = n;
    /* Without clusters a block is a cluster of its own. */
    if (strncmp(name, "%cluster_ctaid.", 15) == 0 || strcmp(name, "%is_explicit_cluster") == 0)
        sr = SR_ZERO;
    if (strncmp(name, "%cluster_nctaid.", 16) == 0)
        sr = SR_ONE;
    if (strcmp(name, "WARP_SZ") == 0) {
        *wide = false;
        return dec_const(d, VM_LANES, false);
    }
    if (sr < 0) {
        dec_fail(d, "unknown name %.60s", name);
        return 0;
    }
    *wide = sr == SR_CLOCK64 || sr == SR_GLOBALTIMER || sr == SR_GRIDID;
    if (d->k->special[sr] == VM_NONE)
        d->k->special[sr] = dec_scratch(d, *wide);
    return d->k->special[sr];
}

/* ---- Names in memory ---- */

/* The space where a variable is in this frame, and its address there. */
static enum ptx_space symbol(struct dec *d, const struct ptx_var *v, uint64_t *address)
{
    *address = v->address;
    switch (v->space) {
    case SP_GLOBAL:
    case SP_CONST:
        if (v->is_extern)
            dec_fail(d, "%.60s is defined in no loaded module", v->name);
        return SP_GLOBAL;
    case SP_SHARED:
        return SP_SHARED;
    case SP_PARAM:
        *address = d->frame->memory[v->id];
        return d->frame->caller == NULL && v->is_formal ? SP_PARAM : SP_LOCAL;
    case SP_LOCAL:
        *address = d->frame->memory[v->id];
        return SP_LOCAL;
    default:
        dec_fail(d, "%.60s has no address", v->name);
        return SP_GLOBAL;
    }
}

static uint64_t int_bits(uint64_t bits, enum ptx_type t)
{
    int n = parse_type_bytes(t);
    if (t == T_PRED)
        return bits ? VM_ALL : 0;
    return n >= 8 ? bits : bits & ((1ull << (8 * n)) - 1);
}

static uint32_t constant(struct dec *d, const struct ptx_operand *o, enum ptx_type t)
{
    uint64_t bits = o->bits;
    bool is_bits = t == T_B32 || t == T_B64;
    if (o->kind == OPD_INT) {
        if (dec_is_float(t))
            dec_fail(d, "an integer where a floating-point number belongs");
        return dec_const(d, int_bits(bits, t), dec_is_wide(t));
    }
    if (o->kind == OPD_F32 && (t == T_F32 || is_bits))
        return dec_const(d, bits, dec_is_wide(t));
    if (o->kind == OPD_F64 && (t == T_F64 || t == T_B64))
        return dec_const(d, bits, true);
    if (o->kind == OPD_F64 && t == T_F32) { /* 1.5 in inline PTX */
        double v;
        memcpy(&v, &bits, sizeof v);
        float f = (float)v;
        uint32_t b;
        memcpy(&b, &f, sizeof b);
        return dec_const(d, b, false);
    }
    dec_fail(d, "a constant of another type");
    return 0;
}

static uint32_t any_operand(struct dec *d, const struct ptx_operand *o, enum ptx_type t, bool dst,
                            bool loose, bool *wide)
{
    int want = parse_type_bytes(t), have;
    *wide = want == 8;
    if (d->rc != 0)
        return 0;
    if (o->negated && t != T_PRED)
        dec_fail(d, "only a predicate can be negated");
    if (dst && o->kind != OPD_REG && o->kind != OPD_SINK) {
        dec_fail(d, "its result must go to a register");
        return 0;
    }
    switch (o->kind) {
    case OPD_SINK:
        return dec_scratch(d, true);
    case OPD_REG:
        have = parse_type_bytes(o->var->type);
        if ((o->var->type == T_PRED) != (t == T_PRED) || (loose ? have < want : have != want))
            dec_fail(d, "register %.30s has another width", o->name);
        *wide = have == 8;
        return reg_slot(d, o);
    case OPD_NAME: {
        uint32_t slot = special_slot(d, o->name, wide);
        if (dec_is_float(t) || t == T_PRED || (*wide ? 8 : 4) < want)
            dec_fail(d, "%.30s has another width", o->name);
        return slot;
    }
    case OPD_SYMBOL: {
        uint64_t at = 0;
        symbol(d, o->var, &at);
        if (want != 8 && want != 4)
            dec_fail(d, "an address has 32 or 64 bits");
        return dec_const(d, int_bits(at + (uint64_t)o->imm, t), want == 8);
    }
    case OPD_INT:
    case OPD_F32:
    case OPD_F64:
        return constant(d, o, t);
    default:
        dec_fail(d, "an operand that does not belong here");
        return 0;
    }
}

uint32_t dec_operand(struct dec *d, const struct ptx_operand *o, enum ptx_type t, bool dst)
{
    bool wide;
    return any_operand(d, o, t, dst, false, &wide);
}

uint32_t dec_loose(struct dec *d, const struct ptx_operand *o, enum ptx_type t, bool dst,
                   bool *wide)
{
    return any_operand(d, o, t, dst, true, wide);
}

static uint32_t arg(struct dec *d, int n, enum ptx_type t, bool dst)
{
    if (n >= d->s->n_args) {
        dec_fail(d, "it lacks operands");
        return 0;
    }
    return dec_operand(d, &d->s->args[n], t, dst);
}

uint32_t dec_src(struct dec *d, int n, enum ptx_type t)
{
    return arg(d, n, t, false);
}

uint32_t dec_dst(struct dec *d, int n, enum ptx_type t)
{
    return arg(d, n, t, true);
}

void dec_address(struct dec *d, int n, int at)
{
    struct ptx_ins *i = d->i;
    if (n >= d->s->n_args || d->s->args[n].kind != OPD_ADDRESS) {
        dec_fail(d, "operand %d must be an address", n + 1);
        return;
    }
    const struct ptx_operand *o = &d->s->args[n], *base = &o->items[0];
    i->imm = o->imm;
    if (base->kind == OPD_SYMBOL) {
        uint64_t address = 0;
        enum ptx_space s = symbol(d, base->var, &address);
        if (i->space != SP_GENERIC && i->space != s && !(i->space == SP_CONST && s == SP_GLOBAL) &&
            !(i->space == SP_PARAM && s == SP_LOCAL))
            dec_fail(d, "%.60s is in another space", base->var->name);
        i->space = (uint8_t)s;
        i->op[at] = dec_const(d, address, true);
        i->wide = true;
        return;
    }
    if (base->kind == OPD_INT) {
        i->op[at] = dec_const(d, base->bits, true);
        i->wide = true;
        return;
    }
    if (base->kind != OPD_REG) {
        dec_fail(d, "an address is a register or a variable");
        return;
    }
    int bytes = parse_type_bytes(base->var->type);
    if (bytes < 4 || (bytes == 4 && i->space != SP_SHARED))
        dec_fail(d, "an address of %d bytes", bytes);
    i->wide = bytes == 8;
    i->op[at] = reg_slot(d, base);
}

void dec_vector(struct dec *d, int n, int at, int count, enum ptx_type t, bool dst)
{
    const struct ptx_operand *o = n < d->s->n_args ? &d->s->args[n] : NULL;
    const struct ptx_operand *items = o && o->kind == OPD_VECTOR ? o->items : o;
    int have = o == NULL ? 0 : o->kind == OPD_VECTOR ? o->n_items : 1;
    if (have != count || at + count > VM_MAX_OPS) {
        dec_fail(d, "operand %d has %d elements, not %d", n + 1, have, count);
        return;
    }
    for (int j = 0; j < count; j++)
        d->i->op[at + j] = dec_operand(d, &items[j], t, dst);
}

/* ---- Frames ---- */

static struct dec_frame *open_frame(struct dec *d, const struct ptx_func *f,
                                    struct dec_frame *caller)
{
    struct dec_frame *n = take(d, 1, sizeof *n);
    if (n == NULL)
        return NULL;
    n->f = f;
    n->caller = caller;
    n->depth = caller ? caller->depth + 1 : 0;
    n->slots = take(d, (size_t)f->n_vars + 1, sizeof *n->slots);
    n->memory = take(d, (size_t)f->n_vars + 1, sizeof *n->memory);
    n->has_memory = take(d, (size_t)f->n_vars + 1, sizeof *n->has_memory);
    n->stmt_at = take(d, (size_t)f->n_stmts + 1, sizeof *n->stmt_at);
    return d->rc == 0 ? n : NULL;
}

/* ---- Flow ---- */

static struct ptx_ins *new_ins(struct dec *d)
{
    struct kernel *k = d->k;
    struct ptx_ins *more = grown(d, k->code, k->n_code, &k->cap_code, sizeof *more);
    if (more == NULL)
        return NULL;
    k->code = more;
    if (k->n_code >= MAX_CODE) {
        dec_fail(d, "the kernel is too long");
        return NULL;
    }
    struct ptx_ins *i = &k->code[k->n_code++];
    *i = (struct ptx_ins){.guard = VM_NONE, .sync_mask = VM_NONE, .stmt = d->s, .module = d->m};
    return i;
}

/* The statement a label stands before, seen from a scope; the end of the function is n_stmts. */
static int find_label(struct dec *d, const char *name, int scope)
{
    const struct ptx_func *f = d->frame->f;
    for (; scope >= 0; scope = f->scope_parent[scope])
        for (const struct ptx_label *l = f->labels; l; l = l->next)
            if (l->scope == scope && strcmp(l->name, name) == 0)
                return l->at;
    dec_fail(d, "there is no label %.60s", name);
    return 0;
}

static void jump(struct dec *d, struct ptx_ins *i, uint32_t to_stmt)
{
    struct dec_frame *f = d->frame;
    uint32_t *more = grown(d, f->jumps, f->n_jumps, &f->cap_jumps, sizeof *more);
    if (more == NULL)
        return;
    f->jumps = more;
    f->jumps[f->n_jumps++] = (uint32_t)(i - d->k->code);
    i->flow = FLOW_BRANCH;
    i->target = to_stmt;
}

static void branch(struct dec *d)
{
    dec_has(d, "uni");
    dec_args(d, 1, 1);
    if (d->rc == 0 && d->s->args[0].kind != OPD_NAME)
        dec_fail(d, "it needs a label");
    if (d->rc == 0)
        jump(d, d->i, (uint32_t)find_label(d, d->s->args[0].name, d->s->scope));
}

/* brx.idx %r1, TABLE;   TABLE: .branchtargets A, B, C; */
static void branch_table(struct dec *d)
{
    struct ptx_ins *i = d->i;
    dec_has(d, "idx");
    dec_has(d, "uni");
    dec_args(d, 2, 2);
    i->op[0] = dec_src(d, 0, T_U32);
    if (d->rc != 0 || d->s->args[1].kind != OPD_NAME) {
        dec_fail(d, "it needs a table");
        return;
    }
    int at = find_label(d, d->s->args[1].name, d->s->scope);
    const struct ptx_stmt *t = at < d->frame->f->n_stmts ? &d->frame->f->stmts[at] : NULL;
    if (d->rc != 0 || t == NULL || strcmp(t->op, ".branchtargets") != 0) {
        dec_fail(d, "%.60s is no table", d->s->args[1].name);
        return;
    }
    uint32_t *table = take(d, (size_t)t->n_args + 1, sizeof *table);
    for (int n = 0; table && n < t->n_args; n++) {
        if (t->args[n].kind == OPD_NAME)
            table[n] = (uint32_t)find_label(d, t->args[n].name, t->scope);
        else
            dec_fail(d, "a table of labels");
    }
    jump(d, i, 0);
    i->flow = FLOW_TABLE;
    i->imm = t->n_args;
    i->table = table;
}

static void leave(struct dec *d)
{
    dec_has(d, "uni");
    if (d->frame->caller == NULL || strncmp(d->s->op, "exit", 4) == 0)
        d->i->flow = FLOW_EXIT;
    else
        jump(d, d->i, (uint32_t)d->frame->f->n_stmts);
}

static void trap(struct dec *d)
{
    d->i->flow = FLOW_TRAP;
}

static void run_nothing(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    (void)w;
    (void)i;
    (void)m;
}

/* Their effect is on time or caches only. */
static void nothing(struct dec *d)
{
    d->i->run = run_nothing;
    for (int n = 0; n < d->n_words; n++)
        d->used[n] = true;
}

static void translate(struct dec *d, struct dec_frame *frame);

/* call.uni (ret), name, (a, b); */
static void call(struct dec *d)
{
    const struct ptx_stmt *s = d->s;
    const struct ptx_operand *rets = NULL, *args = NULL, *name = NULL;
    dec_has(d, "uni");
    for (int n = 0; n < s->n_args; n++) {
        if (s->args[n].kind == OPD_VECTOR)
            *(name ? &args : &rets) = &s->args[n];
        else if (name == NULL)
            name = &s->args[n];
        else
            dec_fail(d, "indirect calls are not supported");
    }
    const struct ptx_func *f =
        name && name->kind == OPD_NAME ? layout_find_func(d->m, name->name) : NULL;
    if (f == NULL) {
        if (name && name->name && strcmp(name->name, "__assertfail") == 0)
            d->i->flow = FLOW_TRAP;
        else
            dec_fail(d, "no body of %.60s", name && name->name ? name->name : "what it calls");
        return;
    }
    if (d->i->guard != VM_NONE)
        dec_fail(d, "a call with a predicate is not supported");
    if (d->frame->depth >= DEC_MAX_CALLS)
        dec_fail(d, "calls are nested too deeply, or recursive");
    if ((rets ? rets->n_items : 0) != f->n_returns || (args ? args->n_items : 0) != f->n_params)
        dec_fail(d, "%.60s takes other parameters", f->name);
    struct dec_frame *inner = d->rc == 0 ? open_frame(d, f, d->frame) : NULL;
    for (int n = 0; inner && n < f->n_returns + f->n_params; n++) {
        bool is_ret = n < f->n_returns;
        const struct ptx_operand *o = is_ret ? &rets->items[n] : &args->items[n - f->n_returns];
        const struct ptx_var *formal = is_ret ? f->returns[n] : f->params[n - f->n_returns];
        if (o->kind != OPD_SYMBOL || o->var->space != SP_PARAM || o->var->bytes < formal->bytes) {
            dec_fail(d, "a parameter that is no .param variable of its size");
            return;
        }
        inner->has_memory[formal->id] = true;
        inner->memory[formal->id] = d->frame->memory[o->var->id];
    }
    d->i->run = run_nothing;
    if (inner && d->rc == 0)
        translate(d, inner);
}

static const struct dec_op flow_ops[] = {
    {"bra", branch},        {"brx", branch_table},
    {"ret", leave},         {"exit", leave},
    {"call", call},         {"trap", trap},
    {"nanosleep", nothing}, {"prefetch", nothing},
    {"prefetchu", nothing}, {"griddepcontrol", nothing},
    {"discard", nothing},   {"applypriority", nothing},
    {"pmevent", nothing},   {"setmaxnreg", nothing},
    {NULL, NULL},
};

/* ---- Statements ---- */

static void split_words(struct dec *d)
{
    d->n_words = 0;
    memset(d->used, 0, sizeof d->used);
    if (strlen(d->s->op) >= sizeof d->words) {
        dec_fail(d, "its name is too long");
        d->words[0] = '\0';
        return;
    }
    memcpy(d->words, d->s->op, strlen(d->s->op) + 1);
    for (char *s = d->words; s && d->n_words < DEC_MAX_WORDS;) {
        d->word[d->n_words++] = s;
        s = strchr(s, '.');
        if (s)
            *s++ = '\0';
    }
    d->used[0] = true;
}

static void (*find_op(const char *name))(struct dec *)
{
    static const struct dec_op *const families[] = {alu_ops, logic_ops, fpu_ops, cvt_ops,
                                                    mem_ops, sync_ops,  mma_ops, flow_ops};
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++)
        for (const struct dec_op *o = families[f]; o->name; o++)
            if (strcmp(o->name, name) == 0)
                return o->decode;
    return NULL;
}

static void statement(struct dec *d, const struct ptx_stmt *s)
{
    d->s = s;
    d->i = new_ins(d);
    if (d->i == NULL)
        return;
    split_words(d);
    if (s->guarded) {
        if (s->guard.kind != OPD_REG || s->guard.var->type != T_PRED)
            dec_fail(d, "its guard is no predicate");
        else
            d->i->guard = reg_slot(d, &s->guard);
        d->i->guard_negated = s->guard_negated;
    }
    if (strcmp(s->op, ".branchtargets") == 0) {
        d->i->run = run_nothing;
        return;
    }
    void (*decode)(struct dec *) = d->rc == 0 ? find_op(d->word[0]) : NULL;
    if (decode == NULL) {
        dec_fail(d, "unknown instruction");
        return;
    }
    decode(d);
    /* A call has inlined other statements meanwhile. */
    for (int n = 1; n < d->n_words && d->s == s; n++)
        if (!d->used[n])
            dec_fail(d, "unknown qualifier .%.30s", d->word[n]);
    if (d->rc == 0 && d->s == s && d->i->run == NULL &&
        (d->i->flow == FLOW_NEXT || d->i->flow == FLOW_SYNC))
        dec_fail(d, "not for these types");
}

static void translate(struct dec *d, struct dec_frame *frame)
{
    struct dec_frame *outer = d->frame;
    d->frame = frame;
    layout_locals(d, frame);
    for (int n = 0; n < frame->f->n_stmts && d->rc == 0; n++) {
        frame->stmt_at[n] = d->k->n_code;
        statement(d, &frame->f->stmts[n]);
    }
    frame->stmt_at[frame->f->n_stmts] = d->k->n_code;
    for (uint32_t n = 0; n < frame->n_jumps && d->rc == 0; n++) {
        struct ptx_ins *i = &d->k->code[frame->jumps[n]];
        i->target = frame->stmt_at[i->target];
        for (int64_t t = 0; i->flow == FLOW_TABLE && t < i->imm; t++)
            i->table[t] = frame->stmt_at[i->table[t]];
    }
    d->frame = outer;
}

int decode_kernel(struct ptxvm *vm, struct kernel *k, struct err *e)
{
    arena_init(&k->arena, (size_t)1 << 30);
    struct dec d = {.vm = vm, .k = k, .m = k->module, .f = k->func, .e = e};
    k->n_slots = k->n_code = k->n_consts = k->cap_code = k->cap_consts = 0;
    k->local_bytes = k->shared_static = 0;
    memset(k->special, 0xff, sizeof k->special);
    struct dec_frame *frame = open_frame(&d, k->func, NULL);
    if (frame != NULL) {
        layout_shared(&d);
        layout_params(&d, frame);
        translate(&d, frame);
        d.s = NULL;
        struct ptx_ins *end = d.rc == 0 ? new_ins(&d) : NULL;
        if (end)
            end->flow = FLOW_EXIT;
    }
    k->local_bytes = (k->local_bytes + 15) & ~15u;
    k->ready = d.rc == 0;
    if (d.rc != 0)
        arena_free(&k->arena);
    return d.rc;
}
