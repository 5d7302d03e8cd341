/* An engine of a test, opened and loaded. */
#ifndef TESTS_ENGINE_READY_H
#define TESTS_ENGINE_READY_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "tests/pause.h"

/* Fails the test when it does not load. */
static inline struct engine *engine_ready(const struct engine_options *o)
{
    struct engine *g;
    struct err e = {0};
    assert_int_equal(engine_open(&g, o, &e), 0);
    while (engine_state(g) == ENGINE_LOADING)
        pause_ms(1);
    engine_failure(g, &e);
    if (engine_state(g) != ENGINE_READY)
        fail_msg("loading: %s", e.msg);
    return g;
}
#endif
