/* Sets of characters, as regular expressions and GBNF grammars write them: ranges of code points.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_CHARSET_H
#define API_CHARSET_H
#include <stdbool.h>
#include <stdint.h>

#include "engine/text/grammar.h"

enum { CHARSET_MAX = 128, CHARSET_LAST = 0x10ffff };

struct charset {
    int n;
    struct charset_range {
        uint32_t lo, hi;
    } of[CHARSET_MAX];
    bool full; /* there was no room for a range */
};

void charset_add(struct charset *c, uint32_t lo, uint32_t hi);
void charset_union(struct charset *c, const struct charset *with);
/* All characters that are not in it. */
void charset_invert(struct charset *c);
/* Digits, spaces and word characters of ASCII: 'd', 's', 'w'; the large letter stands for all others.
 * false: it stands for no set. */
bool charset_class(struct charset *c, char letter);
/* One of its characters, as UTF-8; quoted: as it is written within a JSON string (never a zero there). */
grammar_sym charset_symbol(const struct charset *c, struct grammar *g, bool quoted);
#endif
