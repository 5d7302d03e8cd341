/* Prompts as the AUTOMATIC1111 web UI reads them (modules/prompt_parser.py and sd_hijack_clip.py are
 * the reference for what every odd case means).
 *
 * One pass over the text writes what is left of it, without brackets and escapes, into one buffer and
 * notes pieces of it with their weights; neighbours of equal weight are one piece again, because words
 * may reach over their border.  Then each piece is tokenised and the tokens are laid into chunks. */
#include "engine/text/prompt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

enum { BODY = PROMPT_CHUNK - 2, COMMA_REACH = 20, NUMBER_MAX = 15 };
static const float round_weight = 1.1f, square_weight = 1 / 1.1f, weight_max = 100;

/* ---- weights ---- */

struct piece {
    size_t at, len; /* in plain */
    float weight;
    bool is_break;
};

struct parser {
    const char *s;
    size_t n, i;
    char *plain; /* [n] */
    size_t n_plain;
    struct piece *pieces; /* [n + 1] */
    size_t n_pieces;
    size_t round[PROMPT_MAX_DEPTH], square[PROMPT_MAX_DEPTH]; /* pieces before each open bracket */
    int n_round, n_square;
};

static void add_piece(struct parser *p, const char *s, size_t len, bool is_break)
{
    p->pieces[p->n_pieces++] = (struct piece){p->n_plain, len, 1, is_break};
    if (len > 0)
        memcpy(p->plain + p->n_plain, s, len);
    p->n_plain += len;
}

static void multiply(struct parser *p, size_t from, float by)
{
    for (size_t i = from; i < p->n_pieces; i++)
        p->pieces[i].weight *= by;
}

static bool is_word(uint32_t cp)
{
    return cp == '_' || utf8_is_letter(cp) || utf8_is_digit(cp);
}

/* Whether a word goes on before i, or at it, within text from..to. */
static bool word_before(const struct parser *p, size_t from, size_t i)
{
    uint32_t cp;
    size_t at = i;
    while (at > from && i - at < 4 && (at == i || ((unsigned char)p->s[at] & 0xC0) == 0x80))
        at--;
    if (at == i)
        return false;
    utf8_decode(p->s + at, i - at, &cp);
    return is_word(cp);
}

static bool word_at(const struct parser *p, size_t i, size_t to)
{
    uint32_t cp;
    if (i >= to)
        return false;
    utf8_decode(p->s + i, to - i, &cp);
    return is_word(cp);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Text without brackets, from p->i to end: split at BREAK, white space around it dropped. */
static void add_text(struct parser *p, size_t end)
{
    static const char word[] = "BREAK";
    const size_t len = sizeof word - 1, begin = p->i;
    size_t from = begin;
    for (size_t i = begin; i + len <= end;) {
        if (memcmp(p->s + i, word, len) != 0 || word_before(p, begin, i) ||
            word_at(p, i + len, end)) {
            i++;
            continue;
        }
        size_t to = i;
        while (to > from && is_space(p->s[to - 1]))
            to--;
        if (to > from)
            add_piece(p, p->s + from, to - from, false);
        add_piece(p, NULL, 0, true);
        for (i += len; i < end && is_space(p->s[i]);)
            i++;
        from = i;
    }
    if (end > from)
        add_piece(p, p->s + from, end - from, false);
    p->i = end;
}

/* ":1.3)" at p->i: its length and the number, or 0. */
static size_t weight_at(const struct parser *p, float *weight)
{
    char number[NUMBER_MAX + 1] = {0}, *stop;
    size_t i = p->i + 1, n = 0;
    while (i < p->n && is_space(p->s[i]))
        i++;
    while (i < p->n && n < NUMBER_MAX &&
           ((p->s[i] >= '0' && p->s[i] <= '9') || p->s[i] == '.' ||
            (n == 0 && (p->s[i] == '+' || p->s[i] == '-'))))
        number[n++] = p->s[i++];
    while (i < p->n && is_space(p->s[i]))
        i++;
    *weight = strtof(number, &stop);
    return n > 0 && *stop == 0 && i < p->n && p->s[i] == ')' ? i + 1 - p->i : 0;
}

static int open_bracket(struct parser *p, size_t *stack, int *n, struct err *e)
{
    if (*n == PROMPT_MAX_DEPTH)
        return err_set(e, ERR_INVALID, "brackets of a prompt are nested more than %d deep",
                       PROMPT_MAX_DEPTH);
    stack[(*n)++] = p->n_pieces;
    p->i++;
    return 0;
}

static void add_char(struct parser *p, size_t at)
{
    add_piece(p, p->s + at, 1, false);
}

/* A bracket, a colon or a backslash. */
static int take_mark(struct parser *p, struct err *e)
{
    char c = p->s[p->i];
    float weight;
    size_t len;
    switch (c) {
    case '(':
        return open_bracket(p, p->round, &p->n_round, e);
    case '[':
        return open_bracket(p, p->square, &p->n_square, e);
    case '\\': /* one that escapes nothing leaves an empty piece, which may keep two apart */
        if (p->i + 1 < p->n && strchr("()[]\\", p->s[p->i + 1]) != NULL && p->s[p->i + 1] != 0)
            add_char(p, ++p->i);
        else
            add_piece(p, NULL, 0, false);
        break;
    case ':':
        len = weight_at(p, &weight);
        if (len > 0 && p->n_round > 0) {
            multiply(p, p->round[--p->n_round], weight);
            p->i += len;
            return 0;
        }
        add_char(p, p->i);
        break;
    case ')':
        if (p->n_round > 0)
            multiply(p, p->round[--p->n_round], round_weight);
        else
            add_char(p, p->i);
        break;
    default:
        if (p->n_square > 0)
            multiply(p, p->square[--p->n_square], square_weight);
        else
            add_char(p, p->i);
    }
    p->i++;
    return 0;
}

static int parse(struct parser *p, struct err *e)
{
    while (p->i < p->n) {
        size_t end = p->i;
        while (end < p->n && (p->s[end] == 0 || strchr("\\()[]:", p->s[end]) == NULL))
            end++;
        if (end > p->i)
            add_text(p, end);
        else if (take_mark(p, e) != 0)
            return ERR_INVALID;
    }
    while (p->n_round > 0)
        multiply(p, p->round[--p->n_round], round_weight);
    while (p->n_square > 0)
        multiply(p, p->square[--p->n_square], square_weight);
    return 0;
}

/* Neighbours of one weight become one piece. */
static void join(struct parser *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_pieces; i++) {
        struct piece *x = &p->pieces[i], *last = n > 0 ? &p->pieces[n - 1] : NULL;
        if (last != NULL && !last->is_break && !x->is_break && last->weight == x->weight)
            last->len += x->len;
        else
            p->pieces[n++] = *x;
    }
    p->n_pieces = n;
}

/* ---- chunks ---- */

struct chunks {
    const struct clip_bpe_info *info;
    const struct prompt_source *src;
    struct clip_bpe_work *work;
    int32_t ids[PROMPT_MAX_CHUNKS * PROMPT_CHUNK];
    float weights[PROMPT_MAX_CHUNKS * PROMPT_CHUNK];
    int n_done, n_tokens; /* chunks, and the tokens of text in them */
    int n;                /* tokens of the chunk that is being filled; they stand behind its bos */
    int last_comma;       /* among them, -1: none */
    struct err *e;
};

static int too_long(struct err *e)
{
    return err_set(e, ERR_TOOBIG, "the prompt needs more than %d chunks of %d tokens",
                   PROMPT_MAX_CHUNKS, BODY);
}

/* bos, the first n tokens, eos and padding; n <= BODY. */
static void close_chunk(const struct clip_bpe_info *info, int32_t *ids, float *weights, int n)
{
    ids[0] = info->bos;
    ids[n + 1] = info->eos;
    weights[0] = 1;
    for (int i = n + 1; i < PROMPT_CHUNK; i++) {
        weights[i] = 1;
        if (i > n + 1)
            ids[i] = info->pad;
    }
}

/* The chunk ends with its first `keep` tokens; the others begin the next one. */
static int next_chunk(struct chunks *c, int keep)
{
    int32_t *ids = c->ids + c->n_done * PROMPT_CHUNK;
    float *weights = c->weights + c->n_done * PROMPT_CHUNK;
    int moved = c->n - keep;
    if (c->n_done + 1 == PROMPT_MAX_CHUNKS && moved > 0)
        return too_long(c->e);
    if (moved > 0) {
        memcpy(ids + PROMPT_CHUNK + 1, ids + 1 + keep, (size_t)moved * sizeof *ids);
        memcpy(weights + PROMPT_CHUNK + 1, weights + 1 + keep, (size_t)moved * sizeof *weights);
    }
    close_chunk(c->info, ids, weights, keep);
    c->n_tokens += keep;
    c->n_done++;
    c->n = moved;
    c->last_comma = -1;
    return 0;
}

static int add_token(struct chunks *c, int32_t id, float weight)
{
    int rc = 0;
    if (id == c->info->comma)
        c->last_comma = c->n;
    else if (c->n == BODY && c->last_comma >= 0 && BODY - c->last_comma <= COMMA_REACH)
        rc = next_chunk(c, c->last_comma + 1);
    if (rc == 0 && c->n == BODY)
        rc = next_chunk(c, BODY);
    if (rc != 0 || c->n_done == PROMPT_MAX_CHUNKS)
        return rc != 0 ? rc : too_long(c->e);
    int at = c->n_done * PROMPT_CHUNK + 1 + c->n++;
    c->ids[at] = id;
    c->weights[at] = weight;
    return 0;
}

static int add_plain_tokens(struct chunks *c, const char *s, size_t len, float weight)
{
    size_t blank = 0;
    while (blank < len && is_space(s[blank]))
        blank++;
    if (blank == len) /* so that every call gives tokens, which are limited */
        return 0;
    struct token_list l = {.max = PROMPT_MAX_CHUNKS * BODY};
    int rc = clip_bpe_encode(c->src->bpe, c->work, s, len, &l, c->e);
    for (size_t i = 0; rc == 0 && i < l.n; i++)
        rc = add_token(c, l.ids[i], weight);
    free(l.ids);
    return rc;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
}

static bool in_word(char c)
{
    return c == '_' || (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9') ||
           (unsigned char)c >= 0x80;
}

/* Does the word stand at s[i]? */
static bool own_word_at(const struct prompt_word *w, const char *s, size_t len, size_t i)
{
    const size_t n = strlen(w->text);
    if (n == 0 || n > len - i)
        return false;
    for (size_t k = 0; k < n; k++)
        if (lower(s[i + k]) != lower(w->text[k]))
            return false;
    return !(i > 0 && in_word(s[i - 1]) && in_word(s[i])) &&
           !(i + n < len && in_word(s[i + n]) && in_word(s[i + n - 1]));
}

/* The longest one at s[i], or NULL. */
static const struct prompt_word *own_word(const struct prompt_words *words, const char *s,
                                          size_t len, size_t i)
{
    const struct prompt_word *best = NULL;
    for (int k = 0; words != NULL && k < words->n; k++) {
        const struct prompt_word *w = &words->words[k];
        if (own_word_at(w, s, len, i) && (best == NULL || strlen(w->text) > strlen(best->text)))
            best = w;
    }
    return best;
}

static int add_piece_tokens(struct chunks *c, const struct parser *p, const struct piece *x)
{
    if (x->is_break)
        return c->n_done < PROMPT_MAX_CHUNKS ? next_chunk(c, c->n) : too_long(c->e);
    const float weight = fmaxf(-weight_max, fminf(x->weight, weight_max));
    const char *s = p->plain + x->at;
    const bool any = c->src->words != NULL && c->src->words->n > 0;
    size_t from = 0;
    int rc = 0;
    for (size_t i = 0; any && i < x->len && rc == 0;) {
        const struct prompt_word *w = own_word(c->src->words, s, x->len, i);
        if (w == NULL) {
            i++;
            continue;
        }
        rc = add_plain_tokens(c, s + from, i - from, weight);
        if (rc == 0 && c->n + w->n_ids > BODY && c->n > 0) /* its tokens stay together */
            rc = c->n_done < PROMPT_MAX_CHUNKS ? next_chunk(c, c->n) : too_long(c->e);
        for (int k = 0; k < w->n_ids && rc == 0; k++)
            rc = add_token(c, w->first_id + k, weight);
        from = i += strlen(w->text);
    }
    return rc == 0 ? add_plain_tokens(c, s + from, x->len - from, weight) : rc;
}

static int copy_out(struct prompt *out, const struct chunks *c, struct arena *a, struct err *e)
{
    size_t n = (size_t)c->n_done * PROMPT_CHUNK;
    struct prompt p = {.n_chunks = c->n_done,
                       .n_tokens = c->n_tokens,
                       .ids = arena_array(a, n, sizeof *p.ids),
                       .weights = arena_array(a, n, sizeof *p.weights)};
    if (p.ids == NULL || p.weights == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a prompt of %d chunks", c->n_done);
    memcpy(p.ids, c->ids, n * sizeof *p.ids);
    memcpy(p.weights, c->weights, n * sizeof *p.weights);
    for (size_t i = 0; i < n; i++)
        p.weighted = p.weighted || p.weights[i] != 1;
    *out = p;
    return 0;
}

static int fill(struct prompt *out, const struct prompt_source *src, const struct parser *p,
                struct arena *a, struct err *e)
{
    struct chunks *c = mem_try(1, sizeof *c);
    struct clip_bpe_work *work = clip_bpe_work_new(src->bpe);
    if (c == NULL || work == NULL) {
        free(c);
        clip_bpe_work_free(work);
        return err_set(e, ERR_NOMEM, "no memory for a prompt");
    }
    c->info = clip_bpe_info(src->bpe);
    c->src = src;
    c->work = work;
    c->last_comma = -1;
    c->e = e;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < p->n_pieces; i++)
        rc = add_piece_tokens(c, p, &p->pieces[i]);
    if (rc == 0 && (c->n > 0 || c->n_done == 0))
        rc = next_chunk(c, c->n);
    if (rc == 0)
        rc = copy_out(out, c, a, e);
    clip_bpe_work_free(work);
    free(c);
    return rc;
}

int prompt_parse(struct prompt *out, const struct clip_bpe *t, const char *text, size_t len,
                 int flags, struct arena *a, struct err *e)
{
    const struct prompt_source src = {.bpe = t, .flags = flags};
    return prompt_parse_with(out, &src, text, len, a, e);
}

int prompt_parse_with(struct prompt *out, const struct prompt_source *src, const char *text,
                      size_t len, struct arena *a, struct err *e)
{
    if (len > PROMPT_MAX_BYTES)
        return err_set(e, ERR_TOOBIG, "the prompt has %zu bytes, allowed are %d", len,
                       PROMPT_MAX_BYTES);
    struct parser *p = mem_try(1, sizeof *p);
    int rc = ERR_NOMEM;
    if (p != NULL) {
        p->s = text;
        p->n = len;
        p->plain = mem_try(len + 1, 1);
        p->pieces = mem_try(len + 2, sizeof *p->pieces);
    }
    if (p == NULL || p->plain == NULL || p->pieces == NULL) {
        err_set(e, rc, "no memory for a prompt of %zu bytes", len);
    } else if (src->flags & PROMPT_PLAIN) {
        add_piece(p, text, len, false);
        rc = fill(out, src, p, a, e);
    } else {
        rc = parse(p, e);
        join(p);
        if (rc == 0)
            rc = fill(out, src, p, a, e);
    }
    if (p != NULL) {
        free(p->plain);
        free(p->pieces);
    }
    free(p);
    return rc;
}

int prompt_extend(struct prompt *p, const struct clip_bpe *t, int n_chunks, struct arena *a,
                  struct err *e)
{
    if (n_chunks <= p->n_chunks)
        return 0;
    if (n_chunks > PROMPT_MAX_CHUNKS)
        return too_long(e);
    size_t n = (size_t)n_chunks * PROMPT_CHUNK, had = (size_t)p->n_chunks * PROMPT_CHUNK;
    int32_t *ids = arena_array(a, n, sizeof *ids);
    float *weights = arena_array(a, n, sizeof *weights);
    if (ids == NULL || weights == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a prompt of %d chunks", n_chunks);
    memcpy(ids, p->ids, had * sizeof *ids);
    memcpy(weights, p->weights, had * sizeof *weights);
    for (size_t at = had; at < n; at += PROMPT_CHUNK)
        close_chunk(clip_bpe_info(t), ids + at, weights + at, 0);
    p->ids = ids;
    p->weights = weights;
    p->n_chunks = n_chunks;
    return 0;
}
