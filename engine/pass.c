/* Opening passes of an image model's pipeline, and keeping them (pipeline.h says why). */
#include "engine/pass.h"

#include <limits.h>

#include "engine/enlarge.h"
#include "engine/pipeline_steer.h"

static bool same_key(const struct pass_key *x, const struct pass_key *y)
{
    return x->kind == y->kind && x->a == y->a && x->b == y->b && x->c == y->c;
}

static enum image_vae_kind vae_kind(enum pass_kind kind)
{
    return kind == PASS_ENCODE ? IMAGE_ENCODE : kind == PASS_DECODE ? IMAGE_DECODE : IMAGE_PREVIEW;
}

int pass_unet_rows(int rows, unsigned parts, int branch)
{
    return rows | (int)(parts ^ IMAGE_WHOLE) << 8 | (branch + 1) << 12;
}

enum { PAIRS = 1 << 24 };

int pass_unet_pairs(int rows, int branch)
{
    return pass_unet_rows(rows, IMAGE_WHOLE, branch) | PAIRS;
}

static struct image_unet_want unet_want(const struct pass_key *k)
{
    return (struct image_unet_want){.n = k->a & 255,
                                    .h = k->b,
                                    .w = k->c,
                                    .steered = k->kind == PASS_STEERED,
                                    .parts = (unsigned)(k->a >> 8 & 15) ^ IMAGE_WHOLE,
                                    .branch = ((k->a & ~PAIRS) >> 12) - 1,
                                    .pairs = k->a & PAIRS};
}

static size_t measure(const struct pipeline *p, const struct pass_key *k, struct err *e)
{
    struct image_model *m = p->d->model;
    const struct image_unet_want want = unet_want(k);
    switch (k->kind) {
    case PASS_TEXT:
        return image_text_bytes(m, k->a, e);
    case PASS_KV:
        return image_kv_bytes(m, k->a, e);
    case PASS_UNET:
    case PASS_STEERED:
        return image_unet_bytes_want(m, &want, e);
    case PASS_SAFETY:
        return image_safety_bytes(m, e);
    case PASS_RESIZE:
        return enlarge_bytes((int[]){k->a & 0xffff, k->a >> 16},
                             (int[]){k->b & 0xffff, k->b >> 16});
    case PASS_CONTROL:
    case PASS_HINT:
        return pipeline_steer_bytes(p, k, e);
    default:
        return image_vae_bytes(m, vae_kind(k->kind), k->a, k->b, e);
    }
}

size_t pass_bytes(struct pipeline *p, struct pass_key key, struct err *e)
{
    int n = p->n_sizes < PIPELINE_SIZES_MAX ? p->n_sizes : PIPELINE_SIZES_MAX;
    for (int i = 0; i < n; i++) {
        if (same_key(&p->sizes[i].key, &key))
            return p->sizes[i].bytes;
    }
    size_t bytes = measure(p, &key, e);
    if (bytes > 0) {
        int at = p->n_sizes++ % PIPELINE_SIZES_MAX;
        p->sizes[at].key = key;
        p->sizes[at].bytes = bytes;
    }
    return bytes;
}

static int open_unit(const struct pipeline *p, const struct pass_key *k, struct image_unit **out,
                     struct err *e)
{
    struct image_model *m = p->d->model;
    union {
        struct image_text *text;
        struct image_kv *kv;
        struct image_unet *unet;
        struct image_vae *vae;
        struct image_safety *safety;
        struct enlarge_unit *enlarge;
    } u;
    const struct image_unet_want want = unet_want(k);
    int rc;
    switch (k->kind) { /* the unit is each one's first member */
    case PASS_TEXT:
        if ((rc = image_text_open(&u.text, m, k->a, e)) == 0)
            *out = &u.text->unit;
        return rc;
    case PASS_KV:
        if ((rc = image_kv_open(&u.kv, m, k->a, e)) == 0)
            *out = &u.kv->unit;
        return rc;
    case PASS_UNET:
    case PASS_STEERED:
        if ((rc = image_unet_open_want(&u.unet, m, &want, e)) == 0)
            *out = &u.unet->unit;
        return rc;
    case PASS_SAFETY:
        if ((rc = image_safety_open(&u.safety, m, e)) == 0)
            *out = &u.safety->unit;
        return rc;
    case PASS_RESIZE:
        rc = enlarge_open(&u.enlarge, (int[]){k->a & 0xffff, k->a >> 16},
                          (int[]){k->b & 0xffff, k->b >> 16}, e);
        if (rc == 0)
            *out = &u.enlarge->unit;
        return rc;
    case PASS_CONTROL:
    case PASS_HINT:
        return pipeline_steer_open(p, k, out, e);
    default:
        if ((rc = image_vae_open(&u.vae, m, vae_kind(k->kind), k->a, k->b, e)) == 0)
            *out = &u.vae->unit;
        return rc;
    }
}

void pass_close(struct pass *s)
{
    image_close(s->unit);
    s->unit = NULL;
}

static void on_evict(struct cache_item *it)
{
    pass_close((struct pass *)it);
}

void pass_put_away(struct pipeline *p)
{
    struct pass *s = p->current;
    p->current = NULL;
    if (s)
        cache_keep(p->cache, &s->item);
}

static struct pass *free_place(struct pipeline *p)
{
    for (int i = 0; i < PIPELINE_PASSES_MAX; i++) {
        if (!p->passes[i].unit)
            return &p->passes[i];
    }
    struct pass *oldest = &p->passes[0];
    for (int i = 1; i < PIPELINE_PASSES_MAX; i++) {
        if (p->passes[i].last_use < oldest->last_use)
            oldest = &p->passes[i];
    }
    cache_unkeep(p->cache, &oldest->item);
    pass_close(oldest);
    return oldest;
}

int pass_make_current(struct pipeline *p, struct pass_key key, struct err *e)
{
    p->n_uses++;
    if (p->current && same_key(&p->current->key, &key))
        return 0;
    struct pass *s = NULL;
    for (int i = 0; i < PIPELINE_PASSES_MAX && !s; i++) {
        if (p->passes[i].unit && same_key(&p->passes[i].key, &key))
            s = &p->passes[i];
    }
    if (s)
        cache_unkeep(p->cache, &s->item); /* before the one that is put away needs its room */
    pass_put_away(p);
    if (!s) {
        s = free_place(p);
        struct image_unit *unit = NULL;
        int rc = open_unit(p, &key, &unit, e);
        if (rc)
            return rc;
        *s = (struct pass){.key = key, .unit = unit};
        s->item.bytes = unit->bytes;
        s->item.evict = on_evict;
    }
    s->last_use = p->n_uses;
    p->current = s;
    return 0;
}

void pass_forget(struct pipeline *p, enum pass_kind kind, int a, int mask)
{
    for (int i = 0; i < PIPELINE_PASSES_MAX; i++) {
        struct pass *s = &p->passes[i];
        if (!s->unit || s->key.kind != kind || (s->key.a & mask) != a)
            continue;
        if (s == p->current)
            pass_put_away(p);
        if (!s->unit) /* there was no room to keep it */
            continue;
        cache_unkeep(p->cache, &s->item);
        pass_close(s);
    }
    for (int i = 0; i < p->n_sizes && i < PIPELINE_SIZES_MAX; i++) {
        struct pass_key *k = &p->sizes[i].key;
        if (k->kind == kind && (k->a & mask) == a)
            *k = (struct pass_key){PASS_TEXT, INT_MIN, 0, 0}; /* which nobody asks for */
    }
}
