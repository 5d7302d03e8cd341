/* cvt and cvta.  The frequent conversions are loops; the others go through long double, which holds
 * every source exactly. */
#include <math.h>
#include <string.h>

#include "kernels/quant.h"
#include "tests/ptxvm/decode.h"
#include "tests/ptxvm/num.h"

/* ---- The frequent ones ---- */

#define CVT(name, D, S, E)                                                \
    static void name(struct warp *w, const struct ptx_ins *i, uint32_t m) \
    {                                                                     \
        D *d = R(D, w, i->op[0]);                                         \
        const S *a = R(S, w, i->op[1]);                                   \
        LANES(m, d[l] = (D)(E));                                          \
    }
CVT(f32_f16, f32v, u32v, num_f16(a[l]))
CVT(f32_bf16, f32v, u32v, num_bf16(a[l]))
CVT(f16_f32, u32v, f32v, a[l] != a[l] ? 0x7fff : f32_to_f16(a[l]))
CVT(bf16_f32, u32v, f32v, a[l] != a[l] ? 0x7fff : f32_to_bf16(a[l]))
CVT(f32_s32, f32v, s32v, a[l])
CVT(f32_u32, f32v, u32v, a[l])
CVT(u32_u64, u32v, u64v, a[l])
CVT(u64_u32, u64v, u32v, a[l])
CVT(s64_s32, s64v, s32v, a[l])
CVT(u32_u8, u32v, u32v, a[l] & 0xff)
CVT(u32_u16, u32v, u32v, a[l] & 0xffff)
CVT(s32_s8, s32v, s32v, (int8_t)a[l])
CVT(s32_s16, s32v, s32v, (int16_t)a[l])
CVT(s16_s8, u32v, s32v, (uint16_t)(int8_t)a[l])

static const struct {
    enum ptx_type to, from;
    bool rounds; /* with .rn */
    vm_run *run;
} frequent[] = {
    {T_F32, T_F16, false, f32_f16}, {T_F32, T_BF16, false, f32_bf16},
    {T_F16, T_F32, true, f16_f32},  {T_BF16, T_F32, true, bf16_f32},
    {T_F32, T_S32, true, f32_s32},  {T_F32, T_U32, true, f32_u32},
    {T_U32, T_U64, false, u32_u64}, {T_S32, T_S64, false, u32_u64},
    {T_U32, T_S64, false, u32_u64}, {T_S32, T_U64, false, u32_u64},
    {T_U64, T_U32, false, u64_u32}, {T_S64, T_U32, false, u64_u32},
    {T_S64, T_S32, false, s64_s32}, {T_U64, T_S32, false, s64_s32},
    {T_U32, T_U8, false, u32_u8},   {T_U16, T_U8, false, u32_u8},
    {T_S32, T_U8, false, u32_u8},   {T_S16, T_U8, false, u32_u8},
    {T_U32, T_U16, false, u32_u16}, {T_S32, T_U16, false, u32_u16},
    {T_U16, T_U32, false, u32_u16}, {T_U16, T_S32, false, u32_u16},
    {T_S32, T_S8, false, s32_s8},   {T_S32, T_S16, false, s32_s16},
    {T_S16, T_S8, false, s16_s8},
};

/* ---- Any ---- */

static bool is_int(enum ptx_type t)
{
    return !dec_is_float(t);
}

static long double read_number(enum ptx_type t, uint64_t bits)
{
    double v;
    switch (t) {
    case T_U8:
        return (uint8_t)bits;
    case T_S8:
        return (int8_t)bits;
    case T_U16:
        return (uint16_t)bits;
    case T_S16:
        return (int16_t)bits;
    case T_U32:
        return (uint32_t)bits;
    case T_S32:
        return (int32_t)bits;
    case T_U64:
        return (long double)bits;
    case T_S64:
        return (int64_t)bits;
    case T_F16:
        return num_f16((uint32_t)bits);
    case T_BF16:
        return num_bf16((uint32_t)bits);
    case T_F64:
        memcpy(&v, &bits, sizeof v);
        return v;
    default:
        return num_bits_f32((uint32_t)bits);
    }
}

/* Clamped to the integer's range; NaN is 0, but for the types where it is the lowest 64-bit value. */
static uint64_t to_int(long double v, enum ptx_type to, enum ptx_type from, enum vm_round mode)
{
    int n = 8 * parse_type_bytes(to);
    bool is_signed = dec_is_signed(to);
    if (v != v)
        return from == T_F64 || n == 64 ? 1ull << (n - 1) : 0;
    long double whole = num_whole(v, mode), low = is_signed ? -ldexpl(1, n - 1) : 0;
    long double high = ldexpl(1, is_signed ? n - 1 : n) - 1;
    whole = whole < low ? low : whole > high ? high : whole;
    return is_signed ? (uint64_t)(int64_t)whole : (uint64_t)whole;
}

static uint64_t to_float(long double v, enum ptx_type to, const struct ptx_ins *i)
{
    enum vm_round mode = i->round;
    if (i->n) /* .rni and kin between floats: a whole number of the same type */
        v = num_whole(v, mode);
    if (i->sat)
        v = v > 0 ? (v < 1 ? v : 1) : 0;
    if (i->relu && !(v > 0))
        v = v != v ? v : 0;
    double f;
    uint64_t bits;
    switch (to) {
    case T_F16:
        return num_to_f16(v, mode);
    case T_BF16:
        return num_to_bf16(v, mode);
    case T_F64:
        f = num_to_f64(v, mode);
        memcpy(&bits, &f, sizeof bits);
        return bits;
    default:
        return num_f32_bits(i->ftz ? num_flush(num_to_f32(v, mode)) : num_to_f32(v, mode));
    }
}

static uint64_t between_ints(uint64_t bits, enum ptx_type to, enum ptx_type from, bool sat)
{
    if (sat)
        return to_int(read_number(from, bits), to, from, RND_Z);
    long double v = read_number(from, bits);
    uint64_t all = dec_is_signed(from) ? (uint64_t)(int64_t)v : (uint64_t)v;
    switch (parse_type_bytes(to)) {
    case 1:
        return to == T_S8 ? (uint64_t)(int8_t)all : (uint8_t)all;
    case 2:
        return to == T_S16 ? (uint64_t)(int16_t)all : (uint16_t)all;
    case 4:
        return to == T_S32 ? (uint64_t)(int32_t)all : (uint32_t)all;
    default:
        return all;
    }
}

/* wide: the source has 64 bits; size: bytes of the destination register. */
static void run_any(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    enum ptx_type to = i->type, from = i->type2;
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        uint64_t bits = i->wide ? R(u64v, w, i->op[1])[l] : R(u32v, w, i->op[1])[l], r;
        long double v = is_int(from) ? 0 : read_number(from, bits);
        if (i->ftz && from == T_F32)
            v = num_flush((float)v);
        if (is_int(from) && is_int(to))
            r = between_ints(bits, to, from, i->sat);
        else if (is_int(to))
            r = to_int(v, to, from, i->round);
        else
            r = to_float(is_int(from) ? read_number(from, bits) : v, to, i);
        if (i->size == 8)
            R(u64v, w, i->op[0])[l] = r;
        else
            R(u32v, w, i->op[0])[l] = i->size == 2 ? (uint16_t)r : (uint32_t)r;
    }
}

/* cvt.rn.f16x2.f32 d, a, b: a goes to the upper half */
static void run_pair(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    bool bf16 = i->type == T_BF16X2;
    u32v *d = R(u32v, w, i->op[0]);
    const f32v *a = R(f32v, w, i->op[1]), *b = R(f32v, w, i->op[2]);
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        float hi = a[l], lo = b[l];
        if (i->relu) {
            hi = hi != hi || hi > 0 ? hi : 0;
            lo = lo != lo || lo > 0 ? lo : 0;
        }
        d[l] = bf16 ? (uint32_t)num_to_bf16(hi, i->round) << 16 | num_to_bf16(lo, i->round)
                    : (uint32_t)num_to_f16(hi, i->round) << 16 | num_to_f16(lo, i->round);
    }
}

/* tf32: 10 bits of fraction, to nearest with ties away from zero */
CVT(tf32_f32, u32v, u32v, (a[l] & 0x7f800000) == 0x7f800000 ? a[l] : (a[l] + 0x1000) & ~0x1fffu)

/* .rni .rzi ... (to whole numbers) or .rn .rz ...; true when whole. */
static bool rounding(struct dec *d, bool *any)
{
    static const char *const whole[] = {"rni", "rzi", "rmi", "rpi", NULL};
    static const char *const plain[] = {"rn", "rz", "rm", "rp", NULL};
    int w = dec_one_of(d, whole), p = w < 0 ? dec_one_of(d, plain) : -1;
    d->i->round = (uint8_t)(w >= 0 ? w : p >= 0 ? p : RND_N);
    *any = w >= 0 || p >= 0;
    return w >= 0;
}

static void cvt(struct dec *d)
{
    struct ptx_ins *i = d->i;
    bool any, whole = rounding(d, &any), pack = dec_has(d, "pack");
    i->ftz = dec_has(d, "ftz");
    i->sat = dec_has(d, "sat");
    i->relu = dec_has(d, "relu");
    bool rna = dec_has(d, "rna");
    enum ptx_type to = dec_type(d), from = dec_type(d);
    if (d->rc != 0)
        return;
    i->type = (uint8_t)to;
    i->type2 = (uint8_t)from;
    i->n = whole && !is_int(to) && !is_int(from);
    if (to == T_F16X2 || to == T_BF16X2) {
        dec_args(d, 3, 3);
        i->op[0] = dec_dst(d, 0, to);
        i->op[1] = dec_src(d, 1, T_F32);
        i->op[2] = dec_src(d, 2, T_F32);
        i->run = from == T_F32 && !i->sat ? run_pair : NULL;
        return;
    }
    dec_args(d, 2, 2);
    if (d->rc != 0 || pack || from == T_PRED || to == T_PRED) {
        dec_fail(d, "not supported");
        return;
    }
    bool wide_to, wide_from;
    i->op[0] = dec_loose(d, &d->s->args[0], to == T_TF32 ? T_B32 : to, true, &wide_to);
    i->op[1] = dec_loose(d, &d->s->args[1], from, false, &wide_from);
    i->wide = wide_from;
    if (rna || to == T_TF32) {
        i->run = rna && to == T_TF32 && from == T_F32 ? tf32_f32 : NULL;
        return;
    }
    bool sink = d->s->args[0].kind == OPD_SINK;
    int reg = sink ? 8 : d->rc == 0 ? parse_type_bytes(d->s->args[0].var->type) : 0;
    i->size = (uint8_t)(reg == 1 ? 2 : reg);
    i->run = run_any;
    bool exact_widths = reg == (parse_type_bytes(to) == 1 ? 2 : parse_type_bytes(to)) &&
                        wide_from == dec_is_wide(from) && !sink;
    if (!exact_widths || i->ftz || i->sat || i->relu || whole || (any && i->round != RND_N))
        return;
    for (size_t n = 0; n < sizeof frequent / sizeof frequent[0]; n++)
        if (frequent[n].to == to && frequent[n].from == from && frequent[n].rounds == any)
            i->run = frequent[n].run;
}

/* ---- Addresses ---- */

static void run_cvta(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    u64v *d = R(u64v, w, i->op[0]);
    const u64v *a = R(u64v, w, i->op[1]);
    LANES(m, d[l] = a[l] + (uint64_t)i->imm);
}

static void cvta(struct dec *d)
{
    static const char *const spaces[] = {"shared", "shared::cta", "local", "param",
                                         "global", "const",       NULL};
    static const uint64_t windows[] = {
        VM_WINDOW_SHARED, VM_WINDOW_SHARED, VM_WINDOW_LOCAL, VM_WINDOW_PARAM, 0, 0};
    bool to = dec_has(d, "to");
    int space = dec_one_of(d, spaces);
    enum ptx_type t = dec_type(d);
    dec_args(d, 2, 2);
    d->i->op[0] = dec_dst(d, 0, t);
    d->i->op[1] = dec_src(d, 1, t);
    if (space < 0 || !dec_is_wide(t))
        dec_fail(d, "which space?");
    else
        d->i->imm = (int64_t)(to ? 0 - windows[space] : windows[space]);
    d->i->run = run_cvta;
}

static void run_isspacep(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    const u64v *a = R(u64v, w, i->op[1]);
    uint32_t r = 0;
    for (int l = 0; l < VM_LANES; l++) {
        uint64_t window = a[l] & VM_WINDOW_MASK;
        bool other =
            window == VM_WINDOW_SHARED || window == VM_WINDOW_LOCAL || window == VM_WINDOW_PARAM;
        r |= (uint32_t)(i->imm ? window == (uint64_t)i->imm : !other) << l;
    }
    u32v *d = R(u32v, w, i->op[0]);
    *d = (*d & ~m) | (r & m);
}

static void isspacep(struct dec *d)
{
    static const char *const spaces[] = {"shared", "shared::cta", "local", "param", "global", NULL};
    static const uint64_t windows[] = {VM_WINDOW_SHARED, VM_WINDOW_SHARED, VM_WINDOW_LOCAL,
                                       VM_WINDOW_PARAM, 0};
    int space = dec_one_of(d, spaces);
    dec_args(d, 2, 2);
    d->i->op[0] = dec_dst(d, 0, T_PRED);
    d->i->op[1] = dec_src(d, 1, T_U64);
    d->i->imm = space >= 0 ? (int64_t)windows[space] : 0;
    d->i->run = space >= 0 ? run_isspacep : NULL;
}

const struct dec_op cvt_ops[] = {
    {"cvt", cvt},
    {"cvta", cvta},
    {"isspacep", isspacep},
    {NULL, NULL},
};
