/* A list in the order in which they came; one lock, held for as long as it takes to copy a response. */
#include "api/responses_store.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/answer.h"
#include "base/arena.h"
#include "base/clock.h"

struct entry {
    char id[ANSWER_ID_MAX];
    int owner;
    int64_t put_us;
    char *text; /* body, then items */
    size_t n_body, n_input, n_items;
};

struct responses_store {
    pthread_mutex_t mutex; /* of all that follows */
    int max, n;
    size_t max_bytes, bytes;
    int64_t ttl_us;
    struct entry *list; /* [n] of max */
};

struct responses_store *responses_store_open(int max, size_t max_bytes, int64_t ttl_us)
{
    struct responses_store *s = xcalloc(1, sizeof *s);
    pthread_mutex_init(&s->mutex, NULL);
    s->max = max;
    s->max_bytes = max_bytes;
    s->ttl_us = ttl_us;
    s->list = xcalloc((size_t)max + 1, sizeof *s->list);
    return s;
}

void responses_store_close(struct responses_store *s)
{
    if (s == NULL)
        return;
    for (int i = 0; i < s->n; i++)
        free(s->list[i].text);
    free(s->list);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

bool responses_store_keeps(const struct responses_store *s)
{
    return s->max > 0;
}

static size_t entry_bytes(const struct entry *t)
{
    return t->n_body + t->n_items;
}

/* Entries [from, from + n) go. */
static void drop(struct responses_store *s, int from, int n)
{
    for (int i = from; i < from + n; i++) {
        s->bytes -= entry_bytes(&s->list[i]);
        free(s->list[i].text);
    }
    s->n -= n;
    memmove(&s->list[from], &s->list[from + n], (size_t)(s->n - from) * sizeof *s->list);
}

static void expire(struct responses_store *s)
{
    const int64_t before_us = clock_us() - s->ttl_us;
    int n = 0;
    while (n < s->n && s->list[n].put_us < before_us)
        n++;
    if (n > 0)
        drop(s, 0, n);
}

static int find(const struct responses_store *s, int owner, const char *id)
{
    for (int i = s->n - 1; i >= 0; i--)
        if (s->list[i].owner == owner && strcmp(s->list[i].id, id) == 0)
            return i;
    return -1;
}

void responses_store_put(struct responses_store *s, int owner, const char *id,
                         const struct responses_kept *k)
{
    struct entry t = {.owner = owner,
                      .put_us = clock_us(),
                      .n_body = k->body.len,
                      .n_input = k->n_input,
                      .n_items = k->items.len};
    const size_t bytes = entry_bytes(&t);
    if (s->max == 0 || bytes > s->max_bytes || (t.text = mem_try(bytes + 1, 1)) == NULL)
        return;
    snprintf(t.id, sizeof t.id, "%s", id);
    memcpy(t.text, buf_str(&k->body), t.n_body);
    memcpy(t.text + t.n_body, buf_str(&k->items), t.n_items);
    pthread_mutex_lock(&s->mutex);
    expire(s);
    int n = s->n == s->max ? 1 : 0;
    size_t left = s->bytes;
    for (int i = 0; i < s->n && (i < n || left + bytes > s->max_bytes); i++) {
        left -= entry_bytes(&s->list[i]);
        n = i + 1;
    }
    if (n > 0)
        drop(s, 0, n);
    s->list[s->n++] = t;
    s->bytes += bytes;
    pthread_mutex_unlock(&s->mutex);
}

bool responses_store_get(struct responses_store *s, int owner, const char *id,
                         enum responses_part part, struct buf *out)
{
    pthread_mutex_lock(&s->mutex);
    expire(s);
    const int i = find(s, owner, id);
    if (i >= 0) {
        const struct entry *t = &s->list[i];
        const size_t n = part == RESPONSES_BODY    ? t->n_body
                         : part == RESPONSES_ITEMS ? t->n_items
                                                   : t->n_input;
        buf_add(out, t->text + (part == RESPONSES_BODY ? 0 : t->n_body), n);
    }
    pthread_mutex_unlock(&s->mutex);
    return i >= 0;
}

bool responses_store_delete(struct responses_store *s, int owner, const char *id)
{
    pthread_mutex_lock(&s->mutex);
    expire(s);
    const int i = find(s, owner, id);
    if (i >= 0)
        drop(s, i, 1);
    pthread_mutex_unlock(&s->mutex);
    return i >= 0;
}

void responses_store_expire(struct responses_store *s)
{
    pthread_mutex_lock(&s->mutex);
    expire(s);
    pthread_mutex_unlock(&s->mutex);
}
