/* Sampling against the straightforward way: sort everything, filter, compare. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "engine/sample.h"

struct pair {
    double key, p;
    int id;
};

static int by_key(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    if (x->key != y->key)
        return x->key > y->key ? -1 : 1;
    return x->id - y->id;
}

static int keep(struct pair *c, int n, double target)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += c[i].p;
        if (sum >= target)
            return i + 1;
    }
    return n;
}

static void normalise(struct pair *c, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += c[i].p;
    for (int i = 0; i < n; i++)
        c[i].p /= sum;
}

/* The distribution that job.h describes, into probs [n_vocab]. */
static void reference(const float *logits, int n_vocab, const struct sample_params *p,
                      double *probs)
{
    struct pair *c = malloc((size_t)n_vocab * sizeof *c);
    double max = -INFINITY;
    for (int i = 0; i < n_vocab; i++)
        max = fmax(max, (double)logits[i]);
    for (int i = 0; i < n_vocab; i++)
        c[i] = (struct pair){(double)logits[i],
                             exp(((double)logits[i] - max) / (double)p->temperature), i};
    int n = n_vocab;
    qsort(c, (size_t)n, sizeof *c, by_key);
    if (p->top_k > 0 && p->top_k < n)
        n = p->top_k;
    normalise(c, n);
    if (p->typical_p < 1) {
        double entropy = 0;
        for (int i = 0; i < n; i++)
            entropy -= c[i].p > 0 ? c[i].p * log(c[i].p) : 0;
        for (int i = 0; i < n; i++)
            c[i].key = -fabs(-log(c[i].p) - entropy);
        qsort(c, (size_t)n, sizeof *c, by_key);
        n = keep(c, n, (double)p->typical_p);
        for (int i = 0; i < n; i++)
            c[i].key = (double)logits[c[i].id];
        qsort(c, (size_t)n, sizeof *c, by_key);
        normalise(c, n);
    }
    if (p->top_p < 1)
        n = keep(c, n, (double)p->top_p);
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (c[i].p >= (double)p->min_p * c[0].p)
            c[kept++] = c[i];
    }
    n = kept;
    normalise(c, n);
    memset(probs, 0, (size_t)n_vocab * sizeof *probs);
    for (int i = 0; i < n; i++)
        probs[c[i].id] = c[i].p;
    free(c);
}

static float gauss(uint64_t seed, uint64_t i)
{
    double u = rng_uniform(seed, 0, i) + 1e-12, v = rng_uniform(seed, 1, i);
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static int32_t pick(struct sample *s, const float *logits, int n_vocab,
                    const struct sample_params *p, int position, float *tmp)
{
    memcpy(tmp, logits, (size_t)n_vocab * sizeof *tmp);
    static const int32_t ids[100000];
    struct sample_params no_penalty = *p;
    const struct sample_args a = {
        .params = &no_penalty, .ids = ids, .n_ids = position, .n_prompt = 1, .stream = 0};
    struct token_info info;
    assert_int_equal(sample_next(s, tmp, &a, &info, NULL), 0);
    assert_true(info.id >= 0 && info.id < n_vocab);
    return info.id;
}

/* Draws often; every draw must be possible and the frequencies must fit (chi square). */
static void check_distribution(int n_vocab, const struct sample_params *p, uint64_t seed,
                               float spread)
{
    enum { DRAWS = 20000 };
    float *logits = malloc((size_t)n_vocab * sizeof *logits), *tmp = malloc((size_t)n_vocab * 4);
    double *probs = malloc((size_t)n_vocab * sizeof *probs);
    int *counts = calloc((size_t)n_vocab, sizeof *counts);
    for (int i = 0; i < n_vocab; i++)
        logits[i] = gauss(seed, (uint64_t)i) * spread;
    reference(logits, n_vocab, p, probs);
    struct sample *s;
    assert_int_equal(sample_open(&s, n_vocab, NULL), 0);
    for (int i = 0; i < DRAWS; i++)
        counts[pick(s, logits, n_vocab, p, i + 1, tmp)]++;
    double chi = 0, rest_p = 0;
    int cells = 0, rest = 0;
    for (int i = 0; i < n_vocab; i++) {
        if (counts[i] > 0)
            assert_true(probs[i] > 0);
        if (probs[i] * DRAWS < 5) {
            rest_p += probs[i];
            rest += counts[i];
            continue;
        }
        double d = counts[i] - probs[i] * DRAWS;
        chi += d * d / (probs[i] * DRAWS);
        cells++;
    }
    if (rest_p * DRAWS >= 5) {
        chi += (rest - rest_p * DRAWS) * (rest - rest_p * DRAWS) / (rest_p * DRAWS);
        cells++;
    }
    /* Mean cells - 1, deviation sqrt(2 cells): five deviations. */
    assert_true(chi < cells + 5 * sqrt(2.0 * cells) + 5);
    sample_close(s);
    free(logits);
    free(tmp);
    free(probs);
    free(counts);
}

static void sample_has_the_distribution_that_the_parameters_ask_for(void **state)
{
    (void)state;
    struct sample_params p = sample_params_default;
    p.seed = 5;
    check_distribution(300, &p, 1, 1.5f);
    check_distribution(64, &p, 2, 0);
    p.temperature = 0.7f;
    check_distribution(1000, &p, 3, 2);
    p.top_k = 7;
    check_distribution(1000, &p, 4, 1);
    check_distribution(50, &p, 5, 1);
    p.top_k = 0;
    p.top_p = 0.8f;
    check_distribution(1000, &p, 6, 2);
    check_distribution(130, &p, 7, 0.3f);
    p.top_k = 20;
    check_distribution(1000, &p, 8, 1);
    p.min_p = 0.2f;
    check_distribution(1000, &p, 9, 1);
    p.top_p = 1;
    p.top_k = 0;
    check_distribution(500, &p, 10, 2);
    p.min_p = 0;
    p.typical_p = 0.6f;
    check_distribution(200, &p, 11, 1.5f);
    p.top_p = 0.7f;
    p.top_k = 50;
    p.min_p = 0.05f;
    check_distribution(400, &p, 12, 1.5f);
    p.temperature = 5;
    check_distribution(129, &p, 13, 3);
}

static void sample_greedy_takes_the_lower_id_of_equals(void **state)
{
    (void)state;
    for (int n_vocab = 1; n_vocab < 300; n_vocab += 7) {
        struct sample *s;
        assert_int_equal(sample_open(&s, n_vocab, NULL), 0);
        float logits[300], tmp[300];
        struct sample_params p = sample_params_default;
        p.temperature = 0;
        for (int i = 0; i < n_vocab; i++)
            logits[i] = -5;
        assert_int_equal(pick(s, logits, n_vocab, &p, 1, tmp), 0);
        logits[n_vocab - 1] = 2;
        logits[n_vocab / 2] = 2;
        assert_int_equal(pick(s, logits, n_vocab, &p, 1, tmp), n_vocab / 2);
        /* top_k 1 with a temperature is the same, ties included. */
        p.temperature = 1;
        p.top_k = 1;
        assert_int_equal(pick(s, logits, n_vocab, &p, 1, tmp), n_vocab == 1 ? 0 : n_vocab / 2);
        sample_close(s);
    }
}

static void sample_survives_what_is_not_finite(void **state)
{
    (void)state;
    enum { N = 100 };
    struct sample *s;
    assert_int_equal(sample_open(&s, N, NULL), 0);
    struct sample_params p = sample_params_default;
    const float kinds[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0, 1};
    srand(3);
    for (int round = 0; round < 20000; round++) {
        float logits[N];
        bool any = false;
        for (int i = 0; i < N; i++) {
            logits[i] = round % 3 ? kinds[rand() % 7] : kinds[rand() % 3];
            any = any || isfinite(logits[i]);
        }
        if (round % 5 == 0)
            for (int i = 0; i < N; i++)
                logits[i] = NAN, any = false;
        p.temperature = round % 2 ? 0 : 1e-4f + (float)(rand() % 100) / 10;
        p.top_k = rand() % 3 ? 0 : rand() % N;
        p.top_p = rand() % 2 ? 1 : (float)(rand() % 100) / 100;
        p.min_p = rand() % 2 ? 0 : (float)(rand() % 100) / 100;
        p.typical_p = rand() % 2 ? 1 : (float)(rand() % 100) / 100;
        p.repetition_penalty = rand() % 2 ? 1 : 1.3f;
        p.frequency_penalty = rand() % 2 ? 0 : 0.5f;
        int32_t ids[5] = {1, 2, 3, 3, 99};
        const struct logit_bias bias = {.id = 50, .bias = 100};
        const struct sample_args a = {.params = &p,
                                      .bias = &bias,
                                      .n_bias = rand() % 2,
                                      .ids = ids,
                                      .n_ids = 5,
                                      .n_prompt = 2,
                                      .logprobs = rand() % 2,
                                      .n_top = 5};
        struct token_info info;
        struct err e = {0};
        int rc = sample_next(s, logits, &a, &info, &e);
        if (!any) {
            assert_int_equal(rc, ERR_DEVICE);
            assert_string_equal(e.msg, "the model produced no finite logits");
        } else if (rc == 0) {
            assert_true(info.id >= 0 && info.id < N);
        } else {
            assert_int_equal(rc, ERR_INVALID); /* all that was finite was -FLT_MAX */
        }
    }
    sample_close(s);
}

static void sample_logprobs_are_of_the_raw_distribution(void **state)
{
    (void)state;
    enum { N = 777 };
    float logits[N], tmp[N];
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < N; i++) {
        logits[i] = gauss(9, (uint64_t)i) * 3;
        max = fmax(max, (double)logits[i]);
    }
    for (int i = 0; i < N; i++)
        sum += exp((double)logits[i] - max);
    double lse = max + log(sum);
    struct sample *s;
    assert_int_equal(sample_open(&s, N, NULL), 0);
    struct sample_params p = sample_params_default;
    p.temperature = 0.3f;
    p.presence_penalty = 1;
    const int32_t ids[] = {4, 5, 6};
    const struct logit_bias bias = {.id = 3, .bias = -100};
    struct sample_args a = {.params = &p,
                            .bias = &bias,
                            .n_bias = 1,
                            .ids = ids,
                            .n_ids = 3,
                            .n_prompt = 1,
                            .logprobs = true,
                            .n_top = 20};
    struct token_info info;
    memcpy(tmp, logits, sizeof tmp);
    assert_int_equal(sample_next(s, tmp, &a, &info, NULL), 0);
    assert_true(fabs((double)info.logprob - ((double)logits[info.id] - lse)) < 1e-5);
    assert_int_equal(info.n_top, 20);
    for (int i = 0; i < 20; i++) {
        int better = 0;
        for (int k = 0; k < N; k++)
            better += logits[k] > logits[info.top[i].id];
        assert_int_equal(better, i);
        assert_true(fabs((double)info.top[i].logprob - ((double)logits[info.top[i].id] - lse)) <
                    1e-5);
    }
    memcpy(tmp, logits, sizeof tmp);
    assert_int_equal(sample_score(s, tmp, 42, 0, &info, NULL), 0);
    assert_int_equal(info.id, 42);
    assert_int_equal(info.n_top, 0);
    assert_true(fabs((double)info.logprob - ((double)logits[42] - lse)) < 1e-5);
    sample_close(s);
}

static int32_t greedy(struct sample *s, const float *logits, int n, const struct sample_args *a)
{
    float tmp[64];
    memcpy(tmp, logits, (size_t)n * sizeof *tmp);
    struct token_info info;
    assert_int_equal(sample_next(s, tmp, a, &info, NULL), 0);
    return info.id;
}

static void sample_penalties_and_bias_move_the_choice(void **state)
{
    (void)state;
    struct sample *s;
    assert_int_equal(sample_open(&s, 8, NULL), 0);
    const float logits[8] = {1, 2, 3, 4, 5, -1, -2, -3};
    struct sample_params p = sample_params_default;
    p.temperature = 0;
    const int32_t ids[] = {4, 3, 3, 2}; /* prompt: 4 3 */
    struct sample_args a = {.params = &p, .ids = ids, .n_ids = 4, .n_prompt = 2};
    assert_int_equal(greedy(s, logits, 8, &a), 4);
    p.presence_penalty = 10; /* generated 3 and 2 only */
    assert_int_equal(greedy(s, logits, 8, &a), 4);
    p.presence_penalty = 0;
    p.repetition_penalty = 3; /* the prompt counts: 4, 3 and 2 */
    assert_int_equal(greedy(s, logits, 8, &a), 1);
    p.repeat_last_n = 1; /* 2 only */
    assert_int_equal(greedy(s, logits, 8, &a), 4);
    p.repeat_last_n = 0;
    assert_int_equal(greedy(s, logits, 8, &a), 4);
    p.repetition_penalty = 1;
    p.repeat_last_n = -1;
    const struct logit_bias bias[] = {{4, -100}, {0, 3.5f}};
    a.bias = bias;
    a.n_bias = 2;
    assert_int_equal(greedy(s, logits, 8, &a), 0);
    p.frequency_penalty = 2; /* 3 twice, 2 once: nothing changes for 0 */
    assert_int_equal(greedy(s, logits, 8, &a), 0);
    const struct logit_bias all[8] = {{0, -100}, {1, -100}, {2, -100}, {3, -100},
                                      {4, -100}, {5, -100}, {6, -100}, {7, -200}};
    a.bias = all;
    a.n_bias = 8;
    float tmp[8];
    memcpy(tmp, logits, sizeof tmp);
    struct token_info info;
    assert_int_equal(sample_next(s, tmp, &a, &info, NULL), ERR_INVALID);
    sample_close(s);
}

static void sample_depends_on_seed_stream_and_position_alone(void **state)
{
    (void)state;
    enum { N = 500 };
    float logits[N];
    for (int i = 0; i < N; i++)
        logits[i] = gauss(2, (uint64_t)i);
    struct sample *s, *other;
    assert_int_equal(sample_open(&s, N, NULL), 0);
    assert_int_equal(sample_open(&other, N, NULL), 0);
    struct sample_params p = sample_params_default;
    p.top_p = 0.9f;
    int32_t ids[64] = {0};
    int differ = 0;
    for (int i = 1; i < 64; i++) {
        struct sample_args a = {.params = &p, .ids = ids, .n_ids = i, .n_prompt = i, .stream = 1};
        struct token_info x, y, z;
        float t1[N], t2[N], t3[N];
        memcpy(t1, logits, sizeof t1);
        memcpy(t2, logits, sizeof t2);
        memcpy(t3, logits, sizeof t3);
        sample_next(s, t1, &a, &x, NULL);
        sample_next(other, t2, &a, &y, NULL);
        assert_int_equal(x.id, y.id);
        a.stream = 2;
        sample_next(other, t3, &a, &z, NULL);
        differ += x.id != z.id;
    }
    assert_true(differ > 50);
    sample_close(s);
    sample_close(other);
}

static double time_one(struct sample *s, const float *logits, int n, const struct sample_params *p)
{
    float *tmp = malloc((size_t)n * sizeof *tmp);
    int64_t best = INT64_MAX;
    for (int i = 0; i < 30; i++) {
        memcpy(tmp, logits, (size_t)n * sizeof *tmp);
        int32_t id = 0;
        const struct sample_args a = {.params = p, .ids = &id, .n_ids = 1, .n_prompt = 1};
        struct token_info info;
        int64_t t = clock_us();
        sample_next(s, tmp, &a, &info, NULL);
        t = clock_us() - t;
        best = t < best ? t : best;
    }
    free(tmp);
    return (double)best;
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static double time_sort(const float *logits, int n)
{
    float *tmp = malloc((size_t)n * sizeof *tmp);
    memcpy(tmp, logits, (size_t)n * sizeof *tmp);
    int64_t t = clock_us();
    qsort(tmp, (size_t)n, sizeof *tmp, descending);
    t = clock_us() - t;
    free(tmp);
    return (double)t;
}

static void sample_does_not_sort_the_vocabulary(void **state)
{
    (void)state;
    enum { N = 49152 };
    float *logits = malloc(N * sizeof *logits);
    for (int i = 0; i < N; i++)
        logits[i] = gauss(4, (uint64_t)i) * 3;
    struct sample *s;
    assert_int_equal(sample_open(&s, N, NULL), 0);
    struct sample_params p = sample_params_default;
    p.temperature = 0;
    double greedy_us = time_one(s, logits, N, &p);
    p.temperature = 0.8f;
    p.top_k = 40;
    double top_k_us = time_one(s, logits, N, &p);
    p.top_k = 0;
    p.top_p = 0.95f;
    double top_p_us = time_one(s, logits, N, &p);
    p.top_p = 1;
    double plain_us = time_one(s, logits, N, &p);
    p.typical_p = 0.9f;
    double typical_us = time_one(s, logits, N, &p);
    double sort_us = time_sort(logits, N);
    print_message("%d tokens: greedy %.0f us, top_k %.0f, top_p %.0f, plain %.0f, typical %.0f; "
                  "a sort %.0f\n",
                  N, greedy_us, top_k_us, top_p_us, plain_us, typical_us, sort_us);
    assert_true(top_k_us < sort_us);
    sample_close(s);
    free(logits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sample_has_the_distribution_that_the_parameters_ask_for),
        cmocka_unit_test(sample_greedy_takes_the_lower_id_of_equals),
        cmocka_unit_test(sample_survives_what_is_not_finite),
        cmocka_unit_test(sample_logprobs_are_of_the_raw_distribution),
        cmocka_unit_test(sample_penalties_and_bias_move_the_choice),
        cmocka_unit_test(sample_depends_on_seed_stream_and_position_alone),
        cmocka_unit_test(sample_does_not_sort_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
