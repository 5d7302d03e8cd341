/* POST /v1/images/generations, edits and variations: fields and uploaded pictures to an image job. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "api/image_cache.h"
#include "api/image_control.h"
#include "api/image_lists.h"
#include "api/image_passes.h"
#include "api/image_source.h"
#include "api/loras.h"
#include "api/outpaint.h"
#include "api/sdapi.h"
#include "api/text_filter.h"
#include "base/clock.h"
#include "base/image.h"
#include "base/log.h"
#include "base/rng.h"
#include "engine/noise.h"

/* What a variation keeps of its picture: enough to know it again. */
#define VARIATION_STRENGTH 0.5f

enum { FIELD_BYTES_MAX = 256 * 1024 }; /* of a form's text field */

/* A picture of the request as bytes of a file, wherever they came from. */
struct upload {
    const char *param;
    const char *data;
    size_t len;
    struct buf decoded; /* when it was base64 */
};

static bool given(const struct upload *u)
{
    return u->param != NULL;
}

static int twice(const char *param, struct err *e)
{
    err_set(e, ERR_UNSUPPORTED, "%s: the models of this server take one picture", param);
    return err_param(e, "%s", param);
}

/* ---- Where the pictures are ---- */

static int find_in_form(const struct multipart *form, struct upload *image, struct upload *mask,
                        struct err *e)
{
    for (int i = 0; i < form->n; i++) {
        const struct multipart_part *p = &form->parts[i];
        bool is_mask = strcmp(p->name, "mask") == 0;
        if (!is_mask && strcmp(p->name, "image") != 0 && strcmp(p->name, "image[]") != 0)
            continue;
        struct upload *u = is_mask ? mask : image;
        if (given(u))
            return twice(p->name, e);
        *u = (struct upload){.param = is_mask ? "mask" : "image", .data = p->data, .len = p->len};
    }
    return 0;
}

static int read_text(struct api_call *c, const char *text, const char *param, struct upload *u,
                     struct err *e)
{
    buf_init(&u->decoded, c->priv->api->o.max_image_bytes);
    int err = image_source_bytes(c, text, param, &u->decoded, e);
    if (err != 0)
        return err;
    u->param = param;
    u->data = buf_str(&u->decoded);
    u->len = u->decoded.len;
    return 0;
}

/* A string, {"image_url": string}, {"b64_json": string}, or a list of one of these. */
static int find_in_json(struct api_call *c, const struct cJSON *v, const char *param,
                        struct upload *u, struct err *e)
{
    if (json_type(v) == JSON_NULL)
        return 0;
    if (given(u))
        return twice(param, e);
    if (json_type(v) == JSON_ARRAY) {
        if (json_size(v) > 1)
            return twice(param, e);
        v = json_first(v);
    }
    if (json_type(v) == JSON_OBJECT)
        v = json_get(v, json_get(v, "image_url") != NULL ? "image_url" : "b64_json");
    if (json_str(v) == NULL) {
        err_set(e, ERR_INVALID, "%s must be a picture as base64 or data: URL", param);
        return err_param(e, "%s", param);
    }
    return read_text(c, json_str(v), param, u, e);
}

static int find_uploads(struct api_call *c, const struct cJSON *body, const struct multipart *form,
                        unsigned where, struct upload *image, struct upload *mask, struct err *e)
{
    static const char *const names[] = {"image", "image[]", "images"};
    int err = form != NULL ? find_in_form(form, image, mask, e) : 0;
    for (size_t i = 0; err == 0 && i < sizeof names / sizeof *names; i++)
        err = find_in_json(c, json_get(body, names[i]), "image", image, e);
    if (err == 0 && where == PARAM_EDIT)
        err = find_in_json(c, json_get(body, "mask"), "mask", mask, e);
    if (err != 0)
        return err;
    if (!given(image)) {
        err_set(e, ERR_INVALID, "image is missing: a PNG, JPEG or WebP file of the form");
        return err_param(e, "image");
    }
    return 0;
}

/* ---- Sizes ---- */

static int bad_size(const struct image_card *card, int width, int height, struct err *e)
{
    err_set(e, ERR_INVALID, "size %dx%d: this model's sides have %d to %d pixels, in steps of %d",
            width, height, card->size_min, card->size_max, card->size_step);
    return err_param(e, "size");
}

static bool side_fits(const struct image_card *card, int side)
{
    return side >= card->size_min && side <= card->size_max && side % card->size_step == 0;
}

static int nearest_side(const struct image_card *card, double side)
{
    int steps = (int)(side / card->size_step + 0.5);
    int v = steps * card->size_step;
    return v < card->size_min ? card->size_min : v > card->size_max ? card->size_max : v;
}

/* Into p->width and p->height.  A picture that came along keeps its shape; its area becomes that of the
 * model's training where it is larger, since a photo's would take hours. */
static int choose_size(const struct api_call *c, const struct image_card *card,
                       const struct image *from, struct image_params *p, struct err *e)
{
    if (p->width == 0 && from == NULL) {
        p->width = card->width;
        p->height = card->height;
    } else if (p->width == 0) {
        double area = (double)card->width * card->height;
        double has = (double)from->width * from->height;
        double scale = has > area ? sqrt(area / has) : 1;
        p->width = nearest_side(card, from->width * scale);
        p->height = nearest_side(card, from->height * scale);
    }
    if (!side_fits(card, p->width) || !side_fits(card, p->height))
        return bad_size(card, p->width, p->height, e);
    if (card->pixels_max > 0 && (int64_t)p->width * p->height > card->pixels_max) {
        err_set(e, ERR_INVALID, "size %dx%d: this model's pictures have at most %d pixels",
                p->width, p->height, card->pixels_max);
        return err_param(e, "size");
    }
    int64_t pixels = (int64_t)p->width * p->height * p->n, max = c->priv->api->o.max_image_pixels;
    if (pixels > max) {
        err_set(e, ERR_INVALID,
                "n = %lld pictures of %dx%d have %lld pixels, at most %lld are "
                "allowed",
                (long long)p->n, p->width, p->height, (long long)pixels, (long long)max);
        return err_param(e, "size");
    }
    return 0;
}

/* ---- Pictures ---- */

static int read_upload(const struct api_call *c, const struct upload *u, struct image *out,
                       struct err *e)
{
    const struct api_options *o = &c->priv->api->o;
    const struct codec_limits lim = {o->max_image_bytes, o->max_image_pixels};
    if (codec_decode(out, u->data, u->len, &lim, e) != 0) {
        err_wrap(e, "%s", u->param);
        return err_param(e, "%s", u->param);
    }
    return 0;
}

/* A copy in the job's memory, which the engine reads. */
static const uint8_t *keep(struct api_call *c, const struct image *im, struct err *e)
{
    uint8_t *copy = arena_alloc(&c->job->arena, image_bytes(im));
    if (copy == NULL)
        err_set(e, ERR_NOMEM, "not enough memory for the request's pictures");
    else
        memcpy(copy, im->data, image_bytes(im));
    return copy;
}

static int set_init(struct api_call *c, const struct image *from, const struct image_params *p,
                    struct err *e)
{
    struct image rgb, fit;
    int err = image_convert(&rgb, from, 3, e);
    if (err != 0)
        return err;
    err = image_resize(&fit, &rgb, p->width, p->height, IMAGE_LANCZOS, e);
    image_free(&rgb);
    if (err != 0)
        return err;
    c->job->image.init = keep(c, &fit, e);
    image_free(&fit);
    return c->job->image.init != NULL ? 0 : ERR_NOMEM;
}

/* Is any pixel transparent enough to mean "edit here"? */
static bool has_hole(const struct image *im)
{
    if (im->channels != 4)
        return false;
    size_t n = image_bytes(im);
    for (size_t i = 3; i < n; i += 4)
        if (im->data[i] < 128)
            return true;
    return false;
}

static int set_mask(struct api_call *c, const struct image *mask, const struct image_params *p,
                    struct err *e)
{
    bool alpha = p->mask_mode == IMAGE_MASK_ALPHA;
    struct image gray, fit;
    if (alpha && mask->channels != 4) {
        err_set(e, ERR_INVALID,
                "the mask has no transparency, so it says nowhere what to edit; for "
                "a mask that is white there, say mask_mode white");
        return err_param(e, "mask");
    }
    int err = alpha ? image_channel(&gray, mask, 3, e) : image_convert(&gray, mask, 1, e);
    if (err != 0)
        return err;
    err = image_resize(&fit, &gray, p->width, p->height, IMAGE_LANCZOS, e);
    image_free(&gray);
    if (err != 0)
        return err;
    for (size_t i = 0, n = image_bytes(&fit); i < n; i++)
        fit.data[i] = (fit.data[i] >= 128) != alpha ? 255 : 0;
    c->job->image.mask = keep(c, &fit, e);
    image_free(&fit);
    return c->job->image.mask != NULL ? 0 : ERR_NOMEM;
}

/* The picture on a larger canvas: what is new is the mask. */
static int set_canvas(struct api_call *c, const struct image_card *card, const struct image *from,
                      struct image_params *p, struct err *e)
{
    struct image rgb, canvas, mask;
    int err = choose_size(c, card, from, p, e);
    if (err != 0 || (err = image_convert(&rgb, from, 3, e)) != 0)
        return err;
    const int size[2] = {p->width, p->height};
    err = outpaint_canvas(&canvas, &mask, &rgb, size, (enum outpaint_anchor)p->outpaint, e);
    image_free(&rgb);
    if (err != 0)
        return err;
    c->job->image.init = keep(c, &canvas, e);
    if (c->job->image.init != NULL)
        c->job->image.mask = keep(c, &mask, e);
    image_free(&canvas);
    image_free(&mask);
    return c->job->image.mask != NULL ? 0 : ERR_NOMEM;
}

/* The pictures that came with the request: into the spec, in the size of the answer. */
static int set_pictures(struct api_call *c, const struct image_card *card,
                        const struct upload *image, const struct upload *mask,
                        struct image_params *p, struct err *e)
{
    struct image from = {0}, hole = {0};
    int err = read_upload(c, image, &from, e);
    if (err == 0 && given(mask))
        err = read_upload(c, mask, &hole, e);
    if (err == 0 && given(mask) && (hole.width != from.width || hole.height != from.height)) {
        err_set(e, ERR_INVALID,
                "the mask has %d x %d pixels and the image %d x %d: they must be the "
                "same",
                hole.width, hole.height, from.width, from.height);
        err = err_param(e, "mask");
    }
    if (err == 0 && p->outpaint > 0) {
        if (given(mask)) {
            err_set(e, ERR_INVALID, "outpaint makes the mask itself");
            err = err_param(e, "mask");
        }
        if (err == 0)
            err = set_canvas(c, card, &from, p, e);
        image_free(&from);
        image_free(&hole);
        return err;
    }
    if (err == 0)
        err = choose_size(c, card, &from, p, e);
    if (err == 0)
        err = set_init(c, &from, p, e);
    if (err == 0 && given(mask))
        err = set_mask(c, &hole, p, e);
    else if (err == 0 && p->mask_mode == IMAGE_MASK_ALPHA && has_hole(&from))
        err = set_mask(c, &from, p, e);
    image_free(&from);
    image_free(&hole);
    return err;
}

/* ---- The job ---- */

static int check_card(const struct image_card *card, const struct image_params *p, unsigned where,
                      struct err *e)
{
    if (card->steps_max > 0 && p->steps > card->steps_max) {
        err_set(e, ERR_INVALID, "steps must be 1 to %d, got %lld", card->steps_max,
                (long long)p->steps);
        return err_param(e, "steps");
    }
    if (p->noise_level > card->noise_level_max) {
        err_set(e, ERR_INVALID, "noise_level must be 0 to %d, got %lld", card->noise_level_max,
                (long long)p->noise_level);
        return err_param(e, "noise_level");
    }
    if (where & PARAM_FROM && !card->edit) {
        err_set(e, ERR_UNSUPPORTED,
                "this model has no encoder for pictures: use images/generations");
        return err_param(e, "model");
    }
    if (card->inpaint && where != PARAM_EDIT) {
        err_set(e, ERR_UNSUPPORTED, "this model only repaints: use images/edits with a mask");
        return err_param(e, "model");
    }
    return 0;
}

static int fill_spec(struct api_call *c, const struct api_model *m, const struct image_params *p,
                     unsigned where, struct err *e)
{
    struct image_spec *s = &c->job->image;
    int err = text_filter_prompt(c, p->prompt, "content_policy_violation", "prompt", e);
    if (err != 0)
        return err;
    s->model = m->card->id;
    s->prompt = arena_strdup(&c->job->arena, p->prompt != NULL ? p->prompt : "");
    if (p->negative_prompt != NULL) /* "" and none are not the same for SDXL */
        s->negative_prompt = arena_strdup(&c->job->arena, p->negative_prompt);
    if (s->prompt == NULL || (p->negative_prompt != NULL && s->negative_prompt == NULL))
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    s->n = (int)p->n;
    s->width = p->width;
    s->height = p->height;
    s->steps = p->steps > 0 ? (int)p->steps : 0;
    s->guidance_scale = p->guidance_scale;
    s->guidance_rescale = p->guidance_rescale;
    s->strength = where == PARAM_VARY && isnan(p->strength) ? VARIATION_STRENGTH : p->strength;
    s->eta = p->eta;
    s->rng = p->rng == 1 ? IMAGE_RNG_CUDA : IMAGE_RNG_CPU;
    /* 32 bits of chance: a number that people can read out to each other. */
    s->seed = p->seed >= 0 ? (uint64_t)p->seed : rng_seed_random() & 0xffffffff;
    s->tiled = p->tiled;
    s->noise_level = (int)p->noise_level;
    s->denoising_start = p->denoising_start;
    s->denoising_end = p->denoising_end;
    s->aesthetic[0] = p->aesthetic_score;
    s->aesthetic[1] = p->negative_aesthetic_score;
    s->clip_skip = (int)p->clip_skip;
    s->clip_skip_negative = c->priv->sd != NULL; /* as stable-diffusion-webui has it */
    s->hole = c->priv->sd != NULL ? sdapi_mask_hole(c) : IMAGE_HOLE_INIT;
    s->partial_images = p->partials > 0 ? (int)p->partials : 0;
    s->safety = c->priv->safety;
    if (c->priv->sd != NULL && where != PARAM_ENLARGE)
        s->partial_images = SDAPI_PREVIEWS;
    struct noise_choice choice;
    if (p->scheduler != NULL && noise_name_find(p->scheduler, &choice)) {
        s->scheduler = choice.scheduler;
        s->sigmas = choice.sigmas;
        s->spacing = choice.spacing;
    }
    s->sigmas = p->sigma_schedule ? p->sigma_schedule : s->sigmas;
    s->spacing = p->spacing ? p->spacing : s->spacing;
    return image_lists_put(p, c->job, e);
}

/* What the picture is made with, by that name. */
static void sampler_label(const struct image_spec *s, const struct image_card *d,
                          char out[NOISE_NAME_MAX])
{
    struct noise_choice choice = {(enum noise_scheduler)s->scheduler, (enum noise_sigmas)s->sigmas,
                                  (enum noise_spacing)s->spacing};
    if (choice.scheduler == NOISE_DEFAULT) {
        choice.scheduler = (enum noise_scheduler)d->scheduler;
        choice.sigmas = (enum noise_sigmas)d->sigmas;
    }
    noise_name_label(&choice, out);
}

void images_sampler_label(const struct api_call *c, char out[NOISE_NAME_MAX])
{
    const struct api *a = c->priv->api;
    out[0] = '\0';
    for (int i = 0; i < a->n_models; i++)
        if (strcmp(a->models[i].card->id, c->model) == 0)
            sampler_label(&c->job->image, a->models[i].card->image, out);
}

/* What stable-diffusion-webui writes into its PNGs, so that its tools and many others read ours; returns
 * where a picture's seed belongs. */
static size_t put_parameters(const struct api_call *c, const struct model_card *card,
                             struct buf *out)
{
    struct image_spec said = c->job->image;
    const struct image_spec *s = &said;
    const struct image_card *d = card->image;
    buf_adds(out, s->prompt);
    if (c->priv->sd != NULL) {
        sdapi_lora_put(s, out);
        sdapi_as_said(c, &said);
    }
    if (s->negative_prompt != NULL && s->negative_prompt[0] != '\0')
        buf_printf(out, "\nNegative prompt: %s", s->negative_prompt);
    buf_printf(out, "\nSteps: %d",
               s->n_sigma_list > 0  ? s->n_sigma_list - 1
               : s->n_timesteps > 0 ? s->n_timesteps
               : s->steps > 0       ? s->steps
                                    : d->steps);
    char label[NOISE_NAME_MAX];
    sampler_label(s, d, label);
    if (label[0] != '\0')
        buf_printf(out, ", Sampler: %s", label);
    buf_printf(out, ", CFG scale: %g",
               (double)(isnan(s->guidance_scale) ? d->guidance_scale : s->guidance_scale));
    buf_adds(out, ", Seed: ");
    size_t seed_at = out->len;
    buf_printf(out, ", Size: %dx%d, Model: %s", s->width, s->height, card->id);
    image_passes_put(s, out);
    if (!s->step_cache.optional || step_cache_fits(d, &s->step_cache))
        image_cache_put(&s->step_cache, out);
    image_control_put(c, out);
    if (s->small != NULL)
        buf_printf(out, ", Noise level: %d", s->noise_level < 0 ? d->noise_level : s->noise_level);
    if (s->init != NULL && !isnan(s->strength))
        buf_printf(out, ", Denoising strength: %g", (double)s->strength);
    if (!isnan(s->guidance_rescale))
        buf_printf(out, ", CFG rescale: %g", (double)s->guidance_rescale);
    if (!isnan(s->eta))
        buf_printf(out, ", Eta: %g", (double)s->eta);
    if (s->clip_skip >= 0)
        buf_printf(out, ", Clip skip: %d", s->clip_skip + 1); /* 1 leaves out none there */
    buf_printf(out, ", RNG: %s, Version: Duetto %s", s->rng == IMAGE_RNG_CUDA ? "GPU" : "CPU",
               c->priv->api->o.version);
    return seed_at;
}

/* size: of the pictures of the answer. */
static void open_answer(struct api_call *c, const struct api_model *m, const struct image_params *p,
                        unsigned where, const int size[2])
{
    const struct sdapi_call *sd = c->priv->sd;
    struct buf parameters;
    buf_init(&parameters, 2 * FIELD_BYTES_MAX);
    size_t seed_at = put_parameters(c, m->card, &parameters);
    const struct images_out_options o = {
        .stream = p->stream,
        .edit = where != PARAM_GENERATE,
        .n = (int)p->n,
        .width = size[0],
        .height = size[1],
        .quality = p->quality,
        .answer = (enum image_answer)p->answer,
        .format = (enum codec_format)(p->format + 1),
        .compression = p->compression >= 0 ? (int)p->compression : 95,
        .created = clock_unix_s(),
        .model = m->card->id,
        .init = c->job->image.init,
        .mask = p->keep_unmasked ? c->job->image.mask : NULL,
        .safety = c->job->image.safety,
        .sd = sd != NULL ? c : NULL,
        .pixels = sd != NULL ? (int64_t)sd->paste.base.width * sd->paste.base.height : 0,
        .parameters = buf_str(&parameters),
        .seed_at = seed_at};
    c->priv->images = images_out_open(&o);
    c->priv->max_out = images_out_max(&o, c->job->image.partial_images);
    c->out.max = 2 * c->priv->max_out;
    c->n_choices = (int)p->n;
    buf_free(&parameters);
}

static size_t arena_bytes(const struct api *a)
{
    return (size_t)a->o.max_image_pixels * 4 * (1 + (size_t)a->o.max_controls) +
           4 * (size_t)FIELD_BYTES_MAX + 2 * a->o.max_body_bytes;
}

/* The small picture and what it becomes by a prompt; size is that of the answer. */
static int set_small(struct api_call *c, const struct api_model *m, const struct image *from,
                     struct image_params *p, int size[2], struct err *e)
{
    struct image rgb;
    int err = upscale_size(c, m->card, from, p, size, e);
    if (err != 0 || (err = image_convert(&rgb, from, 3, e)) != 0)
        return err;
    p->width = rgb.width * m->card->scale;
    p->height = rgb.height * m->card->scale;
    c->job->image.small = keep(c, &rgb, e);
    image_free(&rgb);
    return c->job->image.small != NULL ? 0 : ERR_NOMEM;
}

/* The picture of a request that has no other, and what is done with it. */
static int begin_upscale(struct api_call *c, const struct cJSON *body, const struct multipart *form,
                         const struct api_model *m, struct image_params *p, struct err *e)
{
    struct upload image = {0}, mask = {0};
    struct image from = {0};
    int size[2];
    const bool network = m->card->kind == MODEL_UPSCALER;
    int err = find_uploads(c, body, form, PARAM_UPSCALE, &image, &mask, e);
    if (err == 0)
        err = read_upload(c, &image, &from, e);
    if (err == 0)
        err = network ? upscale_begin(c, m->card, &from, p, e) : set_small(c, m, &from, p, size, e);
    buf_free(&image.decoded);
    image_free(&from);
    if (err != 0 || network || (err = fill_spec(c, m, p, PARAM_ENLARGE, e)) != 0)
        return err;
    open_answer(c, m, p, PARAM_ENLARGE, size);
    err = replicas_submit(c->priv->api->o.engine, c->job, e);
    if (err == ERR_INVALID && strcmp(e->param, "size") == 0)
        err_param(e, "image"); /* which says it here */
    return err;
}

static void begun(struct api_call *c, const struct image_params *p)
{
    c->stream = p->stream;
    c->background = p->job;
    c->content_type = c->stream ? "text/event-stream" : "application/json";
}

static int begin(struct api_call *c, const struct cJSON *body, const struct multipart *form,
                 unsigned where, struct err *e)
{
    struct api *a = c->priv->api;
    const struct image_limits lim = {.max_images = a->o.max_images, .strict = a->o.strict};
    const struct api_model *m = NULL;
    struct image_params p;
    struct upload image = {0}, mask = {0};
    const bool upscale = where == PARAM_UPSCALE;
    int err = upscale ? upscale_find(c, body, &m, e) : api_find_model(c, body, MODEL_IMAGE, &m, e);
    if (err == 0 && m->card->kind == MODEL_ENLARGER)
        where = PARAM_ENLARGE;
    if (err != 0 || (err = image_params_parse(body, where, &lim, &p, e)) != 0 ||
        (m->card->image != NULL && (err = check_card(m->card->image, &p, where, e)) != 0))
        return err;
    c->job = job_new(arena_bytes(a));
    c->job->kind = JOB_IMAGE;
    if (upscale) {
        err = begin_upscale(c, body, form, m, &p, e);
        if (err == 0)
            begun(c, &p);
        return err;
    }
    if (where == PARAM_GENERATE) {
        err = choose_size(c, m->card->image, NULL, &p, e);
    } else {
        err = find_uploads(c, body, form, where, &image, &mask, e);
        if (err == 0)
            err = set_pictures(c, m->card->image, &image, &mask, &p, e);
        buf_free(&image.decoded);
        buf_free(&mask.decoded);
    }
    c->job->image.step_cache = a->step_cache;
    if (err != 0 || (err = fill_spec(c, m, &p, where, e)) != 0 ||
        (err = loras_parse(body, &c->job->arena, &c->job->image, e)) != 0 ||
        (err = image_cache_parse(body, &c->job->image.step_cache, e)) != 0 ||
        (err = image_control_begin(c, body, form, e)) != 0)
        return err;
    int size[2] = {p.width, p.height};
    if ((err = image_passes_parse(c, body, m->card->image, size, e)) != 0)
        return err;
    open_answer(c, m, &p, where, size);
    err = replicas_submit(a->o.engine, c->job, e);
    if (err == 0)
        begun(c, &p);
    return err;
}

void images_audit(const struct api_call *c, const struct event *ev)
{
    const struct safety_result *s = ev->safety;
    float most = -1;
    for (int i = 0; i < s->n_concepts; i++)
        most = s->concepts[i] > most ? s->concepts[i] : most;
    struct log_line l;
    log_begin(&l, s->flagged ? LOG_WARN : LOG_INFO, "safety");
    log_str(&l, "request", c->priv->request_id);
    log_int(&l, "key", c->priv->owner);
    log_str(&l, "model", c->model);
    log_int(&l, "image", ev->index);
    log_int(&l, "seed", (int64_t)ev->seed);
    log_str(&l, "action", images_out_action(s, c->job->image.safety));
    log_num(&l, "score", (double)most);
    log_end(&l);
}

int images_begin(struct api_call *c, const struct cJSON *body, unsigned where, struct err *e)
{
    return begin(c, body, NULL, where, e);
}

int images_begin_form(struct api_call *c, const struct api_request *rq, unsigned where,
                      struct err *e)
{
    const struct api *a = c->priv->api;
    const struct multipart_limits lim = {FIELD_BYTES_MAX, a->o.max_image_bytes};
    struct multipart *form = xcalloc(1, sizeof *form);
    struct cJSON *body = NULL;
    struct buf text;
    buf_init(&text, 4 * (size_t)FIELD_BYTES_MAX);
    struct json_limits json = a->limits;
    json.max_bytes = text.max;
    int err =
        multipart_parse(form, rq->content_type, rq->body ? rq->body : "", rq->body_len, &lim, e);
    if (err == 0)
        err = image_params_form(&text, form, e);
    if (err == 0)
        err = json_parse(&body, buf_str(&text), text.len, &json, e);
    if (err == 0)
        err = begin(c, body, form, where, e);
    json_free(body);
    buf_free(&text);
    free(form);
    return err;
}
