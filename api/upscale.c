/* POST /v1/images/upscale: a picture enlarged by a super-resolution network (here), or by a diffusion model with a
 * prompt (images.c).  They have one factor; for another one the result is resized where it is encoded
 * (images_out.c). */
#include <math.h>
#include <string.h>

#include "api/call.h"
#include "api/image_passes.h"
#include "base/clock.h"

int upscale_find(struct api_call *c, const struct cJSON *body, const struct api_model **m,
                 struct err *e)
{
    const char *id = NULL;
    int rc = json_get_str(body, "model", &id, e);
    if (rc != 0)
        return rc;
    *m = image_passes_upscaler(c->priv->api, id, "model", e);
    if (*m == NULL)
        return e->code;
    c->model = (*m)->card->id;
    return 0;
}

int upscale_size(const struct api_call *c, const struct model_card *card, const struct image *from,
                 const struct image_params *p, int size[2], struct err *e)
{
    const double factor = isnan(p->scale) ? card->scale : (double)p->scale;
    const int64_t max = c->priv->api->o.max_image_pixels / p->n;
    size[0] = (int)(from->width * factor + 0.5);
    size[1] = (int)(from->height * factor + 0.5);
    if ((int64_t)size[0] * size[1] <= max)
        return 0;
    err_set(e, ERR_INVALID, "the result would have %dx%d pixels, at most %lld are allowed", size[0],
            size[1], (long long)max);
    return err_param(e, "scale");
}

static void open_answer(struct api_call *c, const struct image_params *p, const int size[2])
{
    const struct images_out_options o = {.stream = p->stream,
                                         .edit = true,
                                         .n = 1,
                                         .width = size[0],
                                         .height = size[1],
                                         .answer = (enum image_answer)p->answer,
                                         .format = (enum codec_format)(p->format + 1),
                                         .compression =
                                             p->compression >= 0 ? (int)p->compression : 95,
                                         .sd = c->priv->sd != NULL ? c : NULL,
                                         .created = clock_unix_s(),
                                         .model = c->model,
                                         .parameters = ""};
    c->priv->images = images_out_open(&o);
    c->priv->max_out = images_out_max(&o, 0);
    c->out.max = 2 * c->priv->max_out;
    c->n_choices = 1;
}

int upscale_begin(struct api_call *c, const struct model_card *card, const struct image *from,
                  const struct image_params *p, struct err *e)
{
    struct image rgb;
    int size[2], rc = upscale_size(c, card, from, p, size, e);
    if (rc != 0 || (rc = image_convert(&rgb, from, 3, e)) != 0)
        return rc;
    c->job->kind = JOB_UPSCALE;
    uint8_t *copy = arena_alloc(&c->job->arena, image_bytes(&rgb));
    if (copy != NULL)
        memcpy(copy, rgb.data, image_bytes(&rgb));
    c->job->upscale = (struct upscale_spec){
        .model = card->id, .rgb = copy, .width = rgb.width, .height = rgb.height};
    image_free(&rgb);
    if (copy == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the request's picture");
    open_answer(c, p, size);
    rc = replicas_submit(c->priv->api->o.engine, c->job, e);
    if (rc == ERR_INVALID)
        err_param(e, "image");
    return rc;
}
