/* POST /v1/completions: texts or token ids in, their continuations out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"

/* The prompts of one request, in the job's arena. */
struct prompts {
    int n;
    int32_t **ids;
    int32_t *n_ids;
    char **texts; /* for echo */
    size_t *text_lens;
};

static int no_memory(struct err *e)
{
    return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
}

static int prompts_alloc(struct prompts *ps, struct arena *arena, int n, struct err *e)
{
    ps->ids = arena_array(arena, (size_t)n, sizeof *ps->ids);
    ps->n_ids = arena_array(arena, (size_t)n, sizeof *ps->n_ids);
    ps->texts = arena_array(arena, (size_t)n, sizeof *ps->texts);
    ps->text_lens = arena_array(arena, (size_t)n, sizeof *ps->text_lens);
    if (!ps->ids || !ps->n_ids || !ps->texts || !ps->text_lens)
        return no_memory(e);
    return 0;
}

/* An empty text is where a document begins: one BOS. */
static int begin_only(const struct tokenizer_info *info, struct prompts *ps, struct arena *arena,
                      const char *param, struct err *e)
{
    if (info->bos < 0) {
        err_set(e, ERR_INVALID, "%s is empty, and this model has no token to begin with", param);
        return err_param(e, "%s", param);
    }
    int32_t *copy = arena_alloc(arena, sizeof *copy);
    if (copy == NULL)
        return no_memory(e);
    *copy = info->bos;
    ps->ids[ps->n] = copy;
    ps->n_ids[ps->n++] = 1;
    return 0;
}

static int add_text(struct prompts *ps, const char *s, const struct api_model *m,
                    const struct params *p, struct arena *arena, const char *param, struct err *e)
{
    const struct tokenizer *tk = m->card->tokenizer;
    int32_t *ids = NULL;
    size_t n = 0, len = strlen(s);
    int flags = TOKENIZE_SPECIAL | (p->add_special ? TOKENIZE_BOS : 0);
    int err = tokenizer_encode(tk, s, len, flags, &ids, &n, api_max_ids(m->card), e);
    if (err == ERR_TOOBIG)
        return api_context_error(m->card, 0, param, e);
    if (err != 0)
        return err;
    ps->texts[ps->n] = arena_strndup(arena, s, len);
    ps->text_lens[ps->n] = len;
    if (ps->texts[ps->n] == NULL) {
        free(ids);
        return no_memory(e);
    }
    if (n == 0) {
        free(ids);
        return begin_only(tokenizer_info(tk), ps, arena, param, e);
    }
    int32_t *copy = arena_array(arena, n, sizeof *copy);
    if (copy != NULL)
        memcpy(copy, ids, n * sizeof *copy);
    free(ids);
    if (copy == NULL)
        return no_memory(e);
    ps->ids[ps->n] = copy;
    ps->n_ids[ps->n++] = (int32_t)n;
    return 0;
}

static int add_ids(struct prompts *ps, const struct cJSON *list, const struct api_model *m,
                   const struct params *p, struct arena *arena, const char *param, struct err *e)
{
    int n = json_size(list), i = 0;
    if (n == 0) {
        err_set(e, ERR_INVALID, "%s must have at least one token", param);
        return err_param(e, "%s", param);
    }
    if ((size_t)n > api_max_ids(m->card))
        return api_context_error(m->card, (size_t)n, param, e);
    int32_t *ids = arena_array(arena, (size_t)n, sizeof *ids);
    if (ids == NULL)
        return no_memory(e);
    for (const struct cJSON *v = json_first(list); v != NULL; v = json_next(v), i++) {
        if (!json_is_int(v) || json_num(v) < 0 || json_num(v) >= m->card->n_vocab) {
            err_set(e, ERR_INVALID, "%s[%d] must be a token id from 0 to %d", param, i,
                    m->card->n_vocab - 1);
            return err_param(e, "%s[%d]", param, i);
        }
        ids[i] = (int32_t)json_num(v);
    }
    if (p->echo) {
        char *text = NULL;
        size_t len = 0;
        int err = tokenizer_decode(m->card->tokenizer, ids, (size_t)n, true, &text, &len, e);
        if (err != 0)
            return err;
        ps->texts[ps->n] = arena_strndup(arena, text, len);
        ps->text_lens[ps->n] = len;
        free(text);
        if (ps->texts[ps->n] == NULL)
            return no_memory(e);
    }
    ps->ids[ps->n] = ids;
    ps->n_ids[ps->n++] = n;
    return 0;
}

/* prompt: "text" | ["text", ...] | [1, 2, ...] | [[1, 2], ...] */
static int parse_prompts(struct prompts *ps, const struct cJSON *body, const struct api *a,
                         const struct api_model *m, const struct params *p, struct arena *arena,
                         struct err *e)
{
    const struct cJSON *v = json_get(body, "prompt"), *first = json_first(v);
    bool text = json_type(v) == JSON_STRING;
    bool ids = json_type(v) == JSON_ARRAY && json_type(first) == JSON_NUMBER;
    if (!text && (json_type(v) != JSON_ARRAY || first == NULL)) {
        err_set(e, ERR_INVALID,
                "prompt must be a string, a list of strings, a list of token ids or a list of "
                "lists of token ids, and not empty");
        return err_param(e, "prompt");
    }
    int n = text || ids ? 1 : json_size(v);
    if (n > a->o.max_prompts) {
        err_set(e, ERR_INVALID, "prompt must have at most %d prompts, got %d", a->o.max_prompts, n);
        return err_param(e, "prompt");
    }
    int err = prompts_alloc(ps, arena, n, e);
    if (err != 0)
        return err;
    if (text)
        return add_text(ps, json_str(v), m, p, arena, "prompt", e);
    if (ids)
        return add_ids(ps, v, m, p, arena, "prompt", e);
    int i = 0;
    for (const struct cJSON *x = first; x != NULL && err == 0; x = json_next(x), i++) {
        char param[32];
        snprintf(param, sizeof param, "prompt[%d]", i);
        if (json_type(x) == JSON_STRING && json_type(first) == JSON_STRING) {
            err = add_text(ps, json_str(x), m, p, arena, param, e);
        } else if (json_type(x) == JSON_ARRAY && json_type(first) == JSON_ARRAY) {
            err = add_ids(ps, x, m, p, arena, param, e);
        } else {
            err_set(e, ERR_INVALID,
                    "%s is %s: a list of prompts must be all strings or all lists of token ids",
                    param, json_type_name(json_type(x)));
            err = err_param(e, "%s", param);
        }
    }
    return err;
}

int completions_begin(struct api_call *c, const struct cJSON *body, struct err *e)
{
    struct api *a = c->priv->api;
    struct job *j = c->job;
    const struct api_model *m = NULL;
    struct params p;
    struct prompts ps = {0};
    int err = api_find_model(c, body, MODEL_TEXT, &m, e);
    if (err != 0 || (err = api_params(c, m, body, PARAM_COMPLETIONS, &p, e)) != 0 ||
        (err = parse_prompts(&ps, body, a, m, &p, &j->arena, e)) != 0)
        return err;
    int64_t n_choices = (int64_t)ps.n * p.n;
    if (n_choices > a->o.max_choices) {
        err_set(e, ERR_INVALID, "n times the number of prompts must be at most %d, got %lld",
                a->o.max_choices, (long long)n_choices);
        return err_param(e, "n");
    }
    j->text.n_prompts = ps.n;
    j->text.prompts = (const int32_t *const *)ps.ids;
    j->text.n_prompt = ps.n_ids;
    struct render_options ro = {.shape = RENDER_COMPLETION};
    if (p.echo) {
        ro.echo = (const char *const *)ps.texts;
        ro.echo_len = ps.text_lens;
    }
    return api_start(c, m, &p, &ro, e);
}
