/* The tokenizer of CLIP text encoders: byte pair encoding in which the end of a word is part of its
 * last token ("cat</w>").  Text is normalised as Hugging Face's fast tokenizer does it: NFC, runs of
 * white space to one space, lower case, then cut into words by one regular expression.
 * Thread: any once open; a struct clip_bpe_work belongs to one call at a time. */
#ifndef ENGINE_TEXT_CLIP_BPE_H
#define ENGINE_TEXT_CLIP_BPE_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/text/vocab.h"

struct clip_bpe;
enum { CLIP_BPE_MAX_BYTES = 1 << 20 }; /* of a text */

/* Reads vocab.json and merges.txt of a directory, or its tokenizer.json where one is missing.  pad is
 * the token that pads; NULL: what special_tokens_map.json or tokenizer_config.json say, else eos.
 * ERR_NOTFOUND, ERR_IO, ERR_CORRUPT, ERR_UNSUPPORTED, ERR_NOMEM. */
int clip_bpe_open(struct clip_bpe **out, const char *dir, const char *pad, struct err *e);
void clip_bpe_close(struct clip_bpe *t); /* NULL is allowed */

struct clip_bpe_info {
    int n_vocab;      /* the highest id + 1 */
    int32_t bos, eos; /* <|startoftext|>, <|endoftext|> */
    int32_t pad;      /* eos for SD 1.x and SDXL's first, "!" for SD 2.x and SDXL's second */
    int32_t comma;    /* ",</w>", or -1 */
};
const struct clip_bpe_info *clip_bpe_info(const struct clip_bpe *t);

/* What a call works with.  Making it costs more than a short text does: keep it for several. */
struct clip_bpe_work;
struct clip_bpe_work *clip_bpe_work_new(const struct clip_bpe *t); /* NULL: out of memory */
void clip_bpe_work_free(struct clip_bpe_work *w);                  /* NULL is allowed */

/* Appends the ids of text without bos, eos and padding.  The three special tokens in the text are
 * these tokens, so with a pad of "!" every exclamation mark is one, as in the reference.  Invalid
 * UTF-8 becomes U+FFFD.  ERR_TOOBIG for a longer text or from the list's maximum; ERR_NOMEM. */
int clip_bpe_encode(const struct clip_bpe *t, struct clip_bpe_work *w, const char *text, size_t len,
                    struct token_list *out, struct err *e);
#endif
