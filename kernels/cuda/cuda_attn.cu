/* Flash attention (Dao 2023) between whole matrices, for head dims up to 512.  A warp has 16 queries; the
 * running softmax stays in registers, scores never leave them: the accumulator of q k^T is the operand of
 * p v.  Where a head is too wide for the registers, the warps of a block share its dims: each sums its
 * part of the scores, which are added in shared memory in a fixed order. */
#include "kernels/cuda/cuda_attn.h"

#include "kernels/cuda/cuda_flash.cuh"

#define DENSE_WARPS   4
#define DENSE_THREADS (DENSE_WARPS * CUDA_WARP)

/* dims: head_dim rounded up, a multiple of 16 * wide; wide: warps that share a query's dims; keys: of a
 * tile, a multiple of 16. */
template <int dims_, int wide_, int keys_> struct dense_shape {
    static constexpr int dims = dims_, wide = wide_, keys = keys_;
    static constexpr int queries = 16 * DENSE_WARPS / wide; /* of a block */
    static constexpr int own = dims / wide;                 /* dims of a warp */
    static constexpr int stride = dims + 8; /* halves of a row in shared memory: 16 bytes further in
                                               the banks than the row before */
    static constexpr int q_halves = queries * stride, k_halves = keys * stride;
    static constexpr int share_floats = wide > 1 ? DENSE_WARPS *keys / 8 * 4 * CUDA_WARP : 0;
    static constexpr int shared_bytes = 2 * 2 * (q_halves + 2 * k_halves) + 4 * share_floats;
};

/* Rows of f32 to two matrices of halves; rows and dims that are not there are zeros. */
template <class S>
__device__ static inline void dense_load(__half *to, __half *lost, const float *from,
                                         int64_t stride, int rows, int there, int dim, float scale)
{
    for (int i = threadIdx.x; i < rows * S::dims; i += DENSE_THREADS) {
        const int r = i / S::dims, d = i % S::dims;
        const float x = r < there && d < dim ? from[r * stride + d] * scale : 0.0f;
        const __half h = __float2half_rn(x);
        to[r * S::stride + d] = h;
        lost[r * S::stride + d] = __float2half_rn(x - __half2float(h));
    }
}

/* (a + a') (b + b') without a' b' */
__device__ static inline void dense_mma(float c[4], const uint32_t a[4], const uint32_t lost_a[4],
                                        const uint32_t b[2], const uint32_t lost_b[2])
{
    cuda_mma_f16(c, a, b);
    cuda_mma_f16(c, a, lost_b);
    cuda_mma_f16(c, lost_a, b);
}

/* Scores of the warp's 16 queries and a tile's keys, over its own dims. */
template <class S>
__device__ static inline void dense_scores(float s[S::keys / 8][4], const __half *q,
                                           const __half *lost_q, const __half *k,
                                           const __half *lost_k, int lane)
{
#pragma unroll
    for (int n = 0; n < S::keys / 8; n++)
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
    for (int d = 0; d < S::own; d += 16) {
        uint32_t a[4], lost_a[4];
        const int at = lane % 16 * S::stride + d + lane / 16 * 8;
        cuda_ldmatrix4(a, q + at);
        cuda_ldmatrix4(lost_a, lost_q + at);
#pragma unroll
        for (int n = 0; n < S::keys / 8; n += 2) { /* 16 keys: both halves of k of two tiles */
            uint32_t b[4], lost_b[4];
            const int row = (n * 8 + lane / 16 * 8 + lane % 8) * S::stride + d + lane / 8 % 2 * 8;
            cuda_ldmatrix4(b, k + row);
            cuda_ldmatrix4(lost_b, lost_k + row);
            dense_mma(s[n], a, lost_a, b, lost_b);
            dense_mma(s[n + 1], a, lost_a, b + 2, lost_b + 2);
        }
    }
    cuda_mma_wait();
}

/* Adds the scores of the warps that share queries, in their order. */
template <class S> __device__ static inline void dense_share(float s[S::keys / 8][4], float *shared)
{
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    constexpr int n = S::keys / 8 * 4;
    __syncthreads();
    for (int i = 0; i < n; i++)
        shared[(warp * n + i) * CUDA_WARP + lane] = s[i / 4][i % 4];
    __syncthreads();
    const int first = warp / S::wide * S::wide;
#pragma unroll
    for (int i = 0; i < n; i++) {
        float sum = shared[(first * n + i) * CUDA_WARP + lane];
        for (int w = 1; w < S::wide; w++)
            sum += shared[((first + w) * n + i) * CUDA_WARP + lane];
        s[i / 4][i % 4] = sum;
    }
}

/* acc += p v over the warp's own dims. */
template <class S>
__device__ static inline void dense_values(float acc[S::own / 8][4], const float s[S::keys / 8][4],
                                           const __half *v, const __half *lost_v, int lane)
{
#pragma unroll
    for (int n = 0; n < S::keys / 8; n += 2) {
        uint32_t a[4], lost_a[4];
        cuda_flash_weights(s + n, a, lost_a);
#pragma unroll
        for (int d = 0; d < S::own / 8; d += 2) {
            uint32_t b[4], lost_b[4];
            const int row = (n * 8 + lane % 16) * S::stride + d * 8 + lane / 16 * 8;
            cuda_ldmatrix4_trans(b, v + row);
            cuda_ldmatrix4_trans(lost_b, lost_v + row);
            dense_mma(acc[d], a, lost_a, b, lost_b);
            dense_mma(acc[d + 1], a, lost_a, b + 2, lost_b + 2);
        }
    }
    cuda_mma_wait();
}

/* Values that are no numbers, in a tile that not all queries of the block see whole. */
template <class S>
__device__ static inline void dense_odd(float acc[S::own / 8][4], __half *v, int own,
                                        const int lo[2], const int hi[2])
{
    bool odd = false;
    for (int i = threadIdx.x; i < S::k_halves; i += DENSE_THREADS)
        odd |= i % S::stride < S::dims && cuda_flash_is_odd(v[i]);
    if (!__syncthreads_or(odd))
        return;
    cuda_flash_odd_values<S::keys, S::own>(acc, v + own, S::stride, lo, hi);
    __syncthreads();
    for (int i = threadIdx.x; i < S::k_halves; i += DENSE_THREADS)
        if (i % S::stride < S::dims && cuda_flash_is_odd(v[i]))
            v[i] = v[S::k_halves + i] = __float2half_rn(0.0f);
    __syncthreads();
}

template <class S>
__global__ void __launch_bounds__(DENSE_THREADS, 2)
    dense_kernel(const struct cuda_attn_dense_call a)
{
    SHARED_DYN(__half, memory);
    const struct attn_item item = a.items[blockIdx.z];
    const int first = blockIdx.x * S::queries, head = blockIdx.y * a.head_dim;
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    if (first >= item.n_q)
        return;
    __half *q = memory, *k = q + 2 * S::q_halves, *v = k + 2 * S::k_halves;
    float *share = reinterpret_cast<float *>(v + 2 * S::k_halves);
    const int there = item.n_q - first < S::queries ? item.n_q - first : S::queries;
    const int ahead = item.n_k - item.n_q; /* keys before the first query's own */
    int n_k = item.n_k;
    if (a.causal)
        n_k = first + there + ahead < n_k ? first + there + ahead : n_k;
    dense_load<S>(q, q + S::q_halves, item.q + (int64_t)first * item.q_stride + head, item.q_stride,
                  S::queries, there, a.head_dim, a.scale);
    const int row0 = warp / S::wide * 16, own = warp % S::wide * S::own;
    struct cuda_flash rows = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    float acc[S::own / 8][4] = {};
    for (int key = 0; key < n_k; key += S::keys) {
        const int64_t from = (int64_t)key * item.kv_stride + head;
        const int n = item.n_k - key < S::keys ? item.n_k - key : S::keys;
        __syncthreads();
        dense_load<S>(k, k + S::k_halves, item.k + from, item.kv_stride, S::keys, n, a.head_dim,
                      1.0f);
        dense_load<S>(v, v + S::k_halves, item.v + from, item.kv_stride, S::keys, n, a.head_dim,
                      1.0f);
        __syncthreads();
        float s[S::keys / 8][4];
        dense_scores<S>(s, q + row0 * S::stride + own, q + S::q_halves + row0 * S::stride + own,
                        k + own, k + S::k_halves + own, lane);
        if (S::wide > 1)
            dense_share<S>(s, share);
        int limit[2];
        const int none[2] = {0, 0};
        for (int h = 0; h < 2; h++) {
            const int query = first + row0 + lane / 4 + 8 * h;
            const int seen = a.causal ? query + 1 + ahead : item.n_k;
            limit[h] = (seen < item.n_k ? seen : item.n_k) - key;
        }
        cuda_flash_softmax<S::keys, S::own>(s, &rows, acc, none, limit, lane);
        if (a.causal && key + S::keys > first + 1 + ahead)
            dense_odd<S>(acc, v, own, none, limit);
        dense_values<S>(acc, s, v + own, v + S::k_halves + own, lane);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = rows.sum[h];
        for (int o = 1; o < 4; o *= 2)
            sum += __shfl_xor_sync(CUDA_ALL, sum, o);
        const int query = first + row0 + lane / 4 + 8 * h;
        float *out = item.out + (int64_t)query * item.out_stride + head;
#pragma unroll
        for (int d = 0; d < S::own / 8; d++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int at = own + d * 8 + lane % 4 * 2 + i;
                if (query < item.n_q && at < a.head_dim)
                    out[at] = acc[d][2 * h + i] / sum;
            }
    }
}

template <class S>
static void dense_launch(const struct cuda_attn_dense_call *a, cudaStream_t stream)
{
    LAUNCH(dense_kernel<S>, dim3((a->max_q + S::queries - 1) / S::queries, a->n_heads, a->n_items),
           DENSE_THREADS, S::shared_bytes, stream, *a);
}

void cuda_attn_launch(const struct cuda_attn_dense_call *a, cudaStream_t stream)
{
    if (a->n_items <= 0 || a->max_q <= 0)
        return;
    if (a->head_dim <= 48)
        dense_launch<dense_shape<48, 1, 32>>(a, stream);
    else if (a->head_dim <= 64)
        dense_launch<dense_shape<64, 1, 32>>(a, stream);
    else if (a->head_dim <= 80)
        dense_launch<dense_shape<80, 1, 32>>(a, stream);
    else if (a->head_dim <= 160)
        dense_launch<dense_shape<160, 1, 16>>(a, stream);
    else
        dense_launch<dense_shape<512, 4, 16>>(a, stream);
}
