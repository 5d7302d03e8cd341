/* What model.c sees of a family of text models: one of these as first member, made by <family>_open
 * from a file that is already parsed.
 * Thread: engine. */
#ifndef ENGINE_MODELS_TEXT_MODEL_H
#define ENGINE_MODELS_TEXT_MODEL_H
#include "engine/model.h"

struct gguf;

struct text_model {
    int n_vocab;
    int n_ctx_train, n_ctx; /* as in struct model_card */
    size_t weight_bytes, page_bytes;
    bool chooses; /* model_chooses */
    int (*forward)(struct text_model *m, char *kv_base, const struct text_batch *b, struct err *e);
    void (*close)(struct text_model *m);
};
#endif
