/* Tokens of a Jinja template, with jinja2's whitespace control as trim_blocks and lstrip_blocks set
 * it: a newline after a block or comment tag is dropped, blanks before one at the start of a line
 * too, "-" strips all whitespace on its side, "+" strips none.
 *
 * The lexer has two modes: outside tags it looks for the next tag and gives the text before it;
 * inside it gives expression tokens until the end of the tag.  While a bracket is open "}}" and
 * "%}" do not end the tag, so that {{ {'a': {}} }} works. */
#include <errno.h>
#include <stdlib.h>

#include "api/jinja_int.h"
#include "base/utf8.h"

static int lex_fail(struct jlex *x, const char *msg)
{
    return err_set(x->e, ERR_INVALID, "chat template line %d: %s", x->line, msg);
}

void jinja_lex_init(struct jlex *x, const char *s, size_t n, struct arena *a, struct err *e)
{
    *x = (struct jlex){.s = s, .n = n, .line = 1, .line_starting = true, .a = a, .e = e};
}

/* Goes on to pos, counting lines. */
static void lex_to(struct jlex *x, size_t pos)
{
    for (; x->pos < pos; x->pos++)
        x->line += x->s[x->pos] == '\n';
}

static bool lex_at(const struct jlex *x, size_t pos, const char *what)
{
    size_t n = strlen(what);
    return x->n - pos >= n && memcmp(x->s + pos, what, n) == 0;
}

static size_t lex_spaces(const struct jlex *x, size_t pos)
{
    while (pos < x->n) {
        uint32_t cp;
        int k = utf8_decode(x->s + pos, x->n - pos, &cp);
        if (!utf8_is_space(cp))
            break;
        pos += (size_t)k;
    }
    return pos;
}

/* Where a tag that ends at pos with close ("%}", "#}", "}}") ends after stripping; 0: it does not
 * end here. */
static size_t lex_close(const struct jlex *x, size_t pos, const char *close, bool trim)
{
    if (lex_at(x, pos, close)) {
        pos += 2;
        return trim && pos < x->n && x->s[pos] == '\n' ? pos + 1 : pos;
    }
    if (pos < x->n && x->s[pos] == '-' && lex_at(x, pos + 1, close))
        return lex_spaces(x, pos + 3);
    if (pos < x->n && x->s[pos] == '+' && trim && lex_at(x, pos + 1, close))
        return pos + 3;
    return 0;
}

/* The end of the tag {% word %} that starts at pos, or 0. */
static size_t lex_word_tag(const struct jlex *x, size_t pos, const char *word, bool trim)
{
    if (!lex_at(x, pos, "{%"))
        return 0;
    pos += 2;
    if (pos < x->n && (x->s[pos] == '-' || x->s[pos] == '+'))
        pos++;
    pos = lex_spaces(x, pos);
    if (!lex_at(x, pos, word))
        return 0;
    pos = lex_spaces(x, pos + strlen(word));
    if (!trim && pos < x->n && x->s[pos] == '+')
        return 0;
    return lex_close(x, pos, "%}", trim);
}

/* Length of the text [from, tag) after what the sign behind the tag's opening strips of it. */
static size_t lex_strip(const struct jlex *x, size_t from, size_t tag)
{
    const char *s = x->s + from;
    size_t n = tag - from;
    char sign = tag + 2 < x->n ? x->s[tag + 2] : 0;
    if (sign == '-')
        return jinja_strip(jinja_strn(s, n), NULL, false, true).n;
    if (sign == '+' || x->s[tag + 1] == '{')
        return n;
    size_t line = n;
    while (line > 0 && s[line - 1] != '\n')
        line--;
    if (line == 0 && !x->line_starting)
        return n;
    return lex_spaces(x, from + line) >= tag ? line : n;
}

static bool lex_text(struct jtok *t, int line, const char *p, size_t n)
{
    *t = (struct jtok){.type = T_TEXT, .line = line, .p = p, .n = n};
    return n > 0;
}

/* At {% raw %}: its text becomes one token.  *got: there was text. */
static int lex_raw(struct jlex *x, size_t start, struct jtok *t, bool *got)
{
    lex_to(x, start);
    x->line_starting = x->s[start - 1] == '\n';
    for (size_t i = start; i < x->n; i++) {
        size_t end = x->s[i] == '{' ? lex_word_tag(x, i, "endraw", true) : 0;
        if (end == 0)
            continue;
        *got = lex_text(t, x->line, x->s + start, lex_strip(x, start, i));
        lex_to(x, end);
        x->line_starting = x->s[end - 1] == '\n';
        return 0;
    }
    return lex_fail(x, "Missing end of raw directive");
}

static int lex_comment(struct jlex *x)
{
    for (size_t i = x->pos + 2; i < x->n; i++) {
        size_t end = lex_close(x, i, "#}", true);
        if (end == 0)
            continue;
        lex_to(x, end);
        x->line_starting = x->s[end - 1] == '\n';
        return 0;
    }
    return lex_fail(x, "Missing end of comment tag");
}

/* Gives the opening of the tag at pos. */
static void lex_begin(struct jlex *x, struct jtok *t)
{
    bool var = x->s[x->pos + 1] == '{';
    *t = (struct jtok){.type = var ? T_VAR_BEGIN : T_BLOCK_BEGIN, .line = x->line};
    x->mode = var ? LEX_VAR : LEX_BLOCK;
    x->begin = false;
    x->depth = 0;
    char sign = x->pos + 2 < x->n ? x->s[x->pos + 2] : 0;
    x->pos += sign == '-' || sign == '+' ? 3 : 2;
}

/* Where "{{", "{%" or "{#" stands next, or the end. */
static size_t lex_find_tag(const struct jlex *x, size_t pos)
{
    for (; pos + 1 < x->n; pos++) {
        char next = x->s[pos + 1];
        if (x->s[pos] == '{' && (next == '{' || next == '%' || next == '#'))
            return pos;
    }
    return x->n;
}

static int lex_root(struct jlex *x, struct jtok *t)
{
    if (x->begin) {
        lex_begin(x, t);
        return 0;
    }
    while (x->pos < x->n) {
        size_t from = x->pos, tag = lex_find_tag(x, from);
        if (tag == x->n) {
            lex_text(t, x->line, x->s + from, x->n - from);
            lex_to(x, x->n);
            return 0;
        }
        bool got = lex_text(t, x->line, x->s + from, lex_strip(x, from, tag));
        lex_to(x, tag);
        size_t raw = x->s[tag + 1] == '%' ? lex_word_tag(x, tag, "raw", false) : 0;
        if (raw) {
            if (got) /* the next call comes back here with nothing before the tag */
                return 0;
            int rc = lex_raw(x, raw, t, &got);
            if (rc != 0 || got)
                return rc;
        } else if (x->s[tag + 1] == '#') {
            int rc = lex_comment(x);
            if (rc != 0 || got)
                return rc;
        } else {
            x->begin = got;
            if (!got)
                lex_begin(x, t);
            return 0;
        }
    }
    *t = (struct jtok){.type = T_EOF, .line = x->line};
    return 0;
}

/* ---- inside tags ---- */

static bool is_digit(char ch)
{
    return ch >= '0' && ch <= '9';
}

static bool is_name_start(char ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || ch == '_' ||
           (unsigned char)ch >= 0x80;
}

/* Digits with single underscores between them: the end. */
static size_t lex_digits(const struct jlex *x, size_t i)
{
    while (i < x->n &&
           (is_digit(x->s[i]) || (x->s[i] == '_' && i + 1 < x->n && is_digit(x->s[i + 1]))))
        i++;
    return i;
}

/* The end of a float at i, or 0 when there is none. */
static size_t lex_float_end(const struct jlex *x, size_t i)
{
    if (i > 0 && x->s[i - 1] == '.')
        return 0;
    size_t end = lex_digits(x, i);
    bool is_float = false;
    if (end + 1 < x->n && x->s[end] == '.' && is_digit(x->s[end + 1])) {
        end = lex_digits(x, end + 1);
        is_float = true;
    }
    if (end < x->n && (x->s[end] == 'e' || x->s[end] == 'E')) {
        size_t k = end + 1;
        if (k < x->n && (x->s[k] == '+' || x->s[k] == '-'))
            k++;
        if (k < x->n && is_digit(x->s[k])) {
            end = lex_digits(x, k);
            is_float = true;
        }
    }
    return is_float ? end : 0;
}

/* The end of the integer at *from, which moves behind 0x, 0o or 0b. */
static size_t lex_int_end(const struct jlex *x, size_t *from, int *base)
{
    char c2 = *from + 1 < x->n ? (char)(x->s[*from + 1] | 32) : 0;
    *base = c2 == 'x' ? 16 : c2 == 'o' ? 8 : c2 == 'b' ? 2 : 10;
    if (x->s[*from] != '0' || *base == 10) {
        *base = 10;
        return lex_digits(x, *from);
    }
    *from += 2;
    size_t end = *from;
    while (end < x->n && (is_digit(x->s[end]) || x->s[end] == '_' ||
                          ((x->s[end] | 32) >= 'a' && (x->s[end] | 32) <= 'f')))
        end++;
    return end;
}

static int lex_number(struct jlex *x, struct jtok *t)
{
    char digits[400];
    size_t from = x->pos, end = lex_float_end(x, from), k = 0;
    int base = 10;
    t->type = end ? T_FLOAT : T_INT;
    if (!end)
        end = lex_int_end(x, &from, &base);
    for (size_t i = from; i < end && k < sizeof digits - 1; i++) {
        if (x->s[i] != '_')
            digits[k++] = x->s[i];
    }
    digits[k] = 0;
    char *stop = digits;
    errno = 0;
    if (t->type == T_FLOAT)
        t->f = strtod(digits, &stop);
    else
        t->i = strtoll(digits, &stop, base);
    if (k == 0 || *stop != 0 || k >= sizeof digits - 1 || (t->type == T_INT && errno != 0))
        return lex_fail(x, "this number is not supported");
    if (t->type == T_INT && base == 10 && k > 1 && digits[0] == '0' && strspn(digits, "0") != k)
        return lex_fail(x, "numbers do not start with 0");
    x->pos = end;
    return 0;
}

/* One escape after the backslash at s: how many bytes it takes (0: bad), its text at out. */
static size_t lex_escape(const char *s, size_t n, char out[8], size_t *n_out)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *at = strchr(from, s[0]);
    *n_out = 1;
    if (at && *at) {
        out[0] = to[at - from];
        return 1;
    }
    if (s[0] == '\n') {
        *n_out = 0;
        return 1;
    }
    uint32_t cp = 0;
    size_t used = 0;
    if (s[0] == 'x' || s[0] == 'u' || s[0] == 'U') {
        int digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : 8;
        if (n - 1 < (size_t)digits || !utf8_hex(s + 1, digits, &cp) || cp > 0x10FFFF ||
            (cp >= 0xD800 && cp < 0xE000))
            return 0;
        used = (size_t)digits + 1;
    } else if (s[0] >= '0' && s[0] <= '7') {
        for (; used < 3 && used < n && s[used] >= '0' && s[used] <= '7'; used++)
            cp = cp * 8 + (uint32_t)(s[used] - '0');
    } else if (s[0] == 'N') {
        return 0; /* names of characters */
    } else {      /* not an escape: the backslash stays; the character follows as it is */
        out[0] = '\\';
        return (size_t)-1;
    }
    *n_out = (size_t)utf8_encode(out, cp);
    return used;
}

static int lex_string(struct jlex *x, struct jtok *t)
{
    char quote = x->s[x->pos];
    size_t from = x->pos + 1, end = from;
    bool escapes = false;
    while (end < x->n && x->s[end] != quote) {
        escapes |= x->s[end] == '\\';
        end += x->s[end] == '\\' ? 2 : 1;
    }
    if (end >= x->n)
        return lex_fail(x, "a string has no end");
    t->type = T_STR;
    t->p = x->s + from;
    t->n = end - from;
    if (escapes) {
        /* an escape never grows: \u is 6 bytes for 3, \x 4 for 2, \0 2 for 1 */
        char *out = arena_alloc(x->a, t->n + 8);
        size_t k = 0;
        if (!out)
            return err_set(x->e, ERR_TOOBIG, "the chat template needs too much memory");
        for (size_t i = from; i < end;) {
            if (x->s[i] != '\\') {
                out[k++] = x->s[i++];
                continue;
            }
            char esc[8];
            size_t n_esc, used = lex_escape(x->s + i + 1, end - i - 1, esc, &n_esc);
            if (used == 0)
                return lex_fail(x, "this escape in a string is not supported");
            memcpy(out + k, esc, n_esc);
            k += n_esc;
            i += used == (size_t)-1 ? 1 : used + 1;
        }
        t->p = out;
        t->n = k;
    }
    lex_to(x, end + 1);
    return 0;
}

static const struct {
    char text[3];
    uint8_t type;
} operators[] = {
    {"//", T_FLOORDIV}, {"**", T_POW},   {"==", T_EQ},      {"!=", T_NE},      {">=", T_GE},
    {"<=", T_LE},       {"+", T_ADD},    {"-", T_SUB},      {"/", T_DIV},      {"*", T_MUL},
    {"%", T_MOD},       {"~", T_TILDE},  {"[", T_LBRACKET}, {"]", T_RBRACKET}, {"(", T_LPAREN},
    {")", T_RPAREN},    {"{", T_LBRACE}, {"}", T_RBRACE},   {">", T_GT},       {"<", T_LT},
    {"=", T_ASSIGN},    {".", T_DOT},    {":", T_COLON},    {"|", T_PIPE},     {",", T_COMMA},
    {";", T_SEMICOLON},
};

static int lex_operator(struct jlex *x, struct jtok *t)
{
    size_t i = 0;
    while (i < sizeof operators / sizeof *operators && !lex_at(x, x->pos, operators[i].text))
        i++;
    if (i == sizeof operators / sizeof *operators) {
        unsigned char ch = (unsigned char)x->s[x->pos];
        return err_set(x->e, ERR_INVALID,
                       ch > 32 && ch < 127 ? "chat template line %d: unexpected character '%c'"
                                           : "chat template line %d: unexpected byte %d",
                       x->line, ch);
    }
    t->type = operators[i].type;
    if (t->type == T_LPAREN || t->type == T_LBRACKET || t->type == T_LBRACE) {
        if (x->depth >= JLEX_STACK)
            return err_set(x->e, ERR_TOOBIG, "chat template line %d: brackets nest too deeply",
                           x->line);
        x->stack[x->depth++] = (char)t->type;
    } else if (t->type == T_RPAREN || t->type == T_RBRACKET || t->type == T_RBRACE) {
        /* each closing token follows its opening one in the enum */
        if (x->depth == 0 || x->stack[x->depth - 1] != (char)(t->type - 1))
            return lex_fail(x, "a closing bracket does not match");
        x->depth--;
    }
    x->pos += strlen(operators[i].text);
    return 0;
}

static int lex_tag(struct jlex *x, struct jtok *t)
{
    size_t spaces = lex_spaces(x, x->pos);
    bool is_end = x->depth == 0;
    size_t end = 0;
    if (is_end) /* "-%}" after blanks: the blanks are a token of their own, nothing changes */
        end = lex_close(x, spaces, x->mode == LEX_VAR ? "}}" : "%}", x->mode == LEX_BLOCK);
    lex_to(x, spaces);
    *t = (struct jtok){.type = T_EOF, .line = x->line};
    if (end) {
        t->type = x->mode == LEX_VAR ? T_VAR_END : T_BLOCK_END;
        lex_to(x, end);
        x->line_starting = x->s[end - 1] == '\n';
        x->mode = LEX_ROOT;
        return 0;
    }
    if (x->pos >= x->n)
        return lex_fail(x, "the template ends inside a tag");
    char ch = x->s[x->pos];
    if (is_digit(ch))
        return lex_number(x, t);
    if (is_name_start(ch)) {
        t->type = T_NAME;
        t->p = x->s + x->pos;
        while (x->pos < x->n && (is_name_start(x->s[x->pos]) || is_digit(x->s[x->pos])))
            x->pos++;
        t->n = (size_t)(x->s + x->pos - t->p);
        return 0;
    }
    if (ch == '\'' || ch == '"')
        return lex_string(x, t);
    return lex_operator(x, t);
}

int jinja_lex_next(struct jlex *x, struct jtok *t)
{
    return x->mode == LEX_ROOT ? lex_root(x, t) : lex_tag(x, t);
}
