/* Request fields: defaults, ranges, wrong types, and the words of the errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/params.h"
#include "base/json.h"

struct parsed {
    int rc;
    struct err e;
    struct params p;
    struct text_spec spec;
    struct arena arena;
};

static const struct params_limits limits = {.max_choices = 16,
                                            .max_stop_bytes = 32,
                                            .max_grammar_bytes = 4096,
                                            .n_vocab = 1000,
                                            .strict = false};

static struct parsed parse_with(const char *text, unsigned where, const struct params_limits *lim)
{
    static struct parsed r;
    struct cJSON *doc = NULL;
    memset(&r, 0, sizeof r);
    arena_init(&r.arena, 1 << 20);
    assert_int_equal(json_parse(&doc, text, strlen(text), &json_limits_default, &r.e), 0);
    r.rc = params_parse(doc, where, lim, &r.arena, &r.p, &r.spec, &r.e);
    json_free(doc);
    return r;
}

static struct parsed parse(const char *text, unsigned where)
{
    return parse_with(text, where, &limits);
}

/* The request is refused and the error blames param. */
static void refused(const char *text, unsigned where, const char *param)
{
    struct parsed r = parse(text, where);
    if (r.rc == 0)
        fail_msg("accepted: %s", text);
    assert_string_equal(r.e.param, param);
    assert_true(strlen(r.e.msg) > 10);
    arena_free(&r.arena);
}

static void an_empty_request_gets_the_defaults(void **state)
{
    (void)state;
    struct parsed r = parse("{}", PARAM_BOTH);
    assert_int_equal(r.rc, 0);
    assert_float_equal(r.spec.sample.temperature, 1, 0);
    assert_float_equal(r.spec.sample.top_p, 1, 0);
    assert_float_equal(r.spec.sample.typical_p, 1, 0);
    assert_float_equal(r.spec.sample.repetition_penalty, 1, 0);
    assert_float_equal(r.spec.sample.min_p, 0, 0);
    assert_int_equal(r.spec.sample.top_k, 0);
    assert_int_equal(r.spec.n, 1);
    assert_int_equal(r.p.max_tokens, -1);
    assert_false(r.p.stream);
    assert_false(r.spec.logprobs);
    assert_false(r.spec.no_cache);
    assert_true(r.p.add_generation_prompt);
    arena_free(&r.arena);
}

static void null_is_the_same_as_absent(void **state)
{
    (void)state;
    char text[64];
    for (int i = 0; i < params_n; i++) {
        snprintf(text, sizeof text, "{\"%s\":null}", params_table[i].name);
        struct parsed r = parse(text, params_table[i].where);
        if (r.rc != 0)
            fail_msg("%s: %s", text, r.e.msg);
        arena_free(&r.arena);
    }
}

static void values_arrive_where_they_belong(void **state)
{
    (void)state;
    struct parsed r =
        parse("{\"temperature\":0.5,\"top_p\":0.25,\"min_p\":0.125,\"typical_p\":0.75,"
              "\"presence_penalty\":-2,\"frequency_penalty\":1.5,\"repeat_penalty\":1.25,"
              "\"top_k\":40,\"repeat_last_n\":64,\"seed\":7,\"n\":3,\"ignore_eos\":true,"
              "\"cache_prompt\":false,\"max_tokens\":5,\"skip_special_tokens\":false,"
              "\"include_stop_str_in_output\":true}",
              PARAM_CHAT);
    assert_int_equal(r.rc, 0);
    const struct sample_params *s = &r.spec.sample;
    assert_float_equal(s->temperature, 0.5, 0);
    assert_float_equal(s->top_p, 0.25, 0);
    assert_float_equal(s->min_p, 0.125, 0);
    assert_float_equal(s->typical_p, 0.75, 0);
    assert_float_equal(s->presence_penalty, -2, 0);
    assert_float_equal(s->frequency_penalty, 1.5, 0);
    assert_float_equal(s->repetition_penalty, 1.25, 0);
    assert_int_equal(s->top_k, 40);
    assert_int_equal(s->repeat_last_n, 64);
    assert_int_equal(s->seed, 7);
    assert_int_equal(r.spec.n, 3);
    assert_int_equal(r.p.max_tokens, 5);
    assert_true(r.spec.ignore_eos && r.spec.no_cache && r.spec.special && r.spec.include_stop);
    arena_free(&r.arena);
}

static void every_number_has_a_range(void **state)
{
    (void)state;
    char text[128];
    static const char *const wild[] = {"1e308", "-1e308", "9007199254740993", "-9007199254740994"};
    for (int i = 0; i < params_n; i++) {
        const struct param *p = &params_table[i];
        if (p->kind != PARAM_INT && p->kind != PARAM_NUM)
            continue;
        assert_true(p->min < p->max);
        for (size_t k = 0; k < sizeof wild / sizeof *wild; k++) {
            if (strcmp(p->name, "seed") == 0 && k > 1)
                continue; /* 2^53 and more: what JSON rounds them to is a seed or not */
            snprintf(text, sizeof text, "{\"%s\":%s}", p->name, wild[k]);
            refused(text, p->where, p->name);
        }
        snprintf(text, sizeof text, "{\"%s\":\"1\"}", p->name);
        refused(text, p->where, p->name);
        snprintf(text, sizeof text, "{\"%s\":[1]}", p->name);
        refused(text, p->where, p->name);
        snprintf(text, sizeof text, "{\"%s\":true}", p->name);
        refused(text, p->where, p->name);
        if (p->kind == PARAM_INT) {
            snprintf(text, sizeof text, "{\"%s\":1.5}", p->name);
            refused(text, p->where, p->name);
        }
    }
    refused("{\"temperature\":-0.01}", PARAM_CHAT, "temperature");
    refused("{\"temperature\":2.01}", PARAM_CHAT, "temperature");
    refused("{\"top_p\":1.01}", PARAM_CHAT, "top_p");
    refused("{\"max_tokens\":-1}", PARAM_CHAT, "max_tokens");
    refused("{\"max_tokens\":2147483648}", PARAM_CHAT, "max_tokens");
    refused("{\"n\":0}", PARAM_CHAT, "n");
    refused("{\"n\":17}", PARAM_CHAT, "n");
    refused("{\"repetition_penalty\":0}", PARAM_CHAT, "repetition_penalty");
}

static void flags_must_be_true_or_false(void **state)
{
    (void)state;
    char text[96];
    for (int i = 0; i < params_n; i++) {
        if (params_table[i].kind != PARAM_BOOL)
            continue;
        snprintf(text, sizeof text, "{\"%s\":1}", params_table[i].name);
        refused(text, params_table[i].where, params_table[i].name);
        snprintf(text, sizeof text, "{\"%s\":\"true\"}", params_table[i].name);
        refused(text, params_table[i].where, params_table[i].name);
    }
}

static void max_completion_tokens_goes_before_max_tokens(void **state)
{
    (void)state;
    struct parsed r = parse("{\"max_completion_tokens\":3,\"max_tokens\":9}", PARAM_CHAT);
    assert_int_equal(r.p.max_tokens, 3);
    arena_free(&r.arena);
}

static void stop_is_a_string_or_a_list(void **state)
{
    (void)state;
    struct parsed r = parse("{\"stop\":\"ab\"}", PARAM_CHAT);
    assert_int_equal(r.spec.n_stop, 1);
    assert_string_equal(r.spec.stop[0], "ab");
    arena_free(&r.arena);
    r = parse("{\"stop\":[\"a\",\"\\n\\n\"]}", PARAM_CHAT);
    assert_int_equal(r.spec.n_stop, 2);
    assert_string_equal(r.spec.stop[1], "\n\n");
    arena_free(&r.arena);
    r = parse("{\"stop\":[]}", PARAM_CHAT);
    assert_int_equal(r.rc, 0);
    assert_int_equal(r.spec.n_stop, 0);
    arena_free(&r.arena);
    refused("{\"stop\":\"\"}", PARAM_CHAT, "stop");
    refused("{\"stop\":[\"a\",\"\"]}", PARAM_CHAT, "stop[1]");
    refused("{\"stop\":[\"a\",5]}", PARAM_CHAT, "stop[1]");
    refused("{\"stop\":5}", PARAM_CHAT, "stop");
    refused("{\"stop\":{\"a\":1}}", PARAM_CHAT, "stop");
    refused("{\"stop\":\"123456789012345678901234567890123\"}", PARAM_CHAT, "stop");
    refused("{\"stop\":[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\","
            "\"a\",\"a\",\"a\",\"a\",\"a\"]}",
            PARAM_CHAT, "stop");
}

static void logit_bias_is_a_map_or_a_list_of_pairs(void **state)
{
    (void)state;
    struct parsed r = parse("{\"logit_bias\":{\"5\":-100,\"999\":2.5}}", PARAM_CHAT);
    assert_int_equal(r.rc, 0);
    assert_int_equal(r.spec.n_bias, 2);
    assert_int_equal(r.spec.bias[0].id, 5);
    assert_float_equal(r.spec.bias[1].bias, 2.5, 0);
    arena_free(&r.arena);
    r = parse("{\"logit_bias\":[[7,1],[8,false]]}", PARAM_CHAT);
    assert_int_equal(r.rc, 0);
    assert_int_equal(r.spec.bias[1].id, 8);
    assert_float_equal(r.spec.bias[1].bias, -100, 0);
    arena_free(&r.arena);
    static const char *const bad[] = {"{\"1000\":1}",
                                      "{\"-1\":1}",
                                      "{\"a\":1}",
                                      "{\"\":1}",
                                      "{\"1.5\":1}",
                                      "{\" 1\":1}",
                                      "{\"1\":101}",
                                      "{\"1\":\"1\"}",
                                      "{\"1\":true}",
                                      "{\"12345678901\":1}",
                                      "[[1]]",
                                      "[[1,2,3]]",
                                      "[5]",
                                      "[[\"1\",2]]",
                                      "[[-1,2]]",
                                      "\"x\"",
                                      "3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[96];
        snprintf(text, sizeof text, "{\"logit_bias\":%s}", bad[i]);
        refused(text, PARAM_CHAT, "logit_bias");
    }
}

static void logprobs_mean_different_things_to_chat_and_completions(void **state)
{
    (void)state;
    struct parsed r = parse("{\"logprobs\":true,\"top_logprobs\":3}", PARAM_CHAT);
    assert_true(r.spec.logprobs);
    assert_int_equal(r.spec.top_logprobs, 3);
    arena_free(&r.arena);
    r = parse("{\"logprobs\":0,\"echo\":true}", PARAM_COMPLETIONS);
    assert_true(r.spec.logprobs && r.spec.echo_logprobs);
    assert_int_equal(r.spec.top_logprobs, 0);
    arena_free(&r.arena);
    refused("{\"logprobs\":3}", PARAM_CHAT, "logprobs");
    refused("{\"logprobs\":true}", PARAM_COMPLETIONS, "logprobs");
    refused("{\"logprobs\":21}", PARAM_COMPLETIONS, "logprobs");
    refused("{\"top_logprobs\":3}", PARAM_CHAT, "top_logprobs");
    refused("{\"logprobs\":true,\"top_logprobs\":21}", PARAM_CHAT, "top_logprobs");
}

static void the_same_seed_is_kept_and_no_seed_is_random(void **state)
{
    (void)state;
    struct parsed r = parse("{\"seed\":-5}", PARAM_CHAT);
    assert_true(r.spec.sample.seed == (uint64_t)-5);
    arena_free(&r.arena);
    uint64_t a = parse("{}", PARAM_CHAT).spec.sample.seed;
    assert_true(a != parse("{}", PARAM_CHAT).spec.sample.seed);
    assert_true(a != parse("{\"seed\":-1}", PARAM_CHAT).spec.sample.seed);
}

static void what_would_change_the_answer_is_refused_not_ignored(void **state)
{
    (void)state;
    refused("{\"guided_choice\":[]}", PARAM_CHAT, "guided_choice");
    refused("{\"json_schema\":{\"not\":{}}}", PARAM_CHAT, "json_schema");
    refused("{\"json_schema\":{},\"guided_json\":{}}", PARAM_CHAT, "guided_json");
    refused("{\"structured_outputs\":{\"structural_tag\":\"a\"}}", PARAM_CHAT,
            "structured_outputs");
    refused("{\"response_format\":{\"type\":\"json_schema\"}}", PARAM_CHAT, "response_format");
    refused("{\"response_format\":{\"type\":\"x\"}}", PARAM_CHAT, "response_format");
    refused("{\"response_format\":5}", PARAM_CHAT, "response_format");
    refused("{\"suffix\":\"x\"}", PARAM_COMPLETIONS, "suffix");
    refused("{\"best_of\":2}", PARAM_COMPLETIONS, "best_of");
    refused("{\"use_beam_search\":true}", PARAM_COMPLETIONS, "use_beam_search");
    refused("{\"grammar\":\"root ::= x\"}", PARAM_CHAT, "grammar");
    refused("{\"guided_regex\":\"(?=a)\"}", PARAM_CHAT, "guided_regex");
    assert_int_equal(parse("{\"response_format\":{\"type\":\"text\"}}", PARAM_CHAT).rc, 0);
    assert_int_equal(parse("{\"suffix\":\"\"}", PARAM_COMPLETIONS).rc, 0);
    assert_int_equal(parse("{\"best_of\":2,\"n\":2}", PARAM_COMPLETIONS).rc, 0);
}

static void stream_options_need_a_stream(void **state)
{
    (void)state;
    struct parsed r =
        parse("{\"stream\":true,\"stream_options\":{\"include_usage\":true}}", PARAM_CHAT);
    assert_true(r.p.include_usage);
    arena_free(&r.arena);
    refused("{\"stream_options\":{\"include_usage\":true}}", PARAM_CHAT, "stream_options");
    refused("{\"stream\":true,\"stream_options\":[]}", PARAM_CHAT, "stream_options");
    refused("{\"stream\":true,\"stream_options\":{\"include_usage\":1}}", PARAM_CHAT,
            "stream_options.include_usage");
}

static void unknown_fields_matter_only_in_strict_mode(void **state)
{
    (void)state;
    struct params_limits strict = limits;
    strict.strict = true;
    assert_int_equal(parse("{\"nonsense\":1}", PARAM_CHAT).rc, 0);
    struct parsed r = parse_with("{\"nonsense\":1}", PARAM_CHAT, &strict);
    assert_int_equal(r.rc, ERR_INVALID);
    assert_string_equal(r.e.param, "nonsense");
    assert_int_equal(parse_with("{\"echo\":true}", PARAM_CHAT, &strict).rc, ERR_INVALID);
    assert_int_equal(parse_with("{\"echo\":true}", PARAM_COMPLETIONS, &strict).rc, 0);
    assert_int_equal(parse_with("{\"metadata\":{\"a\":1},\"store\":false}", PARAM_CHAT, &strict).rc,
                     0);
}

static void every_schema_of_the_table_is_json(void **state)
{
    (void)state;
    for (int i = 0; i < params_n; i++) {
        assert_non_null(params_table[i].help);
        if (params_table[i].kind != PARAM_OTHER)
            continue;
        const char *s = params_table[i].schema;
        assert_int_equal(json_scan(s, strlen(s), &json_limits_default, NULL), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_request_gets_the_defaults),
        cmocka_unit_test(null_is_the_same_as_absent),
        cmocka_unit_test(values_arrive_where_they_belong),
        cmocka_unit_test(every_number_has_a_range),
        cmocka_unit_test(flags_must_be_true_or_false),
        cmocka_unit_test(max_completion_tokens_goes_before_max_tokens),
        cmocka_unit_test(stop_is_a_string_or_a_list),
        cmocka_unit_test(logit_bias_is_a_map_or_a_list_of_pairs),
        cmocka_unit_test(logprobs_mean_different_things_to_chat_and_completions),
        cmocka_unit_test(the_same_seed_is_kept_and_no_seed_is_random),
        cmocka_unit_test(what_would_change_the_answer_is_refused_not_ignored),
        cmocka_unit_test(stream_options_need_a_stream),
        cmocka_unit_test(unknown_fields_matter_only_in_strict_mode),
        cmocka_unit_test(every_schema_of_the_table_is_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
