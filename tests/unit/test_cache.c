/* The page cache and its prefix tree: exact counts, eviction order, and random work against a naive
 * model of the same rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cache.h"
#include "engine/radix.h"

enum { T = KV_PAGE_TOKENS, PAGE = 4096 };

static void fill(int32_t *ids, int n, int32_t value)
{
    for (int i = 0; i < n; i++)
        ids[i] = value;
}

static void radix_evicts_leaves_in_order_of_last_use(void **state)
{
    (void)state;
    struct radix r;
    assert_int_equal(radix_init(&r, 8), 0);
    int32_t ids[T];
    /* root - 0 - 1 - 2 and 0 - 3 */
    fill(ids, T, 0);
    radix_insert(&r, RADIX_ROOT, ids, 0);
    fill(ids, T, 1);
    radix_insert(&r, 0, ids, 1);
    fill(ids, T, 2);
    radix_insert(&r, 1, ids, 2);
    fill(ids, T, 3);
    radix_ref(&r, 0);
    radix_insert(&r, 0, ids, 3);
    assert_int_equal(r.n_hot, 4);
    assert_int_equal(radix_evict(&r), -1);
    radix_unref_path(&r, 2); /* 2 and 1 are cold, 0 is held by 3's path */
    assert_int_equal(r.n_cold, 2);
    assert_int_equal(r.n_hot, 2);
    assert_int_equal(radix_find(&r, 0, ids), 3);
    radix_unref_path(&r, 3);
    assert_int_equal(r.n_cold, 4);
    assert_int_equal(radix_evict(&r), 2);
    assert_int_equal(radix_evict(&r), 1);
    fill(ids, T, 1);
    assert_int_equal(radix_find(&r, 0, ids), -1);
    radix_ref(&r, 0); /* used again: 3 is older now */
    radix_unref_path(&r, 0);
    assert_int_equal(radix_evict(&r), 3);
    assert_int_equal(radix_evict(&r), 0);
    assert_int_equal(radix_evict(&r), -1);
    radix_fini(&r);
}

static void cache_promises_no_more_than_there_is(void **state)
{
    (void)state;
    struct cache *c;
    struct cache_pool *p;
    struct err e;
    assert_int_equal(cache_open(&c, 10 * PAGE + 100, &e), 0);
    assert_int_equal(cache_pool_add(c, &p, PAGE, &e), 0);
    assert_int_equal(cache_pool_pages(p), 10);
    int32_t ids[T * 10], pages[3][10];
    fill(ids, T * 10, 7);
    struct cache_seq a = {.pages = pages[0]}, b = {.pages = pages[1]}, d = {.pages = pages[2]};
    assert_true(cache_reserve(p, &a, ids, 0, 6));
    assert_false(cache_reserve(p, &b, ids, 0, 5));
    assert_true(cache_reserve(p, &b, ids, 0, 4));
    assert_false(cache_reserve(p, &d, ids, 0, 1));
    uint64_t version = cache_version(c);
    cache_take(&a, 6);
    cache_take(&b, 4);
    struct cache_stats st;
    cache_stats(c, &st);
    assert_int_equal(st.used_bytes, 10 * PAGE);
    assert_int_equal(st.promised_bytes, 0);
    cache_release(&a);
    assert_true(cache_version(c) != version);
    assert_true(cache_reserve(p, &d, ids, 0, 6));
    cache_release(&b);
    cache_release(&d);
    cache_stats(c, &st);
    assert_int_equal(st.used_bytes + st.promised_bytes + st.cold_bytes, 0);
    cache_trim(c);
    cache_stats(c, &st);
    assert_int_equal(st.resident_bytes, 0);
    cache_close(c);
}

/* Computes the whole sequence: takes pages and leaves the full ones in the tree. */
static void compute(struct cache_seq *s, const int32_t *ids, int n_ids)
{
    cache_take(s, (n_ids + T - 1) / T);
    while ((s->n_shared + 1) * T <= n_ids)
        cache_commit(s, ids + (size_t)s->n_shared * T);
}

static void cache_shares_full_pages_of_a_common_prefix(void **state)
{
    (void)state;
    struct cache *c;
    struct cache_pool *p;
    assert_int_equal(cache_open(&c, 20 * PAGE, NULL), 0);
    assert_int_equal(cache_pool_add(c, &p, PAGE, NULL), 0);
    int32_t ids[T * 4], pages[3][8];
    for (int i = 0; i < T * 4; i++)
        ids[i] = i;
    struct cache_seq a = {.pages = pages[0], .share = true};
    struct cache_seq b = {.pages = pages[1], .share = true};
    assert_true(cache_reserve(p, &a, ids, T * 4 - 1, 5));
    assert_int_equal(a.n_shared, 0);
    compute(&a, ids, T * 3 + 5);
    assert_int_equal(a.n_shared, 3);
    /* All but the page of the last token. */
    assert_true(cache_reserve(p, &b, ids, T * 3 - 1, 4));
    assert_int_equal(b.n_shared, 2);
    assert_int_equal(b.n_promised, 2);
    assert_int_equal(pages[1][1], pages[0][1]);
    /* b computes page 2 itself and then uses a's. */
    cache_take(&b, 3);
    assert_true(pages[1][2] != pages[0][2]);
    cache_commit(&b, ids + (size_t)T * 2);
    assert_int_equal(pages[1][2], pages[0][2]);
    struct cache_stats st;
    cache_stats(c, &st);
    assert_int_equal(st.used_bytes, 4 * PAGE);
    cache_release(&a);
    cache_stats(c, &st);
    assert_int_equal(st.used_bytes, 3 * PAGE);
    assert_int_equal(st.cold_bytes, 0);
    cache_release(&b);
    cache_stats(c, &st);
    assert_int_equal(st.used_bytes, 0);
    assert_int_equal(st.cold_bytes, 3 * PAGE);
    /* One that does not share sees nothing and leaves nothing. */
    struct cache_seq d = {.pages = pages[2], .share = false};
    assert_true(cache_reserve(p, &d, ids, T * 3, 4));
    assert_int_equal(d.n_shared, 0);
    compute(&d, ids, 0);
    cache_release(&d);
    cache_stats(c, &st);
    assert_int_equal(st.cold_bytes, 3 * PAGE);
    cache_close(c);
}

static void cache_keeps_resident_memory_of_two_pools_within_the_budget(void **state)
{
    (void)state;
    struct cache *c;
    struct cache_pool *p[2];
    assert_int_equal(cache_open(&c, 12 * PAGE, NULL), 0);
    assert_int_equal(cache_pool_add(c, &p[0], PAGE, NULL), 0);
    assert_int_equal(cache_pool_add(c, &p[1], 3 * PAGE, NULL), 0);
    int32_t ids[T * 12], pages[12];
    for (int i = 0; i < T * 12; i++)
        ids[i] = i;
    for (int round = 0; round < 10; round++) {
        struct cache_seq s = {.pages = pages, .share = true};
        int n = round % 2 ? 4 : 12;
        assert_true(cache_reserve(p[round % 2], &s, ids, 0, n));
        assert_int_equal(s.n_shared, 0);
        compute(&s, ids, n * T);
        size_t page_bytes = round % 2 ? 3 * PAGE : PAGE;
        for (int i = 0; i < n; i++)
            memset(cache_pool_base(p[round % 2]) + (size_t)pages[i] * page_bytes, 1, page_bytes);
        struct cache_stats st;
        cache_stats(c, &st);
        assert_int_equal(st.used_bytes, 12 * PAGE);
        assert_true(st.resident_bytes <= st.budget_bytes);
        cache_release(&s);
    }
    cache_close(c);
}

/* --- random work against a naive model --- */

enum { BUDGET = 24, SEQS = 6, LEN_MAX = T * 8, ALPHABET = 2 };

/* The naive tree: a list of full prefixes with the users of each and the time of last use. */
struct prefix {
    int n_pages; /* length; 0: the entry is free */
    int32_t ids[LEN_MAX];
    int refs;
    int64_t used_at;
    int32_t page;
};

struct naive {
    struct prefix prefixes[BUDGET];
    int64_t clock;
};

static struct prefix *naive_find(struct naive *m, const int32_t *ids, int n_pages)
{
    for (int i = 0; i < BUDGET; i++) {
        struct prefix *p = &m->prefixes[i];
        if (p->n_pages == n_pages && memcmp(p->ids, ids, (size_t)n_pages * T * sizeof *ids) == 0)
            return p;
    }
    return NULL;
}

static int naive_count(const struct naive *m, bool cold)
{
    int n = 0;
    for (int i = 0; i < BUDGET; i++)
        n += m->prefixes[i].n_pages > 0 && (m->prefixes[i].refs == 0) == cold;
    return n;
}

static void naive_evict(struct naive *m)
{
    struct prefix *best = NULL;
    for (int i = 0; i < BUDGET; i++) {
        struct prefix *p = &m->prefixes[i];
        if (p->n_pages > 0 && p->refs == 0 && (!best || p->used_at < best->used_at))
            best = p;
    }
    assert_non_null(best);
    best->n_pages = 0;
}

struct run {
    struct cache_seq s;
    int32_t pages[8], ids[LEN_MAX];
    int n_worst, n_own;
    bool live;
};

static void check_counts(struct cache *c, const struct naive *m, const struct run *runs)
{
    struct cache_stats st;
    cache_stats(c, &st);
    int own = 0, promised = 0;
    for (int i = 0; i < SEQS; i++) {
        if (!runs[i].live)
            continue;
        own += runs[i].n_own;
        promised += runs[i].n_worst - runs[i].s.n_pages;
    }
    assert_int_equal(st.used_bytes, (size_t)(own + naive_count(m, false)) * PAGE);
    assert_int_equal(st.cold_bytes, (size_t)naive_count(m, true) * PAGE);
    assert_int_equal(st.promised_bytes, (size_t)promised * PAGE);
    assert_true(st.used_bytes + st.promised_bytes <= st.budget_bytes);
    assert_true(st.used_bytes + st.cold_bytes <= st.budget_bytes);
    /* No page has two owners. */
    bool seen[BUDGET] = {false};
    for (int i = 0; i < SEQS; i++) {
        for (int k = runs[i].s.n_shared; runs[i].live && k < runs[i].s.n_pages; k++) {
            assert_false(seen[runs[i].pages[k]]);
            seen[runs[i].pages[k]] = true;
        }
    }
    for (int i = 0; i < BUDGET; i++) {
        if (m->prefixes[i].n_pages > 0) {
            assert_false(seen[m->prefixes[i].page]);
            seen[m->prefixes[i].page] = true;
        }
    }
}

static void step_reserve(struct cache *c, struct cache_pool *p, struct naive *m, struct run *runs,
                         struct run *r)
{
    r->n_worst = rand() % 8 + 1;
    for (int i = 0; i < LEN_MAX; i++)
        r->ids[i] = i % T == 0 ? rand() % ALPHABET : 5;
    r->s = (struct cache_seq){.pages = r->pages, .share = rand() % 8 > 0};
    int want = 0, hot_new = 0, n_match = r->n_worst * T - 1;
    while (r->s.share && (want + 1) * T <= n_match && naive_find(m, r->ids, want + 1)) {
        hot_new += naive_find(m, r->ids, want + 1)->refs == 0;
        want++;
    }
    struct cache_stats st;
    cache_stats(c, &st);
    size_t held = st.used_bytes + st.promised_bytes + (size_t)hot_new * PAGE;
    bool fits = held + (size_t)(r->n_worst - want) * PAGE <= BUDGET * PAGE;
    assert_int_equal(cache_reserve(p, &r->s, r->ids, n_match, r->n_worst), fits);
    /* Looked at either way: most recent, deepest first. */
    for (int k = want; k > 0; k--) {
        struct prefix *f = naive_find(m, r->ids, k);
        f->refs += fits;
        if (f->refs == 0)
            f->used_at = m->clock++;
    }
    if (!fits)
        return;
    assert_int_equal(r->s.n_shared, want);
    for (int k = 0; k < want; k++)
        assert_int_equal(r->pages[k], naive_find(m, r->ids, k + 1)->page);
    r->live = true;
    r->n_own = 0;
    (void)runs;
}

static void step_grow(struct naive *m, struct run *runs, struct run *r)
{
    if (r->s.n_pages == r->s.n_shared && r->s.n_pages < r->n_worst && rand() % 2) {
        struct prefix *f = r->s.share ? naive_find(m, r->ids, r->s.n_shared + 1) : NULL;
        assert_int_equal(cache_adopt(&r->s, r->ids + (size_t)r->s.n_shared * T), f != NULL);
        if (f)
            f->refs++;
        return;
    }
    if (r->s.n_pages < r->n_worst) {
        int physical = naive_count(m, false) + naive_count(m, true);
        for (int i = 0; i < SEQS; i++)
            physical += runs[i].live ? runs[i].n_own : 0;
        if (physical == BUDGET)
            naive_evict(m);
        cache_take(&r->s, r->s.n_pages + 1);
        r->n_own++;
    }
    if (r->s.share && rand() % 2 && r->s.n_shared < r->s.n_pages) {
        int k = r->s.n_shared;
        int32_t own = r->pages[k];
        struct prefix *f = naive_find(m, r->ids, k + 1);
        cache_commit(&r->s, r->ids + (size_t)k * T);
        r->n_own--;
        if (f) {
            assert_int_equal(r->pages[k], f->page);
            f->refs++;
            return;
        }
        assert_int_equal(r->pages[k], own);
        for (int i = 0; i < BUDGET && !f; i++)
            f = m->prefixes[i].n_pages == 0 ? &m->prefixes[i] : NULL;
        assert_non_null(f);
        *f = (struct prefix){.n_pages = k + 1, .refs = 1, .page = own};
        memcpy(f->ids, r->ids, (size_t)(k + 1) * T * sizeof *f->ids);
    }
}

static void step_release(struct naive *m, struct run *r)
{
    for (int k = r->s.n_shared; k > 0; k--) {
        struct prefix *f = naive_find(m, r->ids, k);
        if (--f->refs == 0)
            f->used_at = m->clock++;
    }
    cache_release(&r->s);
    r->live = false;
}

static void cache_agrees_with_a_naive_model_on_random_work(void **state)
{
    (void)state;
    srand(11);
    for (int round = 0; round < 20; round++) {
        struct cache *c;
        struct cache_pool *p;
        static struct naive m;
        static struct run runs[SEQS];
        memset(&m, 0, sizeof m);
        memset(runs, 0, sizeof runs);
        assert_int_equal(cache_open(&c, BUDGET * PAGE, NULL), 0);
        assert_int_equal(cache_pool_add(c, &p, PAGE, NULL), 0);
        for (int i = 0; i < 3000; i++) {
            struct run *r = &runs[rand() % SEQS];
            if (!r->live)
                step_reserve(c, p, &m, runs, r);
            else if (rand() % 8 == 0)
                step_release(&m, r);
            else
                step_grow(&m, runs, r);
            check_counts(c, &m, runs);
        }
        for (int i = 0; i < SEQS; i++) {
            if (runs[i].live)
                step_release(&m, &runs[i]);
        }
        check_counts(c, &m, runs);
        cache_close(c);
    }
}

/* --- plain bytes --- */

static int evicted[8], n_evicted;

struct thing {
    struct cache_item item; /* first */
    int id;
};

static void on_evict(struct cache_item *it)
{
    evicted[n_evicted++] = ((struct thing *)it)->id;
}

static void cache_holds_bytes_beside_pages_within_one_budget(void **state)
{
    (void)state;
    struct cache *c;
    struct cache_pool *p;
    int32_t table[10], ids[T];
    assert_int_equal(cache_open(&c, 10 * PAGE, NULL), 0);
    assert_int_equal(cache_pool_add(c, &p, PAGE, NULL), 0);
    struct cache_seq s = {.pages = table, .share = true};
    assert_true(cache_reserve(p, &s, NULL, 0, 4));
    assert_false(cache_hold(c, 6 * PAGE + 1));
    assert_true(cache_hold(c, 6 * PAGE));
    assert_false(cache_hold(c, 1));
    cache_take(&s, 4);
    uint64_t version = cache_version(c);
    cache_unhold(c, 6 * PAGE);
    assert_true(cache_version(c) > version);
    fill(ids, T, 1);
    cache_commit(&s, ids);
    cache_release(&s); /* one page of the tree is cold */
    struct cache_stats st;
    cache_stats(c, &st);
    assert_int_equal(st.cold_bytes, PAGE);
    assert_true(cache_hold(c, 10 * PAGE)); /* it went */
    cache_stats(c, &st);
    assert_int_equal(st.cold_bytes, 0);
    assert_int_equal(st.held_bytes, 10 * PAGE);
    assert_int_equal(st.resident_bytes, 0);
    cache_unhold(c, 10 * PAGE);
    cache_close(c);
}

static void cache_keeps_things_while_there_is_room(void **state)
{
    (void)state;
    struct cache *c;
    struct thing things[4];
    assert_int_equal(cache_open(&c, 100, NULL), 0);
    n_evicted = 0;
    for (int i = 0; i < 4; i++) {
        things[i] = (struct thing){.item = {.bytes = 30, .evict = on_evict}, .id = i};
        cache_keep(c, &things[i].item);
    }
    assert_int_equal(n_evicted, 1); /* 120 bytes: the first one had to go */
    assert_int_equal(evicted[0], 0);
    cache_unkeep(c, &things[1].item); /* in use again, then not: now 2 is the longest unused */
    assert_true(cache_hold(c, 30));
    cache_unhold(c, 30);
    cache_keep(c, &things[1].item);
    assert_int_equal(n_evicted, 1);
    assert_true(cache_hold(c, 60));
    assert_int_equal(n_evicted, 3);
    assert_int_equal(evicted[1], 2);
    assert_int_equal(evicted[2], 3);
    struct cache_stats st;
    cache_stats(c, &st);
    assert_int_equal(st.kept_bytes, 30);
    cache_trim(c);
    assert_int_equal(n_evicted, 4);
    cache_unhold(c, 60);
    struct thing big = {.item = {.bytes = 101, .evict = on_evict}, .id = 7};
    cache_keep(c, &big.item); /* has no place at all */
    assert_int_equal(evicted[4], 7);
    cache_close(c);
}

static void cache_refuses_a_budget_below_one_page(void **state)
{
    (void)state;
    struct cache *c;
    struct cache_pool *p;
    struct err e;
    assert_int_equal(cache_open(&c, PAGE - 1, &e), 0);
    assert_int_equal(cache_pool_add(c, &p, PAGE, &e), ERR_TOOBIG);
    cache_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(radix_evicts_leaves_in_order_of_last_use),
        cmocka_unit_test(cache_promises_no_more_than_there_is),
        cmocka_unit_test(cache_shares_full_pages_of_a_common_prefix),
        cmocka_unit_test(cache_keeps_resident_memory_of_two_pools_within_the_budget),
        cmocka_unit_test(cache_agrees_with_a_naive_model_on_random_work),
        cmocka_unit_test(cache_holds_bytes_beside_pages_within_one_budget),
        cmocka_unit_test(cache_keeps_things_while_there_is_room),
        cmocka_unit_test(cache_refuses_a_budget_below_one_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
