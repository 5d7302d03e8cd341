/* linear of many rows of halves by cuBLASLt, for operators who want it (docs/CUDA.md, "cuBLASLt"): weights become rows
 * of halves in pieces that stay in the device's cache, the library multiplies, and a kernel of ours does the rest.
 *
 * No other order of sums for other rows: a plan keeps one algorithm for a shape, and before it is used for the first time
 * the device shows that equal rows give equal bits, wherever they stand and however many there are.  Where no
 * algorithm does, our own kernels compute. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/log.h"
#include "kernels/cuda/cuda_blas.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/cuda_panel.h"
#include "kernels/quant.h"

enum {
    MAX_PLANS = 1024,
    MAX_OUTPUTS = 8192, /* of a piece */
    TILE = 128,         /* pieces are multiples of it, but for the last one */
    TEST_ROWS = 512,
    TEST_SOME = 136, /* rows, from row TEST_SKIP on */
    TEST_SKIP = 74,
    TEST_PERIOD = 37,
    TEST_BLOCKS = 64, /* of MAX_OUTPUTS */
};
#define PANEL_BYTES ((size_t)32 << 20)
#define SUMS_BYTES  ((size_t)32 << 20)

/* A shape that was asked for. */
struct known {
    struct cuda_blas_shape shape;
    struct cuda_blas_plan *plan; /* NULL: our own kernels */
};

struct cuda_op_blas {
    struct cuda_blas *lib;
    char *memory; /* [ workspace ] [ panel ] [ sums ] [ of the test ] */
    struct known known[MAX_PLANS];
    int n_known;
    bool told;
};

/* A product of a call: outputs in pieces, rows in chunks. */
struct product {
    const struct cuda_linear_matrix *m;
    enum dtype type;
    bool direct; /* the library writes results */
    int piece, n_in;
};

static char *panel_of(const struct cuda_op_blas *b)
{
    return b->memory + CUDA_BLAS_WORKSPACE;
}

static float *sums_of(const struct cuda_op_blas *b)
{
    return (float *)(void *)(panel_of(b) + PANEL_BYTES);
}

static float *bad_of(const struct cuda_op_blas *b)
{
    return (float *)(void *)(panel_of(b) + PANEL_BYTES + SUMS_BYTES);
}

static void switch_off(struct cuda_backend *cb)
{
    if (cb->blas)
        cuda_mem_free(&cb->be, cb->blas->memory);
    cuda_op_blas_close(cb);
}

int cuda_op_blas_open(struct backend *be, int rows, struct err *e)
{
    struct cuda_backend *cb = cuda_of(be);
    if (rows < 1)
        switch_off(cb);
    if (cb->blas || rows < 1)
        return 0;
    struct cuda_op_blas *b = xcalloc(1, sizeof *b);
    int rc = 0;
    cuda_enter(cb);
    b->memory = cuda_mem_alloc(
        be, CUDA_BLAS_WORKSPACE + PANEL_BYTES + SUMS_BYTES + TEST_BLOCKS * sizeof(float), e);
    if (!b->memory)
        rc = ERR_NOMEM;
    else if ((rc = cuda_blas_open(&b->lib, b->memory, e)) != 0)
        err_wrap(e, "%s", cb->name);
    cb->blas = b;
    cb->blas_rows = rows;
    if (rc)
        switch_off(cb);
    return rc;
}

void cuda_op_blas_close(struct cuda_backend *cb)
{
    if (!cb->blas)
        return;
    for (int i = 0; i < cb->blas->n_known; i++)
        cuda_blas_plan_close(cb->blas->known[i].plan);
    cuda_blas_close(cb->blas->lib);
    free(cb->blas);
    cb->blas = NULL;
}

/* ---- plans and their test ---- */

/* Results that are wrong, of w and x that stand there. */
static double count_wrong(struct cuda_backend *cb, const struct known *k, const void *x)
{
    const struct cuda_op_blas *b = cb->blas;
    const struct cuda_blas_shape *s = &k->shape;
    const size_t row = (size_t)s->n * (s->out == DTYPE_F32 ? 4 : 2);
    char *all = (char *)sums_of(b), *some = all + TEST_ROWS * row;
    float bad[TEST_BLOCKS] = {0};
    const struct cuda_panel_test t = {.all = {all, s->out},
                                      .some = {some, s->out},
                                      .w = panel_of(b),
                                      .x = x,
                                      .bad = bad_of(b),
                                      .type = s->type,
                                      .rows = TEST_ROWS,
                                      .some_rows = TEST_SOME,
                                      .skip = TEST_SKIP,
                                      .period = TEST_PERIOD,
                                      .n = s->n,
                                      .n_in = s->k};
    struct cuda_blas_call c = {
        .plan = k->plan, .w = t.w, .x = x, .out = all, .rows = TEST_ROWS, .out_ld = s->n};
    cudaError_t rc = cuda_blas_multiply(&c, cb->compute);
    c.x = (const char *)x + (size_t)TEST_SKIP * (size_t)s->ld * 2;
    c.out = some;
    c.rows = TEST_SOME;
    if (rc == cudaSuccess)
        rc = cuda_blas_multiply(&c, cb->compute);
    if (rc != cudaSuccess)
        return 1; /* the library refuses */
    cuda_panel_test_launch(&t, cb->compute);
    cuda_check(cb, cudaGetLastError(), "a kernel was not launched");
    const size_t bytes = (size_t)cuda_panel_test_blocks(s->n) * sizeof *bad;
    if (!cb->dead)
        cuda_check(cb, cudaMemcpyAsync(bad, t.bad, bytes, cudaMemcpyDeviceToHost, cb->compute),
                   "a download");
    if (!cb->dead)
        cuda_check(cb, cudaStreamSynchronize(cb->compute), "testing cuBLASLt");
    double sum = 0;
    for (int i = 0; i < TEST_BLOCKS; i++)
        sum += (double)bad[i];
    return sum;
}

/* An algorithm that passes, or no plan.  At once, when all that was queued is done: nothing of it may become a graph, since
 * the plan's algorithm changes. */
static void test_plan(struct cuda_backend *cb, struct known *k)
{
    const struct cuda_op_blas *b = cb->blas;
    const struct cuda_blas_shape *s = &k->shape;
    void *x = cuda_scratch(cb, (size_t)TEST_ROWS * (size_t)s->ld * 2);
    if (!cuda_wait(cb))
        return;
    cudaStream_t stream = cuda_stream(cb);
    cuda_queue_use(NULL);
    cuda_panel_noise_launch((struct cuda_array){panel_of(b), s->type}, s->n, s->k, s->n, false,
                            stream);
    cuda_panel_noise_launch((struct cuda_array){x, s->type}, TEST_ROWS, s->k, TEST_PERIOD, true,
                            stream);
    bool right = count_wrong(cb, k, x) == 0;
    while (!right && !cb->dead && cuda_blas_next(k->plan))
        right = count_wrong(cb, k, x) == 0;
    if (!right && !cb->dead && !cb->blas->told)
        log_msg(
            LOG_WARN, "cuda.blas",
            "%s: cuBLASLt's products of %s, %d > %d, are not the same for every number of rows: "
            "our own kernels compute them",
            cb->name, dtype_name(s->type), s->k, s->n);
    if (right)
        return;
    cuda_blas_plan_close(k->plan);
    k->plan = NULL;
}

static struct cuda_blas_plan *plan_of(struct cuda_backend *cb, const struct cuda_blas_shape *s)
{
    struct cuda_op_blas *b = cb->blas;
    for (int i = 0; i < b->n_known; i++)
        if (memcmp(&b->known[i].shape, s, sizeof *s) == 0)
            return b->known[i].plan;
    if (b->n_known == MAX_PLANS || cb->dead)
        return NULL;
    struct err why = {0};
    struct known *k = &b->known[b->n_known++];
    *k = (struct known){.shape = *s, .plan = cuda_blas_plan(b->lib, s, &why)};
    if (k->plan)
        test_plan(cb, k);
    else if (!b->told)
        log_msg(LOG_WARN, "cuda.blas", "%s: %s; our own kernels compute it", cb->name, why.msg);
    b->told = b->told || !k->plan;
    return k->plan;
}

/* ---- linear ---- */

static void multiply(struct cuda_backend *cb, const struct cuda_blas_call *c)
{
    if (cb->dead)
        return;
    cudaStream_t stream = cuda_stream(cb);
    if (cb->be.graphs)
        cuda_queue_call(cb->queue, cuda_blas_multiply, c, sizeof *c);
    else
        cuda_check(cb, cuda_blas_multiply(c, stream), "a product of cuBLASLt");
}

/* What a product by the library has its operands in: BF16 weights stay as they are, all others become f16. */
static enum dtype product_type(const struct cuda_linear_matrix *m)
{
    return m->type == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F16;
}

static bool suits(const struct cuda_backend *cb, const struct cuda_linear_call *l)
{
    const int64_t x = l->x.type != DTYPE_F32 ? l->x.type : l->x_type;
    if (l->rows < cb->blas_rows || x == DTYPE_F32 || l->n_in > LINEAR_X_KEPT)
        return false;
    for (int i = 0; i < l->n_matrices; i++)
        if (l->m[i].type == DTYPE_F32 || (l->m[i].type == DTYPE_BF16 && x == DTYPE_F16))
            return false; /* f16 has bits that bf16 has not */
    return true;
}

/* Pieces of about the same size, as few as the panel's memory allows. */
static int piece_of(int n_out, int n_in)
{
    const int row = CUDA_ROW_ELEMENTS(n_in) * 2, fit = (int)(PANEL_BYTES / (size_t)row);
    const int most = fit < MAX_OUTPUTS ? fit / TILE * TILE : MAX_OUTPUTS;
    const int n = (n_out + most - 1) / most, piece = (n_out + n - 1) / n;
    return (piece + TILE - 1) / TILE * TILE;
}

static struct product product_of(const struct cuda_linear_call *l, int i)
{
    const struct cuda_linear_matrix *m = &l->m[i];
    const enum dtype type = product_type(m);
    const bool plain = !m->bias && (i > 0 || !l->add.data);
    const bool scaled = type == DTYPE_F16 && l->x.type != DTYPE_F16;
    const bool fits = m->out.type == DTYPE_F32 || m->out.type == (int64_t)type;
    const size_t row = (size_t)m->n_out * cuda_array_size(m->out);
    return (struct product){.m = m,
                            .type = type,
                            .direct = plain && !scaled && fits && row % CUDA_BLAS_ALIGN == 0 &&
                                      (uintptr_t)m->out.data % CUDA_BLAS_ALIGN == 0,
                            .piece = piece_of(m->n_out, l->n_in),
                            .n_in = l->n_in};
}

/* Outputs of the piece from `first` on; where they are sums, as many as are aligned, of which the last are nobody's. */
static int piece_outputs(const struct product *p, int first)
{
    const int n = p->m->n_out - first < p->piece ? p->m->n_out - first : p->piece;
    return p->direct ? n : (n + CUDA_PANEL - 1) / CUDA_PANEL * CUDA_PANEL;
}

static struct cuda_blas_plan *piece_plan(struct cuda_backend *cb, const struct product *p,
                                         int first)
{
    const struct cuda_blas_shape s = {.type = p->type,
                                      .out = p->direct ? (enum dtype)p->m->out.type : DTYPE_F32,
                                      .n = piece_outputs(p, first),
                                      .k = (p->n_in + 7) / 8 * 8,
                                      .ld = CUDA_ROW_ELEMENTS(p->n_in)};
    return plan_of(cb, &s);
}

/* A piece of the outputs, which stands in the panel, times all rows of x. */
static void run_piece(struct cuda_backend *cb, const struct cuda_linear_call *l,
                      const struct product *p, int first, const float *up)
{
    const struct cuda_op_blas *b = cb->blas;
    const struct cuda_linear_matrix *m = p->m;
    const int n = piece_outputs(p, first);
    const int64_t most = p->direct ? l->rows : (int64_t)(SUMS_BYTES / sizeof(float)) / n;
    const size_t x_row = (size_t)CUDA_ROW_ELEMENTS(l->n_in) * 2;
    struct cuda_blas_call c = {.plan = piece_plan(cb, p, first), .w = panel_of(b)};
    for (int64_t row = 0; row < l->rows; row += most) {
        const struct cuda_array out = cuda_array_at(m->out, row * m->n_out);
        const struct cuda_array none = {NULL, DTYPE_F32};
        c.x = (const char *)l->work + (size_t)row * x_row;
        c.rows = l->rows - row < most ? l->rows - row : most;
        c.out = p->direct ? cuda_array_at(out, first).data : (void *)sums_of(b);
        c.out_ld = p->direct ? m->n_out : n;
        multiply(cb, &c);
        if (p->direct || cb->dead)
            continue;
        const struct cuda_panel_store s = {
            .out = out,
            .add = m == l->m && l->add.data ? cuda_array_at(l->add, row * m->n_out) : none,
            .bias = m->bias,
            .sums = sums_of(b),
            .up = up + row,
            .rows = c.rows,
            .n_out = m->n_out,
            .first = first,
            .n = m->n_out - first < n ? m->n_out - first : n,
            .sums_ld = n};
        cuda_panel_store_launch(&s, cuda_stream(cb));
    }
}

bool cuda_op_blas(struct cuda_backend *cb, const struct cuda_linear_call *call)
{
    struct cuda_linear_call made_call = *call, *l = &made_call;
    if (!cb->blas || !suits(cb, l))
        return false;
    for (int i = 0; i < l->n_matrices; i++) { /* plans first: their tests use the same memory */
        const struct product p = product_of(l, i);
        for (int first = 0; first < p.m->n_out; first += p.piece)
            if (!piece_plan(cb, &p, first))
                return cb->dead;
    }
    const size_t x_bytes = (size_t)l->rows * (size_t)CUDA_ROW_ELEMENTS((int64_t)l->n_in) * 2;
    l->work = cuda_scratch(cb, x_bytes + (size_t)l->rows * sizeof(float));
    int made = -1;
    for (int i = 0; i < l->n_matrices && !cb->dead; i++) {
        const struct product p = product_of(l, i);
        float *up = (float *)(void *)((char *)l->work + x_bytes);
        if (made != (int)p.type)
            cuda_linear_rows_launch(l->work, up, l, p.type == DTYPE_BF16, cuda_stream(cb));
        made = (int)p.type;
        for (int first = 0; first < p.m->n_out && !cb->dead; first += p.piece) {
            const int left = p.m->n_out - first;
            cuda_panel_unpack_launch(panel_of(cb->blas), p.m, l->n_in, first,
                                     left < p.piece ? left : p.piece, cuda_stream(cb));
            run_piece(cb, l, &p, first, up);
        }
    }
    return true;
}
