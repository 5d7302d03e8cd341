/* Error codes -> status and OpenAI's body. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "api/api.h"
#include "base/json.h"

static struct err make(int code, const char *reason, const char *param, const char *msg)
{
    struct err e = {.code = code};
    snprintf(e.reason, sizeof e.reason, "%s", reason);
    snprintf(e.param, sizeof e.param, "%s", param);
    snprintf(e.msg, sizeof e.msg, "%s", msg);
    return e;
}

static int status_of(int code, const char *reason, const char *param)
{
    struct err e = make(code, reason, param, "x");
    return api_error_status(&e);
}

static void every_code_has_its_status(void **state)
{
    (void)state;
    assert_int_equal(status_of(ERR_INVALID, "", ""), 400);
    assert_int_equal(status_of(ERR_NOTFOUND, "", ""), 404);
    assert_int_equal(status_of(ERR_TOOBIG, "", ""), 413);
    assert_int_equal(status_of(ERR_BUSY, "", ""), 429);
    assert_int_equal(status_of(ERR_REFUSED, "", ""), 400);
    assert_int_equal(status_of(ERR_NOMEM, "", ""), 503);
    assert_int_equal(status_of(ERR_UNAVAILABLE, "", ""), 503);
    assert_int_equal(status_of(ERR_CANCELLED, "", ""), 503);
    assert_int_equal(status_of(ERR_CORRUPT, "", ""), 500);
    assert_int_equal(status_of(ERR_IO, "", ""), 500);
    assert_int_equal(status_of(ERR_DEVICE, "", ""), 500);
    assert_int_equal(status_of(12345, "", ""), 500);
}

static void a_context_that_is_too_long_is_400(void **state)
{
    (void)state;
    assert_int_equal(status_of(ERR_TOOBIG, "context_length_exceeded", "messages"), 400);
    assert_int_equal(status_of(ERR_TOOBIG, "answer_too_large", ""), 400);
}

static void an_unsupported_field_is_400_and_anything_else_501(void **state)
{
    (void)state;
    assert_int_equal(status_of(ERR_UNSUPPORTED, "", "response_format"), 400);
    assert_int_equal(status_of(ERR_UNSUPPORTED, "", ""), 501);
}

/* The body's error object; *doc must be freed. */
static const struct cJSON *body(int status, const struct err *e, struct cJSON **doc)
{
    struct buf b;
    buf_init(&b, 4096);
    api_error_body(&b, status, e);
    assert_false(b.failed);
    assert_int_equal(json_parse(doc, b.data, b.len, &json_limits_default, NULL), 0);
    buf_free(&b);
    const struct cJSON *v = json_get(*doc, "error");
    assert_int_equal(json_size(v), 4);
    assert_non_null(json_str(json_get(v, "message")));
    assert_non_null(json_str(json_get(v, "type")));
    return v;
}

static void the_body_has_all_four_keys_for_every_status(void **state)
{
    (void)state;
    for (int status = 400; status < 600; status++) {
        struct cJSON *doc = NULL;
        struct err e = make(0, "", "", "");
        body(status, &e, &doc);
        json_free(doc);
    }
}

static void the_body_names_field_and_reason(void **state)
{
    (void)state;
    struct cJSON *doc = NULL;
    struct err e = make(ERR_NOTFOUND, "model_not_found", "model", "model \"x\" not found");
    const struct cJSON *v = body(404, &e, &doc);
    assert_string_equal(json_str(json_get(v, "message")), "model \"x\" not found");
    assert_string_equal(json_str(json_get(v, "type")), "invalid_request_error");
    assert_string_equal(json_str(json_get(v, "param")), "model");
    assert_string_equal(json_str(json_get(v, "code")), "model_not_found");
    json_free(doc);
}

static void absent_param_and_code_are_null(void **state)
{
    (void)state;
    struct cJSON *doc = NULL;
    struct err e = make(ERR_INVALID, "", "", "no");
    const struct cJSON *v = body(400, &e, &doc);
    assert_int_equal(json_type(json_get(v, "param")), JSON_NULL);
    assert_int_equal(json_type(json_get(v, "code")), JSON_NULL);
    json_free(doc);
}

static void server_faults_leak_no_path_and_no_address(void **state)
{
    (void)state;
    struct cJSON *doc = NULL;
    struct err e = make(ERR_IO, "", "", "cannot read /srv/secret/m.gguf (page 0x7ffd12345678): no");
    const struct cJSON *v = body(500, &e, &doc);
    assert_string_equal(json_str(json_get(v, "message")), "cannot read ... (page ...): no");
    assert_string_equal(json_str(json_get(v, "type")), "server_error");
    json_free(doc);
}

static void a_message_that_fills_its_field_is_kept_whole(void **state)
{
    (void)state;
    struct cJSON *doc = NULL;
    struct err e = make(ERR_INVALID, "", "", "");
    memset(e.msg, 'a', sizeof e.msg - 1);
    const struct cJSON *v = body(400, &e, &doc);
    assert_int_equal(strlen(json_str(json_get(v, "message"))), sizeof e.msg - 1);
    json_free(doc);
    v = body(500, &e, &doc);
    assert_true(strlen(json_str(json_get(v, "message"))) > sizeof e.msg - 8);
    json_free(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_its_status),
        cmocka_unit_test(a_context_that_is_too_long_is_400),
        cmocka_unit_test(an_unsupported_field_is_400_and_anything_else_501),
        cmocka_unit_test(the_body_has_all_four_keys_for_every_status),
        cmocka_unit_test(the_body_names_field_and_reason),
        cmocka_unit_test(absent_param_and_code_are_null),
        cmocka_unit_test(server_faults_leak_no_path_and_no_address),
        cmocka_unit_test(a_message_that_fills_its_field_is_kept_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
