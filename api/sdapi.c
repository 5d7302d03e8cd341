/* txt2img and img2img of stable-diffusion-webui: the fields, and what of them a request of /v1/images becomes. */
#include "api/sdapi.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/image_params.h"
#include "api/image_source.h"
#include "base/base64.h"
#include "engine/noise.h"

#define AT(field)  offsetof(struct sdapi_params, field)
#define MAX_EXACT  9007199254740992.0 /* 2^53 */
#define TXT2IMG    PARAM_GENERATE
#define IMG2IMG    PARAM_EDIT
#define BOTH       (TXT2IMG | IMG2IMG)
#define ANY_SCHEMA "{}"

const struct param sdapi_table[] = {
    {"prompt", PARAM_TEXT, BOTH, 0, 0, AT(prompt), NULL, "what the picture shows"},
    {"negative_prompt", PARAM_TEXT, BOTH, 0, 0, AT(negative_prompt), NULL, "and what not"},
    {"seed", PARAM_INT, BOTH, -1, MAX_EXACT, AT(seed), NULL, "-1: random"},
    {"batch_size", PARAM_INT, BOTH, 1, JOB_IMAGES_MAX, AT(batch_size), NULL,
     "pictures are batch_size times n_iter"},
    {"n_iter", PARAM_INT, BOTH, 1, JOB_IMAGES_MAX, AT(n_iter), NULL, "see batch_size"},
    {"steps", PARAM_INT, BOTH, 1, NOISE_MAX_STEPS, AT(steps), NULL, "denoise steps; 50"},
    {"cfg_scale", PARAM_NUM, BOTH, 0, 100, AT(cfg_scale), NULL, "guidance; 7"},
    {"width", PARAM_INT, BOTH, 1, IMAGE_SIDE_MAX, AT(width), NULL, "the model's when absent"},
    {"height", PARAM_INT, BOTH, 1, IMAGE_SIDE_MAX, AT(height), NULL, "the model's when absent"},
    {"sampler_name", PARAM_TEXT, BOTH, 0, 0, AT(sampler), NULL, "of /sdapi/v1/samplers; Euler"},
    {"sampler_index", PARAM_TEXT, BOTH, 0, 0, AT(sampler_index), NULL,
     "the same, where sampler_name is absent"},
    {"scheduler", PARAM_TEXT, BOTH, 0, 0, AT(scheduler), NULL, "of /sdapi/v1/schedulers"},
    {"eta", PARAM_NUM, BOTH, 0, 1, AT(eta), NULL, "of DDIM"},
    {"denoising_strength", PARAM_NUM, BOTH, 0, 1, AT(denoising_strength), NULL,
     "of the change to init_images; 0.75"},
    {"init_images", PARAM_OTHER, IMG2IMG, 0, 0, 0, "{\"type\":\"array\",\"maxItems\":1}",
     "one picture as base64"},
    {"mask", PARAM_TEXT, IMG2IMG, 0, 0, AT(mask), NULL, "white where it is made anew, as base64"},
    {"resize_mode", PARAM_INT, IMG2IMG, 0, 3, AT(resize_mode), NULL,
     "of init_images: 0 stretch, 1 crop, 2 widen by its borders; 3 is not supported"},
    {"mask_blur", PARAM_INT, IMG2IMG, 0, 64, AT(mask_blur), NULL, "pixels; 4"},
    {"mask_blur_x", PARAM_INT, IMG2IMG, 0, 64, AT(mask_blur_x), NULL, "the same as mask_blur"},
    {"mask_blur_y", PARAM_INT, IMG2IMG, 0, 64, AT(mask_blur_y), NULL, "the same as mask_blur"},
    {"inpainting_fill", PARAM_INT, IMG2IMG, 0, 3, AT(fill), NULL,
     "what the mask covers at first: 0 its surroundings' colours, 1 the picture, 2 noise in the "
     "latent, 3 nothing there"},
    {"inpaint_full_res", PARAM_OTHER, IMG2IMG, 0, 0, 0, "{\"type\":[\"boolean\",\"integer\"]}",
     "only what the mask covers, at full size; true"},
    {"inpaint_full_res_padding", PARAM_INT, IMG2IMG, 0, 4096, AT(padding), NULL,
     "pixels around it; 0"},
    {"inpainting_mask_invert", PARAM_INT, IMG2IMG, 0, 1, AT(invert), NULL, "1: black is made anew"},
    {"initial_noise_multiplier", PARAM_NUM, IMG2IMG, 0, 10, AT(noise_multiplier), NULL, "only 1"},
    {"include_init_images", PARAM_BOOL, IMG2IMG, 0, 0, AT(include_init), NULL, "in the answer"},
    {"override_settings", PARAM_OTHER, BOTH, 0, 0, 0, "{\"type\":[\"object\",\"null\"]}",
     "sd_model_checkpoint, CLIP_stop_at_last_layers, samples_format, randn_source; others that "
     "change no picture"},
    {"alwayson_scripts", PARAM_OTHER, BOTH, 0, 0, 0, "{\"type\":[\"object\",\"null\"]}",
     "controlnet; other scripts without arguments"},
    {"script_name", PARAM_TEXT, BOTH, 0, 0, AT(script), NULL, "none are supported"},
    {"send_images", PARAM_BOOL, BOTH, 0, 0, AT(send_images), NULL, "false: an answer without them"},
    {"subseed", PARAM_INT, BOTH, -1, MAX_EXACT, AT(subseed), NULL, "without effect"},
    {"subseed_strength", PARAM_NUM, BOTH, 0, 1, AT(subseed_strength), NULL, "only 0"},
    {"seed_resize_from_w", PARAM_INT, BOTH, -1, MAX_EXACT, AT(seed_resize_w), NULL, "only 0 or -1"},
    {"seed_resize_from_h", PARAM_INT, BOTH, -1, MAX_EXACT, AT(seed_resize_h), NULL, "only 0 or -1"},
    {"s_churn", PARAM_NUM, BOTH, 0, 1000, AT(s_churn), NULL, "only 0"},
    {"styles", PARAM_REFUSED, BOTH, 0, 0, 0, NULL, "this server keeps no styles"},
    {"restore_faces", PARAM_REFUSED, BOTH, 0, 0, 0, NULL, "there is no model for it"},
    {"tiling", PARAM_REFUSED, BOTH, 0, 0, 0, NULL, "pictures do not repeat at their borders"},
    {"enable_hr", PARAM_OTHER, TXT2IMG, 0, 0, 0, "{\"type\":[\"boolean\",\"integer\",\"null\"]}",
     "a second pass at a larger size, with denoising_strength"},
    {"hr_scale", PARAM_NUM, TXT2IMG, 1, 8, AT(hr_scale), NULL, "how much larger; 2"},
    {"hr_resize_x", PARAM_INT, TXT2IMG, 0, IMAGE_SIDE_MAX, AT(hr_width), NULL, "or to which size"},
    {"hr_resize_y", PARAM_INT, TXT2IMG, 0, IMAGE_SIDE_MAX, AT(hr_height), NULL, "or to which size"},
    {"hr_upscaler", PARAM_TEXT, TXT2IMG, 0, 0, AT(hr_upscaler), NULL,
     "Latent, Latent (nearest), Latent (bicubic), Lanczos, or a model of /sdapi/v1/upscalers"},
    {"hr_second_pass_steps", PARAM_INT, TXT2IMG, 0, NOISE_MAX_STEPS, AT(hr_steps), NULL,
     "0: as many as the first"},
    {"hr_sampler_name", PARAM_TEXT, TXT2IMG, 0, 0, AT(hr_sampler), NULL, "only sampler_name's"},
    {"hr_scheduler", PARAM_TEXT, TXT2IMG, 0, 0, AT(hr_scheduler), NULL, "only scheduler's"},
    {"hr_prompt", PARAM_TEXT, TXT2IMG, 0, 0, AT(hr_prompt), NULL, "only prompt's"},
    {"hr_negative_prompt", PARAM_TEXT, TXT2IMG, 0, 0, AT(hr_negative), NULL,
     "only negative_prompt's"},
    {"hr_checkpoint_name", PARAM_TEXT, TXT2IMG, 0, 0, AT(hr_model), NULL, "none"},
    {"refiner_checkpoint", PARAM_TEXT, BOTH, 0, 0, AT(refiner), NULL,
     "another model for the last steps"},
    {"refiner_switch_at", PARAM_NUM, BOTH, 0, 1, AT(refiner_at), NULL,
     "the share of the steps before it; 0.8"},
};
const int sdapi_n = (int)(sizeof sdapi_table / sizeof *sdapi_table);

static const struct sdapi_params defaults = {
    .seed = -1,
    .subseed = -1,
    .batch_size = 1,
    .n_iter = 1,
    .steps = 50,
    .mask_blur = -1,
    .mask_blur_x = -1,
    .mask_blur_y = -1,
    .clip_skip = -1,
    .cfg_scale = 7,
    .denoising_strength = NAN,
    .eta = NAN,
    .noise_multiplier = 1,
    .hr_scale = 2,
    .refiner_at = 0.8f,
    .full_res = true,
    .send_images = true,
};

/* ---- pictures ---- */

int sdapi_decode(struct api_call *c, const char *text, const char *param, struct image *out,
                 struct err *e)
{
    const struct api_options *o = &c->priv->api->o;
    const struct codec_limits lim = {o->max_image_bytes, o->max_image_pixels};
    struct buf file;
    buf_init(&file, o->max_image_bytes);
    int err = image_source_bytes(c, text, param, &file, e);
    if (err == 0 && codec_decode(out, buf_str(&file), file.len, &lim, e) != 0) {
        err_wrap(e, "%s", param);
        err = err_param(e, "%s", param);
    }
    buf_free(&file);
    return err;
}

int sdapi_encode(const struct image *im, struct buf *base64, struct err *e)
{
    struct buf file;
    buf_init(&file, base64->max / 4 * 3);
    const struct codec_options o = {.format = CODEC_PNG, .hasty = true};
    int err = codec_encode(&file, im, &o, e);
    if (err == 0)
        err = base64_encode(base64, file.data, file.len);
    buf_free(&file);
    return err;
}

/* ---- fields ---- */

/* true, false, 0 or 1, as clients of Python have it. */
static int read_flag(const struct cJSON *body, const char *key, bool *out, struct err *e)
{
    const struct cJSON *v = json_get(body, key);
    if (json_type(v) != JSON_NUMBER)
        return json_get_bool(body, key, out, e);
    *out = json_num(v) != 0;
    return 0;
}

static int refuse(const char *field, const char *why, struct err *e)
{
    err_set(e, ERR_UNSUPPORTED, "%s: %s", field, why);
    return err_param(e, "%s", field);
}

/* What would make another picture, were it ignored. */
static int check_unsupported(const struct cJSON *body, const struct sdapi_params *p, struct err *e)
{
    if (p->script != NULL && p->script[0] != '\0' && strcmp(p->script, "None") != 0)
        return refuse("script_name", "scripts are not supported", e);
    if (p->subseed_strength > 0)
        return refuse("subseed_strength", "variations of a seed are not supported", e);
    if (p->seed_resize_w > 0 || p->seed_resize_h > 0)
        return refuse(p->seed_resize_w > 0 ? "seed_resize_from_w" : "seed_resize_from_h",
                      "seeds are not resized", e);
    if (p->s_churn > 0)
        return refuse("s_churn", "is not supported", e);
    if (p->noise_multiplier < 1 || p->noise_multiplier > 1)
        return refuse("initial_noise_multiplier", "is not supported", e);
    if (p->resize_mode > 2)
        return refuse("resize_mode", "only 0 (stretch), 1 (crop) and 2 (fill) are supported", e);
    if (p->mask_blur_x != p->mask_blur_y)
        return refuse("mask_blur_x", "must be as mask_blur_y", e);
    const struct cJSON *scripts = json_get(body, "alwayson_scripts");
    if (json_type(scripts) != JSON_NULL && json_type(scripts) != JSON_OBJECT)
        return refuse("alwayson_scripts", "must be an object", e);
    for (const struct cJSON *s = json_first(scripts); s != NULL; s = json_next(s)) {
        const struct cJSON *args = json_get(s, "args");
        const struct cJSON *first = json_first(args); /* [false]: switched off */
        if (sdapi_control_is(json_key(s)) || json_size(args) == 0 ||
            (json_type(first) == JSON_BOOL && !json_bool(first)))
            continue;
        err_set(e, ERR_UNSUPPORTED, "the script '%.40s' is not supported", json_key(s));
        return err_param(e, "alwayson_scripts.%.40s", json_key(s));
    }
    return 0;
}

static int parse(struct api_call *c, const struct cJSON *body, unsigned where, struct err *e)
{
    struct sdapi_params *p = &c->priv->sd->p;
    int err = 0;
    *p = defaults;
    if (c->priv->api->o.strict)
        err = params_check_unknown(body, where, sdapi_table, sdapi_n, e);
    for (int i = 0; err == 0 && i < sdapi_n; i++)
        if (sdapi_table[i].where & where)
            err = params_row(body, &sdapi_table[i], p, e);
    if (err == 0)
        err = read_flag(body, "inpaint_full_res", &p->full_res, e);
    if (err == 0 && where == TXT2IMG)
        err = read_flag(body, "enable_hr", &p->hires, e);
    if (err == 0)
        err = sdapi_settings_read(body, p, e);
    if (err == 0)
        err = check_unsupported(body, p, e);
    if (err != 0)
        return err;
    if (p->mask_blur_x >= 0)
        p->mask_blur = p->mask_blur_x;
    if (p->mask_blur < 0)
        p->mask_blur = 4;
    if (isnan(p->denoising_strength))
        p->denoising_strength = 0.75f;
    if (p->sampler == NULL || p->sampler[0] == '\0')
        p->sampler = p->sampler_index;
    if (p->sampler == NULL || p->sampler[0] == '\0')
        p->sampler = "Euler";
    return 0;
}

/* What the answer's "parameters" says: the request's fields, without its pictures. */
static char *echo(const struct cJSON *body, unsigned where, const struct sdapi_params *p)
{
    struct buf out;
    struct json_writer w;
    buf_init(&out, (size_t)4 << 20);
    json_begin(&w, &out);
    json_open(&w, NULL, '{');
    for (int i = 0; i < sdapi_n; i++) {
        const struct param *r = &sdapi_table[i];
        const struct cJSON *v = json_get(body, r->name);
        const bool is_picture = strcmp(r->name, "init_images") == 0 ||
                                strcmp(r->name, "mask") == 0 ||
                                strcmp(r->name, "alwayson_scripts") == 0;
        const void *at = (const char *)p + r->offset;
        if (!(r->where & where))
            continue;
        if (json_type(v) != JSON_NULL && !is_picture)
            json_put_node(&w, r->name, v);
        else if (r->kind == PARAM_INT)
            json_put_int(&w, r->name, *(const int64_t *)at);
        else if (r->kind == PARAM_NUM && !isnan(*(const float *)at))
            json_put_num(&w, r->name, (double)*(const float *)at);
        else
            json_put_null(&w, r->name);
    }
    json_close(&w, '}');
    char *text = out.failed ? xstrdup("{}") : xstrdup(buf_str(&out));
    buf_free(&out);
    return text;
}

/* ---- the request of /v1/images ---- */

/* The prompt, and the LoRAs that stand in it. */
static int put_prompt(struct json_writer *w, const char *prompt, struct err *e)
{
    struct json_writer l;
    struct buf text, loras;
    buf_init(&text, strlen(prompt) + 1);
    buf_init(&loras, 4 * strlen(prompt) + 64);
    json_begin(&l, &loras);
    json_open(&l, NULL, '[');
    int n = sdapi_lora_take(prompt, &text, &l, e);
    json_close(&l, ']');
    if (n >= 0)
        json_put_str(w, "prompt", buf_str(&text));
    if (n > 0)
        json_put_raw(w, "loras", buf_str(&loras), loras.len);
    buf_free(&text);
    buf_free(&loras);
    return n < 0 ? n : 0;
}

static int put_request(struct api_call *c, struct json_writer *w, struct err *e)
{
    const struct sdapi_params *p = &c->priv->sd->p;
    const struct api *a = c->priv->api;
    const struct model_card *m =
        p->model != NULL ? sdapi_names_model(a, p->model) : sdapi_state_model(a, c->priv->owner);
    if (m == NULL && p->model != NULL) {
        api_unknown_model(a, p->model, e);
        return err_param(e, "override_settings.sd_model_checkpoint");
    }
    char scheduler[NOISE_NAME_MAX];
    if (sdapi_names_scheduler(p->sampler, p->scheduler, scheduler, e) != 0)
        return e->code;
    if (p->batch_size * p->n_iter > a->o.max_images) {
        err_set(e, ERR_INVALID, "batch_size times n_iter must be at most %d, not %lld",
                a->o.max_images, (long long)(p->batch_size * p->n_iter));
        return err_param(e, "batch_size");
    }
    const int64_t clip = p->clip_skip > 0 ? p->clip_skip : sdapi_state_clip(a, c->priv->owner);
    if (m != NULL)
        json_put_str(w, "model", m->id);
    if (put_prompt(w, p->prompt != NULL ? p->prompt : "", e) != 0)
        return e->code;
    if (p->negative_prompt != NULL && p->negative_prompt[0] != '\0')
        json_put_str(w, "negative_prompt", p->negative_prompt);
    json_put_int(w, "n", p->batch_size * p->n_iter);
    json_put_int(w, "steps", p->steps);
    json_put_num(w, "guidance_scale", (double)p->cfg_scale);
    json_put_str(w, "scheduler", scheduler);
    json_put_int(w, "seed", p->seed);
    if (strncmp(scheduler, "DDIM", 4) == 0 && !isnan(p->eta))
        json_put_num(w, "eta", (double)p->eta);
    if (clip > 1)
        json_put_int(w, "clip_skip", clip - 1);
    if (p->cuda)
        json_put_str(w, "rng", "cuda");
    if (p->format != NULL)
        json_put_str(w, "output_format", p->format);
    return 0;
}

/* The strength with which `made` of `steps` steps are made: whole steps count, so half of one more is safe. */
static double strength_for(int64_t made, int64_t steps)
{
    made = made > 1 ? made : 1;
    return made < steps ? ((double)made + 0.5) / (double)steps : 1;
}

/* A float that was 0.6. */
static double denoising_of(const struct sdapi_params *p)
{
    const double d = rint((double)p->denoising_strength * 1e6) / 1e6;
    return d < 0.999 ? d : 0.999;
}

/* As there, the last strength * steps steps are made, by samplers with sigmas one more; at least one. */
static double strength_of(const struct sdapi_params *p)
{
    const int64_t made = (int64_t)(denoising_of(p) * (double)p->steps);
    return strength_for(made + (sdapi_names_by_timesteps(p->sampler) ? 0 : 1), p->steps);
}

/* A second pass makes all of its steps: it is the end of a longer run. */
static void put_hires_steps(const struct sdapi_params *p, struct json_writer *w)
{
    const int64_t wanted = p->hr_steps > 0 ? p->hr_steps : p->steps;
    const double all = (double)wanted / fmax(denoising_of(p), 1e-3);
    const int64_t steps = all < NOISE_MAX_STEPS ? (int64_t)all : NOISE_MAX_STEPS;
    json_put_int(w, "steps", steps);
    json_put_num(w, "strength",
                 strength_for(wanted - (sdapi_names_by_timesteps(p->sampler) ? 1 : 0), steps));
}

void sdapi_as_said(const struct api_call *c, struct image_spec *s)
{
    const struct sdapi_params *p = &c->priv->sd->p;
    s->strength = p->denoising_strength;
    s->passes.hires.strength = p->denoising_strength;
    s->passes.hires.steps = (int)p->hr_steps;
}

/* Is it given, and not what the first pass has? */
static bool differs(const char *second, const char *first, const char *none)
{
    return second != NULL && second[0] != '\0' && strcmp(second, none) != 0 &&
           (first == NULL || strcmp(second, first) != 0);
}

static int put_hires(const struct api_call *c, struct json_writer *w, struct err *e)
{
    const struct sdapi_params *p = &c->priv->sd->p;
    static const char *const ways[][2] = {{"Latent", "latent"},
                                          {"Latent (nearest)", "latent_nearest"},
                                          {"Latent (nearest-exact)", "latent_nearest"},
                                          {"Latent (bicubic)", "latent_bicubic"},
                                          {"Lanczos", "image"},
                                          {"None", "image"}};
    if (differs(p->hr_sampler, p->sampler, "Use same sampler"))
        return refuse("hr_sampler_name", "both passes have one sampler", e);
    if (differs(p->hr_scheduler, p->scheduler, "Use same scheduler"))
        return refuse("hr_scheduler", "both passes have one schedule", e);
    if (differs(p->hr_prompt, p->prompt, ""))
        return refuse("hr_prompt", "both passes have one prompt", e);
    if (differs(p->hr_negative, p->negative_prompt, ""))
        return refuse("hr_negative_prompt", "both passes have one prompt", e);
    if (differs(p->hr_model, NULL, "Use same checkpoint"))
        return refuse("hr_checkpoint_name", "both passes have one model", e);
    if ((p->hr_width > 0) != (p->hr_height > 0))
        return refuse("hr_resize_x", "hr_resize_x and hr_resize_y come together", e);
    const char *how =
        p->hr_upscaler != NULL && p->hr_upscaler[0] != '\0' ? p->hr_upscaler : "Latent";
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        how = strcmp(how, ways[i][0]) == 0 ? ways[i][1] : how;
    json_open(w, "hires", '{');
    json_put_str(w, "upscaler", how);
    put_hires_steps(p, w);
    if (p->hr_width > 0) {
        char size[48];
        snprintf(size, sizeof size, "%lldx%lld", (long long)p->hr_width, (long long)p->hr_height);
        json_put_str(w, "size", size);
    } else {
        json_put_num(w, "scale", (double)p->hr_scale);
    }
    json_close(w, '}');
    return 0;
}

/* None, or one that takes over at the very end or at once, as there: the model alone. */
static int put_refiner(const struct api_call *c, struct json_writer *w, struct err *e)
{
    const struct sdapi_params *p = &c->priv->sd->p;
    if (p->refiner == NULL || p->refiner[0] == '\0' || strcmp(p->refiner, "None") == 0 ||
        !(p->refiner_at > 0 && p->refiner_at < 1))
        return 0;
    const struct model_card *m = sdapi_names_model(c->priv->api, p->refiner);
    if (m == NULL) {
        api_unknown_model(c->priv->api, p->refiner, e);
        return err_param(e, "refiner_checkpoint");
    }
    json_open(w, "refiner", '{');
    json_put_str(w, "model", m->id);
    json_put_num(w, "switch_at", (double)p->refiner_at);
    json_close(w, '}');
    return 0;
}

static int put_pictures(struct api_call *c, const struct cJSON *body, struct json_writer *w,
                        struct err *e)
{
    const struct sdapi_params *p = &c->priv->sd->p;
    const size_t max = 2 * c->priv->api->o.max_image_bytes + (size_t)(8 << 20);
    struct buf image, mask;
    buf_init(&image, max);
    buf_init(&mask, max);
    int err = sdapi_mask_prepare(c, body, &image, &mask, e);
    if (err == 0) {
        json_put_strn(w, "image", buf_str(&image), image.len);
        if (mask.len > 0)
            json_put_strn(w, "mask", buf_str(&mask), mask.len);
        json_put_str(w, "mask_mode", "white");
        json_put_num(w, "strength", strength_of(p));
    }
    buf_free(&image);
    buf_free(&mask);
    return err;
}

/* Blames the field that the client knows. */
static int their_field(struct err *e)
{
    static const char *const pairs[][2] = {{"strength", "denoising_strength"},
                                           {"guidance_scale", "cfg_scale"},
                                           {"n", "batch_size"},
                                           {"size", "width"},
                                           {"image", "init_images"},
                                           {"clip_skip", "override_settings"},
                                           {"loras", "prompt"},
                                           {"control", "alwayson_scripts.controlnet"},
                                           {"hires", "enable_hr"},
                                           {"refiner", "refiner_checkpoint"},
                                           {"refiner.model", "refiner_checkpoint"},
                                           {"refiner.switch_at", "refiner_switch_at"},
                                           {"hires.upscaler", "hr_upscaler"},
                                           {"hires.strength", "denoising_strength"},
                                           {"hires.steps", "hr_second_pass_steps"},
                                           {"hires.size", "hr_resize_x"},
                                           {"hires.scale", "hr_scale"},
                                           {"output_format", "override_settings.samples_format"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (strcmp(e->param, pairs[i][0]) == 0)
            return err_param(e, "%s", pairs[i][1]);
    return e->code;
}

int sdapi_begin(struct api_call *c, const struct cJSON *body, unsigned where, struct err *e)
{
    c->priv->sd = xcalloc(1, sizeof *c->priv->sd);
    struct sdapi_params *p = &c->priv->sd->p;
    struct json_writer w;
    struct buf text;
    struct cJSON *ours = NULL;
    int err = parse(c, body, where, e);
    if (err != 0)
        return err;
    c->priv->sd->parameters = echo(body, where, p);
    buf_init(&text, 4 * c->priv->api->o.max_image_bytes + ((size_t)32 << 20));
    json_begin(&w, &text);
    json_open(&w, NULL, '{');
    err = put_request(c, &w, e);
    if (err == 0 && p->hires)
        err = put_hires(c, &w, e);
    if (err == 0)
        err = put_refiner(c, &w, e);
    if (err == 0)
        err = sdapi_control_put(body, &w, e);
    if (err == 0 && where == PARAM_EDIT)
        err = put_pictures(c, body, &w, e);
    if (err == 0 && p->width > 0 && p->height > 0) {
        char size[48];
        snprintf(size, sizeof size, "%lldx%lld", (long long)p->width, (long long)p->height);
        json_put_str(&w, "size", size);
    } else if (err == 0 && (p->width > 0 || p->height > 0)) {
        err_set(e, ERR_INVALID, "width and height come together");
        err = err_param(e, p->width > 0 ? "height" : "width");
    }
    json_close(&w, '}');
    if (err == 0 && text.failed)
        err = err_set(e, ERR_TOOBIG, "the pictures of the request are too large");
    struct json_limits limits = c->priv->api->limits;
    limits.max_bytes = text.max;
    if (err == 0)
        err = json_parse(&ours, buf_str(&text), text.len, &limits, e);
    buf_free(&text);
    if (err == 0 && images_begin(c, ours, where, e) != 0)
        err = their_field(e);
    json_free(ours);
    /* What was borrowed from the body ends with it. */
    p->prompt = p->negative_prompt = p->sampler = p->sampler_index = p->scheduler = NULL;
    p->script = p->mask = p->model = p->format = p->hr_upscaler = NULL;
    p->hr_sampler = p->hr_scheduler = p->hr_prompt = p->hr_negative = p->hr_model = NULL;
    p->refiner = NULL;
    return err;
}
