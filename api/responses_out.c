/* An answer has at most one item of thoughts, then one message, then the calls, since a chat's answer is one turn.
 * What was said stays until the end, also in a stream: the last events repeat it. */
#include "api/responses_out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/answer.h"
#include "api/call.h"
#include "base/clock.h"

enum {
    REPEATS = 8, /* how often the last events of a stream have the whole answer, and some */
    ECHO_MAX = 64 << 20
};

struct responses_out {
    char id[ANSWER_ID_MAX];
    char item_ids[ANSWER_TEXTS][ANSWER_ID_MAX];
    struct responses_store *store;
    int owner;
    struct buf echo;  /* members of the object that repeat the request */
    struct buf items; /* the conversation before this answer */
    struct render_options o;
    int64_t sequence; /* of the next event */
    bool begun;
    struct answer answer;
    struct buf tokens, fresh; /* logprobs, with commas: of what is out, and of what is not */
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
    answer_id(r->id, "resp");
    answer_id(r->item_ids[ANSWER_THOUGHT], "rs");
    answer_id(r->item_ids[ANSWER_TEXT], "msg");
    r->store = o->store;
    r->owner = o->owner;
    r->items = *o->items;
    *o->items = (struct buf){.max = o->items->max};
    buf_init(&r->echo, ECHO_MAX);
    put_echo(&r->echo, o->body, o->store != NULL);
    return r;
}

static void close_out(void *answer)
{
    struct responses_out *r = answer;
    answer_close(&r->answer);
    buf_free(&r->echo);
    buf_free(&r->items);
    buf_free(&r->tokens);
    buf_free(&r->fresh);
    free(r);
}

static int start(void *answer, const struct render_options *o, struct err *e)
{
    struct responses_out *r = answer;
    r->o = *o;
    const size_t max = o->stream ? o->max_bytes / REPEATS : o->max_bytes;
    buf_init(&r->tokens, max);
    buf_init(&r->fresh, max);
    return answer_open(&r->answer, o, max, e);
}

/* ---- parts of the object ---- */

static bool cut_off(const struct responses_out *r)
{
    return r->answer.finish == FINISH_LENGTH || r->answer.finish == FINISH_FILTER;
}

static const char *status_of(const struct responses_out *r)
{
    return r->answer.finish == FINISH_NONE ? "in_progress"
           : cut_off(r)                    ? "incomplete"
                                           : "completed";
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
                     enum answer_kind kind, bool empty)
{
    const struct buf none = {0}, *text = &r->answer.texts[kind].text;
    json_open(w, key, '{');
    json_put_str(w, "type", kind == ANSWER_TEXT ? "output_text" : "reasoning_text");
    if (kind == ANSWER_TEXT) {
        json_open(w, "annotations", '[');
        json_close(w, ']');
        put_tokens(w, empty ? &none : &r->tokens);
    }
    json_put_strn(w, "text", empty ? "" : buf_str(text), empty ? 0 : text->len);
    json_close(w, '}');
}

/* The item of what is said, or thought. */
static void put_text(const struct responses_out *r, struct json_writer *w, const char *key,
                     enum answer_kind kind, bool begun)
{
    const bool last = answer_calls(&r->answer) == 0 &&
                      (kind == ANSWER_TEXT || !answer_has(&r->answer, ANSWER_TEXT));
    const bool cut = cut_off(r) && last;
    json_open(w, key, '{');
    json_put_str(w, "id", r->item_ids[kind]);
    json_put_str(w, "type", kind == ANSWER_TEXT ? "message" : "reasoning");
    json_put_str(w, "status", begun ? "in_progress" : cut ? "incomplete" : "completed");
    if (kind == ANSWER_TEXT) {
        json_put_str(w, "role", "assistant");
    } else {
        json_open(w, "summary", '[');
        json_close(w, ']');
    }
    json_open(w, "content", '[');
    if (!begun)
        put_part(r, w, NULL, kind, false);
    json_close(w, ']');
    json_close(w, '}');
}

static void call_item_id(const struct tool_call *c, char out[ANSWER_ID_MAX])
{
    const size_t skip = strncmp(c->id, "call_", 5) == 0 ? 5 : 0;
    snprintf(out, ANSWER_ID_MAX, "fc_%.40s", c->id + skip);
}

static void put_call(struct json_writer *w, const char *key, const struct tool_call *c, bool begun)
{
    char id[ANSWER_ID_MAX];
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
    for (int i = 0; i < ANSWER_TEXTS; i++)
        if (answer_has(&r->answer, (enum answer_kind)i))
            put_text(r, w, NULL, (enum answer_kind)i, false);
    for (int i = 0; i < answer_calls(&r->answer); i++) {
        const struct tool_call call = tool_parse_call(r->answer.calls, i);
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
    json_put_int(w, "reasoning_tokens", r->answer.think.n_tokens);
    json_close(w, '}');
    json_put_int(w, "total_tokens", (int64_t)u->prompt_tokens + u->completion_tokens);
    json_close(w, '}');
}

/* The object as it is now; failure NULL: it has not failed. */
static void put_response(const struct responses_out *r, struct json_writer *w, const char *key,
                         const struct err *failure)
{
    const bool ended = r->answer.finish != FINISH_NONE && failure == NULL;
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
    if (ended && cut_off(r)) {
        json_open(w, "incomplete_details", '{');
        json_put_str(w, "reason",
                     r->answer.finish == FINISH_FILTER ? "content_filter" : "max_output_tokens");
        json_close(w, '}');
    } else {
        json_put_null(w, "incomplete_details");
    }
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

/* output_item.added (begun) or output_item.done, up to the item. */
static void open_item_event(struct responses_out *r, int index, bool begun, struct json_writer *w,
                            struct buf *out)
{
    open_event(r, begun ? "response.output_item.added" : "response.output_item.done", w, out);
    json_put_int(w, "output_index", index);
}

static void send_text(struct responses_out *r, enum answer_kind kind, bool begun, struct buf *out)
{
    struct json_writer w;
    open_item_event(r, answer_index(&r->answer, kind), begun, &w, out);
    put_text(r, &w, "item", kind, begun);
    close_event(&w, out);
}

static void send_call(struct responses_out *r, const struct tool_call *call, int index, bool begun,
                      struct buf *out)
{
    struct json_writer w;
    open_item_event(r, index, begun, &w, out);
    put_call(&w, "item", call, begun);
    close_event(&w, out);
}

static void open_text_event(struct responses_out *r, const char *type, enum answer_kind kind,
                            struct json_writer *w, struct buf *out)
{
    open_event(r, type, w, out);
    json_put_str(w, "item_id", r->item_ids[kind]);
    json_put_int(w, "output_index", answer_index(&r->answer, kind));
    json_put_int(w, "content_index", 0);
}

static void send_part(struct responses_out *r, const char *type, enum answer_kind kind, bool empty,
                      struct buf *out)
{
    struct json_writer w;
    open_text_event(r, type, kind, &w, out);
    put_part(r, &w, "part", kind, empty);
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

static void text_begins(void *ctx, enum answer_kind kind, int index, struct buf *out)
{
    (void)index;
    send_text(ctx, kind, true, out);
    send_part(ctx, "response.content_part.added", kind, true, out);
}

static void text_grows(void *ctx, enum answer_kind kind, int index, const char *s, size_t n,
                       struct buf *out)
{
    static const char *const types[ANSWER_TEXTS] = {"response.reasoning_text.delta",
                                                    "response.output_text.delta"};
    struct responses_out *r = ctx;
    struct json_writer w;
    (void)index;
    open_text_event(r, types[kind], kind, &w, out);
    json_put_strn(&w, "delta", s, n);
    if (kind == ANSWER_TEXT)
        put_tokens(&w, &r->fresh);
    close_event(&w, out);
    if (kind == ANSWER_TEXT)
        keep_tokens(r);
}

static void text_ends(void *ctx, enum answer_kind kind, int index, struct buf *out)
{
    static const char *const types[ANSWER_TEXTS] = {"response.reasoning_text.done",
                                                    "response.output_text.done"};
    struct responses_out *r = ctx;
    const struct buf *text = &r->answer.texts[kind].text;
    struct json_writer w;
    (void)index;
    if (kind == ANSWER_TEXT)
        keep_tokens(r);
    open_text_event(r, types[kind], kind, &w, out);
    json_put_strn(&w, "text", buf_str(text), text->len);
    if (kind == ANSWER_TEXT)
        put_tokens(&w, &r->tokens);
    close_event(&w, out);
    send_part(r, "response.content_part.done", kind, false, out);
    send_text(r, kind, false, out);
}

static void open_call_event(struct responses_out *r, const char *type, const struct tool_call *c,
                            int index, struct json_writer *w, struct buf *out)
{
    char id[ANSWER_ID_MAX];
    call_item_id(c, id);
    open_event(r, type, w, out);
    json_put_str(w, "item_id", id);
    json_put_int(w, "output_index", index);
}

static void call_begins(void *ctx, const struct tool_call *c, int index, struct buf *out)
{
    send_call(ctx, c, index, true, out);
}

static void call_grows(void *ctx, const struct tool_call *c, int index, const char *s, size_t n,
                       struct buf *out)
{
    struct json_writer w;
    open_call_event(ctx, "response.function_call_arguments.delta", c, index, &w, out);
    json_put_strn(&w, "delta", s, n);
    close_event(&w, out);
}

static void call_ends(void *ctx, const struct tool_call *c, int index, struct buf *out)
{
    struct json_writer w;
    open_call_event(ctx, "response.function_call_arguments.done", c, index, &w, out);
    json_put_str(&w, "name", c->name);
    json_put_strn(&w, "arguments", c->arguments, c->n_arguments);
    close_event(&w, out);
    send_call(ctx, c, index, false, out);
}

static const struct answer_sink sink = {.text_begins = text_begins,
                                        .text = text_grows,
                                        .text_ends = text_ends,
                                        .call_begins = call_begins,
                                        .call = call_grows,
                                        .call_ends = call_ends};

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

static void send_failed(void *answer, struct buf *out, int status, const struct err *err)
{
    (void)status;
    send_response(answer, "response.failed", err, out);
}

static size_t room(const void *answer)
{
    return responses_out_room(answer);
}

static const char *finish(const void *answer)
{
    const struct responses_out *r = answer;
    return answer_finish(&r->answer);
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
    if (!r->o.logprobs || answer_calls(&r->answer) > 0) /* they are those of the message */
        return;
    for (int i = 0; i < ev->n_tokens; i++) {
        struct json_writer w = {.out = &r->fresh, .comma = r->fresh.len > 0};
        render_token(&r->o, &w, &ev->tokens[i]);
    }
}

static int take_event(void *answer, const struct event *ev, struct buf *out, struct err *e)
{
    struct responses_out *r = answer;
    struct json_writer w;
    if (r->o.stream)
        begin_stream(r, out);
    if (ev->kind == EV_TEXT || ev->kind == EV_FINISH) {
        take_tokens(r, ev);
        answer_take(&r->answer, ev);
        if (r->o.stream)
            answer_tell(&r->answer, &sink, r, out);
        else if (ev->kind == EV_FINISH)
            keep_tokens(r);
    } else if (ev->kind == EV_DONE) {
        const bool cut = cut_off(r);
        r->usage = ev->usage;
        json_begin(&w, out);
        if (r->o.stream)
            send_response(r, cut ? "response.incomplete" : "response.completed", NULL, out);
        else
            put_response(r, &w, NULL, NULL);
        if (!out->failed)
            keep(r);
    }
    const bool failed = out->failed || r->tokens.failed || r->fresh.failed || r->echo.failed;
    return answer_check(&r->answer, r->tokens.len + r->fresh.len, failed, e);
}

const struct api_dialect responses_out_dialect = {.start = start,
                                                  .event = take_event,
                                                  .failed = send_failed,
                                                  .room = room,
                                                  .finish = finish,
                                                  .close = close_out};
