/* Jobs: reference counts, the cancel flag and the list of events.
 *
 * The list is a short linked list under a mutex of its own: both sides hold it for a few
 * instructions, and only the two threads that share the job ever meet there.  Spec and arena need
 * no lock: the loop writes them before engine_submit hands the job over (the submit queue's mutex
 * orders that) and nobody writes them afterwards.  The last reference, from whichever thread, frees
 * job, arena and the events that nobody fetched. */
#include "engine/job.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

const struct sample_params sample_params_default = {
    .temperature = 1.0f,
    .top_p = 1.0f,
    .min_p = 0.0f,
    .typical_p = 1.0f,
    .presence_penalty = 0.0f,
    .frequency_penalty = 0.0f,
    .repetition_penalty = 1.0f,
    .top_k = 0,
    .repeat_last_n = -1,
    .seed = 0,
};

const struct image_spec image_spec_default = {
    .n = 1,
    .guidance_scale = NAN,
    .guidance_rescale = NAN,
    .strength = NAN,
    .rng = IMAGE_RNG_CPU,
    .clip_skip = -1,
    .aesthetic = {6, 2.5f},
    .noise_level = -1,
    .passes = {.hires = {.strength = NAN}, .upscale = {.noise_level = -1, .guidance_scale = NAN}},
};

struct job_pixels {
    atomic_int refs; /* of the job, of each event that has pixels, of others */
    atomic_size_t bytes;
};

struct job_private {
    struct job_pixels *pixels;
    atomic_int refs;
    atomic_bool cancelled;
    pthread_mutex_t events_mutex; /* head and tail */
    struct event *head, *tail;
};

struct job *job_new(size_t arena_max_bytes)
{
    struct job *j = xcalloc(1, sizeof *j);
    arena_init(&j->arena, arena_max_bytes);
    j->text.n = 1;
    j->text.sample = sample_params_default;
    j->image = image_spec_default;
    j->priv = xcalloc(1, sizeof *j->priv);
    j->priv->pixels = xcalloc(1, sizeof *j->priv->pixels);
    atomic_init(&j->priv->pixels->refs, 1);
    atomic_init(&j->priv->refs, 1);
    atomic_init(&j->priv->cancelled, false);
    pthread_mutex_init(&j->priv->events_mutex, NULL);
    return j;
}

void job_ref(struct job *j)
{
    atomic_fetch_add_explicit(&j->priv->refs, 1, memory_order_relaxed);
}

void job_unref(struct job *j)
{
    if (!j)
        return;
    if (atomic_fetch_sub_explicit(&j->priv->refs, 1, memory_order_acq_rel) != 1)
        return;
    struct event *ev = j->priv->head;
    while (ev) {
        struct event *next = ev->next;
        job_event_free(ev);
        ev = next;
    }
    job_pixels_unref(j->priv->pixels);
    pthread_mutex_destroy(&j->priv->events_mutex);
    free(j->priv);
    arena_free(&j->arena);
    free(j);
}

void job_cancel(struct job *j)
{
    atomic_store_explicit(&j->priv->cancelled, true, memory_order_release);
}

bool job_cancelled(const struct job *j)
{
    return atomic_load_explicit(&j->priv->cancelled, memory_order_acquire);
}

struct event *job_poll(struct job *j)
{
    struct job_private *p = j->priv;
    pthread_mutex_lock(&p->events_mutex);
    struct event *ev = p->head;
    if (ev) {
        p->head = ev->next;
        if (!p->head)
            p->tail = NULL;
        ev->next = NULL;
    }
    pthread_mutex_unlock(&p->events_mutex);
    return ev;
}

struct event *job_event_vector(int index, const float *v, int n)
{
    struct event *ev = xcalloc(1, sizeof *ev + (size_t)n * sizeof *v);
    float *to = (float *)(void *)(ev + 1);
    memcpy(to, v, (size_t)n * sizeof *v);
    ev->kind = EV_VECTOR;
    ev->index = index;
    ev->text = "";
    ev->vector = to;
    ev->n_vector = n;
    return ev;
}

struct event *job_event_new(enum event_kind kind, int index, const char *text, size_t len,
                            const struct token_info *tokens, int n_tokens)
{
    /* One block: event, tokens, text.  All three are aligned as the first two ask. */
    size_t tokens_bytes = (size_t)n_tokens * sizeof *tokens;
    char *block = xmalloc(sizeof(struct event) + tokens_bytes + len + 1);
    struct event *ev = (struct event *)block;
    char *tokens_at = block + sizeof *ev, *text_at = tokens_at + tokens_bytes;
    memset(ev, 0, sizeof *ev);
    ev->kind = kind;
    ev->index = index;
    ev->n_tokens = n_tokens;
    if (n_tokens > 0) {
        memcpy(tokens_at, tokens, tokens_bytes);
        ev->tokens = (const struct token_info *)(void *)tokens_at;
    }
    if (len > 0)
        memcpy(text_at, text, len);
    text_at[len] = '\0';
    ev->text = text_at;
    ev->len = len;
    return ev;
}

/* An event with a picture, in one allocation. */
struct image_block {
    struct event ev; /* first */
    struct safety_result safety;
    struct job_pixels *counted; /* once it was emitted */
    size_t bytes;               /* of rgb */
    uint8_t rgb[];
};

void job_event_free(struct event *ev)
{
    struct image_block *block = ev && ev->rgb ? (struct image_block *)ev : NULL;
    if (block && block->counted) {
        atomic_fetch_sub_explicit(&block->counted->bytes, block->bytes, memory_order_release);
        job_pixels_unref(block->counted);
    }
    free(ev);
}

struct job_pixels *job_pixels_ref(const struct job *j)
{
    atomic_fetch_add_explicit(&j->priv->pixels->refs, 1, memory_order_relaxed);
    return j->priv->pixels;
}

void job_pixels_unref(struct job_pixels *p)
{
    if (atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) == 1)
        free(p);
}

size_t job_pixels_bytes(const struct job_pixels *p)
{
    return atomic_load_explicit(&p->bytes, memory_order_acquire);
}

struct event *job_event_image(enum event_kind kind, int index, int width, int height, uint8_t **rgb)
{
    size_t bytes = (size_t)width * (size_t)height * 3;
    struct image_block *block = mem_try(1, sizeof *block + bytes);
    if (!block)
        return NULL;
    struct event *ev = &block->ev;
    ev->kind = kind;
    ev->index = index;
    ev->text = "";
    ev->partial = -1;
    ev->width = width;
    ev->height = height;
    block->bytes = bytes;
    *rgb = block->rgb;
    ev->rgb = *rgb;
    return ev;
}

void job_event_set_safety(struct event *ev, const struct safety_result *said)
{
    struct image_block *block = (struct image_block *)ev;
    block->safety = *said;
    ev->safety = &block->safety;
}

void job_emit(struct job *j, struct event *ev)
{
    struct job_private *p = j->priv;
    if (ev->rgb) {
        struct image_block *block = (struct image_block *)ev;
        block->counted = job_pixels_ref(j);
        atomic_fetch_add_explicit(&p->pixels->bytes, block->bytes, memory_order_relaxed);
    }
    ev->next = NULL;
    pthread_mutex_lock(&p->events_mutex);
    if (p->tail)
        p->tail->next = ev;
    else
        p->head = ev;
    p->tail = ev;
    pthread_mutex_unlock(&p->events_mutex);
}
