/* Calls of functions as the formats write them: what the parser makes of them however they are cut, and what the
 * grammar of calls lets through. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "api/tools.h"
#include "tests/grammar_follow.h"

#define BAR(words) "<\xef\xbd\x9c" words "\xef\xbd\x9c>"
#define TOOL       "tool\xe2\x96\x81"
#define BEGINS                   \
    BAR(TOOL "calls\xe2\x96\x81" \
             "begin")
#define ENDS                     \
    BAR(TOOL "calls\xe2\x96\x81" \
             "end")
#define BEGIN                   \
    BAR(TOOL "call\xe2\x96\x81" \
             "begin")
#define END                     \
    BAR(TOOL "call\xe2\x96\x81" \
             "end")
#define SEP BAR(TOOL "sep")

static const char request[] =
    "{\"parallel_tool_calls\":true,\"tools\":[{\"type\":\"function\",\"function\":{\"name\":"
    "\"look\",\"parameters\":"
    "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"days\":{\"type\":"
    "\"integer\"},"
    "\"unit\":{\"enum\":[\"c\",\"f\"]},\"near\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":"
    "\"null\"}]},"
    "\"at\":{\"$ref\":\"#/$defs/at\"}},\"required\":[\"city\"],"
    "\"$defs\":{\"at\":{\"type\":\"array\",\"items\":{\"type\":\"number\"}}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"no.w-1\"}}]}";

/* A text that an answer may be, and what it says and calls. */
struct answer {
    const char *hint; /* of the format */
    const char *text;
    const char *said;
    const char *calls; /* name arguments, a line each */
};

#define LOOK  "look {\"city\": \"Rome\", \"days\": 3}\n"
#define JSON  "{\"city\": \"Rome\", \"days\": 3}"
#define CODER "<parameter="
#define ODD   "look {\"city\": \"a \\\"b\\\" \\\\ \\n</parameter\\t<tool_call> \xc3\xa9\"}\n"

static const struct answer answers[] = {
    {"<tool_call>", "<tool_call>\n{\"name\": \"look\", \"arguments\": " JSON "}\n</tool_call>", "",
     LOOK},
    {"<tool_call>",
     "I look.\n\n<tool_call>{\"name\":\"look\",\"arguments\":" JSON "}</tool_call>\n<tool_call>\n"
     "{\"name\": \"no.w-1\", \"arguments\": {}}\n</tool_call>",
     "I look.", LOOK "no.w-1 {}\n"},
    {"<tool_call>", "a <tool_cal l> and <tool", "a <tool_cal l> and <tool", ""},
    {"<tool_call>",
     "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"city\": \"}{\\\"]\\\\\"}}\n</tool_call>",
     "", "look {\"city\": \"}{\\\"]\\\\\"}\n"},
    {"[TOOL_CALLS]",
     "[TOOL_CALLS] [{\"name\": \"look\", \"arguments\": " JSON "}, {\"name\": \"no.w-1\", "
     "\"arguments\": {\"x\": [1, {}]}}]",
     "", LOOK "no.w-1 {\"x\": [1, {}]}\n"},
    {"[TOOL_CALLS]", "Well [TOOL_CALL [TOOL_CALLS][{\"name\":\"no.w-1\",\"arguments\":{}}]",
     "Well [TOOL_CALL", "no.w-1 {}\n"},
    {"[ARGS]", "[TOOL_CALLS]look[ARGS]" JSON "[TOOL_CALLS]no.w-1[ARGS]{}", "", LOOK "no.w-1 {}\n"},
    {"[ARGS]", "It is so: [TOOL_CALLS]no.w-1[ARGS]{\"a\": \"[TOOL_CALLS]\"}",
     "It is so:", "no.w-1 {\"a\": \"[TOOL_CALLS]\"}\n"},
    {"<|tool_call|>", "<|tool_call|>[{\"name\": \"look\", \"arguments\": " JSON "}]", "", LOOK},
    {"{\"name\": function name, \"parameters\":", "{\"name\": \"look\", \"parameters\": " JSON "}",
     "", LOOK},
    {"{\"name\": function name, \"parameters\":",
     "<|python_tag|>{\"name\": \"no.w-1\", \"parameters\": {}}", "", "no.w-1 {}\n"},
    {"{\"name\": function name, \"parameters\":", "{\"nam\": 1}", "{\"nam\": 1}", ""},
    {BEGINS "```json",
     BEGINS BEGIN "function" SEP "look\n```json\n" JSON "\n```" END "\n" BEGIN "function" SEP
                  "no.w-1\n```json\n{}\n```" END ENDS,
     "", LOOK "no.w-1 {}\n"},
    {BEGINS, "Let me see. " BEGINS BEGIN "look" SEP JSON END BEGIN "no.w-1" SEP "{}" END ENDS,
     "Let me see.", LOOK "no.w-1 {}\n"},
    {CODER,
     "<tool_call>\n<function=look>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n3\n</"
     "parameter>\n"
     "</function>\n</tool_call>",
     "", LOOK},
    {CODER,
     "So:\n<tool_call>\n<function=look>\n<parameter=city>\na \"b\" \\ \n</parameter\t<tool_call> "
     "\xc3\xa9"
     "\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=no.w-1>\n</function>\n</"
     "tool_call>",
     "So:", ODD "no.w-1 {}\n"},
    {CODER,
     "<tool_call>\n<function=look>\n<parameter=city>\n7\n</parameter>\n<parameter=unit>\nc\n</"
     "parameter>\n"
     "<parameter=near>\nnull\n</parameter>\n<parameter=at>\n[1, "
     "2.5]\n</parameter>\n</function>\n</tool_call>",
     "", "look {\"city\": \"7\", \"unit\": \"c\", \"near\": \"null\", \"at\": [1, 2.5]}\n"},
    {CODER,
     "<tool_call>\n<function=no.w-1>\n<parameter=any "
     "thing>\n\n\n</parameter>\n</function>\n</tool_call>",
     "", "no.w-1 {\"any thing\": \"\\n\"}\n"},
    {"<arg_key>",
     "<tool_call>look\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</"
     "arg_key>\n"
     "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>no.w-1\n</tool_call>",
     "", LOOK "no.w-1 {}\n"},
};

/* What must not come: an answer with the call that it begins has to go on in another way. */
static const struct answer wrong[] = {
    {"<tool_call>", "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>", NULL,
     NULL},
    {"<tool_call>", "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"days\": 3}}\n</tool_call>",
     NULL, NULL},
    {"<tool_call>", "<tool_call>\n{\"name\": \"look\", \"arguments\": " JSON "}\n</tool_call> and",
     NULL, NULL},
    {"<tool_call>", "<tool_call> no, I do not", NULL, NULL},
    {"[TOOL_CALLS]", "[TOOL_CALLS] [{\"name\": \"look\", \"arguments\": {\"city\": 1}}]", NULL,
     NULL},
    {"[ARGS]", "[TOOL_CALLS]loo[ARGS]{}", NULL, NULL},
    {"{\"name\": function name, \"parameters\":", "{\"name\": \"I\"}", NULL, NULL},
    {BEGINS, BEGINS BEGIN "look" SEP JSON END, NULL, NULL},
    {CODER,
     "<tool_call>\n<function=look>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
     NULL, NULL},
    {CODER,
     "<tool_call>\n<function=look>\n<parameter=city>\nRome\n</"
     "parameter>\n<parameter=days>\nthree\n</parameter>\n"
     "</function>\n</tool_call>",
     NULL, NULL},
    {CODER,
     "<tool_call>\n<function=look>\n<parameter=city>\nx\n</parameter>\n<parameter=unit>\nk\n</"
     "parameter>\n"
     "</function>\n</tool_call>",
     NULL, NULL},
};

struct setting {
    struct arena arena;
    struct cJSON *body;
    struct tools tools;
    const char *json;
};

static void set_up_with(struct setting *s, const char *hint, const char *text)
{
    struct err e = {0};
    arena_init(&s->arena, 8 << 20);
    assert_int_equal(json_parse(&s->body, text, strlen(text), NULL, &e), 0);
    assert_int_equal(tools_read(s->body, &s->tools, &e), 0);
    assert_non_null(s->tools.format = tool_format_find(hint));
    assert_int_equal(tool_grammar_json(&s->tools, &s->arena, &s->json, &e), 0);
}

static void set_up(struct setting *s, const char *hint)
{
    set_up_with(s, hint, request);
}

static void tear_down(struct setting *s)
{
    json_free(s->body);
    arena_free(&s->arena);
}

/* The deltas of a stream, put together as a client does. */
static void take_deltas(struct tool_parse *p, struct buf *calls)
{
    while (tool_parse_more(p)) {
        struct buf out;
        struct json_writer w;
        struct cJSON *doc = NULL;
        buf_init(&out, 1 << 16);
        json_begin(&w, &out);
        json_open(&w, NULL, '{');
        tool_parse_put_more(p, &w);
        json_close(&w, '}');
        assert_int_equal(json_parse(&doc, out.data, out.len, NULL, NULL), 0);
        const struct cJSON *fn = json_get(json_first(json_get(doc, "tool_calls")), "function");
        if (json_get(fn, "name") != NULL)
            buf_printf(calls, "%s%s ", calls->len > 0 ? "\n" : "", json_str(json_get(fn, "name")));
        buf_adds(calls, json_str(json_get(fn, "arguments")));
        json_free(doc);
        buf_free(&out);
    }
}

/* Parses text in pieces of n bytes, and of whole characters, as the engine gives them. */
static void parse(const struct setting *s, const char *text, size_t n, struct buf *said,
                  struct buf *calls, struct buf *whole)
{
    struct tool_parse *p = tool_parse_open(s->tools.format, s->json, 1 << 16);
    buf_init(said, 1 << 16);
    buf_init(calls, 1 << 16);
    buf_init(whole, 1 << 16);
    for (size_t i = 0, len = strlen(text), end; i < len; i = end) {
        for (end = n < len - i ? i + n : len; ((unsigned char)text[end] & 0xc0) == 0x80;)
            end++;
        tool_parse_push(p, text + i, end - i, said);
        take_deltas(p, calls);
    }
    tool_parse_end(p, said);
    take_deltas(p, calls);
    if (calls->len > 0)
        buf_addc(calls, '\n');
    for (int i = 0; i < tool_parse_calls(p); i++) {
        const struct tool_call c = tool_parse_call(p, i);
        buf_printf(whole, "%s %s\n", c.name, c.arguments);
    }
    assert_false(tool_parse_failed(p));
    tool_parse_close(p);
}

static void every_format_is_read_however_it_is_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        const struct answer *a = &answers[i];
        struct setting s;
        set_up(&s, a->hint);
        for (size_t n = 1; n <= strlen(a->text); n++) {
            struct buf said, calls, whole;
            parse(&s, a->text, n, &said, &calls, &whole);
            assert_string_equal(buf_str(&said), a->said);
            assert_string_equal(buf_str(&whole), a->calls);
            assert_string_equal(buf_str(&calls), a->calls);
            buf_free(&said);
            buf_free(&calls);
            buf_free(&whole);
        }
        tear_down(&s);
    }
}

static void an_answer_that_is_cut_off_keeps_what_came(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        const struct answer *a = &answers[i];
        struct setting s;
        set_up(&s, a->hint);
        for (size_t n = 1; n < strlen(a->text); n++) {
            char text[512];
            if (((unsigned char)a->text[n] & 0xc0) == 0x80)
                continue;
            struct buf said, calls, whole, said2, calls2, whole2;
            snprintf(text, sizeof text, "%.*s", (int)n, a->text);
            parse(&s, text, n, &said, &calls, &whole);
            parse(&s, text, 1, &said2, &calls2, &whole2);
            assert_string_equal(buf_str(&said), buf_str(&said2));
            assert_string_equal(buf_str(&calls), buf_str(&calls2));
            assert_string_equal(buf_str(&whole), buf_str(&whole2));
            buf_free(&said);
            buf_free(&calls);
            buf_free(&whole);
            buf_free(&said2);
            buf_free(&calls2);
            buf_free(&whole2);
        }
        tear_down(&s);
    }
}

/* Whether an answer may be this text; form: what it may be besides calls, or any text. */
static bool fits(const char *hint, const char *text, enum tools_choice choice, bool parallel)
{
    struct setting s;
    struct err e = {0};
    struct grammar_run *r = NULL;
    const struct grammar *g = NULL;
    grammar_sym top;
    set_up(&s, hint);
    s.tools.choice = choice;
    s.tools.parallel = parallel;
    struct schema schema = {.arena = &s.arena};
    if (tool_grammar_symbol(&s.tools, 0, &schema, &top, &e) != 0 ||
        schema_close(&schema, top, &g, &e) != 0 || grammar_run_open(&r, g, &e) != 0)
        fail_msg("%s", e.msg);
    const bool ok = grammar_follow(r, text, strlen(text), NULL);
    tear_down(&s);
    return ok;
}

static void the_grammar_lets_whole_calls_through(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        const struct answer *a = &answers[i];
        const size_t n_calls = strlen(a->calls);
        const bool several = n_calls > 0 && strchr(a->calls, '\n') != a->calls + n_calls - 1;
        if (!fits(a->hint, a->text, TOOLS_AUTO, true))
            fail_msg("%s should fit", a->text);
        assert_int_equal(fits(a->hint, a->text, TOOLS_AUTO, false), !several);
        assert_int_equal(fits(a->hint, a->text, TOOLS_REQUIRED, true),
                         n_calls > 0 && *a->said == '\0');
    }
}

static void the_grammar_holds_back_what_is_no_call(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (fits(wrong[i].hint, wrong[i].text, TOOLS_AUTO, true))
            fail_msg("%s should not fit", wrong[i].text);
}

/* Each way through these has eight rounds of twenty alternatives: nobody has the time to go all of them. */
static void schemas_in_circles_take_no_time(void **state)
{
    struct buf text;
    struct setting s;
    struct schema schema = {0};
    grammar_sym out;
    struct err e = {0};
    (void)state;
    buf_init(&text, 1 << 16);
    buf_adds(&text,
             "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"look\",\"parameters\":{"
             "\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#/$defs/a\"}},"
             "\"$defs\":{\"a\":{\"anyOf\":[");
    for (int i = 0; i < 20; i++)
        buf_printf(&text, "%s{\"$ref\":\"#/$defs/a\",\"type\":\"integer\"}", i > 0 ? "," : "");
    buf_adds(&text, "]}}}}}]}");
    set_up_with(&s, CODER, buf_str(&text));
    schema.arena = &s.arena;
    assert_int_equal(tool_grammar_symbol(&s.tools, 0, &schema, &out, &e), 0);
    tear_down(&s);
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schemas_in_circles_take_no_time),
        cmocka_unit_test(every_format_is_read_however_it_is_cut),
        cmocka_unit_test(an_answer_that_is_cut_off_keeps_what_came),
        cmocka_unit_test(the_grammar_lets_whole_calls_through),
        cmocka_unit_test(the_grammar_holds_back_what_is_no_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
