/* The tables of a checkpoint: tensors by part and name, brought to one form, and what the getters
 * return.  Which files are opened and how names are mapped is in checkpoint_dir.c and
 * checkpoint_ldm.c. */
#include "engine/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "engine/checkpoint_impl.h"
#include "engine/text/clip_bpe.h"
#include "kernels/quant.h"

enum { JSON_MAX_BYTES = 8 << 20, TENSORS_MAX = 1 << 16, MAGIC = 16 };

const char *checkpoint_part_name(enum checkpoint_part part)
{
    static const char *const names[] = {"unet",           "vae",   "text_encoder", "text_encoder_2",
                                        "safety_checker", "model", "control"};
    return (unsigned)part < CHECKPOINT_N_PARTS ? names[part] : "";
}

int checkpoint_no_memory(struct err *e)
{
    return err_set(e, ERR_NOMEM, "out of memory for the tables of the checkpoint");
}

/* ---- files ---- */

enum magic { MAGIC_OTHER, MAGIC_GGUF, MAGIC_SAFETENSORS, MAGIC_PICKLE };

/* Pickle: a zip archive as torch.save writes it, the older bare protocol 2, or a tar. */
static enum magic magic_of(const char *p, size_t n)
{
    if (n >= 4 && memcmp(p, "GGUF", 4) == 0)
        return MAGIC_GGUF;
    if (n >= 4 && (memcmp(p, "PK\3\4", 4) == 0 || memcmp(p, "PK\5\6", 4) == 0))
        return MAGIC_PICKLE;
    if (n >= 2 && (unsigned char)p[0] == 0x80 && p[1] >= 2 && p[1] <= 5 && (n < 9 || p[8] != '{'))
        return MAGIC_PICKLE;
    return n > 8 && p[8] == '{' ? MAGIC_SAFETENSORS : MAGIC_OTHER;
}

static enum magic magic_of_file(const char *path)
{
    struct file f;
    if (file_open(&f, path, NULL) != 0)
        return MAGIC_OTHER;
    enum magic m = magic_of(f.data, f.size < MAGIC ? f.size : MAGIC);
    file_close(&f);
    return m;
}

int checkpoint_open_file(struct checkpoint *c, const char *path, struct checkpoint_file **out,
                         struct err *e)
{
    if (c->n_files == CHECKPOINT_MAX_FILES)
        return err_set(e, ERR_TOOBIG, "a checkpoint of more than %d files", CHECKPOINT_MAX_FILES);
    struct checkpoint_file *f = &c->files[c->n_files];
    int rc;
    switch (magic_of_file(path)) {
    case MAGIC_GGUF:
        rc = gguf_open(&f->gguf, path, e);
        break;
    case MAGIC_PICKLE:
        return err_set(e, ERR_UNSUPPORTED,
                       "a pickle file (.ckpt, .pt, .bin) can run code and is not read: convert it "
                       "with safetensors.torch.save_file(torch.load(FILE, weights_only=True))");
    default:
        rc = safetensors_open(&f->st, path, e);
    }
    if (rc != 0)
        return rc;
    c->n_files++;
    *out = f;
    return 0;
}

int checkpoint_n_raw(const struct checkpoint_file *f)
{
    return f->gguf != NULL ? gguf_n_tensors(f->gguf) : safetensors_n_tensors(f->st);
}

static struct checkpoint_raw from_gguf(const struct gguf_tensor *t)
{
    struct checkpoint_raw r = {.name = t->name,
                               .type_name = dtype_name(t->type),
                               .type = t->type,
                               .ndim = t->ndim,
                               .data = t->data,
                               .bytes = t->bytes};
    memcpy(r.dims, t->dims, (size_t)t->ndim * sizeof *r.dims);
    return r;
}

static struct checkpoint_raw from_safetensors(const struct safetensors_tensor *t)
{
    struct checkpoint_raw r = {.name = t->name,
                               .type_name = t->type_name,
                               .type = t->type,
                               .ndim = t->ndim,
                               .data = t->data,
                               .bytes = t->bytes};
    memcpy(r.dims, t->dims, (size_t)t->ndim * sizeof *r.dims);
    return r;
}

struct checkpoint_raw checkpoint_raw_at(const struct checkpoint_file *f, int i)
{
    return f->gguf != NULL ? from_gguf(gguf_tensor_at(f->gguf, i))
                           : from_safetensors(safetensors_tensor_at(f->st, i));
}

bool checkpoint_raw_find(const struct checkpoint_file *f, const char *name,
                         struct checkpoint_raw *t)
{
    if (f->gguf != NULL) {
        const struct gguf_tensor *g = gguf_tensor_find(f->gguf, name);
        if (g != NULL)
            *t = from_gguf(g);
        return g != NULL;
    }
    const struct safetensors_tensor *s = safetensors_find(f->st, name);
    if (s != NULL)
        *t = from_safetensors(s);
    return s != NULL;
}

int checkpoint_json(struct cJSON **doc, const char *path, enum json_type type, struct err *e)
{
    struct file f;
    int rc = file_open(&f, path, e);
    if (rc != 0)
        return rc;
    const struct json_limits limits = {
        .max_bytes = JSON_MAX_BYTES, .max_depth = 16, .max_nodes = 1 << 17, .infinity = true};
    rc = json_parse(doc, f.data != NULL ? f.data : "", f.size, &limits, e);
    if (rc == 0 && json_type(*doc) != type) {
        json_free(*doc);
        *doc = NULL;
        rc = err_set(e, ERR_CORRUPT, "the document is not %s", json_type_name(type));
    }
    file_close(&f);
    if (rc == 0)
        return 0;
    err_wrap(e, "%s", file_tail(path));
    if (rc == ERR_NOMEM)
        return rc;
    if (e != NULL)
        e->code = ERR_CORRUPT;
    return ERR_CORRUPT;
}

int checkpoint_json_text(struct cJSON **doc, const struct buf *text, struct err *e)
{
    if (text->failed)
        return checkpoint_no_memory(e);
    return json_parse(doc, text->data, text->len, &json_limits_default, e);
}

/* ---- tensors ---- */

static int grow(struct checkpoint_list *l)
{
    size_t cap = l->cap == 0 ? 512 : l->cap * 2;
    struct checkpoint_tensor *t = cap <= TENSORS_MAX ? mem_try(cap, sizeof *t) : NULL;
    if (t == NULL)
        return ERR_NOMEM;
    if (l->n > 0)
        memcpy(t, l->tensors, l->n * sizeof *t);
    free(l->tensors);
    l->tensors = t;
    l->cap = cap;
    return 0;
}

/* 1x1 convolutions become matrices, scalars vectors of one. */
static int take_dims(struct checkpoint_tensor *t, const struct checkpoint_raw *r)
{
    int n = r->ndim;
    while (n > 2 && r->dims[n - 1] == 1)
        n--;
    if (n > 4)
        return ERR_CORRUPT;
    t->ndim = n == 0 ? 1 : n;
    t->dims[0] = 1;
    for (int d = 0; d < n; d++) {
        if (r->dims[d] < 1)
            return ERR_CORRUPT;
        t->dims[d] = r->dims[d];
    }
    return 0;
}

int checkpoint_add(struct checkpoint *c, enum checkpoint_part part, const char *name,
                   const struct checkpoint_raw *r, struct err *e)
{
    struct checkpoint_list *l = &c->parts[part];
    struct checkpoint_tensor t = {.type = r->type, .data = r->data, .bytes = r->bytes};
    if (r->type == DTYPE_N || r->type == DTYPE_I32)
        return err_set(
            e, ERR_UNSUPPORTED,
            "tensor \"%s\" is of type %s: weights are F32, F16, BF16 or, in GGUF, blocks",
            err_shown_str(r->name).text, r->type_name);
    if (take_dims(&t, r) != 0)
        return err_set(e, ERR_CORRUPT, "tensor \"%s\" has a shape that no weight has",
                       err_shown_str(r->name).text);
    t.name = arena_strdup(&c->arena, name);
    if (t.name == NULL || (l->n == l->cap && grow(l) != 0))
        return checkpoint_no_memory(e);
    l->tensors[l->n++] = t;
    return 0;
}

static int finish(struct checkpoint *c, struct err *e)
{
    for (int p = 0; p < CHECKPOINT_N_PARTS; p++) {
        struct checkpoint_list *l = &c->parts[p];
        if (l->n == 0)
            continue;
        if (map_init(&l->by_name, l->n) != 0)
            return checkpoint_no_memory(e);
        for (size_t i = 0; i < l->n; i++) {
            const char *name = l->tensors[i].name;
            int rc = map_put(&l->by_name, name, strlen(name), (int64_t)i);
            if (rc == ERR_INVALID)
                return err_set(e, ERR_CORRUPT, "%s has two tensors \"%s\"",
                               checkpoint_part_name((enum checkpoint_part)p),
                               err_shown_str(name).text);
            if (rc != 0)
                return checkpoint_no_memory(e);
        }
    }
    return checkpoint_damaged(c) ? err_set(e, ERR_IO, "the files changed while they were read") : 0;
}

/* ---- open and close ---- */

/* The scheduler's configuration again, with another prediction_type. */
static int set_prediction(struct checkpoint *c, const char *prediction, struct err *e)
{
    if (strcmp(prediction, "epsilon") != 0 && strcmp(prediction, "v_prediction") != 0 &&
        strcmp(prediction, "sample") != 0)
        return err_set(e, ERR_INVALID, "prediction is epsilon, v_prediction or sample");
    struct buf text;
    struct json_writer w;
    buf_init(&text, JSON_MAX_BYTES);
    json_begin(&w, &text);
    json_open(&w, NULL, '{');
    for (const struct cJSON *v = json_first(c->scheduler); v != NULL; v = json_next(v))
        if (strcmp(json_key(v), "prediction_type") != 0)
            json_put_node(&w, json_key(v), v);
    json_put_str(&w, "prediction_type", prediction);
    json_close(&w, '}');
    struct cJSON *doc = NULL;
    int rc = checkpoint_json_text(&doc, &text, e);
    buf_free(&text);
    if (rc == 0) {
        json_free(c->scheduler);
        c->scheduler = doc;
    }
    return rc;
}

/* What a single file has beside it: a directory of tokenizer files, and NAME.yaml as web UIs have it. */
static void look_beside(struct checkpoint *c)
{
    const char *dot = strrchr(c->path, '.'), *slash = strrchr(c->path, '/');
    bool suffix = dot != NULL && (slash == NULL || dot > slash);
    int n_stem = (int)(suffix ? (size_t)(dot - c->path) : strlen(c->path));
    int n_dir = (int)(slash != NULL ? slash - c->path + 1 : 0);
    const char *tries[] = {arena_printf(&c->arena, "%.*s.tokenizer", n_stem, c->path),
                           arena_printf(&c->arena, "%.*stokenizer", n_dir, c->path)};
    struct stat st;
    for (size_t i = 0; i < sizeof tries / sizeof *tries && c->tokenizer[0] == NULL; i++)
        if (tries[i] != NULL && stat(tries[i], &st) == 0 && S_ISDIR(st.st_mode))
            c->tokenizer[0] = c->tokenizer[1] = tries[i];
    c->yaml = arena_printf(&c->arena, "%.*s.yaml", n_stem, c->path);
}

static int open_single(struct checkpoint *c, struct err *e)
{
    struct checkpoint_file *f;
    c->single = true;
    look_beside(c);
    int rc = checkpoint_open_file(c, c->path, &f, e);
    if (rc == 0 && checkpoint_esrgan_is(f)) {
        rc = checkpoint_esrgan_open(c, e);
        return rc != 0 ? rc : finish(c, e);
    }
    const bool control = rc == 0 && checkpoint_control_names(f);
    if (rc == 0)
        rc = control ? checkpoint_control_open(c, e) : checkpoint_ldm_open(c, e);
    if (rc == 0)
        rc = finish(c, e);
    if (rc != 0)
        return rc;
    return control ? checkpoint_config_control(c, e) : checkpoint_config_make(c, e);
}

static int open_dir(struct checkpoint *c, struct err *e)
{
    int rc = checkpoint_dir_open(c, e);
    return rc != 0 ? rc : finish(c, e);
}

/* What the options say counts before what the files say; but a directory of diffusers keeps the
 * tokenizers that it has. */
static int apply_options(struct checkpoint *c, const struct checkpoint_options *o, struct err *e)
{
    if (o == NULL)
        return 0;
    for (int i = 0; i < 2 && o->tokenizer != NULL; i++) {
        if (c->single || c->tokenizer[i] == NULL)
            c->tokenizer[i] = arena_strdup(&c->arena, o->tokenizer);
        if (c->tokenizer[i] == NULL)
            return checkpoint_no_memory(e);
    }
    return o->prediction != NULL && c->scheduler != NULL ? set_prediction(c, o->prediction, e) : 0;
}

static int open_path(struct checkpoint *c, const struct checkpoint_options *o, struct err *e)
{
    struct stat st;
    if (stat(c->path, &st) != 0)
        return err_set(e, ERR_NOTFOUND, "cannot open %s: %m", c->path);
    int rc = S_ISDIR(st.st_mode) ? open_dir(c, e) : open_single(c, e);
    return rc != 0 ? rc : apply_options(c, o, e);
}

int checkpoint_open(struct checkpoint **out, const char *path, const struct checkpoint_options *o,
                    struct err *e)
{
    struct checkpoint *c = xcalloc(1, sizeof *c);
    arena_init(&c->arena, CHECKPOINT_ARENA);
    c->path = arena_strdup(&c->arena, path);
    c->no_safety = o != NULL && o->no_safety;
    int rc = c->path != NULL ? open_path(c, o, e) : checkpoint_no_memory(e);
    if (rc != 0) {
        checkpoint_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void checkpoint_close(struct checkpoint *c)
{
    if (c == NULL)
        return;
    for (int i = 0; i < CHECKPOINT_MAX_FILES; i++) { /* one that failed to open is not counted */
        safetensors_close(c->files[i].st);
        gguf_close(c->files[i].gguf);
    }
    for (int p = 0; p < CHECKPOINT_N_PARTS; p++) {
        free(c->parts[p].tensors);
        map_free(&c->parts[p].by_name);
        json_free(c->parts[p].config);
    }
    json_free(c->index);
    json_free(c->scheduler);
    arena_free(&c->arena);
    free(c);
}

bool checkpoint_is_image(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return false;
    if (S_ISDIR(st.st_mode)) {
        char name[4096];
        int n = snprintf(name, sizeof name, "%s/model_index.json", path);
        if (n > 0 && (size_t)n < sizeof name && stat(name, &st) == 0)
            return true;
        n = snprintf(name, sizeof name, "%s/diffusion_pytorch_model.safetensors", path);
        return n > 0 && (size_t)n < sizeof name && stat(name, &st) == 0;
    }
    enum magic m = magic_of_file(path);
    if (m != MAGIC_GGUF)
        return m == MAGIC_SAFETENSORS;
    struct checkpoint_file f = {0};
    if (gguf_open(&f.gguf, path, NULL) != 0)
        return false;
    bool image = checkpoint_ldm_is(&f);
    gguf_close(f.gguf);
    return image;
}

bool checkpoint_is_control(const char *path)
{
    char name[4096];
    struct stat st;
    if (stat(path, &st) != 0)
        return false;
    if (!S_ISDIR(st.st_mode)) {
        struct checkpoint_file f = {0};
        if (magic_of_file(path) != MAGIC_SAFETENSORS || safetensors_open(&f.st, path, NULL) != 0)
            return false;
        bool is = checkpoint_control_names(&f);
        safetensors_close(f.st);
        return is;
    }
    struct cJSON *config = NULL;
    int n = snprintf(name, sizeof name, "%s/config.json", path);
    if (n < 0 || (size_t)n >= sizeof name || checkpoint_json(&config, name, JSON_OBJECT, NULL) != 0)
        return false;
    bool is = checkpoint_control_class(json_str(json_get(config, "_class_name")));
    json_free(config);
    return is;
}

bool checkpoint_is_upscaler(const char *path)
{
    struct checkpoint_file f = {0};
    struct stat st;
    if (stat(path, &st) != 0 || S_ISDIR(st.st_mode) || magic_of_file(path) != MAGIC_SAFETENSORS ||
        safetensors_open(&f.st, path, NULL) != 0)
        return false;
    bool is = checkpoint_esrgan_is(&f);
    safetensors_close(f.st);
    return is;
}

/* ---- getters ---- */

bool checkpoint_model_type(const char *path, char *type, size_t size)
{
    char name[4096];
    struct stat st;
    struct cJSON *config = NULL;
    int n = snprintf(name, sizeof name, "%s/config.json", path);
    if (n < 0 || (size_t)n >= sizeof name || stat(name, &st) != 0 || checkpoint_is_image(path) ||
        checkpoint_json(&config, name, JSON_OBJECT, NULL) != 0)
        return false;
    const char *s = json_str(json_get(config, "model_type"));
    bool is = s != NULL && (size_t)snprintf(type, size, "%s", s) < size;
    json_free(config);
    return is;
}

enum checkpoint_family checkpoint_family(const struct checkpoint *c)
{
    return c->family;
}

bool checkpoint_has(const struct checkpoint *c, enum checkpoint_part part)
{
    return (unsigned)part < CHECKPOINT_N_PARTS && c->parts[part].config != NULL;
}

const struct cJSON *checkpoint_config(const struct checkpoint *c, enum checkpoint_part part)
{
    return (unsigned)part < CHECKPOINT_N_PARTS ? c->parts[part].config : NULL;
}

int checkpoint_document(const struct checkpoint *c, const char *name, enum json_type type,
                        struct cJSON **out, struct err *e)
{
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", c->path, name);
    if (n < 0 || (size_t)n >= sizeof path || stat(path, &st) != 0)
        return err_set(e, ERR_NOTFOUND, "%s has no %s", c->path, name);
    return checkpoint_json(out, path, type, e);
}

const struct cJSON *checkpoint_scheduler(const struct checkpoint *c)
{
    return c->scheduler;
}

const struct cJSON *checkpoint_index(const struct checkpoint *c)
{
    return c->index;
}

int checkpoint_tokenizer(const struct checkpoint *c, int which, struct clip_bpe **out,
                         struct err *e)
{
    int i = which == 0 ? 0 : 1;
    if (c->tokenizer[i] == NULL)
        return err_set(e, ERR_NOTFOUND,
                       "no CLIP tokenizer comes with %s: put vocab.json and merges.txt (of any "
                       "diffusers Stable Diffusion, directory tokenizer/) into %s %s it",
                       c->path, i == 0 || c->single ? "tokenizer/" : "tokenizer_2/",
                       c->single ? "beside" : "in");
    return clip_bpe_open(out, c->tokenizer[i], c->pad[i], e);
}

const struct checkpoint_tensor *checkpoint_find(const struct checkpoint *c,
                                                enum checkpoint_part part, const char *name)
{
    int64_t i;
    if ((unsigned)part >= CHECKPOINT_N_PARTS || c->parts[part].n == 0)
        return NULL;
    const struct checkpoint_list *l = &c->parts[part];
    return map_get(&l->by_name, name, strlen(name), &i) ? &l->tensors[i] : NULL;
}

int checkpoint_n_tensors(const struct checkpoint *c, enum checkpoint_part part)
{
    return (unsigned)part < CHECKPOINT_N_PARTS ? (int)c->parts[part].n : 0;
}

const struct checkpoint_tensor *checkpoint_tensor_at(const struct checkpoint *c,
                                                     enum checkpoint_part part, int i)
{
    return &c->parts[part].tensors[i];
}

static struct file *file_of(struct checkpoint_file *f)
{
    return f->gguf != NULL ? gguf_file(f->gguf) : safetensors_file(f->st);
}

void checkpoint_forget(struct checkpoint *c, const struct checkpoint_tensor *t)
{
    uintptr_t at = (uintptr_t)t->data;
    for (int i = 0; i < c->n_files; i++) {
        struct file *f = file_of(&c->files[i]);
        uintptr_t start = (uintptr_t)f->data;
        if (at >= start && at - start < f->size)
            file_forget(f, at - start, t->bytes);
    }
}

bool checkpoint_damaged(const struct checkpoint *c)
{
    for (int i = 0; i < c->n_files; i++) {
        struct checkpoint_file f = c->files[i];
        if (file_damaged(file_of(&f)))
            return true;
    }
    return false;
}
