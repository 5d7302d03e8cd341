/* Paged attention, kv_store and rope_store: against attention in doubles over plain arrays; a row's bits alone,
 * in a batch, and at several thread counts; the inner loop against scalar between guards.
 *
 * The pages start as NaN, in shuffled order, so a token that may not be seen poisons what reads it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/cpu/attn.h"
#include "kernels/cpu/linear.h"
#include "kernels/quant.h"
#include "tests/kcheck/kcheck.h"

#define MAX_POS  1100
#define N_SEQS   5
#define MAX_ROWS 64

/* Queries are rounded to 16 bits, the weights of the values to 15.  Measured over 12 seeds and all
 * levels: 8e-6 (root mean square), 1.5e-4 at most. */
#define BOUND_Q8 4e-4f

struct shape {
    int n_heads, n_kv_heads, head_dim, window;
    enum dtype type;
};

/* Sequences of tokens and the rows that ask. */
struct world {
    struct shape s;
    int width, q_width;             /* n_kv_heads * head_dim, n_heads * head_dim */
    float *k[N_SEQS], *v[N_SEQS];   /* [MAX_POS, width]: what is stored, */
    float *kr[N_SEQS], *vr[N_SEQS]; /* and that rounded to the type */
    int32_t *pages[N_SEQS];
    int seq[MAX_ROWS], n_rows;
    struct kv_row rows[MAX_ROWS];
    float *q, *want, *first; /* [n_rows, q_width] */
    struct kv_view kv;
    float scale;
};

/* Rows of each sequence: positions from ... from + n - 1. */
static const struct {
    int seq, from, n;
} asked[] = {
    {0, 0, 1},   {1, 250, 11}, {2, 700, 1}, {3, 14, 5},   {2, 701, 2},
    {4, 255, 1}, {4, 256, 1},  {0, 1, 17},  {3, 1023, 2},
};

static void attn_in_doubles(const struct world *w, int r, float *out)
{
    const struct shape *s = &w->s;
    const float *k = w->kr[w->seq[r]], *v = w->vr[w->seq[r]];
    int pos = w->rows[r].pos, hd = s->head_dim;
    int first = s->window > 0 && pos - s->window + 1 > 0 ? pos - s->window + 1 : 0;
    double *p = xcalloc((size_t)pos + 1, sizeof(*p));
    for (int h = 0; h < s->n_heads; h++) {
        const float *q = w->q + (int64_t)r * w->q_width + h * hd;
        int at = h / (s->n_heads / s->n_kv_heads) * hd;
        double top = -INFINITY, sum = 0;
        for (int t = first; t <= pos; t++) {
            p[t] = 0;
            for (int d = 0; d < hd; d++)
                p[t] += (double)q[d] * (double)k[(int64_t)t * w->width + at + d];
            p[t] *= (double)w->scale;
            top = p[t] > top ? p[t] : top;
        }
        for (int t = first; t <= pos; t++)
            sum += p[t] = exp(p[t] - top);
        for (int d = 0; d < hd; d++) {
            double x = 0;
            for (int t = first; t <= pos; t++)
                x += p[t] * (double)v[(int64_t)t * w->width + at + d];
            out[h * hd + d] = (float)(x / sum);
        }
    }
    free(p);
}

/* n numbers as multiples of a scale: their largest magnitude / 127, for keys rounded to f16. */
static void round_block(float *to, const float *x, int n, bool half)
{
    float top = 0;
    for (int i = 0; i < n; i++)
        top = fmaxf(top, fabsf(x[i]));
    float d = half ? f16_to_f32(f32_to_f16(top / 127)) : top / 127;
    for (int i = 0; i < n; i++)
        to[i] = d * fminf(127, fmaxf(-127, rintf(x[i] * (1 / d))));
}

/* One token of one kv head to what the type can hold. */
static void round_token(const struct shape *s, float *kr, float *vr, const float *k, const float *v)
{
    for (int d = 0; d < s->head_dim; d++) {
        kr[d] = s->type == DTYPE_F16 ? f16_to_f32(f32_to_f16(k[d])) : k[d];
        vr[d] = s->type == DTYPE_F16 ? f16_to_f32(f32_to_f16(v[d])) : v[d];
    }
    if (s->type != DTYPE_Q8_0)
        return;
    for (int d = 0; d < s->head_dim; d += 32)
        round_block(kr + d, k + d, s->head_dim - d < 32 ? s->head_dim - d : 32, true);
    round_block(vr, v, s->head_dim, false);
}

static void world_open(struct kcheck *kc, struct world *w, struct shape s)
{
    *w = (struct world){.s = s, .width = s.n_kv_heads * s.head_dim};
    w->q_width = s.n_heads * s.head_dim;
    w->scale = 1.0f / sqrtf((float)s.head_dim);
    int per_seq = MAX_POS / KV_PAGE_TOKENS + 1, n_pages = N_SEQS * per_seq;
    struct backend *be = kcheck_backend(kc, 1);
    size_t half = be->kv_bytes(s.type, s.n_kv_heads, s.head_dim);
    be->close(be);
    w->kv = (struct kv_view){
        .page_bytes = 2 * half + 192, /* as with other layers around it */
        .k_offset = 64,
        .v_offset = 128 + half,
        .n_kv_heads = s.n_kv_heads,
        .head_dim = s.head_dim,
        .type = s.type,
    };
    w->kv.base = xmalloc(w->kv.page_bytes * (size_t)n_pages);
    memset(w->kv.base, 0xff, w->kv.page_bytes * (size_t)n_pages); /* NaN in either type */
    for (int i = 0; i < N_SEQS; i++) {
        w->k[i] = xmalloc(sizeof(float) * (size_t)(MAX_POS * w->width));
        w->v[i] = xmalloc(sizeof(float) * (size_t)(MAX_POS * w->width));
        w->pages[i] = xmalloc(sizeof(int32_t) * (size_t)per_seq);
        kcheck_fill(kc, w->k[i], (int64_t)MAX_POS * w->width, 2.0f);
        kcheck_fill(kc, w->v[i], (int64_t)MAX_POS * w->width, 1.0f);
        w->kr[i] = xmalloc(sizeof(float) * (size_t)(MAX_POS * w->width));
        w->vr[i] = xmalloc(sizeof(float) * (size_t)(MAX_POS * w->width));
        for (int j = 0; j < MAX_POS * w->width; j += s.head_dim)
            round_token(&s, w->kr[i] + j, w->vr[i] + j, w->k[i] + j, w->v[i] + j);
        for (int j = 0; j < per_seq; j++) /* any order that is one-to-one */
            w->pages[i][j] = (j * N_SEQS + i) * 7 % n_pages;
    }
    for (size_t a = 0; a < sizeof(asked) / sizeof(asked[0]); a++) {
        for (int i = 0; i < asked[a].n; i++) {
            w->seq[w->n_rows] = asked[a].seq;
            w->rows[w->n_rows++] = (struct kv_row){w->pages[asked[a].seq], asked[a].from + i};
        }
    }
    size_t bytes = sizeof(float) * (size_t)(w->n_rows * w->q_width);
    w->q = xmalloc(bytes);
    w->want = xmalloc(bytes);
    w->first = xmalloc(bytes);
    kcheck_fill(kc, w->q, (int64_t)w->n_rows * w->q_width, 2.0f);
    for (int r = 0; r < w->n_rows; r++)
        attn_in_doubles(w, r, w->want + (int64_t)r * w->q_width);
}

static void world_close(struct world *w)
{
    for (int i = 0; i < N_SEQS; i++) {
        free(w->k[i]);
        free(w->v[i]);
        free(w->kr[i]);
        free(w->vr[i]);
        free(w->pages[i]);
    }
    free(w->kv.base);
    free(w->q);
    free(w->want);
    free(w->first);
}

/* Positions from ... from + n - 1 of a sequence. */
static void store(struct backend *be, const struct world *w, int seq, int from, int n)
{
    struct kv_row *rows = xcalloc((size_t)n, sizeof(*rows));
    for (int i = 0; i < n; i++)
        rows[i] = (struct kv_row){w->pages[seq], from + i};
    struct tensor k = kcheck_tensor(w->k[seq] + (int64_t)from * w->width, n, w->width);
    struct tensor v = kcheck_tensor(w->v[seq] + (int64_t)from * w->width, n, w->width);
    OP(be, kv_store, .kv = w->kv, .k = &k, .v = &v, .rows = rows);
    free(rows);
}

/* Rows r0 ... r0 + n - 1 into out. */
static void attend(struct backend *be, const struct world *w, int r0, int n, float *out)
{
    struct tensor q = kcheck_tensor(w->q + (int64_t)r0 * w->q_width, n, w->q_width);
    struct tensor o = kcheck_tensor(out, n, w->q_width);
    OP(be, attn_paged, .out = &o, .q = &q, .kv = w->kv, .rows = w->rows + r0,
       .n_heads = w->s.n_heads, .window = w->s.window, .scale = w->scale);
}

static void check_shape(struct kcheck *kc, struct shape s)
{
    struct world w;
    world_open(kc, &w, s);
    size_t row_bytes = sizeof(float) * (size_t)w.q_width;
    char what[96];
    snprintf(what, sizeof(what), "heads %d/%d dim %d window %d %s", s.n_heads, s.n_kv_heads,
             s.head_dim, s.window, dtype_name(s.type));
    for (int threads = 1; threads <= (kc->device ? 1 : 4); threads++) {
        struct backend *be = kcheck_backend(kc, threads);
        float *out = kcheck_out(kc, (int64_t)w.n_rows * w.q_width);
        if (threads == 1) { /* what is asked for, and all before it */
            static const int stored[N_SEQS] = {18, 261, 703, 1025, 257};
            for (int i = 0; i < N_SEQS; i++) {
                store(be, &w, i, 0, 3);
                store(be, &w, i, 3, stored[i] - 3);
            }
        }
        attend(be, &w, 0, w.n_rows, out);
        kcheck_near(kc, w.want, out, (int64_t)w.n_rows * w.q_width,
                    s.type == DTYPE_Q8_0 ? BOUND_Q8 : 3e-6f, 16, what);
        if (threads == 1)
            memcpy(w.first, out, row_bytes * (size_t)w.n_rows);
        kcheck_same(kc, w.first, out, row_bytes * (size_t)w.n_rows, "another number of threads");
        for (int r = 0; r < w.n_rows; r++)
            attend(be, &w, r, 1, out + (int64_t)r * w.q_width);
        kcheck_same(kc, w.first, out, row_bytes * (size_t)w.n_rows, "rows alone");
        for (int r = 0; r + 3 <= w.n_rows; r += 3)
            attend(be, &w, r, 3, out + (int64_t)r * w.q_width);
        kcheck_same(kc, w.first, out, row_bytes * (size_t)w.n_rows, "rows by threes");
        kcheck_done(kc);
        be->close(be);
    }
    world_close(&w);
}

/* A value that is no number shows in the rows that see its token, in its dimension, and in no other bit. */
static void check_hidden(struct kcheck *kc, struct shape s, int token, float odd)
{
    enum { SEQ = 1, FIRST = 1, N = 11, D = 3 }; /* the rows of asked[1] */
    struct world w;
    world_open(kc, &w, s);
    struct backend *be = kcheck_backend(kc, 1);
    float *out = kcheck_out(kc, (int64_t)N * w.q_width);
    bool same = true, shown = true;
    store(be, &w, SEQ, 0, 261);
    attend(be, &w, FIRST, N, w.first);
    w.v[SEQ][token * w.width + D] = odd;
    store(be, &w, SEQ, token, 1);
    attend(be, &w, FIRST, N, out);
    for (int r = 0; r < N; r++) {
        const int pos = w.rows[FIRST + r].pos;
        const bool sees = token <= pos && (!s.window || token > pos - s.window);
        for (int i = 0; i < w.q_width; i++) {
            const int64_t at = (int64_t)r * w.q_width + i;
            const bool its = sees && i / s.head_dim < s.n_heads / s.n_kv_heads;
            if (its && i % s.head_dim == D)
                shown &= !isfinite(out[at]);
            else if (!its || s.type != DTYPE_Q8_0) /* where a scale is the whole token's */
                same &= memcmp(out + at, w.first + at, sizeof *out) == 0;
        }
    }
    kcheck_that(kc, same, "a NaN that is not seen changes nothing");
    kcheck_that(kc, shown, "a NaN that is seen shows");
    be->close(be);
    kcheck_done(kc);
    world_close(&w);
}

static void check_op(struct kcheck *kc)
{
    static const struct shape shapes[] = {
        {9, 3, 64, 0, DTYPE_F16},    {4, 4, 40, 0, DTYPE_F16},    {8, 1, 80, 0, DTYPE_F16},
        {4, 2, 128, 0, DTYPE_F32},   {3, 1, 8, 0, DTYPE_F32},     {5, 1, 64, 0, DTYPE_F32},
        {9, 3, 64, 1, DTYPE_F16},    {4, 4, 40, 100, DTYPE_F16},  {6, 1, 64, 300, DTYPE_F32},
        {2, 1, 256, 17, DTYPE_F16},  {40, 1, 24, 0, DTYPE_F16},   {4, 4, 72, 256, DTYPE_F16},
        {9, 3, 64, 0, DTYPE_Q8_0},   {4, 4, 40, 100, DTYPE_Q8_0}, {6, 1, 128, 300, DTYPE_Q8_0},
        {2, 1, 256, 17, DTYPE_Q8_0}, {40, 1, 24, 0, DTYPE_Q8_0},  {4, 2, 8, 0, DTYPE_Q8_0},
        {4, 4, 80, 1, DTYPE_Q8_0},
    };
    int n = sizeof(shapes) / sizeof(shapes[0]);
    for (int i = 0; i < n; i++)
        check_shape(kc, shapes[i]);
    static const struct shape odd[] = {/* GPUs want multiples of 8 */
                                       {3, 1, 4, 0, DTYPE_F32},    {4, 2, 12, 17, DTYPE_F16},
                                       {4, 4, 100, 0, DTYPE_F16},  {6, 3, 100, 0, DTYPE_Q8_0},
                                       {2, 1, 252, 0, DTYPE_Q8_0}, {4, 2, 4, 100, DTYPE_Q8_0}};
    for (int i = 0; !kc->device && i < (int)(sizeof odd / sizeof *odd); i++)
        check_shape(kc, odd[i]);
    for (int i = 0; i < n; i += 3) {
        check_hidden(kc, shapes[i], 255, NAN);
        check_hidden(kc, shapes[i], 258, INFINITY);
    }
    check_hidden(kc, (struct shape){4, 2, 72, 8, DTYPE_F16}, 248, NAN); /* leaves the window */
    check_hidden(kc, (struct shape){4, 2, 256, 0, DTYPE_F16}, 257, NAN);
}

/* A context so long that the shared memory for partials does not hold all chunks at once. */
static void check_long(struct kcheck *kc)
{
    enum { HD = 256, HEADS = 32, TOKENS = 12000 };
    int n_pages = TOKENS / KV_PAGE_TOKENS;
    size_t half = dtype_bytes(DTYPE_F16, KV_PAGE_TOKENS * HD);
    int32_t *pages = xcalloc((size_t)n_pages, sizeof(*pages));
    uint16_t *base = xcalloc((size_t)n_pages, 2 * half);
    float *q = kcheck_in(kc, HEADS * HD), *out[2];
    kcheck_fill(kc, q, HEADS * HD, 1.0f);
    for (int i = 0; i < n_pages; i++)
        pages[i] = n_pages - 1 - i;
    for (size_t i = 0; i < (size_t)n_pages * half; i++) /* finite halves of either sign, below 1 */
        base[i] = (uint16_t)(kcheck_random(kc) & 0xbbff);
    struct kv_row row = {pages, TOKENS - 1};
    struct tensor tq = kcheck_tensor(q, 1, HEADS * HD);
    for (int i = 0; i < 2; i++) {
        struct backend *be = kcheck_backend(kc, i == 0 ? 1 : 3);
        out[i] = kcheck_out(kc, HEADS * HD);
        struct tensor to = kcheck_tensor(out[i], 1, HEADS * HD);
        OP(be, attn_paged, .out = &to, .q = &tq, .rows = &row, .n_heads = HEADS, .scale = 0.0625f,
           .kv = {(char *)base, 2 * half, 0, half, 1, HD, DTYPE_F16});
        be->close(be);
    }
    kcheck_that(kc, isfinite(out[0][0]), "a long context gives numbers");
    kcheck_same(kc, out[0], out[1], sizeof(float) * HEADS * HD, "a long context, split or not");
    kcheck_done(kc);
    free(pages);
    free(base);
}

/* A tile by both sides, for queries with different reach, every buffer between guards. */
static void compare_tile(struct kcheck *kc, const struct cpu_attn_tile *what, float tolerance,
                         float *m[2], float *l[2], float *acc[2])
{
    int lo[9], hi[9], n_q = what->n_q;
    struct cpu_attn_tile t = *what;
    for (int i = 0; i < n_q; i++) {
        lo[i] = (int)(kcheck_random(kc) % 100);
        hi[i] = i == 5 ? 0 : 100 + (int)(kcheck_random(kc) % 157); /* the sixth sees nothing */
    }
    t.lo = lo;
    t.hi = hi;
    for (int i = 0; i < 2; i++) {
        const struct cpu_ops *ops = i == 0 ? kc->ref : kc->var;
        t.m = m[i] = kcheck_out(kc, n_q);
        t.l = l[i] = kcheck_out(kc, n_q);
        t.acc = acc[i] = kcheck_out(kc, n_q * t.head_dim);
        t.score = kcheck_out(kc, n_q * ATTN_CHUNK);
        t.plain = kcheck_out(kc, ATTN_PLAIN * KV_PAGE_TOKENS * t.head_dim);
        (t.x ? ops->attn_tile_q8 : ops->attn_tile)(&t);
    }
    kcheck_near(kc, m[0], m[1], n_q, 1e-5f, 16, "largest score");
    kcheck_near(kc, l[0], l[1], n_q, 1e-4f, 64, "sum of weights");
    kcheck_near(kc, acc[0], acc[1], n_q * t.head_dim, tolerance, 64, "sum of values");
}

/* The inner loop on floats, and the merging of its results. */
static void check_tile(struct kcheck *kc, int hd, int n_q, enum dtype type)
{
    size_t bytes = dtype_bytes(type, (int64_t)KV_PAGE_TOKENS * hd),
           align = type == DTYPE_F16 ? 2 : 4;
    const char *k[16], *v[16];
    int64_t elements = (int64_t)KV_PAGE_TOKENS * hd;
    float *values = xmalloc(sizeof(float) * (size_t)elements);
    for (int i = 0; i < 32; i++) {
        void *page = kcheck_in_bytes(kc, bytes, align);
        kcheck_fill(kc, values, elements, 1.0f);
        quant_pack(type, page, values, elements);
        *(i < 16 ? &k[i] : &v[i - 16]) = page;
    }
    free(values);
    float *q = kcheck_in(kc, n_q * hd);
    kcheck_fill(kc, q, n_q * hd, 1.0f);
    const struct cpu_attn_tile t = {
        .k = k, .v = v, .n_pages = 16, .n_q = n_q, .head_dim = hd, .type = type, .q = q};
    float *m[2], *l[2], *acc[2];
    compare_tile(kc, &t, 1e-4f, m, l, acc);
    for (int i = 0; i < n_q; i++)
        kc->ref->attn_merge(&m[0][0], &l[0][0], acc[0], m[0][i], l[0][i], acc[0] + i * hd, hd);
    for (int i = 0; i < n_q; i++)
        kc->var->attn_merge(&m[1][0], &l[1][0], acc[1], m[1][i], l[1][i], acc[1] + i * hd, hd);
    kcheck_near(kc, l[0], l[1], 1, 1e-3f, 64, "merged weights");
    kcheck_near(kc, acc[0], acc[1], hd, 1e-3f, 64, "merged values");
    kcheck_done(kc);
}

/* The same for codes of 8 bits: any bytes with sensible scales. */
static void check_tile_q8(struct kcheck *kc, int hd, int n_q)
{
    int n_blocks = attn_blocks(hd), n_x = n_q * n_blocks * 2;
    size_t bytes = attn_head_bytes(DTYPE_Q8_0, hd), codes = (size_t)(KV_PAGE_TOKENS * hd);
    const char *k[16], *v[16];
    for (int i = 0; i < 32; i++) {
        char *page = kcheck_in_bytes(kc, bytes, 64);
        for (size_t at = 0; at < codes; at++)
            page[at] = (char)kcheck_random(kc);
        for (int t = 0; t < KV_PAGE_TOKENS; t++) {
            float d = 1.0f + (float)(kcheck_random(kc) % 100);
            for (int b = 0; i < 16 && b < n_blocks; b++)
                ((uint16_t *)(page + codes))[b * KV_PAGE_TOKENS + t] = f32_to_f16(d * 1e-4f);
            if (i >= 16)
                ((float *)(page + codes))[t] = d * 1e-4f;
        }
        *(i < 16 ? &k[i] : &v[i - 16]) = page;
    }
    struct linear_x *x = kcheck_in_bytes(kc, sizeof(*x) * (size_t)n_x, 64);
    float *row = kcheck_in(kc, n_blocks * 32);
    for (int i = 0; i < n_q; i++) {
        memset(row, 0, sizeof(float) * (size_t)n_blocks * 32);
        kcheck_fill(kc, row, hd, 1.0f);
        kc->ref->linear_quant(x + i * n_blocks * 2, row, 1, n_blocks * 32, 2, 0);
    }
    const struct cpu_attn_tile t = {
        .k = k, .v = v, .n_pages = 16, .n_q = n_q, .head_dim = hd, .type = DTYPE_Q8_0, .x = x};
    float *m[2], *l[2], *acc[2];
    compare_tile(kc, &t, 2e-3f, m, l, acc);
    kcheck_done(kc);
}

/* What is stored is near what came, to half a step of the scale; a NaN is not lost. */
static void check_store_q8(struct kcheck *kc)
{
    enum { HD = 72 };
    struct backend *be = kcheck_backend(kc, 1);
    char *page = kcheck_out_bytes(kc, 2 * be->kv_bytes(DTYPE_Q8_0, 1, HD), 64);
    float *k = kcheck_in(kc, HD), *v = kcheck_in(kc, HD), *q = kcheck_in(kc, HD);
    float *out = kcheck_out(kc, HD);
    struct kv_view kv = {.base = page,
                         .page_bytes = 2 * be->kv_bytes(DTYPE_Q8_0, 1, HD),
                         .v_offset = be->kv_bytes(DTYPE_Q8_0, 1, HD),
                         .n_kv_heads = 1,
                         .head_dim = HD,
                         .type = DTYPE_Q8_0};
    int32_t page_id = 0;
    struct kv_row row = {&page_id, 0};
    struct tensor tk = kcheck_tensor(k, 1, HD), tv = kcheck_tensor(v, 1, HD);
    struct tensor tq = kcheck_tensor(q, 1, HD), to = kcheck_tensor(out, 1, HD);
    kcheck_fill(kc, q, HD, 1.0f);
    for (int i = 0; i < 40; i++) { /* one token: its values come back */
        kcheck_fill(kc, k, HD, 1.0f);
        kcheck_fill(kc, v, HD, powf(10, (float)(i - 20)));
        float top = 0;
        for (int d = 0; d < HD; d++)
            top = fmaxf(top, fabsf(v[d]));
        OP(be, kv_store, .kv = kv, .k = &tk, .v = &tv, .rows = &row);
        OP(be, attn_paged, .out = &to, .q = &tq, .kv = kv, .rows = &row, .n_heads = 1, .scale = 1);
        kcheck_near(kc, v, out, HD, top * 0.00396f, 0, "a stored value");
    }
    for (int i = 0; i < 2; i++) {
        kcheck_fill(kc, k, HD, 1.0f);
        kcheck_fill(kc, v, HD, 1.0f);
        (i ? k : v)[33] = NAN;
        OP(be, kv_store, .kv = kv, .k = &tk, .v = &tv, .rows = &row);
        OP(be, attn_paged, .out = &to, .q = &tq, .kv = kv, .rows = &row, .n_heads = 1, .scale = 1);
        kcheck_that(kc, isnan(out[0]), "a NaN that was stored shows");
    }
    be->close(be);
    kcheck_done(kc);
}

/* rope_store gives the bits of rope, rope and kv_store. */
static void check_rope_store(struct kcheck *kc, enum dtype type, int n_rows, int hd, int n_rot,
                             bool interleaved)
{
    enum { HEADS = 15, KV = 5, PAGES = 5, MOST = 70 };
    struct backend *be = kcheck_backend(kc, 3);
    const size_t half = be->kv_bytes(type, KV, hd), bytes = PAGES * 2 * half;
    int32_t ids[PAGES] = {1, 0, 4, 2, 3},
            *pos = kcheck_in_bytes(kc, sizeof(int32_t) * (size_t)n_rows, 4);
    float *freq = kcheck_in(kc, n_rot / 2), *q[2], *k[2], *v = kcheck_in(kc, n_rows * KV * hd);
    char *pages[2];
    struct kv_row rows[MOST];
    kcheck_fill(kc, v, n_rows * KV * hd, 1.0f);
    for (int i = 0; i < n_rot / 2; i++)
        freq[i] = powf(10000, -2.0f * (float)i / (float)n_rot);
    for (int r = 0; r < n_rows; r++) {
        rows[r] = (struct kv_row){ids, r + 5};
        pos[r] = 1000 + 7 * r;
    }
    for (int i = 0; i < 2; i++) {
        pages[i] = kcheck_out_bytes(kc, bytes, 64);
        memset(pages[i], 0, bytes);
        q[i] = kcheck_out(kc, n_rows * HEADS * hd);
        k[i] = kcheck_out(kc, n_rows * KV * hd);
        kcheck_fill(kc, q[i], n_rows * HEADS * hd, 1.0f);
        kcheck_fill(kc, k[i], n_rows * KV * hd, 1.0f);
    }
    memcpy(q[1], q[0], sizeof(float) * (size_t)(n_rows * HEADS * hd));
    memcpy(k[1], k[0], sizeof(float) * (size_t)(n_rows * KV * hd));
    for (int i = 0; i < 2; i++) {
        struct tensor tq = kcheck_tensor(q[i], n_rows, HEADS * hd);
        struct tensor tk = kcheck_tensor(k[i], n_rows, KV * hd),
                      tv = kcheck_tensor(v, n_rows, KV * hd);
        const struct kv_view kv = {pages[i], 2 * half, 0, half, KV, hd, type};
        struct op_rope turn = {&tq, pos, freq, hd, n_rot, 1.25f, interleaved};
        if (i == 0) {
            OP(be, rope_store, .kv = kv, .q = &tq, .k = &tk, .v = &tv, .rows = rows, .pos = pos,
               .freq = freq, .n_rot = n_rot, .mscale = 1.25f, .interleaved = interleaved);
            continue;
        }
        be->ops->rope(be, &turn);
        turn.x = &tk;
        be->ops->rope(be, &turn);
        OP(be, kv_store, .kv = kv, .k = &tk, .v = &tv, .rows = rows);
    }
    kcheck_same(kc, q[1], q[0], sizeof(float) * (size_t)(n_rows * HEADS * hd), "turned queries");
    kcheck_same(kc, k[1], k[0], sizeof(float) * (size_t)(n_rows * KV * hd), "turned keys");
    kcheck_same(kc, pages[1], pages[0], bytes, "stored keys and values");
    be->close(be);
    kcheck_done(kc);
}

struct attn_bench {
    struct backend *be;
    struct op_attn_paged op;
};

static void attn_bench_run(void *arg)
{
    struct attn_bench *b = arg;
    b->be->ops->attn_paged(b->be, &b->op);
}

/* n_rows at the end of a context of n tokens, heads 9/3 of 64, one thread and all. */
static void bench(struct kcheck *kc, enum dtype type, int n, int n_rows)
{
    enum { HD = 64, KV = 3, HEADS = 9 };
    int n_pages = (n + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    int32_t *pages = xcalloc((size_t)n_pages, sizeof(*pages));
    struct kv_row *rows = xcalloc((size_t)n_rows, sizeof(*rows));
    size_t half = KV * attn_head_bytes(type, HD);
    char *base = xcalloc((size_t)n_pages, 2 * half);
    float *q = xcalloc((size_t)n_rows * HEADS * HD, sizeof(float));
    float *out = xcalloc((size_t)n_rows * HEADS * HD, sizeof(float));
    kcheck_fill(kc, q, (int64_t)n_rows * HEADS * HD, 1.0f);
    for (int i = 0; i < n_pages; i++)
        pages[i] = i;
    double seen = 0;
    for (int r = 0; r < n_rows; r++) {
        rows[r] = (struct kv_row){pages, n - n_rows + r};
        seen += n - n_rows + r + 1;
    }
    struct tensor tq = kcheck_tensor(q, n_rows, HEADS * HD),
                  to = kcheck_tensor(out, n_rows, HEADS * HD);
    for (int threads = 1; threads >= 0; threads--) {
        struct attn_bench b = {.be = kcheck_backend(kc, threads)};
        b.op = (struct op_attn_paged){
            .out = &to,
            .q = &tq,
            .rows = rows,
            .n_heads = HEADS,
            .scale = 0.125f,
            .kv = {base, 2 * half, 0, half, KV, HD, type},
        };
        char what[80];
        snprintf(what, sizeof(what), "attn %s %d rows of %d, %d threads", dtype_name(type), n_rows,
                 n, b.be->n_threads);
        kcheck_bench(kc, what, seen * HEADS * HD * 4, "GFLOP/s", attn_bench_run, &b);
        if (n_rows == 1)
            kcheck_bench(kc, what, 2.0 * (double)half * n_pages, "GB/s", attn_bench_run, &b);
        b.be->close(b.be);
    }
    free(pages);
    free(rows);
    free(base);
    free(q);
    free(out);
}

void kcheck_attn(struct kcheck *kc)
{
    if (KCHECK(kc, attn_tile)) {
        static const int dims[] = {4, 8, 16, 24, 40, 64, 72, 80, 96, 100, 128, 256};
        for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++) {
            for (int n_q = 1; n_q <= 9; n_q++) {
                check_tile(kc, dims[d], n_q, DTYPE_F16);
                check_tile(kc, dims[d], n_q, DTYPE_F32);
            }
        }
    }
    if (KCHECK(kc, attn_tile_q8)) {
        static const int dims[] = {4, 8, 16, 24, 40, 64, 72, 80, 96, 100, 128, 256};
        for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++)
            for (int n_q = 1; n_q <= 8; n_q++)
                check_tile_q8(kc, dims[d], n_q);
    }
    if (KCHECK_OP(kc, attn_paged, attn_tile_q8)) {
        check_op(kc);
        check_long(kc);
        check_store_q8(kc);
        static const int shapes[][2] = {{256, 1}, {4096, 1}, {32768, 1}, {512, 512}, {4096, 512}};
        for (int i = 0; kc->bench && i < 5; i++) {
            bench(kc, DTYPE_F16, shapes[i][0], shapes[i][1]);
            bench(kc, DTYPE_Q8_0, shapes[i][0], shapes[i][1]);
        }
    }
    if (KCHECK_OP(kc, rope_store, rope_pair_row)) {
        static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_Q8_0};
        for (int i = 0; i < 6; i++) {
            check_rope_store(kc, types[i / 2], 19, 64, 64, i % 2);
            check_rope_store(kc, types[i / 2], 19, 40, 20, i % 2);
            check_rope_store(kc, types[i / 2], 19, 72, 72, i % 2);
            check_rope_store(kc, types[i / 2], 67, 64, 32, i % 2);
            if (!kc->device)
                check_rope_store(kc, types[i / 2], 19, 100, 100, i % 2);
        }
    }
}
