/* The device that the golden tests run on: BACKEND in the environment, else the CPU. And whether fewer cases
 * will do (DUETTO_TEST_SHORT), as on an emulated device, where a picture takes a minute. */
#ifndef TESTS_GOLDEN_DEVICE_H
#define TESTS_GOLDEN_DEVICE_H
#include <stdbool.h>
#include <stdlib.h>

static inline const char *golden_device(void)
{
    const char *name = getenv("BACKEND");
    return name ? name : "cpu";
}

static inline bool golden_short(void)
{
    return getenv("DUETTO_TEST_SHORT") != NULL;
}
#endif
