/* POST /sdapi/v1/extra-single-image: a picture enlarged by resizing. */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "api/sdapi.h"
#include "base/arena.h"

struct extra {
    int64_t mode, width, height;
    float factor, gfpgan, codeformer, second;
    const char *upscaler, *image;
    bool crop;
};

#define AT(field) offsetof(struct extra, field)
const struct param sdapi_extra_table[] = {
    {"image", PARAM_TEXT, PARAM_EDIT, 0, 0, AT(image), NULL, "a picture as base64"},
    {"resize_mode", PARAM_INT, PARAM_EDIT, 0, 1, AT(mode), NULL, "0: by a factor, 1: to a size"},
    {"upscaling_resize", PARAM_NUM, PARAM_EDIT, 0.1, 8, AT(factor), NULL, "the factor; 2"},
    {"upscaling_resize_w", PARAM_INT, PARAM_EDIT, 1, IMAGE_SIDE_MAX, AT(width), NULL,
     "the size; 512"},
    {"upscaling_resize_h", PARAM_INT, PARAM_EDIT, 1, IMAGE_SIDE_MAX, AT(height), NULL,
     "the size; 512"},
    {"upscaling_crop", PARAM_BOOL, PARAM_EDIT, 0, 0, AT(crop), NULL,
     "fill the size and cut, else fit into it; true"},
    {"upscaler_1", PARAM_TEXT, PARAM_EDIT, 0, 0, AT(upscaler), NULL,
     "of /sdapi/v1/upscalers; None"},
    {"gfpgan_visibility", PARAM_NUM, PARAM_EDIT, 0, 1, AT(gfpgan), NULL, "only 0"},
    {"codeformer_visibility", PARAM_NUM, PARAM_EDIT, 0, 1, AT(codeformer), NULL, "only 0"},
    {"extras_upscaler_2_visibility", PARAM_NUM, PARAM_EDIT, 0, 1, AT(second), NULL, "only 0"},
};

const int sdapi_extra_n = (int)(sizeof sdapi_extra_table / sizeof *sdapi_extra_table);

static int find_filter(const char *name, enum image_filter *filter, struct err *e)
{
    static const struct {
        const char *name;
        enum image_filter filter;
    } all[] = {
        {"Lanczos", IMAGE_LANCZOS}, {"Bicubic", IMAGE_BICUBIC}, {"Bilinear", IMAGE_BILINEAR}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcasecmp(all[i].name, name) == 0) {
            *filter = all[i].filter;
            return 0;
        }
    }
    err_set(e, ERR_INVALID, "there is no upscaler '%.40s'; /sdapi/v1/upscalers lists them", name);
    return err_param(e, "upscaler_1");
}

/* The size of the result: a factor, or a size, into which it fits or that it fills and is cut to. */
static int choose_size(const struct extra *x, const struct image *im, int64_t max_pixels,
                       int size[2], struct err *e)
{
    double scale = (double)x->factor;
    if (x->mode == 1) {
        const double sw = (double)x->width / im->width, sh = (double)x->height / im->height;
        scale = (sw > sh) == x->crop ? sw : sh;
    }
    const double w = round(im->width * scale), h = round(im->height * scale);
    if (w < 1 || h < 1 || w > IMAGE_SIDE_MAX || h > IMAGE_SIDE_MAX || w * h > (double)max_pixels) {
        err_set(e, ERR_TOOBIG, "a picture of %.0fx%.0f; at most %lld pixels are allowed", w, h,
                (long long)max_pixels);
        return err_param(e, x->mode == 1 ? "upscaling_resize_w" : "upscaling_resize");
    }
    size[0] = (int)w;
    size[1] = (int)h;
    return 0;
}

static int enlarge(const struct extra *x, struct image *im, int64_t max_pixels, struct err *e)
{
    enum image_filter filter = IMAGE_LANCZOS;
    struct image out = {0}, part = {0};
    int size[2] = {0, 0};
    if (strcasecmp(x->upscaler, "None") == 0)
        return 0;
    int err = find_filter(x->upscaler, &filter, e);
    if (err == 0)
        err = choose_size(x, im, max_pixels, size, e);
    if (err == 0)
        err = image_resize(&out, im, size[0], size[1], filter, e);
    if (err == 0 && x->mode == 1 && x->crop) {
        const int w = (int)x->width < size[0] ? (int)x->width : size[0];
        const int h = (int)x->height < size[1] ? (int)x->height : size[1];
        err = image_crop(&part, &out, (size[0] - w) / 2, (size[1] - h) / 2, w, h, 0, e);
        image_free(&out);
        out = part;
    }
    if (err == 0) {
        image_free(im);
        *im = out;
    }
    return err;
}

static bool is_network(const struct api *a, const char *name)
{
    for (int i = 0; i < a->n_models; i++)
        if (a->models[i].card->scale > 0 && strcmp(a->models[i].card->id, name) == 0)
            return true;
    return false;
}

/* A super-resolution network is a job, as /v1/images/upscale makes it. */
static int begin_network(struct api_call *c, const struct extra *x, const struct image *im,
                         struct err *e)
{
    int size[2] = {0, 0};
    int err = choose_size(x, im, c->priv->api->o.max_image_pixels, size, e);
    if (err != 0)
        return err;
    struct sdapi_call *sd = c->priv->sd = xcalloc(1, sizeof *sd);
    sd->extra = true;
    if (x->mode == 1 && x->crop) {
        sd->cut_width = (int)x->width < size[0] ? (int)x->width : size[0];
        sd->cut_height = (int)x->height < size[1] ? (int)x->height : size[1];
    }
    struct json_limits limits = c->priv->api->limits;
    struct json_writer w;
    struct buf text;
    struct cJSON *ours = NULL;
    limits.max_bytes = strlen(x->image) + (1 << 16);
    buf_init(&text, limits.max_bytes);
    json_begin(&w, &text);
    json_open(&w, NULL, '{');
    json_put_str(&w, "model", x->upscaler);
    json_put_num(&w, "scale", (double)size[0] / im->width);
    json_put_str(&w, "image", x->image);
    json_close(&w, '}');
    err = json_parse(&ours, buf_str(&text), text.len, &limits, e);
    if (err == 0 && (err = images_begin(c, ours, PARAM_UPSCALE, e)) != 0 &&
        strcmp(e->param, "scale") == 0)
        err_param(e, "upscaling_resize");
    json_free(ours);
    buf_free(&text);
    return err;
}

int sdapi_extra(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api *a = c->priv->api;
    struct extra x = {.factor = 2, .width = 512, .height = 512, .upscaler = "None", .crop = true};
    struct image im = {0};
    struct buf text;
    int err = 0;
    for (int i = 0; err == 0 && i < sdapi_extra_n; i++)
        err = params_row(body, &sdapi_extra_table[i], &x, e);
    if (err == 0 && (x.gfpgan > 0 || x.codeformer > 0 || x.second > 0)) {
        err_set(e, ERR_UNSUPPORTED, "faces are not restored, and there is no second upscaler");
        err = err_param(e, x.gfpgan > 0       ? "gfpgan_visibility"
                           : x.codeformer > 0 ? "codeformer_visibility"
                                              : "extras_upscaler_2_visibility");
    }
    if (err == 0 && x.image == NULL) {
        err_set(e, ERR_INVALID, "image is missing: a picture as base64");
        err = err_param(e, "image");
    }
    if (err != 0 || (err = sdapi_decode(c, x.image, "image", &im, e)) != 0)
        return err;
    if (is_network(a, x.upscaler)) {
        err = begin_network(c, &x, &im, e);
        image_free(&im);
        return err;
    }
    err = enlarge(&x, &im, a->o.max_image_pixels, e);
    buf_init(&text, ((size_t)im.width * (size_t)im.height * 4 + (1 << 16)) * 2);
    if (err == 0)
        err = sdapi_encode(&im, &text, e);
    image_free(&im);
    if (err == 0) {
        struct json_writer w;
        c->out.max += text.len + 256;
        json_begin(&w, &c->out);
        json_open(&w, NULL, '{');
        json_put_str(&w, "html_info", "");
        json_put_strn(&w, "image", buf_str(&text), text.len);
        json_close(&w, '}');
    }
    buf_free(&text);
    return err;
}
