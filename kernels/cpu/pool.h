/* Threads that run one function together and meet again: the fork-join under every CPU op.
 * Thread: the one that opened the pool; fn runs on all of them. */
#ifndef KERNELS_CPU_POOL_H
#define KERNELS_CPU_POOL_H
#include "base/err.h"

struct pool;

/* n_threads counts the caller; 0 takes pool_cpus().  Starts n_threads - 1 workers that wait. */
int pool_open(struct pool **out, int n_threads, struct err *e);
void pool_close(struct pool *p); /* NULL is fine */
int pool_n(const struct pool *p);

/* Calls fn(arg, worker, n_workers) once for each worker number below n_workers and returns when all
 * calls have.  Number 0 runs on the caller, the others side by side on the threads of the pool, or
 * on the caller where a thread comes too late.  What the caller wrote before is seen by all and the
 * other way round.  fn must not call pool_run. */
void pool_run(struct pool *p, void (*fn)(void *arg, int worker, int n_workers), void *arg);

/* CPUs that this process may use: its affinity mask, bounded by the cgroup's CPU quota. */
int pool_cpus(void);
#endif
