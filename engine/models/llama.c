/* LLaMA (Touvron et al. 2023), from the file to the logits.
 *
 * The file reads top to bottom: the configuration, the weights and their shapes, the scratch of one
 * step, the step.  Weights are walked twice by the same code: first every shape is held against the
 * configuration, so that a wrong file fails in milliseconds; then they are repacked one by one and
 * the file's pages given back, so that memory peaks at about one copy.
 *
 * KV page: layer l's keys at l * 2 * S, its values at l * 2 * S + S, S bytes for KV_PAGE_TOKENS
 * tokens.  A step allocates nothing. */
#include "engine/models/llama_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/log.h"
#include "engine/gguf.h"
#include "kernels/quant.h"
#include "kernels/team.h"

#define ARCH "llama"

enum {
    MAX_LAYERS = 1024,
    MAX_EMBD = 1 << 17,
    MAX_FF = 1 << 20,
    MAX_HEADS = 4096,
    MAX_HEAD_DIM = 256, /* what the attention kernels hold */
    HEAD_DIM_STEP = 4,
    MAX_VOCAB = 1 << 22
};

/* ---- configuration ---- */

static int get_int(const struct gguf *g, const char *key, int *v, int64_t min, int64_t max,
                   struct err *e)
{
    int64_t wide = *v;
    int rc = gguf_get_int(g, key, &wide, min, max, e);
    *v = (int)wide;
    return rc;
}

static int need_int(const struct gguf *g, const char *key, int *v, int64_t max, struct err *e)
{
    if (!gguf_has(g, key))
        return err_set(e, ERR_CORRUPT, "the key %s is missing", key);
    return get_int(g, key, v, 1, max, e);
}

/* Parts of the "llama" architecture in other people's files that would silently be left out. */
static int refuse_foreign(const struct gguf *g, struct err *e)
{
    int experts = 0;
    int rc = get_int(g, ARCH ".expert_count", &experts, 0, INT32_MAX, e);
    if (rc != 0)
        return rc;
    if (experts > 0)
        return err_set(e, ERR_UNSUPPORTED, "mixtures of experts (%d experts) are not built in",
                       experts);
    bool causal = true;
    rc = gguf_get_bool(g, ARCH ".attention.causal", &causal, e);
    if (rc == 0 && !causal)
        rc = err_set(e, ERR_UNSUPPORTED, "models without causal attention are not built in");
    return rc;
}

static int read_attention(struct llama_config *c, const struct gguf *g, struct err *e)
{
    int rc = need_int(g, ARCH ".attention.head_count", &c->n_heads, MAX_HEADS, e);
    if (rc != 0)
        return rc;
    c->n_kv_heads = c->n_heads;
    rc = get_int(g, ARCH ".attention.head_count_kv", &c->n_kv_heads, 1, c->n_heads, e);
    if (rc != 0)
        return rc;
    if (c->n_heads < 1 || c->n_kv_heads < 1 || c->n_heads % c->n_kv_heads != 0)
        return err_set(e, ERR_CORRUPT, "%d heads are not a multiple of %d kv heads", c->n_heads,
                       c->n_kv_heads);
    const char *key_length = ARCH ".attention.key_length";
    if (!gguf_has(g, key_length) && c->n_embd % c->n_heads != 0)
        return err_set(e, ERR_CORRUPT, "an embedding of %d does not divide into %d heads",
                       c->n_embd, c->n_heads);
    c->head_dim = c->n_embd / c->n_heads;
    rc = get_int(g, key_length, &c->head_dim, 1, MAX_EMBD, e);
    int value_dim = c->head_dim;
    if (rc == 0)
        rc = get_int(g, ARCH ".attention.value_length", &value_dim, 1, MAX_EMBD, e);
    if (rc != 0)
        return rc;
    if (value_dim != c->head_dim || c->head_dim > MAX_HEAD_DIM || c->head_dim % HEAD_DIM_STEP != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "heads of %d (keys) and %d (values) dimensions: they must be equal, a "
                       "multiple of %d and at most %d",
                       c->head_dim, value_dim, HEAD_DIM_STEP, MAX_HEAD_DIM);
    rc = get_int(g, ARCH ".attention.sliding_window", &c->window, 0, INT32_MAX, e);
    float scale = 0; /* absent or 0: the usual one */
    if (rc == 0)
        rc = gguf_get_float(g, ARCH ".attention.scale", &scale, e);
    c->scale = scale != 0 ? scale : 1 / sqrtf((float)c->head_dim);
    return rc;
}

static int read_eps(struct llama_config *c, const struct gguf *g, struct err *e)
{
    const char *key = ARCH ".attention.layer_norm_rms_epsilon";
    if (!gguf_has(g, key))
        return err_set(e, ERR_CORRUPT, "the key %s is missing", key);
    int rc = gguf_get_float(g, key, &c->eps, e);
    if (rc == 0 && !(c->eps > 0 && c->eps <= 0.1f))
        rc = err_set(e, ERR_CORRUPT, "%s is %g, allowed is up to 0.1", key, (double)c->eps);
    return rc;
}

static int read_config(struct llama_config *c, const struct gguf *g, struct err *e)
{
    *c = (struct llama_config){0};
    const struct gguf_tensor *embd = gguf_tensor_find(g, "token_embd.weight");
    if (embd == NULL)
        return err_set(e, ERR_CORRUPT, "the tensor token_embd.weight is missing");
    if (embd->ndim != 2 || embd->dims[0] > MAX_VOCAB)
        return err_set(e, ERR_CORRUPT, "token_embd.weight is not a matrix of at most %d rows",
                       MAX_VOCAB);
    c->n_vocab = (int)embd->dims[0];
    int n_vocab = c->n_vocab;
    int rc = refuse_foreign(g, e);
    if (rc == 0)
        rc = get_int(g, ARCH ".vocab_size", &n_vocab, 1, MAX_VOCAB, e);
    if (rc == 0 && n_vocab != c->n_vocab)
        rc = err_set(e, ERR_CORRUPT, "%s.vocab_size is %d but token_embd.weight has %d rows", ARCH,
                     n_vocab, c->n_vocab);
    if (rc == 0)
        rc = need_int(g, ARCH ".block_count", &c->n_layers, MAX_LAYERS, e);
    if (rc == 0)
        rc = need_int(g, ARCH ".embedding_length", &c->n_embd, MAX_EMBD, e);
    if (rc == 0)
        rc = need_int(g, ARCH ".feed_forward_length", &c->n_ff, MAX_FF, e);
    if (rc == 0)
        rc = read_attention(c, g, e);
    if (rc == 0)
        rc = read_eps(c, g, e);
    int n_ctx = 0, n_rot = c->head_dim;
    if (rc == 0)
        rc = need_int(g, ARCH ".context_length", &n_ctx, ROPE_MAX_CTX, e);
    if (rc == 0)
        rc = get_int(g, ARCH ".rope.dimension_count", &n_rot, 2, c->head_dim, e);
    if (rc == 0 && n_rot % 2 != 0)
        rc = err_set(e, ERR_CORRUPT, "%s.rope.dimension_count is %d, not even", ARCH, n_rot);
    if (rc == 0)
        rc = rope_freq_read(&c->rope, g, ARCH, n_rot, n_ctx, e);
    return rc;
}

/* ---- shares ---- */

/* Columns of the feed-forward are dealt out in units that blocks of weights divide. */
static int ff_unit(int n_ff)
{
    return n_ff % 256 == 0 ? 256 : n_ff % 32 == 0 ? 32 : 1;
}

/* Leaves in the configuration what is the share's. */
static int take_share(struct llama *m, struct err *e)
{
    struct llama_config *c = &m->c;
    struct llama_share *s = &m->share;
    const int unit = ff_unit(c->n_ff), n_units = c->n_ff / unit;
    s->n_ff = c->n_ff;
    if (c->n_kv_heads % s->n != 0)
        return err_set(
            e, ERR_UNSUPPORTED,
            "%d heads of keys and values (%d of queries) cannot be dealt out to %d devices",
            c->n_kv_heads, c->n_heads, s->n);
    if (n_units < s->n)
        return err_set(
            e, ERR_UNSUPPORTED,
            "a feed-forward of %d columns, in blocks of %d, cannot be dealt out to %d devices",
            c->n_ff, unit, s->n);
    c->n_heads /= s->n;
    c->n_kv_heads /= s->n;
    s->ff_at = unit * (n_units * s->rank / s->n);
    c->n_ff = unit * (n_units * (s->rank + 1) / s->n) - s->ff_at;
    return 0;
}

/* ---- weights ---- */

/* The walk over all tensors: load false checks, load true repacks. */
struct walk {
    struct llama *m;
    struct gguf *g;
    bool load;
    bool *used; /* [gguf_n_tensors] */
    size_t total_bytes, done_bytes;
    atomic_int *progress;
    struct err *e;
};

/* "[64, 128]" */
struct shape_text {
    char text[96];
};
static struct shape_text shape_text(int ndim, const int64_t *dims)
{
    struct shape_text s = {"["};
    size_t at = 1;
    for (int d = 0; d < ndim && at < sizeof s.text; d++)
        at += (size_t)snprintf(s.text + at, sizeof s.text - at, "%" PRId64 "%s", dims[d],
                               d < ndim - 1 ? ", " : "]");
    return s;
}

/* n_out 0: a vector of n_in. */
static int find(struct walk *w, const struct gguf_tensor **t, const char *name, int64_t n_out,
                int64_t n_in)
{
    *t = gguf_tensor_find(w->g, name);
    if (*t == NULL)
        return err_set(w->e, ERR_CORRUPT, "the tensor %s is missing", name);
    const int64_t both[2] = {n_out, n_in}, *wanted = n_out == 0 ? both + 1 : both;
    const int ndim = n_out == 0 ? 1 : 2;
    if ((*t)->ndim != ndim || memcmp((*t)->dims, wanted, (size_t)ndim * sizeof *wanted) != 0)
        return err_set(w->e, ERR_CORRUPT, "tensor %s: expected shape %s, found %s", name,
                       shape_text(ndim, wanted).text, shape_text((*t)->ndim, (*t)->dims).text);
    w->used[*t - gguf_tensor_at(w->g, 0)] = true;
    if (!w->load)
        w->total_bytes += (*t)->bytes;
    return 0;
}

/* Gives the file's pages back and shows progress. */
static void walked(struct walk *w, const struct gguf_tensor *t)
{
    struct file *f = gguf_file(w->g);
    file_forget(f, (size_t)((const char *)t->data - f->data), t->bytes);
    w->done_bytes += t->bytes;
    const struct llama_share *s = &w->m->share;
    const double done = (double)w->done_bytes / (double)w->total_bytes;
    if (w->progress != NULL)
        atomic_store(w->progress, (int)(((double)s->rank + done) * 1000.0 / (double)s->n));
}

/* Rows or columns [at, at + n) of a matrix or vector: what a share has of it. */
struct piece {
    int64_t at, n;
    bool columns;
};

/* Columns of a matrix in blocks, next to each other. */
static int copy_columns(char **out, const struct gguf_tensor *t, const struct piece *p,
                        struct err *e)
{
    const int64_t block = dtype_block(t->type), n_out = t->dims[0];
    if (p->at % block != 0 || p->n % block != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "columns %lld to %lld are not whole blocks of %lld: too many devices for it",
                       (long long)p->at, (long long)(p->at + p->n), (long long)block);
    const size_t row = dtype_bytes(t->type, t->dims[1]), part = dtype_bytes(t->type, p->n);
    char *to = mem_try((size_t)n_out, part);
    if (to == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a part of %zu MiB", (size_t)n_out * part >> 20);
    const char *from = (const char *)t->data + dtype_bytes(t->type, p->at);
    for (int64_t r = 0; r < n_out; r++)
        memcpy(to + (size_t)r * part, from + (size_t)r * row, part);
    *out = to;
    return 0;
}

static int open_piece(struct walk *w, struct weight **out, const struct gguf_tensor *t,
                      const struct piece *p)
{
    struct backend *be = w->m->be;
    const int64_t n_out = t->dims[0], n_in = t->dims[1];
    if (p->columns && p->n < n_in) {
        char *part = NULL;
        int rc = copy_columns(&part, t, p, w->e);
        if (rc == 0)
            rc = be->weight_open(be, out, t->type, n_out, p->n, part, w->e);
        free(part);
        return rc;
    }
    const size_t skip = p->columns ? 0 : (size_t)p->at * dtype_bytes(t->type, n_in);
    return be->weight_open(be, out, t->type, p->columns ? n_out : p->n, n_in,
                           (const char *)t->data + skip, w->e);
}

static int walk_piece(struct walk *w, struct weight **out, const char *name, int64_t n_out,
                      int64_t n_in, const struct piece *p)
{
    const struct gguf_tensor *t;
    int rc = find(w, &t, name, n_out, n_in);
    if (rc != 0 || !w->load)
        return rc;
    rc = p->n > 0 ? open_piece(w, out, t, p) : 0;
    if (rc != 0)
        return err_wrap(w->e, "tensor %s", name);
    w->m->base.weight_bytes += *out != NULL ? (*out)->bytes : 0;
    walked(w, t);
    return 0;
}

/* A matrix of the first share alone. */
static int walk_matrix(struct walk *w, struct weight **out, const char *name, int64_t n_out,
                       int64_t n_in)
{
    const struct piece p = {.n = w->m->share.rank == 0 ? n_out : 0};
    return walk_piece(w, out, name, n_out, n_in, &p);
}

/* Vectors are few and small: they become f32. */
static int walk_slice(struct walk *w, struct tensor *out, const char *name, int64_t n,
                      const struct piece *p)
{
    const struct gguf_tensor *t;
    int rc = find(w, &t, name, 0, n);
    if (rc != 0)
        return rc;
    if (t->type != DTYPE_F32 && t->type != DTYPE_F16 && t->type != DTYPE_BF16)
        return err_set(w->e, ERR_UNSUPPORTED, "tensor %s is of type %s, expected f32, f16 or bf16",
                       name, dtype_name(t->type));
    if (!w->load)
        return 0;
    if (p->n > 0) {
        const char *from = (const char *)t->data + dtype_bytes(t->type, p->at);
        void *data = backend_floats(w->m->be, t->type, from, p->n, w->e);
        if (data == NULL)
            return ERR_NOMEM;
        *out = (struct tensor){.data = data, .type = DTYPE_F32, .ndim = 1, .dims = {p->n}};
        w->m->base.weight_bytes += (size_t)p->n * sizeof(float);
    }
    walked(w, t);
    return 0;
}

/* A vector of every share. */
static int walk_vector(struct walk *w, struct tensor *out, const char *name, int64_t n)
{
    return walk_slice(w, out, name, n, &(struct piece){.n = n});
}

/* What is added once, behind the sum over columns, is the first share's. */
static int walk_bias(struct walk *w, struct tensor *out, const char *name, int64_t n,
                     const struct piece *of)
{
    struct piece p = of->columns ? (struct piece){.n = w->m->share.rank == 0 ? n : 0} : *of;
    return gguf_tensor_find(w->g, name) == NULL ? 0 : walk_slice(w, out, name, n, &p);
}

static int walk_layer(struct walk *w, int i)
{
    const struct llama_config *c = &w->m->c;
    struct llama_layer *l = &w->m->layers[i];
    const struct llama_share *s = &w->m->share;
    const int64_t q_n = (int64_t)c->n_heads * c->head_dim, q_dim = q_n * s->n;
    const int64_t kv_n = (int64_t)c->n_kv_heads * c->head_dim, kv_dim = kv_n * s->n;
    const struct piece q = {s->rank * q_n, q_n, false}, kv = {s->rank * kv_n, kv_n, false};
    const struct piece att = {s->rank * q_n, q_n, true};
    const struct piece ff = {s->ff_at, c->n_ff, false}, ff_sum = {s->ff_at, c->n_ff, true};
    const struct {
        const char *name;
        struct weight **weight;
        int64_t n_out, n_in;
        const struct piece *piece;
        struct tensor *bias;
    } matrices[] = {
        {"attn_q", &l->q, q_dim, c->n_embd, &q, &l->q_bias},
        {"attn_k", &l->k, kv_dim, c->n_embd, &kv, &l->k_bias},
        {"attn_v", &l->v, kv_dim, c->n_embd, &kv, &l->v_bias},
        {"attn_output", &l->o, c->n_embd, q_dim, &att, &l->o_bias},
        {"ffn_gate", &l->gate, s->n_ff, c->n_embd, &ff, &l->gate_bias},
        {"ffn_up", &l->up, s->n_ff, c->n_embd, &ff, &l->up_bias},
        {"ffn_down", &l->down, c->n_embd, s->n_ff, &ff_sum, &l->down_bias},
    };
    char name[64];
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", i);
    int rc = walk_vector(w, &l->attn_norm, name, c->n_embd);
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", i);
    if (rc == 0)
        rc = walk_vector(w, &l->ffn_norm, name, c->n_embd);
    for (size_t k = 0; k < sizeof matrices / sizeof *matrices && rc == 0; k++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", i, matrices[k].name);
        rc = walk_piece(w, matrices[k].weight, name, matrices[k].n_out, matrices[k].n_in,
                        matrices[k].piece);
        snprintf(name, sizeof name, "blk.%d.%s.bias", i, matrices[k].name);
        if (rc == 0)
            rc = walk_bias(w, matrices[k].bias, name, matrices[k].n_out, matrices[k].piece);
    }
    return rc;
}

static int walk_all(struct walk *w)
{
    struct llama *m = w->m;
    const struct llama_config *c = &m->c;
    int rc = walk_matrix(w, &m->embd, "token_embd.weight", c->n_vocab, c->n_embd);
    for (int i = 0; i < c->n_layers && rc == 0; i++)
        rc = walk_layer(w, i);
    if (rc == 0)
        rc = walk_vector(w, &m->output_norm, "output_norm.weight", c->n_embd);
    if (rc != 0)
        return rc;
    if (gguf_tensor_find(w->g, "output.weight") != NULL)
        return walk_matrix(w, &m->output, "output.weight", c->n_vocab, c->n_embd);
    m->output = m->embd;
    return 0;
}

/* A tensor that nobody asked for means a network that is not this one. */
static int refuse_unused(const struct walk *w)
{
    for (int i = 0; i < gguf_n_tensors(w->g); i++) {
        const char *name = gguf_tensor_at(w->g, i)->name;
        if (w->used[i] || strcmp(name, "rope_freqs.weight") == 0 ||
            strstr(name, ".attn_rot_embd.") != NULL || strstr(name, ".rotary_emb.") != NULL)
            continue;
        return err_set(w->e, ERR_UNSUPPORTED,
                       "the tensor %.100s has no place in the architecture " ARCH, name);
    }
    return 0;
}

static int load_weights(struct llama *m, struct gguf *g, atomic_int *progress, struct err *e)
{
    struct walk w = {.m = m, .g = g, .progress = progress, .e = e};
    w.used = mem_try((size_t)gguf_n_tensors(g), sizeof *w.used);
    if (w.used == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the list of tensors");
    int rc = walk_all(&w);
    if (rc == 0)
        rc = refuse_unused(&w);
    w.load = true;
    if (rc == 0)
        rc = walk_all(&w);
    free(w.used);
    return rc;
}

/* ---- scratch ---- */

struct tensor llama_tensor(float *data, int64_t rows, int64_t dim)
{
    return (struct tensor){.data = data, .type = DTYPE_F32, .ndim = 2, .dims = {rows, dim}};
}

static int alloc_scratch(struct llama *m, struct err *e)
{
    const struct llama_config *c = &m->c;
    const size_t rows = (size_t)m->max_rows;
    const size_t last = m->share.rank == 0 ? (size_t)m->max_logits : 0;
    const size_t q_dim = (size_t)c->n_heads * (size_t)c->head_dim;
    const size_t kv_dim = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    const struct {
        float **p;
        size_t n;
    } parts[] = {
        {&m->x, rows * (size_t)c->n_embd},
        {&m->q, rows * q_dim},
        {&m->att, rows * q_dim},
        {&m->k, rows * kv_dim},
        {&m->v, rows * kv_dim},
        {&m->gate, rows * (size_t)c->n_ff},
        {&m->up, rows * (size_t)c->n_ff},
        {&m->last, last * (size_t)c->n_embd},
        {&m->logits, m->be->host_memory ? 0 : last * (size_t)c->n_vocab},
        {&m->parts, m->share.n > 1 ? (size_t)m->share.n * rows * (size_t)c->n_embd : 0},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].n == 0)
            continue;
        *parts[i].p = m->be->alloc(m->be, parts[i].n * sizeof(float), e);
        if (*parts[i].p == NULL)
            return err_wrap(e, "scratch for %d rows", m->max_rows);
    }
    return 0;
}

/* ---- one step ---- */

struct tensor llama_part(const struct llama *m, int rank, struct llama_rows rows)
{
    const int64_t n_embd = m->c.n_embd;
    float *first = m->parts + m->share.n * rows.at * n_embd;
    return llama_tensor(first + rank * rows.n * n_embd, rows.n, n_embd);
}

/* What the last product of attention or feed-forward writes, and to what it adds. */
static struct tensor sum_of(const struct llama *m, const struct tensor *x, struct llama_rows rows)
{
    return m->share.n == 1 ? *x : llama_part(m, m->share.rank, rows);
}

static struct kv_view kv_of(const struct llama *m, int i, char *kv_base)
{
    const size_t side = m->base.page_bytes / (2 * (size_t)m->c.n_layers); /* K or V of a layer */
    return (struct kv_view){
        .base = kv_base,
        .page_bytes = m->base.page_bytes,
        .k_offset = (size_t)i * 2 * side,
        .v_offset = (size_t)i * 2 * side + side,
        .n_kv_heads = m->c.n_kv_heads,
        .head_dim = m->c.head_dim,
        .type = m->kv_type,
    };
}

/* Of norm(x): keys and values into their pages, queries to the first rows of m->q. */
static void project(struct llama *m, int i, char *kv_base, const struct text_batch *b,
                    struct llama_rows rows)
{
    struct backend *be = m->be;
    const struct llama_config *c = &m->c;
    const struct llama_layer *l = &m->layers[i];
    const int64_t n = rows.n, at = rows.at, kv_dim = (int64_t)c->n_kv_heads * c->head_dim;
    const struct kv_view kv = kv_of(m, i, kv_base);
    struct tensor x = llama_tensor(m->x + at * c->n_embd, n, c->n_embd);
    struct tensor q = llama_tensor(m->q, n, (int64_t)c->n_heads * c->head_dim);
    struct tensor k = llama_tensor(m->k, n, kv_dim), v = llama_tensor(m->v, n, kv_dim);
    OP(be, linear, .out = {&q, &k, &v}, .w = {l->q, l->k, l->v}, .x = &x,
       .pre = {.kind = LINEAR_RMSNORM, .w = &l->attn_norm, .eps = c->eps},
       .bias = {l->q_bias.data ? &l->q_bias : NULL, l->k_bias.data ? &l->k_bias : NULL,
                l->v_bias.data ? &l->v_bias : NULL},
       .x_type = m->be->activations, .precise = true);
    OP(be, rope_store, .kv = kv, .q = &q, .k = &k, .v = &v, .rows = b->rows + at,
       .pos = b->pos + at, .freq = c->rope.freq, .n_rot = c->rope.n_rot, .mscale = c->rope.mscale,
       .interleaved = true);
}

/* x += attention(q), where q stands in m->q from row `first` on. */
static void attend(struct llama *m, int i, char *kv_base, const struct text_batch *b,
                   struct llama_rows rows, int64_t first)
{
    struct backend *be = m->be;
    const struct llama_config *c = &m->c;
    const struct llama_layer *l = &m->layers[i];
    const int64_t q_dim = (int64_t)c->n_heads * c->head_dim;
    const struct kv_view kv = kv_of(m, i, kv_base);
    struct tensor x = llama_tensor(m->x + rows.at * c->n_embd, rows.n, c->n_embd);
    struct tensor q = llama_tensor(m->q + first * q_dim, rows.n, q_dim);
    struct tensor att = llama_tensor(m->att + first * q_dim, rows.n, q_dim);
    struct tensor sum = sum_of(m, &x, rows);
    OP(be, attn_paged, .out = &att, .q = &q, .kv = kv, .rows = b->rows + rows.at,
       .n_heads = c->n_heads, .window = c->window, .scale = c->scale);
    OP(be, linear, .out = {&sum}, .w = {l->o}, .bias = {l->o_bias.data ? &l->o_bias : NULL},
       .x = &att, .add = m->share.rank == 0 ? &x : NULL, .x_type = m->be->activations,
       .precise = true);
}

bool llama_attention(struct llama *m, int i, char *kv_base, const struct text_batch *b,
                     struct llama_rows rows)
{
    project(m, i, kv_base, b, rows);
    if (i == m->c.n_layers - 1 && b->n_logits == 0)
        return false; /* nobody wants what comes after the last keys and values */
    attend(m, i, kv_base, b, rows, 0);
    return true;
}

/* x += down(silu(gate(norm(x))) * up(norm(x))) */
void llama_feed_forward(struct llama *m, int i, struct llama_rows rows)
{
    struct backend *be = m->be;
    const struct llama_config *c = &m->c;
    const struct llama_layer *l = &m->layers[i];
    const int64_t n = rows.n;
    struct tensor x = llama_tensor(m->x + rows.at * c->n_embd, n, c->n_embd);
    struct tensor sum = sum_of(m, &x, rows);
    struct tensor gate = llama_tensor(m->gate, n, c->n_ff), up = llama_tensor(m->up, n, c->n_ff);
    OP(be, linear, .out = {&gate, &up}, .w = {l->gate, l->up}, .x = &x,
       .pre = {.kind = LINEAR_RMSNORM, .w = &l->ffn_norm, .eps = c->eps},
       .bias = {l->gate_bias.data ? &l->gate_bias : NULL, l->up_bias.data ? &l->up_bias : NULL},
       .x_type = m->be->activations, .precise = true);
    OP(be, linear, .out = {&sum}, .w = {l->down},
       .bias = {l->down_bias.data ? &l->down_bias : NULL}, .x = &gate,
       .pre = {.kind = LINEAR_GLU, .up = &up, .act = ACT_SILU},
       .add = m->share.rank == 0 ? &x : NULL, .x_type = m->be->activations, .precise = true);
}

/* How many of the logits' rows from i on stand side by side. */
static int run_of(const struct text_batch *b, int i)
{
    int run = 1;
    while (i + run < b->n_logits && b->logit_rows[i + run] == b->logit_rows[i] + run)
        run++;
    return run;
}

/* After its keys and values only those rows go on whose logits are wanted, run after run.  Each run reads the
 * weights, so where there are many of them all rows go on. */
static void last_layer(struct llama *m, char *kv_base, const struct text_batch *b)
{
    enum { RUN_ROWS = 16 }; /* that a run must save */
    const int layer = m->c.n_layers - 1;
    const struct llama_rows all = {0, b->n_rows};
    int n_runs = 0;
    for (int i = 0; i < b->n_logits; i += run_of(b, i))
        n_runs++;
    project(m, layer, kv_base, b, all);
    if (n_runs > 1 && n_runs * RUN_ROWS > b->n_rows - b->n_logits) {
        attend(m, layer, kv_base, b, all, 0);
        llama_feed_forward(m, layer, all);
        return;
    }
    for (int i = 0, run; i < b->n_logits; i += run) {
        run = run_of(b, i);
        const struct llama_rows rows = {b->logit_rows[i], run};
        attend(m, layer, kv_base, b, rows, rows.at);
        llama_feed_forward(m, layer, rows);
    }
}

/* Only the wanted rows: the norm of each goes to its place in `last`, runs of rows at once. */
void llama_logits(struct llama *m, const struct text_batch *b)
{
    struct backend *be = m->be;
    const int n_embd = m->c.n_embd;
    for (int i = 0, run; i < b->n_logits; i += run) {
        run = run_of(b, i);
        struct tensor from = llama_tensor(m->x + (int64_t)b->logit_rows[i] * n_embd, run, n_embd);
        struct tensor to = llama_tensor(m->last + (int64_t)i * n_embd, run, n_embd);
        OP(be, rmsnorm, .out = &to, .x = &from, .w = &m->output_norm, .eps = m->c.eps);
    }
    struct tensor last = llama_tensor(m->last, b->n_logits, n_embd);
    struct tensor out =
        llama_tensor(m->logits != NULL ? m->logits : b->logits, b->n_logits, m->c.n_vocab);
    OP(be, linear, .out = {&out}, .w = {m->output}, .x = &last, .x_type = m->be->activations,
       .precise = true);
    const size_t row = (size_t)m->c.n_vocab;
    for (int i = 0; b->choose != NULL && i < b->n_logits; i++)
        if (b->choose->host[i])
            be->download(be, b->logits + (size_t)i * row, m->logits + (size_t)i * row,
                         row * sizeof(float));
    if (b->choose != NULL) {
        struct op_choose op = b->choose->op;
        op.logits = &out;
        be->choose(be, &op);
    } else if (m->logits != NULL) {
        be->download(be, b->logits, m->logits, (size_t)b->n_logits * row * sizeof(float));
    }
}

int llama_check_batch(const struct llama *m, const struct text_batch *b, struct err *e)
{
    if (b->n_rows < 1 || b->n_rows > m->max_rows || b->n_logits < 0 || b->n_logits > m->max_logits)
        return err_set(e, ERR_INVALID, "a batch of %d rows and %d logits, allowed are %d and %d",
                       b->n_rows, b->n_logits, m->max_rows, m->max_logits);
    for (int r = 0; r < b->n_rows && b->ids_there == NULL; r++)
        if (b->ids[r] < 0 || b->ids[r] >= m->c.n_vocab)
            return err_set(e, ERR_INVALID, "token %d is outside the vocabulary of %d", b->ids[r],
                           m->c.n_vocab);
    return 0;
}

/* The products of one layer with as many rows as there will ever be: what a backend needs for a step
 * grows to its size here, not while requests wait. */
static int warm_up(struct llama *m, struct err *e)
{
    const struct llama_config *c = &m->c;
    const struct llama_layer *l = &m->layers[0];
    const int64_t n = m->max_rows, kv_dim = (int64_t)c->n_kv_heads * c->head_dim;
    struct tensor x = llama_tensor(m->x, n, c->n_embd);
    struct tensor q = llama_tensor(m->q, n, (int64_t)c->n_heads * c->head_dim);
    struct tensor k = llama_tensor(m->k, n, kv_dim), v = llama_tensor(m->v, n, kv_dim);
    OP(m->be, linear, .out = {&q, &k, &v}, .w = {l->q, l->k, l->v}, .x = &x,
       .pre = {.kind = LINEAR_RMSNORM, .w = &l->attn_norm, .eps = c->eps},
       .x_type = m->be->activations, .precise = true);
    OP(m->be, linear, .out = {&x}, .w = {l->o}, .x = &q, .x_type = m->be->activations);
    llama_feed_forward(m, 0, (struct llama_rows){0, n});
    return m->be->sync(m->be, e);
}

static int llama_forward(struct text_model *base, char *kv_base, const struct text_batch *b,
                         struct err *e)
{
    struct llama *m = (struct llama *)base;
    int rc = llama_check_batch(m, b, e);
    if (rc != 0)
        return rc;
    const struct llama_rows rows = {0, b->n_rows};
    struct tensor x = llama_tensor(m->x, b->n_rows, m->c.n_embd);
    OP(m->be, embed, .out = &x, .w = m->embd, .ids = b->ids, .there = b->ids_there);
    for (int i = 0; i < m->c.n_layers - 1; i++) {
        llama_attention(m, i, kv_base, b, rows);
        llama_feed_forward(m, i, rows);
    }
    last_layer(m, kv_base, b);
    if (b->n_logits > 0)
        llama_logits(m, b);
    return b->choose != NULL ? 0 : m->be->sync(m->be, e);
}

/* ---- open and close ---- */

void llama_close(struct text_model *base)
{
    struct llama *m = (struct llama *)base;
    struct backend *be = m->be;
    for (int i = 0; m->layers != NULL && i < m->c.n_layers; i++) {
        struct llama_layer *l = &m->layers[i];
        struct weight *const weights[] = {l->q, l->k, l->v, l->o, l->gate, l->up, l->down};
        const struct tensor *const vectors[] = {&l->attn_norm, &l->ffn_norm, &l->q_bias,
                                                &l->k_bias,    &l->v_bias,   &l->o_bias,
                                                &l->gate_bias, &l->up_bias,  &l->down_bias};
        for (size_t k = 0; k < sizeof weights / sizeof *weights; k++)
            be->weight_close(be, weights[k]);
        for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++)
            be->free(be, vectors[k]->data);
    }
    if (m->output != m->embd)
        be->weight_close(be, m->output);
    be->weight_close(be, m->embd);
    float *const scratch[] = {m->x,    m->q,  m->att,  m->k,      m->v,
                              m->gate, m->up, m->last, m->logits, m->parts};
    for (size_t i = 0; i < sizeof scratch / sizeof *scratch; i++)
        be->free(be, scratch[i]);
    be->free(be, m->output_norm.data);
    free(m->layers);
    free(m);
}

/* The wanted context, or what the model was trained for if that is less: positions beyond it give
 * nonsense. */
static void choose_context(struct llama *m, int wanted)
{
    int n_ctx_train = (int)m->c.rope.n_ctx_train;
    if (wanted > n_ctx_train && m->share.rank == 0)
        log_msg(LOG_WARN, "model.context",
                "n_ctx is %d; the model was trained for %d, which is used", wanted, n_ctx_train);
    m->base.n_ctx_train = n_ctx_train;
    m->base.n_ctx = wanted > 0 && wanted < n_ctx_train ? wanted : n_ctx_train;
}

int llama_open_share(struct llama **out, struct gguf *g, struct backend *be,
                     const struct model_options *o, struct llama_share share, struct err *e)
{
    struct llama *m = xcalloc(1, sizeof *m);
    m->base.forward = llama_forward;
    m->base.close = llama_close;
    m->base.chooses = be->choose != NULL;
    m->be = be;
    m->share = share;
    m->max_rows = o->max_rows;
    m->max_logits = o->max_logits < o->max_rows ? o->max_logits : o->max_rows;
    m->kv_type = o->kv_type;
    struct llama_config *c = &m->c;
    int rc = read_config(c, g, e);
    if (rc == 0)
        rc = take_share(m, e);
    if (rc != 0)
        goto fail;
    choose_context(m, o->n_ctx);
    m->base.n_vocab = c->n_vocab;
    m->base.page_bytes =
        (size_t)c->n_layers * 2 * be->kv_bytes(m->kv_type, c->n_kv_heads, c->head_dim);
    if (m->base.page_bytes == 0) {
        rc = err_set(e, ERR_UNSUPPORTED,
                     "%s has no key/value cache of type %s for heads of %d values", be->name,
                     dtype_name(m->kv_type), c->head_dim);
        goto fail;
    }
    m->layers = xcalloc((size_t)c->n_layers, sizeof *m->layers);
    rc = load_weights(m, g, o->progress, e);
    if (rc == 0)
        rc = alloc_scratch(m, e);
    if (rc == 0 && !o->no_warmup)
        rc = warm_up(m, e);
    if (rc != 0)
        goto fail;
    *out = m;
    return 0;
fail:
    llama_close(&m->base);
    return rc;
}

int llama_open(struct text_model **out, struct gguf *g, struct backend *be,
               const struct model_options *o, struct err *e)
{
    if (be->team && !be->dry)
        return llama_team_open(out, g, be, o, e);
    struct llama *m = NULL;
    /* what a team's model is, its first share says */
    const struct llama_share share = {.n = be->team ? be->team->n : 1};
    int rc = llama_open_share(&m, g, be, o, share, e);
    if (rc == 0)
        *out = &m->base;
    return rc;
}
