/* The text of an answer, as it comes -> what is said, and the functions that are called.  The grammar
 * (tools.h) has seen to it that a call which was begun is written as its format wants it; where the answer
 * was cut off, the arguments are too.
 * Thread: loop. */
#ifndef API_TOOL_PARSE_H
#define API_TOOL_PARSE_H
#include "api/tool_format.h"
#include "base/buf.h"
#include "base/json.h"

enum { TOOL_CALLS_MAX = 64, TOOL_NAME_MAX = 128 };

struct tool_parse;
/* json: tool_grammar_json's, borrowed.  max: bytes of all it keeps.  NULL without memory. */
struct tool_parse *tool_parse_open(const struct tool_format *f, const char *json, size_t max);
void tool_parse_close(struct tool_parse *p); /* NULL is allowed, and below means: no calls */
/* More of the text; what is said goes to out. */
void tool_parse_push(struct tool_parse *p, const char *s, size_t n, struct buf *out);
/* No more text comes: what was held back as it might have become a call is said after all. */
void tool_parse_end(struct tool_parse *p, struct buf *out);
int tool_parse_calls(const struct tool_parse *p);
size_t tool_parse_bytes(const struct tool_parse *p);
bool tool_parse_failed(const struct tool_parse *p); /* the limit, or memory */

struct tool_call {
    const char *id, *name, *arguments; /* borrowed until more is pushed */
    size_t n_arguments;
    bool whole; /* nothing follows */
};
/* Call i of tool_parse_calls. */
struct tool_call tool_parse_call(const struct tool_parse *p, int i);
/* "tool_calls" with all calls. */
void tool_parse_put(const struct tool_parse *p, struct json_writer *w);
/* "tool_calls" of a stream's next delta: a call's id and name, or more of its arguments; which may also be left
 * out (false) when all is told. */
bool tool_parse_more(const struct tool_parse *p);
void tool_parse_put_more(struct tool_parse *p, struct json_writer *w);
#endif
