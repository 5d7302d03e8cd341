/* Admission of a job's stages together, and their end. */
#include "engine/stage.h"

#include "engine/cache.h"
#include "engine/task.h"

void stage_add(struct task *t, struct stage *s)
{
    struct stage **at = &t->stages;
    while (*at)
        at = &(*at)->next;
    *at = s;
    s->task = t;
    s->later = at != &t->stages;
}

void stage_number(struct task *t)
{
    int n = 0;
    for (struct stage *s = t->stages; s; s = s->next) {
        s->step_base = n;
        n += s->n_steps;
    }
    for (struct stage *s = t->stages; s; s = s->next)
        s->n_steps = n;
}

/* Bytes that all need together. */
static int need_all(const struct task *t, size_t *sum, struct err *e)
{
    struct stage_need needs[STAGES_MAX];
    int n = 0;
    *sum = 0;
    for (struct stage *s = t->stages; s; s = s->next, n++) {
        const struct stage *beside = NULL;
        int i = 0, at = 0;
        for (const struct stage *o = t->stages; o != s; o = o->next, i++) {
            if (o->owner == s->owner && !beside) {
                beside = o;
                at = i;
            }
        }
        int rc = s->ops->need(s, beside, &needs[n], e);
        if (rc)
            return rc;
        *sum += needs[n].own;
        if (!beside) {
            *sum += needs[n].pass;
        } else if (needs[n].pass > needs[at].pass) {
            *sum += needs[n].pass - needs[at].pass;
            needs[at].pass = needs[n].pass;
        }
    }
    return 0;
}

/* true: t->refused says why. */
static bool never_fits(struct task *t, struct cache *c)
{
    struct cache_stats s;
    size_t need;
    cache_stats(c, &s);
    if (need_all(t, &need, &t->refused))
        return true;
    if (need <= s.budget_bytes - s.aside_bytes)
        return false;
    err_set(&t->refused, ERR_TOOBIG,
            "the request needs %.1f MiB beside the weights, and the memory budget is %.1f MiB",
            (double)need / 1048576, (double)(s.budget_bytes - s.aside_bytes) / 1048576);
    err_reason(&t->refused, "memory_exceeded");
    return true;
}

int stage_place(struct task *t, struct cache *c)
{
    for (const struct stage *s = t->stages; s; s = s->next) {
        if (s->closed && *s->closed)
            return -1;
    }
    if (!t->checked && never_fits(t, c))
        return 1;
    t->checked = true;
    for (struct stage *s = t->stages; s; s = s->next) {
        int rc = s->ops->place(s, &t->refused);
        if (t->refused.code || rc <= 0) {
            stage_leave(t);
            return t->refused.code ? 1 : rc;
        }
        s->placed = true;
    }
    return 1;
}

void stage_leave(struct task *t)
{
    for (struct stage *s = t->stages; s; s = s->next) {
        if (s->placed)
            s->ops->leave(s);
        s->placed = false;
    }
}

void stage_free(struct task *t)
{
    while (t->stages) {
        struct stage *s = t->stages;
        t->stages = s->next;
        s->ops->free(s);
    }
}
