/* Names of stable-diffusion-webui: samplers and schedulers, one table, and the lists of things that there are. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/sdapi.h"
#include "engine/noise.h"

/* A sampler is ours of the same label (engine/noise.h); "automatic" is the schedule that goes with it there, and
 * those by timesteps do not look at schedules there. */
static const struct sampler {
    const char *name, *alias, *automatic;
    bool by_timesteps;
} samplers[] = {
    {"DPM++ 2M", "k_dpmpp_2m", "Karras", false},
    {"DPM++ SDE", "k_dpmpp_sde", "Karras", false},
    {"DPM++ 2M SDE", "k_dpmpp_2m_sde", "Exponential", false},
    {"DPM++ 2M SDE Heun", "k_dpmpp_2m_sde_heun", "Exponential", false},
    {"DPM++ 2S a", "k_dpmpp_2s_a", "Karras", false},
    {"DPM++ 3M SDE", "k_dpmpp_3m_sde", "Exponential", false},
    {"DPM++ 2S", "k_dpmpp_2s", "", false},
    {"Euler a", "k_euler_a", "", false},
    {"Euler", "k_euler", "", false},
    {"LMS", "k_lms", "", false},
    {"Heun", "k_heun", "", false},
    {"DPM2", "k_dpm_2", "Karras", false},
    {"DPM2 a", "k_dpm_2_a", "Karras", false},
    {"DPM fast", "k_dpm_fast", "", false},
    {"Restart", "restart", "Karras", false},
    {"DDIM", "ddim", "", true},
    {"DDPM", "ddpm", "", false},
    {"PLMS", "plms", "", true},
    {"UniPC", "unipc", "", true},
    {"LCM", "k_lcm", "", false},
    {"TCD", "tcd", "", false},
};
/* And a schedule is the end of the label. */
static const struct schedule {
    const char *name, *label, *ending;
} schedules[] = {
    {"automatic", "Automatic", NULL},
    {"uniform", "Uniform", ""},
    {"karras", "Karras", "Karras"},
    {"exponential", "Exponential", "Exponential"},
    {"polyexponential", "Polyexponential", "Exponential"}, /* with rho 1, as there */
    {"sgm_uniform", "SGM Uniform", "Trailing"},
    {"kl_optimal", "KL Optimal", "KL Optimal"},
    {"align_your_steps", "Align Your Steps", "Align Your Steps"},
    {"simple", "Simple", "Trailing"},
    {"normal", "Normal", ""},
    {"ddim", "DDIM", "Leading"},
    {"beta", "Beta", "Beta"},
};
/* What there is there and not here. */
static const struct refused {
    const char *name, *alias, *why;
} refused[] = {
    {"DPM adaptive", "k_dpm_ad",
     "it chooses its steps while it runs, and how long a picture takes is known before"},
    {"DDIM CFG++", "ddim_cfgpp", "it takes what the model says without the prompt apart"},
};
enum {
    N_SAMPLERS = sizeof samplers / sizeof *samplers,
    N_SCHEDULES = sizeof schedules / sizeof *schedules,
    N_REFUSED = sizeof refused / sizeof *refused
};

static const struct schedule *find_schedule(const char *name, size_t n)
{
    for (int i = 0; i < N_SCHEDULES; i++) {
        const struct schedule *s = &schedules[i];
        if ((strncasecmp(s->name, name, n) == 0 && s->name[n] == '\0') ||
            (strncasecmp(s->label, name, n) == 0 && s->label[n] == '\0'))
            return s;
    }
    return NULL;
}

static const struct sampler *find_sampler(const char *name, size_t n)
{
    for (int i = 0; i < N_SAMPLERS; i++) {
        const struct sampler *s = &samplers[i];
        if ((strncasecmp(s->name, name, n) == 0 && s->name[n] == '\0') ||
            (strncasecmp(s->alias, name, n) == 0 && s->alias[n] == '\0'))
            return s;
    }
    return NULL;
}

static int bad_sampler(const char *name, struct err *e)
{
    char names[200] = "";
    size_t n = 0;
    for (int i = 0; i < N_REFUSED; i++)
        if (strcasecmp(name, refused[i].name) == 0 || strcasecmp(name, refused[i].alias) == 0) {
            err_set(e, ERR_INVALID, "the sampler '%s' is not built in: %s", refused[i].name,
                    refused[i].why);
            return err_param(e, "sampler_name");
        }
    for (int i = 0; i < N_SAMPLERS && n + 24 < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i > 0 ? ", " : "",
                              samplers[i].name);
    err_set(e, ERR_INVALID, "there is no sampler '%.40s', but %s ...", name, names);
    return err_param(e, "sampler_name");
}

/* "DPM++ 2M Karras", as it was called before: the sampler, and the schedule that its name ends with. */
static const struct sampler *find_old(const char *name, const struct schedule **schedule)
{
    *schedule = NULL;
    if (strnlen(name, NOISE_NAME_MAX) == NOISE_NAME_MAX) /* no name is that long */
        return NULL;
    const struct sampler *s = find_sampler(name, strlen(name));
    for (const char *at = name; s == NULL && (at = strchr(at, ' ')) != NULL; at++) {
        *schedule = find_schedule(at + 1, strlen(at + 1));
        s = *schedule != NULL ? find_sampler(name, (size_t)(at - name)) : NULL;
    }
    return s;
}

bool sdapi_names_by_timesteps(const char *name)
{
    const struct schedule *schedule;
    const struct sampler *s = find_old(name, &schedule);
    return s != NULL && s->by_timesteps;
}

int sdapi_names_scheduler(const char *name, const char *scheduler, char out[NOISE_NAME_MAX],
                          struct err *e)
{
    const struct schedule *schedule = &schedules[0], *old;
    if (scheduler != NULL && scheduler[0] != '\0')
        schedule = find_schedule(scheduler, strlen(scheduler));
    if (schedule == NULL) {
        err_set(e, ERR_INVALID,
                "there is no scheduler '%.40s', but those that /sdapi/v1/schedulers lists",
                scheduler);
        return err_param(e, "scheduler");
    }
    const struct sampler *s = find_old(name, &old);
    if (s == NULL)
        return bad_sampler(name, e);
    schedule = schedule == &schedules[0] && old != NULL ? old : schedule;
    const char *ending = schedule->ending != NULL ? schedule->ending : s->automatic;
    if (s->by_timesteps && strcmp(schedule->name, "sgm_uniform") != 0)
        ending = "";
    struct noise_choice choice;
    snprintf(out, NOISE_NAME_MAX, "%s%s%s", s->name, ending[0] != '\0' ? " " : "", ending);
    if (noise_name_find(out, &choice))
        return 0;
    err_set(e, ERR_INVALID, "the sampler '%s' has no schedule '%s' here", s->name, schedule->label);
    return err_param(e, "scheduler");
}

/* ---- lists ---- */

static void put_samplers(struct json_writer *w)
{
    for (int i = 0; i < N_SAMPLERS; i++) {
        json_open(w, NULL, '{');
        json_put_str(w, "name", samplers[i].name);
        json_open(w, "aliases", '[');
        json_put_str(w, NULL, samplers[i].alias);
        json_close(w, ']');
        json_open(w, "options", '{');
        if (samplers[i].automatic[0] != '\0')
            json_put_str(w, "scheduler",
                         samplers[i].automatic[0] == 'K' ? "karras" : "exponential");
        json_close(w, '}');
        json_close(w, '}');
    }
}

static void put_schedulers(struct json_writer *w)
{
    for (int i = 0; i < N_SCHEDULES; i++) {
        json_open(w, NULL, '{');
        json_put_str(w, "name", schedules[i].name);
        json_put_str(w, "label", schedules[i].label);
        json_put_null(w, "aliases");
        json_put_num(w, "default_rho", strcmp(schedules[i].name, "karras") == 0 ? 7 : -1);
        json_put_bool(w, "need_inner_model", false);
        json_close(w, '}');
    }
}

static void put_models(struct json_writer *w, const struct api *a)
{
    for (int i = 0; i < a->n_models; i++) {
        const struct model_card *m = a->models[i].card;
        if (m->kind != MODEL_IMAGE)
            continue;
        json_open(w, NULL, '{');
        json_put_str(w, "title", m->id);
        json_put_str(w, "model_name", m->id);
        json_put_null(w, "hash");
        json_put_null(w, "sha256");
        json_put_str(w, "filename", m->id);
        json_put_null(w, "config");
        json_close(w, '}');
    }
}

static void put_upscaler(struct json_writer *w, const char *name, double scale)
{
    json_open(w, NULL, '{');
    json_put_str(w, "name", name);
    json_put_null(w, "model_name");
    json_put_null(w, "model_path");
    json_put_null(w, "model_url");
    json_put_num(w, "scale", scale);
    json_close(w, '}');
}

static void put_upscalers(struct json_writer *w, const struct api *a)
{
    static const char *const names[] = {"None", "Lanczos", "Bicubic", "Bilinear"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        put_upscaler(w, names[i], 4);
    for (int i = 0; i < a->n_models; i++)
        if (a->models[i].card->scale > 0)
            put_upscaler(w, a->models[i].card->id, a->models[i].card->scale);
}

static void put_memory(struct json_writer *w, const struct api *a)
{
    struct engine_stats s = {0};
    replicas_stats(a->o.engine, &s);
    json_open(w, NULL, '{');
    json_open(w, "ram", '{');
    json_put_int(w, "free", s.cache_bytes - s.held_bytes);
    json_put_int(w, "used", s.held_bytes);
    json_put_int(w, "total", s.cache_bytes);
    json_close(w, '}');
    json_open(w, "cuda", '{');
    json_put_str(w, "error", "unavailable");
    json_close(w, '}');
    json_close(w, '}');
}

static void put_scripts(struct json_writer *w, const struct api *a)
{
    bool control = false;
    for (int i = 0; i < a->n_models; i++)
        control = control || a->models[i].card->kind == MODEL_CONTROL;
    json_open(w, NULL, '{');
    for (int i = 0; i < 2; i++) {
        json_open(w, i == 0 ? "txt2img" : "img2img", '[');
        if (control) { /* the names by which clients know the extension */
            json_put_str(w, NULL, "controlnet");
            json_put_str(w, NULL, "controlnet m2m");
        }
        json_close(w, ']');
    }
    json_close(w, '}');
}

bool sdapi_names_list(struct api_call *c, enum api_handler_id id)
{
    const struct api *a = c->priv->api;
    struct json_writer w;
    json_begin(&w, &c->out);
    if (id == API_SD_MEMORY || id == API_SD_SCRIPTS || id == API_SD_FLAGS) {
        if (id == API_SD_MEMORY)
            put_memory(&w, a);
        else if (id == API_SD_SCRIPTS)
            put_scripts(&w, a);
        else
            json_put_raw(&w, NULL, "{\"api\":true,\"nowebui\":true}", 27);
        return true;
    }
    json_open(&w, NULL, '[');
    switch (id) {
    case API_SD_SAMPLERS:
        put_samplers(&w);
        break;
    case API_SD_SCHEDULERS:
        put_schedulers(&w);
        break;
    case API_SD_MODELS:
        put_models(&w, a);
        break;
    case API_SD_UPSCALERS:
        put_upscalers(&w, a);
        break;
    case API_SD_LATENT_MODES:
        json_open(&w, NULL, '{');
        json_put_str(&w, "name", "Latent");
        json_close(&w, '}');
        json_open(&w, NULL, '{');
        json_put_str(&w, "name", "Latent (nearest)");
        json_close(&w, '}');
        json_open(&w, NULL, '{');
        json_put_str(&w, "name", "Latent (bicubic)");
        json_close(&w, '}');
        break;
    case API_SD_NONE: /* styles, hypernetworks ...: there are none */
        break;
    default:
        return false;
    }
    json_close(&w, ']');
    return true;
}

const struct model_card *sdapi_names_model(const struct api *a, const char *title)
{
    size_t n = strlen(title);
    const char *hash = strstr(title, " [");
    if (hash != NULL && title[n - 1] == ']')
        n = (size_t)(hash - title);
    for (int i = 0; i < a->n_models; i++) {
        const struct model_card *m = a->models[i].card;
        if (m->kind == MODEL_IMAGE && strlen(m->id) == n && memcmp(m->id, title, n) == 0)
            return m;
    }
    return NULL;
}
