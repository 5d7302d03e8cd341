/* Floating-point arithmetic.  The usual forms (.rn, no .ftz, no .sat) are loops over lanes; all others go
 * lane by lane through wider numbers that are rounded once.  Approximate functions are the C library's:
 * more exact than the device's, within the error PTX allows. */
#include <math.h>
#include <string.h>

#include "kernels/quant.h"
#include "tests/ptxvm/decode.h"
#include "tests/ptxvm/num.h"

enum {
    ADD,
    SUB,
    MUL,
    FMA,
    DIV,
    MIN,
    MAX,
    ABS,
    NEG,
    RCP,
    SQRT,
    RSQRT,
    EX2,
    LG2,
    SIN,
    COS,
    TANH,
    N_OPS
};
static const char *const op_names[N_OPS + 1] = {"add", "sub", "mul", "fma", "div",  "min",
                                                "max", "abs", "neg", "rcp", "sqrt", "rsqrt",
                                                "ex2", "lg2", "sin", "cos", "tanh", NULL};
static const int op_args[N_OPS] = {2, 2, 2, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* ---- f32 and f64, the usual forms ---- */

#define F2(name, T, E)                                                                  \
    static void name(struct warp *w, const struct ptx_ins *i, uint32_t m)               \
    {                                                                                   \
        T *d = R(T, w, i->op[0]);                                                       \
        const T *a = R(T, w, i->op[1]), *b = R(T, w, i->op[2]), *c = R(T, w, i->op[3]); \
        (void)b;                                                                        \
        (void)c;                                                                        \
        LANES(m, d[l] = E);                                                             \
    }

F2(add_f32, f32v, a[l] + b[l])
F2(sub_f32, f32v, a[l] - b[l])
F2(mul_f32, f32v, a[l] * b[l])
F2(fma_f32, f32v, fmaf(a[l], b[l], c[l]))
F2(div_f32, f32v, a[l] / b[l])
F2(rcp_f32, f32v, 1.0f / a[l])
F2(sqrt_f32, f32v, sqrtf(a[l]))
F2(add_f64, f64v, a[l] + b[l])
F2(sub_f64, f64v, a[l] - b[l])
F2(mul_f64, f64v, a[l] * b[l])
F2(fma_f64, f64v, fma(a[l], b[l], c[l]))
F2(div_f64, f64v, a[l] / b[l])
F2(min_f64, f64v, fmin(a[l], b[l]))
F2(max_f64, f64v, fmax(a[l], b[l]))
F2(rcp_f64, f64v, 1.0 / a[l])
F2(sqrt_f64, f64v, sqrt(a[l]))
F2(rsqrt_f64, f64v, 1.0 / sqrt(a[l]))
F2(abs_f32, u32v, a[l] & 0x7fffffffu)
F2(neg_f32, u32v, a[l] ^ 0x80000000u)
F2(abs_f64, u64v, a[l] & ~(1ull << 63))
F2(neg_f64, u64v, a[l] ^ 1ull << 63)

static vm_run *const usual[N_OPS][2] = {
    [ADD] = {add_f32, add_f64}, [SUB] = {sub_f32, sub_f64},    [MUL] = {mul_f32, mul_f64},
    [FMA] = {fma_f32, fma_f64}, [DIV] = {div_f32, div_f64},    [MIN] = {NULL, min_f64},
    [MAX] = {NULL, max_f64},    [ABS] = {abs_f32, abs_f64},    [NEG] = {neg_f32, neg_f64},
    [RCP] = {rcp_f32, rcp_f64}, [SQRT] = {sqrt_f32, sqrt_f64}, [RSQRT] = {NULL, rsqrt_f64},
};

/* ---- f32, every form ---- */

/* -0 is below +0; a NaN loses unless nan_wins. */
static float least(float a, float b, bool nan_wins)
{
    if (a != a || b != b)
        return nan_wins || (a != a && b != b) ? num_bits_f32(0x7fffffff) : a != a ? b : a;
    if (a == b)
        return num_bits_f32(num_f32_bits(a) | num_f32_bits(b));
    return a < b ? a : b;
}

static float most(float a, float b, bool nan_wins)
{
    if (a != a || b != b)
        return least(a, b, nan_wins);
    if (a == b)
        return num_bits_f32(num_f32_bits(a) & num_f32_bits(b));
    return a > b ? a : b;
}

/* sin and cos of the device are for small angles; the library's are right everywhere. */
static float unary(int op, float a)
{
    switch (op) {
    case RSQRT:
        return 1.0f / sqrtf(a);
    case EX2:
        return exp2f(a);
    case LG2:
        return log2f(a);
    case SIN:
        return sinf(a);
    case COS:
        return cosf(a);
    default:
        return tanhf(a);
    }
}

static float any_f32(const struct ptx_ins *i, float a, float b, float c)
{
    if (i->ftz) {
        a = num_flush(a);
        b = num_flush(b);
        c = num_flush(c);
    }
    enum vm_round mode = i->round;
    float r;
    switch (i->sub) {
    case ADD:
        r = num_to_f32(num_fma_odd(a, 1, b), mode);
        break;
    case SUB:
        r = num_to_f32(num_fma_odd(b, -1, a), mode);
        break;
    case MUL:
        r = num_to_f32((double)a * b, mode);
        break;
    case FMA:
        r = num_to_f32(num_fma_odd(a, b, c), mode);
        break;
    case DIV:
        r = num_to_f32((long double)a / b, mode);
        break;
    case RCP:
        r = num_to_f32(1.0L / a, mode);
        break;
    case SQRT:
        r = num_to_f32(sqrtl(a), mode);
        break;
    case MIN:
        r = least(a, b, i->relu);
        break;
    case MAX:
        r = most(a, b, i->relu);
        break;
    case ABS:
        r = fabsf(a);
        break;
    case NEG:
        r = -a;
        break;
    default:
        r = unary(i->sub, a);
        break;
    }
    if (i->sat)
        r = r > 0 ? (r < 1 ? r : 1) : 0; /* NaN becomes 0 */
    return i->ftz ? num_flush(r) : r;
}

static void run_f32(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    f32v *d = R(f32v, w, i->op[0]);
    const f32v *a = R(f32v, w, i->op[1]), *b = R(f32v, w, i->op[2]), *c = R(f32v, w, i->op[3]);
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        d[l] = any_f32(i, a[l], b[l], c[l]);
    }
}

/* ---- 16 bits, one or two of them ---- */

/* To odd at 24 bits: rounding to 11 or 8 afterwards is rounding once. */
static float odd_f32(double v)
{
    float f = (float)v;
    if ((double)f == v || v != v || isinf(f))
        return f;
    uint32_t b = num_f32_bits(f);
    if ((b & 1) == 0)
        b = fabs((double)f) < fabs(v) ? b + 1 : b - 1;
    return num_bits_f32(b);
}

static uint16_t half_of(float f, bool bf16)
{
    return f != f ? 0x7fff : bf16 ? f32_to_bf16(f) : f32_to_f16(f);
}

static uint32_t any_half(const struct ptx_ins *i, uint32_t ha, uint32_t hb, uint32_t hc, bool bf16)
{
    if (i->sub == ABS)
        return ha & 0x7fff;
    if (i->sub == NEG)
        return ha ^ 0x8000;
    float a = bf16 ? num_bf16(ha) : num_f16(ha), b = bf16 ? num_bf16(hb) : num_f16(hb);
    float c = bf16 ? num_bf16(hc) : num_f16(hc), r;
    switch (i->sub) {
    case ADD:
        r = odd_f32((double)a + b);
        break;
    case SUB:
        r = odd_f32((double)a - b);
        break;
    case MUL:
        r = odd_f32((double)a * b);
        break;
    case FMA:
        r = odd_f32(num_fma_odd(a, b, c));
        break;
    case MIN:
        r = least(a, b, i->size);
        break;
    case MAX:
        r = most(a, b, i->size);
        break;
    case EX2:
        r = exp2f(a);
        break;
    default:
        r = tanhf(a);
        break;
    }
    if (i->sat)
        r = r > 0 ? (r < 1 ? r : 1) : 0;
    if (i->relu && !(r > 0))
        r = 0;
    uint32_t h = half_of(r, bf16);
    if (i->ftz && (h & 0x7c00) == 0)
        h &= 0x8000;
    return h;
}

static void run_half(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    bool two = i->n == 2, bf16 = i->type == T_BF16 || i->type == T_BF16X2;
    u32v *d = R(u32v, w, i->op[0]);
    const u32v *a = R(u32v, w, i->op[1]), *b = R(u32v, w, i->op[2]), *c = R(u32v, w, i->op[3]);
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        uint32_t lo = any_half(i, a[l] & 0xffff, b[l] & 0xffff, c[l] & 0xffff, bf16);
        d[l] = two ? lo | any_half(i, a[l] >> 16, b[l] >> 16, c[l] >> 16, bf16) << 16 : lo;
    }
}

/* ---- Decoding ---- */

static bool is_half(enum ptx_type t)
{
    return t == T_F16 || t == T_BF16 || t == T_F16X2 || t == T_BF16X2;
}

static void floats(struct dec *d, int op, enum ptx_type t)
{
    struct ptx_ins *i = d->i;
    bool full = dec_has(d, "full"), approx = dec_has(d, "approx") || full;
    bool nan_wins = dec_has(d, "NaN"), xorsign = dec_has(d, "xorsign");
    dec_rounding(d);
    bool relu = dec_has(d, "relu"), half = is_half(t);
    int n = op_args[op];
    dec_args(d, n + 1, n + 1);
    i->op[0] = dec_dst(d, 0, t);
    for (int k = 1; k <= n; k++)
        i->op[k] = dec_src(d, k, t);
    for (int k = n + 1; k < 4; k++)
        i->op[k] = i->op[1]; /* read, but of no influence */
    i->sub = (uint8_t)op;
    i->type = (uint8_t)t;
    i->n = t == T_F16X2 || t == T_BF16X2 ? 2 : 1;
    if (xorsign || (relu && !half))
        dec_fail(d, "not supported");
    if (half) {
        i->relu = relu;
        i->size = nan_wins; /* there is no memory in it */
        bool known = op == ADD || op == SUB || op == MUL || op == FMA || op == MIN || op == MAX ||
                     op == ABS || op == NEG || op == EX2 || op == TANH;
        if (i->round != RND_N || !known)
            dec_fail(d, "not for 16 bits");
        i->run = run_half;
        return;
    }
    i->relu = nan_wins;
    bool plain = i->round == RND_N && !i->ftz && !i->sat && !nan_wins;
    if (t == T_F64) {
        if (!plain || approx != (op == RSQRT))
            dec_fail(d, "only .rn for f64");
        i->run = usual[op][1];
    } else if (t == T_F32) {
        i->run = plain && usual[op][0] ? usual[op][0] : run_f32;
        if (approx && op <= NEG && op != DIV)
            dec_fail(d, "there is no approximation of it");
    }
}

static int op_of(const char *name)
{
    for (int n = 0; n < N_OPS; n++)
        if (strcmp(op_names[n], name) == 0)
            return n;
    return strcmp(name, "mad") == 0 ? FMA : -1; /* mad.rn.f32 rounds once */
}

static void arithmetic(struct dec *d)
{
    enum ptx_type t = dec_type(d);
    int op = op_of(d->word[0]);
    if (dec_is_float(t))
        floats(d, op, t);
    else if (op == MUL || op == FMA)
        alu_multiply(d, t);
    else
        alu_binary(d, t);
}

/* rem is for integers alone. */
static void remainder_op(struct dec *d)
{
    alu_binary(d, dec_type(d));
}

/* copysign.f32 d, a, b: the sign of a, the magnitude of b */
F2(copysign_f32, u32v, (a[l] & 0x80000000u) | (b[l] & 0x7fffffffu))
F2(copysign_f64, u64v, (a[l] & 1ull << 63) | (b[l] & ~(1ull << 63)))

static void copysign_op(struct dec *d)
{
    enum ptx_type t = dec_type(d);
    dec_args(d, 3, 3);
    for (int k = 0; k < 3; k++)
        d->i->op[k] = k ? dec_src(d, k, t) : dec_dst(d, k, t);
    d->i->op[3] = d->i->op[1];
    d->i->run = t == T_F32 ? copysign_f32 : t == T_F64 ? copysign_f64 : NULL;
}

static const char *const tests[] = {"finite", "infinite",  "number", "notanumber",
                                    "normal", "subnormal", NULL};

static void run_testp(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint32_t r = 0;
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        bool is64 = i->type == T_F64;
        double v = is64 ? R(f64v, w, i->op[1])[l] : R(f32v, w, i->op[1])[l];
        int class = is64 ? fpclassify(v) : fpclassify((float)v);
        bool yes = i->sub == 0   ? isfinite(v)
                   : i->sub == 1 ? class == FP_INFINITE
                   : i->sub == 2 ? v == v
                   : i->sub == 3 ? v != v
                   : i->sub == 4 ? class == FP_NORMAL
                                 : class == FP_SUBNORMAL;
        r |= (uint32_t)yes << l;
    }
    u32v *d = R(u32v, w, i->op[0]);
    *d = (*d & ~m) | r;
}

static void testp(struct dec *d)
{
    int which = dec_one_of(d, tests);
    enum ptx_type t = dec_type(d);
    dec_args(d, 2, 2);
    d->i->op[0] = dec_dst(d, 0, T_PRED);
    d->i->op[1] = dec_src(d, 1, t);
    d->i->sub = (uint8_t)which;
    d->i->type = (uint8_t)t;
    d->i->run = which >= 0 && (t == T_F32 || t == T_F64) ? run_testp : NULL;
}

const struct dec_op fpu_ops[] = {
    {"add", arithmetic},  {"sub", arithmetic},   {"mul", arithmetic},   {"mad", arithmetic},
    {"fma", arithmetic},  {"div", arithmetic},   {"rem", remainder_op}, {"min", arithmetic},
    {"max", arithmetic},  {"abs", arithmetic},   {"neg", arithmetic},   {"rcp", arithmetic},
    {"sqrt", arithmetic}, {"rsqrt", arithmetic}, {"ex2", arithmetic},   {"lg2", arithmetic},
    {"sin", arithmetic},  {"cos", arithmetic},   {"tanh", arithmetic},  {"copysign", copysign_op},
    {"testp", testp},     {NULL, NULL},
};
