/* Jobs of several stages without the engine around them, op by op: memory accounted to the byte wherever one is
 * cancelled, in every kind of pass that there is, admission of all stages or none, and the same bytes however
 * jobs come together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/models/control.h"
#include "engine/pipeline.h"
#include "engine/pipeline_steer.h"
#include "engine/upscale.h"

enum { W = 48, H = 32, KINDS = 6 };
enum { SD, XL, REFINER, X4, N_PIPELINES };

static struct backend *be;
static struct diffusion *models[N_PIPELINES];
static struct control *control;
static struct upscaler *network;

struct bench {
    struct cache *cache;
    struct pipeline p[N_PIPELINES];
    struct upscale u;
};

struct run {
    struct job *job;
    struct task task;
    bool ended;
    int n_images, step;
    uint8_t *rgb; /* [n] of the size of the answer */
    size_t bytes; /* of one */
};

static int setup(void **state)
{
    (void)state;
    static const char *const paths[] = {[SD] = "tests/fixtures/sd_safety",
                                        [XL] = "tests/fixtures/sd_sdxl",
                                        [REFINER] = "tests/fixtures/sd_refiner",
                                        [X4] = "tests/fixtures/sd_upscaler"};
    struct err e;
    struct checkpoint *c;
    const struct diffusion_options o = {.vae_bytes = (size_t)800 << 10}; /* tiles */
    log_init(LOG_ERROR, false);
    assert_int_equal(backend_open(&be, "cpu", 2, &e), 0);
    for (int i = 0; i < N_PIPELINES; i++)
        assert_int_equal(diffusion_open(&models[i], paths[i], be, &o, &e), 0);
    assert_int_equal(checkpoint_open(&c, "tests/fixtures/control_sdxl", NULL, &e), 0);
    assert_int_equal(control_open(&control, c, be, NULL, &e), 0);
    checkpoint_close(c);
    assert_int_equal(checkpoint_open(&c, "tests/fixtures/upscale_fold2.safetensors", NULL, &e), 0);
    assert_int_equal(upscaler_open(&network, c, be, 0, NULL, &e), 0);
    checkpoint_close(c);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    upscaler_close(network);
    control_close(control);
    for (int i = 0; i < N_PIPELINES; i++)
        diffusion_close(models[i]);
    be->close(be);
    return 0;
}

static void bench_open(struct bench *b, size_t budget, int max_rows)
{
    const struct pipeline_options o = {.max_rows = max_rows, .max_pictures = 100};
    assert_int_equal(cache_open(&b->cache, budget, NULL), 0);
    for (int i = 0; i < N_PIPELINES; i++)
        pipeline_init(&b->p[i], models[i], b->cache, &o);
    b->u = (struct upscale){.m = network, .cache = b->cache};
}

static size_t held(const struct bench *b)
{
    struct cache_stats s;
    cache_stats(b->cache, &s);
    assert_true(s.held_bytes + s.kept_bytes <= s.budget_bytes);
    return s.held_bytes;
}

static void bench_close(struct bench *b)
{
    assert_int_equal(held(b), 0);
    for (int i = 0; i < N_PIPELINES; i++) {
        pipeline_steer_forget(&b->p[i], control);
        pipeline_fini(&b->p[i]);
    }
    cache_close(b->cache);
}

static struct stage *last_stage(struct run *r)
{
    struct stage *s = r->task.stages;
    while (s->next)
        s = s->next;
    return s;
}

/* A network's stage behind the others; size becomes that of its results. */
static void add_network(struct bench *b, struct run *r, int size[2])
{
    struct err e;
    struct upscale_task *it;
    const struct upscale_task like = {.n = r->job->image.n, .width = size[0], .height = size[1]};
    assert_int_equal(upscale_task_new(&it, &r->task, upscaler_info(network), &like, NULL, &e), 0);
    upscale_stage(&b->u, it);
    size[0] *= 2;
    size[1] *= 2;
}

/* Of a model's pipeline; given: size of the pixels that come, or NULL. */
static void add_stage(struct bench *b, struct run *r, int model, const struct image_spec *s,
                      const int given[2])
{
    struct err e;
    if (picture_stage_new(&r->task, models[model], s, given, &e) != 0)
        fail_msg("%s", e.msg);
    pipeline_stage(&b->p[model], (struct image_task *)last_stage(r));
}

static void add_hires(struct bench *b, struct run *r, int model, int size[2], bool pixels)
{
    struct image_spec s = r->job->image;
    s.width = s.passes.hires.width;
    s.height = s.passes.hires.height;
    s.strength = 0.6f;
    s.steps = 3;
    s.partial_images = 0;
    s.denoising_end = 0; /* and it is steered by the same picture */
    add_stage(b, r, model, &s, pixels ? size : NULL);
    size[0] = s.width;
    size[1] = s.height;
}

static void add_refiner(struct bench *b, struct run *r)
{
    struct image_spec s = r->job->image;
    s.denoising_start = s.denoising_end;
    s.denoising_end = 0;
    s.n_controls = 0;
    add_stage(b, r, REFINER, &s, NULL);
}

static void add_x4(struct bench *b, struct run *r, int size[2])
{
    struct image_spec s = r->job->image;
    s.width = size[0] *= 4;
    s.height = size[1] *= 4;
    s.denoising_end = 0;
    s.n_controls = s.partial_images = 0;
    add_stage(b, r, X4, &s, size);
}

/* What a ControlNet makes of one picture, and the model looks at. */
static void add_control(struct run *r)
{
    static uint8_t picture[W * H * 3];
    static const struct control_spec spec = {
        .model = "control", .width = W, .height = H, .picture = picture, .scale = 1, .end = 1};
    r->job->image.controls = &spec;
    r->job->image.n_controls = 1;
    r->task.controls[0] = control;
}

/* kind 0: larger latents; 1: larger pixels, then a network; 2: a network, larger pixels; 3: a network.
 * SDXL with a ControlNet: 4: a refiner, smaller pixels, the x4 upscaler; 5: in windows, the upscaler, a network. */
static void run_open(struct bench *b, struct run *r, int kind)
{
    struct err e;
    const int model = kind < 4 ? SD : XL;
    memset(r, 0, sizeof *r);
    r->job = job_new(1 << 16);
    r->job->kind = JOB_IMAGE;
    struct image_spec *s = &r->job->image;
    *s = image_spec_default;
    s->prompt = "a red cat";
    s->negative_prompt = "dark";
    s->width = W;
    s->height = H;
    s->steps = 2;
    s->n = kind % 2 + 1;
    s->guidance_scale = 2;
    s->seed = (uint64_t)(5 + kind);
    s->partial_images = kind == 0;
    s->safety = SAFETY_FLAG;
    s->noise_level = -1;
    s->tiled = kind == 5;
    s->denoising_end = kind == 4 ? 0.5f : 0;
    s->passes.hires.width = kind == 1 ? 2 * W : kind == 4 ? W / 2 : 64;
    s->passes.hires.height = kind == 1 ? 2 * H : kind == 4 ? H / 2 : 48;
    s->passes.hires.how = IMAGE_LATENT_BICUBIC;
    r->task.job = r->job;
    int size[2] = {W, H};
    if (kind >= 4)
        add_control(r);
    if (picture_task_new(&r->task, models[model], &e) != 0)
        fail_msg("%s", e.msg);
    pipeline_stage(&b->p[model], r->task.image);
    if (kind == 2)
        add_network(b, r, size);
    if (kind == 4)
        add_refiner(b, r);
    if (kind <= 2 || kind == 4)
        add_hires(b, r, model, size, kind > 0);
    if (kind >= 4)
        add_x4(b, r, size);
    if (kind == 1 || kind == 3 || kind == 5)
        add_network(b, r, size);
    stage_number(&r->task);
    r->bytes = (size_t)(size[0] * size[1] * 3);
    r->rgb = calloc((size_t)s->n, r->bytes);
}

static void run_close(struct run *r)
{
    stage_free(&r->task);
    job_unref(r->job);
    free(r->rgb);
}

static void take_events(struct run *r)
{
    struct event *ev;
    while ((ev = job_poll(r->job)) != NULL) {
        if (ev->kind == EV_PROGRESS) {
            assert_in_range(ev->step, 0, ev->n_steps);
            r->step = ev->step > r->step ? ev->step : r->step;
        } else if (ev->kind == EV_IMAGE && ev->partial < 0) {
            assert_int_equal((size_t)ev->width * (size_t)ev->height * 3, r->bytes);
            memcpy(r->rgb + (size_t)ev->index * r->bytes, ev->rgb, r->bytes);
            r->n_images++;
        }
        job_event_free(ev);
    }
}

static void end_task(struct run *runs, int n_runs, const struct task *t)
{
    for (int k = 0; k < n_runs; k++) {
        if (&runs[k].task != t)
            continue;
        take_events(&runs[k]);
        runs[k].ended = true;
        stage_leave(&runs[k].task);
    }
}

static bool has_work(const struct bench *b, int runner)
{
    return runner < N_PIPELINES ? pipeline_has_work(&b->p[runner]) : upscale_has_work(&b->u);
}

static bool is_idle(const struct bench *b)
{
    for (int i = 0; i <= N_PIPELINES; i++) {
        if (has_work(b, i))
            return false;
    }
    return true;
}

/* At most n_ops ops, all that have work in turns; true when there is nothing left to do. */
static bool work(struct bench *b, struct run *runs, int n_runs, int n_ops)
{
    struct err e;
    int runner = 0;
    for (int i = 0; i < n_ops && !is_idle(b); i++) {
        struct image_task *it = NULL;
        struct upscale_task *ut = NULL;
        do
            runner = (runner + 1) % (N_PIPELINES + 1);
        while (!has_work(b, runner));
        if (runner < N_PIPELINES)
            assert_int_equal(pipeline_run(&b->p[runner], 0, &it, &e), 0);
        else
            assert_int_equal(upscale_run(&b->u, 0, &ut, &e), 0);
        if (it || ut)
            end_task(runs, n_runs, it ? it->task : ut->task);
    }
    for (int k = 0; k < n_runs; k++)
        take_events(&runs[k]);
    return is_idle(b);
}

static void run_alone(struct run *r, int kind)
{
    struct bench b;
    bench_open(&b, (size_t)1 << 28, 1);
    run_open(&b, r, kind);
    assert_int_equal(stage_place(&r->task, b.cache), 1);
    assert_int_equal(r->task.refused.code, 0);
    while (!work(&b, r, 1, 1000))
        ;
    assert_true(r->ended);
    assert_int_equal(r->n_images, r->job->image.n);
    assert_int_equal(r->step, r->task.image->stage.n_steps);
    bench_close(&b);
}

static void stages_give_the_same_bytes_alone_and_together(void **state)
{
    (void)state;
    static struct run alone[KINDS], together[KINDS];
    struct bench b;
    bench_open(&b, (size_t)1 << 28, 5);
    for (int k = 0; k < KINDS; k++) {
        run_alone(&alone[k], k);
        run_open(&b, &together[k], k);
        assert_int_equal(stage_place(&together[k].task, b.cache), 1);
        work(&b, together, k + 1, 100);
    }
    while (!work(&b, together, KINDS, 1000))
        ;
    for (int k = 0; k < KINDS; k++) {
        assert_true(together[k].ended);
        assert_memory_equal(together[k].rgb, alone[k].rgb,
                            alone[k].bytes * (size_t)alone[k].job->image.n);
        run_close(&alone[k]);
        run_close(&together[k]);
    }
    bench_close(&b);
}

/* Runs a job of this kind for n ops, in a bench where one of its kind ran before (whose passes are kept) or in a new
 * one; it leaves, and all that it held must be given back: what is left is what nobody holds. */
static void cancel_at(int kind, int n, bool warm)
{
    struct bench b;
    struct run r;
    bench_open(&b, (size_t)1 << 28, 8);
    if (warm) {
        run_open(&b, &r, kind);
        assert_int_equal(stage_place(&r.task, b.cache), 1);
        while (!work(&b, &r, 1, 1000))
            ;
        run_close(&r);
    }
    assert_int_equal(held(&b), 0);
    run_open(&b, &r, kind);
    assert_int_equal(stage_place(&r.task, b.cache), 1);
    assert_true(held(&b) > 0);
    work(&b, &r, 1, n);
    stage_leave(&r.task);
    assert_int_equal(held(&b), 0);
    assert_true(is_idle(&b));
    run_close(&r);
    run_open(&b, &r, kind); /* all the budget is there for the next one */
    assert_int_equal(stage_place(&r.task, b.cache), 1);
    stage_leave(&r.task);
    assert_int_equal(held(&b), 0);
    run_close(&r);
    bench_close(&b);
}

/* What is being computed: a number for each kind of pass of each model, 0 between two passes. */
static int place_of(const struct bench *b)
{
    for (int i = 0; i < N_PIPELINES; i++) {
        if (b->p[i].run.active)
            return 1 + i * (PASS_RESIZE + 1) + (int)b->p[i].current->key.kind;
    }
    return b->u.run.task ? 1 + N_PIPELINES * (PASS_RESIZE + 1) : 0;
}
enum { PLACES = 2 + N_PIPELINES * (PASS_RESIZE + 1) };

/* Ops after which a job of this kind is in the midst of each place, 0: it never is. */
static int find_places(int kind, int at[PLACES])
{
    struct bench b;
    struct run r;
    int n_ops = 0, n_places = 0;
    memset(at, 0, PLACES * sizeof *at);
    bench_open(&b, (size_t)1 << 28, 8);
    run_open(&b, &r, kind);
    assert_int_equal(stage_place(&r.task, b.cache), 1);
    while (!work(&b, &r, 1, 1)) {
        const int place = place_of(&b);
        n_ops++;
        n_places += place > 0 && at[place] == 0;
        if (place > 0 && at[place] == 0)
            at[place] = n_ops + 2;
    }
    run_close(&r);
    bench_close(&b);
    return n_places;
}

static void stages_account_for_every_byte_wherever_a_job_is_cancelled(void **state)
{
    (void)state;
    static const int least[KINDS] = {5, 8, 8, 6, 16, 11}; /* kinds of passes */
    for (int kind = 0; kind < KINDS; kind++) {
        int at[PLACES], n = find_places(kind, at);
        print_message("    kind %d: cancelled in %d kinds of passes\n", kind, n);
        assert_true(n >= least[kind]);
        for (int place = 0; place < PLACES; place++) {
            for (int warm = 0; warm < (kind < 4 ? 2 : 1) && (place == 0 || at[place] > 0); warm++)
                cancel_at(kind, at[place], warm);
        }
    }
}

static void stages_are_admitted_together_or_not_at_all(void **state)
{
    (void)state;
    struct run r, second;
    struct bench b;
    bench_open(&b, (size_t)1 << 28, 1);
    run_open(&b, &r, 1);
    assert_int_equal(stage_place(&r.task, b.cache), 1);
    const size_t need = held(&b);
    stage_leave(&r.task);
    run_close(&r);
    bench_close(&b);

    bench_open(&b, need, 1);
    run_open(&b, &r, 1);
    assert_int_equal(stage_place(&r.task, b.cache), 1);
    assert_int_equal(r.task.refused.code, 0);
    assert_int_equal(held(&b), need);
    run_open(&b, &second, 1);
    assert_int_equal(stage_place(&second.task, b.cache), 0);
    assert_int_equal(held(&b), need);
    while (!work(&b, &r, 1, 1000))
        ;
    assert_true(r.ended);
    assert_int_equal(stage_place(&second.task, b.cache), 1);
    stage_leave(&second.task);
    run_close(&r);
    run_close(&second);
    bench_close(&b);

    bench_open(&b, need - 1, 1);
    run_open(&b, &r, 1);
    assert_int_equal(stage_place(&r.task, b.cache), 1);
    assert_int_equal(r.task.refused.code, ERR_TOOBIG);
    assert_int_equal(held(&b), 0);
    run_close(&r);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_give_the_same_bytes_alone_and_together),
        cmocka_unit_test(stages_account_for_every_byte_wherever_a_job_is_cancelled),
        cmocka_unit_test(stages_are_admitted_together_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
