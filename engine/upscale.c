/* Turns and memory of super-resolution networks. */
#include "engine/upscale.h"

#include <stdlib.h>
#include <string.h>

#include "engine/finite.h"
#include "engine/picture.h"

static size_t bytes_of(const struct upscale_task *it, int scale)
{
    return (size_t)it->width * (size_t)it->height * 3 * (size_t)(scale * scale);
}

static void free_task(struct stage *s)
{
    struct upscale_task *it = (struct upscale_task *)s;
    free(it->memory);
    free(it);
}

int upscale_task_new(struct upscale_task **out, struct task *t, const struct upscaler_info *info,
                     const struct upscale_task *like, const uint8_t *rgb, struct err *e)
{
    static const struct stage_ops unplaced = {.free = free_task};
    const int most = UPSCALER_SIDE_MAX / info->scale;
    if (like->width < 1 || like->height < 1 || like->width > most || like->height > most) {
        err_set(e, ERR_INVALID, "a picture of %dx%d made %d times as large: sides end at %d pixels",
                like->width, like->height, info->scale, UPSCALER_SIDE_MAX);
        return err_param(e, "upscale");
    }
    struct upscale_task *it = mem_try(1, sizeof *it);
    if (!it)
        return err_set(e, ERR_NOMEM, "no memory for the request");
    it->stage.ops = &unplaced;
    it->stage.n_steps = 1;
    it->task = t;
    it->n = like->n;
    it->width = like->width;
    it->height = like->height;
    it->seed = like->seed;
    it->scale = info->scale;
    it->in[0] = rgb;
    it->given[0] = rgb != NULL;
    stage_add(t, &it->stage);
    *out = it;
    return 0;
}

/* ---- memory ---- */

static int need(struct stage *s, const struct stage *beside, struct stage_need *n, struct err *e)
{
    struct upscale_task *it = (struct upscale_task *)s;
    struct upscale *u = s->owner;
    struct err why = {0};
    (void)beside;
    n->pass = upscaler_pass_bytes(u->m, it->width, it->height, &why);
    n->own =
        (s->later ? (size_t)it->n * bytes_of(it, 1) : 0) + (s->next ? bytes_of(it, it->scale) : 0);
    if (n->pass == 0)
        *e = why;
    return n->pass > 0 ? 0 : why.code;
}

static int place(struct stage *s, struct err *e)
{
    struct upscale_task *it = (struct upscale_task *)s, **at;
    struct upscale *u = s->owner;
    struct stage_need n;
    int rc = need(s, NULL, &n, e);
    if (rc)
        return 1;
    size_t more = n.pass > u->hold_bytes ? n.pass - u->hold_bytes : 0;
    if (!cache_hold(u->cache, n.own + more))
        return 0;
    it->memory = mem_try(n.own + 1, 1);
    if (!it->memory) {
        cache_unhold(u->cache, n.own + more);
        err_set(e, ERR_NOMEM, "no memory for a picture of %dx%d", it->width, it->height);
        return 1;
    }
    u->hold_bytes += more;
    it->own_bytes = n.own;
    it->pass_bytes = n.pass;
    for (int i = 0; i < it->n && s->later; i++)
        it->in[i] = it->memory + (size_t)i * bytes_of(it, 1);
    it->out = s->next ? it->memory + n.own - bytes_of(it, it->scale) : NULL;
    for (at = &u->tasks; *at; at = &(*at)->next)
        ;
    *at = it;
    it->next = NULL;
    return 1;
}

static void drop_run(struct upscale *u)
{
    if (u->run.pass)
        image_close(&u->run.pass->unit);
    if (u->run.event)
        job_event_free(u->run.event);
    u->run.pass = NULL;
    u->run.event = NULL;
    u->run.task = NULL;
}

static void leave(struct stage *s)
{
    struct upscale_task *it = (struct upscale_task *)s, **at;
    struct upscale *u = s->owner;
    size_t most = 0;
    if (u->run.task == it)
        drop_run(u);
    for (at = &u->tasks; *at != it; at = &(*at)->next)
        ;
    *at = it->next;
    for (const struct upscale_task *o = u->tasks; o; o = o->next)
        most = o->pass_bytes > most ? o->pass_bytes : most;
    if (u->run.pass && u->run.pass->unit.bytes > most)
        most = u->run.pass->unit.bytes;
    cache_unhold(u->cache, it->own_bytes + u->hold_bytes - most);
    u->hold_bytes = most;
}

static void give(struct stage *s, int index, const struct stage_gift *g)
{
    struct upscale_task *it = (struct upscale_task *)s;
    uint8_t *to = it->memory + (size_t)index * bytes_of(it, 1);
    if (g->pixels)
        picture_bytes(to, g->pixels, bytes_of(it, 1));
    else
        memcpy(to, g->rgb, bytes_of(it, 1));
    it->looked[index] = g->safety != NULL;
    if (g->safety)
        it->said[index] = *g->safety;
    it->given[index] = true;
}

void upscale_stage(struct upscale *u, struct upscale_task *it)
{
    static const struct stage_ops ops = {
        .need = need, .place = place, .leave = leave, .give = give, .free = free_task};
    it->stage.ops = &ops;
    it->stage.owner = u;
}

/* ---- turns ---- */

/* The picture that waits longest: of the oldest task that has one. */
static struct upscale_task *find_next(const struct upscale *u, int *index)
{
    for (struct upscale_task *it = u->tasks; it; it = it->next) {
        for (int i = 0; i < it->n; i++) {
            if (it->given[i] && !it->done[i]) {
                *index = i;
                return it;
            }
        }
    }
    return NULL;
}

bool upscale_has_work(const struct upscale *u)
{
    int index;
    return u->run.task || find_next(u, &index);
}

static int begin(struct upscale *u, struct upscale_task *it, int index, struct err *e)
{
    uint8_t *out = it->out;
    if (!out) {
        u->run.event =
            job_event_image(EV_IMAGE, index, it->width * it->scale, it->height * it->scale, &out);
        if (!u->run.event)
            return err_set(e, ERR_NOMEM, "no memory for a picture of %dx%d", it->width * it->scale,
                           it->height * it->scale);
    }
    int rc = upscaler_pass_open(&u->run.pass, u->m, it->width, it->height, e);
    if (rc) {
        u->run.pass = NULL;
        return rc;
    }
    u->run.pass->rgb = it->in[index];
    u->run.pass->out = out;
    u->run.task = it;
    u->run.index = index;
    return 0;
}

static void emit_progress(const struct upscale_task *it, int index)
{
    struct event *ev = job_event_new(EV_PROGRESS, index, "", 0, NULL, 0);
    ev->step = it->stage.step_base + 1;
    ev->n_steps = it->stage.n_steps;
    ev->partial = -1;
    ev->seed = it->seed + (uint64_t)index;
    job_emit(it->task->job, ev);
}

/* The task when that was its last picture and nobody waits for it, or when it fails. */
static struct upscale_task *end(struct upscale *u)
{
    struct upscale_task *it = u->run.task;
    struct event *ev = u->run.event;
    int index = u->run.index;
    if (u->run.pass->broken) {
        finite_error("a picture", &it->refused);
        drop_run(u);
        return it;
    }
    u->run.event = NULL;
    drop_run(u);
    it->done[index] = true;
    it->n_done++;
    u->n_images++;
    emit_progress(it, index);
    if (it->stage.next) {
        const struct stage_gift g = {
            .rgb = it->out, .h = it->height * it->scale, .w = it->width * it->scale};
        it->stage.next->ops->give(it->stage.next, index, &g);
        return NULL;
    }
    ev->seed = it->seed + (uint64_t)index;
    ev->n_steps = ev->step = it->stage.n_steps;
    if (it->looked[index])
        job_event_set_safety(ev, &it->said[index]);
    if (it->task->image)
        ev->usage.prompt_tokens = it->task->image->prompts[0].n_tokens;
    job_emit(it->task->job, ev);
    return it->n_done == it->n ? it : NULL;
}

int upscale_run(struct upscale *u, int64_t until_us, struct upscale_task **ended, struct err *e)
{
    *ended = NULL;
    if (!u->run.task) {
        int index = 0;
        struct upscale_task *it = find_next(u, &index);
        if (!it)
            return 0;
        if (begin(u, it, index, &it->refused) != 0) {
            drop_run(u);
            *ended = it;
            return 0;
        }
    }
    int rc = image_run(&u->run.pass->unit, until_us, e);
    if (rc < 0)
        return rc;
    if (rc == 0)
        *ended = end(u);
    return 0;
}
