/* Stop strings over a stream of text that comes in pieces of any size.
 * Thread: engine.
 *
 * Every stop string has a Knuth-Morris-Pratt automaton that advances byte by byte, so that the result
 * is a function of the text alone and not of where tokens cut it.  The first byte at which some
 * string is complete ends the text; if several end there the longest one counts.  A state of k says
 * that the last k bytes are the beginning of a stop string: the longest such tail is held back, the
 * rest may be given out. */
#ifndef ENGINE_STOP_H
#define ENGINE_STOP_H
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/job.h"

/* The strings of one request, shared by its choices; keeps the pointers. */
struct stop_set {
    int n;
    const char *strings[JOB_STOP_MAX];
    int lens[JOB_STOP_MAX];
    int *fails[JOB_STOP_MAX]; /* [len] longest border of string[0 ... i] */
};

int stop_set_init(struct stop_set *set, const char *const *strings, int n, struct err *e);
void stop_set_fini(struct stop_set *set);

struct stop {
    const struct stop_set *set;
    int states[JOB_STOP_MAX];
    struct buf held; /* may be the beginning of a stop string */
};
void stop_init(struct stop *s, const struct stop_set *set);
void stop_fini(struct stop *s);
/* Feeds text and appends to out what may be given out now.  -1: go on; else the index of the stop
 * string that ended the text, which is then all in out (with the string itself if include). */
int stop_push(struct stop *s, const char *text, size_t len, bool include, struct buf *out);
/* No more text comes: what is held goes out. */
void stop_flush(struct stop *s, struct buf *out);
#endif
