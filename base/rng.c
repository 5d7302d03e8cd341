/* Philox 4x32-10, a counter-based generator: key = seed, counter = (index, stream). */
#include "base/rng.h"

#include <sys/random.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/clock.h"

/* Constants of the paper: the two multipliers and the key's Weyl increments. */
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u

void rng_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)PHILOX_M0 * c0;
        uint64_t p1 = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t r[4];
    rng_philox(seed, stream, index, r);
    uint64_t bits = (uint64_t)r[0] << 32 | r[1];
    return (double)(bits >> 11) * 0x1p-53;
}

uint64_t rng_seed_random(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) == (ssize_t)sizeof seed)
        return seed;
    /* No system randomness: still differ between calls and processes. */
    uint32_t r[4];
    rng_philox((uint64_t)clock_us(), (uint64_t)getpid(), (uint64_t)clock_unix_s(), r);
    return (uint64_t)r[0] << 32 | r[1];
}
