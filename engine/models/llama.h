/* LLaMA 1 to 3 and Mistral (GGUF architecture "llama"): grouped-query attention with rotary positions
 * and a gated feed-forward, RMSNorm before each.
 * Thread: engine. */
#ifndef ENGINE_MODELS_LLAMA_H
#define ENGINE_MODELS_LLAMA_H
#include "engine/models/text_model.h"

/* Checks every shape, then repacks the weights; keeps nothing of g.  ERR_CORRUPT for a file that
 * contradicts itself, ERR_UNSUPPORTED for one with parts that are not built in, ERR_INVALID when
 * o->n_ctx is more than the model can do. */
int llama_open(struct text_model **out, struct gguf *g, struct backend *be,
               const struct model_options *o, struct err *e);
#endif
