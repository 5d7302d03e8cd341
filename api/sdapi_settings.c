/* Settings of stable-diffusion-webui, in override_settings and in /sdapi/v1/options.  Clients send many of them along:
 * what only concerns its page, its files or its speed is taken and forgotten, and so is what would change a
 * picture but has the value that leaves it as it is.  Everything else is refused by name. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/sdapi.h"

/* value NULL: any.  A key that ends in * is a beginning. */
static const struct setting {
    const char *key, *value;
} settings[] = {
    {"api_*", NULL},
    {"auto_launch_browser", NULL},
    {"auto_vae_precision*", NULL},
    {"batch_cond_uncond", NULL},
    {"cross_attention_optimization", NULL},
    {"directories_*", NULL},
    {"do_not_*", NULL},
    {"enable_console_prompts", NULL},
    {"enable_pnginfo", NULL},
    {"export_for_4chan", NULL},
    {"extra_networks_*", NULL},
    {"font", NULL},
    {"gallery_*", NULL},
    {"grid_*", NULL},
    {"hidden_tabs", NULL},
    {"hide_*", NULL},
    {"img_downscale_threshold", NULL},
    {"infotext_*", NULL},
    {"interrogate_*", NULL},
    {"jpeg_quality", NULL},
    {"js_*", NULL},
    {"keyedit_*", NULL},
    {"live_preview*", NULL},
    {"localization", NULL},
    {"lora_preferred_name", NULL},
    {"memmon_poll_rate", NULL},
    {"notification_*", NULL},
    {"outdir_*", NULL},
    {"persistent_cond_cache", NULL},
    {"pin_memory", NULL},
    {"profiling_*", NULL},
    {"quicksettings*", NULL},
    {"return_grid", NULL},
    {"samples_filename_pattern", NULL},
    {"samples_log_stdout", NULL},
    {"samples_save", NULL},
    {"save_*", NULL},
    {"sd_checkpoint_cache", NULL},
    {"sd_checkpoints_keep_in_cpu", NULL},
    {"sd_checkpoints_limit", NULL},
    {"sd_vae_checkpoint_cache", NULL},
    {"send_seed", NULL},
    {"send_size", NULL},
    {"show_progress*", NULL},
    {"target_side_length", NULL},
    {"ui_*", NULL},
    {"upcast_attn", NULL}, /* sums are f32 here */
    {"use_original_name_batch", NULL},
    {"use_save_to_dirs_for_ui", NULL},
    {"use_upscaler_name_as_suffix", NULL},
    {"webp_lossless", NULL},
    {"add_model_*", NULL},
    {"add_version_to_infotext", NULL},
    /* what would make another picture */
    {"always_discard_next_to_last_sigma", "false"},
    {"emphasis", "Original"},
    {"enable_emphasis", "true"},
    {"eta_ancestral", "1"},
    {"eta_ddim", "0"},
    {"eta_noise_seed_delta", "0"},
    {"face_restoration", "false"},
    {"fp8_storage", "Disable"},
    {"img2img_color_correction", "false"},
    {"img2img_extra_noise", "0"},
    {"img2img_fix_steps", "false"},
    {"initial_noise_multiplier", "1"},
    {"inpainting_mask_weight", "1"},
    {"overlay_inpaint", "true"},
    {"return_mask", "false"},
    {"return_mask_composite", "false"},
    {"rho", "0"},
    {"s_churn", "0"},
    {"s_min_uncond", "0"},
    {"s_noise", "1"},
    {"s_tmin", "0"},
    {"sd_hypernetwork", "None"},
    {"sd_noise_schedule", "Default"},
    {"sd_unet", "Automatic"},
    {"sd_vae_overrides_per_model_preferences", "true"},
    {"sgm_noise_multiplier", "false"},
    {"sigma_max", "0"},
    {"sigma_min", "0"},
    {"skip_early_cond", "0"},
    {"tiling", "false"},
    {"token_merging_ratio*", "0"},
    {"use_old_*", "false"},
};

static bool fits(const char *pattern, const char *key)
{
    const size_t n = strlen(pattern);
    return pattern[n - 1] == '*' ? strncmp(pattern, key, n - 1) == 0 : strcmp(pattern, key) == 0;
}

static bool has_value(const struct cJSON *v, const char *value)
{
    char *end;
    switch (json_type(v)) {
    case JSON_NULL:
        return true;
    case JSON_BOOL:
        return strcmp(value, json_bool(v) ? "true" : "false") == 0;
    case JSON_STRING:
        return strcmp(json_str(v), value) == 0;
    case JSON_NUMBER: {
        const double number = strtod(value, &end);
        return *end == '\0' && fabs(json_num(v) - number) < 1e-9;
    }
    default:
        return false;
    }
}

int sdapi_settings_check(const struct cJSON *v, const char *within, struct err *e)
{
    const char *key = json_key(v);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        if (!fits(settings[i].key, key))
            continue;
        if (settings[i].value == NULL || has_value(v, settings[i].value))
            return 0;
        err_set(e, ERR_UNSUPPORTED, "%s%.60s is %s here", within, key, settings[i].value);
        return err_param(e, "%s%.60s", within, key);
    }
    err_set(e, ERR_UNSUPPORTED, "%s%.60s is not supported", within, key);
    return err_param(e, "%s%.60s", within, key);
}

int sdapi_settings_read(const struct cJSON *body, struct sdapi_params *p, struct err *e)
{
    static const char *const known[] = {"sd_model_checkpoint", "CLIP_stop_at_last_layers",
                                        "samples_format", "randn_source", "sd_vae"};
    const struct cJSON *o = json_get(body, "override_settings");
    const char *format = NULL, *source = NULL, *vae = NULL;
    int err = 0;
    if (json_type(o) != JSON_NULL && json_type(o) != JSON_OBJECT) {
        err_set(e, ERR_INVALID, "override_settings must be an object");
        return err_param(e, "override_settings");
    }
    for (const struct cJSON *v = json_first(o); err == 0 && v != NULL; v = json_next(v)) {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found = found || strcmp(known[i], json_key(v)) == 0;
        if (!found)
            err = sdapi_settings_check(v, "override_settings.", e);
    }
    if (err == 0)
        err = json_get_str(o, "sd_model_checkpoint", &p->model, e);
    if (err == 0)
        err = json_get_int(o, "CLIP_stop_at_last_layers", &p->clip_skip, 1, 12, e);
    if (err == 0)
        err = json_get_str(o, "samples_format", &format, e);
    if (err == 0)
        err = json_get_str(o, "randn_source", &source, e);
    if (err == 0)
        err = json_get_str(o, "sd_vae", &vae, e);
    if (err != 0)
        return err;
    if (vae != NULL && strcmp(vae, "Automatic") != 0 && strcmp(vae, "None") != 0) {
        err_set(e, ERR_UNSUPPORTED, "a model's VAE cannot be exchanged");
        return err_param(e, "override_settings.sd_vae");
    }
    if (format != NULL && strcmp(format, "png") != 0)
        p->format = strcmp(format, "jpg") == 0 ? "jpeg" : format;
    p->cuda = source != NULL && strcmp(source, "GPU") == 0;
    return 0;
}
