/* Searching.  Where a pattern could still be found if the text went on (PCRE2 calls this a partial match), the text from
 * there on is held back and searched again with what comes; so something is found however the text is cut, and text
 * that begins nothing is never late.  Some of what was given out stays in front, for what looks back (\b). */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "engine/text/filter_int.h"

enum { BEHIND = 64, TEXT_MAX = 1 << 26 };

struct filter_run {
    const struct filter *f;
    bool blocks, over;
    struct buf text;
    size_t out;  /* bytes of text that are given out already */
    size_t scan; /* where the search goes on: out or before, as where only told finds may begin */
    uint64_t found;
    pcre2_match_data *match;
};

/* The next find of p from `at` on: 1 and where it is, 2 and where it may begin, 0: there is none. */
static int find(const struct filter *f, const struct filter_pattern *p, pcre2_match_data *m,
                const char *s, size_t n, size_t at, bool end, size_t where[2])
{
    const uint32_t options = end ? 0 : PCRE2_PARTIAL_HARD;
    int rc = pcre2_match(p->code, (PCRE2_SPTR)s, n, at, options, m, f->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(p->code, (PCRE2_SPTR)s, n, at, options | PCRE2_NO_JIT, m, f->context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    where[0] = at;
    where[1] = n;
    if (rc >= 0 || rc == PCRE2_ERROR_PARTIAL) {
        const size_t *v = pcre2_get_ovector_pointer(m);
        where[0] = v[0] > at ? v[0] : at; /* \K may set it back */
        where[1] = v[1];
    }
    return rc == PCRE2_ERROR_PARTIAL ? 2 : 1;
}

int filter_run_scan(const struct filter *f, const char *s, size_t n, uint64_t *found, struct err *e)
{
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    size_t where[2];
    if (m == NULL)
        return err_set(e, ERR_NOMEM, "no memory to search a text");
    *found = 0;
    for (int i = 0; i < f->n_patterns; i++) {
        const struct filter_pattern *p = &f->patterns[i];
        if ((*found >> p->category & 1) == 0 && find(f, p, m, s, n, 0, true, where) == 1)
            *found |= 1ULL << p->category;
    }
    pcre2_match_data_free(m);
    return 0;
}

int filter_run_open(struct filter_run **out, const struct filter *f, bool blocks, struct err *e)
{
    struct filter_run *r = mem_try(1, sizeof *r);
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    if (r == NULL || m == NULL) {
        free(r);
        pcre2_match_data_free(m);
        return err_set(e, ERR_NOMEM, "no memory to search a text");
    }
    *r = (struct filter_run){.f = f, .blocks = blocks, .match = m};
    buf_init(&r->text, TEXT_MAX);
    *out = r;
    return 0;
}

void filter_run_close(struct filter_run *r)
{
    if (r == NULL)
        return;
    buf_free(&r->text);
    pcre2_match_data_free(r->match);
    free(r);
}

struct bounds {
    size_t scan; /* where a pattern may begin */
    size_t hold; /* where one may that ends the text */
    size_t cut;  /* where it ends, SIZE_MAX: nowhere */
};

/* One pattern over what is not decided yet. */
static void search(struct filter_run *r, const struct filter_pattern *p, bool end, struct bounds *b)
{
    const char *s = buf_str(&r->text);
    const size_t n = r->text.len;
    const bool ends = r->blocks && !r->f->categories[p->category].flag;
    size_t where[2];
    if (!ends && (r->found >> p->category & 1) != 0)
        return;
    int got = find(r->f, p, r->match, s, n, r->scan, end, where);
    if (got == 2 && n - where[0] > FILTER_WINDOW) /* it is decided by what there is */
        got = find(r->f, p, r->match, s, n, r->scan, true, where);
    if (got == 2) {
        b->scan = where[0] < b->scan ? where[0] : b->scan;
        b->hold = ends && where[0] < b->hold ? where[0] : b->hold;
    } else if (got == 1) {
        r->found |= 1ULL << p->category;
        b->cut = ends && where[0] < b->cut ? where[0] : b->cut;
    }
}

bool filter_run_push(struct filter_run *r, const char *s, size_t n, bool end, struct buf *out)
{
    if (r->over)
        return false;
    buf_add(&r->text, s, n);
    struct bounds b = {r->text.len, r->text.len, SIZE_MAX};
    for (int i = 0; i < r->f->n_patterns; i++)
        search(r, &r->f->patterns[i], end, &b);
    /* What begins in front of a find may be one that ends the text even there: that is awaited. */
    r->over = b.cut <= b.hold;
    size_t to = r->over ? b.cut : b.hold;
    to = to > r->out ? to : r->out;
    buf_add(out, buf_str(&r->text) + r->out, to - r->out);
    out->failed = out->failed || r->text.failed;
    r->out = to;
    r->scan = b.scan < b.hold ? b.scan : b.hold;
    const size_t drop = r->scan > BEHIND ? r->scan - BEHIND : 0;
    buf_drop(&r->text, drop);
    r->out -= drop;
    r->scan -= drop;
    return !r->over;
}

uint64_t filter_run_found(const struct filter_run *r)
{
    return r->found;
}
