/* The LoRAs that a request names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "api/loras.h"

static struct arena arena;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 1 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_free(&arena);
    return 0;
}

static struct image_spec parsed(const char *json)
{
    struct cJSON *doc;
    struct image_spec s = {0};
    struct err e = {0};
    assert_int_equal(json_parse(&doc, json, strlen(json), &json_limits_default, &e), 0);
    if (loras_parse(doc, &arena, &s, &e) != 0)
        fail_msg("%s", e.msg);
    json_free(doc);
    return s;
}

static void is(const struct image_spec *s, int i, const char *name, double scale, double text)
{
    assert_true(i < s->n_loras);
    assert_string_equal(s->loras[i].name, name);
    assert_float_equal(s->loras[i].scale, scale, 1e-6);
    assert_float_equal(s->loras[i].text_scale, text, 1e-6);
}

static void loras_are_objects_or_names(void **state)
{
    (void)state;
    struct image_spec s = parsed("{\"loras\":[\"a\",{\"name\":\"b\",\"scale\":0.5},"
                                 "{\"name\":\"c\",\"scale\":2,\"text_scale\":-1}]}");
    assert_int_equal(s.n_loras, 3);
    is(&s, 0, "a", 1, 1);
    is(&s, 1, "b", 0.5, 0.5);
    is(&s, 2, "c", 2, -1);
    s = parsed("{\"loras\":\"[{\\\"name\\\":\\\"b\\\"}]\"}");
    is(&s, 0, "b", 1, 1);
    s = parsed("{\"loras\":null}");
    assert_int_equal(s.n_loras, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(loras_are_objects_or_names, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
