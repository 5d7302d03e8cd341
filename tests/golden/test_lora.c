/* Adapters of tiny models against diffusers (tools/make_lora_golden.py): whole pictures with LoRAs under the names of
 * each of their writers, several with scales, and embeddings, all submitted at once so that they share
 * passes; and the numbers behind them, hidden states and one answer of the UNet.
 *
 *     BACKEND, ACTIVATIONS    see device.h
 *
 * SDXL's adapter of the fixtures is hard on any rounding: with it f32's error is eight times as large as without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/diffusion.h"
#include "engine/models/image_adapter.h"
#include "kernels/team.h"
#include "tests/engine_ready.h"
#include "tests/golden/device.h"
#include "tests/golden/near.h"

#define DIR "tests/fixtures/"

enum { CASES_MAX = 32, SIDE = 8 };
static const double bound = 1e-3;
static const double xl_lost_db = 15; /* that halves may lose by SDXL's adapter; measured 13 */

struct picture_case {
    char name[64];
    const uint8_t *expected; /* [height, width, 3] */
    struct job *job;
    struct lora_ref loras[JOB_LORAS_MAX];
    double error2; /* mean square; -1: no picture yet */
};

static struct file json_file, pictures;
static struct cJSON *doc;
static struct picture_case cases[CASES_MAX];
static int n_cases;

static void must(int rc, const struct err *e)
{
    if (rc != 0)
        fail_msg("%d: %s", rc, e->msg);
}

static struct engine *open_engine(void)
{
    const struct engine_model models[] = {{.id = "sd15", .path = DIR "sd_sd15"},
                                          {.id = "sdxl", .path = DIR "sd_sdxl"}};
    const struct engine_options o = {.device = golden_device(),
                                     .activations = golden_activations(),
                                     .graphs = true,
                                     .n_threads = 2,
                                     .n_models = sizeof models / sizeof *models,
                                     .models = models,
                                     .cache_bytes = (size_t)1 << 28,
                                     .lora_dir = DIR "lora",
                                     .max_images = 16};
    return engine_ready(&o);
}

static double number(const struct cJSON *o, const char *key, double otherwise)
{
    const struct cJSON *v = json_get(o, key);
    return v ? json_num(v) : otherwise;
}

static void read_case(struct picture_case *c, const struct cJSON *o)
{
    snprintf(c->name, sizeof c->name, "%s", json_str(json_get(o, "name")));
    c->error2 = -1;
    c->job = job_new(1 << 16);
    c->job->kind = JOB_IMAGE;
    struct image_spec *s = &c->job->image;
    s->model = json_str(json_get(o, "model"));
    s->prompt = json_str(json_get(o, "prompt"));
    s->negative_prompt = json_str(json_get(o, "negative"));
    s->width = (int)number(o, "width", 0);
    s->height = (int)number(o, "height", 0);
    s->steps = (int)number(o, "steps", 0);
    s->guidance_scale = (float)number(o, "guidance", NAN);
    s->seed = (uint64_t)number(o, "seed", 0);
    s->loras = c->loras;
    const struct cJSON *v = json_first(json_get(o, "loras"));
    for (; v != NULL; v = json_next(v)) {
        const double scale = number(v, "scale", 1);
        c->loras[s->n_loras++] =
            (struct lora_ref){.name = json_str(json_get(v, "name")),
                              .scale = (float)scale,
                              .text_scale = (float)number(v, "text_scale", scale)};
    }
}

static void read_cases(void)
{
    struct err e;
    must(file_open(&json_file, DIR "lora/lora.json", &e), &e);
    must(file_open(&pictures, DIR "lora/lora.bin", &e), &e);
    must(json_parse(&doc, json_file.data, json_file.size, &json_limits_default, &e), &e);
    const uint8_t *at = (const uint8_t *)pictures.data;
    for (const struct cJSON *o = json_first(doc); o; o = json_next(o)) {
        struct picture_case *c = &cases[n_cases++];
        read_case(c, o);
        c->expected = at;
        at += (size_t)c->job->image.width * (size_t)c->job->image.height * 3;
    }
    assert_int_equal(at - (const uint8_t *)pictures.data, pictures.size);
}

/* True when the job has ended. */
static bool poll_job(struct job *j, struct picture_case *c)
{
    struct event *ev;
    bool ended = false;
    while ((ev = job_poll(j)) != NULL) {
        if (ev->kind == EV_ERROR)
            fail_msg("%s: %s", c != NULL ? c->name : "adapter", ev->err.msg);
        ended = ended || ev->kind == EV_DONE;
        if (ev->kind == EV_IMAGE && c != NULL) {
            const size_t n = (size_t)ev->width * (size_t)ev->height * 3;
            double sum = 0;
            for (size_t i = 0; i < n; i++)
                sum += pow((double)ev->rgb[i] - c->expected[i], 2);
            c->error2 = sum / (double)n;
        }
        job_event_free(ev);
    }
    return ended;
}

static void wait_for(struct job *j, struct picture_case *c)
{
    while (!poll_job(j, c))
        pause_ms(2);
}

static void load(struct engine *g, const char *model, const char *name)
{
    struct err e = {0};
    struct job *j = job_new(1 << 10);
    j->kind = JOB_ADAPTER;
    j->adapter = (struct adapter_spec){model, name};
    must(engine_submit(g, j, &e), &e);
    wait_for(j, NULL);
    job_unref(j);
}

static double picture_db(const struct picture_case *c)
{
    const enum dtype type = golden_activations();
    const bool xl = strcmp(c->job->image.model, "sdxl") == 0 && c->job->image.n_loras > 0;
    return golden_picture_db(type) - (type != DTYPE_F32 && xl ? xl_lost_db : 0);
}

static void pictures_are_those_of_diffusers(void **state)
{
    (void)state;
    read_cases();
    struct engine *g = open_engine();
    struct err e = {0};
    int n_bad = 0;
    load(g, "sd15", "redglow");
    load(g, "sd15", "learned");
    load(g, "sdxl", "glow_xl");
    for (int i = 0; i < n_cases; i++)
        must(engine_submit(g, cases[i].job, &e), &e);
    for (int i = 0; i < n_cases; i++) {
        struct picture_case *c = &cases[i];
        wait_for(c->job, c);
        assert_true(c->error2 >= 0);
        const double psnr = c->error2 > 0 ? 10 * log10(255.0 * 255.0 / c->error2) : 99;
        print_message("%-45s %.1f dB\n", c->name, psnr);
        n_bad += psnr < picture_db(c);
    }
    assert_int_equal(n_bad, 0);
    engine_close(g);
    for (int i = 0; i < n_cases; i++)
        job_unref(cases[i].job);
    json_free(doc);
    file_close(&json_file);
    file_close(&pictures);
}

/* ---- tensors ---- */

static void run(struct image_unit *u)
{
    struct err e = {0};
    must(image_run(u, INT64_MAX, &e), &e);
}

static void near(const struct backend *be, bool xl, const char *what, const float *ours,
                 const float *ref, size_t n)
{
    const double least = be->activations == DTYPE_F16 ? NEAR_F16_DB : NEAR_BF16_DB;
    golden_near_db(be->activations, what, ours, ref, n, bound, least - (xl ? xl_lost_db : 0));
}

/* A plain picture and one with adapters in pairs of rows: the bits of rows 0 and 1 of `three`, of n floats each. */
static void check_pairs(const struct diffusion *d, const struct image_unet *three, size_t n)
{
    struct image_unet *u;
    struct err e = {0};
    const struct image_unet_want want = {4, SIDE, SIDE, false, IMAGE_WHOLE, -1, true};
    must(image_unet_open_want(&u, d->model, &want, &e), &e);
    for (int i = 0; i < 4; i++) {
        const size_t place = (size_t)image_unet_row(u, i);
        u->rows[place] = three->rows[i / 2];
        memcpy(u->x + place * n, three->x, n * sizeof(float));
    }
    run(&u->unit);
    for (int i = 0; i < 4; i++)
        assert_memory_equal(u->out + (size_t)image_unet_row(u, i) * n,
                            three->out + (size_t)(i / 2) * n, n * sizeof(float));
    image_close(&u->unit);
}

/* The prompt of the script through text encoders and UNet with one LoRA; returns where the values end. */
static const float *check_tensors(struct backend *be, const char *model, const char *lora,
                                  float scale, const float *ref)
{
    struct err e = {0};
    struct diffusion *d;
    struct image_adapter *a;
    struct arena arena;
    struct diffusion_prompt prompt, negative;
    char path[128];
    snprintf(path, sizeof path, DIR "sd_%s", model);
    must(diffusion_open(&d, path, be, &(const struct diffusion_options){.adapters = true}, &e), &e);
    snprintf(path, sizeof path, DIR "lora/%s.safetensors", lora);
    must(image_adapter_open(&a, d->model, path, &e), &e);
    const struct image_adapters with = {1, {{a, 1, scale, scale}}};
    struct image_spec s = image_spec_default;
    s.prompt = "a photo of the red cat";
    s.guidance_scale = 1;
    arena_init(&arena, 1 << 20);
    must(diffusion_prompts(d, &s, &prompt, &negative, &arena, &e), &e);

    struct image_text *text;
    must(image_text_open(&text, d->model, 0, &e), &e);
    for (int i = 0; i < d->info->n_encoders; i++)
        memcpy(text->ids[i], prompt.ids[i], IMAGE_TOKENS * sizeof(int32_t));
    text->adapters = &with;
    run(&text->unit);
    const size_t n_hidden = IMAGE_TOKENS * (size_t)d->info->context_dim;
    /* text encoders are f32 with any activations */
    golden_near(DTYPE_F32, "hidden", text->hidden, ref, n_hidden, bound);

    struct image_kv *kv;
    must(image_kv_open(&kv, d->model, IMAGE_TOKENS, &e), &e);
    memcpy(kv->context, text->hidden, n_hidden * sizeof(float));
    kv->kv = image_kv_memory(d->model, IMAGE_TOKENS, &e);
    kv->adapters = &with;
    run(&kv->unit);

    /* Beside rows that have none, before and behind: they must not matter. */
    struct image_unet *u;
    must(image_unet_open(&u, d->model, 3, SIDE, SIDE, &e), &e);
    const size_t n = (size_t)SIDE * SIDE * 4;
    for (int i = 0; i < 3; i++) {
        u->rows[i] = (struct image_row){.kv = kv->kv,
                                        .n_tokens = IMAGE_TOKENS,
                                        .timestep = 321,
                                        .pooled = text->pooled,
                                        .time_ids = {64, 64, 0, 0, 64, 64},
                                        .adapters = i == 1 ? &with : NULL};
        for (size_t k = 0; k < n; k++)
            u->x[(size_t)i * n + k] = sinf((float)k);
    }
    run(&u->unit);
    near(be, strcmp(model, "sdxl") == 0, "unet", u->out + n, ref + n_hidden, n);
    assert_memory_equal(u->out, u->out + 2 * n, n * sizeof(float));
    assert_memory_not_equal(u->out, u->out + n, n * sizeof(float));
    if (d->info->has_pairs)
        check_pairs(d, u, n);

    image_close(&u->unit);
    image_kv_free(d->model, kv->kv);
    image_close(&kv->unit);
    image_close(&text->unit);
    image_adapter_close(a);
    arena_free(&arena);
    diffusion_close(d);
    return ref + n_hidden + n;
}

static void tensors_are_those_of_diffusers(void **state)
{
    (void)state;
    struct file f;
    struct err e = {0};
    struct backend *be;
    must(backend_open(&be, golden_device(), 2, &e), &e);
    team_activations(be, golden_activations());
    must(file_open(&f, DIR "lora/tensors.bin", &e), &e);
    float *ref = malloc(f.size);
    memcpy(ref, f.data, f.size);
    const float *at = check_tensors(be, "sd15", "kohya", 0.7f, ref);
    at = check_tensors(be, "sdxl", "kohya_xl", 0.8f, at);
    assert_int_equal((const char *)at - (const char *)ref, f.size);
    free(ref);
    file_close(&f);
    be->close(be);
}

int main(void)
{
    log_init(LOG_ERROR, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_those_of_diffusers),
        cmocka_unit_test(pictures_are_those_of_diffusers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
