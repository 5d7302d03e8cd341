/* Which tokens may come next in a grammar.  The vocabulary is sorted, so that a beginning that many tokens
 * share is followed once, and one that does not fit leaves out all of them. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/grammar_int.h"
#include "engine/text/tokenizer.h"

struct grammar_vocab {
    const struct tokenizer *t;
    int n;
    struct word {
        const char *s;
        int32_t id;
        uint16_t len, same; /* bytes that it begins with like the word before */
    } * words;
    int n_ends;
    int32_t *ends; /* tokens that end an answer */
};

static int compare(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    int n = x->len < y->len ? x->len : y->len, by = memcmp(x->s, y->s, (size_t)n);
    return by != 0 ? by : x->len != y->len ? x->len - y->len : (x->id > y->id) - (x->id < y->id);
}

int grammar_vocab_open(struct grammar_vocab **out, const struct tokenizer *t, struct err *e)
{
    int n_vocab = tokenizer_info(t)->n_vocab;
    struct grammar_vocab *w = mem_try(1, sizeof *w);
    if (w) {
        w->t = t;
        w->words = mem_try((size_t)n_vocab, sizeof *w->words);
        w->ends = mem_try((size_t)n_vocab, sizeof *w->ends);
    }
    if (!w || !w->words || !w->ends) {
        grammar_vocab_close(w);
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %d", n_vocab);
    }
    for (int32_t id = 0; id < n_vocab; id++) {
        size_t len;
        const char *s = tokenizer_piece(t, id, false, &len);
        if (tokenizer_is_end(t, id))
            w->ends[w->n_ends++] = id;
        else if (len > 0 && len <= GRAMMAR_TOKEN_MAX)
            w->words[w->n++] = (struct word){s, id, (uint16_t)len, 0};
    }
    qsort(w->words, (size_t)w->n, sizeof *w->words, compare);
    for (int i = 1; i < w->n; i++) {
        const struct word *a = &w->words[i - 1];
        struct word *b = &w->words[i];
        while (b->same < a->len && b->same < b->len && a->s[b->same] == b->s[b->same])
            b->same++;
    }
    *out = w;
    return 0;
}

void grammar_vocab_close(struct grammar_vocab *w)
{
    if (!w)
        return;
    free(w->words);
    free(w->ends);
    free(w);
}

static const char *piece(const struct grammar_vocab *w, const struct grammar_run *r, int32_t id,
                         size_t *len)
{
    return tokenizer_piece(w->t, id, grammar_shows(grammar_run_of(r), id), len);
}

bool grammar_vocab_allow(const struct grammar_vocab *w, struct grammar_run *r, int32_t id,
                         bool end_allowed)
{
    size_t len, i = 0;
    if (tokenizer_is_end(w->t, id))
        return end_allowed && grammar_run_may_end(r);
    const char *s = piece(w, r, id, &len);
    while (i < len && i < GRAMMAR_TOKEN_MAX && grammar_run_step(r, (int)i, (unsigned char)s[i]))
        i++;
    return len > 0 && i == len;
}

void grammar_vocab_push(const struct grammar_vocab *w, struct grammar_run *r, int32_t id)
{
    size_t len;
    const char *s = piece(w, r, id, &len);
    grammar_run_push(r, s, len);
}

void grammar_vocab_mark(const struct grammar_vocab *w, struct grammar_run *r, bool end_allowed,
                        bool *allowed)
{
    const struct grammar *g = grammar_run_of(r);
    int reached = 0; /* bytes of the word before that fit */
    for (int i = 0; i < w->n; i++) {
        const struct word *word = &w->words[i];
        if (word->same > reached) /* the byte that did not fit is in this one too */
            continue;
        for (reached = word->same; reached < word->len; reached++)
            if (!grammar_run_step(r, reached, (unsigned char)word->s[reached]))
                break;
        if (reached == word->len)
            allowed[word->id] = true;
    }
    for (int i = 0; i < g->n_shown; i++)
        allowed[g->shown[i]] = grammar_vocab_allow(w, r, g->shown[i], end_allowed);
    for (int i = 0; i < w->n_ends && end_allowed && grammar_run_may_end(r); i++)
        allowed[w->ends[i]] = true;
}
