/* Error codes and the one sentence that explains them to a person.
 * Thread: any. */
#ifndef BASE_ERR_H
#define BASE_ERR_H
#include <stddef.h>

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Every function that can fail returns 0 or one of these.  The HTTP status that a code becomes is
 * in one table, api/error.c. */
enum {
    ERR_INVALID = -1,      /* the caller's request is wrong: bad JSON, bad value */
    ERR_NOTFOUND = -2,     /* no such model, route, file */
    ERR_TOOBIG = -3,       /* over a configured limit */
    ERR_BUSY = -4,         /* queue full now; try again soon */
    ERR_REFUSED = -5,      /* a content filter said no */
    ERR_CANCELLED = -6,    /* the client went away, or shutdown */
    ERR_NOMEM = -7,        /* a counted pool (weights, pages, scratch) is exhausted */
    ERR_UNSUPPORTED = -8,  /* valid, but not built in */
    ERR_CORRUPT = -9,      /* a file is not what its header says */
    ERR_IO = -10,          /* the system said no; errno's text is in the message */
    ERR_DEVICE = -11,      /* the accelerator failed; the backend is unusable from now on */
    ERR_UNAVAILABLE = -12, /* still loading, or draining before shutdown */
};

/* Filled by the function that first sees the problem, left alone on success. */
struct err {
    int code;
    char param[64];  /* the request field to blame ("messages[2].content"), "" if none */
    char reason[40]; /* a word for machines ("context_length_exceeded"), "" if none */
    char msg[256];   /* one sentence for a person, no newline, no pointers */
};

/* Sets *e (which may be NULL) and returns code, so that `return err_set(...)` reads well. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts context in front of the message that is there: "loading unet: truncated file".
 * Returns the code that is there. */
int err_wrap(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Names the request field to blame, and the machine-readable reason; both return e->code. */
int err_param(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
int err_reason(struct err *e, const char *reason);

/* A name from a file in a message: the first ERR_SHOWN bytes, "..." behind what was cut off, and what is not
 * printable ASCII as '?'.  s has n bytes, or ends with a NUL. */
enum { ERR_SHOWN = 64 };
struct err_shown {
    char text[ERR_SHOWN + 4];
};
struct err_shown err_shown(const char *s, size_t n);
struct err_shown err_shown_str(const char *s);

#endif
