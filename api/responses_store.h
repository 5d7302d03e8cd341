/* Responses that are kept for GET /v1/responses/{id} and previous_response_id, in memory: a bounded number of
 * them, of bounded size, for a bounded time; the oldest go first.  Each belongs to the API key that made it, and to
 * nobody else it exists.
 * Thread: any. */
#ifndef API_RESPONSES_STORE_H
#define API_RESPONSES_STORE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct responses_store;
/* max 0: keeps nothing. */
struct responses_store *responses_store_open(int max, size_t max_bytes, int64_t ttl_us);
void responses_store_close(struct responses_store *s); /* NULL is allowed */
bool responses_store_keeps(const struct responses_store *s);

/* A response, as JSON text. */
struct responses_kept {
    struct buf body; /* the object */
    /* The conversation up to its end: items with commas between them, without brackets. */
    struct buf items;
    size_t n_input; /* bytes of items that came before what the response says */
};
/* Copies; what is larger than all that may be kept is not kept. */
void responses_store_put(struct responses_store *s, int owner, const char *id,
                         const struct responses_kept *k);
/* Adds the body, the items or the first n_input bytes of them to out; false: there is no such response. */
enum responses_part { RESPONSES_BODY, RESPONSES_ITEMS, RESPONSES_INPUT };
bool responses_store_get(struct responses_store *s, int owner, const char *id,
                         enum responses_part part, struct buf *out);
bool responses_store_delete(struct responses_store *s, int owner, const char *id);
/* Forgets what is too old. */
void responses_store_expire(struct responses_store *s);
#endif
