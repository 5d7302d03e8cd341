/* The LoRAs that a request names: lists in JSON, and the web UI's tags within prompts. */
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

static void prompt(const char *text, struct image_spec *s, const char *left)
{
    struct err e = {0};
    const char *out = NULL;
    *s = (struct image_spec){0};
    if (loras_from_prompt(text, &arena, s, &out, &e) != 0)
        fail_msg("%s", e.msg);
    assert_string_equal(out, left);
}

static void loras_within_prompts_are_those_of_the_web_ui(void **state)
{
    (void)state;
    struct image_spec s;
    prompt("a cat", &s, "a cat");
    assert_int_equal(s.n_loras, 0);
    prompt("a <lora:x:0.8>cat<lora:y_2 z>", &s, "a cat");
    assert_int_equal(s.n_loras, 2);
    is(&s, 0, "x", 0.8, 0.8);
    is(&s, 1, "y_2 z", 1, 1);
    prompt("<lora:x:0.5:0.25>", &s, "");
    is(&s, 0, "x", 0.25, 0.5);
    prompt("<lora:x:te=0.5:unet=-1>", &s, "");
    is(&s, 0, "x", -1, 0.5);
    prompt("a <lora:x and <thing>", &s, "a ");
    is(&s, 0, "x and <thing", 1, 1);
    prompt("a <lora:x", &s, "a <lora:x");
    prompt("<hypernet:x:1>", &s, "<hypernet:x:1>");
}

static void bad(const char *text, const char *param)
{
    struct image_spec s = {0};
    struct err e = {0};
    const char *out;
    assert_int_equal(loras_from_prompt(text, &arena, &s, &out, &e), ERR_INVALID);
    assert_string_equal(e.param, param);
}

static void loras_that_are_wrong_are_refused(void **state)
{
    (void)state;
    bad("<lora:>", "prompt");
    bad("<lora::1>", "prompt");
    bad("<lora:x:much>", "prompt");
    bad("<lora:x:1:1:1>", "prompt");
    bad("<lora:x:nan>", "prompt");
    bad("<lora:x:1e9>", "prompt");
    bad("<lora:a><lora:a><lora:a><lora:a><lora:a><lora:a><lora:a><lora:a><lora:a>", "loras");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(loras_are_objects_or_names, setup, teardown),
        cmocka_unit_test_setup_teardown(loras_within_prompts_are_those_of_the_web_ui, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(loras_that_are_wrong_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
