/* Matrices of a warp: mma.sync, ldmatrix, stmatrix, movmatrix.
 *
 * In a fragment lane l is row g = l / 4, pair t = l % 4 (PTX ISA, "Matrix fragments for mma").  The products
 * are summed in ascending order of k, each sum rounded, and the sum is added to the accumulator, as the
 * emulation's twins do; a tensor core keeps more or fewer bits in between, which PTX leaves open. */
#include <string.h>

#include "kernels/quant.h"
#include "tests/ptxvm/decode.h"
#include "tests/ptxvm/num.h"

#define MAX_K 32

/* ---- mma ---- */

/* op[0..3] d, op[4..7] a, op[8..9] b, op[10..13] c; imm: k; type: of a and b; type2: of c and d. */
static float element(enum ptx_type t, uint32_t bits, int at)
{
    switch (t) {
    case T_F16:
        return num_f16(bits >> 16 * at);
    case T_BF16:
        return num_bf16(bits >> 16 * at & 0xffff);
    default:
        return num_bits_f32(bits & ~0x1fffu); /* tf32: what the unit ignores */
    }
}

static int32_t byte_of(enum ptx_type t, uint32_t bits, int at)
{
    uint8_t v = (uint8_t)(bits >> 8 * at);
    return t == T_S8 ? (int8_t)v : v;
}

/* Elements in a register of A or B. */
static int per_register(enum ptx_type t)
{
    return t == T_F16 || t == T_BF16 ? 2 : t == T_S8 || t == T_U8 ? 4 : 1;
}

/* Where element e of register r of a lane stands. */
static void place_a(int l, int per, int r, int e, int *row, int *k)
{
    *row = l / 4 + 8 * (r & 1);
    *k = (l % 4) * per + e + 4 * per * (r >> 1);
}

static void place_b(int l, int per, int r, int e, int *k, int *col)
{
    *k = (l % 4) * per + e + 4 * per * r;
    *col = l / 4;
}

static void mma_float(struct warp *w, const struct ptx_ins *i, float acc[16][8])
{
    float a[16][MAX_K] = {{0}}, b[MAX_K][8] = {{0}};
    enum ptx_type t = i->type;
    const int per = per_register(t), k = (int)i->imm, regs_b = k / per / 4;
    for (int l = 0; l < VM_LANES; l++)
        for (int e = 0, x, y; e < per; e++) {
            for (int r = 0; r < 2 * regs_b; r++) {
                place_a(l, per, r, e, &x, &y);
                a[x][y] = element(t, R(u32v, w, i->op[4 + r])[l], e);
            }
            for (int r = 0; r < regs_b; r++) {
                place_b(l, per, r, e, &x, &y);
                b[x][y] = element(t, R(u32v, w, i->op[8 + r])[l], e);
            }
        }
    for (int row = 0; row < 16; row++)
        for (int p = 0; p < k; p++)
            for (int col = 0; col < 8; col++)
                acc[row][col] += a[row][p] * b[p][col];
}

static void run_mma_float(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    float acc[16][8] = {{0}}, c[4][VM_LANES]; /* read first: d may be any of them */
    bool half = i->type2 == T_F16;
    (void)m;
    mma_float(w, i, acc);
    for (int r = 0; r < 4; r++)
        for (int l = 0; l < VM_LANES; l++)
            c[r][l] = half ? num_f16(R(u32v, w, i->op[10 + (r >> 1)])[l] >> 16 * (r & 1))
                           : R(f32v, w, i->op[10 + r])[l];
    for (int l = 0; l < VM_LANES; l++)
        for (int r = 0; r < 4; r++) {
            float v = c[r][l] + acc[l / 4 + 8 * (r >> 1)][l % 4 * 2 + (r & 1)];
            if (!half) {
                R(f32v, w, i->op[r])[l] = v;
                continue;
            }
            u32v *d = &R(u32v, w, i->op[r >> 1])[l];
            uint32_t h = f32_to_f16(v);
            *d = r & 1 ? (*d & 0xffff) | h << 16 : h;
        }
    w->block->vm->stats->mma++;
}

/* sub: 1 a is signed, 2 b is signed. */
static void run_mma_int(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    int32_t a[16][MAX_K], b[MAX_K][8];
    enum ptx_type ta = i->sub & 1 ? T_S8 : T_U8, tb = i->sub & 2 ? T_S8 : T_U8;
    const int k = (int)i->imm, regs_b = k / 16;
    (void)m;
    for (int l = 0; l < VM_LANES; l++)
        for (int e = 0, x, y; e < 4; e++) {
            for (int r = 0; r < 2 * regs_b; r++) {
                place_a(l, 4, r, e, &x, &y);
                a[x][y] = byte_of(ta, R(u32v, w, i->op[4 + r])[l], e);
            }
            for (int r = 0; r < regs_b; r++) {
                place_b(l, 4, r, e, &x, &y);
                b[x][y] = byte_of(tb, R(u32v, w, i->op[8 + r])[l], e);
            }
        }
    int32_t out[4][VM_LANES];
    for (int l = 0; l < VM_LANES; l++)
        for (int r = 0; r < 4; r++) {
            int row = l / 4 + 8 * (r >> 1), col = l % 4 * 2 + (r & 1);
            int64_t sum = R(s32v, w, i->op[10 + r])[l];
            for (int p = 0; p < k; p++)
                sum += (int64_t)a[row][p] * b[p][col];
            if (i->sat)
                sum = sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum;
            out[r][l] = (int32_t)(uint32_t)(uint64_t)sum;
        }
    for (int r = 0; r < 4; r++)
        memcpy(R(s32v, w, i->op[r]), out[r], sizeof out[r]);
    w->block->vm->stats->mma++;
}

static void together(struct dec *d)
{
    d->i->flow = FLOW_SYNC;
    d->i->whole_warp = true;
    if (!dec_has(d, "sync"))
        dec_fail(d, "it lacks .sync");
    dec_has(d, "aligned");
}

static const struct {
    const char *shape;
    int k;
    enum ptx_type t;
} shapes[] = {
    {"m16n8k16", 16, T_F16}, {"m16n8k8", 8, T_F16},  {"m16n8k16", 16, T_BF16},
    {"m16n8k8", 8, T_BF16},  {"m16n8k8", 8, T_TF32}, {"m16n8k4", 4, T_TF32},
    {"m16n8k32", 32, T_S8},  {"m16n8k16", 16, T_S8}, {"m16n8k32", 32, T_U8},
    {"m16n8k16", 16, T_U8},
};

static void mma(struct dec *d)
{
    struct ptx_ins *i = d->i;
    together(d);
    i->sat = dec_has(d, "satfinite");
    if (!dec_has(d, "row") || !dec_has(d, "col"))
        dec_fail(d, "only .row.col");
    enum ptx_type td = dec_type(d), ta = dec_type(d), tb = dec_type(d), tc = dec_type(d);
    bool ints = ta == T_S8 || ta == T_U8;
    for (size_t n = 0; n < sizeof shapes / sizeof shapes[0] && i->imm == 0; n++)
        if (shapes[n].t == ta && dec_has(d, shapes[n].shape))
            i->imm = shapes[n].k;
    bool sums = ints ? td == T_S32 && (tb == T_S8 || tb == T_U8)
                     : ta == tb && (td == T_F32 || (td == T_F16 && ta == T_F16));
    if (i->imm == 0 || td != tc || !sums || (i->sat && !ints)) {
        dec_fail(d, "this shape is not supported");
        return;
    }
    int per = per_register(ta), regs_b = (int)i->imm / per / 4, n_acc = td == T_F16 ? 2 : 4;
    enum ptx_type acc = td == T_F32 ? T_F32 : T_B32;
    dec_args(d, 4, 4);
    dec_vector(d, 0, 0, n_acc, acc, true);
    dec_vector(d, 1, 4, 2 * regs_b, T_B32, false);
    dec_vector(d, 2, 8, regs_b, T_B32, false);
    dec_vector(d, 3, 10, n_acc, acc, false);
    i->type = (uint8_t)ta;
    i->type2 = (uint8_t)td;
    i->sub = (uint8_t)((ta == T_S8) | (tb == T_S8) << 1);
    i->run = ints ? run_mma_int : run_mma_float;
}

/* ---- ldmatrix, stmatrix, movmatrix ---- */

/* The n matrices' rows: row r of matrix j at the address of lane 8 j + r. */
static bool rows_of(struct warp *w, const struct ptx_ins *i, uint8_t *rows[VM_LANES], bool write)
{
    for (int l = 0; l < 8 * i->n; l++) {
        uint64_t at = mem_address(w, i->op[16], i->wide, l, i->imm);
        if ((rows[l] = mem_at(w, i, l, at, 16, write)) == NULL)
            return false;
        races_touch(w, i, RACES_WHOLE_WARP, (uint32_t)(rows[l] - w->block->shared), 16,
                    write ? RACE_WRITE : RACE_READ);
    }
    return true;
}

static void run_ldmatrix(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint8_t *rows[VM_LANES];
    uint16_t from[4][8][8];
    (void)m;
    if (!rows_of(w, i, rows, false))
        return;
    for (int l = 0; l < 8 * i->n; l++)
        memcpy(from[l / 8][l % 8], rows[l], 16);
    for (int j = 0; j < i->n; j++)
        for (int l = 0; l < VM_LANES; l++) {
            int r = l / 4, c = l % 4 * 2;
            uint32_t lo = i->sub ? from[j][c][r] : from[j][r][c];
            uint32_t hi = i->sub ? from[j][c + 1][r] : from[j][r][c + 1];
            R(u32v, w, i->op[j])[l] = lo | hi << 16;
        }
    struct access rows_read = {.mask = 0};
    for (int l = 0; w->block->vm->o.accesses && l < 8 * i->n; l++)
        access_add(&rows_read, l, (uint64_t)(rows[l] - w->block->shared), 16);
    access_shared(w->block->vm->stats, &rows_read);
    w->block->vm->stats->ldmatrix++;
}

static void run_stmatrix(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint8_t *rows[VM_LANES];
    (void)m;
    if (!rows_of(w, i, rows, true))
        return;
    for (int j = 0; j < i->n; j++)
        for (int l = 0; l < VM_LANES; l++)
            for (int h = 0; h < 2; h++) {
                int r = l / 4, c = l % 4 * 2 + h;
                uint16_t v = (uint16_t)(R(u32v, w, i->op[j])[l] >> 16 * h);
                memcpy(rows[8 * j + (i->sub ? c : r)] + 2 * (i->sub ? r : c), &v, 2);
            }
}

static void matrix(struct dec *d)
{
    static const char *const counts[] = {"x1", "x2", "x4", NULL};
    struct ptx_ins *i = d->i;
    bool store = d->word[0][0] == 's';
    together(d);
    int count = dec_one_of(d, counts);
    i->sub = dec_has(d, "trans");
    if (!dec_has(d, "m8n8") || count < 0 || dec_type(d) != T_B16 ||
        !(dec_has(d, "shared") || dec_has(d, "shared::cta"))) {
        dec_fail(d, "not supported");
        return;
    }
    i->space = SP_SHARED;
    i->n = (uint8_t)(1 << count);
    dec_args(d, 2, 2);
    dec_address(d, store ? 0 : 1, 16);
    dec_vector(d, store ? 1 : 0, 0, i->n, T_B32, !store);
    i->run = store ? run_stmatrix : run_ldmatrix;
}

static void run_movmatrix(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint16_t all[8][8];
    const u32v *a = R(u32v, w, i->op[1]);
    u32v *d = R(u32v, w, i->op[0]);
    (void)m;
    for (int l = 0; l < VM_LANES; l++)
        for (int h = 0; h < 2; h++)
            all[l / 4][l % 4 * 2 + h] = (uint16_t)(a[l] >> 16 * h);
    for (int l = 0; l < VM_LANES; l++)
        d[l] = all[l % 4 * 2][l / 4] | (uint32_t)all[l % 4 * 2 + 1][l / 4] << 16;
}

static void movmatrix(struct dec *d)
{
    together(d);
    if (!dec_has(d, "trans") || !dec_has(d, "m8n8") || dec_type(d) != T_B16)
        dec_fail(d, "not supported");
    dec_args(d, 2, 2);
    d->i->op[0] = dec_dst(d, 0, T_B32);
    d->i->op[1] = dec_src(d, 1, T_B32);
    d->i->run = run_movmatrix;
}

const struct dec_op mma_ops[] = {
    {"mma", mma}, {"ldmatrix", matrix}, {"stmatrix", matrix}, {"movmatrix", movmatrix},
    {NULL, NULL},
};
