/* Kernels for test_nvcc.c: what nvcc makes of common CUDA, and bugs as people write them. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

__constant__ float weights[4] = {1, 2, 4, 8};
__device__ int finished;

/* Sums of rows through shuffles and shared memory. */
extern "C" __global__ void row_sums(float *out, const float *x, int n)
{
    __shared__ float partial[32];
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        sum += x[blockIdx.x * n + i];
    for (int d = 16; d > 0; d /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (threadIdx.x % 32 == 0)
        partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned w = 1; w < blockDim.x / 32; w++)
            sum += partial[w];
        out[blockIdx.x] = sum;
    }
}

static __device__ __noinline__ float twice(float x, float *half)
{
    *half = x / 2;
    return x + x;
}

/* Calls, a switch, local memory with computed places, constants, the slow path of sinf. */
extern "C" __global__ void shapes(float *out, const float *x, const int *kind)
{
    int i = threadIdx.x;
    float local[8], half;
    for (int k = 0; k < 8; k++)
        local[k] = x[i] * (float)k;
    float v = local[kind[i] & 7] + weights[i & 3];
    switch (kind[i]) {
    case 0:
        v = twice(v, &half) + half;
        break;
    case 1:
        v = sinf(v * 1e6f);
        break;
    case 2:
        v = expf(v);
        break;
    case 3:
        v = tanhf(v);
        break;
    case 4:
        v = rsqrtf(fabsf(v) + 1);
        break;
    case 5:
        v = (float)((int)v % 7);
        break;
    case 6:
        v = __half2float(__hfma(__float2half(v), __float2half(0.5f), __float2half(1.0f)));
        break;
    default:
        v = __bfloat162float(__float2bfloat16(v));
        break;
    }
    out[i] = v;
    if (atomicAdd(&finished, 1) == (int)blockDim.x - 1)
        out[blockDim.x] = 42;
}

/* Dynamic shared memory turned round; with bug 1 without its barrier, 2 one place too far, 3 with a barrier
 * for some, 4 through misaligned vectors. */
extern "C" __global__ void reverse(int *out, const int *x, int bug)
{
    extern __shared__ int turned[];
    int i = threadIdx.x, n = blockDim.x;
    turned[n - 1 - i] = x[i];
    if (bug == 3 && i < 40)
        __syncthreads();
    if (bug != 1 && bug != 3)
        __syncthreads();
    if (bug == 2)
        out[i] = x[i + 1];
    else if (bug == 3)
        out[i] = x[i];
    else if (bug == 4)
        reinterpret_cast<int2 *>(out)[i] = reinterpret_cast<const int2 *>(x + 1)[i / 4];
    else
        out[i] = turned[i];
}
