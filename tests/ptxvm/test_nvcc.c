/* sample.cu as nvcc compiles it: results against C, and that bugs in CUDA source are told with their line. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/quant.h"
#include "tests/ptxvm/ptxvm.h"

#define SAMPLE "build/ptxvm/tests/ptxvm/sample.ptx"

static struct ptxvm *vm;
static struct err e;

static int set_up(void **state)
{
    const char *path = getenv("PTXVM_SAMPLE");
    (void)state;
    e = (struct err){0};
    if (path == NULL)
        path = SAMPLE;
    if (access(path, R_OK) != 0) {
        print_message("no %s (it takes nvcc to make it)\n", path);
        return 0;
    }
    return ptxvm_open(&vm, &(struct ptxvm_options){.races = true, .seed = 7}, &e) ||
           ptxvm_load(vm, path, &e);
}

static int tear_down(void **state)
{
    (void)state;
    ptxvm_close(vm);
    vm = NULL;
    return 0;
}

static void block_sums_are_right_in_any_order(void **state)
{
    (void)state;
    if (vm == NULL)
        skip();
    static float x[3][1000], out[3];
    void *px = x, *po = out;
    int n = 1000;
    for (int i = 0; i < 3000; i++)
        x[i / 1000][i % 1000] = (float)(i % 17);
    ptxvm_map(vm, x, sizeof x, "x", &e);
    ptxvm_map(vm, out, sizeof out, "out", &e);
    const struct ptxvm_launch l = {.kernel = "row_sums",
                                   .grid = {3, 1, 1},
                                   .block = {128, 1, 1},
                                   .args = (void *[]){&po, &px, &n}};
    if (ptxvm_launch(vm, &l, &e) != 0)
        fail_msg("%s", e.msg);
    for (int r = 0; r < 3; r++) {
        float want = 0;
        for (int i = 0; i < 1000; i++)
            want += x[r][i];
        assert_true(out[r] == want);
    }
}

static float shape(float x, int kind, int i)
{
    float v = x * (float)(kind & 7) + (float)(1 << (i & 3));
    switch (kind) {
    case 0:
        return v + v + v / 2;
    case 1:
        return sinf(v * 1e6f);
    case 2:
        return expf(v);
    case 3:
        return tanhf(v);
    case 4:
        return 1 / sqrtf(fabsf(v) + 1);
    case 5:
        return (float)((int)v % 7);
    case 6:
        return f16_to_f32(f32_to_f16(f16_to_f32(f32_to_f16(v)) * 0.5f + 1));
    default:
        return bf16_to_f32(f32_to_bf16(v));
    }
}

static void calls_switches_and_functions_agree_with_c(void **state)
{
    (void)state;
    if (vm == NULL)
        skip();
    static float x[64], out[65];
    static int kind[64];
    void *px = x, *po = out, *pk = kind;
    for (int i = 0; i < 64; i++) {
        x[i] = (float)(i - 20) * 0.13f;
        kind[i] = i * 5 % 9;
    }
    ptxvm_map(vm, x, sizeof x, "x", &e);
    ptxvm_map(vm, out, sizeof out, "out", &e);
    ptxvm_map(vm, kind, sizeof kind, "kind", &e);
    const struct ptxvm_launch l = {.kernel = "shapes",
                                   .grid = {1, 1, 1},
                                   .block = {64, 1, 1},
                                   .args = (void *[]){&po, &px, &pk}};
    if (ptxvm_launch(vm, &l, &e) != 0)
        fail_msg("%s", e.msg);
    for (int i = 0; i < 64; i++) {
        float want = shape(x[i], kind[i], i);
        if (!(fabsf(out[i] - want) <= 1e-5f * fabsf(want) + 1e-6f))
            fail_msg("kind %d: %g, not %g", kind[i], (double)out[i], (double)want);
    }
    assert_true(out[64] == 42);
}

static int reverse(int bug)
{
    /* Apart, so that what lies behind x is nothing. */
    static struct {
        int x[64], gap[64], out[64];
    } m;
    int *x = m.x, *out = m.out;
    void *px = x, *po = out;
    for (int i = 0; i < 64; i++)
        x[i] = i * i;
    ptxvm_map(vm, x, sizeof m.x, "x", &e);
    ptxvm_map(vm, out, sizeof m.out, "out", &e);
    const struct ptxvm_launch l = {.kernel = "reverse",
                                   .grid = {1, 1, 1},
                                   .block = {64, 1, 1},
                                   .shared_bytes = sizeof m.x,
                                   .args = (void *[]){&po, &px, &bug}};
    int rc = ptxvm_launch(vm, &l, &e);
    for (int i = 0; rc == 0 && i < 64; i++)
        assert_int_equal(out[i], x[63 - i]);
    return rc;
}

static void bugs_are_told_with_their_line_of_source(void **state)
{
    static const char *const says[] = {NULL, "no barrier between", "at offset 256 of x",
                                       "divergent barrier", "not aligned to 8"};
    (void)state;
    if (vm == NULL)
        skip();
    assert_int_equal(reverse(0), 0);
    for (int bug = 1; bug <= 4; bug++) {
        assert_int_equal(reverse(bug), ERR_DEVICE);
        if (strstr(e.msg, says[bug]) == NULL || strstr(e.msg, "(sample.cu:") == NULL)
            fail_msg("bug %d: %s", bug, e.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(block_sums_are_right_in_any_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(calls_switches_and_functions_agree_with_c, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(bugs_are_told_with_their_line_of_source, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
