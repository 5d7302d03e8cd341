/* A response that is being made: events of its job -> the response object, or OpenAI's named events of a stream.
 * When it is complete it goes to the store.
 * Thread: loop; open and start also on one worker during api_begin. */
#ifndef API_RESPONSES_OUT_H
#define API_RESPONSES_OUT_H
#include "api/answer.h"
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
/* Bytes of the answer that repeat the request. */
size_t responses_out_room(const struct responses_out *r);
extern const struct api_dialect responses_out_dialect;
#endif
