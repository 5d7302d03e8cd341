/* Two emulated devices: each has memory, streams and faults of its own, and what mixes them up is told. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_dialect.cuh"
#include "tests/cuemu/cuemu.h"

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
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
