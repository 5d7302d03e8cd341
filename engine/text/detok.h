/* Text of a stream of tokens: every push gives whole UTF-8 characters only and keeps an unfinished
 * one back, at most 3 bytes.  What comes out is always valid UTF-8: broken bytes become U+FFFD.
 * Thread: one at a time. */
#ifndef ENGINE_TEXT_DETOK_H
#define ENGINE_TEXT_DETOK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct tokenizer;

struct detok {
    const struct tokenizer *t;
    char pending[4]; /* an unfinished character */
    size_t n_pending;
    bool special; /* control tokens are written too */
    bool strip;   /* the next token begins the text: its SentencePiece space goes */
};

/* at_start: the first token pushed begins a text, rather than going on after a prompt.  Keeps t. */
void detok_init(struct detok *d, const struct tokenizer *t, bool at_start, bool special);
/* Appends what is now complete to out, perhaps nothing.  On an error (ERR_INVALID: no such id,
 * ERR_TOOBIG: out is full, ERR_NOMEM) nothing changes. */
int detok_push(struct detok *d, int32_t id, struct buf *out, struct err *e);
/* The end: an unfinished character becomes U+FFFD.  d can be used again for a text that goes on. */
int detok_flush(struct detok *d, struct buf *out, struct err *e);
#endif
