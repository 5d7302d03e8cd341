/* White space around thoughts and answer belongs to neither. */
#include "api/think.h"

#include <string.h>

#include "api/tools.h"

enum { HELD_MAX = 1 << 12, BLANKS_MAX = 8 };

static const char opens[] = "<think>", closes[] = "</think>";

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool ends_with(const char *s, size_t n, const char *text)
{
    const size_t len = strlen(text);
    return n >= len && memcmp(s + n - len, text, len) == 0;
}

enum think_start think_start(const char *prompt, size_t n)
{
    while (n > 0 && is_space(prompt[n - 1]))
        n--;
    return ends_with(prompt, n, opens)    ? THINK_OPEN
           : ends_with(prompt, n, closes) ? THINK_NOT
                                          : THINK_MAYBE;
}

void think_init(struct think *t, enum think_start start)
{
    t->state = start == THINK_OPEN    ? THINK_WITHIN
               : start == THINK_MAYBE ? THINK_BEFORE
                                      : THINK_OVER;
    t->opened = start == THINK_OPEN;
    t->begun = false;
    t->n_tokens = 0;
    t->counted = false;
    buf_init(&t->held, HELD_MAX);
}

void think_free(struct think *t)
{
    buf_free(&t->held);
}

static void give(struct think *t, size_t n, struct buf *to)
{
    buf_add(to, buf_str(&t->held), n);
    buf_drop(&t->held, n);
}

/* In front of the first tag: white space and what begins it; anything else is the answer. */
static void take_before(struct think *t, struct buf *said)
{
    const char *s = buf_str(&t->held);
    size_t n = t->held.len;
    while (n > 0 && is_space(*s)) {
        s++;
        n--;
    }
    if (n == sizeof opens - 1 && memcmp(s, opens, n) == 0) {
        buf_clear(&t->held);
        t->state = THINK_WITHIN;
        t->opened = true;
    } else if ((n > 0 && (n >= sizeof opens || memcmp(s, opens, n) != 0)) ||
               t->held.len == HELD_MAX) {
        give(t, t->held.len, said);
        t->state = THINK_OVER;
    }
}

static void take_within(struct think *t, struct buf *thought)
{
    const char *s = buf_str(&t->held);
    const size_t n = t->held.len;
    if (ends_with(s, n, closes)) {
        buf_clear(&t->held);
        t->state = THINK_BEHIND;
        return;
    }
    size_t keep = sizeof closes - 2;
    while (keep > 0 && (keep > n || memcmp(s + n - keep, closes, keep) != 0))
        keep--;
    while (keep < n && is_space(s[n - keep - 1]))
        keep++;
    if (keep < n) {
        give(t, n - keep, thought);
        t->begun = true;
    } else if (!t->begun && n > 0 && is_space(s[0])) {
        buf_clear(&t->held); /* in front of the thoughts */
    } else if (n == HELD_MAX) {
        give(t, n, thought);
    }
}

void think_push(struct think *t, const char *s, size_t n, struct buf *thought, struct buf *said)
{
    for (size_t i = 0; i < n; i++) {
        if (t->state == THINK_OVER) {
            buf_add(said, s + i, n - i);
            return;
        }
        if (t->state == THINK_BEHIND) {
            if (is_space(s[i]))
                continue;
            t->state = THINK_OVER;
            i--;
            continue;
        }
        buf_addc(&t->held, s[i]);
        if (t->state == THINK_BEFORE)
            take_before(t, said);
        else
            take_within(t, thought);
    }
}

void think_end(struct think *t, struct buf *thought, struct buf *said)
{
    size_t n = t->held.len;
    while (t->state == THINK_WITHIN && n > 0 && is_space(t->held.data[n - 1]))
        n--;
    give(t, n, t->state == THINK_WITHIN ? thought : said);
    buf_clear(&t->held);
    t->state = THINK_OVER;
}

void think_count(struct think *t, int n)
{
    if (t->opened && !t->counted)
        t->n_tokens = n;
    t->counted = t->counted || t->state == THINK_BEHIND || t->state == THINK_OVER;
}

grammar_sym think_grammar(struct grammar *g, enum think_start start, grammar_sym answer)
{
    struct grammar_set blank = {{0}};
    for (const char *p = " \t\r\n"; *p != '\0'; p++)
        blank.bits[*p / 32] |= 1U << *p % 32;
    const grammar_sym blanks = grammar_repeat(g, grammar_one_of(g, &blank), 0, BLANKS_MAX);
    const grammar_sym rest = grammar_seq(g, 2, (grammar_sym[]){blanks, answer});
    const grammar_sym within = tool_grammar_until(g, closes, rest, false);
    if (start == THINK_OPEN)
        return within;
    grammar_sym top = grammar_rule(g);
    grammar_add(g, top, 3, (grammar_sym[]){blanks, grammar_str(g, opens), within});
    grammar_add(g, top, 1, &answer);
    return top;
}
