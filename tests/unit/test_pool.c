/* The thread pool: every worker once a job, hot and cold, oversubscribed, and gone to sleep when
 * idle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernels/cpu/pool.h"

#define MAX_WORKERS 64

struct count_job {
    int seen[MAX_WORKERS]; /* plain: TSan checks that the pool orders the accesses */
    int n_workers;
    bool blocked;
    _Atomic bool ready;
};

static void count_work(void *arg, int worker, int n_workers)
{
    struct count_job *j = arg;
    j->seen[worker]++;
    if (worker == 0)
        j->n_workers = n_workers;
}

static struct pool *open_pool(int n)
{
    struct pool *p = NULL;
    struct err e = {0};
    assert_int_equal(pool_open(&p, n, &e), 0);
    assert_non_null(p);
    return p;
}

static void test_each_worker_runs_once(void **state)
{
    (void)state;
    for (int n = 1; n <= 9; n++) {
        struct pool *p = open_pool(n);
        struct count_job j = {.n_workers = 0};
        assert_int_equal(pool_n(p), n);
        for (int i = 1; i <= 200; i++) {
            pool_run(p, count_work, &j);
            assert_int_equal(j.n_workers, n);
            for (int w = 0; w < n; w++)
                assert_int_equal(j.seen[w], i);
        }
        pool_close(p);
    }
}

/* Jobs far enough apart that everybody sleeps in between. */
static void test_wakes_sleepers(void **state)
{
    (void)state;
    struct pool *p = open_pool(3);
    struct count_job j = {.n_workers = 0};
    for (int i = 0; i < 40; i++) {
        usleep(i % 4 * 100);
        pool_run(p, count_work, &j);
    }
    for (int w = 0; w < 3; w++)
        assert_int_equal(j.seen[w], 40);
    pool_close(p);
}

static void slow_work(void *arg, int worker, int n_workers)
{
    _Atomic int *sum = arg;
    (void)n_workers;
    usleep(worker == 0 ? 100 : 500); /* the caller has to sleep for the others */
    atomic_fetch_add(sum, worker);
}

static void test_caller_waits_for_slow_worker(void **state)
{
    (void)state;
    struct pool *p = open_pool(4);
    _Atomic int sum = 0;
    for (int i = 0; i < 50; i++)
        pool_run(p, slow_work, &sum);
    assert_int_equal(atomic_load(&sum), 50 * 6);
    pool_close(p);
}

/* Many more threads than CPUs: neither a deadlock nor a crawl. */
static void test_oversubscribed(void **state)
{
    (void)state;
    struct pool *p = open_pool(16);
    struct count_job j = {.n_workers = 0};
    int64_t t = clock_us();
    for (int i = 0; i < 500; i++)
        pool_run(p, count_work, &j);
    t = clock_us() - t;
    for (int w = 0; w < 16; w++)
        assert_int_equal(j.seen[w], 500);
    assert_true(t < 300 * 1000 * 1000);
    pool_close(p);
}

static int64_t cpu_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (int64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec +
           u.ru_stime.tv_usec;
}

static void test_idle_takes_no_cpu(void **state)
{
    (void)state;
    struct pool *p = open_pool(4);
    struct count_job j = {.n_workers = 0};
    pool_run(p, count_work, &j);
    bool quiet = false; /* sooner or later: a busy machine lets the workers spin late */
    for (int i = 0; i < 300 && !quiet; i++) {
        int64_t before = cpu_us();
        usleep(200 * 1000);
        quiet = cpu_us() - before < 20 * 1000;
    }
    assert_true(quiet);
    pool_close(p);
}

static void signal_work(void *arg, int worker, int n_workers)
{
    (void)n_workers;
    struct count_job *j = arg;
    sigset_t set;
    sigemptyset(&set);
    sigprocmask(SIG_BLOCK, NULL, &set);
    if (worker == 1) {
        j->blocked = sigismember(&set, SIGTERM) == 1 && sigismember(&set, SIGINT) == 1;
        atomic_store(&j->ready, true);
    } else {
        j->seen[0] = sigismember(&set, SIGTERM);
        while (!atomic_load(&j->ready)) /* so that number 1 runs on the other thread */
            usleep(100);
    }
}

static void test_workers_block_signals(void **state)
{
    (void)state;
    struct pool *p = open_pool(2);
    struct count_job j = {.n_workers = 0};
    pool_run(p, signal_work, &j);
    assert_true(j.blocked);
    assert_int_equal(j.seen[0], 0); /* the caller's mask is as it was */
    pool_close(p);
}

static void test_default_and_limits(void **state)
{
    (void)state;
    assert_true(pool_cpus() >= 1);
    struct pool *p = open_pool(0);
    assert_int_equal(pool_n(p), pool_cpus());
    pool_close(p);
    pool_close(NULL);
    struct err e = {0};
    assert_int_equal(pool_open(&p, -1, &e), ERR_INVALID);
    assert_int_equal(pool_open(&p, 1000000, &e), ERR_INVALID);
}

static void no_work(void *arg, int worker, int n_workers)
{
    (void)arg;
    (void)worker;
    (void)n_workers;
}

/* test_pool --bench: microseconds for an empty job. */
static int bench(void)
{
    int most = pool_cpus() > 2 ? pool_cpus() : 2;
    for (int n = 2; n <= most; n *= 2) {
        struct pool *p = open_pool(n);
        double best = 1e9;
        for (int k = 0; k < 20; k++) {
            int64_t t = clock_us();
            for (int i = 0; i < 2000; i++)
                pool_run(p, no_work, NULL);
            double us = (double)(clock_us() - t) / 2000.0;
            best = us < best ? us : best;
        }
        printf("%d threads: %.2f us a job\n", n, best);
        pool_close(p);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_worker_runs_once),
        cmocka_unit_test(test_wakes_sleepers),
        cmocka_unit_test(test_caller_waits_for_slow_worker),
        cmocka_unit_test(test_oversubscribed),
        cmocka_unit_test(test_idle_takes_no_cpu),
        cmocka_unit_test(test_workers_block_signals),
        cmocka_unit_test(test_default_and_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
