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
    assert_in_range(clock_us(), ns / 1000, ns / 1000 + 1000000);
    before = clock_us();
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    int64_t passed = clock_us() - before;
    assert_true(passed >= 20000);
    assert_true(passed < 20000000); /* a wrong unit, not a slow machine */
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
        cmocka_unit_test(clock_unix_s_is_the_wall_clock),
    };
    return cmocka_run_group_tests_name("base/clock", tests, NULL, NULL);
}
