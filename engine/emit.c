/* Events of a sequence; emit.h has the design. */
#include "engine/emit.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/text/filter.h"
#include "engine/text/grammar.h"
#include "engine/text/tokenizer.h"

/* More than any token's text and any stop string (the request's size bounds those). */
enum { TEXT_MAX_BYTES = 1 << 26 };

void emit_begin(struct seq *q, const struct tokenizer *t)
{
    /* After a prompt of control tokens alone (bos) the answer begins a text. */
    bool at_start = true; /* of a caption always: its prompt is not shown */
    for (int i = 0; i < q->n_prompt && at_start && !q->task->look; i++)
        at_start = tokenizer_is_control(t, q->ids[i]);
    detok_init(&q->detok, t, at_start, q->task->job->text.special);
    stop_init(&q->stop, &q->task->stops);
    buf_init(&q->text, TEXT_MAX_BYTES);
    buf_init(&q->raw, TEXT_MAX_BYTES);
    q->n_made = q->n_out = 0;
    q->pending = NULL;
    q->pending_end = NULL;
    q->n_pending = q->pending_cap = 0;
}

void emit_end(struct seq *q)
{
    stop_fini(&q->stop);
    buf_free(&q->text);
    buf_free(&q->raw);
    free(q->pending);
    free(q->pending_end);
    q->pending = NULL;
    q->pending_end = NULL;
    q->n_pending = q->pending_cap = 0;
}

void emit_prompt(struct seq *q, const struct token_info *info)
{
    job_emit(q->task->job, job_event_new(EV_PROMPT, q->choice, "", 0, info, 1));
}

/* Remembers a token until its text is out. */
static int pending_add(struct seq *q, const struct token_info *info, struct err *e)
{
    if (q->n_pending == q->pending_cap) {
        size_t n = (size_t)q->n_pending, cap = n ? n * 2 : 8;
        struct token_info *infos = mem_try(cap, sizeof *infos);
        int64_t *ends = mem_try(cap, sizeof *ends);
        if (!infos || !ends) {
            free(infos);
            free(ends);
            return err_set(e, ERR_NOMEM, "no memory for logprobs");
        }
        if (n > 0) {
            memcpy(infos, q->pending, n * sizeof *infos);
            memcpy(ends, q->pending_end, n * sizeof *ends);
        }
        free(q->pending);
        free(q->pending_end);
        q->pending = infos;
        q->pending_end = ends;
        q->pending_cap = (int)cap;
    }
    q->pending[q->n_pending] = *info;
    /* An unfinished character: its bytes come out with a later token. */
    q->pending_end[q->n_pending++] = q->n_made + (q->detok.n_pending > 0);
    return 0;
}

/* What the text filter lets out of q->text stays there.  false: the text ends with it. */
static bool pass_filter(struct seq *q, bool end)
{
    const struct buf text = q->text;
    q->text = q->raw;
    q->raw = text;
    buf_clear(&q->text);
    return filter_run_push(q->filter, buf_str(&q->raw), q->raw.len, end, &q->text);
}

/* EV_TEXT with what is in q->text and the tokens that are out with it. */
static void give_out(struct seq *q, bool all)
{
    q->n_out += (int64_t)q->text.len;
    int n = 0;
    while (n < q->n_pending && (all || q->pending_end[n] <= q->n_out))
        n++;
    if (q->text.len == 0 && n == 0)
        return;
    struct event *ev =
        job_event_new(EV_TEXT, q->choice, buf_str(&q->text), q->text.len, q->pending, n);
    ev->n_made = q->n_ids - q->n_prompt;
    job_emit(q->task->job, ev);
    q->n_pending -= n;
    if (q->n_pending > 0) {
        memmove(q->pending, q->pending + n, (size_t)q->n_pending * sizeof *q->pending);
        memmove(q->pending_end, q->pending_end + n, (size_t)q->n_pending * sizeof *q->pending_end);
    }
    buf_clear(&q->text);
}

int emit_token(struct seq *q, const struct tokenizer *t, const struct token_info *info,
               enum finish *finish, const char **stop, struct err *e)
{
    const struct text_spec *spec = &q->task->job->text;
    bool end = !spec->ignore_eos && tokenizer_is_end(t, info->id);
    bool over = end || (q->grammar && grammar_run_ended(q->grammar));
    *finish = over ? FINISH_STOP : q->n_ids >= q->n_end ? FINISH_LENGTH : FINISH_NONE;
    *stop = NULL;
    buf_clear(&q->raw);
    int rc = 0;
    q->detok.special = spec->special || (spec->grammar && grammar_shows(spec->grammar, info->id));
    if (!end || spec->special)
        rc = detok_push(&q->detok, info->id, &q->raw, e);
    if (rc == 0 && *finish != FINISH_NONE)
        rc = detok_flush(&q->detok, &q->raw, e);
    if (rc)
        return rc;
    q->n_made += (int64_t)q->raw.len;
    if (spec->logprobs && (rc = pending_add(q, info, e)) != 0)
        return rc;
    int hit = stop_push(&q->stop, buf_str(&q->raw), q->raw.len, spec->include_stop, &q->text);
    if (hit >= 0) {
        *finish = FINISH_STOP;
        *stop = spec->stop[hit];
    } else if (*finish != FINISH_NONE) {
        stop_flush(&q->stop, &q->text);
    }
    if (q->filter && !pass_filter(q, *finish != FINISH_NONE)) {
        *finish = FINISH_FILTER;
        *stop = NULL;
    }
    if (q->text.failed || q->raw.failed || q->stop.held.failed)
        return err_set(e, ERR_NOMEM, "no memory for the text");
    give_out(q, *finish == FINISH_STOP || *finish == FINISH_LENGTH);
    return 0;
}

bool emit_finish(struct seq *q, enum finish finish, const char *stop)
{
    struct task *t = q->task;
    struct job *j = t->job;
    int64_t now = clock_us(), first = q->first_token_us ? q->first_token_us : now;
    struct event *ev = job_event_new(EV_FINISH, q->choice, "", 0, NULL, 0);
    ev->finish = finish;
    ev->stop = stop;
    ev->found = q->filter ? filter_run_found(q->filter) : 0;
    ev->usage = (struct job_usage){
        .prompt_tokens = q->n_prompt + j->text.n_question,
        .cached_tokens = q->n_cached,
        .completion_tokens = q->n_ids - q->n_prompt,
        .queue_us = q->admitted_us - j->submit_us,
        .prefill_us = first - q->admitted_us,
        .decode_us = now - first,
    };
    draft_guide_follow(&q->guide, q->ids, q->n_ids);
    const int n_missed = q->guide.n - q->guide.n_right;
    ev->usage.predicted_tokens = q->guide.n_right;
    ev->usage.missed_tokens = n_missed > 0 ? n_missed : 0;
    t->total.predicted_tokens += ev->usage.predicted_tokens;
    t->total.missed_tokens += ev->usage.missed_tokens;
    /* The job pays for each prompt once, as its first choice found it. */
    if (q->choice % j->text.n == 0) {
        t->total.prompt_tokens += ev->usage.prompt_tokens;
        t->total.cached_tokens += ev->usage.cached_tokens;
    }
    t->total.completion_tokens += ev->usage.completion_tokens;
    if (t->first_token_us == 0)
        t->first_token_us = first;
    job_emit(j, ev);
    if (++t->n_finished < t->n_choices)
        return false;
    ev = job_event_new(EV_DONE, 0, "", 0, NULL, 0);
    t->total.queue_us = t->admitted_us - j->submit_us;
    t->total.prefill_us = t->first_token_us - t->admitted_us;
    t->total.decode_us = now - t->first_token_us;
    ev->usage = t->total;
    t->dead = true;
    job_emit(j, ev);
    return true;
}

static void emit_failure(struct job *j, const struct err *why)
{
    struct event *ev = job_event_new(EV_ERROR, 0, "", 0, NULL, 0);
    ev->err = *why;
    job_emit(j, ev);
}

void emit_error(struct task *t, const struct err *e)
{
    if (t->dead)
        return;
    t->dead = true;
    emit_failure(t->job, e);
}

void emit_end_of_job(struct job *j, const struct err *why)
{
    if (why && why->code)
        emit_failure(j, why);
    else
        job_emit(j, job_event_new(EV_DONE, 0, "", 0, NULL, 0));
}
