/* Moves, bits as they are, comparisons and selection. */
#include <string.h>

#include "tests/ptxvm/decode.h"
#include "tests/ptxvm/num.h"

/* ---- and, or, xor, not, mov ---- */

#define BITS(name, E)                                                            \
    static void name##32(struct warp * w, const struct ptx_ins *i, uint32_t m)   \
    {                                                                            \
        u32v *d = R(u32v, w, i->op[0]);                                          \
        const u32v *a = R(u32v, w, i->op[1]), *b = R(u32v, w, i->op[2]);         \
        (void)b;                                                                 \
        LANES(m, d[l] = E);                                                      \
    }                                                                            \
    static void name##64(struct warp * w, const struct ptx_ins *i, uint32_t m)   \
    {                                                                            \
        u64v *d = R(u64v, w, i->op[0]);                                          \
        const u64v *a = R(u64v, w, i->op[1]), *b = R(u64v, w, i->op[2]);         \
        (void)b;                                                                 \
        LANES(m, d[l] = E);                                                      \
    }                                                                            \
    static void name##_pred(struct warp *w, const struct ptx_ins *i, uint32_t m) \
    {                                                                            \
        u32v *d = R(u32v, w, i->op[0]);                                          \
        const u32v *a = R(u32v, w, i->op[1]), *b = R(u32v, w, i->op[2]);         \
        const int l = 0;                                                         \
        (void)b;                                                                 \
        d[0] = (d[0] & ~m) | ((E)&m);                                            \
    }
BITS(run_and, a[l] & b[l])
BITS(run_or, a[l] | b[l])
BITS(run_xor, a[l] ^ b[l])
BITS(run_not, ~a[l])
BITS(run_mov, a[l])

static void run_not16(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    u32v *d = R(u32v, w, i->op[0]);
    const u32v *a = R(u32v, w, i->op[1]);
    LANES(m, d[l] = ~a[l] & 0xffff);
}

static void run_cnot32(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    u32v *d = R(u32v, w, i->op[0]);
    const u32v *a = R(u32v, w, i->op[1]);
    LANES(m, d[l] = a[l] == 0);
}

static void run_cnot64(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    u64v *d = R(u64v, w, i->op[0]);
    const u64v *a = R(u64v, w, i->op[1]);
    LANES(m, d[l] = a[l] == 0);
}

static void bitwise(struct dec *d)
{
    static const struct {
        const char *name;
        int n;
        vm_run *pred, *b16, *b32, *b64;
    } ops[] = {
        {"and", 2, run_and_pred, run_and32, run_and32, run_and64},
        {"or", 2, run_or_pred, run_or32, run_or32, run_or64},
        {"xor", 2, run_xor_pred, run_xor32, run_xor32, run_xor64},
        {"not", 1, run_not_pred, run_not16, run_not32, run_not64},
        {"cnot", 1, NULL, run_cnot32, run_cnot32, run_cnot64},
    };
    enum ptx_type t = dec_type(d);
    size_t n = 0;
    while (strcmp(ops[n].name, d->word[0]) != 0)
        n++;
    dec_args(d, ops[n].n + 1, ops[n].n + 1);
    d->i->op[0] = dec_dst(d, 0, t);
    for (int k = 1; k <= ops[n].n; k++) {
        d->i->op[k] = dec_src(d, k, t);
        if (d->rc == 0 && d->s->args[k].negated)
            dec_fail(d, "a negated operand");
    }
    int bytes = parse_type_bytes(t);
    d->i->run = t == T_PRED  ? ops[n].pred
                : bytes == 2 ? ops[n].b16
                : bytes == 4 ? ops[n].b32
                : bytes == 8 ? ops[n].b64
                             : NULL;
}

/* {a, b, ...} = x: n parts of `size` bytes each. */
static void run_unpack(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        uint64_t v = i->wide ? R(u64v, w, i->op[8])[l] : R(u32v, w, i->op[8])[l];
        for (int n = 0; n < i->n; n++) {
            uint64_t part = v >> 8 * i->size * n;
            if (i->size == 4)
                R(u32v, w, i->op[n])[l] = (uint32_t)part;
            else
                R(u32v, w, i->op[n])[l] = (uint32_t)(part & (i->size == 2 ? 0xffff : 0xff));
        }
    }
}

static void run_pack(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        uint64_t v = 0;
        for (int n = 0; n < i->n; n++)
            v |= (uint64_t)R(u32v, w, i->op[n])[l] << 8 * i->size * n;
        if (i->wide)
            R(u64v, w, i->op[8])[l] = v;
        else
            R(u32v, w, i->op[8])[l] = (uint32_t)v;
    }
}

static void mov(struct dec *d)
{
    enum ptx_type t = dec_type(d);
    dec_args(d, 2, 2);
    if (d->rc != 0)
        return;
    const struct ptx_operand *to = &d->s->args[0], *from = &d->s->args[1];
    d->i->wide = dec_is_wide(t);
    if (to->kind == OPD_VECTOR || from->kind == OPD_VECTOR) {
        bool unpack = to->kind == OPD_VECTOR;
        int n = unpack ? to->n_items : from->n_items, size = n > 0 ? parse_type_bytes(t) / n : 0;
        if ((n != 2 && n != 4) || size < 2 || size > 4) {
            dec_fail(d, "parts of that size");
            return;
        }
        d->i->n = (uint8_t)n;
        d->i->size = (uint8_t)size;
        dec_vector(d, unpack ? 0 : 1, 0, n, size == 2 ? T_B16 : T_B32, unpack);
        d->i->op[8] = unpack ? dec_src(d, 1, t) : dec_dst(d, 0, t);
        d->i->run = unpack ? run_unpack : run_pack;
        return;
    }
    bool wide;
    d->i->op[0] = dec_dst(d, 0, t);
    d->i->op[1] = from->kind == OPD_NAME ? dec_loose(d, from, t, false, &wide) : dec_src(d, 1, t);
    d->i->run = t == T_PRED ? run_mov_pred : d->i->wide ? run_mov64 : run_mov32;
}

/* ---- Comparisons ---- */

enum { EQ, NE, LT, LE, GT, GE, LO, LS, HI, HS, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NAN_, N_CMP };
static const char *const cmp_names[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "lo",
                                        "ls",  "hi",  "hs",  "equ", "neu", "ltu", "leu",
                                        "gtu", "geu", "num", "nan", NULL};

#define MASK_OF(E)                         \
    do {                                   \
        for (int l = 0; l < VM_LANES; l++) \
            r |= (uint32_t)(E) << l;       \
    } while (0)

#define COMPARE(name, T, A, B)                                                      \
    static uint32_t name(struct warp *w, uint32_t slot_a, uint32_t slot_b, int cmp) \
    {                                                                               \
        const T *a = R(T, w, slot_a), *b = R(T, w, slot_b);                         \
        uint32_t r = 0;                                                             \
        switch (cmp) {                                                              \
        case EQ:                                                                    \
            MASK_OF(A == B);                                                        \
            break;                                                                  \
        case NE:                                                                    \
            MASK_OF(A<B || A> B);                                                   \
            break;                                                                  \
        case LT:                                                                    \
        case LO:                                                                    \
            MASK_OF(A < B);                                                         \
            break;                                                                  \
        case LE:                                                                    \
        case LS:                                                                    \
            MASK_OF(A <= B);                                                        \
            break;                                                                  \
        case GT:                                                                    \
        case HI:                                                                    \
            MASK_OF(A > B);                                                         \
            break;                                                                  \
        case GE:                                                                    \
        case HS:                                                                    \
            MASK_OF(A >= B);                                                        \
            break;                                                                  \
        case EQU:                                                                   \
            MASK_OF(!(A < B || A > B));                                             \
            break;                                                                  \
        case NEU:                                                                   \
            MASK_OF(!(A == B));                                                     \
            break;                                                                  \
        case LTU:                                                                   \
            MASK_OF(!(A >= B));                                                     \
            break;                                                                  \
        case LEU:                                                                   \
            MASK_OF(!(A > B));                                                      \
            break;                                                                  \
        case GTU:                                                                   \
            MASK_OF(!(A <= B));                                                     \
            break;                                                                  \
        case GEU:                                                                   \
            MASK_OF(!(A < B));                                                      \
            break;                                                                  \
        case NUM:                                                                   \
            MASK_OF(A == A && B == B);                                              \
            break;                                                                  \
        default:                                                                    \
            MASK_OF(!(A == A && B == B));                                           \
            break;                                                                  \
        }                                                                           \
        return r;                                                                   \
    }
COMPARE(cmp_u32, u32v, a[l], b[l])
COMPARE(cmp_s32, s32v, a[l], b[l])
COMPARE(cmp_s16, u32v, (int16_t)a[l], (int16_t)b[l])
COMPARE(cmp_u64, u64v, a[l], b[l])
COMPARE(cmp_s64, s64v, a[l], b[l])
COMPARE(cmp_f32, f32v, a[l], b[l])
COMPARE(cmp_f32z, f32v, num_flush(a[l]), num_flush(b[l]))
COMPARE(cmp_f64, f64v, a[l], b[l])
COMPARE(cmp_f16, u32v, num_f16(a[l]), num_f16(b[l]))
COMPARE(cmp_f16hi, u32v, num_f16(a[l] >> 16), num_f16(b[l] >> 16))
COMPARE(cmp_bf16, u32v, num_bf16(a[l]), num_bf16(b[l]))
COMPARE(cmp_bf16hi, u32v, num_bf16(a[l] >> 16), num_bf16(b[l] >> 16))

static uint32_t compare(struct warp *w, const struct ptx_ins *i)
{
    uint32_t a = i->op[2], b = i->op[3];
    switch ((enum ptx_type)i->type) {
    case T_S16:
        return cmp_s16(w, a, b, i->sub);
    case T_S32:
        return cmp_s32(w, a, b, i->sub);
    case T_U64:
    case T_B64:
        return cmp_u64(w, a, b, i->sub);
    case T_S64:
        return cmp_s64(w, a, b, i->sub);
    case T_F32:
        return (i->ftz ? cmp_f32z : cmp_f32)(w, a, b, i->sub);
    case T_F64:
        return cmp_f64(w, a, b, i->sub);
    case T_F16:
    case T_F16X2:
        return cmp_f16(w, a, b, i->sub);
    case T_BF16:
    case T_BF16X2:
        return cmp_bf16(w, a, b, i->sub);
    default:
        return cmp_u32(w, a, b, i->sub);
    }
}

/* Joined with a third predicate: imm 0 none, 1 and, 2 or, 3 xor; relu: it is negated. */
static uint32_t joined(struct warp *w, const struct ptx_ins *i, uint32_t r)
{
    if (i->imm == 0)
        return r;
    uint32_t c = *R(u32v, w, i->op[4]) ^ (i->relu ? VM_ALL : 0);
    return i->imm == 1 ? r & c : i->imm == 2 ? r | c : r ^ c;
}

static void run_setp(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint32_t r = compare(w, i), p = joined(w, i, r), q = joined(w, i, ~r);
    if (i->type == T_F16X2)
        q = joined(w, i, cmp_f16hi(w, i->op[2], i->op[3], i->sub));
    if (i->type == T_BF16X2)
        q = joined(w, i, cmp_bf16hi(w, i->op[2], i->op[3], i->sub));
    u32v *d = R(u32v, w, i->op[0]);
    *d = (*d & ~m) | (p & m);
    if (i->n == 2) {
        d = R(u32v, w, i->op[1]);
        *d = (*d & ~m) | (q & m);
    }
}

/* set: all ones or 1.0 instead of a predicate. */
static void run_set(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint32_t r = joined(w, i, compare(w, i)), yes = VM_ALL;
    u32v *d = R(u32v, w, i->op[0]);
    if (i->type2 == T_F32)
        yes = 0x3f800000;
    if (i->type2 == T_F16 || i->type2 == T_U16 || i->type2 == T_S16)
        yes = i->type2 == T_F16 ? 0x3c00 : 0xffff;
    if (i->type2 == T_BF16)
        yes = 0x3f80;
    if (i->type == T_F16X2 || i->type == T_BF16X2) {
        bool f16 = i->type == T_F16X2;
        uint32_t h = joined(w, i, (f16 ? cmp_f16hi : cmp_bf16hi)(w, i->op[2], i->op[3], i->sub));
        uint32_t one = i->type2 == T_F16X2 ? 0x3c00 : i->type2 == T_BF16X2 ? 0x3f80 : 0xffff;
        LANES(m, d[l] = (r >> l & 1 ? one : 0) | (h >> l & 1 ? one << 16 : 0));
        return;
    }
    LANES(m, d[l] = r >> l & 1 ? yes : 0);
}

static void comparison(struct dec *d, int at, enum ptx_type t)
{
    static const char *const joins[] = {"and", "or", "xor", NULL};
    struct ptx_ins *i = d->i;
    i->imm = dec_one_of(d, joins) + 1;
    i->ftz = dec_has(d, "ftz");
    dec_args(d, at + (i->imm ? 3 : 2), at + (i->imm ? 3 : 2));
    i->op[2] = dec_src(d, at, t);
    i->op[3] = dec_src(d, at + 1, t);
    if (i->imm) {
        i->op[4] = dec_src(d, at + 2, T_PRED);
        i->relu = d->rc == 0 && d->s->args[at + 2].negated;
    }
    i->type = (uint8_t)t;
    if (i->sub >= EQU && !dec_is_float(t))
        dec_fail(d, "a comparison of floats");
    if (parse_type_bytes(t) < 2)
        dec_fail(d, "not for this type");
}

static void cmp_of(struct dec *d)
{
    int cmp = dec_one_of(d, cmp_names);
    if (cmp < 0)
        dec_fail(d, "it has no comparison");
    d->i->sub = (uint8_t)(cmp < 0 ? 0 : cmp);
}

static void setp(struct dec *d)
{
    cmp_of(d);
    comparison(d, 1, dec_type(d));
    if (d->rc != 0)
        return;
    const struct ptx_operand *o = &d->s->args[0];
    d->i->op[0] = dec_operand(d, o, T_PRED, true);
    d->i->n = o->second ? 2 : 1;
    if (o->second)
        d->i->op[1] = dec_operand(d, o->second, T_PRED, true);
    d->i->run = run_setp;
}

static void set(struct dec *d)
{
    cmp_of(d);
    enum ptx_type to = dec_type(d), t = dec_type(d);
    comparison(d, 1, t);
    d->i->op[0] = dec_dst(d, 0, to);
    d->i->type2 = (uint8_t)to;
    d->i->run = dec_is_wide(to) ? NULL : run_set;
}

/* ---- Selection ---- */

static void run_selp32(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    u32v *d = R(u32v, w, i->op[0]);
    const u32v *a = R(u32v, w, i->op[1]), *b = R(u32v, w, i->op[2]);
    uint32_t p = *R(u32v, w, i->op[3]);
    LANES(m, d[l] = p >> l & 1 ? a[l] : b[l]);
}

static void run_selp64(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    u64v *d = R(u64v, w, i->op[0]);
    const u64v *a = R(u64v, w, i->op[1]), *b = R(u64v, w, i->op[2]);
    uint32_t p = *R(u32v, w, i->op[3]);
    LANES(m, d[l] = p >> l & 1 ? a[l] : b[l]);
}

static void selp(struct dec *d)
{
    enum ptx_type t = dec_type(d);
    dec_args(d, 4, 4);
    d->i->op[0] = dec_dst(d, 0, t);
    d->i->op[1] = dec_src(d, 1, t);
    d->i->op[2] = dec_src(d, 2, t);
    d->i->op[3] = dec_src(d, 3, T_PRED);
    if (d->rc == 0 && d->s->args[3].negated)
        dec_fail(d, "a negated operand");
    d->i->run = t == T_PRED ? NULL : dec_is_wide(t) ? run_selp64 : run_selp32;
}

/* d = c >= 0 ? a : b, with c of s32 or f32 */
static void run_slct(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        bool first =
            i->type2 == T_F32 ? R(f32v, w, i->op[3])[l] >= 0 : R(s32v, w, i->op[3])[l] >= 0;
        uint32_t from = i->op[first ? 1 : 2];
        if (i->wide)
            R(u64v, w, i->op[0])[l] = R(u64v, w, from)[l];
        else
            R(u32v, w, i->op[0])[l] = R(u32v, w, from)[l];
    }
}

static void slct(struct dec *d)
{
    dec_has(d, "ftz");
    enum ptx_type t = dec_type(d), c = dec_type(d);
    dec_args(d, 4, 4);
    d->i->op[0] = dec_dst(d, 0, t);
    d->i->op[1] = dec_src(d, 1, t);
    d->i->op[2] = dec_src(d, 2, t);
    d->i->op[3] = dec_src(d, 3, c);
    d->i->wide = dec_is_wide(t);
    d->i->type2 = (uint8_t)c;
    d->i->run = c == T_F32 || c == T_S32 ? run_slct : NULL;
}

const struct dec_op logic_ops[] = {
    {"and", bitwise},  {"or", bitwise}, {"xor", bitwise}, {"not", bitwise},
    {"cnot", bitwise}, {"mov", mov},    {"setp", setp},   {"set", set},
    {"selp", selp},    {"slct", slct},  {NULL, NULL},
};
