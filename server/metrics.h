/* Counters and histograms of the server and their Prometheus text (exposition format 0.0.4).  Names are
 * vLLM's where vLLM has one, so that routers, autoscalers and dashboards made for it work here.
 * Thread: loop.  Nothing here waits for the engine: its numbers are a snapshot of atomics. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H
#include "api/api.h"
#include "base/buf.h"

#define METRICS_BUCKETS 16

struct histogram {
    const double *bounds; /* [n] upper bounds, ascending */
    int n;
    uint64_t counts[METRICS_BUCKETS + 1]; /* not cumulative; the last is +Inf */
    double sum;
};

struct model_metrics {
    const struct model_card *card;
    uint64_t finished_stop, finished_length, finished_abort, finished_error;
    uint64_t prompt_tokens, cached_tokens, generated_tokens;
    struct histogram ttft_s, inter_token_s, e2e_s, queue_s, prefill_s, decode_s;
    struct histogram prompt_size, generation_size;
};

struct metrics {
    const char *version;
    struct replicas *engine;
    int64_t start_unix_s;
    int n_models;
    struct model_metrics *models;
    uint64_t http_responses[6]; /* by first digit of the status; [0]: the client left */
    uint64_t texts_flagged;     /* by the text filter */
    int connections;
};

void metrics_open(struct metrics *m, struct replicas *g, const char *version);
void metrics_close(struct metrics *m);
/* Once the models are loaded. */
void metrics_models_ready(struct metrics *m);
/* One request is over.  client_gone: its client left before the end. */
void metrics_request(struct metrics *m, const struct api_call *c, int status, int64_t total_us,
                     bool client_gone);
void metrics_render(const struct metrics *m, struct buf *out);
#endif
