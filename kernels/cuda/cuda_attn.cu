/* Flash attention (Dao 2023) between whole matrices, for head dims up to 160; wider ones are in
 * cuda_attn_wide.cu.  A warp has 16 queries; the running softmax stays in registers, scores never leave them:
 * the accumulator of q k^T is the operand of p v. */
#include "kernels/cuda/cuda_attn.h"

#include "kernels/cuda/cuda_array.cuh"
#include "kernels/cuda/cuda_flash.cuh"

#define DENSE_WARPS   4
#define DENSE_THREADS (DENSE_WARPS * CUDA_WARP)

#define DENSE_QUERIES (16 * DENSE_WARPS) /* of a block */

/* dims: head_dim rounded up, a multiple of 16; keys: of a tile, a multiple of 16; type: what q, k and v are multiplied
 * as: f32 as two halves, f16 and bf16 as one. Weights of bf16 are two, which keep 16 bits.
 *
 * Shared memory:   2 parts   [ q ] [ lost q ] [ k ] [ lost k ] [ v ] [ lost v ]
 *                  1 part    [ q ] [ k ] [ v ] [ the next tile's k ] [ its v ] */
template <int dims_, int keys_, int type_> struct dense_shape {
    static constexpr bool bf16 = type_ == DTYPE_BF16;
    static constexpr int dims = dims_, keys = keys_, type = type_,
                         parts = type == DTYPE_F32 ? 2 : 1;
    static constexpr int stride = dims + 8; /* halves of a row in shared memory: 16 bytes further in
                                               the banks than the row before */
    static constexpr int q_halves = DENSE_QUERIES * stride, k_halves = keys * stride;
    static constexpr int blocks = parts == 2 && dims <= 64 ? 4 : 2; /* of a multiprocessor */
    static constexpr int shared_bytes = 2 * (parts * q_halves + 4 * k_halves);
};

/* Rows of a head: element d of row r is from[r * stride + d]. */
struct dense_rows {
    struct cuda_array from;
    int64_t stride;
    int there, dim; /* rows and dims that are there; the others are zeros */
};

/* To a matrix of halves; and to a second one what they lost, if there are two parts. */
template <class S>
__device__ static inline void dense_load(__half *to, __half *lost, const struct dense_rows &m,
                                         int rows, float scale)
{
    const int wide_dims = S::dims / 8;
    const bool wide = m.from.type == S::type && m.dim % 8 == 0 && m.stride % 8 == 0 &&
                      reinterpret_cast<uintptr_t>(m.from.data) % 16 == 0;
    if (S::parts == 1 && wide) {
        const __half *from = static_cast<const __half *>(m.from.data);
        for (int i = threadIdx.x; i < rows * wide_dims; i += DENSE_THREADS) {
            const int r = i / wide_dims, d = i % wide_dims * 8;
            const bool there = r < m.there && d < m.dim;
            cuda_copy16(to + r * S::stride + d, from + (there ? r * m.stride + d : 0),
                        there ? 16 : 0);
        }
        return;
    }
    for (int i = threadIdx.x; i < rows * S::dims; i += DENSE_THREADS) {
        const int r = i / S::dims, d = i % S::dims;
        const float x =
            r < m.there && d < m.dim ? cuda_get(m.from, r * m.stride + d) * scale : 0.0f;
        const __half h =
            S::bf16 ? __ushort_as_half(cuda_array_bits(x, DTYPE_BF16)) : __float2half_rn(x);
        to[r * S::stride + d] = h;
        if (S::parts == 2)
            lost[r * S::stride + d] = __float2half_rn(x - __half2float(h));
    }
}

/* a b, or (a + a') (b + b') without a' b', whose parts are there */
template <bool bf16, bool has_lost_a, bool has_lost_b>
__device__ static inline void dense_mma(float c[4], const uint32_t a[4], const uint32_t lost_a[4],
                                        const uint32_t b[2], const uint32_t lost_b[2])
{
    bf16 ? cuda_mma_bf16(c, a, b) : cuda_mma_f16(c, a, b);
    if (has_lost_b)
        cuda_mma_f16(c, a, lost_b);
    if (has_lost_a)
        bf16 ? cuda_mma_bf16(c, lost_a, b) : cuda_mma_f16(c, lost_a, b);
}

/* Scores of the warp's 16 queries and a tile's keys.  lost_q, lost_k: not read if there is one
 * part. */
template <class S>
__device__ static inline void dense_scores(float s[S::keys / 8][4], const __half *q,
                                           const __half *lost_q, const __half *k,
                                           const __half *lost_k, int lane)
{
#pragma unroll
    for (int n = 0; n < S::keys / 8; n++)
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
    for (int d = 0; d < S::dims; d += 16) {
        uint32_t a[4], lost_a[4];
        const int at = lane % 16 * S::stride + d + lane / 16 * 8;
        cuda_ldmatrix4(a, q + at);
        if (S::parts == 2)
            cuda_ldmatrix4(lost_a, lost_q + at);
#pragma unroll
        for (int n = 0; n < S::keys / 8; n += 2) { /* 16 keys: both halves of k of two tiles */
            uint32_t b[4], lost_b[4];
            const int row = (n * 8 + lane / 16 * 8 + lane % 8) * S::stride + d + lane / 8 % 2 * 8;
            cuda_ldmatrix4(b, k + row);
            if (S::parts == 2)
                cuda_ldmatrix4(lost_b, lost_k + row);
            constexpr bool lost = S::parts == 2;
            dense_mma<S::bf16, lost, lost>(s[n], a, lost_a, b, lost_b);
            dense_mma<S::bf16, lost, lost>(s[n + 1], a, lost_a, b + 2, lost_b + 2);
        }
    }
    cuda_mma_wait();
}

/* acc += p v */
template <class S>
__device__ static inline void dense_values(float acc[S::dims / 8][4], const float s[S::keys / 8][4],
                                           const __half *v, const __half *lost_v, int lane)
{
#pragma unroll
    for (int n = 0; n < S::keys / 8; n += 2) {
        uint32_t a[4], lost_a[4];
        cuda_flash_weights<S::bf16>(s + n, a, lost_a);
#pragma unroll
        for (int d = 0; d < S::dims / 8; d += 2) {
            uint32_t b[4], lost_b[4];
            const int row = (n * 8 + lane % 16) * S::stride + d * 8 + lane / 16 * 8;
            cuda_ldmatrix4_trans(b, v + row);
            if (S::parts == 2)
                cuda_ldmatrix4_trans(lost_b, lost_v + row);
            constexpr bool lost = S::parts == 2;
            dense_mma<S::bf16, lost || S::bf16, lost>(acc[d], a, lost_a, b, lost_b);
            dense_mma<S::bf16, lost || S::bf16, lost>(acc[d + 1], a, lost_a, b + 2, lost_b + 2);
        }
    }
    cuda_mma_wait();
}

/* Values that are no numbers, in a tile that not all queries of the block see whole. */
template <class S>
__device__ static inline void dense_odd(float acc[S::dims / 8][4], __half *v, const int lo[2],
                                        const int hi[2])
{
    bool odd = false;
    for (int i = threadIdx.x; i < S::k_halves; i += DENSE_THREADS)
        odd |= i % S::stride < S::dims && cuda_flash_is_odd<S::bf16>(v[i]);
    if (!__syncthreads_or(odd))
        return;
    cuda_flash_odd_values<S::keys, S::dims, S::bf16>(acc, v, S::stride, lo, hi);
    __syncthreads();
    for (int i = threadIdx.x; i < S::k_halves; i += DENSE_THREADS)
        if (i % S::stride < S::dims && cuda_flash_is_odd<S::bf16>(v[i])) {
            v[i] = __float2half_rn(0.0f);
            if (S::parts == 2)
                v[S::k_halves + i] = v[i];
        }
    __syncthreads();
}

/* Keys and values from `key` on to their places: of this tile, or (one part) of the next one, which is copied
 * meanwhile. */
template <class S>
__device__ static inline void dense_tile(__half *k, __half *v, const struct attn_item &item,
                                         const struct cuda_attn_dense_call &a, int key, int head)
{
    const int64_t at = (int64_t)key * item.kv_stride + head;
    struct dense_rows m;
    m.from.type = a.kv_type;
    m.stride = item.kv_stride;
    m.there = item.n_k - key < S::keys ? item.n_k - key : S::keys;
    m.dim = a.head_dim;
    m.from.data = const_cast<void *>(item.k);
    m.from = cuda_array_at(m.from, at);
    dense_load<S>(k, k + S::k_halves, m, S::keys, 1.0f);
    m.from.data = const_cast<void *>(item.v);
    m.from = cuda_array_at(m.from, at);
    dense_load<S>(v, v + S::k_halves, m, S::keys, 1.0f);
    cuda_copy_commit();
}

/* Queries from `first` on.  With two parts they are scaled at once, with one the scores are. */
template <class S>
__device__ static inline void dense_queries(__half *q, const struct attn_item &item,
                                            const struct cuda_attn_dense_call &a, int first,
                                            int head)
{
    struct dense_rows m;
    m.from.type = a.type;
    m.from.data = const_cast<void *>(item.q);
    m.from = cuda_array_at(m.from, (int64_t)first * item.q_stride + head);
    m.stride = item.q_stride;
    m.there = item.n_q - first < DENSE_QUERIES ? item.n_q - first : DENSE_QUERIES;
    m.dim = a.head_dim;
    dense_load<S>(q, q + S::q_halves, m, DENSE_QUERIES, S::parts == 2 ? a.scale : 1.0f);
}

/* Sums over the keys to results. */
template <class S>
__device__ static inline void
dense_store(float acc[S::dims / 8][4], const struct cuda_flash &rows, const struct attn_item &item,
            const struct cuda_attn_dense_call &a, int query0, int head)
{
    const int lane = threadIdx.x % CUDA_WARP;
    struct cuda_array out;
    out.data = item.out, out.type = a.type;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float sum = cuda_exchange<cuda_add, 1, 2>(rows.sum[h]);
        const int query = query0 + lane / 4 + 8 * h;
        const int64_t row = (int64_t)query * item.out_stride + head;
#pragma unroll
        for (int d = 0; d < S::dims / 8; d++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int at = d * 8 + lane % 4 * 2 + i;
                if (query < item.n_q && at < a.head_dim)
                    cuda_set(out, row + at, acc[d][2 * h + i] / sum);
            }
    }
}

template <class S>
__global__ void __launch_bounds__(DENSE_THREADS, S::blocks)
    dense_kernel(const struct cuda_attn_dense_call a)
{
    SHARED_DYN(__half, memory);
    const struct attn_item item = a.items[blockIdx.z];
    const int first = blockIdx.x * DENSE_QUERIES, head = blockIdx.y * a.head_dim;
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    if (first >= item.n_q)
        return;
    constexpr int parts = S::parts, turn = parts == 1 ? 2 * S::k_halves : 0; /* to the other tile */
    __half *q = memory, *k0 = q + parts * S::q_halves, *v0 = k0 + parts * S::k_halves;
    const int there = item.n_q - first < DENSE_QUERIES ? item.n_q - first : DENSE_QUERIES;
    const int ahead = item.n_k - item.n_q; /* keys before the first query's own */
    int n_k = item.n_k;
    if (a.causal)
        n_k = first + there + ahead < n_k ? first + there + ahead : n_k;
    dense_queries<S>(q, item, a, first, head);
    if (parts == 1)
        dense_tile<S>(k0, v0, item, a, 0, head);
    const int row0 = warp * 16;
    struct cuda_flash rows = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    float acc[S::dims / 8][4] = {};
    for (int key = 0, odd = 0; key < n_k; key += S::keys, odd ^= 1) {
        __half *k = k0 + odd * turn, *v = v0 + odd * turn;
        __syncthreads();
        if (parts == 2)
            dense_tile<S>(k, v, item, a, key, head);
        else if (key + S::keys < n_k)
            dense_tile<S>(k0 + turn - odd * turn, v0 + turn - odd * turn, item, a, key + S::keys,
                          head);
        else
            cuda_copy_commit();
        cuda_copy_wait<parts == 1 ? 1 : 0>();
        __syncthreads();
        float s[S::keys / 8][4];
        dense_scores<S>(s, q + row0 * S::stride, q + S::q_halves + row0 * S::stride, k,
                        k + S::k_halves, lane);
#pragma unroll
        for (int i = 0; parts == 1 && i < S::keys / 2; i++)
            s[i / 4][i % 4] *= a.scale;
        int limit[2];
        const int none[2] = {0, 0};
        for (int h = 0; h < 2; h++) {
            const int query = first + row0 + lane / 4 + 8 * h;
            const int seen = a.causal ? query + 1 + ahead : item.n_k;
            limit[h] = (seen < item.n_k ? seen : item.n_k) - key;
        }
        cuda_flash_softmax<S::keys, S::dims>(s, &rows, acc, none, limit, lane);
        if (a.causal && key + S::keys > first + 1 + ahead)
            dense_odd<S>(acc, v, none, limit);
        dense_values<S>(acc, s, v, v + S::k_halves, lane);
    }
    dense_store<S>(acc, rows, item, a, first + row0, head);
}

template <class S>
static void dense_launch(const struct cuda_attn_dense_call *a, cudaStream_t stream)
{
    LAUNCH(dense_kernel<S>,
           dim3((a->max_q + DENSE_QUERIES - 1) / DENSE_QUERIES, a->n_heads, a->n_items),
           DENSE_THREADS, S::shared_bytes, stream, *a);
}

/* keys2, keys1: of a tile of two parts, and of one.  Halves that are not all bf16 are multiplied as f16. */
template <int dims, int keys2, int keys1>
static void dense_choose(const struct cuda_attn_dense_call *a, cudaStream_t stream)
{
    if (a->type == DTYPE_F32)
        dense_launch<dense_shape<dims, keys2, DTYPE_F32>>(a, stream);
    else if (a->type == DTYPE_BF16 && a->kv_type == DTYPE_BF16)
        dense_launch<dense_shape<dims, keys1, DTYPE_BF16>>(a, stream);
    else
        dense_launch<dense_shape<dims, keys1, DTYPE_F16>>(a, stream);
}

void cuda_attn_launch(const struct cuda_attn_dense_call *a, cudaStream_t stream)
{
    if (a->n_items <= 0 || a->max_q <= 0)
        return;
    if (a->head_dim <= 48)
        dense_choose<48, 32, 64>(a, stream);
    else if (a->head_dim <= 64)
        dense_choose<64, 32, 64>(a, stream);
    else if (a->head_dim <= 80)
        dense_choose<80, 32, 64>(a, stream);
    else if (a->head_dim <= 160)
        dense_choose<160, 16, 32>(a, stream);
    else
        cuda_attn_wide_launch(a, stream);
}
