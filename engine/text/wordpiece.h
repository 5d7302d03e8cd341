/* BERT's tokenizer (WordPiece): text is cleaned, lower-cased and stripped of accents, cut at white
 * space and punctuation, and each word is taken apart into the longest pieces that the vocabulary has,
 * all but the first written with "##" in front.  And the way back, for captions.
 * Thread: any once open. */
#ifndef ENGINE_TEXT_WORDPIECE_H
#define ENGINE_TEXT_WORDPIECE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/text/vocab.h"

struct wordpiece;
enum {
    WORDPIECE_MAX_BYTES = 1 << 20, /* of a text */
    WORDPIECE_PIECE_MAX = 256
};

/* Reads vocab.txt of a directory, or its tokenizer.json where there is none; tokenizer_config.json,
 * where it is, says do_lower_case, strip_accents and tokenize_chinese_chars.
 * ERR_NOTFOUND, ERR_IO, ERR_CORRUPT, ERR_UNSUPPORTED, ERR_NOMEM. */
int wordpiece_open(struct wordpiece **out, const char *dir, struct err *e);
void wordpiece_close(struct wordpiece *t); /* NULL is allowed */

struct wordpiece_info {
    int n_vocab;                      /* the highest id + 1 */
    int32_t cls, sep, pad, unk, mask; /* -1 where the vocabulary has none; unk is always there */
    bool lower;
};
const struct wordpiece_info *wordpiece_info(const struct wordpiece *t);
/* As the vocabulary has it, "##" included; "" where there is none. */
struct vocab_str wordpiece_token(const struct wordpiece *t, int32_t id);
int32_t wordpiece_find(const struct wordpiece *t, const char *token); /* -1: none */

/* Appends the ids of text, without [CLS] and [SEP].  "[SEP]" and its kin in the text are these tokens.
 * Invalid UTF-8 becomes U+FFFD, which goes.  ERR_TOOBIG for a longer text or from the list's maximum;
 * ERR_NOMEM. */
int wordpiece_encode(const struct wordpiece *t, const char *text, size_t len,
                     struct token_list *out, struct err *e);
/* What a token adds to a text in which others stand before it: " word", "piece", "."; special tokens
 * nothing.  Without the space it begins a text.  Returns the bytes, at most WORDPIECE_PIECE_MAX. */
size_t wordpiece_piece(const struct wordpiece *t, int32_t id, char *piece);
/* Appends the text of ids: words with a space between, but none before "." and the like.  Special
 * tokens and ids beyond the vocabulary are left out.  ERR_TOOBIG when out is full. */
int wordpiece_decode(const struct wordpiece *t, const int32_t *ids, size_t n, struct buf *out,
                     struct err *e);
#endif
