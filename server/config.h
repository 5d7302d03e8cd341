/* Configuration: one table of options makes the parser of the JSON file, the environment variables
 * (DUETTO_<NAME>), the flags (--name) and the help text.  A flag wins over the environment, the
 * environment over the file, the file over the default.
 * Thread: loop (filled once at start). */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

/* clang-format off */
/* S(name, default, choices or NULL, help)   I(name, default, min, max, help)   B(name, default, help) */
#define CONFIG_TABLE(S, I, B) \
    S(host, "127.0.0.1", NULL, "address to listen on; 0.0.0.0 for all") \
    I(port, 8080, 0, 65535, "TCP port; 0 lets the system choose") \
    S(models_dir, "models/cache", NULL, "where the default models lie: served when no -m is given") \
    S(device, "cpu", NULL, "cpu, a level of it (cpu/scalar, cpu/avx2, cpu/avx512, cpu/avx512vnni), cuda:0, or several GPUs, each with all models: cuda:0,cuda:1") \
    B(cuda_graphs, true, "launch what a GPU computes again and again as CUDA graphs") \
    S(cuda_activations, "f32", "f32 f16 bf16", "f16 or bf16: image models have such halves in a GPU's memory between kernels, and weights of that type are multiplied once; the CPU has f32 always") \
    I(cuda_blas_rows, 0, 0, 1 << 20, "with cuda_activations f16 or bf16: products of so many rows and more go to cuBLASLt, where a token's last bits may differ from those of our own kernels; 0: none do; 128 is a good start") \
    I(tensor_parallel, 1, 1, 8, "GPUs of the list that compute a model together, each a part of it, with NCCL; 1: each all of it") \
    I(threads, 0, 0, 1024, "worker threads of the CPU; 0: one for each core") \
    I(n_ctx, 0, 0, 1 << 20, "positions one sequence may have; 0: what the model was trained for") \
    S(kv_type, "f16", "f16 f32 q8_0", "type of the key/value cache; q8_0 takes half the memory of f16") \
    I(cache_mib, 0, 0, 1 << 22, "memory for the key/value cache and for images in MiB; 0: a quarter of what is free") \
    I(weights_mib, 0, 0, 1 << 22, "memory for the weights of loaded models in MiB; 0: 7/8 of what is free at start") \
    S(preload, "chat", "chat all none", "models loaded at start: the default chat model (else the first), all, none; others when asked for") \
    I(max_sequences, 16, 1, 1024, "sequences that run at once") \
    I(max_queued_jobs, 256, 1, 100000, "requests that may wait; more get 429") \
    I(max_queued_tokens, 1 << 20, 1, 1 << 30, "prompt tokens that may wait; more get 429") \
    I(max_batch_rows, 512, 16, 8192, "token rows of one engine step at most") \
    I(prefill_chunk, 0, 0, 8192, "prompt rows of a step while other sequences decode; 0: on a CPU 128, or what takes 150 ms if that is less, on a GPU what max_batch_rows leaves") \
    I(draft_tokens, 8, 0, 16, "tokens of a sequence that are guessed from its text and checked in one step; the answers are the same; 0: none") \
    B(prefix_sharing, true, "share the cache pages of equal prompt beginnings between requests") \
    I(images_at_once, 4, 1, 64, "pictures of several requests that are made at the same time") \
    I(max_image_rows, 8, 1, 32, "pictures in one pass of an image model at most; guidance makes two of one") \
    I(image_weight, 100, 1, 10000, "percent of a text model's share of the device that an image model gets") \
    S(step_cache, "off", NULL, "what requests for pictures that name no step_cache have, where the model can: off, deepcache:INTERVAL:BRANCH, first_block:THRESHOLD") \
    I(vae_mib, 1024, 64, 1 << 20, "memory of one pass of the image decoder in MiB; larger pictures go through in tiles") \
    S(safety, "block", "block blur flag off", "what becomes of pictures that a model's safety checker flags; off: no checker is loaded") \
    B(safety_required, false, "refuse image models that have no safety checker") \
    S(text_filter, "", NULL, "a list of words and regular expressions that prompts and answers of text models, and prompts for pictures, should not have; empty: none") \
    S(text_filter_action, "block", "block flag", "what becomes of a text in which the list's categories are found; flag: it is told, in the answer and the log") \
    S(preview_model, "", NULL, "a TAESD checkpoint, for partial images; empty: rough ones without it") \
    S(lora_dir, "", NULL, "a directory with adapters of image models (LoRA, textual inversion); empty: none") \
    I(max_loras, 64, 1, 4096, "adapters that are loaded at once") \
    I(lora_mib, 0, 0, 1 << 22, "how much of cache_mib adapters may take, in MiB; 0: half of it") \
    I(default_max_tokens, 0, 0, 1 << 20, "max_tokens of requests that name none; 0: what the context leaves") \
    I(max_body_kib, 1024, 1, 1 << 20, "size of a JSON request in KiB") \
    I(max_json_depth, 64, 4, 500, "nesting of a JSON request") \
    I(max_json_nodes, 65536, 100, 1 << 24, "values in a JSON request") \
    I(max_choices, 16, 1, 1024, "answers of one request (n times prompts)") \
    I(max_prompts, 16, 1, 1024, "prompts of one completions request") \
    I(max_messages, 1024, 1, 100000, "messages of one chat request") \
    I(max_stop_bytes, 256, 1, 4096, "length of one stop string") \
    I(max_grammar_kib, 64, 1, 4096, "size of a regular expression or a GBNF grammar of a request in KiB") \
    I(grammar_mib, 64, 1, 1 << 20, "memory for what is remembered of the forms that answers had, for each text model, in MiB") \
    I(max_answer_kib, 8192, 16, 1 << 20, "size of an answer, and of a stream's unsent part, in KiB") \
    I(max_image_kib, 16384, 16, 1 << 20, "size of an uploaded picture's file in KiB") \
    I(max_image_pixels, 1 << 24, 4096, 1 << 28, "pixels of an uploaded picture, and of all pictures of one request") \
    I(max_images, 10, 1, 16, "pictures of one request") \
    I(max_controls, 4, 0, 8, "ControlNets and T2I-Adapters of one request") \
    I(max_uploads_mib, 256, 1, 1 << 20, "memory for bodies with pictures that are arriving; more get 429") \
    I(max_jobs, 64, 1, 10000, "background jobs that run or are kept; more get 429") \
    I(max_jobs_mib, 256, 1, 1 << 20, "memory for the answers of finished jobs; the oldest go first") \
    I(job_ttl_s, 3600, 1, 1 << 24, "seconds that a finished job is kept") \
    I(max_responses, 1000, 0, 100000, "responses that are kept for GET and previous_response_id; 0: none") \
    I(max_responses_mib, 64, 1, 1 << 20, "memory for them; the oldest go first") \
    I(response_ttl_s, 86400, 1, 1 << 24, "seconds that a response is kept") \
    S(image_urls, "off", "off listed public", "pictures by http(s) URL: refused; from hosts of image_url_allow; from every public address as well") \
    S(image_url_allow, "", NULL, "with commas: hosts (example.org, *.example.org), and networks that are no public addresses (10.0.0.0/8)") \
    S(image_url_ports, "80,443", NULL, "ports that pictures may be fetched from, with commas") \
    I(image_url_timeout_ms, 10000, 100, 300000, "milliseconds for fetching all pictures of a request") \
    I(max_image_urls, 16, 1, 256, "requests whose pictures are being fetched at once; more get 429") \
    B(strict, false, "refuse unknown request fields instead of ignoring them") \
    B(reasoning, true, "tell what a model thinks (<think>) apart, as reasoning_content, unless a request says how") \
    B(client_templates, false, "let requests bring a chat_template of their own") \
    I(max_connections, 1024, 1, 100000, "open connections; more wait in the backlog") \
    I(max_connections_per_ip, 0, 0, 100000, "open connections of one address; 0: no limit of its own") \
    I(header_timeout_s, 10, 1, 3600, "seconds for the first request's headers to arrive") \
    I(body_timeout_s, 10, 1, 3600, "seconds for a body to arrive, one more for every KiB of it, for every 64 KiB beyond a MiB") \
    I(idle_timeout_s, 75, 1, 86400, "seconds a connection may idle between requests") \
    I(write_timeout_s, 30, 1, 3600, "seconds a client may leave an answer unread") \
    I(sse_keepalive_s, 15, 1, 3600, "seconds between keep-alive comments in a silent stream") \
    I(heartbeat_timeout_s, 30, 2, 3600, "seconds without an engine step after which /health says 503") \
    S(api_keys_file, "", NULL, "file with one API key a line; DUETTO_API_KEYS holds them with commas") \
    S(admin_keys_file, "", NULL, "the same for admin keys (DUETTO_ADMIN_KEYS): with any, only they load and unload adapters") \
    B(metrics_public, true, "answer /metrics without an API key") \
    S(cors_origins, "", NULL, "origins that browsers may call from, with commas, or *; empty: none") \
    S(tls_cert_file, "", NULL, "certificate chain (PEM); with tls_key_file the server speaks HTTPS") \
    S(tls_key_file, "", NULL, "private key (PEM)") \
    I(drain_settle_s, 1, 0, 600, "seconds to answer 503 on SIGTERM before the port closes") \
    I(drain_grace_s, 60, 0, 86400, "seconds that running requests get to finish on SIGTERM") \
    S(log_level, "info", "debug info warn error off", "least severe event that is logged") \
    S(log_format, "text", "text json", "text for people, json for machines") \
    B(log_requests, true, "log one line for each request")

#define CONFIG_MODELS_MAX 64

struct config_model {
    const char *id, *path;
    const char *tokenizer, *prediction_type; /* of image models in one file; NULL: as the files say */
};

struct config {
#define S(name, ...) const char *name;
#define I(name, ...) int64_t name;
#define B(name, ...) bool name;
    CONFIG_TABLE(S, I, B)
#undef S
#undef I
#undef B
    int n_models;
    struct config_model models[CONFIG_MODELS_MAX]; /* -m, or "models" in the file */
    struct arena arena;                            /* owns every string */
};
/* clang-format on */

/* Fills c from defaults, the -c file, environ and the flags in argv[first...].  ERR_INVALID names the
 * option and where it came from. */
int config_load(struct config *c, int argc, char **argv, int first, struct err *e);
void config_free(struct config *c);
/* One more model, as -m adds it; `from` begins the sentence of an error. */
int config_add_model(struct config *c, const char *id, size_t id_len, const char *path,
                     const char *from, struct err *e);

/* The option list of --help, and configs/default.json / docs/CONFIG.md's tables: one text. */
void config_help(struct buf *out);
void config_json(const struct config *c, struct buf *out);
void config_markdown(struct buf *out);

/* DUETTO_API_KEYS and api_keys_file, DUETTO_ADMIN_KEYS and admin_keys_file, in c's arena: "KEY", or "KEY
 * safety=flag text_filter=flag".  Without API keys everybody may call; without admin keys whoever may call is one. */
struct config_keys {
    int n, n_api;      /* API keys, then admin keys */
    const char **keys; /* [n] */
    /* [n] choices of the options safety and text_filter_action; those of the options where the key says nothing */
    const char **safety, **text_filter;
};
int config_api_keys(struct config *c, struct config_keys *keys, struct err *e);
#endif
