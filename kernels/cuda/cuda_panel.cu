/* Around products of cuBLASLt: weights to rows of halves, sums to results, and what tests the library (cuda_panel.h). */
#include "kernels/cuda/cuda_panel.h"

#include "kernels/cuda/cuda_fragment.cuh"
#include "kernels/cuda/cuda_linear_kernels.cuh"

#define UNPACK_WARPS  4
#define STORE_THREADS 128
#define NOISE_THREADS 256
#define TEST_THREADS  128
#define NEAR_ROWS     2     /* that are compared with sums in f32 */
#define NEAR_BOUND    1e-4f /* of the sum of magnitudes */

struct other_lane {
    __device__ static inline uint32_t of(uint32_t, uint32_t b) { return b; }
};

/* Register r of a fragment as weights: two halves of row r % 2 * 8. */
template <int type> __device__ static inline uint32_t unpack_pair(uint32_t codes, float d, float m)
{
    if (!cuda_format<type>::group)
        return codes;
    const float low = d * __half2float(__ushort_as_half((unsigned short)codes)) + m;
    const float high = d * __half2float(__ushort_as_half((unsigned short)(codes >> 16))) + m;
    return (uint32_t)__half_as_ushort(__float2half_rn(low)) |
           (uint32_t)__half_as_ushort(__float2half_rn(high)) << 16;
}

/* to [panels * CUDA_PANEL, ld]   w: of the first panel.  A warp has a step of a panel.  Of a fragment a lane has four
 * neighbours of row r and of row r + 8; it trades one of them with the lane beside it, and writes eight of the other. */
template <int type>
__global__ void __launch_bounds__(UNPACK_WARPS *CUDA_WARP)
    panel_unpack_kernel(uint16_t *to, const uint8_t *w, size_t panel_bytes, int n_steps, int ld)
{
    typedef cuda_format<type> F;
    constexpr int per_group = F::group ? F::group / 16 : F::fragments; /* fragments */
    const int lane = threadIdx.x % CUDA_WARP, odd = lane % 2;
    const int s = blockIdx.x * UNPACK_WARPS + threadIdx.x / CUDA_WARP;
    if (s >= n_steps)
        return;
    const uint8_t *head =
        w + (size_t)blockIdx.y * panel_bytes + (size_t)(s / F::steps) * F::unit_bytes;
    const uint8_t *step = head + F::head + s % F::steps * F::step_bytes;
    uint16_t *row = to + ((size_t)blockIdx.y * CUDA_PANEL + lane / 4 + 8 * odd) * ld +
                    s * F::step_k + lane % 4 / 2 * 8;
    cuda_codes<type> codes;
    cuda_codes_load<type>(codes, step, lane);
#pragma unroll
    for (int g = 0; g < F::fragments / per_group; g++) {
        float d[2] = {1.0f, 1.0f}, m[2] = {0.0f, 0.0f};
        if (F::group)
            cuda_scales<type>(d, m, head, step, lane / 4, g);
#pragma unroll
        for (int f = g * per_group; f < (g + 1) * per_group; f++) {
            uint32_t a[4];
            cuda_fragment<type>(a, codes, f);
#pragma unroll
            for (int r = 0; r < 4; r++)
                a[r] = unpack_pair<type>(a[r], d[r % 2], m[r % 2]);
            const uint32_t low = cuda_exchange<other_lane, 1, 1>(odd ? a[0] : a[1]);
            const uint32_t high = cuda_exchange<other_lane, 1, 1>(odd ? a[2] : a[3]);
            const uint4 eight =
                odd ? make_uint4(low, high, a[1], a[3]) : make_uint4(a[0], a[2], low, high);
            *reinterpret_cast<uint4 *>(row + 16 * f) = eight;
        }
    }
}

template <int type>
static void unpack(void *to, const struct cuda_linear_matrix *m, int n_in, int first, int n,
                   cudaStream_t stream)
{
    typedef cuda_format<type> F;
    const int unit_k = F::step_k * F::steps, units = (n_in + unit_k - 1) / unit_k;
    const size_t panel_bytes = (size_t)units * F::unit_bytes;
    const int steps = units * F::steps, panels = (n + CUDA_PANEL - 1) / CUDA_PANEL;
    LAUNCH((panel_unpack_kernel<type>), dim3((steps + UNPACK_WARPS - 1) / UNPACK_WARPS, panels),
           UNPACK_WARPS * CUDA_WARP, 0, stream, static_cast<uint16_t *>(to),
           static_cast<const uint8_t *>(m->w) + (size_t)(first / CUDA_PANEL) * panel_bytes,
           panel_bytes, steps, CUDA_ROW_ELEMENTS(n_in));
}

void cuda_panel_unpack_launch(void *to, const struct cuda_linear_matrix *m, int n_in, int first,
                              int n, cudaStream_t stream)
{
    switch (m->type) {
#define X(name, ...)                                 \
    case name:                                       \
        unpack<name>(to, m, n_in, first, n, stream); \
        break;
        CUDA_LAYOUTS(X)
#undef X
    default:
        break;
    }
}

__global__ void __launch_bounds__(STORE_THREADS) panel_store_kernel(const struct cuda_panel_store s)
{
    const int64_t row = blockIdx.x;
    const int64_t o = ((int64_t)blockIdx.y * STORE_THREADS + threadIdx.x) * 4;
    if (o >= s.n)
        return;
    const int left = s.n - o < 4 ? (int)(s.n - o) : 4;
    const int64_t at = row * s.n_out + s.first + o;
    const float4 sum = *reinterpret_cast<const float4 *>(s.sums + row * s.sums_ld + o);
    const float up = s.up[row];
    float4 v = make_float4(sum.x * up, sum.y * up, sum.z * up, sum.w * up);
    if (s.bias)
        v = cuda_quad_add(v, cuda_quad_get(s.bias + s.first + o, left));
    if (s.add.data)
        v = cuda_quad_add(v, cuda_get_quad(s.add, at, left));
    cuda_set_quad(s.out, at, left, v);
}

void cuda_panel_store_launch(const struct cuda_panel_store *s, cudaStream_t stream)
{
    const int64_t quads = (s->n + 3) / 4;
    LAUNCH(panel_store_kernel,
           dim3((unsigned)s->rows, (unsigned)((quads + STORE_THREADS - 1) / STORE_THREADS)),
           STORE_THREADS, 0, stream, *s);
}

/* ---- the test ---- */

/* Numbers of 7 bits, which every type has exactly, and 13 magnitudes, so that sums are rounded in any order.  The second
 * half of a row is its first one again; with other signs in every second row of x, whose results are thus rounding alone,
 * which no narrow type of theirs can hide. */
__global__ void __launch_bounds__(NOISE_THREADS)
    panel_noise_kernel(const struct cuda_array to, int n_in, int ld, int period, int x)
{
    const uint32_t row = (uint32_t)blockIdx.x % (uint32_t)period;
    const int half = n_in / 2;
    for (int k = threadIdx.x; k < ld; k += NOISE_THREADS) {
        const bool again = k >= half;
        uint32_t h = (row * (uint32_t)ld + (uint32_t)(again ? k - half : k)) * 0x9e3779b9u +
                     (uint32_t)(1 + x);
        h = (h ^ h >> 16) * 0x85ebca6bu;
        h = (h ^ h >> 13) * 0xc2b2ae35u;
        const int code = (int)(h >> 24) - 128;
        const float v = (float)code * __uint_as_float((124 - h % 13) << 23); /* 2^-3 and less */
        const float sign = x && again && row % 2 ? -1.0f : 1.0f;
        cuda_set(to, (int64_t)blockIdx.x * ld + k, k < n_in ? sign * v : 0.0f);
    }
}

void cuda_panel_noise_launch(struct cuda_array to, int rows, int n_in, int period, bool x,
                             cudaStream_t stream)
{
    LAUNCH(panel_noise_kernel, rows, NOISE_THREADS, 0, stream, to, n_in, CUDA_ROW_ELEMENTS(n_in),
           period, x);
}

/* Whether `got` is w[o] x[row] within what sums in another order, and rounding the result, allow. */
__device__ static inline bool test_near(const struct cuda_panel_test &t, int row, int o, float got)
{
    const int64_t ld = CUDA_ROW_ELEMENTS(t.n_in);
    const struct cuda_array w = {const_cast<void *>(t.w), t.type};
    const struct cuda_array x = {const_cast<void *>(t.x), t.type};
    float sum = 0.0f, size = 0.0f;
    for (int k = 0; k < t.n_in; k++) {
        const float one = cuda_get(w, o * ld + k) * cuda_get(x, row * ld + k);
        sum += one;
        size += fabsf(one);
    }
    const float rounding = t.all.type == DTYPE_F32   ? 0.0f
                           : t.all.type == DTYPE_F16 ? 0x1p-11f
                                                     : 0x1p-8f;
    return fabsf(got - sum) <= NEAR_BOUND * size + rounding * fabsf(sum);
}

/* A thread has an output, of all rows.  Values are compared, so that NaN is never right. */
__global__ void __launch_bounds__(TEST_THREADS) panel_test_kernel(const struct cuda_panel_test t)
{
    SHARED(float, partial, [CUDA_WARP]);
    const int o = blockIdx.x * TEST_THREADS + threadIdx.x;
    float bad = 0.0f;
    if (o < t.n) {
        for (int r = 0; r < t.rows; r++)
            bad += cuda_get(t.all, (int64_t)r * t.n + o) ==
                           cuda_get(t.all, (int64_t)(r % t.period) * t.n + o)
                       ? 0.0f
                       : 1.0f;
        for (int r = 0; r < t.some_rows; r++)
            bad += cuda_get(t.some, (int64_t)r * t.n + o) ==
                           cuda_get(t.all, (int64_t)((r + t.skip) % t.period) * t.n + o)
                       ? 0.0f
                       : 1.0f;
        for (int r = 0; r < NEAR_ROWS; r++)
            bad += test_near(t, r, o, cuda_get(t.all, (int64_t)r * t.n + o)) ? 0.0f : 1.0f;
    }
    bad = cuda_block_sum(bad, partial);
    if (threadIdx.x == 0)
        t.bad[blockIdx.x] = bad;
}

int cuda_panel_test_blocks(int n)
{
    return (n + TEST_THREADS - 1) / TEST_THREADS;
}

void cuda_panel_test_launch(const struct cuda_panel_test *t, cudaStream_t stream)
{
    LAUNCH(panel_test_kernel, cuda_panel_test_blocks(t->n), TEST_THREADS, 0, stream, *t);
}
