/* The random numbers that a picture of a seed is made of, as PyTorch draws them: torch.randn of
 * float32, by a CPU generator (Mersenne Twister) or by a CUDA one (Philox).
 * Thread: one at a time for each generator. */
#ifndef BASE_RNG_TORCH_H
#define BASE_RNG_TORCH_H
#include <stddef.h>
#include <stdint.h>

enum rng_kind { RNG_CPU, RNG_CUDA }; /* torch.Generator("cpu"), torch.Generator("cuda") */
enum { RNG_MT_WORDS = 624 };

struct rng_torch {
    enum rng_kind kind;
    uint64_t seed;
    /* RNG_CPU: MT19937, and the second number of a pair drawn in double precision */
    uint32_t mt[RNG_MT_WORDS];
    int next;
    double spare;
    int has_spare;
    /* RNG_CUDA: how many calls were made */
    uint64_t n_calls;
};

/* torch.Generator(kind).manual_seed(seed); the CPU's looks at the lower 32 bits only, as there. */
void rng_torch_seed(struct rng_torch *r, enum rng_kind kind, uint64_t seed);
uint32_t rng_torch_u32(struct rng_torch *r); /* RNG_CPU: the twister's next word */
uint64_t rng_torch_u64(struct rng_torch *r); /* RNG_CPU: of two words, as random64 there */
/* torch.randn(n, generator=r).  Which numbers come depends on n, not only on what was drawn before:
 * 16 and more are made in blocks. */
void rng_torch_normal(struct rng_torch *r, float *out, size_t n);
/* torch.randn(1, c, h, w, generator=r), stored as [h, w, c]. */
void rng_torch_normal_nhwc(struct rng_torch *r, float *out, int h, int w, int c);
#endif
