/* The routes: one table for dispatch, 405 answers, /openapi.json and docs/API.md. */
#include <string.h>

#include "api/api.h"

/* {x} must be last: it matches the rest of the path, "/" included, as model names have them. */
const struct api_route api_routes[] = {
    {"POST", "/v1/chat/completions", API_CHAT, 0, "Answers a conversation"},
    {"POST", "/v1/completions", API_COMPLETIONS, 0, "Continues a text"},
    {"GET", "/v1/models", API_MODELS, 0, "Lists the models"},
    {"GET", "/v1/models/{model}", API_MODEL, 0, "Describes one model"},
    {"POST", "/tokenize", API_TOKENIZE, 0, "Turns text or messages into token ids"},
    {"POST", "/detokenize", API_DETOKENIZE, 0, "Turns token ids into text"},
    {"POST", "/apply-template", API_APPLY_TEMPLATE, 0, "Shows the prompt that messages become"},
    {"GET", "/props", API_PROPS, 0, "Version, device, models, limits and defaults"},
    {"GET", "/openapi.json", API_OPENAPI, ROUTE_PUBLIC | ROUTE_LOADING_OK, "This description"},
    {"GET", "/health", API_SERVER, ROUTE_PUBLIC | ROUTE_LOADING_OK,
     "200 when ready, 503 while loading, draining or broken"},
    {"GET", "/ready", API_SERVER, ROUTE_PUBLIC | ROUTE_LOADING_OK, "The same as /health"},
    {"GET", "/live", API_SERVER, ROUTE_PUBLIC | ROUTE_LOADING_OK,
     "200 while the process makes progress"},
    {"GET", "/ping", API_SERVER, ROUTE_PUBLIC | ROUTE_LOADING_OK, "The same as /health"},
    {"GET", "/version", API_SERVER, ROUTE_PUBLIC | ROUTE_LOADING_OK, "The version"},
    {"GET", "/metrics", API_SERVER, ROUTE_LOADING_OK, "Prometheus metrics"},
};
const int api_n_routes = (int)(sizeof api_routes / sizeof *api_routes);

/* "/v1/models" and "/models" are one path. */
static const char *without_v1(const char *path)
{
    if (strncmp(path, "/v1/", 4) == 0)
        return path + 3;
    return path;
}

static bool path_matches(const char *pattern, const char *path)
{
    pattern = without_v1(pattern);
    path = without_v1(path);
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    const char *brace = strchr(pattern, '{');
    if (brace == NULL)
        return strlen(pattern) == n && memcmp(pattern, path, n) == 0;
    size_t fixed = (size_t)(brace - pattern);
    return n > fixed && memcmp(pattern, path, fixed) == 0;
}

/* What a path allows.  Static because *allow outlives the call. */
static const char *methods_text(bool get, bool post)
{
    if (get && post)
        return "GET, HEAD, POST";
    return get ? "GET, HEAD" : "POST";
}

const struct api_route *api_route(const char *method, const char *path, const char **allow,
                                  struct err *e)
{
    bool get = false, post = false;
    if (allow != NULL)
        *allow = NULL;
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    for (int i = 0; i < api_n_routes; i++) {
        const struct api_route *r = &api_routes[i];
        if (!path_matches(r->path, path))
            continue;
        if (strcmp(r->method, wanted) == 0)
            return r;
        get = get || strcmp(r->method, "GET") == 0;
        post = post || strcmp(r->method, "POST") == 0;
    }
    if (!get && !post) {
        err_set(e, ERR_NOTFOUND, "there is nothing at %.100s; /openapi.json lists what there is",
                path);
        return NULL;
    }
    const char *methods = methods_text(get, post);
    if (allow != NULL)
        *allow = methods;
    err_set(e, ERR_NOTFOUND, "%.20s is not allowed at %.100s, only %s", method, path, methods);
    err_reason(e, "method_not_allowed");
    return NULL;
}
