/* What a request for a response says, in two steps: its input as items in one form, which can be kept, and those as
 * the request of a chat, which the chat's own code answers.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_RESPONSES_INPUT_H
#define API_RESPONSES_INPUT_H
#include "base/buf.h"
#include "base/err.h"

struct cJSON;

/* input, a text or a list, as items with ids: JSON with commas between them, without brackets. */
int responses_input_items(const struct cJSON *body, int max_items, struct buf *out, struct err *e);
/* The chat that body asks for after this conversation, a list of such items, of which the first `skip` are left out.
 * item_of [json_size(items) + 1]: which item each message begins with, -1 for the instructions. */
int responses_input_chat(const struct cJSON *body, const struct cJSON *items, int skip,
                         int *item_of, struct buf *out, struct err *e);
/* Where the conversation begins when its first n items, at least, are left out: with a message of the user's.  When
 * there is none behind them, with the last one. */
int responses_input_cut(const struct cJSON *items, int n);
/* e, which blames fields of the chat, blames those of the response. */
void responses_input_blame(const int *item_of, int n_messages, int n_before, struct err *e);
#endif
