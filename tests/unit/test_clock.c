/* The clocks move forward and agree with the system's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <time.h>

#include "base/clock.h"

static void clock_us_never_goes_back_and_counts_microseconds(void **state)
{
    (void)state;
    int64_t before = clock_us(), last = before;
    for (int i = 0; i < 10000; i++) {
        int64_t now = clock_us();
        assert_true(now >= last);
        last = now;
    }
    int64_t ns = clock_ns();
    assert_true(last <= ns / 1000 && ns / 1000 <= clock_us());
    before = clock_us();
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    assert_true(clock_us() - before >= 20000);
}

/* However long the machine lets the test wait. */
static void clock_us_is_the_systems_monotonic_clock(void **state)
{
    (void)state;
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    int64_t us = clock_us();
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_true(from.tv_sec * 1000000 + from.tv_nsec / 1000 <= us);
    assert_true(us <= to.tv_sec * 1000000 + to.tv_nsec / 1000);
}

static void clock_unix_s_is_the_wall_clock(void **state)
{
    (void)state;
    int64_t before = (int64_t)time(NULL);
    int64_t now = clock_unix_s();
    assert_true(now >= before && now <= (int64_t)time(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clock_us_never_goes_back_and_counts_microseconds),
        cmocka_unit_test(clock_us_is_the_systems_monotonic_clock),
        cmocka_unit_test(clock_unix_s_is_the_wall_clock),
    };
    return cmocka_run_group_tests_name("base/clock", tests, NULL, NULL);
}
