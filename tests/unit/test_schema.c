/* JSON Schema as a grammar: which texts it lets through, which schemas are refused, and that a grammar is
 * never at a place from which no text comes to an end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "api/schema.h"
#include "tests/grammar_follow.h"

static struct arena arena;

static int compile(const char *text, const struct grammar **g, struct err *e)
{
    struct schema s;
    struct cJSON *doc = NULL;
    grammar_sym top;
    memset(e, 0, sizeof *e);
    arena_free(&arena);
    arena_init(&arena, 8 << 20);
    assert_int_equal(json_parse(&doc, text, strlen(text), NULL, e), 0);
    int rc = schema_open(&s, &arena, "x", e);
    if (rc == 0)
        rc = schema_value(&s, doc, &top, e);
    if (rc == 0)
        rc = schema_close(&s, top, g, e);
    json_free(doc);
    return rc;
}

static bool fits(const char *schema, const char *text)
{
    struct err e;
    const struct grammar *g = NULL;
    struct grammar_run *r = NULL;
    if (compile(schema, &g, &e) != 0)
        fail_msg("%s: %s", schema, e.msg);
    assert_int_equal(grammar_run_open(&r, g, &e), 0);
    return grammar_follow(r, text, strlen(text), NULL);
}

struct pair {
    const char *schema, *yes, *no; /* texts with | between them */
};

static void check(const struct pair *p, const char *list, bool want)
{
    char text[512];
    snprintf(text, sizeof text, "%s", list);
    for (char *t = text, *end; *t != '\0'; t = end) {
        end = t + strcspn(t, "|");
        if (*end == '|')
            *end++ = '\0';
        if (fits(p->schema, t) != want)
            fail_msg("%s: %s should %sfit", p->schema, t, want ? "" : "not ");
    }
}

static void check_all(const struct pair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        check(&pairs[i], pairs[i].yes, true);
        check(&pairs[i], pairs[i].no, false);
    }
}

/* A schema that allows nothing is refused. */
static void check_texts(const char *schema, const struct cJSON *texts, bool want)
{
    struct err e;
    const struct grammar *g = NULL;
    if (compile(schema, &g, &e) != 0 && (want || strstr(e.msg, "no answer can have") == NULL) &&
        json_size(texts) > 0)
        fail_msg("%s: %s", schema, e.msg);
    if (e.code != 0)
        return;
    for (const struct cJSON *t = json_first(texts); t != NULL; t = json_next(t))
        if (fits(schema, json_str(t)) != want)
            fail_msg("%s: %s should %sfit", schema, json_str(t), want ? "" : "not ");
}

#define CHECK(pairs) check_all(pairs, sizeof(pairs) / sizeof *(pairs))

static void schema_any_value_is_json(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"{}",
         "null|true|-0.5e+3|\"\"|[]|[1, 2]|{}|{\"a\": {\"b\":[]}}|\"\xc3\xa9\xf0\x9f\x98\x80\"|"
         "\"\\u00e9\\ud83d\\ude00\\n\"|[\n  1\n]",
         "nul|01|+1|.5|1.|[1,]|{\"a\"}|{a:1}|'a'|\"\xc3\"|\"\x80\"|\"\xed\xa0\x80\"|\"\\ud83d\"|"
         "\"\\x\"|\"\n\"|1 "},
        {"{\"type\":\"object\"}", "{}|{\"a\":1}", "[]|null"},
    };
    CHECK(pairs);
}

static void schema_objects_have_their_members_in_order(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"{\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"},\"c\":{\"type\":"
         "\"null\"}},\"required\":[\"b\"]}",
         "{\"b\":null}|{\"a\":null,\"b\":null}|{\"b\":null,\"c\":null}|"
         "{ \"a\": null, \"b\": null, \"c\": null}",
         "{}|{\"a\":null}|{\"b\":null,\"a\":null}|{\"b\":1}|{\"b\":null,}|{,\"b\":null}|"
         "{\"b\":null,\"d\":null}"},
        {"{\"properties\":{\"a\":{}},\"additionalProperties\":{\"type\":\"boolean\"}}",
         "{}|{\"x\":true}|{\"a\":[],\"x\":true,\"y\":false}", "{\"a\":1,\"x\":1}"},
        {"{\"type\":\"object\",\"additionalProperties\":false}", "{}", "{\"a\":1}"},
        {"{\"allOf\":[{\"properties\":{\"a\":{}}},{\"properties\":{\"b\":{}},\"required\":[\"b\"]}]"
         "}",
         "{\"b\":1}|{\"a\":1,\"b\":2}", "{}|{\"a\":1}"},
    };
    CHECK(pairs);
}

static void schema_arrays_have_their_lengths(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"{\"items\":{\"enum\":[1]},\"minItems\":1,\"maxItems\":3}", "[1]|[1,1]|[ 1, 1, 1 ]",
         "[]|[1,1,1,1]|[2]"},
        {"{\"items\":{\"enum\":[1]},\"minItems\":2}", "[1,1]|[1,1,1,1,1]", "[]|[1]"},
        {"{\"prefixItems\":[{\"enum\":[1]},{\"enum\":[2]}]}", "[]|[1]|[1,2]", "[2]|[1,2,3]"},
        {"{\"prefixItems\":[{\"enum\":[1]}],\"items\":{\"enum\":[2]}}", "[1]|[1,2,2]", "[2]"},
        {"{\"type\":\"array\",\"maxItems\":0}", "[]|[ ]", "[1]"},
    };
    CHECK(pairs);
}

static void schema_numbers_keep_to_their_bounds(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"{\"type\":\"integer\"}", "0|-1|12", "1.0|01|1e3"},
        {"{\"type\":\"integer\",\"minimum\":-12,\"maximum\":137}", "-12|-9|-1|0|9|99|130|137",
         "-13|-20|138|200|1000|-0"},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":99,\"exclusiveMaximum\":1001}", "100|999|1000",
         "99|1001|0"},
        {"{\"type\":\"integer\",\"minimum\":7}", "7|8|10|70", "6|0|-7"},
        {"{\"type\":\"integer\",\"maximum\":-7}", "-7|-8|-10", "-6|7|0"},
        {"{\"type\":\"number\",\"minimum\":0,\"maximum\":1}", "0|0.0|0.999|1|1.00",
         "1.01|-0.1|2|1.|0.|10|1e0"},
        {"{\"type\":\"number\",\"minimum\":0.2,\"maximum\":0.25}", "0.2|0.20|0.225|0.25|0.250",
         "0|0.1|0.19|0.251|0.3|1"},
        {"{\"type\":\"number\",\"exclusiveMinimum\":3,\"exclusiveMaximum\":4}", "3.1|3.0001|3.9",
         "3|3.0|4|4.0"},
        {"{\"type\":\"number\",\"minimum\":-2.5,\"maximum\":3.25}", "-2.5|-2.49|-1|0|3.25|3.2|2.99",
         "-2.51|-3|3.26|4"},
        {"{\"type\":\"number\",\"minimum\":2,\"exclusiveMinimum\":true}", "2.5|3", "2|1"},
    };
    CHECK(pairs);
}

static void schema_strings_count_characters(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"{\"minLength\":2,\"maxLength\":3}", "\"ab\"|\"abc\"|\"\xc3\xa9\xc3\xa9\"|\"\\n\\u0041\"",
         "\"a\"|\"abcd\"|\"\""},
        {"{\"enum\":[\"red\",\"reddish\",\"blue\",7,null,{\"a\":[1]}]}",
         "\"red\"|\"reddish\"|\"blue\"|7|null|{\"a\":[1]}", "\"re\"|\"redd\"|\"green\"|8"},
        {"{\"const\":\"a\"}", "\"a\"", "\"b\"|a"},
        {"{\"type\":[\"string\",\"null\"]}", "\"x\"|null", "1"},
    };
    CHECK(pairs);
}

static void schema_strings_keep_to_patterns_and_formats(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"{\"pattern\":\"^[a-z]{2}$\"}", "\"ab\"", "\"a\"|\"abc\"|ab|1"},
        {"{\"type\":\"string\",\"pattern\":\"b\"}", "\"b\"|\"abc\"|\"\\nb\"", "\"a\"|\"\""},
        {"{\"pattern\":\"^x.*$\",\"maxLength\":3}", "\"x\"|\"xab\"", "\"xabc\"|\"\""},
        {"{\"type\":\"string\",\"format\":\"date\"}",
         "\"2024-02-29\"|\"2023-12-31\"|\"2000-02-29\"",
         "\"2023-02-29\"|\"2023-13-01\"|\"2023-04-31\"|\"1900-02-29\"|\"23-01-01\""},
        {"{\"type\":\"string\",\"format\":\"date-time\"}",
         "\"2024-01-31T23:59:59Z\"|\"2024-01-31T00:00:00.5+02:00\"",
         "\"2024-01-31\"|\"2024-01-31T24:00:00Z\"|\"2024-01-31T10:00:00\""},
        {"{\"type\":\"string\",\"format\":\"uuid\"}", "\"123e4567-e89b-12d3-a456-426614174000\"",
         "\"123e4567e89b12d3a456426614174000\""},
        {"{\"type\":\"string\",\"format\":\"email\"}", "\"a.b+c@example.org\"",
         "\"a@b\"|\"@example.org\"|\"a b@example.org\""},
        {"{\"type\":\"string\",\"format\":\"ipv4\"}", "\"127.0.0.1\"|\"255.1.20.0\"",
         "\"256.0.0.1\"|\"1.2.3\"|\"01.2.3.4\""},
        {"{\"type\":\"string\",\"format\":\"ipv6\"}", "\"::1\"|\"fe80::1\"|\"1:2:3:4:5:6:7:8\"",
         "\"1:2:3\"|\":::\""},
        {"{\"type\":\"string\",\"format\":\"uri\",\"maxLength\":2083}",
         "\"https://example.org:80/a%20b/c?x=1&y#z\"|\"http://a\"", "\"example.org\"|\"http://\""},
        {"{\"type\":\"string\",\"format\":\"time\"}", "\"10:00:00Z\"", "\"10:00\""},
        {"{\"type\":\"string\",\"format\":\"duration\"}", "\"P1DT2H\"|\"PT5M\"|\"P3W\"",
         "\"P\"|\"PT\"|\"1D\""},
        {"{\"type\":\"string\",\"format\":\"whatever\"}", "\"x\"", "1"},
    };
    CHECK(pairs);
}

static void schema_names_a_constant_that_is_too_long(void **state)
{
    (void)state;
    static char text[1 << 17];
    struct err e;
    const struct grammar *g;
    int n = snprintf(text, sizeof text, "{\"const\":\"Long one ");
    memset(text + n, 'x', 1 << 16);
    memcpy(text + n + (1 << 16), "\"}", 3);
    assert_int_equal(compile(text, &g, &e), ERR_TOOBIG);
    assert_non_null(strstr(e.msg, "Long one"));
}

static void schema_references_may_go_round(void **state)
{
    (void)state;
    const struct pair pairs[] = {
        {"{\"$defs\":{\"n~/\":{\"properties\":{\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/n~0~1\"},"
         "{\"type\":\"null\"}]}},\"required\":[\"next\"]}},\"$ref\":\"#/$defs/n~0~1\"}",
         "{\"next\":null}|{\"next\":{\"next\":null}}", "{}|{\"next\":{}}"},
        {"{\"properties\":{\"a\":{\"$ref\":\"#\"}}}", "{}|{\"a\":{\"a\":{}}}", "{\"a\":1}"},
    };
    CHECK(pairs);
}

static void schema_refuses_what_it_cannot_hold_to(void **state)
{
    (void)state;
    static const struct {
        const char *schema;
        int code;
        const char *words;
    } cases[] = {
        {"{\"type\":\"foo\"}", ERR_INVALID, "no type foo"},
        {"{\"type\":3}", ERR_INVALID, "type"},
        {"{\"items\":5}", ERR_INVALID, "a schema must be"},
        {"{\"enum\":[]}", ERR_INVALID, "enum"},
        {"{\"$ref\":\"#/a\"}", ERR_INVALID, "$ref"},
        {"{\"$ref\":\"http://x\"}", ERR_INVALID, "$ref"},
        {"{\"not\":{}}", ERR_UNSUPPORTED, "not"},
        {"{\"properties\":{\"a\":{\"multipleOf\":2}}}", ERR_UNSUPPORTED, "multipleOf"},
        {"{\"anyOf\":[{}],\"properties\":{}}", ERR_UNSUPPORTED, "anyOf"},
        {"{\"minLength\":3,\"maxLength\":2}", ERR_INVALID, "maxLength"},
        {"{\"minItems\":3,\"maxItems\":2}", ERR_INVALID, "array"},
        {"{\"type\":\"integer\",\"minimum\":1e17}", ERR_UNSUPPORTED, "digits"},
        {"{\"type\":\"integer\",\"minimum\":1.2,\"maximum\":1.8}", ERR_INVALID, "no answer"},
        {"{\"type\":\"number\",\"minimum\":2,\"maximum\":1}", ERR_INVALID, "no answer"},
        {"{\"$ref\":\"#\"}", ERR_INVALID, "no answer"},
        {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", ERR_INVALID,
         "no answer"},
        {"{\"properties\":{\"a\":{}},\"required\":[\"b\"],\"additionalProperties\":false}",
         ERR_INVALID, "no answer"},
        {"{\"maxLength\":100000,\"minLength\":99999}", ERR_TOOBIG, "too large"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e;
        const struct grammar *g = NULL;
        if (compile(cases[i].schema, &g, &e) != cases[i].code ||
            strstr(e.msg, cases[i].words) == NULL)
            fail_msg("%s: %d, %s", cases[i].schema, e.code, e.msg);
    }
}

/* A member that can have no value is left out, and so nobody begins to write it. */
static void schema_never_leads_to_a_dead_end(void **state)
{
    (void)state;
    struct err e;
    const struct grammar *g = NULL;
    struct grammar_run *r = NULL;
    assert_int_equal(compile("{\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":2,"
                             "\"maximum\":1},\"b\":{}}}",
                             &g, &e),
                     0);
    assert_int_equal(grammar_run_open(&r, g, &e), 0);
    assert_false(grammar_run_push(r, "{\"a", 3));
    assert_true(grammar_run_push(r, "{\"b", 3));
    assert_false(grammar_run_ended(r));
    assert_true(grammar_run_push(r, "\":1}", 4));
    assert_true(grammar_run_ended(r));
    grammar_run_close(r);
}

/* The same shape again and again needs no more memory, and a nest that is too deep just cannot go on. */
static void schema_follows_long_and_deep_texts(void **state)
{
    (void)state;
    struct err e;
    const struct grammar *g = NULL;
    struct grammar_run *r = NULL;
    assert_int_equal(compile("{}", &g, &e), 0);
    assert_int_equal(grammar_run_open(&r, g, &e), 0);
    assert_true(grammar_run_push(r, "[[0", 3));
    for (int i = 0; i < 200000; i++)
        assert_true(grammar_run_push(r, i % 2 ? ",\"a\"" : ",[7]", 4));
    int depth = 0;
    assert_true(grammar_run_push(r, ",", 1));
    while (depth < 1000000 && grammar_run_push(r, "[", 1))
        depth++;
    assert_in_range(depth, 200, 999999);
    assert_true(grammar_run_push(r, "]", 1));
    grammar_run_close(r);
}

/* tools/make_schema_golden.py: what jsonschema says of random schemas and texts. */
static void schema_allows_what_a_validator_does(void **state)
{
    (void)state;
    FILE *f = fopen("tests/fixtures/schemas.jsonl", "r");
    static char line[1 << 16];
    int n = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        struct cJSON *doc = NULL;
        struct buf schema;
        struct json_writer w;
        struct err e = {0};
        assert_int_equal(json_parse(&doc, line, strlen(line), NULL, &e), 0);
        buf_init(&schema, sizeof line);
        json_begin(&w, &schema);
        json_put_node(&w, NULL, json_get(doc, "schema"));
        check_texts(buf_str(&schema), json_get(doc, "yes"), true);
        check_texts(buf_str(&schema), json_get(doc, "no"), false);
        buf_free(&schema);
        json_free(doc);
        n++;
    }
    fclose(f);
    assert_true(n >= 300);
}

int main(void)
{
    arena_init(&arena, 1 << 20);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schema_any_value_is_json),
        cmocka_unit_test(schema_objects_have_their_members_in_order),
        cmocka_unit_test(schema_arrays_have_their_lengths),
        cmocka_unit_test(schema_numbers_keep_to_their_bounds),
        cmocka_unit_test(schema_strings_count_characters),
        cmocka_unit_test(schema_strings_keep_to_patterns_and_formats),
        cmocka_unit_test(schema_names_a_constant_that_is_too_long),
        cmocka_unit_test(schema_references_may_go_round),
        cmocka_unit_test(schema_refuses_what_it_cannot_hold_to),
        cmocka_unit_test(schema_never_leads_to_a_dead_end),
        cmocka_unit_test(schema_allows_what_a_validator_does),
        cmocka_unit_test(schema_follows_long_and_deep_texts),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_free(&arena);
    return failed;
}
