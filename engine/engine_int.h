/* The engine's own state, for the files that make it up:
 *
 *   engine.c            thread, queue, open and close
 *   engine_load.c       cache and schedule; engine_models.c: models come and go
 *   engine_text.c       text jobs; engine_choose.c: tokens that the device chooses
 *   engine_caption.c    what text jobs about a picture do besides; engine_beam.c: their beam searches
 *   engine_embed.c      embedding jobs
 *   engine_image.c      image jobs; engine_stages.c, engine_control.c, engine_upscale.c: what they do besides
 *   engine_adapter.c    LoRAs and embeddings by name
 *
 * Thread: engine, except where a field says otherwise. */
#ifndef ENGINE_ENGINE_INT_H
#define ENGINE_ENGINE_INT_H
#include <pthread.h>

#include "base/sysmem.h"
#include "engine/embed.h"
#include "engine/engine.h"
#include "engine/loader.h"
#include "engine/pipeline.h"
#include "engine/sample.h"
#include "engine/sched.h"
#include "engine/upscale.h"

enum {
    MODELS_MAX = 64,
    TRIM_AFTER_S = 30,     /* without work: free pages go back to the system */
    ENGINE_BEAM_ROWS = 16, /* rows of a step of a beam search */
    UNSENT_MS = 10,        /* between two looks at pictures that are not sent yet */
    UNIT_ALONE_MS = 80,    /* of image work: until somebody who comes is seen */
    UNIT_SHARED_MS = 40    /* when others wait */
};

/* clang-format off */
#define STATS(X) \
    X(heartbeat_us) X(jobs_waiting) X(sequences_running) X(sequences_max) X(prompt_tokens) \
    X(cached_tokens) X(generated_tokens) X(steps) X(steps_ahead) X(step_rows) X(draft_tokens) \
    X(draft_accepted) X(pages_total) X(pages_used) X(pages_cached) X(cache_bytes) X(prefix_queries) X(prefix_hits) X(preemptions) X(cancelled) \
    X(images_running) X(held_bytes) X(kept_bytes) X(image_steps) X(images) \
    X(images_flagged) X(models_loaded) X(weight_bytes) X(weight_budget_bytes)
/* clang-format on */

/* Of engine_choose.c; all NULL where the host chooses tokens. */
struct engine_choose {
    struct choose_row *rows;
    bool *host;
    int32_t *ids;                 /* what penalties look at */
    int32_t *there[CHOOSE_SLOTS]; /* tokens on the device */
    int32_t *here[CHOOSE_SLOTS];  /* and on the host */
    int slot;                     /* of the next step, or of the one ahead */
    int n_ahead;      /* rows of the step that is under way, ahead of the host; 0: there is none */
    int model;        /* whose it is */
    int64_t since_us; /* when it was launched */
    int64_t done_us;  /* when the one before was seen to be done */
    struct engine_ahead_part {
        struct seq *seq;
        uint64_t order; /* the sequence it was; another one may be there now */
    } * parts;
    int32_t *pos;
    struct kv_row *kv;
    struct sched_part *done;
};

struct adapter;      /* engine_adapter.c */
struct adapter_wait; /* a job that waits for one */
struct adapters {
    char *dir;             /* NULL: there are none */
    pthread_mutex_t mutex; /* of all that follows */
    struct adapter *first;
    struct adapter_wait *waits;
    uint64_t next_id;
    int32_t next_own_id; /* of learned tokens */
    size_t bytes;        /* held; the engine thread's */
};

struct loaded {
    char *id, *path, *tokenizer, *prediction; /* of struct engine_model */
    struct model *facts; /* card, tokenizer, shapes; any thread may read them.  Never computes */
    struct model *model; /* the same with weights; NULL: not loaded */
    atomic_int state;    /* enum engine_model_state */
    _Atomic int64_t n_loads;
    atomic_int progress;     /* per mille of a load */
    int64_t used_us;         /* clock_us of its last unit */
    struct cache_pool *pool; /* text models */
    struct sample *sample;
    struct grammar_vocab *vocab; /* of grammars; of text models, once loaded */
    struct task *looking;        /* caption models: whose picture is under way */
    struct pipeline pipeline;    /* image models */
    struct embed embed;          /* embedding models */
    struct upscale upscale;      /* super-resolution networks */
    struct sched_other other;    /* of the three */
    struct engine *engine;
};

struct engine {
    struct engine_options o; /* with defaults filled in; strings are ours */
    char *device, *preview;
    pthread_t thread;

    pthread_mutex_t submit_mutex; /* inbox, closing, waiting counts */
    pthread_cond_t submit_cond;
    struct task *inbox, **inbox_tail;
    bool closing;             /* nothing is accepted any more */
    bool adapters_due;        /* engine_adapter_turn has something to do */
    int n_waiting;            /* jobs of which no choice was admitted */
    int64_t n_waiting_tokens; /* of prompts of which no choice was admitted */

    struct adapters adapters;
    atomic_int state;
    atomic_int preloading; /* the model that is loaded before the state is ENGINE_READY, or -1 */
    struct err failure;    /* written before state becomes ENGINE_FAILED */
    struct {
#define X(name) _Atomic int64_t name;
        STATS(X)
#undef X
    } stats;

    /* The engine thread's own. */
    struct unsent *unsent;
    struct backend *backend, *dry; /* dry: the facts' */
    struct loader loader;
    int loading;                        /* the loader's model, or -1 */
    int64_t load_us;                    /* since when */
    size_t weight_budget, weight_bytes; /* of loaded models, and of the one that is being loaded */
    struct loaded models[MODELS_MAX];
    struct sched_model sched_models[MODELS_MAX];
    struct cache *cache;
    struct sched sched;
    size_t page_bytes; /* of the first text model, for the counts of pages */
    struct engine_choose choose;
    float *logits; /* [max logits, largest n_vocab] */
    bool dirty;    /* events went out since the last wake */
};

#define STAT_ADD(g, name, v) atomic_fetch_add_explicit(&(g)->stats.name, (v), memory_order_relaxed)
#define STAT_SET(g, name, v) atomic_store_explicit(&(g)->stats.name, (v), memory_order_relaxed)
#define STAT_GET(g, name)    atomic_load_explicit(&(g)->stats.name, memory_order_relaxed)

/* engine.c */
/* The model of this id, or the first one of the kind when id is NULL or ""; else an error. */
int engine_find(const struct engine *g, enum model_kind kind, const char *id, struct err *e);
/* Any thread.  Appends to the queue with a reference to the job, or says why not. */
int engine_enqueue(struct engine *g, struct task *t, int64_t n_tokens, struct err *e);
/* What waits changed by these. */
void engine_count_waiting(struct engine *g, int jobs, int64_t tokens);

static inline const struct model_card *engine_facts(const struct engine *g, int model)
{
    return model_card(g->models[model].facts);
}
/* Of the device's memory. */
static inline size_t engine_free_bytes(const struct engine *g)
{
    return g->backend->free_bytes ? g->backend->free_bytes(g->backend) : sysmem_free("");
}
/* Its jobs are sequences with pages. */
static inline bool engine_has_pages(const struct model_card *card)
{
    return card->kind == MODEL_TEXT || card->kind == MODEL_CAPTION;
}
/* The task is over, whatever its kind; *e says why. */
void engine_fail_task(struct engine *g, struct task *t, const struct err *e);

/* engine_models.c */
int engine_models_describe(struct engine *g, struct err *e); /* facts of all */
int engine_models_preload(struct engine *g, struct err *e);
/* Begins and ends loads, makes room for them, and lends the device to the one that goes on until then.  1: there
 * may be more to do at once; 0: there is not; < 0: the device has failed. */
int engine_models_turn(struct engine *g, int64_t until_us, struct err *e);
void engine_models_close(struct engine *g);

/* engine_load.c */
int engine_load(struct engine *g, struct err *e);
void engine_load_undo(struct engine *g);

/* engine_text.c */
int engine_text_submit(struct engine *g, struct job *j, struct err *e); /* any thread */
void engine_text_begin(struct engine *g, struct seq *q);                /* just admitted */
/* The task ends with an error: its sequences and their pages are free at once. */
void engine_text_fail(struct engine *g, struct task *t, const struct err *e);
void engine_text_finish(struct engine *g, struct seq *q, enum finish how, const char *stop);
/* The plan's step.  An error is the device's. */
int engine_text_run(struct engine *g, const struct sched_plan *p, struct err *e);

/* The next token of a sequence, chosen by the device; -1: there is none.  The sequence may be gone afterwards. */
void engine_text_take(struct engine *g, struct seq *q, int32_t id);

/* engine_choose.c */
int engine_choose_open(struct engine *g, const struct sched_options *o, struct err *e);
void engine_choose_close(struct engine *g);
/* What the device is to choose in a step; false: nothing. */
bool engine_choose_fill(struct engine *g, const struct sched_plan *p, struct text_choose *out);
/* After the step was queued: launches the next one too, if it can be. */
int engine_choose_ahead(struct engine *g, const struct sched_plan *p, struct err *e);
int engine_choose_wait(struct engine *g, const struct text_choose *t, int n_logits, struct err *e);
/* The step that is under way is the next unit: its tokens, and perhaps the step after it. */
int engine_choose_turn(struct engine *g, struct err *e);

/* engine_caption.c: what caption jobs have besides a text job's */
/* Checks a spec against the card, and gives t its look. */
int engine_caption_check(struct engine *g, struct task *t, struct err *e); /* any thread */
/* No choice of t runs any more: what was seen of its picture goes. */
void engine_caption_drop(struct engine *g, struct task *t);
/* A piece of the plan's look.  An error is the device's. */
int engine_caption_run(struct engine *g, const struct sched_plan *p, struct err *e);
/* Bytes that what is seen of a picture takes at most, besides pages. */
size_t engine_caption_bytes(const struct engine *g, int model);

/* engine_beam.c: a beam search goes on until then.  An error is the device's. */
int engine_beam_run(struct engine *g, struct task *t, int64_t until_us, struct err *e);

/* engine_image.c */
int engine_image_submit(struct engine *g, struct job *j, struct err *e); /* any thread */
void engine_image_open(struct engine *g, int model); /* its pipeline, when it is loaded */
/* Bytes that one picture of the model's own size needs; 0 when that cannot be said. */
size_t engine_image_need(struct engine *g, int model);
int64_t engine_image_due(const struct engine *g, const struct task *t); /* its place in the queue */
void engine_image_begin(struct engine *g, struct task *t);              /* just out of the queue */
void engine_image_fail(struct engine *g, struct task *t, const struct err *e);
/* A piece of the plan's model's work.  An error is the device's. */
int engine_image_run(struct engine *g, const struct sched_plan *p, struct err *e);
/* A running task, or one that was cancelled; NULL when there is none. */
struct task *engine_image_first(const struct engine *g, bool cancelled);

/* The task is over: with an error if why has one. */
void engine_image_ended(struct engine *g, struct task *t, const struct err *why);

/* engine_stages.c */
/* What the job of t->image does besides its first stage. */
int engine_stages_add(struct engine *g, struct task *t, struct err *e); /* any thread */
/* The stage is run by this model. */
void engine_stages_own(struct engine *g, struct stage *s, int model);

/* engine_upscale.c */
int engine_upscale_submit(struct engine *g, struct job *j, struct err *e); /* any thread */
void engine_upscale_open(struct engine *g, int model);
/* Bytes that a picture of medium size needs; 0 when that cannot be said. */
size_t engine_upscale_need(const struct engine *g, int model);
int engine_upscale_run(struct engine *g, const struct sched_plan *p, struct err *e);

/* engine_control.c: what image jobs have besides */
/* Finds the models of its controls; any thread. */
int engine_control_find(struct engine *g, struct task *t, struct err *e);
/* They are loaded now and stay while it runs. */
void engine_control_ready(struct engine *g, struct task *t);
/* Nothing of the model's weights is in use any more by anybody. */
void engine_control_forget(struct engine *g, int model);

/* engine_adapter.c */
void engine_adapter_init(struct engine *g, const char *dir);
void engine_adapter_fini(struct engine *g);
int engine_adapter_submit(struct engine *g, struct job *j, struct err *e); /* any thread */
/* Any thread: the adapters that the task's request names, those of its model that prompts may name, and
 * job->image.words.  engine_adapter_leave gives them back. */
int engine_adapter_use(struct engine *g, struct task *t, struct err *e);
void engine_adapter_leave(struct engine *g, struct task *t);
/* At the start: embeddings that lie in the directory become known to the models that they fit. */
void engine_adapter_look_round(struct engine *g);
/* Any thread, once its prompts are known: learned tokens that they do not have are given back. */
void engine_adapter_trim(struct engine *g, struct task *t);
/* Before the task is placed, its model is loaded: so are its adapters now, or t->refused says why not. */
void engine_adapter_ready(struct engine *g, struct task *t);
/* Checks what is new, frees what nobody uses. */
void engine_adapter_turn(struct engine *g);
void engine_adapter_fail(struct engine *g, const struct err *e); /* all that wait */
/* The model goes: so do their weights, until it is back. */
void engine_adapter_away(struct engine *g, int model);
void engine_adapter_close(struct engine *g); /* frees all; no task is left */

/* engine_embed.c */
int engine_embed_submit(struct engine *g, struct job *j, struct err *e); /* any thread */
int engine_embed_open(struct engine *g, int model, struct err *e);
void engine_embed_begin(struct engine *g, struct task *t); /* just out of the queue */
void engine_embed_fail(struct engine *g, struct task *t, const struct err *e);
/* A batch of the plan's model.  An error is the device's. */
int engine_embed_run(struct engine *g, const struct sched_plan *p, struct err *e);
/* A running task, or one that was cancelled; NULL when there is none. */
struct task *engine_embed_first(const struct engine *g, bool cancelled);
#endif
