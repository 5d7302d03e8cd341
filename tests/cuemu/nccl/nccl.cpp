/* NCCL on emulated devices: a library of its own, so that it is found, or not, as the real one is.
 *
 * A collective is one piece of work that stands in a stream of every rank and is done when all of them have
 * come to it.  What real ranks would hang or read nonsense of is an error here: ranks that disagree,
 * memory or a stream of another device, several ranks of one thread without a group.  Sums begin at a
 * random rank, since NCCL promises no order. */
#include "tests/cuemu/nccl/nccl.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <map>
#include <string>
#include <vector>

#include "tests/cuemu/cuemu_int.h"

namespace
{

enum kind { ALL_REDUCE, ALL_GATHER, BROADCAST };

/* What a rank asks for. */
struct call {
    kind what;
    const char *send;
    char *receive;
    size_t count;
    ncclDataType_t type;
    int op_or_root, rank;
    ncclComm *comm;
    cudaStream_t stream;
};

/* The how-manieth collective of a clique. */
struct round_of {
    std::vector<call> calls;
    std::shared_ptr<cuemu_meeting> meeting;
};

struct clique {
    int n;
    bool one_thread; /* ncclCommInitAll's */
    std::vector<ncclComm *> ranks;
    std::map<uint64_t, round_of> rounds;
};

typedef std::lock_guard<std::recursive_mutex> guard;

std::map<std::string, std::shared_ptr<clique>> cliques; /* by unique id */
thread_local int depth;
thread_local std::vector<call> grouped;

ncclResult_t refuse(ncclResult_t rc, const char *why)
{
    cuemu_set_report(why);
    return rc;
}

size_t size_of(ncclDataType_t type)
{
    switch (type) {
    case ncclInt8:
        return 1;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclInt32:
    case ncclFloat32:
        return 4;
    case ncclInt64:
    case ncclFloat64:
        return 8;
    }
    return 0;
}

} // namespace

struct ncclComm {
    std::shared_ptr<clique> all;
    int rank, device;
    uint64_t n_calls;
};

namespace
{

void gather(const std::vector<call> &calls)
{
    const size_t bytes = calls[0].count * size_of(calls[0].type);
    std::vector<std::string> parts;
    for (const call &c : calls)
        parts.emplace_back(c.send, bytes);
    for (const call &to : calls)
        for (size_t r = 0; r < calls.size(); r++)
            memcpy(to.receive + (size_t)calls[r].rank * bytes, parts[r].data(), bytes);
}

void broadcast(const std::vector<call> &calls)
{
    std::string from;
    for (const call &c : calls)
        if (c.rank == c.op_or_root)
            from.assign(c.send, c.count * size_of(c.type));
    for (const call &c : calls)
        memcpy(c.receive, from.data(), from.size());
}

template <class T> void reduce(const std::vector<call> &calls)
{
    const size_t n = calls.size(), first = cuemu_random() % n;
    std::vector<T> sum(calls[0].count);
    for (size_t i = 0; i < sum.size(); i++) {
        for (size_t k = 0; k < n; k++) {
            const T v = reinterpret_cast<const T *>(calls[(first + k) % n].send)[i];
            const T &s = sum[i];
            sum[i] = k == 0                            ? v
                     : calls[0].op_or_root == ncclSum  ? s + v
                     : calls[0].op_or_root == ncclProd ? s * v
                     : calls[0].op_or_root == ncclMax  ? (s > v ? s : v)
                                                       : (s < v ? s : v);
        }
    }
    for (const call &c : calls)
        memcpy(c.receive, sum.data(), sum.size() * sizeof(T));
}

cudaError_t run(const std::vector<call> &calls)
{
    if (calls[0].what == ALL_GATHER)
        gather(calls);
    else if (calls[0].what == BROADCAST)
        broadcast(calls);
    else if (calls[0].type == ncclFloat32)
        reduce<float>(calls);
    else
        reduce<int>(calls);
    return cudaSuccess;
}

bool own(const call &c, const void *p)
{
    return cuemu_is_device(p) && cuemu_owner(p) == c.comm->device;
}

/* Puts the collective into the rank's stream. */
ncclResult_t queue(const call &c)
{
    clique &all = *c.comm->all;
    const uint64_t number = c.comm->n_calls++;
    round_of &round = all.rounds[number];
    if (!round.meeting) {
        round.meeting = std::make_shared<cuemu_meeting>();
        round.meeting->n = all.n;
    } else {
        const call &first = round.calls[0];
        if (first.what != c.what || first.count != c.count || first.type != c.type ||
            first.op_or_root != c.op_or_root)
            return refuse(ncclInvalidUsage, "ranks call different collectives");
    }
    round.calls.push_back(c);
    round.calls.back().rank = c.comm->rank;
    std::shared_ptr<cuemu_meeting> meeting = round.meeting;
    if ((int)round.calls.size() == all.n) {
        std::vector<call> calls = round.calls;
        meeting->run = [=] { return run(calls); };
        all.rounds.erase(number);
    }
    return cuemu_meet(c.stream, meeting) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t submit(const call &c)
{
    guard g(cuemu_lock);
    if (cuemu_injected(CUEMU_NCCL))
        return ncclSystemError;
    if (!c.comm || !c.stream || !own(c, c.receive) ||
        ((c.what != BROADCAST || c.op_or_root == c.comm->rank) && !own(c, c.send)))
        return refuse(ncclInvalidArgument, "a collective with memory of another device");
    if (c.what == ALL_REDUCE && c.type != ncclFloat32 && c.type != ncclInt32)
        return refuse(ncclInvalidArgument, "the emulation sums float and int only");
    if (depth > 0) {
        grouped.push_back(c);
        return ncclSuccess;
    }
    if (c.comm->all->one_thread && c.comm->all->n > 1)
        return refuse(ncclInvalidUsage, "several ranks of one thread without a group");
    return queue(c);
}

ncclComm *join(const std::shared_ptr<clique> &all, int rank, int device)
{
    ncclComm *comm = new ncclComm{all, rank, device, 0};
    all->ranks.push_back(comm);
    return comm;
}

} // namespace

extern "C" {

ncclResult_t ncclGetVersion(int *version)
{
    *version = 22700;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error"};
    return texts[result];
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    guard g(cuemu_lock);
    static int n;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "emulated clique %d", ++n);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int n, ncclUniqueId id, int rank)
{
    guard g(cuemu_lock);
    if (cuemu_injected(CUEMU_NCCL))
        return ncclSystemError;
    if (n < 1 || n > CUEMU_DEVICES || rank < 0 || rank >= n)
        return refuse(ncclInvalidArgument, "a rank that cannot be");
    std::shared_ptr<clique> &all = cliques[std::string(id.internal, sizeof id.internal)];
    if (!all)
        all = std::make_shared<clique>(clique{n, false, {}, {}});
    for (const ncclComm *c : all->ranks)
        if (c->rank == rank || c->device == cuemu_device || all->n != n)
            return refuse(ncclInvalidUsage, "two ranks are the same, or of one device");
    *comm = join(all, rank, cuemu_device);
    return ncclSuccess;
}

ncclResult_t ncclCommInitAll(ncclComm_t *comms, int n, const int *devices)
{
    guard g(cuemu_lock);
    if (cuemu_injected(CUEMU_NCCL))
        return ncclSystemError;
    cuemu_set_up();
    std::shared_ptr<clique> all = std::make_shared<clique>(clique{n, true, {}, {}});
    for (int r = 0; r < n; r++) {
        const int device = devices ? devices[r] : r;
        bool fits = device >= 0 && device < cuemu_devices.n;
        for (int k = 0; k < r; k++)
            fits &= comms[k]->device != device;
        if (!fits) {
            for (int k = 0; k < r; k++)
                delete comms[k];
            return refuse(ncclInvalidArgument, "a device that is not there, or twice");
        }
        comms[r] = join(all, r, device);
    }
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    guard g(cuemu_lock);
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    return ncclCommDestroy(comm);
}

ncclResult_t ncclGroupStart(void)
{
    depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    if (depth == 0)
        return refuse(ncclInvalidUsage, "the end of no group");
    if (--depth > 0)
        return ncclSuccess;
    guard g(cuemu_lock);
    std::vector<call> calls;
    calls.swap(grouped);
    ncclResult_t rc = ncclSuccess;
    for (size_t i = 0; i < calls.size() && rc == ncclSuccess; i++)
        rc = queue(calls[i]);
    return rc;
}

ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    return submit({ALL_REDUCE, static_cast<const char *>(send), static_cast<char *>(receive), count,
                   type, op, 0, comm, stream});
}

ncclResult_t ncclAllGather(const void *send, void *receive, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    return submit({ALL_GATHER, static_cast<const char *>(send), static_cast<char *>(receive), count,
                   type, 0, 0, comm, stream});
}

ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream)
{
    return submit({BROADCAST, static_cast<const char *>(send), static_cast<char *>(receive), count,
                   type, root, 0, comm, stream});
}

} // extern "C"
