/* Devices that compute one model together, each a part of it (tensor parallelism).
 * Thread: the first member's.
 *
 * The first member is a backend like any other; be->team says that it has others beside it.  A model that knows
 * nothing of teams computes on the first member alone.  One that does queues ops on each member, and where
 * a sum over all parts is needed it has the members exchange them: members do not wait for each other
 * otherwise.  An exchange goes on beside what is queued after it, until team_wait.  Which member adds what in
 * which order is the model's business, so that sums do not depend on how the exchange works. */
#ifndef KERNELS_TEAM_H
#define KERNELS_TEAM_H
#include "kernels/backend.h"

enum { TEAM_MAX = 8, TEAM_LANES = 2, TEAM_MEMORIES = 64 };

/* Memory of the same size on every member. */
struct team_memory {
    size_t bytes;
    char *at[TEAM_MAX];
};

struct backend_team {
    int n;
    struct backend *members[TEAM_MAX]; /* [0] has this team */
    struct team_memory memories[TEAM_MEMORIES];
    int n_memories;
    /* A device's; use the functions below. */
    void (*gather)(struct backend_team *t, int lane, void *const *all, size_t bytes);
    void (*spread)(struct backend_team *t, int lane, void *const *x, size_t bytes);
    void (*wait)(struct backend_team *t, int lane);
};

/* Member m has written `bytes` at all[m] + m * bytes; they reach the same place in all the others.  The exchange
 * of a lane ends before the next one of that lane begins. */
void team_gather(struct backend_team *t, int lane, void *const *all, size_t bytes);
/* What the first member has at x[0] reaches x[m] of the others. */
void team_spread(struct backend_team *t, int lane, void *const *x, size_t bytes);
/* What is queued from now on comes after the lane's exchange, on every member. */
void team_wait(struct backend_team *t, int lane);

/* struct backend's graphs, of all members. */
void team_graphs(struct backend *be, bool on);
/* And its activations; false, and nothing done, where it has f32 only. */
bool team_activations(struct backend *be, enum dtype type);
/* And its library for products (struct backend's blas), of every member; the reason, and of none, where one has none. */
int team_blas(struct backend *be, int rows, struct err *e);

/* Memory on all members of be's team (be alone: just alloc), by the first one's address. */
void *team_alloc(struct backend *be, size_t bytes, struct err *e);
void team_free(struct backend *be, void *p);
/* The same place in member m's memory; NULL when p is not of team_alloc. */
void *team_twin(const struct backend_team *t, int m, const void *p);
#endif
