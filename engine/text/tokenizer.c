/* A tokenizer is a vocabulary (vocab.c) with byte-level BPE (bpe.c, words cut by pretok.c) or
 * SentencePiece (spm.c), and around them what both share: tokens that are matched in the text as
 * they stand (control tokens when asked, user-defined ones always), bos and eos, pieces and
 * decoding.
 *
 * Those tokens are in a trie; at each position the longest one wins.  Text between them is plain.
 */
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "engine/gguf.h"
#include "engine/text/bpe.h"
#include "engine/text/pretok.h"
#include "engine/text/spm.h"
#include "engine/text/vocab.h"
#include "engine/text/wordpiece.h"

enum {
    MAX_TEXT_BYTES = 1 << 29, /* positions fit int32_t, even with every space three bytes */
    MAX_SPECIAL_BYTES = 256,  /* longer tokens are not looked for in text */
    NFC_SHRINK = 4,           /* NFC makes text shorter by less than this factor */
    MAX_TRIE_NODES = 8 << 20,
};

struct trie_node {
    uint32_t child, sibling; /* 0: none (the root is nobody's child) */
    int32_t id;              /* of the token that ends here, -1: none */
    unsigned char byte;
};

struct trie {
    struct trie_node *nodes; /* [0] is the root */
    size_t n;
    uint32_t first[256]; /* the root's children by byte */
};

struct tokenizer {
    struct tokenizer_info info;
    struct vocab vocab;
    bool is_spm, space_prefix;
    struct pretok *pretok; /* BPE */
    struct bpe bpe;
    struct spm spm;
    struct wordpiece *wordpiece; /* instead of both */
    struct trie special;
    uint8_t *is_end; /* [n_vocab] */
};

/* ---- the trie of tokens that are matched as they stand ---- */

static bool is_special(const struct vocab *v, size_t i)
{
    size_t len = v->token[i].len;
    return (v->type[i] == TOKEN_CONTROL || v->type[i] == TOKEN_USER ||
            v->type[i] == TOKEN_UNKNOWN) &&
           len > 0 && len <= MAX_SPECIAL_BYTES;
}

/* The child of `at` for byte c, made if it is not there. */
static uint32_t trie_step(struct trie *t, uint32_t at, unsigned char c)
{
    uint32_t *link = at == 0 ? &t->first[c] : &t->nodes[at].child;
    while (*link && t->nodes[*link].byte != c)
        link = &t->nodes[*link].sibling;
    if (!*link) {
        *link = (uint32_t)t->n;
        t->nodes[t->n++] = (struct trie_node){.id = -1, .byte = c};
    }
    return *link;
}

static int trie_build(struct trie *t, const struct vocab *v, struct err *e)
{
    size_t n_nodes = 1;
    for (size_t i = 0; i < v->n; i++)
        n_nodes += is_special(v, i) ? v->token[i].len : 0;
    if (n_nodes > MAX_TRIE_NODES)
        return err_set(e, ERR_CORRUPT, "the control tokens of the vocabulary are %zu bytes long",
                       n_nodes - 1);
    t->nodes = mem_try(n_nodes, sizeof *t->nodes);
    if (!t->nodes)
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", v->n);
    t->n = 1;
    for (size_t i = 0; i < v->n; i++) {
        if (!is_special(v, i))
            continue;
        uint32_t at = 0;
        for (size_t k = 0; k < v->token[i].len; k++)
            at = trie_step(t, at, (unsigned char)v->token[i].data[k]);
        if (t->nodes[at].id < 0)
            t->nodes[at].id = (int32_t)i;
    }
    return 0;
}

/* The longest token that text begins with; -1: none. */
static int32_t trie_match(const struct tokenizer *t, const char *text, size_t len, bool control,
                          size_t *n_bytes)
{
    const struct trie_node *nodes = t->special.nodes;
    int32_t found = -1;
    uint32_t at = t->special.first[(unsigned char)text[0]];
    for (size_t i = 1; at; i++) {
        int32_t id = nodes[at].id;
        if (id >= 0 && (control || t->vocab.type[id] == TOKEN_USER)) {
            found = id;
            *n_bytes = i;
        }
        if (i == len)
            break;
        for (at = nodes[at].child; at && nodes[at].byte != (unsigned char)text[i];)
            at = nodes[at].sibling;
    }
    return found;
}

/* ---- open ---- */

/* A token id of the metadata.  required: out of range is an error, else as if it were absent. */
static int get_id(const struct gguf *g, const char *key, const struct vocab *v, bool required,
                  int32_t *id, struct err *e)
{
    int64_t x = -1, top = required ? (int64_t)v->n - 1 : INT64_MAX;
    int rc = gguf_get_int(g, key, &x, required ? 0 : INT64_MIN, top, e);
    if (!rc && x >= 0 && x < (int64_t)v->n)
        *id = (int32_t)x;
    return rc;
}

/* What SentencePiece models have where the file says nothing: only if that token can be it. */
static int32_t spm_id(const struct vocab *v, size_t id, const char *text)
{
    if (id >= v->n || v->token[id].len != strlen(text) ||
        memcmp(v->token[id].data, text, v->token[id].len) != 0)
        return -1;
    return (int32_t)id;
}

static const char *const end_texts[] = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<|eot|>",
    "<|eom|>",
    "<|return|>",
    "<|call|>",
    "<EOT>",
    "<EOS>",
    "<eos>",
    "</s>",
    "<|EOT|>",
    "[EOS]",
    ("<\xEF\xBD\x9C"
     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"), /* DeepSeek's */
};

static int find_ends(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct vocab *v = &t->vocab;
    t->is_end = mem_try(v->n, 1);
    if (!t->is_end)
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", v->n);
    int32_t eot = -1, eom = -1;
    int rc = get_id(g, "tokenizer.ggml.eot_token_id", v, true, &eot, e);
    if (!rc)
        rc = get_id(g, "tokenizer.ggml.eom_token_id", v, true, &eom, e);
    if (rc)
        return rc;
    const int32_t ids[] = {t->info.eos, eot, eom};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (ids[i] >= 0)
            t->is_end[ids[i]] = 1;
    }
    for (size_t i = 0; i < sizeof end_texts / sizeof *end_texts; i++) {
        int32_t id = vocab_find(v, end_texts[i], strlen(end_texts[i]));
        if (id >= 0 && (v->type[id] == TOKEN_CONTROL || v->type[id] == TOKEN_USER))
            t->is_end[id] = 1;
    }
    return 0;
}

static int read_info(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct tokenizer_info *info = &t->info;
    const struct vocab *v = &t->vocab;
    *info = (struct tokenizer_info){
        .n_vocab = (int)v->n,
        .bos = t->is_spm ? spm_id(v, 1, "<s>") : -1,
        .eos = t->is_spm ? spm_id(v, 2, "</s>") : -1,
        .unk = t->is_spm ? spm_id(v, 0, "<unk>") : -1,
        .pad = -1,
        .add_bos = t->is_spm || (pretok_flags(t->pretok) & PRETOK_BOS),
        .model = t->is_spm ? "llama" : "gpt2",
        .pre = t->is_spm ? "" : pretok_name(t->pretok),
    };
    t->space_prefix = t->is_spm;
    int rc = get_id(g, "tokenizer.ggml.bos_token_id", v, true, &info->bos, e);
    if (!rc)
        rc = get_id(g, "tokenizer.ggml.eos_token_id", v, true, &info->eos, e);
    if (!rc)
        rc = get_id(g, "tokenizer.ggml.unknown_token_id", v, false, &info->unk, e);
    if (!rc)
        rc = get_id(g, "tokenizer.ggml.padding_token_id", v, false, &info->pad, e);
    if (!rc)
        rc = gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &info->add_bos, e);
    if (!rc)
        rc = gguf_get_bool(g, "tokenizer.ggml.add_eos_token", &info->add_eos, e);
    if (!rc && t->is_spm) /* byte-level models never have it, whatever the file says */
        rc = gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &t->space_prefix, e);
    info->add_bos = info->add_bos && info->bos >= 0;
    info->add_eos = info->add_eos && info->eos >= 0;
    return rc;
}

static int open_bpe(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct gguf_str pre = {0};
    int rc = gguf_get_str(g, "tokenizer.ggml.pre", &pre, e);
    if (!rc)
        rc = pretok_open(&t->pretok, pre.data, pre.len, e);
    if (!rc)
        rc = vocab_open(&t->vocab, g, true, e);
    if (!rc)
        rc = bpe_open(&t->bpe, g, &t->vocab, pretok_flags(t->pretok) & PRETOK_WHOLE_WORDS, e);
    return rc ? rc : read_info(t, g, e);
}

static int open_spm(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    t->is_spm = true;
    int rc = vocab_open(&t->vocab, g, false, e);
    if (!rc)
        rc = read_info(t, g, e);
    return rc ? rc : spm_open(&t->spm, g, &t->vocab, t->info.unk, e);
}

int tokenizer_open(struct tokenizer **out, const struct gguf *g, struct err *e)
{
    struct gguf_str model = {0};
    int rc = gguf_get_str(g, "tokenizer.ggml.model", &model, e);
    if (rc)
        return rc;
    if (!model.len)
        return err_set(e, ERR_CORRUPT, "the file has no tokenizer (tokenizer.ggml.model)");
    struct tokenizer *t = xcalloc(1, sizeof *t);
    if (model.len == 4 && memcmp(model.data, "gpt2", 4) == 0)
        rc = open_bpe(t, g, e);
    else if (model.len == 5 && memcmp(model.data, "llama", 5) == 0)
        rc = open_spm(t, g, e);
    else
        rc = err_set(e, ERR_UNSUPPORTED, "tokenizers of the kind \"%.*s\" are not built in",
                     model.len < 64 ? (int)model.len : 64, model.data);
    if (!rc)
        rc = find_ends(t, g, e);
    if (!rc)
        rc = trie_build(&t->special, &t->vocab, e);
    if (rc) {
        tokenizer_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

/* The tokens as the vocabulary has them, and what they add to a text. */
static int copy_vocab(struct tokenizer *t, size_t n, struct err *e)
{
    struct vocab *v = &t->vocab;
    char piece[WORDPIECE_PIECE_MAX];
    size_t n_bytes = 0, at = 0;
    for (size_t i = 0; i < n; i++)
        n_bytes += wordpiece_piece(t->wordpiece, (int32_t)i, piece);
    v->token = mem_try(n, sizeof *v->token);
    v->piece = mem_try(n, sizeof *v->piece);
    v->type = mem_try(n, 1);
    v->piece_bytes = mem_try(n_bytes + 1, 1);
    t->is_end = mem_try(n, 1);
    if (!v->token || !v->piece || !v->type || !v->piece_bytes || !t->is_end ||
        map_init(&v->by_token, n))
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", n);
    v->n = n;
    v->max_piece = 1;
    for (size_t i = 0; i < n; i++) {
        v->token[i] = wordpiece_token(t->wordpiece, (int32_t)i);
        v->piece[i].data = v->piece_bytes + at;
        v->piece[i].len = wordpiece_piece(t->wordpiece, (int32_t)i, v->piece_bytes + at);
        v->type[i] = TOKEN_NORMAL;
        at += v->piece[i].len;
        v->max_piece = v->piece[i].len > v->max_piece ? v->piece[i].len : v->max_piece;
        int64_t known;
        if (v->token[i].len && !map_get(&v->by_token, v->token[i].data, v->token[i].len, &known) &&
            map_put(&v->by_token, v->token[i].data, v->token[i].len, (int64_t)i))
            return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", n);
    }
    return 0;
}

int tokenizer_from_wordpiece(struct tokenizer **out, struct wordpiece *w, int32_t bos, int32_t eos,
                             bool framed, int n_vocab, struct err *e)
{
    const struct wordpiece_info *info = wordpiece_info(w);
    struct tokenizer *t = xcalloc(1, sizeof *t);
    t->wordpiece = w;
    t->space_prefix = true;
    t->info = (struct tokenizer_info){.n_vocab = n_vocab,
                                      .bos = bos,
                                      .eos = eos,
                                      .add_bos = framed,
                                      .add_eos = framed,
                                      .unk = info->unk,
                                      .pad = info->pad,
                                      .model = "bert",
                                      .pre = ""};
    int rc = 0;
    if (n_vocab < info->n_vocab || bos >= n_vocab || eos >= n_vocab)
        rc = err_set(e, ERR_CORRUPT, "a vocabulary of %d tokens for a model of %d", info->n_vocab,
                     n_vocab);
    if (!rc)
        rc = copy_vocab(t, (size_t)n_vocab, e);
    if (rc) {
        tokenizer_close(t);
        return rc;
    }
    const int32_t control[] = {bos, eos, info->cls, info->sep, info->pad};
    for (size_t i = 0; i < sizeof control / sizeof *control; i++) {
        if (control[i] >= 0) {
            t->vocab.type[control[i]] = TOKEN_CONTROL;
            t->vocab.piece[control[i]].len = 0;
        }
    }
    if (eos >= 0)
        t->is_end[eos] = 1;
    *out = t;
    return 0;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    pretok_close(t->pretok);
    bpe_close(&t->bpe);
    spm_close(&t->spm);
    wordpiece_close(t->wordpiece);
    free(t->special.nodes);
    free(t->is_end);
    vocab_close(&t->vocab);
    free(t);
}

const struct tokenizer_info *tokenizer_info(const struct tokenizer *t)
{
    return &t->info;
}

/* ---- encoding ---- */

struct encoding {
    const struct tokenizer *t;
    struct pretok_work *pretok; /* BPE */
    struct bpe_work work;
    struct token_list out;
    struct err *e;
};

static int put_word(void *arg, const char *word, size_t len)
{
    struct encoding *x = arg;
    return bpe_word(&x->t->bpe, &x->work, word, len, &x->out, x->e);
}

/* Text whose characters are all below U+0300 is in NFC already. */
static bool surely_nfc(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] >= 0xCC)
            return false;
    }
    return true;
}

/* Valid UTF-8. */
static int put_valid(struct encoding *x, const char *text, size_t len)
{
    const struct pretok *p = x->t->pretok;
    char *nfc = NULL;
    if ((pretok_flags(p) & PRETOK_NFC) && !surely_nfc(text, len)) {
        nfc = utf8_nfc(text, len, &len);
        if (!nfc)
            return err_set(x->e, ERR_NOMEM, "no memory to normalise a text");
        text = nfc;
    }
    int rc = pretok_split(p, x->pretok, text, len, put_word, x);
    free(nfc);
    return rc;
}

/* Cuts at bytes that are not UTF-8: each is a word of its own. */
static int put_bpe(struct encoding *x, const char *text, size_t len)
{
    size_t done = 0, i = 0;
    int rc = 0;
    while (!rc && i < len) {
        uint32_t cp;
        size_t n = (size_t)utf8_decode(text + i, len - i, &cp);
        if (n == 1 && (unsigned char)text[i] >= 0x80) {
            if (i > done)
                rc = put_valid(x, text + done, i - done);
            if (!rc)
                rc = put_word(x, text + i, 1);
            done = i + 1;
        }
        i += n;
    }
    return rc || done == len ? rc : put_valid(x, text + done, len - done);
}

static int put_plain(struct encoding *x, const char *text, size_t len, bool prefix)
{
    if (x->t->is_spm)
        return len || prefix ? spm_text(&x->t->spm, &x->work, text, len, prefix, &x->out, x->e) : 0;
    return len ? put_bpe(x, text, len) : 0;
}

static int put_text(struct encoding *x, const char *text, size_t len, bool control)
{
    const struct tokenizer *t = x->t;
    if (t->wordpiece)
        return wordpiece_encode(t->wordpiece, text, len, &x->out, x->e);
    bool prefix = t->space_prefix; /* what comes next begins a text */
    size_t done = 0;
    for (size_t i = 0; i < len;) {
        size_t n = 0;
        int32_t id = trie_match(t, text + i, len - i, control, &n);
        if (id < 0) {
            i++;
            continue;
        }
        bool user = t->vocab.type[id] == TOKEN_USER;
        int rc = 0;
        if (i > done || (user && prefix)) {
            rc = put_plain(x, text + done, i - done, prefix);
            prefix = false;
        }
        if (!rc)
            rc = token_list_push(&x->out, id, x->e);
        if (rc)
            return rc;
        if (!user)
            prefix = t->space_prefix;
        i += n;
        done = i;
    }
    return done < len ? put_plain(x, text + done, len - done, prefix) : 0;
}

/* The fewest tokens that len bytes can give; 0 where tokens can be dropped or fused. */
static size_t fewest_tokens(const struct tokenizer *t, size_t len)
{
    if (t->wordpiece || !(t->is_spm ? t->spm.all_bytes : t->bpe.all_bytes))
        return 0;
    bool nfc = !t->is_spm && (pretok_flags(t->pretok) & PRETOK_NFC);
    return len / (t->vocab.max_piece * (nfc ? NFC_SHRINK : 1));
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, int flags,
                     int32_t **ids, size_t *n_ids, size_t max_ids, struct err *e)
{
    if (len > MAX_TEXT_BYTES || fewest_tokens(t, len) > max_ids)
        return err_set(e, ERR_TOOBIG, "a text of %zu bytes is more than %zu tokens long", len,
                       max_ids);
    struct encoding x = {.t = t, .out.max = max_ids, .e = e};
    int rc = 0;
    if (t->pretok) {
        x.pretok = pretok_work_new(t->pretok);
        if (!x.pretok)
            rc = err_set(e, ERR_NOMEM, "no memory to tokenise a text");
    }
    if (!rc && (flags & TOKENIZE_BOS) && t->info.add_bos)
        rc = token_list_push(&x.out, t->info.bos, e);
    if (!rc)
        rc = put_text(&x, text, len, flags & TOKENIZE_SPECIAL);
    if (!rc && (flags & TOKENIZE_BOS) && t->info.add_eos)
        rc = token_list_push(&x.out, t->info.eos, e);
    if (!rc && !x.out.ids) {
        x.out.ids = mem_try(1, sizeof *x.out.ids); /* no tokens: still something to free */
        if (!x.out.ids)
            rc = err_set(e, ERR_NOMEM, "no memory to tokenise a text");
    }
    pretok_work_free(x.pretok);
    bpe_work_free(&x.work);
    if (rc) {
        free(x.out.ids);
        return rc;
    }
    *ids = x.out.ids;
    *n_ids = x.out.n;
    return 0;
}

/* ---- tokens back to text ---- */

static bool in_vocab(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (size_t)id < t->vocab.n;
}

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, bool special, size_t *len)
{
    *len = 0;
    if (!in_vocab(t, id) || (!special && tokenizer_is_control(t, id)))
        return "";
    *len = t->vocab.piece[id].len;
    return t->vocab.piece[id].data;
}

bool tokenizer_strips_space(const struct tokenizer *t)
{
    return t->space_prefix;
}

const char *tokenizer_token(const struct tokenizer *t, int32_t id, size_t *len)
{
    *len = in_vocab(t, id) ? t->vocab.token[id].len : 0;
    return in_vocab(t, id) ? t->vocab.token[id].data : "";
}

int32_t tokenizer_find(const struct tokenizer *t, const char *token, size_t len)
{
    return vocab_find(&t->vocab, token, len);
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    return in_vocab(t, id) && t->is_end[id];
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id)
{
    return in_vocab(t, id) &&
           (t->vocab.type[id] == TOKEN_CONTROL || t->vocab.type[id] == TOKEN_UNKNOWN);
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n_ids, bool special,
                     char **text, size_t *len, struct err *e)
{
    size_t total = 0, n;
    for (size_t i = 0; i < n_ids; i++) {
        if (!in_vocab(t, ids[i]))
            return err_set(e, ERR_INVALID, "token %d is outside the vocabulary", (int)ids[i]);
        (void)tokenizer_piece(t, ids[i], special, &n);
        if (n > SIZE_MAX / 2 - total)
            return err_set(e, ERR_TOOBIG, "%zu tokens are too much text", n_ids);
        total += n;
    }
    char *out = mem_try(total + 1, 1);
    if (!out)
        return err_set(e, ERR_NOMEM, "no memory for a text of %zu bytes", total);
    size_t at = 0;
    bool strip = t->space_prefix; /* the encoder's space in front, where a text begins */
    for (size_t i = 0; i < n_ids; i++) {
        const char *p = tokenizer_piece(t, ids[i], special, &n);
        bool control = tokenizer_is_control(t, ids[i]);
        if (strip && !control && n && p[0] == ' ') {
            p++;
            n--;
        }
        memcpy(out + at, p, n);
        at += n;
        strip = control && t->space_prefix;
    }
    out[at] = '\0';
    *text = out;
    *len = at;
    return 0;
}
