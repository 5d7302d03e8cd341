/* Which tokens may come next in a grammar.  The vocabulary is a prefix tree, so that a beginning that many
 * tokens share is followed once, and one that does not fit leaves out all of them; and what was found for a state
 * is kept with it.
 *
 * Requests like to ask for the same form again and again, so automatons are kept too, by their grammars: those of
 * runs, and of those that no run has any more the latest. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/grammar_int.h"
#include "engine/text/tokenizer.h"

enum {
    WORD_BITS = 32,
    MIN_AUTO_BYTES = 1 << 20,
    MAX_SHARES = 8,
    WORK_MAX =
        512 /* places for each branch, in a look at the whole vocabulary: half a second or so */
};

struct branch {
    uint32_t end;   /* the next one that is not below it */
    uint32_t words; /* ids[words ... words of the next one - 1] end here */
    uint16_t depth; /* bytes in front of its own */
    unsigned char byte;
};

struct grammar_vocab {
    const struct tokenizer *t;
    int n_vocab, n_words, n_branches, n_ends;
    int32_t *ids;            /* [n_words] in the order of their bytes */
    struct branch *branches; /* [n_branches + 1] from the root down, then on */
    int32_t *ends;           /* [n_ends] tokens that end an answer */
    uint32_t *found;         /* [words_of(n_vocab)] scratch */
    size_t max_bytes;
    struct grammar_auto *autos; /* the latest first */
};

struct word {
    const char *s;
    int32_t id;
    uint16_t len, same; /* bytes that it begins with like the word before */
};

static int words_of(int n_vocab)
{
    return (n_vocab + WORD_BITS - 1) / WORD_BITS;
}

static int compare(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    int n = x->len < y->len ? x->len : y->len, by = memcmp(x->s, y->s, (size_t)n);
    return by != 0 ? by : x->len != y->len ? x->len - y->len : (x->id > y->id) - (x->id < y->id);
}

/* ---- the tree ---- */

/* The tokens with a text, sorted; the others that end an answer go to w->ends. */
static void sort_words(struct grammar_vocab *w, struct word *words, size_t *n_bytes)
{
    for (int32_t id = 0; id < w->n_vocab; id++) {
        size_t len;
        const char *s = tokenizer_piece(w->t, id, false, &len);
        if (tokenizer_is_end(w->t, id))
            w->ends[w->n_ends++] = id;
        else if (len > 0 && len <= GRAMMAR_TOKEN_MAX)
            words[w->n_words++] = (struct word){s, id, (uint16_t)len, 0};
    }
    qsort(words, (size_t)w->n_words, sizeof *words, compare);
    *n_bytes = 0;
    for (int i = 0; i < w->n_words; i++) {
        struct word *b = &words[i];
        const struct word *a = b - 1;
        while (i > 0 && b->same < a->len && b->same < b->len && a->s[b->same] == b->s[b->same])
            b->same++;
        *n_bytes += (size_t)(b->len - b->same);
    }
}

static void grow_tree(struct grammar_vocab *w, const struct word *words)
{
    int open[GRAMMAR_TOKEN_MAX]; /* the branch of each depth */
    int n = 0, depth = 0;
    for (int i = 0; i < w->n_words; i++) {
        const struct word *word = &words[i];
        while (depth > word->same)
            w->branches[open[--depth]].end = (uint32_t)n;
        for (; depth < word->len; depth++, n++) {
            open[depth] = n;
            w->branches[n] = (struct branch){.words = (uint32_t)i,
                                             .depth = (uint16_t)depth,
                                             .byte = (unsigned char)word->s[depth]};
        }
        w->ids[i] = word->id;
    }
    while (depth > 0)
        w->branches[open[--depth]].end = (uint32_t)n;
    w->branches[n].words = (uint32_t)w->n_words;
    w->n_branches = n;
}

int grammar_vocab_open(struct grammar_vocab **out, const struct tokenizer *t, size_t max_bytes,
                       struct err *e)
{
    const int n_vocab = tokenizer_info(t)->n_vocab;
    struct grammar_vocab *w = mem_try(1, sizeof *w);
    struct word *words = mem_try((size_t)n_vocab, sizeof *words);
    size_t n_bytes = 0;
    bool ok = w != NULL && words != NULL;
    if (ok) {
        *w = (struct grammar_vocab){.t = t, .n_vocab = n_vocab, .max_bytes = max_bytes};
        w->ids = mem_try((size_t)n_vocab, sizeof *w->ids);
        w->ends = mem_try((size_t)n_vocab, sizeof *w->ends);
        w->found = mem_try((size_t)words_of(n_vocab), sizeof *w->found);
        ok = w->ids != NULL && w->ends != NULL && w->found != NULL;
    }
    if (ok) {
        sort_words(w, words, &n_bytes);
        w->branches = mem_try(n_bytes + 1, sizeof *w->branches);
        ok = w->branches != NULL;
    }
    if (ok)
        grow_tree(w, words);
    free(words);
    if (!ok) {
        grammar_vocab_close(w);
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %d", n_vocab);
    }
    *out = w;
    return 0;
}

void grammar_vocab_close(struct grammar_vocab *w)
{
    if (!w)
        return;
    for (struct grammar_auto *a = w->autos, *older; a != NULL; a = older) {
        older = a->older;
        grammar_auto_release(a);
    }
    free(w->ids);
    free(w->branches);
    free(w->ends);
    free(w->found);
    free(w);
}

/* ---- automatons that are kept ---- */

static bool same_code(const struct grammar_code *a, const struct grammar_code *b)
{
    return a->n_words == b->n_words && memcmp(a, b, (size_t)a->n_words * sizeof a->n_words) == 0;
}

size_t grammar_vocab_bytes(const struct grammar_vocab *w)
{
    size_t bytes = 0;
    for (const struct grammar_auto *a = w->autos; a != NULL; a = a->older)
        bytes += grammar_auto_bytes(a);
    return bytes;
}

/* Takes out the oldest that no run has while all together are too large. */
static void make_room(struct grammar_vocab *w)
{
    size_t bytes = 0;
    for (struct grammar_auto **at = &w->autos; *at != NULL;) {
        struct grammar_auto *a = *at;
        bytes += grammar_auto_bytes(a);
        if (bytes <= w->max_bytes || a->runs != NULL) {
            at = &a->older;
            continue;
        }
        bytes -= grammar_auto_bytes(a);
        *at = a->older;
        grammar_auto_release(a);
    }
}

int grammar_vocab_run(struct grammar_vocab *w, struct grammar_run **out, const struct grammar *g,
                      struct err *e)
{
    struct grammar_auto **at = &w->autos, *a;
    while (*at != NULL && !same_code((*at)->code, g->code))
        at = &(*at)->older;
    if ((a = *at) != NULL) {
        *at = a->older;
    } else {
        const size_t share = w->max_bytes / MAX_SHARES;
        int rc = grammar_auto_open(&a, g->code, share > MIN_AUTO_BYTES ? share : MIN_AUTO_BYTES, e);
        if (rc != 0)
            return rc;
    }
    a->older = w->autos;
    w->autos = a;
    int rc = grammar_auto_run(out, a, e);
    make_room(w);
    return rc;
}

/* ---- tokens ---- */

static bool shows(const struct grammar_run *r, int32_t id)
{
    const struct grammar_code *c = r->a->code;
    for (uint32_t i = 0; i < c->n_shown; i++)
        if (c->shown[i] == id)
            return true;
    return false;
}

static const char *piece(const struct grammar_vocab *w, const struct grammar_run *r, int32_t id,
                         size_t *len)
{
    return tokenizer_piece(w->t, id, shows(r, id), len);
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

/* Follows the tree; the tokens that fit are set in w->found, and counted.  -1: it is too much work. */
static int walk(const struct grammar_vocab *w, struct grammar_run *r)
{
    int n = 0;
    r->work = 0;
    memset(w->found, 0, (size_t)words_of(w->n_vocab) * sizeof *w->found);
    for (uint32_t i = 0; i < (uint32_t)w->n_branches;) {
        const struct branch *b = &w->branches[i];
        if (r->work > (int64_t)w->n_branches * WORK_MAX)
            return -1;
        if (!grammar_run_step(r, b->depth, b->byte)) {
            i = b->end;
            continue;
        }
        i++;
        for (uint32_t k = b->words; k < b[1].words; k++, n++)
            w->found[w->ids[k] / WORD_BITS] |= 1U << w->ids[k] % WORD_BITS;
    }
    return n;
}

/* What is in w->found, n tokens, as it is kept; NULL without memory. */
static struct grammar_mask *pack(const struct grammar_vocab *w, int n)
{
    const int n_words = words_of(w->n_vocab);
    const bool list = n < n_words;
    const size_t bytes =
        sizeof(struct grammar_mask) + (size_t)(list ? n : n_words) * sizeof *w->found;
    struct grammar_mask *m = mem_try(1, bytes);
    if (m == NULL)
        return NULL;
    *m = (struct grammar_mask){.bytes = bytes, .list = list, .n = list ? n : n_words};
    if (!list) {
        memcpy(m->of, w->found, (size_t)n_words * sizeof *m->of);
        return m;
    }
    int at = 0;
    for (int i = 0; i < n_words; i++)
        for (uint32_t bits = w->found[i]; bits != 0; bits &= bits - 1)
            m->of[at++] = (uint32_t)(i * WORD_BITS + __builtin_ctz(bits));
    return m;
}

static void set(uint32_t *allowed, int32_t id, bool to)
{
    const uint32_t bit = 1U << id % WORD_BITS;
    allowed[id / WORD_BITS] = (allowed[id / WORD_BITS] & ~bit) | (to ? bit : 0);
}

int grammar_vocab_mark(const struct grammar_vocab *w, struct grammar_run *r, bool end_allowed,
                       uint32_t *allowed, struct err *e)
{
    const size_t bytes = (size_t)words_of(w->n_vocab) * sizeof *allowed;
    const struct grammar_mask *m = r->a->states[r->path[0]].mask;
    if (m == NULL) {
        const int n = walk(w, r);
        if (n < 0)
            return err_set(e, ERR_TOOBIG,
                           "the form that the answer must have fits too many texts at once");
        struct grammar_mask *new = pack(w, n);
        if (new != NULL)
            grammar_auto_keep(r, new);
        memcpy(allowed, w->found, bytes);
    } else if (m->list) {
        memset(allowed, 0, bytes);
        for (int i = 0; i < m->n; i++)
            set(allowed, (int32_t)m->of[i], true);
    } else {
        memcpy(allowed, m->of, bytes);
    }
    const struct grammar_code *c = r->a->code;
    for (uint32_t i = 0; i < c->n_shown; i++)
        set(allowed, c->shown[i], grammar_vocab_allow(w, r, c->shown[i], end_allowed));
    for (int i = 0; i < w->n_ends && end_allowed && grammar_run_may_end(r); i++)
        set(allowed, w->ends[i], true);
    return 0;
}
