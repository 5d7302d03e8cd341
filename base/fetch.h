/* Files by http(s) URL, for a server that must not become its clients' way into the operator's network.
 *
 * A URL is read once, by libcurl, which also connects by it.  It has the scheme http or https, no user and
 * password, a plain host name or address, and a port that is allowed.  Every address that is connected to
 * is looked at when its socket is made, after the name was resolved, so a name that resolves differently the
 * second time gains nothing.  Redirects are URLs like the first one.  Proxies of the environment, cookies,
 * .netrc and compressed answers are not used.
 * Thread: any; fetch_get waits for the network, so never the loop's. */
#ifndef BASE_FETCH_H
#define BASE_FETCH_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct fetch;

struct fetch_options {
    /* Besides what is allowed by name or network: every host with a public address. */
    bool public_hosts;
    /* With commas: host names ("example.org", "*.example.org"), which may be asked, and networks
     * ("10.0.0.0/8", "::1"), whose addresses may be connected to although they are not public. */
    const char *allow;
    const char *ports; /* "80,443" */
    const char *agent; /* User-Agent */
};
/* ERR_INVALID says which entry of allow or ports is none.  Call it before there are threads. */
int fetch_open(struct fetch **out, const struct fetch_options *o, struct err *e);
void fetch_close(struct fetch *f); /* NULL is allowed */

/* All that can be said without asking anybody: 0, or ERR_INVALID. */
int fetch_check(const struct fetch *f, const char *url, struct err *e);

struct fetch_request {
    const char *url;
    const char *id;          /* for the log line */
    int64_t until_us;        /* clock_us at which it is over */
    const atomic_bool *gone; /* true: nobody waits any more; seen within a second.  NULL: never */
};
/* Appends what the URL names to out: ERR_TOOBIG beyond its maximum, ERR_INVALID when it cannot be had,
 * ERR_CANCELLED. */
int fetch_get(const struct fetch *f, const struct fetch_request *r, struct buf *out, struct err *e);
#endif
