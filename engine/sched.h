/* What runs next: admission of waiting jobs, and which rows go into the next forward pass.
 * Thread: engine.
 *
 * Admission.  Waiting jobs take turns: the first job in the queue gets one sequence admitted and, if
 * it has more choices, goes to the end.  So a job of 128 choices cannot keep a single question
 * waiting, and nobody is overtaken for ever.  When the first job does not fit into the cache
 * budget, jobs behind it that do fit may pass, but at most SCHED_BYPASS_MAX sequences: then all
 * wait until enough has ended for it.  Admission is exact (cache.h): what runs is never preempted.
 * Jobs of a model that is closed keep their place and hold up nobody.  Those of an image model
 * stand in the order of when they are due (turns.h).
 *
 * Units.  What the device does next is one unit: a step of a text model, or a piece of an image
 * model's work, which that model cuts itself (pipeline.h).  The model with the least device time so
 * far, divided by its weight, goes first (a model that was idle starts level with the others), so
 * that models share the device by measured cost.  All image models that have work share what one
 * of them would get, and between the units of two of them a text model that has work gets a step.
 *
 * A step.  Every running sequence of the model gets its one row; prompt rows fill what is left: up to
 * max_rows when nobody decodes, else up to prefill_chunk or what takes chunk_us, which bounds the time
 * between two tokens of those who do.  Half of the prompt rows go to the oldest prompt, the others to
 * the prompts that need the fewest to be done, one after the other.  So a long prompt neither holds up
 * short ones nor is held up by them, and of many that came together some begin to answer while the
 * others are computed.
 *
 * Drafts (draft.h).  In a step without prompt rows a decoding sequence may have rows for tokens that are
 * only guessed; they count as computed when sched_accept says so.
 *
 * Pictures.  A caption model looks at a job's picture, in pieces, before the job's sequences have rows.
 * Where others of the model have rows, pieces and steps take turns.
 *
 * Sharing.  Full pages go into the prefix tree the moment they are computed.  A prompt at a page
 * border takes the next page from the tree if it is there, and if another sequence is just
 * computing that very page it waits for it.  So n choices of a prompt, or many clients with one
 * system prompt that arrive together, compute it once; the rest of the prompt after its last full
 * page each one computes itself. */
#ifndef ENGINE_SCHED_H
#define ENGINE_SCHED_H
#include "engine/model.h"
#include "engine/task.h"

#define SCHED_BYPASS_MAX 64
/* Logit rows for echo_logprobs and drafts, besides one for each sequence. */
#define SCHED_MORE_LOGITS 16

/* A model whose jobs are no sequences of tokens. */
struct sched_other {
    void *ctx;
    /* Takes a waiting job in, and then it is out of the queue.  1: done; 0: its memory does not fit
     * now; -1: it waits for others of its kind, and holds up nobody. */
    int (*place)(void *ctx, struct task *t);
    bool (*has_work)(void *ctx);
};

struct sched_model {
    const struct sched_other *other; /* NULL: a text model */
    struct cache_pool *pool;         /* of a text model */
    int n_beams;                     /* most beams of a sequence, each with its pages; 0: one */
    int n_ctx;                /* positions of one sequence, as the model and the cache allow */
    double weight;            /* share of the device beside others; 0: 1 */
    double spent_us;          /* device time, for the turns */
    bool closed;              /* its jobs wait: it is not loaded, or must go */
    bool busy;                /* had work when a unit was last chosen */
    bool looked;              /* its last unit was a look at a picture */
    struct draft_costs costs; /* of its steps that only decode */
    double row_us;            /* what a row costs in steps with prompts; 0: not known yet */
};

struct sched_options {
    int max_sequences, prefill_chunk, max_rows;
    /* Time that the prompt rows of a step may take beside others that decode, as the steps before say; 0: any. */
    int chunk_us;
    int draft_tokens; /* of a sequence in a step at most; 0: no drafts */
    bool share;
};

/* The rows of one sequence in a step. */
struct sched_part {
    struct seq *seq;
    int n_rows;                /* positions seq->n_done ... + n_rows - 1 */
    int n_draft;               /* the last ones, of seq->draft */
    int first_logit, n_logits; /* in the batch's order; they belong to the last n_logits rows */
};

/* One unit: a step of model `model`, a piece of a look at a task's picture, or for a model with `other` a
 * piece of its work. */
struct sched_plan {
    int model;
    struct task *look; /* NULL: no look */
    bool alone;        /* no other model has work */
    int n_alike; /* models with `other` that share one portion of the device with it; else 1 */
    int n_parts;
    bool decodes; /* no rows of prompts */
    struct sched_part *parts;
    struct text_batch batch; /* logits is the caller's */
};

struct sched {
    struct sched_options o;
    struct cache *cache;
    int n_models;
    struct sched_model *models;
    struct seq *slots;  /* [max_sequences] */
    struct seq **order; /* [n_running] oldest first */
    int n_running;
    uint64_t n_admitted;
    struct task *head, **tail; /* waiting, first come first */
    int last_model;            /* of the unit before */
    struct sched_plan plan;
    struct draft **drafts; /* [max_sequences] of the plan */
    int *n_drafts;
    int32_t *ids, *pos, *logit_rows;
    struct kv_row *rows;
    const struct text_view **views;
};

/* models: [n_models], kept.  Options must be sane: 1 <= max_sequences <= max_rows ... */
int sched_init(struct sched *s, struct cache *cache, const struct sched_options *o,
               struct sched_model *models, int n_models, struct err *e);
void sched_fini(struct sched *s);

int sched_max_logits(const struct sched_options *o);
/* Positions that a choice of this prompt may come to; 0 when the prompt itself does not fit. */
int sched_length(int n_ctx, int n_prompt, int max_tokens);

/* To the end of the queue, or before those of its model that are due later. */
void sched_add(struct sched *s, struct task *t);
void sched_remove(struct sched *s, struct task *t); /* from the queue */
/* Admits the next sequence that may start: its slot, with ids, limits and pages set; else NULL.  Its
 * task is no longer queued when this was the last choice.  *other: a job of another kind was taken in
 * instead (may be NULL where there are none). */
struct seq *sched_admit(struct sched *s, struct task **other);
/* The next unit, or NULL when nothing can run. */
const struct sched_plan *sched_next(struct sched *s);
/* The plan's forward pass was done and took cost_us: positions but those of drafts advance, full pages are shared. */
void sched_done(struct sched *s, const struct sched_plan *plan, double cost_us);
/* Finds what may follow q's tokens; the plan of a step does that itself. */
void sched_draft(const struct sched *s, struct seq *q);
/* Would the running sequences' drafts have rows, if these decode only? */
bool sched_drafts(struct sched *s, int model);
/* The first of the rows of q's draft that are not yet accepted was computed upon the right token. */
void sched_accept(struct seq *q);
/* Nobody waits, no other model has work, and of this one every sequence is past its prompt. */
bool sched_decodes_only(const struct sched *s, int model);
/* Takes a sequence out; its pages are free at once. */
void sched_leave(struct sched *s, struct seq *q);
#endif
