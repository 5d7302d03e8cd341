/* The names of tensors in LoRA files: which layer of a model a tensor is for, and which part of the addition it
 * is.  Read are the names of
 *
 *   kohya-ss        lora_unet_down_blocks_0_..._to_q.lora_down.weight   lora_te_, lora_te1_, lora_te2_
 *                   and with the blocks of latent-diffusion: lora_unet_input_blocks_4_1_...
 *   diffusers       unet.down_blocks.0....to_q.lora.down.weight         text_encoder., text_encoder_2.
 *   PEFT            unet.down_blocks.0....to_q.lora_A.weight            base_model.model.
 *   old diffusers   down_blocks.0....attn1.processor.to_q_lora.down.weight
 *
 * Layers come out flattened, "down_blocks_0_..._to_q", since kohya's names cannot be told apart otherwise.
 * Other ways to change weights (LoHa, LoKr, DoRA ...) are refused by name.  Thread: any; no state. */
#ifndef ENGINE_LORA_NAME_H
#define ENGINE_LORA_NAME_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

enum { LORA_NAME_MAX = 256 };

enum lora_role { LORA_DOWN, LORA_UP, LORA_MID, LORA_ALPHA, LORA_N_ROLES };
enum lora_where {
    LORA_UNET,
    LORA_TEXT,  /* the first text encoder */
    LORA_TEXT_2 /* the second */
};
struct lora_name {
    enum lora_role role;
    enum lora_where where;
    char layer[LORA_NAME_MAX]; /* flattened */
};

/* Does it look like a tensor of an adapter of weights at all?  (If not it may be an embedding.) */
bool lora_name_is(const char *tensor);
/* ERR_UNSUPPORTED for methods that are not built in, ERR_CORRUPT for a name that nobody gives. */
int lora_name_read(struct lora_name *out, const char *tensor, struct err *e);

/* "." to "_"; false: too long. */
bool lora_name_flatten(char *out, size_t size, const char *name);
/* The flattened name that latent-diffusion has for a layer of diffusers' UNet with so many resnets a block;
 * false: it has none (other than this). */
bool lora_name_ldm(char *out, size_t size, const char *layer, int n_resnets, bool up_has_attention);
#endif
