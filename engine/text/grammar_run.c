/* Follows a text through a grammar.
 *
 * A place in a grammar is a stack: the byte that comes next, and for each rule that is open what
 * follows it.  Stacks are lists whose tails are shared, and equal ones are one node, so that a long
 * text of the same shape needs no more of them than a short one; a rule that stands last in its
 * sequence leaves nothing on the stack.  A text may be at several places; a byte moves each of them.
 * Where a stack would be deeper than MAX_DEPTH the text cannot go on, but it can still close what is open.
 *
 * The places after each byte of a token stand behind each other (levels), level 0 being those of the
 * text so far: looking at a token that begins like the one before goes on at the level they share. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/grammar_int.h"

enum {
    MAX_NODES = 1 << 17,
    MAX_DEPTH = 2048,     /* of a stack: JSON takes four for an array */
    COLLECT_AT = 1 << 10, /* nodes; then at twice what was left */
    MAX_HEADS = 1 << 15,  /* of all levels together */
    MAX_OPEN = 1 << 12,   /* places that one byte leads to */
    NOWHERE = -1
};

struct node {
    const grammar_sym *next; /* what comes when this rule is done */
    uint32_t parent;         /* an older node, 0: nothing */
    int32_t chain;           /* next node of the same hash, or NOWHERE */
    int32_t depth;           /* nodes from here to the bottom */
};

/* A place: a byte or set, and the stack under it.  at NULL: the text may end. */
struct head {
    const grammar_sym *at;
    uint32_t parent;
};

struct grammar_run {
    const struct grammar *g;
    struct node *nodes; /* [cap_nodes], the first unused */
    int n_nodes, cap_nodes, collect_at;
    int32_t *buckets; /* [cap_nodes] newest node of each hash, or NOWHERE */
    struct head *heads;
    int n_heads, cap_heads;
    int level[GRAMMAR_TOKEN_MAX + 2]; /* level i is heads[level[i] ... level[i + 1] - 1] */
    struct head *open;                /* [cap_open] places that are being opened */
    int n_open, cap_open;
    bool full; /* a limit was hit */
};

/* ---- nodes ---- */

static uint32_t hash_of(const grammar_sym *next, uint32_t parent)
{
    uint64_t h = ((uint64_t)(uintptr_t)next >> 2) * 0x9e3779b97f4a7c15U + parent;
    h *= 0xff51afd7ed558ccdU;
    return (uint32_t)(h >> 32);
}

static void link_node(struct grammar_run *r, int i)
{
    struct node *n = &r->nodes[i];
    int32_t *b = &r->buckets[hash_of(n->next, n->parent) & (uint32_t)(r->cap_nodes - 1)];
    n->chain = *b;
    *b = i;
}

static void link_all(struct grammar_run *r)
{
    memset(r->buckets, 0xff, (size_t)r->cap_nodes * sizeof *r->buckets);
    for (int i = 1; i < r->n_nodes; i++)
        link_node(r, i);
}

static bool grow_nodes(struct grammar_run *r)
{
    int cap = r->cap_nodes > 0 ? 2 * r->cap_nodes : 64;
    struct node *nodes = cap <= MAX_NODES ? mem_try((size_t)cap, sizeof *nodes) : NULL;
    int32_t *buckets = nodes ? mem_try((size_t)cap, sizeof *buckets) : NULL;
    if (!buckets) {
        free(nodes);
        return false;
    }
    if (r->n_nodes > 1)
        memcpy(nodes, r->nodes, (size_t)r->n_nodes * sizeof *nodes);
    free(r->nodes);
    free(r->buckets);
    r->nodes = nodes;
    r->buckets = buckets;
    r->cap_nodes = cap;
    link_all(r);
    return true;
}

/* Keeps the nodes under the places of level 0, the only one that counts now. */
static void collect(struct grammar_run *r)
{
    uint32_t *now = r->n_nodes >= r->collect_at ? mem_try((size_t)r->n_nodes, sizeof *now) : NULL;
    if (!now)
        return;
    for (int k = 0; k < r->level[1]; k++)
        now[r->heads[k].parent] = 1;
    for (int i = r->n_nodes - 1; i > 0; i--) /* a parent is older than its children */
        if (now[i])
            now[r->nodes[i].parent] = 1;
    int n = 1;
    now[0] = 0;
    for (int i = 1; i < r->n_nodes; i++) {
        if (!now[i])
            continue;
        r->nodes[n] = r->nodes[i];
        r->nodes[n].parent = now[r->nodes[i].parent];
        now[i] = (uint32_t)n++;
    }
    for (int k = 0; k < r->level[1]; k++)
        r->heads[k].parent = now[r->heads[k].parent];
    free(now);
    r->n_nodes = n;
    r->collect_at = 2 * n > COLLECT_AT ? 2 * n : COLLECT_AT;
    link_all(r);
}

/* The node of this stack; 0 when it would be too deep, or there is no room. */
static uint32_t push_node(struct grammar_run *r, const grammar_sym *next, uint32_t parent)
{
    uint32_t hash = hash_of(next, parent);
    for (int32_t i = r->buckets[hash & (uint32_t)(r->cap_nodes - 1)]; i != NOWHERE;
         i = r->nodes[i].chain)
        if (r->nodes[i].next == next && r->nodes[i].parent == parent)
            return (uint32_t)i;
    int depth = parent != 0 ? r->nodes[parent].depth + 1 : 1;
    if (depth > MAX_DEPTH)
        return 0;
    if (r->n_nodes == r->cap_nodes && !grow_nodes(r)) {
        r->full = true;
        return 0;
    }
    r->nodes[r->n_nodes] = (struct node){.next = next, .parent = parent, .depth = depth};
    link_node(r, r->n_nodes);
    return (uint32_t)r->n_nodes++;
}

/* ---- places ---- */

static bool add(struct head **list, int *n, int *cap, int max, struct head h)
{
    if (*n == *cap) {
        int more = *cap > 0 ? 2 * *cap : 64;
        struct head *new = more <= max ? mem_try((size_t)more, sizeof *new) : NULL;
        if (!new)
            return false;
        if (*n > 0)
            memcpy(new, *list, (size_t)*n * sizeof *new);
        free(*list);
        *list = new;
        *cap = more;
    }
    (*list)[(*n)++] = h;
    return true;
}

static void add_open(struct grammar_run *r, const grammar_sym *at, uint32_t parent)
{
    for (int i = 0; i < r->n_open; i++)
        if (r->open[i].at == at && r->open[i].parent == parent)
            return;
    if (!add(&r->open, &r->n_open, &r->cap_open, MAX_OPEN, (struct head){at, parent}))
        r->full = true;
}

/* From a place that may be a rule's, or behind the last symbol, to the bytes that come next.  Each
 * place is opened once for all places that the byte before has led to: r->open remembers them. */
static void open_places(struct grammar_run *r)
{
    for (int i = 0; i < r->n_open && !r->full; i++) {
        struct head h = r->open[i];
        grammar_sym s = *h.at;
        if (s == 0 && h.parent != 0) {
            add_open(r, r->nodes[h.parent].next, r->nodes[h.parent].parent);
        } else if (s != 0 && grammar_sym_kind(s) == SYM_RULE) {
            uint32_t parent = h.parent;
            if (h.at[1] != 0 && (parent = push_node(r, h.at + 1, h.parent)) == 0)
                continue;
            for (const struct grammar_alt *a = r->g->rules[grammar_sym_value(s)]; a != NULL;
                 a = a->next)
                add_open(r, a->seq, parent);
        } else {
            h.at = s == 0 ? NULL : h.at;
            if (!add(&r->heads, &r->n_heads, &r->cap_heads, MAX_HEADS, h))
                r->full = true;
        }
    }
}

static bool takes(const struct grammar *g, grammar_sym s, unsigned char b)
{
    uint32_t v = grammar_sym_value(s);
    return grammar_sym_kind(s) == SYM_BYTE ? v == b : g->sets[v].bits[b / 32] >> b % 32 & 1;
}

const struct grammar *grammar_run_of(const struct grammar_run *r)
{
    return r->g;
}

bool grammar_run_step(struct grammar_run *r, int i, unsigned char b)
{
    int from = r->level[i], to = r->level[i + 1];
    r->n_heads = to;
    r->n_open = 0;
    r->full = false;
    for (int k = from; k < to; k++)
        if (r->heads[k].at != NULL && takes(r->g, *r->heads[k].at, b))
            add_open(r, r->heads[k].at + 1, r->heads[k].parent);
    open_places(r);
    r->level[i + 2] = r->n_heads;
    return r->n_heads > to && !r->full;
}

static bool may_end(const struct grammar_run *r, int i)
{
    for (int k = r->level[i]; k < r->level[i + 1]; k++)
        if (r->heads[k].at == NULL)
            return true;
    return false;
}

int grammar_run_open(struct grammar_run **out, const struct grammar *g, struct err *e)
{
    struct grammar_run *r = mem_try(1, sizeof *r);
    if (!r)
        return err_set(e, ERR_NOMEM, "no memory for the form of an answer");
    r->g = g;
    r->n_nodes = 1;
    r->collect_at = COLLECT_AT;
    bool ok = grow_nodes(r);
    if (ok) {
        add_open(r, r->g->rules[grammar_sym_value(g->start)]->seq, 0);
        open_places(r);
        ok = !r->full;
    }
    if (!ok) {
        grammar_run_close(r);
        return err_set(e, ERR_TOOBIG, "the form that the answer must have is too large");
    }
    r->level[1] = r->n_heads;
    *out = r;
    return 0;
}

void grammar_run_close(struct grammar_run *r)
{
    if (!r)
        return;
    free(r->nodes);
    free(r->buckets);
    free(r->heads);
    free(r->open);
    free(r);
}

bool grammar_run_push(struct grammar_run *r, const char *s, size_t n)
{
    if (n == 0 || n > GRAMMAR_TOKEN_MAX)
        return n == 0;
    for (size_t i = 0; i < n; i++)
        if (!grammar_run_step(r, (int)i, (unsigned char)s[i]))
            return false;
    int from = r->level[n], to = r->level[n + 1];
    memmove(r->heads, r->heads + from, (size_t)(to - from) * sizeof *r->heads);
    r->level[1] = to - from;
    collect(r);
    return true;
}

bool grammar_run_may_end(const struct grammar_run *r)
{
    return may_end(r, 0);
}

bool grammar_run_ended(const struct grammar_run *r)
{
    for (int k = 0; k < r->level[1]; k++)
        if (r->heads[k].at != NULL)
            return false;
    return true;
}
