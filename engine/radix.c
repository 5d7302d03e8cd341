/* The prefix tree; radix.h has the design. */
#include "engine/radix.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/rng.h"

int radix_init(struct radix *r, int32_t n_pages)
{
    memset(r, 0, sizeof *r);
    uint32_t n_buckets = 16;
    while (n_buckets < (uint32_t)n_pages && n_buckets < (1u << 30))
        n_buckets *= 2;
    r->nodes = mem_try((size_t)n_pages, sizeof *r->nodes);
    r->buckets = mem_try(n_buckets, sizeof *r->buckets);
    if (!r->nodes || !r->buckets) {
        radix_fini(r);
        return ERR_NOMEM;
    }
    r->mask = n_buckets - 1;
    r->seed = rng_seed_random();
    r->n_pages = n_pages;
    return 0;
}

void radix_fini(struct radix *r)
{
    free(r->nodes);
    free(r->buckets);
    memset(r, 0, sizeof *r);
}

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    return h;
}

static uint32_t bucket_of(const struct radix *r, int32_t parent, const int32_t *ids)
{
    uint64_t h = mix(r->seed ^ (uint32_t)parent);
    for (int i = 0; i < KV_PAGE_TOKENS; i += 2) {
        uint64_t pair = (uint64_t)(uint32_t)ids[i] << 32 | (uint32_t)ids[i + 1];
        h = mix(h ^ pair) + r->seed;
    }
    return (uint32_t)mix(h) & r->mask;
}

int32_t radix_find(const struct radix *r, int32_t parent, const int32_t *ids)
{
    int32_t at = r->buckets[bucket_of(r, parent, ids)];
    while (at) {
        const struct radix_node *n = &r->nodes[at - 1];
        if (n->parent == parent && memcmp(n->ids, ids, sizeof n->ids) == 0)
            return at - 1;
        at = n->bucket_next;
    }
    return -1;
}

void radix_insert(struct radix *r, int32_t parent, const int32_t *ids, int32_t page)
{
    struct radix_node *n = &r->nodes[page];
    memset(n, 0, sizeof *n);
    memcpy(n->ids, ids, sizeof n->ids);
    n->parent = parent;
    n->refs = 1;
    int32_t *bucket = &r->buckets[bucket_of(r, parent, ids)];
    n->bucket_next = *bucket;
    *bucket = page + 1;
    r->n_hot++;
}

static void cold_append(struct radix *r, int32_t page)
{
    struct radix_node *n = &r->nodes[page];
    n->cold_prev = r->cold_tail;
    n->cold_next = 0;
    if (r->cold_tail)
        r->nodes[r->cold_tail - 1].cold_next = page + 1;
    else
        r->cold_head = page + 1;
    r->cold_tail = page + 1;
    r->n_cold++;
}

static void cold_remove(struct radix *r, int32_t page)
{
    struct radix_node *n = &r->nodes[page];
    if (n->cold_prev)
        r->nodes[n->cold_prev - 1].cold_next = n->cold_next;
    else
        r->cold_head = n->cold_next;
    if (n->cold_next)
        r->nodes[n->cold_next - 1].cold_prev = n->cold_prev;
    else
        r->cold_tail = n->cold_prev;
    n->cold_prev = n->cold_next = 0;
    r->n_cold--;
}

void radix_ref(struct radix *r, int32_t page)
{
    struct radix_node *n = &r->nodes[page];
    if (n->refs++ == 0) {
        cold_remove(r, page);
        r->n_hot++;
    }
}

void radix_unref_path(struct radix *r, int32_t page)
{
    while (page != RADIX_ROOT) {
        struct radix_node *n = &r->nodes[page];
        if (--n->refs == 0) {
            cold_append(r, page);
            r->n_hot--;
        }
        page = n->parent;
    }
}

int32_t radix_evict(struct radix *r)
{
    if (!r->cold_head)
        return -1;
    int32_t page = r->cold_head - 1;
    struct radix_node *n = &r->nodes[page];
    cold_remove(r, page);
    int32_t *at = &r->buckets[bucket_of(r, n->parent, n->ids)];
    while (*at != page + 1)
        at = &r->nodes[*at - 1].bucket_next;
    *at = n->bucket_next;
    return page;
}
