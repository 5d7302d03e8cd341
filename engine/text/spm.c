/* SentencePiece's bpe_model.cc merges the neighbours whose concatenation is the token with the
 * highest score, leftmost first among equals.  Here that is made into ordinary merge ranks at
 * open: tokens sorted by score, every token split in two at each of its characters, and each split
 * whose halves are symbols entered as a pair.  Encoding is then the loop of bpe.c with no string
 * work in it.
 *
 * A half may be a character that is no token by itself (when training covered it only inside
 * longer tokens): such characters get symbol numbers after the vocabulary's, so that they can
 * still merge, and fall back to bytes when they do not.  Unused, control, unknown and byte tokens
 * never come out of merging; neither do user-defined ones, which tokenizer.c cuts out before. */
#include "engine/text/spm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "engine/gguf.h"

#define SPACE_MARK "\xE2\x96\x81" /* U+2581 */

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static size_t char_len(const char *s, size_t n)
{
    uint32_t cp;
    return (size_t)utf8_decode(s, n, &cp);
}

static bool merges_into(const struct vocab *v, size_t id)
{
    return v->type[id] == TOKEN_NORMAL && v->token[id].len > 0 &&
           v->token[id].len <= VOCAB_MAX_MERGED_BYTES;
}

/* Numbers the characters of all tokens. */
static int fill_chars(struct spm *s)
{
    const struct vocab *v = s->v;
    int rc = map_init(&s->chars, 1024);
    int32_t n_symbols = (int32_t)v->n;
    for (size_t id = 0; !rc && id < v->n; id++) {
        if (!merges_into(v, id))
            continue;
        const struct vocab_str *t = &v->token[id];
        for (size_t i = 0; !rc && i < t->len;) {
            size_t n = char_len(t->data + i, t->len - i);
            int64_t known;
            if (!map_get(&s->chars, t->data + i, n, &known)) {
                int32_t alone = vocab_find(v, t->data + i, n);
                bool is_token = alone >= 0 && merges_into(v, (size_t)alone);
                rc = map_put(&s->chars, t->data + i, n, is_token ? alone : n_symbols++);
            }
            i += n;
        }
    }
    return rc;
}

/* The symbol of one half of a token, -1 if merging can never produce it. */
static int32_t half_symbol(const struct spm *s, const char *p, size_t len)
{
    if (char_len(p, len) == len) {
        int64_t sym;
        return map_get(&s->chars, p, len, &sym) ? (int32_t)sym : -1;
    }
    int32_t id = vocab_find(s->v, p, len);
    return id >= 0 && merges_into(s->v, (size_t)id) ? id : -1;
}

static int put_token(struct spm *s, int32_t id, uint32_t rank)
{
    const struct vocab_str *t = &s->v->token[id];
    if (vocab_find(s->v, t->data, t->len) != id)
        return 0; /* a later duplicate */
    for (size_t i = char_len(t->data, t->len); i < t->len; i += char_len(t->data + i, t->len - i)) {
        int32_t left = half_symbol(s, t->data, i);
        int32_t right = left < 0 ? -1 : half_symbol(s, t->data + i, t->len - i);
        if (right >= 0 && bpe_merges_put(&s->merges, left, right, rank, id))
            return ERR_NOMEM;
    }
    return 0;
}

static int put_merges(struct spm *s, const struct gguf_arr *scores)
{
    const struct vocab *v = s->v;
    struct scored *order = mem_try(v->n, sizeof *order);
    int rc = order ? bpe_merges_init(&s->merges, v->n) : ERR_NOMEM;
    size_t n = 0;
    for (size_t id = 0; !rc && id < v->n; id++) {
        if (merges_into(v, id))
            order[n++] = (struct scored){gguf_arr_float(scores, id), (int32_t)id};
    }
    if (n > 1)
        qsort(order, n, sizeof *order, by_score);
    uint32_t rank = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        if (i && order[i].score != order[i - 1].score)
            rank++;
        rc = put_token(s, order[i].id, rank);
    }
    free(order);
    return rc;
}

static void fill_bytes(struct spm *s)
{
    for (int i = 0; i < 256; i++)
        s->byte_id[i] = -1;
    for (size_t id = 0; id < s->v->n; id++) {
        if (s->v->type[id] != TOKEN_BYTE)
            continue;
        int b = vocab_parse_byte(s->v->token[id].data, s->v->token[id].len);
        if (b >= 0 && s->byte_id[b] < 0)
            s->byte_id[b] = (int32_t)id;
    }
    s->all_bytes = true;
    for (int i = 0; i < 256; i++)
        s->all_bytes = s->all_bytes && s->byte_id[i] >= 0;
}

int spm_open(struct spm *s, const struct gguf *g, const struct vocab *v, int32_t unk, struct err *e)
{
    *s = (struct spm){.v = v, .unk = unk};
    struct gguf_arr scores = {0};
    int rc = gguf_get_floats(g, "tokenizer.ggml.scores", &scores, e);
    if (rc)
        return rc;
    if (scores.n != v->n)
        return err_set(e, ERR_CORRUPT, "the vocabulary has %zu tokens but %zu scores", v->n,
                       scores.n);
    for (size_t i = 0; i < v->n; i++) {
        if (isnan(gguf_arr_float(&scores, i)))
            return err_set(e, ERR_CORRUPT, "the score of token %zu is not a number", i);
    }
    fill_bytes(s);
    rc = fill_chars(s);
    if (!rc)
        rc = put_merges(s, &scores);
    if (!rc)
        return 0;
    spm_close(s);
    return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", v->n);
}

void spm_close(struct spm *s)
{
    bpe_merges_free(&s->merges);
    map_free(&s->chars);
    *s = (struct spm){0};
}

/* Writes text with its spaces marked; returns the bytes. */
static size_t escape(char *out, const char *text, size_t len, bool prefix)
{
    size_t n = 0;
    if (prefix) {
        memcpy(out, SPACE_MARK, 3);
        n = 3;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] == ' ') {
            memcpy(out + n, SPACE_MARK, 3);
            n += 3;
        } else {
            out[n++] = text[i];
        }
    }
    return n;
}

/* Symbols to tokens.  A symbol that is no token is one character: its bytes, else one "unknown" for
 * a run of such characters, as SentencePiece does. */
static int emit(const struct spm *s, const struct bpe_work *w, size_t n_syms, const char *text,
                size_t len, struct token_list *out, struct err *e)
{
    bool in_unknown = false;
    for (size_t i = 0; i < n_syms; i++) {
        const struct bpe_sym *sym = &w->syms[i];
        if (sym->id >= 0 && (size_t)sym->id < s->v->n) {
            in_unknown = false;
            int rc = token_list_push(out, sym->id, e);
            if (rc)
                return rc;
            continue;
        }
        size_t n = char_len(text + sym->at, len - sym->at);
        for (size_t k = 0; k < n; k++) {
            int32_t id = s->byte_id[(unsigned char)text[sym->at + k]];
            if (id < 0 && (in_unknown || s->unk < 0))
                continue;
            in_unknown = id < 0;
            int rc = token_list_push(out, id < 0 ? s->unk : id, e);
            if (rc)
                return rc;
        }
    }
    return 0;
}

int spm_text(const struct spm *s, struct bpe_work *w, const char *text, size_t len, bool prefix,
             struct token_list *out, struct err *e)
{
    size_t n_spaces = prefix;
    for (size_t i = 0; i < len; i++)
        n_spaces += text[i] == ' ';
    size_t escaped_len = len + 2 * n_spaces + prefix;
    char *escaped = mem_try(escaped_len + 1, 1);
    size_t n_syms = 0;
    int rc = 0;
    if (!escaped || bpe_work_reserve(w, len + prefix)) { /* a symbol is at least one byte of text */
        rc = err_set(e, ERR_NOMEM, "no memory to tokenise %zu bytes", len);
        goto out;
    }
    escaped_len = escape(escaped, text, len, prefix);
    for (size_t i = 0; i < escaped_len;) {
        size_t n = char_len(escaped + i, escaped_len - i);
        int64_t id;
        bool known = map_get(&s->chars, escaped + i, n, &id);
        w->syms[n_syms++] = (struct bpe_sym){.id = known ? (int32_t)id : -1, .at = (uint32_t)i};
        i += n;
    }
    n_syms = bpe_merge(&s->merges, w, n_syms);
    rc = emit(s, w, n_syms, escaped, escaped_len, out, e);
out:
    free(escaped);
    return rc;
}
