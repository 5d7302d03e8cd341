/* How a model writes that it calls a function: what stands around a call and where its name and arguments are.
 * A chat template that shows tools also says which of these its model was trained on.
 * Thread: any; the formats are constants. */
#ifndef API_TOOL_FORMAT_H
#define API_TOOL_FORMAT_H
#include <stdbool.h>

enum tool_shape {
    TOOL_TAGGED, /* marker {"name": ..., "arguments": ...} close, once for each call */
    TOOL_LIST,   /* marker [{...}, {...}] */
    TOOL_NAMED,  /* marker name [ARGS] {arguments}, once for each call */
    TOOL_BARE,   /* {"name": ..., "parameters": ...} and nothing else, perhaps behind the marker */
};

struct tool_format {
    const char *name;
    const char *hint,
        *unless; /* a text that its templates have, and one that they do not (or NULL) */
    enum tool_shape shape;
    const char *marker, *close; /* close NULL: nothing */
    const char *arguments;      /* the key */
    bool one;                   /* no more than one call an answer */
    int id_chars;               /* letters and digits that an id must have; 0: any */
};

/* What models are asked for whose template knows no tools: Hermes' words, which most have seen. */
extern const struct tool_format tool_format_generic;
/* The format whose hint is in the template; NULL: none that is known. */
const struct tool_format *tool_format_find(const char *chat_template);
#endif
