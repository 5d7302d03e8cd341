/* Calls on other threads: what would hold up the loop goes to libuv's workers; what waits for the network gets
 * a thread of its own, since a few slow hosts would occupy all workers. */
#include "server/work.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "server/conn.h"

/* ------------------------------------------------------------------ libuv's workers */

enum { WORKERS = 4, WORKERS_MAX = 1024 }; /* libuv's numbers */

static int n_workers(void)
{
    const char *said = getenv("UV_THREADPOOL_SIZE"); /* NOLINT(concurrency-mt-unsafe): at start */
    const long n = said ? strtol(said, NULL, 10) : WORKERS;
    return n < 1 ? 1 : n > WORKERS_MAX ? WORKERS_MAX : (int)n;
}

/* A thread that is there until all have been made. */
static void wait_in_line(void *mutex)
{
    uv_mutex_lock(mutex);
    uv_mutex_unlock(mutex);
}

static void on_nothing(uv_work_t *w)
{
    (void)w;
}

static void on_nothing_done(uv_work_t *w, int status)
{
    (void)w;
    (void)status;
}

int work_open(uv_loop_t *loop, struct err *e)
{
    static uv_work_t first;
    uv_thread_t *threads = xcalloc(WORKERS_MAX, sizeof *threads);
    uv_mutex_t line;
    const int wanted = n_workers();
    int n = 0, rc = uv_mutex_init(&line);
    if (!rc) {
        uv_mutex_lock(&line);
        while (n < wanted && !rc) {
            rc = uv_thread_create(&threads[n], wait_in_line, &line);
            n += !rc;
        }
        uv_mutex_unlock(&line);
        for (int i = 0; i < n; i++)
            uv_thread_join(&threads[i]);
        uv_mutex_destroy(&line);
    }
    free(threads);
    if (rc)
        return err_set(e, ERR_IO, "the system gives only %d of %d worker threads: %s", n, wanted,
                       uv_strerror(rc));
    uv_queue_work(loop, &first, on_nothing, on_nothing_done);
    return 0;
}

/* ------------------------------------------------------------------ a call */

/* The worker reads the path and the body, which stay until it has ended. */
static void leave_loop(struct conn *c)
{
    c->working = true;
    if (!c->path_copy)
        c->path = c->path_copy = xstrdup(c->path);
    c->refs++;
    c->http->working++;
}

/* Back on the loop, with what was made. */
static void return_to_loop(struct conn *c)
{
    struct http *h = c->http;
    struct api_call *call = c->worked;
    c->working = false;
    c->worked = NULL;
    h->working--;
    if (!c->mhd || c->client_gone) {
        api_end(call);
    } else {
        http_take(c, call);
        http_again(h); /* a wake may have come before the call */
    }
    if (c->mhd)
        http_resume(c);
    http_unref(c);
    http_drive(h);
}

static void on_work(uv_work_t *w)
{
    struct conn *c = w->data;
    c->worked = http_begin(c, false);
}

static void on_worked(uv_work_t *w, int status)
{
    (void)status;
    return_to_loop(w->data);
}

void work_begin(struct conn *c)
{
    leave_loop(c);
    c->work.data = c;
    uv_queue_work(c->http->o.loop, &c->work, on_work, on_worked);
}

/* ------------------------------------------------------------------ threads that wait */

static void on_fetcher(void *arg)
{
    struct conn *c = arg;
    c->worked = http_begin(c, true);
    uv_async_send(&c->fetched);
}

static void on_fetched_closed(uv_handle_t *handle)
{
    return_to_loop(handle->data);
}

static void on_fetched(uv_async_t *a)
{
    struct conn *c = a->data;
    uv_thread_join(&c->fetcher); /* its last act was to say so */
    c->http->fetching--;
    uv_close((uv_handle_t *)a, on_fetched_closed);
}

static void on_unused_closed(uv_handle_t *handle)
{
    http_unref(handle->data);
}

int work_fetch(struct conn *c, struct err *e)
{
    struct http *h = c->http;
    if (h->fetching >= h->o.config->max_image_urls)
        return err_set(e, ERR_BUSY, "too many pictures are being fetched; try again soon");
    if (uv_async_init(h->o.loop, &c->fetched, on_fetched))
        return err_set(e, ERR_BUSY, "no more pictures can be fetched now; try again soon");
    c->fetched.data = c;
    leave_loop(c);
    if (uv_thread_create(&c->fetcher, on_fetcher, c)) {
        c->working = false;
        h->working--;
        uv_close((uv_handle_t *)&c->fetched, on_unused_closed);
        return err_set(e, ERR_BUSY, "no more pictures can be fetched now; try again soon");
    }
    h->fetching++;
    return 0;
}

/* ------------------------------------------------------------------ api_work */

/* A call on its way through a worker; its connection may end meanwhile (api_end knows). */
struct errand {
    uv_work_t work;
    struct http *http;
    struct api_call *call;
};

static void on_errand(uv_work_t *w)
{
    struct errand *r = w->data;
    api_work(r->call);
}

static void on_errand_done(uv_work_t *w, int status)
{
    (void)status;
    struct errand *r = w->data;
    r->http->working--;
    api_worked(r->call);
    if (r->http->daemon)
        http_again(r->http);
    free(r);
}

void work_errand(void *http, struct api_call *call)
{
    struct errand *r = xcalloc(1, sizeof(*r));
    r->http = http;
    r->call = call;
    r->work.data = r;
    call->work = false;
    r->http->working++;
    uv_queue_work(r->http->o.loop, &r->work, on_errand, on_errand_done);
}
