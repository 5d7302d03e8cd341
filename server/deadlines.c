/* Time limits of connections, looked at once a second.  libmicrohttpd's own timeout starts anew with
 * every byte, so a client that trickles would hold a connection for ever. */
#include <sys/socket.h>

#include "base/clock.h"
#include "server/conn.h"

/* Seconds that so many bytes may take: 1 KiB/s, and 64 KiB/s beyond the first MiB, which only uploads
 * have, so that a slow client does not hold much memory for long. */
static int64_t body_s(int64_t bytes)
{
    int64_t first = bytes < 1 << 20 ? bytes : 1 << 20;
    return first / 1024 + (bytes - first) / (64 * 1024);
}

static bool is_late(const struct conn *c, int64_t now_us)
{
    const struct config *config = c->http->o.config;
    int64_t s = (now_us - c->phase_us) / 1000000;
    switch (c->phase) {
    case PHASE_FRESH:
        return s >= config->header_timeout_s;
    case PHASE_IDLE:
        return s >= config->idle_timeout_s;
    case PHASE_BODY:
        return s >= config->body_timeout_s + body_s((int64_t)(c->body.len + c->body_dropped));
    case PHASE_WORK:
        return false;
    case PHASE_ANSWER:
        return !c->suspended && s >= config->write_timeout_s;
    }
    return false;
}

/* A silent stream gets a comment, so that proxies keep it and a dead peer is found out; who has half closed
 * and waits for another answer is asked anew. */
static void keep_alive(struct conn *c, int64_t now_us)
{
    struct api_call *call = c->call;
    int64_t every_us = c->http->o.config->sse_keepalive_s * 1000000;
    if (!c->suspended || now_us - c->phase_us < every_us)
        return;
    if (!call || !call->stream) {
        if (c->half_closed && peer_ask(c))
            c->phase_us = now_us;
        return;
    }
    if (call->state != API_RUNNING || call->out.len)
        return;
    if (!call->status)
        call->status = 200; /* waiting in the queue: from here on errors are events */
    buf_adds(&call->out, ": keep-alive\n\n");
    c->phase_us = now_us;
    http_resume(c);
}

void deadlines_check(struct http *h)
{
    int64_t now_us = clock_us();
    api_jobs_expire(h->o.api);
    for (struct conn *c = h->conns; c; c = c->next) {
        if (!is_late(c, now_us)) {
            keep_alive(c, now_us);
            continue;
        }
        if (c->phase == PHASE_BODY)
            respond_late(c);
        shutdown(c->fd, SHUT_RDWR);
    }
}
