/* The routes: one table for dispatch, 405 answers, /openapi.json and docs/API.md. */
#include <string.h>

#include "api/api.h"

/* {x} must be last: it matches the rest of the path, "/" included, as model names have them. */
const struct api_route api_routes[] = {
    {"POST", "/v1/chat/completions", API_CHAT, ROUTE_PICTURE, "Answers a conversation"},
    {"POST", "/v1/completions", API_COMPLETIONS, 0, "Continues a text"},
    {"POST", "/v1/responses", API_RESPONSES, ROUTE_PICTURE,
     "Answers a conversation, as OpenAI's Responses API has it"},
    {"POST", "/v1/responses/input_tokens", API_RESPONSES_COUNT, 0,
     "Counts the tokens of a response's input"},
    {"GET", "/v1/responses/{id}", API_RESPONSE, 0,
     "A response that is kept; with /input_items behind it, its input"},
    {"DELETE", "/v1/responses/{id}", API_RESPONSE_DELETE, 0, "Forgets a response"},
    {"POST", "/v1/messages", API_MESSAGES, ROUTE_PICTURE,
     "Answers a conversation, as Anthropic's Messages API has it"},
    {"POST", "/v1/messages/count_tokens", API_MESSAGES_COUNT, 0,
     "Counts the tokens of such a conversation"},
    {"POST", "/v1/embeddings", API_EMBEDDINGS, 0, "Turns texts into vectors"},
    {"POST", "/v1/captions", API_CAPTIONS, ROUTE_PICTURE, "Says what a picture shows"},
    {"POST", "/v1/images/generations", API_IMAGES_GENERATE, ROUTE_UPLOAD,
     "Makes pictures from a text"},
    {"POST", "/v1/images/edits", API_IMAGES_EDIT, ROUTE_UPLOAD,
     "Changes a picture, or the part of it that a mask names"},
    {"POST", "/v1/images/variations", API_IMAGES_VARY, ROUTE_UPLOAD,
     "Makes pictures that are like one"},
    {"POST", "/v1/images/upscale", API_UPSCALE, ROUTE_UPLOAD,
     "Enlarges a picture by a super-resolution network"},
    {"GET", "/v1/adapters", API_ADAPTERS, 0, "Lists the adapters: LoRAs and embeddings"},
    {"POST", "/v1/adapters", API_ADAPTER_LOAD, ROUTE_ADMIN, "Loads an adapter"},
    {"GET", "/v1/adapters/{name}", API_ADAPTER, 0, "Describes one adapter"},
    {"DELETE", "/v1/adapters/{name}", API_ADAPTER_DELETE, ROUTE_ADMIN, "Unloads an adapter"},
    {"POST", "/v1/load_lora_adapter", API_ADAPTER_LOAD, ROUTE_ADMIN,
     "Loads an adapter, as vLLM has it"},
    {"POST", "/v1/unload_lora_adapter", API_ADAPTER_UNLOAD, ROUTE_ADMIN,
     "Unloads an adapter, as vLLM has it"},
    {"GET", "/v1/jobs", API_JOBS, 0, "Lists the jobs of this key"},
    {"GET", "/v1/jobs/{id}", API_JOB, 0, "How far a job is, a preview, its answer"},
    {"DELETE", "/v1/jobs/{id}", API_JOB_DELETE, 0, "Cancels a job and forgets it"},
    {"GET", "/v1/models", API_MODELS, 0, "Lists the models"},
    {"GET", "/v1/models/{model}", API_MODEL, 0, "Describes one model"},
    {"POST", "/tokenize", API_TOKENIZE, 0, "Turns text or messages into token ids"},
    {"POST", "/detokenize", API_DETOKENIZE, 0, "Turns token ids into text"},
    {"POST", "/apply-template", API_APPLY_TEMPLATE, 0, "Shows the prompt that messages become"},
    {"GET", "/props", API_PROPS, 0, "Version, device, models, limits and defaults"},
    {"POST", "/sdapi/v1/txt2img", API_SD_TXT2IMG, ROUTE_UPLOAD,
     "stable-diffusion-webui: pictures from a text"},
    {"POST", "/sdapi/v1/img2img", API_SD_IMG2IMG, ROUTE_UPLOAD,
     "stable-diffusion-webui: pictures from a picture, or within a mask"},
    {"POST", "/sdapi/v1/png-info", API_SD_PNG_INFO, ROUTE_UPLOAD,
     "The parameters that a PNG carries"},
    {"POST", "/sdapi/v1/extra-single-image", API_SD_EXTRA, ROUTE_UPLOAD, "Enlarges a picture"},
    {"GET", "/sdapi/v1/progress", API_SD_PROGRESS, 0, "How far this key's oldest request is"},
    {"POST", "/sdapi/v1/interrupt", API_SD_INTERRUPT, 0,
     "Ends this key's requests with what is complete"},
    {"POST", "/sdapi/v1/skip", API_SD_SKIP, 0,
     "Ends this key's oldest request with what is complete"},
    {"GET", "/sdapi/v1/options", API_SD_OPTIONS, 0, "The model and the options of this key"},
    {"POST", "/sdapi/v1/options", API_SD_SET_OPTIONS, 0, "Chooses them"},
    {"GET", "/sdapi/v1/samplers", API_SD_SAMPLERS, 0, "Lists the samplers"},
    {"GET", "/sdapi/v1/schedulers", API_SD_SCHEDULERS, 0, "Lists the schedules of noise"},
    {"GET", "/sdapi/v1/sd-models", API_SD_MODELS, 0, "Lists the image models"},
    {"GET", "/sdapi/v1/upscalers", API_SD_UPSCALERS, 0, "Lists the upscalers"},
    {"POST", "/sdapi/v1/refresh-checkpoints", API_SD_REFRESH, 0,
     "Nothing: models are those of the start"},
    {"GET", "/sdapi/v1/cmd-flags", API_SD_FLAGS, 0, "The flags of a server without a page"},
    {"GET", "/sdapi/v1/memory", API_SD_MEMORY, 0, "The memory for pictures"},
    {"GET", "/sdapi/v1/scripts", API_SD_SCRIPTS, 0,
     "Lists the scripts: ControlNet, where there is one"},
    {"GET", "/sdapi/v1/loras", API_SD_LORAS, 0, "Lists the LoRAs"},
    {"GET", "/sdapi/v1/embeddings", API_SD_EMBEDDINGS, 0, "Lists the embeddings that are loaded"},
    {"GET", "/sdapi/v1/sd-vae", API_SD_NONE, 0, "Lists the VAEs to choose from: none"},
    {"GET", "/sdapi/v1/hypernetworks", API_SD_NONE, 0, "Lists the hypernetworks: none"},
    {"GET", "/sdapi/v1/face-restorers", API_SD_NONE, 0, "Lists the face restorers: none"},
    {"GET", "/sdapi/v1/realesrgan-models", API_SD_NONE, 0, "Lists other upscalers: none"},
    {"GET", "/sdapi/v1/latent-upscale-modes", API_SD_LATENT_MODES, 0,
     "Lists ways to enlarge latents"},
    {"GET", "/sdapi/v1/prompt-styles", API_SD_NONE, 0, "Lists the styles: none"},
    {"POST", "/v1/rerank", API_RERANK, 0, "Orders documents by how near they are to a query"},
    {"POST", "/v1/moderations", API_MODERATIONS, 0,
     "Looks in texts for what the text filter lists"},
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

static const char *const methods[] = {"GET", "POST", "DELETE"};
enum { N_METHODS = 3 };

/* What a path allows, from a bit for each of them.  Static because *allow outlives the call. */
static const char *methods_text(unsigned bits)
{
    static const char *const texts[1 << N_METHODS] = {[1] = "GET, HEAD",
                                                      [2] = "POST",
                                                      [3] = "GET, HEAD, POST",
                                                      [4] = "DELETE",
                                                      [5] = "GET, HEAD, DELETE",
                                                      [6] = "POST, DELETE",
                                                      [7] = "GET, HEAD, POST, DELETE"};
    return texts[bits];
}

const struct api_route *api_route(const char *method, const char *path, const char **allow,
                                  struct err *e)
{
    unsigned bits = 0;
    if (allow != NULL)
        *allow = NULL;
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    for (int i = 0; i < api_n_routes; i++) {
        const struct api_route *r = &api_routes[i];
        if (!path_matches(r->path, path))
            continue;
        if (strcmp(r->method, wanted) == 0)
            return r;
        for (int k = 0; k < N_METHODS; k++)
            bits |= strcmp(r->method, methods[k]) == 0 ? 1u << k : 0;
    }
    if (bits == 0) {
        err_set(e, ERR_NOTFOUND, "there is nothing at %.100s; /openapi.json lists what there is",
                path);
        return NULL;
    }
    const char *allowed = methods_text(bits);
    if (allow != NULL)
        *allow = allowed;
    err_set(e, ERR_NOTFOUND, "%.20s is not allowed at %.100s, only %s", method, path, allowed);
    err_reason(e, "method_not_allowed");
    return NULL;
}
