/* What the files of the image model share.  Included only by image_*.c; thread: engine. */
#ifndef ENGINE_MODELS_IMAGE_MODEL_INT_H
#define ENGINE_MODELS_IMAGE_MODEL_INT_H
#include "engine/models/clip.h"
#include "engine/models/image_model.h"
#include "engine/models/nn_lora.h"
#include "engine/models/safety.h"
#include "engine/models/taesd.h"
#include "engine/models/unet.h"
#include "engine/models/vae.h"

struct image_model {
    struct image_info info;
    struct backend *be;
    struct nn_store store;
    struct clip *clip[IMAGE_MAX_ENCODERS];
    struct unet *unet;
    struct vae *vae;       /* or NULL: then tiny is the model's own */
    struct taesd *tiny;    /* NULL: vae */
    struct taesd *preview; /* NULL: none; may be tiny */
    struct safety *safety; /* NULL: none */
    size_t vae_bytes;
    bool adapters; /* passes have places for them */
};

/* Closes the unit; ERR_NOMEM. */
int image_no_host_memory(struct image_unit *u, struct err *e);
int image_check_tokens(int n_tokens, struct err *e); /* of a prompt */

/* image_adapter.c: what the LoRAs of an image add, before a run. */
void image_adapter_set(const struct nn_lora_sites *s, int image, const struct image_adapters *list,
                       bool text);
#endif
