/* Products by cuBLASLt on the emulated device: when they are the library's and when our own kernels', the same bits with
 * graphs and in every number of rows, pieces of rows and outputs, and every call of the library failing once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/quant.h"
#include "tests/cuemu/cuemu.h"

enum { IN = 96, OUT = 40, MOST = 400, TIMES = 4, HANG_S = 120 };

/* An op's numbers: results of f16 of the rows [from, from + n). */
struct numbers {
    uint16_t all[MOST * OUT];
};

static struct {
    uint16_t x[MOST * IN], w[OUT * IN];
    float bias[OUT];
} given;

static void fill(void)
{
    uint32_t state = 1;
    for (int i = 0; i < (MOST + OUT) * IN; i++) {
        state = state * 1664525u + 1013904223u;
        const uint16_t v = f32_to_f16((float)(int32_t)state / 2147483648.0f);
        if (i < MOST * IN)
            given.x[i] = v;
        else
            given.w[i - MOST * IN] = v;
    }
    for (int o = 0; o < OUT; o++)
        given.bias[o] = (float)o / 16;
}

static struct backend *open_device(bool graphs, int rows)
{
    struct backend *be;
    struct err e = {0};
    cuemu_reset();
    assert_int_equal(cuda_backend_open(&be, 0, &e), 0);
    be->graphs = graphs;
    const int rc = be->blas(be, rows, &e);
    if (rc != 0 && cuemu_calls(CUEMU_BLAS) == 0)
        fail_msg("build/cuda-emu's library is not the one that was found: %s", e.msg);
    return be;
}

/* TIMES steps of two products over rows from .. from + n, one of them with a bias; 0, or what sync says. */
static int run(struct backend *be, int from, int n, struct numbers *out, struct err *e)
{
    const size_t x_bytes = (size_t)n * IN * 2, out_bytes = (size_t)n * OUT * 2;
    char *memory = be->alloc(be, x_bytes + 2 * out_bytes + sizeof given.bias, e);
    struct weight *w = NULL;
    if (!memory || be->weight_open(be, &w, DTYPE_F16, OUT, IN, given.w, e) != 0) {
        be->free(be, memory);
        return e->code;
    }
    const int64_t rows = n;
    struct tensor bias = {.type = DTYPE_F32, .ndim = 1, .dims = {OUT}, .data = memory};
    struct tensor x = {
        .type = DTYPE_F16, .ndim = 2, .dims = {rows, IN}, .data = memory + sizeof given.bias};
    struct tensor plain = {
        .type = DTYPE_F16, .ndim = 2, .dims = {rows, OUT}, .data = (char *)x.data + x_bytes};
    struct tensor sum = plain;
    sum.data = (char *)plain.data + out_bytes;
    int rc = 0;
    for (int t = 0; t < TIMES && rc == 0; t++) {
        be->upload(be, bias.data, given.bias, sizeof given.bias);
        be->upload(be, x.data, given.x + (ptrdiff_t)from * IN, x_bytes);
        OP(be, linear, .out = {&plain}, .w = {w}, .x = &x);
        for (int i = 0; i < 8; i++) /* so many ops that they are worth a graph */
            OP(be, linear, .out = {&sum}, .w = {w}, .x = &x, .bias = {&bias}, .add = &plain);
        be->download(be, out->all, sum.data, out_bytes);
        rc = be->sync(be, e);
    }
    be->weight_close(be, w);
    be->free(be, memory);
    return rc;
}

/* From doubles: twice the product and the bias, each rounded to f16. */
static void check_near(const struct numbers *got, int from, int n, const char *what)
{
    for (int r = 0; r < n; r++) {
        for (int o = 0; o < OUT; o++) {
            double sum = 0, size = 1;
            for (int k = 0; k < IN; k++) {
                const double one = (double)f16_to_f32(given.w[o * IN + k]) *
                                   (double)f16_to_f32(given.x[(from + r) * IN + k]);
                sum += one;
                size += one < 0 ? -one : one;
            }
            const double want = 2 * sum + (double)given.bias[o];
            const double off = (double)f16_to_f32(got->all[r * OUT + o]) - want;
            if (!((off < 0 ? -off : off) <= 2e-3 * size))
                fail_msg("%s: row %d, output %d: %g off", what, r, o, off);
        }
    }
}

/* How many products were the library's, of a run under that behaviour. */
static uint64_t unpacked(const char *behaviour, struct numbers *out)
{
    struct err e = {0};
    setenv("CUEMU_BLAS", behaviour, 1);
    struct backend *be = open_device(false, 1);
    const uint64_t before = cuemu_counted("panel_unpack").launches;
    assert_int_equal(run(be, 0, MOST, out, &e), 0);
    be->close(be);
    setenv("CUEMU_BLAS", "", 1);
    return cuemu_counted("panel_unpack").launches - before;
}

static void untrusted_algorithms_are_not_used(void **state)
{
    (void)state;
    static struct numbers own, right, other;
    assert_int_equal(unpacked("none", &own), 0);
    check_near(&own, 0, MOST, "our own");
    assert_true(unpacked("", &right) >= 9 * TIMES);
    check_near(&right, 0, MOST, "the library");
    assert_int_equal(unpacked("varies", &other), 0);
    assert_memory_equal(&other, &own, sizeof own);
    assert_true(unpacked("first varies", &other) >= 9 * TIMES);
    assert_memory_equal(&other, &right, sizeof right);
}

static void few_rows_are_our_own(void **state)
{
    (void)state;
    static struct numbers out;
    struct err e = {0};
    struct backend *be = open_device(false, 128);
    const uint64_t before = cuemu_counted("panel_unpack").launches;
    assert_int_equal(run(be, 0, 127, &out, &e), 0);
    assert_int_equal(cuemu_counted("panel_unpack").launches, before);
    assert_int_equal(run(be, 0, 128, &out, &e), 0);
    assert_true(cuemu_counted("panel_unpack").launches > before);
    be->close(be);
}

static void graphs_and_rows_change_no_bit(void **state)
{
    (void)state;
    static const int rows[][2] = {{0, 1}, {7, 130}, {140, 260}, {13, 77}};
    static struct numbers all, some;
    struct err e = {0};
    struct backend *be = open_device(true, 1);
    assert_int_equal(run(be, 0, MOST, &all, &e), 0);
    const struct cuda_queue_stats s = cuda_queue_stats(cuda_of(be)->queue);
    assert_true(s.graph_launches > 0);
    assert_int_equal(s.failures, 0);
    be->graphs = false;
    assert_int_equal(run(be, 0, MOST, &some, &e), 0);
    assert_memory_equal(&some, &all, sizeof all);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        be->graphs = i % 2;
        assert_int_equal(run(be, rows[i][0], rows[i][1], &some, &e), 0);
        assert_memory_equal(some.all, all.all + (ptrdiff_t)rows[i][0] * OUT,
                            (size_t)rows[i][1] * OUT * 2);
    }
    be->close(be);
}

/* Each call of the library fails once: our own kernels compute, or the device says that it is lost. */
static void each_call_fails_once(void **state)
{
    (void)state;
    enum { ROWS = 20 };
    static struct numbers out;
    int served = 0, lost = 0, n_calls = 1;
    for (int n = 0; n <= n_calls; n++) { /* 0: none, to count them */
        char what[32];
        struct err e = {0};
        snprintf(what, sizeof what, "blas:%d", n);
        alarm(HANG_S);
        cuemu_fail(CUEMU_BLAS, n);
        struct backend *be = open_device(n % 2, 1);
        const int rc = run(be, 0, ROWS, &out, &e);
        if (n == 0)
            n_calls = cuemu_calls(CUEMU_BLAS);
        if (rc == 0) {
            check_near(&out, 0, ROWS, what);
        } else {
            assert_int_equal(rc, ERR_DEVICE);
            assert_non_null(strstr(e.msg, "cuda:0"));
        }
        served += rc == 0;
        lost += rc != 0;
        be->close(be);
        cuemu_fail(CUEMU_BLAS, 0);
        cuemu_reset();
        alarm(0);
    }
    printf("blas: %d calls: %d served, %d lost\n", n_calls, served, lost);
    assert_true(served > 10 && lost > 10);
}

int main(void)
{
    log_init(LOG_OFF, false);
    setenv("CUEMU_QUIET", "1", 1);
    fill();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(untrusted_algorithms_are_not_used),
        cmocka_unit_test(few_rows_are_our_own),
        cmocka_unit_test(graphs_and_rows_change_no_bit),
        cmocka_unit_test(each_call_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
