/* BERT as an encoder of sentences (Devlin et al. 2018; Reimers & Gurevych 2019): texts to vectors, for
 * all-MiniLM-L6-v2 and its kin.  Directories of sentence-transformers: config.json with model_type
 * "bert", model.safetensors, vocab.txt, 1_Pooling/config.json, modules.json.
 * Thread: engine; bert_info never changes after bert_open and may be read by any. */
#ifndef ENGINE_MODELS_BERT_H
#define ENGINE_MODELS_BERT_H
#include <stdatomic.h>

#include "engine/checkpoint.h"
#include "kernels/backend.h"

struct bert;

struct bert_info {
    int dim;         /* of a vector */
    int n_positions; /* tokens of a text at most, [CLS] and [SEP] included */
    int n_vocab;
    bool mean;       /* the mean over all tokens, else the first one's */
    bool normalized; /* vectors have length 1 */
    enum dtype type; /* of most weights */
    int64_t n_params;
    size_t weight_bytes;
};

struct bert_options {
    int max_rows;         /* tokens of a batch at most; at least n_positions are taken */
    atomic_int *progress; /* per mille, or NULL */
};

/* Whether this is a directory of transformers with a BERT in it. */
bool bert_is(const char *path);
/* c, of CHECKPOINT_MODEL, is not needed afterwards. */
int bert_open(struct bert **out, struct checkpoint *c, struct backend *be,
              const struct bert_options *o, struct err *e);
void bert_close(struct bert *m); /* NULL is allowed */
const struct bert_info *bert_info(const struct bert *m);
int bert_max_rows(const struct bert *m);

/* Texts one after the other; a text's vector depends on that text alone, bit for bit. */
struct bert_batch {
    int n_texts;
    const int32_t *n_ids; /* [n_texts] at least 1 each; together at most bert_max_rows */
    const int32_t *ids;   /* the tokens of all texts */
    float *vectors;       /* [n_texts, dim] out */
};
int bert_run(struct bert *m, const struct bert_batch *b, struct err *e); /* or ERR_DEVICE */
#endif
