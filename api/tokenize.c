/* POST /tokenize, /detokenize and /apply-template: what llama.cpp's and vLLM's clients send, and
 * answers that both understand. */
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "base/utf8.h"

/* The model that the request names, if it reads text by a tokenizer of tokens; else the first text model. */
static int find_tokenizer(struct api_call *c, const struct cJSON *body, const struct api_model **m,
                          struct err *e)
{
    const struct api *a = c->priv->api;
    const char *id = json_str(json_get(body, "model"));
    for (int i = 0; id != NULL && i < a->n_models; i++) {
        const struct model_card *card = a->models[i].card;
        if (strcmp(card->id, id) != 0)
            continue;
        if (card->tokenizer == NULL) {
            err_set(e, ERR_UNSUPPORTED,
                    "model '%.60s' makes images: its prompts cannot be tokenized here, only those "
                    "of text, embedding and caption models",
                    id);
            return err_param(e, "model");
        }
        *m = &a->models[i];
        c->model = card->id;
        return 0;
    }
    return api_find_model(c, body, MODEL_TEXT, m, e);
}

/* A piece that is not text on its own is given as bytes, as llama.cpp does. */
static void put_piece(struct json_writer *w, const char *key, const char *s, size_t n)
{
    if (utf8_valid(s, n)) {
        json_put_strn(w, key, s, n);
        return;
    }
    json_open(w, key, '[');
    for (size_t i = 0; i < n; i++)
        json_put_int(w, NULL, (unsigned char)s[i]);
    json_close(w, ']');
}

static void put_tokens(struct buf *out, const struct model_card *card, const int32_t *ids, size_t n,
                       bool pieces, bool strings)
{
    struct json_writer w;
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    json_open(&w, "tokens", '[');
    for (size_t i = 0; i < n; i++) {
        if (!pieces) {
            json_put_int(&w, NULL, ids[i]);
            continue;
        }
        size_t len = 0;
        const char *s = tokenizer_piece(card->tokenizer, ids[i], true, &len);
        json_open(&w, NULL, '{');
        json_put_int(&w, "id", ids[i]);
        put_piece(&w, "piece", s, len);
        json_close(&w, '}');
    }
    json_close(&w, ']');
    json_put_int(&w, "count", (int64_t)n);
    json_put_int(&w, "max_model_len", card->n_ctx);
    if (strings) {
        json_open(&w, "token_strs", '[');
        for (size_t i = 0; i < n; i++) {
            size_t len = 0;
            const char *s = tokenizer_token(card->tokenizer, ids[i], &len);
            json_put_strn(&w, NULL, s, len);
        }
        json_close(&w, ']');
    }
    json_close(&w, '}');
}

struct wishes {
    bool special, bos, pieces, strings;
};

/* vLLM's "prompt" gets a BOS unless told otherwise, llama.cpp's "content" only when asked. */
static int parse_wishes(const struct cJSON *body, bool bos, struct wishes *v, struct err *e)
{
    int err = 0;
    *v = (struct wishes){.special = true, .bos = bos};
    if ((err = json_get_bool(body, "add_special", &v->bos, e)) != 0 ||
        (err = json_get_bool(body, "add_special_tokens", &v->bos, e)) != 0 ||
        (err = json_get_bool(body, "parse_special", &v->special, e)) != 0 ||
        (err = json_get_bool(body, "with_pieces", &v->pieces, e)) != 0 ||
        (err = json_get_bool(body, "return_token_strs", &v->strings, e)) != 0)
        return err;
    return 0;
}

static int tokenize_text(const struct api_model *m, const char *text, const struct wishes *v,
                         size_t max_ids, int32_t **ids, size_t *n, struct err *e)
{
    int flags = (v->bos ? TOKENIZE_BOS : 0) | (v->special ? TOKENIZE_SPECIAL : 0);
    return tokenizer_encode(m->card->tokenizer, text, strlen(text), flags, ids, n, max_ids, e);
}

static int tokenize_messages(const struct api *a, const struct api_model *m,
                             const struct cJSON *body, size_t max_ids, int32_t **ids, size_t *n,
                             struct err *e)
{
    struct buf text;
    buf_init(&text, 4 * a->o.max_body_bytes + (1 << 20));
    int err = chat_prompt(a, m, body, &text, e);
    if (err == 0)
        err = chat_tokens(m, &text, max_ids, ids, n, e);
    buf_free(&text);
    return err;
}

int tokenize_begin(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api *a = c->priv->api;
    const struct api_model *m = NULL;
    const char *content = NULL, *prompt = NULL;
    struct wishes v;
    int32_t *ids = NULL;
    size_t n = 0, max_ids = 2 * a->o.max_body_bytes + 16;
    int err = find_tokenizer(c, body, &m, e);
    if (err != 0 || (err = json_get_str(body, "content", &content, e)) != 0 ||
        (err = json_get_str(body, "prompt", &prompt, e)) != 0 ||
        (err = parse_wishes(body, prompt != NULL, &v, e)) != 0)
        return err;
    bool messages = json_type(json_get(body, "messages")) != JSON_NULL;
    if ((content != NULL) + (prompt != NULL) + messages != 1) {
        err_set(e, ERR_INVALID, "give exactly one of content, prompt (a string) and messages");
        return err_param(e, "content");
    }
    if (messages && m->card->kind != MODEL_TEXT) {
        err_set(e, ERR_INVALID, "model '%.60s' has no chat: give content or prompt", m->card->id);
        err = err_param(e, "messages");
    } else if (messages)
        err = tokenize_messages(a, m, body, max_ids, &ids, &n, e);
    else
        err = tokenize_text(m, content != NULL ? content : prompt, &v, max_ids, &ids, &n, e);
    if (err == 0)
        put_tokens(&c->out, m->card, ids, n, v.pieces, v.strings);
    c->prompt_tokens = (int)n;
    free(ids);
    return err;
}

static int bad_tokens(const struct model_card *card, struct err *e)
{
    err_set(e, ERR_INVALID, "tokens must be a list of token ids from 0 to %d", card->n_vocab - 1);
    return err_param(e, "tokens");
}

int tokenize_detokenize(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api_model *m = NULL;
    const struct cJSON *tokens = json_get(body, "tokens");
    int err = find_tokenizer(c, body, &m, e);
    if (err != 0)
        return err;
    if (json_type(tokens) != JSON_ARRAY)
        return bad_tokens(m->card, e);
    size_t n = (size_t)json_size(tokens), len = 0, i = 0;
    int32_t *ids = mem_try(n + 1, sizeof *ids);
    char *text = NULL;
    if (ids == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the tokens");
    for (const struct cJSON *v = json_first(tokens); v != NULL && err == 0; v = json_next(v)) {
        if (!json_is_int(v) || json_num(v) < 0 || json_num(v) >= m->card->n_vocab)
            err = bad_tokens(m->card, e);
        else
            ids[i++] = (int32_t)json_num(v);
    }
    if (err == 0)
        err = tokenizer_decode(m->card->tokenizer, ids, n, true, &text, &len, e);
    if (err == 0) {
        struct json_writer w;
        json_begin(&w, &c->out);
        json_open(&w, NULL, '{');
        json_put_strn(&w, "content", text, len);
        json_put_strn(&w, "prompt", text, len);
        json_close(&w, '}');
    }
    free(text);
    free(ids);
    return err;
}

int tokenize_apply_template(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api *a = c->priv->api;
    const struct api_model *m = NULL;
    struct buf text;
    int err = api_find_model(c, body, MODEL_TEXT, &m, e);
    if (err != 0)
        return err;
    buf_init(&text, 4 * a->o.max_body_bytes + (1 << 20));
    err = chat_prompt(a, m, body, &text, e);
    if (err == 0) {
        struct json_writer w;
        json_begin(&w, &c->out);
        json_open(&w, NULL, '{');
        json_put_strn(&w, "prompt", buf_str(&text), text.len);
        json_close(&w, '}');
    }
    buf_free(&text);
    return err;
}
