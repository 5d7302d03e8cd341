/* CUDA graphs on the emulated device: the same numbers with and without, what is captured when, what becomes
 * of captures that fail, and what the emulation holds against a capture. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cuda/cuda_backend.h"
#include "tests/cuemu/cuemu.h"

enum { COLS = 8, MAX_ROWS = 40, OPS = 12 };

static struct backend *open_device(bool graphs)
{
    struct backend *be;
    struct err e = {0};
    cuemu_reset();
    assert_int_equal(cuda_backend_open(&be, 0, &e), 0);
    be->graphs = graphs;
    return be;
}

/* OPS rotations: a step of so many rows, with an array of positions that changes each time. */
static void step(struct backend *be, float *device, float *host, int rows, int at)
{
    struct tensor x = {.type = DTYPE_F32, .ndim = 2, .dims = {rows, COLS}, .data = device};
    static const float freq[COLS / 2] = {1.0f, 0.5f, 0.25f, 0.125f};
    int32_t pos[MAX_ROWS];
    struct err e = {0};
    for (int i = 0; i < rows; i++)
        pos[i] = at + i;
    be->upload(be, device, host, (size_t)(rows * COLS) * sizeof *host);
    for (int i = 0; i < OPS; i++)
        OP(be, rope, .x = &x, .pos = pos, .freq = freq, .head_dim = COLS, .n_rot = COLS,
           .mscale = 1.0f, .interleaved = true);
    be->download(be, host, device, (size_t)(rows * COLS) * sizeof *host);
    assert_int_equal(be->sync(be, &e), 0);
}

/* Steps of so many kinds, each `times`; the last numbers. */
static struct cuda_queue_stats run(bool graphs, int kinds, int times, float *out)
{
    struct err e = {0};
    struct backend *be = open_device(graphs);
    float *device = be->alloc(be, MAX_ROWS * COLS * sizeof *device, &e);
    assert_int_equal(be->sync(be, &e), 0);
    for (int i = 0; i < MAX_ROWS * COLS; i++)
        out[i] = (float)i;
    for (int t = 0; t < times; t++)
        for (int k = 0; k < kinds; k++)
            step(be, device, out, k + 1, 100 * t + k);
    struct cuda_queue_stats s = cuda_queue_stats(cuda_of(be)->queue);
    be->free(be, device);
    be->close(be);
    return s;
}

static void same_numbers(void **state)
{
    (void)state;
    static float with[MAX_ROWS * COLS], without[MAX_ROWS * COLS];
    struct cuda_queue_stats s = run(true, 3, 6, with);
    assert_int_equal(run(false, 3, 6, without).graph_launches, 0);
    assert_memory_equal(with, without, sizeof with);
    assert_int_equal(s.captures, 3);             /* each the second time */
    assert_int_equal(s.graph_launches, 3 * 5);   /* from then on */
    assert_int_equal(s.updates + s.failures, 0); /* nothing had to go */
}

/* More kinds than there may be graphs: those used least are updated. */
static void updates(void **state)
{
    (void)state;
    static float with[MAX_ROWS * COLS], without[MAX_ROWS * COLS];
    struct err e = {0};
    struct backend *be = open_device(true);
    float *device = be->alloc(be, MAX_ROWS * COLS * sizeof *device, &e);
    assert_int_equal(be->sync(be, &e), 0);
    for (int i = 0; i < MAX_ROWS * COLS; i++)
        with[i] = without[i] = (float)i;
    for (int k = 0; k < MAX_ROWS; k++)
        for (int t = 0; t < 3; t++)
            step(be, device, with, k + 1, t);
    struct cuda_queue_stats s = cuda_queue_stats(cuda_of(be)->queue);
    assert_int_equal(s.captures, MAX_ROWS);
    assert_int_equal(s.graph_launches, 2 * MAX_ROWS);
    assert_true(s.updates > MAX_ROWS / 2);
    be->graphs = false;
    for (int k = 0; k < MAX_ROWS; k++)
        for (int t = 0; t < 3; t++)
            step(be, device, without, k + 1, t);
    assert_memory_equal(with, without, sizeof with);
    be->free(be, device);
    be->close(be);
}

/* Every call of a capture fails once: launched one by one, and nobody notices. */
static void failures(void **state)
{
    (void)state;
    static float with[MAX_ROWS * COLS], without[MAX_ROWS * COLS];
    run(false, 2, 4, without);
    uint64_t seen = 0;
    for (int n = 1; n <= 6; n++) {
        cuemu_fail(CUEMU_GRAPH, n);
        struct cuda_queue_stats s = run(true, 2, 4, with);
        assert_memory_equal(with, without, sizeof with);
        seen += s.failures;
    }
    cuemu_fail(CUEMU_GRAPH, 0);
    assert_true(seen >= 6);
}

/* A launch of a graph that fails is the device's failure, told by the sync. */
static void a_launch_that_fails(void **state)
{
    (void)state;
    struct err e = {0};
    float host[COLS] = {1};
    struct backend *be = open_device(true);
    float *device = be->alloc(be, sizeof host, &e);
    assert_int_equal(be->sync(be, &e), 0);
    for (int t = 0; t < 3; t++)
        step(be, device, host, 1, t);
    assert_int_equal(cuda_queue_stats(cuda_of(be)->queue).graph_launches, 2);
    cuemu_fail(CUEMU_LAUNCH, 1);
    be->copy(be, device, device, 4);
    struct tensor x = {.type = DTYPE_F32, .ndim = 2, .dims = {1, COLS}, .data = device};
    OP(be, act, .out = &x, .x = &x, .act = ACT_RELU);
    assert_int_equal(be->sync(be, &e), ERR_DEVICE);
    assert_non_null(strstr(e.msg, "cuda:0"));
    cuemu_fail(CUEMU_LAUNCH, 0);
    be->free(be, device);
    be->close(be);
    cuemu_reset();
}

/* What one device holds back goes to it, whichever this thread was at last. */
static void two_devices(void **state)
{
    (void)state;
    struct err e = {0};
    float host[COLS] = {-1, 2}, *x[2];
    struct backend *be[2] = {open_device(true)};
    assert_int_equal(cuda_backend_open(&be[1], 1, &e), 0);
    be[1]->graphs = true;
    for (int i = 0; i < 2; i++) {
        x[i] = be[i]->alloc(be[i], sizeof host, &e);
        be[i]->upload(be[i], x[i], host, sizeof host);
    }
    for (int i = 0; i < 2; i++) {
        struct tensor t = {.type = DTYPE_F32, .ndim = 2, .dims = {1, COLS}, .data = x[i]};
        OP(be[i], act, .out = &t, .x = &t, .act = ACT_RELU);
    }
    for (int i = 0; i < 2; i++) {
        be[i]->download(be[i], host, x[i], sizeof host);
        if (be[i]->sync(be[i], &e) != 0)
            fail_msg("%s", e.msg);
        assert_true(host[0] == 0 && host[1] == 2);
        be[i]->free(be[i], x[i]);
    }
    for (int i = 0; i < 2; i++)
        be[i]->close(be[i]);
}

/* What must not happen while a stream is captured makes the capture worthless, as on a device. */
static void spoilt(void **state)
{
    (void)state;
    cudaStream_t s;
    cudaGraph_t graph;
    void *p = NULL;
    assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    assert_int_equal(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal),
                     cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaMalloc(&p, 256), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    assert_null(graph);
    assert_int_equal(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    assert_int_equal(cudaStreamDestroy(s), cudaSuccess);
    cuemu_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_numbers), cmocka_unit_test(updates),
        cmocka_unit_test(failures),     cmocka_unit_test(a_launch_that_fails),
        cmocka_unit_test(two_devices),  cmocka_unit_test(spoilt),
    };
    setenv("CUEMU_DEVICES", "2", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
