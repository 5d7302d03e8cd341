/* The form that a request wants its answers to have: response_format and what other servers call it.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_FORMAT_H
#define API_FORMAT_H
#include "base/arena.h"
#include "base/err.h"

struct cJSON;
struct grammar;
/* *out, in the arena, or NULL when any text will do.  400 for two forms at once, and for what is not
 * understood. */
int format_parse(const struct cJSON *body, struct arena *arena, const struct grammar **out,
                 struct err *e);
#endif
