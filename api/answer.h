/* A chat's answer as it comes: what is thought, what is said, and then functions that are called.  It is kept whole,
 * and news of it go to a sink, for the APIs that tell answers as blocks which begin, grow and end (responses_out.c,
 * messages_out.c).
 * Thread: loop; answer_open also on one worker during api_begin. */
#ifndef API_ANSWER_H
#define API_ANSWER_H
#include "api/render.h"
#include "api/tool_parse.h"

enum { ANSWER_ID_MAX = 48 };
/* A fresh id: the prefix, "_" and 32 hexadecimal digits.  Returns out. */
const char *answer_id(char out[ANSWER_ID_MAX], const char *prefix);

enum answer_kind { ANSWER_THOUGHT, ANSWER_TEXT, ANSWER_TEXTS };

/* A block of text. */
struct answer_text {
    struct buf text;
    /* what the sink has been told */
    enum { ANSWER_SILENT, ANSWER_SPEAKS, ANSWER_SPOKE } told;
    size_t n_told;
};

struct answer {
    struct answer_text texts[ANSWER_TEXTS];
    struct think think;
    bool hide_thoughts;
    struct tool_parse *calls; /* NULL: there can be none */
    enum finish finish;
    struct buf stop; /* the stop text that ended it, if one did */
    /* what the sink has been told */
    size_t n_arguments_told; /* bytes, of the call that is open */
    int n_calls_told;        /* calls that have ended */
    bool call_open;
};

/* A block's index counts those before it.  n bytes at s are new. */
struct answer_sink {
    void (*text_begins)(void *ctx, enum answer_kind kind, int index, struct buf *out);
    void (*text)(void *ctx, enum answer_kind kind, int index, const char *s, size_t n,
                 struct buf *out);
    void (*text_ends)(void *ctx, enum answer_kind kind, int index, struct buf *out);
    void (*call_begins)(void *ctx, const struct tool_call *c, int index, struct buf *out);
    void (*call)(void *ctx, const struct tool_call *c, int index, const char *s, size_t n,
                 struct buf *out);
    void (*call_ends)(void *ctx, const struct tool_call *c, int index, struct buf *out);
};

/* o says how it calls functions; max: bytes of all.  ERR_NOMEM. */
int answer_open(struct answer *a, const struct render_options *o, size_t max, struct err *e);
void answer_close(struct answer *a);
/* Takes in EV_TEXT and EV_FINISH. */
void answer_take(struct answer *a, const struct event *ev);
/* Tells what is new; when the answer has ended, all ends. */
void answer_tell(struct answer *a, const struct answer_sink *sink, void *ctx, struct buf *out);
/* What was told of the text is not asked for again: a stream may be as long as it likes. */
void answer_forget(struct answer *a);
/* It has such a block: there is some text, or for ANSWER_TEXT there is nothing else. */
bool answer_has(const struct answer *a, enum answer_kind kind);
/* Of that block; of the first call for ANSWER_TEXTS. */
int answer_index(const struct answer *a, enum answer_kind kind);
int answer_calls(const struct answer *a);
size_t answer_bytes(const struct answer *a);
/* ERR_TOOBIG when it and `more` are more than max allows. */
int answer_check(const struct answer *a, size_t more, bool failed, struct err *e);
const char *answer_finish(const struct answer *a); /* as render_finish_word */

/* How another API than chat and completions writes the answer of a chat; `answer` is its own. */
struct api_dialect {
    /* The job is about to begin.  ERR_NOMEM. */
    int (*start)(void *answer, const struct render_options *o, struct err *e);
    /* As render_event. */
    int (*event)(void *answer, const struct event *ev, struct buf *out, struct err *e);
    /* The last event of a stream that failed, and bytes that it has besides what an error takes. */
    void (*failed)(void *answer, struct buf *out, int status, const struct err *e);
    size_t (*room)(const void *answer);
    const char *(*finish)(const void *answer); /* as answer_finish */
    void (*close)(void *answer);
};
#endif
