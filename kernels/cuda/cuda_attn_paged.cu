/* Attention over pages of keys and values.
 *
 * A task is up to 16 queries that share keys: rows of one sequence times the heads of one kv head.  Its
 * tokens are visited in chunks of 256 at fixed places; each chunk gives a partial softmax (m, l, acc), and
 * partials are merged in ascending order.  One block does all chunks of a task, or, where tasks are few,
 * each chunk has its block and a second kernel merges: the same arithmetic, so a row's bits depend
 * neither on the batch nor on that choice. */
#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/cuda/cuda_flash.cuh"
#include "kernels/cuda/cuda_kernels.h"

#define PAGED_THREADS 128
#define PAGED_CHUNK   256 /* tokens */
#define PAGED_TILE    32  /* tokens that are in shared memory together */
#define PAGED_QUERIES 16  /* of a task */
#define PAGED_BLOCKS  264 /* that fill a device: two a multiprocessor of an H100 */

struct paged_job {
    struct cuda_attn_paged_call a;
    int parts, part_heads; /* of the heads of a kv head; heads in a part */
    int max_chunks;        /* chunks have their own blocks: how many of a task; 0: they have not */
};

/* What a block works on: query i is head head0 + i % n_heads of row row0 + i / n_heads. */
struct paged_task {
    int row0, n_q, n_heads, head0, kv_head;
    int chunk0, chunk1; /* chunks [chunk0, chunk1) have a token that some query sees */
};

/* The first token that a query at pos sees. */
__device__ static inline int paged_first(int window, int pos)
{
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}

__device__ static inline struct paged_task paged_task_of(const struct paged_job &j)
{
    const struct cuda_attn_paged_call &a = j.a;
    const int group = a.n_heads / a.kv.view.n_kv_heads;
    const struct cuda_attn_paged_task t = a.tasks[blockIdx.x];
    const int part = blockIdx.y % j.parts * j.part_heads;
    struct paged_task p;
    p.row0 = t.row0;
    p.kv_head = blockIdx.y / j.parts;
    p.head0 = p.kv_head * group + part;
    p.n_heads = group - part < j.part_heads ? group - part : j.part_heads;
    p.n_q = t.n_rows * p.n_heads;
    p.chunk0 = t.n_rows ? paged_first(a.window, a.kv.rows[t.row0].pos) / PAGED_CHUNK : 0;
    p.chunk1 = t.n_rows ? a.kv.rows[t.row0 + t.n_rows - 1].pos / PAGED_CHUNK + 1 : 0;
    return p;
}

/* Element d of a token's key or value; page: the head's keys or values in it. */
__device__ static inline float paged_value(const uint8_t *page, enum dtype type, int hd, int slot,
                                           int d, bool key)
{
    if (type == DTYPE_F16)
        return __half2float(reinterpret_cast<const __half *>(page)[slot * hd + d]);
    if (type == DTYPE_F32)
        return reinterpret_cast<const float *>(page)[slot * hd + d];
    const float q = (float)reinterpret_cast<const int8_t *>(page)[slot * hd + d];
    const uint8_t *scales = page + KV_PAGE_TOKENS * hd;
    if (!key)
        return q * reinterpret_cast<const float *>(scales)[slot];
    const int at = slot * ((hd + CUDA_KV_BLOCK - 1) / CUDA_KV_BLOCK) + d / CUDA_KV_BLOCK;
    return q * __half2float(reinterpret_cast<const __half *>(scales)[at]);
}

/* Shared memory of a block: queries, a tile of keys or values, scores, and which tokens they see. */
struct paged_memory {
    float *q, *tile, *score; /* [16][hd]   [32][hd + 1]   [16][PAGED_CHUNK + 1] */
    int *lo, *hi;            /* [16] of the chunk */
};

static size_t paged_shared_bytes(int hd)
{
    return (size_t)(PAGED_QUERIES * hd + PAGED_TILE * (hd + 1) +
                    PAGED_QUERIES * (PAGED_CHUNK + 1)) *
               4 +
           2 * PAGED_QUERIES * 4;
}

/* Tokens [token, token + 32) of the chunk to the tile; those that nobody sees are not touched. */
__device__ static inline void paged_load(const struct paged_job &j, const struct paged_task &t,
                                         const struct paged_memory &m, int start, int token, int lo,
                                         int hi, bool key)
{
    const struct kv_view &v = j.a.kv.view;
    const int hd = v.head_dim, first = j.a.kv.rows[t.row0].first;
    const size_t at =
        (key ? v.k_offset : v.v_offset) + (size_t)t.kv_head * cuda_kv_head_bytes(v.type, hd);
    for (int i = threadIdx.x; i < PAGED_TILE * hd; i += PAGED_THREADS) {
        const int n = token + i / hd, d = i % hd, pos = start + n;
        float x = 0.0f;
        if (n >= lo && n < hi) {
            const int page = j.a.kv.pages[first + pos / KV_PAGE_TOKENS];
            x = paged_value(reinterpret_cast<const uint8_t *>(v.base) +
                                (size_t)page * v.page_bytes + at,
                            v.type, hd, pos % KV_PAGE_TOKENS, d, key);
        }
        m.tile[i / hd * (hd + 1) + d] = x;
    }
}

/* One chunk: thread (query, part) of 16 x 8 has dimensions part, part + 8 ...: acc. */
template <int dims>
__device__ static inline void paged_chunk(const struct paged_job &j, const struct paged_task &t,
                                          const struct paged_memory &m, int chunk, float *top,
                                          float *sum, float acc[dims])
{
    const int hd = j.a.kv.view.head_dim, query = threadIdx.x / 8, part = threadIdx.x % 8;
    const int start = chunk * PAGED_CHUNK;
    __syncthreads(); /* the chunk before is done with shared memory */
    if (threadIdx.x < PAGED_QUERIES) {
        int lo = 0, hi = 0;
        if ((int)threadIdx.x < t.n_q) {
            const int pos = j.a.kv.rows[t.row0 + threadIdx.x / t.n_heads].pos;
            lo = paged_first(j.a.window, pos) - start;
            hi = pos + 1 - start;
            lo = lo > 0 ? lo : 0;
            hi = hi < PAGED_CHUNK ? hi : PAGED_CHUNK;
        }
        m.lo[threadIdx.x] = lo;
        m.hi[threadIdx.x] = hi;
    }
    __syncthreads();
    const int lo = m.lo[query], hi = m.hi[query];
    int all_lo = PAGED_CHUNK, all_hi = 0;
    for (int i = 0; i < t.n_q; i++) {
        if (m.lo[i] >= m.hi[i])
            continue;
        all_lo = m.lo[i] < all_lo ? m.lo[i] : all_lo;
        all_hi = m.hi[i] > all_hi ? m.hi[i] : all_hi;
    }
    const int first = all_lo / PAGED_TILE * PAGED_TILE;
    float largest = -INFINITY;
    for (int token = first; token < all_hi; token += PAGED_TILE) {
        paged_load(j, t, m, start, token, all_lo, all_hi, true);
        __syncthreads();
        float s[PAGED_TILE / 8] = {};
        for (int d = 0; d < hd; d++)
#pragma unroll
            for (int i = 0; i < PAGED_TILE / 8; i++)
                s[i] = fmaf(m.q[query * hd + d], m.tile[(part + 8 * i) * (hd + 1) + d], s[i]);
#pragma unroll
        for (int i = 0; i < PAGED_TILE / 8; i++) {
            const int n = token + part + 8 * i;
            const bool seen = n >= lo && n < hi;
            m.score[query * (PAGED_CHUNK + 1) + n] = seen ? s[i] : -INFINITY;
            largest = seen ? cuda_larger_or_nan::of(largest, s[i]) : largest;
        }
        __syncthreads();
    }
    largest = cuda_exchange<cuda_larger_or_nan, 4, 1>(largest);
    float total = 0.0f;
    for (int n = first + part; n < all_hi; n += 8) { /* the thread's own scores */
        float *at = m.score + query * (PAGED_CHUNK + 1) + n;
        const float e = n >= lo && n < hi ? cuda_exp(*at - largest) : 0.0f;
        *at = e;
        total += e;
    }
    total = cuda_exchange<cuda_add, 4, 1>(total);
    *top = largest;
    *sum = total;
#pragma unroll
    for (int i = 0; i < dims; i++)
        acc[i] = 0.0f;
    for (int token = first; token < all_hi; token += PAGED_TILE) {
        __syncthreads();
        paged_load(j, t, m, start, token, all_lo, all_hi, false);
        __syncthreads();
        const int from = lo > token ? lo : token;
        const int to = hi < token + PAGED_TILE ? hi : token + PAGED_TILE;
        for (int n = from; n < to; n++) {
            const float e = m.score[query * (PAGED_CHUNK + 1) + n];
            const float *v = m.tile + (n - token) * (hd + 1);
#pragma unroll
            for (int i = 0; i < dims; i++)
                if (part + 8 * i < hd)
                    acc[i] = fmaf(e, v[part + 8 * i], acc[i]);
        }
    }
}

/* ---- the same chunk on tensor cores, for pages of f16 ---- */

#define FLASH_WARPS 4
#define FLASH_PAGES \
    (PAGED_CHUNK / KV_PAGE_TOKENS / FLASH_WARPS) /* of a warp: its span of the chunk */
#define FLASH_STAGES 2

/* Shared memory: [ queries ] [ what they lost ] then a ring of pages for each warp, or, when the warps
 * have done their spans, the spans' partials.  dims: head_dim rounded up; beyond it are zeros. */
template <int dims> struct flash_shape {
    static constexpr int stride = dims + 8;                 /* halves */
    static constexpr int page = KV_PAGE_TOKENS * stride;    /* halves of keys, and of values */
    static constexpr int queries = PAGED_QUERIES * stride;  /* halves */
    static constexpr int ring = FLASH_STAGES * 2 * page;    /* halves of a warp */
    static constexpr int span = PAGED_QUERIES * (dims + 2); /* floats of a partial */
    static constexpr int shared_bytes =
        4 * queries + FLASH_WARPS * (2 * ring > 4 * span ? 2 * ring : 4 * span);
};

/* Keys and values of page `index` of the sequence to a stage; tokens outside of [lo, hi) as zeros. */
template <int dims>
__device__ static inline void flash_fetch(const struct paged_job &j, const struct paged_task &t,
                                          __half *to, int index, int lo, int hi, int lane)
{
    typedef flash_shape<dims> S;
    const struct kv_view &v = j.a.kv.view;
    const int pieces = v.head_dim / 8, page = j.a.kv.pages[j.a.kv.rows[t.row0].first + index];
    const uint8_t *from = reinterpret_cast<const uint8_t *>(v.base) + (size_t)page * v.page_bytes +
                          (size_t)t.kv_head * cuda_kv_head_bytes(v.type, v.head_dim);
    for (int i = lane; i < KV_PAGE_TOKENS * pieces; i += CUDA_WARP) {
        const int token = i / pieces, at = token * S::stride + i % pieces * 8;
        const int bytes = token >= lo && token < hi ? 16 : 0;
        cuda_copy16(to + at, from + v.k_offset + (size_t)i * 16, bytes);
        cuda_copy16(to + S::page + at, from + v.v_offset + (size_t)i * 16, bytes);
    }
}

/* Values of a page that are no numbers, where some query may not see them. */
template <int dims>
__device__ static inline void flash_odd(float acc[dims / 8][4], __half *v, const int lo[2],
                                        const int hi[2], int lane)
{
    typedef flash_shape<dims> S;
    bool odd = false;
    for (int i = lane; i < KV_PAGE_TOKENS * dims; i += CUDA_WARP)
        odd |= cuda_flash_is_odd(v[i / dims * S::stride + i % dims]);
    if (!__any_sync(CUDA_ALL, odd))
        return;
    cuda_flash_odd_values<KV_PAGE_TOKENS, dims>(acc, v, S::stride, lo, hi);
    __syncwarp();
    for (int i = lane; i < KV_PAGE_TOKENS * dims; i += CUDA_WARP) {
        __half *at = v + i / dims * S::stride + i % dims;
        *at = cuda_flash_is_odd(*at) ? __float2half_rn(0.0f) : *at;
    }
    __syncwarp();
}

/* A page's scores, and its values weighted by them.  mixed: not all queries see all its tokens. */
template <int dims>
__device__ static inline void flash_page(const __half *q, __half *page, struct cuda_flash *f,
                                         float acc[dims / 8][4], const int lo[2], const int hi[2],
                                         bool mixed)
{
    typedef flash_shape<dims> S;
    const int lane = threadIdx.x % CUDA_WARP;
    float s[2][4] = {};
    uint32_t a[4], lost[4], b[4];
#pragma unroll
    for (int d = 0; d < dims; d += 16) {
        const int at = lane % 16 * S::stride + d + lane / 16 * 8;
        cuda_ldmatrix4(a, q + at);
        cuda_ldmatrix4(lost, q + S::queries + at);
        cuda_ldmatrix4(b, page + (lane / 16 * 8 + lane % 8) * S::stride + d + lane / 8 % 2 * 8);
        for (int n = 0; n < 2; n++) {
            cuda_mma_f16(s[n], a, b + 2 * n);
            cuda_mma_f16(s[n], lost, b + 2 * n);
        }
    }
    cuda_mma_wait();
    cuda_flash_softmax<KV_PAGE_TOKENS, dims>(s, f, acc, lo, hi, lane);
    if (mixed)
        flash_odd<dims>(acc, page + S::page, lo, hi, lane);
    cuda_flash_weights(s, a, lost);
#pragma unroll
    for (int d = 0; d < dims / 8; d += 2) {
        cuda_ldmatrix4_trans(b, page + S::page + lane % 16 * S::stride + d * 8 + lane / 16 * 8);
        for (int n = 0; n < 2; n++) {
            cuda_mma_f16(acc[d + n], a, b + 2 * n);
            cuda_mma_f16(acc[d + n], lost, b + 2 * n);
        }
    }
    cuda_mma_wait();
}

/* A warp's span of the chunk: its partial to shared memory, [16][top, sum, dims]. */
template <int dims>
__device__ static inline void flash_span(const struct paged_job &j, const struct paged_task &t,
                                         const __half *q, __half *ring, float *partial, int chunk)
{
    typedef flash_shape<dims> S;
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int start = (chunk * FLASH_WARPS + warp) * FLASH_PAGES * KV_PAGE_TOKENS;
    const int most = FLASH_PAGES * KV_PAGE_TOKENS;
    const int last = j.a.kv.rows[t.row0 + (t.n_q - 1) / t.n_heads].pos + 1 - start;
    const int pos0 = j.a.kv.rows[t.row0].pos, begin = paged_first(j.a.window, pos0) - start;
    /* from here on, tokens that some query does not see */
    const int mixed = t.n_q <= t.n_heads ? most : j.a.window > 0 ? 0 : pos0 + 1 - start;
    const int all_lo = begin > 0 ? begin : 0, all_hi = last < most ? last : most;
    int lo[2], hi[2];
    for (int h = 0; h < 2; h++) {
        const int query = lane / 4 + 8 * h;
        const int pos = query < t.n_q ? j.a.kv.rows[t.row0 + query / t.n_heads].pos : start - 1;
        lo[h] = paged_first(j.a.window, pos) - start;
        hi[h] = pos + 1 - start;
    }
    if (j.a.kv.view.head_dim < dims)
        for (int i = lane; i < S::ring; i += CUDA_WARP) /* zeros beyond it */
            ring[i] = __float2half_rn(0.0f);
    __syncwarp();
    struct cuda_flash f = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    float acc[dims / 8][4] = {};
    const int first = all_lo / KV_PAGE_TOKENS;
    const int end = all_hi > all_lo ? (all_hi - 1) / KV_PAGE_TOKENS + 1 : first;
    for (int p = first; p < end + FLASH_STAGES - 1;
         p++) { /* page p is fetched, the one before used */
        if (p < end)
            flash_fetch<dims>(j, t, ring + p % FLASH_STAGES * 2 * S::page,
                              start / KV_PAGE_TOKENS + p, all_lo - p * KV_PAGE_TOKENS,
                              all_hi - p * KV_PAGE_TOKENS, lane);
        cuda_copy_commit();
        const int now = p - (FLASH_STAGES - 1);
        if (now < first)
            continue;
        cuda_copy_wait<FLASH_STAGES - 1>();
        __syncwarp();
        const int low[2] = {lo[0] - now * KV_PAGE_TOKENS, lo[1] - now * KV_PAGE_TOKENS};
        const int high[2] = {hi[0] - now * KV_PAGE_TOKENS, hi[1] - now * KV_PAGE_TOKENS};
        flash_page<dims>(q, ring + now % FLASH_STAGES * 2 * S::page, &f, acc, low, high,
                         mixed < (now + 1) * KV_PAGE_TOKENS);
        __syncwarp();
    }
    cuda_copy_wait<0>();
    __syncthreads(); /* the rings become partials */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float sum = cuda_exchange<cuda_add, 1, 2>(f.sum[h]);
        float *to = partial + warp * S::span + (lane / 4 + 8 * h) * (dims + 2);
        if (lane % 4 == 0) {
            to[0] = f.top[h];
            to[1] = sum;
        }
#pragma unroll
        for (int d = 0; d < dims / 8; d++) {
            to[2 + d * 8 + lane % 4 * 2] = acc[d][2 * h];
            to[2 + d * 8 + lane % 4 * 2 + 1] = acc[d][2 * h + 1];
        }
    }
    __syncthreads();
}

/* A chunk's partial joins what came before it. */
template <int dims>
__device__ static inline void paged_merge(float *m, float *l, float acc[dims], float m1, float l1,
                                          const float acc1[dims])
{
    if (l1 == 0.0f)
        return;
    const float m0 = *m;
    *m = m0 > m1 ? m0 : m1;
    const float w0 = cuda_exp(m0 - *m), w1 = cuda_exp(m1 - *m);
    *l = fmaf(*l, w0, l1 * w1);
#pragma unroll
    for (int i = 0; i < dims; i++)
        acc[i] = fmaf(acc[i], w0, acc1[i] * w1);
}

/* The chunk's partial, in the same places as paged_chunk's: the spans' ones in ascending order. */
template <int dims>
__device__ static inline void flash_chunk(const struct paged_job &j, const struct paged_task &t,
                                          __half *memory, int chunk, float *top, float *sum,
                                          float acc[dims])
{
    typedef flash_shape<8 * dims> S;
    const int query = threadIdx.x / 8, part = threadIdx.x % 8, warp = threadIdx.x / CUDA_WARP;
    __half *rings = memory + 2 * S::queries;
    float *partial = reinterpret_cast<float *>(rings);
    __syncthreads(); /* partials of the chunk before were read */
    flash_span<8 * dims>(j, t, memory, rings + warp * S::ring, partial, chunk);
    *top = -INFINITY;
    *sum = 0.0f;
#pragma unroll
    for (int i = 0; i < dims; i++)
        acc[i] = 0.0f;
    for (int w = 0; w < FLASH_WARPS; w++) {
        const float *from = partial + w * S::span + query * (8 * dims + 2);
        float one[dims];
#pragma unroll
        for (int i = 0; i < dims; i++)
            one[i] = from[2 + part + 8 * i];
        paged_merge<dims>(top, sum, acc, from[0], from[1], one);
    }
}

template <int dims>
__device__ static inline void paged_out(const struct paged_job &j, const struct paged_task &t,
                                        float l, const float acc[dims])
{
    const int hd = j.a.kv.view.head_dim, query = threadIdx.x / 8, part = threadIdx.x % 8;
    if (query >= t.n_q)
        return;
    const size_t row = t.row0 + query / t.n_heads, head = t.head0 + query % t.n_heads;
    float *out = j.a.out + (row * j.a.n_heads + head) * hd;
#pragma unroll
    for (int i = 0; i < dims; i++)
        if (part + 8 * i < hd)
            out[part + 8 * i] = acc[i] / l;
}

/* Where chunk c (counted from the task's first) of this block's task stands: [16][2 + dims * 8]. */
template <int dims> __device__ static inline float *paged_partial(const struct paged_job &j, int c)
{
    const size_t task = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    return static_cast<float *>(j.a.work) +
           (task * j.max_chunks + c) * PAGED_QUERIES * (2 + dims * 8) +
           threadIdx.x / 8 * (2 + dims * 8);
}

/* Scaled queries as floats, those that are not there as zeros. */
__device__ static inline float paged_query(const struct paged_job &j, const struct paged_task &t,
                                           int query, int d)
{
    const int hd = j.a.kv.view.head_dim;
    if (query >= t.n_q || d >= hd)
        return 0.0f;
    const size_t row = t.row0 + query / t.n_heads, head = t.head0 + query % t.n_heads;
    return j.a.q[(row * j.a.n_heads + head) * hd + d] * j.a.scale;
}

template <int dims, bool flash>
__global__ void __launch_bounds__(PAGED_THREADS, 2) paged_kernel(const struct paged_job j)
{
    SHARED_DYN(float, memory);
    cuda_grid_wait();
    const struct paged_task t = paged_task_of(j);
    const int hd = j.a.kv.view.head_dim, part = threadIdx.x % 8;
    const int first = j.max_chunks ? t.chunk0 + (int)blockIdx.z : t.chunk0;
    const int end = j.max_chunks ? first + 1 : t.chunk1;
    if (first >= t.chunk1)
        return;
    __half *halves = reinterpret_cast<__half *>(memory);
    struct paged_memory m;
    m.q = memory;
    m.tile = m.q + PAGED_QUERIES * hd;
    m.score = m.tile + PAGED_TILE * (hd + 1);
    m.lo = reinterpret_cast<int *>(m.score + PAGED_QUERIES * (PAGED_CHUNK + 1));
    m.hi = m.lo + PAGED_QUERIES;
    if (flash) {
        typedef flash_shape<8 * dims> S;
        for (int i = threadIdx.x; i < PAGED_QUERIES * 8 * dims; i += PAGED_THREADS) {
            const int query = i / (8 * dims), d = i % (8 * dims), at = query * S::stride + d;
            const float x = paged_query(j, t, query, d);
            halves[at] = __float2half_rn(x);
            halves[S::queries + at] = __float2half_rn(x - __half2float(__float2half_rn(x)));
        }
    } else {
        for (int i = threadIdx.x; i < PAGED_QUERIES * hd; i += PAGED_THREADS)
            m.q[i] = paged_query(j, t, i / hd, i % hd);
    }
    float top, sum, acc[dims], m0 = -INFINITY, l0 = 0.0f, acc0[dims] = {};
    for (int c = first; c < end; c++) {
        if (flash)
            flash_chunk<dims>(j, t, halves, c, &top, &sum, acc);
        else
            paged_chunk<dims>(j, t, m, c, &top, &sum, acc);
        if (!j.max_chunks)
            paged_merge<dims>(&m0, &l0, acc0, top, sum, acc);
    }
    if (!j.max_chunks) {
        paged_out<dims>(j, t, l0, acc0);
        return;
    }
    float *to = paged_partial<dims>(j, blockIdx.z);
    if (part == 0) {
        to[0] = top;
        to[1] = sum;
    }
#pragma unroll
    for (int i = 0; i < dims; i++)
        to[2 + part + 8 * i] = acc[i];
}

template <int dims>
__global__ void __launch_bounds__(PAGED_THREADS) paged_join_kernel(const struct paged_job j)
{
    cuda_grid_wait();
    const struct paged_task t = paged_task_of(j);
    const int part = threadIdx.x % 8;
    float m0 = -INFINITY, l0 = 0.0f, acc0[dims] = {};
    for (int c = 0; c < t.chunk1 - t.chunk0; c++) {
        const float *from = paged_partial<dims>(j, c);
        float acc[dims];
#pragma unroll
        for (int i = 0; i < dims; i++)
            acc[i] = from[2 + part + 8 * i];
        paged_merge<dims>(&m0, &l0, acc0, from[0], from[1], acc);
    }
    paged_out<dims>(j, t, l0, acc0);
}

static int paged_parts(int n_heads, int n_kv_heads)
{
    return (n_heads / n_kv_heads + PAGED_QUERIES - 1) / PAGED_QUERIES;
}

static int paged_dims(int hd)
{
    return hd <= 64 ? 8 : hd <= 128 ? 16 : 32;
}

size_t cuda_attn_paged_work_bytes(int n_tasks, int n_heads, int n_kv_heads, int head_dim,
                                  int max_pos)
{
    const size_t blocks = (size_t)n_tasks * n_kv_heads * paged_parts(n_heads, n_kv_heads);
    const size_t chunks = (size_t)max_pos / PAGED_CHUNK + 1;
    if (chunks == 1 || blocks >= PAGED_BLOCKS)
        return 0;
    return blocks * chunks * PAGED_QUERIES * (2 + 8 * (size_t)paged_dims(head_dim)) * sizeof(float);
}

template <int dims> static void paged_launch(const struct paged_job &j, cudaStream_t stream)
{
    const struct kv_view &v = j.a.kv.view;
    const unsigned chunks = j.max_chunks ? (unsigned)j.max_chunks : 1;
    const dim3 grid(j.a.n_tasks, v.n_kv_heads * j.parts, chunks);
    /* pages that do not stand at multiples of 16 bytes are read element by element */
    const uintptr_t at = (uintptr_t)v.base | (uintptr_t)(v.page_bytes | v.k_offset | v.v_offset);
    if (v.type == DTYPE_F16 && at % 16 == 0)
        LAUNCH_EARLY(j.a.n_tasks, (paged_kernel<dims, true>), grid, PAGED_THREADS,
                     flash_shape<8 * dims>::shared_bytes, stream, j);
    else
        LAUNCH_EARLY(j.a.n_tasks, (paged_kernel<dims, false>), grid, PAGED_THREADS,
                     paged_shared_bytes(v.head_dim), stream, j);
    if (j.max_chunks)
        LAUNCH_EARLY(j.a.n_tasks, (paged_join_kernel<dims>), dim3(grid.x, grid.y), PAGED_THREADS, 0,
                     stream, j);
}

void cuda_attn_paged_launch(const struct cuda_attn_paged_call *a, cudaStream_t stream)
{
    const int hd = a->kv.view.head_dim, n_kv = a->kv.view.n_kv_heads, group = a->n_heads / n_kv;
    if (a->n_tasks <= 0)
        return;
    struct paged_job j = {};
    j.a = *a;
    j.parts = paged_parts(a->n_heads, n_kv);
    j.part_heads = group < PAGED_QUERIES ? group : PAGED_QUERIES;
    const size_t bytes = cuda_attn_paged_work_bytes(a->n_tasks, a->n_heads, n_kv, hd, a->max_pos);
    j.max_chunks = bytes && bytes <= a->work_bytes ? a->max_pos / PAGED_CHUNK + 1 : 0;
    if (paged_dims(hd) == 8)
        paged_launch<8>(j, stream);
    else if (paged_dims(hd) == 16)
        paged_launch<16>(j, stream);
    else
        paged_launch<32>(j, stream);
}
