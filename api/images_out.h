/* Events of an image job -> OpenAI's answer: one JSON document, or server-sent events as they come.
 * Encoding a picture takes tens of milliseconds, so it is not done where events are taken: the picture
 * waits (images_out_event says so) until a worker has run images_out_work.
 * Thread: loop; images_out_work: one worker, while nobody else touches the struct. */
#ifndef API_IMAGES_OUT_H
#define API_IMAGES_OUT_H
#include "api/image_params.h"
#include "base/buf.h"
#include "engine/job.h"

struct api_call;
struct json_writer;

struct images_out_options {
    bool stream, edit; /* edit: events are named image_edit.* */
    int n, width, height;
    int quality; /* enum image_quality */
    enum image_answer answer;
    enum codec_format format;
    int compression;   /* 0 ... 100 */
    int64_t created;   /* unix seconds */
    const char *model; /* borrowed */
    enum safety_action safety;
    /* A call of /sdapi/v1: it finishes pictures and writes the answer; or NULL. */
    const struct api_call *sd;
    int64_t pixels;             /* of a picture that is given out at most; 0: width * height */
    const uint8_t *init, *mask; /* the job's, or NULL: where mask is 0, init is given back */
    /* Text for the PNG, copied, with each picture's seed at seed_at; "": none, and no seed. */
    const char *parameters;
    size_t seed_at;
};

struct images_out;
struct images_out *images_out_open(const struct images_out_options *o);
void images_out_close(struct images_out *o);
/* Bytes that the answer has at most, a stream's backlog included. */
size_t images_out_max(const struct images_out_options *o, int n_partials);

/* Takes one event (not EV_ERROR).  1: it was a picture, kept here until images_out_work has run;
 * 0: the caller still owns it. */
int images_out_event(struct images_out *o, struct event *ev, struct buf *out);
void images_out_work(struct images_out *o);
/* Takes over what the worker made; 0 or its error. */
int images_out_worked(struct images_out *o, struct buf *out, struct err *e);

/* Once all pictures are there: ERR_REFUSED when every one of them was blocked. */
int images_out_refused(const struct images_out *o, struct err *e);
/* What became of a picture: "none", "flag", "blur" or "block". */
const char *images_out_action(const struct safety_result *s, enum safety_action wanted);

/* For other forms of the answer.  How many pictures are complete, from the first one on. */
int images_out_complete(const struct images_out *o);
/* The base64 of each of these as an element of a list; of the first picture as the value of key. */
void images_out_put_texts(const struct images_out *o, struct json_writer *w);
void images_out_put_text(const struct images_out *o, struct json_writer *w, const char *key);
void images_out_put_safety(const struct images_out *o, struct json_writer *w);
void images_out_parameters(const struct images_out *o, uint64_t seed, struct buf *out);
void images_out_put_preview_text(const struct images_out *o, struct json_writer *w,
                                 const char *key);

/* How far it is. */
struct images_progress {
    int done, total; /* steps of all pictures; total 0: not begun */
    int n_images;    /* complete */
    double eta_s;    /* -1: not known yet */
};
void images_out_progress(const struct images_out *o, struct images_progress *p);
/* The newest preview of any picture, as a JSON object; nothing when there is none. */
void images_out_put_preview(const struct images_out *o, struct json_writer *w, const char *key);
#endif
