/* Chat templates of the model families against what Python's jinja2 makes of them, byte for byte:
 * tests/fixtures/templates/NAME.jinja with the conversations of cases.json (by
 * tools/make_template_fixtures.py).  Then what template.c does to messages and keyword arguments.
 *     TEMPLATE_FIXTURES=DIR  instead of tests/fixtures/templates */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/template.h"
#include "base/file.h"
#include "base/json.h"

static const struct json_limits big = {.max_bytes = 8 << 20, .max_depth = 64, .max_nodes = 400000};

static void load(struct buf *text, const char *name, const char *suffix)
{
    const char *dir = getenv("TEMPLATE_FIXTURES");
    char path[512];
    struct err e = {0};
    snprintf(path, sizeof path, "%s/%s%s", dir ? dir : "tests/fixtures/templates", name, suffix);
    buf_init(text, big.max_bytes);
    if (file_read(text, path, &e) != 0)
        fail_msg("%s: %s", path, e.msg);
}

static struct cJSON *parse(const char *text, size_t len)
{
    struct err e = {0};
    struct cJSON *doc = NULL;
    if (json_parse(&doc, text, len, &big, &e) != 0)
        fail_msg("%s", e.msg);
    return doc;
}

static bool case_is_same(const struct template *t, const char *family, const struct cJSON *k)
{
    const char *want = json_str(json_get(k, "expected"));
    struct buf out;
    struct err e = {0};
    buf_init(&out, 1 << 20);
    int rc = template_render(t, json_get(k, "messages"), json_get(k, "tools"),
                             json_get(k, "kwargs"), json_bool(json_get(k, "generate")), &out, &e);
    bool same = want ? rc == 0 && strcmp(buf_str(&out), want) == 0 : rc == ERR_INVALID;
    if (!same)
        print_error("%s, %s\n--- expected:\n%s\n--- actual:\n%s\n", family,
                    json_str(json_get(k, "name")), want ? want : "an error",
                    rc ? e.msg : buf_str(&out));
    buf_free(&out);
    return same;
}

static void test_families(void **state)
{
    (void)state;
    struct buf text;
    int n = 0, bad = 0;
    load(&text, "cases", ".json");
    struct cJSON *doc = parse(text.data, text.len);
    buf_free(&text);
    for (const struct cJSON *f = json_first(doc); f; f = json_next(f)) {
        const char *name = json_str(json_get(f, "template"));
        struct template *t;
        struct err e = {0};
        load(&text, name, ".jinja");
        if (template_open(&t, text.data, text.len, json_str(json_get(f, "bos")),
                          json_str(json_get(f, "eos")), &e) != 0) {
            print_error("%s: %s\n", name, e.msg);
            bad++;
        } else {
            if (template_wants_parts(t) != json_bool(json_get(f, "parts")) ||
                template_wants_text_arguments(t) != json_bool(json_get(f, "text_arguments")))
                fail_msg("%s: parts %d, text arguments %d", name, template_wants_parts(t),
                         template_wants_text_arguments(t));
            for (int calls = 0; calls < 2; calls++)
                if (template_takes_null(t, calls) !=
                    json_bool(json_get(f, calls ? "null_beside_calls" : "null_alone")))
                    fail_msg("%s: takes null %d", name, template_takes_null(t, calls));
            for (const struct cJSON *k = json_first(json_get(f, "cases")); k; k = json_next(k)) {
                bad += !case_is_same(t, name, k);
                n++;
            }
            template_close(t);
        }
        buf_free(&text);
    }
    json_free(doc);
    print_message("%d conversations\n", n);
    assert_int_equal(bad, 0);
}

/* ---- what template.c adds ---- */

static int prompt(const char *src, const char *messages, const char *kwargs, struct buf *out,
                  struct err *e)
{
    struct template *t;
    struct cJSON *m = parse(messages, strlen(messages));
    struct cJSON *k = kwargs ? parse(kwargs, strlen(kwargs)) : NULL;
    buf_init(out, 1 << 20);
    *e = (struct err){0};
    int rc = template_open(&t, src, src ? strlen(src) : 0, "<s>", NULL, e);
    if (rc == 0) {
        rc = template_render(t, m, NULL, k, true, out, e);
        template_close(t);
    }
    json_free(m);
    json_free(k);
    return rc;
}

static void expect(const char *src, const char *messages, const char *kwargs, const char *want)
{
    struct buf out;
    struct err e;
    if (prompt(src, messages, kwargs, &out, &e) != 0)
        fail_msg("%s", e.msg);
    assert_string_equal(buf_str(&out), want);
    buf_free(&out);
}

static void test_default(void **state)
{
    (void)state;
    expect(NULL, "[{\"role\":\"user\",\"content\":\"Hi\"}]", NULL,
           "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

static void test_contents(void **state)
{
    (void)state;
    static const char text[] = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    static const char parts[] = "{% for m in messages %}{% for p in m.content %}"
                                "{% if p.type == 'text' %}<{{ p.text }}>{% endif %}{% endfor %}"
                                "{% endfor %}";
    static const char two[] = "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                              "{\"type\":\"text\",\"text\":\"b\"}]}]";
    expect(text, two, NULL, "[a\nb]");
    expect(parts, two, NULL, "<a><b>");
    expect(parts, "[{\"role\":\"user\",\"content\":\"x\"}]", NULL, "<x>");
    expect(text, "[{\"role\":\"user\",\"content\":null},{\"role\":\"assistant\",\"content\":null}]",
           NULL, "[][]");
}

/* none where the template can tell it from a text, "" where none would do harm. */
static void test_null(void **state)
{
    (void)state;
#define NULL_ALONE "[{\"role\":\"assistant\",\"content\":null}]"
#define NULL_CALLS \
    "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}]"
    static const char tests[] = "{% for m in messages %}[{{ 'none' if m.content is none else "
                                "m.content }}]{% endfor %}";
    static const char prints[] = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    static const char adds[] = "{% for m in messages %}{{ '[' + m.content + ']' }}{% endfor %}";
    static const char calls_only[] =
        "{% for m in messages %}{% if m.tool_calls %}[call{{ m.content is none }}]{% else %}"
        "{{ '[' + m.content + ']' }}{% endif %}{% endfor %}";
    expect(tests, NULL_ALONE, NULL, "[none]");
    expect(tests, NULL_CALLS, NULL, "[none]");
    expect(prints, NULL_ALONE, NULL, "[]");
    expect(prints, NULL_CALLS, NULL, "[]");
    expect(adds, NULL_ALONE, NULL, "[]");
    expect(adds, NULL_CALLS, NULL, "[]");
    expect(calls_only, NULL_ALONE, NULL, "[]");
    expect(calls_only, NULL_CALLS, NULL, "[callTrue]");
    expect(tests, "[{\"role\":\"user\",\"content\":null}]", NULL, "[]");
}

static void test_arguments(void **state)
{
    (void)state;
#define CALLS "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name }} "
#define END   "{% endfor %}{% endfor %}"
    static const char object[] = CALLS "{{ c.function.arguments | tojson }}" END;
    static const char text[] = CALLS "{{ '' + c.function.arguments }}" END;
    static const char as_text[] = "[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{"
                                  "\"type\":\"function\",\"function\":{\"name\":\"f\","
                                  "\"arguments\":\"{\\\"a\\\": [1]}\"}}]}]";
    static const char as_object[] = "[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{"
                                    "\"type\":\"function\",\"function\":{\"name\":\"f\","
                                    "\"arguments\":{\"a\":[1]}}}]}]";
    expect(object, as_text, NULL, "f {\"a\": [1]}");
    expect(object, as_object, NULL, "f {\"a\": [1]}");
    expect(text, as_text, NULL, "f {\"a\": [1]}");
    expect(text, as_object, NULL, "f {\"a\":[1]}");
}

static void test_variables(void **state)
{
    (void)state;
    static const char one[] = "[{\"role\":\"user\",\"content\":\"x\"}]";
    struct buf out;
    struct err e;
    expect("{{ bos_token }}{{ eos_token is defined }}{{ tools is none }}{{ documents is none }}"
           "{{ add_generation_prompt }}",
           one, NULL, "<s>FalseTrueTrueTrue");
    expect("{{ enable_thinking }}{{ n + 1 }}", one, "{\"enable_thinking\":false,\"n\":2}",
           "False3");
    static const char *const reserved[] = {"{\"messages\":[]}", "{\"bos_token\":\"x\"}",
                                           "{\"raise_exception\":1}", "{\"tools\":[]}"};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(prompt("x", one, reserved[i], &out, &e), ERR_INVALID);
        assert_string_equal(e.param, "chat_template_kwargs");
        buf_free(&out);
    }
    assert_int_equal(prompt("{{ raise_exception('Only users') }}", one, NULL, &out, &e),
                     ERR_INVALID);
    assert_string_equal(e.msg, "Only users");
    buf_free(&out);
    assert_int_equal(prompt("{% if %}", one, NULL, &out, &e), ERR_INVALID);
    buf_free(&out);
    assert_int_equal(prompt("{% include 'x' %}", one, NULL, &out, &e), ERR_UNSUPPORTED);
    buf_free(&out);
}

static void test_today(void **state)
{
    (void)state;
    char want[64];
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    strftime(want, sizeof want, "%d %b %Y", &tm);
    expect("{{ strftime_now('%d %b %Y') }}", "[{\"role\":\"user\",\"content\":\"x\"}]", NULL, want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),  cmocka_unit_test(test_default),
        cmocka_unit_test(test_contents),  cmocka_unit_test(test_null),
        cmocka_unit_test(test_arguments), cmocka_unit_test(test_variables),
        cmocka_unit_test(test_today),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
