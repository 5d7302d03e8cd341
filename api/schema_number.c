/* Numbers between two bounds, as a grammar of their digits.
 *
 * Both bounds become decimals.  A number without its sign is a whole part and a fraction: whole parts
 * strictly between those of the bounds have any fraction, those of a bound one that is on its side.
 * Numbers with bounds are written without an exponent. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/schema.h"

enum { MAX_DIGITS = 16, TEXT_MAX = 40 };

/* A bound of the digits: "12" and "05"; both parts without zeros that say nothing. */
struct decimal {
    bool set, strict;
    char whole[TEXT_MAX], fraction[TEXT_MAX];
};

static grammar_sym none(struct schema *s)
{
    return grammar_seq(s->g, 0, NULL);
}

static grammar_sym between(struct schema *s, char lo, char hi)
{
    return grammar_range(s->g, lo, hi);
}

static grammar_sym digits(struct schema *s, int min, int max)
{
    return grammar_repeat(s->g, s->digit, min, max);
}

static void add2(struct schema *s, grammar_sym rule, grammar_sym a, grammar_sym b)
{
    if (a != 0 && b != 0)
        grammar_add(s->g, rule, 2, (grammar_sym[]){a, b});
}

/* ---- whole parts ---- */

/* n digits that are, as a text, at least (up) or at most these. */
static grammar_sym whole_beside(struct schema *s, const char *at, int n, bool up)
{
    if (n == 0)
        return none(s);
    grammar_sym rule = grammar_rule(s->g);
    add2(s, rule, between(s, at[0], at[0]), whole_beside(s, at + 1, n - 1, up));
    if (up && at[0] < '9')
        add2(s, rule, between(s, (char)(at[0] + 1), '9'), digits(s, n - 1, n - 1));
    if (!up && at[0] > '0')
        add2(s, rule, between(s, '0', (char)(at[0] - 1)), digits(s, n - 1, n - 1));
    return rule;
}

/* n digits from lo to hi, which are in this order. */
static grammar_sym whole_between(struct schema *s, const char *lo, const char *hi, int n)
{
    if (n == 0)
        return none(s);
    grammar_sym rule = grammar_rule(s->g);
    if (lo[0] == hi[0]) {
        add2(s, rule, between(s, lo[0], lo[0]), whole_between(s, lo + 1, hi + 1, n - 1));
        return rule;
    }
    add2(s, rule, between(s, lo[0], lo[0]), whole_beside(s, lo + 1, n - 1, true));
    if (lo[0] + 1 < hi[0])
        add2(s, rule, between(s, (char)(lo[0] + 1), (char)(hi[0] - 1)), digits(s, n - 1, n - 1));
    add2(s, rule, between(s, hi[0], hi[0]), whole_beside(s, hi + 1, n - 1, false));
    return rule;
}

/* lo ... hi, both included, without zeros in front; 0 when there are none. */
static grammar_sym wholes(struct schema *s, uint64_t lo, uint64_t hi)
{
    if (lo > hi)
        return 0;
    grammar_sym rule = grammar_rule(s->g);
    uint64_t least = 1; /* of n digits; "0" is one of one digit */
    for (int n = 1; n <= MAX_DIGITS; n++, least *= 10) {
        uint64_t from = n == 1 ? 0 : least, to = least * 10 - 1;
        from = lo > from ? lo : from;
        to = hi < to ? hi : to;
        if (from > to)
            continue;
        char a[TEXT_MAX], b[TEXT_MAX];
        snprintf(a, sizeof a, "%llu", (unsigned long long)from);
        snprintf(b, sizeof b, "%llu", (unsigned long long)to);
        grammar_sym one = whole_between(s, a, b, n);
        grammar_add(s->g, rule, 1, &one);
    }
    return rule;
}

/* ---- fractions ---- */

/* Zeros to the end; had: digits stand in front of them already. */
static grammar_sym zeros(struct schema *s, bool had)
{
    return grammar_repeat(s->g, between(s, '0', '0'), !had, MAX_DIGITS);
}

/* Digits behind a point that are more (up) or less than these, or equal unless strict; 0: none are. */
static grammar_sym fraction_beside(struct schema *s, const char *at, bool up, bool strict, bool had)
{
    if (at[0] == '\0' && strict) { /* more than nothing: not all zeros */
        grammar_sym more[] = {zeros(s, true), between(s, '1', '9'), digits(s, 0, MAX_DIGITS)};
        return up ? grammar_seq(s->g, 3, more) : 0;
    }
    if (at[0] == '\0')
        return up ? digits(s, !had, MAX_DIGITS) : zeros(s, had);
    grammar_sym rule = grammar_rule(s->g), rest = digits(s, 0, MAX_DIGITS);
    if (!up && had)
        grammar_add(s->g, rule, 0, NULL); /* to end here is less: a digit that is not 0 follows */
    if (up && at[0] < '9')
        add2(s, rule, between(s, (char)(at[0] + 1), '9'), rest);
    if (!up && at[0] > '0')
        add2(s, rule, between(s, '0', (char)(at[0] - 1)), rest);
    add2(s, rule, between(s, at[0], at[0]), fraction_beside(s, at + 1, up, strict, true));
    return rule;
}

/* Between the rests a and b of the fractions of both; 0: none are. */
static grammar_sym fraction_between(struct schema *s, const char *a, bool a_strict, const char *b,
                                    bool b_strict, bool had)
{
    if (a[0] == '\0' && b[0] == '\0')
        return a_strict || b_strict ? 0 : zeros(s, had);
    char low = a[0] != '\0' ? a[0] : '0';
    if (b[0] == '\0' || low > b[0])
        return 0;
    grammar_sym rule = grammar_rule(s->g);
    const char *rest = a[0] != '\0' ? a + 1 : a;
    if (a[0] == '\0' && !a_strict && had)
        grammar_add(s->g, rule, 0, NULL);
    if (low == b[0]) {
        add2(s, rule, between(s, low, low),
             fraction_between(s, rest, a_strict, b + 1, b_strict, true));
        return rule;
    }
    add2(s, rule, between(s, low, low), fraction_beside(s, rest, true, a_strict, true));
    if (low + 1 < b[0])
        add2(s, rule, between(s, (char)(low + 1), (char)(b[0] - 1)), digits(s, 0, MAX_DIGITS));
    add2(s, rule, between(s, b[0], b[0]), fraction_beside(s, b + 1, false, b_strict, true));
    return rule;
}

/* Adds whole, and whole with a fraction; bare: whole alone is right too.  A point wants a digit. */
static void add_with(struct schema *s, grammar_sym rule, grammar_sym whole, grammar_sym fraction,
                     bool bare)
{
    if (whole != 0 && bare)
        grammar_add(s->g, rule, 1, &whole);
    if (whole != 0 && fraction != 0)
        grammar_add(s->g, rule, 3, (grammar_sym[]){whole, between(s, '.', '.'), fraction});
}

/* ---- numbers without a sign ---- */

static grammar_sym unsigned_numbers(struct schema *s, const struct decimal *lo,
                                    const struct decimal *hi)
{
    uint64_t a = strtoull(lo->whole, NULL, 10);
    uint64_t b = hi->set ? strtoull(hi->whole, NULL, 10) : 9999999999999999U;
    grammar_sym rule = grammar_rule(s->g), some = digits(s, 1, MAX_DIGITS);
    grammar_sym low = wholes(s, a, a), high = wholes(s, b, b);
    if (a > b)
        return 0;
    if (hi->set && a == b) {
        add_with(s, rule, low,
                 fraction_between(s, lo->fraction, lo->strict, hi->fraction, hi->strict, false),
                 lo->fraction[0] == '\0' && !lo->strict &&
                     (hi->fraction[0] != '\0' || !hi->strict));
        return rule;
    }
    add_with(s, rule, low, fraction_beside(s, lo->fraction, true, lo->strict, false),
             lo->fraction[0] == '\0' && !lo->strict);
    if (hi->set)
        add_with(s, rule, high, fraction_beside(s, hi->fraction, false, hi->strict, false),
                 hi->fraction[0] != '\0' || !hi->strict);
    if (a < UINT64_MAX && b > 0)
        add_with(s, rule, wholes(s, a + 1, hi->set ? b - 1 : b), some, true);
    return rule;
}

static grammar_sym unsigned_wholes(struct schema *s, const struct decimal *lo,
                                   const struct decimal *hi)
{
    uint64_t a = strtoull(lo->whole, NULL, 10), b = strtoull(hi->whole, NULL, 10);
    a += lo->fraction[0] != '\0' || lo->strict;
    if (!hi->set)
        return wholes(s, a, 9999999999999999U);
    if (hi->fraction[0] == '\0' && hi->strict)
        return b == 0 ? 0 : wholes(s, a, b - 1);
    return wholes(s, a, b);
}

static struct decimal decimal_of(bool set, bool strict, double at)
{
    struct decimal d = {.set = set, .strict = strict, .whole = "0"};
    char text[TEXT_MAX];
    if (!set)
        return d;
    int precise = 15 - (at >= 10 ? (int)log10(at) : 0); /* the digits that a double surely has */
    int n = snprintf(text, sizeof text, "%.*f", precise > 1 ? precise : 1, at);
    while (n > 0 && text[n - 1] == '0')
        n--;
    char *point = strchr(text, '.');
    text[n] = '\0';
    *point = '\0';
    memcpy(d.whole, text, strlen(text) + 1);
    if (n > (int)(point + 1 - text))
        memcpy(d.fraction, point + 1, strlen(point + 1) + 1);
    return d;
}

/* From low to high, both not negative as they stand; low not set: from 0. */
static grammar_sym side(struct schema *s, struct decimal low, struct decimal high, bool integer)
{
    return integer ? unsigned_wholes(s, &low, &high) : unsigned_numbers(s, &low, &high);
}

grammar_sym schema_numbers(struct schema *s, const struct schema_bound *low,
                           const struct schema_bound *high, bool integer)
{
    grammar_sym rule = grammar_rule(s->g);
    if (!high->set || high->at > 0 || (high->at == 0 && !high->strict)) {
        bool bound = low->set && low->at >= 0;
        grammar_sym up = side(s, decimal_of(bound, bound && low->strict, bound ? low->at : 0),
                              decimal_of(high->set, high->strict, high->at), integer);
        if (up != 0)
            grammar_add(s->g, rule, 1, &up);
    }
    if (!low->set || low->at < 0) {
        /* -0 is 0, which is written without a sign: at least "more than 0" */
        bool bound = high->set && high->at < 0;
        struct decimal from = decimal_of(true, !bound || high->strict, bound ? -high->at : 0);
        grammar_sym down =
            side(s, from, decimal_of(low->set, low->strict, low->set ? -low->at : 0), integer);
        if (down != 0)
            add2(s, rule, between(s, '-', '-'), down);
    }
    return rule;
}
