/* From paths to a running engine: backend, what the models are, cache, schedule; and back. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine_int.h"
#include "engine/unsent.h"

/* What a prompt may add to the time between two tokens of those who decode. */
enum { CHUNK_US = 150000 };

enum { ENOUGH_BYTES = 256 << 20 }; /* the cache may have this, however small the models are */

static size_t default_cache_bytes(struct engine *g)
{
    size_t one = 0, all = 0, weights = 0;
    for (int i = 0; i < g->o.n_models; i++) {
        const struct model *m = g->models[i].facts;
        weights += model_card(m)->weight_bytes;
        bool text = engine_has_pages(model_card(m));
        if (model_card(m)->kind == MODEL_EMBEDDING || model_card(m)->kind == MODEL_CONTROL)
            continue; /* nothing beyond its scratch, or what image jobs have */
        size_t bytes = text ? (size_t)cache_pages_for(model_card(m)->n_ctx) * model_page_bytes(m) +
                                  engine_caption_bytes(g, i)
                       : model_card(m)->kind == MODEL_UPSCALER ? engine_upscale_need(g, i)
                                                               : engine_image_need(g, i) / 4 * 5;
        one = bytes > one ? bytes : one;
        /* pictures that are made again at twice their sides need four times as much */
        all += bytes * (size_t)(text ? g->o.max_sequences : 4 * g->o.max_images);
    }
    size_t free_bytes = engine_free_bytes(g);
    if (weights > free_bytes / 8 * 5)
        weights = free_bytes / 8 * 5;
    size_t quarter = (free_bytes - weights) / 4, bytes = quarter;
    if (bytes < one) /* one full context or picture, but never nearly all of the memory */
        bytes = one < 3 * quarter ? one : 3 * quarter;
    if (all < ENOUGH_BYTES)
        all = ENOUGH_BYTES;
    return bytes < all ? bytes : all;
}

/* Does the budget hold a picture of the model's own size?  If not, smaller ones still may be made. */
static void check_picture(struct engine *g, int model, size_t budget)
{
    size_t need = engine_image_need(g, model);
    if (need > budget)
        log_msg(LOG_WARN, "cache.small", "%s: one picture needs %zu bytes, the budget is %zu",
                g->models[model].id, need, budget);
}

/* The longest context that fits, beside what is seen of a picture. */
static int fit_context(struct engine *g, int model, size_t budget, struct err *e)
{
    struct loaded *m = &g->models[model];
    const struct model_card *card = engine_facts(g, model);
    const size_t seen = engine_caption_bytes(g, model), page = model_page_bytes(m->facts);
    if (seen + page > budget)
        return err_set(e, ERR_INVALID,
                       "%s: what is seen of a picture takes %zu bytes, the cache has %zu", m->id,
                       seen, budget);
    int64_t pages = (int64_t)((budget - seen) / page), most = cache_pool_pages(m->pool);
    int64_t fits = (pages < most ? pages : most) * KV_PAGE_TOKENS;
    g->sched_models[model].pool = m->pool;
    g->sched_models[model].n_beams = card->kind == MODEL_CAPTION ? BEAM_MAX : 1;
    if (fits < card->n_ctx) {
        log_msg(LOG_WARN, "cache.small", "%s: the cache holds %lld of %d tokens of a context",
                m->id, (long long)fits, card->n_ctx);
        model_limit_context(m->facts, (int)fits);
    }
    g->sched_models[model].n_ctx = card->n_ctx;
    return 0;
}

static int make_cache(struct engine *g, struct err *e)
{
    size_t budget = g->o.cache_bytes ? g->o.cache_bytes : default_cache_bytes(g);
    int rc = cache_open(&g->cache, budget, e), n_pools = 0;
    for (int i = 0; i < g->o.n_models; i++)
        n_pools += engine_has_pages(engine_facts(g, i));
    if (rc == 0 && !g->backend->host_memory)
        cache_on_device(g->cache, g->backend, n_pools);
    g->page_bytes = 1;
    for (int i = 0; i < g->o.n_models && rc == 0; i++) {
        struct loaded *m = &g->models[i];
        if (engine_facts(g, i)->image)
            check_picture(g, i, budget);
        if (!engine_has_pages(engine_facts(g, i)))
            continue;
        rc = cache_pool_add(g->cache, &m->pool, model_page_bytes(m->facts), e);
        if (rc)
            return err_wrap(e, "cache of %s", m->id);
        if (g->page_bytes == 1) {
            g->page_bytes = model_page_bytes(m->facts);
            STAT_SET(g, pages_total, cache_pool_pages(m->pool));
        }
        rc = fit_context(g, i, budget, e);
    }
    if (rc)
        return rc;
    STAT_SET(g, cache_bytes, (int64_t)budget);
    return 0;
}

int engine_load(struct engine *g, struct err *e)
{
    int rc = backend_open(&g->backend, g->device, g->o.n_threads, e);
    if (rc)
        return rc;
    team_graphs(g->backend, g->o.graphs);
    if (!team_activations(g->backend, g->o.activations))
        log_msg(LOG_WARN, "activations.f32", "%s has activations of f32 only", g->device);
    struct err why = {0};
    if (g->o.blas_rows > 0 && team_blas(g->backend, g->o.blas_rows, &why) != 0)
        log_msg(LOG_WARN, "cuda.blas", "%s: our own kernels compute all products", why.msg);
    loader_init(&g->loader, g->backend, &g->submit_mutex, &g->submit_cond);
    rc = engine_models_describe(g, e);
    if (rc == 0)
        rc = make_cache(g, e);
    if (rc)
        return rc;
    size_t n_vocab = 1;
    for (int i = 0; i < g->o.n_models; i++) {
        size_t n = (size_t)engine_facts(g, i)->n_vocab;
        n_vocab = n > n_vocab ? n : n_vocab;
    }
    const bool host = g->backend->host_memory;
    const int chunk = host ? 128 : g->o.max_batch_rows;
    const struct sched_options o = {
        .max_sequences = g->o.max_sequences,
        .prefill_chunk = g->o.prefill_chunk > 0 ? g->o.prefill_chunk : chunk,
        .chunk_us = host && g->o.prefill_chunk <= 0 ? CHUNK_US : 0,
        .max_rows = g->o.max_batch_rows,
        .draft_tokens = g->o.draft_tokens,
        .share = g->o.prefix_sharing,
    };
    g->logits = mem_try((size_t)sched_max_logits(&o) * n_vocab, sizeof *g->logits);
    if (!g->logits)
        return err_set(e, ERR_NOMEM, "no memory for logits");
    rc = sched_init(&g->sched, g->cache, &o, g->sched_models, g->o.n_models, e);
    if (rc == 0)
        rc = engine_choose_open(g, &o, e);
    if (rc == 0)
        engine_adapter_look_round(g);
    return rc ? rc : engine_models_preload(g, e);
}

void engine_load_undo(struct engine *g)
{
    engine_choose_close(g);
    sched_fini(&g->sched);
    engine_adapter_close(g);
    engine_models_close(g);
    unsent_close(&g->unsent, g->cache);
    cache_close(g->cache);
    free(g->logits);
    if (g->backend)
        g->backend->close(g->backend);
}
