/* What diffusers' pipelines do between the network's passes, number by number: StableDiffusionPipeline,
 * ...Img2ImgPipeline, ...InpaintPipeline and their SDXL forms.  Random numbers are drawn in their order:
 * with a picture to begin from first for its latent, then the noise, and for inpainting at last for
 * the latent of the masked picture. */
#include "engine/picture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/image.h"
#include "engine/enlarge.h"
#include "engine/finite.h"

enum { MOMENTS_INIT, MOMENTS_MASKED };

static size_t latent_floats(const struct image_task *it)
{
    return (size_t)it->shape.h * (size_t)it->shape.w * (size_t)it->shape.c;
}

static bool sees_mask(const struct image_task *it)
{
    return it->d->info->inpaint;
}

/* As diffusers has it: all is made anew, from noise alone. */
static enum picture_from from_of(const struct image_spec *s)
{
    return !s->init || (s->mask && s->strength >= 1) ? FROM_NOISE : FROM_INIT;
}

/* ---- the task ---- */

/* Hands out the task's memory, or with memory NULL only counts it. */
struct layout {
    float *memory;
    size_t n;
};

static float *take(struct layout *l, size_t n)
{
    float *at = l->memory ? l->memory + l->n : NULL;
    l->n += (n + 15) / 16 * 16;
    return at;
}

/* A picture of [h, w, 3] bytes. */
static uint8_t *take_bytes(struct layout *l, int h, int w)
{
    return (uint8_t *)take(l, ((size_t)h * (size_t)w * 3 + sizeof(float) - 1) / sizeof(float));
}

static size_t lay_out(struct image_task *it, float *memory)
{
    struct layout l = {.memory = memory};
    size_t n = latent_floats(it), state = noise_state_bytes(it->noise, &it->shape) / sizeof(float);
    for (int i = 0; i < picture_n_moments(it); i++)
        it->moments[i] = take(&l, 2 * n);
    it->mask = it->spec.mask ? take(&l, n / (size_t)it->shape.c) : NULL;
    for (int i = 0; i < it->spec.n_controls; i++) {
        const size_t seen = steer_seen_bytes(it, i);
        it->steer.seen[i] = seen > 0 ? (uint8_t *)take(&l, seen / sizeof(float) + 1) : NULL;
        it->steer.hints[i] = take(&l, (size_t)picture_n_windows(it) * steer_hint_floats(it, i));
    }
    const bool pixels = it->stage.later && it->from == FROM_INIT;
    for (int i = 0; i < it->spec.n; i++) {
        struct picture *p = &it->pictures[i];
        p->latent = take(&l, n);
        p->out[0] = take(&l, n);
        p->out[1] = it->guided ? take(&l, n) : NULL;
        p->clean = it->spec.partial_images > 0 ? take(&l, n) : NULL;
        p->image = it->spec.init || it->from != FROM_NOISE ? take(&l, n) : NULL;
        p->moments = pixels ? take(&l, 2 * n) : NULL;
        p->pixels = pixels ? take_bytes(&l, it->given_h, it->given_w) : NULL;
        p->init = pixels ? take_bytes(&l, it->spec.height, it->spec.width) : NULL;
        p->noise = it->spec.mask ? take(&l, n) : NULL;
        p->masked = it->spec.mask && sees_mask(it) ? take(&l, n) : NULL;
        p->small = it->d->info->enlarges ? take(&l, n / (size_t)it->shape.c * 3) : NULL;
        for (int side = 0; side < 2; side++)
            p->steer.residuals[side] =
                steer_has(it, side) ? take(&l, steer_residual_floats(it)) : NULL;
        float *buffers = take(&l, state + 1), *cache = take(&l, step_cache_floats(it));
        if (memory)
            noise_state_open(&p->state, it->noise, &it->shape, buffers);
        if (memory && step_cache_branch(it) >= 0)
            step_cache_open(p, cache);
    }
    return l.n * sizeof(float);
}

/* 0.8 that went through a float is 0.80000001. */
static double share_of(float v)
{
    return rint((double)v * 1e6) / 1e6;
}

/* Cells of a side of so many pixels; only what is enlarged may need rounding up. */
static int latent_side(const struct image_info *info, int pixels)
{
    return (pixels + info->multiple - 1) / info->multiple * info->multiple / info->scale;
}

static enum noise_pipeline pipeline_of(const struct diffusion *d, const struct image_spec *s)
{
    if (d->info->pooled_dim > 0 || d->info->guidance_embedded || d->info->enlarges)
        return NOISE_AS_IT_SAYS;
    return s->mask ? NOISE_SD_INPAINT : NOISE_SD;
}

static int prepare(struct image_task *it, struct err *e)
{
    const struct diffusion *d = it->d;
    struct image_spec *s = &it->spec;
    int rc = diffusion_resolve(d, s, e);
    if (rc)
        return rc;
    if (!it->stage.later)
        it->from = from_of(s);
    it->guided = diffusion_guided(d, s);
    rc = picture_small_check(it, e);
    if (rc == 0)
        rc = step_cache_check(it, e);
    if (rc)
        return rc;
    rc = diffusion_prompts(d, s, &it->prompts[0], &it->prompts[1], &it->arena, e);
    if (rc)
        return rc;
    it->shape = (struct noise_shape){.h = latent_side(d->info, s->height),
                                     .w = latent_side(d->info, s->width),
                                     .c = d->info->latent_channels};
    const int window = image_unet_window(d->model, it->shape.h, it->shape.w, s->tiled);
    it->win_y = tiles_axis(it->shape.h, window ? window : it->shape.h, window * 3 / 4 + 1);
    it->win_x = tiles_axis(it->shape.w, window ? window : it->shape.w, window * 3 / 4 + 1);
    rc = steer_check(it, e);
    if (rc)
        return rc;
    const struct noise_args args = {
        .choice = {.scheduler = (enum noise_scheduler)s->scheduler,
                   .sigmas = (enum noise_sigmas)s->sigmas,
                   .spacing = (enum noise_spacing)s->spacing},
        .steps = s->steps,
        .strength = it->from == FROM_NOISE ? 0 : (double)s->strength,
        .start = share_of(s->denoising_start),
        .end = share_of(s->denoising_end),
        .strength_in_range = d->info->guidance_embedded && !s->mask, /* LCM's own pipeline */
        .pipeline = pipeline_of(d, s),
        .xl = d->info->pooled_dim > 0,
        .eta = (double)s->eta,
        .timesteps = s->n_timesteps > 0 ? s->timesteps : NULL,
        .n_timesteps = s->n_timesteps,
        .sigmas = s->n_sigma_list > 0 ? s->sigma_list : NULL,
        .n_sigmas = s->n_sigma_list,
    };
    rc = noise_open(&it->noise, &d->noise, &args, e);
    if (rc)
        return rc;
    it->memory_bytes = lay_out(it, NULL);
    it->state_bytes = it->memory_bytes + (size_t)s->n * (size_t)(1 + s->partial_images) *
                                             (size_t)s->width * (size_t)s->height * 3;
    it->stage.n_steps = noise_n_steps(it->noise);
    return 0;
}

void picture_stage_free(struct stage *s)
{
    struct image_task *it = (struct image_task *)s;
    for (int i = 0; i < JOB_IMAGES_MAX; i++)
        if (it->pictures[i].held)
            job_event_free(it->pictures[i].held);
    free(it->memory);
    noise_close(it->noise);
    arena_free(&it->arena);
    free(it);
}

/* Replaced by the pipeline's when one runs it: until then there is only something to free. */
static const struct stage_ops unplaced = {.free = picture_stage_free};

/* Appends a stage that is not prepared yet. */
static struct image_task *append(struct task *t, const struct diffusion *d,
                                 const struct image_spec *spec)
{
    struct image_task *it = mem_try(1, sizeof *it);
    if (!it)
        return NULL;
    it->stage.ops = &unplaced;
    it->stage.makes = !d->info->enlarges;
    it->task = t;
    it->d = d;
    it->spec = *spec;
    /* embeddings are of the first stage's model */
    it->spec.words = !t->image || t->image->d == d ? t->words : NULL;
    arena_init(&it->arena, (size_t)8 << 20);
    for (int i = 0; i < JOB_IMAGES_MAX; i++) {
        it->pictures[i].task = it;
        it->pictures[i].index = i;
    }
    stage_add(t, &it->stage);
    return it;
}

int picture_task_new(struct task *t, const struct diffusion *d, struct err *e)
{
    struct image_task *it = append(t, d, &t->job->image);
    if (!it)
        return err_set(e, ERR_NOMEM, "no memory for the request");
    t->image = it;
    int rc = prepare(it, e);
    if (rc)
        picture_task_free(t);
    return rc;
}

int picture_stage_new(struct task *t, const struct diffusion *d, const struct image_spec *spec,
                      const int given[2], struct err *e)
{
    struct image_task *it = append(t, d, spec);
    if (!it)
        return err_set(e, ERR_NOMEM, "no memory for the request");
    it->stage.wants_latent = !given;
    if (d->info->enlarges)
        return prepare(it, e); /* from noise, beside what it is given */
    it->from = given ? FROM_INIT : FROM_LATENT;
    it->given_w = given ? given[0] : 0;
    it->given_h = given ? given[1] : 0;
    it->enlarge = spec->passes.hires.how;
    if (given && !d->info->has_encoder)
        return err_set(e, ERR_UNSUPPORTED,
                       "this model has no VAE encoder for a picture that was "
                       "made larger: enlarge the latent instead");
    return prepare(it, e);
}

void picture_task_free(struct task *t)
{
    stage_free(t);
    t->image = NULL;
}

/* Nearest pixel of the mask for each place of the latent; at least half is white. */
static void fill_mask(struct image_task *it)
{
    size_t scale = (size_t)it->d->info->scale, width = (size_t)it->spec.width;
    for (size_t y = 0; y < (size_t)it->shape.h; y++) {
        for (size_t x = 0; x < (size_t)it->shape.w; x++)
            it->mask[y * (size_t)it->shape.w + x] =
                it->spec.mask[y * scale * width + x * scale] >= 128 ? 1.0f : 0.0f;
    }
}

bool picture_task_alloc(struct image_task *it)
{
    it->memory = mem_try(it->memory_bytes, 1);
    if (!it->memory)
        return false;
    lay_out(it, it->memory);
    if (it->mask)
        fill_mask(it);
    return true;
}

int picture_n_moments(const struct image_task *it)
{
    return it->stage.later ? 0 : it->spec.mask ? 2 : it->spec.init ? 1 : 0;
}

void picture_encoder_input(const struct image_task *it, int which, float *rgb)
{
    const struct image_spec *s = &it->spec;
    size_t n = (size_t)s->width * (size_t)s->height;
    for (size_t i = 0; i < n; i++) {
        bool hidden = which == MOMENTS_MASKED && s->mask[i] >= 128;
        for (size_t k = 0; k < 3; k++)
            rgb[i * 3 + k] = hidden ? 0.0f : 2.0f * ((float)s->init[i * 3 + k] / 255.0f) - 1.0f;
    }
}

void picture_own_input(const struct picture *p, float *rgb)
{
    const struct image_spec *s = &p->task->spec;
    size_t n = (size_t)s->width * (size_t)s->height * 3;
    for (size_t i = 0; i < n; i++)
        rgb[i] = 2.0f * ((float)p->init[i] / 255.0f) - 1.0f;
}

/* ---- from noise to a latent ---- */

/* A sample of the encoder's distribution, or its mean where it gives nothing else, as the UNet has it; noise is
 * scratch, may be latent. */
static void sample_moments(struct picture *p, const float *moments, float *latent, float *noise)
{
    const struct image_task *it = p->task;
    const struct image_info *info = it->d->info;
    size_t c = (size_t)it->shape.c, n = latent_floats(it) / c;
    if (!info->encoder_exact)
        rng_torch_normal_nhwc(&p->rng, noise, it->shape.h, it->shape.w, it->shape.c);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < c; k++) {
            float mean = moments[i * 2 * c + k], logvar = moments[i * 2 * c + c + k];
            float v = info->encoder_exact ? mean : mean + expf(0.5f * logvar) * noise[i * c + k];
            latent[i * c + k] = v * info->latent_scale;
        }
    }
}

static void emit_progress(struct picture *p, int step)
{
    struct event *ev = job_event_new(EV_PROGRESS, p->index, "", 0, NULL, 0);
    ev->step = p->task->stage.step_base + step;
    ev->n_steps = p->task->stage.n_steps;
    ev->partial = -1;
    ev->seed = p->task->spec.seed + (uint64_t)p->index;
    job_emit(p->task->task->job, ev);
}

/* What the mask covers of p->image becomes nothing, or the noise that the picture's seed draws next; that is
 * drawn again afterwards, as stable-diffusion-webui has it.  noise is scratch. */
static void empty_hole(struct picture *p, float *noise)
{
    const struct image_task *it = p->task;
    const size_t c = (size_t)it->shape.c, n = latent_floats(it) / c;
    if (!it->spec.mask || it->spec.hole == IMAGE_HOLE_INIT)
        return;
    if (it->spec.hole == IMAGE_HOLE_NOISE) {
        struct rng_torch copy = p->rng;
        rng_torch_normal_nhwc(&copy, noise, it->shape.h, it->shape.w, it->shape.c);
    }
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < c && it->mask[i] > 0; k++)
            p->image[i * c + k] = it->spec.hole == IMAGE_HOLE_NOISE ? noise[i * c + k] : 0;
}

void picture_begin(struct picture *p)
{
    struct image_task *it = p->task;
    const struct image_spec *s = &it->spec;
    rng_torch_seed(&p->rng, s->rng == IMAGE_RNG_CUDA ? RNG_CUDA : RNG_CPU,
                   s->seed + (uint64_t)p->index);
    if (p->small)
        picture_small_begin(p);
    /* A UNet that sees the mask does not need init itself unless it begins from it. */
    if (p->moments || (s->init && !(sees_mask(it) && it->from == FROM_NOISE)))
        sample_moments(p, p->moments ? p->moments : it->moments[MOMENTS_INIT], p->image, p->out[0]);
    if (p->image)
        empty_hole(p, p->out[0]);
    if (s->denoising_start > 0 &&
        it->from != FROM_NOISE) /* it has the noise of that step already */
        memcpy(p->latent, p->image, latent_floats(it) * sizeof *p->latent);
    else
        noise_begin(it->noise, &p->state, it->from == FROM_NOISE ? NULL : p->image, p->latent,
                    p->noise, &p->rng);
    if (s->mask) /* drawn even when it is not used, as diffusers does */
        sample_moments(p, it->moments[MOMENTS_MASKED], p->masked ? p->masked : p->out[0],
                       p->out[0]);
    p->begun = true;
    if (!it->stage.later)
        emit_progress(p, 0); /* it runs now, and has so many steps */
}

bool picture_is_denoised(const struct picture *p)
{
    return p->begun && p->call >= noise_n_calls(p->task->noise);
}

int picture_n_windows(const struct image_task *it)
{
    return it->win_y.n * it->win_x.n;
}

int picture_n_sides(const struct image_task *it)
{
    return it->guided ? 2 : 1;
}

int picture_n_rows(const struct image_task *it)
{
    return picture_n_windows(it) * picture_n_sides(it);
}

int picture_window(const struct picture *p)
{
    return p->rows_out / picture_n_sides(p->task);
}

int picture_row_side(const struct image_task *it, int row)
{
    return row % picture_n_sides(it);
}

/* Where the window of a row begins. */
static void window_of(const struct image_task *it, int row, int *y, int *x)
{
    const int window = row / picture_n_sides(it);
    *y = window / it->win_x.n;
    *x = window % it->win_x.n;
}

void picture_control_input(const struct picture *p, float *x)
{
    const struct image_task *it = p->task;
    const float scale = noise_input_scale(it->noise, p->call);
    const size_t c = (size_t)it->shape.c, n = (size_t)it->win_x.tile * c;
    int iy, ix;
    window_of(it, p->rows_out, &iy, &ix);
    const int y0 = tiles_begin(&it->win_y, iy), x0 = tiles_begin(&it->win_x, ix);
    for (int y = y0; y < y0 + it->win_y.tile; y++) {
        const float *row = p->latent + ((size_t)y * (size_t)it->shape.w + (size_t)x0) * c;
        for (size_t i = 0; i < n; i++)
            *x++ = row[i] * scale;
    }
}

void picture_time_ids(const struct image_task *it, int side, float *ids)
{
    const int scale = it->d->info->scale;
    const float h = (float)(it->win_y.tile * scale), w = (float)(it->win_x.tile * scale);
    const float sizes[IMAGE_TIME_IDS] = {h, w, 0, 0, h, w}; /* original, crop, target */
    memcpy(ids, sizes, sizeof sizes);
    if (it->d->info->aesthetic)
        ids[4] = it->spec.aesthetic[side];
}

void picture_unet_input(const struct picture *p, int row, float *x)
{
    const struct image_task *it = p->task;
    const float scale = noise_input_scale(it->noise, p->call);
    const size_t c = (size_t)it->shape.c, width = (size_t)it->shape.w;
    const bool sees = sees_mask(it);
    int iy, ix;
    window_of(it, row, &iy, &ix);
    const int y0 = tiles_begin(&it->win_y, iy), x0 = tiles_begin(&it->win_x, ix);
    for (int y = y0; y < y0 + it->win_y.tile; y++) {
        size_t at = (size_t)y * width + (size_t)x0;
        for (int k = 0; k < it->win_x.tile; k++, at++) {
            for (size_t j = 0; j < c; j++)
                *x++ = p->latent[at * c + j] * scale;
            for (size_t j = 0; j < 3 && p->small; j++)
                *x++ = p->small[at * 3 + j];
            if (!sees)
                continue;
            *x++ = it->mask[at];
            memcpy(x, p->masked + at * c, c * sizeof *x);
            x += c;
        }
    }
}

void picture_unet_output(struct picture *p, const float *out)
{
    const struct image_task *it = p->task;
    const size_t c = (size_t)it->shape.c, width = (size_t)it->shape.w;
    const int side = picture_row_side(it, p->rows_out);
    float *to = p->out[side];
    if (p->rows_out < picture_n_sides(it))
        memset(to, 0, latent_floats(it) * sizeof *to);
    int iy, ix;
    window_of(it, p->rows_out++, &iy, &ix);
    if (it->win_y.n * it->win_x.n == 1) {
        memcpy(to, out, latent_floats(it) * sizeof *to);
        return;
    }
    const int y0 = tiles_begin(&it->win_y, iy), x0 = tiles_begin(&it->win_x, ix);
    for (int y = y0; y < y0 + it->win_y.tile; y++) {
        const float share_y = tiles_share(&it->win_y, iy, y, 1);
        for (int x = x0; x < x0 + it->win_x.tile; x++, out += c) {
            const float share = share_y * tiles_share(&it->win_x, ix, x, 1);
            float *cell = to + ((size_t)y * width + (size_t)x) * c;
            for (size_t j = 0; j < c && share > 0; j++)
                cell[j] += share * out[j];
        }
    }
}

/* ---- what comes from the stage before ---- */

void picture_give(struct picture *p, const struct stage_gift *g)
{
    const struct image_task *it = p->task;
    p->given = true;
    p->looked = g->safety != NULL;
    if (g->safety)
        p->said = *g->safety;
    if (p->small) {
        picture_small_give(p, g);
    } else if (it->stage.wants_latent) {
        enlarge_latent(p->image, g, &it->shape, it->enlarge);
    } else if (g->pixels) {
        picture_bytes(p->pixels, g->pixels, (size_t)g->h * (size_t)g->w * 3);
    } else {
        memcpy(p->pixels, g->rgb, (size_t)g->h * (size_t)g->w * 3);
    }
}

/* Previews come at even distances: the k-th of n after (k + 1) / (n + 1) of the steps. */
static int partial_step(const struct image_task *it, int k)
{
    return noise_n_steps(it->noise) * (k + 1) / (it->spec.partial_images + 1);
}

void picture_step(struct picture *p)
{
    struct image_task *it = p->task;
    const struct image_spec *s = &it->spec;
    size_t n = latent_floats(it);
    int last = noise_n_calls(it->noise) - 1, call = p->call;
    int before = noise_step_of(it->noise, call);
    int after = call == last ? noise_n_steps(it->noise) : noise_step_of(it->noise, call + 1);
    float *out = p->out[0];
    if (it->guided)
        noise_guide(out, p->out[1], p->out[0], n, s->guidance_scale, s->guidance_rescale);
    /* Two steps may fall on one preview when there are few: then it is given out once. */
    while (p->n_partials < s->partial_images && after > before && call < last &&
           partial_step(it, p->n_partials) <= after) {
        p->preview_due = true;
        p->n_partials++;
    }
    if (p->preview_due)
        noise_preview(it->noise, call, &p->state, out, p->latent, p->clean);
    noise_step(it->noise, call, &p->state, out, p->latent, &p->rng);
    if (s->mask && !sees_mask(it))
        noise_inpaint(it->noise, call, &p->state, p->image, p->noise, it->mask, p->latent);
    p->call++;
    p->rows_out = 0;
    steer_end(p);
    step_cache_end(p);
    if (after > before)
        emit_progress(p, after);
}

/* ---- pixels ---- */

static uint8_t to_byte(float v)
{
    v = v / 2 + 0.5f;
    v = v < 1 ? v : 1;
    v = v > 0 ? v : 0; /* NaN too */
    return (uint8_t)rintf(v * 255.0f);
}

void picture_bytes(uint8_t *to, const float *rgb, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = to_byte(rgb[i]);
}

/* Of the decoder's picture, which may be larger than the one that was asked for. */
static size_t rgb_row(const struct picture *p)
{
    return (size_t)(p->task->shape.w * p->task->d->info->scale) * 3;
}

bool picture_is_finite(const struct picture *p, const float *rgb)
{
    return finite_all(rgb, rgb_row(p) * (size_t)p->task->spec.height);
}

static struct event *image_event(const struct picture *p, bool partial, uint8_t **rgb)
{
    const struct image_spec *s = &p->task->spec;
    struct event *ev = job_event_image(EV_IMAGE, p->index, s->width, s->height, rgb);
    if (!ev)
        return NULL;
    ev->seed = s->seed + (uint64_t)p->index;
    ev->usage.prompt_tokens = p->task->prompts[0].n_tokens;
    ev->partial = partial ? p->n_partials - 1 : -1;
    ev->n_steps = p->task->stage.n_steps;
    ev->step = p->task->stage.step_base + (p->call < noise_n_calls(p->task->noise)
                                               ? noise_step_of(p->task->noise, p->call)
                                               : noise_n_steps(p->task->noise));
    return ev;
}

static struct event *pixels_event(const struct picture *p, const float *rgb, bool partial)
{
    uint8_t *to;
    struct event *ev = image_event(p, partial, &to);
    const size_t row = (size_t)p->task->spec.width * 3;
    for (int y = 0; ev && y < ev->height; y++, to += row, rgb += rgb_row(p))
        picture_bytes(to, rgb, row);
    if (ev && !partial && p->looked)
        job_event_set_safety(ev, &p->said);
    return ev;
}

/* Nobody has looked at a preview, and it shows what the picture will. */
static void emit_preview(const struct picture *p, struct event *ev)
{
    const struct image_task *it = p->task;
    if (it->d->info->has_safety && it->spec.safety != SAFETY_FLAG)
        image_obscure(&(struct image){ev->width, ev->height, 3, (uint8_t *)(uintptr_t)ev->rgb});
    job_emit(it->task->job, ev);
}

bool picture_emit(struct picture *p, const float *rgb, bool partial)
{
    struct event *ev = pixels_event(p, rgb, partial);
    if (ev && partial)
        emit_preview(p, ev);
    else if (ev)
        job_emit(p->task->task->job, ev);
    return ev != NULL;
}

bool picture_hold(struct picture *p, const float *rgb)
{
    p->held = pixels_event(p, rgb, false);
    return p->held != NULL;
}

void picture_release(struct picture *p, const struct safety_result *said)
{
    struct event *ev = p->held;
    enum safety_action action = p->task->spec.safety;
    struct image im = {ev->width, ev->height, 3, (uint8_t *)(uintptr_t)ev->rgb};
    p->held = NULL;
    if (p->looked && p->said.flagged) /* what was replaced before is not what it saw */
        said = &p->said;
    job_event_set_safety(ev, said);
    if (said->flagged && action == SAFETY_BLUR)
        image_obscure(&im);
    else if (said->flagged && action != SAFETY_FLAG)
        memset(im.data, 0, image_bytes(&im));
    struct stage *next = p->task->stage.next;
    if (!next) {
        job_emit(p->task->task->job, ev);
        return;
    }
    const struct stage_gift g = {.rgb = ev->rgb, .h = ev->height, .w = ev->width, .safety = said};
    next->ops->give(next, p->index, &g);
    job_event_free(ev);
}

/* Colours of the latent's channels, measured on what the VAEs decode: SD 1 and 2, SDXL. */
static const float rough[2][4][3] = {
    {{0.298f, 0.207f, 0.208f},
     {0.187f, 0.286f, 0.173f},
     {-0.158f, 0.189f, 0.264f},
     {-0.184f, -0.271f, -0.473f}},
    {{0.3651f, 0.4232f, 0.4341f},
     {-0.2533f, -0.0042f, 0.1068f},
     {0.1076f, 0.1111f, -0.0362f},
     {-0.3165f, -0.2492f, -0.2188f}},
};

/* Between which two of n a point of the enlarged axis lies, and how near to the second. */
struct between {
    int first, second;
    float weight;
};

static struct between between(int at, int scale, int n)
{
    float f = ((float)at + 0.5f) / (float)scale - 0.5f;
    f = f > 0 ? f : 0;
    int first = (int)f < n ? (int)f : n - 1;
    return (struct between){first, first + 1 < n ? first + 1 : first, f - (float)first};
}

/* The latent's values between four places, as a colour. */
static void rough_pixel(const struct picture *p, struct between y, struct between x, uint8_t *to)
{
    const struct image_task *it = p->task;
    const float(*colours)[3] = rough[it->d->info->pooled_dim > 0];
    float rgb[3] = {0};
    int c = it->shape.c, w = it->shape.w;
    for (int k = 0; k < c && k < 4; k++) {
        const float *l = p->clean + k;
        float top = l[(y.first * w + x.first) * c] * (1 - x.weight) +
                    l[(y.first * w + x.second) * c] * x.weight;
        float bottom = l[(y.second * w + x.first) * c] * (1 - x.weight) +
                       l[(y.second * w + x.second) * c] * x.weight;
        for (int i = 0; i < 3; i++)
            rgb[i] += (top * (1 - y.weight) + bottom * y.weight) * colours[k][i];
    }
    for (int i = 0; i < 3; i++)
        to[i] = to_byte(rgb[i]);
}

bool picture_emit_rough(struct picture *p)
{
    const struct image_task *it = p->task;
    int scale = it->d->info->scale;
    uint8_t *to;
    struct event *ev = image_event(p, true, &to);
    if (!ev)
        return false;
    for (int y = 0; y < ev->height; y++) {
        for (int x = 0; x < ev->width; x++, to += 3)
            rough_pixel(p, between(y, scale, it->shape.h), between(x, scale, it->shape.w), to);
    }
    emit_preview(p, ev);
    return true;
}
