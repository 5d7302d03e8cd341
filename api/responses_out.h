/* A response that is being made: events of its job -> the response object, or OpenAI's named events of a stream.
 * When it is complete it goes to the store.
 * Thread: loop; open and start also on one worker during api_begin. */
#ifndef API_RESPONSES_OUT_H
#define API_RESPONSES_OUT_H
#include "api/render.h"
#include "api/responses_store.h"

struct cJSON;

struct responses_out;
struct responses_out_options {
    const struct cJSON *body;      /* the request, whose fields the answer repeats */
    struct responses_store *store; /* NULL: it is not kept */
    int owner;
    struct buf *items; /* the conversation so far; it is taken over */
};
/* NULL without memory. */
struct responses_out *responses_out_open(const struct responses_out_options *o);
void responses_out_close(struct responses_out *r); /* NULL is allowed */
/* How the answer is read and written; its job has begun.  ERR_NOMEM. */
int responses_out_start(struct responses_out *r, const struct render_options *o, struct err *e);
/* As render_event. */
int responses_out_event(struct responses_out *r, const struct event *ev, struct buf *out,
                        struct err *e);
/* The last event of a stream that failed; bytes that it has besides what an error takes. */
void responses_out_failed(struct responses_out *r, struct buf *out, const struct err *err);
size_t responses_out_room(const struct responses_out *r);
const char *responses_out_finish(const struct responses_out *r); /* "stop", "length" ... */
#endif
