/* OpenAI's words <-> jobs.  Functions on bytes: no sockets here, and nothing of HTTP but methods, paths
 * and status codes.
 *
 * The life of a request (server/http.c drives it):
 *   route = api_route(method, path)              loop     404 / 405 come from here
 *   api_begin(api, request)                      loop, or a worker when the body is large
 *     -> answered at once (call->state == API_DONE), or a job was submitted (API_RUNNING)
 *     -> call->fetch: pictures are to be fetched first; api_end, and api_begin on a thread that may wait
 *   api_adopt(api, call)                         loop: a call that asked to be a job of its own goes to
 *                                                the table of jobs, and what is answered is its id
 *   api_pump(call, until)                        loop, after each wake: takes the job's events
 *     -> call->out grows; headers may go out once call->status is set
 *     -> call->work: api_work(call) must run on a worker, then api_worked(call) on the loop
 *   api_end(call)                                loop; cancels the job if it still runs
 */
#ifndef API_API_H
#define API_API_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/replicas.h"

struct api;
struct fetch; /* base/fetch.h */

/* Limits and defaults, from the configuration table. */
struct api_options {
    size_t max_body_bytes; /* of a JSON request */
    int max_json_depth, max_json_nodes;
    int max_choices;    /* n times prompts of one request */
    int max_prompts;    /* prompts of one completions request */
    int max_stop_bytes; /* length of one stop string */
    int max_messages;
    size_t max_grammar_bytes; /* of a regular expression or a GBNF grammar */
    int default_max_tokens;   /* when a request names none; 0: what the context leaves */
    size_t max_answer_bytes;  /* of a response that is not streamed, and of a stream's backlog */
    bool strict;              /* unknown request fields are an error instead of ignored */
    bool reasoning;           /* what models think is told apart, unless a request says how */
    bool client_templates;    /* requests may bring chat_template (off) */
    size_t max_image_bytes;   /* of an uploaded picture's file */
    int64_t max_image_pixels; /* of an uploaded picture, and of all pictures of a request */
    int max_images;           /* n of a request */
    int max_controls;         /* ControlNets and T2I-Adapters of a request */
    const char *step_cache;   /* of requests for pictures that name none; NULL: off */
    int max_jobs;             /* running and finished ones that are kept */
    size_t max_jobs_bytes;    /* of the answers that are kept */
    int64_t job_ttl_s;        /* a finished job is kept so long */
    int max_responses;        /* that are kept; 0: none */
    size_t max_responses_bytes;
    int64_t response_ttl_s;
    const struct fetch *fetch;   /* gets pictures by URL; NULL: they are refused */
    int64_t fetch_timeout_us;    /* for all pictures of a request */
    const struct filter *filter; /* of texts; NULL: none.  It outlives the engine */
    const char *version;
    struct replicas *engine;
};
int api_open(struct api **out, const struct api_options *o, struct err *e);
void api_close(struct api *a);
/* Compiles the chat templates of the loaded models; call once when the engine is ready, on the loop.
 * A template that does not parse is logged and makes that model's chat answer an error. */
void api_models_ready(struct api *a);
bool api_is_ready(const struct api *a);

enum api_handler_id {
    API_SERVER, /* answered by server/ itself: health, metrics ... */
    API_CHAT,
    API_COMPLETIONS,
    API_MESSAGES,
    API_MESSAGES_COUNT,
    API_RESPONSES,
    API_RESPONSES_COUNT,
    API_RESPONSE,
    API_RESPONSE_DELETE,
    API_MODELS,
    API_MODEL,
    API_TOKENIZE,
    API_DETOKENIZE,
    API_APPLY_TEMPLATE,
    API_OPENAPI,
    API_PROPS,
    API_CAPTIONS,
    API_EMBEDDINGS,
    API_RERANK,
    API_MODERATIONS,
    API_IMAGES_GENERATE,
    API_IMAGES_EDIT,
    API_IMAGES_VARY,
    API_UPSCALE,
    API_ADAPTERS,
    API_ADAPTER,
    API_ADAPTER_LOAD,
    API_ADAPTER_DELETE,
    API_ADAPTER_UNLOAD,
    API_JOBS,
    API_JOB,
    API_JOB_DELETE,
    /* /sdapi/v1, api/sdapi.h */
    API_SD_TXT2IMG,
    API_SD_IMG2IMG,
    API_SD_PNG_INFO,
    API_SD_EXTRA,
    API_SD_SET_OPTIONS,
    API_SD_OPTIONS,
    API_SD_PROGRESS,
    API_SD_INTERRUPT,
    API_SD_SKIP,
    API_SD_REFRESH,
    API_SD_SAMPLERS,
    API_SD_SCHEDULERS,
    API_SD_MODELS,
    API_SD_UPSCALERS,
    API_SD_LORAS,
    API_SD_EMBEDDINGS,
    API_SD_LATENT_MODES,
    API_SD_MEMORY,
    API_SD_SCRIPTS,
    API_SD_FLAGS,
    API_SD_NONE, /* a list of what there is none of */
};

enum {
    ROUTE_PUBLIC = 1,     /* needs no API key */
    ROUTE_LOADING_OK = 2, /* answers while loading */
    ROUTE_UPLOAD = 4,     /* takes files: a larger body, and always a worker */
    ROUTE_ADMIN = 16,     /* changes what everybody gets: an admin's, where there are admin keys */
    ROUTE_PICTURE = 8, /* JSON that may hold a picture, where a model takes them: a larger body */
};

/* One table (api/routes.c) makes the dispatch, the 405s, /openapi.json and docs/API.md's check. */
struct api_route {
    const char *method; /* "GET" (HEAD is answered too), "POST", "DELETE" */
    const char *path;   /* "/v1/models/{model}": {x} matches the rest of the path */
    enum api_handler_id id;
    unsigned flags;
    const char *summary;
};
extern const struct api_route api_routes[];
extern const int api_n_routes;
/* The route, or NULL with ERR_NOTFOUND; *allow gets the methods of the path ("GET, POST") when
 * only the method is wrong (then status 405).  A trailing "/" is ignored, a missing "/v1" allowed. */
const struct api_route *api_route(const char *method, const char *path, const char **allow,
                                  struct err *e);

/* Bytes that a body for this route has at most; known for certain once the models are. */
size_t api_body_max(const struct api *a, const struct api_route *r);

struct api_request {
    const struct api_route *route;
    const char *path; /* decoded, no query */
    const char *body; /* borrowed until api_begin returns */
    size_t body_len;
    const char *content_type; /* NULL: none */
    const char *request_id;
    bool may_wait;             /* for the network: this is a thread for that */
    const atomic_bool *gone;   /* true: the client has left; may be NULL */
    int owner;                 /* which API key; jobs belong to it */
    enum safety_action safety; /* that key's */
    bool filter_flags;         /* also: what the text filter finds is only told */
};

enum api_state {
    API_RUNNING, /* a job works; pump after wakes */
    API_DONE,    /* status and out are complete */
};

/* One request being answered.  The server reads the fields; only api/ writes them, except that the
 * server drops what it has sent from out (buf_drop). */
struct api_call {
    enum api_state state;
    bool stream;     /* the answer is text/event-stream, written as it comes */
    int status;      /* 0 until it is known; then final */
    bool more;       /* events may be left: pump again */
    bool work;       /* api_work wants a worker; pumping goes on after api_worked */
    bool background; /* it is to outlive its request: api_adopt */
    /* Nothing was begun: a picture has to be fetched.  api_begin again, with may_wait. */
    bool fetch;
    const char *content_type;
    int retry_after_s; /* > 0: send Retry-After */
    struct buf out;    /* what is to be sent */
    struct job *job;   /* NULL when none was needed */
    /* for the log line and metrics; complete when state is API_DONE */
    const char *model, *finish, *error_reason;
    int prompt_tokens, cached_tokens, completion_tokens, n_choices;
    int n_flagged; /* prompts and answers in which the text filter found something */
    int64_t queue_us, prefill_us, decode_us, ttft_us;
    struct api_call_private *priv;
};

/* Never fails: an error is an answer (API_DONE with its status and OpenAI error body). */
struct api_call *api_begin(struct api *a, const struct api_request *rq);
/* Takes the job's events, one at least, until there are none or the time has come: then more is true.
 * The result is true when out, status or state changed. */
bool api_pump(struct api_call *c, int64_t until_us);
/* The part that would hold up the loop: pictures to files.  Set work to false, then run it on a worker;
 * meanwhile only api_pump (which does nothing) and api_end may be called. */
void api_work(struct api_call *c);
/* Back on the loop.  The call may be gone afterwards, when it was ended meanwhile. */
void api_worked(struct api_call *c);
/* Frees the call, as soon as no worker has it.  A job that still runs is cancelled. */
void api_end(struct api_call *c);

/* Jobs without a connection (api/jobs.c); loop. */
struct api_call *api_adopt(struct api *a, struct api_call *c, int owner);
/* Pumps them all; start gets those that want a worker.  True when the time is over before all had
 * their turn. */
bool api_jobs_pump(struct api *a, int64_t until_us, void (*start)(void *ctx, struct api_call *c),
                   void *ctx);
/* Forgets what is too old, responses too; about once a second. */
void api_jobs_expire(struct api *a);
void api_jobs_cancel(struct api *a);

/* An error body on its own, for what never becomes a call: 401, 404, 405, 408, 413, 431 ...
 * OpenAI's {"error":{"message","type","param","code"}}, all four keys always. */
void api_error_body(struct buf *out, int status, const struct err *e);
/* The status of an error code: the one table. */
int api_error_status(const struct err *e);
#endif
