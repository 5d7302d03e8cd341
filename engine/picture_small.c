/* Diffusion models that enlarge pictures (SD's x4 upscaler), as StableDiffusionUpscalePipeline does it: the UNet
 * sees the small picture beside the latent, of the same size, and is told how much noise was added to it. */
#include "engine/picture.h"

int picture_small_check(struct image_task *it, struct err *e)
{
    const struct image_spec *s = &it->spec;
    const bool enlarges = it->d->info->enlarges, has = s->small || (enlarges && it->stage.later);
    if (has != enlarges || (enlarges && (s->init || s->mask))) {
        err_set(e, ERR_INVALID,
                enlarges ? "this model is made for enlarging: it needs a small picture"
                         : "this model does not enlarge pictures");
        return err_param(e, "model");
    }
    return enlarges ? noise_level_parts(&it->d->small_noise, s->noise_level, it->small_parts, e)
                    : 0;
}

void picture_small_give(struct picture *p, const struct stage_gift *g)
{
    const int height = p->task->shape.h, width = p->task->shape.w;
    float *to = p->small;
    for (int y = 0; y < height; y++) {
        const int row = y < g->h ? y : g->h - 1;
        for (int x = 0; x < width; x++) {
            const size_t at = ((size_t)row * (size_t)g->w + (size_t)(x < g->w ? x : g->w - 1)) * 3;
            uint8_t rgb[3];
            if (g->pixels)
                picture_bytes(rgb, g->pixels + at, 3);
            for (size_t k = 0; k < 3; k++)
                *to++ = 2.0f * ((float)(g->pixels ? rgb[k] : g->rgb[at + k]) / 255.0f) - 1.0f;
        }
    }
}

void picture_small_begin(struct picture *p)
{
    const struct image_task *it = p->task;
    const size_t n = (size_t)it->shape.h * (size_t)it->shape.w * 3;
    float *noise = p->out[0]; /* scratch until the first call; a latent has no less */
    if (!it->stage.later)
        picture_small_give(p, &(const struct stage_gift){.rgb = it->spec.small,
                                                         .h = it->spec.height / it->d->info->scale,
                                                         .w = it->spec.width / it->d->info->scale});
    rng_torch_normal_nhwc(&p->rng, noise, it->shape.h, it->shape.w, 3);
    for (size_t i = 0; i < n; i++)
        p->small[i] = it->small_parts[0] * p->small[i] + it->small_parts[1] * noise[i];
}
