/* A warp: its lanes stand in groups, each at one instruction.  The group that is furthest behind goes on,
 * so that lanes which took different ways meet again as early as they can; two groups at the same place
 * become one.  At a .sync instruction a group waits until all lanes of the member mask are there. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/ptxvm/vm.h"

/* "attn.cu:120", or "" without line information. */
static void source_of(const struct ptx_ins *i, char *text, size_t n)
{
    text[0] = '\0';
    for (const struct ptx_file *f = i->module->files; f && i->stmt; f = f->next)
        if (f->number == i->stmt->src_file)
            snprintf(text, n, " (%.40s:%d)", f->name, i->stmt->src_line);
}

void warp_fail(struct warp *w, const struct ptx_ins *i, int lane, const char *fmt, ...)
{
    char what[120], source[64];
    const struct block *b = w->block;
    if (w->bad)
        return;
    w->bad = true;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    source_of(i, source, sizeof source);
    err_set(b->vm->e, ERR_DEVICE, "%.30s:%d%s: %.40s: %s; block (%u,%u,%u) thread %d",
            i->module->name, i->stmt ? i->stmt->line : 0, source, i->stmt ? i->stmt->op : "end",
            what, b->at[0], b->at[1], b->at[2], w->id * VM_LANES + lane);
}

bool warp_pred(const struct warp *w, uint32_t slot, int lane)
{
    return *R(u32v, w, slot) >> lane & 1;
}

/* ---- Starting ---- */

static void fill(struct warp *w, uint32_t slot, bool wide, uint64_t v)
{
    for (int l = 0; l < VM_LANES; l++) {
        if (wide)
            R(u64v, w, slot)[l] = v;
        else
            R(u32v, w, slot)[l] = (uint32_t)v;
    }
}

static uint32_t lane_special(const struct warp *w, enum vm_special s, uint32_t l)
{
    const uint32_t *dim = w->block->launch->block;
    uint32_t t = (uint32_t)w->id * VM_LANES + l, bit = 1u << l;
    switch (s) {
    case SR_TID_X:
        return t % dim[0];
    case SR_TID_Y:
        return t / dim[0] % dim[1];
    case SR_TID_Z:
        return t / dim[0] / dim[1];
    case SR_LANEMASK_EQ:
        return bit;
    case SR_LANEMASK_LE:
        return bit | (bit - 1);
    case SR_LANEMASK_LT:
        return bit - 1;
    case SR_LANEMASK_GE:
        return ~(bit - 1);
    case SR_LANEMASK_GT:
        return ~(bit | (bit - 1));
    default:
        return l;
    }
}

static uint32_t block_special(const struct warp *w, enum vm_special s)
{
    const struct block *b = w->block;
    switch (s) {
    case SR_NTID_X:
    case SR_NTID_Y:
    case SR_NTID_Z:
        return b->launch->block[s - SR_NTID_X];
    case SR_CTAID_X:
    case SR_CTAID_Y:
    case SR_CTAID_Z:
        return b->at[s - SR_CTAID_X];
    case SR_NCTAID_X:
    case SR_NCTAID_Y:
    case SR_NCTAID_Z:
        return b->launch->grid[s - SR_NCTAID_X];
    case SR_WARPID:
        return (uint32_t)w->id;
    case SR_NWARPID:
        return (uint32_t)b->n_warps;
    case SR_NSMID:
    case SR_ONE:
        return 1;
    case SR_DYNAMIC_SMEM:
        return b->launch->shared_bytes;
    case SR_TOTAL_SMEM:
        return b->shared_bytes;
    default:
        return 0;
    }
}

static void specials(struct warp *w)
{
    const uint32_t *slot = w->block->kernel->special;
    for (int s = 0; s < SR_N; s++) {
        if (slot[s] == VM_NONE)
            continue;
        bool by_lane =
            s <= SR_TID_Z || s == SR_LANEID || (s >= SR_LANEMASK_EQ && s <= SR_LANEMASK_GT);
        bool wide = s == SR_CLOCK64 || s == SR_GLOBALTIMER || s == SR_GRIDID;
        if (!by_lane)
            fill(w, slot[s], wide, block_special(w, s));
        for (uint32_t l = 0; by_lane && l < VM_LANES; l++)
            R(u32v, w, slot[s])[l] = lane_special(w, s, l);
    }
}

void warp_start(struct warp *w, struct block *b, int id)
{
    const struct kernel *k = b->kernel;
    uint32_t left = b->n_threads - (uint32_t)id * VM_LANES;
    w->block = b;
    w->id = id;
    w->state = WARP_RUNS;
    w->exist = w->live = left >= VM_LANES ? VM_ALL : (1u << left) - 1;
    w->n_groups = 1;
    w->groups[0] = (struct group){.mask = w->live};
    w->bad = false;
    w->n_copies = w->carry = w->sync = w->stored = 0;
    memset(w->copy_group, 0, sizeof w->copy_group);
    memset(w->clock, 0, sizeof w->clock);
    w->clock[id] = 1;
    memset(w->regs, 0xff, (size_t)k->n_slots * sizeof *w->regs);
    if (k->local_bytes)
        memset(w->local, 0xff, (size_t)k->local_bytes * VM_LANES);
    for (uint32_t n = 0; n < k->n_consts; n++)
        fill(w, k->consts[n].slot, k->consts[n].wide, k->consts[n].bits);
    specials(w);
}

/* ---- Groups ---- */

static void drop_group(struct warp *w, int n)
{
    w->groups[n] = w->groups[--w->n_groups];
}

static void add_group(struct warp *w, uint32_t pc, uint32_t mask)
{
    if (mask)
        w->groups[w->n_groups++] = (struct group){.pc = pc, .mask = mask};
}

/* The group to go on with, joined with those at the same place; -1 when all wait.  *next: where the
 * following one stands, which may be waiting there. */
static int choose(struct warp *w, uint32_t *next)
{
    int best = -1;
    for (int n = 0; n < w->n_groups; n++)
        if (!w->groups[n].waits && (best < 0 || w->groups[n].pc < w->groups[best].pc))
            best = n;
    *next = UINT32_MAX;
    for (int n = w->n_groups - 1; best >= 0 && n >= 0; n--) {
        if (n == best)
            continue;
        if (w->groups[n].pc == w->groups[best].pc) { /* those that wait here as well */
            w->groups[best].mask |= w->groups[n].mask;
            if (best == w->n_groups - 1)
                best = n;
            drop_group(w, n);
        } else if (w->groups[n].pc > w->groups[best].pc && w->groups[n].pc < *next) {
            *next = w->groups[n].pc;
        }
    }
    return best;
}

/* All groups wait: some may go on, because lanes that they waited for have exited. */
static bool retry(struct warp *w)
{
    bool any = false;
    for (int n = 0; n < w->n_groups; n++) {
        struct group *g = &w->groups[n];
        const struct ptx_ins *i = &w->block->kernel->code[g->pc];
        uint32_t need = w->live;
        if (i->sync_mask != VM_NONE)
            need = R(u32v, w, i->sync_mask)[__builtin_ctz(g->mask)] & w->live;
        if ((need & ~g->mask) == 0) {
            g->waits = false;
            any = true;
        }
    }
    return any;
}

static void stuck(struct warp *w)
{
    const struct ptx_ins *a = &w->block->kernel->code[w->groups[0].pc];
    const struct ptx_ins *b = &w->block->kernel->code[w->groups[w->n_groups - 1].pc];
    bool barrier = a->flow == FLOW_BARRIER || b->flow == FLOW_BARRIER;
    if (w->n_groups == 1)
        warp_fail(w, a, __builtin_ctz(w->groups[0].mask),
                  "not all lanes of the warp are there (0x%08x)", w->groups[0].mask);
    else
        warp_fail(w, a, __builtin_ctz(w->groups[0].mask),
                  "%s: lanes 0x%08x wait here, 0x%08x at line %d",
                  barrier ? "divergent barrier" : "deadlock", w->groups[0].mask,
                  w->groups[w->n_groups - 1].mask, b->stmt ? b->stmt->line : 0);
}

/* ---- Flow ---- */

static void leave(struct warp *w, int n, uint32_t mask)
{
    w->live &= ~mask;
    w->groups[n].mask &= ~mask;
    if (w->groups[n].mask == 0)
        drop_group(w, n);
    if (w->live == 0)
        w->state = WARP_DONE;
}

/* The lanes whose guard holds stay in group n; the others go on behind the instruction. */
static uint32_t split(struct warp *w, int n, uint32_t mask)
{
    struct group *g = &w->groups[n];
    add_group(w, g->pc + 1, g->mask & ~mask);
    g->mask = mask;
    return mask;
}

/* Are all lanes here that the instruction wants?  If not, the group waits. */
static bool gathered(struct warp *w, int n, const struct ptx_ins *i)
{
    struct group *g = &w->groups[n];
    uint32_t need = w->live;
    int first = __builtin_ctz(g->mask);
    if (i->sync_mask != VM_NONE) {
        const u32v *want = R(u32v, w, i->sync_mask);
        for (uint32_t rest = g->mask; rest; rest &= rest - 1)
            if (want[__builtin_ctz(rest)] != want[first]) {
                warp_fail(w, i, __builtin_ctz(rest), "lanes give different member masks");
                return false;
            }
        if (g->mask & ~want[first]) {
            warp_fail(w, i, __builtin_ctz(g->mask & ~want[first]), "not in its member mask 0x%08x",
                      want[first]);
            return false;
        }
        need = want[first] & w->live;
    }
    if (need & ~g->mask) {
        g->waits = true;
        return false;
    }
    if (i->whole_warp && g->mask != VM_ALL) {
        warp_fail(w, i, first, "it needs all 32 lanes, not 0x%08x", g->mask);
        return false;
    }
    return true;
}

/* Everything but FLOW_NEXT.  mask: lanes whose guard holds, at least one. */
static void flow(struct warp *w, int n, const struct ptx_ins *i, uint32_t mask)
{
    struct group *g = &w->groups[n];
    switch ((enum vm_flow)i->flow) {
    case FLOW_BRANCH:
        if (mask == g->mask) {
            g->pc = i->target;
        } else {
            add_group(w, i->target, mask);
            g->mask &= ~mask;
            g->pc++;
        }
        break;
    case FLOW_TABLE:
        for (uint32_t rest = g->mask & mask; rest; rest &= rest - 1) {
            int l = __builtin_ctz(rest);
            uint32_t at = R(u32v, w, i->op[0])[l];
            if (at >= (uint64_t)i->imm) {
                warp_fail(w, i, l, "entry %u of a table of %d", at, (int)i->imm);
                return;
            }
            add_group(w, i->table[at], 1u << l);
            w->groups[n].mask &= ~(1u << l);
            if (w->groups[n].mask == 0) {
                drop_group(w, n);
                return;
            }
        }
        w->groups[n].pc++;
        break;
    case FLOW_EXIT:
        if (mask != g->mask)
            split(w, n, mask);
        leave(w, n, mask);
        break;
    case FLOW_SYNC:
    case FLOW_BARRIER:
        if (mask != g->mask)
            split(w, n, mask);
        if (!gathered(w, n, i))
            break;
        g->pc++;
        if (i->flow == FLOW_SYNC) {
            i->run(w, i, mask);
        } else {
            w->state = WARP_BARRIER; /* block.c takes it from here */
            w->barrier = i;
        }
        break;
    default:
        warp_fail(w, i, __builtin_ctz(mask), "trap");
        break;
    }
}

static uint32_t guarded(const struct warp *w, const struct ptx_ins *i, uint32_t mask)
{
    if (i->guard == VM_NONE)
        return mask;
    uint32_t p = *R(u32v, w, i->guard);
    return mask & (i->guard_negated ? ~p : p);
}

void warp_slice(struct warp *w, uint32_t n)
{
    const struct ptx_ins *code = w->block->kernel->code;
    struct ptxvm *vm = w->block->vm;
    uint64_t threads = 0, warps = 0;
    while (n > 0 && !w->bad && w->state == WARP_RUNS) {
        uint32_t next;
        int at = choose(w, &next);
        if (at < 0) {
            if (!retry(w))
                stuck(w);
            continue;
        }
        struct group *g = &w->groups[at];
        for (; n > 0 && g->pc < next; n--) {
            const struct ptx_ins *i = &code[g->pc];
            uint32_t mask = guarded(w, i, g->mask);
            warps++;
            threads += (uint64_t)__builtin_popcount(mask);
            if (i->flow == FLOW_NEXT) {
                if (mask) {
                    i->run(w, i, mask);
                    if (w->bad)
                        break;
                }
                g->pc++;
            } else if (mask == 0) {
                g->pc++;
            } else {
                bool sync = i->flow == FLOW_SYNC && mask == g->mask;
                flow(w, at, i, mask);
                if (w->bad || w->state != WARP_RUNS || !sync || g->waits) {
                    n--;
                    break;
                }
            }
        }
    }
    vm->stats->warp_instructions += warps;
    vm->stats->thread_instructions += threads;
    vm->instructions += threads + warps; /* so that a loop of no lanes ends as well */
}
