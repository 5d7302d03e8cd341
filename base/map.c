/* Open addressing with linear probing; the hash is SipHash-1-3 (Aumasson and Bernstein, 2012) under
 * a key drawn once per process, so that nobody can choose strings that collide. */
#include "base/map.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/rng.h"

struct map_slot {
    const char *key; /* NULL: free */
    size_t len;
    uint64_t hash;
    int64_t v;
};

static uint64_t hash_key[2];
static pthread_once_t hash_key_once = PTHREAD_ONCE_INIT;

static void draw_hash_key(void)
{
    hash_key[0] = rng_seed_random();
    hash_key[1] = rng_seed_random();
}

static uint64_t rotl(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] = rotl(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] = rotl(v[2], 32);
}

static uint64_t hash_bytes(const char *p, size_t n)
{
    uint64_t v[4] = {hash_key[0] ^ 0x736f6d6570736575u, hash_key[1] ^ 0x646f72616e646f6du,
                     hash_key[0] ^ 0x6c7967656e657261u, hash_key[1] ^ 0x7465646279746573u};
    uint64_t word;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&word, p + i, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    word = 0;
    if (i < n)
        memcpy(&word, p + i, n - i);
    word |= (uint64_t)n << 56;
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    for (int round = 0; round < 3; round++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The slot that holds the key, or the free one where it belongs. */
static struct map_slot *find(const struct map *m, const char *key, size_t len, uint64_t hash)
{
    for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        struct map_slot *s = &m->slots[i];
        if (s->key == NULL)
            return s;
        if (s->hash == hash && s->len == len && (len == 0 || memcmp(s->key, key, len) == 0))
            return s;
    }
}

uint64_t map_hash(const char *p, size_t n)
{
    pthread_once(&hash_key_once, draw_hash_key);
    return hash_bytes(p, n);
}

int map_init(struct map *m, size_t n_expected)
{
    *m = (struct map){0};
    pthread_once(&hash_key_once, draw_hash_key);
    if (n_expected > SIZE_MAX / 4)
        return ERR_NOMEM;
    size_t cap = 16;
    while (cap / 4 * 3 < n_expected) /* at most 3/4 full */
        cap *= 2;
    m->slots = mem_try(cap, sizeof *m->slots);
    if (m->slots == NULL)
        return ERR_NOMEM;
    m->cap = cap;
    return 0;
}

void map_free(struct map *m)
{
    free(m->slots);
    *m = (struct map){0};
}

static int grow(struct map *m)
{
    struct map bigger;
    if (map_init(&bigger, m->n * 2) != 0)
        return ERR_NOMEM;
    for (size_t i = 0; i < m->cap; i++) {
        const struct map_slot *s = &m->slots[i];
        if (s->key != NULL)
            *find(&bigger, s->key, s->len, s->hash) = *s;
    }
    bigger.n = m->n;
    map_free(m);
    *m = bigger;
    return 0;
}

int map_put(struct map *m, const char *key, size_t len, int64_t v)
{
    uint64_t hash = hash_bytes(key, len);
    struct map_slot *s = find(m, key, len, hash);
    if (s->key != NULL)
        return ERR_INVALID;
    if (m->n + 1 > m->cap / 4 * 3) {
        if (grow(m) != 0)
            return ERR_NOMEM;
        s = find(m, key, len, hash);
    }
    *s = (struct map_slot){.key = len > 0 ? key : "", .len = len, .hash = hash, .v = v};
    m->n++;
    return 0;
}

bool map_get(const struct map *m, const char *key, size_t len, int64_t *v)
{
    if (m->n == 0)
        return false;
    const struct map_slot *s = find(m, key, len, hash_bytes(key, len));
    if (s->key == NULL)
        return false;
    *v = s->v;
    return true;
}
