/* POST /v1/embeddings: texts to vectors.  POST /v1/rerank: how near those of documents are to that of a query. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "base/base64.h"

enum { TEXTS_MAX = 2048 /* as OpenAI's */, SPECIALS = 2 /* [CLS] and [SEP] */ };

/* What a call keeps until all vectors are there. */
struct embeddings {
    const char *model;
    int n_texts, n_dims; /* n_dims: asked for, at most the model's */
    bool base64;
    float *vectors; /* [n_texts, n_dims] */
    /* of /v1/rerank: text 0 is the query, the others are documents */
    bool rerank;
    int n_best;                   /* that the answer has */
    const char *const *documents; /* [n_texts - 1] of the job's arena, or NULL: not given back */
};

void embeddings_close(struct embeddings *em)
{
    if (em == NULL)
        return;
    free(em->vectors);
    free(em);
}

/* ---- The texts ---- */

static int refuse(struct err *e, const char *why)
{
    err_set(e, ERR_INVALID, "input %s", why);
    return err_param(e, "input");
}

static bool is_tokens(const struct cJSON *v)
{
    return json_type(v) == JSON_ARRAY && json_type(json_first(v)) == JSON_NUMBER;
}

/* How many texts input is, or an error. */
static int count_texts(const struct cJSON *input, struct err *e)
{
    const enum json_type type = json_type(input);
    if (type == JSON_STRING || is_tokens(input))
        return 1;
    if (type != JSON_ARRAY)
        return refuse(e, "must be a text, a list of texts, token ids, or a list of these");
    const int n = json_size(input);
    if (n == 0)
        return refuse(e, "must not be empty");
    if (n > TEXTS_MAX) {
        err_set(e, ERR_INVALID, "input has %d texts, %d are allowed", n, TEXTS_MAX);
        return err_param(e, "input");
    }
    return n;
}

static int text_tokens(const struct model_card *card, const char *text, int32_t **ids, size_t *n,
                       struct err *e)
{
    if (text[0] == '\0')
        return refuse(e, "must not have an empty text");
    int rc =
        tokenizer_encode(card->tokenizer, text, strlen(text), 0, ids, n, (size_t)card->n_ctx, e);
    return rc == ERR_TOOBIG ? api_context_error(card, 0, "input", e) : rc;
}

static int given_tokens(const struct model_card *card, const struct cJSON *list, int32_t **ids,
                        size_t *n, struct err *e)
{
    const int size = json_size(list);
    if (size == 0)
        return refuse(e, "must not have an empty text");
    if (size > card->n_ctx)
        return api_context_error(card, (size_t)size, "input", e);
    *ids = mem_try((size_t)size, sizeof **ids);
    if (*ids == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the request");
    for (const struct cJSON *v = json_first(list); v != NULL; v = json_next(v)) {
        if (!json_is_int(v) || json_num(v) < 0 || json_num(v) >= card->n_vocab)
            return refuse(e, "has a token that is not in the vocabulary");
        (*ids)[(*n)++] = (int32_t)json_num(v);
    }
    return 0;
}

/* The tokens of one text in the model's frame, in the job's arena; their number or an error. */
static int add_text(struct api_call *c, const struct model_card *card, const struct cJSON *v,
                    const int32_t **out, struct err *e)
{
    const struct tokenizer_info *info = tokenizer_info(card->tokenizer);
    int32_t *ids = NULL, *framed = NULL;
    size_t n = 0;
    int rc;
    if (json_type(v) == JSON_STRING)
        rc = text_tokens(card, json_str(v), &ids, &n, e);
    else if (json_type(v) == JSON_ARRAY)
        rc = given_tokens(card, v, &ids, &n, e);
    else
        rc = refuse(e, "must be a text, a list of texts, token ids, or a list of these");
    /* Tokens that come with their frame are taken as they are. */
    const bool bare = n == 0 || ids[0] != info->bos;
    const size_t all = n + (bare ? SPECIALS : 0);
    if (rc == 0 && all > (size_t)card->n_ctx)
        rc = api_context_error(card, all, "input", e);
    if (rc == 0 && (framed = arena_alloc(&c->job->arena, all * sizeof *framed)) == NULL)
        rc = err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    if (rc == 0) {
        if (n > 0)
            memcpy(framed + bare, ids, n * sizeof *framed);
        if (bare) {
            framed[0] = info->bos;
            framed[n + 1] = info->eos;
        }
        *out = framed;
    }
    free(ids);
    return rc != 0 ? rc : (int)all;
}

/* texts [n] are the job's. */
static int set_texts(struct api_call *c, const struct model_card *card,
                     const struct cJSON *const *texts, int n, struct err *e)
{
    struct arena *arena = &c->job->arena;
    const int32_t **ids = arena_alloc(arena, (size_t)n * sizeof *ids);
    int32_t *n_ids = arena_alloc(arena, (size_t)n * sizeof *n_ids);
    if (ids == NULL || n_ids == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    for (int i = 0; i < n; i++) {
        const int size = add_text(c, card, texts[i], &ids[i], e);
        if (size < 0)
            return size;
        n_ids[i] = size;
        c->prompt_tokens += size;
    }
    c->job->embed =
        (struct embed_spec){.model = card->id, .n_texts = n, .ids = ids, .n_ids = n_ids};
    return 0;
}

static int set_input(struct api_call *c, const struct model_card *card, const struct cJSON *input,
                     struct err *e)
{
    const int n = count_texts(input, e);
    if (n < 0)
        return n;
    const bool one = json_type(input) == JSON_STRING || is_tokens(input);
    const struct cJSON **texts = arena_array(&c->job->arena, (size_t)n, sizeof *texts);
    if (texts == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    const struct cJSON *v = one ? input : json_first(input);
    for (int i = 0; i < n; i++, v = one ? NULL : json_next(v))
        texts[i] = v;
    return set_texts(c, card, texts, n, e);
}

/* ---- The call ---- */

static int read_options(struct embeddings *em, const struct cJSON *body,
                        const struct model_card *card, struct err *e)
{
    const char *format = "float";
    int64_t dims = card->n_embd;
    int rc = json_get_str(body, "encoding_format", &format, e);
    if (rc == 0)
        rc = json_get_int(body, "dimensions", &dims, 1, card->n_embd, e);
    if (rc != 0)
        return rc;
    em->base64 = strcmp(format, "base64") == 0;
    if (!em->base64 && strcmp(format, "float") != 0) {
        err_set(e, ERR_INVALID, "encoding_format must be float or base64, not '%.20s'", format);
        return err_param(e, "encoding_format");
    }
    em->n_dims = (int)dims;
    return 0;
}

/* The call's model and job, still without texts. */
static int begin(struct api_call *c, const struct cJSON *body, const struct api_model **m,
                 struct err *e)
{
    int rc = api_find_model(c, body, MODEL_EMBEDDING, m, e);
    if (rc != 0)
        return rc;
    struct embeddings *em = c->priv->embeddings = xcalloc(1, sizeof *em);
    em->model = (*m)->card->id;
    em->n_dims = (*m)->card->n_embd;
    c->job = job_new(api_arena_bytes(c->priv->api));
    if (c->job == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the request");
    c->job->kind = JOB_EMBED;
    return 0;
}

static int submit(struct api_call *c, struct err *e)
{
    struct embeddings *em = c->priv->embeddings;
    em->n_texts = c->job->embed.n_texts;
    em->vectors = mem_try((size_t)em->n_texts * (size_t)em->n_dims, sizeof *em->vectors);
    if (em->vectors == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the answer");
    c->n_choices = em->n_texts;
    return replicas_submit(c->priv->api->o.engine, c->job, e);
}

int embeddings_begin(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api_model *m = NULL;
    int rc = begin(c, body, &m, e);
    if (rc != 0 || (rc = read_options(c->priv->embeddings, body, m->card, e)) != 0 ||
        (rc = set_input(c, m->card, json_get(body, "input"), e)) != 0)
        return rc;
    return submit(c, e);
}

/* A document is a text, or {"text"}. */
static const struct cJSON *document_of(const struct cJSON *v)
{
    const struct cJSON *text = json_type(v) == JSON_OBJECT ? json_get(v, "text") : v;
    const char *s = json_str(text);
    return s != NULL && s[0] != '\0' ? text : NULL;
}

static int set_documents(struct api_call *c, const struct model_card *card,
                         const struct cJSON *body, bool give_back, struct err *e)
{
    const struct cJSON *query = json_get(body, "query"), *list = json_get(body, "documents");
    const int n = json_size(list);
    if (document_of(query) != query || query == NULL) {
        err_set(e, ERR_INVALID, "query must be a text, and not empty");
        return err_param(e, "query");
    }
    if (json_type(list) != JSON_ARRAY || n == 0 || n >= TEXTS_MAX) {
        err_set(e, ERR_INVALID, "documents must be a list of 1 to %d texts", TEXTS_MAX - 1);
        return err_param(e, "documents");
    }
    struct arena *arena = &c->job->arena;
    const struct cJSON **texts = arena_array(arena, (size_t)n + 1, sizeof *texts);
    const char **kept = arena_array(arena, (size_t)n, sizeof *kept);
    if (texts == NULL || kept == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    int i = 0;
    texts[0] = query;
    for (const struct cJSON *v = json_first(list); v != NULL; v = json_next(v), i++) {
        texts[i + 1] = document_of(v);
        if (texts[i + 1] == NULL) {
            err_set(e, ERR_INVALID, "a document must be a text, or have one, and not be empty");
            return err_param(e, "documents[%d]", i);
        }
        kept[i] = give_back ? arena_strdup(arena, json_str(texts[i + 1])) : "";
        if (kept[i] == NULL)
            return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    }
    c->priv->embeddings->documents = give_back ? kept : NULL;
    const int rc = set_texts(c, card, texts, n + 1, e);
    return rc != 0 ? err_param(e, "documents") : 0;
}

int embeddings_rerank_begin(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api_model *m = NULL;
    bool give_back = true;
    int64_t n_best = TEXTS_MAX;
    int rc = json_get_bool(body, "return_documents", &give_back, e);
    if (rc == 0)
        rc = json_get_int(body, "top_n", &n_best, 1, INT32_MAX, e);
    if (rc == 0)
        rc = begin(c, body, &m, e);
    if (rc == 0)
        rc = set_documents(c, m->card, body, give_back, e);
    if (rc != 0)
        return rc;
    struct embeddings *em = c->priv->embeddings;
    const int n = c->job->embed.n_texts - 1;
    em->rerank = true;
    em->n_best = n_best < n ? (int)n_best : n;
    return submit(c, e);
}

/* ---- The answer ---- */

/* The first numbers of a vector, of length 1 again where some were left out. */
static void keep_vector(struct embeddings *em, const struct event *ev)
{
    float *to = em->vectors + (size_t)ev->index * (size_t)em->n_dims;
    double length = 0;
    for (int i = 0; i < em->n_dims; i++)
        length += (double)ev->vector[i] * ev->vector[i];
    const double scale = em->n_dims < ev->n_vector && length > 0 ? 1 / sqrt(length) : 1;
    for (int i = 0; i < em->n_dims; i++)
        to[i] = (float)(ev->vector[i] * scale);
}

static void put_vector(struct json_writer *w, const struct embeddings *em, const float *v)
{
    if (em->base64) {
        struct buf text;
        buf_init(&text, 8 * sizeof *v * (size_t)em->n_dims + 64);
        base64_encode(&text, v, sizeof *v * (size_t)em->n_dims);
        json_put_strn(w, "embedding", buf_str(&text), text.len);
        buf_free(&text);
        return;
    }
    json_open(w, "embedding", '[');
    for (int i = 0; i < em->n_dims; i++)
        json_put_num(w, NULL, v[i]);
    json_close(w, ']');
}

static void put_usage(struct json_writer *w, int n_tokens)
{
    json_open(w, "usage", '{');
    json_put_int(w, "prompt_tokens", n_tokens);
    json_put_int(w, "total_tokens", n_tokens);
    json_close(w, '}');
}

static void put_answer(const struct embeddings *em, int n_tokens, struct buf *out)
{
    struct json_writer w;
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "object", "list");
    json_open(&w, "data", '[');
    for (int i = 0; i < em->n_texts; i++) {
        json_open(&w, NULL, '{');
        json_put_str(&w, "object", "embedding");
        json_put_int(&w, "index", i);
        put_vector(&w, em, em->vectors + (size_t)i * (size_t)em->n_dims);
        json_close(&w, '}');
    }
    json_close(&w, ']');
    json_put_str(&w, "model", em->model);
    put_usage(&w, n_tokens);
    json_close(&w, '}');
}

static double nearness(const struct embeddings *em, int document)
{
    const float *a = em->vectors, *b = a + (size_t)(document + 1) * (size_t)em->n_dims;
    double sum = 0;
    for (int i = 0; i < em->n_dims; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

struct place {
    int document;
    double score;
};

/* The nearest first; of those that are as near, the one that came first. */
static int by_score(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1) : x->document - y->document;
}

static int put_ranking(const struct embeddings *em, int n_tokens, struct buf *out, struct err *e)
{
    const int n = em->n_texts - 1;
    struct place *places = mem_try((size_t)n, sizeof *places);
    if (places == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the answer");
    for (int i = 0; i < n; i++)
        places[i] = (struct place){i, nearness(em, i)};
    qsort(places, (size_t)n, sizeof *places, by_score);
    char id[ANSWER_ID_MAX];
    struct json_writer w;
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "id", answer_id(id, "rerank"));
    json_put_str(&w, "object", "list");
    json_put_str(&w, "model", em->model);
    json_open(&w, "results", '[');
    for (int i = 0; i < em->n_best; i++) {
        json_open(&w, NULL, '{');
        json_put_int(&w, "index", places[i].document);
        json_put_num(&w, "relevance_score", places[i].score);
        if (em->documents != NULL) {
            json_open(&w, "document", '{');
            json_put_str(&w, "text", em->documents[places[i].document]);
            json_close(&w, '}');
        }
        json_close(&w, '}');
    }
    json_close(&w, ']');
    put_usage(&w, n_tokens);
    json_close(&w, '}');
    free(places);
    return 0;
}

int embeddings_event(struct embeddings *em, const struct event *ev, struct buf *out, struct err *e)
{
    int rc = 0;
    if (ev->kind == EV_VECTOR)
        keep_vector(em, ev);
    else if (ev->kind == EV_DONE && em->rerank)
        rc = put_ranking(em, ev->usage.prompt_tokens, out, e);
    else if (ev->kind == EV_DONE)
        put_answer(em, ev->usage.prompt_tokens, out);
    if (out->failed)
        return err_set(e, ERR_TOOBIG, "the answer is larger than this server allows");
    return rc;
}
