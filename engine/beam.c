/* A step: the 2n best of all continuations; what ends there goes to the finished ones if it is among the
 * first n; the n best of the others run on.  It is over when no running beam can become better than the
 * worst of n finished ones, by the score that it would have if it ended now. */
#include "engine/beam.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

#define NEVER (-1e9f)

struct candidate {
    float score;
    int parent;
    int32_t id;
    bool ends;
};

int beam_open(struct beam *b, const struct beam *o, struct err *e)
{
    *b = (struct beam){.n = o->n,
                       .n_vocab = o->n_vocab,
                       .max_new = o->max_new,
                       .eos = o->eos,
                       .penalty = o->penalty};
    const size_t n = (size_t)o->n * (size_t)o->max_new;
    b->run.ids = mem_try(n, sizeof *b->run.ids);
    b->end.ids = mem_try(n, sizeof *b->end.ids);
    b->spare = mem_try(n, sizeof *b->spare);
    for (int i = 0; i < b->n; i++)
        b->end.score[i] = NEVER;
    if (b->run.ids && b->end.ids && b->spare)
        return 0;
    beam_close(b);
    return err_set(e, ERR_NOMEM, "no memory for %d beams", o->n);
}

void beam_close(struct beam *b)
{
    free(b->run.ids);
    free(b->end.ids);
    free(b->spare);
    *b = (struct beam){.n = 0};
}

/* Log of the sum of exp. */
static float log_sum(const float *x, int n)
{
    float top = x[0];
    double sum = 0;
    for (int i = 1; i < n; i++)
        top = x[i] > top ? x[i] : top;
    for (int i = 0; i < n; i++)
        sum += exp((double)x[i] - (double)top);
    return top + (float)log(sum);
}

/* The best 2n of all continuations, by falling score; of equals the first. */
static int find_best(const struct beam *b, const float *logits, struct candidate *best)
{
    const int most = 2 * b->n, rows = b->n_new == 0 ? 1 : b->n;
    int n = 0;
    for (int r = 0; r < rows; r++) {
        const float *row = logits + (int64_t)r * b->n_vocab;
        const float sum = log_sum(row, b->n_vocab);
        for (int32_t id = 0; id < b->n_vocab; id++) {
            const float score = row[id] - sum + b->run.score[r];
            if (n == most && !(score > best[n - 1].score))
                continue;
            int at = n < most ? n++ : n - 1;
            for (; at > 0 && score > best[at - 1].score; at--)
                best[at] = best[at - 1];
            best[at] = (struct candidate){.score = score, .parent = r, .id = id};
        }
    }
    for (int i = 0; i < n; i++)
        best[i].ends = best[i].id == b->eos || b->n_new + 1 >= b->max_new;
    return n;
}

/* Into the finished ones, if it is better than one of them. */
static void finish(struct beam *b, const struct candidate *c)
{
    struct beam_list *l = &b->end;
    const float score = c->score / powf((float)(b->n_new + 1), b->penalty);
    int at = b->n;
    while (at > 0 && (!l->done[at - 1] || score > l->score[at - 1]))
        at--;
    if (at == b->n)
        return;
    const size_t one = (size_t)b->max_new;
    for (int i = b->n - 1; i > at; i--) {
        memcpy(l->ids + (size_t)i * one, l->ids + (size_t)(i - 1) * one, one * sizeof *l->ids);
        l->score[i] = l->score[i - 1];
        l->len[i] = l->len[i - 1];
        l->done[i] = l->done[i - 1];
    }
    int32_t *to = l->ids + (size_t)at * one;
    memcpy(to, b->run.ids + (size_t)c->parent * one, (size_t)b->n_new * sizeof *to);
    to[b->n_new] = c->id;
    l->score[at] = score;
    l->len[at] = b->n_new + 1;
    l->done[at] = true;
}

/* The n best that go on. */
static void go_on(struct beam *b, const struct candidate *best, int n_best, int parents[BEAM_MAX])
{
    const size_t one = (size_t)b->max_new;
    int n = 0;
    for (int i = 0; i < n_best && n < b->n; i++) {
        if (best[i].ends)
            continue;
        int32_t *to = b->spare + (size_t)n * one;
        memcpy(to, b->run.ids + (size_t)best[i].parent * one, (size_t)b->n_new * sizeof *to);
        to[b->n_new] = best[i].id;
        b->run.score[n] = best[i].score;
        parents[n++] = best[i].parent;
    }
    for (; n < b->n; n++) { /* a vocabulary of less than 2n tokens */
        memcpy(b->spare + (size_t)n * one, b->spare, one * sizeof *b->spare);
        b->run.score[n] = NEVER;
        parents[n] = n > 0 ? parents[0] : 0;
    }
    int32_t *ids = b->run.ids;
    b->run.ids = b->spare;
    b->spare = ids;
}

static bool may_improve(const struct beam *b)
{
    const float best = b->run.score[0] / powf((float)b->n_new, b->penalty);
    for (int i = 0; i < b->n; i++)
        if (!b->end.done[i])
            return true;
    return best > b->end.score[b->n - 1];
}

bool beam_step(struct beam *b, const float *logits, int parents[BEAM_MAX])
{
    struct candidate best[2 * BEAM_MAX];
    const int n_best = find_best(b, logits, best);
    bool all_end = true;
    for (int i = 0; i < n_best; i++) {
        all_end = all_end && best[i].ends;
        if (best[i].ends && i < b->n)
            finish(b, &best[i]);
    }
    if (all_end)
        return false;
    go_on(b, best, n_best, parents);
    b->n_new++;
    return may_improve(b);
}

int beam_best(const struct beam *b, const int32_t **ids, bool *ended)
{
    *ids = b->end.ids;
    int n = b->end.done[0] ? b->end.len[0] : 0;
    *ended = n > 0 && b->end.ids[n - 1] == b->eos;
    return n - *ended;
}
