/* What stable-diffusion-webui keeps between requests, here for each API key: the model that was chosen, the running
 * requests.  Options are atomics, since a worker reads them; the list of calls is the loop's. */
#include <stdlib.h>
#include <string.h>

#include "api/sdapi.h"
#include "base/clock.h"

static int slot_of(int owner)
{
    return owner >= 0 && owner + 1 < API_OWNERS_MAX ? owner + 1 : 0;
}

const struct model_card *sdapi_state_model(const struct api *a, int owner)
{
    const int chosen = atomic_load(&a->sd_model[slot_of(owner)]) - 1; /* 0: nothing chosen */
    if (chosen >= 0 && chosen < a->n_models)
        return a->models[chosen].card;
    for (int i = 0; i < a->n_models; i++)
        if (a->models[i].card->kind == MODEL_IMAGE)
            return a->models[i].card;
    return NULL;
}

int64_t sdapi_state_clip(const struct api *a, int owner)
{
    const int clip = atomic_load(&a->sd_clip[slot_of(owner)]);
    return clip > 0 ? clip : 1;
}

/* ---- options ---- */

static void put_options(struct api_call *c)
{
    const struct api *a = c->priv->api;
    const struct model_card *m = sdapi_state_model(a, c->priv->owner);
    struct json_writer w;
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "sd_model_checkpoint", m != NULL ? m->id : NULL);
    json_put_null(&w, "sd_checkpoint_hash");
    json_put_int(&w, "CLIP_stop_at_last_layers", sdapi_state_clip(a, c->priv->owner));
    json_put_str(&w, "sd_vae", "Automatic");
    json_put_str(&w, "samples_format", "png");
    json_put_str(&w, "randn_source", "CPU");
    json_close(&w, '}');
}

/* An option that has one value here: another one is refused. */
static int check_fixed(const struct cJSON *v, struct err *e)
{
    static const struct {
        const char *key, *value;
    } fixed[] = {{"sd_vae", "Automatic"}, {"samples_format", "png"}, {"randn_source", "CPU"}};
    const char *key = json_key(v);
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        if (strcmp(key, fixed[i].key) != 0)
            continue;
        const char *s = json_str(v);
        if (s != NULL && strcmp(s, fixed[i].value) == 0)
            return 0;
        err_set(e, ERR_UNSUPPORTED,
                "%s is %s for all requests; a request may say override_settings.%s", key,
                fixed[i].value, key);
        return err_param(e, "%s", key);
    }
    if (strcmp(key, "sd_checkpoint_hash") == 0 && json_type(v) == JSON_NULL)
        return 0;
    return sdapi_settings_check(v, "", e);
}

int sdapi_state_set(struct api_call *c, const struct cJSON *body, struct err *e)
{
    struct api *a = c->priv->api;
    const int slot = slot_of(c->priv->owner);
    const char *title = NULL;
    int64_t clip = -1;
    int model = -1;
    int err = json_get_str(body, "sd_model_checkpoint", &title, e);
    if (err == 0)
        err = json_get_int(body, "CLIP_stop_at_last_layers", &clip, 1, 12, e);
    for (const struct cJSON *v = json_first(body); err == 0 && v != NULL; v = json_next(v))
        if (strcmp(json_key(v), "sd_model_checkpoint") != 0 &&
            strcmp(json_key(v), "CLIP_stop_at_last_layers") != 0)
            err = check_fixed(v, e);
    if (err != 0)
        return err;
    const struct model_card *m = title != NULL ? sdapi_names_model(a, title) : NULL;
    if (title != NULL && m == NULL) {
        api_unknown_model(a, title, e);
        return err_param(e, "sd_model_checkpoint");
    }
    for (int i = 0; m != NULL && i < a->n_models; i++)
        model = a->models[i].card == m ? i : model;
    if (model >= 0)
        atomic_store(&a->sd_model[slot], model + 1);
    if (clip > 0)
        atomic_store(&a->sd_clip[slot], (int)clip);
    buf_adds(&c->out, "null");
    return 0;
}

/* ---- running requests; loop ---- */

void sdapi_state_running(struct api_call *c)
{
    struct sdapi_call *sd = c->priv->sd;
    struct api_call **at = &c->priv->api->sd_calls;
    if (sd == NULL || sd->listed)
        return;
    while (*at != NULL)
        at = &(*at)->priv->sd->next;
    *at = c;
    sd->next = NULL;
    sd->listed = true;
}

void sdapi_state_close(struct api_call *c)
{
    struct sdapi_call *sd = c->priv->sd;
    if (sd == NULL)
        return;
    struct api_call **at = &c->priv->api->sd_calls;
    while (sd->listed && *at != NULL && *at != c)
        at = &(*at)->priv->sd->next;
    if (sd->listed && *at == c)
        *at = sd->next;
    free(sd->parameters);
    image_free(&sd->paste.base);
    image_free(&sd->paste.alpha);
    free(sd);
    c->priv->sd = NULL;
}

/* The key's running requests: how many, and the oldest. */
static int running_of(const struct api_call *c, const struct api_call **oldest)
{
    int n = 0;
    *oldest = NULL;
    for (struct api_call *o = c->priv->api->sd_calls; o != NULL; o = o->priv->sd->next) {
        if (o->priv->owner != c->priv->owner || o->state != API_RUNNING)
            continue;
        *oldest = *oldest == NULL ? o : *oldest;
        n++;
    }
    return n;
}

static void put_progress(struct api_call *c)
{
    const struct api_call *o;
    const int n = running_of(c, &o);
    struct images_progress p = {.eta_s = -1};
    struct json_writer w;
    if (o != NULL)
        images_out_progress(o->priv->images, &p);
    const int steps = o != NULL && o->n_choices > 0 ? p.total / o->n_choices : 0;
    c->out.max += o != NULL ? o->priv->max_out : 0;
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_num(&w, "progress", p.total > 0 ? (double)p.done / p.total : 0);
    json_put_num(&w, "eta_relative", p.eta_s > 0 ? p.eta_s : 0);
    json_open(&w, "state", '{');
    json_put_bool(&w, "skipped", false);
    json_put_bool(&w, "interrupted", o != NULL && o->priv->sd->interrupted);
    json_put_bool(&w, "stopping_generation", false);
    json_put_str(&w, "job", o != NULL ? "scripts_txt2img" : "");
    json_put_int(&w, "job_count", n);
    json_put_str(&w, "job_timestamp", "0");
    json_put_int(&w, "job_no", 0);
    json_put_int(&w, "sampling_step",
                 steps > 0 ? (p.done - 1 + (p.done == 0)) % steps + (p.done > 0) : 0);
    json_put_int(&w, "sampling_steps", steps);
    json_close(&w, '}');
    if (o != NULL)
        images_out_put_preview_text(o->priv->images, &w, "current_image");
    else
        json_put_null(&w, "current_image");
    json_put_null(&w, "textinfo");
    json_close(&w, '}');
}

/* All of the key's, or the oldest. */
static void interrupt(struct api_call *c, bool all)
{
    bool any = false;
    for (struct api_call *o = c->priv->api->sd_calls; o != NULL && (all || !any);
         o = o->priv->sd->next) {
        if (o->priv->owner != c->priv->owner || o->state != API_RUNNING)
            continue;
        any = true;
        o->priv->sd->interrupted = true;
        job_cancel(o->job);
    }
    buf_adds(&c->out, "{}");
}

bool sdapi_state_get(struct api_call *c, enum api_handler_id id)
{
    switch (id) {
    case API_SD_OPTIONS:
        put_options(c);
        return true;
    case API_SD_PROGRESS:
        put_progress(c);
        return true;
    case API_SD_INTERRUPT:
    case API_SD_SKIP:
        interrupt(c, id == API_SD_INTERRUPT);
        return true;
    case API_SD_LORAS:
    case API_SD_EMBEDDINGS:
        sdapi_lora_list(c, id == API_SD_EMBEDDINGS);
        return true;
    case API_SD_REFRESH:
        buf_adds(&c->out, "null");
        return true;
    default:
        return id >= API_SD_SAMPLERS && id <= API_SD_NONE && sdapi_names_list(c, id);
    }
}
