/* Shared memory under watch: every byte knows who touched it last and when, and a second thread may
 * touch it only when a barrier has come between (a write and anything else; two atomics may meet).
 *
 * Time between warps is a vector clock: a warp's own clock advances at each barrier, where it learns the
 * clocks of the others.  Inside a warp it is the count of its syncwarps.  Bytes that a cp.async will
 * write may not be touched before it has landed.
 *
 * Of global memory: a barrier must come between a release (atom.acq_rel) and what other warps of its block store. */
#include <string.h>

#include "tests/ptxvm/vm.h"

static const char *verb(enum race_kind k)
{
    return k == RACE_READ ? "reads" : k == RACE_ATOMIC ? "updates" : "writes";
}

/* Did the access of thread `other` (+ 1) at clock and sync come before this one? */
static bool ordered(const struct warp *w, int thread, int other, uint32_t clock, uint32_t sync)
{
    int warp = (other - 1) / (VM_LANES + 1);
    if (other == 0 || other == thread)
        return true;
    if (warp == w->id)
        return sync != w->sync || clock != w->clock[w->id];
    return clock < w->clock[warp];
}

static void report(struct warp *w, const struct ptx_ins *i, int lane, enum race_kind kind,
                   const char *before, int other, uint32_t at)
{
    int warp = (other - 1) / (VM_LANES + 1), l = (other - 1) % (VM_LANES + 1);
    lane = lane == RACES_WHOLE_WARP ? 0 : lane;
    if (l == RACES_WHOLE_WARP)
        warp_fail(w, i, lane, "%s shared byte %u that warp %d %s, no barrier between", verb(kind),
                  at, warp, before);
    else
        warp_fail(w, i, lane, "%s shared byte %u that thread %d %s, no %s between", verb(kind), at,
                  warp * VM_LANES + l, before, warp == w->id ? "syncwarp" : "barrier");
}

/* Is one of the warps that have read it since not known to be past it? */
static bool others_read(const struct warp *w, const struct cell *c)
{
    const struct block *b = w->block;
    return (c->readers & ~(1u << w->id)) != 0 && c->read_phase == b->phase && !b->partial;
}

static void touch(struct warp *w, const struct ptx_ins *i, int lane, uint32_t at,
                  enum race_kind kind)
{
    struct cell *c = &w->block->cells[at];
    const int thread = w->id * (VM_LANES + 1) + lane + 1;
    const bool writes = kind != RACE_READ;
    if (kind == RACE_LAND) {
        c->pending = false;
    } else if (c->pending) {
        warp_fail(w, i, lane == RACES_WHOLE_WARP ? 0 : lane,
                  "%s shared byte %u, where a cp.async has not been waited for", verb(kind), at);
        return;
    } else if (!(kind == RACE_ATOMIC && c->wrote_atomic) &&
               !ordered(w, thread, c->writer, c->wrote_clock, c->wrote_sync)) {
        report(w, i, lane, kind, "wrote", c->writer, at);
        return;
    } else if (writes && c->read_any &&
               (!ordered(w, thread, c->reader, c->read_clock, c->read_sync) || others_read(w, c) ||
                (c->many_lanes && (c->reader - 1) / (VM_LANES + 1) == w->id &&
                 c->read_sync == w->sync && c->read_clock == w->clock[w->id]))) {
        report(w, i, lane, kind, "read", c->reader, at);
        return;
    }
    if (writes) {
        *c = (struct cell){.writer = (uint16_t)thread,
                           .wrote_clock = w->clock[w->id],
                           .wrote_sync = w->sync,
                           .wrote_atomic = kind == RACE_ATOMIC,
                           .pending = kind == RACE_COPY};
        return;
    }
    bool same_time = c->read_any && c->read_clock == w->clock[w->id] && c->read_sync == w->sync &&
                     (c->reader - 1) / (VM_LANES + 1) == w->id;
    c->many_lanes = same_time && (c->many_lanes || c->reader != thread);
    c->readers = (c->read_any && c->read_phase == w->block->phase ? c->readers : 0) | 1u << w->id;
    c->read_phase = w->block->phase;
    c->reader = (uint16_t)thread;
    c->read_clock = w->clock[w->id];
    c->read_sync = w->sync;
    c->read_any = true;
}

void races_touch(struct warp *w, const struct ptx_ins *i, int lane, uint32_t at, uint32_t bytes,
                 enum race_kind kind)
{
    if (w->block->cells == NULL)
        return;
    for (uint32_t n = 0; n < bytes && !w->bad; n++)
        touch(w, i, lane, at + n, kind);
}

void races_store(struct warp *w, const struct ptx_ins *i, int lane)
{
    const struct block *b = w->block;
    w->stored = w->clock[w->id] + 1;
    if (b->cells && b->releaser && b->releaser - 1 != w->id &&
        b->released >= w->clock[b->releaser - 1])
        warp_fail(w, i, lane,
                  "stores to global memory, no barrier between it and warp %d's release",
                  b->releaser - 1);
}

void races_release(struct warp *w, const struct ptx_ins *i, int lane)
{
    struct block *b = w->block;
    for (int n = 0; b->cells && n < b->n_warps && !w->bad; n++)
        if (n != w->id && b->warps[n].stored > w->clock[n])
            warp_fail(w, i, lane, "a release of what warp %d stores, no barrier between", n);
    b->releaser = w->id + 1;
    b->released = w->clock[w->id];
}

/* b->clock[n]: from when on warp n's accesses are unknown to those who leave the barrier. */
void races_arrive(struct warp *w, struct barrier *b)
{
    for (int n = 0; n < VM_MAX_WARPS; n++) {
        uint32_t known = w->clock[n] + (n == w->id);
        if (b->clock[n] < known)
            b->clock[n] = known;
    }
}

void races_leave(struct warp *w, const struct barrier *b)
{
    for (int n = 0; n < VM_MAX_WARPS; n++)
        if (n != w->id && w->clock[n] < b->clock[n])
            w->clock[n] = b->clock[n];
    w->clock[w->id]++;
}
