/* What the files of grammar.h share: a grammar as it is built, as it is followed, and the automaton that
 * comes of following it.
 * Thread: as grammar.h says; an automaton is the thread's whose runs it has. */
#ifndef ENGINE_TEXT_GRAMMAR_INT_H
#define ENGINE_TEXT_GRAMMAR_INT_H
#include "engine/text/grammar.h"

enum { GRAMMAR_TOKEN_MAX = 256 }; /* bytes that are followed at a time */
enum { GRAMMAR_SHOWN_MAX = 8 };

/* Symbol 0 ends a sequence. */
enum { SYM_RULE = 1, SYM_BYTE = 2, SYM_SET = 3 };

struct grammar_alt {
    struct grammar_alt *next; /* of the same rule */
    grammar_sym seq[];        /* a 0 behind the last */
};

/* What can be reached from the start, as one block of words: grammars that are built alike are the same bytes.
 * Behind the head stand first [n_rules + 1], alts [n_alts], seq [n_seq], and the sets, eight words each. */
struct grammar_code {
    uint32_t n_words; /* of all, these counted */
    uint32_t n_rules, n_alts, n_seq, n_sets;
    uint32_t n_shown;
    int32_t shown[GRAMMAR_SHOWN_MAX];
    uint32_t words[];
};

struct grammar {
    struct arena *arena;
    struct grammar_alt **rules; /* [n_rules] first alternative of each */
    struct grammar_set *sets;   /* [n_sets] */
    int n_rules, n_sets;
    grammar_sym start;                /* a rule */
    int32_t shown[GRAMMAR_SHOWN_MAX]; /* [n_shown] control tokens that are text */
    int n_shown;
    const struct grammar_code *code; /* from grammar_start on */
    bool failed;
};

static inline grammar_sym grammar_sym_of(uint32_t kind, uint32_t value)
{
    return value << 2 | kind;
}
static inline uint32_t grammar_sym_kind(grammar_sym s)
{
    return s & 3;
}
static inline uint32_t grammar_sym_value(grammar_sym s)
{
    return s >> 2;
}

/* grammar_code.c: rule 0 is the start. */
const struct grammar_code *grammar_code_make(const struct grammar *g); /* NULL without memory */

/* ---- grammar_auto.c ---- */

enum { GRAMMAR_UNKNOWN = 0, GRAMMAR_DEAD = -1 }; /* instead of a state */
enum { GRAMMAR_START = 1 };                      /* the state at the beginning */

/* Which tokens may come at a state: a bit each, or their ids where they are few. */
struct grammar_mask {
    size_t bytes;
    bool list;
    int n; /* ids, or words of 32 bits */
    uint32_t of[];
};

/* Where texts may stand: the places in the grammar, and what the bytes do that were tried there. */
struct grammar_state {
    int first, n;  /* places */
    int32_t chain; /* next state of the same hash, or GRAMMAR_DEAD */
    bool may_end;
    struct grammar_mask *mask; /* NULL: not known */
};

struct grammar_run {
    struct grammar_auto *a;
    struct grammar_run *next; /* of the same automaton */
    int64_t work;             /* places that were looked at, for those who count */
    int depth;                /* path[0 ... depth] are states */
    /* after the text so far, and then after each byte of a token */
    int32_t path[GRAMMAR_TOKEN_MAX + 1];
};

struct grammar_auto {
    struct grammar_code *code; /* its own */
    const uint32_t *first, *alts, *seq;
    const struct grammar_set *sets;
    int refs;
    struct grammar_run *runs;
    size_t max_bytes, limit_bytes, mask_bytes;
    struct grammar_auto *older; /* for those who keep several */

    unsigned char class_of[256]; /* bytes that the grammar never tells apart */
    int n_classes;
    struct grammar_state *states; /* [cap_states], the first unused */
    int32_t *to;                  /* [cap_states][n_classes] */
    int32_t *state_buckets;       /* [cap_states] */
    int n_states, cap_states;

    struct grammar_place *places; /* of all states */
    int n_places, cap_places;
    struct grammar_node *nodes; /* [cap_nodes], the first unused */
    int32_t *node_buckets;      /* [cap_nodes] */
    int n_nodes, cap_nodes;
    struct grammar_open *open; /* [n_open] places that are being opened */
    int32_t *open_buckets;     /* [cap_open] */
    int n_open, cap_open;
    bool full; /* a limit was hit */
};

/* An automaton of its own for a code; refs is 1. */
int grammar_auto_open(struct grammar_auto **out, const struct grammar_code *code, size_t max_bytes,
                      struct err *e);
void grammar_auto_release(struct grammar_auto *a);
size_t grammar_auto_bytes(const struct grammar_auto *a);
/* Takes a mask (from malloc) for where the run's text is. */
void grammar_auto_keep(struct grammar_run *r, struct grammar_mask *mask);
/* A run at the beginning; it holds the automaton. */
int grammar_auto_run(struct grammar_run **out, struct grammar_auto *a, struct err *e);
void grammar_auto_end(struct grammar_run *r);
/* path[i + 1] from path[i], worked out. */
bool grammar_auto_step(struct grammar_run *r, int i, unsigned char b);

/* Looks ahead: the places after i + 1 bytes from those after i, by byte b; false when there are none. */
static inline bool grammar_run_step(struct grammar_run *r, int i, unsigned char b)
{
    const struct grammar_auto *a = r->a;
    const int32_t to = a->to[(size_t)r->path[i] * (size_t)a->n_classes + a->class_of[b]];
    if (to == GRAMMAR_UNKNOWN)
        return grammar_auto_step(r, i, b);
    if (to < 0)
        return false;
    r->path[i + 1] = to;
    return true;
}
#endif
