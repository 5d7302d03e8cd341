/* Bugs planted in kernels, each of which the emulated device must report, for the reason that is claimed; without
 * its bug each kernel must come out right, whatever the order of blocks and threads.
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

__global__ void some_wait(float *out, unsigned n)
{
    if (threadIdx.x < n)
        __syncthreads();
    out[threadIdx.x] = 1;
}

/* Threads from n on have a barrier of their own, at another line. */
__global__ void some_wait_elsewhere(float *out, unsigned n)
{
    if (threadIdx.x < n)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void lanes_differ(float *out, unsigned upper)
{
    const unsigned mask = threadIdx.x % 32 < 16 ? 0xffffffffu : upper;
    out[threadIdx.x] = __shfl_xor_sync(mask, 1.0f, 1);
}

/* Half of a warp shuffles, the other half votes. */
__global__ void halves_apart(float *out, unsigned lower, unsigned upper)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_xor_sync(lower, (float)threadIdx.x, 1);
    else
        out[threadIdx.x] = (float)__popc(__ballot_sync(upper, threadIdx.x % 2));
}

__global__ void sum_all(float *out, const float *in)
{
    SHARED(float, partial, [CUDA_WARP]);
    const float v = cuda_block_sum(in[blockIdx.x * N + threadIdx.x], partial);
    if (threadIdx.x == 0)
        atomicAdd(out, v);
}

enum { NOTHING, SYNCWARP, SHUFFLE };

/* Neighbours of a warp talk through shared memory. */
__global__ void neighbours(float *out, int sync)
{
    SHARED(float, tile, [N]);
    tile[threadIdx.x] = (float)threadIdx.x;
    if (sync == SYNCWARP)
        __syncwarp();
    if (sync == SHUFFLE)
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

/* Each block has a number for every thread; the block that was last adds them, or the one that was first. */
__global__ void add_blocks(float *out, float *sums, int *finished, bool first)
{
    SHARED(bool, adds, [1]);
    sums[blockIdx.x * N + threadIdx.x] = (float)threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0)
        adds[0] = cuda_arrive(finished, 1) == (first ? 0 : (int)gridDim.x - 1);
    __syncthreads();
    if (!adds[0])
        return;
    float sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++)
        sum += sums[i * N + N - 1 - threadIdx.x];
    out[threadIdx.x] = sum;
}

__global__ void read_at(float *out, const float *in, long at)
{
    out[threadIdx.x] = in[threadIdx.x + at];
}

__global__ void read_four(float *out, const float *in, int shift)
{
    reinterpret_cast<float4 *>(out)[threadIdx.x] =
        *reinterpret_cast<const float4 *>(in + 4 * threadIdx.x + shift);
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

/* out[lane] = half 2 (lane % 4) of row lane / 4 of a matrix whose row r is r, by ldmatrix; lanes from n on do not
 * come to it, or (elsewhere) to another one. */
__global__ void load_matrix(float *out, unsigned n, bool elsewhere)
{
    SHARED(__half, rows, [32][8]);
    uint32_t r[4] = {};
    for (int i = 0; i < 8; i++)
        rows[threadIdx.x][i] = __float2half_rn((float)threadIdx.x);
    __syncwarp();
    if (threadIdx.x < n)
        cuda_ldmatrix4(r, rows[threadIdx.x]);
    else if (elsewhere)
        cuda_ldmatrix4(r, rows[threadIdx.x]);
    out[threadIdx.x] = __half2float(__ushort_as_half((unsigned short)r[0]));
}

/* Products of zeros; lanes from n on come to none, or (elsewhere) to another one. */
__global__ void multiply_zeros(float *out, unsigned n, bool elsewhere)
{
    const uint32_t zeros[4] = {};
    float sum[4] = {};
    if (threadIdx.x < n)
        cuda_mma_f16(sum, zeros, zeros);
    else if (elsewhere)
        cuda_mma_f16(sum, zeros, zeros);
    cuda_mma_wait();
    out[threadIdx.x] = sum[0];
}

__global__ void copy_early(float *out, const float *in, unsigned waiting)
{
    if (threadIdx.x < waiting)
        cuda_grid_wait();
    out[threadIdx.x] = in[threadIdx.x];
}

/* What it reads before it waits is added behind: from a register, or by cp.async. */
__global__ void read_early(float *out, const float *in, bool by_copy)
{
    SHARED(float, tile, [4 * N]);
    const float first = by_copy ? 0.0f : in[threadIdx.x];
    if (by_copy)
        cuda_copy16(&tile[4 * threadIdx.x], in + 4 * (threadIdx.x / 4), 16);
    cuda_copy_commit();
    cuda_grid_wait();
    cuda_copy_wait<0>();
    out[threadIdx.x] = by_copy ? tile[4 * threadIdx.x + threadIdx.x % 4] : first;
}

__global__ void write_early(float *out, unsigned early)
{
    if (threadIdx.x < early)
        out[threadIdx.x] = 1;
    cuda_grid_wait();
    out[threadIdx.x] = 1;
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

static void told(const char *name, bool ok)
{
    printf("  %s %s%s%s\n", ok ? "ok  " : "FAIL", name, cuemu_report()[0] ? ": " : "",
           cuemu_report());
    passed += ok;
    failed += !ok;
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
        LAUNCH(neighbours, 1, N, 0, 0, device, SYNCWARP);
        ok &= finish() == cudaSuccess && host[6] == 7;
        LAUNCH(copy_async, 1, 32, 0, 0, device, in, 1);
        ok &= finish() == cudaSuccess && host[100] == 100;
    }
    told("right in any order", ok);
}

/* A kernel that a bug can be planted in: without it host[0 ... n) is what want says; with it the launch fails
 * with an error and a report that has this word, or (cudaSuccess) some results are NaN, or others. */
struct plant {
    const char *name;
    void (*launch)(bool bug);
    int n;
    float (*want)(int i);
    cudaError_t error;
    const char *says;
};

/* Whole numbers: exact in any order. */
static float product_of(int i)
{
    float sum = 0;
    for (int k = 0; k < 16; k++)
        sum += (float)((i / 8 * 16 + k) * (k * 8 + i % 8));
    return sum;
}

static const struct plant plants[] = {
    {"a missing barrier", [](bool bug) { LAUNCH(turn, 1, N, 0, 0, device, device + 4 * N, !bug); },
     N, [](int i) { return (float)(N - 1 - i); }, cudaSuccess, "NaN"},
    {"a missing syncwarp",
     [](bool bug) { LAUNCH(neighbours, 1, N, 0, 0, device, bug ? NOTHING : SYNCWARP); }, N,
     [](int i) { return (float)(i ^ 1); }, cudaSuccess, "NaN"},
    {"an early read of cp.async",
     [](bool bug) { LAUNCH(copy_async, 1, 32, 0, 0, device, device + 4 * N, !bug); }, 128,
     [](int i) { return (float)i; }, cudaSuccess, "NaN"},
    {"sums of blocks that have not come",
     [](bool bug) {
         float *sums = device + 4 * N, *finished = device + N;
         cudaMemsetAsync(finished, 0, sizeof *finished, 0);
         LAUNCH(add_blocks, 4, N, 0, 0, device, sums, reinterpret_cast<int *>(finished), bug);
     },
     N, [](int i) { return 4.0f * (float)(N - 1 - i); }, cudaSuccess, "others"},
    {"out of bounds",
     [](bool bug) { LAUNCH(read_at, 1, N, 0, 0, device, device + 4 * N, bug ? 4L * N : 0L); }, N,
     [](int i) { return (float)i; }, cudaErrorIllegalAddress, "outside of any allocation"},
    {"a misaligned vector",
     [](bool bug) { LAUNCH(read_four, 1, 16, 0, 0, device, device + 4 * N, bug); }, 64,
     [](int i) { return (float)i; }, cudaErrorMisalignedAddress, "a misaligned access"},
    {"a divergent barrier",
     [](bool bug) { LAUNCH(some_wait, 1, N, 0, 0, device, bug ? 64u : (unsigned)N); }, N,
     [](int) { return 1.0f; }, cudaErrorLaunchFailure, "divergent barrier: 64 threads wait"},
    {"two barriers at once",
     [](bool bug) { LAUNCH(some_wait_elsewhere, 1, N, 0, 0, device, bug ? 48u : (unsigned)N); }, N,
     [](int) { return 1.0f; }, cudaErrorLaunchFailure, "divergent barrier: thread"},
    {"an ldmatrix without some lanes",
     [](bool bug) { LAUNCH(load_matrix, 1, 32, 0, 0, device, bug ? 31u : 32u, false); }, 32,
     [](int i) { return (float)(i / 4); }, cudaErrorLaunchFailure, "at ldmatrix"},
    {"two ldmatrix at once",
     [](bool bug) { LAUNCH(load_matrix, 1, 32, 0, 0, device, bug ? 16u : 32u, true); }, 32,
     [](int i) { return (float)(i / 4); }, cudaErrorLaunchFailure, "divergent warp operation"},
    {"an mma without some lanes",
     [](bool bug) { LAUNCH(multiply_zeros, 1, 32, 0, 0, device, bug ? 31u : 32u, false); }, 32,
     [](int) { return 0.0f; }, cudaErrorLaunchFailure, "lane 31 has 0 products to wait for"},
    {"two mma at once",
     [](bool bug) { LAUNCH(multiply_zeros, 1, 32, 0, 0, device, bug ? 16u : 32u, true); }, 32,
     [](int) { return 0.0f; }, cudaErrorLaunchFailure, "divergent mma.sync"},
    {"a wrong mma fragment",
     [](bool bug) { LAUNCH(product, 1, 32, 0, 0, device, device + 4 * N, bug, false); }, N,
     product_of, cudaSuccess, "others"},
    {"a divergent shuffle",
     [](bool bug) { LAUNCH(lanes_differ, 1, 32, 0, 0, device, bug ? 0xffff0000u : CUDA_ALL); }, 32,
     [](int) { return 1.0f; }, cudaErrorLaunchFailure, "thread 0 at a shuffle"},
    {"two warp operations at once",
     [](bool bug) {
         LAUNCH(halves_apart, 1, 32, 0, 0, device, bug ? CUDA_ALL : 0xffffu,
                bug ? CUDA_ALL : 0xffff0000u);
     },
     32, [](int i) { return i < 16 ? (float)(i ^ 1) : 8.0f; }, cudaErrorLaunchFailure,
     "divergent warp operation"},
    {"an mma without a wait",
     [](bool bug) { LAUNCH(product, 1, 32, 0, 0, device, device + 4 * N, 0, bug); }, N, product_of,
     cudaErrorLaunchFailure, "mma without a cuda_mma_wait"},
    {"an early kernel that does not wait",
     [](bool bug) {
         LAUNCH_EARLY(1, copy_early, 1, N, 0, 0, device, device + 4 * N, bug ? 32u : (unsigned)N);
     },
     N, [](int i) { return (float)i; }, cudaErrorLaunchFailure, "without a cuda_grid_wait"},
    {"an early read of what the kernel before wrote",
     [](bool bug) {
         LAUNCH(neighbours, 1, N, 0, 0, device + 2 * N, SYNCWARP);
         LAUNCH_EARLY(1, read_early, 1, N, 0, 0, device, device + (bug ? 2 : 4) * N, false);
     },
     N, [](int i) { return (float)i; }, cudaErrorLaunchFailure, "before its cuda_grid_wait"},
    {"an early copy of what the kernel before wrote",
     [](bool bug) {
         LAUNCH(neighbours, 1, N, 0, 0, device + 2 * N, SYNCWARP);
         LAUNCH_EARLY(1, read_early, 1, N, 0, 0, device, device + (bug ? 2 : 4) * N, true);
     },
     N, [](int i) { return (float)i; }, cudaErrorLaunchFailure, "before its cuda_grid_wait"},
    {"an early write",
     [](bool bug) {
         LAUNCH(neighbours, 1, N, 0, 0, device + 2 * N, SYNCWARP);
         LAUNCH_EARLY(1, write_early, 1, N, 0, 0, device, bug ? 1u : 0u);
     },
     N, [](int) { return 1.0f; }, cudaErrorLaunchFailure, "before its cuda_grid_wait"},
    {"dynamic shared memory out of bounds",
     [](bool bug) { LAUNCH(write_shared, 1, N, 4 * 2 * N, 0, device, 2 * N + (bug ? 8 : 0)); }, 0,
     nullptr, cudaErrorIllegalAddress, "outside of any allocation"},
    {"too many threads", [](bool bug) { LAUNCH(some_wait, 1, bug ? 2048 : N, 0, 0, device, 0); }, N,
     [](int) { return 1.0f; }, cudaErrorInvalidConfiguration, ""},
};

/* What came back beside what should have: all of it, NaN somewhere, others somewhere. */
static void compare(const struct plant *p, bool *same, bool *nan, bool *other)
{
    *same = true, *nan = *other = false;
    for (int i = 0; i < p->n; i++) {
        const float want = p->want(i);
        *same &= host[i] == want;
        *nan |= host[i] != host[i];
        *other |= host[i] == host[i] && host[i] != want;
    }
}

static void planted(const struct plant *p)
{
    bool same, nan, other;
    prepare();
    p->launch(false);
    bool ok = finish() == cudaSuccess;
    compare(p, &same, &nan, &other);
    ok &= same;
    prepare();
    p->launch(true);
    ok &= finish() == p->error;
    if (p->error != cudaSuccess) {
        ok &= strstr(cuemu_report(), p->says) != NULL;
    } else {
        compare(p, &same, &nan, &other);
        ok &= strcmp(p->says, "NaN") == 0 ? nan && !other : other && !nan;
    }
    told(p->name, ok);
}

/* A call that is told to fail, and no other. */
static void told_to_fail()
{
    prepare();
    cuemu_fail(CUEMU_LAUNCH, 2);
    LAUNCH(neighbours, 1, N, 0, 0, device, SYNCWARP);
    const bool first = cudaGetLastError() == cudaSuccess;
    LAUNCH(neighbours, 1, N, 0, 0, device, SYNCWARP);
    told("the second launch fails when told so",
         first && cudaGetLastError() == cudaErrorLaunchFailure);
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
        LAUNCH(neighbours, 1, N, 0, a, device, SYNCWARP);
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
        LAUNCH(neighbours, 1, N, 0, 0, device, strcmp(argv[2], "syncwarp") ? SYNCWARP : SHUFFLE);
        return finish() != cudaSuccess;
    }
    if (!only) {
        right_in_any_order();
        streams();
        graph();
        told_to_fail();
    }
    for (const struct plant &p : plants)
        if (!only || strstr(p.name, only))
            planted(&p);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
