/* The field "control" of images requests: ControlNets and T2I-Adapters, each with a picture that is made ready
 * for it (edges, blur ...), into the job's spec.
 * Thread: one worker, or the loop, during api_begin. */
#ifndef API_IMAGE_CONTROL_H
#define API_IMAGE_CONTROL_H
#include "api/multipart.h"
#include "base/err.h"

struct api_call;
struct cJSON;

#define IMAGE_CONTROL_SCHEMA                                                                      \
    "{\"type\":[\"array\",\"null\"],\"maxItems\":8,\"items\":{\"type\":\"object\",\"required\":[" \
    "\"model\"],\"properties\":{\"model\":{\"type\":\"string\"},\"image\":{},\"mask\":{},"        \
    "\"scale\":{\"type\":\"number\"},\"start\":{\"type\":\"number\"},\"end\":{\"type\":"          \
    "\"number\"},"                                                                                \
    "\"guess_mode\":{\"type\":\"boolean\"},\"preprocessor\":{\"enum\":[\"none\",\"canny\","       \
    "\"blur\","                                                                                   \
    "\"tile\",\"inpaint\"]},\"low_threshold\":{\"type\":\"integer\"},\"high_threshold\":{"        \
    "\"type\":"                                                                                   \
    "\"integer\"},\"sigma\":{\"type\":\"number\"},\"factor\":{\"type\":\"integer\"}}}}"

/* The call's job has its size, and its picture and mask if the request has such.  form: NULL for JSON. */
int image_control_begin(struct api_call *c, const struct cJSON *body, const struct multipart *form,
                        struct err *e);
/* What a PNG's parameters say about them. */
struct buf;
void image_control_put(const struct api_call *c, struct buf *out);
#endif
