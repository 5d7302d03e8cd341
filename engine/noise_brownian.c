/* The Brownian path of the DPM++ SDE scheduler, as torchsde's BrownianInterval makes it: a binary tree
 * over [low, high], halved until a point is found, its places rounded to 1e-6.  The increment over a
 * node is normal; its left child's, given the node's, is normal again, of a mean in proportion and the
 * variance of the bridge.  Every node has a seed of its own, hashed from the path's seed and the
 * node's place in the tree, so that a point costs one walk from the root and nothing is kept.
 *
 * The hash is numpy's SeedSequence (O'Neill 2015, "Developing a seed_seq alternative"), of a pool of 24
 * words. */
#include <math.h>

#include "engine/noise_plan.h"

enum { POOL = 24, MAX_WORDS = POOL + 4, MAX_DEPTH = 60 };

struct hash {
    uint32_t constant, factor;
};

static uint32_t hash_next(struct hash *h, uint32_t x)
{
    x ^= h->constant;
    h->constant *= h->factor;
    x *= h->constant;
    return x ^ x >> 16;
}

static uint32_t hash_mix(uint32_t x, uint32_t y)
{
    uint32_t r = 0xca01f9ddu * x - 0x4973f715u * y;
    return r ^ r >> 16;
}

/* One word, or two where the number needs them. */
static int put_words(uint32_t *words, int n, uint64_t x)
{
    words[n++] = (uint32_t)x;
    if (x >> 32 != 0)
        words[n++] = (uint32_t)(x >> 32);
    return n;
}

/* SeedSequence(seed, spawn_key=(key, depth), pool_size=24).generate_state(1); depth < 0: no key. */
static uint32_t node_seed(uint64_t seed, uint64_t key, int depth)
{
    uint32_t words[MAX_WORDS] = {0}, pool[POOL];
    int n = put_words(words, 0, seed);
    if (depth >= 0)
        n = put_words(words, put_words(words, POOL, key), (uint64_t)depth);
    struct hash h = {0x43b0d7e5u, 0x931e8875u};
    for (int i = 0; i < POOL; i++)
        pool[i] = hash_next(&h, words[i]);
    for (int from = 0; from < POOL; from++)
        for (int to = 0; to < POOL; to++)
            if (from != to)
                pool[to] = hash_mix(pool[to], hash_next(&h, pool[from]));
    for (int from = POOL; from < n; from++)
        for (int to = 0; to < POOL; to++)
            pool[to] = hash_mix(pool[to], hash_next(&h, words[from]));
    h = (struct hash){0x8b51f9ddu, 0x58f38dedu};
    return hash_next(&h, pool[0]);
}

/* To 6 decimals as Python's round: what seems a tie is one of exact decimals, and is not when the
 * binary number lies to a side of it. */
static double round6(double x)
{
    double k = x * 1e6, rest = fma(x, 1e6, -k), down = floor(k);
    if (k - down == 0.5 && rest != 0)
        return (rest > 0 ? down + 1 : down) / 1e6;
    return rint(k) / 1e6;
}

static void node_normal(const struct rng_torch *rng, const struct noise_shape *s, uint64_t key,
                        int depth, float *out)
{
    struct rng_torch node;
    rng_torch_seed(&node, rng->kind, node_seed(rng->seed, key, depth));
    rng_torch_normal_nhwc(&node, out, s->h, s->w, s->c);
}

/* out += sign * B(at), of B(low) = 0; width and noise are scratch. */
static void add_point(const struct noise_path *path, double at, float sign,
                      const struct noise_shape *s, const struct rng_torch *rng, float *out,
                      float *scratch[2])
{
    size_t n = (size_t)s->h * (size_t)s->w * (size_t)s->c;
    float *w = scratch[0], *noise = scratch[1]; /* the node's increment, its normal numbers */
    double low = round6(path->low), high = round6(path->high);
    at = round6(at);
    node_normal(rng, s, 0, -1, w);
    float scale = (float)sqrt(path->high - path->low);
    for (size_t i = 0; i < n; i++)
        w[i] *= scale;
    uint64_t key = 0;
    for (int depth = 0; depth < MAX_DEPTH && at > low && at < high; depth++) {
        double middle = round6(0.5 * (low + high));
        float part = (float)(middle - low), share = (float)(1 / (high - low));
        float deviation = (float)sqrt((middle - low) * (high - middle) * (1 / (high - low)));
        bool right = at >= middle;
        node_normal(rng, s, key, depth, noise);
        for (size_t i = 0; i < n; i++) {
            float left = part * w[i] * share + deviation * noise[i];
            if (right)
                out[i] += sign * left;
            w[i] = right ? w[i] - left : left;
        }
        key = 2 * key + right;
        low = right ? middle : low;
        high = right ? high : middle;
    }
    for (size_t i = 0; at >= high && i < n; i++)
        out[i] += sign * w[i];
}

void noise_brownian(const struct noise_path *path, const struct noise_shape *shape,
                    const struct rng_torch *rng, float *out, float *scratch[2])
{
    size_t n = (size_t)shape->h * (size_t)shape->w * (size_t)shape->c;
    for (size_t i = 0; i < n; i++)
        out[i] = 0;
    add_point(path, path->to, 1, shape, rng, out, scratch);
    add_point(path, path->from, -1, shape, rng, out, scratch);
    float scale = (float)(1 / sqrt(path->from - path->to));
    for (size_t i = 0; i < n; i++)
        out[i] *= scale;
}
