/* Opening devices by name, their memory, and the splitting of work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "kernels/cpu/cpu_backend.h"

static void test_names(void **state)
{
    (void)state;
    struct backend *be = NULL;
    struct err e = {0};
    assert_int_equal(backend_open(&be, "cpu", 1, &e), 0);
    assert_int_equal(strncmp(be->name, "cpu/", 4), 0);
    assert_int_equal(be->n_threads, 1);
    assert_int_equal(be->sync(be, &e), 0);
    be->close(be);
    assert_int_equal(backend_open(&be, "cpu/scalar", 2, &e), 0);
    assert_string_equal(be->name, "cpu/scalar");
    assert_int_equal(be->n_threads, 2);
    be->close(be);
}

static void test_every_level_opens_or_says_why_not(void **state)
{
    (void)state;
    for (int isa = 0; isa < CPU_ISA_N; isa++) {
        char name[32] = "cpu/";
        strcat(name, cpu_isa_name((enum cpu_isa)isa));
        struct backend *be = NULL;
        struct err e = {0};
        int rc = backend_open(&be, name, 1, &e);
        if (isa <= (int)cpu_isa_detect()) {
            assert_int_equal(rc, 0);
            assert_string_equal(be->name, name);
            be->close(be);
        } else {
            assert_int_equal(rc, ERR_UNSUPPORTED);
            assert_non_null(strstr(e.msg, "cpu/scalar")); /* names what there is */
        }
    }
}

static void test_unknown_devices(void **state)
{
    (void)state;
    static const char *const names[] = {"cuda:0", "cuda", "cpu/sse9", "tpu", "", "cpu/"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct backend *be = NULL;
        struct err e = {0};
        assert_int_equal(backend_open(&be, names[i], 1, &e), ERR_UNSUPPORTED);
        assert_null(be);
        assert_non_null(strstr(e.msg, "cpu/scalar"));
    }
    struct backend *be = NULL;
    assert_int_equal(backend_open(&be, "cuda:0", 1, NULL), ERR_UNSUPPORTED);
    assert_int_equal(backend_open(&be, "cpu", -3, NULL), ERR_INVALID);
}

static void test_memory_is_aligned_and_zero(void **state)
{
    (void)state;
    struct backend *be = NULL;
    struct err e = {0};
    assert_int_equal(backend_open(&be, "cpu", 1, &e), 0);
    static const size_t sizes[] = {0, 1, 63, 64, 65, 100000, 1 << 20, (5 << 20) + 7};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        unsigned char *p = be->alloc(be, sizes[i], &e);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t k = 0; k < sizes[i]; k++)
            assert_int_equal(p[k], 0);
        memset(p, 0xff, sizes[i]);
        be->free(be, p);
    }
    be->free(be, NULL);
    assert_null(be->alloc(be, SIZE_MAX, &e));
    assert_int_equal(e.code, ERR_NOMEM);
    assert_null(be->alloc(be, SIZE_MAX / 2, &e));
    be->close(be);
}

static void test_scratch_grows(void **state)
{
    (void)state;
    struct backend *be = NULL;
    struct err e = {0};
    assert_int_equal(backend_open(&be, "cpu/scalar", 1, &e), 0);
    struct cpu_backend *cb = cpu_of(be);
    size_t n = cb->scratch_bytes;
    void *p = cpu_scratch(cb, n);
    assert_ptr_equal(cpu_scratch(cb, 1), p); /* the same bytes */
    assert_int_equal(cpu_reserve(cb, n * 2, &e), 0);
    p = cpu_scratch(cb, n * 2);
    assert_int_equal((uintptr_t)p % 64, 0);
    memset(p, 1, n * 2);
    assert_int_equal(cpu_reserve(cb, SIZE_MAX - 1, &e), ERR_NOMEM);
    be->close(be);
}

static void mark(void *arg, int64_t begin, int64_t end)
{
    unsigned char *seen = arg;
    for (int64_t i = begin; i < end; i++)
        seen[i]++;
}

static void test_split_covers_each_once(void **state)
{
    (void)state;
    struct backend *be = NULL;
    struct err e = {0};
    assert_int_equal(backend_open(&be, "cpu/scalar", 3, &e), 0);
    for (int64_t n = 0; n < 40; n++) {
        for (int big = 0; big < 2; big++) {
            unsigned char seen[40] = {0};
            cpu_split(cpu_of(be), n, big ? CPU_SPLIT_WORK : 1, mark, seen);
            for (int64_t i = 0; i < 40; i++)
                assert_int_equal(seen[i], i < n);
        }
    }
    be->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_every_level_opens_or_says_why_not),
        cmocka_unit_test(test_unknown_devices),
        cmocka_unit_test(test_memory_is_aligned_and_zero),
        cmocka_unit_test(test_scratch_grows),
        cmocka_unit_test(test_split_covers_each_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
