/* Text <-> token ids.  A tokenizer is made from a GGUF's metadata and never changes afterwards.
 * Thread: any (each call has its own match data). */
#ifndef ENGINE_TEXT_TOKENIZER_H
#define ENGINE_TEXT_TOKENIZER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct gguf;
struct tokenizer;

/* Reads tokenizer.ggml.*: model "gpt2" (byte-level BPE with the pre-tokeniser named by
 * tokenizer.ggml.pre) or "llama" (SentencePiece with byte fallback).  Keeps nothing of g.
 * ERR_CORRUPT for a vocabulary that contradicts itself, ERR_UNSUPPORTED for another model. */
int tokenizer_open(struct tokenizer **out, const struct gguf *g, struct err *e);
/* One that takes over a WordPiece vocabulary, also when it fails.  bos and eos are the model's; ids up to
 * n_vocab without a token are such that give no text.  framed: plain text stands between the two. */
struct wordpiece;
int tokenizer_from_wordpiece(struct tokenizer **out, struct wordpiece *w, int32_t bos, int32_t eos,
                             bool framed, int n_vocab, struct err *e);
void tokenizer_close(struct tokenizer *t);

struct tokenizer_info {
    int n_vocab;
    int32_t bos, eos, unk, pad; /* -1 when the model has none */
    bool add_bos, add_eos;      /* what the file asks for around plain text */
    const char *model, *pre;
};
const struct tokenizer_info *tokenizer_info(const struct tokenizer *t);

enum {
    TOKENIZE_BOS = 1,     /* put bos/eos as the file asks (add_bos, add_eos) */
    TOKENIZE_SPECIAL = 2, /* "<|im_start|>" in the text means the control token */
};
/* Any bytes are text: invalid UTF-8 is tokenised byte by byte.  *ids from malloc (caller frees).
 * ERR_TOOBIG when more than max_ids would come out (and before working on text that must give
 * more); work is bounded by O(len log len) and PCRE2 match limits. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, int flags,
                     int32_t **ids, size_t *n_ids, size_t max_ids, struct err *e);

/* The bytes that a token stands for (not NUL-terminated; "" for control tokens unless special).
 * Pieces of a sequence join to its text; for SPM the first piece's leading space is the
 * caller's to drop (tokenizer_strips_space). */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, bool special, size_t *len);
bool tokenizer_strips_space(const struct tokenizer *t);
/* The raw vocabulary entry, for token strings in answers and for bos_token in chat templates. */
const char *tokenizer_token(const struct tokenizer *t, int32_t id, size_t *len);
/* The id of an exact vocabulary entry, -1 if there is none. */
int32_t tokenizer_find(const struct tokenizer *t, const char *token, size_t len);
/* Ends a generation: eos, eot, eom, <|im_end|> and their kin. */
bool tokenizer_is_end(const struct tokenizer *t, int32_t id);
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);

/* Whole text of ids; *text from malloc, NUL-terminated.  Ids outside the vocabulary: ERR_INVALID. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n_ids, bool special,
                     char **text, size_t *len, struct err *e);
#endif
