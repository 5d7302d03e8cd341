/* Reads tokenizer.ggml.tokens and .token_type and works out what bytes each token stands for.
 *
 * Byte-level vocabularies (GPT-2, "Language Models are Unsupervised Multitask Learners", 2019)
 * write each byte as a printable character: those that print stand for themselves, the other 68
 * become U+0100 onwards in order, so that a space is U+0120.  A token with a character outside
 * this alphabet stands for its own text, as do control and user-defined tokens. */
#include "engine/text/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "engine/gguf.h"

static bool byte_prints(unsigned b)
{
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
}

uint32_t vocab_byte_to_cp(unsigned char b)
{
    if (byte_prints(b))
        return b;
    uint32_t cp = 0x100;
    for (unsigned i = 0; i < b; i++)
        cp += !byte_prints(i);
    return cp;
}

int vocab_parse_byte(const char *s, size_t len)
{
    if (len != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    uint32_t v;
    return utf8_hex(s + 3, 2, &v) ? (int)v : -1;
}

/* Decoded bytes to out (room for len); returns their number.  A character outside the alphabet
 * makes the token stand for its own text. */
static size_t decode_byte_level(char *out, const char *s, size_t len, const int16_t cp_to_byte[512])
{
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        i += (size_t)utf8_decode(s + i, len - i, &cp);
        if (cp >= 512 || cp_to_byte[cp] < 0) {
            memcpy(out, s, len);
            return len;
        }
        out[n++] = (char)cp_to_byte[cp];
    }
    return n;
}

static size_t decode_spm(char *out, const char *s, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        if (len - i >= 3 && memcmp(s + i, "\xE2\x96\x81", 3) == 0) {
            out[n++] = ' ';
            i += 3;
        } else {
            out[n++] = s[i++];
        }
    }
    return n;
}

static void fill_pieces(struct vocab *v, bool byte_level)
{
    int16_t cp_to_byte[512];
    memset(cp_to_byte, -1, sizeof cp_to_byte);
    for (int b = 0; b < 256; b++)
        cp_to_byte[vocab_byte_to_cp((unsigned char)b)] = (int16_t)b;
    char *out = v->piece_bytes;
    v->max_piece = 1;
    for (size_t i = 0; i < v->n; i++) {
        const struct vocab_str *t = &v->token[i];
        size_t len = t->len;
        if (v->type[i] == TOKEN_BYTE && vocab_parse_byte(t->data, t->len) >= 0) {
            *out = (char)vocab_parse_byte(t->data, t->len);
            len = 1;
        } else if (v->type[i] != TOKEN_NORMAL && v->type[i] != TOKEN_UNUSED) {
            memcpy(out, t->data, len);
        } else if (byte_level) {
            len = decode_byte_level(out, t->data, len, cp_to_byte);
        } else {
            len = decode_spm(out, t->data, len);
        }
        v->piece[i] = (struct vocab_str){out, len};
        out += len;
        if (len > v->max_piece)
            v->max_piece = len;
    }
}

static int read_types(struct vocab *v, const struct gguf *g, bool byte_level, struct err *e)
{
    struct gguf_arr a = {0};
    int rc = gguf_get_ints(g, "tokenizer.ggml.token_type", &a, e);
    if (rc)
        return rc;
    if (a.n && a.n != v->n)
        return err_set(e, ERR_CORRUPT, "the vocabulary has %zu tokens but %zu token types", v->n,
                       a.n);
    for (size_t i = 0; i < v->n; i++) {
        int64_t t = a.n ? gguf_arr_int(&a, i) : TOKEN_NORMAL;
        if (t < 0 || t > TOKEN_BYTE)
            return err_set(e, ERR_CORRUPT, "token %zu has the unknown type %lld", i, (long long)t);
        if (t == TOKEN_BYTE && !byte_level &&
            vocab_parse_byte(v->token[i].data, v->token[i].len) < 0)
            return err_set(e, ERR_CORRUPT, "byte token %zu is not written <0x00> to <0xFF>", i);
        v->type[i] = t == 0 ? TOKEN_NORMAL : (uint8_t)t; /* 0: "undefined", in some old files */
    }
    return 0;
}

static int copy_tokens(struct vocab *v, const struct gguf_arr *a, struct err *e)
{
    size_t total = 0;
    for (size_t i = 0; i < a->n; i++) {
        if (a->strs[i].len > VOCAB_MAX_TOKEN_BYTES)
            return err_set(e, ERR_CORRUPT, "token %zu is %zu bytes long", i, a->strs[i].len);
        total += a->strs[i].len; /* at most 2^36 */
    }
    v->token = mem_try(a->n, sizeof *v->token);
    v->piece = mem_try(a->n, sizeof *v->piece);
    v->type = mem_try(a->n, 1);
    v->token_bytes = mem_try(total + 1, 1);
    v->piece_bytes = mem_try(total + 1, 1);
    if (!v->token || !v->piece || !v->type || !v->token_bytes || !v->piece_bytes ||
        map_init(&v->by_token, a->n))
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", a->n);
    char *out = v->token_bytes;
    for (size_t i = 0; i < a->n; i++) {
        size_t len = a->strs[i].len;
        if (len)
            memcpy(out, a->strs[i].data, len);
        v->token[i] = (struct vocab_str){out, len};
        out += len;
        int rc = len ? map_put(&v->by_token, v->token[i].data, len, (int64_t)i) : 0;
        if (rc == ERR_NOMEM)
            return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", a->n);
    }
    return 0;
}

int vocab_open(struct vocab *v, const struct gguf *g, bool byte_level, struct err *e)
{
    *v = (struct vocab){0};
    struct gguf_arr a = {0};
    int rc = gguf_get_strs(g, "tokenizer.ggml.tokens", &a, e);
    if (rc)
        return rc;
    if (a.n < 1 || a.n > VOCAB_MAX_TOKENS)
        return err_set(e, ERR_CORRUPT, "the vocabulary has %zu tokens, expected 1 to %d", a.n,
                       VOCAB_MAX_TOKENS);
    v->n = a.n;
    rc = copy_tokens(v, &a, e);
    if (!rc)
        rc = read_types(v, g, byte_level, e);
    if (rc) {
        vocab_close(v);
        return rc;
    }
    fill_pieces(v, byte_level);
    return 0;
}

void vocab_close(struct vocab *v)
{
    map_free(&v->by_token);
    free(v->token);
    free(v->piece);
    free(v->type);
    free(v->token_bytes);
    free(v->piece_bytes);
    *v = (struct vocab){0};
}

int32_t vocab_find(const struct vocab *v, const char *s, size_t len)
{
    int64_t id;
    return len && map_get(&v->by_token, s, len, &id) ? (int32_t)id : -1;
}

int token_list_push(struct token_list *l, int32_t id, struct err *e)
{
    if (l->n >= l->max)
        return err_set(e, ERR_TOOBIG, "the text is more than %zu tokens long", l->max);
    if (l->n == l->cap) {
        size_t cap = l->cap < 64 ? 64 : l->cap * 2;
        if (cap > l->max)
            cap = l->max;
        int32_t *ids = mem_try(cap, sizeof *ids);
        if (!ids)
            return err_set(e, ERR_NOMEM, "no memory for %zu token ids", cap);
        if (l->n)
            memcpy(ids, l->ids, l->n * sizeof *ids);
        free(l->ids);
        l->ids = ids;
        l->cap = cap;
    }
    l->ids[l->n++] = id;
    return 0;
}

int vocab_repair_text(const char **text, size_t *len, size_t max, char **copy, struct err *e)
{
    *copy = NULL;
    if (*len > max)
        return err_set(e, ERR_TOOBIG, "the text has %zu bytes, allowed are %zu", *len, max);
    if (utf8_valid(*text, *len))
        return 0;
    size_t n = utf8_repair(NULL, *text, *len);
    *copy = mem_try(n + 1, 1);
    if (*copy == NULL)
        return err_set(e, ERR_NOMEM, "no memory to tokenise %zu bytes", *len);
    utf8_repair(*copy, *text, *len);
    *text = *copy;
    *len = n;
    return 0;
}
