/* Calls on other threads than the loop's.  Thread: loop. */
#ifndef SERVER_WORK_H
#define SERVER_WORK_H
#include <uv.h>

#include "base/err.h"

struct api_call;
struct conn;

/* Starts libuv's workers, which would end the process where the system gives no threads when they are first needed.
 * Before any other thread. */
int work_open(uv_loop_t *loop, struct err *e);
/* api_begin on a worker. */
void work_begin(struct conn *c);
/* And on a thread of its own, which may wait for the network.  ERR_BUSY: there are too many of these. */
int work_fetch(struct conn *c, struct err *e);
/* api_work on a worker; the call's pumping goes on afterwards. */
void work_errand(void *http, struct api_call *call);
#endif
