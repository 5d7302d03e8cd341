/* Bugs planted in kernels, each of which the emulated device must report, and kernels without any, which must
 * come out right whatever the order of blocks and threads.
 *
 *     planted [NAME]
 *     planted race none|barrier|syncwarp      for ThreadSanitizer: without which of them */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/cuda/cuda_ptx.cuh"
#include "tests/cuemu/cuemu.h"

enum { N = 128 };

/* out[i] = in[N - 1 - i], through shared memory. */
__global__ void turn(float *out, const float *in, int barrier)
{
    SHARED(float, tile, [N]);
    tile[threadIdx.x] = in[threadIdx.x];
    if (barrier)
        __syncthreads();
    out[threadIdx.x] = tile[N - 1 - threadIdx.x];
}

__global__ void some_wait(float *out)
{
    if (threadIdx.x < 64)
        __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void lanes_differ(float *out)
{
    const unsigned mask = threadIdx.x % 32 < 16 ? 0xffffffffu : 0xffff0000u;
    out[threadIdx.x] = __shfl_xor_sync(mask, 1.0f, 1);
}

__global__ void sum_all(float *out, const float *in)
{
    SHARED(float, partial, [CUDA_WARP]);
    const float v = cuda_block_sum(in[blockIdx.x * N + threadIdx.x], partial);
    if (threadIdx.x == 0)
        atomicAdd(out, v);
}

/* Neighbours of a warp talk through shared memory. */
__global__ void neighbours(float *out, int sync)
{
    SHARED(float, tile, [N]);
    tile[threadIdx.x] = (float)threadIdx.x;
    if (sync)
        __syncwarp();
    else
        __shfl_xor_sync(CUDA_ALL, 0, 1); /* all are there, but nothing is ordered */
    out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

__global__ void copy_async(float *out, const float *in, int wait)
{
    SHARED(float, tile, [4 * 32]);
    cuda_copy16(&tile[4 * threadIdx.x], in + 4 * threadIdx.x, 16);
    cuda_copy_commit();
    if (wait)
        cuda_copy_wait<0>();
    for (int i = 0; i < 4; i++)
        out[4 * threadIdx.x + i] = tile[4 * threadIdx.x + i];
}

__global__ void read_at(float *out, const float *in, long at)
{
    out[threadIdx.x] = in[threadIdx.x + at];
}

__global__ void read_four(float4 *out, const float *in, int shift)
{
    out[threadIdx.x] = *reinterpret_cast<const float4 *>(in + 4 * threadIdx.x + shift);
}

__global__ void write_shared(float *out, int n)
{
    SHARED(float, tile, [N]);
    SHARED_DYN(float, more);
    for (int i = threadIdx.x; i < n; i += N)
        (n > N ? more : tile)[i] = 1;
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x];
}

__device__ static inline uint32_t two_halves(float low, float high)
{
    return __half_as_ushort(__float2half_rn(low)) |
           (uint32_t)__half_as_ushort(__float2half_rn(high)) << 16;
}

/* c [16, 8] = in [16, 16] in [16, 8], by a warp; swapped: rows 8 ... 15 where k 8 ... 15 belong;
 * forgotten: nobody waits for it. */
__global__ void product(float *c, const float *in, int swapped, bool forgotten)
{
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    uint32_t a[4], b[2];
    float sum[4] = {};
    for (int i = 0; i < 4; i++) {
        const int row = swapped ? i / 2 : i % 2, half = swapped ? i % 2 : i / 2;
        const float *from = in + (g + 8 * row) * 16 + 2 * t + 8 * half;
        a[i] = two_halves(from[0], from[1]);
    }
    for (int i = 0; i < 2; i++) {
        const float *from = in + (2 * t + 8 * i) * 8 + g;
        b[i] = two_halves(from[0], from[8]);
    }
    cuda_mma_f16(sum, a, b);
    if (!forgotten)
        cuda_mma_wait();
    for (int i = 0; i < 4; i++)
        c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

static float *device;
static float host[4 * N];
static int passed, failed;
static const char *only;

static cudaError_t finish()
{
    cudaError_t rc = cudaGetLastError();
    if (rc == cudaSuccess)
        rc = cudaDeviceSynchronize();
    if (rc == cudaSuccess)
        rc = cudaMemcpy(host, device, sizeof host, cudaMemcpyDeviceToHost);
    return rc;
}

/* Sends 0, 1, 2 ... to the second half of the device's memory. */
static void prepare()
{
    cuemu_reset();
    float in[4 * N];
    for (int i = 0; i < 4 * N; i++)
        in[i] = (float)i;
    cudaMemcpy(device + 4 * N, in, sizeof in, cudaMemcpyHostToDevice);
    cudaMemcpy(device, in, sizeof in, cudaMemcpyHostToDevice);
}

static bool begin(const char *name)
{
    if (only && !strstr(name, only))
        return false;
    prepare();
    return true;
}

static void told(const char *name, bool ok)
{
    printf("  %s %s%s%s\n", ok ? "ok  " : "FAIL", name, cuemu_report()[0] ? ": " : "",
           cuemu_report());
    passed += ok;
    failed += !ok;
}

static bool is_nan(float v)
{
    return v != v;
}

static void right_in_any_order()
{
    bool ok = true;
    for (int seed = 0; seed < 200; seed++) {
        prepare();
        cuemu_seed((uint64_t)seed);
        const float *in = device + 4 * N;
        LAUNCH(turn, 1, N, 0, 0, device, in, 1);
        ok &= finish() == cudaSuccess && host[3] == N - 4;
        cudaMemsetAsync(device, 0, sizeof(float), 0);
        LAUNCH(sum_all, 4, N, 0, 0, device, in);
        ok &= finish() == cudaSuccess && host[0] == 4 * N * (4 * N - 1) / 2;
        LAUNCH(neighbours, 1, N, 0, 0, device, 1);
        ok &= finish() == cudaSuccess && host[6] == 7;
        LAUNCH(copy_async, 1, 32, 0, 0, device, in, 1);
        ok &= finish() == cudaSuccess && host[100] == 100;
    }
    told("right in any order", ok);
}

static void planted()
{
    const float *in = device + 4 * N;
    if (begin("a missing barrier")) {
        bool wrong = false;
        LAUNCH(turn, 1, N, 0, 0, device, in, 0);
        if (finish() == cudaSuccess)
            for (int i = 0; i < N; i++)
                wrong |= is_nan(host[i]);
        told("a missing barrier gives NaN", wrong);
    }
    if (begin("a divergent barrier")) {
        LAUNCH(some_wait, 1, N, 0, 0, device);
        told("a divergent barrier", finish() == cudaErrorLaunchFailure);
    }
    if (begin("a divergent shuffle")) {
        LAUNCH(lanes_differ, 1, 32, 0, 0, device);
        told("a divergent shuffle", finish() == cudaErrorLaunchFailure);
    }
    if (begin("an early read of cp.async")) {
        LAUNCH(copy_async, 1, 32, 0, 0, device, in, 0);
        told("an early read of cp.async gives NaN", finish() == cudaSuccess && is_nan(host[5]));
    }
    if (begin("out of bounds")) {
        LAUNCH(read_at, 1, N, 0, 0, device, in, 4L * N);
        told("out of bounds", finish() == cudaErrorIllegalAddress);
    }
    if (begin("a misaligned vector")) {
        LAUNCH(read_four, 1, 16, 0, 0, reinterpret_cast<float4 *>(device), in, 1);
        told("a misaligned vector", finish() == cudaErrorMisalignedAddress);
    }
    if (begin("a wrong mma fragment")) {
        bool right[2] = {true, true};
        for (int swapped = 0; swapped < 2; swapped++) {
            LAUNCH(product, 1, 32, 0, 0, device, in, swapped, false);
            right[swapped] &= finish() == cudaSuccess;
            for (int i = 0; i < N; i++) {
                float sum = 0; /* whole numbers: exact in any order */
                for (int k = 0; k < 16; k++)
                    sum += (float)((i / 8 * 16 + k) * (k * 8 + i % 8));
                right[swapped] &= host[i] == sum;
            }
        }
        told("a wrong mma fragment gives another product", right[0] && !right[1]);
    }
    if (begin("an mma without a wait")) {
        LAUNCH(product, 1, 32, 0, 0, device, in, 0, true);
        told("an mma without a wait", finish() == cudaErrorLaunchFailure);
    }
    if (begin("shared memory out of bounds")) {
        LAUNCH(write_shared, 1, N, 4 * 2 * N, 0, device, 2 * N + 8);
        told("dynamic shared memory out of bounds", finish() == cudaErrorIllegalAddress);
    }
    if (begin("too many threads")) {
        LAUNCH(some_wait, 1, 2048, 0, 0, device);
        told("too many threads", finish() == cudaErrorInvalidConfiguration);
    }
    if (begin("a failing launch")) {
        cuemu_fail(CUEMU_LAUNCH, 2);
        LAUNCH(neighbours, 1, N, 0, 0, device, 1);
        bool first = cudaGetLastError() == cudaSuccess;
        LAUNCH(neighbours, 1, N, 0, 0, device, 1);
        told("the second launch fails when told so",
             first && cudaGetLastError() == cudaErrorLaunchFailure);
    }
}

/* One stream copies what the other makes; without the event it may come too early. */
static void streams()
{
    cudaStream_t a, b;
    cudaEvent_t made;
    bool always = true, never = true;
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&made, cudaEventDisableTiming);
    for (int i = 0; i < 40; i++) {
        prepare();
        LAUNCH(neighbours, 1, N, 0, a, device, 1);
        cudaEventRecord(made, a);
        if (i % 2)
            cudaStreamWaitEvent(b, made, 0);
        cudaMemcpyAsync(device + 2 * N, device, 4 * N, cudaMemcpyDeviceToDevice, b);
        finish();
        (i % 2 ? always : never) &= host[2 * N] == 1; /* and 0 before */
    }
    told("an event orders streams, nothing else does", always && !never);
    cudaEventDestroy(made);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
}

/* Recorded once, launched twice. */
static void graph()
{
    cudaStream_t s;
    cudaGraph_t recorded;
    cudaGraphExec_t exec;
    prepare();
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaMemsetAsync(device, 0, sizeof(float), s);
    cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
    LAUNCH(sum_all, 1, N, 0, s, device, device + 4 * N);
    cudaStreamEndCapture(s, &recorded);
    bool ok = cudaGraphInstantiate(&exec, recorded, 0) == cudaSuccess;
    cudaGraphLaunch(exec, s);
    cudaGraphLaunch(exec, s);
    ok &= finish() == cudaSuccess && host[0] == N * (N - 1);
    told("a graph", ok);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(recorded);
    cudaStreamDestroy(s);
}

int main(int argc, char **argv)
{
    only = argc > 1 ? argv[1] : NULL;
    setenv("CUEMU_QUIET", "1", 1);
    if (cudaMalloc(reinterpret_cast<void **>(&device), 8 * N * sizeof(float)) != cudaSuccess)
        return 1;
    if (argc > 2 && strcmp(only, "race") == 0) { /* ThreadSanitizer's answer is the exit code */
        const bool barrier = strcmp(argv[2], "barrier") != 0;
        only = NULL;
        prepare();
        LAUNCH(turn, 1, N, 0, 0, device, device + 4 * N, barrier);
        LAUNCH(neighbours, 1, N, 0, 0, device, strcmp(argv[2], "syncwarp") != 0);
        return finish() != cudaSuccess;
    }
    if (!only) {
        right_in_any_order();
        streams();
        graph();
    }
    planted();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
