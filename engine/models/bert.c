/* BERT's encoder: absolute positions, attention in both directions, norms after the sums.
 *
 *     x = norm(word[ids] + position + type[0])
 *     x = norm(x + o(attention(q, k, v of x)))
 *     x = norm(x + fc2(gelu(fc1(x))))             for each layer
 *     vector = mean of x over the text's tokens (or the first token's x), divided by its length
 *
 * Texts of a batch lie one after the other without padding; attention has an item for each. */
#include "engine/models/bert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"
#include "engine/models/nn.h"
#include "engine/models/post_norm.h"

enum {
    MAX_LAYERS = 128,
    MAX_WIDTH = 1 << 14,
    MAX_HEADS = 1024,
    MAX_VOCAB = 1 << 20,
    MAX_POSITIONS = 8192
};

struct bert_layer {
    struct nn_linear q, k, v, o; /* [dim, dim] */
    struct nn_linear fc1, fc2;   /* [n_ff, dim], [dim, n_ff] */
    struct nn_norm norm, ff_norm;
};

struct bert {
    struct bert_info info;
    struct backend *be;
    struct nn_store store;
    int n_layers, n_heads, n_ff, n_types, max_rows;
    float eps;
    struct weight *word, *position, *type; /* [n_vocab, dim], [n_positions, dim], [n_types, dim] */
    struct nn_norm norm;
    struct bert_layer *layers;
    /* Scratch of a step. */
    struct backend_mirror x;   /* [max_rows, dim] */
    float *h, *q, *k, *v, *ff; /* [max_rows, dim]; ff [max_rows, n_ff] */
    int32_t *pos, *zeros;      /* [max_rows], of the host */
    struct attn_item *items;   /* [max_rows], of the host */
};

/* ---- configuration ---- */

static int read_config(struct bert *m, const struct cJSON *config, struct err *e)
{
    const struct {
        const char *key;
        int *to;
        int standard, max;
    } fields[] = {
        {"vocab_size", &m->info.n_vocab, 30522, MAX_VOCAB},
        {"hidden_size", &m->info.dim, 768, MAX_WIDTH},
        {"intermediate_size", &m->n_ff, 3072, 8 * MAX_WIDTH},
        {"num_hidden_layers", &m->n_layers, 12, MAX_LAYERS},
        {"num_attention_heads", &m->n_heads, 12, MAX_HEADS},
        {"max_position_embeddings", &m->info.n_positions, 512, MAX_POSITIONS},
        {"type_vocab_size", &m->n_types, 2, MAX_WIDTH},
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields && rc == 0; i++) {
        int64_t v = fields[i].standard;
        rc = json_get_int(config, fields[i].key, &v, 1, fields[i].max, e);
        *fields[i].to = (int)v;
    }
    const char *act = "gelu", *positions = "absolute";
    m->eps = 1e-12f;
    if (rc == 0)
        rc = json_get_float(config, "layer_norm_eps", &m->eps, 0, 1, e);
    if (rc == 0)
        rc = json_get_str(config, "hidden_act", &act, e);
    if (rc == 0)
        rc = json_get_str(config, "position_embedding_type", &positions, e);
    if (rc != 0)
        return rc;
    if (strcmp(act, "gelu") != 0 || strcmp(positions, "absolute") != 0)
        return err_set(e, ERR_UNSUPPORTED, "a BERT with %.40s and %.40s positions is not built in",
                       act, positions);
    if (m->info.dim % m->n_heads != 0 || m->info.dim / m->n_heads > ATTN_MAX_HEAD_DIM)
        return err_set(e, ERR_UNSUPPORTED, "a BERT of width %d with %d heads", m->info.dim,
                       m->n_heads);
    return 0;
}

/* sentence-transformers has a word for it, older ones a flag for each way; without both it is the
 * mean. */
static int read_pooling(struct bert *m, const struct cJSON *doc, struct err *e)
{
    static const char flag[] = "pooling_mode_";
    const char *mode = NULL;
    const struct cJSON *word = json_get(doc, "pooling_mode");
    bool several = false;
    for (const struct cJSON *v = json_first(doc); v != NULL && word == NULL; v = json_next(v)) {
        bool on = false;
        if (strncmp(json_key(v), flag, sizeof flag - 1) != 0)
            continue;
        int rc = json_get_bool(doc, json_key(v), &on, e);
        if (rc != 0)
            return rc;
        several |= on && mode != NULL;
        mode = on ? json_key(v) + sizeof flag - 1 : mode;
    }
    if (word != NULL)
        mode = json_str(word) != NULL ? json_str(word) : json_type_name(json_type(word));
    else if (mode == NULL)
        mode = "mean";
    m->info.mean = strcmp(mode, "mean") == 0 || strcmp(mode, "mean_tokens") == 0;
    const bool first = strcmp(mode, "cls") == 0 || strcmp(mode, "cls_token") == 0;
    if (several || (!m->info.mean && !first))
        return err_set(e, ERR_UNSUPPORTED,
                       "vectors that are neither the mean nor the first token (%.40s) are not "
                       "built in",
                       several ? "several flags" : mode);
    return 0;
}

static int read_modules(struct bert *m, const struct cJSON *doc, struct err *e)
{
    m->info.normalized = false;
    for (const struct cJSON *v = json_first(doc); v != NULL; v = json_next(v)) {
        const char *type = json_str(json_get(v, "type"));
        const char *dot = type != NULL ? strrchr(type, '.') : NULL;
        const char *name = dot != NULL ? dot + 1 : "";
        if (strcmp(name, "Normalize") == 0)
            m->info.normalized = true;
        else if (strcmp(name, "Transformer") != 0 && strcmp(name, "Pooling") != 0)
            return err_set(e, ERR_UNSUPPORTED, "the module %.80s is not built in",
                           type != NULL ? type : "without a type");
    }
    return 0;
}

/* How the tokens become one vector; where the directory does not say, the mean of length 1. */
static int read_ending(struct bert *m, const struct checkpoint *c, struct err *e)
{
    static const struct {
        const char *name;
        enum json_type type;
        int (*read)(struct bert *, const struct cJSON *, struct err *);
    } files[] = {{"1_Pooling/config.json", JSON_OBJECT, read_pooling},
                 {"modules.json", JSON_ARRAY, read_modules}};
    m->info.mean = m->info.normalized = true;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct cJSON *doc = NULL;
        struct err why = {0};
        int rc = checkpoint_document(c, files[i].name, files[i].type, &doc, &why);
        if (rc == ERR_NOTFOUND)
            continue;
        if (rc == 0)
            rc = files[i].read(m, doc, &why);
        json_free(doc);
        if (rc != 0) {
            *e = why;
            return rc == ERR_CORRUPT ? rc : err_wrap(e, "%s", files[i].name);
        }
    }
    return 0;
}

/* ---- weights ---- */

static void load_table(struct nn_loader *l, struct weight **to, const char *name, int rows, int dim)
{
    int64_t n = rows;
    nn_load_embedding(l, to, name, &n, dim);
    if (l->rc == 0 && n != rows)
        l->rc = err_set(l->e, ERR_CORRUPT, "%s has %lld rows, the configuration says %d", name,
                        (long long)n, rows);
}

/* What the encoder was trained with; whole BERTs have it beside "bert.". */
static const char *const heads[] = {
    "cls.predictions.bias",
    "cls.predictions.decoder.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.transform.LayerNorm.bias",
    "cls.predictions.transform.LayerNorm.weight",
    "cls.predictions.transform.dense.bias",
    "cls.predictions.transform.dense.weight",
    "cls.seq_relationship.bias",
    "cls.seq_relationship.weight",
};

static void walk(struct nn_loader *l, void *model)
{
    struct bert *m = model;
    const int dim = m->info.dim;
    const size_t top = nn_has(l, "bert.embeddings.LayerNorm.weight") ? nn_push(l, "bert") : 0;
    load_table(l, &m->word, "embeddings.word_embeddings.weight", m->info.n_vocab, dim);
    load_table(l, &m->position, "embeddings.position_embeddings.weight", m->info.n_positions, dim);
    load_table(l, &m->type, "embeddings.token_type_embeddings.weight", m->n_types, dim);
    nn_load_norm(l, &m->norm, "embeddings.LayerNorm", dim);
    for (int i = 0; i < m->n_layers; i++) {
        struct bert_layer *to = &m->layers[i];
        const size_t path = nn_push(l, "encoder.layer.%d", i);
        nn_load_linear(l, &to->q, "attention.self.query", dim, dim, NN_BIAS);
        nn_load_linear(l, &to->k, "attention.self.key", dim, dim, NN_BIAS);
        nn_load_linear(l, &to->v, "attention.self.value", dim, dim, NN_BIAS);
        nn_load_linear(l, &to->o, "attention.output.dense", dim, dim, NN_BIAS);
        nn_load_norm(l, &to->norm, "attention.output.LayerNorm", dim);
        nn_load_linear(l, &to->fc1, "intermediate.dense", m->n_ff, dim, NN_BIAS);
        nn_load_linear(l, &to->fc2, "output.dense", dim, m->n_ff, NN_BIAS);
        nn_load_norm(l, &to->ff_norm, "output.LayerNorm", dim);
        nn_pop(l, path);
    }
    nn_ignore(l, "pooler.dense.weight"); /* sentences are pooled in another way */
    nn_ignore(l, "pooler.dense.bias");
    nn_pop(l, top);
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        nn_ignore(l, heads[i]);
}

static int open_scratch(struct bert *m, struct err *e)
{
    const size_t rows = (size_t)m->max_rows, dim = rows * (size_t)m->info.dim * sizeof(float);
    const struct {
        void *to;
        size_t bytes;
    } parts[] = {
        {&m->h, dim},
        {&m->q, dim},
        {&m->k, dim},
        {&m->v, dim},
        {&m->ff, rows * (size_t)m->n_ff * sizeof(float)},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        void *p = m->be->alloc(m->be, parts[i].bytes, e);
        if (p == NULL)
            return err_wrap(e, "scratch for %d rows", m->max_rows);
        memcpy(parts[i].to, &p, sizeof p);
    }
    m->pos = mem_try(rows, sizeof *m->pos);
    m->zeros = mem_try(rows, sizeof *m->zeros);
    m->items = mem_try(rows, sizeof *m->items);
    if (m->pos == NULL || m->zeros == NULL || m->items == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %d rows", m->max_rows);
    return backend_mirror_open(&m->x, m->be, dim, e);
}

/* ---- open and close ---- */

bool bert_is(const char *path)
{
    char type[64];
    return checkpoint_model_type(path, type, sizeof type) && strcmp(type, "bert") == 0;
}

int bert_open(struct bert **out, struct checkpoint *c, struct backend *be,
              const struct bert_options *o, struct err *e)
{
    struct bert *m = xcalloc(1, sizeof *m);
    m->be = be;
    m->store.be = be;
    int rc = read_config(m, checkpoint_config(c, CHECKPOINT_MODEL), e);
    if (rc == 0)
        rc = read_ending(m, c, e);
    if (rc == 0) {
        m->max_rows = o->max_rows > m->info.n_positions ? o->max_rows : m->info.n_positions;
        m->layers = xcalloc((size_t)m->n_layers, sizeof *m->layers);
        nn_count(c, CHECKPOINT_MODEL, &m->info.n_params, &m->info.type);
        struct nn_loader l = {.c = c, .part = CHECKPOINT_MODEL, .store = &m->store, .e = e};
        rc = nn_load(&l, walk, m);
        m->info.weight_bytes = m->store.bytes;
    }
    if (rc == 0)
        rc = open_scratch(m, e);
    if (rc != 0) {
        bert_close(m);
        return rc;
    }
    if (o->progress != NULL)
        atomic_store(o->progress, 1000);
    *out = m;
    return 0;
}

void bert_close(struct bert *m)
{
    if (m == NULL)
        return;
    void *const scratch[] = {m->h, m->q, m->k, m->v, m->ff};
    for (size_t i = 0; i < sizeof scratch / sizeof *scratch; i++)
        m->be->free(m->be, scratch[i]);
    backend_mirror_close(&m->x);
    free(m->pos);
    free(m->zeros);
    free(m->items);
    nn_store_free(&m->store);
    free(m->layers);
    free(m);
}

const struct bert_info *bert_info(const struct bert *m)
{
    return &m->info;
}

int bert_max_rows(const struct bert *m)
{
    return m->max_rows;
}

/* ---- a batch ---- */

static struct tensor rows_of(float *data, int64_t rows, int64_t dim)
{
    return (struct tensor){.data = data, .type = DTYPE_F32, .ndim = 2, .dims = {rows, dim}};
}

static void run_layer(struct bert *m, const struct bert_layer *l, struct tensor *x, int n_items)
{
    const int64_t n = x->dims[0], dim = m->info.dim;
    const struct post_norm p = {m->be, m->eps, ACT_GELU};
    struct tensor q = rows_of(m->q, n, dim), k = rows_of(m->k, n, dim), v = rows_of(m->v, n, dim);
    struct tensor ff = rows_of(m->ff, n, m->n_ff);
    const int head_dim = (int)dim / m->n_heads;
    post_norm_project(&p, (const struct nn_linear *const[]){&l->q, &l->k, &l->v}, x,
                      (struct tensor *const[]){&q, &k, &v});
    OP(m->be, attn, .items = m->items, .n_items = n_items, .n_heads = m->n_heads,
       .head_dim = head_dim, .scale = 1 / sqrtf((float)head_dim));
    post_norm_close(&p, &l->o, &l->norm, &q, x);
    post_norm_feed(&p, &(const struct post_norm_ff){&l->fc1, &l->fc2, &l->ff_norm}, &ff, x);
}

/* Positions and attention of the texts; rows in all, or -1 when they do not fit. */
static int place_texts(struct bert *m, const struct bert_batch *b)
{
    int row = 0;
    const int dim = m->info.dim;
    for (int i = 0; i < b->n_texts; i++) {
        const int n = b->n_ids[i];
        if (n < 1 || n > m->info.n_positions || n > m->max_rows - row)
            return -1;
        float *q = m->q + (int64_t)row * dim;
        m->items[i] = (struct attn_item){.q = q,
                                         .k = m->k + (int64_t)row * dim,
                                         .v = m->v + (int64_t)row * dim,
                                         .out = q,
                                         .n_q = n,
                                         .n_k = n,
                                         .q_stride = dim,
                                         .kv_stride = dim,
                                         .out_stride = dim};
        for (int p = 0; p < n; p++)
            m->pos[row++] = p;
    }
    return row;
}

static void pool_text(const struct bert_info *info, const float *x, int n, float *to)
{
    const int used = info->mean ? n : 1;
    double length = 0;
    for (int d = 0; d < info->dim; d++) {
        double sum = 0;
        for (int r = 0; r < used; r++)
            sum += x[(int64_t)r * info->dim + d];
        sum /= used;
        length += sum * sum;
        to[d] = (float)sum;
    }
    if (!info->normalized)
        return;
    const double scale = 1 / fmax(sqrt(length), 1e-12);
    for (int d = 0; d < info->dim; d++)
        to[d] = (float)(to[d] * scale);
}

int bert_run(struct bert *m, const struct bert_batch *b, struct err *e)
{
    const int n = place_texts(m, b), dim = m->info.dim;
    if (n < 1)
        return err_set(e, ERR_INVALID, "the texts do not fit into a batch of %d tokens",
                       m->max_rows);
    struct tensor x = rows_of(m->x.device, n, dim), h = rows_of(m->h, n, dim);
    OP(m->be, embed, .out = &x, .w = m->word, .ids = b->ids);
    OP(m->be, embed, .out = &h, .w = m->type, .ids = m->zeros);
    OP(m->be, add, .out = &x, .a = &x, .b = &h);
    OP(m->be, embed, .out = &h, .w = m->position, .ids = m->pos);
    OP(m->be, add, .out = &x, .a = &x, .b = &h);
    OP(m->be, layernorm, .out = &x, .x = &x, .w = &m->norm.w, .bias = &m->norm.bias, .eps = m->eps);
    for (int i = 0; i < m->n_layers; i++)
        run_layer(m, &m->layers[i], &x, b->n_texts);
    backend_mirror_pull(&m->x, 0, (size_t)n * (size_t)dim * sizeof(float));
    int rc = m->be->sync(m->be, e);
    if (rc != 0)
        return rc;
    const float *from = m->x.host;
    for (int i = 0; i < b->n_texts; i++) {
        pool_text(&m->info, from, b->n_ids[i], b->vectors + (int64_t)i * dim);
        from += (int64_t)b->n_ids[i] * dim;
    }
    return 0;
}
