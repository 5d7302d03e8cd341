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

#include <algorithm>
#include <map>
#include <string>

#include "tests/cuemu/cuemu_int.h"

struct CUevent_st {
    int device;
};

namespace
{

enum { MAX_DEVICES = CUEMU_DEVICES, PATIENCE_MS = 2000 };

struct allocation {
    char *map;
    size_t map_bytes, bytes;
    int device;
};

std::map<char *, allocation> allocations;
std::map<char *, size_t> host_blocks; /* from cudaMallocHost */
std::vector<CUstream_st *> streams;
CUstream_st null_streams[MAX_DEVICES];
char *range;
size_t range_bytes, range_used;
int n_calls[CUEMU_CALLS], fail_at[CUEMU_CALLS];
int fail_device[CUEMU_CALLS]; /* -1: any */
const char *fail_after;       /* calls count when this file is there; NULL: at once */
thread_local cudaError_t last_error;
cudaError_t sticky[MAX_DEVICES]; /* what each died of */
unsigned memory_open;            /* bits: the devices whose memory can be touched now */
uint64_t seed = 1;
char report[600];

struct CUevent_state {
    int records, done;
};
std::map<CUevent_st *, CUevent_state> event_states;

typedef cuemu_guard guard;
typedef cuemu_work work;

} // namespace

std::recursive_mutex cuemu_lock;
struct cuemu_devices cuemu_devices = {-1, 4, {}, {}, {}};
thread_local int cuemu_device;

void cuemu_set_up()
{
    if (cuemu_devices.n >= 0)
        return;
    const char *devices = getenv("CUEMU_DEVICES"), *mb = getenv("CUEMU_MEMORY_MB");
    if (const char *n = getenv("CUEMU_MULTIPROCESSORS"))
        cuemu_devices.multiprocessors = std::max(1, (int)strtol(n, nullptr, 10));
    if (getenv("CUEMU_COUNTS"))
        atexit(cuemu_counts_print);
    const char *s = getenv("CUEMU_SEED"), *fail = getenv("CUEMU_FAIL");
    static const char *const names[] = {"malloc", "host",  "copy", "launch",
                                        "sync",   "graph", "nccl", "blas"};
    cuemu_devices.n = devices ? (int)strtol(devices, nullptr, 10) : 1;
    cuemu_devices.n = cuemu_devices.n < 0             ? 0
                      : cuemu_devices.n > MAX_DEVICES ? MAX_DEVICES
                                                      : cuemu_devices.n;
    for (int i = 0; i < MAX_DEVICES; i++)
        null_streams[i].device = i,
        cuemu_devices.memory_total[i] = (size_t)(mb ? strtoul(mb, nullptr, 10) : 8192) << 20;
    fail_after = getenv("CUEMU_FAIL_AFTER");
    if (s)
        seed = strtoull(s, nullptr, 10) * 2 + 1;
    for (int i = 0; i < CUEMU_CALLS; i++) {
        const size_t n = strlen(names[i]);
        const char *at = fail;
        while (at && (strncmp(at, names[i], n) != 0 || at[n] != ':')) /* of a list with commas */
            at = strchr(at, ',') ? strchr(at, ',') + 1 : nullptr;
        char *end = nullptr;
        fail_at[i] = at ? (int)strtol(at + n + 1, &end, 10) : 0;
        fail_device[i] = at && *end == '@' ? (int)strtol(end + 1, nullptr, 10) : -1;
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

cudaError_t cuemu_failed(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

cudaError_t cuemu_dead()
{
    return sticky[cuemu_device];
}

namespace
{

/* Counts the call; true if this one is to fail. */
bool injected(cuemu_call call)
{
    cuemu_set_up();
    if (fail_at[call] && fail_after && access(fail_after, F_OK) != 0)
        return false;
    if (fail_at[call] && fail_device[call] >= 0 && fail_device[call] != cuemu_device)
        return false;
    return ++n_calls[call] == fail_at[call];
}

/* Of one device; the others go on. */
cudaError_t die(int device, cudaError_t error)
{
    sticky[device] = error;
    if (report[0] && getenv("CUEMU_QUIET") == nullptr)
        fprintf(stderr, "cuemu: %s\n", report);
    return device == cuemu_device ? cuemu_failed(error) : error;
}

/* Lets work of these devices at their memory, and nobody at the others'. */
void open_memory(unsigned devices)
{
    const unsigned changed = devices ^ memory_open;
    memory_open = devices;
    for (auto &a : allocations)
        if (changed >> a.second.device & 1)
            mprotect(a.second.map, a.second.map_bytes,
                     devices >> a.second.device & 1 ? PROT_READ | PROT_WRITE : PROT_NONE);
}

CUstream_st *stream_of(cudaStream_t s)
{
    return s ? s : &null_streams[cuemu_device];
}

/* All streams of a collective stand before it. */
bool all_here(const std::shared_ptr<cuemu_meeting> &m)
{
    if (m->joined < m->n)
        return false;
    for (int i = 0; i < m->n; i++)
        if (m->streams[i]->queue.empty() || m->streams[i]->queue.front().meeting != m)
            return false;
    return true;
}

bool head_ready(CUstream_st *s)
{
    if (s->queue.empty())
        return false;
    const work &w = s->queue.front();
    return w.kind == work::WAIT   ? event_states[w.event].done >= w.ticket
           : w.kind == work::MEET ? all_here(w.meeting)
                                  : true;
}

cudaError_t meet(const std::shared_ptr<cuemu_meeting> &m)
{
    cudaError_t rc = cudaSuccess;
    unsigned devices = 0;
    for (int i = 0; i < m->n; i++) {
        if (m->streams[i]->queue.front().meeting == m)
            m->streams[i]->queue.pop_front();
        devices |= 1u << m->streams[i]->device;
        rc = rc != cudaSuccess ? rc : sticky[m->streams[i]->device];
    }
    open_memory(devices);
    if (rc == cudaSuccess)
        rc = m->run();
    for (int i = 0; i < m->n && rc != cudaSuccess; i++)
        if (sticky[m->streams[i]->device] == cudaSuccess)
            die(m->streams[i]->device, rc);
    return rc;
}

cudaError_t timed_run(const cuemu_grid *g)
{
    struct timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    cudaError_t rc = cuemu_ptx_run ? cuemu_ptx_run(g) : cuemu_fiber_run(g);
    cuemu_early_open();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    cuemu_counter(g->name)->host_us +=
        (uint64_t)((b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000);
    return rc;
}

void run_head(CUstream_st *s)
{
    if (s->queue.front().kind == work::MEET) {
        meet(std::shared_ptr<cuemu_meeting>(s->queue.front().meeting));
        return;
    }
    work w = std::move(s->queue.front());
    s->queue.pop_front();
    cudaError_t rc = cudaSuccess;
    if (w.kind == work::RECORD) {
        event_states[w.event].done++;
    } else if (sticky[s->device] == cudaSuccess && w.kind != work::WAIT) {
        open_memory(w.kind == work::KERNEL ? 1u << s->device | cuemu_devices.peers[s->device]
                                           : w.devices);
        w.grid.device = s->device;
        if (w.kind == work::KERNEL && !s->queue.empty() && s->queue.front().kind == work::KERNEL &&
            s->queue.front().grid.early)
            cuemu_early_watch(&s->queue.front().grid);
        rc = w.kind == work::KERNEL ? timed_run(&w.grid) : w.call();
    }
    if (rc != cudaSuccess)
        die(s->device, rc);
}

/* Until `done` says so, or nothing can go on. */
void drain(const std::function<bool()> &done)
{
    struct memory_opened {
        unsigned was = memory_open;
        ~memory_opened() { open_memory(was); }
    } closes_it_again;
    while (!done()) {
        std::vector<CUstream_st *> ready;
        for (CUstream_st &s : null_streams)
            if (head_ready(&s))
                ready.push_back(&s);
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

/* A device goes on while the host asks: a little of what is left, unless that is done. */
void go_on(const std::function<bool()> &done)
{
    int left = 1 + (int)(cuemu_random() % 8);
    drain([&] { return done() || left-- == 0; });
}

cudaError_t enqueue(cudaStream_t stream, work w)
{
    CUstream_st *s = stream_of(stream);
    if (s->capture)
        cuemu_capture_add(s->capture, std::move(w));
    else
        s->queue.push_back(std::move(w));
    return sticky[s->device];
}

/* Bits: the devices that have memory of [p, p + bytes). */
unsigned owner_bit(const void *p)
{
    return cuemu_is_device(p) ? 1u << cuemu_owner(p) : 0;
}

/* What stands before what is to be done may be another thread's to bring; not for ever. */
cudaError_t synchronize(int device, const std::function<bool()> &done)
{
    if (injected(CUEMU_SYNC)) {
        cuemu_set_report("an injected failure of a synchronisation");
        return die(device, cudaErrorLaunchFailure);
    }
    if (cuemu_spoils_capture())
        return cuemu_failed(cudaErrorStreamCaptureUnsupported);
    drain(done);
    for (int ms = 0; !done() && ms < PATIENCE_MS; ms++) {
        cuemu_lock.unlock();
        usleep(1000);
        cuemu_lock.lock();
        drain(done);
    }
    if (!done()) {
        cuemu_set_report("a synchronisation waits for what never comes: an event that nobody "
                         "records, a collective without some of its ranks");
        return die(device, cudaErrorLaunchFailure);
    }
    return sticky[device] != cudaSuccess ? cuemu_failed(sticky[device]) : cudaSuccess;
}

bool device_idle(int device)
{
    bool idle = null_streams[device].queue.empty();
    for (CUstream_st *s : streams)
        idle &= s->device != device || s->queue.empty();
    return idle;
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

int cuemu_stream_device(cudaStream_t s)
{
    return stream_of(s)->device;
}

bool cuemu_is_allocated(const void *p)
{
    auto it = allocations.upper_bound((char *)p);
    return it != allocations.begin() &&
           (const char *)p < std::prev(it)->first + std::prev(it)->second.bytes;
}

int cuemu_owner(const void *p)
{
    auto it = allocations.upper_bound((char *)p);
    return it == allocations.begin() ? -1 : std::prev(it)->second.device;
}

bool cuemu_within(const void *p, size_t bytes, int device)
{
    return cuemu_is_device(p) && check_device(p, bytes) == cudaSuccess && cuemu_owner(p) == device;
}

void cuemu_each_allocation(void (*f)(void *context, const void *p, size_t bytes), void *context)
{
    for (auto &a : allocations)
        if (memory_open >> a.second.device & 1)
            f(context, a.first, a.second.bytes);
}

cudaError_t cuemu_meet(cudaStream_t stream, std::shared_ptr<cuemu_meeting> m)
{
    guard g(cuemu_lock);
    CUstream_st *s = stream_of(stream);
    if (s->capture || m->joined == m->n)
        return cudaErrorStreamCaptureUnsupported;
    m->streams[m->joined++] = s;
    work w = {};
    w.kind = work::MEET;
    w.meeting = std::move(m);
    return enqueue(s, std::move(w));
}

bool cuemu_injected(enum cuemu_call call)
{
    guard g(cuemu_lock);
    return injected(call);
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

char *cuemu_addresses(size_t bytes)
{
    const size_t page = 4096;
    cuemu_set_up();
    range_used = (range_used + page - 1) / page * page;
    if (bytes > range_bytes - range_used || range_bytes - range_used - bytes < 2 * page)
        return nullptr;
    char *at = range + range_used;
    range_used += (bytes + page - 1) / page * page + page;
    return at;
}

bool cuemu_map(char *at, size_t bytes, int device)
{
    if (cuemu_spoils_capture() || mprotect(at, bytes, PROT_READ | PROT_WRITE))
        return false;
    memset(at, 0xff, bytes);
    if (!(memory_open >> device & 1))
        mprotect(at, bytes, PROT_NONE);
    allocations[at] = {at, bytes, bytes, device};
    return true;
}

bool cuemu_unmap(char *at)
{
    auto it = allocations.find(at);
    if (it == allocations.end() || cuemu_spoils_capture())
        return false;
    madvise(at, it->second.map_bytes, MADV_DONTNEED);
    mprotect(at, it->second.map_bytes, PROT_NONE);
    allocations.erase(it);
    return true;
}

cudaError_t cuemu_enqueue(cudaStream_t stream, cuemu_work w)
{
    return enqueue(stream, std::move(w));
}

extern "C" {

void cuemu_fail(enum cuemu_call call, int n)
{
    guard g(cuemu_lock);
    cuemu_set_up();
    n_calls[call] = 0;
    fail_at[call] = n;
    fail_device[call] = -1;
}

int cuemu_calls(enum cuemu_call call)
{
    return n_calls[call];
}

void cuemu_reset(void)
{
    guard g(cuemu_lock);
    cuemu_set_up();
    for (CUstream_st &s : null_streams)
        s.queue.clear();
    for (CUstream_st *s : streams)
        s->queue.clear();
    for (auto &e : event_states)
        e.second.done = e.second.records;
    std::fill(sticky, sticky + MAX_DEVICES, cudaSuccess);
    last_error = cudaSuccess;
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

cudaError_t cudaGetLastError(void)
{
    guard g(cuemu_lock);
    cudaError_t e = last_error;
    last_error = cuemu_dead();
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    guard g(cuemu_lock);
    if (injected(CUEMU_MALLOC))
        return cuemu_failed(cudaErrorMemoryAllocation);
    if (cuemu_spoils_capture())
        return cuemu_failed(cudaErrorStreamCaptureUnsupported);
    if (cuemu_dead() != cudaSuccess)
        return cuemu_dead();
    const size_t page = 4096, round = (bytes + 255) / 256 * 256;
    const size_t map_bytes = (round + page - 1) / page * page;
    if (bytes == 0 ||
        bytes >
            cuemu_devices.memory_total[cuemu_device] - cuemu_devices.memory_used[cuemu_device] ||
        range_used + map_bytes + 4 * page > range_bytes)
        return cuemu_failed(cudaErrorMemoryAllocation);
    /* large ones start where a huge page does: then opening and closing them is cheap */
    const size_t align = map_bytes >= (size_t)8 << 20 ? (size_t)2 << 20 : page;
    range_used = (range_used + align - 1) / align * align;
    char *map = range + range_used;
    range_used += map_bytes + page;
    if (mprotect(map, map_bytes, PROT_READ | PROT_WRITE))
        return cuemu_failed(cudaErrorMemoryAllocation);
    madvise(map, map_bytes, MADV_HUGEPAGE);
    if (bytes <= (size_t)64 << 20)
        memset(map, 0xff, map_bytes);
    char *at = map + map_bytes - round;
    if (!(memory_open >> cuemu_device & 1))
        mprotect(map, map_bytes, PROT_NONE);
    allocations[at] = {map, map_bytes, bytes, cuemu_device};
    cuemu_devices.memory_used[cuemu_device] += bytes;
    *p = at;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    guard g(cuemu_lock);
    if (!p)
        return cudaSuccess;
    if (cuemu_spoils_capture())
        return cuemu_failed(cudaErrorStreamCaptureUnsupported);
    auto it = allocations.find(static_cast<char *>(p));
    if (it == allocations.end())
        return cuemu_failed(cudaErrorInvalidValue);
    drain([] { return false; }); /* as CUDA does */
    madvise(it->second.map, it->second.map_bytes, MADV_DONTNEED);
    mprotect(it->second.map, it->second.map_bytes, PROT_NONE);
    cuemu_devices.memory_used[it->second.device] -= it->second.bytes;
    allocations.erase(it);
    return cuemu_dead();
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    guard g(cuemu_lock);
    if (injected(CUEMU_HOST))
        return cuemu_failed(cudaErrorMemoryAllocation);
    void *m = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!m)
        return cuemu_failed(cudaErrorMemoryAllocation);
    memset(m, 0xff, bytes);
    host_blocks[static_cast<char *>(m)] = bytes;
    *p = m;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    guard g(cuemu_lock);
    if (!p)
        return cudaSuccess;
    drain([] { return false; });
    if (!host_blocks.erase(static_cast<char *>(p)))
        return cuemu_failed(cudaErrorInvalidValue);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    guard g(cuemu_lock);
    if (injected(CUEMU_COPY))
        return die(cuemu_device,
                   (cuemu_set_report("an injected failure of a copy"), cudaErrorLaunchFailure));
    if (cuemu_dead() != cudaSuccess)
        return cuemu_dead();
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (to_device != cuemu_is_device(dst) || from_device != cuemu_is_device(src) ||
        (to_device && check_device(dst, bytes)) || (from_device && check_device(src, bytes))) {
        cuemu_set_report("a copy beyond an allocation, or of the wrong kind");
        return cuemu_failed(cudaErrorInvalidValue);
    }
    work w = {};
    w.kind = work::CALL;
    w.devices = owner_bit(dst) | owner_bit(src);
    if (kind == cudaMemcpyHostToDevice && !known_host(src)) {
        /* pageable memory is staged before the call returns, which no graph can do again */
        if (stream_of(stream)->capture && cuemu_spoils_capture())
            return cuemu_failed(cudaErrorStreamCaptureUnsupported);
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
    guard g(cuemu_lock);
    cudaError_t rc = cudaMemcpyAsync(dst, src, bytes, kind, nullptr);
    drain([] { return false; });
    return rc != cudaSuccess ? rc : cuemu_dead();
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    guard g(cuemu_lock);
    if (injected(CUEMU_COPY))
        return die(cuemu_device,
                   (cuemu_set_report("an injected failure of a memset"), cudaErrorLaunchFailure));
    if (check_device(dst, bytes) || cuemu_owner(dst) != stream_of(stream)->device) {
        cuemu_set_report("a memset beyond an allocation, or of another device's");
        return cuemu_failed(cudaErrorInvalidValue);
    }
    work w = {};
    w.kind = work::CALL;
    w.devices = owner_bit(dst);
    w.call = [=] { return memset(dst, value, bytes), cudaSuccess; };
    return enqueue(stream, std::move(w));
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    guard g(cuemu_lock);
    cuemu_set_up();
    *stream = new CUstream_st();
    (*stream)->device = cuemu_device;
    streams.push_back(*stream);
    return cuemu_dead();
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    guard g(cuemu_lock);
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
    guard g(cuemu_lock);
    CUstream_st *s = stream_of(stream);
    return synchronize(s->device, [=] { return s->queue.empty(); });
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    guard g(cuemu_lock);
    const CUstream_st *s = stream_of(stream);
    go_on([=] { return s->queue.empty(); });
    return sticky[s->device] != cudaSuccess ? sticky[s->device]
           : s->queue.empty()               ? cudaSuccess
                                            : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    guard g(cuemu_lock);
    const int device = cuemu_device;
    drain([] { return false; });
    return synchronize(device, [=] { return device_idle(device); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    guard g(cuemu_lock);
    *event = new CUevent_st();
    (*event)->device = cuemu_device;
    event_states[*event] = {};
    return cuemu_dead();
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    guard g(cuemu_lock);
    drain([=] { return event_states[event].done >= event_states[event].records; });
    event_states.erase(event);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    guard g(cuemu_lock);
    if (event->device != stream_of(stream)->device) {
        cuemu_set_report("an event recorded in a stream of another device");
        return cuemu_failed(cudaErrorInvalidResourceHandle);
    }
    work w = {};
    w.kind = work::RECORD;
    w.event = event;
    if (!stream_of(stream)->capture)
        event_states[event].records++;
    return enqueue(stream, std::move(w));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    guard g(cuemu_lock);
    work w = {};
    w.kind = work::WAIT;
    w.event = event;
    w.ticket = event_states[event].records;
    return enqueue(stream, std::move(w));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    guard g(cuemu_lock);
    return synchronize(event->device,
                       [=] { return event_states[event].done >= event_states[event].records; });
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    guard g(cuemu_lock);
    const CUevent_state &s = event_states[event];
    go_on([&] { return s.done >= s.records; });
    return sticky[event->device] != cudaSuccess ? sticky[event->device]
           : s.done >= s.records                ? cudaSuccess
                                                : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t)
{
    *ms = 0.001f;
    return cuemu_dead();
}

} // extern "C"
