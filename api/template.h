/* Chat templates: messages -> the prompt a model was trained on, with the Jinja template of the
 * model's own file.
 * Thread: any; a template is immutable once open.
 *
 * Templates differ in what they want: text of a message as one string or as a list of parts, the
 * arguments of a tool call as an object or as a string, an assistant's content that is null as none
 * or, where none would break them or show as "None", as "".  template_open finds out by rendering small
 * trials; template_render gives each template what it wants. */
#ifndef API_TEMPLATE_H
#define API_TEMPLATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct cJSON;
struct template;

/* src NULL: the built-in ChatML.  bos, eos: the texts of those tokens, NULL where the model has
 * none.  All are copied.  The errors are those of jinja_parse. */
int template_open(struct template **out, const char *src, size_t len, const char *bos,
                  const char *eos, struct err *e);
void template_close(struct template *t); /* NULL is fine */
/* From now on a render may take so many steps (jinja_limits.max_steps). */
void template_limit(struct template *t, int64_t max_steps);

/* Appends the prompt to out; on an error out is as it was.  tools and extra_kwargs (the request's
 * chat_template_kwargs) may be NULL.  ERR_INVALID when the template refuses the messages, with its
 * own words, or when extra_kwargs would replace a variable that the server sets. */
int template_render(const struct template *t, const struct cJSON *messages,
                    const struct cJSON *tools, const struct cJSON *extra_kwargs,
                    bool add_generation_prompt, struct buf *out, struct err *e);

/* How the model calls functions; NULL for a template that shows no calls, or in a way that nobody here knows. */
struct tool_format;
const struct tool_format *template_tools(const struct template *t);
bool template_shows_tools(const struct template *t); /* and which functions there are */
bool template_thinks(const struct template *t);      /* it speaks of <think> (think.h) */
bool template_takes_system(const struct template *t);

/* What the trials found; for tests and logs. */
bool template_wants_parts(const struct template *t);
bool template_wants_text_arguments(const struct template *t);
bool template_takes_null(const struct template *t, bool calls_tools);
#endif
