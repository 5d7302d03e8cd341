/* The LoRAs that a request for pictures names.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_LORAS_H
#define API_LORAS_H
#include "base/arena.h"
#include "base/buf.h"
#include "base/json.h"
#include "engine/job.h"

/* "loras": [{"name": "x", "scale": 0.8, "text_scale": 0.5}, "y"] into the spec; names and list are copied into
 * a.  A form has the same list as text. */
int loras_parse(const struct cJSON *body, struct arena *a, struct image_spec *s, struct err *e);
/* stable-diffusion-webui's way: <lora:x:0.8> or <lora:x:TEXT:UNET> anywhere in a prompt, or <lora:x:te=0.5:unet=1>.
 * They are appended to the spec's; *out is the prompt without them, in a. */
int loras_from_prompt(const char *prompt, struct arena *a, struct image_spec *s, const char **out,
                      struct err *e);
/* ", Loras: x 0.8, y 1" for a picture's parameters; nothing without any. */
void loras_describe(const struct image_spec *s, struct buf *out);
#endif
