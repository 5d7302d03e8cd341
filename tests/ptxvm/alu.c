/* Integer arithmetic and bits.  16-bit results keep zeros above; wrap-around is done unsigned. */
#include <string.h>

#include "tests/ptxvm/decode.h"

#define UN(name, T, S, E)                                                 \
    static void name(struct warp *w, const struct ptx_ins *i, uint32_t m) \
    {                                                                     \
        T *d = R(T, w, i->op[0]);                                         \
        const S *a = R(S, w, i->op[1]);                                   \
        LANES(m, d[l] = (T)(E));                                          \
    }
#define BIN(name, T, S, E)                                                \
    static void name(struct warp *w, const struct ptx_ins *i, uint32_t m) \
    {                                                                     \
        T *d = R(T, w, i->op[0]);                                         \
        const S *a = R(S, w, i->op[1]), *b = R(S, w, i->op[2]);           \
        LANES(m, d[l] = (T)(E));                                          \
    }
/* The second operand always has 32 bits. */
#define SHIFT(name, T, S, E)                                              \
    static void name(struct warp *w, const struct ptx_ins *i, uint32_t m) \
    {                                                                     \
        T *d = R(T, w, i->op[0]);                                         \
        const S *a = R(S, w, i->op[1]);                                   \
        const u32v *b = R(u32v, w, i->op[2]);                             \
        LANES(m, d[l] = (T)(E));                                          \
    }
#define TRI(name, T, S, E)                                                \
    static void name(struct warp *w, const struct ptx_ins *i, uint32_t m) \
    {                                                                     \
        T *d = R(T, w, i->op[0]);                                         \
        const S *a = R(S, w, i->op[1]), *b = R(S, w, i->op[2]);           \
        const T *c = R(T, w, i->op[3]);                                   \
        LANES(m, d[l] = (T)(E));                                          \
    }

/* One function a type; [0] u16 [1] s16 [2] u32 [3] s32 [4] u64 [5] s64. */
static void pick(struct dec *d, enum ptx_type t, vm_run *const f[6])
{
    int at = parse_type_bytes(t) == 2 ? 0 : parse_type_bytes(t) == 4 ? 2 : 4;
    if (parse_type_bytes(t) < 2 || dec_is_float(t))
        dec_fail(d, "not for this type");
    else
        d->i->run = f[at + dec_is_signed(t)];
}

#define S16(x) ((int32_t)(int16_t)(x))
#define U16(x) ((uint16_t)(x))

BIN(add16, u32v, u32v, U16(a[l] + b[l]))
BIN(add32, u32v, u32v, a[l] + b[l])
BIN(add64, u64v, u64v, a[l] + b[l])
BIN(sub16, u32v, u32v, U16(a[l] - b[l]))
BIN(sub32, u32v, u32v, a[l] - b[l])
BIN(sub64, u64v, u64v, a[l] - b[l])

static int32_t clamp32(int64_t v)
{
    return v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : (int32_t)v;
}
BIN(add_sat, s32v, s32v, clamp32((int64_t)a[l] + b[l]))
BIN(sub_sat, s32v, s32v, clamp32((int64_t)a[l] - b[l]))

BIN(mul16, u32v, u32v, U16(a[l] * b[l]))
BIN(mul32, u32v, u32v, a[l] * b[l])
BIN(mul64, u64v, u64v, a[l] * b[l])
BIN(mulhi_u16, u32v, u32v, (a[l] * b[l]) >> 16)
BIN(mulhi_s16, u32v, u32v, U16((S16(a[l]) * S16(b[l])) >> 16))
BIN(mulhi_u32, u32v, u32v, ((uint64_t)a[l] * b[l]) >> 32)
BIN(mulhi_s32, s32v, s32v, ((int64_t)a[l] * b[l]) >> 32)
BIN(mulhi_u64, u64v, u64v, ((unsigned __int128)a[l] * b[l]) >> 64)
BIN(mulhi_s64, s64v, s64v, ((__int128)a[l] * b[l]) >> 64)
BIN(mulwide_u16, u32v, u32v, a[l] * b[l])
BIN(mulwide_s16, u32v, u32v, S16(a[l]) * S16(b[l]))
BIN(mulwide_u32, u64v, u32v, (uint64_t)a[l] * b[l])
BIN(mulwide_s32, s64v, s32v, (int64_t)a[l] * b[l])

TRI(mad16, u32v, u32v, U16(a[l] * b[l] + c[l]))
TRI(mad32, u32v, u32v, a[l] * b[l] + c[l])
TRI(mad64, u64v, u64v, a[l] * b[l] + c[l])
TRI(madhi_u32, u32v, u32v, (uint32_t)(((uint64_t)a[l] * b[l]) >> 32) + c[l])
TRI(madhi_s32, u32v, s32v, (uint32_t)(((int64_t)a[l] * b[l]) >> 32) + c[l])
TRI(madhi_u64, u64v, u64v, (uint64_t)(((unsigned __int128)a[l] * b[l]) >> 64) + c[l])
TRI(madhi_s64, u64v, s64v, (uint64_t)(((__int128)a[l] * b[l]) >> 64) + c[l])
TRI(madwide_u16, u32v, u32v, a[l] * b[l] + c[l])
TRI(madwide_s16, u32v, u32v, (uint32_t)(S16(a[l]) * S16(b[l])) + c[l])
TRI(madwide_u32, u64v, u32v, (uint64_t)a[l] * b[l] + c[l])
TRI(madwide_s32, u64v, s32v, (uint64_t)((int64_t)a[l] * b[l]) + c[l])

/* By zero: all ones, as the hardware's unsigned division gives.  The quotient that overflows wraps. */
BIN(div_u16, u32v, u32v, b[l] ? a[l] / b[l] : 0xffffu)
BIN(div_s16, u32v, u32v, b[l] ? U16(S16(a[l]) / S16(b[l])) : 0xffffu)
BIN(div_u32, u32v, u32v, b[l] ? a[l] / b[l] : UINT32_MAX)
BIN(div_s32, s32v, s32v, b[l] ? (int64_t)a[l] / b[l] : -1)
BIN(div_u64, u64v, u64v, b[l] ? a[l] / b[l] : UINT64_MAX)
BIN(div_s64, s64v, s64v, b[l] == 0 ? -1 : b[l] == -1 ? (int64_t)(0 - (uint64_t)a[l]) : a[l] / b[l])
BIN(rem_u16, u32v, u32v, b[l] ? a[l] % b[l] : a[l])
BIN(rem_s16, u32v, u32v, b[l] ? U16(S16(a[l]) % S16(b[l])) : a[l])
BIN(rem_u32, u32v, u32v, b[l] ? a[l] % b[l] : a[l])
BIN(rem_s32, s32v, s32v, b[l] ? (int64_t)a[l] % b[l] : a[l])
BIN(rem_u64, u64v, u64v, b[l] ? a[l] % b[l] : a[l])
BIN(rem_s64, s64v, s64v, b[l] == 0 ? a[l] : b[l] == -1 ? 0 : a[l] % b[l])

BIN(min_u, u32v, u32v, a[l] < b[l] ? a[l] : b[l])
BIN(min_s16, u32v, u32v, S16(a[l]) < S16(b[l]) ? a[l] : b[l])
BIN(min_s32, s32v, s32v, a[l] < b[l] ? a[l] : b[l])
BIN(min_u64, u64v, u64v, a[l] < b[l] ? a[l] : b[l])
BIN(min_s64, s64v, s64v, a[l] < b[l] ? a[l] : b[l])
BIN(max_u, u32v, u32v, a[l] > b[l] ? a[l] : b[l])
BIN(max_s16, u32v, u32v, S16(a[l]) > S16(b[l]) ? a[l] : b[l])
BIN(max_s32, s32v, s32v, a[l] > b[l] ? a[l] : b[l])
BIN(max_u64, u64v, u64v, a[l] > b[l] ? a[l] : b[l])
BIN(max_s64, s64v, s64v, a[l] > b[l] ? a[l] : b[l])

UN(abs_s16, u32v, u32v, S16(a[l]) < 0 ? U16(0 - a[l]) : a[l])
UN(abs_s32, u32v, u32v, (int32_t)a[l] < 0 ? 0 - a[l] : a[l])
UN(abs_s64, u64v, u64v, (int64_t)a[l] < 0 ? 0 - a[l] : a[l])
UN(neg16, u32v, u32v, U16(0 - a[l]))
UN(neg32, u32v, u32v, 0 - a[l])
UN(neg64, u64v, u64v, 0 - a[l])

SHIFT(shl16, u32v, u32v, b[l] < 16 ? U16(a[l] << b[l]) : 0)
SHIFT(shl32, u32v, u32v, b[l] < 32 ? a[l] << b[l] : 0)
SHIFT(shl64, u64v, u64v, b[l] < 64 ? a[l] << b[l] : 0)
SHIFT(shr_u16, u32v, u32v, b[l] < 16 ? a[l] >> b[l] : 0)
SHIFT(shr_s16, u32v, u32v, U16(S16(a[l]) >> (b[l] < 16 ? b[l] : 15)))
SHIFT(shr_u32, u32v, u32v, b[l] < 32 ? a[l] >> b[l] : 0)
SHIFT(shr_s32, s32v, s32v, a[l] >> (b[l] < 32 ? b[l] : 31))
SHIFT(shr_u64, u64v, u64v, b[l] < 64 ? a[l] >> b[l] : 0)
SHIFT(shr_s64, s64v, s64v, a[l] >> (b[l] < 64 ? b[l] : 63))

UN(popc32, u32v, u32v, __builtin_popcount(a[l]))
UN(popc64, u32v, u64v, __builtin_popcountll(a[l]))
UN(clz32, u32v, u32v, a[l] ? __builtin_clz(a[l]) : 32)
UN(clz64, u32v, u64v, a[l] ? __builtin_clzll(a[l]) : 64)

static uint64_t reverse(uint64_t v, int n)
{
    uint64_t r = 0;
    for (int b = 0; b < n; b++)
        r |= (v >> b & 1) << (n - 1 - b);
    return r;
}
UN(brev32, u32v, u32v, reverse(a[l], 32))
UN(brev64, u64v, u64v, reverse(a[l], 64))

/* The highest bit that differs from the sign; with .shiftamt the shift that brings it to the top. */
static uint32_t find_bit(uint64_t v, bool is_signed, int n, bool shift)
{
    uint64_t all = n == 64 ? UINT64_MAX : UINT32_MAX;
    if (is_signed && (v >> (n - 1) & 1))
        v = ~v & all;
    if (v == 0)
        return UINT32_MAX;
    int at = 63 - __builtin_clzll(v);
    return (uint32_t)(shift ? n - 1 - at : at);
}
UN(bfind_u32, u32v, u32v, find_bit(a[l], false, 32, i->sub))
UN(bfind_s32, u32v, u32v, find_bit(a[l], true, 32, i->sub))
UN(bfind_u64, u32v, u64v, find_bit(a[l], false, 64, i->sub))
UN(bfind_s64, u32v, u64v, find_bit(a[l], true, 64, i->sub))

static uint64_t bit_field(uint64_t a, uint32_t pos, uint32_t len, int n, bool is_signed)
{
    pos &= 0xff;
    len &= 0xff;
    int top = pos + len - 1 < (uint32_t)n - 1 ? (int)(pos + len) - 1 : n - 1;
    bool sign = is_signed && len > 0 && (a >> top & 1);
    uint64_t v = pos >= (uint32_t)n ? 0 : a >> pos;
    uint64_t mask = len >= 64 ? UINT64_MAX : (1ull << len) - 1;
    if (pos < (uint32_t)n && (uint32_t)n - pos < 64 && len > (uint32_t)n - pos)
        mask = (1ull << (n - (int)pos)) - 1;
    if (pos >= (uint32_t)n)
        mask = 0;
    return sign ? v | ~mask : v & mask;
}

#define FIELD(name, T, n, is_signed)                                      \
    static void name(struct warp *w, const struct ptx_ins *i, uint32_t m) \
    {                                                                     \
        T *d = R(T, w, i->op[0]);                                         \
        const T *a = R(T, w, i->op[1]);                                   \
        const u32v *b = R(u32v, w, i->op[2]), *c = R(u32v, w, i->op[3]);  \
        LANES(m, d[l] = (T)bit_field(a[l], b[l], c[l], n, is_signed));    \
    }
FIELD(bfe_u32, u32v, 32, false)
FIELD(bfe_s32, u32v, 32, true)
FIELD(bfe_u64, u64v, 64, false)
FIELD(bfe_s64, u64v, 64, true)

static uint64_t insert(uint64_t a, uint64_t b, uint32_t pos, uint32_t len, uint32_t n)
{
    pos &= 0xff;
    len &= 0xff;
    if (pos >= n || len == 0)
        return b;
    uint64_t mask = (len >= 64 ? UINT64_MAX : (1ull << len) - 1) << pos;
    return (b & ~mask) | (a << pos & mask);
}

#define INSERT(name, T, n)                                                \
    static void name(struct warp *w, const struct ptx_ins *i, uint32_t m) \
    {                                                                     \
        T *d = R(T, w, i->op[0]);                                         \
        const T *a = R(T, w, i->op[1]), *b = R(T, w, i->op[2]);           \
        const u32v *c = R(u32v, w, i->op[3]), *e = R(u32v, w, i->op[4]);  \
        LANES(m, d[l] = (T)insert(a[l], b[l], c[l], e[l], n));            \
    }
INSERT(bfi32, u32v, 32)
INSERT(bfi64, u64v, 64)

/* Four (two) products of bytes; type is a's, type2 is b's sign. */
static uint32_t dot(uint32_t a, uint32_t b, uint32_t c, bool sa, bool sb)
{
    for (int n = 0; n < 4; n++) {
        uint8_t x = (uint8_t)(a >> 8 * n), y = (uint8_t)(b >> 8 * n);
        c += (uint32_t)((sa ? (int8_t)x : x) * (sb ? (int8_t)y : y));
    }
    return c;
}
static uint32_t dot2(uint32_t a, uint32_t b, uint32_t c, bool sa, bool sb)
{
    for (int n = 0; n < 2; n++) {
        uint16_t x = (uint16_t)(a >> 16 * n);
        uint8_t y = (uint8_t)(b >> 8 * n);
        c += (uint32_t)(sa ? (int16_t)x : x) * (uint32_t)(sb ? (int8_t)y : y);
    }
    return c;
}
TRI(run_dp4a, u32v, u32v, dot(a[l], b[l], c[l], i->type, i->type2))
TRI(run_dp2a, u32v, u32v, dot2(a[l], b[l] >> i->sub, c[l], i->type, i->type2))

static uint32_t logic3(uint32_t a, uint32_t b, uint32_t c, uint32_t lut)
{
    uint32_t r = 0;
    for (uint32_t n = 0; n < 8; n++)
        r |= (lut >> n & 1 ? UINT32_MAX : 0) & (n & 4 ? a : ~a) & (n & 2 ? b : ~b) &
             (n & 1 ? c : ~c);
    return r;
}
TRI(run_lop3, u32v, u32v, logic3(a[l], b[l], c[l], (uint32_t)i->imm))

static uint32_t permute(uint32_t a, uint32_t b, uint32_t c, int mode)
{
    uint64_t both = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (uint32_t n = 0; n < 4; n++) {
        uint32_t s = c >> 4 * n & 15, k = c & 3, at = s & 7;
        switch (mode) {
        case 1:
            at = k + n;
            break; /* f4e */
        case 2:
            at = (k - n) & 7;
            break; /* b4e */
        case 3:
            at = k;
            break; /* rc8 */
        case 4:
            at = n > k ? n : k;
            break; /* ecl */
        case 5:
            at = n < k ? n : k;
            break; /* ecr */
        case 6:
            at = (n & 1) + 2 * (k & 1);
            break; /* rc16 */
        default:
            break;
        }
        uint32_t byte = (uint32_t)(both >> 8 * at) & 0xff;
        if (mode == 0 && (s & 8))
            byte = byte & 0x80 ? 0xff : 0;
        r |= byte << 8 * n;
    }
    return r;
}
TRI(run_prmt, u32v, u32v, permute(a[l], b[l], c[l], i->sub))

static uint32_t funnel(uint32_t lo, uint32_t hi, uint32_t n, bool left, bool clamp)
{
    n = clamp ? (n > 32 ? 32 : n) : n & 31;
    uint64_t v = (uint64_t)hi << 32 | lo;
    return left ? (uint32_t)(v >> (32 - n)) : (uint32_t)(v >> n);
}
TRI(run_shf, u32v, u32v, funnel(a[l], b[l], c[l], i->sub & 1, i->sub & 2))

BIN(run_sad, u32v, u32v, a[l] > b[l] ? a[l] - b[l] : b[l] - a[l])

/* With carries; sub: 1 reads the carry, 2 writes it, 4 subtracts, 8 high half of a product first. */
static void run_carry(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    bool wide = i->wide, sub = i->sub & 4;
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        uint64_t a = wide ? R(u64v, w, i->op[1])[l] : R(u32v, w, i->op[1])[l];
        uint64_t b = wide ? R(u64v, w, i->op[2])[l] : R(u32v, w, i->op[2])[l];
        uint64_t c = i->sub & 1 ? w->carry >> l & 1 : 0;
        if (i->n == 4) { /* mad: the product takes a's place */
            unsigned __int128 p = (unsigned __int128)a * b;
            a = (uint64_t)(i->sub & 8 ? p >> (wide ? 64 : 32) : p);
            a = wide ? a : (uint32_t)a;
            b = wide ? R(u64v, w, i->op[3])[l] : R(u32v, w, i->op[3])[l];
        }
        unsigned __int128 r = sub ? (unsigned __int128)a - b - c : (unsigned __int128)a + b + c;
        if (i->sub & 2)
            w->carry = (w->carry & ~(1u << l)) | (uint32_t)((r >> (wide ? 64 : 32) & 1) << l);
        if (wide)
            R(u64v, w, i->op[0])[l] = (uint64_t)r;
        else
            R(u32v, w, i->op[0])[l] = (uint32_t)r;
    }
}

/* ---- Decoders; add, sub, mul ... for floats are fpu.c's, which comes here for integers ---- */

static void sources(struct dec *d, enum ptx_type t, int n)
{
    dec_args(d, n + 1, n + 1);
    d->i->op[0] = dec_dst(d, 0, t);
    for (int k = 1; k <= n; k++)
        d->i->op[k] = dec_src(d, k, t);
}

static void carries(struct dec *d, enum ptx_type t, int n, int how)
{
    sources(d, t, n);
    d->i->wide = dec_is_wide(t);
    d->i->sub = (uint8_t)how;
    d->i->n = (uint8_t)(n + 1);
    if (parse_type_bytes(t) < 4 || dec_is_float(t))
        dec_fail(d, "carries are for 32 and 64 bits");
    d->i->run = run_carry;
}

static void add_sub(struct dec *d, enum ptx_type t, bool sub)
{
    static vm_run *const adds[] = {add16, add16, add32, add32, add64, add64};
    static vm_run *const subs[] = {sub16, sub16, sub32, sub32, sub64, sub64};
    if (dec_has(d, "cc")) {
        carries(d, t, 2, sub ? 4 | 2 : 2);
        return;
    }
    bool sat = dec_has(d, "sat");
    sources(d, t, 2);
    pick(d, t, sub ? subs : adds);
    if (sat && t == T_S32)
        d->i->run = sub ? sub_sat : add_sat;
    else if (sat)
        dec_fail(d, ".sat is for s32");
}

void alu_binary(struct dec *d, enum ptx_type t)
{
    static const struct {
        const char *name;
        vm_run *f[6];
    } ops[] = {
        {"div", {div_u16, div_s16, div_u32, div_s32, div_u64, div_s64}},
        {"rem", {rem_u16, rem_s16, rem_u32, rem_s32, rem_u64, rem_s64}},
        {"min", {min_u, min_s16, min_u, min_s32, min_u64, min_s64}},
        {"max", {max_u, max_s16, max_u, max_s32, max_u64, max_s64}},
        {"abs", {NULL, abs_s16, NULL, abs_s32, NULL, abs_s64}},
        {"neg", {NULL, neg16, NULL, neg32, NULL, neg64}},
    };
    const char *name = d->word[0];
    if (strcmp(name, "add") == 0 || strcmp(name, "sub") == 0) {
        add_sub(d, t, *name == 's');
        return;
    }
    for (size_t n = 0; n < sizeof ops / sizeof ops[0]; n++)
        if (strcmp(name, ops[n].name) == 0) {
            sources(d, t, n < 4 ? 2 : 1);
            pick(d, t, ops[n].f);
            return;
        }
    dec_fail(d, "not for integers");
}

static enum ptx_type double_width(enum ptx_type t)
{
    return t == T_U16   ? T_U32
           : t == T_S16 ? T_S32
           : t == T_U32 ? T_U64
           : t == T_S32 ? T_S64
                        : T_NONE;
}

void alu_multiply(struct dec *d, enum ptx_type t)
{
    static vm_run *const mul_lo[] = {mul16, mul16, mul32, mul32, mul64, mul64};
    static vm_run *const mul_hi[] = {mulhi_u16, mulhi_s16, mulhi_u32,
                                     mulhi_s32, mulhi_u64, mulhi_s64};
    static vm_run *const mul_wide[] = {mulwide_u16, mulwide_s16, mulwide_u32,
                                       mulwide_s32, NULL,        NULL};
    static vm_run *const mad_lo[] = {mad16, mad16, mad32, mad32, mad64, mad64};
    static vm_run *const mad_hi[] = {NULL, NULL, madhi_u32, madhi_s32, madhi_u64, madhi_s64};
    static vm_run *const mad_wide[] = {madwide_u16, madwide_s16, madwide_u32,
                                       madwide_s32, NULL,        NULL};
    static const char *const halves[] = {"lo", "hi", "wide", NULL};
    bool mad = d->word[0][1] == 'a', cc = dec_has(d, "cc"), reads = strcmp(d->word[0], "madc") == 0;
    int half = dec_one_of(d, halves), n = mad ? 3 : 2;
    if (half < 0)
        dec_fail(d, "lo, hi or wide?");
    if (cc || reads) {
        carries(d, t, 3, (half == 1 ? 8 : 0) | (cc ? 2 : 0) | (reads ? 1 : 0));
        if (half == 2 || !mad || dec_is_signed(t))
            dec_fail(d, "not with carries");
        return;
    }
    if (half == 2 && double_width(t) == T_NONE) {
        dec_fail(d, "no type is twice as wide");
        return;
    }
    enum ptx_type out = half == 2 ? double_width(t) : t;
    dec_args(d, n + 1, n + 1);
    d->i->op[0] = dec_dst(d, 0, out);
    d->i->op[1] = dec_src(d, 1, t);
    d->i->op[2] = dec_src(d, 2, t);
    if (mad)
        d->i->op[3] = dec_src(d, 3, out);
    vm_run *const *f = half == 0   ? (mad ? mad_lo : mul_lo)
                       : half == 1 ? (mad ? mad_hi : mul_hi)
                                   : (mad ? mad_wide : mul_wide);
    pick(d, t, f);
}

static void madc(struct dec *d)
{
    alu_multiply(d, dec_type(d));
}

static void addc(struct dec *d)
{
    carries(d, dec_type(d), 2, 1 | (d->word[0][0] == 's' ? 4 : 0) | (dec_has(d, "cc") ? 2 : 0));
}

static void shift(struct dec *d)
{
    static vm_run *const left[] = {shl16, shl16, shl32, shl32, shl64, shl64};
    static vm_run *const right[] = {shr_u16, shr_s16, shr_u32, shr_s32, shr_u64, shr_s64};
    enum ptx_type t = dec_type(d);
    dec_args(d, 3, 3);
    d->i->op[0] = dec_dst(d, 0, t);
    d->i->op[1] = dec_src(d, 1, t);
    d->i->op[2] = dec_src(d, 2, T_U32);
    pick(d, t, d->word[0][2] == 'l' ? left : right);
}

static void count(struct dec *d)
{
    bool popc = d->word[0][0] == 'p', shift_amount = dec_has(d, "shiftamt");
    enum ptx_type t = dec_type(d);
    dec_args(d, 2, 2);
    d->i->op[0] = dec_dst(d, 0, T_U32);
    d->i->op[1] = dec_src(d, 1, t);
    d->i->sub = shift_amount;
    if (parse_type_bytes(t) < 4)
        dec_fail(d, "not for this type");
    else if (strcmp(d->word[0], "bfind") == 0 && dec_is_wide(t))
        d->i->run = dec_is_signed(t) ? bfind_s64 : bfind_u64;
    else if (strcmp(d->word[0], "bfind") == 0)
        d->i->run = dec_is_signed(t) ? bfind_s32 : bfind_u32;
    else if (dec_is_wide(t))
        d->i->run = popc ? popc64 : clz64;
    else
        d->i->run = popc ? popc32 : clz32;
}

static void brev(struct dec *d)
{
    enum ptx_type t = dec_type(d);
    sources(d, t, 1);
    d->i->run = dec_is_wide(t) ? brev64 : parse_type_bytes(t) == 4 ? brev32 : NULL;
}

static void bfe(struct dec *d)
{
    static vm_run *const f[] = {NULL, NULL, bfe_u32, bfe_s32, bfe_u64, bfe_s64};
    enum ptx_type t = dec_type(d);
    dec_args(d, 4, 4);
    d->i->op[0] = dec_dst(d, 0, t);
    d->i->op[1] = dec_src(d, 1, t);
    d->i->op[2] = dec_src(d, 2, T_U32);
    d->i->op[3] = dec_src(d, 3, T_U32);
    pick(d, t, f);
}

static void bfi(struct dec *d)
{
    enum ptx_type t = dec_type(d);
    dec_args(d, 5, 5);
    d->i->op[0] = dec_dst(d, 0, t);
    d->i->op[1] = dec_src(d, 1, t);
    d->i->op[2] = dec_src(d, 2, t);
    d->i->op[3] = dec_src(d, 3, T_U32);
    d->i->op[4] = dec_src(d, 4, T_U32);
    d->i->run = dec_is_wide(t) ? bfi64 : bfi32;
}

static void dp(struct dec *d)
{
    static const char *const halves[] = {"lo", "hi", NULL};
    bool four = d->word[0][2] == '4';
    d->i->sub = !four && dec_one_of(d, halves) == 1 ? 16 : 0;
    enum ptx_type a = dec_type(d), b = dec_type(d);
    sources(d, T_B32, 3);
    d->i->type = dec_is_signed(a);
    d->i->type2 = dec_is_signed(b);
    d->i->run = four ? run_dp4a : run_dp2a;
}

static void lop3(struct dec *d)
{
    enum ptx_type t = dec_type(d);
    dec_args(d, 5, 5);
    d->i->op[0] = dec_dst(d, 0, t);
    for (int k = 1; k < 4; k++)
        d->i->op[k] = dec_src(d, k, t);
    if (d->rc == 0 && d->s->args[4].kind != OPD_INT)
        dec_fail(d, "its table is no number");
    d->i->imm = d->rc == 0 ? (int64_t)(d->s->args[4].bits & 0xff) : 0;
    d->i->run = run_lop3;
}

static void prmt(struct dec *d)
{
    static const char *const modes[] = {"f4e", "b4e", "rc8", "ecl", "ecr", "rc16", NULL};
    int mode = dec_one_of(d, modes);
    sources(d, dec_type(d), 3);
    d->i->sub = (uint8_t)(mode + 1);
    d->i->run = run_prmt;
}

static void shf(struct dec *d)
{
    bool left = dec_has(d, "l"), right = dec_has(d, "r"), clamp = dec_has(d, "clamp");
    if (left == right || (!clamp && !dec_has(d, "wrap")))
        dec_fail(d, "which way?");
    sources(d, dec_type(d), 3);
    d->i->sub = (uint8_t)(left | clamp << 1);
    d->i->run = run_shf;
}

static void sad(struct dec *d)
{
    enum ptx_type t = dec_type(d);
    sources(d, t, 2);
    d->i->run = t == T_U32 ? run_sad : NULL;
}

const struct dec_op alu_ops[] = {
    {"addc", addc},  {"subc", addc}, {"madc", madc},   {"shl", shift}, {"shr", shift},
    {"popc", count}, {"clz", count}, {"bfind", count}, {"brev", brev}, {"bfe", bfe},
    {"bfi", bfi},    {"dp4a", dp},   {"dp2a", dp},     {"lop3", lop3}, {"prmt", prmt},
    {"shf", shf},    {"sad", sad},   {NULL, NULL},
};
