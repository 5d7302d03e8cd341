/* Opens a model file, whatever it is: finds out its kind from the contents, refuses what cannot be
 * served with a sentence that helps, and fills the card.  The families are in engine/models/. */
#include "engine/model.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "engine/checkpoint.h"
#include "engine/diffusion.h"
#include "engine/gguf.h"
#include "engine/models/bert.h"
#include "engine/models/blip.h"
#include "engine/models/control.h"
#include "engine/models/llama.h"
#include "engine/models/upscaler.h"
#include "engine/text/wordpiece.h"
#include "kernels/quant.h"

enum { MAX_PATH = 4096, MAX_CHAT_TEMPLATE = 1 << 20, MAX_DIR_ENTRIES = 100000 };

/* One of the networks, by card.kind; the others are NULL. */
struct model {
    struct model_card card;
    struct text_model *text;
    struct diffusion *diffusion;
    struct blip *blip; /* text is its decoder */
    struct bert *bert;
    struct upscaler *upscaler;
    struct control *control;
    struct caption_card caption; /* what card.caption points to */
};

static const struct family {
    const char *arch;
    int (*open)(struct text_model **out, struct gguf *g, struct backend *be,
                const struct model_options *o, struct err *e);
} families[] = {
    {"llama", llama_open},
};

/* ---- what kind of file is it ---- */

static bool begins(const struct file *f, const char *magic, size_t n)
{
    return f->size >= n && memcmp(f->data, magic, n) == 0;
}

/* Bytes of a wrong file say what it is and what to do about it.  Never looks into a pickle: reading
 * one runs its code. */
static int check_kind(const struct file *f, struct err *e)
{
    if (begins(f, "GGUF", 4))
        return 0;
    if (f->size == 0)
        return err_set(e, ERR_CORRUPT, "the file is empty: incomplete download?");
    bool zip = begins(f, "PK\x03\x04", 4);
    bool pickle = f->size >= 2 && f->data[0] == '\x80' && f->data[1] >= 1 && f->data[1] <= 5;
    if (zip || pickle)
        return err_set(e, ERR_UNSUPPORTED,
                       "a PyTorch pickle checkpoint can run code and is refused: convert a text "
                       "model to GGUF (convert_hf_to_gguf.py), others to safetensors: save_file("
                       "torch.load(FILE, weights_only=True), NEW), of an upscaler (.pth) its "
                       "[\"params_ema\"]");
    if (begins(f, "lmgg", 4) || begins(f, "fmgg", 4) || begins(f, "tjgg", 4))
        return err_set(e, ERR_UNSUPPORTED,
                       "a GGML file from before GGUF: get or convert the model as GGUF");
    if (begins(f, "version https://git-lfs", 23))
        return err_set(e, ERR_CORRUPT,
                       "a Git LFS pointer, not the model itself: run `git lfs pull`");
    if (begins(f, "<!DOCTYPE", 9) || begins(f, "<!doctype", 9) || begins(f, "<html", 5))
        return err_set(e, ERR_CORRUPT, "a web page, not a model: the download went wrong");
    return err_set(e, ERR_UNSUPPORTED, "not a model file: it does not begin with \"GGUF\"");
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* The one GGUF file of a directory. */
static int find_in_dir(char path[MAX_PATH], struct err *e)
{
    DIR *dir = opendir(path);
    if (dir == NULL)
        return err_set(e, ERR_IO, "cannot list the directory: %m");
    char found[256] = "";
    int n_gguf = 0, n_seen = 0;
    bool torch = false;
    struct dirent *entry;
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): nobody else has this DIR */
    while ((entry = readdir(dir)) != NULL && n_seen++ < MAX_DIR_ENTRIES) {
        const char *name = entry->d_name;
        if (ends_with(name, ".gguf")) {
            n_gguf++;
            memcpy(found, name, strnlen(name, sizeof found - 1) + 1);
        }
        torch = torch || ends_with(name, ".safetensors") || strcmp(name, "model_index.json") == 0 ||
                strcmp(name, "config.json") == 0;
    }
    closedir(dir);
    size_t n = strlen(path);
    if (n_gguf == 1 && n + 1 + strlen(found) < MAX_PATH) {
        path[n] = '/';
        memcpy(path + n + 1, found, strlen(found) + 1);
        return 0;
    }
    if (n_gguf > 1)
        return err_set(e, ERR_INVALID, "the directory has %d GGUF files: name one of them", n_gguf);
    if (torch)
        return err_set(e, ERR_UNSUPPORTED,
                       "neither a GGUF nor an image model (model_index.json): convert a "
                       "transformers directory to GGUF (llama.cpp's convert_hf_to_gguf.py)");
    return err_set(e, ERR_NOTFOUND, "the directory has no GGUF file");
}

/* The file that the path means, and its time; contents checked for kind. */
static int locate(char path[MAX_PATH], struct stat *st, struct err *e)
{
    if (stat(path, st) != 0)
        return err_set(e, errno == ENOENT || errno == ENOTDIR ? ERR_NOTFOUND : ERR_IO,
                       "cannot read the model file: %m");
    if (S_ISDIR(st->st_mode)) {
        int rc = find_in_dir(path, e);
        if (rc != 0)
            return rc;
        if (stat(path, st) != 0)
            return err_set(e, ERR_IO, "cannot read the model file: %m");
    }
    struct file f;
    int rc = file_open(&f, path, e);
    if (rc != 0)
        return rc;
    rc = check_kind(&f, e);
    file_close(&f);
    return rc;
}

/* ---- the card ---- */

static int find_family(const struct family **out, const struct gguf *g, struct err *e)
{
    struct gguf_str arch = {0};
    int64_t n_splits = 1;
    int rc = gguf_get_str(g, "general.architecture", &arch, e);
    if (rc == 0)
        rc = gguf_get_int(g, "split.count", &n_splits, 0, 65535, e);
    if (rc != 0)
        return rc;
    if (arch.len == 0)
        return err_set(e, ERR_CORRUPT, "the key general.architecture is missing");
    if (n_splits > 1)
        return err_set(e, ERR_UNSUPPORTED,
                       "one of %d parts of a model: join them with llama.cpp's gguf-split --merge",
                       (int)n_splits);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (strlen(families[i].arch) == arch.len &&
            memcmp(families[i].arch, arch.data, arch.len) == 0) {
            *out = &families[i];
            return 0;
        }
    }
    return err_set(e, ERR_UNSUPPORTED, "the architecture \"%s\" is not built in (llama is)",
                   err_shown(arch.data, arch.len).text);
}

/* Copies the template; a NUL inside would cut it short, so it is refused. */
static int read_chat_template(char **out, const struct gguf *g, struct err *e)
{
    const char *key = "tokenizer.chat_template";
    struct gguf_str s = {0};
    int rc = gguf_get_str(g, key, &s, e);
    if (rc != 0 || s.len == 0)
        return rc;
    if (s.len > MAX_CHAT_TEMPLATE || memchr(s.data, 0, s.len) != NULL)
        return err_set(e, ERR_CORRUPT, "%s has a NUL byte or more than %d bytes", key,
                       MAX_CHAT_TEMPLATE);
    *out = mem_try(s.len + 1, 1);
    if (*out == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for the chat template");
    memcpy(*out, s.data, s.len);
    return 0;
}

/* Parameters, and the type that most bytes of the weights have. */
static void count_weights(struct model_card *card, const struct gguf *g)
{
    size_t bytes[DTYPE_N] = {0};
    int most = DTYPE_F32;
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        int64_t n = 1;
        for (int d = 0; d < t->ndim; d++)
            n *= t->dims[d];
        card->n_params += n;
        bytes[t->type] += t->bytes;
        if (bytes[t->type] > bytes[most])
            most = (int)t->type;
    }
    card->quant = xstrdup(dtype_name((enum dtype)most));
}

/* Tokenizer and template. */
static int open_words(struct model_card *card, const struct gguf *g, struct err *e)
{
    int rc = tokenizer_open(&card->tokenizer, g, e);
    if (rc != 0) {
        card->tokenizer = NULL;
        return err_wrap(e, "tokenizer");
    }
    const int n_tokens = tokenizer_info(card->tokenizer)->n_vocab;
    const struct gguf_tensor *embd = gguf_tensor_find(g, "token_embd.weight");
    if (embd != NULL && embd->dims[0] != n_tokens)
        return err_set(e, ERR_CORRUPT,
                       "the vocabulary has %d tokens but token_embd.weight has %lld rows", n_tokens,
                       (long long)embd->dims[0]);
    return read_chat_template(&card->chat_template, g, e);
}

/* The vocabulary is read before the weights: it is quick, and may be wrong. */
static int open_text(struct model *m, struct gguf *g, struct backend *be,
                     const struct model_options *o, struct err *e)
{
    const struct family *family = families; /* until it is found */
    struct model_card *card = &m->card;
    int rc = find_family(&family, g, e);
    if (rc != 0)
        return rc;
    card->arch = family->arch;
    card->digest = gguf_digest(g);
    count_weights(card, g);
    if (!o->bare)
        rc = open_words(card, g, e);
    if (rc == 0)
        rc = family->open(&m->text, g, be, o, e);
    if (rc != 0)
        return rc;
    if (file_damaged(gguf_file(g)))
        return err_set(e, ERR_IO, "the file changed while it was loaded");
    card->n_vocab = m->text->n_vocab;
    card->n_ctx_train = m->text->n_ctx_train;
    card->n_ctx = m->text->n_ctx;
    card->weight_bytes = m->text->weight_bytes;
    return 0;
}

/* When the file or directory was last changed, in Unix seconds; 0: nobody can tell. */
static int64_t created(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_mtime : 0;
}

static const char *image_source(const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return "diffusers";
    return ends_with(path, ".gguf") ? "gguf" : "safetensors";
}

static int open_image(struct model **out, const char *id, const char *path, struct backend *be,
                      const struct model_options *o, struct err *e)
{
    struct diffusion *d = NULL;
    const struct diffusion_options dopt = {.preview = o->preview,
                                           .vae_bytes = o->vae_bytes,
                                           .progress = o->progress,
                                           .tokenizer = o->tokenizer,
                                           .prediction = o->prediction,
                                           .bare = o->bare,
                                           .safety = o->safety,
                                           .adapters = o->adapters};
    int rc = diffusion_open(&d, path, be, &dopt, e);
    if (rc != 0)
        return rc;
    struct model *m = xcalloc(1, sizeof *m);
    m->diffusion = d;
    m->card = (struct model_card){
        .id = xstrdup(id),
        .arch = d->info->family,
        .source = image_source(path),
        .kind = d->info->enlarges ? MODEL_ENLARGER : MODEL_IMAGE,
        .quant = xstrdup(dtype_name(d->type)),
        .n_params = d->n_params,
        .weight_bytes = d->info->weight_bytes,
        .created = created(path),
        .input = MODALITY_TEXT | (d->card.edit || d->info->enlarges ? MODALITY_IMAGE : 0),
        .scale = d->info->enlarges ? d->info->scale : 0,
        .output = MODALITY_IMAGE,
        .image = &d->card,
    };
    *out = m;
    return 0;
}

/* ---- ControlNets and T2I-Adapters ---- */

static int open_control(struct model **out, const char *id, const char *path, struct backend *be,
                        const struct model_options *o, struct err *e)
{
    struct checkpoint *c;
    struct control *control;
    int rc = checkpoint_open(&c, path, NULL, e);
    if (rc != 0)
        return rc;
    rc = control_open(&control, c, be, o->progress, e);
    checkpoint_close(c);
    if (rc != 0)
        return rc;
    const struct control_info *info = control_info(control);
    struct model *m = xcalloc(1, sizeof *m);
    m->control = control;
    m->card = (struct model_card){.id = xstrdup(id),
                                  .arch = info->adapter ? "t2i-adapter" : "controlnet",
                                  .source = image_source(path),
                                  .kind = MODEL_CONTROL,
                                  .quant = xstrdup(dtype_name(info->type)),
                                  .n_params = info->n_params,
                                  .weight_bytes = info->weight_bytes,
                                  .created = created(path),
                                  .input = MODALITY_IMAGE};
    *out = m;
    return 0;
}

/* ---- upscalers ---- */

/* Pixels alone: as much of a pass's memory as a quarter of an image decoder's. */
static int open_upscaler(struct model **out, const char *id, const char *path, struct backend *be,
                         const struct model_options *o, struct err *e)
{
    struct checkpoint *c;
    struct upscaler *u = NULL;
    int rc = checkpoint_open(&c, path, NULL, e);
    if (rc != 0)
        return rc;
    rc = upscaler_open(&u, c, be, o->vae_bytes / 4, o->progress, e);
    checkpoint_close(c);
    if (rc != 0)
        return rc;
    const struct upscaler_info *info = upscaler_info(u);
    struct model *m = xcalloc(1, sizeof *m);
    m->upscaler = u;
    m->card = (struct model_card){.id = xstrdup(id),
                                  .arch = info->family,
                                  .source = "safetensors",
                                  .kind = MODEL_UPSCALER,
                                  .quant = xstrdup(dtype_name(info->type)),
                                  .n_params = info->n_params,
                                  .weight_bytes = info->weight_bytes,
                                  .created = created(path),
                                  .input = MODALITY_IMAGE,
                                  .output = MODALITY_IMAGE,
                                  .scale = info->scale};
    *out = m;
    return 0;
}

/* ---- caption models ---- */

static int open_blip_tokenizer(struct model *m, const char *path, struct err *e)
{
    struct wordpiece *w;
    const struct blip_info *info = blip_info(m->blip);
    int rc = wordpiece_open(&w, path, e);
    if (rc != 0)
        return err_wrap(e, "tokenizer");
    m->caption.cls = wordpiece_info(w)->cls;
    m->caption.sep = info->sep;
    return tokenizer_from_wordpiece(&m->card.tokenizer, w, info->bos, info->sep, false,
                                    blip_text(m->blip)->n_vocab, e);
}

static void fill_caption(struct model *m, const char *id)
{
    const struct blip_info *info = blip_info(m->blip);
    const struct text_model *text = blip_text(m->blip);
    m->text = blip_text(m->blip);
    m->caption = (struct caption_card){.mode = info->kind,
                                       .size = info->image_size,
                                       .filter = info->filter,
                                       .n_question = info->n_question,
                                       .bos = info->bos};
    m->card = (struct model_card){.id = xstrdup(id),
                                  .arch = "blip",
                                  .source = "transformers",
                                  .kind = MODEL_CAPTION,
                                  .quant = xstrdup(dtype_name(info->type)),
                                  .n_params = info->n_params,
                                  .weight_bytes = text->weight_bytes,
                                  .n_vocab = text->n_vocab,
                                  .n_ctx_train = text->n_ctx_train,
                                  .n_ctx = text->n_ctx,
                                  .input = MODALITY_TEXT | MODALITY_IMAGE,
                                  .output = MODALITY_TEXT,
                                  .caption = &m->caption};
}

/* ---- embedding models ---- */

static void fill_embedding(struct model *m, const char *id)
{
    const struct bert_info *info = bert_info(m->bert);
    m->card = (struct model_card){.id = xstrdup(id),
                                  .arch = "bert",
                                  .source = "transformers",
                                  .kind = MODEL_EMBEDDING,
                                  .quant = xstrdup(dtype_name(info->type)),
                                  .n_params = info->n_params,
                                  .weight_bytes = info->weight_bytes,
                                  .n_vocab = info->n_vocab,
                                  .n_ctx_train = info->n_positions,
                                  .n_ctx = info->n_positions,
                                  .n_embd = info->dim,
                                  .input = MODALITY_TEXT,
                                  .output = MODALITY_EMBEDDING};
}

/* [CLS] and [SEP] stand as its bos and eos. */
static int open_bert_tokenizer(struct model *m, const char *path, struct err *e)
{
    struct wordpiece *w;
    int rc = wordpiece_open(&w, path, e);
    if (rc != 0)
        return err_wrap(e, "tokenizer");
    const struct wordpiece_info info = *wordpiece_info(w);
    if (info.cls < 0 || info.sep < 0 || info.n_vocab > m->card.n_vocab) {
        wordpiece_close(w);
        return err_set(e, ERR_CORRUPT, "the vocabulary has %d tokens and %s, the model %d",
                       info.n_vocab, info.cls < 0 || info.sep < 0 ? "no [CLS]" : "[CLS]",
                       m->card.n_vocab);
    }
    return tokenizer_from_wordpiece(&m->card.tokenizer, w, info.cls, info.sep, true,
                                    m->card.n_vocab, e);
}

/* ---- directories of transformers ---- */

static int open_blip(struct model *m, struct checkpoint *c, struct backend *be,
                     const struct model_options *o, struct err *e)
{
    const struct blip_options bo = {.max_rows = o->max_rows,
                                    .max_logits = o->max_logits,
                                    .n_ctx = o->n_ctx,
                                    .progress = o->progress};
    return blip_open(&m->blip, c, be, &bo, e);
}

static int open_bert(struct model *m, struct checkpoint *c, struct backend *be,
                     const struct model_options *o, struct err *e)
{
    const struct bert_options bo = {.max_rows = o->max_rows, .progress = o->progress};
    return bert_open(&m->bert, c, be, &bo, e);
}

static const struct transformers_family {
    bool (*is)(const char *path);
    int (*open)(struct model *m, struct checkpoint *c, struct backend *be,
                const struct model_options *o, struct err *e);
    void (*fill)(struct model *m, const char *id); /* the card */
    int (*open_tokenizer)(struct model *m, const char *path, struct err *e);
} transformers[] = {
    {blip_is, open_blip, fill_caption, open_blip_tokenizer},
    {bert_is, open_bert, fill_embedding, open_bert_tokenizer},
};

/* NULL: it is none of them. */
static const struct transformers_family *transformers_family(const char *path)
{
    for (size_t i = 0; i < sizeof transformers / sizeof *transformers; i++) {
        if (transformers[i].is(path))
            return &transformers[i];
    }
    return NULL;
}

static int open_transformers(struct model **out, const char *id, const char *path,
                             struct backend *be, const struct model_options *o, struct err *e)
{
    const struct transformers_family *f = transformers_family(path);
    struct checkpoint *c;
    int rc = checkpoint_open(&c, path, NULL, e);
    if (rc != 0)
        return rc;
    struct model *m = xcalloc(1, sizeof *m);
    rc = f->open(m, c, be, o, e);
    checkpoint_close(c);
    if (rc == 0) {
        f->fill(m, id);
        m->card.created = created(path);
        rc = o->bare ? 0 : f->open_tokenizer(m, path, e);
    }
    if (rc != 0) {
        model_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

bool model_is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
           (diffusion_is(path) || transformers_family(path) != NULL);
}

int model_open(struct model **out, const char *id, const char *path, struct backend *be,
               const struct model_options *o, struct err *e)
{
    char file[MAX_PATH];
    struct stat st;
    if (strlen(path) >= sizeof file)
        return err_set(e, ERR_INVALID, "the path of the model has more than %d bytes", MAX_PATH);
    memcpy(file, path, strlen(path) + 1);
    if (checkpoint_is_control(path))
        return open_control(out, id, path, be, o, e);
    if (checkpoint_is_upscaler(path))
        return open_upscaler(out, id, path, be, o, e);
    if (diffusion_is(path))
        return open_image(out, id, path, be, o, e);
    if (transformers_family(path) != NULL)
        return open_transformers(out, id, path, be, o, e);
    int rc = locate(file, &st, e);
    if (rc != 0)
        return rc;
    struct gguf *g = NULL;
    rc = gguf_open(&g, file, e);
    if (rc != 0)
        return rc;
    struct model *m = xcalloc(1, sizeof *m);
    m->card = (struct model_card){.id = xstrdup(id),
                                  .source = "gguf",
                                  .kind = MODEL_TEXT,
                                  .input = MODALITY_TEXT,
                                  .output = MODALITY_TEXT,
                                  .created = (int64_t)st.st_mtime};
    rc = open_text(m, g, be, o, e);
    gguf_close(g);
    if (rc != 0) {
        model_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void model_close(struct model *m)
{
    if (m == NULL)
        return;
    if (m->text != NULL)
        m->text->close(m->text);
    diffusion_close(m->diffusion);
    bert_close(m->bert);
    upscaler_close(m->upscaler);
    control_close(m->control);
    if (m->card.tokenizer != NULL)
        tokenizer_close(m->card.tokenizer);
    free(m->card.chat_template);
    free(m->card.quant);
    free(m->card.id);
    free(m);
}

const struct model_card *model_card(const struct model *m)
{
    return &m->card;
}

bool model_is_like(const struct model *a, const struct model *b)
{
    const struct model_card *x = &a->card, *y = &b->card;
    return x->kind == y->kind && x->digest == y->digest && x->n_params == y->n_params &&
           x->n_vocab == y->n_vocab && x->n_embd == y->n_embd && x->n_ctx_train == y->n_ctx_train &&
           x->scale == y->scale && strcmp(x->arch, y->arch) == 0 &&
           strcmp(x->quant, y->quant) == 0 &&
           (!a->text || a->text->page_bytes == b->text->page_bytes);
}

void model_limit_context(struct model *m, int n_ctx)
{
    m->card.n_ctx_wanted = m->card.n_ctx;
    m->card.n_ctx = n_ctx;
}

struct diffusion *model_diffusion(const struct model *m)
{
    return m->diffusion;
}

struct control *model_control(const struct model *m)
{
    return m->control;
}

struct bert *model_bert(const struct model *m)
{
    return m->bert;
}

struct upscaler *model_upscaler(const struct model *m)
{
    return m->upscaler;
}

struct blip *model_blip(const struct model *m)
{
    return m->blip;
}

size_t model_page_bytes(const struct model *m)
{
    return m->text->page_bytes;
}

bool model_chooses(const struct model *m)
{
    return m->text->chooses;
}

int model_forward(struct model *m, char *kv_base, const struct text_batch *b, struct err *e)
{
    return m->text->forward(m->text, kv_base, b, e);
}
