/* The dialect of stable-diffusion-webui without a server: its text of parameters, and its names of samplers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "api/sdapi.h"
#include "base/arena.h"
#include "base/json.h"

static struct cJSON *read_info(const char *text)
{
    struct cJSON *doc = NULL;
    struct err e = {0};
    struct json_writer w;
    struct buf out;
    buf_init(&out, 1 << 16);
    json_begin(&w, &out);
    json_open(&w, NULL, '{');
    sdapi_info_read(&w, text);
    json_close(&w, '}');
    if (json_parse(&doc, buf_str(&out), out.len, &json_limits_default, &e) != 0)
        fail_msg("%s: %s", e.msg, buf_str(&out));
    buf_free(&out);
    return doc;
}

static void same(const struct cJSON *doc, const char *key, const char *want)
{
    const char *have = json_str(json_get(doc, key));
    if (have == NULL || strcmp(have, want) != 0)
        fail_msg("%s is '%s', not '%s'", key, have != NULL ? have : "(nothing)", want);
}

static void parameters_of_webui_are_read(void **state)
{
    (void)state;
    struct cJSON *d =
        read_info("a fox, (red:1.2)\nsecond line: yes\nNegative prompt: snow,\nice\n"
                  "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 4294967295, "
                  "Size: 512x768, Model: \"a, \\\"b\\\"\", Clip skip: 2, Version: v1.9.4");
    same(d, "Prompt", "a fox, (red:1.2)\nsecond line: yes");
    same(d, "Negative prompt", "snow,\nice");
    same(d, "Steps", "20");
    same(d, "Sampler", "DPM++ 2M Karras");
    same(d, "Seed", "4294967295");
    same(d, "Size-1", "512");
    same(d, "Size-2", "768");
    same(d, "Model", "a, \"b\"");
    same(d, "Version", "v1.9.4");
    json_free(d);
}

static void texts_without_parameters_are_prompts(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "a fox", "Steps: many", "a: b, c: d"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct cJSON *d = read_info(texts[i]);
        same(d, "Prompt", texts[i]);
        same(d, "Negative prompt", "");
        json_free(d);
    }
    struct cJSON *d = read_info("Negative prompt: snow");
    same(d, "Prompt", "");
    same(d, "Negative prompt", "snow");
    json_free(d);
}

static void broken_parameters_do_no_harm(void **state)
{
    (void)state;
    static const char *const texts[] = {"x\nA: 1, B: 2, C: \"",
                                        "x\nA: 1, A: 2, A: 3",
                                        "x\nSize: x, B: , C: ,",
                                        "x\n:,:,:,:",
                                        "x\nA: \"\\",
                                        "\n\n\n",
                                        "Negative prompt:",
                                        "x\nPrompt: y, B: 2, C: 3",
                                        "x\nSize: 99999999999x1, B: 1, C: 2"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        json_free(read_info(texts[i]));
}

static void samplers_have_names_of_all_ages(void **state)
{
    (void)state;
    static const struct {
        const char *sampler, *scheduler, *want; /* NULL: refused */
    } cases[] = {
        {"Euler a", NULL, "euler_a"},
        {"euler A", "automatic", "euler_a"},
        {"DPM++ 2M", "", "dpmpp_2m_karras"},
        {"DPM++ 2M", "Uniform", "dpmpp_2m"},
        {"DPM++ 2M", "exponential", "dpmpp_2m_exponential"},
        {"DPM++ 2M Karras", "Automatic", "dpmpp_2m_karras"},
        {"DPM++ 2M Exponential", NULL, "dpmpp_2m_exponential"},
        {"k_euler", "karras", "euler_karras"},
        {"Euler", "SGM Uniform", "euler_trailing"},
        {"DDIM", NULL, "ddim"},
        {"DDIM", "Karras", "ddim"},
        {"DDIM", "SGM Uniform", "ddim_trailing"},
        {"PLMS", NULL, "pndm"},
        {"PLMS", "exponential", "pndm"},
        {"UniPC", "exponential", "unipc"},
        {"LCM", "karras", NULL},
        {"DPM++ 2M SDE", NULL, "dpmpp_2m_sde_exponential"},
        {"DPM++ 2M SDE Heun Karras", NULL, "dpmpp_2m_sde_heun_karras"},
        {"DPM++ 3M SDE", "Align Your Steps", "dpmpp_3m_sde_align_your_steps"},
        {"DPM++ 2M Align Your Steps", "Automatic", "dpmpp_2m_align_your_steps"},
        {"DPM++ 2S a Karras", NULL, "dpmpp_2s_a_karras"},
        {"Euler", "Simple", "euler_trailing"},
        {"Euler", "DDIM", "euler_leading"},
        {"Restart", NULL, "restart_karras"},
        {"DPM fast", "Automatic", "dpm_fast"},
        {"DPM fast", "Karras", NULL},
        {"DDIM CFG++", NULL, NULL},
        {"DPM adaptive", NULL, NULL},
        {"Karras", NULL, NULL},
        {" Karras", NULL, NULL},
        {"Euler", "polyexponential", "euler_exponential"},
        {"Euler a", "Karras", "euler_a_karras"},
        {"Euler a Exponential", NULL, "euler_a_exponential"},
        {"Euler", "beta", "euler_beta"},
        {"Euler", "gamma", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        char have[NOISE_NAME_MAX];
        struct noise_choice got, want;
        int rc = sdapi_names_scheduler(cases[i].sampler, cases[i].scheduler, have, &e);
        assert_int_equal(rc, e.code);
        if (cases[i].want == NULL) {
            assert_true(rc == ERR_INVALID && e.param[0] != '\0');
            continue;
        }
        if (rc != 0)
            fail_msg("%s: %s", cases[i].sampler, e.msg);
        assert_true(noise_name_find(have, &got) && noise_name_find(cases[i].want, &want));
        assert_memory_equal(&got, &want, sizeof got);
    }
}

/* piece again and again, then an end. */
static char *repeat(const char *piece, const char *end)
{
    const size_t n = strlen(piece), times = ((size_t)4 << 20) / n;
    char *s = xcalloc(1, times * n + strlen(end) + 1);
    for (size_t i = 0; i < times; i++)
        memcpy(s + i * n, piece, n);
    return strcat(s + times * n, end) - times * n;
}

/* As long as a request with pictures may be: nothing is looked at again for every byte. */
static void long_texts_take_no_time(void **state)
{
    (void)state;
    static const struct {
        const char *piece, *end;
        int n; /* LoRAs, or an error */
    } cases[] = {{"<", ">", 0}, {"<lora:a\n", "", 0}, {"<lora:", "\n", ERR_INVALID}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *prompt = repeat(cases[i].piece, cases[i].end);
        struct json_writer w;
        struct buf text, list;
        buf_init(&text, (size_t)8 << 20);
        buf_init(&list, 1 << 16);
        json_begin(&w, &list);
        json_open(&w, NULL, '[');
        assert_int_equal(sdapi_lora_take(prompt, &text, &w, NULL), cases[i].n);
        if (cases[i].n == 0)
            assert_string_equal(buf_str(&text), prompt);
        buf_free(&text);
        buf_free(&list);
        free(prompt);
    }
    char *sampler = repeat(" ", "");
    assert_false(sdapi_names_by_timesteps(sampler));
    free(sampler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_of_webui_are_read),
        cmocka_unit_test(texts_without_parameters_are_prompts),
        cmocka_unit_test(broken_parameters_do_no_harm),
        cmocka_unit_test(samplers_have_names_of_all_ages),
        cmocka_unit_test(long_texts_take_no_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
