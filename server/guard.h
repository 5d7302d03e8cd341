/* What a request must pass before anything else looks at it: framing that cannot be smuggled, an API
 * key, a sane request id, an allowed origin.
 * libmicrohttpd 0.9.75 parses leniently; what it lets through and an intermediary could read differently
 * is refused here (research: HTTP Garden; MHD release notes 1.0.4, 1.0.5).
 * Thread: loop. */
#ifndef SERVER_GUARD_H
#define SERVER_GUARD_H
#include <microhttpd.h>
#include <stdbool.h>

#include "base/err.h"

/* The header list in one walk. */
struct guard_headers {
    int n, n_host, n_content_length, n_transfer_encoding;
    bool bad_name, bad_value, bad_transfer_encoding, expect;
    size_t n_bytes;           /* of all names and values, with ": " and the line's end */
    long long content_length; /* -1 without one */
    const char *authorization, *api_key, *origin, *request_id, *content_type, *host;
    const char *content_encoding, *traceparent;
};
void guard_read(struct guard_headers *g, struct MHD_Connection *c);
/* ERR_INVALID where the framing could be read in two ways. */
int guard_framing(const struct guard_headers *g, struct err *e);
/* ERR_UNSUPPORTED for a body that is compressed. */
int guard_coding(const struct guard_headers *g, struct err *e);
/* Is the raw request target free of NUL, control bytes and encoded NUL? */
bool guard_target(const char *uri);

/* Which of keys "Bearer KEY" (or x-api-key, or the password of "Basic") is; -1: none.  The time that it takes does
 * not tell how much of a key was right. */
int guard_key(const struct guard_headers *g, const char *const *keys, int n_keys);
/* origin is in the comma-separated list, or the list is "*". */
bool guard_origin(const char *origin, const char *list);

#define GUARD_ID_BYTES 129
/* The client's x-request-id if it is 1 to 128 safe characters, else a random one. */
void guard_request_id(const struct guard_headers *g, char out[GUARD_ID_BYTES]);
#endif
