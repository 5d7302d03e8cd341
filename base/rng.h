/* Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the n-th
 * number of a stream without its predecessors, so that a sample depends on (seed, choice, token
 * position) alone and never on what else runs.  Thread: any. */
#ifndef BASE_RNG_H
#define BASE_RNG_H
#include <stdint.h>

void rng_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);
/* Uniform in [0, 1) with 53 bits. */
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);
uint64_t rng_seed_random(void); /* from the system, for requests without a seed */
#endif
