/* A prompt is looked at as one text with all that the template made of the messages, so that nothing hides between
 * them.  Answers are looked at by the engine, where text is held back already, for stop strings. */
#include "api/text_filter.h"

#include <stdlib.h>
#include <string.h>

#include "api/answer.h"
#include "api/call.h"
#include "base/log.h"
#include "engine/text/filter.h"

enum { NAMES_MAX = 256, INPUTS_MAX = 256 };

static const char *names_of(const struct filter *f, uint64_t found, char out[NAMES_MAX])
{
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < filter_categories(f); i++) {
        const size_t n = strlen(filter_name(f, i));
        if ((found >> i & 1) == 0 || at + n + 2 > NAMES_MAX)
            continue;
        if (at > 0)
            out[at++] = ',';
        memcpy(out + at, filter_name(f, i), n + 1);
        at += n;
    }
    return out;
}

/* What of it ends a text, for this call. */
static uint64_t blocking(const struct api_call *c, uint64_t found)
{
    const struct filter *f = c->priv->api->o.filter;
    for (int i = 0; i < filter_categories(f); i++)
        if (c->priv->filter_flags || !filter_blocks(f, i))
            found &= ~(1ULL << i);
    return found;
}

static void audit(struct api_call *c, const char *where, int index, uint64_t found, bool blocked)
{
    char names[NAMES_MAX];
    struct log_line l;
    c->n_flagged++;
    log_begin(&l, LOG_WARN, "text_filter");
    log_str(&l, "request", c->priv->request_id);
    log_int(&l, "key", c->priv->owner);
    log_str(&l, "model", c->model != NULL ? c->model : "");
    log_str(&l, "text", where);
    log_int(&l, "index", index);
    log_str(&l, "action", blocked ? "block" : "flag");
    log_str(&l, "categories", names_of(c->priv->api->o.filter, found, names));
    log_end(&l);
}

static int check(struct api_call *c, const char *s, size_t n, int index, const char *reason,
                 struct err *e)
{
    const struct filter *f = c->priv->api->o.filter;
    uint64_t found = 0;
    char names[NAMES_MAX];
    int err = filter_run_scan(f, s, n, &found, e);
    if (err != 0 || found == 0)
        return err;
    const uint64_t stops = blocking(c, found);
    audit(c, "prompt", index, found, stops != 0);
    if (stops == 0)
        return 0;
    err_set(e, ERR_REFUSED, "the text filter of this server holds the prompt back (%s)",
            names_of(f, stops, names));
    return err_reason(e, reason);
}

int text_filter_job(struct api_call *c, const struct model_card *card, struct render_options *ro,
                    struct err *e)
{
    struct text_spec *t = &c->job->text;
    int err = 0;
    t->filter = ro->filter = c->priv->api->o.filter;
    t->filter_blocks = !c->priv->filter_flags;
    for (int i = 0; i < t->n_prompts && t->filter != NULL && t->picture == NULL && err == 0; i++) {
        char *text = NULL;
        size_t n = 0;
        err = tokenizer_decode(card->tokenizer, t->prompts[i], (size_t)t->n_prompt[i], true, &text,
                               &n, e);
        if (err == 0 && (err = check(c, text, n, i, "content_filter", e)) != 0)
            err_param(e, ro->shape == RENDER_CHAT ? "messages" : "prompt");
        free(text);
    }
    return err;
}

int text_filter_prompt(struct api_call *c, const char *prompt, const char *reason,
                       const char *param, struct err *e)
{
    if (c->priv->api->o.filter == NULL || prompt == NULL)
        return 0;
    int err = check(c, prompt, strlen(prompt), 0, reason, e);
    return err != 0 ? err_param(e, "%s", param) : 0;
}

void text_filter_audit(struct api_call *c, const struct event *ev)
{
    if (ev->found != 0)
        audit(c, "answer", ev->index, ev->found, ev->finish == FINISH_FILTER);
}

void text_filter_put(const struct filter *f, uint64_t found, bool blocked, struct json_writer *w)
{
    json_open(w, "content_filter_results", '{');
    for (int i = 0; i < filter_categories(f); i++) {
        if ((found >> i & 1) == 0)
            continue;
        json_open(w, filter_name(f, i), '{');
        json_put_bool(w, "filtered", blocked && filter_blocks(f, i));
        json_put_bool(w, "detected", true);
        json_close(w, '}');
    }
    json_close(w, '}');
}

/* ---- /v1/moderations ---- */

static void put_result(const struct filter *f, uint64_t found, struct json_writer *w)
{
    json_open(w, NULL, '{');
    json_put_bool(w, "flagged", found != 0);
    json_open(w, "categories", '{');
    for (int i = 0; i < filter_categories(f); i++)
        json_put_bool(w, filter_name(f, i), found >> i & 1);
    json_close(w, '}');
    json_open(w, "category_scores", '{');
    for (int i = 0; i < filter_categories(f); i++)
        json_put_num(w, filter_name(f, i), found >> i & 1 ? 1 : 0);
    json_close(w, '}');
    json_open(w, "category_applied_input_types", '{');
    for (int i = 0; i < filter_categories(f); i++) {
        json_open(w, filter_name(f, i), '[');
        json_put_str(w, NULL, "text");
        json_close(w, ']');
    }
    json_close(w, '}');
    json_close(w, '}');
}

/* "a text", or {"type": "text", "text"}, a part of one input. */
static const char *text_of(const struct cJSON *v, int i, struct err *e)
{
    const char *s = json_str(v), *type = json_str(json_get(v, "type"));
    if (s == NULL && type != NULL && strcmp(type, "text") == 0)
        s = json_str(json_get(v, "text"));
    if (s == NULL) {
        err_set(e, type != NULL ? ERR_UNSUPPORTED : ERR_INVALID,
                "an input must be a string or an object of the type text with a text");
        err_param(e, "input[%d]", i);
    }
    return s;
}

static int put_results(const struct filter *f, const struct cJSON *input, struct json_writer *w,
                       struct err *e)
{
    const struct cJSON *first = json_type(input) == JSON_ARRAY ? json_first(input) : input;
    const bool parts = json_type(first) == JSON_OBJECT; /* which are one input */
    uint64_t all = 0;
    int i = 0;
    for (const struct cJSON *v = first; v != NULL; v = v == input ? NULL : json_next(v), i++) {
        uint64_t found = 0;
        const char *s = text_of(v, i, e);
        int err = s != NULL ? filter_run_scan(f, s, strlen(s), &found, e) : e->code;
        if (err != 0)
            return err;
        if ((json_type(v) == JSON_OBJECT) != parts) {
            err_set(e, ERR_INVALID, "input must be all strings or all objects");
            return err_param(e, "input[%d]", i);
        }
        all |= found;
        if (!parts)
            put_result(f, found, w);
    }
    if (parts)
        put_result(f, all, w);
    return 0;
}

int text_filter_moderate(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct filter *f = c->priv->api->o.filter;
    const struct cJSON *input = json_get(body, "input");
    const char *model = json_str(json_get(body, "model"));
    char id[ANSWER_ID_MAX];
    struct json_writer w;
    if (f == NULL)
        return err_set(e, ERR_UNSUPPORTED,
                       "this server has no text filter: its option text_filter "
                       "names none");
    if (json_type(input) != JSON_STRING &&
        (json_type(input) != JSON_ARRAY || json_size(input) < 1 || json_size(input) > INPUTS_MAX)) {
        err_set(e, ERR_INVALID, "input must be a string or a list of 1 to %d", INPUTS_MAX);
        return err_param(e, "input");
    }
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "id", answer_id(id, "modr"));
    json_put_str(&w, "model", model != NULL && *model != '\0' ? model : "text_filter");
    json_open(&w, "results", '[');
    int err = put_results(f, input, &w, e);
    json_close(&w, ']');
    json_close(&w, '}');
    return err;
}
