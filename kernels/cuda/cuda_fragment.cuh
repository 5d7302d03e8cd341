/* One step of a product on tensor cores: 16 rows of a matrix in the layout of cuda_layout.h, from shared
 * memory, times up to 8 columns of x in halves.  linear and conv2d are built from it.
 * Thread: a warp; all its lanes call together.
 *
 * Codes become halves without rounding (0x6400 | q is 1024 + q), are multiplied by x and summed in f32 over
 * a group; then acc = fma(D(g), sum, acc), and acc = fma(M(g), sum of x over g, acc) for affine formats.
 * Plain F16 and BF16 go on summing in the same accumulator.  The order depends on k alone, so an output's
 * bits do not depend on what is computed beside it.
 *
 * x comes in records of 64 elements of one row (made by cuda_linear_x.cu, or by a convolution's gather):
 *
 *     [ 64 halves ] [ 64 halves of what the first lost, if parts = 2 ] [ 4 sums of 16 f32 ] [ 16 bytes ]
 *
 * 160 or 288 bytes, so that 4 lanes times 4 columns read 32 different banks. */
#ifndef KERNELS_CUDA_CUDA_FRAGMENT_CUH
#define KERNELS_CUDA_CUDA_FRAGMENT_CUH
#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/cuda/cuda_layout.h"
#include "kernels/cuda/cuda_ptx.cuh"

#define CUDA_RECORD(parts) (32 + 128 * (parts))

template <int type> struct cuda_format;
#define CUDA_FORMAT(name, low_, high_, group_, step_k_, steps_, head_, scale_, affine_, zero_) \
    template <> struct cuda_format<name> {                                                     \
        static constexpr int low = low_, high = high_, group = group_, step_k = step_k_,       \
                             steps = steps_, head = head_, scale = scale_, zero = zero_;       \
        static constexpr bool affine = affine_;                                                \
        static constexpr int step_bytes = scale_ + CUDA_PLANE_BYTES(low_ + high_, step_k_);    \
        static constexpr int unit_bytes = head_ + steps_ * step_bytes;                         \
        /* bytes of a lane in either plane */                                                  \
        static constexpr int low_lane = low_ * step_k_ / 16, high_lane = high_ * step_k_ / 16; \
        static constexpr int fragments = step_k_ / 16;                                         \
    };
CUDA_LAYOUTS(CUDA_FORMAT)
#undef CUDA_FORMAT

/* What a lane has of a step's planes. */
template <int type> struct cuda_codes {
    typedef cuda_format<type> F;
    uint32_t low[F::low_lane / 4], high[F::high_lane ? F::high_lane / 4 : 1];
};

template <int bytes>
__device__ static inline void cuda_load_lane(uint32_t *to, const uint8_t *plane, int lane)
{
    if (bytes >= 16) {
#pragma unroll
        for (int i = 0; i < bytes / 16; i++) {
            const uint4 v = reinterpret_cast<const uint4 *>(plane)[i * CUDA_LANES + lane];
            to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
        }
    } else if (bytes == 8) {
        const uint2 v = reinterpret_cast<const uint2 *>(plane)[lane];
        to[0] = v.x, to[1] = v.y;
    } else if (bytes == 4) {
        to[0] = reinterpret_cast<const uint32_t *>(plane)[lane];
    }
}

template <int type>
__device__ static inline void cuda_codes_load(cuda_codes<type> &c, const uint8_t *step, int lane)
{
    typedef cuda_format<type> F;
    const uint8_t *planes = step + F::scale;
    cuda_load_lane<F::low_lane>(c.low, planes, lane);
    cuda_load_lane<F::high_lane>(c.high, planes + F::low_lane * CUDA_LANES, lane);
}

/* Two codes in the low bytes of both halves, of fragment f, register r. */
template <int bits>
__device__ static inline uint32_t cuda_code_pair(const uint32_t *words, int f, int r)
{
    if (bits == 8)
        return words[2 * f + r / 2] >> 8 * (r % 2) & 0x00ff00ffu;
    const uint32_t mask = (1u << bits) - 1;
    const int per_word = bits < 8 ? 4 / bits : 1;
    return words[f / per_word] >> bits * (4 * (f % per_word) + r) & (mask | mask << 16);
}

/* IQ4_NL's 16 levels + 128, four a word. */
__device__ static inline uint32_t cuda_iq4_nl(uint32_t pair)
{
    const uint32_t at = pair & 0x00070007u, select = (at | at >> 8) & 0x0707u;
    const uint32_t low = __byte_perm(0x3f2d1801u, 0x766a5d4fu, select);
    const uint32_t high = __byte_perm(0xa6998d81u, 0xf1d9c5b5u, select);
    const uint32_t upper = (pair >> 3 & 0x00010001u) * 0xffu;
    return ((low & ~upper) | (high & upper)) & 0x00ff00ffu;
}

__device__ static inline uint32_t cuda_half2_minus(uint32_t a, int zero)
{
    const __half2 z = __float2half2_rn((float)zero);
    __half2 h;
    memcpy(&h, &a, sizeof(h));
    h = __hsub2(h, z);
    memcpy(&a, &h, sizeof(a));
    return a;
}

/* The A fragment f of a step. */
template <int type>
__device__ static inline void cuda_fragment(uint32_t a[4], const cuda_codes<type> &c, int f)
{
    typedef cuda_format<type> F;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        if (F::low == 16) {
            a[r] = c.low[4 * f + r];
            continue;
        }
        uint32_t q = cuda_code_pair<F::low>(c.low, f, r);
        if (F::high)
            q |= cuda_code_pair < F::high ? F::high : 1 > (c.high, f, r) << F::low;
        if (type == DTYPE_MXFP4) { /* FP4 is the top of a half of 2^14 times less */
            a[r] = (q & 0x00070007u) << 9 | (q & 0x00080008u) << 12;
            continue;
        }
        if (type == DTYPE_IQ4_NL)
            q = cuda_iq4_nl(q);
        a[r] = cuda_half2_minus(q | 0x64006400u, 1024 + F::zero);
    }
}

__device__ static inline float cuda_half_at(const uint8_t *p)
{
    return __half2float(*reinterpret_cast<const __half *>(p));
}

/* D and M of group g of a step, of rows r and r + 8. */
template <int type>
__device__ static inline void cuda_scales(float d[2], float m[2], const uint8_t *head,
                                          const uint8_t *step, int r, int g)
{
    typedef cuda_format<type> F;
    const int n = F::group ? F::step_k / F::group : 1;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        m[i] = 0.0f;
        if (F::head == 0) {
            const uint8_t *at = step + r * (F::affine ? 16 : 8) + g * 4 + i * 2;
            if (type == DTYPE_MXFP4)
                d[i] = 32768.0f *
                       __uint_as_float((uint32_t) * reinterpret_cast<const uint16_t *>(at) << 16);
            else
                d[i] = cuda_half_at(at);
            if (F::affine)
                m[i] = cuda_half_at(at + 8);
            continue;
        }
        const float D = cuda_half_at(head + r * (F::affine ? 8 : 4) + i * 2);
        const float M = F::affine ? cuda_half_at(head + r * 8 + 4 + i * 2) : 0.0f;
        if (type == DTYPE_Q4_K || type == DTYPE_Q5_K) {
            d[i] = D * (float)step[r * 8 + i * 2 + g];
            m[i] = M * (float)step[r * 8 + 4 + i * 2 + g];
        } else if (type == DTYPE_Q2_K) {
            const int both = step[(r * 2 + i) * n + g];
            d[i] = D * (float)(both & 15);
            m[i] = M * (float)(both >> 4);
        } else {
            d[i] = D * (float)(int8_t)step[(r * 2 + i) * n + g];
        }
    }
}

/* The records of a step: those of n columns (rows of x) side by side, then the next 64 elements' records,
 * `apart` bytes on.  Columns from n on are zeros. */
struct cuda_columns {
    const uint8_t *x;
    int n, apart;
};

/* Of fragment f: what a lane needs of its column of tile t. */
template <int parts>
__device__ static inline uint2 cuda_x_pair(const struct cuda_columns &c, int t, int f, int part,
                                           int lane)
{
    const int column = t * 8 + lane / 4;
    if (column >= c.n)
        return make_uint2(0, 0);
    return *reinterpret_cast<const uint2 *>(c.x + column * CUDA_RECORD(parts) + lane % 4 * 8 +
                                            f / 4 * c.apart + part * 128 + f % 4 * 32);
}

/* The sum of x over `count` (1 or 2) sixteens from the k-th on. */
template <int parts, int count>
__device__ static inline float cuda_x_sum(const struct cuda_columns &c, int column, int k)
{
    if (column >= c.n)
        return 0.0f;
    const float *at = reinterpret_cast<const float *>(c.x + column * CUDA_RECORD(parts) +
                                                      k / 4 * c.apart + 128 * parts) +
                      k % 4;
    return count == 2 ? at[0] + at[1] : at[0];
}

template <int type> __device__ static inline void cuda_mma(float c[4], const uint32_t a[4], uint2 b)
{
    const uint32_t pair[2] = {b.x, b.y};
    if (type == DTYPE_BF16)
        cuda_mma_bf16(c, a, pair);
    else
        cuda_mma_f16(c, a, pair);
}

/* acc[p][t] += panel p's 16 rows times the 8 columns of tile t, over one step.
 * w: [panels] of head and step, panel_bytes apart. */
template <int type, int panels, int tiles, int parts>
__device__ static inline void cuda_step(float acc[panels][tiles][4], const uint8_t *w,
                                        int panel_bytes, const struct cuda_columns &x, int lane)
{
    typedef cuda_format<type> F;
    constexpr int per_group = F::group ? F::group / 16 : F::fragments; /* fragments */
#pragma unroll
    for (int p = 0; p < panels; p++) {
        const uint8_t *head = w + p * panel_bytes, *step = head + F::head;
        cuda_codes<type> codes;
        cuda_codes_load<type>(codes, step, lane);
#pragma unroll
        for (int g = 0; g < F::fragments / per_group; g++) {
            float part[tiles][4], d[2], m[2];
            if (panels > 1 && F::step_k > 64)
                __syncwarp(); /* loads do not move over it, which would cost registers */
#pragma unroll
            for (int t = 0; t < tiles; t++)
                part[t][0] = part[t][1] = part[t][2] = part[t][3] = 0.0f;
#pragma unroll
            for (int f = g * per_group; f < (g + 1) * per_group; f++) {
                uint32_t a[4];
                cuda_fragment<type>(a, codes, f);
#pragma unroll
                for (int t = 0; t < tiles; t++) {
                    float *to = F::group ? part[t] : acc[p][t];
                    cuda_mma<type>(to, a, cuda_x_pair<parts>(x, t, f, 0, lane));
                    if (parts == 2)
                        cuda_mma<type>(to, a, cuda_x_pair<parts>(x, t, f, 1, lane));
                }
            }
            if (!F::group)
                continue;
            cuda_mma_wait();
            cuda_scales<type>(d, m, head, step, lane / 4, g);
#pragma unroll
            for (int t = 0; t < tiles; t++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float *to = &acc[p][t][i];
                    *to = fmaf(d[i / 2], part[t][i], *to);
                    if (F::affine)
                        *to = fmaf(m[i / 2],
                                   cuda_x_sum<parts, per_group>(x, t * 8 + lane % 4 * 2 + i % 2,
                                                                g * per_group),
                                   *to);
                }
        }
    }
    if (!F::group)
        cuda_mma_wait();
}

/* Element k of a row of a panel. */
template <int type> __device__ static inline float cuda_value(const uint8_t *panel, int row, int k)
{
    typedef cuda_format<type> F;
    const uint8_t *head = panel + (size_t)(k / (F::step_k * F::steps)) * F::unit_bytes;
    const uint8_t *step = head + F::head + k / F::step_k % F::steps * F::step_bytes;
    const int at = k % F::step_k;
    const uint32_t *low = reinterpret_cast<const uint32_t *>(step + F::scale);
    int word, shift;
    cuda_layout_at(F::low, F::step_k, row, at, &word, &shift);
    const uint32_t bits = low[word] >> shift;
    if (type == DTYPE_F16)
        return __half2float(__ushort_as_half((unsigned short)bits));
    if (type == DTYPE_BF16)
        return __uint_as_float(bits << 16);
    int q = (int)(bits & ((1u << F::low) - 1));
    if (F::high) {
        cuda_layout_at(F::high ? F::high : 1, F::step_k, row, at, &word, &shift);
        q |= (int)(low[F::low_lane * CUDA_LANES / 4 + word] >> shift & ((1u << F::high) - 1))
             << F::low;
    }
    float d[2], m[2];
    cuda_scales<type>(d, m, head, step, row % 8, F::group ? at / (F::group ? F::group : 1) : 0);
    const float D = row < 8 ? d[0] : d[1], M = row < 8 ? m[0] : m[1];
    if (type == DTYPE_MXFP4) /* D is 2^15 times as large, for halves; a zero has no sign */
        return 0.0f +
               D * __half2float(__ushort_as_half((unsigned short)((q & 7) << 9 | (q & 8) << 12)));
    if (type == DTYPE_IQ4_NL)
        q = (int)(cuda_iq4_nl((uint32_t)q) & 255);
    return F::affine ? D * (float)q + M : D * (float)(q - F::zero);
}
#endif
