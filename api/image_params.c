/* The fields of /v1/images: OpenAI's, and ours beside them. */
#include "api/image_params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/image_cache.h"
#include "api/image_control.h"
#include "api/image_lists.h"
#include "base/json.h"
#include "base/utf8.h"
#include "engine/job.h"
#include "engine/noise.h"

#define MAX_EXACT 9007199254740992.0 /* 2^53, what a JSON number holds exactly */
#define AT(field) offsetof(struct image_params, field)

#define SIZE_SCHEMA       "{\"type\":[\"string\",\"null\"],\"pattern\":\"^(auto|[0-9]+x[0-9]+)$\"}"
#define BACKGROUND_SCHEMA "{\"enum\":[\"transparent\",\"opaque\",\"auto\",true,false,null]}"
#define TIMESTEPS_SCHEMA                                                               \
    "{\"oneOf\":[{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1," \
    "\"maxItems\":128},{\"type\":\"string\"},{\"type\":\"null\"}]}"
#define SIGMAS_SCHEMA                                                                             \
    "{\"oneOf\":[{\"type\":\"array\",\"items\":{\"type\":\"number\",\"minimum\":0},\"minItems\":" \
    "2,"                                                                                          \
    "\"maxItems\":129},{\"type\":\"string\"},{\"type\":\"null\"}]}"
#define PICTURE_SCHEMA                                                                         \
    "{\"oneOf\":[{\"type\":\"string\",\"format\":\"binary\"},{\"type\":\"object\"},{\"type\":" \
    "\"array\",\"maxItems\":1}]}"

#define HIRES_SCHEMA                                                                             \
    "{\"type\":[\"object\",\"null\"],\"properties\":{\"scale\":{\"type\":\"number\"},\"size\":{" \
    "\"type\":\"string\"},\"steps\":{\"type\":\"integer\"},\"strength\":{\"type\":\"number\"},"  \
    "\"upscaler\":{\"type\":\"string\"}}}"
#define REFINER_SCHEMA                                                                             \
    "{\"type\":[\"object\",\"null\"],\"properties\":{\"model\":{\"type\":\"string\"},\"switch_"    \
    "at\":{"                                                                                       \
    "\"type\":\"number\"},\"aesthetic_score\":{\"type\":\"number\"},\"negative_aesthetic_score\":" \
    "{"                                                                                            \
    "\"type\":\"number\"}}}"
#define UPSCALE_SCHEMA                                                                             \
    "{\"type\":[\"object\",\"null\"],\"properties\":{\"model\":{\"type\":\"string\"},\"scale\":{"  \
    "\"type\":\"number\"},\"noise_level\":{\"type\":\"integer\"},\"steps\":{\"type\":\"integer\"}" \
    ","                                                                                            \
    "\"guidance_scale\":{\"type\":\"number\"}}}"
#define LORAS_SCHEMA                                                                               \
    "{\"type\":[\"array\",\"null\"],\"maxItems\":8,\"items\":{\"type\":\"object\",\"properties\":" \
    "{\"name\":{"                                                                                  \
    "\"type\":\"string\"},\"scale\":{\"type\":\"number\"},\"text_scale\":{\"type\":\"number\"}}}}"

const struct param image_params_table[] = {
    {"model", PARAM_OTHER, PARAM_PICTURES, 0, 0, 0, "{\"type\":[\"string\",\"null\"]}",
     "which model; the first image model when absent"},
    {"prompt", PARAM_TEXT, PARAM_GENERATE | PARAM_EDIT, 0, 0, AT(prompt), NULL,
     "what the picture shows (required)"},
    {"prompt", PARAM_TEXT, PARAM_VARY | PARAM_ENLARGE, 0, 0, AT(prompt), NULL,
     "what the picture shows"},
    {"image", PARAM_OTHER, PARAM_FROM | PARAM_UPSCALE | PARAM_ENLARGE, 0, 0, 0, PICTURE_SCHEMA,
     "the picture to begin with: a file of the form, or base64 in JSON (required)"},
    {"image[]", PARAM_OTHER, PARAM_FROM | PARAM_UPSCALE | PARAM_ENLARGE, 0, 0, 0, PICTURE_SCHEMA,
     "the same as image"},
    {"images", PARAM_OTHER, PARAM_FROM | PARAM_UPSCALE | PARAM_ENLARGE, 0, 0, 0, PICTURE_SCHEMA,
     "the same as image, in JSON"},
    {"mask", PARAM_OTHER, PARAM_EDIT, 0, 0, 0, PICTURE_SCHEMA, "where to edit; see mask_mode"},
    {"n", PARAM_INT, PARAM_DRAWN, 1, JOB_IMAGES_MAX, AT(n), NULL, "pictures"},
    {"size", PARAM_OTHER, PARAM_IMAGES, 0, 0, 0, SIZE_SCHEMA,
     "WIDTHxHEIGHT; auto: as the model was trained, or as the given picture is"},
    {"response_format", PARAM_CHOICE, PARAM_PICTURES, 0, 0, AT(answer), "b64_json url",
     "url gives a data: URL, since this server keeps no files"},
    {"output_format", PARAM_CHOICE, PARAM_PICTURES, 0, 0, AT(format), "png jpeg webp",
     "of the file"},
    {"output_compression", PARAM_INT, PARAM_PICTURES, 0, 100, AT(compression), NULL,
     "quality of jpeg and webp; png has only 100"},
    {"stream", PARAM_BOOL, PARAM_PICTURES, 0, 0, AT(stream), NULL, "answer as server-sent events"},
    {"partial_images", PARAM_INT, PARAM_IMAGES, 0, JOB_PARTIALS_MAX, AT(partials), NULL,
     "previews of each picture on the way; needs stream or a job"},
    {"background", PARAM_OTHER, PARAM_PICTURES, 0, 0, 0, BACKGROUND_SCHEMA,
     "opaque or auto; true: answer at once with a job (GET /v1/jobs/{id})"},
    {"moderation", PARAM_CHOICE, PARAM_IMAGES, 0, 0, AT(moderation), "auto low", "has no effect"},
    {"quality", PARAM_CHOICE, PARAM_IMAGES, 0, 0, AT(quality), "auto low medium high standard hd",
     "has no effect; use steps"},
    {"style", PARAM_CHOICE, PARAM_IMAGES, 0, 0, AT(style), "vivid natural", "has no effect"},
    {"input_fidelity", PARAM_CHOICE, PARAM_EDIT, 0, 0, AT(fidelity), "low high",
     "has no effect; use strength"},
    {"user", PARAM_STR, PARAM_PICTURES, 0, 0, 0, NULL, "has no effect"},
    {"safety_identifier", PARAM_IGNORED, PARAM_PICTURES, 0, 0, 0, NULL, "has no effect"},
    {"complexity", PARAM_IGNORED, PARAM_IMAGES, 0, 0, 0, NULL, "has no effect; use steps"},
    {"markup", PARAM_REFUSED, PARAM_EDIT, 0, 0, 0, NULL, "use mask instead"},
    {"frame_count", PARAM_REFUSED, PARAM_IMAGES, 0, 0, 0, NULL, "this server makes no films"},
    {"frame_duration_ms", PARAM_REFUSED, PARAM_IMAGES, 0, 0, 0, NULL, "this server makes no films"},
    {"svg", PARAM_REFUSED, PARAM_IMAGES, 0, 0, 0, NULL, "this server makes no vector graphics"},
    {"negative_prompt", PARAM_TEXT, PARAM_DRAWN, 0, 0, AT(negative_prompt), NULL,
     "what the picture does not show"},
    {"steps", PARAM_INT, PARAM_DRAWN, 1, NOISE_MAX_STEPS, AT(steps), NULL, "denoise steps"},
    {"num_inference_steps", PARAM_INT, PARAM_DRAWN, 1, NOISE_MAX_STEPS, AT(steps), NULL,
     "the same as steps"},
    {"guidance_scale", PARAM_NUM, PARAM_DRAWN, 0, 100, AT(guidance_scale), NULL,
     "how much the prompt counts; 1 or less: no guidance"},
    {"guidance_rescale", PARAM_NUM, PARAM_DRAWN, 0, 1, AT(guidance_rescale), NULL,
     "against overexposed pictures at high guidance"},
    {"scheduler", PARAM_TEXT, PARAM_DRAWN, 0, 0, AT(scheduler), NULL,
     "how noise becomes a picture: euler, dpmpp_2m_karras ..."},
    {"timesteps", PARAM_OTHER, PARAM_DRAWN, 0, 0, 0, TIMESTEPS_SCHEMA,
     "the timesteps to make, falling, instead of steps (Turbo, Lightning, AYS)"},
    {"sigmas", PARAM_OTHER, PARAM_DRAWN, 0, 0, 0, SIGMAS_SCHEMA,
     "the noise levels at which steps begin, and where the last one ends, instead of steps (AYS)"},
    {"timestep_spacing", PARAM_CHOICE, PARAM_DRAWN, 0, 0, AT(spacing),
     "auto leading linspace trailing", "where steps lie; auto: as the scheduler says"},
    {"sigma_schedule", PARAM_CHOICE, PARAM_DRAWN, 0, 0, AT(sigma_schedule),
     "auto plain karras exponential beta align_your_steps kl_optimal",
     "how noise falls from step to step; auto: as the scheduler says"},
    {"seed", PARAM_INT, PARAM_DRAWN, -1, MAX_EXACT, AT(seed), NULL,
     "picture i has seed + i; -1: random"},
    {"rng", PARAM_CHOICE, PARAM_DRAWN, 0, 0, AT(rng), "cpu cuda",
     "whose random numbers a seed stands for: torch's on the CPU, or on CUDA"},
    {"strength", PARAM_NUM, PARAM_FROM, 0, 1, AT(strength), NULL,
     "of the change, above 0; 1 forgets the picture"},
    {"clip_skip", PARAM_INT, PARAM_DRAWN, 0, 11, AT(clip_skip), NULL,
     "last layers of the text encoder to leave out"},
    {"eta", PARAM_NUM, PARAM_DRAWN, 0, 1, AT(eta), NULL, "fresh noise of ddim"},
    {"refiner", PARAM_OTHER, PARAM_IMAGES, 0, 0, 0, REFINER_SCHEMA,
     "another model for the last steps"},
    {"denoising_start", PARAM_NUM, PARAM_FROM, 0, 0.999, AT(denoising_start), NULL,
     "go on with a picture that still has the noise of this part of the steps"},
    {"denoising_end", PARAM_NUM, PARAM_IMAGES, 0, 1, AT(denoising_end), NULL,
     "leave the steps after this part of them out"},
    {"aesthetic_score", PARAM_NUM, PARAM_IMAGES, 0, 10, AT(aesthetic_score), NULL,
     "what a refiner is told of the prompt's picture"},
    {"negative_aesthetic_score", PARAM_NUM, PARAM_IMAGES, 0, 10, AT(negative_aesthetic_score), NULL,
     "and of the negative prompt's"},
    {"tiled", PARAM_BOOL, PARAM_DRAWN, 0, 0, AT(tiled), NULL,
     "beyond the model's own size in overlapping windows, even where memory is enough"},
    {"hires", PARAM_OTHER, PARAM_IMAGES, 0, 0, 0, HIRES_SCHEMA, "made again at a larger size"},
    {"upscale", PARAM_OTHER, PARAM_IMAGES, 0, 0, 0, UPSCALE_SCHEMA,
     "enlarged at last, by a super-resolution network or a diffusion model"},
    {"scale", PARAM_NUM, PARAM_UPSCALE | PARAM_ENLARGE, 1, 8, AT(scale), NULL,
     "how many times as large; the model's factor when absent"},
    {"noise_level", PARAM_INT, PARAM_ENLARGE, 0, 99999, AT(noise_level), NULL,
     "how much noise the picture gets before it is made larger: its details are less kept"},
    {"control", PARAM_OTHER, PARAM_IMAGES, 0, 0, 0, IMAGE_CONTROL_SCHEMA,
     "ControlNets and T2I-Adapters, each with its picture"},
    {"step_cache", PARAM_OTHER, PARAM_IMAGES, 0, 0, 0, IMAGE_CACHE_SCHEMA,
     "steps that compute only a part of the UNet: deepcache, or first_block"},
    {"mask_mode", PARAM_CHOICE, PARAM_EDIT, 0, 0, AT(mask_mode), "alpha white",
     "where the mask says edit: where it is transparent (OpenAI), or where it is white"},
    {"loras", PARAM_OTHER, PARAM_IMAGES, 0, 0, 0, LORAS_SCHEMA,
     "LoRAs of /v1/adapters, with their scales"},
    {"outpaint", PARAM_CHOICE, PARAM_EDIT, 0, 0, AT(outpaint), "no center left right top bottom",
     "the picture stays as large as it is, where this says on a canvas of size; the rest is made"},
    {"keep_unmasked", PARAM_BOOL, PARAM_EDIT, 0, 0, AT(keep_unmasked), NULL,
     "give the picture's own pixels back where the mask does not say edit"},
};
const int image_params_n = (int)(sizeof image_params_table / sizeof *image_params_table);

static const struct image_params defaults = {
    .n = 1,
    .compression = -1,
    .partials = -1,
    .steps = -1,
    .clip_skip = -1,
    .seed = -1,
    .noise_level = -1,
    .guidance_scale = NAN,
    .guidance_rescale = NAN,
    .strength = NAN,
    .eta = NAN,
    .scale = NAN,
    .aesthetic_score = 6,
    .negative_aesthetic_score = 2.5f,
};

const char *image_params_quality(int quality)
{
    static const char *const names[] = {
        [IMAGE_AUTO] = "auto", [IMAGE_LOW] = "low",           [IMAGE_MEDIUM] = "medium",
        [IMAGE_HIGH] = "high", [IMAGE_STANDARD] = "standard", [IMAGE_HD] = "hd"};
    return names[quality];
}

/* Digits and nothing else, below 100000; -1 when it is not so. */
static int read_side(const char **s)
{
    int v = 0, n = 0;
    for (; **s >= '0' && **s <= '9' && n < 6; (*s)++, n++)
        v = v * 10 + (**s - '0');
    return n > 0 && n < 6 ? v : -1;
}

static int parse_size(const struct cJSON *body, struct image_params *p, struct err *e)
{
    const char *text = NULL;
    int err = json_get_str(body, "size", &text, e);
    if (err != 0 || text == NULL || strcmp(text, "auto") == 0)
        return err;
    const char *s = text;
    int width = read_side(&s), height = -1;
    if (*s == 'x') {
        s++;
        height = read_side(&s);
    }
    if (width < 1 || height < 1 || *s != '\0') {
        err_set(e, ERR_INVALID, "size must be auto or WIDTHxHEIGHT, not '%.40s'", text);
        return err_param(e, "size");
    }
    p->width = width;
    p->height = height;
    return 0;
}

/* OpenAI's word for what is behind the subject, or our true for a job. */
static int parse_background(const struct cJSON *body, struct image_params *p, struct err *e)
{
    const struct cJSON *v = json_get(body, "background");
    const char *text = json_str(v);
    enum json_type t = json_type(v);
    if (t == JSON_NULL)
        return 0;
    if (t == JSON_BOOL) {
        p->job = json_bool(v);
        return 0;
    }
    if (text != NULL && strcmp(text, "transparent") == 0) {
        err_set(e, ERR_UNSUPPORTED,
                "background transparent is not supported: "
                "the models of this server make opaque pictures");
        return err_param(e, "background");
    }
    if (text != NULL && (strcmp(text, "opaque") == 0 || strcmp(text, "auto") == 0))
        return 0;
    err_set(e, ERR_INVALID, "background must be opaque, auto, or true for a job");
    return err_param(e, "background");
}

/* Fields of the other routes that would change the picture. */
static int check_route(const struct cJSON *body, unsigned where, struct err *e)
{
    for (int i = 0; i < image_params_n; i++) {
        const char *name = image_params_table[i].name;
        bool here = false, there = false;
        for (int k = 0; k < image_params_n; k++) {
            bool same = strcmp(image_params_table[k].name, name) == 0;
            here = here || (same && image_params_table[k].where & where);
            there = there || (same && image_params_table[k].where & PARAM_DRAWN);
        }
        if (here || !there || json_type(json_get(body, name)) == JSON_NULL)
            continue;
        err_set(e, ERR_INVALID, "%s does not apply here%s", name,
                where == PARAM_GENERATE ? ": for a picture made from another use images/edits"
                                        : "");
        return err_param(e, "%s", name);
    }
    return 0;
}

static int check_scheduler(const struct image_params *p, struct err *e)
{
    struct noise_choice choice;
    if (p->scheduler == NULL || noise_name_find(p->scheduler, &choice))
        return 0;
    char names[200] = "";
    int n = 0;
    const struct noise_name *all = noise_name_list(&n);
    for (int i = 0; i < n; i++) {
        size_t at = strlen(names);
        if (at + strlen(all[i].name) + 3 < sizeof names)
            snprintf(names + at, sizeof names - at, "%s%s", i > 0 ? ", " : "", all[i].name);
    }
    err_set(e, ERR_INVALID,
            "there is no scheduler '%.40s', but %s; most with an ending like _karras", p->scheduler,
            names);
    return err_param(e, "scheduler");
}

static int check_together(const struct image_params *p, unsigned where, struct err *e)
{
    if (where & (PARAM_GENERATE | PARAM_EDIT) && p->prompt == NULL) {
        err_set(e, ERR_INVALID, "prompt is missing: it says what the picture shows");
        return err_param(e, "prompt");
    }
    if (p->format + 1 == CODEC_PNG && p->compression >= 0 && p->compression < 100) {
        err_set(e, ERR_INVALID, "output_compression below 100 needs output_format jpeg or webp");
        return err_param(e, "output_compression");
    }
    if (p->partials > 0 && !p->stream && !p->job) {
        err_set(e, ERR_INVALID, "partial_images needs stream: true, or background: true");
        return err_param(e, "partial_images");
    }
    if (p->strength <= 0) {
        err_set(e, ERR_INVALID, "strength must be above 0 and at most 1, got %g",
                (double)p->strength);
        return err_param(e, "strength");
    }
    if (p->stream && p->job) {
        err_set(e, ERR_INVALID, "stream and background: true do not go together");
        return err_param(e, "stream");
    }
    return check_scheduler(p, e);
}

int image_params_parse(const struct cJSON *body, unsigned where, const struct image_limits *lim,
                       struct image_params *p, struct err *e)
{
    int err = 0;
    *p = defaults;
    if (lim->strict &&
        (err = params_check_unknown(body, where, image_params_table, image_params_n, e)) != 0)
        return err;
    for (int i = 0; i < image_params_n; i++) {
        const struct param r = params_limited(&image_params_table[i], lim->max_images);
        if ((r.where & where) && (err = params_row(body, &r, p, e)) != 0)
            return err;
    }
    if ((err = parse_size(body, p, e)) != 0 || (err = parse_background(body, p, e)) != 0 ||
        (err = image_lists_parse(body, p, e)) != 0 || (err = check_route(body, where, e)) != 0)
        return err;
    return check_together(p, where, e);
}

/* ---- Forms ---- */

static enum param_kind kind_of(const char *name)
{
    for (int i = 0; i < image_params_n; i++)
        if (strcmp(image_params_table[i].name, name) == 0)
            return image_params_table[i].kind;
    return PARAM_STR;
}

static bool is_picture(const char *name)
{
    static const char *const names[] = {"image", "image[]", "mask", "control_image",
                                        "control_image[]"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static bool is_word(const struct multipart_part *p, const char *word)
{
    return p->len == strlen(word) && memcmp(p->data, word, p->len) == 0;
}

static void put_field(struct json_writer *w, const struct multipart_part *p)
{
    enum param_kind kind = kind_of(p->name);
    bool boolean = kind == PARAM_BOOL || strcmp(p->name, "background") == 0;
    bool number = kind == PARAM_INT || kind == PARAM_NUM;
    if (boolean && (is_word(p, "true") || is_word(p, "True") || is_word(p, "1")))
        json_put_bool(w, p->name, true);
    else if (boolean && (is_word(p, "false") || is_word(p, "False") || is_word(p, "0")))
        json_put_bool(w, p->name, false);
    else if (kind == PARAM_OTHER && p->len > 0 && (p->data[0] == '{' || p->data[0] == '[') &&
             json_scan(p->data, p->len, &json_limits_default, NULL) == 0)
        json_put_raw(w, p->name, p->data, p->len);
    else if (p->len == 0 && kind != PARAM_TEXT)
        json_put_null(w, p->name); /* a form has no other way to leave a field out */
    else if (number && (p->data[0] == '-' || (p->data[0] >= '0' && p->data[0] <= '9')) &&
             json_scan(p->data, p->len, &json_limits_default, NULL) == 0)
        json_put_raw(w, p->name, p->data, p->len);
    else
        json_put_strn(w, p->name, p->data, p->len);
}

int image_params_form(struct buf *out, const struct multipart *m, struct err *e)
{
    struct json_writer w;
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    for (int i = 0; i < m->n; i++) {
        const struct multipart_part *p = &m->parts[i];
        if (is_picture(p->name))
            continue;
        for (int k = 0; k < i; k++) {
            if (strcmp(m->parts[k].name, p->name) == 0) {
                err_set(e, ERR_INVALID, "the form has the field %s more than once", p->name);
                return err_param(e, "%s", p->name);
            }
        }
        if (p->is_file || !utf8_valid(p->data, p->len) || memchr(p->data, '\0', p->len) != NULL) {
            err_set(e, ERR_INVALID, "%s must be text, not a file", p->name);
            return err_param(e, "%s", p->name);
        }
        put_field(&w, p);
    }
    json_close(&w, '}');
    if (out->failed)
        return err_set(e, ERR_TOOBIG, "the fields of the form are too large");
    return 0;
}
