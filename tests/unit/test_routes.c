/* The route table: what matches, what is 404 and what is 405. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "api/api.h"

static const struct api_route *route(const char *method, const char *path)
{
    struct err e = {0};
    const char *allow = NULL;
    const struct api_route *r = api_route(method, path, &allow, &e);
    if (r != NULL)
        assert_int_equal(e.code, 0);
    else
        assert_int_equal(e.code, ERR_NOTFOUND);
    return r;
}

static enum api_handler_id id_of(const char *method, const char *path)
{
    const struct api_route *r = route(method, path);
    assert_non_null(r);
    return r->id;
}

static void every_route_of_the_table_is_found(void **state)
{
    (void)state;
    for (int i = 0; i < api_n_routes; i++) {
        char path[128];
        strncpy(path, api_routes[i].path, sizeof path - 1);
        path[sizeof path - 1] = '\0';
        char *brace = strchr(path, '{');
        if (brace != NULL)
            strcpy(brace, "x");
        assert_ptr_equal(route(api_routes[i].method, path), &api_routes[i]);
    }
}

static void a_trailing_slash_is_ignored(void **state)
{
    (void)state;
    assert_int_equal(id_of("POST", "/v1/chat/completions/"), API_CHAT);
    assert_int_equal(id_of("POST", "/v1/chat/completions//"), API_CHAT);
    assert_int_equal(id_of("GET", "/v1/models/"), API_MODELS);
}

static void v1_may_be_missing_or_added(void **state)
{
    (void)state;
    assert_int_equal(id_of("POST", "/chat/completions"), API_CHAT);
    assert_int_equal(id_of("GET", "/models/a"), API_MODEL);
    assert_int_equal(id_of("POST", "/v1/tokenize"), API_TOKENIZE);
    assert_null(route("POST", "/v1/v1/completions"));
}

static void a_model_name_may_have_slashes(void **state)
{
    (void)state;
    assert_int_equal(id_of("GET", "/v1/models/org/name"), API_MODEL);
}

static void head_is_answered_like_get(void **state)
{
    (void)state;
    assert_int_equal(id_of("HEAD", "/v1/models"), API_MODELS);
    assert_null(route("HEAD", "/v1/completions"));
}

static void a_wrong_method_names_the_right_ones(void **state)
{
    (void)state;
    struct err e = {0};
    const char *allow = NULL;
    assert_null(api_route("GET", "/v1/chat/completions", &allow, &e));
    assert_string_equal(allow, "POST");
    assert_string_equal(e.reason, "method_not_allowed");
    assert_null(api_route("DELETE", "/v1/models", &allow, &e));
    assert_string_equal(allow, "GET, HEAD");
}

static void an_unknown_path_allows_nothing(void **state)
{
    (void)state;
    static const char *const paths[] = {
        "",           "/", "/v1", "/v2/models", "/v1/chat", "/healthz", "/v1/chat/completions/x",
        "//v1/models"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct err e = {0};
        const char *allow = "x";
        assert_null(api_route("GET", paths[i], &allow, &e));
        assert_null(allow);
        assert_int_equal(e.code, ERR_NOTFOUND);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_of_the_table_is_found),
        cmocka_unit_test(a_trailing_slash_is_ignored),
        cmocka_unit_test(v1_may_be_missing_or_added),
        cmocka_unit_test(a_model_name_may_have_slashes),
        cmocka_unit_test(head_is_answered_like_get),
        cmocka_unit_test(a_wrong_method_names_the_right_ones),
        cmocka_unit_test(an_unknown_path_allows_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
