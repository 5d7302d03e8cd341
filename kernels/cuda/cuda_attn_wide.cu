/* Flash attention (Dao 2023) for heads of 161 to 512 dims, as the middle of an image decoder has.  A block has 32
 * queries, and its 8 warps share the dims: a warp keeps its dims of q and of the result in registers, reads its
 * dims of k and v through tiles of its own, and waits for nobody to copy the next ones.  What the warps sum of
 * the scores goes through shared memory; each adds up and weighs those of four queries, in the warps' order.
 *
 * Keys and values that are f32 are so in shared memory too, and become two halves in the registers of the only warp
 * that reads them; halves are multiplied as they stand.  The 16 k of an mma may be any as long as both operands agree,
 * so lane 4 g + t has of 16 dims of q and k the dims 4 t ... 4 t + 3 for k indices 2t, 2t + 1, 2t + 8, 2t + 9.  Its 8
 * columns may be any as long as the result agrees: halves of v come by ldmatrix in their order, of f32 a lane reads
 *     of 32 dims of v        4 g ... 4 g + 3, a column each of four products
 *     of 32 dims of results  8 t ... 8 t + 7 */
#include "kernels/cuda/cuda_attn.h"

#include "kernels/cuda/cuda_array.cuh"
#include "kernels/cuda/cuda_flash.cuh"

#define WIDE_WARPS   8
#define WIDE_THREADS (WIDE_WARPS * CUDA_WARP)
#define WIDE_QUERIES 32 /* two fragments of 16 */
#define WIDE_KEYS    16 /* of a tile */
#define WIDE_WEIGHTS 24 /* halves of a row of weights: 16 and what keeps banks apart */

template <bool f32> struct wide_element {
    typedef float t;
};
template <> struct wide_element<false> {
    typedef __half t; /* or the bits of a bf16 */
};

/* dims: head_dim rounded up; type: of q, k and v in shared memory and registers.  Bytes of shared memory:
 *     [ k: keys x k_stride ] [ v: keys x v_stride ] [ parts of scores ] [ weights, what they lost ] [ keep ] */
template <int dims_, int type_> struct wide_shape {
    static constexpr int type = type_, dims = dims_, own = dims / WIDE_WARPS;
    static constexpr bool f32 = type == DTYPE_F32, bf16 = type == DTYPE_BF16;
    static constexpr int blocks = dims <= 256 ? 2 : 1;
    static constexpr int parts = f32 ? 2 : 1;                      /* halves of q, k and v */
    static constexpr int weight_parts = type == DTYPE_F16 ? 1 : 2; /* and of the weights */
    typedef typename wide_element<f32>::t element;
    static constexpr int size = f32 ? 4 : 2, piece = 16 / size;
    static constexpr int k_stride = dims + 16,
                         v_stride = dims + (f32 ? 4 : 8); /* other banks a row */
    static constexpr int v_at = size * WIDE_KEYS * k_stride;
    static constexpr int parts_at = v_at + size * WIDE_KEYS * v_stride;
    static constexpr int weights_at = parts_at + 4 * WIDE_WARPS * WIDE_QUERIES * WIDE_KEYS;
    static constexpr int keep_at = weights_at + 2 * weight_parts * WIDE_QUERIES * WIDE_WEIGHTS;
    static constexpr int shared_bytes = keep_at + 4 * WIDE_QUERIES;
};

/* A warp's dims of a matrix's rows. */
struct wide_rows {
    struct cuda_array from;
    int64_t stride;
    int there, dims; /* rows and dims that are there; the others are zeros */
    bool aligned;    /* of the shape's type, every 16 bytes of dims to their size */
};

__device__ static inline void wide_put(float *to, float x, bool)
{
    *to = x;
}

__device__ static inline void wide_put(__half *to, float x, bool bf16)
{
    *to = __ushort_as_half(cuda_array_bits(x, bf16 ? DTYPE_BF16 : DTYPE_F16));
}

template <class S>
__device__ static inline void wide_fetch(typename S::element *to, int to_stride,
                                         const struct wide_rows &m, int lane)
{
    constexpr int pieces = S::own / S::piece;
    if (!m.aligned) {
#pragma unroll 1
        for (int i = lane; i < WIDE_KEYS * S::own; i += CUDA_WARP) {
            const int r = i / S::own, d = i % S::own;
            const bool there = r < m.there && d < m.dims;
            wide_put(to + r * to_stride + d, there ? cuda_get(m.from, r * m.stride + d) : 0.0f,
                     S::bf16);
        }
        return;
    }
#pragma unroll 4 /* all at once would spill on sm_100 */
    for (int i = lane; i < WIDE_KEYS * pieces; i += CUDA_WARP) {
        const int r = i / pieces, d = i % pieces * S::piece;
        const bool there = r < m.there && d < m.dims;
        cuda_copy16(to + r * to_stride + d,
                    static_cast<const typename S::element *>(m.from.data) +
                        (there ? r * m.stride + d : 0),
                    there ? 16 : 0);
    }
}

/* Four floats as both registers of a B fragment, or the k pairs of an A fragment's row. */
template <bool bf16 = false>
__device__ static inline void wide_halves(uint32_t b[2], uint32_t lost[2], float4 v)
{
    b[0] = cuda_flash_pair<bf16>(v.x, v.y, &lost[0]);
    b[1] = cuda_flash_pair<bf16>(v.z, v.w, &lost[1]);
}

/* The same of four elements in shared memory. */
__device__ static inline void wide_four(uint32_t b[2], uint32_t lost[2], const float *from)
{
    wide_halves(b, lost, *reinterpret_cast<const float4 *>(from));
}

__device__ static inline void wide_four(uint32_t b[2], uint32_t *, const __half *from)
{
    const uint2 four = *reinterpret_cast<const uint2 *>(from);
    b[0] = four.x, b[1] = four.y;
}

template <class S>
__device__ static inline void wide_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    if (S::bf16)
        cuda_mma_bf16(c, a, b);
    else
        cuda_mma_f16(c, a, b);
}

/* The warp's dims of the block's queries: [16 dims][16 queries][and what they lost] fragments. */
template <class S>
__device__ static inline void wide_queries(uint32_t q[S::own / 16][2][S::parts][4],
                                           const struct wide_rows &m, float scale, int lane)
{
#pragma unroll
    for (int f = 0; f < S::own / 16; f++)
#pragma unroll
        for (int row = 0; row < 4; row++) {
            const int r = row * 8 + lane / 4, d = f * 16 + lane % 4 * 4;
            float x[4];
            uint32_t a[2], lost[2];
#pragma unroll
            for (int i = 0; i < 4; i++)
                x[i] = r < m.there && d + i < m.dims
                           ? cuda_get(m.from, r * m.stride + d + i) * scale
                           : 0.0f;
            wide_halves<S::bf16>(a, lost, make_float4(x[0], x[1], x[2], x[3]));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                q[f][row / 2][0][row % 2 + 2 * i] = a[i];
                if (S::parts == 2)
                    q[f][row / 2][S::parts - 1][row % 2 + 2 * i] = lost[i];
            }
        }
}

/* What the warp's dims add to the scores of 32 queries and 16 keys, to its part of shared memory: pairs of keys of
 * a lane, where those of the upper 8 keys are 8 lanes further. */
template <class S>
__device__ static inline void wide_scores(float2 *part,
                                          const uint32_t q[S::own / 16][2][S::parts][4],
                                          const typename S::element *k, int lane)
{
    float s[2][2][4] = {};
#pragma unroll
    for (int f = 0; f < S::own / 16; f++) {
        uint32_t b[2][2], lost[2][2];
#pragma unroll
        for (int n = 0; n < 2; n++)
            wide_four(b[n], lost[n], k + (n * 8 + lane / 4) * S::k_stride + f * 16 + lane % 4 * 4);
#pragma unroll
        for (int product = 0; product < (S::parts == 2 ? 3 : 1);
             product++) /* products of other sums between those of one */
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int m = 0; m < 2; m++)
                    wide_mma<S>(s[m][n], q[f][m][product / 2], product == 1 ? lost[n] : b[n]);
    }
    cuda_mma_wait();
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int m = i / 4, n = i / 2 % 2, h = i % 2;
        part[i * CUDA_WARP + (lane ^ n * 8)] = make_float2(s[m][n][2 * h], s[m][n][2 * h + 1]);
    }
}

/* Of the four queries whose scores the warp adds up, 8 lanes each, two keys a lane. */
struct wide_row {
    int row; /* of the block */
    float top, sum;
};

/* Scores of all warps to weights, exp(score - top); keep: what brings earlier sums to the new top.
 * Key k of the tile counts where k < limit.  scale: of scores of halves. */
template <class S>
__device__ static inline void wide_softmax(const float2 *parts, __half *weights, float *keep,
                                           struct wide_row *w, int limit, float scale)
{
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int n = lane / 4 % 2, slot = warp / 4 * 4 + n * 2 + warp / 2 % 2;
    const int at = slot * CUDA_WARP + ((w->row % 8 * 4 + lane % 4) ^ n * 8);
    const int key = n * 8 + lane % 4 * 2;
    float2 s = parts[at];
#pragma unroll
    for (int i = 1; i < WIDE_WARPS; i++) {
        const float2 more = parts[i * WIDE_QUERIES * WIDE_KEYS / 2 + at];
        s.x += more.x;
        s.y += more.y;
    }
    if (!S::f32)
        s.x *= scale, s.y *= scale;
    s.x = key < limit ? s.x : -INFINITY;
    s.y = key + 1 < limit ? s.y : -INFINITY;
    float top = cuda_larger_or_nan::of(cuda_larger_or_nan::of(w->top, s.x), s.y);
    top = cuda_exchange<cuda_larger_or_nan, 1, 4>(top);
    const float now = w->top == top ? 1.0f : cuda_exp(w->top - top);
    s.x = s.x == -INFINITY ? 0.0f : cuda_exp(s.x - top);
    s.y = s.y == -INFINITY ? 0.0f : cuda_exp(s.y - top);
    w->top = top;
    w->sum = fmaf(w->sum, now, s.x + s.y);
    uint32_t lost, *to = reinterpret_cast<uint32_t *>(weights + w->row * WIDE_WEIGHTS + key);
    to[0] = cuda_flash_pair<S::bf16>(s.x, s.y, &lost);
    if (S::weight_parts == 2)
        to[WIDE_QUERIES * WIDE_WEIGHTS / 2] = lost;
    if (lane % 8 == 0)
        keep[w->row] = now;
}

/* Which of the warp's dims is column 2 (lane % 4) + c of a tile of results. */
template <class S> __device__ static inline int wide_dim(int tile, int c, int lane)
{
    return S::f32 ? tile / 4 * 32 + lane % 4 * 8 + c * 4 + tile % 4 : tile * 8 + lane % 4 * 2 + c;
}

template <class S> __device__ static inline bool wide_is_odd(float x)
{
    return cuda_flash_is_odd(__float2half_rn(x));
}

template <class S> __device__ static inline bool wide_is_odd(__half x)
{
    return cuda_flash_is_odd<S::bf16>(x);
}

/* Causal: as cuda_flash_odd_values, over the warp's own dims of v, which no other warp reads. */
template <class S>
__device__ static inline void wide_odd(float acc[2][S::own / 8][4], typename S::element *v,
                                       const int limit[4], int lane)
{
    bool odd = false;
    for (int i = lane; i < WIDE_KEYS * S::own; i += CUDA_WARP)
        odd |= wide_is_odd<S>(v[i / S::own * S::v_stride + i % S::own]);
    if (!__any_sync(CUDA_ALL, odd))
        return;
#pragma unroll 1
    for (int k = 0; k < WIDE_KEYS; k++)
#pragma unroll
        for (int i = 0; i < S::own / 4; i++) {
            const int tile = S::f32 ? i / 8 * 4 + i % 4 : i / 2, c = S::f32 ? i / 4 % 2 : i % 2;
            odd = wide_is_odd<S>(v[k * S::v_stride + wide_dim<S>(tile, c, lane)]);
#pragma unroll
            for (int row = 0; row < 4; row++) {
                float *sum = &acc[row / 2][tile][row % 2 * 2 + c];
                *sum = odd && k < limit[row] ? NAN : *sum;
            }
        }
    __syncwarp();
    for (int i = lane; i < WIDE_KEYS * S::own; i += CUDA_WARP) {
        typename S::element *x = &v[i / S::own * S::v_stride + i % S::own];
        if (wide_is_odd<S>(*x))
            *x = (typename S::element)0.0f;
    }
    __syncwarp();
}

/* acc += p v over the warp's own dims: values of f32 ... */
template <class S>
__device__ static inline void wide_products(float acc[2][S::own / 8][4],
                                            const uint32_t p[2][S::weight_parts][4], const float *v,
                                            int lane)
{
#pragma unroll
    for (int d = 0; d < S::own; d += 32) {
        float x[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float4 four = *reinterpret_cast<const float4 *>(
                v + (lane % 4 * 2 + i % 2 + i / 2 * 8) * S::v_stride + d + lane / 4 * 4);
            x[i][0] = four.x, x[i][1] = four.y, x[i][2] = four.z, x[i][3] = four.w;
        }
        uint32_t b[4][2], lost[4][2];
#pragma unroll
        for (int j = 0; j < 4; j++)
            wide_halves(b[j], lost[j], make_float4(x[0][j], x[1][j], x[2][j], x[3][j]));
#pragma unroll
        for (int product = 0; product < 3; product++)
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int m = 0; m < 2; m++)
                    wide_mma<S>(acc[m][d / 8 + j], p[m][product / 2],
                                product == 1 ? lost[j] : b[j]);
    }
}

/* ... and of halves. */
template <class S>
__device__ static inline void wide_products(float acc[2][S::own / 8][4],
                                            const uint32_t p[2][S::weight_parts][4],
                                            const __half *v, int lane)
{
#pragma unroll
    for (int d = 0; d < S::own; d += 16) {
        uint32_t b[4];
        cuda_ldmatrix4_trans(b, v + lane % 16 * S::v_stride + d + lane / 16 * 8);
#pragma unroll
        for (int part = 0; part < S::weight_parts; part++)
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int m = 0; m < 2; m++)
                    wide_mma<S>(acc[m][d / 8 + j], p[m][part], b + 2 * j);
    }
}

template <class S>
__device__ static inline void wide_values(float acc[2][S::own / 8][4], const __half *weights,
                                          const typename S::element *v, int lane)
{
    uint32_t p[2][S::weight_parts][4];
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int part = 0; part < S::weight_parts; part++)
            cuda_ldmatrix4(p[m][part],
                           weights + (part * WIDE_QUERIES + m * 16 + lane % 16) * WIDE_WEIGHTS +
                               lane / 16 * 8);
    wide_products<S>(acc, p, v, lane);
    cuda_mma_wait();
}

/* The warp's own dims of the results. */
template <class S>
__device__ static inline void wide_store(const struct wide_rows &m,
                                         const float acc[2][S::own / 8][4], const float *factors,
                                         int lane)
{
#pragma unroll
    for (int row = 0; row < 4; row++) {
        const int r = row * 8 + lane / 4;
        const float factor = factors[r];
#pragma unroll
        for (int i = 0; i < S::own / 16; i++) { /* four results */
            const int tile = S::f32 ? i / 2 * 4 : i * 2;
            float x[4];
            int d[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int of = S::f32 ? tile + j : tile + j / 2, c = S::f32 ? i % 2 : j % 2;
                x[j] = acc[row / 2][of][row % 2 * 2 + c] * factor;
                d[j] = wide_dim<S>(of, c, lane);
            }
            const bool four = S::f32 && m.aligned; /* dims that follow each other */
            if (four && r < m.there && d[0] < m.dims)
                cuda_set4(m.from, (r * m.stride + d[0]) / 4, make_float4(x[0], x[1], x[2], x[3]));
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (!four && r < m.there && d[j] < m.dims)
                    cuda_set(m.from, r * m.stride + d[j], x[j]);
        }
    }
}

/* Where a warp's dims begin in a row, and how many there are. */
struct wide_own {
    int64_t at;
    int dims;
};

/* Rows from `row` on. */
template <class S>
__device__ static inline struct wide_rows wide_part(const void *from, int type, int64_t stride,
                                                    int row, int n_rows, struct wide_own own)
{
    struct wide_rows m;
    m.from.data = const_cast<void *>(from);
    m.from.type = S::f32 ? (int)DTYPE_F32 : type;
    m.from = cuda_array_at(m.from, row * stride + own.at);
    m.stride = stride;
    m.there = n_rows - row;
    m.dims = own.dims;
    m.aligned = m.from.type == S::type && reinterpret_cast<uintptr_t>(m.from.data) % 16 == 0 &&
                stride % S::piece == 0 && (own.dims <= 0 || own.dims % S::piece == 0);
    return m;
}

/* Of keys or values. */
template <class S>
__device__ static inline struct wide_rows wide_tile(const void *from, const struct attn_item &item,
                                                    int type, int key, struct wide_own own)
{
    return wide_part<S>(from, type, item.kv_stride, key, item.n_k, own);
}

template <class S>
__global__ void __launch_bounds__(WIDE_THREADS, S::blocks)
    wide_kernel(const struct cuda_attn_dense_call a)
{
    typedef typename S::element element;
    SHARED_DYN(uint8_t, memory);
    const struct attn_item item = a.items[blockIdx.z];
    const int first = blockIdx.x * WIDE_QUERIES;
    if (first >= item.n_q)
        return;
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int there = item.n_q - first < WIDE_QUERIES ? item.n_q - first : WIDE_QUERIES;
    const int ahead = item.n_k - item.n_q; /* keys before the first query's own */
    const int n_k = a.causal ? first + there + ahead : item.n_k;
    /* of dims that are not there nothing is read, so they may as well begin with the head */
    struct wide_own own = {(int64_t)blockIdx.y * a.head_dim, a.head_dim - warp * S::own};
    own.at += own.dims > 0 ? warp * S::own : 0;
    element *k = reinterpret_cast<element *>(memory) + warp * S::own;
    element *v = reinterpret_cast<element *>(memory + S::v_at) + warp * S::own;
    float2 *parts = reinterpret_cast<float2 *>(memory + S::parts_at);
    __half *weights = reinterpret_cast<__half *>(memory + S::weights_at);
    float *keep = reinterpret_cast<float *>(memory + S::keep_at);
    uint32_t q[S::own / 16][2][S::parts][4];
    wide_fetch<S>(k, S::k_stride, wide_tile<S>(item.k, item, a.kv_type, 0, own), lane);
    cuda_copy_commit();
    wide_fetch<S>(v, S::v_stride, wide_tile<S>(item.v, item, a.kv_type, 0, own), lane);
    cuda_copy_commit();
    wide_queries<S>(q, wide_part<S>(item.q, a.type, item.q_stride, first, item.n_q, own),
                    S::f32 ? a.scale : 1.0f, lane);
    struct wide_row mine = {warp / 2 * 8 + warp % 2 * 4 + lane / 8, -INFINITY, 0.0f};
    float acc[2][S::own / 8][4] = {};
    for (int key = 0; key < n_k; key += WIDE_KEYS) {
        const int next = key + WIDE_KEYS;
        cuda_copy_wait<1>(); /* k; v may be on its way */
        __syncwarp();
        wide_scores<S>(parts + warp * WIDE_QUERIES * WIDE_KEYS / 2, q, k, lane);
        __syncthreads();
        if (next < n_k)
            wide_fetch<S>(k, S::k_stride, wide_tile<S>(item.k, item, a.kv_type, next, own), lane);
        cuda_copy_commit();
        const int seen = first + mine.row + 1 + ahead;
        wide_softmax<S>(parts, weights, keep, &mine,
                        (a.causal && seen < item.n_k ? seen : item.n_k) - key, a.scale);
        cuda_copy_wait<1>(); /* v; the next k may be on its way */
        __syncthreads();
        int limit[4];
#pragma unroll
        for (int row = 0; row < 4; row++) {
            const float factor = keep[row * 8 + lane / 4];
            limit[row] = first + row * 8 + lane / 4 + 1 + ahead - key;
#pragma unroll
            for (int d = 0; d < S::own / 8; d++) {
                acc[row / 2][d][row % 2 * 2] *= factor;
                acc[row / 2][d][row % 2 * 2 + 1] *= factor;
            }
        }
        if (a.causal && key + WIDE_KEYS > first + 1 + ahead)
            wide_odd<S>(acc, v, limit, lane);
        wide_values<S>(acc, weights, v, lane);
        __syncwarp();
        if (next < n_k)
            wide_fetch<S>(v, S::v_stride, wide_tile<S>(item.v, item, a.kv_type, next, own), lane);
        cuda_copy_commit();
    }
    mine.sum = cuda_exchange<cuda_add, 1, 4>(mine.sum);
    cuda_copy_wait<0>();
    __syncthreads();
    if (lane % 8 == 0)
        keep[mine.row] = 1.0f / mine.sum;
    __syncthreads();
    const struct attn_item *to =
        &a.items[blockIdx.z]; /* read again: it costs no registers meanwhile */
    wide_store<S>(wide_part<S>(to->out, a.type, to->out_stride, first, to->n_q, own), acc, keep,
                  lane);
}

template <class S>
static void wide_launch(const struct cuda_attn_dense_call *a, cudaStream_t stream)
{
    LAUNCH(wide_kernel<S>,
           dim3((a->max_q + WIDE_QUERIES - 1) / WIDE_QUERIES, a->n_heads, a->n_items), WIDE_THREADS,
           S::shared_bytes, stream, *a);
}

/* What is not all of one type is multiplied as f16. */
template <int dims>
static void wide_choose(const struct cuda_attn_dense_call *a, cudaStream_t stream)
{
    if (a->type == DTYPE_F32 && a->kv_type == DTYPE_F32)
        wide_launch<wide_shape<dims, DTYPE_F32>>(a, stream);
    else if (a->type == DTYPE_BF16 && a->kv_type == DTYPE_BF16)
        wide_launch<wide_shape<dims, DTYPE_BF16>>(a, stream);
    else
        wide_launch<wide_shape<dims, DTYPE_F16>>(a, stream);
}

void cuda_attn_wide_launch(const struct cuda_attn_dense_call *a, cudaStream_t stream)
{
    if (a->head_dim <= 256)
        wide_choose<256>(a, stream);
    else
        wide_choose<512>(a, stream);
}
