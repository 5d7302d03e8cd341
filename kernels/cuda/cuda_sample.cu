/* Sampling: penalties, softmax, top_k, top_p and the choice; a block a row.  Nothing is sorted: the weight
 * from which on tokens are kept is found bit by bit, since bits of positive floats order like the floats.
 * Sums have an order that depends on the length of the row alone. */
#include "kernels/cuda/cuda_sample.h"

#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/cuda/cuda_math.cuh"

#define SAMPLE_THREADS 512

/* Presence and frequency of generated tokens, repetition of all: each id once, by whoever finds its count
 * first.  counts [rows, n_vocab, 2]: in the prompt and after it; zero before and afterwards. */
__global__ void __launch_bounds__(SAMPLE_THREADS)
    sample_edit_kernel(const struct cuda_sample_call c, int32_t *counts)
{
    const struct choose_row r = c.rows[blockIdx.x];
    int32_t *mine = counts + (size_t)blockIdx.x * c.n_vocab * 2;
    float *x = c.logits + (size_t)blockIdx.x * c.n_vocab;
    const int32_t *ids = c.ids + r.first;
    for (int i = threadIdx.x; i < r.n_ids; i += SAMPLE_THREADS)
        if (ids[i] >= 0 && ids[i] < c.n_vocab)
            atomicAdd(&mine[2 * ids[i] + (i >= r.n_prompt)], 1);
    __syncthreads();
    for (int i = threadIdx.x; i < r.n_ids; i += SAMPLE_THREADS) {
        const int32_t id = ids[i];
        if (id < 0 || id >= c.n_vocab)
            continue;
        const bool late = i >= r.n_prompt;
        int32_t *count = &mine[2 * id + late];
        const int n = atomicAdd(count, 0);
        if (n <= 0 || atomicCAS(count, n, -n) != n)
            continue;
        /* with counts on both sides the prompt's finder does it */
        if (!late || atomicAdd(&mine[2 * id], 0) == 0)
            x[id] = x[id] > 0.0f ? x[id] / r.repetition : x[id] * r.repetition;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < r.n_ids; i += SAMPLE_THREADS) {
        const int32_t id = ids[i];
        if (id < 0 || id >= c.n_vocab)
            continue;
        const int n = -atomicExch(&mine[2 * id + (i >= r.n_prompt)], 0);
        if (n > 0 && i >= r.n_prompt)
            x[id] = x[id] - r.presence - r.frequency * (float)n;
    }
}

/* How much of the row has at least the weight `bits`: tokens, or their sum. */
__device__ static inline float sample_above(const float *w, int n, uint32_t bits, bool count,
                                            float *partial)
{
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += SAMPLE_THREADS)
        if (__float_as_uint(w[i]) >= bits)
            sum += count ? 1.0f : w[i];
    return cuda_block_sum(sum, partial);
}

/* The largest weight such that what is at least as heavy is enough. */
__device__ static inline uint32_t sample_cut(const float *w, int n, float enough, bool count,
                                             float *partial)
{
    uint32_t bits = 0;
    for (int b = 30; b >= 0; b--)
        if (sample_above(w, n, bits | 1u << b, count, partial) >= enough)
            bits |= 1u << b;
    return bits;
}

/* The largest finite logit; the lowest id of equals. */
__device__ static inline void sample_best(const float *x, int n, float *top, int *id, float *tops,
                                          int *ids)
{
    float best = -INFINITY;
    int at = -1;
    for (int i = threadIdx.x; i < n; i += SAMPLE_THREADS)
        if (x[i] > best && x[i] < INFINITY) {
            best = x[i];
            at = i;
        }
    tops[threadIdx.x] = best;
    ids[threadIdx.x] = at;
    __syncthreads();
    for (int half = SAMPLE_THREADS / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            const float other = tops[threadIdx.x + half];
            const int where = ids[threadIdx.x + half];
            if (other > tops[threadIdx.x] || (other == tops[threadIdx.x] && where >= 0 &&
                                              (where < ids[threadIdx.x] || ids[threadIdx.x] < 0))) {
                tops[threadIdx.x] = other;
                ids[threadIdx.x] = where;
            }
        }
        __syncthreads();
    }
    *top = tops[0];
    *id = ids[0];
    __syncthreads(); /* tops and ids may be used again */
}

__global__ void __launch_bounds__(SAMPLE_THREADS)
    sample_kernel(const struct cuda_sample_call c, float *weights)
{
    SHARED(float, sums, [SAMPLE_THREADS + 1]);
    SHARED(int, ids, [SAMPLE_THREADS]);
    SHARED(float, partial, [CUDA_WARP]);
    const struct choose_row r = c.rows[blockIdx.x];
    const float *x = c.logits + (size_t)blockIdx.x * c.n_vocab;
    float *w = weights + (size_t)blockIdx.x * c.n_vocab, top;
    const int n = c.n_vocab;
    int best;
    sample_best(x, n, &top, &best, sums, ids);
    if (best < 0 || r.temperature < 1e-5f) {
        if (threadIdx.x == 0)
            c.out[blockIdx.x] = best;
        return;
    }
    for (int i = threadIdx.x; i < n; i += SAMPLE_THREADS)
        w[i] = x[i] == x[i] && x[i] <= top ? cuda_exp((x[i] - top) / r.temperature) : 0.0f;
    __syncthreads();
    uint32_t bits = 1; /* of any weight but 0 */
    if (r.top_k > 0 && r.top_k < n) {
        const uint32_t cut = sample_cut(w, n, (float)r.top_k, true, partial);
        bits = cut > bits ? cut : bits;
    }
    if (r.top_p < 1.0f) {
        const float all = sample_above(w, n, bits, false, partial);
        const uint32_t cut = sample_cut(w, n, r.top_p * all, false, partial);
        bits = cut > bits ? cut : bits;
    }
    /* each thread a run of neighbours: their sums, those before them, and the run that u falls into */
    const int run = (n + SAMPLE_THREADS - 1) / SAMPLE_THREADS, begin = threadIdx.x * run;
    const int end = begin + run < n ? begin + run : n;
    float sum = 0.0f;
    for (int i = begin; i < end; i++)
        sum += __float_as_uint(w[i]) >= bits ? w[i] : 0.0f;
    sums[threadIdx.x + 1] = sum;
    if (threadIdx.x == 0) {
        sums[0] = 0.0f;
        c.out[blockIdx.x] = best; /* where rounding leaves u beyond the last */
    }
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 1; i <= SAMPLE_THREADS; i++)
            sums[i] += sums[i - 1];
    __syncthreads();
    const float want = r.u * sums[SAMPLE_THREADS];
    float at = sums[threadIdx.x];
    if (want < at || want >= sums[threadIdx.x + 1])
        return;
    int last = -1;
    for (int i = begin; i < end; i++) {
        if (__float_as_uint(w[i]) < bits)
            continue;
        last = i;
        at += w[i];
        if (want < at)
            break;
    }
    if (last >= 0)
        c.out[blockIdx.x] = last;
}

static size_t sample_floats(int n_rows, int n_vocab)
{
    return ((size_t)n_rows * (size_t)n_vocab + 63) / 64 * 64;
}

size_t cuda_sample_work_bytes(int n_rows, int n_vocab)
{
    return sample_floats(n_rows, n_vocab) * 3 * sizeof(float);
}

void cuda_sample_launch(const struct cuda_sample_call *c, cudaStream_t stream)
{
    if (c->n_rows <= 0 || c->n_vocab <= 0)
        return;
    float *weights = static_cast<float *>(c->work);
    int32_t *counts = reinterpret_cast<int32_t *>(weights + sample_floats(c->n_rows, c->n_vocab));
    cuda_queue_clear(counts, (size_t)c->n_rows * (size_t)c->n_vocab * 2 * sizeof(int32_t), stream);
    LAUNCH(sample_edit_kernel, c->n_rows, SAMPLE_THREADS, 0, stream, *c, counts);
    LAUNCH(sample_kernel, c->n_rows, SAMPLE_THREADS, 0, stream, *c, weights);
}
