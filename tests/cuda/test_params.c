/* Arrays that ops point to, on their way to the (emulated) device: more bytes in one op than the ring of them has at
 * first, with graphs and without; what comes before and after is right as well, and memory that is not there is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cuda/cuda_backend.h"
#include "tests/cuemu/cuemu.h"

/* Sequences so long that their lists of pages take 6 MiB; all but the last of a list are page 0. */
enum { DIM = 8, SEQUENCES = 48, PAGES = 32768, N_PAGES = 1 + SEQUENCES, TIMES = 4 };

static int32_t lists[SEQUENCES][PAGES];
static float k[SEQUENCES * DIM], v[SEQUENCES * DIM];

static void fill(void)
{
    for (int i = 0; i < SEQUENCES * DIM; i++) {
        k[i] = (float)i;
        v[i] = (float)-i;
    }
    for (int s = 0; s < SEQUENCES; s++)
        lists[s][PAGES - 1] = lists[s][0] = 1 + s;
}

/* Keys and values of a token of the first n sequences, at a place of the first or the last page of their lists. */
static void store(struct backend *be, char *pages, float *device, int n, bool last, int slot)
{
    struct kv_row rows[SEQUENCES];
    struct tensor key = {.type = DTYPE_F32, .ndim = 2, .dims = {n, DIM}, .data = device},
                  value = key;
    value.data = device + SEQUENCES * DIM;
    for (int s = 0; s < n; s++)
        rows[s] = (struct kv_row){.pages = lists[s],
                                  .pos = (last ? PAGES - 1 : 0) * KV_PAGE_TOKENS + slot};
    const size_t half = be->kv_bytes(DTYPE_F32, 1, DIM);
    const struct kv_view view = {.base = pages,
                                 .page_bytes = 2 * half,
                                 .v_offset = half,
                                 .n_kv_heads = 1,
                                 .head_dim = DIM,
                                 .type = DTYPE_F32};
    be->upload(be, device, k, sizeof k);
    be->upload(be, value.data, v, sizeof v);
    for (int i = 0; i < 8; i++) /* so many ops that they are worth a graph */
        OP(be, kv_store, .kv = view, .k = &key, .v = &value, .rows = rows);
}

/* Short lists, long ones, and short ones again, each several times; the first failure. */
static int run(bool graphs, int fail_malloc, struct err *e)
{
    struct backend *be;
    cuemu_reset();
    assert_int_equal(cuda_backend_open(&be, 0, e), 0);
    be->graphs = graphs;
    const size_t page = 2 * be->kv_bytes(DTYPE_F32, 1, DIM);
    char *pages = be->alloc(be, N_PAGES * page, e), *got = malloc(N_PAGES * page);
    float *device = be->alloc(be, sizeof k + sizeof v, e);
    int rc = be->sync(be, e);
    if (fail_malloc)
        cuemu_fail(CUEMU_MALLOC, fail_malloc);
    for (int round = 0; round < 3 && rc == 0; round++)
        for (int t = 0; t < TIMES && rc == 0; t++) {
            store(be, pages, device, round == 1 ? SEQUENCES : 1, round == 1, round);
            be->download(be, got, pages, N_PAGES * page);
            rc = be->sync(be, e);
        }
    for (int s = 0; s < SEQUENCES && rc == 0; s++)
        for (int round = 0; round < (s ? 2 : 3); round++) {
            const float *at = (const float *)(void *)(got + (size_t)(1 + s) * page) + round * DIM;
            if (s > 0 && round == 0)
                continue;
            assert_memory_equal(at, k + s * DIM, DIM * sizeof *k);
            assert_memory_equal(at + KV_PAGE_TOKENS * DIM, v + s * DIM, DIM * sizeof *v);
        }
    if (rc == 0 && graphs)
        assert_true(cuda_queue_stats(cuda_of(be)->queue).graph_launches > 0);
    be->free(be, pages);
    be->free(be, device);
    be->close(be);
    cuemu_fail(CUEMU_MALLOC, 0);
    cuemu_reset();
    free(got);
    return rc;
}

static void long_lists_make_room(void **state)
{
    (void)state;
    for (int graphs = 0; graphs < 2; graphs++) {
        struct err e = {0};
        if (run(graphs, 0, &e) != 0)
            fail_msg("%s", e.msg);
    }
}

static void without_room_the_device_is_lost(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(run(false, 1, &e), ERR_DEVICE);
    assert_non_null(strstr(e.msg, "cuda:0: memory for an op's arguments"));
}

int main(void)
{
    fill();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_lists_make_room),
        cmocka_unit_test(without_room_the_device_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
