/* tools, tool_choice and parallel_tool_calls of a chat: which functions there are, and the grammar of an answer
 * that calls them.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_TOOLS_H
#define API_TOOLS_H
#include "api/schema.h"
#include "api/tool_format.h"
#include "api/tool_parse.h"

struct tokenizer;

enum { TOOLS_MAX = 128 };
enum tools_choice { TOOLS_NONE, TOOLS_AUTO, TOOLS_REQUIRED };

struct tools {
    const struct cJSON *list; /* what the model is shown; NULL: nothing */
    enum tools_choice choice; /* NONE: it calls nothing */
    bool parallel;            /* it may call several in one answer */
    int n;
    bool allowed[TOOLS_MAX];          /* which it may call */
    const struct tool_format *format; /* how; set by who knows the template */
    bool thinks;                      /* so is this: the model may think first (think.h) */
};

/* Everything is borrowed from body. */
int tools_read(const struct cJSON *body, struct tools *t, struct err *e);
const char *tools_name(const struct cJSON *tool);

/* tool_grammar.c: what an answer may be, where choice is not NONE.  form: what it may be besides calls, 0 for any
 * text; s is opened when nobody has. */
int tool_grammar_symbol(const struct tools *t, grammar_sym form, struct schema *s, grammar_sym *out,
                        struct err *e);
/* The format's markers that are control tokens of the model count as text in the grammar. */
void tool_grammar_show(const struct tool_format *f, const struct tokenizer *t, struct grammar *g);

/* Text up to a marker of at most 40 bytes and what is after it; where it may stop, also text without the marker. */
grammar_sym tool_grammar_until(struct grammar *g, const char *marker, grammar_sym after,
                               bool may_stop);
/* For tool_parse_open: function and parameter, each with a 0 behind it, for all parameters whose value is JSON where
 * the format has them one by one, and a 0 behind all.  NULL for other formats. */
int tool_grammar_json(const struct tools *t, struct arena *arena, const char **out, struct err *e);

/* tool_messages.c: the conversation as a template takes it that does not show tools (then who tells of them), that
 * does not even show calls (format generic), or wants ids of a certain length.  *doc (json_free) stays NULL where
 * the messages are right as they are. */
enum tools_told { TOOLS_SHOWN, TOOLS_BY_SYSTEM, TOOLS_BY_USER };
int tool_messages_rewrite(const struct cJSON *messages, const struct cJSON *tools,
                          const struct tool_format *f, enum tools_told told, struct cJSON **doc,
                          struct err *e);
/* The tools with a description and parameters where they have none, and an empty list for none: some templates
 * cannot do without. */
int tool_messages_complete(const struct cJSON *tools, struct cJSON **doc, struct err *e);
#endif
