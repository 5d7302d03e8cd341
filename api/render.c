/* Answers.  Each choice collects what was not sent yet: text, and the pieces of its logprobs as
 * JSON that is ready to be put between brackets.  A stream empties the collection with every frame,
 * a whole answer writes it at the end; so both shapes are written by the same functions. */
#include "api/render.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/text_filter.h"
#include "api/tool_parse.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/utf8.h"

/* OpenAI's word for "as good as impossible"; JSON has no minus infinity. */
#define LOGPROB_NEVER (-9999.0)

enum { ID_MAX = 48, TOKEN_TEXT_MAX = 1024 };

struct choice {
    bool started; /* role or echo is out */
    struct buf text, thought;
    struct think think;
    struct tool_parse *calls; /* of functions, or NULL where there can be none */
    int n_tokens;             /* whose logprobs are collected */
    struct buf tokens;        /* chat: elements of content; completion: elements of tokens */
    struct buf numbers;       /* completion: token_logprobs */
    struct buf tops;          /* completion: top_logprobs */
    struct buf offsets;       /* completion: text_offset */
    int64_t n_chars;          /* given out so far, for text_offset */
    enum finish finish;
    uint64_t found; /* by the text filter */
    struct job_usage usage;
};

struct render {
    struct render_options o;
    char id[ID_MAX];
    struct choice *choices;
    char **echo;
    size_t *echo_len;
    int n_echo;
    bool matched; /* EV_MATCH came: there are no captions, but these */
    float match, cosine;
};

static void choice_init(struct choice *c, size_t max)
{
    buf_init(&c->text, max);
    buf_init(&c->thought, max);
    buf_init(&c->tokens, max);
    buf_init(&c->numbers, max);
    buf_init(&c->tops, max);
    buf_init(&c->offsets, max);
}

static void choice_free(struct choice *c)
{
    buf_free(&c->text);
    buf_free(&c->thought);
    think_free(&c->think);
    tool_parse_close(c->calls);
    buf_free(&c->tokens);
    buf_free(&c->numbers);
    buf_free(&c->tops);
    buf_free(&c->offsets);
}

static void choice_clear(struct choice *c)
{
    buf_clear(&c->text);
    buf_clear(&c->thought);
    buf_clear(&c->tokens);
    buf_clear(&c->numbers);
    buf_clear(&c->tops);
    buf_clear(&c->offsets);
    c->n_tokens = 0;
}

static size_t choice_bytes(const struct choice *c)
{
    return tool_parse_bytes(c->calls) + c->text.len + c->thought.len + c->tokens.len +
           c->numbers.len + c->tops.len + c->offsets.len;
}

static bool choice_failed(const struct choice *c)
{
    return tool_parse_failed(c->calls) || c->text.failed || c->thought.failed || c->tokens.failed ||
           c->numbers.failed || c->tops.failed || c->offsets.failed;
}

static bool copy_echo(struct render *r)
{
    const struct render_options *o = &r->o;
    if (o->echo == NULL)
        return true;
    r->n_echo = o->n_choices / (o->n > 0 ? o->n : 1);
    r->echo = mem_try((size_t)r->n_echo, sizeof *r->echo);
    r->echo_len = mem_try((size_t)r->n_echo, sizeof *r->echo_len);
    if (r->echo == NULL || r->echo_len == NULL)
        return false;
    for (int i = 0; i < r->n_echo; i++) {
        r->echo[i] = mem_try(o->echo_len[i] + 1, 1);
        if (r->echo[i] == NULL)
            return false;
        memcpy(r->echo[i], o->echo[i], o->echo_len[i]);
        r->echo_len[i] = o->echo_len[i];
    }
    return true;
}

struct render *render_open(const struct render_options *o)
{
    struct render *r = mem_try(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->o = *o;
    static const char *const ids[] = {
        [RENDER_CHAT] = "chatcmpl", [RENDER_COMPLETION] = "cmpl", [RENDER_CAPTION] = "caption"};
    snprintf(r->id, sizeof r->id, "%s-%016llx%08llx", ids[o->shape],
             (unsigned long long)rng_seed_random(),
             (unsigned long long)(rng_seed_random() & 0xffffffff));
    r->choices = mem_try((size_t)o->n_choices, sizeof *r->choices);
    if (r->choices == NULL || !copy_echo(r)) {
        render_close(r);
        return NULL;
    }
    bool ok = true;
    for (int i = 0; i < o->n_choices; i++) {
        choice_init(&r->choices[i], o->max_bytes);
        think_init(&r->choices[i].think, o->think);
        if (o->tools != NULL)
            r->choices[i].calls = tool_parse_open(o->tools, o->tool_json, o->max_bytes);
        ok = ok && (o->tools == NULL || r->choices[i].calls != NULL);
    }
    if (ok)
        return r;
    render_close(r);
    return NULL;
}

void render_close(struct render *r)
{
    if (r == NULL)
        return;
    for (int i = 0; r->choices != NULL && i < r->o.n_choices; i++)
        choice_free(&r->choices[i]);
    for (int i = 0; r->echo != NULL && i < r->n_echo; i++)
        free(r->echo[i]);
    free(r->echo);
    free(r->echo_len);
    free(r->choices);
    free(r);
}

const char *render_finish_word(enum finish finish, int n_calls)
{
    return finish == FINISH_NONE     ? NULL
           : finish == FINISH_LENGTH ? "length"
           : finish == FINISH_FILTER ? "content_filter"
           : n_calls > 0             ? "tool_calls"
                                     : "stop";
}

static const char *finish_word(const struct choice *c)
{
    return render_finish_word(c->finish, tool_parse_calls(c->calls));
}

const char *render_finish(const struct render *r)
{
    return r != NULL && r->o.n_choices > 0 ? finish_word(&r->choices[0]) : NULL;
}

/* ---- Logprobs ---- */

/* NaN (the first token of a prompt) is null.  Nine digits are what tells every float from every other;
 * as a double it would be printed with 17, and twenty of these come with each token. */
static void put_logprob(struct json_writer *w, const char *key, float v)
{
    char text[32];
    if (isnan(v)) {
        json_put_null(w, key);
        return;
    }
    int n = snprintf(text, sizeof text, "%.9g", isinf(v) ? LOGPROB_NEVER : (double)v);
    json_put_raw(w, key, text, (size_t)n);
}

static void put_bytes(struct json_writer *w, const char *s, size_t n)
{
    json_open(w, "bytes", '[');
    for (size_t i = 0; i < n; i++)
        json_put_int(w, NULL, (unsigned char)s[i]);
    json_close(w, ']');
}

static void chat_entry(const struct render_options *o, struct json_writer *w, int32_t id,
                       float logprob, const struct token_info *t)
{
    size_t n = 0;
    const char *s = o->piece(o->piece_ctx, id, &n);
    json_open(w, NULL, '{');
    json_put_strn(w, "token", s, n);
    put_logprob(w, "logprob", logprob);
    put_bytes(w, s, n);
    if (t != NULL) {
        json_open(w, "top_logprobs", '[');
        for (int i = 0; i < t->n_top && i < o->top_logprobs; i++)
            chat_entry(o, w, t->top[i].id, t->top[i].logprob, NULL);
        json_close(w, ']');
    }
    json_close(w, '}');
}

void render_token(const struct render_options *o, struct json_writer *w, const struct token_info *t)
{
    chat_entry(o, w, t->id, t->logprob, t);
}

/* The legacy format has no bytes: a token that is part of a character is "bytes:\xe2\x82". */
static size_t token_text(const struct render *r, int32_t id, char out[TOKEN_TEXT_MAX])
{
    size_t n = 0;
    const char *s = r->o.piece(r->o.piece_ctx, id, &n);
    if (utf8_valid(s, n)) {
        n = n < TOKEN_TEXT_MAX ? n : TOKEN_TEXT_MAX - 1;
        memcpy(out, s, n);
        out[n] = '\0';
        return n;
    }
    size_t at = (size_t)snprintf(out, TOKEN_TEXT_MAX, "bytes:");
    for (size_t i = 0; i < n && at + 5 < TOKEN_TEXT_MAX; i++)
        at += (size_t)snprintf(out + at, TOKEN_TEXT_MAX - at, "\\x%02x", (unsigned char)s[i]);
    return at;
}

/* One object of top_logprobs.  Two ids may have the same text: the more probable one stays, because
 * a JSON object cannot have both.  The chosen token is always in it. */
static void put_tops(const struct render *r, struct json_writer *w, const struct token_info *t)
{
    char seen[JOB_TOP_LOGPROBS + 1][TOKEN_TEXT_MAX];
    int n_seen = 0;
    json_open(w, NULL, '{');
    int n_top = t->n_top < r->o.top_logprobs ? t->n_top : r->o.top_logprobs;
    for (int i = 0; i <= n_top && i <= JOB_TOP_LOGPROBS; i++) {
        int32_t id = i < n_top ? t->top[i].id : t->id;
        float logprob = i < n_top ? t->top[i].logprob : t->logprob;
        token_text(r, id, seen[n_seen]);
        bool twice = false;
        for (int k = 0; k < n_seen && !twice; k++)
            twice = strcmp(seen[k], seen[n_seen]) == 0;
        if (twice)
            continue;
        put_logprob(w, seen[n_seen], logprob);
        n_seen++;
    }
    json_close(w, '}');
}

static struct json_writer append_to(struct buf *b, int n_before)
{
    struct json_writer w;
    json_begin(&w, b);
    w.comma = n_before > 0;
    return w;
}

static int64_t count_chars(const char *s, size_t n)
{
    int64_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    return chars;
}

static void take_token(const struct render *r, struct choice *c, const struct token_info *t)
{
    struct json_writer w = append_to(&c->tokens, c->n_tokens);
    if (r->o.shape == RENDER_CHAT) {
        render_token(&r->o, &w, t);
        c->n_tokens++;
        return;
    }
    char text[TOKEN_TEXT_MAX];
    size_t n = token_text(r, t->id, text);
    json_put_strn(&w, NULL, text, n);
    w = append_to(&c->numbers, c->n_tokens);
    put_logprob(&w, NULL, t->logprob);
    w = append_to(&c->tops, c->n_tokens);
    if (isnan(t->logprob))
        json_put_null(&w, NULL);
    else
        put_tops(r, &w, t);
    w = append_to(&c->offsets, c->n_tokens);
    json_put_int(&w, NULL, c->n_chars);
    size_t n_piece = 0;
    const char *piece = r->o.piece(r->o.piece_ctx, t->id, &n_piece);
    c->n_chars += count_chars(piece, n_piece);
    c->n_tokens++;
}

static void put_array(struct json_writer *w, const char *key, const struct buf *elements)
{
    json_open(w, key, '[');
    if (elements->len > 0)
        json_put_raw(w, NULL, elements->data, elements->len);
    json_close(w, ']');
}

static void put_logprobs(const struct render *r, struct json_writer *w, const struct choice *c)
{
    if (r->o.shape == RENDER_CAPTION)
        return;
    if (!r->o.logprobs || (r->o.stream && c->n_tokens == 0)) {
        json_put_null(w, "logprobs");
        return;
    }
    json_open(w, "logprobs", '{');
    if (r->o.shape == RENDER_CHAT) {
        put_array(w, "content", &c->tokens);
        json_put_null(w, "refusal");
    } else {
        put_array(w, "text_offset", &c->offsets);
        put_array(w, "token_logprobs", &c->numbers);
        put_array(w, "tokens", &c->tokens);
        put_array(w, "top_logprobs", &c->tops);
    }
    json_close(w, '}');
}

/* ---- Parts of an answer ---- */

static int count_thoughts(const struct render *r)
{
    int n = 0;
    for (int i = 0; i < r->o.n_choices; i++)
        n += r->choices[i].think.n_tokens;
    return n;
}

static void put_usage(const struct render *r, struct json_writer *w, const struct job_usage *u)
{
    json_open(w, "usage", '{');
    json_put_int(w, "prompt_tokens", u->prompt_tokens);
    json_put_int(w, "completion_tokens", u->completion_tokens);
    json_put_int(w, "total_tokens", (int64_t)u->prompt_tokens + u->completion_tokens);
    json_open(w, "prompt_tokens_details", '{');
    json_put_int(w, "cached_tokens", u->cached_tokens);
    json_put_int(w, "audio_tokens", 0);
    json_close(w, '}');
    json_open(w, "completion_tokens_details", '{');
    json_put_int(w, "reasoning_tokens", count_thoughts(r));
    json_put_int(w, "audio_tokens", 0);
    json_put_int(w, "accepted_prediction_tokens", u->predicted_tokens);
    json_put_int(w, "rejected_prediction_tokens", u->missed_tokens);
    json_close(w, '}');
    json_close(w, '}');
}

static double per(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* llama-server's object, with the time in the queue beside it. */
static void put_timings(struct json_writer *w, const struct job_usage *u)
{
    int prompt_n = u->prompt_tokens - u->cached_tokens;
    double prompt_ms = (double)u->prefill_us / 1e3, predicted_ms = (double)u->decode_us / 1e3;
    json_open(w, "timings", '{');
    json_put_int(w, "cache_n", u->cached_tokens);
    json_put_int(w, "prompt_n", prompt_n);
    json_put_num(w, "prompt_ms", prompt_ms);
    json_put_num(w, "prompt_per_token_ms", per(prompt_ms, prompt_n));
    json_put_num(w, "prompt_per_second", per(prompt_n * 1e3, prompt_ms));
    json_put_int(w, "predicted_n", u->completion_tokens);
    json_put_num(w, "predicted_ms", predicted_ms);
    json_put_num(w, "predicted_per_token_ms", per(predicted_ms, u->completion_tokens));
    json_put_num(w, "predicted_per_second", per(u->completion_tokens * 1e3, predicted_ms));
    json_put_num(w, "queue_ms", (double)u->queue_us / 1e3);
    json_close(w, '}');
}

static void open_answer(const struct render *r, struct json_writer *w, struct buf *out)
{
    const char *object = r->o.shape == RENDER_COMPLETION ? "text_completion"
                         : r->matched                    ? "caption.match"
                         : r->o.shape == RENDER_CAPTION  ? "caption"
                         : r->o.stream                   ? "chat.completion.chunk"
                                                         : "chat.completion";
    if (r->o.stream)
        buf_adds(out, "data: ");
    json_begin(w, out);
    json_open(w, NULL, '{');
    json_put_str(w, "id", r->id);
    json_put_str(w, "object", object);
    json_put_int(w, "created", r->o.created);
    json_put_str(w, "model", r->o.model);
    json_put_str(w, "system_fingerprint", r->o.fingerprint);
}

static void close_answer(const struct render *r, struct json_writer *w, struct buf *out)
{
    json_close(w, '}');
    if (r->o.stream)
        buf_adds(out, "\n\n");
}

static void open_choices(const struct render *r, struct json_writer *w)
{
    json_open(w, r->o.shape == RENDER_CAPTION ? "captions" : "choices", '[');
}

/* ---- Streams ---- */

enum frame { FRAME_ROLE, FRAME_THOUGHT, FRAME_TEXT, FRAME_CALL, FRAME_FINISH };

/* One chunk of choice i; what it has collected is sent and forgotten. */
static void put_frame(struct render *r, int i, enum frame kind, struct buf *out)
{
    struct choice *c = &r->choices[i];
    struct json_writer w;
    open_answer(r, &w, out);
    open_choices(r, &w);
    json_open(&w, NULL, '{');
    json_put_int(&w, "index", i);
    if (r->o.shape == RENDER_CHAT) {
        json_open(&w, "delta", '{');
        if (kind == FRAME_ROLE)
            json_put_str(&w, "role", "assistant");
        if (kind == FRAME_ROLE)
            json_put_str(&w, "content", "");
        else if (kind == FRAME_THOUGHT)
            json_put_strn(&w, "reasoning_content", buf_str(&c->thought), c->thought.len);
        else if (kind == FRAME_TEXT)
            json_put_strn(&w, "content", buf_str(&c->text), c->text.len);
        else if (kind == FRAME_CALL)
            tool_parse_put_more(c->calls, &w);
        json_close(&w, '}');
    } else {
        json_put_strn(&w, "text", buf_str(&c->text), c->text.len);
    }
    const bool more =
        kind == FRAME_THOUGHT && c->text.len > 0; /* the answer begins in the same piece */
    if (kind == FRAME_ROLE || more)
        json_put_null(&w, "logprobs");
    else
        put_logprobs(r, &w, c);
    json_put_str(&w, "finish_reason", kind == FRAME_FINISH ? finish_word(c) : NULL);
    if (kind == FRAME_FINISH && c->found != 0)
        text_filter_put(r->o.filter, c->found, c->finish == FINISH_FILTER, &w);
    json_close(&w, '}');
    json_close(&w, ']');
    if (r->o.include_usage)
        json_put_null(&w, "usage");
    if (r->o.timings && kind == FRAME_FINISH)
        put_timings(&w, &c->usage);
    close_answer(r, &w, out);
    buf_clear(&c->thought);
    if (kind != FRAME_ROLE && !more)
        choice_clear(c);
}

/* What comes before a choice's first text: the role, or the echo of its prompt. */
static void start_choice(struct render *r, int i, struct buf *out)
{
    struct choice *c = &r->choices[i];
    if (c->started)
        return;
    c->started = true;
    if (r->o.stream && r->o.shape == RENDER_CHAT)
        put_frame(r, i, FRAME_ROLE, out);
    if (r->echo != NULL) {
        int prompt = i / r->o.n;
        buf_add(&c->text, r->echo[prompt], r->echo_len[prompt]);
        if (c->n_tokens == 0)
            c->n_chars += count_chars(r->echo[prompt], r->echo_len[prompt]);
    }
}

/* More of the answer, or its end: thoughts, text and calls are told apart. */
static void take_text(const struct render *r, struct choice *c, const char *s, size_t n, bool end)
{
    struct buf said;
    buf_init(&said, r->o.max_bytes);
    think_push(&c->think, s, n, &c->thought, &said);
    if (end)
        think_end(&c->think, &c->thought, &said);
    if (r->o.hide_thoughts)
        buf_clear(&c->thought);
    if (c->calls == NULL)
        buf_add(&c->text, buf_str(&said), said.len);
    else
        tool_parse_push(c->calls, buf_str(&said), said.len, &c->text);
    if (end && c->calls != NULL)
        tool_parse_end(c->calls, &c->text);
    c->text.failed = c->text.failed || said.failed;
    buf_free(&said);
}

/* What an event has brought to a choice that may think or call functions. */
static void put_news(struct render *r, int i, struct buf *out)
{
    struct choice *c = &r->choices[i];
    if (c->thought.len > 0)
        put_frame(r, i, FRAME_THOUGHT, out);
    if (c->text.len > 0)
        put_frame(r, i, FRAME_TEXT, out);
    while (tool_parse_more(c->calls))
        put_frame(r, i, FRAME_CALL, out);
}

static void put_stream_end(struct render *r, const struct event *ev, struct buf *out)
{
    if (r->o.include_usage) {
        struct json_writer w;
        open_answer(r, &w, out);
        open_choices(r, &w);
        json_close(&w, ']');
        put_usage(r, &w, &ev->usage);
        close_answer(r, &w, out);
    }
    buf_adds(out, "data: [DONE]\n\n");
}

void render_error_frame(struct buf *out, int status, const struct err *err)
{
    buf_adds(out, "data: ");
    api_error_body(out, status, err);
    buf_adds(out, "\n\n");
}

/* ---- Whole answers ---- */

static void put_match(struct render *r, const struct event *ev, struct buf *out)
{
    struct json_writer w;
    open_answer(r, &w, out);
    json_put_num(&w, "match", (double)r->match);
    json_put_num(&w, "similarity", (double)r->cosine);
    put_usage(r, &w, &ev->usage);
    close_answer(r, &w, out);
    if (r->o.stream)
        buf_adds(out, "data: [DONE]\n\n");
}

static void put_whole(struct render *r, const struct event *ev, struct buf *out)
{
    struct json_writer w;
    open_answer(r, &w, out);
    open_choices(r, &w);
    for (int i = 0; i < r->o.n_choices; i++) {
        struct choice *c = &r->choices[i];
        start_choice(r, i, out);
        json_open(&w, NULL, '{');
        json_put_int(&w, "index", i);
        if (r->o.shape == RENDER_CHAT) {
            json_open(&w, "message", '{');
            json_put_str(&w, "role", "assistant");
            const bool calls = tool_parse_calls(c->calls) > 0;
            if (calls && c->text.len == 0)
                json_put_null(&w, "content");
            else
                json_put_strn(&w, "content", buf_str(&c->text), c->text.len);
            if (c->thought.len > 0)
                json_put_strn(&w, "reasoning_content", buf_str(&c->thought), c->thought.len);
            json_put_null(&w, "refusal");
            if (calls)
                tool_parse_put(c->calls, &w);
            json_close(&w, '}');
        } else {
            json_put_strn(&w, "text", buf_str(&c->text), c->text.len);
        }
        put_logprobs(r, &w, c);
        json_put_str(&w, "finish_reason", finish_word(c));
        if (c->found != 0)
            text_filter_put(r->o.filter, c->found, c->finish == FINISH_FILTER, &w);
        json_close(&w, '}');
    }
    json_close(&w, ']');
    put_usage(r, &w, &ev->usage);
    if (r->o.timings)
        put_timings(&w, &ev->usage);
    close_answer(r, &w, out);
}

static int check_size(const struct render *r, const struct buf *out, struct err *e)
{
    size_t used = 0;
    bool failed = out->failed;
    for (int i = 0; i < r->o.n_choices; i++) {
        used += choice_bytes(&r->choices[i]);
        failed = failed || choice_failed(&r->choices[i]);
    }
    if (!failed && used <= r->o.max_bytes)
        return 0;
    err_set(e, ERR_TOOBIG, "the answer is larger than %zu bytes; ask for fewer tokens or stream it",
            r->o.max_bytes);
    return err_reason(e, "answer_too_large");
}

int render_event(struct render *r, const struct event *ev, struct buf *out, struct err *e)
{
    if (ev->kind == EV_MATCH) {
        r->matched = true;
        r->match = ev->match;
        r->cosine = ev->cosine;
        return 0;
    }
    if (ev->kind == EV_DONE) {
        if (r->matched)
            put_match(r, ev, out);
        else if (r->o.stream)
            put_stream_end(r, ev, out);
        else
            put_whole(r, ev, out);
        return check_size(r, out, e);
    }
    if (ev->index < 0 || ev->index >= r->o.n_choices)
        return err_set(e, ERR_DEVICE, "an event for choice %d of %d", ev->index, r->o.n_choices);
    struct choice *c = &r->choices[ev->index];
    if (ev->kind != EV_PROMPT)
        start_choice(r, ev->index, out);
    for (int i = 0; r->o.logprobs && i < ev->n_tokens; i++)
        take_token(r, c, &ev->tokens[i]);
    const bool plain = c->calls == NULL && r->o.think == THINK_NOT;
    if (ev->kind == EV_TEXT) {
        take_text(r, c, ev->text, ev->len, false);
        think_count(&c->think, ev->n_made);
        if (r->o.stream && plain)
            put_frame(r, ev->index, FRAME_TEXT, out);
        else if (r->o.stream)
            put_news(r, ev->index, out);
    } else if (ev->kind == EV_FINISH) {
        c->finish = ev->finish;
        c->found = r->o.filter != NULL ? ev->found : 0;
        c->usage = ev->usage;
        think_count(&c->think, ev->usage.completion_tokens);
        take_text(r, c, "", 0, true);
        if (r->matched)
            return 0;
        if (r->o.stream && c->thought.len > 0)
            put_frame(r, ev->index, FRAME_THOUGHT, out);
        /* a last text frame only for what no EV_TEXT has carried out: an echo, its logprobs */
        if (r->o.stream && r->o.shape == RENDER_CHAT && c->text.len + c->tokens.len > 0)
            put_frame(r, ev->index, FRAME_TEXT, out);
        if (r->o.stream)
            put_frame(r, ev->index, FRAME_FINISH, out);
    }
    return check_size(r, out, e);
}
