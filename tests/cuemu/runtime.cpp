/* CUDA's runtime API on the host.
 *
 * Work is not done when it is queued: kernels and copies wait in their streams until somebody
 * synchronises, and then the streams go on in random turns, held only by events.  So code that forgets
 * an event or reads a result too early fails here as it would on a device.
 *
 * Device memory lies in an address range of its own.  Outside of kernels and copies nobody can touch it;
 * every allocation ends at a page that is never there and begins as NaN. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tests/cuemu/cuemu_int.h"

struct CUevent_st {
    bool recorded, done;
    int pending; /* records that are queued */
};

struct work {
    enum { KERNEL, CALL, RECORD, WAIT } kind;
    cuemu_grid grid;
    std::function<cudaError_t()> call;
    CUevent_st *event;
    int ticket; /* WAIT: the record that it is for */
};

struct CUgraph_st {
    std::vector<work> items;
};
struct CUgraphExec_st {
    std::vector<work> items;
};
struct CUstream_st {
    std::deque<work> queue;
    CUgraph_st *capture;
};

namespace
{

enum { MAX_DEVICES = 8 };

struct allocation {
    char *map;
    size_t map_bytes, bytes;
    int device;
};

std::recursive_mutex lock;
std::map<char *, allocation> allocations;
std::map<char *, size_t> host_blocks; /* from cudaMallocHost */
std::vector<CUstream_st *> streams;
CUstream_st null_stream;
char *range;
size_t range_bytes, range_used, memory_total[MAX_DEVICES], memory_used[MAX_DEVICES];
int n_devices = -1, n_calls[CUEMU_CALLS], fail_at[CUEMU_CALLS];
thread_local int device_now;
cudaError_t sticky, last_error;
bool memory_open;
uint64_t seed = 1;
char report[600];
std::map<std::string, cuemu_counts> counters;

struct CUevent_state {
    int records, done;
};
std::map<CUevent_st *, CUevent_state> event_states;

typedef std::lock_guard<std::recursive_mutex> guard;

void set_up()
{
    if (n_devices >= 0)
        return;
    const char *devices = getenv("CUEMU_DEVICES"), *mb = getenv("CUEMU_MEMORY_MB");
    if (getenv("CUEMU_COUNTS"))
        atexit(cuemu_counts_print);
    const char *s = getenv("CUEMU_SEED"), *fail = getenv("CUEMU_FAIL");
    static const char *const names[] = {"malloc", "host",  "copy", "launch",
                                        "sync",   "graph", "blas"};
    n_devices = devices ? (int)strtol(devices, nullptr, 10) : 1;
    n_devices = n_devices < 0 ? 0 : n_devices > MAX_DEVICES ? MAX_DEVICES : n_devices;
    for (int i = 0; i < MAX_DEVICES; i++)
        memory_total[i] = (size_t)(mb ? strtoul(mb, nullptr, 10) : 8192) << 20;
    if (s)
        seed = strtoull(s, nullptr, 10) * 2 + 1;
    for (int i = 0; fail && i < CUEMU_CALLS; i++) {
        size_t n = strlen(names[i]);
        if (strncmp(fail, names[i], n) == 0 && fail[n] == ':')
            fail_at[i] = (int)strtol(fail + n + 1, nullptr, 10);
    }
    void *all = MAP_FAILED; /* sanitizers leave less */
    for (range_bytes = (size_t)1 << 41; all == MAP_FAILED && range_bytes > (size_t)1 << 34;) {
        range_bytes /= 2;
        all = mmap(nullptr, range_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                   0);
    }
    range = static_cast<char *>(all);
    if (all == MAP_FAILED) {
        fprintf(stderr, "cuemu: no address range for device memory\n");
        exit(1);
    }
}

/* Counts the call; true if this one is to fail. */
bool injected(cuemu_call call)
{
    set_up();
    return ++n_calls[call] == fail_at[call];
}

cudaError_t fail(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

cudaError_t die(cudaError_t error)
{
    sticky = error;
    if (report[0] && getenv("CUEMU_QUIET") == nullptr)
        fprintf(stderr, "cuemu: %s\n", report);
    return fail(error);
}

/* Lets kernels and copies at the device's memory, or nobody. */
void open_memory(bool open)
{
    if (open == memory_open)
        return;
    memory_open = open;
    for (auto &a : allocations)
        mprotect(a.second.map, a.second.map_bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

struct memory_opened {
    bool was = memory_open;
    memory_opened() { open_memory(true); }
    ~memory_opened() { open_memory(was); }
};

CUstream_st *stream_of(cudaStream_t s)
{
    return s ? s : &null_stream;
}

bool head_ready(CUstream_st *s)
{
    if (s->queue.empty())
        return false;
    const work &w = s->queue.front();
    return w.kind != work::WAIT || event_states[w.event].done >= w.ticket;
}

cudaError_t timed_run(const cuemu_grid *g)
{
    struct timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    cudaError_t rc = cuemu_ptx_run ? cuemu_ptx_run(g) : cuemu_fiber_run(g);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    counters[g->name].host_us +=
        (uint64_t)((b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000);
    return rc;
}

void run_head(CUstream_st *s)
{
    work w = std::move(s->queue.front());
    s->queue.pop_front();
    cudaError_t rc = cudaSuccess;
    if (w.kind == work::RECORD)
        event_states[w.event].done++;
    else if (sticky == cudaSuccess && w.kind == work::KERNEL)
        rc = timed_run(&w.grid);
    else if (sticky == cudaSuccess && w.kind == work::CALL)
        rc = w.call();
    if (rc != cudaSuccess)
        die(rc);
}

/* Until `done` says so, or nothing can go on. */
void drain(const std::function<bool()> &done)
{
    memory_opened open;
    while (!done()) {
        std::vector<CUstream_st *> ready;
        if (head_ready(&null_stream))
            ready.push_back(&null_stream);
        for (CUstream_st *s : streams)
            if (head_ready(s))
                ready.push_back(s);
        if (ready.empty())
            return;
        CUstream_st *s = ready[cuemu_random() % ready.size()];
        do
            run_head(s);
        while (head_ready(s) && ready.size() == 1 && !done());
    }
}

cudaError_t enqueue(cudaStream_t stream, work w)
{
    CUstream_st *s = stream_of(stream);
    if (s->capture)
        s->capture->items.push_back(std::move(w));
    else
        s->queue.push_back(std::move(w));
    return sticky;
}

cudaError_t synchronize(const std::function<bool()> &done)
{
    if (injected(CUEMU_SYNC)) {
        cuemu_set_report("an injected failure of a synchronisation");
        return die(cudaErrorLaunchFailure);
    }
    drain(done);
    return sticky != cudaSuccess ? fail(sticky) : cudaSuccess;
}

bool known_host(const void *p)
{
    auto it = host_blocks.upper_bound((char *)p);
    if (it == host_blocks.begin())
        return false;
    --it;
    return (const char *)p < it->first + it->second;
}

/* 0, or why these bytes are not one allocation's. */
cudaError_t check_device(const void *p, size_t bytes)
{
    auto it = allocations.upper_bound((char *)p);
    if (it == allocations.begin())
        return cudaErrorInvalidValue;
    --it;
    if ((const char *)p + bytes > it->first + it->second.bytes)
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

} // namespace

bool cuemu_is_device(const void *p)
{
    return range && (const char *)p >= range && (const char *)p < range + range_bytes;
}

void cuemu_each_allocation(void (*f)(void *context, const void *p, size_t bytes), void *context)
{
    for (auto &a : allocations)
        f(context, a.first, a.second.bytes);
}

uint64_t cuemu_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed >> 11;
}

void cuemu_set_report(const char *text)
{
    snprintf(report, sizeof report, "%s", text);
}

cuemu_counts *cuemu_counter(const char *kernel)
{
    return &counters[kernel];
}

void cuemu_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                  std::shared_ptr<cuemu_kernel> kernel)
{
    guard g(lock);
    if (injected(CUEMU_LAUNCH)) {
        fail(cudaErrorLaunchFailure);
        return;
    }
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 ||
        grid.z == 0 || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535 ||
        shared_bytes > 227 * 1024) {
        char text[200];
        snprintf(text, sizeof text,
                 "%s: a launch of (%u, %u, %u) blocks of %llu threads, %zu bytes", name, grid.x,
                 grid.y, grid.z, (unsigned long long)threads, shared_bytes);
        cuemu_set_report(text);
        fail(cudaErrorInvalidConfiguration);
        return;
    }
    work w = {};
    w.kind = work::KERNEL;
    w.grid = {name, grid, block, shared_bytes, std::move(kernel)};
    enqueue(stream, std::move(w));
}

extern "C" {

void cuemu_fail(enum cuemu_call call, int n)
{
    guard g(lock);
    set_up();
    n_calls[call] = 0;
    fail_at[call] = n;
}

int cuemu_calls(enum cuemu_call call)
{
    return n_calls[call];
}

void cuemu_reset(void)
{
    guard g(lock);
    set_up();
    null_stream.queue.clear();
    for (CUstream_st *s : streams)
        s->queue.clear();
    for (auto &e : event_states)
        e.second.done = e.second.records;
    sticky = last_error = cudaSuccess;
    report[0] = '\0';
}

void cuemu_seed(uint64_t s)
{
    seed = s * 2 + 1;
}

const char *cuemu_report(void)
{
    return report;
}

struct cuemu_counts cuemu_counted(const char *kernel)
{
    struct cuemu_counts all = {};
    for (auto &c : counters) {
        if (kernel && c.first.find(kernel) == std::string::npos)
            continue;
        all.launches += c.second.launches;
        all.blocks += c.second.blocks;
        all.threads += c.second.threads;
        all.barriers += c.second.barriers;
        all.warp_ops += c.second.warp_ops;
        all.mma += c.second.mma;
        all.cp_async_bytes += c.second.cp_async_bytes;
    }
    return all;
}

void cuemu_counts_print(void)
{
    fprintf(stderr, "%-48s %9s %10s %12s %10s %12s %10s %12s %10s\n", "kernel", "launches",
            "blocks", "threads", "barriers", "warp ops", "mma", "async bytes", "host us");
    for (auto &c : counters)
        fprintf(stderr, "%-48s %9llu %10llu %12llu %10llu %12llu %10llu %12llu %10llu\n",
                c.first.c_str(), (unsigned long long)c.second.launches,
                (unsigned long long)c.second.blocks, (unsigned long long)c.second.threads,
                (unsigned long long)c.second.barriers, (unsigned long long)c.second.warp_ops,
                (unsigned long long)c.second.mma, (unsigned long long)c.second.cp_async_bytes,
                (unsigned long long)c.second.host_us);
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    case cudaErrorIllegalAddress:
        return "cudaErrorIllegalAddress";
    case cudaErrorMisalignedAddress:
        return "cudaErrorMisalignedAddress";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    default:
        return "cudaErrorUnknown";
    }
}

const char *cudaGetErrorString(cudaError_t error)
{
    return cudaGetErrorName(error);
}

cudaError_t cudaGetLastError(void)
{
    guard g(lock);
    cudaError_t e = last_error;
    last_error = sticky;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    guard g(lock);
    set_up();
    *count = n_devices;
    return n_devices ? cudaSuccess : fail(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    guard g(lock);
    set_up();
    if (device < 0 || device >= n_devices)
        return fail(cudaErrorInvalidDevice);
    device_now = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = device_now;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    set_up();
    if (device < 0 || device >= n_devices)
        return fail(cudaErrorInvalidDevice);
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "emulated device %d", device);
    prop->totalGlobalMem = memory_total[device];
    prop->sharedMemPerBlock = 48 * 1024;
    prop->sharedMemPerBlockOptin = 227 * 1024;
    prop->major = 8;
    prop->multiProcessorCount = 4;
    prop->maxThreadsPerBlock = 1024;
    prop->warpSize = 32;
    prop->l2CacheSize = 1 << 20;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    guard g(lock);
    set_up();
    *total = memory_total[device_now];
    *free_bytes = memory_total[device_now] - memory_used[device_now];
    return sticky;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    guard g(lock);
    if (injected(CUEMU_MALLOC))
        return fail(cudaErrorMemoryAllocation);
    if (sticky != cudaSuccess)
        return sticky;
    const size_t page = 4096, round = (bytes + 255) / 256 * 256;
    const size_t map_bytes = (round + page - 1) / page * page;
    if (bytes == 0 || bytes > memory_total[device_now] - memory_used[device_now] ||
        range_used + map_bytes + 4 * page > range_bytes)
        return fail(cudaErrorMemoryAllocation);
    /* large ones start where a huge page does: then opening and closing them is cheap */
    const size_t align = map_bytes >= (size_t)8 << 20 ? (size_t)2 << 20 : page;
    range_used = (range_used + align - 1) / align * align;
    char *map = range + range_used;
    range_used += map_bytes + page;
    if (mprotect(map, map_bytes, PROT_READ | PROT_WRITE))
        return fail(cudaErrorMemoryAllocation);
    madvise(map, map_bytes, MADV_HUGEPAGE);
    if (bytes <= (size_t)64 << 20)
        memset(map, 0xff, map_bytes);
    char *at = map + map_bytes - round;
    if (!memory_open)
        mprotect(map, map_bytes, PROT_NONE);
    allocations[at] = {map, map_bytes, bytes, device_now};
    memory_used[device_now] += bytes;
    *p = at;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    guard g(lock);
    if (!p)
        return cudaSuccess;
    auto it = allocations.find(static_cast<char *>(p));
    if (it == allocations.end())
        return fail(cudaErrorInvalidValue);
    drain([] { return false; }); /* as CUDA does */
    madvise(it->second.map, it->second.map_bytes, MADV_DONTNEED);
    mprotect(it->second.map, it->second.map_bytes, PROT_NONE);
    memory_used[it->second.device] -= it->second.bytes;
    allocations.erase(it);
    return sticky;
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    guard g(lock);
    if (injected(CUEMU_HOST))
        return fail(cudaErrorMemoryAllocation);
    void *m = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!m)
        return fail(cudaErrorMemoryAllocation);
    memset(m, 0xff, bytes);
    host_blocks[static_cast<char *>(m)] = bytes;
    *p = m;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    guard g(lock);
    if (!p)
        return cudaSuccess;
    drain([] { return false; });
    if (!host_blocks.erase(static_cast<char *>(p)))
        return fail(cudaErrorInvalidValue);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    guard g(lock);
    if (injected(CUEMU_COPY))
        return die((cuemu_set_report("an injected failure of a copy"), cudaErrorLaunchFailure));
    if (sticky != cudaSuccess)
        return sticky;
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (to_device != cuemu_is_device(dst) || from_device != cuemu_is_device(src) ||
        (to_device && check_device(dst, bytes)) || (from_device && check_device(src, bytes))) {
        cuemu_set_report("a copy beyond an allocation, or of the wrong kind");
        return fail(cudaErrorInvalidValue);
    }
    work w = {};
    w.kind = work::CALL;
    if (kind == cudaMemcpyHostToDevice && !known_host(src)) {
        /* pageable memory is staged before the call returns */
        auto copy = std::make_shared<std::string>(static_cast<const char *>(src), bytes);
        w.call = [=] { return memcpy(dst, copy->data(), bytes), cudaSuccess; };
    } else {
        w.call = [=] { return memmove(dst, src, bytes), cudaSuccess; };
    }
    cudaError_t rc = enqueue(stream, std::move(w));
    if (kind == cudaMemcpyDeviceToHost && !known_host(dst))
        drain([=] { return stream_of(stream)->queue.empty(); });
    return rc;
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
    guard g(lock);
    cudaError_t rc = cudaMemcpyAsync(dst, src, bytes, kind, nullptr);
    drain([] { return false; });
    return rc != cudaSuccess ? rc : sticky;
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    guard g(lock);
    if (injected(CUEMU_COPY))
        return die((cuemu_set_report("an injected failure of a memset"), cudaErrorLaunchFailure));
    if (check_device(dst, bytes)) {
        cuemu_set_report("a memset beyond an allocation");
        return fail(cudaErrorInvalidValue);
    }
    work w = {};
    w.kind = work::CALL;
    w.call = [=] { return memset(dst, value, bytes), cudaSuccess; };
    return enqueue(stream, std::move(w));
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    guard g(lock);
    set_up();
    *stream = new CUstream_st();
    streams.push_back(*stream);
    return sticky;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    guard g(lock);
    drain([=] { return stream->queue.empty(); });
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i] == stream) {
            streams.erase(streams.begin() + (long)i);
            delete stream;
            break;
        }
    }
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    guard g(lock);
    return synchronize([=] { return stream_of(stream)->queue.empty(); });
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    guard g(lock);
    return sticky != cudaSuccess              ? sticky
           : stream_of(stream)->queue.empty() ? cudaSuccess
                                              : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    guard g(lock);
    return synchronize([] { return false; });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    guard g(lock);
    *event = new CUevent_st();
    event_states[*event] = {};
    return sticky;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    guard g(lock);
    drain([=] { return event_states[event].done >= event_states[event].records; });
    event_states.erase(event);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    guard g(lock);
    work w = {};
    w.kind = work::RECORD;
    w.event = event;
    if (!stream_of(stream)->capture)
        event_states[event].records++;
    return enqueue(stream, std::move(w));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    guard g(lock);
    work w = {};
    w.kind = work::WAIT;
    w.event = event;
    w.ticket = event_states[event].records;
    return enqueue(stream, std::move(w));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    guard g(lock);
    return synchronize([=] { return event_states[event].done >= event_states[event].records; });
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    guard g(lock);
    const CUevent_state &s = event_states[event];
    return sticky != cudaSuccess ? sticky : s.done >= s.records ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t)
{
    *ms = 0.001f;
    return sticky;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    guard g(lock);
    if (injected(CUEMU_GRAPH))
        return fail(cudaErrorStreamCaptureUnsupported);
    if (!stream || stream->capture)
        return fail(cudaErrorStreamCaptureUnsupported);
    stream->capture = new CUgraph_st();
    return sticky;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    guard g(lock);
    if (!stream->capture)
        return fail(cudaErrorStreamCaptureInvalidated);
    *graph = stream->capture;
    stream->capture = nullptr;
    return sticky;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    guard g(lock);
    if (injected(CUEMU_GRAPH))
        return fail(cudaErrorMemoryAllocation);
    *exec = new CUgraphExec_st{graph->items};
    return sticky;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    guard g(lock);
    if (injected(CUEMU_LAUNCH))
        return fail(cudaErrorLaunchFailure);
    for (const work &w : exec->items)
        enqueue(stream, w);
    return sticky;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

} // extern "C"
