/* The device that the golden tests run on: BACKEND in the environment, else the CPU; and what it has for
 * activations: ACTIVATIONS f16 or bf16, else f32; and for products: BLAS_ROWS (struct backend's blas), else nothing;
 * whether it launches what recurs as graphs: GRAPHS.  And whether fewer cases will do (DUETTO_TEST_SHORT), as on an
 * emulated device, where a picture takes a minute. */
#ifndef TESTS_GOLDEN_DEVICE_H
#define TESTS_GOLDEN_DEVICE_H
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/tensor.h"

static inline const char *golden_device(void)
{
    const char *name = getenv("BACKEND");
    return name ? name : "cpu";
}

static inline enum dtype golden_activations(void)
{
    const char *name = getenv("ACTIVATIONS");
    if (name && strcmp(name, "f16") == 0)
        return DTYPE_F16;
    return name && strcmp(name, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
}

static inline int golden_blas_rows(void)
{
    const char *rows = getenv("BLAS_ROWS");
    return rows ? (int)strtol(rows, NULL, 10) : 0;
}

static inline bool golden_graphs(void)
{
    return getenv("GRAPHS") != NULL;
}

static inline bool golden_short(void)
{
    return getenv("DUETTO_TEST_SHORT") != NULL;
}
#endif
