/* CLIP's tokenizer (Radford et al. 2021) as Hugging Face's fast tokenizers run it.
 *
 * Text is cut at the special tokens first; what lies between is brought to NFC and lower case and cut
 * into words (pretok "clip").  A word's bytes are symbols, the last one with "</w>" behind it, and
 * merge by rank as in bpe.h.  The vocabulary itself is needed only while the tables are made. */
#include "engine/text/clip_bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/map.h"
#include "base/utf8.h"
#include "engine/text/bpe.h"
#include "engine/text/pretok.h"

enum {
    FILE_MAX = 16 << 20, /* CLIP's vocab.json has 1 MB, its tokenizer.json 4 */
    NODES_MAX = 1 << 20,
    TOKENS_MAX = 1 << 20,
    MERGES_MAX = 1 << 20,
    TOKEN_MAX_BYTES = 512,
    SPECIAL_MAX = 63, /* bytes */
    N_SPECIALS = 3
};
#define END_OF_WORD "</w>"
enum { N_END = sizeof END_OF_WORD - 1 };

struct special {
    char text[SPECIAL_MAX + 1];
    size_t len;
    int32_t id;
};

struct clip_bpe {
    struct clip_bpe_info info;
    struct bpe_merges merges;
    int32_t inner[256], last[256]; /* the symbol of a byte within a word, and at its end; -1 */
    struct special specials[N_SPECIALS];
    int n_specials;
    struct pretok *pretok;
};

/* ---- reading ---- */

struct reader {
    struct clip_bpe *t;
    const char *dir;
    struct cJSON *vocab_doc, *config_doc, *special_doc; /* owned */
    const struct cJSON *vocab;                          /* "token": id */
    struct map ids;                                     /* its keys are the document's */
    uint32_t rank;                                      /* of the next merge */
    struct err *e;
};

static int no_memory(struct err *e)
{
    return err_set(e, ERR_NOMEM, "out of memory for a CLIP vocabulary");
}

static bool path_of(char out[4096], const char *dir, const char *name)
{
    int n = snprintf(out, 4096, "%s/%s", dir, name);
    return n > 0 && n < 4096;
}

static bool has(const struct reader *r, const char *name)
{
    char path[4096];
    struct stat st;
    return path_of(path, r->dir, name) && stat(path, &st) == 0;
}

static int read_json(struct reader *r, const char *name, struct cJSON **doc)
{
    char path[4096];
    struct file f;
    if (!path_of(path, r->dir, name))
        return err_set(r->e, ERR_INVALID, "the path of the tokenizer is too long");
    int rc = file_open(&f, path, r->e);
    if (rc != 0)
        return rc;
    const struct json_limits limits = {FILE_MAX, 32, NODES_MAX, false};
    rc = json_parse(doc, f.data != NULL ? f.data : "", f.size, &limits, r->e);
    file_close(&f);
    if (rc == 0 || rc == ERR_NOMEM)
        return rc;
    err_wrap(r->e, "%s", path);
    if (r->e != NULL)
        r->e->code = ERR_CORRUPT;
    return ERR_CORRUPT;
}

static int read_vocab(struct reader *r)
{
    int n = json_size(r->vocab);
    if (json_type(r->vocab) != JSON_OBJECT || n < 2 || n > TOKENS_MAX)
        return err_set(r->e, ERR_CORRUPT, "%s: the vocabulary has %d tokens, expected 2 to %d",
                       r->dir, n, TOKENS_MAX);
    if (map_init(&r->ids, (size_t)n) != 0)
        return no_memory(r->e);
    for (const struct cJSON *v = json_first(r->vocab); v != NULL; v = json_next(v)) {
        const char *token = json_key(v);
        double id = json_num(v);
        if (!json_is_int(v) || id < 0 || id >= TOKENS_MAX)
            return err_set(r->e, ERR_CORRUPT, "%s: a token's id is not a number below %d", r->dir,
                           TOKENS_MAX);
        if ((int)id >= r->t->info.n_vocab)
            r->t->info.n_vocab = (int)id + 1;
        if (map_put(&r->ids, token, strlen(token), (int64_t)id) == ERR_NOMEM)
            return no_memory(r->e);
    }
    return 0;
}

static int32_t id_of(const struct reader *r, const char *token, size_t len)
{
    int64_t id;
    return map_get(&r->ids, token, len, &id) ? (int32_t)id : -1;
}

/* Of pairs that could never give a token nothing is kept. */
static int put_merge(struct reader *r, const char *a, size_t n_a, const char *b, size_t n_b)
{
    char joined[TOKEN_MAX_BYTES];
    uint32_t rank = r->rank++;
    if (rank >= MERGES_MAX)
        return err_set(r->e, ERR_CORRUPT, "%s: more than %d merges", r->dir, MERGES_MAX);
    if (n_a == 0 || n_b == 0 || n_a + n_b > sizeof joined)
        return 0;
    memcpy(joined, a, n_a);
    memcpy(joined + n_a, b, n_b);
    int32_t left = id_of(r, a, n_a), right = id_of(r, b, n_b), id = id_of(r, joined, n_a + n_b);
    if (left < 0 || right < 0 || id < 0)
        return 0;
    return bpe_merges_put(&r->t->merges, left, right, rank, id) != 0 ? no_memory(r->e) : 0;
}

/* "left right", split at its one space. */
static int put_line(struct reader *r, const char *s, size_t len)
{
    const char *space = len > 0 ? memchr(s, ' ', len) : NULL;
    if (space == NULL || memchr(space + 1, ' ', len - (size_t)(space + 1 - s)) != NULL)
        return err_set(r->e, ERR_CORRUPT, "%s: merge %u is not two tokens with a space between",
                       r->dir, r->rank);
    return put_merge(r, s, (size_t)(space - s), space + 1, len - (size_t)(space + 1 - s));
}

static int read_merges_txt(struct reader *r)
{
    char path[4096];
    struct file f;
    if (!path_of(path, r->dir, "merges.txt"))
        return err_set(r->e, ERR_INVALID, "the path of the tokenizer is too long");
    int rc = file_open(&f, path, r->e);
    if (rc != 0)
        return rc;
    if (f.size > FILE_MAX)
        rc = err_set(r->e, ERR_TOOBIG, "%s is larger than %d bytes", path, FILE_MAX);
    for (size_t at = 0; rc == 0 && at < f.size;) {
        const char *s = f.data + at, *nl = memchr(s, '\n', f.size - at);
        size_t len = nl != NULL ? (size_t)(nl - s) : f.size - at;
        bool version = at == 0 && len >= 8 && memcmp(s, "#version", 8) == 0;
        at += len + 1;
        if (len > 0 && s[len - 1] == '\r')
            len--;
        if (len > 0 && !version)
            rc = put_line(r, s, len);
    }
    file_close(&f);
    return rc != 0 || r->rank > 0 ? rc
                                  : err_set(r->e, ERR_CORRUPT, "%s has no merges", file_tail(path));
}

/* ["a", "b"], or "a b" in files before 2024. */
static int read_merges_json(struct reader *r, const struct cJSON *merges)
{
    int rc = 0;
    if (json_type(merges) != JSON_ARRAY)
        return err_set(r->e, ERR_CORRUPT, "%s: tokenizer.json has no merges", r->dir);
    for (const struct cJSON *v = json_first(merges); rc == 0 && v != NULL; v = json_next(v)) {
        const char *line = json_str(v), *a = json_str(json_first(v)), *b = NULL;
        if (a != NULL)
            b = json_str(json_next(json_first(v)));
        if (line != NULL)
            rc = put_line(r, line, strlen(line));
        else if (a != NULL && b != NULL)
            rc = put_merge(r, a, strlen(a), b, strlen(b));
        else
            rc = err_set(r->e, ERR_CORRUPT, "%s: merge %u is not two tokens", r->dir, r->rank);
    }
    return rc;
}

static int read_tokenizer_json(struct reader *r)
{
    int rc = read_json(r, "tokenizer.json", &r->vocab_doc);
    if (rc != 0)
        return rc;
    const struct cJSON *model = json_get(r->vocab_doc, "model");
    const char *type = json_str(json_get(model, "type"));
    const char *suffix = json_str(json_get(model, "end_of_word_suffix"));
    if ((type != NULL && strcmp(type, "BPE") != 0) || suffix == NULL ||
        strcmp(suffix, END_OF_WORD) != 0)
        return err_set(r->e, ERR_UNSUPPORTED, "%s/tokenizer.json is not the tokenizer of a CLIP",
                       r->dir);
    r->vocab = json_get(model, "vocab");
    rc = read_vocab(r);
    return rc != 0 ? rc : read_merges_json(r, json_get(model, "merges"));
}

static int read_model(struct reader *r)
{
    if (!has(r, "vocab.json") || !has(r, "merges.txt")) {
        if (!has(r, "tokenizer.json"))
            return err_set(r->e, ERR_NOTFOUND,
                           "%s has neither vocab.json and merges.txt nor tokenizer.json", r->dir);
        return read_tokenizer_json(r);
    }
    int rc = read_json(r, "vocab.json", &r->vocab_doc);
    if (rc != 0)
        return rc;
    r->vocab = r->vocab_doc;
    rc = read_vocab(r);
    return rc != 0 ? rc : read_merges_txt(r);
}

static void fill_bytes(struct reader *r)
{
    for (int i = 0; i < 256; i++) {
        char s[4 + N_END];
        size_t n = (size_t)utf8_encode(s, vocab_byte_to_cp((unsigned char)i));
        memcpy(s + n, END_OF_WORD, N_END);
        r->t->inner[i] = id_of(r, s, n);
        r->t->last[i] = id_of(r, s, n + N_END);
    }
}

static int add_special(struct reader *r, const char *text, int32_t *id)
{
    struct clip_bpe *t = r->t;
    size_t len = strlen(text);
    *id = id_of(r, text, len);
    if (*id < 0 || len == 0 || len > SPECIAL_MAX)
        return err_set(r->e, ERR_CORRUPT,
                       "%s: the special token \"%.40s\" is not in the vocabulary", r->dir, text);
    for (int i = 0; i < t->n_specials; i++)
        if (t->specials[i].id == *id)
            return 0;
    struct special *s = &t->specials[t->n_specials++];
    memcpy(s->text, text, len);
    s->len = len;
    s->id = *id;
    return 0;
}

/* pad_token of a document: a string, or {"content": "!", ...}.  NULL where it says nothing. */
static const char *pad_of(const struct cJSON *doc)
{
    const struct cJSON *v = json_get(doc, "pad_token");
    return json_str(json_type(v) == JSON_OBJECT ? json_get(v, "content") : v);
}

/* special_tokens_map.json counts, unless tokenizer_config.json is of the newer kind. */
static int read_pad(struct reader *r, const char **pad)
{
    const char *config = NULL;
    int rc =
        has(r, "tokenizer_config.json") ? read_json(r, "tokenizer_config.json", &r->config_doc) : 0;
    if (rc == 0 && has(r, "special_tokens_map.json"))
        rc = read_json(r, "special_tokens_map.json", &r->special_doc);
    if (rc != 0)
        return rc;
    config = pad_of(r->config_doc);
    *pad = pad_of(r->special_doc);
    if (*pad == NULL || (config != NULL && json_get(r->config_doc, "added_tokens_decoder") != NULL))
        *pad = config;
    return 0;
}

static int read_specials(struct reader *r, const char *pad)
{
    static const char bos[] = "<|startoftext|>", eos[] = "<|endoftext|>";
    struct clip_bpe_info *info = &r->t->info;
    int rc = pad == NULL ? read_pad(r, &pad) : 0;
    if (rc == 0)
        rc = add_special(r, bos, &info->bos);
    if (rc == 0)
        rc = add_special(r, eos, &info->eos);
    return rc != 0 ? rc : add_special(r, pad != NULL ? pad : eos, &info->pad);
}

static int fill(struct reader *r, const char *pad)
{
    if (bpe_merges_init(&r->t->merges, 1 << 10) != 0)
        return no_memory(r->e);
    int rc = read_model(r);
    if (rc == 0)
        rc = read_specials(r, pad);
    if (rc != 0)
        return rc;
    fill_bytes(r);
    r->t->info.comma = id_of(r, "," END_OF_WORD, 1 + N_END);
    return pretok_open(&r->t->pretok, "clip", strlen("clip"), r->e);
}

int clip_bpe_open(struct clip_bpe **out, const char *dir, const char *pad, struct err *e)
{
    struct clip_bpe *t = xcalloc(1, sizeof *t);
    struct reader r = {.t = t, .dir = dir, .e = e};
    int rc = fill(&r, pad);
    map_free(&r.ids);
    json_free(r.vocab_doc);
    json_free(r.config_doc);
    json_free(r.special_doc);
    if (rc != 0) {
        clip_bpe_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void clip_bpe_close(struct clip_bpe *t)
{
    if (t == NULL)
        return;
    bpe_merges_free(&t->merges);
    pretok_close(t->pretok);
    free(t);
}

const struct clip_bpe_info *clip_bpe_info(const struct clip_bpe *t)
{
    return &t->info;
}

/* ---- encoding ---- */

struct clip_bpe_work {
    struct bpe_work bpe;
    struct pretok_work *words;
};

struct clip_bpe_work *clip_bpe_work_new(const struct clip_bpe *t)
{
    struct clip_bpe_work *w = xcalloc(1, sizeof *w);
    w->words = pretok_work_new(t->pretok);
    if (w->words != NULL)
        return w;
    free(w);
    return NULL;
}

void clip_bpe_work_free(struct clip_bpe_work *w)
{
    if (w == NULL)
        return;
    pretok_work_free(w->words);
    bpe_work_free(&w->bpe);
    free(w);
}

struct encode {
    const struct clip_bpe *t;
    struct clip_bpe_work *w;
    struct token_list *out;
    struct err *e;
};

static int encode_word(void *arg, const char *word, size_t len)
{
    struct encode *x = arg;
    const struct clip_bpe *t = x->t;
    uint32_t cp;
    utf8_decode(word, len, &cp);
    if (utf8_is_space(cp)) /* between two words */
        return 0;
    if (bpe_work_reserve(&x->w->bpe, len) != 0)
        return err_set(x->e, ERR_NOMEM, "no memory to tokenise a word of %zu bytes", len);
    for (size_t i = 0; i < len; i++) {
        unsigned char b = (unsigned char)word[i];
        int32_t id = i + 1 < len ? t->inner[b] : t->last[b];
        x->w->bpe.syms[i] = (struct bpe_sym){.id = id >= 0 ? id : t->info.eos, .at = (uint32_t)i};
    }
    size_t n = bpe_merge(&t->merges, &x->w->bpe, len);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = token_list_push(x->out, x->w->bpe.syms[i].id, x->e);
    return rc;
}

/* Lower case of NFC text, code point by code point; only U+0130 becomes two. */
static void lower(struct buf *b, const char *s, size_t len)
{
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        char out[4];
        i += (size_t)utf8_decode(s + i, len - i, &cp);
        if (cp == 0x130)
            buf_adds(b, "i\xCC\x87");
        else
            buf_add(b, out, (size_t)utf8_encode(out, utf8_lower(cp)));
    }
}

/* Valid UTF-8 without special tokens in it. */
static int encode_plain(struct encode *x, const char *text, size_t len)
{
    size_t n = 0;
    if (len == 0)
        return 0;
    char *nfc = utf8_nfc(text, len, &n);
    struct buf b;
    buf_init(&b, 2 * n + 16);
    if (nfc != NULL)
        lower(&b, nfc, n);
    int rc = nfc == NULL || b.failed
                 ? err_set(x->e, ERR_NOMEM, "no memory to tokenise %zu bytes", len)
                 : pretok_split(x->t->pretok, x->w->words, b.data, b.len, encode_word, x);
    free(nfc);
    buf_free(&b);
    return rc;
}

static const struct special *special_at(const struct clip_bpe *t, const char *s, size_t len)
{
    for (int i = 0; i < t->n_specials; i++)
        if (t->specials[i].len <= len && memcmp(s, t->specials[i].text, t->specials[i].len) == 0)
            return &t->specials[i];
    return NULL;
}

static int encode_text(struct encode *x, const char *text, size_t len)
{
    size_t done = 0;
    for (size_t i = 0; i < len;) {
        const struct special *s = special_at(x->t, text + i, len - i);
        if (s == NULL) {
            i++;
            continue;
        }
        int rc = encode_plain(x, text + done, i - done);
        if (rc == 0)
            rc = token_list_push(x->out, s->id, x->e);
        if (rc != 0)
            return rc;
        done = i += s->len;
    }
    return encode_plain(x, text + done, len - done);
}

int clip_bpe_encode(const struct clip_bpe *t, struct clip_bpe_work *w, const char *text, size_t len,
                    struct token_list *out, struct err *e)
{
    struct encode x = {.t = t, .w = w, .out = out, .e = e};
    char *repaired;
    int rc = vocab_repair_text(&text, &len, CLIP_BPE_MAX_BYTES, &repaired, e);
    if (rc == 0)
        rc = encode_text(&x, text, len);
    free(repaired);
    return rc;
}
