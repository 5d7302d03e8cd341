/* Whether the client is still there.  While a request waits for its answer nobody else looks: libmicrohttpd
 * does not watch suspended connections.
 *
 * The end of what a client sends says that it has left, or only that it sends no more (`nc -N`, shutdown), and
 * looks alike.  What is sent to it tells: who has left answers with a reset, which comes at once.  So it is
 * sent something that every client reads past: a comment of an event stream, or the interim answer 100, which
 * HTTP/1.1 allows before any answer (RFC 9110, 15.2); and again from time to time (deadlines.c), since it may
 * leave later without another sign.  Where neither may be sent, with TLS or HTTP/1.0, it counts as left. */
#include <sys/socket.h>

#include "server/conn.h"

void peer_left(struct conn *c)
{
    c->client_gone = true;
    atomic_store(&c->gone, true);
}

static bool is_reading(const struct conn *c)
{
    return c->phase == PHASE_FRESH || c->phase == PHASE_IDLE || c->phase == PHASE_BODY;
}

bool peer_ask(struct conn *c)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    const ssize_t n = (ssize_t)sizeof(interim) - 1;
    struct api_call *call = c->call;
    if (!c->responded && c->may_interim)
        return send(c->fd, interim, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) == n;
    if (!call || !call->stream)
        return false;
    if (!call->status)
        call->status = 200; /* as deadlines.c does it */
    if (!call->out.len)
        buf_adds(&call->out, ": half closed\n\n");
    http_resume(c);
    return true;
}

/* The client waits and has closed, or half closed, or a reset came. */
static void end_of_waiting(struct conn *c, bool reset)
{
    if (!reset && !c->half_closed && peer_ask(c)) {
        c->half_closed = true;
        uv_poll_stop(&c->watch);
        if (c->suspended)
            peer_watch(c);
        return;
    }
    peer_left(c);
    if (c->call && c->call->job)
        job_cancel(c->call->job);
    shutdown(c->fd, SHUT_RDWR);
    http_resume(c);
}

/* While the client still sends, libmicrohttpd 0.9.75 misses an end that came together with the last bytes: its
 * epoll tells edges, and a short read makes it wait for the next one.  Closing our side for reading makes that
 * edge; bytes that came are read first. */
static void on_end(uv_poll_t *watch, int status, int events)
{
    struct conn *c = watch->data;
    if (status == 0 && !events)
        return;
    if (c->suspended) {
        end_of_waiting(c, status != 0);
    } else if (is_reading(c)) {
        shutdown(c->fd, SHUT_RD);
    } else {
        uv_poll_stop(watch); /* an answer goes out: until it is suspended, or complete */
        return;
    }
    http_drive(c->http);
}

/* libmicrohttpd 0.9.75 reads from a connection that waited for its first answer before it asks for the answer,
 * and takes the end of what a client sends for its leaving.  Only connections with a time limit of their own it
 * asks first; so while one waits its limit is another. */
void peer_answer_first(struct conn *c, bool on)
{
    const unsigned s = (unsigned)c->http->o.config->idle_timeout_s;
    if (c->answers_first != on)
        MHD_set_connection_option(c->mhd, MHD_CONNECTION_OPTION_TIMEOUT, s + on);
    c->answers_first = on;
}

/* Of one that has half closed only resets are news.  They come unasked; urgent data, which nobody sends, stands
 * for them since something has to be asked for. */
void peer_watch(struct conn *c)
{
    if (c->watch_open && !uv_is_active((uv_handle_t *)&c->watch))
        uv_poll_start(&c->watch, c->half_closed ? UV_PRIORITIZED : UV_DISCONNECT, on_end);
}

void peer_next(struct conn *c)
{
    if (c->watch_open && c->half_closed)
        uv_poll_stop(&c->watch);
    c->half_closed = false;
    peer_watch(c);
}

void peer_open(struct conn *c)
{
    if (uv_poll_init(c->http->o.loop, &c->watch, c->fd))
        return;
    c->watch_open = true;
    c->watch.data = c;
    c->refs++;
    peer_watch(c);
}

static void on_closed(uv_handle_t *handle)
{
    http_unref(handle->data);
}

void peer_close(struct conn *c)
{
    if (c->watch_open)
        uv_close((uv_handle_t *)&c->watch, on_closed);
    c->watch_open = false;
}
