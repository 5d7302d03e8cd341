/* What the files of api/ share and nobody else sees.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_CALL_H
#define API_CALL_H
#include <stdatomic.h>

#include "api/answer.h"
#include "api/api.h"
#include "api/images_out.h"
#include "api/params.h"
#include "api/render.h"
#include "base/json.h"
#include "engine/noise.h"
#include "engine/text/tokenizer.h"

struct template;
struct responses_store;

struct api_model {
    const struct model_card *card;
    struct template *tmpl; /* NULL when it did not compile: then tmpl_err says why */
    struct err tmpl_err;
};

enum { API_OWNERS_MAX = 1025 }; /* keys, and 0 for nobody in particular */

struct api {
    struct api_options o;
    struct json_limits limits;
    struct step_cache_spec step_cache; /* of requests that name none */
    struct api_model *models;
    int n_models;
    atomic_bool ready; /* models may be read */
    char fingerprint[40];
    struct jobs *jobs; /* loop's */
    struct responses_store *responses;
    /* /sdapi/v1, for each key: the chosen model + 1 and clip skip, 0 for none; its running calls (the loop's) */
    atomic_int sd_model[API_OWNERS_MAX], sd_clip[API_OWNERS_MAX];
    struct api_call *sd_calls;
};

struct api_call_private {
    struct api *api;
    struct render *render;             /* text jobs, else NULL */
    const struct api_dialect *dialect; /* of answer, instead of render; NULL: none */
    void *answer;
    struct images_out *images;      /* image jobs, else NULL */
    struct embeddings *embeddings;  /* embedding jobs, else NULL */
    struct adapter_answer *adapter; /* an adapter that is being loaded, else NULL */
    size_t max_out;                 /* of a stream's backlog */
    bool at_work, ended;            /* a worker has it; api_end was called meanwhile */
    int owner;
    struct sdapi_call *sd; /* calls of /sdapi/v1, else NULL */
    bool sdapi, anthropic; /* errors are told as there too */
    enum safety_action safety;
    bool filter_flags; /* what the text filter finds is only told */
    /* For pictures that have to be fetched; until when, and whether they are still wanted. */
    bool may_wait;
    int64_t fetch_until_us;
    const atomic_bool *gone;
    char *request_id; /* for log lines */
    struct err err;   /* what error_reason points into */
    int64_t begin_us;
    bool first_text; /* ttft_us is known */
};

/* The model that the request names, which is the call's from now on; absent, null or "" is the
 * first of that kind. */
int api_find_model(struct api_call *c, const struct cJSON *body, enum model_kind kind,
                   const struct api_model **m, struct err *e);
/* A call without an answer yet. */
struct api_call *api_call_new(struct api *a);
/* Answers with an error: an HTTP error when nothing was promised yet, else inside the stream. */
void api_fail(struct api_call *c, const struct err *e);
/* The fields that chat and completions share, into *p and the job's spec. */
int api_params(struct api_call *c, const struct api_model *m, const struct cJSON *body,
               unsigned where, struct params *p, struct err *e);
/* source (NULL: ChatML) with the model's bos and eos as its variables. */
int api_open_template(const struct model_card *card, const char *source, struct template **out,
                      struct err *e);
/* 404 model_not_found, with the names that there are. */
int api_unknown_model(const struct api *a, const char *id, struct err *e);
/* Memory for a job's spec: enough for whatever a body of the allowed size can ask for. */
size_t api_arena_bytes(const struct api *a);
/* Hands c->job to the engine and makes the renderer; what chat and completions end with. */
int api_start(struct api_call *c, const struct api_model *m, const struct params *p,
              struct render_options *ro, struct err *e);

/* The handlers.  0: the call is answered (out holds the body) or c->job runs; else *e. */
int chat_begin(struct api_call *c, const struct cJSON *body, struct err *e);
int embeddings_begin(struct api_call *c, const struct cJSON *body, struct err *e);
int embeddings_rerank_begin(struct api_call *c, const struct cJSON *body, struct err *e);
/* Takes a vector; the last event writes the answer. */
int embeddings_event(struct embeddings *em, const struct event *ev, struct buf *out, struct err *e);
void embeddings_close(struct embeddings *em); /* NULL is allowed */
int adapters_get_list(struct api_call *c, struct err *e);
int adapters_get(struct api_call *c, const char *path, struct err *e);
int adapters_delete(struct api_call *c, const char *path, struct err *e);
int adapters_load_begin(struct api_call *c, const struct cJSON *body, struct err *e);
int adapters_unload_begin(struct api_call *c, const struct cJSON *body, struct err *e);
/* The last event writes the answer. */
int adapters_event(struct api_call *c, const struct event *ev, struct err *e);
void adapters_close(struct adapter_answer *a); /* NULL is allowed */
int captions_begin(struct api_call *c, const struct cJSON *body, struct err *e);
/* A chat with a picture, or with a caption model. */
int captions_chat(struct api_call *c, const struct cJSON *body, struct err *e);
bool captions_is_chat(const struct api *a, const struct cJSON *body);
int completions_begin(struct api_call *c, const struct cJSON *body, struct err *e);
int messages_begin(struct api_call *c, const struct cJSON *body, struct err *e);
int messages_count(struct api_call *c, const struct cJSON *body, struct err *e);
int responses_begin(struct api_call *c, const struct cJSON *body, struct err *e);
int responses_count(struct api_call *c, const struct cJSON *body, struct err *e);
int responses_get(struct api_call *c, const char *path, struct err *e);
int responses_delete(struct api_call *c, const char *path, struct err *e);
int models_list(struct api_call *c, struct err *e);
int models_one(struct api_call *c, const char *path, struct err *e);
int models_props(struct api_call *c, struct err *e);
int tokenize_begin(struct api_call *c, const struct cJSON *body, struct err *e);
int tokenize_detokenize(struct api_call *c, const struct cJSON *body, struct err *e);
int tokenize_apply_template(struct api_call *c, const struct cJSON *body, struct err *e);
/* where: PARAM_GENERATE, PARAM_EDIT, PARAM_VARY or PARAM_UPSCALE. */
int images_begin(struct api_call *c, const struct cJSON *body, unsigned where, struct err *e);
int images_begin_form(struct api_call *c, const struct api_request *rq, unsigned where,
                      struct err *e);
/* The webui's name of the scheduler that the call's pictures are made with. */
void images_sampler_label(const struct api_call *c, char out[NOISE_NAME_MAX]);
/* One log line for a picture that a safety checker has looked at. */
void images_audit(const struct api_call *c, const struct event *ev);
/* images/upscale: its model; when its picture is read, the size of the answer; and a network's job. */
struct image;
int upscale_find(struct api_call *c, const struct cJSON *body, const struct api_model **m,
                 struct err *e);
int upscale_size(const struct api_call *c, const struct model_card *card, const struct image *from,
                 const struct image_params *p, int size[2], struct err *e);
int upscale_begin(struct api_call *c, const struct model_card *card, const struct image *from,
                  const struct image_params *p, struct err *e);
int jobs_list(struct api_call *c, struct err *e);
int jobs_one(struct api_call *c, const char *path, struct err *e);
int jobs_delete(struct api_call *c, const char *path, struct err *e);
struct jobs *jobs_open(const struct api_options *o);
void jobs_close(struct jobs *j);
int openapi_write(const struct api *a, struct buf *out, struct err *e);

/* Messages, tools and template options of body -> the text that the model reads. */
int chat_prompt(const struct api *a, const struct api_model *m, const struct cJSON *body,
                struct buf *out, struct err *e);
/* That text -> ids (from malloc), with the model's BOS in front if it wants one and the text has
 * none.  ERR_TOOBIG beyond max_ids. */
int chat_tokens(const struct api_model *m, const struct buf *text, size_t max_ids, int32_t **ids,
                size_t *n_ids, struct err *e);
/* The tokens of the prompt of body; SIZE_MAX when it has more than a prompt may. */
int chat_count(const struct api *a, const struct api_model *m, const struct cJSON *body, size_t *n,
               struct err *e);
/* The answer when a prompt does not fit; n_prompt 0: more than can be told. */
int api_context_error(const struct model_card *card, size_t n_prompt, const char *param,
                      struct err *e);
/* Ids that may come out of one prompt before it is refused unread. */
size_t api_max_ids(const struct model_card *card);

const char *error_code_word(const struct err *e, int status);
/* msg without addresses and absolute paths. */
void error_scrub(char *out, size_t size, const char *msg);
#endif
