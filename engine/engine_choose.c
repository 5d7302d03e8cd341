/* Tokens that the device chooses: which rows it may, what it is told, and the step after, which is launched
 * before the host has seen them.
 *
 * A row is the device's if nobody wants its logits: no logprobs, no grammar, no bias, no min_p, no typical_p.  That
 * depends on its request alone, so a token does not depend on the batch.
 *
 * Ahead.  When all that is to be done is decoding, and every row is the device's and goes on for more than the
 * token that is under way, then the next step is queued at once: its ids are the tokens on the device.  The
 * host then reads the tokens of the one step while the device computes the other.  A sequence that they
 * end, or whose client has gone, has a row too many in the step that is under way: its keys and values go
 * to a page that was not given to anybody before, its token is thrown away.  Penalties see the token that is
 * under way as well: the device puts it among those that the host has sent.  While drafts (draft.h) promise more than
 * one token a step, no step goes ahead: what is drafted depends on the token that is under way. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "engine/engine_int.h"

/* Tokens that the penalties of a step look at, all rows together. */
enum { HISTORY_MAX = 1 << 18 };
/* Each row has places for a multiple of so many, so that some steps in a row have the same layout and a device can
 * launch them as one graph. */
enum { HISTORY_ROUND = 64 };

int engine_choose_open(struct engine *g, const struct sched_options *o, struct err *e)
{
    struct engine_choose *c = &g->choose;
    struct backend *be = g->backend;
    if (be->choose == NULL)
        return 0;
    const size_t n = (size_t)sched_max_logits(o), bytes = n * sizeof(int32_t);
    c->rows = xcalloc(n, sizeof *c->rows);
    c->host = xcalloc(n, sizeof *c->host);
    c->ids = xcalloc(HISTORY_MAX, sizeof *c->ids);
    c->parts = xcalloc(n, sizeof *c->parts);
    c->pos = xcalloc(n, sizeof *c->pos);
    c->kv = xcalloc(n, sizeof *c->kv);
    c->done = xcalloc(n, sizeof *c->done);
    for (int i = 0; i < CHOOSE_SLOTS; i++) {
        c->there[i] = be->alloc(be, bytes, e);
        c->here[i] = c->there[i] ? be->host_alloc(be, bytes, e) : NULL;
        if (!c->here[i])
            return ERR_NOMEM;
    }
    return be->sync(be, e);
}

void engine_choose_close(struct engine *g)
{
    struct engine_choose *c = &g->choose;
    for (int i = 0; i < CHOOSE_SLOTS && g->backend; i++) {
        if (c->here[i])
            g->backend->host_free(g->backend, c->here[i]);
        if (c->there[i])
            g->backend->free(g->backend, c->there[i]);
    }
    free(c->rows);
    free(c->host);
    free(c->ids);
    free(c->parts);
    free(c->pos);
    free(c->kv);
    free(c->done);
    *c = (struct engine_choose){0};
}

/* ---- what the device is told ---- */

static bool is_devices(const struct text_spec *s)
{
    return !s->logprobs && !s->grammar && s->n_bias == 0 && s->sample.min_p <= 0 &&
           s->sample.typical_p >= 1;
}

static bool has_penalties(const struct sample_params *p)
{
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

/* The first of n_ids tokens that its penalties look at. */
static int history_from(const struct sample_params *p, int n_ids)
{
    return p->repeat_last_n >= 0 && p->repeat_last_n < n_ids ? n_ids - p->repeat_last_n : 0;
}

/* Places among the ids that these take. */
static int history_places(const struct sample_params *p, int n_ids)
{
    const int n = has_penalties(p) ? n_ids - history_from(p, n_ids) : 0;
    return (n + HISTORY_ROUND - 1) / HISTORY_ROUND * HISTORY_ROUND;
}

/* The row of a sequence that will have n_ids tokens then, of which q->ids has n_known: the other one is under way.  Its
 * history into ids[*n ...], that token's place first of what comes after the prompt. */
static bool tell(struct choose_row *r, const struct seq *q, int n_ids, int n_known, int32_t *ids,
                 int *n)
{
    const struct sample_params *p = &q->task->job->text.sample;
    const float u = (float)rng_uniform(p->seed, (uint64_t)q->choice, (uint64_t)n_ids);
    *r = (struct choose_row){.temperature = p->temperature,
                             .top_p = p->top_p,
                             .top_k = p->top_k,
                             .repetition = 1,
                             .u = u < 1 ? u : 0x1.fffffep-1f};
    if (!has_penalties(p))
        return true;
    const int from = history_from(p, n_ids), places = history_places(p, n_ids);
    if (places > HISTORY_MAX - *n)
        return false;
    r->repetition = p->repetition_penalty;
    r->presence = p->presence_penalty;
    r->frequency = p->frequency_penalty;
    r->first = *n;
    r->n_ids = n_ids - from;
    r->n_prompt = q->n_prompt > from ? q->n_prompt - from : 0;
    const int under_way = r->n_ids > r->n_prompt ? n_ids - n_known : 0;
    int32_t *to = ids + *n, *late = to + r->n_prompt + under_way;
    memset(to, 0, (size_t)places * sizeof *to);
    memcpy(to, q->ids + from, (size_t)r->n_prompt * sizeof *to);
    memcpy(late, q->ids + from + r->n_prompt,
           (size_t)(r->n_ids - r->n_prompt - under_way) * sizeof *to);
    *n += places;
    return true;
}

/* Of the rows that were told, in the next slot. */
static struct text_choose choice(const struct engine_choose *c, int n_ids)
{
    return (struct text_choose){.op = {.rows = c->rows,
                                       .ids = c->ids,
                                       .n_ids = n_ids,
                                       .there = c->there[c->slot],
                                       .here = c->here[c->slot],
                                       .slot = c->slot},
                                .host = c->host};
}

bool engine_choose_fill(struct engine *g, const struct sched_plan *p, struct text_choose *out)
{
    struct engine_choose *c = &g->choose;
    int n_ids = 0, n_device = 0;
    if (c->rows == NULL || !model_chooses(g->models[p->model].model))
        return false;
    for (int i = 0; i < p->n_parts; i++) {
        const struct sched_part *part = &p->parts[i];
        const struct seq *q = part->seq;
        for (int k = 0; k < part->n_logits; k++) {
            const int row = part->first_logit + k;
            const int n = p->batch.pos[p->batch.logit_rows[row]] + 1; /* tokens that it is of */
            /* fewer: the score of a prompt's; more: a draft's */
            const bool device = n >= q->n_ids && is_devices(&q->task->job->text);
            c->rows[row] = (struct choose_row){.top_p = 1, .repetition = 1};
            c->host[row] = !device || !tell(&c->rows[row], q, n, n, c->ids, &n_ids);
            n_device += !c->host[row];
        }
    }
    *out = choice(c, n_ids);
    return n_device > 0;
}

int engine_choose_wait(struct engine *g, const struct text_choose *t, int n_logits, struct err *e)
{
    struct backend *be = g->backend;
    int rc = be->chosen(be, t->op.slot, e);
    g->choose.done_us = clock_us();
    for (int i = 0; i < n_logits && rc == 0; i++)
        if (t->host[i])
            return be->sync(be, e);
    return rc;
}

/* ---- the step ahead ---- */

/* One token more than the one that is under way, and there is room for what it looks at behind *n_history ids. */
static bool goes_on(const struct seq *q, int *n_history)
{
    const struct text_spec *s = &q->task->job->text;
    *n_history += history_places(&s->sample, q->n_ids + 1);
    return is_devices(s) && *n_history <= HISTORY_MAX && q->n_ids + 1 < q->n_end &&
           !job_cancelled(q->task->job);
}

static bool still_there(const struct engine_ahead_part *p)
{
    return p->seq->task != NULL && p->seq->order == p->order;
}

/* Launches the step after the one in slot `from`, which has these n sequences, a row each. */
static int launch(struct engine *g, int model, int n, int from, struct err *e)
{
    struct engine_choose *c = &g->choose;
    int n_ids = 0;
    for (int i = 0; i < n; i++) {
        struct seq *q = c->parts[i].seq;
        cache_take(&q->kv, cache_pages_for(q->n_ids + 1));
        c->pos[i] = q->n_ids;
        c->kv[i] = (struct kv_row){.pages = q->kv.pages, .pos = q->n_ids};
        tell(&c->rows[i], q, q->n_ids + 1, q->n_ids, c->ids, &n_ids);
        c->host[i] = false;
        g->sched.logit_rows[i] = i;
    }
    if (cache_check(g->cache, e))
        return ERR_DEVICE;
    c->slot = !from;
    struct text_choose choose = choice(c, n_ids);
    choose.op.before = c->there[from];
    const struct text_batch batch = {.n_rows = n,
                                     .ids_there = c->there[from],
                                     .pos = c->pos,
                                     .rows = c->kv,
                                     .n_logits = n,
                                     .logit_rows = g->sched.logit_rows,
                                     .choose = &choose};
    c->n_ahead = n;
    c->model = model;
    c->since_us = clock_us();
    STAT_ADD(g, steps, 1);
    STAT_ADD(g, steps_ahead, 1);
    STAT_ADD(g, step_rows, n);
    return model_forward(g->models[model].model, cache_pool_base(g->models[model].pool), &batch, e);
}

int engine_choose_ahead(struct engine *g, const struct sched_plan *p, struct err *e)
{
    struct engine_choose *c = &g->choose;
    const int from = c->slot;
    int n_history = 0;
    c->slot = !from; /* the step's own slot is taken until the next but one */
    if (!sched_decodes_only(&g->sched, p->model) || p->n_parts != g->sched.n_running ||
        sched_drafts(&g->sched, p->model))
        return 0;
    for (int i = 0; i < p->n_parts; i++) {
        struct seq *q = p->parts[i].seq;
        if (p->parts[i].n_rows != 1 || p->parts[i].n_logits != 1 || c->host[i] ||
            !goes_on(q, &n_history))
            return 0;
        c->parts[i] = (struct engine_ahead_part){q, q->order};
    }
    return launch(g, p->model, p->n_parts, from, e);
}

/* What was drafted is compared, though it had no rows, and found anew. */
static void take(struct engine *g, struct seq *q, int32_t id)
{
    if (q->draft.n > 0)
        draft_check(&q->draft, 0, id);
    engine_text_take(g, q, id);
    if (q->task)
        sched_draft(&g->sched, q);
}

int engine_choose_turn(struct engine *g, struct err *e)
{
    struct engine_choose *c = &g->choose;
    const int n = c->n_ahead, slot = c->slot, model = c->model;
    const int64_t since_us = c->since_us > c->done_us ? c->since_us : c->done_us;
    const int32_t *tokens = c->here[slot];
    struct sched_plan plan = {
        .model = model, .n_alike = 1, .decodes = true, .parts = c->done, .batch = {.n_rows = n}};
    int n_history = 0;
    bool all = sched_decodes_only(&g->sched, model) && g->sched.n_running == n &&
               !sched_drafts(&g->sched, model);
    for (int i = 0; i < n; i++)
        all = all && still_there(&c->parts[i]) && goes_on(c->parts[i].seq, &n_history);
    c->n_ahead = 0;
    c->slot = !slot;
    int rc = all ? launch(g, model, n, slot, e) : 0;
    if (rc == 0)
        rc = g->backend->chosen(g->backend, slot, e);
    if (rc)
        return rc;
    g->models[model].used_us = c->done_us = clock_us();
    for (int i = 0; i < n; i++)
        if (still_there(&c->parts[i]))
            c->done[plan.n_parts++] = (struct sched_part){.seq = c->parts[i].seq, .n_rows = 1};
    sched_done(&g->sched, &plan, (double)(clock_us() - since_us));
    for (int i = 0; i < n; i++)
        if (still_there(&c->parts[i]))
            take(g, c->parts[i].seq, tokens[i]);
    return 0;
}
