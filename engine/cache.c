/* One budget, page pools, promises; cache.h has the design. */
#include "engine/cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arena.h"
#include "engine/radix.h"

#define POOLS_MAX 64

struct cache_pool {
    struct cache *cache;
    char *base;
    size_t page_bytes, map_bytes;
    size_t piece_bytes;    /* of a device's memory, which comes in pieces; 0: it does not */
    uint32_t *piece_pages; /* how many of a piece's pages are resident */
    int32_t n_pages;
    struct radix tree;
    /* Free page ids: warm ones (memory present) from the left, given-back ones from the right; ids
     * from n_fresh on were never used. */
    int32_t *free_ids;
    int32_t n_warm, n_back, n_fresh;
    int32_t n_own; /* taken by sequences and not in the tree */
};

struct cache {
    size_t budget_bytes;
    struct backend *device; /* NULL: pools are of the host's memory */
    int n_device_pools;
    size_t promised_bytes; /* promised, not taken */
    size_t held_bytes, kept_bytes, aside_bytes;
    struct cache_item *first, *last; /* kept, the longest unused first */
    size_t resident_bytes;
    struct err lost; /* code 0, or why a page has no memory */
    uint64_t version;
    int n_pools;
    struct cache_pool pools[POOLS_MAX];
};

int cache_open(struct cache **out, size_t budget_bytes, struct err *e)
{
    struct cache *c = mem_try(1, sizeof *c);
    if (!c)
        return err_set(e, ERR_NOMEM, "no memory for the cache's tables");
    c->budget_bytes = budget_bytes;
    *out = c;
    return 0;
}

void cache_close(struct cache *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->n_pools; i++) {
        struct cache_pool *p = &c->pools[i];
        if (p->piece_bytes)
            c->device->range_close(c->device, p->base);
        else if (c->device)
            team_free(c->device, p->base);
        else
            munmap(p->base, p->map_bytes);
        radix_fini(&p->tree);
        free(p->free_ids);
        free(p->piece_pages);
    }
    free(c);
}

void cache_on_device(struct cache *c, struct backend *be, int n_pools)
{
    c->device = be;
    c->n_device_pools = n_pools;
}

/* Those that compute a model together have equal memories, taken at once. */
static bool comes_in_pieces(const struct backend *be)
{
    return be->range_open && !be->team;
}

static char *pool_memory(struct cache_pool *p, size_t bytes, struct err *e)
{
    struct backend *be = p->cache->device;
    if (be && comes_in_pieces(be)) {
        char *base = be->range_open(be, bytes, &p->piece_bytes, e);
        if (base)
            p->piece_pages = xcalloc(bytes / p->piece_bytes + 1, sizeof *p->piece_pages);
        return base;
    }
    if (be)
        return team_alloc(be, bytes, e);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base != MAP_FAILED)
        return base;
    err_set(e, ERR_NOMEM, "cannot reserve %zu bytes of address space: %m", bytes);
    return NULL;
}

int cache_pool_add(struct cache *c, struct cache_pool **out, size_t page_bytes, struct err *e)
{
    if (c->n_pools == POOLS_MAX)
        return err_set(e, ERR_TOOBIG, "more than %d models", POOLS_MAX);
    const bool whole = c->device && !comes_in_pieces(c->device);
    size_t budget = c->budget_bytes / (size_t)(whole ? c->n_device_pools : 1);
    size_t n = page_bytes ? budget / page_bytes : 0;
    if (n == 0)
        return err_set(e, ERR_TOOBIG, "the cache budget of %zu bytes is below one page (%zu bytes)",
                       budget, page_bytes);
    if (n > INT32_MAX / 2)
        n = INT32_MAX / 2;
    struct cache_pool *p = &c->pools[c->n_pools];
    memset(p, 0, sizeof *p);
    p->cache = c;
    p->page_bytes = page_bytes;
    p->n_pages = (int32_t)n;
    p->map_bytes = n * page_bytes;
    p->free_ids = mem_try(n, sizeof *p->free_ids);
    if (!p->free_ids || radix_init(&p->tree, p->n_pages)) {
        free(p->free_ids);
        return err_set(e, ERR_NOMEM, "no memory for the tables of %zu pages", n);
    }
    p->base = pool_memory(p, p->map_bytes, e);
    if (!p->base) {
        radix_fini(&p->tree);
        free(p->free_ids);
        return ERR_NOMEM;
    }
    c->n_pools++;
    *out = p;
    return 0;
}

char *cache_pool_base(const struct cache_pool *p)
{
    return p->base;
}

int cache_pool_pages(const struct cache_pool *p)
{
    return p->n_pages;
}

static size_t page_bytes_used(const struct cache *c)
{
    size_t sum = 0;
    for (int i = 0; i < c->n_pools; i++)
        sum += (size_t)(c->pools[i].n_own + c->pools[i].tree.n_hot) * c->pools[i].page_bytes;
    return sum;
}

/* Bytes that nothing may be taken from: own pages, shared pages in use, held bytes. */
static size_t used_bytes(const struct cache *c)
{
    return page_bytes_used(c) + c->held_bytes;
}

static size_t page_bytes_cold(const struct cache *c)
{
    size_t sum = 0;
    for (int i = 0; i < c->n_pools; i++)
        sum += (size_t)c->pools[i].tree.n_cold * c->pools[i].page_bytes;
    return sum;
}

static size_t cold_bytes(const struct cache *c)
{
    return page_bytes_cold(c) + c->kept_bytes;
}

/* --- single pages --- */

static bool page_give_back(struct cache_pool *p);

/* A piece of a device's memory; free pages of others give theirs back where there is none. */
static void piece_fill(struct cache_pool *p, size_t piece)
{
    struct cache *c = p->cache;
    struct err e = {0};
    int rc = c->device->range_fill(c->device, p->base, piece, &e);
    if (rc == ERR_NOMEM) {
        for (int i = 0; i < c->n_pools; i++)
            while (page_give_back(&c->pools[i]))
                ;
        rc = c->device->range_fill(c->device, p->base, piece, &e);
    }
    if (rc)
        c->lost = e;
}

/* The page is about to have memory, or does not need it any more. */
static void page_resident(struct cache_pool *p, int32_t page, bool on)
{
    const size_t begin = (size_t)page * p->page_bytes, end = begin + p->page_bytes;
    for (size_t i = begin / p->piece_bytes; i * p->piece_bytes < end; i++) {
        if (on && p->piece_pages[i]++ == 0)
            piece_fill(p, i);
        else if (!on && --p->piece_pages[i] == 0)
            p->cache->device->range_drop(p->cache->device, p->base, i);
    }
}

/* Gives one free page's memory back; false when this pool has no resident free page. */
static bool page_give_back(struct cache_pool *p)
{
    if (p->n_warm == 0)
        return false;
    int32_t page = p->free_ids[--p->n_warm];
    p->free_ids[p->n_pages - ++p->n_back] = page;
    p->cache->resident_bytes -= p->page_bytes;
    if (p->piece_bytes)
        page_resident(p, page, false);
    /* Only whole system pages can go; a border one that neighbours share stays. */
    size_t unit = (size_t)sysconf(_SC_PAGESIZE);
    size_t from = (size_t)page * p->page_bytes, to = from + p->page_bytes;
    from = (from + unit - 1) / unit * unit;
    to = to / unit * unit;
    if (from < to && !p->cache->device)
        madvise(p->base + from, to - from, MADV_DONTNEED);
    return true;
}

static void page_free(struct cache_pool *p, int32_t page)
{
    p->free_ids[p->n_warm++] = page;
}

static void evict_item(struct cache *c)
{
    struct cache_item *it = c->first;
    cache_unkeep(c, it);
    it->evict(it);
}

/* The longest unused item; else one cold page, of p if it has one, else of any pool. */
static void evict_one(struct cache *c, struct cache_pool *p)
{
    if (c->first) {
        evict_item(c);
        return;
    }
    int32_t page = p ? radix_evict(&p->tree) : -1;
    for (int i = 0; i < c->n_pools && page < 0; i++) {
        p = &c->pools[i];
        page = radix_evict(&p->tree);
    }
    if (page >= 0)
        page_free(p, page);
}

/* Evicts until `more` bytes have a place beside what is used. */
static void make_room(struct cache *c, struct cache_pool *p, size_t more)
{
    size_t cold;
    while ((cold = cold_bytes(c)) > 0 && used_bytes(c) + cold + more > c->budget_bytes)
        evict_one(c, p);
}

/* Free pages give their memory back until all that is resident is within the budget. */
static void stay_within(struct cache *c)
{
    for (int i = 0; i < c->n_pools;) {
        if (c->resident_bytes + c->held_bytes + c->kept_bytes <= c->budget_bytes)
            return;
        if (!page_give_back(&c->pools[i]))
            i++;
    }
}

/* The caller holds a promise for it, so that there always is one (cache.h). */
static int32_t page_take(struct cache_pool *p)
{
    struct cache *c = p->cache;
    make_room(c, p, p->page_bytes);
    if (p->n_warm > 0)
        return p->free_ids[--p->n_warm];
    int32_t page = p->n_back > 0 ? p->free_ids[p->n_pages - p->n_back--] : p->n_fresh++;
    c->resident_bytes += p->page_bytes;
    stay_within(c);
    if (p->piece_bytes)
        page_resident(p, page, true);
    return page;
}

/* --- sequences --- */

static int32_t deepest(const struct cache_seq *s)
{
    return s->n_shared > 0 ? s->pages[s->n_shared - 1] : RADIX_ROOT;
}

bool cache_reserve(struct cache_pool *p, struct cache_seq *s, const int32_t *ids, int n_match,
                   int n_worst)
{
    struct cache *c = p->cache;
    int n_shared = 0;
    int32_t parent = RADIX_ROOT;
    for (; s->share && (n_shared + 1) * KV_PAGE_TOKENS <= n_match; n_shared++) {
        int32_t page = radix_find(&p->tree, parent, ids + (size_t)n_shared * KV_PAGE_TOKENS);
        if (page < 0)
            break;
        radix_ref(&p->tree, page);
        s->pages[n_shared] = parent = page;
    }
    /* The shared pages count as used now, so that the rest is compared with what is left. */
    size_t need = (size_t)(n_worst - n_shared) * p->page_bytes;
    size_t held = used_bytes(c) + c->promised_bytes;
    if (held > c->budget_bytes || need > c->budget_bytes - held) {
        radix_unref_path(&p->tree, parent);
        return false;
    }
    c->promised_bytes += need;
    s->pool = p;
    s->n_shared = s->n_pages = n_shared;
    s->n_promised = n_worst - n_shared;
    return true;
}

void cache_take(struct cache_seq *s, int n_pages)
{
    struct cache_pool *p = s->pool;
    while (s->n_pages < n_pages && s->n_promised > 0) {
        s->pages[s->n_pages++] = page_take(p);
        s->n_promised--;
        p->cache->promised_bytes -= p->page_bytes;
        p->n_own++;
    }
}

bool cache_adopt(struct cache_seq *s, const int32_t *ids)
{
    struct cache_pool *p = s->pool;
    if (!s->share || s->n_shared != s->n_pages || s->n_promised == 0)
        return false;
    int32_t page = radix_find(&p->tree, deepest(s), ids);
    if (page < 0)
        return false;
    radix_ref(&p->tree, page);
    s->pages[s->n_pages++] = page;
    s->n_shared++;
    s->n_promised--;
    p->cache->promised_bytes -= p->page_bytes;
    p->cache->version++;
    return true;
}

void cache_commit(struct cache_seq *s, const int32_t *ids)
{
    struct cache_pool *p = s->pool;
    if (!s->share || s->n_shared >= s->n_pages)
        return;
    int32_t own = s->pages[s->n_shared];
    int32_t there = radix_find(&p->tree, deepest(s), ids);
    if (there >= 0) {
        radix_ref(&p->tree, there);
        s->pages[s->n_shared] = there;
        page_free(p, own);
        p->cache->version++;
    } else {
        radix_insert(&p->tree, deepest(s), ids, own);
    }
    p->n_own--;
    s->n_shared++;
}

void cache_release(struct cache_seq *s)
{
    struct cache_pool *p = s->pool;
    if (!p)
        return;
    for (int i = s->n_shared; i < s->n_pages; i++) {
        page_free(p, s->pages[i]);
        p->n_own--;
    }
    radix_unref_path(&p->tree, deepest(s));
    p->cache->promised_bytes -= (size_t)s->n_promised * p->page_bytes;
    p->cache->version++;
    s->pool = NULL;
    s->n_pages = s->n_shared = s->n_promised = 0;
}

/* --- plain bytes --- */

bool cache_hold(struct cache *c, size_t bytes)
{
    size_t taken = used_bytes(c) + c->promised_bytes;
    if (taken > c->budget_bytes || bytes > c->budget_bytes - taken)
        return false;
    c->held_bytes += bytes;
    make_room(c, NULL, 0);
    stay_within(c);
    return true;
}

void cache_unhold(struct cache *c, size_t bytes)
{
    c->held_bytes -= bytes;
    c->version++;
}

void cache_keep(struct cache *c, struct cache_item *it)
{
    it->kept = true;
    it->next = NULL;
    it->prev = c->last;
    if (c->last)
        c->last->next = it;
    else
        c->first = it;
    c->last = it;
    c->kept_bytes += it->bytes;
    make_room(c, NULL, 0);
    stay_within(c);
}

void cache_unkeep(struct cache *c, struct cache_item *it)
{
    if (!it->kept)
        return;
    if (it->prev)
        it->prev->next = it->next;
    else
        c->first = it->next;
    if (it->next)
        it->next->prev = it->prev;
    else
        c->last = it->prev;
    it->prev = it->next = NULL;
    it->kept = false;
    c->kept_bytes -= it->bytes;
}

/* --- the whole --- */

int cache_check(const struct cache *c, struct err *e)
{
    return c->lost.code ? err_set(e, ERR_DEVICE, "%s", c->lost.msg) : 0;
}

uint64_t cache_version(const struct cache *c)
{
    return c->version;
}

void cache_trim(struct cache *c)
{
    while (c->first)
        evict_item(c);
    for (int i = 0; i < c->n_pools; i++) {
        while (page_give_back(&c->pools[i]))
            ;
    }
}

void cache_stats(const struct cache *c, struct cache_stats *s)
{
    s->budget_bytes = c->budget_bytes;
    s->promised_bytes = c->promised_bytes;
    s->used_bytes = page_bytes_used(c);
    s->cold_bytes = page_bytes_cold(c);
    s->held_bytes = c->held_bytes;
    s->aside_bytes = c->aside_bytes;
    s->kept_bytes = c->kept_bytes;
    s->resident_bytes = c->resident_bytes;
}

void cache_aside(struct cache *c, size_t bytes)
{
    c->aside_bytes = bytes;
}
