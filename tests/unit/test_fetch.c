/* Which URLs are asked at all; what then happens is in tests/api/test_image_urls.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/fetch.h"

static struct err e;

static int open_with(struct fetch **f, bool public_hosts, const char *allow, const char *ports)
{
    const struct fetch_options o = {.public_hosts = public_hosts, .allow = allow, .ports = ports};
    memset(&e, 0, sizeof e);
    return fetch_open(f, &o, &e);
}

static bool ok(const struct fetch *f, const char *url)
{
    memset(&e, 0, sizeof e);
    const int rc = fetch_check(f, url, &e);
    assert_true(rc == 0 || (rc == ERR_INVALID && e.msg[0] != '\0'));
    return rc == 0;
}

static void fetch_takes_http_and_https(void **state)
{
    (void)state;
    struct fetch *f;
    assert_int_equal(open_with(&f, true, "", "80,443,8080"), 0);
    static const char *const good[] = {
        "http://example.org/a.png",
        "https://example.org",
        "HTTPS://EXAMPLE.ORG/a%20b.png?x=y&z#f",
        "http://example.org:8080/",
        "http://example.org./a",
        "http://8.8.8.8/a.png",
        "http://[2606:4700::1111]/a.png",
        "http://a_b-c.example.org/",
        "https://example.org/a@b:c",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!ok(f, good[i]))
            fail_msg("%s: %s", good[i], e.msg);
    fetch_close(f);
}

static void fetch_refuses_all_else(void **state)
{
    (void)state;
    struct fetch *f;
    assert_int_equal(open_with(&f, true, "", "80,443"), 0);
    static const char *const bad[] = {
        "",
        "http",
        "http:",
        "http://",
        "http:example.org",
        "http:/example.org",
        "http:///example.org",
        "//example.org/a.png",
        "example.org/a.png",
        "file:///etc/passwd",
        "ftp://example.org/a.png",
        "gopher://example.org/",
        "dict://example.org/",
        "unix:///run/x",
        "javascript:alert(1)",
        "http://user@example.org/",
        "http://user:password@example.org/",
        "http://:password@example.org/",
        "http://example.org:8080/",
        "http://example.org:0/",
        "http://example.org:22/",
        "http://example.org:65536/",
        "http://example.org:80x/",
        "http://example.org:-80/",
        "http://exa mple.org/",
        "http://example.org/a b",
        "http://example.org/\r\nHost: x",
        "http://example.org/\xc3\xa9.png",
        "http://ex\xc3\xa4mple.org/",
        "http://example%2eorg%00/",
        "http://example.org%2f@x/",
        "http://[::1%25lo]/",
        "http://[fe80::1%25eth0]/",
        "http://[::1",
        "http://[example.org]/",
        "http://./",
        "http://exam*ple.org/",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (ok(f, bad[i]))
            fail_msg("%s is taken", bad[i]);
    char *s = calloc(10001, 1);
    memset(s, 'a', 10000);
    memcpy(s, "http://example.org/", 19);
    assert_false(ok(f, s));
    s[8000] = '\0';
    assert_true(ok(f, s));
    memcpy(s, "http://aaaaaaaaaaaa", 19);
    assert_false(ok(f, s));
    free(s);
    fetch_close(f);
}

static void fetch_asks_listed_hosts_only(void **state)
{
    (void)state;
    struct fetch *f;
    assert_int_equal(open_with(&f, false, "Example.org, *.cdn.example.org", "443"), 0);
    assert_true(ok(f, "https://example.org/"));
    assert_true(ok(f, "https://EXAMPLE.ORG./"));
    assert_true(ok(f, "https://a.cdn.example.org/"));
    assert_true(ok(f, "https://a.b.cdn.example.org/"));
    assert_false(ok(f, "https://cdn.example.org/"));
    assert_false(ok(f, "https://www.example.org/"));
    assert_false(ok(f, "https://xexample.org/"));
    assert_false(ok(f, "https://acdn.example.org/"));
    assert_false(ok(f, "https://example.org.example.com/"));
    assert_false(ok(f, "http://example.org/"));
    assert_false(ok(f, "https://8.8.8.8/"));
    fetch_close(f);
}

static void fetch_refuses_lists_that_are_none(void **state)
{
    (void)state;
    struct fetch *f;
    assert_int_equal(open_with(&f, false, "", "443"), ERR_INVALID);
    assert_int_equal(open_with(&f, false, " , ,", "443"), ERR_INVALID);
    assert_int_equal(open_with(&f, true, "http://example.org", "443"), ERR_INVALID);
    assert_int_equal(open_with(&f, true, "10.0.0.0/33", "443"), ERR_INVALID);
    assert_int_equal(open_with(&f, true, "*", "443"), ERR_INVALID);
    assert_int_equal(open_with(&f, true, "*.", "443"), ERR_INVALID);
    assert_int_equal(open_with(&f, true, "a.*.org", "443"), ERR_INVALID);
    assert_int_equal(open_with(&f, true, "", ""), ERR_INVALID);
    assert_int_equal(open_with(&f, true, "", "80,x"), ERR_INVALID);
    assert_int_equal(open_with(&f, true, "", "0"), ERR_INVALID);
    assert_int_equal(open_with(&f, true, "", "65536"), ERR_INVALID);
    assert_int_equal(open_with(&f, true, "", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"),
                     ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fetch_takes_http_and_https),
        cmocka_unit_test(fetch_refuses_all_else),
        cmocka_unit_test(fetch_asks_listed_hosts_only),
        cmocka_unit_test(fetch_refuses_lists_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
