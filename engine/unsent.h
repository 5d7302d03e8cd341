/* Pictures that ended jobs have given out and that are not encoded yet: their pixels are memory as much as those of
 * running jobs, so they stay in the budget until somebody frees them.
 * Thread: engine. */
#ifndef ENGINE_UNSENT_H
#define ENGINE_UNSENT_H
#include <stdbool.h>

#include "engine/cache.h"
#include "engine/job.h"

struct unsent; /* of one job; a list */

/* The job's memory was given back just now: what its events still have is held again. */
void unsent_add(struct unsent **list, struct cache *c, const struct job *j);
/* Gives back what was freed meanwhile. */
void unsent_turn(struct unsent **list, struct cache *c);
void unsent_close(struct unsent **list, struct cache *c);
#endif
