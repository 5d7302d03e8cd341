/* Where adapters take effect in a recorded pass, and which ones do in the next run. */
#include "engine/models/nn_lora.h"

#include <stdlib.h>

/* All uses of one weight in a pass. */
struct nn_site {
    struct nn_site *next;
    const struct weight *w;
    struct lowrank_image *images; /* [n_images] */
    struct lowrank_term *terms;   /* [n_images, NN_LORA_MAX] */
};

static int by_weight(const void *a, const void *b)
{
    const uintptr_t wa = (uintptr_t)((const struct nn_delta *)a)->w;
    const uintptr_t wb = (uintptr_t)((const struct nn_delta *)b)->w;
    return wa < wb ? -1 : wa > wb;
}

void nn_lora_sort(struct nn_lora *l)
{
    if (l->n > 0)
        qsort(l->deltas, (size_t)l->n, sizeof *l->deltas, by_weight);
}

static const struct nn_delta *delta_of(const struct nn_lora *l, const struct weight *w)
{
    const struct nn_delta key = {.w = w};
    return l->n > 0 ? bsearch(&key, l->deltas, (size_t)l->n, sizeof key, by_weight) : NULL;
}

/* ---- recording ---- */

void nn_lora_begin(struct nn_lora_sites *s, struct program *p, int n_images)
{
    *s = (struct nn_lora_sites){.n_images = n_images, .n_now = n_images};
    program_set_note(p, s);
}

void nn_lora_images(struct program *p, int n)
{
    struct nn_lora_sites *s = program_note(p);
    if (s != NULL)
        s->n_now = n;
}

static struct nn_site *site_of(struct nn_lora_sites *s, struct program *p, const struct weight *w)
{
    for (struct nn_site *site = s->first; site != NULL; site = site->next)
        if (site->w == w)
            return site;
    struct nn_site *site = program_array(p, 1, sizeof *site);
    const size_t n = (size_t)s->n_images;
    *site = (struct nn_site){.next = s->first,
                             .w = w,
                             .images = program_array(p, n, sizeof *site->images),
                             .terms = program_array(p, n * NN_LORA_MAX, sizeof *site->terms)};
    for (int i = 0; i < s->n_images; i++)
        site->images[i].terms = site->terms + (ptrdiff_t)i * NN_LORA_MAX;
    s->first = site;
    return site;
}

void nn_lora_linear(struct program *p, const struct weight *w, const struct tensor *x,
                    const struct tensor *out, struct nn_lora_rows rows)
{
    struct nn_lora_sites *s = program_note(p);
    if (s == NULL)
        return;
    struct tensor from = nn_rows(x), to = nn_rows(out);
    OP(program_backend(p), lowrank, .out = &to, .x = &from, .images = site_of(s, p, w)->images,
       .image_rows = rows.total / s->n_now, .first = rows.first, .kernel = 1, .stride = 1);
}

/* In slices as the convolution is, only that these are of any rows. */
void nn_lora_conv(struct program *p, const struct op_conv2d *op)
{
    struct nn_lora_sites *s = program_note(p);
    if (s == NULL)
        return;
    enum { RANK = 64 }; /* supposed */
    const bool window = op->kernel > 1 || op->stride > 1 || op->upsample;
    const struct tensor all = nn_rows(op->out);
    const int64_t n = all.dims[0];
    const double fit = nn_slice(p) / (2.0 * RANK * (double)(op->w->n_in + op->w->n_out)) / 96;
    const int64_t step = fit * 96 >= (double)n ? n : fit < 1 ? 96 : (int64_t)fit * 96;
    for (int64_t begin = 0; begin < n; begin += step) {
        struct tensor to = all, from = window ? *op->x : nn_rows(op->x);
        to.data = tensor_at(&all, begin * all.dims[1]);
        to.dims[0] = n - begin < step ? n - begin : step;
        if (!window) {
            from.data = tensor_at(&from, begin * from.dims[1]);
            from.dims[0] = to.dims[0];
        }
        OP(program_backend(p), lowrank, .out = &to, .x = &from,
           .images = site_of(s, p, op->w)->images, .image_rows = n / s->n_now, .first = begin,
           .out_w = op->out->dims[2], .kernel = op->kernel, .stride = op->stride,
           .pad_before = op->pad_before, .upsample = op->upsample);
    }
}

/* ---- before a run ---- */

void nn_lora_set(const struct nn_lora_sites *s, int image, const struct nn_lora_use *uses, int n)
{
    for (struct nn_site *site = s->first; site != NULL; site = site->next) {
        struct lowrank_image *im = &site->images[image];
        struct lowrank_term *terms = site->terms + (ptrdiff_t)image * NN_LORA_MAX;
        im->n = 0;
        for (int i = 0; i < n; i++) {
            const struct nn_delta *d = delta_of(uses[i].lora, site->w);
            if (d != NULL)
                terms[im->n++] = (struct lowrank_term){d->down, d->up, d->scale * uses[i].scale};
        }
    }
}
