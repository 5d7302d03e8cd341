/* JPEG through libjpeg-turbo.  Errors come by longjmp; see codec_png.c for how they stay inside. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#include "base/arena.h"
#include "base/codec_int.h"

/* A progressive file of a few bytes a scan makes the decoder go over all pixels for each: this many
 * is more than encoders write. */
enum { SCANS_MAX = 100, EXIF_BYTES_MAX = 65533 };

struct failure {
    struct jpeg_error_mgr mgr; /* first: libjpeg knows the struct by it */
    jmp_buf back;
    char msg[JMSG_LENGTH_MAX];
};

static void on_failure(j_common_ptr c)
{
    struct failure *f = (struct failure *)(void *)c->err;
    f->mgr.format_message(c, f->msg);
    longjmp(f->back, 1);
}

/* Level -1 is damage that libjpeg would paper over with gray: we do not want half a picture.  Bytes too
 * many between two segments, and numbers that say nothing about the pixels, are no damage. */
static void on_message(j_common_ptr c, int level)
{
    int code = c->err->msg_code;
    if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_JFIF_MAJOR &&
        code != JWRN_ADOBE_XFORM)
        on_failure(c);
}

static void on_output(j_common_ptr c)
{
    (void)c;
}

static void failure_init(struct failure *f)
{
    jpeg_std_error(&f->mgr);
    f->mgr.error_exit = on_failure;
    f->mgr.emit_message = on_message;
    f->mgr.output_message = on_output;
}

/* ---- Reading ---- */

struct reader {
    struct jpeg_decompress_struct jpeg;
    struct failure failure;
    struct jpeg_progress_mgr progress;
    const uint8_t *data;
    size_t n;
    const struct codec_limits *lim;
    struct image im;
    uint8_t *cmyk; /* one row */
    int orientation;
    struct err err;
};

static void on_progress(j_common_ptr c)
{
    j_decompress_ptr jpeg = (j_decompress_ptr)c;
    if (jpeg->input_scan_number > SCANS_MAX) {
        struct failure *f = (struct failure *)(void *)c->err;
        snprintf(f->msg, sizeof f->msg, "it has more than %d scans", SCANS_MAX);
        longjmp(f->back, 1);
    }
}

static unsigned number(const uint8_t *p, int n, bool little)
{
    unsigned v = 0;
    for (int i = 0; i < n; i++)
        v |= (unsigned)p[i] << 8 * (little ? i : n - 1 - i);
    return v;
}

/* Tag 0x0112 of the first directory of an APP1 "Exif" segment; 1 when there is none. */
static int exif_orientation(const uint8_t *p, size_t n)
{
    if (n < 14 || memcmp(p, "Exif\0\0", 6) != 0)
        return 1;
    p += 6;
    n -= 6;
    bool little = memcmp(p, "II*\0", 4) == 0;
    if (!little && memcmp(p, "MM\0*", 4) != 0)
        return 1;
    size_t at = number(p + 4, 4, little);
    if (at > n - 2)
        return 1;
    unsigned n_tags = number(p + at, 2, little);
    at += 2;
    for (unsigned i = 0; i < n_tags && n - at >= 12; i++, at += 12)
        if (number(p + at, 2, little) == 0x0112 && number(p + at + 2, 2, little) == 3)
            return (int)number(p + at + 8, 2, little);
    return 1;
}

static void read_orientation(struct reader *r)
{
    r->orientation = 1;
    for (jpeg_saved_marker_ptr m = r->jpeg.marker_list; m != NULL; m = m->next) {
        int o = exif_orientation(m->data, m->data_length);
        if (o != 1) {
            r->orientation = o;
            return;
        }
    }
}

static uint8_t clip(int v)
{
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Adobe's files hold CMYK inverted, and everybody reads all of them so. */
static void cmyk_row(uint8_t *out, const uint8_t *in, int width)
{
    for (int x = 0; x < width; x++, in += 4, out += 3) {
        int not_k = in[3];
        for (int j = 0; j < 3; j++) {
            int v = (255 - in[j]) * not_k + 128;
            out[j] = clip(not_k - ((v + (v >> 8)) >> 8));
        }
    }
}

static void read_rows(struct reader *r)
{
    struct jpeg_decompress_struct *j = &r->jpeg;
    size_t stride = (size_t)r->im.width * 3;
    while (j->output_scanline < j->output_height) {
        uint8_t *row = r->im.data + j->output_scanline * stride;
        uint8_t *to = r->cmyk != NULL ? r->cmyk : row;
        if (jpeg_read_scanlines(j, &to, 1) == 1 && r->cmyk != NULL)
            cmyk_row(row, r->cmyk, r->im.width);
    }
}

static int read_all(struct reader *r)
{
    struct jpeg_decompress_struct *j = &r->jpeg;
    if (setjmp(r->failure.back))
        return -1;
    jpeg_create_decompress(j);
    r->progress.progress_monitor = on_progress;
    j->progress = &r->progress;
    jpeg_save_markers(j, JPEG_APP0 + 1, EXIF_BYTES_MAX);
    jpeg_mem_src(j, r->data, (unsigned long)r->n);
    jpeg_read_header(j, TRUE);
    if (codec_check_size(j->image_width, j->image_height, r->lim, &r->err) != 0)
        return -1;
    bool cmyk = j->jpeg_color_space == JCS_CMYK || j->jpeg_color_space == JCS_YCCK;
    j->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    read_orientation(r);
    if (image_init(&r->im, (int)j->image_width, (int)j->image_height, 3, &r->err) != 0)
        return -1;
    if (cmyk && (r->cmyk = mem_try(j->image_width, 4)) == NULL)
        return err_set(&r->err, ERR_NOMEM, "not enough memory to read a JPEG");
    jpeg_start_decompress(j);
    read_rows(r);
    jpeg_finish_decompress(j);
    return 0;
}

int codec_jpeg_decode(struct image *out, const uint8_t *data, size_t n,
                      const struct codec_limits *lim, struct err *e)
{
    struct reader *r = xcalloc(1, sizeof *r);
    r->data = data;
    r->n = n;
    r->lim = lim;
    failure_init(&r->failure);
    r->jpeg.err = &r->failure.mgr;
    int err = 0;
    if (read_all(r) == 0)
        err = image_orient(&r->im, r->orientation, e);
    else if (r->err.code != 0)
        err = err_set(e, r->err.code, "%s", r->err.msg);
    else
        err = err_set(e, ERR_INVALID, "the JPEG cannot be read: %.150s", r->failure.msg);
    if (err == 0)
        *out = r->im;
    else
        image_free(&r->im);
    jpeg_destroy_decompress(&r->jpeg);
    free(r->cmyk);
    free(r);
    return err;
}

/* ---- Writing ---- */

struct writer {
    struct jpeg_compress_struct jpeg;
    struct failure failure;
    struct jpeg_destination_mgr dest;
    uint8_t block[16384];
    struct buf *out;
    const struct image *im;
    int quality;
    uint8_t *rgb; /* one row */
};

static void put_block(struct writer *w, size_t n)
{
    if (buf_add(w->out, w->block, n) != 0) {
        snprintf(w->failure.msg, sizeof w->failure.msg, "the file is larger than allowed");
        longjmp(w->failure.back, 1);
    }
    w->dest.next_output_byte = w->block;
    w->dest.free_in_buffer = sizeof w->block;
}

static struct writer *writer_of(j_compress_ptr j)
{
    return j->client_data;
}

static void on_begin(j_compress_ptr j)
{
    struct writer *w = writer_of(j);
    w->dest.next_output_byte = w->block;
    w->dest.free_in_buffer = sizeof w->block;
}

static boolean on_full(j_compress_ptr j)
{
    put_block(writer_of(j), sizeof writer_of(j)->block);
    return TRUE;
}

static void on_end(j_compress_ptr j)
{
    struct writer *w = writer_of(j);
    put_block(w, sizeof w->block - w->dest.free_in_buffer);
}

static int write_all(struct writer *w)
{
    struct jpeg_compress_struct *j = &w->jpeg;
    const struct image *im = w->im;
    if (setjmp(w->failure.back))
        return -1;
    jpeg_create_compress(j);
    j->client_data = w;
    w->dest.init_destination = on_begin;
    w->dest.empty_output_buffer = on_full;
    w->dest.term_destination = on_end;
    j->dest = &w->dest;
    j->image_width = (JDIMENSION)im->width;
    j->image_height = (JDIMENSION)im->height;
    j->input_components = im->channels == 1 ? 1 : 3;
    j->in_color_space = im->channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(j);
    jpeg_set_quality(j, w->quality, TRUE);
    j->optimize_coding = TRUE;
    jpeg_start_compress(j, TRUE);
    size_t stride = (size_t)im->width * (size_t)im->channels;
    while (j->next_scanline < j->image_height) {
        uint8_t *row = im->data + j->next_scanline * stride;
        for (int x = 0; im->channels == 4 && x < im->width; x++)
            memcpy(w->rgb + 3 * x, row + 4 * x, 3);
        row = im->channels == 4 ? w->rgb : row;
        jpeg_write_scanlines(j, &row, 1);
    }
    jpeg_finish_compress(j);
    return 0;
}

int codec_jpeg_encode(struct buf *out, const struct image *im, const struct codec_options *o,
                      struct err *e)
{
    struct writer *w = xcalloc(1, sizeof *w);
    w->out = out;
    w->im = im;
    w->quality = o->quality;
    w->rgb = xcalloc((size_t)im->width, 3);
    failure_init(&w->failure);
    w->jpeg.err = &w->failure.mgr;
    int err = 0;
    if (write_all(w) != 0)
        err = err_set(e, out->failed ? ERR_TOOBIG : ERR_NOMEM, "the JPEG cannot be written: %.150s",
                      w->failure.msg);
    jpeg_destroy_compress(&w->jpeg);
    free(w->rgb);
    free(w);
    return err;
}
