/* HTTP: libmicrohttpd driven inside the libuv loop, no threads of its own.
 * Thread: loop.
 *
 * A connection waits suspended while its job works; the engine's wake resumes it when there is
 * something to send.  Every connection has a second poll for the peer's close (UV_DISCONNECT), because
 * libmicrohttpd does not watch suspended connections and misses some ends of the others: the work of a
 * client that left is cancelled at once, and its place is free. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H
#include <uv.h>

#include "api/api.h"
#include "server/config.h"
#include "server/metrics.h"

struct http;

struct http_options {
    uv_loop_t *loop;
    const struct config *config;
    struct config_keys keys;        /* API keys; none: everybody may call */
    const char *tls_cert, *tls_key; /* PEM texts or NULL; kept */
    struct replicas *engine;
    struct api *api;
    struct metrics *metrics;
    const char *version;
};
/* Listens.  ERR_IO says which address and why. */
int http_open(struct http **out, const struct http_options *o, struct err *e);
int http_port(const struct http *h); /* the one that was bound */
/* Events are waiting in some job: takes them to their connections. */
void http_events(struct http *h);

/* Answer 503 to new requests (and in /health) from now on, with Connection: close. */
void http_refuse(struct http *h);
/* Close the listening socket. */
void http_stop_listening(struct http *h);
/* Requests that are not answered completely. */
int http_in_flight(const struct http *h);
/* Ends every running job with an error event. */
void http_cancel_all(struct http *h);
/* Closes all connections and frees h once the loop has run its closing callbacks. */
void http_close(struct http *h);
#endif
