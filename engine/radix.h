/* The prefix tree: which full KV pages hold which tokens, so that requests share them.
 * Thread: engine.
 *
 * A node is one page: its KV_PAGE_TOKENS tokens, given all tokens on the path above it.  So a node
 * is named by its page id and a pool of n pages needs at most n nodes: the tree is bounded by
 * construction.  Children are found in one hash table keyed by (parent, tokens), with a random seed
 * and exact comparison.
 *
 * A sequence holds a reference on every node of its path.  So a node without references ("cold") has
 * only cold descendants, and because a released path goes to the end of the cold list deepest
 * first, every cold node stands behind all of its descendants: the head of the list is always a leaf
 * and always the least recently used one.  Eviction is one pop. */
#ifndef ENGINE_RADIX_H
#define ENGINE_RADIX_H
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

#define RADIX_ROOT (-1)

struct radix_node {
    int32_t ids[KV_PAGE_TOKENS];
    int32_t parent;               /* page id or RADIX_ROOT */
    int32_t bucket_next;          /* page id + 1, 0 ends the chain */
    int32_t cold_prev, cold_next; /* page id + 1, 0 at the ends */
    int32_t refs;                 /* sequences whose path goes through here */
};

struct radix {
    struct radix_node *nodes; /* [n_pages] */
    int32_t *buckets;         /* [mask + 1] page id + 1 */
    uint32_t mask;
    uint64_t seed;
    int32_t n_pages;
    int32_t cold_head, cold_tail; /* page id + 1 */
    int32_t n_hot, n_cold;        /* nodes with and without references */
};

int radix_init(struct radix *r, int32_t n_pages); /* 0 or ERR_NOMEM */
void radix_fini(struct radix *r);
/* The child of parent with these KV_PAGE_TOKENS tokens, or -1. */
int32_t radix_find(const struct radix *r, int32_t parent, const int32_t *ids);
/* page becomes a child of parent (which the caller holds), with one reference.  There must be no
 * such child yet. */
void radix_insert(struct radix *r, int32_t parent, const int32_t *ids, int32_t page);
/* One more reference on this node alone; the caller holds its parent. */
void radix_ref(struct radix *r, int32_t page);
/* Drops one reference of page and of all above it. */
void radix_unref_path(struct radix *r, int32_t page);
/* Takes the least recently used cold leaf out of the tree: its page, or -1 when all is in use. */
int32_t radix_evict(struct radix *r);
#endif
