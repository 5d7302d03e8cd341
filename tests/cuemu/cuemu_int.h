/* Between the parts of the emulation: runtime.cpp (API, streams, memory), launch.cpp, graph.cpp (streams that are captured),
 * devices.cpp and fiber.cpp (a kernel's blocks and threads). */
#ifndef TESTS_CUEMU_CUEMU_INT_H
#define TESTS_CUEMU_CUEMU_INT_H
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "tests/cuemu/cuda_runtime.h"
#include "tests/cuemu/cuemu.h"

enum { CUEMU_DEVICES = 8 };

/* Under cuemu_lock. */
struct cuemu_devices {
    int n;               /* -1: cuemu_set_up was not called yet */
    int multiprocessors; /* of each */
    size_t memory_total[CUEMU_DEVICES], memory_used[CUEMU_DEVICES];
    unsigned peers[CUEMU_DEVICES]; /* bits: whose memory its kernels may touch besides its own */
};
extern struct cuemu_devices cuemu_devices;
extern std::recursive_mutex cuemu_lock; /* of the whole emulation */
extern thread_local int cuemu_device;   /* cudaSetDevice's */
void cuemu_set_up(void);
cudaError_t cuemu_failed(cudaError_t error); /* keeps it for cudaGetLastError */
cudaError_t cuemu_dead(void);                /* what this thread's device died of */

struct cuemu_grid {
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    std::shared_ptr<cuemu_kernel> kernel;
    int device;
    bool early; /* all its threads wait for what was launched before */
};

/* Work that n streams do together, when all of them have come to it. */
struct cuemu_meeting {
    int n, joined;
    cudaStream_t streams[CUEMU_DEVICES];
    std::function<cudaError_t()> run;
};
cudaError_t cuemu_meet(cudaStream_t stream, std::shared_ptr<cuemu_meeting> m);

/* What waits in a stream. */
struct cuemu_work {
    enum { KERNEL, CALL, RECORD, WAIT, MEET } kind;
    cuemu_grid grid;
    std::function<cudaError_t()> call;
    CUevent_st *event;
    int ticket;       /* WAIT: the record that it is for */
    unsigned devices; /* bits: whose memory it may touch */
    std::shared_ptr<cuemu_meeting> meeting;
};

struct CUstream_st {
    std::deque<cuemu_work> queue;
    CUgraph_st *capture; /* NULL: it is not captured */
    int device;
};

typedef std::lock_guard<std::recursive_mutex> cuemu_guard;
/* Behind what waits in the stream, or into what it captures. */
cudaError_t cuemu_enqueue(cudaStream_t stream, cuemu_work w);
/* Does this thread capture a stream?  Then that is spoilt: the call does not belong there. */
bool cuemu_spoils_capture(void);
void cuemu_capture_add(CUgraph_st *graph, cuemu_work w);
void cuemu_graph_counts_print(void);

/* Runs all blocks; cudaSuccess, or what the device dies of (the report is set). */
cudaError_t cuemu_fiber_run(const struct cuemu_grid *g);
/* The same with what nvcc made of the kernels; only where tests/ptxvm is linked. */
cudaError_t cuemu_ptx_run(const struct cuemu_grid *g) __attribute__((weak));
/* Calls f for every allocation that the work which runs now may touch. */
void cuemu_each_allocation(void (*f)(void *context, const void *p, size_t bytes), void *context);
/* Addresses of devices that are nothing yet (NULL: none are left); an allocation there, and its end. */
char *cuemu_addresses(size_t bytes);
bool cuemu_map(char *at, size_t bytes, int device);
bool cuemu_unmap(char *at);
/* early.cpp: the kernel before an early one runs next; the early one does; all threads of a block wait, or the kernel is
 * done; a fault within it. */
void cuemu_early_watch(const cuemu_grid *next);
void cuemu_early_guard(const cuemu_grid *g);
void cuemu_early_open();
enum cuemu_early_verdict { CUEMU_NOT_EARLY, CUEMU_GO_ON, CUEMU_TOO_EARLY };
cuemu_early_verdict cuemu_early_fault(const void *at, bool write);
extern bool cuemu_early_guarded; /* a block has not come to its wait */
uint64_t cuemu_random(void);
/* Where a lane of a block notes its products. */
cuemu_products *cuemu_products_of(int warp, int lane);
void cuemu_count_mma(int n); /* of the kernel that runs */
void cuemu_set_report(const char *text);
struct cuemu_counts *cuemu_counter(const char *kernel); /* of this kernel; never moves */
/* True for an address in the range of the devices. */
bool cuemu_is_device(const void *p);
/* True within memory that was allocated. */
bool cuemu_is_allocated(const void *p);
/* Whose memory such an address is, or -1. */
int cuemu_owner(const void *p);
int cuemu_stream_device(cudaStream_t s); /* NULL: of this thread */
/* Are these bytes within one allocation of the device? */
bool cuemu_within(const void *p, size_t bytes, int device);
/* Counts a call of the kind; true if it is to fail. */
bool cuemu_injected(enum cuemu_call call);
#endif
