/* Any bytes as a scheduler_config.json, opened with every scheduler and a few steps, and run: an error
 * or a run whose every coefficient is finite, never a crash.  The first bytes choose steps and more. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "engine/noise.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { H = 2, W = 3, C = 4, N = H * W * C, N_CHOICES = 8, MAX_STEPS = 12, N_CUSTOM = 4 };

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void run(const struct noise *n)
{
    static const struct noise_shape shape = {.h = H, .w = W, .c = C};
    float latent[N], output[N], memory[N * NOISE_MAX_BUFFERS];
    struct noise_state st;
    struct rng_torch rng;
    check(noise_state_bytes(n, &shape) <= sizeof memory);
    noise_state_open(&st, n, &shape, memory);
    rng_torch_seed(&rng, RNG_CPU, 1);
    noise_begin(n, &st, NULL, latent, NULL, &rng);
    for (int i = 0; i < noise_n_calls(n); i++) {
        for (int j = 0; j < N; j++)
            output[j] = tanhf(latent[j] * noise_input_scale(n, i));
        check(isfinite(noise_timestep(n, i)) && noise_step_of(n, i) < noise_n_steps(n));
        noise_step(n, i, &st, output, latent, &rng);
    }
}

/* The pipeline, and timesteps or sigmas by hand: they fall, if only by chance. */
static void choose(const uint8_t *data, struct noise_args *args)
{
    static int timesteps[N_CUSTOM];
    static float sigmas[N_CUSTOM];
    int sum = 0;
    args->pipeline = (enum noise_pipeline)(data[0] % 3);
    for (int i = N_CUSTOM - 1; i >= 0; i--) {
        sum += data[1 + i];
        timesteps[i] = sum;
        sigmas[i] = (float)sum / 16;
    }
    if (data[0] & 64) {
        args->timesteps = timesteps;
        args->n_timesteps = N_CUSTOM;
    }
    if (data[0] & 128) {
        args->sigmas = sigmas;
        args->n_sigmas = N_CUSTOM;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct noise_config config;
    struct cJSON *doc = NULL;
    struct err e = {0};
    if (size < N_CHOICES ||
        json_parse(&doc, (const char *)data + N_CHOICES, size - N_CHOICES, NULL, NULL) != 0)
        return 0;
    int rc = noise_config_read(&config, doc, &e);
    json_free(doc);
    check(rc == e.code && (rc == 0) == (e.msg[0] == 0));
    if (rc != 0)
        return 0;
    struct noise_args args = {
        .steps = data[0] % MAX_STEPS, .strength = data[1] / 255.0, .eta = data[2] / 255.0};
    choose(data + 3, &args);
    for (int s = NOISE_DEFAULT; s < NOISE_N_SCHEDULERS; s++) {
        struct noise *n = NULL;
        args.choice = (struct noise_choice){(enum noise_scheduler)s,
                                            (enum noise_sigmas)(data[1] % (NOISE_SIGMAS_KL + 1)),
                                            (enum noise_spacing)(data[2] % (NOISE_TRAILING + 1))};
        args.xl = data[0] & 32;
        memset(&e, 0, sizeof e);
        rc = noise_open(&n, &config, &args, &e);
        check(rc == e.code && (rc == 0) == (n != NULL));
        if (rc == 0)
            run(n);
        noise_close(n);
    }
    return 0;
}
