/* The process: commands, start order, signals, drain, exit code.
 *
 * Exit codes: docs/OPERATIONS.md has them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "api/api.h"
#include "base/clock.h"
#include "base/fetch.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/bench.h"
#include "engine/text/filter.h"
#include "server/config.h"
#include "server/healthcheck.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/work.h"

#define PEM_BYTES_MAX (1 << 20)
#define N_SIGNALS     3

enum drain { DRAIN_NO, DRAIN_SETTLE, DRAIN_WAIT, DRAIN_FLUSH, DRAIN_DONE };

struct server {
    struct config config;
    uv_loop_t loop;
    uv_async_t wake;
    uv_signal_t signals[N_SIGNALS];
    uv_timer_t timer; /* progress while loading, then the drain's clock */
    struct replicas *engine;
    struct fetch *fetch;
    struct filter *filter;
    struct api *api;
    struct metrics metrics;
    struct http *http;
    struct config_keys keys;
    struct buf tls_cert, tls_key;
    bool ready;
    enum drain drain;
    int64_t drain_us; /* when this stage of the drain began */
    int64_t load_us;
    int exit_code;
};

static const char usage[] =
    "usage: duetto serve [-c FILE] [-m [NAME=]PATH]... [options]   serve models over HTTP\n"
    "       duetto healthcheck [options]                           0 if the server is healthy\n"
    "       duetto bench -m FILE [-p 512] [-n 128] [-d 0] [-b 1,16] [-t N] [-r 5] [--device D]\n"
    "                    [--kv_type T] [--cuda_activations T] [--cuda_blas_rows N]\n"
    "                    [--size 256] [--json | --ops]\n"
    "                                                              tokens per second of a model, "
    "or\n"
    "                                                              seconds of pictures; --ops: "
    "where\n"
    "                                                              the time goes\n"
    "       duetto config [options]                                print the configuration as "
    "JSON\n"
    "       duetto --help | --version\n";

static void help(void)
{
    struct buf text;
    buf_init(&text, 64 * 1024);
    config_help(&text);
    printf(
        "%s\n"
        "  -c, --config FILE                options as a JSON object; \"models\": {name: path} or\n"
        "                                   {name: {\"path\": ..., \"tokenizer\": ...}}\n"
        "  -m, --model [NAME=]PATH          a GGUF or safetensors file, a directory of diffusers;\n"
        "                                   may be repeated, the first of a kind is its default;\n"
        "                                   ,tokenizer=DIR ,prediction_type=epsilon|v_prediction "
        "behind\n"
        "                                   the path: what an image model's file does not say\n"
        "%s\n"
        "Every option is also an environment variable (--n_ctx is DUETTO_N_CTX, and may be\n"
        "written --n-ctx); a flag wins over the environment, the environment over the file.\n",
        usage, buf_str(&text));
    buf_free(&text);
}

/* ------------------------------------------------------------------ start */

static int compare_paths(const void *a, const void *b)
{
    const struct config_model *x = a, *y = b;
    return strcmp(x->path, y->path);
}

/* A file NAME.gguf, or a directory of diffusers or transformers: the length of its name without the ending, else 0.
 * What is hidden is no model, but what other systems and downloads leave there. */
static size_t model_name(const struct config *c, const char *entry)
{
    size_t n = strlen(entry);
    if (entry[0] == '.')
        return 0;
    if (n > 5 && strcmp(entry + n - 5, ".gguf") == 0)
        return n - 5;
    char path[4096];
    int len = snprintf(path, sizeof path, "%s/%s", c->models_dir, entry);
    bool fits = len > 0 && (size_t)len < sizeof path;
    return fits && model_is_directory(path) ? n : 0;
}

/* Without -m: every model in models_dir. */
static int default_models(struct config *c, struct err *e)
{
    DIR *d = opendir(c->models_dir);
    struct dirent *entry;
    char text[128];
    const char *why =
        d ? "it has no *.gguf and no directory of a model" : strerror_r(errno, text, sizeof text);
    int rc = 0;
    while (d && !rc &&
           (entry = readdir(d))) { /* NOLINT(concurrency-mt-unsafe): before any thread */
        size_t n = model_name(c, entry->d_name);
        const char *path = n ? arena_printf(&c->arena, "%s/%s", c->models_dir, entry->d_name) : "";
        if (n)
            rc = config_add_model(c, entry->d_name, n, path ? path : "", c->models_dir, e);
    }
    if (d)
        closedir(d);
    if (rc)
        return rc;
    if (!c->n_models)
        return err_set(e, ERR_NOTFOUND,
                       "no model: give one with -m FILE.gguf, or run `make models` first "
                       "(models_dir %s: %s)",
                       c->models_dir, why);
    qsort(c->models, (size_t)c->n_models, sizeof(c->models[0]), compare_paths);
    return 0;
}

/* It is read when an adapter is asked for; a name that is written wrong should not wait until then. */
static int check_lora_dir(const struct config *c, struct err *e)
{
    DIR *d = c->lora_dir[0] ? opendir(c->lora_dir) : NULL;
    char why[128];
    if (c->lora_dir[0] && !d)
        return err_set(e, ERR_IO, "lora_dir %s: %s", c->lora_dir,
                       strerror_r(errno, why, sizeof why));
    if (d)
        closedir(d);
    return 0;
}

/* A first request for each kind of model that is served. */
static void say_try(const struct server *s, const char *url)
{
    static const struct {
        enum model_kind kind;
        const char *flags, *request;
    } first[] = {
        {MODEL_TEXT, "-N ",
         "/v1/chat/completions -d '{\"messages\":[{\"role\":\"user\","
         "\"content\":\"Name three rivers in Italy.\"}],\"stream\":true}'"},
        {MODEL_IMAGE, "-s ",
         "/v1/images/generations -d '{\"prompt\":\"a red apple\"}' | "
         "sed 's/.*b64_json\":\"//; s/\".*//' | base64 -d > apple.png"},
        {MODEL_CAPTION, "", "/v1/captions -d \"{\\\"image\\\":\\\"$(base64 -w0 apple.png)\\\"}\""},
        {MODEL_EMBEDDING, "", "/v1/embeddings -d '{\"input\":\"a red apple\"}'"},
    };
    for (size_t k = 0; k < sizeof first / sizeof *first; k++) {
        bool any = false;
        for (int i = 0; i < replicas_n_models(s->engine); i++)
            any = any || replicas_card_at(s->engine, i)->kind == first[k].kind;
        if (any)
            printf("  curl %s%s%s\n", first[k].flags, url, first[k].request);
    }
}

static void say_ready(const struct server *s)
{
    const struct config *c = &s->config;
    const char *scheme = *c->tls_cert_file ? "https" : "http";
    const char *host = strcmp(c->host, "0.0.0.0") && strcmp(c->host, "::") ? c->host : "localhost";
    for (int i = 0; i < replicas_n_models(s->engine); i++) {
        const struct model_card *m = replicas_card_at(s->engine, i);
        printf("  %s: %s %s, %.0fM parameters, %.0f MB", m->id, m->arch, m->quant,
               (double)m->n_params / 1e6, (double)m->weight_bytes / 1e6);
        if (m->image)
            printf(", pictures of %dx%d", m->image->width, m->image->height);
        else if (m->n_ctx > 0)
            printf(", context %d", m->n_ctx);
        bool loaded = replicas_model_state(s->engine, i) == ENGINE_MODEL_LOADED;
        printf("%s\n", loaded ? "" : ", loaded when asked for");
    }
    char url[300];
    snprintf(url, sizeof url, "%s://%s:%d", scheme, host, http_port(s->http));
    printf("Serving on %s (%s, loaded in %.1f s).  Try:\n\n", url, replicas_device(s->engine),
           (double)(clock_us() - s->load_us) / 1e6);
    say_try(s, url);
    printf("\n");
    fflush(stdout);
    log_msg(LOG_INFO, "ready", "version=%s device=%s", DUETTO_VERSION, replicas_device(s->engine));
}

static void finish(struct server *s, int exit_code)
{
    s->exit_code = exit_code;
    s->drain = DRAIN_DONE;
    uv_stop(&s->loop);
}

static void on_drain(uv_timer_t *t);

/* The engine's state may have changed. */
static void check_engine(struct server *s)
{
    if (s->drain == DRAIN_DONE)
        return; /* all is said */
    enum engine_state state = replicas_state(s->engine);
    if (!s->ready && state == ENGINE_READY) {
        s->ready = true;
        if (isatty(STDOUT_FILENO))
            printf("\r%60s\r", "");
        api_models_ready(s->api);
        metrics_models_ready(&s->metrics);
        uv_timer_stop(&s->timer);
        say_ready(s);
    } else if (state == ENGINE_FAILED) {
        struct err e = {0};
        replicas_failure(s->engine, &e);
        if (!s->ready) {
            fprintf(stderr, "duetto: %s\n", e.msg);
            finish(s, 1);
        } else if (s->drain == DRAIN_NO) {
            http_refuse(s->http);
            s->exit_code = 70;
            s->drain = DRAIN_FLUSH;
            s->drain_us = clock_us();
            uv_timer_start(&s->timer, on_drain, 0, 20);
        }
    }
}

static void on_wake(uv_async_t *a)
{
    struct server *s = a->data;
    check_engine(s);
    if (s->http && s->drain != DRAIN_DONE)
        http_events(s->http);
}

static void wake(void *ctx)
{
    uv_async_send(&((struct server *)ctx)->wake);
}

static void on_progress(uv_timer_t *t)
{
    struct server *s = t->data;
    int done = replicas_progress(s->engine), cells = done * 30 / 1000;
    if (isatty(STDOUT_FILENO)) {
        printf("\rloading [%.*s%*s] %3d %%", cells, "##############################", 30 - cells,
               "", done / 10);
        fflush(stdout);
    }
    check_engine(s);
}

/* ------------------------------------------------------------------ drain */

static void drain_step(struct server *s)
{
    const struct config *c = &s->config;
    int64_t seconds = (clock_us() - s->drain_us) / 1000000;
    bool idle = http_in_flight(s->http) == 0;
    enum drain was = s->drain;
    if (s->drain == DRAIN_SETTLE && seconds >= c->drain_settle_s) {
        http_stop_listening(s->http);
        s->drain = DRAIN_WAIT;
    } else if (s->drain == DRAIN_WAIT && idle) {
        finish(s, s->exit_code);
    } else if (s->drain == DRAIN_WAIT && seconds >= c->drain_grace_s) {
        http_cancel_all(s->http);
        s->drain = DRAIN_FLUSH;
    } else if (s->drain == DRAIN_FLUSH && (idle || seconds >= 2)) {
        finish(s, s->exit_code);
    }
    if (was != s->drain)
        s->drain_us = clock_us();
}

static void on_drain(uv_timer_t *t)
{
    drain_step(t->data);
}

/* First signal: drain (Ctrl-C skips the settling); second: end now. */
static void on_signal(uv_signal_t *signal, int number)
{
    struct server *s = signal->data;
    if (s->drain != DRAIN_NO || !s->ready) {
        finish(s, s->exit_code);
        return;
    }
    log_msg(LOG_INFO, "drain", "%d requests in flight", http_in_flight(s->http));
    http_refuse(s->http);
    s->drain = DRAIN_SETTLE;
    s->drain_us = clock_us();
    if (number == SIGINT) {
        http_stop_listening(s->http);
        s->drain = DRAIN_WAIT;
    }
    uv_timer_start(&s->timer, on_drain, 0, 20);
}

/* ------------------------------------------------------------------ serve */

struct type_name {
    const char *name; /* NULL ends a list */
    enum dtype type;
};

static bool type_of(const char *name, const struct type_name *list, enum dtype *type)
{
    for (; list->name != NULL; list++) {
        if (!strcmp(name, list->name)) {
            *type = list->type;
            return true;
        }
    }
    return false;
}

static bool kv_type_of(const char *name, enum dtype *type)
{
    static const struct type_name names[] = {
        {"f16", DTYPE_F16}, {"f32", DTYPE_F32}, {"q8_0", DTYPE_Q8_0}, {NULL, DTYPE_F32}};
    return type_of(name, names, type);
}

static bool activations_of(const char *name, enum dtype *type)
{
    static const struct type_name names[] = {
        {"f32", DTYPE_F32}, {"f16", DTYPE_F16}, {"bf16", DTYPE_BF16}, {NULL, DTYPE_F32}};
    return type_of(name, names, type);
}

static int open_engine(struct server *s, struct err *e)
{
    const struct config *c = &s->config;
    struct engine_model models[CONFIG_MODELS_MAX];
    for (int i = 0; i < c->n_models; i++)
        models[i] = (struct engine_model){.id = c->models[i].id,
                                          .path = c->models[i].path,
                                          .tokenizer = c->models[i].tokenizer,
                                          .prediction = c->models[i].prediction_type};
    struct engine_options o = {
        .device = c->device,
        .tensor_parallel = (int)c->tensor_parallel,
        .graphs = c->cuda_graphs,
        .blas_rows = (int)c->cuda_blas_rows,
        .n_threads = (int)c->threads,
        .n_models = c->n_models,
        .models = models,
        .n_ctx = (int)c->n_ctx,
        .cache_bytes = (size_t)c->cache_mib << 20,
        .weight_bytes = (size_t)c->weights_mib << 20,
        .preload = !strcmp(c->preload, "all")    ? PRELOAD_ALL
                   : !strcmp(c->preload, "none") ? PRELOAD_NONE
                                                 : PRELOAD_CHAT,
        .max_sequences = (int)c->max_sequences,
        .max_queued_jobs = (int)c->max_queued_jobs,
        .max_queued_tokens = (int)c->max_queued_tokens,
        .prefill_chunk = (int)c->prefill_chunk,
        .max_batch_rows = (int)c->max_batch_rows,
        .draft_tokens = (int)c->draft_tokens,
        .prefix_sharing = c->prefix_sharing,
        .max_images = (int)c->images_at_once,
        .image_rows = (int)c->max_image_rows,
        .image_weight = (double)c->image_weight / 100,
        .vae_bytes = (size_t)c->vae_mib << 20,
        .preview = c->preview_model[0] ? c->preview_model : NULL,
        .safety = !strcmp(c->safety, "off") ? SAFETY_NEVER
                  : c->safety_required      ? SAFETY_REQUIRED
                                            : SAFETY_IF_THERE,
        .lora_dir = c->lora_dir[0] ? c->lora_dir : NULL,
        .grammar_bytes = (size_t)c->grammar_mib << 20,
        .max_loras = (int)c->max_loras,
        .lora_bytes = (size_t)c->lora_mib << 20,
        .wake = wake,
        .wake_ctx = s,
    };
    kv_type_of(c->kv_type, &o.kv_type); /* config.h has the names */
    activations_of(c->cuda_activations, &o.activations);
    return replicas_open(&s->engine, &o, e);
}

/* Only where it is switched on. */
static int open_fetch(struct server *s, struct err *e)
{
    const struct config *c = &s->config;
    const struct fetch_options o = {
        .public_hosts = !strcmp(c->image_urls, "public"),
        .allow = c->image_url_allow,
        .ports = c->image_url_ports,
        .agent = "duetto/" DUETTO_VERSION,
    };
    return strcmp(c->image_urls, "off") ? fetch_open(&s->fetch, &o, e) : 0;
}

static int open_filter(struct server *s, struct err *e)
{
    struct buf text;
    if (!*s->config.text_filter)
        return 0;
    buf_init(&text, FILTER_FILE_MAX);
    int rc = file_read(&text, s->config.text_filter, e);
    if (!rc)
        rc = filter_open(&s->filter, buf_str(&text), text.len, s->config.text_filter, e);
    buf_free(&text);
    return rc;
}

static int open_api(struct server *s, struct err *e)
{
    const struct config *c = &s->config;
    struct api_options o = {
        .max_body_bytes = (size_t)c->max_body_kib * 1024,
        .max_json_depth = (int)c->max_json_depth,
        .max_json_nodes = (int)c->max_json_nodes,
        .max_choices = (int)c->max_choices,
        .max_prompts = (int)c->max_prompts,
        .max_stop_bytes = (int)c->max_stop_bytes,
        .max_messages = (int)c->max_messages,
        .max_grammar_bytes = (size_t)c->max_grammar_kib * 1024,
        .default_max_tokens = (int)c->default_max_tokens,
        .max_answer_bytes = (size_t)c->max_answer_kib * 1024,
        .max_image_bytes = (size_t)c->max_image_kib * 1024,
        .max_image_pixels = c->max_image_pixels,
        .max_images = (int)c->max_images,
        .max_controls = (int)c->max_controls,
        .step_cache = c->step_cache,
        .max_jobs = (int)c->max_jobs,
        .max_jobs_bytes = (size_t)c->max_jobs_mib << 20,
        .job_ttl_s = c->job_ttl_s,
        .max_responses = (int)c->max_responses,
        .max_responses_bytes = (size_t)c->max_responses_mib << 20,
        .response_ttl_s = c->response_ttl_s,
        .strict = c->strict,
        .reasoning = c->reasoning,
        .client_templates = c->client_templates,
        .fetch = s->fetch,
        .filter = s->filter,
        .fetch_timeout_us = c->image_url_timeout_ms * 1000,
        .version = DUETTO_VERSION,
        .engine = s->engine,
    };
    return api_open(&s->api, &o, e);
}

/* Before any model is loaded, so that what is wrong with them is said at once. */
static int read_secrets(struct server *s, struct err *e)
{
    struct config *c = &s->config;
    int rc = config_api_keys(c, &s->keys, e);
    buf_init(&s->tls_cert, PEM_BYTES_MAX);
    buf_init(&s->tls_key, PEM_BYTES_MAX);
    if (!rc && *c->tls_cert_file)
        rc = file_read(&s->tls_cert, c->tls_cert_file, e);
    if (!rc && *c->tls_cert_file)
        rc = file_read(&s->tls_key, c->tls_key_file, e);
    return rc;
}

static int open_http(struct server *s, struct err *e)
{
    const bool tls = *s->config.tls_cert_file;
    const struct http_options o = {
        .loop = &s->loop,
        .config = &s->config,
        .engine = s->engine,
        .api = s->api,
        .metrics = &s->metrics,
        .version = DUETTO_VERSION,
        .keys = s->keys,
        .tls_cert = tls ? buf_str(&s->tls_cert) : NULL,
        .tls_key = tls ? buf_str(&s->tls_key) : NULL,
    };
    return http_open(&s->http, &o, e);
}

/* SIGHUP, of a terminal that closes, drains too; under nohup it stays ignored. */
static int open_signals(struct server *s)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    struct sigaction hup;
    const bool ignored = sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler == SIG_IGN;
    for (int i = 0; i < N_SIGNALS; i++) {
        int rc = uv_signal_init(&s->loop, &s->signals[i]);
        if (rc == 0 && !(numbers[i] == SIGHUP && ignored))
            rc = uv_signal_start(&s->signals[i], on_signal, numbers[i]);
        s->signals[i].data = s;
        if (rc)
            return rc;
    }
    return 0;
}

/* Fails where the system gives no descriptors; nothing is to be closed then, the process ends. */
static int open_loop(struct server *s, struct err *e)
{
    int rc = uv_loop_init(&s->loop);
    if (!rc)
        rc = uv_async_init(&s->loop, &s->wake, on_wake);
    if (!rc)
        rc = uv_timer_init(&s->loop, &s->timer);
    if (!rc)
        rc = open_signals(s);
    s->wake.data = s->timer.data = s;
    return rc ? err_set(e, ERR_IO, "the event loop does not start: %s", uv_strerror(rc)) : 0;
}

static void close_all(struct server *s)
{
    if (s->http)
        http_close(s->http);
    s->http = NULL;
    for (int i = 0; i < N_SIGNALS; i++)
        uv_close((uv_handle_t *)&s->signals[i], NULL);
    uv_close((uv_handle_t *)&s->timer, NULL);
    if (s->engine)
        replicas_close(s->engine); /* after this nobody wakes */
    uv_close((uv_handle_t *)&s->wake, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT); /* closing callbacks, workers that still parse */
    uv_loop_close(&s->loop);
    if (s->api)
        api_close(s->api);
    fetch_close(s->fetch);
    filter_close(s->filter);
    metrics_close(&s->metrics);
    buf_free(&s->tls_cert);
    buf_free(&s->tls_key);
}

static int serve(struct config *config)
{
    static struct server s; /* zero */
    struct err e = {0};
    s.config = *config;
    signal(SIGPIPE, SIG_IGN);
    /* No lists of small freed blocks: who frees a document of a million values pays for it, not the
     * loop when it frees something large later. */
    mallopt(M_MXFAST, 0); /* NOLINT(concurrency-mt-unsafe): before any thread */
    s.load_us = clock_us();
    if (open_loop(&s, &e) || work_open(&s.loop, &e)) {
        fprintf(stderr, "duetto: %s\n", e.msg);
        return 1;
    }
    int rc = s.config.n_models ? 0 : default_models(&s.config, &e);
    if (!rc)
        rc = read_secrets(&s, &e);
    if (!rc)
        rc = open_fetch(&s, &e);
    if (!rc)
        rc = open_filter(&s, &e);
    if (!rc)
        rc = check_lora_dir(&s.config, &e);
    if (!rc)
        rc = open_engine(&s, &e);
    if (!rc) {
        metrics_open(&s.metrics, s.engine, DUETTO_VERSION);
        rc = open_api(&s, &e);
    }
    if (!rc)
        rc = open_http(&s, &e);
    if (rc) {
        fprintf(stderr, "duetto: %s\n", e.msg);
        s.exit_code = 1;
    } else {
        log_msg(LOG_INFO, "listening", "port=%d models=%d", http_port(s.http), s.config.n_models);
        uv_timer_start(&s.timer, on_progress, 0, 100);
        uv_run(&s.loop, UV_RUN_DEFAULT);
        log_msg(LOG_INFO, "stopped", "code=%d", s.exit_code);
    }
    close_all(&s);
    *config = s.config;
    return s.exit_code;
}

/* ------------------------------------------------------------------ bench */

static bool whole_number(const char *s, int min, int max, int *out)
{
    char *end;
    long v = strtol(s, &end, 10);
    if (end == s || (*end && *end != ',') || v < min || v > max)
        return false;
    *out = (int)v;
    return true;
}

/* "1,16" */
static bool batch_list(const char *s, struct bench_options *o)
{
    for (o->n_batches = 0; o->n_batches < BENCH_BATCHES_MAX; s++) {
        if (!whole_number(s, 1, 1024, &o->batches[o->n_batches++]))
            return false;
        s += strcspn(s, ",");
        if (!*s)
            return true;
    }
    return false;
}

static bool bench_flags(int argc, char **argv, struct bench_options *o)
{
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "--json")) {
            o->json = true;
            continue;
        }
        if (!strcmp(argv[i], "--ops")) {
            o->ops = true;
            continue;
        }
        const char *flag = argv[i], *v = argv[i + 1];
        bool ok = v != NULL;
        if (!ok)
            return false;
        if (!strcmp(flag, "-m"))
            o->path = v;
        else if (!strcmp(flag, "--device"))
            o->device = v;
        else if (!strcmp(flag, "--kv_type"))
            ok = kv_type_of(v, &o->kv_type);
        else if (!strcmp(flag, "--cuda_activations"))
            ok = activations_of(v, &o->activations);
        else if (!strcmp(flag, "--cuda_blas_rows"))
            ok = whole_number(v, 0, 1 << 20, &o->blas_rows);
        else if (!strcmp(flag, "-p"))
            ok = whole_number(v, 0, 1 << 20, &o->n_prompt);
        else if (!strcmp(flag, "-n"))
            ok = whole_number(v, 0, 1 << 20, &o->n_generate);
        else if (!strcmp(flag, "-d"))
            ok = whole_number(v, 0, 1 << 20, &o->depth);
        else if (!strcmp(flag, "-t"))
            ok = whole_number(v, 0, 1024, &o->n_threads);
        else if (!strcmp(flag, "--size"))
            ok = whole_number(v, 8, 8192, &o->size);
        else if (!strcmp(flag, "-r"))
            ok = whole_number(v, 1, 1000, &o->repeats);
        else if (!strcmp(flag, "-b"))
            ok = batch_list(v, o);
        else
            ok = false;
        if (!ok)
            return false;
        i++;
    }
    return o->path != NULL;
}

static int bench(int argc, char **argv)
{
    struct bench_options o = bench_defaults;
    if (!bench_flags(argc, argv, &o)) {
        fprintf(stderr, "%s", usage);
        return 2;
    }
    struct err e = {0};
    struct buf text;
    buf_init(&text, 64 * 1024);
    int rc = bench_run(&o, &text, &e);
    if (rc)
        fprintf(stderr, "duetto: %s\n", e.msg);
    fputs(buf_str(&text), stdout);
    buf_free(&text);
    return rc ? 1 : 0;
}

/* ------------------------------------------------------------------ main */

static int print_config(const struct config *c, bool markdown)
{
    struct buf text;
    buf_init(&text, 256 * 1024);
    if (markdown)
        config_markdown(&text);
    else
        config_json(c, &text);
    fputs(buf_str(&text), stdout);
    buf_free(&text);
    return 0;
}

/* Started with a standard descriptor closed, the next thing opened would have its number, and the log be written to
 * a socket or to libuv's pipe for signals. */
static void open_standard(void)
{
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO)
        fd = dup(fd);
    if (fd > STDERR_FILENO)
        close(fd);
}

int main(int argc, char **argv)
{
    open_standard();
    const char *command = argc > 1 ? argv[1] : "";
    if (!strcmp(command, "--help") || !strcmp(command, "-h") || !strcmp(command, "help")) {
        help();
        return 0;
    }
    if (!strcmp(command, "--version")) {
        printf("duetto %s\n", DUETTO_VERSION);
        return 0;
    }
    if (!strcmp(command, "bench"))
        return bench(argc, argv);
    bool markdown = argc > 2 && !strcmp(command, "config") && !strcmp(argv[2], "--markdown");
    bool known =
        !strcmp(command, "serve") || !strcmp(command, "healthcheck") || !strcmp(command, "config");
    if (!known) {
        fprintf(stderr, "%s", usage);
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            help();
            return 0;
        }
    }
    struct config config;
    struct err e = {0};
    int code = 1;
    if (config_load(&config, argc, argv, markdown ? 3 : 2, &e)) {
        fprintf(stderr, "duetto: %s\n", e.msg);
        config_free(&config);
        return 1;
    }
    static const char *const levels[] = {"debug", "info", "warn", "error", "off"};
    int level = 0;
    while (strcmp(config.log_level, levels[level]))
        level++;
    log_init((enum log_level)level, !strcmp(config.log_format, "json"));
    if (!strcmp(command, "serve"))
        code = serve(&config);
    else if (!strcmp(command, "config"))
        code = print_config(&config, markdown);
    else if (healthcheck_run(&config, &e))
        fprintf(stderr, "duetto: %s\n", e.msg);
    else
        code = 0;
    config_free(&config);
    return code;
}
