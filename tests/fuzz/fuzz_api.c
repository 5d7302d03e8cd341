/* A request body of any bytes at any POST route, over a tiny model: JSON, fields, template, tokenizer,
 * engine_submit, and what the engine makes of the job until the client leaves.  Start from the seeds:
 *     build/tests/fuzz/fuzz_api CORPUS tests/fuzz/corpus/fuzz_api
 * The first byte chooses the route, the rest is the body. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/api.h"
#include "base/log.h"

#define MODEL "tests/fixtures/tiny-llama.gguf"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct replicas *engine;
static struct api *api;

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static void start(void)
{
    static const struct engine_model model = {.id = "tiny", .path = MODEL};
    const struct engine_options eo = {.device = "cpu/scalar",
                                      .n_threads = 1,
                                      .n_models = 1,
                                      .models = &model,
                                      .cache_bytes = 1 << 22,
                                      .max_sequences = 4,
                                      .grammar_bytes = 1 << 22,
                                      .max_queued_jobs = 8};
    struct api_options ao = {.max_body_bytes = 1 << 16,
                             .max_json_depth = 32,
                             .max_json_nodes = 4096,
                             .max_choices = 8,
                             .max_prompts = 8,
                             .max_messages = 64,
                             .max_grammar_bytes = 4096,
                             .max_stop_bytes = 64,
                             .max_answer_bytes = 1 << 16,
                             .client_templates = true,
                             .max_image_bytes = 1 << 16,
                             .max_image_pixels = 1 << 16,
                             .max_images = 4,
                             .max_responses = 4,
                             .max_responses_bytes = 1 << 18,
                             .response_ttl_s = 60,
                             .max_jobs = 4,
                             .max_jobs_bytes = 1 << 20,
                             .version = "fuzz"};
    struct err e = {0};
    log_init(LOG_OFF, false);
    if (replicas_open(&engine, &eo, &e) != 0)
        goto fail;
    while (replicas_state(engine) == ENGINE_LOADING)
        nap();
    replicas_failure(engine, &e);
    ao.engine = engine;
    if (replicas_state(engine) != ENGINE_READY || api_open(&api, &ao, &e) != 0)
        goto fail;
    api_models_ready(api);
    return;
fail:
    fprintf(stderr, "fuzz_api: %s (run it where %s is)\n", e.msg, MODEL);
    exit(1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (api == NULL)
        start();
    if (size == 0)
        return 0;
    const struct api_route *posts[32];
    size_t n = 0;
    for (int i = 0; i < api_n_routes && n < 32; i++)
        if (strcmp(api_routes[i].method, "POST") == 0)
            posts[n++] = &api_routes[i];
    const struct api_route *route = posts[data[0] % n];
    const struct api_request rq = {.route = route,
                                   .path = route->path,
                                   .body = (const char *)data + 1,
                                   .body_len = size - 1,
                                   .request_id = "fuzz"};
    struct api_call *c = api_begin(api, &rq);
    /* The client stays for a few steps of the engine. */
    for (int i = 0; i < 5 && c->state == API_RUNNING; i++) {
        nap();
        api_pump(c, INT64_MAX);
    }
    if (c->state == API_DONE && (c->status < 200 || c->status > 599 || c->out.len == 0))
        abort();
    api_end(c);
    return 0;
}
