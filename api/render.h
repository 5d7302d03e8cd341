/* Events of a job -> OpenAI's answer: one JSON document, or server-sent events as they come.
 * Knows nothing of jobs, models or tokenizers, so that it is tested with events made by hand.
 * Thread: loop. */
#ifndef API_RENDER_H
#define API_RENDER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/think.h"
#include "base/buf.h"
#include "base/err.h"
#include "engine/job.h"

enum render_shape { RENDER_CHAT, RENDER_COMPLETION, RENDER_CAPTION };

/* The bytes that a token stands for; valid until the next call. */
typedef const char *render_piece_fn(const void *ctx, int32_t id, size_t *len);

struct render_options {
    enum render_shape shape;
    bool stream, include_usage, timings;
    bool logprobs;
    int top_logprobs;
    int n_choices;                   /* prompts * n */
    const char *model, *fingerprint; /* borrowed */
    int64_t created;
    int prompt_tokens;               /* of all prompts */
    size_t max_bytes;                /* of what is collected for a whole answer */
    const struct tool_format *tools; /* how functions are called; NULL: none are */
    enum think_start think;          /* whether thoughts are told apart */
    bool hide_thoughts;              /* and left out */
    const struct filter *filter;     /* whose finds are told; NULL: none */
    const char *tool_json;           /* tool_grammar_json; as long as the job */
    render_piece_fn *piece;
    const void *piece_ctx;
    /* echo: the text of each prompt, [n_choices / n]; copied.  NULL: no echo */
    const char *const *echo;
    const size_t *echo_len;
    int n; /* choices of a prompt */
};

struct render;
struct json_writer;
/* NULL when there is not enough memory for the choices. */
struct render *render_open(const struct render_options *o);
void render_close(struct render *r);
/* Takes in one event (not EV_ERROR).  A stream's frames go to out at once; a whole answer is
 * written at EV_DONE.  ERR_TOOBIG when the answer is over its limit. */
int render_event(struct render *r, const struct event *ev, struct buf *out, struct err *e);
/* How an answer with so many calls of functions ended: "stop", "length", "content_filter", "tool_calls", or NULL. */
const char *render_finish_word(enum finish finish, int n_calls);
/* How the first choice did. */
const char *render_finish(const struct render *r);

/* A token with its logprob, bytes and alternatives, as chats have it. */
void render_token(const struct render_options *o, struct json_writer *w,
                  const struct token_info *t);

/* The last frame of a stream that failed; no [DONE] follows. */
void render_error_frame(struct buf *out, int status, const struct err *err);
#endif
