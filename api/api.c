/* The life of a call: begin, pump, end; and what all handlers use. */
#include "api/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "api/image_cache.h"
#include "api/messages_out.h"
#include "api/responses_store.h"
#include "api/sdapi.h"
#include "api/template.h"
#include "api/text_filter.h"
#include "base/clock.h"
#include "base/log.h"

enum {
    ERROR_ROOM = 4096,          /* in out, so that an error always fits */
    COMPLETION_MAX_TOKENS = 16, /* OpenAI's default for completions that name no max_tokens */
    CAPTION_MAX_TOKENS = 64,    /* of those that do not end by themselves */
    RETRY_BUSY_S = 1,
    RETRY_LATER_S = 5,
};

int api_open(struct api **out, const struct api_options *o, struct err *e)
{
    if (o->max_body_bytes == 0 || o->max_answer_bytes == 0 || o->max_choices < 1 ||
        o->max_prompts < 1 || o->max_messages < 1 || o->max_stop_bytes < 1 ||
        o->max_grammar_bytes == 0 || o->max_image_bytes == 0 || o->max_image_pixels < 1 ||
        o->max_images < 1 || o->max_images > JOB_IMAGES_MAX || o->max_jobs < 1)
        return err_set(e, ERR_INVALID, "a limit of the api is zero");
    struct step_cache_spec cache = {0};
    int err = image_cache_text(o->step_cache != NULL ? o->step_cache : "", &cache, e);
    if (err != 0)
        return err;
    struct api *a = xcalloc(1, sizeof *a);
    a->o = *o;
    a->step_cache = cache;
    a->step_cache.optional = true;
    a->limits = (struct json_limits){.max_bytes = o->max_body_bytes,
                                     .max_depth = o->max_json_depth,
                                     .max_nodes = o->max_json_nodes};
    snprintf(a->fingerprint, sizeof a->fingerprint, "fp_duetto_%s", o->version ? o->version : "0");
    a->jobs = jobs_open(o);
    a->responses =
        responses_store_open(o->max_responses, o->max_responses_bytes, o->response_ttl_s * 1000000);
    *out = a;
    return 0;
}

void api_close(struct api *a)
{
    if (a == NULL)
        return;
    jobs_close(a->jobs);
    responses_store_close(a->responses);
    for (int i = 0; i < a->n_models; i++)
        template_close(a->models[i].tmpl);
    free(a->models);
    free(a);
}

/* A token of the vocabulary as a string of its own; NULL when there is none. */
static char *token_string(const struct tokenizer *t, int32_t id)
{
    size_t n = 0;
    const char *s = id >= 0 ? tokenizer_token(t, id, &n) : NULL;
    if (s == NULL)
        return NULL;
    char *copy = xcalloc(n + 1, 1);
    memcpy(copy, s, n);
    return copy;
}

int api_open_template(const struct model_card *card, const char *source, struct template **out,
                      struct err *e)
{
    const struct tokenizer_info *info = tokenizer_info(card->tokenizer);
    char *bos = token_string(card->tokenizer, info->bos);
    char *eos = token_string(card->tokenizer, info->eos);
    int err = template_open(out, source, source != NULL ? strlen(source) : 0, bos, eos, e);
    free(bos);
    free(eos);
    return err;
}

void api_models_ready(struct api *a)
{
    if (atomic_load(&a->ready))
        return;
    int n = replicas_n_models(a->o.engine);
    a->models = xcalloc((size_t)n + 1, sizeof *a->models);
    for (int i = 0; i < n; i++) {
        struct api_model *m = &a->models[i];
        m->card = replicas_card_at(a->o.engine, i);
        if (m->card->kind != MODEL_TEXT)
            continue;
        if (api_open_template(m->card, m->card->chat_template, &m->tmpl, &m->tmpl_err) != 0) {
            m->tmpl = NULL;
            log_msg(LOG_WARN, "api.template", "%s: %s", m->card->id, m->tmpl_err.msg);
        }
    }
    a->n_models = n;
    atomic_store(&a->ready, true);
}

bool api_is_ready(const struct api *a)
{
    return atomic_load(&a->ready);
}

size_t api_arena_bytes(const struct api *a)
{
    return 16 * a->o.max_body_bytes + ((size_t)4 << 20);
}

size_t api_max_ids(const struct model_card *card)
{
    return 4 * (size_t)card->n_ctx;
}

int api_context_error(const struct model_card *card, size_t n_prompt, const char *param,
                      struct err *e)
{
    char why[64] = "";
    if (card->n_ctx_wanted > card->n_ctx)
        snprintf(why, sizeof why, " (of %d, as many as cache_mib holds)", card->n_ctx_wanted);
    err_set(e, ERR_TOOBIG,
            "this model's context is %d tokens%s, but the prompt has %s%zu; shorten it",
            card->n_ctx, why, n_prompt > 0 ? "" : "more than ",
            n_prompt > 0 ? n_prompt : api_max_ids(card));
    err_reason(e, "context_length_exceeded");
    return err_param(e, "%s", param);
}

int api_unknown_model(const struct api *a, const char *id, struct err *e)
{
    char names[160] = "";
    size_t n = 0;
    for (int i = 0; i < a->n_models && n + 1 < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i > 0 ? ", " : "",
                              a->models[i].card->id);
    err_set(e, ERR_NOTFOUND, "model '%.60s' not found; this server has: %s", id, names);
    err_reason(e, "model_not_found");
    return err_param(e, "model");
}

static const char *kind_name(enum model_kind kind)
{
    static const char *const names[] = {[MODEL_TEXT] = "text",
                                        [MODEL_IMAGE] = "images",
                                        [MODEL_EMBEDDING] = "embeddings",
                                        [MODEL_CAPTION] = "captions",
                                        [MODEL_UPSCALER] = "upscaling",
                                        [MODEL_ENLARGER] = "upscaling",
                                        [MODEL_CONTROL] = "controls"};
    return names[kind];
}

int api_find_model(struct api_call *c, const struct cJSON *body, enum model_kind kind,
                   const struct api_model **m, struct err *e)
{
    const struct api *a = c->priv->api;
    const char *id = NULL;
    int err = json_get_str(body, "model", &id, e);
    if (err != 0)
        return err;
    if (a->n_models == 0)
        return err_set(e, ERR_UNAVAILABLE, "this server has no model");
    bool named = id != NULL && id[0] != '\0';
    int i = 0;
    while (i < a->n_models &&
           (named ? strcmp(a->models[i].card->id, id) != 0 : a->models[i].card->kind != kind))
        i++;
    if (i == a->n_models && named)
        return api_unknown_model(a, id, e);
    if (i == a->n_models) {
        err_set(e, ERR_NOTFOUND, "this server has no model for %s", kind_name(kind));
        err_reason(e, "model_not_found");
        return err_param(e, "model");
    }
    const struct model_card *card = a->models[i].card;
    if (card->kind != kind) {
        err_set(e, ERR_INVALID, "model '%.60s' is for %s, not for %s", card->id,
                kind_name(card->kind), kind_name(kind));
        return err_param(e, "model");
    }
    *m = &a->models[i];
    c->model = card->id;
    return 0;
}

int api_params(struct api_call *c, const struct api_model *m, const struct cJSON *body,
               unsigned where, struct params *p, struct err *e)
{
    const struct api_options *o = &c->priv->api->o;
    const struct params_limits lim = {.max_choices = o->max_choices,
                                      .max_stop_bytes = o->max_stop_bytes,
                                      .max_grammar_bytes = o->max_grammar_bytes,
                                      .n_vocab = m->card->n_vocab,
                                      .strict = o->strict};
    return params_parse(body, where, &lim, &c->job->arena, p, &c->job->text, e);
}

/* ---- Errors ---- */

void api_fail(struct api_call *c, const struct err *err)
{
    struct api_call_private *p = c->priv;
    p->err = *err;
    int status = api_error_status(&p->err);
    c->error_reason = error_code_word(&p->err, status);
    if (c->error_reason == NULL)
        c->error_reason = "invalid_request";
    c->state = API_DONE;
    if (c->stream && c->status != 0) {
        c->out.failed = false;
        c->out.max = c->out.len + ERROR_ROOM;
        if (p->dialect != NULL) {
            c->out.max += p->dialect->room(p->answer);
            p->dialect->failed(p->answer, &c->out, status, &p->err);
        } else {
            render_error_frame(&c->out, status, &p->err);
        }
        return;
    }
    c->stream = false;
    c->status = status;
    c->content_type = "application/json";
    c->retry_after_s = status == 429 ? RETRY_BUSY_S : status == 503 ? RETRY_LATER_S : 0;
    buf_clear(&c->out);
    if (p->anthropic)
        messages_out_error(&c->out, status, &p->err);
    else
        api_error_body(&c->out, status, &p->err);
    if (p->sdapi && !c->out.failed) { /* where clients of FastAPI look */
        struct json_writer w = {.out = &c->out, .comma = true};
        c->out.len--;
        json_put_str(&w, "detail", p->err.msg);
        json_close(&w, '}');
    }
}

/* ---- Begin ---- */

static const char *piece_of(const void *ctx, int32_t id, size_t *len)
{
    return tokenizer_piece(ctx, id, true, len);
}

/* How many tokens a choice may have, now that the prompts are known. */
static int bound_tokens(struct api_call *c, const struct model_card *card, const struct params *p,
                        enum render_shape shape, struct err *e)
{
    struct text_spec *t = &c->job->text;
    int64_t max = p->max_tokens;
    if (max < 0 && c->priv->api->o.default_max_tokens > 0)
        max = c->priv->api->o.default_max_tokens;
    if (max < 0 && card->caption != NULL)
        max = CAPTION_MAX_TOKENS;
    if (max < 0)
        max = shape == RENDER_CHAT ? card->n_ctx : COMPLETION_MAX_TOKENS;
    int32_t shortest = card->n_ctx;
    for (int i = 0; i < t->n_prompts; i++) {
        if (t->n_prompt[i] + (max > 0) > card->n_ctx)
            return api_context_error(card, (size_t)t->n_prompt[i],
                                     shape == RENDER_CHAT ? "messages" : "prompt", e);
        shortest = t->n_prompt[i] < shortest ? t->n_prompt[i] : shortest;
        c->prompt_tokens += t->n_prompt[i] + t->n_question;
    }
    int64_t room = card->n_ctx - shortest;
    t->max_tokens = (int)(max < room ? max : room);
    return 0;
}

int api_start(struct api_call *c, const struct api_model *m, const struct params *p,
              struct render_options *ro, struct err *e)
{
    struct api *a = c->priv->api;
    struct text_spec *t = &c->job->text;
    int err = bound_tokens(c, m->card, p, ro->shape, e);
    if (err != 0)
        return err;
    t->model = m->card->id;
    if ((err = text_filter_job(c, m->card, ro, e)) != 0)
        return err;
    ro->stream = p->stream;
    ro->include_usage = p->include_usage;
    ro->timings = p->timings;
    ro->logprobs = t->logprobs;
    ro->top_logprobs = t->top_logprobs;
    ro->n = t->n;
    ro->n_choices = t->n * t->n_prompts;
    ro->model = m->card->id;
    ro->fingerprint = a->fingerprint;
    ro->created = clock_unix_s();
    ro->prompt_tokens = c->prompt_tokens;
    ro->max_bytes = a->o.max_answer_bytes;
    ro->piece = piece_of;
    ro->piece_ctx = m->card->tokenizer;
    c->n_choices = ro->n_choices;
    if (c->priv->dialect != NULL)
        err = c->priv->dialect->start(c->priv->answer, ro, e);
    else if ((c->priv->render = render_open(ro)) == NULL)
        err = err_set(e, ERR_NOMEM, "not enough memory for the answer");
    if (err == 0)
        err = replicas_submit(a->o.engine, c->job, e);
    if (err != 0)
        return err;
    c->stream = p->stream;
    c->content_type = c->stream ? "text/event-stream" : "application/json";
    return 0;
}

static int check_ready(const struct api *a, const struct api_route *r, struct err *e)
{
    if ((r->flags & ROUTE_LOADING_OK) || atomic_load(&a->ready))
        return 0;
    if (a->o.engine != NULL && replicas_state(a->o.engine) == ENGINE_FAILED)
        return err_set(e, ERR_UNAVAILABLE, "the models could not be loaded");
    err_set(e, ERR_UNAVAILABLE, "the models are still loading; try again in a few seconds");
    return err_reason(e, "loading");
}

static bool has_kind(const struct api *a, enum model_kind kind)
{
    for (int i = 0; atomic_load(&a->ready) && i < a->n_models; i++)
        if (a->models[i].card->kind == kind)
            return true;
    return false;
}

size_t api_body_max(const struct api *a, const struct api_route *r)
{
    size_t max = a->o.max_body_bytes;
    if (r->flags & ROUTE_UPLOAD && r->id != API_IMAGES_GENERATE) /* image and mask, as base64 */
        max += 2 * a->o.max_image_bytes;
    if (r->flags & ROUTE_UPLOAD && has_kind(a, MODEL_CONTROL))
        max += (size_t)a->o.max_controls * a->o.max_image_bytes;
    if (r->flags & ROUTE_PICTURE && has_kind(a, MODEL_CAPTION))
        max += a->o.max_image_bytes / 3 * 4 + 4;
    return max;
}

static unsigned images_route(enum api_handler_id id)
{
    return id == API_IMAGES_GENERATE ? PARAM_GENERATE
           : id == API_IMAGES_EDIT   ? PARAM_EDIT
           : id == API_IMAGES_VARY   ? PARAM_VARY
           : id == API_UPSCALE       ? PARAM_UPSCALE
                                     : 0;
}

/* Bodies are objects; the handler gets the document. */
static int begin_post(struct api_call *c, const struct api_request *rq, struct err *e)
{
    struct api *a = c->priv->api;
    struct cJSON *body = NULL;
    struct json_limits limits = a->limits;
    if (rq->route->flags & ROUTE_UPLOAD && images_route(rq->route->id) != 0 &&
        multipart_is(rq->content_type))
        return images_begin_form(c, rq, images_route(rq->route->id), e);
    limits.max_bytes = api_body_max(a, rq->route);
    int err = json_parse(&body, rq->body ? rq->body : "", rq->body_len, &limits, e);
    if (err != 0)
        return err;
    if (json_type(body) != JSON_OBJECT) {
        err = err_set(e, ERR_INVALID, "the body must be a JSON object, not %s",
                      json_type_name(json_type(body)));
        goto out;
    }
    switch (rq->route->id) {
    case API_CHAT:
    case API_COMPLETIONS:
    case API_RESPONSES:
    case API_MESSAGES:
    case API_CAPTIONS:
        c->job = job_new(api_arena_bytes(a));
        if (c->job == NULL)
            err = err_set(e, ERR_NOMEM, "not enough memory for the request");
        else
            err = rq->route->id == API_CHAT        ? chat_begin(c, body, e)
                  : rq->route->id == API_RESPONSES ? responses_begin(c, body, e)
                  : rq->route->id == API_MESSAGES  ? messages_begin(c, body, e)
                  : rq->route->id == API_CAPTIONS  ? captions_begin(c, body, e)
                                                   : completions_begin(c, body, e);
        break;
    case API_IMAGES_GENERATE:
    case API_IMAGES_EDIT:
    case API_IMAGES_VARY:
    case API_UPSCALE:
        err = images_begin(c, body, images_route(rq->route->id), e);
        break;
    case API_SD_TXT2IMG:
    case API_SD_IMG2IMG:
        err =
            sdapi_begin(c, body, rq->route->id == API_SD_TXT2IMG ? PARAM_GENERATE : PARAM_EDIT, e);
        break;
    case API_SD_PNG_INFO:
        err = sdapi_info_png(c, body, e);
        break;
    case API_SD_EXTRA:
        err = sdapi_extra(c, body, e);
        break;
    case API_SD_SET_OPTIONS:
        err = sdapi_state_set(c, body, e);
        break;
    case API_EMBEDDINGS:
        err = embeddings_begin(c, body, e);
        break;
    case API_RERANK:
        err = embeddings_rerank_begin(c, body, e);
        break;
    case API_MODERATIONS:
        err = text_filter_moderate(c, body, e);
        break;
    case API_ADAPTER_LOAD:
        err = adapters_load_begin(c, body, e);
        break;
    case API_ADAPTER_UNLOAD:
        err = adapters_unload_begin(c, body, e);
        break;
    case API_MESSAGES_COUNT:
        err = messages_count(c, body, e);
        break;
    case API_RESPONSES_COUNT:
        err = responses_count(c, body, e);
        break;
    case API_TOKENIZE:
        err = tokenize_begin(c, body, e);
        break;
    case API_DETOKENIZE:
        err = tokenize_detokenize(c, body, e);
        break;
    case API_APPLY_TEMPLATE:
        err = tokenize_apply_template(c, body, e);
        break;
    default:
        err = err_set(e, ERR_NOTFOUND, "there is nothing here");
    }
out:
    json_free(body);
    return err;
}

static int begin(struct api_call *c, const struct api_request *rq, struct err *e)
{
    struct api *a = c->priv->api;
    int err = check_ready(a, rq->route, e);
    if (err != 0)
        return err;
    switch (rq->route->id) {
    case API_MODELS:
        return models_list(c, e);
    case API_MODEL:
        return models_one(c, rq->path, e);
    case API_PROPS:
        return models_props(c, e);
    case API_OPENAPI:
        return openapi_write(a, &c->out, e);
    case API_ADAPTERS:
        return adapters_get_list(c, e);
    case API_ADAPTER:
        return adapters_get(c, rq->path, e);
    case API_ADAPTER_DELETE:
        return adapters_delete(c, rq->path, e);
    case API_JOBS:
        return jobs_list(c, e);
    case API_JOB:
        return jobs_one(c, rq->path, e);
    case API_JOB_DELETE:
        return jobs_delete(c, rq->path, e);
    case API_RESPONSE:
        return responses_get(c, rq->path, e);
    case API_RESPONSE_DELETE:
        return responses_delete(c, rq->path, e);
    default:
        return sdapi_state_get(c, rq->route->id) ? 0 : begin_post(c, rq, e);
    }
}

/* The job is not needed, or never ran. */
static void drop_job(struct api_call *c)
{
    if (c->job != NULL)
        job_unref(c->job);
    c->job = NULL;
}

struct api_call *api_call_new(struct api *a)
{
    struct api_call *c = xcalloc(1, sizeof *c);
    c->priv = xcalloc(1, sizeof *c->priv);
    c->priv->api = a;
    c->priv->begin_us = clock_us();
    c->priv->max_out = a->o.max_answer_bytes;
    c->content_type = "application/json";
    buf_init(&c->out, 2 * a->o.max_answer_bytes + (1 << 20));
    return c;
}

struct api_call *api_begin(struct api *a, const struct api_request *rq)
{
    struct api_call *c = api_call_new(a);
    struct err e = {0};
    c->priv->owner = rq->owner;
    c->priv->safety = rq->safety;
    c->priv->filter_flags = rq->filter_flags;
    c->priv->may_wait = rq->may_wait;
    c->priv->gone = rq->gone;
    c->priv->sdapi = strncmp(rq->route->path, "/sdapi/", 7) == 0;
    c->priv->anthropic = rq->route->id == API_MESSAGES || rq->route->id == API_MESSAGES_COUNT;
    c->priv->request_id = xstrdup(rq->request_id != NULL ? rq->request_id : "");
    int err = begin(c, rq, &e);
    if (err == 0 && c->out.failed) {
        err = err_set(&e, ERR_TOOBIG, "the answer is larger than this server allows");
        err_reason(&e, "answer_too_large");
    }
    c->fetch = c->fetch && err != 0;
    if (err != 0) {
        drop_job(c);
        c->background = false;
        api_fail(c, &e);
    } else if (c->job == NULL) {
        c->status = 200;
        c->state = API_DONE;
    }
    return c;
}

/* ---- Pump ---- */

static void finish(struct api_call *c, const struct job_usage *u)
{
    c->status = 200;
    c->state = API_DONE;
    c->prompt_tokens = u->prompt_tokens;
    c->cached_tokens = u->cached_tokens;
    c->completion_tokens = u->completion_tokens;
    c->queue_us = u->queue_us;
    c->prefill_us = u->prefill_us;
    c->decode_us = u->decode_us;
    c->finish = c->priv->dialect != NULL  ? c->priv->dialect->finish(c->priv->answer)
                : c->priv->render == NULL ? "stop"
                                          : render_finish(c->priv->render);
}

/* The job ends, because what it made cannot be given out. */
static void give_up(struct api_call *c, size_t keep, const struct err *e)
{
    c->out.len = keep < c->out.len ? keep : c->out.len;
    if (c->out.data != NULL)
        c->out.data[c->out.len] = '\0';
    job_cancel(c->job);
    api_fail(c, e);
}

/* Text: the renderer takes the event.  A picture stays with the call until it is a file: true. */
static bool render(struct api_call *c, struct event *ev, int *err, struct err *e)
{
    struct api_call_private *p = c->priv;
    if (p->adapter != NULL) {
        *err = adapters_event(c, ev, e);
        return false;
    }
    if (p->embeddings != NULL) {
        *err = embeddings_event(p->embeddings, ev, &c->out, e);
        return false;
    }
    if (p->dialect != NULL) {
        *err = p->dialect->event(p->answer, ev, &c->out, e);
        return false;
    }
    if (p->images == NULL) {
        *err = render_event(p->render, ev, &c->out, e);
        return false;
    }
    c->work = images_out_event(p->images, ev, &c->out) != 0;
    if (ev->kind == EV_DONE)
        *err = images_out_refused(p->images, e);
    if (c->out.failed)
        *err = err_set(e, ERR_TOOBIG, "the answer is larger than this server allows");
    return c->work;
}

static int check_backlog(const struct api_call *c, struct err *e)
{
    if (!c->stream || c->out.len <= c->priv->max_out)
        return 0;
    err_set(e, ERR_TOOBIG, "the client reads its stream too slowly");
    return err_reason(e, "slow_client");
}

/* True when the call keeps the event. */
static bool take_event(struct api_call *c, struct event *ev)
{
    struct api_call_private *p = c->priv;
    struct err e = {0};
    if (ev->kind == EV_ERROR && p->sd != NULL && p->sd->interrupted) {
        sdapi_info_answer(c, p->images, &c->out); /* what is complete */
        finish(c, &ev->usage);
        return false;
    }
    if (ev->kind == EV_ERROR) {
        api_fail(c, &ev->err);
        return false;
    }
    if ((ev->kind == EV_TEXT || ev->kind == EV_IMAGE) && !p->first_text) {
        p->first_text = true;
        c->ttft_us = clock_us() - p->begin_us;
    }
    if (ev->kind == EV_TEXT)
        c->completion_tokens += ev->n_tokens > 0 ? ev->n_tokens : 1;
    if (ev->kind == EV_IMAGE && ev->safety != NULL)
        images_audit(c, ev);
    if (ev->kind == EV_FINISH)
        text_filter_audit(c, ev);
    size_t before = c->out.len;
    int err = 0;
    bool kept = render(c, ev, &err, &e);
    if (err == 0)
        err = check_backlog(c, &e);
    if (err != 0) {
        give_up(c, before, &e);
        return kept;
    }
    if (c->stream && (p->images == NULL || c->out.len > before))
        c->status = 200;
    if (!kept && ev->kind == EV_DONE)
        finish(c, &ev->usage);
    return kept;
}

/* What the worker made, if it made anything. */
static void take_work(struct api_call *c)
{
    struct err e = {0};
    size_t before = c->out.len;
    int err = images_out_worked(c->priv->images, &c->out, &e);
    if (err == 0)
        err = check_backlog(c, &e);
    if (err != 0)
        give_up(c, before, &e);
    else if (c->stream && c->out.len > before)
        c->status = 200;
}

bool api_pump(struct api_call *c, int64_t until_us)
{
    c->more = false;
    if (c->state == API_DONE || c->job == NULL || c->priv->at_work || c->work)
        return false;
    size_t before = c->out.len;
    int status = c->status;
    sdapi_state_running(c);
    if (c->priv->images != NULL)
        take_work(c);
    while (c->state == API_RUNNING && !c->more && !c->work) {
        struct event *ev = job_poll(c->job);
        if (ev == NULL)
            break;
        if (!take_event(c, ev))
            job_event_free(ev);
        c->more = c->state == API_RUNNING && !c->work && clock_us() >= until_us;
    }
    c->priv->at_work = c->work;
    return c->state == API_DONE || c->status != status || c->out.len != before;
}

void api_work(struct api_call *c)
{
    images_out_work(c->priv->images);
}

void api_worked(struct api_call *c)
{
    c->priv->at_work = false;
    if (c->priv->ended)
        api_end(c);
}

void api_end(struct api_call *c)
{
    if (c == NULL)
        return;
    if (c->job != NULL && c->state == API_RUNNING)
        job_cancel(c->job);
    if (c->priv->at_work && !c->work) {
        c->priv->ended = true; /* the worker comes back to api_worked */
        return;
    }
    if (c->job != NULL)
        job_unref(c->job);
    render_close(c->priv->render);
    if (c->priv->dialect != NULL)
        c->priv->dialect->close(c->priv->answer);
    images_out_close(c->priv->images);
    sdapi_state_close(c);
    embeddings_close(c->priv->embeddings);
    adapters_close(c->priv->adapter);
    buf_free(&c->out);
    free(c->priv->request_id);
    free(c->priv);
    free(c);
}
