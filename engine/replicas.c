/* Opening several engines, asking all of them, choosing one.
 *
 * No locks: engines are asked for their atomics, and what the choice remembers are atomics too.  Two
 * requests at the same time may both go to the same engine; the next ones see it. */
#include "engine/replicas.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "engine/engine_int.h"

enum {
    PROMPTS = 1 << 13,  /* remembered beginnings of an engine */
    PAGES_KNOWN = 64,   /* of a prompt are looked at */
    PAGES_WORTH = 2,    /* fewer are computed again sooner than waited for */
    JOBS_MORE = 2,      /* that an engine may have for the sake of its cache */
    DEVICES_BYTES = 512 /* of the list */
};

struct replica {
    struct engine_peers peers; /* first: what its engine calls */
    struct replicas *all;
    struct engine *engine;
    char *device; /* its name in the list */
    _Atomic int64_t n_given;
    /* [PROMPTS] beginnings, each at the place that its hash says; NULL when alone. */
    _Atomic uint64_t *seen;
};

struct replicas {
    int n;
    struct replica all[REPLICAS_MAX];
    char devices[DEVICES_BYTES]; /* the list, groups joined by + */
    atomic_bool started;         /* all were ready */
    /* Engine threads call others only between peers_enter and peers_leave; nobody does when closing. */
    atomic_bool closing;
    atomic_int n_inside;
};

static bool rescue(const struct engine_peers *peers, struct job *j);
static bool loaded(const struct engine_peers *peers, struct job *j, struct err *why);

/* ---- open and close ---- */

static int count_devices(const char *list)
{
    int n = 1;
    for (; *list; list++)
        n += *list == ',';
    return n;
}

static int check_list(const char *list, int together, struct err *e)
{
    const int n = count_devices(list);
    if (n > REPLICAS_MAX)
        return err_set(e, ERR_INVALID, "device: %d of them, at most %d", n, REPLICAS_MAX);
    if (strlen(list) >= DEVICES_BYTES)
        return err_set(e, ERR_INVALID, "device: the list has more than %d bytes",
                       DEVICES_BYTES - 1);
    if (n % together != 0)
        return err_set(e, ERR_INVALID, "device: %d in the list, tensor_parallel needs groups of %d",
                       n, together);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        const size_t len = strcspn(at, ",");
        if (len == 0)
            return err_set(e, ERR_INVALID, "device: the list has an empty name");
        for (const char *b = list; b < at; b += strcspn(b, ",") + 1)
            if (strcspn(b, ",") == len && memcmp(b, at, len) == 0)
                return err_set(e, ERR_INVALID, "device: %.*s is named twice", (int)len, at);
    }
    return 0;
}

/* The next names of the list as one: "cuda:0+cuda:1". */
static const char *take_group(const char *list, int together, char *name)
{
    size_t at = 0;
    for (int k = 0; k < together; k++) {
        const size_t len = strcspn(list, ",");
        if (k > 0)
            name[at++] = '+';
        memcpy(name + at, list, len);
        at += len;
        list += len + (list[len] == ',');
    }
    name[at] = '\0';
    return list;
}

int replicas_open(struct replicas **out, const struct engine_options *o, struct err *e)
{
    const char *list = o->device ? o->device : "cpu";
    const int together = o->tensor_parallel > 0 ? o->tensor_parallel : 1;
    int rc = check_list(list, together, e);
    if (rc)
        return rc;
    struct replicas *r = xcalloc(1, sizeof *r);
    const int n = count_devices(list) / together;
    struct engine_options one = *o;
    char name[DEVICES_BYTES];
    one.device = name;
    while (r->n < n && rc == 0) {
        struct replica *p = &r->all[r->n];
        p->peers = (struct engine_peers){.rescue = rescue, .loaded = loaded};
        p->all = r;
        one.peers = n > 1 ? &p->peers : NULL;
        list = take_group(list, together, name);
        rc = engine_open(&p->engine, &one, e);
        if (rc)
            break;
        const size_t at = strlen(r->devices);
        snprintf(r->devices + at, sizeof r->devices - at, "%s%s", at ? "," : "", name);
        r->n++;
        p->device = xstrdup(name);
        p->seen = n > 1 ? xcalloc(PROMPTS, sizeof *p->seen) : NULL;
    }
    if (rc) {
        replicas_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

void replicas_close(struct replicas *r)
{
    if (!r)
        return;
    atomic_store(&r->closing, true);
    while (atomic_load(&r->n_inside) > 0)
        sched_yield();
    for (int i = 0; i < r->n; i++) {
        engine_close(r->all[i].engine);
        free(r->all[i].device);
        free(r->all[i].seen);
    }
    free(r);
}

/* ---- questions ---- */

static bool lives(const struct replicas *r, int i)
{
    return engine_state(r->all[i].engine) == ENGINE_READY;
}

int replicas_n(const struct replicas *r)
{
    return r->n;
}

int replicas_n_live(const struct replicas *r)
{
    int n = 0;
    for (int i = 0; i < r->n; i++)
        n += lives(r, i);
    return n;
}

const struct engine *replicas_at(const struct replicas *r, int i)
{
    return r->all[i].engine;
}

const char *replicas_device_at(const struct replicas *r, int i)
{
    return r->all[i].device;
}

enum engine_state replicas_state(struct replicas *r)
{
    int n[ENGINE_STOPPED + 1] = {0};
    for (int i = 0; i < r->n; i++)
        n[engine_state(r->all[i].engine)]++;
    if (n[ENGINE_READY] == r->n)
        atomic_store(&r->started, true);
    if (n[ENGINE_READY] > 0 && atomic_load(&r->started))
        return ENGINE_READY;
    return n[ENGINE_FAILED] > 0    ? ENGINE_FAILED
           : n[ENGINE_LOADING] > 0 ? ENGINE_LOADING
                                   : ENGINE_STOPPED;
}

void replicas_failure(const struct replicas *r, struct err *e)
{
    for (int i = 0; i < r->n; i++) {
        if (engine_state(r->all[i].engine) == ENGINE_FAILED) {
            engine_failure(r->all[i].engine, e);
            return;
        }
    }
}

int replicas_progress(const struct replicas *r)
{
    int least = 1000;
    for (int i = 0; i < r->n; i++) {
        int one = engine_progress(r->all[i].engine);
        least = one < least ? one : least;
    }
    return least;
}

const char *replicas_device(const struct replicas *r)
{
    return r->n == 1 ? engine_device(r->all[0].engine) : atomic_load(&r->started) ? r->devices : "";
}

/* The first that answers: what it says of models is true of all. */
static const struct engine *any(const struct replicas *r)
{
    int i = 0;
    while (i < r->n - 1 && !lives(r, i))
        i++;
    return r->all[i].engine;
}

int replicas_n_models(const struct replicas *r)
{
    return engine_n_models(any(r));
}

const struct model_card *replicas_card_at(const struct replicas *r, int i)
{
    return engine_card_at(any(r), i);
}

enum engine_model_state replicas_model_state(const struct replicas *r, int i)
{
    enum engine_model_state most = ENGINE_MODEL_UNLOADED;
    for (int k = 0; k < r->n; k++) {
        enum engine_model_state one = engine_model_state(r->all[k].engine, i);
        if (lives(r, k) && one > most)
            most = one;
    }
    return most;
}

int64_t replicas_model_loads(const struct replicas *r, int i)
{
    int64_t sum = 0;
    for (int k = 0; k < r->n; k++)
        sum += engine_model_loads(r->all[k].engine, i);
    return sum;
}

/* Of one that has failed: what it did counts still, what it has does not. */
static void forget_room(struct engine_stats *s)
{
    s->jobs_waiting = s->sequences_running = s->sequences_max = s->images_running = 0;
    s->pages_total = s->pages_used = s->pages_cached = s->cache_bytes = 0;
    s->held_bytes = s->kept_bytes = 0;
    s->models_loaded = s->weight_bytes = s->weight_budget_bytes = 0;
}

void replicas_stats(const struct replicas *r, struct engine_stats *s)
{
    int64_t oldest_us = INT64_MAX, first_us = 0;
    *s = (struct engine_stats){0};
    for (int i = 0; i < r->n; i++) {
        struct engine_stats one;
        engine_stats(r->all[i].engine, &one);
        first_us = i == 0 ? one.heartbeat_us : first_us;
        if (engine_state(r->all[i].engine) == ENGINE_FAILED)
            forget_room(&one);
        else if (one.heartbeat_us < oldest_us)
            oldest_us = one.heartbeat_us;
#define X(name) s->name += one.name;
        STATS(X)
#undef X
    }
    s->heartbeat_us = oldest_us < INT64_MAX ? oldest_us : first_us;
}

/* ---- which one ---- */

/* What the prompt begins with, page by page: hash[k] is of its first k + 1 pages. */
static int prompt_pages(const struct job *j, uint64_t hash[PAGES_KNOWN])
{
    const struct text_spec *s = &j->text;
    if (j->kind != JOB_TEXT || s->no_cache || s->picture || s->n_prompts < 1)
        return 0;
    uint64_t h = s->model ? map_hash(s->model, strlen(s->model)) : 0;
    int n = s->n_prompt[0] / KV_PAGE_TOKENS;
    n = n < PAGES_KNOWN ? n : PAGES_KNOWN;
    for (int i = 0; i < n * KV_PAGE_TOKENS; i++) {
        h = (h ^ (uint32_t)s->prompts[0][i]) * 0x100000001b3u;
        h ^= h >> 29;
        hash[i / KV_PAGE_TOKENS] = h;
    }
    return n;
}

static int known_pages(const struct replica *p, const uint64_t *hash, int n)
{
    int known = 0;
    while (known < n && atomic_load_explicit(&p->seen[hash[known] % PROMPTS],
                                             memory_order_relaxed) == hash[known])
        known++;
    return known;
}

static void remember_pages(struct replica *p, const uint64_t *hash, int n)
{
    for (int i = 0; i < n; i++)
        atomic_store_explicit(&p->seen[hash[i] % PROMPTS], hash[i], memory_order_relaxed);
}

static int work_of(const struct engine *g)
{
    struct engine_stats s;
    engine_stats(g, &s);
    return s.jobs_waiting + s.sequences_running + s.images_running;
}

/* -1: none that lives and was not tried. */
static int choose(const struct replicas *r, unsigned tried, const uint64_t *hash, int n_pages)
{
    int work[REPLICAS_MAX], best = -1, most = 0, keeper = -1;
    for (int i = 0; i < r->n; i++) {
        if (!lives(r, i))
            tried |= 1u << i;
        if (tried >> i & 1)
            continue;
        work[i] = work_of(r->all[i].engine);
        if (best < 0 || work[i] < work[best] ||
            (work[i] == work[best] &&
             atomic_load(&r->all[i].n_given) < atomic_load(&r->all[best].n_given)))
            best = i;
    }
    for (int i = 0; i < r->n; i++) {
        if (tried >> i & 1)
            continue;
        int known = known_pages(&r->all[i], hash, n_pages);
        if (known >= PAGES_WORTH && 2 * known >= n_pages && known > most &&
            work[i] <= work[best] + JOBS_MORE) {
            keeper = i;
            most = known;
        }
    }
    return keeper >= 0 ? keeper : best;
}

/* To the first that lives, from `first` on; ERR_UNAVAILABLE when there is none. */
static int submit_from(struct replicas *r, int first, struct job *j, struct err *e)
{
    int rc = err_set(e, ERR_UNAVAILABLE, "all devices have failed");
    for (int i = first; i < r->n && rc == ERR_UNAVAILABLE; i++)
        if (lives(r, i))
            rc = engine_submit(r->all[i].engine, j, e);
    return rc;
}

int replicas_submit(struct replicas *r, struct job *j, struct err *e)
{
    if (r->n == 1)
        return engine_submit(r->all[0].engine, j, e);
    if (replicas_state(r) != ENGINE_READY)
        return err_set(e, ERR_UNAVAILABLE, "the devices are not ready");
    uint64_t hash[PAGES_KNOWN];
    const int n_pages = prompt_pages(j, hash);
    struct err why = {0};
    unsigned tried = 0;
    int rc = err_set(&why, ERR_UNAVAILABLE, "all devices have failed");
    if (j->kind == JOB_ADAPTER)
        return submit_from(r, 0, j, e);
    for (int i; (i = choose(r, tried, hash, n_pages)) >= 0; tried |= 1u << i) {
        struct replica *p = &r->all[i];
        rc = engine_submit(p->engine, j, &why);
        if (rc == ERR_BUSY || rc == ERR_UNAVAILABLE)
            continue;
        if (rc == 0) {
            atomic_fetch_add(&p->n_given, 1);
            remember_pages(p, hash, n_pages);
        }
        break;
    }
    if (rc && e)
        *e = why;
    return rc;
}

/* ---- what engines ask of each other ---- */

static bool peers_enter(struct replicas *r)
{
    atomic_fetch_add(&r->n_inside, 1);
    if (!atomic_load(&r->closing))
        return true;
    atomic_fetch_sub(&r->n_inside, 1);
    return false;
}

static void peers_leave(struct replicas *r)
{
    atomic_fetch_sub(&r->n_inside, 1);
}

static bool rescue(const struct engine_peers *peers, struct job *j)
{
    struct replicas *r = ((const struct replica *)peers)->all;
    if (!peers_enter(r))
        return false;
    const bool taken = replicas_submit(r, j, NULL) == 0;
    peers_leave(r);
    return taken;
}

/* The adapter is loaded by the first n engines that live, one after the other, and cannot be by the next: none has
 * it then. */
static void unload_again(struct replicas *r, int n, const struct job *j)
{
    int n_users = 0;
    for (int i = 0; i < n; i++)
        if (lives(r, i))
            (void)engine_adapter_unload(r->all[i].engine, j->adapter.model, j->adapter.name,
                                        &n_users, NULL);
}

/* An adapter goes from engine to engine, in their order; the last one answers. */
static bool loaded(const struct engine_peers *peers, struct job *j, struct err *why)
{
    const struct replica *p = (const struct replica *)peers;
    struct replicas *r = p->all;
    const int i = (int)(p - r->all);
    struct err next = {0};
    bool before = why->code == 0; /* it is there in this engine or in one before */
    if (!peers_enter(r))
        return false;
    for (int k = 0; k < i; k++)
        before = before || lives(r, k);
    int rc =
        why->code == 0 || why->code == ERR_DEVICE ? submit_from(r, i + 1, j, &next) : why->code;
    if (rc == ERR_UNAVAILABLE && before)
        *why = (struct err){0}; /* no other one lives */
    else if (rc != 0 && rc != ERR_UNAVAILABLE) {
        *why = next.code ? next : *why;
        if (before)
            err_wrap(why, "not on every device, so on none");
        unload_again(r, i + 1, j);
    }
    peers_leave(r);
    return rc == 0;
}

/* ---- adapters ---- */

static struct engine_adapter *find_adapter(struct engine_adapter *list, int n,
                                           const struct engine_adapter *like)
{
    for (int i = 0; i < n; i++) {
        bool same_model = !list[i].model || !like->model || strcmp(list[i].model, like->model) == 0;
        if (same_model && strcmp(list[i].name, like->name) == 0)
            return &list[i];
    }
    return NULL;
}

/* What one engine knows, into what is known so far. */
static void merge_adapters(struct engine_adapter *list, int *n, const struct engine_adapter *more,
                           int n_more)
{
    for (int i = 0; i < n_more; i++) {
        struct engine_adapter *have = find_adapter(list, *n, &more[i]);
        if (!have && *n < ENGINE_ADAPTER_FILES_MAX) {
            list[(*n)++] = more[i];
        } else if (have && more[i].loaded) {
            struct engine_adapter both = more[i];
            both.pinned |= have->pinned;
            both.n_users += have->n_users;
            *have = both;
        }
    }
}

int replicas_adapter_list(struct replicas *r, struct engine_adapter **list, int *n, struct err *e)
{
    struct engine_adapter *all = NULL;
    int n_all = 0, rc = 0;
    if (r->n == 1)
        return engine_adapter_list(r->all[0].engine, list, n, e);
    all = mem_try(ENGINE_ADAPTER_FILES_MAX, sizeof *all);
    if (!all)
        return err_set(e, ERR_NOMEM, "no memory for the list of adapters");
    for (int i = 0; i < r->n && rc == 0; i++) {
        struct engine_adapter *more = NULL;
        int n_more = 0;
        if (!lives(r, i))
            continue;
        rc = engine_adapter_list(r->all[i].engine, &more, &n_more, e);
        if (rc == 0)
            merge_adapters(all, &n_all, more, n_more);
        free(more);
    }
    if (rc) {
        free(all);
        return rc;
    }
    *list = all;
    *n = n_all;
    return 0;
}

int replicas_adapter_unload(struct replicas *r, const char *model, const char *name, int *n_users,
                            struct err *e)
{
    struct err why = {0};
    int users = 0, rc = ERR_NOTFOUND;
    err_set(&why, ERR_UNAVAILABLE, "all devices have failed");
    for (int i = 0; i < r->n; i++) {
        int one = 0;
        if (r->n > 1 && !lives(r, i))
            continue;
        if (engine_adapter_unload(r->all[i].engine, model, name, &one, &why) == 0)
            rc = 0;
        users += one;
    }
    if (rc == 0)
        *n_users = users;
    else if (e)
        *e = why;
    return rc ? why.code : 0;
}
