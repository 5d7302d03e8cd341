/* Engines that serve the same models, one a device, as if they were one: what api/ and server/ talk to.
 *
 * A request goes to the engine that has its prompt's beginning in its cache, unless another one has clearly less
 * to do; else to the one with the least work.  A device that dies while it serves takes the requests with it that it
 * had begun (ERR_DEVICE); those that still waited go to the others, or end with ERR_UNAVAILABLE when there are
 * none.  It gets no new ones.  With a single device all of this is one engine.
 * Thread: any for what is declared here, unless said otherwise. */
#ifndef ENGINE_REPLICAS_H
#define ENGINE_REPLICAS_H
#include "engine/adapters.h"

enum { REPLICAS_MAX = 16 };

struct replicas;

/* o->device is a list, "cuda:0,cuda:1", whose devices come together in groups of o->tensor_parallel, an engine each;
 * all other options are each engine's.  Returns at once, as engine_open. */
int replicas_open(struct replicas **out, const struct engine_options *o, struct err *e);
void replicas_close(struct replicas *r);

/* ENGINE_READY from when all are ready until none is any more; what fails before that is ENGINE_FAILED. */
enum engine_state replicas_state(struct replicas *r);
void replicas_failure(const struct replicas *r, struct err *e); /* of the first that failed */
int replicas_progress(const struct replicas *r);                /* per mille, of the slowest */
const char *replicas_device(const struct replicas *r); /* "cuda:0,cuda:1", "" while loading */
int replicas_n(const struct replicas *r);
int replicas_n_live(const struct replicas *r);
/* For questions about one of them. */
const struct engine *replicas_at(const struct replicas *r, int i);
const char *replicas_device_at(const struct replicas *r, int i); /* as the list says, always */

int replicas_n_models(const struct replicas *r);
const struct model_card *replicas_card_at(const struct replicas *r, int i);
enum engine_model_state replicas_model_state(const struct replicas *r, int i); /* the most of any */
int64_t replicas_model_loads(const struct replicas *r, int i);                 /* of all */

/* As engine_submit, by one of them; a job that loads an adapter, by all: what cannot be loaded everywhere is
 * unloaded again and the job fails. */
int replicas_submit(struct replicas *r, struct job *j, struct err *e);
/* Sums; what can be used (slots, bytes, pages) only of those that live, the heartbeat the oldest of those. */
void replicas_stats(const struct replicas *r, struct engine_stats *s);

/* As engine_adapter_list and engine_adapter_unload, of all. */
int replicas_adapter_list(struct replicas *r, struct engine_adapter **list, int *n, struct err *e);
int replicas_adapter_unload(struct replicas *r, const char *model, const char *name, int *n_users,
                            struct err *e);
#endif
