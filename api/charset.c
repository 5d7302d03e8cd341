/* Ranges are kept as they come, and put in order when the others are asked for. */
#include "api/charset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void charset_add(struct charset *c, uint32_t lo, uint32_t hi)
{
    if (c->n == CHARSET_MAX) {
        c->full = true;
        return;
    }
    c->of[c->n++] = (struct charset_range){lo, hi < CHARSET_LAST ? hi : CHARSET_LAST};
}

void charset_union(struct charset *c, const struct charset *with)
{
    for (int i = 0; i < with->n; i++)
        charset_add(c, with->of[i].lo, with->of[i].hi);
    c->full = c->full || with->full;
}

static int compare(const void *a, const void *b)
{
    const struct charset_range *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

void charset_invert(struct charset *c)
{
    struct charset out = {.full = c->full};
    uint32_t next = 0; /* the first that no range so far has */
    qsort(c->of, (size_t)c->n, sizeof *c->of, compare);
    for (int i = 0; i < c->n; i++) {
        if (c->of[i].lo > next)
            charset_add(&out, next, c->of[i].lo - 1);
        next = c->of[i].hi >= next ? c->of[i].hi + 1 : next;
    }
    if (next <= CHARSET_LAST)
        charset_add(&out, next, CHARSET_LAST);
    *c = out;
}

bool charset_class(struct charset *c, char letter)
{
    static const struct {
        char letter;
        int n;
        struct charset_range of[4];
    } classes[] = {{'d', 1, {{'0', '9'}}},
                   {'s', 2, {{'\t', '\r'}, {' ', ' '}}},
                   {'w', 4, {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}}};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        const char small = classes[i].letter;
        if (letter != small && letter != small - 'a' + 'A')
            continue;
        struct charset own = {0};
        for (int k = 0; k < classes[i].n; k++)
            charset_add(&own, classes[i].of[k].lo, classes[i].of[k].hi);
        if (letter != small)
            charset_invert(&own);
        charset_union(c, &own);
        return true;
    }
    return false;
}

/* Adds lo ... hi without what a JSON string writes in another way. */
static void add_plain(struct grammar *g, grammar_sym rule, uint32_t lo, uint32_t hi)
{
    static const uint32_t escaped[] = {'"', '\\'};
    lo = lo < 0x20 ? 0x20 : lo;
    for (size_t i = 0; i < sizeof escaped / sizeof *escaped && lo <= hi; i++) {
        if (escaped[i] < lo || escaped[i] > hi)
            continue;
        if (escaped[i] > lo) {
            grammar_sym before = grammar_chars(g, lo, escaped[i] - 1);
            grammar_add(g, rule, 1, &before);
        }
        lo = escaped[i] + 1;
    }
    if (lo <= hi) {
        grammar_sym rest = grammar_chars(g, lo, hi);
        grammar_add(g, rule, 1, &rest);
    }
}

/* And these, as JSON has them. */
static void add_escaped(struct grammar *g, grammar_sym rule, uint32_t lo, uint32_t hi)
{
    static const char letters[][2] = {{'"', '"'},  {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'},
                                      {'\n', 'n'}, {'\r', 'r'},  {'\t', 't'}};
    for (uint32_t cp = lo > 0 ? lo : 1; cp <= hi && cp <= '\\'; cp++) {
        char text[8] = "";
        for (size_t i = 0; i < sizeof letters / sizeof *letters; i++)
            if (cp == (unsigned char)letters[i][0])
                snprintf(text, sizeof text, "\\%c", letters[i][1]);
        if (text[0] == '\0' && cp < 0x20)
            snprintf(text, sizeof text, "\\u%04x", (unsigned)cp);
        if (text[0] == '\0')
            continue;
        grammar_sym one = grammar_str(g, text);
        grammar_add(g, rule, 1, &one);
    }
}

static bool has_escaped(const struct charset_range *r)
{
    return r->lo < 0x20 || (r->lo <= '"' && r->hi >= '"') || (r->lo <= '\\' && r->hi >= '\\');
}

grammar_sym charset_symbol(const struct charset *c, struct grammar *g, bool quoted)
{
    const struct charset_range *only = c->of;
    if (c->n == 1 && only->hi < 0x80 && !(quoted && has_escaped(only)))
        return grammar_range(g, (int)only->lo, (int)only->hi);
    grammar_sym rule = grammar_rule(g);
    for (int i = 0; i < c->n; i++) {
        if (quoted) {
            add_plain(g, rule, c->of[i].lo, c->of[i].hi);
            add_escaped(g, rule, c->of[i].lo, c->of[i].hi);
        } else {
            grammar_sym one = grammar_chars(g, c->of[i].lo, c->of[i].hi);
            grammar_add(g, rule, 1, &one);
        }
    }
    return rule;
}
