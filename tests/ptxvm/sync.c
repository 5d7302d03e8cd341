/* What the lanes of a warp and the warps of a block do together: shuffles, votes, barriers. */
#include <string.h>

#include "tests/ptxvm/decode.h"

/* ---- shfl ---- */

enum { SHFL_UP, SHFL_DOWN, SHFL_BFLY, SHFL_IDX };

static void run_shfl(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint32_t value[VM_LANES], inside = 0;
    memcpy(value, R(u32v, w, i->op[2]), sizeof value);
    const u32v *b = R(u32v, w, i->op[3]), *c = R(u32v, w, i->op[4]);
    u32v *d = R(u32v, w, i->op[0]);
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        int seg = (int)(c[l] >> 8 & 31), by = (int)(b[l] & 31), clamp = (int)(c[l] & 31);
        int first = l & seg, last = first | (clamp & ~seg), j = l;
        bool in;
        switch (i->sub) {
        case SHFL_UP:
            j = l - by;
            in = j >= last;
            break;
        case SHFL_DOWN:
            j = l + by;
            in = j <= last;
            break;
        case SHFL_BFLY:
            j = l ^ by;
            in = j <= last;
            break;
        default:
            j = first | (by & ~seg & 31);
            in = j <= last;
            break;
        }
        j = in ? j : l;
        inside |= (uint32_t)in << l;
        d[l] = m >> j & 1 ? value[j] : VM_POISON; /* of a lane that is not here: undefined */
    }
    u32v *p = R(u32v, w, i->op[1]);
    *p = (*p & ~m) | inside;
}

static void shfl(struct dec *d)
{
    static const char *const modes[] = {"up", "down", "bfly", "idx", NULL};
    struct ptx_ins *i = d->i;
    int mode = dec_one_of(d, modes);
    enum ptx_type t = dec_type(d);
    dec_args(d, 5, 5);
    if (!dec_has(d, "sync") || mode < 0 || t != T_B32) {
        dec_fail(d, "not supported");
        return;
    }
    i->op[0] = dec_dst(d, 0, t);
    i->op[1] = d->rc == 0 && d->s->args[0].second
                   ? dec_operand(d, d->s->args[0].second, T_PRED, true)
                   : dec_scratch(d, false);
    for (int k = 2; k < 5; k++)
        i->op[k] = dec_src(d, k - 1, T_B32);
    i->sync_mask = dec_src(d, 4, T_B32);
    i->sub = (uint8_t)mode;
    i->flow = FLOW_SYNC;
    i->run = run_shfl;
}

/* ---- vote, match, redux, activemask ---- */

enum { VOTE_ALL, VOTE_ANY, VOTE_UNI, VOTE_BALLOT };

static void run_vote(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint32_t yes = (*R(u32v, w, i->op[1]) ^ (i->relu ? VM_ALL : 0)) & m;
    u32v *d = R(u32v, w, i->op[0]);
    if (i->sub == VOTE_BALLOT) {
        LANES(m, d[l] = yes);
        return;
    }
    bool r = i->sub == VOTE_ALL ? yes == m : i->sub == VOTE_ANY ? yes != 0 : yes == m || yes == 0;
    *d = (*d & ~m) | (r ? m : 0);
}

static void vote(struct dec *d)
{
    static const char *const modes[] = {"all", "any", "uni", "ballot", NULL};
    struct ptx_ins *i = d->i;
    int mode = dec_one_of(d, modes);
    enum ptx_type t = dec_type(d);
    dec_args(d, 3, 3);
    if (!dec_has(d, "sync") || mode < 0 || t != (mode == VOTE_BALLOT ? T_B32 : T_PRED))
        dec_fail(d, "not supported");
    i->op[0] = dec_dst(d, 0, t);
    i->op[1] = dec_src(d, 1, T_PRED);
    i->relu = d->rc == 0 && d->s->args[1].negated;
    i->sync_mask = dec_src(d, 2, T_B32);
    i->sub = (uint8_t)mode;
    i->flow = FLOW_SYNC;
    i->run = run_vote;
}

static uint64_t lane_value(const struct warp *w, const struct ptx_ins *i, int lane)
{
    return i->wide ? R(u64v, w, i->op[2])[lane] : R(u32v, w, i->op[2])[lane];
}

static void run_match(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint32_t same[VM_LANES] = {0};
    for (uint32_t rest = m; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        for (uint32_t other = m; other; other &= other - 1) {
            int o = __builtin_ctz(other);
            same[l] |= (uint32_t)(lane_value(w, i, l) == lane_value(w, i, o)) << o;
        }
    }
    bool all = same[__builtin_ctz(m)] == m;
    u32v *d = R(u32v, w, i->op[0]), *p = R(u32v, w, i->op[1]);
    LANES(m, d[l] = i->sub == VOTE_ANY ? same[l] : all ? m : 0);
    *p = (*p & ~m) | (all ? m : 0);
}

static void match(struct dec *d)
{
    static const char *const modes[] = {"all", "any", NULL};
    struct ptx_ins *i = d->i;
    int mode = dec_one_of(d, modes);
    enum ptx_type t = dec_type(d);
    dec_args(d, 3, 3);
    if (!dec_has(d, "sync") || mode < 0)
        dec_fail(d, "not supported");
    i->op[0] = dec_dst(d, 0, T_B32);
    i->op[1] = d->rc == 0 && d->s->args[0].second
                   ? dec_operand(d, d->s->args[0].second, T_PRED, true)
                   : dec_scratch(d, false);
    i->op[2] = dec_src(d, 1, t);
    i->wide = dec_is_wide(t);
    i->sync_mask = dec_src(d, 2, T_B32);
    i->sub = (uint8_t)mode;
    i->flow = FLOW_SYNC;
    i->run = run_match;
}

enum { REDUX_ADD, REDUX_MIN, REDUX_MAX, REDUX_AND, REDUX_OR, REDUX_XOR };

static void run_redux(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    const u32v *a = R(u32v, w, i->op[1]);
    uint32_t r = a[__builtin_ctz(m)];
    for (uint32_t rest = m & (m - 1); rest; rest &= rest - 1) {
        uint32_t v = a[__builtin_ctz(rest)];
        bool less = i->type == T_S32 ? (int32_t)v < (int32_t)r : v < r;
        switch (i->sub) {
        case REDUX_ADD:
            r += v;
            break;
        case REDUX_MIN:
            r = less ? v : r;
            break;
        case REDUX_MAX:
            r = less ? r : v;
            break;
        case REDUX_AND:
            r &= v;
            break;
        case REDUX_OR:
            r |= v;
            break;
        default:
            r ^= v;
            break;
        }
    }
    u32v *d = R(u32v, w, i->op[0]);
    LANES(m, d[l] = r);
}

static void redux(struct dec *d)
{
    static const char *const ops[] = {"add", "min", "max", "and", "or", "xor", NULL};
    struct ptx_ins *i = d->i;
    int op = dec_one_of(d, ops);
    enum ptx_type t = dec_type(d);
    dec_args(d, 3, 3);
    if (!dec_has(d, "sync") || op < 0 || parse_type_bytes(t) != 4 || dec_is_float(t))
        dec_fail(d, "not supported");
    i->op[0] = dec_dst(d, 0, t);
    i->op[1] = dec_src(d, 1, t);
    i->sync_mask = dec_src(d, 2, T_B32);
    i->sub = (uint8_t)op;
    i->type = (uint8_t)t;
    i->flow = FLOW_SYNC;
    i->run = run_redux;
}

static void run_activemask(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    u32v *d = R(u32v, w, i->op[0]);
    LANES(m, d[l] = m);
}

static void activemask(struct dec *d)
{
    d->i->op[0] = dec_dst(d, 0, dec_type(d));
    d->i->run = run_activemask;
}

static void run_elect(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    uint32_t first = (uint32_t)__builtin_ctz(m);
    u32v *d = R(u32v, w, i->op[0]), *p = R(u32v, w, i->op[1]);
    LANES(m, d[l] = first);
    *p = (*p & ~m) | 1u << first;
}

static void elect(struct dec *d)
{
    dec_args(d, 2, 2);
    if (!dec_has(d, "sync") || d->rc != 0 || d->s->args[0].second == NULL) {
        dec_fail(d, "not supported");
        return;
    }
    d->i->op[0] = dec_dst(d, 0, T_B32);
    d->i->op[1] = dec_operand(d, d->s->args[0].second, T_PRED, true);
    d->i->sync_mask = dec_src(d, 1, T_B32);
    d->i->flow = FLOW_SYNC;
    d->i->run = run_elect;
}

/* ---- Barriers; the waiting is block.c's ---- */

static void run_warp_sync(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    (void)i;
    (void)m;
    w->sync++; /* its lanes have seen each other's writes */
}

/* op[0] barrier, op[1] number of threads, op[2] result, op[3] predicate; sub: 0 plain, 1 popc, 2 and,
 * 3 or. */
static void bar(struct dec *d)
{
    struct ptx_ins *i = d->i;
    bool red = dec_has(d, "red"), arrive = dec_has(d, "arrive");
    bool popc = dec_has(d, "popc"), and = dec_has(d, "and"), or = dec_has(d, "or");
    dec_has(d, "cta");
    dec_has(d, "aligned");
    if (dec_has(d, "warp")) {
        dec_args(d, 1, 1);
        if (!dec_has(d, "sync"))
            dec_fail(d, "not supported");
        i->sync_mask = dec_src(d, 0, T_B32);
        i->flow = FLOW_SYNC;
        i->run = run_warp_sync;
        return;
    }
    if (!red && !arrive && !dec_has(d, "sync"))
        dec_fail(d, "not supported");
    int at = red ? 1 : 0;
    dec_args(d, at + 1, at + 2 + red);
    if (d->rc != 0)
        return;
    bool counted = d->s->n_args > at + 1 + red;
    i->flow = FLOW_BARRIER;
    i->arrive = arrive;
    i->op[0] = dec_src(d, at, T_U32);
    i->op[1] = counted ? dec_src(d, at + 1, T_U32) : VM_NONE;
    if (arrive && !counted)
        dec_fail(d, "it needs the number of threads");
    if (red) {
        enum ptx_type t = dec_type(d);
        int last = d->s->n_args - 1;
        if (popc + and+ or != 1 || t != (popc ? T_U32 : T_PRED))
            dec_fail(d, "not supported");
        i->sub = popc ? 1 : and? 2 : 3;
        i->op[2] = dec_dst(d, 0, t);
        i->op[3] = dec_src(d, last, T_PRED);
        i->relu = d->s->args[last].negated;
    }
}

/* One thread runs it all, in order: fences have nothing to do, and the kernel before has ended. */
static void run_fence(struct warp *w, const struct ptx_ins *i, uint32_t m)
{
    (void)w;
    (void)i;
    (void)m;
}

static void fence(struct dec *d)
{
    for (int n = 1; n < d->n_words; n++)
        d->used[n] = true;
    d->i->run = run_fence;
}

const struct dec_op sync_ops[] = {
    {"shfl", shfl},
    {"vote", vote},
    {"match", match},
    {"redux", redux},
    {"activemask", activemask},
    {"elect", elect},
    {"bar", bar},
    {"barrier", bar},
    {"membar", fence},
    {"fence", fence},
    {"griddepcontrol", fence},
    {NULL, NULL},
};
