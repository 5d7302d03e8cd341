/* A conv2d that runs: what conv.c and conv_win.c share.
 * Thread: the backend's; workers read it. */
#ifndef KERNELS_CPU_CONV_H
#define KERNELS_CPU_CONV_H
#include <stdatomic.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/weight.h"

struct conv_job {
    const struct cpu_ops *ops;
    const struct op_conv2d *p;
    const struct cpu_weight *w;
    int64_t h, wide, c_in, ho, wo, c_out; /* of x and out */
    int64_t read_h, read_w;               /* of what windows see: x, or what upsample makes of it */
    int64_t y_begin, n_y, n_rows;         /* rows of out that are computed; their pixels */
    int64_t k_block;                      /* columns of w at a time */
    int64_t task_rows, task_panels, n_row_tasks, n_tasks;
    float *scratch;
    int64_t scratch_floats; /* of a worker */
    _Atomic int64_t next;   /* task */
};

/* Where an output pixel lies. */
struct conv_at {
    int64_t image, y, x;
};

/* sum [c], the outputs from channel o on of one pixel: adds what is to be added, act, stores. */
void conv_finish(const struct conv_job *j, float *sum, const struct conv_at *at, int64_t o,
                 int64_t c);
/* n in equal parts, multiples of `unit`, of about `most`. */
int64_t conv_even(int64_t n, int64_t most, int64_t unit);

/* Does conv_win_run do it, in fewer products than there are? */
bool conv_win_fits(const struct op_conv2d *p);
void conv_win_run(struct cpu_backend *cb, struct conv_job *j);
/* Fills in k_block and the tasks, for n_tiles tiles of 2 x 2 outputs in place of rows. */
void conv_win_cut(struct conv_job *j, int64_t n_tiles, int n_workers);
#endif
