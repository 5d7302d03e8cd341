/* Opening adapters.  LoRA: names to layers (lora_name.h), a first pass that collects each layer's tensors and
 * holds their shapes against the model, then one that opens the matrices.  Embeddings: few tensors, known by
 * their widths. */
#include "engine/models/image_adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"
#include "engine/lora_name.h"
#include "engine/models/image_model_int.h"
#include "engine/safetensors.h"
#include "kernels/quant.h"

enum { MAX_MID_RANK = 512 }; /* where two matrices are multiplied at load */

typedef const struct safetensors_tensor tensor;

/* ---- names of the model's layers ---- */

struct layer_name {
    enum lora_where where;
    int place; /* of the store, the first of a matrix that was split */
    char flat[LORA_NAME_MAX];
};

struct layers {
    struct layer_name *names; /* [n], sorted */
    int n;
};

static int by_name(const void *a, const void *b)
{
    const struct layer_name *x = a, *y = b;
    return x->where != y->where ? (x->where < y->where ? -1 : 1) : strcmp(x->flat, y->flat);
}

/* Text encoders are counted as the model has them: a refiner's only one is called the second. */
static bool where_of(const struct nn_place *p, enum lora_where *where)
{
    *where = p->part == CHECKPOINT_UNET           ? LORA_UNET
             : p->part == CHECKPOINT_TEXT_ENCODER ? LORA_TEXT
                                                  : LORA_TEXT_2;
    return p->part == CHECKPOINT_UNET || p->part == CHECKPOINT_TEXT_ENCODER ||
           p->part == CHECKPOINT_TEXT_ENCODER_2;
}

static int layers_open(struct layers *l, const struct image_model *m, struct err *e)
{
    const struct nn_store *s = &m->store;
    *l = (struct layers){.names = mem_try(3 * (size_t)s->n_places + 1, sizeof *l->names)};
    if (l->names == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the names of layers");
    for (int i = 0; i < s->n_places; i++) {
        struct layer_name *to = &l->names[l->n];
        if (s->places[i].which > 0 || !where_of(&s->places[i], &to->where))
            continue;
        to->place = i;
        l->n += lora_name_flatten(to->flat, sizeof to->flat, s->places[i].name);
        for (int k = 0; k < 2 && s->places[i].part == CHECKPOINT_UNET; k++) {
            to = &l->names[l->n];
            to->where = LORA_UNET;
            to->place = i;
            if (lora_name_ldm(to->flat, sizeof to->flat, s->places[i].name, m->unet->c.n_layers[0],
                              k == 1) &&
                (k == 0 || strcmp(to->flat, l->names[l->n - 1].flat) != 0))
                l->n++;
        }
    }
    if (l->n > 0)
        qsort(l->names, (size_t)l->n, sizeof *l->names, by_name);
    return 0;
}

/* The place in the store, or -1. */
static int layers_find(const struct layers *l, const struct lora_name *name)
{
    struct layer_name key = {.where = name->where};
    memcpy(key.flat, name->layer, sizeof key.flat);
    const struct layer_name *found =
        l->n > 0 ? bsearch(&key, l->names, (size_t)l->n, sizeof key, by_name) : NULL;
    return found != NULL ? found->place : -1;
}

/* ---- LoRA: what the file has for each layer ---- */

struct image_adapter {
    struct image_adapter_info info;
    struct backend *be;
    struct nn_lora lora;
    float *vectors[IMAGE_MAX_ENCODERS]; /* [n_vectors, width] */
    int width[IMAGE_MAX_ENCODERS];
};

struct target {
    tensor *t[LORA_N_ROLES];
    double scale; /* alpha / rank */
    int64_t rank;
};

struct reading {
    struct image_model *m;
    struct safetensors *file;
    struct layers layers;
    struct target *targets; /* [places of the store] */
    struct image_adapter *a;
    struct err *e;
};

static bool is_matrix(tensor *t, int64_t d0, int64_t d1)
{
    for (int i = 2; i < t->ndim; i++)
        if (t->dims[i] != 1)
            return false;
    return t->ndim >= 2 && t->ndim <= 4 && (d0 == 0 || t->dims[0] == d0) && t->dims[1] == d1;
}

static bool is_kernel(tensor *t, int64_t d0, int64_t d1, int k)
{
    return t->ndim == 4 && (d0 == 0 || t->dims[0] == d0) && t->dims[1] == d1 && t->dims[2] == k &&
           t->dims[3] == k;
}

static int misfit(const struct reading *r, tensor *t, const struct nn_place *p)
{
    char dims[80] = "";
    for (int i = 0; i < t->ndim && i < 4; i++) {
        const size_t at = strlen(dims);
        snprintf(dims + at, sizeof dims - at, "%s%lld", i > 0 ? ", " : "",
                 (long long)(t->dims[i] % 1000000000));
    }
    return err_set(
        r->e, ERR_UNSUPPORTED,
        "%.100s is [%s], the model's layer has %lld inputs and %lld outputs: it was made "
        "for another model",
        t->name, dims, (long long)(p->w->n_in / ((int64_t)p->kernel * p->kernel)),
        (long long)(p->w->n_out * p->of));
}

/* Shapes and the scale of one layer's tensors. */
static int check_target(const struct reading *r, int place, struct target *t)
{
    const struct nn_place *p = &r->m->store.places[place];
    tensor *down = t->t[LORA_DOWN], *up = t->t[LORA_UP], *mid = t->t[LORA_MID];
    tensor *alpha = t->t[LORA_ALPHA];
    const int64_t c_in = p->w->n_in / ((int64_t)p->kernel * p->kernel);
    if (down == NULL || up == NULL)
        return err_set(r->e, ERR_CORRUPT, "the LoRA has only one of the two matrices of %.100s",
                       p->name);
    if (!(mid == NULL && p->kernel > 1 ? is_kernel(down, 0, c_in, p->kernel)
                                       : is_matrix(down, 0, c_in)))
        return misfit(r, down, p);
    t->rank = down->dims[0];
    if (mid != NULL && !is_kernel(mid, 0, t->rank, p->kernel))
        return misfit(r, mid, p);
    if (mid != NULL && (t->rank > MAX_MID_RANK || mid->dims[0] > MAX_MID_RANK))
        return err_set(r->e, ERR_TOOBIG, "%.100s: a rank of more than %d", mid->name, MAX_MID_RANK);
    t->rank = mid != NULL ? mid->dims[0] : t->rank;
    if (!is_matrix(up, p->w->n_out * p->of, t->rank))
        return misfit(r, up, p);
    if (t->rank < 1 || t->rank > IMAGE_ADAPTER_MAX_RANK)
        return err_set(r->e, ERR_CORRUPT, "%.100s: a rank of %lld", p->name, (long long)t->rank);
    for (int i = 0; i < LORA_N_ROLES; i++)
        if (t->t[i] != NULL &&
            (t->t[i]->type == DTYPE_N || t->t[i]->type == DTYPE_I32 || t->t[i]->bytes == 0))
            return err_set(r->e, ERR_UNSUPPORTED,
                           "%.120s has the type %.10s: F32, F16 or BF16 are read", t->t[i]->name,
                           t->t[i]->type_name);
    float value = (float)t->rank;
    if (alpha != NULL && alpha->bytes != (size_t)dtype_block_bytes(alpha->type))
        return err_set(r->e, ERR_CORRUPT, "%.120s is no single number", alpha->name);
    if (alpha != NULL)
        quant_unpack(alpha->type, &value, alpha->data, 1);
    if (alpha != NULL || t->scale == 0)
        t->scale = (double)value / (double)t->rank;
    if (!isfinite(t->scale))
        return err_set(r->e, ERR_CORRUPT, "%.100s: alpha is no number", p->name);
    return 0;
}

static int collect(struct reading *r)
{
    struct lora_name name;
    for (int i = 0; i < safetensors_n_tensors(r->file); i++) {
        tensor *t = safetensors_tensor_at(r->file, i);
        int rc = lora_name_read(&name, t->name, r->e);
        if (rc != 0)
            return rc;
        const int place = layers_find(&r->layers, &name);
        if (place < 0)
            return err_set(
                r->e, ERR_UNSUPPORTED,
                "%.120s: this model has no such layer, the LoRA was made for another one", t->name);
        struct target *to = &r->targets[place];
        if (to->t[name.role] != NULL)
            return err_set(r->e, ERR_CORRUPT, "%.100s and %.100s are for the same layer",
                           to->t[name.role]->name, t->name);
        to->t[name.role] = t;
    }
    return 0;
}

/* PEFT's way to name layers: the whole name, or its end from a dot on.  Its keys are regular expressions; what
 * people and diffusers write are plain names. */
static bool pattern_fits(const char *key, const char *layer)
{
    const size_t n = strlen(key), len = strlen(layer);
    return n > 0 && n <= len && strcmp(layer + len - n, key) == 0 &&
           (n == len || layer[len - n - 1] == '.');
}

/* The alpha of a layer: that of the first pattern that fits it, else the plain one. */
static double alpha_of(const struct cJSON *patterns, const char *layer, double plain)
{
    for (const struct cJSON *v = json_first(patterns); v != NULL; v = json_next(v))
        if (pattern_fits(json_key(v), layer))
            return json_num(v);
    return plain;
}

static int check_patterns(const struct cJSON *patterns, const char *what, struct err *e)
{
    for (const struct cJSON *v = json_first(patterns); v != NULL; v = json_next(v)) {
        if (json_type(v) != JSON_NUMBER || json_key(v) == NULL)
            return err_set(e, ERR_CORRUPT, "%s: a member is no number", what);
        if (strpbrk(json_key(v), "\\^$|?*+()[]{}") != NULL)
            return err_set(e, ERR_UNSUPPORTED,
                           "%s: '%.80s' is a regular expression: plain names are read", what,
                           json_key(v));
    }
    return 0;
}

/* diffusers writes PEFT's settings into the header: alpha, where no tensor has it, and its exceptions; a rank of
 * its own (rank_pattern) a layer shows in its matrices. */
static int read_settings(struct reading *r)
{
    static const char *const parts[] = {"unet", "text_encoder", "text_encoder_2"};
    const char *text = safetensors_metadata(r->file, "lora_adapter_metadata");
    struct cJSON *doc = NULL;
    if (text == NULL)
        return 0;
    if (json_parse(&doc, text, strlen(text), &json_limits_default, r->e) != 0)
        return err_wrap(r->e, "lora_adapter_metadata");
    int rc = 0;
    for (int i = 0; i < 3 && rc == 0; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s.lora_alpha", parts[i]);
        const double plain = json_num(json_get(doc, key));
        snprintf(key, sizeof key, "%s.use_rslora", parts[i]);
        const bool root = json_bool(json_get(doc, key));
        snprintf(key, sizeof key, "%s.alpha_pattern", parts[i]);
        const struct cJSON *patterns = json_get(doc, key);
        rc = check_patterns(patterns, key, r->e);
        for (int k = 0; k < r->m->store.n_places && rc == 0; k++) {
            struct target *t = &r->targets[k];
            const double alpha = alpha_of(patterns, r->m->store.places[k].name, plain);
            enum lora_where where;
            if (alpha == 0 || !where_of(&r->m->store.places[k], &where) || (int)where != i ||
                t->t[LORA_DOWN] == NULL || t->t[LORA_DOWN]->ndim < 1)
                continue;
            const double rank = (double)t->t[LORA_DOWN]->dims[0];
            t->scale = rank > 0 ? alpha / (root ? sqrt(rank) : rank) : 0;
        }
    }
    json_free(doc);
    return rc;
}

/* ---- LoRA: the matrices ---- */

static float *floats_of(tensor *t, int64_t n)
{
    float *f = mem_try((size_t)n, sizeof *f);
    if (f != NULL)
        quant_unpack(t->type, f, t->data, n);
    return f;
}

/* [rank, taps * c_in], columns (tap, c), from [rank, c_in, taps]; with mid [rank, inner, taps] and down
 * [inner, c_in]: their product. */
static float *turned(const struct target *t, int64_t c_in, int64_t taps)
{
    tensor *mid = t->t[LORA_MID], *down = t->t[LORA_DOWN];
    const int64_t inner = mid != NULL ? down->dims[0] : 0;
    float *d = floats_of(down, mid != NULL ? inner * c_in : t->rank * c_in * taps);
    float *m = mid != NULL ? floats_of(mid, t->rank * inner * taps) : NULL;
    float *out = mem_try((size_t)(t->rank * taps * c_in), sizeof *out);
    const bool ok = d != NULL && out != NULL && (mid == NULL || m != NULL);
    for (int64_t j = 0; ok && j < t->rank; j++)
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t c = 0; c < c_in; c++) {
                float *to = &out[(j * taps + tap) * c_in + c];
                if (mid == NULL)
                    *to = d[(j * c_in + c) * taps + tap];
                for (int64_t i = 0; i < inner; i++)
                    *to += m[(j * inner + i) * taps + tap] * d[i * c_in + c];
            }
    free(d);
    free(m);
    if (!ok) {
        free(out);
        return NULL;
    }
    return out;
}

static int open_down(struct reading *r, struct weight **to, const struct nn_place *p,
                     const struct target *t)
{
    struct backend *be = r->a->be;
    tensor *down = t->t[LORA_DOWN];
    const int64_t taps = (int64_t)p->kernel * p->kernel;
    if (taps == 1 && t->t[LORA_MID] == NULL)
        return be->weight_open(be, to, down->type, t->rank, p->w->n_in, down->data, r->e);
    float *f = turned(t, p->w->n_in / taps, taps);
    const enum dtype type = t->t[LORA_MID] != NULL ? DTYPE_F32 : down->type;
    const int64_t n = t->rank * p->w->n_in;
    if (f == NULL)
        return err_set(r->e, ERR_NOMEM, "no memory for %.100s", down->name);
    void *raw = f;
    if (type != DTYPE_F32 && (raw = mem_try(dtype_bytes(type, n), 1)) != NULL)
        quant_pack(type, raw, f, n);
    int rc = raw != NULL ? be->weight_open(be, to, type, t->rank, p->w->n_in, raw, r->e)
                         : err_set(r->e, ERR_NOMEM, "no memory for %.100s", down->name);
    if (raw != f)
        free(raw);
    free(f);
    return rc;
}

/* Every part of a matrix that was split has its own rows of up; each has a down of its own too, so that each
 * delta owns what it has. */
static int open_target(struct reading *r, int place, const struct target *t)
{
    struct image_adapter *a = r->a;
    struct backend *be = a->be;
    const struct nn_place *p = &r->m->store.places[place];
    tensor *up = t->t[LORA_UP];
    for (int i = 0; i < p->of; i++) {
        struct nn_delta *d = &a->lora.deltas[a->lora.n];
        *d = (struct nn_delta){.w = p[i].w, .scale = (float)t->scale};
        int rc = open_down(r, &d->down, &p[i], t);
        if (rc != 0)
            return rc;
        a->lora.n++;
        rc = be->weight_open(be, &d->up, up->type, p[i].w->n_out, t->rank,
                             (const char *)up->data + up->bytes / (size_t)p->of * (size_t)i, r->e);
        if (rc != 0)
            return rc;
        a->info.bytes += d->down->bytes + d->up->bytes + sizeof *d;
    }
    a->info.rank = a->info.rank > t->rank ? a->info.rank : (int)t->rank;
    a->info.n_layers++;
    a->info.unet = a->info.unet || p->part == CHECKPOINT_UNET;
    a->info.text = a->info.text || p->part != CHECKPOINT_UNET;
    return 0;
}

static int open_lora(struct reading *r)
{
    const int n = r->m->store.n_places;
    r->targets = mem_try((size_t)n + 1, sizeof *r->targets);
    r->a->lora.deltas = mem_try((size_t)n + 1, sizeof *r->a->lora.deltas);
    if (r->targets == NULL || r->a->lora.deltas == NULL)
        return err_set(r->e, ERR_NOMEM, "no memory for a LoRA");
    int rc = layers_open(&r->layers, r->m, r->e);
    if (rc == 0)
        rc = collect(r);
    if (rc == 0)
        rc = read_settings(r);
    for (int i = 0; i < n && rc == 0; i++) {
        const struct target *t = &r->targets[i];
        if (t->t[LORA_DOWN] || t->t[LORA_UP] || t->t[LORA_MID] || t->t[LORA_ALPHA])
            rc = check_target(r, i, &r->targets[i]);
    }
    for (int i = 0; i < n && rc == 0; i++)
        if (r->targets[i].t[LORA_DOWN] != NULL)
            rc = open_target(r, i, &r->targets[i]);
    nn_lora_sort(&r->a->lora);
    return rc;
}

/* ---- embeddings ---- */

/* Which encoder the tensor is for: by its name, or the one of that width. */
static int encoder_of(const struct reading *r, tensor *t)
{
    const int64_t width = t->ndim > 0 ? t->dims[t->ndim - 1] : 0;
    const int n = r->m->info.n_encoders;
    const int named = strcmp(t->name, "clip_l") == 0 || strcmp(t->name, "text_encoders_0") == 0 ? 0
                      : strcmp(t->name, "clip_g") == 0 || strcmp(t->name, "text_encoders_1") == 0
                          ? 1
                          : -1;
    if (n == 1)
        return named <= 0 && clip_dim(r->m->clip[0]) == width ? 0 : -1;
    return named >= 0 && clip_dim(r->m->clip[named]) == width ? named : -1;
}

static int open_vectors(struct reading *r, tensor *t)
{
    struct image_adapter *a = r->a;
    const int k = encoder_of(r, t);
    if (t->ndim < 1 || t->ndim > 2 || k < 0)
        return err_set(
            r->e, ERR_UNSUPPORTED,
            "the embedding's tensor %.60s of width %lld is for no text encoder of this model",
            t->name, (long long)(t->ndim > 0 ? t->dims[t->ndim - 1] : 0));
    const int64_t n = t->ndim == 2 ? t->dims[0] : 1, width = t->dims[t->ndim - 1];
    if (n < 1 || n > IMAGE_ADAPTER_MAX_VECTORS || a->vectors[k] != NULL ||
        (a->info.n_vectors > 0 && a->info.n_vectors != n))
        return err_set(r->e, ERR_CORRUPT, "an embedding of %lld vectors for text encoder %d",
                       (long long)n, k);
    if (t->type == DTYPE_N || t->type == DTYPE_I32)
        return err_set(r->e, ERR_UNSUPPORTED, "%.60s has the type %.10s: F32, F16 or BF16 are read",
                       t->name, t->type_name);
    const size_t bytes = (size_t)(n * width) * sizeof(float);
    a->vectors[k] = backend_floats(a->be, t->type, t->data, n * width, r->e);
    if (a->vectors[k] == NULL)
        return ERR_NOMEM;
    a->width[k] = (int)width;
    a->info.n_vectors = (int)n;
    a->info.bytes += bytes;
    static const char *const common[] = {"emb_params", "clip_l", "clip_g", "text_encoders_0",
                                         "text_encoders_1"};
    bool is_common = strncmp(t->name, "string_to_param", 15) == 0;
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        is_common = is_common || strcmp(t->name, common[i]) == 0;
    if (!is_common && strlen(t->name) < sizeof a->info.token)
        snprintf(a->info.token, sizeof a->info.token, "%s", t->name);
    return 0;
}

static int open_embedding(struct reading *r)
{
    const int n = safetensors_n_tensors(r->file);
    r->a->info.kind = IMAGE_EMBEDDING;
    r->a->info.text = true;
    if (n < 1 || n > IMAGE_MAX_ENCODERS)
        return err_set(r->e, ERR_UNSUPPORTED,
                       "%d tensors that are neither a LoRA nor an embedding (textual inversion)",
                       n);
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++)
        rc = open_vectors(r, safetensors_tensor_at(r->file, i));
    for (int i = 0; i < r->m->info.n_encoders && rc == 0; i++)
        if (r->a->vectors[i] == NULL)
            rc = err_set(r->e, ERR_UNSUPPORTED,
                         "the embedding has nothing for text encoder %d of this model", i + 1);
    return rc;
}

/* ---- both ---- */

static bool is_lora(struct safetensors *s)
{
    for (int i = 0; i < safetensors_n_tensors(s); i++)
        if (lora_name_is(safetensors_tensor_at(s, i)->name))
            return true;
    return false;
}

bool image_adapter_is_embedding(const char *path)
{
    struct safetensors *s = NULL;
    if (safetensors_open(&s, path, NULL) != 0)
        return false;
    const int n = safetensors_n_tensors(s);
    const bool is = n > 0 && n <= IMAGE_MAX_ENCODERS && !is_lora(s);
    safetensors_close(s);
    return is;
}

int image_adapter_open(struct image_adapter **out, struct image_model *m, const char *path,
                       struct err *e)
{
    struct reading r = {.m = m, .e = e};
    int rc = safetensors_open(&r.file, path, e);
    if (rc != 0)
        return rc;
    r.a = xcalloc(1, sizeof *r.a);
    r.a->be = m->be;
    r.a->info.bytes = sizeof *r.a;
    rc = is_lora(r.file) ? open_lora(&r) : open_embedding(&r);
    if (rc == 0 && file_damaged(safetensors_file(r.file)))
        rc = err_set(e, ERR_IO, "the file was cut short while it was read");
    free(r.layers.names);
    free(r.targets);
    safetensors_close(r.file);
    if (rc != 0) {
        image_adapter_close(r.a);
        return rc;
    }
    *out = r.a;
    return 0;
}

void image_adapter_close(struct image_adapter *a)
{
    if (a == NULL)
        return;
    for (int i = 0; i < a->lora.n; i++) {
        a->be->weight_close(a->be, a->lora.deltas[i].down);
        if (a->lora.deltas[i].up != NULL)
            a->be->weight_close(a->be, a->lora.deltas[i].up);
    }
    for (int i = 0; i < IMAGE_MAX_ENCODERS; i++)
        if (a->vectors[i] != NULL)
            a->be->free(a->be, a->vectors[i]);
    free(a->lora.deltas);
    free(a);
}

const struct image_adapter_info *image_adapter_info(const struct image_adapter *a)
{
    return &a->info;
}

const float *image_adapter_vector(const struct image_adapter *a, int encoder, int i)
{
    return a->vectors[encoder] + (ptrdiff_t)i * a->width[encoder];
}

/* ---- for the units ---- */

void image_adapter_set(const struct nn_lora_sites *s, int image, const struct image_adapters *list,
                       bool text)
{
    struct nn_lora_use uses[NN_LORA_MAX];
    int n = 0;
    for (int i = 0; list != NULL && i < list->n; i++) {
        const float scale = text ? list->of[i].text : list->of[i].unet;
        if (scale != 0 && list->of[i].adapter->info.kind == IMAGE_LORA)
            uses[n++] = (struct nn_lora_use){&list->of[i].adapter->lora, scale};
    }
    nn_lora_set(s, image, uses, n);
}
