/* Anthropic's Messages API: a request becomes that of a chat (messages_input.h), which chat_begin answers as any
 * other; only how the answer is written is this API's own (messages_out.h). */
#include <stdlib.h>

#include "api/call.h"
#include "api/messages_input.h"
#include "api/messages_out.h"

/* The chat that body asks for (json_free); the origins of its messages (free). */
static int make_chat(const struct api *a, const struct cJSON *body, struct cJSON **chat,
                     int **origin, struct err *e)
{
    struct params p = {.max_tokens = -1};
    struct buf text;
    int err = 0;
    if (a->o.strict)
        err = params_check_unknown(body, PARAM_MESSAGES, params_table, params_n, e);
    for (int i = 0; i < params_n && err == 0; i++)
        if (params_table[i].where & PARAM_MESSAGES)
            err = params_row(body, &params_table[i], &p, e);
    if (err != 0)
        return err;
    *origin = mem_try((size_t)messages_input_max(body), sizeof **origin);
    if (*origin == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the request");
    buf_init(&text, 4 * a->o.max_body_bytes + 4 * a->o.max_image_bytes + 65536);
    err = messages_input_chat(body, *origin, &text, e);
    struct json_limits limits = a->limits;
    limits.max_bytes = text.len;
    limits.max_depth += 8;
    limits.max_nodes = 8 * limits.max_nodes + 16 * a->o.max_messages;
    if (err == 0)
        err = json_parse(chat, buf_str(&text), text.len, &limits, e);
    buf_free(&text);
    return err;
}

int messages_begin(struct api_call *c, const struct cJSON *body, struct err *e)
{
    struct cJSON *chat = NULL;
    int *origin = NULL;
    int err = make_chat(c->priv->api, body, &chat, &origin, e);
    struct messages_out *answer = err == 0 ? messages_out_open() : NULL;
    if (err == 0 && answer == NULL)
        err = err_set(e, ERR_NOMEM, "not enough memory for the request");
    if (err == 0) {
        c->priv->dialect = &messages_out_dialect;
        c->priv->answer = answer;
        err = chat_begin(c, chat, e);
        if (err != 0)
            messages_input_blame(origin, messages_input_max(body), e);
    }
    free(origin);
    json_free(chat);
    return err;
}

/* POST /v1/messages/count_tokens */
int messages_count(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api *a = c->priv->api;
    const struct api_model *m = NULL;
    struct cJSON *chat = NULL;
    int *origin = NULL;
    size_t n = 0;
    int err = make_chat(a, body, &chat, &origin, e);
    if (err == 0)
        err = api_find_model(c, chat, MODEL_TEXT, &m, e);
    if (err == 0 && (err = chat_count(a, m, chat, &n, e)) != 0)
        messages_input_blame(origin, messages_input_max(body), e);
    if (err == 0 && n == SIZE_MAX)
        err = api_context_error(m->card, 0, "messages", e);
    free(origin);
    json_free(chat);
    if (err != 0)
        return err;
    struct json_writer w;
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_int(&w, "input_tokens", (int64_t)n);
    json_close(&w, '}');
    return 0;
}
