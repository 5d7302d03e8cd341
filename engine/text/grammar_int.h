/* What grammar.c, grammar_run.c and grammar_vocab.c share.
 * Thread: as grammar.h says. */
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

struct grammar {
    struct arena *arena;
    struct grammar_alt **rules; /* [n_rules] first alternative of each */
    struct grammar_set *sets;   /* [n_sets] */
    int n_rules, n_sets;
    grammar_sym start;                /* a rule */
    int32_t shown[GRAMMAR_SHOWN_MAX]; /* [n_shown] control tokens that are text */
    int n_shown;
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

/* Looks ahead: the places after i + 1 bytes from those after i, by byte b; false when there are none. */
const struct grammar *grammar_run_of(const struct grammar_run *r);
bool grammar_run_step(struct grammar_run *r, int i, unsigned char b);
#endif
