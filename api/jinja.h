/* A bounded Jinja2 subset: what the chat templates of language models use, rendered byte for byte
 * as Python's jinja2 does with the settings of transformers (trim_blocks, lstrip_blocks, loop
 * controls, the immutable sandbox, its tojson, raise_exception and strftime_now).
 * Thread: any.  A parsed template is immutable; each render has its own memory.
 *
 * Templates come with model files and see text from clients, so everything has a limit: size and
 * nesting of the template, evaluated steps, memory, output.  A template sees only its data. */
#ifndef API_JINJA_H
#define API_JINJA_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct cJSON;
struct jinja;

struct jinja_limits {
    size_t max_template_bytes;
    int max_nodes;           /* of the parsed template */
    int max_depth;           /* of nested expressions and blocks, and of macro calls */
    int64_t max_steps;       /* nodes evaluated; long strings and lists count more than once */
    size_t max_output_bytes; /* of one render, and of every string on the way */
    size_t max_memory_bytes; /* values of one render; nodes of one template */
    int64_t now_unix_s;      /* what strftime_now takes for now; 0: the clock */
};
/* 256 KiB, 40000 nodes, depth 64, 4 M steps, 16 MiB output, 64 MiB memory. */
extern const struct jinja_limits jinja_limits_default;

enum jinja_var_type {
    JINJA_VAR_NONE,
    JINJA_VAR_BOOL,
    JINJA_VAR_INT,
    JINJA_VAR_STR,
    JINJA_VAR_JSON,
};
/* One variable of a render; name, str and json are borrowed until jinja_render returns. */
struct jinja_var {
    const char *name;
    enum jinja_var_type type;
    bool flag;                /* JINJA_VAR_BOOL */
    int64_t num;              /* JINJA_VAR_INT */
    const char *str;          /* JINJA_VAR_STR */
    const struct cJSON *json; /* JINJA_VAR_JSON */
};

/* limits NULL means jinja_limits_default, in both.  Messages begin "chat template line 12: ".
 * ERR_INVALID: not valid Jinja; ERR_UNSUPPORTED: inheritance, include, import and other Jinja that
 * no chat template uses; ERR_TOOBIG: over a limit.  src is copied. */
int jinja_parse(struct jinja **out, const char *src, size_t len, const struct jinja_limits *limits,
                struct err *e);
void jinja_free(struct jinja *t); /* NULL is fine */
/* Appends to out.  ERR_INVALID also when the template calls raise_exception: then the message is
 * the template's own ("Conversation roles must alternate") and the reason "template_rejected".
 * After an error out is as it was. */
int jinja_render(const struct jinja *t, const struct jinja_var *vars, int n_vars,
                 const struct jinja_limits *limits, struct buf *out, struct err *e);
#endif
