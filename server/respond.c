/* Answers: errors, complete bodies, event streams, and the routes that the server knows itself. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/json.h"
#include "server/conn.h"

#define STREAM_BLOCK_BYTES (16 * 1024)
#define LARGE_ANSWER_BYTES (64 * 1024) /* larger ones are sent in blocks of this size */
#define METRICS_BYTES_MAX  (4 << 20)

static void put(struct MHD_Response *r, const char *name, const char *value)
{
    MHD_add_response_header(r, name, value);
}

static void put_int(struct MHD_Response *r, const char *name, long long v)
{
    char text[24];
    snprintf(text, sizeof(text), "%lld", v);
    put(r, name, text);
}

static void put_cors(const struct conn *c, struct MHD_Response *r)
{
    put(r, "Access-Control-Allow-Origin", c->origin);
    put(r, "Access-Control-Expose-Headers", "x-request-id, openai-processing-ms, Retry-After");
    put(r, "Vary", "Origin");
}

static enum MHD_Result queue(struct conn *c, int status, struct MHD_Response *r)
{
    put(r, "x-request-id", c->request_id);
    put(r, "X-Content-Type-Options", "nosniff");
    if (c->cors)
        put_cors(c, r);
    if (c->http->refusing)
        put(r, "Connection", "close");
    c->status = status;
    c->responded = true;
    c->phase = PHASE_ANSWER;
    c->phase_us = clock_us();
    enum MHD_Result ok = MHD_queue_response(c->mhd, (unsigned)status, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result queue_text(struct conn *c, int status, const char *type, struct buf *text)
{
    struct MHD_Response *r =
        MHD_create_response_from_buffer(text->len, text->data, MHD_RESPMEM_MUST_COPY);
    buf_free(text);
    put(r, "Content-Type", type);
    return queue(c, status, r);
}

enum MHD_Result respond_error(struct conn *c, int status, const struct err *e, bool close)
{
    struct buf text;
    buf_init(&text, 16 * 1024);
    api_error_body(&text, status, e);
    struct MHD_Response *r =
        MHD_create_response_from_buffer(text.len, text.data, MHD_RESPMEM_MUST_COPY);
    buf_free(&text);
    put(r, "Content-Type", "application/json");
    if (status == 405 && c->allow)
        put(r, "Allow", c->allow);
    if (status == 401)
        put(r, "WWW-Authenticate", "Bearer");
    if (status == 503 || status == 429)
        put(r, "Retry-After", "1");
    if (close && !c->http->refusing)
        put(r, "Connection", "close");
    return queue(c, status, r);
}

void respond_late(struct conn *c)
{
    struct err e = {0};
    struct buf body, text;
    err_set(&e, ERR_INVALID, "the body did not come in time");
    buf_init(&body, 4096);
    buf_init(&text, 8192);
    api_error_body(&body, 408, &e);
    buf_printf(&text,
               "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\n"
               "Content-Length: %zu\r\nx-request-id: %s\r\nConnection: close\r\n\r\n%s",
               body.len, c->request_id, buf_str(&body));
    if (!c->http->o.tls_cert && send(c->fd, text.data, text.len, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        c->status = 408;
    buf_free(&body);
    buf_free(&text);
}

enum MHD_Result respond_preflight(struct conn *c)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    put(r, "Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS");
    put(r, "Access-Control-Allow-Headers", "Authorization, Content-Type, x-request-id, x-api-key");
    put(r, "Access-Control-Max-Age", "600");
    return queue(c, 204, r);
}

/* libmicrohttpd asks for more of a stream: what there is, the end, or suspend until the next wake. */
static ssize_t stream_read(void *cls, uint64_t pos, char *out, size_t max)
{
    (void)pos;
    struct conn *c = cls;
    struct api_call *call = c->call;
    if (!call || c->client_gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    c->phase_us = clock_us();
    size_t left = call->out.len - c->sent;
    if (left) {
        size_t n = left < max ? left : max;
        memcpy(out, call->out.data + c->sent, n);
        c->sent += n;
        /* Not at every read: what stays moves to the front, and that may be megabytes. */
        if (c->sent == call->out.len || c->sent > call->out.len / 8 + STREAM_BLOCK_BYTES) {
            buf_drop(&call->out, c->sent);
            c->sent = 0;
        }
        return (ssize_t)n;
    }
    if (call->state == API_DONE)
        return MHD_CONTENT_READER_END_OF_STREAM;
    http_suspend(c);
    return 0;
}

/* A large answer block by block: one send of megabytes would hold up everybody else, and a client that
 * reads slowly but steadily would look like one that does not read. */
static ssize_t answer_read(void *cls, uint64_t pos, char *out, size_t max)
{
    struct conn *c = cls;
    const struct api_call *call = c->call;
    if (!call || pos >= call->out.len)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t left = call->out.len - (size_t)pos, n = left < max ? left : max;
    c->phase_us = clock_us();
    memcpy(out, call->out.data + pos, n);
    return (ssize_t)n;
}

enum MHD_Result respond_call(struct conn *c)
{
    struct api_call *call = c->call;
    struct MHD_Response *r;
    if (call->stream) {
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, stream_read, c,
                                              NULL);
        put(r, "Cache-Control", "no-cache");
        put(r, "X-Accel-Buffering", "no");
    } else {
        r = call->out.len > LARGE_ANSWER_BYTES
                ? MHD_create_response_from_callback(call->out.len, LARGE_ANSWER_BYTES, answer_read,
                                                    c, NULL)
                : MHD_create_response_from_buffer(call->out.len, call->out.data,
                                                  MHD_RESPMEM_PERSISTENT);
        put_int(r, "openai-processing-ms", (clock_us() - c->start_us) / 1000);
    }
    put(r, "Content-Type", call->content_type);
    if (call->retry_after_s > 0) {
        put_int(r, "Retry-After", call->retry_after_s);
        put_int(r, "retry-after-ms", 1000LL * call->retry_after_s);
        put(r, "x-should-retry", "true");
    }
    return queue(c, call->status, r);
}

/* ------------------------------------------------------------------ health, metrics, version */

struct MHD_Response *respond_alive(void)
{
    static char text[] = "{\"status\":\"ok\"}\n";
    struct MHD_Response *r =
        MHD_create_response_from_buffer(sizeof(text) - 1, text, MHD_RESPMEM_PERSISTENT);
    put(r, "Content-Type", "application/json");
    put(r, "X-Content-Type-Options", "nosniff");
    return r;
}

static enum MHD_Result respond_ok(struct conn *c)
{
    c->status = 200;
    c->responded = true;
    c->phase = PHASE_ANSWER;
    c->phase_us = c->start_us;
    return MHD_queue_response(c->mhd, 200, c->http->alive);
}

/* Some devices have failed, the others serve. */
static enum MHD_Result respond_degraded(struct conn *c)
{
    struct replicas *r = c->http->o.engine;
    struct json_writer w;
    struct buf text;
    buf_init(&text, 16 * 1024);
    json_begin(&w, &text);
    json_open(&w, NULL, '{');
    json_put_str(&w, "status", "degraded");
    json_open(&w, "failed", '[');
    for (int i = 0; i < replicas_n(r); i++) {
        struct err e = {0};
        engine_failure(replicas_at(r, i), &e);
        if (!e.code)
            continue;
        json_open(&w, NULL, '{');
        json_put_str(&w, "device", replicas_device_at(r, i));
        json_put_str(&w, "message", e.msg);
        json_close(&w, '}');
    }
    json_close(&w, ']');
    json_close(&w, '}');
    return queue_text(c, 200, "application/json", &text);
}

/* Ready to serve: loaded, not draining, and the engine's heart beats. */
static enum MHD_Result respond_health(struct conn *c)
{
    struct http *h = c->http;
    enum engine_state state = http_state(h);
    struct engine_stats s;
    replicas_stats(h->o.engine, &s);
    int64_t quiet_us = clock_us() - s.heartbeat_us;
    bool beats = quiet_us < h->o.config->heartbeat_timeout_s * 1000000;
    if (state == ENGINE_READY && beats && !h->refusing)
        return replicas_n_live(h->o.engine) == replicas_n(h->o.engine) ? respond_ok(c)
                                                                       : respond_degraded(c);
    struct err e = {0};
    struct buf text;
    buf_init(&text, 4096);
    const char *status = "failed", *message = "the engine has failed";
    if (h->refusing) {
        status = "draining";
        message = "the server is shutting down";
    } else if (state == ENGINE_LOADING) {
        status = "loading";
        message = "Loading model";
    } else if (state == ENGINE_READY) {
        status = "stalled";
        message = "the engine has made no step for too long";
    } else {
        replicas_failure(h->o.engine, &e);
    }
    struct json_writer w;
    json_begin(&w, &text);
    json_open(&w, NULL, '{');
    json_put_str(&w, "status", status);
    if (state == ENGINE_LOADING)
        json_put_num(&w, "progress", replicas_progress(h->o.engine) / 1000.0);
    json_open(&w, "error", '{');
    json_put_str(&w, "message", e.code ? e.msg : message);
    json_put_str(&w, "type", "unavailable_error");
    json_put_null(&w, "param");
    json_put_int(&w, "code", 503);
    json_close(&w, '}');
    json_close(&w, '}');
    struct MHD_Response *r =
        MHD_create_response_from_buffer(text.len, text.data, MHD_RESPMEM_MUST_COPY);
    buf_free(&text);
    put(r, "Content-Type", "application/json");
    put(r, "Retry-After", "1");
    return queue(c, 503, r);
}

enum MHD_Result respond_builtin(struct conn *c)
{
    struct http *h = c->http;
    const char *path = c->route->path;
    struct buf text;
    if (!strcmp(path, "/health") || !strcmp(path, "/ready") || !strcmp(path, "/ping"))
        return respond_health(c);
    if (!strcmp(path, "/live"))
        return respond_ok(c);
    buf_init(&text, METRICS_BYTES_MAX);
    if (!strcmp(path, "/metrics")) {
        metrics_render(h->o.metrics, &text);
        return queue_text(c, 200, "text/plain; version=0.0.4; charset=utf-8", &text);
    }
    struct json_writer w;
    json_begin(&w, &text);
    json_open(&w, NULL, '{');
    json_put_str(&w, "version", h->o.version);
    json_close(&w, '}');
    return queue_text(c, 200, "application/json", &text);
}
