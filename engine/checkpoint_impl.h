/* What the files of a checkpoint share while it is opened: checkpoint.c keeps the tables,
 * checkpoint_dir.c reads directories, checkpoint_ldm.c single files, checkpoint_control.c those of ControlNets,
 * checkpoint_esrgan.c those of super-resolution networks, and checkpoint_config.c works out their
 * configurations.  Included only by these.  Thread: the one that opens. */
#ifndef ENGINE_CHECKPOINT_IMPL_H
#define ENGINE_CHECKPOINT_IMPL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/map.h"
#include "engine/checkpoint.h"
#include "engine/gguf.h"
#include "engine/safetensors.h"

enum {
    CHECKPOINT_MAX_FILES = 256,
    CHECKPOINT_MAX_NAME = 255,  /* bytes of a tensor's name */
    CHECKPOINT_ARENA = 64 << 20 /* names, and the few tensors that are stored the other way round */
};

struct checkpoint_file { /* one of the two */
    struct safetensors *st;
    struct gguf *gguf;
};

struct checkpoint_list {
    struct checkpoint_tensor *tensors;
    size_t n, cap;
    struct map by_name; /* filled by checkpoint_finish */
    struct cJSON *config;
};

struct checkpoint {
    enum checkpoint_family family;
    bool open_clip; /* a single file's first text encoder has OpenCLIP's fused matrices */
    struct arena arena;
    struct checkpoint_file files[CHECKPOINT_MAX_FILES];
    int n_files;
    struct checkpoint_list parts[CHECKPOINT_N_PARTS];
    struct cJSON *index, *scheduler;
    bool no_safety;           /* of the options */
    bool single;              /* one file, not a directory */
    const char *path;         /* as given */
    const char *yaml;         /* of a single file: where its NAME.yaml would be, or NULL */
    const char *tokenizer[2]; /* directories, NULL where there is none */
    const char *pad[2];       /* token, NULL: what the tokenizer's files say */
};

/* A tensor as a file has it, whichever the format. */
struct checkpoint_raw {
    const char *name, *type_name;
    enum dtype type; /* DTYPE_N: nothing computes with it */
    int ndim;
    int64_t dims[SAFETENSORS_MAX_DIMS];
    const void *data;
    size_t bytes;
};
int checkpoint_n_raw(const struct checkpoint_file *f);
struct checkpoint_raw checkpoint_raw_at(const struct checkpoint_file *f, int i);
bool checkpoint_raw_find(const struct checkpoint_file *f, const char *name,
                         struct checkpoint_raw *t);

/* The next of c->files, opened by its first bytes. */
int checkpoint_open_file(struct checkpoint *c, const char *path, struct checkpoint_file **out,
                         struct err *e);
/* Adds a tensor under a diffusers name (copied).  Buffers and empty names of none are the caller's to
 * leave out.  ERR_UNSUPPORTED for a type that nothing computes with, ERR_CORRUPT, ERR_NOMEM. */
int checkpoint_add(struct checkpoint *c, enum checkpoint_part part, const char *name,
                   const struct checkpoint_raw *t, struct err *e);
/* A JSON file of at most 8 MiB, whose value is of this type. */
int checkpoint_json(struct cJSON **doc, const char *path, enum json_type type, struct err *e);
/* Takes what was written as a document. */
int checkpoint_json_text(struct cJSON **doc, const struct buf *text, struct err *e);
int checkpoint_no_memory(struct err *e);

int checkpoint_dir_open(struct checkpoint *c, struct err *e);
int checkpoint_ldm_open(struct checkpoint *c, struct err *e); /* c->files[0] is open */
/* Whether a single file has the names of an image model. */
bool checkpoint_ldm_is(const struct checkpoint_file *f);
/* A single file's tensors under LDM's names (prefix before them) to those of a ControlNet of diffusers. */
int checkpoint_ldm_control(struct checkpoint *c, const char *prefix, struct err *e);

/* Whether a single file, or the _class_name of a configuration, is that of a ControlNet or an adapter. */
bool checkpoint_control_names(const struct checkpoint_file *f);
bool checkpoint_control_class(const char *name);
int checkpoint_control_open(struct checkpoint *c, struct err *e); /* c->files[0] is open */
int checkpoint_config_control(struct checkpoint *c, struct err *e);
/* The same of a super-resolution network: its one part is CHECKPOINT_MODEL, with the class's name as config. */
int checkpoint_esrgan_open(struct checkpoint *c, struct err *e);
bool checkpoint_esrgan_is(const struct checkpoint_file *f);
/* The configurations, scheduler and index of a single file, once its tensors can be found. */
int checkpoint_config_make(struct checkpoint *c, struct err *e);
#endif
