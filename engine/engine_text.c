/* Text jobs in the engine: what is checked before one is queued, sequences from admission to their
 * last event, and a step's logits to tokens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/emit.h"
#include "engine/engine_int.h"
#include "engine/text/filter.h"
#include "engine/text/grammar.h"

enum { CHOICES_MAX = 65536 };

/* --- submit --- */

static int64_t waiting_tokens(const struct task *t)
{
    const struct text_spec *s = &t->job->text;
    int64_t sum = 0;
    for (int i = (t->next_choice + s->n - 1) / s->n; i < s->n_prompts; i++)
        sum += s->n_prompt[i];
    return sum;
}

static int check_sampling(const struct text_spec *s, int n_vocab, struct err *e)
{
    const struct sample_params *p = &s->sample;
    const float values[] = {p->temperature,
                            p->top_p,
                            p->min_p,
                            p->typical_p,
                            p->presence_penalty,
                            p->frequency_penalty,
                            p->repetition_penalty};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (!isfinite(values[i]))
            return err_set(e, ERR_INVALID, "sampling parameters must be finite");
    }
    if (p->temperature < 0 || p->repetition_penalty <= 0)
        return err_set(e, ERR_INVALID,
                       "temperature must not be negative, repetition_penalty must be positive");
    if (s->top_logprobs < 0 || s->top_logprobs > JOB_TOP_LOGPROBS)
        return err_set(e, ERR_INVALID, "top_logprobs must be 0 to %d", JOB_TOP_LOGPROBS);
    for (int i = 0; i < s->n_bias; i++) {
        if (s->bias[i].id < 0 || s->bias[i].id >= n_vocab || !isfinite(s->bias[i].bias)) {
            err_set(e, ERR_INVALID, "logit_bias names token %d, the vocabulary has %d",
                    (int)s->bias[i].id, n_vocab);
            return err_param(e, "logit_bias");
        }
    }
    return 0;
}

static int check_prompts(const struct text_spec *s, const struct model_card *card, int n_ctx,
                         struct err *e)
{
    if (s->n_prompts < 1 || s->n < 1 || s->max_tokens < 0)
        return err_set(e, ERR_INVALID, "a job needs a prompt, a choice and max_tokens >= 0");
    if ((int64_t)s->n_prompts * s->n > CHOICES_MAX)
        return err_set(e, ERR_TOOBIG, "at most %d choices in all", CHOICES_MAX);
    for (int i = 0; i < s->n_prompts; i++) {
        if (s->n_prompt[i] < 1)
            return err_set(e, ERR_INVALID, "prompt %d has no tokens", i);
        if (sched_length(n_ctx, s->n_prompt[i], s->max_tokens) == 0) {
            err_set(e, ERR_TOOBIG,
                    "the prompt has %d tokens and the context window %d, which must also hold the "
                    "answer",
                    (int)s->n_prompt[i], n_ctx);
            return err_reason(e, "context_length_exceeded");
        }
        for (int k = 0; k < s->n_prompt[i]; k++) {
            if (s->prompts[i][k] < 0 || s->prompts[i][k] >= card->n_vocab)
                return err_set(e, ERR_INVALID, "token %d is not in the vocabulary of %d",
                               (int)s->prompts[i][k], card->n_vocab);
        }
    }
    return 0;
}

int engine_text_submit(struct engine *g, struct job *j, struct err *e)
{
    const struct text_spec *s = &j->text;
    int model = engine_find(g, s->picture ? MODEL_CAPTION : MODEL_TEXT, s->model, e);
    if (model < 0)
        return model;
    const struct model_card *card = engine_facts(g, model);
    int rc = check_prompts(s, card, g->sched_models[model].n_ctx, e);
    if (rc == 0)
        rc = check_sampling(s, card->n_vocab, e);
    if (rc)
        return rc;
    struct task *t = xcalloc(1, sizeof *t);
    rc = stop_set_init(&t->stops, s->stop, s->n_stop, e);
    if (rc) {
        free(t);
        return rc;
    }
    t->job = j;
    t->model = model;
    t->n_choices = s->n_prompts * s->n;
    rc = s->picture ? engine_caption_check(g, t, e) : 0;
    if (rc == 0)
        rc = engine_enqueue(g, t, waiting_tokens(t), e);
    if (rc) {
        stop_set_fini(&t->stops);
        free(t->look);
        free(t);
    }
    return rc;
}

/* --- tasks --- */

static void free_task(struct task *t)
{
    stop_set_fini(&t->stops);
    job_unref(t->job);
    free(t->look);
    free(t);
}

static void leave(struct engine *g, struct seq *q)
{
    struct task *t = q->task;
    emit_end(q);
    grammar_run_close(q->grammar);
    q->grammar = NULL;
    filter_run_close(q->filter);
    q->filter = NULL;
    sched_leave(&g->sched, q);
    if (t->look && t->n_running == 0)
        engine_caption_drop(g, t);
    STAT_SET(g, sequences_running, g->sched.n_running);
}

void engine_text_fail(struct engine *g, struct task *t, const struct err *e)
{
    for (int i = 0; i < g->sched.o.max_sequences; i++) {
        if (g->sched.slots[i].task == t)
            leave(g, &g->sched.slots[i]);
    }
    if (t->queued)
        sched_remove(&g->sched, t);
    if (t->next_choice < t->n_choices)
        engine_count_waiting(g, t->next_choice == 0 ? -1 : 0, -waiting_tokens(t));
    emit_error(t, e);
    free_task(t);
    g->dirty = true;
}

void engine_text_finish(struct engine *g, struct seq *q, enum finish how, const char *stop)
{
    struct task *t = q->task;
    STAT_SET(g, sequences_running, g->sched.n_running - 1); /* who has the event may count on it */
    bool done = emit_finish(q, how, stop);
    g->dirty = true;
    leave(g, q);
    if (done)
        free_task(t);
}

/* The form that its answer must have, if there is one. */
static int begin_grammar(const struct engine *g, struct seq *q, struct err *e)
{
    const struct grammar *grammar = q->task->job->text.grammar;
    if (!grammar)
        return 0;
    return grammar_vocab_run(g->models[q->task->model].vocab, &q->grammar, grammar, e);
}

static int begin_filter(struct seq *q, struct err *e)
{
    const struct text_spec *s = &q->task->job->text;
    return s->filter ? filter_run_open(&q->filter, s->filter, s->filter_blocks, e) : 0;
}

void engine_text_begin(struct engine *g, struct seq *q)
{
    struct task *t = q->task;
    const struct text_spec *s = &t->job->text;
    bool first_of_prompt = q->choice % s->n == 0;
    if (first_of_prompt)
        engine_count_waiting(g, q->choice == 0 ? -1 : 0, -(int64_t)q->n_prompt);
    STAT_SET(g, sequences_running, g->sched.n_running);
    emit_begin(q, engine_facts(g, t->model)->tokenizer);
    struct err e = {0};
    if (begin_grammar(g, q, &e) != 0 || begin_filter(q, &e) != 0) {
        engine_text_fail(g, t, &e);
        return;
    }
    bool match = s->picture && engine_facts(g, t->model)->caption->mode == CAPTION_MATCH;
    if (q->n_end == q->n_prompt && !s->echo_logprobs && !match)
        engine_text_finish(g, q, FINISH_LENGTH, NULL); /* max_tokens 0: nothing to compute */
}

/* --- one unit --- */

/* The prompt is all computed. */
static void count_prompt(struct engine *g, const struct seq *q)
{
    STAT_ADD(g, prompt_tokens, q->n_prompt);
    STAT_ADD(g, cached_tokens, q->n_cached);
    if (q->kv.share && !q->task->job->text.echo_logprobs) {
        STAT_ADD(g, prefix_queries, q->n_prompt);
        STAT_ADD(g, prefix_hits, q->n_cached);
    }
}

/* A row whose successor is a prompt token. */
static int score_row(struct engine *g, struct seq *q, float *logits, int at, struct err *e)
{
    struct token_info info = {0};
    int rc = sample_score(g->models[q->task->model].sample, logits, q->ids[at + 1],
                          q->task->job->text.top_logprobs, &info, e);
    if (rc == 0)
        emit_prompt(q, &info);
    return rc;
}

/* The next token is known.  The sequence may be gone afterwards. */
static int take_token(struct engine *g, struct seq *q, const struct token_info *info, struct err *e)
{
    if (q->first_token_us == 0)
        q->first_token_us = clock_us();
    if (q->task->first_token_us == 0)
        q->task->first_token_us = q->first_token_us;
    q->ids[q->n_ids++] = info->id;
    STAT_ADD(g, generated_tokens, 1);
    if (q->grammar)
        grammar_vocab_push(g->models[q->task->model].vocab, q->grammar, info->id);
    enum finish how;
    const char *stop;
    int rc = emit_token(q, engine_facts(g, q->task->model)->tokenizer, info, &how, &stop, e);
    if (rc == 0 && how != FINISH_NONE)
        engine_text_finish(g, q, how, stop);
    return rc;
}

/* The row that chooses the next token.  The sequence may be gone afterwards. */
static int choose_row(struct engine *g, struct seq *q, float *logits, struct err *e)
{
    const struct loaded *m = &g->models[q->task->model];
    const struct text_spec *s = &q->task->job->text;
    const struct sample_args args = {
        .params = &s->sample,
        .bias = s->bias,
        .n_bias = s->n_bias,
        .ids = q->ids,
        .n_ids = q->n_ids,
        .n_prompt = q->n_prompt,
        .stream = (uint64_t)q->choice,
        .logprobs = s->logprobs,
        .n_top = s->top_logprobs,
        .vocab = m->vocab,
        .grammar = q->grammar,
        .may_end = !s->ignore_eos,
    };
    struct token_info info;
    int rc = sample_next(m->sample, logits, &args, &info, e);
    return rc ? rc : take_token(g, q, &info, e);
}

static int take_chosen(struct engine *g, struct seq *q, int32_t id, struct err *e)
{
    const struct token_info info = {.id = id};
    if (id < 0)
        return err_set(e, ERR_DEVICE, "the model produced no finite logits");
    return take_token(g, q, &info, e);
}

void engine_text_take(struct engine *g, struct seq *q, int32_t id)
{
    struct err e = {0};
    g->dirty = true;
    if (take_chosen(g, q, id, &e) != 0)
        engine_text_fail(g, q->task, &e);
}

/* A token was chosen where the draft's token k stands: is it that one, and does its row stand? */
static bool draft_holds(struct engine *g, const struct sched_part *part, int k)
{
    struct seq *q = part->seq;
    if (k >= q->draft.n)
        return false;
    const bool right = draft_check(&q->draft, k, q->ids[q->n_ids - 1]);
    if (!right || k >= part->n_draft)
        return false;
    sched_accept(q);
    STAT_ADD(g, draft_accepted, 1);
    return true;
}

/* Samples and emits for one part of a step that was computed; chosen: what the device has sampled, or NULL. */
static void finish_part(struct engine *g, const struct sched_plan *p, const struct sched_part *part,
                        const struct text_choose *chosen)
{
    struct seq *q = part->seq;
    if (!q->task)
        return; /* another choice of its job failed in this step */
    struct err e = {0};
    int rc = 0;
    size_t n_vocab = (size_t)engine_facts(g, p->model)->n_vocab;
    bool echo = q->task->job->text.echo_logprobs;
    int start = q->n_done - (part->n_rows - part->n_draft);
    if (echo && start == 0) {
        const struct token_info first = {.id = q->ids[0], .logprob = NAN};
        emit_prompt(q, &first);
    }
    if (start < q->n_prompt && q->n_done >= q->n_prompt)
        count_prompt(g, q);
    g->dirty = true;
    for (int i = 0; i < part->n_logits && rc == 0; i++) {
        int k = part->first_logit + i, at = p->batch.pos[p->batch.logit_rows[k]];
        float *logits = p->batch.logits + (size_t)k * n_vocab;
        rc = chosen && !chosen->host[k] ? take_chosen(g, q, chosen->op.here[k], &e)
             : at + 1 < q->n_prompt     ? score_row(g, q, logits, at, &e)
                                        : choose_row(g, q, logits, &e);
        if (rc == 0 && !q->task)
            return;
        if (rc == 0 && at + 1 >= q->n_prompt && !draft_holds(g, part, i))
            break;
    }
    if (rc)
        engine_text_fail(g, q->task, &e);
    else if (q->n_done == q->n_end) /* an echo without tokens after it */
        engine_text_finish(g, q, FINISH_LENGTH, NULL);
}

int engine_text_run(struct engine *g, const struct sched_plan *p, struct err *e)
{
    struct text_batch batch = p->batch;
    batch.logits = g->logits;
    struct sched_plan step = *p;
    step.batch = batch;
    int64_t start = clock_us();
    struct text_choose choose;
    if (cache_check(g->cache, e))
        return ERR_DEVICE;
    if (engine_choose_fill(g, &step, &choose))
        batch.choose = &choose;
    int rc = model_forward(g->models[p->model].model, cache_pool_base(g->models[p->model].pool),
                           &batch, e);
    if (rc == 0 && batch.choose)
        rc = engine_choose_ahead(g, &step, e);
    if (rc == 0 && batch.choose)
        rc = engine_choose_wait(g, &choose, batch.n_logits, e);
    if (rc)
        return rc;
    sched_done(&g->sched, &step, (double)(clock_us() - start));
    STAT_ADD(g, steps, 1);
    STAT_ADD(g, step_rows, batch.n_rows);
    for (int i = 0; i < step.n_parts; i++)
        STAT_ADD(g, draft_tokens, step.parts[i].n_draft);
    for (int i = 0; i < step.n_parts; i++)
        finish_part(g, &step, &step.parts[i], batch.choose);
    return 0;
}
