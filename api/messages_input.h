/* What a request of Anthropic's Messages API says, as the request of a chat, which the chat's own code answers.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_MESSAGES_INPUT_H
#define API_MESSAGES_INPUT_H
#include "base/buf.h"
#include "base/err.h"

struct cJSON;

/* How many messages the chat of this body has at most. */
int messages_input_max(const struct cJSON *body);
/* origin [messages_input_max]: which message of the body each of the chat's comes from, -1 for the system's. */
int messages_input_chat(const struct cJSON *body, int *origin, struct buf *out, struct err *e);
/* e, which blames fields of the chat, blames those of the body. */
void messages_input_blame(const int *origin, int n, struct err *e);
#endif
