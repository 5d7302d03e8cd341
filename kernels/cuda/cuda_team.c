/* A team of CUDA devices: one more stream a device for exchanges, ordered against the compute stream by events;
 * and what becomes of the others when one fails.
 *
 * An exchange in which a device does not take part never ends on the others.  So a sync asks all of them by
 * turns, and when one has failed it aborts NCCL's communicators: then nothing waits any more, and all are dead. */
#include "kernels/cuda/cuda_team.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_nccl.h"

struct cuda_team {
    struct backend_team team; /* first */
    struct cuda_nccl nccl;
    cuda_nccl_comm comms[TEAM_MAX]; /* NULL after an abort */
    cudaStream_t streams[TEAM_MAX]; /* of exchanges */
    /* What an exchange waits for in the compute stream, and what that waits for in turn. */
    cudaEvent_t queued[TEAM_MAX][TEAM_LANES], done[TEAM_MAX][TEAM_LANES];
    char name[TEAM_MAX * sizeof((struct cuda_backend *)0)->name];
    /* The first member's own, which this replaces; the others keep theirs. */
    int (*sync)(struct backend *be, struct err *e);
    void (*choose)(struct backend *be, const struct op_choose *p);
    size_t (*free_bytes)(struct backend *be);
    void (*close)(struct backend *be);
};

static struct cuda_team *team_of(struct backend_team *t)
{
    return (struct cuda_team *)t;
}

static struct cuda_backend *member(const struct cuda_team *ct, int m)
{
    return cuda_of(ct->team.members[m]);
}

/* ---- when one fails ---- */

/* The first that is dead, or n. */
static int find_dead(const struct cuda_team *ct)
{
    int m = 0;
    while (m < ct->team.n && !member(ct, m)->dead)
        m++;
    return m;
}

static void fail_all(struct cuda_team *ct)
{
    const int dead = find_dead(ct);
    if (dead == ct->team.n)
        return;
    for (int m = 0; m < ct->team.n; m++) {
        struct cuda_backend *cb = member(ct, m);
        if (ct->comms[m])
            ct->nccl.CommAbort(ct->comms[m]);
        ct->comms[m] = NULL;
        if (cb->dead)
            continue;
        cb->dead = true;
        snprintf(cb->why, sizeof cb->why, "its team has lost %s: %.100s", member(ct, dead)->name,
                 member(ct, dead)->why);
    }
}

static bool check(struct cuda_team *ct, int m, cudaError_t rc, const char *what)
{
    if (cuda_check(member(ct, m), rc, what))
        return true;
    fail_all(ct);
    return false;
}

static bool check_nccl(struct cuda_team *ct, int rc)
{
    struct cuda_backend *first = member(ct, 0);
    if (rc == CUDA_NCCL_SUCCESS)
        return true;
    if (!first->dead)
        snprintf(first->why, sizeof first->why, "NCCL: %s", ct->nccl.GetErrorString(rc));
    first->dead = true;
    fail_all(ct);
    return false;
}

/* ---- exchanges ---- */

/* What each device has queued comes first. */
static bool begin(struct cuda_team *ct, int lane)
{
    for (int m = 0; m < ct->team.n; m++) {
        struct cuda_backend *cb = member(ct, m);
        cudaStream_t compute = cuda_stream(cb);
        cuda_flush(cb);
        if (!check(ct, m, cb->dead ? cudaSuccess : cudaEventRecord(ct->queued[m][lane], compute),
                   "recording an event") ||
            !check(ct, m, cudaStreamWaitEvent(ct->streams[m], ct->queued[m][lane], 0),
                   "waiting for an event"))
            return false;
    }
    return check_nccl(ct, ct->nccl.GroupStart());
}

static void end(struct cuda_team *ct, int lane, int rc)
{
    const int ended = ct->nccl.GroupEnd();
    if (!check_nccl(ct, rc ? rc : ended))
        return;
    for (int m = 0; m < ct->team.n; m++) {
        cuda_enter(member(ct, m));
        if (!check(ct, m, cudaEventRecord(ct->done[m][lane], ct->streams[m]), "recording an event"))
            return;
    }
}

static void gather(struct backend_team *t, int lane, void *const *all, size_t bytes)
{
    struct cuda_team *ct = team_of(t);
    int rc = CUDA_NCCL_SUCCESS;
    if (!begin(ct, lane))
        return;
    for (int m = 0; m < t->n && rc == CUDA_NCCL_SUCCESS; m++)
        rc = ct->nccl.AllGather((char *)all[m] + (size_t)m * bytes, all[m], bytes, CUDA_NCCL_CHAR,
                                ct->comms[m], ct->streams[m]);
    end(ct, lane, rc);
}

static void spread(struct backend_team *t, int lane, void *const *x, size_t bytes)
{
    struct cuda_team *ct = team_of(t);
    int rc = CUDA_NCCL_SUCCESS;
    if (!begin(ct, lane))
        return;
    for (int m = 0; m < t->n && rc == CUDA_NCCL_SUCCESS; m++)
        rc = ct->nccl.Broadcast(x[m], x[m], bytes, CUDA_NCCL_CHAR, 0, ct->comms[m], ct->streams[m]);
    end(ct, lane, rc);
}

static void wait_lane(struct backend_team *t, int lane)
{
    struct cuda_team *ct = team_of(t);
    for (int m = 0; m < t->n; m++) {
        struct cuda_backend *cb = member(ct, m);
        cudaStream_t compute = cuda_stream(cb);
        cuda_flush(cb);
        if (cb->dead || !check(ct, m, cudaStreamWaitEvent(compute, ct->done[m][lane], 0),
                               "waiting for an exchange"))
            return;
    }
}

/* ---- in place of the first member's own ---- */

/* Of one member: cudaSuccess, or cudaErrorNotReady, or what failed. */
typedef cudaError_t ready_fn(const struct cuda_backend *cb, int slot);

static cudaError_t is_idle(const struct cuda_backend *cb, int slot)
{
    (void)slot;
    return cudaStreamQuery(cb->compute);
}

static cudaError_t has_chosen(const struct cuda_backend *cb, int slot)
{
    return cudaEventQuery(cb->chosen[slot]);
}

/* Until all members are, or a device has failed. */
static void wait_until(struct cuda_team *ct, ready_fn *ready, int slot)
{
    for (int done = 0; done < ct->team.n && find_dead(ct) == ct->team.n;) {
        done = 0;
        for (int m = 0; m < ct->team.n; m++) {
            cuda_enter(member(ct, m));
            cudaError_t rc = ready(member(ct, m), slot);
            done += rc == cudaSuccess;
            if (rc != cudaErrorNotReady && !check(ct, m, rc, "a kernel failed"))
                return;
        }
        sched_yield();
    }
    fail_all(ct); /* one that was dead before */
}

/* Until nothing is queued any more, or a device has failed. */
static void wait_all(struct cuda_team *ct)
{
    for (int m = 0; m < ct->team.n; m++)
        cuda_flush(member(ct, m));
    wait_until(ct, is_idle, 0);
}

static void member_idle(struct cuda_backend *cb)
{
    wait_all(cb->team);
}

static int sync_team(struct backend *be, struct err *e)
{
    struct cuda_team *ct = team_of(be->team);
    struct err why = {0};
    wait_all(ct);
    for (int m = 0; m < ct->team.n; m++) {
        struct backend *one = &member(ct, m)->be;
        struct err here = {0};
        int rc = ct->sync(one, &here);
        if (rc && !why.code)
            why = here;
    }
    if (!why.code)
        return 0;
    fail_all(ct);
    if (e)
        *e = why;
    return why.code;
}

/* The first one's choice.  The others' part of the step is done at an event of theirs, as is known before the arrays
 * that their ops point to are used again. */
static void choose_team(struct backend *be, const struct op_choose *p)
{
    struct cuda_team *ct = team_of(be->team);
    ct->choose(be, p);
    for (int m = 1; m < ct->team.n; m++) {
        struct cuda_backend *cb = member(ct, m);
        cuda_flush(cb);
        if (!cb->dead)
            cuda_check(cb, cudaEventRecord(cb->chosen[p->slot], cb->compute), "recording an event");
        cuda_param_turn(cb);
    }
}

static int chosen_team(struct backend *be, int slot, struct err *e)
{
    struct cuda_team *ct = team_of(be->team);
    cuda_check(member(ct, 0), cudaGetLastError(), "a kernel was not launched");
    wait_until(ct, has_chosen, slot);
    const struct cuda_backend *first = member(ct, 0); /* all are dead when one is */
    return first->dead ? err_set(e, ERR_DEVICE, "%s: %s", first->name, first->why) : 0;
}

static size_t least_free_bytes(struct backend *be)
{
    struct cuda_team *ct = team_of(be->team);
    size_t least = ct->free_bytes(be);
    for (int m = 1; m < ct->team.n; m++) {
        size_t one = cuda_mem_free_bytes(ct->team.members[m]);
        least = one < least ? one : least;
    }
    return least;
}

static void close_lanes(struct cuda_team *ct, int m)
{
    cuda_enter(member(ct, m));
    if (ct->comms[m])
        ct->nccl.CommDestroy(ct->comms[m]);
    for (int lane = 0; lane < TEAM_LANES; lane++) {
        if (ct->queued[m][lane])
            cudaEventDestroy(ct->queued[m][lane]);
        if (ct->done[m][lane])
            cudaEventDestroy(ct->done[m][lane]);
    }
    if (ct->streams[m])
        cudaStreamDestroy(ct->streams[m]);
}

static void forget(struct cuda_team *ct)
{
    for (int m = 0; m < ct->team.n; m++)
        close_lanes(ct, m);
    cuda_nccl_unload(&ct->nccl);
    free(ct);
}

static void close_team(struct backend *be)
{
    struct cuda_team *ct = team_of(be->team);
    struct backend *others[TEAM_MAX];
    const int n = ct->team.n;
    void (*close)(struct backend *) = ct->close;
    for (int m = 0; m < n; m++)
        others[m] = ct->team.members[m];
    for (int m = 0; m < n; m++)
        member(ct, m)->idle = NULL;
    forget(ct);
    be->team = NULL;
    for (int m = 1; m < n; m++)
        others[m]->close(others[m]);
    close(be);
}

/* ---- open ---- */

static cudaError_t open_lanes(struct cuda_team *ct, int m)
{
    cuda_enter(member(ct, m));
    cudaError_t rc = cudaStreamCreateWithFlags(&ct->streams[m], cudaStreamNonBlocking);
    for (int lane = 0; lane < TEAM_LANES && rc == cudaSuccess; lane++) {
        rc = cudaEventCreateWithFlags(&ct->queued[m][lane], cudaEventDisableTiming);
        if (rc == cudaSuccess)
            rc = cudaEventCreateWithFlags(&ct->done[m][lane], cudaEventDisableTiming);
    }
    return rc;
}

static int open_exchange(struct cuda_team *ct, struct err *e)
{
    int devices[TEAM_MAX], rc = cuda_nccl_load(&ct->nccl, e);
    for (int m = 0; m < ct->team.n && rc == 0; m++) {
        cudaError_t opened = open_lanes(ct, m);
        devices[m] = member(ct, m)->device;
        if (opened != cudaSuccess)
            rc = err_set(e, ERR_DEVICE, "%s: %s", member(ct, m)->name, cudaGetErrorString(opened));
    }
    if (rc)
        return rc;
    rc = ct->nccl.CommInitAll(ct->comms, ct->team.n, devices);
    if (rc == CUDA_NCCL_SUCCESS)
        return 0;
    for (int m = 0; m < ct->team.n; m++)
        ct->comms[m] = NULL;
    return err_set(e, ERR_DEVICE, "%s: NCCL: %s", ct->name, ct->nccl.GetErrorString(rc));
}

int cuda_team_open(struct backend *const *members, int n, struct err *e)
{
    struct cuda_team *ct = xcalloc(1, sizeof *ct);
    struct backend *first = members[0];
    ct->team = (struct backend_team){.n = n, .gather = gather, .spread = spread, .wait = wait_lane};
    size_t at = 0;
    for (int m = 0; m < n; m++) {
        ct->team.members[m] = members[m];
        at += (size_t)snprintf(ct->name + at, sizeof ct->name - at, "%s%s", m ? "+" : "",
                               members[m]->name);
    }
    int rc = open_exchange(ct, e);
    if (rc) {
        forget(ct);
        return rc;
    }
    ct->sync = first->sync;
    ct->free_bytes = first->free_bytes;
    ct->close = first->close;
    first->sync = sync_team;
    first->free_bytes = least_free_bytes;
    first->close = close_team;
    ct->choose = first->choose;
    first->choose = choose_team;
    first->chosen = chosen_team;
    for (int m = 0; m < n; m++) {
        struct cuda_backend *cb = member(ct, m);
        cb->team = ct;
        cb->idle = member_idle;
        cuda_queue_pieces(cb->queue); /* an exchange ends one */
    }
    first->name = ct->name;
    first->team = &ct->team;
    return 0;
}
