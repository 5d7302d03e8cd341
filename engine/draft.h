/* Drafts: what a sequence may say next, guessed from what its text has said before (prompt lookup decoding).
 * Thread: engine.
 *
 * Texts repeat: code that is edited, a document that is quoted, names, JSON's keys.  The last tokens are looked up
 * further up in the text, and what followed there is the draft.  Its tokens get rows of their own in the step of the
 * token before, which reads the weights but once; where the model then chooses what the draft has said, the
 * next row stands already.  A row's bits do not depend on the batch, so the answer is the same to the byte with
 * drafts and without, greedy or sampled.
 *
 * A request may also say what its answer will be like (predicted outputs): then what comes next in that text is the
 * draft, as long as the answer follows it.  Where it has left it, its last tokens are looked up there.
 *
 * Whether a draft is worth its rows is reckoned from how often those of the sequence were right lately, which is known
 * of drafts that were not computed too, and from what steps of so many rows were measured to cost: a second row
 * may be almost free, a fifth may cost as much as four.  Rows of one sequence make the others wait; what is made
 * largest is the geometric mean of the sequences' speeds.
 *
 * Sources: Saxena, Prompt Lookup Decoding (2023); Leviathan et al., Fast Inference from Transformers via Speculative
 * Decoding (2023). */
#ifndef ENGINE_DRAFT_H
#define ENGINE_DRAFT_H
#include <stdbool.h>
#include <stdint.h>

#define DRAFT_MAX  16 /* tokens */
#define DRAFT_ROWS 64 /* of a step with drafts at most */

struct draft {
    int32_t ids[DRAFT_MAX];
    int n;
    float right; /* share of its tokens that were right, the latest counting most */
};

/* What a step of so many rows, each of a token that is decoded, costs. */
struct draft_costs {
    float us[DRAFT_ROWS + 1]; /* [1 ...]; 0: never measured */
    float row;                /* of the latest steps: what others are reckoned from */
};

/* A text that an answer is expected to follow. */
struct draft_guide {
    const int32_t *ids; /* [n] borrowed; n 0: there is none */
    int n, at;          /* what comes next is ids[at], if the answer goes on there */
    int n_seen;         /* tokens of the sequence that were compared */
    int n_lost;         /* of the last ones, those that are not in the text: 0 while it follows */
    int n_right;        /* tokens that were the text's */
};

void draft_begin(struct draft *d); /* of a new sequence */
void draft_guide_begin(struct draft_guide *g, const int32_t *ids, int n, int n_prompt);
/* Compares what the sequence, ids [n_ids], has made since the last time. */
void draft_guide_follow(struct draft_guide *g, const int32_t *ids, int n_ids);
/* What comes next in the text, at most `most` tokens of it; false: the answer does not follow it. */
bool draft_guide_find(struct draft *d, const struct draft_guide *g, int most);
/* The tokens that followed the longest earlier occurrence of the end of ids [n_ids], at most `most` of them. */
void draft_find(struct draft *d, const int32_t *ids, int n_ids, int most);
/* How many tokens of each of the drafts [n] get rows in the step in which their sequences decode, into n_rows [n]; at
 * most `room` in all. */
void draft_share(struct draft *const *d, int n, const struct draft_costs *c, int room, int *n_rows);
/* A step of n_rows took us. */
void draft_measured(struct draft_costs *c, int n_rows, double us);
/* The model chose `id` where the draft's token k stood: was that right? */
bool draft_check(struct draft *d, int k, int32_t id);
#endif
