/* Whole pictures of tiny models against diffusers (tools/make_pipeline_golden.py): each scheduler, sizes that
 * are not square, negative prompts, guidance, image to image, inpainting, SDXL; all submitted at
 * once, so that they share passes.  And second passes built from its parts (tools/make_passes_golden.py), the
 * x4 upscaler (tools/make_enlarge_golden.py), and step caches (tools/make_cache_golden.py).
 *     BACKEND, ACTIVATIONS, DUETTO_TEST_SHORT    see device.h
 *     TESTS=*controls*                           only tests of such names */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/noise.h"
#include "tests/engine_ready.h"
#include "tests/golden/device.h"
#include "tests/golden/near.h"
#include "tests/golden/seeded.h"
#include "tests/temp_dir.h"

#define DIR "tests/fixtures/"

enum { CASES_MAX = 64, SIDE_MAX = 128, PATH_LEN = 256 };

struct picture_case {
    char name[64];
    const uint8_t *expected; /* [n, height, width, 3] */
    struct job *job;
    bool left_out;
    uint8_t *init, *mask;
    int width, height; /* of the answer */
    struct control_spec controls[JOB_CONTROLS_MAX];
    uint8_t *seen[JOB_CONTROLS_MAX]; /* by the controls */
    int n_images, n_steps;
    double error2[JOB_IMAGES_MAX]; /* mean square */
};

static struct file json_file, pictures;
static struct cJSON *doc;
static struct picture_case cases[CASES_MAX];
static int n_cases;

static struct seeded single; /* the refiner as one file */

static const struct engine_model fixtures[] = {
    {.id = "sd15", .path = DIR "sd_sd15"},
    {.id = "sd21", .path = DIR "sd_sd21"},
    {.id = "sdxl", .path = DIR "sd_sdxl"},
    {.id = "inpaint", .path = DIR "sd_inpaint"},
    {.id = "lcm", .path = DIR "sd_lcm"},
    {.id = "refiner", .path = DIR "sd_refiner"},
    {.id = "single_refiner", .path = single.path, .tokenizer = DIR "sd_sdxl/tokenizer_2"},
    {.id = "upscaler", .path = DIR "sd_upscaler"},
    {.id = "upscaler_epsilon", .path = DIR "sd_upscaler", .prediction = "epsilon"},
    {.id = "control_a", .path = DIR "control_a"},
    {.id = "control_b", .path = DIR "control_b"},
    {.id = "control_pool", .path = DIR "control_pool"},
    {.id = "control_sd21", .path = DIR "control_sd21"},
    {.id = "control_sdxl", .path = DIR "control_sdxl"},
    {.id = "control_full", .path = DIR "control_full"},
    {.id = "control_light", .path = DIR "control_light"},
    {.id = "control_xl", .path = DIR "control_xl"},
};
enum { N_FIXTURES = sizeof fixtures / sizeof *fixtures, N_VARIANTS = 3 };

static struct engine *open_engine(const struct engine_model *models, int n_models)
{
    const struct engine_options o = {.device = golden_device(),
                                     .graphs = true,
                                     .activations = golden_activations(),
                                     .blas_rows = golden_blas_rows(),
                                     .n_threads = 2,
                                     .n_models = n_models,
                                     .models = models,
                                     .cache_bytes = (size_t)1 << 28,
                                     .max_images = 16};
    return engine_ready(&o);
}

static double number(const struct cJSON *o, const char *key, double otherwise)
{
    const struct cJSON *v = json_get(o, key);
    return v ? json_num(v) : otherwise;
}

/* init_image and mask_image of the script. */
static void make_images(struct picture_case *c, struct image_spec *s)
{
    c->init = calloc((size_t)s->width * (size_t)s->height, 3);
    c->mask = calloc((size_t)s->width, (size_t)s->height);
    for (int y = 0; y < s->height; y++) {
        for (int x = 0; x < s->width; x++) {
            uint8_t *to = c->init + ((size_t)y * (size_t)s->width + (size_t)x) * 3;
            to[0] = (uint8_t)((x * 5 + y) % 256);
            to[1] = (uint8_t)((y * 7) % 256);
            to[2] = (uint8_t)((x * y) % 256);
            bool in = x >= s->width / 4 && y < s->height / 2;
            c->mask[(size_t)y * (size_t)s->width + (size_t)x] = in ? 255 : 0;
        }
    }
    s->init = c->init;
}

/* "small": what an upscaler begins with; "first": another model makes it. */
static void read_small(struct picture_case *c, const struct cJSON *o, struct image_spec *s)
{
    const char *first = json_str(json_get(o, "first"));
    s->noise_level = (int)number(o, "noise_level", -1);
    s->tiled = json_bool(json_get(o, "tiled"));
    c->width = s->width;
    c->height = s->height;
    if (first) {
        s->passes.upscale.model = s->model;
        s->passes.upscale.noise_level = s->noise_level;
        s->passes.upscale.steps = s->steps;
        s->passes.upscale.guidance_scale = s->guidance_scale;
        s->noise_level = -1;
        s->model = first;
        s->width /= 4;
        s->height /= 4;
        return;
    }
    s->width /= 4;
    s->height /= 4;
    make_images(c, s);
    s->small = s->init;
    s->init = NULL;
    s->width = c->width;
    s->height = c->height;
}

static void read_passes(struct picture_case *c, const struct cJSON *o, struct image_spec *s)
{
    c->width = (int)number(o, "out_w", s->width);
    c->height = (int)number(o, "out_h", s->height);
    s->tiled = json_bool(json_get(o, "tiled"));
    if (json_get(o, "hires_how")) {
        s->passes.hires.how = (enum image_enlarge)number(o, "hires_how", 0);
        s->passes.hires.width = c->width;
        s->passes.hires.height = c->height;
        s->passes.hires.steps = (int)number(o, "hires_steps", 0);
        s->passes.hires.strength = (float)number(o, "hires_strength", NAN);
    }
    if (json_get(o, "refiner")) {
        const char *name = json_str(json_get(o, "refiner"));
        s->passes.refiner.model = name ? name : "refiner";
        s->passes.refiner.switch_at = s->denoising_end = (float)number(o, "switch_at", 0.8);
    }
}

/* hint_image of make_control_golden.py. */
static uint8_t *paint(int width, int height, int kind)
{
    uint8_t *rgb = calloc((size_t)width * (size_t)height, 3), *to = rgb;
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            const int planes[3] = {x * 9 + y * 3, x * y * 3, y * 11 + 40};
            for (int k = 0; k < 3; k++)
                *to++ = (uint8_t)planes[(kind + k) % 3];
        }
    }
    return rgb;
}

static void read_controls(struct picture_case *c, const struct cJSON *list)
{
    struct image_spec *s = &c->job->image;
    for (const struct cJSON *o = json_first(list); o; o = json_next(o)) {
        const int i = s->n_controls++;
        char *model = arena_alloc(&c->job->arena, 32);
        snprintf(model, 32, "control_%s", json_str(json_get(o, "model")));
        c->seen[i] = paint(s->width, s->height, (int)number(o, "hint", 0));
        c->controls[i] =
            (struct control_spec){.model = model,
                                  .width = s->width,
                                  .height = s->height,
                                  .picture = c->seen[i],
                                  .hidden = json_bool(json_get(o, "hidden")) ? c->mask : NULL,
                                  .scale = (float)number(o, "scale", 1),
                                  .start = number(o, "start", 0),
                                  .end = number(o, "end", 1),
                                  .guess = json_bool(json_get(o, "guess"))};
    }
    s->controls = c->controls;
}

static void read_cache(const struct cJSON *o, struct step_cache_spec *s)
{
    const char *type = json_str(json_get(o, "type"));
    if (!type)
        return;
    s->kind = strcmp(type, "deepcache") == 0 ? STEP_CACHE_DEEPCACHE : STEP_CACHE_FIRST_BLOCK;
    s->interval = (int)number(o, "interval", 0);
    s->branch = (int)number(o, "branch", 0);
    s->threshold = (float)number(o, "threshold", 0);
}

static void read_case(struct picture_case *c, const struct cJSON *o)
{
    snprintf(c->name, sizeof c->name, "%s", json_str(json_get(o, "name")));
    c->job = job_new(1 << 16);
    c->job->kind = JOB_IMAGE;
    struct image_spec *s = &c->job->image;
    s->model = json_str(json_get(o, "model"));
    s->prompt = json_str(json_get(o, "prompt"));
    s->negative_prompt = json_str(json_get(o, "negative"));
    s->n = (int)number(o, "n", 1);
    s->width = (int)number(o, "width", 0);
    s->height = (int)number(o, "height", 0);
    s->steps = (int)number(o, "steps", 0);
    s->guidance_scale = (float)number(o, "guidance", NAN);
    s->clip_skip = (int)number(o, "skip", -1);
    s->guidance_rescale = (float)number(o, "rescale", 0);
    s->strength = (float)number(o, "strength", NAN);
    s->seed = (uint64_t)number(o, "seed", 0);
    const char *scheduler = json_str(json_get(o, "scheduler"));
    if (scheduler) {
        struct noise_choice choice;
        assert_true(noise_name_find(scheduler, &choice));
        s->scheduler = (int)choice.scheduler;
        s->sigmas = (int)choice.sigmas;
        s->spacing = (int)choice.spacing;
    }
    if (json_get(o, "small"))
        read_small(c, o, s);
    else
        read_passes(c, o, s);
    if (json_bool(json_get(o, "image")))
        make_images(c, s);
    if (json_bool(json_get(o, "mask")))
        s->mask = c->mask;
    read_controls(c, json_get(o, "control"));
    read_cache(json_get(o, "step_cache"), &s->step_cache);
}

static void read_cases(const char *json_path, const char *bin_path)
{
    struct err e;
    n_cases = 0;
    memset(cases, 0, sizeof cases);
    assert_int_equal(file_open(&json_file, json_path, &e), 0);
    assert_int_equal(file_open(&pictures, bin_path, &e), 0);
    const char *text = (const char *)json_file.data;
    assert_int_equal(json_parse(&doc, text, json_file.size, &json_limits_default, &e), 0);
    const uint8_t *at = (const uint8_t *)pictures.data;
    for (const struct cJSON *o = json_first(doc); o; o = json_next(o)) {
        struct picture_case *c = &cases[n_cases++];
        read_case(c, o);
        const struct image_spec *s = &c->job->image;
        c->expected = at;
        at += (size_t)s->n * (size_t)c->width * (size_t)c->height * 3;
    }
    assert_int_equal(at - (const uint8_t *)pictures.data, pictures.size);
}

static void take_image(struct picture_case *c, const struct event *ev)
{
    const struct image_spec *s = &c->job->image;
    size_t n = (size_t)c->width * (size_t)c->height * 3;
    assert_int_equal(ev->width, c->width);
    assert_int_equal(ev->height, c->height);
    assert_int_equal(ev->partial, -1);
    assert_true(ev->seed == s->seed + (uint64_t)ev->index);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)ev->rgb[i] - c->expected[(size_t)ev->index * n + i];
        sum += d * d;
    }
    c->error2[ev->index] = sum / (double)n;
    c->n_images++;
}

/* True when the job has ended. */
static bool poll_case(struct picture_case *c)
{
    struct event *ev;
    bool ended = false;
    while ((ev = job_poll(c->job)) != NULL) {
        if (ev->kind == EV_IMAGE)
            take_image(c, ev);
        else if (ev->kind == EV_PROGRESS)
            c->n_steps++;
        else if (ev->kind == EV_ERROR)
            fail_msg("%s: %s", c->name, ev->err.msg);
        ended = ended || ev->kind == EV_DONE;
        job_event_free(ev);
    }
    return ended;
}

/* Do two pictures ask the same of a device?  They may differ by schedulers, prompts, masks, guidance and the shares
 * of steps, which are the host's arithmetic on any device; with halves, which models round otherwise but hand on
 * alike, by all but the models. */
static bool alike(const struct image_spec *a, const struct image_spec *b)
{
    const bool same_models =
        strcmp(a->model, b->model) == 0 && (a->n_controls > 0) == (b->n_controls > 0) &&
        (a->n_controls == 0 || strcmp(a->controls[0].model, b->controls[0].model) == 0);
    if (golden_activations() != DTYPE_F32)
        return same_models;
    const bool odd_a = a->width % 16 || a->height % 8, odd_b = b->width % 16 || b->height % 8;
    return same_models && !a->init == !b->init && !a->small == !b->small && a->tiled == b->tiled &&
           odd_a == odd_b && !a->passes.hires.width == !b->passes.hires.width &&
           !a->passes.refiner.model == !b->passes.refiner.model &&
           !a->passes.upscale.model == !b->passes.upscale.model &&
           a->step_cache.kind == b->step_cache.kind;
}

/* In short: of those that are alike the first one. */
static void leave_out(void)
{
    for (int i = 0; golden_short() && i < n_cases; i++)
        for (int k = 0; k < i; k++)
            cases[i].left_out |= alike(&cases[k].job->image, &cases[i].job->image);
}

static void compare_with(const struct engine_model *models, int n_models, const char *json_path,
                         const char *bin_path)
{
    read_cases(json_path, bin_path);
    struct engine *g = open_engine(models, n_models);
    struct err e;
    int n_bad = 0;
    leave_out();
    for (int i = 0; i < n_cases; i++) {
        if (!cases[i].left_out && engine_submit(g, cases[i].job, &e) != 0)
            fail_msg("%s: %s", cases[i].name, e.msg);
    }
    for (int i = 0; i < n_cases; i++) {
        struct picture_case *c = &cases[i];
        if (c->left_out)
            continue;
        while (!poll_case(c))
            pause_ms(2);
        assert_int_equal(c->n_images, c->job->image.n);
        double worst = 0;
        for (int k = 0; k < c->n_images; k++)
            worst = c->error2[k] > worst ? c->error2[k] : worst;
        double psnr = worst > 0 ? 10 * log10(255.0 * 255.0 / worst) : 99;
        print_message("%-40s %.1f dB\n", c->name, psnr);
        n_bad += psnr < golden_picture_db(golden_activations());
    }
    assert_true(n_bad <= golden_may_be_off(golden_activations(), n_cases));
    engine_close(g);
    for (int i = 0; i < n_cases; i++) {
        job_unref(cases[i].job);
        free(cases[i].init);
        free(cases[i].mask);
        for (int k = 0; k < JOB_CONTROLS_MAX; k++)
            free(cases[i].seen[k]);
    }
    json_free(doc);
    file_close(&json_file);
    file_close(&pictures);
}

static void compare_all(const char *json_path, const char *bin_path)
{
    compare_with(fixtures, N_FIXTURES, json_path, bin_path);
}

/* VARIANTS of make_pipeline_golden.py: sd_sd15 with another scheduler config, and perhaps with sd_taesd. */
static void make_variant(struct engine_model *m, const char *id, const char *config)
{
    static const char *const parts[] = {"model_index.json", "text_encoder", "tokenizer", "unet",
                                        "vae"};
    static char paths[N_VARIANTS][PATH_LEN];
    static int n;
    char name[PATH_LEN], source[PATH_LEN], target[PATH_MAX];
    char *path = paths[n++ % N_VARIANTS];
    snprintf(path, PATH_LEN, "%s", temp_dir_path(id));
    *m = (struct engine_model){.id = id, .path = path};
    assert_int_equal(mkdir(path, 0700), 0);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const bool tiny = strcmp(parts[i], "vae") == 0 && strcmp(id, "taesd") == 0;
        snprintf(source, sizeof source, DIR "%s%s", tiny ? "sd_taesd" : "sd_sd15/",
                 tiny ? "" : parts[i]);
        snprintf(name, sizeof name, "%s/%s", id, parts[i]);
        assert_non_null(realpath(source, target));
        assert_int_equal(symlink(target, temp_dir_path(name)), 0);
    }
    snprintf(name, sizeof name, "%s/scheduler", id);
    assert_int_equal(mkdir(temp_dir_path(name), 0700), 0);
    snprintf(name, sizeof name, "%s/scheduler/scheduler_config.json", id);
    temp_dir_put_text(name, config);
}

#define OLD "\"beta_start\":0.00085,\"beta_end\":0.012,\"beta_schedule\":\"scaled_linear\"}"
static void pipeline_makes_the_pictures_of_diffusers(void **state)
{
    (void)state;
    struct engine_model models[N_FIXTURES + N_VARIANTS];
    memcpy(models, fixtures, sizeof fixtures);
    make_variant(
        models + N_FIXTURES, "taesd",
        "{\"_class_name\":\"PNDMScheduler\",\"skip_prk_steps\":true,\"steps_offset\":1," OLD);
    make_variant(models + N_FIXTURES + 1, "old_pndm", "{\"_class_name\":\"PNDMScheduler\"," OLD);
    make_variant(models + N_FIXTURES + 2, "old_ddim", "{\"_class_name\":\"DDIMScheduler\"," OLD);
    compare_with(models, N_FIXTURES + N_VARIANTS, DIR "pipeline.json", DIR "pipeline.bin");
}

static void pipeline_makes_second_passes_as_diffusers_parts_do(void **state)
{
    (void)state;
    compare_all(DIR "passes.json", DIR "passes.bin");
}

static void pipeline_steers_pictures_as_diffusers_does(void **state)
{
    (void)state;
    compare_all(DIR "control.json", DIR "control.bin");
}

static void pipeline_enlarges_pictures_as_diffusers_does(void **state)
{
    (void)state;
    compare_all(DIR "enlarge.json", DIR "enlarge.bin");
}

static void pipeline_refines_with_a_single_file(void **state)
{
    (void)state;
    compare_all(DIR "single.json", DIR "single.bin");
}

static int make_single(void **state)
{
    (void)state;
    seeded_open(&single, DIR "single_refiner.txt");
    return 0;
}

static int remove_single(void **state)
{
    (void)state;
    seeded_close(&single);
    return 0;
}

static void pipeline_caches_steps_as_written_out_over_diffusers(void **state)
{
    (void)state;
    compare_all(DIR "cache.json", DIR "cache.bin");
}

static void pipeline_draws_from_single_files_as_diffusers_does(void **state)
{
    (void)state;
    static const char *const names[] = {"sd15.safetensors", "sd21.safetensors", "sdxl.safetensors",
                                        "sd15_q8_0.gguf", "sdxl_q4_0.gguf"};
    enum { N = sizeof names / sizeof *names };
    struct engine_model models[N];
    char paths[N][PATH_LEN], head[PATH_LEN], list[PATH_LEN];
    for (int i = 0; i < N; i++) {
        snprintf(paths[i], PATH_LEN, "%s", temp_dir_path(names[i]));
        snprintf(head, sizeof head, DIR "files/%s.head", names[i]);
        snprintf(list, sizeof list, DIR "files/%s.tsv", names[i]);
        seeded_fill(paths[i], head, list);
        models[i] = (struct engine_model){
            .id = names[i], .path = paths[i], .tokenizer = DIR "sd_sdxl/tokenizer"};
    }
    compare_with(models, N, DIR "files/files.json", DIR "files/files.bin");
}

int main(void)
{
    log_init(LOG_ERROR, false);
    cmocka_set_test_filter(getenv("TESTS"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pipeline_makes_the_pictures_of_diffusers, temp_dir_make,
                                        temp_dir_remove),
        cmocka_unit_test(pipeline_makes_second_passes_as_diffusers_parts_do),
        cmocka_unit_test(pipeline_steers_pictures_as_diffusers_does),
        cmocka_unit_test(pipeline_enlarges_pictures_as_diffusers_does),
        cmocka_unit_test(pipeline_refines_with_a_single_file),
        cmocka_unit_test(pipeline_caches_steps_as_written_out_over_diffusers),
        cmocka_unit_test_setup_teardown(pipeline_draws_from_single_files_as_diffusers_does,
                                        temp_dir_make, temp_dir_remove),
    };
    return cmocka_run_group_tests(tests, make_single, remove_single);
}
