/* An answer in the words of Anthropic's Messages API: a message of blocks, or its events; and errors as there.
 * Thread: loop; open also on one worker during api_begin. */
#ifndef API_MESSAGES_OUT_H
#define API_MESSAGES_OUT_H
#include "api/answer.h"

struct messages_out;
struct messages_out *messages_out_open(void); /* NULL without memory */
extern const struct api_dialect messages_out_dialect;
/* OpenAI's body of an error with what Anthropic's clients look for in it. */
void messages_out_error(struct buf *out, int status, const struct err *e);
#endif
