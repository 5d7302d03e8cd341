/* Embedding jobs; embed.h says by which rules. */
#include "engine/embed.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "engine/finite.h"

struct sent {
    struct embed_task *task;
    int index;
};

int embed_init(struct embed *m, struct bert *bert, struct err *e)
{
    *m = (struct embed){.bert = bert};
    m->ids = mem_try((size_t)bert_max_rows(bert), sizeof *m->ids);
    m->vectors =
        mem_try((size_t)EMBED_MAX_TEXTS * (size_t)bert_info(bert)->dim, sizeof *m->vectors);
    if (m->ids && m->vectors)
        return 0;
    embed_fini(m);
    return err_set(e, ERR_NOMEM, "no memory for embeddings");
}

void embed_fini(struct embed *m)
{
    free(m->ids);
    free(m->vectors);
    *m = (struct embed){0};
}

int embed_place(struct embed *m, struct embed_task *t)
{
    if (m->n_tasks == EMBED_MAX_TASKS)
        return -1;
    struct embed_task **at = &m->tasks;
    while (*at)
        at = &(*at)->next;
    *at = t;
    t->next = NULL;
    m->n_tasks++;
    return 1;
}

void embed_leave(struct embed *m, struct embed_task *t)
{
    for (struct embed_task **at = &m->tasks; *at; at = &(*at)->next) {
        if (*at != t)
            continue;
        *at = t->next;
        m->n_tasks--;
        return;
    }
}

static bool has_more(const struct embed_task *t)
{
    return t->n_sent < t->task->job->embed.n_texts;
}

bool embed_has_work(const struct embed *m)
{
    for (const struct embed_task *t = m->tasks; t; t = t->next) {
        if (has_more(t))
            return true;
    }
    return false;
}

/* The first task goes behind the others. */
static void rotate(struct embed *m)
{
    struct embed_task *first = m->tasks, **end = &m->tasks;
    while (*end)
        end = &(*end)->next;
    *end = first;
    m->tasks = first->next;
    first->next = NULL;
}

/* Texts of all tasks in turn, until one does not fit; the rows. */
static int fill(struct embed *m, struct sent *sent, int32_t *n_ids, int *n_texts)
{
    int rows = 0, idle = 0;
    *n_texts = 0;
    while (*n_texts < EMBED_MAX_TEXTS && idle < m->n_tasks) {
        struct embed_task *t = m->tasks;
        const struct embed_spec *s = &t->task->job->embed;
        if (!has_more(t)) {
            idle++;
            rotate(m);
            continue;
        }
        const int n = s->n_ids[t->n_sent];
        if (n > bert_max_rows(m->bert) - rows)
            break;
        memcpy(m->ids + rows, s->ids[t->n_sent], (size_t)n * sizeof *m->ids);
        n_ids[*n_texts] = n;
        sent[(*n_texts)++] = (struct sent){t, t->n_sent++};
        rows += n;
        idle = 0;
        rotate(m);
    }
    return rows;
}

int embed_run(struct embed *m, struct err *e)
{
    struct sent sent[EMBED_MAX_TEXTS];
    int32_t n_ids[EMBED_MAX_TEXTS];
    int n_texts;
    const int rows = fill(m, sent, n_ids, &n_texts), dim = bert_info(m->bert)->dim;
    if (n_texts == 0)
        return 0;
    int rc = bert_run(m->bert,
                      &(struct bert_batch){
                          .n_texts = n_texts, .n_ids = n_ids, .ids = m->ids, .vectors = m->vectors},
                      e);
    if (rc)
        return rc;
    for (int i = 0; i < n_texts; i++) {
        const float *vector = m->vectors + (size_t)i * (size_t)dim;
        sent[i].task->broken |= !finite_all(vector, (size_t)dim);
        job_emit(sent[i].task->task->job, job_event_vector(sent[i].index, vector, dim));
        sent[i].task->n_done++;
    }
    m->n_texts += n_texts;
    m->n_rows += rows;
    return 0;
}

struct embed_task *embed_ended(const struct embed *m)
{
    for (struct embed_task *t = m->tasks; t; t = t->next) {
        if (t->n_done == t->task->job->embed.n_texts)
            return t;
    }
    return NULL;
}
