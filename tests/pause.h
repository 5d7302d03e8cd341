/* What a test does between two looks at what another thread does. */
#ifndef TESTS_PAUSE_H
#define TESTS_PAUSE_H
#include <time.h>

/* Less than a second. */
static inline void pause_ms(int ms)
{
    const struct timespec t = {.tv_nsec = ms * 1000000L};
    nanosleep(&t, NULL);
}

/* Until it is true, at least two minutes: who waits says afterwards what should be. */
#define PAUSE_UNTIL(what)                                      \
    for (int pauses = 0; pauses < 120000 && !(what); pauses++) \
    pause_ms(1)
#endif
