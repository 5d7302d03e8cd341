/* Prompts as the UNet sees them: keys and values for its cross attention, and the pooled text.  Computed once
 * for all pictures and requests that have the prompt, and kept while the cache has room.
 * Thread: engine.
 *
 * An entry in use is held in the cache's budget; one that nobody uses is kept there (cache.h) if it
 * was completed, else freed. */
#ifndef ENGINE_PROMPTS_H
#define ENGINE_PROMPTS_H
#include "engine/cache.h"
#include "engine/diffusion.h"

struct prompts {
    struct cache *cache;
    const struct diffusion *d;
    struct prompts_entry *first;
};

struct prompts_entry {
    struct cache_item item; /* first */
    struct prompts *owner;
    struct prompts_entry *next;
    int n_users;
    struct diffusion_prompt prompt; /* a copy */
    int n_tokens;
    float *context; /* [n_tokens, context_dim] */
    float *pooled;  /* [pooled_dim], or NULL */
    float *kv;      /* kv_row_bytes * n_tokens */
    int chunks_done;
    bool ready; /* kv and pooled are there */
};

void prompts_init(struct prompts *p, struct cache *c, const struct diffusion *d);
void prompts_fini(struct prompts *p); /* after all users */

/* Bytes of an entry. */
size_t prompts_bytes(const struct prompts *p, const struct diffusion_prompt *q);
bool prompts_equal(const struct prompts *p, const struct diffusion_prompt *a,
                   const struct diffusion_prompt *b);
struct prompts_entry *prompts_find(const struct prompts *p, const struct diffusion_prompt *q);
/* One more user; with the first its bytes must have been held already.  The entry of q, or a new one when
 * there is none; NULL without memory. */
struct prompts_entry *prompts_use(struct prompts *p, const struct diffusion_prompt *q);
/* One user less; with the last one its bytes are given back. */
void prompts_leave(struct prompts_entry *en);

/* The next chunk's result of the text encoders is written into the entry. */
void prompts_add(struct prompts_entry *en, const float *hidden, const float *pooled);
#endif
