/* The engine with text and image models together: chat goes on beside pictures, jobs find their kind of model,
 * everything ends with exactly one EV_DONE or EV_ERROR and gives its memory back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "engine/engine.h"
#include "tests/engine_ready.h"

enum { W = 48, H = 32, BYTES = W * H * 3 };

static const struct engine_model both[] = {{.id = "tiny", .path = "tests/fixtures/tiny-llama.gguf"},
                                           {.id = "sd15", .path = "tests/fixtures/sd_sd15"},
                                           {.id = "sdxl", .path = "tests/fixtures/sd_sdxl"}};

static struct engine *open_engine(const char *preview, size_t cache_bytes)
{
    const struct engine_options o = {.device = "cpu",
                                     .n_threads = 2,
                                     .n_models = 3,
                                     .models = both,
                                     .kv_type = DTYPE_F16,
                                     .cache_bytes = cache_bytes,
                                     .preview = preview};
    return engine_ready(&o);
}

static struct job *image_job(const char *model, int steps)
{
    struct job *j = job_new(1 << 16);
    j->kind = JOB_IMAGE;
    j->image.model = model;
    j->image.prompt = "a red cat";
    j->image.width = model && strcmp(model, "sdxl") == 0 ? 64 : W;
    j->image.height = H;
    j->image.steps = steps;
    j->image.seed = 3;
    return j;
}

static struct job *text_job(const char *model, int max_tokens)
{
    struct job *j = job_new(1 << 16);
    static const int32_t ids[] = {1, 20, 30, 40};
    static const int32_t *const prompts[] = {ids};
    static const int32_t n_prompt[] = {4};
    j->text.model = model;
    j->text.n_prompts = 1;
    j->text.prompts = prompts;
    j->text.n_prompt = n_prompt;
    j->text.max_tokens = max_tokens;
    j->text.ignore_eos = true;
    j->text.sample.temperature = 0;
    return j;
}

struct result {
    bool ended;
    int error, n_images, n_partials, n_progress, n_texts;
    uint8_t rgb[BYTES];
    struct buf text;
};

static void poll(struct job *j, struct result *r)
{
    struct event *ev;
    while ((ev = job_poll(j)) != NULL) {
        assert_false(r->ended);
        switch (ev->kind) {
        case EV_IMAGE:
            if (ev->partial >= 0) {
                r->n_partials++;
                break;
            }
            r->n_images++;
            if (ev->width == W && ev->height == H)
                memcpy(r->rgb, ev->rgb, BYTES);
            break;
        case EV_PROGRESS:
            if (ev->index == 0 && ev->step > 0) /* 0: it begins */
                assert_int_equal(ev->step, ++r->n_progress);
            break;
        case EV_TEXT:
            r->n_texts++;
            buf_add(&r->text, ev->text, ev->len);
            break;
        case EV_ERROR:
            r->error = ev->err.code;
            r->ended = true;
            break;
        case EV_DONE:
            r->ended = true;
            break;
        default:
            break;
        }
        job_event_free(ev);
    }
}

static void wait_end(struct job *j, struct result *r)
{
    while (!r->ended) {
        poll(j, r);
        pause_ms(1);
    }
}

static void submit(struct engine *g, struct job *j)
{
    struct err e = {0};
    if (engine_submit(g, j, &e) != 0)
        fail_msg("%s", e.msg);
}

static struct result *result_new(void)
{
    struct result *r = calloc(1, sizeof *r);
    buf_init(&r->text, 1 << 20);
    return r;
}

static void result_free(struct result *r)
{
    buf_free(&r->text);
    free(r);
}

static struct result *run(struct engine *g, struct job *j)
{
    struct result *r = result_new();
    submit(g, j);
    wait_end(j, r);
    job_unref(j);
    return r;
}

/* The counters are written once a turn, after the events of that turn. */
static bool settles(struct engine *g)
{
    struct engine_stats s;
    PAUSE_UNTIL((engine_stats(g, &s), s.held_bytes == 0 && s.images_running == 0 &&
                                          s.jobs_waiting == 0 && s.sequences_running == 0 &&
                                          s.pages_used == 0));
    return s.held_bytes == 0 && s.images_running == 0 && s.jobs_waiting == 0 &&
           s.sequences_running == 0 && s.pages_used == 0;
}

static void wait_held(struct engine *g, int64_t bytes)
{
    struct engine_stats s;
    PAUSE_UNTIL((engine_stats(g, &s), s.held_bytes == bytes && s.images_running == 0));
    assert_int_equal(s.held_bytes, bytes);
}

static void engine_writes_text_beside_pictures(void **state)
{
    (void)state;
    struct engine *g = open_engine(NULL, (size_t)1 << 26);
    struct result *text = run(g, text_job(NULL, 100)), *image = run(g, image_job(NULL, 3));
    assert_int_equal(text->error, 0);
    assert_int_equal(image->error, 0);
    assert_int_equal(image->n_images, 1);
    assert_int_equal(image->n_progress, 3);
    /* Together: the same text, the same bytes, and neither waits for the other's end. */
    struct job *picture = image_job("sd15", 20), *chat = text_job("tiny", 100);
    struct result *p = result_new(), *c = result_new();
    submit(g, picture);
    while (p->n_progress < 2)
        poll(picture, p), pause_ms(1);
    submit(g, chat);
    wait_end(chat, c);
    poll(picture, p);
    assert_false(p->ended && p->n_progress < 20);
    struct result *q = run(g, image_job("sd15", 3));
    wait_end(picture, p);
    assert_int_equal(p->n_progress, 20);
    assert_string_equal(buf_str(&c->text), buf_str(&text->text));
    assert_memory_equal(q->rgb, image->rgb, BYTES);
    assert_true(settles(g));
    struct engine_stats s;
    engine_stats(g, &s);
    assert_int_equal(s.images, 3);
    assert_int_equal(s.image_steps, 3 + 20 + 1 + 3 + 2); /* PNDM begins with one call more */
    engine_close(g);
    g = open_engine(NULL, (size_t)1 << 25); /* after a restart, too */
    struct result *again = run(g, image_job(NULL, 3));
    assert_memory_equal(again->rgb, image->rgb, BYTES);
    engine_close(g);
    struct result *all[] = {text, image, p, c, q, again};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        result_free(all[i]);
    job_unref(picture);
    job_unref(chat);
}

static void engine_finds_the_model_of_a_jobs_kind(void **state)
{
    (void)state;
    struct engine *g = open_engine(NULL, 0);
    struct err e = {0};
    assert_string_equal(engine_card(g, MODEL_TEXT, NULL, &e)->id, "tiny");
    const struct model_card *card = engine_card(g, MODEL_IMAGE, "", &e);
    assert_string_equal(card->id, "sd15");
    assert_string_equal(card->arch, "sd15");
    assert_string_equal(card->source, "diffusers");
    assert_non_null(card->image);
    assert_string_equal(engine_card(g, MODEL_IMAGE, "sdxl", &e)->id, "sdxl");
    assert_null(engine_card(g, MODEL_IMAGE, "tiny", &e));
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.param, "model");
    assert_null(engine_card(g, MODEL_EMBEDDING, NULL, &e));
    assert_int_equal(e.code, ERR_NOTFOUND);
    struct job *j = image_job("tiny", 1);
    assert_int_equal(engine_submit(g, j, &e), ERR_INVALID);
    job_unref(j);
    j = text_job("sd15", 1);
    assert_int_equal(engine_submit(g, j, &e), ERR_INVALID);
    job_unref(j);
    j = image_job("nobody", 1);
    assert_int_equal(engine_submit(g, j, &e), ERR_NOTFOUND);
    job_unref(j);
    engine_close(g);
}

static void engine_gives_previews_on_the_way(void **state)
{
    (void)state;
    const char *const previews[] = {NULL, "tests/fixtures/sd_taesd"};
    struct result *r[2];
    for (int i = 0; i < 2; i++) {
        struct engine *g = open_engine(previews[i], 0);
        struct job *j = image_job("sd15", 6);
        j->image.partial_images = 3;
        r[i] = run(g, j);
        assert_int_equal(r[i]->error, 0);
        assert_int_equal(r[i]->n_partials, 3);
        assert_int_equal(r[i]->n_images, 1);
        engine_close(g);
    }
    assert_memory_equal(r[0]->rgb, r[1]->rgb, BYTES); /* whatever the previews are */
    result_free(r[0]);
    result_free(r[1]);
}

static void engine_cancelled_pictures_leave_nothing(void **state)
{
    (void)state;
    struct engine *g = open_engine(NULL, (size_t)1 << 26);
    for (int k = 0; k < 12; k++) {
        struct job *jobs[3] = {image_job("sd15", 30), image_job("sd15", 30), image_job("sdxl", 30)};
        struct result *r[3];
        jobs[1]->image.n = 3;
        for (int i = 0; i < 3; i++) {
            r[i] = result_new();
            submit(g, jobs[i]);
        }
        pause_ms(k * k);
        for (int i = 0; i < 3; i++)
            job_cancel(jobs[i]);
        for (int i = 0; i < 3; i++) {
            wait_end(jobs[i], r[i]);
            assert_true(r[i]->error == ERR_CANCELLED || r[i]->n_images > 0);
            result_free(r[i]);
            job_unref(jobs[i]);
        }
        assert_true(settles(g));
    }
    engine_close(g);
}

static void engine_close_ends_pictures_too(void **state)
{
    (void)state;
    struct engine *g = open_engine(NULL, 0);
    struct job *jobs[8];
    struct result *r[8];
    for (int i = 0; i < 8; i++) {
        r[i] = result_new();
        jobs[i] = image_job(i % 2 ? "sd15" : "sdxl", 500);
        submit(g, jobs[i]);
    }
    PAUSE_UNTIL((poll(jobs[1], r[1]), r[1]->n_progress > 0));
    engine_close(g);
    for (int i = 0; i < 8; i++) {
        poll(jobs[i], r[i]);
        assert_true(r[i]->ended);
        assert_true(r[i]->error == ERR_CANCELLED ||
                    r[i]->n_images == 1); /* ready before the close */
        result_free(r[i]);
        job_unref(jobs[i]);
    }
}

static void engine_refuses_pictures_beyond_its_memory(void **state)
{
    (void)state;
    struct engine *g = open_engine(NULL, (size_t)1 << 20);
    struct job *j = image_job("sd15", 2);
    j->image.width = j->image.height = 512;
    struct result *big = run(g, j);
    assert_int_equal(big->error, ERR_TOOBIG);
    struct result *small = run(g, image_job("sd15", 2));
    assert_int_equal(small->error, 0);
    assert_true(settles(g));
    engine_close(g);
    result_free(big);
    result_free(small);
}

static void engine_counts_pictures_until_they_are_fetched(void **state)
{
    (void)state;
    struct engine *g = open_engine(NULL, (size_t)1 << 28);
    struct job *j = image_job("sd15", 1);
    j->image.n = 2;
    submit(g, j);
    wait_held(g, 2 * BYTES);
    struct event *ev, *kept = NULL;
    while ((ev = job_poll(j)) != NULL) {
        if (ev->kind == EV_IMAGE && ev->index == 1)
            kept = ev;
        else
            job_event_free(ev);
    }
    job_unref(j); /* the event outlives it */
    wait_held(g, BYTES);
    job_event_free(kept);
    assert_true(settles(g));
    engine_close(g);
}

/* Who has a job's last event may ask for the next thing at once: its places are free then. */
static void engine_has_left_what_a_job_used_when_it_says_that_it_is_done(void **state)
{
    (void)state;
    const struct engine_options o = {.device = "cpu",
                                     .n_threads = 1,
                                     .n_models = 2,
                                     .models = both,
                                     .kv_type = DTYPE_F16,
                                     .cache_bytes = (size_t)1 << 26,
                                     .lora_dir = "tests/fixtures/lora",
                                     .max_loras = 1};
    struct engine *g = engine_ready(&o);
    static const struct lora_ref loras[] = {{.name = "kohya", .scale = 1, .text_scale = 1},
                                            {.name = "peft", .scale = 1, .text_scale = 1}};
    for (int k = 0; k < 100; k++) {
        struct job *j = image_job("sd15", 1);
        j->image.width = j->image.height = 16;
        j->image.loras = &loras[k % 2];
        j->image.n_loras = 1;
        struct result *r = result_new();
        submit(g, j);
        while (!r->ended)
            poll(j, r);
        assert_int_equal(r->error, 0);
        result_free(r);
        job_unref(j);
    }
    engine_close(g);
}

int main(void)
{
    log_init(LOG_ERROR, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine_writes_text_beside_pictures),
        cmocka_unit_test(engine_finds_the_model_of_a_jobs_kind),
        cmocka_unit_test(engine_gives_previews_on_the_way),
        cmocka_unit_test(engine_cancelled_pictures_leave_nothing),
        cmocka_unit_test(engine_close_ends_pictures_too),
        cmocka_unit_test(engine_refuses_pictures_beyond_its_memory),
        cmocka_unit_test(engine_has_left_what_a_job_used_when_it_says_that_it_is_done),
        cmocka_unit_test(engine_counts_pictures_until_they_are_fetched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
