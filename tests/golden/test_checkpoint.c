/* Every kind of image model file opens to the tensors and configurations that diffusers had when
 * tools/make_checkpoint_fixtures.py wrote it: names, shapes, values (as a hash of floats). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/json.h"
#include "engine/checkpoint.h"
#include "kernels/quant.h"

#define DIR "tests/fixtures/checkpoint/"
enum { MAX_LINE = 4096 };

static struct checkpoint *opened(const char *path)
{
    struct checkpoint *c = NULL;
    struct err e;
    if (checkpoint_open(&c, path, NULL, &e) != 0)
        fail_msg("%s: %s", path, e.msg);
    return c;
}

static uint64_t hash_of(const struct checkpoint_tensor *t)
{
    int64_t n = 1;
    for (int d = 0; d < t->ndim; d++)
        n *= t->dims[d];
    float *v = calloc((size_t)n, sizeof *v);
    quant_unpack(t->type, v, t->data, n);
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < (size_t)n * sizeof *v; i++)
        h = (h ^ ((const unsigned char *)v)[i]) * 0x100000001B3u;
    free(v);
    return h;
}

static enum checkpoint_part part_of(const char *name)
{
    for (int p = 0; p < CHECKPOINT_N_PARTS; p++)
        if (strcmp(checkpoint_part_name((enum checkpoint_part)p), name) == 0)
            return (enum checkpoint_part)p;
    fail_msg("no part %s", name);
    return CHECKPOINT_UNET;
}

static void check_tensor(const struct checkpoint *c, enum checkpoint_part part, const char *name,
                         const char *dims, const char *hash)
{
    const struct checkpoint_tensor *t = checkpoint_find(c, part, name);
    if (t == NULL)
        fail_msg("no tensor %s %s", checkpoint_part_name(part), name);
    char text[128];
    int n = 0;
    for (int d = 0; d < t->ndim; d++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s%lld", d > 0 ? "x" : "",
                      (long long)t->dims[d]);
    if (strcmp(text, dims) != 0)
        fail_msg("%s is %s, not %s", name, text, dims);
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash_of(t));
    if (strcmp(text, hash) != 0)
        fail_msg("%s has other values", name);
}

static void check_config(const struct checkpoint *c, enum checkpoint_part part, const char *key,
                         const char *value)
{
    struct buf b;
    struct json_writer w;
    buf_init(&b, MAX_LINE);
    json_begin(&w, &b);
    const struct cJSON *v = json_get(checkpoint_config(c, part), key);
    if (v == NULL)
        fail_msg("%s has no %s", checkpoint_part_name(part), key);
    json_put_node(&w, NULL, v);
    if (strcmp(buf_str(&b), value) != 0)
        fail_msg("%s of %s is %s, not %s", key, checkpoint_part_name(part), buf_str(&b), value);
    buf_free(&b);
}

/* The file against a list: all that is in the list, and as many tensors. */
static void check(const char *path, const char *list, enum checkpoint_family family)
{
    static char line[MAX_LINE];
    struct checkpoint *c = opened(path);
    FILE *f = fopen(list, "r");
    assert_non_null(f);
    int n_lines = 0, n_tensors = 0, n_listed = 0;
    while (fgets(line, sizeof line, f)) {
        char *field[4] = {line};
        for (int i = 1; i < 4; i++) {
            field[i] = strchr(field[i - 1], '\t');
            assert_non_null(field[i]);
            *field[i]++ = 0;
        }
        field[3][strcspn(field[3], "\n")] = 0;
        enum checkpoint_part part = part_of(field[0]);
        bool config = strcmp(field[2], "=") == 0;
        if (config)
            check_config(c, part, field[1], field[3]);
        else
            check_tensor(c, part, field[1], field[2], field[3]);
        n_listed += !config;
        n_lines++;
    }
    fclose(f);
    for (int p = 0; p < CHECKPOINT_N_PARTS; p++)
        n_tensors += checkpoint_n_tensors(c, (enum checkpoint_part)p);
    assert_true(n_lines > 100);
    assert_int_equal(n_tensors, n_listed);
    assert_int_equal(checkpoint_family(c), family);
    assert_false(checkpoint_damaged(c));
    checkpoint_forget(c, checkpoint_tensor_at(c, CHECKPOINT_UNET, 0));
    checkpoint_close(c);
}

static void checkpoint_reads_a_single_file_of_sd1(void **state)
{
    (void)state;
    check(DIR "sd1.safetensors", DIR "sd1.safetensors.tsv", CHECKPOINT_SD1);
}

static void checkpoint_reads_a_single_file_of_sd2(void **state)
{
    (void)state;
    check(DIR "sd2.safetensors", DIR "sd2.safetensors.tsv", CHECKPOINT_SD2);
}

static void checkpoint_reads_a_single_file_of_sdxl(void **state)
{
    (void)state;
    check(DIR "sdxl.safetensors", DIR "sdxl.safetensors.tsv", CHECKPOINT_SDXL);
}

static void checkpoint_reads_a_gguf(void **state)
{
    (void)state;
    check(DIR "sdxl.gguf", DIR "sdxl.gguf.tsv", CHECKPOINT_SDXL);
}

static void checkpoint_reads_a_directory(void **state)
{
    (void)state;
    check(DIR "dir", DIR "sd2.safetensors.tsv", CHECKPOINT_SD2);
}

static const char *scheduler_str(const struct checkpoint *c, const char *key)
{
    return json_str(json_get(checkpoint_scheduler(c), key));
}

static void checkpoint_says_what_the_model_predicts(void **state)
{
    (void)state;
    struct checkpoint *c = opened(DIR "sd1.safetensors");
    assert_string_equal(scheduler_str(c, "prediction_type"), "epsilon");
    assert_string_equal(scheduler_str(c, "_class_name"), "PNDMScheduler");
    assert_string_equal(json_str(json_get(checkpoint_index(c), "_class_name")),
                        "StableDiffusionInpaintPipeline");
    checkpoint_close(c);
    c = opened(DIR "sd2.safetensors"); /* by its metadata */
    assert_string_equal(scheduler_str(c, "prediction_type"), "v_prediction");
    checkpoint_close(c);
    c = opened(DIR "dir"); /* by its scheduler */
    assert_string_equal(scheduler_str(c, "prediction_type"), "v_prediction");
    checkpoint_close(c);
    const struct checkpoint_options o = {.prediction = "sample"};
    struct err e;
    assert_int_equal(checkpoint_open(&c, DIR "dir", &o, &e), 0);
    assert_string_equal(scheduler_str(c, "prediction_type"), "sample");
    assert_string_equal(scheduler_str(c, "beta_schedule"), "scaled_linear");
    checkpoint_close(c);
    const struct checkpoint_options wrong = {.prediction = "noise"};
    assert_int_equal(checkpoint_open(&c, DIR "dir", &wrong, &e), ERR_INVALID);
}

static void checkpoint_is_told_from_a_text_model(void **state)
{
    (void)state;
    assert_true(checkpoint_is_image(DIR "dir"));
    assert_true(checkpoint_is_image(DIR "sdxl.gguf"));
    assert_true(checkpoint_is_image(DIR "sd1.safetensors"));
    assert_false(checkpoint_is_image("tests/fixtures/tiny-llama.gguf"));
    assert_false(checkpoint_is_image("tests/fixtures"));
    assert_false(checkpoint_is_image("tests/fixtures/nothing"));
    struct checkpoint *c;
    struct err e;
    assert_int_equal(checkpoint_open(&c, "tests/fixtures/tiny-llama.gguf", NULL, &e),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "no Stable Diffusion in it"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpoint_reads_a_single_file_of_sd1),
        cmocka_unit_test(checkpoint_reads_a_single_file_of_sd2),
        cmocka_unit_test(checkpoint_reads_a_single_file_of_sdxl),
        cmocka_unit_test(checkpoint_reads_a_gguf),
        cmocka_unit_test(checkpoint_reads_a_directory),
        cmocka_unit_test(checkpoint_says_what_the_model_predicts),
        cmocka_unit_test(checkpoint_is_told_from_a_text_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
