/* "control": [{"model", "image", "scale", "start", "end", "guess_mode", "preprocessor", ...}] to the job's spec. */
#include "api/image_control.h"

#include <stddef.h>
#include <string.h>

#include "api/call.h"
#include "api/image_source.h"
#include "base/codec.h"
#include "base/image_filter.h"

enum preprocessor { PRE_NONE, PRE_CANNY, PRE_BLUR, PRE_TILE, PRE_INPAINT };

/* One of the list. */
struct entry {
    const char *model;
    bool guess;
    int preprocessor;
    int64_t low, high, factor;
    float scale, start, end, sigma;
};
static const struct entry defaults = {
    .low = 100, .high = 200, .factor = 4, .scale = 1, .end = 1, .sigma = 9};

#define AT(field) offsetof(struct entry, field)
static const struct param table[] = {
    {"model", PARAM_TEXT, PARAM_IMAGES, 0, 0, AT(model), NULL, "which ControlNet or T2I-Adapter"},
    {"image", PARAM_OTHER, PARAM_IMAGES, 0, 0, 0, NULL, "the picture it looks at"},
    {"mask", PARAM_OTHER, PARAM_IMAGES, 0, 0, 0, NULL, "inpaint: white where it sees nothing"},
    {"scale", PARAM_NUM, PARAM_IMAGES, 0, 10, AT(scale), NULL, "how much it counts"},
    {"start", PARAM_NUM, PARAM_IMAGES, 0, 1, AT(start), NULL, "from which part of the steps on"},
    {"end", PARAM_NUM, PARAM_IMAGES, 0, 1, AT(end), NULL, "until which part of the steps"},
    {"guess_mode", PARAM_BOOL, PARAM_IMAGES, 0, 0, AT(guess), NULL, "works without a prompt"},
    {"preprocessor", PARAM_CHOICE, PARAM_IMAGES, 0, 0, AT(preprocessor),
     "none canny blur tile inpaint", "what is done to the picture first"},
    {"low_threshold", PARAM_INT, PARAM_IMAGES, 0, 4096, AT(low), NULL, "canny"},
    {"high_threshold", PARAM_INT, PARAM_IMAGES, 0, 4096, AT(high), NULL, "canny"},
    {"sigma", PARAM_NUM, PARAM_IMAGES, 0.1, 64, AT(sigma), NULL, "blur, in pixels"},
    {"factor", PARAM_INT, PARAM_IMAGES, 1, 64, AT(factor), NULL, "tile: how much is lost"},
};
enum { TABLE_N = sizeof table / sizeof *table };

/* ---- pictures ---- */

struct source {
    struct api_call *c;
    const struct multipart *form;
    int n_files; /* control_image parts that were taken */
};

/* The next part control_image of the form, or NULL. */
static const struct multipart_part *next_file(struct source *s)
{
    int n = 0;
    for (int i = 0; s->form != NULL && i < s->form->n; i++) {
        const char *name = s->form->parts[i].name;
        if (strcmp(name, "control_image") != 0 && strcmp(name, "control_image[]") != 0)
            continue;
        if (n++ == s->n_files) {
            s->n_files++;
            return &s->form->parts[i];
        }
    }
    return NULL;
}

static int missing(const char *what, struct err *e)
{
    return err_set(e, ERR_INVALID, "%s is missing: send it as base64 or data: URL", what);
}

static int decode(const struct source *s, const void *data, size_t n, struct image *out,
                  struct err *e)
{
    const struct api_options *o = &s->c->priv->api->o;
    const struct codec_limits lim = {o->max_image_bytes, o->max_image_pixels};
    return codec_decode(out, data, n, &lim, e);
}

/* A string, {"image_url": string} or {"b64_json": string}. */
static int decode_json(const struct source *s, const struct cJSON *v, const char *what,
                       struct image *out, struct err *e)
{
    struct buf file;
    if (json_type(v) == JSON_OBJECT)
        v = json_get(v, json_get(v, "image_url") != NULL ? "image_url" : "b64_json");
    if (json_str(v) == NULL)
        return missing(what, e);
    buf_init(&file, s->c->priv->api->o.max_image_bytes);
    int err = image_source_bytes(s->c, json_str(v), what, &file, e);
    if (err == 0 && (err = decode(s, buf_str(&file), file.len, out, e)) != 0)
        err_wrap(e, "%s", what);
    buf_free(&file);
    return err;
}

/* `full` in the size of the answer, with so many channels; it is freed. */
static int fit(const struct source *s, struct image *full, int channels, struct image *out,
               struct err *e)
{
    const struct image_spec *spec = &s->c->job->image;
    struct image plain = {0};
    int err = image_convert(&plain, full, channels, e);
    image_free(full);
    if (err == 0)
        err = image_resize(out, &plain, spec->width, spec->height, IMAGE_LANCZOS, e);
    image_free(&plain);
    return err;
}

/* A copy of a picture of the job. */
static int copy(const struct source *s, const uint8_t *data, int channels, struct image *out,
                struct err *e)
{
    const struct image_spec *spec = &s->c->job->image;
    int err = image_init(out, spec->width, spec->height, channels, e);
    if (err == 0)
        memcpy(out->data, data, image_bytes(out));
    return err;
}

/* The entry's picture: its own, the form's next one, or that which the request begins with. */
static int find_picture(struct source *s, const struct cJSON *entry, struct image *out,
                        struct err *e)
{
    struct image full = {0};
    const struct cJSON *v = json_get(entry, "image");
    const struct multipart_part *part = json_type(v) == JSON_NULL ? next_file(s) : NULL;
    int err;
    if (part != NULL)
        err = decode(s, part->data, part->len, &full, e);
    else if (json_type(v) == JSON_NULL && s->c->job->image.init != NULL)
        return copy(s, s->c->job->image.init, 3, out, e);
    else
        err = decode_json(s, v, "image", &full, e);
    return err == 0 ? fit(s, &full, 3, out, e) : err;
}

/* White where the network is to see nothing. */
static int find_mask(const struct source *s, const struct cJSON *entry, struct image *out,
                     struct err *e)
{
    struct image full = {0};
    const struct cJSON *v = json_get(entry, "mask");
    if (json_type(v) == JSON_NULL && s->c->job->image.mask != NULL)
        return copy(s, s->c->job->image.mask, 1, out, e);
    int err = decode_json(s, v, "mask", &full, e);
    if (err == 0)
        err = fit(s, &full, 1, out, e);
    for (size_t i = 0; err == 0 && i < image_bytes(out); i++)
        out->data[i] = out->data[i] >= 128 ? 255 : 0;
    return err;
}

static int preprocess(const struct entry *p, struct image *im, struct err *e)
{
    struct image out = {0};
    int err = p->preprocessor == PRE_CANNY
                  ? image_filter_canny(&out, im, (int)p->low, (int)p->high, e)
              : p->preprocessor == PRE_BLUR ? image_filter_blur(&out, im, p->sigma, e)
              : p->preprocessor == PRE_TILE ? image_filter_coarse(&out, im, (int)p->factor, e)
                                            : 0;
    if (err == 0 && out.data != NULL) {
        image_free(im);
        *im = out;
    }
    return err;
}

/* Into the job's memory; the picture is freed. */
static const uint8_t *keep(const struct source *s, struct image *im, struct err *e)
{
    uint8_t *to = arena_alloc(&s->c->job->arena, image_bytes(im));
    if (to != NULL)
        memcpy(to, im->data, image_bytes(im));
    else
        err_set(e, ERR_NOMEM, "not enough memory for the request's pictures");
    image_free(im);
    return to;
}

static int set_pictures(struct source *s, const struct cJSON *entry, const struct entry *p,
                        struct control_spec *out, struct err *e)
{
    struct image im = {0}, mask = {0};
    int err = find_picture(s, entry, &im, e);
    if (err == 0)
        err = preprocess(p, &im, e);
    if (err != 0) {
        image_free(&im);
        return err;
    }
    out->width = im.width;
    out->height = im.height;
    out->picture = keep(s, &im, e);
    if (out->picture == NULL)
        return ERR_NOMEM;
    if (p->preprocessor != PRE_INPAINT)
        return 0;
    err = find_mask(s, entry, &mask, e);
    if (err != 0) {
        image_free(&mask);
        return err;
    }
    out->hidden = keep(s, &mask, e);
    return out->hidden != NULL ? 0 : ERR_NOMEM;
}

/* ---- the list ---- */

static int read_entry(struct source *s, const struct cJSON *v, struct control_spec *out,
                      struct err *e)
{
    struct entry p = defaults;
    int err = 0;
    if (json_type(v) != JSON_OBJECT)
        return err_set(e, ERR_INVALID, "it must be an object with model and image");
    if (s->c->priv->api->o.strict)
        err = params_check_unknown(v, PARAM_IMAGES, table, TABLE_N, e);
    for (int i = 0; i < TABLE_N && err == 0; i++)
        err = params_row(v, &table[i], &p, e);
    if (err != 0)
        return err;
    if (p.model == NULL || p.model[0] == '\0')
        return err_set(e, ERR_INVALID, "model is missing: the name of a ControlNet or T2I-Adapter");
    if (p.start >= p.end)
        return err_set(e, ERR_INVALID, "start must be less than end");
    out->model = arena_strdup(&s->c->job->arena, p.model);
    if (out->model == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    /* as doubles: 0.2 is to be what it is for the steps */
    out->start = json_get(v, "start") != NULL ? json_num(json_get(v, "start")) : 0;
    out->end = json_get(v, "end") != NULL ? json_num(json_get(v, "end")) : 1;
    out->scale = p.scale;
    out->guess = p.guess;
    return set_pictures(s, v, &p, out, e);
}

static int read_list(struct source *s, const struct cJSON *list, struct err *e)
{
    const int max = s->c->priv->api->o.max_controls, n = json_size(list);
    if (json_type(list) != JSON_ARRAY)
        return err_set(e, ERR_INVALID, "control must be a list of objects");
    if (n > max)
        return err_set(e, ERR_INVALID, "control has %d entries, at most %d are allowed", n, max);
    struct control_spec *specs = arena_alloc(&s->c->job->arena, ((size_t)n + 1) * sizeof *specs);
    if (specs == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the request");
    const struct cJSON *v = json_first(list);
    for (int i = 0; i < n; i++, v = json_next(v)) {
        specs[i] = (struct control_spec){0};
        int err = read_entry(s, v, &specs[i], e);
        if (err != 0) {
            err_wrap(e, "control[%d]", i);
            return err;
        }
    }
    s->c->job->image.controls = specs;
    s->c->job->image.n_controls = n;
    return 0;
}

int image_control_begin(struct api_call *c, const struct cJSON *body, const struct multipart *form,
                        struct err *e)
{
    struct source s = {.c = c, .form = form};
    const struct cJSON *list = json_get(body, "control");
    if (json_type(list) == JSON_NULL)
        return 0;
    int err = read_list(&s, list, e);
    return err != 0 ? err_param(e, "control") : 0;
}

void image_control_put(const struct api_call *c, struct buf *out)
{
    const struct image_spec *s = &c->job->image;
    for (int i = 0; i < s->n_controls; i++)
        buf_printf(
            out, ", ControlNet %d: \"Model: %s, Weight: %g, Guidance Start: %g, Guidance End: %g\"",
            i, s->controls[i].model, (double)s->controls[i].scale, s->controls[i].start,
            s->controls[i].end);
}
