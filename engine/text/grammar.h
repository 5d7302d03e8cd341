/* Which bytes an answer may be made of: a context-free grammar over bytes, and how far a text has
 * come in it.  It is built from the small to the large:
 *
 *   grammar_sym digit = grammar_range(g, '0', '9');
 *   grammar_sym more = grammar_repeat(g, digit, 0, -1);
 *   grammar_start(g, grammar_seq(g, 2, (grammar_sym[]){grammar_range(g, '1', '9'), more}));
 *
 * What does not fit into the arena or the limits makes the grammar fail, which is asked once, at the
 * end.  Thread: a grammar is one thread's while it is built, and never changes afterwards; a run is
 * one thread's. */
#ifndef ENGINE_TEXT_GRAMMAR_H
#define ENGINE_TEXT_GRAMMAR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

struct grammar;
typedef uint32_t grammar_sym; /* a byte, a set of bytes, or a rule */
struct grammar_set {
    uint32_t bits[8]; /* byte b: bits[b / 32] >> b % 32 & 1 */
};

struct grammar *grammar_new(struct arena *a); /* lives as long as the arena; NULL without memory */
bool grammar_failed(const struct grammar *g);
bool grammar_empty(const struct grammar *g); /* it has a start, and no text fits */
/* A rule that is given its alternatives later, as recursion wants it. */
grammar_sym grammar_rule(struct grammar *g);
void grammar_add(struct grammar *g, grammar_sym rule, int n, const grammar_sym *seq);
/* Control tokens give no text, but for the few that are named here: a grammar sees these as they are written. */
void grammar_show(struct grammar *g, int32_t token);
bool grammar_shows(const struct grammar *g, int32_t token);
/* The last step.  What leads to no text is taken out, so that nobody runs into it. */
void grammar_start(struct grammar *g, grammar_sym s);

grammar_sym grammar_range(struct grammar *g, int lo, int hi); /* one byte of lo ... hi */
grammar_sym grammar_one_of(struct grammar *g, const struct grammar_set *set);
enum { GRAMMAR_TEXT_MAX = 1 << 16 };
grammar_sym grammar_text(struct grammar *g, const char *s, size_t n); /* these bytes */
grammar_sym grammar_str(struct grammar *g, const char *s);            /* and these, to the 0 */
struct grammar_word {
    const char *s;
    size_t len;
};
/* One of n >= 1 texts (sorts them); those that begin alike share their beginning. */
grammar_sym grammar_words(struct grammar *g, struct grammar_word *words, int n);
grammar_sym grammar_seq(struct grammar *g, int n, const grammar_sym *seq);
grammar_sym grammar_any(struct grammar *g, int n, const grammar_sym *of); /* one of them */
/* min ... max times; max -1: no end. */
grammar_sym grammar_repeat(struct grammar *g, grammar_sym s, int min, int max);
/* A character of the code points lo ... hi, as UTF-8; surrogates are left out. */
grammar_sym grammar_chars(struct grammar *g, uint32_t lo, uint32_t hi);

/* The first of these n rules that is left-recursive, or -1; nobody can follow a grammar with such a rule. */
int grammar_left_recursive(struct grammar *g, const grammar_sym *rules, int n);

/* ---- A text that is being made ---- */

struct grammar_run;
int grammar_run_open(struct grammar_run **out, const struct grammar *g, struct err *e);
void grammar_run_close(struct grammar_run *r); /* NULL is allowed */
/* Goes on by these bytes, at most 256.  false: they cannot stand here, and nothing has changed. */
bool grammar_run_push(struct grammar_run *r, const char *s, size_t n);
bool grammar_run_may_end(const struct grammar_run *r);
bool grammar_run_ended(const struct grammar_run *r); /* and nothing else may follow */

/* The vocabulary as a tree of its bytes, so that tokens that begin alike are looked at together. */
struct grammar_vocab;
struct tokenizer;
/* max_bytes: of what is remembered of grammars, the later of which are found ready when they come again. */
int grammar_vocab_open(struct grammar_vocab **out, const struct tokenizer *t, size_t max_bytes,
                       struct err *e);
void grammar_vocab_close(struct grammar_vocab *w);         /* NULL is allowed */
size_t grammar_vocab_bytes(const struct grammar_vocab *w); /* that are remembered */
/* As grammar_run_open, but runs of the same grammar share what they find out.  g need not live on. */
int grammar_vocab_run(struct grammar_vocab *w, struct grammar_run **out, const struct grammar *g,
                      struct err *e);
/* Whether the token may come next: text that fits, or with may_end an end where the text may end. */
bool grammar_vocab_allow(const struct grammar_vocab *w, struct grammar_run *r, int32_t id,
                         bool may_end);
/* The token was chosen: the text goes on by it. */
void grammar_vocab_push(const struct grammar_vocab *w, struct grammar_run *r, int32_t id);
/* Those that may come next, a bit each: id is bit id % 32 of allowed[id / 32], [(n_vocab + 31) / 32].
 * ERR_TOOBIG: texts may be at so many places of the grammar that it would take seconds. */
int grammar_vocab_mark(const struct grammar_vocab *w, struct grammar_run *r, bool may_end,
                       uint32_t *allowed, struct err *e);
#endif
