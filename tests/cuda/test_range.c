/* The cache's pages on a device: memory comes when pages are taken, goes when another model needs it or the engine
 * idles, stays within the budget, and where there is none left the cache says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "engine/cache.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/cuemu/cuemu.h"

enum { PAGE = 48 << 10, N_PAGES = 80, BUDGET = N_PAGES * PAGE, SLACK = 512 << 10 };

static struct backend *be;
static size_t before;

static size_t in_use(void)
{
    size_t left = 0, total = 0;
    cudaMemGetInfo(&left, &total);
    return total - left;
}

static int setup(void **state)
{
    (void)state;
    struct err e = {0};
    cuemu_reset();
    if (cuda_backend_open(&be, 0, &e))
        return -1;
    be->graphs = true;
    before = in_use();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    be->close(be);
    cuemu_fail(CUEMU_MALLOC, 0);
    cuemu_reset();
    return 0;
}

/* A piece can be written and read, begins as zeros, and is gone when it is dropped. */
static void pieces(void **state)
{
    (void)state;
    struct err e = {0};
    size_t piece = 0;
    char *base = be->range_open(be, (size_t)64 << 20, &piece, &e);
    static char host[4096], zero[4096];
    assert_non_null(base);
    assert_true(piece > 0);
    assert_int_equal(in_use(), before);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(be->range_fill(be, base, 3, &e), 0);
        assert_int_equal(in_use(), before + piece);
        be->download(be, host, base + 3 * piece + 4096, sizeof host);
        assert_int_equal(be->sync(be, &e), 0);
        assert_memory_equal(host, zero, sizeof host);
        memset(host, 7, sizeof host);
        be->upload(be, base + 3 * piece + 4096, host, sizeof host);
        be->range_drop(be, base, 3);
        assert_int_equal(in_use(), before);
    }
    assert_int_equal(be->range_fill(be, base, 0, &e), 0);
    be->range_close(be, base);
    assert_int_equal(in_use(), before);
    assert_int_equal(be->sync(be, &e), 0);
}

static void take(struct cache_pool *p, struct cache_seq *s, int32_t *pages, int n)
{
    *s = (struct cache_seq){.pages = pages};
    assert_true(cache_reserve(p, s, NULL, 0, n));
    cache_take(s, n);
}

/* Two models share one budget: what the one no longer uses is the other's. */
static void pages_come_and_go(void **state)
{
    (void)state;
    struct err e = {0};
    struct cache *c;
    struct cache_pool *a, *b;
    struct cache_seq s, t;
    int32_t pages[N_PAGES], other[N_PAGES];
    assert_int_equal(cache_open(&c, BUDGET, &e), 0);
    cache_on_device(c, be, 2);
    assert_int_equal(cache_pool_add(c, &a, PAGE, &e), 0);
    assert_int_equal(cache_pool_add(c, &b, PAGE / 2, &e), 0);
    assert_int_equal(cache_pool_pages(a), N_PAGES);
    assert_int_equal(cache_pool_pages(b), 2 * N_PAGES);
    assert_int_equal(in_use(), before);
    take(a, &s, pages, 10);
    assert_in_range(in_use() - before, 10 * PAGE, 10 * PAGE + SLACK);
    take(a, &t, other, N_PAGES - 10);
    assert_in_range(in_use() - before, BUDGET, BUDGET + SLACK);
    cache_release(&s);
    cache_release(&t);
    take(b, &t, other, N_PAGES);
    assert_in_range(in_use() - before, BUDGET / 2, BUDGET + SLACK);
    cache_release(&t);
    cache_trim(c);
    assert_int_equal(in_use(), before);
    assert_int_equal(cache_check(c, &e), 0);
    cache_close(c);
    assert_int_equal(be->sync(be, &e), 0);
}

/* Somebody else has the device's memory. */
static void no_memory(void **state)
{
    (void)state;
    struct err e = {0};
    struct cache *c;
    struct cache_pool *a;
    struct cache_seq s;
    int32_t pages[N_PAGES];
    assert_int_equal(cache_open(&c, BUDGET, &e), 0);
    cache_on_device(c, be, 1);
    assert_int_equal(cache_pool_add(c, &a, PAGE, &e), 0);
    cuemu_fail(CUEMU_MALLOC, 1); /* once: the second try has it */
    take(a, &s, pages, 4);
    assert_int_equal(cache_check(c, &e), 0);
    size_t left = 0, total = 0;
    void *all = NULL;
    cudaMemGetInfo(&left, &total);
    assert_int_equal(cudaMalloc(&all, left - ((size_t)1 << 20)), cudaSuccess);
    cache_release(&s);
    take(a, &s, pages, N_PAGES);
    assert_int_equal(cache_check(c, &e), ERR_DEVICE);
    assert_non_null(strstr(e.msg, "cuda:0: no memory"));
    cudaFree(all);
    cache_release(&s);
    cache_close(c);
    assert_int_equal(in_use(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pieces, setup, teardown),
        cmocka_unit_test_setup_teardown(pages_come_and_go, setup, teardown),
        cmocka_unit_test_setup_teardown(no_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
