/* How a model writes that it calls a function: what stands around a call and where its name and arguments are.
 * A chat template that shows tools also says which of these its model was trained on.
 * Thread: any; the formats are constants. */
#ifndef API_TOOL_FORMAT_H
#define API_TOOL_FORMAT_H
#include <stdbool.h>

enum tool_shape {
    TOOL_TAGGED, /* marker {"name": ..., "arguments": ...} close, once for each call */
    TOOL_LIST,   /* marker [{...}, {...}] */
    TOOL_NAMED,  /* marker, then open name after {arguments} close for each call, then end */
    TOOL_PARAMS, /* marker open name after, then param name value ... param_end for each, then close */
    TOOL_BARE, /* {"name": ..., "parameters": ...} and nothing else, perhaps behind the marker */
};

enum { TOOL_TOKENS_MAX = 5 };

struct tool_format {
    const char *name;
    const char *hint,
        *unless; /* a text that its templates have, and one that they do not (or NULL) */
    enum tool_shape shape;
    const char *marker, *close; /* close NULL: nothing */
    const char *arguments;      /* the key */
    const char *open, *after;   /* open NULL: each call begins with the marker */
    const char *end;            /* NULL: nothing */
    const char *param, *value, *param_end;
    /* Parts of these that a model may have as control tokens. */
    const char *tokens[TOOL_TOKENS_MAX];
    bool one;     /* no more than one call an answer */
    int id_chars; /* letters and digits that an id must have; 0: any */
};

/* What models are asked for whose template knows no tools: Hermes' words, which most have seen. */
extern const struct tool_format tool_format_generic;
/* The format whose hint is in the template; NULL: none that is known. */
const struct tool_format *tool_format_find(const char *chat_template);
#endif
