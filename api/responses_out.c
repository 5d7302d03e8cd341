/* An answer has at most one message, in front of the calls, since a chat's answer is one turn.  What was said stays
 * until the end, also in a stream: the last events repeat it. */
#include "api/responses_out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "api/tool_parse.h"
#include "base/clock.h"

enum {
    REPEATS = 8, /* how often the last events of a stream have the whole answer, and some */
    ECHO_MAX = 64 << 20
};

enum message { MESSAGE_NONE, MESSAGE_OPEN, MESSAGE_CLOSED };

struct responses_out {
    char id[RESPONSE_ID_MAX], message_id[RESPONSE_ID_MAX];
    struct responses_store *store;
    int owner;
    struct buf echo;  /* members of the object that repeat the request */
    struct buf items; /* the conversation before this answer */
    struct render_options o;
    int64_t sequence; /* of the next event */
    bool begun;
    struct tool_parse *calls; /* NULL: there can be none */
    struct buf text;
    struct buf tokens, fresh; /* logprobs, with commas: of what is out, and of what is not */
    size_t n_text_out;
    enum message message;
    int n_calls_out; /* whole ones */
    bool call_open;  /* the next one has been announced */
    size_t n_arguments_out;
    enum finish finish;
    struct job_usage usage;
};

/* ---- what the request said ---- */

static void put_or_null(struct json_writer *w, const struct cJSON *body, const char *key)
{
    const struct cJSON *v = json_get(body, key);
    if (v != NULL)
        json_put_node(w, key, v);
    else
        json_put_null(w, key);
}

static void put_or(struct json_writer *w, const struct cJSON *body, const char *key,
                   const char *otherwise)
{
    const struct cJSON *v = json_get(body, key);
    if (json_type(v) != JSON_NULL)
        json_put_node(w, key, v);
    else
        json_put_raw(w, key, otherwise, strlen(otherwise));
}

static void put_echo(struct buf *echo, const struct cJSON *body, bool kept)
{
    static const char *const same[] = {"instructions",
                                       "max_output_tokens",
                                       "max_tool_calls",
                                       "previous_response_id",
                                       "prompt_cache_key",
                                       "safety_identifier",
                                       "user"};
    static const char *const defaults[][2] = {
        {"metadata", "{}"},          {"parallel_tool_calls", "true"},
        {"temperature", "1.0"},      {"top_p", "1.0"},
        {"top_logprobs", "0"},       {"tools", "[]"},
        {"tool_choice", "\"auto\""}, {"truncation", "\"disabled\""}};
    const struct cJSON *text = json_get(body, "text"), *reasoning = json_get(body, "reasoning");
    struct json_writer w;
    json_begin(&w, echo);
    json_put_bool(&w, "background", false);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        put_or_null(&w, body, same[i]);
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        put_or(&w, body, defaults[i][0], defaults[i][1]);
    json_open(&w, "text", '{');
    put_or(&w, text, "format", "{\"type\":\"text\"}");
    put_or(&w, text, "verbosity", "\"medium\"");
    json_close(&w, '}');
    json_open(&w, "reasoning", '{');
    put_or_null(&w, reasoning, "effort");
    put_or_null(&w, reasoning, "summary");
    json_close(&w, '}');
    json_put_str(&w, "service_tier", "default");
    json_put_bool(&w, "store", kept);
}

struct responses_out *responses_out_open(const struct responses_out_options *o)
{
    struct responses_out *r = mem_try(1, sizeof *r);
    if (r == NULL)
        return NULL;
    responses_store_id(r->id, "resp");
    responses_store_id(r->message_id, "msg");
    r->store = o->store;
    r->owner = o->owner;
    r->items = *o->items;
    *o->items = (struct buf){.max = o->items->max};
    buf_init(&r->echo, ECHO_MAX);
    put_echo(&r->echo, o->body, o->store != NULL);
    return r;
}

void responses_out_close(struct responses_out *r)
{
    if (r == NULL)
        return;
    tool_parse_close(r->calls);
    buf_free(&r->echo);
    buf_free(&r->items);
    buf_free(&r->text);
    buf_free(&r->tokens);
    buf_free(&r->fresh);
    free(r);
}

int responses_out_start(struct responses_out *r, const struct render_options *o, struct err *e)
{
    r->o = *o;
    const size_t max = o->stream ? o->max_bytes / REPEATS : o->max_bytes;
    buf_init(&r->text, max);
    buf_init(&r->tokens, max);
    buf_init(&r->fresh, max);
    if (o->tools != NULL && (r->calls = tool_parse_open(o->tools, o->tool_json, max)) == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the answer");
    return 0;
}

/* ---- parts of the object ---- */

static const char *status_of(const struct responses_out *r)
{
    return r->finish == FINISH_NONE     ? "in_progress"
           : r->finish == FINISH_LENGTH ? "incomplete"
                                        : "completed";
}

const char *responses_out_finish(const struct responses_out *r)
{
    return r->finish == FINISH_LENGTH       ? "length"
           : r->finish == FINISH_NONE       ? NULL
           : tool_parse_calls(r->calls) > 0 ? "tool_calls"
                                            : "stop";
}

static bool has_message(const struct responses_out *r)
{
    return r->text.len > 0 || tool_parse_calls(r->calls) == 0;
}

static void put_tokens(struct json_writer *w, const struct buf *b)
{
    json_open(w, "logprobs", '[');
    if (b->len > 0)
        json_put_raw(w, NULL, b->data, b->len);
    json_close(w, ']');
}

/* empty: as it is when nothing of it was said yet. */
static void put_part(const struct responses_out *r, struct json_writer *w, const char *key,
                     bool empty)
{
    const struct buf none = {0};
    json_open(w, key, '{');
    json_put_str(w, "type", "output_text");
    json_open(w, "annotations", '[');
    json_close(w, ']');
    put_tokens(w, empty ? &none : &r->tokens);
    json_put_strn(w, "text", empty ? "" : buf_str(&r->text), empty ? 0 : r->text.len);
    json_close(w, '}');
}

static void put_message(const struct responses_out *r, struct json_writer *w, const char *key,
                        bool begun)
{
    const bool cut = r->finish == FINISH_LENGTH && tool_parse_calls(r->calls) == 0;
    json_open(w, key, '{');
    json_put_str(w, "id", r->message_id);
    json_put_str(w, "type", "message");
    json_put_str(w, "status", begun ? "in_progress" : cut ? "incomplete" : "completed");
    json_put_str(w, "role", "assistant");
    json_open(w, "content", '[');
    if (!begun)
        put_part(r, w, NULL, false);
    json_close(w, ']');
    json_close(w, '}');
}

static void call_item_id(const struct tool_call *c, char out[RESPONSE_ID_MAX])
{
    const size_t skip = strncmp(c->id, "call_", 5) == 0 ? 5 : 0;
    snprintf(out, RESPONSE_ID_MAX, "fc_%.40s", c->id + skip);
}

static void put_call(struct json_writer *w, const char *key, const struct tool_call *c, bool begun)
{
    char id[RESPONSE_ID_MAX];
    call_item_id(c, id);
    json_open(w, key, '{');
    json_put_str(w, "id", id);
    json_put_str(w, "type", "function_call");
    json_put_str(w, "status", begun ? "in_progress" : c->whole ? "completed" : "incomplete");
    json_put_str(w, "call_id", c->id);
    json_put_str(w, "name", c->name);
    json_put_strn(w, "arguments", begun ? "" : c->arguments, begun ? 0 : c->n_arguments);
    json_close(w, '}');
}

static void put_output(const struct responses_out *r, struct json_writer *w)
{
    if (has_message(r))
        put_message(r, w, NULL, false);
    for (int i = 0; i < tool_parse_calls(r->calls); i++) {
        const struct tool_call call = tool_parse_call(r->calls, i);
        put_call(w, NULL, &call, false);
    }
}

static void put_usage(const struct responses_out *r, struct json_writer *w)
{
    const struct job_usage *u = &r->usage;
    json_open(w, "usage", '{');
    json_put_int(w, "input_tokens", u->prompt_tokens);
    json_open(w, "input_tokens_details", '{');
    json_put_int(w, "cached_tokens", u->cached_tokens);
    json_put_int(w, "cache_write_tokens", 0);
    json_close(w, '}');
    json_put_int(w, "output_tokens", u->completion_tokens);
    json_open(w, "output_tokens_details", '{');
    json_put_int(w, "reasoning_tokens", 0);
    json_close(w, '}');
    json_put_int(w, "total_tokens", (int64_t)u->prompt_tokens + u->completion_tokens);
    json_close(w, '}');
}

/* The object as it is now; failure NULL: it has not failed. */
static void put_response(const struct responses_out *r, struct json_writer *w, const char *key,
                         const struct err *failure)
{
    const bool ended = r->finish != FINISH_NONE && failure == NULL;
    json_open(w, key, '{');
    json_put_str(w, "id", r->id);
    json_put_str(w, "object", "response");
    json_put_int(w, "created_at", r->o.created);
    if (ended)
        json_put_int(w, "completed_at", clock_unix_s());
    json_put_str(w, "status", failure != NULL ? "failed" : status_of(r));
    if (failure != NULL) {
        char text[sizeof failure->msg];
        error_scrub(text, sizeof text, failure->msg);
        json_open(w, "error", '{');
        json_put_str(w, "code", failure->code == ERR_BUSY ? "rate_limit_exceeded" : "server_error");
        json_put_str(w, "message", text);
        json_close(w, '}');
    } else {
        json_put_null(w, "error");
    }
    if (ended && r->finish == FINISH_LENGTH)
        json_put_raw(w, "incomplete_details", "{\"reason\":\"max_output_tokens\"}",
                     strlen("{\"reason\":\"max_output_tokens\"}"));
    else
        json_put_null(w, "incomplete_details");
    json_put_str(w, "model", r->o.model);
    json_open(w, "output", '[');
    if (ended)
        put_output(r, w);
    json_close(w, ']');
    json_put_raw(w, NULL, buf_str(&r->echo), r->echo.len);
    if (ended)
        put_usage(r, w);
    else
        json_put_null(w, "usage");
    json_close(w, '}');
}

/* ---- streams ---- */

static void open_event(struct responses_out *r, const char *type, struct json_writer *w,
                       struct buf *out)
{
    buf_printf(out, "event: %s\ndata: ", type);
    json_begin(w, out);
    json_open(w, NULL, '{');
    json_put_str(w, "type", type);
    json_put_int(w, "sequence_number", r->sequence++);
}

static void close_event(struct json_writer *w, struct buf *out)
{
    json_close(w, '}');
    buf_adds(out, "\n\n");
}

static void send_response(struct responses_out *r, const char *type, const struct err *failure,
                          struct buf *out)
{
    struct json_writer w;
    open_event(r, type, &w, out);
    put_response(r, &w, "response", failure);
    close_event(&w, out);
}

/* output_item.added (begun) or output_item.done, of the message or of a call. */
static void send_item(struct responses_out *r, const struct tool_call *call, int index, bool begun,
                      struct buf *out)
{
    struct json_writer w;
    open_event(r, begun ? "response.output_item.added" : "response.output_item.done", &w, out);
    json_put_int(&w, "output_index", index);
    if (call != NULL)
        put_call(&w, "item", call, begun);
    else
        put_message(r, &w, "item", begun);
    close_event(&w, out);
}

static void open_text_event(struct responses_out *r, const char *type, struct json_writer *w,
                            struct buf *out)
{
    open_event(r, type, w, out);
    json_put_str(w, "item_id", r->message_id);
    json_put_int(w, "output_index", 0);
    json_put_int(w, "content_index", 0);
}

static void open_message(struct responses_out *r, struct buf *out)
{
    struct json_writer w;
    if (r->message != MESSAGE_NONE)
        return;
    r->message = MESSAGE_OPEN;
    send_item(r, NULL, 0, true, out);
    open_text_event(r, "response.content_part.added", &w, out);
    put_part(r, &w, "part", true);
    close_event(&w, out);
}

/* Logprobs that go out: they are no longer fresh. */
static void keep_tokens(struct responses_out *r)
{
    if (r->fresh.len > 0 && r->tokens.len > 0)
        buf_addc(&r->tokens, ',');
    buf_add(&r->tokens, buf_str(&r->fresh), r->fresh.len);
    buf_clear(&r->fresh);
}

static void send_text(struct responses_out *r, struct buf *out)
{
    struct json_writer w;
    if (r->n_text_out == r->text.len)
        return;
    open_message(r, out);
    open_text_event(r, "response.output_text.delta", &w, out);
    json_put_strn(&w, "delta", buf_str(&r->text) + r->n_text_out, r->text.len - r->n_text_out);
    put_tokens(&w, &r->fresh);
    close_event(&w, out);
    r->n_text_out = r->text.len;
    keep_tokens(r);
}

static void close_message(struct responses_out *r, struct buf *out)
{
    struct json_writer w;
    if (r->message != MESSAGE_OPEN)
        return;
    keep_tokens(r);
    open_text_event(r, "response.output_text.done", &w, out);
    json_put_strn(&w, "text", buf_str(&r->text), r->text.len);
    put_tokens(&w, &r->tokens);
    close_event(&w, out);
    open_text_event(r, "response.content_part.done", &w, out);
    put_part(r, &w, "part", false);
    close_event(&w, out);
    send_item(r, NULL, 0, false, out);
    r->message = MESSAGE_CLOSED;
}

static void open_arguments_event(struct responses_out *r, const char *type,
                                 const struct tool_call *call, int index, struct json_writer *w,
                                 struct buf *out)
{
    char id[RESPONSE_ID_MAX];
    call_item_id(call, id);
    open_event(r, type, w, out);
    json_put_str(w, "item_id", id);
    json_put_int(w, "output_index", index);
}

/* What is new of calls; all: none of them gets any further. */
static void send_calls(struct responses_out *r, bool all, struct buf *out)
{
    struct json_writer w;
    while (r->n_calls_out < tool_parse_calls(r->calls)) {
        const struct tool_call call = tool_parse_call(r->calls, r->n_calls_out);
        close_message(r, out);
        const int index = r->n_calls_out + (r->message != MESSAGE_NONE);
        if (!r->call_open)
            send_item(r, &call, index, true, out);
        r->call_open = true;
        if (call.n_arguments > r->n_arguments_out) {
            open_arguments_event(r, "response.function_call_arguments.delta", &call, index, &w,
                                 out);
            json_put_strn(&w, "delta", call.arguments + r->n_arguments_out,
                          call.n_arguments - r->n_arguments_out);
            close_event(&w, out);
            r->n_arguments_out = call.n_arguments;
        }
        if (!call.whole && !all)
            return;
        open_arguments_event(r, "response.function_call_arguments.done", &call, index, &w, out);
        json_put_str(&w, "name", call.name);
        json_put_strn(&w, "arguments", call.arguments, call.n_arguments);
        close_event(&w, out);
        send_item(r, &call, index, false, out);
        r->n_calls_out++;
        r->call_open = false;
        r->n_arguments_out = 0;
    }
}

static void begin_stream(struct responses_out *r, struct buf *out)
{
    if (r->begun)
        return;
    r->begun = true;
    send_response(r, "response.created", NULL, out);
    send_response(r, "response.in_progress", NULL, out);
}

size_t responses_out_room(const struct responses_out *r)
{
    return r->echo.len;
}

void responses_out_failed(struct responses_out *r, struct buf *out, const struct err *err)
{
    send_response(r, "response.failed", err, out);
}

/* ---- events ---- */

static void keep(struct responses_out *r)
{
    struct responses_kept k = {.items = r->items, .n_input = r->items.len};
    struct json_writer w;
    if (r->store == NULL)
        return;
    buf_init(&k.body, 2 * r->o.max_bytes + ECHO_MAX);
    json_begin(&w, &k.body);
    put_response(r, &w, NULL, NULL);
    k.items.max += 2 * r->o.max_bytes;
    w = (struct json_writer){.out = &k.items, .comma = k.items.len > 0};
    put_output(r, &w);
    if (!k.body.failed && !k.items.failed)
        responses_store_put(r->store, r->owner, r->id, &k);
    buf_free(&k.body);
    r->items = k.items;
}

static void take_tokens(struct responses_out *r, const struct event *ev)
{
    if (!r->o.logprobs || tool_parse_calls(r->calls) > 0) /* they are those of the message */
        return;
    for (int i = 0; i < ev->n_tokens; i++) {
        struct json_writer w = {.out = &r->fresh, .comma = r->fresh.len > 0};
        render_token(&r->o, &w, &ev->tokens[i]);
    }
}

static void take_end(struct responses_out *r, struct buf *out)
{
    if (r->calls != NULL)
        tool_parse_end(r->calls, &r->text);
    if (!r->o.stream) {
        keep_tokens(r);
        return;
    }
    send_text(r, out);
    if (has_message(r))
        open_message(r, out);
    close_message(r, out);
    send_calls(r, true, out);
}

static int check_size(const struct responses_out *r, const struct buf *out, struct err *e)
{
    const bool failed = out->failed || r->text.failed || r->tokens.failed || r->fresh.failed ||
                        r->echo.failed || tool_parse_failed(r->calls);
    const size_t used = r->text.len + r->tokens.len + r->fresh.len + tool_parse_bytes(r->calls);
    if (!failed && used <= r->text.max)
        return 0;
    err_set(e, ERR_TOOBIG, "the answer is larger than %zu bytes; ask for fewer tokens",
            r->text.max);
    return err_reason(e, "answer_too_large");
}

int responses_out_event(struct responses_out *r, const struct event *ev, struct buf *out,
                        struct err *e)
{
    struct json_writer w;
    if (r->o.stream)
        begin_stream(r, out);
    switch (ev->kind) {
    case EV_TEXT:
        take_tokens(r, ev);
        if (r->calls != NULL)
            tool_parse_push(r->calls, ev->text, ev->len, &r->text);
        else
            buf_add(&r->text, ev->text, ev->len);
        if (r->o.stream) {
            send_text(r, out);
            send_calls(r, false, out);
        }
        break;
    case EV_FINISH:
        take_tokens(r, ev);
        r->finish = ev->finish;
        take_end(r, out);
        break;
    case EV_DONE:
        r->usage = ev->usage;
        json_begin(&w, out);
        if (r->o.stream)
            send_response(r,
                          r->finish == FINISH_LENGTH ? "response.incomplete" : "response.completed",
                          NULL, out);
        else
            put_response(r, &w, NULL, NULL);
        if (!out->failed)
            keep(r);
        break;
    default:
        break;
    }
    return check_size(r, out, e);
}
