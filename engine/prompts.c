/* Entries in a list: a handful, compared by their ids and weights. */
#include "engine/prompts.h"

#include <stdlib.h>
#include <string.h>

static size_t n_ids(const struct diffusion_prompt *q)
{
    return (size_t)q->n_chunks * IMAGE_TOKENS;
}

void prompts_init(struct prompts *p, struct cache *c, const struct diffusion *d)
{
    *p = (struct prompts){.cache = c, .d = d};
}

/* Out of the list and gone. */
static void entry_free(struct prompts_entry *en)
{
    struct prompts_entry **at = &en->owner->first;
    while (*at && *at != en)
        at = &(*at)->next;
    if (*at)
        *at = en->next;
    for (int i = 0; i < IMAGE_MAX_ENCODERS; i++) {
        free(en->prompt.ids[i]);
        free(en->prompt.weights[i]);
    }
    free(en->context);
    free(en->pooled);
    image_kv_free(en->owner->d->model, en->kv);
    free(en);
}

static void on_evict(struct cache_item *it)
{
    entry_free((struct prompts_entry *)it);
}

void prompts_fini(struct prompts *p)
{
    while (p->first) {
        cache_unkeep(p->cache, &p->first->item);
        entry_free(p->first);
    }
}

size_t prompts_bytes(const struct prompts *p, const struct diffusion_prompt *q)
{
    const struct image_info *info = p->d->info;
    size_t n = n_ids(q), floats = n * (size_t)info->context_dim + (size_t)info->pooled_dim;
    return sizeof(struct prompts_entry) + n * info->kv_row_bytes +
           (floats + n * 2 * (size_t)info->n_encoders) * sizeof(float);
}

static bool same_adapters(const struct image_adapters *a, const struct image_adapters *b)
{
    if (a->n != b->n)
        return false;
    for (int i = 0; i < a->n; i++) {
        if (a->of[i].id != b->of[i].id || a->of[i].unet != b->of[i].unet ||
            a->of[i].text != b->of[i].text)
            return false;
    }
    return true;
}

bool prompts_equal(const struct prompts *p, const struct diffusion_prompt *a,
                   const struct diffusion_prompt *b)
{
    size_t bytes = n_ids(a) * sizeof(int32_t);
    if (a->n_chunks != b->n_chunks || a->zeros != b->zeros)
        return false;
    if (a->zeros)
        return true;
    if (a->clip_skip != b->clip_skip || !same_adapters(&a->adapters, &b->adapters))
        return false;
    for (int i = 0; i < p->d->info->n_encoders; i++) {
        const float *x = a->weights[i], *y = b->weights[i];
        if (memcmp(a->ids[i], b->ids[i], bytes) != 0 || !x != !y || (x && memcmp(x, y, bytes) != 0))
            return false;
    }
    return true;
}

struct prompts_entry *prompts_find(const struct prompts *p, const struct diffusion_prompt *q)
{
    for (struct prompts_entry *en = p->first; en; en = en->next) {
        if (prompts_equal(p, &en->prompt, q))
            return en;
    }
    return NULL;
}

static void *copy(const void *from, size_t bytes)
{
    void *to = from ? mem_try(bytes, 1) : NULL;
    if (to)
        memcpy(to, from, bytes);
    return to;
}

static struct prompts_entry *entry_new(struct prompts *p, const struct diffusion_prompt *q)
{
    const struct image_info *info = p->d->info;
    struct prompts_entry *en = mem_try(1, sizeof *en);
    if (!en)
        return NULL;
    en->item.bytes = prompts_bytes(p, q);
    en->item.evict = on_evict;
    en->owner = p;
    en->prompt = *q;
    en->n_tokens = (int)n_ids(q);
    size_t n = n_ids(q), bytes = n * sizeof(int32_t);
    bool ok = true;
    for (int i = 0; i < IMAGE_MAX_ENCODERS; i++) {
        bool used = i < info->n_encoders;
        en->prompt.ids[i] = used ? copy(q->ids[i], bytes) : NULL;
        en->prompt.weights[i] = used ? copy(q->weights[i], bytes) : NULL;
        ok = ok && (!used || (en->prompt.ids[i] && !q->weights[i] == !en->prompt.weights[i]));
    }
    en->context = mem_try(n * (size_t)info->context_dim, sizeof(float));
    en->pooled = info->pooled_dim > 0 ? mem_try((size_t)info->pooled_dim, sizeof(float)) : NULL;
    en->kv = image_kv_memory(p->d->model, (int)n, NULL);
    if (q->zeros)
        en->chunks_done = q->n_chunks; /* they are zero already */
    if (!ok || !en->context || !en->kv || (info->pooled_dim > 0 && !en->pooled)) {
        entry_free(en);
        return NULL;
    }
    en->next = p->first;
    p->first = en;
    return en;
}

struct prompts_entry *prompts_use(struct prompts *p, const struct diffusion_prompt *q)
{
    struct prompts_entry *en = prompts_find(p, q);
    if (!en)
        en = entry_new(p, q);
    if (!en)
        return NULL;
    cache_unkeep(p->cache, &en->item);
    en->n_users++;
    return en;
}

void prompts_leave(struct prompts_entry *en)
{
    if (--en->n_users > 0)
        return;
    struct cache *c = en->owner->cache;
    cache_unhold(c, en->item.bytes);
    if (en->ready)
        cache_keep(c, &en->item);
    else
        entry_free(en);
}

/* One encoder's states, `dim` columns of rows of `stride`: each times its weight, then all times what brings the
 * chunk's mean back. */
static void weigh(float *x, size_t stride, size_t dim, const float *weights)
{
    double before = 0, after = 0;
    for (size_t t = 0; t < IMAGE_TOKENS; t++) {
        for (size_t i = 0; i < dim; i++) {
            before += (double)x[t * stride + i];
            x[t * stride + i] *= weights[t];
            after += (double)x[t * stride + i];
        }
    }
    if (after == 0)
        return;
    float scale = (float)(before / after);
    for (size_t t = 0; t < IMAGE_TOKENS; t++) {
        for (size_t i = 0; i < dim; i++)
            x[t * stride + i] *= scale;
    }
}

void prompts_add(struct prompts_entry *en, const float *hidden, const float *pooled)
{
    const struct image_info *info = en->owner->d->info;
    size_t dim = (size_t)info->context_dim, at = (size_t)en->chunks_done * IMAGE_TOKENS;
    float *x = en->context + at * dim;
    memcpy(x, hidden, IMAGE_TOKENS * dim * sizeof *x);
    for (int i = 0, from = 0; i < info->n_encoders; from += info->text_dim[i++]) {
        if (en->prompt.weights[i])
            weigh(x + from, dim, (size_t)info->text_dim[i], en->prompt.weights[i] + at);
    }
    if (en->chunks_done == 0 && en->pooled)
        memcpy(en->pooled, pooled, (size_t)info->pooled_dim * sizeof *pooled);
    en->chunks_done++;
}
