/* POST /v1/captions, and chats with a picture: the picture in the model's size and a text, its tokens, to a
 * job of a caption model.
 *
 * Of a conversation such a model reads the last picture and the text of the last message of the user; it has
 * no memory of what else was said. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "api/image_source.h"
#include "api/text_filter.h"
#include "base/codec.h"

static const char *const modes[] = {
    [CAPTION_TEXT] = "caption", [CAPTION_VQA] = "vqa", [CAPTION_MATCH] = "itm"};

/* ---- The picture ---- */

/* "...", {"url": "..."}, {"image_url": either} or {"b64_json": "..."}; NULL: none of these. */
static const char *url_of(const struct cJSON *v)
{
    for (int depth = 0; depth < 2 && json_type(v) == JSON_OBJECT; depth++) {
        const struct cJSON *inner = json_get(v, "image_url");
        if (inner == NULL)
            inner = json_get(v, "url");
        v = inner != NULL ? inner : json_get(v, "b64_json");
    }
    return json_str(v);
}

static int decode(struct api_call *c, const char *url, const char *param, struct image *out,
                  struct err *e)
{
    const struct api_options *o = &c->priv->api->o;
    const struct codec_limits lim = {o->max_image_bytes, o->max_image_pixels};
    struct buf file;
    buf_init(&file, o->max_image_bytes);
    int err = image_source_bytes(c, url, param, &file, e);
    if (err == 0 && (err = codec_decode(out, buf_str(&file), file.len, &lim, e)) != 0) {
        err_wrap(e, "%s", param);
        err_param(e, "%s", param);
    }
    buf_free(&file);
    return err;
}

/* Into the job's memory, as the model wants it. */
static int set_picture(struct api_call *c, const struct caption_card *card, const char *url,
                       const char *param, struct err *e)
{
    struct image full = {0}, rgb = {0}, fit = {0};
    int err = decode(c, url, param, &full, e);
    if (err == 0)
        err = image_convert(&rgb, &full, 3, e);
    if (err == 0)
        err = image_resize(&fit, &rgb, card->size, card->size, card->filter, e);
    if (err == 0) {
        uint8_t *copy = arena_alloc(&c->job->arena, image_bytes(&fit));
        if (copy == NULL)
            err = err_set(e, ERR_NOMEM, "not enough memory for the request's picture");
        else
            memcpy(copy, fit.data, image_bytes(&fit));
        c->job->text.picture = copy;
    }
    image_free(&full);
    image_free(&rgb);
    image_free(&fit);
    return err;
}

/* ---- The text ---- */

/* `first`, the text's tokens and, where it is >= 0, `last`, in the job's memory. */
static int tokens_of(struct api_call *c, const struct api_model *m, const char *text, int32_t first,
                     int32_t last, int32_t *n, const int32_t **out, struct err *e)
{
    int32_t *ids = NULL;
    size_t n_ids = 0;
    int err = tokenizer_encode(m->card->tokenizer, text, strlen(text), 0, &ids, &n_ids,
                               api_max_ids(m->card), e);
    if (err != 0)
        return err;
    int32_t *copy = arena_array(&c->job->arena, n_ids + 2, sizeof *copy);
    if (copy == NULL) {
        free(ids);
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    }
    *n = 0;
    copy[(*n)++] = first;
    if (n_ids > 0)
        memcpy(copy + 1, ids, n_ids * sizeof *ids);
    *n += (int32_t)n_ids;
    if (last >= 0)
        copy[(*n)++] = last;
    free(ids);
    *out = copy;
    return 0;
}

static int too_long(const struct caption_card *card, int n, const char *param, struct err *e)
{
    err_set(e, ERR_TOOBIG, "the text has %d tokens, this model reads at most %d", n,
            card->n_question);
    err_reason(e, "context_length_exceeded");
    return err_param(e, "%s", param);
}

/* A prompt for the caption, or the question and a prompt that is empty. */
static int set_text(struct api_call *c, const struct api_model *m, const char *text,
                    const char *param, struct err *e)
{
    struct text_spec *s = &c->job->text;
    const struct caption_card *card = m->card->caption;
    const bool asks = card->mode != CAPTION_TEXT;
    int32_t *n_prompt = arena_alloc(&c->job->arena, sizeof *n_prompt);
    const int32_t **prompts = arena_alloc(&c->job->arena, sizeof *prompts), *question = NULL;
    if (n_prompt == NULL || prompts == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    if (asks && (text == NULL || text[strspn(text, " \t\r\n")] == '\0')) {
        err_set(e, ERR_INVALID, "this model needs a text beside the picture: a %s",
                card->mode == CAPTION_VQA ? "question" : "sentence to compare it with");
        return err_param(e, "%s", param);
    }
    int32_t n_question = 0;
    int err = text_filter_prompt(c, text, "content_filter", param, e);
    if (err == 0)
        err =
            tokens_of(c, m, asks || text == NULL ? "" : text, card->bos, -1, n_prompt, prompts, e);
    if (err == 0 && asks)
        err = tokens_of(c, m, text, card->cls, card->sep, &n_question, &question, e);
    if (err == ERR_TOOBIG)
        err_param(e, "%s", param);
    if (err != 0)
        return err;
    if (n_question > card->n_question)
        return too_long(card, n_question, param, e);
    s->n_prompts = 1;
    s->n_prompt = n_prompt;
    s->prompts = prompts;
    s->question = question;
    s->n_question = n_question;
    return 0;
}

/* ---- The model ---- */

/* The one that is named; else the first of that mode, or, for -1, the first that makes text. */
static int find_model(struct api_call *c, const struct cJSON *body, int mode,
                      const struct api_model **m, struct err *e)
{
    const struct api *a = c->priv->api;
    const char *id = NULL;
    int err = json_get_str(body, "model", &id, e);
    if (err != 0)
        return err;
    for (int i = 0; (id == NULL || id[0] == '\0') && i < a->n_models; i++) {
        const struct caption_card *card = a->models[i].card->caption;
        if (card == NULL || (mode >= 0 ? (int)card->mode != mode : card->mode == CAPTION_MATCH))
            continue;
        *m = &a->models[i];
        c->model = (*m)->card->id;
        return 0;
    }
    err = api_find_model(c, body, MODEL_CAPTION, m, e);
    if (err != 0)
        return err;
    const struct caption_card *card = (*m)->card->caption;
    if (mode < 0 || (int)card->mode == mode)
        return 0;
    err_set(e, ERR_INVALID, "model '%.60s' has the mode %s, not %s", (*m)->card->id,
            modes[card->mode], modes[mode]);
    return err_param(e, "mode");
}

static int set_beams(struct api_call *c, const struct params *p, struct err *e)
{
    struct text_spec *s = &c->job->text;
    if (p->num_beams > 1 && (p->n > 1 || s->sample.temperature > 0)) {
        err_set(e, ERR_INVALID, "num_beams: a beam search gives one text, without a temperature");
        return err_param(e, "num_beams");
    }
    s->n_beams = p->num_beams > 1 ? (int)p->num_beams : 0;
    s->length_penalty = p->length_penalty;
    return 0;
}

/* Captions are to be right rather than colourful: greedy, unless the request says otherwise. */
static void set_greedy(struct api_call *c, const struct cJSON *body)
{
    if (json_type(json_get(body, "temperature")) == JSON_NULL)
        c->job->text.sample.temperature = 0;
}

/* ---- The handlers ---- */

int captions_begin(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api_model *m = NULL;
    struct params p;
    int mode = -1;
    const char *word = json_str(json_get(body, "mode"));
    for (int i = 0; word != NULL && i <= CAPTION_MATCH; i++)
        mode = strcmp(word, modes[i]) == 0 ? i : mode;
    int err = find_model(c, body, mode, &m, e);
    if (err != 0 || (err = api_params(c, m, body, PARAM_CAPTIONS, &p, e)) != 0)
        return err;
    const struct cJSON *image = json_get(body, "image");
    const char *url =
        url_of(json_type(image) == JSON_ARRAY && json_size(image) == 1 ? json_first(image) : image);
    if (url == NULL) {
        err_set(e, ERR_INVALID, "image must be one picture as base64 or data: URL");
        return err_param(e, "image");
    }
    if ((err = set_picture(c, m->card->caption, url, "image", e)) != 0 ||
        (err = set_text(c, m, p.prompt, "prompt", e)) != 0)
        return err;
    set_greedy(c, body);
    if (m->card->caption->mode == CAPTION_MATCH) {
        if (p.n > 1) {
            err_set(e, ERR_INVALID, "n must be 1: this model has one answer");
            return err_param(e, "n");
        }
        p.max_tokens = 0;
    } else if ((err = set_beams(c, &p, e)) != 0) {
        return err;
    }
    struct render_options ro = {.shape = RENDER_CAPTION};
    return api_start(c, m, &p, &ro, e);
}

/* ---- Chats ---- */

static bool is_picture_part(const struct cJSON *part)
{
    const char *type = json_str(json_get(part, "type"));
    return type != NULL && (strcmp(type, "image_url") == 0 || strcmp(type, "input_image") == 0);
}

bool captions_is_chat(const struct api *a, const struct cJSON *body)
{
    const char *id = json_str(json_get(body, "model"));
    bool named = id != NULL && id[0] != '\0', any = false;
    for (int i = 0; i < a->n_models; i++) {
        const struct model_card *card = a->models[i].card;
        any = any || card->kind == MODEL_CAPTION;
        if (named && strcmp(card->id, id) == 0)
            return card->kind == MODEL_CAPTION;
    }
    if (named || !any)
        return false;
    const struct cJSON *messages = json_get(body, "messages");
    if (json_type(messages) != JSON_ARRAY)
        return false;
    for (const struct cJSON *m = json_first(messages); m != NULL; m = json_next(m)) {
        const struct cJSON *content = json_get(m, "content");
        if (json_type(content) != JSON_ARRAY)
            continue;
        for (const struct cJSON *p = json_first(content); p != NULL; p = json_next(p))
            if (is_picture_part(p))
                return true;
    }
    return false;
}

/* What is taken from a conversation. */
struct said {
    const char *url; /* borrowed */
    char param[80];  /* where it was */
    struct buf text;
};

static int read_parts(const struct cJSON *content, int i, struct said *s, struct err *e)
{
    int k = 0, n_pictures = 0;
    for (const struct cJSON *p = json_first(content); p != NULL; p = json_next(p), k++) {
        const char *type = json_str(json_get(p, "type")), *text = json_str(json_get(p, "text"));
        if (is_picture_part(p)) {
            s->url = url_of(p);
            snprintf(s->param, sizeof s->param, "messages[%d].content[%d].image_url", i, k);
            if (s->url == NULL || ++n_pictures > 1) {
                err_set(e, s->url == NULL ? ERR_INVALID : ERR_UNSUPPORTED,
                        s->url == NULL ? "image_url must have a url that is a string"
                                       : "this model takes one picture at a time");
                return err_param(e, "%s", s->param);
            }
        } else if (type != NULL && text != NULL &&
                   (strcmp(type, "text") == 0 || strcmp(type, "input_text") == 0)) {
            if (s->text.len > 0)
                buf_addc(&s->text, '\n');
            buf_adds(&s->text, text);
        } else {
            err_set(e, ERR_INVALID,
                    "the type of a content part must be text or image_url, not \"%.40s\"",
                    type != NULL ? type : "");
            return err_param(e, "messages[%d].content[%d].type", i, k);
        }
    }
    return 0;
}

static int read_messages(const struct api *a, const struct cJSON *messages, struct said *s,
                         struct err *e)
{
    if (json_type(messages) != JSON_ARRAY || json_size(messages) == 0 ||
        json_size(messages) > a->o.max_messages) {
        err_set(e, ERR_INVALID, "messages must be a list of 1 to %d messages", a->o.max_messages);
        return err_param(e, "messages");
    }
    int i = 0, err = 0;
    for (const struct cJSON *m = json_first(messages); m != NULL; m = json_next(m), i++) {
        const char *role = json_str(json_get(m, "role"));
        const struct cJSON *content = json_get(m, "content");
        if (role == NULL || strcmp(role, "user") != 0)
            continue;
        buf_clear(&s->text);
        if (json_type(content) == JSON_STRING) {
            buf_adds(&s->text, json_str(content));
        } else if (json_type(content) != JSON_ARRAY) {
            err_set(e, ERR_INVALID, "content must be a string or a list of parts, not %s",
                    json_type_name(json_type(content)));
            return err_param(e, "messages[%d].content", i);
        } else if ((err = read_parts(content, i, s, e)) != 0) {
            return err;
        }
    }
    if (s->text.failed)
        return err_set(e, ERR_TOOBIG, "the messages are larger than allowed");
    if (s->url != NULL)
        return 0;
    err_set(e, ERR_INVALID, "this model needs a picture: a content part of the type image_url");
    return err_param(e, "messages");
}

static int check_chat(const struct api_model *m, const struct cJSON *body, struct err *e)
{
    if (m->card->caption->mode == CAPTION_MATCH) {
        err_set(e, ERR_UNSUPPORTED,
                "model '%.60s' only tells whether a text belongs to a picture: ask /v1/captions",
                m->card->id);
        return err_param(e, "model");
    }
    const struct cJSON *tools = json_get(body, "tools");
    if (json_type(tools) == JSON_NULL || json_size(tools) == 0)
        return 0;
    err_set(e, ERR_UNSUPPORTED, "this model knows no tools");
    return err_param(e, "tools");
}

int captions_chat(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api_model *m = NULL;
    struct params p;
    struct said s = {.url = NULL};
    int err = find_model(c, body, -1, &m, e);
    if (err != 0 || (err = api_params(c, m, body, PARAM_CHAT, &p, e)) != 0 ||
        (err = check_chat(m, body, e)) != 0)
        return err;
    buf_init(&s.text, c->priv->api->o.max_body_bytes);
    err = read_messages(c->priv->api, json_get(body, "messages"), &s, e);
    if (err == 0)
        err = set_picture(c, m->card->caption, s.url, s.param, e);
    if (err == 0)
        err = set_text(c, m, buf_str(&s.text), "messages", e);
    buf_free(&s.text);
    if (err != 0)
        return err;
    set_greedy(c, body);
    struct render_options ro = {.shape = RENDER_CHAT};
    return api_start(c, m, &p, &ro, e);
}
