/* linear for more than 8 rows: 128 outputs times 64 rows a block, steps of weights and x through a ring in
 * shared memory filled by cp.async.  A warp has 2 panels times 4 tiles of 8 rows.
 *
 * A slice is summed in one accumulator as in cuda_linear_few.cu, then added to the total.  Where blocks are
 * few, they share the slices of a tile: each writes the slices' sums, and a second kernel adds them in the
 * same order. */
#include "kernels/cuda/cuda_fragment.cuh"
#include "kernels/cuda/cuda_linear_kernels.cuh"

#define MANY_PANELS  8 /* of a block: 4 warps of 2 */
#define MANY_COLUMNS 64
#define MANY_TILES   4 /* of a warp */
#define MANY_THREADS 256
#define MANY_RESULTS (2 * MANY_TILES * 4)          /* of a thread */
#define MANY_TOTAL   (MANY_RESULTS * MANY_THREADS) /* floats */
#define MANY_BLOCKS  132                           /* wanted at least: an H100's multiprocessors */

template <int type> struct many_ring {
    typedef cuda_format<type> F;
    static constexpr int stages = F::step_k > 64 || F::step_bytes > 1500 ? 3 : 4;
    static constexpr int records = F::step_k / 64;
    static constexpr int w_bytes = F::head + F::step_bytes;
    static __host__ __device__ constexpr int stage_bytes(int parts)
    {
        return MANY_PANELS * w_bytes + records * MANY_COLUMNS * CUDA_RECORD(parts);
    }
};

template <int type, int parts>
__device__ static inline void many_fetch(uint8_t *stage, const struct linear_job &j, int matrix,
                                         int panel0, int row0, int s)
{
    typedef cuda_format<type> F;
    typedef many_ring<type> R;
    const size_t unit = (size_t)(s / F::steps) * F::unit_bytes;
    const int step = F::head + s % F::steps * F::step_bytes;
    for (int i = threadIdx.x; i < MANY_PANELS * (R::w_bytes / 16); i += MANY_THREADS) {
        const int p = i / (R::w_bytes / 16), at = i % (R::w_bytes / 16) * 16;
        const bool there = panel0 + p < j.n_panels[matrix];
        const uint8_t *from = j.w[matrix] + (size_t)(there ? panel0 + p : 0) * j.panel_bytes + unit;
        from += at < F::head ? at : step + at - F::head;
        cuda_copy16(stage + i * 16, from, there ? 16 : 0);
    }
    uint8_t *to = stage + MANY_PANELS * R::w_bytes;
    const int pieces = CUDA_RECORD(parts) / 16;
    for (int i = threadIdx.x; i < R::records * MANY_COLUMNS * pieces; i += MANY_THREADS) {
        const int piece = i % pieces, c = i / pieces % MANY_COLUMNS;
        const int record = s * R::records + i / pieces / MANY_COLUMNS;
        const bool there = row0 + c < j.rows;
        const size_t from = (size_t)(there ? row0 + c : 0) * j.n_records + record;
        cuda_copy16(to + i * 16, j.records + from * CUDA_RECORD(parts) + piece * 16,
                    there ? 16 : 0);
    }
}

/* Where result (p, t, i) of a lane belongs. */
__device__ static inline void many_place(int p, int t, int i, int *o, int *row)
{
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    *o = (blockIdx.x * MANY_PANELS + warp % 4 * 2 + p) * CUDA_PANEL + lane / 4 + i / 2 * 8;
    *row = blockIdx.y * MANY_COLUMNS + warp / 4 * MANY_TILES * 8 + t * 8 + lane % 4 * 2 + i % 2;
}

/* A slice's sums are complete: they begin the total, or are added to it. */
__device__ static inline void many_slice(float acc[2][MANY_TILES][4], float *total, bool begin)
{
#pragma unroll
    for (int n = 0; n < MANY_RESULTS; n++) {
        float *sum = &acc[n / (MANY_TILES * 4)][n / 4 % MANY_TILES][n % 4];
        float *to = total + n * MANY_THREADS;
        *to = begin ? *sum : *to + *sum;
        *sum = 0.0f;
    }
}

/* The totals of a thread to the results, or to slice `slice` of them. */
__device__ static inline void many_store(const struct linear_job &j, int matrix, const float *total,
                                         int slice)
{
#pragma unroll 1
    for (int n = 0; n < MANY_RESULTS; n++) {
        int o, row;
        many_place(n / (MANY_TILES * 4), n / 4 % MANY_TILES, n % 4, &o, &row);
        if (o >= j.n_out[matrix] || row >= j.rows)
            continue;
        if (j.split == 1)
            linear_store(j, matrix, row, o, total[n * MANY_THREADS]);
        else
            j.slices[((size_t)slice * j.rows + row) * j.n_out[matrix] + o] =
                total[n * MANY_THREADS];
    }
}

template <int type, int parts>
__global__ void __launch_bounds__(MANY_THREADS, 1)
    linear_many_kernel(const struct linear_job j, int matrix)
{
    typedef many_ring<type> R;
    SHARED_DYN(float, totals);
    float *total = totals + threadIdx.x; /* its results, MANY_THREADS apart */
    uint8_t *ring = reinterpret_cast<uint8_t *>(totals + MANY_TOTAL);
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int panel0 = blockIdx.x * MANY_PANELS, row0 = blockIdx.y * MANY_COLUMNS;
    const int per = CUDA_SLICES / j.split, first = blockIdx.z * per;
    const int begin = linear_slice(j.n_steps, first), end = linear_slice(j.n_steps, first + per);
    const int stage_bytes = R::stage_bytes(parts);
    for (int i = 0; i < R::stages - 1; i++) {
        if (begin + i < end)
            many_fetch<type, parts>(ring + i * stage_bytes, j, matrix, panel0, row0, begin + i);
        cuda_copy_commit();
    }
    float acc[2][MANY_TILES][4] = {};
    const int column0 = warp / 4 * MANY_TILES * 8;
    int at = 0, next = R::stages - 1, slice = first;
    for (int s = begin;; s++) {
        for (; slice < first + per && s == linear_slice(j.n_steps, slice + 1); slice++) {
            many_slice(acc, total, slice == first || j.split > 1);
            if (j.split > 1)
                many_store(j, matrix, total, slice);
        }
        if (s == end)
            break;
        cuda_copy_wait<R::stages - 2>();
        __syncthreads();
        if (s + R::stages - 1 < end)
            many_fetch<type, parts>(ring + next * stage_bytes, j, matrix, panel0, row0,
                                    s + R::stages - 1);
        cuda_copy_commit();
        const uint8_t *stage = ring + at * stage_bytes;
        const struct cuda_columns x = {stage + MANY_PANELS * R::w_bytes +
                                           column0 * CUDA_RECORD(parts),
                                       MANY_COLUMNS, MANY_COLUMNS * CUDA_RECORD(parts)};
        if (row0 + column0 < j.rows)
            cuda_step<type, 2, MANY_TILES, parts>(acc, stage + warp % 4 * 2 * R::w_bytes,
                                                  R::w_bytes, x, lane);
        at = at + 1 < R::stages ? at + 1 : 0;
        next = next + 1 < R::stages ? next + 1 : 0;
    }
    cuda_copy_wait<0>();
    if (j.split == 1)
        many_store(j, matrix, total, 0);
}

/* The slices' sums to results. */
__global__ void __launch_bounds__(256) linear_join_kernel(const struct linear_job j, int matrix)
{
    const int o = blockIdx.x * 256 + threadIdx.x, row = blockIdx.y, n = j.n_out[matrix];
    if (o >= n)
        return;
    const size_t apart = (size_t)j.rows * n;
    const float *p = j.slices + (size_t)row * n + o;
    linear_store(j, matrix, row, o, ((p[0] + p[apart]) + p[2 * apart]) + p[3 * apart]);
}

template <int type, int parts> static void many_launch(struct linear_job j, cudaStream_t stream)
{
    for (int i = 0; i < LINEAR_MAX && j.n_panels[i]; i++) {
        dim3 grid((j.n_panels[i] + MANY_PANELS - 1) / MANY_PANELS,
                  (j.rows + MANY_COLUMNS - 1) / MANY_COLUMNS, 1);
        const unsigned tiles = grid.x * grid.y;
        j.split = tiles >= MANY_BLOCKS ? 1 : 2 * tiles >= MANY_BLOCKS ? 2 : CUDA_SLICES;
        grid.z = (unsigned)j.split;
        LAUNCH((linear_many_kernel<type, parts>), grid, MANY_THREADS,
               MANY_TOTAL * (int)sizeof(float) +
                   many_ring<type>::stages * many_ring<type>::stage_bytes(parts),
               stream, j, i);
        if (j.split > 1)
            LAUNCH(linear_join_kernel, dim3((j.n_out[i] + 255) / 256, j.rows), 256, 0, stream, j,
                   i);
    }
}

void cuda_linear_many_launch(const struct linear_job &j, enum dtype type, int parts,
                             cudaStream_t stream)
{
    switch (type) {
#define X(name, ...)                         \
    case name:                               \
        if (parts == 2)                      \
            many_launch<name, 2>(j, stream); \
        else                                 \
            many_launch<name, 1>(j, stream); \
        break;
        CUDA_LAYOUTS(X)
#undef X
    default:
        break;
    }
}
