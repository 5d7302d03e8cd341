/* What is the same for all kinds of teams: their memory. */
#include "kernels/team.h"

void team_gather(struct backend_team *t, int lane, void *const *all, size_t bytes)
{
    t->gather(t, lane, all, bytes);
}

void team_spread(struct backend_team *t, int lane, void *const *x, size_t bytes)
{
    t->spread(t, lane, x, bytes);
}

void team_wait(struct backend_team *t, int lane)
{
    t->wait(t, lane);
}

void team_graphs(struct backend *be, bool on)
{
    be->graphs = on;
    for (int m = 1; be->team && m < be->team->n; m++)
        be->team->members[m]->graphs = on;
}

bool team_activations(struct backend *be, enum dtype type)
{
    if (!be->halves && type != DTYPE_F32)
        return false;
    be->activations = type;
    for (int m = 1; be->team && m < be->team->n; m++)
        be->team->members[m]->activations = type;
    return true;
}

int team_blas(struct backend *be, int rows, struct err *e)
{
    if (!be->blas)
        return err_set(e, ERR_UNSUPPORTED, "%s has no library for products", be->name);
    struct backend *const *members = be->team ? be->team->members : &be;
    const int n = be->team ? be->team->n : 1;
    int rc = 0;
    for (int m = 0; m < n && rc == 0; m++)
        rc = members[m]->blas(members[m], rows, e);
    for (int m = 0; m < n && rc != 0; m++)
        members[m]->blas(members[m], 0, NULL);
    return rc;
}

static void free_memory(struct backend_team *t, struct team_memory *m)
{
    for (int i = 0; i < t->n; i++)
        t->members[i]->free(t->members[i], m->at[i]);
}

void *team_alloc(struct backend *be, size_t bytes, struct err *e)
{
    struct backend_team *t = be->team;
    if (!t)
        return be->alloc(be, bytes, e);
    struct team_memory m = {.bytes = bytes};
    bool ok = t->n_memories < TEAM_MEMORIES;
    if (!ok)
        err_set(e, ERR_TOOBIG, "%s: more than %d shared memories", be->name, TEAM_MEMORIES);
    for (int i = 0; i < t->n && ok; i++)
        ok = (m.at[i] = t->members[i]->alloc(t->members[i], bytes, e)) != NULL;
    if (!ok) {
        free_memory(t, &m);
        return NULL;
    }
    t->memories[t->n_memories++] = m;
    return m.at[0];
}

static struct team_memory *find(struct backend_team *t, const char *p)
{
    for (int i = 0; i < t->n_memories; i++) {
        struct team_memory *m = &t->memories[i];
        if (p >= m->at[0] && p < m->at[0] + m->bytes)
            return m;
    }
    return NULL;
}

void team_free(struct backend *be, void *p)
{
    struct team_memory *m = be->team && p ? find(be->team, p) : NULL;
    if (!m) {
        be->free(be, p);
        return;
    }
    free_memory(be->team, m);
    *m = be->team->memories[--be->team->n_memories];
}

void *team_twin(const struct backend_team *t, int m, const void *p)
{
    const struct team_memory *have = find((struct backend_team *)(uintptr_t)t, p);
    return have ? have->at[m] + ((const char *)p - have->at[0]) : NULL;
}
