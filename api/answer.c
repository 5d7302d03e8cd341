/* Blocks come in order: thoughts, if there are any, end before the text begins, and that before the first call. */
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
    for (int i = 0; i < ANSWER_TEXTS; i++)
        buf_init(&a->texts[i].text, max);
    buf_init(&a->stop, max);
    a->hide_thoughts = o->hide_thoughts;
    think_init(&a->think, o->think);
    if (o->tools != NULL && (a->calls = tool_parse_open(o->tools, o->tool_json, max)) == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the answer");
    return 0;
}

void answer_close(struct answer *a)
{
    tool_parse_close(a->calls);
    think_free(&a->think);
    for (int i = 0; i < ANSWER_TEXTS; i++)
        buf_free(&a->texts[i].text);
    buf_free(&a->stop);
}

/* More of the text, which n_made tokens have made so far, or its end. */
static void take_text(struct answer *a, const char *s, size_t n, int n_made, bool end)
{
    struct buf said, *text = &a->texts[ANSWER_TEXT].text;
    struct buf *thought = &a->texts[ANSWER_THOUGHT].text;
    buf_init(&said, text->max);
    think_push(&a->think, s, n, thought, &said);
    think_count(&a->think, n_made);
    if (end)
        think_end(&a->think, thought, &said);
    if (a->hide_thoughts)
        buf_clear(thought);
    if (a->calls == NULL)
        buf_add(text, buf_str(&said), said.len);
    else
        tool_parse_push(a->calls, buf_str(&said), said.len, text);
    if (end && a->calls != NULL)
        tool_parse_end(a->calls, text);
    text->failed = text->failed || said.failed;
    buf_free(&said);
}

void answer_take(struct answer *a, const struct event *ev)
{
    if (ev->kind == EV_TEXT) {
        take_text(a, ev->text, ev->len, ev->n_made, false);
    } else if (ev->kind == EV_FINISH) {
        a->finish = ev->finish;
        if (ev->stop != NULL)
            buf_adds(&a->stop, ev->stop);
        take_text(a, "", 0, ev->usage.completion_tokens, true);
    }
}

int answer_calls(const struct answer *a)
{
    return tool_parse_calls(a->calls);
}

bool answer_has(const struct answer *a, enum answer_kind kind)
{
    const struct answer_text *t = &a->texts[kind];
    if (t->text.len > 0 || t->told != ANSWER_SILENT)
        return true;
    return kind == ANSWER_TEXT && answer_calls(a) == 0 && !answer_has(a, ANSWER_THOUGHT);
}

int answer_index(const struct answer *a, enum answer_kind kind)
{
    int n = 0;
    for (int i = 0; i < (int)kind; i++)
        n += answer_has(a, (enum answer_kind)i);
    return n;
}

size_t answer_bytes(const struct answer *a)
{
    return a->texts[ANSWER_THOUGHT].text.len + a->texts[ANSWER_TEXT].text.len +
           tool_parse_bytes(a->calls);
}

int answer_check(const struct answer *a, size_t more, bool failed, struct err *e)
{
    const size_t max = a->texts[ANSWER_TEXT].text.max;
    failed = failed || a->texts[ANSWER_THOUGHT].text.failed || a->texts[ANSWER_TEXT].text.failed ||
             a->stop.failed || tool_parse_failed(a->calls);
    if (!failed && answer_bytes(a) + more <= max)
        return 0;
    err_set(e, ERR_TOOBIG, "the answer is larger than %zu bytes; ask for fewer tokens", max);
    return err_reason(e, "answer_too_large");
}

const char *answer_finish(const struct answer *a)
{
    return render_finish_word(a->finish, answer_calls(a));
}

/* ---- news ---- */

struct teller {
    const struct answer_sink *sink;
    void *ctx;
    struct buf *out;
};

/* What is new of a text, and its end if it has come. */
static void tell_text(struct answer *a, enum answer_kind kind, bool ends, struct teller *t)
{
    struct answer_text *x = &a->texts[kind];
    const int index = answer_index(a, kind);
    const size_t n = x->text.len - x->n_told;
    if (x->told == ANSWER_SILENT && (n > 0 || (ends && answer_has(a, kind)))) {
        t->sink->text_begins(t->ctx, kind, index, t->out);
        x->told = ANSWER_SPEAKS;
    }
    if (n > 0)
        t->sink->text(t->ctx, kind, index, buf_str(&x->text) + x->n_told, n, t->out);
    x->n_told = x->text.len;
    if (x->told == ANSWER_SPEAKS && ends) {
        t->sink->text_ends(t->ctx, kind, index, t->out);
        x->told = ANSWER_SPOKE;
    }
}

static void tell_calls(struct answer *a, struct teller *t)
{
    while (a->n_calls_told < answer_calls(a)) {
        const struct tool_call c = tool_parse_call(a->calls, a->n_calls_told);
        const int index = a->n_calls_told + answer_index(a, ANSWER_TEXTS);
        if (!a->call_open)
            t->sink->call_begins(t->ctx, &c, index, t->out);
        a->call_open = true;
        const size_t n = c.n_arguments - a->n_arguments_told;
        if (n > 0)
            t->sink->call(t->ctx, &c, index, c.arguments + a->n_arguments_told, n, t->out);
        a->n_arguments_told = c.n_arguments;
        if (!c.whole && a->finish == FINISH_NONE)
            return;
        t->sink->call_ends(t->ctx, &c, index, t->out);
        a->n_calls_told++;
        a->call_open = false;
        a->n_arguments_told = 0;
    }
}

void answer_tell(struct answer *a, const struct answer_sink *sink, void *ctx, struct buf *out)
{
    struct teller t = {sink, ctx, out};
    const bool over = a->finish != FINISH_NONE, calls = answer_calls(a) > 0;
    tell_text(a, ANSWER_THOUGHT, over || calls || a->texts[ANSWER_TEXT].text.len > 0, &t);
    tell_text(a, ANSWER_TEXT, over || calls, &t);
    tell_calls(a, &t);
}

void answer_forget(struct answer *a)
{
    for (int i = 0; i < ANSWER_TEXTS; i++) {
        buf_drop(&a->texts[i].text, a->texts[i].n_told);
        a->texts[i].n_told = 0;
    }
}
