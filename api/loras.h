/* The LoRAs that a request for pictures names.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_LORAS_H
#define API_LORAS_H
#include "base/arena.h"
#include "base/json.h"
#include "engine/job.h"

/* "loras": [{"name": "x", "scale": 0.8, "text_scale": 0.5}, "y"] into the spec; names and list are copied into
 * a.  A form has the same list as text. */
int loras_parse(const struct cJSON *body, struct arena *a, struct image_spec *s, struct err *e);
#endif
