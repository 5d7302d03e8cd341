/* 3 x 3 convolutions of stride 1 in fewer products (conv_win.h).
 *
 * Each of the 16 (9) products of a tile of 2 x 2 outputs is a product of matrices of its own: tiles times
 * channels times outputs.  A task is some tiles times some panels.  It goes over the channels in blocks; of
 * each it transforms its panels' weights, which then stay in the L2 cache, and lets its tiles go by,
 * SGEMM_ROWS at a time.  F16 weights stay so in memory.  A sum is one chain over the channels, and tiles
 * begin at even rows of the whole image, so no cut changes a bit.
 *
 * Scratch of a worker:
 *     packed  [size][SGEMM_ROWS, SGEMM_STRIDE]: a row holds the transformed tile's products (a, 0 ... size - 1)
 *     pixels  [4, panels * 16] of one tile
 *     sums    [groups of SGEMM_ROWS tiles][size * size][SGEMM_ROWS, panels * 16]
 *     weights [size * size][panels][channels of a block, 16] */
#include "kernels/cpu/conv_win.h"

#include <string.h>

#include "kernels/cpu/conv.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/sgemm.h"

#define WIN_CHANNELS   16                  /* fewer are not worth it */
#define WIN_L2_BYTES   ((size_t)528 << 10) /* of transformed weights */
#define WIN_TASK_TILES 252
#define WIN_PANELS     24
#define WIN_MAX        4 /* size */

_Static_assert(WIN_MAX *WIN_K <= SGEMM_STRIDE, "a row holds the products (a, 0 ... 3)");

static const float win_zeros[WIN_K];

/* A function of the shape alone, not of the batch or the rows that are wanted. */
bool conv_win_fits(const struct op_conv2d *p)
{
    return p->kernel == 3 && p->stride == 1 && p->pad_before == 1 && p->pad_after == 1 &&
           p->x->dims[3] >= WIN_CHANNELS;
}

/* Two equal pixels make a tile of size 3; where upsample is cut, the last one stands alone. */
static int win_size(const struct conv_job *j)
{
    return j->p->upsample && j->ho % 2 == 0 && j->wo % 2 == 0 ? 3 : 4;
}

/* Where tile t's output (0, 0) is.  Tiles count from the one that holds y_begin, row by row, image by
 * image. */
static struct conv_at win_at(const struct conv_job *j, int64_t t)
{
    int64_t across = (j->wo + 1) / 2, first = j->y_begin / 2;
    int64_t down = (j->y_begin + j->n_y + 1) / 2 - first;
    int64_t line = t / across;
    return (struct conv_at){line / down, 2 * (first + line % down), 2 * (t % across)};
}

/* Channels [c, c + n) of tile t, transformed, as row i of packed. */
static void win_pack(const struct conv_job *j, float *packed, int i, int64_t t, int64_t c,
                     int64_t n)
{
    struct conv_at at = win_at(j, t);
    const int size = win_size(j), halved = size == 3, twice = j->p->upsample && !halved;
    const int64_t y0 = (at.y >> halved) - 1, x0 = (at.x >> halved) - 1;
    const int64_t h = twice ? j->read_h : j->h, wide = twice ? j->read_w : j->wide;
    const float *base = (const float *)j->p->x->data + c, *x[WIN_MAX * WIN_MAX];
    for (int a = 0; a < size; a++) {
        int64_t y = y0 + a;
        const float *line = base + (at.image * j->h + (y >> twice)) * j->wide * j->c_in;
        for (int b = 0; b < size; b++) {
            int64_t col = x0 + b;
            bool inside = y >= 0 && y < h && col >= 0 && col < wide;
            x[a * size + b] = inside ? line + (col >> twice) * j->c_in : win_zeros;
        }
    }
    j->ops->conv_win_input(size, packed + i * SGEMM_STRIDE, SGEMM_ROWS * SGEMM_STRIDE, WIN_K, x, n);
}

/* The 2 x 2 pixels of tile t, as far as they are wanted. */
static void win_finish(const struct conv_job *j, float *pixels, int64_t t, int64_t o, int64_t wide)
{
    struct conv_at tile = win_at(j, t);
    int64_t c = j->c_out - o < wide ? j->c_out - o : wide;
    for (int i = 0; i < 4; i++) {
        struct conv_at at = {tile.image, tile.y + i / 2, tile.x + i % 2};
        if (at.x < j->wo && at.y >= j->y_begin && at.y < j->y_begin + j->n_y)
            conv_finish(j, pixels + i * wide, &at, o, c);
    }
}

static void win_transform(const struct conv_job *j, float *to, int64_t to_stride, int64_t panel,
                          int64_t n_panels, int64_t c, int64_t n)
{
    int64_t row_bytes = PANEL_ROWS * (int64_t)dtype_block_bytes(j->w->w.type);
    for (int64_t i = 0; i < n_panels; i++) {
        const char *from = j->w->data + (size_t)(panel + i) * j->w->panel_bytes;
        struct conv_win_weights t = {
            .type = j->w->w.type,
            .size = win_size(j),
            .panel = from + c * row_bytes,
            .tap_bytes = j->c_in * row_bytes,
            .to = to + i * n * PANEL_ROWS,
            .to_stride = to_stride,
            .n = n,
        };
        j->ops->conv_win_weights(&t);
    }
}

/* Tiles [tile, tile + n_tiles) times panels [panel, panel + n_panels). */
static void win_task(const struct conv_job *j, float *scratch, int64_t tile, int64_t n_tiles,
                     int64_t panel, int64_t n_panels)
{
    int size = win_size(j), products = size * size;
    int64_t wide = n_panels * PANEL_ROWS, o = panel * PANEL_ROWS, plane = SGEMM_ROWS * wide;
    float *packed = scratch, *pixels = packed + size * SGEMM_ROWS * SGEMM_STRIDE;
    float *sums = pixels + 4 * j->task_panels * PANEL_ROWS;
    float *weights = sums + j->task_rows * products * j->task_panels * PANEL_ROWS;
    for (int64_t c = 0, n; c < j->c_in; c += n) {
        n = j->c_in - c < j->k_block ? j->c_in - c : j->k_block;
        struct sgemm g = {.w_panel = n * PANEL_ROWS,
                          .sum_panel = PANEL_ROWS,
                          .sum_row = wide,
                          .n_panels = (int)n_panels,
                          .n_k = (int)n,
                          .first = c == 0};
        win_transform(j, weights, n_panels * g.w_panel, panel, n_panels, c, n);
        for (int64_t t = 0; t < n_tiles; t += SGEMM_ROWS) {
            float *group = sums + t * products * wide;
            g.n_rows = (int)(n_tiles - t < SGEMM_ROWS ? n_tiles - t : SGEMM_ROWS);
            for (int i = 0; i < g.n_rows; i++)
                win_pack(j, packed, i, tile + t + i, c, n);
            for (int i = 0; i < products; i++) {
                g.x = packed + i / size * SGEMM_ROWS * SGEMM_STRIDE + i % size * WIN_K;
                g.w = weights + i * n_panels * g.w_panel;
                g.sum = group + i * plane;
                j->ops->sgemm_rows(&g);
            }
            for (int i = 0; i < g.n_rows && c + n == j->c_in; i++) {
                j->ops->conv_win_output(size, pixels, group + i * wide, plane, wide);
                win_finish(j, pixels, tile + t + i, o, wide);
            }
        }
    }
}

static void win_worker(void *arg, int worker, int n_workers)
{
    struct conv_job *j = arg;
    (void)n_workers;
    float *scratch = j->scratch + worker * j->scratch_floats;
    for (int64_t i; (i = atomic_fetch_add(&j->next, 1)) < j->n_tasks;) {
        int64_t tile = i % j->n_row_tasks * j->task_rows;
        int64_t panel = i / j->n_row_tasks * j->task_panels;
        int64_t tiles = j->n_rows - tile, panels = j->w->n_panels - panel;
        win_task(j, scratch, tile, tiles < j->task_rows ? tiles : j->task_rows, panel,
                 panels < j->task_panels ? panels : j->task_panels);
    }
}

/* Channels of a block when `panels` are transformed together. */
static int64_t win_block(const struct conv_job *j, int64_t panels)
{
    int products = win_size(j) * win_size(j);
    int64_t n = (int64_t)(WIN_L2_BYTES / sizeof(float)) / (products * panels * PANEL_ROWS);
    n = n > WIN_K ? WIN_K : n < 16 ? 16 : n;
    return conv_even(j->c_in, n, 1);
}

/* Takes the cut whose slowest worker is estimated to be done first, in products of a vector for each channel:
 * transforming a panel's channel costs about 80, a tile's 5, loading and storing the sums 3 a block. */
void conv_win_cut(struct conv_job *j, int64_t n_tiles, int n_workers)
{
    const int64_t n_panels = j->w->n_panels, most_parts = 4096 + 2 * (n_tiles / WIN_TASK_TILES);
    double products = win_size(j) * win_size(j), best = 0;
    for (int64_t p = n_panels > 1 ? 2 : 1; p <= WIN_PANELS; p += 2) {
        int64_t panels = conv_even(n_panels, p, n_panels > 1 ? 2 : 1), block = win_block(j, panels);
        int64_t panel_tasks = (n_panels + panels - 1) / panels;
        for (int64_t parts = 1; parts <= n_tiles && parts <= most_parts; parts += 1 + parts / 8) {
            int64_t tiles = conv_even(n_tiles, (n_tiles + parts - 1) / parts, SGEMM_ROWS);
            if (tiles > WIN_TASK_TILES)
                continue;
            int64_t row_tasks = (n_tiles + tiles - 1) / tiles, n = row_tasks * panel_tasks;
            double rows = (double)(tiles < n_tiles ? tiles : n_tiles), wide = (double)panels;
            double one = wide * (products * rows * (1 + 3.0 / (double)block) + 80) + 5 * rows;
            int64_t rounds = (n + n_workers - 1) / n_workers;
            double cost = (double)rounds * one;
            if (best > 0 && cost >= best)
                continue;
            best = cost;
            j->k_block = block;
            j->task_rows = tiles;
            j->task_panels = panels;
            j->n_row_tasks = row_tasks;
            j->n_tasks = n;
        }
    }
}

void conv_win_run(struct cpu_backend *cb, struct conv_job *j)
{
    int n_workers = pool_n(cb->pool), size = win_size(j);
    int64_t down = (j->y_begin + j->n_y + 1) / 2 - j->y_begin / 2;
    j->n_rows = j->p->x->dims[0] * down * ((j->wo + 1) / 2);
    conv_win_cut(j, j->n_rows, n_workers);
    j->scratch_floats = size * SGEMM_ROWS * SGEMM_STRIDE + 4 * j->task_panels * PANEL_ROWS +
                        size * size * j->task_panels * PANEL_ROWS * (j->task_rows + j->k_block);
    j->scratch = cpu_scratch(cb, (size_t)(n_workers * j->scratch_floats) * sizeof(float));
    pool_run(cb->pool, win_worker, j);
}
