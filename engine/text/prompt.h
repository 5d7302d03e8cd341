/* A prompt for an image, as users of the web UI write it: weights, BREAK, and more than 77 tokens, in
 * the chunks that a CLIP text encoder takes.
 *
 *   (word) 1.1 times   ((word)) 1.21 times   [word] 1/1.1 times   (word:1.3) 1.3 times
 *   \( \) \[ \] \\ are the character itself   BREAK begins the next chunk
 *
 * Brackets without a partner: an opening one counts to the end, a closing one is text.
 * Thread: any; a struct prompt belongs to its arena. */
#ifndef ENGINE_TEXT_PROMPT_H
#define ENGINE_TEXT_PROMPT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "engine/text/clip_bpe.h"

enum {
    PROMPT_CHUNK = 77,      /* tokens: bos, 75 of the text, eos, then padding */
    PROMPT_MAX_CHUNKS = 16, /* 1200 tokens of text */
    PROMPT_MAX_DEPTH = 64,  /* brackets within brackets */
    PROMPT_MAX_BYTES = 1 << 16,
};

enum prompt_flags { PROMPT_PLAIN = 1 /* brackets and BREAK are text, as in diffusers */ };

struct prompt {
    int n_chunks;   /* at least 1 */
    int n_tokens;   /* of the text: without bos, eos and padding */
    int32_t *ids;   /* [n_chunks * PROMPT_CHUNK] */
    float *weights; /* [n_chunks * PROMPT_CHUNK], 1 for bos, eos and padding; within +-100 */
    bool weighted;  /* a weight is not 1 */
};

/* Words that stand for tokens of their own (textual inversion), beside the tokenizer's.  They are found without
 * regard to the case of ASCII letters, and not within longer words. */
struct prompt_word {
    const char *text;
    int32_t first_id; /* then first_id + 1 ... */
    int n_ids;
};
struct prompt_words {
    const struct prompt_word *words;
    int n;
};

/* The hidden state of token i is multiplied by weights[i], and the chunk's states then by what brings
 * their mean back to where it was.  A chunk that fills up within 20 tokens behind a comma ends at the
 * comma.  ERR_INVALID for too deep brackets, ERR_TOOBIG (param is the caller's), ERR_NOMEM. */
int prompt_parse(struct prompt *out, const struct clip_bpe *t, const char *text, size_t len,
                 int flags, struct arena *a, struct err *e);
/* The same with such words; NULL or empty: none. */
struct prompt_source {
    const struct clip_bpe *bpe;
    const struct prompt_words *words;
    int flags;
};
int prompt_parse_with(struct prompt *out, const struct prompt_source *src, const char *text,
                      size_t len, struct arena *a, struct err *e);
/* Empty chunks behind, so that a prompt and its negative one are equally long. */
int prompt_extend(struct prompt *p, const struct clip_bpe *t, int n_chunks, struct arena *a,
                  struct err *e);
#endif
