/* The safety checker (docs/MODELS.md has the formulas).
 *
 *     x = norm(patches(pixels)), then the layers of clip_layers.h
 *     seen = projection(norm(x[class]))
 *     score[k] = cosine(seen, concept[k]) - threshold[k] + adjustment
 *
 * The concepts that take special care come first, in the table and in the cosines. */
#include "engine/models/safety.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"
#include "engine/models/clip_layers.h"
#include "engine/models/vit.h"
#include "kernels/quant.h"

enum { MAX_SIZE = 2048 };

/* How much a special care concept that was seen takes off the thresholds after it. */
#define ADJUSTMENT 0.01f

struct concepts {
    int n;
    float threshold[SAFETY_SCORES_MAX];
};

struct safety {
    struct clip_layers layers;
    struct vit_pixels colours;
    struct vit_patches in;
    int n_project;
    /* The picture before it is cut; resize_h 0: its shortest side is resize_w. */
    int resize_w, resize_h;
    bool cut;
    struct nn_norm pre_norm, post_norm;
    struct nn_linear projection; /* [n_project, dim], no bias */
    struct concepts special, concepts;
    float *embeds; /* [special.n + concepts.n, n_project] of length 1, until they are in table */
    struct tensor table; /* the same */
};

/* ---- configuration ---- */

static int read_config(struct safety *m, const struct cJSON *config, struct err *e)
{
    const struct cJSON *vision = json_get(config, "vision_config");
    int64_t size = 224, patch = 32, project = 512;
    m->layers = (struct clip_layers){.n_layers = 12, .dim = 768, .n_ff = 3072, .n_heads = 12};
    int rc = clip_layers_read(&m->layers, vision, e);
    if (rc == 0)
        rc = json_get_int(vision, "image_size", &size, 1, MAX_SIZE, e);
    if (rc == 0)
        rc = json_get_int(vision, "patch_size", &patch, 1, MAX_SIZE, e);
    if (rc == 0)
        rc = json_get_int(config, "projection_dim", &project, 1, CLIP_MAX_WIDTH, e);
    if (rc != 0)
        return rc;
    m->in = (struct vit_patches){.size = (int)size, .patch = (int)patch, .dim = m->layers.dim};
    m->n_project = (int)project;
    return vit_patches_init(&m->in, e);
}

/* 224, {"shortest_edge": 224} or {"height": 224, "width": 224}. */
static int read_size(const struct cJSON *config, const char *key, int64_t *w, int64_t *h,
                     struct err *e)
{
    const struct cJSON *v = json_get(config, key);
    if (json_type(v) != JSON_OBJECT)
        return json_get_int(config, key, w, 1, MAX_SIZE, e);
    if (json_get(v, "shortest_edge") != NULL)
        return json_get_int(v, "shortest_edge", w, 1, MAX_SIZE, e);
    int rc = json_get_int(v, "width", w, 1, MAX_SIZE, e);
    *h = *w;
    return rc == 0 ? json_get_int(v, "height", h, 1, MAX_SIZE, e) : rc;
}

static int read_sizes(struct safety *m, const struct cJSON *config, struct err *e)
{
    int64_t w = m->in.size, h = 0, cut_w = m->in.size, cut_h = 0;
    int rc = read_size(config, "size", &w, &h, e);
    if (rc == 0)
        rc = read_size(config, "crop_size", &cut_w, &cut_h, e);
    if (rc == 0)
        rc = json_get_bool(config, "do_center_crop", &m->cut, e);
    if (rc != 0)
        return rc;
    m->resize_w = (int)w;
    m->resize_h = (int)h;
    if (!m->cut) {
        cut_w = w;
        cut_h = h;
    } else if (cut_h == 0) {
        cut_h = cut_w;
    }
    if (cut_w != m->in.size || cut_h != m->in.size)
        return err_set(e, ERR_UNSUPPORTED,
                       "pictures of %lldx%lld for a vision transformer that takes %dx%d",
                       (long long)cut_w, (long long)cut_h, m->in.size, m->in.size);
    return 0;
}

static int read_preprocessor(struct safety *m, const struct checkpoint *c, struct err *e)
{
    struct cJSON *doc = NULL;
    struct err why = {0};
    m->colours = vit_pixels_default;
    m->resize_w = m->in.size;
    m->cut = true;
    int rc = checkpoint_document(c, "feature_extractor/preprocessor_config.json", JSON_OBJECT, &doc,
                                 &why);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc == 0)
        rc = vit_pixels_read(&m->colours, doc, &why);
    if (rc == 0)
        rc = read_sizes(m, doc, &why);
    json_free(doc);
    return rc != 0 ? err_set(e, rc, "feature_extractor: %s", why.msg) : 0;
}

/* ---- weights ---- */

static void walk(struct nn_loader *l, void *model)
{
    struct safety *m = model;
    const int dim = m->layers.dim;
    const size_t path = nn_push(l, "vision_model");
    nn_load_vector(l, &m->in.class, "embeddings.class_embedding", dim);
    nn_load_table(l, &m->in.position, "embeddings.position_embedding.weight", m->in.n_tokens, dim);
    nn_load_conv(l, &m->in.conv, "embeddings.patch_embedding", NN_NO_BIAS);
    nn_load_norm(l, &m->pre_norm, "pre_layrnorm", dim); /* the name has a letter less for ever */
    clip_layers_walk(l, &m->layers);
    nn_load_norm(l, &m->post_norm, "post_layernorm", dim);
    nn_pop(l, path);
    nn_load_linear(l, &m->projection, "visual_projection", m->n_project, dim, NN_NO_BIAS);
    nn_make_table(l, &m->table, m->embeds, m->special.n + m->concepts.n, m->n_project);
    static const char *const read[] = {"concept_embeds", "concept_embeds_weights",
                                       "special_care_embeds", "special_care_embeds_weights"};
    for (size_t i = 0; i < sizeof read / sizeof *read; i++)
        nn_ignore(l, read[i]); /* by read_concepts */
}

/* Their embeddings go behind the n_before in m->embeds. */
static int read_concepts(struct safety *m, struct concepts *k, const struct nn_loader *l,
                         const char *name, int n_before, struct err *e)
{
    const int dim = m->n_project;
    char weights[64];
    snprintf(weights, sizeof weights, "%s_weights", name);
    const struct checkpoint_tensor *t = checkpoint_find(l->c, l->part, name);
    const struct checkpoint_tensor *w = checkpoint_find(l->c, l->part, weights);
    if (t == NULL || w == NULL || t->ndim != 2 || t->dims[1] != dim || w->ndim != 1 ||
        w->dims[0] != t->dims[0] || t->dims[0] < 1 || t->dims[0] > SAFETY_SCORES_MAX)
        return err_set(e, ERR_CORRUPT, "%s are missing, or not [1 to %d, %d] with thresholds", name,
                       SAFETY_SCORES_MAX, dim);
    const int64_t n = t->dims[0];
    float *const embeds = m->embeds + (ptrdiff_t)n_before * dim;
    k->n = (int)n;
    quant_unpack(t->type, embeds, t->data, n * dim);
    quant_unpack(w->type, k->threshold, w->data, n);
    for (int64_t i = 0; i < n; i++) {
        float *row = embeds + i * dim;
        double sum = 0;
        for (int j = 0; j < dim; j++)
            sum += (double)row[j] * (double)row[j];
        const double length = sqrt(sum) > 1e-12 ? sqrt(sum) : 1e-12;
        for (int j = 0; j < dim; j++)
            row[j] = (float)((double)row[j] / length);
        if (!isfinite(sum) || !isfinite(k->threshold[i]))
            return err_set(e, ERR_CORRUPT, "%s are no finite numbers", name);
    }
    return 0;
}

int safety_open(struct safety **out, struct nn_loader *l, struct err *e)
{
    struct safety *m = xcalloc(1, sizeof *m);
    int rc = read_config(m, checkpoint_config(l->c, l->part), e);
    if (rc == 0)
        rc = read_preprocessor(m, l->c, e);
    m->embeds =
        rc == 0 ? mem_try(2 * SAFETY_SCORES_MAX, (size_t)m->n_project * sizeof(float)) : NULL;
    if (rc == 0 && m->embeds == NULL)
        rc = err_set(e, ERR_NOMEM, "no memory for the concepts");
    if (rc == 0)
        rc = read_concepts(m, &m->special, l, "special_care_embeds", 0, e);
    if (rc == 0)
        rc = read_concepts(m, &m->concepts, l, "concept_embeds", m->special.n, e);
    if (rc == 0)
        rc = nn_load(l, walk, m);
    free(m->embeds);
    m->embeds = NULL;
    if (rc != 0) {
        safety_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void safety_close(struct safety *m)
{
    if (m == NULL)
        return;
    clip_layers_free(&m->layers);
    free(m);
}

int safety_size(const struct safety *m)
{
    return m->in.size;
}

/* ---- the pass ---- */

struct safety_pass safety_record(const struct safety *m, struct program *p)
{
    const float eps = m->layers.eps;
    struct safety_pass pass = {.pixels = PROGRAM_PINNED(p, 1, m->in.size, m->in.size, 3),
                               .seen = PROGRAM_PINNED(p, 1, m->n_project),
                               .cosines = PROGRAM_PINNED(p, 1, m->special.n + m->concepts.n)};
    struct tensor x = vit_patches_record(&m->in, p, &pass.pixels);
    x = nn_layernorm(p, &m->pre_norm, &x, eps);
    for (int i = 0; i < m->layers.n_layers; i++) {
        struct tensor y = nn_like(p, &x);
        clip_layers_record(&m->layers, p, i, &x, &y);
        x = y;
    }
    x.dims[0] = 1; /* the class token */
    struct tensor h = nn_layernorm(p, &m->post_norm, &x, eps);
    nn_emit_linear(p, &(struct op_linear){.out = {&pass.seen}, .w = {m->projection.w}, .x = &h});
    OP(program_backend(p), cosine, .out = &pass.cosines, .x = &pass.seen, .w = &m->table);
    return pass;
}

int safety_look(const struct safety *m, const struct image *rgb, float *pixels, struct err *e)
{
    const int size = m->in.size;
    int w = m->resize_w, h = m->resize_h;
    if (h == 0) { /* as transformers has it: the longer side is cut to whole pixels */
        const int64_t shortest = w;
        const bool upright = rgb->width <= rgb->height;
        w = (int)(upright ? shortest : shortest * rgb->width / rgb->height);
        h = (int)(upright ? shortest * rgb->height / rgb->width : shortest);
    }
    struct image fit = {0}, middle = {0};
    int rc = image_resize(&fit, rgb, w, h, m->colours.filter, e);
    if (rc == 0)
        rc = image_crop(&middle, &fit, (w - size) / 2, (h - size) / 2, size, size, 0, e);
    if (rc == 0)
        vit_pixels_fill(&m->colours, middle.data, (size_t)size * (size_t)size, pixels);
    image_free(&fit);
    image_free(&middle);
    return rc;
}

/* ---- the verdict ---- */

/* A hair's breadth above 0 is not above it: the scores are rounded first, as in diffusers. */
static float rounded(float v)
{
    return rintf(v * 1000) / 1000;
}

void safety_judge(const struct safety *m, const float *cosines, struct safety_result *out)
{
    float adjustment = 0;
    out->n_special = m->special.n;
    out->n_concepts = m->concepts.n;
    out->flagged = false;
    for (int i = 0; i < m->special.n; i++) {
        out->special[i] = rounded(cosines[i] - m->special.threshold[i] + adjustment);
        if (out->special[i] > 0)
            adjustment = ADJUSTMENT;
    }
    for (int i = 0; i < m->concepts.n; i++) {
        const float cosine = cosines[m->special.n + i];
        out->concepts[i] = rounded(cosine - m->concepts.threshold[i] + adjustment);
        /* of what is no number nothing can be said: not safe */
        out->flagged |= out->concepts[i] > 0 || !isfinite(cosine);
    }
}
