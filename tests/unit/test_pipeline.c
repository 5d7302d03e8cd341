/* An image model's pipeline without the engine around it, op by op: memory accounted to the byte wherever a job
 * is cancelled, exact admission, and the same bytes however jobs come together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/noise.h"
#include "engine/pipeline.h"
#include "engine/turns.h"

enum { W = 48, H = 32, JOBS = 9 };

static struct backend *be;
static struct diffusion *sd15;

struct bench {
    struct cache *cache;
    struct pipeline p;
};

/* One job and what came of it. */
struct run {
    struct job *job;
    struct task task;
    bool placed, ended;
    int n_images, n_partials, n_progress;
    uint8_t *rgb; /* [n, height, width, 3] */
};

static int setup(void **state)
{
    (void)state;
    struct err e;
    const struct diffusion_options o = {0};
    log_init(LOG_ERROR, false);
    assert_int_equal(backend_open(&be, "cpu", 2, &e), 0);
    if (diffusion_open(&sd15, "tests/fixtures/sd_safety", be, &o, &e) != 0)
        fail_msg("%s", e.msg);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    diffusion_close(sd15);
    be->close(be);
    return 0;
}

static void bench_open(struct bench *b, size_t budget, int max_rows)
{
    const struct pipeline_options o = {.max_rows = max_rows, .max_pictures = 100};
    assert_int_equal(cache_open(&b->cache, budget, NULL), 0);
    pipeline_init(&b->p, sd15, b->cache, &o);
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
    struct cache_stats s;
    cache_stats(b->cache, &s);
    assert_int_equal(s.kept_bytes, 0);
    cache_close(b->cache);
}

static struct image_spec plain_spec(void)
{
    struct image_spec s = image_spec_default;
    s.prompt = "a red cat";
    s.negative_prompt = "dark";
    s.width = W;
    s.height = H;
    s.steps = 2;
    s.guidance_scale = 2;
    s.seed = 5;
    s.safety = SAFETY_FLAG; /* the pictures themselves, whatever a random checker says */
    return s;
}

static void run_open(struct run *r, const struct image_spec *spec)
{
    struct err e;
    memset(r, 0, sizeof *r);
    r->job = job_new(1 << 16);
    r->job->kind = JOB_IMAGE;
    r->job->image = *spec;
    r->task.job = r->job;
    if (picture_task_new(&r->task, sd15, &e) != 0)
        fail_msg("%s", e.msg);
    r->rgb = calloc((size_t)spec->n, (size_t)spec->width * (size_t)spec->height * 3);
}

static void run_close(struct run *r)
{
    picture_task_free(&r->task);
    job_unref(r->job);
    free(r->rgb);
}

static bool place(struct bench *b, struct run *r)
{
    r->placed = pipeline_place(&b->p, r->task.image) > 0;
    return r->placed;
}

static void take_events(struct run *r)
{
    struct event *ev;
    while ((ev = job_poll(r->job)) != NULL) {
        if (ev->kind == EV_PROGRESS)
            r->n_progress++;
        if (ev->kind == EV_IMAGE && ev->partial >= 0) {
            assert_in_range(ev->partial, 0, r->job->image.partial_images - 1);
            r->n_partials++;
        } else if (ev->kind == EV_IMAGE) {
            size_t n = (size_t)ev->width * (size_t)ev->height * 3;
            memcpy(r->rgb + (size_t)ev->index * n, ev->rgb, n);
            r->n_images++;
        }
        job_event_free(ev);
    }
}

/* At most n_ops ops; true when there is nothing left to do. */
static bool work(struct bench *b, struct run *runs, int n_runs, int n_ops)
{
    for (int i = 0; i < n_ops && pipeline_has_work(&b->p); i++) {
        struct image_task *ended = NULL;
        struct err e;
        assert_int_equal(pipeline_run(&b->p, 0, &ended, &e), 0);
        for (int k = 0; k < n_runs; k++) {
            take_events(&runs[k]);
            if (ended && ended == runs[k].task.image) {
                assert_int_equal(ended->refused.code, 0);
                runs[k].ended = true;
                pipeline_leave(&b->p, ended);
            }
        }
    }
    return !pipeline_has_work(&b->p);
}

static const struct step_cache_spec caches[] = {
    {.kind = STEP_CACHE_NONE},
    {.kind = STEP_CACHE_DEEPCACHE, .interval = 3, .branch = 1},
    {.kind = STEP_CACHE_FIRST_BLOCK, .threshold = 0.3f},
    {.kind = STEP_CACHE_DEEPCACHE, .interval = 2},
};

/* Requests that differ in all that they may differ in. */
static struct image_spec spec_of(int k, const uint8_t *init, const uint8_t *mask)
{
    struct image_spec s = plain_spec();
    s.seed = (uint64_t)(100 + k);
    s.steps = 2 + k % 3;
    s.scheduler = (int[]){0,         NOISE_EULER_A, NOISE_DPMPP_2M, NOISE_HEUN, NOISE_DDIM,
                          NOISE_LCM, NOISE_EULER_A, NOISE_DPMPP_2M, 0}[k];
    s.n = k % 2 + 1;
    s.guidance_scale = k == 2 ? 1.0f : 2.0f + (float)k;
    s.prompt = k % 3 ? "a photo of the (old:1.3) city" : "a red cat";
    if (k == 1 || k == 4) {
        s.width = H;
        s.height = W;
    }
    if (k >= 4)
        s.init = init;
    if (k == 5)
        s.mask = mask;
    s.partial_images = k == 3;
    if (k >= 6) {
        s.step_cache = caches[k - 5];
        s.steps = 5;
    }
    return s;
}

static void pipeline_gives_the_same_bytes_alone_and_together(void **state)
{
    (void)state;
    static uint8_t init[W * H * 3], mask[W * H];
    for (int i = 0; i < W * H * 3; i++)
        init[i] = (uint8_t)(i * 7);
    memset(mask, 255, sizeof mask / 2);
    static struct run alone[JOBS], together[JOBS];
    for (int k = 0; k < JOBS; k++) {
        const struct image_spec s = spec_of(k, init, mask);
        struct bench b;
        bench_open(&b, (size_t)1 << 26, 1);
        run_open(&alone[k], &s);
        assert_true(place(&b, &alone[k]));
        while (!work(&b, &alone[k], 1, 1000))
            ;
        assert_int_equal(alone[k].n_images, s.n);
        assert_int_equal(alone[k].n_partials, s.partial_images * s.n);
        bench_close(&b);
    }
    for (int max_rows = 3; max_rows <= 8; max_rows += 5) {
        struct bench b;
        bench_open(&b, (size_t)1 << 26, max_rows);
        for (int k = 0; k < JOBS; k++) { /* the later ones join while the first ones run */
            const struct image_spec s = spec_of(k, init, mask);
            run_open(&together[k], &s);
            assert_true(place(&b, &together[k]));
            work(&b, together, k + 1, 150);
        }
        while (!work(&b, together, JOBS, 1000))
            ;
        for (int k = 0; k < JOBS; k++) {
            assert_true(together[k].ended);
            assert_int_equal(together[k].n_progress, alone[k].n_progress);
            assert_memory_equal(together[k].rgb, alone[k].rgb, alone[k].job->image.n * W * H * 3);
            run_close(&together[k]);
        }
        bench_close(&b);
    }
    for (int k = 0; k < JOBS; k++)
        run_close(&alone[k]);
}

/* Ops of one job from start to end. */
static int count_ops(const struct image_spec *s)
{
    struct bench b;
    struct run r;
    int n = 0;
    bench_open(&b, (size_t)1 << 26, 8);
    run_open(&r, s);
    assert_true(place(&b, &r));
    while (!work(&b, &r, 1, 1))
        n++;
    run_close(&r);
    bench_close(&b);
    return n + 1;
}

static void cancel_everywhere(const struct step_cache_spec *cache)
{
    static uint8_t init[W * H * 3], mask[W * H];
    memset(mask, 255, sizeof mask);
    struct image_spec s = plain_spec(), other = plain_spec();
    s.n = 2;
    s.init = init;
    s.mask = mask;
    s.partial_images = 1;
    other.seed = 77;
    s.step_cache = other.step_cache = *cache;
    s.steps = other.steps = cache->kind == STEP_CACHE_NONE ? 2 : 3;
    other.prompt = s.prompt; /* a prompt and a batch in common */
    struct run expected, a, b[1];
    struct bench alone;
    bench_open(&alone, (size_t)1 << 26, 8);
    run_open(&expected, &other);
    assert_true(place(&alone, &expected));
    while (!work(&alone, &expected, 1, 1000))
        ;
    bench_close(&alone);
    int n_ops = count_ops(&s);
    int n_points = getenv("DUETTO_TEST_SHORT") ? 6 : 16; /* NOLINT(concurrency-mt-unsafe) */
    for (int at = 0; at <= n_ops; at += at < 12 ? 4 : n_ops / n_points + 1) {
        struct bench t;
        struct run both[2];
        bench_open(&t, (size_t)1 << 26, 8);
        run_open(&both[0], &s);
        assert_true(place(&t, &both[0]));
        size_t one = held(&t);
        run_open(&both[1], &other);
        assert_true(place(&t, &both[1]));
        assert_true(held(&t) > one);
        work(&t, both, 2, at);
        if (!both[0].ended)
            pipeline_leave(&t.p, both[0].task.image);
        while (!work(&t, both, 2, 1000))
            ;
        assert_true(both[1].ended);
        assert_memory_equal(both[1].rgb, expected.rgb, W * H * 3);
        assert_int_equal(held(&t), 0);
        run_close(&both[0]);
        run_close(&both[1]);
        bench_close(&t);
        /* and alone */
        bench_open(&t, (size_t)1 << 26, 8);
        run_open(&a, &s);
        assert_true(place(&t, &a));
        work(&t, &a, 1, at);
        if (!a.ended)
            pipeline_leave(&t.p, a.task.image);
        assert_int_equal(held(&t), 0);
        assert_false(pipeline_has_work(&t.p));
        run_open(b, &other); /* what was left behind does no harm */
        assert_true(place(&t, b));
        while (!work(&t, b, 1, 1000))
            ;
        assert_memory_equal(b->rgb, expected.rgb, W * H * 3);
        run_close(&a);
        run_close(b);
        bench_close(&t);
    }
    run_close(&expected);
}

static void pipeline_accounts_for_every_byte_wherever_a_job_is_cancelled(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        cancel_everywhere(&caches[i]);
}

/* Of a picture with a cache the task has so much more. */
static void pipeline_holds_what_steps_leave(void **state)
{
    (void)state;
    struct image_spec s = plain_spec();
    struct bench b;
    struct run r;
    size_t bytes[3];
    for (int i = 0; i < 3; i++) {
        s.step_cache = caches[i];
        bench_open(&b, (size_t)1 << 26, 2);
        run_open(&r, &s);
        bytes[i] = r.task.image->state_bytes;
        assert_true(place(&b, &r));
        assert_true(held(&b) >= bytes[i]);
        while (!work(&b, &r, 1, 1000))
            ;
        run_close(&r);
        bench_close(&b);
    }
    const size_t skip = (size_t)(W / 8) * (H / 8) * 8 * sizeof(float); /* of the first level */
    assert_true(bytes[1] >= bytes[0] + 2 * skip);
    assert_true(bytes[2] >= bytes[0] + 2 * 4 * skip);
}

/* A large picture of many steps runs in all places; the small one comes in, and is ready long before. */
/* Its prompt and its task are freed while the pass that it shared goes on. */
static void pipeline_forgets_who_left_a_pass(void **state)
{
    (void)state;
    struct image_spec s = plain_spec(), other = plain_spec();
    other.prompt = "two blue dogs";
    other.negative_prompt = "green";
    struct run expected;
    struct bench b;
    bench_open(&b, (size_t)1 << 26, 8);
    run_open(&expected, &other);
    assert_true(place(&b, &expected));
    while (!work(&b, &expected, 1, 1000))
        ;
    bench_close(&b);
    int n_ops = 2 * count_ops(&s);
    for (int at = 1; at < n_ops; at += n_ops / 24 + 1) {
        struct run both[2];
        bench_open(&b, (size_t)1 << 26, 8);
        for (int k = 0; k < 2; k++) {
            run_open(&both[k], k ? &other : &s);
            assert_true(place(&b, &both[k]));
        }
        work(&b, both, 2, at);
        if (!both[0].ended)
            pipeline_leave(&b.p, both[0].task.image);
        run_close(&both[0]);
        cache_trim(b.cache);
        while (!work(&b, &both[1], 1, 1000))
            ;
        assert_memory_equal(both[1].rgb, expected.rgb, W * H * 3);
        run_close(&both[1]);
        bench_close(&b);
    }
    run_close(&expected);
}

static int run_without_memory(struct image_unit *u, int64_t until_us, struct err *e)
{
    (void)u, (void)until_us;
    return err_set(e, ERR_NOMEM, "no pinned memory");
}

/* Wherever a pass finds no memory: one job is refused and says so, the other has its picture. */
static void pipeline_refuses_one_job_when_a_pass_has_no_memory(void **state)
{
    (void)state;
    struct image_spec s = plain_spec();
    const int n_ops = 2 * count_ops(&s);
    for (int at = 1; at < n_ops; at += n_ops / 6 + 1) {
        struct run both[2];
        struct image_task *refused = NULL;
        struct err e = {0};
        struct bench b;
        bench_open(&b, (size_t)1 << 26, 8);
        for (int k = 0; k < 2; k++) {
            run_open(&both[k], &s);
            assert_true(place(&b, &both[k]));
        }
        work(&b, both, 2, at);
        struct image_unit *unit = b.p.run.active ? b.p.current->unit : NULL;
        if (unit) {
            int (*run)(struct image_unit *, int64_t, struct err *) = unit->run;
            unit->run = run_without_memory;
            assert_int_equal(pipeline_run(&b.p, 0, &refused, &e), 0);
            unit->run = run;
            assert_non_null(refused);
            assert_int_equal(refused->refused.code, ERR_NOMEM);
            pipeline_leave(&b.p, refused);
        }
        while (!work(&b, both, 2, 1000))
            ;
        for (int k = 0; k < 2; k++)
            if (both[k].task.image != refused)
                assert_true(both[k].ended);
        for (int k = 0; k < 2; k++)
            run_close(&both[k]);
        bench_close(&b);
    }
}

static void pipeline_lets_small_pictures_through(void **state)
{
    (void)state;
    struct image_spec large = plain_spec(), small = plain_spec();
    large.width = large.height = 128;
    large.steps = 12;
    large.n = 3;
    struct bench b;
    struct run runs[3];
    bench_open(&b, (size_t)1 << 28, 8);
    b.p.o.max_pictures = 3;
    run_open(&runs[0], &large);
    run_open(&runs[1], &small);
    run_open(&runs[2], &large);
    assert_true(place(&b, &runs[0]));
    work(&b, runs, 1, 200);
    assert_false(place(&b, &runs[2])); /* no short job: it waits for a place */
    assert_true(place(&b, &runs[1]));
    while (!runs[1].ended)
        work(&b, runs, 2, 1);
    assert_in_range(runs[0].n_progress, 0, large.n * 4);
    assert_true(turns_due(runs[1].task.image, 0, 1) < turns_due(runs[2].task.image, 0, 1));
    while (!work(&b, runs, 2, 1000))
        ;
    assert_true(runs[0].ended);
    for (int k = 0; k < 3; k++)
        run_close(&runs[k]);
    bench_close(&b);
}

static void pipeline_admits_exactly_what_fits(void **state)
{
    (void)state;
    struct image_spec s = plain_spec();
    struct run r, second;
    struct bench b;
    bench_open(&b, (size_t)1 << 26, 1);
    run_open(&r, &s);
    struct err e;
    size_t need = pipeline_need(&b.p, r.task.image, &e);
    assert_true(need > 0);
    assert_true(place(&b, &r));
    assert_int_equal(held(&b), need);
    pipeline_leave(&b.p, r.task.image);
    run_close(&r);
    bench_close(&b);

    bench_open(&b, need, 8); /* just so: one row a pass, one job at a time */
    run_open(&r, &s);
    assert_true(place(&b, &r));
    assert_int_equal(r.task.image->refused.code, 0);
    assert_int_equal(held(&b), need);
    run_open(&second, &s);
    assert_false(place(&b, &second));
    while (!work(&b, &r, 1, 1000))
        ;
    assert_true(r.ended);
    struct cache_stats st; /* its last pass and its prompts stay: the room is there */
    cache_stats(b.cache, &st);
    assert_in_range(st.kept_bytes, 1, need);
    assert_true(place(&b, &second));
    while (!work(&b, &second, 1, 1000))
        ;
    assert_memory_equal(r.rgb, second.rgb, W * H * 3);
    run_close(&r);
    run_close(&second);
    bench_close(&b);

    bench_open(&b, need - 1, 8); /* never */
    run_open(&r, &s);
    assert_true(place(&b, &r));
    assert_int_equal(r.task.image->refused.code, ERR_TOOBIG);
    assert_string_equal(r.task.image->refused.reason, "memory_exceeded");
    assert_false(pipeline_has_work(&b.p));
    run_close(&r);
    bench_close(&b);
}

static void pipeline_computes_a_prompt_once(void **state)
{
    (void)state;
    struct image_spec s = plain_spec();
    struct bench b;
    struct run first, again;
    bench_open(&b, (size_t)1 << 26, 8);
    run_open(&first, &s);
    assert_true(place(&b, &first));
    int n_first = 0, n_again = 0;
    while (!work(&b, &first, 1, 1))
        n_first++;
    run_open(&again, &s);
    assert_true(place(&b, &again));
    while (!work(&b, &again, 1, 1))
        n_again++;
    assert_true(n_again < n_first);
    assert_memory_equal(first.rgb, again.rgb, W * H * 3);
    cache_trim(b.cache); /* what is kept can go at any time */
    struct cache_stats st;
    cache_stats(b.cache, &st);
    assert_int_equal(st.kept_bytes, 0);
    run_close(&first);
    run_close(&again);
    bench_close(&b);
}

static void pipeline_refuses_what_a_model_cannot_do(void **state)
{
    (void)state;
    static uint8_t image[W * H * 3];
    struct {
        struct image_spec s;
        const char *param;
    } bad[9];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        bad[i].s = plain_spec();
    bad[0].s.width = W + 1, bad[0].param = "size";
    bad[1].s.height = 1 << 20, bad[1].param = "size";
    bad[2].s.n = 1000, bad[2].param = "n";
    bad[3].s.steps = 100000, bad[3].param = "steps";
    bad[4].s.guidance_scale = -1, bad[4].param = "guidance_scale";
    bad[5].s.strength = 0, bad[5].param = "strength";
    bad[6].s.mask = image, bad[6].param = "mask";
    bad[7].s.eta = 2, bad[7].param = "eta";
    bad[8].s.guidance_rescale = 3, bad[8].param = "guidance_rescale";
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        struct job *j = job_new(1 << 16);
        j->image = bad[i].s;
        struct task t = {.job = j};
        if (picture_task_new(&t, sd15, &e) != ERR_INVALID)
            fail_msg("%s: %s", bad[i].param, e.msg);
        assert_string_equal(e.param, bad[i].param);
        assert_null(t.image);
        job_unref(j);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipeline_gives_the_same_bytes_alone_and_together),
        cmocka_unit_test(pipeline_accounts_for_every_byte_wherever_a_job_is_cancelled),
        cmocka_unit_test(pipeline_holds_what_steps_leave),
        cmocka_unit_test(pipeline_forgets_who_left_a_pass),
        cmocka_unit_test(pipeline_refuses_one_job_when_a_pass_has_no_memory),
        cmocka_unit_test(pipeline_lets_small_pictures_through),
        cmocka_unit_test(pipeline_admits_exactly_what_fits),
        cmocka_unit_test(pipeline_computes_a_prompt_once),
        cmocka_unit_test(pipeline_refuses_what_a_model_cannot_do),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
