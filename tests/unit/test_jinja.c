/* The Jinja renderer: small templates against what Python's jinja2 makes of them
 * (tests/fixtures/templates/exprs.json, by tools/make_template_fixtures.py), its errors, its limits
 * and the templates that try to exhaust it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/jinja.h"
#include "base/file.h"
#include "base/json.h"

static const struct json_limits big = {.max_bytes = 8 << 20, .max_depth = 64, .max_nodes = 200000};

static struct cJSON *load(const char *path)
{
    struct buf text;
    struct err e = {0};
    struct cJSON *doc = NULL;
    buf_init(&text, big.max_bytes);
    if (file_read(&text, path, &e) != 0 || json_parse(&doc, text.data, text.len, &big, &e) != 0)
        fail_msg("%s: %s", path, e.msg);
    buf_free(&text);
    return doc;
}

static int run(const char *src, size_t len, const struct jinja_var *vars, int n_vars,
               const struct jinja_limits *lim, struct buf *out, struct err *e)
{
    struct jinja *t = NULL;
    int rc = jinja_parse(&t, src, len, lim, e);
    if (rc == 0)
        rc = jinja_render(t, vars, n_vars, lim, out, e);
    jinja_free(t);
    return rc;
}

static void test_as_python(void **state)
{
    (void)state;
    struct cJSON *doc = load("tests/fixtures/templates/exprs.json");
    struct jinja_var vars[32];
    struct jinja_limits lim = jinja_limits_default;
    int n = 0, bad = 0, count = 0;
    struct tm noon = {.tm_year = 124,
                      .tm_mon = 6,
                      .tm_mday = 26,
                      .tm_hour = 13,
                      .tm_min = 5,
                      .tm_sec = 9,
                      .tm_isdst = -1};
    lim.now_unix_s = (int64_t)mktime(&noon);
    for (const struct cJSON *v = json_first(json_get(doc, "vars")); v; v = json_next(v))
        vars[n++] = (struct jinja_var){.name = json_key(v), .type = JINJA_VAR_JSON, .json = v};
    for (const struct cJSON *x = json_first(json_get(doc, "exprs")); x; x = json_next(x)) {
        const char *src = json_str(json_get(x, "src")), *want = json_str(json_get(x, "expected"));
        struct buf out;
        struct err e = {0};
        buf_init(&out, 1 << 20);
        int rc = run(src, strlen(src), vars, n, &lim, &out, &e);
        bool same = want ? rc == 0 && strcmp(buf_str(&out), want) == 0 : rc != 0;
        if (!same) {
            print_error("template: %s\nexpected: %s\n  actual: %s\n", src, want ? want : "an error",
                        rc ? e.msg : buf_str(&out));
            bad++;
        }
        if (rc != 0)
            assert_true(e.msg[0] != 0 && e.code == rc);
        count++;
        buf_free(&out);
    }
    json_free(doc);
    print_message("%d templates\n", count);
    assert_int_equal(bad, 0);
}

static int rendered_error(const char *src, struct err *e)
{
    struct buf out;
    *e = (struct err){0};
    buf_init(&out, 1 << 20);
    buf_adds(&out, "before");
    int rc = run(src, strlen(src), NULL, 0, NULL, &out, e);
    assert_string_equal(buf_str(&out), "before");
    buf_free(&out);
    return rc;
}

static void test_errors(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(rendered_error("a\n\n{{ x.y }}", &e), ERR_INVALID);
    assert_string_equal(e.msg, "chat template line 3: 'x' is undefined");
    assert_int_equal(rendered_error("a\n{% if %}", &e), ERR_INVALID);
    assert_string_equal(e.msg, "chat template line 2: an expression is missing here");
    assert_int_equal(rendered_error("{{ raise_exception('Roles must\nalternate') }}", &e),
                     ERR_INVALID);
    assert_string_equal(e.msg, "Roles must alternate");
    assert_string_equal(e.reason, "template_rejected");
    assert_int_equal(rendered_error("{% include 'x' %}", &e), ERR_UNSUPPORTED);
    assert_int_equal(rendered_error("{% extends 'x' %}", &e), ERR_UNSUPPORTED);
    assert_int_equal(rendered_error("{% for x in [] recursive %}{% endfor %}", &e),
                     ERR_UNSUPPORTED);
    assert_int_equal(rendered_error("\xff", &e), ERR_INVALID);
    struct buf out; /* no place for the message is fine */
    buf_init(&out, 100);
    assert_int_equal(run("{{ x.y }}", 9, NULL, 0, NULL, &out, NULL), ERR_INVALID);
    assert_int_equal(run("{{ x", 4, NULL, 0, NULL, &out, NULL), ERR_INVALID);
    buf_free(&out);
}

static void test_vars(void **state)
{
    (void)state;
    static const char src[] = "{{ a }} {{ b }} {{ c }} {{ d }} {{ e is defined }}{{ d|length }}";
    struct jinja_var vars[] = {
        {.name = "a", .type = JINJA_VAR_INT, .num = -5},
        {.name = "b", .type = JINJA_VAR_BOOL, .flag = true},
        {.name = "c", .type = JINJA_VAR_NONE},
        {.name = "d", .type = JINJA_VAR_STR, .str = "\xc3\xa9"},
        {.name = "unused", .type = JINJA_VAR_STR, .str = "x"},
    };
    struct buf out;
    struct err e = {0};
    buf_init(&out, 100);
    assert_int_equal(run(src, strlen(src), vars, 5, NULL, &out, &e), 0);
    assert_string_equal(buf_str(&out), "-5 True None \xc3\xa9 False1");
    buf_free(&out);
    buf_init(&out, 10); /* the caller's buffer may be small */
    assert_int_equal(run("{{ 'x' * 11 }}", 14, NULL, 0, NULL, &out, &e), ERR_TOOBIG);
    buf_free(&out);
}

/* ---- templates that try to exhaust us ---- */

static void repeat(struct buf *b, const char *s, int n)
{
    for (int i = 0; i < n; i++)
        buf_adds(b, s);
}

static void expect_refused(struct buf *src)
{
    struct buf out;
    struct err e = {0};
    struct timespec from, to;
    buf_init(&out, 64 << 20);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    int rc = run(buf_str(src), src->len, NULL, 0, NULL, &out, &e);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    double s = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    if (rc == 0 || s > 10)
        fail_msg("%.60s...: %d after %.2f s", buf_str(src), rc, s);
    buf_free(&out);
    buf_free(src);
}

static void refuse_repeated(const char *head, const char *s, int n, const char *tail)
{
    struct buf b;
    buf_init(&b, 8 << 20);
    buf_adds(&b, head);
    repeat(&b, s, n);
    buf_adds(&b, tail);
    expect_refused(&b);
}

static void test_nesting_bombs(void **state)
{
    (void)state;
    refuse_repeated("{{ ", "(", 1200000, "");
    refuse_repeated("{{ ", "(", 200000, "");
    refuse_repeated("{{ ", "[", 100000, " }}");
    refuse_repeated("{{ ", "[", 200, " }}");
    refuse_repeated("{{ ", "{1:", 60000, " }}");
    refuse_repeated("{{ ", "-", 200000, "1 }}");
    refuse_repeated("{{ ", "not ", 60000, "1 }}");
    refuse_repeated("{{ ", "1 if 1 else ", 20000, "1 }}");
    refuse_repeated("{{ 1", "+1", 100000, " }}");
    refuse_repeated("{{ 1", "~1", 100000, " }}");
    refuse_repeated("{{ 1", " and 1", 40000, " }}");
    refuse_repeated("{{ 1", "|abs", 60000, " }}");
    refuse_repeated("{{ a", ".b", 100000, " }}");
    refuse_repeated("{{ a", "[0]", 80000, " }}");
    refuse_repeated("{{ a", "()", 80000, " }}");
    refuse_repeated("{{ f(", "f(", 80000, " }}");
    refuse_repeated("", "{% if 1 %}", 20000, "");
    refuse_repeated("", "{% for a in b %}", 10000, "");
    refuse_repeated("", "{% macro a() %}", 10000, "");
    refuse_repeated("{% for ", "(", 100000, "a in b %}{% endfor %}");
    refuse_repeated("", "{{ a }}", 30000, "{{");
    refuse_repeated("", "{#", 130000, "");
    refuse_repeated("{% raw %}", "{%      ", 30000, "");
    refuse_repeated("{{ 'a'", " 'a'", 60000, " + }}");
}

static void refuse(const char *src)
{
    refuse_repeated(src, "", 0, "");
}

static void test_eval_bombs(void **state)
{
    (void)state;
    refuse("{{ 'a' * 10**9 }}");
    refuse("{{ [0] * 10**9 }}");
    refuse("{{ 'a' * 9223372036854775807 }}");
    refuse("{{ range(10**9) }}");
    refuse("{{ range(-9223372036854775807, 9223372036854775807) }}");
    refuse("{{ 10 ** 100 }}");
    refuse("{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}x"
           "{% endfor %}{% endfor %}{% endfor %}");
    refuse("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}");
    refuse("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
    refuse("{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}");
    refuse("{% macro f() %}{% call f() %}{% endcall %}{{ caller() }}{% endmacro %}{{ f() }}");
    refuse("{% set ns = namespace(s='aaaa') %}{% for i in range(1000) %}"
           "{% set ns.s = ns.s + ns.s %}{% endfor %}");
    refuse("{% set ns = namespace(s='aaaa') %}{% for i in range(1000) %}"
           "{% set ns.s = ns.s.replace('a', 'aaaa') %}{% endfor %}");
    refuse("{% set ns = namespace(s='aaaa') %}{% for i in range(1000) %}"
           "{% set ns.s = ns.s|join(ns.s) %}{% endfor %}");
    refuse("{% set ns = namespace(l=[1]) %}{% for i in range(1000) %}"
           "{% set ns.l = ns.l + ns.l %}{% endfor %}");
    refuse("{% set ns = namespace(l=[]) %}{% for i in range(1000) %}"
           "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}");
    refuse("{% set ns = namespace(l=[]) %}{% for i in range(1000) %}"
           "{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}");
    refuse("{% set ns = namespace(l=[]) %}{% set m = namespace(l=[]) %}{% for i in range(1000) %}"
           "{% set ns.l = [ns.l] %}{% set m.l = [m.l] %}{% endfor %}{{ ns.l == m.l }}");
    refuse("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}");
    refuse("{% set ns = namespace() %}{% set ns.me = [ns] %}{{ ns.me|tojson }}");
    refuse("{% set s = 'ab' * 1000000 %}{% for i in range(99999) %}{{ s[i] }}{% endfor %}");
    refuse("{% set s = 'ab' * 1000000 %}{% for i in range(99999) %}{% if s in s %}{% endif %}"
           "{% endfor %}");
    refuse("{% set s = 'a' * 4000000 %}{{ s.rfind('b' + s[:2000000]) }}");
    refuse("{{ ('ab' * 2000000)|list|sort|join|upper|list|unique|list * 1000000 }}");
    refuse("{{ '%1000000000d' % 1 }}");
    refuse("{{ '%.1000000000f' % 1 }}");
    refuse("{{ 1|tojson(indent=10**9) }}");
    refuse("{{ [[[[1]]]]|tojson(indent=10000000) }}");
    refuse("{{ 'a\\na'|indent(10**9) }}");
    refuse("{{ [1]|batch(10**9, 0)|list }}");
    refuse("{{ -9223372036854775807 - 2 }}");
    refuse("{{ (-9223372036854775807 - 1) // -1 }}");
    refuse("{{ (-9223372036854775807 - 1)|abs }}");
    refuse("{{ 1e308|int }}");
    refuse("{{ ('x' * 100000)|trim('y' * 100000) }}{% for i in range(99999) %}"
           "{{ ('x' * 10000)|trim('y' * 100000 ~ 'x') }}{% endfor %}");
}

static void test_long_is_fine(void **state)
{
    (void)state;
    struct buf text, out;
    struct err e = {0};
    buf_init(&text, 8 << 20);
    buf_init(&out, 8 << 20);
    repeat(&text, "word \xc3\xa9 ", 500000); /* a prompt of 4 MB */
    struct jinja_var v = {.name = "x", .type = JINJA_VAR_STR, .str = buf_str(&text)};
    static const char src[] = "{% if '</think>' in x %}no{% endif %}{{ x|trim + '\n' }}"
                              "{{ x.split('</think>')[-1]|length }}";
    int rc = run(src, strlen(src), &v, 1, NULL, &out, &e);
    if (rc != 0)
        fail_msg("%s", e.msg);
    assert_true(out.len > 4000000);
    buf_free(&text);
    buf_free(&out);
}

/* ---- threads ---- */

static void *render_often(void *arg)
{
    for (int i = 0; i < 200; i++) {
        struct buf out;
        buf_init(&out, 1000);
        if (jinja_render(arg, NULL, 0, NULL, &out, NULL) != 0 ||
            strcmp(buf_str(&out), "0,1,2,x1,x2,") != 0)
            return arg;
        buf_free(&out);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    static const char src[] = "{% macro m(a) %}x{{ a }},{% endmacro %}"
                              "{% for i in range(3) %}{{ i }},{% endfor %}{{ m(1) }}{{ m(2) }}";
    struct jinja *t;
    pthread_t threads[4];
    assert_int_equal(jinja_parse(&t, src, strlen(src), NULL, NULL), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, render_often, t), 0);
    for (int i = 0; i < 4; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        assert_null(bad);
    }
    jinja_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_python),  cmocka_unit_test(test_errors),
        cmocka_unit_test(test_vars),       cmocka_unit_test(test_nesting_bombs),
        cmocka_unit_test(test_eval_bombs), cmocka_unit_test(test_long_is_fine),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
