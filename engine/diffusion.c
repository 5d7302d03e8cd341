/* Opens an image model with all that belongs to it, and reads requests by it. */
#include "engine/diffusion.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "engine/models/image_adapter.h"
#include "engine/models/nn.h"
#include "engine/step_cache.h"
#include "engine/text/clip_bpe.h"
#include "engine/text/prompt.h"

enum {
    SIDE_MAX = 4096,
    PIXELS_MAX = 1 << 22,
    ENLARGED_MAX = 1 << 24,
    STEPS_MAX = NOISE_MAX_STEPS,
    NOISE_LEVEL = 20 /* of what is enlarged, as diffusers */
};

bool diffusion_is(const char *path)
{
    return checkpoint_is_image(path);
}

/* ---- open ---- */

static int open_tokenizers(struct diffusion *d, struct checkpoint *c, struct err *e)
{
    for (int i = 0; i < d->info->n_encoders; i++) {
        /* A model with OpenCLIP ViT-bigG alone (the refiner) has its tokenizer in tokenizer_2. */
        bool second = i == 1 || !checkpoint_has(c, CHECKPOINT_TEXT_ENCODER);
        int rc = checkpoint_tokenizer(c, second, &d->bpe[i], e);
        if (rc)
            return err_wrap(e, "tokenizer");
        int n_vocab = clip_bpe_info(d->bpe[i])->n_vocab;
        if (n_vocab > d->info->n_vocab[i])
            return err_set(e, ERR_CORRUPT, "the tokenizer has %d tokens, the text encoder %d",
                           n_vocab, d->info->n_vocab[i]);
    }
    return 0;
}

static void count_weights(struct diffusion *d, const struct checkpoint *c)
{
    for (int part = 0; part < CHECKPOINT_N_PARTS; part++) {
        if (checkpoint_has(c, (enum checkpoint_part)part))
            nn_count(c, (enum checkpoint_part)part, &d->n_params, &d->type);
    }
}

static void fill_card(struct diffusion *d)
{
    const struct image_info *info = d->info;
    const bool enlarges = info->enlarges;
    d->card = (struct image_card){
        .width = info->default_width,
        .height = info->default_height,
        .size_step = enlarges ? info->scale : info->multiple,
        .size_min = enlarges ? info->scale : info->multiple,
        .size_max = SIDE_MAX,
        .pixels_max = enlarges ? ENLARGED_MAX : PIXELS_MAX,
        .steps = info->default_steps,
        .steps_max = STEPS_MAX,
        .guidance_scale = info->default_guidance,
        .scheduler = (int)d->noise.scheduler,
        .clip_skip = -1,
        .noise_level = info->max_level < NOISE_LEVEL ? info->max_level : NOISE_LEVEL,
        .noise_level_max = info->max_level,
        .inpaint = info->inpaint,
        .edit = info->has_encoder && !enlarges,
        .safety = info->has_safety,
    };
    step_cache_card(d->model, &d->card);
}

static int open_small_noise(struct diffusion *d, const struct checkpoint *c, struct err *e)
{
    static const char file[] = "low_res_scheduler/scheduler_config.json";
    struct cJSON *config = NULL;
    int rc = checkpoint_document(c, file, JSON_OBJECT, &config, e);
    if (rc == 0 && (rc = noise_config_read(&d->small_noise, config, e)) != 0)
        err_wrap(e, "%s", file);
    json_free(config);
    return rc;
}

static int open_parts(struct diffusion *d, struct checkpoint *c, struct backend *be,
                      const struct diffusion_options *o, struct err *e)
{
    const struct image_model_options mo = {.vae_bytes = o->vae_bytes,
                                           .preview = o->preview,
                                           .progress = o->progress,
                                           .adapters = o->adapters};
    const struct cJSON *scheduler = checkpoint_scheduler(c);
    int rc = scheduler ? noise_config_read(&d->noise, scheduler, e) : 0;
    if (rc)
        return err_wrap(e, "scheduler_config.json");
    count_weights(d, c);
    rc = image_model_open(&d->model, c, be, &mo, e);
    if (rc) {
        d->model = NULL;
        return rc;
    }
    d->info = image_model_info(d->model);
    if (o->safety == SAFETY_REQUIRED && !d->info->has_safety)
        return err_set(e, ERR_UNSUPPORTED,
                       "it has no safety checker, and the option safety_required wants one");
    rc = o->bare ? 0 : open_tokenizers(d, c, e);
    if (rc == 0 && d->info->enlarges)
        rc = open_small_noise(d, c, e);
    if (rc)
        return rc;
    if (checkpoint_damaged(c))
        return err_set(e, ERR_IO, "the file changed while it was loaded");
    fill_card(d);
    return 0;
}

int diffusion_open(struct diffusion **out, const char *path, struct backend *be,
                   const struct diffusion_options *o, struct err *e)
{
    struct checkpoint *c = NULL;
    const struct checkpoint_options co = {.tokenizer = o->tokenizer,
                                          .prediction = o->prediction,
                                          .no_safety = o->safety == SAFETY_NEVER};
    int rc = checkpoint_open(&c, path, &co, e);
    if (rc)
        return rc;
    struct diffusion *d = xcalloc(1, sizeof *d);
    rc = open_parts(d, c, be, o, e);
    checkpoint_close(c);
    if (rc) {
        diffusion_close(d);
        return rc;
    }
    *out = d;
    return 0;
}

void diffusion_close(struct diffusion *d)
{
    if (!d)
        return;
    for (int i = 0; i < IMAGE_MAX_ENCODERS; i++) {
        if (d->bpe[i])
            clip_bpe_close(d->bpe[i]);
    }
    if (d->model)
        image_model_close(d->model);
    free(d);
}

/* ---- a request ---- */

static int check_size(const struct diffusion *d, struct image_spec *s, struct err *e)
{
    const struct image_card *c = &d->card;
    s->width = s->width ? s->width : c->width;
    s->height = s->height ? s->height : c->height;
    if (s->width < c->size_min || s->height < c->size_min || s->width > c->size_max ||
        s->height > c->size_max || (int64_t)s->width * s->height > c->pixels_max) {
        err_set(e, ERR_INVALID,
                "a picture of %dx%d: sides must be %d to %d, and not more than %d pixels in all",
                s->width, s->height, c->size_min, c->size_max, c->pixels_max);
        return err_param(e, "size");
    }
    if (s->width % c->size_step || s->height % c->size_step) {
        err_set(e, ERR_INVALID, "a picture of %dx%d: this model's sides are multiples of %d",
                s->width, s->height, c->size_step);
        return err_param(e, "size");
    }
    return 0;
}

static int check_numbers(struct image_spec *s, const struct image_card *c, struct err *e)
{
    s->steps = s->n_sigma_list  ? s->n_sigma_list - 1
               : s->n_timesteps ? s->n_timesteps
               : s->steps       ? s->steps
                                : c->steps;
    if (isnan(s->guidance_scale))
        s->guidance_scale = c->guidance_scale;
    if (isnan(s->guidance_rescale))
        s->guidance_rescale = c->guidance_rescale;
    if (isnan(s->strength))
        s->strength = s->mask ? 1.0f : 0.8f;
    if (isnan(s->eta))
        s->eta = 0;
    if (s->noise_level < 0)
        s->noise_level = c->noise_level;
    const char *bad = NULL;
    if (s->n < 1 || s->n > JOB_IMAGES_MAX)
        bad = "n";
    else if (s->steps < 1 || s->steps > c->steps_max)
        bad = "steps";
    else if (s->noise_level > c->noise_level_max)
        bad = "noise_level";
    else if (!(s->guidance_scale >= 0 && s->guidance_scale <= 1000))
        bad = "guidance_scale";
    else if (!(s->guidance_rescale >= 0 && s->guidance_rescale <= 1))
        bad = "guidance_rescale";
    else if (!(s->strength > 0 && s->strength <= 1))
        bad = "strength";
    else if (s->partial_images < 0 || s->partial_images > JOB_PARTIALS_MAX)
        bad = "partial_images";
    else if (s->clip_skip < -1 || s->clip_skip > 11)
        bad = "clip_skip";
    else if (!(s->eta >= 0 && s->eta <= 1))
        bad = "eta";
    else if (!(s->denoising_start >= 0 && s->denoising_start < 1) ||
             (s->denoising_start > 0 && s->mask))
        bad = "denoising_start";
    else if (!(s->denoising_end >= 0 && s->denoising_end <= 1) ||
             (s->denoising_end > 0 && s->denoising_end <= s->denoising_start))
        bad = "denoising_end";
    if (!bad)
        return 0;
    err_set(e, ERR_INVALID, "%s is out of its range", bad);
    return err_param(e, "%s", bad);
}

int diffusion_resolve(const struct diffusion *d, struct image_spec *s, struct err *e)
{
    int rc = check_size(d, s, e);
    if (rc == 0)
        rc = check_numbers(s, &d->card, e);
    if (rc)
        return rc;
    if (s->mask && !s->init) {
        err_set(e, ERR_INVALID, "a mask needs an image");
        return err_param(e, "mask");
    }
    if (s->init && !d->info->has_encoder)
        return err_set(e, ERR_UNSUPPORTED,
                       "this model has no VAE encoder: it makes pictures from text alone");
    if (d->card.inpaint && !s->mask) {
        err_set(e, ERR_INVALID, "this model is made for inpainting: it needs an image and a mask");
        return err_param(e, s->init ? "mask" : "image");
    }
    return 0;
}

bool diffusion_guided(const struct diffusion *d, const struct image_spec *s)
{
    return s->guidance_scale > 1 && !d->info->guidance_embedded;
}

/* The text in every tokenizer's ids. */
static int encode(const struct diffusion *d, const char *text, const struct prompt_words *words,
                  struct prompt out[], struct arena *a, struct err *e)
{
    text = text ? text : "";
    for (int i = 0; i < d->info->n_encoders; i++) {
        const struct prompt_source src = {.bpe = d->bpe[i], .words = words};
        int rc = prompt_parse_with(&out[i], &src, text, strlen(text), a, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int extend(const struct diffusion *d, struct prompt ps[], int n_chunks, struct arena *a,
                  struct err *e)
{
    for (int i = 0; i < d->info->n_encoders; i++) {
        int rc = prompt_extend(&ps[i], d->bpe[i], n_chunks, a, e);
        if (rc)
            return rc;
    }
    return 0;
}

static struct diffusion_prompt gather(const struct diffusion *d, const struct prompt ps[],
                                      int clip_skip)
{
    struct diffusion_prompt p = {
        .n_chunks = ps[0].n_chunks, .n_tokens = ps[0].n_tokens, .clip_skip = clip_skip};
    for (int i = 0; i < d->info->n_encoders; i++) {
        p.ids[i] = ps[i].ids;
        p.weights[i] = ps[i].weighted ? ps[i].weights : NULL;
    }
    return p;
}

int diffusion_prompts(const struct diffusion *d, const struct image_spec *s,
                      struct diffusion_prompt *prompt, struct diffusion_prompt *negative,
                      struct arena *a, struct err *e)
{
    struct prompt pos[IMAGE_MAX_ENCODERS] = {{0}}, neg[IMAGE_MAX_ENCODERS] = {{0}};
    bool guided = diffusion_guided(d, s);
    int rc = encode(d, s->prompt, s->words, pos, a, e);
    if (rc)
        return err_param(e, "prompt");
    if (guided && encode(d, s->negative_prompt, s->words, neg, a, e) != 0)
        return err_param(e, "negative_prompt");
    int n_chunks = 1;
    for (int i = 0; i < d->info->n_encoders; i++) {
        n_chunks = pos[i].n_chunks > n_chunks ? pos[i].n_chunks : n_chunks;
        if (guided)
            n_chunks = neg[i].n_chunks > n_chunks ? neg[i].n_chunks : n_chunks;
    }
    rc = extend(d, pos, n_chunks, a, e);
    if (rc == 0 && guided)
        rc = extend(d, neg, n_chunks, a, e);
    if (rc)
        return rc;
    *prompt = gather(d, pos, s->clip_skip);
    if (guided) {
        *negative = gather(d, neg, s->clip_skip_negative ? s->clip_skip : -1);
        negative->zeros = d->info->zero_negative && !s->negative_prompt;
    }
    return 0;
}

const float *diffusion_vector(const struct diffusion *d, int encoder, int32_t id)
{
    for (const struct diffusion_learned *l = d->learned; l; l = l->next) {
        if (id >= l->first_id && id - l->first_id < image_adapter_info(l->adapter)->n_vectors)
            return image_adapter_vector(l->adapter, encoder, id - l->first_id);
    }
    return NULL;
}
