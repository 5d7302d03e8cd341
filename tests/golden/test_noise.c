/* Diffusion schedulers against diffusers, and torch.randn against torch (tools/make_noise_golden.py
 * computed the values): whole trajectories of a small latent under a model that is a function of each
 * number and the timestep, for every scheduler and what its config may say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/rng_torch.h"
#include "engine/noise.h"

enum {
    C = 4,
    H = 3,
    W = 3,
    N = C * H * W,
    MAX_CUSTOM = 16,
    MID = 12,
    MAX_NORMAL = 10000,
    TAIL = 20,
    LONG = 200
};

/* Relative to the largest number of a latent.  Measured: 6e-5 at most, which is diffusers' own error
 * of float32 sums.  DPM++ SDE reads a Brownian path at sigmas rounded to 1e-6, and torch's square root
 * is off by the last bit on some machines; a path goes 1e-3 in 1e-6.  Measured: 3e-4. */
#define BOUND     1e-4
#define BOUND_SDE 1e-3

static const char *const fixture = "tests/fixtures/noise.jsonl";

/* Calls fn on each line's document; its number is for messages. */
static void each_line(void (*fn)(const struct cJSON *doc, int line))
{
    FILE *f = fopen(fixture, "r");
    assert_non_null(f);
    char *text = NULL;
    size_t size = 0;
    ssize_t n;
    for (int line = 1; (n = getline(&text, &size, f)) > 0; line++) {
        struct cJSON *doc = NULL;
        struct err e = {0};
        if (json_parse(&doc, text, (size_t)n, &json_limits_default, &e) != 0)
            fail_msg("line %d: %s", line, e.msg);
        fn(doc, line);
        json_free(doc);
    }
    free(text);
    fclose(f);
}

static double number(const struct cJSON *doc, const char *key)
{
    return json_num(json_get(doc, key));
}

static float model(float x, float t)
{
    return 0.8f * tanhf(0.9f * x + 0.4f * cosf(t / 50)) - 0.1f * x;
}

/* [c, h, w] number i's place in [h, w, c] */
static int place(int i)
{
    return i % (H * W) * C + i / (H * W);
}

static double error_of(const float *latent, const struct cJSON *want, int n)
{
    double worst = 0, largest = 0;
    int i = 0;
    for (const struct cJSON *v = json_first(want); v != NULL; v = json_next(v), i++) {
        double d = fabs((double)latent[place(i)] - json_num(v));
        worst = d > worst || !(d == d) ? d : worst;
        largest = fmax(largest, fabs(json_num(v)));
    }
    assert_int_equal(i, n);
    return worst / largest;
}

static void expect_sequence(const struct noise *n, const struct cJSON *doc, int line)
{
    const struct cJSON *t = json_first(json_get(doc, "t"));
    const struct cJSON *scale = json_first(json_get(doc, "scale"));
    for (int i = 0; i < noise_n_calls(n); i++, t = json_next(t)) {
        double wanted = scale != NULL ? json_num(scale) : 1;
        if (fabs((double)noise_timestep(n, i) - json_num(t)) > 0.01)
            fail_msg("line %d, call %d: timestep %g, should be %g", line, i,
                     (double)noise_timestep(n, i), json_num(t));
        if (fabs((double)noise_input_scale(n, i) / wanted - 1) > 1e-5)
            fail_msg("line %d, call %d: scale %g, should be %g", line, i,
                     (double)noise_input_scale(n, i), wanted);
        scale = scale != NULL ? json_next(scale) : NULL;
    }
    assert_null(t);
}

static void open_case(struct noise **n, const struct cJSON *doc, int line)
{
    static int custom[MAX_CUSTOM];
    struct noise_config config;
    struct noise_args args = {.steps = (int)number(doc, "steps"),
                              .strength = number(doc, "strength"),
                              .strength_in_range = json_bool(json_get(doc, "in_range")),
                              .eta = number(doc, "eta")};
    const char *choice = json_str(json_get(doc, "choice"));
    if (choice != NULL) {
        assert_true(noise_name_find(choice, &args.choice));
    }
    args.xl = json_bool(json_get(doc, "xl"));
    const struct cJSON *timesteps = json_get(doc, "timesteps");
    for (const struct cJSON *v = json_first(timesteps); v != NULL; v = json_next(v)) {
        assert_true(args.n_timesteps < MAX_CUSTOM);
        custom[args.n_timesteps++] = (int)json_num(v);
        args.timesteps = custom;
    }
    static float sigmas[MAX_CUSTOM];
    for (const struct cJSON *v = json_first(json_get(doc, "sigmas")); v != NULL; v = json_next(v)) {
        assert_true(args.n_sigmas < MAX_CUSTOM);
        sigmas[args.n_sigmas++] = (float)json_num(v);
        args.sigmas = sigmas;
    }
    struct err e = {0};
    if (noise_config_read(&config, json_get(doc, "config"), &e) != 0 ||
        noise_open(n, &config, &args, &e) != 0)
        fail_msg("line %d: %s", line, e.msg);
    if (json_size(json_get(doc, "t")) != noise_n_calls(*n))
        fail_msg("line %d: %d calls, should be %d", line, noise_n_calls(*n),
                 json_size(json_get(doc, "t")));
}

/* A run with its state; the latent after every call. */
struct run {
    struct noise *n;
    struct noise_state st;
    struct rng_torch rng;
    float latent[N], image[N], noise[N], mask[H * W];
    void *memory;
};

static void run_begin(struct run *r, const struct cJSON *doc)
{
    static const struct noise_shape shape = {.h = H, .w = W, .c = C};
    r->memory = malloc(noise_state_bytes(r->n, &shape) + 1);
    noise_state_open(&r->st, r->n, &shape, r->memory);
    for (int i = 0; i < N; i++)
        r->image[place(i)] = sinf(0.7f * (float)i);
    for (int i = 0; i < H * W; i++)
        r->mask[i] = i % 3 != 0;
    rng_torch_seed(&r->rng, RNG_CPU, (uint64_t)number(doc, "seed"));
    bool from_image = number(doc, "strength") > 0;
    noise_begin(r->n, &r->st, from_image ? r->image : NULL, r->latent, r->noise, &r->rng);
}

static void run_call(struct run *r, int i, bool inpaint)
{
    float output[N], scale = noise_input_scale(r->n, i), t = noise_timestep(r->n, i);
    for (int j = 0; j < N; j++)
        output[j] = model(scale * r->latent[j], t);
    noise_step(r->n, i, &r->st, output, r->latent, &r->rng);
    if (inpaint)
        noise_inpaint(r->n, i, &r->st, r->image, r->noise, r->mask, r->latent);
}

static double worst_error;
static int n_trajectories, n_bad;

static void check_error(const struct cJSON *doc, int line, const char *where, double error)
{
    const char *name = json_str(json_get(json_get(doc, "config"), "_class_name"));
    const char *choice = json_str(json_get(doc, "choice"));
    if (choice != NULL)
        name = choice;
    bool sde = strcmp(name, "DPMSolverSDEScheduler") == 0 || strncmp(name, "dpmpp_sde", 9) == 0;
    if (!sde)
        worst_error = fmax(worst_error, error);
    if (error <= (sde ? BOUND_SDE : BOUND))
        return;
    n_bad++;
    print_error("line %d (%s, %g steps, strength %g): error %.2g %s\n", line, name,
                number(doc, "steps"), number(doc, "strength"), error, where);
}

static void check_trajectory(const struct cJSON *doc, int line)
{
    if (json_get(doc, "config") == NULL)
        return;
    struct run r = {0};
    open_case(&r.n, doc, line);
    expect_sequence(r.n, doc, line);
    run_begin(&r, doc);
    int n_calls = noise_n_calls(r.n);
    for (int i = 0; i < n_calls; i++) {
        run_call(&r, i, json_bool(json_get(doc, "inpaint")));
        if (i == n_calls / 2 && n_calls > 2)
            check_error(doc, line, "in the middle", error_of(r.latent, json_get(doc, "mid"), MID));
    }
    check_error(doc, line, "at the end", error_of(r.latent, json_get(doc, "final"), N));
    n_trajectories++;
    free(r.memory);
    noise_close(r.n);
}

static void noise_follows_diffusers_through_whole_runs(void **state)
{
    (void)state;
    each_line(check_trajectory);
    print_message("%d trajectories, largest relative error %.2g\n", n_trajectories, worst_error);
    assert_int_equal(n_bad, 0);
    assert_true(n_trajectories > 300);
}

static int n_sequences;

static void check_normal(const struct cJSON *doc, int line)
{
    const struct cJSON *want = json_first(json_get(doc, "normal"));
    if (want == NULL)
        return;
    static float out[MAX_NORMAL];
    struct rng_torch r;
    rng_torch_seed(&r, RNG_CPU, strtoull(json_str(json_get(doc, "seed")), NULL, 10));
    const struct cJSON *sizes = json_get(doc, "sizes");
    for (const struct cJSON *v = json_first(sizes); v != NULL; v = json_next(v)) {
        int n = (int)json_num(v);
        assert_true(n <= MAX_NORMAL);
        rng_torch_normal(&r, out, (size_t)n);
        for (int i = n > LONG ? n - TAIL : 0; i < n; i++, want = json_next(want)) {
            /* torch's own logarithm and cosine differ in the last bit between machines */
            double d = fabs((double)out[i] - json_num(want));
            if (!(d <= 3e-7 * fmax(1, fabs(json_num(want)))))
                fail_msg("line %d: number %d of %d is %.9g, should be %.9g", line, i, n,
                         (double)out[i], json_num(want));
        }
    }
    assert_null(want);
    n_sequences++;
}

static void rng_torch_draws_as_torch_for_many_sizes_and_seeds(void **state)
{
    (void)state;
    each_line(check_normal);
    assert_true(n_sequences >= 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(noise_follows_diffusers_through_whole_runs),
        cmocka_unit_test(rng_torch_draws_as_torch_for_many_sizes_and_seeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
