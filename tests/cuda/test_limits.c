/* What an (emulated) device can do at most: measured, and all memory is given back, whatever fails meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "kernels/cuda/cuda_backend.h"
#include "tests/cuemu/cuemu.h"

static size_t in_use(void)
{
    size_t left = 0, total = 0;
    cudaMemGetInfo(&left, &total);
    return total - left;
}

static int measure(struct backend_limits *l, struct err *e)
{
    struct backend *be;
    cuemu_reset();
    assert_int_equal(cuda_backend_open(&be, 0, e), 0);
    const int rc = be->limits(be, (size_t)4 << 20, l, e);
    be->close(be);
    return rc;
}

static void it_is_measured(void **state)
{
    (void)state;
    struct backend_limits l = {0};
    struct err e = {0};
    const size_t before = in_use();
    assert_int_equal(measure(&l, &e), 0);
    assert_true(l.read_bytes_per_s > 0 && l.int8_ops_per_s > 0 && l.f32_ops_per_s > 0);
    assert_int_equal(in_use(), before);
}

static void a_failure_says_so(void **state)
{
    (void)state;
    static const enum cuemu_call calls[] = {CUEMU_COPY, CUEMU_LAUNCH, CUEMU_SYNC};
    const size_t before = in_use();
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        struct backend_limits l = {0};
        struct err e = {0};
        cuemu_fail(calls[i], 4);
        assert_int_equal(measure(&l, &e), ERR_DEVICE);
        assert_non_null(strstr(e.msg, "cuda:0"));
        assert_true(l.read_bytes_per_s == 0);
        cuemu_fail(calls[i], 0);
        cuemu_reset();
        assert_int_equal(in_use(), before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_measured),
        cmocka_unit_test(a_failure_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
