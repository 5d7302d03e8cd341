/* /v1/adapters: LoRAs and embeddings of image models, listed, loaded and unloaded while the server runs; and the
 * two routes that vLLM has for it. */
#include "engine/replicas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"

/* What a call that waits for an adapter will say. */
struct adapter_answer {
    char name[ENGINE_ADAPTER_NAME_MAX];
};

void adapters_close(struct adapter_answer *a)
{
    free(a);
}

static void put_entry(struct json_writer *w, const char *key, const struct engine_adapter *en)
{
    json_open(w, key, '{');
    json_put_str(w, "id", en->name);
    json_put_str(w, "object", "adapter");
    json_put_bool(w, "loaded", en->loaded);
    if (en->model != NULL)
        json_put_str(w, "model", en->model);
    if (en->loaded) {
        json_put_str(w, "kind", en->embedding ? "embedding" : "lora");
        json_put_bool(w, "pinned", en->pinned);
        json_put_int(w, "in_use", en->n_users);
        json_put_int(w, "bytes", (int64_t)en->bytes);
        if (en->embedding) {
            json_put_int(w, "tokens", en->n_vectors);
            json_put_str(w, "word", en->token[0] != '\0' ? en->token : en->name);
        } else {
            json_put_int(w, "rank", en->rank);
            json_put_int(w, "layers", en->n_layers);
        }
    }
    json_close(w, '}');
}

int adapters_get_list(struct api_call *c, struct err *e)
{
    struct engine_adapter *list = NULL;
    struct json_writer w;
    int n = 0;
    int rc = replicas_adapter_list(c->priv->api->o.engine, &list, &n, e);
    if (rc != 0)
        return rc;
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "object", "list");
    json_open(&w, "data", '[');
    for (int i = 0; i < n; i++)
        put_entry(&w, NULL, &list[i]);
    json_close(&w, ']');
    json_close(&w, '}');
    free(list);
    return 0;
}

static int put_one(struct api_call *c, const char *name, struct err *e)
{
    struct engine_adapter *list = NULL;
    struct json_writer w;
    int n = 0;
    int rc = replicas_adapter_list(c->priv->api->o.engine, &list, &n, e);
    if (rc != 0)
        return rc;
    rc = ERR_NOTFOUND;
    for (int i = 0; i < n && rc != 0; i++) {
        if (strcmp(list[i].name, name) != 0)
            continue;
        json_begin(&w, &c->out);
        put_entry(&w, NULL, &list[i]);
        rc = 0;
    }
    free(list);
    if (rc == 0)
        return 0;
    err_set(e, ERR_NOTFOUND, "there is no adapter \"%.80s\" here", name);
    return err_reason(e, "adapter_not_found");
}

static const char *name_in(const char *path)
{
    static const char word[] = "/adapters/";
    const char *at = strstr(path, word);
    return at != NULL ? at + strlen(word) : "";
}

int adapters_get(struct api_call *c, const char *path, struct err *e)
{
    return put_one(c, name_in(path), e);
}

static int unload(struct api_call *c, const char *model, const char *name, struct err *e)
{
    struct json_writer w;
    int n_users = 0;
    int rc = replicas_adapter_unload(c->priv->api->o.engine, model, name, &n_users, e);
    if (rc != 0)
        return rc;
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "id", name);
    json_put_str(&w, "object", "adapter.deleted");
    json_put_bool(&w, "deleted", true);
    json_put_int(&w, "in_use", n_users);
    json_close(&w, '}');
    return 0;
}

int adapters_delete(struct api_call *c, const char *path, struct err *e)
{
    return unload(c, NULL, name_in(path), e);
}

/* The name of a body, under our key or vLLM's. */
static int read_name(const struct cJSON *body, const char **name, struct err *e)
{
    int rc = json_get_str(body, "name", name, e);
    if (rc == 0 && *name == NULL)
        rc = json_get_str(body, "lora_name", name, e);
    if (rc == 0 && *name == NULL) {
        err_set(e, ERR_INVALID, "name is missing: the file without .safetensors");
        rc = err_param(e, "name");
    }
    if (rc == 0 && !engine_adapter_name_ok(*name)) {
        err_set(e, ERR_INVALID, "\"%.80s\" is no name of an adapter", *name);
        rc = err_param(e, "name");
    }
    return rc;
}

/* vLLM's lora_path: only files of the directory are read, so it may only say the name again. */
static int check_path(const struct cJSON *body, const char *name, struct err *e)
{
    const char *path = NULL;
    int rc = json_get_str(body, "lora_path", &path, e);
    if (rc != 0 || path == NULL)
        return rc;
    const char *last = strrchr(path, '/');
    last = last != NULL ? last + 1 : path;
    const size_t n = strlen(name);
    if (strncmp(last, name, n) == 0 && (last[n] == '\0' || strcmp(last + n, ".safetensors") == 0))
        return 0;
    err_set(e, ERR_INVALID, "lora_path must name the file of lora_name in the server's lora_dir");
    return err_param(e, "lora_path");
}

int adapters_load_begin(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const struct api_model *m = NULL;
    const char *name = NULL;
    int rc = api_find_model(c, body, MODEL_IMAGE, &m, e);
    if (rc != 0 || (rc = read_name(body, &name, e)) != 0 || (rc = check_path(body, name, e)) != 0)
        return rc;
    c->job = job_new(1 << 12);
    c->job->kind = JOB_ADAPTER;
    c->job->adapter.model = m->card->id;
    c->job->adapter.name = arena_strdup(&c->job->arena, name);
    if (c->job->adapter.name == NULL)
        return err_set(e, ERR_NOMEM, "not enough memory for the request");
    c->priv->adapter = xcalloc(1, sizeof *c->priv->adapter);
    snprintf(c->priv->adapter->name, sizeof c->priv->adapter->name, "%s", name);
    return replicas_submit(c->priv->api->o.engine, c->job, e);
}

int adapters_event(struct api_call *c, const struct event *ev, struct err *e)
{
    return ev->kind == EV_DONE ? put_one(c, c->priv->adapter->name, e) : 0;
}

int adapters_unload_begin(struct api_call *c, const struct cJSON *body, struct err *e)
{
    const char *name = NULL, *model = NULL;
    int rc = read_name(body, &name, e);
    if (rc == 0)
        rc = json_get_str(body, "model", &model, e);
    return rc == 0 ? unload(c, model, name, e) : rc;
}
