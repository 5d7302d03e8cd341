/* Directories of diffusers: model_index.json names the parts, each part is a directory of its name
 * with config.json and its weights.  A directory of transformers is like one such part.  No path is
 * taken from a file but the names of shards, and those may not have a slash: nothing outside the
 * directory is opened. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "engine/checkpoint_impl.h"

static bool exists(const char *path)
{
    struct stat st;
    return path != NULL && stat(path, &st) == 0;
}

static const char *path_of(struct checkpoint *c, const char *dir, const char *name)
{
    return arena_printf(&c->arena, "%s/%s", dir, name);
}

/* ---- names that have changed over the years ---- */

static bool starts(const char *s, const char *with)
{
    return strncmp(s, with, strlen(with)) == 0;
}

static bool ends(const char *s, const char *with)
{
    size_t n = strlen(s), m = strlen(with);
    return n >= m && memcmp(s + n - m, with, m) == 0;
}

/* Attention of VAEs until diffusers 0.18: query, key, value, proj_attn. */
static const char *modern_vae(const char *name, char out[CHECKPOINT_MAX_NAME + 16])
{
    static const char *const pairs[][2] = {{".query.", ".to_q."},
                                           {".key.", ".to_k."},
                                           {".value.", ".to_v."},
                                           {".proj_attn.", ".to_out.0."}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const char *at = strstr(name, ".attentions.") != NULL ? strstr(name, pairs[i][0]) : NULL;
        if (at != NULL) {
            snprintf(out, CHECKPOINT_MAX_NAME + 16, "%.*s%s%s", (int)(at - name), name, pairs[i][1],
                     at + strlen(pairs[i][0]));
            return out;
        }
    }
    return name;
}

/* Under its name of today; transformers leaves "text_model." out from version 5 on. */
static int add(struct checkpoint *c, enum checkpoint_part part, const struct checkpoint_raw *t,
               struct err *e)
{
    char room[CHECKPOINT_MAX_NAME + 16];
    const char *name = t->name;
    if (ends(name, ".position_ids") || strcmp(name, "logit_scale") == 0)
        return 0;
    if (part == CHECKPOINT_MODEL || part == CHECKPOINT_CONTROL) {
        /* as it is */
    } else if (part == CHECKPOINT_VAE) {
        name = modern_vae(name, room);
    } else if (part == CHECKPOINT_SAFETY) {
        static const char twice[] = "vision_model.vision_model."; /* before version 5 */
        name += starts(name, twice) ? strlen("vision_model.") : 0;
    } else if (part != CHECKPOINT_UNET && !starts(name, "text_model.") &&
               !starts(name, "text_projection.")) {
        snprintf(room, sizeof room, "text_model.%s", name);
        name = room;
    }
    return checkpoint_add(c, part, name, t, e);
}

/* ---- weights ---- */

static int open_whole(struct checkpoint *c, enum checkpoint_part part, const char *path,
                      struct err *e)
{
    struct checkpoint_file *f;
    int rc = checkpoint_open_file(c, path, &f, e);
    if (rc != 0)
        return rc;
    for (int i = 0; rc == 0 && i < checkpoint_n_raw(f); i++) {
        struct checkpoint_raw t = checkpoint_raw_at(f, i);
        rc = add(c, part, &t, e);
    }
    return rc;
}

static bool shard_name_ok(const char *s)
{
    return s != NULL && ends(s, ".safetensors") && strchr(s, '/') == NULL && s[0] != '.' &&
           strlen(s) <= 200;
}

struct shards {
    const char *names[CHECKPOINT_MAX_FILES];
    struct checkpoint_file *files[CHECKPOINT_MAX_FILES];
    int n;
};

static int shard_of(struct checkpoint *c, struct shards *s, const char *dir, const char *name,
                    struct checkpoint_file **out, struct err *e)
{
    for (int i = 0; i < s->n; i++) {
        if (strcmp(s->names[i], name) == 0) {
            *out = s->files[i];
            return 0;
        }
    }
    const char *path = path_of(c, dir, name);
    if (path == NULL)
        return checkpoint_no_memory(e);
    int rc = checkpoint_open_file(c, path, out, e); /* refuses more than there is room for */
    if (rc == 0) {
        s->names[s->n] = name;
        s->files[s->n++] = *out;
    }
    return rc;
}

static int open_shards(struct checkpoint *c, enum checkpoint_part part, const char *dir,
                       const char *index, struct err *e)
{
    struct cJSON *doc = NULL;
    int rc = checkpoint_json(&doc, index, JSON_OBJECT, e);
    if (rc != 0)
        return rc;
    struct shards shards = {.n = 0};
    const struct cJSON *map = json_get(doc, "weight_map");
    if (json_type(map) != JSON_OBJECT)
        rc = err_set(e, ERR_CORRUPT, "%s has no weight_map", index);
    for (const struct cJSON *v = json_first(map); rc == 0 && v != NULL; v = json_next(v)) {
        struct checkpoint_file *f = NULL;
        struct checkpoint_raw t;
        if (!shard_name_ok(json_str(v)))
            rc = err_set(e, ERR_CORRUPT, "the shard of tensor \"%s\" is no .safetensors beside %s",
                         err_shown_str(json_key(v)).text, index);
        else
            rc = shard_of(c, &shards, dir, json_str(v), &f, e);
        if (rc == 0 && !checkpoint_raw_find(f, json_key(v), &t))
            rc = err_set(e, ERR_CORRUPT, "tensor \"%s\" is not in its shard %s",
                         err_shown_str(json_key(v)).text, err_shown_str(json_str(v)).text);
        if (rc == 0)
            rc = add(c, part, &t, e);
    }
    json_free(doc);
    return rc;
}

/* The plain weights, or else those of the fp16 variant; whole before sharded. */
static int open_weights(struct checkpoint *c, enum checkpoint_part part, const char *dir,
                        struct err *e)
{
    bool text = part == CHECKPOINT_TEXT_ENCODER || part == CHECKPOINT_TEXT_ENCODER_2 ||
                part == CHECKPOINT_SAFETY || part == CHECKPOINT_MODEL;
    const char *base = text ? "model" : "diffusion_pytorch_model";
    static const char *const tails[] = {".safetensors", ".safetensors.index.json",
                                        ".fp16.safetensors", ".safetensors.index.fp16.json"};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        const char *path = arena_printf(&c->arena, "%s/%s%s", dir, base, tails[i]);
        if (path == NULL)
            return checkpoint_no_memory(e);
        if (!exists(path))
            continue;
        return i % 2 == 0 ? open_whole(c, part, path, e) : open_shards(c, part, dir, path, e);
    }
    const char *pickle = text ? "pytorch_model.bin" : "diffusion_pytorch_model.bin";
    if (exists(path_of(c, dir, pickle)))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s/%s is a pickle file, which can run code and is not read: load it with "
                       "diffusers or transformers and save_pretrained(safe_serialization=True)",
                       dir, pickle);
    return err_set(e, ERR_NOTFOUND, "%s has no %s.safetensors", dir, base);
}

/* ---- parts ---- */

static int open_part(struct checkpoint *c, enum checkpoint_part part, const char *dir,
                     struct err *e)
{
    const char *config = dir != NULL ? path_of(c, dir, "config.json") : NULL;
    if (config == NULL)
        return checkpoint_no_memory(e);
    int rc = checkpoint_json(&c->parts[part].config, config, JSON_OBJECT, e);
    if (rc == 0)
        rc = open_weights(c, part, dir, e);
    if (rc == 0 && c->parts[part].n == 0)
        rc = err_set(e, ERR_CORRUPT, "%s has no tensors", dir);
    return rc;
}

/* The class of a component, NULL for none: ["diffusers", "AutoencoderKL"], [null, null]. */
static const char *component(const struct cJSON *index, const char *name)
{
    const struct cJSON *v = json_get(index, name);
    return json_type(v) == JSON_ARRAY && json_size(v) == 2 ? json_str(json_next(json_first(v)))
                                                           : NULL;
}

static int check_class(enum checkpoint_part part, const char *class, struct err *e)
{
    static const char *const known[CHECKPOINT_N_PARTS][2] = {
        {"UNet2DConditionModel", ""},
        {"AutoencoderKL", "AutoencoderTiny"},
        {"CLIPTextModel", "CLIPTextModelWithProjection"},
        {"CLIPTextModel", "CLIPTextModelWithProjection"},
        {"StableDiffusionSafetyChecker", ""},
        {"", ""},
        {"ControlNetModel", "T2IAdapter"}};
    if (strcmp(class, known[part][0]) == 0 || strcmp(class, known[part][1]) == 0)
        return 0;
    return err_set(e, ERR_UNSUPPORTED, "its %s is a %s; served are %s", checkpoint_part_name(part),
                   err_shown_str(class).text, known[part][0]);
}

/* There when its directory is, whatever the index says of it: nobody loses it by an edited file. */
static int open_safety(struct checkpoint *c, struct err *e)
{
    const char *dir = path_of(c, c->path, checkpoint_part_name(CHECKPOINT_SAFETY));
    if (dir == NULL)
        return checkpoint_no_memory(e);
    if (!exists(dir))
        return 0;
    const char *class = component(c->index, checkpoint_part_name(CHECKPOINT_SAFETY));
    int rc = class != NULL ? check_class(CHECKPOINT_SAFETY, class, e) : 0;
    return rc == 0 ? open_part(c, CHECKPOINT_SAFETY, dir, e) : rc;
}

static int open_parts(struct checkpoint *c, struct err *e)
{
    for (int p = 0; p < CHECKPOINT_SAFETY; p++) {
        enum checkpoint_part part = (enum checkpoint_part)p;
        const char *name = checkpoint_part_name(part), *class = component(c->index, name);
        if (class == NULL && part == CHECKPOINT_TEXT_ENCODER_2)
            continue;
        if (class == NULL && part == CHECKPOINT_TEXT_ENCODER &&
            component(c->index, checkpoint_part_name(CHECKPOINT_TEXT_ENCODER_2)) != NULL)
            continue; /* SDXL's refiner */
        const char *pipeline = json_str(json_get(c->index, "_class_name"));
        if (class == NULL)
            return err_set(e, ERR_UNSUPPORTED, "%s without %s is not served",
                           pipeline != NULL ? err_shown_str(pipeline).text : "a pipeline", name);
        int rc = check_class(part, class, e);
        if (rc == 0)
            rc = open_part(c, part, path_of(c, c->path, name), e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int open_tokenizers(struct checkpoint *c, struct err *e)
{
    static const char *const names[] = {"tokenizer", "tokenizer_2"};
    for (int i = 0; i < 2; i++) {
        const char *dir = path_of(c, c->path, names[i]);
        if (dir == NULL)
            return checkpoint_no_memory(e);
        if (exists(dir))
            c->tokenizer[i] = dir;
    }
    return 0;
}

/* Only two things tell SD 1.x and 2.x apart here: who made the text encoder. */
static enum checkpoint_family family_of(const struct checkpoint *c)
{
    const char *act = json_str(json_get(c->parts[CHECKPOINT_TEXT_ENCODER].config, "hidden_act"));
    if (c->parts[CHECKPOINT_TEXT_ENCODER_2].config != NULL)
        return CHECKPOINT_SDXL;
    return act != NULL && strcmp(act, "gelu") == 0 ? CHECKPOINT_SD2 : CHECKPOINT_SD1;
}

/* config.json and weights in the directory itself. */
static int open_alone(struct checkpoint *c, struct err *e)
{
    struct cJSON *config = NULL;
    const char *path = path_of(c, c->path, "config.json");
    if (path == NULL)
        return checkpoint_no_memory(e);
    if (!exists(path))
        return err_set(e, ERR_NOTFOUND, "%s has neither model_index.json nor config.json", c->path);
    int rc = checkpoint_json(&config, path, JSON_OBJECT, e);
    if (rc != 0)
        return rc;
    const char *class = json_str(json_get(config, "_class_name"));
    bool transformers = class == NULL && json_str(json_get(config, "model_type")) != NULL;
    int part = transformers                                 ? CHECKPOINT_MODEL
               : class == NULL                              ? -1
               : strcmp(class, "UNet2DConditionModel") == 0 ? CHECKPOINT_UNET
               : starts(class, "Autoencoder")               ? CHECKPOINT_VAE
               : checkpoint_control_class(class)            ? CHECKPOINT_CONTROL
                                                            : -1;
    rc = transformers ? 0
         : part < 0   ? err_set(e, ERR_UNSUPPORTED, "%s is not the part of an image model",
                              class != NULL ? err_shown_str(class).text : c->path)
                      : check_class((enum checkpoint_part)part, class, e);
    json_free(config);
    c->family = CHECKPOINT_ALONE;
    return rc != 0 ? rc : open_part(c, (enum checkpoint_part)part, c->path, e);
}

int checkpoint_dir_open(struct checkpoint *c, struct err *e)
{
    const char *index = path_of(c, c->path, "model_index.json");
    const char *scheduler = path_of(c, c->path, "scheduler/scheduler_config.json");
    if (index == NULL || scheduler == NULL)
        return checkpoint_no_memory(e);
    if (!exists(index))
        return open_alone(c, e);
    int rc = checkpoint_json(&c->index, index, JSON_OBJECT, e);
    if (rc == 0)
        rc = open_parts(c, e);
    if (rc == 0 && !c->no_safety)
        rc = open_safety(c, e);
    if (rc == 0)
        rc = checkpoint_json(&c->scheduler, scheduler, JSON_OBJECT, e);
    if (rc == 0)
        rc = open_tokenizers(c, e);
    if (rc == 0)
        c->family = family_of(c);
    return rc;
}
