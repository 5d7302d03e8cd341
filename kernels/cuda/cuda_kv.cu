/* Storing of keys and values into pages: a warp a head. */
#include "kernels/cuda/cuda_ptx.cuh"
#include "kernels/cuda/cuda_rope.cuh"

#define KV_THREADS ROPE_THREADS
#define KV_HEADS   (KV_THREADS / CUDA_WARP) /* at a time */

/* x / d as a code, to nearest; d of nothing, or of no number: 0. */
__device__ static inline int8_t kv_round(float x, float d)
{
    const float inverse = d >= 1e-30f && d <= 1e30f ? 1.0f / d : 0.0f;
    float z = x * inverse;
    z = z < 127.0f ? z : 127.0f;
    z = z > -127.0f ? z : -127.0f;
    const float whole = z + 12582912.0f; /* 1.5 * 2^23: rounds to an integer, in the low bits */
    return (int8_t)(__float_as_uint(whole) & 0xff);
}

/* Bits of the largest magnitude of a warp's values; NaN is above all. */
__device__ static inline unsigned kv_largest(float x)
{
    return cuda_exchange<cuda_larger, CUDA_WARP / 2, 1>(__float_as_uint(fabsf(x)));
}

/* One warp: key and value [hd] of one token of one head as codes, to place `slot` of the head's part of a page. */
__device__ static inline void kv_store_q8(uint8_t *kp, uint8_t *vp, int slot, const float *k,
                                          const float *v, int hd)
{
    const int lane = threadIdx.x % CUDA_WARP, n_blocks = (hd + CUDA_KV_BLOCK - 1) / CUDA_KV_BLOCK;
    __half *scales = reinterpret_cast<__half *>(kp + KV_PAGE_TOKENS * hd) + slot * n_blocks;
    unsigned top = 0;
    for (int b = 0; b < n_blocks; b++) {
        const int d = b * CUDA_KV_BLOCK + lane;
        const float x = d < hd ? k[d] : 0.0f;
        const __half scale = __float2half_rn(__uint_as_float(kv_largest(x)) / 127.0f);
        if (d < hd)
            reinterpret_cast<int8_t *>(kp)[slot * hd + d] = kv_round(x, __half2float(scale));
        if (lane == 0)
            scales[b] = scale;
        top = cuda_larger::of(top, kv_largest(d < hd ? v[d] : 0.0f));
    }
    const float scale = __uint_as_float(top) / 127.0f;
    for (int d = lane; d < hd; d += CUDA_WARP)
        reinterpret_cast<int8_t *>(vp)[slot * hd + d] = kv_round(v[d], scale);
    if (lane == 0)
        reinterpret_cast<float *>(vp + KV_PAGE_TOKENS * hd)[slot] = scale;
}

/* Heads [begin, end) of a row by a block, a head by a warp. */
__device__ static inline void kv_store_heads(const struct cuda_kv &kv, const float *k,
                                             const float *v, int begin, int end)
{
    const struct kv_view &view = kv.view;
    const int row = blockIdx.x, lane = threadIdx.x % CUDA_WARP, hd = view.head_dim;
    const int pos = kv.rows[row].pos, slot = pos % KV_PAGE_TOKENS;
    const int page = kv.pages[kv.rows[row].first + pos / KV_PAGE_TOKENS];
    uint8_t *base = reinterpret_cast<uint8_t *>(view.base) + (size_t)page * view.page_bytes;
    const size_t head_bytes = cuda_kv_head_bytes(view.type, hd);
    for (int h = begin + threadIdx.x / CUDA_WARP; h < end; h += KV_HEADS) {
        uint8_t *kp = base + view.k_offset + h * head_bytes;
        uint8_t *vp = base + view.v_offset + h * head_bytes;
        const size_t from = ((size_t)row * view.n_kv_heads + h) * hd;
        if (view.type == DTYPE_Q8_0) {
            kv_store_q8(kp, vp, slot, k + from, v + from, hd);
            continue;
        }
        for (int d = lane; d < hd; d += CUDA_WARP) {
            if (view.type == DTYPE_F16) {
                reinterpret_cast<__half *>(kp)[slot * hd + d] = __float2half_rn(k[from + d]);
                reinterpret_cast<__half *>(vp)[slot * hd + d] = __float2half_rn(v[from + d]);
            } else {
                reinterpret_cast<float *>(kp)[slot * hd + d] = k[from + d];
                reinterpret_cast<float *>(vp)[slot * hd + d] = v[from + d];
            }
        }
    }
}

__global__ void __launch_bounds__(KV_THREADS, 4)
    kv_store_kernel(const struct cuda_kv kv, const float *k, const float *v)
{
    kv_store_heads(kv, k, v, 0, kv.view.n_kv_heads);
}

/* The same, after q and k were turned in place: a block has some heads of a row, keys first. */
__global__ void __launch_bounds__(KV_THREADS, 4)
    rope_store_kernel(const struct cuda_kv kv, const struct cuda_turn t, float *q, float *k,
                      const float *v, int block_heads)
{
    SHARED(float, angle_cos, [ROPE_MAX]);
    SHARED(float, angle_sin, [ROPE_MAX]);
    const int hd = kv.view.head_dim, n_kv = kv.view.n_kv_heads, row = blockIdx.x;
    const int begin = blockIdx.y * block_heads, all = n_kv + t.n_heads;
    const int end = begin + block_heads < all ? begin + block_heads : all;
    const int keys = end < n_kv ? end : n_kv, first_q = begin > n_kv ? begin : n_kv;
    cuda_grid_wait();
    rope_angles(angle_cos, angle_sin, t.pos[row], t.freq, t.n_rot / 2, t.mscale);
    __syncthreads();
    rope_heads(q + ((size_t)row * t.n_heads + first_q - n_kv) * hd, angle_cos, angle_sin,
               end - first_q, hd, t.n_rot / 2, t.interleaved);
    if (begin >= n_kv)
        return; /* the whole block */
    rope_heads(k + ((size_t)row * n_kv + begin) * hd, angle_cos, angle_sin, keys - begin, hd,
               t.n_rot / 2, t.interleaved);
    __syncthreads(); /* keys are there */
    kv_store_heads(kv, k, v, begin, keys);
}

void cuda_kv_store_launch(const struct cuda_kv *kv, const float *k, const float *v, int rows,
                          cudaStream_t stream)
{
    if (rows > 0)
        LAUNCH(kv_store_kernel, rows, KV_THREADS, 0, stream, *kv, k, v);
}

void cuda_rope_store_launch(const struct cuda_kv *kv, const struct cuda_turn *t, float *q, float *k,
                            const float *v, int rows, cudaStream_t stream)
{
    const int heads = kv->view.n_kv_heads + t->n_heads;
    const int block_heads = rows <= CUDA_FEW_ROWS ? KV_HEADS : heads;
    if (rows > 0)
        LAUNCH_EARLY(rows, rope_store_kernel, dim3(rows, (heads + block_heads - 1) / block_heads),
                     KV_THREADS, 0, stream, *kv, *t, q, k, v, block_heads);
}
