/* linear for up to 8 rows: bound by reading the weights.  A block has a panel, each of its warps a quarter of the
 * steps.  Each warp keeps its own ring of steps in shared memory, filled by cp.async, so that
 * 32 KiB and more are in flight on an SM whatever the registers; no warp waits for another one until
 * the four quarters are added.  The first steps of the weights are asked for while the kernel before still
 * makes x. */
#include "kernels/cuda/cuda_fragment.cuh"
#include "kernels/cuda/cuda_linear_kernels.cuh"

#define FEW_SHARED  (80 * 1024) /* of a block: two on any SM */
#define FEW_EARLY   2           /* steps of weights that are asked for before x is there */
#define FEW_THREADS (CUDA_SLICES * CUDA_WARP)
#define FEW_SUMS \
    20 /* floats from a row's sums of 16 outputs to the next: lanes write to other banks */

template <int type, int parts> struct few_ring {
    typedef cuda_format<type> F;
    static constexpr int records = F::step_k / 64;
    static constexpr int w_bytes = F::head + F::step_bytes;
    static constexpr int most_bytes = w_bytes + records * FEW_ROWS * CUDA_RECORD(parts);
    static constexpr int fit = FEW_SHARED / (CUDA_SLICES * most_bytes);
    static constexpr int stages = fit < 8 ? fit : 8;
    static_assert(FEW_EARLY < stages, "a ring has room for the early steps");
    static __host__ __device__ int stage_bytes(int rows)
    {
        return w_bytes + records * rows * CUDA_RECORD(parts);
    }
};

/* Step s of a panel with its head to a stage of the ring. */
template <int type>
__device__ static inline void few_fetch_w(uint8_t *stage, const uint8_t *panel, int s, int lane)
{
    typedef cuda_format<type> F;
    const uint8_t *unit = panel + (size_t)(s / F::steps) * F::unit_bytes;
    const uint8_t *step = unit + F::head + s % F::steps * F::step_bytes;
    for (int i = lane; i < F::head / 16; i += CUDA_WARP)
        cuda_copy16(stage + i * 16, unit + i * 16, 16);
#pragma unroll 1
    for (int i = lane; i < F::step_bytes / 16; i += CUDA_WARP)
        cuda_copy16(stage + F::head + i * 16, step + i * 16, 16);
}

/* The rows' records of step s. */
template <int type, int parts>
__device__ static inline void few_fetch_x(uint8_t *stage, const struct linear_job &j, int s,
                                          int lane)
{
    const int pieces = CUDA_RECORD(parts) / 16,
              all = few_ring<type, parts>::records * j.rows * pieces;
    uint8_t *to = stage + few_ring<type, parts>::w_bytes;
#pragma unroll 1
    for (int i = lane; i < all; i += CUDA_WARP) {
        const int piece = i % pieces, record = i / pieces >= j.rows; /* there are at most two */
        const int row = i / pieces - record * j.rows;
        const size_t from = (size_t)row * j.n_records + s * few_ring<type, parts>::records + record;
        cuda_copy16(to + i * 16, j.records + from * CUDA_RECORD(parts) + piece * 16, 16);
    }
}

/* A warp's slice of a panel. */
template <int type, int parts>
__device__ static inline void few_sum(float acc[1][1][4], uint8_t *ring, const uint8_t *w,
                                      const struct linear_job &j)
{
    typedef few_ring<type, parts> R;
    const int slice = threadIdx.x / CUDA_WARP % CUDA_SLICES, lane = threadIdx.x % CUDA_WARP;
    const int stage_bytes = R::stage_bytes(j.rows);
    const int end = tile_slice_begin(j.n_steps, slice + 1);
    int s = tile_slice_begin(j.n_steps, slice);
#pragma unroll 1 /* registers are few */
    for (int i = 0; i < FEW_EARLY && s + i < end; i++)
        few_fetch_w<type>(ring + i * stage_bytes, w, s + i, lane);
    cuda_grid_wait();
#pragma unroll 1
    for (int i = 0; i < R::stages - 1; i++) {
        uint8_t *to = ring + i * stage_bytes;
        if (i >= FEW_EARLY && s + i < end)
            few_fetch_w<type>(to, w, s + i, lane);
        if (s + i < end)
            few_fetch_x<type, parts>(to, j, s + i, lane);
        cuda_copy_commit(); /* the first group has the early ones as well */
    }
    for (int at = 0; s < end; s++) {
        cuda_copy_wait<R::stages - 2>();
        __syncwarp();
        if (s + R::stages - 1 < end) {
            uint8_t *to = ring + (at ? at - 1 : R::stages - 1) * stage_bytes;
            few_fetch_w<type>(to, w, s + R::stages - 1, lane);
            few_fetch_x<type, parts>(to, j, s + R::stages - 1, lane);
        }
        cuda_copy_commit();
        const uint8_t *stage = ring + at * stage_bytes;
        const struct cuda_columns x = {stage + R::w_bytes, j.rows, j.rows * CUDA_RECORD(parts)};
        cuda_step<type, 1, 1, parts>(acc, stage, 0, x, lane);
        at = at + 1 < R::stages ? at + 1 : 0;
    }
    cuda_copy_wait<0>();
}

template <int type, int parts>
__global__ void __launch_bounds__(FEW_THREADS, 12) linear_few_kernel(const struct linear_job j)
{
    typedef few_ring<type, parts> R;
    SHARED_DYN(uint8_t, memory);
    SHARED(int, place, [2]); /* matrix and panel: registers are few */
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    float acc[1][1][4] = {};
    {
        int matrix = 0, panel = blockIdx.x;
        while (panel >= j.n_panels[matrix])
            panel -= j.n_panels[matrix++];
        if (threadIdx.x == 0) {
            place[0] = matrix;
            place[1] = panel;
        }
        few_sum<type, parts>(acc, memory + warp * R::stages * R::stage_bytes(j.rows),
                             j.w[matrix] + (size_t)panel * j.panel_bytes, j);
    }
    __syncthreads();
    float *sums = reinterpret_cast<float *>(memory); /* [slices][8 rows][16 of FEW_SUMS] */
    for (int i = 0; i < 4; i++)
        sums[(warp * 8 + lane % 4 * 2 + i % 2) * FEW_SUMS + lane / 4 + i / 2 * 8] = acc[0][0][i];
    __syncthreads();
    /* 128 results, 128 threads: neighbours write neighbouring outputs */
    const int row = threadIdx.x / CUDA_PANEL, at = threadIdx.x % CUDA_PANEL;
    const int matrix = place[0], o = place[1] * CUDA_PANEL + at;
    constexpr int slice = 8 * FEW_SUMS;
    const float *sum = sums + row * FEW_SUMS + at;
    if (row < j.rows && o < j.n_out[matrix])
        linear_store(j, matrix, row, o, ((sum[0] + sum[slice]) + sum[2 * slice]) + sum[3 * slice]);
}

template <int type, int parts>
static void few_launch(const struct linear_job &j, cudaStream_t stream)
{
    typedef few_ring<type, parts> R;
    int bytes = CUDA_SLICES * R::stages * R::stage_bytes(j.rows);
    const int least = CUDA_SLICES * 8 * FEW_SUMS * (int)sizeof(float);
    bytes = bytes < least ? least : bytes;
    LAUNCH_EARLY(j.rows, (linear_few_kernel<type, parts>),
                 j.n_panels[0] + j.n_panels[1] + j.n_panels[2], FEW_THREADS, bytes, stream, j);
}

void cuda_linear_few_launch(const struct linear_job &j, enum dtype type, int parts,
                            cudaStream_t stream)
{
    switch (type) {
#define X(name, ...)                                         \
    case name:                                               \
        if (parts == 1)                                      \
            few_launch<name, 1>(j, stream);                  \
        else                                                 \
            few_launch<name, LINEAR_PARTS(name)>(j, stream); \
        break;
        CUDA_LAYOUTS(X)
#undef X
    default:
        break;
    }
}
