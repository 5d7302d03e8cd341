/* Left recursion: a rule that comes to itself before any byte, with something left to do behind it.  Following
 * such a grammar would open the rule within itself without an end. */
#include <stdlib.h>

#include "engine/text/grammar_int.h"

enum { MAX_WORK = 1 << 25 };

struct search {
    const struct grammar *g;
    bool *empty; /* [n_rules] the empty text is one of the rule's */
    bool *seen;  /* [2 * n_rules] rule, and whether something waits behind it */
    int *todo;   /* [2 * n_rules] */
    int n_todo;
    int64_t work;
};

static bool is_empty(const struct search *s, grammar_sym sym)
{
    return grammar_sym_kind(sym) == SYM_RULE && s->empty[grammar_sym_value(sym)];
}

static void find_empty(struct search *s)
{
    for (bool more = true; more && s->work > 0;) {
        more = false;
        for (int i = 0; i < s->g->n_rules; i++)
            for (const struct grammar_alt *a = s->g->rules[i]; a != NULL && !s->empty[i];
                 a = a->next) {
                const grammar_sym *at = a->seq;
                for (; *at != 0 && is_empty(s, *at); at++)
                    s->work--;
                s->work--;
                s->empty[i] = *at == 0;
                more = more || s->empty[i];
            }
    }
}

static void visit(struct search *s, int rule, bool waits)
{
    const int at = 2 * rule + waits;
    if (!s->seen[at])
        s->todo[s->n_todo++] = at;
    s->seen[at] = true;
}

static bool comes_back(struct search *s, int rule)
{
    for (int i = 0; i < 2 * s->g->n_rules; i++)
        s->seen[i] = false;
    s->work -= s->g->n_rules;
    s->n_todo = 0;
    for (int at = 2 * rule;; at = s->todo[--s->n_todo]) {
        for (const struct grammar_alt *a = s->g->rules[at / 2]; a != NULL && s->work > 0;
             a = a->next)
            for (const grammar_sym *x = a->seq; *x != 0; x++, s->work--) {
                if (grammar_sym_kind(*x) == SYM_RULE)
                    visit(s, (int)grammar_sym_value(*x), at % 2 == 1 || x[1] != 0);
                if (!is_empty(s, *x))
                    break;
            }
        if (s->n_todo == 0 || s->work <= 0)
            return s->seen[2 * rule + 1];
    }
}

int grammar_left_recursive(struct grammar *g, const grammar_sym *rules, int n)
{
    const size_t n_rules = (size_t)g->n_rules;
    struct search s = {.g = g,
                       .empty = mem_try(n_rules + 1, sizeof(bool)),
                       .seen = mem_try(2 * n_rules + 1, sizeof(bool)),
                       .todo = mem_try(2 * n_rules + 1, sizeof(int)),
                       .work = MAX_WORK};
    int found = -1;
    g->failed = g->failed || !s.empty || !s.seen || !s.todo;
    if (!g->failed)
        find_empty(&s);
    for (int i = 0; i < n && found < 0 && !g->failed; i++) {
        if (comes_back(&s, (int)grammar_sym_value(rules[i])))
            found = i;
        g->failed = s.work <= 0;
    }
    free(s.empty);
    free(s.seen);
    free(s.todo);
    return found;
}
