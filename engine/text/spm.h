/* SentencePiece models of the BPE kind ("llama" in GGUF): characters merge into the neighbour pair
 * whose token has the highest score; characters that no token has become byte tokens.
 * Thread: any once open. */
#ifndef ENGINE_TEXT_SPM_H
#define ENGINE_TEXT_SPM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/map.h"
#include "engine/text/bpe.h"
#include "engine/text/vocab.h"

struct gguf;

struct spm {
    const struct vocab *v;
    struct bpe_merges merges;
    struct map chars;     /* one character -> symbol: a token's id, or v->n and above for characters
                             that only occur inside longer tokens */
    int32_t byte_id[256]; /* -1 where there is no byte token */
    bool all_bytes;       /* no byte is without */
    int32_t unk;          /* for what has neither token nor bytes; -1: nothing is emitted */
};
/* Reads tokenizer.ggml.scores.  Keeps v.  ERR_CORRUPT, ERR_NOMEM. */
int spm_open(struct spm *s, const struct gguf *g, const struct vocab *v, int32_t unk,
             struct err *e);
void spm_close(struct spm *s);
/* prefix: the text is a beginning and gets the model's space in front. */
int spm_text(const struct spm *s, struct bpe_work *w, const char *text, size_t len, bool prefix,
             struct token_list *out, struct err *e);
#endif
