/* The engine's side of a job: a task, and a sequence for each of its choices that is running.
 * Thread: engine. */
#ifndef ENGINE_TASK_H
#define ENGINE_TASK_H
#include "engine/beam.h"
#include "engine/cache.h"
#include "engine/draft.h"
#include "engine/job.h"
#include "engine/models/blip.h"
#include "engine/stage.h"
#include "engine/stop.h"
#include "engine/text/detok.h"

enum { STAGES_MAX = 8 }; /* of a job */

struct image_task;   /* engine/picture.h */
struct embed_task;   /* engine/embed.h */
struct adapter_uses; /* engine/engine_adapter.c */
struct prompt_words; /* engine/text/prompt.h */
struct control;      /* engine/models/control.h */

/* A beam search: a set of pages for each beam. */
struct task_beams {
    struct beam beam; /* n 0: not begun */
    int set[BEAM_MAX];
};

/* The picture of a caption job: no choice begins before it was looked at.  What was seen is held in the
 * cache's budget while choices run. */
struct task_look {
    struct blip_look blip;
    size_t bytes; /* of blip.kv */
    bool held;    /* these are counted */
    bool ready;   /* its sequences have rows now; never of a beam search */
    bool seen;    /* and this one is at its beams */
    struct task_beams beams;
};

struct task {
    struct job *job;      /* a reference */
    struct stage *stages; /* JOB_IMAGE, JOB_UPSCALE: what is done one after the other; else NULL */
    struct image_task *image;         /* JOB_IMAGE: the first stage; else NULL */
    struct task_look *look;           /* of a caption model; else NULL */
    struct embed_task *embed;         /* JOB_EMBED; else NULL */
    struct adapter_uses *adapters;    /* of JOB_IMAGE: that it has; or NULL */
    const struct prompt_words *words; /* learned tokens that its prompts may name; or NULL */
    struct control *controls[JOB_CONTROLS_MAX]; /* of job->image.controls */
    int also[JOB_CONTROLS_MAX], n_also; /* indices of models that it needs besides its own */
    struct task *next;
    int model;       /* index in the engine's list */
    int n_choices;   /* prompts * n */
    int next_choice; /* the first one that was not admitted yet */
    int n_running, n_finished;
    int n_bypassed;     /* sequences of later jobs that were admitted while this one did not fit */
    bool queued;        /* some choice still waits */
    int64_t due_us;     /* its place in the queue among jobs of its model; 0: the last one */
    bool dead;          /* EV_DONE or EV_ERROR is out */
    bool checked;       /* its stages can run at all */
    struct err refused; /* code != 0: they cannot, says why */
    struct stop_set stops;
    struct job_usage total;              /* EV_DONE's: each prompt counts once */
    int64_t admitted_us, first_token_us; /* of the first choice; 0: not yet */
    /* cache_version when it last did not fit, + 1; 0: not known to block. */
    uint64_t blocked_version;
};

/* One running choice.  Slots are made once, with tables for the longest context. */
struct seq {
    struct task *task; /* NULL: the slot is free */
    int choice;
    uint64_t order; /* of admission */
    int32_t *ids;   /* [n_ctx] prompt, then what was generated; behind it, in a step, the draft */
    int n_prompt, n_ids, n_end; /* n_end: n_ids at which the length is reached */
    int n_done;                 /* positions whose KV is computed */
    int n_cached;               /* prompt tokens that came from shared pages */
    struct cache_seq kv;
    struct draft draft; /* what may follow ids */
    struct draft_guide guide;
    struct detok detok;
    struct stop stop;
    struct grammar_run *grammar; /* what its text may go on with, or NULL */
    struct filter_run *filter;   /* what its text should not say, or NULL */
    struct buf text;             /* of this step */
    struct buf raw;              /* what the detokeniser just gave */
    int64_t n_made, n_out;       /* bytes of text made so far, of those given out */
    struct token_info *pending;  /* tokens whose text is not out yet */
    int64_t *pending_end;        /* n_out at which each of them is */
    int n_pending, pending_cap;
    int64_t admitted_us, first_token_us;
};
#endif
