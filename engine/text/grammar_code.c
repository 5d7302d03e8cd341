/* A grammar as one block of words: the rules that can be reached, numbered in the order in which they are
 * found, and nothing of the pointers that it was built with. */
#include <string.h>

#include "engine/text/grammar_int.h"

struct maker {
    const struct grammar *g;
    uint32_t *rule_of, *set_of; /* the new number + 1; 0: not found yet */
    uint32_t *rules, *sets;     /* [n_rules], [n_sets] what was found */
    uint32_t n_rules, n_sets;
};

static uint32_t number(uint32_t *of, uint32_t *list, uint32_t *n, uint32_t old)
{
    if (of[old] == 0) {
        list[(*n)++] = old;
        of[old] = *n;
    }
    return of[old] - 1;
}

static grammar_sym translate(struct maker *m, grammar_sym s)
{
    const uint32_t kind = grammar_sym_kind(s), v = grammar_sym_value(s);
    if (kind == SYM_RULE)
        return grammar_sym_of(kind, number(m->rule_of, m->rules, &m->n_rules, v));
    if (kind == SYM_SET)
        return grammar_sym_of(kind, number(m->set_of, m->sets, &m->n_sets, v));
    return s;
}

/* Finds all rules and counts what they have. */
static void find(struct maker *m, struct grammar_code *head)
{
    number(m->rule_of, m->rules, &m->n_rules, grammar_sym_value(m->g->start));
    for (uint32_t i = 0; i < m->n_rules; i++)
        for (const struct grammar_alt *a = m->g->rules[m->rules[i]]; a != NULL; a = a->next) {
            const grammar_sym *s = a->seq;
            for (; *s != 0; s++)
                translate(m, *s);
            head->n_alts++;
            head->n_seq += (uint32_t)(s - a->seq) + 1;
        }
    head->n_rules = m->n_rules;
    head->n_sets = m->n_sets;
}

static void fill(struct maker *m, struct grammar_code *c)
{
    uint32_t *first = c->words, *alts = first + c->n_rules + 1, *seq = alts + c->n_alts, n = 0;
    uint32_t at = 0;
    for (uint32_t i = 0; i < m->n_rules; i++) {
        first[i] = n;
        for (const struct grammar_alt *a = m->g->rules[m->rules[i]]; a != NULL; a = a->next) {
            alts[n++] = at;
            for (const grammar_sym *s = a->seq; *s != 0; s++)
                seq[at++] = translate(m, *s);
            seq[at++] = 0;
        }
    }
    first[m->n_rules] = n;
    for (uint32_t i = 0; i < m->n_sets; i++)
        memcpy(seq + at + (size_t)i * 8, &m->g->sets[m->sets[i]], sizeof *m->g->sets);
}

const struct grammar_code *grammar_code_make(const struct grammar *g)
{
    struct maker m = {.g = g};
    struct grammar_code head = {.n_shown = (uint32_t)g->n_shown};
    const size_t n_rules = (size_t)g->n_rules, n_sets = (size_t)g->n_sets + 1;
    m.rule_of = arena_array(g->arena, n_rules, 2 * sizeof *m.rule_of);
    m.set_of = arena_array(g->arena, n_sets, 2 * sizeof *m.set_of);
    if (m.rule_of == NULL || m.set_of == NULL)
        return NULL;
    m.rules = m.rule_of + n_rules;
    m.sets = m.set_of + n_sets;
    find(&m, &head);
    const size_t words =
        (size_t)head.n_rules + 1 + head.n_alts + head.n_seq + (size_t)head.n_sets * 8;
    struct grammar_code *c = arena_alloc(g->arena, sizeof *c + words * sizeof *c->words);
    if (c == NULL)
        return NULL;
    *c = head;
    c->n_words = (uint32_t)(sizeof *c / sizeof *c->words + words);
    memcpy(c->shown, g->shown, sizeof c->shown);
    fill(&m, c);
    return c;
}
