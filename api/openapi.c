/* GET /openapi.json: OpenAPI 3.1, made of the routes and the parameter table, so that it cannot say
 * something else than the server does. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "api/call.h"
#include "api/sdapi.h"

#define TOKENIZE_SCHEMA                                                                     \
    "{\"type\":\"object\",\"properties\":{\"model\":{\"type\":[\"string\",\"null\"]},"      \
    "\"content\":{\"type\":\"string\"},\"prompt\":{\"type\":\"string\"},"                   \
    "\"messages\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},"                    \
    "\"add_special\":{\"type\":\"boolean\"},\"add_special_tokens\":{\"type\":\"boolean\"}," \
    "\"parse_special\":{\"type\":\"boolean\"},\"with_pieces\":{\"type\":\"boolean\"},"      \
    "\"return_token_strs\":{\"type\":\"boolean\"}}}"
#define EMBEDDING_SCHEMA                                                                           \
    "{\"type\":\"object\",\"required\":[\"input\"],\"properties\":{\"model\":{\"type\":["          \
    "\"string\",\"null\"]},\"input\":{\"oneOf\":[{\"type\":\"string\",\"minLength\":1},{\"type\":" \
    "\"array\",\"minItems\":1,\"maxItems\":2048,\"items\":{\"oneOf\":[{\"type\":\"string\"},"      \
    "{\"type\":\"integer\"},{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}]}}]},"           \
    "\"encoding_format\":{\"enum\":[\"float\",\"base64\",null]},\"dimensions\":{\"type\":["        \
    "\"integer\",\"null\"],\"minimum\":1},\"user\":{\"type\":[\"string\",\"null\"]}}}"
#define MODERATION_SCHEMA                                                                          \
    "{\"type\":\"object\",\"required\":[\"input\"],\"properties\":{\"model\":{\"type\":"           \
    "\"string\"},"                                                                                 \
    "\"input\":{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"items\":{\"oneOf\":["       \
    "{\"type\":\"string\"},{\"type\":\"object\",\"required\":[\"type\",\"text\"],\"properties\":{" \
    "\"type\":{\"const\":\"text\"},\"text\":{\"type\":\"string\"}}}]}}]}}}"
#define RERANK_SCHEMA                                                                          \
    "{\"type\":\"object\",\"required\":[\"query\",\"documents\"],\"properties\":{\"model\":{"  \
    "\"type\":["                                                                               \
    "\"string\",\"null\"]},\"query\":{\"type\":\"string\",\"minLength\":1},\"documents\":{"    \
    "\"type\":"                                                                                \
    "\"array\",\"minItems\":1,\"maxItems\":2047,\"items\":{\"oneOf\":[{\"type\":\"string\"},{" \
    "\"type\":"                                                                                \
    "\"object\",\"properties\":{\"text\":{\"type\":\"string\"}}}]}},\"top_n\":{\"type\":["     \
    "\"integer\","                                                                             \
    "\"null\"],\"minimum\":1},\"return_documents\":{\"type\":[\"boolean\",\"null\"]}}}"
#define PNG_INFO_SCHEMA                                                                  \
    "{\"type\":\"object\",\"required\":[\"image\"],\"properties\":{\"image\":{\"type\":" \
    "\"string\"}}}"
#define OPTIONS_SCHEMA "{\"type\":\"object\"}"
#define ADAPTER_SCHEMA                                                                           \
    "{\"type\":\"object\",\"properties\":{\"model\":{\"type\":[\"string\",\"null\"]},\"name\":{" \
    "\"type\":[\"string\",\"null\"]},\"lora_name\":{\"type\":[\"string\",\"null\"]},"            \
    "\"lora_path\":{\"type\":[\"string\",\"null\"]}}}"
#define DETOKENIZE_SCHEMA                                             \
    "{\"type\":\"object\",\"required\":[\"tokens\"],\"properties\":{" \
    "\"model\":{\"type\":[\"string\",\"null\"]},"                     \
    "\"tokens\":{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":0}}}}"
#define ERROR_SCHEMA                                                                              \
    "{\"type\":\"object\",\"required\":[\"error\"],\"properties\":{\"error\":{"                   \
    "\"type\":\"object\",\"required\":[\"message\",\"type\",\"param\",\"code\"],\"properties\":{" \
    "\"message\":{\"type\":\"string\"},\"type\":{\"type\":\"string\"},"                           \
    "\"param\":{\"type\":[\"string\",\"null\"]},\"code\":{\"type\":[\"string\",\"null\"]}}}}}"

static void put_type(struct json_writer *w, const char *type)
{
    json_open(w, "type", '[');
    json_put_str(w, NULL, type);
    json_put_str(w, NULL, "null");
    json_close(w, ']');
}

static void put_bound(struct json_writer *w, const char *key, const struct param *p, double v)
{
    if (p->kind == PARAM_INT)
        json_put_int(w, key, (int64_t)v);
    else
        json_put_num(w, key, v);
}

/* The configuration may allow fewer choices than the table. */
static double param_max(const struct param *p, const struct api *a)
{
    return params_limited(p, p->where & PARAM_IMAGES ? a->o.max_images : a->o.max_choices).max;
}

static void put_words(struct json_writer *w, const char *words)
{
    json_open(w, "enum", '[');
    while (*words != '\0') {
        size_t n = strcspn(words, " ");
        json_put_strn(w, NULL, words, n);
        words += n + strspn(words + n, " ");
    }
    json_put_null(w, NULL);
    json_close(w, ']');
}

static void put_param(struct json_writer *w, const struct param *p, const struct api *a)
{
    if (p->kind == PARAM_OTHER) {
        json_put_raw(w, p->name, p->schema, strlen(p->schema));
        return;
    }
    json_open(w, p->name, '{');
    json_put_str(w, "description", p->help);
    switch (p->kind) {
    case PARAM_BOOL:
        put_type(w, "boolean");
        break;
    case PARAM_INT:
    case PARAM_NUM:
        put_type(w, p->kind == PARAM_INT ? "integer" : "number");
        put_bound(w, "minimum", p, p->min);
        put_bound(w, "maximum", p, param_max(p, a));
        break;
    case PARAM_STR:
    case PARAM_TEXT:
        put_type(w, "string");
        break;
    case PARAM_CHOICE:
        put_words(w, p->schema);
        break;
    case PARAM_REFUSED:
        json_put_str(w, "type", "null");
        break;
    case PARAM_OTHER:
    case PARAM_IGNORED:
        break;
    }
    json_close(w, '}');
}

/* The rows of a table that a request may have there. */
struct rows {
    const struct param *table;
    int n;
    unsigned where;
};

static void put_rows(struct json_writer *w, const char *name, const struct rows *r,
                     const char *required, const struct api *a)
{
    json_open(w, name, '{');
    json_put_str(w, "type", "object");
    json_open(w, "required", '[');
    if (required != NULL)
        json_put_str(w, NULL, required);
    json_close(w, ']');
    json_open(w, "properties", '{');
    for (int i = 0; i < r->n; i++)
        if (r->table[i].where & r->where)
            put_param(w, &r->table[i], a);
    json_close(w, '}');
    json_put_bool(w, "additionalProperties", !a->o.strict);
    json_close(w, '}');
}

static void put_schema(struct json_writer *w, const char *name, unsigned where,
                       const char *required, const struct api *a)
{
    const bool images = (where & PARAM_PICTURES) != 0;
    put_rows(w, name,
             &(struct rows){images ? image_params_table : params_table,
                            images ? image_params_n : params_n, where},
             required, a);
}

static const char *schema_of(enum api_handler_id id)
{
    switch (id) {
    case API_CHAT:
        return "ChatRequest";
    case API_COMPLETIONS:
        return "CompletionRequest";
    case API_MESSAGES:
    case API_MESSAGES_COUNT:
        return "MessageRequest";
    case API_RESPONSES:
    case API_RESPONSES_COUNT:
        return "ResponseRequest";
    case API_CAPTIONS:
        return "CaptionRequest";
    case API_EMBEDDINGS:
        return "EmbeddingRequest";
    case API_RERANK:
        return "RerankRequest";
    case API_MODERATIONS:
        return "ModerationRequest";
    case API_APPLY_TEMPLATE:
        return "ApplyTemplateRequest";
    case API_TOKENIZE:
        return "TokenizeRequest";
    case API_ADAPTER_LOAD:
    case API_ADAPTER_UNLOAD:
        return "AdapterRequest";
    case API_IMAGES_GENERATE:
        return "ImageRequest";
    case API_IMAGES_EDIT:
        return "ImageEditRequest";
    case API_IMAGES_VARY:
        return "ImageVariationRequest";
    case API_UPSCALE:
        return "UpscaleRequest";
    case API_SD_TXT2IMG:
        return "WebuiTxt2imgRequest";
    case API_SD_IMG2IMG:
        return "WebuiImg2imgRequest";
    case API_SD_PNG_INFO:
        return "WebuiPngInfoRequest";
    case API_SD_EXTRA:
        return "WebuiExtraRequest";
    case API_SD_SET_OPTIONS:
    case API_SD_INTERRUPT:
    case API_SD_SKIP:
    case API_SD_REFRESH:
        return "WebuiOptions";
    default:
        return "DetokenizeRequest";
    }
}

static void put_media(struct json_writer *w, const char *type, const char *schema)
{
    char ref[80];
    snprintf(ref, sizeof ref, "#/components/schemas/%s", schema);
    json_open(w, type, '{');
    json_open(w, "schema", '{');
    json_put_str(w, "$ref", ref);
    json_close(w, '}');
    json_close(w, '}');
}

static void put_ref(struct json_writer *w, const char *schema, bool form)
{
    json_open(w, "content", '{');
    if (form)
        put_media(w, "multipart/form-data", schema);
    put_media(w, "application/json", schema);
    json_close(w, '}');
}

static void put_response(struct json_writer *w, const char *status, const char *what,
                         const char *schema)
{
    json_open(w, status, '{');
    json_put_str(w, "description", what);
    if (schema != NULL)
        put_ref(w, schema, false);
    json_close(w, '}');
}

/* "post_v1_chat_completions" */
static void put_operation_id(struct json_writer *w, const struct api_route *r)
{
    char id[96];
    size_t n = 0;
    for (const char *s = r->method; *s != '\0' && n + 1 < sizeof id; s++)
        id[n++] = (char)tolower((unsigned char)*s);
    for (const char *s = r->path; *s != '\0' && n + 1 < sizeof id; s++)
        if (*s != '{' && *s != '}')
            id[n++] = isalnum((unsigned char)*s) ? *s : '_';
    id[n] = '\0';
    json_put_str(w, "operationId", id);
}

static bool images_route(enum api_handler_id id)
{
    return id == API_IMAGES_GENERATE || id == API_IMAGES_EDIT || id == API_IMAGES_VARY ||
           id == API_UPSCALE;
}

static void put_operation(struct json_writer *w, const struct api_route *r)
{
    bool post = strcmp(r->method, "POST") == 0;
    const char *brace = strchr(r->path, '{');
    json_open(w, post ? "post" : strcmp(r->method, "DELETE") == 0 ? "delete" : "get", '{');
    put_operation_id(w, r);
    json_put_str(w, "summary", r->summary);
    if (r->flags & ROUTE_PUBLIC) {
        json_open(w, "security", '[');
        json_close(w, ']');
    }
    if (brace != NULL) {
        json_open(w, "parameters", '[');
        json_open(w, NULL, '{');
        json_put_strn(w, "name", brace + 1, strcspn(brace + 1, "}"));
        json_put_str(w, "in", "path");
        json_put_bool(w, "required", true);
        json_put_raw(w, "schema", "{\"type\":\"string\"}", strlen("{\"type\":\"string\"}"));
        json_close(w, '}');
        json_close(w, ']');
    }
    if (post) {
        json_open(w, "requestBody", '{');
        json_put_bool(w, "required", true);
        put_ref(w, schema_of(r->id), (r->flags & ROUTE_UPLOAD) != 0 && r->id < API_SD_TXT2IMG);
        json_close(w, '}');
    }
    json_open(w, "responses", '{');
    put_response(w, "200", "the answer; text/event-stream when stream is true", NULL);
    if (post) {
        put_response(w, "400", "the request is wrong; param names the field", "Error");
        put_response(w, "413", "the body is too large", "Error");
        put_response(w, "429", "the queue is full; see Retry-After", "Error");
        put_response(w, "500", "a fault of the server", "Error");
    }
    if (images_route(r->id))
        put_response(w, "202", "a job, when background is true", NULL);
    if (post || brace != NULL)
        put_response(w, "404", "no such model or job", "Error");
    if (!(r->flags & ROUTE_PUBLIC))
        put_response(w, "401", "the API key is missing or wrong", "Error");
    if (!(r->flags & ROUTE_LOADING_OK) || r->id == API_SERVER)
        put_response(w, "503", "loading, draining or out of memory; see Retry-After", "Error");
    json_close(w, '}');
    json_close(w, '}');
}

static void put_paths(struct json_writer *w)
{
    json_open(w, "paths", '{');
    for (int i = 0; i < api_n_routes; i++) {
        bool before = false;
        for (int k = 0; k < i && !before; k++)
            before = strcmp(api_routes[k].path, api_routes[i].path) == 0;
        if (before)
            continue;
        json_open(w, api_routes[i].path, '{');
        for (int k = i; k < api_n_routes; k++)
            if (strcmp(api_routes[k].path, api_routes[i].path) == 0)
                put_operation(w, &api_routes[k]);
        json_close(w, '}');
    }
    json_close(w, '}');
}

int openapi_write(const struct api *a, struct buf *out, struct err *e)
{
    struct json_writer w;
    (void)e;
    json_begin(&w, out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "openapi", "3.1.0");
    json_open(&w, "info", '{');
    json_put_str(&w, "title", "Duetto");
    json_put_str(
        &w, "description",
        "Language and image models over OpenAI's protocol. A trailing / is ignored, and /v1 may be "
        "left out or put in front of any path.");
    json_put_str(&w, "version", a->o.version != NULL ? a->o.version : "0");
    json_close(&w, '}');
    json_open(&w, "security", '[');
    json_put_raw(&w, NULL, "{\"key\":[]}", strlen("{\"key\":[]}"));
    json_put_raw(&w, NULL, "{}", 2);
    json_close(&w, ']');
    put_paths(&w);
    json_open(&w, "components", '{');
    json_open(&w, "securitySchemes", '{');
    json_put_raw(&w, "key", "{\"type\":\"http\",\"scheme\":\"bearer\"}",
                 strlen("{\"type\":\"http\",\"scheme\":\"bearer\"}"));
    json_close(&w, '}');
    json_open(&w, "schemas", '{');
    put_schema(&w, "ChatRequest", PARAM_CHAT, "messages", a);
    put_schema(&w, "CompletionRequest", PARAM_COMPLETIONS, "prompt", a);
    put_schema(&w, "MessageRequest", PARAM_MESSAGES, "messages", a);
    put_schema(&w, "ResponseRequest", PARAM_RESPONSES, NULL, a);
    put_schema(&w, "CaptionRequest", PARAM_CAPTIONS, "image", a);
    put_schema(&w, "ApplyTemplateRequest", PARAM_CHAT, "messages", a);
    put_schema(&w, "ImageRequest", PARAM_GENERATE, "prompt", a);
    put_schema(&w, "ImageEditRequest", PARAM_EDIT, "prompt", a);
    put_schema(&w, "ImageVariationRequest", PARAM_VARY, "image", a);
    put_schema(&w, "UpscaleRequest", PARAM_UPSCALE | PARAM_ENLARGE, "image", a);
    put_rows(&w, "WebuiTxt2imgRequest", &(struct rows){sdapi_table, sdapi_n, PARAM_GENERATE}, NULL,
             a);
    put_rows(&w, "WebuiImg2imgRequest", &(struct rows){sdapi_table, sdapi_n, PARAM_EDIT},
             "init_images", a);
    put_rows(&w, "WebuiExtraRequest", &(struct rows){sdapi_extra_table, sdapi_extra_n, PARAM_EDIT},
             "image", a);
    json_put_raw(&w, "WebuiPngInfoRequest", PNG_INFO_SCHEMA, strlen(PNG_INFO_SCHEMA));
    json_put_raw(&w, "WebuiOptions", OPTIONS_SCHEMA, strlen(OPTIONS_SCHEMA));
    json_put_raw(&w, "TokenizeRequest", TOKENIZE_SCHEMA, strlen(TOKENIZE_SCHEMA));
    json_put_raw(&w, "RerankRequest", RERANK_SCHEMA, strlen(RERANK_SCHEMA));
    json_put_raw(&w, "ModerationRequest", MODERATION_SCHEMA, strlen(MODERATION_SCHEMA));
    json_put_raw(&w, "EmbeddingRequest", EMBEDDING_SCHEMA, strlen(EMBEDDING_SCHEMA));
    json_put_raw(&w, "AdapterRequest", ADAPTER_SCHEMA, strlen(ADAPTER_SCHEMA));
    json_put_raw(&w, "DetokenizeRequest", DETOKENIZE_SCHEMA, strlen(DETOKENIZE_SCHEMA));
    json_put_raw(&w, "Error", ERROR_SCHEMA, strlen(ERROR_SCHEMA));
    json_close(&w, '}');
    json_close(&w, '}');
    json_close(&w, '}');
    return 0;
}
