/* CUDA devices that compute one model together, with NCCL between them.  A sum over parts is a gather and
 * additions in the members' order, not NCCL's all-reduce, which promises no order: the same bits at every batch.
 * Thread: the one that opened the members; it drives all of them. */
#ifndef KERNELS_CUDA_CUDA_TEAM_H
#define KERNELS_CUDA_CUDA_TEAM_H
#include "kernels/team.h"

/* members [n], of cuda_backend_open, each another device.  The first one's close closes all.  ERR_UNSUPPORTED
 * without NCCL. */
int cuda_team_open(struct backend *const *members, int n, struct err *e);
#endif
