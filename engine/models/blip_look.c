/* Looking at a picture: stages that follow each other, each a piece of some milliseconds.
 *
 *   caption  the vision pass; keys and values of each decoder layer
 *   vqa      the vision pass; each encoder layer over the question; keys and values, of the question as it
 *            was read, of each decoder layer
 *   match    the vision pass; each encoder layer over the text; the same without the picture; the heads */
#include <math.h>

#include "base/clock.h"
#include "engine/models/blip_int.h"

void blip_look_begin(struct blip *m, struct blip_look *l)
{
    l->stage = 0;
    program_restart(m->vision.pass);
    blip_vision_pixels(m, l->rgb);
}

static void begin_reading(struct blip *m, const struct blip_look *l)
{
    int32_t *pos = m->s.pos;
    for (int i = 0; i < l->n_question; i++)
        pos[i] = i;
    struct tensor x = blip_rows(m->s.states, l->n_question, m->text.dim);
    blip_text_embed(m, &m->encoder, l->question, pos, &x);
}

/* Layer i of the encoder over the question, with or without the picture. */
static void read_layer(struct blip *m, const struct blip_look *l, int i, bool looks)
{
    const struct text_view view = {.kv = m->s.cross, .n_keys = m->vision.in.n_tokens};
    const struct blip_text_layer *layer = &m->encoder.layers[i];
    struct tensor x = blip_rows(m->s.states, l->n_question, m->text.dim);
    if (looks)
        blip_text_cross(m, layer, &m->vision.seen, view.kv,
                        view.kv + (int64_t)view.n_keys * m->text.dim);
    blip_text_read(m, layer, &x, looks ? &view : NULL);
}

static void decoder_keys(struct blip *m, struct blip_look *l, int i)
{
    const bool asks = m->info.kind == CAPTION_VQA;
    struct tensor from = m->vision.seen;
    if (asks)
        from = blip_rows(m->s.states, l->n_question, m->text.dim);
    const int64_t side = from.dims[0] * m->text.dim;
    blip_text_cross(m, &m->decoder.layers[i], &from, l->kv + 2 * side * i,
                    l->kv + 2 * side * i + side);
    l->view = (struct text_view){.kv = l->kv, .n_keys = (int)from.dims[0]};
}

/* ---- the heads of CAPTION_MATCH ---- */

static void head(struct blip *m, const struct nn_linear *l, float *row, float *to)
{
    struct tensor x = blip_rows(row, 1, l->w->n_in), out = blip_rows(to, 1, l->w->n_out);
    OP(m->be, linear, .out = {&out}, .w = {l->w}, .bias = {&l->bias}, .x = &x);
}

static int match_head(struct blip *m, struct blip_look *l, struct err *e)
{
    const size_t at = 2 * (size_t)m->text.n_project;
    const float *to = (float *)m->s.head.host + at;
    head(m, &m->itm, m->s.states, (float *)m->s.head.device + at);
    backend_mirror_pull(&m->s.head, at * sizeof(float), 2 * sizeof(float));
    int rc = m->be->sync(m->be, e);
    l->match = 1 / (1 + expf(to[0] - to[1]));
    return rc;
}

static int cosine_head(struct blip *m, struct blip_look *l, struct err *e)
{
    const int n = m->text.n_project;
    float *to = m->s.head.device;
    const float *a = m->s.head.host, *b = a + n;
    head(m, &m->vision_proj, m->vision.seen.data, to);
    head(m, &m->text_proj, m->s.states, to + n);
    backend_mirror_pull(&m->s.head, 0, 2 * (size_t)n * sizeof(float));
    int rc = m->be->sync(m->be, e);
    double aa = 0, bb = 0, ab = 0;
    for (int i = 0; i < n; i++) {
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
        ab += (double)a[i] * (double)b[i];
    }
    double norm = sqrt(aa) * sqrt(bb);
    l->cosine = norm > 0 ? (float)(ab / norm) : 0;
    return rc;
}

/* ---- one after the other ---- */

/* Stage k after the vision pass; 1: another follows. */
static int caption_stage(struct blip *m, struct blip_look *l, int k)
{
    decoder_keys(m, l, k);
    return k + 1 < m->text.n_layers;
}

static int vqa_stage(struct blip *m, struct blip_look *l, int k)
{
    const int n = m->text.n_layers;
    if (k == 0)
        begin_reading(m, l);
    if (k < n)
        read_layer(m, l, k, true);
    else
        decoder_keys(m, l, k - n);
    return k + 1 < 2 * n;
}

static int match_stage(struct blip *m, struct blip_look *l, int k, struct err *e)
{
    const int n = m->text.n_layers;
    if (k % n == 0)
        begin_reading(m, l);
    read_layer(m, l, k % n, k < n);
    int rc = k == n - 1 ? match_head(m, l, e) : k == 2 * n - 1 ? cosine_head(m, l, e) : 0;
    return rc < 0 ? rc : k + 1 < 2 * n;
}

int blip_look_run(struct blip *m, struct blip_look *l, int64_t until_us, struct err *e)
{
    int rc = 1;
    if (l->stage == 0) {
        rc = program_run(m->vision.pass, until_us, e);
        if (rc != 0)
            return rc;
        l->stage = 1;
        rc = 1;
        if (clock_us() >= until_us)
            return 1;
    }
    do {
        const int k = l->stage++ - 1;
        rc = m->info.kind == CAPTION_TEXT  ? caption_stage(m, l, k)
             : m->info.kind == CAPTION_VQA ? vqa_stage(m, l, k)
                                           : match_stage(m, l, k, e);
        int sync = rc < 0 ? rc : m->be->sync(m->be, e);
        if (sync != 0)
            return sync;
    } while (rc > 0 && clock_us() < until_us);
    return rc;
}
