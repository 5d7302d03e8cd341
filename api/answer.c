/* Blocks come in order: a text, if there is one, ends before the first call begins. */
#include "api/answer.h"

#include <stdio.h>

#include "base/rng.h"

const char *answer_id(char out[ANSWER_ID_MAX], const char *prefix)
{
    snprintf(out, ANSWER_ID_MAX, "%.8s_%016llx%016llx", prefix,
             (unsigned long long)rng_seed_random(), (unsigned long long)rng_seed_random());
    return out;
}

int answer_open(struct answer *a, const struct render_options *o, size_t max, struct err *e)
{
    *a = (struct answer){.finish = FINISH_NONE};
    buf_init(&a->text, max);
    buf_init(&a->stop, max);
    think_init(&a->think, o->think);
    if (o->tools != NULL && (a->calls = tool_parse_open(o->tools, o->tool_json, max)) == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the answer");
    return 0;
}

void answer_close(struct answer *a)
{
    tool_parse_close(a->calls);
    think_free(&a->think);
    buf_free(&a->text);
    buf_free(&a->stop);
}

/* More of the text, or its end. */
static void take_text(struct answer *a, const char *s, size_t n, bool end)
{
    struct buf said, thought;
    buf_init(&said, a->text.max);
    buf_init(&thought, a->text.max);
    think_push(&a->think, s, n, &thought, &said);
    if (end)
        think_end(&a->think, &thought, &said);
    if (a->calls == NULL)
        buf_add(&a->text, buf_str(&said), said.len);
    else
        tool_parse_push(a->calls, buf_str(&said), said.len, &a->text);
    if (end && a->calls != NULL)
        tool_parse_end(a->calls, &a->text);
    a->text.failed = a->text.failed || said.failed;
    buf_free(&said);
    buf_free(&thought);
}

void answer_take(struct answer *a, const struct event *ev)
{
    if (ev->kind == EV_TEXT) {
        take_text(a, ev->text, ev->len, false);
    } else if (ev->kind == EV_FINISH) {
        a->finish = ev->finish;
        if (ev->stop != NULL)
            buf_adds(&a->stop, ev->stop);
        take_text(a, "", 0, true);
    }
}

int answer_calls(const struct answer *a)
{
    return tool_parse_calls(a->calls);
}

bool answer_speaks(const struct answer *a)
{
    return a->text.len > 0 || a->told != ANSWER_SILENT || answer_calls(a) == 0;
}

size_t answer_bytes(const struct answer *a)
{
    return a->text.len + tool_parse_bytes(a->calls);
}

int answer_check(const struct answer *a, size_t more, bool failed, struct err *e)
{
    failed = failed || a->text.failed || a->stop.failed || tool_parse_failed(a->calls);
    if (!failed && answer_bytes(a) + more <= a->text.max)
        return 0;
    err_set(e, ERR_TOOBIG, "the answer is larger than %zu bytes; ask for fewer tokens",
            a->text.max);
    return err_reason(e, "answer_too_large");
}

const char *answer_finish(const struct answer *a)
{
    return a->finish == FINISH_NONE     ? NULL
           : a->finish == FINISH_LENGTH ? "length"
           : answer_calls(a) > 0        ? "tool_calls"
                                        : "stop";
}

/* ---- news ---- */

static void begin_text(struct answer *a, const struct answer_sink *sink, void *ctx, struct buf *out)
{
    if (a->told == ANSWER_SILENT)
        sink->text_begins(ctx, out);
    a->told = a->told == ANSWER_SILENT ? ANSWER_SPEAKS : a->told;
}

static void end_text(struct answer *a, const struct answer_sink *sink, void *ctx, struct buf *out)
{
    if (a->told == ANSWER_SPEAKS)
        sink->text_ends(ctx, out);
    a->told = a->told == ANSWER_SPEAKS ? ANSWER_SPOKE : a->told;
}

static void tell_calls(struct answer *a, const struct answer_sink *sink, void *ctx, struct buf *out)
{
    while (a->n_calls_told < answer_calls(a)) {
        const struct tool_call c = tool_parse_call(a->calls, a->n_calls_told);
        end_text(a, sink, ctx, out);
        const int index = a->n_calls_told + (a->told != ANSWER_SILENT);
        if (!a->call_open)
            sink->call_begins(ctx, &c, index, out);
        a->call_open = true;
        const size_t n = c.n_arguments - a->n_arguments_told;
        if (n > 0)
            sink->call(ctx, &c, index, c.arguments + a->n_arguments_told, n, out);
        a->n_arguments_told = c.n_arguments;
        if (!c.whole && a->finish == FINISH_NONE)
            return;
        sink->call_ends(ctx, &c, index, out);
        a->n_calls_told++;
        a->call_open = false;
        a->n_arguments_told = 0;
    }
}

void answer_tell(struct answer *a, const struct answer_sink *sink, void *ctx, struct buf *out)
{
    const size_t n = a->text.len - a->n_text_told;
    if (n > 0 || (a->finish != FINISH_NONE && answer_speaks(a)))
        begin_text(a, sink, ctx, out);
    if (n > 0)
        sink->text(ctx, buf_str(&a->text) + a->n_text_told, n, out);
    a->n_text_told = a->text.len;
    if (a->finish != FINISH_NONE)
        end_text(a, sink, ctx, out);
    tell_calls(a, sink, ctx, out);
}

void answer_forget(struct answer *a)
{
    buf_drop(&a->text, a->n_text_told);
    a->n_text_told = 0;
}
