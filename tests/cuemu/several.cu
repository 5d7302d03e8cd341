/* Two emulated devices: each has memory, streams and faults of its own, and what mixes them up is told. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_dialect.cuh"
#include "tests/cuemu/cuemu.h"
#include "tests/cuemu/nccl/nccl.h"

enum { N = 64 };

static int passed, failed;

static void told(const char *what, bool ok)
{
    printf("%s %s%s%s\n", ok ? "ok  " : "FAIL", what, ok ? "" : ": ", ok ? "" : cuemu_report());
    ok ? passed++ : failed++;
}

__global__ void add_one(float *to, const float *from)
{
    to[threadIdx.x] = from[threadIdx.x] + 1;
}

static float *memory[2], host[N];

static void fill(int device, float value)
{
    for (int i = 0; i < N; i++)
        host[i] = value;
    cudaMemcpy(memory[device], host, sizeof host, cudaMemcpyHostToDevice);
}

static float first(int device)
{
    cudaMemcpy(host, memory[device], sizeof host, cudaMemcpyDeviceToHost);
    return host[0];
}

static void peers()
{
    cudaSetDevice(0);
    fill(1, 5);
    LAUNCH(add_one, 1, N, 0, 0, memory[0], memory[1]);
    bool caught = cudaDeviceSynchronize() == cudaErrorIllegalAddress;
    told("a kernel cannot read another device's memory",
         caught && strstr(cuemu_report(), "memory of another device"));
    cuemu_reset();
    int can = 0;
    bool may = cudaDeviceCanAccessPeer(&can, 0, 1) == cudaSuccess && can &&
               cudaDeviceEnablePeerAccess(1, 0) == cudaSuccess;
    LAUNCH(add_one, 1, N, 0, 0, memory[0], memory[1]);
    may &= cudaDeviceSynchronize() == cudaSuccess && first(0) == 6;
    told("once peer access is enabled it can", may);
    told("enabling it twice is an error",
         cudaDeviceEnablePeerAccess(1, 0) == cudaErrorPeerAccessAlreadyEnabled);
    cudaSetDevice(1);
    LAUNCH(add_one, 1, N, 0, 0, memory[1], memory[0]);
    told("the other way round it is not", cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    cuemu_reset();
    cudaSetDevice(0);
    cudaDeviceDisablePeerAccess(1);
    fill(0, 1);
    fill(1, 2);
    cudaMemcpy(memory[0], memory[1], sizeof host, cudaMemcpyDeviceToDevice);
    told("a copy between devices needs none", first(0) == 2);
}

static void handles()
{
    cudaStream_t s;
    cudaEvent_t e;
    cudaSetDevice(1);
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    cudaSetDevice(0);
    cudaGetLastError();
    LAUNCH(add_one, 1, N, 0, s, memory[0], memory[0]);
    told("a launch in a stream of another device",
         cudaGetLastError() == cudaErrorInvalidResourceHandle);
    told("an event of one device recorded in a stream of another",
         cudaEventRecord(e, 0) == cudaErrorInvalidResourceHandle);
    cudaSetDevice(1);
    fill(1, 1);
    LAUNCH(add_one, 1, N, 0, s, memory[1], memory[1]);
    cudaEventRecord(e, s);
    cudaSetDevice(0);
    told("an event of another device may be waited for",
         cudaStreamWaitEvent(0, e, 0) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess &&
             first(1) == 2);
    cudaSetDevice(1);
    cudaEventDestroy(e);
    cudaStreamDestroy(s);
}

static void faults()
{
    cudaSetDevice(1);
    LAUNCH(add_one, 1, N, 0, 0, memory[1], memory[1] + 4 * N);
    const bool died = cudaDeviceSynchronize() != cudaSuccess;
    cudaSetDevice(0);
    cudaGetLastError();
    fill(0, 1);
    LAUNCH(add_one, 1, N, 0, 0, memory[0], memory[0]);
    told("a device that died takes nobody with it",
         died && cudaDeviceSynchronize() == cudaSuccess && first(0) == 2);
    cudaSetDevice(1);
    told("and stays dead", cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    cuemu_reset();
    size_t left = 0, all = 0;
    cudaSetDevice(0);
    cudaMemGetInfo(&left, &all);
    void *p = NULL;
    cudaSetDevice(1);
    cudaMalloc(&p, 1 << 20);
    size_t after = 0, other = 0;
    cudaMemGetInfo(&other, &all);
    cudaSetDevice(0);
    cudaMemGetInfo(&after, &all);
    told("memory is counted for each", after == left && other + (1 << 20) <= left);
    cudaFree(p);
}

static void *sets_device_one(void *now)
{
    cudaSetDevice(1);
    cudaGetDevice((int *)now);
    return NULL;
}

static void threads()
{
    pthread_t thread;
    int there = -1, here = -1;
    cudaSetDevice(0);
    pthread_create(&thread, NULL, sets_device_one, &there);
    pthread_join(thread, NULL);
    cudaGetDevice(&here);
    told("the device is each thread's own", there == 1 && here == 0);
}

/* How the two ranks of a sum are called. */
enum how { TOGETHER, SEPARATE, ONE_MISSING, DISAGREE };

static ncclComm_t ranks[2];
static cudaStream_t lanes[2];

static ncclResult_t sum(how h)
{
    ncclResult_t rc = ncclSuccess;
    if (h != SEPARATE)
        ncclGroupStart();
    for (int r = 0; r < (h == ONE_MISSING ? 1 : 2) && rc == ncclSuccess; r++)
        rc = ncclAllReduce(memory[r], memory[r], h == DISAGREE ? N / (r + 1) : N, ncclFloat32,
                           ncclSum, ranks[r], lanes[r]);
    ncclResult_t end = h != SEPARATE ? ncclGroupEnd() : ncclSuccess;
    return rc != ncclSuccess ? rc : end;
}

static bool lanes_done()
{
    return cudaStreamSynchronize(lanes[0]) == cudaSuccess &&
           cudaStreamSynchronize(lanes[1]) == cudaSuccess;
}

static void open_ranks()
{
    const int devices[] = {0, 1}, twice[] = {1, 1};
    told("a clique of one device twice", ncclCommInitAll(ranks, 2, twice) == ncclInvalidArgument);
    cuemu_fail(CUEMU_NCCL, 1);
    told("the call that is to fail", ncclCommInitAll(ranks, 2, devices) == ncclSystemError);
    cuemu_fail(CUEMU_NCCL, 0);
    told("a clique of two devices", ncclCommInitAll(ranks, 2, devices) == ncclSuccess);
    for (int d = 0; d < 2; d++) {
        cudaSetDevice(d);
        cudaStreamCreateWithFlags(&lanes[d], cudaStreamNonBlocking);
    }
}

static void close_ranks()
{
    for (int d = 0; d < 2; d++) {
        ncclCommDestroy(ranks[d]);
        cudaStreamDestroy(lanes[d]);
    }
}

static void collectives()
{
    fill(0, 1);
    fill(1, 2);
    for (int d = 0; d < 2; d++) {
        cudaSetDevice(d);
        LAUNCH(add_one, 1, N, 0, lanes[d], memory[d], memory[d]);
    }
    told("a sum comes after what stands before it, in all",
         sum(TOGETHER) == ncclSuccess && lanes_done() && first(0) == 5 && first(1) == 5);
    fill(0, 1);
    fill(1, 2);
    ncclGroupStart();
    for (int d = 0; d < 2; d++)
        ncclBroadcast(memory[d], memory[d], N, ncclFloat32, 1, ranks[d], lanes[d]);
    told("a broadcast", ncclGroupEnd() == ncclSuccess && lanes_done() && first(0) == 2);
}

static void gather_in_place()
{
    float *both[2];
    for (int d = 0; d < 2; d++) {
        cudaSetDevice(d);
        cudaMalloc(reinterpret_cast<void **>(&both[d]), 2 * sizeof host);
        fill(d, (float)d + 1);
        cudaMemcpy(both[d] + d * N, memory[d], sizeof host, cudaMemcpyDeviceToDevice);
    }
    ncclGroupStart();
    for (int d = 0; d < 2; d++)
        ncclAllGather(both[d] + d * N, both[d], N, ncclFloat32, ranks[d], lanes[d]);
    bool ok = ncclGroupEnd() == ncclSuccess && lanes_done();
    for (int d = 0; d < 2; d++) {
        for (int part = 0; part < 2; part++) {
            cudaMemcpy(host, both[d] + part * N, sizeof host, cudaMemcpyDeviceToHost);
            ok &= host[0] == (float)part + 1 && host[N - 1] == (float)part + 1;
        }
        cudaFree(both[d]);
    }
    told("a gather, in place", ok);
}

static void wrong_collectives()
{
    told("several ranks of a thread without a group", sum(SEPARATE) == ncclInvalidUsage);
    ncclGroupStart();
    told("a collective with another device's memory",
         ncclAllReduce(memory[1], memory[1], N, ncclFloat32, ncclSum, ranks[0], lanes[0]) ==
             ncclInvalidArgument);
    ncclGroupEnd();
    told("ranks that disagree", sum(DISAGREE) == ncclInvalidUsage);
    cuemu_reset();
    close_ranks();
    open_ranks();
    told("a rank that is missing",
         sum(ONE_MISSING) == ncclSuccess && !lanes_done() && strstr(cuemu_report(), "collective"));
    cuemu_reset();
}

/* A rank in a thread of its own. */
static void *one_rank(void *id)
{
    static int next;
    const int rank = __atomic_fetch_add(&next, 1, __ATOMIC_SEQ_CST);
    ncclComm_t comm;
    cudaStream_t s;
    cudaSetDevice(rank);
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    bool ok = ncclCommInitRank(&comm, 2, *static_cast<ncclUniqueId *>(id), rank) == ncclSuccess &&
              ncclAllReduce(memory[rank], memory[rank], N, ncclFloat32, ncclSum, comm, s) ==
                  ncclSuccess &&
              cudaStreamSynchronize(s) == cudaSuccess;
    cudaStreamDestroy(s);
    ncclCommDestroy(comm);
    return ok ? id : NULL;
}

static void ranks_in_threads()
{
    ncclUniqueId id;
    pthread_t all[2];
    void *ended[2];
    fill(0, 3);
    fill(1, 4);
    ncclGetUniqueId(&id);
    for (pthread_t &t : all)
        pthread_create(&t, NULL, one_rank, &id);
    for (int i = 0; i < 2; i++)
        pthread_join(all[i], &ended[i]);
    told("ranks in threads wait for each other",
         ended[0] && ended[1] && first(0) == 7 && first(1) == 7);
}

int main()
{
    int n = 0;
    setenv("CUEMU_QUIET", "1", 1);
    setenv("CUEMU_DEVICES", "2", 1);
    told("there are two devices", cudaGetDeviceCount(&n) == cudaSuccess && n == 2);
    told("and no third", cudaSetDevice(2) == cudaErrorInvalidDevice);
    for (int d = 0; d < 2; d++) {
        cudaSetDevice(d);
        if (cudaMalloc(reinterpret_cast<void **>(&memory[d]), sizeof host) != cudaSuccess)
            return 1;
    }
    peers();
    handles();
    faults();
    threads();
    open_ranks();
    collectives();
    gather_in_place();
    wrong_collectives();
    close_ranks();
    ranks_in_threads();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
