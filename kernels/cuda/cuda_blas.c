/* Opening cuBLASLt's library, and products by it.  Its matrices are column-major, ours are rows: it is told to compute
 * out^T [n, rows] = w^T' x^T, where w as it lies is a [k, n] that is to be transposed. */
#include "kernels/cuda/cuda_blas.h"

#include <dlfcn.h>
#include <stdlib.h>

#include "base/arena.h"
#include "kernels/cuda/cuda_library.h"
#include "kernels/quant.h"

/* cublasLt.h's, which need not be there to build. */
enum {
    STATUS_SUCCESS = 0,
    COMPUTE_32F = 68,
    OP_T = 1,
    R_32F = 0,
    R_16F = 2,
    R_16BF = 14,
    DESC_TRANSA = 3,
    LAYOUT_COLS = 3,
    LAYOUT_LD = 4,
    PREFERENCE_WORKSPACE = 1,
    PREFERENCE_REDUCTIONS = 3,
    PREFERENCE_ALIGN_A = 5, /* and of B, C, D: the three behind it */
    ALGO_SPLIT_K = 2,
};

typedef struct {
    uint64_t data[8];
} algo;

typedef struct {
    algo which;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
} heuristic;

typedef void *handle; /* so are descriptors, layouts, preferences */

/* clang-format off */
/* X(name, arguments): int cublasLt<name>(arguments), 0 or an error. */
#define CALLS(X) \
    X(Create, (handle *lib)) \
    X(Destroy, (handle lib)) \
    X(MatmulDescCreate, (handle *desc, int compute, int scale)) \
    X(MatmulDescSetAttribute, (handle desc, int what, const void *value, size_t bytes)) \
    X(MatmulDescDestroy, (handle desc)) \
    X(MatrixLayoutCreate, (handle *layout, int type, uint64_t rows, uint64_t cols, int64_t ld)) \
    X(MatrixLayoutSetAttribute, (handle layout, int what, const void *value, size_t bytes)) \
    X(MatrixLayoutDestroy, (handle layout)) \
    X(MatmulPreferenceCreate, (handle *preference)) \
    X(MatmulPreferenceSetAttribute, (handle preference, int what, const void *value, size_t bytes)) \
    X(MatmulPreferenceDestroy, (handle preference)) \
    X(MatmulAlgoGetHeuristic, (handle lib, handle desc, handle a, handle b, handle c, handle d, handle preference, \
                               int most, heuristic *found, int *n_found)) \
    X(MatmulAlgoConfigGetAttribute, (const algo *which, int what, void *value, size_t bytes, size_t *written)) \
    X(Matmul, (handle lib, handle desc, const void *alpha, const void *a, handle a_layout, const void *b, \
               handle b_layout, const void *beta, const void *c, handle c_layout, void *d, handle d_layout, \
               const algo *which, void *workspace, size_t workspace_bytes, cudaStream_t stream))
/* clang-format on */

enum {
    MAX_ALGOS = 8,    /* that a plan may try */
    PLAN_ROWS = 1024, /* the number of rows that algorithms are chosen for */
};

struct cuda_blas_plan {
    struct cuda_blas *blas;
    handle desc, w, x, out;
    algo algos[MAX_ALGOS];
    int n_algos, at;
};

struct cuda_blas {
    void *library;
    handle lib;
    void *workspace;
#define X(name, arguments) int(*name) arguments;
    CALLS(X)
#undef X
};

static int load(struct cuda_blas *b, struct err *e)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    for (size_t i = 0; i < sizeof names / sizeof *names && !b->library; i++)
        b->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!b->library)
        return err_set(e, ERR_UNSUPPORTED, "cuBLASLt cannot be loaded: %s",
                       dlerror()); /* NOLINT(concurrency-mt-unsafe): glibc's is a thread's own */
    int rc = 0;
#define X(name, arguments) \
    rc = rc ? rc : cuda_library_find(b->library, "cuBLASLt", "cublasLt" #name, &b->name, e);
    CALLS(X)
#undef X
    return rc;
}

int cuda_blas_open(struct cuda_blas **out, void *workspace, struct err *e)
{
    struct cuda_blas *b = xcalloc(1, sizeof *b);
    b->workspace = workspace;
    int rc = load(b, e);
    int status = rc ? 0 : b->Create(&b->lib);
    if (status != STATUS_SUCCESS)
        rc = err_set(e, ERR_UNSUPPORTED, "cuBLASLt cannot be used: its status %d", status);
    if (rc) {
        cuda_blas_close(b);
        return rc;
    }
    *out = b;
    return 0;
}

void cuda_blas_plan_close(struct cuda_blas_plan *p)
{
    if (!p)
        return;
    const struct cuda_blas *b = p->blas;
    if (p->desc)
        b->MatmulDescDestroy(p->desc);
    if (p->w)
        b->MatrixLayoutDestroy(p->w);
    if (p->x)
        b->MatrixLayoutDestroy(p->x);
    if (p->out)
        b->MatrixLayoutDestroy(p->out);
    free(p);
}

void cuda_blas_close(struct cuda_blas *b)
{
    if (!b)
        return;
    if (b->lib)
        b->Destroy(b->lib);
    if (b->library)
        dlclose(b->library);
    free(b);
}

static int type_of(enum dtype type)
{
    return type == DTYPE_F32 ? R_32F : type == DTYPE_F16 ? R_16F : R_16BF;
}

/* Whether an algorithm has one sum over k for each result. */
static bool whole(const struct cuda_blas *b, const heuristic *h)
{
    int32_t split = 0;
    size_t written = 0;
    return h->state == STATUS_SUCCESS && h->workspace_bytes <= CUDA_BLAS_WORKSPACE &&
           b->MatmulAlgoConfigGetAttribute(&h->which, ALGO_SPLIT_K, &split, sizeof split,
                                           &written) == STATUS_SUCCESS &&
           split <= 1;
}

/* The library's algorithms, best first, that work with any rows: sums are not reduced from pieces, and no matrix is
 * aligned better than ours. */
static int choose(struct cuda_blas_plan *p, handle preference)
{
    const struct cuda_blas *b = p->blas;
    const uint64_t workspace = CUDA_BLAS_WORKSPACE;
    const uint32_t reductions = 0, align = CUDA_BLAS_ALIGN;
    heuristic found[MAX_ALGOS];
    int n = 0;
    int rc = b->MatmulPreferenceSetAttribute(preference, PREFERENCE_WORKSPACE, &workspace,
                                             sizeof workspace);
    if (rc == STATUS_SUCCESS)
        rc = b->MatmulPreferenceSetAttribute(preference, PREFERENCE_REDUCTIONS, &reductions,
                                             sizeof reductions);
    for (int i = 0; i < 4 && rc == STATUS_SUCCESS; i++)
        rc = b->MatmulPreferenceSetAttribute(preference, PREFERENCE_ALIGN_A + i, &align,
                                             sizeof align);
    if (rc == STATUS_SUCCESS)
        rc = b->MatmulAlgoGetHeuristic(b->lib, p->desc, p->w, p->x, p->out, p->out, preference,
                                       MAX_ALGOS, found, &n);
    for (int i = 0; i < n && rc == STATUS_SUCCESS; i++)
        if (whole(b, &found[i]))
            p->algos[p->n_algos++] = found[i].which;
    return rc;
}

struct cuda_blas_plan *cuda_blas_plan(struct cuda_blas *b, const struct cuda_blas_shape *s,
                                      struct err *e)
{
    struct cuda_blas_plan *p = xcalloc(1, sizeof *p);
    const int type = type_of(s->type);
    const int32_t transposed = OP_T;
    const uint64_t n = (uint64_t)s->n, k = (uint64_t)s->k;
    handle preference = NULL;
    p->blas = b;
    int rc = b->MatmulDescCreate(&p->desc, COMPUTE_32F, R_32F);
    if (rc == STATUS_SUCCESS)
        rc = b->MatmulDescSetAttribute(p->desc, DESC_TRANSA, &transposed, sizeof transposed);
    if (rc == STATUS_SUCCESS)
        rc = b->MatrixLayoutCreate(&p->w, type, k, n, s->ld);
    if (rc == STATUS_SUCCESS)
        rc = b->MatrixLayoutCreate(&p->x, type, k, PLAN_ROWS, s->ld);
    if (rc == STATUS_SUCCESS)
        rc = b->MatrixLayoutCreate(&p->out, type_of(s->out), n, PLAN_ROWS, s->n);
    if (rc == STATUS_SUCCESS)
        rc = b->MatmulPreferenceCreate(&preference);
    if (rc == STATUS_SUCCESS)
        rc = choose(p, preference);
    if (preference)
        b->MatmulPreferenceDestroy(preference);
    if (rc != STATUS_SUCCESS || p->n_algos == 0) {
        err_set(e, ERR_UNSUPPORTED, "cuBLASLt has no product of %s, %d > %d: its status %d",
                dtype_name(s->type), s->k, s->n, rc);
        cuda_blas_plan_close(p);
        return NULL;
    }
    return p;
}

bool cuda_blas_next(struct cuda_blas_plan *p)
{
    return ++p->at < p->n_algos;
}

cudaError_t cuda_blas_multiply(const void *args, cudaStream_t stream)
{
    const struct cuda_blas_call *c = args;
    const struct cuda_blas_plan *p = c->plan;
    const struct cuda_blas *b = p->blas;
    const uint64_t rows = (uint64_t)c->rows;
    const float one = 1, zero = 0;
    int rc = b->MatrixLayoutSetAttribute(p->x, LAYOUT_COLS, &rows, sizeof rows);
    if (rc == STATUS_SUCCESS)
        rc = b->MatrixLayoutSetAttribute(p->out, LAYOUT_COLS, &rows, sizeof rows);
    if (rc == STATUS_SUCCESS)
        rc = b->MatrixLayoutSetAttribute(p->out, LAYOUT_LD, &c->out_ld, sizeof c->out_ld);
    if (rc == STATUS_SUCCESS)
        rc = b->Matmul(b->lib, p->desc, &one, c->w, p->w, c->x, p->x, &zero, c->out, p->out, c->out,
                       p->out, &p->algos[p->at], b->workspace, CUDA_BLAS_WORKSPACE, stream);
    return rc == STATUS_SUCCESS ? cudaSuccess : cudaErrorUnknown;
}
