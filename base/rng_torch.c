/* torch.randn of float32.
 *
 * CPU: Mersenne Twister 19937 (Matsumoto and Nishimura 1998) seeded with 32 bits.  Up to 15 numbers
 * are made one by one in double precision: 53-bit uniforms, Box-Muller in polar angles, the second
 * number of a pair kept for the next call.  From 16 on the numbers come in blocks of 16 float
 * uniforms (24 bits), of which j and j + 8 make a pair; when n is no multiple of 16, the last 16
 * places are made anew from 16 further uniforms, so that the block before it may lose some.
 *
 * CUDA: thread i of a launch has Philox counter (call, 0, i, 0), key = seed, and writes the first
 * Box-Muller number of it to element i.  That holds as long as a launch has a thread for every
 * element, which every GPU with 32 multiprocessors of 2048 threads has for latents of up to 65536
 * numbers (1024 x 1024 pixels); a larger latent gets what an unlimited GPU would give.
 *
 * Logarithm, sine and cosine are taken in double precision and rounded once, so that the numbers are
 * the same on every machine; PyTorch's own vary in the last bit with the instruction set. */
#include "base/rng_torch.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"

enum { MT_SHIFT = 397, BLOCK = 16, PAIR = 8 };

#define TWO_PI 6.283185307179586476925

/* Where number i of [c, h, w] goes; n_pixels = 0: to place i. */
struct order {
    size_t n_pixels;
    size_t n_channels;
};

static size_t place(const struct order *o, size_t i)
{
    return o->n_pixels != 0 ? i % o->n_pixels * o->n_channels + i / o->n_pixels : i;
}

void rng_torch_seed(struct rng_torch *r, enum rng_kind kind, uint64_t seed)
{
    memset(r, 0, sizeof *r);
    r->kind = kind;
    r->seed = seed;
    uint32_t x = (uint32_t)seed;
    for (uint32_t i = 0; i < RNG_MT_WORDS; i++) {
        r->mt[i] = x;
        x = 1812433253u * (x ^ x >> 30) + i + 1;
    }
    r->next = RNG_MT_WORDS;
}

static void mt_refill(uint32_t *mt)
{
    for (int i = 0; i < RNG_MT_WORDS; i++) {
        uint32_t y = (mt[i] & 0x80000000u) | (mt[(i + 1) % RNG_MT_WORDS] & 0x7fffffffu);
        mt[i] = mt[(i + MT_SHIFT) % RNG_MT_WORDS] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
}

uint32_t rng_torch_u32(struct rng_torch *r)
{
    if (r->next == RNG_MT_WORDS) {
        mt_refill(r->mt);
        r->next = 0;
    }
    uint32_t y = r->mt[r->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

uint64_t rng_torch_u64(struct rng_torch *r)
{
    uint64_t high = rng_torch_u32(r);
    return high << 32 | rng_torch_u32(r);
}

/* --- CPU --- */

static double uniform53(struct rng_torch *r)
{
    return (double)(rng_torch_u64(r) & ((1ull << 53) - 1)) * 0x1p-53;
}

static double one_normal(struct rng_torch *r)
{
    if (r->has_spare) {
        r->has_spare = 0;
        return r->spare;
    }
    double angle = TWO_PI * uniform53(r);
    double radius = sqrt(-2 * log1p(-uniform53(r)));
    r->spare = radius * sin(angle);
    r->has_spare = 1;
    return radius * cos(angle);
}

static void draw_block(struct rng_torch *r, float u[BLOCK])
{
    for (int j = 0; j < BLOCK; j++)
        u[j] = (float)(rng_torch_u32(r) & ((1u << 24) - 1)) * 0x1p-24f;
}

static void block_to_normal(float u[BLOCK])
{
    for (int j = 0; j < PAIR; j++) {
        double radius = sqrt(-2 * log((double)(1 - u[j])));
        double angle = (double)((float)TWO_PI * u[j + PAIR]);
        u[j] = (float)(radius * cos(angle));
        u[j + PAIR] = (float)(radius * sin(angle));
    }
}

static void cpu_normal(struct rng_torch *r, float *out, size_t n, const struct order *o)
{
    if (n < BLOCK) {
        for (size_t i = 0; i < n; i++)
            out[place(o, i)] = (float)one_normal(r);
        return;
    }
    float u[BLOCK];
    for (size_t i = 0; i + BLOCK <= n; i += BLOCK) {
        draw_block(r, u);
        block_to_normal(u);
        for (size_t j = 0; j < BLOCK; j++)
            out[place(o, i + j)] = u[j];
    }
    if (n % BLOCK == 0)
        return;
    for (size_t i = 0; i < n % BLOCK; i++) /* drawn for the rest, then overwritten */
        rng_torch_u32(r);
    draw_block(r, u);
    block_to_normal(u);
    for (size_t j = 0; j < BLOCK; j++)
        out[place(o, n - BLOCK + j)] = u[j];
}

/* --- CUDA --- */

static void cuda_normal(struct rng_torch *r, float *out, size_t n, const struct order *o)
{
    uint64_t call = r->n_calls++;
    for (size_t i = 0; i < n; i++) {
        uint32_t x[4];
        rng_philox(r->seed, i, call, x);
        float u = (float)x[0] * 0x1p-32f + 0x1p-33f;
        float v = (float)x[1] * (float)(TWO_PI * 0x1p-32) + (float)(TWO_PI * 0x1p-33);
        out[place(o, i)] = (float)(sqrt(-2 * log((double)u)) * sin((double)v));
    }
}

void rng_torch_normal(struct rng_torch *r, float *out, size_t n)
{
    const struct order as_it_is = {0};
    if (r->kind == RNG_CUDA)
        cuda_normal(r, out, n, &as_it_is);
    else
        cpu_normal(r, out, n, &as_it_is);
}

void rng_torch_normal_nhwc(struct rng_torch *r, float *out, int h, int w, int c)
{
    const struct order nhwc = {.n_pixels = (size_t)h * (size_t)w, .n_channels = (size_t)c};
    size_t n = nhwc.n_pixels * nhwc.n_channels;
    if (r->kind == RNG_CUDA)
        cuda_normal(r, out, n, &nhwc);
    else
        cpu_normal(r, out, n, &nhwc);
}
