/* OpenAI's Responses API.  A request becomes that of a chat (responses_input.h), which chat_begin answers as any
 * other; only how the answer is written is this API's own (responses_out.h).
 *
 * previous_response_id continues a response that is kept: its conversation comes before the new input. */
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "api/responses_input.h"
#include "api/responses_out.h"

enum { METADATA_MAX = 16, METADATA_KEY_MAX = 64, METADATA_VALUE_MAX = 512 };

/* A request, while it is read. */
struct request {
    const struct cJSON *body;
    struct params p;
    struct buf text;     /* the conversation's items */
    struct cJSON *items; /* the same, as a list */
    int n_items, n_before;
    int *item_of; /* of the chat's messages */
    struct buf chat_text;
    struct cJSON *chat;
};

static void request_free(struct request *r)
{
    buf_free(&r->text);
    buf_free(&r->chat_text);
    json_free(r->items);
    json_free(r->chat);
    free(r->item_of);
}

static void request_blame(const struct request *r, int err, struct err *e)
{
    if (err != 0 && r->item_of != NULL)
        responses_input_blame(r->item_of, r->n_items + 1, r->n_before, e);
}

/* ---- what is asked ---- */

static int check_metadata(const struct cJSON *body, struct err *e)
{
    const struct cJSON *list = json_get(body, "metadata");
    bool ok = json_type(list) == JSON_NULL ||
              (json_type(list) == JSON_OBJECT && json_size(list) <= METADATA_MAX);
    for (const struct cJSON *v = json_first(list); v != NULL && ok; v = json_next(v))
        ok = json_str(v) != NULL && strlen(json_key(v)) <= METADATA_KEY_MAX &&
             strlen(json_str(v)) <= METADATA_VALUE_MAX;
    if (ok)
        return 0;
    err_set(e, ERR_INVALID, "metadata must map at most %d keys of %d bytes to texts of %d bytes",
            METADATA_MAX, METADATA_KEY_MAX, METADATA_VALUE_MAX);
    return err_param(e, "metadata");
}

static int read_fields(const struct api *a, struct request *r, bool *keep, struct err *e)
{
    int err = 0;
    if (a->o.strict)
        err = params_check_unknown(r->body, PARAM_RESPONSES, params_table, params_n, e);
    for (int i = 0; i < params_n && err == 0; i++)
        if (params_table[i].where & PARAM_RESPONSES)
            err = params_row(r->body, &params_table[i], &r->p, e);
    if (err == 0)
        err = check_metadata(r->body, e);
    *keep = responses_store_keeps(a->responses);
    if (err == 0)
        err = json_get_bool(r->body, "store", keep, e);
    if (err == 0 && *keep && !responses_store_keeps(a->responses)) {
        err_set(e, ERR_UNSUPPORTED, "this server keeps no responses");
        err = err_param(e, "store");
    }
    return err;
}

/* What the previous response has said, and what was said to it. */
static int read_previous(const struct api_call *c, struct request *r, struct err *e)
{
    const char *id = json_str(json_get(r->body, "previous_response_id"));
    struct responses_store *s = c->priv->api->responses;
    if (id == NULL || responses_store_get(s, c->priv->owner, id, RESPONSES_ITEMS, &r->text))
        return 0;
    if (responses_store_keeps(s))
        err_set(e, ERR_NOTFOUND,
                "there is no response '%.60s'; they are forgotten after a while, and when the "
                "server stops",
                id);
    else
        err_set(e, ERR_UNSUPPORTED, "this server keeps no responses that could be gone on from");
    err_reason(e, responses_store_keeps(s) ? "previous_response_not_found" : "unsupported");
    return err_param(e, "previous_response_id");
}

/* Documents that were made of requests: larger than these, within bounds. */
static int parse(const struct api *a, const char *text, size_t len, struct cJSON **doc,
                 struct err *e)
{
    struct json_limits limits = a->limits;
    limits.max_bytes = len;
    limits.max_depth += 8;
    limits.max_nodes = 8 * limits.max_nodes + 16 * a->o.max_messages;
    return json_parse(doc, text, len, &limits, e);
}

static int read_items(const struct api_call *c, struct request *r, struct err *e)
{
    const struct api *a = c->priv->api;
    buf_init(&r->text,
             a->o.max_responses_bytes + 4 * a->o.max_body_bytes + 4 * a->o.max_image_bytes);
    int err = read_previous(c, r, e);
    const size_t before = r->text.len;
    if (err == 0)
        err = responses_input_items(r->body, a->o.max_messages, &r->text, e);
    if (err != 0)
        return err;
    struct buf list;
    buf_init(&list, r->text.len + 2);
    buf_addc(&list, '[');
    buf_add(&list, r->text.data, r->text.len);
    buf_addc(&list, ']');
    err = parse(a, buf_str(&list), list.len, &r->items, e);
    buf_free(&list);
    if (err != 0)
        return err_param(e, "input");
    const struct cJSON *input = json_get(r->body, "input");
    r->n_items = json_size(r->items);
    r->n_before =
        before > 0 ? r->n_items - (json_type(input) == JSON_STRING ? 1 : json_size(input)) : 0;
    r->item_of = mem_try((size_t)r->n_items + 1, sizeof *r->item_of);
    return r->item_of != NULL ? 0 : err_set(e, ERR_NOMEM, "not enough memory for the request");
}

/* ---- as a chat ---- */

/* Without the first `skip` items. */
static int make_chat(const struct api *a, struct request *r, int skip, struct err *e)
{
    json_free(r->chat);
    r->chat = NULL;
    buf_free(&r->chat_text);
    buf_init(&r->chat_text, 2 * r->text.len + 4 * a->o.max_body_bytes + 65536);
    int err = responses_input_chat(r->body, r->items, skip, r->item_of, &r->chat_text, e);
    return err == 0 ? parse(a, buf_str(&r->chat_text), r->chat_text.len, &r->chat, e) : err;
}

static bool fits(const struct api_call *c, const struct api_model *m, struct request *r, int skip,
                 int *err, struct err *e)
{
    const int64_t n_ctx = m->card->n_ctx, max = r->p.max_tokens;
    const int64_t room = max <= 0 ? n_ctx / 4 : max < n_ctx / 2 ? max : n_ctx / 2;
    size_t n = 0;
    *err = make_chat(c->priv->api, r, responses_input_cut(r->items, skip), e);
    if (*err == 0)
        *err = chat_count(c->priv->api, m, r->chat, &n, e);
    return *err != 0 || n <= (size_t)(n_ctx - room);
}

/* truncation "auto": as few of the oldest turns as need be are left out, so that the answer has room as well: what
 * it may have, at most half of the context, or a quarter of it. */
static int truncate_chat(struct api_call *c, struct request *r, struct err *e)
{
    const struct api_model *m = NULL;
    if (captions_is_chat(c->priv->api, r->chat))
        return 0;
    int err = api_find_model(c, r->chat, MODEL_TEXT, &m, e);
    if (err != 0 || fits(c, m, r, 0, &err, e))
        return err;
    int low = 0, high = r->n_items - 1; /* too many are left; as few as there can be */
    while (high - low > 1 && err == 0) {
        const int middle = low + (high - low) / 2;
        if (fits(c, m, r, middle, &err, e))
            high = middle;
        else
            low = middle;
    }
    return err == 0 ? make_chat(c->priv->api, r, responses_input_cut(r->items, high), e) : err;
}

static int read_request(struct api_call *c, struct request *r, bool *keep, struct err *e)
{
    const struct api *a = c->priv->api;
    int err = read_fields(a, r, keep, e);
    if (err == 0)
        err = read_items(c, r, e);
    if (err == 0)
        err = make_chat(a, r, 0, e);
    if (err == 0 && r->p.truncation == 1)
        err = truncate_chat(c, r, e);
    return err;
}

/* ---- the routes ---- */

int responses_begin(struct api_call *c, const struct cJSON *body, struct err *e)
{
    struct api *a = c->priv->api;
    struct request r = {.body = body, .p = {.max_tokens = -1}};
    bool keep = false;
    int err = read_request(c, &r, &keep, e);
    if (err != 0)
        goto out;
    const struct responses_out_options o = {.body = body,
                                            .store = keep ? a->responses : NULL,
                                            .owner = c->priv->owner,
                                            .items = &r.text};
    struct responses_out *answer = responses_out_open(&o);
    if (answer == NULL) {
        err = err_set(e, ERR_NOMEM, "not enough memory for the request");
        goto out;
    }
    c->priv->dialect = &responses_out_dialect;
    c->priv->answer = answer;
    /* The answer repeats what was asked; a stream does so three times. */
    c->priv->max_out += 3 * responses_out_room(answer);
    c->out.max += 3 * responses_out_room(answer);
    err = chat_begin(c, r.chat, e);
out:
    request_blame(&r, err, e);
    request_free(&r);
    return err;
}

/* POST /v1/responses/input_tokens: how many tokens the prompt has. */
int responses_count(struct api_call *c, const struct cJSON *body, struct err *e)
{
    struct request r = {.body = body, .p = {.max_tokens = -1}};
    const struct api_model *m = NULL;
    bool keep = false;
    size_t n = 0;
    int err = read_request(c, &r, &keep, e);
    if (err == 0)
        err = api_find_model(c, r.chat, MODEL_TEXT, &m, e);
    if (err == 0)
        err = chat_count(c->priv->api, m, r.chat, &n, e);
    if (err == 0 && n == SIZE_MAX)
        err = api_context_error(m->card, 0, "input", e);
    request_blame(&r, err, e);
    request_free(&r);
    if (err != 0)
        return err;
    struct json_writer w;
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "object", "response.input_tokens");
    json_put_int(&w, "input_tokens", (int64_t)n);
    json_close(&w, '}');
    return 0;
}

/* The id of /v1/responses/{id}, and what follows it. */
static const char *id_of(const char *path, char id[ANSWER_ID_MAX])
{
    const char *at = strstr(path, "/responses/");
    at = at != NULL ? at + strlen("/responses/") : "";
    size_t n = strcspn(at, "/");
    const char *rest = at + n;
    n = n < ANSWER_ID_MAX ? n : ANSWER_ID_MAX - 1;
    memcpy(id, at, n);
    id[n] = '\0';
    return strspn(rest, "/") == strlen(rest) ? "" : rest;
}

static int not_found(const char *id, struct err *e)
{
    err_set(e, ERR_NOTFOUND,
            "there is no response '%.60s'; they are forgotten after a while, and when the server "
            "stops",
            id);
    return err_reason(e, "response_not_found");
}

static int get_input(struct api_call *c, const char *id, struct err *e)
{
    const struct api *a = c->priv->api;
    struct json_writer w;
    struct cJSON *items = NULL;
    struct buf text;
    buf_init(&text, a->o.max_responses_bytes + 2);
    buf_addc(&text, '[');
    const bool found =
        responses_store_get(a->responses, c->priv->owner, id, RESPONSES_INPUT, &text);
    buf_addc(&text, ']');
    int err = found ? parse(a, buf_str(&text), text.len, &items, e) : not_found(id, e);
    if (err == 0) {
        const struct cJSON *last = json_first(items);
        while (json_next(last) != NULL)
            last = json_next(last);
        c->out.max += text.len;
        json_begin(&w, &c->out);
        json_open(&w, NULL, '{');
        json_put_str(&w, "object", "list");
        json_put_node(&w, "data", items);
        json_put_str(&w, "first_id", json_str(json_get(json_first(items), "id")));
        json_put_str(&w, "last_id", json_str(json_get(last, "id")));
        json_put_bool(&w, "has_more", false);
        json_close(&w, '}');
    }
    json_free(items);
    buf_free(&text);
    return err;
}

int responses_get(struct api_call *c, const char *path, struct err *e)
{
    char id[ANSWER_ID_MAX];
    const char *rest = id_of(path, id);
    struct api *a = c->priv->api;
    if (strncmp(rest, "/input_items", 12) == 0 && strspn(rest + 12, "/") == strlen(rest + 12))
        return get_input(c, id, e);
    c->out.max += a->o.max_responses_bytes;
    if (rest[0] == '\0' &&
        responses_store_get(a->responses, c->priv->owner, id, RESPONSES_BODY, &c->out))
        return 0;
    return not_found(id, e);
}

int responses_delete(struct api_call *c, const char *path, struct err *e)
{
    char id[ANSWER_ID_MAX];
    const char *rest = id_of(path, id);
    if (rest[0] != '\0' || !responses_store_delete(c->priv->api->responses, c->priv->owner, id))
        return not_found(id, e);
    struct json_writer w;
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "id", id);
    json_put_str(&w, "object", "response");
    json_put_bool(&w, "deleted", true);
    json_close(&w, '}');
    return 0;
}
