/* Beam search over one sequence, as transformers' generate does it without sampling: the same candidates,
 * scores (sum of log probabilities / length^penalty) and end.  Knows no model: logits in, tokens out.
 * Thread: engine. */
#ifndef ENGINE_BEAM_H
#define ENGINE_BEAM_H
#include <stdbool.h>
#include <stdint.h>

#include "engine/job.h"

enum { BEAM_MAX = JOB_BEAMS_MAX };

struct beam_list {
    int32_t *ids; /* [n, max_new] */
    float score[BEAM_MAX];
    int len[BEAM_MAX];
    bool done[BEAM_MAX];
};

struct beam {
    int n, n_vocab, max_new;
    int32_t eos;
    float penalty;
    int n_new;                 /* tokens that every running beam has */
    struct beam_list run, end; /* by falling score */
    int32_t *spare;            /* [n, max_new] */
};

/* 2 <= n <= BEAM_MAX, max_new >= 1.  ERR_NOMEM. */
int beam_open(struct beam *b, const struct beam *o, struct err *e);
void beam_close(struct beam *b); /* one of zeros has nothing to free */
/* Takes the logits of every running beam [n, n_vocab]; of the first step all are the same, and one row is
 * enough.  parents: which beam each beam of the next step goes on from.  false: the search is over. */
bool beam_step(struct beam *b, const float *logits, int parents[BEAM_MAX]);
/* The best, without the end token; *ended: it had one. */
int beam_best(const struct beam *b, const int32_t **ids, bool *ended);
#endif
