/* Whether what a network made are numbers.  Damaged weights, or ones whose sums overflow, make NaN of everything,
 * which as a picture is black and in JSON is null; an answer like that is an error instead.
 * Thread: any. */
#ifndef ENGINE_FINITE_H
#define ENGINE_FINITE_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

bool finite_all(const float *v, size_t n);
/* The error of a model that made a `what` ("a picture") of other than finite numbers: ERR_CORRUPT, reason
 * not_finite. */
int finite_error(const char *what, struct err *e);
#endif
