/* The images routes without a server and without a model: fields and pictures to a job, its events to
 * answers, streams and background jobs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/api.h"
#include "base/base64.h"
#include "base/codec.h"
#include "base/json.h"
#include "base/log.h"
#include "tests/unit/fake_engine.h"

static struct api *api;
static struct json_limits wide = {.max_bytes = 1 << 26, .max_depth = 64, .max_nodes = 100000};
enum { ALICE = 1, BOB = 2 };

static int open_api(void **state)
{
    (void)state;
    struct err e = {0};
    const struct api_options o = {.max_body_bytes = 1 << 16,
                                  .max_json_depth = 32,
                                  .max_json_nodes = 4096,
                                  .max_choices = 8,
                                  .max_prompts = 8,
                                  .max_messages = 64,
                                  .max_grammar_bytes = 4096,
                                  .max_stop_bytes = 64,
                                  .max_answer_bytes = 1 << 16,
                                  .max_image_bytes = 1 << 18,
                                  .max_image_pixels = 1 << 18,
                                  .max_images = 8,
                                  .max_jobs = 3,
                                  .max_jobs_bytes = 1 << 20,
                                  .job_ttl_s = 1,
                                  .version = "0"};
    log_init(LOG_OFF, false);
    assert_int_equal(api_open(&api, &o, &e), 0);
    api_models_ready(api);
    return 0;
}

static int close_api(void **state)
{
    (void)state;
    api_close(api);
    job_unref(fake_job);
    return 0;
}

/* ---- Requests ---- */

static struct api_call *call(const char *method, const char *path, const char *type,
                             const char *body, size_t n, int owner)
{
    struct err e = {0};
    const struct api_request rq = {.route = api_route(method, path, NULL, &e),
                                   .path = path,
                                   .body = body,
                                   .body_len = n,
                                   .content_type = type,
                                   .owner = owner};
    assert_non_null(rq.route);
    return api_adopt(api, api_begin(api, &rq), owner);
}

static struct api_call *post(const char *path, const char *body)
{
    return call("POST", path, "application/json", body, strlen(body), ALICE);
}

static struct api_call *generate(const char *body)
{
    return post("/v1/images/generations", body);
}

/* As the server does it, but that the worker is this thread. */
static void pump(struct api_call *c)
{
    do {
        api_pump(c, INT64_MAX);
        if (c->work) {
            c->work = false;
            assert_false(api_pump(c, INT64_MAX)); /* not while a worker has it */
            api_work(c);
            api_worked(c);
        }
    } while (c->more || (c->state == API_RUNNING && api_pump(c, INT64_MAX)) || c->work);
}

static void start_work(void *ctx, struct api_call *c)
{
    (void)ctx;
    c->work = false;
    api_work(c);
    api_worked(c);
}

static void pump_jobs(void)
{
    for (int i = 0; i < 20; i++)
        assert_false(api_jobs_pump(api, INT64_MAX, start_work, NULL));
}

static struct cJSON *answer(struct api_call *c, int status)
{
    struct cJSON *doc = NULL;
    struct err e = {0};
    if (c->status != status)
        fail_msg("status %d: %.300s", c->status, buf_str(&c->out));
    assert_int_equal(c->state, API_DONE);
    assert_int_equal(json_parse(&doc, c->out.data, c->out.len, &wide, &e), 0);
    api_end(c);
    return doc;
}

static struct cJSON *get(const char *path, int owner, int status)
{
    return answer(call("GET", path, NULL, "", 0, owner), status);
}

static void refused(struct api_call *c, int status, const char *param)
{
    struct cJSON *doc = answer(c, status);
    const struct cJSON *e = json_get(doc, "error");
    const char *have = json_str(json_get(e, "param"));
    if (param != NULL && (have == NULL || strcmp(have, param) != 0))
        fail_msg("blames %s, not %s: %s", have ? have : "nothing", param,
                 json_str(json_get(e, "message")));
    json_free(doc);
}

/* ---- Forms ---- */

static struct buf form;

static void field(const char *name, const char *value)
{
    buf_printf(&form, "--XX\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n", name,
               value);
}

static void file(const char *name, const void *data, size_t n)
{
    buf_printf(&form,
               "--XX\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"a.png\"\r\n"
               "Content-Type: image/png\r\n\r\n",
               name);
    buf_add(&form, data, n);
    buf_adds(&form, "\r\n");
}

/* A gray picture, or one with alpha: transparent in its right half. */
static void picture(const char *name, int width, int height, bool alpha)
{
    struct image im;
    struct err e = {0};
    struct buf png;
    buf_init(&png, 1 << 20);
    assert_int_equal(image_init(&im, width, height, alpha ? 4 : 3, &e), 0);
    memset(im.data, 200, image_bytes(&im));
    for (int i = 0; alpha && i < width * height; i++)
        im.data[4 * i + 3] = i % width < width / 2 ? 255 : 0;
    const struct codec_options o = {.format = CODEC_PNG};
    assert_int_equal(codec_encode(&png, &im, &o, &e), 0);
    file(name, png.data, png.len);
    image_free(&im);
    buf_free(&png);
}

static struct api_call *send_form(const char *path)
{
    buf_adds(&form, "--XX--\r\n");
    struct api_call *c =
        call("POST", path, "multipart/form-data; boundary=XX", form.data, form.len, ALICE);
    buf_clear(&form);
    return c;
}

static struct api_call *edit(void)
{
    field("prompt", "a cat");
    return send_form("/v1/images/edits");
}

/* ---- Tests ---- */

static void every_field_reaches_the_job(void **state)
{
    (void)state;
    struct api_call *c = generate(
        "{\"prompt\":\"a \\\"cat\\\"\",\"negative_prompt\":\"dog\",\"n\":3,\"size\":\"128x64\","
        "\"steps\":11,\"guidance_scale\":3.5,\"guidance_rescale\":0.5,\"scheduler\":\"dpmpp_2m_"
        "karras\",\"seed\":42,\"rng\":\"cuda\",\"clip_skip\":2,\"eta\":0.25,\"user\":\"x\","
        "\"quality\":\"hd\",\"style\":\"vivid\",\"moderation\":\"low\",\"background\":\"auto\","
        "\"output_format\":\"png\",\"response_format\":\"b64_json\",\"model\":\"painter\"}");
    assert_int_equal(c->state, API_RUNNING);
    const struct image_spec *s = &fake_job->image;
    assert_int_equal(fake_job->kind, JOB_IMAGE);
    assert_string_equal(s->prompt, "a \"cat\"");
    assert_string_equal(s->negative_prompt, "dog");
    assert_string_equal(s->model, "painter");
    assert_int_equal(s->n, 3);
    assert_int_equal(s->width, 128);
    assert_int_equal(s->height, 64);
    assert_int_equal(s->steps, 11);
    assert_float_equal(s->guidance_scale, 3.5, 0);
    assert_float_equal(s->guidance_rescale, 0.5, 0);
    assert_int_equal(s->scheduler, NOISE_DPMPP_2M);
    assert_int_equal(s->sigmas, NOISE_SIGMAS_KARRAS);
    assert_int_equal(s->seed, 42);
    assert_int_equal(s->rng, IMAGE_RNG_CUDA);
    assert_int_equal(s->clip_skip, 2);
    assert_float_equal(s->eta, 0.25, 0);
    assert_int_equal(s->partial_images, 0);
    assert_null(s->init);
    api_end(c);
    assert_true(job_cancelled(fake_job));
}

static void what_is_not_given_is_the_models(void **state)
{
    (void)state;
    api_end(generate("{\"prompt\":\"x\",\"size\":\"auto\",\"seed\":-1,\"steps\":null}"));
    const struct image_spec *s = &fake_job->image;
    assert_int_equal(s->width, 64);
    assert_int_equal(s->steps, 0);
    assert_true(isnan(s->guidance_scale) && isnan(s->eta) && isnan(s->strength));
    assert_int_equal(s->scheduler, 0);
    assert_int_equal(s->clip_skip, -1);
    assert_int_equal(s->rng, IMAGE_RNG_CPU);
    assert_true(s->seed <= UINT32_MAX);
}

static void a_wrong_field_is_named(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"{}", "prompt"},
        {"{\"prompt\":5}", "prompt"},
        {"{\"prompt\":\"x\",\"n\":0}", "n"},
        {"{\"prompt\":\"x\",\"n\":9}", "n"},
        {"{\"prompt\":\"x\",\"n\":\"2\"}", "n"},
        {"{\"prompt\":\"x\",\"size\":\"big\"}", "size"},
        {"{\"prompt\":\"x\",\"size\":\"64\"}", "size"},
        {"{\"prompt\":\"x\",\"size\":\"64x\"}", "size"},
        {"{\"prompt\":\"x\",\"size\":\"64x64x64\"}", "size"},
        {"{\"prompt\":\"x\",\"size\":\"-64x64\"}", "size"},
        {"{\"prompt\":\"x\",\"size\":\"999999999999x64\"}", "size"},
        {"{\"prompt\":\"x\",\"size\":\"65x64\"}", "size"},
        {"{\"prompt\":\"x\",\"size\":\"8x64\"}", "size"},
        {"{\"prompt\":\"x\",\"size\":\"512x64\"}", "size"},
        {"{\"prompt\":\"x\",\"size\":\"256x256\",\"n\":8}", "size"},
        {"{\"prompt\":\"x\",\"size\":64}", "size"},
        {"{\"prompt\":\"x\",\"response_format\":\"ftp\"}", "response_format"},
        {"{\"prompt\":\"x\",\"output_format\":\"gif\"}", "output_format"},
        {"{\"prompt\":\"x\",\"output_format\":7}", "output_format"},
        {"{\"prompt\":\"x\",\"output_compression\":101}", "output_compression"},
        {"{\"prompt\":\"x\",\"output_compression\":50}", "output_compression"},
        {"{\"prompt\":\"x\",\"stream\":\"yes\"}", "stream"},
        {"{\"prompt\":\"x\",\"partial_images\":1}", "partial_images"},
        {"{\"prompt\":\"x\",\"stream\":true,\"partial_images\":99}", "partial_images"},
        {"{\"prompt\":\"x\",\"stream\":true,\"background\":true}", "stream"},
        {"{\"prompt\":\"x\",\"background\":\"transparent\"}", "background"},
        {"{\"prompt\":\"x\",\"background\":\"green\"}", "background"},
        {"{\"prompt\":\"x\",\"background\":1}", "background"},
        {"{\"prompt\":\"x\",\"moderation\":\"high\"}", "moderation"},
        {"{\"prompt\":\"x\",\"quality\":\"best\"}", "quality"},
        {"{\"prompt\":\"x\",\"quality\":\"\"}", "quality"},
        {"{\"prompt\":\"x\",\"style\":\"dull\"}", "style"},
        {"{\"prompt\":\"x\",\"user\":5}", "user"},
        {"{\"prompt\":\"x\",\"steps\":0}", "steps"},
        {"{\"prompt\":\"x\",\"steps\":101}", "steps"},
        {"{\"prompt\":\"x\",\"num_inference_steps\":1.5}", "num_inference_steps"},
        {"{\"prompt\":\"x\",\"guidance_scale\":-1}", "guidance_scale"},
        {"{\"prompt\":\"x\",\"guidance_rescale\":2}", "guidance_rescale"},
        {"{\"prompt\":\"x\",\"scheduler\":\"magic\"}", "scheduler"},
        {"{\"prompt\":\"x\",\"seed\":-2}", "seed"},
        {"{\"prompt\":\"x\",\"rng\":\"dice\"}", "rng"},
        {"{\"prompt\":\"x\",\"clip_skip\":12}", "clip_skip"},
        {"{\"prompt\":\"x\",\"eta\":1.5}", "eta"},
        {"{\"prompt\":\"x\",\"negative_prompt\":[]}", "negative_prompt"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(generate(bad[i][0]), 400, bad[i][1]);
    refused(generate("{\"prompt\":\"x\",\"model\":\"nobody\"}"), 404, "model");
    refused(post("/v1/chat/completions", "{\"messages\":[],\"model\":\"painter\"}"), 400, "model");
    fake_refusal = ERR_BUSY;
    refused(generate("{\"prompt\":\"x\"}"), 429, NULL);
    fake_refusal = 0;
}

static void b64_is_the_picture(const char *text, int value, int width, struct buf *png)
{
    struct image im;
    struct err e = {0};
    const struct codec_limits lim = {1 << 20, 1 << 20};
    assert_non_null(text);
    buf_clear(png);
    assert_int_equal(base64_decode(png, text, strlen(text)), 0);
    assert_int_equal(codec_decode(&im, png->data, png->len, &lim, &e), 0);
    assert_int_equal(im.width, width);
    assert_true(abs(im.data[0] - value) < 3);
    image_free(&im);
}

static void an_answer_has_what_openai_has_and_the_seeds(void **state)
{
    (void)state;
    struct buf png;
    buf_init(&png, 1 << 20);
    struct api_call *c =
        generate("{\"prompt\":\"a cat\",\"negative_prompt\":\"dog\",\"n\":2,\"seed\":70}");
    fake_progress(0, 1, 20);
    fake_picture(1, -1); /* in any order */
    fake_picture(0, -1);
    fake_emit(EV_DONE);
    pump(c);
    assert_int_equal(c->prompt_tokens, 7);
    struct cJSON *doc = answer(c, 200);
    assert_int_equal(json_num(json_get(doc, "seed")), 70);
    assert_true(json_num(json_get(doc, "created")) > 1e9);
    assert_string_equal(json_str(json_get(doc, "size")), "64x64");
    assert_string_equal(json_str(json_get(doc, "output_format")), "png");
    const struct cJSON *usage = json_get(doc, "usage");
    assert_int_equal(json_num(json_get(usage, "input_tokens")), 7);
    assert_int_equal(json_num(json_get(usage, "output_tokens")), 32);
    assert_int_equal(json_num(json_get(usage, "total_tokens")), 39);
    const struct cJSON *first = json_first(json_get(doc, "data")), *second = json_next(first);
    assert_int_equal(json_num(json_get(second, "seed")), 71);
    b64_is_the_picture(json_str(json_get(second, "b64_json")), 71, 64, &png);
    b64_is_the_picture(json_str(json_get(first, "b64_json")), 70, 64, &png);
    static const char text[] =
        "parameters\0a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler, "
        "CFG scale: 7.5, Seed: 70, Size: 64x64, Model: painter";
    assert_non_null(memmem(png.data, png.len, text, sizeof text - 1));
    json_free(doc);
    buf_free(&png);
}

static void jpeg_and_webp_and_data_urls_can_be_had(void **state)
{
    (void)state;
    struct buf file_bytes;
    buf_init(&file_bytes, 1 << 20);
    for (int i = 0; i < 2; i++) {
        const char *format = i ? "webp" : "jpeg";
        char body[200], prefix[40];
        snprintf(body, sizeof body,
                 "{\"prompt\":\"x\",\"output_format\":\"%s\",\"output_compression\":60,"
                 "\"response_format\":\"url\",\"seed\":9}",
                 format);
        snprintf(prefix, sizeof prefix, "data:image/%s;base64,", format);
        struct api_call *c = generate(body);
        fake_picture(0, -1);
        fake_emit(EV_DONE);
        pump(c);
        struct cJSON *doc = answer(c, 200);
        const char *url = json_str(json_get(json_first(json_get(doc, "data")), "url"));
        assert_memory_equal(url, prefix, strlen(prefix));
        b64_is_the_picture(url + strlen(prefix), 9, 64, &file_bytes);
        json_free(doc);
    }
    buf_free(&file_bytes);
}

static void a_stream_has_openais_events(void **state)
{
    (void)state;
    struct api_call *c =
        generate("{\"prompt\":\"x\",\"stream\":true,\"partial_images\":2,\"seed\":3}");
    fake_progress(0, 1, 20);
    pump(c);
    assert_int_equal(c->status, 0); /* nothing was promised yet */
    fake_picture(0, 0);
    pump(c);
    assert_int_equal(c->status, 200);
    assert_string_equal(c->content_type, "text/event-stream");
    static const char head[] = "event: image_generation.partial_image\ndata: {\"type\":"
                               "\"image_generation.partial_image\",\"b64_json\":\"iVBOR";
    assert_memory_equal(c->out.data, head, sizeof head - 1);
    assert_non_null(strstr(c->out.data, "\"partial_image_index\":0"));
    buf_clear(&c->out);
    fake_picture(0, -1);
    fake_emit(EV_DONE);
    pump(c);
    assert_int_equal(c->state, API_DONE);
    assert_memory_equal(c->out.data, "event: image_generation.completed\n", 34);
    assert_non_null(strstr(c->out.data, "\"usage\":{\"input_tokens\":7"));
    assert_null(strstr(c->out.data, "[DONE]"));
    api_end(c);
}

static void an_error_ends_a_stream_or_is_the_answer(void **state)
{
    (void)state;
    struct api_call *c = generate("{\"prompt\":\"x\",\"stream\":true}");
    fake_emit(EV_ERROR);
    pump(c);
    refused(c, 500, NULL);
    c = generate("{\"prompt\":\"x\",\"stream\":true,\"partial_images\":1}");
    fake_picture(0, 0);
    fake_emit(EV_ERROR);
    pump(c);
    assert_int_equal(c->status, 200);
    assert_non_null(strstr(c->out.data, "\n\ndata: {\"error\":"));
    api_end(c);
}

static void a_call_may_end_while_a_worker_has_it(void **state)
{
    (void)state;
    struct api_call *c = generate("{\"prompt\":\"x\"}");
    fake_picture(0, -1);
    api_pump(c, INT64_MAX);
    assert_true(c->work);
    c->work = false; /* the worker has it ... */
    api_end(c);      /* ... and its client has left */
    assert_true(job_cancelled(fake_job));
    api_work(c);
    api_worked(c); /* frees it: the sanitizers see to that */
    c = generate("{\"prompt\":\"x\"}");
    fake_picture(0, -1);
    api_pump(c, INT64_MAX);
    api_end(c); /* the worker had not begun */
}

/* ---- Pictures that come along ---- */

static void an_edit_brings_its_picture(void **state)
{
    (void)state;
    picture("image[]", 128, 32, false);
    field("n", "2");
    field("strength", "0.25");
    field("stream", "true");
    field("seed", "5");
    field("model", "");
    field("size", "");
    struct api_call *c = edit();
    assert_int_equal(c->state, API_RUNNING);
    const struct image_spec *s = &fake_job->image;
    assert_true(c->stream);
    assert_int_equal(s->n, 2);
    assert_int_equal(s->width, 128); /* auto: the area is that of training */
    assert_int_equal(s->height, 32);
    assert_float_equal(s->strength, 0.25, 0);
    assert_int_equal(s->seed, 5);
    assert_string_equal(s->prompt, "a cat");
    assert_non_null(s->init);
    assert_null(s->mask);
    assert_int_equal(s->init[0], 200);
    assert_int_equal(s->init[128 * 32 * 3 - 1], 200);
    fake_picture(0, -1);
    pump(c);
    assert_memory_equal(c->out.data, "event: image_edit.completed\n", 28);
    api_end(c);
}

static void an_alpha_mask_and_a_white_one_say_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        picture("image", 64, 64, i == 2); /* the last time the picture is its own mask */
        if (i < 2)
            picture("mask", 64, 64, true);
        if (i == 1)
            field("mask_mode", "white"); /* all of it is light gray */
        api_end(edit());
        const struct image_spec *s = &fake_job->image;
        assert_non_null(s->mask);
        assert_int_equal(s->mask[10 * 64 + 5], i == 1 ? 255 : 0);
        assert_int_equal(s->mask[10 * 64 + 60], 255);
    }
}

static void what_is_not_masked_can_be_kept(void **state)
{
    (void)state;
    for (int keep = 0; keep < 2; keep++) {
        struct image im;
        struct err e = {0};
        struct buf bytes;
        const struct codec_limits lim = {1 << 20, 1 << 20};
        buf_init(&bytes, 1 << 20);
        picture("image", 64, 64, false);
        picture("mask", 64, 64, true);
        field("seed", "90");
        field("keep_unmasked", keep ? "true" : "false");
        struct api_call *c = edit();
        fake_picture(0, -1);
        fake_emit(EV_DONE);
        pump(c);
        struct cJSON *doc = answer(c, 200);
        const char *text = json_str(json_get(json_first(json_get(doc, "data")), "b64_json"));
        assert_int_equal(base64_decode(&bytes, text, strlen(text)), 0);
        assert_int_equal(codec_decode(&im, bytes.data, bytes.len, &lim, &e), 0);
        assert_int_equal(im.data[0], keep ? 200 : 90);
        assert_int_equal(im.data[63 * 3], 90);
        image_free(&im);
        json_free(doc);
        buf_free(&bytes);
    }
}

static void sizes_of_pictures_are_fitted(void **state)
{
    (void)state;
    static const int cases[][4] = {{300, 300, 64, 64},
                                   {40, 30, 40, 32},
                                   {400, 100, 128, 32},
                                   {1, 1, 16, 16},
                                   {2000, 1, 256, 16}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        picture("image", cases[i][0], cases[i][1], false);
        api_end(edit());
        assert_int_equal(fake_job->image.width, cases[i][2]);
        assert_int_equal(fake_job->image.height, cases[i][3]);
    }
    picture("image", 10, 10, false);
    field("size", "96x24");
    api_end(edit());
    assert_int_equal(fake_job->image.width, 96);
    assert_int_equal(fake_job->image.height, 24);
}

static void pictures_that_are_none_are_refused(void **state)
{
    (void)state;
    refused(edit(), 400, "image");
    file("image", "GIF89a...", 9);
    refused(edit(), 400, "image");
    file("image", "", 0);
    refused(edit(), 400, "image");
    picture("image", 1000, 1000, false);
    refused(edit(), 400, "image");
    picture("image", 64, 64, false);
    picture("image", 64, 64, false);
    refused(edit(), 400, "image");
    picture("image", 64, 64, false);
    picture("mask", 32, 64, true);
    refused(edit(), 400, "mask");
    picture("image", 64, 64, false);
    picture("mask", 64, 64, false);
    refused(edit(), 400, "mask"); /* no transparency, and not said to be a white one */
    picture("image", 64, 64, false);
    field("n", "two");
    refused(edit(), 400, "n");
    picture("image", 64, 64, false);
    file("prompt", "a file", 6);
    refused(send_form("/v1/images/edits"), 400, "prompt");
    picture("image", 64, 64, false);
    field("prompt", "a");
    refused(edit(), 400, NULL); /* twice */
    refused(call("POST", "/v1/images/edits", "multipart/form-data; boundary=XX", "--XX\r\n", 6, 0),
            400, NULL);
    refused(call("POST", "/v1/images/edits", NULL, "", 0, 0), 400, NULL);
}

static void variations_need_no_prompt(void **state)
{
    (void)state;
    picture("image", 64, 64, false);
    api_end(send_form("/v1/images/variations"));
    assert_string_equal(fake_job->image.prompt, "");
    assert_float_equal(fake_job->image.strength, 0.5, 0);
    assert_non_null(fake_job->image.init);
}

static void pictures_may_come_as_json(void **state)
{
    (void)state;
    struct image im;
    struct err e = {0};
    struct buf png, text;
    buf_init(&png, 1 << 16);
    buf_init(&text, 1 << 16);
    assert_int_equal(image_init(&im, 32, 32, 3, &e), 0);
    const struct codec_options o = {.format = CODEC_PNG};
    assert_int_equal(codec_encode(&png, &im, &o, &e), 0);
    static const char *const shapes[][2] = {{"\"image\":\"", "\""},
                                            {"\"image\":[\"data:image/png;base64,", "\"]"},
                                            {"\"images\":[{\"image_url\":\"data:;base64,", "\"}]"}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        buf_clear(&text);
        buf_printf(&text, "{\"prompt\":\"x\",%s", shapes[i][0]);
        base64_encode(&text, png.data, png.len);
        buf_printf(&text, "%s}", shapes[i][1]);
        struct api_call *c = post("/v1/images/edits", buf_str(&text));
        assert_int_equal(c->state, API_RUNNING);
        assert_int_equal(fake_job->image.width, 32);
        api_end(c);
    }
    static const char *const bad[] = {"{\"prompt\":\"x\",\"image\":\"https://x.org/a.png\"}",
                                      "{\"prompt\":\"x\",\"image\":\"???\"}",
                                      "{\"prompt\":\"x\",\"image\":5}",
                                      "{\"prompt\":\"x\",\"image\":[]}",
                                      "{\"prompt\":\"x\",\"image\":{\"file_id\":\"a\"}}",
                                      "{\"prompt\":\"x\",\"image\":[\"a\",\"b\"]}",
                                      "{\"prompt\":\"x\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(post("/v1/images/edits", bad[i]), 400, "image");
    image_free(&im);
    buf_free(&png);
    buf_free(&text);
}

/* ---- Jobs ---- */

static char job_id[64];

static const char *begin_job(void)
{
    static char path[96];
    struct cJSON *doc = answer(
        generate("{\"prompt\":\"x\",\"background\":true,\"partial_images\":1,\"seed\":8}"), 202);
    assert_string_equal(json_str(json_get(doc, "status")), "queued");
    snprintf(job_id, sizeof job_id, "%s", json_str(json_get(doc, "id")));
    snprintf(path, sizeof path, "/v1/jobs/%s", job_id);
    json_free(doc);
    return path;
}

static void remove_job(const char *path, int owner, int status)
{
    json_free(answer(call("DELETE", path, NULL, "", 0, owner), status));
}

static int count_jobs(int owner)
{
    struct cJSON *doc = get("/v1/jobs", owner, 200);
    int n = json_size(json_get(doc, "data"));
    json_free(doc);
    return n;
}

static void a_job_tells_how_far_it_is_and_keeps_its_answer(void **state)
{
    (void)state;
    const char *path = begin_job();
    struct cJSON *doc = get(path, ALICE, 200);
    assert_string_equal(json_str(json_get(doc, "status")), "queued");
    json_free(doc);
    fake_progress(0, 0, 20); /* it begins */
    pump_jobs();
    doc = get(path, ALICE, 200);
    assert_string_equal(json_str(json_get(doc, "status")), "running");
    assert_int_equal(json_num(json_get(json_get(doc, "progress"), "n_steps")), 20);
    json_free(doc);
    fake_progress(0, 5, 20);
    fake_picture(0, 0);
    pump_jobs();
    doc = get(path, ALICE, 200);
    assert_string_equal(json_str(json_get(doc, "status")), "running");
    const struct cJSON *p = json_get(doc, "progress");
    assert_int_equal(json_num(json_get(p, "step")), 5);
    assert_int_equal(json_num(json_get(p, "n_steps")), 20);
    const struct cJSON *preview = json_get(doc, "preview");
    assert_int_equal(json_num(json_get(preview, "step")), 5);
    assert_non_null(json_str(json_get(preview, "b64_json")));
    json_free(doc);
    fake_progress(0, 10, 20);
    pump_jobs();
    doc = get(path, ALICE, 200);
    assert_true(json_num(json_get(json_get(doc, "progress"), "eta_s")) >= 0);
    json_free(doc);
    fake_picture(0, -1);
    fake_emit(EV_DONE);
    pump_jobs();
    doc = get(path, ALICE, 200);
    assert_string_equal(json_str(json_get(doc, "status")), "completed");
    const struct cJSON *result = json_get(doc, "result");
    assert_int_equal(json_num(json_get(result, "seed")), 8);
    assert_int_equal(json_size(json_get(result, "data")), 1);
    json_free(doc);
    remove_job(path, ALICE, 200);
    json_free(get(path, ALICE, 404));
}

static void a_job_belongs_to_its_key(void **state)
{
    (void)state;
    const char *path = begin_job();
    json_free(get(path, BOB, 404));
    remove_job(path, BOB, 404);
    assert_int_equal(count_jobs(BOB), 0);
    assert_int_equal(count_jobs(ALICE), 1);
    assert_false(job_cancelled(fake_job));
    remove_job(path, ALICE, 200);
    assert_true(job_cancelled(fake_job));
    assert_int_equal(count_jobs(ALICE), 0);
}

static void a_job_that_fails_says_why(void **state)
{
    (void)state;
    const char *path = begin_job();
    fake_emit(EV_ERROR);
    pump_jobs();
    struct cJSON *doc = get(path, ALICE, 200);
    assert_string_equal(json_str(json_get(doc, "status")), "failed");
    assert_non_null(json_str(json_get(json_get(doc, "error"), "message")));
    json_free(doc);
    remove_job(path, ALICE, 200);
    refused(generate("{\"background\":true}"), 400, "prompt");
}

static void the_table_of_jobs_is_bounded(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        begin_job();
    refused(generate("{\"prompt\":\"x\",\"background\":true}"), 429, NULL);
    assert_int_equal(count_jobs(ALICE), 3);
    /* a finished one makes room */
    struct cJSON *doc = get("/v1/jobs", ALICE, 200);
    char path[96];
    snprintf(path, sizeof path, "/v1/jobs/%s",
             json_str(json_get(json_first(json_get(doc, "data")), "id")));
    json_free(doc);
    remove_job(path, ALICE, 200);
    begin_job();
    fake_emit(EV_ERROR);
    pump_jobs();
    begin_job();
    assert_int_equal(count_jobs(ALICE), 3);
    api_jobs_expire(api);
    assert_int_equal(count_jobs(ALICE), 3); /* those that run are never too old */
    api_jobs_cancel(api);
    assert_true(job_cancelled(fake_job));
}

int main(void)
{
    buf_init(&form, 1 << 24);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_reaches_the_job),
        cmocka_unit_test(what_is_not_given_is_the_models),
        cmocka_unit_test(a_wrong_field_is_named),
        cmocka_unit_test(an_answer_has_what_openai_has_and_the_seeds),
        cmocka_unit_test(jpeg_and_webp_and_data_urls_can_be_had),
        cmocka_unit_test(a_stream_has_openais_events),
        cmocka_unit_test(an_error_ends_a_stream_or_is_the_answer),
        cmocka_unit_test(a_call_may_end_while_a_worker_has_it),
        cmocka_unit_test(an_edit_brings_its_picture),
        cmocka_unit_test(an_alpha_mask_and_a_white_one_say_the_same),
        cmocka_unit_test(what_is_not_masked_can_be_kept),
        cmocka_unit_test(sizes_of_pictures_are_fitted),
        cmocka_unit_test(pictures_that_are_none_are_refused),
        cmocka_unit_test(variations_need_no_prompt),
        cmocka_unit_test(pictures_may_come_as_json),
        cmocka_unit_test(a_job_tells_how_far_it_is_and_keeps_its_answer),
        cmocka_unit_test(a_job_belongs_to_its_key),
        cmocka_unit_test(a_job_that_fails_says_why),
        cmocka_unit_test(the_table_of_jobs_is_bounded),
    };
    int rc = cmocka_run_group_tests_name("api/images", tests, open_api, close_api);
    buf_free(&form);
    return rc;
}
