/* An engine that does nothing by itself, for tests of api/: image models and two that enlarge, and the job that
 * was submitted last, whose events the test emits.  Included by one test program, in place of engine.c. */
#ifndef TESTS_UNIT_FAKE_ENGINE_H
#define TESTS_UNIT_FAKE_ENGINE_H
#include <string.h>

#include "engine/noise.h"
#include "engine/replicas.h"

static const struct image_card fake_image = {.width = 64,
                                             .height = 64,
                                             .size_step = 8,
                                             .size_min = 16,
                                             .size_max = 256,
                                             .steps = 20,
                                             .steps_max = 100,
                                             .guidance_scale = 7.5f,
                                             .scheduler = NOISE_EULER,
                                             .clip_skip = -1,
                                             .edit = true};
static const struct image_card fake_enlarger = {.width = 64,
                                                .height = 64,
                                                .size_step = 4,
                                                .size_min = 4,
                                                .size_max = 4096,
                                                .steps = 20,
                                                .steps_max = 100,
                                                .guidance_scale = 9,
                                                .scheduler = NOISE_DDIM,
                                                .clip_skip = -1,
                                                .noise_level = 20,
                                                .noise_level_max = 350};
static struct model_card fake_cards[] = {
    {.id = (char *)(uintptr_t) "painter", .kind = MODEL_IMAGE, .image = &fake_image},
    {.id = (char *)(uintptr_t) "inpainter", .kind = MODEL_IMAGE, .image = &fake_image},
    {.id = (char *)(uintptr_t) "enlarger",
     .kind = MODEL_ENLARGER,
     .image = &fake_enlarger,
     .scale = 4},
    {.id = (char *)(uintptr_t) "network", .kind = MODEL_UPSCALER, .scale = 2},
};
static struct job *fake_job; /* a reference, or NULL */
static int fake_refusal;     /* of engine_submit */

int replicas_n_models(const struct replicas *g)
{
    (void)g;
    return sizeof fake_cards / sizeof *fake_cards;
}

const struct model_card *replicas_card_at(const struct replicas *g, int i)
{
    (void)g;
    return &fake_cards[i];
}

enum engine_state replicas_state(struct replicas *g)
{
    (void)g;
    return ENGINE_READY;
}

enum engine_model_state replicas_model_state(const struct replicas *g, int i)
{
    (void)g;
    return i == 0 ? ENGINE_MODEL_LOADED : ENGINE_MODEL_UNLOADED;
}

const char *replicas_device(const struct replicas *g)
{
    (void)g;
    return "fake";
}

void replicas_stats(const struct replicas *g, struct engine_stats *s)
{
    (void)g;
    (void)s;
}

int replicas_submit(struct replicas *g, struct job *j, struct err *e)
{
    (void)g;
    if (fake_refusal)
        return err_set(e, fake_refusal, "the fake engine refuses");
    job_unref(fake_job);
    fake_job = j;
    job_ref(j);
    return 0;
}

int replicas_adapter_list(struct replicas *g, struct engine_adapter **list, int *n, struct err *e)
{
    (void)g;
    (void)e;
    *list = NULL;
    *n = 0;
    return 0;
}

bool engine_adapter_name_ok(const char *name)
{
    return *name != 0;
}

int replicas_adapter_unload(struct replicas *g, const char *model, const char *name, int *n_users,
                            struct err *e)
{
    (void)g;
    (void)model;
    (void)name;
    (void)n_users;
    return err_set(e, ERR_NOTFOUND, "the fake engine has no adapters");
}

static void fake_emit(enum event_kind kind)
{
    struct event *ev = job_event_new(kind, 0, NULL, 0, NULL, 0);
    ev->usage.prompt_tokens = 7;
    if (kind == EV_ERROR)
        err_set(&ev->err, ERR_DEVICE, "the fake device is broken");
    job_emit(fake_job, ev);
}

static void fake_progress(int index, int step, int n_steps)
{
    struct event *ev = job_event_new(EV_PROGRESS, index, NULL, 0, NULL, 0);
    ev->step = step;
    ev->n_steps = n_steps;
    job_emit(fake_job, ev);
}

/* A picture whose pixels tell its seed. */
static void fake_picture(int index, int partial)
{
    const struct image_spec *s = &fake_job->image;
    uint8_t *rgb;
    const bool network = fake_job->kind == JOB_UPSCALE;
    const int width = network ? fake_job->upscale.width * 2 : s->width;
    const int height = network ? fake_job->upscale.height * 2 : s->height;
    struct event *ev = job_event_image(EV_IMAGE, index, width, height, &rgb);
    memset(rgb, (int)((s->seed + (uint64_t)index) & 0xff), (size_t)width * (size_t)height * 3);
    ev->partial = partial;
    ev->seed = s->seed + (uint64_t)index;
    ev->usage.prompt_tokens = 7;
    job_emit(fake_job, ev);
}
#endif
