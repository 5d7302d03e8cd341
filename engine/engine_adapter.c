/* Adapters in the engine (engine/adapters.h).  An entry is made by whoever first wants a name, on any thread.  At
 * its next turn, before anything is admitted, the engine thread holds the file against the model as it was
 * opened dry, so what is wrong is known whether the model is loaded or not.  Its weights come with the first
 * task that is placed, and go with those of the model.  An entry that is leaving is found by nobody any
 * more, and freed by the engine thread when its last user is gone. */
#include "engine/adapters.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/emit.h"
#include "engine/engine_adapter_file.h"
#include "engine/engine_int.h"
#include "engine/models/image_adapter.h"
#include "engine/text/prompt.h"

enum { FOUND_MAX = 1024 };

enum adapter_state { ADAPTER_NEW, ADAPTER_KNOWN, ADAPTER_FAILED };

struct adapter {
    struct adapter *next;
    char name[ENGINE_ADAPTER_NAME_MAX];
    int model; /* index */
    uint64_t id;
    enum adapter_state state; /* the engine thread's to change */
    bool leaving, pinned;
    bool found; /* an embedding that lay there at the start: it stays known when its weights go */
    int n_users;
    int64_t last_use_us;
    struct image_adapter_info info;   /* KNOWN */
    struct image_adapter *a;          /* with its weights; NULL: away.  The engine thread's */
    struct diffusion_learned learned; /* of an embedding; its first_id is there when KNOWN */
    struct err err;                   /* FAILED */
};

struct adapter_wait {
    struct adapter_wait *next;
    struct job *job;
    struct adapter *adapter; /* one use of it */
};

/* What a task has: first the request's LoRAs in their order, then embeddings. */
struct adapter_uses {
    int n_loras, n;
    float scale[JOB_LORAS_MAX], text_scale[JOB_LORAS_MAX];
    struct prompt_words words;
    struct prompt_word *word; /* [2 * embeddings] */
    struct adapter *of[];
};

static void lock(struct engine *g)
{
    pthread_mutex_lock(&g->adapters.mutex);
}

static void unlock(struct engine *g)
{
    pthread_mutex_unlock(&g->adapters.mutex);
}

static void call_engine(struct engine *g)
{
    pthread_mutex_lock(&g->submit_mutex);
    g->adapters_due = true;
    pthread_cond_signal(&g->submit_cond);
    pthread_mutex_unlock(&g->submit_mutex);
}

void engine_adapter_init(struct engine *g, const char *dir)
{
    g->adapters.dir = dir && *dir ? xstrdup(dir) : NULL;
    g->adapters.next_own_id = DIFFUSION_OWN_IDS;
    pthread_mutex_init(&g->adapters.mutex, NULL);
}

void engine_adapter_fini(struct engine *g)
{
    free(g->adapters.dir);
    pthread_mutex_destroy(&g->adapters.mutex);
}

bool engine_adapter_name_ok(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n >= ENGINE_ADAPTER_NAME_MAX || name[0] == '.')
        return false;
    for (size_t i = 0; i < n; i++) {
        if (name[i] == '/' || name[i] == '\\' || (unsigned char)name[i] < 0x20)
            return false;
    }
    return true;
}

static int check_dir(const struct engine *g, struct err *e)
{
    if (g->adapters.dir)
        return 0;
    return err_set(e, ERR_INVALID, "this server has no adapters: it was started without lora_dir");
}

/* ---- entries, under the mutex ---- */

static struct adapter *find(struct engine *g, int model, const char *name)
{
    for (struct adapter *a = g->adapters.first; a; a = a->next) {
        if (!a->leaving && a->model == model && strcmp(a->name, name) == 0)
            return a;
    }
    return NULL;
}

static bool is_idle(const struct adapter *a)
{
    return a->state == ADAPTER_KNOWN && !a->leaving && !a->pinned && a->n_users == 0;
}

/* The idle one that was not used for the longest time. */
static struct adapter *oldest_idle(struct engine *g, bool found)
{
    struct adapter *oldest = NULL;
    for (struct adapter *a = g->adapters.first; a; a = a->next) {
        if (is_idle(a) && (found ? a->a != NULL : !a->found) &&
            (!oldest || a->last_use_us < oldest->last_use_us))
            oldest = a;
    }
    return oldest;
}

/* It leaves.  false: there is none. */
static bool let_one_go(struct engine *g)
{
    struct adapter *oldest = oldest_idle(g, false);
    if (oldest)
        oldest->leaving = true;
    return oldest != NULL;
}

static int make_room(struct engine *g, struct err *e)
{
    int n = 0;
    for (const struct adapter *a = g->adapters.first; a; a = a->next)
        n += !a->leaving && !a->found;
    if (n < g->o.max_loras || let_one_go(g))
        return 0;
    return err_set(e, ERR_BUSY, "%d adapters are loaded, more are not allowed", n);
}

static struct adapter *add(struct engine *g, int model, const char *name)
{
    struct adapter *a = xcalloc(1, sizeof *a);
    snprintf(a->name, sizeof a->name, "%s", name);
    a->model = model;
    a->id = ++g->adapters.next_id;
    a->next = g->adapters.first;
    g->adapters.first = a;
    return a;
}

/* One more user of the entry of that name, which is made when there is none. */
static int use(struct engine *g, int model, const char *name, struct adapter **out, struct err *e)
{
    char path[ENGINE_ADAPTER_PATH_MAX];
    if (!engine_adapter_name_ok(name))
        return err_set(e, ERR_INVALID, "\"%.80s\" is no name of an adapter", name);
    const bool there = engine_adapter_file_path(g, name, path);
    lock(g);
    struct adapter *a = find(g, model, name);
    int rc = a ? 0 : there ? make_room(g, e) : engine_adapter_file_missing(g, name, e);
    if (!a && rc == 0)
        a = add(g, model, name);
    if (rc == 0) {
        a->n_users++;
        a->last_use_us = clock_us();
        *out = a;
    }
    unlock(g);
    return rc;
}

/* One user less. */
static void drop(struct engine *g, struct adapter *a)
{
    lock(g);
    a->n_users--;
    a->last_use_us = clock_us();
    const bool due = a->leaving && a->n_users == 0;
    unlock(g);
    if (due)
        call_engine(g);
}

/* ---- what a task uses ---- */

static bool is_learned(const struct adapter *a, int model)
{
    return a->state == ADAPTER_KNOWN && !a->leaving && a->model == model &&
           a->info.kind == IMAGE_EMBEDDING;
}

/* Embeddings that are loaded: their names, and what the files call them. */
static void use_learned(struct engine *g, struct adapter_uses *u, int model, int most)
{
    int n_words = 0;
    lock(g);
    for (struct adapter *a = g->adapters.first; a && u->n < u->n_loras + most; a = a->next) {
        if (!is_learned(a, model))
            continue;
        const struct image_adapter_info *info = &a->info;
        a->n_users++;
        u->of[u->n++] = a;
        u->word[n_words++] = (struct prompt_word){a->name, a->learned.first_id, info->n_vectors};
        if (info->token[0])
            u->word[n_words++] =
                (struct prompt_word){info->token, a->learned.first_id, info->n_vectors};
    }
    unlock(g);
    u->words = (struct prompt_words){u->word, n_words};
}

static int use_loras(struct engine *g, struct adapter_uses *u, const struct task *t, struct err *e)
{
    const struct image_spec *s = &t->job->image;
    bool new = false;
    int rc = 0;
    for (int i = 0; i < s->n_loras && rc == 0; i++) {
        struct adapter *a = NULL;
        rc = use(g, t->model, s->loras[i].name, &a, e);
        if (rc != 0)
            break;
        u->of[u->n++] = a;
        u->scale[i] = s->loras[i].scale;
        u->text_scale[i] = s->loras[i].text_scale;
        new = true;
    }
    u->n_loras = u->n;
    if (new)
        call_engine(g); /* perhaps one is to be opened */
    return rc != 0 ? err_param(e, "loras") : 0;
}

int engine_adapter_use(struct engine *g, struct task *t, struct err *e)
{
    const int n = t->job->image.n_loras;
    int rc = n > 0 ? check_dir(g, e) : 0;
    if (rc != 0)
        return err_param(e, "loras");
    if (!g->adapters.dir)
        return 0;
    if (n > JOB_LORAS_MAX)
        return err_set(e, ERR_INVALID, "%d LoRAs, at most %d are allowed", n, JOB_LORAS_MAX);
    lock(g);
    int most = 0;
    for (const struct adapter *a = g->adapters.first; a; a = a->next)
        most += is_learned(a, t->model);
    unlock(g);
    if (n + most == 0)
        return 0;
    struct adapter_uses *u = mem_try(1, sizeof *u + (size_t)(n + most) * sizeof *u->of);
    if (!u)
        return err_set(e, ERR_NOMEM, "no memory for the request");
    t->adapters = u;
    u->word = mem_try(2 * (size_t)most + 1, sizeof *u->word);
    rc = u->word ? use_loras(g, u, t, e) : err_set(e, ERR_NOMEM, "no memory for the request");
    if (rc == 0)
        use_learned(g, u, t->model, most);
    t->words = &u->words;
    return rc;
}

void engine_adapter_leave(struct engine *g, struct task *t)
{
    struct adapter_uses *u = t->adapters;
    t->adapters = NULL;
    t->words = NULL;
    for (int i = 0; u && i < u->n; i++)
        drop(g, u->of[i]);
    if (u)
        free(u->word);
    free(u);
}

static bool prompt_has(const struct diffusion_prompt *p, const struct adapter *a)
{
    const int n = a->info.n_vectors;
    for (int i = 0; p->ids[0] && i < p->n_chunks * IMAGE_TOKENS; i++) {
        const int32_t id = p->ids[0][i];
        if (id >= a->learned.first_id && id - a->learned.first_id < n)
            return true;
    }
    return false;
}

void engine_adapter_trim(struct engine *g, struct task *t)
{
    struct adapter_uses *u = t->adapters;
    if (!u)
        return;
    const struct image_task *it = t->image;
    int n = u->n_loras;
    for (int i = n; i < u->n; i++) {
        struct adapter *a = u->of[i];
        if (prompt_has(&it->prompts[0], a) || (it->guided && prompt_has(&it->prompts[1], a)))
            u->of[n++] = a;
        else
            drop(g, a);
    }
    u->n = n;
}

/* ---- weights, on the engine thread ---- */

/* Its weights go; it is known still.  Not under the mutex, for it may wait for the device: only this thread takes
 * entries out of the list. */
static void put_away(struct engine *g, struct adapter *a)
{
    if (!a->a)
        return;
    struct diffusion *d = model_diffusion(g->models[a->model].model);
    for (struct diffusion_learned **at = &d->learned; *at; at = &(*at)->next) {
        if (*at == &a->learned) {
            *at = a->learned.next;
            break;
        }
    }
    const size_t bytes = image_adapter_info(a->a)->bytes;
    cache_unhold(g->cache, bytes);
    g->adapters.bytes -= bytes;
    cache_aside(g->cache, g->adapters.bytes);
    image_adapter_close(a->a);
    a->a = NULL;
    log_msg(LOG_INFO, "adapter.freed", "%s", a->name);
}

/* Frees what is leaving and has no users. */
static void sweep(struct engine *g)
{
    struct adapter *gone = NULL;
    lock(g);
    for (struct adapter **at = &g->adapters.first; *at;) {
        struct adapter *a = *at;
        if (!a->leaving || a->n_users > 0) {
            at = &a->next;
            continue;
        }
        *at = a->next;
        a->next = gone;
        gone = a;
    }
    unlock(g);
    while (gone) {
        struct adapter *next = gone->next;
        put_away(g, gone);
        free(gone);
        gone = next;
    }
}

/* Counts the adapter in the budget; idle ones make room. */
static int hold(struct engine *g, size_t bytes, struct err *e)
{
    struct cache_stats s;
    cache_stats(g->cache, &s);
    const size_t most = g->o.lora_bytes ? g->o.lora_bytes : s.budget_bytes / 2;
    for (;;) {
        if (g->adapters.bytes + bytes <= most && cache_hold(g->cache, bytes)) {
            g->adapters.bytes += bytes;
            cache_aside(g->cache, g->adapters.bytes);
            return 0;
        }
        lock(g);
        struct adapter *known = oldest_idle(g, true);
        const bool found = known && known->found, more = found || (known && let_one_go(g));
        unlock(g);
        if (found)
            put_away(g, known);
        if (!more)
            break;
        sweep(g);
    }
    err_set(e, bytes > most ? ERR_TOOBIG : ERR_BUSY,
            "the adapter needs %.1f MiB, %.1f of %.1f MiB for adapters are in use",
            (double)bytes / 1048576, (double)g->adapters.bytes / 1048576, (double)most / 1048576);
    return err_reason(e, "memory_exceeded");
}

/* A file that cannot be used is no fault of the server's. */
static int file_error(const struct engine *g, const char *name, struct err *e)
{
    if (e->code == ERR_NOMEM)
        return ERR_NOMEM;
    engine_adapter_file_hide(g, e);
    const struct err why = *e;
    return err_set(e, ERR_INVALID, "%.60s: %s", name, why.msg);
}

/* Its weights come; its model is loaded. */
static int fetch(struct engine *g, struct adapter *a, struct err *e)
{
    const int64_t start = clock_us();
    char path[ENGINE_ADAPTER_PATH_MAX];
    struct diffusion *d = model_diffusion(g->models[a->model].model);
    struct image_adapter *opened = NULL;
    if (!engine_adapter_file_path(g, a->name, path))
        return engine_adapter_file_missing(g, a->name, e);
    int rc = hold(g, a->info.bytes, e);
    if (rc != 0)
        return rc;
    rc = image_adapter_open(&opened, d->model, path, e);
    const bool other = rc == 0 && (image_adapter_info(opened)->bytes != a->info.bytes ||
                                   image_adapter_info(opened)->kind != a->info.kind);
    if (rc != 0 || other) {
        image_adapter_close(opened);
        cache_unhold(g->cache, a->info.bytes);
        g->adapters.bytes -= a->info.bytes;
        cache_aside(g->cache, g->adapters.bytes);
        return other ? err_set(e, ERR_INVALID,
                               "the file of \"%.80s\" was changed: unload the adapter", a->name)
                     : file_error(g, a->name, e);
    }
    a->a = opened;
    if (a->info.kind == IMAGE_EMBEDDING) {
        a->learned.adapter = opened;
        a->learned.next = d->learned;
        d->learned = &a->learned;
    }
    struct log_line l;
    log_begin(&l, LOG_INFO, "adapter.loaded");
    log_str(&l, "name", a->name);
    log_str(&l, "model", g->models[a->model].id);
    log_int(&l, "bytes", (int64_t)a->info.bytes);
    log_int(&l, "ms", (clock_us() - start) / 1000);
    log_end(&l);
    return 0;
}

/* The weights of all of them are there: 0. */
static int fetch_all(struct engine *g, const struct adapter_uses *u, struct err *e)
{
    int rc = 0;
    for (int i = 0; i < u->n && rc == 0; i++) {
        struct adapter *a = u->of[i];
        if (a->state == ADAPTER_FAILED) {
            *e = a->err;
            rc = e->code;
        } else if (i < u->n_loras && a->info.kind != IMAGE_LORA) {
            rc = err_set(e, ERR_INVALID,
                         "\"%.80s\" is an embedding: name it in the prompt, not among the loras",
                         a->name);
        } else {
            rc = a->a ? 0 : fetch(g, a, e);
        }
    }
    return rc;
}

/* For all stages of the task that its model runs. */
static void give(const struct adapter_uses *u, const struct task *t)
{
    struct image_adapters list = {.n = u->n_loras};
    for (int i = 0; i < u->n_loras; i++) {
        list.of[i].adapter = u->of[i]->a;
        list.of[i].id = u->of[i]->id;
        list.of[i].unet = u->scale[i];
        list.of[i].text = u->text_scale[i];
    }
    for (struct stage *s = t->stages; s; s = s->next) {
        struct image_task *it = (struct image_task *)s;
        if (s->model == t->model)
            it->adapters = it->prompts[0].adapters = it->prompts[1].adapters = list;
    }
}

void engine_adapter_ready(struct engine *g, struct task *t)
{
    const struct adapter_uses *u = t->adapters;
    if (!u || t->refused.code)
        return;
    if (fetch_all(g, u, &t->refused) != 0)
        err_param(&t->refused, "loras");
    else
        give(u, t);
}

/* ---- what is new, on the engine thread ---- */

static struct adapter *first_new(struct engine *g)
{
    lock(g);
    struct adapter *a = g->adapters.first;
    while (a && a->state != ADAPTER_NEW)
        a = a->next;
    unlock(g);
    return a;
}

/* Holds the file against the model. */
static int look(struct engine *g, struct adapter *a, struct image_adapter_info *info, struct err *e)
{
    char path[ENGINE_ADAPTER_PATH_MAX];
    const struct diffusion *d = model_diffusion(g->models[a->model].facts);
    struct image_adapter *dry = NULL;
    if (!engine_adapter_file_path(g, a->name, path))
        return engine_adapter_file_missing(g, a->name, e);
    int rc = image_adapter_open(&dry, d->model, path, e);
    if (rc == 0)
        *info = *image_adapter_info(dry);
    image_adapter_close(dry);
    return rc == 0 ? 0 : file_error(g, a->name, e);
}

static void check(struct engine *g, struct adapter *a)
{
    struct err e = {0};
    struct image_adapter_info info = {0};
    int rc = look(g, a, &info, &e);
    if (rc == 0 && g->adapters.next_own_id > INT32_MAX - info.n_vectors)
        rc = err_set(&e, ERR_NOMEM, "no ids are left for learned tokens");
    lock(g);
    a->info = info;
    a->state = ADAPTER_KNOWN;
    a->learned.first_id = g->adapters.next_own_id;
    g->adapters.next_own_id += rc == 0 ? info.n_vectors : 0;
    unlock(g);
    if (rc == 0 && g->models[a->model].model)
        rc = fetch(g, a, &e);
    if (rc == 0)
        return;
    lock(g);
    a->state = ADAPTER_FAILED;
    a->err = e;
    a->leaving = true;
    unlock(g);
    log_msg(a->found ? LOG_DEBUG : LOG_WARN, "adapter.refused", "%s", e.msg);
}

/* An embedding is tried with every model: what it does not fit forgets it. */
static void find_for_all(struct engine *g, const char *name)
{
    for (int i = 0; i < g->o.n_models; i++) {
        if (!engine_facts(g, i)->image)
            continue;
        lock(g);
        struct adapter *a = add(g, i, name);
        a->found = true;
        unlock(g);
        check(g, a);
    }
}

void engine_adapter_look_round(struct engine *g)
{
    char name[ENGINE_ADAPTER_NAME_MAX], path[ENGINE_ADAPTER_PATH_MAX];
    DIR *dir = g->adapters.dir ? opendir(g->adapters.dir) : NULL;
    int n = 0;
    for (const struct dirent *d; dir && n < FOUND_MAX && (d = readdir(dir)) != NULL;) {
        if (!engine_adapter_file_name(g, d, name) || !engine_adapter_file_path(g, name, path) ||
            !image_adapter_is_embedding(path))
            continue;
        find_for_all(g, name);
        n++;
    }
    if (dir)
        closedir(dir);
    sweep(g);
}

static struct adapter_wait *take_waits(struct engine *g)
{
    lock(g);
    struct adapter_wait *w = g->adapters.waits;
    g->adapters.waits = NULL;
    unlock(g);
    return w;
}

/* why: of all of them; NULL: what came of their adapter. */
static void answer(struct engine *g, struct adapter_wait *w, const struct err *why)
{
    const struct engine_peers *peers = g->o.peers;
    while (w) {
        struct adapter_wait *next = w->next;
        struct err here = {0};
        if (why)
            here = *why;
        else if (w->adapter->state == ADAPTER_FAILED)
            here = w->adapter->err;
        drop(g, w->adapter);
        if (!peers || !peers->loaded(peers, w->job, &here))
            emit_end_of_job(w->job, &here);
        g->dirty = true;
        job_unref(w->job);
        free(w);
        w = next;
    }
}

void engine_adapter_turn(struct engine *g)
{
    pthread_mutex_lock(&g->submit_mutex);
    const bool due = g->adapters_due;
    g->adapters_due = false;
    pthread_mutex_unlock(&g->submit_mutex);
    if (!due)
        return;
    struct adapter_wait *w = take_waits(g);
    sweep(g);
    for (struct adapter *a; (a = first_new(g)) != NULL;)
        check(g, a);
    answer(g, w, NULL);
    sweep(g);
}

void engine_adapter_fail(struct engine *g, const struct err *e)
{
    answer(g, take_waits(g), e);
}

void engine_adapter_away(struct engine *g, int model)
{
    lock(g);
    struct adapter *a = g->adapters.first;
    unlock(g);
    for (; a; a = a->next) {
        if (a->model == model)
            put_away(g, a);
    }
}

void engine_adapter_close(struct engine *g)
{
    lock(g);
    for (struct adapter *a = g->adapters.first; a; a = a->next) {
        a->leaving = true;
        a->n_users = 0;
    }
    unlock(g);
    sweep(g);
}

/* ---- the API's side ---- */

int engine_adapter_submit(struct engine *g, struct job *j, struct err *e)
{
    int rc = check_dir(g, e);
    const int model = rc == 0 ? engine_find(g, MODEL_IMAGE, j->adapter.model, e) : rc;
    if (model < 0)
        return model;
    struct adapter *a = NULL;
    rc = use(g, model, j->adapter.name, &a, e);
    if (rc != 0)
        return err_param(e, "name");
    struct adapter_wait *w = xcalloc(1, sizeof *w);
    job_ref(j);
    *w = (struct adapter_wait){.job = j, .adapter = a};
    lock(g);
    a->pinned = true;
    w->next = g->adapters.waits;
    g->adapters.waits = w;
    unlock(g);
    call_engine(g);
    return 0;
}

int engine_adapter_unload(struct engine *g, const char *model, const char *name, int *n_users,
                          struct err *e)
{
    int rc = check_dir(g, e), n_found = 0;
    if (rc != 0)
        return rc;
    *n_users = 0;
    lock(g);
    for (struct adapter *a = g->adapters.first; a; a = a->next) {
        if (a->leaving || strcmp(a->name, name) != 0 ||
            (model && *model && strcmp(g->models[a->model].id, model) != 0))
            continue;
        a->leaving = true;
        *n_users += a->n_users;
        n_found++;
    }
    unlock(g);
    call_engine(g);
    if (n_found > 0)
        return 0;
    err_set(e, ERR_NOTFOUND, "the adapter \"%.80s\" is not loaded", name);
    return err_reason(e, "adapter_not_found");
}

static void put_entry(const struct engine *g, struct engine_adapter *to, const struct adapter *a)
{
    snprintf(to->name, sizeof to->name, "%s", a->name);
    to->model = g->models[a->model].id;
    to->pinned = a->pinned;
    to->n_users = a->n_users;
    to->loaded = a->state == ADAPTER_KNOWN;
    if (!to->loaded)
        return;
    const struct image_adapter_info *info = &a->info;
    to->embedding = info->kind == IMAGE_EMBEDDING;
    memcpy(to->token, info->token, sizeof to->token);
    to->rank = info->rank;
    to->n_layers = info->n_layers;
    to->n_vectors = info->n_vectors;
    to->bytes = info->bytes;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct engine_adapter *)a)->name,
                  ((const struct engine_adapter *)b)->name);
}

int engine_adapter_list(struct engine *g, struct engine_adapter **list, int *n, struct err *e)
{
    int rc = check_dir(g, e);
    if (rc != 0)
        return rc;
    struct engine_adapter *out = mem_try(ENGINE_ADAPTER_FILES_MAX, sizeof *out);
    if (!out)
        return err_set(e, ERR_NOMEM, "no memory for the list of adapters");
    int n_loaded = 0, n_all;
    lock(g);
    for (const struct adapter *a = g->adapters.first; a && n_loaded < ENGINE_ADAPTER_FILES_MAX;
         a = a->next) {
        if (!a->leaving)
            put_entry(g, &out[n_loaded++], a);
    }
    unlock(g);
    qsort(out, (size_t)n_loaded, sizeof *out, by_name);
    n_all = n_loaded;
    DIR *dir = opendir(g->adapters.dir);
    for (const struct dirent *d;
         dir && n_all < ENGINE_ADAPTER_FILES_MAX && (d = readdir(dir)) != NULL;) {
        bool known = !engine_adapter_file_name(g, d, out[n_all].name);
        for (int i = 0; i < n_all && !known; i++)
            known = strcmp(out[i].name, out[n_all].name) == 0;
        n_all += !known;
    }
    if (dir)
        closedir(dir);
    qsort(out + n_loaded, (size_t)(n_all - n_loaded), sizeof *out, by_name);
    *list = out;
    *n = n_all;
    return 0;
}
