/* The answers of /v1/images.  A picture's base64 text is made once, in quotes, and then only copied. */
#include "api/images_out.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/sdapi.h"
#include "base/base64.h"
#include "base/clock.h"
#include "base/json.h"

enum { PICTURE_ROOM = 64 * 1024, PARAMETERS_MAX = 64 * 1024 };

struct picture {
    int step, n_steps;
    bool complete;
    uint64_t seed;
    bool checked; /* by a safety checker, which said: */
    struct safety_result safety;
    struct buf text; /* "base64" with its quotes */
};

struct images_out {
    struct images_out_options o;
    char *parameters;
    struct picture pictures[JOB_IMAGES_MAX];
    int64_t first_us; /* of the first step's end */
    int first_done;   /* steps done then */
    struct event *pending;
    struct buf text; /* the pending one's, from the worker */
    struct err err;
    struct job_usage usage;
    /* newest preview */
    struct buf preview;
    int preview_image, preview_step;
};

/* Bytes of base64 of a picture's file at most: larger than its pixels only by a little. */
static size_t text_max(const struct images_out_options *o)
{
    size_t pixels = (size_t)o->width * (size_t)o->height;
    if (o->pixels > 0 && (size_t)o->pixels > pixels)
        pixels = (size_t)o->pixels;
    return (pixels * 4 + PICTURE_ROOM) / 3 * 4 + PICTURE_ROOM;
}

size_t images_out_max(const struct images_out_options *o, int n_partials)
{
    return (size_t)o->n * (size_t)(1 + n_partials) * text_max(o) + PICTURE_ROOM;
}

struct images_out *images_out_open(const struct images_out_options *o)
{
    struct images_out *out = xcalloc(1, sizeof *out);
    out->o = *o;
    out->parameters = xstrdup(o->parameters);
    for (int i = 0; i < JOB_IMAGES_MAX; i++)
        buf_init(&out->pictures[i].text, text_max(o));
    buf_init(&out->text, text_max(o));
    buf_init(&out->preview, text_max(o));
    return out;
}

void images_out_close(struct images_out *o)
{
    if (o == NULL)
        return;
    if (o->pending != NULL)
        job_event_free(o->pending);
    for (int i = 0; i < JOB_IMAGES_MAX; i++)
        buf_free(&o->pictures[i].text);
    buf_free(&o->text);
    buf_free(&o->preview);
    free(o->parameters);
    free(o);
}

/* ---- On a worker ---- */

/* The parameters with this picture's seed in them. */
void images_out_parameters(const struct images_out *o, uint64_t seed, struct buf *out)
{
    if (o->parameters[0] == '\0')
        return;
    buf_add(out, o->parameters, o->o.seed_at);
    buf_printf(out, "%llu", (unsigned long long)seed);
    buf_adds(out, o->parameters + o->o.seed_at);
}

/* Is the picture of the event replaced, by black or by a blur? */
static bool hidden(const struct images_out *o, const struct event *ev)
{
    return ev->safety != NULL && ev->safety->flagged && o->o.safety != SAFETY_FLAG;
}

/* A VAE changes all pixels a little, and where a model is driven hard, the colours of all of them. */
static void give_back(const struct images_out *o, const struct event *ev, struct image *im)
{
    if (o->o.mask == NULL || im->width != o->o.width || im->height != o->o.height || hidden(o, ev))
        return;
    for (size_t i = 0, n = (size_t)im->width * (size_t)im->height; i < n; i++)
        if (o->o.mask[i] == 0)
            memcpy(im->data + 3 * i, o->o.init + 3 * i, 3);
}

void images_out_work(struct images_out *o)
{
    const struct event *ev = o->pending; /* ours, so its pixels may be changed */
    struct image im = {ev->width, ev->height, 3, (uint8_t *)(uintptr_t)ev->rgb}, fit = {0},
                 made = {0};
    if (ev->partial < 0 && (im.width != o->o.width || im.height != o->o.height)) {
        /* a super-resolution network has one factor, the request asked for another */
        if (image_resize(&fit, &im, o->o.width, o->o.height, IMAGE_LANCZOS, &o->err) != 0)
            return;
        im = fit;
    }
    give_back(o, ev, &im);
    if (o->o.sd != NULL && !hidden(o, ev)) {
        if (sdapi_mask_paste(o->o.sd, &im, &made, &o->err) != 0) {
            image_free(&fit);
            return;
        }
        im = made.data != NULL ? made : im;
    }
    struct buf parameters, file;
    buf_init(&parameters, PARAMETERS_MAX);
    buf_init(&file, text_max(&o->o) / 4 * 3);
    images_out_parameters(o, ev->seed, &parameters);
    const struct codec_text text = {"parameters", buf_str(&parameters)};
    const struct codec_options options = {.format = o->o.format,
                                          .quality = o->o.compression,
                                          .hasty = ev->partial >= 0,
                                          .n_texts = ev->partial < 0 && parameters.len > 0,
                                          .texts = &text};
    buf_clear(&o->text);
    if (codec_encode(&file, &im, &options, &o->err) == 0) {
        buf_addc(&o->text, '"');
        if (o->o.answer == IMAGE_URL && !o->o.stream)
            buf_printf(&o->text, "data:image/%s;base64,", codec_name(o->o.format));
        base64_encode(&o->text, file.data, file.len);
        buf_addc(&o->text, '"');
        if (o->text.failed)
            err_set(&o->err, ERR_TOOBIG, "a picture is larger than expected");
    }
    buf_free(&file);
    buf_free(&parameters);
    image_free(&fit);
    image_free(&made);
}

/* ---- On the loop ---- */

static const char *quality_of(const struct images_out *o)
{
    switch (o->o.quality) {
    case IMAGE_LOW:
        return "low";
    case IMAGE_HIGH:
    case IMAGE_HD:
        return "high";
    default:
        return "medium";
    }
}

static void put_size(struct json_writer *w, int width, int height)
{
    char size[32];
    snprintf(size, sizeof size, "%dx%d", width, height);
    json_put_str(w, "size", size);
}

/* OpenAI counts pictures in tokens of 16 x 16 pixels. */
static void put_usage(struct json_writer *w, const struct images_out *o, int prompt_tokens, int n)
{
    int64_t output = (int64_t)n * (o->o.width / 16) * (o->o.height / 16);
    json_open(w, "usage", '{');
    json_put_int(w, "input_tokens", prompt_tokens);
    json_open(w, "input_tokens_details", '{');
    json_put_int(w, "text_tokens", prompt_tokens);
    json_put_int(w, "image_tokens", 0);
    json_close(w, '}');
    json_put_int(w, "output_tokens", output);
    json_put_int(w, "total_tokens", prompt_tokens + output);
    json_close(w, '}');
}

const char *images_out_action(const struct safety_result *s, enum safety_action wanted)
{
    static const char *const names[] = {
        [SAFETY_BLOCK] = "block", [SAFETY_BLUR] = "blur", [SAFETY_FLAG] = "flag"};
    return s->flagged ? names[wanted] : "none";
}

static void put_scores(struct json_writer *w, const char *key, const float *scores, int n)
{
    json_open(w, key, '[');
    for (int i = 0; i < n; i++) /* three digits, as they were rounded */
        json_put_num(w, NULL, rint((double)scores[i] * 1000) / 1000);
    json_close(w, ']');
}

static void put_safety(struct json_writer *w, const char *key, const struct images_out *o,
                       const struct picture *p)
{
    json_open(w, key, '{');
    json_put_bool(w, "checked", p->checked);
    if (p->checked) {
        json_put_bool(w, "flagged", p->safety.flagged);
        json_put_str(w, "action", images_out_action(&p->safety, o->o.safety));
        json_open(w, "scores", '{');
        put_scores(w, "concepts", p->safety.concepts, p->safety.n_concepts);
        put_scores(w, "special_care", p->safety.special, p->safety.n_special);
        json_close(w, '}');
    }
    json_close(w, '}');
}

/* Is every picture there and blocked? */
static bool all_blocked(const struct images_out *o)
{
    int n = 0;
    for (int i = 0; i < o->o.n; i++)
        n += o->pictures[i].checked && o->pictures[i].safety.flagged;
    return o->o.safety == SAFETY_BLOCK && n == o->o.n;
}

int images_out_refused(const struct images_out *o, struct err *e)
{
    if (!all_blocked(o))
        return 0;
    return err_set(e, ERR_REFUSED,
                   "the safety system of this server holds back what was made: it may not be safe "
                   "to look at; try another prompt or seed");
}

static void put_frame(const struct images_out *o, const struct event *ev, struct buf *out)
{
    char type[48];
    struct json_writer w;
    bool whole = ev->partial < 0;
    snprintf(type, sizeof type, "%s.%s", o->o.edit ? "image_edit" : "image_generation",
             whole ? "completed" : "partial_image");
    buf_printf(out, "event: %s\ndata: ", type);
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "type", type);
    json_put_raw(&w, "b64_json", o->text.data, o->text.len);
    json_put_int(&w, "created_at", o->o.created);
    put_size(&w, whole ? o->o.width : ev->width, whole ? o->o.height : ev->height);
    json_put_str(&w, "quality", quality_of(o));
    json_put_str(&w, "background", "opaque");
    json_put_str(&w, "output_format", codec_name(o->o.format));
    if (!whole)
        json_put_int(&w, "partial_image_index", ev->partial);
    json_put_int(&w, "image_index", ev->index);
    if (o->parameters[0] != '\0')
        json_put_int(&w, "seed", (int64_t)ev->seed);
    if (whole)
        put_safety(&w, "safety", o, &o->pictures[ev->index]);
    if (whole)
        put_usage(&w, o, ev->usage.prompt_tokens, 1);
    json_close(&w, '}');
    buf_adds(out, "\n\n");
}

static void put_answer(struct images_out *o, const struct job_usage *u, struct buf *out)
{
    struct json_writer w;
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    json_put_int(&w, "created", o->o.created);
    json_put_str(&w, "model", o->o.model);
    json_put_str(&w, "background", "opaque");
    json_put_str(&w, "output_format", codec_name(o->o.format));
    json_put_str(&w, "quality", quality_of(o));
    put_size(&w, o->o.width, o->o.height);
    if (o->parameters[0] != '\0')
        json_put_int(&w, "seed", (int64_t)o->pictures[0].seed);
    json_open(&w, "data", '[');
    for (int i = 0; i < o->o.n; i++) {
        struct picture *p = &o->pictures[i];
        json_open(&w, NULL, '{');
        if (p->complete)
            json_put_raw(&w, o->o.answer == IMAGE_URL ? "url" : "b64_json", p->text.data,
                         p->text.len);
        if (o->parameters[0] != '\0')
            json_put_int(&w, "seed", (int64_t)p->seed);
        put_safety(&w, "safety", o, p);
        json_close(&w, '}');
        buf_free(&p->text);
    }
    json_close(&w, ']');
    put_usage(&w, o, u->prompt_tokens, o->o.n);
    json_close(&w, '}');
}

static void take_progress(struct images_out *o, const struct event *ev)
{
    struct picture *p = &o->pictures[ev->index];
    p->step = ev->step;
    p->n_steps = ev->n_steps;
    if (o->first_us != 0)
        return;
    struct images_progress now;
    images_out_progress(o, &now);
    o->first_us = clock_us();
    o->first_done = now.done;
}

int images_out_event(struct images_out *o, struct event *ev, struct buf *out)
{
    if (ev->index < 0 || ev->index >= o->o.n)
        return 0;
    switch (ev->kind) {
    case EV_PROGRESS:
        take_progress(o, ev);
        return 0;
    case EV_IMAGE:
        if (ev->rgb == NULL || o->pending != NULL)
            return 0;
        o->pending = ev;
        return 1;
    case EV_DONE:
        if (o->o.sd != NULL && !all_blocked(o))
            sdapi_info_answer(o->o.sd, o, out);
        else if (!o->o.stream && !all_blocked(o))
            put_answer(o, &ev->usage, out);
        return 0;
    default:
        return 0;
    }
}

static void swap(struct buf *a, struct buf *b)
{
    struct buf t = *a;
    *a = *b;
    *b = t;
}

int images_out_worked(struct images_out *o, struct buf *out, struct err *e)
{
    struct event *ev = o->pending;
    if (ev == NULL)
        return 0;
    int err = o->err.code;
    struct picture *p = &o->pictures[ev->index];
    if (err != 0) {
        *e = o->err;
    } else if (ev->partial < 0) {
        p->complete = true;
        p->seed = ev->seed;
        p->checked = ev->safety != NULL;
        if (p->checked)
            p->safety = *ev->safety;
    }
    if (err == 0 && o->o.stream && ev->partial < 0 && all_blocked(o)) {
        /* the error that follows says it */
    } else if (err == 0 && o->o.stream) {
        put_frame(o, ev, out);
    } else if (err == 0 && ev->partial < 0) {
        swap(&p->text, &o->text);
    } else if (err == 0) {
        swap(&o->preview, &o->text);
        o->preview_image = ev->index;
        o->preview_step = p->step;
    }
    job_event_free(ev);
    o->pending = NULL;
    return err;
}

void images_out_progress(const struct images_out *o, struct images_progress *p)
{
    int most = 0;
    *p = (struct images_progress){.eta_s = -1};
    for (int i = 0; i < o->o.n; i++) {
        const struct picture *q = &o->pictures[i];
        p->done += q->complete ? q->n_steps : q->step;
        p->n_images += q->complete;
        most = q->n_steps > most ? q->n_steps : most;
    }
    p->total = most * o->o.n;
    if (o->first_us != 0 && p->done > o->first_done)
        p->eta_s = (double)(clock_us() - o->first_us) / 1e6 / (p->done - o->first_done) *
                   (p->total - p->done);
}

void images_out_put_preview(const struct images_out *o, struct json_writer *w, const char *key)
{
    if (o->preview.len == 0) {
        json_put_null(w, key);
        return;
    }
    json_open(w, key, '{');
    json_put_int(w, "image_index", o->preview_image);
    json_put_int(w, "step", o->preview_step);
    json_put_str(w, "output_format", codec_name(o->o.format));
    json_put_raw(w, o->o.answer == IMAGE_URL ? "url" : "b64_json", o->preview.data, o->preview.len);
    json_close(w, '}');
}

/* ---- For other forms of the answer ---- */

int images_out_complete(const struct images_out *o)
{
    int n = 0;
    while (n < o->o.n && o->pictures[n].complete)
        n++;
    return n;
}

void images_out_put_texts(const struct images_out *o, struct json_writer *w)
{
    for (int i = 0, n = images_out_complete(o); i < n; i++)
        json_put_raw(w, NULL, o->pictures[i].text.data, o->pictures[i].text.len);
}

void images_out_put_text(const struct images_out *o, struct json_writer *w, const char *key)
{
    json_put_raw(w, key, o->pictures[0].text.data, o->pictures[0].text.len);
}

void images_out_put_safety(const struct images_out *o, struct json_writer *w)
{
    for (int i = 0, n = images_out_complete(o); i < n; i++)
        put_safety(w, NULL, o, &o->pictures[i]);
}

void images_out_put_preview_text(const struct images_out *o, struct json_writer *w, const char *key)
{
    if (o->preview.len > 0)
        json_put_raw(w, key, o->preview.data, o->preview.len);
    else
        json_put_null(w, key);
}
