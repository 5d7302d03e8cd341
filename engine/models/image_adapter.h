/* What changes an image model for some requests without touching its weights: a LoRA (low-rank additions to
 * the UNet and the text encoders), or a textual inversion (vectors for tokens that the vocabulary lacks).
 * Both are read from safetensors files and held against the model: every tensor must have a place.
 * Thread: engine; the info never changes and may be read by any. */
#ifndef ENGINE_MODELS_IMAGE_ADAPTER_H
#define ENGINE_MODELS_IMAGE_ADAPTER_H
#include "engine/models/image_model.h"

enum {
    IMAGE_ADAPTER_MAX_VECTORS = 75, /* a chunk's */
    IMAGE_ADAPTER_MAX_RANK = 4096,
};

enum image_adapter_kind { IMAGE_LORA, IMAGE_EMBEDDING };
struct image_adapter_info {
    enum image_adapter_kind kind;
    size_t bytes; /* memory it takes */
    int rank;     /* LoRA: the largest */
    int n_layers; /* LoRA: that it changes */
    bool unet, text;
    int n_vectors;  /* embedding: tokens it stands for */
    char token[64]; /* embedding: what the file calls it, "" where it does not say */
};

struct image_adapter;
/* m was opened with options.adapters.  ERR_UNSUPPORTED for methods that are not built in and for what was made
 * for another model, ERR_CORRUPT, ERR_IO, ERR_NOTFOUND, ERR_NOMEM. */
int image_adapter_open(struct image_adapter **out, struct image_model *m, const char *path,
                       struct err *e);
/* Whether the file is one, going by the names of its tensors alone; no model is asked. */
bool image_adapter_is_embedding(const char *path);
void image_adapter_close(struct image_adapter *a); /* NULL is nothing; before the model */
const struct image_adapter_info *image_adapter_info(const struct image_adapter *a);
/* An embedding's i-th vector for that text encoder. */
const float *image_adapter_vector(const struct image_adapter *a, int encoder, int i);
#endif
