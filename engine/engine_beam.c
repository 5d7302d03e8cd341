/* Beam search of a caption job.  Its one sequence has the pages of all beams, n times those of a context; a
 * unit of the model is some steps of the search, and the text comes when it is over. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/emit.h"
#include "engine/engine_int.h"
#include "engine/finite.h"

struct search {
    struct engine *g;
    struct loaded *m;
    struct task *t;
    struct seq *q;
    struct task_beams *s;
    bool broken; /* logits were no finite numbers */
};

static int pages_of_beam(const struct seq *q)
{
    return cache_pages_for(q->n_end - 1);
}

static const int32_t *pages(const struct search *x, int set)
{
    return x->q->kv.pages + (size_t)set * (size_t)pages_of_beam(x->q);
}

/* n rows of ids: those of the prompt, or the last of each beam; the logits of the last n_logits rows. */
static int forward(const struct search *x, const int32_t *ids, const struct kv_row *rows, int n,
                   int n_logits, struct err *e)
{
    int32_t pos[ENGINE_BEAM_ROWS], wanted[BEAM_MAX];
    const struct text_view *views[ENGINE_BEAM_ROWS];
    for (int i = 0; i < n; i++) {
        pos[i] = rows[i].pos;
        views[i] = &x->t->look->blip.view;
    }
    for (int i = 0; i < n_logits; i++)
        wanted[i] = n - n_logits + i;
    const struct text_batch b = {.n_rows = n,
                                 .ids = ids,
                                 .pos = pos,
                                 .rows = rows,
                                 .views = views,
                                 .n_logits = n_logits,
                                 .logit_rows = wanted,
                                 .logits = x->g->logits};
    int rc = model_forward(x->m->model, cache_pool_base(x->m->pool), &b, e);
    STAT_ADD(x->g, steps, 1);
    STAT_ADD(x->g, step_rows, n);
    return rc;
}

static void copy_pages(const struct search *x, int from, int to, int n_positions)
{
    struct backend *be = x->g->backend;
    char *base = cache_pool_base(x->m->pool);
    const size_t bytes = model_page_bytes(x->m->model);
    for (int i = 0, n = cache_pages_for(n_positions); i < n; i++)
        be->copy(be, base + (size_t)pages(x, to)[i] * bytes,
                 base + (size_t)pages(x, from)[i] * bytes, bytes);
}

/* Each beam's pages follow its parent: the first child takes them over, others copy them to where no child
 * needs what is there. */
static void follow(struct search *x, const int parents[BEAM_MAX], int n_positions)
{
    const int n = x->s->beam.n;
    int sets[BEAM_MAX];
    bool taken[BEAM_MAX] = {false}, given[BEAM_MAX] = {false};
    for (int j = 0; j < n; j++) {
        const int set = x->s->set[parents[j]];
        if (taken[set])
            continue;
        taken[set] = given[j] = true;
        sets[j] = set;
    }
    for (int j = 0, free_set = 0; j < n; j++) {
        if (given[j])
            continue;
        while (taken[free_set])
            free_set++;
        taken[free_set] = true;
        sets[j] = free_set;
        copy_pages(x, x->s->set[parents[j]], free_set, n_positions);
    }
    memcpy(x->s->set, sets, (size_t)n * sizeof *sets);
}

/* A part of the prompt.  1: it is all done, with the logits of its last token. */
static int read_prompt(struct search *x, struct err *e)
{
    struct kv_row rows[ENGINE_BEAM_ROWS];
    struct seq *q = x->q;
    int n = q->n_prompt - q->n_done;
    n = n < ENGINE_BEAM_ROWS ? n : ENGINE_BEAM_ROWS;
    const bool last = q->n_done + n == q->n_prompt;
    for (int i = 0; i < n; i++)
        rows[i] = (struct kv_row){.pages = pages(x, 0), .pos = q->n_done + i};
    int rc = forward(x, q->ids + q->n_done, rows, n, last, e);
    q->n_done += n;
    return rc ? rc : last;
}

static int step_beams(struct search *x, struct err *e)
{
    struct beam *b = &x->s->beam;
    struct kv_row rows[BEAM_MAX];
    int32_t ids[BEAM_MAX];
    for (int j = 0; j < b->n; j++) {
        ids[j] = b->run.ids[(size_t)j * (size_t)b->max_new + (size_t)b->n_new - 1];
        rows[j] =
            (struct kv_row){.pages = pages(x, x->s->set[j]), .pos = x->q->n_prompt + b->n_new - 1};
    }
    return forward(x, ids, rows, b->n, b->n, e);
}

/* 1: the search goes on. */
static int advance(struct search *x, struct err *e)
{
    struct beam *b = &x->s->beam;
    int parents[BEAM_MAX];
    const bool in_prompt = x->q->n_done < x->q->n_prompt;
    int rc = in_prompt ? read_prompt(x, e) : step_beams(x, e);
    if (rc < 0 || x->q->n_done < x->q->n_prompt)
        return rc < 0 ? rc : 1;
    const int n_positions = x->q->n_prompt + b->n_new, n_rows = in_prompt ? 1 : b->n;
    x->broken = !finite_all(x->g->logits, (size_t)n_rows * (size_t)b->n_vocab);
    if (x->broken || !beam_step(b, x->g->logits, parents))
        return 0;
    follow(x, parents, n_positions);
    return 1;
}

static int begin(struct search *x, struct err *e)
{
    const struct text_spec *spec = &x->t->job->text;
    const struct tokenizer_info *info = tokenizer_info(model_card(x->m->facts)->tokenizer);
    const struct beam o = {.n = spec->n_beams,
                           .n_vocab = model_card(x->m->facts)->n_vocab,
                           .max_new = x->q->n_end - x->q->n_prompt,
                           .eos = spec->ignore_eos ? -1 : info->eos,
                           .penalty = spec->length_penalty};
    int rc = beam_open(&x->s->beam, &o, e);
    cache_take(&x->q->kv, spec->n_beams * pages_of_beam(x->q));
    for (int j = 0; j < spec->n_beams; j++)
        x->s->set[j] = j;
    return rc ? rc : cache_check(x->g->cache, e);
}

/* The words of the best beam, as if they had been chosen one after the other. */
static int give_out(struct search *x, struct err *e)
{
    const int32_t *ids;
    bool ended;
    if (x->broken)
        return finite_error("a text", e);
    int n = beam_best(&x->s->beam, &ids, &ended);
    struct seq *q = x->q;
    const struct tokenizer *tok = model_card(x->m->facts)->tokenizer;
    q->first_token_us = clock_us();
    for (int i = 0; i < n + ended; i++) {
        struct token_info info = {.id = ids[i]};
        enum finish how;
        const char *stop;
        q->ids[q->n_ids++] = info.id;
        STAT_ADD(x->g, generated_tokens, 1);
        int rc = emit_token(q, tok, &info, &how, &stop, e);
        if (rc != 0)
            return rc;
        if (how != FINISH_NONE) {
            engine_text_finish(x->g, q, how, stop);
            return 0;
        }
    }
    engine_text_finish(x->g, q, FINISH_LENGTH, NULL);
    return 0;
}

int engine_beam_run(struct engine *g, struct task *t, int64_t until_us, struct err *e)
{
    struct search x = {.g = g, .m = &g->models[t->model], .t = t, .s = &t->look->beams};
    for (int i = 0; i < g->sched.o.max_sequences; i++)
        if (g->sched.slots[i].task == t)
            x.q = &g->sched.slots[i];
    struct err why = {0};
    int rc = x.s->beam.n == 0 ? begin(&x, &why) : 0;
    if (rc != 0) {
        engine_text_fail(g, t, &why);
        return 0;
    }
    do
        rc = advance(&x, e);
    while (rc > 0 && clock_us() < until_us);
    if (rc == 0 && give_out(&x, &why) != 0)
        engine_text_fail(g, t, &why);
    return rc < 0 ? rc : 0;
}
