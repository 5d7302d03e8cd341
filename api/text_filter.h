/* The operator's text filter (engine/text/filter.h) where requests meet it: prompts before a job begins, answers as the
 * engine tells of them, and /v1/moderations.  Nothing is found without a line in the log.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_TEXT_FILTER_H
#define API_TEXT_FILTER_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct api_call;
struct cJSON;
struct event;
struct filter;
struct json_writer;
struct model_card;
struct render_options;

/* Looks at the prompts of the call's text job, as the model reads them, and has its answers looked at; the text beside a
 * picture was looked at before.  ERR_REFUSED, content_filter. */
int text_filter_job(struct api_call *c, const struct model_card *card, struct render_options *ro,
                    struct err *e);
/* A prompt for pictures, or the text beside one; NULL is none.  ERR_REFUSED with this reason. */
int text_filter_prompt(struct api_call *c, const char *prompt, const char *reason,
                       const char *param, struct err *e);
/* An answer is complete (EV_FINISH): it is logged if something was found. */
void text_filter_audit(struct api_call *c, const struct event *ev);
/* content_filter_results of a choice, as Azure has them. */
void text_filter_put(const struct filter *f, uint64_t found, bool blocked, struct json_writer *w);

/* POST /v1/moderations */
int text_filter_moderate(struct api_call *c, const struct cJSON *body, struct err *e);
#endif
