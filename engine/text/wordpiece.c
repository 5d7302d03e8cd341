/* WordPiece as BERT has it (Devlin et al. 2018; Wu et al. 2016) and Hugging Face's fast tokenizer runs
 * it.  That library has the character tables of Unicode 8; characters that are younger may be taken
 * for punctuation or accents here and not there, or the other way round. */
#include "engine/text/wordpiece.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/map.h"
#include "base/utf8.h"

enum {
    FILE_MAX = 16 << 20,
    TOKENS_MAX = 1 << 20,
    PIECE_MAX = 255,      /* bytes of a token */
    WORD_MAX_CHARS = 100, /* a longer word is unknown */
    N_SPECIALS = 5
};

struct wordpiece {
    struct wordpiece_info info;
    bool strip_accents, split_chinese;
    struct arena arena;            /* the tokens' text */
    const struct vocab_str *token; /* [n_vocab], "##" included; data NULL where there is none */
    struct map first, rest;        /* text -> id: that begin a word; others, without their "##" */
    size_t max_piece;              /* bytes of the longest key */
};

static const char *const special_names[N_SPECIALS] = {"[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"};

/* ---- reading ---- */

struct reader {
    struct wordpiece *t;
    const char *dir;
    struct vocab_str *token; /* the same as t's */
    size_t n;                /* room there */
    struct err *e;
};

static int no_memory(struct err *e)
{
    return err_set(e, ERR_NOMEM, "out of memory for a WordPiece vocabulary");
}

static bool path_of(const struct reader *r, char out[4096], const char *name)
{
    int n = snprintf(out, 4096, "%s/%s", r->dir, name);
    return n > 0 && n < 4096;
}

static bool has(const struct reader *r, const char *name)
{
    char path[4096];
    struct stat st;
    return path_of(r, path, name) && stat(path, &st) == 0;
}

static int open_file(struct reader *r, const char *name, struct file *f)
{
    char path[4096];
    if (!path_of(r, path, name))
        return err_set(r->e, ERR_INVALID, "the path of the tokenizer is too long");
    int rc = file_open(f, path, r->e);
    if (rc == 0 && f->size > FILE_MAX) {
        rc = err_set(r->e, ERR_TOOBIG, "%s is larger than %d bytes", path, FILE_MAX);
        file_close(f);
    }
    return rc;
}

static int read_json(struct reader *r, const char *name, struct cJSON **doc)
{
    struct file f = {0};
    int rc = open_file(r, name, &f);
    if (rc != 0)
        return rc;
    const struct json_limits limits = {FILE_MAX, 32, TOKENS_MAX, false};
    rc = json_parse(doc, f.data != NULL ? f.data : "", f.size, &limits, r->e);
    file_close(&f);
    if (rc == 0 || rc == ERR_NOMEM)
        return rc;
    err_wrap(r->e, "%s/%s", r->dir, name);
    if (r->e != NULL)
        r->e->code = ERR_CORRUPT;
    return ERR_CORRUPT;
}

/* Room for tokens of n_bytes in all. */
static int reserve(struct reader *r, size_t n, size_t n_bytes)
{
    struct wordpiece *t = r->t;
    if (n < 2 || n > TOKENS_MAX)
        return err_set(r->e, ERR_CORRUPT, "%s: the vocabulary has %zu tokens, expected 2 to %d",
                       r->dir, n, TOKENS_MAX);
    arena_init(&t->arena, n * (sizeof *r->token + 32) + n_bytes + 4096);
    r->token = arena_array(&t->arena, n, sizeof *r->token);
    t->token = r->token;
    r->n = n;
    if (r->token == NULL || map_init(&t->first, n) != 0 || map_init(&t->rest, n) != 0)
        return no_memory(r->e);
    t->info.n_vocab = (int)n;
    return 0;
}

/* Of equal tokens the first counts. */
static int put_token(struct reader *r, const char *s, size_t len, size_t id)
{
    struct wordpiece *t = r->t;
    if (len == 0 || len > PIECE_MAX || id >= r->n)
        return 0;
    char *copy = arena_strndup(&t->arena, s, len);
    if (copy == NULL)
        return no_memory(r->e);
    r->token[id] = (struct vocab_str){copy, len};
    bool rest = len > 2 && copy[0] == '#' && copy[1] == '#';
    size_t skip = rest ? 2 : 0;
    if (len - skip > t->max_piece)
        t->max_piece = len - skip;
    int rc = map_put(rest ? &t->rest : &t->first, copy + skip, len - skip, (int64_t)id);
    return rc == ERR_NOMEM ? no_memory(r->e) : 0;
}

static size_t count_lines(const struct file *f)
{
    size_t n = 0;
    for (size_t at = 0; at < f->size; n++) {
        const char *nl = memchr(f->data + at, '\n', f->size - at);
        at = nl != NULL ? (size_t)(nl - f->data) + 1 : f->size;
    }
    return n;
}

static int read_vocab_txt(struct reader *r)
{
    struct file f = {0};
    int rc = open_file(r, "vocab.txt", &f);
    if (rc != 0)
        return rc;
    rc = reserve(r, count_lines(&f), f.size);
    size_t id = 0;
    for (size_t at = 0; rc == 0 && at < f.size; id++) {
        const char *s = f.data + at, *nl = memchr(s, '\n', f.size - at);
        size_t len = nl != NULL ? (size_t)(nl - s) : f.size - at;
        at += len + 1;
        rc = put_token(r, s, len > 0 && s[len - 1] == '\r' ? len - 1 : len, id);
    }
    file_close(&f);
    return rc;
}

static int put_vocab(struct reader *r, const struct cJSON *vocab)
{
    size_t n = 0, n_bytes = 0;
    for (const struct cJSON *v = json_first(vocab); v != NULL; v = json_next(v)) {
        if (!json_is_int(v) || json_num(v) < 0 || json_num(v) >= TOKENS_MAX)
            return err_set(r->e, ERR_CORRUPT, "%s: a token's id is not a number below %d", r->dir,
                           TOKENS_MAX);
        n = json_num(v) >= (double)n ? (size_t)json_num(v) + 1 : n;
        n_bytes += strlen(json_key(v));
    }
    int rc = reserve(r, n, n_bytes);
    for (const struct cJSON *v = json_first(vocab); rc == 0 && v != NULL; v = json_next(v))
        rc = put_token(r, json_key(v), strlen(json_key(v)), (size_t)json_num(v));
    return rc;
}

static int read_tokenizer_json(struct reader *r)
{
    struct cJSON *doc = NULL;
    int rc = read_json(r, "tokenizer.json", &doc);
    if (rc != 0)
        return rc;
    const struct cJSON *model = json_get(doc, "model");
    const char *type = json_str(json_get(model, "type"));
    const char *prefix = json_str(json_get(model, "continuing_subword_prefix"));
    const struct cJSON *normalizer = json_get(doc, "normalizer");
    if ((type != NULL && strcmp(type, "WordPiece") != 0) || prefix == NULL ||
        strcmp(prefix, "##") != 0 || json_type(json_get(model, "vocab")) != JSON_OBJECT)
        rc = err_set(r->e, ERR_UNSUPPORTED, "%s/tokenizer.json is not the tokenizer of a BERT",
                     r->dir);
    else
        rc = put_vocab(r, json_get(model, "vocab"));
    if (rc == 0 && json_type(json_get(normalizer, "lowercase")) == JSON_BOOL)
        r->t->info.lower = json_bool(json_get(normalizer, "lowercase"));
    json_free(doc);
    return rc;
}

static int read_config(struct reader *r)
{
    struct wordpiece *t = r->t;
    struct cJSON *doc = NULL;
    int rc = has(r, "tokenizer_config.json") ? read_json(r, "tokenizer_config.json", &doc) : 0;
    if (rc == 0)
        rc = json_get_bool(doc, "do_lower_case", &t->info.lower, r->e);
    t->strip_accents = t->info.lower;
    if (rc == 0)
        rc = json_get_bool(doc, "strip_accents", &t->strip_accents, r->e);
    if (rc == 0)
        rc = json_get_bool(doc, "tokenize_chinese_chars", &t->split_chinese, r->e);
    json_free(doc);
    return rc;
}

static int fill(struct reader *r)
{
    struct wordpiece_info *info = &r->t->info;
    int32_t *const ids[N_SPECIALS] = {&info->cls, &info->sep, &info->pad, &info->unk, &info->mask};
    info->lower = true;
    r->t->split_chinese = true;
    if (!has(r, "vocab.txt") && !has(r, "tokenizer.json"))
        return err_set(r->e, ERR_NOTFOUND, "%s has neither vocab.txt nor tokenizer.json", r->dir);
    int rc = has(r, "vocab.txt") ? read_vocab_txt(r) : read_tokenizer_json(r);
    if (rc == 0)
        rc = read_config(r);
    if (rc != 0)
        return rc;
    for (int i = 0; i < N_SPECIALS; i++)
        *ids[i] = wordpiece_find(r->t, special_names[i]);
    if (info->unk < 0)
        return err_set(r->e, ERR_CORRUPT, "%s: [UNK] is not in the vocabulary", r->dir);
    return 0;
}

int wordpiece_open(struct wordpiece **out, const char *dir, struct err *e)
{
    struct wordpiece *t = xcalloc(1, sizeof *t);
    struct reader r = {.t = t, .dir = dir, .e = e};
    int rc = fill(&r);
    if (rc != 0) {
        wordpiece_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void wordpiece_close(struct wordpiece *t)
{
    if (t == NULL)
        return;
    map_free(&t->first);
    map_free(&t->rest);
    arena_free(&t->arena);
    free(t);
}

const struct wordpiece_info *wordpiece_info(const struct wordpiece *t)
{
    return &t->info;
}

int32_t wordpiece_find(const struct wordpiece *t, const char *token)
{
    int64_t id;
    size_t len = strlen(token), skip = len > 2 && strncmp(token, "##", 2) == 0 ? 2 : 0;
    return map_get(skip > 0 ? &t->rest : &t->first, token + skip, len - skip, &id) ? (int32_t)id
                                                                                   : -1;
}

/* ---- encoding ---- */

struct encode {
    const struct wordpiece *t;
    struct token_list *out;
    char word[4 * WORD_MAX_CHARS];
    size_t n_word; /* bytes */
    int n_chars;   /* may be more than there is room for */
    struct err *e;
};

/* The ranges of CJK ideographs that the reference has, its gap at U+2B820 included. */
static bool is_chinese(uint32_t cp)
{
    return (cp >= 0x4E00 && cp <= 0x9FFF) || (cp >= 0x3400 && cp <= 0x4DBF) ||
           (cp >= 0xF900 && cp <= 0xFAFF) || (cp >= 0x20000 && cp <= 0x2A6DF) ||
           (cp >= 0x2A700 && cp <= 0x2B81F) || (cp >= 0x2B920 && cp <= 0x2CEAF) ||
           (cp >= 0x2F800 && cp <= 0x2FA1F);
}

static bool is_punct(uint32_t cp)
{
    return cp < 0x80 ? (cp >= 33 && cp <= 47) || (cp >= 58 && cp <= 64) || (cp >= 91 && cp <= 96) ||
                           (cp >= 123 && cp <= 126)
                     : utf8_is_punct(cp);
}

/* The longest piece of word[at..n) that the vocabulary has: its length, 0 for none. */
static size_t longest(const struct encode *x, size_t at, int32_t *id)
{
    const struct wordpiece *t = x->t;
    const struct map *m = at == 0 ? &t->first : &t->rest;
    size_t len = x->n_word - at;
    if (len > t->max_piece)
        len = t->max_piece;
    for (; len > 0; len--) {
        int64_t v;
        if (at + len < x->n_word && ((unsigned char)x->word[at + len] & 0xC0) == 0x80)
            continue; /* within a character */
        if (map_get(m, x->word + at, len, &v)) {
            *id = (int32_t)v;
            return len;
        }
    }
    return 0;
}

static int end_word(struct encode *x)
{
    size_t before = x->out->n;
    int rc = 0;
    bool known = x->n_chars <= WORD_MAX_CHARS;
    for (size_t at = 0, len; rc == 0 && known && at < x->n_word; at += len) {
        int32_t id = 0;
        len = longest(x, at, &id);
        known = len > 0;
        if (known)
            rc = token_list_push(x->out, id, x->e);
    }
    if (rc == 0 && !known) {
        x->out->n = before;
        rc = token_list_push(x->out, x->t->info.unk, x->e);
    }
    x->n_word = 0;
    x->n_chars = 0;
    return rc;
}

static void add_char(struct encode *x, uint32_t cp)
{
    if (++x->n_chars <= WORD_MAX_CHARS)
        x->n_word += (size_t)utf8_encode(x->word + x->n_word, cp);
}

/* A character of normalised text. */
static int take_char(struct encode *x, uint32_t cp)
{
    int rc = 0;
    bool alone = is_punct(cp);
    if (alone || utf8_is_space(cp))
        rc = end_word(x);
    if (utf8_is_space(cp))
        return rc;
    add_char(x, cp);
    return rc == 0 && alone ? end_word(x) : rc;
}

/* Controls go, white space is a space, ideographs stand alone. */
static void clean(const struct wordpiece *t, struct buf *b, const char *s, size_t len)
{
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t n = (size_t)utf8_decode(s + i, len - i, &cp);
        bool blank = cp == '\t' || cp == '\n' || cp == '\r';
        if (blank || (utf8_is_space(cp) && !utf8_is_control(cp)))
            buf_addc(b, ' ');
        else if (cp != 0xFFFD && !utf8_is_control(cp)) {
            bool apart = t->split_chinese && is_chinese(cp);
            buf_add(b, apart ? " " : "", apart);
            buf_add(b, s + i, n);
            buf_add(b, apart ? " " : "", apart);
        }
        i += n;
    }
}

static int take_text(struct encode *x, const char *s, size_t len)
{
    int rc = 0;
    for (size_t i = 0; i < len && rc == 0;) {
        uint32_t cp;
        i += (size_t)utf8_decode(s + i, len - i, &cp);
        if (x->t->strip_accents && utf8_is_mark(cp))
            continue;
        rc = take_char(x, x->t->info.lower ? utf8_lower(cp) : cp);
        if (rc == 0 && cp == 0x130 && x->t->info.lower)
            add_char(x, 0x307); /* the one that becomes two */
    }
    return rc == 0 ? end_word(x) : rc;
}

/* Valid UTF-8 without special tokens. */
static int encode_plain(struct encode *x, const char *text, size_t len)
{
    struct buf b;
    char *nfd = NULL;
    size_t n = 0;
    buf_init(&b, 3 * len + 16);
    clean(x->t, &b, text, len);
    if (!b.failed && x->t->strip_accents)
        nfd = utf8_nfd(buf_str(&b), b.len, &n);
    int rc;
    if (b.failed || (x->t->strip_accents && nfd == NULL))
        rc = err_set(x->e, ERR_NOMEM, "no memory to tokenise %zu bytes", len);
    else if (nfd != NULL)
        rc = take_text(x, nfd, n);
    else
        rc = take_text(x, buf_str(&b), b.len);
    free(nfd);
    buf_free(&b);
    return rc;
}

static int32_t special_at(const struct wordpiece *t, const char *s, size_t len, size_t *n)
{
    for (int i = 0; *s == '[' && i < N_SPECIALS; i++) {
        *n = strlen(special_names[i]);
        if (*n <= len && memcmp(s, special_names[i], *n) == 0)
            return wordpiece_find(t, special_names[i]);
    }
    return -1;
}

static int encode_text(struct encode *x, const char *text, size_t len)
{
    size_t done = 0;
    for (size_t i = 0, n; i < len;) {
        int32_t id = special_at(x->t, text + i, len - i, &n);
        if (id < 0) {
            i++;
            continue;
        }
        int rc = encode_plain(x, text + done, i - done);
        if (rc == 0)
            rc = token_list_push(x->out, id, x->e);
        if (rc != 0)
            return rc;
        done = i += n;
    }
    return encode_plain(x, text + done, len - done);
}

int wordpiece_encode(const struct wordpiece *t, const char *text, size_t len,
                     struct token_list *out, struct err *e)
{
    struct encode x = {.t = t, .out = out, .e = e};
    char *repaired;
    int rc = vocab_repair_text(&text, &len, WORDPIECE_MAX_BYTES, &repaired, e);
    if (rc == 0)
        rc = encode_text(&x, text, len);
    free(repaired);
    return rc;
}

/* ---- decoding ---- */

static bool is_special(const struct wordpiece *t, int32_t id)
{
    const struct wordpiece_info *i = &t->info;
    return id == i->cls || id == i->sep || id == i->pad || id == i->unk || id == i->mask;
}

/* Whether a word stands right behind the one before, as the reference's clean-up has it. */
static bool no_space_before(const char *s, size_t len)
{
    return len > 0 && memchr(".?!,", s[0], 4) != NULL;
}

struct vocab_str wordpiece_token(const struct wordpiece *t, int32_t id)
{
    if (id < 0 || id >= t->info.n_vocab || t->token[id].data == NULL)
        return (struct vocab_str){"", 0};
    return t->token[id];
}

size_t wordpiece_piece(const struct wordpiece *t, int32_t id, char *piece)
{
    const struct vocab_str s = wordpiece_token(t, id);
    size_t skip = 0, n = 0;
    if (s.len == 0 || is_special(t, id))
        return 0;
    if (s.len >= 2 && s.data[0] == '#' && s.data[1] == '#')
        skip = 2;
    else if (!no_space_before(s.data, s.len))
        piece[n++] = ' ';
    memcpy(piece + n, s.data + skip, s.len - skip);
    return n + s.len - skip;
}

int wordpiece_decode(const struct wordpiece *t, const int32_t *ids, size_t n, struct buf *out,
                     struct err *e)
{
    bool first = true;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->info.n_vocab || is_special(t, ids[i]) ||
            t->token[ids[i]].data == NULL)
            continue;
        const char *s = t->token[ids[i]].data;
        size_t len = t->token[ids[i]].len;
        bool rest = !first && len >= 2 && s[0] == '#' && s[1] == '#';
        if (rest) {
            s += 2;
            len -= 2;
        } else if (!first && !no_space_before(s, len)) {
            buf_addc(out, ' ');
        }
        buf_add(out, s, len);
        first = false;
    }
    return out->failed ? err_set(e, ERR_TOOBIG, "the text is longer than %zu bytes", out->max) : 0;
}
