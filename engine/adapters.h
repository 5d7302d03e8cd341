/* Adapters of image models in the engine: LoRAs and embeddings (textual inversion) from one directory, loaded by
 * name for a model, by the API or by the first request that wants one; counted in the cache's budget while they
 * are loaded, and freed when the last request that uses them has ended.
 *
 * A name is that of a file NAME.safetensors in the directory, or of a directory NAME with diffusers'
 * pytorch_lora_weights.safetensors or learned_embeds.safetensors in it.
 * Thread: any. */
#ifndef ENGINE_ADAPTERS_H
#define ENGINE_ADAPTERS_H
#include "engine/engine.h"

enum { ENGINE_ADAPTER_NAME_MAX = 128, ENGINE_ADAPTER_FILES_MAX = 4096 };

struct engine_adapter {
    char name[ENGINE_ADAPTER_NAME_MAX];
    const char *model;   /* card id; NULL: only a file so far */
    bool loaded, pinned; /* pinned: stays until it is unloaded */
    bool embedding;
    char token[64]; /* of an embedding: a word for it besides its name, or "" */
    int rank, n_layers, n_vectors;
    size_t bytes;
    int n_users; /* requests */
};
/* Those that are loaded, then files that are not; *list is from malloc.  ERR_INVALID without a directory. */
int engine_adapter_list(struct engine *g, struct engine_adapter **list, int *n, struct err *e);
/* A name that may be in the directory: no path, nothing hidden. */
bool engine_adapter_name_ok(const char *name);
/* No request gets it any more; its memory is free when the last user has ended.  *n_users: how many there are.
 * model NULL or "": of whichever model.  ERR_NOTFOUND. */
int engine_adapter_unload(struct engine *g, const char *model, const char *name, int *n_users,
                          struct err *e);
#endif
