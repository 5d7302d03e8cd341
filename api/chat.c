/* POST /v1/chat/completions: checks the messages, lets the model's template turn them into a
 * prompt, and hands the job over.
 *
 * Templates are written for plain messages, so what OpenAI allows beside that is made plain first:
 * parts become one text, an assistant's absent content becomes null, and "developer" becomes
 * "system" for templates that do not know it. */
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "api/format.h"
#include "api/template.h"
#include "api/tools.h"

static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function"};

/* For a template that comes with a request: some 50 ms of a worker, and ten times what the longest
 * conversation that is allowed takes. */
enum { CLIENT_TEMPLATE_STEPS = 500000 };

static bool role_known(const char *role)
{
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(roles[i], role) == 0)
            return true;
    return false;
}

static int refuse_part(int i, int k, const char *type, struct err *e)
{
    const char *what = strstr(type, "image") != NULL   ? "images"
                       : strstr(type, "audio") != NULL ? "audio"
                       : strstr(type, "file") != NULL  ? "files"
                       : strstr(type, "video") != NULL ? "video"
                                                       : NULL;
    if (what != NULL)
        err_set(e, ERR_UNSUPPORTED, "this model does not take %s, only text", what);
    else
        err_set(e, ERR_INVALID, "the type of a content part must be text, not \"%.40s\"", type);
    return err_param(e, "messages[%d].content[%d].type", i, k);
}

/* A list of parts -> their texts, one a line. */
static int join_parts(const struct cJSON *parts, int i, struct buf *text, struct err *e)
{
    int k = 0;
    for (const struct cJSON *p = json_first(parts); p != NULL; p = json_next(p), k++) {
        const char *type = json_str(json_get(p, "type"));
        if (json_type(p) != JSON_OBJECT || type == NULL) {
            err_set(e, ERR_INVALID, "a content part must be an object with a type");
            return err_param(e, "messages[%d].content[%d]", i, k);
        }
        bool refusal = strcmp(type, "refusal") == 0;
        if (!refusal && strcmp(type, "text") != 0)
            return refuse_part(i, k, type, e);
        const char *s = json_str(json_get(p, refusal ? "refusal" : "text"));
        if (s == NULL) {
            err_set(e, ERR_INVALID, "a text part must have a text that is a string");
            return err_param(e, "messages[%d].content[%d].text", i, k);
        }
        if (k > 0)
            buf_addc(text, '\n');
        buf_adds(text, s);
    }
    if (text->failed)
        return err_set(e, ERR_TOOBIG, "the messages are larger than allowed");
    return 0;
}

static int put_content(struct json_writer *w, const struct cJSON *m, int i, const char *role,
                       size_t max_bytes, struct err *e)
{
    const struct cJSON *content = json_get(m, "content");
    struct buf text;
    int err = 0;
    switch (json_type(content)) {
    case JSON_STRING:
        json_put_str(w, "content", json_str(content));
        return 0;
    case JSON_ARRAY:
        buf_init(&text, max_bytes);
        err = join_parts(content, i, &text, e);
        if (err == 0)
            json_put_strn(w, "content", buf_str(&text), text.len);
        buf_free(&text);
        return err;
    case JSON_NULL:
        if (strcmp(role, "assistant") == 0) {
            json_put_null(w, "content");
            return 0;
        }
        break;
    default:
        break;
    }
    err_set(e, ERR_INVALID, "content must be a string or a list of text parts, not %s",
            json_type_name(json_type(content)));
    return err_param(e, "messages[%d].content", i);
}

static int put_tool_calls(struct json_writer *w, const struct cJSON *calls, int i, struct err *e)
{
    if (json_type(calls) == JSON_NULL)
        return 0;
    if (json_type(calls) != JSON_ARRAY) {
        err_set(e, ERR_INVALID, "tool_calls must be a list, not %s",
                json_type_name(json_type(calls)));
        return err_param(e, "messages[%d].tool_calls", i);
    }
    if (json_size(calls) == 0)
        return 0;
    json_open(w, "tool_calls", '[');
    int k = 0;
    for (const struct cJSON *call = json_first(calls); call != NULL; call = json_next(call), k++) {
        const struct cJSON *fn = json_get(call, "function");
        if (json_str(json_get(fn, "name")) == NULL) {
            err_set(e, ERR_INVALID, "a tool call must have a function with a name");
            return err_param(e, "messages[%d].tool_calls[%d].function", i, k);
        }
        json_put_node(w, NULL, call);
    }
    json_close(w, ']');
    return 0;
}

static int put_message(struct json_writer *w, const struct cJSON *m, int i, const struct api *a,
                       bool developer_ok, struct err *e)
{
    if (json_type(m) != JSON_OBJECT) {
        err_set(e, ERR_INVALID, "a message must be an object, not %s",
                json_type_name(json_type(m)));
        return err_param(e, "messages[%d]", i);
    }
    const char *role = json_str(json_get(m, "role"));
    if (role == NULL || !role_known(role)) {
        err_set(e, ERR_INVALID,
                "role must be system, developer, user, assistant, tool or function");
        return err_param(e, "messages[%d].role", i);
    }
    json_open(w, NULL, '{');
    json_put_str(w, "role", !developer_ok && strcmp(role, "developer") == 0 ? "system" : role);
    int err = put_content(w, m, i, role, a->o.max_body_bytes, e);
    if (err == 0)
        err = put_tool_calls(w, json_get(m, "tool_calls"), i, e);
    if (err != 0)
        return err;
    for (const struct cJSON *v = json_first(m); v != NULL; v = json_next(v)) {
        const char *key = json_key(v);
        if (strcmp(key, "role") != 0 && strcmp(key, "content") != 0 &&
            strcmp(key, "tool_calls") != 0)
            json_put_node(w, key, v);
    }
    json_close(w, '}');
    return 0;
}

/* The messages made plain, as a document of its own (json_free). */
static int plain_messages(const struct api *a, const struct api_model *m,
                          const struct cJSON *messages, struct cJSON **doc, struct err *e)
{
    if (json_type(messages) != JSON_ARRAY || json_size(messages) == 0 ||
        json_size(messages) > a->o.max_messages) {
        err_set(e, ERR_INVALID, "messages must be a list of 1 to %d messages", a->o.max_messages);
        return err_param(e, "messages");
    }
    const char *source = m->card->chat_template;
    bool developer_ok = source != NULL && strstr(source, "developer") != NULL;
    struct buf text;
    struct json_writer w;
    buf_init(&text, 2 * a->o.max_body_bytes + 65536);
    json_begin(&w, &text);
    json_open(&w, NULL, '[');
    int err = 0, i = 0;
    for (const struct cJSON *v = json_first(messages); v != NULL && err == 0; v = json_next(v))
        err = put_message(&w, v, i++, a, developer_ok, e);
    json_close(&w, ']');
    if (err == 0 && text.failed)
        err = err_set(e, ERR_TOOBIG, "the messages are larger than allowed");
    if (err == 0) {
        struct json_limits lim = a->limits;
        lim.max_bytes = text.max;
        lim.max_nodes += a->o.max_messages; /* content that was absent is null */
        if ((err = json_parse(doc, text.data, text.len, &lim, e)) != 0)
            err_param(e, "messages");
    }
    buf_free(&text);
    return err;
}

static int check_modalities(const struct cJSON *body, struct err *e)
{
    const struct cJSON *v = json_get(body, "modalities");
    if (json_type(v) == JSON_NULL)
        return 0;
    bool ok = json_type(v) == JSON_ARRAY && json_size(v) > 0;
    for (const struct cJSON *x = json_first(v); x != NULL && ok; x = json_next(x))
        ok = json_str(x) != NULL && strcmp(json_str(x), "text") == 0;
    if (ok)
        return 0;
    err_set(e, ERR_UNSUPPORTED, "modalities must be [\"text\"]: this model answers in text only");
    return err_param(e, "modalities");
}

/* n bytes from behind; NULL: no memory. */
static char *reversed(const char *s, size_t n)
{
    char *r = mem_try(n + 1, 1);
    for (size_t i = 0; r != NULL && i < n; i++)
        r[i] = s[n - 1 - i];
    return r;
}

/* Cuts off what follows the last text [n] in out, if it is there: 1, else 0.  Reversed, that is the first one,
 * which memmem finds in linear time. */
static int cut_after(struct buf *out, const char *text, size_t n, struct err *e)
{
    char *all = reversed(out->data, out->len), *wanted = reversed(text, n);
    int rc = 0;
    if (all == NULL || wanted == NULL) {
        rc = err_set(e, ERR_NOMEM, "not enough memory for the prompt");
    } else {
        const char *at = memmem(all, out->len, wanted, n);
        if (at != NULL) {
            out->len -= (size_t)(at - all);
            out->data[out->len] = '\0';
            rc = 1;
        }
    }
    free(all);
    free(wanted);
    return rc;
}

/* continue_final_message: what the template wrote after the last message is cut off. */
static int cut_after_final(const struct cJSON *messages, struct buf *out, struct err *e)
{
    const struct cJSON *last = json_first(messages);
    while (json_next(last) != NULL)
        last = json_next(last);
    const char *role = json_str(json_get(last, "role"));
    const char *text = json_str(json_get(last, "content"));
    if (role == NULL || text == NULL || strcmp(role, "assistant") != 0) {
        err_set(e, ERR_INVALID,
                "continue_final_message needs a last message with the role assistant");
        return err_param(e, "continue_final_message");
    }
    text += strspn(text, " \t\r\n");
    size_t n = strlen(text);
    while (n > 0 && strchr(" \t\r\n", text[n - 1]) != NULL)
        n--;
    const int rc = n > 0 ? cut_after(out, text, n, e) : 0;
    if (rc != 0)
        return rc < 0 ? rc : 0;
    err_set(e, ERR_INVALID,
            "the chat template does not show the last message as it is, so it "
            "cannot be continued");
    return err_param(e, "continue_final_message");
}

/* The model's template, or the request's own where the server allows it (*own must be closed). */
static int pick_template(const struct api *a, const struct api_model *m, const struct cJSON *body,
                         const struct template **t, struct template **own, struct err *e)
{
    const char *source = NULL;
    int err = json_get_str(body, "chat_template", &source, e);
    if (err != 0)
        return err;
    if (source == NULL) {
        *t = m->tmpl;
        if (m->tmpl != NULL)
            return 0;
        return err_set(e, ERR_UNSUPPORTED, "the chat template of this model cannot be used: %.180s",
                       m->tmpl_err.msg);
    }
    if (!a->o.client_templates) {
        err_set(e, ERR_UNSUPPORTED, "this server does not take chat templates from requests");
        return err_param(e, "chat_template");
    }
    if (api_open_template(m->card, source, own, e) != 0) {
        if (e->code != ERR_NOMEM)
            e->code = ERR_INVALID;
        return err_param(e, "chat_template");
    }
    template_limit(*own, CLIENT_TEMPLATE_STEPS);
    *t = *own;
    return 0;
}

/* The prompt with t.  Messages that it could not show are written in another way first. */
static int render_prompt(const struct template *t, const struct cJSON *messages,
                         const struct cJSON *body, struct tools *tools, struct buf *out,
                         struct err *e)
{
    const struct cJSON *kwargs = json_get(body, "chat_template_kwargs");
    const struct tool_format *f = template_tools(t);
    tools->format = f = f != NULL ? f : &tool_format_generic;
    tools->thinks = template_thinks(t);
    enum tools_told told = template_shows_tools(t)    ? TOOLS_SHOWN
                           : template_takes_system(t) ? TOOLS_BY_SYSTEM
                                                      : TOOLS_BY_USER;
    bool generate = true, carry_on = false;
    struct cJSON *doc = NULL, *complete = NULL;
    int err = json_get_bool(body, "add_generation_prompt", &generate, e);
    if (err == 0)
        err = json_get_bool(body, "continue_final_message", &carry_on, e);
    if (err == 0 && json_type(kwargs) != JSON_NULL && json_type(kwargs) != JSON_OBJECT) {
        err_set(e, ERR_INVALID, "chat_template_kwargs must be an object, not %s",
                json_type_name(json_type(kwargs)));
        err = err_param(e, "chat_template_kwargs");
    }
    if (err == 0)
        err = tool_messages_rewrite(messages, tools->list, f, told, &doc, e);
    if (err == 0) {
        kwargs = json_type(kwargs) == JSON_NULL ? NULL : kwargs;
        const struct cJSON *said = doc != NULL ? doc : messages;
        const struct cJSON *list = told == TOOLS_SHOWN ? tools->list : NULL;
        err = template_render(t, said, list, kwargs, generate && !carry_on, out, e);
        if (err == ERR_INVALID && told == TOOLS_SHOWN &&
            tool_messages_complete(list, &complete, e) == 0)
            err = template_render(t, said, complete, kwargs, generate && !carry_on, out, e);
    }
    if (err == 0 && carry_on)
        err = cut_after_final(messages, out, e);
    json_free(doc);
    json_free(complete);
    return err;
}

static int prompt_of(const struct api *a, const struct api_model *m, const struct cJSON *body,
                     struct tools *tools, struct buf *out, struct err *e)
{
    const struct template *t = NULL;
    struct template *own = NULL;
    struct cJSON *messages = NULL;
    int err = plain_messages(a, m, json_get(body, "messages"), &messages, e);
    if (err == 0)
        err = pick_template(a, m, body, &t, &own, e);
    if (err == 0)
        err = render_prompt(t, messages, body, tools, out, e);
    template_close(own);
    json_free(messages);
    return err;
}

int chat_prompt(const struct api *a, const struct api_model *m, const struct cJSON *body,
                struct buf *out, struct err *e)
{
    struct tools tools;
    int err = tools_read(body, &tools, e);
    return err == 0 ? prompt_of(a, m, body, &tools, out, e) : err;
}

int chat_tokens(const struct api_model *m, const struct buf *text, size_t max_ids, int32_t **ids,
                size_t *n_ids, struct err *e)
{
    const struct tokenizer *tk = m->card->tokenizer;
    const struct tokenizer_info *info = tokenizer_info(tk);
    int err =
        tokenizer_encode(tk, buf_str(text), text->len, TOKENIZE_SPECIAL, ids, n_ids, max_ids, e);
    if (err != 0 || !info->add_bos || info->bos < 0 || (*n_ids > 0 && (*ids)[0] == info->bos))
        return err;
    int32_t *more = mem_try(*n_ids + 1, sizeof *more);
    if (more == NULL) {
        free(*ids);
        *ids = NULL;
        return err_set(e, ERR_NOMEM, "not enough memory for the prompt");
    }
    more[0] = info->bos;
    if (*n_ids > 0)
        memcpy(more + 1, *ids, *n_ids * sizeof *more);
    free(*ids);
    *ids = more;
    (*n_ids)++;
    return 0;
}

int chat_count(const struct api *a, const struct api_model *m, const struct cJSON *body, size_t *n,
               struct err *e)
{
    struct buf text;
    int32_t *ids = NULL;
    buf_init(&text, 4 * a->o.max_body_bytes + (1 << 20));
    int err = chat_prompt(a, m, body, &text, e);
    if (err == 0)
        err = chat_tokens(m, &text, api_max_ids(m->card), &ids, n, e);
    if (err == ERR_TOOBIG)
        *n = SIZE_MAX;
    free(ids);
    buf_free(&text);
    return err == ERR_TOOBIG ? 0 : err;
}

/* The one prompt of the job; its ids move to the job's arena. */
static int set_prompt(struct api_call *c, const struct api_model *m, const struct cJSON *body,
                      struct tools *tools, enum think_start *think, struct err *e)
{
    const struct api *a = c->priv->api;
    struct job *j = c->job;
    struct buf text;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    buf_init(&text, 4 * a->o.max_body_bytes + (1 << 20));
    int err = prompt_of(a, m, body, tools, &text, e);
    if (err != 0)
        goto out;
    *think = tools->thinks ? think_start(buf_str(&text), text.len) : THINK_NOT;
    err = chat_tokens(m, &text, api_max_ids(m->card), &ids, &n_ids, e);
    if (err == ERR_TOOBIG)
        err = api_context_error(m->card, 0, "messages", e);
    if (err != 0)
        goto out;
    if (ids == NULL || n_ids == 0) {
        err = err_set(e, ERR_INVALID, "the chat template made an empty prompt of the messages");
        err_param(e, "messages");
        goto out;
    }
    int32_t *copy = arena_array(&j->arena, n_ids, sizeof *copy);
    int32_t *n_prompt = arena_alloc(&j->arena, sizeof *n_prompt);
    const int32_t **prompts = arena_alloc(&j->arena, sizeof *prompts);
    if (copy == NULL || n_prompt == NULL || prompts == NULL) {
        err = err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
        goto out;
    }
    memcpy(copy, ids, n_ids * sizeof *copy);
    *n_prompt = (int32_t)n_ids;
    *prompts = copy;
    j->text.n_prompts = 1;
    j->text.prompts = prompts;
    j->text.n_prompt = n_prompt;
out:
    free(ids);
    buf_free(&text);
    return err;
}

/* The grammar of an answer that may think or call functions: it takes the place of the one that the form alone
 * made. */
static int set_grammar(struct api_call *c, const struct api_model *m, const struct cJSON *body,
                       const struct tools *tools, enum think_start think, struct err *e)
{
    struct job *j = c->job;
    struct schema s = {.arena = &j->arena};
    grammar_sym form = 0, top = 0;
    int err = 0;
    if (j->text.grammar != NULL)
        err = format_symbol(body, c->priv->api->o.max_grammar_bytes, &s, &form, e);
    const bool calls = tools->choice != TOOLS_NONE;
    top = form;
    if (err == 0 && calls)
        err = tool_grammar_symbol(tools, form, &s, &top, e);
    if (err != 0)
        return err;
    if (calls)
        tool_grammar_show(tools->format, m->card->tokenizer, s.g);
    if (think != THINK_NOT)
        top = think_grammar(s.g, think, top);
    return schema_close(&s, top, &j->text.grammar, e);
}

/* prediction: {"type": "content", "content": a text, or a list of text parts}. */
static int set_prediction(struct api_call *c, const struct api_model *m, const struct cJSON *body,
                          struct err *e)
{
    const struct cJSON *v = json_get(body, "prediction"), *content = json_get(v, "content");
    const char *type = json_str(json_get(v, "type"));
    const bool parts = json_type(content) == JSON_ARRAY;
    struct text_spec *t = &c->job->text;
    struct buf text;
    int32_t *ids = NULL;
    size_t n = 0;
    if (json_type(v) == JSON_NULL)
        return 0;
    if (type == NULL || strcmp(type, "content") != 0 || (json_str(content) == NULL && !parts)) {
        err_set(e, ERR_INVALID,
                "prediction must be an object of the type content, with a content that is a "
                "string or a list of text parts");
        return err_param(e, "prediction");
    }
    buf_init(&text, c->priv->api->o.max_body_bytes);
    int err = 0;
    for (const struct cJSON *p = json_first(content); p != NULL && err == 0; p = json_next(p)) {
        const char *s = json_str(json_get(p, "text"));
        if (s == NULL)
            err = err_set(e, ERR_INVALID, "a part of a prediction must have a text");
        else
            buf_adds(&text, s);
    }
    const char *s = parts ? buf_str(&text) : json_str(content);
    if (err == 0)
        err = tokenizer_encode(m->card->tokenizer, s, strlen(s), 0, &ids, &n, api_max_ids(m->card),
                               e);
    int32_t *copy = err == 0 ? arena_array(&c->job->arena, n + 1, sizeof *copy) : NULL;
    if (err == 0 && copy == NULL)
        err = err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    if (err == 0 && n > 0)
        memcpy(copy, ids, n * sizeof *copy);
    t->prediction = copy;
    t->n_prediction = err == 0 ? (int)n : 0;
    free(ids);
    buf_free(&text);
    return err == 0 ? 0 : err_param(e, "prediction");
}

int chat_begin(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api_model *m = NULL;
    struct params p;
    struct tools tools;
    enum think_start think;
    if (captions_is_chat(c->priv->api, body))
        return captions_chat(c, body, e);
    int err = api_find_model(c, body, MODEL_TEXT, &m, e);
    if (err != 0 || (err = api_params(c, m, body, PARAM_CHAT, &p, e)) != 0 ||
        (err = check_modalities(body, e)) != 0 || (err = tools_read(body, &tools, e)) != 0 ||
        (err = set_prompt(c, m, body, &tools, &think, e)) != 0 ||
        (err = set_prediction(c, m, body, e)) != 0)
        return err;
    const bool calls = tools.choice != TOOLS_NONE;
    if (p.reasoning == 0 || (p.reasoning < 0 && !c->priv->api->o.reasoning))
        think = THINK_NOT;
    if ((calls || (think != THINK_NOT && c->job->text.grammar != NULL)) &&
        (err = set_grammar(c, m, body, &tools, think, e)) != 0)
        return err;
    struct render_options ro = {.shape = RENDER_CHAT,
                                .tools = calls ? tools.format : NULL,
                                .think = think,
                                .hide_thoughts = !p.include_reasoning};
    if (calls && (err = tool_grammar_json(&tools, &c->job->arena, &ro.tool_json, e)) != 0)
        return err;
    return api_start(c, m, &p, &ro, e);
}
