/* A form or a JSON body of any bytes at the images routes, over an engine that does nothing: fields, pictures,
 * sizes and masks to a job whose spec must hold together.  The first byte chooses the route and the kind
 * of body; forms have the boundary XX.  Start from the seeds:
 *     build/tests/fuzz/fuzz_images CORPUS tests/fuzz/corpus/fuzz_images */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/api.h"
#include "base/log.h"
#include "tests/unit/fake_engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct api *api;

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void start(void)
{
    const struct api_options o = {.max_body_bytes = 1 << 16,
                                  .max_json_depth = 32,
                                  .max_json_nodes = 4096,
                                  .max_choices = 8,
                                  .max_prompts = 8,
                                  .max_messages = 64,
                                  .max_stop_bytes = 64,
                                  .max_grammar_bytes = 4096,
                                  .max_answer_bytes = 1 << 16,
                                  .max_image_bytes = 1 << 14,
                                  .max_image_pixels = 1 << 16,
                                  .max_images = 4,
                                  .max_controls = 2,
                                  .max_jobs = 4,
                                  .max_jobs_bytes = 1 << 18,
                                  .job_ttl_s = 1,
                                  .version = "fuzz"};
    struct err e = {0};
    log_init(LOG_OFF, false);
    check(api_open(&api, &o, &e) == 0);
    api_models_ready(api);
}

/* What a model begins with that enlarges, or a network. */
static void check_small(const uint8_t *rgb, int width, int height)
{
    unsigned sum = 0; /* every byte is there */
    for (int i = 0; i < 3 * width * height; i++)
        sum += rgb[i];
    check(width > 0 && height > 0 && sum <= 255u * 3 * (unsigned)(width * height));
}

static void check_enlarged(const struct image_spec *s)
{
    const struct image_card *c = &fake_enlarger;
    check(s->n >= 1 && s->n <= 4 && s->steps >= 0 && s->steps <= c->steps_max);
    check(s->width % 4 == 0 && s->height % 4 == 0 && s->init == NULL && s->mask == NULL);
    check(s->noise_level >= -1 && s->noise_level <= c->noise_level_max);
    check(s->prompt != NULL && s->model != NULL && s->n_controls == 0);
    check_small(s->small, s->width / 4, s->height / 4);
}

/* Whatever the request said, the engine may rely on this. */
static void check_spec(const struct image_spec *s)
{
    const struct image_card *c = &fake_image;
    check(s->n >= 1 && s->n <= 4 && s->steps >= 0 && s->steps <= c->steps_max);
    check(s->width >= c->size_min && s->width <= c->size_max && s->width % c->size_step == 0);
    check(s->height >= c->size_min && s->height <= c->size_max && s->height % c->size_step == 0);
    check(s->prompt != NULL && s->model != NULL);
    check(isnan(s->strength) || (s->strength >= 0 && s->strength <= 1));
    check(s->mask == NULL || s->init != NULL);
    const struct step_cache_spec *kept = &s->step_cache;
    check(kept->kind != STEP_CACHE_DEEPCACHE || (kept->interval >= 2 && kept->interval <= 100 &&
                                                 kept->branch >= 0 && kept->branch <= 200));
    check(kept->kind != STEP_CACHE_FIRST_BLOCK || (kept->threshold > 0 && kept->threshold <= 10));
    check(s->n_controls >= 0 && s->n_controls <= 2);
    unsigned sum = 0; /* every byte is there */
    for (int i = 0; i < s->n_controls; i++) {
        const struct control_spec *k = &s->controls[i];
        check(k->model != NULL && k->width == s->width && k->height == s->height);
        check(k->start >= 0 && k->start < k->end && k->end <= 1 && k->scale >= 0);
        for (int at = 0; at < k->width * k->height; at++)
            sum += k->picture[3 * at + 2] + (k->hidden != NULL ? k->hidden[at] : 0u);
    }
    check(sum <= 2u * (unsigned)(s->width * s->height) * 510);
    sum = 0;
    for (int i = 0; s->init != NULL && i < s->width * s->height; i++)
        sum += s->init[3 * i + 2] + (s->mask != NULL ? s->mask[i] : 0u);
    check(sum <= (unsigned)(s->width * s->height) * 510);
}

static void paint(struct api_call *c)
{
    fake_progress(0, 1, 2);
    for (int i = 0; i < fake_job->image.n; i++)
        fake_picture(i, -1);
    fake_emit(EV_DONE);
    for (int i = 0; i < 100 && c->state == API_RUNNING; i++) {
        api_pump(c, INT64_MAX);
        if (!c->work)
            continue;
        c->work = false;
        api_work(c);
        api_worked(c);
    }
    check(c->state == API_DONE && c->status == 200);
}

static void start_work(void *ctx, struct api_call *c)
{
    (void)ctx;
    c->work = false;
    api_work(c);
    api_worked(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const paths[] = {"/v1/images/generations", "/v1/images/edits",
                                        "/v1/images/variations"};
    if (api == NULL)
        start();
    if (size == 0)
        return 0;
    struct err e = {0};
    static const char *const webui[] = {"/sdapi/v1/txt2img", "/sdapi/v1/img2img",
                                        "/sdapi/v1/png-info", "/sdapi/v1/extra-single-image",
                                        "/sdapi/v1/options"};
    const char *path = data[0] & 16  ? webui[data[0] % 5]
                       : data[0] & 8 ? "/v1/images/upscale"
                                     : paths[data[0] % 3];
    const struct api_request rq = {
        .route = api_route("POST", path, NULL, &e),
        .path = path,
        .body = (const char *)data + 1,
        .body_len = size - 1,
        .content_type = data[0] & 64 ? "application/json" : "multipart/form-data; boundary=XX",
        .owner = data[0] & 1};
    job_unref(fake_job);
    fake_job = NULL;
    struct api_call *c = api_adopt(api, api_begin(api, &rq), rq.owner);
    const struct upscale_spec *u = fake_job != NULL ? &fake_job->upscale : NULL;
    if (fake_job != NULL && fake_job->kind == JOB_UPSCALE)
        check_small(u->rgb, u->width, u->height);
    else if (fake_job != NULL && fake_job->image.small != NULL)
        check_enlarged(&fake_job->image);
    else if (fake_job != NULL)
        check_spec(&fake_job->image);
    if (c->state == API_RUNNING && data[0] & 128)
        paint(c);
    check(c->state == API_RUNNING || (c->status >= 200 && c->status <= 599 && c->out.len > 0));
    api_end(c);
    if (fake_job != NULL && data[0] & 32)
        fake_emit(EV_ERROR);
    api_jobs_pump(api, INT64_MAX, start_work, NULL);
    return 0;
}
