/* `duetto healthcheck`: asks a running server's /health, for containers without curl.
 * Thread: main. */
#ifndef SERVER_HEALTHCHECK_H
#define SERVER_HEALTHCHECK_H
#include "server/config.h"

/* 0 when the server that c describes is healthy.  Over TLS only the TCP connect is tried. */
int healthcheck_run(const struct config *c, struct err *e);
#endif
