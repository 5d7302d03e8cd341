/* The field step_cache of images requests, and the option of that name: which calls of the UNet are computed only in
 * part (engine/step_cache.h).
 * Thread: loop, or one worker during api_begin. */
#ifndef API_IMAGE_CACHE_H
#define API_IMAGE_CACHE_H
#include "base/buf.h"
#include "base/json.h"
#include "engine/job.h"

#define IMAGE_CACHE_SCHEMA                                                                        \
    "{\"oneOf\":[{\"type\":\"object\",\"required\":[\"type\"],\"properties\":{\"type\":{\"enum\"" \
    ":[\"deepcache\",\"first_block\"]},\"interval\":{\"type\":\"integer\"},\"branch\":{\"type\":" \
    "\"integer\"},\"threshold\":{\"type\":\"number\"}}},{\"type\":\"string\"},{\"enum\":[false,"  \
    "null]}]}"

/* "off" or "", "deepcache", "deepcache:INTERVAL", "deepcache:INTERVAL:BRANCH", "first_block",
 * "first_block:THRESHOLD". */
int image_cache_text(const char *text, struct step_cache_spec *to, struct err *e);
/* The body's field: an object, such a text or false; nothing is changed where it is missing. */
int image_cache_parse(const struct cJSON *body, struct step_cache_spec *to, struct err *e);
/* For a picture's parameters: ", Step cache: deepcache:3:0". */
void image_cache_put(const struct step_cache_spec *s, struct buf *out);
#endif
