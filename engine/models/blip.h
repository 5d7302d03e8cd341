/* BLIP (Li et al. 2022): a vision transformer, and BERT-like text stacks that look at what it has seen.
 *
 *   caption  picture -> text decoder, which goes on after a prompt
 *   vqa      picture -> text encoder reads the question -> text decoder, which answers
 *   match    picture -> text encoder reads a text: do they belong together?
 *
 * Looking at a picture (blip_look) is work for the engine in pieces; it leaves keys and values for the
 * decoder's cross attention, a text_view, which every row of that picture's sequences points to.
 * The decoder is a text model like others: rows, pages, logits.
 * Thread: engine; blip_info never changes after blip_open and may be read by any. */
#ifndef ENGINE_MODELS_BLIP_H
#define ENGINE_MODELS_BLIP_H
#include "engine/checkpoint.h"
#include "engine/models/text_model.h"

struct blip;

struct blip_info {
    enum caption_mode kind;
    int image_size; /* pictures are [image_size, image_size, 3] */
    enum image_filter filter;
    int n_question; /* tokens of a question or text at most; 0 for captions */
    int32_t bos, sep, pad;
    enum dtype type; /* of most weights */
    int64_t n_params;
};

struct blip_options {
    int max_rows, max_logits, n_ctx;
    atomic_int *progress; /* per mille, or NULL */
};

/* Whether this is a directory of transformers with a BLIP in it. */
bool blip_is(const char *path);
/* c, of CHECKPOINT_MODEL, is not needed afterwards.  The model is closed by its text_model. */
int blip_open(struct blip **out, struct checkpoint *c, struct backend *be,
              const struct blip_options *o, struct err *e);
const struct blip_info *blip_info(const struct blip *m);
struct text_model *blip_text(struct blip *m);

/* Bytes of the keys and values for the decoder; n_question 0 for captions.  0 for CAPTION_MATCH. */
size_t blip_view_bytes(const struct blip *m, int n_question);
/* The device's memory for them; NULL: there is none. */
float *blip_view_memory(const struct blip *m, int n_question, struct err *e);
void blip_view_free(const struct blip *m, float *kv); /* NULL is nothing */

/* One picture being looked at.  The caller fills in what is above the line. */
struct blip_look {
    const uint8_t *rgb;      /* [image_size, image_size, 3] */
    const int32_t *question; /* tokens; not for captions */
    int n_question;
    float *kv; /* of blip_view_memory; not for CAPTION_MATCH */
    /* ---- */
    int stage;
    struct text_view view; /* when done */
    float match, cosine;   /* CAPTION_MATCH: probability, and similarity of the two alone */
};
/* Begins anew; only one picture can be under way, the model keeps what is half done. */
void blip_look_begin(struct blip *m, struct blip_look *l);
/* Until clock_us() >= until_us, at least a bit.  1: there is more, 0: done, or ERR_DEVICE. */
int blip_look_run(struct blip *m, struct blip_look *l, int64_t until_us, struct err *e);
/* For tests: what the vision transformer made of the last picture [n, dim]. */
const struct tensor *blip_seen(const struct blip *m);
int blip_seen_copy(const struct blip *m, float *to, struct err *e); /* to the host */
#endif
