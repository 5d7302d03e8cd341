/* Jobs: calls that outlive their request ("background": true).  A table of bounded size and memory, oldest
 * finished ones go first; each belongs to the API key that made it, and to nobody else it exists.
 * Thread: loop. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "api/responses_store.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"

enum { ID_MAX = 40 };

struct entry {
    char id[ID_MAX];
    struct api_call *call;
    int64_t created_s, created_us, finished_us; /* finished_us 0: not yet */
};

struct jobs {
    int max, n;
    size_t max_bytes;
    int64_t ttl_us;
    struct entry *list; /* [n], in the order in which they came */
    int next;           /* whose turn it is to be pumped */
};

struct jobs *jobs_open(const struct api_options *o)
{
    struct jobs *j = xcalloc(1, sizeof *j);
    j->max = o->max_jobs;
    j->max_bytes = o->max_jobs_bytes;
    j->ttl_us = o->job_ttl_s * 1000000;
    j->list = xcalloc((size_t)j->max, sizeof *j->list);
    return j;
}

void jobs_close(struct jobs *j)
{
    for (int i = 0; i < j->n; i++)
        api_end(j->list[i].call);
    free(j->list);
    free(j);
}

/* The entry's memory is the next one's afterwards. */
static void drop(struct jobs *j, int i)
{
    api_end(j->list[i].call);
    j->n--;
    memmove(&j->list[i], &j->list[i + 1], (size_t)(j->n - i) * sizeof *j->list);
}

static bool drop_oldest_finished(struct jobs *j)
{
    for (int i = 0; i < j->n; i++)
        if (j->list[i].finished_us != 0) {
            drop(j, i);
            return true;
        }
    return false;
}

/* ---- What the answers say ---- */

static const char *status_of(const struct entry *t)
{
    const struct api_call *c = t->call;
    struct images_progress p;
    if (c->state == API_DONE)
        return c->status == 200 ? "completed" : "failed";
    images_out_progress(c->priv->images, &p);
    return p.total > 0 ? "running" : "queued";
}

static void put_progress(struct json_writer *w, const struct api_call *c)
{
    struct images_progress p;
    images_out_progress(c->priv->images, &p);
    json_open(w, "progress", '{');
    json_put_int(w, "images", p.n_images);
    json_put_int(w, "n_images", c->n_choices);
    json_put_int(w, "step", p.done);
    json_put_int(w, "n_steps", p.total);
    json_put_num(w, "fraction", p.total > 0 ? (double)p.done / p.total : 0);
    if (p.eta_s >= 0)
        json_put_num(w, "eta_s", (double)(int64_t)(p.eta_s * 10) / 10);
    else
        json_put_null(w, "eta_s");
    json_close(w, '}');
}

static void put_entry(struct json_writer *w, const struct jobs *j, const struct entry *t,
                      bool whole)
{
    const struct api_call *c = t->call;
    json_open(w, NULL, '{');
    json_put_str(w, "id", t->id);
    json_put_str(w, "object", "job");
    json_put_str(w, "kind", "image");
    json_put_str(w, "model", c->model);
    json_put_str(w, "status", status_of(t));
    json_put_int(w, "created_at", t->created_s);
    if (t->finished_us != 0) {
        int64_t finished_s = t->created_s + (t->finished_us - t->created_us) / 1000000;
        json_put_int(w, "finished_at", finished_s);
        json_put_int(w, "expires_at", finished_s + j->ttl_us / 1000000);
    } else {
        json_put_null(w, "finished_at");
        json_put_null(w, "expires_at");
    }
    put_progress(w, c);
    if (whole && c->state == API_RUNNING)
        images_out_put_preview(c->priv->images, w, "preview");
    /* The body of the answer, or of the error, is what the call would have sent. */
    if (whole && c->state == API_DONE && c->status == 200)
        json_put_raw(w, "result", c->out.data, c->out.len);
    if (c->state == API_DONE && c->status != 200) {
        json_open(w, "error", '{');
        json_put_str(w, "message", c->priv->err.msg);
        json_put_str(w, "code", c->error_reason);
        json_put_int(w, "status", c->status);
        json_close(w, '}');
    }
    json_close(w, '}');
}

/* ---- Routes ---- */

int jobs_list(struct api_call *c, struct err *e)
{
    const struct jobs *j = c->priv->api->jobs;
    struct json_writer w;
    (void)e;
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "object", "list");
    json_open(&w, "data", '[');
    for (int i = j->n - 1; i >= 0; i--)
        if (j->list[i].call->priv->owner == c->priv->owner)
            put_entry(&w, j, &j->list[i], false);
    json_close(&w, ']');
    json_close(&w, '}');
    return 0;
}

/* The job of the path, or -1 with 404. */
static int find(const struct api_call *c, const char *path, struct err *e)
{
    const struct jobs *j = c->priv->api->jobs;
    const char *id = strstr(path, "/jobs/");
    id = id != NULL ? id + strlen("/jobs/") : "";
    size_t n = strcspn(id, "/");
    for (int i = 0; i < j->n; i++)
        if (strlen(j->list[i].id) == n && memcmp(j->list[i].id, id, n) == 0 &&
            strspn(id + n, "/") == strlen(id + n) && j->list[i].call->priv->owner == c->priv->owner)
            return i;
    err_set(e, ERR_NOTFOUND, "there is no job '%.60s'; finished ones are forgotten after a while",
            id);
    err_reason(e, "job_not_found");
    return -1;
}

int jobs_one(struct api_call *c, const char *path, struct err *e)
{
    const struct jobs *j = c->priv->api->jobs;
    int i = find(c, path, e);
    if (i < 0)
        return ERR_NOTFOUND;
    struct json_writer w;
    c->out.max += j->list[i].call->out.max;
    json_begin(&w, &c->out);
    put_entry(&w, j, &j->list[i], true);
    return 0;
}

int jobs_delete(struct api_call *c, const char *path, struct err *e)
{
    struct jobs *j = c->priv->api->jobs;
    int i = find(c, path, e);
    if (i < 0)
        return ERR_NOTFOUND;
    struct json_writer w;
    bool running = j->list[i].call->state == API_RUNNING;
    json_begin(&w, &c->out);
    json_open(&w, NULL, '{');
    json_put_str(&w, "id", j->list[i].id);
    json_put_str(&w, "object", "job.deleted");
    json_put_bool(&w, "deleted", true);
    json_put_bool(&w, "cancelled", running);
    json_close(&w, '}');
    drop(j, i);
    return 0;
}

/* ---- Their life ---- */

struct api_call *api_adopt(struct api *a, struct api_call *c, int owner)
{
    struct jobs *j = a->jobs;
    if (!c->background)
        return c;
    struct api_call *answer = api_call_new(a);
    answer->model = c->model;
    answer->state = API_DONE;
    if (j->n == j->max && !drop_oldest_finished(j)) {
        struct err e = {0};
        err_set(&e, ERR_BUSY, "%d jobs are running already; wait for one, or delete one", j->n);
        api_end(c);
        api_fail(answer, &e);
        return answer;
    }
    struct entry *t = &j->list[j->n++];
    *t = (struct entry){.call = c, .created_s = clock_unix_s(), .created_us = clock_us()};
    snprintf(t->id, sizeof t->id, "job_%016llx%016llx", (unsigned long long)rng_seed_random(),
             (unsigned long long)rng_seed_random());
    c->priv->owner = owner;
    answer->status = 202;
    struct json_writer w;
    json_begin(&w, &answer->out);
    put_entry(&w, j, t, false);
    return answer;
}

static void log_job(const struct entry *t)
{
    const struct api_call *c = t->call;
    struct log_line l;
    log_begin(&l, LOG_INFO, "job");
    log_str(&l, "id", t->id);
    log_str(&l, "model", c->model);
    log_int(&l, "status", c->status);
    log_num(&l, "ms", (double)(t->finished_us - t->created_us) / 1e3);
    if (c->error_reason != NULL)
        log_str(&l, "error", c->error_reason);
    log_end(&l);
}

/* What the answers of finished jobs take; the newest may stay whatever it takes. */
static void keep_within_bytes(struct jobs *j)
{
    size_t bytes = 0;
    int n_finished = 0;
    for (int i = 0; i < j->n; i++) {
        bytes += j->list[i].finished_us != 0 ? j->list[i].call->out.cap : 0;
        n_finished += j->list[i].finished_us != 0;
    }
    for (int i = 0; i < j->n && bytes > j->max_bytes && n_finished > 1;) {
        if (j->list[i].finished_us == 0) {
            i++;
            continue;
        }
        bytes -= j->list[i].call->out.cap;
        n_finished--;
        drop(j, i);
    }
}

bool api_jobs_pump(struct api *a, int64_t until_us, void (*start)(void *ctx, struct api_call *c),
                   void *ctx)
{
    struct jobs *j = a->jobs;
    bool ended = false;
    for (int k = 0, n = j->n; k < n; k++) {
        if (clock_us() >= until_us)
            return true;
        j->next = j->next < n ? j->next : 0;
        struct entry *t = &j->list[j->next];
        if (t->finished_us == 0) {
            api_pump(t->call, until_us);
            if (t->call->work)
                start(ctx, t->call);
            if (t->call->more)
                return true;
        }
        j->next++;
        if (t->call->state == API_DONE && t->finished_us == 0) {
            t->finished_us = clock_us();
            log_job(t);
            job_unref(t->call->job); /* and with it the request's pictures */
            t->call->job = NULL;
            ended = true;
        }
    }
    if (ended)
        keep_within_bytes(j);
    return false;
}

void api_jobs_expire(struct api *a)
{
    struct jobs *j = a->jobs;
    int64_t before_us = clock_us() - j->ttl_us;
    responses_store_expire(a->responses);
    for (int i = 0; i < j->n;) {
        if (j->list[i].finished_us != 0 && j->list[i].finished_us < before_us)
            drop(j, i);
        else
            i++;
    }
}

void api_jobs_cancel(struct api *a)
{
    for (int i = 0; i < a->jobs->n; i++)
        if (a->jobs->list[i].call->job != NULL)
            job_cancel(a->jobs->list[i].call->job);
}
