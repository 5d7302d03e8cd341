/* conv2d: every output pixel sums over the taps of its window, k ascending in the order of the
 * weight's columns. */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/weight.h"

struct conv_job {
    const struct cpu_ops *ops;
    const struct op_conv2d *p;
    int64_t h, w, c_in, ho, wo, c_out; /* of x and out */
    int64_t y_begin, n_y;              /* rows of out that are computed */
};

/* Pixel (y, x) of the padded, enlarged input, or NULL outside. */
static const float *conv_pixel(const struct conv_job *j, int64_t image, int64_t y, int64_t x)
{
    int up = j->p->upsample ? 2 : 1;
    if (y < 0 || x < 0 || y >= j->h * up || x >= j->w * up)
        return NULL;
    return (const float *)j->p->x->data + ((image * j->h + y / up) * j->w + x / up) * j->c_in;
}

static void conv_panel(const struct conv_job *j, int64_t image, int64_t y, int64_t x, int64_t panel)
{
    const struct op_conv2d *p = j->p;
    const struct cpu_weight *w = cpu_weight_of(p->w);
    size_t size = (size_t)dtype_block_bytes(w->w.type);
    const char *at = w->data + (size_t)panel * w->panel_bytes;
    float acc[PANEL_ROWS] = {0}, wk[PANEL_ROWS];
    for (int tap = 0; tap < p->kernel * p->kernel; tap++) {
        int64_t iy = y * p->stride + tap / p->kernel - p->pad_before;
        int64_t ix = x * p->stride + tap % p->kernel - p->pad_before;
        const float *in = conv_pixel(j, image, iy, ix);
        for (int64_t c = 0; c < j->c_in; c++, at += PANEL_ROWS * size) {
            quant_unpack(w->w.type, wk, at, PANEL_ROWS);
            for (int i = 0; i < PANEL_ROWS; i++)
                acc[i] = fmaf(wk[i], in ? in[c] : 0.0f, acc[i]);
        }
    }
    int64_t o = panel * PANEL_ROWS, n = j->c_out - o < PANEL_ROWS ? j->c_out - o : PANEL_ROWS;
    int64_t to = ((image * j->ho + y) * j->wo + x) * j->c_out + o;
    for (int i = 0; i < n; i++) {
        acc[i] += p->bias ? ((const float *)p->bias->data)[o + i] : 0.0f;
        acc[i] += p->add_image ? ((const float *)p->add_image->data)[image * j->c_out + o + i] : 0;
        acc[i] += p->add ? ((const float *)p->add->data)[to + i] : 0.0f;
    }
    j->ops->act((float *)p->out->data + to, acc, n, p->act);
}

static void conv_pixels(void *arg, int64_t begin, int64_t end)
{
    const struct conv_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        int64_t image = r / (j->n_y * j->wo), y = r / j->wo % j->n_y + j->y_begin;
        for (int64_t panel = 0; panel < cpu_weight_of(j->p->w)->n_panels; panel++)
            conv_panel(j, image, y, r % j->wo, panel);
    }
}

void cpu_conv2d(struct backend *be, const struct op_conv2d *p)
{
    const int64_t *in = p->x->dims, *out = p->out->dims;
    struct conv_job j = {.ops = &cpu_of(be)->ops, .p = p};
    j.h = in[1], j.w = in[2], j.c_in = in[3];
    j.ho = out[1], j.wo = out[2], j.c_out = out[3];
    int64_t up = p->upsample ? 2 : 1, pads = p->pad_before + p->pad_after - p->kernel;
    assert(p->x->ndim == 4 && p->out->ndim == 4 && in[0] == out[0] && p->stride > 0);
    assert((j.h * up + pads) / p->stride + 1 == j.ho && (j.w * up + pads) / p->stride + 1 == j.wo);
    assert(p->w->n_out == j.c_out && p->w->n_in == p->kernel * p->kernel * j.c_in);
    assert(!quant_format(p->w->type) && p->y_begin >= 0 && p->y_end <= j.ho);
    (void)up, (void)pads;
    j.y_begin = p->y_begin;
    j.n_y = (p->y_end ? p->y_end : j.ho) - p->y_begin;
    int64_t n = in[0] * j.n_y * j.wo;
    cpu_split(cpu_of(be), n, n * j.c_out * p->w->n_in, conv_pixels, &j);
}
