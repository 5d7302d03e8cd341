/* Byte pair encoding: a table of pairs that merge, and the loop that merges the lowest rank first.
 * SentencePiece (spm.h) uses the same loop with ranks made from scores.
 * Thread: any once open; a struct bpe_work belongs to one call. */
#ifndef ENGINE_TEXT_BPE_H
#define ENGINE_TEXT_BPE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/map.h"
#include "engine/text/vocab.h"

struct gguf;

/* (left id, right id) -> rank and merged id. */
struct bpe_slot;
struct bpe_merges {
    struct bpe_slot *slots;
    size_t n, cap; /* cap is a power of two */
    uint64_t seed; /* so that a chosen file cannot make all pairs collide */
};
int bpe_merges_init(struct bpe_merges *m, size_t n_expected); /* ERR_NOMEM */
void bpe_merges_free(struct bpe_merges *m);
/* Of equal pairs the first one counts.  ERR_NOMEM. */
int bpe_merges_put(struct bpe_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id);
bool bpe_merges_get(const struct bpe_merges *m, int32_t left, int32_t right, uint32_t *rank,
                    int32_t *id);

struct bpe_sym {
    int32_t id;         /* -1 never merges */
    uint32_t at;        /* where it starts in the text; the caller's, kept by merging */
    int32_t prev, next; /* neighbours, -1 at the ends */
};
struct bpe_pair;
struct bpe_work {
    struct bpe_sym *syms;
    struct bpe_pair *heap;
    size_t cap;
};
int bpe_work_reserve(struct bpe_work *w, size_t n_syms); /* ERR_NOMEM */
void bpe_work_free(struct bpe_work *w);
/* Merges syms[0..n) (id and at filled in) until no pair is left, always the lowest rank and among
 * equals the leftmost; O(n log n).  The survivors are moved to the front; returns their number. */
size_t bpe_merge(const struct bpe_merges *m, struct bpe_work *w, size_t n);

/* A byte-level model: words of raw bytes to ids. */
struct bpe {
    struct bpe_merges merges;
    int32_t byte_id[256]; /* -1 where the vocabulary lacks the byte */
    bool all_bytes;       /* it lacks none */
    bool whole_words;     /* a word that is a token is that token, whatever the merges say */
    struct map by_piece;  /* raw bytes -> id, filled if whole_words */
};
/* Reads tokenizer.ggml.merges.  Borrows v (for whole_words).  ERR_CORRUPT, ERR_NOMEM. */
int bpe_open(struct bpe *b, const struct gguf *g, const struct vocab *v, bool whole_words,
             struct err *e);
void bpe_close(struct bpe *b);
/* Bytes that the vocabulary lacks give no token, as in the reference implementation. */
int bpe_word(const struct bpe *b, struct bpe_work *w, const char *word, size_t len,
             struct token_list *out, struct err *e);
#endif
