/* Regular expressions as grammars: the part of ECMA-262's and Python's language that is regular.
 * Understood: text, `.`, classes, \d \w \s and their opposites, groups, |, * + ? {n,m}, ^ and $ at the ends.
 * Refused by name: what looks around or back, word borders, flags, properties of characters.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_REGEX_H
#define API_REGEX_H
#include "base/err.h"
#include "engine/text/grammar.h"

enum {
    REGEX_QUOTED = 1, /* what it matches stands within a JSON string */
    REGEX_SEARCH = 2, /* it may match anywhere in the text, unless ^ and $ say otherwise */
};

struct regex {
    struct grammar *g;
    struct arena *arena; /* the grammar's */
    const char *param;   /* the request's field, for errors */
    unsigned flags;
    int least, most; /* characters of a match that are wanted; most 0: any number */
    /* what came of it: characters it has at least and at most, max -1 for no end.  Where these may be others
     * than are wanted, the expression was too much to count. */
    grammar_sym sym;
    int min, max;
};
int regex_compile(struct regex *x, const char *text, struct err *e);
#endif
