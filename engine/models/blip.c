/* BLIP's configuration and weights, and opening and closing it.  blip_vision.c and blip_text.c have the
 * networks; docs/MODELS.md every tensor and formula. */
#include "engine/models/blip.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"
#include "engine/models/blip_int.h"

enum {
    MAX_LAYERS = 128,
    MAX_WIDTH = 1 << 14,
    MAX_HEADS = 1024,
    MAX_HEAD_DIM = 256, /* what attention over pages holds */
    HEAD_DIM_STEP = 8,
    MAX_SIZE = 2048,
    MAX_VOCAB = 1 << 20,
    MAX_POSITIONS = 1 << 16
};

/* ---- configuration ---- */

struct int_field {
    const char *key;
    int *to;
    int standard, max;
};

static int read_ints(const struct cJSON *config, const struct int_field *fields, size_t n,
                     struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        int64_t v = fields[i].standard;
        rc = json_get_int(config, fields[i].key, &v, 1, fields[i].max, e);
        *fields[i].to = (int)v;
    }
    return rc;
}

static int read_act(const struct cJSON *config, enum act *act, struct err *e)
{
    const char *name = "gelu";
    int rc = json_get_str(config, "hidden_act", &name, e);
    if (rc != 0)
        return rc;
    if (strcmp(name, "gelu") == 0)
        *act = ACT_GELU;
    else if (strcmp(name, "gelu_new") == 0 || strcmp(name, "gelu_pytorch_tanh") == 0)
        *act = ACT_GELU_TANH;
    else if (strcmp(name, "quick_gelu") == 0)
        *act = ACT_QUICK_GELU;
    else if (strcmp(name, "relu") == 0)
        *act = ACT_RELU;
    else
        return err_set(e, ERR_UNSUPPORTED, "the activation '%.40s' is not built in", name);
    return 0;
}

static int read_vision(struct blip_vision *v, const struct cJSON *config, struct err *e)
{
    const struct int_field fields[] = {
        {"image_size", &v->in.size, 384, MAX_SIZE},
        {"patch_size", &v->in.patch, 16, MAX_SIZE},
        {"hidden_size", &v->dim, 768, MAX_WIDTH},
        {"intermediate_size", &v->n_ff, 3072, 8 * MAX_WIDTH},
        {"num_hidden_layers", &v->n_layers, 12, MAX_LAYERS},
        {"num_attention_heads", &v->n_heads, 12, MAX_HEADS},
    };
    v->eps = 1e-5f;
    int rc = read_ints(config, fields, sizeof fields / sizeof *fields, e);
    if (rc == 0)
        rc = json_get_float(config, "layer_norm_eps", &v->eps, 0, 1, e);
    if (rc == 0)
        rc = read_act(config, &v->act, e);
    if (rc != 0)
        return err_wrap(e, "vision_config");
    if (v->dim % v->n_heads != 0 || v->dim / v->n_heads > ATTN_MAX_HEAD_DIM)
        return err_set(e, ERR_UNSUPPORTED, "a vision transformer of width %d, %d heads", v->dim,
                       v->n_heads);
    v->in.dim = v->dim;
    return vit_patches_init(&v->in, e);
}

static int read_token(const struct cJSON *config, const char *key, int32_t *id, int n_vocab,
                      struct err *e)
{
    int64_t v = *id;
    int rc = json_get_int(config, key, &v, 0, n_vocab - 1, e);
    if (rc == 0 && v >= n_vocab)
        rc = err_set(e, ERR_CORRUPT, "%s is %lld, the vocabulary has %d", key, (long long)v,
                     n_vocab);
    *id = (int32_t)v;
    return rc;
}

static int read_text(struct blip *m, const struct cJSON *config, struct err *e)
{
    struct blip_text *t = &m->text;
    const struct int_field fields[] = {
        {"vocab_size", &t->n_vocab, 30524, MAX_VOCAB},
        {"hidden_size", &t->dim, 768, MAX_WIDTH},
        {"intermediate_size", &t->n_ff, 3072, 8 * MAX_WIDTH},
        {"num_hidden_layers", &t->n_layers, 12, MAX_LAYERS},
        {"num_attention_heads", &t->n_heads, 8, MAX_HEADS},
        {"max_position_embeddings", &t->n_positions, 512, MAX_POSITIONS},
    };
    t->eps = 1e-12f;
    m->info.bos = 30522;
    m->info.sep = 102;
    m->info.pad = 0;
    int rc = read_ints(config, fields, sizeof fields / sizeof *fields, e);
    if (rc == 0)
        rc = json_get_float(config, "layer_norm_eps", &t->eps, 0, 1, e);
    if (rc == 0)
        rc = read_act(config, &t->act, e);
    if (rc == 0)
        rc = read_token(config, "bos_token_id", &m->info.bos, t->n_vocab, e);
    if (rc == 0)
        rc = read_token(config, "sep_token_id", &m->info.sep, t->n_vocab, e);
    if (rc == 0)
        rc = read_token(config, "pad_token_id", &m->info.pad, t->n_vocab, e);
    if (rc != 0)
        return err_wrap(e, "text_config");
    t->head_dim = t->dim % t->n_heads == 0 ? t->dim / t->n_heads : 0;
    if (t->head_dim == 0 || t->head_dim % HEAD_DIM_STEP != 0 || t->head_dim > MAX_HEAD_DIM)
        return err_set(e, ERR_UNSUPPORTED, "text stacks of width %d with %d heads", t->dim,
                       t->n_heads);
    t->n_from = m->vision.dim;
    return 0;
}

static int read_kind(struct blip *m, const struct cJSON *config, struct err *e)
{
    static const char *const names[] = {[CAPTION_TEXT] = "BlipForConditionalGeneration",
                                        [CAPTION_VQA] = "BlipForQuestionAnswering",
                                        [CAPTION_MATCH] = "BlipForImageTextRetrieval"};
    const char *name = json_str(json_first(json_get(config, "architectures")));
    for (size_t i = 0; name != NULL && i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            m->info.kind = (enum caption_mode)i;
            return 0;
        }
    }
    return err_set(e, ERR_UNSUPPORTED, "the architecture is %.60s; built in are %s, %s and %s",
                   name != NULL ? name : "not told", names[0], names[1], names[2]);
}

static int read_config(struct blip *m, const struct cJSON *config, struct err *e)
{
    const struct cJSON *text = json_get(config, "text_config");
    struct int_field project = {"image_text_hidden_size", &m->text.n_project, 256, MAX_WIDTH};
    int rc = read_kind(m, config, e);
    if (rc == 0)
        rc = read_vision(&m->vision, json_get(config, "vision_config"), e);
    if (rc == 0)
        rc = read_text(m, text, e);
    if (rc == 0)
        rc = read_ints(config, &project, 1, e);
    m->tied = true;
    if (rc == 0)
        rc = json_get_bool(config, "tie_word_embeddings", &m->tied, e);
    if (rc == 0 && m->tied)
        rc = json_get_bool(text, "tie_word_embeddings", &m->tied, e);
    return rc;
}

/* ---- preprocessor_config.json ---- */

static int read_size(const struct blip *m, const struct cJSON *config, struct err *e)
{
    const struct cJSON *size = json_get(config, "size");
    int64_t height = m->vision.in.size, width = height;
    int rc = json_get_int(size, "height", &height, 1, MAX_SIZE, e);
    if (rc == 0)
        rc = json_get_int(size, "width", &width, 1, MAX_SIZE, e);
    if (rc == 0 && (height != m->vision.in.size || width != m->vision.in.size))
        rc = err_set(e, ERR_UNSUPPORTED,
                     "pictures of %lldx%lld for a vision transformer that takes %dx%d",
                     (long long)width, (long long)height, m->vision.in.size, m->vision.in.size);
    return rc;
}

static int read_processing(struct blip *m, const struct cJSON *config, struct err *e)
{
    int rc = vit_pixels_read(&m->vision.colours, config, e);
    return rc == 0 ? read_size(m, config, e) : rc;
}

/* Newer files have it within processor_config.json; without any it is what BLIP's own have. */
static int read_preprocessor(struct blip *m, const struct checkpoint *c, struct err *e)
{
    m->vision.colours = vit_pixels_default;
    struct cJSON *doc = NULL;
    struct err why = {0};
    const struct cJSON *config;
    int rc = checkpoint_document(c, "preprocessor_config.json", JSON_OBJECT, &doc, &why);
    config = doc;
    if (rc == ERR_NOTFOUND) {
        rc = checkpoint_document(c, "processor_config.json", JSON_OBJECT, &doc, &why);
        config = json_get(doc, "image_processor");
        if (rc == ERR_NOTFOUND)
            return 0;
    }
    if (rc != 0) {
        if (e != NULL)
            *e = why;
        return rc;
    }
    if (json_type(config) == JSON_OBJECT)
        rc = read_processing(m, config, e);
    json_free(doc);
    return rc != 0 ? err_wrap(e, "preprocessor_config.json") : 0;
}

/* ---- weights ---- */

static void walk_stack(struct nn_loader *l, struct blip *m, const char *name, struct blip_stack *s)
{
    const size_t path = nn_push(l, "%s", name);
    blip_text_walk(l, &m->text, s);
    nn_pop(l, path);
}

static void walk_head(struct nn_loader *l, struct blip *m)
{
    const size_t path = nn_push(l, "text_decoder.cls.predictions");
    nn_load_linear(l, &m->transform, "transform.dense", m->text.dim, m->text.dim, NN_BIAS);
    nn_load_norm(l, &m->transform_norm, "transform.LayerNorm", m->text.dim);
    nn_load_vector(l, &m->output.bias, "bias", m->text.n_vocab);
    nn_ignore(l, "decoder.bias"); /* the same once more */
    if (m->tied)
        nn_ignore(l, "decoder.weight");
    else
        nn_load_linear(l, &m->output, "decoder", m->text.n_vocab, m->text.dim, NN_NO_BIAS);
    nn_pop(l, path);
}

static void walk(struct nn_loader *l, void *model)
{
    struct blip *m = model;
    blip_vision_walk(l, &m->vision);
    if (m->info.kind != CAPTION_TEXT)
        walk_stack(l, m, "text_encoder", &m->encoder);
    if (m->info.kind != CAPTION_MATCH) {
        walk_stack(l, m, "text_decoder.bert", &m->decoder);
        walk_head(l, m);
        return;
    }
    nn_load_linear(l, &m->itm, "itm_head", 2, m->text.dim, NN_BIAS);
    nn_load_linear(l, &m->vision_proj, "vision_proj", m->text.n_project, m->vision.dim, NN_BIAS);
    nn_load_linear(l, &m->text_proj, "text_proj", m->text.n_project, m->text.dim, NN_BIAS);
}

static int load(struct blip *m, struct checkpoint *c, struct err *e)
{
    m->vision.layers = xcalloc((size_t)m->vision.n_layers, sizeof *m->vision.layers);
    m->encoder.layers = xcalloc((size_t)m->text.n_layers, sizeof *m->encoder.layers);
    m->decoder.layers = xcalloc((size_t)m->text.n_layers, sizeof *m->decoder.layers);
    struct nn_loader l = {.c = c, .part = CHECKPOINT_MODEL, .store = &m->store, .e = e};
    int rc = nn_load(&l, walk, m);
    m->base.weight_bytes = m->store.bytes;
    return rc;
}

/* ---- open and close ---- */

bool blip_is(const char *path)
{
    char type[64];
    return checkpoint_model_type(path, type, sizeof type) && strcmp(type, "blip") == 0;
}

static void blip_close(struct text_model *base)
{
    struct blip *m = (struct blip *)base;
    const struct blip_scratch *s = &m->s;
    void *const scratch[] = {s->x,  s->h,    s->q,     s->k,      s->v,     s->att,
                             s->ff, s->last, s->last2, s->states, s->cross, s->logits};
    program_close(m->vision.pass);
    for (size_t i = 0; i < sizeof scratch / sizeof *scratch; i++)
        m->be->free(m->be, scratch[i]);
    backend_mirror_close(&m->s.head);
    free(m->s.items);
    free(m->s.pos);
    nn_store_free(&m->store);
    free(m->vision.layers);
    free(m->encoder.layers);
    free(m->decoder.layers);
    free(m);
}

static void set_limits(struct blip *m, const struct blip_options *o)
{
    const int n = m->text.n_positions;
    m->max_rows = o->max_rows;
    m->max_logits = o->max_logits < o->max_rows ? o->max_logits : o->max_rows;
    m->base.n_vocab = m->text.n_vocab;
    m->base.n_ctx_train = n;
    m->base.n_ctx = o->n_ctx > 0 && o->n_ctx < n ? o->n_ctx : n;
    m->base.page_bytes = (size_t)m->text.n_layers * 2 *
                         m->be->kv_bytes(DTYPE_F32, m->text.n_heads, m->text.head_dim);
    m->info.image_size = m->vision.in.size;
    m->info.filter = m->vision.colours.filter;
    if (m->info.kind != CAPTION_TEXT)
        m->info.n_question = n < m->max_rows ? n : m->max_rows;
}

int blip_open(struct blip **out, struct checkpoint *c, struct backend *be,
              const struct blip_options *o, struct err *e)
{
    struct blip *m = xcalloc(1, sizeof *m);
    m->base.forward = blip_text_forward;
    m->base.close = blip_close;
    m->be = be;
    m->store.be = be;
    int rc = read_config(m, checkpoint_config(c, CHECKPOINT_MODEL), e);
    if (rc == 0)
        rc = read_preprocessor(m, c, e);
    if (rc == 0) {
        set_limits(m, o);
        nn_count(c, CHECKPOINT_MODEL, &m->info.n_params, &m->info.type);
        rc = load(m, c, e);
    }
    if (rc == 0)
        rc = blip_text_scratch(m, e);
    if (rc == 0)
        rc = blip_vision_open(m, e);
    if (rc != 0) {
        blip_close(&m->base);
        return rc;
    }
    if (o->progress != NULL)
        atomic_store(o->progress, 1000);
    *out = m;
    return 0;
}

const struct blip_info *blip_info(const struct blip *m)
{
    return &m->info;
}

struct text_model *blip_text(struct blip *m)
{
    return &m->base;
}

float *blip_view_memory(const struct blip *m, int n_question, struct err *e)
{
    return m->be->alloc(m->be, blip_view_bytes(m, n_question), e);
}

void blip_view_free(const struct blip *m, float *kv)
{
    m->be->free(m->be, kv);
}

int blip_seen_copy(const struct blip *m, float *to, struct err *e)
{
    const struct tensor *seen = &m->vision.seen;
    m->be->download(m->be, to, seen->data, (size_t)(seen->dims[0] * seen->dims[1]) * sizeof(float));
    return m->be->sync(m->be, e);
}

size_t blip_view_bytes(const struct blip *m, int n_question)
{
    if (m->info.kind == CAPTION_MATCH)
        return 0;
    size_t n = (size_t)(m->info.kind == CAPTION_VQA ? n_question : m->vision.in.n_tokens);
    return (size_t)m->text.n_layers * 2 * n * (size_t)m->text.dim * sizeof(float);
}

const struct tensor *blip_seen(const struct blip *m)
{
    return &m->vision.seen;
}
