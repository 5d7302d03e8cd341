/* Image models whose configurations ask for what is not built in are refused by name, not drawn wrongly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/diffusion.h"
#include "tests/temp_dir.h"

#define FIXTURE "tests/fixtures/sd_sd15/"
enum { CONFIG_MAX = 4096, NAME_MAX_LEN = 128 };

static const char *const parts[] = {"unet", "vae", "scheduler", "text_encoder", "tokenizer"};
static const char *const weights[] = {"diffusion_pytorch_model.safetensors",
                                      "diffusion_pytorch_model.safetensors", NULL, NULL, NULL};
static const char *const configs[] = {"config.json", "config.json", "scheduler_config.json", NULL,
                                      NULL};
enum { N_PARTS = sizeof parts / sizeof *parts };

static void link_to(const char *name, const char *source)
{
    char target[PATH_MAX];
    assert_non_null(realpath(source, target));
    assert_int_equal(symlink(target, temp_dir_path(name)), 0);
}

/* text with `to` wherever it has `from`. */
static void replace(char out[CONFIG_MAX], const char *text, const char *from, const char *to)
{
    size_t n = 0;
    for (const char *at; (at = strstr(text, from)) != NULL; text = at + strlen(from)) {
        n += (size_t)snprintf(out + n, CONFIG_MAX - n, "%.*s%s", (int)(at - text), text, to);
        assert_true(n < CONFIG_MAX);
    }
    assert_true(n > 0);
    snprintf(out + n, CONFIG_MAX - n, "%s", text);
}

/* sd_sd15 with one config in which `from` reads `to`. */
static void make_model(const char *part, const char *from, const char *to)
{
    char name[NAME_MAX_LEN], source[NAME_MAX_LEN], text[CONFIG_MAX] = "", changed[CONFIG_MAX];
    temp_dir_clear();
    link_to("model_index.json", FIXTURE "model_index.json");
    for (int i = 0; i < N_PARTS; i++) {
        snprintf(source, sizeof source, FIXTURE "%s", parts[i]);
        if (strcmp(parts[i], part) != 0) {
            link_to(parts[i], source);
            continue;
        }
        assert_int_equal(mkdir(temp_dir_path(part), 0700), 0);
        snprintf(name, sizeof name, "%s/%s", part, configs[i]);
        snprintf(source, sizeof source, FIXTURE "%s/%s", part, configs[i]);
        FILE *f = fopen(source, "r");
        assert_non_null(f);
        text[fread(text, 1, sizeof text - 1, f)] = '\0';
        fclose(f);
        replace(changed, text, from, to);
        temp_dir_put_text(name, changed);
        if (weights[i] != NULL) {
            snprintf(name, sizeof name, "%s/%s", part, weights[i]);
            snprintf(source, sizeof source, FIXTURE "%s/%s", part, weights[i]);
            link_to(name, source);
        }
    }
}

static int opened(struct err *e)
{
    struct backend *be;
    struct diffusion *d;
    assert_int_equal(backend_open(&be, "cpu", 1, e), 0);
    int rc = diffusion_open(&d, temp_dir, be, &(struct diffusion_options){0}, e);
    if (rc == 0)
        diffusion_close(d);
    be->close(be);
    return rc;
}

static void image_model_refuses_settings_that_no_code_follows(void **state)
{
    (void)state;
    static const struct {
        const char *part, *from, *to, *words;
    } cases[] = {
        {"vae", "\"act_fn\": \"silu\"", "\"act_fn\": \"gelu\"", "vae: act_fn gelu"},
        {"vae", "\"latents_mean\": null", "\"latents_mean\": [0,0,0,0]", "vae: latents_mean"},
        {"vae", "\"DownEncoderBlock2D\"", "\"AttnDownEncoderBlock2D\"", "AttnDownEncoderBlock2D"},
        {"unet", "\"act_fn\": \"silu\"", "\"act_fn\": \"mish\"", "unet: act_fn mish"},
        {"unet", "\"center_input_sample\": false", "\"center_input_sample\": true",
         "center_input_sample"},
        {"unet", "\"timestep_post_act\": null", "\"timestep_post_act\": \"silu\"",
         "timestep_post_act silu"},
        {"unet", "\"class_embed_type\": null", "\"class_embed_type\": \"timestep\"",
         "class_embed_type timestep"},
        {"unet", "\"resnet_skip_time_act\": false", "\"resnet_skip_time_act\": true",
         "resnet_skip_time_act"},
        {"unet", "CrossAttn", "", "no block of it looks at the text"},
        {"scheduler", "\"trained_betas\": null", "\"trained_betas\": [0.1]", "trained_betas"},
        {"scheduler", "\"PNDMScheduler\"", "\"DEISMultistepScheduler\"", "DEISMultistepScheduler"},
        {"scheduler", "\"scaled_linear\"", "\"sigmoid\"", "beta_schedule \"sigmoid\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        make_model(cases[i].part, cases[i].from, cases[i].from);
        if (opened(&e) != 0)
            fail_msg("the fixture itself: %s", e.msg);
        make_model(cases[i].part, cases[i].from, cases[i].to);
        assert_int_equal(opened(&e), ERR_UNSUPPORTED);
        if (strstr(e.msg, cases[i].words) == NULL)
            fail_msg("%s: %s", cases[i].words, e.msg);
    }
}

static void image_model_says_in_which_config_a_number_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *part, *from, *to, *words;
    } cases[] = {
        {"vae", "\"norm_num_groups\": 4", "\"norm_num_groups\": 0", "vae: 'norm_num_groups'"},
        {"unet", "\"norm_num_groups\": 4", "\"norm_num_groups\": -1", "unet: 'norm_num_groups'"},
        {"unet", "\"norm_eps\": 1e-05", "\"norm_eps\": Infinity", "unet: 'norm_eps'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        make_model(cases[i].part, cases[i].from, cases[i].to);
        assert_int_equal(opened(&e), ERR_INVALID);
        if (strstr(e.msg, cases[i].words) != e.msg)
            fail_msg("%s: %s", cases[i].words, e.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_model_refuses_settings_that_no_code_follows),
        cmocka_unit_test(image_model_says_in_which_config_a_number_is_wrong),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
