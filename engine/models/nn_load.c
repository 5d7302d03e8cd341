/* Weights of image models: from a checkpoint's tensors to what the ops take.  Matrices keep the file's
 * type; convolutions are turned from [c_out, c_in, ky, kx] to rows (ky, kx, c_in) first; vectors become
 * f32. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "engine/models/nn.h"
#include "kernels/quant.h"

/* ---- names ---- */

size_t nn_push(struct nn_loader *l, const char *fmt, ...)
{
    size_t before = l->path_len, room = sizeof l->path - before;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(l->path + before, room, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n + 1 >= room) {
        if (l->rc == 0)
            l->rc = err_set(l->e, ERR_CORRUPT, "a tensor's name is too long");
        l->path[before] = 0;
        return before;
    }
    l->path_len += (size_t)n;
    l->path[l->path_len++] = '.';
    l->path[l->path_len] = 0;
    return before;
}

void nn_pop(struct nn_loader *l, size_t len)
{
    l->path_len = len;
    l->path[len] = 0;
}

static const struct checkpoint_tensor *look(const struct nn_loader *l, const char *name)
{
    char full[sizeof l->path + 128];
    snprintf(full, sizeof full, "%s%s", l->path, name);
    return checkpoint_find(l->c, l->part, full);
}

bool nn_has(const struct nn_loader *l, const char *name)
{
    return look(l, name) != NULL;
}

static void mark(struct nn_loader *l, const struct checkpoint_tensor *t)
{
    if (l->load || l->n_used >= checkpoint_n_tensors(l->c, l->part))
        return;
    l->used[l->n_used++] = t;
    l->all_bytes += t->bytes;
}

void nn_ignore(struct nn_loader *l, const char *name)
{
    const struct checkpoint_tensor *t = l->rc == 0 ? look(l, name) : NULL;
    if (t != NULL)
        mark(l, t);
}

/* The tensor path + name of these dims; NULL when the loader has failed. */
static const struct checkpoint_tensor *need(struct nn_loader *l, const char *name, int ndim,
                                            const int64_t *dims)
{
    if (l->rc != 0)
        return NULL;
    const struct checkpoint_tensor *t = look(l, name);
    if (t == NULL) {
        l->rc = err_set(l->e, ERR_CORRUPT, "%s: the tensor %s%s is missing",
                        checkpoint_part_name(l->part), l->path, name);
        return NULL;
    }
    bool same = t->ndim == ndim;
    for (int i = 0; i < ndim && same; i++)
        same = t->dims[i] == dims[i];
    if (!same) {
        char want[64], have[64];
        int at = 0, at2 = 0;
        for (int i = 0; i < ndim; i++)
            at += snprintf(want + at, sizeof want - (size_t)at, "%s%lld", i > 0 ? ", " : "",
                           (long long)(dims[i] % 1000000000));
        for (int i = 0; i < t->ndim && i < 4; i++)
            at2 += snprintf(have + at2, sizeof have - (size_t)at2, "%s%lld", i > 0 ? ", " : "",
                            (long long)(t->dims[i] % 1000000000));
        l->rc = err_set(l->e, ERR_CORRUPT, "%s: the tensor %s%s is [%s], expected [%s]",
                        checkpoint_part_name(l->part), l->path, name, have, want);
        return NULL;
    }
    mark(l, t);
    return t;
}

/* ---- what is loaded ---- */

static void loaded(struct nn_loader *l, const struct checkpoint_tensor *t)
{
    l->done_bytes += t->bytes;
    checkpoint_forget(l->c, t);
    if (l->progress != NULL)
        atomic_store(l->progress, l->from + (int)((double)(l->to - l->from) *
                                                  (double)l->done_bytes / (double)l->all_bytes));
}

static void *grown(void *list, int n, size_t size)
{
    return (n & (n - 1)) == 0 ? xrealloc(list, (n > 0 ? 2 * (size_t)n : 1) * size) : list;
}

static void open_weight(struct nn_loader *l, struct weight **to, enum dtype type,
                        const int64_t dims[2], const void *raw)
{
    struct nn_store *s = l->store;
    struct weight *w;
    int rc = s->be->weight_open(s->be, &w, type, dims[0], dims[1], raw, l->e);
    if (rc != 0) {
        l->rc = err_wrap(l->e, "%s: %s", checkpoint_part_name(l->part), l->path);
        return;
    }
    s->weights = grown(s->weights, s->n_weights, sizeof *s->weights);
    s->weights[s->n_weights++] = w;
    s->bytes += w->bytes;
    *to = w;
}

/* The matrix that was just opened may be found again by its name. */
static void note_place(struct nn_loader *l, const char *name, struct nn_place place)
{
    struct nn_store *s = l->store;
    if (!s->keep_places || l->rc != 0)
        return;
    char full[sizeof l->path + 128];
    snprintf(full, sizeof full, "%s%s", l->path, name);
    place.name = xstrdup(full);
    place.part = l->part;
    s->places = grown(s->places, s->n_places, sizeof *s->places);
    s->places[s->n_places++] = place;
}

/* n floats of t from the beginning, in the backend's memory. */
static void open_vector(struct nn_loader *l, struct tensor *to, const struct checkpoint_tensor *t,
                        int ndim, const int64_t *dims)
{
    struct nn_store *s = l->store;
    int64_t n = dims[0] * (ndim > 1 ? dims[1] : 1);
    void *p = backend_floats(s->be, t->type, t->data, n, l->e);
    if (p == NULL) {
        l->rc = ERR_NOMEM;
        return;
    }
    s->vectors = grown(s->vectors, s->n_vectors, sizeof *s->vectors);
    s->vectors[s->n_vectors++] = p;
    s->bytes += (size_t)n * sizeof(float);
    *to = (struct tensor){.data = p, .type = DTYPE_F32, .ndim = ndim};
    for (int i = 0; i < ndim; i++)
        to->dims[i] = dims[i];
}

void nn_store_free(struct nn_store *s)
{
    for (int i = 0; i < s->n_weights; i++)
        s->be->weight_close(s->be, s->weights[i]);
    for (int i = 0; i < s->n_vectors; i++)
        s->be->free(s->be, s->vectors[i]);
    for (int i = 0; i < s->n_places; i++)
        free(s->places[i].name);
    free(s->places);
    free(s->weights);
    free(s->vectors);
    *s = (struct nn_store){.be = s->be};
}

static void load_vector(struct nn_loader *l, struct tensor *to, const char *name,
                        const char *suffix, int64_t dim)
{
    char full[128];
    snprintf(full, sizeof full, "%s%s", name, suffix);
    const struct checkpoint_tensor *t = need(l, full, 1, &dim);
    if (t == NULL || !l->load)
        return;
    open_vector(l, to, t, 1, &dim);
    if (l->rc == 0)
        loaded(l, t);
}

void nn_load_linear(struct nn_loader *l, struct nn_linear *to, const char *name, int64_t n_out,
                    int64_t n_in, enum nn_bias bias)
{
    char full[128];
    const int64_t dims[2] = {n_out, n_in};
    snprintf(full, sizeof full, "%s.weight", name);
    const struct checkpoint_tensor *t = need(l, full, 2, dims);
    if (t != NULL && l->load) {
        open_weight(l, &to->w, t->type, dims, t->data);
        note_place(l, name, (struct nn_place){.w = to->w, .kernel = 1, .of = 1});
        if (l->rc == 0)
            loaded(l, t);
    }
    if (bias == NN_BIAS)
        load_vector(l, &to->bias, name, ".bias", n_out);
}

void nn_load_split(struct nn_loader *l, struct nn_linear *to, const char *name,
                   const struct nn_split *as)
{
    char full[128];
    const int64_t all[2] = {as->n * as->n_out, as->n_in}, one[2] = {as->n_out, as->n_in};
    snprintf(full, sizeof full, "%s.weight", name);
    const struct checkpoint_tensor *t = need(l, full, 2, all);
    if (t != NULL && l->load) {
        for (int i = 0; i < as->n && l->rc == 0; i++) {
            open_weight(l, &to[i].w, t->type, one,
                        (const char *)t->data + (size_t)i * (t->bytes / (size_t)as->n));
            note_place(l, name,
                       (struct nn_place){.w = to[i].w, .kernel = 1, .which = i, .of = as->n});
        }
        if (l->rc == 0)
            loaded(l, t);
    }
    if (as->bias != NN_BIAS)
        return;
    snprintf(full, sizeof full, "%s.bias", name);
    t = need(l, full, 1, all);
    struct tensor whole = {0};
    if (t == NULL || !l->load)
        return;
    open_vector(l, &whole, t, 1, all);
    if (l->rc != 0)
        return;
    for (int i = 0; i < as->n; i++) {
        to[i].bias = whole;
        to[i].bias.dims[0] = as->n_out;
        to[i].bias.data = (float *)whole.data + i * as->n_out;
    }
    loaded(l, t);
}

/* One output's [c_in, taps] to [taps, c_in].  The size of an element is a constant where it is called, so
 * that each copy is one load and one store. */
static inline void turn_row(char *to, const char *from, size_t taps, size_t c_in, size_t size)
{
    for (size_t c = 0; c < c_in; c++)
        for (size_t tap = 0; tap < taps; tap++)
            memcpy(to + (tap * c_in + c) * size, from + (c * taps + tap) * size, size);
}

/* [c_out, c_in, taps] to [c_out, taps, c_in], elements of 2 or 4 bytes. */
static void turn(char *to, const char *from, const struct nn_conv *conv, size_t size)
{
    const size_t taps = (size_t)conv->kernel * (size_t)conv->kernel, c_in = (size_t)conv->c_in;
    for (size_t o = 0; o < (size_t)conv->c_out; o++) {
        const size_t at = o * taps * c_in * size;
        if (size == 2)
            turn_row(to + at, from + at, taps, c_in, 2);
        else
            turn_row(to + at, from + at, taps, c_in, 4);
    }
}

/* Block formats cannot be turned: they become floats. */
static void open_kernel(struct nn_loader *l, struct nn_conv *to, const struct checkpoint_tensor *t,
                        const int64_t dims[2])
{
    const bool plain = dtype_block(t->type) == 1;
    const enum dtype type = plain ? t->type : DTYPE_F32;
    const size_t size = type == DTYPE_F32 ? 4 : 2, n = (size_t)(dims[0] * dims[1]);
    char *turned = mem_try(n, size);
    float *floats = plain ? NULL : mem_try(n, sizeof(float));
    if (turned == NULL || (!plain && floats == NULL)) {
        l->rc = err_set(l->e, ERR_NOMEM, "no memory to load %s", t->name);
    } else {
        if (!l->store->be->dry) {
            if (!plain)
                quant_unpack(t->type, floats, t->data, (int64_t)n);
            turn(turned, plain ? t->data : (const char *)floats, to, size);
        }
        open_weight(l, &to->w, type, dims, turned);
        if (l->rc == 0)
            loaded(l, t);
    }
    free(turned);
    free(floats);
}

void nn_load_conv(struct nn_loader *l, struct nn_conv *to, const char *name, enum nn_bias bias)
{
    char full[128];
    snprintf(full, sizeof full, "%s.weight", name);
    const int64_t dims[4] = {to->c_out, to->c_in, to->kernel, to->kernel};
    /* a 1x1 kernel has two dims in a checkpoint */
    const struct checkpoint_tensor *t = need(l, full, to->kernel == 1 ? 2 : 4, dims);
    if (t != NULL && l->load) {
        open_kernel(l, to, t, (const int64_t[2]){dims[0], dims[1] * dims[2] * dims[3]});
        note_place(l, name, (struct nn_place){.w = to->w, .kernel = to->kernel, .of = 1});
    }
    if (bias == NN_BIAS)
        load_vector(l, &to->bias, name, ".bias", to->c_out);
}

/* A quarter of w [c_out, c_in], or of the identity where it is NULL, at each of the four taps. */
static void spread(float *to, const float *w, const struct nn_conv *conv)
{
    const size_t c_out = (size_t)conv->c_out, c_in = (size_t)conv->c_in;
    for (size_t o = 0; o < c_out; o++) {
        for (size_t k = 0; k < 4 * c_in; k++) {
            const size_t i = k % c_in;
            to[o * 4 * c_in + k] = 0.25f * (w != NULL ? w[o * c_in + i] : i == o ? 1.0f : 0.0f);
        }
    }
}

void nn_load_halving(struct nn_loader *l, struct nn_conv *to, const char *name)
{
    char full[128];
    const int64_t dims[2] = {to->c_out, to->c_in}, n = dims[0] * dims[1];
    const struct checkpoint_tensor *t = NULL;
    if (name != NULL) {
        snprintf(full, sizeof full, "%s.weight", name);
        t = need(l, full, 2, dims);
    }
    if (l->load && l->rc == 0) {
        float *all = mem_try(4 * (size_t)n, sizeof(float));
        float *w = t != NULL ? mem_try((size_t)n, sizeof(float)) : NULL;
        if (all == NULL || (t != NULL && w == NULL)) {
            l->rc = err_set(l->e, ERR_NOMEM, "no memory to load %s", l->path);
        } else {
            if (t != NULL)
                quant_unpack(t->type, w, t->data, n);
            spread(all, w, to);
            open_weight(l, &to->w, DTYPE_F32, (const int64_t[2]){dims[0], 4 * dims[1]}, all);
            if (l->rc == 0 && t != NULL)
                loaded(l, t);
        }
        free(all);
        free(w);
    }
    if (name != NULL)
        load_vector(l, &to->bias, name, ".bias", to->c_out);
}

void nn_load_norm(struct nn_loader *l, struct nn_norm *to, const char *name, int64_t dim)
{
    load_vector(l, &to->w, name, ".weight", dim);
    load_vector(l, &to->bias, name, ".bias", dim);
}

void nn_load_table(struct nn_loader *l, struct tensor *to, const char *name, int64_t rows,
                   int64_t dim)
{
    const struct checkpoint_tensor *t = l->rc == 0 ? look(l, name) : NULL;
    int64_t dims[2] = {rows, dim};
    if (t != NULL && t->ndim == 2 && t->dims[0] > rows)
        dims[0] = t->dims[0];
    t = need(l, name, 2, dims);
    if (t == NULL || !l->load)
        return;
    dims[0] = rows;
    open_vector(l, to, t, 2, dims);
    if (l->rc == 0)
        loaded(l, t);
}

void nn_load_rows(struct nn_loader *l, struct tensor *to, const char *name, int64_t rows,
                  int64_t dim)
{
    /* a checkpoint leaves out trailing dimensions of 1, but not down to a vector */
    const int64_t dims[3] = {1, rows, dim}, as[2] = {rows, dim};
    const struct checkpoint_tensor *t = need(l, name, dim > 1 ? 3 : 2, dims);
    if (t == NULL || !l->load)
        return;
    open_vector(l, to, t, 2, as);
    if (l->rc == 0)
        loaded(l, t);
}

void nn_load_vector(struct nn_loader *l, struct tensor *to, const char *name, int64_t dim)
{
    load_vector(l, to, name, "", dim);
}

void nn_load_embedding(struct nn_loader *l, struct weight **to, const char *name, int64_t *n_rows,
                       int64_t dim)
{
    const struct checkpoint_tensor *t = l->rc == 0 ? look(l, name) : NULL;
    int64_t dims[2] = {t != NULL ? t->dims[0] : 1, dim};
    t = need(l, name, 2, dims);
    if (t == NULL)
        return;
    *n_rows = dims[0];
    if (!l->load)
        return;
    open_weight(l, to, t->type, dims, t->data);
    if (l->rc == 0)
        loaded(l, t);
}

void nn_make_vector(struct nn_loader *l, struct tensor *to, int64_t dim, float value)
{
    float *values = l->rc == 0 && l->load ? mem_try((size_t)dim, sizeof *values) : NULL;
    if (values == NULL)
        return;
    for (int64_t i = 0; i < dim; i++)
        values[i] = value;
    const struct checkpoint_tensor t = {.type = DTYPE_F32, .data = values};
    open_vector(l, to, &t, 1, &dim);
    free(values);
}

void nn_make_table(struct nn_loader *l, struct tensor *to, const float *values, int64_t n,
                   int64_t dim)
{
    const int64_t dims[2] = {n, dim};
    const struct checkpoint_tensor t = {.type = DTYPE_F32, .data = (const void *)values};
    if (l->rc == 0 && l->load)
        open_vector(l, to, &t, 2, dims);
}

void nn_make_scale(struct nn_loader *l, struct nn_linear *to, int64_t dim, float factor)
{
    const int64_t dims[2] = {dim, dim};
    float *values = l->rc == 0 && l->load ? mem_try((size_t)(dim * dim), sizeof *values) : NULL;
    if (values == NULL)
        return;
    for (int64_t i = 0; i < dim; i++)
        values[i * dim + i] = factor;
    open_weight(l, &to->w, DTYPE_F32, dims, values);
    free(values);
}

void nn_load_resnet(struct nn_loader *l, struct nn_resnet *to, int c_in, int c_out, int time_dim)
{
    to->conv1 = (struct nn_conv){.kernel = 3, .c_in = c_in, .c_out = c_out};
    to->conv2 = (struct nn_conv){.kernel = 3, .c_in = c_out, .c_out = c_out};
    nn_load_norm(l, &to->norm1, "norm1", c_in);
    nn_load_conv(l, &to->conv1, "conv1", NN_BIAS);
    if (time_dim > 0)
        nn_load_linear(l, &to->time, "time_emb_proj", c_out, time_dim, NN_BIAS);
    nn_load_norm(l, &to->norm2, "norm2", c_out);
    nn_load_conv(l, &to->conv2, "conv2", NN_BIAS);
    if (c_in != c_out)
        nn_load_linear(l, &to->shortcut, "conv_shortcut", c_out, c_in, NN_BIAS);
}

/* ---- the two walks ---- */

static int by_address(const void *a, const void *b)
{
    uintptr_t pa = (uintptr_t) * (void *const *)a, pb = (uintptr_t) * (void *const *)b;
    return pa < pb ? -1 : pa > pb;
}

/* A tensor that nobody asked for means a network that is not this one. */
static int refuse_unused(struct nn_loader *l)
{
    qsort(l->used, (size_t)l->n_used, sizeof(void *), by_address);
    for (int i = 0; i < checkpoint_n_tensors(l->c, l->part); i++) {
        const struct checkpoint_tensor *t = checkpoint_tensor_at(l->c, l->part, i);
        if (bsearch(&t, l->used, (size_t)l->n_used, sizeof(void *), by_address) == NULL)
            return err_set(l->e, ERR_UNSUPPORTED,
                           "%s: the tensor %.120s has no place in this architecture",
                           checkpoint_part_name(l->part), t->name);
    }
    return 0;
}

int nn_load(struct nn_loader *l, nn_walk_fn *walk, void *model)
{
    l->used = mem_try((size_t)checkpoint_n_tensors(l->c, l->part) + 1, sizeof *l->used);
    if (l->used == NULL)
        return err_set(l->e, ERR_NOMEM, "no memory for the list of tensors");
    walk(l, model);
    if (l->rc == 0)
        l->rc = refuse_unused(l);
    free(l->used);
    l->used = NULL;
    l->load = true;
    if (l->rc == 0)
        walk(l, model);
    if (l->rc == 0 && checkpoint_damaged(l->c))
        l->rc = err_set(l->e, ERR_IO, "a file was cut short while it was read");
    return l->rc;
}

void nn_count(const struct checkpoint *c, enum checkpoint_part part, int64_t *n_params,
              enum dtype *type)
{
    size_t bytes[DTYPE_N] = {0};
    for (int i = 0; i < checkpoint_n_tensors(c, part); i++) {
        const struct checkpoint_tensor *t = checkpoint_tensor_at(c, part, i);
        int64_t n = 1;
        for (int d = 0; d < t->ndim; d++)
            n *= t->dims[d];
        *n_params += n;
        bytes[t->type] += t->bytes;
        if (bytes[t->type] > bytes[*type])
            *type = t->type;
    }
}
