/* The engine: one thread that owns the backend, the models, the cache and the schedule.
 * Thread: any for what is declared here, unless said otherwise. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H
#include "engine/job.h"
#include "engine/model.h"

struct engine;

/* Which models are in memory before the engine is ready; the others when they are first asked for. */
enum engine_preload { PRELOAD_ALL, PRELOAD_CHAT, PRELOAD_NONE };

struct engine_options {
    const char *device;  /* backend_open's name, "cpu" */
    int tensor_parallel; /* replicas_open: devices of the list for each engine; 0: 1 */
    int n_threads;       /* 0: one for each core */
    int n_models;
    const struct engine_model {
        const char *id, *path;
        const char *tokenizer, *prediction; /* of image models (engine/checkpoint.h); or NULL */
    } * models;
    int n_ctx;           /* per sequence; 0: as trained */
    size_t cache_bytes;  /* of KV pages, latents ...; 0: a quarter of what the weights leave free */
    size_t weight_bytes; /* of loaded models; 0: 7/8 of what is free */
    enum engine_preload preload; /* PRELOAD_CHAT: the first text model, or the first one of all */
    enum dtype kv_type;
    bool graphs;            /* struct backend */
    enum dtype activations; /* the same, where the device can; the CPU has f32 */
    int blas_rows;       /* of products for the vendor's library (struct backend's blas); 0: none */
    int max_sequences;   /* running at once ("slots") */
    int max_queued_jobs; /* waiting; more are refused with ERR_BUSY */
    int max_queued_tokens; /* prompt tokens waiting; more are refused with ERR_BUSY */
    /* Prompt rows that a step takes at most when others decode.  0: on a CPU 128, or fewer where those took more
     * than 150 ms; on a GPU as many as fit. */
    int prefill_chunk;
    int max_batch_rows;
    int draft_tokens; /* guessed tokens of a sequence in a step at most (draft.h); 0: none */
    bool prefix_sharing;
    size_t grammar_bytes; /* of what is remembered of grammars, for each text model; 0: 64 MiB */
    int max_images;       /* pictures of several requests that are made at once */
    int image_rows;       /* rows of a UNet's pass at most; a picture with guidance has two */
    double image_weight;  /* an image model's share of the device beside a text model's 1 */
    size_t vae_bytes;     /* of a pass of the image decoder; more goes in tiles.  0: 1 GiB */
    const char *preview;  /* TAESD checkpoint for previews, or NULL */
    enum safety_load safety;
    const char *lora_dir; /* adapters (engine/adapters.h), or NULL */
    int max_loras;        /* loaded at once; 0: 64 */
    size_t lora_bytes;    /* of the cache's budget for them; 0: half of it */
    /* Called from the engine thread when a job got an event or the state changed; must only
     * wake the other side (uv_async_send). */
    void (*wake)(void *ctx);
    void *wake_ctx;
    const struct engine_peers *peers; /* must live as long; NULL: there are none */
};

/* Engines beside this one that may have its jobs (engine/replicas.h).  Called from the engine thread.  true: somebody
 * else has the job now, with a reference of its own, and will end it. */
struct engine_peers {
    /* A job that this engine had not begun when its device failed. */
    bool (*rescue)(const struct engine_peers *p, struct job *j);
    /* A job whose adapter is loaded here (why->code 0) or is not.  When false, why is how the job ends. */
    bool (*loaded)(const struct engine_peers *p, struct job *j, struct err *why);
};

enum engine_state { ENGINE_LOADING, ENGINE_READY, ENGINE_FAILED, ENGINE_STOPPED };

/* Starts the thread and returns at once.  On it every model's files are read as far as says what it is, and
 * those that the options say are loaded. */
int engine_open(struct engine **out, const struct engine_options *o, struct err *e);
/* Cancels what runs, joins the thread, frees all.  Every job gets its EV_ERROR first. */
void engine_close(struct engine *g);

enum engine_state engine_state(const struct engine *g);
/* Why the state is ENGINE_FAILED (a file that does not load, a dead device). */
void engine_failure(const struct engine *g, struct err *e);
int engine_progress(const struct engine *g);       /* per mille of loading */
const char *engine_device(const struct engine *g); /* "cpu/avx512vnni", "" while loading */

/* Cards of all models, loaded or not; stable once ENGINE_READY until engine_close. */
int engine_n_models(const struct engine *g);
const struct model_card *engine_card_at(const struct engine *g, int i);
/* By id; NULL or "" gives the first one of that kind.  NULL, with the reason in *e (which may be
 * NULL), when there is none, or when the one of that id makes something else. */
const struct model_card *engine_card(const struct engine *g, enum model_kind kind, const char *id,
                                     struct err *e);

/* A model is loaded when a job waits for it (jobs of others go on meanwhile), and goes when another one needs its
 * memory and no job of its own runs: first the one that was not used for longest. */
enum engine_model_state { ENGINE_MODEL_UNLOADED, ENGINE_MODEL_LOADING, ENGINE_MODEL_LOADED };
enum engine_model_state engine_model_state(const struct engine *g, int i);
int64_t engine_model_loads(const struct engine *g, int i); /* how often it was loaded */

/* Hands the job over (takes a reference of its own).  ERR_BUSY when the queue is full,
 * ERR_UNAVAILABLE while loading or stopping, ERR_NOTFOUND for the model, ERR_TOOBIG (reason
 * context_length_exceeded) when a prompt can never fit, ERR_INVALID (memory_exceeded) when the model cannot. */
int engine_submit(struct engine *g, struct job *j, struct err *e);

/* A snapshot without locks: every field is an atomic that the engine thread keeps. */
struct engine_stats {
    int64_t heartbeat_us; /* clock_us of the last step or idle turn */
    int jobs_waiting, sequences_running, sequences_max;
    int64_t prompt_tokens, cached_tokens, generated_tokens;
    int64_t steps, step_rows;
    int64_t steps_ahead; /* queued before the tokens of the one before were known */
    int64_t draft_tokens, draft_accepted; /* rows for guessed tokens; those that were right */
    int64_t pages_total, pages_used, pages_cached; /* used: held by running sequences */
    int64_t cache_bytes;
    int64_t held_bytes, kept_bytes;      /* of images: in use; kept for the next */
    int64_t prefix_queries, prefix_hits; /* prompt tokens asked for, found */
    int64_t preemptions, cancelled;
    int images_running;          /* pictures */
    int64_t image_steps, images; /* calls of the UNet for a picture, pictures made */
    int64_t models_loaded, weight_bytes, weight_budget_bytes;
    int64_t images_flagged; /* of them by a safety checker */
};
void engine_stats(const struct engine *g, struct engine_stats *s);
#endif
