/* Counters, histograms, and GET /metrics. */
#include "server/metrics.h"

#include <dirent.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/clock.h"

/* OpenTelemetry's GenAI buckets. */
static const double seconds_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16,
                                        0.32,  0.64,   1.28,  2.56, 5.12, 10.2, 40.9, 81.9};
static const double token_bounds[] = {1, 4, 16, 64, 256, 1024, 4096, 16384, 65536};

#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

static void observe(struct histogram *h, double v, uint64_t times)
{
    int i = 0;
    while (i < h->n && v > h->bounds[i])
        i++;
    h->counts[i] += times;
    h->sum += v * (double)times;
}

static void seconds(struct histogram *h)
{
    *h = (struct histogram){.bounds = seconds_bounds, .n = COUNT(seconds_bounds)};
}

static void tokens(struct histogram *h)
{
    *h = (struct histogram){.bounds = token_bounds, .n = COUNT(token_bounds)};
}

void metrics_open(struct metrics *m, struct replicas *g, const char *version)
{
    *m = (struct metrics){.engine = g, .version = version, .start_unix_s = clock_unix_s()};
}

void metrics_close(struct metrics *m)
{
    free(m->models);
    m->models = NULL;
    m->n_models = 0;
}

void metrics_models_ready(struct metrics *m)
{
    m->n_models = replicas_n_models(m->engine);
    m->models = xcalloc((size_t)m->n_models + 1, sizeof(*m->models));
    for (int i = 0; i < m->n_models; i++) {
        struct model_metrics *x = &m->models[i];
        x->card = replicas_card_at(m->engine, i);
        seconds(&x->ttft_s);
        seconds(&x->inter_token_s);
        seconds(&x->e2e_s);
        seconds(&x->queue_s);
        seconds(&x->prefill_s);
        seconds(&x->decode_s);
        tokens(&x->prompt_size);
        tokens(&x->generation_size);
    }
}

static struct model_metrics *find(struct metrics *m, const char *model)
{
    for (int i = 0; model && i < m->n_models; i++)
        if (!strcmp(m->models[i].card->id, model))
            return &m->models[i];
    return NULL;
}

void metrics_request(struct metrics *m, const struct api_call *c, int status, int64_t total_us,
                     bool client_gone)
{
    m->http_responses[client_gone || status < 100 || status > 599 ? 0 : status / 100]++;
    m->texts_flagged += c ? (uint64_t)c->n_flagged : 0;
    struct model_metrics *x = c ? find(m, c->model) : NULL;
    if (!x || !c->job)
        return;
    if (client_gone)
        x->finished_abort++;
    else if (!c->finish)
        x->finished_error++;
    else if (!strcmp(c->finish, "length"))
        x->finished_length++;
    else
        x->finished_stop++;
    x->prompt_tokens += (uint64_t)c->prompt_tokens;
    x->cached_tokens += (uint64_t)c->cached_tokens;
    x->generated_tokens += (uint64_t)c->completion_tokens;
    if (client_gone || !c->finish)
        return;
    observe(&x->e2e_s, (double)total_us / 1e6, 1);
    observe(&x->queue_s, (double)c->queue_us / 1e6, 1);
    observe(&x->prefill_s, (double)c->prefill_us / 1e6, 1);
    observe(&x->decode_s, (double)c->decode_us / 1e6, 1);
    if (c->ttft_us > 0)
        observe(&x->ttft_s, (double)c->ttft_us / 1e6, 1);
    /* The mean of the request's gaps, once for each of them. */
    int per_choice = c->n_choices > 0 ? c->completion_tokens / c->n_choices : 0;
    if (per_choice > 1)
        observe(&x->inter_token_s, (double)c->decode_us / 1e6 / (per_choice - 1),
                (uint64_t)(per_choice - 1) * (uint64_t)c->n_choices);
    observe(&x->prompt_size, c->prompt_tokens, 1);
    observe(&x->generation_size, c->completion_tokens, 1);
}

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void single(struct buf *out, const char *name, const char *type, const char *help, double v)
{
    head(out, name, type, help);
    buf_printf(out, "%s %.15g\n", name, v);
}

/* A label value may hold anything but bare quotes, backslashes and line ends. */
static void label(struct buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            buf_addc(out, '\\');
        if (*s == '\n')
            buf_adds(out, "\\n");
        else
            buf_addc(out, *s);
    }
}

static void model_line(struct buf *out, const char *name, const struct model_metrics *x, double v)
{
    buf_printf(out, "%s{model_name=\"", name);
    label(out, x->card->id);
    buf_printf(out, "\"} %.15g\n", v);
}

static void render_histogram(struct buf *out, const char *name, const struct model_metrics *x,
                             const struct histogram *h)
{
    uint64_t total = 0;
    for (int i = 0; i <= h->n; i++) {
        total += h->counts[i];
        buf_printf(out, "%s_bucket{model_name=\"", name);
        label(out, x->card->id);
        if (i < h->n)
            buf_printf(out, "\",le=\"%g\"} %llu\n", h->bounds[i], (unsigned long long)total);
        else
            buf_printf(out, "\",le=\"+Inf\"} %llu\n", (unsigned long long)total);
    }
    char line[80];
    snprintf(line, sizeof(line), "%s_sum", name);
    model_line(out, line, x, h->sum);
    snprintf(line, sizeof(line), "%s_count", name);
    model_line(out, line, x, (double)total);
}

static void render_engine(const struct metrics *m, struct buf *out)
{
    struct engine_stats s;
    replicas_stats(m->engine, &s);
    const struct {
        const char *name, *type, *help;
        double v;
    } rows[] = {
        {"vllm:num_requests_running", "gauge", "Sequences in the running batch.",
         s.sequences_running},
        {"vllm:num_requests_waiting", "gauge", "Requests waiting for a slot.", s.jobs_waiting},
        {"vllm:kv_cache_usage_perc", "gauge",
         "Share of the key/value cache held by running "
         "sequences, 0 to 1.",
         s.pages_total ? (double)s.pages_used / (double)s.pages_total : 0},
        {"vllm:prefix_cache_queries_total", "counter",
         "Prompt tokens looked up in the prefix cache.", (double)s.prefix_queries},
        {"vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.",
         (double)s.prefix_hits},
        {"vllm:num_preemptions_total", "counter", "Sequences that lost their pages.",
         (double)s.preemptions},
        {"duetto:sequences_max", "gauge", "Sequences that may run at once.", s.sequences_max},
        {"duetto:cache_pages_cached", "gauge", "Pages kept for prefix sharing.",
         (double)s.pages_cached},
        {"duetto:cache_bytes", "gauge", "Bytes that the key/value cache may use.",
         (double)s.cache_bytes},
        {"duetto:engine_steps_total", "counter", "Steps of the engine.", (double)s.steps},
        {"duetto:engine_steps_ahead_total", "counter",
         "Steps that a GPU was given before the tokens of the one before were known.",
         (double)s.steps_ahead},
        {"vllm:spec_decode_num_draft_tokens_total", "counter",
         "Tokens that were guessed and checked.", (double)s.draft_tokens},
        {"vllm:spec_decode_num_accepted_tokens_total", "counter", "Those of them that were right.",
         (double)s.draft_accepted},
        {"duetto:engine_rows_total", "counter", "Token rows of all steps.", (double)s.step_rows},
        {"duetto:images_running", "gauge", "Pictures that are being made.", s.images_running},
        {"duetto:images_held_bytes", "gauge", "Bytes of the cache that pictures and adapters hold.",
         (double)s.held_bytes},
        {"duetto:images_kept_bytes", "gauge",
         "Bytes of prompts and passes kept for the next picture.", (double)s.kept_bytes},
        {"duetto:images_total", "counter", "Pictures made.", (double)s.images},
        {"duetto:images_flagged_total", "counter", "Pictures that a safety checker flagged.",
         (double)s.images_flagged},
        {"duetto:image_steps_total", "counter", "Denoise steps of all pictures.",
         (double)s.image_steps},
        {"duetto:models_loaded", "gauge", "Models whose weights are in memory.",
         (double)s.models_loaded},
        {"duetto:weight_bytes", "gauge", "Bytes of the weights of loaded models.",
         (double)s.weight_bytes},
        {"duetto:weight_budget_bytes", "gauge", "Bytes that weights may take.",
         (double)s.weight_budget_bytes},
        {"duetto:requests_cancelled_total", "counter", "Requests whose client left.",
         (double)s.cancelled},
    };
    for (int i = 0; i < COUNT(rows); i++)
        single(out, rows[i].name, rows[i].type, rows[i].help, rows[i].v);
    head(out, "vllm:cache_config_info", "gauge", "Geometry of the key/value cache.");
    buf_printf(out, "vllm:cache_config_info{block_size=\"%d\",num_gpu_blocks=\"%lld\"} 1\n",
               KV_PAGE_TOKENS, (long long)s.pages_total);
}

/* The same numbers, device by device. */
static void render_devices(const struct metrics *m, struct buf *out)
{
    static const struct {
        const char *name, *type, *help;
    } rows[] = {
        {"duetto:device_up", "gauge", "1 while the device serves."},
        {"duetto:device_requests_running", "gauge", "Sequences and pictures on the device."},
        {"duetto:device_requests_waiting", "gauge", "Requests waiting for the device."},
        {"duetto:device_pages_used", "gauge", "Key/value pages held by running sequences."},
        {"duetto:device_cache_bytes", "gauge", "Bytes that the key/value cache may use."},
        {"duetto:device_weight_bytes", "gauge", "Bytes of the weights of loaded models."},
        {"duetto:device_steps_total", "counter", "Steps of the engine."},
        {"duetto:device_generated_tokens_total", "counter", "Generated tokens."},
    };
    struct engine_stats stats[REPLICAS_MAX];
    const int n = replicas_n(m->engine);
    for (int k = 0; k < n; k++)
        engine_stats(replicas_at(m->engine, k), &stats[k]);
    for (int i = 0; i < COUNT(rows); i++) {
        head(out, rows[i].name, rows[i].type, rows[i].help);
        for (int k = 0; k < n; k++) {
            const struct engine_stats *s = &stats[k];
            const int64_t values[COUNT(rows)] = {
                engine_state(replicas_at(m->engine, k)) == ENGINE_READY,
                s->sequences_running + s->images_running,
                s->jobs_waiting,
                s->pages_used,
                s->cache_bytes,
                s->weight_bytes,
                s->steps,
                s->generated_tokens,
            };
            buf_printf(out, "%s{device=\"", rows[i].name);
            label(out, replicas_device_at(m->engine, k));
            buf_printf(out, "\"} %lld\n", (long long)values[i]);
        }
    }
}

static void render_models(const struct metrics *m, struct buf *out)
{
    const struct {
        const char *name, *help;
        size_t offset;
    } totals[] =
        {
            {"vllm:prompt_tokens_total", "Prompt tokens of completed requests.",
             offsetof(struct model_metrics, prompt_tokens)},
            {"duetto:cached_tokens_total", "Prompt tokens that came from the prefix cache.",
             offsetof(struct model_metrics, cached_tokens)},
            {"vllm:generation_tokens_total", "Generated tokens.",
             offsetof(struct model_metrics, generated_tokens)},
        },
      sizes[] = {
          {"vllm:time_to_first_token_seconds", "From the request to its first token.",
           offsetof(struct model_metrics, ttft_s)},
          {"vllm:inter_token_latency_seconds", "Between tokens of one answer (mean of a request).",
           offsetof(struct model_metrics, inter_token_s)},
          {"vllm:e2e_request_latency_seconds", "From the request to the end of its answer.",
           offsetof(struct model_metrics, e2e_s)},
          {"vllm:request_queue_time_seconds", "Waiting for a slot.",
           offsetof(struct model_metrics, queue_s)},
          {"vllm:request_prefill_time_seconds", "From the slot to the first token.",
           offsetof(struct model_metrics, prefill_s)},
          {"vllm:request_decode_time_seconds", "From the first token to the last.",
           offsetof(struct model_metrics, decode_s)},
          {"vllm:request_prompt_tokens", "Prompt tokens of a request.",
           offsetof(struct model_metrics, prompt_size)},
          {"vllm:request_generation_tokens", "Generated tokens of a request.",
           offsetof(struct model_metrics, generation_size)},
      };
    for (int i = 0; i < COUNT(totals); i++) {
        head(out, totals[i].name, "counter", totals[i].help);
        for (int k = 0; k < m->n_models; k++)
            model_line(out, totals[i].name, &m->models[k],
                       (double)*(const uint64_t *)((const char *)&m->models[k] + totals[i].offset));
    }
    head(out, "duetto:model_loaded", "gauge", "1 while the weights are in memory.");
    for (int k = 0; k < m->n_models; k++)
        model_line(out, "duetto:model_loaded", &m->models[k],
                   replicas_model_state(m->engine, k) == ENGINE_MODEL_LOADED);
    head(out, "duetto:model_loads_total", "counter", "How often the weights were loaded.");
    for (int k = 0; k < m->n_models; k++)
        model_line(out, "duetto:model_loads_total", &m->models[k],
                   (double)replicas_model_loads(m->engine, k));
    head(out, "vllm:request_success_total", "counter", "Requests by how they ended.");
    for (int k = 0; k < m->n_models; k++) {
        const struct model_metrics *x = &m->models[k];
        const struct {
            const char *reason;
            uint64_t n;
        } ends[] = {{"stop", x->finished_stop},
                    {"length", x->finished_length},
                    {"abort", x->finished_abort},
                    {"error", x->finished_error}};
        for (int i = 0; i < COUNT(ends); i++) {
            buf_adds(out, "vllm:request_success_total{model_name=\"");
            label(out, x->card->id);
            buf_printf(out, "\",finished_reason=\"%s\"} %llu\n", ends[i].reason,
                       (unsigned long long)ends[i].n);
        }
    }
    for (int i = 0; i < COUNT(sizes); i++) {
        head(out, sizes[i].name, "histogram", sizes[i].help);
        for (int k = 0; k < m->n_models; k++)
            render_histogram(
                out, sizes[i].name, &m->models[k],
                (const struct histogram *)((const char *)&m->models[k] + sizes[i].offset));
    }
}

static double resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long pages = 0;
    if (f && fscanf(f, "%*d %ld", &pages) != 1) /* NOLINT(cert-err34-c): the kernel's own format */
        pages = 0;
    if (f)
        fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static int open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (d && readdir(d)) /* NOLINT(concurrency-mt-unsafe): this stream is ours alone */
        n++;
    if (d)
        closedir(d);
    return n > 3 ? n - 3 : 0; /* ".", ".." and the directory itself */
}

static void render_process(const struct metrics *m, struct buf *out)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    single(out, "process_cpu_seconds_total", "counter", "User and system CPU time.",
           (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    single(out, "process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes());
    single(out, "process_open_fds", "gauge", "Open file descriptors.", open_fds());
    single(out, "process_start_time_seconds", "gauge", "Start, seconds since 1970.",
           (double)m->start_unix_s);
    single(out, "duetto:texts_flagged_total", "counter",
           "Prompts and answers in which the text filter found something.",
           (double)m->texts_flagged);
    single(out, "duetto:connections", "gauge", "Open client connections.", m->connections);
    head(out, "duetto:http_responses_total", "counter",
         "Responses by class of status; 0xx: the "
         "client left first.");
    for (int i = 0; i < 6; i++)
        buf_printf(out, "duetto:http_responses_total{code=\"%dxx\"} %llu\n", i,
                   (unsigned long long)m->http_responses[i]);
    head(out, "duetto:build_info", "gauge", "Version and device.");
    buf_printf(out, "duetto:build_info{version=\"%s\",device=\"%s\"} 1\n", m->version,
               replicas_device(m->engine));
}

void metrics_render(const struct metrics *m, struct buf *out)
{
    render_engine(m, out);
    render_devices(m, out);
    render_models(m, out);
    render_process(m, out);
}
