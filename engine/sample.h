/* From logits to the next token.
 * Thread: engine; one struct sample (scratch for a vocabulary) is used for one row at a time.
 *
 * The result is a function of the row of logits, the parameters, the token history and
 * rng_uniform(seed, stream, position): of nothing else, so that the batch cannot show. */
#ifndef ENGINE_SAMPLE_H
#define ENGINE_SAMPLE_H
#include "engine/job.h"

struct sample;
int sample_open(struct sample **out, int n_vocab, struct err *e);
void sample_close(struct sample *s);

struct grammar_vocab;
struct grammar_run;
struct sample_args {
    const struct sample_params *params;
    const struct logit_bias *bias;
    int n_bias;
    const int32_t *ids; /* [n_ids] prompt, then what was generated so far */
    int n_ids, n_prompt;
    uint64_t stream; /* choice index */
    bool logprobs;
    int n_top;
    const struct grammar_vocab *vocab; /* with grammar */
    struct grammar_run *grammar;       /* what the text may go on with, or NULL */
    bool may_end;                      /* and it may end, where the grammar says so */
};
/* Chooses from logits [n_vocab] (changed by it); info gets the id and, with logprobs, the rest.
 * ERR_DEVICE when the row has no finite value, ERR_INVALID when the bias bans every token, or every one that the
 * grammar allows. */
int sample_next(struct sample *s, float *logits, const struct sample_args *a,
                struct token_info *info, struct err *e);
/* The logprob of a token that is known (a prompt's), with n_top alternatives. */
int sample_score(struct sample *s, float *logits, int32_t id, int n_top, struct token_info *info,
                 struct err *e);
#endif
