/* Where the time of a forward pass goes: every op timed, with the memory it must read and the arithmetic it
 * must do, as fractions of what the machine can (roofline, Williams et al. 2009).  Thread: one. */
#ifndef ENGINE_BENCH_OPS_H
#define ENGINE_BENCH_OPS_H
#include "base/buf.h"
#include "kernels/backend.h"

/* From here on be's ops are timed, until bench_ops_end puts back what was there. */
void bench_ops_begin(struct backend *be);
/* Appends the table, longest first, to out; passes: how many forward passes were timed. */
void bench_ops_end(struct backend *be, const struct backend_limits *l, int passes, struct buf *out);
#endif
