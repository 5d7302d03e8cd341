/* What stable-diffusion-webui says about pictures: the answer of txt2img and img2img, and its text of parameters
 * ("infotext") taken apart again.
 *
 *     a red fox
 *     Negative prompt: snow
 *     Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: "a, b" */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/image_source.h"
#include "api/sdapi.h"
#include "base/clock.h"

enum { INFO_BYTES_MAX = 4 << 20, TEXT_BYTES_MAX = 1 << 20, KEY_MAX = 64 };

/* ---- reading ---- */

/* "Key: value" at s: the ends of key and value, and where the next one begins; false: it is none. */
static bool next_pair(const char *s, size_t *key_len, const char **value, size_t *value_len,
                      const char **next)
{
    size_t n = strcspn(s, ":,\n");
    if (s[n] != ':' || n == 0 || n > KEY_MAX)
        return false;
    const char *v = s + n + 1 + strspn(s + n + 1, " ");
    size_t len = 0;
    if (*v == '"') { /* JSON's escapes */
        for (len = 1; v[len] != '\0' && v[len] != '"'; len++)
            len += v[len] == '\\' && v[len + 1] != '\0';
        len += v[len] == '"';
    } else {
        len = strcspn(v, ",\n");
    }
    *key_len = n;
    *value = v;
    *value_len = len;
    *next = v + len + strspn(v + len, ", ");
    return true;
}

static int count_pairs(const char *line)
{
    size_t n, len;
    const char *value;
    int count = 0;
    while (*line != '\0' && next_pair(line, &n, &value, &len, &line))
        count++;
    return count;
}

static void put_value(struct json_writer *w, const char *key, const char *value, size_t len)
{
    char side[8];
    size_t x = strcspn(value, "x");
    if (strcmp(key, "Size") == 0 && x < len && x < sizeof side && len - x - 1 < sizeof side) {
        json_put_strn(w, "Size-1", value, x);
        json_put_strn(w, "Size-2", value + x + 1, len - x - 1);
        return;
    }
    struct cJSON *text = NULL; /* a quoted one */
    if (len > 1 && value[0] == '"' &&
        json_parse(&text, value, len, &json_limits_default, NULL) == 0)
        json_put_str(w, key, json_str(text));
    else
        json_put_strn(w, key, value, len);
    json_free(text);
}

static void put_pairs(struct json_writer *w, const char *line)
{
    size_t n, len;
    const char *value, *next;
    char keys[40][KEY_MAX + 1];
    int n_keys = 0;
    for (; *line != '\0' && next_pair(line, &n, &value, &len, &next); line = next) {
        bool before = n_keys == 40; /* no key twice in an object */
        for (int i = 0; i < n_keys && !before; i++)
            before = strlen(keys[i]) == n && memcmp(keys[i], line, n) == 0;
        if (before || (n == 6 && memcmp(line, "Prompt", 6) == 0))
            continue;
        memcpy(keys[n_keys], line, n);
        keys[n_keys][n] = '\0';
        put_value(w, keys[n_keys++], value, len);
    }
}

void sdapi_info_read(struct json_writer *w, const char *text)
{
    static const char mark[] = "Negative prompt:";
    const char *last = text, *end = text + strlen(text);
    for (const char *s = strchr(text, '\n'); s != NULL; s = strchr(s + 1, '\n'))
        if (s[1] != '\0')
            last = s + 1;
    const bool has = count_pairs(last) >= 3;
    const char *stop = has ? last : end;
    const char *negative = strncmp(text, mark, sizeof mark - 1) == 0 ? text : NULL;
    for (const char *s = text; negative == NULL && (s = strchr(s, '\n')) != NULL && s + 1 < stop;
         s++)
        negative = strncmp(s + 1, mark, sizeof mark - 1) == 0 ? s + 1 : NULL;
    const char *prompt_end = negative != NULL ? negative : stop;
    while (prompt_end > text && (prompt_end[-1] == '\n' || prompt_end[-1] == ' '))
        prompt_end--;
    json_put_strn(w, "Prompt", text, (size_t)(prompt_end - text));
    if (negative != NULL) {
        const char *from = negative + sizeof mark - 1;
        from += strspn(from, " ");
        while (stop > from && (stop[-1] == '\n' || stop[-1] == ' '))
            stop--;
        json_put_strn(w, "Negative prompt", from, from < stop ? (size_t)(stop - from) : 0);
    } else {
        json_put_str(w, "Negative prompt", "");
    }
    if (has)
        put_pairs(w, last);
}

int sdapi_info_png(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api *a = c->priv->api;
    const char *image = NULL;
    struct buf file, text;
    int err = json_get_str(body, "image", &image, e);
    if (err == 0 && image == NULL) {
        err_set(e, ERR_INVALID, "image is missing: a PNG as base64");
        err = err_param(e, "image");
    }
    if (err != 0)
        return err;
    buf_init(&file, a->o.max_image_bytes);
    buf_init(&text, TEXT_BYTES_MAX);
    err = image_source_bytes(c, image, "image", &file, e);
    if (err == 0) {
        struct json_writer w;
        codec_text_find(buf_str(&file), file.len, "parameters", &text); /* none is an answer too */
        c->out.max += 8 * text.len;
        json_begin(&w, &c->out);
        json_open(&w, NULL, '{');
        json_put_str(&w, "info", buf_str(&text));
        json_open(&w, "items", '{');
        if (text.len > 0)
            json_put_str(&w, "parameters", buf_str(&text));
        json_close(&w, '}');
        json_open(&w, "parameters", '{');
        if (text.len > 0)
            sdapi_info_read(&w, buf_str(&text));
        json_close(&w, '}');
        json_close(&w, '}');
    }
    buf_free(&file);
    buf_free(&text);
    return err;
}

/* ---- the answer ---- */

static void put_all(struct json_writer *w, const char *key, const char *text, int n)
{
    json_open(w, key, '[');
    for (int i = 0; i < n; i++)
        json_put_str(w, NULL, text);
    json_close(w, ']');
}

static void put_numbers(struct json_writer *w, const struct image_spec *s, int n)
{
    const bool sized = s->width > 0;
    json_put_int(w, "seed", (int64_t)s->seed);
    json_open(w, "all_seeds", '[');
    for (int i = 0; i < n; i++)
        json_put_int(w, NULL, (int64_t)s->seed + i);
    json_close(w, ']');
    json_put_int(w, "subseed", -1);
    put_all(w, "all_subseeds", NULL, 0);
    json_put_num(w, "subseed_strength", 0);
    json_put_int(w, "width", sized ? s->width : 0);
    json_put_int(w, "height", sized ? s->height : 0);
    json_put_num(w, "cfg_scale", (double)s->guidance_scale);
    json_put_int(w, "steps", s->steps);
    json_put_int(w, "seed_resize_from_w", -1);
    json_put_int(w, "seed_resize_from_h", -1);
}

static void put_info(const struct api_call *c, const struct images_out *o, struct buf *out)
{
    const struct image_spec *s = &c->job->image;
    const struct sdapi_params *p = &c->priv->sd->p;
    const int n = images_out_complete(o);
    const char *negative = s->negative_prompt != NULL ? s->negative_prompt : "";
    struct json_writer w;
    struct buf text;
    char stamp[24];
    snprintf(stamp, sizeof stamp, "%lld", (long long)clock_unix_s());
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "prompt", s->prompt);
    put_all(&w, "all_prompts", s->prompt, n);
    json_put_str(&w, "negative_prompt", negative);
    put_all(&w, "all_negative_prompts", negative, n);
    put_numbers(&w, s, n);
    char sampler[NOISE_NAME_MAX];
    images_sampler_label(c, sampler);
    json_put_str(&w, "sampler_name", sampler);
    json_put_int(&w, "batch_size", p->batch_size);
    json_put_bool(&w, "restore_faces", false);
    json_put_null(&w, "face_restoration_model");
    json_put_str(&w, "sd_model_name", c->model);
    json_put_null(&w, "sd_model_hash");
    json_put_null(&w, "sd_vae_name");
    json_put_null(&w, "sd_vae_hash");
    if (s->init != NULL)
        json_put_num(&w, "denoising_strength", (double)p->denoising_strength);
    else
        json_put_null(&w, "denoising_strength");
    json_open(&w, "extra_generation_params", '{');
    json_close(&w, '}');
    json_put_int(&w, "index_of_first_image", 0);
    json_open(&w, "infotexts", '[');
    for (int i = 0; i < n; i++) {
        buf_init(&text, TEXT_BYTES_MAX);
        images_out_parameters(o, s->seed + (uint64_t)i, &text);
        json_put_str(&w, NULL, buf_str(&text));
        buf_free(&text);
    }
    json_close(&w, ']');
    put_all(&w, "styles", NULL, 0);
    json_put_str(&w, "job_timestamp", stamp);
    json_put_int(&w, "clip_skip", s->clip_skip >= 0 ? s->clip_skip + 1 : 1);
    json_put_bool(&w, "is_using_inpainting_conditioning", false);
    json_put_str(&w, "version", c->priv->api->o.version);
    json_open(&w, "safety", '[');
    images_out_put_safety(o, &w);
    json_close(&w, ']');
    json_close(&w, '}');
}

void sdapi_info_answer(const struct api_call *c, const struct images_out *o, struct buf *out)
{
    const struct sdapi_call *sd = c->priv->sd;
    struct json_writer w;
    struct buf info;
    if (sd->extra) {
        json_begin(&w, out);
        json_open(&w, NULL, '{');
        json_put_str(&w, "html_info", "");
        if (images_out_complete(o) == 0)
            json_put_null(&w, "image");
        else
            images_out_put_text(o, &w, "image");
        json_close(&w, '}');
        return;
    }
    buf_init(&info, INFO_BYTES_MAX);
    put_info(c, o, &info);
    out->max += 2 * info.len + strlen(sd->parameters);
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    json_open(&w, "images", '[');
    if (sd->p.send_images)
        images_out_put_texts(o, &w);
    json_close(&w, ']');
    json_put_raw(&w, "parameters", sd->parameters, strlen(sd->parameters));
    json_put_strn(&w, "info", buf_str(&info), info.len);
    json_close(&w, '}');
    buf_free(&info);
}
