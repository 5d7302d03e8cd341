/* Schedulers: names, configurations, limits, and the functions beside the steps.  What the steps do is
 * compared with diffusers in tests/golden. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "engine/noise.h"

enum { H = 2, W = 3, C = 4, N = H * W * C };
static const struct noise_shape shape = {.h = H, .w = W, .c = C};

static int read_config(struct noise_config *c, const char *text, struct err *e)
{
    struct cJSON *doc = NULL;
    assert_int_equal(json_parse(&doc, text, strlen(text), NULL, NULL), 0);
    int rc = noise_config_read(c, doc, e);
    json_free(doc);
    return rc;
}

static struct noise *must_open(enum noise_scheduler s, int steps, double strength)
{
    static const struct noise_config config = {.beta_schedule = NOISE_SCALED_LINEAR,
                                               .beta_start = 0.00085,
                                               .beta_end = 0.012,
                                               .clip_sample = NOISE_NO,
                                               .skip_prk_steps = NOISE_YES};
    const struct noise_args args = {.choice.scheduler = s, .steps = steps, .strength = strength};
    struct noise *n = NULL;
    struct err e = {0};
    if (noise_open(&n, &config, &args, &e) != 0)
        fail_msg("%s", e.msg);
    return n;
}

static void expect_refused(const struct noise_config *c, const struct noise_args *a,
                           const char *word)
{
    struct noise *n = NULL;
    struct err e = {0};
    assert_int_equal(noise_open(&n, c, a, &e), ERR_INVALID);
    assert_null(n);
    if (strstr(e.msg, word) == NULL)
        fail_msg("\"%s\" does not say %s", e.msg, word);
}

static void noise_name_find_knows_every_name_label_and_class(void **state)
{
    (void)state;
    int n;
    struct noise_choice c;
    char label[NOISE_NAME_MAX];
    const struct noise_name *all = noise_name_list(&n);
    for (int i = 0; i < n; i++) {
        assert_true(noise_name_find(all[i].name, &c) && c.scheduler == all[i].scheduler);
        assert_true(noise_name_find(all[i].label, &c) && c.scheduler == all[i].scheduler);
        assert_true(all[i].class_name == NULL || noise_name_find(all[i].class_name, &c));
    }
    assert_true(noise_name_find("dpm++ 2m karras", &c));
    assert_true(c.scheduler == NOISE_DPMPP_2M && c.sigmas == NOISE_SIGMAS_KARRAS);
    noise_name_label(&c, label);
    assert_string_equal(label, "DPM++ 2M Karras");
    assert_true(noise_name_find("DPMSolverMultistepScheduler", &c));
    assert_true(c.scheduler == NOISE_DPMPP_2M && c.sigmas == NOISE_SIGMAS_UNSET);
    assert_true(noise_name_find("euler-ancestral-discrete-scheduler", &c));
    assert_int_equal(c.scheduler, NOISE_EULER_A);
    assert_true(noise_name_find("restart_align_your_steps", &c));
    noise_name_label(&c, label);
    assert_string_equal(label, "Restart Align Your Steps");
    noise_name_label(&(struct noise_choice){.spacing = NOISE_TRAILING}, label);
    assert_string_equal(label, "");
    static const char *const none[] = {"DPM adaptive",      "",           "karras",
                                       "euler_karras_beta", "lcm_karras", "dpm_fast_trailing"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_false(noise_name_find(none[i], &c));
}

static void noise_config_read_takes_what_it_knows(void **state)
{
    (void)state;
    struct noise_config c;
    struct err e = {0};
    int rc = read_config(&c,
                         "{\"_class_name\":\"DPMSolverMultistepScheduler\",\"beta_start\":0.00085,"
                         "\"algorithm_type\":\"sde-dpmsolver++\",\"use_karras_sigmas\":true,"
                         "\"prediction_type\":\"v_prediction\",\"trained_betas\":null,"
                         "\"lambda_min_clipped\":\"-inf\",\"something_else\":[1]}",
                         &e);
    assert_int_equal(rc, 0);
    assert_int_equal(c.scheduler, NOISE_DPMPP_2M_SDE);
    assert_int_equal(c.sigmas, NOISE_SIGMAS_KARRAS);
    assert_int_equal(c.prediction, NOISE_V);
    assert_int_equal(c.spacing, NOISE_SPACING_UNSET);
    assert_true(c.beta_start == 0.00085 && c.lambda_min_clipped == 0);
}

static void noise_config_read_refuses_what_would_change_the_picture(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word;
        int code;
    } cases[] = {
        {"{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\"}", "FlowMatch", ERR_UNSUPPORTED},
        {"{\"thresholding\":true}", "thresholding", ERR_UNSUPPORTED},
        {"{\"trained_betas\":[0.1]}", "trained_betas", ERR_UNSUPPORTED},
        {"{\"prediction_type\":\"flow_prediction\"}", "prediction_type", ERR_UNSUPPORTED},
        {"{\"timestep_type\":\"continuous\"}", "timestep_type", ERR_UNSUPPORTED},
        {"{\"_class_name\":\"DDPMScheduler\",\"variance_type\":\"learned\"}", "variance_type",
         ERR_UNSUPPORTED},
        {"{\"_class_name\":\"UniPCMultistepScheduler\",\"predict_x0\":false}", "UniPC",
         ERR_UNSUPPORTED},
        {"{\"beta_start\":\"a\"}", "beta_start", ERR_INVALID},
        {"{\"num_train_timesteps\":1e9}", "num_train_timesteps", ERR_INVALID},
        {"{\"use_karras_sigmas\":true,\"use_exponential_sigmas\":true}", "other sigmas",
         ERR_INVALID},
        {"[]", "object", ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct noise_config c;
        struct err e = {0};
        assert_int_equal(read_config(&c, cases[i].text, &e), cases[i].code);
        if (strstr(e.msg, cases[i].word) == NULL)
            fail_msg("\"%s\" does not say %s", e.msg, cases[i].word);
    }
}

static void noise_open_refuses_runs_that_cannot_be(void **state)
{
    (void)state;
    const struct noise_config config = {0}, sample = {.prediction = NOISE_SAMPLE};
    const struct noise_config zero = {
        .zero_snr = NOISE_YES, .spacing = NOISE_TRAILING, .clip_sample = NOISE_NO};
    static const int rising[] = {10, 20};
    struct noise_args a = {.choice.scheduler = NOISE_DDIM, .steps = 0};
    expect_refused(&config, &a, "0 steps");
    a.steps = 1001;
    expect_refused(&config, &a, "1001 steps");
    a.steps = 10;
    a.strength = 0.05;
    expect_refused(&config, &a, "strength");
    a.strength = NAN;
    expect_refused(&config, &a, "strength");
    a.strength = 0;
    a.eta = 2;
    expect_refused(&config, &a, "eta");
    a.eta = 0;
    expect_refused(&zero, &a, "finite");
    a.choice.scheduler = NOISE_EULER_A;
    expect_refused(&sample, &a, "sample");
    a.choice.scheduler = NOISE_RESTART;
    a.end = 0.5;
    expect_refused(&config, &a, "not cut");
    a.end = 0;
    a.choice.scheduler = NOISE_LCM;
    a.choice.sigmas = NOISE_SIGMAS_KARRAS;
    expect_refused(&config, &a, "but its own");
    a.choice.sigmas = NOISE_SIGMAS_UNSET;
    a.steps = 51;
    expect_refused(&config, &a, "at most 50");
    a.steps = 26;
    a.strength = 0.5;
    a.strength_in_range = true;
    expect_refused(&config, &a, "at most 25");
    a.strength = 0;
    a.choice.scheduler = NOISE_PNDM;
    a.steps = 3;
    expect_refused(&config, &a, "4 steps");
    a.timesteps = rising;
    a.n_timesteps = 2;
    expect_refused(&config, &a, "timesteps");
    a.choice.scheduler = NOISE_EULER;
    expect_refused(&config, &a, "fall");
    a.choice.scheduler = NOISE_N_SCHEDULERS;
    expect_refused(&config, &a, "no scheduler");
}

static void noise_counts_calls_and_steps(void **state)
{
    (void)state;
    static const struct {
        enum noise_scheduler s;
        double strength;
        int n_calls, n_steps;
    } cases[] = {
        {NOISE_EULER, 0, 10, 10},         {NOISE_EULER, 0.5, 5, 5},
        {NOISE_HEUN, 0, 19, 10},          {NOISE_HEUN, 0.5, 9, 5},
        {NOISE_PNDM, 0, 11, 10},          {NOISE_PNDM, 0.5, 6, 5},
        {NOISE_DPM2, 0, 19, 10},          {NOISE_DPMPP_SDE, 1, 19, 10},
        {NOISE_DDIM, (double)0.7f, 7, 7}, {NOISE_DDIM, (double)0.29f, 2, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct noise *n = must_open(cases[i].s, 10, cases[i].strength);
        assert_int_equal(noise_n_calls(n), cases[i].n_calls);
        assert_int_equal(noise_n_steps(n), cases[i].n_steps);
        assert_int_equal(noise_step_of(n, 0), 0);
        assert_int_equal(noise_step_of(n, cases[i].n_calls - 1), cases[i].n_steps - 1);
        noise_close(n);
    }
}

/* With a model that knows the picture, every preview and the end of every run is the picture. */
static void noise_step_ends_at_the_picture_that_the_model_sees(void **state)
{
    (void)state;
    for (int s = NOISE_DDIM; s < NOISE_N_SCHEDULERS; s++) {
        struct noise *n = must_open((enum noise_scheduler)s, 8, 0);
        float latent[N], picture[N], output[N], clean[N], zero[N] = {0}, a[N];
        float memory[N * NOISE_MAX_BUFFERS];
        struct noise_state st;
        struct rng_torch rng;
        assert_true(noise_state_bytes(n, &shape) <= sizeof memory);
        noise_state_open(&st, n, &shape, memory);
        rng_torch_seed(&rng, RNG_CPU, 3);
        noise_begin(n, &st, NULL, latent, NULL, &rng);
        for (int i = 0; i < N; i++)
            picture[i] = sinf((float)i);
        for (int i = 0; i < noise_n_calls(n); i++) {
            /* Epsilon is what makes the clean latent of this call the picture: it is linear in it. */
            noise_preview(n, i, &st, zero, latent, clean);
            for (int j = 0; j < N; j++)
                output[j] = 1;
            noise_preview(n, i, &st, output, latent, a);
            for (int j = 0; j < N; j++)
                output[j] = (picture[j] - clean[j]) / (a[j] - clean[j]);
            noise_preview(n, i, &st, output, latent, clean);
            for (int j = 0; j < N; j++)
                assert_true(fabsf(clean[j] - picture[j]) < 1e-3f);
            noise_step(n, i, &st, output, latent, &rng);
        }
        /* PNDM, TCD and DPM fast end at timestep 0, where 0.029 of noise is left. */
        float bound = s == NOISE_PNDM || s == NOISE_TCD || s == NOISE_DPM_FAST ? 0.15f : 2e-3f;
        for (int j = 0; j < N; j++)
            if (!(fabsf(latent[j] - picture[j]) < bound))
                fail_msg("scheduler %d: %g, should be %g", s, (double)latent[j],
                         (double)picture[j]);
        noise_close(n);
    }
}

static void noise_guide_mixes_and_rescales(void **state)
{
    (void)state;
    const float uncond[4] = {1, 2, 3, 4}, cond[4] = {2, 2, 5, 3};
    float out[4];
    noise_guide(out, uncond, cond, 4, 1, 0);
    assert_memory_equal(out, cond, sizeof out);
    noise_guide(out, uncond, cond, 4, 3, 0);
    static const float want[4] = {4, 2, 9, 1};
    assert_memory_equal(out, want, sizeof out);
    noise_guide(out, uncond, cond, 4, 3, 0.5f);
    /* deviations 1.41421 of cond and 3.55903 of the mix: 0.5 * 0.397360 + 0.5 */
    for (int i = 0; i < 4; i++)
        assert_true(fabsf(out[i] - want[i] * 0.698680f) < 1e-5f);
    memcpy(out, cond, sizeof out);
    noise_guide(out, uncond, out, 4, 3, 0);
    assert_memory_equal(out, want, sizeof out);
}

static void noise_inpaint_keeps_what_the_mask_leaves(void **state)
{
    (void)state;
    struct noise *n = must_open(NOISE_EULER, 4, 0.5);
    float latent[N], image[N], noise[N], mask[H * W] = {1, 0, 1, 0, 0, 1}, expected[N];
    struct noise_state st = {.shape = shape, .n = N};
    for (int i = 0; i < N; i++) {
        latent[i] = 100 + (float)i;
        image[i] = (float)i;
        noise[i] = 1;
    }
    for (int call = 0; call < noise_n_calls(n); call++) {
        noise_renoise(n, call + 1, image, noise, expected, N);
        noise_inpaint(n, call, &st, image, noise, mask, latent);
        for (int i = 0; i < N; i++)
            assert_true(latent[i] == (mask[i / C] != 0 ? 100 + (float)i : expected[i]));
    }
    assert_memory_equal(expected, image, sizeof image); /* nothing is noised behind the last call */
    noise_close(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(noise_name_find_knows_every_name_label_and_class),
        cmocka_unit_test(noise_config_read_takes_what_it_knows),
        cmocka_unit_test(noise_config_read_refuses_what_would_change_the_picture),
        cmocka_unit_test(noise_open_refuses_runs_that_cannot_be),
        cmocka_unit_test(noise_counts_calls_and_steps),
        cmocka_unit_test(noise_step_ends_at_the_picture_that_the_model_sees),
        cmocka_unit_test(noise_guide_mixes_and_rescales),
        cmocka_unit_test(noise_inpaint_keeps_what_the_mask_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
