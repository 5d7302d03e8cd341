/* The connections' life: accept, guard, gather the body, begin the call, wait, answer, log.
 * respond.c writes the answers, deadlines.c ends connections that take too long, peer.c sees clients leave. */
#include "server/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/conn.h"
#include "server/work.h"

#define WORKER_BODY_BYTES (8 * 1024) /* larger bodies are parsed on a worker thread */
#define EVENTS_US         1000       /* of rendering before sockets are looked at again */
#define BODY_DROPPED_MIB  64   /* of a refused request, beside 8 bodies, until we stop reading */
#define BODY_PIECES_MAX   4096 /* and one more for every 16 bytes (Triton's chunk bomb) */
#define TARGET_BYTES_MAX  (8 * 1024)  /* 414 */
#define HEADER_BYTES_MAX  (32 * 1024) /* 431 */
/* What is larger still, libmicrohttpd answers itself, in HTML; so there is some room above our own limits.
 * Not much: it is cleared after every request, and every idle connection holds it. */
#define CONNECTION_MEMORY (64 * 1024)
#define LISTEN_BACKLOG    4096

static void body_free(struct conn *c)
{
    if (c->reserved) /* http may be gone, but then nothing is reserved */
        c->http->upload_bytes -= c->reserved;
    c->reserved = 0;
    buf_free(&c->body);
}

/* What a worker reads stays until it is done, even when the client has left. */
static void request_free(struct conn *c)
{
    if (c->working)
        return;
    body_free(c);
    free(c->path_copy);
    c->path_copy = NULL;
}

void http_unref(struct conn *c)
{
    if (--c->refs == 0) {
        request_free(c);
        free(c);
    }
}

void http_suspend(struct conn *c)
{
    c->suspended = true;
    MHD_suspend_connection(c->mhd);
    peer_watch(c);
}

void http_resume(struct conn *c)
{
    if (!c->suspended)
        return;
    c->suspended = false;
    MHD_resume_connection(c->mhd);
}

/* ------------------------------------------------------------------ libmicrohttpd in the loop */

static void on_timeout(uv_timer_t *t)
{
    http_drive(t->data);
}

/* The next turn of the loop, after a look at everything else.  (A timer of 0 ms that starts itself again
 * would run in the same turn for ever.) */
static void on_again(uv_idle_t *idle)
{
    uv_idle_stop(idle);
    http_events(idle->data);
    http_drive(idle->data);
}

void http_again(struct http *h)
{
    uv_idle_start(&h->again, on_again);
}

static void on_epoll(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    http_drive(p->data);
}

void http_drive(struct http *h)
{
    if (!h->daemon)
        return;
    bool full;
    do { /* a place that became free is given away by the next run */
        full = h->n_conns >= h->o.config->max_connections;
        MHD_run(h->daemon);
    } while (full && h->n_conns < h->o.config->max_connections);
    MHD_UNSIGNED_LONG_LONG ms;
    bool timed = MHD_get_timeout(h->daemon, &ms) == MHD_YES;
    if (timed && ms == 0)
        http_again(h);
    else if (timed)
        uv_timer_start(&h->timeout, on_timeout, ms, 0);
    else
        uv_timer_stop(&h->timeout);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http *h = cls;
    struct conn *c = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        c = xcalloc(1, sizeof(*c));
        c->http = h;
        c->mhd = mhd;
        c->refs = 1;
        c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        c->phase_us = clock_us();
        c->next = h->conns;
        if (c->next)
            c->next->prev = c;
        h->conns = c;
        h->o.metrics->connections = ++h->n_conns;
        *context = c;
        peer_open(c);
        return;
    }
    if (!c)
        return;
    if (c->prev)
        c->prev->next = c->next;
    else
        h->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    if (h->events_from == c)
        h->events_from = c->next;
    h->o.metrics->connections = --h->n_conns;
    c->mhd = NULL;
    peer_close(c);
    http_unref(c);
}

static struct conn *conn_of(struct MHD_Connection *mhd)
{
    return MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* Called with the raw request target, before anything is decoded. */
static void *on_target(void *cls, const char *target, struct MHD_Connection *mhd)
{
    (void)cls;
    struct conn *c = conn_of(mhd);
    c->begun = c->responded = c->client_gone = c->cors = false;
    atomic_store(&c->gone, false);
    c->target_ok = guard_target(target);
    c->target_len = strlen(target);
    c->route = NULL;
    c->path = "";
    c->refusal = (struct err){0};
    c->refusal_status = 0;
    c->allow = NULL;
    c->owner = -1;
    c->body_dropped = 0;
    c->sent = 0;
    c->body_pieces = 0;
    c->status = 0;
    c->start_us = clock_us();
    c->http->in_flight++;
    return c;
}

static void log_request(const struct conn *c, const char *method, int64_t total_us)
{
    struct log_line l;
    const struct api_call *call = c->call;
    bool quiet = !c->route || c->route->id == API_SERVER;
    log_begin(&l, quiet && c->status < 400 ? LOG_DEBUG : LOG_INFO, "request");
    log_str(&l, "id", c->request_id);
    log_str(&l, "method", method);
    log_str(&l, "path", c->path);
    log_int(&l, "status", c->client_gone ? 499 : c->status);
    if (call && call->model)
        log_str(&l, "model", call->model);
    if (call && call->job) {
        log_int(&l, "in", call->prompt_tokens);
        log_int(&l, "cached", call->cached_tokens);
        log_int(&l, "out", call->completion_tokens);
        log_num(&l, "queue_ms", (double)call->queue_us / 1e3);
        log_num(&l, "ttft_ms", (double)call->ttft_us / 1e3);
    }
    log_num(&l, "ms", (double)total_us / 1e3);
    if (call && call->finish)
        log_str(&l, "finish", call->finish);
    if (call && call->error_reason)
        log_str(&l, "error", call->error_reason);
    if (c->client_gone)
        log_str(&l, "client", "gone");
    log_end(&l);
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **context,
                         enum MHD_RequestTerminationCode code)
{
    (void)mhd;
    struct http *h = cls;
    struct conn *c = *context;
    if (!c)
        return;
    *context = NULL;
    h->in_flight--;
    c->suspended = false;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK && (c->call || c->working))
        peer_left(c);
    if (c->call && c->client_gone)
        api_pump(c->call, clock_us() + EVENTS_US); /* what was generated until now counts */
    if (c->begun) {
        int64_t total_us = clock_us() - c->start_us;
        metrics_request(h->o.metrics, c->call, c->status, total_us, c->client_gone);
        if (h->o.config->log_requests)
            log_request(c, c->route ? c->route->method : "-", total_us);
    }
    if (c->call)
        api_end(c->call);
    c->call = NULL;
    request_free(c);
    c->begun = false;
    c->phase = PHASE_IDLE;
    c->phase_us = clock_us();
    peer_next(c);
}

/* ------------------------------------------------------------------ a request */

static size_t dropped_max(const struct conn *c)
{
    return 8 * c->body.max + ((size_t)BODY_DROPPED_MIB << 20);
}

static void refuse(struct conn *c, int status)
{
    c->refusal_status = status;
}

/* Bodies with pictures may be far larger than others; so that many of them do not fill the memory, what
 * has arrived of them all is counted against one budget.  One alone may always come. */
static void count_upload(struct conn *c)
{
    struct http *h = c->http;
    size_t budget = (size_t)h->o.config->max_uploads_mib << 20;
    h->upload_bytes += c->body.cap - c->reserved;
    c->reserved = c->body.cap;
    if (h->upload_bytes <= budget || h->upload_bytes == c->reserved)
        return;
    body_free(c);
    err_set(&c->refusal, ERR_BUSY, "too many pictures are arriving; try again soon");
    refuse(c, 429);
}

/* What the route asks for: a key, and a body that is not too large. */
static void request_route(struct conn *c, const struct guard_headers *g)
{
    struct http *h = c->http;
    const struct config *config = h->o.config;
    struct err *e = &c->refusal;
    bool open = c->route->flags & ROUTE_PUBLIC ||
                (config->metrics_public && !strcmp(c->route->path, "/metrics"));
    c->owner = guard_key(g, h->o.keys.keys, h->o.keys.n);
    if (c->route->flags & ROUTE_UPLOAD)
        snprintf(c->content_type, sizeof(c->content_type), "%s",
                 g->content_type ? g->content_type : "");
    const bool admin = c->route->flags & ROUTE_ADMIN && h->o.keys.n > h->o.keys.n_api;
    if (((h->o.keys.n_api && !open) || admin) && c->owner < 0) {
        err_set(e, ERR_INVALID,
                g->authorization || g->api_key ? "Incorrect API key provided"
                                               : "You didn't provide an API key; "
                                                 "use \"Authorization: Bearer KEY\"");
        err_reason(e, "invalid_api_key");
        refuse(c, 401);
        return;
    }
    if (admin && c->owner < h->o.keys.n_api) {
        err_set(e, ERR_INVALID, "this needs an admin key");
        refuse(c, 403);
        return;
    }
    c->body.max = api_body_max(h->o.api, c->route);
    if (g->content_length > (long long)c->body.max) {
        err_set(e, ERR_TOOBIG, "the body has %lld bytes, at most %zu are allowed",
                g->content_length, c->body.max);
        refuse(c, 413);
    }
}

/* The path of a target in absolute form, "http://host/path", which clients send to proxies and every server
 * must take (RFC 9112, 3.2.2); of any other form as it is. */
static const char *request_path(const char *url)
{
    const size_t scheme = strncasecmp(url, "http://", 7) == 0    ? 7
                          : strncasecmp(url, "https://", 8) == 0 ? 8
                                                                 : 0;
    if (scheme == 0)
        return url;
    const char *path = strchr(url + scheme, '/');
    return path ? path : "/";
}

/* Everything that can be known from the headers; what is wrong is answered after the body, so that the
 * connection can go on, unless the client waits for our word or announces far too much. */
static void request_headers(struct conn *c, const char *url, const char *method)
{
    struct http *h = c->http;
    const struct config *config = h->o.config;
    struct guard_headers g;
    struct err *e = &c->refusal;
    guard_read(&g, c->mhd);
    guard_request_id(&g, c->request_id);
    c->begun = true;
    c->path = request_path(url);
    c->phase = PHASE_BODY;
    c->phase_us = clock_us();
    buf_init(&c->body, (size_t)config->max_body_kib * 1024);
    c->answer_now = g.expect || g.content_length > (long long)dropped_max(c);
    if (g.origin && strlen(g.origin) < sizeof(c->origin) &&
        guard_origin(g.origin, config->cors_origins)) {
        memcpy(c->origin, g.origin, strlen(g.origin) + 1);
        c->cors = true;
    }
    if (guard_framing(&g, e)) {
        c->answer_now = true; /* where such a body ends nobody can say */
        refuse(c, 400);
        return;
    }
    if (!c->target_ok) {
        err_set(e, ERR_INVALID, "the request target has a control character");
        refuse(c, 400);
        return;
    }
    if (c->target_len > TARGET_BYTES_MAX || g.n_bytes > HEADER_BYTES_MAX) {
        bool target = c->target_len > TARGET_BYTES_MAX;
        err_set(e, ERR_TOOBIG, "the %s %zu bytes, at most %d are allowed",
                target ? "request target has" : "headers have", target ? c->target_len : g.n_bytes,
                target ? TARGET_BYTES_MAX : HEADER_BYTES_MAX);
        refuse(c, target ? 414 : 431);
        return;
    }
    c->route = api_route(strcmp(method, "HEAD") ? method : "GET", c->path, &c->allow, e);
    if (!c->route) {
        refuse(c, c->allow ? 405 : 404);
        return;
    }
    request_route(c, &g);
    if (!c->refusal_status && guard_coding(&g, e))
        refuse(c, 415);
}

static void request_body(struct conn *c, const char *data, size_t n)
{
    if (++c->body_pieces > BODY_PIECES_MAX + (int)(c->body.len / 16)) {
        shutdown(c->fd, SHUT_RDWR);
        return;
    }
    if (c->refusal_status) {
        c->body_dropped += n;
    } else if (buf_add(&c->body, data, n)) {
        err_set(&c->refusal, ERR_TOOBIG, "the body has more than %zu bytes", c->body.max);
        refuse(c, 413);
    } else if (c->route->flags & ROUTE_UPLOAD ||
               c->body.cap > (size_t)c->http->o.config->max_body_kib * 1024) {
        count_upload(c);
    }
    /* A client that goes on long after it was too much does not get to hear why. */
    if (c->body_dropped > dropped_max(c))
        shutdown(c->fd, SHUT_RDWR);
}

/* What becomes of pictures that are flagged, for the key that asks. */
static enum safety_action safety_of(const struct conn *c)
{
    const struct http_options *o = &c->http->o;
    const char *name = c->owner >= 0 ? o->keys.safety[c->owner] : o->config->safety;
    return !strcmp(name, "flag") ? SAFETY_FLAG : !strcmp(name, "blur") ? SAFETY_BLUR : SAFETY_BLOCK;
}

/* Whether what the text filter finds is only told, for that key. */
static bool filter_flags(const struct conn *c)
{
    const struct http_options *o = &c->http->o;
    const char *name =
        c->owner >= 0 ? o->keys.text_filter[c->owner] : o->config->text_filter_action;
    return !strcmp(name, "flag");
}

struct api_call *http_begin(struct conn *c, bool may_wait)
{
    struct api_request rq = {
        .route = c->route,
        .path = c->path,
        .body = buf_str(&c->body),
        .body_len = c->body.len,
        .content_type = c->route->flags & ROUTE_UPLOAD ? c->content_type : NULL,
        .owner = c->owner,
        .safety = safety_of(c),
        .filter_flags = filter_flags(c),
        .request_id = c->request_id,
        .may_wait = may_wait,
        .gone = &c->gone,
    };
    return api_begin(c->http->o.api, &rq);
}

/* What api_begin made; the body is not needed any more, unless it begins again after pictures came. */
void http_take(struct conn *c, struct api_call *call)
{
    if (call->fetch) {
        api_end(call);
        if (work_fetch(c, &c->refusal) != 0)
            refuse(c, api_error_status(&c->refusal));
        return;
    }
    if (call->background) /* nobody has looked for its events yet */
        http_again(c->http);
    c->call = api_adopt(c->http->o.api, call, c->owner);
    body_free(c);
}

/* Would api_begin hold up the loop?  A template that comes with a request may do so however small
 * the request is. */
static bool is_slow(const struct conn *c)
{
    if (strcmp(c->route->method, "POST") != 0)
        return false; /* what others do touches the loop's own tables */
    return c->route->flags & ROUTE_UPLOAD || c->body.len > WORKER_BODY_BYTES ||
           (c->http->o.config->client_templates && c->body.len > 0);
}

enum engine_state http_state(const struct http *h)
{
    enum engine_state state = replicas_state(h->o.engine);
    return state == ENGINE_READY && !api_is_ready(h->o.api) ? ENGINE_LOADING : state;
}

/* The body is complete, or the connection was resumed. */
static enum MHD_Result request_answer(struct conn *c, const char *method)
{
    struct http *h = c->http;
    c->phase = PHASE_WORK;
    peer_answer_first(c, false);
    if (!strcmp(method, "OPTIONS") && c->cors)
        return respond_preflight(c);
    if (c->refusal_status)
        return respond_error(c, c->refusal_status, &c->refusal, c->refusal_status == 400);
    if (c->route->id == API_SERVER)
        return respond_builtin(c);
    if (c->client_gone)
        return MHD_NO;
    if (!c->call && !c->working) {
        struct err e = {0};
        enum engine_state state = http_state(h);
        if (h->refusing || (state != ENGINE_READY && !(c->route->flags & ROUTE_LOADING_OK))) {
            err_set(&e, ERR_UNAVAILABLE,
                    h->refusing               ? "the server is shutting down"
                    : state == ENGINE_LOADING ? "the models are being loaded"
                                              : "the engine has failed");
            return respond_error(c, 503, &e, h->refusing);
        }
        if (is_slow(c)) {
            work_begin(c);
        } else {
            http_take(c, http_begin(c, false));
            if (c->refusal_status)
                return respond_error(c, c->refusal_status, &c->refusal, false);
        }
    }
    if (c->call && c->call->status)
        return respond_call(c);
    peer_answer_first(c, true);
    http_suspend(c);
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_bytes, void **context)
{
    (void)cls;
    (void)mhd;
    struct conn *c = *context;
    if (!c->begun) {
        c->may_interim = !c->http->o.tls_cert && strcmp(version, "HTTP/1.1") == 0;
        request_headers(c, url, method);
        return c->answer_now && c->refusal_status ? request_answer(c, method) : MHD_YES;
    }
    if (*data_bytes) {
        request_body(c, data, *data_bytes);
        *data_bytes = 0;
        return MHD_YES;
    }
    return request_answer(c, method);
}

/* ------------------------------------------------------------------ wakes */

/* The events of one connection; true when there is something to send now. */
static bool take_events(struct conn *c, int64_t until_us)
{
    if (!c->call || !c->call->job)
        return false;
    bool changed = api_pump(c->call, until_us);
    if (c->call->work)
        work_errand(c->http, c->call);
    if (!changed || !c->suspended || !c->call->status ||
        (!c->call->stream && c->call->state != API_DONE))
        return false;
    http_resume(c);
    return true;
}

/* A round over the connections that begins where the last one ran out of time.  Rendering is slower
 * than a small model, so without a limit the loop would serve nobody else meanwhile. */
void http_events(struct http *h)
{
    struct conn *first = h->events_from ? h->events_from : h->conns, *c = first;
    int64_t until_us = clock_us() + EVENTS_US;
    bool any = false, late = false;
    h->events_from = NULL;
    while (c && !late) {
        any |= take_events(c, until_us);
        late = (c->call && c->call->more) || clock_us() >= until_us;
        c = c->next ? c->next : h->conns;
        if (c == first)
            break;
    }
    late |= api_jobs_pump(h->o.api, until_us, work_errand, h);
    if (late) {
        h->events_from = c;
        http_again(h);
    }
    if (any)
        http_drive(h);
}

static void on_tick(uv_timer_t *t)
{
    deadlines_check(t->data);
    http_drive(t->data);
}

/* ------------------------------------------------------------------ open and close */

/* A listening socket on host:port; IPv6 sockets take IPv4 as well where the system does. */
static int listen_socket(const char *host, int port, struct err *e)
{
    char service[16];
    snprintf(service, sizeof(service), "%d", port);
    struct addrinfo *list, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    int rc = getaddrinfo(host, service, &hints, &list);
    if (rc) {
        err_set(e, ERR_IO, "host %s: %s", host, gai_strerror(rc));
        return -1;
    }
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) || listen(fd, LISTEN_BACKLOG)) {
        char why[128];
        err_set(e, ERR_IO, "cannot listen on %s port %d: %s", host, port,
                strerror_r(errno, why, sizeof(why)));
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

static int bound_port(int fd)
{
    union {
        struct sockaddr_in6 v6;
        struct sockaddr_in v4;
        struct sockaddr any;
    } a = {0};
    socklen_t n = sizeof(a);
    if (getsockname(fd, &a.any, &n))
        return 0;
    return ntohs(a.any.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
}

static void mhd_log(void *cls, const char *fmt, va_list ap)
{
    (void)cls;
    char text[256];
    vsnprintf(text, sizeof(text), fmt, ap);
    text[strcspn(text, "\n")] = '\0';
    log_msg(LOG_DEBUG, "http", "%s", text);
}

static struct MHD_Daemon *start_daemon(struct http *h)
{
    const struct config *config = h->o.config;
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)mhd_log, NULL},
        {MHD_OPTION_LISTEN_SOCKET, h->listen_fd, NULL},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, h},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, h},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)on_target, h},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, config->max_connections, NULL},
        {MHD_OPTION_PER_IP_CONNECTION_LIMIT, config->max_connections_per_ip, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, config->idle_timeout_s, NULL},
#if MHD_VERSION >= 0x01000000
        {MHD_OPTION_CLIENT_DISCIPLINE_LVL, 1, NULL},
#else
        {MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL},
#endif
        {MHD_OPTION_END, 0, NULL},
        {MHD_OPTION_END, 0, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    size_t n = sizeof(options) / sizeof(options[0]) - 3;
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (h->o.tls_cert) {
        flags |= MHD_USE_TLS;
        options[n++] =
            (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)h->o.tls_cert};
        options[n++] =
            (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)h->o.tls_key};
    }
    return MHD_start_daemon(flags, 0, NULL, NULL, on_request, h, MHD_OPTION_ARRAY, options,
                            MHD_OPTION_END);
}

int http_open(struct http **out, const struct http_options *o, struct err *e)
{
    struct http *h = xcalloc(1, sizeof(*h));
    h->o = *o;
    h->listen_fd = listen_socket(o->config->host, (int)o->config->port, e);
    if (h->listen_fd < 0) {
        free(h);
        return ERR_IO;
    }
    h->port = bound_port(h->listen_fd);
    h->daemon = start_daemon(h);
    if (!h->daemon) {
        close(h->listen_fd);
        free(h);
        return err_set(e, ERR_IO, "the HTTP server does not start%s",
                       o->tls_cert ? " (are the certificate and key valid PEM?)" : "");
    }
    h->alive = respond_alive();
    int epoll_fd = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    uv_poll_init(o->loop, &h->epoll, epoll_fd);
    uv_timer_init(o->loop, &h->timeout);
    uv_timer_init(o->loop, &h->tick);
    uv_idle_init(o->loop, &h->again);
    h->open_handles = 4;
    h->epoll.data = h->timeout.data = h->tick.data = h->again.data = h;
    uv_poll_start(&h->epoll, UV_READABLE, on_epoll);
    uv_timer_start(&h->tick, on_tick, 1000, 1000);
    http_drive(h);
    *out = h;
    return 0;
}

int http_port(const struct http *h)
{
    return h->port;
}

void http_refuse(struct http *h)
{
    h->refusing = true;
}

void http_stop_listening(struct http *h)
{
    if (h->listen_fd < 0)
        return;
    MHD_quiesce_daemon(h->daemon); /* leaves the socket open: close it, or clients hang in it */
    close(h->listen_fd);
    h->listen_fd = -1;
}

int http_in_flight(const struct http *h)
{
    return h->in_flight;
}

void http_cancel_all(struct http *h)
{
    for (struct conn *c = h->conns; c; c = c->next) {
        atomic_store(&c->gone, true);
        if (c->call && c->call->job)
            job_cancel(c->call->job);
    }
    api_jobs_cancel(h->o.api);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct http *h = handle->data;
    if (--h->open_handles == 0)
        free(h);
}

void http_close(struct http *h)
{
    http_stop_listening(h);
    http_cancel_all(h);
    while (h->working) /* they use the engine, which closes next */
        uv_run(h->o.loop, UV_RUN_ONCE);
    for (struct conn *c = h->conns; c; c = c->next) {
        c->client_gone = true;
        shutdown(c->fd, SHUT_RDWR);
        http_resume(c); /* MHD_stop_daemon aborts on suspended connections */
    }
    MHD_run(h->daemon);
    uv_poll_stop(&h->epoll);
    MHD_stop_daemon(h->daemon);
    h->daemon = NULL;
    MHD_destroy_response(h->alive);
    uv_close((uv_handle_t *)&h->epoll, on_handle_closed);
    uv_close((uv_handle_t *)&h->timeout, on_handle_closed);
    uv_close((uv_handle_t *)&h->tick, on_handle_closed);
    uv_close((uv_handle_t *)&h->again, on_handle_closed);
}
