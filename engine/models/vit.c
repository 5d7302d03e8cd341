/* The beginning of a vision transformer. */
#include "engine/models/vit.h"

#include "base/json.h"

const struct vit_pixels vit_pixels_default = {
    .filter = IMAGE_BICUBIC,
    .scale = 1.0f / 255,
    .mean = {0.48145466f, 0.4578275f, 0.40821073f},
    .std = {0.26862954f, 0.26130258f, 0.27577711f},
};

static int read_three(const struct cJSON *config, const char *key, float out[3], struct err *e)
{
    const struct cJSON *list = json_get(config, key);
    if (json_type(list) == JSON_NULL)
        return 0;
    const struct cJSON *v = json_first(list);
    for (int i = 0; i < 3; i++, v = json_next(v)) {
        if (json_type(list) != JSON_ARRAY || json_size(list) != 3 || json_type(v) != JSON_NUMBER)
            return err_set(e, ERR_CORRUPT, "%s must be three numbers", key);
        out[i] = (float)json_num(v);
    }
    return 0;
}

static int read_filter(struct vit_pixels *p, const struct cJSON *config, struct err *e)
{
    int64_t resample = 3; /* PIL's numbers */
    int rc = json_get_int(config, "resample", &resample, 0, 5, e);
    if (rc != 0)
        return rc;
    if (resample < 1 || resample > 3)
        return err_set(e, ERR_UNSUPPORTED, "resizing with PIL's filter %lld", (long long)resample);
    p->filter = resample == 1 ? IMAGE_LANCZOS : resample == 2 ? IMAGE_BILINEAR : IMAGE_BICUBIC;
    return 0;
}

int vit_pixels_read(struct vit_pixels *p, const struct cJSON *config, struct err *e)
{
    bool resize = true, rescale = true, normalise = true;
    int rc = read_filter(p, config, e);
    if (rc == 0)
        rc = json_get_bool(config, "do_resize", &resize, e);
    if (rc == 0 && !resize)
        rc = err_set(e, ERR_UNSUPPORTED, "do_resize false: pictures of any size");
    if (rc == 0)
        rc = json_get_bool(config, "do_rescale", &rescale, e);
    if (rc == 0)
        rc = json_get_float(config, "rescale_factor", &p->scale, 0, 1, e);
    if (rc == 0)
        rc = json_get_bool(config, "do_normalize", &normalise, e);
    if (rc == 0)
        rc = read_three(config, "image_mean", p->mean, e);
    if (rc == 0)
        rc = read_three(config, "image_std", p->std, e);
    if (!rescale)
        p->scale = 1;
    for (int c = 0; c < 3 && rc == 0; c++) {
        if (!normalise) {
            p->mean[c] = 0;
            p->std[c] = 1;
        }
        if (!(p->std[c] > 0))
            rc = err_set(e, ERR_CORRUPT, "image_std must be positive");
    }
    return rc;
}

void vit_pixels_fill(const struct vit_pixels *p, const uint8_t *rgb, size_t n, float *to)
{
    float table[3][256];
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 256; i++)
            table[c][i] = ((float)i * p->scale - p->mean[c]) / p->std[c];
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++)
            to[3 * i + c] = table[c][rgb[3 * i + c]];
}

int vit_patches_init(struct vit_patches *v, struct err *e)
{
    if (v->size % v->patch != 0 || v->size / v->patch > VIT_MAX_SIDE)
        return err_set(e, ERR_UNSUPPORTED, "a vision transformer of %d pixels in patches of %d",
                       v->size, v->patch);
    const int side = v->size / v->patch;
    v->n_tokens = side * side + 1;
    v->conv = (struct nn_conv){.kernel = v->patch, .c_in = 3, .c_out = v->dim};
    return 0;
}

static struct tensor row_of(float *data, int dim)
{
    return (struct tensor){.data = data, .type = DTYPE_F32, .ndim = 2, .dims = {1, dim}};
}

/* The convolution adds the patches' positions. */
struct tensor vit_patches_record(const struct vit_patches *v, struct program *p,
                                 const struct tensor *pixels)
{
    const int64_t side = v->size / v->patch;
    struct tensor x = PROGRAM_TENSOR(p, v->n_tokens, v->dim);
    struct tensor first = row_of(x.data, v->dim), at = row_of(v->position.data, v->dim);
    OP(program_backend(p), add, .out = &first, .a = &v->class, .b = &at);
    struct tensor out = {.data = (float *)x.data + v->dim,
                         .type = DTYPE_F32,
                         .ndim = 4,
                         .dims = {1, side, side, v->dim}};
    struct tensor positions = out;
    positions.data = (float *)v->position.data + v->dim;
    nn_emit_conv(p, &(struct op_conv2d){.out = &out,
                                        .x = pixels,
                                        .w = v->conv.w,
                                        .bias = v->conv.bias.data ? &v->conv.bias : NULL,
                                        .add = &positions,
                                        .kernel = v->patch,
                                        .stride = v->patch});
    return x;
}
