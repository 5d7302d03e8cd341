/* BLIP's text stacks: BERT (Devlin et al. 2018) with cross attention, norms after the sums.
 *
 *     x = norm(word[ids] + position)
 *     x = norm(x + o(attention(q, k, v of x)))        decoder: causal, over pages; encoder: all
 *     x = norm(x + co(attention(cq(x), view)))        keys and values of what the stack looks at
 *     x = norm(x + fc2(gelu(fc1(x))))                 for each layer
 *     logits = output(norm(gelu(transform(x))))       decoder */
#include <math.h>

#include "base/arena.h"
#include "engine/models/blip_int.h"
#include "engine/models/post_norm.h"

/* ---- weights ---- */

static void walk_layer(struct nn_loader *l, const struct blip_text *t, struct blip_text_layer *to)
{
    nn_load_linear(l, &to->q, "attention.self.query", t->dim, t->dim, NN_BIAS);
    nn_load_linear(l, &to->k, "attention.self.key", t->dim, t->dim, NN_BIAS);
    nn_load_linear(l, &to->v, "attention.self.value", t->dim, t->dim, NN_BIAS);
    nn_load_linear(l, &to->o, "attention.output.dense", t->dim, t->dim, NN_BIAS);
    nn_load_norm(l, &to->norm, "attention.output.LayerNorm", t->dim);
    nn_load_linear(l, &to->cq, "crossattention.self.query", t->dim, t->dim, NN_BIAS);
    nn_load_linear(l, &to->ck, "crossattention.self.key", t->dim, t->n_from, NN_BIAS);
    nn_load_linear(l, &to->cv, "crossattention.self.value", t->dim, t->n_from, NN_BIAS);
    nn_load_linear(l, &to->co, "crossattention.output.dense", t->dim, t->dim, NN_BIAS);
    nn_load_norm(l, &to->cross_norm, "crossattention.output.LayerNorm", t->dim);
    nn_load_linear(l, &to->fc1, "intermediate.dense", t->n_ff, t->dim, NN_BIAS);
    nn_load_linear(l, &to->fc2, "output.dense", t->dim, t->n_ff, NN_BIAS);
    nn_load_norm(l, &to->ff_norm, "output.LayerNorm", t->dim);
}

void blip_text_walk(struct nn_loader *l, const struct blip_text *t, struct blip_stack *s)
{
    int64_t n_vocab = t->n_vocab, n_positions = t->n_positions;
    nn_load_embedding(l, &s->word, "embeddings.word_embeddings.weight", &n_vocab, t->dim);
    nn_load_embedding(l, &s->position, "embeddings.position_embeddings.weight", &n_positions,
                      t->dim);
    if (l->rc == 0 && (n_vocab != t->n_vocab || n_positions != t->n_positions))
        l->rc = err_set(l->e, ERR_CORRUPT,
                        "embeddings of %lld words and %lld positions, the configuration has %d "
                        "and %d",
                        (long long)n_vocab, (long long)n_positions, t->n_vocab, t->n_positions);
    nn_load_norm(l, &s->norm, "embeddings.LayerNorm", t->dim);
    for (int i = 0; i < t->n_layers; i++) {
        const size_t path = nn_push(l, "encoder.layer.%d", i);
        walk_layer(l, t, &s->layers[i]);
        nn_pop(l, path);
    }
}

int blip_text_scratch(struct blip *m, struct err *e)
{
    const struct blip_text *t = &m->text;
    struct blip_scratch *s = &m->s;
    const size_t rows = (size_t)m->max_rows, dim = (size_t)t->dim, f = sizeof(float);
    const size_t n_image = (size_t)m->vision.in.n_tokens, n_logits = (size_t)m->max_logits;
    const bool reads = m->info.kind != CAPTION_TEXT;
    const struct {
        void *p;
        size_t bytes;
    } parts[] = {
        {&s->x, rows * dim * f},
        {&s->h, rows * dim * f},
        {&s->q, rows * dim * f},
        {&s->k, rows * dim * f},
        {&s->v, rows * dim * f},
        {&s->att, rows * dim * f},
        {&s->ff, rows * (size_t)t->n_ff * f},
        {&s->last, n_logits * dim * f},
        {&s->last2, n_logits * dim * f},
        {&s->states, reads ? rows * dim * f : 0},
        {&s->cross, reads ? 2 * n_image * dim * f : 0},
        {&s->logits, m->be->host_memory ? 0 : n_logits * (size_t)t->n_vocab * f},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].bytes == 0)
            continue;
        void *p = m->be->alloc(m->be, parts[i].bytes, e);
        if (p == NULL)
            return err_wrap(e, "scratch for %d rows", m->max_rows);
        *(void **)parts[i].p = p;
    }
    s->items = mem_try(rows, sizeof *s->items);
    s->pos = mem_try(rows, sizeof *s->pos);
    if (s->items == NULL || s->pos == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %d rows", m->max_rows);
    return reads ? backend_mirror_open(&s->head, m->be, (2 * (size_t)t->n_project + 2) * f, e) : 0;
}

/* ---- layers ---- */

void blip_text_cross(struct blip *m, const struct blip_text_layer *l, const struct tensor *from,
                     float *k, float *v)
{
    struct tensor to_k = blip_rows(k, from->dims[0], m->text.dim);
    struct tensor to_v = blip_rows(v, from->dims[0], m->text.dim);
    OP(m->be, linear, .out = {&to_k, &to_v}, .w = {l->ck.w, l->cv.w},
       .bias = {&l->ck.bias, &l->cv.bias}, .x = from);
}

void blip_text_embed(struct blip *m, const struct blip_stack *s, const int32_t *ids,
                     const int32_t *pos, struct tensor *x)
{
    struct backend *be = m->be;
    struct tensor h = blip_rows(m->s.h, x->dims[0], m->text.dim);
    OP(be, embed, .out = x, .w = s->word, .ids = ids);
    OP(be, embed, .out = &h, .w = s->position, .ids = pos);
    OP(be, add, .out = x, .a = x, .b = &h);
    OP(be, layernorm, .out = x, .x = x, .w = &s->norm.w, .bias = &s->norm.bias, .eps = m->text.eps);
}

static struct post_norm block_of(const struct blip *m)
{
    return (struct post_norm){m->be, m->text.eps, m->text.act};
}

/* q, k, v of the rows of x. */
static void project(struct blip *m, const struct blip_text_layer *l, const struct tensor *x)
{
    const int64_t n = x->dims[0], dim = m->text.dim;
    struct tensor q = blip_rows(m->s.q, n, dim), k = blip_rows(m->s.k, n, dim);
    struct tensor v = blip_rows(m->s.v, n, dim);
    const struct post_norm p = block_of(m);
    post_norm_project(&p, (const struct nn_linear *const[]){&l->q, &l->k, &l->v}, x,
                      (struct tensor *const[]){&q, &k, &v});
}

/* The end of self attention, cross attention by the items, and the feed-forward block. */
static void finish_layer(struct blip *m, const struct blip_text_layer *l, struct tensor *x,
                         int n_items)
{
    const struct blip_text *t = &m->text;
    const int64_t n = x->dims[0];
    const struct post_norm p = block_of(m);
    struct backend *be = m->be;
    struct tensor q = blip_rows(m->s.q, n, t->dim), att = blip_rows(m->s.att, n, t->dim);
    post_norm_close(&p, &l->o, &l->norm, &att, x);
    if (n_items > 0) {
        OP(be, linear, .out = {&q}, .w = {l->cq.w}, .bias = {&l->cq.bias}, .x = x);
        OP(be, attn, .items = m->s.items, .n_items = n_items, .n_heads = t->n_heads,
           .head_dim = t->head_dim, .scale = 1 / sqrtf((float)t->head_dim));
        post_norm_close(&p, &l->co, &l->cross_norm, &att, x);
    }
    struct tensor ff = blip_rows(m->s.ff, n, t->n_ff);
    post_norm_feed(&p, &(const struct post_norm_ff){&l->fc1, &l->fc2, &l->ff_norm}, &ff, x);
}

/* Rows [begin, begin + n_q) of q look at keys and values of dim floats a row. */
static struct attn_item item_of(const struct blip *m, int begin, int n_q, const float *k,
                                const float *v, int n_k)
{
    const int dim = m->text.dim;
    return (struct attn_item){.q = m->s.q + (int64_t)begin * dim,
                              .k = k,
                              .v = v,
                              .out = m->s.att + (int64_t)begin * dim,
                              .n_q = n_q,
                              .n_k = n_k,
                              .q_stride = dim,
                              .kv_stride = dim,
                              .out_stride = dim};
}

void blip_text_read(struct blip *m, const struct blip_text_layer *l, struct tensor *x,
                    const struct text_view *view)
{
    const struct blip_text *t = &m->text;
    const int n = (int)x->dims[0];
    project(m, l, x);
    m->s.items[0] = item_of(m, 0, n, m->s.k, m->s.v, n);
    OP(m->be, attn, .items = m->s.items, .n_items = 1, .n_heads = t->n_heads,
       .head_dim = t->head_dim, .scale = 1 / sqrtf((float)t->head_dim));
    if (view != NULL)
        m->s.items[0] =
            item_of(m, 0, n, view->kv, view->kv + (int64_t)view->n_keys * t->dim, view->n_keys);
    finish_layer(m, l, x, view != NULL);
}

/* ---- the decoder's step ---- */

/* Rows that follow each other and look at the same make one item. */
static int cross_items(const struct blip *m, const struct text_batch *b, int layer)
{
    int n_items = 0;
    for (int r = 0, run; r < b->n_rows; r += run) {
        const struct text_view *view = b->views[r];
        for (run = 1; r + run < b->n_rows && b->views[r + run] == view;)
            run++;
        const int64_t side = (int64_t)view->n_keys * m->text.dim;
        const float *k = view->kv + 2 * side * layer;
        m->s.items[n_items++] = item_of(m, r, run, k, k + side, view->n_keys);
    }
    return n_items;
}

static void decode_layer(struct blip *m, int i, char *kv_base, const struct text_batch *b)
{
    const struct blip_text *t = &m->text;
    const struct blip_text_layer *l = &m->decoder.layers[i];
    const int64_t n = b->n_rows;
    struct tensor x = blip_rows(m->s.x, n, t->dim), q = blip_rows(m->s.q, n, t->dim);
    struct tensor k = blip_rows(m->s.k, n, t->dim), v = blip_rows(m->s.v, n, t->dim);
    struct tensor att = blip_rows(m->s.att, n, t->dim);
    const size_t side = m->base.page_bytes / (2 * (size_t)t->n_layers);
    const struct kv_view kv = {
        .base = kv_base,
        .page_bytes = m->base.page_bytes,
        .k_offset = (size_t)i * 2 * side,
        .v_offset = (size_t)i * 2 * side + side,
        .n_kv_heads = t->n_heads,
        .head_dim = t->head_dim,
        .type = DTYPE_F32,
    };
    project(m, l, &x);
    OP(m->be, kv_store, .kv = kv, .k = &k, .v = &v, .rows = b->rows);
    OP(m->be, attn_paged, .out = &att, .q = &q, .kv = kv, .rows = b->rows, .n_heads = t->n_heads,
       .scale = 1 / sqrtf((float)t->head_dim));
    finish_layer(m, l, &x, cross_items(m, b, i));
}

static void logits(struct blip *m, const struct text_batch *b)
{
    const struct blip_text *t = &m->text;
    struct backend *be = m->be;
    for (int i = 0, run; i < b->n_logits; i += run) {
        const int32_t *row = b->logit_rows + i;
        for (run = 1; i + run < b->n_logits && row[run] == row[0] + run;)
            run++;
        struct tensor from = blip_rows(m->s.x + (int64_t)row[0] * t->dim, run, t->dim);
        struct tensor to = blip_rows(m->s.last + (int64_t)i * t->dim, run, t->dim);
        OP(be, linear, .out = {&to}, .w = {m->transform.w}, .bias = {&m->transform.bias},
           .x = &from);
    }
    struct tensor last = blip_rows(m->s.last, b->n_logits, t->dim);
    float *to_logits = m->s.logits != NULL ? m->s.logits : b->logits;
    struct tensor out = blip_rows(to_logits, b->n_logits, t->n_vocab);
    OP(be, act, .out = &last, .x = &last, .act = t->act);
    OP(be, layernorm, .out = &last, .x = &last, .w = &m->transform_norm.w,
       .bias = &m->transform_norm.bias, .eps = t->eps);
    OP(be, linear, .out = {&out}, .w = {m->tied ? m->decoder.word : m->output.w},
       .bias = {&m->output.bias}, .x = &last);
    if (m->s.logits != NULL)
        be->download(be, b->logits, to_logits,
                     (size_t)b->n_logits * (size_t)t->n_vocab * sizeof(float));
}

static int check_batch(const struct blip *m, const struct text_batch *b, struct err *e)
{
    if (b->n_rows < 1 || b->n_rows > m->max_rows || b->n_logits < 0 || b->n_logits > m->max_logits)
        return err_set(e, ERR_INVALID, "a batch of %d rows and %d logits, allowed are %d and %d",
                       b->n_rows, b->n_logits, m->max_rows, m->max_logits);
    for (int r = 0; r < b->n_rows; r++) {
        if (b->ids[r] < 0 || b->ids[r] >= m->text.n_vocab)
            return err_set(e, ERR_INVALID, "token %d is outside the vocabulary of %d", b->ids[r],
                           m->text.n_vocab);
        if (b->pos[r] < 0 || b->pos[r] >= m->text.n_positions)
            return err_set(e, ERR_INVALID, "position %d of %d", b->pos[r], m->text.n_positions);
        if (b->views == NULL || b->views[r] == NULL)
            return err_set(e, ERR_INVALID, "a row without a picture");
    }
    return 0;
}

int blip_text_forward(struct text_model *base, char *kv_base, const struct text_batch *b,
                      struct err *e)
{
    struct blip *m = (struct blip *)base;
    int rc = check_batch(m, b, e);
    if (rc != 0)
        return rc;
    struct tensor x = blip_rows(m->s.x, b->n_rows, m->text.dim);
    blip_text_embed(m, &m->decoder, b->ids, b->pos, &x);
    for (int i = 0; i < m->text.n_layers; i++)
        decode_layer(m, i, kv_base, b);
    if (b->n_logits > 0)
        logits(m, b);
    return m->be->sync(m->be, e);
}
