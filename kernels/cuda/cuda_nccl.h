/* NCCL, found when it is needed: libnccl.so.2 is opened at run time, so the server also runs without it.
 * Thread: any for cuda_nccl_load, else the backend's. */
#ifndef KERNELS_CUDA_CUDA_NCCL_H
#define KERNELS_CUDA_CUDA_NCCL_H
#include <cuda_runtime_api.h>

#include "base/err.h"

typedef struct ncclComm *cuda_nccl_comm;
enum { CUDA_NCCL_SUCCESS = 0, CUDA_NCCL_CHAR = 0 }; /* ncclSuccess, ncclInt8 */

/* clang-format off */
/* X(name, arguments): int nccl<name>(arguments), 0 or an error. */
#define CUDA_NCCL_CALLS(X) \
    X(CommInitAll, (cuda_nccl_comm *comms, int n, const int *devices)) \
    X(CommDestroy, (cuda_nccl_comm comm)) \
    X(CommAbort, (cuda_nccl_comm comm)) \
    X(GroupStart, (void)) \
    X(GroupEnd, (void)) \
    X(AllGather, (const void *send, void *receive, size_t count, int type, cuda_nccl_comm comm, \
                  cudaStream_t stream)) \
    X(Broadcast, (const void *send, void *receive, size_t count, int type, int root, \
                  cuda_nccl_comm comm, cudaStream_t stream))
/* clang-format on */

struct cuda_nccl {
    void *library;
    const char *(*GetErrorString)(int rc);
#define X(name, arguments) int(*name) arguments;
    CUDA_NCCL_CALLS(X)
#undef X
};

/* ERR_UNSUPPORTED, with what the loader says, when there is none or one without these calls. */
int cuda_nccl_load(struct cuda_nccl *n, struct err *e);
void cuda_nccl_unload(struct cuda_nccl *n);
#endif
