/* Monotonic time.  Thread: any. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H
#include <stdint.h>

int64_t clock_us(void);     /* monotonic microseconds */
int64_t clock_ns(void);     /* the same clock in nanoseconds */
int64_t clock_unix_s(void); /* wall clock, seconds since 1970 */
#endif
