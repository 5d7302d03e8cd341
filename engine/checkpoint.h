/* The files of an image model, whatever they are, under one naming: that of diffusers.
 *
 *   a directory of diffusers         model_index.json, config.json of each part, its weights in one file
 *                                    or in the shards of an index, fp16 variants
 *   one part of such a directory     config.json beside its weights (a TAESD, a better VAE, a ControlNet)
 *   a directory of transformers      config.json with a model_type: one part, CHECKPOINT_MODEL, under the
 *                                    names of its file
 *   one .safetensors with LDM names  model.diffusion_model.*, first_stage_model.*, cond_stage_model.*,
 *                                    conditioner.embedders.*; configurations come from the shapes
 *   a ControlNet as one file         control_model.*, or diffusers' names
 *   one GGUF of stable-diffusion.cpp the same names, quantised
 *
 * Every file is checked at open.  The checkpoint owns all that its functions return, until
 * checkpoint_close.  Thread: any once open. */
#ifndef ENGINE_CHECKPOINT_H
#define ENGINE_CHECKPOINT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"
#include "kernels/tensor.h"

struct cJSON;    /* base/json.h */
struct clip_bpe; /* engine/text/clip_bpe.h */
struct checkpoint;

enum checkpoint_part {
    CHECKPOINT_UNET,
    CHECKPOINT_VAE,
    CHECKPOINT_TEXT_ENCODER,
    CHECKPOINT_TEXT_ENCODER_2,
    CHECKPOINT_SAFETY,  /* "safety_checker" */
    CHECKPOINT_MODEL,   /* of transformers: always alone */
    CHECKPOINT_CONTROL, /* a ControlNet or a T2I-Adapter: always alone */
    CHECKPOINT_N_PARTS
};
const char *checkpoint_part_name(enum checkpoint_part part); /* "unet", the directory's name */

enum checkpoint_family {
    CHECKPOINT_SD1,  /* CLIP ViT-L */
    CHECKPOINT_SD2,  /* OpenCLIP ViT-H */
    CHECKPOINT_SDXL, /* both, and added time ids */
    CHECKPOINT_ALONE /* a part without a pipeline: see checkpoint_has */
};

struct checkpoint_options { /* zeros: all from the files */
    /* A directory with vocab.json and merges.txt, for files that have none.  Without it NAME.tokenizer/
     * is tried for a single file NAME.safetensors, then tokenizer/ beside it. */
    const char *tokenizer;
    const char *prediction; /* "epsilon", "v_prediction" or "sample": overrules the files */
    bool no_safety;         /* leave the safety checker where it is */
};

/* o may be NULL.  ERR_NOTFOUND, ERR_IO, ERR_CORRUPT; ERR_UNSUPPORTED for what is well formed but no
 * image model of a known family (pickle files, text models: the message says what to do). */
int checkpoint_open(struct checkpoint **out, const char *path, const struct checkpoint_options *o,
                    struct err *e);
void checkpoint_close(struct checkpoint *c); /* NULL is allowed */
/* Whether a path is for checkpoint_open and not for the text engine: looks at names and first bytes,
 * and into a GGUF's tensor names.  false also for what cannot be read. */
bool checkpoint_is_image(const char *path);

/* Whether it is a ControlNet or a T2I-Adapter; looks at names only. */
bool checkpoint_is_control(const char *path);
/* Whether a path is a .safetensors of a super-resolution network: one part, CHECKPOINT_MODEL, under the names of
 * BasicSR, whose config has "_class_name" "RRDBNet" or "SRVGGNetCompact". */
bool checkpoint_is_upscaler(const char *path);

/* The model_type of a directory of transformers ("blip", "bert" ...); false for anything else. */
bool checkpoint_model_type(const char *path, char *type, size_t size);

enum checkpoint_family checkpoint_family(const struct checkpoint *c);
bool checkpoint_has(const struct checkpoint *c, enum checkpoint_part part);

/* The part's config.json; for single files the object that diffusers would have written.  Values are
 * as they stand: the model checks them.  NULL where there is no such part. */
const struct cJSON *checkpoint_config(const struct checkpoint *c, enum checkpoint_part part);
/* scheduler_config.json ("_class_name", "prediction_type", "beta_start" ...), with the prediction of
 * the options.  NULL for CHECKPOINT_ALONE. */
const struct cJSON *checkpoint_scheduler(const struct checkpoint *c);
/* model_index.json ("_class_name", "force_zeros_for_empty_prompt" ...).  NULL for
 * CHECKPOINT_ALONE. */
const struct cJSON *checkpoint_index(const struct checkpoint *c);
/* Another JSON file of the directory, a value of this type, json_free it; ERR_NOTFOUND when it has
 * none of that name. */
int checkpoint_document(const struct checkpoint *c, const char *name, enum json_type type,
                        struct cJSON **out, struct err *e);
/* The tokenizer of the first or second (which = 1) text encoder; the caller closes it.
 * ERR_NOTFOUND with what to do where the files have none. */
int checkpoint_tokenizer(const struct checkpoint *c, int which, struct clip_bpe **out,
                         struct err *e);

/* A tensor under its diffusers name.  Dimensions in PyTorch order, [n_out, n_in] or
 * [c_out, c_in, kh, kw]; a 1x1 convolution is always [c_out, c_in], however the file has it, and a
 * scalar is [1].  Of type F32, F16, BF16 or a GGUF block type (rows are whole blocks). */
struct checkpoint_tensor {
    const char *name;
    enum dtype type;
    int ndim;
    int64_t dims[4];  /* all at least 1 */
    const void *data; /* of the file or the checkpoint's own, not aligned for certain */
    size_t bytes;
};
/* "down_blocks.0.resnets.0.conv1.weight", without the part's name.  NULL: not there. */
const struct checkpoint_tensor *checkpoint_find(const struct checkpoint *c,
                                                enum checkpoint_part part, const char *name);
/* All of a part, in no order that means something: so that a model can refuse one it has no place
 * for.  Buffers that are no weights (position_ids) are left out. */
int checkpoint_n_tensors(const struct checkpoint *c, enum checkpoint_part part);
const struct checkpoint_tensor *checkpoint_tensor_at(const struct checkpoint *c,
                                                     enum checkpoint_part part, int i);
/* The weights were copied: their pages may go back to the page cache. */
void checkpoint_forget(struct checkpoint *c, const struct checkpoint_tensor *t);
/* A file was cut short while it was open: what was read may be zeros. */
bool checkpoint_damaged(const struct checkpoint *c);
#endif
