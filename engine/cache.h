/* Memory of what is being computed: one byte budget for all models, a pool of KV pages for each
 * text model, and plain bytes for the rest (latents, prompt embeddings, programs).
 * Thread: engine.
 *
 * Exact admission.  A sequence is admitted with its worst case: cache_reserve promises it every page
 * that it may ever need, less those it shares.  A promise is bytes, not pages, and the sum
 *
 *     promised and not yet taken + taken by sequences + shared pages in use + held   <=   budget
 *
 * always holds.  So cache_take cannot fail, nothing is ever preempted, and what does not fit stays
 * in the queue.  Cold pages (full pages of ended sequences, in the prefix tree) live in what the
 * sum leaves free; cache_take evicts the coldest when the budget is physically full.
 *
 * Plain bytes are held (cache_hold) by what needs them, as a promise that is taken at once.  What may
 * be of use again and is made again easily is kept (cache_keep): it lives in what the sum leaves
 * free, beside the cold pages, and goes before them, the longest unused first.
 *
 * Address space is reserved for the whole budget in every pool; memory appears as pages are
 * touched.  Free pages stay resident for the next sequence of the same model, until another
 * model's pool needs the bytes or the engine has idled (cache_trim): then madvise gives them
 * back, so resident memory stays below the budget too. */
#ifndef ENGINE_CACHE_H
#define ENGINE_CACHE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/team.h"

struct cache;
struct cache_pool;

/* Pages that n_positions of a sequence take. */
static inline int cache_pages_for(int n_positions)
{
    return (n_positions + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

/* One sequence's pages.  The first n_shared stand in the prefix tree, the others are its own. */
struct cache_seq {
    struct cache_pool *pool; /* NULL while it has no reservation */
    int32_t *pages;          /* table, the caller's; room for the worst case */
    int n_pages, n_shared;
    int n_promised; /* pages of its own that it may still take */
    bool share;     /* uses and leaves shared pages */
};

int cache_open(struct cache **out, size_t budget_bytes, struct err *e);
/* For a device with memory of its own: the next n_pools pools lie there.  Where the device has memory that comes in
 * pieces (backend->range_open) they are as those of the host, in pieces of some MiB; else each is an equal part of
 * the budget, taken at once. */
void cache_on_device(struct cache *c, struct backend *be, int n_pools);
void cache_close(struct cache *c);
/* A pool of pages of this size, as many as the budget could hold. */
int cache_pool_add(struct cache *c, struct cache_pool **out, size_t page_bytes, struct err *e);
char *cache_pool_base(const struct cache_pool *p);
int cache_pool_pages(const struct cache_pool *p); /* the most that one sequence could get */

/* Promises n_worst pages in all to s (pages and share set, the rest zero).  The full pages at the
 * start of ids[0, n_match) that the tree has are shared and in the table on return.  false: does not
 * fit now, s is as before. */
bool cache_reserve(struct cache_pool *p, struct cache_seq *s, const int32_t *ids, int n_match,
                   int n_worst);
/* Takes pages until the table has n_pages; within what was promised. */
void cache_take(struct cache_seq *s, int n_pages);
/* The next page, of these KV_PAGE_TOKENS tokens, from the tree, if another sequence has computed
 * it meanwhile.  Only when s has no pages of its own (n_shared == n_pages). */
bool cache_adopt(struct cache_seq *s, const int32_t *ids);
/* Page n_shared is complete and has these tokens: it goes into the tree.  If the tree has them
 * already s changes over to the page there (same tokens, same bits) and gives its own back. */
void cache_commit(struct cache_seq *s, const int32_t *ids);
/* Gives all back; shared pages become cold when s was their last user. */
void cache_release(struct cache_seq *s);

/* Bytes outside of pages: latents, embeddings, programs.  false: they do not fit now. */
bool cache_hold(struct cache *c, size_t bytes);
void cache_unhold(struct cache *c, size_t bytes);

/* Something of its owner's that stays while there is room. */
struct cache_item {
    struct cache_item *prev, *next; /* in the order of last use; NULL when not kept */
    size_t bytes;
    bool kept;
    void (*evict)(struct cache_item *it); /* it is no longer kept: frees what it stands for */
};
/* It is not in use now, and was until now.  May be evicted at once. */
void cache_keep(struct cache *c, struct cache_item *it);
/* It is wanted again, or gone.  Its bytes count no longer: hold them first to use it. */
void cache_unkeep(struct cache *c, struct cache_item *it);

/* ERR_DEVICE when a page was taken that the device had no memory for: others than us have it. */
int cache_check(const struct cache *c, struct err *e);
/* Counts up whenever a promise or a page was given back: what did not fit may fit now. */
uint64_t cache_version(const struct cache *c);
/* Gives the memory of free pages back to the system, and evicts what is kept. */
void cache_trim(struct cache *c);

struct cache_stats {
    size_t budget_bytes, promised_bytes; /* promised: not taken yet */
    size_t used_bytes, cold_bytes;       /* pages of sequences; pages of the tree that none uses */
    size_t held_bytes, kept_bytes;       /* cache_hold, cache_keep */
    size_t aside_bytes;                  /* of the held ones: cache_aside */
    size_t resident_bytes; /* of pages: used, cold, and free pages that keep their memory */
};
void cache_stats(const struct cache *c, struct cache_stats *s);
/* So many of the held bytes are not given back when jobs end, so that no job may wait for them. */
void cache_aside(struct cache *c, size_t bytes);
#endif
