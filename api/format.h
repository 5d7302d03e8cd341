/* The form that a request wants its answers to have: response_format and what other servers call it.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_FORMAT_H
#define API_FORMAT_H
#include "api/schema.h"

/* *out, in the arena, or as it was when any text will do.  400 for two forms at once, and for what is not
 * understood.  max_bytes: of a regular expression or a grammar. */
int format_parse(const struct cJSON *body, size_t max_bytes, struct arena *arena,
                 const struct grammar **out, struct err *e);
/* The same as a symbol among those of s, which has an arena and is opened when there is a form; 0: none. */
int format_symbol(const struct cJSON *body, size_t max_bytes, struct schema *s, grammar_sym *out,
                  struct err *e);
#endif
