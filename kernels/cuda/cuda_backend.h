/* The CUDA device behind struct backend: two streams, memory, the device's copies of what ops point to.
 * Thread: the one that opened it.
 *
 * Ops and uploads are queued in the compute stream, by way of cuda_queue.h if there are to be graphs.  A
 * download goes through the copy stream, which waits for what was queued before it; whatever is
 * queued after a download waits for it in turn.
 * The first call that fails is kept and told by the next sync as ERR_DEVICE; from then on nothing is
 * queued any more. */
#ifndef KERNELS_CUDA_CUDA_BACKEND_H
#define KERNELS_CUDA_CUDA_BACKEND_H
#include <cuda_runtime_api.h>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_queue.h"

struct cuda_op_blas;
struct cuda_pool;
struct cuda_range;
struct cuda_team;
struct cuda_upload;

/* Host arrays that ops point to (token ids, positions, pages), copied to the device on their way.
 * A ring of two halves: each starts over at a sync, and a choice of tokens changes halves; so the same ops get
 * the same places at every step.  The half that is not in use may belong to a choice that is under way. */
struct cuda_params {
    char *host, *device; /* pinned; its twin */
    size_t half_bytes;   /* as large as the largest op has asked for */
    size_t used, end;    /* of the half in use, from the ring's beginning */
    int half;
    struct {
        size_t at, bytes;
    } recent[8]; /* what a step uploads once for all its layers */
    int n_recent;
};

/* A download into memory that is not pinned: copied on at the sync. */
struct cuda_landing {
    void *to;
    const char *from;
    size_t bytes;
};

struct cuda_backend {
    struct backend be; /* first */
    char name[24];
    int device, multiprocessors;
    bool dead;
    char why[160]; /* it died */
    cudaStream_t compute, copy;
    struct cuda_queue *queue; /* of compute; launches are held back in it while be.graphs */
    cudaEvent_t queued, landed, chosen[CHOOSE_SLOTS];
    /* Until nothing is queued; NULL: of this device alone.  A team's member may wait for the others. */
    void (*idle)(struct cuda_backend *cb);
    struct cuda_team *team; /* of idle */
    bool landing;           /* the copy stream has downloads that compute has not waited for */
    struct cuda_pool *pool;
    struct cuda_upload *upload; /* of a thread beside the owner's */
    struct cuda_pack *pack;
    struct cuda_range *ranges;
    struct cuda_params params;
    char *staging; /* pinned, for uploads and downloads of pageable memory */
    size_t staging_used;
    struct cuda_landing landings[64];
    int n_landings;
    struct cuda_op_blas *blas; /* NULL: products are our own kernels' */
    int blas_rows;             /* from so many rows on they are not */
    int *finished; /* [multiprocessors] on the device, zeros between ops: cuda_tile.cuh */
    void *scratch; /* of the op that runs now */
    size_t scratch_bytes;
};

#define CUDA_STAGING_BYTES ((size_t)8 << 20)

static inline struct cuda_backend *cuda_of(struct backend *be)
{
    return (struct cuda_backend *)be;
}

int cuda_backend_open(struct backend **out, int device, struct err *e);
int cuda_backend_count(void); /* devices; 0 without a driver */

/* Makes it the device of the calling thread: before launches, allocations and questions about memory. */
void cuda_enter(const struct cuda_backend *cb);
/* Keeps the first failure; true when rc is success and the device lives. */
bool cuda_check(struct cuda_backend *cb, cudaError_t rc, const char *what);
/* Where an op queues its launches; called once before them. */
cudaStream_t cuda_stream(struct cuda_backend *cb);
/* What is held back goes into the compute stream: before anything but an op or a copy within it. */
void cuda_flush(struct cuda_backend *cb);
/* Until all that ops have queued is done: false when the device is dead. */
bool cuda_wait(struct cuda_backend *cb);
/* The copy stream, which first waits for all that is queued so far. */
cudaStream_t cuda_copy_stream(struct cuda_backend *cb);
/* A copy in the order of ops. */
void cuda_copy(struct cuda_backend *cb, void *to, const void *from, size_t bytes,
               enum cudaMemcpyKind kind, const char *what);
/* Before an op sends arrays of `bytes` in all: false when dead. */
bool cuda_param_begin(struct cuda_backend *cb, size_t bytes);
/* The device's copy of a host array, good for the op that runs now; NULL when dead. */
const void *cuda_param(struct cuda_backend *cb, const void *host, size_t bytes);
/* The same, to be filled by the caller before cuda_param_send. */
void *cuda_param_new(struct cuda_backend *cb, size_t bytes);
const void *cuda_param_send(struct cuda_backend *cb, void *filled, size_t bytes);
/* The ring goes on in its other half, whose last user is done. */
void cuda_param_turn(struct cuda_backend *cb);
/* Device memory of the op that runs now; NULL when there is none (the backend is then dead). */
void *cuda_scratch(struct cuda_backend *cb, size_t bytes);

/* ---- cuda_mem.c ---- */
int cuda_mem_open(struct cuda_backend *cb, struct err *e);
void cuda_mem_close(struct cuda_backend *cb);
void *cuda_mem_alloc(struct backend *be, size_t bytes, struct err *e);
void cuda_mem_free(struct backend *be, void *p);
void *cuda_mem_host(struct backend *be, size_t bytes, struct err *e);
void cuda_mem_host_free(struct backend *be, void *p);
void cuda_mem_upload(struct backend *be, void *to, const void *from, size_t bytes);
void cuda_mem_download(struct backend *be, void *to, const void *from, size_t bytes);
void cuda_mem_copy(struct backend *be, void *to, const void *from, size_t bytes);
/* Pinned memory for a copy that cuda_copy begins at once, a quarter of CUDA_STAGING_BYTES at most; NULL when dead. */
char *cuda_mem_stage(struct cuda_backend *cb, size_t bytes);
void cuda_mem_land(
    struct cuda_backend *cb); /* after a sync: pageable downloads reach their places */
size_t cuda_mem_free_bytes(struct backend *be);

/* ---- cuda_range.c ---- */
void *cuda_range_open(struct backend *be, size_t bytes, size_t *piece_bytes, struct err *e);
void cuda_range_close(struct backend *be, void *base);
int cuda_range_fill(struct backend *be, void *base, size_t piece, struct err *e);
void cuda_range_drop(struct backend *be, void *base, size_t piece);

/* clang-format off */
/* The ops: cuda_linear, cuda_attn_paged ... */
#define X(op) void cuda_##op(struct backend *be, const struct op_##op *p);
BACKEND_OPS(X)
#undef X
/* clang-format on */
#endif
