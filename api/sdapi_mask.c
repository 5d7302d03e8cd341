/* Inpainting as stable-diffusion-webui does it: the mask is blurred; either the whole picture is worked on, or only
 * the rectangle around what the mask covers, at the size of the request; what the mask covers is filled with
 * the colours around it first; and the result is laid over the picture that came, through the mask. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/sdapi.h"
#include "base/image_filter.h"

struct box {
    int x1, y1, x2, y2; /* the second ones are outside */
};

/* ---- where ---- */

/* Around what is not black, with padding; false: all is. */
static bool find_box(const struct image *mask, int padding, struct box *b)
{
    *b = (struct box){mask->width, mask->height, 0, 0};
    for (int y = 0; y < mask->height; y++) {
        const uint8_t *row = mask->data + (size_t)y * (size_t)mask->width;
        for (int x = 0; x < mask->width; x++) {
            if (row[x] == 0)
                continue;
            b->x1 = x < b->x1 ? x : b->x1;
            b->y1 = y < b->y1 ? y : b->y1;
            b->x2 = x >= b->x2 ? x + 1 : b->x2;
            b->y2 = y + 1;
        }
    }
    if (b->x2 == 0)
        return false;
    b->x1 = b->x1 > padding ? b->x1 - padding : 0;
    b->y1 = b->y1 > padding ? b->y1 - padding : 0;
    b->x2 = b->x2 < mask->width - padding ? b->x2 + padding : mask->width;
    b->y2 = b->y2 < mask->height - padding ? b->y2 + padding : mask->height;
    return true;
}

/* Makes [*from, *to) `wanted` long within [0, end), evenly to both sides. */
static void widen(int *from, int *to, int wanted, int end)
{
    int more = wanted - (*to - *from);
    *from -= more / 2;
    *to += more - more / 2;
    if (*to > end) {
        *from -= *to - end;
        *to = end;
    }
    if (*from < 0) {
        *to -= *from;
        *from = 0;
    }
    *to = *to < end ? *to : end;
}

/* To the shape of width x height, as far as the picture reaches. */
static void fit_box(struct box *b, int width, int height, const struct image *im)
{
    const double have = (double)(b->x2 - b->x1) / (b->y2 - b->y1), want = (double)width / height;
    if (have > want)
        widen(&b->y1, &b->y2, (int)((b->x2 - b->x1) / want), im->height);
    else
        widen(&b->x1, &b->x2, (int)((b->y2 - b->y1) * want), im->width);
}

/* ---- what is there first ---- */

/* Lays small, enlarged, under what is opaque in im (RGBA). */
static int lay_under(struct image *im, const struct image *small, struct err *e)
{
    struct image up;
    int err = image_resize(&up, small, im->width, im->height, IMAGE_BILINEAR, e);
    if (err != 0)
        return err;
    for (size_t i = 0, n = image_bytes(im); i < n; i += 4) {
        uint8_t *to = im->data + i;
        const uint8_t *from = up.data + i;
        const int a = to[3], rest = (255 - a) * from[3] / 255;
        if (a + rest == 0)
            continue;
        for (int k = 0; k < 3; k++)
            to[k] = (uint8_t)((to[k] * a + from[k] * rest) / (a + rest));
        to[3] = (uint8_t)(a + rest);
    }
    image_free(&up);
    return 0;
}

/* The colours around flow into what the mask covers: from copies of fewer and fewer pixels, which a resizing that
 * weighs by alpha fills further and further. */
static int fill(struct image *rgb, const struct image *mask, struct err *e)
{
    struct image im;
    int err = image_convert(&im, rgb, 4, e);
    for (size_t i = 0, n = err == 0 ? image_bytes(mask) : 0; i < n; i++)
        im.data[4 * i + 3] = mask->data[i] < 128 ? 255 : 0;
    const int longest = rgb->width > rgb->height ? rgb->width : rgb->height;
    for (int cells = longest / 2; err == 0 && cells >= 1; cells /= 4) {
        struct image small;
        const int w = rgb->width * cells / longest, h = rgb->height * cells / longest;
        err = image_resize(&small, &im, w > 0 ? w : 1, h > 0 ? h : 1, IMAGE_BILINEAR, e);
        if (err == 0)
            err = lay_under(&im, &small, e);
        image_free(&small);
    }
    for (size_t i = 0, n = err == 0 ? image_bytes(mask) : 0; i < n; i++)
        memcpy(rgb->data + 3 * i, im.data + 4 * i, 3);
    image_free(&im);
    return err;
}

/* ---- the request ---- */

/* Gray and as large as the picture: alpha where there is some, else how white it is. */
static int read_mask(struct api_call *c, const struct sdapi_params *p, const struct image *im,
                     struct image *out, struct err *e)
{
    struct image raw = {0}, gray = {0}, fit = {0};
    int err = sdapi_decode(c, p->mask, "mask", &raw, e);
    if (err == 0)
        err =
            raw.channels == 4 ? image_channel(&gray, &raw, 3, e) : image_convert(&gray, &raw, 1, e);
    if (err == 0)
        err = image_resize(&fit, &gray, im->width, im->height, IMAGE_LANCZOS, e);
    for (size_t i = 0, n = err == 0 && p->invert ? image_bytes(&fit) : 0; i < n; i++)
        fit.data[i] = 255 - fit.data[i];
    if (err == 0 && p->mask_blur > 0) {
        err = image_filter_blur(out, &fit, (float)p->mask_blur, e);
    } else if (err == 0) {
        *out = fit;
        fit = (struct image){0};
    }
    image_free(&raw);
    image_free(&gray);
    image_free(&fit);
    return err;
}

/* In place of im: cut to the box, then resized. */
static int cut(struct image *im, const struct box *b, int width, int height, struct err *e)
{
    struct image part = {0}, fit = {0};
    int err = image_crop(&part, im, b->x1, b->y1, b->x2 - b->x1, b->y2 - b->y1, 0, e);
    if (err == 0)
        err = image_resize(&fit, &part, width, height, IMAGE_LANCZOS, e);
    image_free(&part);
    if (err == 0) {
        image_free(im);
        *im = fit;
    }
    return err;
}

/* In place of im: as large as it fits into width x height, in the middle; the rest continues its outermost rows or
 * columns (resize_mode 2). */
static int widen_to(struct image *im, int width, int height, struct err *e)
{
    const double have = (double)im->width / im->height, want = (double)width / height;
    const int w = want < have ? width : im->width * height / im->height;
    const int h = want < have ? im->height * width / im->width : height;
    struct image fit = {0}, out = {0};
    int err = image_resize(&fit, im, w > 0 ? w : 1, h > 0 ? h : 1, IMAGE_LANCZOS, e);
    if (err == 0)
        err = image_extend(&out, &fit, fit.width / 2 - width / 2, fit.height / 2 - height / 2,
                           width, height, e);
    image_free(&fit);
    if (err != 0)
        return err;
    image_free(im);
    *im = out;
    return 0;
}

/* The whole picture, or for resize_mode 1 its middle in the shape of the request. */
static struct box whole(const struct sdapi_params *p, const struct image *im)
{
    struct box b = {0, 0, im->width, im->height};
    const double have = (double)im->width / im->height, want = (double)p->width / (double)p->height;
    if (p->resize_mode != 1)
        return b;
    if (have > want) {
        const int w = (int)(im->height * want + 0.5);
        b.x1 = (im->width - w) / 2;
        b.x2 = b.x1 + (w > 0 ? w : 1);
    } else {
        const int h = (int)(im->width / want + 0.5);
        b.y1 = (im->height - h) / 2;
        b.y2 = b.y1 + (h > 0 ? h : 1);
    }
    return b;
}

/* In place of im: the whole picture in the size of the request, by resize_mode. */
static int resize_whole(const struct sdapi_params *p, struct image *im, struct err *e)
{
    const struct box b = whole(p, im);
    return p->resize_mode == 2 ? widen_to(im, (int)p->width, (int)p->height, e)
                               : cut(im, &b, (int)p->width, (int)p->height, e);
}

/* Keeps picture and mask for pasting, then leaves in them what is worked on. */
static int cut_both(struct sdapi_call *sd, struct image *im, struct image *mask, struct err *e)
{
    const int w = (int)sd->p.width, h = (int)sd->p.height;
    struct sdapi_paste *t = &sd->paste;
    struct box b = {0, 0, w, h};
    int err = 0;
    if (sd->p.full_res) {
        if (!find_box(mask, (int)sd->p.padding, &b))
            return 1;
        fit_box(&b, w, h, im);
    } else if ((err = resize_whole(&sd->p, im, e)) != 0 ||
               (err = resize_whole(&sd->p, mask, e)) != 0) {
        return err;
    }
    if ((err = image_convert(&t->base, im, 3, e)) != 0 ||
        (err = image_convert(&t->alpha, mask, 1, e)) != 0)
        return err;
    for (size_t i = 0, n = sd->p.full_res ? 0 : image_bytes(&t->alpha); i < n; i++)
        t->alpha.data[i] = (uint8_t)(t->alpha.data[i] < 128 ? 2 * t->alpha.data[i] : 255);
    t->x = b.x1;
    t->y = b.y1;
    t->width = b.x2 - b.x1;
    t->height = b.y2 - b.y1;
    if ((err = cut(im, &b, w, h, e)) == 0)
        err = cut(mask, &b, w, h, e);
    return err;
}

static int prepare(struct api_call *c, struct image *im, struct image *mask, struct buf *image,
                   struct buf *out, struct err *e)
{
    struct sdapi_call *sd = c->priv->sd;
    int err = 0;
    if (sd->p.mask != NULL)
        err = read_mask(c, &sd->p, im, mask, e);
    if (err == 0 && mask->data != NULL)
        err = cut_both(sd, im, mask, e);
    if (err == 0 && mask->data != NULL && sd->p.fill == 0)
        err = fill(im, mask, e);
    if (err == 0 && mask->data != NULL)
        err = sdapi_encode(mask, out, e);
    if (err == 1 || (err == 0 && mask->data == NULL)) /* nothing is masked: the whole picture */
        err = resize_whole(&sd->p, im, e);
    return err == 0 ? sdapi_encode(im, image, e) : err;
}

int sdapi_mask_prepare(struct api_call *c, const struct cJSON *body, struct buf *image,
                       struct buf *mask, struct err *e)
{
    struct sdapi_params *p = &c->priv->sd->p;
    const struct cJSON *list = json_get(body, "init_images"), *first = json_first(list);
    if (json_type(list) != JSON_ARRAY || json_size(list) != 1 || json_str(first) == NULL) {
        err_set(e, ERR_INVALID, "init_images must be a list of one picture as base64");
        return err_param(e, "init_images");
    }
    const struct model_card *m = p->model != NULL ? sdapi_names_model(c->priv->api, p->model)
                                                  : sdapi_state_model(c->priv->api, c->priv->owner);
    if (m != NULL && p->width == 0 && p->height == 0) {
        p->width = m->image->width;
        p->height = m->image->height;
    }
    if (m == NULL || p->width < 1 || p->height < 1 || p->width > m->image->size_max ||
        p->height > m->image->size_max) {
        err_set(e, ERR_INVALID, "a size of %lldx%lld", (long long)p->width, (long long)p->height);
        return err_param(e, "width");
    }
    struct image raw = {0}, rgb = {0}, hole = {0};
    int err = sdapi_decode(c, json_str(first), "init_images", &raw, e);
    if (err == 0)
        err = image_convert(&rgb, &raw, 3, e);
    image_free(&raw);
    if (err == 0)
        err = prepare(c, &rgb, &hole, image, mask, e);
    image_free(&rgb);
    image_free(&hole);
    return err;
}

enum image_hole sdapi_mask_hole(const struct api_call *c)
{
    const int64_t fill = c->priv->sd->p.fill;
    return fill == 2 ? IMAGE_HOLE_NOISE : fill == 3 ? IMAGE_HOLE_ZERO : IMAGE_HOLE_INIT;
}

/* ---- the result ---- */

int sdapi_mask_paste(const struct api_call *c, const struct image *im, struct image *out,
                     struct err *e)
{
    const struct sdapi_paste *t = &c->priv->sd->paste;
    struct image fit;
    const int w = c->priv->sd->cut_width, h = c->priv->sd->cut_height;
    if (w > 0 && (w < im->width || h < im->height))
        return image_crop(out, im, (im->width - w) / 2, (im->height - h) / 2, w, h, 0, e);
    if (t->base.data == NULL)
        return 0;
    int err = image_resize(&fit, im, t->width, t->height, IMAGE_LANCZOS, e);
    if (err == 0)
        err = image_convert(out, &t->base, 3, e);
    for (int y = 0; err == 0 && y < t->height; y++) {
        for (int x = 0; x < t->width; x++) {
            const size_t at = (size_t)(t->y + y) * (size_t)t->base.width + (size_t)(t->x + x);
            const uint8_t *made = fit.data + 3 * ((size_t)y * (size_t)t->width + (size_t)x);
            const int a = t->alpha.data[at];
            for (int k = 0; k < 3; k++)
                out->data[3 * at + (size_t)k] =
                    (uint8_t)((made[k] * a + out->data[3 * at + (size_t)k] * (255 - a) + 127) /
                              255);
        }
    }
    image_free(&fit);
    return err;
}
