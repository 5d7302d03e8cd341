/* linear for more than 8 rows: tiles of 128 outputs times 64 rows (cuda_tile.cuh). */
#include "kernels/cuda/cuda_linear_kernels.cuh"
#include "kernels/cuda/cuda_tile.cuh"

/* Blocks that a multiprocessor has memory for, with one part. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define MANY_BLOCKS 1
#else
#define MANY_BLOCKS 2
#endif

template <int type, int parts>
__global__ void __launch_bounds__(TILE_THREADS, parts == 2 ? 1 : MANY_BLOCKS)
    linear_many_kernel(const struct linear_job j, int matrix)
{
    typedef tile_ring<type, parts> R;
    SHARED_DYN(float, shared);
    const int panel0 = blockIdx.x * TILE_PANELS, row0 = blockIdx.y * TILE_COLUMNS;
    const auto fetch = [&](uint8_t *stage, int s) {
        tile_fetch_weights<type>(stage, j.w[matrix], j.panel_bytes, panel0, j.n_panels[matrix], s);
        uint8_t *to = stage + TILE_PANELS * R::w_bytes;
        constexpr int pieces = CUDA_RECORD(parts) / 16;
#pragma unroll 1
        for (int i = threadIdx.x; i < R::records * TILE_COLUMNS * pieces; i += TILE_THREADS) {
            const int piece = i % pieces, c = i / pieces % TILE_COLUMNS;
            const int record = s * R::records + i / pieces / TILE_COLUMNS;
            const bool there = row0 + c < j.rows;
            const size_t from = (size_t)(there ? row0 + c : 0) * j.n_records + record;
            cuda_copy16(to + i * 16, j.records + from * CUDA_RECORD(parts) + piece * 16,
                        there ? 16 : 0);
        }
    };
    const auto done = [&](const float *total, int slice) {
#pragma unroll 1
        for (int n = 0; n < TILE_RESULTS; n++) {
            int o, row;
            tile_place(n, &o, &row);
            o += panel0 * CUDA_PANEL, row += row0;
            if (o >= j.n_out[matrix] || row >= j.rows)
                continue;
            if (slice < 0)
                linear_store(j, matrix, row, o, total[n * TILE_THREADS]);
            else
                j.slices[((size_t)slice * j.rows + row) * j.n_out[matrix] + o] =
                    total[n * TILE_THREADS];
        }
    };
    tile_run<type, parts>(shared, j.n_steps, j.split, j.rows - row0, fetch, done);
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
        dim3 grid((j.n_panels[i] + TILE_PANELS - 1) / TILE_PANELS,
                  (j.rows + TILE_COLUMNS - 1) / TILE_COLUMNS, 1);
        j.split = tile_split((int64_t)grid.x * grid.y);
        grid.z = (unsigned)j.split;
        LAUNCH((linear_many_kernel<type, parts>), grid, TILE_THREADS,
               (tile_ring<type, parts>::shared_bytes), stream, j, i);
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
