/* The only thing that crosses between the loop thread and the engine thread.
 *
 *   loop thread                          engine thread
 *   job_new, fill job->text
 *   engine_submit ------- queue ------>  reads the spec, never writes it
 *   job_cancel -------- atomic flag -->  drops the job's sequences at the next step
 *   job_poll <------ list + wake() ----  job_emit
 *   job_unref                            job_unref           the last one frees all
 *
 * Events of one job arrive in order.  Their number is bounded by the tokens that the job may make. */
#ifndef ENGINE_JOB_H
#define ENGINE_JOB_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

#define JOB_STOP_MAX     16 /* stop strings of a request */
#define JOB_TOP_LOGPROBS 20 /* alternatives a position may report */

struct logit_bias {
    int32_t id;
    float bias; /* added to the logit; -100 or less bans the token */
};

/* How the next token is chosen.  Order: bias, penalties, temperature, top_k, typical_p, top_p, min_p.
 * temperature 0 is greedy: the highest logit, the lower id on a tie. */
struct sample_params {
    float temperature, top_p, min_p, typical_p;                    /* off: 1, 1, 0, 1 */
    float presence_penalty, frequency_penalty, repetition_penalty; /* off: 0, 0, 1 */
    int top_k;                                                     /* off: 0 */
    int repeat_last_n; /* tokens the penalties look back on; -1: all, prompt included for
                          repetition_penalty only */
    uint64_t seed;
};
extern const struct sample_params sample_params_default; /* temperature 1, all else off */

struct text_spec {
    const char *model; /* card id */
    int n_prompts;
    const int32_t *const *prompts; /* [n_prompts] token ids, each at least 1 */
    const int32_t *n_prompt;       /* [n_prompts] */
    int n;                         /* choices a prompt; choice index = prompt * n + i, each with its
                                    own random stream */
    int max_tokens;                /* per choice, >= 0; the context window bounds it as well */
    struct sample_params sample;
    int n_bias;
    const struct logit_bias *bias;
    int n_stop;
    const char *const *stop; /* non-empty strings; not part of the text given out */
    bool include_stop;       /* give the stop string out too */
    bool ignore_eos;
    bool logprobs;      /* events carry the chosen token's logprob */
    int top_logprobs;   /* 0 ... JOB_TOP_LOGPROBS alternatives as well */
    bool echo_logprobs; /* EV_PROMPT events with the prompt tokens' logprobs */
    bool no_cache;      /* neither use nor leave shared prefix pages */
    bool special;       /* give control tokens out as text */
};

/* Logprobs are of the model's own distribution, before temperature and filters (as OpenAI's). */
struct token_info {
    int32_t id;
    float logprob;
    int n_top;
    struct {
        int32_t id;
        float logprob;
    } top[JOB_TOP_LOGPROBS]; /* best first */
};

enum finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH };
enum event_kind {
    EV_PROMPT, /* token: the next prompt token with its logprob (echo_logprobs), NaN for the first */
    EV_TEXT,   /* text and, with logprobs, the tokens it is made of */
    EV_FINISH, /* choice `index` is complete: finish, counts */
    EV_DONE,   /* the whole job is complete: totals; nothing comes after */
    EV_ERROR,  /* the job failed: err; nothing comes after */
};

/* What a choice, or in EV_DONE the job, has cost. */
struct job_usage {
    int prompt_tokens, cached_tokens, completion_tokens;
    int64_t queue_us, prefill_us, decode_us; /* waiting; prompt; from first token to last */
};

struct event {
    struct event *next;
    enum event_kind kind;
    int index;        /* which choice */
    const char *text; /* whole UTF-8 characters, len bytes, NUL-terminated */
    size_t len;
    int n_tokens;
    const struct token_info *tokens; /* EV_TEXT with logprobs; EV_PROMPT: one */
    enum finish finish;
    const char *stop; /* the stop string that ended it, or NULL */
    struct job_usage usage;
    struct err err;
};

struct job {
    uint64_t id;        /* for logs */
    struct arena arena; /* loop side's: spec and what it points to */
    struct text_spec text;
    void *user;               /* the loop side's own */
    int64_t submit_us;        /* set by engine_submit */
    struct job_private *priv; /* engine/job.c */
};

/* One reference, the caller's. */
struct job *job_new(size_t arena_max_bytes);
void job_ref(struct job *j);
void job_unref(struct job *j);
/* Any thread; cheap, idempotent. */
void job_cancel(struct job *j);
bool job_cancelled(const struct job *j);
/* Loop: the next event or NULL; job_event_free when done with it. */
struct event *job_poll(struct job *j);
void job_event_free(struct event *ev);
/* Engine: takes ev (from job_event_new); its payload is copied behind it in one allocation. */
struct event *job_event_new(enum event_kind kind, int index, const char *text, size_t len,
                            const struct token_info *tokens, int n_tokens);
void job_emit(struct job *j, struct event *ev);
#endif
