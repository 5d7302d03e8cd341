/* A block: its warps take turns, and its barriers. */
#include <stdlib.h>
#include <string.h>

#include "tests/ptxvm/vm.h"

static uint64_t next_random(struct ptxvm *vm)
{
    /* xorshift64* */
    vm->random ^= vm->random >> 12;
    vm->random ^= vm->random << 25;
    vm->random ^= vm->random >> 27;
    return vm->random * 0x2545f4914f6cdd1dull;
}

void block_start(struct block *b)
{
    const struct kernel *k = b->kernel;
    const uint32_t *dim = b->launch->block;
    b->n_threads = dim[0] * dim[1] * dim[2];
    b->n_warps = (int)((b->n_threads + VM_LANES - 1) / VM_LANES);
    b->n_done = 0;
    b->phase = 1;
    b->partial = false;
    b->releaser = 0;
    b->shared_bytes = k->shared_static + b->launch->shared_bytes;
    memset(b->barriers, 0, sizeof b->barriers);
    if (b->warps == NULL) {
        b->warps = xcalloc((size_t)b->n_warps, sizeof *b->warps);
        b->shared = xmalloc((size_t)b->shared_bytes + 16);
        if (b->vm->o.races)
            b->cells = xmalloc(((size_t)b->shared_bytes + 1) * sizeof *b->cells);
        for (int n = 0; n < b->n_warps; n++) {
            b->warps[n].regs = xmalloc((size_t)k->n_slots * sizeof(uint32_t) + 64);
            b->warps[n].local = xmalloc((size_t)k->local_bytes * VM_LANES + 16);
        }
    }
    memset(b->shared, 0xff, b->shared_bytes);
    if (b->cells)
        memset(b->cells, 0, (size_t)b->shared_bytes * sizeof *b->cells);
    for (int n = 0; n < b->n_warps; n++)
        warp_start(&b->warps[n], b, n);
    b->started = true;
}

void block_free(struct block *b)
{
    for (int n = 0; b->warps && n < b->n_warps; n++) {
        free(b->warps[n].regs);
        free(b->warps[n].local);
        free(b->warps[n].copies);
    }
    free(b->warps);
    free(b->shared);
    free(b->cells);
    *b = (struct block){0};
}

/* ---- Barriers ---- */

static uint32_t lane_value(const struct warp *w, uint32_t slot)
{
    return R(u32v, w, slot)[__builtin_ctz(w->live)];
}

/* bar.red: the result of all threads that came. */
static void reduce(struct block *b, uint32_t warps)
{
    uint32_t count = 0, all = 0;
    for (uint32_t rest = warps; rest; rest &= rest - 1) {
        const struct warp *w = &b->warps[__builtin_ctz(rest)];
        count += (uint32_t)__builtin_popcount(w->barrier_arg);
        all += (uint32_t)__builtin_popcount(w->live);
    }
    for (uint32_t rest = warps; rest; rest &= rest - 1) {
        struct warp *w = &b->warps[__builtin_ctz(rest)];
        const struct ptx_ins *i = w->barrier;
        if (i->sub == 0)
            continue;
        u32v *d = R(u32v, w, i->op[2]);
        bool yes = i->sub == 2 ? count == all : count > 0;
        if (i->sub == 1)
            LANES(w->live, d[l] = count);
        else
            *d = (*d & ~w->live) | (yes ? w->live : 0);
    }
}

static void release(struct block *b, struct barrier *bar)
{
    uint32_t warps = bar->waiting;
    if (bar->expected == 0)
        b->phase++;
    b->partial = bar->expected != 0;
    reduce(b, warps);
    for (uint32_t rest = warps; rest; rest &= rest - 1) {
        struct warp *w = &b->warps[__builtin_ctz(rest)];
        races_leave(w, bar);
        w->state = WARP_RUNS;
    }
    *bar = (struct barrier){0};
    b->vm->stats->barriers++;
}

/* A warp has come to a barrier. */
static void arrive(struct block *b, struct warp *w)
{
    const struct ptx_ins *i = w->barrier;
    int lane = __builtin_ctz(w->live);
    uint32_t id = lane_value(w, i->op[0]),
             count = i->op[1] == VM_NONE ? 0 : lane_value(w, i->op[1]);
    if (id >= VM_BARRIERS || (count & (VM_LANES - 1)) || count > 1024) {
        warp_fail(w, i, lane, "barrier %u of %u threads", id, count);
        return;
    }
    struct barrier *bar = &b->barriers[id];
    if (bar->first == NULL) {
        bar->first = i;
        bar->expected = count;
    }
    if (bar->expected != count || (count == 0 && bar->first != i)) {
        warp_fail(w, i, lane, "divergent barrier: other warps wait at line %d",
                  bar->first->stmt->line);
        return;
    }
    if (count == 0 && w->live != w->exist) {
        warp_fail(w, i, lane, "divergent barrier: lanes 0x%08x have exited", w->exist & ~w->live);
        return;
    }
    w->barrier_id = (int)id;
    w->barrier_arg = i->sub ? (*R(u32v, w, i->op[3]) ^ (i->relu ? VM_ALL : 0)) & w->live : 0;
    races_arrive(w, bar);
    bar->arrived += count ? VM_LANES : (uint32_t)__builtin_popcount(w->exist);
    if (i->arrive) {
        w->clock[w->id]++; /* what follows is not before the barrier */
        w->state = WARP_RUNS;
    } else {
        bar->waiting |= 1u << w->id;
    }
    if (bar->arrived > (count ? count : b->n_threads))
        warp_fail(w, i, lane, "more threads than the barrier's %u", count);
    else if (bar->arrived == (count ? count : b->n_threads))
        release(b, bar);
}

/* Nobody can go on: somebody waits for threads that will not come. */
static void deadlock(struct block *b)
{
    struct warp *waits = NULL;
    const struct warp *other = NULL;
    for (int n = 0; n < b->n_warps; n++) {
        if (b->warps[n].state == WARP_BARRIER && waits == NULL)
            waits = &b->warps[n];
    }
    for (int n = 0; n < b->n_warps; n++)
        if (&b->warps[n] != waits &&
            (b->warps[n].state == WARP_DONE || b->warps[n].barrier_id != waits->barrier_id))
            other = &b->warps[n];
    int lane = __builtin_ctz(waits->live);
    if (other && other->state == WARP_BARRIER)
        warp_fail(waits, waits->barrier, lane,
                  "divergent barrier: warp %d waits here, warp %d at line %d", waits->id, other->id,
                  other->barrier->stmt->line);
    else
        warp_fail(waits, waits->barrier, lane,
                  "divergent barrier: warp %d waits here, warp %d has ended", waits->id,
                  other ? other->id : -1);
}

/* ---- Turns ---- */

/* The next warp that can run, from a random or the following place on; NULL. */
static struct warp *choose(struct block *b, int *from)
{
    if (b->vm->o.seed)
        *from = (int)(next_random(b->vm) % (uint64_t)b->n_warps);
    for (int n = 0; n < b->n_warps; n++) {
        struct warp *w = &b->warps[(*from + n) % b->n_warps];
        if (w->state == WARP_RUNS) {
            *from = (int)(w - b->warps) + 1;
            return w;
        }
    }
    return NULL;
}

bool block_run(struct block *b, uint32_t turns)
{
    struct ptxvm *vm = b->vm;
    int from = 0;
    for (; turns > 0 && b->n_done < b->n_warps; turns--) {
        struct warp *w = choose(b, &from);
        if (w == NULL) {
            deadlock(b);
            return false;
        }
        warp_slice(w, vm->o.seed ? 1 + (uint32_t)(next_random(vm) % 48) : 4096);
        if (w->bad)
            return false;
        if (w->state == WARP_BARRIER)
            arrive(b, w);
        else if (w->state == WARP_DONE)
            b->n_done++;
        if (w->bad)
            return false;
        if (vm->instructions > vm->o.max_instructions) {
            const struct ptx_ins *i = &b->kernel->code[w->n_groups ? w->groups[0].pc : 0];
            warp_fail(w, i, 0, "it has run for %llu instructions",
                      (unsigned long long)vm->o.max_instructions);
            return false;
        }
    }
    return b->n_done == b->n_warps;
}
