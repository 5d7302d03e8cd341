/* Loads, stores, atomics and cp.async; every access is checked for its bounds and its alignment. */
#include <string.h>

#include "kernels/quant.h"
#include "tests/ptxvm/decode.h"
#include "tests/ptxvm/num.h"

/* ---- Addresses ---- */

uint64_t mem_address(const struct warp *w, uint32_t slot, bool wide, int lane, int64_t offset)
{
    return wide ? R(u64v, w, slot)[lane] + (uint64_t)offset
                : R(u32v, w, slot)[lane] + (uint32_t)offset;
}

/* The last range that begins at or before an address; -1. */
static int find_range(const struct ptxvm *vm, uint64_t at)
{
    int lo = 0, hi = vm->n_ranges;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (vm->ranges[mid].at <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo - 1;
}

static void *in_global(struct warp *w, const struct ptx_ins *i, int lane, uint64_t at,
                       uint32_t bytes, bool write)
{
    struct ptxvm *vm = w->block->vm;
    const struct range *r = NULL;
    if (vm->last_range < vm->n_ranges)
        r = &vm->ranges[vm->last_range];
    if (r == NULL || at < r->at || at - r->at >= r->bytes) {
        int n = find_range(vm, at);
        r = n >= 0 ? &vm->ranges[n] : NULL;
        if (n >= 0)
            vm->last_range = n;
    }
    if (r == NULL || at - r->at >= r->bytes || r->bytes - (at - r->at) < bytes) {
        if (r == NULL)
            warp_fail(w, i, lane, "address 0x%llx is not memory", (unsigned long long)at);
        else
            warp_fail(w, i, lane, "%u bytes at offset %lld of %s, which has %llu", bytes,
                      (long long)(at - r->at), r->name, (unsigned long long)r->bytes);
        return NULL;
    }
    if (write && r->read_only) {
        warp_fail(w, i, lane, "%s is constant", r->name);
        return NULL;
    }
    return (void *)(uintptr_t)at;
}

/* The offset of a generic address in the window that it is in. */
static enum ptx_space generic(uint64_t *at)
{
    enum ptx_space s = (*at & VM_WINDOW_MASK) == VM_WINDOW_SHARED  ? SP_SHARED
                       : (*at & VM_WINDOW_MASK) == VM_WINDOW_LOCAL ? SP_LOCAL
                       : (*at & VM_WINDOW_MASK) == VM_WINDOW_PARAM ? SP_PARAM
                                                                   : SP_GLOBAL;
    if (s != SP_GLOBAL)
        *at &= ~VM_WINDOW_MASK;
    return s;
}

static void *in_window(struct warp *w, const struct ptx_ins *i, int lane, uint64_t at,
                       uint32_t bytes, const char *name, uint8_t *base, uint64_t size)
{
    if (at < size && size - at >= bytes)
        return base + at;
    warp_fail(w, i, lane, "%u bytes at offset %lld of %s, which has %llu", bytes, (long long)at,
              name, (unsigned long long)size);
    return NULL;
}

static enum ptx_space space_of(const struct ptx_ins *i, uint64_t *at)
{
    return i->space == SP_GENERIC ? generic(at) : (enum ptx_space)i->space;
}

static void *at_space(struct warp *w, const struct ptx_ins *i, int lane, enum ptx_space s,
                      uint64_t at, uint32_t bytes, bool write)
{
    struct block *b = w->block;
    if (at & (bytes - 1)) {
        warp_fail(w, i, lane, "address 0x%llx is not aligned to %u bytes", (unsigned long long)at,
                  bytes);
        return NULL;
    }
    switch (s) {
    case SP_SHARED:
        return in_window(w, i, lane, at, bytes, "shared memory", b->shared, b->shared_bytes);
    case SP_LOCAL:
        return in_window(w, i, lane, at, bytes, "local memory",
                         w->local + (size_t)lane * b->kernel->local_bytes, b->kernel->local_bytes);
    case SP_PARAM:
        if (write) {
            warp_fail(w, i, lane, "parameters are constant");
            return NULL;
        }
        return in_window(w, i, lane, at, bytes, "the parameters", (uint8_t *)b->params,
                         b->kernel->param_bytes);
    default:
        return in_global(w, i, lane, at, bytes, write);
    }
}

void *mem_at(struct warp *w, const struct ptx_ins *i, int lane, uint64_t at, uint32_t bytes,
             bool write)
{
    enum ptx_space s = space_of(i, &at);
    return at_space(w, i, lane, s, at, bytes, write);
}

/* ---- ld and st ---- */

static void note(struct access *global, struct access *shared, enum ptx_space s, int lane,
                 uint64_t at, uint32_t bytes)
{
    if (s == SP_SHARED)
        access_add(shared, lane, at, bytes);
    else if (s == SP_GLOBAL)
        access_add(global, lane, at, bytes);
}

static void count(struct warp *w, const struct access *global, const struct access *shared)
{
    if (w->block->vm->o.accesses) {
        access_global(w->block->vm->stats, global);
        access_shared(w->block->vm->stats, shared);
    }
}

static uint64_t extended(const uint8_t *p, enum ptx_type t, int size)
{
    uint64_t v = 0;
    memcpy(&v, p, (size_t)size);
    if (t == T_S8)
        return (uint64_t)(int8_t)v;
    if (t == T_S16)
        return (uint64_t)(int16_t)v;
    return t == T_S32 ? (uint64_t)(int32_t)v : v;
}

/* op[0..n) values, op[16] the address; sub: bytes of a register. */
static void run_ld(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    const int size = i->size, n = i->n;
    const uint32_t bytes = (uint32_t)(size * n);
    struct access global = {.mask = 0}, shared = {.mask = 0};
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        uint64_t at = mem_address(w, i->op[16], i->wide, l, i->imm);
        enum ptx_space s = space_of(i, &at);
        const uint8_t *p = at_space(w, i, l, s, at, bytes, false);
        if (p == NULL)
            return;
        if (s == SP_SHARED)
            races_touch(w, i, l, (uint32_t)at, bytes, RACE_READ);
        note(&global, &shared, s, l, at, bytes);
        if (size == 4 && i->sub == 4) {
            for (int k = 0; k < n; k++)
                memcpy(&R(u32v, w, i->op[k])[l], p + 4 * k, 4);
            continue;
        }
        for (int k = 0; k < n; k++) {
            uint64_t v = extended(p + size * k, i->type, size);
            if (i->sub == 8)
                R(u64v, w, i->op[k])[l] = v;
            else
                R(u32v, w, i->op[k])[l] = i->sub == 2 ? (uint16_t)v : (uint32_t)v;
        }
    }
    count(w, &global, &shared);
    if (i->space == SP_GLOBAL)
        w->block->vm->stats->global_read_bytes += (uint64_t)bytes * (uint64_t)__builtin_popcount(m);
}

static void run_st(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    const int size = i->size, n = i->n;
    const uint32_t bytes = (uint32_t)(size * n);
    struct access global = {.mask = 0}, shared = {.mask = 0};
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        uint64_t at = mem_address(w, i->op[16], i->wide, l, i->imm);
        enum ptx_space s = space_of(i, &at);
        uint8_t *p = at_space(w, i, l, s, at, bytes, true);
        if (p == NULL)
            return;
        if (s == SP_SHARED)
            races_touch(w, i, l, (uint32_t)at, bytes, RACE_WRITE);
        else if (s == SP_GLOBAL)
            races_store(w, i, l);
        note(&global, &shared, s, l, at, bytes);
        for (int k = 0; k < n; k++) {
            uint64_t v = i->wide2 ? R(u64v, w, i->op[k])[l] : R(u32v, w, i->op[k])[l];
            memcpy(p + size * k, &v, (size_t)size);
        }
    }
    count(w, &global, &shared);
    if (i->space == SP_GLOBAL)
        w->block->vm->stats->global_written_bytes +=
            (uint64_t)bytes * (uint64_t)__builtin_popcount(m);
}

/* What tells caches, scopes and orders; one thread runs it all, so they mean nothing here. */
/* True for what releases: other blocks then see what this one has stored. */
static bool hints(struct dec *d)
{
    const bool release = dec_has(d, "release") || dec_has(d, "acq_rel");
    static const char *const words[] = {"volatile", "relaxed", "acquire", "weak", "gpu",   "cta",
                                        "sys",      "cluster", "nc",      "ca",   "cg",    "cs",
                                        "lu",       "cv",      "wb",      "wt",   "noftz", NULL};
    while (dec_one_of(d, words) >= 0)
        continue;
    for (int n = 1; n < d->n_words; n++)
        if (strncmp(d->word[n], "L1::", 4) == 0 || strncmp(d->word[n], "L2::", 4) == 0)
            d->used[n] = true;
    return release;
}

static void space(struct dec *d)
{
    static const char *const words[] = {"global", "shared",       "shared::cta", "local", "const",
                                        "param",  "param::entry", "param::func", NULL};
    static const enum ptx_space spaces[] = {SP_GLOBAL, SP_SHARED, SP_SHARED, SP_LOCAL,
                                            SP_CONST,  SP_PARAM,  SP_PARAM,  SP_PARAM};
    int n = dec_one_of(d, words);
    d->i->space = (uint8_t)(n < 0 ? SP_GENERIC : spaces[n]);
}

static int vector_length(struct dec *d)
{
    static const char *const words[] = {"v2", "v4", "v8", NULL};
    int n = dec_one_of(d, words);
    return n < 0 ? 1 : 2 << n;
}

static void values(struct dec *d, int n, enum ptx_type t, bool dst)
{
    struct ptx_ins *i = d->i;
    const struct ptx_operand *o = n < d->s->n_args ? &d->s->args[n] : NULL;
    const struct ptx_operand *items = o && o->kind == OPD_VECTOR ? o->items : o;
    int have = o == NULL ? 0 : o->kind == OPD_VECTOR ? o->n_items : 1;
    if (have != i->n) {
        dec_fail(d, "it has %d elements, not %d", have, i->n);
        return;
    }
    for (int k = 0; k < have; k++) {
        bool wide;
        i->op[k] = dec_loose(d, &items[k], t, dst, &wide);
        int bytes = items[k].kind == OPD_REG  ? parse_type_bytes(items[k].var->type)
                    : parse_type_bytes(t) < 4 ? 4
                                              : parse_type_bytes(t);
        if (items[k].kind == OPD_SINK)
            continue;
        if (i->sub != 0 && i->sub != (bytes == 1 ? 2 : bytes))
            dec_fail(d, "registers of several widths");
        i->sub = (uint8_t)(bytes == 1 ? 2 : bytes);
        i->wide2 = wide;
    }
    if (i->sub == 0)
        i->sub = 4;
}

static void ld_st(struct dec *d)
{
    struct ptx_ins *i = d->i;
    bool st = d->word[0][0] == 's';
    space(d);
    hints(d);
    dec_has(d, "unified");
    int vec = vector_length(d);
    enum ptx_type t = dec_type(d);
    i->n = (uint8_t)vec;
    i->size = (uint8_t)parse_type_bytes(t);
    i->type = (uint8_t)t;
    dec_args(d, 2, 3); /* a cache policy may follow */
    dec_address(d, st ? 0 : 1, 16);
    values(d, st ? 1 : 0, t, !st);
    if (i->size == 0 || i->size * i->n > 32)
        dec_fail(d, "not for this type");
    i->run = st ? run_st : run_ld;
}

/* ---- Atomics ---- */

enum { AT_ADD, AT_MIN, AT_MAX, AT_EXCH, AT_CAS, AT_AND, AT_OR, AT_XOR, AT_INC, AT_DEC };
static const char *const atom_names[] = {"add", "min", "max", "exch", "cas", "and",
                                         "or",  "xor", "inc", "dec",  NULL};

static uint64_t atom_int(int op, enum ptx_type t, uint64_t old, uint64_t b, uint64_t c)
{
    bool less = t == T_S32   ? (int32_t)old < (int32_t)b
                : t == T_S64 ? (int64_t)old < (int64_t)b
                             : old < b;
    switch (op) {
    case AT_ADD:
        return old + b;
    case AT_MIN:
        return less ? old : b;
    case AT_MAX:
        return less ? b : old;
    case AT_EXCH:
        return b;
    case AT_CAS:
        return old == b ? c : old;
    case AT_AND:
        return old & b;
    case AT_OR:
        return old | b;
    case AT_XOR:
        return old ^ b;
    case AT_INC:
        return old >= b ? 0 : old + 1;
    default:
        return old == 0 || old > b ? b : old - 1;
    }
}

static uint64_t atom_add_float(enum ptx_type t, uint64_t old, uint64_t b)
{
    double x, y;
    switch (t) {
    case T_F32:
        return num_f32_bits(num_bits_f32((uint32_t)old) + num_bits_f32((uint32_t)b));
    case T_F64:
        memcpy(&x, &old, sizeof x);
        memcpy(&y, &b, sizeof y);
        x += y;
        memcpy(&old, &x, sizeof x);
        return old;
    case T_F16:
        return f32_to_f16(num_f16((uint32_t)old) + num_f16((uint32_t)b));
    case T_BF16:
        return f32_to_bf16(num_bf16((uint32_t)old) + num_bf16((uint32_t)b));
    case T_F16X2:
        return atom_add_float(T_F16, old & 0xffff, b & 0xffff) |
               atom_add_float(T_F16, old >> 16 & 0xffff, b >> 16 & 0xffff) << 16;
    default:
        return atom_add_float(T_BF16, old & 0xffff, b & 0xffff) |
               atom_add_float(T_BF16, old >> 16 & 0xffff, b >> 16 & 0xffff) << 16;
    }
}

/* op[0] old value, op[1], op[2] operands, op[16] address */
static void run_atom(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    enum ptx_type t = i->type;
    bool wide = i->size == 8;
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        uint64_t at = mem_address(w, i->op[16], i->wide, l, i->imm), old = 0;
        enum ptx_space s = space_of(i, &at);
        void *p = at_space(w, i, l, s, at, i->size, true);
        if (p == NULL)
            return;
        if (s == SP_SHARED)
            races_touch(w, i, l, (uint32_t)at, i->size, RACE_ATOMIC);
        else if (i->release)
            races_release(w, i, l);
        memcpy(&old, p, i->size);
        uint64_t b = wide ? R(u64v, w, i->op[1])[l] : R(u32v, w, i->op[1])[l];
        uint64_t c = wide ? R(u64v, w, i->op[2])[l] : R(u32v, w, i->op[2])[l];
        uint64_t now = dec_is_float(t) ? atom_add_float(t, old, b) : atom_int(i->sub, t, old, b, c);
        memcpy(p, &now, i->size);
        if (wide)
            R(u64v, w, i->op[0])[l] = old;
        else
            R(u32v, w, i->op[0])[l] = (uint32_t)old;
    }
    w->block->vm->stats->atomics += (uint64_t)__builtin_popcount(m);
}

static void atom(struct dec *d)
{
    struct ptx_ins *i = d->i;
    bool red = d->word[0][0] == 'r';
    space(d);
    i->release = hints(d);
    int op = dec_one_of(d, atom_names), at = red ? 0 : 1;
    enum ptx_type t = dec_type(d);
    i->sub = (uint8_t)op;
    i->type = (uint8_t)t;
    i->size = (uint8_t)parse_type_bytes(t);
    dec_args(d, at + 2, at + 4);
    i->op[0] = red ? dec_scratch(d, true) : dec_dst(d, 0, t);
    dec_address(d, at, 16);
    i->op[1] = dec_src(d, at + 1, t);
    i->op[2] = op == AT_CAS ? dec_src(d, at + 2, t) : i->op[1];
    if (op < 0 || i->size < 2 || (dec_is_float(t) && op != AT_ADD) ||
        (i->size == 2 && op != AT_CAS && op != AT_ADD))
        dec_fail(d, "not supported");
    i->run = run_atom;
}

/* ---- cp.async ---- */

/* op[0] destination, op[1] source, op[2] source size; size: bytes. */
static void run_copy(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    struct ptx_ins from = *i; /* the source, as mem_at wants it */
    from.space = SP_GLOBAL;
    struct access global = {.mask = 0}, shared = {.mask = 0};
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        uint64_t to = mem_address(w, i->op[0], i->wide, l, i->imm);
        uint64_t src = mem_address(w, i->op[1], i->wide2, l, i->imm2);
        uint32_t have = R(u32v, w, i->op[2])[l];
        uint8_t *p = at_space(w, i, l, space_of(i, &to), to, i->size, true);
        if (p == NULL)
            return;
        if (have > i->size) {
            warp_fail(w, i, l, "it copies %u of %u bytes", have, i->size);
            return;
        }
        if (src & (i->size - 1u)) {
            warp_fail(w, i, l, "source 0x%llx is not aligned to %u bytes", (unsigned long long)src,
                      i->size);
            return;
        }
        if (have > 0 && in_global(w, &from, l, src, have, false) == NULL)
            return;
        races_touch(w, i, l, (uint32_t)to, i->size, RACE_COPY);
        access_add(&global, l, src, have);
        access_add(&shared, l, to, i->size);
        memset(p, 0xff, i->size);
        if (w->n_copies == w->cap_copies) {
            w->cap_copies = w->cap_copies ? 2 * w->cap_copies : 256;
            w->copies = xrealloc(w->copies, w->cap_copies * sizeof *w->copies);
        }
        w->copies[w->n_copies++] = (struct copy){.to = (uint32_t)to,
                                                 .group = w->copy_group[l],
                                                 .from = src,
                                                 .lane = (uint8_t)l,
                                                 .bytes = i->size,
                                                 .from_bytes = (uint8_t)have,
                                                 .ins = i};
    }
    count(w, &global, &shared);
    w->block->vm->stats->cp_async += (uint64_t)__builtin_popcount(m);
}

static void run_commit(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    (void)i;
    LANES(m, w->copy_group[l]++);
}

/* Lands what is older than the last imm groups; imm -1: everything. */
static void run_wait(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint32_t kept = 0;
    for (uint32_t n = 0; n < w->n_copies; n++) {
        struct copy c = w->copies[n];
        bool lands = (m >> c.lane & 1) &&
                     (i->imm < 0 || (int64_t)c.group < (int64_t)w->copy_group[c.lane] - i->imm);
        if (!lands) {
            w->copies[kept++] = c;
            continue;
        }
        uint8_t *to = w->block->shared + c.to;
        memset(to, 0, c.bytes);
        if (c.from_bytes)
            memcpy(to, (const void *)(uintptr_t)c.from, c.from_bytes);
        races_touch(w, c.ins, c.lane, c.to, c.bytes, RACE_LAND);
    }
    w->n_copies = kept;
}

static void copy_group(struct dec *d)
{
    struct ptx_ins *i = d->i;
    if (dec_has(d, "commit_group")) {
        dec_args(d, 0, 0);
        i->run = run_commit;
        return;
    }
    i->imm = -1;
    if (dec_has(d, "wait_group")) {
        dec_args(d, 1, 1);
        if (d->rc == 0 && d->s->args[0].kind != OPD_INT)
            dec_fail(d, "its count is no number");
        i->imm = d->rc == 0 ? (int64_t)(d->s->args[0].bits & INT32_MAX) : 0;
    } else if (!dec_has(d, "wait_all")) {
        dec_fail(d, "not supported");
    }
    i->run = run_wait;
}

static void cp(struct dec *d)
{
    struct ptx_ins *i = d->i;
    if (!dec_has(d, "async"))
        dec_fail(d, "not supported");
    bool ca = dec_has(d, "ca"), cg = dec_has(d, "cg");
    if (!ca && !cg) {
        copy_group(d);
        return;
    }
    hints(d);
    dec_has(d, "shared");
    dec_has(d, "shared::cta");
    dec_has(d, "global");
    dec_args(d, 3, 5);
    i->space = SP_SHARED;
    dec_address(d, 0, 0);
    int64_t to = i->imm;
    bool wide = i->wide;
    i->space = SP_GLOBAL;
    dec_address(d, 1, 1);
    i->imm2 = i->imm;
    i->wide2 = i->wide;
    i->imm = to;
    i->wide = wide;
    i->space = SP_SHARED;
    if (d->rc != 0)
        return;
    const struct ptx_operand *size = &d->s->args[2];
    if (size->kind != OPD_INT || (size->bits != 16 && (cg || (size->bits != 4 && size->bits != 8))))
        dec_fail(d, "not that many bytes");
    i->size = (uint8_t)size->bits;
    i->op[2] = d->s->n_args > 3 ? dec_src(d, 3, T_U32) : dec_const(d, size->bits, false);
    i->run = run_copy;
}

const struct dec_op mem_ops[] = {
    {"ld", ld_st}, {"ldu", ld_st}, {"st", ld_st}, {"atom", atom},
    {"red", atom}, {"cp", cp},     {NULL, NULL},
};
