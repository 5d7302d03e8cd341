/* Pre-tokenisers: the regular expressions that cut text into words before byte pair encoding, by
 * the name that a GGUF gives (tokenizer.ggml.pre).
 * Thread: any once open; a struct pretok_work belongs to one call. */
#ifndef ENGINE_TEXT_PRETOK_H
#define ENGINE_TEXT_PRETOK_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct pretok;
struct pretok_work; /* match data of one call at a time */

enum {
    PRETOK_WHOLE_WORDS = 1, /* a word that is a token stays whole ("ignore_merges") */
    PRETOK_BOS = 2,         /* bos goes first unless the file says otherwise */
    PRETOK_NFC = 4,         /* text is normalised to NFC before it is cut */
};

/* "" is "default".  ERR_UNSUPPORTED for a name that is not known, ERR_NOMEM. */
int pretok_open(struct pretok **out, const char *name, size_t len, struct err *e);
void pretok_close(struct pretok *p);
const char *pretok_name(const struct pretok *p); /* static */
int pretok_flags(const struct pretok *p);
/* The names one by one, NULL after the last. */
const char *pretok_name_at(size_t i);

struct pretok_work *pretok_work_new(const struct pretok *p); /* NULL: out of memory */
void pretok_work_free(struct pretok_work *w);

/* Gets each word in order; together they are the text.  Not 0 stops and is passed on. */
typedef int pretok_fn(void *arg, const char *word, size_t len);
/* text must be valid UTF-8.  Where matching would exceed PCRE2's limits the text is cut into blocks
 * of 4 KiB first: always finishes, in time about linear. */
int pretok_split(const struct pretok *p, struct pretok_work *w, const char *text, size_t len,
                 pretok_fn *fn, void *arg);
#endif
