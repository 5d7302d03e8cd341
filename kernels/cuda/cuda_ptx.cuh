/* All instructions that CUDA C++ has no words for, each a function with a twin for the emulation: tensor
 * core products, the loads that feed them, copies that run beside the arithmetic, waiting for the
 * kernel before, and telling other blocks.
 * Thread: all lanes of a warp call the mma and ldmatrix together; the copies are each thread's own.
 *
 * mma.m16n8k16, lane = 4 * g + t:
 *     a[0] = A[g][2t, 2t+1]      a[1] = A[g+8][2t, 2t+1]      b[0] = B[2t, 2t+1][g]
 *     a[2] = A[g][2t+8, 2t+9]    a[3] = A[g+8][2t+8, 2t+9]    b[1] = B[2t+8, 2t+9][g]
 *     c[0, 1] = C[g][2t, 2t+1]   c[2, 3] = C[g+8][2t, 2t+1]
 * Sums are read behind a cuda_mma_wait only: the device has no such instruction, but the emulation computes
 * there what was issued before, all at once. */
#ifndef KERNELS_CUDA_CUDA_PTX_CUH
#define KERNELS_CUDA_CUDA_PTX_CUH
#include <string.h>

#include "kernels/cuda/cuda_dialect.cuh"

#ifdef __CUDACC__

__device__ static inline void cuda_mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ static inline void cuda_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ static inline void cuda_mma_wait() {}

/* Four matrices of 8 x 8 halves; lane 8 i + j gives where row j of matrix i begins, 16-byte aligned.
 * r[i] = row lane / 4, halves 2 (lane % 4) and the next, of matrix i; trans: of its transpose. */
__device__ static inline void cuda_ldmatrix4(uint32_t r[4], const void *row)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

__device__ static inline void cuda_ldmatrix4_trans(uint32_t r[4], const void *row)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes to shared memory, beside the arithmetic; bytes 0: zeros, nothing is read. */
__device__ static inline void cuda_copy16(void *shared, const void *global, int bytes)
{
    const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
}

/* In a kernel of LAUNCH_EARLY, in every thread: what was launched before has ended, and its results are there.
 * Before it, only what no kernel writes may be read (weights), and nothing written.  The next kernel may
 * begin, as far as its own wait.  (Programmatic dependent launch; devices before sm_90 begin none early.) */
__device__ static inline void cuda_grid_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Adds n to *count, of which all blocks know, and gives what it was.  What a block wrote before its last
 * __syncthreads is there for those who add later, behind their next one. */
__device__ static inline int cuda_arrive(int *count, int n)
{
    int before;
    asm volatile("atom.acq_rel.gpu.add.s32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(count), "r"(n)
                 : "memory");
    return before;
}

/* What was copied since the last commit is a group. */
__device__ static inline void cuda_copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All groups of this thread but the last n are there. */
template <int n> __device__ static inline void cuda_copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

#else

#define cuda_mma_f16(c, a, b)        cuemu_mma(c, a, b, false, __FILE__, __LINE__)
#define cuda_mma_bf16(c, a, b)       cuemu_mma(c, a, b, true, __FILE__, __LINE__)
#define cuda_mma_wait()              cuemu_mma_wait(__FILE__, __LINE__)
#define cuda_grid_wait()             cuemu_grid_wait(__FILE__, __LINE__)
#define cuda_ldmatrix4(r, row)       cuemu_ldmatrix(r, row, false, __FILE__, __LINE__)
#define cuda_ldmatrix4_trans(r, row) cuemu_ldmatrix(r, row, true, __FILE__, __LINE__)

static inline int cuda_arrive(int *count, int n)
{
    return atomicAdd(count, n); /* releases and acquires */
}

static inline void cuda_copy16(void *shared, const void *global, int bytes)
{
    cuemu_cp_async(shared, global, 16, bytes);
}

static inline void cuda_copy_commit()
{
    cuemu_cp_async_commit();
}

template <int n> static inline void cuda_copy_wait()
{
    cuemu_cp_async_wait(n);
}
#endif
#endif
