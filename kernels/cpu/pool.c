/* A job has one share for each thread.  A generation counter starts it, a countdown of unfinished
 * shares ends it.  A thread claims its own share; the caller, done with its own, claims what is left,
 * so a worker that the system runs late (on a busy machine that is milliseconds) holds up nobody: it
 * finds its share taken and waits for the next job.
 *
 * Whoever waits spins for a short while (a decode step has some hundred jobs a few microseconds
 * apart) and then sleeps in a futex, so an idle pool takes no CPU.  Where threads outnumber the CPUs
 * nobody spins: a spinner would hold the CPU that the awaited thread needs.
 *
 * Sleeping is safe because each side first says so and then looks again, while the other side first
 * changes the word and then looks for sleepers (all sequentially consistent); the futex itself
 * refuses to sleep when the word has changed. */
#include "kernels/cpu/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define POOL_SPIN_US     50
#define POOL_MAX_THREADS 1024

struct pool_worker {
    /* The last job whose share of this number was claimed: each job claims it once, from the job
     * before, so a claim for a job that is over fails. */
    _Alignas(64) _Atomic uint32_t claimed;
    pthread_t thread;
    struct pool *pool;
    int index;
};

struct pool {
    /* Written by the caller only, read by all: one cache line. */
    _Alignas(64) _Atomic uint32_t generation; /* one more for each job */
    _Atomic bool stop;
    void (*fn)(void *arg, int worker, int n_workers); /* read after a claim only */
    void *arg;
    int n, spin_us;
    struct pool_worker *workers;            /* [n]; the caller's is not used */
    _Alignas(64) _Atomic uint32_t running;  /* shares not done yet */
    _Alignas(64) _Atomic uint32_t sleepers; /* workers that may be in the futex */
    _Atomic uint32_t caller_sleeps;
};

static void pool_sleep(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void pool_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void pool_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* Spins until *word is (equal) or is not (!equal) value; false when the time is up. */
static bool pool_spin(const struct pool *p, _Atomic uint32_t *word, uint32_t value, bool equal)
{
    if ((atomic_load_explicit(word, memory_order_acquire) == value) == equal)
        return true;
    if (p->spin_us == 0)
        return false;
    int64_t end = clock_us() + p->spin_us;
    do {
        for (int i = 0; i < 32; i++) {
            if ((atomic_load_explicit(word, memory_order_acquire) == value) == equal)
                return true;
            pool_pause();
        }
    } while (clock_us() < end);
    return false;
}

static bool pool_claim(struct pool_worker *w, uint32_t job)
{
    uint32_t before = job - 1;
    return atomic_compare_exchange_strong(&w->claimed, &before, job);
}

static void *pool_work(void *arg)
{
    struct pool_worker *w = arg;
    struct pool *p = w->pool;
    uint32_t seen = 0;
    for (;;) {
        while (!pool_spin(p, &p->generation, seen, false)) {
            atomic_fetch_add(&p->sleepers, 1);
            pool_sleep(&p->generation, seen);
            atomic_fetch_sub(&p->sleepers, 1);
        }
        seen = atomic_load(&p->generation);
        if (atomic_load(&p->stop))
            return NULL;
        if (!pool_claim(w, seen))
            continue;
        p->fn(p->arg, w->index, p->n);
        if (atomic_fetch_sub(&p->running, 1) == 1 && atomic_load(&p->caller_sleeps))
            pool_wake(&p->running);
    }
}

/* Begins the next job and returns its number. */
static uint32_t pool_start(struct pool *p)
{
    uint32_t job = atomic_fetch_add(&p->generation, 1) + 1;
    if (atomic_load(&p->sleepers) > 0)
        pool_wake(&p->generation);
    return job;
}

void pool_run(struct pool *p, void (*fn)(void *arg, int worker, int n_workers), void *arg)
{
    if (p->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    atomic_store_explicit(&p->running, (uint32_t)(p->n - 1), memory_order_relaxed);
    uint32_t job = pool_start(p);
    fn(arg, 0, p->n);
    for (int i = 1; i < p->n; i++) {
        if (pool_claim(&p->workers[i], job)) {
            fn(arg, i, p->n);
            atomic_fetch_sub(&p->running, 1);
        }
    }
    if (pool_spin(p, &p->running, 0, true))
        return;
    atomic_store(&p->caller_sleeps, 1);
    uint32_t left;
    while ((left = atomic_load(&p->running)) != 0)
        pool_sleep(&p->running, left);
    atomic_store(&p->caller_sleeps, 0);
}

int pool_n(const struct pool *p)
{
    return p->n;
}

/* The first max integers of a file; how many there were. */
static int pool_read_ints(const char *folder, const char *name, long long *v, int max)
{
    char path[4352], text[64] = "";
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    char *at = fgets(text, sizeof(text), f), *end = NULL;
    fclose(f);
    int n = 0;
    for (; at && n < max; n++, at = end) {
        v[n] = strtoll(at, &end, 10);
        if (end == at)
            break;
    }
    return n;
}

/* CPUs that a cgroup folder grants, rounded down (a fraction would be throttled); 0 for no limit. */
static int pool_quota_v2(const char *folder)
{
    long long v[2]; /* "200000 100000", or "max 100000" */
    if (pool_read_ints(folder, "cpu.max", v, 2) != 2 || v[0] <= 0 || v[1] <= 0)
        return 0;
    return v[0] < v[1] ? 1 : (int)(v[0] / v[1]);
}

static int pool_quota_v1(const char *folder)
{
    long long quota, period; /* quota -1: none */
    if (pool_read_ints(folder, "cpu.cfs_quota_us", &quota, 1) != 1 || quota <= 0 ||
        pool_read_ints(folder, "cpu.cfs_period_us", &period, 1) != 1 || period <= 0)
        return 0;
    return quota < period ? 1 : (int)(quota / period);
}

/* The smallest quota of a group and the groups around it (0: none).  Inside a container the path may
 * be the host's; then only the root folder exists, and that is the container's own. */
static int pool_quota(const char *root, const char *group, int (*quota)(const char *folder))
{
    char path[4096];
    if (snprintf(path, sizeof(path), "%s%s", root, group) >= (int)sizeof(path))
        return 0;
    int best = 0;
    for (;;) {
        int n = quota(path);
        if (n > 0 && (best == 0 || n < best))
            best = n;
        char *slash = strrchr(path, '/');
        if (!slash || strlen(path) <= strlen(root))
            return best;
        *slash = '\0';
    }
}

/* "cpu,cpuacct": is the cpu controller among them? */
static bool pool_names_cpu(const char *names)
{
    while (*names) {
        size_t n = strcspn(names, ",");
        if (n == 3 && memcmp(names, "cpu", 3) == 0)
            return true;
        names += n + (names[n] == ',');
    }
    return false;
}

static int pool_cgroup_cpus(void)
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f)
        return 0;
    char line[4096];
    int best = 0;
    while (fgets(line, sizeof(line), f)) { /* "0::/path" or "4:cpu,cpuacct:/path" */
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':');
        char *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        names++;
        int n = 0;
        if (names[0] == '\0')
            n = pool_quota("/sys/fs/cgroup", path, pool_quota_v2);
        else if (pool_names_cpu(names))
            n = pool_quota("/sys/fs/cgroup/cpu", path, pool_quota_v1);
        if (n > 0 && (best == 0 || n < best))
            best = n;
    }
    fclose(f);
    return best;
}

/* CPUs of the affinity mask. */
static int pool_affinity_cpus(void)
{
    for (int max = 1024; max <= 1 << 20; max *= 4) {
        cpu_set_t *set = CPU_ALLOC(max);
        if (!set)
            break;
        size_t bytes = CPU_ALLOC_SIZE(max);
        int rc = sched_getaffinity(0, bytes, set);
        int failed = errno, n = rc == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (rc == 0)
            return n > 0 ? n : 1;
        if (failed != EINVAL) /* EINVAL: the kernel's mask is longer */
            break;
    }
    return 1;
}

int pool_cpus(void)
{
    int n = pool_affinity_cpus(), quota = pool_cgroup_cpus();
    if (quota > 0 && quota < n)
        n = quota;
    return n < POOL_MAX_THREADS ? n : POOL_MAX_THREADS;
}

/* Starts the workers with all signals blocked: they belong to the server's own threads. */
static int pool_spawn(struct pool *p, int n_threads, struct err *e)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    for (p->n = 1; p->n < n_threads && rc == 0;) {
        struct pool_worker *w = &p->workers[p->n];
        w->pool = p;
        w->index = p->n;
        rc = pthread_create(&w->thread, NULL, pool_work, w);
        if (rc == 0) {
            char name[16];
            snprintf(name, sizeof(name), "pool/%d", p->n);
            pthread_setname_np(w->thread, name);
            p->n++;
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        errno = rc;
        return err_set(e, ERR_IO, "cannot start worker thread %d of %d: %m", p->n, n_threads - 1);
    }
    return 0;
}

int pool_open(struct pool **out, int n_threads, struct err *e)
{
    int cpus = pool_cpus();
    if (n_threads == 0)
        n_threads = cpus;
    if (n_threads < 1 || n_threads > POOL_MAX_THREADS)
        return err_set(e, ERR_INVALID, "the number of threads must be 1 to %d (or 0), got %d",
                       POOL_MAX_THREADS, n_threads);
    struct pool *p = aligned_alloc(64, sizeof(*p));
    if (!p)
        return err_set(e, ERR_NOMEM, "no memory for the thread pool");
    memset(p, 0, sizeof(*p));
    p->spin_us = n_threads <= cpus ? POOL_SPIN_US : 0;
    size_t bytes = (size_t)n_threads * sizeof(p->workers[0]);
    p->workers = aligned_alloc(64, bytes);
    if (!p->workers) {
        free(p);
        return err_set(e, ERR_NOMEM, "no memory for %d threads", n_threads);
    }
    memset(p->workers, 0, bytes);
    int rc = pool_spawn(p, n_threads, e);
    if (rc) {
        pool_close(p);
        return rc;
    }
    *out = p;
    return 0;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    if (p->n > 1) {
        atomic_store(&p->stop, true);
        pool_start(p);
        for (int i = 1; i < p->n; i++)
            pthread_join(p->workers[i].thread, NULL);
    }
    free(p->workers);
    free(p);
}
