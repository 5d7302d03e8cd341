/* cuBLASLt on emulated devices: a library of its own, so that it is found, or not, as the real one is.
 *
 * It has what kernels/cuda asks for: D = A^T B of halves with sums of f32.  What the real one would refuse, read nonsense
 * of or write into is an error here: layouts that do not fit, rows that are not aligned as was promised when the algorithm
 * was chosen, memory of nobody or of another device, results over operands, a workspace that is too small.
 *
 * Three algorithms, of which the first cuts k (and is not given to who forbids reductions).  CUEMU_BLAS:
 * "varies": the order of sums depends on the number of columns of B, as nobody promises that it does not;
 * "first varies": only that of the first algorithm which is given;  "none": no algorithm at all. */
#include "tests/cuemu/blas/cublasLt.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "tests/cuemu/cuemu_int.h"

struct cublasLtContext {
    int device;
};
struct cublasLtDesc {
    int32_t trans_a, trans_b;
};
struct cublasLtLayout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
};
struct cublasLtPreference {
    uint64_t workspace;
    uint32_t reductions, align[4];
};

namespace
{

enum { SPLIT, FIRST, SECOND, N_ALGOS };
const uint64_t MAGIC = 0x626c6173; /* of an algorithm that this library has given */
const size_t WORKSPACE = 4096;     /* that each of them scribbles in */
enum { FEW_COLUMNS = 256 };        /* where an order that varies changes */

cublasStatus_t refuse(cublasStatus_t rc, const char *why)
{
    cuemu_set_report(why);
    return rc;
}

bool is(const char *behaviour)
{
    const char *s = getenv("CUEMU_BLAS");
    return s && strcmp(s, behaviour) == 0;
}

size_t size_of(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

size_t bytes_of(const cublasLtLayout &l)
{
    return ((l.cols - 1) * (uint64_t)l.ld + l.rows) * size_of(l.type);
}

bool whole(const cublasLtLayout &l)
{
    return l.rows > 0 && l.cols > 0 && l.ld >= (int64_t)l.rows &&
           (l.type == CUDA_R_32F || l.type == CUDA_R_16F || l.type == CUDA_R_16BF);
}

/* NULL, or why D = op(A) op(B) cannot be with these. */
const char *misfit(const cublasLtDesc &desc, const cublasLtLayout &a, const cublasLtLayout &b,
                   const cublasLtLayout &c, const cublasLtLayout &d)
{
    if (!whole(a) || !whole(b) || !whole(c) || !whole(d))
        return "cuBLASLt: a layout that is none";
    if (desc.trans_a != CUBLAS_OP_T || desc.trans_b != CUBLAS_OP_N)
        return "cuBLASLt: the emulation has A transposed, and B not";
    if (a.rows != b.rows || a.cols != d.rows || b.cols != d.cols || c.rows != d.rows ||
        c.cols != d.cols)
        return "cuBLASLt: matrices that do not fit each other";
    if (a.type != b.type || a.type == CUDA_R_32F || c.type != d.type ||
        (d.type != CUDA_R_32F && d.type != a.type))
        return "cuBLASLt: types that it does not multiply";
    return nullptr;
}

float number(const uint16_t *p, cudaDataType_t type)
{
    return type == CUDA_R_16F ? __half2float(__ushort_as_half(*p))
                              : __uint_as_float((uint32_t)*p << 16);
}

struct operands {
    const uint16_t *a, *b;
    char *d;
    cublasLtLayout a_layout, b_layout, d_layout;
    bool backwards; /* k in descending order */
};

/* Columns of B one after the other, all of A's at once: so the compiler does eight outputs at a time. */
cudaError_t multiply(const operands &o)
{
    const size_t k_all = o.a_layout.rows, n = o.a_layout.cols;
    std::vector<float> a(k_all * n), sums(n);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < k_all; k++)
            a[k * n + i] = number(o.a + i * (size_t)o.a_layout.ld + k, o.a_layout.type);
    for (size_t r = 0; r < o.b_layout.cols; r++) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (size_t at = 0; at < k_all; at++) {
            const size_t k = o.backwards ? k_all - 1 - at : at;
            const float x = number(o.b + r * (size_t)o.b_layout.ld + k, o.b_layout.type);
            const float *row = &a[k * n];
            for (size_t i = 0; i < n; i++)
                sums[i] += row[i] * x;
        }
        char *to = o.d + r * (size_t)o.d_layout.ld * size_of(o.d_layout.type);
        for (size_t i = 0; i < n; i++) {
            const uint16_t half = o.d_layout.type == CUDA_R_16F
                                      ? __half_as_ushort(__float2half_rn(sums[i]))
                                      : __bfloat16_as_ushort(__float2bfloat16(sums[i]));
            if (o.d_layout.type == CUDA_R_32F)
                memcpy(to + 4 * i, &sums[i], 4);
            else
                memcpy(to + 2 * i, &half, 2);
        }
    }
    return cudaSuccess;
}

bool overlap(const char *p, size_t p_bytes, const char *q, size_t q_bytes)
{
    return p < q + q_bytes && q < p + p_bytes;
}

template <class T> cublasStatus_t set(T *to, const void *value, size_t bytes)
{
    if (bytes != sizeof *to)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: an attribute of another size");
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

} // namespace

/* Every call may be the one that fails. */
#define ENTER                       \
    cuemu_guard guard_(cuemu_lock); \
    if (cuemu_injected(CUEMU_BLAS)) \
    return CUBLAS_STATUS_INTERNAL_ERROR

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    ENTER;
    *handle = new cublasLtContext{cuemu_device};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    ENTER;
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "cuBLASLt: the emulation sums in f32");
    *desc = new cublasLtDesc{CUBLAS_OP_N, CUBLAS_OP_N};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes)
{
    ENTER;
    switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(&desc->trans_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(&desc->trans_b, value, bytes);
    }
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: an attribute that is not emulated");
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    ENTER;
    *layout = new cublasLtLayout{type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t bytes)
{
    ENTER;
    switch (what) {
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return set(&layout->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return set(&layout->cols, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return set(&layout->ld, value, bytes);
    }
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: an attribute that is not emulated");
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    ENTER;
    *preference = new cublasLtPreference{0, 7, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t bytes)
{
    ENTER;
    switch (what) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return set(&preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return set(&preference->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return set(&preference->align[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value,
                   bytes);
    }
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: an attribute that is not emulated");
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t *found, int *n_found)
{
    ENTER;
    const char *why = misfit(*desc, *a, *b, *c, *d);
    if (why)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why);
    *n_found = 0;
    for (int i = preference->reductions ? SPLIT : FIRST; i < N_ALGOS && *n_found < most; i++) {
        if (is("none") || preference->workspace < WORKSPACE)
            continue;
        cublasLtMatmulHeuristicResult_t r = {};
        r.algo.data[0] = MAGIC;
        r.algo.data[1] = (uint64_t)i;
        for (int m = 0; m < 4; m++)
            r.algo.data[2 + m] = preference->align[m];
        r.algo.data[6] = a->rows;
        r.algo.data[7] = a->cols;
        r.workspaceSize = WORKSPACE;
        found[(*n_found)++] = r;
    }
    return *n_found ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t what,
                                                    void *value, size_t bytes, size_t *written)
{
    ENTER;
    if (what != CUBLASLT_ALGO_CONFIG_SPLITK_NUM || bytes != sizeof(int32_t) ||
        algo->data[0] != MAGIC)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: an attribute that is not emulated");
    const int32_t split = algo->data[1] == SPLIT ? 4 : 1;
    memcpy(value, &split, sizeof split);
    *written = sizeof split;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    ENTER;
    const cublasLtLayout *const layouts[] = {a_layout, b_layout, c_layout, d_layout};
    const void *const at[] = {a, b, c, d};
    const char *why = misfit(*desc, *a_layout, *b_layout, *c_layout, *d_layout);
    if (why)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, why);
    if (!stream || stream->device != handle->device || cuemu_device != handle->device)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: a stream of another device");
    if (cuemu_is_device(alpha) || cuemu_is_device(beta) ||
        *static_cast<const float *>(alpha) != 1.0f || *static_cast<const float *>(beta) != 0.0f)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: the emulation has 1 A B + 0 C");
    if (!algo || algo->data[0] != MAGIC || algo->data[6] != a_layout->rows ||
        algo->data[7] != a_layout->cols)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: an algorithm of another product");
    if (workspace_bytes < WORKSPACE || (uintptr_t)workspace % 16 ||
        !cuemu_within(workspace, workspace_bytes, handle->device))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: a workspace that is none");
    for (int m = 0; m < 4; m++) {
        if (!cuemu_within(at[m], bytes_of(*layouts[m]), handle->device))
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: a matrix beyond its memory");
        if ((uintptr_t)at[m] % algo->data[2 + m] ||
            (uint64_t)layouts[m]->ld * size_of(layouts[m]->type) % algo->data[2 + m])
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: less aligned than was promised");
    }
    char *const out = static_cast<char *>(d), *const scribble = static_cast<char *>(workspace);
    for (int m = 0; m < 2; m++)
        if (overlap(out, bytes_of(*d_layout), static_cast<const char *>(at[m]),
                    bytes_of(*layouts[m])) ||
            overlap(scribble, workspace_bytes, static_cast<const char *>(at[m]),
                    bytes_of(*layouts[m])))
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: an operand is written over");
    if (overlap(out, bytes_of(*d_layout), scribble, workspace_bytes))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "cuBLASLt: the result in the workspace");
    const bool varies = is("varies") || (is("first varies") && algo->data[1] == FIRST);
    const operands o = {static_cast<const uint16_t *>(a),
                        static_cast<const uint16_t *>(b),
                        out,
                        *a_layout,
                        *b_layout,
                        *d_layout,
                        varies && b_layout->cols > FEW_COLUMNS};
    cuemu_work w = {};
    w.kind = cuemu_work::CALL;
    w.devices = 1u << handle->device;
    w.call = [=] {
        memset(scribble, 0xff, WORKSPACE);
        return multiply(o);
    };
    return cuemu_enqueue(stream, std::move(w)) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                              : CUBLAS_STATUS_INTERNAL_ERROR;
}

} // extern "C"
