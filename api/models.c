/* GET /v1/models, /v1/models/{model} and /props. */
#include <string.h>

#include "api/call.h"

static void put_modalities(struct json_writer *w, const char *key, unsigned bits)
{
    static const struct {
        unsigned bit;
        const char *name;
    } all[] = {
        {MODALITY_TEXT, "text"}, {MODALITY_IMAGE, "image"}, {MODALITY_EMBEDDING, "embedding"}};
    json_open(w, key, '[');
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (bits & all[i].bit)
            json_put_str(w, NULL, all[i].name);
    }
    json_close(w, ']');
}

static const char *kind_name(enum model_kind kind)
{
    static const char *const names[] = {
        [MODEL_TEXT] = "text",       [MODEL_IMAGE] = "image",       [MODEL_EMBEDDING] = "embedding",
        [MODEL_CAPTION] = "caption", [MODEL_UPSCALER] = "upscaler", [MODEL_ENLARGER] = "upscaler",
        [MODEL_CONTROL] = "control"};
    return names[kind];
}

/* As llama-server's router says it. */
static const char *status_name(enum engine_model_state state)
{
    static const char *const names[] = {[ENGINE_MODEL_UNLOADED] = "unloaded",
                                        [ENGINE_MODEL_LOADING] = "loading",
                                        [ENGINE_MODEL_LOADED] = "loaded"};
    return names[state];
}

static void put_model(struct json_writer *w, const struct api *a, int i)
{
    const struct model_card *m = a->models[i].card;
    json_open(w, NULL, '{');
    json_put_str(w, "id", m->id);
    json_put_str(w, "object", "model");
    json_put_int(w, "created", m->created);
    json_put_str(w, "owned_by", "duetto");
    json_put_str(w, "root", m->id);
    json_put_null(w, "parent");
    if (m->n_ctx > 0)
        json_put_int(w, "max_model_len", m->n_ctx);
    json_open(w, "status", '{');
    json_put_str(w, "value", status_name(replicas_model_state(a->o.engine, i)));
    json_close(w, '}');
    json_open(w, "meta", '{');
    json_put_str(w, "kind", kind_name(m->kind));
    json_put_str(w, "arch", m->arch);
    json_put_str(w, "quant", m->quant);
    json_put_int(w, "n_params", m->n_params);
    json_put_int(w, "size", (int64_t)m->weight_bytes);
    if (m->n_ctx > 0) {
        json_put_int(w, "n_vocab", m->n_vocab);
        json_put_int(w, "n_ctx", m->n_ctx);
        json_put_int(w, "n_ctx_train", m->n_ctx_train);
    }
    if (m->image != NULL)
        json_put_bool(w, "safety_checker", m->image->safety);
    json_open(w, "modalities", '{');
    put_modalities(w, "input", m->input);
    put_modalities(w, "output", m->output);
    json_close(w, '}');
    json_close(w, '}');
    json_close(w, '}');
}

int models_list(struct api_call *c, struct err *e)
{
    const struct api *a = c->priv->api;
    struct json_writer w;
    (void)e;
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "object", "list");
    json_open(&w, "data", '[');
    for (int i = 0; i < a->n_models; i++)
        put_model(&w, a, i);
    json_close(&w, ']');
    json_close(&w, '}');
    return 0;
}

int models_one(struct api_call *c, const char *path, struct err *e)
{
    const struct api *a = c->priv->api;
    const char *id = strstr(path, "/models/");
    id = id != NULL ? id + strlen("/models/") : "";
    size_t n = strlen(id);
    for (int i = 0; i < a->n_models; i++) {
        const char *have = a->models[i].card->id;
        size_t n_have = strlen(have);
        bool same = n_have <= n && memcmp(have, id, n_have) == 0;
        if (same && strspn(id + n_have, "/") == n - n_have) {
            struct json_writer w;
            json_begin(&w, &c->out);
            put_model(&w, a, i);
            c->model = have;
            return 0;
        }
    }
    return api_unknown_model(a, id, e);
}

/* The text model that requests get which name none. */
static const struct model_card *first_text(const struct api *a)
{
    static const struct model_card none = {0};
    for (int i = 0; i < a->n_models; i++) {
        if (a->models[i].card->kind == MODEL_TEXT)
            return a->models[i].card;
    }
    return &none;
}

static void put_defaults(struct json_writer *w, const struct api *a)
{
    json_open(w, "default_generation_settings", '{');
    json_open(w, "params", '{');
    json_put_num(w, "temperature", sample_params_default.temperature);
    json_put_num(w, "top_p", sample_params_default.top_p);
    json_put_int(w, "top_k", sample_params_default.top_k);
    json_put_num(w, "min_p", sample_params_default.min_p);
    json_put_num(w, "typical_p", sample_params_default.typical_p);
    json_put_num(w, "presence_penalty", sample_params_default.presence_penalty);
    json_put_num(w, "frequency_penalty", sample_params_default.frequency_penalty);
    json_put_num(w, "repetition_penalty", sample_params_default.repetition_penalty);
    json_put_int(w, "max_tokens", a->o.default_max_tokens);
    json_close(w, '}');
    json_put_int(w, "n_ctx", first_text(a)->n_ctx);
    json_close(w, '}');
}

static void put_limits(struct json_writer *w, const struct api *a)
{
    json_open(w, "limits", '{');
    json_put_int(w, "max_body_bytes", (int64_t)a->o.max_body_bytes);
    json_put_int(w, "max_answer_bytes", (int64_t)a->o.max_answer_bytes);
    json_put_int(w, "max_json_depth", a->o.max_json_depth);
    json_put_int(w, "max_json_nodes", a->o.max_json_nodes);
    json_put_int(w, "max_choices", a->o.max_choices);
    json_put_int(w, "max_prompts", a->o.max_prompts);
    json_put_int(w, "max_messages", a->o.max_messages);
    json_put_int(w, "max_grammar_bytes", (int64_t)a->o.max_grammar_bytes);
    json_put_int(w, "max_stop", JOB_STOP_MAX);
    json_put_int(w, "max_stop_bytes", a->o.max_stop_bytes);
    json_put_int(w, "max_top_logprobs", JOB_TOP_LOGPROBS);
    json_put_int(w, "max_image_bytes", (int64_t)a->o.max_image_bytes);
    json_put_int(w, "max_image_pixels", a->o.max_image_pixels);
    json_put_int(w, "max_images", a->o.max_images);
    json_put_int(w, "max_controls", a->o.max_controls);
    json_put_int(w, "max_jobs", a->o.max_jobs);
    json_close(w, '}');
}

int models_props(struct api_call *c, struct err *e)
{
    const struct api *a = c->priv->api;
    const struct model_card *first = first_text(a);
    struct engine_stats stats = {0};
    struct json_writer w;
    (void)e;
    replicas_stats(a->o.engine, &stats);
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "version", a->o.version);
    json_put_str(&w, "build_info", a->fingerprint);
    json_put_str(&w, "device", replicas_device(a->o.engine));
    json_put_int(&w, "total_slots", stats.sequences_max);
    json_put_str(&w, "model_alias", first->id);
    json_open(&w, "models", '[');
    for (int i = 0; i < a->n_models; i++)
        put_model(&w, a, i);
    json_close(&w, ']');
    put_limits(&w, a);
    put_defaults(&w, a);
    json_put_str(&w, "chat_template", first->chat_template);
    json_open(&w, "modalities", '{');
    json_put_bool(&w, "vision", false);
    json_put_bool(&w, "audio", false);
    json_close(&w, '}');
    json_close(&w, '}');
    return 0;
}
