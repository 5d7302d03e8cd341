/* Request fields that chat and completions share. */
#include "api/params.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/format.h"
#include "base/json.h"
#include "base/rng.h"

enum { LOGIT_BIAS_MAX = 4096 };

#define MAX_INT32 2147483647.0
#define MAX_EXACT 9007199254740992.0 /* 2^53, what a JSON number holds exactly */
#define AT(field) offsetof(struct params, field)

#define STOP_SCHEMA                                                          \
    "{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"maxItems\":16," \
    "\"items\":{\"type\":\"string\",\"minLength\":1}},{\"type\":\"null\"}]}"
#define BIAS_SCHEMA                                                                           \
    "{\"oneOf\":[{\"type\":\"object\",\"additionalProperties\":{\"type\":\"number\","         \
    "\"minimum\":-100,\"maximum\":100}},{\"type\":\"array\",\"items\":{\"type\":\"array\"}}," \
    "{\"type\":\"null\"}]}"
#define MESSAGES_SCHEMA                                                                          \
    "{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"object\",\"required\":[\"role\"]," \
    "\"properties\":{\"role\":{\"enum\":[\"system\",\"developer\",\"user\",\"assistant\","       \
    "\"tool\",\"function\"]},\"content\":{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"null\"}," \
    "{\"type\":\"array\",\"items\":{\"type\":\"object\",\"required\":[\"type\"],"                \
    "\"properties\":{\"type\":{\"enum\":[\"text\",\"image_url\"]},\"text\":{\"type\":"           \
    "\"string\"},\"image_url\":{\"type\":\"object\",\"properties\":{\"url\":{\"type\":"          \
    "\"string\"}}}}}}]}}}}"
#define PROMPT_SCHEMA                                                                             \
    "{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"minItems\":1,\"items\":{\"oneOf\":[" \
    "{\"type\":\"string\"},{\"type\":\"integer\"},{\"type\":\"array\","                           \
    "\"items\":{\"type\":\"integer\"}}]}}]}"
#define IMAGE_SCHEMA                                          \
    "{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"object\"," \
    "\"properties\":{\"image_url\":{},\"b64_json\":{\"type\":\"string\"}}}]}"
#define FORMAT_SCHEMA                                                                      \
    "{\"type\":[\"object\",\"null\"],\"properties\":{\"type\":{\"enum\":[\"text\",\"json_" \
    "object\","                                                                            \
    "\"json_schema\"]},\"json_schema\":{\"type\":\"object\",\"required\":[\"schema\"],"    \
    "\"properties\":{\"name\":{\"type\":\"string\"},\"schema\":{\"type\":\"object\"}}}}}"
#define INPUT_SCHEMA                                                                \
    "{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"items\":{\"type\":"    \
    "\"object\",\"properties\":{\"type\":{\"enum\":[\"message\",\"function_call\"," \
    "\"function_call_output\",\"reasoning\"]}}}}]}"
#define PREDICTION_SCHEMA                                                                        \
    "{\"type\":[\"object\",\"null\"],\"required\":[\"type\",\"content\"],\"properties\":{"       \
    "\"type\":"                                                                                  \
    "{\"const\":\"content\"},\"content\":{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"array\"," \
    "\"items\":{\"type\":\"object\"}}]}}}"
#define THINKING_SCHEMA                                                                \
    "{\"type\":[\"object\",\"null\"],\"properties\":{"                                 \
    "\"type\":{\"type\":\"string\",\"enum\":[\"enabled\",\"adaptive\",\"disabled\"]}," \
    "\"display\":{\"type\":\"string\",\"enum\":[\"summarized\",\"omitted\"]},"         \
    "\"budget_tokens\":{\"type\":\"integer\"}}}"
#define STREAM_OPTIONS_SCHEMA \
    "{\"type\":[\"object\",\"null\"],\"properties\":{\"include_usage\":{\"type\":\"boolean\"}}}"

const struct param params_table[] = {
    {"model", PARAM_OTHER, PARAM_ANY, 0, 0, 0, "{\"type\":[\"string\",\"null\"]}",
     "which model; the first one when absent"},
    {"messages", PARAM_OTHER, PARAM_CHAT, 0, 0, 0, MESSAGES_SCHEMA, "the conversation (required)"},
    {"prompt", PARAM_OTHER, PARAM_COMPLETIONS, 0, 0, 0, PROMPT_SCHEMA,
     "text, list of texts, token ids, or list of lists of token ids (required)"},
    {"image", PARAM_OTHER, PARAM_CAPTIONS, 0, 0, 0, IMAGE_SCHEMA,
     "the picture as base64 or data: URL (required)"},
    {"prompt", PARAM_TEXT, PARAM_CAPTIONS, 0, 0, AT(prompt), NULL,
     "what the caption begins with, the question, or the text to hold against the picture"},
    {"mode", PARAM_CHOICE, PARAM_CAPTIONS, 0, 0, AT(mode), "caption vqa itm",
     "what kind of model it takes; absent: whatever the model does"},
    {"num_beams", PARAM_INT, PARAM_CAPTIONS, 1, JOB_BEAMS_MAX, AT(num_beams), NULL,
     "texts that a beam search follows; 1: no search"},
    {"length_penalty", PARAM_NUM, PARAM_CAPTIONS, -10, 10, AT(length_penalty), NULL,
     "of a beam search: above 0 favours long texts"},
    {"stream", PARAM_BOOL, PARAM_ANY, 0, 0, AT(stream), NULL, "answer as server-sent events"},
    {"stream_options", PARAM_OTHER, PARAM_ALL, 0, 0, 0, STREAM_OPTIONS_SCHEMA,
     "include_usage: a last chunk with the usage"},
    {"max_tokens", PARAM_INT, PARAM_ALL, 0, MAX_INT32, AT(max_tokens), NULL,
     "tokens of a choice at most; the context bounds it as well"},
    {"max_completion_tokens", PARAM_INT, PARAM_BOTH, 0, MAX_INT32, AT(max_tokens), NULL,
     "the same as max_tokens, and goes first"},
    {"n", PARAM_INT, PARAM_ALL, 1, 128, AT(n), NULL, "choices for each prompt"},
    {"best_of", PARAM_INT, PARAM_COMPLETIONS, 1, 128, AT(best_of), NULL, "must be equal to n"},
    {"temperature", PARAM_NUM, PARAM_ANY, 0, 2, AT(temperature), NULL,
     "0: always the most probable token"},
    {"top_p", PARAM_NUM, PARAM_ANY, 0, 1, AT(top_p), NULL,
     "sample from the most probable tokens that sum to top_p"},
    {"top_k", PARAM_INT, PARAM_ANY, -1, MAX_INT32, AT(top_k), NULL,
     "sample from the k most probable tokens; 0 or -1: off"},
    {"min_p", PARAM_NUM, PARAM_ANY, 0, 1, AT(min_p), NULL,
     "drop tokens below min_p times the best probability"},
    {"typical_p", PARAM_NUM, PARAM_TEXTS, 0, 1, AT(typical_p), NULL,
     "locally typical sampling; 1: off"},
    {"presence_penalty", PARAM_NUM, PARAM_TEXTS, -2, 2, AT(presence_penalty), NULL,
     "subtracted once from the logit of a token that came before"},
    {"frequency_penalty", PARAM_NUM, PARAM_TEXTS, -2, 2, AT(frequency_penalty), NULL,
     "subtracted for each time a token came before"},
    {"repetition_penalty", PARAM_NUM, PARAM_TEXTS, 0.01, 10, AT(repetition_penalty), NULL,
     "divides the logit of a token that came before; 1: off"},
    {"repeat_penalty", PARAM_NUM, PARAM_TEXTS, 0.01, 10, AT(repetition_penalty), NULL,
     "the same as repetition_penalty"},
    {"repeat_last_n", PARAM_INT, PARAM_TEXTS, -1, MAX_INT32, AT(repeat_last_n), NULL,
     "tokens that the penalties look back on; -1: all"},
    {"logit_bias", PARAM_OTHER, PARAM_TEXTS, 0, 0, 0, BIAS_SCHEMA,
     "token id -> added to its logit; -100 bans it"},
    {"logprobs", PARAM_BOOL, PARAM_CHAT, 0, 0, AT(chat_logprobs), NULL,
     "give the log probability of each token"},
    {"top_logprobs", PARAM_INT, PARAM_CHAT, 0, JOB_TOP_LOGPROBS, AT(top_logprobs), NULL,
     "alternatives to report for each token; needs logprobs"},
    {"logprobs", PARAM_INT, PARAM_COMPLETIONS, 0, JOB_TOP_LOGPROBS, AT(logprobs), NULL,
     "log probabilities, and that many alternatives"},
    {"echo", PARAM_BOOL, PARAM_COMPLETIONS, 0, 0, AT(echo), NULL,
     "give the prompt back in front of the text"},
    {"stop", PARAM_OTHER, PARAM_ANY, 0, 0, 0, STOP_SCHEMA, "texts that end the answer, at most 16"},
    {"include_stop_str_in_output", PARAM_BOOL, PARAM_TEXTS, 0, 0, AT(include_stop), NULL,
     "keep the stop text in the answer"},
    {"seed", PARAM_INT, PARAM_ANY, -MAX_EXACT, MAX_EXACT, AT(seed), NULL,
     "the same seed and request give the same answer; -1: random"},
    {"ignore_eos", PARAM_BOOL, PARAM_TEXTS, 0, 0, AT(ignore_eos), NULL,
     "go on after the end-of-text token"},
    {"skip_special_tokens", PARAM_BOOL, PARAM_TEXTS, 0, 0, AT(skip_special), NULL,
     "leave control tokens out of the text (default)"},
    {"add_special_tokens", PARAM_BOOL, PARAM_COMPLETIONS, 0, 0, AT(add_special), NULL,
     "put the BOS token that the model wants before a text prompt (default)"},
    {"cache_prompt", PARAM_BOOL, PARAM_TEXTS, 0, 0, AT(cache_prompt), NULL,
     "false: neither use nor leave shared prompt pages"},
    {"timings", PARAM_BOOL, PARAM_ALL, 0, 0, AT(timings), NULL,
     "add a timings object as llama-server has it"},
    {"timings_per_token", PARAM_BOOL, PARAM_BOTH, 0, 0, AT(timings_alias), NULL,
     "the same as timings"},
    {"response_format", PARAM_OTHER, PARAM_BOTH, 0, 0, 0, FORMAT_SCHEMA,
     "the form of the answer: text, json_object, or json_schema with a schema"},
    {"json_schema", PARAM_OTHER, PARAM_TEXTS, 0, 0, 0,
     "{\"type\":[\"object\",\"string\",\"null\"]}", "the answer is JSON that this schema allows"},
    {"guided_json", PARAM_OTHER, PARAM_TEXTS, 0, 0, 0,
     "{\"type\":[\"object\",\"string\",\"null\"]}", "the same as json_schema"},
    {"guided_choice", PARAM_OTHER, PARAM_TEXTS, 0, 0, 0,
     "{\"type\":[\"array\",\"null\"],\"items\":{\"type\":\"string\"}}",
     "the answer is one of these texts"},
    {"guided_regex", PARAM_OTHER, PARAM_TEXTS, 0, 0, 0, "{\"type\":[\"string\",\"null\"]}",
     "the answer is what this regular expression matches"},
    {"guided_grammar", PARAM_OTHER, PARAM_TEXTS, 0, 0, 0, "{\"type\":[\"string\",\"null\"]}",
     "the same as grammar"},
    {"grammar", PARAM_OTHER, PARAM_TEXTS, 0, 0, 0, "{\"type\":[\"string\",\"null\"]}",
     "the answer is what root of this GBNF grammar makes"},
    {"structured_outputs", PARAM_OTHER, PARAM_TEXTS, 0, 0, 0, "{\"type\":[\"object\",\"null\"]}",
     "json, json_object, choice, regex or grammar, as vLLM has it"},
    {"tools", PARAM_OTHER, PARAM_CHAT, 0, 0, 0,
     "{\"type\":[\"array\",\"null\"],\"items\":{\"type\":\"object\"}}",
     "functions that the model may call"},
    {"tool_choice", PARAM_OTHER, PARAM_CHAT, 0, 0, 0, "{\"type\":[\"string\",\"object\",\"null\"]}",
     "none, auto, required, or the function that is to be called"},
    {"parallel_tool_calls", PARAM_OTHER, PARAM_TALK, 0, 0, 0, "{\"type\":[\"boolean\",\"null\"]}",
     "an answer may call several functions (default)"},
    {"add_generation_prompt", PARAM_BOOL, PARAM_CHAT, 0, 0, AT(add_generation_prompt), NULL,
     "open an assistant turn after the messages (default)"},
    {"continue_final_message", PARAM_BOOL, PARAM_CHAT, 0, 0, AT(continue_final), NULL,
     "go on writing the last message, which must be the assistant's"},
    {"chat_template_kwargs", PARAM_OTHER, PARAM_TALK, 0, 0, 0, "{\"type\":[\"object\",\"null\"]}",
     "variables for the chat template"},
    {"chat_template", PARAM_OTHER, PARAM_TALK, 0, 0, 0, "{\"type\":[\"string\",\"null\"]}",
     "a template instead of the model's, where the server allows it"},
    {"user", PARAM_STR, PARAM_ANY, 0, 0, 0, NULL, "has no effect"},
    {"metadata", PARAM_IGNORED, PARAM_BOTH, 0, 0, 0, NULL, "has no effect"},
    {"store", PARAM_IGNORED, PARAM_TEXTS, 0, 0, 0, NULL, "has no effect"},
    {"service_tier", PARAM_IGNORED, PARAM_TEXTS, 0, 0, 0, NULL, "has no effect"},
    {"prompt_cache_key", PARAM_IGNORED, PARAM_TEXTS, 0, 0, 0, NULL, "has no effect"},
    {"prompt_cache_retention", PARAM_IGNORED, PARAM_TEXTS, 0, 0, 0, NULL, "has no effect"},
    {"safety_identifier", PARAM_IGNORED, PARAM_TEXTS, 0, 0, 0, NULL, "has no effect"},
    {"reasoning_format", PARAM_CHOICE, PARAM_CHAT, 0, 0, AT(reasoning), "none auto deepseek",
     "none: what a model thinks stays in the text; else it is reasoning_content"},
    {"include_reasoning", PARAM_BOOL, PARAM_CHAT, 0, 0, AT(include_reasoning), NULL,
     "false: leave out what the model thinks"},
    {"reasoning_effort", PARAM_IGNORED, PARAM_CHAT, 0, 0, 0, NULL, "has no effect"},
    {"verbosity", PARAM_IGNORED, PARAM_CHAT, 0, 0, 0, NULL, "has no effect"},
    {"prediction", PARAM_OTHER, PARAM_CHAT, 0, 0, 0, PREDICTION_SCHEMA,
     "a text that the answer is expected to follow: it is made faster where it does"},
    {"modalities", PARAM_OTHER, PARAM_CHAT, 0, 0, 0,
     "{\"type\":[\"array\",\"null\"],\"items\":{\"const\":\"text\"}}", "only [\"text\"]"},
    {"suffix", PARAM_REFUSED, PARAM_COMPLETIONS, 0, 0, 0, NULL,
     "text after the gap is not supported"},
    {"audio", PARAM_REFUSED, PARAM_CHAT, 0, 0, 0, NULL, "this model gives no audio"},
    {"functions", PARAM_REFUSED, PARAM_CHAT, 0, 0, 0, NULL, "use tools instead"},
    {"function_call", PARAM_REFUSED, PARAM_CHAT, 0, 0, 0, NULL, "use tool_choice instead"},
    {"use_beam_search", PARAM_REFUSED, PARAM_TEXTS, 0, 0, 0, NULL, "beam search is not supported"},
    {"input", PARAM_OTHER, PARAM_RESPONSES, 0, 0, 0, INPUT_SCHEMA,
     "a text, or a list of messages, calls and their outputs (required)"},
    {"instructions", PARAM_STR, PARAM_RESPONSES, 0, 0, 0, NULL, "a system message in front of it"},
    {"previous_response_id", PARAM_STR, PARAM_RESPONSES, 0, 0, 0, NULL,
     "the response that this one goes on from"},
    {"max_output_tokens", PARAM_INT, PARAM_RESPONSES, 1, MAX_INT32, AT(max_tokens), NULL,
     "tokens of the answer at most; the context bounds it as well"},
    {"top_logprobs", PARAM_INT, PARAM_RESPONSES, 0, JOB_TOP_LOGPROBS, AT(top_logprobs), NULL,
     "alternatives to report for each token"},
    {"include", PARAM_OTHER, PARAM_RESPONSES, 0, 0, 0,
     "{\"type\":[\"array\",\"null\"],\"items\":{\"type\":\"string\"}}",
     "message.output_text.logprobs"},
    {"text", PARAM_OTHER, PARAM_RESPONSES, 0, 0, 0, "{\"type\":[\"object\",\"null\"]}",
     "format: text, json_object, or json_schema with a schema"},
    {"tools", PARAM_OTHER, PARAM_RESPONSES, 0, 0, 0,
     "{\"type\":[\"array\",\"null\"],\"items\":{\"type\":\"object\"}}",
     "functions that the model may call"},
    {"tool_choice", PARAM_OTHER, PARAM_RESPONSES, 0, 0, 0,
     "{\"type\":[\"string\",\"object\",\"null\"]}",
     "none, auto, required, or the function that is to be called"},
    {"truncation", PARAM_CHOICE, PARAM_RESPONSES, 0, 0, AT(truncation), "disabled auto",
     "auto: what does not fit is cut off at the beginning of the conversation"},
    {"metadata", PARAM_OTHER, PARAM_RESPONSES, 0, 0, 0,
     "{\"type\":[\"object\",\"null\"],\"additionalProperties\":{\"type\":\"string\"}}",
     "given back with the response"},
    {"stream_options", PARAM_IGNORED, PARAM_RESPONSES, 0, 0, 0, NULL, "has no effect"},
    {"reasoning", PARAM_IGNORED, PARAM_RESPONSES, 0, 0, 0, NULL, "has no effect"},
    {"max_tool_calls", PARAM_IGNORED, PARAM_RESPONSES, 0, 0, 0, NULL,
     "has no effect: it is of tools that the server calls"},
    {"image", PARAM_IGNORED, PARAM_RESPONSES, 0, 0, 0, NULL,
     "has no effect: it is of a tool that makes pictures"},
    {"background_options", PARAM_IGNORED, PARAM_RESPONSES, 0, 0, 0, NULL, "has no effect"},
    {"background", PARAM_REFUSED, PARAM_RESPONSES, 0, 0, 0, NULL, "use stream instead"},
    {"conversation", PARAM_REFUSED, PARAM_RESPONSES, 0, 0, 0, NULL,
     "use previous_response_id instead"},
    {"prompt", PARAM_REFUSED, PARAM_RESPONSES, 0, 0, 0, NULL, "this server has no stored prompts"},
    {"context_management", PARAM_REFUSED, PARAM_RESPONSES, 0, 0, 0, NULL, "use truncation instead"},
    {"access_programs", PARAM_REFUSED, PARAM_RESPONSES, 0, 0, 0, NULL, "this server has none"},
    {"moderation", PARAM_REFUSED, PARAM_TALK, 0, 0, 0, NULL, "this server moderates no texts"},
    {"web_search_options", PARAM_REFUSED, PARAM_CHAT, 0, 0, 0, NULL,
     "this server searches nothing"},
    {"prompt_cache_options", PARAM_IGNORED, PARAM_TALK, 0, 0, 0, NULL, "has no effect"},
    {"messages", PARAM_OTHER, PARAM_MESSAGES, 0, 0, 0,
     "{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"object\"}}",
     "the conversation (required)"},
    {"system", PARAM_OTHER, PARAM_MESSAGES, 0, 0, 0, "{\"type\":[\"string\",\"array\",\"null\"]}",
     "a system message in front of it"},
    {"max_tokens", PARAM_INT, PARAM_MESSAGES, 1, MAX_INT32, AT(max_tokens), NULL,
     "tokens of the answer at most; the context bounds it as well"},
    {"stop_sequences", PARAM_OTHER, PARAM_MESSAGES, 0, 0, 0, STOP_SCHEMA,
     "texts that end the answer, at most 16"},
    {"tools", PARAM_OTHER, PARAM_MESSAGES, 0, 0, 0,
     "{\"type\":[\"array\",\"null\"],\"items\":{\"type\":\"object\"}}",
     "functions that the model may call"},
    {"tool_choice", PARAM_OTHER, PARAM_MESSAGES, 0, 0, 0, "{\"type\":[\"object\",\"null\"]}",
     "auto, any, none, or the tool that is to be used"},
    {"output_config", PARAM_OTHER, PARAM_MESSAGES, 0, 0, 0, "{\"type\":[\"object\",\"null\"]}",
     "format: json_schema with a schema"},
    {"output_format", PARAM_OTHER, PARAM_MESSAGES, 0, 0, 0, "{\"type\":[\"object\",\"null\"]}",
     "the same as output_config.format"},
    {"metadata", PARAM_IGNORED, PARAM_MESSAGES, 0, 0, 0, NULL, "has no effect"},
    {"thinking", PARAM_OTHER, PARAM_MESSAGES, 0, 0, 0, THINKING_SCHEMA,
     "enabled or adaptive: what the model thinks is a block of the answer; disabled: "
     "enable_thinking is "
     "false for its template"},
    {"cache_control", PARAM_IGNORED, PARAM_MESSAGES, 0, 0, 0, NULL, "has no effect"},
    {"speed", PARAM_IGNORED, PARAM_MESSAGES, 0, 0, 0, NULL, "has no effect"},
    {"diagnostics", PARAM_IGNORED, PARAM_MESSAGES, 0, 0, 0, NULL, "has no effect"},
    {"inference_geo", PARAM_IGNORED, PARAM_MESSAGES, 0, 0, 0, NULL, "has no effect"},
    {"user_profile_id", PARAM_IGNORED, PARAM_MESSAGES, 0, 0, 0, NULL, "has no effect"},
    {"workspace_id", PARAM_IGNORED, PARAM_MESSAGES, 0, 0, 0, NULL, "has no effect"},
    {"context_management", PARAM_IGNORED, PARAM_MESSAGES, 0, 0, 0, NULL, "has no effect"},
    {"container", PARAM_REFUSED, PARAM_MESSAGES, 0, 0, 0, NULL, "this server runs no tools"},
    {"mcp_servers", PARAM_REFUSED, PARAM_MESSAGES, 0, 0, 0, NULL, "this server runs no tools"},
};
const int params_n = (int)(sizeof params_table / sizeof *params_table);

static const struct params defaults = {
    .skip_special = true,
    .add_special = true,
    .cache_prompt = true,
    .add_generation_prompt = true,
    .n = 1,
    .best_of = -1,
    .max_tokens = -1,
    .top_logprobs = -1,
    .logprobs = -1,
    .repeat_last_n = -1,
    .mode = -1,
    .reasoning = -1,
    .num_beams = 1,
    .include_reasoning = true,
    .length_penalty = 1,
    .temperature = 1,
    .top_p = 1,
    .typical_p = 1,
    .repetition_penalty = 1,
};

/* null, false, 0, "", [] and {} ask for nothing. */
static bool asks_nothing(const struct cJSON *v)
{
    switch (json_type(v)) {
    case JSON_NULL:
        return true;
    case JSON_BOOL:
        return !json_bool(v);
    case JSON_NUMBER:
        return json_num(v) == 0;
    case JSON_STRING:
        return json_str(v)[0] == '\0';
    default:
        return json_size(v) == 0;
    }
}

/* Which of the words the text is; -1: none. */
static int choice_of(const char *words, const char *text)
{
    size_t len = strlen(text);
    for (int i = 0; *words != '\0'; i++) {
        size_t n = strcspn(words, " ");
        if (n == len && memcmp(words, text, n) == 0)
            return i;
        words += n + strspn(words + n, " ");
    }
    return -1;
}

static int read_choice(const struct cJSON *body, const struct param *r, int *at, struct err *e)
{
    const char *text = NULL;
    int err = json_get_str(body, r->name, &text, e);
    if (err != 0 || text == NULL)
        return err;
    int i = choice_of(r->schema, text);
    if (i < 0) {
        err_set(e, ERR_INVALID, "%s must be one of: %s; not '%.40s'", r->name, r->schema, text);
        return err_param(e, "%s", r->name);
    }
    *at = i;
    return 0;
}

struct param params_limited(const struct param *row, int most)
{
    struct param r = *row;
    if ((strcmp(r.name, "n") == 0 || strcmp(r.name, "best_of") == 0) && most < r.max)
        r.max = most;
    return r;
}

int params_row(const struct cJSON *body, const struct param *r, void *p, struct err *e)
{
    void *at = (char *)p + r->offset;
    const char *text = NULL;
    switch (r->kind) {
    case PARAM_BOOL:
        return json_get_bool(body, r->name, at, e);
    case PARAM_INT:
        return json_get_int(body, r->name, at, (int64_t)r->min, (int64_t)r->max, e);
    case PARAM_NUM:
        return json_get_float(body, r->name, at, r->min, r->max, e);
    case PARAM_STR:
        return json_get_str(body, r->name, &text, e);
    case PARAM_TEXT:
        return json_get_str(body, r->name, at, e);
    case PARAM_CHOICE:
        return read_choice(body, r, at, e);
    case PARAM_REFUSED:
        if (asks_nothing(json_get(body, r->name)))
            return 0;
        err_set(e, ERR_UNSUPPORTED, "%s is not supported: %s", r->name, r->help);
        return err_param(e, "%s", r->name);
    case PARAM_OTHER:
    case PARAM_IGNORED:
        break;
    }
    return 0;
}

int params_check_unknown(const struct cJSON *body, unsigned where, const struct param *table, int n,
                         struct err *e)
{
    for (const struct cJSON *v = json_first(body); v != NULL; v = json_next(v)) {
        bool known = false;
        for (int i = 0; i < n && !known; i++)
            known = (table[i].where & where) && strcmp(table[i].name, json_key(v)) == 0;
        if (!known) {
            err_set(e, ERR_INVALID, "unknown field %.60s; /openapi.json lists what there is",
                    json_key(v));
            err_reason(e, "unknown_parameter");
            return err_param(e, "%.60s", json_key(v));
        }
    }
    return 0;
}

static int parse_stream_options(const struct cJSON *body, struct params *p, struct err *e)
{
    const struct cJSON *v = json_get(body, "stream_options");
    if (json_type(v) == JSON_NULL)
        return 0;
    if (json_type(v) != JSON_OBJECT) {
        err_set(e, ERR_INVALID, "stream_options must be an object, not %s",
                json_type_name(json_type(v)));
        return err_param(e, "stream_options");
    }
    if (!p->stream) {
        err_set(e, ERR_INVALID, "stream_options is only allowed when stream is true");
        return err_param(e, "stream_options");
    }
    if (json_get_bool(v, "include_usage", &p->include_usage, e) != 0)
        return err_param(e, "stream_options.include_usage");
    return 0;
}

static int add_stop(const struct cJSON *v, const char *param, const struct params_limits *lim,
                    struct arena *arena, struct text_spec *spec, const char **list, struct err *e)
{
    const char *s = json_str(v);
    if (s == NULL) {
        err_set(e, ERR_INVALID, "%s must be a string, not %s", param, json_type_name(json_type(v)));
        return err_param(e, "%s", param);
    }
    if (s[0] == '\0' || strlen(s) > (size_t)lim->max_stop_bytes) {
        err_set(e, ERR_INVALID, "%s must have 1 to %d bytes, got %zu", param, lim->max_stop_bytes,
                strlen(s));
        return err_param(e, "%s", param);
    }
    list[spec->n_stop] = arena_strdup(arena, s);
    if (list[spec->n_stop] == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    spec->n_stop++;
    return 0;
}

static int parse_stop(const struct cJSON *body, const struct params_limits *lim,
                      struct arena *arena, struct text_spec *spec, struct err *e)
{
    const struct cJSON *v = json_get(body, "stop");
    enum json_type t = json_type(v);
    if (t == JSON_NULL)
        return 0;
    if (t != JSON_STRING && t != JSON_ARRAY) {
        err_set(e, ERR_INVALID, "stop must be a string or a list of strings, not %s",
                json_type_name(t));
        return err_param(e, "stop");
    }
    if (t == JSON_ARRAY && json_size(v) > JOB_STOP_MAX) {
        err_set(e, ERR_INVALID, "stop must have at most %d strings, got %d", JOB_STOP_MAX,
                json_size(v));
        return err_param(e, "stop");
    }
    const char **list = arena_array(arena, JOB_STOP_MAX, sizeof *list);
    if (list == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    spec->stop = list;
    if (t == JSON_STRING)
        return add_stop(v, "stop", lim, arena, spec, list, e);
    int i = 0;
    for (const struct cJSON *s = json_first(v); s != NULL; s = json_next(s), i++) {
        char param[32];
        snprintf(param, sizeof param, "stop[%d]", i);
        int err = add_stop(s, param, lim, arena, spec, list, e);
        if (err != 0)
            return err;
    }
    return 0;
}

/* "15" and nothing else: no sign, no space, no fraction. */
static int64_t parse_id(const char *s)
{
    int64_t id = 0;
    for (size_t i = 0; s[i] != '\0'; i++) {
        if (s[i] < '0' || s[i] > '9' || i > 9)
            return -1;
        id = id * 10 + (s[i] - '0');
    }
    return s[0] != '\0' ? id : -1;
}

static int bad_bias(struct err *e, const char *what)
{
    err_set(e, ERR_INVALID, "logit_bias must map token ids to numbers from -100 to 100: %s", what);
    return err_param(e, "logit_bias");
}

static int add_bias(int64_t id, const struct cJSON *value, const struct params_limits *lim,
                    struct logit_bias *b, struct err *e)
{
    bool ban = json_type(value) == JSON_BOOL && !json_bool(value); /* llama.cpp's false */
    if (id < 0 || id > INT32_MAX || (lim->n_vocab > 0 && id >= lim->n_vocab))
        return bad_bias(e, "a key is not a token id of this model");
    if (!ban && (json_type(value) != JSON_NUMBER || fabs(json_num(value)) > 100))
        return bad_bias(e, "a value is something else");
    b->id = (int32_t)id;
    b->bias = ban ? -100 : (float)json_num(value);
    return 0;
}

static int parse_bias(const struct cJSON *body, const struct params_limits *lim,
                      struct arena *arena, struct text_spec *spec, struct err *e)
{
    const struct cJSON *v = json_get(body, "logit_bias");
    enum json_type t = json_type(v);
    if (t == JSON_NULL || (t == JSON_OBJECT && json_size(v) == 0))
        return 0;
    if (t != JSON_OBJECT && t != JSON_ARRAY)
        return bad_bias(e, "it is neither an object nor a list");
    if (json_size(v) > LOGIT_BIAS_MAX)
        return bad_bias(e, "it has more than 4096 entries");
    struct logit_bias *list = arena_array(arena, (size_t)json_size(v) + 1, sizeof *list);
    if (list == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    for (const struct cJSON *m = json_first(v); m != NULL; m = json_next(m)) {
        int64_t id = -1;
        const struct cJSON *value = m;
        if (t == JSON_OBJECT) {
            id = parse_id(json_key(m));
        } else {
            const struct cJSON *first = json_first(m);
            if (json_type(m) != JSON_ARRAY || json_size(m) != 2 || !json_is_int(first))
                return bad_bias(e, "a pair of the list is not [id, number]");
            id = (int64_t)json_num(first);
            value = json_next(first);
        }
        int err = add_bias(id, value, lim, &list[spec->n_bias], e);
        if (err != 0)
            return err;
        spec->n_bias++;
    }
    spec->bias = list;
    return 0;
}

static int check_together(const struct params *p, unsigned where, struct err *e)
{
    if (p->best_of >= 0 && p->best_of != p->n) {
        err_set(e, ERR_INVALID, "best_of must be equal to n (%lld), got %lld", (long long)p->n,
                (long long)p->best_of);
        return err_param(e, "best_of");
    }
    if (where == PARAM_CHAT && p->top_logprobs > 0 && !p->chat_logprobs) {
        err_set(e, ERR_INVALID, "top_logprobs needs logprobs: true");
        return err_param(e, "top_logprobs");
    }
    return 0;
}

static void fill_spec(const struct params *p, unsigned where, struct text_spec *spec)
{
    spec->n = (int)p->n;
    spec->sample = (struct sample_params){
        .temperature = p->temperature,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .typical_p = p->typical_p,
        .presence_penalty = p->presence_penalty,
        .frequency_penalty = p->frequency_penalty,
        .repetition_penalty = p->repetition_penalty,
        .top_k = p->top_k > 0 ? (int)p->top_k : 0,
        .repeat_last_n = (int)p->repeat_last_n,
        .seed = p->has_seed ? (uint64_t)p->seed : rng_seed_random(),
    };
    spec->ignore_eos = p->ignore_eos;
    spec->include_stop = p->include_stop;
    spec->special = !p->skip_special;
    spec->no_cache = !p->cache_prompt;
    if (where == PARAM_CHAT) {
        spec->logprobs = p->chat_logprobs;
        spec->top_logprobs = p->chat_logprobs && p->top_logprobs > 0 ? (int)p->top_logprobs : 0;
    } else {
        spec->logprobs = p->logprobs >= 0;
        spec->top_logprobs = p->logprobs > 0 ? (int)p->logprobs : 0;
        spec->echo_logprobs = p->echo && p->logprobs >= 0;
    }
}

int params_parse(const struct cJSON *body, unsigned where, const struct params_limits *lim,
                 struct arena *arena, struct params *p, struct text_spec *spec, struct err *e)
{
    int err = 0;
    *p = defaults;
    if (lim->strict && (err = params_check_unknown(body, where, params_table, params_n, e)) != 0)
        return err;
    for (int i = 0; i < params_n; i++) {
        const struct param r = params_limited(&params_table[i], lim->max_choices);
        if ((r.where & where) && (err = params_row(body, &r, p, e)) != 0)
            return err;
    }
    p->timings = p->timings || p->timings_alias;
    p->has_seed = json_type(json_get(body, "seed")) != JSON_NULL && p->seed != -1;
    if ((err = check_together(p, where, e)) != 0 || (err = parse_stream_options(body, p, e)) != 0 ||
        ((where & PARAM_BOTH) &&
         (err = format_parse(body, lim->max_grammar_bytes, arena, &spec->grammar, e)) != 0) ||
        (err = parse_stop(body, lim, arena, spec, e)) != 0 ||
        (err = parse_bias(body, lim, arena, spec, e)) != 0)
        return err;
    fill_spec(p, where, spec);
    return 0;
}
