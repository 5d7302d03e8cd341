/* A text that goes on through a grammar: the states of grammar_auto.c that it comes to. */
#include "engine/text/grammar_int.h"

enum { OWN_BYTES = 4 << 20 }; /* of an automaton that one run has for itself, before it forgets */

int grammar_run_open(struct grammar_run **out, const struct grammar *g, struct err *e)
{
    struct grammar_auto *a = NULL;
    int rc = grammar_auto_open(&a, g->code, OWN_BYTES, e);
    if (rc == 0)
        rc = grammar_auto_run(out, a, e);
    grammar_auto_release(a);
    return rc;
}

void grammar_run_close(struct grammar_run *r)
{
    if (r)
        grammar_auto_end(r);
}

bool grammar_run_push(struct grammar_run *r, const char *s, size_t n)
{
    if (n == 0 || n > GRAMMAR_TOKEN_MAX)
        return n == 0;
    for (size_t i = 0; i < n; i++)
        if (!grammar_run_step(r, (int)i, (unsigned char)s[i]))
            return false;
    r->path[0] = r->path[n];
    r->depth = 0;
    return true;
}

bool grammar_run_may_end(const struct grammar_run *r)
{
    return r->a->states[r->path[0]].may_end;
}

bool grammar_run_ended(const struct grammar_run *r)
{
    const struct grammar_state *s = &r->a->states[r->path[0]];
    return s->may_end && s->n == 1; /* nothing but the end */
}
