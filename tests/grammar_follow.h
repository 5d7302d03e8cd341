/* A text that is followed through a grammar byte by byte, as a model with no longer tokens would write it. */
#ifndef TESTS_GRAMMAR_FOLLOW_H
#define TESTS_GRAMMAR_FOLLOW_H
#include "engine/text/grammar.h"

/* Where it may end, ended(text, bytes) is called, unless NULL.  Is the whole text one of the grammar's?  Closes r. */
static inline bool grammar_follow(struct grammar_run *r, const char *text, size_t n,
                                  void (*ended)(const char *text, size_t n))
{
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        ok = grammar_run_push(r, text + i, 1);
        if (ok && ended != NULL && grammar_run_may_end(r))
            ended(text, i + 1);
    }
    ok = ok && grammar_run_may_end(r);
    grammar_run_close(r);
    return ok;
}
#endif
