/* Jobs of several stages without the engine around them, op by op: memory accounted to the byte wherever one is
 * cancelled, admission of all stages or none, and the same bytes however jobs come together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/pipeline.h"
#include "engine/upscale.h"

enum { W = 48, H = 32, KINDS = 4 };

static struct backend *be;
static struct diffusion *sd15;
static struct upscaler *network;

struct bench {
    struct cache *cache;
    struct pipeline p;
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
    struct err e;
    struct checkpoint *c;
    const struct diffusion_options o = {0};
    log_init(LOG_ERROR, false);
    assert_int_equal(backend_open(&be, "cpu", 2, &e), 0);
    assert_int_equal(diffusion_open(&sd15, "tests/fixtures/sd_sd15", be, &o, &e), 0);
    assert_int_equal(checkpoint_open(&c, "tests/fixtures/upscale_fold2.safetensors", NULL, &e), 0);
    assert_int_equal(upscaler_open(&network, c, be, 0, NULL, &e), 0);
    checkpoint_close(c);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    upscaler_close(network);
    diffusion_close(sd15);
    be->close(be);
    return 0;
}

static void bench_open(struct bench *b, size_t budget, int max_rows)
{
    const struct pipeline_options o = {.max_rows = max_rows, .max_pictures = 100};
    assert_int_equal(cache_open(&b->cache, budget, NULL), 0);
    pipeline_init(&b->p, sd15, b->cache, &o);
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
    pipeline_fini(&b->p);
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

static void add_hires(struct bench *b, struct run *r, int size[2], bool pixels)
{
    struct err e;
    struct image_spec s = r->job->image;
    s.width = s.passes.hires.width;
    s.height = s.passes.hires.height;
    s.strength = 0.6f;
    s.steps = 3;
    s.partial_images = 0;
    assert_int_equal(picture_stage_new(&r->task, sd15, &s, pixels ? size : NULL, &e), 0);
    pipeline_stage(&b->p, (struct image_task *)last_stage(r));
    size[0] = s.width;
    size[1] = s.height;
}

/* kind 0: larger latents; 1: larger pixels, then a network; 2: a network, larger pixels; 3: a network. */
static void run_open(struct bench *b, struct run *r, int kind)
{
    struct err e;
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
    s->passes.hires.width = kind == 1 ? 2 * W : 64;
    s->passes.hires.height = kind == 1 ? 2 * H : 48;
    s->passes.hires.how = IMAGE_LATENT_BICUBIC;
    r->task.job = r->job;
    int size[2] = {W, H};
    if (picture_task_new(&r->task, sd15, &e) != 0)
        fail_msg("%s", e.msg);
    pipeline_stage(&b->p, r->task.image);
    if (kind == 2)
        add_network(b, r, size);
    if (kind <= 2)
        add_hires(b, r, size, kind > 0);
    if (kind == 1 || kind == 3)
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
            assert_in_range(ev->step, 1, ev->n_steps);
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

/* At most n_ops ops, the two in turns; true when there is nothing left to do. */
static bool work(struct bench *b, struct run *runs, int n_runs, int n_ops)
{
    struct err e;
    for (int i = 0; i < n_ops; i++) {
        struct image_task *it = NULL;
        struct upscale_task *ut = NULL;
        if (!pipeline_has_work(&b->p) && !upscale_has_work(&b->u))
            return true;
        if (upscale_has_work(&b->u) && (i % 2 == 0 || !pipeline_has_work(&b->p)))
            assert_int_equal(upscale_run(&b->u, 0, &ut, &e), 0);
        else
            assert_int_equal(pipeline_run(&b->p, 0, &it, &e), 0);
        if (it || ut)
            end_task(runs, n_runs, it ? it->task : ut->task);
    }
    for (int k = 0; k < n_runs; k++)
        take_events(&runs[k]);
    return !pipeline_has_work(&b->p) && !upscale_has_work(&b->u);
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

static void stages_account_for_every_byte_wherever_a_job_is_cancelled(void **state)
{
    (void)state;
    int n_points = getenv("DUETTO_TEST_SHORT") ? 4 : 12; /* NOLINT(concurrency-mt-unsafe) */
    for (int kind = 0; kind < 3; kind++) {
        struct bench b;
        struct run r;
        int n_ops = 1;
        bench_open(&b, (size_t)1 << 28, 8);
        run_open(&b, &r, kind);
        assert_int_equal(stage_place(&r.task, b.cache), 1);
        while (!work(&b, &r, 1, 1))
            n_ops++;
        run_close(&r);
        bench_close(&b);
        for (int at = 0; at <= n_ops; at += n_ops / n_points + 1) {
            bench_open(&b, (size_t)1 << 28, 8);
            run_open(&b, &r, kind);
            assert_int_equal(stage_place(&r.task, b.cache), 1);
            assert_true(held(&b) > 0);
            work(&b, &r, 1, at);
            stage_leave(&r.task);
            assert_int_equal(held(&b), 0);
            assert_false(pipeline_has_work(&b.p) || upscale_has_work(&b.u));
            run_close(&r);
            bench_close(&b);
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
