/* Packing of weights: the same bytes in one piece, in pieces that are cut anywhere, and by several threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "kernels/cuda/cuda_pack.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/quant.h"

enum { OUT = 37, IN = 768 };

static void check_type(struct cuda_pack *p, enum dtype type)
{
    const int n_in = dtype_block(type) == 1 ? IN - 35 : IN;
    const struct weight w = {.type = type, .n_out = OUT, .n_in = n_in};
    const size_t raw_bytes = OUT * dtype_bytes(type, n_in), unit = cuda_weight_unit_bytes(type);
    const int64_t n = cuda_weight_units(&w);
    const size_t all = (size_t)n * unit;
    uint8_t *raw = xcalloc(raw_bytes, 1), *want = xcalloc(all, 1), *got = xcalloc(all, 1);
    assert_int_equal(all,
                     cuda_weight_panel_bytes(type, n_in) * (size_t)cuda_weight_panels(type, OUT));
    for (size_t i = 0; i < raw_bytes; i++)
        raw[i] = (uint8_t)(i * 2654435761u >> 13);
    cuda_weight_pack(want, &w, raw, 0, n);
    for (int64_t at = 0, step = 1; at < n; at += step, step = step % 7 + 2) {
        const int64_t end = at + step < n ? at + step : n;
        memset(got + (size_t)at * unit, 0xee, (size_t)(end - at) * unit);
        cuda_weight_pack(got + (size_t)at * unit, &w, raw, at, end);
    }
    assert_memory_equal(got, want, all);
    memset(got, 0xee, all);
    cuda_pack_units(p, got, &w, raw, 0, n);
    assert_memory_equal(got, want, all);
    free(raw);
    free(want);
    free(got);
}

static void cuts_and_threads_change_no_byte(void **state)
{
    struct cuda_pack *p = NULL;
    (void)state;
    assert_int_equal(cuda_pack_open(&p, NULL), 0);
    for (int type = 0; type < DTYPE_N; type++)
        if (type == DTYPE_F32 || cuda_weight_layout((enum dtype)type))
            check_type(p, (enum dtype)type);
    cuda_pack_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(cuts_and_threads_change_no_byte)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
