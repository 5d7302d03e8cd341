/* refiner, hires and upscale: objects of the request to the passes of the job's spec. */
#include "api/image_passes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/noise.h"

#define SCALE_MAX 8

/* ---- Reading an object ---- */

/* The object at key, whose members must be among names; NULL: none, or *rc != 0. */
static const struct cJSON *object_of(const struct cJSON *body, const char *key,
                                     const char *const names[], int *rc, struct err *e)
{
    const struct cJSON *v = json_get(body, key);
    *rc = 0;
    if (json_type(v) == JSON_NULL || (json_type(v) == JSON_BOOL && !json_bool(v)))
        return NULL;
    if (json_type(v) != JSON_OBJECT) {
        err_set(e, ERR_INVALID, "%s must be an object, not %s", key, json_type_name(json_type(v)));
        *rc = err_param(e, "%s", key);
        return NULL;
    }
    for (const struct cJSON *m = json_first(v); m != NULL; m = json_next(m)) {
        int i = 0;
        while (names[i] != NULL && strcmp(names[i], json_key(m)) != 0)
            i++;
        if (names[i] == NULL) {
            err_set(e, ERR_INVALID, "%s has no member '%.40s'", key, json_key(m));
            *rc = err_param(e, "%s", key);
            return NULL;
        }
    }
    return v;
}

/* An error of a member is the object's. */
static int of(const char *key, struct err *e)
{
    char member[64];
    snprintf(member, sizeof member, "%s", e->param);
    return err_param(e, "%s.%s", key, member);
}

const struct api_model *image_passes_upscaler(const struct api *a, const char *id,
                                              const char *param, struct err *e)
{
    const bool named = id != NULL && id[0] != '\0';
    const struct api_model *found = NULL;
    for (int i = 0; i < a->n_models; i++) {
        const struct model_card *card = a->models[i].card;
        if (named ? strcmp(card->id, id) != 0 : card->scale == 0)
            continue;
        if (found == NULL || (found->card->kind != MODEL_UPSCALER && card->kind == MODEL_UPSCALER))
            found = &a->models[i];
    }
    if (found != NULL && found->card->scale > 0)
        return found;
    if (found != NULL) {
        err_set(e, ERR_INVALID, "model '%.60s' does not make pictures larger", id);
    } else if (named) {
        api_unknown_model(a, id, e);
    } else {
        err_set(e, ERR_NOTFOUND, "this server has no model that makes pictures larger");
        err_reason(e, "model_not_found");
    }
    err_param(e, "%s", param);
    return NULL;
}

/* ---- refiner ---- */

/* The card of that name among image models that make pictures of any kind; NULL with *e filled. */
static const struct model_card *find_refiner(const struct api *a, const char *id, struct err *e)
{
    int i = 0;
    while (id != NULL && i < a->n_models && strcmp(a->models[i].card->id, id) != 0)
        i++;
    if (id == NULL)
        err_set(e, ERR_INVALID, "refiner.model is missing");
    else if (i == a->n_models)
        api_unknown_model(a, id, e);
    else if (a->models[i].card->kind == MODEL_IMAGE && !a->models[i].card->image->inpaint)
        return a->models[i].card;
    else
        err_set(e, ERR_INVALID, "model '%.60s' is no refiner", id);
    err_param(e, "refiner.model");
    return NULL;
}

static int parse_refiner(struct api_call *c, const struct cJSON *body, struct err *e)
{
    static const char *const names[] = {"model", "switch_at", "aesthetic_score",
                                        "negative_aesthetic_score", NULL};
    struct image_spec *s = &c->job->image;
    const char *id = NULL;
    float at = 0.8f;
    int rc;
    const struct cJSON *v = object_of(body, "refiner", names, &rc, e);
    if (v == NULL)
        return rc;
    if ((rc = json_get_str(v, "model", &id, e)) != 0 ||
        (rc = json_get_float(v, "switch_at", &at, 0.01, 0.99, e)) != 0 ||
        (rc = json_get_float(v, "aesthetic_score", &s->aesthetic[0], 0, 10, e)) != 0 ||
        (rc = json_get_float(v, "negative_aesthetic_score", &s->aesthetic[1], 0, 10, e)) != 0)
        return of("refiner", e);
    const struct model_card *card = find_refiner(c->priv->api, id, e);
    if (card == NULL)
        return e->code;
    if (s->denoising_end > 0 || s->mask != NULL) {
        err_set(e, ERR_INVALID, "refiner goes neither with denoising_end nor with a mask");
        return err_param(e, "refiner");
    }
    s->passes.refiner.model = card->id;
    s->passes.refiner.switch_at = s->denoising_end = at;
    return 0;
}

/* ---- hires ---- */

static int read_size(const char *text, int size[2], struct err *e)
{
    char rest;
    if (strlen(text) > 11 || sscanf(text, "%5dx%5d%c", &size[0], &size[1], &rest) != 2) {
        err_set(e, ERR_INVALID, "hires.size must be WIDTHxHEIGHT, not '%.40s'", text);
        return err_param(e, "hires.size");
    }
    return 0;
}

/* The size asked for, or the scale's, which is rounded to what the model makes. */
static int hires_size(const struct cJSON *v, const struct image_card *card, int size[2],
                      struct err *e)
{
    const char *text = NULL;
    float scale = NAN;
    int rc = json_get_str(v, "size", &text, e);
    if (rc == 0)
        rc = json_get_float(v, "scale", &scale, 1, SCALE_MAX, e);
    if (rc != 0)
        return of("hires", e);
    if (text != NULL && !isnan(scale)) {
        err_set(e, ERR_INVALID, "hires has either a size or a scale");
        return err_param(e, "hires.size");
    }
    if (text != NULL && (rc = read_size(text, size, e)) != 0)
        return rc;
    for (int i = 0; i < 2 && text == NULL; i++)
        size[i] =
            (int)((double)size[i] * (isnan(scale) ? 2 : (double)scale) / card->size_step + 0.5) *
            card->size_step;
    for (int i = 0; i < 2; i++) {
        if (size[i] < card->size_min || size[i] > card->size_max || size[i] % card->size_step != 0)
            rc = ERR_INVALID;
    }
    if (rc == 0 && (int64_t)size[0] * size[1] <= card->pixels_max)
        return 0;
    err_set(e, ERR_INVALID,
            "hires makes %dx%d: this model's sides have %d to %d pixels in steps of %d, and "
            "pictures %d in all",
            size[0], size[1], card->size_min, card->size_max, card->size_step, card->pixels_max);
    return err_param(e, "hires");
}

/* "latent", "latent_nearest", "latent_bicubic", "image", or a model. */
static int hires_upscaler(struct api_call *c, const struct cJSON *v, struct image_spec *s,
                          struct err *e)
{
    static const char *const words[] = {
        [IMAGE_LATENT_NEAREST] = "latent_nearest",
        [IMAGE_LATENT_BILINEAR] = "latent",
        [IMAGE_LATENT_BICUBIC] = "latent_bicubic",
        [IMAGE_PIXELS] = "image",
    };
    const char *name = "latent";
    int rc = json_get_str(v, "upscaler", &name, e);
    if (rc != 0)
        return of("hires", e);
    for (int i = 0; i < IMAGE_NETWORK; i++) {
        if (strcmp(name, words[i]) == 0) {
            s->passes.hires.how = (enum image_enlarge)i;
            return 0;
        }
    }
    if (strcmp(name, "latent_bilinear") == 0) {
        s->passes.hires.how = IMAGE_LATENT_BILINEAR;
        return 0;
    }
    const struct api_model *m = image_passes_upscaler(c->priv->api, name, "hires.upscaler", e);
    if (m == NULL)
        return e->code;
    s->passes.hires.how = IMAGE_NETWORK;
    s->passes.hires.model = m->card->id;
    return 0;
}

static int parse_hires(struct api_call *c, const struct cJSON *body, const struct image_card *card,
                       int size[2], struct err *e)
{
    static const char *const names[] = {"scale", "size", "steps", "strength", "upscaler", NULL};
    struct image_spec *s = &c->job->image;
    int64_t steps = 0;
    float strength = NAN;
    int rc;
    const struct cJSON *v = object_of(body, "hires", names, &rc, e);
    if (v == NULL)
        return rc;
    if ((rc = json_get_int(v, "steps", &steps, 1, NOISE_MAX_STEPS, e)) != 0 ||
        (rc = json_get_float(v, "strength", &strength, 0, 1, e)) != 0)
        return of("hires", e);
    if (strength == 0) {
        err_set(e, ERR_INVALID, "hires.strength must be above 0, and 1 at most");
        return err_param(e, "hires.strength");
    }
    if ((rc = hires_size(v, card, size, e)) != 0 || (rc = hires_upscaler(c, v, s, e)) != 0)
        return rc;
    if (s->passes.hires.how >= IMAGE_PIXELS && !card->edit) {
        err_set(e, ERR_UNSUPPORTED,
                "this model has no encoder for pictures: only the upscalers "
                "latent, latent_nearest and latent_bicubic go");
        return err_param(e, "hires.upscaler");
    }
    if (card->inpaint) {
        err_set(e, ERR_UNSUPPORTED, "this model only repaints: it has no hires pass");
        return err_param(e, "hires");
    }
    s->passes.hires.width = size[0];
    s->passes.hires.height = size[1];
    s->passes.hires.steps = (int)steps;
    s->passes.hires.strength = strength;
    return 0;
}

/* ---- upscale ---- */

static int parse_upscale(struct api_call *c, const struct cJSON *body, int size[2], struct err *e)
{
    static const char *const names[] = {"model", "scale",          "noise_level",
                                        "steps", "guidance_scale", NULL};
    struct image_spec *s = &c->job->image;
    const char *id = NULL;
    float scale = NAN;
    int64_t level = -1, steps = 0;
    int rc;
    const struct cJSON *v = object_of(body, "upscale", names, &rc, e);
    if (v == NULL)
        return rc;
    if ((rc = json_get_str(v, "model", &id, e)) != 0 ||
        (rc = json_get_float(v, "scale", &scale, 1, SCALE_MAX, e)) != 0 ||
        (rc = json_get_int(v, "noise_level", &level, 0, INT32_MAX, e)) != 0 ||
        (rc = json_get_int(v, "steps", &steps, 1, NOISE_MAX_STEPS, e)) != 0 ||
        (rc = json_get_float(v, "guidance_scale", &s->passes.upscale.guidance_scale, 0, 100, e)) !=
            0)
        return of("upscale", e);
    const struct api_model *m = image_passes_upscaler(c->priv->api, id, "upscale.model", e);
    if (m == NULL)
        return e->code;
    if (m->card->kind == MODEL_UPSCALER &&
        (level >= 0 || steps > 0 || !isnan(s->passes.upscale.guidance_scale))) {
        err_set(e, ERR_INVALID, "'%.60s' is a network without noise, steps and guidance",
                m->card->id);
        return err_param(e, "upscale");
    }
    s->passes.upscale.model = m->card->id;
    s->passes.upscale.noise_level = (int)level;
    s->passes.upscale.steps = (int)steps;
    const double factor = isnan(scale) ? m->card->scale : (double)scale;
    for (int i = 0; i < 2; i++)
        size[i] = (int)(size[i] * factor + 0.5);
    return 0;
}

/* ---- All ---- */

int image_passes_parse(struct api_call *c, const struct cJSON *body, const struct image_card *card,
                       int size[2], struct err *e)
{
    int rc = parse_refiner(c, body, e);
    if (rc == 0)
        rc = parse_hires(c, body, card, size, e);
    if (rc == 0)
        rc = parse_upscale(c, body, size, e);
    if (rc != 0)
        return rc;
    const int64_t max = c->priv->api->o.max_image_pixels;
    if ((int64_t)size[0] * size[1] * c->job->image.n > max) {
        err_set(e, ERR_INVALID,
                "%d pictures of %dx%d after hires and upscale: at most %lld pixels are allowed",
                c->job->image.n, size[0], size[1], (long long)max);
        return err_param(e, c->job->image.passes.upscale.model != NULL ? "upscale" : "hires");
    }
    return 0;
}

void image_passes_put(const struct image_spec *s, struct buf *out)
{
    static const char *const labels[] = {
        [IMAGE_LATENT_NEAREST] = "Latent (nearest)",
        [IMAGE_LATENT_BILINEAR] = "Latent",
        [IMAGE_LATENT_BICUBIC] = "Latent (bicubic)",
        [IMAGE_PIXELS] = "Lanczos",
    };
    if (s->passes.refiner.model != NULL)
        buf_printf(out, ", Refiner: %s, Refiner switch at: %g", s->passes.refiner.model,
                   (double)s->passes.refiner.switch_at);
    if (s->passes.hires.width > 0) {
        const int how = (int)s->passes.hires.how;
        buf_printf(out, ", Hires resize: %dx%d, Hires upscaler: %s", s->passes.hires.width,
                   s->passes.hires.height,
                   how == IMAGE_NETWORK ? s->passes.hires.model : labels[how]);
        if (s->passes.hires.steps > 0)
            buf_printf(out, ", Hires steps: %d", s->passes.hires.steps);
        if (!isnan(s->passes.hires.strength))
            buf_printf(out, ", Hires strength: %g", (double)s->passes.hires.strength);
    }
    if (s->passes.upscale.model != NULL)
        buf_printf(out, ", Postprocess upscaler: %s", s->passes.upscale.model);
}
