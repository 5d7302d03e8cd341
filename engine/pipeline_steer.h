/* The passes of controls in a pipeline: a look at a picture, once a task; and before a call of the UNet the shares of
 * the ControlNets, for all rows of the call that have the same one together.
 * Included only by pipeline*.c and pass.c.  Thread: engine. */
#ifndef ENGINE_PIPELINE_STEER_H
#define ENGINE_PIPELINE_STEER_H
#include "engine/pass.h"

size_t pipeline_steer_bytes(const struct pipeline *p, const struct pass_key *k, struct err *e);
int pipeline_steer_open(const struct pipeline *p, const struct pass_key *k, struct image_unit **out,
                        struct err *e);
/* The largest of `most` and the passes that the task's controls need; 0 with *e filled. */
size_t pipeline_steer_largest(struct pipeline *p, const struct image_task *it, int rows,
                              size_t most, struct err *e);

/* A look that the task still lacks.  1: begun; 0: none. */
int pipeline_steer_look(struct pipeline *p, struct image_task *it, struct err *e);
/* p->run.rows are those of a call of the UNet.  1: a ControlNet's pass was begun for some of them instead;
 * 0: all shares are in, and *kind is the pass that takes them.  n_skips: the call reads only the first so many
 * skips of the way down; 0: all. */
int pipeline_steer_begin(struct pipeline *p, int n_skips, enum pass_kind *kind, struct err *e);
/* The pass that takes them where the call is the UNet's head, which sees adapters alone. */
enum pass_kind pipeline_steer_head(struct pipeline *p);
/* The pass of either kind is done. */
void pipeline_steer_end(struct pipeline *p);
/* Nobody wants row i of the pass that runs any more: its memory is not touched again. */
void pipeline_steer_drop(struct pipeline *p, int i);
/* No pass for the control stays open: it is going to be closed. */
void pipeline_steer_forget(struct pipeline *p, const struct control *c);
#endif
