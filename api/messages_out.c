/* What a prompt found in the cache is not among input_tokens there, but beside them. */
#include "api/messages_out.h"

#include <stdlib.h>
#include <string.h>

#include "api/call.h"

struct messages_out {
    char id[ANSWER_ID_MAX];
    struct render_options o;
    struct answer answer;
    struct job_usage usage;
    bool begun;
};

struct messages_out *messages_out_open(void)
{
    struct messages_out *m = mem_try(1, sizeof *m);
    if (m != NULL)
        answer_id(m->id, "msg");
    return m;
}

static void close_out(void *answer)
{
    struct messages_out *m = answer;
    answer_close(&m->answer);
    free(m);
}

static int start(void *answer, const struct render_options *o, struct err *e)
{
    struct messages_out *m = answer;
    m->o = *o;
    m->usage.prompt_tokens = o->prompt_tokens;
    return answer_open(&m->answer, o, o->max_bytes, e);
}

/* ---- parts of the message ---- */

static const char *stop_reason(const struct messages_out *m)
{
    return m->answer.finish == FINISH_NONE     ? NULL
           : m->answer.finish == FINISH_LENGTH ? "max_tokens"
           : m->answer.finish == FINISH_FILTER ? "refusal"
           : answer_calls(&m->answer) > 0      ? "tool_use"
           : m->answer.stop.len > 0            ? "stop_sequence"
                                               : "end_turn";
}

static void put_stop(const struct messages_out *m, struct json_writer *w)
{
    json_put_str(w, "stop_reason", stop_reason(m));
    json_put_str(w, "stop_sequence", m->answer.stop.len > 0 ? buf_str(&m->answer.stop) : NULL);
}

static void put_usage(const struct messages_out *m, struct json_writer *w)
{
    const struct job_usage *u = &m->usage;
    json_open(w, "usage", '{');
    json_put_int(w, "input_tokens", u->prompt_tokens - u->cached_tokens);
    json_put_int(w, "cache_creation_input_tokens", 0);
    json_put_int(w, "cache_read_input_tokens", u->cached_tokens);
    json_put_int(w, "output_tokens", u->completion_tokens);
    json_close(w, '}');
}

static const char *const types[ANSWER_TEXTS] = {"thinking", "text"}; /* also the key of the text */

/* Without what it says (empty), as a stream begins it.  A signature is what Anthropic's own servers check. */
static void put_text(const struct messages_out *m, struct json_writer *w, const char *key,
                     enum answer_kind kind, bool empty)
{
    const struct buf *text = &m->answer.texts[kind].text;
    json_open(w, key, '{');
    json_put_str(w, "type", types[kind]);
    json_put_strn(w, types[kind], empty ? "" : buf_str(text), empty ? 0 : text->len);
    if (kind == ANSWER_THOUGHT)
        json_put_str(w, "signature", "");
    json_close(w, '}');
}

/* Arguments that were cut off are no object: none, then. */
static void put_call(struct json_writer *w, const char *key, const struct tool_call *c, bool empty)
{
    const bool whole =
        !empty && json_scan(c->arguments, c->n_arguments, &json_limits_default, NULL) == 0;
    json_open(w, key, '{');
    json_put_str(w, "type", "tool_use");
    json_put_str(w, "id", c->id);
    json_put_str(w, "name", c->name);
    json_put_raw(w, "input", whole ? c->arguments : "{}", whole ? c->n_arguments : 2);
    json_close(w, '}');
}

static void put_message(const struct messages_out *m, struct json_writer *w, const char *key,
                        bool empty)
{
    json_open(w, key, '{');
    json_put_str(w, "id", m->id);
    json_put_str(w, "type", "message");
    json_put_str(w, "role", "assistant");
    json_put_str(w, "model", m->o.model);
    json_open(w, "content", '[');
    for (int i = 0; !empty && i < ANSWER_TEXTS; i++)
        if (answer_has(&m->answer, (enum answer_kind)i))
            put_text(m, w, NULL, (enum answer_kind)i, false);
    for (int i = 0; !empty && i < answer_calls(&m->answer); i++) {
        const struct tool_call c = tool_parse_call(m->answer.calls, i);
        put_call(w, NULL, &c, false);
    }
    json_close(w, ']');
    put_stop(m, w);
    put_usage(m, w);
    json_close(w, '}');
}

/* ---- streams ---- */

static void open_event(const char *type, struct json_writer *w, struct buf *out)
{
    buf_printf(out, "event: %s\ndata: ", type);
    json_begin(w, out);
    json_open(w, NULL, '{');
    json_put_str(w, "type", type);
}

static void close_event(struct json_writer *w, struct buf *out)
{
    json_close(w, '}');
    buf_adds(out, "\n\n");
}

static void send_delta(int index, const char *type, const char *key, const char *s, size_t n,
                       struct buf *out)
{
    struct json_writer w;
    open_event("content_block_delta", &w, out);
    json_put_int(&w, "index", index);
    json_open(&w, "delta", '{');
    json_put_str(&w, "type", type);
    json_put_strn(&w, key, s, n);
    json_close(&w, '}');
    close_event(&w, out);
}

static void send_end(int index, struct buf *out)
{
    struct json_writer w;
    open_event("content_block_stop", &w, out);
    json_put_int(&w, "index", index);
    close_event(&w, out);
}

static void text_begins(void *ctx, enum answer_kind kind, int index, struct buf *out)
{
    struct json_writer w;
    open_event("content_block_start", &w, out);
    json_put_int(&w, "index", index);
    put_text(ctx, &w, "content_block", kind, true);
    close_event(&w, out);
}

static void text_grows(void *ctx, enum answer_kind kind, int index, const char *s, size_t n,
                       struct buf *out)
{
    static const char *const deltas[ANSWER_TEXTS] = {"thinking_delta", "text_delta"};
    (void)ctx;
    send_delta(index, deltas[kind], types[kind], s, n, out);
}

static void text_ends(void *ctx, enum answer_kind kind, int index, struct buf *out)
{
    (void)ctx;
    (void)kind;
    send_end(index, out);
}

static void call_begins(void *ctx, const struct tool_call *c, int index, struct buf *out)
{
    struct json_writer w;
    (void)ctx;
    open_event("content_block_start", &w, out);
    json_put_int(&w, "index", index);
    put_call(&w, "content_block", c, true);
    close_event(&w, out);
}

static void call_grows(void *ctx, const struct tool_call *c, int index, const char *s, size_t n,
                       struct buf *out)
{
    (void)ctx;
    (void)c;
    send_delta(index, "input_json_delta", "partial_json", s, n, out);
}

static void call_ends(void *ctx, const struct tool_call *c, int index, struct buf *out)
{
    (void)ctx;
    (void)c;
    send_end(index, out);
}

static const struct answer_sink sink = {.text_begins = text_begins,
                                        .text = text_grows,
                                        .text_ends = text_ends,
                                        .call_begins = call_begins,
                                        .call = call_grows,
                                        .call_ends = call_ends};

static void begin_stream(struct messages_out *m, struct buf *out)
{
    struct json_writer w;
    if (m->begun)
        return;
    m->begun = true;
    open_event("message_start", &w, out);
    put_message(m, &w, "message", true);
    close_event(&w, out);
}

static void end_stream(const struct messages_out *m, struct buf *out)
{
    struct json_writer w;
    open_event("message_delta", &w, out);
    json_open(&w, "delta", '{');
    put_stop(m, &w);
    json_close(&w, '}');
    put_usage(m, &w);
    close_event(&w, out);
    open_event("message_stop", &w, out);
    close_event(&w, out);
}

/* ---- what a call wants ---- */

static int take_event(void *answer, const struct event *ev, struct buf *out, struct err *e)
{
    struct messages_out *m = answer;
    struct json_writer w;
    if (m->o.stream)
        begin_stream(m, out);
    answer_take(&m->answer, ev);
    if (m->o.stream) {
        answer_tell(&m->answer, &sink, m, out);
        answer_forget(&m->answer);
    }
    if (ev->kind == EV_DONE) {
        m->usage = ev->usage;
        json_begin(&w, out);
        if (m->o.stream)
            end_stream(m, out);
        else
            put_message(m, &w, NULL, false);
    }
    return answer_check(&m->answer, 0, out->failed, e);
}

void messages_out_error(struct buf *out, int status, const struct err *e)
{
    static const struct {
        int status;
        const char *type;
    } names[] = {{400, "invalid_request_error"}, {401, "authentication_error"},
                 {403, "permission_error"},      {404, "not_found_error"},
                 {413, "request_too_large"},     {429, "rate_limit_error"},
                 {503, "overloaded_error"}};
    const char *type = status >= 500 ? "api_error" : "invalid_request_error";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].status == status)
            type = names[i].type;
    char msg[sizeof e->msg];
    error_scrub(msg, sizeof msg, e->msg);
    struct json_writer w;
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "type", "error");
    json_open(&w, "error", '{');
    json_put_str(&w, "type", type);
    json_put_str(&w, "message", status >= 500 ? msg : e->msg);
    json_put_str(&w, "param", e->param[0] != '\0' ? e->param : NULL);
    json_put_str(&w, "code", error_code_word(e, status));
    json_close(&w, '}');
    json_close(&w, '}');
}

static void send_failed(void *answer, struct buf *out, int status, const struct err *err)
{
    (void)answer;
    buf_adds(out, "event: error\ndata: ");
    messages_out_error(out, status, err);
    buf_adds(out, "\n\n");
}

static size_t room(const void *answer)
{
    (void)answer;
    return 0;
}

static const char *finish(const void *answer)
{
    const struct messages_out *m = answer;
    return answer_finish(&m->answer);
}

const struct api_dialect messages_out_dialect = {.start = start,
                                                 .event = take_event,
                                                 .failed = send_failed,
                                                 .room = room,
                                                 .finish = finish,
                                                 .close = close_out};
