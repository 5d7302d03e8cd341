/* Reading a list.  The words of a category become alternatives of one regular expression, so that thousands of them are
 * not thousands of searches; a new one begins where it gets too long for PCRE2. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "engine/text/filter_int.h"

enum { WORDS_MAX = 16 << 10, MATCH_LIMIT = 10000, HEAP_LIMIT_KIB = 1024 };

struct reader {
    struct filter *f;
    const char *name;
    int line;
    struct buf words; /* the alternatives so far, of the last category */
    int words_line;   /* of the first of them */
};

static int wrong(const struct reader *r, const char *what, struct err *e)
{
    return err_set(e, ERR_INVALID, "%s, line %d: %s", r->name, r->line, what);
}

static int add_pattern(struct reader *r, const char *s, size_t n, uint32_t flags, struct err *e)
{
    struct filter *f = r->f;
    int code = 0;
    PCRE2_SIZE at = 0;
    if (f->n_patterns == FILTER_PATTERNS_MAX)
        return wrong(r, "there are too many patterns in this list", e);
    pcre2_code *p = pcre2_compile((PCRE2_SPTR)s, n,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF |
                                      PCRE2_NEVER_BACKSLASH_C | flags,
                                  &code, &at, NULL);
    if (p == NULL) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(code, text, sizeof text);
        return err_set(e, ERR_INVALID, "%s, line %d: %s at character %zu of the regular expression",
                       r->name, r->line, (const char *)text, at + 1);
    }
    f->patterns[f->n_patterns++] = (struct filter_pattern){p, f->n_categories - 1};
    uint32_t least = 0;
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    pcre2_pattern_info(p, PCRE2_INFO_MINLENGTH, &least);
    const int empty =
        m == NULL ? PCRE2_ERROR_NOMEMORY : pcre2_match(p, (PCRE2_SPTR) "", 0, 0, 0, m, f->context);
    pcre2_match_data_free(m);
    if (empty == PCRE2_ERROR_NOMEMORY)
        return err_set(e, ERR_NOMEM, "no memory for a text filter");
    if (least == 0 && empty >= 0)
        return wrong(r, "this regular expression finds the empty text", e);
    (void)pcre2_jit_compile(p, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD); /* only faster */
    return 0;
}

/* The words that are collected become a pattern. */
static int flush_words(struct reader *r, struct err *e)
{
    const int line = r->line;
    if (r->words.len == 0)
        return 0;
    buf_adds(&r->words, ")(?!\\w)");
    if (r->words.failed)
        return err_set(e, ERR_NOMEM, "no memory for a text filter");
    r->line = r->words_line;
    int rc = add_pattern(r, buf_str(&r->words), r->words.len, PCRE2_CASELESS, e);
    r->line = line;
    buf_clear(&r->words);
    return rc;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static int add_words(struct reader *r, const char *s, size_t n, struct err *e)
{
    if (r->words.len > WORDS_MAX) {
        int rc = flush_words(r, e);
        if (rc != 0)
            return rc;
    }
    if (r->words.len == 0)
        r->words_line = r->line;
    buf_adds(&r->words, r->words.len == 0 ? "(?<!\\w)(?:" : "|");
    for (size_t i = 0; i < n; i++) {
        if (is_blank(s[i])) {
            buf_adds(&r->words, "\\s+");
            while (is_blank(s[i + 1])) /* the line is trimmed */
                i++;
            continue;
        }
        if (ispunct((unsigned char)s[i]) && s[i] != '_')
            buf_addc(&r->words, '\\');
        buf_addc(&r->words, s[i]);
    }
    return 0;
}

/* /.../ or /.../i */
static int add_regex(struct reader *r, const char *s, size_t n, struct err *e)
{
    const bool caseless = n > 1 && s[n - 1] == 'i' && s[n - 2] == '/';
    n -= caseless;
    if (n < 3 || s[n - 1] != '/')
        return wrong(r, "a regular expression stands between slashes: /.../ or /.../i", e);
    return add_pattern(r, s + 1, n - 2, caseless ? PCRE2_CASELESS : 0, e);
}

/* [name], [name block] or [name flag] */
static int add_category(struct reader *r, const char *s, size_t n, struct err *e)
{
    static const char allowed[] = "a category is a name of letters, digits and - _ / in brackets, "
                                  "and perhaps block or flag: [violence], [politics flag]";
    struct filter *f = r->f;
    int rc = flush_words(r, e);
    if (rc != 0)
        return rc;
    if (n < 3 || s[n - 1] != ']')
        return wrong(r, allowed, e);
    size_t len = 1;
    while (len < n - 1 && (isalnum((unsigned char)s[len]) || strchr("-_/", s[len]) != NULL))
        len++;
    const char *name = s + 1, *rest = s + len;
    size_t n_rest = n - 1 - len;
    while (n_rest > 0 && is_blank(*rest)) {
        rest++;
        n_rest--;
    }
    const bool flag = n_rest == 4 && memcmp(rest, "flag", 4) == 0;
    const bool block = n_rest == 5 && memcmp(rest, "block", 5) == 0;
    if (len == 1 || len > FILTER_NAME_MAX || (n_rest > 0 && (rest == s + len || (!flag && !block))))
        return wrong(r, allowed, e);
    if (f->n_categories == FILTER_CATEGORIES_MAX)
        return wrong(r, "there are too many categories in this list", e);
    for (int i = 0; i < f->n_categories; i++)
        if (strlen(f->categories[i].name) == len - 1 &&
            memcmp(f->categories[i].name, name, len - 1) == 0)
            return wrong(r, "this category was there before", e);
    memcpy(f->categories[f->n_categories].name, name, len - 1);
    f->categories[f->n_categories++].flag = flag;
    return 0;
}

static int read_line(struct reader *r, const char *s, size_t n, struct err *e)
{
    while (n > 0 && (is_blank(s[n - 1]) || s[n - 1] == '\r'))
        n--;
    while (n > 0 && is_blank(*s)) {
        s++;
        n--;
    }
    if (n == 0 || *s == '#')
        return 0;
    if (n > FILTER_LINE_MAX)
        return wrong(r, "this line is too long", e);
    if (!utf8_valid(s, n) || memchr(s, '\0', n) != NULL)
        return wrong(r, "this line is no text in UTF-8", e);
    if (*s == '[')
        return add_category(r, s, n, e);
    if (r->f->n_categories == 0)
        return wrong(r, "a category has to come first: [name]", e);
    return *s == '/' ? add_regex(r, s, n, e) : add_words(r, s, n, e);
}

static int read_list(struct reader *r, const char *text, size_t n, struct err *e)
{
    int rc = 0;
    if (n > FILTER_FILE_MAX)
        return err_set(e, ERR_TOOBIG, "%s is larger than %d bytes", r->name, FILTER_FILE_MAX);
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        n -= 3;
    }
    for (size_t at = 0; at < n && rc == 0;) {
        const char *end = memchr(text + at, '\n', n - at);
        const size_t len = end != NULL ? (size_t)(end - text) - at : n - at;
        r->line++;
        rc = read_line(r, text + at, len, e);
        at += len + 1;
    }
    if (rc == 0)
        rc = flush_words(r, e);
    if (rc == 0 && r->f->n_patterns == 0)
        rc = err_set(e, ERR_INVALID, "%s: there is nothing to look for in this list", r->name);
    return rc;
}

int filter_open(struct filter **out, const char *text, size_t n, const char *name, struct err *e)
{
    struct filter *f = mem_try(1, sizeof *f);
    if (f == NULL || (f->context = pcre2_match_context_create(NULL)) == NULL) {
        free(f);
        return err_set(e, ERR_NOMEM, "no memory for a text filter");
    }
    pcre2_set_match_limit(f->context, MATCH_LIMIT);
    pcre2_set_heap_limit(f->context, HEAP_LIMIT_KIB);
    struct reader r = {.f = f, .name = name};
    buf_init(&r.words, WORDS_MAX + 8 * FILTER_LINE_MAX);
    int rc = read_list(&r, text, n, e);
    buf_free(&r.words);
    if (rc != 0) {
        filter_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

void filter_close(struct filter *f)
{
    if (f == NULL)
        return;
    for (int i = 0; i < f->n_patterns; i++)
        pcre2_code_free(f->patterns[i].code);
    pcre2_match_context_free(f->context);
    free(f);
}

int filter_categories(const struct filter *f)
{
    return f->n_categories;
}

const char *filter_name(const struct filter *f, int category)
{
    return f->categories[category].name;
}

bool filter_blocks(const struct filter *f, int category)
{
    return !f->categories[category].flag;
}
