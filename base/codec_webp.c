/* WebP through libwebp, whose functions return their errors. */
#include <string.h>

#include <webp/decode.h>
#include <webp/encode.h>

#include "base/codec_int.h"

int codec_webp_decode(struct image *out, const uint8_t *data, size_t n,
                      const struct codec_limits *lim, struct err *e)
{
    WebPDecoderConfig c;
    if (!WebPInitDecoderConfig(&c))
        return err_set(e, ERR_UNSUPPORTED, "this libwebp is another version");
    if (WebPGetFeatures(data, n, &c.input) != VP8_STATUS_OK || c.input.width < 1 ||
        c.input.height < 1)
        return err_set(e, ERR_INVALID, "the WebP cannot be read");
    if (c.input.has_animation)
        return err_set(e, ERR_UNSUPPORTED, "the WebP is an animation; send a still picture");
    int err = codec_check_size((uint32_t)c.input.width, (uint32_t)c.input.height, lim, e);
    if (err != 0)
        return err;
    struct image im;
    err = image_init(&im, c.input.width, c.input.height, c.input.has_alpha ? 4 : 3, e);
    if (err != 0)
        return err;
    c.output.colorspace = c.input.has_alpha ? MODE_RGBA : MODE_RGB;
    c.output.is_external_memory = 1;
    c.output.u.RGBA.rgba = im.data;
    c.output.u.RGBA.stride = im.width * im.channels;
    c.output.u.RGBA.size = image_bytes(&im);
    VP8StatusCode status = WebPDecode(data, n, &c);
    WebPFreeDecBuffer(&c.output);
    if (status != VP8_STATUS_OK) {
        image_free(&im);
        if (status == VP8_STATUS_OUT_OF_MEMORY)
            return err_set(e, ERR_NOMEM, "not enough memory to read a WebP");
        return err_set(e, ERR_INVALID, "the WebP cannot be read: %s",
                       status == VP8_STATUS_NOT_ENOUGH_DATA ? "the file ends early"
                                                            : "it is damaged");
    }
    *out = im;
    return 0;
}

static int on_write(const uint8_t *data, size_t n, const WebPPicture *p)
{
    return buf_add(p->custom_ptr, data, n) == 0;
}

static int import_pixels(WebPPicture *p, const struct image *im)
{
    int stride = im->width * im->channels;
    return im->channels == 4 ? WebPPictureImportRGBA(p, im->data, stride)
                             : WebPPictureImportRGB(p, im->data, stride);
}

int codec_webp_encode(struct buf *out, const struct image *im, const struct codec_options *o,
                      struct err *e)
{
    struct image rgb = {0};
    if (im->width > WEBP_MAX_DIMENSION || im->height > WEBP_MAX_DIMENSION)
        return err_set(e, ERR_UNSUPPORTED, "WebP has no pictures with sides over %d",
                       WEBP_MAX_DIMENSION);
    if (im->channels == 1) {
        int err = image_convert(&rgb, im, 3, e);
        if (err != 0)
            return err;
        im = &rgb;
    }
    WebPConfig config;
    WebPPicture p;
    size_t before = out->len;
    int ok =
        WebPConfigPreset(&config, WEBP_PRESET_DEFAULT, (float)o->quality) && WebPPictureInit(&p);
    if (ok) {
        p.width = im->width;
        p.height = im->height;
        p.writer = on_write;
        p.custom_ptr = out;
        ok = import_pixels(&p, im) && WebPEncode(&config, &p);
        WebPPictureFree(&p);
    }
    image_free(&rgb);
    if (ok)
        return 0;
    if (out->data != NULL)
        out->data[out->len = before] = '\0';
    return err_set(e, out->failed ? ERR_TOOBIG : ERR_NOMEM, "the WebP cannot be written");
}
