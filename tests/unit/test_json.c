/* JSON: what the scan refuses, what the getters say, and that the writer's text reads back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"

static struct err e;

static int scan(const char *text)
{
    return json_scan(text, strlen(text), NULL, &e);
}

/* Refused by scan and parse alike, with this in the message. */
static void refuses(const char *text, size_t len, const char *why)
{
    struct cJSON *doc;
    /* An exact copy on the heap, so that AddressSanitizer sees a read past the end. */
    char *copy = malloc(len + 1);
    assert_non_null(copy);
    copy = realloc(copy, len > 0 ? len : 1);
    memcpy(copy, text, len);
    assert_int_equal(json_scan(copy, len, NULL, &e), ERR_INVALID);
    if (strstr(e.msg, why) == NULL)
        fail_msg("'%s' gives '%s', not '%s'", text, e.msg, why);
    assert_int_equal(json_parse(&doc, copy, len, NULL, &e), ERR_INVALID);
    assert_null(doc);
    free(copy);
}

static struct cJSON *parse(const char *text)
{
    struct cJSON *doc;
    if (json_parse(&doc, text, strlen(text), NULL, &e) != 0)
        fail_msg("%s: %s", text, e.msg);
    return doc;
}

static void json_scan_accepts_what_rfc_8259_allows(void **state)
{
    (void)state;
    static const char *const good[] = {
        "null",
        "true",
        "false",
        "0",
        "-0",
        "12.5e-3",
        "1E+2",
        "1e308",
        "1e-400",
        "\"\"",
        "\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83D\\uDE00\"",
        "\"\x7f\xC3\xA9\xF4\x8F\xBF\xBF\"",
        "[]",
        "{}",
        " \t\r\n[ 1 , [ ] , { } ]\n",
        "{\"a\":{\"a\":[{\"a\":1},{\"a\":2}]},\"\":0}",
        "-123456789012345678901234567890123456789012345678901234567890",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (scan(good[i]) != 0)
            fail_msg("%s: %s", good[i], e.msg);
        json_free(parse(good[i]));
    }
}

static void json_scan_refuses_malformed_text(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "unexpected end at byte 0"},
        {"  ", "unexpected end at byte 2"},
        {"nul", "unexpected character"},
        {"True", "unexpected character"},
        {"NaN", "unexpected character"},
        {"'a'", "unexpected character"},
        {"/*c*/1", "unexpected character at byte 0"},
        {"\xEF\xBB\xBF{}", "unexpected character at byte 0"},
        {"\x0b[]", "unexpected character"},
        {"[", "unexpected end"},
        {"[1", "expected ',' or ']'"},
        {"[1,", "unexpected end"},
        {"[1,]", "unexpected character at byte 3"},
        {"[,1]", "unexpected character"},
        {"[1 2]", "expected ',' or ']' at byte 3"},
        {"[1}", "expected ',' or ']'"},
        {"]", "unexpected character"},
        {"{", "expected a key"},
        {"{,}", "expected a key"},
        {"{1:2}", "expected a key"},
        {"{\"a\"}", "expected ':'"},
        {"{\"a\":}", "unexpected character"},
        {"{\"a\":1,}", "expected a key at byte 7"},
        {"{\"a\":1 \"b\":2}", "expected ',' or '}'"},
        {"{\"a\":1]", "expected ',' or '}'"},
        {"{\"a\"", "expected ':'"},
        {"{\"a", "unterminated string at byte 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuses(cases[i][0], strlen(cases[i][0]), cases[i][1]);
}

static void json_scan_refuses_text_after_the_value(void **state)
{
    (void)state;
    refuses("{}x", 3, "text after the value at byte 2");
    refuses("1 2", 3, "text after the value at byte 2");
    refuses("nullx", 5, "text after the value at byte 4");
    refuses("[]]", 3, "text after the value");
    refuses("{}\0", 3, "text after the value");
    refuses("[]\0garbage", 10, "text after the value");
}

static void json_scan_refuses_malformed_numbers(void **state)
{
    (void)state;
    static const char *const bad[] = {"01", "-",   "-01", "00", "1.",   "-.5",  "1.e5",
                                      "1e", "1e+", "--1", "-a", "1.2.", "1e5.5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(scan(bad[i]), ERR_INVALID);
    refuses("01", 2, "malformed number at byte 0");
    refuses("[1.]", 4, "malformed number at byte 1");
    refuses("+1", 2, "unexpected character");
    refuses(".5", 2, "unexpected character");
    refuses("0x10", 4, "text after the value");
    refuses("1e400", 5, "number out of range");
    refuses("[-1e309]", 8, "number out of range at byte 1");
    refuses("0.00000000000000000000000000000000000000000000000000000000000001", 64,
            "too many digits");
}

static void json_scan_refuses_lone_surrogates(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\"\\ud800\"",        "\"\\udc00\"",        "\"\\ud800x\"",       "\"\\ud800\\n\"",
        "\"\\ud800\\u0041\"", "\"\\ud800\\ud800\"", "\"\\udc00\\ud800\"", "\"\\uDBFF\\uE000\"",
        "\"\\ud800\\u\"",     "\"\\ud800\\udc0\"",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuses(bad[i], strlen(bad[i]), "lone surrogate at byte 1");
    refuses("{\"\\udfff\":1}", 12, "lone surrogate at byte 2");
}

static void json_scan_refuses_nul_and_control_characters(void **state)
{
    (void)state;
    refuses("\"\\u0000\"", 8, "\\u0000 in a string");
    refuses("{\"a\\u0000b\":1}", 14, "\\u0000 in a string");
    refuses("\"a\0b\"", 5, "control character in a string at byte 2");
    refuses("\"a\nb\"", 5, "control character in a string");
    refuses("\"\x1f\"", 3, "control character in a string");
}

static void json_scan_refuses_malformed_escapes(void **state)
{
    (void)state;
    static const char *const bad[] = {"\"\\x41\"",   "\"\\'\"",     "\"\\u12\"",   "\"\\u12g4\"",
                                      "\"\\U0041\"", "\"\\u 041\"", "\"\\u-041\"", "\"\\"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuses(bad[i], strlen(bad[i]), "malformed escape");
    refuses("\"\\\0\"", 4, "malformed escape");
    refuses("\"\\\"", 3, "unterminated string");
}

static void json_scan_refuses_invalid_utf8(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\"\x80\"",         "\"\xC0\x80\"",         "\"\xE0\x9F\xBF\"", "\"\xF0\x8F\xBF\xBF\"",
        "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xFF\"",         "\"\xC3\"",
        "\"\xE2\x82\"",     "\"\xF0\x9F\x98\"",     "\"\xC3",           "\"\xF0\x9F\x98",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuses(bad[i], strlen(bad[i]), "invalid UTF-8 at byte 1");
    assert_int_equal(scan("\"\xEF\xBF\xBD\""), 0); /* U+FFFD itself is fine */
    refuses("{\"\xFF\":1}", 7, "invalid UTF-8 at byte 2");
}

static void json_scan_refuses_duplicate_keys_however_spelled(void **state)
{
    (void)state;
    refuses("{\"a\":1,\"a\":2}", 13, "duplicate key at byte 7");
    refuses("{\"a\":1,\"\\u0061\":2}", 18, "duplicate key at byte 7");
    refuses("{\"\":1,\"\":2}", 11, "duplicate key");
    refuses("{\"\\/\":1,\"/\":2}", 14, "duplicate key");
    const char emoji[] = "{\"\xF0\x9F\x98\x80\":1,\"\\ud83d\\uDE00\":2}";
    refuses(emoji, sizeof emoji - 1, "duplicate key");
    const char after[] = "{\"a\":{\"a\":1,\"b\":{}},\"b\":[{\"a\":1}],\"a\":0}";
    refuses(after, sizeof after - 1, "duplicate key at byte 34");
    assert_int_equal(scan("{\"a\":1,\"A\":2,\"a \":3,\"\":4}"), 0);
    assert_int_equal(scan("{\"a\":{\"a\":1},\"b\":{\"a\":1}}"), 0);
    assert_int_equal(scan("[{\"a\":1},{\"a\":1}]"), 0);
}

/* n times open, then close. */
static char *nested(const char *open, const char *middle, const char *close, size_t n)
{
    struct buf b;
    buf_init(&b, 1 << 24);
    for (size_t i = 0; i < n; i++)
        buf_adds(&b, open);
    buf_adds(&b, middle);
    for (size_t i = 0; i < n; i++)
        buf_adds(&b, close);
    assert_false(b.failed);
    return b.data;
}

static void json_scan_stops_depth_bombs(void **state)
{
    (void)state;
    char *text = nested("[", "", "]", 64);
    assert_int_equal(scan(text), 0);
    json_free(parse(text));
    free(text);
    text = nested("[", "", "]", 65);
    refuses(text, strlen(text), "nested too deeply at byte 64");
    free(text);
    text = nested("{\"a\":", "1", "}", 65);
    refuses(text, strlen(text), "nested too deeply");
    free(text);
    text = nested("[", "", "", 1 << 20);
    refuses(text, strlen(text), "nested too deeply");
    free(text);
}

static void json_limits_on_depth_end_where_the_parser_does(void **state)
{
    (void)state;
    const struct json_limits deep = {
        .max_bytes = 1 << 20, .max_depth = 1 << 30, .max_nodes = 1 << 20};
    struct cJSON *doc;
    char *text = nested("[{\"a\":", "1", "}]", 500);
    assert_int_equal(json_parse(&doc, text, strlen(text), &deep, &e), 0);
    json_free(doc);
    free(text);
    text = nested("[", "", "]", 1001);
    assert_int_equal(json_parse(&doc, text, strlen(text), &deep, &e), ERR_INVALID);
    free(text);
}

static void json_scan_counts_values_and_bytes(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    char *text = malloc(N);
    assert_non_null(text);
    memset(text, '0', N);
    for (size_t i = 2; i < N; i += 2)
        text[i] = ',';
    text[0] = '[';
    text[N - 1] = ']';
    text[N - 2] = '0';
    text[N - 3] = '0';
    refuses(text, N, "too many values");
    free(text);

    const struct json_limits small = {.max_bytes = 10, .max_depth = 10, .max_nodes = 4};
    assert_int_equal(json_scan("[1,2,3]", 7, &small, &e), 0);
    assert_int_equal(json_scan("[1,2,3,4]", 9, &small, &e), ERR_INVALID);
    assert_int_equal(json_scan("[        ]", 10, &small, &e), 0);
    assert_int_equal(json_scan("[         ]", 11, &small, &e), ERR_TOOBIG);
}

static void json_scan_takes_linear_time_for_many_keys(void **state)
{
    (void)state;
    const struct json_limits wide = {.max_bytes = 1 << 26, .max_depth = 64, .max_nodes = 1 << 22};
    struct buf b;
    buf_init(&b, 1 << 26);
    for (int i = 0; i < 300000; i++)
        buf_printf(&b, "%c\"key%d\":%d", i == 0 ? '{' : ',', i, i);
    buf_addc(&b, '}');
    int64_t before = clock_us();
    assert_int_equal(json_scan(b.data, b.len, &wide, &e), 0);
    assert_true(clock_us() - before < 60 * 1000000); /* quadratic would take hours */
    b.len--;
    buf_adds(&b, ",\"key0\":0}");
    assert_int_equal(json_scan(b.data, b.len, &wide, &e), ERR_INVALID);
    buf_free(&b);
}

static void json_parse_gives_the_values(void **state)
{
    (void)state;
    struct cJSON *doc =
        parse("{\"s\":\"\\u00e9\\ud83d\\ude00\\n\",\"n\":-2.5,\"t\":true,\"f\":false,"
              "\"z\":null,\"a\":[1,\"x\"],\"o\":{\"S\":1}}");
    assert_int_equal(json_type(doc), JSON_OBJECT);
    assert_int_equal(json_size(doc), 7);
    assert_string_equal(json_str(json_get(doc, "s")), "\xC3\xA9\xF0\x9F\x98\x80\n");
    assert_null(json_get(doc, "S"));
    assert_true(json_num(json_get(doc, "n")) == -2.5);
    assert_true(json_bool(json_get(doc, "t")));
    assert_false(json_bool(json_get(doc, "f")));
    assert_int_equal(json_type(json_get(doc, "z")), JSON_NULL);
    const struct cJSON *a = json_get(doc, "a");
    assert_int_equal(json_type(a), JSON_ARRAY);
    assert_string_equal(json_key(json_first(a)), "");
    assert_string_equal(json_str(json_next(json_first(a))), "x");
    assert_null(json_next(json_next(json_first(a))));
    assert_string_equal(json_key(json_first(doc)), "s");
    json_free(doc);
}

static void json_parse_takes_pythons_infinities_where_told(void **state)
{
    (void)state;
    static const char text[] = "{\"a\":-Infinity,\"b\":[Infinity,1],\"c\":\"-Infinity\"}";
    struct json_limits limits = json_limits_default;
    struct cJSON *doc;
    refuses(text, sizeof text - 1, "malformed number at byte 5");
    limits.infinity = true;
    assert_int_equal(json_scan(text, sizeof text - 1, &limits, &e), 0);
    assert_int_equal(json_parse(&doc, text, sizeof text - 1, &limits, &e), 0);
    float out = 5;
    assert_true(json_num(json_get(doc, "a")) == -INFINITY);
    assert_int_equal(json_get_float(doc, "a", &out, -1e9, 1e9, &e), ERR_INVALID);
    assert_true(json_num(json_first(json_get(doc, "b"))) == INFINITY);
    assert_int_equal(json_size(json_get(doc, "b")), 2);
    assert_string_equal(json_str(json_get(doc, "c")), "-Infinity");
    json_free(doc);
    static const char *const bad[] = {"Infinit", "--Infinity", "Infinity1", "NaN", "[-Inf]", "I"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(json_parse(&doc, bad[i], strlen(bad[i]), &limits, &e), ERR_INVALID);
}

static void json_getters_accept_null_and_other_types(void **state)
{
    (void)state;
    struct cJSON *doc = parse("[\"x\",1]");
    assert_int_equal(json_type(NULL), JSON_NULL);
    assert_null(json_get(NULL, "a"));
    assert_null(json_get(doc, "a"));
    assert_null(json_first(NULL));
    assert_null(json_next(NULL));
    assert_string_equal(json_key(NULL), "");
    assert_null(json_str(doc));
    assert_true(json_num(json_first(doc)) == 0);
    assert_false(json_bool(doc));
    assert_int_equal(json_size(NULL), 0);
    assert_int_equal(json_size(json_first(doc)), 0);
    json_free(doc);
    json_free(NULL);
}

static void json_parse_needs_no_nul_after_the_text(void **state)
{
    (void)state;
    static const char *const texts[] = {"12", "true", "[1]", "\"a\"", "1 ", "[1]\n", "{\"a\":1}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_t n = strlen(texts[i]);
        char *copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, texts[i], n);
        struct cJSON *doc;
        assert_int_equal(json_parse(&doc, copy, n, NULL, &e), 0);
        json_free(doc);
        free(copy);
    }
}

static void json_is_int_ends_at_two_to_the_53(void **state)
{
    (void)state;
    struct cJSON *doc = parse("[0,-0.0,1e3,9007199254740992,-9007199254740992,"
                              "1.5,9007199254740994,1e300,\"1\",null]");
    int i = 0;
    for (const struct cJSON *v = json_first(doc); v != NULL; v = json_next(v), i++)
        assert_int_equal(json_is_int(v), i < 5);
    json_free(doc);
}

static void json_get_int_checks_type_and_range(void **state)
{
    (void)state;
    struct cJSON *doc = parse("{\"n\":5,\"f\":1.5,\"s\":\"5\",\"z\":null,\"big\":1e20}");
    int64_t v = 99;
    assert_int_equal(json_get_int(doc, "absent", &v, 0, 10, &e), 0);
    assert_int_equal(json_get_int(doc, "z", &v, 0, 10, &e), 0);
    assert_int_equal(json_get_int(NULL, "n", &v, 0, 10, &e), 0);
    assert_int_equal(v, 99);
    assert_int_equal(json_get_int(doc, "n", &v, 5, 5, &e), 0);
    assert_int_equal(v, 5);
    assert_int_equal(json_get_int(doc, "n", &v, 6, 10, &e), ERR_INVALID);
    assert_string_equal(e.param, "n");
    assert_string_equal(e.msg, "'n' must be an integer from 6 to 10, not 5");
    assert_int_equal(json_get_int(doc, "n", &v, 0, 4, &e), ERR_INVALID);
    assert_int_equal(json_get_int(doc, "f", &v, 0, 4, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "not 1.5"));
    assert_int_equal(json_get_int(doc, "s", &v, 0, 10, &e), ERR_INVALID);
    assert_string_equal(e.msg, "'s' must be an integer from 0 to 10, not a string");
    assert_int_equal(json_get_int(doc, "big", &v, INT64_MIN, INT64_MAX, &e), ERR_INVALID);
    assert_int_equal(json_get_int(doc, "big", &v, 0, 1, NULL), ERR_INVALID);
    assert_int_equal(v, 5);
    json_free(doc);
}

static void json_get_float_checks_type_and_range(void **state)
{
    (void)state;
    struct cJSON *doc = parse("{\"t\":0.7,\"big\":1e300,\"b\":true}");
    float v = 9;
    assert_int_equal(json_get_float(doc, "absent", &v, 0, 2, &e), 0);
    assert_true(v == 9);
    assert_int_equal(json_get_float(doc, "t", &v, 0, 2, &e), 0);
    assert_true(v == 0.7f);
    assert_int_equal(json_get_float(doc, "t", &v, 0, 0.5, &e), ERR_INVALID);
    assert_string_equal(e.msg, "'t' must be a number from 0 to 0.5, not 0.7");
    assert_string_equal(e.param, "t");
    assert_int_equal(json_get_float(doc, "big", &v, -INFINITY, INFINITY, &e), ERR_INVALID);
    assert_int_equal(json_get_float(doc, "b", &v, 0, 1, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "not a boolean"));
    json_free(doc);
}

static void json_get_bool_and_str_check_the_type(void **state)
{
    (void)state;
    struct cJSON *doc = parse("{\"b\":true,\"s\":\"x\",\"z\":null,\"a\":[]}");
    bool b = false;
    const char *s = "default";
    assert_int_equal(json_get_bool(doc, "z", &b, &e), 0);
    assert_false(b);
    assert_int_equal(json_get_bool(doc, "b", &b, &e), 0);
    assert_true(b);
    assert_int_equal(json_get_bool(doc, "s", &b, &e), ERR_INVALID);
    assert_string_equal(e.msg, "'s' must be a boolean, not a string");
    assert_int_equal(json_get_str(doc, "z", &s, &e), 0);
    assert_string_equal(s, "default");
    assert_int_equal(json_get_str(doc, "s", &s, &e), 0);
    assert_string_equal(s, "x");
    assert_int_equal(json_get_str(doc, "a", &s, &e), ERR_INVALID);
    assert_string_equal(e.msg, "'a' must be a string, not an array");
    assert_string_equal(e.param, "a");
    json_free(doc);
}

static struct buf out;
static struct json_writer w;

static void begin(void)
{
    buf_free(&out);
    buf_init(&out, 4096);
    json_begin(&w, &out);
}

static void json_writer_puts_commas_and_keys(void **state)
{
    (void)state;
    begin();
    json_open(&w, NULL, '{');
    json_put_int(&w, "i", INT64_MIN);
    json_open(&w, "a", '[');
    json_open(&w, NULL, '{');
    json_close(&w, '}');
    json_put_bool(&w, NULL, true);
    json_put_null(&w, NULL);
    json_open(&w, NULL, '[');
    json_close(&w, ']');
    json_put_str(&w, NULL, NULL);
    json_close(&w, ']');
    json_put_raw(&w, "r", "[1]", 3);
    json_put_str(&w, "k\"", "v");
    json_close(&w, '}');
    assert_string_equal(buf_str(&out), "{\"i\":-9223372036854775808,\"a\":[{},true,null,[],null],"
                                       "\"r\":[1],\"k\\\"\":\"v\"}");
    assert_int_equal(scan(buf_str(&out)), 0);
}

static void json_writer_escapes_strings(void **state)
{
    (void)state;
    begin();
    json_put_strn(&w, NULL, "a\"\\/\b\f\n\r\t\x01\0\x1f\x7f\xC3\xA9\xF0\x9F\x98\x80", 19);
    assert_string_equal(buf_str(&out), "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u0000\\u001f\x7f"
                                       "\xC3\xA9\xF0\x9F\x98\x80\"");
    begin();
    json_put_strn(&w, NULL, "", 0);
    assert_string_equal(buf_str(&out), "\"\"");
}

static void json_writer_writes_valid_utf8_whatever_it_gets(void **state)
{
    (void)state;
    begin();
    json_put_str(&w, NULL, "a\xFFz\xED\xA0\x80\xE2\x82");
    assert_string_equal(buf_str(&out), "\"a\xEF\xBF\xBDz\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                                       "\xEF\xBF\xBD\"");
    for (int c = 1; c < 256; c++) {
        begin();
        json_put_str(&w, NULL, (char[]){(char)c, 'x', '\0'});
        assert_int_equal(scan(buf_str(&out)), 0);
    }
}

static void json_put_num_is_short_and_reads_back_the_same(void **state)
{
    (void)state;
    static const struct {
        double v;
        const char *text;
    } cases[] = {
        {0, "0"},
        {-1, "-1"},
        {0.1, "0.1"},
        {1.0 / 3, "0.3333333333333333"},
        {1e21, "1e+21"},
        {123456789, "123456789"},
        {0.7, "0.7"},
        {5e-324, "4.94065646e-324"},
        {NAN, "null"},
        {-INFINITY, "null"},
        {0.1f, "0.10000000149011612"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin();
        json_put_num(&w, NULL, cases[i].v);
        assert_string_equal(buf_str(&out), cases[i].text);
        assert_int_equal(scan(buf_str(&out)), 0);
        if (isfinite(cases[i].v))
            assert_true(strtod(buf_str(&out), NULL) == cases[i].v);
    }
}

static void json_put_node_copies_a_document(void **state)
{
    (void)state;
    const char text[] =
        "{\"a\":[1,2.5,{\"b\":null,\"c\":[true,false]}],\"\xC3\xA9\":\"x\\n\",\"z\":{}}";
    struct cJSON *doc = parse(text);
    begin();
    json_put_node(&w, NULL, doc);
    assert_string_equal(buf_str(&out), text);
    json_free(doc);
    begin();
    json_put_node(&w, NULL, NULL);
    assert_string_equal(buf_str(&out), "null");
}

/* Other languages tell 1.0 from 1, and count beyond 2^53. */
static void json_put_node_keeps_what_a_double_loses(void **state)
{
    (void)state;
    static const char text[] = "[1.0,-0.0,2E3,{\"a\\\"1.0\\\\\":[9007199254740993,\"-7.0\"]},"
                               "-12345678901234567890123,5,0.5,[],1.50e1,{\"x\":4.0}]";
    struct cJSON *doc = parse(text);
    begin();
    json_put_node(&w, NULL, doc);
    assert_string_equal(buf_str(&out), text);
    const struct cJSON *v = json_first(doc);
    assert_string_equal(json_num_text(v), "1.0");
    assert_true(json_is_int(v));
    json_free(doc);
    doc = parse("[5, 0.25, \"1.0\"]");
    for (v = json_first(doc); v != NULL; v = json_next(v))
        assert_null(json_num_text(v));
    json_free(doc);
}

static void json_writer_marks_a_full_buffer_as_failed(void **state)
{
    (void)state;
    buf_free(&out);
    buf_init(&out, 10);
    json_begin(&w, &out);
    json_open(&w, NULL, '[');
    json_put_str(&w, NULL, "too long for ten bytes");
    json_close(&w, ']');
    assert_true(out.failed);
    assert_true(out.len <= 10);
}

static int free_out(void **state)
{
    (void)state;
    buf_free(&out);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_scan_accepts_what_rfc_8259_allows),
        cmocka_unit_test(json_scan_refuses_malformed_text),
        cmocka_unit_test(json_scan_refuses_text_after_the_value),
        cmocka_unit_test(json_scan_refuses_malformed_numbers),
        cmocka_unit_test(json_scan_refuses_lone_surrogates),
        cmocka_unit_test(json_scan_refuses_nul_and_control_characters),
        cmocka_unit_test(json_scan_refuses_malformed_escapes),
        cmocka_unit_test(json_scan_refuses_invalid_utf8),
        cmocka_unit_test(json_scan_refuses_duplicate_keys_however_spelled),
        cmocka_unit_test(json_scan_stops_depth_bombs),
        cmocka_unit_test(json_limits_on_depth_end_where_the_parser_does),
        cmocka_unit_test(json_scan_counts_values_and_bytes),
        cmocka_unit_test(json_scan_takes_linear_time_for_many_keys),
        cmocka_unit_test(json_parse_gives_the_values),
        cmocka_unit_test(json_parse_takes_pythons_infinities_where_told),
        cmocka_unit_test(json_getters_accept_null_and_other_types),
        cmocka_unit_test(json_parse_needs_no_nul_after_the_text),
        cmocka_unit_test(json_is_int_ends_at_two_to_the_53),
        cmocka_unit_test(json_get_int_checks_type_and_range),
        cmocka_unit_test(json_get_float_checks_type_and_range),
        cmocka_unit_test(json_get_bool_and_str_check_the_type),
        cmocka_unit_test(json_writer_puts_commas_and_keys),
        cmocka_unit_test(json_writer_escapes_strings),
        cmocka_unit_test(json_writer_writes_valid_utf8_whatever_it_gets),
        cmocka_unit_test(json_put_num_is_short_and_reads_back_the_same),
        cmocka_unit_test(json_put_node_copies_a_document),
        cmocka_unit_test(json_put_node_keeps_what_a_double_loses),
        cmocka_unit_test(json_writer_marks_a_full_buffer_as_failed),
    };
    return cmocka_run_group_tests_name("base/json", tests, NULL, free_out);
}
