/* The device that the golden tests run on: BACKEND in the environment, else the CPU. */
#ifndef TESTS_GOLDEN_DEVICE_H
#define TESTS_GOLDEN_DEVICE_H
#include <stdlib.h>

static inline const char *golden_device(void)
{
    const char *name = getenv("BACKEND");
    return name ? name : "cpu";
}
#endif
