/* Log lines: well-formed whatever their values, and never longer than the bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"

static char line[8192];
static int saved_stderr;
static char path[] = "/tmp/duetto-log-XXXXXX";

/* Stderr goes to a file between capture() and captured(), which leaves its text in line. */
static void capture(void)
{
    memcpy(path, "/tmp/duetto-log-XXXXXX", sizeof path);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

static size_t captured(void)
{
    ssize_t n = pread(STDERR_FILENO, line, sizeof line - 1, 0);
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    unlink(path);
    assert_true(n >= 0);
    line[n] = '\0';
    return (size_t)n;
}

static void log_writes_text_for_people(void **state)
{
    (void)state;
    log_init(LOG_INFO, false);
    capture();
    struct log_line l;
    log_begin(&l, LOG_WARN, "model.loaded");
    log_str(&l, "name", "tiny");
    log_int(&l, "ms", 812);
    log_num(&l, "gib", 1.5);
    log_str(&l, "note", "two words");
    log_str(&l, "none", NULL);
    log_str(&l, "empty", "");
    log_end(&l);
    captured();
    assert_int_equal(line[2], ':');
    assert_int_equal(line[5], ':');
    assert_string_equal(line + 8, " warn  model.loaded name=tiny ms=812 gib=1.500 "
                                  "note=\"two words\" none=- empty=\"\"\n");
}

static void log_writes_json_for_machines(void **state)
{
    (void)state;
    log_init(LOG_DEBUG, true);
    capture();
    struct log_line l;
    log_begin(&l, LOG_DEBUG, "x.y");
    log_str(&l, "s", "a\"b\\c\n\x01\xC3\xA9\xFF");
    log_int(&l, "i", INT64_MIN);
    log_num(&l, "n", -0.25);
    log_num(&l, "inf", 1.0 / 0.0 * 1.0);
    log_str(&l, "none", NULL);
    log_end(&l);
    size_t n = captured();
    assert_int_equal(line[n - 1], '\n');
    struct cJSON *doc;
    struct err e = {0};
    assert_int_equal(json_parse(&doc, line, n, NULL, &e), 0);
    assert_string_equal(json_str(json_get(doc, "level")), "debug");
    assert_string_equal(json_str(json_get(doc, "event")), "x.y");
    assert_string_equal(json_str(json_get(doc, "s")), "a\"b\\c\n\x01\xC3\xA9\xEF\xBF\xBD");
    assert_true(json_num(json_get(doc, "n")) == -0.25);
    assert_int_equal(json_type(json_get(doc, "inf")), JSON_NULL);
    assert_int_equal(json_size(doc), 8);
    json_free(doc);
}

static void log_escapes_what_a_terminal_would_obey(void **state)
{
    (void)state;
    log_init(LOG_INFO, false);
    capture();
    log_msg(LOG_INFO, "request", "%s", "a\nfake line\x1b[31m\xC2\x9B\x7f");
    captured();
    assert_string_equal(line + 8, " info  request "
                                  "msg=\"a\\u000afake line\\u001b[31m\\u009b\\u007f\"\n");
}

static void log_is_silent_below_its_level(void **state)
{
    (void)state;
    log_init(LOG_WARN, false);
    assert_false(log_on(LOG_INFO));
    assert_true(log_on(LOG_ERROR));
    capture();
    log_msg(LOG_INFO, "quiet", "x");
    assert_int_equal(captured(), 0);
    log_init(LOG_OFF, false);
    assert_false(log_on(LOG_ERROR));
    assert_false(log_on(LOG_OFF));
    capture();
    log_msg(LOG_ERROR, "quiet", "x");
    assert_int_equal(captured(), 0);
}

static void log_keeps_long_lines_bounded_and_well_formed(void **state)
{
    (void)state;
    static const char *const units[] = {"a", "\xE2\x82\xAC", "\n", "\""};
    char text[6000];
    for (int json = 0; json < 2; json++) {
        for (size_t u = 0; u < 4; u++) {
            for (size_t shift = 0; shift < 12; shift++) {
                size_t n = shift, len = strlen(units[u]);
                memset(text, 'x', n);
                for (; n + len < sizeof text; n += len)
                    memcpy(text + n, units[u], len);
                text[n] = '\0';
                log_init(LOG_INFO, json != 0);
                capture();
                struct log_line l;
                log_begin(&l, LOG_INFO, "long");
                log_str(&l, "text", text);
                for (int k = 0; k < 50; k++) {
                    log_int(&l, "k", k);
                    log_str(&l, "t", "some words");
                }
                log_end(&l);
                n = captured();
                assert_true(n > 4000 && n <= 4096);
                assert_int_equal(line[n - 1], '\n');
                assert_true(utf8_valid(line, n));
                struct err e = {0};
                if (json != 0 && json_scan(line, n, NULL, &e) != 0)
                    assert_non_null(strstr(e.msg, "duplicate key")); /* k and t repeat */
            }
        }
    }
}

static void log_leaves_out_numbers_that_do_not_fit(void **state)
{
    (void)state;
    log_init(LOG_INFO, true);
    capture();
    struct log_line l;
    log_begin(&l, LOG_INFO, "many");
    for (int k = 0; k < 2000; k++) {
        char key[16] = {'k', (char)('a' + k / 676 % 26), (char)('a' + k / 26 % 26),
                        (char)('a' + k % 26)};
        log_num(&l, key, 1e300 * (k % 2));
    }
    log_end(&l);
    size_t n = captured();
    struct err e = {0};
    assert_true(n <= 4096);
    if (json_scan(line, n - 1, NULL, &e) != 0)
        fail_msg("%s in %s", e.msg, line);
}

/* A reader that stops must not stop the server. */
static void log_waits_for_no_reader(void **state)
{
    (void)state;
    int fds[2];
    static char text[1 << 20];
    assert_int_equal(pipe(fds), 0);
    const int size = fcntl(fds[1], F_SETPIPE_SZ, 16384);
    assert_true(size > 0 && size < (int)sizeof text);
    log_init(LOG_INFO, false);
    saved_stderr = dup(STDERR_FILENO);
    dup2(fds[1], STDERR_FILENO);
    const int n = size; /* lines of more than a byte */
    for (int i = 0; i < n; i++)
        log_msg(LOG_INFO, "filling", "%d", i);
    const ssize_t first = read(fds[0], text, sizeof text - 1);
    log_msg(LOG_INFO, "after", "that");
    log_msg(LOG_INFO, "and", "that");
    const ssize_t second = read(fds[0], text + first, sizeof text - 1 - (size_t)first);
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(fds[0]);
    close(fds[1]);
    assert_true(first > 0 && second > 0);
    text[first + second] = '\0';
    int written = 0, lost = 0;
    for (const char *at = text; (at = strstr(at, "filling msg=")) != NULL; at++)
        written++;
    const char *told = strstr(text, "error log.lost lines=");
    assert_non_null(told);
    assert_int_equal(sscanf(told, "error log.lost lines=%d", &lost), 1);
    assert_int_equal(written + lost, n);
    assert_non_null(strstr(told, " after msg="));
    assert_non_null(strstr(told, " and msg="));
    assert_null(strstr(told + strlen("error log.lost"), "log.lost"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_writes_text_for_people),
        cmocka_unit_test(log_writes_json_for_machines),
        cmocka_unit_test(log_escapes_what_a_terminal_would_obey),
        cmocka_unit_test(log_is_silent_below_its_level),
        cmocka_unit_test(log_keeps_long_lines_bounded_and_well_formed),
        cmocka_unit_test(log_leaves_out_numbers_that_do_not_fit),
        cmocka_unit_test(log_waits_for_no_reader),
    };
    return cmocka_run_group_tests_name("base/log", tests, NULL, NULL);
}
