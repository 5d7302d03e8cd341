/* The tokens of PTX.  A word holds its dots ("ld.global.v4.f32", "%tid.x") and "::" of qualifiers; a
 * single ':' ends it, for it marks a label. */
#include "tests/ptxvm/lex.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_word_start(char c)
{
    return isalpha((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.';
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '.';
}

static void skip_space(struct lex *x)
{
    while (x->at < x->end) {
        if (*x->at == '\n') {
            x->line++;
            x->at++;
        } else if (isspace((unsigned char)*x->at)) {
            x->at++;
        } else if (x->end - x->at >= 2 && x->at[0] == '/' && x->at[1] == '/') {
            while (x->at < x->end && *x->at != '\n')
                x->at++;
        } else if (x->end - x->at >= 2 && x->at[0] == '/' && x->at[1] == '*') {
            for (x->at += 2; x->at < x->end; x->at++) {
                if (*x->at == '\n')
                    x->line++;
                if (*x->at == '*' && x->end - x->at >= 2 && x->at[1] == '/') {
                    x->at += 2;
                    break;
                }
            }
        } else {
            return;
        }
    }
}

/* The digits of base in s[0..n); false for others, none, or more than 64 bits. */
static bool digits(const char *s, size_t n, unsigned base, uint64_t *v)
{
    *v = 0;
    for (size_t i = 0; i < n; i++) {
        int c = (unsigned char)s[i];
        unsigned d = (unsigned)(isdigit(c) ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : 99);
        if (d >= base || *v > (UINT64_MAX - d) / base)
            return false;
        *v = *v * base + d;
    }
    return n > 0;
}

static void number(struct lex *x)
{
    struct lex_token *t = &x->t;
    const char *s = x->at;
    while (x->at < x->end && (isalnum((unsigned char)*x->at) || *x->at == '.'))
        x->at++;
    size_t n = (size_t)(x->at - s);
    /* 1.5e+3: the sign belongs to it unless it is a hexadecimal number. */
    bool is_decimal = memchr(s, '.', n) != NULL;
    if (is_decimal && (s[n - 1] == 'e' || s[n - 1] == 'E') && x->at < x->end &&
        (*x->at == '+' || *x->at == '-')) {
        x->at++;
        while (x->at < x->end && isdigit((unsigned char)*x->at))
            x->at++;
        n = (size_t)(x->at - s);
    }
    t->len = n;
    t->kind = LEX_INT;
    bool ok;
    if (is_decimal) {
        char text[64], *stop = NULL;
        ok = n < sizeof text;
        memcpy(text, s, ok ? n : 0);
        text[ok ? n : 0] = '\0';
        double v = strtod(text, &stop);
        ok = ok && *stop == '\0';
        memcpy(&t->bits, &v, sizeof v);
        t->kind = LEX_F64;
    } else if (n == 10 && s[0] == '0' && (s[1] == 'f' || s[1] == 'F')) {
        ok = digits(s + 2, 8, 16, &t->bits);
        t->kind = LEX_F32;
    } else if (n == 18 && s[0] == '0' && (s[1] == 'd' || s[1] == 'D')) {
        ok = digits(s + 2, 16, 16, &t->bits);
        t->kind = LEX_F64;
    } else {
        if (n > 1 && (s[n - 1] == 'U' || s[n - 1] == 'u'))
            n--;
        if (n > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X'))
            ok = digits(s + 2, n - 2, 16, &t->bits);
        else if (n > 2 && s[0] == '0' && (s[1] == 'b' || s[1] == 'B'))
            ok = digits(s + 2, n - 2, 2, &t->bits);
        else
            ok = digits(s, n, n > 1 && s[0] == '0' ? 8 : 10, &t->bits);
    }
    if (!ok)
        t->kind = LEX_BAD;
}

void lex_next(struct lex *x)
{
    skip_space(x);
    struct lex_token *t = &x->t;
    *t = (struct lex_token){.at = x->at, .line = x->line};
    if (x->at >= x->end)
        return;
    char c = *x->at;
    if (isdigit((unsigned char)c)) {
        number(x);
        return;
    }
    if (is_word_start(c)) {
        t->kind = LEX_WORD;
        x->at++;
        while (x->at < x->end) {
            if (is_word(*x->at))
                x->at++;
            else if (x->end - x->at > 2 && x->at[0] == ':' && x->at[1] == ':' && is_word(x->at[2]))
                x->at += 2;
            else
                break;
        }
        t->len = (size_t)(x->at - t->at);
        return;
    }
    if (c == '"') {
        t->at = ++x->at;
        while (x->at < x->end && *x->at != '"' && *x->at != '\n')
            x->at++;
        t->len = (size_t)(x->at - t->at);
        t->kind = x->at < x->end && *x->at == '"' ? LEX_STRING : LEX_BAD;
        if (t->kind == LEX_STRING)
            x->at++;
        return;
    }
    t->kind = LEX_MARK;
    t->len = 1;
    x->at++;
}

void lex_start(struct lex *x, const char *text, size_t len)
{
    *x = (struct lex){.at = text, .end = text + len, .line = 1};
    lex_next(x);
}
