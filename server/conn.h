/* A client connection and the one request it carries at a time (HTTP/1.1 without pipelined work).
 * Private to server/http.c, respond.c, work.c, peer.c and deadlines.c.  Thread: loop. */
#ifndef SERVER_CONN_H
#define SERVER_CONN_H
#include <microhttpd.h>
#include <uv.h>

#include "server/guard.h"
#include "server/http.h"

enum conn_phase {
    PHASE_FRESH,  /* connected, nothing complete yet */
    PHASE_IDLE,   /* between two requests */
    PHASE_BODY,   /* headers are there, the body is coming */
    PHASE_WORK,   /* suspended or about to be: nothing is owed by the client */
    PHASE_ANSWER, /* the answer is going out */
};

struct conn {
    struct http *http;
    struct MHD_Connection *mhd; /* NULL once closed */
    struct conn *prev, *next;   /* all connections */
    int fd;
    int refs; /* libmicrohttpd, the disconnect watch, a worker */
    enum conn_phase phase;
    int64_t phase_us; /* when it began; in PHASE_ANSWER, the last time bytes were taken */
    uv_poll_t watch;
    bool watch_open, suspended;

    /* the request */
    bool begun;     /* the handler has seen it */
    bool target_ok; /* guard_target of the raw target */
    size_t target_len;
    bool responded; /* a response is queued */
    bool client_gone;
    bool half_closed;   /* it sends no more, and was asked whether it still reads */
    bool answers_first; /* peer_answer_first */
    bool may_interim;   /* an answer 100 may come before the answer */
    atomic_bool gone;   /* nobody waits for the answer, also for other threads */
    bool working;       /* api_begin runs on a worker, or on a thread of its own */
    bool cors;          /* the origin may read the answer */
    const struct api_route *route;
    const char *path; /* libmicrohttpd's until the request is complete, or path_copy */
    char *path_copy;  /* for a worker: it may end after the connection */
    struct api_call *call;
    struct api_call *worked; /* what the worker made */
    uv_work_t work;
    uv_thread_t fetcher; /* and how it says that it has ended */
    uv_async_t fetched;
    struct err refusal; /* code != 0: answer with this once the body is in */
    int refusal_status;
    bool answer_now; /* when it is refused: before the body */
    const char *allow;
    struct buf body;
    size_t body_dropped;
    size_t sent; /* bytes at the beginning of call->out */
    int body_pieces;
    size_t reserved; /* of http->upload_bytes */
    int owner;       /* which API key */
    char request_id[GUARD_ID_BYTES];
    char origin[256];
    char content_type[256]; /* of a form; cut: then its boundary is not found */
    int status;
    int64_t start_us;
};

struct http {
    struct http_options o;
    struct MHD_Daemon *daemon;
    struct MHD_Response *alive; /* the answer of /health and /live while all is well */
    uv_poll_t epoll;
    uv_timer_t timeout, tick;
    uv_idle_t again; /* there is more to do in the next turn of the loop */
    struct conn *conns;
    struct conn *events_from; /* the next to get its events; NULL: the first */
    int n_conns;
    int in_flight, working; /* requests; calls on other threads */
    int fetching;           /* of these, on threads of their own */
    size_t upload_bytes;    /* of all bodies with pictures that are arriving */
    int open_handles;       /* of the four above; freed when the last is closed */
    bool refusing, closing;
    int listen_fd; /* -1 once closed */
    int port;
};

/* http.c */
void http_drive(struct http *h);
/* Of the engine; still loading until the API knows its models, which is a moment later. */
enum engine_state http_state(const struct http *h);
void http_unref(struct conn *c);
/* The request that the connection carries to api_begin, and what came of it back to the connection. */
struct api_call *http_begin(struct conn *c, bool may_wait);
void http_take(struct conn *c, struct api_call *call);
/* A wake may have come unseen: look at all events in the next turn. */
void http_again(struct http *h);
void http_suspend(struct conn *c);
void http_resume(struct conn *c);

/* respond.c: every answer goes through one of these. */
enum MHD_Result respond_error(struct conn *c, int status, const struct err *e, bool close);
enum MHD_Result respond_call(struct conn *c);
enum MHD_Result respond_builtin(struct conn *c);
enum MHD_Result respond_preflight(struct conn *c);
/* The body came too slowly: 408, past libmicrohttpd, which would still wait for it. */
void respond_late(struct conn *c);
struct MHD_Response *respond_alive(void);

/* peer.c: whether the client is still there, while libmicrohttpd does not look; and after a request, for the
 * next one. */
void peer_open(struct conn *c);
void peer_close(struct conn *c);
void peer_watch(struct conn *c);
void peer_next(struct conn *c);
void peer_left(struct conn *c);
void peer_answer_first(struct conn *c, bool on); /* once resumed, before anything is read */
bool peer_ask(struct conn *c); /* does it still read?  false: nothing may be sent now */

/* deadlines.c: once a second. */
void deadlines_check(struct http *h);
#endif
