/* Grammars are built here; grammar_auto.c follows texts through them. */
#include "engine/text/grammar.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "engine/text/grammar_int.h"

enum {
    MAX_RULES = 1 << 17,
    MAX_SETS = 4096,
    MAX_SEQ = GRAMMAR_TEXT_MAX,
    MAX_WORDS = 4096,
    MAX_WORK = 1 << 25
};

struct grammar *grammar_new(struct arena *a)
{
    struct grammar *g = arena_alloc(a, sizeof *g);
    if (g != NULL)
        g->arena = a;
    return g;
}

bool grammar_failed(const struct grammar *g)
{
    return g->failed || g->code == NULL;
}

/* Room for one more in a table of the arena that doubles; the smaller ones stay there unused. */
static bool grow(struct grammar *g, void **table, int n, int max, size_t size)
{
    if (n > 0 && (n & (n - 1)) != 0)
        return true;
    void *more = n < max ? arena_array(g->arena, n > 0 ? 2 * (size_t)n : 1, size) : NULL;
    if (more == NULL) {
        g->failed = true;
        return false;
    }
    if (n > 0)
        memcpy(more, *table, (size_t)n * size);
    *table = more;
    return true;
}

grammar_sym grammar_rule(struct grammar *g)
{
    if (!grow(g, (void **)&g->rules, g->n_rules, MAX_RULES, sizeof *g->rules))
        return 0;
    g->rules[g->n_rules] = NULL;
    return grammar_sym_of(SYM_RULE, (uint32_t)g->n_rules++);
}

void grammar_add(struct grammar *g, grammar_sym rule, int n, const grammar_sym *seq)
{
    if (rule == 0 || n < 0 || n > MAX_SEQ) {
        g->failed = true;
        return;
    }
    struct grammar_alt *alt =
        arena_alloc(g->arena, sizeof *alt + ((size_t)n + 1) * sizeof *alt->seq);
    if (alt == NULL) {
        g->failed = true;
        return;
    }
    if (n > 0)
        memcpy(alt->seq, seq, (size_t)n * sizeof *seq);
    alt->seq[n] = 0;
    alt->next = g->rules[grammar_sym_value(rule)];
    g->rules[grammar_sym_value(rule)] = alt;
}

void grammar_show(struct grammar *g, int32_t token)
{
    if (g->n_shown == GRAMMAR_SHOWN_MAX)
        g->failed = true;
    else
        g->shown[g->n_shown++] = token;
}

bool grammar_shows(const struct grammar *g, int32_t token)
{
    for (int i = 0; i < g->n_shown; i++)
        if (g->shown[i] == token)
            return true;
    return false;
}

/* Whether all symbols of an alternative are known to come to an end. */
static bool ends(const struct grammar_alt *alt, const bool *known, int64_t *work)
{
    for (const grammar_sym *s = alt->seq; *s != 0; s++, --*work)
        if (grammar_sym_kind(*s) == SYM_RULE && !known[grammar_sym_value(*s)])
            return false;
    --*work;
    return true;
}

/* Takes out alternatives that never come to an end: a rule comes to one if one of its alternatives does. */
static void prune(struct grammar *g)
{
    bool *known = arena_array(g->arena, (size_t)g->n_rules, sizeof *known);
    int64_t work = MAX_WORK;
    g->failed = g->failed || known == NULL;
    for (bool more = true; more && !g->failed;) {
        more = false;
        for (int i = 0; i < g->n_rules && work > 0; i++) {
            if (known[i])
                continue;
            for (const struct grammar_alt *a = g->rules[i]; a != NULL && !known[i]; a = a->next)
                known[i] = ends(a, known, &work);
            more = more || known[i];
        }
        g->failed = work <= 0;
    }
    for (int i = 0; i < g->n_rules && !g->failed; i++)
        for (struct grammar_alt **a = &g->rules[i]; *a != NULL;) {
            if (ends(*a, known, &work))
                a = &(*a)->next;
            else
                *a = (*a)->next;
        }
}

void grammar_start(struct grammar *g, grammar_sym s)
{
    grammar_sym rule = grammar_rule(g);
    grammar_add(g, rule, 1, &s);
    g->start = rule;
    if (!g->failed)
        prune(g);
    if (!g->failed)
        g->code = grammar_code_make(g);
}

bool grammar_empty(const struct grammar *g)
{
    return g->rules[grammar_sym_value(g->start)] == NULL;
}

grammar_sym grammar_one_of(struct grammar *g, const struct grammar_set *set)
{
    for (int i = 0; i < g->n_sets; i++)
        if (memcmp(&g->sets[i], set, sizeof *set) == 0)
            return grammar_sym_of(SYM_SET, (uint32_t)i);
    if (!grow(g, (void **)&g->sets, g->n_sets, MAX_SETS, sizeof *g->sets))
        return 0;
    g->sets[g->n_sets] = *set;
    return grammar_sym_of(SYM_SET, (uint32_t)g->n_sets++);
}

grammar_sym grammar_range(struct grammar *g, int lo, int hi)
{
    struct grammar_set set = {{0}};
    if (lo == hi)
        return grammar_sym_of(SYM_BYTE, (uint32_t)lo);
    for (int b = lo; b <= hi; b++)
        set.bits[b / 32] |= 1U << b % 32;
    return grammar_one_of(g, &set);
}

grammar_sym grammar_seq(struct grammar *g, int n, const grammar_sym *seq)
{
    if (n == 1)
        return seq[0];
    grammar_sym rule = grammar_rule(g);
    grammar_add(g, rule, n, seq);
    return rule;
}

grammar_sym grammar_any(struct grammar *g, int n, const grammar_sym *of)
{
    if (n == 1)
        return of[0];
    grammar_sym rule = grammar_rule(g);
    for (int i = 0; i < n; i++)
        grammar_add(g, rule, 1, &of[i]);
    return rule;
}

grammar_sym grammar_text(struct grammar *g, const char *s, size_t n)
{
    if (n == 1)
        return grammar_range(g, (unsigned char)s[0], (unsigned char)s[0]);
    grammar_sym *seq = n <= MAX_SEQ ? arena_array(g->arena, n + 1, sizeof *seq) : NULL;
    if (seq == NULL) {
        g->failed = true;
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        seq[i] = grammar_sym_of(SYM_BYTE, (unsigned char)s[i]);
    return grammar_seq(g, (int)n, seq);
}

grammar_sym grammar_str(struct grammar *g, const char *s)
{
    return grammar_text(g, s, strlen(s));
}

static int compare(const void *a, const void *b)
{
    const struct grammar_word *x = a, *y = b;
    size_t n = x->len < y->len ? x->len : y->len;
    int by = memcmp(x->s, y->s, n);
    return by != 0 ? by : (x->len > y->len) - (x->len < y->len);
}

/* Of sorted texts that are alike in their first `from` bytes, the rest. */
static grammar_sym add_words(struct grammar *g, const struct grammar_word *w, int n, size_t from)
{
    size_t to = from, least = w[0].len; /* the shortest that begins like all is the first */
    while (to < least && w[0].s[to] == w[n - 1].s[to])
        to++;
    if (n == 1 || to == w[n - 1].len) /* one, or all the same */
        return grammar_text(g, w[0].s + from, w[0].len - from);
    grammar_sym rest = grammar_rule(g);
    for (int i = 0, k; i < n && !g->failed; i = k) {
        for (k = i + 1; k < n && w[k].len > to && w[i].len > to && w[k].s[to] == w[i].s[to];)
            k++;
        grammar_sym part = w[i].len > to ? add_words(g, w + i, k - i, to) : 0;
        grammar_add(g, rest, part != 0, &part);
    }
    return grammar_seq(g, 2, (grammar_sym[]){grammar_text(g, w[0].s + from, to - from), rest});
}

grammar_sym grammar_words(struct grammar *g, struct grammar_word *words, int n)
{
    if (n > MAX_WORDS) {
        g->failed = true;
        return 0;
    }
    qsort(words, (size_t)n, sizeof *words, compare);
    return add_words(g, words, n, 0);
}

/* 0 ... n times: s (s (s ...)?)?, one rule each. */
static grammar_sym up_to(struct grammar *g, grammar_sym s, int n)
{
    grammar_sym rest = grammar_seq(g, 0, NULL);
    for (int i = 0; i < n && !g->failed; i++) {
        grammar_sym rule = grammar_rule(g);
        grammar_add(g, rule, 0, NULL);
        grammar_add(g, rule, 2, (grammar_sym[]){s, rest});
        rest = rule;
    }
    return rest;
}

grammar_sym grammar_repeat(struct grammar *g, grammar_sym s, int min, int max)
{
    grammar_sym rest;
    if (max < 0) {
        rest = grammar_rule(g);
        grammar_add(g, rest, 0, NULL);
        grammar_add(g, rest, 2, (grammar_sym[]){s, rest});
    } else {
        rest = up_to(g, s, max > min ? max - min : 0);
    }
    if (min == 0)
        return rest;
    grammar_sym *seq = min < MAX_SEQ ? arena_array(g->arena, (size_t)min + 1, sizeof *seq) : NULL;
    if (seq == NULL) {
        g->failed = true;
        return 0;
    }
    for (int i = 0; i < min; i++)
        seq[i] = s;
    seq[min] = rest;
    return grammar_seq(g, min + 1, seq);
}

/* ---- UTF-8 ---- */

/* Code points lo ... hi of n bytes whose first `same` bytes are equal, as alternatives of rule. */
static void add_chars(struct grammar *g, grammar_sym rule, uint32_t lo, uint32_t hi)
{
    char a[4], b[4];
    int n = utf8_encode(a, lo);
    utf8_encode(b, hi);
    for (int i = 0; i < n - 1; i++) {
        /* Where the bytes first differ, those behind must have their whole range on both sides. */
        uint32_t low = (1U << 6 * (n - 1 - i)) - 1;
        if ((lo & ~low) == (hi & ~low))
            continue;
        if ((lo & low) != 0) {
            add_chars(g, rule, lo, lo | low);
            add_chars(g, rule, (lo | low) + 1, hi);
            return;
        }
        if ((hi & low) != low) {
            add_chars(g, rule, lo, (hi & ~low) - 1);
            add_chars(g, rule, hi & ~low, hi);
            return;
        }
    }
    grammar_sym seq[4];
    for (int i = 0; i < n; i++)
        seq[i] = grammar_range(g, (unsigned char)a[i], (unsigned char)b[i]);
    grammar_add(g, rule, n, seq);
}

grammar_sym grammar_chars(struct grammar *g, uint32_t lo, uint32_t hi)
{
    /* the last of each length, and what lies around the surrogates */
    static const uint32_t parts[][2] = {
        {0, 0x7f}, {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, 0x10ffff}};
    if (hi < 0x80)
        return grammar_range(g, (int)lo, (int)hi);
    grammar_sym rule = grammar_rule(g);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        uint32_t from = lo > parts[i][0] ? lo : parts[i][0];
        uint32_t to = hi < parts[i][1] ? hi : parts[i][1];
        if (from <= to)
            add_chars(g, rule, from, to);
    }
    return rule;
}
