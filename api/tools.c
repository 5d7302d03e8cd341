/* Reads what a request says of tools. */
#include "api/tools.h"

#include <string.h>

static bool name_ok(const char *name)
{
    const size_t n = strlen(name);
    return n > 0 && n <= TOOL_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/") == n;
}

const char *tools_name(const struct cJSON *tool)
{
    return json_str(json_get(json_get(tool, "function"), "name"));
}

static int read_tool(const struct cJSON *tool, int i, struct err *e)
{
    const char *type = json_str(json_get(tool, "type")), *name = tools_name(tool);
    if (type != NULL && strcmp(type, "function") != 0) {
        err_set(e, ERR_UNSUPPORTED, "a tool must have the type function, not %.40s", type);
        return err_param(e, "tools[%d].type", i);
    }
    if (name == NULL) {
        err_set(e, ERR_INVALID, "a tool must have the type function and a function with a name");
        return err_param(e, "tools[%d].function.name", i);
    }
    if (!name_ok(name)) {
        err_set(e, ERR_INVALID,
                "a function's name has 1 to %d letters, digits and _ - . : /, not \"%.40s\"",
                TOOL_NAME_MAX, name);
        return err_param(e, "tools[%d].function.name", i);
    }
    const struct cJSON *parameters = json_get(json_get(tool, "function"), "parameters");
    const char *kind = json_str(json_get(parameters, "type"));
    if ((json_type(parameters) != JSON_NULL && json_type(parameters) != JSON_OBJECT) ||
        (kind != NULL && strcmp(kind, "object") != 0)) {
        err_set(e, ERR_INVALID, "the parameters of a function must be a schema of the type object");
        return err_param(e, "tools[%d].function.parameters", i);
    }
    return 0;
}

/* Only this function may be called. */
static int allow(const struct cJSON *choice, struct tools *t, struct err *e)
{
    const char *name = tools_name(choice);
    int i = 0;
    bool found = false;
    if (name == NULL) {
        err_set(e, ERR_INVALID, "tool_choice must name a function");
        return err_param(e, "tool_choice");
    }
    for (const struct cJSON *v = json_first(t->list); v != NULL; v = json_next(v), i++)
        if (strcmp(tools_name(v), name) == 0)
            t->allowed[i] = found = true;
    if (found)
        return 0;
    err_set(e, ERR_INVALID, "tool_choice names %.60s, which is not among the tools", name);
    return err_param(e, "tool_choice");
}

static int read_word(const char *word, struct tools *t, struct err *e)
{
    if (strcmp(word, "none") == 0) {
        t->choice = TOOLS_NONE;
    } else if (strcmp(word, "auto") == 0) {
        t->choice = TOOLS_AUTO;
    } else if (strcmp(word, "required") == 0) {
        t->choice = TOOLS_REQUIRED;
    } else {
        err_set(e, ERR_INVALID,
                "tool_choice must be none, auto, required or a function, not \"%.40s\"", word);
        return err_param(e, "tool_choice");
    }
    return 0;
}

/* {"type": "function", "function": {"name"}}, or {"type": "allowed_tools", "allowed_tools": {"mode", "tools"}}. */
static int read_choice(const struct cJSON *choice, struct tools *t, struct err *e)
{
    const char *type = json_str(json_get(choice, "type"));
    const struct cJSON *some = json_get(choice, "allowed_tools");
    if (type == NULL || (strcmp(type, "function") != 0 && strcmp(type, "allowed_tools") != 0)) {
        err_set(e, ERR_INVALID,
                "tool_choice must be none, auto, required, or an object of the type function or "
                "allowed_tools");
        return err_param(e, "tool_choice");
    }
    memset(t->allowed, 0, sizeof t->allowed);
    if (strcmp(type, "function") == 0) {
        t->choice = TOOLS_REQUIRED;
        t->parallel = false;
        return allow(choice, t, e);
    }
    const char *mode = json_str(json_get(some, "mode"));
    int rc = read_word(mode != NULL ? mode : "auto", t, e);
    if (rc == 0 && json_size(json_get(some, "tools")) == 0) {
        err_set(e, ERR_INVALID, "tool_choice.allowed_tools must have tools");
        rc = err_param(e, "tool_choice");
    }
    for (const struct cJSON *v = json_first(json_get(some, "tools")); v != NULL && rc == 0;
         v = json_next(v))
        rc = allow(v, t, e);
    return rc;
}

int tools_read(const struct cJSON *body, struct tools *t, struct err *e)
{
    *t = (struct tools){.choice = TOOLS_AUTO, .parallel = true};
    const struct cJSON *list = json_get(body, "tools"), *choice = json_get(body, "tool_choice");
    if (json_type(list) != JSON_NULL && json_type(list) != JSON_ARRAY) {
        err_set(e, ERR_INVALID, "tools must be a list of tools, not %s",
                json_type_name(json_type(list)));
        return err_param(e, "tools");
    }
    if (json_size(list) > TOOLS_MAX) {
        err_set(e, ERR_INVALID, "there may be at most %d tools, not %d", TOOLS_MAX,
                json_size(list));
        return err_param(e, "tools");
    }
    int rc = json_get_bool(body, "parallel_tool_calls", &t->parallel, e);
    for (const struct cJSON *v = json_first(list); v != NULL && rc == 0; v = json_next(v)) {
        rc = read_tool(v, t->n, e);
        t->allowed[t->n++] = true;
    }
    t->list = t->n > 0 ? list : NULL;
    if (rc == 0 && json_type(choice) == JSON_STRING)
        rc = read_word(json_str(choice), t, e);
    else if (rc == 0 && json_type(choice) != JSON_NULL)
        rc = read_choice(choice, t, e);
    if (rc == 0 && t->choice == TOOLS_REQUIRED && t->n == 0) {
        err_set(e, ERR_INVALID, "tool_choice asks for a call, but there are no tools");
        return err_param(e, "tool_choice");
    }
    if (t->n == 0 || t->choice == TOOLS_NONE) {
        t->choice = TOOLS_NONE;
        t->list = NULL;
    }
    return rc;
}
