/* The automaton of a grammar, made while texts are followed: a state is where a text may stand, and where a
 * byte leads from there is worked out once.
 *
 * A place in a grammar is a stack: the byte that comes next, and for each rule that is open what
 * follows it.  Stacks are lists whose tails are shared, and equal ones are one node, so that a long
 * text of the same shape needs no more of them than a short one; a rule that stands last in its
 * sequence leaves nothing on the stack.  A text may be at several places, which are a state together; a byte
 * moves each of them.  Where a stack would be deeper than MAX_DEPTH the text cannot go on, but it can still
 * close what is open.
 *
 * When the memory is used up, all is forgotten but where the runs are.  What cannot be worked out even then is a
 * byte that does not fit; since that must not depend on who else uses the automaton, a run that meets it goes on
 * in a copy of its own first. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/grammar_int.h"

enum {
    MAX_NODES = 1 << 17,
    MAX_STATES = 1 << 18,
    MAX_DEPTH = 2048,     /* of a stack: JSON takes four for an array */
    MAX_PLACES = 1 << 16, /* of all states together */
    MAX_OPEN = 1 << 12,   /* places that one byte leads to */
    NOWHERE = -1
};
#define AT_END UINT32_MAX

struct grammar_node {
    uint32_t next;   /* in seq: what comes when this rule is done */
    uint32_t parent; /* an older node, 0: nothing */
    int32_t chain;   /* next node of the same hash, or NOWHERE */
    int32_t depth;   /* nodes from here to the bottom */
};

/* A byte or set in seq, and the stack under it.  at AT_END: the text may end. */
struct grammar_place {
    uint32_t at;
    uint32_t parent;
};

/* A place that a byte leads to; a rule may come next there. */
struct grammar_open {
    struct grammar_place place;
    int32_t chain; /* next one of the same hash, or NOWHERE */
};

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15U;
    return h ^ h >> 32;
}

/* Room for one more in a table that doubles. */
static bool room(void **table, int n, int *cap, int max, size_t size)
{
    if (n < *cap)
        return true;
    int more = *cap > 0 ? 2 * *cap : 64;
    void *new = more <= max ? mem_try((size_t)more, size) : NULL;
    if (new == NULL)
        return false;
    if (n > 0)
        memcpy(new, *table, (size_t)n * size);
    free(*table);
    *table = new;
    *cap = more;
    return true;
}

/* ---- nodes ---- */

static void link_node(struct grammar_auto *a, int i)
{
    struct grammar_node *n = &a->nodes[i];
    int32_t *b = &a->node_buckets[mix(n->next, n->parent) & (uint64_t)(a->cap_nodes - 1)];
    n->chain = *b;
    *b = i;
}

static void link_nodes(struct grammar_auto *a)
{
    memset(a->node_buckets, 0xff, (size_t)a->cap_nodes * sizeof *a->node_buckets);
    for (int i = 1; i < a->n_nodes; i++)
        link_node(a, i);
}

/* Room for more, and as many buckets, whose contents are the caller's to link. */
static bool grow_hashed(void **items, int *cap, int max, size_t size, int32_t **buckets)
{
    const int wanted = *cap > 0 ? 2 * *cap : 64;
    int32_t *more = wanted <= max ? mem_try((size_t)wanted, sizeof *more) : NULL;
    if (more == NULL || !room(items, *cap, cap, max, size)) {
        free(more);
        return false;
    }
    free(*buckets);
    *buckets = more;
    return true;
}

static bool grow_nodes(struct grammar_auto *a)
{
    if (!grow_hashed((void **)&a->nodes, &a->cap_nodes, MAX_NODES, sizeof *a->nodes,
                     &a->node_buckets))
        return false;
    link_nodes(a);
    return true;
}

/* The node of this stack; 0 when it would be too deep, or there is no room. */
static uint32_t push_node(struct grammar_auto *a, uint32_t next, uint32_t parent)
{
    for (int32_t i = a->node_buckets[mix(next, parent) & (uint64_t)(a->cap_nodes - 1)];
         i != NOWHERE; i = a->nodes[i].chain)
        if (a->nodes[i].next == next && a->nodes[i].parent == parent)
            return (uint32_t)i;
    const int depth = parent != 0 ? a->nodes[parent].depth + 1 : 1;
    if (depth > MAX_DEPTH)
        return 0;
    if (a->n_nodes == a->cap_nodes && !grow_nodes(a)) {
        a->full = true;
        return 0;
    }
    a->nodes[a->n_nodes] = (struct grammar_node){.next = next, .parent = parent, .depth = depth};
    link_node(a, a->n_nodes);
    return (uint32_t)a->n_nodes++;
}

/* ---- states ---- */

static uint64_t hash_places(const struct grammar_auto *a, int first, int n)
{
    uint64_t h = (uint64_t)n;
    for (int i = first; i < first + n; i++)
        h = mix(h, (uint64_t)a->places[i].at << 32 | a->places[i].parent);
    return h;
}

static int32_t *state_bucket(const struct grammar_auto *a, int first, int n)
{
    return &a->state_buckets[hash_places(a, first, n) & (uint64_t)(a->cap_states - 1)];
}

static void link_states(struct grammar_auto *a)
{
    memset(a->state_buckets, 0xff, (size_t)a->cap_states * sizeof *a->state_buckets);
    for (int i = 1; i < a->n_states; i++) {
        int32_t *b = state_bucket(a, a->states[i].first, a->states[i].n);
        a->states[i].chain = *b;
        *b = i;
    }
}

static bool grow_states(struct grammar_auto *a)
{
    int cap = a->cap_states, cap_to = a->cap_states;
    const size_t row = (size_t)a->n_classes * sizeof *a->to;
    int32_t *buckets = mem_try(cap > 0 ? 2 * (size_t)cap : 64, sizeof *buckets);
    if (buckets == NULL || !room((void **)&a->to, cap, &cap_to, MAX_STATES, row) ||
        !room((void **)&a->states, cap, &cap, MAX_STATES, sizeof *a->states)) {
        free(buckets);
        return false;
    }
    free(a->state_buckets);
    a->state_buckets = buckets;
    a->cap_states = cap;
    link_states(a);
    return true;
}

/* The state of the n places behind all others, which become its own if it is new. */
static int32_t state_of(struct grammar_auto *a, int n)
{
    const struct grammar_place *p = a->places + a->n_places;
    int32_t i = *state_bucket(a, a->n_places, n);
    for (; i != NOWHERE; i = a->states[i].chain)
        if (a->states[i].n == n &&
            memcmp(a->places + a->states[i].first, p, (size_t)n * sizeof *p) == 0)
            return i;
    if (a->n_states == a->cap_states && !grow_states(a)) {
        a->full = true;
        return GRAMMAR_DEAD;
    }
    i = a->n_states++;
    int32_t *b = state_bucket(a, a->n_places, n);
    a->states[i] = (struct grammar_state){.first = a->n_places, .n = n, .chain = *b};
    for (int k = 0; k < n; k++)
        a->states[i].may_end = a->states[i].may_end || p[k].at == AT_END;
    *b = i;
    a->n_places += n;
    memset(a->to + (size_t)i * (size_t)a->n_classes, 0, (size_t)a->n_classes * sizeof *a->to);
    return i;
}

/* ---- places ---- */

static int32_t *open_bucket(const struct grammar_auto *a, struct grammar_place p)
{
    return &a->open_buckets[mix(p.at, p.parent) & (uint64_t)(a->cap_open - 1)];
}

static void link_open(struct grammar_auto *a, int i)
{
    int32_t *b = open_bucket(a, a->open[i].place);
    a->open[i].chain = *b;
    *b = i;
}

static bool grow_open(struct grammar_auto *a)
{
    if (!grow_hashed((void **)&a->open, &a->cap_open, MAX_OPEN, sizeof *a->open, &a->open_buckets))
        return false;
    memset(a->open_buckets, 0xff, (size_t)a->cap_open * sizeof *a->open_buckets);
    for (int i = 0; i < a->n_open; i++)
        link_open(a, i);
    return true;
}

static void clear_open(struct grammar_auto *a)
{
    for (int i = 0; i < a->n_open; i++)
        *open_bucket(a, a->open[i].place) = NOWHERE;
    a->n_open = 0;
}

static void add_open(struct grammar_auto *a, uint32_t at, uint32_t parent)
{
    const struct grammar_place p = {at, parent};
    for (int32_t i = *open_bucket(a, p); i != NOWHERE; i = a->open[i].chain)
        if (a->open[i].place.at == at && a->open[i].place.parent == parent)
            return;
    if (a->n_open == a->cap_open && !grow_open(a)) {
        a->full = true;
        return;
    }
    a->open[a->n_open].place = p;
    link_open(a, a->n_open++);
}

/* From a place that may be a rule's, or behind the last symbol, to the bytes that come next, put behind all
 * places.  Each is opened once for all places that the byte before has led to: open remembers them. */
static int32_t open_places(struct grammar_auto *a)
{
    int n = 0;
    for (int i = 0; i < a->n_open && !a->full; i++) {
        const struct grammar_place p = a->open[i].place;
        const grammar_sym s = a->seq[p.at];
        if (s == 0 && p.parent != 0) {
            add_open(a, a->nodes[p.parent].next, a->nodes[p.parent].parent);
        } else if (s != 0 && grammar_sym_kind(s) == SYM_RULE) {
            uint32_t parent = p.parent;
            const uint32_t rule = grammar_sym_value(s);
            if (a->seq[p.at + 1] != 0 && (parent = push_node(a, p.at + 1, p.parent)) == 0)
                continue;
            for (uint32_t k = a->first[rule]; k < a->first[rule + 1]; k++)
                add_open(a, a->alts[k], parent);
        } else if (room((void **)&a->places, a->n_places + n, &a->cap_places, MAX_PLACES,
                        sizeof *a->places)) {
            a->places[a->n_places + n++] = (struct grammar_place){s == 0 ? AT_END : p.at, p.parent};
        } else {
            a->full = true;
        }
    }
    return n > 0 && !a->full ? state_of(a, n) : GRAMMAR_DEAD;
}

static bool takes(const struct grammar_auto *a, grammar_sym s, unsigned char b)
{
    const uint32_t v = grammar_sym_value(s);
    return grammar_sym_kind(s) == SYM_BYTE ? v == b : a->sets[v].bits[b / 32] >> b % 32 & 1;
}

/* Where the byte leads from path[i]. */
static int32_t work_out(struct grammar_run *r, int i, unsigned char b)
{
    struct grammar_auto *a = r->a;
    const struct grammar_state *s = &a->states[r->path[i]];
    clear_open(a);
    a->full = false;
    r->work += s->n;
    for (int k = s->first; k < s->first + s->n; k++)
        if (a->places[k].at != AT_END && takes(a, a->seq[a->places[k].at], b))
            add_open(a, a->places[k].at + 1, a->places[k].parent);
    const int32_t to = open_places(a);
    r->work += a->n_open;
    return to;
}

/* ---- memory ---- */

static size_t state_bytes(const struct grammar_auto *a)
{
    return sizeof *a->states + ((size_t)a->n_classes + 1) * sizeof *a->to;
}

static size_t live_bytes(const struct grammar_auto *a)
{
    return a->mask_bytes + (size_t)a->n_states * state_bytes(a) +
           (size_t)a->n_places * sizeof *a->places +
           (size_t)a->n_nodes * (sizeof *a->nodes + sizeof *a->node_buckets);
}

size_t grammar_auto_bytes(const struct grammar_auto *a)
{
    return sizeof *a + a->mask_bytes + (size_t)a->code->n_words * sizeof a->code->n_words +
           (size_t)a->cap_states * state_bytes(a) + (size_t)a->cap_places * sizeof *a->places +
           (size_t)a->cap_open * (sizeof *a->open + sizeof *a->open_buckets) +
           (size_t)a->cap_nodes * (sizeof *a->nodes + sizeof *a->node_buckets);
}

/* Keeps the states with keep[i] != 0, which becomes their new number, and forgets where bytes lead. */
static void keep_states(struct grammar_auto *a, int32_t *keep)
{
    int n = 1, n_places = 0;
    for (int i = 1; i < a->n_states; i++) {
        struct grammar_state s = a->states[i];
        free(s.mask);
        if (keep[i] == 0)
            continue;
        memmove(a->places + n_places, a->places + s.first, (size_t)s.n * sizeof *a->places);
        s.first = n_places;
        s.mask = NULL;
        n_places += s.n;
        a->states[n] = s;
        keep[i] = n++;
    }
    a->n_states = n;
    a->n_places = n_places;
    a->mask_bytes = 0;
    memset(a->to, 0, (size_t)n * (size_t)a->n_classes * sizeof *a->to);
}

/* Keeps the nodes under the places that are left. */
static void keep_nodes(struct grammar_auto *a, uint32_t *now)
{
    for (int k = 0; k < a->n_places; k++)
        now[a->places[k].parent] = 1;
    for (int i = a->n_nodes - 1; i > 0; i--) /* a parent is older than its children */
        if (now[i])
            now[a->nodes[i].parent] = 1;
    int n = 1;
    now[0] = 0;
    for (int i = 1; i < a->n_nodes; i++) {
        if (!now[i])
            continue;
        a->nodes[n] = a->nodes[i];
        a->nodes[n].parent = now[a->nodes[i].parent];
        now[i] = (uint32_t)n++;
    }
    a->n_nodes = n;
    for (int k = 0; k < a->n_places; k++)
        a->places[k].parent = now[a->places[k].parent];
    link_nodes(a);
    link_states(a);
}

/* Forgets all but where the runs are; of the one that works, but where its path is. */
static bool forget(struct grammar_auto *a, const struct grammar_run *working)
{
    int32_t *keep = mem_try((size_t)a->n_states, sizeof *keep);
    uint32_t *now = mem_try((size_t)a->n_nodes, sizeof *now);
    if (keep == NULL || now == NULL) {
        free(keep);
        free(now);
        return false;
    }
    keep[GRAMMAR_START] = 1;
    for (struct grammar_run *r = a->runs; r != NULL; r = r->next) {
        r->depth = r == working ? r->depth : 0;
        for (int i = 0; i <= r->depth; i++)
            keep[r->path[i]] = 1;
    }
    keep_states(a, keep);
    keep_nodes(a, now);
    for (struct grammar_run *r = a->runs; r != NULL; r = r->next)
        for (int i = 0; i <= r->depth; i++)
            r->path[i] = keep[r->path[i]];
    free(keep);
    free(now);
    const size_t live = 2 * live_bytes(a);
    a->limit_bytes = live > a->max_bytes ? live : a->max_bytes;
    return true;
}

/* ---- automatons ---- */

/* Bytes that stand in the same sets, and in no text by themselves, are alike. */
static void find_classes(struct grammar_auto *a)
{
    bool alone[256] = {false};
    int n = 1;
    for (uint32_t i = 0; i < a->code->n_seq; i++)
        if (grammar_sym_kind(a->seq[i]) == SYM_BYTE)
            alone[grammar_sym_value(a->seq[i]) & 255] = true;
    for (uint32_t i = 0; i < a->code->n_sets; i++) {
        int split[256]; /* the class of those of a class that are in the set */
        memset(split, 0xff, sizeof split);
        int in[256] = {0}, all[256] = {0};
        for (int b = 0; b < 256; b++) {
            all[a->class_of[b]]++;
            in[a->class_of[b]] += (int)(a->sets[i].bits[b / 32] >> b % 32 & 1);
        }
        for (int b = 0; b < 256; b++) {
            const int c = a->class_of[b];
            if (!(a->sets[i].bits[b / 32] >> b % 32 & 1) || in[c] == all[c])
                continue;
            if (split[c] < 0)
                split[c] = n++;
            a->class_of[b] = (unsigned char)split[c];
        }
    }
    int count[256] = {0};
    for (int b = 0; b < 256; b++)
        count[a->class_of[b]]++;
    for (int b = 0; b < 256; b++)
        if (alone[b] && count[a->class_of[b]] > 1) {
            count[a->class_of[b]]--;
            count[n] = 1;
            a->class_of[b] = (unsigned char)n++;
        }
    a->n_classes = n;
}

static void set_code(struct grammar_auto *a, struct grammar_code *code)
{
    a->code = code;
    a->first = code->words;
    a->alts = a->first + code->n_rules + 1;
    a->seq = a->alts + code->n_alts;
    a->sets = (const struct grammar_set *)(const void *)(a->seq + code->n_seq);
}

int grammar_auto_open(struct grammar_auto **out, const struct grammar_code *code, size_t max_bytes,
                      struct err *e)
{
    struct grammar_auto *a = mem_try(1, sizeof *a);
    struct grammar_code *own = mem_try(code->n_words, sizeof code->n_words);
    if (a == NULL || own == NULL) {
        free(a);
        free(own);
        return err_set(e, ERR_NOMEM, "no memory for the form of an answer");
    }
    memcpy(own, code, (size_t)code->n_words * sizeof code->n_words);
    set_code(a, own);
    a->refs = 1;
    a->n_nodes = a->n_states = 1;
    a->max_bytes = a->limit_bytes = max_bytes;
    find_classes(a);
    if (grow_open(a) && grow_nodes(a) && grow_states(a)) {
        for (uint32_t k = a->first[0]; k < a->first[1]; k++)
            add_open(a, a->alts[k], 0);
        if (open_places(a) == GRAMMAR_START) {
            *out = a;
            return 0;
        }
    }
    grammar_auto_release(a);
    return err_set(e, ERR_TOOBIG, "the form that the answer must have is too large");
}

void grammar_auto_release(struct grammar_auto *a)
{
    if (a == NULL || --a->refs > 0)
        return;
    for (int i = 1; i < a->n_states; i++)
        free(a->states[i].mask);
    free(a->code);
    free(a->states);
    free(a->to);
    free(a->state_buckets);
    free(a->places);
    free(a->nodes);
    free(a->node_buckets);
    free(a->open);
    free(a->open_buckets);
    free(a);
}

void grammar_auto_keep(struct grammar_run *r, struct grammar_mask *mask)
{
    struct grammar_auto *a = r->a;
    r->depth = 0;
    if (live_bytes(a) + mask->bytes > a->limit_bytes)
        forget(a, r);
    a->states[r->path[0]].mask = mask;
    a->mask_bytes += mask->bytes;
}

/* ---- runs ---- */

static void attach(struct grammar_run *r, struct grammar_auto *a)
{
    r->a = a;
    r->next = a->runs;
    a->runs = r;
    a->refs++;
}

static void detach(struct grammar_run *r)
{
    struct grammar_run **at = &r->a->runs;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    grammar_auto_release(r->a);
}

int grammar_auto_run(struct grammar_run **out, struct grammar_auto *a, struct err *e)
{
    struct grammar_run *r = mem_try(1, sizeof *r);
    if (r == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the form of an answer");
    attach(r, a);
    r->path[0] = GRAMMAR_START;
    *out = r;
    return 0;
}

void grammar_auto_end(struct grammar_run *r)
{
    detach(r);
    free(r);
}

/* The same stack in another automaton; 0 where there is no room. */
static uint32_t copy_stack(struct grammar_auto *to, const struct grammar_auto *a, uint32_t node)
{
    uint32_t stack[MAX_DEPTH], parent = 0;
    int n = 0;
    for (; node != 0 && n < MAX_DEPTH; node = a->nodes[node].parent)
        stack[n++] = a->nodes[node].next;
    while (n > 0)
        if ((parent = push_node(to, stack[--n], parent)) == 0)
            return 0;
    return parent;
}

static int32_t copy_state(struct grammar_auto *to, const struct grammar_auto *a, int32_t state)
{
    const struct grammar_state *s = &a->states[state];
    to->full = false;
    for (int i = 0; i < s->n && !to->full; i++) {
        const struct grammar_place *p = &a->places[s->first + i];
        if (!room((void **)&to->places, to->n_places + i, &to->cap_places, MAX_PLACES,
                  sizeof *to->places))
            return GRAMMAR_DEAD;
        to->places[to->n_places + i] = (struct grammar_place){p->at, copy_stack(to, a, p->parent)};
    }
    return to->full ? GRAMMAR_DEAD : state_of(to, s->n);
}

/* The run goes on in an automaton that nobody else uses. */
static bool leave(struct grammar_run *r)
{
    struct grammar_auto *own;
    if (grammar_auto_open(&own, r->a->code, r->a->max_bytes, NULL) != 0)
        return false;
    int32_t path[GRAMMAR_TOKEN_MAX + 1];
    for (int i = 0; i <= r->depth; i++)
        if ((path[i] = copy_state(own, r->a, r->path[i])) < 0) {
            grammar_auto_release(own);
            return false;
        }
    memcpy(r->path, path, ((size_t)r->depth + 1) * sizeof *path);
    detach(r);
    attach(r, own);
    grammar_auto_release(own); /* the run has it */
    return true;
}

bool grammar_auto_step(struct grammar_run *r, int i, unsigned char b)
{
    r->depth = i;
    if (live_bytes(r->a) > r->a->limit_bytes)
        forget(r->a, r);
    int32_t to = work_out(r, i, b);
    if (r->a->full && forget(r->a, r))
        to = work_out(r, i, b);
    if (r->a->full && r->a->refs > 1 && leave(r))
        to = work_out(r, i, b);
    struct grammar_auto *a = r->a;
    to = a->full ? GRAMMAR_DEAD : to;
    a->to[(size_t)r->path[i] * (size_t)a->n_classes + a->class_of[b]] = to;
    r->path[i + 1] = to;
    return to >= 0;
}
