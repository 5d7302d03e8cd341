/* Caption jobs: text jobs about a picture.  Before their sequences have rows the model looks at the picture,
 * a piece a unit; what it saw is held in the cache's budget until the last running choice ends. */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/emit.h"
#include "engine/engine_int.h"
#include "engine/finite.h"

size_t engine_caption_bytes(const struct engine *g, int model)
{
    struct blip *b = model_blip(g->models[model].facts);
    return b ? blip_view_bytes(b, blip_info(b)->n_question) : 0;
}

static int check_question(const struct text_spec *s, const struct model_card *card, struct err *e)
{
    const struct caption_card *c = card->caption;
    if (c->mode == CAPTION_TEXT && s->n_question > 0)
        return err_set(e, ERR_INVALID, "the model \"%.80s\" takes no questions", card->id);
    if (c->mode != CAPTION_TEXT && s->n_question < 1)
        return err_set(e, ERR_INVALID, "the model \"%.80s\" needs a text beside the picture",
                       card->id);
    if (s->n_question > c->n_question) {
        err_set(e, ERR_TOOBIG, "the question has %d tokens, at most %d are allowed", s->n_question,
                c->n_question);
        return err_reason(e, "context_length_exceeded");
    }
    if (c->mode == CAPTION_MATCH && (s->n > 1 || s->n_prompts > 1 || s->max_tokens > 0))
        return err_set(e, ERR_INVALID, "the model \"%.80s\" makes no text", card->id);
    for (int i = 0; i < s->n_question; i++) {
        if (s->question[i] < 0 || s->question[i] >= card->n_vocab)
            return err_set(e, ERR_INVALID, "token %d is not in the vocabulary of %d",
                           (int)s->question[i], card->n_vocab);
    }
    return 0;
}

/* n beams want n times the pages, which must fit beside what is seen. */
static int check_beams(struct engine *g, const struct task *t, size_t seen, struct err *e)
{
    const struct text_spec *s = &t->job->text;
    const struct sched_model *m = &g->sched_models[t->model];
    if (s->n_beams < 2)
        return 0;
    if (s->n_beams > BEAM_MAX || s->n != 1 || s->n_prompts != 1 || s->sample.temperature > 0 ||
        s->logprobs || s->echo_logprobs || s->n_bias > 0 || s->max_tokens < 1)
        return err_set(e, ERR_INVALID,
                       "a beam search has 2 to %d beams, one choice, temperature 0 and no logprobs "
                       "or biases",
                       BEAM_MAX);
    int n = sched_length(m->n_ctx, s->n_prompt[0], s->max_tokens) - 1;
    size_t pages = (size_t)cache_pages_for(n) * (size_t)s->n_beams;
    if (pages * model_page_bytes(g->models[t->model].facts) + seen >
        (size_t)STAT_GET(g, cache_bytes))
        return err_set(e, ERR_TOOBIG, "%d beams of %d tokens do not fit into the cache", s->n_beams,
                       n);
    return 0;
}

int engine_caption_check(struct engine *g, struct task *t, struct err *e)
{
    const struct text_spec *s = &t->job->text;
    const struct model *m = g->models[t->model].facts;
    int rc = check_question(s, model_card(m), e);
    const size_t bytes = rc ? 0 : blip_view_bytes(model_blip(m), s->n_question);
    if (!rc)
        rc = check_beams(g, t, bytes, e);
    if (rc)
        return rc;
    t->look = xcalloc(1, sizeof *t->look);
    t->look->bytes = bytes;
    t->look->blip =
        (struct blip_look){.rgb = s->picture, .question = s->question, .n_question = s->n_question};
    return 0;
}

void engine_caption_drop(struct engine *g, struct task *t)
{
    struct loaded *m = &g->models[t->model];
    if (m->looking == t)
        m->looking = NULL;
    blip_view_free(model_blip(m->model), t->look->blip.kv);
    t->look->blip.kv = NULL;
    t->look->ready = t->look->seen = false;
    beam_close(&t->look->beams.beam);
    if (t->look->held)
        cache_unhold(g->cache, t->look->bytes);
    t->look->held = false;
}

/* CAPTION_MATCH: the answer is no text. */
static void finish_match(struct engine *g, struct task *t)
{
    struct err e = {0};
    if (!isfinite(t->look->blip.match) || !isfinite(t->look->blip.cosine)) {
        finite_error("a comparison", &e);
        engine_text_fail(g, t, &e);
        return;
    }
    struct event *ev = job_event_new(EV_MATCH, 0, "", 0, NULL, 0);
    ev->match = t->look->blip.match;
    ev->cosine = t->look->blip.cosine;
    job_emit(t->job, ev);
    for (int i = 0; i < g->sched.o.max_sequences; i++) {
        if (g->sched.slots[i].task == t) {
            engine_text_finish(g, &g->sched.slots[i], FINISH_STOP, NULL);
            return;
        }
    }
}

static int begin(struct loaded *m, struct task *t, struct err *e)
{
    struct task_look *look = t->look;
    if (look->bytes > 0) {
        look->blip.kv = blip_view_memory(model_blip(m->model), look->blip.n_question, e);
        if (!look->blip.kv)
            return err_wrap(e, "what is seen of a picture");
    }
    m->looking = t;
    blip_look_begin(model_blip(m->model), &look->blip);
    return 0;
}

/* What a sequence waits for: to see the picture, then its beam search. */
static int go_on(struct engine *g, struct task *t, int64_t until_us, struct err *e)
{
    struct loaded *m = &g->models[t->model];
    if (t->look->seen)
        return engine_beam_run(g, t, until_us, e);
    int rc = blip_look_run(model_blip(m->model), &t->look->blip, until_us, e);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    m->looking = NULL;
    if (model_card(m->facts)->caption->mode == CAPTION_MATCH)
        finish_match(g, t);
    else if (t->job->text.n_beams > 1)
        t->look->seen = true;
    else
        t->look->ready = true;
    return 0;
}

int engine_caption_run(struct engine *g, const struct sched_plan *p, struct err *e)
{
    struct loaded *m = &g->models[p->model];
    int64_t start = clock_us();
    struct err why = {0};
    if (m->looking != p->look && !p->look->look->seen && begin(m, p->look, &why)) {
        engine_text_fail(g, p->look, &why);
        return 0;
    }
    int ms = p->alone ? UNIT_ALONE_MS : UNIT_SHARED_MS;
    int rc = go_on(g, p->look, start + (int64_t)ms * 1000, e);
    if (rc == 0)
        sched_done(&g->sched, p, (double)(clock_us() - start));
    return rc;
}
