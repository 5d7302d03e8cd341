/* From chosen tokens to events: whole characters, stop strings, logprobs beside their text, usage.
 * Thread: engine.
 *
 * token -> detok (whole UTF-8) -> stop (holds back what may become a stop string) -> EV_TEXT
 *
 * With logprobs a token waits until its last byte of text is out, and goes with that event; a token
 * without text waits for what was made before it.  So every token is told exactly once, in order. */
#ifndef ENGINE_EMIT_H
#define ENGINE_EMIT_H
#include "engine/task.h"

/* A sequence that was just admitted: its text side. */
void emit_begin(struct seq *q, const struct tokenizer *t);
/* Frees that; the choice's last event is out or never comes. */
void emit_end(struct seq *q);

/* EV_PROMPT. */
void emit_prompt(struct seq *q, const struct token_info *info);
/* The token that was just appended to q->ids: EV_TEXT, unless all is held back.  Tells in *finish
 * whether and how the choice is complete (*stop: by which string) and then gives out what was held. */
int emit_token(struct seq *q, const struct tokenizer *t, const struct token_info *info,
               enum finish *finish, const char **stop, struct err *e);
/* EV_FINISH with the choice's usage, which is added to the task's; EV_DONE after the last choice
 * (then true). */
bool emit_finish(struct seq *q, enum finish finish, const char *stop);
/* EV_ERROR, once. */
void emit_error(struct task *t, const struct err *e);
/* The end of a job that has no task (any more): EV_ERROR, or EV_DONE where why is NULL or says nothing. */
void emit_end_of_job(struct job *j, const struct err *why);
#endif
