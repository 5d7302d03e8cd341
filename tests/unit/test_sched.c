/* The scheduler without a model: who is admitted when, and which rows make a step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sched.h"

enum { T = KV_PAGE_TOKENS, PAGE = 4096, CTX = 512 };

struct bench {
    struct cache *cache;
    struct sched_model models[2];
    struct sched s;
    int n_made; /* all tasks, for the clean-up */
    struct task *made[64];
};

static void open_bench(struct bench *b, int n_pages, int max_sequences, int n_models)
{
    memset(b, 0, sizeof *b);
    assert_int_equal(cache_open(&b->cache, (size_t)n_pages * PAGE, NULL), 0);
    for (int i = 0; i < n_models; i++) {
        assert_int_equal(cache_pool_add(b->cache, &b->models[i].pool, PAGE, NULL), 0);
        b->models[i].n_ctx = CTX;
    }
    const struct sched_options o = {
        .max_sequences = max_sequences, .prefill_chunk = 32, .max_rows = 64, .share = true};
    assert_int_equal(sched_init(&b->s, b->cache, &o, b->models, n_models, NULL), 0);
}

static void close_bench(struct bench *b)
{
    while (b->s.n_running > 0)
        sched_leave(&b->s, b->s.order[0]);
    struct cache_stats st;
    cache_stats(b->cache, &st);
    assert_int_equal(st.used_bytes + st.promised_bytes, 0);
    for (int i = 0; i < b->n_made; i++) {
        job_unref(b->made[i]->job);
        free(b->made[i]);
    }
    sched_fini(&b->s);
    cache_close(b->cache);
}

/* A job of one prompt: n_prompt tokens, the first `common` the same for all jobs. */
static struct task *add(struct bench *b, int n_prompt, int common, int max_tokens, int n)
{
    struct task *t = calloc(1, sizeof *t);
    struct job *j = t->job = job_new(1 << 20);
    int32_t *ids = arena_array(&j->arena, (size_t)n_prompt, sizeof *ids);
    int32_t *len = arena_alloc(&j->arena, sizeof *len);
    const int32_t **list = arena_alloc(&j->arena, sizeof(int32_t *));
    for (int i = 0; i < n_prompt; i++)
        ids[i] = i < common ? i : 1000 * (b->n_made + 1) + i;
    *list = ids;
    *len = n_prompt;
    j->text.prompts = list;
    j->text.n_prompt = len;
    j->text.n_prompts = 1;
    j->text.n = n;
    j->text.max_tokens = max_tokens;
    t->n_choices = n;
    b->made[b->n_made++] = t;
    sched_add(&b->s, t);
    return t;
}

static int admit_all(struct bench *b)
{
    int n = 0;
    while (sched_admit(&b->s, NULL))
        n++;
    return n;
}

/* One step; sequences with logits get a token and leave when complete.  Rows of the step. */
static int step(struct bench *b)
{
    const struct sched_plan *p = sched_next(&b->s);
    if (!p)
        return 0;
    assert_true(p->batch.n_rows <= 64);
    int rows = 0;
    for (int i = 0; i < p->n_parts; i++)
        rows += p->parts[i].n_rows;
    assert_int_equal(rows, p->batch.n_rows);
    sched_done(&b->s, p, 100);
    for (int i = 0; i < p->n_parts; i++) {
        struct seq *q = p->parts[i].seq;
        assert_true(q->n_done <= q->kv.n_pages * T);
        if (q->n_done < q->n_ids)
            continue; /* logits, if any, of prompt rows */
        assert_true(p->parts[i].n_logits > 0);
        q->ids[q->n_ids++] = 7;
        if (q->n_ids == q->n_end)
            sched_leave(&b->s, q);
    }
    return rows;
}

/* Whoever is due earlier, and behind those that are due as early; jobs without a time keep their places. */
static void sched_queues_jobs_of_a_model_by_when_they_are_due(void **state)
{
    (void)state;
    static const struct {
        int model;
        int64_t due_us;
    } jobs[] = {{0, 0}, {1, 50}, {0, 0}, {1, 20}, {1, 50}, {2, 10}, {1, 30}};
    static const int order[] = {0, 3, 6, 1, 2, 4, 5};
    struct sched s = {.tail = &s.head};
    struct task t[7] = {{0}};
    for (int i = 0; i < 7; i++) {
        t[i].model = jobs[i].model;
        t[i].due_us = jobs[i].due_us;
        sched_add(&s, &t[i]);
    }
    struct task *at = s.head;
    for (int i = 0; i < 7; i++, at = at->next)
        assert_ptr_equal(at, &t[order[i]]);
    assert_null(at);
    struct task last = {0};
    sched_add(&s, &last);
    assert_ptr_equal(t[5].next, &last);
}

static void sched_length_is_bounded_by_the_context(void **state)
{
    (void)state;
    assert_int_equal(sched_length(100, 10, 20), 30);
    assert_int_equal(sched_length(100, 10, 1 << 30), 100);
    assert_int_equal(sched_length(100, 100, 0), 100);
    assert_int_equal(sched_length(100, 100, 1), 0);
    assert_int_equal(sched_length(100, 101, 0), 0);
}

static void sched_admits_jobs_in_turns(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 1000, 4, 1);
    struct task *huge = add(&b, 10, 0, 5, 50);
    struct task *small = add(&b, 10, 0, 5, 1);
    struct task *other = add(&b, 10, 0, 5, 1);
    assert_ptr_equal(sched_admit(&b.s, NULL)->task, huge);
    assert_ptr_equal(sched_admit(&b.s, NULL)->task, small);
    assert_ptr_equal(sched_admit(&b.s, NULL)->task, other);
    assert_ptr_equal(sched_admit(&b.s, NULL)->task, huge);
    assert_null(sched_admit(&b.s, NULL));
    int turns = 0;
    while (huge->next_choice < huge->n_choices && turns++ < 1000) {
        step(&b);
        admit_all(&b);
    }
    assert_int_equal(huge->next_choice, 50);
    while (step(&b))
        ;
    assert_int_equal(b.s.n_running, 0);
    close_bench(&b);
}

static void sched_lets_small_jobs_pass_one_that_does_not_fit_but_not_for_ever(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 32, 40, 1); /* 512 tokens */
    struct task *first = add(&b, 200, 0, 56, 1);
    assert_int_equal(admit_all(&b), 1); /* 16 pages */
    struct task *large = add(&b, 300, 0, 100, 1);
    assert_int_equal(admit_all(&b), 0);
    for (int i = 0; i < 4; i++)
        add(&b, 10, 0, 5, 1);
    assert_int_equal(admit_all(&b), 4);
    assert_int_equal(large->n_bypassed, 4);
    large->n_bypassed = SCHED_BYPASS_MAX;
    struct task *late = add(&b, 10, 0, 5, 1);
    for (int i = 0; i < 1000 && large->queued; i++) {
        step(&b);
        admit_all(&b);
        assert_true(late->queued || !large->queued);
    }
    assert_false(large->queued);
    assert_int_equal(first->n_running, 0);
    while (step(&b))
        ;
    close_bench(&b);
}

static void sched_decodes_at_every_step_beside_a_long_prompt(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 1000, 8, 1);
    add(&b, 10, 0, 100, 1);
    admit_all(&b);
    assert_int_equal(step(&b), 10);
    add(&b, 400, 0, 10, 1);
    admit_all(&b);
    for (int i = 0; i < 12; i++)
        assert_int_equal(step(&b), 1 + 32);
    assert_int_equal(step(&b), 1 + 16);
    assert_int_equal(step(&b), 2);
    close_bench(&b);
}

static void sched_takes_fewer_prompt_rows_where_a_row_takes_long(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 1000, 8, 1);
    b.s.o.prefill_chunk = 60;
    b.s.o.chunk_us = 40 * 1000;
    add(&b, 40, 0, 100, 1);
    admit_all(&b);
    const struct sched_plan *p = sched_next(&b.s);
    sched_done(&b.s, p, 40 * 1000.0); /* 1 ms a row */
    b.s.order[0]->ids[b.s.order[0]->n_ids++] = 7;
    add(&b, 400, 0, 10, 1);
    admit_all(&b);
    assert_int_equal(step(&b), 1 + 40);
    for (int i = 0; i < 50; i++) { /* what took the machine once does not last */
        p = sched_next(&b.s);
        assert_in_range(p->batch.n_rows, 1 + 32, 1 + 60);
        struct sched_plan only = *p;
        only.n_parts = 0;
        sched_done(&b.s, &only, i == 0 ? 1e9 : 500.0 * p->batch.n_rows);
    }
    p = sched_next(&b.s);
    assert_int_equal(p->batch.n_rows, 1 + 60);
    close_bench(&b);
}

static void sched_fills_the_batch_when_nobody_decodes(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 1000, 8, 1);
    struct task *large = add(&b, 400, 0, 10, 1);
    struct task *small = add(&b, 8, 0, 10, 1);
    admit_all(&b);
    assert_int_equal(step(&b), 64); /* 56 and 8: a short prompt need not wait */
    assert_int_equal(b.s.order[0]->n_done, 56);
    assert_int_equal(b.s.order[1]->n_done, 8);
    (void)large;
    (void)small;
    close_bench(&b);
}

static void sched_ends_prompts_that_came_together_one_after_the_other(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 1000, 8, 1);
    for (int i = 0; i < 4; i++)
        add(&b, 40, 0, 100, 1);
    admit_all(&b);
    assert_int_equal(step(&b), 64);
    assert_int_equal(b.s.order[0]->n_done, 40); /* not 32, 16, 8 and 8 */
    assert_int_equal(b.s.order[1]->n_done, 24);
    assert_int_equal(b.s.order[2]->n_done, 0);
    assert_int_equal(step(&b), 1 + 32);
    assert_int_equal(b.s.order[1]->n_done, 40);
    assert_int_equal(b.s.order[2]->n_done, 16);
    close_bench(&b);
}

static void sched_short_prompts_pass_several_long_ones(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 1000, 8, 1);
    for (int i = 0; i < 4; i++)
        add(&b, 400, 0, 100, 1);
    for (int i = 0; i < 2; i++)
        add(&b, 12, 0, 100, 1);
    admit_all(&b);
    assert_int_equal(step(&b), 64);
    assert_int_equal(b.s.order[0]->n_done, 32 + 8); /* half is the oldest's, whatever comes */
    assert_int_equal(b.s.order[4]->n_done, 12);
    assert_int_equal(b.s.order[5]->n_done, 12);
    close_bench(&b);
}

static void sched_computes_a_common_prompt_once(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 1000, 8, 1);
    add(&b, 3 * T + 5, 1000, 10, 4); /* one prompt, four choices */
    admit_all(&b);
    int rows = 0;
    for (int i = 0; i < 3; i++)
        rows += step(&b);
    struct cache_stats st;
    cache_stats(b.cache, &st);
    int cached = 0;
    for (int i = 0; i < 4; i++)
        cached += b.s.order[i]->n_cached;
    assert_int_equal(cached, 3 * 3 * T);
    assert_int_equal(b.s.order[0]->n_cached, 0);
    assert_int_equal(st.used_bytes, (3 + 4) * PAGE);
    assert_true(rows < 3 * T + 4 * 5 + 12);
    /* Later, a prompt that is wholly cached computes its last page. */
    while (step(&b))
        ;
    add(&b, 3 * T, 1000, 10, 1);
    struct seq *q = sched_admit(&b.s, NULL);
    assert_int_equal(q->n_cached, 2 * T);
    close_bench(&b);
}

static void sched_shares_nothing_when_asked_not_to(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 1000, 8, 1);
    struct task *t = add(&b, 3 * T + 5, 1000, 2, 2);
    t->job->text.no_cache = true;
    admit_all(&b);
    while (step(&b))
        ;
    struct cache_stats st;
    cache_stats(b.cache, &st);
    assert_int_equal(st.cold_bytes, 0);
    t = add(&b, 3 * T + 5, 1000, 2, 1);
    assert_int_equal(sched_admit(&b.s, NULL)->n_cached, 0);
    while (step(&b))
        ;
    t = add(&b, 3 * T + 5, 1000, 2, 1);
    t->job->text.no_cache = true;
    assert_int_equal(sched_admit(&b.s, NULL)->n_cached, 0);
    t = add(&b, 3 * T + 5, 1000, 2, 1);
    assert_int_equal(sched_admit(&b.s, NULL)->n_cached, 3 * T);
    close_bench(&b);
}

static void sched_bounds_logit_rows_of_echoes(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 1000, 4, 1);
    for (int i = 0; i < 4; i++)
        add(&b, 100, i < 2 ? 100 : 0, 3, 1)->job->text.echo_logprobs = i != 3;
    admit_all(&b);
    int logits = 0;
    const struct sched_plan *p;
    while ((p = sched_next(&b.s)) != NULL) {
        assert_true(p->batch.n_logits <= sched_max_logits(&b.s.o));
        logits += p->batch.n_logits;
        step(&b);
    }
    assert_int_equal(logits, 3 * 99 + 4 * 3);
    close_bench(&b);
}

static void sched_gives_models_equal_device_time(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, 1000, 4, 2);
    add(&b, 10, 0, 500, 1);
    add(&b, 10, 0, 500, 1)->model = 1;
    admit_all(&b);
    int steps[2] = {0, 0};
    for (int i = 0; i < 200; i++) {
        const struct sched_plan *p = sched_next(&b.s);
        int model = p->model;
        steps[model]++;
        sched_done(&b.s, p, model == 0 ? 300 : 100);
        for (int k = 0; k < p->n_parts; k++)
            p->parts[k].seq->ids[p->parts[k].seq->n_ids++] = 1;
    }
    assert_in_range(steps[0], 49, 52);
    close_bench(&b);
}

static void sched_random_work_leaves_no_page_behind(void **state)
{
    (void)state;
    srand(5);
    for (int round = 0; round < 30; round++) {
        struct bench b;
        open_bench(&b, 60, 6, 2);
        for (int i = 0; i < 60; i++) {
            struct task *t =
                add(&b, rand() % 200 + 1, rand() % 150, rand() % 60 + 1, rand() % 4 + 1);
            t->model = rand() % 2;
            t->job->text.no_cache = rand() % 5 == 0;
            t->job->text.echo_logprobs = rand() % 5 == 0;
            for (int k = rand() % 6; k > 0; k--) {
                admit_all(&b);
                step(&b);
                if (b.s.n_running > 0 && rand() % 20 == 0)
                    sched_leave(&b.s, b.s.order[rand() % b.s.n_running]);
            }
        }
        int turns = 0;
        while ((b.s.head || b.s.n_running > 0) && turns++ < 100000) {
            admit_all(&b);
            assert_true(step(&b) > 0);
        }
        assert_null(b.s.head);
        close_bench(&b);
    }
}

/* --- a model of another kind --- */

struct other {
    int answer; /* of place */
    int n_asked;
    bool work;
};

static int other_place(void *ctx, struct task *t)
{
    struct other *o = ctx;
    (void)t;
    o->n_asked++;
    return o->answer;
}

static bool other_work(void *ctx)
{
    return ((struct other *)ctx)->work;
}

static void sched_shares_the_device_by_measured_cost_and_weight(void **state)
{
    (void)state;
    for (int weight = 1; weight <= 3; weight++) {
        struct bench b;
        struct other o = {.work = true};
        const struct sched_other vtable = {&o, other_place, other_work};
        open_bench(&b, 1000, 4, 2);
        b.models[1].other = &vtable;
        b.models[1].weight = weight;
        add(&b, 4, 0, 400, 1);
        assert_int_equal(admit_all(&b), 1);
        double spent[2] = {0, 0}, waited = 0, longest = 0;
        for (int i = 0; i < 300; i++) {
            const struct sched_plan *p = sched_next(&b.s);
            assert_non_null(p);
            assert_false(p->alone);
            double cost = p->model == 1 ? 4000 : 1000;
            spent[p->model] += cost;
            waited = p->model == 1 ? waited + cost : 0;
            longest = waited > longest ? waited : longest;
            sched_done(&b.s, p, cost);
            if (p->model == 0)
                p->parts[0].seq->ids[p->parts[0].seq->n_ids++] = 7;
        }
        assert_true(spent[1] > spent[0] * weight * 0.9 && spent[1] < spent[0] * weight * 1.1);
        assert_true(longest <= 4000.0 * weight); /* never more than its share at once */
        o.work = false;                          /* text alone for a long time owes nothing later */
        for (int i = 0; i < 50; i++) {
            const struct sched_plan *p = sched_next(&b.s);
            assert_true(p->alone && p->model == 0);
            sched_done(&b.s, p, 1000000);
            p->parts[0].seq->ids[p->parts[0].seq->n_ids++] = 7;
        }
        o.work = true;
        int n_text = 0;
        for (int i = 0; i < 40; i++) {
            const struct sched_plan *p = sched_next(&b.s);
            n_text += p->model == 0;
            sched_done(&b.s, p, 10000);
            if (p->model == 0)
                p->parts[0].seq->ids[p->parts[0].seq->n_ids++] = 7;
        }
        assert_in_range(n_text, 40 / (weight + 1) - 6, 40 / (weight + 1) + 3);
        close_bench(&b);
    }
}

static void sched_image_models_share_one_portion(void **state)
{
    (void)state;
    struct bench b;
    struct other o = {.work = true};
    const struct sched_other vtable = {&o, other_place, other_work};
    memset(&b, 0, sizeof b);
    assert_int_equal(cache_open(&b.cache, (size_t)100 * PAGE, NULL), 0);
    struct sched_model models[4] = {
        {.n_ctx = CTX}, {.other = &vtable}, {.other = &vtable}, {.other = &vtable}};
    assert_int_equal(cache_pool_add(b.cache, &models[0].pool, PAGE, NULL), 0);
    const struct sched_options so = {.max_sequences = 2, .prefill_chunk = 32, .max_rows = 64};
    assert_int_equal(sched_init(&b.s, b.cache, &so, models, 4, NULL), 0);
    add(&b, 4, 0, 500, 1);
    assert_int_equal(admit_all(&b), 1);
    double spent[4] = {0};
    int last = 0;
    for (int i = 0; i < 400; i++) {
        const struct sched_plan *p = sched_next(&b.s);
        double cost = p->model == 0 ? 4000 : 40000;
        assert_true(p->model == 0 || last == 0 || last == p->model);
        last = p->model;
        spent[p->model] += cost;
        sched_done(&b.s, p, cost);
        if (p->model == 0)
            p->parts[0].seq->ids[p->parts[0].seq->n_ids++] = 7;
    }
    double images = spent[1] + spent[2] + spent[3];
    assert_true(images > spent[0] * 0.85 && images < spent[0] * 1.15);
    for (int i = 1; i < 4; i++)
        assert_true(spent[i] > images * 0.28 && spent[i] < images * 0.39);
    close_bench(&b);
}

static void sched_jobs_that_wait_for_their_kind_hold_up_nobody(void **state)
{
    (void)state;
    struct bench b;
    struct other o = {.answer = -1};
    const struct sched_other vtable = {&o, other_place, other_work};
    open_bench(&b, 1000, 4, 2);
    b.models[1].other = &vtable;
    struct task *picture = add(&b, 4, 0, 4, 1);
    picture->model = 1;
    for (int i = 0; i < 30; i++) { /* more than may pass a job that waits for memory */
        add(&b, 4, 0, 2, 3);
        while (b.s.head != picture || picture->next || b.s.n_running) {
            admit_all(&b);
            while (step(&b))
                ;
        }
    }
    assert_int_equal(picture->n_bypassed, 0);
    o.answer = 0; /* now it waits for memory: asked again only after some was given back */
    struct task *other = NULL;
    assert_null(sched_admit(&b.s, &other));
    int n_asked = o.n_asked;
    assert_null(sched_admit(&b.s, &other));
    assert_int_equal(o.n_asked, n_asked);
    assert_true(cache_hold(b.cache, 10));
    cache_unhold(b.cache, 10);
    o.answer = 1;
    assert_null(sched_admit(&b.s, &other));
    assert_ptr_equal(other, picture);
    assert_null(b.s.head);
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sched_length_is_bounded_by_the_context),
        cmocka_unit_test(sched_queues_jobs_of_a_model_by_when_they_are_due),
        cmocka_unit_test(sched_admits_jobs_in_turns),
        cmocka_unit_test(sched_lets_small_jobs_pass_one_that_does_not_fit_but_not_for_ever),
        cmocka_unit_test(sched_decodes_at_every_step_beside_a_long_prompt),
        cmocka_unit_test(sched_takes_fewer_prompt_rows_where_a_row_takes_long),
        cmocka_unit_test(sched_fills_the_batch_when_nobody_decodes),
        cmocka_unit_test(sched_ends_prompts_that_came_together_one_after_the_other),
        cmocka_unit_test(sched_short_prompts_pass_several_long_ones),
        cmocka_unit_test(sched_computes_a_common_prompt_once),
        cmocka_unit_test(sched_shares_nothing_when_asked_not_to),
        cmocka_unit_test(sched_bounds_logit_rows_of_echoes),
        cmocka_unit_test(sched_gives_models_equal_device_time),
        cmocka_unit_test(sched_random_work_leaves_no_page_behind),
        cmocka_unit_test(sched_shares_the_device_by_measured_cost_and_weight),
        cmocka_unit_test(sched_image_models_share_one_portion),
        cmocka_unit_test(sched_jobs_that_wait_for_their_kind_hold_up_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
