/* What texts should not say: an operator's list of words and regular expressions in categories, and a search for them
 * in texts that are whole or come in pieces.
 *
 *   # A comment.
 *   [violence]            a category, whose finds end a text
 *   blow up               words: in small or large letters, with any white space between them, no part of a longer word
 *   /\bkill(s|ed)?\b/i    a regular expression (PCRE2); i: small or large letters
 *   [politics flag]       a category whose finds are only told
 *
 * Thread: a filter never changes and is everybody's; a run is one thread's. */
#ifndef ENGINE_TEXT_FILTER_H
#define ENGINE_TEXT_FILTER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum {
    FILTER_CATEGORIES_MAX = 64, /* a bit each */
    FILTER_NAME_MAX = 64,
    FILTER_PATTERNS_MAX = 1024, /* compiled: a regular expression, or many words */
    FILTER_LINE_MAX = 1024,
    FILTER_FILE_MAX = 1 << 22,
    FILTER_WINDOW = 1024 /* bytes of a text that are held back at most */
};

struct filter;
/* name: of the file, for errors, which tell the line. */
int filter_open(struct filter **out, const char *text, size_t n, const char *name, struct err *e);
void filter_close(struct filter *f); /* NULL is allowed */
int filter_categories(const struct filter *f);
const char *filter_name(const struct filter *f, int category);
bool filter_blocks(const struct filter *f, int category);

/* The categories of what is in a whole text, a bit each.  A pattern that takes too long counts as found: nobody can
 * say that it is not there.  ERR_NOMEM. */
int filter_run_scan(const struct filter *f, const char *s, size_t n, uint64_t *found,
                    struct err *e);

/* ---- A text that comes in pieces ---- */

struct filter_run;
/* blocks: what is found in such a category ends the text; else it is only told. */
int filter_run_open(struct filter_run **out, const struct filter *f, bool blocks, struct err *e);
void filter_run_close(struct filter_run *r); /* NULL is allowed */
/* More of the text, in whole characters; end: that was all.  What may be given out is appended to out: all up to
 * where something that is looked for may have begun.  false: the text ends here, in front of what was found, and
 * no more is taken. */
bool filter_run_push(struct filter_run *r, const char *s, size_t n, bool end, struct buf *out);
uint64_t filter_run_found(const struct filter_run *r); /* so far */
#endif
