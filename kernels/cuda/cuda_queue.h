/* What ops put into the compute stream, held back until somebody needs results, and CUDA graphs of what
 * comes again and again.
 * Thread: the backend's.
 *
 * Launches and copies are written down as bytes: function, grid, arguments; addresses, lengths.  A flush looks
 * for the same bytes among those that it knows: what comes for the second time is captured from the stream
 * as a graph, and from the third time on it is one launch.  Any difference (rows, a longer context, a
 * model's memory) makes other bytes, so a graph never runs with what is no longer true.  Of those graphs
 * that were not used for longest one is updated, where it has the same kernels, for a new one.
 *
 * The contents of the pinned arrays that ops send are no part of it: they go to the device in one copy at
 * the head of a flush, which the graph repeats. */
#ifndef KERNELS_CUDA_CUDA_QUEUE_H
#define KERNELS_CUDA_CUDA_QUEUE_H
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_queue;

struct cuda_queue_stats {
    uint64_t captures, updates, graph_launches, flushes;
    uint64_t failures; /* captures that failed: launched one by one instead */
};

void cuda_queue_open(struct cuda_queue **out, cudaStream_t stream);
void cuda_queue_close(struct cuda_queue *q); /* NULL is nothing; what is held back is forgotten */
/* Steps of this queue come in many small pieces, each a list of its own: room for as many, and all are forgotten. */
void cuda_queue_pieces(struct cuda_queue *q);
/* From now on launches of this thread into the queue's stream are held back; NULL: none are. */
void cuda_queue_use(struct cuda_queue *q);
/* From pinned memory to its twin on the device, at the head of what is held back.  All of a flush go in one
 * copy of whole CUDA_QUEUE_ROUNDs, so each place lies behind the one before, on both sides. */
#define CUDA_QUEUE_ROUND ((size_t)1024)
void cuda_queue_send(struct cuda_queue *q, void *to, const void *pinned, size_t bytes);
void cuda_queue_copy(struct cuda_queue *q, void *to, const void *from, size_t bytes,
                     enum cudaMemcpyKind kind);
/* f(args, stream) among the launches, where it may be captured; `args` are copied, and compared like a kernel's. */
typedef cudaError_t cuda_queue_function(const void *args, cudaStream_t stream);
void cuda_queue_call(struct cuda_queue *q, cuda_queue_function *f, const void *args, size_t bytes);
/* Into the stream with all; the first error, and what it was that failed. */
cudaError_t cuda_queue_flush(struct cuda_queue *q, const char **what);
/* No device to launch on any more. */
void cuda_queue_forget(struct cuda_queue *q);
struct cuda_queue_stats cuda_queue_stats(const struct cuda_queue *q);

/* For launchers: at once, or held back. */
struct cuda_queue_kernel {
    const void *function;
    unsigned grid[3], block[3];
    size_t shared_bytes;
    void **args;
    const size_t *arg_bytes;
    int n_args;
    bool early; /* may begin while the kernel before it ends: it has a cuda_grid_wait */
};
void cuda_queue_launch(const struct cuda_queue_kernel *k, cudaStream_t stream);
void cuda_queue_clear(void *to, size_t bytes, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
