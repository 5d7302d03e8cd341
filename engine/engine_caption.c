/* Caption jobs: text jobs about a picture.  Before their sequences have rows the model looks at the picture,
 * a piece a unit; what it saw is held in the cache's budget until the last running choice ends. */
#include <stdlib.h>

#include "base/clock.h"
#include "engine/emit.h"
#include "engine/engine_int.h"

size_t engine_caption_bytes(const struct engine *g, int model)
{
    struct blip *b = model_blip(g->models[model].model);
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

int engine_caption_check(struct engine *g, struct task *t, struct err *e)
{
    const struct text_spec *s = &t->job->text;
    const struct model *m = g->models[t->model].model;
    int rc = check_question(s, model_card(m), e);
    if (rc)
        return rc;
    t->look = xcalloc(1, sizeof *t->look);
    t->look->bytes = blip_view_bytes(model_blip(m), s->n_question);
    t->look->blip =
        (struct blip_look){.rgb = s->picture, .question = s->question, .n_question = s->n_question};
    return 0;
}

void engine_caption_drop(struct engine *g, struct task *t)
{
    struct loaded *m = &g->models[t->model];
    if (m->looking == t)
        m->looking = NULL;
    free(t->look->blip.kv);
    t->look->blip.kv = NULL;
    t->look->ready = false;
    if (t->look->held)
        cache_unhold(g->cache, t->look->bytes);
    t->look->held = false;
}

/* CAPTION_MATCH: the answer is no text. */
static void finish_match(struct engine *g, struct task *t)
{
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
        look->blip.kv = mem_try(look->bytes, 1);
        if (!look->blip.kv)
            return err_set(e, ERR_NOMEM, "no memory for what is seen of a picture");
    }
    m->looking = t;
    blip_look_begin(model_blip(m->model), &look->blip);
    return 0;
}

int engine_caption_run(struct engine *g, const struct sched_plan *p, struct err *e)
{
    struct loaded *m = &g->models[p->model];
    struct task *t = p->look;
    int64_t start = clock_us();
    struct err why = {0};
    if (m->looking != t && begin(m, t, &why)) {
        engine_text_fail(g, t, &why);
        return 0;
    }
    int ms = p->alone ? UNIT_ALONE_MS : UNIT_SHARED_MS;
    int rc = blip_look_run(model_blip(m->model), &t->look->blip, start + (int64_t)ms * 1000, e);
    if (rc < 0)
        return rc;
    sched_done(&g->sched, p, (double)(clock_us() - start));
    if (rc > 0)
        return 0;
    m->looking = NULL;
    t->look->ready = true;
    if (model_card(m->model)->caption->mode == CAPTION_MATCH)
        finish_match(g, t);
    return 0;
}
