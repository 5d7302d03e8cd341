/* Sampling without sorting the vocabulary.
 *
 * A row is seen in blocks of 64.  One pass finds the maximum of every block; the k-th largest block
 * maximum cannot exceed the k-th largest logit, so that only blocks which reach it are looked at
 * again and a few candidates remain.  top_k, top_p and typical_p are then one operation, cut():
 * quickselect that partitions the candidates in order of their key until the count or the
 * probability mass is reached (expected time linear, ties by id).  Without top_k the candidates are
 * those above a bound under which all tokens together weigh less than what top_p may drop.
 *
 * Vectors are 16 bytes (baseline SSE2 or NEON) and sums have a fixed order: the same bits on every
 * machine of an architecture, whatever the kernels use. */
#include "engine/sample.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "engine/text/grammar.h"

enum { BLOCK = 64, LANES = 4 };
#define AGAIN (1ULL << 63) /* a stream beside that of each choice */

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

struct cand {
    float key; /* order: larger first, then the lower id */
    float w;   /* weight: probability but for the common factor */
    int32_t id;
};

struct sample {
    int n_vocab, n_blocks;
    float *maxima;      /* [n_blocks] largest logit of each block */
    float *order;       /* [n_blocks] scratch of kth_maximum */
    float *weights;     /* [n_blocks * BLOCK] exp((x - max) / T), 0 behind the end */
    double *sums;       /* [n_blocks] of weights */
    float *edited;      /* [n_vocab] logits after bias and penalties, when the raw ones are kept */
    int32_t *counts;    /* [n_vocab] zero between calls */
    struct cand *cands; /* [n_vocab] */
    uint32_t *allowed;  /* [(n_vocab + 31) / 32] by the grammar, a bit each */
};

int sample_open(struct sample **out, int n_vocab, struct err *e)
{
    struct sample *s = xcalloc(1, sizeof *s);
    size_t n = (size_t)n_vocab, n_blocks = (n + BLOCK - 1) / BLOCK;
    s->n_vocab = n_vocab;
    s->n_blocks = (int)n_blocks;
    s->maxima = mem_try(n_blocks, sizeof *s->maxima);
    s->order = mem_try(n_blocks, sizeof *s->order);
    s->weights = mem_try(n_blocks, BLOCK * sizeof *s->weights);
    s->sums = mem_try(n_blocks, sizeof *s->sums);
    s->edited = mem_try(n, sizeof *s->edited);
    s->counts = mem_try(n, sizeof *s->counts);
    s->cands = mem_try(n, sizeof *s->cands);
    s->allowed = mem_try((n + 31) / 32, sizeof *s->allowed);
    if (!s->maxima || !s->order || !s->weights || !s->sums || !s->edited || !s->counts ||
        !s->cands || !s->allowed) {
        sample_close(s);
        return err_set(e, ERR_NOMEM, "no memory to sample from %d tokens", n_vocab);
    }
    *out = s;
    return 0;
}

void sample_close(struct sample *s)
{
    if (!s)
        return;
    free(s->maxima);
    free(s->order);
    free(s->weights);
    free(s->sums);
    free(s->edited);
    free(s->counts);
    free(s->cands);
    free(s->allowed);
    free(s);
}

/* --- passes over the whole row --- */

static vf load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* mask ? a : b, lane by lane */
static vf pick(vi mask, vf a, vf b)
{
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}

#define EXP_LEAST (-87.0f)
/* exp(x) for x <= 0, 0 below -87: Cody-Waite reduction by log 2 and the Taylor polynomial of degree
 * 6 on [-0.35, 0.35], relative error below 3e-7. */
static vf exp_lanes(vf x)
{
    const vf low = {EXP_LEAST, EXP_LEAST, EXP_LEAST, EXP_LEAST};
    vi live = x >= low;
    x = pick(live, x, low);
    vf scaled = x * 1.44269504f - 0.5f;
    vi k = __builtin_convertvector(scaled, vi); /* truncation rounds to nearest: scaled <= 0 */
    vf kf = __builtin_convertvector(k, vf);
    vf r = x - kf * 0.693359375f + kf * 2.12194440e-4f;
    vf p = r * (1.0f / 720) + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    vf two_k = (vf)((k + 127) << 23);
    return pick(live, p * two_k, (vf){0});
}

static float exp_one(float x)
{
    vf v = {x, x, x, x};
    return exp_lanes(v)[0];
}

/* A block of the row, its tail padded with pad. */
static const float *block_at(const struct sample *s, const float *x, int b, float *tmp, float pad)
{
    int n = s->n_vocab - b * BLOCK;
    x += (size_t)b * BLOCK;
    if (n >= BLOCK)
        return x;
    for (int i = 0; i < BLOCK; i++)
        tmp[i] = i < n ? x[i] : pad;
    return tmp;
}

/* Fills maxima (NaN counts as nothing) and says whether every value is finite. */
static bool scan(struct sample *s, const float *logits)
{
    float tmp[BLOCK];
    vf bad = {0};
    for (int b = 0; b < s->n_blocks; b++) {
        const float *x = block_at(s, logits, b, tmp, -FLT_MAX);
        vf max0 = {-FLT_MAX, -FLT_MAX, -FLT_MAX, -FLT_MAX}, max1 = max0;
        for (int i = 0; i < BLOCK; i += 2 * LANES) {
            vf u = load(x + i), v = load(x + i + LANES);
            max0 = pick(u > max0, u, max0);
            max1 = pick(v > max1, v, max1);
            bad += u * 0.0f + v * 0.0f; /* 0 for finite values, else NaN */
        }
        max0 = pick(max1 > max0, max1, max0);
        float m = max0[0];
        for (int i = 1; i < LANES; i++)
            m = max0[i] > m ? max0[i] : m;
        s->maxima[b] = m;
    }
    return bad[0] == 0 && bad[1] == 0 && bad[2] == 0 && bad[3] == 0;
}

static float row_max(const struct sample *s)
{
    float m = -FLT_MAX;
    for (int b = 0; b < s->n_blocks; b++)
        m = s->maxima[b] > m ? s->maxima[b] : m;
    return m;
}

/* After a scan: weights and their sums for every token; returns the total. */
static double weigh(struct sample *s, const float *logits, float max, float inv_t)
{
    float tmp[BLOCK];
    double total = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        float *w = s->weights + (size_t)b * BLOCK;
        if ((s->maxima[b] - max) * inv_t < EXP_LEAST) { /* as where a grammar allows few tokens */
            memset(w, 0, BLOCK * sizeof *w);
            s->sums[b] = 0;
            continue;
        }
        const float *x = block_at(s, logits, b, tmp, -INFINITY);
        vf sum = {0};
        for (int i = 0; i < BLOCK; i += LANES) {
            vf v = exp_lanes((load(x + i) - max) * inv_t);
            memcpy(w + i, &v, sizeof v);
            sum += v;
        }
        s->sums[b] = (double)((sum[0] + sum[1]) + (sum[2] + sum[3]));
        total += s->sums[b];
    }
    return total;
}

/* Scans; what is not finite is replaced: NaN and -inf cannot be chosen, +inf is the best. */
static int scan_clean(struct sample *s, float *logits, struct err *e)
{
    if (!scan(s, logits)) {
        bool any = false;
        for (int i = 0; i < s->n_vocab; i++) {
            any = any || isfinite(logits[i]);
            if (!(logits[i] >= -FLT_MAX))
                logits[i] = -FLT_MAX;
            else if (logits[i] > FLT_MAX)
                logits[i] = FLT_MAX;
        }
        if (!any)
            return err_set(e, ERR_DEVICE, "the model produced no finite logits");
        scan(s, logits);
    }
    return 0;
}

/* --- candidates --- */

static bool before(const struct cand *a, const struct cand *b)
{
    return a->key > b->key || (a->key == b->key && a->id < b->id);
}

static void swap(struct cand *a, struct cand *b)
{
    struct cand t = *a;
    *a = *b;
    *b = t;
}

/* Partitions c[0, n), n >= 2: what stands before the pivot, the pivot, the rest.  Its index. */
static int partition(struct cand *c, int n)
{
    /* Median of three goes last, as the pivot. */
    struct cand *a = &c[0], *m = &c[n / 2], *z = &c[n - 1];
    if (before(m, a))
        swap(m, a);
    if (before(z, a))
        swap(z, a);
    if (before(m, z))
        swap(m, z);
    int at = 0;
    for (int i = 0; i < n - 1; i++) {
        if (before(&c[i], z))
            swap(&c[i], &c[at++]);
    }
    swap(&c[at], z);
    return at;
}

/* Moves the shortest front of the order whose weights (or count) reach target to the front of c;
 * its length, at least 1. */
static int cut(struct cand *c, int n, double target, bool by_count)
{
    int lo = 0, hi = n; /* c[0, lo) is in, c[hi, n) is out */
    double in = 0;
    while (hi - lo > 1) {
        int mid = lo + partition(c + lo, hi - lo);
        double sum = 0;
        for (int i = lo; i < mid; i++)
            sum += by_count ? 1.0 : (double)c[i].w;
        if (mid > lo && in + sum >= target) {
            hi = mid;
            continue;
        }
        in += sum + (by_count ? 1.0 : (double)c[mid].w);
        lo = mid + 1;
        if (in >= target)
            return lo;
    }
    return hi;
}

static void select_float(float *x, int n, int k)
{
    int lo = 0, hi = n - 1;
    while (lo < hi) {
        float pivot = x[lo + (hi - lo) / 2];
        int i = lo, j = hi;
        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i <= j) {
                float t = x[i];
                x[i++] = x[j];
                x[j--] = t;
            }
        }
        if (k <= j)
            hi = j;
        else if (k >= i)
            lo = i;
        else
            return;
    }
}

/* The k largest logits (k >= 1), in no order, into cands with key = logit. */
static int gather_top(struct sample *s, const float *logits, int k)
{
    float bound = -INFINITY;
    if (k <= s->n_blocks) {
        memcpy(s->order, s->maxima, (size_t)s->n_blocks * sizeof *s->order);
        select_float(s->order, s->n_blocks, k - 1);
        bound = s->order[k - 1];
    }
    int n = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        if (s->maxima[b] < bound)
            continue;
        int end = (b + 1) * BLOCK < s->n_vocab ? (b + 1) * BLOCK : s->n_vocab;
        for (int i = b * BLOCK; i < end; i++) {
            if (logits[i] >= bound)
                s->cands[n++] = (struct cand){logits[i], 0, i};
        }
    }
    return n > k ? cut(s->cands, n, k, true) : n;
}

/* Every token whose weight reaches bound (> 0). */
static int gather_weights(struct sample *s, const float *logits, float bound)
{
    int n = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        if (s->sums[b] < (double)bound)
            continue;
        int end = (b + 1) * BLOCK < s->n_vocab ? (b + 1) * BLOCK : s->n_vocab;
        for (int i = b * BLOCK; i < end; i++) {
            if (s->weights[i] >= bound)
                s->cands[n++] = (struct cand){logits[i], s->weights[i], i};
        }
    }
    return n;
}

static double mass(const struct cand *c, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)c[i].w;
    return sum;
}

/* Locally typical sampling (Meister et al. 2022): tokens whose surprise is nearest to the entropy. */
static int cut_typical(struct cand *c, int n, float max, float inv_t, float p)
{
    double total = mass(c, n), log_total = log(total), entropy = 0;
    for (int i = 0; i < n; i++)
        entropy -= (double)c[i].w / total * ((double)((c[i].key - max) * inv_t) - log_total);
    for (int i = 0; i < n; i++) {
        double log_p = (double)((c[i].key - max) * inv_t) - log_total;
        c[i].key = (float)-fabs(-log_p - entropy);
    }
    return cut(c, n, (double)p * total, false);
}

/* --- choosing --- */

static int32_t argmax(const struct sample *s, const float *logits, float max)
{
    for (int b = 0; b < s->n_blocks; b++) {
        if (s->maxima[b] < max)
            continue;
        for (int i = b * BLOCK; i < s->n_vocab; i++) {
            if (logits[i] == max)
                return i;
        }
    }
    return 0;
}

/* Without filters: by block, then within it. */
static int32_t draw_any(const struct sample *s, double total, double u)
{
    double left = u * total;
    for (int b = 0; b < s->n_blocks; b++) {
        if (left >= s->sums[b]) {
            left -= s->sums[b];
            continue;
        }
        for (int i = b * BLOCK; i < (b + 1) * BLOCK; i++) {
            left -= (double)s->weights[i];
            if (left < 0)
                return i;
        }
    }
    /* Rounding left a rest: the last token that has any weight. */
    int last = s->n_vocab - 1;
    while (last > 0 && s->weights[last] <= 0)
        last--;
    return last;
}

/* In the order of ids, as a device does: the last of the fewest first ones whose weights reach u of all. */
static int32_t draw(struct cand *c, int n, double u)
{
    for (int i = 0; i < n; i++)
        c[i].key = 0;
    n = cut(c, n, u * mass(c, n), false);
    int32_t id = c[0].id;
    for (int i = 1; i < n; i++)
        id = c[i].id > id ? c[i].id : id;
    return id;
}

/* min_p: at least this share of the best candidate's weight. */
static int cut_min_p(struct cand *c, int n, float min_p)
{
    float best = 0;
    for (int i = 0; i < n; i++)
        best = c[i].w > best ? c[i].w : best;
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (c[i].w >= min_p * best)
            c[kept++] = c[i];
    }
    return kept;
}

static int32_t choose(struct sample *s, const float *logits, const struct sample_params *p,
                      float max, double u)
{
    float inv_t = 1.0f / p->temperature;
    const bool typical = p->typical_p < 1;
    const bool top_p = p->top_p < 1;
    const bool min_p = p->min_p > 0;
    int n;
    double total; /* weight that top_p is a share of */
    if (p->top_k > 0 && p->top_k < s->n_vocab) {
        n = gather_top(s, logits, p->top_k);
        for (int i = 0; i < n; i++)
            s->cands[i].w = exp_one((s->cands[i].key - max) * inv_t);
        total = mass(s->cands, n);
    } else {
        total = weigh(s, logits, max, inv_t);
        if (!typical && !top_p && !min_p)
            return draw_any(s, total, u);
        /* Tokens below the bound weigh less than 1 - top_p together: the nucleus has none. */
        float bound = FLT_MIN;
        if (!typical && top_p)
            bound = (float)(0.5 * (1.0 - (double)p->top_p) * total / s->n_vocab);
        else if (!typical)
            bound = p->min_p < 1 ? p->min_p * 0.999f : 0.999f;
        n = gather_weights(s, logits, bound > FLT_MIN ? bound : FLT_MIN);
    }
    if (typical) {
        n = cut_typical(s->cands, n, max, inv_t, p->typical_p);
        for (int i = 0; i < n; i++)
            s->cands[i].key = logits[s->cands[i].id];
        total = mass(s->cands, n);
    }
    if (top_p)
        n = cut(s->cands, n, (double)p->top_p * total, false);
    if (min_p)
        n = cut_min_p(s->cands, n, p->min_p < 1 ? p->min_p : 1);
    return draw(s->cands, n, u);
}

/* --- bias and penalties --- */

static bool edits(const struct sample_args *a)
{
    const struct sample_params *p = a->params;
    return a->n_bias > 0 || p->repetition_penalty != 1 || p->presence_penalty != 0 ||
           p->frequency_penalty != 0;
}

static float clamp(float x)
{
    return x > FLT_MAX ? FLT_MAX : x >= -FLT_MAX ? x : -FLT_MAX;
}

static void edit(struct sample *s, float *x, const struct sample_args *a)
{
    const struct sample_params *p = a->params;
    for (int i = 0; i < a->n_bias; i++) {
        const struct logit_bias *b = &a->bias[i];
        x[b->id] = b->bias <= -100 ? -FLT_MAX : clamp(x[b->id] + b->bias);
    }
    int from = 0;
    if (p->repeat_last_n >= 0 && p->repeat_last_n < a->n_ids)
        from = a->n_ids - p->repeat_last_n;
    int32_t *counts = s->counts;
    for (int i = from; i < a->n_ids; i++) {
        int32_t id = a->ids[i];
        if (p->repetition_penalty != 1 && counts[id] == 0 && x[id] > -FLT_MAX) {
            float r = p->repetition_penalty;
            x[id] = clamp(x[id] > 0 ? x[id] / r : x[id] * r);
        }
        counts[id] = 1;
    }
    for (int i = from; i < a->n_ids; i++)
        counts[a->ids[i]] = 0;
    if (p->presence_penalty == 0 && p->frequency_penalty == 0)
        return;
    if (from < a->n_prompt)
        from = a->n_prompt;
    for (int i = from; i < a->n_ids; i++)
        counts[a->ids[i]]++;
    for (int i = from; i < a->n_ids; i++) {
        int32_t id = a->ids[i];
        if (counts[id] > 0 && x[id] > -FLT_MAX)
            x[id] = clamp(x[id] - p->presence_penalty - p->frequency_penalty * (float)counts[id]);
        counts[id] = 0;
    }
}

/* --- logprobs --- */

/* After a scan: log of the sum of all exp(logit). */
static double log_sum(struct sample *s, const float *logits)
{
    float max = row_max(s);
    return (double)max + log(weigh(s, logits, max, 1.0f));
}

static void fill_top(struct sample *s, const float *logits, double lse, int n_top,
                     struct token_info *info)
{
    info->n_top = 0;
    if (n_top > JOB_TOP_LOGPROBS)
        n_top = JOB_TOP_LOGPROBS;
    if (n_top <= 0)
        return;
    int n = gather_top(s, logits, n_top < s->n_vocab ? n_top : s->n_vocab);
    struct cand *c = s->cands;
    for (int i = 1; i < n; i++) {
        for (int j = i; j > 0 && before(&c[j], &c[j - 1]); j--)
            swap(&c[j], &c[j - 1]);
    }
    for (int i = 0; i < n; i++) {
        info->top[i].id = c[i].id;
        info->top[i].logprob = (float)((double)c[i].key - lse);
    }
    info->n_top = n;
}

int sample_score(struct sample *s, float *logits, int32_t id, int n_top, struct token_info *info,
                 struct err *e)
{
    int rc = scan_clean(s, logits, e);
    if (rc)
        return rc;
    double lse = log_sum(s, logits);
    fill_top(s, logits, lse, n_top, info);
    info->id = id;
    info->logprob = (float)((double)logits[id] - lse);
    return 0;
}

/* After a scan.  which: of the random numbers that belong to this token. */
static int pick_token(struct sample *s, const float *x, const struct sample_args *a, uint64_t which,
                      int32_t *id, struct err *e)
{
    const struct sample_params *p = a->params;
    float max = row_max(s);
    if (max <= -FLT_MAX)
        return err_set(e, ERR_INVALID, "%s leaves no token that may be chosen",
                       which ? "the form that the answer must have" : "logit_bias");
    if (p->temperature < 1e-5f)
        *id = argmax(s, x, max);
    else
        *id = choose(s, x, p, max, rng_uniform(p->seed, a->stream | which, (uint64_t)a->n_ids));
    return 0;
}

/* Most tokens fit, so a grammar is asked about the whole vocabulary only when the one that was chosen does
 * not.  Choosing once more among those that do, with a number of its own, gives each of them the probability
 * that it has among them. */
static int keep_allowed(struct sample *s, float *x, const struct sample_args *a, struct err *e)
{
    const vi lanes = {1, 2, 4, 8};
    const vf never = {-FLT_MAX, -FLT_MAX, -FLT_MAX, -FLT_MAX};
    const int rc = grammar_vocab_mark(a->vocab, a->grammar, a->may_end, s->allowed, e);
    if (rc)
        return rc;
    for (int i = 0; i < s->n_vocab; i += 32) {
        const uint32_t bits = s->allowed[i / 32];
        int k = bits == UINT32_MAX ? i + 32 : i;
        for (; k < i + 32 && k + LANES <= s->n_vocab; k += LANES) {
            const int32_t four = (int32_t)(bits >> (k - i) & 15);
            const vf v = pick(((vi){four, four, four, four} & lanes) != 0, load(x + k), never);
            memcpy(x + k, &v, sizeof v);
        }
        for (; k < i + 32 && k < s->n_vocab; k++)
            x[k] = bits >> (k - i) & 1 ? x[k] : -FLT_MAX;
    }
    scan(s, x);
    return 0;
}

int sample_next(struct sample *s, float *logits, const struct sample_args *a,
                struct token_info *info, struct err *e)
{
    int rc = scan_clean(s, logits, e);
    if (rc)
        return rc;
    double lse = 0;
    info->n_top = 0;
    info->logprob = 0;
    if (a->logprobs) {
        lse = log_sum(s, logits);
        fill_top(s, logits, lse, a->n_top, info);
    }
    float *x = logits;
    if (edits(a)) {
        if (a->logprobs)
            x = memcpy(s->edited, logits, (size_t)s->n_vocab * sizeof *x);
        edit(s, x, a);
        scan(s, x);
    }
    rc = pick_token(s, x, a, 0, &info->id, e);
    if (rc == 0 && a->grammar && !grammar_vocab_allow(a->vocab, a->grammar, info->id, a->may_end)) {
        rc = keep_allowed(s, x, a, e);
        if (rc == 0)
            rc = pick_token(s, x, a, AGAIN, &info->id, e);
    }
    if (rc)
        return rc;
    if (a->logprobs)
        info->logprob = (float)((double)logits[info->id] - lse);
    return 0;
}
